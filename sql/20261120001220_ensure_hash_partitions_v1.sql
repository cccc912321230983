-- migrate:up
create function ensure.ensure_hash_partitions_v1(
    parent regclass,
    modulus integer,
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
-- ensure_hash_partitions_v1: every remainder of modulus has its partition.
--
-- Returns  partition, its remainder in lower_bound, its modulus in upper_bound, outcome 'exists' |
--          'created' | 'attached'. Partitions of other moduli that hold the same rows count
-- Errors   22004  modulus or a budget is null
--          22023  modulus is not positive, a budget is negative
--          42P01, 42809, 0A000  no such table; not partitioned by hash; a temporary table
--          54000, 53200  a modulus beyond 1000, or than the server's lock table can hold
--          25006, 42501  partitions are missing, and this transaction or role may not create them
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          55006  parent is in use by this session, as in a trigger on it
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  a partition of another modulus overlaps one that is missing
--          NS002  partitions are missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written: ensure first
--          NS005  a partition in the way is being detached
--          NS006  a concurrent index build is in the way
--          NS007  the names for a new partition are taken
-- Locks    as ensure_partitions_v1
-- Races    as ensure_partitions_v1
-- Rights   as ensure_partitions_v1
declare
    v_key record;
    v_remainders text[];
    v_moduli text[];
    v_labels text[];
    v_found oid[];
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    if modulus is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'modulus must not be null',
            hint = 'Name the number of partitions.';
    elsif modulus < 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('modulus %s is not positive', modulus),
            hint = 'Name the number of partitions.';
    end if;
    select k.* into strict v_key from ensure._partition_key_v1(parent, 'h') as k;
    perform ensure._check_cells_v1(modulus);
    select array_agg(r.n::text order by r.n), array_agg(modulus::text order by r.n),
           array_agg(format('%s_of_%s', r.n, modulus) order by r.n)
    into v_remainders, v_moduli, v_labels
    from generate_series(0, modulus - 1) as r (n);

    v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name, 'h',
                                          v_remainders, v_moduli, v_labels);
    if array_position(v_found, null) is null then
        return query
        select f.oid::regclass, f.remainder, f.modulus, 'exists'
        from unnest(v_found, v_remainders, v_moduli) as f (oid, remainder, modulus);
        return;
    end if;

    return query
    select e.partition, e.lower_bound, e.upper_bound, e.outcome
    from ensure._ensure_nodes_v1(
             (select array_agg(row (parent, parent, null, 'h', v_key.key_column, v_key.key_type,
                                    c.remainder, c.modulus, c.label, null, null)::ensure._node_v1
                               order by c.place)
              from unnest(v_remainders, v_moduli, v_labels) with ordinality
                   as c (remainder, modulus, label, place)),
             template, false, max_block, max_wait) as e;
end
$fn$;

comment on function ensure.ensure_hash_partitions_v1(regclass, integer, interval, interval,
                                                     regclass) is
    'Every remainder of modulus has its partition.';

-- migrate:down
drop function ensure.ensure_hash_partitions_v1(regclass, integer, interval, interval, regclass);
