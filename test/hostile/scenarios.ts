import format from 'pg-format';

/** What the objects of a scenario are called. */
export const kinds = ['schema', 'table', 'child', 'range', 'list', 'hash', 'archive', 'id', 'name', 'flag', 'role', 'heir', 'fresh', 'index',
    'constraint', 'routine'] as const;
export type Names = Record<(typeof kinds)[number], string>;

/** Roles belong to the whole server, on which other files run: theirs have other names. */
export const mine = `${process.pid}_${Date.now() % 100_000}`;
export const plain = Object.fromEntries(kinds.map((kind) => [kind, ['role', 'heir', 'fresh'].includes(kind) ? `a_${kind}_${mine}` : `a_${kind}`])) as Names;

/** One use of a public function: `call` once, `call` again, then `holds` is true. The statements of a plan are run in between. */
export interface Scenario {
    given?: string;
    call: string;
    plan?: boolean;
    holds?: string;
    /** The words of its rows, when it is called first and again. */
    first: string;
    again: string;
}

export const ident = (name: string): string => `"${name.replaceAll('"', '""')}"`;
const text = (value: string): string => format.literal(value);
const json = (value: unknown): string => `${text(JSON.stringify(value))}::jsonb`;

/** As the server cuts an identifier: at 63 bytes, before a character that does not fit. */
export function cut(name: string): string {
    const bytes = Buffer.from(name);
    let end = Math.min(63, bytes.length);
    while (end < bytes.length && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
    return bytes.subarray(0, end).toString();
}

/** SQL for the names of a world. */
export function spelled(names: Names) {
    const q = Object.fromEntries(kinds.map((kind) => [kind, ident(names[kind])])) as Names;
    const of = (kind: keyof Names): string => `${q.schema}.${q[kind]}`;
    return { q, of, is: (kind: keyof Names): string => `${text(of(kind))}::regclass`, key: (kind: keyof Names): string => cut(names[kind]) };
}

/** What all scenarios find: two rows with one name and a child each, partitioned tables without partitions, roles without rights. */
export function world(names: Names): string {
    const { q, of } = spelled(names);
    return `create schema ${q.schema};
        create table ${of('table')} (${q.id} int constraint ${q.constraint} primary key, ${q.name} text not null, ${q.flag} boolean not null default false);
        insert into ${of('table')} values (1, 'a', true), (2, 'a', false), (3, 'b', false);
        create table ${of('child')} (${q.id} int primary key, ${q.name} int constraint ${q.constraint} references ${of('table')});
        insert into ${of('child')} values (1, 1), (2, 2), (3, 3);
        create table ${of('range')} (${q.id} int not null, ${q.name} text) partition by range (${q.id});
        create table ${of('list')} (${q.name} text, ${q.id} int) partition by list (${q.name});
        create table ${of('hash')} (${q.id} int) partition by hash (${q.id});
        create table ${of('archive')} (place bigint generated always as identity primary key, run uuid not null, relation text not null,
            action text not null, key jsonb, old jsonb, new jsonb, archived_at timestamptz not null default now());
        create role ${q.role}; create role ${q.heir};
        grant usage on schema ${q.schema}, ensure to ${q.role}`;
}

type Of = (names: Names) => Scenario;

const outcomes = (call: string): string => `select f.outcome as word from ensure.${call} as f`;

const partitions: Record<string, Of> = {
    ensure_partitions_v1: (names) => {
        const { is, of } = spelled(names);
        return {
            call: outcomes(`ensure_partitions_v1(${is('range')}, '10', 0, 25)`), first: 'created created created', again: 'exists exists exists',
            holds: `with i as (insert into ${of('range')} values (0), (9), (25) returning tableoid) select count(distinct tableoid) = 2 from i`,
        };
    },
    ensure_list_partitions_v1: (names) => {
        const { is, of } = spelled(names);
        const values = `array[${[names.name, names.table].map(text).join(', ')}, null]`;
        return {
            call: outcomes(`ensure_list_partitions_v1(${is('list')}, ${values})`), first: 'created created created', again: 'exists exists exists',
            holds: `with i as (insert into ${of('list')} select unnest(${values}) returning tableoid) select count(distinct tableoid) = 3 from i`,
        };
    },
    ensure_hash_partitions_v1: (names) => {
        const { is, of } = spelled(names);
        return {
            call: outcomes(`ensure_hash_partitions_v1(${is('hash')}, 2)`), first: 'created created', again: 'exists exists',
            holds: `with i as (insert into ${of('hash')} select generate_series(1, 30) returning 1) select count(*) = 30 from i`,
        };
    },
    ensure_default_partition_v1: (names) => {
        const { is, of } = spelled(names);
        return {
            call: outcomes(`ensure_default_partition_v1(${is('range')})`), first: 'created', again: 'exists',
            holds: `with i as (insert into ${of('range')} values (-7) returning 1) select count(*) = 1 from i`,
        };
    },
    ensure_partition_tree_v1: (names) => {
        const { is, of, key } = spelled(names);
        const path = json([{ list: names.index }, { range: 7, step: '10', key: key('id') }]);
        return {
            call: outcomes(`ensure_partition_tree_v1(array[${is('list')}], ${path})`), first: 'created created', again: 'exists exists',
            holds: `with i as (insert into ${of('list')} values (${text(names.index)}, 7) returning 1) select count(*) = 1 from i`,
        };
    },
    check_coverage_v1: (names) => {
        const { is, key } = spelled(names);
        return {
            given: `select from ensure.ensure_list_partitions_v1(${is('list')}, array[${text(names.fresh)}])`,
            call: `select f as word from pg_catalog.unnest(array[${text(names.fresh)}, ${text(`${names.fresh}?`)}]) as v,
                ensure.check_coverage_v1(${is('list')}, pg_catalog.jsonb_build_object(${text(key('name'))}, v)) as f`,
            first: 'true false', again: 'true false',
        };
    },
    plan_partitions_v1: (names) => {
        const { is, of } = spelled(names);
        return {
            plan: true, call: `select * from ensure.plan_partitions_v1(${is('range')}, '10', 0, 25)`, first: '3', again: '',
            holds: `with i as (insert into ${of('range')} values (0), (9), (25) returning tableoid) select count(distinct tableoid) = 2 from i`,
        };
    },
    check_partitions_v1: (names) => {
        const { is, of } = spelled(names);
        return {
            plan: true, call: `select * from ensure.check_partitions_v1(${is('range')}, '10', 0, 25)`, first: '3', again: '',
            holds: `with i as (insert into ${of('range')} values (0), (9), (25) returning 1) select count(*) = 3 from i`,
        };
    },
    ensure_partition_delegate_v1: (names) => {
        const { is, of, q } = spelled(names);
        return {
            call: outcomes(`ensure_partition_delegate_v1(${is('range')}, ${text(names.role)}, '10', '0', '100', function_name => ${text(names.routine)})`),
            first: 'created', again: 'exists',
            holds: `set local role ${q.role}; select outcome = 'created' from ${of('routine')}(5)`,
        };
    },
};

const unique = (names: Names, verb: string, rest: string): string => {
    const { is, q } = spelled(names);
    return `${verb}_unique_v1(${is('table')}, array[${text(q.name)}], keep => ${text(q.id)}, losers => 'delete', children => 'move',
        archive => ${is('archive')}, index_name => ${text(names.index)}${rest})`;
};
const oneEach = ({ of, q }: ReturnType<typeof spelled>): string => `select count(*) = 2 and min(${q.id}) = 1 and max(${q.id}) = 3 from ${of('table')}`;

const data: Record<string, Of> = {
    ensure_unique_v1: (names) => ({
        call: outcomes(unique(names, 'ensure', '')), first: 'moved deleted created archived', again: 'exists', holds: oneEach(spelled(names)),
    }),
    check_duplicates_v1: (names) => {
        const { is, q } = spelled(names);
        return {
            call: `select f.finding as word from ensure.check_duplicates_v1(${is('table')}, array[${text(q.name)}], ${text(`${q.id} > 0`)}, keep => ${text(q.id)}) as f`,
            first: 'groups losers widest group moves unindexed', again: 'groups losers widest group moves unindexed',
        };
    },
    undo_unique_v1: (names) => {
        const { is, of, q } = spelled(names);
        return {
            given: `select from ensure.${unique(names, 'ensure', '')}; drop index ${q.schema}.${q.index}`,
            call: `with r as materialized (select run from ${of('archive')} union all select pg_catalog.gen_random_uuid() limit 1)
                select f.outcome as word from r, ensure.undo_unique_v1(${is('archive')}, r.run) as f`,
            first: 'inserted moved', again: '42704', holds: `select count(*) = 3 from ${of('table')}`,
        };
    },
    plan_unique_v1: (names) => ({
        plan: true, call: `select * from ensure.${unique(names, 'plan', ", gate => 'refuse'")}`, first: '8', again: '', holds: oneEach(spelled(names)),
    }),
    ensure_row_v1: (names) => {
        const { is, of, q, key } = spelled(names);
        const row = json({ [key('id')]: 4, [key('name')]: `${names.name} is new` });
        return {
            call: outcomes(`ensure_row_v1(${is('table')}, ${row}, array[${text(names.id)}]::name[], ${text(`not ${q.flag} and ${q.id} = 9`)})`),
            first: 'created', again: 'exists', holds: `select count(*) = 1 from ${of('table')} where ${q.name} = ${text(`${names.name} is new`)}`,
        };
    },
    ensure_rows_v1: (names) => {
        const { is, of, q, key } = spelled(names);
        const rows = json([1, 4, 5].map((id) => ({ [key('name')]: `${names.name} is new`, [key('id')]: id })));
        return {
            call: outcomes(`ensure_rows_v1(${is('table')}, ${rows}, array[${text(names.id)}]::name[])`),
            first: 'created exists', again: 'exists', holds: `select count(*) = 2 from ${of('table')} where ${q.name} = ${text(`${names.name} is new`)}`,
        };
    },
    plan_row_function_v1: (names) => {
        const { is, of } = spelled(names);
        return {
            plan: true, call: `select * from ensure.plan_row_function_v1(${is('table')}, array[${text(names.id)}]::name[], ${text(names.routine)})`,
            first: '1', again: '',
            holds: `select array_agg(f.outcome order by g) = '{created,exists}' from generate_series(0, 1) as g, ${of('routine')}(4 + g - g, 'n', null) as f`,
        };
    },
    ensure_only_v1: (names) => {
        const { is, of, q, key } = spelled(names);
        return {
            call: outcomes(`ensure_only_v1(${is('table')}, ${json({ [key('id')]: 2 })}, ${text(q.flag)}, ${text(`${q.flag} = false, ${q.name} = keeper.${q.name}`)},
                array[${text(names.id)}]::name[], ${text(`${q.flag} = true`)}, 'move', array[${is('child')}], ${is('archive')})`),
            first: 'promoted demoted moved archived', again: 'exists',
            holds: `select array_agg(${q.id}) = '{2}' from ${of('table')} where ${q.flag}`,
        };
    },
    merge_rows_v1: (names) => {
        const { is, of, key } = spelled(names);
        return {
            call: outcomes(`merge_rows_v1(${is('table')}, ${json({ [key('id')]: 1 })}, ${json({ [key('id')]: 2 })}, ${json({ [key('name')]: 'max' })}, ${is('archive')})`),
            first: 'moved deleted archived', again: 'exists', holds: `select count(*) = 2 from ${of('table')}`,
        };
    },
    undo_merge_rows_v1: (names) => {
        const { is, of, key } = spelled(names);
        return {
            given: `select from ensure.merge_rows_v1(${is('table')}, ${json({ [key('id')]: 1 })}, ${json({ [key('id')]: 2 })}, archive => ${is('archive')})`,
            call: `with r as materialized (select run from ${of('archive')} union all select pg_catalog.gen_random_uuid() limit 1)
                select f.outcome as word from r, ensure.undo_merge_rows_v1(${is('archive')}, r.run) as f`,
            first: 'inserted moved', again: '42704', holds: `select count(*) = 3 from ${of('table')}`,
        };
    },
    plan_merge_rows_v1: (names) => {
        const { is, of, key } = spelled(names);
        return {
            plan: true, first: '1', again: '', holds: `select count(*) = 2 from ${of('table')}`,
            call: `select * from ensure.plan_merge_rows_v1(${is('table')}, ${json({ [key('id')]: 1 })}, ${json({ [key('id')]: 2 })}, ${json({ [key('name')]: 'max' })}, ${is('archive')})`,
        };
    },
};

const document = (names: Names): string => {
    const { key } = spelled(names);
    return json({
        roles: [{ role_name: key('fresh'), login: false, settings: { 'ensure.name': names.name }, member_of: { [key('heir')]: true } }],
        owners: [{ new_owner: key('heir'), schemas: [key('schema')] }],
        grants: [{ grantee: key('role'), access: ['read', 'write'], schemas: [key('schema')], creators: [key('heir')] }],
    });
};
const granted = (names: Names): string => {
    const { q, of } = spelled(names);
    return `set local role ${q.role}; select count(*) = 3 from ${of('table')}`;
};

const roles: Record<string, Of> = {
    ensure_role_v1: (names) => ({
        call: outcomes(`ensure_role_v1(${text(names.fresh)}, connection_limit => 3, settings => ${json({ 'ensure.name': names.name })},
            member_of => ${json({ [cut(names.role)]: true })}, database_settings => pg_catalog.jsonb_build_object(pg_catalog.current_database(), ${json({ 'ensure.other': names.id })}))`),
        first: 'created set set granted', again: 'exists',
        holds: `select pg_has_role(${text(names.fresh)}, ${text(names.role)}, 'MEMBER') and exists (select from pg_catalog.pg_db_role_setting as s
            join pg_catalog.pg_roles as r on r.oid = s.setrole where r.rolname = ${text(names.fresh)}::name and s.setconfig = array[${text(`ensure.name=${names.name}`)}])`,
    }),
    ensure_owner_v1: (names) => ({
        call: outcomes(`ensure_owner_v1(${text(names.heir)}, array[${text(names.schema)}]::name[], array[${spelled(names).is('archive')}])`),
        first: 'altered altered altered altered altered altered', again: 'exists',
        holds: `select bool_and((pg_get_userbyid(c.relowner) = ${text(names.heir)}::name) = (c.oid <> ${spelled(names).is('archive')})) from pg_catalog.pg_class as c
            where c.relnamespace = ${text(spelled(names).q.schema)}::regnamespace and c.relkind in ('r', 'p')`,
    }),
    plan_owner_v1: (names) => ({
        plan: true, call: `select * from ensure.plan_owner_v1(${text(names.heir)}, array[${text(names.schema)}]::name[])`, first: '7', again: '',
        holds: `select bool_and(pg_get_userbyid(c.relowner) = ${text(names.heir)}::name) from pg_catalog.pg_class as c where c.relnamespace = ${text(spelled(names).q.schema)}::regnamespace`,
    }),
    plan_retire_role_v1: (names) => ({
        given: `alter table ${spelled(names).of('table')} owner to ${spelled(names).q.role}`,
        plan: true, call: `select * from ensure.plan_retire_role_v1(${text(names.role)}, ${text(names.heir)})`, first: '4', again: '',
        holds: `select pg_get_userbyid(c.relowner) = ${text(names.heir)}::name and not exists (select from pg_catalog.pg_roles where rolname = ${text(names.role)}::name)
            from pg_catalog.pg_class as c where c.oid = ${spelled(names).is('table')}`,
    }),
    ensure_grants_v1: (names) => ({
        call: `select distinct f.outcome as word from ensure.ensure_grants_v1(${text(names.role)}, '{read,write}', array[${text(names.schema)}]::name[], array[${text(names.heir)}]::name[]) as f`,
        first: 'granted', again: 'exists', holds: granted(names),
    }),
    ensure_roles_v1: (names) => ({
        call: `select distinct f.outcome as word from ensure.ensure_roles_v1(${document(names)}) as f order by 1`, first: 'altered created granted set', again: 'exists',
        holds: granted(names),
    }),
    check_roles_v1: (names) => ({
        call: `select distinct f.finding as word from ensure.check_roles_v1(${document(names)}) as f order by 1`, first: 'differs missing', again: 'differs missing',
    }),
    plan_roles_v1: (names) => ({ plan: true, call: `select * from ensure.plan_roles_v1(${document(names)})`, first: '19', again: '', holds: granted(names) }),
    check_connection_budget_v1: (names) => ({
        call: `select f.finding as word from ensure.check_connection_budget_v1(${json({ [cut(names.role)]: 3, [cut(names.fresh)]: { pool: 2, replicas: 2 } })}) as f
            where f.role_name operator(pg_catalog.=) any (array[${text(names.role)}, ${text(names.fresh)}]::name[]) order by 1`,
        first: 'no login no such role', again: 'no login no such role',
    }),
    check_install_v1: () => ({
        call: "select distinct 'installed' as word from ensure.check_install_v1()", first: 'installed', again: 'installed',
    }),
};

export const scenarios: Record<string, Of> = { ...partitions, ...data, ...roles };
