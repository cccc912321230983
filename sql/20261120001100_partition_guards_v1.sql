-- migrate:up
create function ensure._check_default_v1(
    parent regclass,
    key_column name,
    lower_bounds text[],
    upper_bounds text[],
    max_block interval,
    wait integer,
    until timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_default_v1: the default partition, if any, holds no row of the ranges and is quickly read.
--
-- Errors   NS004  it holds rows of the ranges, or takes longer than max_block to be read once for
--                 each range: ATTACH does that while it holds ACCESS EXCLUSIVE on it
--          55P03  it is locked: not to be had within wait milliseconds; TABLE_NAME names it
-- Locks    ACCESS SHARE on the default partition, given back before returning
declare
    v_default regclass;
    v_type text;
    v_rows bigint;
    v_begin timestamptz;
    v_took interval;
begin
    select p.partdefid, format_type(a.atttypid, null) into v_default, v_type
    from pg_partitioned_table as p
    join pg_attribute as a on a.attrelid = p.partrelid and a.attname = key_column
    where p.partrelid = parent
      and has_table_privilege(p.partdefid, 'SELECT') is not null; -- null: none, or gone by now
    if not found then
        return;
    end if;

    begin
        perform ensure._take_locks_v1(array[v_default], '{access share}', v_default, wait, until);
        v_begin := clock_timestamp();
        execute format($sql$
            select count(*) filter (where ($3 is null or d.%1$I >= $3::%2$s)
                                      and ($4 is null or d.%1$I < $4::%2$s)
                                      and exists (
                       select from unnest($1, $2) as w (lower_bound, upper_bound)
                       where (w.lower_bound = 'MINVALUE'
                              or d.%1$I >= nullif(w.lower_bound, 'MINVALUE')::%2$s)
                         and (w.upper_bound = 'MAXVALUE'
                              or d.%1$I < nullif(w.upper_bound, 'MAXVALUE')::%2$s)))
            from %3$s as d
            $sql$, key_column, v_type, v_default)
        into v_rows
        using lower_bounds, upper_bounds, nullif(lower_bounds[1], 'MINVALUE'),
              nullif(upper_bounds[cardinality(upper_bounds)], 'MAXVALUE');
        v_took := (clock_timestamp() - v_begin) * cardinality(lower_bounds);
        raise exception using errcode = 'NS100';
    exception
        when sqlstate 'NS100' then
            null; -- the lock has gone with the subtransaction
        when insufficient_privilege then
            return; -- ATTACH reads it with rights of its own, and refuses when it holds rows
    end;

    if v_rows > 0 then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" holds rows of the range asked for',
                             v_default, parent),
            detail = format('Rows: %s. What is missing lies from %s to %s.', v_rows,
                            lower_bounds[1], upper_bounds[cardinality(upper_bounds)]),
            hint = 'Move these rows out of the default partition, then call again.';
    elsif v_took > greatest(max_block, '20 ms') then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" cannot be read within max_block',
                             v_default, parent),
            detail = format('Once for each of %s partitions takes %s, others wait meanwhile;'
                            ' max_block is %s.', cardinality(lower_bounds), v_took, max_block),
            hint = 'Ask for fewer at a time, empty or detach the default partition,'
                   ' or raise max_block.';
    end if;
end
$fn$;

comment on function ensure._check_default_v1(regclass, name, text[], text[], interval, integer,
                                             timestamptz) is
    'The default partition, if any, holds no row of the ranges and is quickly read.';

create function ensure._lock_table_need_v1(
    parent regclass,
    partitions integer
)
returns integer
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lock_table_need_v1: the max_locks_per_transaction that so many new partitions in one call need.
--
-- Returns  a lower bound: each locks itself, its TOAST table with index, and its indexes
select ceil(partitions::numeric
            * (3 + (select count(*) from pg_index as i where i.indrelid = parent))
            / (current_setting('max_connections')::integer
               + current_setting('max_prepared_transactions')::integer))::integer
$fn$;

comment on function ensure._lock_table_need_v1(regclass, integer) is
    'The max_locks_per_transaction that so many new partitions in one call need.';

