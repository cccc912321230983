-- migrate:up
create function ensure._places_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    stay boolean,
    most integer
)
returns tid[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
set parallel_tuple_cost = 0
as $fn$
-- _places_v1: where the rows are that stay, or those that have to go, for a key to be unique.
--
-- Returns  at most so many. By parallel workers where there are some, as an index is built
-- Errors   42501  row security would hide rows
declare
    c_rows constant record := ensure._keyed_rows_v1(unique_key);
    v_places tid[];
begin
    execute format( -- one sort, never quadratic, and no hash that has to fit in work_mem
        'select array_agg(l."~row") from (select d."~row" from (select "~row", row_number() over ('
        ' partition by %s order by %s%s, "~row") as "~n" from %s) as d where d."~n" %s 1 limit %s)'
        ' as l', c_rows.peers, keep, E'\n', c_rows.source, case when stay then '=' else '>' end,
        most)
    into v_places;
    return coalesce(v_places, '{}');
end
$fn$;

comment on function ensure._places_v1(ensure._unique_key_v1, text, boolean, integer) is
    'Where the rows are that stay, or those that have to go, for a key to be unique.';

create function ensure._delete_losers_v1(
    unique_key ensure._unique_key_v1,
    keep text
)
returns table (relation regclass, action text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _delete_losers_v1: as _dedupe_v1, where nothing refers to the table and nothing is archived.
--
-- Errors   NS012  a trigger or rule kept rows
declare
    c_most constant integer := 16000000; -- their places are in memory, 15 bytes each
    v_places tid[];
    v_count bigint;
begin
    relation := unique_key.target;
    action := 'deleted';
    row_count := 0;
    loop
        v_places := ensure._places_v1(unique_key, keep, false, c_most);
        exit when v_places = '{}';
        execute format('delete from only %s as "~t" where "~t".ctid = any ((select $1)::tid[])',
                       relation)
        using v_places;
        get diagnostics v_count = row_count;
        if v_count <> cardinality(v_places) then
            raise exception using
                errcode = 'NS012',
                message = format('%s of %s duplicates in "%s" were deleted', v_count,
                                 cardinality(v_places), relation),
                detail = 'The others were kept.',
                hint = 'Look for a trigger or rule on the table; then call again.';
        end if;
        row_count := row_count + v_count;
        exit when v_count < c_most;
    end loop;
    if row_count > 0 then
        return next;
    end if;
end
$fn$;

comment on function ensure._delete_losers_v1(ensure._unique_key_v1, text) is
    'As _dedupe_v1, where nothing refers to the table and nothing is archived.';

create function ensure._check_round_v1(
    unique_key ensure._unique_key_v1,
    loser_set text,
    losers bigint[],
    rows bigint[],
    again boolean
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_round_v1: merging duplicates round after round comes to an end.
--
-- Returns  losers and rows: how many there were in each round, the last last; again: one of these
--          losers was one before. Where losers change and rows refer to others of their table,
--          new ones may take their place, but no row can be one twice
-- Errors   NS009  loser_set leaves them what they are; NS012  a trigger puts rows back
declare
    c_last constant integer := cardinality(losers);
    c_self constant boolean := exists (
        select from ensure._references_v1(unique_key.target::regclass) as r
        where r.child = unique_key.target);
begin
    if c_last < 2 or not again and (rows[c_last], losers[c_last])
                                   < (rows[c_last - 1], losers[c_last - 1]) then
        return;
    elsif loser_set is null then
        raise exception using
            errcode = 'NS012',
            message = format('%s duplicates of "%s" are there after as many were deleted',
                             losers[c_last], unique_key.target::regclass),
            detail = format('Rows before: %s, after: %s.', rows[c_last - 1], rows[c_last]),
            hint = 'Look for a trigger that puts rows back when they are deleted.';
    elsif again or not c_self
          or (select sum(u.n) from unnest(losers[:c_last - 1]) as u (n)) >= rows[c_last] then
        perform ensure._raise_duplicates_v1(unique_key, loser_set);
    end if;
end
$fn$;

comment on function ensure._check_round_v1(ensure._unique_key_v1, text, bigint[], bigint[],
                                           boolean) is
    'Merging duplicates round after round comes to an end.';

create function ensure._check_deferred_v1(
    target regclass,
    merge boolean
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_deferred_v1: no deferred constraint has anything against a merge of rows of target.
--
-- Returns  nothing; what one had would come at COMMIT, to whoever commits
-- Errors   class 23
declare
    v_constraint text;
begin
    for v_constraint in
        select distinct format('%I.%I', n.nspname, f.conname)
        from ensure._merge_tables_v1(target, merge) as t
        join pg_constraint as f on f.condeferrable and t.relation in (f.conrelid, f.confrelid)
        join pg_namespace as n on n.oid = f.connamespace
    loop
        execute format('set constraints %s immediate', v_constraint);
    end loop;
end
$fn$;

comment on function ensure._check_deferred_v1(regclass, boolean) is
    'No deferred constraint has anything against a merge of rows of target.';

create function ensure._raise_merge_problem_v1(
    target regclass,
    code text,
    problem text,
    relation text,
    constraint_name text
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_merge_problem_v1: what PostgreSQL said while rows were merged, with advice.
--
-- Errors   NS010  a constraint; NS012  a trigger, or loser_set
begin
    if code like '23%' then
        raise exception using
            errcode = 'NS010',
            message = format('merging duplicates of "%s" breaks the constraint "%s" of "%s"',
                             target, coalesce(nullif(constraint_name, ''),
                                              case code when '23514' then 'partition'
                                                        else 'NOT NULL' end), relation),
            detail = format('%s: %s.', code, problem),
            hint = 'Change these rows before the call, or what is set in the row that is kept;'
                   ' nothing was changed.';
    end if;
    raise exception using
        errcode = 'NS012',
        message = format('a trigger or loser_set failed while duplicates of "%s" were merged',
                         target),
        detail = format('%s: %s.', code, problem),
        hint = case code
            when '27000' then 'Let it change other rows AFTER the statement, not BEFORE.'
            else 'Here search_path is pg_catalog: give the trigger function its own, with'
                 ' ALTER FUNCTION … SET search_path.' end;
end
$fn$;

comment on function ensure._raise_merge_problem_v1(regclass, text, text, text, text) is
    'What PostgreSQL said while rows were merged, with advice.';

create function ensure._dedupe_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    loser_set text,
    children text,
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
-- _dedupe_v1: of each group of duplicates one row is left.
--
-- Returns  as _merge_rows_v1
-- Errors   NS009, NS012; 42501  row security would hide rows
--          NS010  as _merge_rows_v1, and for any constraint that would be broken
-- Races    the caller keeps writers out
declare
    c_target constant regclass := unique_key.target;
    v_losers record;
    v_done jsonb[] := '{}';
    v_counts bigint[] := '{}';
    v_rows bigint[] := '{}';
    v_code text;
    v_problem text;
    v_table text;
    v_constraint text;
begin
    if loser_set is null and archive is null
       and not exists (select from ensure._references_v1(c_target))
       and not exists (select from pg_class as c where c.oid = c_target and c.relkind = 'p') then
        return query select d.* from ensure._delete_losers_v1(unique_key, keep) as d;
        return;
    end if;
    begin
        loop -- what moves in the table itself may make new duplicates
            v_losers := ensure._losers_v1(unique_key, keep);
            exit when v_losers.losers = '{}';
            v_counts := v_counts || cardinality(v_losers.losers)::bigint;
            v_rows := v_rows || v_losers.row_count;
            perform ensure._check_round_v1(
                unique_key, loser_set, v_counts, v_rows,
                loser_set is not null and exists (
                    select from unnest(v_losers.losers) as n (l)
                    join unnest(v_done) as d (l) on d.l = n.l));
            return query
            select m.* from ensure._merge_rows_v1(c_target, v_losers.losers, v_losers.keepers,
                                                  loser_set, children, archive, run) as m;
            exit when loser_set is not null and 'ctid' = any (ensure._row_key_v1(c_target));
            v_done := v_done || v_losers.losers;
        end loop;
        perform ensure._check_deferred_v1(c_target, children = 'merge');
    exception
        when integrity_constraint_violation or triggered_data_change_violation or undefined_table
             or undefined_function then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text,
                                    v_table = table_name, v_constraint = constraint_name;
            perform ensure._raise_merge_problem_v1(c_target, v_code, v_problem, v_table,
                                                   v_constraint);
    end;
    perform ensure._raise_duplicates_v1(unique_key, loser_set);
end
$fn$;

comment on function ensure._dedupe_v1(ensure._unique_key_v1, text, text, text, regclass, uuid) is
    'Of each group of duplicates one row is left.';

-- migrate:down
drop function ensure._dedupe_v1(ensure._unique_key_v1, text, text, text, regclass, uuid);
drop function ensure._raise_merge_problem_v1(regclass, text, text, text, text);
drop function ensure._check_deferred_v1(regclass, boolean);
drop function ensure._check_round_v1(ensure._unique_key_v1, text, bigint[], bigint[], boolean);
drop function ensure._delete_losers_v1(ensure._unique_key_v1, text);
drop function ensure._places_v1(ensure._unique_key_v1, text, boolean, integer);
