-- migrate:up
create function ensure._finish_partition_v1(
    wanted ensure._node_v1,
    partition regclass,
    attached boolean,
    template regclass,
    move_until timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set default_tablespace = '' -- of the indexes that ATTACH makes
as $fn$
-- _finish_partition_v1: partition is one of wanted's parent, with its bounds and properties.
--
-- Errors   NS001  it came out with other bounds
--          23514  the default partition holds rows that belong into it
declare
    v_bounds text[];
    v_same boolean;
    v_statement text;
begin
    if not attached then
        if move_until is not null then
            perform ensure._move_rows_v1(
                wanted.parent, partition,
                ensure._condition_v1(wanted.kind, wanted.key_column, wanted.key_type,
                                     array[wanted.lower_bound], array[wanted.upper_bound]),
                move_until);
        end if;
        perform ensure._run_v1(ensure._attach_statement_v1(
            wanted.parent::text, partition::text, wanted.kind, wanted.lower_bound,
            wanted.upper_bound));
    end if;
    for v_statement in
        select s.statement
        from ensure._property_statements_v1(wanted.root, partition, template) as s
    loop
        perform ensure._run_v1(v_statement);
    end loop;

    select ensure._bounds_v1(pg_get_expr(c.relpartbound, 0)) into v_bounds
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhrelid = partition and i.inhparent = wanted.parent;
    v_same := found and v_bounds is not distinct from case wanted.kind
        when 'd' then null
        when 'l' then array[wanted.lower_bound]
        else array[wanted.lower_bound, wanted.upper_bound] end;
    if not v_same and wanted.kind = 'l' and cardinality(v_bounds) = 1 then -- 1.5 and 1.50
        execute format('select %L::%s = %L::%2$s', v_bounds[1],
                       format_type(wanted.key_type, -1), wanted.lower_bound)
        into v_same;
    end if;
    if v_same is not true then
        raise exception using
            errcode = 'NS001',
            message = format('partition "%s" of "%s" did not come out as asked for', partition,
                             wanted.parent),
            detail = ensure._overlap_v1(wanted.kind, v_bounds[1], v_bounds[2], wanted.lower_bound,
                                        wanted.upper_bound),
            hint = 'Look for an event trigger, or a type modifier of the key that rounds bounds.';
    end if;
end
$fn$;

comment on function ensure._finish_partition_v1(ensure._node_v1, regclass, boolean, regclass,
                                                timestamptz) is
    'Partition is one of wanted''s parent, with its bounds and properties.';

create function ensure._fill_nodes_v1(
    nodes ensure._node_v1[],
    depth text,
    locked regclass[],
    template regclass,
    move_until timestamptz
)
returns table (node integer, partition oid, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _fill_nodes_v1: each node lies in a partition; the caller holds the locks.
--
-- Returns  outcome 'exists' | 'created' | 'attached'; only 'exists': nothing was changed
-- Errors   as of _look_nodes_v1, _check_missing_v1, _make_table_v1 and _finish_partition_v1
--          42P17  a new partition overlaps one that the snapshot does not show: look deeper
-- Locks    sub-trees are built while nobody sees them and attached last
declare
    v_rows record;
    v_missing ensure._node_v1[] := '{}';
    v_place integer[];       -- for each of v_missing, where in v_rows
    v_one ensure._node_v1;
    v_of_node regclass[];    -- for each node, what was made for it
    v_outcome text[];
    v_path text[];
    v_names name[];
    v_orphan regclass;
    v_row integer;
begin
    select array_agg(l.node) as node, array_agg(l.parent) as parent,
           array_agg(l.partition) as partition, array_agg(l.lower_bound) as lower_bound,
           array_agg(l.upper_bound) as upper_bound
    into v_rows
    from ensure._look_nodes_v1(nodes, depth) as l;
    v_outcome := array_fill('exists'::text, array[cardinality(v_rows.node)]);
    for v_at in 1 .. cardinality(v_rows.node) loop
        if v_rows.partition[v_at] is null then
            v_one := nodes[v_rows.node[v_at]];
            v_one.parent := v_rows.parent[v_at];
            v_one.lower_bound := v_rows.lower_bound[v_at];
            v_one.upper_bound := v_rows.upper_bound[v_at];
            v_missing := v_missing || v_one;
            v_place := v_place || v_at;
        end if;
    end loop;
    perform ensure._check_missing_v1(v_missing, locked, depth);

    for v_at in 1 .. cardinality(v_missing) loop
        v_one := v_missing[v_at];
        v_row := v_place[v_at];
        v_orphan := null;
        v_path := parse_ident(coalesce(v_one.parent, v_of_node[v_one.within])::text);
        v_names := ensure._partition_names_v1(v_path[2], v_one.lower_bound, v_one.upper_bound,
                                              v_one.label);
        if v_one.parent is not null and v_one.partition_by is null then
            v_orphan := (select o.orphan
                         from ensure._orphan_v1(v_one.root, v_path[1], v_names[1]) as o (orphan)
                         where array_position(v_rows.partition, o.orphan::oid) is null); -- new
        end if;
        v_one.parent := coalesce(v_one.parent, v_of_node[v_one.within]);
        v_missing[v_at] := v_one;
        v_outcome[v_row] := case
            when v_orphan is not null and ensure._attach_orphan_v1(
                     v_one.parent, v_orphan, v_one.kind, v_one.lower_bound, v_one.upper_bound)
            then 'attached' else 'created' end;
        v_rows.partition[v_row] := case
            when v_outcome[v_row] = 'attached' then v_orphan
            else ensure._make_table_v1(v_one.parent, v_one.root, v_names, v_one.partition_by) end;
        v_of_node[v_rows.node[v_row]] := v_rows.partition[v_row];
    end loop;

    -- From 17 on ATTACH hands identity down one level at a time: then from the top.
    foreach v_row in array array(
        select g.at from generate_subscripts(v_missing, 1) as g (at)
        order by g.at * case when current_setting('server_version_num')::integer >= 170000
                                  and exists (select from pg_attribute as a
                                              where a.attrelid = (nodes[1]).root
                                                and a.attidentity <> '')
                             then 1 else -1 end)
    loop
        perform ensure._finish_partition_v1(
            v_missing[v_row], v_rows.partition[v_place[v_row]],
            v_outcome[v_place[v_row]] = 'attached', template, move_until);
    end loop;
    return query
    select r.node, r.partition, r.lower_bound, r.upper_bound, r.outcome
    from unnest(v_rows.node, v_rows.partition, v_rows.lower_bound, v_rows.upper_bound, v_outcome)
         as r (node, partition, lower_bound, upper_bound, outcome);
end
$fn$;

comment on function ensure._fill_nodes_v1(ensure._node_v1[], text, regclass[], regclass,
                                          timestamptz) is
    'Each node lies in a partition; the caller holds the locks.';

-- migrate:down
drop function ensure._fill_nodes_v1(ensure._node_v1[], text, regclass[], regclass, timestamptz);
drop function ensure._finish_partition_v1(ensure._node_v1, regclass, boolean, regclass,
                                          timestamptz);
