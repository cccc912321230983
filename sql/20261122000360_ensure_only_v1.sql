-- migrate:up
create function ensure._only_guards_v1(
    target regclass,
    member jsonb,
    among text,
    demote text,
    key name[],
    promote text,
    children text,
    child_tables regclass[],
    max_block interval
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _only_guards_v1: this transaction and role may make the change; asked only when there is one.
--
-- Errors   25006, 42501, NS011  they may not
--          0A000  a rule would run, or a column has a name that is needed
--          22023, 42702, 42703, 42883 …  demote or promote is no SET list; said before anything is
--                 locked where that can be known at once
declare
    v_table record;
    v_changed boolean;
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('the member is not the only one among the rows of "%s", and this'
                             ' transaction is read-only', target),
            hint = case when pg_is_in_recovery() then 'Call on the primary.'
                        else 'Call in a read-write transaction.' end;
    elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'NS011',
            message = format('rows of "%s" cannot be compared in a %s transaction', target,
                             current_setting('transaction_isolation')),
            detail = 'Its snapshot may be older than rows that are there now.',
            hint = 'Call in a READ COMMITTED transaction.';
    end if;
    for v_table in
        select l.relation, r.child is not null as chosen
        from ensure._only_locks_v1(target, children, child_tables) as l
        left join unnest(ensure._only_tables_v1(target, children, child_tables)) as r (child)
          on r.child = l.relation
    loop
        v_changed := v_table.relation = target or v_table.chosen;
        if not (v_changed and has_table_privilege(v_table.relation, 'SELECT')
                and has_table_privilege(v_table.relation, 'UPDATE')
                or not v_changed
                and has_table_privilege(v_table.relation, 'UPDATE, DELETE, TRUNCATE')) then
            raise exception using
                errcode = 'insufficient_privilege',
                message = format(case when v_changed then 'rows of "%s" may not be read and changed'
                                      else '"%s" may not be locked' end, v_table.relation),
                detail = format('This is %I.', current_user),
                hint = case when v_changed then 'Grant SELECT and UPDATE on it.'
                            else 'Grant UPDATE on it, as on the table above.' end;
        end if;
        continue when not v_changed;
        perform ensure._refuse_rule_v1(ensure._rule_v1(v_table.relation, children = 'merge'
                                                                         and v_table.chosen, true));
        perform ensure._check_names_v1(v_table.relation);
    end loop;
    if exists (select from pg_rewrite as w
               where w.ev_class = target and w.ev_type = '3' and w.ev_enabled <> 'D') then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('a rule of "%s" would run instead of an insert, or beside it', target),
            hint = 'Drop it, or disable it meanwhile.';
    end if;
    if ensure._has_written_v1() then
        return; -- others may be waiting for it, so it may not wait: it is said under the lock
    end if;
    begin
        perform set_config('lock_timeout', format('%sms', greatest(1, least(
            extract(epoch from max_block) * 1000, 2147483647))::integer), true);
        perform ensure._check_set_v1(target, demote, 'demote');
        if promote is not null then
            perform ensure._check_set_v1(target, promote, 'promote');
        end if;
        raise exception using errcode = 'NS100';
    exception when sqlstate 'NS100' or lock_not_available then
        null; -- so that its lock is not kept while the call waits for others
    end;
end
$fn$;

comment on function ensure._only_guards_v1(regclass, jsonb, text, text, name[], text, text,
                                           regclass[], interval) is
    'This transaction and role may make the change; asked only when there is one.';

create function ensure._settle_only_v1(
    target regclass,
    member jsonb,
    among text,
    demote text,
    key name[],
    promote text,
    children text,
    child_tables regclass[],
    archive regclass,
    max_wait interval,
    max_block interval
)
returns table (object text, outcome text, row_count bigint, data jsonb)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _settle_only_v1: the one row that fulfils among is the member, by this call or another.
--
-- Errors   as listed by ensure_only_v1
-- Locks    each attempt is a subtransaction, rolled back before the next
-- Races    looks again under the lock; an attempt that finds it done gives its locks back at once
declare
    c_written constant boolean := ensure._has_written_v1();
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when c_written then max_block end, '100 years');
    v_relations regclass[];
    v_modes text[];
    v_names text[];
    v_gently boolean := not c_written;
    v_busy regclass;
    v_mode text;
    v_patient regclass[] := '{}'; -- waited for past deadlock_timeout, once
    v_wait integer := 0;
    v_tries integer := 0;
    v_problem text;
    v_look record;
