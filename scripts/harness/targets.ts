/** What one ensure_ function makes, in a schema `id` of its own; roles it makes begin with that name. */
export interface Target {
    name: string;
    setup: (id: string) => string;
    /** `more`: arguments besides, where the function waits by budgets of its own. */
    call: (id: string, more?: string) => string;
    /** A boolean: all of it is there, once, and no row is lost. */
    holds: (id: string) => string;
    /** Tables whose rows belong to the picture. */
    rows: readonly string[];
    /** Where a call can be held half-way: at a DDL command, at a row of that table, or nowhere. */
    halfway: 'ddl' | 'nowhere' | { table: string };
    /** Begins and ends transactions itself. */
    alone?: boolean;
}

const document = (id: string): string => JSON.stringify({
    roles: [{ role_name: `${id}_owner` }, { role_name: `${id}_app`, login: true }],
    owners: [{ new_owner: `${id}_owner`, schemas: [id] }],
    grants: [{ grantee: `${id}_app`, access: ['read', 'write'], schemas: [id] }],
});
const objects = (id: string): string => `create schema ${id}; create table ${id}.a (k int primary key); create table ${id}.b (k serial); create view ${id}.v as select k from ${id}.a;
    create sequence ${id}.s; create function ${id}.f() returns int language sql as 'select 1'; insert into ${id}.a values (1), (2);`;
const attached = (parent: string): string => `(select count(*) from pg_inherits where inhparent = '${parent}'::regclass)`;
const noneLoose = (id: string): string => `not exists (select from pg_class where relnamespace = '${id}'::regnamespace and relkind = 'r' and not relispartition)`;
const privileges = (id: string): string => `(select bool_and(has_table_privilege('${id}_app', c.oid, 'select') and has_table_privilege('${id}_app', c.oid, 'insert'))
    from pg_class as c where c.relnamespace = '${id}'::regnamespace and c.relkind = 'r') and has_schema_privilege('${id}_app', '${id}', 'usage')`;
const owned = (id: string): string => `not exists (select from pg_class where relnamespace = '${id}'::regnamespace and relowner <> '${id}_owner'::regrole)
    and not exists (select from pg_proc where pronamespace = '${id}'::regnamespace and proowner <> '${id}_owner'::regrole)
    and exists (select from pg_namespace where nspname = '${id}' and nspowner = '${id}_owner'::regrole) and (select count(*) from ${id}.a) = 2`;

