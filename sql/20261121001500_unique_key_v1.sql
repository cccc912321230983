-- migrate:up
create type ensure._unique_key_v1 as (
    target oid,
    elements text[],    -- as in an index: a column, or an expression in parentheses
    expressions text[], -- the same without operator class, to group by
    columns int2[],     -- attribute numbers, 0 for an expression
    canonical text[],   -- as PostgreSQL prints them; null for columns alone, no predicate
    sort_operators text[], -- where equality is not that of the type: the operator class's own "<"
    nullable boolean[],
    predicate text,
    canonical_predicate text,
    nulls_equal boolean
);

create function ensure._key_columns_v1(
    target regclass
)
returns table (attnum int2, name text, canonical text, bare text[], nullable boolean)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_columns_v1: the columns of a table, as an element of an index may name them.
--
-- Returns  name: quoted where needed; canonical: as _read_expression_v1 prints it; bare: the same,
--          and how it begins when another collation follows
select a.attnum, quote_ident(a.attname),
       concat(v.bare, case when a.attcollation <> t.typcollation
                           then ' COLLATE ' || quote_ident(c.collname) end),
       array[v.bare, format('((%s)::%s)', v.bare, format_type(a.atttypid, null))],
       not a.attnotnull or exists (select from pg_constraint as n
                                   where n.conrelid = a.attrelid and n.contype = 'n'
                                     and n.conkey[1] = a.attnum and not n.convalidated)
from pg_class as r
join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
join pg_type as t on t.oid = a.atttypid
left join pg_collation as c on c.oid = a.attcollation
cross join lateral format('%I.%I', r.relname, a.attname) as v (bare)
where r.oid = target
$fn$;

comment on function ensure._key_columns_v1(regclass) is
    'The columns of a table, as an element of an index may name them.';

create function ensure._never_null_v1(
    target regclass,
    canonical text
)
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _never_null_v1: an expression is known to have no nulls.
--
-- Returns  true for coalesce that ends in a constant, and lower, upper, btrim or md5 of a column
--          that is NOT NULL
with bare (text) as (select ensure._bare_element_v1(canonical))
select b.text ~ $re$^\(COALESCE\(.*, ('([^']|'')*'::[\w ."\[\]]+|[0-9.]+|true|false)\)\)$$re$
    or exists (
        select from ensure._key_columns_v1(target) as k
        cross join unnest('{lower,upper,btrim,md5}'::text[]) as f (name)
        where not k.nullable
          and b.text in (format('(%s(%s))', f.name, k.bare[1]),
                         format('(%s((%s)::text))', f.name, k.bare[1])))
from bare as b
$fn$;

comment on function ensure._never_null_v1(regclass, text) is
    'An expression is known to have no nulls.';

create function ensure._names_in_v1(
    canonical text
)
returns setof text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _names_in_v1: the dotted names in canonical SQL, not those of operators or within texts.
--
-- Returns  quoted where needed, like t.a, and t.* for a whole row
select m.name[1]
from regexp_matches(
         canonical,
         $re$'(?:[^']|'')*'|OPERATOR\([^)]*\)$re$
         || $re$|((?:"(?:[^"]|"")*"|[\w$]+)(?:\.(?:"(?:[^"]|"")*"|[\w$]+|\*))+)$re$, 'g')
     as m (name)
where m.name[1] is not null
$fn$;

comment on function ensure._names_in_v1(text) is
    'The dotted names in canonical SQL, not those of operators or within texts.';

