-- migrate:up
create function ensure._check_path_v1(
    path jsonb
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_path_v1: an array of paths, each an array of levels, each with one kind.
--
-- Errors   22023  path is something else
declare
    c_paths constant jsonb := case
        when jsonb_path_exists(path, 'strict $[*] ? (@.type() == "array")', silent => true)
        then path else jsonb_build_array(path) end;
    v_path jsonb;
    v_level jsonb;
    v_problem text;
begin
    for v_path in select p.value from jsonb_array_elements(c_paths) as p (value) loop
        if jsonb_typeof(v_path) <> 'array' or v_path = '[]' then
            v_problem := 'a path is an array of one level or more';
            exit;
        end if;
        for v_level in select l.value from jsonb_array_elements(v_path) as l (value) loop
            v_problem := case
                when jsonb_typeof(v_level) <> 'object' then 'a level is an object'
                when (select count(*) from jsonb_object_keys(v_level) as k (name)
                      where k.name in ('list', 'range', 'hash')) <> 1
                then 'a level has one of list, range and hash'
                when v_level - '{list,range,hash,key,step,ahead,zone,origin,epoch,regrid}'::text[]
                     <> '{}'
                then 'a level has list, range or hash, key, and for a range step, ahead, zone,'
                     ' origin, epoch, regrid'
                when exists (select from jsonb_each(v_level) as e (name, value)
                             where jsonb_typeof(e.value) in ('array', 'object')
                                or e.name <> 'list' and e.value = 'null')
                then 'a value is a string, a number or a boolean; null only for list'
                when v_level ? 'range' and not v_level ? 'step' then 'a range level has a step'
                when (v_level ->> 'ahead') !~ '^\d{1,4}$' then 'ahead is a number'
                when (v_level ->> 'hash') !~ '^[1-9]\d{0,3}$' then 'hash is a modulus'
                when (v_level ->> 'regrid') not in ('true', 'false') then 'regrid is a boolean'
            end;
            exit when v_problem is not null;
        end loop;
        exit when v_problem is not null;
    end loop;
    if v_problem is not null or path is null or c_paths = '[]' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('path is not understood: %s', coalesce(v_problem, 'it is empty')),
            detail = format('Found: %s.', coalesce(v_level, v_path, path)),
            hint = 'Write the levels from the root: [{"list": "42"}, {"range": "1500000",'
                   ' "step": "1000000", "key": "seq"}], or an array of such paths.';
    end if;
    return c_paths;
end
$fn$;

comment on function ensure._check_path_v1(jsonb) is
    'An array of paths, each an array of levels, each with one kind.';

create function ensure._level_key_v1(
    root regclass,
    path jsonb,
    depth integer
)
returns name
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _level_key_v1: the key column of a level of path: what it says, or what root has there already.
--
-- Errors   22023  neither says
declare
    v_key text := path -> depth ->> 'key';
    v_at oid := root;
begin
    if v_key is null then
        for v_level in 1 .. depth loop
            select i.inhrelid into v_at
            from pg_inherits as i
            join pg_partitioned_table as p on p.partrelid = i.inhrelid
            where i.inhparent = v_at
            limit 1;
        end loop;
        select a.attname into v_key
        from pg_partitioned_table as p
        join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
        where p.partrelid = v_at and a.attnum > 0;
    end if;
    if v_key is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('level %s of path has no key', depth + 1),
            detail = format('Nothing in "%s" tells it yet.', root),
            hint = 'Add "key": the column that the level is partitioned by.';
    end if;
    return v_key;
end
$fn$;

comment on function ensure._level_key_v1(regclass, jsonb, integer) is
    'The key column of a level of path: what it says, or what root has there already.';

create function ensure._level_cells_v1(
    root regclass,
    level jsonb,
    key_column name,
    key_type regtype,
    key_typmod integer
)
returns table (lower_bound text, upper_bound text, label text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _level_cells_v1: the cells that a level of a path asks for.
--
-- Errors   0A000  a range level on a column of another type
--          as of _grid_v1 and _list_values_v1
begin
    if level ? 'hash' then
        return query
        select r.n::text, level ->> 'hash', format('%s_of_%s', r.n, level ->> 'hash')
        from generate_series(0, (level ->> 'hash')::integer - 1) as r (n);
    elsif level ? 'list' then
        return query
        select v.value, v.value, ensure._label_v1(v.value)
        from unnest(ensure._list_values_v1(key_type, array[level ->> 'list'])) as v (value);
    elsif key_type not in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype,
                           'numeric'::regtype, 'uuid'::regtype, 'date'::regtype,
                           'timestamp'::regtype, 'timestamptz'::regtype) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('column "%s" of "%s" cannot be the key of a range level', key_column,
                             root),
            detail = format('It is of type %s.', key_type),
            hint = 'The key must be one column of type date, timestamp, timestamptz,'
                   ' smallint, integer, bigint, numeric or uuid.';
    else
        return query
        select g.lower_bound, g.upper_bound, g.label
        from ensure._grid_v1(key_type, key_typmod, level ->> 'step', level ->> 'range',
                             level ->> 'range', coalesce((level ->> 'ahead')::integer, 0),
                             coalesce(level ->> 'zone', 'UTC'), level ->> 'origin',
                             level ->> 'epoch') as g;
    end if;
end
$fn$;

comment on function ensure._level_cells_v1(regclass, jsonb, name, regtype, integer) is
    'The cells that a level of a path asks for.';

create function ensure._path_nodes_v1(
    parents regclass[],
    paths jsonb
)
returns ensure._node_v1[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _path_nodes_v1: the partitions that paths ask for in each of parents, each once, from the top.
--
-- Errors   42703  a key is no column
--          as of _partition_key_v1, _level_key_v1 and _level_cells_v1
declare
    c_kinds constant jsonb := '{"list": "l", "range": "r", "hash": "h"}';
    v_nodes ensure._node_v1[] := '{}';
    v_names text[] := '{}'; -- of each node, to find it again
    v_root regclass;
    v_path jsonb;
    v_level jsonb;
    v_key record;
    v_cell record;
    v_within integer[];
    v_next integer[];
    v_up integer;
    v_at integer;
    v_kind "char";
    v_name text;
    v_by text;
begin
    foreach v_root in array array(select distinct p.oid from unnest(parents) as p (oid)
                                  order by p.oid) loop
        for v_path in select p.value from jsonb_array_elements(paths) as p (value) loop
            v_within := array[null::integer];
            for v_depth in 0 .. jsonb_array_length(v_path) - 1 loop
                v_level := v_path -> v_depth;
                v_kind := (select c_kinds ->> k.name from jsonb_object_keys(v_level) as k (name)
                           where c_kinds ? k.name);
                perform k.key_type from ensure._partition_key_v1(v_root, v_kind) as k
                where v_depth = 0;
                select a.attname, a.atttypid::regtype as type, a.atttypmod as typmod into v_key
                from pg_attribute as a
                where a.attrelid = v_root and a.attnum > 0 and not a.attisdropped
                  and a.attname = ensure._level_key_v1(v_root, v_path, v_depth);
                if not found then
                    raise exception using
                        errcode = 'undefined_column',
                        message = format('column "%s" of "%s" does not exist',
                                         v_level ->> 'key', v_root),
                        hint = 'Name as "key" the column that the level is partitioned by.';
                end if;
                v_by := case when v_depth < jsonb_array_length(v_path) - 1 then format(
                    '%s (%I)', (select k.name from jsonb_object_keys(v_path -> v_depth + 1)
                                     as k (name) where c_kinds ? k.name),
                    ensure._level_key_v1(v_root, v_path, v_depth + 1)) end;
                v_next := '{}';
                for v_cell in
                    select c.*
                    from ensure._level_cells_v1(v_root, v_level, v_key.attname, v_key.type,
                                                v_key.typmod) as c
                loop
                    foreach v_up in array v_within loop
                        v_name := concat_ws('|', v_root::oid, coalesce(v_up, 0), v_kind,
                                            quote_nullable(v_cell.lower_bound), v_cell.upper_bound);
                        v_at := array_position(v_names, v_name);
                        if v_at is null then
                            v_nodes := v_nodes || row (
                                v_root, case when v_up is null then v_root end, v_up, v_kind,
                                v_key.attname, v_key.type, v_cell.lower_bound, v_cell.upper_bound,
                                v_cell.label, v_by,
                                case when v_kind = 'r' then jsonb_build_object(
                                    'step', v_level ->> 'step', 'origin', v_level ->> 'origin',
                                    'zone', coalesce(v_level ->> 'zone', 'UTC'),
                                    'epoch', v_level ->> 'epoch', 'typmod', v_key.typmod,
                                    'regrid', coalesce((v_level ->> 'regrid')::boolean, false))
                                end)::ensure._node_v1;
                            v_names := v_names || v_name;
                            v_at := cardinality(v_names);
                        end if;
                        v_next := v_next || v_at;
                    end loop;
                end loop;
                perform ensure._check_cells_v1(cardinality(v_nodes));
                v_within := v_next;
            end loop;
        end loop;
    end loop;
    return v_nodes;
end
$fn$;

comment on function ensure._path_nodes_v1(regclass[], jsonb) is
    'The partitions that paths ask for in each of parents, each once, from the top.';

create function ensure.ensure_partition_tree_v1(
    parents regclass[],
    path jsonb,
    max_wait interval default '10 s',
    max_block interval default '500 ms',
    template regclass default null
)
returns table (partition regclass, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
set extra_float_digits = 1
as $fn$
-- ensure_partition_tree_v1: every partition on path is there in each of parents, all or nothing.
--
-- Returns  partition, its bounds (of a list the value, of hash remainder and modulus), outcome
--          'exists' | 'created' | 'attached'; parents by oid, in each from the top, each once
-- Errors   22004  parents, path or a budget is null
--          22001, 22003, 22007, 22008  a value is too long or out of range, is not an ISO time
--          22023  path is not understood, a value is not of the key's type, a budget is negative
--          42703  key is no column
--          42P01, 42809, 0A000  no such table; partitioned in another way; a key of another kind
--          54000, 53200  more than 1000 partitions, or than the server's lock table can hold
--          25006, 42501  partitions are missing, and this transaction or role may not create them
--          40001  a parent was created, renamed or moved after the snapshot of this transaction
--          55006  a parent is in use by this session, as in a trigger on it
--          55P03  max_wait was spent waiting for locks; DETAIL names the holders
--          NS001  a partition overlaps a cell and does not contain it, or is not partitioned itself
--          NS002  partitions are missing, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written: ensure first
--          NS004  a default partition holds rows that belong into a new one
--          NS005  a partition in the way is being detached
--          NS006  a concurrent index build is in the way
--          NS007  the names for a new partition are taken
--          NS008  what is missing lies beside partitions of another grid
-- Locks    none that last when nothing is to be done. Else as ensure_partitions_v1, on the tables
--          that get a partition attached: what is new below is built while nobody sees it,
--          attached last
-- Races    as ensure_partitions_v1; parents in one order, whatever the order given
-- Rights   as ensure_partitions_v1, for each of parents
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    if num_nulls(parents, path) > 0 or array_position(parents, null) is not null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'parents and path must not be null',
            hint = 'Name partitioned tables, for example array[''app.meta'', ''app.blob''].';
    end if;
    return query
    select e.partition, e.lower_bound, e.upper_bound, e.outcome
    from ensure._ensure_nodes_v1(
             ensure._path_nodes_v1(parents, ensure._check_path_v1(path)), template, false,
             max_block, max_wait) as e;
end
$fn$;

comment on function ensure.ensure_partition_tree_v1(regclass[], jsonb, interval, interval, regclass)
    is 'Every partition on path is there in each of parents, all or nothing.';

-- migrate:down
drop function ensure.ensure_partition_tree_v1(regclass[], jsonb, interval, interval, regclass);
drop function ensure._path_nodes_v1(regclass[], jsonb);
drop function ensure._level_cells_v1(regclass, jsonb, name, regtype, integer);
drop function ensure._level_key_v1(regclass, jsonb, integer);
drop function ensure._check_path_v1(jsonb);
