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
    max_wait interval default '10 s',
    epoch text default null,
    regrid boolean default false,
    move_default_rows boolean default false,
    template regclass default null
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
-- Returns  partition, its bounds (times in UTC), outcome 'exists' | 'created' | 'attached' (a table
--          of our name that was left unattached and fits), in their order. The range is
--          [from_value, until_value], for times from now when left out. A wider partition that
--          contains cells is returned once, as it is
-- Errors   22004  an argument is null that must not be
--          22003, 22008  a value or a bound is out of range
--          22007, 22023  a value is not an ISO time, an argument is not understood
--          42P01, 42809, 0A000  no such table; not partitioned by range; a key of another kind
--          54000, 53200  more than 1000 partitions, or than the server's lock table can hold
--          25006, 42501  partitions are missing, and this transaction or role may not create them
--          25000  rows are to be moved, and this transaction has an old snapshot
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          55006  parent is in use by this session, as in a trigger on it
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  a partition overlaps a cell and does not contain it
--          NS002  partitions are missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written: ensure first
--          NS004  the default partition holds rows of the range, or takes longer than max_block
--          NS005  a partition in the way is being detached
--          NS006  a concurrent index build is in the way
--          NS007  the names for a new partition are taken
--          NS008  what is missing lies beside partitions of another grid
-- Locks    none that last when nothing is to be done. Else until commit: parent in SHARE UPDATE
--          EXCLUSIVE (readers and writers go on), tables tied to it by foreign keys in SHARE ROW
--          EXCLUSIVE (their writers wait), its default partition in ACCESS EXCLUSIVE, parent too
--          when rows are moved. Waits for one of them at most max_block, past deadlock_timeout for
--          autovacuum that gives way, for the others not at all
-- Races    one caller creates; the others wait for its commit, give their locks back and return
--          'exists'. At every isolation level
-- Rights   USAGE on schema ensure and on that of parent; to create, also to be the owner of parent
--          or a member that can become it, both with CREATE on its schema
declare
    v_key record;
    v_cells text[];
    v_lower text[];
    v_upper text[];
    v_label text[];
    v_found oid[];
begin
    if num_nulls(step, ahead, zone, max_block, max_wait, regrid, move_default_rows) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'step, ahead, zone, max_block, max_wait, regrid and move_default_rows must'
                      ' not be null',
            hint = 'Leave an argument out to get its default.';
    elsif ahead < 0 or max_block < '0' or max_wait < '0' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'ahead, max_block and max_wait must not be negative',
            detail = format('ahead is %s, max_block is %s, max_wait is %s.',
                            ahead, max_block, max_wait),
            hint = 'Use zero or more.';
    end if;
    v_key := ensure._partition_key_v1(parent, 'r');
    v_cells := ensure._grid_cells_v1(v_key.key_type, v_key.key_typmod, step, from_value::text,
                                     until_value::text, ahead, zone, origin, epoch);
    if cardinality(v_cells) = 3 then
        v_lower := v_cells[1:1];
        v_upper := v_cells[2:2];
        v_label := v_cells[3:3];
    else
        select array_agg(v_cells[g.at] order by g.at), array_agg(v_cells[g.at + 1] order by g.at),
               array_agg(v_cells[g.at + 2] order by g.at)
        into v_lower, v_upper, v_label
        from generate_series(1, cardinality(v_cells), 3) as g (at);
    end if;

    v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name, 'r',
                                          v_lower, v_upper, v_label);
    if array_position(v_found, null) is null then
        outcome := 'exists';
        for v_at in 1 .. cardinality(v_found) loop
            partition := v_found[v_at];
            lower_bound := v_lower[v_at];
            upper_bound := v_upper[v_at];
            perform ensure._see_partition_v1(
                parent, ensure._key_condition_v1('r', v_key.key_column, v_key.key_type,
                                                 lower_bound), partition);
            return next;
        end loop;
        return;
    end if;

    return query
    select e.partition, e.lower_bound, e.upper_bound, e.outcome
    from ensure._ensure_nodes_v1(
             ensure._range_nodes_v1(
                 parent, v_key.key_column, v_key.key_type, v_lower, v_upper, v_label,
                 jsonb_build_object('step', step, 'zone', zone, 'origin', origin, 'epoch', epoch,
                                    'typmod', v_key.key_typmod, 'regrid', regrid)),
             template, move_default_rows, max_block, max_wait) as e;
end
$fn$;

comment on function ensure.ensure_partitions_v1(regclass, text, anycompatible, anycompatible,
                                                integer, text, text, interval, interval, text,
                                                boolean, boolean, regclass) is
    'Each cell of the grid that meets the range, and ahead more, is there.';

-- migrate:down
drop function ensure.ensure_partitions_v1(regclass, text, anycompatible, anycompatible,
                                          integer, text, text, interval, interval, text, boolean,
                                          boolean, regclass);
