import type { Session } from '../../scripts/harness/sessions.js';
import { withRoles, type Roles } from '../ensure_role/roles.js';

/** Roles of a test: the owner of schema app, another owner, an application, and somebody else. */
export type Who = Record<'owner' | 'other' | 'app' | 'else', string>;

/** Schema app of `owner`, with an object of each kind, and an empty schema more. */
const objects = (owner: string): string => `
    create schema app authorization ${owner}; create schema more authorization ${owner};
    set role ${owner};
    create table app.t (a int primary key, b serial, c int generated always as identity);
    create table app.p (a int) partition by list (a); create table app.p1 partition of app.p for values in (1);
    create view app.v as select a from app.t; create materialized view app.m as select a from app.t;
    create sequence app.s;
    create function app.f(a int, variadic b text[]) returns int language sql as 'select 1';
    create procedure app.pr(a int, out b text) language sql as 'select ''x''';
    create aggregate app.agg(int) (sfunc = int4pl, stype = int);
    create aggregate app.all_of(*) (sfunc = int8inc, stype = int8, initcond = '0');
    create function app.win() returns bigint language internal window as 'window_row_number';
    create type app.e as enum ('a'); create domain app.d as int; create type app.c as (a int); create type app.r as range (subtype = int4);
    reset role;
    create foreign data wrapper w; create server w foreign data wrapper w; create foreign table app.x (a int) server w;
    alter foreign table app.x owner to ${owner};`;

export async function withGiven<Name extends string>(
    names: readonly Name[],
    body: (sessions: Record<Name | 'dba', Session>, who: Who, roles: Roles) => Promise<void>,
    { empty = false } = {},
): Promise<void> {
    await withRoles(['dba', ...names], async (sessions, roles) => {
        const who: Who = { owner: roles.role('owner'), other: roles.role('other'), app: roles.role('app'), else: roles.role('else') };
        const { dba } = sessions;
        for (const name of Object.values(who)) await dba.run(`create role ${name}`);
        await dba.run(`grant usage on schema ensure to ${Object.values(who).join(', ')}`);
        // internal functions are a superuser's to make
        if (empty) await dba.run(`create schema app authorization ${who.owner}; create schema more authorization ${who.owner}`);
        else await dba.run(objects(who.owner).replace(/ *create function app.win.*\n/, '')
            + `create function app.win() returns bigint language internal window as 'window_row_number'; alter function app.win() owner to ${who.owner};`);
        await body(sessions, who, roles);
    });
}

/** The call, as a person writes it. */
export const ensure = (grantee: string, access: string, more = '', schemas = 'app'): string =>
    `select * from ensure.ensure_grants_v1('${grantee.replaceAll("'", "''")}', '{${access}}', '{${schemas}}'${more && `, ${more}`})`;

/** What a call did, a line each, without the names of the roles' database. */
export const done = async (session: Session, statement: string, roles: Roles): Promise<string[]> =>
    (await session.run(statement)).map(({ object, outcome }) => `${String(object)} ${String(outcome)}`.replaceAll(roles.role(''), ''));
