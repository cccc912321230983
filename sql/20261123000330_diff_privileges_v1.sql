-- migrate:up
create function ensure._diff_privileges_v1(
    grantee text,
    access text[],
    schemas oid[],
    exact boolean,
    revoke_public boolean
)
returns setof ensure._change_v1
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_privileges_v1: the statements that give grantee the asked privileges on what is there.
--
-- Returns  one GRANT for each object, but one for each privilege where this role has not the
--          owner's: PostgreSQL takes one grantor for a statement, and grants what that one may
with differing as (
    select d.*, d.action = 'grant' as gives, pg_has_role(d.owner, 'USAGE') as owns,
           case
               when d.class in ('table', 'sequence') then
                   (select format('%I.%I', n.nspname, c.relname) from pg_class as c
                    join pg_namespace as n on n.oid = c.relnamespace where c.oid = d.oid)
               when d.class = 'routine' then
                   (select format('%I.%I(%s)', n.nspname, p.proname, case
                               when p.prokind = 'p' then ensure._arguments_v1(p.oid) -- OUT counts
                               else (select string_agg(format_type(a.type, null), ', '
                                                       order by a.place)
                                     from unnest(p.proargtypes)
                                          with ordinality as a (type, place)) end)
                    from pg_proc as p
                    join pg_namespace as n on n.oid = p.pronamespace where p.oid = d.oid)
               when d.class = 'type' then
                   (select format('%I.%I', n.nspname, t.typname) from pg_type as t
                    join pg_namespace as n on n.oid = t.typnamespace where t.oid = d.oid)
               when d.class = 'schema' then
                   (select quote_ident(n.nspname) from pg_namespace as n where n.oid = d.oid)
               else quote_ident(current_database()) end as name
    from ensure._differing_privileges_v1(to_regrole(quote_ident(grantee)), access, schemas, exact,
                                         revoke_public) as d
), parts as (
    select d.*, d.privileges as part, 0 as part_place
    from differing as d
    where d.owns or not d.gives
    union all
    select d.*, array[p.privilege], p.place
    from differing as d
    cross join unnest(d.privileges) with ordinality as p (privilege, place)
    where not d.owns and d.gives
), changes as (
    select p.*,
           format('%s%s on %s %s for %s',
                  case when p.action like '% option %' then 'GRANT OPTION FOR ' end,
                  array_to_string(p.part, ', '), p.kind, p.name, w.who) as object,
           format('%s %s on %s %s %s %s', p.action, array_to_string(p.part, ', '), p.class, p.name,
                  case when p.gives then 'to' else 'from' end, w.grantee) as statement,
           format('%s on %s %s', array_to_string(p.part, ', '), p.class, p.name) as privilege,
           ensure._holds_privilege_v1(to_regrole(quote_ident(current_user)), p.class, p.oid, case
               when p.gives and not p.owns then p.part[1] || ' WITH GRANT OPTION'
               when p.class in ('table', 'sequence') then 'SELECT'
               when p.class = 'routine' then 'EXECUTE'
               when p.class = 'database' then 'CONNECT'
               else 'USAGE' end) as holds
    from parts as p
    cross join lateral (
        select case when p.to_public then 'PUBLIC' else format('role %I', grantee) end,
               case when p.to_public then 'public' else quote_ident(grantee) end
    ) as w (who, grantee)
)
select row(c.object,
           case when c.gives then 'granted' else 'revoked' end,
           c.statement,
           null,
           case m.what
               when 'owner' then format('the privileges of role %I, the owner%s', r.owner,
                                        case when c.gives then ', or WITH GRANT OPTION' end)
               when 'grantor' then format('to be role %I, who granted it,', r.grantor)
               when 'usage' then format('USAGE on schema %I', c.schema::regnamespace) end,
           case m.what
               when 'owner' then coalesce(ensure._inherit_remedy_v1(c.owner),
                   case when c.gives then format('grant %s to %I with grant option', c.privilege,
                                                 current_user) end)
               when 'grantor' then format('set role %I; %s; reset role', r.grantor, c.statement)
               when 'usage' then format('grant usage on schema %s to %I', c.schema::regnamespace,
                                        current_user) end,
           true,
           case when c.class in ('table', 'sequence') then c.oid::regclass end)::ensure._change_v1
from changes as c
cross join lateral (
    select case
        when c.gives and not c.owns and not c.holds then 'owner'
        when not c.gives and c.grantor = c.owner and not c.owns then 'owner'
        when not c.gives and c.grantor <> c.owner
             and (c.owns or c.grantor <> to_regrole(quote_ident(current_user))) then 'grantor'
        when c.class not in ('schema', 'database')
             and not has_schema_privilege(c.schema, 'USAGE')
             and not (c.gives and grantee = current_user -- an owner gives it to itself first
                      and (select pg_has_role(n.nspowner, 'USAGE') from pg_namespace as n
                           where n.oid = c.schema)) then 'usage' end
) as m (what)
cross join lateral (select pg_get_userbyid(c.owner), pg_get_userbyid(c.grantor)
                   ) as r (owner, grantor)
