-- migrate:up
create function ensure._differing_defaults_v1(
    grantee text,
    access text[],
    schemas oid[],
    creators text[],
    exact boolean,
    revoke_public boolean
)
returns table (creator text, schema oid, future text, action text, to_public boolean,
               privileges text[])
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _differing_defaults_v1: what is to change for objects that are yet to be made to be as asked.
--
-- Returns  schema: null for what holds in all schemas. What exact revokes may be of any creator in
--          these schemas, of these creators in all. What a creator makes it has by its defaults for
--          all schemas, which are PostgreSQL's own where it has none
with futures as (
    select f.future, f.objtype, array(
               select p.privilege
               from ensure._grant_words_v1() with ordinality as w (word, kinds, privileges, place)
               cross join unnest(w.privileges) with ordinality as p (privilege, place)
               where w.word = any (access)
                 and w.kinds && array(select k.kind from ensure._grant_kinds_v1() as k
                                      where k.future = f.future)
               group by p.privilege
               order by min(w.place), min(p.place)) as asked
    from (values ('tables', 'r'::"char"), ('sequences', 'S'), ('functions', 'f'), ('types', 'T')
         ) as f (future, objtype)
), defaults as (
    select pg_get_userbyid(d.defaclrole)::text as creator, d.defaclnamespace as schema, f.future,
           e.grantee = 0 as to_public, e.privilege_type as privilege, e.is_grantable,
           case when pg_get_userbyid(d.defaclrole) = any (creators) then f.asked
                else '{}' end as allowed
    from pg_default_acl as d
    join futures as f on f.objtype = d.defaclobjtype
    cross join lateral aclexplode(d.defaclacl) as e
    where (d.defaclnamespace = any (schemas)
           or d.defaclnamespace = 0 and pg_get_userbyid(d.defaclrole) = any (creators))
      and e.grantee in (0, to_regrole(quote_ident(_differing_defaults_v1.grantee))::oid)
)
select c.creator, s.schema, f.future, 'grant', false, m.missing
from unnest(creators) as c (creator)
cross join unnest(schemas) as s (schema)
cross join futures as f
cross join lateral (select array(
    select p.privilege from unnest(f.asked) with ordinality as p (privilege, place)
    where not exists (select from defaults as d
                      where d.creator = c.creator and d.future = f.future
                        and (d.schema = s.schema or d.schema = 0 and c.creator = grantee)
                        and d.privilege = p.privilege and not d.to_public)
    order by p.place)) as m (missing)
where m.missing <> '{}'
  and (c.creator <> grantee or ( -- PostgreSQL takes it for none where nobody is left in it
           select bool_or(d.defaclnamespace = 0) and bool_or(cardinality(d.defaclacl) > 0)
           from pg_default_acl as d
           where d.defaclrole = to_regrole(quote_ident(c.creator)) and d.defaclobjtype = f.objtype
             and d.defaclnamespace in (0, s.schema)))
union all
select d.creator, nullif(d.schema, 0), d.future, a.action, d.to_public,
       array_agg(d.privilege order by d.privilege)
from defaults as d
cross join lateral (select case when not d.to_public and d.privilege = any (d.allowed)
                                then 'revoke grant option for' else 'revoke' end) as a (action)
where case when d.to_public
           then revoke_public and d.creator = any (creators) and d.future <> 'types'
                and (d.schema <> 0 or d.future <> 'functions')
           else exact and d.creator <> grantee and (a.action = 'revoke' or d.is_grantable) end
group by d.creator, d.schema, d.future, a.action, d.to_public
union all
select c.creator, null, 'functions', 'revoke', true, '{EXECUTE}'
from unnest(creators) as c (creator)
left join pg_default_acl as d on d.defaclrole = to_regrole(quote_ident(c.creator))
                             and d.defaclnamespace = 0 and d.defaclobjtype = 'f'
where revoke_public
  and (d.oid is null or cardinality(d.defaclacl) = 0 -- which PostgreSQL takes for none
       or exists (select from aclexplode(d.defaclacl) as e where e.grantee = 0))
$fn$;

comment on function ensure._differing_defaults_v1(text, text[], oid[], text[], boolean, boolean) is
    'What is to change for objects that are yet to be made to be as asked.';

