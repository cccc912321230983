-- migrate:up
create function ensure._lock_one_v1(
    relation regclass,
    mode text,
    queue regclass,
    at_once boolean
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lock_one_v1: mode is held on relation.
--
-- Errors   55P03  not to be had; TABLE_NAME of the error says which
--          42501  this role may not lock queue itself; another table is left to ATTACH
begin
    execute format('lock table only %s in %s mode%s', relation, mode,
                   case when at_once then ' nowait' end);
exception
    when lock_not_available then
        raise exception using
            errcode = 'lock_not_available',
            message = format('could not lock "%s" in %s mode', relation, mode),
            table = relation::text;
    when insufficient_privilege then
        if relation = queue then
            raise;
        end if;
end
$fn$;

comment on function ensure._lock_one_v1(regclass, text, regclass, boolean) is
    'Mode is held on relation.';

create function ensure._take_locks_v1(
    relations regclass[],
    modes text[],
    queue regclass,
    first_wait integer,
    until timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _take_locks_v1: modes[i] is held on relations[i]; waits for the first, never while holding one.
--
-- Errors   55P03  not to be had: the first within first_wait milliseconds or until then, another
--                 at once; TABLE_NAME of the error says which. The caller's subtransaction must
--                 roll back.
--          42501  this role may not lock queue itself
-- Locks    as asked, a partitioned table without its partitions; before that the advisory lock
--          (1162760018, oid of queue), where callers wait instead of on the tables. Any login can
--          hold it, so nothing depends on it: not to be had in first_wait, it is left
-- Races    leaves lock_timeout at 50 ms for what the next statements lock; the caller puts it back
-- Rights   ATTACH may lock tables that LOCK TABLE may not: those are left to it
declare
    v_left numeric;
    v_modes record;
    v_one regclass;
begin
    if first_wait > 0 then
        perform set_config('lock_timeout', format('%sms', first_wait), true);
        begin
            perform pg_advisory_xact_lock(1162760018, queue::oid::integer);
        exception when lock_not_available then
            null;
        end;
        v_left := extract(epoch from until - clock_timestamp()) * 1000;
        perform set_config('lock_timeout',
                           format('%sms', ceil(least(first_wait, greatest(v_left, 1)))), true);
    end if;
    perform ensure._lock_one_v1(relations[1], modes[1], queue, first_wait = 0);
    for v_modes in
        select m.mode, string_agg(format('only %s', m.relation), ', ' order by m.place) as tables,
               array_agg(m.relation order by m.place) as relations
        from unnest(relations, modes) with ordinality as m (relation, mode, place)
        where m.place > 1
        group by m.mode
        order by min(m.place)
    loop
        begin
            execute format('lock table %s in %s mode nowait', v_modes.tables, v_modes.mode);
        exception when lock_not_available or insufficient_privilege then
            foreach v_one in array v_modes.relations loop -- which?
                perform ensure._lock_one_v1(v_one, v_modes.mode, queue, true);
            end loop;
        end;
    end loop;
    perform set_config('lock_timeout', '50ms', true);
end
$fn$;

comment on function ensure._take_locks_v1(regclass[], text[], regclass, integer, timestamptz) is
    'modes[i] is held on relations[i]; waits for the first, never while holding one.';

create function ensure._first_wait_v1(
    relations regclass[],
    modes text[],
    max_block interval,
    until timestamptz,
    patient boolean
)
returns integer
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _first_wait_v1: for how many milliseconds an attempt may wait for its first lock.
--
-- Returns  the least of max_block, the caller's own lock_timeout and what is left until then. With
--          patient, nothing but autovacuum in the way and time for it: a little past
--          deadlock_timeout, since autovacuum gives way to nobody who waits less
-- Errors   NS006  a concurrent index build is in the way of one: it would wait for us while we wait
declare
    v_autovacuum boolean;
    v_builds text;
    v_built regclass;
    v_left numeric := extract(epoch from until - clock_timestamp());
    v_wait numeric := least(extract(epoch from max_block), v_left,
                            nullif(extract(epoch from
                                           current_setting('lock_timeout')::interval), 0));
    v_patience numeric := extract(epoch from current_setting('deadlock_timeout')::interval) + 0.2;
begin
    perform pg_stat_clear_snapshot(); -- else who is at work is what the first attempt saw
    select bool_and(b.autovacuum) filter (where b.relation = relations[1]),
           string_agg(b.holder, '; ') filter (where b.index_build),
           min(b.relation::oid) filter (where b.index_build)
    into v_autovacuum, v_builds, v_built
    from ensure._blockers_v1(relations, modes) as b;

    if v_builds is not null then
        raise exception using
            errcode = 'NS006',
            message = format('"%s" is locked by a concurrent index build', v_built),
            detail = format('Held by %s.', v_builds),
            hint = 'Call again when the index build has ended.';
    elsif patient and v_autovacuum and v_patience < v_left then
        v_wait := greatest(v_wait, v_patience);
    end if;
    return greatest(1, least(v_wait * 1000, 2147483647));
end
$fn$;

comment on function ensure._first_wait_v1(regclass[], text[], interval, timestamptz, boolean) is
    'For how many milliseconds an attempt may wait for its first lock.';

create function ensure._has_written_v1()
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _has_written_v1: whether others may be waiting for something that this transaction wrote.
--
-- Returns  true when it has a lock on a table that goes with writing, also after LOCK TABLE or a
--          write that met no row. What a savepoint undid has given its locks back; a sequence is
--          nothing that others wait for
select exists (select
               from pg_locks as l
               left join pg_class as c on c.oid = l.relation
               where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.granted
                 and l.mode not in ('AccessShareLock', 'SIReadLock')
                 and c.relkind is distinct from 'S')
$fn$;

comment on function ensure._has_written_v1() is
    'Whether others may be waiting for something that this transaction wrote.';

create function ensure._pause_v1(
    relations regclass[],
    modes text[],
    problem text,
    written boolean,
    tries integer,
    until timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _pause_v1: a pause between two attempts that grows and has jitter; an error once time is up.
--
-- Errors   NS003  this transaction has written, so it may not wait while others wait for it
--          55P03  the time is spent
declare
    v_left double precision := extract(epoch from until - clock_timestamp());
    v_holders text;
begin
    if v_left > 0 then
        perform pg_sleep(least(v_left,
                               (0.5 + random()) * least(0.005 * 2 ^ least(tries, 10), 0.2)));
        return;
    end if;

    perform pg_stat_clear_snapshot();
    select string_agg(h.holder, '; ') into v_holders
    from (select concat(min(b.holder), case when count(*) > 1
                                            then format(' and %s more', count(*) - 1) end) as holder
          from ensure._blockers_v1(relations, modes) as b
          group by regexp_replace(b.holder, ' \([A-Za-z]+ on .*$', '')
          order by bool_and(b.waits), 1 -- who waits too is hardly what others wait for
          limit 5) as h;
    if relations && '{pg_default_acl}' then
        v_holders := nullif(concat_ws('; ', ensure._row_holders_v1(relations), v_holders), '');
    end if;
    raise exception using
        errcode = case when written then 'NS003' else 'lock_not_available' end,
        message = case when written
                       then format('%s, and this transaction has already written', problem)
                       else problem end,
        detail = format('Attempts: %s. %s', tries,
                        coalesce('In the way: ' || v_holders || '.',
                                 'What was in the way is not there now.')),
        hint = concat_ws(' ',
                         case when written
                              then 'Call before the first write of the transaction,'
                                   ' or in a transaction of its own.'
                              else 'Wait for these transactions or end them,'
                                   ' or raise max_wait.' end,
                         case when not pg_has_role('pg_read_all_stats', 'USAGE')
                              then 'Members of pg_read_all_stats see more of them.' end);
end
$fn$;

comment on function ensure._pause_v1(regclass[], text[], text, boolean, integer, timestamptz) is
    'A pause between two attempts that grows and has jitter; an error once time is up.';

-- migrate:down
drop function ensure._pause_v1(regclass[], text[], text, boolean, integer, timestamptz);
drop function ensure._has_written_v1();
drop function ensure._first_wait_v1(regclass[], text[], interval, timestamptz, boolean);
drop function ensure._take_locks_v1(regclass[], text[], regclass, integer, timestamptz);
drop function ensure._lock_one_v1(regclass, text, regclass, boolean);
