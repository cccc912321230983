-- migrate:up
create function ensure._check_members_v1(
    spec jsonb
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_members_v1: the roles that others were made members of are there still, by any snapshot.
--
-- Errors   42704  one is not: GRANT waits for who drops it, and then takes no notice
declare
    v_gone text;
begin
    v_gone := (
        select m.parent
        from jsonb_array_elements(nullif(spec -> 'roles', 'null')) as r (wanted)
        cross join lateral (
            select e.name
            from jsonb_array_elements_text(case when jsonb_typeof(r.wanted -> 'member_of') = 'array'
                                                then r.wanted -> 'member_of' end) as e (name)
            union all
            select o.key
            from jsonb_each(case when jsonb_typeof(r.wanted -> 'member_of') = 'object'
                                 then r.wanted -> 'member_of' end) as o
            where o.value not in ('false', 'null')
        ) as m (parent)
        where to_regrole(quote_ident(m.parent)) is null
        limit 1);
    if v_gone is not null then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', v_gone),
            detail = 'It was dropped while this call waited. Nothing was changed.',
            hint = 'Ensure it first, or mend the name.';
    end if;
end
$fn$;

comment on function ensure._check_members_v1(jsonb) is
    'The roles that others were made members of are there still, by any snapshot.';

create function ensure._take_turn_v1(
    changes ensure._change_v1[],
    first_wait integer,
    until timestamptz
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _take_turn_v1: of the calls that begin with the first of changes this one is at work.
--
-- Returns  false for changes of roles: they are of all databases, and advisory locks of one
-- Locks    the advisory lock (1162760020, hash of the object), waiting first_wait milliseconds at a
--          time, until then; without first_wait it does not wait. Any login can hold it, so only
--          who says that it made it depends on it: not to be had, it is left
declare
    c_subject constant integer := hashtext((changes)[1].object);
begin
    if '{pg_authid}' <@ ensure._changed_catalogs_v1(changes) then
        return false;
    elsif first_wait = 0 then
        perform pg_try_advisory_xact_lock(1162760020, c_subject);
        return true;
    end if;
    perform set_config('lock_timeout', format('%sms', first_wait), true);
    loop
        begin
            perform pg_advisory_xact_lock(1162760020, c_subject);
            return true;
        exception when lock_not_available then
            if clock_timestamp() >= until then
                return true;
            end if;
        end;
    end loop;
end
$fn$;

comment on function ensure._take_turn_v1(ensure._change_v1[], integer, timestamptz) is
    'Of the calls that begin with the first of changes this one is at work.';

create function ensure._make_changes_v1(
    spec jsonb,
    first_changes ensure._change_v1[],
    busy regclass,
    first_wait integer,
    until timestamptz
)
returns setof ensure._change_v1
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _make_changes_v1: all that spec says holds, by statements of this transaction.
--
-- Returns  the changes that were made
-- Errors   55P03  a lock was not to be had; the caller's subtransaction must roll back
--          others as PostgreSQL raises them, with what they came of
--          NS015  the statements ran and the catalogs still differ
-- Locks    those of changes first, waiting for the first one only, which is busy where it is one of
--          them; what LOCK TABLE cannot lock alone, such as a view, is changed before the others
--          when it is busy. Without any the turn, see _take_turn_v1, and the first statement wait
--          up to first_wait. All else for a millisecond
declare
    c_looks_again constant boolean := current_setting('transaction_isolation') = 'read committed';
    v_changes ensure._change_v1[] := first_changes;
    v_change ensure._change_v1;
    v_relations regclass[];
    v_lead integer; -- so many changes come before the locks
    v_turn boolean := false;
    v_wait integer := greatest(first_wait, 1);
    v_code text;
    v_message text;
    v_detail text;
    v_hint text;
begin
    for v_pass in 1 .. 3 loop -- what one change makes may differ too: a new owner's privileges
        v_relations := array(
            select c.relation from unnest(v_changes) as c
            join pg_class as r on r.oid = c.relation
            where r.relkind in ('r', 'p')
              and has_table_privilege(r.oid, 'UPDATE, DELETE, TRUNCATE')
            group by c.relation
            order by c.relation is distinct from busy, c.relation);
        v_lead := array_position(array(select c.relation from unnest(v_changes) as c), busy);
        if busy is null or v_lead is null or busy = any (v_relations) then
            v_lead := 0;
        else
            select array_agg(v_changes[p.place] order by p.leads desc, p.place),
                   count(*) filter (where p.leads)
            into v_changes, v_lead
            from (select s.place, s.place = v_lead or s.place < v_lead
                                  and v_changes[s.place].relation is null as leads
                  from generate_subscripts(v_changes, 1) as s (place)) as p;
        end if;
        begin
            for v_place in 1 .. v_lead loop
                v_change := v_changes[v_place];
                perform set_config('lock_timeout', format('%sms', case
                    when v_place < v_lead then 1 else v_wait end), true);
                execute v_change.statement;
                return next v_change;
            end loop;
            v_changes := v_changes[v_lead + 1 :];
            if v_relations <> '{}' then
                perform ensure._take_locks_v1(
                    v_relations, array_fill('access exclusive'::text,
                                            array[cardinality(v_relations)]),
                    v_relations[1],
                    case when v_pass = 1 and v_lead = 0 then first_wait else 0 end, until);
            elsif v_pass = 1 and v_lead = 0 and c_looks_again then
                v_turn := ensure._take_turn_v1(v_changes, first_wait, until);
            end if;
            if c_looks_again and (v_turn or v_relations <> '{}') then
                v_changes := array(select c from ensure._diff_roles_v1(spec) as c
                                   where c.seen or v_lead = 0); -- who was before us made it?
            end if;
            if v_lead > 0 or v_relations <> '{}' then
                v_wait := 1;
            end if;
            foreach v_change in array v_changes loop
                perform set_config('lock_timeout', format('%sms', case
                    when v_change.relation = busy and first_wait > 0
                    then greatest(v_wait, 50) -- its sequence, say, that somebody else uses
                    else v_wait end), true);
                execute v_change.statement;
                v_wait := 1;
                return next v_change;
            end loop;
        exception
            when lock_not_available then
                get stacked diagnostics v_message = message_text, v_detail = table_name;
                raise exception using
                    errcode = 'lock_not_available',
                    message = case when v_detail = ''
                                   then format('could not change %s', v_change.object)
                                   else v_message end,
                    table = coalesce(nullif(v_detail, ''),
                                     coalesce(v_change.relation, v_change.reads)::text, '');
            when data_exception or syntax_error_or_access_rule_violation or invalid_grantor
                 or dependent_privilege_descriptors_still_exist or feature_not_supported
                 or cant_change_runtime_param then
                get stacked diagnostics v_code = returned_sqlstate, v_message = message_text,
                                        v_detail = pg_exception_detail, v_hint = pg_exception_hint;
                raise exception using
                    errcode = v_code,
                    message = v_message,
                    detail = concat_ws(' ', nullif(v_detail, ''),
                                       format('It came of what is asked for %s, by: %s.',
                                              v_change.object,
                                              ensure._shown_v1(v_change.statement))),
                    hint = case when v_code = '2BP01'
                                then 'Take back first what that role has passed on to others.'
                                else coalesce(nullif(v_hint, ''),
                                              'Mend it in the call, or in the document.') end;
        end;
        if not c_looks_again then
            perform ensure._check_members_v1(spec);
            return; -- its snapshot may be older than what others made true
        end if;
        v_changes := array(select c from ensure._diff_roles_v1(spec) as c where c.seen);
        if v_changes = '{}' then
            return;
        end if;
    end loop;
    raise exception using
        errcode = 'NS015',
        message = format('%s still differs after it was changed', (v_changes)[1].object),
        detail = format('Left after three passes: %s changes, the first by: %s.',
                        cardinality(v_changes), ensure._shown_v1((v_changes)[1].statement)),
        hint = 'Look who else changes it, an event trigger for example.';
end
$fn$;

comment on function ensure._make_changes_v1(jsonb, ensure._change_v1[], regclass, integer,
                                            timestamptz) is
    'All that spec says holds, by statements of this transaction.';

create function ensure._changed_catalogs_v1(
    changes ensure._change_v1[]
)
returns regclass[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _changed_catalogs_v1: the catalogs whose rows these changes write.
--
-- Returns  those of roles, of objects, or both; pg_database where it is changed: who is at work on
--          other databases is in nobody's way
select array(
    select k.catalog
    from (select c.statement ~ '^(grant|revoke) .* on |^alter default |^alter .* owner to ' as acts,
                 c.statement ~ ' (on|in) database ' as database
          from unnest(changes) as c) as s
    cross join lateral (
        select unnest(case when s.acts
            then '{pg_namespace,pg_class,pg_attribute,pg_proc,pg_type,pg_default_acl}'::regclass[]
            else '{pg_authid,pg_auth_members,pg_db_role_setting}' end)
        union all
        select 'pg_database' where s.database
    ) as k (catalog)
    group by k.catalog
    order by k.catalog)
$fn$;

comment on function ensure._changed_catalogs_v1(ensure._change_v1[]) is
    'The catalogs whose rows these changes write.';

create function ensure._settle_changes_v1(
    spec jsonb,
    max_wait interval,
    max_block interval
)
returns table (object text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _settle_changes_v1: all that spec says holds, by this call or another.
--
-- Returns  the changes that were made; when none was, what spec names, as 'exists'
-- Errors   as listed by ensure_roles_v1
-- Locks    each attempt is a subtransaction, rolled back before the next
-- Races    roles belong to all databases and advisory locks to one, so the rows of the catalogs
--          are the lock: who comes second waits for the row, or meets 42710, 23505 or XX000, and
--          looks again
declare
    c_lock_timeout constant text := current_setting('lock_timeout');
    v_catalogs regclass[];
    v_changes ensure._change_v1[];
    v_before ensure._change_v1[];
    v_written boolean;
    v_end timestamptz;
    v_tables regclass[];
    v_busy regclass;
    v_name text;
    v_wait integer;
    v_tries integer := 0;
    v_problem text;
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    loop
        v_changes := array(select c from ensure._diff_roles_v1(spec) as c);
        if v_changes = '{}' then
            return query select s.subject, 'exists'::text from ensure._subjects_v1(spec) as s;
            return;
        end if;
        perform ensure._check_refused_v1(spec);
        perform ensure._may_change_v1(v_changes);
        if v_written is null then
            v_written := ensure._has_written_v1()
                         or pg_current_xact_id_if_assigned() is not null; -- GRANT keeps no lock
            v_end := clock_timestamp()
                     + least(max_wait, case when v_written then max_block end, '100 years');
        end if;
        v_tables := array(select c.relation from unnest(v_changes) as c
                          where c.relation is not null
                          group by c.relation
                          order by c.relation is distinct from v_busy, c.relation);
        perform ensure._check_locks_fit_v1(v_tables);
        begin
            v_wait := ensure._first_wait_v1(v_tables, array_fill('access exclusive'::text,
                                                                 array[cardinality(v_tables)]),
                                            max_block, v_end, not v_written);
            v_changes := array(select c from ensure._make_changes_v1(
                spec, v_changes, v_busy, case when v_written then 0 else v_wait end, v_end) as c);
            if v_changes = '{}' then -- who had the locks has made it: they are given back
                raise exception using errcode = 'NS100';
            end if;
            perform set_config('lock_timeout', c_lock_timeout, true);
            return query select c.object, c.outcome from unnest(v_changes) as c;
            return;
        exception
            when sqlstate 'NS100' then
                continue;
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_problem = message_text, v_name = table_name;
                v_busy := to_regclass(nullif(v_name, ''));
            when duplicate_object or unique_violation then -- another made it
                get stacked diagnostics v_problem = message_text;
            when internal_error then -- "tuple concurrently updated"; others are said in the end
                get stacked diagnostics v_problem = message_text;
            when undefined_object or undefined_table or undefined_function
                 or invalid_schema_name or invalid_catalog_name then -- dropped since we looked?
                if v_changes::text = v_before::text then
                    raise;
                end if;
                v_before := v_changes;
                get stacked diagnostics v_problem = message_text;
            when out_of_memory then
                get stacked diagnostics v_problem = message_text;
                raise exception using
                    errcode = 'out_of_memory',
                    message = format('no room in the lock table for %s relations in one call: %s',
                                     cardinality(v_tables), v_problem),
                    hint = 'Run the rows of ensure.plan_owner_v1, each of them a transaction, or'
                           ' raise max_locks_per_transaction and restart.';
        end;
        v_tables := v_tables || ensure._linked_relations_v1(v_tables);
        v_tries := v_tries + 1;
        v_catalogs := ensure._changed_catalogs_v1(v_changes);
        perform ensure._pause_v1(v_tables || v_catalogs || v_busy,
                                 array_fill('access exclusive'::text,
                                            array[cardinality(v_tables)])
                                 || array_fill('share row exclusive'::text,
                                               array[cardinality(v_catalogs)])
                                 || 'access share'::text,
                                 v_problem, v_written, v_tries, v_end);
    end loop;
end
$fn$;

comment on function ensure._settle_changes_v1(jsonb, interval, interval) is
    'All that spec says holds, by this call or another.';

-- migrate:down
drop function ensure._settle_changes_v1(jsonb, interval, interval);
drop function ensure._changed_catalogs_v1(ensure._change_v1[]);
drop function ensure._make_changes_v1(jsonb, ensure._change_v1[], regclass, integer, timestamptz);
drop function ensure._take_turn_v1(ensure._change_v1[], integer, timestamptz);
drop function ensure._check_members_v1(jsonb);
