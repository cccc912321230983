-- migrate:up
create function ensure._look_rows_v1(
    target regclass,
    rows jsonb,
    given name[],
    key name[],
    out missing bigint[],
    out keys text,
    out sorting text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_rows_v1: which of rows, by their places, target has no row for.
--
-- Returns  keys and sorting: SQL that sorts them by a key, the same for every caller
-- Errors   22023  two of rows have the same key
--          42P10, NS014  as _look_row_v1, of one of them
declare
    c_source constant text := ensure._rows_given_v1(target, given);
    v_query text;
    v_found record;
begin
    select string_agg(format(
               'select "~a"."~place" as place, %1$s as applies,'
               ' case when %2$I.ctid is not null then row(%2$I.tableoid, %2$I.ctid)::text end as at'
               ' from (%3$s) as "~a" cross join lateral (%4$s) as "~k" left join %5$s as %2$I on'
               ' %6$s and %7$s', k.applies, c.relname, c_source, k.keys, ensure._from_v1(target),
               k.equal, concat_ws(' and ', k.applies, '(' || k.predicate || ')')), ' union all '),
           (array_agg(format('cross join lateral (%s) as "~k"', k.keys)))[1],
           (array_agg(k.sorting))[1]
    into v_query, keys, sorting
    from ensure._row_keys_v1(target, given, key) as k
    join pg_class as c on c.oid = target;
    if v_query is null then
        perform ensure._raise_no_key_v1(target, given, key);
    end if;
    execute format(
        'with found as (%s), rows as (select f.place, bool_or(f.applies) as applies,'
        ' count(distinct f.at) as n from found as f group by f.place)'
        ' select coalesce(array_agg(r.place order by r.place) filter (where r.n = 0), ''{}'')'
        ' as missing, min(r.place) filter (where r.applies is not true or r.n > 1) as wrong,'
        ' (select min(array[s.first, s.last]) from (select min(f.place) as first,'
        ' max(f.place) as last from found as f where f.at is not null group by f.at) as s'
        ' where s.first < s.last) as same from rows as r', v_query)
    into v_found
    using rows;
    if v_found.wrong is not null then
        perform ensure._look_row_v1(target, rows -> v_found.wrong::integer - 1, key, null);
    elsif v_found.same is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('elements %s and %s of rows are one row of "%s"', v_found.same[1],
                             v_found.same[2], target),
            detail = format('%s and %s.', left((rows -> v_found.same[1]::integer - 1)::text, 200),
                            left((rows -> v_found.same[2]::integer - 1)::text, 200)),
            hint = 'Leave one of them out.';
    end if;
    missing := v_found.missing;
end
$fn$;

comment on function ensure._look_rows_v1(regclass, jsonb, name[], name[]) is
    'Which of rows, by their places, target has no row for.';

create function ensure._check_rows_v1(
    target regclass,
    rows jsonb
)
returns name[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_rows_v1: rows is a JSON array of objects that have the same columns of target.
--
-- Returns  these columns
-- Errors   22004, 22023; 42809, 42703, 428C9  as _check_attributes_v1
declare
    v_names text[];
    v_other record;
begin
    if num_nulls(target, rows) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('%s must not be null',
                             case when target is null then 'target' else 'rows' end),
            hint = 'Pass a table, and a JSON array of objects of its columns.';
    elsif jsonb_typeof(rows) <> 'array' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('rows is a JSON %s, not an array', jsonb_typeof(rows)),
            hint = 'Pass a JSON array of objects, like [{"name": "admin"}, {"name": "editor"}].';
    end if;
    for v_other in
        select e.place, jsonb_typeof(e.element) as type,
               case when jsonb_typeof(e.element) = 'object'
                    then array(select k.name from jsonb_object_keys(e.element) as k (name)
                               order by 1) end as names
        from jsonb_array_elements(rows) with ordinality as e (element, place)
    loop
        v_names := coalesce(v_names, v_other.names);
        if v_other.names is null then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('element %s of rows is a JSON %s, not an object', v_other.place,
                                 v_other.type),
                hint = 'Pass objects of columns, like {"name": "admin"}.';
        elsif v_other.names <> v_names then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('elements 1 and %s of rows have other columns', v_other.place),
                detail = format('(%s) and (%s).', array_to_string(v_names, ', '),
                                array_to_string(v_other.names, ', ')),
                hint = 'Give all rows of one call the same columns; a column that is left out gets'
                       ' its default.';
        end if;
    end loop;
    perform ensure._check_attributes_v1(target, v_names);
    return v_names;
end
$fn$;

comment on function ensure._check_rows_v1(regclass, jsonb) is
    'Rows is a JSON array of objects that have the same columns of target.';

create function ensure._insert_rows_v1(
    target regclass,
    rows jsonb,
    given name[],
    found record,
    conflict text
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _insert_rows_v1: rows that _look_rows_v1 has not found are inserted by key, but for conflicts.
--
-- Returns  how many
declare
    v_count bigint;
begin
    execute (
        select format('insert into %s (%s) select %s from (%s) as "~a" %s'
                      ' where "~a"."~place" = any ($2) order by %s %s', target,
                      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
                      string_agg(format('"~a"."~%s"', a.attnum), ', ' order by a.attnum),
                      ensure._rows_given_v1(target, given), found.keys, found.sorting, conflict)
        from pg_attribute as a
        where a.attrelid = target and a.attnum > 0 and a.attname = any (given))
    using rows, found.missing;
    get diagnostics v_count = row_count;
    return v_count;
end
$fn$;

comment on function ensure._insert_rows_v1(regclass, jsonb, name[], record, text) is
    'Rows that _look_rows_v1 has not found are inserted by key, but for conflicts.';

create function ensure.ensure_rows_v1(
    target regclass,
    rows jsonb,
    key name[] default null
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- ensure_rows_v1: target has one row with a unique key of each element of rows.
--
-- Returns  how many were 'created' and how many 'exists', each when there are any. Keys as
--          ensure_row_v1; of a row that exists the other attributes are not compared
-- Errors   22004, 22023  target or rows is null; rows is no array of objects, or these have not the
--                 same columns, or two have the same key
--          0A000, 25006, 40001, 40P01, 42501, 42703, 42809, 428C9, 42P10  as ensure_row_v1
--          22001, 22003, 22007, 22008, 22P02, 23502, 23505, 23514, 23P01, NS014  as
--                 ensure_row_v1
--          NS012  a trigger keeps a row out, or changes its key
-- Locks    those of SELECT, and of INSERT where there is something to write; none longer
-- Races    rows are inserted in the order of a key: callers with rows of the same columns, and the
--          same key, wait for each other and cannot deadlock
-- Rights   as ensure_row_v1
declare
    c_given constant name[] := ensure._check_rows_v1(target, rows);
    c_conflict constant text := ensure._conflict_v1(target, c_given, key);
    v_found record;
    v_missing integer;
    v_count bigint := 0;
    v_schema text;
    v_index text;
begin
    if jsonb_array_length(rows) = 0 then
        return;
    end if;
    object := target;
    row_count := 0;
    for v_try in 1..6 loop
        v_found := ensure._look_rows_v1(target, rows, c_given, key);
        if cardinality(v_found.missing) > v_missing - v_count then
            perform ensure._raise_kept_out_v1(target, rows -> v_found.missing[1]::integer - 1);
        end if;
        exit when v_found.missing = '{}' or v_try = 6;
        v_missing := cardinality(v_found.missing);
        v_count := ensure._insert_rows_v1(target, rows, c_given, v_found, c_conflict);
        row_count := row_count + v_count;
    end loop;
    if v_found.missing <> '{}' then
        perform ensure._raise_taken_v1(target, rows -> v_found.missing[1]::integer - 1, key);
        begin
            v_count := ensure._insert_rows_v1(target, rows, c_given, v_found, '');
        exception when unique_violation then
            get stacked diagnostics v_schema = schema_name, v_index = constraint_name;
            perform ensure._raise_hidden_v1(target, c_given,
                                            to_regclass(format('%I.%I', v_schema, v_index)));
            raise;
        end;
        if v_count < cardinality(v_found.missing) then
            perform ensure._raise_kept_out_v1(target, rows -> v_found.missing[1]::integer - 1);
        end if;
        row_count := row_count + v_count;
    end if;
    outcome := 'created';
    if row_count > 0 then
        return next;
    end if;
    outcome := 'exists';
    row_count := jsonb_array_length(rows) - row_count;
    if row_count > 0 then
        return next;
    end if;
end
$fn$;

comment on function ensure.ensure_rows_v1(regclass, jsonb, name[]) is
    'Target has one row with a unique key of each element of rows.';

-- migrate:down
drop function ensure.ensure_rows_v1(regclass, jsonb, name[]);
drop function ensure._insert_rows_v1(regclass, jsonb, name[], record, text);
drop function ensure._check_rows_v1(regclass, jsonb);
drop function ensure._look_rows_v1(regclass, jsonb, name[], name[]);
