-- migrate:up
create function ensure._check_index_v1(
    unique_keys ensure._unique_key_v1[]
)
returns table (object text, state text, detail text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_index_v1: each index that is wanted and not valid; no row when they make the key unique.
declare
    v_found record;
begin
    if cardinality(unique_keys) > 2 then
        v_found := ensure._look_unique_v1(unique_keys[1]);
        if v_found.state = 'valid' then
            return;
        end if;
    end if;
    for v_place in 2 .. cardinality(unique_keys) loop
        v_found := ensure._look_unique_v1(unique_keys[v_place]);
        continue when v_found.state = 'valid';
        object := coalesce(v_found.index_oid::regclass::text,
                           unique_keys[v_place].target::regclass::text);
        state := v_found.state;
        detail := case
            when state = 'missing' then format(
                'missing: %s', ensure._index_statement_v1(unique_keys[v_place], null, ''))
            when state = 'different' then format(
                'different: %s; wanted: %s', v_found.definition,
                ensure._index_statement_v1(unique_keys[v_place], null, ''))
            when state in ('enforcing', 'inert') then format(
                'invalid and %s: %s', state, v_found.definition)
            else concat_ws(': ', state, v_found.definition) end;
        return next;
    end loop;
end
$fn$;

comment on function ensure._check_index_v1(ensure._unique_key_v1[]) is
    'Each index that is wanted and not valid; no row when they make the key unique.';

create function ensure.check_duplicates_v1(
    target regclass,
    columns text[],
    predicate text default null,
    nulls_equal boolean default true,
    keep text default null
)
returns table (object text, finding text, row_count bigint, detail text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set array_nulls = on
as $fn$
-- check_duplicates_v1: what stands between target and a unique index on columns.
--
-- Returns  no rows when a valid index makes it unique, but for 'gate', of a plan that has not come
--          to its end, which is always told. Without duplicates, 'index': the state of each index
--          that is wanted. Else, where there is something: 'groups', 'losers' (rows beyond one for
--          each group), 'widest group' (detail: its key), 'groups with null' and 'losers with
--          null', which are duplicates only where nulls are equal; for each foreign key, as name on
--          table: 'moves', 'collides' (detail: the unique index), 'cannot move', 'unindexed'; of a
--          plain delete: 'destroyed by cascade', for each table, 'loses reference'; 'trigger', that
--          would fire; 'rule', which ensure_unique_v1 and plan_unique_v1 refuse where it would run;
--          'index', when it is not simply missing. Who stays is the first by keep, else by primary
--          key
-- Errors   22004, 22023, 22P02, 42601, 42701, 42703, 42704, 42804, 42883, 42P02, 54000, 54011  bad
--                 input
--          42P01, 42809, 0A000  no such table; not a table; partitioned at any level by what
--                 columns lacks, with a foreign table; a whole row or a virtual column in columns;
--                 a column with a name like "~row"
--          42P17  an expression or the predicate is not immutable
--          42501  a table may not be read, or row security would hide rows
--          NS010  a foreign key with PERIOD refers to target
-- Locks    ACCESS SHARE on what it reads
-- Races    each query has its own snapshot; REPEATABLE READ gives one for all
-- Rights   to read target and what refers to it, at any level by cascade. What the owners of the
--          tables wrote runs with the rights of the caller, as in any query: expressions, casts,
--          checks of domains. A superuser calls as the owner (SET ROLE) where they are not trusted
declare
    c_keys constant ensure._unique_key_v1[] :=
        ensure._unique_keys_v1(target, columns, predicate, nulls_equal, false);
    v_index record;
    v_report record;
    v_losers record;
begin
    perform ensure._check_dedupe_v1(target, keep, 'delete', null, 'move', null);
    select array_agg(i.object) as objects, array_agg(i.state) as states,
           array_agg(i.detail) as details
    into v_index
    from ensure._check_index_v1(c_keys) as i;
    if v_index.objects is null then
        return query select t.* from ensure._check_triggers_v1(target, 0, null) as t;
        return;
    end if;
    perform ensure._check_readable_v1(target);
    for v_place in 2 .. cardinality(c_keys) loop
        perform ensure._check_indexable_v1(c_keys[v_place]);
    end loop;
    v_report := ensure._report_duplicates_v1(c_keys[1]);
    if v_report.groups > 0 then
        return query
        select target::text, r.finding, r.n, r.detail
        from (values ('groups', v_report.groups, null), ('losers', v_report.losers, null),
                     ('widest group', v_report.widest, v_report.example),
                     ('groups with null', v_report.null_groups, null),
                     ('losers with null', v_report.null_losers,
                      'not with nulls_equal => false'))
             as r (finding, n, detail)
        where r.n > 0;
    end if;
    return query
    select t.*
    from ensure._check_triggers_v1(target, case when v_report.groups > 0 then 24 else 0 end,
                                   null) as t;
    return query
    select u.object, 'index', null::bigint, u.detail
    from unnest(v_index.objects, v_index.states, v_index.details) as u (object, state, detail)
    where v_report.groups = 0 or u.state <> 'missing';
    if v_report.groups > 0 and exists (select from ensure._references_v1(target)) then
        perform ensure._check_readable_v1(m.relation)
        from ensure._merge_tables_v1(target, true) as m;
        v_losers := ensure._losers_v1(c_keys[1], coalesce(keep, (
            select string_agg(quote_ident(k.name), ', ' order by k.place)
            from unnest(ensure._row_key_v1(target)) with ordinality as k (name, place)
            where k.name not in ('ctid', 'tableoid'))));
        return query
        select f.object, f.finding, sum(f.row_count)::bigint, f.detail
        from ensure._check_children_v1(target, v_losers.losers, v_losers.keepers, '{}')
             with ordinality as f (object, finding, row_count, detail, place)
        group by f.object, f.finding, f.detail
        order by min(f.place);
        return query select c.* from ensure._check_cascade_v1(target, v_losers.losers) as c;
    end if;
end
$fn$;

comment on function ensure.check_duplicates_v1(regclass, text[], text, boolean, text) is
    'What stands between target and a unique index on columns.';

-- migrate:down
drop function ensure.check_duplicates_v1(regclass, text[], text, boolean, text);
drop function ensure._check_index_v1(ensure._unique_key_v1[]);
