import { describe, expect, test } from 'vitest';
import postgres from 'postgres';
import { withConnection } from '../../scripts/connection.js';
import { at } from '../../scripts/harness/databases.js';
import { connectOptions, settle, withSessions } from '../../scripts/harness/sessions.js';
import { withRoles } from '../ensure_role/roles.js';
import { lines, rehearsal } from '../rehearse/context.js';
import { catalogs, document, gatewayDocument, withTracksolid, type Case } from './tracksolid.js';

const literal = (value: unknown): string => `'${JSON.stringify(value).replaceAll('\'', '\'\'')}'`;
const ensure = (spec: unknown): string => `select * from ensure.ensure_roles_v1(${literal(spec)}, max_wait => '60 s')`;
const passwords = ['tracksolid_owner', 'dashboard_app', 'reporting_refresher', 'gateway_app', 'cron_app'];

async function applied(world: Case): Promise<void> {
    await world.sql.unsafe(ensure(document));
    await withConnection(at(world.url, 'gateway'), (sql) => sql.unsafe(ensure(gatewayDocument)));
    for (const role of passwords) await world.sql.unsafe(`alter role ${role} password '${role}'`);
}

describe('a service of four schemas leaves the superuser', () => {
    test('rehearsed first: what would change and be locked is told, and nothing has changed', () =>
        withTracksolid(async ({ url, sql }) => {
            const before = await sql.unsafe(catalogs);
            const { code, document: told } = await rehearsal(at(url, 'tracksolid'), ensure(document));
            expect({ code, failure: told.failure }).toEqual({ code: 0, failure: null });
            const changes = lines(told);
            for (const line of ['created role dashboard_app', 'altered table tracksolid.positions_2026_11', 'altered schema fuel', 'altered materialized view reporting.daily']) {
                expect(changes).toContain(line);
            }
            expect(changes.filter((line) => line.includes('v_trips'))).toEqual(['altered view reporting.v_trips']); // a grant, no owner
            expect(told.locks.find(({ object, mode }) => object === 'tracksolid.vehicles' && mode === 'AccessExclusiveLock')).toBeDefined();
            expect(await sql.unsafe(catalogs)).toEqual(before);
        }));

    test('everything belongs to its owner but the view that stays; the second call writes nothing, in both databases', () =>
        withTracksolid(async (world) => {
            const { sql, url } = world;
            expect((await sql.unsafe(`select finding from ensure.check_roles_v1(${literal(document)})`)).length).toBeGreaterThan(20);
            await applied(world);
            const owners = await sql`select pg_get_userbyid(c.relowner) as owner, count(*)::int as n from pg_class as c
                where c.relnamespace::regnamespace::text in ('tracksolid', 'reporting', 'tickets', 'fuel') and c.relkind not in ('i', 'I') group by 1 order by 1`;
            expect(owners.map(({ owner, n }) => [owner, n] as unknown[])).toEqual([['reporting_refresher', 1], ['tracksolid_owner', 14]]);
            expect(await sql`select n.nspname from pg_namespace as n where n.nspowner <> 'tracksolid_owner'::regrole
                and n.nspname in ('tracksolid', 'reporting', 'tickets', 'fuel')`).toHaveLength(0);
            for (const database of ['tracksolid', 'gateway']) {
                await withConnection(at(url, database), async (own) => {
                    const spec = database === 'gateway' ? gatewayDocument : document;
                    const before = await own.unsafe(catalogs);
                    const again = await own.unsafe(ensure(spec));
                    expect(new Set(again.map(({ outcome }) => outcome as string))).toEqual(new Set(['exists']));
                    expect(await own.unsafe(catalogs)).toEqual(before);
                    expect(await own.unsafe(`select * from ensure.check_roles_v1(${literal(spec)})`)).toHaveLength(0);
                    expect(await own.unsafe(`select * from ensure.plan_roles_v1(${literal(spec)})`)).toHaveLength(0);
                    await own.unsafe('alter role dashboard_app connection limit 9'); // negative control: the comparison sees a write
                    expect(await own.unsafe(catalogs)).not.toEqual(before);
                    await own.unsafe(ensure(spec));
                });
            }
        }));

    test('the owner runs a migration that alters everything, with its settings; what stays is refused to it', () =>
        withTracksolid(async (world) => {
            await applied(world);
            await withSessions(world.as('tracksolid_owner'), ['owner'], async ({ owner }) => {
                expect(await owner.run(`select current_setting('idle_in_transaction_session_timeout') as a, current_setting('idle_session_timeout') as b,
                    current_setting('lock_timeout') as c, current_setting('statement_timeout') as d`)).toEqual([{ a: '5min', b: '10min', c: '10s', d: '0' }]);
                for (const statement of migration) await owner.run(statement);
                expect((await owner.attempt('alter view reporting.v_trips rename to trips')).code).toBe('42501');
            });
            await withSessions(world.as('reporting_refresher'), ['refresher'], async ({ refresher }) => {
                await refresher.run('select * from reporting.v_trips');
                await refresher.run("comment on view reporting.v_trips is 'stays'");
            });
        }));

    test('the dashboard reads what is there and what is created later, and can write nothing', () =>
        withTracksolid(async (world) => {
            await applied(world);
            await withSessions(world.as('tracksolid_owner'), ['owner'], ({ owner }) => owner.run(`create table tracksolid.later (id serial, x int);
                create view reporting.later as select * from tracksolid.later; create materialized view fuel.later as select 1 as x`));
            await withSessions(world.as('dashboard_app'), ['app'], async ({ app }) => {
                expect(await app.run('show statement_timeout')).toEqual([{ statement_timeout: '30s' }]);
                const readable = await app.run(`select c.oid::regclass::text as name from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                    where n.nspname in ('tracksolid', 'reporting', 'tickets', 'fuel') and c.relkind in ('r', 'p', 'v', 'm')`);
                expect(readable).toHaveLength(14);
                for (const { name } of readable) await app.run(`select * from ${String(name)}`);
                for (const { name } of readable) {
                    for (const statement of [`insert into ${String(name)} default values`, `delete from ${String(name)}`, `truncate ${String(name)}`, `drop table ${String(name)}`]) {
                        expect((await app.attempt(statement)).code, statement).toMatch(/42501|42809|55000/);
                    }
                }
                for (const statement of [
                    "select nextval('tracksolid.trip_number')", 'create table tracksolid.mine (x int)', 'refresh materialized view fuel.per_vehicle',
                    "select setval('tracksolid.trip_number', 1)", 'alter schema fuel rename to oil', 'select * from ensure.check_install_v1()',
                ]) expect((await app.attempt(statement)).code, statement).toBe('42501');
            });
        }));

    test('sixteen callers in two databases at once, thrice: no error; each change is made once', () =>
        withTracksolid(async ({ url, sql }) => {
            const clients = Array.from({ length: 16 }, (_, i) => postgres(at(url, i % 2 ? 'gateway' : 'tracksolid'), connectOptions));
            try {
                await Promise.all(clients.map((client) => client`select 1`));
                for (let round = 0; round < 3; round++) {
                    const outcomes = await Promise.all(clients.map((client, i) => settle(client.unsafe(ensure(i % 2 ? gatewayDocument : document)))));
                    expect(outcomes.map(({ code, error }) => `${code} ${error?.message ?? ''}`)).toEqual(clients.map(() => 'ok '));
                    const changed = outcomes.filter(({ rows }) => rows.some(({ outcome }) => outcome !== 'exists'));
                    if (round > 0) expect(changed).toEqual([]);
                    else {
                        const changes = changed.flatMap(({ rows }) => rows).map(({ object, outcome }) => `${String(object)} ${String(outcome)}`);
                        expect(changes.filter((line) => line === 'role dashboard_app created')).toHaveLength(1);
                        expect(changes.length).toBe(new Set(changes).size);
                    }
                }
                expect(await sql.unsafe(`select * from ensure.check_roles_v1(${literal(document)})`)).toHaveLength(0);
            } finally {
                await Promise.all(clients.map((client) => client.end({ timeout: 0 })));
            }
        }));

    test('the budget: what the roles may open fits under 100; one more service does not', () =>
        withTracksolid(async (world) => {
            await applied(world);
            const { sql } = world;
            const budget = async (declared: unknown): Promise<Record<string, unknown>[]> => (
                [...await sql.unsafe(`select * from ensure.check_connection_budget_v1(${literal(declared)})`)] as Record<string, unknown>[]
            );
            const rows = await budget({ dashboard_app: { pool: 4, replicas: 2 }, gateway_app: { pool: 5, replicas: 3 }, cron_app: 5, tracksolid_owner: { pool: 30 } });
            expect(rows.map(({ role_name: name, finding, connection_limit: limit, declared_sessions: declared }) => [name, finding, Number(limit), Number(declared)])).toEqual([
                ['cron_app', 'ok', 5, 5], ['dashboard_app', 'ok', 8, 8], ['gateway_app', 'ok', 15, 15], ['reporting_refresher', 'ok', 2, 0],
                ['tracksolid_owner', 'ok', 30, 30], [null, 'ok', 60, 58],
            ]);
            expect(rows.at(-1)?.detail).toContain('97 of 100 connections');
            await sql.unsafe("select ensure.ensure_role_v1('hungry', login => true, connection_limit => 38)");
            expect((await budget(null)).at(-1)).toMatchObject({ role_name: null, finding: 'over-committed', connection_limit: '98' });
            await sql.unsafe("select ensure.ensure_role_v1('hungry', connection_limit => -1)");
            const unlimited = await budget({ dashboard_app: { pool: 10, replicas: 2 }, nobody: 3 });
            const finding = (name: string): unknown => unlimited.find((row) => row.role_name === name)?.finding;
            expect([finding('hungry'), finding('dashboard_app'), finding('nobody')]).toEqual(['unlimited', 'declared over limit', 'no such role']);
            expect(unlimited.at(-1)?.detail).toContain('those without limit are not in the sum');
            expect((await budget({ postgres: { pool: 40 } })).find(({ role_name: name }) => name === 'postgres')).toMatchObject({ finding: 'superuser sessions', declared_sessions: '40' });
            expect(unlimited.at(-1)?.finding).toBe('unlimited');
            await sql.unsafe("select ensure.ensure_role_v1('hungry', connection_limit => 0)");
            expect((await budget({ postgres: { pool: 40 } })).at(-1)).toMatchObject({ finding: 'over-committed', connection_limit: '100' });
            await withSessions(at(world.url, 'gateway'), ['app'], async () => {
                const [row] = (await budget(null)).filter(({ finding: found }) => found === 'superuser sessions');
                expect(row).toMatchObject({ role_name: 'postgres' });
                expect(row?.detail).toContain("'pg-ensure test app'");
            });
            await sql.unsafe('grant usage on schema ensure to reporting_refresher');
            await withSessions(world.as('reporting_refresher'), ['low'], async ({ low }) => { // to whom types of backends are hidden
                expect(await low.run("select sessions from ensure.check_connection_budget_v1() where finding = 'superuser sessions'")).toEqual([{ sessions: '1' }]);
            });
            await withSessions(world.as('reporting_refresher'), ['one', 'two'], async () => {
                expect((await budget(null)).find(({ role_name: name }) => name === 'reporting_refresher')).toMatchObject({ finding: 'full', sessions: '2' });
                await expect(withConnection(world.as('reporting_refresher'), (more) => more`select 1`)).rejects.toThrow(/too many connections for role/);
            });
        }));

    test('a hypertable and a continuous aggregate, where the server offers TimescaleDB', (context) =>
        withRoles(['dba'], async ({ dba }, { role }) => { // on the server of the run, which PG_CONTAINER or DATABASE_URL may have given
            const offered = await dba.run("select from pg_available_extensions where name = 'timescaledb'");
            if (!offered.length) context.skip('this server offers no timescaledb');
            await dba.run('create extension timescaledb');
            await dba.run(`create schema tracksolid; create table tracksolid.pings (at timestamptz not null, vehicle int);
                select create_hypertable('tracksolid.pings', 'at'); insert into tracksolid.pings values ('2026-11-01', 1), ('2026-12-01', 2)`);
            await dba.run(`create materialized view tracksolid.hourly with (timescaledb.continuous) as
                select time_bucket('1 hour', at) as hour, count(*) from tracksolid.pings group by 1 with no data`);
            const spec = { roles: [{ role_name: role('owner'), login: true }], owners: [{ new_owner: role('owner'), schemas: ['tracksolid'] }] };
            await dba.run(ensure(spec));
            const strangers = `select c.oid::regclass as name from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                where (n.nspname = 'tracksolid' or n.nspname = '_timescaledb_internal' and c.relname ~ 'hyper|view|materialized')
                  and c.relkind in ('r', 'v') and c.relowner <> '"${role('owner')}"'::regrole`;
            expect(await dba.run(strangers)).toEqual([]);
            expect((await dba.run(ensure(spec))).every(({ outcome }) => outcome === 'exists')).toBe(true);
        }));
});

const migration = [
    'alter table tracksolid.vehicles add column vin text', 'alter table tracksolid.positions add column speed real',
    'alter table tracksolid.positions_2026_11 alter column lat set statistics 200', 'create index on tracksolid.positions (at)',
    'create table tracksolid.positions_2027_01 partition of tracksolid.positions for values from (\'2027-01-01\') to (\'2027-02-01\')',
    "alter type tracksolid.state add value 'lost'", 'alter domain fuel.litres drop constraint litres_check',
    'alter sequence tracksolid.trip_number increment 2', 'alter sequence tickets.tickets_id_seq increment 2',
    'create or replace function tracksolid.next_trip() returns bigint language sql as $$ select 1::bigint $$',
    'alter procedure tracksolid.park(bigint) rename to stop', 'alter view tickets.open rename to still_open',
    'alter materialized view fuel.per_vehicle rename to by_vehicle', 'refresh materialized view reporting.daily',
    'drop view reporting.v_state', 'alter table fuel.fills rename column litres to amount', 'create schema if not exists tracksolid',
    'alter schema tickets rename to cases', "select * from tracksolid.vehicles", 'alter table tracksolid.vehicles enable row level security',
];
