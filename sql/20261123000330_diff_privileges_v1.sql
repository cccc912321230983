-- migrate:up
create function ensure._holds_privilege_v1(
    class text,
    oid oid,
    privilege text
)
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _holds_privilege_v1: whether this role has the privilege on the object; null when it is gone.
--
-- Races    it is gone when the current catalogs have it no more, whatever the snapshot: to a
--          superuser some of the functions say true of what is gone
select case
    when class = 'table' then has_table_privilege(oid, privilege)
    when class = 'sequence' then has_sequence_privilege(oid, privilege)
    when class = 'routine' and pg_get_function_identity_arguments(oid) is not null
        then has_function_privilege(oid, privilege)
    when class = 'type' and format_type(oid, null) <> '???' then has_type_privilege(oid, privilege)
    when class = 'schema' and oid::regnamespace::text <> oid::text
        then has_schema_privilege(oid, privilege)
    when class = 'database' then has_database_privilege(oid, privilege) end
$fn$;

comment on function ensure._holds_privilege_v1(text, oid, text) is
    'Whether this role has the privilege on the object; null when it is gone.';

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
                   (select format('%I.%I(%s)', n.nspname, p.proname, (
                               select string_agg(format_type(a.type, null), ', ' order by a.place)
                               from unnest(p.proargtypes) with ordinality as a (type, place)))
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
           ensure._holds_privilege_v1(p.class, p.oid, case
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
               when 'grantor' then format('set role %I; %s', r.grantor, c.statement)
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
             and not has_schema_privilege(c.schema, 'USAGE') then 'usage' end
) as m (what)
cross join lateral (select pg_get_userbyid(c.owner), pg_get_userbyid(c.grantor)
                   ) as r (owner, grantor)
where c.holds is not null
order by c.place, c.oid, c.action, c.to_public, c.part_place, c.statement
$fn$;

comment on function ensure._diff_privileges_v1(text, text[], oid[], boolean, boolean) is
    'The statements that give grantee the asked privileges on what is there.';

-- migrate:down
drop function ensure._diff_privileges_v1(text, text[], oid[], boolean, boolean);
drop function ensure._holds_privilege_v1(text, oid, text);
