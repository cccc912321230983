-- migrate:up
create function ensure._drop_owned_v1(
    role_oid oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _drop_owned_v1: statements of PL/pgSQL that run DROP OWNED BY, or raise where others would lose.
--
-- Returns  statements that raise where the role owns something, and where others have privileges or
--          memberships from it alone. No lock keeps others from giving it an object between that
--          look and DROP OWNED: what was dropped is what this session came to hold ACCESS EXCLUSIVE
--          on, and is gone. Policies, default privileges and user mappings are to go
select format($do$
    declare
        v_held pg_catalog.text[];
        v_owns boolean;
    begin
        select exists (
            select from pg_shdepend as s
            where s.refclassid = 'pg_authid'::regclass and s.refobjid = %1$s and s.deptype = 'o'
              and s.dbid in (0, (select d.oid from pg_database as d
                                 where d.datname = current_database()))
              and s.classid not in ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass))
        into v_owns;
        if not v_owns then
            if exists (
                select from (select c.relacl as acl from pg_class as c
                             union all select t.attacl from pg_attribute as t
                                       where not t.attisdropped -- which keeps it before 18
                             union all select p.proacl from pg_proc as p
                             union all select n.nspacl from pg_namespace as n
                             union all select t.typacl from pg_type as t
                             union all select l.lomacl from pg_largeobject_metadata as l
                             union all select v.srvacl from pg_foreign_server as v
                             union all select w.fdwacl from pg_foreign_data_wrapper as w
                             union all select l.lanacl from pg_language as l
                             union all select d.datacl from pg_database as d
                             union all select e.spcacl from pg_tablespace as e
                             %4$s) as o
                cross join aclexplode(o.acl) as a
                where a.grantor = %1$s and a.grantee <> a.grantor
                  and not exists (select from aclexplode(o.acl) as b
                                  where b.grantor <> a.grantor and b.grantee = a.grantee
                                    and b.privilege_type = a.privilege_type
                                    and b.is_grantable >= a.is_grantable)
                %5$s) then
                raise exception using
                    errcode = 'dependent_objects_still_exist',
                    message = %6$L,
                    hint = 'Run the rows of ensure.plan_retire_role_v1 here: they grant these again'
                           ' first.';
            end if;
            v_held := array(select concat_ws(' ', l.relation, l.classid, l.objid)
                            from pg_locks as l
                            where l.pid = pg_backend_pid() and l.mode = 'AccessExclusiveLock');
            execute %2$L;
            select exists (
                select from pg_locks as l
                where l.pid = pg_backend_pid() and l.mode = 'AccessExclusiveLock'
                  and concat_ws(' ', l.relation, l.classid, l.objid) <> all (v_held)
                  and (l.locktype = 'relation'
                       and not exists (select from pg_class as c where c.oid = l.relation)
                       or l.locktype = 'object'
                          and l.classid not in ('pg_default_acl'::regclass, 'pg_policy'::regclass,
                                                'pg_user_mapping'::regclass,
                                                'pg_auth_members'::regclass))) into v_owns;
        end if;
        if v_owns then
            raise exception using
                errcode = 'dependent_objects_still_exist',
                message = %3$L,
                hint = 'Ask ensure.plan_retire_role_v1 again: it moves them first.';
        end if;
    end;$do$, role_oid, format('drop owned by %I', pg_get_userbyid(role_oid)),
              format('role "%s" still owns objects', pg_get_userbyid(role_oid)),
              case when to_regclass('pg_parameter_acl') is not null
                   then 'union all select r.paracl from pg_parameter_acl as r' end,
              case when current_setting('server_version_num')::integer >= 160000
                   then format($or$union all
                select from pg_auth_members as m
                where m.grantor = %1$s and m.member <> %1$s and m.roleid <> %1$s
                  and not exists (select from pg_auth_members as b
                                  where b.roleid = m.roleid and b.member = m.member
                                    and b.grantor <> %1$s and b.admin_option >= m.admin_option
                                    and b.inherit_option >= m.inherit_option
                                    and b.set_option >= m.set_option)$or$, role_oid) end,
              format('others have privileges here that only role "%s" granted',
                     pg_get_userbyid(role_oid)))
