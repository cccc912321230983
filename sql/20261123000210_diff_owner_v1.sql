-- migrate:up
create function ensure._may_stay_v1(
    new_owner oid,
    namespace oid,
    inherits boolean,
    out creates boolean,
    out uses boolean
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _may_stay_v1: whether new_owner may create in the schema, and this role use it, once it is his.
--
-- Returns  inherits: this role has what new_owner has. What the schema's owner has by its ACL goes
--          to the new one, who may not exist yet
select coalesce(s.nspowner = new_owner and has_schema_privilege(new_owner, s.oid, 'CREATE'), false)
       or coalesce(bool_or(a.privilege_type = 'CREATE'
                           and (a.grantee in (0, s.nspowner)
                                or pg_has_role(new_owner, a.grantee, 'USAGE'))), false),
       has_schema_privilege(s.oid, 'USAGE')
       and (coalesce(s.nspowner = new_owner, false)
            or coalesce(bool_or(a.privilege_type = 'USAGE' and case a.grantee
                when 0 then true
                when s.nspowner then inherits
                else pg_has_role(a.grantee, 'USAGE') end), false))
from pg_namespace as s
cross join aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) as a
where s.oid = namespace
group by s.oid, s.nspowner
$fn$;

comment on function ensure._may_stay_v1(oid, oid, boolean) is
    'Whether new_owner may create in the schema, and this role use it, once it is his.';

