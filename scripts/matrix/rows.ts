import { clients, patient, type Entry, type Target } from './entry.js';
import { crossed } from './partitions.js';

const unique = (column: string, table = 'a'): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_unique_v1('${table}', '{${column}}', ${patient})`]],
    naive: [[`create unique index if not exists ${table}_${column} on ${table} (${column})`]],
});
const keys = ['k0', 'k1', 'k2', 'k3', 'k4', 'k5'];
const indexed = (table: string, count: number): string => (
    `(select count(*) from pg_index where indrelid = '${table}'::regclass and indisunique and indisvalid) = ${count}`
);
const keyed = (table: string): string => `create table ${table} (id int primary key, ${keys.map((key) => `${key} int not null`).join(', ')});
    insert into ${table} select n, n, n, n, n, n, n from generate_series(1, 50) as n`;
const another = `insert into a values (${['id', ...keys].map(() => '1000 + {client}').join(', ')})`;

const row = (email: string): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_row_v1('a', '{"email": "${email}"}', '{email}')`]],
    naive: [[`do $$ begin if not exists (select from a where email = '${email}') then insert into a (email) values ('${email}'); end if; end $$`]],
});
const rows = (...emails: string[]): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_rows_v1('a', '[${emails.map((email) => `{"email": "${email}"}`).join(', ')}]', '{email}')`]],
    naive: [[`insert into a (email) values ${emails.map((email) => `('${email}')`).join(', ')} on conflict do nothing`]],
});
const emails = (pattern: string, count: number): string => `select count(*) = ${count} from a where email ~ '${pattern}'`;
const users = 'create table a (id bigint generated always as identity primary key, email text not null unique)';
const stranger = "insert into a (email) values ('client {client}')";

const only = (name: string, table = 'a'): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_only_v1('${table}', '{"name": "${name}", "kind": "main"}', among => $$kind = 'main'$$, demote => $$kind = 'old'$$,
        key => '{name}', promote => $$kind = 'main'$$, ${patient})`]],
    naive: [[`do $$ begin update ${table} set kind = 'old' where kind = 'main' and name <> '${name}';
        insert into ${table} (name, kind) values ('${name}', 'main') on conflict (name) do update set kind = 'main'; end $$`]],
});
const kinds = (table: string): string => `create table ${table} (id int generated always as identity primary key, name text not null unique, kind text not null);
    insert into ${table} (name, kind) values ('first', 'main'), ('second', 'main'), ('third', 'old')`;
const alone = (table: string, name: string): string => `(select count(*) = 1 and bool_and(name ~ '${name}') from ${table} where kind = 'main')`;
const worker = "insert into a (name, kind) values ('worker {client}', 'old')";

