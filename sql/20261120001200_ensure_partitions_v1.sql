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
set standard_conforming_strings = on
as $fn$
-- ensure_partitions_v1: each cell of the grid that meets the range, and ahead more, is there.
--
-- Returns  partition, its bounds (times in UTC), outcome 'exists' | 'created', in their order.
--          The range is [from_value, until_value], for times from now when left out. A wider
--          partition that contains cells is returned once, as it is.
-- Errors   22004  an argument is null that must not be
--          22003, 22008  a value or a bound is out of range
--          22007, 22023  a value is not an ISO time, an argument is not understood
--          42P01, 42809, 0A000  no such table; not partitioned by range; a key of another kind
--          54000, 53200  more than 1000 partitions, or than the server's lock table can hold
--          25006, 42501  partitions are missing, and this transaction or role may not create them
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          55006  parent is in use by this session, as in a trigger on it
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  a partition overlaps a cell and does not contain it
--          NS002  partitions are missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written: ensure first
--          NS004  the default partition holds rows of the range, or cannot be read in max_block
--          NS005  a partition in the way is being detached
--          NS006  a concurrent index build is in the way
--          NS007  the names for a new partition are taken
-- Locks    none when nothing is to be done. Else until commit: parent in SHARE UPDATE EXCLUSIVE
--          (readers and writers go on), tables tied to it by foreign keys in SHARE ROW EXCLUSIVE
--          (their writers wait), its default partition in ACCESS EXCLUSIVE. Waits for one of them
--          at most max_block, once past deadlock_timeout for autovacuum, for the others not at all
-- Races    one caller creates; the others wait for its commit, give their locks back and return
--          'exists'. At every isolation level
-- Rights   USAGE on schema ensure and on that of parent; to create, also to be the owner of parent
--          or a member that can become it, both with CREATE on its schema
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
            detail = format('ahead is %s, max_block is %s, max_wait is %s.',
                            ahead, max_block, max_wait),
            hint = 'Use zero or more.';
    end if;
    select k.* into strict v_key from ensure._range_key_v1(parent) as k;
    if ensure._integer_end_v1(v_key.key_type) is not null then
        select array_agg(g.lower_bound), array_agg(g.upper_bound), array_agg(g.label)
        into v_lower, v_upper, v_label
        from ensure._integer_grid_v1(v_key.key_type, step, from_value::text, until_value::text,
                                     ahead, origin) as g;
    else
        select array_agg(g.lower_bound), array_agg(g.upper_bound), array_agg(g.label)
        into v_lower, v_upper, v_label
        from ensure._time_grid_v1(v_key.key_type, step, from_value::text, until_value::text,
                                  ahead, zone, origin) as g;
    end if;

    v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name,
                                          v_lower, v_upper, v_label);
    if array_position(v_found, null) is null then
        perform ensure._await_commit_v1(v_found);
        return query
        select f.oid::regclass, f.lower_bound, f.upper_bound, 'exists'
        from unnest(v_found, v_lower, v_upper) as f (oid, lower_bound, upper_bound);
        return;
    end if;

    -- Not all under the names given here: look at what the partitions hold, whatever their names.
    select array_agg(c.cell), array_agg(c.partition), array_agg(c.lower_bound),
           array_agg(c.upper_bound)
    into v_cells, v_found, v_found_lower, v_found_upper
    from ensure._cover_cells_v1(
             parent, v_key.key_column, v_key.key_type, v_lower, v_upper,
             case when current_setting('transaction_read_only')::boolean
                  then ensure._unseen_partitions_v1(parent, v_key.schema_name, v_key.table_name,
                                                    v_lower, v_upper, v_label, false)
                  else '{}' end) as c;
    if cardinality(v_cells) = cardinality(v_label) then
        perform ensure._await_commit_v1(v_found);
        return query
        select f.partition::regclass, f.lower_bound, f.upper_bound, 'exists'
        from (select distinct on (u.partition) u.*
              from unnest(v_cells, v_found, v_found_lower, v_found_upper)
                   as u (cell, partition, lower_bound, upper_bound)
              order by u.partition, u.cell) as f
        order by f.cell;
        return;
    end if;

    select array_agg(w.lower_bound order by w.cell), array_agg(w.upper_bound order by w.cell)
    into v_missing_lower, v_missing_upper
    from unnest(v_lower, v_upper) with ordinality as w (lower_bound, upper_bound, cell)
    where w.cell = any (v_cells) is not true;
    perform ensure._check_writable_v1(
        parent, v_key.schema_name, v_key.owner,
        format('partition of "%s" from %s to %s is missing', parent,
               v_missing_lower[1], v_missing_upper[1]));
    perform ensure._check_lock_table_v1(parent, cardinality(v_missing_lower));
    return query
    select f.partition::regclass, f.lower_bound, f.upper_bound,
           case when f.made then 'created' else 'exists' end
    from (select distinct on (c.partition) c.*
          from ensure._create_partitions_v1(parent, v_lower, v_upper, v_label, v_missing_lower,
                                            v_missing_upper, max_block, max_wait) as c
          order by c.partition, c.cell) as f
    order by f.cell;
end
$fn$;

comment on function ensure.ensure_partitions_v1(regclass, text, anycompatible, anycompatible,
                                                integer, text, text, interval, interval) is
    'Each cell of the grid that meets the range, and ahead more, is there.';

-- migrate:down
drop function ensure.ensure_partitions_v1(regclass, text, anycompatible, anycompatible,
                                          integer, text, text, interval, interval);