export const targets: readonly Target[] = [
    {
        name: 'ensure_partitions_v1',
        setup: (id) => `create schema ${id}; create table ${id}.p (k int primary key, v text) partition by range (k); create index on ${id}.p (v);
            create table ${id}.p_first partition of ${id}.p for values from (0) to (10); insert into ${id}.p select k, 'v' from generate_series(0, 4) as k`,
        call: (id, more = '') => `select outcome from ensure.ensure_partitions_v1('${id}.p', '10', 10, 39${more})`,
        holds: (id) => `${attached(`${id}.p`)} = 4 and ensure.check_coverage_v1('${id}.p', '{"k": 39}') and ${noneLoose(id)} and (select count(*) from ${id}.p) = 5`,
        rows: ['p'], halfway: 'ddl',
    },
    {
        name: 'ensure_list_partitions_v1',
        setup: (id) => `create schema ${id}; create table ${id}.l (k text primary key) partition by list (k)`,
        call: (id, more = '') => `select outcome from ensure.ensure_list_partitions_v1('${id}.l', '{a,b}'::text[]${more})`,
        holds: (id) => `${attached(`${id}.l`)} = 2 and ensure.check_coverage_v1('${id}.l', '{"k": "b"}') and ${noneLoose(id)}`,
        rows: ['l'], halfway: 'ddl',
    },
    {
        name: 'ensure_partition_tree_v1',
        setup: (id) => `create schema ${id}; create table ${id}.meta (o int, seq bigint, primary key (o, seq)) partition by list (o);
            create table ${id}.blob (o int, seq bigint, primary key (o, seq), foreign key (o, seq) references ${id}.meta) partition by list (o)`,
        call: (id, more = '') => `select outcome from ensure.ensure_partition_tree_v1('{${id}.meta,${id}.blob}', '[{"list": "42"}, {"range": "15", "step": "10", "key": "seq"}]'${more})`,
        holds: (id) => `${attached(`${id}.meta`)} = 1 and ${attached(`${id}.blob`)} = 1 and ${noneLoose(id)}
            and ensure.check_coverage_v1('${id}.meta', '{"o": 42, "seq": 15}') and ensure.check_coverage_v1('${id}.blob', '{"o": 42, "seq": 15}')`,
        rows: ['meta', 'blob'], halfway: 'ddl',
    },
    {
        name: 'ensure_unique_v1',
        setup: (id) => `create schema ${id}; create table ${id}.t (id int primary key, email text); create table ${id}.c (id int primary key, t int references ${id}.t);
            insert into ${id}.t select n, 'e' || n % 10 from generate_series(1, 30) as n; insert into ${id}.c select n, n from generate_series(1, 30) as n`,
        call: (id, more = '') => `select outcome from ensure.ensure_unique_v1('${id}.t', '{email}', keep => 'id', losers => 'delete', children => 'move'${more})`,
        holds: (id) => `(select count(*) from ${id}.t) = 10 and (select count(*) from ${id}.c) = 30 and not exists (select from ${id}.c where (t - id) % 10 <> 0)
            and exists (select from pg_index where indrelid = '${id}.t'::regclass and indisunique and indisvalid and not indisprimary)`,
        rows: ['t', 'c'], halfway: 'ddl',
    },
    {
        name: 'ensure_row_v1',
        setup: (id) => `create schema ${id}; create table ${id}.t (name text primary key, v text, unique (v))`,
        call: (id) => `select outcome from ensure.ensure_row_v1('${id}.t', '{"name": "a", "v": "x"}')`,
        holds: (id) => `(select array_agg(t::text) from ${id}.t as t) = '{"(a,x)"}'`,
        rows: ['t'], halfway: { table: 't' },
    },
    {
        name: 'ensure_rows_v1',
        setup: (id) => `create schema ${id}; create table ${id}.t (name text primary key, v text); insert into ${id}.t values ('a', 'old')`,
        call: (id) => `select outcome from ensure.ensure_rows_v1('${id}.t', '[{"name": "c", "v": "x"}, {"name": "a", "v": "x"}, {"name": "b", "v": "x"}]')`,
        holds: (id) => `(select array_agg(t::text order by name) from ${id}.t as t) = '{"(a,old)","(b,x)","(c,x)"}'`,
        rows: ['t'], halfway: { table: 't' },
    },
    {
        name: 'ensure_only_v1',
        setup: (id) => `create schema ${id}; create table ${id}.t (name text primary key, main boolean); insert into ${id}.t values ('a', true), ('b', false), ('c', true)`,
        call: (id, more = '') => `select outcome from ensure.ensure_only_v1('${id}.t', '{"name": "b"}', 'main', 'main = false', promote => 'main = true'${more})`,
        holds: (id) => `(select array_agg(t::text order by name) from ${id}.t as t) = '{"(a,f)","(b,t)","(c,f)"}'`,
        rows: ['t'], halfway: { table: 't' },
    },
    {
        name: 'merge_rows_v1',
        setup: (id) => `create schema ${id}; create table ${id}.t (id int primary key, score int); create table ${id}.c (id int primary key, t int not null references ${id}.t);
            insert into ${id}.t select n, n from generate_series(1, 4) as n; insert into ${id}.c select n, 1 + n % 4 from generate_series(1, 20) as n`,
        call: (id, more = '') => `select outcome from ensure.merge_rows_v1('${id}.t', '{"id": 1}', '[{"id": 2}, {"id": 3}]', '{"score": "sum"}'${more})`,
        holds: (id) => `(select array_agg(t::text order by id) from ${id}.t as t) = '{"(1,6)","(4,4)"}' and (select count(*) from ${id}.c) = 20 and (select count(*) from ${id}.c where t = 1) = 15`,
        rows: ['t', 'c'], halfway: { table: 'c' },
    },
    {
        name: 'ensure_role_v1',
        setup: (id) => `create schema ${id}; create role ${id}_group`,
        call: (id, more = '') => `select outcome from ensure.ensure_role_v1('${id}_app', login => true, connection_limit => 3, settings => '{"lock_timeout": "5s"}', member_of => '["${id}_group"]'${more})`,
        holds: (id) => `(select count(*) from pg_roles where rolname = '${id}_app' and rolcanlogin and rolconnlimit = 3 and rolconfig = '{lock_timeout=5s}') = 1
            and (select count(*) from pg_auth_members as m join pg_roles as r on r.oid = m.member where r.rolname = '${id}_app') = 1`,
        rows: [], halfway: 'nowhere',
    },
    {
        name: 'ensure_grants_v1',
        setup: (id) => `${objects(id)} create role ${id}_app; create role ${id}_owner`,
        call: (id, more = '') => `select outcome from ensure.ensure_grants_v1('${id}_app', '{read,write}', '{${id}}', creators => '{${id}_owner}'${more})`,
        holds: (id) => `${privileges(id)} and exists (select from pg_default_acl where defaclnamespace = '${id}'::regnamespace and defaclrole = '${id}_owner'::regrole)`,
        rows: ['a'], halfway: 'ddl',
    },
    {
        name: 'ensure_owner_v1',
        setup: (id) => `${objects(id)} create role ${id}_owner`,
        call: (id, more = '') => `select outcome from ensure.ensure_owner_v1('${id}_owner', '{${id}}'${more})`,
        holds: owned,
        rows: ['a'], halfway: 'ddl',
    },
    {
        name: 'ensure_roles_v1',
        setup: objects,
        call: (id, more = '') => `select outcome from ensure.ensure_roles_v1('${document(id)}'${more})`,
        holds: (id) => `${owned(id)} and ${privileges(id)} and (select rolcanlogin from pg_roles where rolname = '${id}_app')`,
        rows: ['a'], halfway: 'ddl',
    },
];

