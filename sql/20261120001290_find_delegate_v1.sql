-- migrate:up
create function ensure._delegate_difference_v1(
    candidate regprocedure,
    definition text,
    wanted ensure._delegate_v1
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _delegate_difference_v1: how candidate, of this definition, differs from wanted, or null.
--
-- Races    owner and grants are read from pg_proc as far as the snapshot shows it, and by functions
--          that read current catalogs: an owner always has the grant option
declare
    v_tag text := '$function';
    v_wanted text[];
    v_found constant text[] := string_to_array(
        regexp_replace(definition, '^CREATE [A-Z ]*FUNCTION', 'FUNCTION'), E'\n');
    c_old constant boolean := current_setting('transaction_isolation')
                              in ('repeatable read', 'serializable');
    v_line text;
    v_owner text;
    v_others text;
begin
    while strpos(wanted.body, v_tag) > 0 loop
        v_tag := concat(v_tag, 'x');
    end loop;
    v_wanted := string_to_array(format(E'%sAS %s$%s%2$s$\n', wanted.head, v_tag, wanted.body),
                                E'\n');
    select format('line %s is %L, asked for is %L', g.at, btrim(v_found[g.at]),
                  btrim(v_wanted[g.at]))
    into v_line
    from generate_series(1, greatest(cardinality(v_found), cardinality(v_wanted))) as g (at)
    where v_found[g.at] is distinct from v_wanted[g.at]
    order by g.at
    limit 1;

    select format('its owner is "%s", that of the table "%s"', pg_get_userbyid(p.proowner),
                  wanted.owner)
    into v_owner
    from pg_proc as p
    where p.oid = candidate and pg_get_userbyid(p.proowner) <> wanted.owner
      and not (c_old and p.xmax::text <> '0'); -- changed since
    if v_owner is null
       and not has_function_privilege(wanted.owner, candidate, 'EXECUTE WITH GRANT OPTION') then
        v_owner := format('its owner is not "%s"', wanted.owner);
    end if;
    select string_agg(distinct format('role "%s" may execute it%s',
                                      case when a.grantee = 0 then 'public'
                                           else pg_get_userbyid(a.grantee) end,
                                      case when a.is_grantable then ' and grant that on' end), '; ')
    into v_others
    from pg_proc as p
    cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
    where p.oid = candidate
      and not (c_old and p.xmax::text <> '0')
      and a.grantee <> p.proowner
      and (pg_get_userbyid(a.grantee) <> wanted.grantee or a.is_grantable);
    if v_others is null and has_function_privilege('public', candidate, 'EXECUTE') then
        v_others := 'role "public" may execute it';
    end if;
    return nullif(concat_ws('; ', v_owner, v_others,
                            case when not has_function_privilege(wanted.grantee, candidate,
                                                                 'EXECUTE')
                                 then format('role "%s" may not execute it', wanted.grantee) end,
                            v_line), '');
end
$fn$;

comment on function ensure._delegate_difference_v1(regprocedure, text, ensure._delegate_v1) is
    'How candidate, of this definition, differs from wanted, or null.';

create function ensure._find_delegate_v1(
    wanted ensure._delegate_v1
)
returns regprocedure
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _find_delegate_v1: the delegate, known by what it is, or null.
--
-- Errors   NS001  it differs
--          NS007  something else has its name
-- Races    to_regproc, to_regprocedure and pg_get_functiondef read current catalogs; somebody may
--          make the delegate between two of them
declare
    c_name constant text := format('%I.%I', wanted.schema_name, wanted.function_name);
    v_found regprocedure := to_regprocedure(wanted.signature);
    v_definition text;
    v_other regprocedure;
    v_difference text;
begin
    select p.oid into v_other
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where p.proname = wanted.function_name and n.nspname = wanted.schema_name
      and p.oid::regprocedure::text <> wanted.signature -- committed since v_found was looked up
      and pg_get_function_arguments(p.oid) is not null; -- null: gone, the snapshot is old
    if v_found is null and v_other is null then
        v_other := to_regproc(c_name)::oid;
        if v_other::text = wanted.signature then
            v_found := v_other;
            v_other := null;
        end if;
    end if;
    if v_found is not null then
        begin
            v_definition := pg_get_functiondef(v_found);
        exception when wrong_object_type then
            v_other := v_found; -- an aggregate
        end;
        if strpos(v_definition, '-- Made by  ensure.ensure_partition_delegate_v1;') = 0 then
            v_other := v_found;
        elsif v_definition is null then
            v_found := null; -- dropped meanwhile
        end if;
    end if;

    if v_other is not null then
        raise exception using
            errcode = 'NS007',
            message = format('the name for delegate "%s" is taken', wanted.signature),
            detail = format('Taken by something else: %s.', v_other),
            hint = 'Rename or drop what has this name, or pass another function_name.';
    elsif v_found is null then
        return null;
    end if;
    v_difference := ensure._delegate_difference_v1(v_found, v_definition, wanted);
    if v_difference is not null then
        raise exception using
            errcode = 'NS001',
            message = format('delegate "%s" exists but differs', wanted.signature),
            detail = format('Of what is there: %s.', v_difference),
            hint = format('To have it made anew: DROP FUNCTION %s, then call again.',
                          wanted.signature);
    end if;
    return v_found;
end
$fn$;

comment on function ensure._find_delegate_v1(ensure._delegate_v1) is
    'The delegate, known by what it is, or null.';

create function ensure._check_delegate_rights_v1(
    wanted ensure._delegate_v1
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_delegate_rights_v1: owner and grantee have what the delegate needs when it is called.
--
-- Errors   42501  one lacks a right; HINT is the GRANT to give
declare
    v_role name;
    v_right text;
    v_schema name;
begin
    select m.role, m.privilege, m.schema
    into v_role, v_right, v_schema
    from (values (wanted.owner, 'USAGE', 'ensure'::name),
                 (wanted.owner, 'USAGE', wanted.schema_name),
                 (wanted.owner, 'CREATE', wanted.schema_name),
                 (wanted.grantee, 'USAGE', wanted.schema_name)) as m (role, privilege, schema)
    where not has_schema_privilege(m.role, m.schema, m.privilege)
    limit 1;
    if found then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('delegate "%s" could not be used', wanted.signature),
            detail = format('Role "%s" has no %s on schema "%s".', v_role, v_right, v_schema),
            hint = format('GRANT %s ON SCHEMA %I TO %I.', v_right, v_schema, v_role);
    end if;
end
$fn$;

comment on function ensure._check_delegate_rights_v1(ensure._delegate_v1) is
    'Owner and grantee have what the delegate needs when it is called.';

-- migrate:down
drop function ensure._check_delegate_rights_v1(ensure._delegate_v1);
drop function ensure._find_delegate_v1(ensure._delegate_v1);
drop function ensure._delegate_difference_v1(regprocedure, text, ensure._delegate_v1);
