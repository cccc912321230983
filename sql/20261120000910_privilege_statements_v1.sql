-- migrate:up
create function ensure._privilege_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _privilege_statements_v1: what gives partition, once it has its owner, the privileges of parent.
--
-- Returns  REVOKE before GRANT; privileges of columns by the name of the column. Who granted does
--          not count. A grant on partition made by another role than its owner is revoked with all
--          the others; on a column only that role can do it, whom GRANTED BY names
-- Locks    none beyond catalog reads
begin
    return query
    with acl as materialized (
        select c.oid = parent as wanted, null::name as attname,
               nullif(x.grantor, c.relowner) as grantor,
               x.grantee = c.relowner as own, x.grantee, x.privilege_type, x.is_grantable
        from pg_class as c
        cross join aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) as x
        where c.oid in (parent, partition)
        union all
        select c.oid = parent, a.attname, nullif(x.grantor, c.relowner),
               x.grantee = c.relowner, x.grantee, x.privilege_type, x.is_grantable
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and not a.attisdropped
        cross join aclexplode(a.attacl) as x
        where c.oid in (parent, partition)
    ), parent_owner (oid) as (
        select c.relowner from pg_class as c where c.oid = parent
    ), wanted as (
        select a.attname, a.grantee, a.own, a.privilege_type, bool_or(a.is_grantable) as grantable
        from acl as a
        where a.wanted
        group by 1, 2, 3, 4
    ), had as (
        select a.attname, case when a.own then o.oid else a.grantee end as grantee,
               a.own, a.privilege_type, bool_or(a.is_grantable) as grantable,
               min(a.grantor::text)::oid as grantor
        from acl as a
        cross join parent_owner as o
        where not a.wanted
        group by 1, 2, 3, 4
    ), difference as (
        select coalesce(w.attname, h.attname) as attname, coalesce(w.grantee, h.grantee) as grantee,
               coalesce(w.own, h.own) as own,
               coalesce(w.privilege_type, h.privilege_type) as privilege_type,
               w.grantee is not null as wanted, coalesce(w.grantable, false) as grantable,
               h.grantee is not null as had, coalesce(h.grantable, false) as had_grantable,
               h.grantor
        from wanted as w
        full join had as h on coalesce(h.attname, '') = coalesce(w.attname, '')
                          and h.grantee = w.grantee and h.privilege_type = w.privilege_type
    ), anew (yes) as ( -- only their grantor could take such grants back one by one
        select exists (select from had as h where h.grantor is not null and h.attname is null)
               and exists (select from difference as d
                           where (d.wanted, d.grantable) <> (d.had, d.had_grantable))
    ), taken as ( -- what a REVOKE takes from the table goes from its columns too
        select d.*,
               not d.own and n.yes or d.had and not d.wanted
               or exists (select from difference as t
                          where d.attname is not null and t.attname is null and t.had
                            and not t.wanted and t.grantee = d.grantee
                            and t.privilege_type = d.privilege_type) as gone,
               d.had_grantable and not d.grantable
               or exists (select from difference as t
                          where d.attname is not null and t.attname is null and t.had_grantable
                            and not t.grantable and t.grantee = d.grantee
                            and t.privilege_type = d.privilege_type) as option_gone,
               n.yes as anew
        from difference as d
        cross join anew as n
    ), steps (rank, form, grantee, item) as (
        select 1, 'revoke %s on %s from %s cascade', t.grantee, 'all'
        from taken as t
        where t.anew and not t.own
        union
        select 2, concat('revoke %s on %s from %s', ' granted by '
                         || replace(quote_ident(pg_get_userbyid(g.oid)), '%', '%%'), ' cascade'),
               t.grantee, concat(lower(t.privilege_type), ' (' || quote_ident(t.attname) || ')')
        from taken as t
        cross join lateral (select case when t.attname is not null then t.grantor end) as g (oid)
        where t.had and not t.wanted and (g.oid is not null or t.own or not t.anew)
        union
        select 3, 'revoke grant option for %s on %s from %s cascade', t.grantee,
               concat(lower(t.privilege_type), ' (' || quote_ident(t.attname) || ')')
        from taken as t
        where t.had_grantable and t.wanted and not t.grantable and not t.gone
        union
        select 4 + t.grantable::integer,
               concat('grant %s on %s to %s', case when t.grantable then ' with grant option' end),
               t.grantee, concat(lower(t.privilege_type), ' (' || quote_ident(t.attname) || ')')
        from taken as t
        where t.wanted
          and (not t.had or t.gone or t.grantable and (not t.had_grantable or t.option_gone))
    )
    select 'privileges',
           format(s.form, string_agg(s.item, ', ' order by s.item), partition,
                  case s.grantee when 0 then 'public'
                                 else quote_ident(pg_get_userbyid(s.grantee)) end)
    from steps as s
    group by s.rank, s.form, s.grantee
    order by s.rank, s.grantee;
end
$fn$;

comment on function ensure._privilege_statements_v1(regclass, regclass) is
    'What gives partition, once it has its owner, the privileges of parent.';

-- migrate:down
drop function ensure._privilege_statements_v1(regclass, regclass);