where c.holds is not null
order by c.place, c.oid, c.action, c.to_public, c.part_place, c.statement
$fn$;

comment on function ensure._diff_privileges_v1(text, text[], oid[], boolean, boolean) is
    'The statements that give grantee the asked privileges on what is there.';

create function ensure._granted_on_v1(
    grantee text,
    schemas oid[]
)
returns table (place bigint, granted text, statement text, granter name)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _granted_on_v1: what grantee has granted on to others of what it has in these schemas.
--
-- Returns  granted in words; the statement with which granter takes it back; what others have
--          passed on in turn comes first
with recursive objects as (
    select o.class, o.oid, o.acl
    from (select k.class, v.* from ensure._grant_kinds_v1() as k
          cross join lateral ensure._grant_objects_v1(schemas, array[k.kind]) as v
          where k.kind <> 'database') as o
    where o.owner <> to_regrole(quote_ident(grantee))
      and (o.class = 'schema' or o.schema <> 'ensure'::regnamespace)
), entries as materialized (
    select o.class, o.oid, '' as part, e.*
    from objects as o
    cross join lateral aclexplode(o.acl) as e
    union all
    select o.class, o.oid, format(' (%I)', a.attname), e.*
    from objects as o
    join pg_attribute as a on a.attrelid = o.oid and o.class = 'table' and a.attacl is not null
    cross join lateral aclexplode(a.attacl) as e
), granted as (
    select 1 as depth, e.class, e.oid, e.part, e.privilege_type, e.grantor, e.grantee
    from entries as e
    join entries as h on h.grantee = e.grantor and h.is_grantable
                      and h.part in ('', e.part) -- who may grant a table may grant its columns
                      and row(h.class, h.oid, h.privilege_type)
                          = row(e.class, e.oid, e.privilege_type)
    where e.grantor = to_regrole(quote_ident(_granted_on_v1.grantee))
    union
    select g.depth + 1, e.class, e.oid, e.part, e.privilege_type, e.grantor, e.grantee
    from granted as g
    join entries as e on e.grantor = g.grantee
                      and g.part in ('', e.part)
                      and row(e.class, e.oid, e.privilege_type)
                          = row(g.class, g.oid, g.privilege_type)
    where g.depth < 10
)
select row_number() over (order by n.depth desc, n.what, n.who),
       format('%s has %s by role %I', n.who, n.what, n.granter),
       format('revoke %s from %s', n.what, n.name),
       n.granter
from (select max(g.depth) as depth, pg_get_userbyid(g.grantor),
             format('%s%s on %s %s', g.privilege_type, g.part, g.class, i.identity),
             case when g.grantee = 0 then 'PUBLIC'
                  else format('role %I', pg_get_userbyid(g.grantee)) end,
             case when g.grantee = 0 then 'public'
                  else quote_ident(pg_get_userbyid(g.grantee)) end
      from granted as g
      cross join lateral pg_identify_object(
          case g.class when 'schema' then 'pg_namespace'::regclass
                       when 'routine' then 'pg_proc' when 'type' then 'pg_type'
                       else 'pg_class' end, g.oid, 0) as i
      group by g.grantor, g.grantee, g.privilege_type, g.part, g.class, i.identity
     ) as n (depth, granter, what, who, name)
$fn$;

comment on function ensure._granted_on_v1(text, oid[]) is
    'What grantee has granted on to others of what it has in these schemas.';

create function ensure._check_granted_on_v1(
    grantee text,
    schemas oid[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_granted_on_v1: grantee has granted on to others nothing that it has in these schemas.
--
-- Errors   2BP01  it has; DETAIL says to whom, HINT the statements that take it back
declare
    v_count integer;
    v_granted text;
    v_remedies text;
begin
    select count(*),
           string_agg(g.granted, '; ' order by g.place) filter (where g.place <= 5),
           string_agg(format('set role %I; %s', g.granter, g.statement), '; '
                      order by g.place) filter (where g.place <= 5)
    into v_count, v_granted, v_remedies
    from ensure._granted_on_v1(grantee, schemas) as g;
    if v_count > 0 then
        raise exception using
            errcode = 'dependent_objects_still_exist',
            message = format('role "%s" has granted on what is to be revoked from it', grantee),
            detail = format('Granted on: %s. Nothing was changed.',
                            concat(v_granted, '; and ' || nullif(greatest(v_count - 5, 0), 0)
                                              || ' more')),
            hint = format('Run: %s; reset role.', v_remedies);
    end if;
end
$fn$;

comment on function ensure._check_granted_on_v1(text, oid[]) is
    'Grantee has granted on to others nothing that it has in these schemas.';

-- migrate:down
drop function ensure._check_granted_on_v1(text, oid[]);
drop function ensure._granted_on_v1(text, oid[]);
drop function ensure._diff_privileges_v1(text, text[], oid[], boolean, boolean);
