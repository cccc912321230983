-- migrate:up
create type ensure._change_v1 as (
    object text,       -- what differs, in words
    outcome text,      -- what becomes of it: created, altered, granted, …
    statement text,    -- makes it so; does no harm where it holds
    relation regclass, -- what the statement locks in ACCESS EXCLUSIVE mode, if anything
    missing text,      -- the right that this role lacks for it, if any
    remedy text,       -- the statement that gives this right
    seen boolean,      -- whether the catalogs show that it has been made
    reads regclass     -- what the statement itself locks in ACCESS SHARE mode, if anything
);

create function ensure._check_wanted_v1(
    wanted jsonb,
    place text,
    required text[],
    types jsonb
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_wanted_v1: wanted is an object with the keys of types, and values of the types there.
--
-- Errors   22004  it is null, or a required value is
--          22023  no object, an unknown key, a value of another type
declare
    v_bad record;
    v_missing text;
begin
    if jsonb_typeof(wanted) is distinct from 'object' then
        raise exception using
            errcode = case when coalesce(jsonb_typeof(wanted), 'null') = 'null'
                           then 'null_value_not_allowed' else 'invalid_parameter_value' end,
            message = format('%s is no JSON object', place),
            detail = case when wanted::text ~* 'password|scram' then 'Its value is not shown.'
                          else format('It is %s.', coalesce(left(wanted::text, 200), 'null')) end,
            hint = format('Its keys are %s.', (select string_agg(t.key, ', ' order by t.key)
                                               from jsonb_object_keys(types) as t (key)));
    end if;
    select b.key, b.value, types ->> b.key as types into v_bad
    from jsonb_each(wanted) as b
    where types ->> b.key is null
       or jsonb_typeof(b.value) <> 'null'
          and jsonb_typeof(b.value) <> all (string_to_array(types ->> b.key, ' '))
    order by b.key collate "C"
    limit 1;
    if v_bad.key is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = case when v_bad.types is null
                           then format('"%s" is no key of %s', v_bad.key, place)
                           else format('"%s" of %s is of type %s', v_bad.key, place,
                                       jsonb_typeof(v_bad.value)) end,
            detail = case when v_bad.key ~* 'password' or v_bad.value::text ~* 'password|scram'
                          then 'Its value is not shown.'
                          else format('It is %s.', left(v_bad.value::text, 200)) end,
            hint = case when v_bad.types is null
                        then format('Its keys are %s.',
                                    (select string_agg(t.key, ', ' order by t.key)
                                     from jsonb_object_keys(types) as t (key)))
                        else format('Give it as %s.', replace(v_bad.types, ' ', ' or ')) end;
    end if;
    v_missing := (select r.key from unnest(required) with ordinality as r (key, place)
                  where wanted ->> r.key is null
                  order by r.place
                  limit 1);
    if v_missing is not null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('%s of %s is null', v_missing, place),
            hint = format('Give %s.', v_missing);
    end if;
end
$fn$;

comment on function ensure._check_wanted_v1(jsonb, text, text[], jsonb) is
    'Wanted is an object with the keys of types, and values of the types there.';

create function ensure._check_role_name_v1(
    role_name text,
    place text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_role_name_v1: role_name is a name that a role of ours may have.
--
-- Errors   42602  it is empty, or longer than PostgreSQL keeps names
--          42939  PostgreSQL keeps it for itself
begin
    if role_name = '' or octet_length(role_name) > 63 then
        raise exception using
            errcode = 'invalid_name',
            message = format('%s is no name of a role', place),
            detail = format('It has %s bytes: "%s".', octet_length(role_name), role_name),
            hint = 'Names have 1 to 63 bytes.';
    elsif role_name in ('public', 'none', 'current_user', 'session_user', 'current_role')
          or role_name like 'pg\_%' and to_regrole(quote_ident(role_name)) is null then
        raise exception using
            errcode = 'reserved_name',
            message = format('%s is reserved: "%s"', place, role_name),
            detail = 'PostgreSQL keeps public, none, current_user, session_user, current_role and'
                     ' names that begin with pg_ for itself.',
            hint = 'Use another name.';
    end if;
end
$fn$;

comment on function ensure._check_role_name_v1(text, text) is
    'role_name is a name that a role of ours may have.';

create function ensure._superuser_v1()
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _superuser_v1: whether this role is a superuser.
select r.rolsuper from pg_roles as r where r.rolname = current_user
$fn$;

comment on function ensure._superuser_v1() is
    'Whether this role is a superuser.';

create function ensure._lacks_role_v1(
    target text,
    out missing text,
    out remedy text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lacks_role_v1: what this role lacks to create the role target, or to alter it where it exists.
--
-- Returns  nulls when nothing is missing. A superuser is altered by superusers; from 16 on
--          CREATEROLE alone is not enough, it takes ADMIN on the role too
-- Races    an old snapshot that has itself changed what others changed since shows two rows of a
--          role: here and elsewhere one is taken
declare
    c_me constant record := (select r from pg_roles as r where r.rolname = current_user limit 1);
    c_oid constant oid := to_regrole(quote_ident(target));
begin
    if c_me.rolsuper then
        return;
    elsif (select bool_or(r.rolsuper or r.rolreplication
                          and current_setting('server_version_num')::integer < 160000)
           from pg_roles as r where r.oid = c_oid) then
        missing := 'SUPERUSER';
        remedy := null; -- a superuser does it
        return;
    end if;
    if not c_me.rolcreaterole then
        missing := 'CREATEROLE';
        remedy := format('alter role %I createrole', current_user);
    end if;
    if c_oid is not null and current_setting('server_version_num')::integer >= 160000
       and not pg_has_role(c_oid, 'USAGE WITH ADMIN OPTION') then
        missing := concat(missing || ' and ', format('ADMIN on role %I', target));
        remedy := case when target <> current_user -- no role is a member of itself
                       then concat(remedy || '; ', format('grant %I to %I with admin option',
                                                          target, current_user)) end;
    end if;
end
$fn$;

comment on function ensure._lacks_role_v1(text) is
    'What this role lacks to create the role target, or to alter it where it exists.';

-- migrate:down
drop function ensure._lacks_role_v1(text);
drop function ensure._superuser_v1();
drop function ensure._check_role_name_v1(text, text);
drop function ensure._check_wanted_v1(jsonb, text, text[], jsonb);
drop type ensure._change_v1;
