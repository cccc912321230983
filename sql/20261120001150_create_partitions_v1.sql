-- migrate:up
create function ensure._check_defaults_v1(
    nodes ensure._node_v1[],
    parents regclass[],
    move boolean,
    max_block interval,
    wait integer,
    until timestamptz
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_defaults_v1: whether rows of default partitions of parents have to be moved.
--
-- Errors   as of _check_default_v1
declare
    v_group record;
    v_move boolean := false;
begin
    for v_group in
        select l.parent, count(*)::integer as partitions,
               ensure._condition_v1((nodes[min(l.node)]).kind, (nodes[min(l.node)]).key_column,
                                    (nodes[min(l.node)]).key_type,
                                    array_agg(l.lower_bound order by l.node),
                                    array_agg(l.upper_bound order by l.node)) as condition
        from ensure._look_nodes_v1(nodes, 'names') as l
        where l.partition is null and l.parent = any (parents)
          and (nodes[l.node]).kind in ('r', 'l')
        group by l.parent
    loop
        v_move := ensure._check_default_v1(v_group.parent, v_group.condition, v_group.partitions,
                                           move, max_block, wait, until) or v_move;
    end loop;
    return v_move;
end
$fn$;

comment on function ensure._check_defaults_v1(ensure._node_v1[], regclass[], boolean, interval,
                                              integer, timestamptz) is
    'Whether rows of default partitions of parents have to be moved.';

create function ensure._raise_problem_v1(
    code text,
    problem text,
    table_name text,
    parents regclass[],
    partitions integer
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_problem_v1: what PostgreSQL said on the way, with advice.
--
-- Errors   55006, NS001, NS004, 53200  as it was
begin
    if code = '55006' then
        raise exception using
            errcode = 'object_in_use',
            message = problem,
            hint = format('Call before the statement that uses "%s", not from a trigger'
                          ' or cursor on it.', parents[1]);
    elsif code = '23514' then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" holds rows that belong in a new'
                             ' partition', table_name, parents[1]),
            detail = problem,
            hint = 'Move these rows out of the default partition, then call again.';
    end if;
    if code = '42P17' then
        raise exception using
            errcode = 'NS001',
            message = problem,
            detail = format('A new partition of "%s" holds what another one holds already.',
                            array_to_string(parents, ', ')),
            hint = 'Ask for values as the existing partitions have them.';
    end if;
    perform ensure._raise_out_of_locks_v1(parents, partitions, problem);
end
$fn$;

comment on function ensure._raise_problem_v1(text, text, text, regclass[], integer) is
    'What PostgreSQL said on the way, with advice.';

create function ensure._create_partitions_v1(
    nodes ensure._node_v1[],
    template regclass,
    move boolean,
    max_block interval,
    max_wait interval
)
returns table (node integer, partition oid, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_partitions_v1: each node lies in a partition, made here or by another caller.
--
-- Errors   as listed by ensure_partitions_v1 and ensure_partition_tree_v1
-- Locks    each attempt is a subtransaction, rolled back before the next: it never waits while
--          holding, except 50 ms for what it did not lock first (a row that a GRANT has written)
-- Races    looks again under the lock; an attempt that finds all made gives its locks back at once
declare
    c_written constant boolean := ensure._has_written_v1();
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when c_written then max_block end, '100 years');
    c_flat constant boolean := not exists (select from unnest(nodes) as n where n.within > 0);
    c_queue constant regclass := (select min(n.root::oid) from unnest(nodes) as n);
    v_rows record;
    v_relations regclass[];
    v_modes text[];
    v_busy text;
    v_wait integer := 0;
    v_patient regclass[] := '{}'; -- waited for past deadlock_timeout in vain: not again
    v_checked regclass[];         -- default partitions of these are read
    v_move boolean := false;
    v_depth text := 'derived';
    v_look text := case when c_flat then 'names' else 'snapshot' end;
    v_tries integer := 0;
    v_clashes integer := 0;
    v_problem text;
begin
    loop
        select array_agg(l.node) as node, array_agg(l.partition) as partition,
               array_agg(l.lower_bound) as lower_bound, array_agg(l.upper_bound) as upper_bound,
               array_agg('exists'::text) as outcome, count(*)::integer as partitions,
               array_agg(distinct l.parent::regclass) filter (
                   where l.partition is null and l.parent is not null) as parents
        into v_rows
        from ensure._look_nodes_v1(nodes, v_look) as l;
        if v_rows.parents is null then -- made by others meanwhile
            perform ensure._await_commit_v1(v_rows.partition);
            exit;
        end if;
        select array_agg(l.relation order by l.relation::text is distinct from v_busy, l.place),
               array_agg(l.mode order by l.relation::text is distinct from v_busy, l.place)
        into v_relations, v_modes
        from ensure._attach_locks_v1(v_rows.parents, v_move)
             with ordinality as l (relation, mode, place);
        begin
            if not c_written then
                v_wait := ensure._first_wait_v1(v_relations, v_modes, max_block, c_end,
                                                v_relations[1] <> all (v_patient));
            end if;
            if v_rows.parents <@ v_checked is not true then
                v_move := ensure._check_defaults_v1(nodes, v_rows.parents, move, max_block,
                                                    v_wait, c_end);
                v_checked := v_rows.parents;
                if v_move then
                    raise exception using errcode = 'NS101';
                end if;
            end if;
            perform ensure._take_locks_v1(v_relations, v_modes, c_queue, v_wait, c_end);

            select array_agg(f.node) as node, array_agg(f.partition) as partition,
                   array_agg(f.lower_bound) as lower_bound,
                   array_agg(f.upper_bound) as upper_bound, array_agg(f.outcome) as outcome
            into v_rows
            from ensure._fill_nodes_v1(nodes, v_depth, v_rows.parents, template, case when v_move
                                       then clock_timestamp() + max_block end) as f;
            if 'exists' = all (v_rows.outcome) then
                raise exception using errcode = 'NS100'; -- not NS000: that is the whole class
            end if;
            perform set_config('lock_timeout', c_lock_timeout, true);
            exit;
        exception
            when sqlstate 'NS100' then -- all is there: the locks have gone with the subtransaction
                exit;
            when sqlstate 'NS101' then -- other parents than thought: at once, with their locks
                v_look := case when c_flat then v_look else v_depth end;
                v_clashes := v_clashes + 1;
                if v_clashes <= 10 then
                    continue;
                end if;
                v_problem := format('the partitions of "%s" change all the time', c_queue);
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_busy = table_name, v_problem = message_text;
                if v_busy = v_relations[1]::text
                   and v_wait > greatest(extract(epoch from max_block) * 1000, 1) then
                    v_patient := v_patient || v_relations[1];
                end if;
                v_problem := concat(case when v_busy = '' then format(
                    'no lock on all that a new partition of "%s" needs: ', c_queue) end, v_problem);
            when duplicate_table or duplicate_object or unique_violation or internal_error
                 or undefined_table then
                get stacked diagnostics v_problem = message_text;
                v_clashes := v_clashes + 1;
                if v_clashes > 10 then
                    raise;
                end if;
            when invalid_object_definition then -- overlaps what this snapshot does not show
                get stacked diagnostics v_problem = message_text;
                if v_depth = 'every' or current_setting('transaction_isolation')
                                        not in ('repeatable read', 'serializable') then
                    perform ensure._raise_problem_v1('42P17', v_problem, null, v_rows.parents, 0);
                end if;
                v_depth := 'every';
            when object_in_use or check_violation or out_of_memory then
                get stacked diagnostics v_problem = message_text, v_busy = table_name;
                if not (move and sqlstate = '23514' and v_tries < 3) then
                    perform ensure._raise_problem_v1(sqlstate, v_problem, v_busy, v_rows.parents,
                                                     v_rows.partitions);
                end if;
                v_checked := null; -- rows came in between
        end;

        v_tries := v_tries + 1;
        perform ensure._pause_v1(v_relations, v_modes, v_problem, c_written, v_tries, c_end);
    end loop;

    return query
    select r.node, r.partition, r.lower_bound, r.upper_bound, r.outcome
    from unnest(v_rows.node, v_rows.partition, v_rows.lower_bound, v_rows.upper_bound,
                v_rows.outcome) as r (node, partition, lower_bound, upper_bound, outcome);
end
$fn$;

comment on function ensure._create_partitions_v1(ensure._node_v1[], regclass, boolean, interval,
                                                 interval) is
    'Each node lies in a partition, made here or by another caller.';

-- migrate:down
drop function ensure._create_partitions_v1(ensure._node_v1[], regclass, boolean, interval,
                                           interval);
drop function ensure._raise_problem_v1(text, text, text, regclass[], integer);
drop function ensure._check_defaults_v1(ensure._node_v1[], regclass[], boolean, interval, integer,
                                        timestamptz);
