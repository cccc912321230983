-- migrate:up
create function ensure._gate_name_v1(
    unique_keys ensure._unique_key_v1[],
    index_name name
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_name_v1: what tells the work of one plan from that of others: hex digits of what it is for.
--
-- Returns  the same for every spelling, and when the table gets another name
select left(md5(concat_ws(
           E'\n', k.target, replace(coalesce(k.canonical, k.elements)::text, t.prefix, ''),
           replace(k.canonical_predicate, t.prefix, ''), k.nulls_equal, cardinality(unique_keys),
           index_name)), 12)
from unnest(unique_keys[:1]) as k
join pg_class as c on c.oid = k.target
cross join lateral format('%I.', c.relname) as t (prefix)
$fn$;

comment on function ensure._gate_name_v1(ensure._unique_key_v1[], name) is
    'What tells the work of one plan from that of others: hex digits of what it is for.';

create function ensure._dollar_v1(
    tag text,
    body text
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _dollar_v1: body between dollar quotes with a tag that does not occur in it.
select format('$%1$s$%2$s$%1$s$',
              case when strpos(body, format('$%s', tag)) = 0 then tag
                   else format('%s_%s', tag, md5(body)) end, body)
$fn$;

comment on function ensure._dollar_v1(text, text) is
    'Body between dollar quotes with a tag that does not occur in it.';

create function ensure._gate_equality_v1(
    support oid,
    out operators text[],
    out collations text[]
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_equality_v1: the equality operator of each element of an index, and its collation.
--
-- Returns  collations: as COLLATE clauses, null where the type has none
select array_agg(format('operator(%I.%s)', n.nspname, o.oprname) order by k.place),
       array_agg(case when l.oid is not null
                      then format(' collate %I.%I', cn.nspname, l.collname) end order by k.place)
from pg_index as i
cross join lateral unnest(i.indclass::oid[], i.indcollation::oid[])
     with ordinality as k (class, collation_oid, place)
join pg_opclass as c on c.oid = k.class
join pg_amop as a on a.amopfamily = c.opcfamily and a.amopstrategy = 3
                 and a.amoplefttype = c.opcintype and a.amoprighttype = c.opcintype
join pg_operator as o on o.oid = a.amopopr
join pg_namespace as n on n.oid = o.oprnamespace
left join pg_collation as l on l.oid = k.collation_oid
left join pg_namespace as cn on cn.oid = l.collnamespace
where i.indexrelid = support
$fn$;

comment on function ensure._gate_equality_v1(oid) is
    'The equality operator of each element of an index, and its collation.';

create function ensure._gate_hash_v1(
    unique_key ensure._unique_key_v1,
    support oid
)
returns text
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_hash_v1: SQL for the hash of the key in the record v_new, the same for equal keys.
--
-- Returns  0 where a type has no hash that agrees with the index: writers then follow each other
declare
    c_equality constant record := ensure._gate_equality_v1(support);
    v_hash bigint;
begin
    if array_remove(unique_key.sort_operators, null) <> '{}' then
        return '0';
    end if;
    for v_hash in execute format(
        'select hash_record_extended(row(%s), 0) from (select (null::%s).*) as %I',
        array_to_string(unique_key.expressions, ', '), unique_key.target::regclass,
        (select c.relname from pg_class as c where c.oid = unique_key.target))
    loop
        null;
    end loop;
    return format('hash_record_extended(row(%s), 0)',
                  (select string_agg(format('v_new."~%s"%s', p, c_equality.collations[p]), ', ')
                   from generate_series(1, cardinality(unique_key.expressions)) as p));
exception when undefined_function then
    return '0';
end
$fn$;

comment on function ensure._gate_hash_v1(ensure._unique_key_v1, oid) is
    'SQL for the hash of the key in the record v_new, the same for equal keys.';

create function ensure._gate_same_v1(
    unique_key ensure._unique_key_v1,
    support oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_same_v1: SQL that is true when the key in v_new is that in v_old.
--
-- Returns  with the equality of support, an index over the key
select string_agg(
           format(case when e.nullable
                       then '(v_old."~%1$s" %2$s v_new."~%1$s"%3$s'
                            ' or num_nulls(v_old."~%1$s", v_new."~%1$s") = 2)'
                       else 'v_old."~%1$s" %2$s v_new."~%1$s"%3$s' end,
                  e.place, q.operators[e.place], q.collations[e.place]), ' and ' order by e.place)
from unnest(unique_key.nullable) with ordinality as e (nullable, place)
cross join ensure._gate_equality_v1(support) as q
$fn$;

comment on function ensure._gate_same_v1(ensure._unique_key_v1, oid) is
    'SQL that is true when the key in v_new is that in v_old.';

create function ensure._gate_look_v1(
    unique_key ensure._unique_key_v1,
    support oid,
    wanted text,
    locking text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_look_v1: PL/pgSQL that puts what is wanted of a row with the key in v_new into v_old.
--
-- Returns  with the equality of support, an index over the key; v_old is null when there is none. A
--          branch for each set of columns that may be null together, since an index finds "equal
--          or both null" by one condition, and not by two of them; of more than three such columns
--          a text that is put together when it runs
with elements as (
    select e.expression, e.place, q.operators[e.place] as equal,
           case when unique_key.nulls_equal and e.nullable
                then sum((unique_key.nulls_equal and e.nullable)::integer) over (order by e.place)
           end as bit
    from unnest(unique_key.expressions, unique_key.nullable)
         with ordinality as e (expression, nullable, place)
    cross join ensure._gate_equality_v1(support) as q
), query as (
    select format('select %s', wanted) as head,
           format(' from %s as %I where %s', ensure._from_v1(unique_key.target::regclass),
                  c.relname, '(' || unique_key.predicate || E'\n) and ') as source,
           concat(' limit 1', ' ' || nullif(locking, '')) as tail,
           (select coalesce(max(e.bit), 0)::integer from elements as e) as bits
    from pg_class as c
    where c.oid = unique_key.target
), branches as (
    select n.number, string_agg(format('num_nulls(v_new."~%s") = %s', e.place, v.bit), ' and '
                                order by e.place) filter (where e.bit is not null) as condition,
           string_agg(case when v.bit = 1 then format('%1$s is null and num_nulls(%1$s) = 1',
                                                      e.expression)
                           else format('%s %s v_new."~%s"', e.expression, e.equal, e.place) end,
                      ' and ' order by e.place) as keys
    from query as q
    cross join generate_series(0, (1 << least(q.bits, 3)) - 1) as n (number)
    cross join elements as e
    cross join lateral (select coalesce(n.number >> (e.bit::integer - 1) & 1, 0)) as v (bit)
    group by n.number
)
select case when q.bits > 3 then (
           select format('execute concat(%L, %s, %L) into v_old using %s;',
                         concat(q.head, q.source),
                         string_agg(format(
                             'case num_nulls(v_new."~%s") when %s then %L else %L end', e.place,
                             case when e.bit is null then -1 else 1 end,
                             format('%1$s is null and num_nulls(%1$s) = 1', e.expression),
                             format('%s %s $%s', e.expression, e.equal, e.place)),
                             ', '' and '', ' order by e.place),
                         q.tail, string_agg(format('v_new."~%s"', e.place), ', ' order by e.place))
           from elements as e)
       when q.bits = 0 then (
           select concat(q.head, ' into v_old', q.source, b.keys, q.tail, ';') from branches as b)
       else (
           select concat('if ', string_agg(
               format(E'%s then\n%s into v_old%s%s%s;', b.condition, q.head, q.source, b.keys,
                      q.tail), E'\nelsif ' order by b.number), E'\nend if;')
           from branches as b)
       end
from query as q
$fn$;

comment on function ensure._gate_look_v1(ensure._unique_key_v1, oid, text, text) is
    'PL/pgSQL that puts what is wanted of a row with the key in v_new into v_old.';

-- migrate:down
drop function ensure._gate_look_v1(ensure._unique_key_v1, oid, text, text);
drop function ensure._gate_same_v1(ensure._unique_key_v1, oid);
drop function ensure._gate_hash_v1(ensure._unique_key_v1, oid);
drop function ensure._gate_equality_v1(oid);
drop function ensure._dollar_v1(text, text);
drop function ensure._gate_name_v1(ensure._unique_key_v1[], name);
