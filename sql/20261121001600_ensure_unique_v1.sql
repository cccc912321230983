-- migrate:up
create function ensure._create_unique_v1(
    target regclass,
    columns text[],
    predicate text,
    nulls_equal boolean,
    split_nulls boolean,
    dedupe jsonb,
    archive regclass,
    index_name name,
    as_constraint boolean,
    max_wait interval,
    max_block interval
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_unique_v1: the indexes that make a key unique are there, made here or by another caller.
--
-- Errors   as listed by ensure_unique_v1
-- Locks    each attempt is a subtransaction, rolled back before the next
-- Races    looks again under the lock; an attempt that finds all made gives its locks back at once
declare
    c_exclusive constant boolean := as_constraint
                                    or coalesce((dedupe ->> 'rewrite')::boolean, false);
    c_lock_timeout constant text := current_setting('lock_timeout');
    v_try ensure._attempt_v1 := ensure._attempts_v1(
        target, dedupe ->> 'children', dedupe is not null, c_exclusive, max_wait, max_block);
    v_keys ensure._unique_key_v1[];
    v_found regclass[];
    v_clashes integer := 0;
    v_problem text;
    v_detail text;
    v_schema text;
begin
    loop
        begin
            v_try := ensure._next_attempt_v1(v_try);
            v_keys := ensure._unique_keys_v1(target, columns, predicate, nulls_equal, split_nulls);
            v_found := ensure._found_unique_v1(v_keys, index_name, as_constraint);
            if v_found is null then
                v_try := ensure._lock_attempt_v1(v_try);
                if v_try.problem is not null then
                    raise exception using errcode = 'NS101';
                end if;
                v_keys := ensure._unique_keys_v1(target, columns, predicate, nulls_equal,
                                                 split_nulls);
                v_found := ensure._found_unique_v1(v_keys, index_name, as_constraint);
            end if;
            if v_found is not null then
                raise exception using errcode = 'NS100';
            end if;
            return query
            select m.*
            from ensure._make_unique_v1(v_keys, dedupe, archive, index_name, as_constraint) as m;
            perform set_config('lock_timeout', c_lock_timeout, true);
            return;
        exception
            when sqlstate 'NS100' then -- all is there: the locks have gone with the subtransaction
                return query select i.index::text, 'exists', null::bigint
                             from unnest(v_found) as i (index);
                return;
            when sqlstate 'NS101' then
                v_problem := v_try.problem;
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_problem = message_text;
                v_problem := format('no lock on all that making "%s" unique needs: %s', target,
                                    v_problem);
            when duplicate_table or duplicate_object or unique_violation or internal_error
                 or undefined_table then
                get stacked diagnostics v_problem = message_text, v_schema = schema_name,
                    v_detail = pg_exception_detail;
                if sqlstate = '23505' and v_schema <> 'pg_catalog' then
                    perform ensure._raise_unique_problem_v1('NS010', v_problem, v_detail, target);
                end if;
                perform ensure._check_target_v1(target);
                v_clashes := v_clashes + 1;
                if v_clashes > 10 then
                    raise;
                end if;
            when object_in_use then
                get stacked diagnostics v_problem = message_text;
                perform ensure._raise_unique_problem_v1('55006', v_problem, null, target);
        end;
        perform ensure._pause_v1(v_try.relations, v_try.modes, v_problem, v_try.written,
                                 v_try.tries, v_try.until);
    end loop;
end
$fn$;

comment on function ensure._create_unique_v1(regclass, text[], text, boolean, boolean, jsonb,
                                             regclass, name, boolean, interval, interval) is
    'The indexes that make a key unique are there, made here or by another caller.';

create function ensure.ensure_unique_v1(
    target regclass,
    columns text[],
    predicate text default null,
    nulls_equal boolean default true,
    keep text default null,
    losers text default 'refuse',
    loser_set text default null,
    children text default 'refuse',
    archive regclass default null,
    index_name name default null,
    max_wait interval default '10 s',
    max_block interval default '500 ms',
    split_nulls boolean default false,
    as_constraint boolean default false,
    rewrite boolean default false
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
set array_nulls = on
as $fn$
-- ensure_unique_v1: no two rows of target that fulfil predicate are equal in columns, by an index.
--
-- Returns  one row for each table whose rows changed ('moved', 'deleted', 'updated') with their
--          number, for each index ('exists', 'created', 'repaired', 'constrained'), and for the
--          archive: the run as object, 'archived'. An index is known by what it is on, never by its
--          name
-- Errors   22004, 22023, 22P02, 42601, 42701, 42703, 42704, 42804, 42883, 42P02, 54000, 54011  bad
--                 input
--          42P01, 42809, 0A000  no such table; not a table; partitioned at any level by what
--                 columns lacks or compares in another way, with a foreign table, or temporary; a
--                 whole row or a virtual column in columns; as_constraint where none can be, or
--                 rewrite would change more than rows; a rule on a table whose rows change, a
--                 column there with a name like "~row"; rows that move and that only their place
--                 tells apart, in a table that refers to itself or with archive
--          42P17  an expression or the predicate is not immutable
--          25006, 42501  it is missing, and this transaction or role may not make it, or not in
--                 its schema, or not change rows that refer to duplicates; row security would hide
--                 rows
--          55000  a table whose rows change is published, and has no replica identity
--          55006  this session is using target just now: in a trigger, cursor or deferred check
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  another unique index on the same elements, or with index_name; both in DETAIL
--          NS002  it is missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is at work on one of the tables
--          NS007  index_name is taken by something else
--          NS009  there are duplicates, and nothing says what becomes of them, or loser_set leaves
--                 them what they are
--          NS010  rows refer to losers, or would become duplicates when they are moved or changed
--          NS011  it is missing, and this transaction is REPEATABLE READ or SERIALIZABLE
--          NS012  rows would be lost, or were kept back by a trigger, or not archived; nothing was
--                 changed
-- Locks    none when it is there; waits behind ACCESS EXCLUSIVE on target when columns are not
--          plain or predicate is given. Else, until the transaction ends, SHARE ROW EXCLUSIVE on
--          target: nobody writes while the index is made. With losers that change EXCLUSIVE there
--          and, unless children is 'leave', on each table that references it (with 'merge' also
--          below those): nobody locks a row either. ACCESS EXCLUSIVE on target with as_constraint
--          or rewrite, then also ROW SHARE on what target references
-- Races    a second caller waits for the first, then finds it there. With rewrite a transaction
--          whose snapshot is older sees target empty from then on
-- Rights   of the owner of target; to lock its children and to write there and in archive. Row
--          security is off: what it would hide is an error. Triggers of target and children fire,
--          with the search_path of their own or pg_catalog. What SET CONSTRAINTS said of their
--          deferrable constraints ends: each is checked, then as it was declared
declare
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_dedupe constant jsonb := case when losers <> 'refuse' and keep is not null then
        jsonb_build_object('keep', keep, 'loser_set', loser_set, 'children', children,
                           'rewrite', rewrite) end;
    v_keys ensure._unique_key_v1[];
    v_found regclass[];
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    if as_constraint is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'as_constraint must not be null',
            hint = 'Leave an argument out to get its default.';
    end if;
    perform ensure._check_dedupe_v1(target, null, losers, loser_set, children, archive);
    if coalesce(rewrite, true) and losers is distinct from 'delete' then
        raise exception using
            errcode = case when rewrite then 'invalid_parameter_value'
                           else 'null_value_not_allowed' end,
            message = 'rewrite must be false where losers are not deleted, and not null',
            hint = 'Leave it out, or pass losers => ''delete''.';
    end if;
    begin
        perform set_config('lock_timeout', format('%sms', greatest(1, least(
            1000 * extract(epoch from least(max_wait, nullif(c_lock_timeout::interval, '0'))),
            2147483647))::integer), true);
        v_keys := ensure._unique_keys_v1(target, columns, predicate, nulls_equal, split_nulls);
        if as_constraint then
            perform ensure._check_constraint_v1(v_keys);
        end if;
        v_found := ensure._found_unique_v1(v_keys, index_name, as_constraint);
        if v_found is null then
            perform ensure._check_dedupe_v1(target, keep, losers, loser_set, children, archive);
        end if;
        perform set_config('lock_timeout', c_lock_timeout, true);
    exception
        when lock_not_available then
            perform ensure._pause_v1(array[target], '{access share}',
                                     format('could not read what "%s" is', target), false, 1,
                                     clock_timestamp());
        when undefined_table or internal_error then
            perform ensure._check_target_v1(target);
            raise;
    end;
    if v_found is not null then
        return query select i.index::text, 'exists', null::bigint
                     from unnest(v_found) as i (index);
        return;
    end if;
    perform ensure._unique_guards_v1(v_keys[1], c_dedupe, max_block);
    if rewrite then
        perform ensure._check_rewrite_v1(v_keys[1], archive);
    end if;
    return query
    select c.*
    from ensure._create_unique_v1(
        target, columns, predicate, nulls_equal, split_nulls, c_dedupe, archive, index_name,
        as_constraint, max_wait, max_block) as c;
end
$fn$;

comment on function ensure.ensure_unique_v1(regclass, text[], text, boolean, text, text, text, text,
                                            regclass, name, interval, interval, boolean,
                                            boolean, boolean) is
    'No two rows of target that fulfil predicate are equal in columns, by an index.';

-- migrate:down
drop function ensure.ensure_unique_v1(regclass, text[], text, boolean, text, text, text, text,
                                      regclass, name, interval, interval, boolean, boolean,
                                      boolean);
drop function ensure._create_unique_v1(regclass, text[], text, boolean, boolean, jsonb, regclass,
                                       name, boolean, interval, interval);
