import postgres from 'postgres';
import { temporaryServer, majorOf } from '../../scripts/embedded.js';
import { at } from '../../scripts/harness/databases.js';
import { connectOptions } from '../../scripts/harness/sessions.js';
import { withConnection } from '../../scripts/connection.js';
import { install } from '../../scripts/install.js';

export interface Case {
    url: string;
    /** The same database, as another role, whose password is its name. */
    as: (role: string, database?: string) => string;
    sql: postgres.Sql;
}

/** One shared server of 100 connections; four schemas of a service, owned by postgres, and a second database with two more. */
export async function withTracksolid(body: (world: Case) => Promise<void>): Promise<void> {
    const server = await temporaryServer(majorOf(process.env.PG), { max_connections: '100' });
    try {
        await withConnection(server.url, async (sql) => {
            for (const database of ['tracksolid', 'gateway']) await sql.unsafe(`create database ${database}`);
        });
        for (const database of ['tracksolid', 'gateway']) {
            await install(at(server.url, database));
            await withConnection(at(server.url, database), (sql) => sql.unsafe(database === 'gateway' ? gateway : tracksolid).simple());
        }
        const sql = postgres(at(server.url, 'tracksolid'), connectOptions);
        try {
            await body({
                url: server.url, sql,
                as: (name, database = 'tracksolid') => at(server.url, database, { name, password: name }),
            });
        } finally {
            await sql.end({ timeout: 0 });
        }
    } finally {
        await server.stop('immediate');
    }
}

const gateway = `
    create schema gateway; create schema cron;
    create table gateway.keys (id bigint generated always as identity primary key, token text);
    create table cron.runs (id serial primary key, at timestamptz default now())`;

const tracksolid = `
    create role reporting_refresher login;
    create schema tracksolid; create schema reporting; create schema tickets; create schema fuel;
    create type tracksolid.state as enum ('moving', 'parked');
    create domain fuel.litres as numeric check (value >= 0);
    create table tracksolid.vehicles (id bigint generated always as identity primary key, plate text not null unique, state tracksolid.state);
    create table tracksolid.positions (vehicle bigint references tracksolid.vehicles, at timestamptz not null, lat float8, lon float8,
        primary key (vehicle, at)) partition by range (at);
    create table tracksolid.positions_2026_11 partition of tracksolid.positions for values from ('2026-11-01') to ('2026-12-01');
    create table tracksolid.positions_2026_12 partition of tracksolid.positions for values from ('2026-12-01') to ('2027-01-01');
    create sequence tracksolid.trip_number;
    create function tracksolid.next_trip() returns bigint language sql as $$ select nextval('tracksolid.trip_number') $$;
    create procedure tracksolid.park(v bigint) language sql as $$ update tracksolid.vehicles set state = 'parked' where id = v $$;
    create table tickets.tickets (id serial primary key, vehicle bigint references tracksolid.vehicles, body text);
    create table fuel.fills (id bigserial primary key, vehicle bigint references tracksolid.vehicles, litres fuel.litres);
    create view tickets.open as select * from tickets.tickets where body is not null;
    create materialized view fuel.per_vehicle as select vehicle, sum(litres) as litres from fuel.fills group by vehicle;
    create view reporting.v_trips as select vehicle, min(at) as start from tracksolid.positions group by vehicle;
    create view reporting.v_state as select state, count(*) from tracksolid.vehicles group by state;
    create materialized view reporting.daily as select vehicle, date_trunc('day', at) as day, count(*) from tracksolid.positions group by 1, 2;
    alter view reporting.v_trips owner to reporting_refresher;
    grant usage on schema reporting, tracksolid to reporting_refresher;
    grant select on tracksolid.positions to reporting_refresher;
    insert into tracksolid.vehicles (plate, state) values ('B 1', 'moving'), ('B 2', 'parked');
    insert into tracksolid.positions select v, '2026-11-05'::timestamptz + make_interval(mins => i), 52, 13
        from generate_series(1, 2) as v, generate_series(1, 100) as i;
    insert into tickets.tickets (vehicle, body) values (1, 'brakes');
    insert into fuel.fills (vehicle, litres) values (1, 40)`;

const schemas = ['tracksolid', 'reporting', 'tickets', 'fuel'];

/** The document that a DBA reviews, for the first database. */
export const document = {
    roles: [
        {
            role_name: 'tracksolid_owner', login: true, connection_limit: 30,
            settings: { idle_in_transaction_session_timeout: '5min', idle_session_timeout: '10min', lock_timeout: '10s' },
        },
        { role_name: 'dashboard_app', login: true, connection_limit: 8, settings: { statement_timeout: '30s' } },
        { role_name: 'reporting_refresher', connection_limit: 2 },
    ],
    owners: [{ new_owner: 'tracksolid_owner', schemas, excluded: ['reporting.v_trips'] }],
    grants: [
        { grantee: 'tracksolid_owner', access: ['create_schema'], schemas: [] }, // also for CREATE SCHEMA IF NOT EXISTS
        { grantee: 'dashboard_app', access: ['read'], schemas, creators: ['tracksolid_owner', 'reporting_refresher'], mode: 'exact' },
    ],
};

/** For the second. */
export const gatewayDocument = {
    roles: [
        { role_name: 'gateway_app', login: true, connection_limit: 15, settings: { statement_timeout: '30s' } },
        { role_name: 'cron_app', login: true, connection_limit: 5, settings: { statement_timeout: '15min' } },
        { role_name: 'dashboard_app', login: true, connection_limit: 8, settings: { statement_timeout: '30s' } },
    ],
    owners: [{ new_owner: 'gateway_app', schemas: ['gateway'] }, { new_owner: 'cron_app', schemas: ['cron'] }],
    grants: [{ grantee: 'dashboard_app', access: ['read'], schemas: ['gateway', 'cron'], creators: ['gateway_app', 'cron_app'] }],
};

/** What every catalog that may change holds, with the transactions that wrote it. */
export const catalogs = `
    select 'authid' as what, a.rolname::text as name, a.xmin::text, a.ctid::text from pg_authid as a
    union all select 'members', m.oid_or_row, m.x, m.c from (
        select format('%s %s', roleid, member) as oid_or_row, xmin::text as x, ctid::text as c from pg_auth_members) as m
    union all select 'settings', format('%s %s', s.setdatabase, s.setrole), s.xmin::text, s.ctid::text from pg_db_role_setting as s
    union all select 'class', c.oid::regclass::text, c.xmin::text, c.ctid::text from pg_class as c where c.relnamespace >= 16384
    union all select 'namespace', n.nspname::text, n.xmin::text, n.ctid::text from pg_namespace as n
    union all select 'proc', p.oid::regprocedure::text, p.xmin::text, p.ctid::text from pg_proc as p where p.pronamespace >= 16384
    union all select 'type', t.oid::regtype::text, t.xmin::text, t.ctid::text from pg_type as t where t.typnamespace >= 16384
    union all select 'defaults', d.oid::text, d.xmin::text, d.ctid::text from pg_default_acl as d
    union all select 'depend', format('%s %s %s %s', d.dbid, d.classid, d.objid, d.refobjid), d.xmin::text, d.ctid::text from pg_shdepend as d
    order by 1, 2, 4`;
