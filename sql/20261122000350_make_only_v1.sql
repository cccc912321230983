-- migrate:up
create function ensure._check_sole_v1(
    target regclass,
    member jsonb,
    among text,
    key name[],
    kept jsonb
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_sole_v1: the row with a key is the member, and the only one that fulfils among.
--
-- Returns  its data
-- Errors   NS009  it is not; NS014  as _found_only_v1
declare
    c_look constant record := ensure._found_only_v1(target, member, among, key);
    c_others constant jsonb[] := array(select r.k from unnest(c_look.rows) as r (k)
                                       where r.k <> kept);
begin
    if c_others <> '{}' then
        raise exception using
            errcode = 'NS009',
            message = format('%s rows of "%s" fulfil among, though demote is done',
                             cardinality(c_others), target),
            detail = format('For example %s.', array_to_string(c_others[:5], ', ')),
            hint = 'Let demote set a column so that they do not, or look for a trigger that sets it'
                   ' back; nothing was changed.';
    elsif c_look.rows = '{}' then
        raise exception using
            errcode = 'NS009',
            message = format('the row %s of "%s" does not fulfil among once it is created or'
                             ' promoted', kept, target),
            detail = format('Member: %s.', left(member::text, 200)),
            hint = 'A row that is created gets member, one that is there promote: let these give it'
                   ' the values that among asks for; nothing was changed.';
    elsif c_look.known is distinct from kept then
        raise exception using
            errcode = 'NS009',
            message = format('the row %s of "%s" does not have the key of member once it is created'
                             ' or promoted', kept, target),
            detail = format('Member: %s.', left(member::text, 200)),
            hint = 'The next call would not find it: look at promote and at triggers; nothing was'
                   ' changed.';
    end if;
    return c_look.data;
end
$fn$;

comment on function ensure._check_sole_v1(regclass, jsonb, text, name[], jsonb) is
    'The row with a key is the member, and the only one that fulfils among.';

create function ensure._settle_constraints_v1(
    relations regclass[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _settle_constraints_v1: what deferred constraints of these tables have against it is said now.
--
-- Returns  nothing; the constraints are as they were declared
declare
    v_constraints text;
    v_deferred text;
begin
    select string_agg(distinct format('%I.%I', n.nspname, f.conname), ', '),
           string_agg(distinct format('%I.%I', n.nspname, f.conname), ', ')
               filter (where f.condeferred and not exists ( -- its name is refused as well
                   select from pg_constraint as o
                   where o.conname = f.conname and o.connamespace = f.connamespace
                     and not o.condeferrable))
    into v_constraints, v_deferred
    from unnest(relations) as t (relation)
    join pg_constraint as f on f.condeferrable and t.relation in (f.conrelid, f.confrelid)
    join pg_namespace as n on n.oid = f.connamespace;
    if v_constraints is not null then
        execute format('set constraints %s immediate', v_constraints);
    end if;
    if v_deferred is not null then
        execute format('set constraints %s deferred', v_deferred);
    end if;
end
$fn$;

comment on function ensure._settle_constraints_v1(regclass[]) is
    'What deferred constraints of these tables have against it is said now.';

create function ensure._change_only_v1(
    target regclass,
    member jsonb,
    demote text,
    promote text,
    keeper jsonb,
    rows jsonb[],
    fulfils boolean,
    children text,
    child_tables regclass[],
    archive regclass,
    run uuid
)
returns table (relation regclass, action text, row_count bigint, kept jsonb)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _change_only_v1: rows are demoted, the keeper is created or promoted, children are moved.
--
-- Returns  first the keeper: 'created', 'promoted' or 'exists', with its key; then what changed
-- Errors   NS009, NS010, NS012, NS014
declare
    c_tables constant regclass[] := array(
        select l.relation from ensure._only_locks_v1(target, children, child_tables) as l);
    c_counted constant regclass[] := case when children = 'leave' then '{}' else array(
        select t.relation from unnest(c_tables) as t (relation)
        where not exists (select from unnest(c_tables) as o (relation)
                          where o.relation <> t.relation
                            and o.relation in (select pg_partition_ancestors(t.relation)))) end;
    c_before constant bigint[] := ensure._count_rows_v1(c_counted);
    v_demoted record;
    v_moved jsonb := '[]';
    v_wrong text;
begin
    kept := keeper;
    if keeper is null or rows <> '{}' then
        v_demoted := ensure._demote_v1(target, member, demote, keeper, rows, archive, run);
        kept := v_demoted.kept;
    end if;
    if keeper is not null and not fulfils then
        kept := ensure._promote_v1(target, member, promote, keeper, archive, run);
    end if;
    if children <> 'leave' and rows <> '{}' then
        select coalesce(jsonb_agg(to_jsonb(c)), '[]') into v_moved
        from (select m.relation::oid as relation, m.action, sum(m.row_count) as row_count
              from ensure._only_children_v1(target, v_demoted.demoted, kept, children,
                                            child_tables, archive, run) as m
              group by m.relation, m.action
              order by m.relation::text collate "C", m.action desc) as c;
    end if;
    perform ensure._settle_constraints_v1(c_tables);
    select string_agg(format('%s: %s before, %s after', b.relation, b.before, b.after), '; ')
    into v_wrong
    from unnest(c_counted, c_before, ensure._count_rows_v1(c_counted))
         as b (relation, before, after)
    where b.before + (b.relation = target and keeper is null)::integer - (
              select coalesce(sum((m.done ->> 'row_count')::bigint), 0)
              from jsonb_array_elements(v_moved) as m (done)
              where m.done ->> 'action' = 'deleted'
                and (m.done ->> 'relation' = b.relation::oid::text
                     or b.relation in (select pg_partition_ancestors(
                                                  (m.done ->> 'relation')::oid)))) <> b.after;
    if v_wrong is not null then
        raise exception using
            errcode = 'NS012',
            message = format('rows of "%s" or of what refers to it would be lost or added', target),
            detail = format('%s.', v_wrong),
            hint = 'Look for triggers and cascades on these tables; nothing was changed.';
    end if;
    relation := target;
    action := case when keeper is null then 'created' when fulfils then 'exists'
                   else 'promoted' end;
    row_count := case when not (keeper is not null and fulfils) then 1 end;
    return next;
    if rows <> '{}' then
        action := 'demoted';
        row_count := cardinality(rows);
        return next;
    end if;
    return query
    select (m.done ->> 'relation')::oid::regclass, m.done ->> 'action',
           (m.done ->> 'row_count')::bigint, null::jsonb
    from jsonb_array_elements(v_moved) with ordinality as m (done, place)
    order by m.place;
end
$fn$;

comment on function ensure._change_only_v1(regclass, jsonb, text, text, jsonb, jsonb[], boolean,
                                           text, regclass[], regclass, uuid) is
    'Rows are demoted, the keeper is created or promoted, children are moved.';

create function ensure._make_only_v1(
    target regclass,
    member jsonb,
    among text,
    demote text,
    key name[],
    promote text,
    children text,
    child_tables regclass[],
    archive regclass
)
returns table (object text, outcome text, row_count bigint, data jsonb)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _make_only_v1: the one row that fulfils among is the member; the caller has locked.
--
-- Returns  nothing when it is already
-- Errors   as listed by ensure_only_v1
declare
    c_look constant record := ensure._found_only_v1(target, member, among, key);
    c_fulfils constant boolean := coalesce(c_look.known = any (c_look.rows), false);
    c_losers constant jsonb[] := array(select r.k from unnest(c_look.rows) as r (k)
                                       where r.k is distinct from c_look.known);
    c_run constant uuid := case when archive is not null then gen_random_uuid() end;
    v_kept jsonb;
    v_code text;
    v_problem text;
    v_advice text;
    v_table text;
    v_constraint text;
begin
    if c_fulfils and c_losers = '{}' then
        return;
    end if;
    perform ensure._check_set_v1(target, demote, 'demote');
    if promote is not null then
        perform ensure._check_set_v1(target, promote, 'promote');
    end if;
    begin
        for object, outcome, row_count, v_kept in
            select c.relation::text, c.action, c.row_count, c.kept
            from ensure._change_only_v1(target, member, demote, promote, c_look.known, c_losers,
                                        c_fulfils, children, child_tables, archive, c_run) as c
        loop
            data := case when outcome in ('created', 'promoted', 'exists')
                         then ensure._check_sole_v1(target, member, among, key, v_kept) end;
            return next;
        end loop;
    exception
        when integrity_constraint_violation then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text,
                                    v_table = table_name, v_constraint = constraint_name;
            raise exception using
                errcode = 'NS010',
                message = format('making the member the only one among the rows of "%s" breaks the'
                                 ' constraint "%s" of "%s"', target,
                                 case when v_constraint <> '' then v_constraint
                                      when v_code = '23502' then 'NOT NULL' else v_code end,
                                 coalesce(nullif(v_table, ''), target::text)),
                detail = format('%s: %s.', v_code, v_problem),
                hint = 'Look at member, demote and promote, or change these rows before the call;'
                       ' nothing was changed.';
        when data_exception or cardinality_violation then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
            raise exception using
                errcode = v_code,
                message = format('a value for a row of "%s" cannot be had: %s', target, v_problem),
                detail = format('Member: %s. Demote: %s. Promote: %s.', left(member::text, 200),
                                left(demote, 200), coalesce(left(promote, 200), 'none')),
                hint = 'Look at what demote and promote make of these rows, at defaults and at'
                       ' triggers; nothing was changed.';
        when insufficient_privilege then
            get stacked diagnostics v_problem = message_text, v_advice = pg_exception_hint;
            raise exception using
                errcode = 'insufficient_privilege',
                message = v_problem,
                detail = format('This is %I.', current_user),
                hint = coalesce(nullif(v_advice, ''), 'Grant it; for an identity that demote takes'
                                ' from keeper it is USAGE on its sequence.');
        when triggered_data_change_violation or undefined_table or undefined_function then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
            raise exception using
                errcode = 'NS012',
                message = format('a trigger of "%s" or of what refers to it failed', target),
                detail = format('%s: %s.', v_code, v_problem),
                hint = case v_code
                    when '27000' then 'Let it change other rows AFTER the statement, not BEFORE.'
                    else 'Here search_path is pg_catalog: give the trigger function its own, with'
                         ' ALTER FUNCTION … SET search_path.' end;
    end;
    if archive is not null then
        object := c_run;
        outcome := 'archived';
        data := null;
        execute format('select count(*) from %s as a where a.run = $1', archive)
        into row_count using c_run;
        if row_count > 0 then
            return next;
        end if;
    end if;
end
$fn$;

comment on function ensure._make_only_v1(regclass, jsonb, text, text, name[], text, text,
                                         regclass[], regclass) is
    'The one row that fulfils among is the member; the caller has locked.';

-- migrate:down
drop function ensure._make_only_v1(regclass, jsonb, text, text, name[], text, text, regclass[],
                                   regclass);
drop function ensure._change_only_v1(regclass, jsonb, text, text, jsonb, jsonb[], boolean, text,
                                     regclass[], regclass, uuid);
drop function ensure._settle_constraints_v1(regclass[]);
drop function ensure._check_sole_v1(regclass, jsonb, text, name[], jsonb);
