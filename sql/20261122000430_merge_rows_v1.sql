-- migrate:up
create function ensure._check_merged_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_merged_v1: the rows to be kept are there, and the losers are not.
--
-- Errors   NS010  a row to be kept was merged into another one
--          NS012  a loser is there
declare
    c_count constant text := format(
        'select count(*) from unnest($1) as "~p" ("~l") join %s as c on %s',
        ensure._from_v1(target),
        ensure._row_match_v1(target, ensure._row_key_v1(target), 'c', '"~p"."~l"'));
    v_keepers constant jsonb[] := array(select distinct k.key from unnest(keepers) as k (key));
    v_count bigint;
begin
    execute c_count into v_count using v_keepers;
    if v_count <> cardinality(v_keepers) then
        raise exception using
            errcode = 'NS010',
            message = format('%s rows of "%s" that were to be kept would go',
                             cardinality(v_keepers) - v_count, target),
            detail = 'As children of other losers they became equal to rows that did not move.',
            hint = 'Merge what they are children of in a call before.';
    end if;
    execute c_count into v_count using losers;
    if v_count > 0 then
        raise exception using
            errcode = 'NS012',
            message = format('%s losers of "%s" are there after they were deleted', v_count,
                             target),
            hint = 'Look for a trigger that puts rows back when they are deleted.';
    end if;
end
$fn$;

comment on function ensure._check_merged_v1(regclass, jsonb[], jsonb[]) is
    'The rows to be kept are there, and the losers are not.';

