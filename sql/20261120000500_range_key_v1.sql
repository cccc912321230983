-- migrate:up
create function ensure._range_key_v1(
    parent regclass
)
returns table (schema_name name, table_name name, owner oid, key_column name, key_type regtype)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _range_key_v1: what is needed to know of a table partitioned by RANGE on one plain column.
--
-- Errors   22004  parent is null
--          42P01  no such relation
--          40001  parent was created, renamed or moved after this transaction's snapshot
--          42809  not a partitioned table, or partitioned by LIST or HASH
--          0A000  several key columns, an expression, another type or operator class, a temporary
--                 table
declare
    v_table record;
begin
    if parent is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'parent must not be null',
            hint = 'Name a partitioned table, for example ''app.events''.';
    end if;

    select n.nspname, c.relname, c.relowner, c.relkind, c.relpersistence,
           t.partstrat, t.partnatts, t.partattrs[0] as attnum, a.attname, a.atttypid, o.opcdefault
    into v_table
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    left join pg_partitioned_table as t on t.partrelid = c.oid
    left join pg_attribute as a on a.attrelid = c.oid and a.attnum = t.partattrs[0] and a.attnum > 0
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
            hint = 'Create it with PARTITION BY RANGE (column).';
    end if;
    if v_table.partstrat <> 'r' then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not partitioned by range', parent),
            detail = format('Its partition key is %s.', pg_get_partkeydef(parent)),
            hint = 'Name a table with PARTITION BY RANGE (column).';
    end if;
    if v_table.partnatts <> 1 or v_table.attname is null or not v_table.opcdefault
       or v_table.atttypid not in ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype,
                                   'date'::regtype, 'timestamp'::regtype,
                                   'timestamptz'::regtype) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('the partition key of "%s" is not supported', parent),
            detail = format('Its partition key is %s%s.', pg_get_partkeydef(parent),
                            ' of type ' || format_type(v_table.atttypid, null)),
            hint = 'The key must be one column of type date, timestamp, timestamptz,'
                   ' smallint, integer or bigint.';
    end if;
    if v_table.relpersistence = 't' then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" is a temporary table', parent),
            hint = 'Create the partitions of a temporary table in the session that owns it.';
    end if;

    return query
    select v_table.nspname, v_table.relname, v_table.relowner, v_table.attname,
           v_table.atttypid::regtype;
end
$fn$;

comment on function ensure._range_key_v1(regclass) is
    'What is needed to know of a table partitioned by RANGE on one plain column.';

-- migrate:down
drop function ensure._range_key_v1(regclass);
