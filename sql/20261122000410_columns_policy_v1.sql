-- migrate:up
create function ensure._columns_policy_v1(
    target regclass,
    columns_policy jsonb
)
returns table (name name, word text, type_oid oid, type text, place integer)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _columns_policy_v1: the columns that a policy may change, and how.
select a.attname, p.value, a.atttypid, format_type(a.atttypid, a.atttypmod),
       row_number() over (order by a.attnum)::integer
from jsonb_each_text(columns_policy) as p
join pg_attribute as a on a.attrelid = target and a.attname = p.key and a.attnum > 0
                      and not a.attisdropped
where p.value <> 'keep'
order by a.attnum
$fn$;

comment on function ensure._columns_policy_v1(regclass, jsonb) is
    'The columns that a policy may change, and how.';

create function ensure._policy_obstacle_v1(
    target regclass,
    name name,
    naming name[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _policy_obstacle_v1: why a policy may not change a column, null when it may.
--
-- Returns  naming: the columns by which keeper and losers are named
with recursive tree (oid) as (
    select p.relid::oid from pg_partition_ancestors(target) as p (relid)
    union
    select target::oid
    union
    select i.inhrelid
    from tree as t
    join pg_inherits as i on i.inhparent = t.oid
    join pg_class as c on c.oid = i.inhrelid and c.relispartition
)
select case
    when a.attgenerated <> '' then 'is generated'
    when a.attidentity = 'a' then 'is generated always as identity'
    when a.attname = any (naming || ensure._row_key_v1(target)) then 'is in the key of the row'
    when exists (select from ensure._references_v1(target) as r
                 where a.attname = any (r.target_columns)) then 'is what other rows refer to'
    when exists (select from ensure._references_v1(target) as r
                 where r.child = target and a.attname = any (r.child_columns))
        then 'refers to rows of the same table'
    when exists (select from tree as t
                 join pg_partitioned_table as p on p.partrelid = t.oid
                 left join pg_attribute as o on o.attrelid = t.oid and o.attname = a.attname
                 where o.attnum = any (p.partattrs::int2[])
                    or p.partexprs ~ format(':varattno (0|%s) ', o.attnum))
        then 'is in the partition key' end
from pg_attribute as a
where a.attrelid = target and a.attname = _policy_obstacle_v1.name
$fn$;

comment on function ensure._policy_obstacle_v1(regclass, name, name[]) is
    'Why a policy may not change a column, null when it may.';

create function ensure._check_policy_type_v1(
    name name,
    word text,
    type_oid oid
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_policy_type_v1: the type of a column has what a policy needs.
--
-- Returns  nothing; max and min: an order, by its default operator class for btree; sum: of
--          pg_catalog; union: an array whose elements have an order
-- Errors   42804  it has not
declare
    c_base constant oid := ensure._base_type_v1(type_oid);
    v_element oid;
begin
    if word = 'union' then
        select t.typelem into v_element
        from pg_type as t
        where t.oid = c_base and t.typcategory = 'A' and t.typelem <> 0 and t.typlen = -1;
        if not found then
            raise exception using errcode = 'datatype_mismatch';
        end if;
    end if;
    execute case word -- parsed, and of no rows
        when 'sum' then format('select sum(x.v) from (select null::%s as v) as x where false',
                               format_type(c_base, -1))
        when 'coalesce' then 'select'
        else format('select x.v from (select null::%s as v) as x where false group by x.v'
                    ' order by x.v desc', format_type(coalesce(v_element, c_base), -1)) end;
exception when undefined_function or ambiguous_function or datatype_mismatch then
    raise exception using
        errcode = 'datatype_mismatch',
        message = format('column "%s" cannot be merged by %s', name, word),
        detail = format('Its type is %s.', format_type(type_oid, null)),
        hint = 'max and min need a type with an order, sum a number or an interval, union an array'
               ' of such a type; coalesce takes any.';
end
$fn$;

comment on function ensure._check_policy_type_v1(name, text, oid) is
    'The type of a column has what a policy needs.';

create function ensure._check_columns_policy_v1(
    target regclass,
    columns_policy jsonb,
    naming name[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_columns_policy_v1: a policy names columns that may change, and words there are.
--
-- Errors   22023, 42703, 42804  it does not
declare
    v_one record;
    v_why text;
begin
    if jsonb_typeof(columns_policy) <> 'object' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'columns_policy is not a JSON object',
            hint = 'Name columns and what becomes of them, like {"name": "coalesce"}.';
    end if;
    for v_one in select p.key, p.value, p.value #>> '{}' as word
                 from jsonb_each(columns_policy) as p order by p.key loop
        if jsonb_typeof(v_one.value) <> 'string'
           or v_one.word not in ('keep', 'coalesce', 'max', 'min', 'sum', 'union') then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('columns_policy of "%s" cannot be %s', v_one.key, v_one.value),
                hint = 'Write "keep", "coalesce", "max", "min", "sum" or "union".';
        elsif not exists (select from pg_attribute as a
                          where a.attrelid = target and a.attname = v_one.key and a.attnum > 0
                            and not a.attisdropped) then
            raise exception using
                errcode = 'undefined_column',
                message = format('"%s" has no column "%s"', target, v_one.key),
                detail = 'It is named in columns_policy.',
                hint = 'Name columns in the case they have.';
        end if;
    end loop;
    for v_one in select p.* from ensure._columns_policy_v1(target, columns_policy) as p loop
        v_why := ensure._policy_obstacle_v1(target, v_one.name, naming);
        if v_why is not null then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('columns_policy cannot change column "%s" of "%s"', v_one.name,
                                 target),
                detail = format('It %s.', v_why),
                hint = 'Leave it out: the row that is kept keeps its value.';
        end if;
        perform ensure._check_policy_type_v1(v_one.name, v_one.word, v_one.type_oid);
    end loop;
end
$fn$;

comment on function ensure._check_columns_policy_v1(regclass, jsonb, name[]) is
    'A policy names columns that may change, and words there are.';

create function ensure._policy_value_v1(
    word text,
    place integer
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _policy_value_v1: SQL for the value of a column of a group, in a window over its rows "m".
--
-- Returns  max and min by ORDER BY alone, which is the order of the type wherever it lives; of
--          equal values the first of the group
select case word
    when 'sum' then format('sum(m.c%s) over (partition by m.g)', place)
    when 'union' then format('case when bool_or(m.c%s is not null) over (partition by m.g)'
                             ' then coalesce(u%1$s.v, %2$L) end', place, '{}')
    else format('first_value(m.c%s) over (partition by m.g order by %s, m.no)', place,
                format(case word when 'coalesce' then 'num_nulls(m.c%s)'
                                 when 'max' then 'm.c%s desc nulls last'
                                 else 'm.c%s nulls last' end, place)) end
$fn$;

comment on function ensure._policy_value_v1(text, integer) is
    'SQL for the value of a column of a group, in a window over its rows "m".';

create function ensure._policy_query_v1(
    target regclass,
    columns_policy jsonb
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _policy_query_v1: SQL for the keepers that a policy changes.
--
-- Returns  of each as a JSON array its key and the new values, in their text form, over the JSON
--          keys of losers and keepers in $1 and $2; null when it changes no column
select format(
    'with m as materialized (select p.g, p.no%s from ('
    '     select distinct u.k as g, 0::bigint as no, u.k as r from unnest($2::jsonb[]) as u (k)'
    '     union all select u.k, u.no, u.l from unnest($1::jsonb[], $2::jsonb[]) with ordinality'
    '     as u (l, k, no)) as p join %s as c on %s)%s'
    ' select coalesce(array_agg(w.g || jsonb_build_array(%s)), ''{}'') from ('
    '     select m.g, m.no%s from m%s) as w where w.no = 0 and (%s)',
    string_agg(format(', c.%I as c%s', p.name, p.place), '' order by p.place),
    ensure._from_v1(target),
    ensure._row_match_v1(target, ensure._row_key_v1(target), 'c', 'p.r'),
    string_agg(case when p.word = 'union' then format(
        ', u%s as (select e.g, array_agg(e.v order by e.no, e.i) as v from ('
        ' select distinct on (m.g, x.v) m.g, x.v, m.no, x.i from m'
        ' cross join unnest(m.c%1$s) with ordinality as x (v, i)'
        ' order by m.g, x.v, m.no, x.i) as e group by e.g)', p.place) end, ''),
    string_agg(v.new, ', ' order by p.place),
    string_agg(format(', m.c%s, (%s)::%s as n%1$s', p.place,
                      ensure._policy_value_v1(p.word, p.place), p.type), '' order by p.place),
    string_agg(case when p.word = 'union' then format(
        ' left join u%s on u%1$s.g = m.g', p.place) end, ''),
    string_agg(format('%s is distinct from %s', v.new, v.old), ' or '))
from ensure._columns_policy_v1(target, columns_policy) as p
cross join lateral (
    select ensure._archived_value_v1(format('w.n%s', p.place), p.type_oid) as new,
           ensure._archived_value_v1(format('w.c%s', p.place), p.type_oid) as old) as v
having count(*) > 0
$fn$;

comment on function ensure._policy_query_v1(regclass, jsonb) is
    'SQL for the keepers that a policy changes.';

create function ensure._policy_rows_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    columns_policy jsonb
)
returns jsonb[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _policy_rows_v1: the keepers that a policy changes, each a JSON array of its key and new values.
--
-- Errors   0A000  union of an array with several dimensions
--          22003  a sum is too large; also 23514, 23502  a domain does not have it
declare
    c_query constant text := ensure._policy_query_v1(target, columns_policy);
    v_rows jsonb[] := '{}';
    v_column name;
    v_found boolean;
    v_code text;
    v_problem text;
begin
    if c_query is null then
        return v_rows;
    end if;
    for v_column in select p.name from ensure._columns_policy_v1(target, columns_policy) as p
                    where p.word = 'union' loop
        execute format('select exists (select from unnest($1::jsonb[]) as "~p" ("~l")'
                       ' join %s as c on %s where array_ndims(c.%I) > 1)',
                       ensure._from_v1(target),
                       ensure._row_match_v1(target, ensure._row_key_v1(target), 'c', '"~p"."~l"'),
                       v_column)
        into v_found
        using losers || keepers;
        if v_found then
            raise exception using
                errcode = 'feature_not_supported',
                message = format('"%s" of a row of "%s" is an array of several dimensions',
                                 v_column, target),
                hint = 'Merge this column yourself before the call: union is for lists.';
        end if;
    end loop;
    execute c_query into v_rows using losers, keepers;
    return v_rows;
exception when data_exception or check_violation or not_null_violation then
    get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
    raise exception using
        errcode = v_code,
        message = format('columns_policy makes a value that "%s" cannot hold', target),
        detail = v_problem,
        hint = 'Let the column keep its value, or change its type; nothing was changed.';
end
$fn$;

comment on function ensure._policy_rows_v1(regclass, jsonb[], jsonb[], jsonb) is
    'The keepers that a policy changes, each a JSON array of its key and new values.';

create function ensure._set_keepers_v1(
    target regclass,
    rows jsonb[],
    columns_policy jsonb,
    archive regclass,
    run uuid
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _set_keepers_v1: rows of _policy_rows_v1 have their new values.
--
-- Errors   as _drop_losers_v1; NS012  also: a trigger gave one another value
declare
    c_key constant name[] := ensure._row_key_v1(target);
    c_behind constant integer := cardinality(c_key) - 1;
    v_count bigint;
begin
    if rows <> '{}' then -- what is set in a row stands behind its key, which is all that is matched
        perform ensure._drop_losers_v1(
            target, rows, rows,
            (select string_agg(format('%I = ("~p"."~l" ->> %s)::%s', p.name, c_behind + p.place,
                                      p.type), ', ')
             from ensure._columns_policy_v1(target, columns_policy) as p), archive, run);
        execute (
            select format('select count(*) from unnest($1::jsonb[]) as "~p" ("~l")'
                          ' join %s as c on %s where %s', ensure._from_v1(target),
                          ensure._row_match_v1(target, c_key, 'c', '"~p"."~l"'),
                          string_agg(format('%s is distinct from "~p"."~l" ->> %s',
                                            ensure._archived_value_v1(format('c.%I', p.name),
                                                                      p.type_oid),
                                            c_behind + p.place), ' or '))
            from ensure._columns_policy_v1(target, columns_policy) as p)
        into v_count
        using rows;
        if v_count > 0 then
            raise exception using
                errcode = 'NS012',
                message = format('%s rows of "%s" are not what columns_policy says', v_count,
                                 target),
                detail = 'They were updated, and what is there is something else.',
                hint = 'Look for a trigger that changes these columns, or leave them out;'
                       ' nothing was changed.';
        end if;
    end if;
end
$fn$;

comment on function ensure._set_keepers_v1(regclass, jsonb[], jsonb, regclass, uuid) is
    'Rows of _policy_rows_v1 have their new values.';

-- migrate:down
drop function ensure._set_keepers_v1(regclass, jsonb[], jsonb, regclass, uuid);
drop function ensure._policy_rows_v1(regclass, jsonb[], jsonb[], jsonb);
drop function ensure._policy_query_v1(regclass, jsonb);
drop function ensure._policy_value_v1(text, integer);
drop function ensure._check_columns_policy_v1(regclass, jsonb, name[]);
drop function ensure._check_policy_type_v1(name, text, oid);
drop function ensure._policy_obstacle_v1(regclass, name, name[]);
drop function ensure._columns_policy_v1(regclass, jsonb);