/** Losers of a keeper, in their order. */
const merge = (keeper: string, ...losers: string[]): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.merge_rows_v1('a', '{"id": ${keeper}}', '[${losers.map((id) => `{"id": ${id}}`).join(', ')}]', ${patient})`]],
    naive: [losers.map((id) => `do $$ begin update c set a_id = ${keeper} where a_id = ${id}; delete from a where id = ${id}; end $$`)],
});
const merged = (keepers: number): string => (
    `select (select count(*) from a where id < 1000) = ${3 * clients - 2 * keepers} and (select count(*) from c where a_id % 10 = 0) = ${4 * clients + 8 * keepers}`
);

export const rowEntries: Entry[] = [
    {
        name: 'ensure_unique_v1', naive: '`create unique index if not exists`', told: ['NS003', 'NS011'],
        control: {
            guards: [['_create_unique_v1', 'v_try := ensure._lock_attempt_v1(v_try);', ''], ['_create_unique_v1', 'v_clashes > 10', 'true'],
                ['_create_unique_v1', 'if v_found is null then', "if v_found is null then perform set_config('lock_timeout', '10s', true);"]],
            what: 'the locks behind which it looks again',
        },
        prepare: [], setup: [`${keyed('a')}; ${keyed('b')}`], teardown: ['drop table a, b'],
        same: { ...unique('k0'), right: `select ${indexed('a', 2)}`, near: another },
        different: { ...unique('k{client}'), right: `select ${indexed('a', clients + 1)}`, near: another },
        inverted: { ...crossed(unique('k0'), unique('k0', 'b')), right: `select ${indexed('a', 2)} and ${indexed('b', 2)}`, near: another },
    },
    {
        name: 'ensure_row_v1', naive: '`if not exists (select …) then insert`', told: ['40001'],
        control: { guards: [['_make_row_v1', 'for v_try in 1..5 loop', 'for v_try in 1..1 loop']], what: 'the second look, when an insert has met another' },
        prepare: [], setup: [users], teardown: ['drop table a'],
        same: { ...row('x'), right: emails('^x', 1), near: stranger },
        different: { ...row('x{client}'), right: emails('^x', clients), near: stranger },
        inverted: { ...crossed(row('x'), row('y')), right: emails('^[xy]$', 2), near: stranger, again: ['40P01'] },
    },
    {
        name: 'ensure_rows_v1', naive: '`insert … values …, … on conflict do nothing`', told: ['40001'],
        control: { guards: [['ensure_rows_v1', 'c_given, v_found, c_conflict);', "c_given, v_found, '');"]], what: 'ON CONFLICT DO NOTHING, behind which it looks again' },
        prepare: [], setup: [users], teardown: ['drop table a'],
        same: { ...rows('x', 'y'), right: emails('^[xy]$', 2), near: stranger },
        different: { ...rows('x{client}', 'y{client}'), right: emails('^[xy]', 2 * clients), near: stranger },
        inverted: {
            ours: [rows('x', 'y').ours[0] ?? [], rows('y', 'x').ours[0] ?? []], naive: [rows('x', 'y').naive[0] ?? [], rows('y', 'x').naive[0] ?? []],
            right: emails('^[xy]$', 2), near: stranger,
        },
    },
    {
        name: 'ensure_only_v1', naive: '`update … where kind = \'main\'`, then `insert … on conflict do update`', told: ['NS003', 'NS011'],
        control: {
            guards: [['_only_locks_v1', "'exclusive'", "'row exclusive'"]], what: 'the mode of the lock, that keeps writers out; here a inserts a rival',
            calls: ["insert into a (name, kind) select 'rival', 'main' where not exists (select from a where name = 'x')", only('x').ours[0]?.[0] ?? ''],
            right: `select ${alone('a', '^x$')}`,
        },
        prepare: [], setup: [`${kinds('a')}; ${kinds('b')}`], teardown: ['drop table a, b'],
        same: { ...only('x'), right: `select ${alone('a', '^x$')}`, near: worker },
        different: { ...only('x{client}'), right: `select ${alone('a', '^x')}`, near: worker },
        inverted: { ...crossed(only('x'), only('x', 'b')), right: `select ${alone('a', '^x$')} and ${alone('b', '^x$')}`, near: worker },
    },
    {
        name: 'merge_rows_v1', naive: '`update` of what refers to it, then `delete`, for each loser', told: ['NS003', 'NS011'],
        control: { guards: [['_merge_locked_v1', /\n {16}v_found := ensure\._look_merge_v1[^;]*;\n {12}end if;/, '\n            end if;']], what: 'the second look, behind the locks' },
        prepare: [], teardown: ['drop table c, a'],
        setup: [`create table a (id int primary key, note text); insert into a select 100 + 10 * n + m from generate_series(0, ${clients - 1}) as n, generate_series(0, 2) as m;
            create table c (id int primary key, a_id int not null references a); create index on c (a_id);
            insert into c select 4 * a.id + n, a.id from a, generate_series(0, 3) as n`],
        same: { ...merge('100', '101', '102'), right: merged(1), near: 'insert into a values (1000 + {client})' },
        different: { ...merge('1{client}0', '1{client}1', '1{client}2'), right: merged(clients), near: 'insert into a values (1000 + {client})' },
        inverted: {
            ours: [merge('100', '101', '102').ours[0] ?? [], merge('100', '102', '101').ours[0] ?? []],
            naive: [merge('100', '101', '102').naive[0] ?? [], merge('100', '102', '101').naive[0] ?? []],
            right: merged(1), near: 'insert into a values (1000 + {client})',
        },
    },
];
