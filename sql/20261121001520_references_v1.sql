-- migrate:up
create function ensure._not_null_v1(
    relation oid,
    attnum int2
)
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _not_null_v1: no row has a null in the column.
--
-- Returns  false for NOT NULL that is NOT VALID, though pg_attribute says the same of it
select a.attnotnull and not exists (select from pg_constraint as n
                                    where n.conrelid = a.attrelid and n.contype = 'n'
                                      and n.conkey[1] = a.attnum and not n.convalidated)
from pg_attribute as a
where a.attrelid = _not_null_v1.relation and a.attnum = _not_null_v1.attnum
$fn$;

comment on function ensure._not_null_v1(oid, int2) is 'No row has a null in the column.';

create function ensure._row_index_v1(
    target regclass,
    columns name[]
)
returns oid
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_index_v1: the unique index that tells rows apart by columns, or by any that are not null.
--
-- Returns  the primary key, else the first by number of columns; columns in any order, null for any
select i.indexrelid
from pg_index as i
cross join lateral (
    select array_agg(a.attname) as names,
           bool_and(ensure._not_null_v1(i.indrelid, k.attnum)) as filled
    from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where k.place <= i.indnkeyatts) as n
where i.indrelid = target and i.indisunique and i.indisvalid and i.indimmediate
  and i.indpred is null and i.indexprs is null
  and case when columns is null then n.filled
           else n.names @> columns and columns @> n.names end
order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
limit 1
$fn$;

comment on function ensure._row_index_v1(regclass, name[]) is
    'The unique index that tells rows apart by columns, or by any that are not null.';

