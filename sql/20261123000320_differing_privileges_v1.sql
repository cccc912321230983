-- migrate:up
create function ensure._grant_objects_v1(
    schemas oid[],
    kinds text[]
)
returns table (kind text, oid oid, schema oid, owner oid, acl aclitem[])
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _grant_objects_v1: the objects of these kinds in these schemas, and who may do what with them.
--
-- Returns  not what belongs to an extension, nor the constructors of range types, which belong to
--          the superuser; of types no row types and arrays, nor from 17 on multiranges: these have
--          the privileges of another type
select 'database', d.oid, null::oid, d.datdba, coalesce(d.datacl, acldefault('d', d.datdba))
from pg_database as d
where d.datname = current_database() and 'database' = any (kinds)
union all
select 'schema', n.oid, n.oid, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
from pg_namespace as n
where n.oid = any (schemas) and 'schema' = any (kinds)
union all
select k.kind, c.oid, c.relnamespace, c.relowner,
       coalesce(c.relacl, acldefault(case when c.relkind = 'S' then 's'::"char" else 'r' end,
                                     c.relowner))
from pg_class as c
join (values ('r'::"char", 'table'), ('p', 'partitioned table'), ('v', 'view'),
             ('m', 'materialized view'), ('f', 'foreign table'), ('S', 'sequence')
     ) as k (relkind, kind) on k.relkind = c.relkind and k.kind = any (kinds)