create function ensure._check_lock_table_v1(
    parent regclass,
    partitions integer
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_lock_table_v1: the server's lock table has room for so many new partitions of parent.
--
-- Errors   54000  it has not, were it empty
declare
    v_need constant integer := ensure._lock_table_need_v1(parent, partitions);
begin
    if v_need > current_setting('max_locks_per_transaction')::integer then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = format('%s partitions of "%s" in one call are more than the lock table'
                             ' of the server can hold', partitions, parent),
            detail = format('max_locks_per_transaction is %s.',
                            current_setting('max_locks_per_transaction')),
            hint = format('Ask for fewer at a time, or raise max_locks_per_transaction to %s'
                          ' and restart.', v_need);
    end if;
end
$fn$;

comment on function ensure._check_lock_table_v1(regclass, integer) is
    'The server''s lock table has room for so many new partitions of parent.';

create function ensure._raise_out_of_locks_v1(
    parent regclass,
    partitions integer,
    problem text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_out_of_locks_v1: the error for a lock table that others have filled.
--
-- Errors   53200  always
begin
    raise exception using
        errcode = 'out_of_memory',
        message = format('no room to create %s partitions of "%s": %s',
                         partitions, parent, problem),
        hint = format('Raise max_locks_per_transaction to %s and restart,'
                      ' or ask for fewer at a time.',
                      greatest(ensure._lock_table_need_v1(parent, partitions),
                               2 * current_setting('max_locks_per_transaction')::integer));
end
$fn$;

comment on function ensure._raise_out_of_locks_v1(regclass, integer, text) is
    'The error for a lock table that others have filled.';

create function ensure._check_writable_v1(
    parent regclass,
    schema_name name,
    owner oid,
    missing text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_writable_v1: this transaction may create partitions; asked only when some are missing.
--
-- Errors   25006  read-only transaction or standby
--          NS002  switched off by the setting ensure.ddl
--          42501  neither owner of parent nor a member who can become it; no CREATE on its schema
declare
    v_member constant text := case when current_setting('server_version_num')::integer >= 160000
                                   then 'SET' else 'MEMBER' end;
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('%s and this transaction is read-only', missing),
            hint = case when pg_is_in_recovery() then 'Call on the primary.'
                        else 'Call in a read-write transaction.' end;
    elsif not ensure._ddl_allowed_v1() then
        raise exception using
            errcode = 'NS002',
            message = format('%s and the setting ensure.ddl is off', missing),
            detail = format('ensure.ddl is "%s" in this session.',
                            current_setting('ensure.ddl', true)),
            hint = 'Ask who switched it off: for this session by SET, or for the role or the'
                   ' database by ALTER … SET ensure.ddl.';
    elsif not (pg_has_role(owner, 'USAGE') and pg_has_role(owner, v_member)) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('%s and role "%s" may not create it', missing, current_user),
            detail = format('The owner of "%s" is "%s".', parent, pg_get_userbyid(owner)),
            hint = format('Call as the owner, or as a member that inherits from it'
                          ' and can become it: GRANT %I TO %I.',
                          pg_get_userbyid(owner), current_user);
    elsif not (has_schema_privilege(schema_name, 'CREATE')
               and has_schema_privilege(owner, schema_name, 'CREATE')) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('%s and there is no right to create it in schema "%s"',
                             missing, schema_name),
            detail = format('Role "%s" and the owner of "%s", "%s", need CREATE.',
                            current_user, parent, pg_get_userbyid(owner)),
            hint = format('GRANT CREATE ON SCHEMA %I TO %I, %I.', schema_name, current_user,
                          pg_get_userbyid(owner));
    end if;
end
$fn$;

comment on function ensure._check_writable_v1(regclass, name, oid, text) is
    'This transaction may create partitions; asked only when some are missing.';

-- migrate:down
drop function ensure._check_writable_v1(regclass, name, oid, text);
drop function ensure._raise_out_of_locks_v1(regclass, integer, text);
drop function ensure._check_lock_table_v1(regclass, integer);
drop function ensure._lock_table_need_v1(regclass, integer);
drop function ensure._check_default_v1(regclass, name, text[], text[], interval, integer,
                                       timestamptz);
