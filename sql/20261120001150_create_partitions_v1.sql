-- migrate:up
create function ensure._unseen_partitions_v1(
    parent regclass,
    schema_name name,
    table_name name,
    lower_bounds text[],
    upper_bounds text[],
    labels text[],
    every boolean
)
returns oid[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unseen_partitions_v1: tables that may be partitions of parent though the snapshot is too old.
--
-- Returns  none under READ COMMITTED; else what has the derived names now, or every partition
-- Locks    with every, ACCESS SHARE on every partition
-- Races    to_regclass and pg_partition_tree read current catalogs once a relation lock is new
begin
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
        return '{}';
    elsif every then
        return array(select t.relid::oid from pg_partition_tree(parent) as t where t.level = 1);
    end if;
    return array(
        select to_regclass(format('%I.%I', schema_name, n.name))::oid
        from unnest(lower_bounds, upper_bounds, labels) as w (lower_bound, upper_bound, label)
        cross join unnest(ensure._partition_names_v1(table_name, w.lower_bound, w.upper_bound,
                                                     w.label)) as n (name)
        where to_regclass(format('%I.%I', schema_name, n.name)) is not null);
end
$fn$;

comment on function ensure._unseen_partitions_v1(regclass, name, name, text[], text[], text[],
                                                 boolean) is
    'Tables that may be partitions of parent though the snapshot is too old.';

create function ensure._fill_cells_v1(
    parent regclass,
    lower_bounds text[],
    upper_bounds text[],
    labels text[],
    deep boolean
)
returns table (cell integer, partition oid, lower_bound text, upper_bound text, made boolean)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _fill_cells_v1: each cell lies in a partition; the caller holds the locks.
--
-- Returns  one row for each cell; made: by this call
-- Errors   as of _cover_cells_v1 and _attach_partition_v1
--          42P17  a new partition overlaps one that the snapshot does not show: call with deep
declare
    v_key record;
    v_cell record;
    v_found oid[];
begin
    select k.* into strict v_key from ensure._range_key_v1(parent) as k;
    made := false;
    for v_cell in
        select c.*
        from ensure._cover_cells_v1(
                 parent, v_key.key_column, v_key.key_type, lower_bounds, upper_bounds,
                 ensure._unseen_partitions_v1(parent, v_key.schema_name, v_key.table_name,
                                              lower_bounds, upper_bounds, labels, deep)) as c
    loop
        cell := v_cell.cell;
        partition := v_cell.partition;
        lower_bound := v_cell.lower_bound;
        upper_bound := v_cell.upper_bound;
        v_found[cell] := partition;
        return next;
    end loop;
    made := true;
    for v_at in 1 .. cardinality(labels) loop
        if v_found[v_at] is null then
            cell := v_at;
            lower_bound := lower_bounds[v_at];
            upper_bound := upper_bounds[v_at];
            partition := ensure._attach_partition_v1(
                parent, ensure._partition_names_v1(v_key.table_name, lower_bound, upper_bound,
                                                   labels[v_at]), lower_bound, upper_bound);
            return next;
        end if;
    end loop;
end
$fn$;

comment on function ensure._fill_cells_v1(regclass, text[], text[], text[], boolean) is
    'Each cell lies in a partition; the caller holds the locks.';

create function ensure._create_partitions_v1(
    parent regclass,
    lower_bounds text[],
    upper_bounds text[],
    labels text[],
    missing_lower text[],
    missing_upper text[],
    max_block interval,
    max_wait interval
)
returns table (cell integer, partition oid, lower_bound text, upper_bound text, made boolean)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_partitions_v1: each cell lies in a partition, made here or by another caller.
--
-- Returns  one row for each cell; made: by this call
-- Errors   as listed by ensure_partitions_v1
-- Locks    each attempt is a subtransaction, rolled back before the next: it never waits while
--          holding, except 50 ms for what it did not lock first (a row that a GRANT has written)
-- Races    looks again under the lock; an attempt that finds all made gives its locks back at once
declare
    v_written constant boolean := pg_current_xact_id_if_assigned() is not null;
    v_lock_timeout constant text := current_setting('lock_timeout');
    v_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when v_written then max_block end, '100 years');
    v_key record;
    v_found oid[];
    v_lower text[] := lower_bounds;
    v_upper text[] := upper_bounds;
    v_made boolean[] := array_fill(false, array[cardinality(labels)]);
    v_relations regclass[];
    v_modes text[];
    v_busy text;
    v_wait integer := 0;
    v_patient boolean := true;
    v_default_checked boolean := false;
    v_deep boolean := false;
    v_tries integer := 0;
    v_clashes integer := 0;
    v_problem text;
