-- migrate:up
create function ensure.ensure_default_partition_v1(
    parent regclass,
    max_wait interval default '10 s',
    max_block interval default '500 ms',
    template regclass default null
)
returns table (partition regclass, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $fn$
-- ensure_default_partition_v1: parent has a default partition.
--
-- Returns  partition, null, null, outcome 'exists' | 'created' | 'attached'
-- Errors   22004, 22023  a budget is null or negative
--          42P01, 42809, 0A000  no such table; not partitioned by range or list; a temporary table
--          54000, 53200  more locks than the server's lock table can hold
--          25006, 42501  it is missing, and this transaction or role may not create it
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          55006  parent is in use by this session, as in a trigger on it
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS002  it is missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written: ensure first
--          NS005  it is being detached
--          NS006  a concurrent index build is in the way
--          NS007  the names for a new partition are taken
-- Locks    as ensure_partitions_v1
-- Races    as ensure_partitions_v1
-- Rights   as ensure_partitions_v1
declare
    v_key record;
    v_found oid[];
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    select k.* into strict v_key from ensure._partition_key_v1(parent, 'd') as k;
    v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name, 'd',
                                          array[null::text], array[null::text], '{default}');
    if v_found[1] is not null then
        return query
        select v_found[1]::regclass, null::text, null::text, 'exists';
        return;
    end if;

    return query
    select e.partition, e.lower_bound, e.upper_bound, e.outcome
    from ensure._ensure_nodes_v1(
             array[row (parent, parent, null, 'd', v_key.key_column, v_key.key_type, null, null,
                        'default', null, null)::ensure._node_v1],
             template, false, max_block, max_wait) as e;
end
$fn$;

comment on function ensure.ensure_default_partition_v1(regclass, interval, interval, regclass) is
    'Parent has a default partition.';

-- migrate:down
drop function ensure.ensure_default_partition_v1(regclass, interval, interval, regclass);
