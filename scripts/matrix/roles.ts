import { clients, each, patient, type Entry, type Target } from './entry.js';
import { crossed } from './partitions.js';

/** Roles are of the whole server: each function has its own. */
const roles = (prefix: string, more = ''): string[] => Array.from({ length: clients }, (_, n) => (
    `do $$ begin create role ${prefix}_${n}; ${more.replaceAll('{role}', `${prefix}_${n}`)} exception when duplicate_object then null; end $$`
));
const settle = (guard: string | RegExp, replacement: string, what: string): Entry['control'] => ({ guards: [['_settle_changes_v1', guard, replacement]], what });
const rewritten = settle(/when internal_error then.*\n\s+get/, 'when internal_error then raise; get', 'the other try, when a row of a catalog was written by another (XX000)');
const taken = settle('when duplicate_object or unique_violation then', 'when division_by_zero then', 'the other try, when another has made the role (23505, 42710)');

const role = (name: string): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_role_v1('${name}', login => true, connection_limit => 5, ${patient})`]],
    naive: [[`do $$ begin if not exists (select from pg_roles where rolname = '${name}') then create role ${name} login connection limit 5; end if; end $$`]],
});
const made = (pattern: string, count: number): string => `(select count(*) = ${count} and bool_and(rolcanlogin) from pg_roles where rolname ~ '${pattern}')`;

const schemas = each((n) => `create schema m${n}; create table m${n}.t (id int); create table m${n}.u (id int); create sequence m${n}.s; create view m${n}.v as select 1 as one`);
const dropped = each((n) => `drop schema m${n} cascade`);

const owner = (...names: string[]): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_owner_v1('matrix_owner_0', '{${names.join(',')}}', ${patient})`]],
    naive: [names.map((name) => `do $$ declare r regclass; begin alter schema ${name} owner to matrix_owner_0;
        for r in select oid from pg_class where relnamespace = '${name}'::regnamespace and relkind in ('r', 'S', 'v') order by relname loop
            execute format('alter table %s owner to matrix_owner_0', r); end loop; end $$`)],
});
const owned = (...names: string[]): string => `select (select bool_and(nspowner = 'matrix_owner_0'::regrole) from pg_namespace where nspname in (${names.map((name) => `'${name}'`).join(', ')}))
    and (select bool_and(relowner = 'matrix_owner_0'::regrole) from pg_class where relkind in ('r', 'S', 'v') and relnamespace in (${names.map((name) => `'${name}'::regnamespace`).join(', ')}))`;
const own = Array.from({ length: clients }, (_, n) => `m${n}`);

const access = (grantee: string, ...names: string[]): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_grants_v1('${grantee}', '{read}', '{${names.join(',')}}', ${patient})`]],
    naive: [names.flatMap((name) => [`grant usage on schema ${name} to ${grantee}`, `grant select on all tables in schema ${name} to ${grantee}`])],
});
const granted = (pattern: string, count: number, ...names: string[]): string => `(select count(*) = ${count} and bool_and(${names.map((name) => (
    `has_schema_privilege(rolname, '${name}', 'usage') and has_table_privilege(rolname, '${name}.t', 'select') and has_table_privilege(rolname, '${name}.u', 'select')`)).join(' and ')})
    from pg_roles where rolname ~ '${pattern}')`;

const document = (names: string[], schemaNames: string[]): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_roles_v1('${JSON.stringify({
        roles: names.map((name) => ({ role_name: name, login: true })), grants: names.map((grantee) => ({ grantee, access: ['read'], schemas: schemaNames })),
    })}', ${patient})`]],
    naive: [names.flatMap((name) => [
        `do $$ begin if not exists (select from pg_roles where rolname = '${name}') then create role ${name} login; end if; end $$`, ...access(name, ...schemaNames).naive[0] ?? [],
    ])],
});
const own6 = (prefix: string): string => each((n) => `drop role if exists ${prefix}_${n}`);

