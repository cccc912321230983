-- migrate:up
create function ensure._key_order_v1(
    key_type regtype,
    value text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_order_v1: the name that a partition beginning at value would end in, if it had one of ours.
--
-- Returns  null where names do not follow the order of keys. Integers of the size of a unix time
--          are taken for one as well, after a blank
declare
    c_label constant text := 'YYYY_MM_DD_HH24MISS';
    v_seconds numeric;
begin
    case
        when key_type in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) then
            return case when isfinite(value::timestamptz)
                        then to_char(value::timestamptz, c_label) end;
        when key_type = 'uuid'::regtype then
            return to_char(to_timestamp(('x' || left(replace(value, '-', ''), 12))::bit(48)::bigint
                                        / 1000.0), c_label);
        when value like '-%' or value::numeric in ('NaN', 'Infinity') then
            return null;
        else
            v_seconds := value::numeric / case when value::numeric > 1e17 then 1e9
                                               when value::numeric > 1e14 then 1e6
                                               when value::numeric > 1e11 then 1e3 else 1 end;
            return concat(lpad(trunc(value::numeric)::text, greatest(
                              13, length(trunc(value::numeric)::text)), '0'),
                          case when v_seconds between 1e8 and 1e10
                               then ' ' || to_char(to_timestamp(v_seconds::float8), c_label) end);
    end case;
end
$fn$;

comment on function ensure._key_order_v1(regtype, text) is
    'The name that a partition beginning at value would end in, if it had one of ours.';

create function ensure._within_v1(
    key_type regtype,
    value text,
    bounds text[]
)
returns boolean
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _within_v1: value lies in a range partition with these bounds.
begin
    if bounds is null or value is null then
        return false;
    elsif key_type = 'uuid'::regtype then
        return (bounds[1] = 'MINVALUE' or value collate "C" >= bounds[1])
           and (bounds[2] = 'MAXVALUE' or value collate "C" < bounds[2]);
    elsif key_type in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) then
        return (bounds[1] = 'MINVALUE' or value::timestamptz >= bounds[1]::timestamptz)
           and (bounds[2] = 'MAXVALUE' or value::timestamptz < bounds[2]::timestamptz);
    end if;
    return (bounds[1] = 'MINVALUE' or value::numeric >= bounds[1]::numeric)
       and (bounds[2] = 'MAXVALUE' or value::numeric < bounds[2]::numeric);
end
$fn$;

comment on function ensure._within_v1(regtype, text, text[]) is
    'Value lies in a range partition with these bounds.';

create function ensure._range_partition_v1(
    parent regclass,
    key_type regtype,
    value text
)
returns oid
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _range_partition_v1: the range partition that holds value, null when none but a default does.
--
-- Locks    none; its cost grows with the number of partitions only when they do not have our names
declare
    c_fresh constant boolean := current_setting('transaction_isolation')
                                not in ('repeatable read', 'serializable');
    c_path constant text[] := parse_ident(parent::text);
    c_schema constant oid := to_regnamespace(quote_ident(c_path[1]));
    c_first constant name := c_path[2] || '_';
    c_parent constant bigint := parent::oid;
    v_label text;
    v_near oid;
    v_bound text;
begin
    foreach v_label in array
        coalesce(regexp_split_to_array(ensure._key_order_v1(key_type, value), ' '), '{}')
    loop
        foreach v_near in array
            array(select c.oid
                  from pg_class as c
                  where c.relname <= left(c_first || v_label, 63)::name and c.relname > c_first
                    and c.relnamespace = c_schema and c.relispartition
                  order by c.relname desc limit 2)
            || array(select c.oid
                     from pg_class as c
                     where c.relname > left(c_first || v_label, 63)::name
                       and c.relname < (c_first || 'a')::name
                       and c.relnamespace = c_schema and c.relispartition
                     order by c.relname limit 1)
        loop
            -- It, or, of a tree, the one above it that is right below parent.
            select a.relid into v_near
            from (select p.relid, lead(p.relid) over (order by p.n) as above
                  from pg_partition_ancestors(v_near) with ordinality as p (relid, n)) as a
            where a.above = parent;
            select pg_get_expr(c.relpartbound, 0) into v_bound
            from pg_class as c
            join pg_inherits as i on i.inhrelid = c.oid
            where c.oid = v_near and not i.inhdetachpending
              and i.inhparent::bigint = c_parent -- by its index all would be read
              and (c_fresh or ensure._stands_v1(c.xmax) and ensure._stands_v1(i.xmax));
            if found and ensure._within_v1(key_type, value, ensure._bounds_v1(v_bound)) then
                return v_near;
            end if;
        end loop;
    end loop;
    return (select l.partition from ensure._list_partitions_v1(parent, 'r', null, null, null, '{}')
                                    as l
            where not l.detached and ensure._within_v1(key_type, value, l.bounds)
            limit 1);
