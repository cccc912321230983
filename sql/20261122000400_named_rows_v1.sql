-- migrate:up
create function ensure._merge_list_v1(
    keeper jsonb,
    losers jsonb,
    out keeper_list jsonb,
    out loser_list jsonb
)
returns record
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_list_v1: losers as a list of objects, and their keepers as another, side by side.
--
-- Errors   22004  keeper or losers is null, or a value in them
--          22023  one is not an object or a list of objects, or the lists are not as long
declare
    v_one jsonb;
begin
    if coalesce(jsonb_typeof(keeper), 'null') = 'null'
       or coalesce(jsonb_typeof(losers), 'null') = 'null' then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'keeper and losers must not be null',
            hint = $$Call it like ('app.users', '{"id": 1}', '[{"id": 2}, {"id": 3}]').$$;
    end if;
    loser_list := case jsonb_typeof(losers) when 'array' then losers
                                            else jsonb_build_array(losers) end;
    keeper_list := case jsonb_typeof(keeper) when 'array' then keeper
                   else coalesce((select jsonb_agg(keeper)
                                  from jsonb_array_elements(loser_list)), '[]') end;
    if jsonb_array_length(keeper_list) <> jsonb_array_length(loser_list) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'the list of keepers is not as long as that of losers',
            detail = format('Keepers: %s, losers: %s.', jsonb_array_length(keeper_list),
                            jsonb_array_length(loser_list)),
            hint = 'Name for each loser the keeper at the same place, or one keeper for all.';
    end if;
    select e.value into v_one
    from jsonb_array_elements(keeper_list || loser_list || jsonb_build_array(
             case jsonb_typeof(keeper) when 'array' then jsonb_build_object('a', 0)
                                       else keeper end)) as e
    where jsonb_typeof(e.value) <> 'object' or e.value = '{}'
    limit 1;
    if found then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s names no row', left(v_one::text, 100)),
            hint = 'Name a row by an object with the columns of a unique key, like {"id": 1}.';
    end if;
    select e.value into v_one
    from jsonb_array_elements(keeper_list || loser_list) as e
    where exists (select from jsonb_each(e.value) as a where a.value = 'null')
    limit 1;
    if found then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('a value in %s is null', left(v_one::text, 100)),
            hint = 'Name the row by a unique key whose values are not null.';
    end if;
end
$fn$;

comment on function ensure._merge_list_v1(jsonb, jsonb) is
    'Losers as a list of objects, and their keepers as another, side by side.';

create function ensure._naming_columns_v1(
    rows jsonb
)
returns setof name[]
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _naming_columns_v1: the sets of attributes that a list of objects has, each once, sorted.
select distinct array(select k.name::name from jsonb_object_keys(e.value) as k (name)
                      order by k.name)
from jsonb_array_elements(rows) as e
$fn$;

comment on function ensure._naming_columns_v1(jsonb) is
    'The sets of attributes that a list of objects has, each once, sorted.';