export const roleEntries: Entry[] = [
    {
        name: 'ensure_role_v1', naive: '`if not exists (select from pg_roles …) then create role`', told: ['NS003'], control: taken,
        prepare: [], setup: [], teardown: [own6('matrix_role')],
        same: { ...role('matrix_role_0'), right: `select ${made('^matrix_role_', 1)}` },
        different: { ...role('matrix_role_{client}'), right: `select ${made('^matrix_role_', clients)}` },
        inverted: { ...crossed(role('matrix_role_0'), role('matrix_role_1')), right: `select ${made('^matrix_role_', 2)}` },
    },
    {
        name: 'ensure_owner_v1', naive: '`alter schema … owner to`, then `alter table … owner to` for each table, sequence and view', told: ['NS003'],
        control: {
            ...rewritten, setup: ['drop table m0.t, m0.u; drop sequence m0.s; drop view m0.v'],
            right: "select nspowner = 'matrix_owner_0'::regrole from pg_namespace where nspname = 'm0'",
            calls: ['alter schema m0 owner to matrix_owner_0', owner('m0').ours[0]?.[0] ?? ''], // callers of ours take turns
        },
        prepare: [...roles('matrix_owner', "if current_setting('server_version_num')::int < 160000 then grant {role} to current_user; else execute 'grant {role} to current_user with inherit true, set true'; end if;"),
            "do $$ begin execute format('grant create on database %I to matrix_owner_0', current_database()); end $$"],
        setup: [schemas], teardown: [dropped],
        same: { ...owner('m0'), right: owned('m0'), near: 'insert into m0.t values ({client})' },
        different: { ...owner('m{client}'), right: owned(...own), near: 'insert into m{client}.t values ({client})' },
        inverted: {
            ours: [owner('m0', 'm1').ours[0] ?? [], owner('m1', 'm0').ours[0] ?? []], naive: [owner('m0', 'm1').naive[0] ?? [], owner('m1', 'm0').naive[0] ?? []],
            right: owned('m0', 'm1'), near: 'insert into m0.t values ({client})',
        },
    },
    {
        name: 'ensure_grants_v1', naive: '`grant usage on schema`, `grant select on all tables in schema`', told: ['NS003'],
        control: { ...rewritten, calls: ['grant usage on schema m0 to matrix_grantee_0', access('matrix_grantee_0', 'm0').ours[0]?.[0] ?? ''] },
        prepare: roles('matrix_grantee'), setup: [schemas], teardown: [dropped],
        same: { ...access('matrix_grantee_0', 'm0'), right: `select ${granted('^matrix_grantee_0', 1, 'm0')}`, near: 'insert into m0.t values ({client})' },
        different: { ...access('matrix_grantee_{client}', 'm0'), right: `select ${granted('^matrix_grantee_', clients, 'm0')}`, near: 'insert into m0.t values ({client})' },
        inverted: {
            ours: [access('matrix_grantee_0', 'm0', 'm1').ours[0] ?? [], access('matrix_grantee_0', 'm1', 'm0').ours[0] ?? []],
            naive: [access('matrix_grantee_0', 'm0', 'm1').naive[0] ?? [], access('matrix_grantee_0', 'm1', 'm0').naive[0] ?? []],
            right: `select ${granted('^matrix_grantee_0', 1, 'm0', 'm1')}`, near: 'insert into m0.t values ({client})',
        },
    },
    {
        name: 'ensure_roles_v1', naive: '`create role` behind a look at pg_roles, then GRANT', told: ['NS003'], control: taken,
        prepare: [], setup: [schemas], teardown: [dropped, own6('matrix_app')],
        same: { ...document(['matrix_app_0'], ['m0']), right: `select ${made('^matrix_app_', 1)} and ${granted('^matrix_app_', 1, 'm0')}`, near: 'insert into m0.t values ({client})' },
        different: {
            ...document(['matrix_app_{client}'], ['m0']), right: `select ${made('^matrix_app_', clients)} and ${granted('^matrix_app_', clients, 'm0')}`,
            near: 'insert into m0.t values ({client})',
        },
        inverted: {
            ours: [document(['matrix_app_0', 'matrix_app_1'], ['m0', 'm1']).ours[0] ?? [], document(['matrix_app_1', 'matrix_app_0'], ['m1', 'm0']).ours[0] ?? []],
            naive: [document(['matrix_app_0', 'matrix_app_1'], ['m0', 'm1']).naive[0] ?? [], document(['matrix_app_1', 'matrix_app_0'], ['m1', 'm0']).naive[0] ?? []],
            right: `select ${made('^matrix_app_', 2)} and ${granted('^matrix_app_', 2, 'm0', 'm1')}`, near: 'insert into m0.t values ({client})',
        },
    },
];
