-- migrate:up
create function ensure._check_constraint_v1(
    unique_keys ensure._unique_key_v1[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_constraint_v1: the index on a key can become a constraint.
--
-- Errors   0A000  it cannot
declare
    c_key constant ensure._unique_key_v1 := unique_keys[1];
    v_found record;
begin
    if cardinality(unique_keys) > 2 or c_key.canonical is not null
       or exists (select from pg_class as c where c.oid = c_key.target and c.relkind = 'p') then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('the unique index on "%s" cannot become a constraint',
                             c_key.target::regclass),
            detail = 'A constraint is on columns alone, without predicate, expression, collation,'
                     ' operator class or several indexes for nulls, of a table that is not'
                     ' partitioned.',
            hint = 'Leave out as_constraint: the index alone does the same.';
    end if;
    v_found := ensure._look_unique_v1(c_key);
    if v_found.state <> 'different' and exists (
        select from pg_index as i
        where i.indexrelid = v_found.index_oid and 0 <> any (i.indoption::int2[])) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('the unique index on "%s" cannot become a constraint',
                             c_key.target::regclass),
            detail = format('"%s" is DESC or NULLS FIRST.', v_found.index_oid::regclass),
            hint = 'Drop it, and call again: another one is made; or leave out as_constraint.';
    end if;
end
$fn$;

comment on function ensure._check_constraint_v1(ensure._unique_key_v1[]) is
    'The index on a key can become a constraint.';

create function ensure._check_target_v1(
    target regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_target_v1: target is still there, whatever this snapshot shows.
--
-- Errors   42P01  it is not
begin
    if pg_table_is_visible(target) is null then
        raise exception using
            errcode = 'undefined_table',
            message = format('the table with the oid %s was dropped meanwhile', target::oid),
            hint = 'Call again when the table is there.';
    end if;
end
$fn$;

comment on function ensure._check_target_v1(regclass) is
    'Target is still there, whatever this snapshot shows.';

create function ensure._found_unique_v1(
    unique_keys ensure._unique_key_v1[],
    index_name name,
    as_constraint boolean
)
returns regclass[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _found_unique_v1: the indexes that make a key unique, or null when something is missing.
--
-- Errors   NS001, NS007  as _look_keys_v1; 0A000  several, which cannot become a constraint
-- Races    an old snapshot shows indexes as they were: one counts only while it stands
declare
    v_found record;
begin
    select array_agg(l.index_oid::regclass order by l.place) as indexes,
           bool_and(l.state = 'valid') as valid
    into v_found
    from ensure._look_keys_v1(unique_keys, index_name) as l;
    if as_constraint and cardinality(v_found.indexes) > 1 then -- split, though not asked for
        perform ensure._check_constraint_v1(unique_keys || unique_keys[1]);
    end if;
    if not v_found.valid
       or as_constraint and not exists (select from pg_constraint as u
                                        where u.conindid = v_found.indexes[1]
                                          and u.contype in ('p', 'u'))
       or current_setting('transaction_isolation') in ('repeatable read', 'serializable')
          and exists (select from pg_index as i
                      where i.indexrelid = any (v_found.indexes)
                        and not ensure._stands_v1(i.xmax)) then
        return null;
    end if;
    return v_found.indexes;
end
$fn$;

comment on function ensure._found_unique_v1(ensure._unique_key_v1[], name, boolean) is
    'The indexes that make a key unique, or null when something is missing.';

create function ensure._raise_unique_problem_v1(
    code text,
    problem text,
    detail text,
    target regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_unique_problem_v1: what PostgreSQL said while a table was made unique, with advice.
--
-- Errors   55006, NS010
begin
    if code = '55006' then
        raise exception using
            errcode = 'object_in_use',
            message = problem,
            hint = format('Call before the statement that uses "%s", not from a trigger or cursor'
                          ' on it, nor while deferred checks of it are to come.', target);
    end if;
    raise exception using
        errcode = 'NS010',
        message = format('dealing with the duplicates of "%s" makes duplicates elsewhere', target),
        detail = concat_ws('. ', problem, detail),
        hint = 'Look at loser_set, triggers and the unique indexes of the tables that reference'
               ' it; nothing was changed.';
end
$fn$;

comment on function ensure._raise_unique_problem_v1(text, text, text, regclass) is
    'What PostgreSQL said while a table was made unique, with advice.';

-- migrate:down
drop function ensure._raise_unique_problem_v1(text, text, text, regclass);
drop function ensure._found_unique_v1(ensure._unique_key_v1[], name, boolean);
drop function ensure._check_target_v1(regclass);
drop function ensure._check_constraint_v1(ensure._unique_key_v1[]);
