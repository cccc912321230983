-- migrate:up
create function ensure.ensure_partitions_v1(
    parent regclass,
    step text,
    from_value anycompatible default null,
    until_value anycompatible default null,
    ahead integer default 0,
    zone text default 'UTC',
    origin text default null,
    max_block interval default '500 ms',
    max_wait interval default '10 s'
)
returns table (partition regclass, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
as $fn$
-- ensure_partitions_v1: every cell of the grid that meets [from_value, until_value], and ahead more, has its partition.
--
-- Returns  partition, its bounds (times in UTC), outcome 'exists' | 'created', in order of the bounds.
--          A wider partition that contains cells is returned once, as it is.
-- Errors   22004, 22003, 22007, 22023  an argument is null, out of range, no ISO time, not understood
--          42P01, 42809, 0A000  no such table; not partitioned by range; a key of another kind
--          54000, 53200  more than 1000 partitions, or more than the server's lock table holds
--          25006, 42501, NS002  partitions are missing, and: read-only, not the owner, ensure.ddl is off
--          NS001  a partition overlaps a cell and does not contain it; nothing was changed
--          NS003  not to be had without waiting, and this transaction has already written: ensure before writing
--          NS004  the default partition holds rows of the range, or is too large to be read within max_block
--          NS005  a partition in the way is being detached; NS006  a concurrent index build is in the way
--          NS007  the names for the partition are taken
--          55P03  max_wait spent waiting for locks; DETAIL names the holders
-- Locks    none when nothing is to be done. Else until commit, on parent SHARE UPDATE EXCLUSIVE (readers and
--          writers go on), on tables tied to it by foreign keys SHARE ROW EXCLUSIVE (writers wait), on its
--          default partition ACCESS EXCLUSIVE; waits for one of them at most max_block, for the rest not at all
-- Races    one caller creates, the others wait for its commit and return 'exists', at every isolation level
-- Rights   none when nothing is to be done; else owner of parent or member, CREATE on its schema
declare
    v_key record;
    v_lower text[];
    v_upper text[];
    v_label text[];
    v_cells integer[];
    v_found oid[];
    v_found_lower text[];
    v_found_upper text[];
    v_missing_lower text[];
    v_missing_upper text[];
begin
    if num_nulls(step, ahead, zone, max_block, max_wait) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'step, ahead, zone, max_block and max_wait must not be null',
            hint = 'Leave an argument out to get its default.';
    elsif ahead < 0 or max_block < '0' or max_wait < '0' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'ahead, max_block and max_wait must not be negative',
            detail = format('ahead is %s, max_block is %s, max_wait is %s.', ahead, max_block, max_wait),
            hint = 'Use zero or more.';
    end if;
    select k.* into strict v_key from ensure._range_key_v1(parent) as k;

    if v_key.key_type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) then
        select array_agg(g.lower_bound), array_agg(g.upper_bound), array_agg(g.label) into v_lower, v_upper, v_label
        from ensure._integer_grid_v1(v_key.key_type, step, from_value::text, until_value::text, ahead, origin) as g;
    else
        select array_agg(g.lower_bound), array_agg(g.upper_bound), array_agg(g.label) into v_lower, v_upper, v_label
        from ensure._time_grid_v1(v_key.key_type, step, from_value::text, until_value::text, ahead, zone, origin) as g;
    end if;

    v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name, v_lower, v_upper, v_label);
    if array_position(v_found, null) is null then
        return query
        select f.oid::regclass, f.lower_bound, f.upper_bound, 'exists'
        from unnest(v_found, v_lower, v_upper) as f (oid, lower_bound, upper_bound);
        return;
    end if;

    -- Not all under the names given here: look at what the partitions hold, whatever they are called.
    select array_agg(c.cell), array_agg(c.partition), array_agg(c.lower_bound), array_agg(c.upper_bound)
    into v_cells, v_found, v_found_lower, v_found_upper
    from ensure._cover_cells_v1(parent, v_key.key_column, v_key.key_type, v_lower, v_upper, '{}') as c;
    if cardinality(v_cells) = cardinality(v_label) then
        return query
        select f.partition::regclass, f.lower_bound, f.upper_bound, 'exists'
        from (select distinct on (u.partition) u.*
              from unnest(v_cells, v_found, v_found_lower, v_found_upper) as u (cell, partition, lower_bound, upper_bound)
              order by u.partition, u.cell) as f
        order by f.cell;
        return;
    end if;

    select array_agg(w.lower_bound order by w.cell), array_agg(w.upper_bound order by w.cell)
    into v_missing_lower, v_missing_upper
    from unnest(v_lower, v_upper) with ordinality as w (lower_bound, upper_bound, cell)
    where w.cell = any (v_cells) is not true;
    perform ensure._check_writable_v1(parent, v_key.owner, format('%s partitions of "%s" are missing',
                                                                  cardinality(v_missing_lower), parent));
    perform ensure._check_lock_table_v1(parent, cardinality(v_missing_lower));
    perform ensure._check_default_v1(parent, v_key.key_column, v_missing_lower, v_missing_upper, max_block);
    return query
    select f.partition::regclass, f.lower_bound, f.upper_bound, case when f.made then 'created' else 'exists' end
    from (select distinct on (c.partition) c.*
          from ensure._create_partitions_v1(parent, v_lower, v_upper, v_label, max_block, max_wait) as c
          order by c.partition, c.cell) as f
    order by f.cell;
end
$fn$;

comment on function ensure.ensure_partitions_v1(regclass, text, anycompatible, anycompatible, integer, text, text,
                                                interval, interval) is
    'Every cell of the grid that meets [from_value, until_value], and ahead more, has its partition.';

-- migrate:down
drop function ensure.ensure_partitions_v1(regclass, text, anycompatible, anycompatible, integer, text, text,
                                          interval, interval);