where c.relnamespace = any (schemas)
  and not exists (select from pg_depend as d
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
union all
select 'routine', p.oid, p.pronamespace, p.proowner,
       coalesce(p.proacl, acldefault('f', p.proowner))
from pg_proc as p
where p.pronamespace = any (schemas) and 'routine' = any (kinds)
  and not exists (select from pg_depend as d
                  where d.classid = 'pg_proc'::regclass and d.objid = p.oid
                    and d.deptype in ('e', 'i'))
union all
select 'type', t.oid, t.typnamespace, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
from pg_type as t
left join pg_class as c on c.oid = t.typrelid
where t.typnamespace = any (schemas) and 'type' = any (kinds)
  and (t.typtype in ('b', 'd', 'e', 'r') or c.relkind = 'c'
       or t.typtype = 'm' and current_setting('server_version_num')::integer < 170000)
  and not exists (select from pg_type as e where e.typarray = t.oid)
  and not exists (select from pg_depend as d
                  where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
$fn$;

comment on function ensure._grant_objects_v1(oid[], text[]) is
    'The objects of these kinds in these schemas, and who may do what with them.';

create function ensure._holds_privilege_v1(
    holder oid,
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
-- _holds_privilege_v1: whether a role has the privilege on the object; null when it is gone.
--
-- Races    asked of the current catalogs, whatever the snapshot; so is whether it is gone: to a
--          superuser some of the functions say true of what is gone
select case
    when class = 'table' then has_table_privilege(holder, oid, privilege)
    when class = 'sequence' then has_sequence_privilege(holder, oid, privilege)
    when class = 'routine' and pg_get_function_identity_arguments(oid) is not null
        then has_function_privilege(holder, oid, privilege)
    when class = 'type' and format_type(oid, null) <> '???'
        then has_type_privilege(holder, oid, privilege)
    when class = 'schema' and oid::regnamespace::text <> oid::text
        then has_schema_privilege(holder, oid, privilege)
    when class = 'database' then has_database_privilege(holder, oid, privilege) end
$fn$;

comment on function ensure._holds_privilege_v1(oid, text, oid, text) is
    'Whether a role has the privilege on the object; null when it is gone.';

create function ensure._differing_privileges_v1(
    grantee oid,
    access text[],
    schemas oid[],
    exact boolean,
    revoke_public boolean
)
returns table (
    place integer,
    kind text,
    class text,
    oid oid,
    schema oid,
    owner oid,
    action text,
    to_public boolean,
    grantor oid,
    privileges text[]
)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _differing_privileges_v1: what is to be granted and revoked for these objects to be as asked.
--
-- Returns  action: the words before the privileges. An owner has by default all that it has not
--          lost; nothing is taken from it. A table of any kind may have what the words stand for on
--          another kind: default privileges cannot tell. Of schema ensure only the schema itself
with asked as (
    select k.kind, k.place, k.class, coalesce(k.future, k.kind) as family, array(
               select p.privilege
               from ensure._grant_words_v1() with ordinality as w (word, kinds, privileges, place)
               cross join unnest(w.privileges) with ordinality as p (privilege, place)
               where w.word = any (access) and k.kind = any (w.kinds)
               group by p.privilege
               order by min(w.place), min(p.place)) as privileges
    from ensure._grant_kinds_v1() as k
), kinds as materialized (
    select a.*, array(select p.privilege
                      from asked as b cross join unnest(b.privileges) as p (privilege)
                      where b.family = a.family) as allowed
    from asked as a
), objects as materialized (
    select a.place, o.kind, a.class, o.oid, o.schema, o.owner, o.acl, a.privileges as wanted,
           a.allowed
    from kinds as a
    join ensure._grant_objects_v1(schemas, array(
             select a.kind from asked as a
             where a.privileges <> '{}' or a.kind <> 'database' and (exact or revoke_public))
         ) as o on o.kind = a.kind
    where o.kind in ('database', 'schema') or o.schema <> 'ensure'::regnamespace
)
select o.place, o.kind, o.class, o.oid, o.schema, o.owner, 'grant', false, null::oid,
       array(select w.privilege from unnest(o.wanted) with ordinality as w (privilege, place)
             where w.privilege <> all (h.held) order by w.place)
from objects as o
cross join lateral (select array(
    select e.privilege_type from aclexplode(o.acl) as e
    where e.grantee = _differing_privileges_v1.grantee
      and (current_setting('transaction_isolation') = 'read committed' -- an old snapshot otherwise
           or ensure._holds_privilege_v1(e.grantee, o.class, o.oid, e.privilege_type)
              is distinct from false))) as h (held)
where not o.wanted <@ h.held
union all
select o.place, o.kind, o.class, o.oid, o.schema, o.owner, f.action, e.grantee = 0, e.grantor,
       array_agg(e.privilege_type order by e.privilege_type)
from objects as o
cross join lateral aclexplode(o.acl) as e
cross join lateral (select case when e.grantee <> 0 and e.privilege_type = any (o.allowed)
                                then 'revoke grant option for' else 'revoke' end) as f (action)
where (exact or revoke_public)
  and case when e.grantee = 0 then revoke_public and o.class <> 'type'
                and (o.class <> 'database' or e.privilege_type = any (o.wanted))
           else exact and e.grantee = _differing_privileges_v1.grantee
                and o.owner <> e.grantee and o.class <> 'database'
                and (f.action = 'revoke' or e.is_grantable) end
group by o.place, o.kind, o.class, o.oid, o.schema, o.owner, f.action, e.grantee, e.grantor
union all
select o.place, o.kind, o.class, o.oid, o.schema, o.owner, 'revoke', r.to_public, r.grantor,
       array_agg(format('%s (%s)', r.privilege_type, r.columns) order by r.privilege_type)
from (
    select a.attrelid, e.grantee = 0 as to_public, e.grantor, e.privilege_type,
           string_agg(quote_ident(a.attname), ', ' order by a.attnum) as columns
    from pg_attribute as a
    cross join lateral aclexplode(a.attacl) as e
    where a.attacl is not null and not a.attisdropped and (exact or revoke_public)
      and (exact and e.grantee = _differing_privileges_v1.grantee
           or revoke_public and e.grantee = 0)
    group by a.attrelid, e.grantee, e.grantor, e.privilege_type
) as r
join objects as o on o.oid = r.attrelid and o.class = 'table'
where r.to_public or o.owner <> _differing_privileges_v1.grantee
group by o.place, o.kind, o.class, o.oid, o.schema, o.owner, r.to_public, r.grantor
$fn$;

comment on function ensure._differing_privileges_v1(oid, text[], oid[], boolean, boolean) is
    'What is to be granted and revoked for these objects to be as asked.';

-- migrate:down
drop function ensure._differing_privileges_v1(oid, text[], oid[], boolean, boolean);
drop function ensure._holds_privilege_v1(oid, text, oid, text);
drop function ensure._grant_objects_v1(oid[], text[]);