create function ensure._merge_counted_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    columns_policy jsonb,
    archive regclass,
    run uuid
)
returns table (relation regclass, action text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _merge_counted_v1: losers are merged, keepers are as the policy says, and nothing else is gone.
--
-- Errors   NS010, NS012; 0A000, class 22 and 23  as _policy_rows_v1
-- Races    the caller keeps writers out
declare
    c_relations constant regclass[] := ensure._counted_tables_v1(target, true);
    c_before constant bigint[] := ensure._count_rows_v1(c_relations);
    c_rows constant jsonb[] := ensure._policy_rows_v1(target, losers, keepers, columns_policy);
    v_done record;
    v_code text;
    v_problem text;
    v_table text;
    v_constraint text;
begin
    begin
        select array_agg(d.relation) as relations, array_agg(d.action) as actions,
               array_agg(d.row_count) as counts
        into v_done
        from (select m.relation, m.action, sum(m.row_count)::bigint as row_count
              from ensure._merge_rows_v1(target, losers, keepers, null, 'merge', archive, run) as m
              group by m.relation, m.action) as d;
        perform ensure._check_merged_v1(target, losers, keepers);
        -- Only now: what a loser had in a unique column was its own until it was deleted.
        perform ensure._set_keepers_v1(target, c_rows, columns_policy, archive, run);
        perform ensure._check_deferred_v1(target, true);
    exception
        when integrity_constraint_violation or triggered_data_change_violation or undefined_table
             or undefined_function then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text,
                                    v_table = table_name, v_constraint = constraint_name;
            perform ensure._raise_merge_problem_v1(target, v_code, v_problem, v_table,
                                                   v_constraint);
    end;
    perform ensure._check_counts_v1(target, c_relations, c_before, v_done.relations,
                                    v_done.actions, v_done.counts);
    return query
    select u.relation, u.action, u.n
    from unnest(v_done.relations || case when c_rows <> '{}' then target end,
                v_done.actions || case when c_rows <> '{}' then 'updated' end,
                v_done.counts || case when c_rows <> '{}' then cardinality(c_rows)::bigint end)
         as u (relation, action, n)
    where u.n > 0
    order by u.relation = target, u.relation::text collate "C", u.action;
end
$fn$;

comment on function ensure._merge_counted_v1(regclass, jsonb[], jsonb[], jsonb, regclass, uuid) is
    'Losers are merged, keepers are as the policy says, and nothing else is gone.';

create function ensure._merge_locked_v1(
    target regclass,
    keeper_list jsonb,
    loser_list jsonb,
    columns_policy jsonb,
    archive regclass,
    max_wait interval,
    max_block interval
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_locked_v1: losers are merged, here or by another caller.
--
-- Errors   as listed by merge_rows_v1
-- Locks    each attempt is a subtransaction, rolled back before the next
-- Races    looks again under the lock; an attempt that finds no losers gives its locks back at once
declare
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_run constant uuid := case when archive is not null then gen_random_uuid() end;
    v_try ensure._attempt_v1 :=
        ensure._attempts_v1(target, 'merge', true, false, max_wait, max_block);
    v_deferred text;
    v_found record;
    v_problem text;
    v_advice text;
begin
    loop
        begin
            v_try := ensure._next_attempt_v1(v_try);
            v_found := ensure._look_merge_v1(target, keeper_list, loser_list);
            if v_found.losers <> '{}' then
                v_try := ensure._lock_attempt_v1(v_try);
                if v_try.problem is not null then
                    raise exception using errcode = 'NS101';
                end if;
                v_found := ensure._look_merge_v1(target, keeper_list, loser_list);
            end if;
            if v_found.losers = '{}' then
                raise exception using errcode = 'NS100';
            end if;
            v_deferred := (ensure._deferrable_v1(target, true)).deferred;
            return query
            select m.relation::text, m.action, m.row_count
            from ensure._merge_counted_v1(target, v_found.losers, v_found.keepers, columns_policy,
                                          archive, c_run) as m;
            if v_deferred is not null then
                execute format('set constraints %s deferred', v_deferred);
            end if;
            return query select a.* from ensure._archived_run_v1(archive, c_run) as a;
            perform set_config('lock_timeout', c_lock_timeout, true);
            return;
        exception
            when sqlstate 'NS100' then -- none is there: the locks have gone with the subtransaction
                return query select target::text, 'exists', null::bigint;
                return;
            when sqlstate 'NS101' then
                v_problem := v_try.problem;
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_problem = message_text;
                v_problem := format('no lock on all that merging rows of "%s" needs: %s', target,
                                    v_problem);
            when insufficient_privilege then -- as a rule without advice
                get stacked diagnostics v_problem = message_text, v_advice = pg_exception_hint;
                if v_advice <> '' then
                    raise;
                end if;
                perform ensure._raise_denied_v1(target, v_problem);
            when undefined_table or internal_error then
                get stacked diagnostics v_problem = message_text;
                perform ensure._check_target_v1(target);
                if v_try.tries > 10 then
                    raise;
                end if;
        end;
        perform ensure._pause_v1(v_try.relations, v_try.modes, v_problem, v_try.written,
                                 v_try.tries, v_try.until);
    end loop;
end
$fn$;

comment on function ensure._merge_locked_v1(regclass, jsonb, jsonb, jsonb, regclass, interval,
                                            interval) is
    'Losers are merged, here or by another caller.';

create function ensure.merge_rows_v1(
    target regclass,
    keeper jsonb,
    losers jsonb,
    columns_policy jsonb default null,
    archive regclass default null,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set xmloption = 'content'
set array_nulls = on
as $fn$
-- merge_rows_v1: what referred to losers refers to their keeper, and the losers are gone.
--
-- Returns  one row for each table whose rows changed ('moved', 'deleted', 'updated') with their
--          number, and for the archive: the run as object, 'archived'; or, when no loser is there,
--          one row 'exists'. Rows that become equal in a unique index by moving are merged in turn.
--          A column of the keeper is by columns_policy what it was ('keep'); else the first of the
--          group that is not null ('coalesce', keeper first, then losers in their order); its
--          greatest, least, or sum ('max', 'min', 'sum'); or all elements, each once ('union')
-- Errors   21000  a unique index is corrupt: several rows have one name
--          22004, 22023  bad input: no list of rows, no unique key, a row that is to be kept and to
--                 go, a loser of two keepers; a policy for a column that is a key or generated
--          22003, 22007, 22008, 22P02, 23514  a value that a column cannot hold
--          42703, 42804  no such column; a policy that its type has not
--          42P01, 42809, 0A000  no such table; not a table, or one of the system; a rule on a table
--                 whose rows change, a column there with a name like "~row"; rows that move and
--                 that only their place tells apart, in a table that refers to itself or with
--                 archive; union of an array of several dimensions
--          P0002  a loser is there, and its keeper is not
--          25006, 42501  a loser is there, and this transaction or role may not merge it; row
--                 security would hide rows
--          55000  a table whose rows change is published, and has no replica identity
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS003  a lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is at work on one of the tables
--          NS010  rows cannot refer to the keeper, or a constraint would be broken, or a row to be
--                 kept would go
--          NS011  a loser is there, and this transaction is REPEATABLE READ or SERIALIZABLE
--          NS012  rows would be lost, or were kept back by a trigger, or not archived; nothing was
--                 changed
-- Locks    none when no loser is there, but for ACCESS SHARE on target while it looks. Else, until
--          the transaction ends, EXCLUSIVE on target and on each table that references it, also
--          below those whose rows may have to be merged: nobody writes or locks a row there
-- Races    a second caller waits for the first, then finds no loser. Under REPEATABLE READ and
--          SERIALIZABLE what is there is what the snapshot shows
-- Rights   SELECT and DELETE on target, and UPDATE for columns_policy; SELECT and UPDATE on what
--          refers to it, and on what is locked below; DELETE where rows become equal; on
--          partitions too. Row security is off: what it would hide is an error. Triggers fire, with
--          the search_path of their own or pg_catalog. Rows change and no schema: the setting
--          ensure.ddl does not matter. What SET CONSTRAINTS said of deferrable constraints of the
--          tables ends: each is checked, then as it was declared, but for one that has the name of
--          another of its schema that is not deferrable, which is IMMEDIATE until the end of the
--          transaction
declare
    v_list record;
    v_found record;
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    perform ensure._check_merge_v1(target, archive);
    v_list := ensure._merge_list_v1(keeper, losers);
    v_found := ensure._look_ahead_v1(target, v_list.keeper_list, v_list.loser_list, columns_policy,
                                     max_wait);
    if v_found.losers = '{}' then
        return query select target::text, 'exists', null::bigint;
        return;
    end if;
    perform ensure._merge_guards_v1(target, v_found.losers, v_found.keepers, columns_policy,
                                    max_block);
    return query
    select m.*
    from ensure._merge_locked_v1(target, v_list.keeper_list, v_list.loser_list, columns_policy,
                                 archive, max_wait, max_block) as m;
end
$fn$;

comment on function ensure.merge_rows_v1(regclass, jsonb, jsonb, jsonb, regclass, interval,
                                         interval) is
    'What referred to losers refers to their keeper, and the losers are gone.';

-- migrate:down
drop function ensure.merge_rows_v1(regclass, jsonb, jsonb, jsonb, regclass, interval, interval);
drop function ensure._merge_locked_v1(regclass, jsonb, jsonb, jsonb, regclass, interval, interval);
drop function ensure._merge_counted_v1(regclass, jsonb[], jsonb[], jsonb, regclass, uuid);
drop function ensure._check_merged_v1(regclass, jsonb[], jsonb[]);