export const targetOf = (name: string): Target => {
    const found = targets.find((target) => target.name === name);
    if (!found) throw new Error(`no target ${name}`);
    return found;
};

/** Takes back all that setup and calls made. */
export const cleanup = (id: string): string => `
    do $$ declare v_role name; begin
        drop schema if exists ${id} cascade;
        for v_role in select rolname from pg_roles where starts_with(rolname, '${id}_') loop
            execute format('drop owned by %I; drop role %I', v_role, v_role);
        end loop;
    end $$`;

/** All that a target may change, as one text: equal texts, equal states. Of sequences their values are left out. */
export const picture = ({ rows }: Target, id: string): string => `
    select coalesce(string_agg(l.line, E'\\n' order by l.line collate "C"), '') as picture from (
        select concat_ws(' ', 'schema', n.nspname, n.nspowner::regrole, n.nspacl) from pg_namespace as n where n.nspname = '${id}'
        union all
        select concat_ws(' ', 'relation', c.relname, c.relkind, c.relowner::regrole, c.relacl, i.inhparent::regclass, pg_get_expr(c.relpartbound, c.oid),
                         pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisready)
        from pg_class as c left join pg_inherits as i on i.inhrelid = c.oid left join pg_index as x on x.indexrelid = c.oid
        where c.relnamespace = to_regnamespace('${id}')
        union all
        select concat_ws(' ', 'constraint', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid), k.convalidated)
        from pg_constraint as k where k.connamespace = to_regnamespace('${id}')
        union all
        select concat_ws(' ', 'trigger', g.tgrelid::regclass, g.tgname, g.tgenabled)
        from pg_trigger as g join pg_class as c on c.oid = g.tgrelid where c.relnamespace = to_regnamespace('${id}') and not g.tgisinternal
        union all
        select concat_ws(' ', 'function', p.proname, p.proowner::regrole, p.proacl) from pg_proc as p where p.pronamespace = to_regnamespace('${id}')
        union all
        select concat_ws(' ', 'default', d.defaclrole::regrole, d.defaclobjtype, d.defaclacl) from pg_default_acl as d where d.defaclnamespace = to_regnamespace('${id}')
        union all
        select concat_ws(' ', 'role', to_jsonb(r) - 'oid') from pg_roles as r where starts_with(r.rolname, '${id}_')
        union all
        select concat_ws(' ', 'member', m.roleid::regrole, m.member::regrole, m.admin_option) from pg_auth_members as m join pg_roles as r on r.oid = m.member where starts_with(r.rolname, '${id}_')
        ${rows.map((table) => `union all select concat_ws(' ', '${table}', t::text) from ${id}.${table} as t`).join('\n        ')}
    ) as l (line)`;
