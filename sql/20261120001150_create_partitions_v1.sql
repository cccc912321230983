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

create function ensure._check_neighbours_v1(
    wanted ensure._node_v1,
    lower_bounds text[],
    upper_bounds text[],
    candidates oid[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_neighbours_v1: the partitions next to what is missing are cells of the same grid.
--
-- Errors   NS008  one is not; such with an open end, as for old or future rows, do not count
declare
    v_cells text[];
    v_row record;
    v_at text;
begin
    for v_row in
        select c.*
        from ensure._neighbours_v1(wanted.parent, wanted.key_column, wanted.key_type, lower_bounds,
                                   upper_bounds, candidates) as c
    loop
        v_at := v_row.lower_bound;
        v_cells := null;
        begin
            if wanted.key_type = 'uuid'::regtype then
                v_at := to_timestamp(('x' || left(replace(v_at, '-', ''), 12))::bit(48)::bigint
                                     / 1000.0)::text;
            end if;
            v_cells := ensure._grid_cells_v1(
                wanted.key_type, (wanted.grid ->> 'typmod')::integer, wanted.grid ->> 'step', v_at,
                v_at, 0, wanted.grid ->> 'zone', wanted.grid ->> 'origin',
                wanted.grid ->> 'epoch');
        exception when data_exception then
            null; -- the grid has no cell there
        end;
        if v_cells[:2] is distinct from array[v_row.lower_bound, v_row.upper_bound] then
            raise exception using
                errcode = 'NS008',
                message = format('partition "%s" of "%s" is of another grid than the one asked'
                                 ' for', v_row.partition::regclass, wanted.parent),
                detail = format('It holds the range from %s to %s; the range asked for is from %s'
                                ' to %s.', v_row.lower_bound, v_row.upper_bound, lower_bounds[1],
                                upper_bounds[1]),
                hint = 'Use the step, zone and origin that the existing partitions have;'
                       ' regrid => true begins another grid beside them.';
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_neighbours_v1(ensure._node_v1, text[], text[], oid[]) is
    'The partitions next to what is missing are cells of the same grid.';

create function ensure._neighbours_v1(
    parent regclass,
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[],
    candidates oid[]
)
returns table (partition oid, lower_bound text, upper_bound text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _neighbours_v1: the nearest range partition below and above each cell, but those with open ends.
declare
    c_type constant text := case when ensure._integer_end_v1(key_type) is not null then 'numeric'
                                 when key_type = 'uuid'::regtype then 'text collate "C"'
                                 else key_type::text end;
begin
    return query execute format($sql$
        with present as materialized (
            select l.partition, l.bounds[1] as low, l.bounds[2] as high
            from ensure._list_partitions_v1($1, 'r', $2, null, null, $5) as l
            where not lower(l.bounds::text)::text[]
                      && '{minvalue,maxvalue,-infinity,infinity,nan}'
        )
        select distinct n.partition, n.low, n.high
        from unnest($3, $4) as c (low, high)
        cross join lateral (
            (select p.* from present as p
             where p.high::%1$s <= nullif(c.low, 'MINVALUE')::%1$s
             order by p.high::%1$s desc limit 1)
            union all
            (select p.* from present as p
             where p.low::%1$s >= nullif(c.high, 'MAXVALUE')::%1$s
             order by p.low::%1$s limit 1)) as n
        $sql$, c_type)
        using parent, key_column, lower_bounds, upper_bounds, candidates;
end
$fn$;

comment on function ensure._neighbours_v1(regclass, name, regtype, text[], text[], oid[]) is
    'The nearest range partition below and above each cell, but those with open ends.';

create function ensure._runs_v1(
    lower_bounds text[],
    upper_bounds text[]
)
returns table (lower_bound text, upper_bound text)
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _runs_v1: cells that follow one another, merged.
begin
    for v_at in 1 .. cardinality(lower_bounds) loop
        lower_bound := coalesce(lower_bound, lower_bounds[v_at]);
        if upper_bounds[v_at] is distinct from lower_bounds[v_at + 1] then
            upper_bound := upper_bounds[v_at];
            return next;
            lower_bound := null;
        end if;
    end loop;
end
$fn$;

comment on function ensure._runs_v1(text[], text[]) is
    'Cells that follow one another, merged.';

create function ensure._check_missing_v1(
    missing ensure._node_v1[],
    locked regclass[],
    depth text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_missing_v1: what is missing under the locks may be created as it is.
--
-- Errors   NS101  locked lacks a parent that needs a partition: look and lock again
--          NS008  neighbours are of another grid
declare
    v_group record;
    v_path text[];
begin
    for v_group in
        select m.parent, m.grid, array_agg(m.lower_bound order by m.place) as lower_bounds,
               array_agg(m.upper_bound order by m.place) as upper_bounds,
               array_agg(m.label order by m.place) as labels, min(m.place)::integer as place
        from unnest(missing) with ordinality
             as m (root, parent, within, kind, key_column, key_type, lower_bound, upper_bound,
                   label, partition_by, grid, place)
        where m.parent is not null
        group by m.parent, m.grid
    loop
        if v_group.parent = any (locked) is not true then
            raise exception using errcode = 'NS101';
        elsif v_group.grid is not null and not (v_group.grid ->> 'regrid')::boolean then
            v_path := parse_ident(v_group.parent::text);
            perform ensure._check_neighbours_v1(
                missing[v_group.place], array_agg(r.lower_bound), array_agg(r.upper_bound),
                ensure._unseen_partitions_v1(v_group.parent, v_path[1], v_path[2],
                                             v_group.lower_bounds, v_group.upper_bounds,
                                             v_group.labels, depth = 'every'))
            from ensure._runs_v1(v_group.lower_bounds, v_group.upper_bounds) as r;
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_missing_v1(ensure._node_v1[], regclass[], text) is
    'What is missing under the locks may be created as it is.';

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

create function ensure._check_defaults_v1(
    nodes ensure._node_v1[],
    parents regclass[],
    move boolean,
    max_block interval,
    wait integer,
    until timestamptz
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_defaults_v1: whether rows of default partitions of parents have to be moved.
--
-- Errors   as of _check_default_v1
declare
    v_group record;
    v_move boolean := false;
begin
    for v_group in
        select l.parent, count(*)::integer as partitions,
               ensure._condition_v1((nodes[min(l.node)]).kind, (nodes[min(l.node)]).key_column,
                                    (nodes[min(l.node)]).key_type,
                                    array_agg(l.lower_bound order by l.node),
                                    array_agg(l.upper_bound order by l.node)) as condition
        from ensure._look_nodes_v1(nodes, 'names') as l
        where l.partition is null and l.parent = any (parents)
          and (nodes[l.node]).kind in ('r', 'l')
        group by l.parent
    loop
        v_move := ensure._check_default_v1(v_group.parent, v_group.condition, v_group.partitions,
                                           move, max_block, wait, until) or v_move;
    end loop;
    return v_move;
end
$fn$;

comment on function ensure._check_defaults_v1(ensure._node_v1[], regclass[], boolean, interval,
                                              integer, timestamptz) is
    'Whether rows of default partitions of parents have to be moved.';

create function ensure._raise_problem_v1(
    code text,
    problem text,
    table_name text,
    parents regclass[],
    partitions integer
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_problem_v1: what PostgreSQL said on the way, with advice.
--
-- Errors   55006, NS001, NS004, 53200  as it was
begin
    if code = '55006' then
        raise exception using
            errcode = 'object_in_use',
            message = problem,
            hint = format('Call before the statement that uses "%s", not from a trigger'
                          ' or cursor on it.', parents[1]);
    elsif code = '23514' then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" holds rows that belong in a new'
                             ' partition', table_name, parents[1]),
            detail = problem,
            hint = 'Move these rows out of the default partition, then call again.';
    end if;
    if code = '42P17' then
        raise exception using
            errcode = 'NS001',
            message = problem,
            detail = format('A new partition of "%s" holds what another one holds already.',
                            array_to_string(parents, ', ')),
            hint = 'Ask for values as the existing partitions have them.';
    end if;
    perform ensure._raise_out_of_locks_v1(parents, partitions, problem);
end
$fn$;

comment on function ensure._raise_problem_v1(text, text, text, regclass[], integer) is
    'What PostgreSQL said on the way, with advice.';

create function ensure._create_partitions_v1(
    nodes ensure._node_v1[],
    template regclass,
    move boolean,
    max_block interval,
    max_wait interval
)
returns table (node integer, partition oid, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_partitions_v1: each node lies in a partition, made here or by another caller.
--
-- Errors   as listed by ensure_partitions_v1 and ensure_partition_tree_v1
-- Locks    each attempt is a subtransaction, rolled back before the next: it never waits while
--          holding, except 50 ms for what it did not lock first (a row that a GRANT has written)
-- Races    looks again under the lock; an attempt that finds all made gives its locks back at once
declare
    c_written constant boolean := ensure._has_written_v1();
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when c_written then max_block end, '100 years');
    c_flat constant boolean := not exists (select from unnest(nodes) as n where n.within > 0);
    c_queue constant regclass := (select min(n.root::oid) from unnest(nodes) as n);
    v_rows record;
    v_relations regclass[];
    v_modes text[];
    v_busy text;
    v_wait integer := 0;
    v_patient regclass[] := '{}'; -- waited for past deadlock_timeout, once
    v_checked regclass[];         -- default partitions of these are read
    v_move boolean := false;
    v_depth text := 'derived';
    v_look text := case when c_flat then 'names' else 'snapshot' end;
    v_tries integer := 0;
    v_clashes integer := 0;
    v_problem text;
begin
    loop
        select array_agg(l.node) as node, array_agg(l.partition) as partition,
               array_agg(l.lower_bound) as lower_bound, array_agg(l.upper_bound) as upper_bound,
               array_agg('exists'::text) as outcome, count(*)::integer as partitions,
               array_agg(distinct l.parent::regclass) filter (
                   where l.partition is null and l.parent is not null) as parents
        into v_rows
        from ensure._look_nodes_v1(nodes, v_look) as l;
        if v_rows.parents is null then -- made by others meanwhile
            perform ensure._await_commit_v1(v_rows.partition);
            exit;
        end if;
        select array_agg(l.relation order by l.relation::text is distinct from v_busy, l.place),
               array_agg(l.mode order by l.relation::text is distinct from v_busy, l.place)
        into v_relations, v_modes
        from ensure._attach_locks_v1(v_rows.parents, v_move)
             with ordinality as l (relation, mode, place);
        begin
            if not c_written then
                v_wait := ensure._first_wait_v1(v_relations, v_modes, max_block, c_end,
                                                v_relations[1] <> all (v_patient));
                if v_wait > extract(epoch from max_block) * 1000 then
                    v_patient := v_patient || v_relations[1];
                end if;
            end if;
            if v_rows.parents <@ v_checked is not true then
                v_move := ensure._check_defaults_v1(nodes, v_rows.parents, move, max_block,
                                                    v_wait, c_end);
                v_checked := v_rows.parents;
                if v_move then
                    raise exception using errcode = 'NS101';
                end if;
            end if;
            perform ensure._take_locks_v1(v_relations, v_modes, c_queue, v_wait, c_end);

            select array_agg(f.node) as node, array_agg(f.partition) as partition,
                   array_agg(f.lower_bound) as lower_bound,
                   array_agg(f.upper_bound) as upper_bound, array_agg(f.outcome) as outcome
            into v_rows
            from ensure._fill_nodes_v1(nodes, v_depth, v_rows.parents, template, case when v_move
                                       then clock_timestamp() + max_block end) as f;
            if 'exists' = all (v_rows.outcome) then
                raise exception using errcode = 'NS100'; -- not NS000: that is the whole class
            end if;
            perform set_config('lock_timeout', c_lock_timeout, true);
            exit;
        exception
            when sqlstate 'NS100' then -- all is there: the locks have gone with the subtransaction
                exit;
            when sqlstate 'NS101' then -- other parents than thought: at once, with their locks
                v_look := case when c_flat then v_look else v_depth end;
                v_clashes := v_clashes + 1;
                if v_clashes <= 10 then
                    continue;
                end if;
                v_problem := format('the partitions of "%s" change all the time', c_queue);
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_busy = table_name, v_problem = message_text;
                v_problem := concat(case when v_busy = '' then format(
                    'no lock on all that a new partition of "%s" needs: ', c_queue) end, v_problem);
            when duplicate_table or duplicate_object or unique_violation or internal_error
                 or undefined_table then
                get stacked diagnostics v_problem = message_text;
                v_clashes := v_clashes + 1;
                if v_clashes > 10 then
                    raise;
                end if;
            when invalid_object_definition then -- overlaps what this snapshot does not show
                get stacked diagnostics v_problem = message_text;
                if v_depth = 'every' or current_setting('transaction_isolation')
                                        not in ('repeatable read', 'serializable') then
                    perform ensure._raise_problem_v1('42P17', v_problem, null, v_rows.parents, 0);
                end if;
                v_depth := 'every';
            when object_in_use or check_violation or out_of_memory then
                get stacked diagnostics v_problem = message_text, v_busy = table_name;
                if not (move and sqlstate = '23514' and v_tries < 3) then
                    perform ensure._raise_problem_v1(sqlstate, v_problem, v_busy, v_rows.parents,
                                                     v_rows.partitions);
                end if;
                v_checked := null; -- rows came in between
        end;

        v_tries := v_tries + 1;
        perform ensure._pause_v1(v_relations, v_modes, v_problem, c_written, v_tries, c_end);
    end loop;

    return query
    select r.node, r.partition, r.lower_bound, r.upper_bound, r.outcome
    from unnest(v_rows.node, v_rows.partition, v_rows.lower_bound, v_rows.upper_bound,
                v_rows.outcome) as r (node, partition, lower_bound, upper_bound, outcome);
end
$fn$;

comment on function ensure._create_partitions_v1(ensure._node_v1[], regclass, boolean, interval,
                                                 interval) is
    'Each node lies in a partition, made here or by another caller.';

-- migrate:down
drop function ensure._create_partitions_v1(ensure._node_v1[], regclass, boolean, interval,
                                           interval);
drop function ensure._raise_problem_v1(text, text, text, regclass[], integer);
drop function ensure._check_defaults_v1(ensure._node_v1[], regclass[], boolean, interval, integer,
                                        timestamptz);
drop function ensure._fill_nodes_v1(ensure._node_v1[], text, regclass[], regclass, timestamptz);
drop function ensure._finish_partition_v1(ensure._node_v1, regclass, boolean, regclass,
                                          timestamptz);
drop function ensure._check_missing_v1(ensure._node_v1[], regclass[], text);
drop function ensure._runs_v1(text[], text[]);
drop function ensure._neighbours_v1(regclass, name, regtype, text[], text[], oid[]);
drop function ensure._check_neighbours_v1(ensure._node_v1, text[], text[], oid[]);
drop function ensure._check_parent_v1(regclass, "char", name);
drop function ensure._look_nodes_v1(ensure._node_v1[], text);
drop function ensure._unseen_partitions_v1(regclass, name, name, text[], text[], text[], boolean);
