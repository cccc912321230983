-- migrate:up
create function ensure._undo_run_v1(
    archive regclass,
    run uuid
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _undo_run_v1: what a run did is undone, and the run has left the archive; the caller has locked.
--
-- Errors   NS001, NS012, NS013, 42703, 42704, 42P01
declare
    v_steps record;
    v_step record;
    v_relations regclass[];
    v_before bigint[];
    v_constraints text;
    v_wrong text;
    v_count bigint;
begin
    select array_agg(s.relation) as relations, array_agg(s.action) as actions,
           array_agg(s.row_count) as counts, sum(s.row_count) as total
    into v_steps
    from ensure._undo_steps_v1(archive, run) as s;
    v_relations := array(select distinct u.r from unnest(v_steps.relations) as u (r));
    v_before := ensure._count_rows_v1(v_relations);
    for v_step in select s.* from ensure._undo_steps_v1(archive, run) as s loop
        perform ensure._undo_step_v1(archive, run, v_step);
    end loop;
    select string_agg(format('%I.%I', n.nspname, c.conname), ', ') into v_constraints
    from pg_constraint as c
    join pg_namespace as n on n.oid = c.connamespace
    where c.condeferred and (c.conrelid = any (v_relations) or c.confrelid = any (v_relations));
    if v_constraints is not null then
        execute format('set constraints %s immediate', v_constraints);
        execute format('set constraints %s deferred', v_constraints);
    end if;
    select string_agg(format('%s: %s before, %s after, %s were to come', c.relation, c.before,
                             c.after, coalesce(g.n, 0)), '; ')
    into v_wrong
    from unnest(v_relations, v_before, ensure._count_rows_v1(v_relations))
         as c (relation, before, after)
    left join (select u.relation, sum(u.n) as n
               from unnest(v_steps.relations, v_steps.actions, v_steps.counts)
                    as u (relation, action, n)
               where u.action = 'deleted'
               group by u.relation) as g on g.relation = c.relation
    where c.before + coalesce(g.n, 0) <> c.after;
    execute format('delete from %s as a where a.run = $1', archive) using run;
    get diagnostics v_count = row_count;
    if v_wrong is not null or v_count <> v_steps.total then
        raise exception using
            errcode = 'NS012',
            message = format('undoing the run %s would lose or add other rows', run),
            detail = format('%s.', coalesce(v_wrong, format('%s of %s rows left the archive',
                                                            v_count, v_steps.total))),
            hint = 'Look for triggers and cascades on these tables; nothing was changed.';
    end if;
    return query
    select u.relation::text, case u.action when 'deleted' then 'inserted' else u.action end,
           sum(u.n)::bigint
    from unnest(v_steps.relations, v_steps.actions, v_steps.counts) as u (relation, action, n)
    group by u.relation, u.action
    order by u.relation = v_steps.relations[1] desc, u.relation::text collate "C", u.action;
end
$fn$;

comment on function ensure._undo_run_v1(regclass, uuid) is
    'What a run did is undone, and the run has left the archive; the caller has locked.';

create function ensure._undo_guards_v1(
    archive regclass,
    run uuid
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _undo_guards_v1: the arguments are a run in an archive, and this transaction may change rows.
--
-- Errors   22004, 22023  bad input
--          25006, 42501, NS011  it may not
begin
    if num_nulls(archive, run) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'archive and run must not be null',
            hint = 'Pass the run that the call named in its row ''archived''.';
    end if;
    perform ensure._check_dedupe_v1(null, null, 'refuse', null, 'refuse', archive);
    if not (has_table_privilege(archive, 'SELECT') and has_table_privilege(archive, 'DELETE')) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('rows of the archive "%s" may not be read and deleted', archive),
            hint = format('Grant SELECT and DELETE on %s to %I.', archive, current_user);
    end if;
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('the run %s cannot be undone in a read-only transaction', run),
            hint = 'Call in a transaction that may write, not on a standby.';
    elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'NS011',
            message = format('the run %s cannot be undone in a %s transaction', run,
                             current_setting('transaction_isolation')),
            detail = 'Its snapshot may be older than rows that are there now.',
            hint = 'Call in a READ COMMITTED transaction.';
    end if;
end
$fn$;

comment on function ensure._undo_guards_v1(regclass, uuid) is
    'The arguments are a run in an archive, and this transaction may change rows.';

create function ensure._undo_locks_v1(
    archive regclass,
    run uuid
)
returns table (relation regclass, mode text)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _undo_locks_v1: the locks under which a run is undone, in the order to take them.
with recursive steps (oid, place) as (
    select s.relation::oid, max(s.last_place)
    from ensure._undo_steps_v1(archive, run) as s
    group by s.relation
), tables (oid) as (
    select s.oid from steps as s
    union
    select i.inhrelid
    from tables as t
    join pg_class as c on c.oid = t.oid and c.relkind = 'p'
    join pg_inherits as i on i.inhparent = t.oid
)
select t.oid::regclass, 'share row exclusive'
from tables as t
order by t.oid <> (select s.oid from steps as s order by s.place desc limit 1), t.oid
$fn$;

comment on function ensure._undo_locks_v1(regclass, uuid) is
    'The locks under which a run is undone, in the order to take them.';

create function ensure._check_ungated_v1(
    relations regclass[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_ungated_v1: no gate of plan_unique_v1 stands on any of these tables.
--
-- Errors   55006  one does, and would refuse or drop rows that come back
declare
    v_gate record;
begin
    select g.tgname as name, g.tgrelid::regclass as relation into v_gate
    from pg_trigger as g
    where g.tgrelid = any (relations) and g.tgname ~ '^zz_ensure_gate_[0-9a-f]{12}$'
      and g.tgenabled <> 'D'
    order by g.tgparentid <> 0, g.tgrelid, g.tgname
    limit 1;
    if found then
        raise exception using
            errcode = 'object_in_use',
            message = format('plan_unique_v1 is at work on "%s"', v_gate.relation),
            detail = format('Its gate, the trigger "%s", lets no duplicates come back.',
                            v_gate.name),
            hint = format('Give the plan up first: drop trigger %I on %s; or run it to its end and'
                          ' drop the unique index.', v_gate.name, v_gate.relation);
    end if;
end
$fn$;

comment on function ensure._check_ungated_v1(regclass[]) is
    'No gate of plan_unique_v1 stands on any of these tables.';

create function ensure._undo_archived_v1(
    archive regclass,
    run uuid,
    max_wait interval,
    max_block interval
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
-- _undo_archived_v1: every row that a run archived is what it was before.
--
-- Returns  as undo_unique_v1
-- Errors   as undo_unique_v1
-- Locks    as undo_unique_v1
declare
    c_written constant boolean := ensure._has_written_v1();
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when c_written then max_block end, '100 years');
    v_relations regclass[];
    v_modes text[];
    v_patient boolean := true;
    v_wait integer := 0;
    v_tries integer := 0;
    v_problem text;
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    perform ensure._undo_guards_v1(archive, run);
    loop
        select array_agg(l.relation), array_agg(l.mode) into v_relations, v_modes
        from ensure._undo_locks_v1(archive, run) as l;
        begin
            if not c_written then
                v_wait := ensure._first_wait_v1(v_relations, v_modes, max_block, c_end, v_patient);
                v_patient := v_wait <= extract(epoch from max_block) * 1000;
            end if;
            perform ensure._take_locks_v1(v_relations, v_modes, v_relations[1], v_wait, c_end);
            perform ensure._check_ungated_v1(v_relations);
            return query select u.* from ensure._undo_run_v1(archive, run) as u;
            perform set_config('lock_timeout', c_lock_timeout, true);
            return;
        exception when lock_not_available or deadlock_detected then
            get stacked diagnostics v_problem = message_text;
        end;
        v_tries := v_tries + 1;
        perform ensure._pause_v1(v_relations, v_modes, v_problem, c_written, v_tries, c_end);
    end loop;
end
$fn$;

comment on function ensure._undo_archived_v1(regclass, uuid, interval, interval) is
    'Every row that a run archived is what it was before.';

create function ensure.undo_unique_v1(
    archive regclass,
    run uuid,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text, row_count bigint)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- undo_unique_v1: every row that a run of ensure_unique_v1 archived is what it was before.
--
-- Returns  one row for each table and what was done: 'inserted' (a deleted row is there again),
--          'moved' (it refers again to what it referred to), 'updated'. The run leaves the archive.
--          A value that its column writes in another way than it was archived is no loss: zeros
--          behind a numeric, blanks behind a char, a time in another zone. A column that is newer
--          than the row in the archive gets its default, a generated one is computed again, and
--          what triggers of the run changed elsewhere stays
-- Errors   22004, 22023  bad input
--          22001, 22003, 22007, 22008, 22P02, 23502, 23503, 23514  a row to come back does not fit
--                 the table as it is now
--          25006  this transaction is read-only
--          42501  a table may not be written, or archive not read; row security would hide rows
--          42703, 42P01  a column or table is not there any more
--          42704  the archive has nothing of the run; it was undone
--          55006  a plan is at work on a table: its gate must go first
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  a unique index has no place for a row: drop it first
--          NS003  a lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is at work on one of the tables
--          NS011  this transaction is REPEATABLE READ or SERIALIZABLE
--          NS012  rows would be lost or added, or were kept back or changed by a trigger, or a
--                 column cannot hold a value that it held
--          0A000  a table has rules
--          NS013  a row was deleted, or a value to be set back was changed since the run
-- Locks    SHARE ROW EXCLUSIVE on each table of the run, until the transaction ends
-- Races    a second caller waits for the first, then finds nothing of the run
-- Rights   to write in the tables and to delete from archive. Triggers fire; those without a
--          search_path of their own find only pg_catalog. What SET CONSTRAINTS said of initially
--          deferred constraints of the tables ends: they are checked, then deferred
select u.* from ensure._undo_archived_v1(archive, run, max_wait, max_block) as u
$fn$;

comment on function ensure.undo_unique_v1(regclass, uuid, interval, interval) is
    'Every row that a run of ensure_unique_v1 archived is what it was before.';

-- migrate:down
drop function ensure.undo_unique_v1(regclass, uuid, interval, interval);
drop function ensure._undo_archived_v1(regclass, uuid, interval, interval);
drop function ensure._check_ungated_v1(regclass[]);
drop function ensure._undo_locks_v1(regclass, uuid);
drop function ensure._undo_guards_v1(regclass, uuid);
drop function ensure._undo_run_v1(regclass, uuid);