begin
    loop
        perform ensure._check_target_v1(target);
        select array_agg(l.relation order by l.relation is distinct from v_busy, l.place),
               array_agg(l.mode order by l.relation is distinct from v_busy, l.place)
        into v_relations, v_modes
        from ensure._only_locks_v1(target, children, child_tables)
             with ordinality as l (relation, mode, place);
        v_names := v_relations::text[]; -- by which they are locked
        v_mode := null;
        begin
            v_wait := ensure._first_wait_v1(
                v_relations, case when v_gently
                                  then array_replace(v_modes, 'exclusive', 'share row exclusive')
                                  else v_modes end,
                max_block, c_end, not c_written and v_relations[1] <> all (v_patient));
            if v_wait > extract(epoch from max_block) * 1000 then
                v_patient := v_patient || v_relations[1];
            end if;
            if c_written then
                v_wait := 0;
            end if;
            perform set_config('lock_timeout', format('%sms', greatest(v_wait, 1)), true);
            begin
                select l.relation, l.mode into v_busy, v_mode
                from ensure._lock_all_v1(v_relations, v_modes, v_gently, v_tries > 0, target,
                                         v_wait, c_end) as l;
            exception when undefined_table or invalid_schema_name then
                raise exception using errcode = 'NS101';
            end;
            if v_mode is not null then
                raise exception using errcode = 'NS102';
            elsif v_relations::text[] <> v_names
                  or exists (select from ensure._only_locks_v1(target, children, child_tables) as l
                             where l.relation <> all (v_relations)) then
                raise exception using errcode = 'NS101';
            end if;
            perform ensure._check_only_v1(target, member, among, demote, key, children,
                                          child_tables, archive); -- columns may be others now
            return query
            select m.* from ensure._make_only_v1(target, member, among, demote, key, promote,
                                                 children, child_tables, archive) as m;
            if not found then
                raise exception using errcode = 'NS100';
            end if;
            perform set_config('lock_timeout', c_lock_timeout, true);
            return;
        exception
            when sqlstate 'NS100' then -- another did it: the locks have gone with the attempt
                v_look := ensure._found_only_v1(target, member, among, key, 2);
                if v_look.rows = array[v_look.known] then
                    return query select target::text, 'exists', null::bigint, v_look.data;
                    return;
                end if;
                v_problem := format('rows of "%s" come and go', target);
            when sqlstate 'NS101' then
                v_problem := format('"%s" or tables that reference it are created, renamed or'
                                    ' dropped', target);
            when sqlstate 'NS102' then
                v_problem := format('could not lock "%s" in %s mode', v_busy, v_mode);
                v_gently := not c_written and v_gently <> (v_mode = 'exclusive');
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_problem = message_text;
                v_problem := format('no lock on all that changes with "%s": %s', target, v_problem);
        end;
        v_tries := v_tries + 1;
        perform ensure._pause_v1(v_relations, v_modes, v_problem, c_written, v_tries, c_end);
    end loop;
end
$fn$;

comment on function ensure._settle_only_v1(regclass, jsonb, text, text, name[], text, text,
                                           regclass[], regclass, interval, interval) is
    'The one row that fulfils among is the member, by this call or another.';

