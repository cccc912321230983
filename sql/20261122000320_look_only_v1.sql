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
-- Errors   42P10  there is none
declare
    c_given constant name[] := array(select k.name from jsonb_object_keys(member) as k (name));
    v_indexes oid[];
begin
    select array_agg(k.index_oid order by k.index_oid) into v_indexes
    from ensure._row_keys_v1(target, c_given, key) as k
    where key is not null
       or exists (select from unnest(ensure._key_columns_needed_v1(k.index_oid)) as n (name)
                  where not ensure._mentions_v1(target, among, n.name));
    if v_indexes is null then
        perform ensure._raise_no_key_v1(target, c_given, key);
    end if;
    return v_indexes;
end
$fn$;

comment on function ensure._member_indexes_v1(regclass, jsonb, text, name[]) is
    'The unique indexes by which a row of target is known to be the member.';

create function ensure._member_match_v1(
    target regclass,
    member jsonb,
    index_oid oid,
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
--          nulls were equal. Nulls when member has not all columns of the key
declare
    c_given constant name[] := array(select k.name from jsonb_object_keys(member) as k (name));
    v_key record;
    v_places integer;
    v_nulls boolean[];
begin
    select k.* into v_key
    from ensure._row_keys_v1(target, c_given, null) as k
    where k.index_oid = _member_match_v1.index_oid;
    if not found then
        return;
    end if;
    source := format('select "~k".* from (%s) as "~a" cross join lateral (%s) as "~k" where %s',
                     ensure._rows_given_v1(target, c_given), v_key.keys,
                     case when nulls_match then '"~k"."~p"' else v_key.applies end);
    matches := concat_ws(' and ', '(' || v_key.predicate || ')', '(' || v_key.equal || ')');
    if nulls_match then
        v_places := (select i.indnkeyatts from pg_index as i
                     where i.indexrelid = _member_match_v1.index_oid);
        execute format('select array[%s] from (%s) as "~k"', (
                           select string_agg(format('"~k"."~e%s" is null', p.place), ', '
                                             order by p.place)
                           from generate_series(1, v_places) as p (place)), source)
        into v_nulls
        using jsonb_build_array(member);
        if true = any (v_nulls) then
            matches := format('%s is not false and %s', matches, (
                select string_agg(format('(%s) is%s null',
                                         pg_get_indexdef(_member_match_v1.index_oid, p.place,
                                                         false),
                                         case when not v_nulls[p.place] then ' not' end), ' and ')
                from generate_series(1, v_places) as p (place)));
        end if;
    end if;
end
$fn$;

comment on function ensure._member_match_v1(regclass, jsonb, oid, boolean) is
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
    v_known text;
    v_keys text;
begin
    select string_agg(format('"~m%s" as materialized (%s)', x.place, m.source), ', '
                      order by x.place),
           string_agg(format('select %s as k from %s, "~m%s" as "~k" where %s', c_json, c_from,
                             x.place, m.matches), ' union '),
           string_agg(format('(select count(*) from "~m%s")', x.place), ' + ')
    into v_sources, v_known, v_keys
    from unnest(indexes) with ordinality as x (index_oid, place)
    cross join lateral ensure._member_match_v1(target, member, x.index_oid, nulls_match) as m
    where m.source is not null;
    if v_sources is null then
        return;
    end if;
    execute format(
        'with %s, "~known" as materialized (%s)'
        ' select %s, array(select f.k from "~known" as f order by f.k),'
        '        array(select %s from %s where (%s) limit $2),'
        '        (select to_jsonb(%I.*) from %s,'
        '         (select min(f.k::text)::jsonb as l from "~known" as f) as "~p" where %s limit 1)',
        v_sources, v_known, v_keys, c_json, c_from, concat(among, E'\n'), c_name, c_from,
        ensure._row_match_v1(target, c_key, c_name, '"~p".l'))
    into keys, known, rows, data
    using jsonb_build_array(member), most;
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
-- Errors   42P10  nothing says which row it is
--          NS014  the keys of member are those of several rows
declare
    v_look record;
begin
    v_look := ensure._look_only_v1(target, member, among,
                                   ensure._member_indexes_v1(target, member, among, key),
                                   key is not null, most);
    if v_look.keys = 0 then
        raise exception using
            errcode = 'invalid_column_reference',
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
drop function ensure._member_match_v1(regclass, jsonb, oid, boolean);
drop function ensure._member_indexes_v1(regclass, jsonb, text, name[]);
drop function ensure._mentions_v1(regclass, text, name);