end
$fn$;

comment on function ensure._range_partition_v1(regclass, regtype, text) is
    'The range partition that holds value, null when none but a default does.';

create function ensure._list_partition_v1(
    parent regclass,
    key_type regtype,
    value text
)
returns oid
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _list_partition_v1: the list partition that holds value, null when none but a default does.
--
-- Locks    none; its cost grows with the number of partitions only when it does not have our name
declare
    c_path constant text[] := parse_ident(parent::text);
    v_found oid[] := ensure._find_partitions_v1(parent, c_path[1], c_path[2], 'l', array[value],
                                                array[value], array[ensure._label_v1(value)]);
begin
    return coalesce(v_found[1],
                    (select c.partition
                     from ensure._cover_values_v1(parent, 'l', null, key_type, array[value],
                                                  array[value], '{}') as c
                     where not c.detached));
end
$fn$;

comment on function ensure._list_partition_v1(regclass, regtype, text) is
    'The list partition that holds value, null when none but a default does.';

create function ensure._hash_partition_v1(
    parent regclass,
    key_type regtype,
    value text
)
returns oid
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _hash_partition_v1: the hash partition that holds value.
--
-- Returns  any of them where all remainders are there and nothing below makes a difference
-- Locks    else ACCESS SHARE on parent
declare
    v_row record;
    v_holds boolean;
begin
    select sum(1.0 / l.bounds[2]::numeric) > 0.999999999999 as complete,
           min(l.partition) as partition, bool_or(c.relkind = 'p') as partitioned
    into v_row
    from ensure._list_partitions_v1(parent, 'h', null, null, null, '{}') as l
    join pg_class as c on c.oid = l.partition
    where not l.detached;
    if v_row.complete and not v_row.partitioned then
        return v_row.partition;
    end if;
    for v_row in
        select l.partition, l.bounds
        from ensure._list_partitions_v1(parent, 'h', null, null, null, '{}') as l
        where not l.detached
    loop
        execute format('select satisfies_hash_partition(%s, %s, %s, %L::%s)', parent::oid,
                       v_row.bounds[2], v_row.bounds[1], value, format_type(key_type, -1))
        into v_holds;
        if v_holds then
            return v_row.partition;
        end if;
    end loop;
    return null;
end
$fn$;

comment on function ensure._hash_partition_v1(regclass, regtype, text) is
    'The hash partition that holds value.';

