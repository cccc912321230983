-- migrate:up
create function ensure._diff_role_v1(
    wanted jsonb,
    known text[]
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_role_v1: the statements that make one role what wanted says.
--
-- Errors   as listed by ensure_role_v1
declare
    c_name constant text := wanted ->> 'role_name';
    v_database record;
begin
    perform ensure._check_role_v1(wanted);
    return query select c.* from ensure._diff_attributes_v1(wanted) as c;
    return query
    select c.*
    from ensure._diff_settings_v1(c_name, null, nullif(wanted -> 'settings', 'null')) as c;
    for v_database in
        select d.key, d.value from jsonb_each(nullif(wanted -> 'database_settings', 'null')) as d
        order by d.key collate "C"
    loop
        if jsonb_typeof(v_database.value) <> 'object' then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('"%s" in database_settings of role "%s" is of type %s',
                                 v_database.key, c_name, jsonb_typeof(v_database.value)),
                hint = 'Give an object of settings for each database.';
        end if;
        return query select c.* from ensure._diff_settings_v1(c_name, v_database.key,
                                                              v_database.value) as c;
    end loop;
    return query select c.* from ensure._diff_members_v1(c_name, wanted -> 'member_of', known) as c;
end
$fn$;

comment on function ensure._diff_role_v1(jsonb, text[]) is
    'The statements that make one role what wanted says.';

create function ensure._diff_roles_v1(
    spec jsonb
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_roles_v1: the statements that make all that spec says true: roles, owners, then grants.
--
-- Errors   as listed by ensure_roles_v1
declare
    v_known text[];
    v_wanted jsonb;
begin
    perform ensure._check_wanted_v1(spec, 'the document', '{}',
        '{"roles": "array", "owners": "array", "grants": "array"}');
    v_known := array(
        select r.role ->> 'role_name'
        from jsonb_array_elements(nullif(spec -> 'roles', 'null')) as r (role)
        where r.role ->> 'role_name' is not null);
    for v_wanted in
        select r.wanted
        from jsonb_array_elements(nullif(spec -> 'roles', 'null'))
             with ordinality as r (wanted, place)
        order by r.place
    loop
        return query select c.* from ensure._diff_role_v1(v_wanted, v_known) as c;
    end loop;
    for v_wanted in
        select o.wanted
        from jsonb_array_elements(nullif(spec -> 'owners', 'null'))
             with ordinality as o (wanted, place)
        order by o.place
    loop
        return query select c.* from ensure._diff_owner_v1(v_wanted, v_known) as c;
    end loop;
    for v_wanted in
        select g.wanted
        from jsonb_array_elements(nullif(spec -> 'grants', 'null'))
             with ordinality as g (wanted, place)
        order by g.place
    loop
        return query select c.* from ensure._diff_grants_v1(v_wanted, v_known) as c;
    end loop;
end
$fn$;

comment on function ensure._diff_roles_v1(jsonb) is
    'The statements that make all that spec says true: roles, owners, then grants.';

create function ensure._subjects_v1(
    spec jsonb
)
returns table (subject text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _subjects_v1: what spec names, in words.
select s.subject
from (
    select 1, r.place, 0, format('role %I', r.wanted ->> 'role_name')
    from jsonb_array_elements(nullif(spec -> 'roles', 'null')) with ordinality as r (wanted, place)
    union all
    select 2, o.place, s.place, format('owner of schema %I', s.name)
    from jsonb_array_elements(nullif(spec -> 'owners', 'null')) with ordinality as o (wanted, place)
    cross join jsonb_array_elements_text(o.wanted -> 'schemas') with ordinality as s (name, place)
    union all
    select 3, g.place, 0, format('grants of role %I', g.wanted ->> 'grantee')
    from jsonb_array_elements(nullif(spec -> 'grants', 'null')) with ordinality as g (wanted, place)
) as s (section, place, part, subject)
order by s.section, s.place, s.part
$fn$;

comment on function ensure._subjects_v1(jsonb) is
    'What spec names, in words.';

-- migrate:down
drop function ensure._subjects_v1(jsonb);
drop function ensure._diff_roles_v1(jsonb);
drop function ensure._diff_role_v1(jsonb, text[]);
