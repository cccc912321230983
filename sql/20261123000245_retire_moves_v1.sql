-- migrate:up
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

create function ensure._retire_revokes_v1(
    role_oid oid
)
returns table (statement text, why text, missing text, remedy text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_revokes_v1: the statements that revoke what DROP OWNED BY leaves.
--
-- Returns  what others than the owner granted to the role, and what it granted and may still grant
--          as a member of another one: only the grantor can revoke that. Not what was granted by
--          one who has come to have the owner's rights: REVOKE would be the owner's then. And what
--          it granted on columns, with a grant option that it had, or has, on the table alone: with
--          one on the column REVOKE … CASCADE takes it
(select ensure._only_here_v1(current_database(), format($do$
    declare
        v_role text := current_setting('role');
    begin
        perform set_config('role', %L, true);
        execute %L;
        perform set_config('role', v_role, true);
    end;$do$, g.name, format('revoke %s on %s from %s cascade', h.privilege, h.target,
                             g.grantee))),
       concat_ws('; ', format('%s on %s for %s, that %I granted', h.privilege, h.target,
                              g.grantee, g.name),
                 (select format('role %1$I lacks USAGE on schema %2$I; first run grant usage on'
                                ' schema %2$I to %1$I', g.name, n.nspname)
                  from pg_namespace as n
                  where n.oid = i.namespace
                    and not has_schema_privilege(h.grantor, n.oid, 'USAGE'))),
       case when not ensure._superuser_v1() and not pg_has_role(h.grantor, g.kind)
            then format('%s role %I', case g.kind when 'SET' then 'SET on' else 'membership in' end,
                        g.name) end,
       format('grant %I to %I', g.name, current_user)
from ensure._role_privileges_v1(role_oid) as h
cross join lateral (
    select pg_get_userbyid(h.grantor) as name,
           case when h.grantee = 0 then 'public'
                else quote_ident(pg_get_userbyid(h.grantee)) end as grantee,
           case when current_setting('server_version_num')::integer >= 160000 then 'SET'
                else 'MEMBER' end as kind) as g
cross join lateral (
    select coalesce((select c.relnamespace from pg_class as c
                     where h.class = 'pg_class'::regclass and c.oid = h.object),
                    (select p.pronamespace from pg_proc as p
                     where h.class = 'pg_proc'::regclass and p.oid = h.object),
                    (select t.typnamespace from pg_type as t
                     where h.class = 'pg_type'::regclass and t.oid = h.object)) as namespace) as i
where (h.grantee = role_oid and h.grantor not in (h.owner, role_oid)
       or h.grantor = role_oid and h.grantee <> role_oid and h.owner <> role_oid
          and exists (select from ensure._role_privileges_v1(role_oid) as b
                      where (b.class, b.object, b.part) = (h.class, h.object, h.part)
                        and b.privilege = h.privilege and b.is_grantable and b.grantee <> role_oid
                        and b.grantee <> 0 and pg_has_role(role_oid, b.grantee, 'USAGE')))
  and not pg_has_role(h.grantor, h.owner, 'USAGE')
order by h.grantor <> role_oid, -- while it has its own grant options it is who revokes
         h.target, h.privilege, g.name)
union all
(select ensure._only_here_v1(current_database(), format(
           'execute %L; execute %L;',
           format('grant %s on %s to %I with grant option', h.privilege, h.target, g.role),
           format('revoke %s on %s from %I cascade', h.privilege, h.target, g.role))),
       format('%s on %s for %s, that %I granted', h.privilege, h.target,
              string_agg(case when h.grantee = 0 then 'public'
                              else quote_ident(pg_get_userbyid(h.grantee)) end, ', '
                         order by h.grantee), g.role),
       case when pg_has_role(h.owner, 'USAGE') then null
            when r.rolsuper then 'SUPERUSER'
            else format('the rights of role %I', r.rolname) end,
       case when not r.rolsuper then format('grant %I to %I', r.rolname, current_user) end
from ensure._role_privileges_v1(role_oid) as h
cross join pg_get_userbyid(role_oid) as g (role)
join pg_roles as r on r.oid = h.owner
where h.class = 'pg_class'::regclass and h.part > 0 and h.grantor = role_oid
  and h.grantee <> role_oid and h.owner <> role_oid
  and not exists (select from ensure._role_privileges_v1(role_oid) as b
                  where (b.class, b.object, b.part) = (h.class, h.object, h.part)
                    and b.privilege = h.privilege and b.is_grantable and b.grantee <> 0
                    and pg_has_role(role_oid, b.grantee, 'USAGE'))
group by h.privilege, h.target, h.owner, g.role, r.rolname, r.rolsuper
order by h.target, h.privilege)
$fn$;

comment on function ensure._retire_revokes_v1(oid) is
    'The statements that revoke what DROP OWNED BY leaves.';

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
        concat_ws('; ', d.described, case
            when o.class = 'pg_proc'::regclass
                 and (select p.prosecdef from pg_proc as p where p.oid = o.object)
            then format('SECURITY DEFINER: it runs as role %I from now on', heir) end,
                  'this role lacks ' || l.missing, 'first run ' || l.remedy, case
            when not (select r.rolsuper from pg_roles as r where r.rolname = heir)
                 and (o.class in ('pg_event_trigger'::regclass, 'pg_foreign_data_wrapper'::regclass)
                      or o.class = 'pg_subscription'::regclass
                         and current_setting('server_version_num')::integer < 160000)
            then format('role %I lacks SUPERUSER, which its owner needs: name an heir that is one,'
                        ' or drop it', heir) end)
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
drop function ensure._retire_revokes_v1(oid);
drop function ensure._only_here_v1(name, text);
drop function ensure._do_v1(text);
