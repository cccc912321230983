-- migrate:up
create function ensure._list_partitions_v1(
    parent regclass,
    kind "char",
    key_column name,
    key_type regtype,
    wanted text[],
    candidates oid[]
)
returns table (partition oid, bounds text[], detached boolean)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _list_partitions_v1: the partitions of parent and their bounds as they are now.
--
-- Returns  bounds: as of _bounds_v1, null for the default partition; detached: by DETACH
--          CONCURRENTLY, not yet finalized
-- Locks    none for what the snapshot shows as it is; ACCESS SHARE on candidates that it does not
-- Races    an old snapshot misses or misreads what changed since: that is listed only when named in
--          candidates, and read through functions that use current catalogs; of a list partition
--          only the values that are wanted
declare
    c_bound constant text := '\(%s %s (?:''([^'']*)''|([0-9.]+))';
    v_shown oid[];
    v_column constant text := regexp_replace(quote_ident(key_column), '(\W)', '\\\1', 'g');
    v_above text;
    v_own text;
    v_holds boolean;
begin
    return query
    select c.oid,
           case when kind = 'r' and b.bound <> 'DEFAULT' -- a call for each row would cost more
                then array[btrim(split_part(split_part(b.bound, '(', 2), ')', 1), ''''),
                           btrim(split_part(split_part(b.bound, '(', 3), ')', 1), '''')]
                else ensure._bounds_v1(b.bound) end, i.inhdetachpending
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    cross join lateral (select pg_get_expr(c.relpartbound, 0) offset 0) as b (bound)
    where i.inhparent = parent
      and (current_setting('transaction_isolation') not in ('repeatable read', 'serializable')
           or ensure._stands_v1(c.xmax) and ensure._stands_v1(i.xmax));
    if candidates = '{}' then
        return;
    end if;

    v_shown := array(select i.inhrelid
                     from pg_inherits as i
                     join pg_class as c on c.oid = i.inhrelid
                     where i.inhparent = parent
                       and ensure._stands_v1(c.xmax) and ensure._stands_v1(i.xmax));
    -- The condition of a partition begins with what its parent has from above.
    v_above := coalesce(regexp_replace(pg_get_partition_constraintdef(parent),
                                       '^\((\(.*\))\)$', '\1'), '');
    detached := false;
    foreach partition in array candidates loop
        if partition = any (v_shown)
           or (select a.relid from pg_partition_ancestors(partition) with ordinality as a (relid, n)
               where a.n = 2) is distinct from parent then
            continue;
        end if;
        v_own := replace(coalesce(pg_get_partition_constraintdef(partition), ''), v_above, 'true');
        bounds := null;
        if v_own = '' or v_own like '%(NOT (%' then
            null; -- the default partition
        elsif kind = 'r' then
            select array[coalesce(l.match[1], l.match[2], 'MINVALUE'),
                         coalesce(u.match[1], u.match[2], 'MAXVALUE')]
            into bounds
            from regexp_match(v_own, format(c_bound, v_column, '>=')) as l (match)
            cross join regexp_match(v_own, format(c_bound, v_column, '<')) as u (match);
        elsif kind = 'h' then
            select array[h.match[2], h.match[1]] into bounds
            from regexp_match(v_own, '::oid, (\d+), (\d+)') as h (match);
        else
            bounds := '{}';
            for v_at in 1 .. coalesce(cardinality(wanted), 0) loop
                execute format('select %s from (select %L::%s as %I) as w', v_own, wanted[v_at],
                               format_type(key_type, -1), key_column)
                into v_holds;
                if v_holds then
                    bounds := bounds || wanted[v_at];
                end if;
            end loop;
        end if;
        return next;
    end loop;
end
$fn$;

comment on function ensure._list_partitions_v1(regclass, "char", name, regtype, text[], oid[]) is
    'The partitions of parent and their bounds as they are now.';

create function ensure._overlap_v1(
    kind "char",
    held_lower text,
    held_upper text,
    asked_lower text,
    asked_upper text
)
returns text
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _overlap_v1: the DETAIL of two that do not go together: what is there and what is asked for.
begin
    return case kind
        when 'r' then format('It holds the range from %s to %s; the range asked for is from %s to'
                             ' %s.', held_lower, held_upper, asked_lower, asked_upper)
        when 'h' then format('It holds modulus %s, remainder %s; asked for is modulus %s,'
                             ' remainder %s.', held_upper, held_lower, asked_upper, asked_lower)
        when 'l' then format('Asked for is the value %s.', quote_nullable(asked_lower))
        else 'Asked for is the default partition.' end;
end
$fn$;

comment on function ensure._overlap_v1("char", text, text, text, text) is
    'The DETAIL of two that do not go together: what is there and what is asked for.';

create function ensure._cover_ranges_v1(
    parent regclass,
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[],
    candidates oid[]
)
returns table (cell integer, cell_lower text, cell_upper text, partition oid, lower_bound text,
               upper_bound text, detached boolean, holds boolean, gap_before text,
               gap_after boolean)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _cover_ranges_v1: each cell with the range partitions that overlap it, in order.
--
-- Returns  holds: the partition contains the cell, or one of several that make it up; gap_before:
--          from where up to the partition, and gap_after: whether behind the last of them, the cell
--          is not covered
declare
    c_end constant numeric := ensure._integer_end_v1(key_type);
begin
    return query execute format($sql$
        with cells as materialized (
            select u.cell::integer, u.lower_bound, u.upper_bound,
                   coalesce(nullif(u.lower_bound, 'MINVALUE'), $5)::%1$s as low,
                   coalesce(nullif(u.upper_bound, 'MAXVALUE'), $7)::%1$s as high
            from unnest($3, $4) with ordinality as u (lower_bound, upper_bound, cell)
        ), present as materialized (
            select l.partition, l.bounds, l.detached,
                   coalesce(nullif(l.bounds[1], 'MINVALUE'), $5)::%1$s as low,
                   coalesce(nullif(l.bounds[2], 'MAXVALUE'), $7)::%1$s as high
            from ensure._list_partitions_v1($1, 'r', $2, null, null, $6) as l
            where l.bounds is not null
        )
        select r.cell, r.lower_bound, r.upper_bound, r.partition, r.low, r.high, r.detached,
               case when r.partition is not null
                    then not bool_or(r.gap_before is not null or r.gap_after) over cell end,
               r.gap_before, r.gap_after
        from (
            select c.cell, c.lower_bound, c.upper_bound, p.partition, p.bounds[1] as low,
                   p.bounds[2] as high, p.detached, p.low as place,
                   case when coalesce(lag(p.high) over cell, c.low) < p.low
                        then coalesce(lag(p.bounds[2]) over cell, c.lower_bound) end as gap_before,
                   p.high < c.high and lead(p.low) over cell is null as gap_after
            from cells as c
            left join present as p on p.low < c.high and p.high > c.low
            window cell as (partition by c.cell order by p.low)) as r
        window cell as (partition by r.cell)
        order by r.cell, r.place
        $sql$, case when c_end is not null then 'numeric'
                    when key_type = 'uuid'::regtype then 'text collate "C"'
                    else key_type::text end)
        using parent, key_column, lower_bounds, upper_bounds,
              case when key_type = 'uuid'::regtype then '00000000-0000-0000-0000-000000000000'
                   else coalesce((-c_end - 1)::text, '-infinity') end,
              candidates,
              case when key_type = 'uuid'::regtype then 'g' else 'infinity' end;
end
$fn$;

comment on function ensure._cover_ranges_v1(regclass, name, regtype, text[], text[], oid[]) is
    'Each cell with the range partitions that overlap it, in order.';

create function ensure._cover_values_v1(
    parent regclass,
    kind "char",
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[],
    candidates oid[]
)
returns table (cell integer, cell_lower text, cell_upper text, partition oid, lower_bound text,
               upper_bound text, detached boolean, holds boolean, gap_before text,
               gap_after boolean)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _cover_values_v1: each value, remainder or default with the partitions that overlap it.
--
-- Returns  as _cover_ranges_v1, without gaps; values are equal when the type's own operator says so
declare
    c_equal constant text := coalesce(
        (select format('operator(%I.%s)', n.nspname, o.oprname)
         from pg_opclass as k
         join pg_am as m on m.oid = k.opcmethod and m.amname = 'btree'
         join pg_amop as a on a.amopfamily = k.opcfamily and a.amopstrategy = 3
                          and a.amoplefttype = k.opcintype and a.amoprighttype = k.opcintype
         join pg_operator as o on o.oid = a.amopopr
         join pg_namespace as n on n.oid = o.oprnamespace
         where k.opcdefault and k.opcintype = key_type),
        'operator(pg_catalog.=)');
begin
    return query execute format($sql$
        select u.cell::integer, u.lower_bound, u.upper_bound, p.partition,
               case when $6 = 'h' then p.bounds[1] else u.lower_bound end,
               case when $6 = 'h' then p.bounds[2] else u.upper_bound end,
               p.detached, p.holds, null::text, false
        from unnest($3, $4) with ordinality as u (lower_bound, upper_bound, cell)
        left join lateral (
            select l.partition, l.detached, l.bounds, o.holds
            from ensure._list_partitions_v1($1, $6, $2, $7, $3, $5) as l
            cross join lateral (select case $6
                when 'd' then case when l.bounds is null then true end
                when 'h' then case -- remainders meet where they agree modulo what both divide by
                    when (u.lower_bound::integer - l.bounds[1]::integer)
                         %% gcd(u.upper_bound::integer, l.bounds[2]::integer) = 0
                    then gcd(u.upper_bound::integer, l.bounds[2]::integer)
                         = l.bounds[2]::integer end
                else (select true
                      from unnest(l.bounds) as v (value)
                      where v.value::%1$s %2$s u.lower_bound::%1$s
                         or num_nulls(v.value, u.lower_bound) = 2
                      limit 1) end) as o (holds)
            where o.holds is not null) as p on true
        order by u.cell, p.partition
        $sql$, coalesce(format_type(key_type, -1), 'text'), c_equal)
        using parent, key_column, lower_bounds, upper_bounds, candidates, kind, key_type;
end
$fn$;

comment on function ensure._cover_values_v1(regclass, "char", name, regtype, text[], text[], oid[])
    is 'Each value, remainder or default with the partitions that overlap it.';

create function ensure._cover_cells_v1(
    parent regclass,
    kind "char",
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[],
    candidates oid[],
    regrid boolean
)
returns table (cell integer, partition oid, lower_bound text, upper_bound text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _cover_cells_v1: for each cell the partition that contains it, whatever its name, or null.
--
-- Returns  with regrid, or where finer hash partitions make up a cell, several rows for it; those
--          with partition null are what is missing
-- Errors   NS001  a partition overlaps a cell and does not contain it
--          NS005  a partition that meets a cell is being detached
declare
    v_row record;
    v_share numeric;
begin
    for v_row in
        select c.*
        from ensure._cover_ranges_v1(parent, key_column, key_type, lower_bounds, upper_bounds,
                                     candidates) as c
        where kind = 'r'
        union all
        select c.*
        from ensure._cover_values_v1(parent, kind, key_column, key_type, lower_bounds,
                                     upper_bounds, candidates) as c
        where kind <> 'r'
    loop
        cell := v_row.cell;
        if v_row.detached then
            raise exception using
                errcode = 'NS005',
                message = format('partition "%s" of "%s" is being detached',
                                 v_row.partition::regclass, parent),
                detail = ensure._overlap_v1(kind, v_row.lower_bound, v_row.upper_bound,
                                            v_row.cell_lower, v_row.cell_upper),
                hint = format('Wait for that to end; where its session is gone, end it with'
                              ' ALTER TABLE %s DETACH PARTITION %s FINALIZE.',
                              parent, v_row.partition::regclass);
        elsif not v_row.holds and kind = 'h' then
            select coalesce(sum(1.0 / c.upper_bound::numeric), 0) into v_share
            from ensure._cover_values_v1(parent, kind, key_column, key_type,
                                         array[v_row.cell_lower], array[v_row.cell_upper],
                                         candidates) as c
            where mod(c.upper_bound::integer, v_row.cell_upper::integer) = 0; -- all of it inside
        end if;
        if not v_row.holds and not regrid
           and (kind <> 'h' or abs(v_share * v_row.cell_upper::numeric - 1) > 0.000000000001) then
            raise exception using
                errcode = 'NS001',
                message = format('partition "%s" of "%s" overlaps what is asked for',
                                 v_row.partition::regclass, parent),
                detail = ensure._overlap_v1(kind, v_row.lower_bound, v_row.upper_bound,
                                            v_row.cell_lower, v_row.cell_upper),
                hint = case kind when 'r'
                            then 'Use the step, zone and origin that the existing partitions have;'
                                 ' regrid => true fills what is left between them.'
                            else 'Use the modulus that the existing partitions have.' end;
        end if;

        if v_row.gap_before is not null then
            partition := null;
            lower_bound := v_row.gap_before;
            upper_bound := v_row.lower_bound;
            return next;
        end if;
        partition := v_row.partition;
        lower_bound := case when partition is null then v_row.cell_lower else v_row.lower_bound end;
        upper_bound := case when partition is null then v_row.cell_upper else v_row.upper_bound end;
        return next;
        if v_row.gap_after then
            partition := null;
            lower_bound := v_row.upper_bound;
            upper_bound := v_row.cell_upper;
            return next;
        end if;
    end loop;
end
$fn$;

comment on function ensure._cover_cells_v1(regclass, "char", name, regtype, text[], text[], oid[],
                                           boolean) is
    'For each cell the partition that contains it, whatever its name, or null.';

-- migrate:down
drop function ensure._cover_cells_v1(regclass, "char", name, regtype, text[], text[], oid[],
                                     boolean);
drop function ensure._cover_values_v1(regclass, "char", name, regtype, text[], text[], oid[]);
drop function ensure._cover_ranges_v1(regclass, name, regtype, text[], text[], oid[]);
drop function ensure._overlap_v1("char", text, text, text, text);
drop function ensure._list_partitions_v1(regclass, "char", name, regtype, text[], oid[]);
