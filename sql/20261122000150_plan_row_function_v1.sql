-- migrate:up
create function ensure._row_function_parts_v1(
    target regclass,
    index_oid oid,
    key name[],
    out arguments text,
    out columns text,
    out fillers text,
    out matches text,
    out nulls text,
    out predicate text,
    out given text,
    out types oid[]
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_function_parts_v1: what a function of plan_row_function_v1 has of its table.
--
-- Returns  arguments, those of the key first; columns and fillers of the INSERT; matches: the
--          condition that finds the row; nulls: true when the key is null; given: the columns of
--          predicate as they are inserted
with index as (
    select i.*, (i.indkey::int2[])[0:i.indnkeyatts - 1] as attnums,
           coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) as nulls_equal,
           pg_get_expr(i.indpred, i.indrelid) as predicate
    from pg_index as i
    where i.indexrelid = index_oid
), columns as (
    select a.attnum, a.atttypmod, quote_ident(a.attname) as name, a.attname, a.atttypid, k.place,
           k.operator, array_position(key, a.attname) as rank,
           b.oid as base,
           case when b.typnamespace = 'pg_catalog'::regnamespace -- words of the grammar need none
                     and format_type(b.oid, null) !~ ('^(big|small|)int(eger|)\M|^(bit|boolean|'
                         || 'character|double|interval|numeric|real|time|timestamp)\M')
                then 'pg_catalog.' end as schema,
           row_number() over (order by array_position(key, a.attname), a.attnum) as n,
           coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0)) as filler
    from index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum > 0 and not a.attisdropped
    join pg_type as t on t.oid = a.atttypid
    join pg_type as b on b.oid = ensure._base_type_v1(a.atttypid)
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    left join lateral (
        select u.place, format('operator(%I.%s)', n.nspname, o.oprname) as operator
        from unnest(i.attnums, i.indclass::oid[]) with ordinality as u (attnum, class, place)
        join pg_opclass as c on c.oid = u.class
        join pg_amop as m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
                         and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
        join pg_operator as o on o.oid = m.amopopr
        join pg_namespace as n on n.oid = o.oprnamespace
        where u.attnum = a.attnum) as k on true
    where a.attgenerated = '' and (a.attidentity = '' or a.attidentity = 'd' and k.place > 0)
), values as (
    select c.*, case when c.rank > 0 or c.filler is null then format('$%s', c.n)
                     else format('coalesce($%s, %s)', c.n, c.filler) end as inserted
    from columns as c
)
select string_agg(format(E'    %s %s%s',
                         case when c.attname ~ '^(data|outcome|attempt|found|\$[0-9]+)$' -- taken
                              then quote_ident(concat(c.attname, '_')) else c.name end,
                         concat(c.schema, format_type(c.base, null)),
                         case when c.rank is null then ' default null' end), E',\n' order by c.n),
       string_agg(c.name, ', ' order by c.n),
       string_agg(c.inserted, ', ' order by c.n),
       concat(string_agg(
           format(case when i.nulls_equal
                       then '(t.%1$s %2$s %3$s%4$s or t.%1$s is null and %5$s is null)'
                       else 't.%1$s %2$s %3$s%4$s' end,
                  c.name, c.operator,
                  case when c.atttypmod >= 0 and t.typcategory in ('N', 'D', 'T')
                       then format('$%s::%s', c.n, format_type(c.atttypid, c.atttypmod))
                       else format('$%s', c.n) end,
                  l.collated, format('$%s', c.n)), ' and ' order by c.rank)
                  filter (where c.rank > 0),
           E'\n            and (' || min(i.predicate) || ')'),
       string_agg(format('$%s is null', c.n), ' or ' order by c.n)
           filter (where c.rank > 0 and not i.nulls_equal),
       min(i.predicate),
       string_agg(format('%s as %s', c.inserted, c.name), ', ' order by c.n)
           filter (where ensure._reads_v1(i.predicate, c.attname)),
       array_agg(c.base order by c.n)
from values as c
cross join index as i
join pg_type as t on t.oid = c.base
left join lateral (
    select format(' collate %I.%I', n.nspname, o.collname) as collated
    from pg_attribute as a
    join pg_collation as o on o.oid = (i.indcollation::oid[])[c.place - 1]
                          and o.oid <> a.attcollation
    join pg_namespace as n on n.oid = o.collnamespace
    where a.attrelid = i.indrelid and a.attnum = c.attnum) as l on true
$fn$;

comment on function ensure._row_function_parts_v1(regclass, oid, name[]) is
    'What a function of plan_row_function_v1 has of its table.';

