import type { Session } from '../scripts/harness/sessions.js';

/** What a DBA can see of the tables of a schema, a line each, without oids: equal lines, equal tables. */
export async function linesOf(session: Session, schema: string): Promise<string[]> {
    const rows = await session.run(`
        set search_path = pg_catalog;
        with tables as (
            select c.*, c.oid::regclass::text as name from pg_class as c where c.relnamespace = '${schema}'::regnamespace
        ), acls (place, acl) as (
            select c.name, coalesce(c.relacl, acldefault('r', c.relowner)) from tables as c where c.relkind <> 'i'
            union all
            select c.name || '.' || a.attname, a.attacl from tables as c join pg_attribute as a on a.attrelid = c.oid where a.attacl is not null
        )
        select t.line from (
            select concat_ws(' ', 'table', c.name, c.relkind, c.relowner::regrole, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
                             c.relpersistence, c.relispartition, c.reloptions, c.reltablespace, m.amname, i.inhparent::regclass,
                             pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid), obj_description(c.oid, 'pg_class'))
            from tables as c left join pg_am as m on m.oid = c.relam left join pg_inherits as i on i.inhrelid = c.oid
            union all
            select concat_ws(' ', 'column', c.name, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                             a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression, nullif(a.attstattarget, -1),
                             a.attislocal, a.attinhcount, a.attoptions, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
            from tables as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
            where c.relkind <> 'i'
            union all
            select concat_ws(' ', 'index', pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisreplident, x.indisclustered, i.inhparent::regclass)
            from tables as c join pg_index as x on x.indrelid = c.oid left join pg_inherits as i on i.inhrelid = x.indexrelid
            union all
            select concat_ws(' ', 'constraint', c.name, k.conname, pg_get_constraintdef(k.oid), k.conislocal, k.coninhcount,
                             case when k.contype in ('c', 'n') then k.connoinherit end, k.convalidated, p.conname)
            from tables as c join pg_constraint as k on k.conrelid = c.oid left join pg_constraint as p on p.oid = k.conparentid
            union all
            select concat_ws(' ', 'trigger', c.name, pg_get_triggerdef(g.oid), g.tgenabled, g.tgparentid <> 0)
            from tables as c join pg_trigger as g on g.tgrelid = c.oid where not g.tgisinternal
            union all
            select concat_ws(' ', 'policy', c.name, p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[],
                             pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))
            from tables as c join pg_policy as p on p.polrelid = c.oid
            union all
            select concat_ws(' ', 'statistics', pg_get_statisticsobjdef(s.oid), s.stxstattarget)
            from tables as c join pg_statistic_ext as s on s.stxrelid = c.oid
            union all
            select concat_ws(' ', 'grant', a.place, g.grantor::regrole, g.grantee::regrole, g.privilege_type, g.is_grantable)
            from acls as a cross join aclexplode(a.acl) as g
        ) as t (line) order by t.line collate "C"`);
    await session.run('reset search_path');
    return rows.map((row) => String(row.line));
}
