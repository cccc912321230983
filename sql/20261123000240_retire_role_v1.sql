-- migrate:up
create function ensure._check_retired_v1(
    role_name name,
    reassign_to name
)
returns oid
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_retired_v1: the role that is to go, and its heir is another one.
--
-- Returns  null when the role does not exist
-- Errors   22004, 22023, 42602, 42939  bad input
--          42704  no such role as reassign_to
--          55006  this session is the role's
declare
    c_role constant oid := to_regrole(quote_ident(role_name));
begin
    perform ensure._check_wanted_v1(
        jsonb_build_object('role_name', role_name, 'reassign_to', reassign_to),
        'plan_retire_role_v1', '{role_name,reassign_to}',
        '{"role_name": "string", "reassign_to": "string"}');
    perform ensure._check_role_name_v1(role_name, 'role_name');
    perform ensure._check_role_name_v1(reassign_to, 'reassign_to');
    if c_role < 16384 then -- the role that initdb made, and those that come with the server
        raise exception using
            errcode = 'reserved_name',
            message = format('role "%s" belongs to PostgreSQL', role_name),
            hint = 'It cannot be dropped, and the server needs it: leave it as it is.';
    elsif to_regrole(quote_ident(reassign_to)) is null then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', reassign_to),
            hint = 'Make it first, with ensure.ensure_role_v1, or mend the name.';
    elsif c_role is null then
        return null;
    elsif role_name = reassign_to then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('role "%s" cannot be its own heir', role_name),
            hint = 'Name another role in reassign_to.';
    elsif role_name in (current_user, session_user) then
        raise exception using
            errcode = 'object_in_use',
            message = format('this session is that of role "%s"', role_name),
            hint = 'Ask as another role.';
    end if;
    return c_role;
end
$fn$;

comment on function ensure._check_retired_v1(name, name) is
    'The role that is to go, and its heir is another one.';

