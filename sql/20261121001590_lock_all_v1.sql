-- migrate:up
create type ensure._attempt_v1 as (
    target regclass,
    children text,
    rows_change boolean,
    as_constraint boolean,
    written boolean,      -- before the call, so it may not wait
    max_block interval,
    until timestamptz,
    relations regclass[], -- to lock, in this order
    modes text[],
    gently boolean,
    patient regclass[],   -- waited for past deadlock_timeout, once
    wait integer,
    tries integer,
    busy regclass,        -- what was not to be had, if anything
    mode text,
    problem text
);

create function ensure._unique_locks_v1(
    target regclass,
    children text,
    rows_change boolean,
    as_constraint boolean
)
returns table (relation regclass, mode text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unique_locks_v1: the locks under which duplicates are dealt with, in the order to take them.
with recursive tables (oid) as (
    select target::oid
    union
    select t.relation::oid
    from ensure._merge_tables_v1(target, children = 'merge') as t
    where rows_change and children <> 'leave'
    union
    select i.inhrelid
    from tables as t
    join pg_class as c on c.oid = t.oid and c.relkind = 'p'
    join pg_inherits as i on i.inhparent = t.oid
)
select t.oid::regclass,
       case when as_constraint and t.oid = target then 'access exclusive'
            when rows_change then 'exclusive'
            else 'share row exclusive' end
from tables as t
order by t.oid <> target, t.oid
$fn$;

comment on function ensure._unique_locks_v1(regclass, text, boolean, boolean) is
    'The locks under which duplicates are dealt with, in the order to take them.';

create function ensure._lock_all_v1(
    relations regclass[],
    modes text[],
    gently boolean,
    wait_holding boolean,
    queue regclass,
    first_wait integer,
    until timestamptz,
    out relation regclass,
    out mode text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lock_all_v1: modes[i] is held on relations[i], or none is, and which was not to be had.
--
-- Returns  null when all are held
-- Errors   42501  this role may not lock one of them
-- Locks    a partitioned table without its partitions. With gently first SHARE ROW EXCLUSIVE where
--          EXCLUSIVE is asked, which lets the foreign key checks of writers elsewhere come to an
--          end, then the rest at once. Before that the advisory lock as _take_locks_v1
-- Races    waits up to first_wait for the first. With wait_holding also for others, while it holds,
--          but only until somebody who began to wait for it meanwhile could look for deadlocks: it
--          is how a call gets by where some write here and some there. With first_wait = 0 never.
--          Leaves lock_timeout at 50 ms, as _take_locks_v1
declare
    c_patience constant numeric :=
        0.8 * extract(epoch from current_setting('deadlock_timeout')::interval);
    v_begin timestamptz;
    v_stage integer;
    v_place bigint;
    v_left numeric;
begin
    if first_wait > 0 then
        perform set_config('lock_timeout', format('%sms', first_wait), true);
        begin
            perform pg_advisory_xact_lock(1162760018, queue::oid::integer);
        exception when lock_not_available then
            null;
        end;
    end if;
    v_begin := clock_timestamp();
    begin
        for v_stage, v_place, relation, mode in
            select s.stage, m.place, m.relation,
                   case when s.stage = 1 and m.mode = 'exclusive' then 'share row exclusive'
                        else m.mode end
            from unnest(relations, modes) with ordinality as m (relation, mode, place)
            cross join generate_series(case when gently then 1 else 2 end, 2) as s (stage)
            where not gently or s.stage = 1 or m.mode = 'exclusive'
            order by s.stage, m.place
        loop
            v_left := least(first_wait,
                            extract(epoch from until - clock_timestamp()) * 1000,
                            case when v_place > 1 then 1000 * (c_patience - extract(
                                epoch from clock_timestamp() - v_begin)) end,
                            first_wait - extract(epoch from clock_timestamp() - v_begin) * 1000);
            if first_wait > 0 and v_place = 1 then
                v_left := greatest(v_left, 1);
            end if;
            if v_place > 1 and not wait_holding or gently and v_stage = 2 or v_left < 1 then
                execute format('lock table only %s in %s mode nowait', relation, mode);
            else
                perform set_config('lock_timeout', format('%sms', ceil(v_left)), true);
                execute format('lock table only %s in %s mode', relation, mode);
            end if;
        end loop;
    exception when lock_not_available then
        return;
    end;
    perform set_config('lock_timeout', '50ms', true);
    relation := null;
    mode := null;
end
$fn$;

comment on function ensure._lock_all_v1(regclass[], text[], boolean, boolean, regclass, integer,
                                       timestamptz) is
    'modes[i] is held on relations[i], or none is, and which was not to be had.';

create function ensure._attempts_v1(
    target regclass,
    children text,
    rows_change boolean,
    as_constraint boolean,
    max_wait interval,
    max_block interval
)
returns ensure._attempt_v1
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attempts_v1: what attempts to lock a family of tables begin with.
select row(target, children, rows_change, as_constraint, w.written, max_block,
           clock_timestamp() + least(max_wait, case when w.written then max_block end,
                                     '100 years'),
           null, null, not w.written, '{}'::regclass[], 0, 0, null, null, null)::ensure._attempt_v1
from (select ensure._has_written_v1() as written) as w
$fn$;

comment on function ensure._attempts_v1(regclass, text, boolean, boolean, interval, interval) is
    'What attempts to lock a family of tables begin with.';

create function ensure._next_attempt_v1(
    attempt ensure._attempt_v1
)
returns ensure._attempt_v1
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _next_attempt_v1: what to lock now, how, and how long to wait for the first.
--
-- Returns  first what was not to be had last
-- Errors   NS006  as _first_wait_v1
-- Races    to be called in the subtransaction of the attempt: leaves lock_timeout at the wait
declare
    v_next ensure._attempt_v1 := attempt;
begin
    if attempt.mode is not null then
        v_next.gently := not attempt.written and attempt.gently <> (attempt.mode = 'exclusive');
    end if;
    v_next.tries := attempt.tries + 1;
    v_next.mode := null;
    v_next.problem := null;
    select array_agg(l.relation order by l.relation is distinct from attempt.busy, l.place),
           array_agg(l.mode order by l.relation is distinct from attempt.busy, l.place)
    into v_next.relations, v_next.modes
    from ensure._unique_locks_v1(attempt.target, attempt.children, attempt.rows_change,
                                 attempt.as_constraint)
         with ordinality as l (relation, mode, place);
    v_next.wait := ensure._first_wait_v1(
        v_next.relations, case when v_next.gently
                               then array_replace(v_next.modes, 'exclusive', 'share row exclusive')
                               else v_next.modes end,
        attempt.max_block, attempt.until,
        not attempt.written and v_next.relations[1] <> all (attempt.patient));
    if v_next.wait > extract(epoch from attempt.max_block) * 1000 then
        v_next.patient := attempt.patient || v_next.relations[1];
    end if;
    if attempt.written then
        v_next.wait := 0;
    end if;
    perform set_config('lock_timeout', format('%sms', greatest(v_next.wait, 1)), true);
    return v_next;
end
$fn$;

comment on function ensure._next_attempt_v1(ensure._attempt_v1) is
    'What to lock now, how, and how long to wait for the first.';

create function ensure._lock_attempt_v1(
    attempt ensure._attempt_v1
)
returns ensure._attempt_v1
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lock_attempt_v1: all is locked that the attempt names, and that is all there is to lock.
--
-- Returns  problem: why not; then the caller's subtransaction has to roll back
-- Locks    as _lock_all_v1
declare
    v_done ensure._attempt_v1 := attempt;
begin
    select l.relation, l.mode into v_done.busy, v_done.mode
    from ensure._lock_all_v1(attempt.relations, attempt.modes, attempt.gently, attempt.tries > 1,
                             attempt.target, attempt.wait, attempt.until) as l;
    if v_done.mode is not null then
        v_done.problem := format('could not lock "%s" in %s mode', v_done.busy, v_done.mode);
    elsif exists (select from ensure._unique_locks_v1(attempt.target, attempt.children,
                                                      attempt.rows_change, attempt.as_constraint)
                      as l
                  where l.relation <> all (attempt.relations)) then
        v_done.problem := format('tables that reference "%s" come and go', attempt.target);
    end if;
    return v_done;
end
$fn$;

comment on function ensure._lock_attempt_v1(ensure._attempt_v1) is
    'All is locked that the attempt names, and that is all there is to lock.';

-- migrate:down
drop function ensure._lock_attempt_v1(ensure._attempt_v1);
drop function ensure._next_attempt_v1(ensure._attempt_v1);
drop function ensure._attempts_v1(regclass, text, boolean, boolean, interval, interval);
drop function ensure._lock_all_v1(regclass[], text[], boolean, boolean, regclass, integer,
                                       timestamptz);
drop function ensure._unique_locks_v1(regclass, text, boolean, boolean);
drop type ensure._attempt_v1;
