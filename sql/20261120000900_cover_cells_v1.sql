-- migrate:up
create function ensure._list_partitions_v1(
    parent regclass,
    key_column name,
    candidates oid[]
)
returns table (partition oid, lower_bound text, upper_bound text, detached boolean)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _list_partitions_v1: the partitions of parent and their bounds as they are now, but the default.
--
-- Returns  detached: by DETACH CONCURRENTLY, not yet finalized
-- Locks    none for what the snapshot shows as it is; ACCESS SHARE on candidates that it does not
-- Races    an old snapshot misses or misreads what changed since: that is listed only when named in
--          candidates, and read through functions that use current catalogs
with shown as (
    select c.oid, ensure._bounds_v1(pg_get_expr(c.relpartbound, 0)) as bounds, i.inhdetachpending
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = parent
      and (current_setting('transaction_isolation') not in ('repeatable read', 'serializable')
           or (c.xmax::text = '0' and i.xmax::text = '0'))
), pattern (lower_bound, upper_bound) as (
    select format('\(%s >= ''?([^'')]*)', q.name), format('\(%s < ''?([^'')]*)', q.name)
    from regexp_replace(quote_ident(key_column), '(\W)', '\\\1', 'g') as q (name)
)
select s.oid, s.bounds[1], s.bounds[2], s.inhdetachpending
from shown as s
where s.bounds is not null
union all
select c.oid,
       coalesce((regexp_match(d.own, p.lower_bound))[1], 'MINVALUE'),
       coalesce((regexp_match(d.own, p.upper_bound))[1], 'MAXVALUE'),
       false
from unnest(candidates) as c (oid)
cross join pattern as p
cross join lateral ( -- the condition of a partition begins with what its parent has from above
    select replace(pg_get_partition_constraintdef(c.oid),
                   coalesce(regexp_replace(pg_get_partition_constraintdef(parent),
                                           '^\((\(.*\))\)$', '\1'), ''), '')) as d (own)
where c.oid not in (select s.oid from shown as s)
  and d.own not like '%(NOT (%' -- the default partition
  and (select a.relid from pg_partition_ancestors(c.oid) with ordinality as a (relid, level)
       where a.level = 2) = parent
$fn$;

comment on function ensure._list_partitions_v1(regclass, name, oid[]) is
    'The partitions of parent and their bounds as they are now, but the default.';

create function ensure._cover_cells_v1(
    parent regclass,
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[],
    candidates oid[]
)
returns table (cell integer, partition oid, lower_bound text, upper_bound text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _cover_cells_v1: for each cell the partition that contains it, whatever its name; none, no row.
--
-- Errors   NS001  a partition overlaps a cell and does not contain it
--          NS005  a partition that meets a cell is being detached
declare
    v_end constant numeric := ensure._integer_end_v1(key_type);
    v_row record;
    v_text text;
begin
    for v_row in execute format($sql$
        with cells as materialized (
            select u.cell, u.lower_bound, u.upper_bound,
                   coalesce(nullif(u.lower_bound, 'MINVALUE'), $5)::%1$s as low,
                   coalesce(nullif(u.upper_bound, 'MAXVALUE'), 'infinity')::%1$s as high
            from unnest($3, $4) with ordinality as u (lower_bound, upper_bound, cell)
        ), present as materialized (
            select l.partition, l.lower_bound, l.upper_bound, l.detached,
                   coalesce(nullif(l.lower_bound, 'MINVALUE'), $5)::%1$s as low,
                   coalesce(nullif(l.upper_bound, 'MAXVALUE'), 'infinity')::%1$s as high
            from ensure._list_partitions_v1($1, $2, $6) as l
        )
        select c.cell, c.lower_bound as cell_lower, c.upper_bound as cell_upper,
               p.partition, p.lower_bound, p.upper_bound, p.detached,
               p.low <= c.low and p.high >= c.high as contains
        from cells as c
        join present as p on p.low < c.high and p.high > c.low
        order by c.cell
        $sql$, case when v_end is null then key_type::text else 'numeric' end)
        using parent, key_column, lower_bounds, upper_bounds,
              coalesce((-v_end - 1)::text, '-infinity'), candidates
    loop
        if v_row.detached or not v_row.contains then
            v_text := format('It holds the range from %s to %s;'
                             ' the range asked for is from %s to %s.',
                             v_row.lower_bound, v_row.upper_bound,
                             v_row.cell_lower, v_row.cell_upper);
        end if;
        if v_row.detached then
            raise exception using
                errcode = 'NS005',
                message = format('partition "%s" of "%s" is being detached',
                                 v_row.partition::regclass, parent),
                detail = v_text,
                hint = format('Wait for that to end; where its session is gone, end it with'
                              ' ALTER TABLE %s DETACH PARTITION %s FINALIZE.',
                              parent, v_row.partition::regclass);
        elsif not v_row.contains then
            raise exception using
                errcode = 'NS001',
                message = format('partition "%s" of "%s" overlaps the range asked for',
                                 v_row.partition::regclass, parent),
                detail = v_text,
                hint = 'Use the step, zone and origin that the existing partitions have.';
        end if;
        cell := v_row.cell;
        partition := v_row.partition;
        lower_bound := v_row.lower_bound;
        upper_bound := v_row.upper_bound;
        return next;
    end loop;
end
$fn$;

comment on function ensure._cover_cells_v1(regclass, name, regtype, text[], text[], oid[]) is
    'For each cell the partition that contains it, whatever its name; none, no row.';

-- migrate:down
drop function ensure._cover_cells_v1(regclass, name, regtype, text[], text[], oid[]);
drop function ensure._list_partitions_v1(regclass, name, oid[]);
