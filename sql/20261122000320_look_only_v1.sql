-- migrate:up
create function ensure._mentions_v1(
    target regclass,
    expression text,
    name name
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _mentions_v1: an expression over a row of target, which is one, reads the column.
declare
    v_plan text;
begin
    for v_plan in execute format(
        'explain (costs off) select array[%s] from %s as %I', concat(expression, E'\n'),
        ensure._nulls_v1(target, _mentions_v1.name),
        (select c.relname from pg_class as c where c.oid = target))
    loop
        null;
    end loop;
    return false;
exception when undefined_column then
    return true;
end
$fn$;

comment on function ensure._mentions_v1(regclass, text, name) is
    'An expression over a row of target, which is one, reads the column.';

create function ensure._index_columns_v1(
    index_oid oid
)
returns name[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _index_columns_v1: the columns of which the key of an index is made, also inside expressions.
select array(
    select a.attname
    from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum > 0
    where i.indexrelid = index_oid
      and (a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
           or i.indexprs::text ~ format(':varattno %s ', a.attnum))
    order by a.attnum)
$fn$;

comment on function ensure._index_columns_v1(oid) is
    'The columns of which the key of an index is made, also inside expressions.';

create function ensure._member_indexes_v1(
    target regclass,
    member jsonb,
    among text,
    key name[]
)
returns oid[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _member_indexes_v1: the unique indexes by which a row of target is known to be the member.
--
-- Returns  those on the columns of key; without key those whose columns member has, but for one
--          over nothing but columns that among reads: it says that there is one, not which
-- Errors   22023  there is none
declare
    v_found oid[];
begin
    select array_agg(i.indexrelid order by i.indexrelid) into v_found
    from pg_index as i
    cross join lateral ensure._index_columns_v1(i.indexrelid) as c (names)
    where i.indrelid = target and i.indisunique and i.indisvalid
      and case when key is not null then c.names @> key and key @> c.names
               else member ?& c.names::text[]
                    and exists (select from unnest(c.names) as n (name)
                                where not ensure._mentions_v1(target, among, n.name)) end;
    if v_found is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = case when key is not null
                           then format('no unique index of "%s" is on (%s)', target,
                                       array_to_string(key, ', '))
                           else format('nothing in member says which row of "%s" it is', target)
                           end,
            detail = format('Unique indexes are on: %s. Columns of member: %s.', coalesce((
                select string_agg(format('(%s)', array_to_string(
                           ensure._index_columns_v1(i.indexrelid), ', ')), ', '
                           order by i.indexrelid)
                from pg_index as i
                where i.indrelid = target and i.indisunique and i.indisvalid), 'nothing'),
                (select string_agg(k.name, ', ' order by k.name)
                 from jsonb_object_keys(member) as k (name))),
            hint = 'Give member all columns of a unique index other than one over nothing but'
                   ' columns that among reads; key says which index.';
    end if;
    return v_found;
end
$fn$;

comment on function ensure._member_indexes_v1(regclass, jsonb, text, name[]) is
    'The unique indexes by which a row of target is known to be the member.';

create function ensure._member_row_v1(
    target regclass,
    member jsonb
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _member_row_v1: SQL for the row of target that member, which is $1, would become.
--
-- Returns  null for the default that is not the same each time
select format('(select %I.*%s from (select %s from %s) as %I)', t.relname,
              string_agg(format(', (%s) as %I', pg_get_expr(d.adbin, d.adrelid), a.attname), ''
                         order by a.attnum) filter (where a.attgenerated <> ''),
              string_agg(case
                  when member ? a.attname::text then format('"~j".%I', a.attname)
                  when d.adbin is not null and not exists (
                           select from regexp_matches(d.adbin::text,
                                                      ':(?:opfuncid|funcid) (\d+)', 'g') as m (oids)
                           join pg_proc as p on p.oid = m.oids[1]::oid
                           where p.provolatile = 'v')
                      then format('(%s)::%s as %I', pg_get_expr(d.adbin, d.adrelid),
                                  format_type(a.atttypid, a.atttypmod), a.attname)
                  else format('null::%s as %I', -- a domain may refuse nulls
                              format_type(ensure._base_type_v1(a.atttypid), null), a.attname) end,
                  ', ' order by a.attnum) filter (where a.attgenerated = ''),
              ensure._member_source_v1(target, member, 1), t.relname)
from pg_class as t
join pg_attribute as a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where t.oid = target
group by t.relname
$fn$;

comment on function ensure._member_row_v1(regclass, jsonb) is
    'SQL for the row of target that member, which is $1, would become.';

create function ensure._member_nulls_v1(
    target regclass,
    member jsonb,
    index_oid oid
)
returns boolean[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _member_nulls_v1: which elements of a unique index are null in the row of member.
declare
    v_nulls boolean[];
begin
    execute format(
        'select array[%s] from %s as %I',
        (select string_agg(format('(%s) is null',
                                  pg_get_indexdef(i.indexrelid, p.place, false)), ', '
                           order by p.place)
         from pg_index as i
         cross join generate_series(1, i.indnkeyatts) as p (place)
         where i.indexrelid = index_oid),
        ensure._member_row_v1(target, member),
        (select c.relname from pg_class as c where c.oid = target))
    into v_nulls
    using member;
    return v_nulls;
end
$fn$;

comment on function ensure._member_nulls_v1(regclass, jsonb, oid) is
    'Which elements of a unique index are null in the row of member.';

create function ensure._member_match_v1(
    target regclass,
    member jsonb,
    index_oid oid,
    nulls_match boolean,
    place bigint,
    out source text,
    out matches text
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _member_match_v1: SQL for the row of target that has the key of member in a unique index.
--
-- Returns  source: the key, of no row where member would not be in the index; matches: true for a
--          row that has it, in a query over source as "~m1", "~m2" …, by place; nulls_match: as if
--          nulls were equal
select format('select %s from %s as %I where %s%s',
              string_agg(format('(%s) as %I', e.expression, '~e' || e.place), ', '
                         order by e.place),
              ensure._member_row_v1(target, member), c.relname, p.predicate,
              case when n.equal then '' else format(' and num_nulls(%s) = 0', string_agg(
                  format('(%s)', e.expression), ', ' order by e.place)) end),
       format('%s and %s', p.predicate, string_agg(format(
           case when n.nulls[e.place] then '(%1$s) is null' -- which an index can find, as no OR
                else '(%1$s)%2$s %3$s "~m%4$s".%5$I' end,
           e.expression, e.collated, e.operator, _member_match_v1.place, '~e' || e.place),
           ' and ' order by e.place))
from pg_index as i
join pg_class as c on c.oid = i.indrelid
cross join lateral (
    select coalesce('(' || pg_get_expr(i.indpred, i.indrelid) || ')', 'true') as predicate
) as p
cross join lateral (
    select nulls_match or coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
           as equal) as q
cross join lateral (
    select q.equal, case when q.equal
                         then ensure._member_nulls_v1(target, member, i.indexrelid) end
           as nulls) as n
cross join lateral (
    select k.place, pg_get_indexdef(i.indexrelid, k.place::integer, false) as expression,
           format('operator(%I.%s)', s.nspname, r.oprname) as operator,
           case when l.oid is not null then format(' collate %I.%I', ln.nspname, l.collname) end
           as collated
    from unnest(i.indclass::oid[], i.indcollation::oid[]) with ordinality
         as k (class, locale, place)
    join pg_opclass as o on o.oid = k.class
    join pg_amop as m on m.amopfamily = o.opcfamily and m.amopstrategy = 3
                     and m.amoplefttype = o.opcintype and m.amoprighttype = o.opcintype
    join pg_operator as r on r.oid = m.amopopr
    join pg_namespace as s on s.oid = r.oprnamespace
    left join pg_collation as l on l.oid = k.locale
    left join pg_namespace as ln on ln.oid = l.collnamespace
    where k.place <= i.indnkeyatts) as e
where i.indexrelid = index_oid and i.indrelid = target
group by c.relname, p.predicate, n.equal, n.nulls
$fn$;

comment on function ensure._member_match_v1(regclass, jsonb, oid, boolean, bigint) is
    'SQL for the row of target that has the key of member in a unique index.';

create function ensure._look_only_v1(
    target regclass,
    member jsonb,
    among text,
    indexes oid[],
    nulls_match boolean,
    most bigint default null,
    out keys bigint,
    out known jsonb[],
    out rows jsonb[],
    out data jsonb
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_only_v1: the rows of target that have a key of member, and those that fulfil among.
--
-- Returns  keys: how many keys member has in these indexes; known: the rows that have one; rows: at
--          most so many of those that fulfil among; data: the first row of known. All of one
--          snapshot
declare
    c_key constant name[] := ensure._row_key_v1(target);
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    c_from constant text := format('%s as %I', ensure._from_v1(target), c_name);
    c_json constant text := ensure._row_json_v1(c_key, c_name);
    v_sources text;
    v_found text;
    v_keys text;
begin
    select string_agg(format('"~m%s" as materialized (%s)', x.place, m.source), ', '
                      order by x.place),
           string_agg(format('select %s as k from %s, "~m%s" where %s', c_json, c_from, x.place,
                             m.matches), ' union '),
           string_agg(format('(select count(*) from "~m%s")', x.place), ' + ')
    into v_sources, v_found, v_keys
    from unnest(indexes) with ordinality as x (index_oid, place)
    cross join lateral ensure._member_match_v1(target, member, x.index_oid, nulls_match, x.place)
         as m;
    execute format(
        'with %s, "~found" as materialized (%s)'
        ' select %s, array(select f.k from "~found" as f order by f.k),'
        '        array(select %s from %s where (%s) limit $2),'
        '        (select to_jsonb(%I.*) from %s,'
        '         (select min(f.k::text)::jsonb as l from "~found" as f) as "~p" where %s limit 1)',
        v_sources, v_found, v_keys, c_json, c_from, concat(among, E'\n'), c_name, c_from,
        ensure._row_match_v1(target, c_key, c_name, '"~p".l'))
    into keys, known, rows, data
    using member, most;
end
$fn$;

comment on function ensure._look_only_v1(regclass, jsonb, text, oid[], boolean, bigint) is
    'The rows of target that have a key of member, and those that fulfil among.';

create function ensure._found_only_v1(
    target regclass,
    member jsonb,
    among text,
    key name[],
    most bigint default null,
    out known jsonb,
    out rows jsonb[],
    out data jsonb
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _found_only_v1: the row that is the member, and those that fulfil among.
--
-- Returns  known: its key, null when there is none; rows: keys, at most so many; data: the member
-- Errors   22023  nothing says which row it is
--          NS014  the keys of member are those of several rows
declare
    v_look record;
begin
    v_look := ensure._look_only_v1(target, member, among,
                                   ensure._member_indexes_v1(target, member, among, key),
                                   key is not null, most);
    if v_look.keys = 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('nothing in member says which row of "%s" it is', target),
            detail = 'It would be in no unique index on these columns: their predicates leave it'
                     ' out, or it has a null there.',
            hint = 'Give member other values or columns; a null says which row it is where key'
                   ' names its column.';
    elsif cardinality(v_look.known) > 1 then
        raise exception using
            errcode = 'NS014',
            message = format('several rows of "%s" have a key of member: %s', target,
                             array_to_string(v_look.known[:5], ', ')),
            detail = format('Keys: %s. Member: %s.', (
                select string_agg(i.index_oid::regclass::text, ', ')
                from unnest(ensure._member_indexes_v1(target, member, among, key))
                     as i (index_oid)), left(member::text, 200)),
            hint = 'Say in key which columns tell the row, or change one of these rows.';
    end if;
    known := v_look.known[1];
    rows := v_look.rows;
    data := v_look.data;
end
$fn$;

comment on function ensure._found_only_v1(regclass, jsonb, text, name[], bigint) is
    'The row that is the member, and those that fulfil among.';

-- migrate:down
drop function ensure._found_only_v1(regclass, jsonb, text, name[], bigint);
drop function ensure._look_only_v1(regclass, jsonb, text, oid[], boolean, bigint);
drop function ensure._member_match_v1(regclass, jsonb, oid, boolean, bigint);
drop function ensure._member_nulls_v1(regclass, jsonb, oid);
drop function ensure._member_row_v1(regclass, jsonb);
drop function ensure._member_indexes_v1(regclass, jsonb, text, name[]);
drop function ensure._index_columns_v1(oid);
drop function ensure._mentions_v1(regclass, text, name);
