-- migrate:up
create function ensure._routes_v1(
    root regclass,
    condition text,
    partition oid
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _routes_v1: for this session a row of root with condition lies in partition.
--
-- Returns  false when the relation cache of the session lacks it, as the plan of a query shows;
--          null when that cannot be told: partitioned itself, foreign, locked, root unreadable
-- Locks    ACCESS SHARE on root and partition, given back at once; waits 1 ms at most
-- Races    PostgreSQL keeps a list of partitions that it read while one was attached: ATTACH leaves
--          the table open to others, so its invalidation can arrive while they build that list, and
--          is forgotten. Such a session finds no partition for the row (23514), at the next insert
--          and at all that follow, until something else changes the table. A list that holds it
--          does so while it stays attached: what was seen is noted in ensure.seen, a setting of the
--          session, and not looked at again, also when it was detached and attached meanwhile
declare
    c_seen constant text := coalesce(nullif(current_setting('ensure.seen', true), ''), ' ');
    v_path text[];
    v_name text;
    v_plan jsonb;
begin
    if strpos(c_seen, format(' %s ', partition)) > 0 then
        return true;
    end if;
    if condition is null or pg_get_partkeydef(partition) is not null
       or has_table_privilege(partition, 'SELECT') is null -- null: dropped meanwhile
       or exists (select from pg_foreign_table as f -- its planner may ask the other server
                  where f.ftrelid = partition) then
        return null;
    end if;
    begin
        perform set_config('lock_timeout', '1ms', true),
                set_config('row_security', 'off', true),
                set_config('enable_partition_pruning', 'on', true),
                set_config('constraint_exclusion', 'off', true);
        execute format('explain (costs off, format json) select from %s where %s', root, condition)
        into v_plan;
        raise exception using errcode = 'NS100';
    exception
        when sqlstate 'NS100' then -- locks and settings have gone with the subtransaction
            null;
        when lock_not_available or insufficient_privilege or undefined_table
             or undefined_function then
            return null;
    end;
    v_path := parse_ident(partition::regclass::text); -- of now, whatever the snapshot shows
    v_name := v_path[cardinality(v_path)];
    if v_plan #>> '{0,Plan,Relation Name}' is distinct from v_name
       and not exists (select from jsonb_path_query(v_plan, '$.**."Relation Name"') as r (name)
                       where r.name #>> '{}' = v_name) then
        return false;
    end if;
    perform set_config('ensure.seen', format(' %s%s', partition, left(c_seen, 12000)), false);
    return true;
end
$fn$;

comment on function ensure._routes_v1(regclass, text, oid) is
    'For this session a row of root with condition lies in partition.';

create function ensure._key_condition_v1(
    kind "char",
    key_column name,
    key_type regtype,
    value text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_condition_v1: the SQL condition that the key is value, null when one value does not tell.
begin
    return case when kind in ('r', 'l') and value not in ('MINVALUE', 'MAXVALUE') then
        format('%I operator(pg_catalog.=) %L::%s', key_column, value,
               format_type(key_type, -1)) end; -- without a modifier: character alone is char(1)
end
$fn$;

comment on function ensure._key_condition_v1("char", name, regtype, text) is
    'The SQL condition that the key is value, null when one value does not tell.';

create function ensure._forget_partitions_v1(
    partition regclass
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $fn$
-- _forget_partitions_v1: this session reads the partitions of all tables above partition anew.
--
-- Locks    SHARE UPDATE EXCLUSIVE on each of them for a moment, as ATTACH does: writers go on. Who
--          holds it longer is left alone, for what he does to the table has the same effect
-- Races    a change that is rolled back invalidates the relation cache of this session only
-- Rights   ownership; without it nothing happens
declare
    v_table record;
begin
    for v_table in
        select a.relid::regclass as name,
               (select c.attname from pg_attribute as c
                where c.attrelid = a.relid and c.attnum > 0 and not c.attisdropped
                order by c.attnum limit 1) as column
        from pg_partition_ancestors(partition) as a
        where a.relid <> partition
    loop
        begin
            execute format('alter table only %s alter column %I set statistics -1', v_table.name,
                           v_table.column);
            raise exception using errcode = 'NS100';
        exception
            when sqlstate 'NS100' or lock_not_available or insufficient_privilege or object_in_use
                 or undefined_table or raise_exception then -- the last from an event trigger
                null;
        end;
    end loop;
end
$fn$;

comment on function ensure._forget_partitions_v1(regclass) is
    'This session reads the partitions of all tables above partition anew.';

create function ensure._see_partition_v1(
    root regclass,
    condition text,
    partition oid
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _see_partition_v1: a row with condition that this session inserts into root finds partition.
--
-- Locks    as of _routes_v1 and, when the session lacks it, of _forget_partitions_v1
-- Rights   a session that lacks it and does not own the table is left as it is
begin
    for v_try in 1 .. 3 loop
        exit when ensure._routes_v1(root, condition, partition) is not false
               or current_setting('transaction_read_only')::boolean;
        perform ensure._forget_partitions_v1(partition);
    end loop;
end
$fn$;

comment on function ensure._see_partition_v1(regclass, text, oid) is
    'A row with condition that this session inserts into root finds partition.';

create function ensure._see_nodes_v1(
    nodes ensure._node_v1[],
    node integer[],
    partition oid[],
    lower_bounds text[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _see_nodes_v1: as _see_partition_v1, for node[i] in partition[i].
declare
    v_conditions text[] := '{}'; -- of each node, with those of the nodes above it
    v_row record;
begin
    for v_row in
        select n.root, n.within, f.node, f.partition,
               ensure._key_condition_v1(n.kind, n.key_column, n.key_type,
                                        case n.kind when 'r' then f.lower_bound
                                                    else n.lower_bound end) as condition
        from unnest(node, partition, lower_bounds) with ordinality
             as f (node, partition, lower_bound, place)
        join unnest(nodes) with ordinality
             as n (root, parent, within, kind, key_column, key_type, lower_bound, upper_bound,
                   label, partition_by, grid, place) on n.place = f.node
        order by f.node, f.place
    loop
        if v_row.within is not null then
            v_row.condition := v_conditions[v_row.within] || ' and ' || v_row.condition;
        end if;
        v_conditions[v_row.node] := v_row.condition;
        perform ensure._see_partition_v1(v_row.root, v_row.condition, v_row.partition);
    end loop;
end
$fn$;

comment on function ensure._see_nodes_v1(ensure._node_v1[], integer[], oid[], text[]) is
    'As _see_partition_v1, for node[i] in partition[i].';

-- migrate:down
drop function ensure._see_nodes_v1(ensure._node_v1[], integer[], oid[], text[]);
drop function ensure._see_partition_v1(regclass, text, oid);
drop function ensure._forget_partitions_v1(regclass);
drop function ensure._key_condition_v1("char", name, regtype, text);
drop function ensure._routes_v1(regclass, text, oid);
