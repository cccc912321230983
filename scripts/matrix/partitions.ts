import { clients, each, patient, type Entry, type Target } from './entry.js';

const told: Entry['told'] = ['NS003'];
const control: Entry['control'] = {
    guards: [['_create_partitions_v1', /perform ensure\._take_locks_v1\([^;]*;/, ''], ['_create_partitions_v1', 'v_clashes > 10', 'true']],
    what: 'the locks behind which it looks again',
};
const has = (table: string, partitions: number | string): string => `(select count(*) from pg_inherits where inhparent = '${table}'::regclass) = ${partitions}`;

const range = (cell: string, table = 'a'): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_partitions_v1('${table}', '1000', ${cell}000, ${patient})`]],
    naive: [[`create table if not exists ${table}_${cell} partition of ${table} for values from (${cell} * 1000) to (${cell} * 1000 + 1000)`]],
});
const list = (value: string): string => `create table if not exists a_${value} partition of a for values in ('${value}')`;
const values = (...some: string[]): string => `select * from ensure.ensure_list_partitions_v1('a', array[${some.map((value) => `'${value}'`).join(', ')}], ${patient})`;
const hash = (table: string): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_hash_partitions_v1('${table}', 2, ${patient})`]],
    naive: [[0, 1].map((remainder) => `create table if not exists ${table}_${remainder} partition of ${table} for values with (modulus 2, remainder ${remainder})`)],
});
const fallback = (table: string): Pick<Target, 'ours' | 'naive'> => ({
    ours: [[`select * from ensure.ensure_default_partition_v1('${table}', ${patient})`]],
    naive: [[`create table if not exists ${table}_default partition of ${table} default`]],
});

/** Two targets in both orders. */
export const crossed = (one: Pick<Target, 'ours' | 'naive'>, other: Pick<Target, 'ours' | 'naive'>): Pick<Target, 'ours' | 'naive'> => {
    const both = (first: string[][], second: string[][]): string[][] => [[...first[0] ?? [], ...second[0] ?? []], [...second[0] ?? [], ...first[0] ?? []]];
    return { ours: both(one.ours, other.ours), naive: both(one.naive, other.naive) };
};

const ranged = (table: string): string => `create table ${table} (id bigint not null, note text) partition by range (id);
    create table ${table}_old partition of ${table} for values from (-1000) to (0)`;
const old = "insert into a values (-1, 'of client {client}')";

const branch = (table: string, list: string): string[] => [
    `create table if not exists ${table}_${list} partition of ${table} for values in (${list}) partition by range (seq)`,
    `create table if not exists ${table}_${list}_0 partition of ${table}_${list} for values from (0) to (1000)`,
];
const tree = (list: string, parents = '{a,b}'): string[] => [
    `select * from ensure.ensure_partition_tree_v1('${parents}', '[{"list": "${list}"}, {"range": "1", "step": "1000", "key": "seq"}]', ${patient})`,
];
const leaves = (count: number): string => `select (select count(*) from pg_partition_tree('a') where isleaf) = ${count} and (select count(*) from pg_partition_tree('b') where isleaf) = ${count}`;
const inTree = (list: string): string[] => [`insert into a values (${list}, {client})`, `insert into b values (${list}, {client})`];

const delegate = (table: string, more = ''): string => (
    `select * from ensure.ensure_partition_delegate_v1('${table}', 'matrix_delegate', '1000', '0', '99999', ${patient}${more})`
);
const definer = (name: string, table: string): string[] => [
    `create or replace function ${name}(key bigint) returns void language plpgsql security definer set search_path = public, pg_temp as $f$ begin
        execute format('create table if not exists ${table}_%s partition of ${table} for values from (%s) to (%s)', key / 1000, key / 1000 * 1000, key / 1000 * 1000 + 1000); end $f$`,
    `revoke all on function ${name}(bigint) from public`,
    `grant execute on function ${name}(bigint) to matrix_delegate`,
];
const made = (pattern: string): string => `(select count(*) from pg_proc where pronamespace = 'public'::regnamespace and proname ~ '${pattern}'
    and has_function_privilege('matrix_delegate', oid, 'execute') and not exists (select from aclexplode(proacl) where grantee = 0))`;