create function ensure._row_key_v1(
    target regclass
)
returns name[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_key_v1: the columns that tell the rows of a table apart while they are merged.
--
-- Returns  of the primary key, else of the first unique index over columns that are not null, else
--          ctid, by which a row is known only until it is updated: others may refer to such a
--          table by columns that may be null, and so may its own rows, which _check_places_v1
--          refuses
select coalesce((
    select array(select a.attname
                 from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
                 join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
                 where k.place <= i.indnkeyatts
                 order by k.place)
    from pg_index as i
    where i.indexrelid = ensure._row_index_v1(target, null)),
    case when (select c.relkind from pg_class as c where c.oid = target) = 'p'
         then '{tableoid,ctid}'::name[] else '{ctid}' end)
$fn$;

comment on function ensure._row_key_v1(regclass) is
    'The columns that tell the rows of a table apart while they are merged.';

create function ensure._row_json_v1(
    columns name[],
    alias text
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_json_v1: SQL for a JSON array of the columns of a row, each in its text form.
--
-- Returns  text and not the JSON of a type, since casting back then restores every value as it was
select format('jsonb_build_array(%s)',
              (select string_agg(format('%I.%I::text', alias, c.name), ', ' order by c.place)
               from unnest(columns) with ordinality as c (name, place)))
$fn$;

comment on function ensure._row_json_v1(name[], text) is
    'SQL for a JSON array of the columns of a row, each in its text form.';

create function ensure._row_match_v1(
    target regclass,
    columns name[],
    alias text,
    packed text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_match_v1: SQL that is true when a row has the key in a JSON array of _row_json_v1.
--
-- Returns  with equality and collation of the unique index on these columns, whatever the
--          search_path: by the columns' own, one key might be that of several rows. Strategy 3 is
--          that in a btree; in the GiST index of WITHOUT OVERLAPS ranges that overlap would match
select string_agg(
           format('%I.%I %s (%s ->> %s)::%s%s', alias, c.name,
                  coalesce(o.operator, 'operator(pg_catalog.=)'),
                  packed, c.place - 1, format_type(a.atttypid, a.atttypmod), o.collated),
           ' and ' order by c.place)
from (select ensure._row_index_v1(target, columns) as index_oid) as x
cross join unnest(columns) with ordinality as c (name, place)
join pg_attribute as a on a.attrelid = target and a.attname = c.name
left join lateral (
    select format('operator(%I.%s)', n.nspname, p.oprname) as operator,
           case when l.oid <> a.attcollation
                then format(' collate %I.%I', ln.nspname, l.collname) end as collated
    from pg_index as i
    cross join lateral unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
         as k (attnum, class, locale)
    join pg_opclass as o on o.oid = k.class
    join pg_am as b on b.oid = o.opcmethod and b.amname = 'btree'
    join pg_amop as m on m.amopfamily = o.opcfamily and m.amopstrategy = 3
                     and m.amoplefttype = o.opcintype and m.amoprighttype = o.opcintype
    join pg_operator as p on p.oid = m.amopopr
    join pg_namespace as n on n.oid = p.oprnamespace
    left join pg_collation as l on l.oid = k.locale
    left join pg_namespace as ln on ln.oid = l.collnamespace
    where i.indexrelid = x.index_oid and k.attnum = a.attnum
    limit 1) as o on true
$fn$;

comment on function ensure._row_match_v1(regclass, name[], text, text) is
    'SQL that is true when a row has the key in a JSON array of _row_json_v1.';

create function ensure._references_v1(
    target regclass
)
returns table (constraint_oid oid, constraint_name name, child regclass, child_columns name[],
               target_columns name[], operators text[], collations text[], on_delete "char",
               on_update "char")
language sql
stable
rows 2
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _references_v1: the foreign keys into a table or its partitions, each once.
--
-- Returns  of clones that PostgreSQL makes for partitions only the topmost; operators: the equality
--          of each pair, referenced column first; collations: what to write behind a pair, which
--          is nothing where both sides agree
with recursive tree (oid) as (
    select target::oid
    union all
    select i.inhrelid
    from tree as t
    join pg_inherits as i on i.inhparent = t.oid
    join pg_class as c on c.oid = i.inhrelid and c.relispartition
)
select f.oid, f.conname, f.conrelid::regclass, k.here, k.there, k.operators, k.collations,
       f.confdeltype, f.confupdtype
from tree as t
join pg_constraint as f on f.confrelid = t.oid and f.contype = 'f'
left join pg_constraint as u on u.oid = f.conparentid
cross join lateral (
    select array_agg(c.attname order by p.place) as here,
           array_agg(t.attname order by p.place) as there,
           array_agg(format('operator(%I.%s)', n.nspname, o.oprname) order by p.place) as operators,
           array_agg(case when t.attcollation not in (0, c.attcollation)
                          then format(' collate %I.%I', ln.nspname, l.collname) else '' end
                     order by p.place) as collations
    from unnest(f.conkey, f.confkey, f.conpfeqop) with ordinality as p (here, there, op, place)
    join pg_attribute as c on c.attrelid = f.conrelid and c.attnum = p.here
    join pg_attribute as t on t.attrelid = f.confrelid and t.attnum = p.there
    join pg_operator as o on o.oid = p.op
    join pg_namespace as n on n.oid = o.oprnamespace
    left join pg_collation as l on l.oid = t.attcollation
    left join pg_namespace as ln on ln.oid = l.collnamespace) as k
where u.oid is null or u.confrelid not in (select t.oid from tree as t)
order by f.conrelid::regclass::text collate "C", f.conname
$fn$;

comment on function ensure._references_v1(regclass) is
    'The foreign keys into a table or its partitions, each once.';

create function ensure._moved_indexes_v1(
    relation regclass,
    columns name[]
)
returns table (index_oid oid, place regclass, wide boolean)
language sql
stable
rows 2
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _moved_indexes_v1: the unique indexes in which rows may become equal when columns change.
--
-- Returns  also those of single partitions, with the table they are on as place; wide: columns
--          decide which rows are in the index, or are in an expression, so that rows with other
--          values in columns may be equal
with recursive tree (oid) as (
    select relation::oid
    union all
    select i.inhrelid
    from tree as t
    join pg_inherits as i on i.inhparent = t.oid
    join pg_class as c on c.oid = i.inhrelid and c.relispartition
)
select i.indexrelid, i.indrelid::regclass, w.wide
from tree as t
join pg_index as i on i.indrelid = t.oid and i.indisunique and i.indisready
cross join lateral (
    select bool_or(a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])) as narrow,
           -- a whole row, or a column that is computed from others, may hold any of columns
           bool_or(concat(i.indexprs, i.indpred) ~ format(':varattno (0|%s) ', a.attnum))
           or exists (select from pg_attribute as g
                      where g.attrelid = i.indrelid and g.attgenerated <> ''
                        and (g.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                             or concat(i.indexprs, i.indpred) ~ format(':varattno %s ', g.attnum)))
           as wide
    from pg_attribute as a
    where a.attrelid = i.indrelid and a.attname = any (columns)) as w
where (w.narrow or w.wide)
  and (t.oid = relation or not exists (select from pg_inherits as h
                                       where h.inhrelid = i.indexrelid))
order by i.indexrelid::regclass::text collate "C"
$fn$;

comment on function ensure._moved_indexes_v1(regclass, name[]) is
    'The unique indexes in which rows may become equal when columns change.';

create function ensure._merge_tables_v1(
    target regclass,
    merge boolean
)
returns table (relation regclass, merged boolean)
language sql
stable
rows 2
security invoker
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
-- _merge_tables_v1: the tables whose rows may change when rows of target are merged.
--
-- Returns  target, what references it and, with merge, below each table whose rows may have to be
--          merged too, since a column that moves is in a unique index; what a cascade would
--          change where a referenced column moves; merged: rows may have to go. Without JIT, since
--          functions inside two recursions look like millions of rows: it took a second each time
with recursive gone (relation) as (
    select target
    union
    select r.child
    from gone as g
    cross join lateral ensure._references_v1(g.relation) as r
    where merge and exists (select from ensure._moved_indexes_v1(r.child, r.child_columns))
), moved (relation, columns) as (
    select r.child, r.child_columns
    from gone as g
    cross join lateral ensure._references_v1(g.relation) as r
    union
    select r.child, r.child_columns
    from moved as m
    cross join lateral ensure._references_v1(m.relation) as r
    where r.target_columns && m.columns
       or exists (select from pg_partitioned_table as p -- on 14 a row that changes partition
                  cross join lateral unnest(p.partattrs::int2[]) as k (attnum) -- is deleted
                  left join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = k.attnum
                  where (k.attnum = 0 or a.attname = any (m.columns))
                    and m.relation in (select pg_partition_ancestors(p.partrelid)))
)
select t.relation, exists (select from gone as g where g.relation = t.relation)
from (select g.relation from gone as g union select m.relation from moved as m) as t
order by t.relation <> target, t.relation::text collate "C"
$fn$;

comment on function ensure._merge_tables_v1(regclass, boolean) is
    'The tables whose rows may change when rows of target are merged.';

-- migrate:down
drop function ensure._merge_tables_v1(regclass, boolean);
drop function ensure._moved_indexes_v1(regclass, name[]);
drop function ensure._references_v1(regclass);
drop function ensure._row_match_v1(regclass, name[], text, text);
drop function ensure._row_json_v1(name[], text);
drop function ensure._row_key_v1(regclass);
drop function ensure._row_index_v1(regclass, name[]);
drop function ensure._not_null_v1(oid, int2);
