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

create function ensure._member_keys_v1(
    target regclass,
    member jsonb,
    among text,
    key name[]
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _member_keys_v1: the unique indexes by which a row of target is known to be the member.
--
-- Returns  rows of _row_keys_v1: those on the columns of key; without key those whose columns
--          member has, but for one over nothing but columns that among reads: it says that there
--          is one, not which
-- Errors   42P10  there is none
declare
    c_given constant name[] := array(select k.name from jsonb_object_keys(member) as k (name));
    v_keys jsonb;
begin
    select jsonb_agg(to_jsonb(k) order by k.index_oid) into v_keys
    from ensure._row_keys_v1(target, c_given, key) as k
    where key is not null
       or exists (select from unnest(ensure._key_columns_needed_v1(k.index_oid)) as n (name)
                  where not ensure._mentions_v1(target, among, n.name));
    if v_keys is null then
        perform ensure._raise_no_key_v1(target, c_given, key);
    end if;
    return v_keys;
end
$fn$;

comment on function ensure._member_keys_v1(regclass, jsonb, text, name[]) is
    'The unique indexes by which a row of target is known to be the member.';

create function ensure._member_match_v1(
    member jsonb,
    given text,
    key jsonb,
    nulls_match boolean,
    out source text,
    out matches text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _member_match_v1: SQL for the row of target that has the key of member in a unique index.
--
-- Returns  source: the key, of no row where member would not be in the index; $1 is an array of
--          member; matches: true for a row that has it, over source as "~k"; nulls_match: as if
--          nulls were equal. given: SQL of _rows_given_v1; key: a row of _row_keys_v1
declare
    v_elements text[];
    v_nulls boolean[];
begin
    source := format('select "~k".* from (%s) as "~a" cross join lateral (%s) as "~k" where %s',
                     given, key ->> 'keys', case when nulls_match then '"~k"."~p"'
                                                 else key ->> 'applies' end);
    matches := concat_ws(' and ', '(' || (key ->> 'predicate') || ')',
                         '(' || (key ->> 'equal') || ')');
    if nulls_match then
        v_elements := array(
            select pg_get_indexdef(i.indexrelid, p.place, false)
            from pg_index as i
            cross join generate_series(1, i.indnkeyatts::integer) as p (place)
            where i.indexrelid = (key ->> 'index_oid')::oid
            order by p.place);
        execute format('select array[%s] from (%s) as "~k"', (
                           select string_agg(format('"~k"."~e%s" is null', p.place), ', '
                                             order by p.place)
                           from generate_subscripts(v_elements, 1) as p (place)), source)
        into v_nulls
        using jsonb_build_array(member);
        if true = any (v_nulls) then
            matches := format('%s is not false and %s', matches, (
                select string_agg(format('(%s) is%s null', e.element,
                                         case when not v_nulls[e.place] then ' not' end), ' and ')
                from unnest(v_elements) with ordinality as e (element, place)));
        end if;
    end if;
end
$fn$;

comment on function ensure._member_match_v1(jsonb, text, jsonb, boolean) is
    'SQL for the row of target that has the key of member in a unique index.';

create function ensure._look_only_v1(
    target regclass,
    member jsonb,
    among text,
    member_keys jsonb,
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
-- Returns  keys: how many keys member has, of member_keys, which are those of _member_keys_v1;
--          known: the rows that have one; rows: at most so many of those that fulfil among; data:
--          the first row of known. All of one snapshot
declare
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    c_from constant text := format('%s as %I', ensure._from_v1(target), c_name);
    c_json constant text := ensure._row_json_v1(ensure._row_key_v1(target), c_name);
    c_given constant text := ensure._rows_given_v1(
        target, array(select k.name from jsonb_object_keys(member) as k (name)));
    v_sources text;
    v_known text;
    v_keys text;
begin
    select string_agg(format('"~m%s" as materialized (%s)', x.place, m.source), ', '
                      order by x.place),
           string_agg(format('select %s as k, to_jsonb(%I.*) as d from %s, "~m%s" as "~k" where %s',
                             c_json, c_name, c_from, x.place, m.matches), ' union '),
           string_agg(format('(select count(*) from "~m%s")', x.place), ' + ')
    into v_sources, v_known, v_keys
    from jsonb_array_elements(member_keys) with ordinality as x (key, place)
    cross join lateral ensure._member_match_v1(member, c_given, x.key, nulls_match) as m;
    if v_sources is null then
        return;
    end if;
    execute format(
        'with %s, "~known" as materialized (%s)'
        ' select %s, array(select f.k from "~known" as f order by f.k),'
        '        array(select %s from %s where (%s) limit $2),'
        '        (select f.d from "~known" as f order by f.k limit 1)',
        v_sources, v_known, v_keys, c_json, c_from, concat(among, E'\n'))
    into keys, known, rows, data
    using jsonb_build_array(member), most;
end
$fn$;

comment on function ensure._look_only_v1(regclass, jsonb, text, jsonb, boolean, bigint) is
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
-- Errors   42P10  nothing says which row it is
--          NS014  the keys of member are those of several rows
declare
    c_keys constant jsonb := ensure._member_keys_v1(target, member, among, key);
    c_look constant record := ensure._look_only_v1(target, member, among, c_keys,
                                                   key is not null, most);
begin
    if c_look.keys = 0 then
        raise exception using
            errcode = 'invalid_column_reference',
            message = format('nothing in member says which row of "%s" it is', target),
            detail = 'It would be in no unique index on these columns: their predicates leave it'
                     ' out, or it has a null there.',
            hint = 'Give member other values or columns; a null says which row it is where key'
                   ' names its column.';
    elsif cardinality(c_look.known) > 1 then
        raise exception using
            errcode = 'NS014',
            message = format('several rows of "%s" have a key of member: %s', target,
                             array_to_string(c_look.known[:5], ', ')),
            detail = format('Keys: %s. Member: %s.', (
                select string_agg((k.key ->> 'index_oid')::oid::regclass::text, ', ')
                from jsonb_array_elements(c_keys) as k (key)), left(member::text, 200)),
            hint = 'Say in key which columns tell the row, or change one of these rows.';
    end if;
    known := c_look.known[1];
    rows := c_look.rows;
    data := c_look.data;
end
$fn$;

comment on function ensure._found_only_v1(regclass, jsonb, text, name[], bigint) is
    'The row that is the member, and those that fulfil among.';

create function ensure._sure_member_v1(
    target regclass,
    member jsonb,
    among text,
    key name[]
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _sure_member_v1: the one row that fulfils among, where it is plain that it is the member.
--
-- Returns  null where _found_only_v1 has to say. It is plain when the row has the values of member
--          to the letter in the columns of key, and is in the one unique index on them with no null
declare
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    v_indexes oid[];
    v_sure text;
    v_row record;
    v_data jsonb;
begin
    select array_agg(i.indexrelid) into v_indexes
    from pg_index as i
    cross join lateral (
        select array(select a.attname from pg_attribute as a
                     where a.attrelid = i.indrelid and a.attnum > 0
                       and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) as c (plain)
    where i.indrelid = target and i.indisunique and i.indisvalid and i.indimmediate
      and not i.indisexclusion
      and case when not c.plain <@ key then false
               when i.indexprs is null then key <@ c.plain
               else (select n.columns @> key and n.columns <@ key
                     from ensure._key_columns_needed_v1(i.indexrelid) as n (columns)) end;
    if cardinality(v_indexes) is distinct from 1 then
        return null;
    end if;
    select format('%s and num_nulls(%s) = 0%s', (
                      select string_agg(format('%I.%I::text is not distinct from "~a"."~%s"::text',
                                               c_name, a.attname, a.attnum), ' and ')
                      from pg_attribute as a
                      where a.attrelid = target and a.attname = any (key)), (
                      select string_agg(pg_get_indexdef(i.indexrelid, p.place, false), ', ')
                      from generate_series(1, i.indnkeyatts::integer) as p (place)),
                  ' and (' || pg_get_expr(i.indpred, i.indrelid) || ')')
    into v_sure
    from pg_index as i
    where i.indexrelid = v_indexes[1];
    for v_row in execute format(
        'select to_jsonb(%1$I.*) as data, (%2$s) as sure from %3$s as %1$I'
        ' cross join (%4$s) as "~a" where (%5$s) limit 2',
        c_name, v_sure, ensure._from_v1(target), ensure._rows_given_v1(target, key),
        concat(among, E'\n'))
        using jsonb_build_array(member)
    loop
        if v_data is not null or v_row.sure is not true then
            return null;
        end if;
        v_data := v_row.data;
    end loop;
    return v_data;
end
$fn$;

comment on function ensure._sure_member_v1(regclass, jsonb, text, name[]) is
    'The one row that fulfils among, where it is plain that it is the member.';

-- migrate:down
drop function ensure._sure_member_v1(regclass, jsonb, text, name[]);
drop function ensure._found_only_v1(regclass, jsonb, text, name[], bigint);
drop function ensure._look_only_v1(regclass, jsonb, text, jsonb, boolean, bigint);
drop function ensure._member_match_v1(jsonb, text, jsonb, boolean);
drop function ensure._member_keys_v1(regclass, jsonb, text, name[]);
drop function ensure._mentions_v1(regclass, text, name);
