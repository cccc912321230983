-- migrate:up
create function ensure._quoted_column_v1(
    target regclass,
    expression text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _quoted_column_v1: how SQL names the column of target that an expression means and does not name.
--
-- Returns  like "Email" for Email, or "user" for user; null when there is none
select min(quote_ident(a.attname))
from regexp_matches(expression, $re$'(?:[^']|'')*'|("(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$, 'g')
     with ordinality as m (name, place)
join pg_attribute as a on a.attrelid = target and a.attnum > 0 and not a.attisdropped
                      and lower(a.attname) = lower(btrim(m.name[1], '"'))
group by m.place
having bool_and(case when m.name[1] like '"%'
                     then m.name[1] <> format('"%s"', replace(a.attname, '"', '""'))
                     else lower(m.name[1]) <> quote_ident(a.attname) end)
order by m.place
limit 1
$fn$;

comment on function ensure._quoted_column_v1(regclass, text) is
    'How SQL names the column of target that an expression means and does not name.';

create function ensure._expression_hint_v1(
    target regclass,
    expression text,
    what text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _expression_hint_v1: what to write instead of an expression that cannot be read.
select case
    when c.name is not null and what = 'element' then format(
        'columns are SQL: write array[%L].', c.name)
    when c.name is not null then format('This is SQL: write %s for that column.', c.name)
    when what = 'predicate' then
        'Write what stands in WHERE, like is_active; no subquery, no aggregate, nothing volatile;'
        ' what is not in pg_catalog needs its schema.'
    else 'Name one column or one expression over columns, without subqueries, aggregates, sets,'
         ' volatile functions, ASC or DESC; what is not in pg_catalog needs its schema; in'
         ' ''{…}'' a comma ends an element: array[''f(a, b)''].' end
from ensure._quoted_column_v1(target, expression) as c (name)
$fn$;

comment on function ensure._expression_hint_v1(regclass, text, text) is
    'What to write instead of an expression that cannot be read.';

create function ensure._read_expression_v1(
    target regclass,
    expression text,
    what text default 'element'
)
returns text
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _read_expression_v1: expression over the columns of target as PostgreSQL itself prints it.
--
-- Returns  with COLLATE at the end where it is not the default, and first those that are inside,
--          which a plan does not print; of a predicate whether it is true. Planned as a sort key,
--          never run. The rows are those of a function of the same type, so the table is not
--          locked, nor simplified by what its constraints say
-- Errors   22023  it is not one expression over one row, or volatile
--          42601, 42703, 42804, 42883, 22P02, 42P02 …  as PostgreSQL says
-- Rights   USAGE on the row type
declare
    c_collate constant text := '\mcollate\s+(?:[\w$"]+\s*\.\s*)?("(?:[^"]|"")+"|[\w$]+)';
    c_written constant text := concat(expression, E'\n');
    c_key constant text := case what when 'predicate' then format('(%s) is true', c_written)
                                     else c_written end;
    v_rows text;
    v_parsed boolean := false;
    v_plan jsonb;
    v_text text;
    v_code text;
    v_problem text;
begin
    if expression ~ '^\s*$' then
        raise exception using
            errcode = 'syntax_error',
            message = case what when 'predicate' then 'predicate is empty'
                                else 'an element of columns is empty' end,
            hint = case what when 'predicate'
                             then 'Write a condition, like is_active; true is every row.'
                             else 'Name a column, or an expression over columns.' end;
    end if;
    -- A cursor refuses a text of several statements before it runs the first. In brackets as well
    -- as in parentheses, so that it closes neither; and what is volatile is not sorted by itself.
    begin
        v_rows := format('from jsonb_populate_recordset(null::%s, %L) as %I', target, '[]',
                         (select c.relname from pg_class as c where c.oid = target));
        for v_plan in execute format(
            case what when 'predicate'
                      then 'explain (format json) select array[%1$s] %2$s where (%1$s)'
                      else 'explain (format json) select array[%1$s], (%1$s) %2$s' end,
            c_written, v_rows)
        loop
            v_parsed := true;
        end loop;
        -- the first may have waited for it to be renamed
        v_rows := format('from jsonb_populate_recordset(null::%s, %L) as %I', target, '[]',
                         (select c.relname from pg_class as c where c.oid = target));
        for v_plan in execute format(
            'explain (verbose, costs off, format json) select array[%1$s] as "~" %2$s'
            ' order by (%1$s)', c_key, v_rows)
        loop
            v_text := case when v_plan #>> '{0,Plan,Node Type}' = 'Sort'
                            and v_plan #>> '{0,Plan,Plans,0,Node Type}' = 'Function Scan'
                            and v_plan #> '{0,Plan,Plans,0,Plans}' is null
                            and v_plan #> '{0,Plan,Plans,1}' is null
                            and v_plan #> '{0,Plan,Sort Key,1}' is null
                           then v_plan #>> '{0,Plan,Sort Key,0}' end;
        end loop;
    exception
        when invalid_column_reference or invalid_cursor_definition then
            null; -- a number alone, which would be a position; several statements
        when syntax_error_or_access_rule_violation or data_exception or feature_not_supported then
            get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
            if not v_parsed or v_code <> '42601' then -- else another constant, by which none sorts
                raise exception using
                    errcode = case when v_code in ('0A000', '42803', '42P20') then '22023'
                                   else v_code end,
                    message = regexp_replace(v_problem, ' at or near "[])]"$', ''), -- our own
                    detail = format('Read as %s over a row of "%s": %s',
                                    case what when 'predicate' then 'a predicate'
                                              else 'an expression' end, target, expression),
                    hint = ensure._expression_hint_v1(target, expression, what);
            end if;
    end;
    if v_text is null or v_text ~ '^\(ROW\(.*\)\)$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" is not %s over a row of "%s"',
                             regexp_replace(expression, '\s+', ' ', 'g'),
                             case what when 'predicate' then 'a predicate'
                                       else 'an expression' end, target),
            hint = ensure._expression_hint_v1(target, expression, what);
    end if;
    return concat(
        (select string_agg(format('%s: ', btrim(m.name[1], '"')), '')
         from regexp_matches(regexp_replace(c_key, c_collate || '\s*\)*\s*$', '', 'i'),
                             c_collate, 'gi') as m (name)),
        v_text);