create function ensure._parameter_acl_v1(
    parameter oid
)
returns aclitem[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _parameter_acl_v1: the privileges on a parameter of the server; before 15 there are none.
declare
    v_acl aclitem[];
begin
    if to_regclass('pg_parameter_acl') is not null then
        execute 'select p.paracl from pg_parameter_acl as p where p.oid = $1' into v_acl
        using parameter;
    end if;
    return v_acl;
end
$fn$;

comment on function ensure._parameter_acl_v1(oid) is
    'The privileges on a parameter of the server; before 15 there are none.';

create function ensure._acl_v1(
    class oid,
    object oid,
    part integer
)
returns aclitem[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _acl_v1: the privileges on an object, or on a column, that is not to be null.
select case class
    when 'pg_class'::regclass then case when part = 0
        then (select c.relacl from pg_class as c where c.oid = object)
        else (select a.attacl from pg_attribute as a
              where a.attrelid = object and a.attnum = part) end
    when 'pg_proc'::regclass then (select p.proacl from pg_proc as p where p.oid = object)
    when 'pg_namespace'::regclass then
        (select n.nspacl from pg_namespace as n where n.oid = object)
    when 'pg_database'::regclass then (select d.datacl from pg_database as d where d.oid = object)
    when 'pg_type'::regclass then (select t.typacl from pg_type as t where t.oid = object)
    when 'pg_language'::regclass then (select l.lanacl from pg_language as l where l.oid = object)
    when 'pg_foreign_server'::regclass then
        (select s.srvacl from pg_foreign_server as s where s.oid = object)
    when 'pg_foreign_data_wrapper'::regclass then
        (select w.fdwacl from pg_foreign_data_wrapper as w where w.oid = object)
    when 'pg_tablespace'::regclass then
        (select s.spcacl from pg_tablespace as s where s.oid = object)
    when 'pg_largeobject'::regclass then
        (select l.lomacl from pg_largeobject_metadata as l where l.oid = object)
    when to_regclass('pg_parameter_acl') then ensure._parameter_acl_v1(object)
    end
$fn$;

comment on function ensure._acl_v1(oid, oid, integer) is
    'The privileges on an object, or on a column, that is not to be null.';

create function ensure._acl_owner_v1(
    class oid,
    object oid
)
returns oid
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _acl_owner_v1: the role as which superusers grant privileges on an object: its owner.
select case class
    when 'pg_class'::regclass then (select c.relowner from pg_class as c where c.oid = object)
    when 'pg_proc'::regclass then (select p.proowner from pg_proc as p where p.oid = object)
    when 'pg_namespace'::regclass then
        (select n.nspowner from pg_namespace as n where n.oid = object)
    when 'pg_database'::regclass then (select d.datdba from pg_database as d where d.oid = object)
    when 'pg_type'::regclass then (select t.typowner from pg_type as t where t.oid = object)
    when 'pg_language'::regclass then (select l.lanowner from pg_language as l where l.oid = object)
    when 'pg_foreign_server'::regclass then
        (select s.srvowner from pg_foreign_server as s where s.oid = object)
    when 'pg_foreign_data_wrapper'::regclass then
        (select w.fdwowner from pg_foreign_data_wrapper as w where w.oid = object)
    when 'pg_tablespace'::regclass then
        (select s.spcowner from pg_tablespace as s where s.oid = object)
    when 'pg_largeobject'::regclass then
        (select l.lomowner from pg_largeobject_metadata as l where l.oid = object)
    else 10::oid end -- parameters are the first superuser's
$fn$;

comment on function ensure._acl_owner_v1(oid, oid) is
    'The role as which superusers grant privileges on an object: its owner.';

create function ensure._role_privileges_v1(
    role_oid oid
)
returns table (
    class oid,
    object oid,
    part integer,
    owner oid,
    target text,
    privilege text,
    grantor oid,
    grantee oid,
    is_grantable boolean
)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _role_privileges_v1: all privileges on what a role has or gave privileges on, in this database.
select s.classid, s.objid, s.objsubid, ensure._acl_owner_v1(s.classid, s.objid),
       case when s.classid = 'pg_class'::regclass
            then case when i.type = 'sequence' then 'sequence ' else 'table ' end || i.identity
            when s.classid = to_regclass('pg_parameter_acl')
            then 'parameter ' || (select string_agg(quote_ident(n.part), '.' order by n.place)
                                  from string_to_table(i.identity, '.')
                                       with ordinality as n (part, place))
            when i.type = 'procedure' -- OUT says which of two it is
            then (select format('procedure %s.%I(%s)', i.schema, p.proname,
                                ensure._arguments_v1(p.oid))
                  from pg_proc as p where p.oid = s.objid)
            else concat(case when s.classid = 'pg_proc'::regclass then 'routine'
                             when i.type = 'server' then 'foreign server'
                             else replace(i.type, '-', ' ') end, ' ', i.identity)
            end,
       a.privilege_type || case when s.objsubid > 0 and s.classid = 'pg_class'::regclass
           then format(' (%I)', (select t.attname from pg_attribute as t
                                 where t.attrelid = s.objid and t.attnum = s.objsubid))
           else '' end,
       a.grantor, a.grantee, a.is_grantable
from pg_shdepend as s
cross join pg_identify_object(s.classid, s.objid, 0) as i
cross join aclexplode(ensure._acl_v1(s.classid, s.objid, s.objsubid)) as a
where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid and s.deptype = 'a'
  and s.dbid in (0, (select d.oid from pg_database as d where d.datname = current_database()))
$fn$;

comment on function ensure._role_privileges_v1(oid) is
    'All privileges on what a role has or gave privileges on, in this database.';

create function ensure._retire_grants_v1(
    role_oid oid
)
returns table (statement text, why text, missing text, remedy text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_grants_v1: what others have from this role alone, and DROP OWNED BY it would revoke.
--
-- Returns  memberships from 16 on, and privileges on what is another role's in this database; last
--          what this role may not grant, such as ADMIN to whom it has its own from, or to itself
with held as materialized (select h.* from ensure._role_privileges_v1(role_oid) as h)
select format('grant %I to %I with admin %s, inherit %s, set %s', pg_get_userbyid(m.roleid),
              pg_get_userbyid(m.member), m.admin_option::text, o.inherit::text, o.set::text),
       format('membership of role %I in %I, that %I granted', pg_get_userbyid(m.member),
              pg_get_userbyid(m.roleid), pg_get_userbyid(role_oid)),
       l.missing,
       case when l.missing like 'ADMIN %'
            then format('grant %I to %I with admin option', pg_get_userbyid(m.roleid),
                        current_user) end
from pg_auth_members as m
cross join lateral (
    select case
        when ensure._superuser_v1() then null
        when not exists (select from pg_auth_members as a
                         where a.roleid = m.roleid and a.admin_option and a.member <> role_oid
                           and pg_has_role(a.member, 'USAGE'))
            then format('ADMIN on role %I', pg_get_userbyid(m.roleid))
        when m.admin_option and not exists (
                with recursive admins as (
                    select a.member from pg_auth_members as a
                    where a.roleid = m.roleid and a.admin_option and a.grantor = 10
                      and a.member <> m.member
                    union
                    select a.member from pg_auth_members as a
                    join admins as b on b.member = a.grantor
                    where a.roleid = m.roleid and a.admin_option and a.member <> m.member)
                select from admins as a
                where a.member <> role_oid and pg_has_role(a.member, 'USAGE')
                  and (pg_get_userbyid(a.member) = current_user -- who grants it, if he may
                       or not exists (select from pg_auth_members as b
                                      where b.roleid = m.roleid and b.admin_option
                                        and pg_get_userbyid(b.member) = current_user)))
            then format('SUPERUSER: ADMIN cannot be granted back to role %I',
                        pg_get_userbyid(m.member)) end as missing) as l
cross join lateral (select (to_jsonb(m) ->> 'inherit_option')::boolean as inherit,
                           (to_jsonb(m) ->> 'set_option')::boolean as set) as o
where m.grantor = role_oid and o.set is not null and m.member <> role_oid and m.roleid <> role_oid
  and not exists (
      select from pg_auth_members as b
      where b.roleid = m.roleid and b.member = m.member and b.grantor <> role_oid
        and b.admin_option >= m.admin_option
        and (to_jsonb(b) ->> 'inherit_option')::boolean >= o.inherit
        and (to_jsonb(b) ->> 'set_option')::boolean >= o.set)
union all
select format('grant %s on %s to %s%s', h.privilege, h.target, g.grantee,
              case when h.is_grantable then ' with grant option' else '' end),
       format('%s on %s for %s, that %I granted', h.privilege, h.target, g.grantee,
              pg_get_userbyid(role_oid)),
       case when not l.lacks then null
            when r.rolsuper then 'SUPERUSER'
            else format('the rights of role %I', r.rolname) end,
       case when l.lacks and not r.rolsuper
            then format('grant %I to %I', r.rolname, current_user) end
from held as h
cross join lateral (select case when h.grantee = 0 then 'public'
                                else quote_ident(pg_get_userbyid(h.grantee)) end as grantee) as g
join pg_roles as r on r.oid = h.owner
cross join lateral (
    select not pg_has_role(h.owner, 'USAGE') and not exists (
        select from held as b
        where (b.class, b.object, b.part) = (h.class, h.object, h.part) and b.is_grantable
          and b.privilege = h.privilege and role_oid not in (b.grantor, b.grantee)
          and pg_has_role(b.grantee, 'USAGE')) as lacks) as l
where h.grantor = role_oid and h.grantee <> role_oid
  and h.owner <> role_oid -- what it owns takes them along
  and not exists (
      select from held as b
      where (b.class, b.object, b.part) = (h.class, h.object, h.part) and b.grantee = h.grantee
        and b.privilege = h.privilege and b.grantor <> role_oid
        and b.is_grantable >= h.is_grantable)
order by 3 nulls first, 1
$fn$;

comment on function ensure._retire_grants_v1(oid) is
    'What others have from this role alone, and DROP OWNED BY it would revoke.';

-- migrate:down
drop function ensure._retire_grants_v1(oid);
drop function ensure._role_privileges_v1(oid);
drop function ensure._acl_owner_v1(oid, oid);
drop function ensure._acl_v1(oid, oid, integer);
drop function ensure._parameter_acl_v1(oid);
drop function ensure._check_retired_v1(name, name);