create function ensure._diff_defaults_v1(
    grantee text,
    access text[],
    schemas oid[],
    creators text[],
    exact boolean,
    revoke_public boolean,
    joined text[]
)
returns setof ensure._change_v1
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_defaults_v1: the statements that give grantee the asked privileges on what is to come.
--
-- Returns  joined: roles that this one will be a member of, with SET and INHERIT, by then
-- Rights   those of the creator; before 16 membership is enough, also without INHERIT
select row(concat(format('%s%s on future %s of role %I',
                         case when d.action like '% option %' then 'GRANT OPTION FOR ' end,
                         array_to_string(d.privileges, ', '), d.future, d.creator),
                  ' in schema ' || quote_ident(n.nspname), ' for ', w.who),
           case when d.action = 'grant' then 'granted' else 'revoked' end,
           concat_ws(' ', format('alter default privileges for role %I', d.creator),
                     'in schema ' || quote_ident(n.nspname), d.action,
                     array_to_string(d.privileges, ', '), 'on', d.future,
                     case when d.action = 'grant' then 'to' else 'from' end, w.grantee)
               || case when d.to_public and d.schema is null and d.future = 'functions'
                            and exists (select from pg_default_acl as p
                                        where p.defaclrole = r.creator and p.defaclnamespace = 0
                                          and p.defaclobjtype = 'f'
                                          and not exists (select from aclexplode(p.defaclacl) as e
                                                          where e.grantee <> 0))
                       then format('; alter default privileges for role %I grant EXECUTE on'
                                   ' functions to %I', d.creator, d.creator) -- or it ends empty
                       else '' end,
           null,
           case when r.lacks then format('%s role %I%s',
                case when r.old then 'membership in' else 'INHERIT of' end, d.creator,
                case when r.creator is null then ', that the same document makes' end) end,
           case when r.lacks and r.creator is not null then ensure._inherit_remedy_v1(r.creator)
                when r.lacks and not r.old
                then 'set createrole_self_grant = ''set, inherit''' end,
           true,
           null)::ensure._change_v1
from ensure._differing_defaults_v1(grantee, access, schemas, creators, exact, revoke_public) as d
left join pg_namespace as n on n.oid = d.schema
cross join lateral (
    select case when d.to_public then 'PUBLIC' else format('role %I', grantee) end,
           case when d.to_public then 'public' else quote_ident(grantee) end
) as w (who, grantee)
cross join lateral (
    select v.old, v.creator,
           d.creator <> all (joined)
           and not coalesce(pg_has_role(v.creator, case when v.old then 'MEMBER' else 'USAGE' end),
                            ensure._superuser_v1() or not v.old and coalesce(
                                current_setting('createrole_self_grant', true) ~* '\minherit\M',
                                false))
    from (select current_setting('server_version_num')::integer < 160000,
                 to_regrole(quote_ident(d.creator))::oid) as v (old, creator)
) as r (old, creator, lacks)
order by n.oid is null, d.creator collate "C", n.oid, d.future, d.action, d.to_public
$fn$;

comment on function ensure._diff_defaults_v1(text, text[], oid[], text[], boolean, boolean,
                                             text[]) is
    'The statements that give grantee the asked privileges on what is to come.';

create function ensure._diff_grants_v1(
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
-- _diff_grants_v1: the statements that grant one role what wanted says.
--
-- Errors   as listed by ensure_grants_v1
declare
    v_exact boolean;
    v_public boolean;
    v_access text[];
    v_schemas oid[];
begin
    perform ensure._check_grants_v1(wanted, known);
    v_exact := coalesce(wanted ->> 'mode' = 'exact', false);
    v_public := coalesce((wanted ->> 'revoke_public')::boolean, false);
    v_access := ensure._texts_v1(wanted -> 'access', 'access');
    v_schemas := array(select to_regnamespace(quote_ident(s.name))::oid
                       from unnest(ensure._texts_v1(wanted -> 'schemas', 'schemas')) as s (name));
    return query
        select c.* from ensure._diff_privileges_v1(wanted ->> 'grantee', v_access, v_schemas,
                                                   v_exact, v_public) as c;
    return query
        select c.* from ensure._diff_defaults_v1(
            wanted ->> 'grantee', v_access, array_remove(v_schemas, 'ensure'::regnamespace::oid),
            ensure._texts_v1(wanted -> 'creators', 'creators'), v_exact, v_public, joined) as c;
end
$fn$;

comment on function ensure._diff_grants_v1(jsonb, text[], text[]) is
    'The statements that grant one role what wanted says.';

-- migrate:down
drop function ensure._diff_grants_v1(jsonb, text[], text[]);
drop function ensure._diff_defaults_v1(text, text[], oid[], text[], boolean, boolean, text[]);
drop function ensure._differing_defaults_v1(text, text[], oid[], text[], boolean, boolean);
