-- migrate:up
create function ensure._make_delegate_v1(
    wanted ensure._delegate_v1
)
returns regprocedure
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _make_delegate_v1: the delegate is new, as wanted, and belongs to owner.
--
-- Errors   NS001  it did not come out as wanted
declare
    v_role text;
begin
    perform ensure._run_v1(format('create %sas %L', wanted.head, wanted.body));
    if wanted.owner <> current_user then
        perform ensure._run_v1(format('alter function %s owner to %I', wanted.signature,
                                      wanted.owner));
    end if;
    perform ensure._run_v1(format('revoke all on function %s from public', wanted.signature));
    for v_role in -- of default privileges
        select distinct quote_ident(pg_get_userbyid(a.grantee))
        from pg_proc as p
        cross join aclexplode(p.proacl) as a
        where p.oid = to_regprocedure(wanted.signature) and a.grantee not in (0, p.proowner)
    loop
        perform ensure._run_v1(format('revoke all on function %s from %s', wanted.signature,
                                      v_role));
    end loop;
    perform ensure._run_v1(format('grant execute on function %s to %I', wanted.signature,
                                  wanted.grantee));
    perform ensure._run_v1(format('comment on function %s is %L', wanted.signature,
                                  format('%s has its partition for key, for role %I alone.',
                                         wanted.parent, wanted.grantee)));
    return ensure._find_delegate_v1(wanted);
end
$fn$;

comment on function ensure._make_delegate_v1(ensure._delegate_v1) is
    'The delegate is new, as wanted, and belongs to owner.';

create function ensure._create_delegate_v1(
    wanted ensure._delegate_v1,
    max_block interval,
    max_wait interval
)
returns table (delegate regprocedure, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_delegate_v1: the delegate is there, made here or by another caller.
--
-- Errors   as listed by ensure_partition_delegate_v1
-- Locks    each attempt is a subtransaction, rolled back before the next
-- Races    looks again under the lock; an attempt that finds it made gives its lock back at once
declare
    c_written constant boolean := ensure._has_written_v1();
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when c_written then max_block end, '100 years');
    c_mode constant text := 'share update exclusive';
    v_wait integer := 0;
    v_patient boolean := true; -- to be waited for past deadlock_timeout, once
    v_tries integer := 0;
    v_clashes integer := 0;
    v_problem text;
begin
    loop
        begin
            if not c_written then
                v_wait := ensure._first_wait_v1(array[wanted.parent], array[c_mode], max_block,
                                                c_end, v_patient);
                v_patient := v_patient and v_wait <= extract(epoch from max_block) * 1000;
            end if;
            perform ensure._take_locks_v1(array[wanted.parent], array[c_mode], wanted.parent,
                                          v_wait, c_end);
            delegate := ensure._find_delegate_v1(wanted);
            if delegate is not null then
                raise exception using errcode = 'NS100';
            end if;
            delegate := ensure._make_delegate_v1(wanted);
            outcome := 'created';
            perform set_config('lock_timeout', c_lock_timeout, true);
            return next;
            return;
        exception
            when sqlstate 'NS100' then -- it is there: the lock has gone with the subtransaction
                outcome := 'exists';
                return next;
                return;
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_problem = message_text;
            when unique_violation or duplicate_function or internal_error then
                -- another session took the name, or wrote the same catalog row
                get stacked diagnostics v_problem = message_text;
                v_clashes := v_clashes + 1;
                if v_clashes > 10 then
                    raise;
                end if;
        end;
        v_tries := v_tries + 1;
        perform ensure._pause_v1(array[wanted.parent], array[c_mode], v_problem, c_written, v_tries,
                                 c_end);
    end loop;
end
$fn$;

comment on function ensure._create_delegate_v1(ensure._delegate_v1, interval, interval) is
    'The delegate is there, made here or by another caller.';

create function ensure.ensure_partition_delegate_v1(
    parent regclass,
    grantee name,
    step text default null,
    earliest text default null,
    latest text default null,
    zone text default 'UTC',
    origin text default null,
    epoch text default null,
    function_name name default null,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (delegate regprocedure, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
set quote_all_identifiers = off
set extra_float_digits = 1
set bytea_output = 'hex'
as $fn$
-- ensure_partition_delegate_v1: grantee can have parent's partitions made for keys of a window.
--
-- Returns  delegate, a function (key) in the schema of parent that runs as parent's owner: it calls
--          ensure_partitions_v1 or ensure_list_partitions_v1 with all else pinned and returns what
--          they return; outcome 'exists' | 'created'. Its name is function_name, by default
--          <table>_ensure_for_<grantee>, cut with a hash: for each grantee and table one window.
--          The window includes earliest and latest: numbers; times, or intervals from now such as
--          '-7 days', also for a uuid of version 7 and with epoch; for a list values, in the
--          order of the key, which limits no count where there are endless values between
-- Errors   22004  an argument is null that must not be
--          22003, 22008  a limit or a bound is out of range
--          22007, 22023  a limit is no such value; an argument is not understood, or not for a list
--          42P01, 42809, 0A000  no such table; partitioned by hash or not at all; another key
--          42704  grantee does not exist
--          25006  it is missing, and this transaction is read-only
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          42501  it is missing, and this role may not create it; or owner or grantee lack a right
--                 without which it could not be used
--          55P03  max_wait was spent waiting for the lock; DETAIL names the holders
--          NS001  it exists but differs; nothing was changed
--          NS002  it is missing, and the setting ensure.ddl is off
--          NS003  the lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is in the way
--          NS007  the name is taken by something else
-- Locks    none when nothing is to be done. Else parent in SHARE UPDATE EXCLUSIVE until commit
--          (readers and writers go on); waits for it at most max_block at a time
-- Races    one caller creates; the others wait for its commit and return 'exists'. At every
--          isolation level; under an old snapshot grants to others since then are not seen
-- Rights   USAGE on schema ensure and on that of parent; to create, also to be the owner of parent
--          or a member that can become it, both with CREATE on its schema. The owner needs USAGE on
--          schema ensure, grantee on that of parent. EXECUTE is for grantee alone
declare
    v_wanted ensure._delegate_v1;
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    v_wanted := ensure._wanted_delegate_v1(parent, grantee, step, earliest, latest, zone, origin,
                                           epoch, function_name, max_wait, max_block);
    delegate := ensure._find_delegate_v1(v_wanted);
    outcome := 'exists';
    if delegate is null then
        perform ensure._check_writable_v1(parent, v_wanted.schema_name,
                                          to_regrole(quote_ident(v_wanted.owner))::oid,
                                          format('delegate "%s" is missing', v_wanted.signature));
    end if;
    perform ensure._check_delegate_rights_v1(v_wanted);
    if delegate is null then
        select c.delegate, c.outcome into strict delegate, outcome
        from ensure._create_delegate_v1(v_wanted, max_block, max_wait) as c;
    end if;
    return next;
end
$fn$;

comment on function ensure.ensure_partition_delegate_v1(regclass, name, text, text, text, text,
                                                        text, text, name, interval, interval) is
    'grantee can have parent''s partitions made for keys of a window.';

-- migrate:down
drop function ensure.ensure_partition_delegate_v1(regclass, name, text, text, text, text, text,
                                                  text, name, interval, interval);
drop function ensure._create_delegate_v1(ensure._delegate_v1, interval, interval);
drop function ensure._make_delegate_v1(ensure._delegate_v1);
