-- migrate:up
create function ensure._check_default_v1(
    parent regclass,
    key_column name,
    lower_bounds text[],
    upper_bounds text[],
    max_block interval
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_default_v1: the default partition of parent, if any, holds no row of the ranges and is quickly read.
--
-- Errors   NS004  it holds rows of the ranges, or reading it takes longer than max_block: ATTACH reads it
--                 while it is locked in ACCESS EXCLUSIVE mode
-- Locks    ACCESS SHARE on the default partition until the end of the transaction
declare
    v_default regclass;
    v_rows bigint;
    v_begin timestamptz;
begin
    select p.partdefid into v_default
    from pg_partitioned_table as p
    where p.partrelid = parent and p.partdefid <> 0;
    if not found then
        return;
    end if;

    v_begin := clock_timestamp();
    execute format($sql$
        select count(*) filter (where exists (
                   select from unnest($1, $2) as w (lower_bound, upper_bound)
                   where (w.lower_bound = 'MINVALUE' or d.%1$I >= nullif(w.lower_bound, 'MINVALUE')::%2$s)
                     and (w.upper_bound = 'MAXVALUE' or d.%1$I < nullif(w.upper_bound, 'MAXVALUE')::%2$s)))
        from %3$s as d
        $sql$, key_column,
        (select format_type(a.atttypid, null) from pg_attribute as a where a.attrelid = parent and a.attname = key_column),
        v_default)
    into v_rows using lower_bounds, upper_bounds;

    if v_rows > 0 then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" holds %s rows of the ranges asked for',
                             v_default, parent, v_rows),
            detail = format('The ranges asked for lie from %s to %s.',
                            lower_bounds[1], upper_bounds[cardinality(upper_bounds)]),
            hint = 'Move these rows out of the default partition, then call again.';
    elsif clock_timestamp() > v_begin + max_block then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" cannot be read within max_block', v_default, parent),
            detail = format('Reading it took %s; max_block is %s.', clock_timestamp() - v_begin, max_block),
            hint = 'Empty the default partition, detach it, or raise max_block: sessions wait that long.';
    end if;
end
$fn$;

comment on function ensure._check_default_v1(regclass, name, text[], text[], interval) is
    'The default partition of parent, if any, holds no row of the ranges and is quickly read.';

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
-- _lock_table_need_v1: the max_locks_per_transaction with which one call can create so many partitions of parent.
--
-- Returns  a lower bound: each new partition locks itself, its TOAST table with index, and its indexes
select ceil(partitions::numeric * (3 + (select count(*) from pg_index as i where i.indrelid = parent))
            / (current_setting('max_connections')::integer
               + current_setting('max_prepared_transactions')::integer))::integer
$fn$;

comment on function ensure._lock_table_need_v1(regclass, integer) is
    'The max_locks_per_transaction with which one call can create so many partitions of parent.';

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
            message = format('%s partitions of "%s" in one call are more than the lock table of the server can hold',
                             partitions, parent),
            detail = format('max_locks_per_transaction is %s.', current_setting('max_locks_per_transaction')),
            hint = format('Ask for fewer at a time, or raise max_locks_per_transaction to %s and restart.', v_need);
    end if;
end
$fn$;

comment on function ensure._check_lock_table_v1(regclass, integer) is
    'The server''s lock table has room for so many new partitions of parent.';

create function ensure._check_writable_v1(
    object regclass,
    owner oid,
    missing text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_writable_v1: this transaction may change object; asked only when something is missing.
--
-- Errors   25006  read-only transaction or standby
--          NS002  switched off by the setting ensure.ddl
--          42501  not a member of the role that owns object
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('%s and this transaction is read-only', missing),
            hint = case when pg_is_in_recovery() then 'Call on the primary.' else 'Call in a read-write transaction.' end;
    elsif not ensure._ddl_allowed_v1() then
        raise exception using
            errcode = 'NS002',
            message = format('%s and the setting ensure.ddl is off', missing),
            detail = format('ensure.ddl is "%s" for role "%s" in this database.',
                            current_setting('ensure.ddl', true), current_user),
            hint = 'Ask who switched it off; ALTER DATABASE or ALTER ROLE … RESET ensure.ddl switches it on.';
    elsif not pg_has_role(owner, 'USAGE') then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('%s and role "%s" may not change "%s"', missing, current_user, object),
            detail = format('Its owner is "%s".', pg_get_userbyid(owner)),
            hint = format('Call as the owner or as a member: GRANT %I TO %I.', pg_get_userbyid(owner), current_user);
    end if;
end
$fn$;

comment on function ensure._check_writable_v1(regclass, oid, text) is
    'This transaction may change object; asked only when something is missing.';

-- migrate:down
drop function ensure._check_writable_v1(regclass, oid, text);
drop function ensure._check_lock_table_v1(regclass, integer);
drop function ensure._lock_table_need_v1(regclass, integer);
drop function ensure._check_default_v1(regclass, name, text[], text[], interval);
