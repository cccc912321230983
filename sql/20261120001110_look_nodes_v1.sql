-- migrate:up
create function ensure._unseen_partitions_v1(
    parent regclass,
    schema_name name,
    table_name name,
    lower_bounds text[],
    upper_bounds text[],
    labels text[],
    every boolean
)
returns oid[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unseen_partitions_v1: tables that may be partitions of parent though the snapshot is too old.
--
-- Returns  none under READ COMMITTED; else what has the derived names now, or every partition
-- Locks    with every, ACCESS SHARE on every partition
-- Races    to_regclass and pg_partition_tree read current catalogs once a relation lock is new
begin
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
        return '{}';
    elsif every then
        return array(select t.relid::oid from pg_partition_tree(parent) as t where t.level = 1);
    end if;
    return array(
        select to_regclass(format('%I.%I', schema_name, n.name))::oid
        from unnest(lower_bounds, upper_bounds, labels) as w (lower_bound, upper_bound, label)
        cross join unnest(ensure._partition_names_v1(table_name, w.lower_bound, w.upper_bound,
                                                     w.label)) as n (name)
        where to_regclass(format('%I.%I', schema_name, n.name)) is not null);
end
$fn$;

comment on function ensure._unseen_partitions_v1(regclass, name, name, text[], text[], text[],
                                                 boolean) is
    'Tables that may be partitions of parent though the snapshot is too old.';

create function ensure._look_nodes_v1(
    nodes ensure._node_v1[],
    depth text
)
returns table (node integer, parent oid, partition oid, lower_bound text, upper_bound text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_nodes_v1: for each node its parent and its partition, by bounds, null where missing.
--
-- Returns  in the order of nodes; several rows where several partitions make up a cell
-- Errors   as of _find_partitions_v1 and _cover_cells_v1
--          42P01  a parent was dropped meanwhile
--          NS001  a partition that must be partitioned itself is not, or by another key
-- Locks    none with depth 'names' (those of ours only), 'snapshot', also whatever their names;
--          under an old snapshot ACCESS SHARE on partitions with our names with 'derived', on all
--          with 'every'
declare
    v_found oid[];
    v_cells oid[];
    v_group record;
    v_row record;
    v_path text[];
    v_left integer[];
begin
    for v_group in
        select n.within, n.parent as top, n.kind, n.key_column, n.key_type,
               coalesce((n.grid ->> 'regrid')::boolean, false) as regrid,
               array_agg(n.lower_bound order by n.place) as lower_bounds,
               array_agg(n.upper_bound order by n.place) as upper_bounds,
               array_agg(n.label order by n.place) as labels,
               array_agg(n.place::integer order by n.place) as places
        from unnest(nodes) with ordinality
             as n (root, parent, within, kind, key_column, key_type, lower_bound, upper_bound,
                   label, partition_by, grid, place)
        group by n.within, n.parent, n.kind, n.key_column, n.key_type, n.grid
        order by min(n.place)
    loop
        parent := coalesce(v_group.top, v_found[v_group.within]);
        v_cells := '{}';
        if parent is not null then
            if has_table_privilege(parent, 'SELECT') is null then -- null: no such table now
                raise exception using
                    errcode = 'undefined_table',
                    message = format('relation with oid %s does not exist any more', parent),
                    hint = 'It was dropped meanwhile; name a partitioned table that exists.';
            end if;
            perform ensure._check_parent_v1(parent, v_group.kind, v_group.key_column)
            where v_group.within is not null;
            v_path := parse_ident(parent::regclass::text);
            v_cells := ensure._find_partitions_v1(parent, v_path[1], v_path[2], v_group.kind,
                                                  v_group.lower_bounds, v_group.upper_bounds,
                                                  v_group.labels);
        end if;
        v_left := array(select g.cell from generate_subscripts(v_group.places, 1) as g (cell)
                        where v_cells[g.cell] is null);
        for v_row in
            select g.cell, v_cells[g.cell] as partition,
                   v_group.lower_bounds[g.cell] as lower_bound,
                   v_group.upper_bounds[g.cell] as upper_bound
            from generate_subscripts(v_group.places, 1) as g (cell)
            where v_cells[g.cell] is not null or parent is null or depth = 'names'
            union all
            select v_left[c.cell], c.partition, c.lower_bound, c.upper_bound
            from ensure._cover_cells_v1(
                     parent, v_group.kind, v_group.key_column, v_group.key_type,
                     array(select v_group.lower_bounds[l.cell] from unnest(v_left) as l (cell)),
                     array(select v_group.upper_bounds[l.cell] from unnest(v_left) as l (cell)),
                     case when depth in ('derived', 'every') then ensure._unseen_partitions_v1(
                         parent, v_path[1], v_path[2], v_group.lower_bounds, v_group.upper_bounds,
                         v_group.labels, depth = 'every') else '{}' end,
                     v_group.regrid) as c
            where parent is not null and depth <> 'names' and v_left <> '{}'
        loop
            node := v_group.places[v_row.cell];
            partition := v_row.partition;
            lower_bound := v_row.lower_bound;
            upper_bound := v_row.upper_bound;
            v_found[node] := partition;
            return next;
        end loop;
    end loop;
end
$fn$;

comment on function ensure._look_nodes_v1(ensure._node_v1[], text) is
    'For each node its parent and its partition, by bounds, null where missing.';

create function ensure._check_parent_v1(
    parent regclass,
    kind "char",
    key_column name
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_parent_v1: a partition is partitioned itself, as the level below it needs.
--
-- Errors   NS001  it is not
declare
    c_wanted constant text := format('%s (%I)', case kind when 'r' then 'RANGE' when 'l' then 'LIST'
                                                else 'HASH' end, key_column);
    v_found text;
begin
    if exists (select from pg_partitioned_table as p
               join pg_class as c on c.oid = p.partrelid and ensure._stands_v1(c.xmax)
               join pg_opclass as o on o.oid = p.partclass[0] and o.opcdefault
               join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
               where p.partrelid = parent and p.partstrat = kind and p.partnatts = 1
                 and a.attname = key_column) then
        return;
    end if;
    v_found := pg_get_partkeydef(parent); -- reads current catalogs, and waits for the lock
    if v_found = c_wanted then
        return;
    end if;
    raise exception using
        errcode = 'NS001',
        message = format('partition "%s" is not partitioned as path says', parent),
        detail = format('It is %s; path needs %s.', coalesce('partitioned by ' || v_found,
                                                             'not partitioned'), c_wanted),
        hint = 'Use the levels and keys that the existing partitions have.';
end
$fn$;

comment on function ensure._check_parent_v1(regclass, "char", name) is
    'A partition is partitioned itself, as the level below it needs.';

-- migrate:down
drop function ensure._check_parent_v1(regclass, "char", name);
drop function ensure._look_nodes_v1(ensure._node_v1[], text);
drop function ensure._unseen_partitions_v1(regclass, name, name, text[], text[], text[], boolean);
