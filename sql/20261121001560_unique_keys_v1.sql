-- migrate:up
create function ensure._unique_keys_v1(
    target regclass,
    columns text[],
    predicate text,
    nulls_equal boolean,
    split_nulls boolean
)
returns ensure._unique_key_v1[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unique_keys_v1: the key as asked, then the keys of the indexes that make it unique.
--
-- Returns  the second and later: one, or several partial ones where nulls are equal and the server
--          has no NULLS NOT DISTINCT or split_nulls asks for it
-- Errors   22004, 22023, 22P02, 42601, 42701, 42703, 42704, 42804, 42809, 42883, 42P01, 42P02,
--          54000, 54011  bad input
--          0A000  a temporary table; elements of whole rows
declare
    c_key constant ensure._unique_key_v1 :=
        ensure._unique_key_v1(target, columns, predicate, nulls_equal);
    v_keys ensure._unique_key_v1[];
begin
    if split_nulls is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'split_nulls must not be null',
            hint = 'Leave an argument out to get its default.';
    end if;
    v_keys := array[c_key];
    if nulls_equal and true = any (c_key.nullable)
       and (split_nulls or current_setting('server_version_num')::integer < 150000) then
        return v_keys || array(select s from ensure._split_key_v1(c_key) as s);
    end if;
    return v_keys || c_key;
end
$fn$;

comment on function ensure._unique_keys_v1(regclass, text[], text, boolean, boolean) is
    'The key as asked, then the keys of the indexes that make it unique.';

create function ensure._name_taken_v1(
    unique_key ensure._unique_key_v1,
    index_name name
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _name_taken_v1: index_name is free for an index on a key.
--
-- Errors   NS001  an index of the same table has it; NS007  something else has
declare
    v_other record;
begin
    select i.indexrelid is not null as of_table,
           coalesce(pg_get_indexdef(i.indexrelid),
                    pg_describe_object('pg_class'::regclass, c.oid, 0)) as what
    into v_other
    from pg_class as t
    join pg_class as c on c.relnamespace = t.relnamespace and c.relname = index_name
    left join pg_index as i on i.indexrelid = c.oid and i.indrelid = t.oid
    where t.oid = unique_key.target;
    if found then
        raise exception using
            errcode = case when v_other.of_table then 'NS001' else 'NS007' end,
            message = format('the name "%s" is taken', index_name),
            detail = format('Wanted: %s. There: %s.',
                            ensure._index_statement_v1(unique_key, index_name, ''), v_other.what),
            hint = 'Pass another index_name, or none.';
    end if;
end
$fn$;

comment on function ensure._name_taken_v1(ensure._unique_key_v1, name) is
    'index_name is free for an index on a key.';

create function ensure._check_readable_v1(
    relation regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_readable_v1: this role may read rows of relation.
--
-- Errors   42501  it may not
begin
    if not has_any_column_privilege(relation, 'SELECT') then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('rows of "%s" may not be read', relation),
            detail = format('It belongs to %I, this is %I.',
                            (select pg_get_userbyid(c.relowner) from pg_class as c
                             where c.oid = relation), current_user),
            hint = format('Grant SELECT on %s to %I, or call as the owner.', relation,
                          current_user);
    end if;
end
$fn$;

comment on function ensure._check_readable_v1(regclass) is
    'This role may read rows of relation.';

create function ensure._look_keys_v1(
    unique_keys ensure._unique_key_v1[],
    index_name name
)
returns table (place integer, index_oid oid, state text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_keys_v1: the index on each key, as far as it is there.
--
-- Returns  as _look_unique_v1; for nulls that are equal either all split indexes or the one with
--          NULLS NOT DISTINCT, whichever is there
-- Errors   NS001  another index over the same elements, or with the name that is asked for
--          NS007  the name is taken by something else; 22023  it is empty
--          42883, 42P17, 0A000  one is missing, and there can be none; 42501  nor look for it
declare
    c_key constant ensure._unique_key_v1 := unique_keys[1];
    c_split constant boolean := cardinality(unique_keys) > 2;
    c_whole constant record := ensure._look_unique_v1(c_key);
    v_key ensure._unique_key_v1;
    v_found record;
    v_places integer[];
    v_oids oid[];
    v_states text[];
    v_distinct text; -- an index in which nulls differ
begin
    if index_name = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'index_name must not be empty',
            hint = 'Leave it out to get the default.';
    end if;
    if c_whole.state = 'valid' then
        return query select 1, c_whole.index_oid, c_whole.state;
        return;
    end if;
    if c_split or c_key.nulls_equal
                  and cardinality(array_positions(c_key.nullable, true)) between 1 and 3 then
        foreach v_key in array case when c_split then unique_keys[2:]
                                    else array(select s from ensure._split_key_v1(c_key) as s) end
        loop
            v_found := ensure._look_unique_v1(v_key);
            v_places := v_places || coalesce(cardinality(v_places), 0) + 2;
            v_oids := v_oids || case when v_found.state <> 'different' then v_found.index_oid end;
            v_states := v_states || case when v_found.state = 'different' then 'missing'
                                         else v_found.state end;
        end loop;
        if c_split or 'valid' = all (v_states) then
            return query select u.* from unnest(v_places, v_oids, v_states) as u;
        end if;
        if 'valid' = all (v_states) then
            return;
        end if;
        v_key := c_key;
        v_key.nulls_equal := false;
        v_found := ensure._look_unique_v1(v_key);
        v_distinct := case when v_found.state = 'valid'
                           then pg_get_indexdef(v_found.index_oid) end;
    end if;
    if index_name is not null and (c_split and v_states[1] = 'missing'
                                   or not c_split and c_whole.state in ('missing', 'different'))
    then
        perform ensure._name_taken_v1(unique_keys[2], index_name);
    elsif index_name is null and (c_split and v_distinct is not null
                                  or not c_split and c_whole.state = 'different') then
        raise exception using
            errcode = 'NS001',
            message = format('"%s" has a unique index on the same elements that differs',
                             c_key.target::regclass),
            detail = format('Wanted: %s. There: %s.',
                            ensure._index_statement_v1(unique_keys[2], null, ''),
                            case when c_split then v_distinct else c_whole.definition end),
            hint = 'Ask for what is there or drop it; index_name asks for another one beside it.';
    end if;
    if c_split and 'missing' = any (v_states)
       or not c_split and c_whole.state in ('missing', 'different') then
        perform ensure._check_readable_v1(c_key.target);
        for v_place in 2 .. cardinality(unique_keys) loop
            perform ensure._check_indexable_v1(unique_keys[v_place]);
        end loop;
    end if;
    if not c_split then
        return query select 2, case when c_whole.state <> 'different' then c_whole.index_oid end,
                            case when c_whole.state = 'different' then 'missing'
                                 else c_whole.state end;
    end if;
end
$fn$;

comment on function ensure._look_keys_v1(ensure._unique_key_v1[], name) is
    'The index on each key, as far as it is there.';

-- migrate:down
drop function ensure._look_keys_v1(ensure._unique_key_v1[], name);
drop function ensure._check_readable_v1(regclass);
drop function ensure._name_taken_v1(ensure._unique_key_v1, name);
drop function ensure._unique_keys_v1(regclass, text[], text, boolean, boolean);
