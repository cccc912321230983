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
--          plain INSERT or UPDATE does. UPDATE is in a subtransaction, INSERT only the last time
declare
    v_given text[];
    v_conflict text;
    v_found record;
    v_schema text;
    v_index text;
begin
    if num_nulls(target, attributes) > 0 or jsonb_typeof(attributes) <> 'object' then
        perform ensure._raise_attributes_v1(target, attributes);
    end if;
    v_given := array(select jsonb_object_keys(attributes));
    perform ensure._check_attributes_v1(target, v_given);
    if revive is not null then
        perform ensure._read_expression_v1(target, revive, 'predicate');
    end if;
    v_conflict := ensure._conflict_v1(target, v_given::name[], key);
    for v_try in 1..5 loop
        v_found := ensure._look_row_v1(target, attributes, key, revive);
        if v_found.data is null then
            outcome := 'created';
            data := ensure._insert_row_v1(target, attributes, v_conflict);
        elsif v_found.dead then
            outcome := 'revived';
            begin
                data := ensure._revive_row_v1(target, attributes, revive, v_found.part,
                                              v_found.place);
            exception when unique_violation then
                data := null; -- by another who was first, or by another key: the next look says
            end;
        else
            outcome := 'exists';
            data := v_found.data;
        end if;
        if data is not null then
            return;
        end if;
    end loop;
    if outcome = 'revived' then
        data := ensure._revive_row_v1(target, attributes, revive, v_found.part, v_found.place);
    else
        perform ensure._raise_taken_v1(target, attributes, key);
        begin
            data := ensure._insert_row_v1(target, attributes, '');
        exception when unique_violation then
            get stacked diagnostics v_schema = schema_name, v_index = constraint_name;
            perform ensure._raise_hidden_v1(target, v_given::name[],
                                            to_regclass(format('%I.%I', v_schema, v_index)));
            raise;
        end;
    end if;
    if data is null then
        perform ensure._raise_kept_out_v1(target, attributes);
    end if;
end
$fn$;

comment on function ensure._make_row_v1(regclass, jsonb, name[], text) is
    'As ensure_row_v1, when the row was not found at once.';

create function ensure._row_query_v1(
    target regclass,
    attributes jsonb,
    key name[]
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $fn$
-- _row_query_v1: SQL for the row that has the unique key of attributes, if that is plain.
--
-- Returns  null when attributes have no key, or several, or one with more to it than columns of
--          PostgreSQL's own types: then _look_row_v1 says. What this finds is right; what it does
--          not find may be there, as a value that the column rounds
declare
    v_index record;
    v_name text;
    v_query text;
begin
    for v_index in
        select n.names, i.indpred is null and i.indexprs is null
                        and i.indnkeyatts = cardinality(n.names) and 16384 > all (i.indclass)
                        and 16384 > all (i.indcollation) as plain
        from pg_index as i
        cross join lateral (
            select array(
                select a.attname::text
                from pg_attribute as a
                where a.attrelid = i.indrelid
                  and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                  and a.attcollation < 16384 and a.attgenerated = ''
                  -- bool, bytea, int8, int2, int4, text, oid, float4, float8, char(n), varchar,
                  -- date, time, timestamp, timestamptz, numeric, uuid: what '=' and an untyped
                  -- literal are right for
                  and a.atttypid in (16, 17, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083,
                                     1114, 1184, 1700, 2950)) as names) as n
        where i.indrelid = target and i.indisunique and i.indisvalid and i.indimmediate
    loop
        if attributes ?& v_index.names
           and (key is null or v_index.names @> key::text[] and v_index.names <@ key::text[]) then
            if not v_index.plain or v_query is not null then
                return null;
            end if;
            v_query := format(
                'select to_jsonb("~t".*) from %s%s as "~t" where true',
                case when pg_relation_filenode(target) is not null then 'only ' end, target);
            foreach v_name in array v_index.names loop
                v_query := v_query || format(' and "~t".%I = %L', v_name, attributes ->> v_name);
            end loop;
        end if;
    end loop;
    return v_query;
end
$fn$;

comment on function ensure._row_query_v1(regclass, jsonb, name[]) is
    'SQL for the row that has the unique key of attributes, if that is plain.';

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
--          42601, 42703, 42804, 42883, 22003, 22007, 22008, 22P02, 42P02  bad input; of
--                 a value also another of class 22, as its type has it
--          42809, 428C9, 0A000  not a table; a generated column; a rule for INSERT
--          25006  it is not there, and this transaction is read-only
--          55000  a deferrable constraint has the columns of the key, too
--          55P03  lock_timeout was spent waiting for another's INSERT
--          40001  the row came after the snapshot of this transaction, or SERIALIZABLE sees another
--                 conflict: try the transaction again
--          40P01  two transactions ensure the same two rows, each in another order: try again
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
--          Policies of row security hold. Triggers fire, with the search_path of their own or
--          pg_catalog
declare
    v_query text;
begin
    if revive is null then
        v_query := ensure._row_query_v1(target, attributes, key);
        if v_query is not null then
            execute v_query into data;
        end if;
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
drop function ensure._row_query_v1(regclass, jsonb, name[]);
drop function ensure._make_row_v1(regclass, jsonb, name[], text);
drop function ensure._raise_attributes_v1(regclass, jsonb);
