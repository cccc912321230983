-- migrate:up
create function ensure._check_budget_v1(
    max_block interval,
    max_wait interval
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_budget_v1: both budgets are there and not negative.
--
-- Errors   22004, 22023  they are not
begin
    if num_nulls(max_block, max_wait) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'max_block and max_wait must not be null',
            hint = 'Leave an argument out to get its default.';
    elsif max_block < '0' or max_wait < '0' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'max_block and max_wait must not be negative',
            detail = format('max_block is %s, max_wait is %s.', max_block, max_wait),
            hint = 'Use zero or more.';
    end if;
end
$fn$;

comment on function ensure._check_budget_v1(interval, interval) is
    'Both budgets are there and not negative.';

create function ensure._list_values_v1(
    key_type regtype,
    list_values text[]
)
returns text[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _list_values_v1: the values as PostgreSQL prints them for key_type, each once, in their order.
--
-- Errors   22023  one is no value of key_type
declare
    v_values text[];
    v_problem text;
begin
    execute format($sql$
        select array_agg(d.value order by d.place)
        from (select (array_agg(v.value::%1$s::text order by v.place))[1] as value,
                     min(v.place) as place
              from unnest($1) with ordinality as v (value, place)
              group by v.value::%1$s) as d
        $sql$, format_type(key_type, -1)) -- of char(n) the name alone would be char(1)
    into v_values
    using list_values;
    return coalesce(v_values, '{}');
exception when data_exception or check_violation then
    get stacked diagnostics v_problem = message_text;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('a value is not of type %s', key_type),
        detail = format('%s.', v_problem),
        hint = format('The partition key is of type %s.', key_type);
end
$fn$;

comment on function ensure._list_values_v1(regtype, text[]) is
    'The values as PostgreSQL prints them for key_type, each once, in their order.';

create function ensure.ensure_list_partitions_v1(
    parent regclass,
    list_values anycompatiblearray,
    max_wait interval default '10 s',
    max_block interval default '500 ms',
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
set extra_float_digits = 1
as $fn$
-- ensure_list_partitions_v1: each value, NULL included, has its partition.
--
-- Returns  partition, the value in lower_bound and upper_bound, outcome 'exists' | 'created' |
--          'attached', in the order of list_values, each value once. A partition that holds several
--          of the values is returned once
-- Errors   22004  list_values or a budget is null
--          22023  a value is not of the key's type, a budget is negative
--          22001, 22003  a value is too long or too large for the key's column
--          42P01, 42809, 0A000  no such table; not partitioned by list; a key of another kind
--          54000, 53200  more than 1000 values, or than the server's lock table can hold
--          25006, 42501  partitions are missing, and this transaction or role may not create them
--          25000  rows are to be moved, and this transaction has an old snapshot
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          55006  parent is in use by this session, as in a trigger on it
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  a value came out as another one, rounded by a type modifier, or equals one that a
--                 partition has
--          NS002  partitions are missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written: ensure first
--          NS004  the default partition holds rows with a value, or takes longer than max_block
--          NS005  a partition in the way is being detached
--          NS006  a concurrent index build is in the way
--          NS007  the names for a new partition are taken
-- Locks    as ensure_partitions_v1
-- Races    as ensure_partitions_v1
-- Rights   as ensure_partitions_v1
declare
    v_key record;
    v_values text[];
    v_labels text[];
    v_found oid[];
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    if num_nulls(list_values, move_default_rows) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'list_values and move_default_rows must not be null',
            hint = 'For the partition of NULL pass an array that holds it: array[null].';
    end if;
    select k.* into strict v_key from ensure._partition_key_v1(parent, 'l') as k;
    v_values := ensure._list_values_v1(v_key.key_type, list_values::text[]);
    perform ensure._check_cells_v1(cardinality(v_values));
    v_labels := array(select ensure._label_v1(v.value)
                      from unnest(v_values) with ordinality as v (value, place) order by v.place);

    v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name, 'l',
                                          v_values, v_values, v_labels);
    if array_position(v_found, null) is null then
        perform ensure._see_partition_v1(
            parent, ensure._key_condition_v1('l', v_key.key_column, v_key.key_type, f.value), f.oid)
        from unnest(v_found, v_values) as f (oid, value);
        return query
        select f.oid::regclass, f.value, f.value, 'exists'
        from unnest(v_found, v_values) as f (oid, value);
        return;
    end if;

    return query
    select e.partition, e.lower_bound, e.upper_bound, e.outcome
    from ensure._ensure_nodes_v1(
             (select array_agg(row (parent, parent, null, 'l', v_key.key_column, v_key.key_type,
                                    c.value, c.value, c.label, null, null)::ensure._node_v1
                               order by c.place)
              from unnest(v_values, v_labels) with ordinality as c (value, label, place)),
             template, move_default_rows, max_block, max_wait) as e;
end
$fn$;

comment on function ensure.ensure_list_partitions_v1(regclass, anycompatiblearray, interval,
                                                     interval, boolean, regclass) is
    'Each value, NULL included, has its partition.';

-- migrate:down
drop function ensure.ensure_list_partitions_v1(regclass, anycompatiblearray, interval, interval,
                                               boolean, regclass);
drop function ensure._list_values_v1(regtype, text[]);
drop function ensure._check_budget_v1(interval, interval);