create function ensure._lacks_owner_v1(
    new_owner_name text,
    owner oid,
    namespace oid,
    is_schema boolean,
    moves boolean,
    joined text[],
    out missing text,
    out remedy text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lacks_owner_v1: what this role lacks to give an object of owner, in a schema, to another role.
--
-- Returns  nulls when nothing is missing. moves: the schema is given away before. joined: roles
--          that this one is a member of by then. A role that does not exist yet is made by the
--          same document; from 16 on this role may become it where createrole_self_grant says so
declare
    c_new constant oid := to_regrole(quote_ident(new_owner_name));
    c_old_server constant boolean := current_setting('server_version_num')::integer < 160000;
    c_self_grant constant text := coalesce(current_setting('createrole_self_grant', true), '');
    c_schema constant text := (select s.nspname from pg_namespace as s where s.oid = namespace);
    v_stays record;
begin
    if ensure._superuser_v1() then
        return;
    elsif not pg_has_role(owner, 'USAGE') and pg_get_userbyid(owner) <> all (joined) then
        missing := format('the rights of role %I', pg_get_userbyid(owner));
        remedy := format('grant %I to %I', pg_get_userbyid(owner), current_user)
                  || case when not c_old_server then ' with inherit true' else '' end;
        if (select bool_or(r.rolsuper) from pg_roles as r where r.oid = owner) then
            missing := 'SUPERUSER';
            remedy := null; -- a superuser does it
        end if;
        return;
    elsif new_owner_name <> all (joined)
          and not coalesce(pg_has_role(c_new, case when c_old_server then 'MEMBER' else 'SET' end),
                           not c_old_server and c_self_grant ~* '\mset\M') then
        missing := format(case when c_old_server then 'membership in role %I' else 'SET on role %I'
                          end, new_owner_name)
                   || case when c_new is null then ', that the same document makes' else '' end;
        remedy := case when c_new is not null
                       then format('grant %I to %I', new_owner_name, current_user)
                            || case when c_old_server then '' else ' with set true' end
                       when not c_old_server
                       then 'set createrole_self_grant = ''set, inherit''' end;
        return;
    elsif is_schema then
        if not has_database_privilege(current_database(), 'CREATE') then
            missing := format('CREATE on database %I', current_database());
            remedy := format('grant create on database %I to %I', current_database(), current_user);
        end if;
        return;
    end if;
    if moves then
        v_stays := ensure._may_stay_v1(
            c_new, namespace, new_owner_name = any (joined)
                              or coalesce(pg_has_role(c_new, 'USAGE'),
                                          c_old_server or c_self_grant ~* '\minherit\M'));
    else
        select has_schema_privilege(c_new, namespace, 'CREATE') as creates,
               has_schema_privilege(namespace, 'USAGE') as uses into v_stays;
    end if;
    if not v_stays.uses then
        missing := format('USAGE on schema %I', c_schema);
        -- What is granted to the owner goes to the new one: it is of no use to this role.
        remedy := case
            when not moves or current_user <> (select pg_get_userbyid(s.nspowner)
                                               from pg_namespace as s where s.oid = namespace)
                then format('grant usage on schema %I to %I', c_schema, current_user)
            when c_old_server then format('alter role %I inherit', current_user)
            when c_new is null then 'set createrole_self_grant = ''set, inherit'''
            else format('grant %I to %I with inherit true', new_owner_name, current_user) end;
    elsif not v_stays.creates then
        missing := format('CREATE on schema %I for role %I', c_schema, new_owner_name);
        remedy := format('grant create on schema %I to %I', c_schema, new_owner_name);
    end if;
end
$fn$;

comment on function ensure._lacks_owner_v1(text, oid, oid, boolean, boolean, text[]) is
    'What this role lacks to give an object of owner, in a schema, to another role.';

create function ensure._arguments_v1(
    procedure oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _arguments_v1: the arguments of a procedure, each type with its schema.
select coalesce(string_agg(format('%s %s', case a.mode when 'o' then 'out' when 'b' then 'inout'
                                                       when 'v' then 'variadic' else 'in' end,
                                  t.identity), ', ' order by a.place), '')
from pg_proc as p
cross join unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes)
           with ordinality as a (type, mode, place)
cross join pg_identify_object('pg_type'::regclass, a.type, 0) as t
where p.oid = procedure
$fn$;

comment on function ensure._arguments_v1(oid) is
    'The arguments of a procedure, each type with its schema.';

create function ensure._owner_statement_v1(
    class oid,
    object oid,
    kind "char",
    new_owner_name text,
    out described text,
    out statement text
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _owner_statement_v1: an object in words, and the statement that gives it to another owner.
select format('%s %s', i.type, i.identity),
       format('alter %s %s owner to %I',
              case when class = 'pg_proc'::regclass then 'routine'
                   else replace(i.type, 'statistics object', 'statistics') end,
              case when kind = 'p' and class = 'pg_proc'::regclass -- OUT says which of two it is
                   then (select format('%s.%I(%s)', i.schema, p.proname, a.arguments)
                         from pg_proc as p
                         cross join ensure._arguments_v1(p.oid) as a (arguments)
                         where p.oid = object)
                   else i.identity end,
              new_owner_name)
from pg_identify_object(class, object, 0) as i
$fn$;

comment on function ensure._owner_statement_v1(oid, oid, "char", text) is
    'An object in words, and the statement that gives it to another owner.';

create function ensure._foreign_routines_v1(
    schemas oid[],
    new_owner text,
    excluded_routines oid[]
)
returns table (routine oid, definer boolean, owner name, schema_owner name)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _foreign_routines_v1: routines of roles that new_owner need not trust.
--
-- Returns  not those of superusers, nor aggregates, which have no rights; nor those of the schema's
--          owner, but when new_owner is a superuser
select p.oid, p.prosecdef, r.rolname, pg_get_userbyid(n.nspowner)
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
join pg_roles as r on r.oid = p.proowner
where p.pronamespace = any (schemas) and p.prokind <> 'a' and p.oid <> all (excluded_routines)
  and not r.rolsuper and r.rolname <> new_owner
  and (coalesce((select bool_or(o.rolsuper) from pg_roles as o where o.rolname = new_owner),
               false)
       or p.proowner <> n.nspowner
          and not (n.nspowner = to_regrole('pg_database_owner')
                   and p.proowner in (select d.datdba from pg_database as d
                                     where d.datname = current_database())))
  and not exists (select from pg_depend as e
                  where e.classid = 'pg_proc'::regclass and e.objid = p.oid
                    and e.refclassid = 'pg_extension'::regclass and e.deptype = 'e')
$fn$;

comment on function ensure._foreign_routines_v1(oid[], text, oid[]) is
    'Routines of roles that new_owner need not trust.';

create function ensure._check_definers_v1(
    schemas oid[],
    new_owner text,
    excluded_routines oid[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_definers_v1: new_owner comes to run nothing that others may have planted for it.
--
-- Errors   42501  a SECURITY DEFINER routine of a role that is no superuser, and neither owns the
--                 schema nor is new_owner; when new_owner is a superuser also of the schema's owner
declare
    v_bad record;
begin
    select f.routine::regprocedure::text as routine, f.owner,
           case when f.owner <> f.schema_owner then f.schema_owner end as schema_owner into v_bad
    from ensure._foreign_routines_v1(schemas, new_owner, excluded_routines) as f
    where f.definer
    order by 1
    limit 1;
    if v_bad.routine is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('SECURITY DEFINER routine "%s" belongs to role "%s"', v_bad.routine,
                             v_bad.owner),
            detail = format('It would run what role "%s" wrote with the rights of role "%s".',
                            v_bad.owner, new_owner),
            hint = format('Name it in excluded_routines, alter it to SECURITY INVOKER, or, if it is'
                          ' trusted, give it to role "%s" first.',
                          coalesce(v_bad.schema_owner, new_owner));
    end if;
end
$fn$;

comment on function ensure._check_definers_v1(oid[], text, oid[]) is
    'new_owner comes to run nothing that others may have planted for it.';

create function ensure._diff_owner_v1(
    wanted jsonb,
    known text[],
    joined text[]
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_owner_v1: the statements that give schemas, and what is in them, to one owner.
--
-- Returns  joined: roles that this one will be a member of, with SET and INHERIT, by then
-- Errors   as listed by ensure_owner_v1
declare
    c_name constant text := wanted ->> 'new_owner';
    v_wanted record;
begin
    v_wanted := ensure._check_owner_v1(wanted, known);
    return query
    with o as materialized (
        select o.*
        from ensure._owned_objects_v1(v_wanted.schemas, coalesce(v_wanted.new_owner, 0),
                                      v_wanted.excluded, v_wanted.excluded_routines)
             with ordinality as o (class, object, owner, namespace, kind, place)
    ), needs as materialized (
        select g.*, l.missing, l.remedy
        from (select distinct o.owner, o.namespace, o.class = 'pg_namespace'::regclass as is_schema
              from o) as g
        cross join ensure._lacks_owner_v1(c_name, g.owner, g.namespace, g.is_schema, true,
                                          joined) as l
    ), h as materialized (
        select h.* from ensure._hypertables_v1() as h
    )
    select format('owner of %s', s.described), 'altered',
           case when h.kind = 'continuous aggregate'
                then format('alter materialized view %s owner to %I', o.object::regclass, c_name)
                -- Its owner may replace it until the statement runs.
                when f.routine is not null
                then format('%s security invoker; %s', k.kept, s.statement)
                else s.statement end,
           case when o.class = 'pg_class'::regclass then o.object::regclass end,
           coalesce(n.missing, l.missing, case when f.definer then format(
               'trust in role %I, whose SECURITY DEFINER routine it is', f.owner) end),
           case when n.missing is not null then n.remedy
                when l.missing is not null then format('alter role %I login', c_name)
                when f.definer then k.kept || ' security invoker' end,
           true,
           null::regclass
    from o
    join needs as n on n.owner = o.owner and n.namespace = o.namespace
                    and n.is_schema = (o.class = 'pg_namespace'::regclass)
    cross join ensure._owner_statement_v1(o.class, o.object, o.kind, c_name) as s
    cross join lateral left(s.statement, -length(format(' owner to %I', c_name))) as k (kept)
    left join (select distinct h.relation, h.kind from h) as h
         on h.relation = o.object and o.class = 'pg_class'::regclass
    left join ensure._foreign_routines_v1(v_wanted.schemas, c_name,
                                          v_wanted.excluded_routines) as f
         on f.routine = o.object and o.class = 'pg_proc'::regclass
    cross join lateral (
        select case when h.relation is not null -- whose jobs run as their owner
                         and not (select bool_or(r.rolcanlogin) from pg_roles as r
                                  where r.rolname = c_name)
                    then format('LOGIN of role %I', c_name) end as missing) as l
    order by o.place;
    return query
    select format('owner of job %s of %s', h.job_id, h.relation::regclass), 'altered',
           format('update %s set owner = %L where id operator(pg_catalog.=) %s',
                  h.job_table, case when h.owner_type = 'regrole'::regtype then quote_ident(c_name)
                       else c_name end, h.job_id),
           null::regclass, case when not ensure._superuser_v1() then 'SUPERUSER' end, null::text,
           true,
           null::regclass
    from ensure._hypertables_v1() as h
    join pg_class as c on c.oid = h.relation
    where c.relnamespace = any (v_wanted.schemas) and c.oid <> all (v_wanted.excluded)
      and h.job_owner <> case when h.owner_type = 'regrole'::regtype then quote_ident(c_name)
                              else c_name end
      and (not h.follows or c.relowner = v_wanted.new_owner)
    order by h.job_id;
end
$fn$;

comment on function ensure._diff_owner_v1(jsonb, text[], text[]) is
    'The statements that give schemas, and what is in them, to one owner.';

-- migrate:down
drop function ensure._diff_owner_v1(jsonb, text[], text[]);
drop function ensure._check_definers_v1(oid[], text, oid[]);
drop function ensure._foreign_routines_v1(oid[], text, oid[]);
drop function ensure._owner_statement_v1(oid, oid, "char", text);
drop function ensure._arguments_v1(oid);
drop function ensure._lacks_owner_v1(text, oid, oid, boolean, boolean, text[]);
drop function ensure._may_stay_v1(oid, oid, boolean);