$fn$;

comment on function ensure._drop_owned_v1(oid) is
    'Statements of PL/pgSQL that run DROP OWNED BY, or raise where others would lose.';

create function ensure._retire_elsewhere_v1(
    role_oid oid,
    heir name
)
returns table (database name, statement text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_elsewhere_v1: for each other database, a statement that moves and purges all there.
--
-- Returns  statements that fail in another database, where others have privileges from the role
--          alone, which DROP OWNED would revoke, and where the role has come to own something
select d.datname,
       ensure._only_here_v1(d.datname, format($do$
    execute %L;
    %s
    if exists (
        select from pg_catalog.pg_shdepend as s
        where s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass and s.refobjid = %s
          and s.dbid = (select d.oid from pg_catalog.pg_database as d
                        where d.datname = pg_catalog.current_database())) then
        raise exception using
            errcode = 'dependent_objects_still_exist',
            message = %L,
            hint = 'Run the rows of ensure.plan_retire_role_v1 here: they have a statement for it.';
    end if;$do$,
           format('reassign owned by %I to %I', pg_get_userbyid(role_oid), heir),
           ensure._drop_owned_v1(role_oid), role_oid,
           format('role "%s" has something here that DROP OWNED leaves',
                  pg_get_userbyid(role_oid)))),
       format('%s there depend on role %I; ensure.plan_retire_role_v1, called there, has a'
              ' statement for each',
              case count(*) when 1 then '1 object' else count(*) || ' objects' end,
              pg_get_userbyid(role_oid))
from (
    select s.dbid, s.classid, s.objid from pg_shdepend as s
    where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid
    union
    select u.subdbid, s.classid, s.objid from pg_shdepend as s
    join pg_subscription as u on s.classid = 'pg_subscription'::regclass and u.oid = s.objid
    where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid
) as s
join pg_database as d on d.oid = s.dbid and d.datname <> current_database()
group by d.datname
order by d.datname
$fn$;

comment on function ensure._retire_elsewhere_v1(oid, name) is
    'For each other database, a statement that moves and purges all there.';

create function ensure._retire_purge_v1(
    role_oid oid
)
returns table (statement text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_purge_v1: the statement that takes the role out of ACLs, policies and defaults here.
--
-- Returns  no row when DROP OWNED BY would change nothing: the owners' grants are all that it
--          revokes. The statement fails in another database, where DROP OWNED would drop objects,
--          or revoke what others have, and where this role may revoke nothing of it
select ensure._only_here_v1(current_database(), format($do$
    declare
        v_before bigint;
        v_after bigint;
    begin
        select count(*) into v_before from pg_shdepend as s
        where s.refclassid = 'pg_authid'::regclass and s.refobjid = %1$s;
        %2$s
        select count(*) into v_after from pg_shdepend as s
        where s.refclassid = 'pg_authid'::regclass and s.refobjid = %1$s;
        if v_after = v_before and not (select r.rolsuper from pg_roles as r
                                          where r.rolname = current_user) then
            raise exception using
                errcode = 'insufficient_privilege',
                message = %3$L,
                hint = 'Run it as a superuser, or revoke them as the owners of what they are on.';
        end if;
    end;$do$, role_oid, ensure._drop_owned_v1(role_oid),
           format('this role may not revoke what role "%s" has', pg_get_userbyid(role_oid)))),
       format('its privileges, default privileges, user mappings, places in policies and'
              ' memberships that it granted: %s', count(*)) || coalesce((
           select '; the owner or a superuser revokes what is on objects of '
                  || string_agg(distinct quote_ident(pg_get_userbyid(h.owner)), ', ')
           from ensure._role_privileges_v1(role_oid) as h
           where h.grantee = role_oid and not pg_has_role(h.owner, 'USAGE')), '')
from pg_shdepend as s
where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid
  and s.dbid in (0, (select d.oid from pg_database as d where d.datname = current_database()))
  and (s.deptype <> 'o'
       or s.classid in ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass))
  and (s.deptype <> 'a'
       or s.classid in ('pg_default_acl'::regclass, 'pg_auth_members'::regclass)
       or exists (select from ensure._role_privileges_v1(role_oid) as h
                  where (h.class, h.object, h.part) = (s.classid, s.objid, s.objsubid)
                    and h.grantee = role_oid and h.grantor = h.owner))
having count(*) > 0
$fn$;

comment on function ensure._retire_purge_v1(oid) is
    'The statement that takes the role out of ACLs, policies and defaults here.';

create function ensure._retire_last_v1(
    role_oid oid
)
returns table (statement text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_last_v1: DROP ROLE, or a statement that fails where something still pins the role.
with pins (what, pinned) as (
    select format('prepared transaction %L in database %I', x.gid, x.database),
           format('%s prepared transactions, to be committed or rolled back', count(*) over ())
    from pg_prepared_xacts as x
    where x.owner = pg_get_userbyid(role_oid)
    union all
    select concat_ws(', ', pg_describe_object(s.classid, s.objid, s.objsubid),
                     'privileges granted by ' || g.names),
           format('%s dependencies', count(*) over ())
    from pg_shdepend as s
    cross join lateral (
        select string_agg(distinct quote_ident(pg_get_userbyid(h.grantor)), ' and ') as names
        from ensure._role_privileges_v1(case when s.deptype = 'a' then role_oid end) as h
        where (h.class, h.object, h.part) = (s.classid, s.objid, s.objsubid)
          and role_oid in (h.grantee, h.grantor)) as g
    where s.refclassid = 'pg_authid'::regclass and s.refobjid = role_oid
      and s.dbid in (0, (select d.oid from pg_database as d where d.datname = current_database()))
), words as (
    select format('role "%s" is still needed: ', pg_get_userbyid(role_oid))
           || string_agg(p.what, '; ') as problem
    from (select p.what from pins as p order by p.what limit 5) as p
)
select case when w.problem is null then format('drop role %I', pg_get_userbyid(role_oid))
            else ensure._do_v1(format($do$raise exception using
        errcode = 'dependent_objects_still_exist',
        message = %L,
        hint = 'Mend that, then ask ensure.plan_retire_role_v1 again.';$do$, w.problem)) end,
       coalesce(w.problem || format(' (%s)', (select string_agg(distinct p.pinned, ', ')
                                              from pins as p)),
                'nothing depends on it, its memberships go with it' || coalesce((
                    select '; prepared transactions that may hold it: '
                           || string_agg(format('%L in database %I', x.gid, x.database), ', '
                                         order by x.prepared)
                    from (select x.* from pg_prepared_xacts as x order by x.prepared limit 5) as x),
                    ''))
from words as w
$fn$;

comment on function ensure._retire_last_v1(oid) is
    'DROP ROLE, or a statement that fails where something still pins the role.';

create function ensure._retire_steps_v1(
    role_oid oid,
    heir name
)
returns table (statement text, locks text, why text, database name, missing text, remedy text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _retire_steps_v1: the next statements that retire a role, up to the first barrier.
declare
    c_name constant name := pg_get_userbyid(role_oid);
    c_may record := ensure._lacks_role_v1(c_name);
    c_lacks constant text := case when not pg_has_role(role_oid, 'USAGE')
                                  then 'the rights of role ' || quote_ident(c_name) end;
    c_gives constant text := format('grant %s to %I', quote_ident(c_name), current_user);
    v_found boolean;
begin
    if role_oid is null then
        return;
    end if;
    return query
    select format('alter role %I nologin connection limit 0', c_name), null, 'keeps it from coming'
           ' back; sessions that it has go on'
               || coalesce('; later rows take ' || c_lacks || ': ' || c_gives, ''),
           current_database(), c_may.missing, c_may.remedy
    from pg_roles as r where r.oid = role_oid and (r.rolcanlogin or r.rolconnlimit <> 0);
    if found then
        return;
    end if;
    return query
    select format('select pg_catalog.count(*) as waiting from (select'
                  ' pg_catalog.pg_terminate_backend(a.pid, 5000::pg_catalog.int8)'
                  ' from pg_catalog.pg_stat_activity as a'
                  ' where a.usesysid operator(pg_catalog.=) %s::pg_catalog.oid'
                  ' and a.pid operator(pg_catalog.<>) pg_catalog.pg_backend_pid()'
                  ' and coalesce(a.backend_type, %L::pg_catalog.text) operator(pg_catalog.=)'
                  ' any (%L::pg_catalog.text[]) offset 0) as t', role_oid,
                  'client backend', '{client backend,walsender}'), null::text,
           format('%s sessions, pids %s', count(*), string_agg(a.pid::text, ', ' order by a.pid)),
           current_database(),
           case when not pg_has_role(role_oid, 'USAGE')
                     and not pg_has_role('pg_signal_backend', 'USAGE')
                then 'pg_signal_backend' end,
           format('grant pg_signal_backend to %I', current_user)
    from pg_stat_activity as a
    where a.usesysid = role_oid and coalesce(a.backend_type, 'client backend')
                                    in ('client backend', 'walsender')
    having count(*) > 0;
    if found then
        return;
    end if;
    return query
    select g.statement, null::text, g.why, current_database(), g.missing, g.remedy
    from ensure._retire_grants_v1(role_oid) as g;
    if found then
        return;
    end if;
    return query
    select m.statement, m.locks, m.why, current_database(), null::text, null::text
    from ensure._retire_moves_v1(role_oid, heir) as m;
    if not found then
        return query
        select r.statement, null::text, r.why, current_database(), r.missing, r.remedy
        from ensure._retire_revokes_v1(role_oid) as r;
    end if;
    if not found then
        return query
        select p.statement, null::text, p.why, current_database(), c_lacks, c_gives
        from ensure._retire_purge_v1(role_oid) as p;
    end if;
    v_found := found;
    return query
    select e.statement, 'ACCESS EXCLUSIVE on each relation of the role there, at once', e.why,
           e.database, c_lacks, c_gives
    from ensure._retire_elsewhere_v1(role_oid, heir) as e;
    if found or v_found then
        return;
    end if;
    return query
    select l.statement, null::text, l.why, current_database(), c_may.missing, c_may.remedy
    from ensure._retire_last_v1(role_oid) as l;
end
$fn$;

comment on function ensure._retire_steps_v1(oid, name) is
    'The next statements that retire a role, up to the first barrier.';

create function ensure.plan_retire_role_v1(
    role_name name,
    reassign_to name
)
returns table (
    step_number integer,
    statement text,
    in_transaction boolean,
    locks text,
    why text,
    database name
)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- plan_retire_role_v1: the statements that give what the role owns to another one, and drop it.
--
-- Returns  the next steps up to a barrier; no rows when no role has this name: it is retired, or
--          the name is mistyped. database: where to run the statement; one for another database
--          fails here and changes nothing. why: also the right that this role lacks for it, and
--          last what still pins the role. Order: NOLOGIN; its sessions end; what it granted to
--          others is granted again; its objects; what others than owners granted to it is revoked;
--          its privileges and default privileges; DROP ROLE. The heir gets objects, nothing else
-- Errors   22004, 22023, 42602, 42939  bad input; a role that came with the server
--          42704  no such role as reassign_to
--          55006  this session is the role's
-- Locks    none. The statements: ACCESS EXCLUSIVE on one relation each, in another database on all
-- Races    what the role comes to own while a statement runs is never dropped: the statement fails.
--          So it does when the role granted more since the plan; only what commits between that
--          look and DROP OWNED is revoked
-- Rights   any role may ask
select (row_number() over ())::integer, s.statement, true, s.locks,
       concat_ws('; ', s.why, 'this role lacks ' || s.missing,
                 case when s.missing is not null then 'first run ' || s.remedy end), s.database
from ensure._retire_steps_v1(ensure._check_retired_v1(role_name, reassign_to), reassign_to) as s
$fn$;

comment on function ensure.plan_retire_role_v1(name, name) is
    'The statements that give what the role owns to another one, and drop it.';

-- migrate:down
drop function ensure.plan_retire_role_v1(name, name);
drop function ensure._retire_steps_v1(oid, name);
drop function ensure._retire_last_v1(oid);
drop function ensure._retire_purge_v1(oid);
drop function ensure._retire_elsewhere_v1(oid, name);
drop function ensure._drop_owned_v1(oid);
