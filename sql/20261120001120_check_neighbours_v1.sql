-- migrate:up
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

-- migrate:down
drop function ensure._check_missing_v1(ensure._node_v1[], regclass[], text);
drop function ensure._runs_v1(text[], text[]);
drop function ensure._neighbours_v1(regclass, name, regtype, text[], text[], oid[]);
drop function ensure._check_neighbours_v1(ensure._node_v1, text[], text[], oid[]);
