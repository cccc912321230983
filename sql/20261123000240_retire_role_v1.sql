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
    if c_role is null then
        return null;
    elsif c_role < 16384 then -- the role that initdb made, and those that come with the server
        raise exception using
            errcode = 'reserved_name',
            message = format('role "%s" belongs to PostgreSQL', role_name),
            hint = 'It cannot be dropped; ALTER ROLE … NOLOGIN keeps it out.';
    elsif to_regrole(quote_ident(reassign_to)) is null then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', reassign_to),
            hint = 'Make it first, with ensure.ensure_role_v1, or mend the name.';
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
    end
$fn$;

comment on function ensure._acl_v1(oid, oid, integer) is
    'The privileges on an object, or on a column, that is not to be null.';

create function ensure._retire_grants_v1(
    role_oid oid
)
returns table (statement text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_grants_v1: what others have from this role alone, and DROP OWNED BY it would revoke.
--
-- Returns  memberships from 16 on, and privileges on what is another role's in this database
select format('grant %I to %I with admin %s, inherit %s, set %s', pg_get_userbyid(m.roleid),
              pg_get_userbyid(m.member), m.admin_option::text, o.inherit::text, o.set::text),
       format('membership of role %I in %I, that %I granted', pg_get_userbyid(m.member),
              pg_get_userbyid(m.roleid), pg_get_userbyid(role_oid))
from pg_auth_members as m
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
select format('grant %s on %s to %s%s', g.privilege, g.target, g.grantee,
              case when g.is_grantable then ' with grant option' else '' end),
       format('%s on %s for %s, that %I granted', g.privilege, g.target, g.grantee,
              pg_get_userbyid(role_oid))
from (
    select a.is_grantable,
           a.privilege_type || case when s.objsubid > 0 and s.classid = 'pg_class'::regclass
               then format(' (%I)', (select t.attname from pg_attribute as t
                                     where t.attrelid = s.objid and t.attnum = s.objsubid))
               else '' end as privilege,
           case when a.grantee = 0 then 'public'
                else quote_ident(pg_get_userbyid(a.grantee)) end as grantee,
           case when s.classid = 'pg_class'::regclass
                then case when i.type = 'sequence' then 'sequence ' else 'table ' end || i.identity
                else concat(case when s.classid = 'pg_proc'::regclass then 'routine'
                                 when i.type = 'server' then 'foreign server'
                                 else replace(i.type, '-', ' ') end, ' ', i.identity)
                end as target
    from pg_shdepend as s
    cross join pg_identify_object(s.classid, s.objid, 0) as i
    cross join aclexplode(ensure._acl_v1(s.classid, s.objid, s.objsubid)) as a
    where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid and s.deptype = 'a'
      and s.dbid in (0, (select d.oid from pg_database as d where d.datname = current_database()))
      and a.grantor = role_oid and a.grantee <> role_oid
      and not exists (select from pg_shdepend as o -- what it owns takes them along
                      where o.refclassid = s.refclassid and o.refobjid = role_oid
                        and o.deptype = 'o' and o.dbid = s.dbid and o.classid = s.classid
                        and o.objid = s.objid)
      and not exists (
          select from aclexplode(ensure._acl_v1(s.classid, s.objid, s.objsubid)) as b
          where b.grantee = a.grantee and b.privilege_type = a.privilege_type
            and b.grantor <> role_oid and b.is_grantable >= a.is_grantable)
) as g
order by 1
$fn$;

comment on function ensure._retire_grants_v1(oid) is
    'What others have from this role alone, and DROP OWNED BY it would revoke.';

create function ensure._do_v1(
    statements text
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _do_v1: a DO that runs statements of PL/pgSQL with a pinned search_path.
--
-- Returns  what names functions, operators or types is run by somebody whose search_path may have
--          others of these names
select format('do %L', format($do$declare
    v_path constant pg_catalog.text := pg_catalog.current_setting('search_path');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    %s
    perform pg_catalog.set_config('search_path', v_path, true);
end$do$, statements))
$fn$;

comment on function ensure._do_v1(text) is
    'A DO that runs statements of PL/pgSQL with a pinned search_path.';

create function ensure._only_here_v1(
    database name,
    statements text
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _only_here_v1: a DO that runs statements of PL/pgSQL in this database, and raises in another.
select ensure._do_v1(format($do$if current_database() <> %L then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'this statement is for database "' || %L || '"',
            hint = 'Run it there.';
    end if;
    %s$do$, database, database, statements))
$fn$;

comment on function ensure._only_here_v1(name, text) is
    'A DO that runs statements of PL/pgSQL in this database, and raises in another.';

create function ensure._retire_moves_v1(
    role_oid oid,
    heir name
)
returns table (statement text, locks text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_moves_v1: the statements that give each object of the role in this database to its heir.
--
-- Returns  shared objects too; not what follows another object, nor what DROP OWNED BY is for.
--          Extensions have no other statement than REASSIGN OWNED: when nothing else is left
with o as materialized (
    select s.classid as class, s.objid as object, c.relkind as kind,
           coalesce(c.relnamespace, p.pronamespace, t.typnamespace,
                    to_regnamespace(i.schema)::oid) as namespace, i.type, i.identity
    from pg_shdepend as s
    left join pg_class as c on s.classid = 'pg_class'::regclass and c.oid = s.objid
    left join pg_proc as p on s.classid = 'pg_proc'::regclass and p.oid = s.objid
    left join pg_type as t on s.classid = 'pg_type'::regclass and t.oid = s.objid
    cross join pg_identify_object(s.classid, s.objid, s.objsubid) as i
    where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid and s.deptype = 'o'
      and s.dbid in (0, (select d.oid from pg_database as d where d.datname = current_database()))
      and s.classid not in ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass,
                            'pg_auth_members'::regclass)
      and not (t.typtype is not distinct from 'm'
               and current_setting('server_version_num')::integer >= 170000)
      and not exists (select from pg_depend as d
                      where c.relkind = 'S' and d.classid = s.classid and d.objid = s.objid
                        and d.refclassid = s.classid and d.refobjsubid > 0
                        and d.deptype in ('a', 'i'))
      and not exists (select from pg_subscription as u
                      where s.classid = 'pg_subscription'::regclass and u.oid = s.objid
                        and u.subdbid <> (select d.oid from pg_database as d
                                          where d.datname = current_database()))
)
(select case when o.class in ('pg_foreign_data_wrapper'::regclass, 'pg_foreign_server'::regclass)
             then format('alter %s %s owner to %I',
                         case o.class when 'pg_foreign_server'::regclass then 'server'
                                      else 'foreign data wrapper' end, o.identity, heir)
             else d.statement end,
        'ACCESS EXCLUSIVE on ' || case when o.class = 'pg_class'::regclass then o.identity end
            || case when o.kind in ('r', 'p') then ', its indexes and sequences' else '' end,
        concat_ws('; ', d.described, 'this role lacks ' || l.missing, 'first run ' || l.remedy)
 from o
 cross join ensure._owner_statement_v1(
     o.class, o.object, case when o.class = 'pg_proc'::regclass
                             then (select p.prokind from pg_proc as p where p.oid = o.object)
                        end, heir) as d
 cross join ensure._lacks_owner_v1(
     heir, role_oid, o.namespace, o.namespace is null,
     exists (select from o as n
             where n.class = 'pg_namespace'::regclass and n.object = o.namespace), '{}') as l
 where o.class <> 'pg_extension'::regclass
 order by o.class <> 'pg_database'::regclass, o.class <> 'pg_namespace'::regclass, o.class,
          o.object)
union all
select ensure._only_here_v1(current_database(), format('execute %L;', format(
           'reassign owned by %I to %I', pg_get_userbyid(role_oid), heir))), null,
       format('extensions, which have no ALTER … OWNER: %s', string_agg(o.identity, ', '))
from o
having bool_and(o.class = 'pg_extension'::regclass)
$fn$;

comment on function ensure._retire_moves_v1(oid, name) is
    'The statements that give each object of the role in this database to its heir.';

-- migrate:down
drop function ensure._retire_moves_v1(oid, name);
drop function ensure._only_here_v1(name, text);
drop function ensure._do_v1(text);
drop function ensure._retire_grants_v1(oid);
drop function ensure._acl_v1(oid, oid, integer);
drop function ensure._check_retired_v1(name, name);
