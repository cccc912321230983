-- migrate:up
create function ensure._constant_default_v1(
    relation oid,
    attnum int2
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _constant_default_v1: SQL for what a column that is not given gets, where that is a constant.
select x.expression
from pg_attribute as a
join pg_type as t on t.oid = a.atttypid
left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
cross join lateral (select coalesce(pg_get_expr(d.adbin, d.adrelid),
                                    pg_get_expr(t.typdefaultbin, 0))) as x (expression)
where a.attrelid = relation and a.attnum = _constant_default_v1.attnum and a.attgenerated = ''
  and x.expression ~ $re$^('([^']|'')*'|\(?-?[0-9.]+\)?|true|false)(::[^']+)?$$re$
$fn$;

comment on function ensure._constant_default_v1(oid, int2) is
    'SQL for what a column that is not given gets, where that is a constant.';

create function ensure._reads_v1(
    expression text,
    name name
)
returns boolean
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _reads_v1: an expression, as PostgreSQL prints it, reads the column of that name.
select regexp_replace(expression, $re$'(?:[^']|'')*'$re$, $$''$$, 'g')
       ~ format($re$(^|[^\w$".:])%s($|[^\w$"(])$re$,
                regexp_replace(quote_ident(_reads_v1.name), '([^\w])', '\\\1', 'g'))
$fn$;

comment on function ensure._reads_v1(text, name) is
    'An expression, as PostgreSQL prints it, reads the column of that name.';

create function ensure._given_row_v1(
    target regclass,
    given name[],
    needed text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _given_row_v1: SQL for a row of target made of the columns of "~a", named as those of target.
--
-- Returns  the columns that are given, those that needed names, and generated ones of these
with columns as (
    select a.attnum, a.attname as name, a.attgenerated <> '' as generated,
           pg_get_expr(d.adbin, d.adrelid) as expression,
           format('%s as %I',
                  case when a.attname = any (given) then format('"~a"."~%s"', a.attnum)
                       else format('(%s)::%s',
                                   coalesce(ensure._constant_default_v1(a.attrelid, a.attnum),
                                            'null'),
                                   format_type(ensure._base_type_v1(a.atttypid), null)) end,
                  a.attname) as item
    from pg_attribute as a
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped
), generated as (
    select string_agg(format(', %s as %I', c.expression, c.name), '') as items,
           string_agg(c.expression, ' ') as needed
    from columns as c
    where c.generated and ensure._reads_v1(_given_row_v1.needed, c.name)
)
select format('select "~b".*%s from (select %s) as "~b"', g.items, (
           select string_agg(c.item, ', ' order by c.attnum)
           from columns as c
           where not c.generated
             and (c.name = any (given)
                  or ensure._reads_v1(concat_ws(' ', _given_row_v1.needed, g.needed), c.name))))
from generated as g
$fn$;

comment on function ensure._given_row_v1(regclass, name[], text) is
    'SQL for a row of target made of the columns of "~a", named as those of target.';

create function ensure._key_columns_needed_v1(
    index_oid oid
)
returns name[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_columns_needed_v1: the columns that have to be given for the key of an index to be known.
--
-- Returns  those of the key, those its expressions use, and for a generated one those it uses;
--          not those of the predicate alone
with recursive used (attnum) as (
    select a.attnum
    from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum > 0 and not a.attisdropped
    where i.indexrelid = index_oid
      and (a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
           or ensure._reads_v1(pg_get_expr(i.indexprs, i.indrelid), a.attname))
    union
    select a.attnum
    from used as u
    join pg_index as i on i.indexrelid = index_oid
    join pg_attribute as g on g.attrelid = i.indrelid and g.attnum = u.attnum
                          and g.attgenerated <> ''
    join pg_attrdef as d on d.adrelid = g.attrelid and d.adnum = g.attnum
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum > 0 and not a.attisdropped
                          and ensure._reads_v1(pg_get_expr(d.adbin, d.adrelid), a.attname)
)
select coalesce(array_agg(a.attname order by a.attnum), '{}')
from used as u
join pg_index as i on i.indexrelid = index_oid
join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = u.attnum and a.attgenerated = ''
$fn$;

comment on function ensure._key_columns_needed_v1(oid) is
    'The columns that have to be given for the key of an index to be known.';

create function ensure._row_keys_v1(
    target regclass,
    given name[],
    key name[]
)
returns table (
    index_oid oid,
    keys text,
    equal text,
    applies text,
    predicate text,
    arbiter text,
    sorting text
)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_keys_v1: the unique indexes by which a row of given columns can be found, primary key first.
--
-- Returns  keys: SQL over "~a", whose columns are given, for the key as "~k"; equal: SQL that is
--          true when a row of target, under its own name, has that key, by the equality and
--          collation of the index; applies: when a row with the key would be in the index;
--          predicate: of the index, over target; arbiter: what ON CONFLICT infers it from; sorting:
--          "~k" in the order of the index. With key only those on these columns
select x.oid, format('select %s, %s as "~p" from (%s) as %I', e.keys,
                     coalesce('(' || p.predicate || ') is true', 'true'),
                     ensure._given_row_v1(target, given, concat_ws(' ', e.elements, p.predicate)),
                     c.relname),
       e.equal,
       concat('"~k"."~p"', case when not v.nulls_equal then format(' and num_nulls(%s) = 0',
                                                                   e.names) end),
       p.predicate,
       format('(%s)%s', e.elements, ' where ' || p.predicate), e.sorting
from pg_class as c
join pg_index as i on i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
                  and not i.indisexclusion -- WITHOUT OVERLAPS
                  and not exists (
                      select from pg_attribute as a
                      where a.attrelid = i.indrelid and a.attgenerated = ''
                        and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                        and a.attname <> all (given))
cross join lateral (select i.indexrelid) as x (oid)
cross join lateral (select coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false))
    as v (nulls_equal)
cross join lateral (select pg_get_expr(i.indpred, i.indrelid)) as p (predicate)
cross join lateral (
    select string_agg(format(case when p.predicate is null then '%1$s as "~e%2$s"'
                                  else 'case when %3$s then %1$s end as "~e%2$s"' end,
                             k.element, k.place, p.predicate), ', ' order by k.place) as keys,
           string_agg(k.element, ', ' order by k.place) as elements,
           string_agg(format('"~k"."~e%s"', k.place), ', ' order by k.place) as names,
           string_agg(format(
               case when v.nulls_equal
                    then '(%1$s operator(%2$I.%3$s) "~k"."~e%4$s"%5$s'
                         ' or %1$s is null and "~k"."~e%4$s" is null)'
                    else '%1$s operator(%2$I.%3$s) "~k"."~e%4$s"%5$s' end,
               k.element, n.nspname, o.oprname, k.place,
               l.collated), ' and ' order by k.place) as equal,
           string_agg(format('"~k"."~e%s"%s using operator(%I.%s)', k.place, l.collated, n.nspname,
                             (select lo.oprname from pg_amop as lm
                              join pg_operator as lo on lo.oid = lm.amopopr
                              where lm.amopfamily = oc.opcfamily and lm.amopstrategy = 1
                                and lm.amoplefttype = oc.opcintype
                                and lm.amoprighttype = oc.opcintype)), ', ' order by k.place)
               as sorting
    from (
        select u.place, u.class, u.locale,
               pg_get_indexdef(x.oid, u.place::integer, false) as element
        from unnest(i.indclass::oid[], i.indcollation::oid[])
             with ordinality as u (class, locale, place)
        where u.place <= i.indnkeyatts) as k
    join pg_opclass as oc on oc.oid = k.class
    join pg_amop as m on m.amopfamily = oc.opcfamily and m.amopstrategy = 3
                     and m.amoplefttype = oc.opcintype and m.amoprighttype = oc.opcintype
    join pg_operator as o on o.oid = m.amopopr
    join pg_namespace as n on n.oid = o.oprnamespace
    left join lateral (
        select format(' collate %I.%I', ln.nspname, y.collname) as collated
        from pg_collation as y
        join pg_namespace as ln on ln.oid = y.collnamespace
        where y.oid = k.locale) as l on true) as e
cross join lateral ensure._key_columns_needed_v1(x.oid) as d (columns)
where c.oid = target and d.columns <@ given
  and (key is null or d.columns @> key and d.columns <@ key)
order by i.indisprimary desc, x.oid
$fn$;

comment on function ensure._row_keys_v1(regclass, name[], name[]) is
    'The unique indexes by which a row of given columns can be found, primary key first.';

-- migrate:down
drop function ensure._row_keys_v1(regclass, name[], name[]);
drop function ensure._key_columns_needed_v1(oid);
drop function ensure._given_row_v1(regclass, name[], text);
drop function ensure._reads_v1(text, name);
drop function ensure._constant_default_v1(oid, int2);
