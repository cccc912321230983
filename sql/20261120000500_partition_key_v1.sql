-- migrate:up
create type ensure._node_v1 as (
    root regclass,       -- the table whose visible rows in catalogs tell owner, keys and columns
    parent regclass,     -- where the partition belongs; null when that is a node itself
    within integer,      -- the place of that node
    kind "char",         -- r(ange), l(ist), h(ash), d(efault)
    key_column name,
    key_type regtype,
    lower_bound text,    -- list: the value, in both; hash: remainder and modulus; default: null
    upper_bound text,
    label text,          -- what its name ends in
    partition_by text,   -- of the partition itself, null for a leaf
    grid jsonb           -- step, zone, origin, epoch, regrid of a cell: neighbours must fit
);

comment on type ensure._node_v1 is
    'One partition that is wanted.';

create function ensure._partition_key_v1(
    parent regclass,
    strategy "char",
    out schema_name name,
    out table_name name,
    out owner oid,
    out key_column name,
    out key_type regtype,
    out key_typmod integer
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _partition_key_v1: what is needed to know of a table partitioned by strategy on one plain column.
--
-- Returns  for LIST, HASH and, with strategy d(efault), any key: key_column null when it is not
--          one plain column
-- Errors   22004  parent is null
--          42P01  no such relation
--          40001  parent was created, renamed or moved after this transaction's snapshot
--          42809  not a partitioned table, or partitioned in another way
--          0A000  a key that strategy cannot be served with, a temporary table
declare
    c_types constant oid[] := array['smallint'::regtype, 'integer'::regtype, 'bigint'::regtype,
                                    'numeric'::regtype, 'uuid'::regtype, 'date'::regtype,
                                    'timestamp'::regtype, 'timestamptz'::regtype];
    c_word constant text := case strategy when 'r' then 'RANGE' when 'l' then 'LIST'
                                          when 'h' then 'HASH' else 'RANGE or LIST' end;
    v_table record;
begin
    if current_setting('transaction_isolation') = 'read committed' then -- the common case, briefly
        select c.relowner, a.attname, a.atttypid, a.atttypmod
        into owner, key_column, key_type, key_typmod
        from pg_class as c
        join pg_partitioned_table as t on t.partrelid = c.oid
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = t.partattrs[0]
        join pg_opclass as o on o.oid = t.partclass[0]
        where c.oid = parent and c.relpersistence <> 't' and t.partstrat = strategy
          and t.partnatts = 1 and a.attnum > 0 and o.opcdefault
          and (strategy <> 'r' or a.atttypid = any (c_types));
        if found then
            schema_name := (parse_ident(parent::text))[1];
            table_name := (parse_ident(parent::text))[2];
            return;
        end if;
    end if;
    if parent is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'parent must not be null',
            hint = 'Name a partitioned table, for example ''app.events''.';
    end if;

    select n.nspname, c.relname, c.relowner, c.relkind, c.relpersistence, t.partstrat, a.attname,
           a.atttypid, a.atttypmod, o.opcdefault
    into v_table
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    left join pg_partitioned_table as t on t.partrelid = c.oid
    left join pg_attribute as a on a.attrelid = c.oid and a.attnum = t.partattrs[0]
                                   and t.partattrs[0] > 0 and t.partnatts = 1
    left join pg_opclass as o on o.oid = t.partclass[0]
    where c.oid = parent;

    if has_table_privilege(parent, 'SELECT') is null then -- null: no such table now
        raise exception using
            errcode = 'undefined_table',
            message = format('relation "%s" does not exist', parent),
            hint = 'Name a partitioned table, for example ''app.events''.';
    elsif v_table.relname is null
          or to_regclass(format('%I.%I', v_table.nspname, v_table.relname))
             is distinct from parent then
        raise exception using
            errcode = 'serialization_failure',
            message = format('relation "%s" was created, renamed or moved after the snapshot'
                             ' of this transaction', parent),
            hint = 'Begin a new transaction and call again.';
    end if;

    if v_table.relkind <> 'p' then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not a partitioned table', parent),
            hint = format('Create it with PARTITION BY %s (column).', c_word);
    elsif strategy <> 'd' and v_table.partstrat <> strategy
          or strategy = 'd' and v_table.partstrat = 'h' then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not partitioned by %s', parent, lower(c_word)),
            detail = format('Its partition key is %s.', pg_get_partkeydef(parent)),
            hint = format('Name a table with PARTITION BY %s (column).', c_word);
    elsif strategy in ('r', 'l') and (v_table.attname is null or not v_table.opcdefault)
          or strategy = 'r' and v_table.atttypid <> all (c_types) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('the partition key of "%s" is not supported', parent),
            detail = format('Its partition key is %s%s.', pg_get_partkeydef(parent),
                            ' of type ' || format_type(v_table.atttypid, null)),
            hint = case when strategy = 'r'
                        then 'The key must be one column of type date, timestamp, timestamptz,'
                             ' smallint, integer, bigint, numeric or uuid.'
                        else 'The key must be one column, with the default operator class.' end;
    elsif v_table.relpersistence = 't' then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" is a temporary table', parent),
            hint = 'Create the partitions of a temporary table in the session that owns it.';
    end if;

    schema_name := v_table.nspname;
    table_name := v_table.relname;
    owner := v_table.relowner;
    key_column := v_table.attname;
    key_type := v_table.atttypid;
    key_typmod := v_table.atttypmod;
end
$fn$;

comment on function ensure._partition_key_v1(regclass, "char") is
    'What is needed to know of a table partitioned by strategy on one plain column.';

-- migrate:down
drop function ensure._partition_key_v1(regclass, "char");
drop type ensure._node_v1;
