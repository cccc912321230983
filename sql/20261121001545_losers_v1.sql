-- migrate:up
create function ensure._keyed_rows_v1(
    unique_key ensure._unique_key_v1,
    out source text,
    out peers text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _keyed_rows_v1: SQL for the rows that a unique index on a key would hold, and what to group by.
--
-- Returns  source: what stands in FROM, with the place of each row as "~part" and "~row"; peers:
--          what stands in PARTITION BY. Grouped by the equality of the index: where the operator
--          class has one of its own, by rank in its order
-- Errors   0A000  as _check_names_v1
declare
    c_name constant name := (select c.relname from pg_class as c where c.oid = unique_key.target);
begin
    perform ensure._check_names_v1(unique_key.target::regclass);
    source := format(
        '(select %I.*, %I.tableoid as "~part", %I.ctid as "~row"%s from %s as %I where %s and %s)'
        ' as %I', c_name, c_name, c_name,
        (select string_agg(format(', dense_rank() over (order by %s using %s) as "~rank%s"',
                                  e.expression, e.operator, e.place), '')
         from unnest(unique_key.expressions, unique_key.sort_operators)
              with ordinality as e (expression, operator, place)
         where e.operator is not null),
        ensure._from_v1(unique_key.target::regclass), c_name,
        coalesce('(' || unique_key.predicate || E'\n)', 'true'),
        case when unique_key.nulls_equal or not true = any (unique_key.nullable) then 'true'
             else format('num_nulls(%s) = 0', array_to_string(unique_key.expressions, ', ')) end,
        c_name);
    peers := (
        select string_agg(case when e.operator is null then e.expression
                               else format('"~rank%s"', e.place) end, ', ' order by e.place)
        from unnest(unique_key.expressions, unique_key.sort_operators)
             with ordinality as e (expression, operator, place));
end
$fn$;

comment on function ensure._keyed_rows_v1(ensure._unique_key_v1) is
    'SQL for the rows that a unique index on a key would hold, and what to group by.';

create function ensure._losers_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    out losers jsonb[],
    out keepers jsonb[],
    out row_count bigint
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _losers_v1: the rows that have to go for a key to be unique, each with the one that stays.
--
-- Returns  row_count: how many rows there are, these and others
-- Errors   42501  row security would hide rows
declare
    c_rows constant record := ensure._keyed_rows_v1(unique_key);
    c_key constant name[] := ensure._row_key_v1(unique_key.target::regclass);
    c_name constant name := (select c.relname from pg_class as c where c.oid = unique_key.target);
    c_json constant text := ensure._row_json_v1(
        array_replace(array_replace(c_key, 'ctid', '~row'), 'tableoid', '~part'), c_name);
begin
    for losers, keepers, row_count in execute format(
        'select array_agg(d."~l") filter (where d."~n" > 1),'
        '       array_agg(d."~k") filter (where d."~n" > 1), count(*)'
        ' from (select %s as "~l", first_value(%s) over w as "~k", row_number() over w as "~n"'
        '       from %s window w as (partition by %s order by %s%s, "~part", "~row")) as d',
        c_json, c_json, c_rows.source, c_rows.peers, coalesce(keep, 'true'), E'\n')
    loop
        losers := coalesce(losers, '{}');
        keepers := coalesce(keepers, '{}');
    end loop;
end
$fn$;

comment on function ensure._losers_v1(ensure._unique_key_v1, text) is
    'The rows that have to go for a key to be unique, each with the one that stays.';

create function ensure._report_duplicates_v1(
    unique_key ensure._unique_key_v1,
    out groups bigint,
    out losers bigint,
    out widest bigint,
    out null_groups bigint,
    out null_losers bigint,
    out example text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _report_duplicates_v1: how many groups of duplicates there are, and of what size.
--
-- Returns  losers: rows beyond one for each group; null_groups, null_losers: of groups with a null
--          in the key, duplicates only where nulls are equal; example: a key of the widest group
-- Errors   42501  row security would hide rows
declare
    c_rows constant record := ensure._keyed_rows_v1(unique_key);
    c_key constant text := array_to_string(unique_key.expressions, ', ');
begin
    for groups, losers, widest, null_groups, null_losers, example in execute format(
        'select count(*), coalesce(sum(g."~n" - 1), 0)::bigint, coalesce(max(g."~n"), 0),'
        '       count(*) filter (where g."~nulls"),'
        '       coalesce(sum(g."~n" - 1) filter (where g."~nulls"), 0)::bigint,'
        '       left((array_agg(g."~key" order by g."~n" desc))[1], 200)'
        ' from (select count(*) as "~n", bool_or(num_nulls(%s) > 0) as "~nulls",'
        '              min(row(%s)::text) as "~key"'
        '       from %s group by %s having count(*) > 1) as g',
        c_key, c_key, c_rows.source, c_rows.peers)
    loop
        null;
    end loop;
end
$fn$;

comment on function ensure._report_duplicates_v1(ensure._unique_key_v1) is
    'How many groups of duplicates there are, and of what size.';

create function ensure._raise_duplicates_v1(
    unique_key ensure._unique_key_v1,
    loser_set text default null
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_duplicates_v1: nothing when there are no duplicates.
--
-- Returns  nothing; with loser_set it has been tried, and they are still there
-- Errors   NS009  there are, and how many
declare
    c_report constant record := ensure._report_duplicates_v1(unique_key);
begin
    if c_report.groups > 0 then
        raise exception using
            errcode = 'NS009',
            message = format(case when loser_set is null then '"%s" has duplicates of (%s)'
                                  else '"%s" has duplicates of (%s), though loser_set is done' end,
                             unique_key.target::regclass,
                             array_to_string(unique_key.expressions, ', ')),
            detail = format('Groups: %s, rows too many: %s, rows of the widest group: %s. For'
                            ' example: %s.%s', c_report.groups, c_report.losers, c_report.widest,
                            c_report.example,
                            case when c_report.null_groups > 0
                                 then format(' With a null in the key: %s of the groups, %s of the'
                                             ' rows too many.', c_report.null_groups,
                                             c_report.null_losers) end),
            hint = case when loser_set is null
                        then 'Pass both keep, the order whose first row stays, and losers, what'
                             ' becomes of the others; look at check_duplicates_v1 first.'
                        else 'It has to take losers out of the predicate, or give them keys that'
                             ' are free.' end;
    end if;
end
$fn$;

comment on function ensure._raise_duplicates_v1(ensure._unique_key_v1, text) is
    'Nothing when there are no duplicates.';

-- migrate:down
drop function ensure._raise_duplicates_v1(ensure._unique_key_v1, text);
drop function ensure._report_duplicates_v1(ensure._unique_key_v1);
drop function ensure._losers_v1(ensure._unique_key_v1, text);
drop function ensure._keyed_rows_v1(ensure._unique_key_v1);