export const partitions: Entry[] = [
    {
        name: 'ensure_partitions_v1', naive: '`create table if not exists … partition of`', told, control,
        prepare: [], setup: [`${ranged('a')}; ${ranged('b')}`], teardown: ['drop table a, b'],
        same: { ...range('0'), right: `select ${has('a', 2)}`, near: old, use: ["insert into a values (1, 'new')"] },
        different: { ...range('{client}'), right: `select ${has('a', clients + 1)}`, near: old, use: ["insert into a values ({client}001, 'new')"] },
        inverted: {
            ...crossed(range('0'), range('0', 'b')), right: `select ${has('a', 2)} and ${has('b', 2)}`, near: old,
            use: ["insert into a values (1, 'new')", "insert into b values (1, 'new')"],
        },
    },
    {
        name: 'ensure_list_partitions_v1', naive: '`create table if not exists … partition of`', told, control,
        prepare: [], teardown: ['drop table a'],
        setup: ["create table a (tenant text, note text) partition by list (tenant); create table a_old partition of a for values in ('old')"],
        same: { ours: [[values('x')]], naive: [[list('x')]], right: `select ${has('a', 2)}`, near: "insert into a values ('old')", use: ["insert into a values ('x')"] },
        different: {
            ours: [[values('x{client}')]], naive: [[list('x{client}')]], right: `select ${has('a', clients + 1)}`, near: "insert into a values ('old')",
            use: ["insert into a values ('x{client}')"],
        },
        inverted: {
            ours: [[values('x', 'y')], [values('y', 'x')]], naive: [[list('x'), list('y')], [list('y'), list('x')]], right: `select ${has('a', 3)}`,
            near: "insert into a values ('old')", use: ["insert into a values ('y')"],
        },
    },
    {
        name: 'ensure_hash_partitions_v1', naive: '`create table if not exists … partition of`, for each remainder', told, control,
        prepare: [], teardown: [`drop table a, b; ${each((n) => `drop table t${n}`)}`],
        setup: [`create table a (id bigint) partition by hash (id); create table b (id bigint) partition by hash (id);
            ${each((n) => `create table t${n} (id bigint) partition by hash (id)`)}`],
        same: { ...hash('a'), right: `select ${has('a', 2)}`, use: ['insert into a values ({client})'] },
        different: { ...hash('t{client}'), right: `select ${Array.from({ length: clients }, (_, n) => has(`t${n}`, 2)).join(' and ')}`, use: ['insert into t{client} values (1)'] },
        inverted: { ...crossed(hash('a'), hash('b')), right: `select ${has('a', 2)} and ${has('b', 2)}`, use: ['insert into a values ({client})'] },
    },
    {
        name: 'ensure_default_partition_v1', naive: '`create table if not exists … partition of … default`', told, control,
        prepare: [], teardown: [`drop table a, b; ${each((n) => `drop table t${n}`)}`],
        setup: [`${ranged('a')}; ${ranged('b')}; ${each((n) => ranged(`t${n}`))}`],
        same: { ...fallback('a'), right: `select ${has('a', 2)}`, near: old, use: ['insert into a values ({client})'] },
        different: {
            ...fallback('t{client}'), right: `select ${Array.from({ length: clients }, (_, n) => has(`t${n}`, 2)).join(' and ')}`, near: 'insert into t{client} values (-1)',
            use: ['insert into t{client} values (1)'],
        },
        inverted: { ...crossed(fallback('a'), fallback('b')), right: `select ${has('a', 2)} and ${has('b', 2)}`, near: old, use: ['insert into a values ({client})'] },
    },
    {
        name: 'ensure_partition_tree_v1', naive: '`create table if not exists … partition of`, level by level, in both tables', told, control,
        prepare: [], teardown: ['drop table a, b'],
        setup: [`create table a (originator int, seq bigint, primary key (originator, seq)) partition by list (originator);
            create table b (originator int, seq bigint, primary key (originator, seq), foreign key (originator, seq) references a) partition by list (originator);
            create table a_old partition of a for values in (-1); create table b_old partition of b for values in (-1)`],
        same: { ours: [tree('0')], naive: [[...branch('a', '0'), ...branch('b', '0')]], right: leaves(2), near: 'insert into a values (-1, {client})', use: inTree('0') },
        different: {
            ours: [tree('{client}')], naive: [[...branch('a', '{client}'), ...branch('b', '{client}')]], right: leaves(clients + 1),
            near: 'insert into a values (-1, {client})', use: inTree('{client}'),
        },
        inverted: {
            ours: [tree('0'), tree('0', '{b,a}')], naive: [[...branch('a', '0'), ...branch('b', '0')], [...branch('b', '0'), ...branch('a', '0')]],
            right: leaves(2), near: 'insert into a values (-1, {client})', use: inTree('0'),
        },
    },
    {
        name: 'ensure_partition_delegate_v1', naive: '`create or replace function … security definer`, REVOKE and GRANT', told,
        control: { guards: [['_create_delegate_v1', 'if delegate is not null then', 'if false then'], ['_create_delegate_v1', 'v_clashes > 10', 'true']], what: 'the second look, behind the lock' },
        prepare: ["do $$ begin create role matrix_delegate; exception when duplicate_object then null; end $$"],
        setup: [`${ranged('a')}; ${ranged('b')}`],
        teardown: ["do $$ declare f regprocedure; begin for f in select oid from pg_proc where pronamespace = 'public'::regnamespace loop execute format('drop function %s', f); end loop; end $$", 'drop table a, b'],
        same: { ours: [[delegate('a')]], naive: [definer('a_make', 'a')], right: `select ${made('^a_')} = 1`, near: old },
        different: {
            ours: [[delegate('a', ", function_name => 'd_{client}'")]], naive: [definer('d_{client}', 'a')], right: `select ${made('^d_')} = ${clients}`, near: old,
        },
        inverted: {
            ...crossed({ ours: [[delegate('a')]], naive: [definer('a_make', 'a')] }, { ours: [[delegate('b')]], naive: [definer('b_make', 'b')] }),
            right: `select ${made('^a_')} = 1 and ${made('^b_')} = 1`, near: old,
        },
    },
];
