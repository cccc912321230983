-- migrate:up
create function ensure._check_owner_v1(
    wanted jsonb,
    known text[],
    out new_owner oid,
    out schemas oid[],
    out excluded oid[],
    out excluded_routines oid[]
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_owner_v1: wanted says what ensure_owner_v1 takes.
--
-- Returns  new_owner is null for a role in known that does not exist yet
-- Errors   22004, 22023, 42602, 42939  bad input
--          3F000, 42704, 42883, 42P01  no such schema, role, routine or relation
declare
    c_name constant text := wanted ->> 'new_owner';
    c_place constant text := coalesce('owners of role "' || c_name || '"', 'the owners');
    v_bad record;
begin
    perform ensure._check_wanted_v1(wanted, c_place, '{new_owner,schemas}', '{"new_owner": "string",
        "schemas": "array", "excluded": "array", "excluded_routines": "array"}');
    perform ensure._check_role_name_v1(c_name, 'new_owner');
    new_owner := to_regrole(quote_ident(c_name));
    if new_owner is null and c_name <> all (known) then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', c_name),
            hint = 'Make it first, with ensure.ensure_role_v1, or mend the name.';
    end if;
    select k.key, e.element, e.element #>> '{}' as name into v_bad
    from unnest('{schemas,excluded,excluded_routines}'::text[]) as k (key)
    cross join jsonb_array_elements(coalesce(nullif(wanted -> k.key, 'null'), '[]')) as e (element)
    where jsonb_typeof(e.element) <> 'string'
    limit 1;
    if v_bad.key is not null then
        raise exception using
            errcode = case when v_bad.name is null then 'null_value_not_allowed'
                           else 'invalid_parameter_value' end,
            message = format('%s of %s has %s', v_bad.key, c_place, left(v_bad.element::text, 200)),
            hint = 'Give a list of names.';
    end if;
    select s.name, s.name ~ '^pg_' or s.name in ('information_schema', 'ensure') as reserved
    into v_bad
    from jsonb_array_elements_text(wanted -> 'schemas') as s (name)
    where s.name ~ '^pg_' or s.name in ('information_schema', 'ensure')
       or to_regnamespace(quote_ident(s.name)) is null
    order by 2 desc, 1
    limit 1;
    if v_bad.reserved then
        raise exception using
            errcode = 'reserved_name',
            message = format('what is in schema "%s" stays whose it is', v_bad.name),
            detail = 'It belongs to PostgreSQL or to pg-ensure.',
            hint = 'Leave it out.';
    elsif v_bad.name is not null then
        raise exception using
            errcode = 'invalid_schema_name',
            message = format('schema "%s" does not exist', v_bad.name),
            hint = 'Create it, or mend the name.';
    end if;
    if wanted -> 'schemas' = '[]' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('schemas of %s is empty', c_place),
            hint = 'Name the schemas that the role is to own.';
    end if;
    schemas := array(select to_regnamespace(quote_ident(s.name))::oid
                     from jsonb_array_elements_text(wanted -> 'schemas') as s (name));
    select x.* into excluded, excluded_routines
    from ensure._check_excluded_v1(wanted, schemas) as x;
end
$fn$;

comment on function ensure._check_owner_v1(jsonb, text[]) is
    'wanted says what ensure_owner_v1 takes.';

create function ensure._named_object_v1(
    name text,
    is_routine boolean
)
returns oid
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _named_object_v1: the relation, or the routine, of this name.
--
-- Returns  null for none, and for a text that is no name: PostgreSQL has an error for each kind of
--          those, another one in other versions
begin
    if name ~ '^[0-9]*$' then -- an oid, of what may not be there
        return null;
    end if;
    return case when is_routine then to_regprocedure(name)::oid else to_regclass(name)::oid end;
exception
    when invalid_name or syntax_error or invalid_text_representation or undefined_object
         or undefined_table or undefined_function or invalid_schema_name or feature_not_supported
         or too_many_arguments or name_too_long or invalid_parameter_value
         or numeric_value_out_of_range or wrong_object_type or datatype_mismatch then
        return null;
end
$fn$;

comment on function ensure._named_object_v1(text, boolean) is
    'The relation, or the routine, of this name.';

create function ensure._check_excluded_v1(
    wanted jsonb,
    schemas oid[],
    out excluded oid[],
    out excluded_routines oid[]
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_excluded_v1: what wanted excludes is there, and can keep its owner.
--
-- Errors   22023  it has no owner of its own, follows a table that is not excluded, or is in no
--                 schema of schemas
--          42883, 42P01  no such routine or relation
declare
    v_name text;
    v_oid oid;
    v_table regclass;
begin
    excluded := '{}';
    excluded_routines := '{}';
    for v_name in
        select e.name
        from jsonb_array_elements_text(nullif(wanted -> 'excluded', 'null')) as e (name)
    loop
        v_oid := ensure._named_object_v1(v_name, false);
        if v_oid is null then
            raise exception using
                errcode = 'undefined_table',
                message = format('relation "%s" does not exist', v_name),
                detail = 'It is in excluded.',
                hint = 'Give it as schema.name, or leave it out.';
        end if;
        excluded := excluded || v_oid;
    end loop;
    for v_name in
        select e.name
        from jsonb_array_elements_text(nullif(wanted -> 'excluded_routines', 'null')) as e (name)
    loop
        v_oid := ensure._named_object_v1(v_name, true);
        if v_oid is null then
            raise exception using
                errcode = 'undefined_function',
                message = format('routine "%s" does not exist', v_name),
                detail = 'It is in excluded_routines.',
                hint = 'Give it as schema.name(types).';
        end if;
        excluded_routines := excluded_routines || v_oid;
    end loop;
    v_name := (
        select o.name
        from (select c.oid::regclass::text, c.relnamespace from pg_class as c
              where c.oid = any (excluded)
              union all
              select p.oid::regprocedure::text, p.pronamespace from pg_proc as p
              where p.oid = any (excluded_routines)) as o (name, namespace)
        where o.namespace <> all (schemas)
        order by 1
        limit 1);
    if v_name is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" cannot be excluded: it is in none of the schemas', v_name),
            hint = 'Leave it out, or mend its schema.';
    end if;
    select c.oid::regclass::text, d.refobjid into v_name, v_table
    from pg_class as c
    left join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = c.oid
                            and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                            and d.deptype in ('a', 'i') and c.relkind = 'S'
    where c.oid = any (excluded)
      and (c.relkind not in ('r', 'p', 'f', 'v', 'm', 'S', 'c') or d.refobjid <> all (excluded))
    limit 1;
    if v_name is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" cannot be excluded', v_name),
            detail = case when v_table is null then 'It has no owner of its own.'
                          else format('It is linked to a column of "%s", and has its owner.',
                                      v_table) end,
            hint = 'Exclude the table that it belongs to, or leave it out.';
    end if;
end
$fn$;

comment on function ensure._check_excluded_v1(jsonb, oid[]) is
    'What wanted excludes is there, and can keep its owner.';

-- migrate:down
drop function ensure._check_excluded_v1(jsonb, oid[]);
drop function ensure._named_object_v1(text, boolean);
drop function ensure._check_owner_v1(jsonb, text[]);