end
$fn$;

comment on function ensure._read_expression_v1(regclass, text, text) is
    'Expression over the columns of target as PostgreSQL itself prints it.';

create function ensure._read_stored_v1(
    target regclass,
    expression text
)
returns text
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _read_stored_v1: an expression of an index that is there, as _read_expression_v1 prints it.
--
-- Returns  as it is where that would refuse it, like a constant: nobody can ask for it
begin
    return ensure._read_expression_v1(target, expression);
exception when syntax_error_or_access_rule_violation or data_exception then
    return expression;
end
$fn$;

comment on function ensure._read_stored_v1(regclass, text) is
    'An expression of an index that is there, as _read_expression_v1 prints it.';

create function ensure._class_v1(
    operator_class oid,
    type oid,
    out name text,
    out sort_operator text
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _class_v1: what an operator class for btree changes in an index on a type.
--
-- Returns  name: qualified, null when it is of the family that is the default for the type;
--          sort_operator: its "<", null when its "=" is that of the default
with recursive base (oid) as (
    select type
    union all
    select t.typbasetype
    from base as b
    join pg_type as t on t.oid = b.oid and t.typtype = 'd'
)
select case when o.opcfamily is distinct from d.opcfamily
            then format('%I.%I', n.nspname, o.opcname) end,
       case when e.amopopr is distinct from u.amopopr
            then format('operator(%I.%s)', ln.nspname, lo.oprname) end
from pg_opclass as o
join pg_namespace as n on n.oid = o.opcnamespace
left join lateral (
    select p.opcfamily, p.opcintype
    from pg_opclass as p
    where p.opcmethod = o.opcmethod and p.opcdefault
      and p.opcintype in (o.opcintype, (select b.oid from base as b
                                        join pg_type as t on t.oid = b.oid and t.typtype <> 'd'))
    order by p.opcintype = o.opcintype
    limit 1) as d on true
left join pg_amop as e on e.amopfamily = o.opcfamily and e.amopstrategy = 3
                      and e.amoplefttype = o.opcintype and e.amoprighttype = o.opcintype
left join pg_amop as l on l.amopfamily = o.opcfamily and l.amopstrategy = 1
                      and l.amoplefttype = o.opcintype and l.amoprighttype = o.opcintype
left join pg_amop as u on u.amopfamily = d.opcfamily and u.amopstrategy = 3
                      and u.amoplefttype = d.opcintype and u.amoprighttype = d.opcintype
left join pg_operator as lo on lo.oid = l.amopopr
left join pg_namespace as ln on ln.oid = lo.oprnamespace
where o.oid = operator_class
$fn$;

comment on function ensure._class_v1(oid, oid) is
    'What an operator class for btree changes in an index on a type.';

create function ensure._read_element_v1(
    target regclass,
    element text,
    out expression text,
    out canonical text,
    out operator_class text,
    out sort_operator text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _read_element_v1: one element of an index, taken apart into expression and operator class.
--
-- Returns  operator_class and sort_operator as _class_v1
-- Errors   22023, 42601, 42703, 42804, 42883, 22P02, 42P02  as _read_expression_v1
--          42704  no such operator class for btree
declare
    c_name constant text := '(?:[\w$]+|"(?:[^"]|"")+")';
    c_split constant text[] := regexp_match(
        element, format('^(.*[^\s.])\s+(%s(?:\s*\.\s*%s)?)\s*$', c_name, c_name));
    v_name text[];
    v_class oid;
    v_row record;
begin
    begin
        expression := element;
        canonical := ensure._read_expression_v1(target, element);
        return;
    exception when syntax_error then
        if c_split is null then
            raise;
        end if;
    end;
    expression := c_split[1];
    canonical := ensure._read_expression_v1(target, expression);
    v_name := parse_ident(c_split[2]);
    select o.oid into v_class
    from pg_opclass as o
    join pg_namespace as n on n.oid = o.opcnamespace
    join pg_am as m on m.oid = o.opcmethod and m.amname = 'btree'
    where o.opcname = v_name[array_upper(v_name, 1)]
      and n.nspname = case when array_length(v_name, 1) > 1 then v_name[1] else 'pg_catalog' end;
    if not found then
        raise exception using
            errcode = 'undefined_object',
            message = format('"%s" is not an operator class of btree', c_split[2]),
            detail = format('Asked for the index element %s.', element),
            hint = 'ASC, DESC and NULLS FIRST say nothing about what is equal; an operator class'
                   ' outside pg_catalog needs its schema.';
    end if;
    execute format('select (%s) as e from jsonb_populate_recordset(null::%s, %L) as %I limit 0',
                   concat(expression, E'\n'), target, '[]',
                   (select c.relname from pg_class as c where c.oid = target))
    into v_row; -- no row, but its type
    select c.name, c.sort_operator into operator_class, sort_operator
    from ensure._class_v1(v_class, pg_typeof(v_row.e)) as c;
end
$fn$;

comment on function ensure._read_element_v1(regclass, text) is
    'One element of an index, taken apart into expression and operator class.';

create function ensure._bare_element_v1(
    canonical text
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _bare_element_v1: a canonical element without collation and operator class.
select regexp_replace(regexp_replace(canonical, '\n[^\n]*$', ''),
                      '^(?:\((\(.*\))::[^():'']+\)|(.*)) COLLATE ("(?:[^"]|"")+"|\w+)$', '\1\2')
$fn$;

comment on function ensure._bare_element_v1(text) is
    'A canonical element without collation and operator class.';

-- migrate:down
drop function ensure._bare_element_v1(text);
drop function ensure._read_element_v1(regclass, text);
drop function ensure._class_v1(oid, oid);
drop function ensure._read_stored_v1(regclass, text);
drop function ensure._read_expression_v1(regclass, text, text);
drop function ensure._expression_hint_v1(regclass, text, text);
drop function ensure._quoted_column_v1(regclass, text);
