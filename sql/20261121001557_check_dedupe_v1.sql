-- migrate:up
create function ensure._check_kept_v1(
    archive regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_kept_v1: an archive keeps the rows that are inserted, as they are.
--
-- Errors   22023  a rule, or a trigger before a row is inserted, may see to something else
declare
    v_found text;
begin
    with recursive tables (oid) as (
        select archive::oid
        union all
        select i.inhrelid
        from tables as t
        join pg_inherits as i on i.inhparent = t.oid
    )
    select string_agg(f.what, ', ' order by f.what) into v_found
    from (select format('the rule "%s" of %s', w.rulename, w.ev_class::regclass) as what
          from tables as t
          join pg_rewrite as w on w.ev_class = t.oid and w.ev_enabled <> 'D'
          union all
          select format('the trigger "%s" of %s', g.tgname, g.tgrelid::regclass)
          from tables as t
          join pg_trigger as g on g.tgrelid = t.oid and g.tgenabled <> 'D' and not g.tgisinternal
          where g.tgtype & 7 = 7 or g.tgtype & 64 > 0) as f; -- before a row is inserted; instead
    if v_found is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" may not keep what is archived', archive),
            detail = format('There is %s.', v_found),
            hint = 'Drop or disable it, or name another archive; a trigger AFTER INSERT may stay.';
    end if;
end
$fn$;

comment on function ensure._check_kept_v1(regclass) is
    'An archive keeps the rows that are inserted, as they are.';

create function ensure._check_words_v1(
    losers text,
    loser_set text,
    children text
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_words_v1: losers and children are words there are, and go with each other and loser_set.
--
-- Errors   22004, 22023  they are not, or do not
begin
    if num_nulls(losers, children) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('%s must not be null',
                             case when losers is null then 'losers' else 'children' end),
            hint = 'Leave an argument out to get its default.';
    elsif losers not in ('refuse', 'delete', 'update') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('losers cannot be %L', losers),
            hint = 'Pass refuse, delete, or update with loser_set.';
    elsif children not in ('refuse', 'move', 'merge', 'leave') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('children cannot be %L', children),
            hint = 'Pass refuse, move, merge, or leave where losers are not deleted.';
    elsif losers = 'update' and loser_set is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = $$losers is 'update', and loser_set is missing$$,
            hint = 'Say in loser_set what is set in the losers, like is_active = false.';
    elsif losers <> 'update' and loser_set is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('losers is %L, and there is a loser_set', losers),
            hint = 'Leave out loser_set, or pass losers => ''update''.';
    elsif losers = 'delete' and children = 'leave' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = $$losers is 'delete', and children 'leave'$$,
            hint = 'Pass children => ''move'' or ''merge'': nothing refers to a row that is gone.';
    end if;
end
$fn$;

comment on function ensure._check_words_v1(text, text, text) is
    'losers and children are words there are, and go with each other and loser_set.';

create function ensure._check_dedupe_v1(
    target regclass,
    keep text,
    losers text,
    loser_set text,
    children text,
    archive regclass
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_dedupe_v1: the arguments that say what becomes of duplicates fit each other.
--
-- Errors   22004, 22023  they do not; keep is not an order of rows; archive lacks columns, or a
--                 place that is generated and unique, or may not keep what is archived
--          42703, 42883, 42P02, 22P02 …  keep names what is not there, or no value
declare
    c_keep constant text := keep;
    v_code text;
    v_problem text;
    v_column text;
begin
    perform ensure._check_words_v1(losers, loser_set, children);
    if keep is not null then
        begin -- a cursor refuses a text of several statements before it runs the first
            for keep in execute format(
                'explain (costs off) select from jsonb_populate_recordset(null::%1$s, %2$L) as %3$I'
                ' order by %4$s, row_number() over (order by %4$s, %3$I is null)', target, '[]',
                (select c.relname from pg_class as c where c.oid = target), concat(keep, E'\n'))
            loop
                null;
            end loop;
        exception when syntax_error_or_access_rule_violation or data_exception
                       or feature_not_supported or invalid_cursor_definition then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
            v_column := ensure._quoted_column_v1(target, c_keep);
            raise exception using
                errcode = case when v_code in ('0A000', '42601', '42P10', '42P11', '42P20', '42803',
                                               '42704') then '22023' else v_code end,
                message = format('"%s" is not an order of the rows of "%s"',
                                 regexp_replace(c_keep, '\s+', ' ', 'g'), target),
                detail = regexp_replace(v_problem, ' at or near "[),]"$', ''), -- our own
                hint = case when v_column is not null
                            then format('This is SQL: write %s for that column.', v_column)
                            else 'Write what stands in ORDER BY: columns or expressions, with desc'
                                 ' and nulls first where wanted; what is not in pg_catalog needs'
                                 ' its schema.' end;
        end;
    end if;
    if archive is null then
        return; -- and nothing is planned
    end if;
    if (
        select count(*) from pg_attribute as a
        where a.attrelid = archive and a.attnum > 0
          and (a.attname, a.atttypid) in (('run', 'uuid'::regtype), ('relation', 'text'::regtype),
                                          ('action', 'text'::regtype), ('key', 'jsonb'::regtype),
                                          ('old', 'jsonb'::regtype), ('new', 'jsonb'::regtype),
                                          ('place', 'bigint'::regtype))) <> 7
       or not exists ( -- or what was done last cannot be undone first
            select from pg_attribute as a
            where a.attrelid = archive and a.attname = 'place'
              and (a.attidentity <> '' or exists (
                       select from pg_attrdef as d
                       join pg_depend as s on s.classid = 'pg_attrdef'::regclass
                                          and s.objid = d.oid
                                          and s.refclassid = 'pg_class'::regclass
                       join pg_sequence as q on q.seqrelid = s.refobjid
                       where d.adrelid = a.attrelid and d.adnum = a.attnum))
              and exists (select from pg_index as i
                          where i.indrelid = a.attrelid and i.indisunique and i.indisvalid
                            and i.indnkeyatts = 1 and i.indkey[0] = a.attnum
                            and i.indpred is null))
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" is not an archive', archive),
            hint = 'Make it with: create table … (place bigint generated always as identity primary'
                   ' key, run uuid not null, relation text not null, action text not null, key'
                   ' jsonb, old jsonb, new jsonb, archived_at timestamptz not null default now()).';
    end if;
    if target is not null then -- rows may be archived, and not only be taken out
        perform ensure._check_kept_v1(archive);
    end if;
end
$fn$;

comment on function ensure._check_dedupe_v1(regclass, text, text, text, text, regclass) is
    'The arguments that say what becomes of duplicates fit each other.';

create function ensure._check_loser_set_v1(
    target regclass,
    loser_set text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_loser_set_v1: loser_set is what stands in SET of an UPDATE of target, and nothing more.
--
-- Errors   22023  it is not; 42703, 42883 …  it names what is not there
-- Locks    ROW EXCLUSIVE on target
declare
    v_plan text;
    v_code text;
    v_problem text;
    v_column text;
begin
    for v_plan in execute format(
        'explain (costs off) update %s as %I set %s where false', ensure._from_v1(target),
        (select c.relname from pg_class as c where c.oid = target), concat(loser_set, E'\n'))
    loop
        null;
    end loop;
exception when syntax_error_or_access_rule_violation or data_exception or feature_not_supported
               or invalid_cursor_definition then
    get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
    v_column := ensure._quoted_column_v1(target, loser_set);
    raise exception using
        errcode = case when v_code in ('0A000', '42601', '42P11') then '22023' else v_code end,
        message = format('"%s" is not what an UPDATE of "%s" may set',
                         regexp_replace(loser_set, '\s+', ' ', 'g'), target),
        detail = v_problem,
        hint = case when v_column is not null
                    then format('This is SQL: write %s for that column.', v_column)
                    else 'Write what stands in SET, like is_active = false; what is not in'
                         ' pg_catalog needs its schema.' end;
end
$fn$;

comment on function ensure._check_loser_set_v1(regclass, text) is
    'loser_set is what stands in SET of an UPDATE of target, and nothing more.';

-- migrate:down
drop function ensure._check_loser_set_v1(regclass, text);
drop function ensure._check_dedupe_v1(regclass, text, text, text, text, regclass);
drop function ensure._check_words_v1(text, text, text);
drop function ensure._check_kept_v1(regclass);
