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
-- _list_partitions_v1: the partitions of parent with their bounds as they are now, the default one left out.
--
-- Returns  detached: by DETACH CONCURRENTLY, not yet finalized
-- Locks    none for what the snapshot shows as it is; ACCESS SHARE on candidates that it does not
-- Races    an old snapshot misses or misreads what changed since: such partitions are listed only when
--          named in candidates, and read through functions that use current catalogs
with shown as (
    select c.oid, ensure._bounds_v1(pg_get_expr(c.relpartbound, 0)) as bounds, i.inhdetachpending
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = parent
      and (current_setting('transaction_isolation') not in ('repeatable read', 'serializable')
           or (c.xmax::text = '0' and i.xmax::text = '0'))
), pattern (lower_bound, upper_bound) as (
    select format('\(%s >= ''?([^'')]*)', regexp_replace(quote_ident(key_column), '(\W)', '\\\1', 'g')),
           format('\(%s < ''?([^'')]*)', regexp_replace(quote_ident(key_column), '(\W)', '\\\1', 'g'))
)
select s.oid, s.bounds[1], s.bounds[2], s.inhdetachpending
from shown as s
where s.bounds is not null
union all
select c.oid,
       coalesce((regexp_match(d.definition, p.lower_bound))[1], 'MINVALUE'),
       coalesce((regexp_match(d.definition, p.upper_bound))[1], 'MAXVALUE'),
       false
from pattern as p
cross join unnest(candidates) as c (oid)
cross join lateral (select pg_get_partition_constraintdef(c.oid)) as d (definition)
where c.oid not in (select s.oid from shown as s)
  and d.definition not like '%(NOT (%' -- a default partition
  and (select a.relid from pg_partition_ancestors(c.oid) with ordinality as a (relid, level)
       where a.level = 2) = parent
$fn$;

comment on function ensure._list_partitions_v1(regclass, name, oid[]) is
    'The partitions of parent with their bounds as they are now, the default one left out.';

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
-- _cover_cells_v1: for each cell the partition of parent that contains it, whatever its name; no row where none does.
--
-- Errors   NS001  a partition overlaps a cell and does not contain it
--          NS005  a partition that meets a cell is being detached
declare
    v_row record;
begin
    for v_row in
        with spans as materialized (
            select u.cell, null::oid as partition, u.lower_bound, u.upper_bound, false as detached
            from unnest(lower_bounds, upper_bounds) with ordinality as u (lower_bound, upper_bound, cell)
            union all
            select null, l.partition, l.lower_bound, l.upper_bound, l.detached
            from ensure._list_partitions_v1(parent, key_column, candidates) as l
        ), ranked as materialized ( -- bounds as numbers that order them
            select s.*, r.low, r.high
            from spans as s
            cross join lateral (
                select min(n.rank) filter (where n.place = 1), max(n.rank) filter (where n.place = 2)
                from (select e.place,
                             case when e.bound in ('MINVALUE', '-infinity') then '-Infinity'::numeric
                                  when e.bound in ('MAXVALUE', 'infinity') then 'Infinity'::numeric
                                  when key_type = 'date'::regtype then (e.bound::date - '2000-01-01'::date)::numeric
                                  when key_type = 'timestamp'::regtype then extract(epoch from e.bound::timestamp)
                                  when key_type = 'timestamptz'::regtype then extract(epoch from e.bound::timestamptz)
                                  else e.bound::numeric end as rank
                      from unnest(array[s.lower_bound, s.upper_bound]) with ordinality as e (bound, place)) as n
            ) as r (low, high)
        )
        select w.cell, w.lower_bound as cell_lower, w.upper_bound as cell_upper,
               p.partition, p.lower_bound, p.upper_bound, p.detached,
               p.low <= w.low and p.high >= w.high as contains
        from ranked as w
        join ranked as p on p.low < w.high and p.high > w.low
        where w.cell is not null and p.partition is not null
        order by w.cell
    loop
        if v_row.detached then
            raise exception using
                errcode = 'NS005',
                message = format('partition "%s" of "%s" is being detached', v_row.partition::regclass, parent),
                detail = format('It holds the range from %s to %s; the range asked for is from %s to %s.',
                                v_row.lower_bound, v_row.upper_bound, v_row.cell_lower, v_row.cell_upper),
                hint = format('Finish with ALTER TABLE %s DETACH PARTITION %s FINALIZE, then call again.',
                              parent, v_row.partition::regclass);
        elsif not v_row.contains then
            raise exception using
                errcode = 'NS001',
                message = format('partition "%s" of "%s" overlaps the range asked for',
                                 v_row.partition::regclass, parent),
                detail = format('It holds the range from %s to %s; the range asked for is from %s to %s.',
                                v_row.lower_bound, v_row.upper_bound, v_row.cell_lower, v_row.cell_upper),
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
    'For each cell the partition of parent that contains it, whatever its name; no row where none does.';

-- migrate:down
drop function ensure._cover_cells_v1(regclass, name, regtype, text[], text[], oid[]);
drop function ensure._list_partitions_v1(regclass, name, oid[]);
