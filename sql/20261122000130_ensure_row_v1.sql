-- migrate:up
create function ensure._raise_attributes_v1(
    target regclass,
    attributes jsonb
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_attributes_v1: target or attributes is nothing to work with, which is an error.
--
-- Errors   22004, 22023  always
begin
    if num_nulls(target, attributes) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('%s must not be null',
                             case when target is null then 'target' else 'attributes' end),
            hint = 'Pass a table, and a JSON object of its columns.';
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('attributes is a JSON %s, not an object', jsonb_typeof(attributes)),
        hint = 'Pass a JSON object of columns, like {"email": "ann@example.com"}.';
end
$fn$;

comment on function ensure._raise_attributes_v1(regclass, jsonb) is
    'Target or attributes is nothing to work with, which is an error.';

create function ensure._make_row_v1(
    target regclass,
    attributes jsonb,
    key name[],
    revive text,
    out data jsonb,
    out outcome text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _make_row_v1: as ensure_row_v1, when the row was not found at once.
--
-- Races    the row may come and go between two statements: looks and inserts five times, then as a
--          plain INSERT does
declare
    c_given constant name[] := array(select k.name from jsonb_object_keys(attributes) as k (name));
    v_conflict text;
    v_found record;
begin
    perform ensure._check_attributes_v1(target, c_given);
    if revive is not null then
        perform ensure._read_expression_v1(target, revive, 'predicate');
    end if;
    v_conflict := ensure._conflict_v1(target, c_given, key);
    for v_try in 1..5 loop
        v_found := ensure._look_row_v1(target, attributes, key, revive);
        if v_found.data is null then
            data := ensure._insert_row_v1(target, attributes, v_conflict);
            outcome := 'created';
        elsif v_found.dead then
            data := ensure._revive_row_v1(target, attributes, revive, v_found.part, v_found.place);
            outcome := 'revived';
        else
            data := v_found.data;
            outcome := 'exists';
        end if;
        if data is not null then
            return;
        end if;
    end loop;
    perform ensure._raise_taken_v1(target, attributes, key);
    data := ensure._insert_row_v1(target, attributes, '');
    outcome := 'created';
    if data is null then
        perform ensure._raise_kept_out_v1(target, attributes);
    end if;
end
$fn$;

comment on function ensure._make_row_v1(regclass, jsonb, name[], text) is
    'As ensure_row_v1, when the row was not found at once.';

create function ensure._look_plain_v1(
    target regclass,
    keys oid[],
    matches text[]
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_plain_v1: the one row of target for which one of several conditions is true.
--
-- Returns  null when there is none
-- Errors   NS014  there are two
declare
    v_row record;
    v_first record;
    v_data jsonb;
begin
    for v_row in execute (
        select string_agg(format('select to_jsonb("~t".*) as data, %L as key,'
                                 ' row("~t".tableoid, "~t".ctid)::text as place from %s as "~t"'
                                 ' where %s', m.key::regclass, ensure._from_v1(target), m.match),
                          ' union all ' order by m.place)
        from unnest(keys, matches) with ordinality as m (key, match, place))
    loop
        if v_data is null then
            v_data := v_row.data;
            v_first := v_row;
        elsif v_first.place <> v_row.place then
            perform ensure._raise_two_rows_v1(target, v_first.key, v_data, v_row.key, v_row.data);
        end if;
    end loop;
    return v_data;
end
$fn$;

comment on function ensure._look_plain_v1(regclass, oid[], text[]) is
    'The one row of target for which one of several conditions is true.';

create function ensure.ensure_row_v1(
    target regclass,
    attributes jsonb,
    key name[] default null,
    revive text default null,
    out data jsonb,
    out outcome text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $fn$
-- ensure_row_v1: target has one row with a unique key of attributes.
--
-- Returns  data: the row, with all its columns; outcome: 'exists', 'created', or 'revived'. A key
--          is a unique index whose columns attributes have; with key only that on these columns.
--          Of a row that exists the other attributes are not compared. With revive, a condition
--          that says which rows are dead: a dead row with the key is given attributes, and is
--          alive then; without revive dead rows are rows as any other
-- Errors   22004, 22023  target or attributes is null; attributes is no object
--          42P10  attributes have no unique key, or not the one of key
--          42601, 42703, 42804, 42883, 22P02, 42P02  bad input
--          42809, 428C9  not a table; a generated column
--          40001  the row came after the snapshot of this transaction: try again
--          42501  this role may not, or may not see the row that has the key
--          NS001  the row would fulfil revive with attributes, too
--          NS012  a trigger keeps the row out
--          NS014  keys of attributes are those of two rows, or key is that of none and another
--                 key that of one; both are named
--          23505, 23P01  as a plain INSERT: a key that attributes do not have is taken; and
--                 what else the table has against the row, 23502, 23514, 22001
-- Locks    those of SELECT, and of INSERT or UPDATE where there is something to write; none longer
-- Races    an INSERT that conflicts waits for the other to commit or roll back, then looks again.
--          A found row is not locked: it may go before the caller uses it
-- Rights   SELECT on all columns, INSERT on those of attributes; with revive UPDATE of them.
--          Policies of row security hold
declare
    v_index record;
    v_name text;
    v_match text;
    v_matches text[] := '{}';
    v_keys oid[] := '{}';
    v_plain boolean := revive is null;
begin
    if num_nulls(target, attributes) > 0 or jsonb_typeof(attributes) <> 'object' then
        perform ensure._raise_attributes_v1(target, attributes);
    end if;
    -- Keys of plain columns are looked up here, with little to plan; all else in _look_row_v1.
    for v_index in
        select i.indexrelid as oid, i.indnkeyatts as width, i.indexprs is null as of_columns,
               i.indpred is null and 16384 > all (i.indclass) and 16384 > all (i.indcollation)
                   as plain,
               array(select a.attname::text
                     from pg_attribute as a
                     where a.attrelid = i.indrelid
                       and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                       and a.attcollation < 16384 and a.atttypid <> 3802 -- jsonb
                       and not (a.attlen = -1 and a.attalign = 'd')) as names -- composite
        from pg_index as i
        where i.indrelid = target and i.indisunique and i.indisvalid and i.indimmediate
    loop
        if not v_index.plain or not v_index.of_columns
           or cardinality(v_index.names) < v_index.width then
            v_plain := v_plain and (key is not null or v_index.of_columns
                                                       and not attributes ?& v_index.names);
        elsif attributes ?& v_index.names
              and (key is null or v_index.names @> key::text[] and v_index.names <@ key::text[])
        then
            v_match := null;
            foreach v_name in array v_index.names loop
                v_plain := v_plain and jsonb_typeof(attributes -> v_name)
                                       in ('string', 'number', 'boolean');
                v_match := concat_ws(' and ', v_match, format('"~t".%I = %L', v_name,
                                                              attributes ->> v_name));
            end loop;
            v_matches := v_matches || v_match;
            v_keys := v_keys || v_index.oid;
        end if;
    end loop;
    if not v_plain then
        null;
    elsif cardinality(v_keys) = 1 then
        execute format('select to_jsonb("~t".*) from %s%s as "~t" where %s',
                       case when pg_relation_filenode(target) is not null then 'only ' end, target,
                       v_match)
        into data;
    elsif cardinality(v_keys) > 1 then
        data := ensure._look_plain_v1(target, v_keys, v_matches);
    end if;
    outcome := 'exists';
    if data is null or (attributes || data) <> data then -- not there, or columns that are not
        select m.data, m.outcome into data, outcome
        from ensure._make_row_v1(target, attributes, key, revive) as m;
    end if;
end
$fn$;

comment on function ensure.ensure_row_v1(regclass, jsonb, name[], text) is
    'Target has one row with a unique key of attributes.';

-- migrate:down
drop function ensure.ensure_row_v1(regclass, jsonb, name[], text);
drop function ensure._look_plain_v1(regclass, oid[], text[]);
drop function ensure._make_row_v1(regclass, jsonb, name[], text);
drop function ensure._raise_attributes_v1(regclass, jsonb);