create function ensure.ensure_only_v1(
    target regclass,
    member jsonb,
    among text,
    demote text,
    key name[] default null,
    promote text default null,
    children text default 'leave',
    child_tables regclass[] default null,
    archive regclass default null,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text, row_count bigint, data jsonb)
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
-- ensure_only_v1: exactly one row of target fulfils among, and it is the one that member names.
--
-- Returns  first the row that is kept, with its data: 'exists', 'created' or 'promoted'; then how
--          many rows were 'demoted', for each table how many that referred to them were 'moved' or,
--          as they became duplicates, 'deleted', and for the archive the run as object, 'archived'.
--          A row that is there keeps what promote does not set; promote is for one that does not
--          fulfil among. In demote "keeper" is the row that is kept, before promote
-- Errors   21000, 22001, 22003, 22004, 22007, 22012, 22023, 22P02, 42601, 42702, 42703, 42804,
--                 42883, 428C9, 42P02  bad input
--          42P01, 42809, 0A000  no such table; not a table; others inherit from it; a rule on a
--                 table whose rows change, a column there with a name like "~row"; rows without a
--                 key that move or are to be archived
--          42P10  member has no unique key, or key is none
--          25006, 42501  there is something to do, and this transaction or role may not; row
--                 security would hide rows
--          55000  a table whose rows change is published, and has no replica identity
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS003  a lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is at work on one of the tables
--          NS009  demote leaves rows that fulfil among; the row that is kept does not, or has not
--                 the key of member, and promote, if given, does not change that
--          NS010  a row that is demoted or moved would be a duplicate, or breaks a constraint
--          NS011  there is something to do, and this transaction is REPEATABLE READ or
--                 SERIALIZABLE
--          NS012  a trigger kept or changed a row, or rows would be lost, or not be archived
--          NS014  several rows have a key of member, or another row has a key that the one that is
--                 kept needs
-- Locks    none when it holds, but ACCESS SHARE on target, as any query. Else, until the
--          transaction ends, EXCLUSIVE on target: others read, and nobody writes or locks a row.
--          With children that move also on their tables, with 'merge' also on those below
-- Races    a second caller waits for the first, then finds it done
-- Rights   to read, insert and update target and its partitions, and to use the sequence of an
--          identity that demote takes from keeper; to read and change children and insert in
--          archive. Row security is off: what it would hide is an error. Triggers fire, with the
--          search_path of their own or pg_catalog. What SET CONSTRAINTS said of deferrable
--          constraints ends: each is checked, then as it was declared
declare
    c_lock_timeout constant text := current_setting('lock_timeout');
    v_look record;
    v_advice text;
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    begin
        perform set_config('lock_timeout', format('%sms', greatest(1, least(
            1000 * extract(epoch from least(max_wait, nullif(c_lock_timeout::interval, '0'))),
            2147483647))::integer), true);
        perform ensure._check_only_v1(target, member, among, demote, key, children, child_tables,
                                      archive);
        data := ensure._sure_member_v1(target, member, among, key);
        if data is null then
            v_look := ensure._found_only_v1(target, member, among, key, 2);
            data := case when v_look.rows = array[v_look.known] then v_look.data end;
        end if;
        perform set_config('lock_timeout', c_lock_timeout, true);
        if data is not null then
            object := target;
            outcome := 'exists';
            return next;
            return;
        end if;
        raise exception using errcode = 'NS100';
    exception
        when sqlstate 'NS100' then
            null; -- so that it waits for others without a lock that they may wait for
        when lock_not_available then
            perform ensure._pause_v1(array[target], '{access share}',
                                     format('could not read "%s"', target), false, 1,
                                     clock_timestamp());
        when undefined_table or internal_error or invalid_column_reference then
            get stacked diagnostics v_advice = pg_exception_hint;
            perform ensure._check_target_v1(target); -- it may have waited for who dropped it
            if v_advice <> '' then
                raise;
            end if; -- else for who renamed it
    end;
    perform ensure._only_guards_v1(target, member, among, demote, key, promote, children,
                                   child_tables, max_block);
    return query
    select s.*
    from ensure._settle_only_v1(target, member, among, demote, key, promote, children,
                                child_tables, archive, max_wait, max_block) as s;
end
$fn$;

comment on function ensure.ensure_only_v1(regclass, jsonb, text, text, name[], text, text,
                                          regclass[], regclass, interval, interval) is
    'Exactly one row of target fulfils among, and it is the one that member names.';

-- migrate:down
drop function ensure.ensure_only_v1(regclass, jsonb, text, text, name[], text, text, regclass[],
                                    regclass, interval, interval);
drop function ensure._settle_only_v1(regclass, jsonb, text, text, name[], text, text, regclass[],
                                     regclass, interval, interval);
drop function ensure._only_guards_v1(regclass, jsonb, text, text, name[], text, text, regclass[],
                                     interval);