begin
    select k.* into strict v_key from ensure._range_key_v1(parent) as k;
    loop
        if v_tries > 0 then
            v_found := ensure._find_partitions_v1(parent, v_key.schema_name, v_key.table_name,
                                                  lower_bounds, upper_bounds, labels);
            if array_position(v_found, null) is null then -- made by others meanwhile
                perform ensure._await_commit_v1(v_found);
                exit;
            end if;
        end if;
        select array_agg(l.relation order by l.relation::text is distinct from v_busy, l.place),
               array_agg(l.mode order by l.relation::text is distinct from v_busy, l.place)
        into v_relations, v_modes
        from ensure._attach_locks_v1(parent) with ordinality as l (relation, mode, place);
        begin
            if not v_written then
                v_wait := ensure._first_wait_v1(v_relations[1], v_modes[1], max_block, v_end,
                                                v_patient);
                v_patient := v_patient and v_wait <= extract(epoch from max_block) * 1000; -- once
            end if;
            if not v_default_checked then
                perform ensure._check_default_v1(parent, v_key.key_column, missing_lower,
                                                 missing_upper, max_block, v_wait, v_end);
                v_default_checked := true;
            end if;
            perform ensure._take_locks_v1(v_relations, v_modes, parent, v_wait, v_end);

            select array_agg(f.partition order by f.cell), array_agg(f.lower_bound order by f.cell),
                   array_agg(f.upper_bound order by f.cell), array_agg(f.made order by f.cell)
            into v_found, v_lower, v_upper, v_made
            from ensure._fill_cells_v1(parent, lower_bounds, upper_bounds, labels, v_deep) as f;
            if not true = any (v_made) then
                raise exception using errcode = 'NS100'; -- not NS000: that is the whole class
            end if;
            perform set_config('lock_timeout', v_lock_timeout, true);
            exit;
        exception
            when sqlstate 'NS100' then -- all is there: the locks have gone with the subtransaction
                exit;
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_busy = table_name, v_problem = message_text;
                if v_busy = '' then
                    v_problem := format('could not lock all that a new partition of "%s" needs',
                                        parent);
                end if;
            when duplicate_table or duplicate_object or unique_violation or internal_error
                 or undefined_table then
                -- another session took a name, wrote the same catalog row, or dropped a table
                get stacked diagnostics v_problem = message_text;
                v_clashes := v_clashes + 1;
                if v_clashes > 10 then
                    raise;
                end if;
            when invalid_object_definition then -- overlaps what this snapshot does not show
                if v_deep or current_setting('transaction_isolation')
                             not in ('repeatable read', 'serializable') then
                    raise;
                end if;
                get stacked diagnostics v_problem = message_text;
                v_deep := true;
            when object_in_use then
                get stacked diagnostics v_problem = message_text;
                raise exception using
                    errcode = 'object_in_use',
                    message = v_problem,
                    hint = format('Call before the statement that uses "%s", not from a trigger'
                                  ' or cursor on it.', parent);
            when check_violation then
                get stacked diagnostics v_problem = message_text, v_busy = table_name;
                raise exception using
                    errcode = 'NS004',
                    message = format('default partition "%s" of "%s" holds rows of the range'
                                     ' asked for', v_busy, parent),
                    detail = v_problem,
                    hint = 'Move these rows out of the default partition, then call again.';
            when out_of_memory then
                get stacked diagnostics v_problem = message_text;
                perform ensure._raise_out_of_locks_v1(parent, cardinality(missing_lower),
                                                      v_problem);
        end;

        v_tries := v_tries + 1;
        perform ensure._pause_v1(v_relations, v_modes, v_problem, v_written, v_tries, v_end);
    end loop;

    return query
    select r.cell::integer, r.found, r.lower_bound, r.upper_bound, r.made
    from unnest(v_found, v_lower, v_upper, v_made)
         with ordinality as r (found, lower_bound, upper_bound, made, cell);
end
$fn$;

comment on function ensure._create_partitions_v1(regclass, text[], text[], text[], text[], text[],
                                                 interval, interval) is
    'Each cell lies in a partition, made here or by another caller.';

-- migrate:down
drop function ensure._create_partitions_v1(regclass, text[], text[], text[], text[], text[],
                                           interval, interval);
drop function ensure._fill_cells_v1(regclass, text[], text[], text[], boolean);
drop function ensure._unseen_partitions_v1(regclass, name, name, text[], text[], text[], boolean);