create function ensure._row_function_body_v1(
    target regclass,
    parts record,
    conflict text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_function_body_v1: the body of a function of plan_row_function_v1.
--
-- Returns  with arguments by number: a name may be that of a column, or FOUND
begin
    return format($body$
#variable_conflict use_column
begin
    for attempt in 1..20 loop
        select t.* into data
        from %1$s as t
        where %2$s;
        if found then
            outcome := 'exists';
            return;%3$s%4$s
        end if;
        insert into %5$s as t (%6$s)
        values (%7$s)
        %8$s
        returning t.* into data;
        if found then
            outcome := 'created';
            return;
        end if;
    end loop;
    raise exception using
        errcode = 'NS014',
        message = 'another row of %9$s has a key of the row that is asked for, or is hidden',
        hint = 'Ask ensure.ensure_row_v1 for it, with the same key: it says which.';
end
$body$, ensure._from_v1(target), parts.matches,
                  case when parts.nulls is not null then format($null$
        elsif %s then
            raise exception using
                errcode = 'null_value_not_allowed',
                message = 'a key must not be null',
                hint = 'Pass a value for each column of the key.';$null$, parts.nulls) end,
                  case when parts.predicate is not null then format($outside$
        elsif (select (%s) from (select %s) as t) is not true then
            raise exception using
                errcode = 'invalid_column_reference',
                message = 'the row that is asked for has no such key, by the predicate',
                hint = 'Pass values of a row for which the index has a place.';$outside$,
                                                               parts.predicate, parts.given) end,
                  target, parts.columns, parts.fillers, conflict,
                  replace(target::text, '''', ''''''));
end
$fn$;

comment on function ensure._row_function_body_v1(regclass, record, text) is
    'The body of a function of plan_row_function_v1.';

create function ensure.plan_row_function_v1(
    target regclass,
    key name[],
    function_name name default null
)
returns table (
    step_number integer,
    statement text,
    in_transaction boolean,
    locks text,
    why text
)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $fn$
-- plan_row_function_v1: beside target there is a function that does for it what ensure_row_v1 does.
--
-- Returns  one CREATE FUNCTION, for review; none when the function is there. It has an argument for
--          each column, those of key first (called data_ and the like where the name is taken), and
--          returns the row as data, and outcome: 'exists' or 'created'. An argument that is null is
--          the default of its column. Its body has nothing to look up, and is right as long as the
--          columns and keys of target are what they are now: after a change drop it and ask again.
--          It sets search_path where a default or the predicate of the key is in its body; all
--          other names in it have their schema
-- Errors   22004, 22023  target or key is null; function_name is empty
--          42P10  key is no unique index of plain columns that can be given
--          42P01, 42809, 42703, 0A000  no such table; not a table, or with a rule for INSERT; no
--                 such column
--          NS001  a function with this name and these arguments is there, and differs
--          42622, 54023  the name is too long; more columns than a function can have arguments
--          NS007  the name is taken by a function with other arguments
-- Rights   none to ask; to run it CREATE on the schema of target. The function runs with the rights
--          of who calls it
declare
    v_index oid;
    v_table record;
    v_parts record;
    v_body text;
    v_pinned boolean; -- predicates and defaults have functions without their schema
    v_there record;
begin
    if num_nulls(target, key) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('%s must not be null',
                             case when target is null then 'target' else 'key' end),
            hint = 'Pass a table, and the columns of one of its unique keys, like ''{email}''.';
    elsif function_name = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'function_name must not be empty',
            hint = 'Leave it out to get the default.';
    end if;
    perform ensure._check_attributes_v1(target, '{}');
    select k.index_oid into v_index
    from ensure._row_keys_v1(target, key, key) as k
    join pg_index as i on i.indexrelid = k.index_oid and i.indexprs is null
    where not exists (select from pg_attribute as a
                      where a.attrelid = target and a.attname = any (key)
                        and (a.attgenerated <> '' or a.attidentity = 'a'))
    limit 1;
    if not found then
        perform ensure._raise_no_key_v1(target, key, key);
    end if;
    select coalesce(function_name::text, format('ensure_%s', c.relname)) as name,
           c.relnamespace::regnamespace as schema
    into v_table
    from pg_class as c
    where c.oid = target;
    if octet_length(v_table.name) > 63 then
        raise exception using
            errcode = 'name_too_long',
            message = format('"%s" is too long for the name of a function', v_table.name),
            hint = 'Pass function_name.';
    end if;
    v_parts := ensure._row_function_parts_v1(target, v_index, key);
    if cardinality(v_parts.types) > 100 then
        raise exception using
            errcode = 'too_many_arguments',
            message = format('"%s" has %s columns that can be given, and a function 100 arguments',
                             target, cardinality(v_parts.types)),
            hint = 'Call ensure_row_v1.';
    end if;
    v_body := ensure._row_function_body_v1(target, v_parts,
                                            ensure._conflict_v1(target, key, key));
    v_pinned := v_parts.predicate is not null or strpos(v_parts.fillers, 'coalesce(') > 0;
    select p.oid, p.prosrc = v_body and p.provolatile = 'v' and not p.prosecdef
           and p.proconfig is not distinct from
               case when v_pinned then array['search_path=pg_catalog, pg_temp'] end as same,
           x.types = v_parts.types as same_types
    into v_there
    from pg_proc as p
    cross join lateral (select array(select unnest(p.proargtypes::oid[]))) as x (types)
    where p.proname = v_table.name and p.pronamespace = v_table.schema
    order by x.types = v_parts.types desc
    limit 1;
    if v_there.same and v_there.same_types then
        return;
    elsif v_there.oid is not null then
        raise exception using
            errcode = case when v_there.same_types then 'NS001' else 'NS007' end,
            message = format('there is another function %s', v_there.oid::regprocedure),
            hint = 'Drop it if it was made for an older form of the table, or pass another'
                   ' function_name.';
    end if;
    step_number := 1;
    statement := format($create$create function %1$s.%2$I(
%3$s,
    out data %4$s,
    out outcome pg_catalog.text
)
returns pg_catalog.record
language plpgsql
volatile
security invoker%5$s
as %6$s$create$, v_table.schema, v_table.name, v_parts.arguments, target,
                        case when v_pinned then E'\nset search_path = pg_catalog, pg_temp' end,
                        case when strpos(v_body, '$row$') > 0 then quote_literal(v_body)
                             else format('$row$%s$row$', v_body) end);
    in_transaction := true;
    locks := 'none on the table';
    why := format('ensure_row_v1 for "%s" alone, with nothing to look up', target);
    return next;
end
$fn$;

comment on function ensure.plan_row_function_v1(regclass, name[], name) is
    'Beside target there is a function that does for it what ensure_row_v1 does.';

-- migrate:down
drop function ensure.plan_row_function_v1(regclass, name[], name);
drop function ensure._row_function_body_v1(regclass, record, text);
drop function ensure._row_function_parts_v1(regclass, oid, name[]);