create function ensure._of_whole_rows_v1(
    target regclass,
    expression text,
    canonical text
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _of_whole_rows_v1: an expression needs the whole row of target, not only columns.
declare
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    v_plan text;
begin
    if exists (select from ensure._names_in_v1(canonical) as n (name)
               where n.name = format('%I.*', c_name)) then
        return true;
    end if;
    if strpos(lower(expression), lower(c_name)) > 0 then -- as argument of what was inlined
        for v_plan in execute format(
            'explain (costs off) select (%s) from (select *, 0 as "~" from'
            ' jsonb_populate_recordset(null::%s, %L) as r) as %I',
            concat(expression, E'\n'), target, '[]', c_name)
        loop
            null;
        end loop;
    end if;
    return false;
exception when cannot_coerce or undefined_function then
    return true; -- with one more column it is no row of the table
end
$fn$;

comment on function ensure._of_whole_rows_v1(regclass, text, text) is
    'An expression needs the whole row of target, not only columns.';

create function ensure._key_element_v1(
    target regclass,
    element text,
    out attnum int2,
    out expression text,
    out written text,
    out canonical text,
    out sort_operator text,
    out nullable boolean
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_element_v1: one element of a key, checked.
--
-- Returns  written: as in an index; canonical: with the operator class in a line of its own; null
--          for a column with its own collation and an operator class of its default family
-- Errors   22023, 42601, 42703, 42704, 42804, 42883, 22P02, 42P02  as _read_element_v1
--          0A000  it needs a whole row
declare
    c_name constant text := case when element like '"%' then element else lower(element) end;
    v_column record;
    v_read record;
begin
    select k.* into v_column from ensure._key_columns_v1(target) as k where k.name = c_name;
    if found then
        attnum := v_column.attnum;
        expression := v_column.name;
        written := expression;
        nullable := v_column.nullable;
        return;
    end if;
    v_read := ensure._read_element_v1(target, element);
    if ensure._of_whole_rows_v1(target, v_read.expression, v_read.canonical) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('%s compares whole rows of "%s"', element, target),
            hint = 'Name the columns; a function of the row can take them as arguments.';
    end if;
    select k.* into v_column
    from ensure._key_columns_v1(target) as k
    where regexp_replace(v_read.canonical, ' COLLATE ("(?:[^"]|"")+"|\w+)$', '') = any (k.bare);
    attnum := coalesce(v_column.attnum, 0);
    nullable := coalesce(v_column.nullable,
                         not ensure._never_null_v1(target, v_read.canonical));
    sort_operator := v_read.sort_operator;
    if v_read.canonical = v_column.canonical then
        expression := v_column.name;
    else
        expression := format('(%s)', concat(v_read.expression,
                                            case when v_read.expression ~ '--' then E'\n' end));
    end if;
    written := concat_ws(' ', expression, v_read.operator_class);
    if v_read.operator_class is not null
       or v_column.canonical is distinct from v_read.canonical then
        canonical := concat_ws(E'\n', v_read.canonical, v_read.operator_class);
    end if;
end
$fn$;

comment on function ensure._key_element_v1(regclass, text) is
    'One element of a key, checked.';

create function ensure._check_key_v1(
    target regclass,
    columns text[],
    nulls_equal boolean
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_key_v1: target is a table, and columns are a list of elements.
--
-- Errors   22004, 22023, 42809, 42P01, 54011  they are not; 0A000  a temporary table
declare
    v_table record;
begin
    select c.relkind, c.relpersistence into v_table from pg_class as c where c.oid = target;
    if num_nulls(variadic columns) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'an element of columns is null',
            hint = $$Name a column; one with the name null is array['"null"'].$$;
    elsif num_nulls(target, columns, nulls_equal) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'target, columns and nulls_equal must not be null',
            hint = $$Call it like ('app.users', '{email}').$$;
    elsif array_ndims(columns) is distinct from 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'columns must be a list of at least one element',
            hint = $$Call it like ('app.users', '{email}').$$;
    elsif cardinality(columns) > current_setting('max_index_keys')::integer then
        raise exception using
            errcode = 'too_many_columns',
            message = format('%s columns are too many for an index', cardinality(columns)),
            hint = format('Name at most %s.', current_setting('max_index_keys'));
    elsif v_table.relkind is null then
        raise exception using
            errcode = 'undefined_table',
            message = format('there is no table with the oid %s', target::oid),
            hint = 'Pass the name of a table.';
    elsif v_table.relkind not in ('r', 'p') then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not a table', target),
            hint = 'Pass a table; the unique index of a materialized view is made by hand, and no'
                   ' other relation has one.';
    elsif v_table.relpersistence = 't' then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" is a temporary table', target),
            hint = 'Create its unique index where you create the table: nobody else sees it.';
    end if;
end
$fn$;

comment on function ensure._check_key_v1(regclass, text[], boolean) is
    'Target is a table, and columns are a list of elements.';

create function ensure._unique_key_v1(
    target regclass,
    columns text[],
    predicate text,
    nulls_equal boolean
)
returns ensure._unique_key_v1
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unique_key_v1: what a unique index on target is to be on, checked.
--
-- Errors   22004, 22023, 22P02, 42601, 42701, 42703, 42704, 42804, 42809, 42883, 42P01, 42P02,
--          54011, 0A000
-- Locks    none
declare
    v_key ensure._unique_key_v1 := (target, '{}', '{}', '{}', '{}', '{}', '{}', predicate, null,
                                    nulls_equal)::ensure._unique_key_v1;
    v_element record;
    v_text text;
begin
    perform ensure._check_key_v1(target, columns, nulls_equal);
    foreach v_text in array columns loop
        v_element := ensure._key_element_v1(target, btrim(v_text, E' \t\n\r'));
        if v_element.written = any (v_key.elements) then
            raise exception using
                errcode = 'duplicate_column',
                message = format('%s is named twice in columns', v_element.written),
                hint = 'Name it once.';
        end if;
        v_key.expressions := v_key.expressions || v_element.expression;
        v_key.elements := v_key.elements || v_element.written;
        v_key.columns := v_key.columns || v_element.attnum;
        v_key.canonical := v_key.canonical || v_element.canonical;
        v_key.sort_operators := v_key.sort_operators || v_element.sort_operator;
        v_key.nullable := v_key.nullable || v_element.nullable;
    end loop;
    if predicate is null and num_nonnulls(variadic v_key.canonical) = 0 then
        v_key.canonical := null;
        return v_key;
    end if;
    v_key.canonical := array(
        select coalesce(u.canonical, k.canonical)
        from unnest(v_key.canonical, v_key.columns) with ordinality as u (canonical, attnum, place)
        left join ensure._key_columns_v1(target) as k on k.attnum = u.attnum
        order by u.place);
    if predicate is not null then
        v_key.canonical_predicate := ensure._read_expression_v1(target, predicate, 'predicate');
    end if;
    return v_key;
end
$fn$;

comment on function ensure._unique_key_v1(regclass, text[], text, boolean) is
    'What a unique index on target is to be on, checked.';

-- migrate:down
drop function ensure._unique_key_v1(regclass, text[], text, boolean);
drop function ensure._check_key_v1(regclass, text[], boolean);
drop function ensure._key_element_v1(regclass, text);
drop function ensure._of_whole_rows_v1(regclass, text, text);
drop function ensure._names_in_v1(text);
drop function ensure._never_null_v1(regclass, text);
drop function ensure._key_columns_v1(regclass);
drop type ensure._unique_key_v1;
