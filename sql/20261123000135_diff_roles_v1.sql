-- migrate:up
create function ensure._diff_role_v1(
    wanted jsonb
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_role_v1: the statements that make one role what wanted says, but for memberships.
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
end
$fn$;

comment on function ensure._diff_role_v1(jsonb) is
    'The statements that make one role what wanted says, but for memberships.';

create function ensure._check_once_v1(
    spec jsonb
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_once_v1: no two entries of a document contradict each other.
--
-- Errors   22023  a role is named twice; a schema is in two entries of owners; an exact entry of
--                 grants is not the only one for its grantee and schema
declare
    v_twice record;
begin
    select t.what, t.hint into v_twice
    from (
        select 1, format('role "%s" is in the document twice', r.wanted ->> 'role_name') as what,
               'Say all of it in one entry.' as hint
        from jsonb_array_elements(nullif(spec -> 'roles', 'null')) as r (wanted)
        where jsonb_typeof(r.wanted) = 'object'
        group by r.wanted ->> 'role_name'
        having count(*) > 1
        union all
        select 2, format('schema "%s" is in two entries of owners', s.name),
               'Name it in one, with all that is excluded.'
        from jsonb_array_elements(nullif(spec -> 'owners', 'null')) as o (wanted)
        cross join jsonb_array_elements_text(
            case when jsonb_typeof(o.wanted -> 'schemas') = 'array'
                 then o.wanted -> 'schemas' else '[]' end) as s (name)
        group by s.name
        having count(distinct o.wanted) > 1
        union all
        select 3, format('grants of role "%s" name schema "%s" in an exact entry and in another',
                         g.wanted ->> 'grantee', s.name),
               'Say all that it may do there in one entry.'
        from jsonb_array_elements(nullif(spec -> 'grants', 'null')) as g (wanted)
        cross join jsonb_array_elements_text(
            case when jsonb_typeof(g.wanted -> 'schemas') = 'array'
                 then g.wanted -> 'schemas' else '[]' end) as s (name)
        group by g.wanted ->> 'grantee', s.name
        having count(distinct g.wanted) > 1 and bool_or(g.wanted ->> 'mode' = 'exact')
    ) as t (part, what, hint)
    order by t.part, t.what
    limit 1;
    if v_twice.what is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = v_twice.what,
            hint = v_twice.hint;
    end if;
end
$fn$;

comment on function ensure._check_once_v1(jsonb) is
    'No two entries of a document contradict each other.';

create function ensure._named_roles_v1(
    spec jsonb
)
returns text[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _named_roles_v1: the roles that spec makes.
select array(select r.role ->> 'role_name'
             from jsonb_array_elements(nullif(spec -> 'roles', 'null')) as r (role)
             where r.role ->> 'role_name' is not null)
$fn$;

comment on function ensure._named_roles_v1(jsonb) is
    'The roles that spec makes.';

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
    v_joined text[]; -- what the document makes this role a member of
    v_wanted jsonb;
begin
    perform ensure._check_wanted_v1(spec, 'the document', '{}',
        '{"roles": "array", "owners": "array", "grants": "array"}');
    perform ensure._check_once_v1(spec);
    v_known := ensure._named_roles_v1(spec);
    for v_wanted in
        select r.wanted
        from jsonb_array_elements(nullif(spec -> 'roles', 'null'))
             with ordinality as r (wanted, place)
        order by r.place
    loop
        return query select c.* from ensure._diff_role_v1(v_wanted) as c;
    end loop;
    v_joined := array(
        select w.parent
        from jsonb_array_elements(nullif(spec -> 'roles', 'null')) as r (wanted)
        cross join ensure._wanted_members_v1(current_user, r.wanted -> 'member_of', v_known,
                                             null) as w
        where r.wanted ->> 'role_name' = current_user and w.wanted
          and not exists ( -- a new membership has what is not said, one that is there has not
              select
              from pg_auth_members as m
              cross join lateral (values (w.set, 'set_option'), (w.inherit, 'inherit_option')
                                 ) as o (said, option)
              where m.roleid = to_regrole(quote_ident(w.parent))
                and m.member = to_regrole(quote_ident(current_user))
                and o.said is null
              group by o.option
              having not bool_or(coalesce((to_jsonb(m) ->> o.option)::boolean, true)))
          and w.set is distinct from false and w.inherit is distinct from false);
    for v_wanted in -- which may be of roles that come later
        select r.wanted
        from jsonb_array_elements(nullif(spec -> 'roles', 'null'))
             with ordinality as r (wanted, place)
        order by r.place
    loop
        return query
        select c.*
        from ensure._diff_members_v1(v_wanted ->> 'role_name', v_wanted -> 'member_of', v_known,
                                     (v_wanted ->> 'inherit')::boolean) as c;
    end loop;
    for v_wanted in
        select o.wanted
        from jsonb_array_elements(nullif(spec -> 'owners', 'null'))
             with ordinality as o (wanted, place)
        order by o.place
    loop
        return query select c.* from ensure._diff_owner_v1(v_wanted, v_known, v_joined) as c;
    end loop;
    for v_wanted in
        select g.wanted
        from jsonb_array_elements(nullif(spec -> 'grants', 'null'))
             with ordinality as g (wanted, place)
        order by g.place
    loop
        return query select c.* from ensure._diff_grants_v1(v_wanted, v_known, v_joined) as c;
    end loop;
end
$fn$;

comment on function ensure._diff_roles_v1(jsonb) is
    'The statements that make all that spec says true: roles, owners, then grants.';

create function ensure._exact_grants_v1(
    spec jsonb
)
returns table (grantee text, schemas oid[])
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _exact_grants_v1: the entries of grants in spec that revoke what they do not say.
select g.wanted ->> 'grantee',
       array(select to_regnamespace(quote_ident(s.name))::oid
             from jsonb_array_elements_text(g.wanted -> 'schemas') as s (name))
from jsonb_array_elements(nullif(spec -> 'grants', 'null')) with ordinality as g (wanted, place)
where g.wanted ->> 'mode' = 'exact'
order by g.place
$fn$;

comment on function ensure._exact_grants_v1(jsonb) is
    'The entries of grants in spec that revoke what they do not say.';

create function ensure._check_refused_v1(
    spec jsonb
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_refused_v1: nothing in spec has to be settled by its owners first.
--
-- Errors   2BP01  what an exact entry revokes was granted on
--          42501  a SECURITY DEFINER routine of others would come to run as a new owner
declare
    v_known constant text[] := ensure._named_roles_v1(spec);
    v_wanted jsonb;
    v_owner record;
begin
    for v_wanted in
        select o.wanted
        from jsonb_array_elements(nullif(spec -> 'owners', 'null'))
             with ordinality as o (wanted, place)
        order by o.place
    loop
        v_owner := ensure._check_owner_v1(v_wanted, v_known);
        perform ensure._check_definers_v1(v_owner.schemas, v_wanted ->> 'new_owner',
                                          v_owner.excluded_routines);
    end loop;
    perform ensure._check_granted_on_v1(g.grantee, g.schemas)
    from ensure._exact_grants_v1(spec) as g;
end
$fn$;

comment on function ensure._check_refused_v1(jsonb) is
    'Nothing in spec has to be settled by its owners first.';

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
drop function ensure._check_refused_v1(jsonb);
drop function ensure._exact_grants_v1(jsonb);
drop function ensure._diff_roles_v1(jsonb);
drop function ensure._named_roles_v1(jsonb);
drop function ensure._check_once_v1(jsonb);
drop function ensure._diff_role_v1(jsonb);