create function ensure._key_value_v1(
    relation regclass,
    key_column name,
    key_type regtype,
    key_typmod integer,
    keys jsonb
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_value_v1: the value of a column of the partition key, as PostgreSQL stores it.
--
-- Errors   22023  keys lacks it, or it is not of key_type
declare
    v_value text := keys ->> key_column;
begin
    if jsonb_typeof(keys) <> 'object' or not keys ? key_column
       or jsonb_typeof(keys -> key_column) in ('object', 'array') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('keys has no value for column "%s"', key_column),
            detail = format('"%s" is partitioned by it.', relation),
            hint = 'Name each column of the partition key: {"id": 42}.';
    elsif key_type in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
          and v_value ~ '^(-?[1-9]\d{0,18}|0)$'
          and abs(v_value::numeric + 0.5) < ensure._integer_end_v1(key_type) + 1 then
        return v_value;
    end if;
    v_value := (ensure._list_values_v1(key_type, array[v_value]))[1];
    if key_typmod >= 0 and key_type in ('numeric'::regtype, 'timestamp'::regtype,
                                        'timestamptz'::regtype) then -- rounded as an insert does
        execute format('select %L::%s::text', v_value, format_type(key_type, key_typmod))
        into v_value;
    end if;
    return v_value;
end
$fn$;

comment on function ensure._key_value_v1(regclass, name, regtype, integer, jsonb) is
    'The value of a column of the partition key, as PostgreSQL stores it.';

create function ensure.check_coverage_v1(
    parent regclass,
    keys jsonb
)
returns boolean
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
-- check_coverage_v1: whether a row with these keys has a partition, other than a default, to go to.
--
-- Returns  true only when an insert that follows finds it. Keys by column name, for every level:
--          {"originator": 42, "seq": 1500000}; times without an offset are in UTC. A partition of
--          an old snapshot that may have changed since does not count
-- Errors   22004  parent or keys is null
--          22023  keys lacks a column of the partition key, or its value is not of the key's type
--          42P01, 42809, 0A000  no such table; not partitioned; a key that is not one plain column
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          55P03  the creator of a partition does not come to the end of its commit
-- Locks    none that last; below a hash level that is partitioned again, ACCESS SHARE on that table
-- Rights   USAGE on schema ensure and on that of parent
declare
    v_at regclass := parent;
    v_key record;
    v_value text;
    v_next oid;
    v_path oid[] := '{}';
    v_conditions text[] := '{}';
begin
    if keys is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'keys must not be null',
            hint = 'Name each column of the partition key: {"id": 42}.';
    end if;
    loop
        select t.partstrat as kind, a.attname as column, a.atttypid::regtype as type,
               a.atttypmod as typmod
        into v_key
        from pg_partitioned_table as t
        left join pg_attribute as a on a.attrelid = t.partrelid and a.attnum = t.partattrs[0]
                                       and a.attnum > 0 and t.partnatts = 1
        where t.partrelid = v_at;
        exit when not found and v_at <> parent;
        if v_at = parent or v_key.column is null or v_key.kind = 'r' then
            perform ensure._partition_key_v1(v_at, coalesce(v_key.kind, 'r'));
        end if;
        v_value := ensure._key_value_v1(v_at, v_key.column, v_key.type, v_key.typmod, keys);
        v_next := case v_key.kind
            when 'r' then ensure._range_partition_v1(v_at, v_key.type, v_value)
            when 'l' then ensure._list_partition_v1(v_at, v_key.type, v_value)
            else ensure._hash_partition_v1(v_at, v_key.type, v_value) end;
        if v_next is null then
            return false;
        end if;
        v_path := v_path || v_next;
        v_conditions := v_conditions || ensure._key_condition_v1(v_key.kind, v_key.column,
                                                                 v_key.type, v_value);
        v_at := v_next;
    end loop;
    perform ensure._await_commit_v1(v_path)
    where exists (select from pg_class as c -- nobody has analyzed it yet
                  where c.oid = any (v_path) and c.relkind = 'r' and c.reltuples < 0);
    return ensure._routes_v1(parent, nullif(array_to_string(v_conditions, ' and '), ''),
                             v_path[array_upper(v_path, 1)]) is not false;
end
$fn$;

comment on function ensure.check_coverage_v1(regclass, jsonb) is
    'Whether a row with these keys has a partition, other than a default, to go to.';

-- migrate:down
drop function ensure.check_coverage_v1(regclass, jsonb);
drop function ensure._key_value_v1(regclass, name, regtype, integer, jsonb);
drop function ensure._hash_partition_v1(regclass, regtype, text);
drop function ensure._list_partition_v1(regclass, regtype, text);
drop function ensure._range_partition_v1(regclass, regtype, text);
drop function ensure._within_v1(regtype, text, text[]);
drop function ensure._key_order_v1(regtype, text);