create function ensure._check_naming_v1(
    target regclass,
    columns name[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_naming_v1: columns are those of a unique key of target, no more and no less.
--
-- Errors   22023  they are not; 42703  target does not have one
declare
    v_problem text;
begin
    select string_agg(quote_ident(n.name), ', ') into v_problem
    from unnest(columns) as n (name)
    where not exists (select from pg_attribute as a
                      where a.attrelid = target and a.attname = n.name and a.attnum > 0
                        and not a.attisdropped);
    if v_problem is not null then
        raise exception using
            errcode = 'undefined_column',
            message = format('"%s" has no column %s', target, v_problem),
            hint = 'Name a row by the columns of a unique key, in the case they have.';
    elsif ensure._row_index_v1(target, columns) is null then
        select string_agg(distinct format('(%s)', k.names), ', ') into v_problem
        from pg_index as i
        cross join lateral (
            select string_agg(quote_ident(a.attname), ', ' order by k.place) as names
            from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
            join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
            where k.place <= i.indnkeyatts) as k
        where i.indrelid = target and i.indisunique and i.indisvalid and i.indimmediate
          and i.indpred is null and i.indexprs is null;
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('(%s) is no unique key of "%s"', array_to_string(columns, ', '),
                             target),
            detail = format('Unique keys: %s. One that is partial, deferrable, over expressions or'
                            ' not valid does not tell rows apart.', coalesce(v_problem, 'none')),
            hint = 'Name rows by the columns of one of them, and by no others.';
    end if;
end
$fn$;

comment on function ensure._check_naming_v1(regclass, name[]) is
    'Columns are those of a unique key of target, no more and no less.';

create function ensure._find_named_v1(
    target regclass,
    rows jsonb
)
returns jsonb[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _find_named_v1: the rows that objects name, as JSON keys of _row_json_v1.
--
-- Returns  as many as rows, null where there is none: also for a value that the column would round
--          or cut, since no row has it
-- Errors   22023, 42703  as _check_naming_v1; class 22  a value is none of the column's type
--          21000  several rows have one name: a unique index is not what it says
declare
    v_columns name[];
    v_found jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(rows)]);
    v_some jsonb[];
    v_code text;
    v_problem text;
begin
    for v_columns in select n.* from ensure._naming_columns_v1(rows) as n loop
        perform ensure._check_naming_v1(target, v_columns);
        begin
            execute (
                select format(
                    'select array_agg(%s order by x."~no") from (select r.*, jsonb_build_array(%s)'
                    ' as "~key" from rows from (jsonb_to_recordset($1) as (%s)) with ordinality'
                    ' as r (%s, "~no")) as x left join %s as c on %s%s',
                    format('case when c.tableoid is not null then %s end',
                           ensure._row_json_v1(ensure._row_key_v1(target), 'c')),
                    string_agg(format('r.%I::text', n.name), ', ' order by n.place),
                    string_agg(format('%I %s', n.name, b.type), ', ' order by n.place),
                    string_agg(quote_ident(n.name), ', ' order by n.place),
                    ensure._from_v1(target),
                    ensure._row_match_v1(target, v_columns, 'c', 'x."~key"'),
                    string_agg(case when b.limited then format(
                        ' and c.%I operator(pg_catalog.=) x.%1$I', n.name) end, ''))
                from unnest(v_columns) with ordinality as n (name, place)
                join pg_attribute as a on a.attrelid = target and a.attname = n.name
                join pg_type as t on t.oid = a.atttypid
                join pg_type as u on u.oid = ensure._base_type_v1(t.oid)
                cross join lateral (
                    select format_type(u.oid, -1) as type,
                           greatest(a.atttypmod, t.typtypmod) <> -1
                           and u.typnamespace = 'pg_catalog'::regnamespace as limited) as b)
            into v_some
            using (select jsonb_agg(case when array(select k.name::name
                                                    from jsonb_object_keys(e.value) as k (name)
                                                    order by k.name) = v_columns
                                         then e.value else '{}' end order by e.place)
                   from jsonb_array_elements(rows) with ordinality as e (value, place));
            if cardinality(v_some) <> cardinality(v_found) then
                raise exception using
                    errcode = 'cardinality_violation',
                    message = format('several rows of "%s" have the same (%s)', target,
                                     array_to_string(v_columns, ', ')),
                    detail = 'A unique index says that none have: it is corrupt.',
                    hint = 'Look for them without the index, then rebuild it with REINDEX.';
            end if;
        exception when data_exception or check_violation or not_null_violation then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
            raise exception using
                errcode = case when v_code like '22%' then v_code else '22023' end,
                message = format('a value is none of (%s) of "%s"',
                                 array_to_string(v_columns, ', '), target),
                detail = v_problem,
                hint = 'Write values in keeper and losers as the columns print them.';
        end;
        v_found := array(select coalesce(u.a, u.b)
                         from unnest(v_found, v_some) with ordinality as u (a, b, place)
                         order by u.place);
    end loop;
    return v_found;
end
$fn$;

comment on function ensure._find_named_v1(regclass, jsonb) is
    'The rows that objects name, as JSON keys of _row_json_v1.';

create function ensure._look_merge_v1(
    target regclass,
    keeper_list jsonb,
    loser_list jsonb,
    out losers jsonb[],
    out keepers jsonb[],
    out places integer[]
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _look_merge_v1: the losers that are there, and their keepers, as JSON keys of _row_json_v1.
--
-- Returns  each loser once, a group's together, in the order of the list; places: where in the
--          list each is, from 0
-- Errors   22023  a row is its own loser, a loser of two, or a loser and a keeper; or as
--                 _find_named_v1
--          P0002  a loser is there, and its keeper is not; 0A000  as _check_names_v1
--          42501  row security would hide rows
-- Locks    ACCESS SHARE on target
declare
    v_losers jsonb[];
    v_keepers jsonb[];
    v_problem record;
begin
    perform ensure._check_names_v1(target);
    v_losers := ensure._find_named_v1(target, loser_list);
    v_keepers := ensure._find_named_v1(target, keeper_list);
    select n.keeper, n.loser into v_problem
    from unnest(v_losers, v_keepers) with ordinality as u (l, k, place)
    cross join lateral (select keeper_list -> (u.place::integer - 1) as keeper,
                               loser_list -> (u.place::integer - 1) as loser) as n
    where u.l is not null and u.k is null
    order by u.place
    limit 1;
    if found then
        raise exception using
            errcode = 'no_data_found',
            message = format('no row of "%s" is %s', target, left(v_problem.keeper::text, 100)),
            detail = format('It was to be kept, and %s is there.',
                            left(v_problem.loser::text, 100)),
            hint = 'Name a keeper that is there; this one was deleted, or merged into another row.';
    end if;
    -- Grouped and not joined: a plan kept for later calls of the session expects a few rows only.
    select case when count(w.keeper) < count(*) then 'is to be kept and to go'
                else 'is a loser of two keepers' end as why, w.key as l
    into v_problem
    from (select u.l as key, u.k as keeper
          from unnest(v_losers, v_keepers) as u (l, k)
          where u.l is not null
          union all
          select u.k, null
          from unnest(v_losers, v_keepers) as u (l, k)
          where u.l is not null) as w
    group by w.key
    having count(w.keeper) > 0
       and (count(w.keeper) < count(*) or count(distinct w.keeper) > 1)
    limit 1;
    if found then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('a row of "%s" %s', target, v_problem.why),
            detail = format('Its %s is %s.', array_to_string(ensure._row_key_v1(target), ', '),
                            v_problem.l),
            hint = 'Name each loser with the row that is kept in the end.';
    end if;
    select coalesce(array_agg(p.l order by p.first, p.place), '{}'),
           coalesce(array_agg(p.k order by p.first, p.place), '{}'),
           coalesce(array_agg(p.place - 1 order by p.first, p.place), '{}')
    into losers, keepers, places
    from (select u.l, u.k, min(u.place) as place, min(min(u.place)) over (partition by u.k) as first
          from unnest(v_losers, v_keepers) with ordinality as u (l, k, place)
          where u.l is not null
          group by u.l, u.k) as p;
end
$fn$;

comment on function ensure._look_merge_v1(regclass, jsonb, jsonb) is
    'The losers that are there, and their keepers, as JSON keys of _row_json_v1.';

-- migrate:down
drop function ensure._look_merge_v1(regclass, jsonb, jsonb);
drop function ensure._find_named_v1(regclass, jsonb);
drop function ensure._check_naming_v1(regclass, name[]);
drop function ensure._naming_columns_v1(jsonb);
drop function ensure._merge_list_v1(jsonb, jsonb);
