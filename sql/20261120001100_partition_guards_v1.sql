-- migrate:up
create function ensure._lock_table_need_v1(
    parents regclass[],
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
-- Returns  a lower bound: each locks itself, its TOAST table with index, and its indexes; a table
--          that a foreign key points to is locked with its partitions and their indexes
select ceil((partitions::numeric
             * (3 + (select coalesce(max(n.indexes), 0)
                     from (select count(*) as indexes from pg_index as i
                           where i.indrelid = any (parents) group by i.indrelid) as n))
             + (select count(*) + coalesce(sum((select count(*) from pg_index as i
                                                where i.indrelid = l.relation)), 0)
                from ensure._attach_locks_v1(parents, false) as l))
            / (current_setting('max_connections')::integer
               + current_setting('max_prepared_transactions')::integer))::integer
$fn$;

comment on function ensure._lock_table_need_v1(regclass[], integer) is
    'The max_locks_per_transaction that so many new partitions in one call need.';

create function ensure._check_lock_table_v1(
    parents regclass[],
    partitions integer
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_lock_table_v1: the server's lock table has room for so many new partitions.
--
-- Errors   54000  it has not, were it empty
declare
    v_need constant integer := ensure._lock_table_need_v1(parents, partitions);
begin
    if v_need > current_setting('max_locks_per_transaction')::integer then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = format('%s new partitions of "%s" in one call are more than the lock table'
                             ' of the server can hold', partitions,
                             array_to_string(parents, ', ')),
            detail = format('max_locks_per_transaction is %s.',
                            current_setting('max_locks_per_transaction')),
            hint = format('Ask for fewer at a time, or raise max_locks_per_transaction to %s'
                          ' and restart.', v_need);
    end if;
end
$fn$;

comment on function ensure._check_lock_table_v1(regclass[], integer) is
    'The server''s lock table has room for so many new partitions.';

create function ensure._raise_out_of_locks_v1(
    parents regclass[],
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
        message = format('no room in the lock table for %s new partitions of "%s": %s', partitions,
                         array_to_string(parents, ', '), problem),
        hint = format('Raise max_locks_per_transaction to %s and restart,'
                      ' or ask for fewer at a time.',
                      greatest(ensure._lock_table_need_v1(parents, partitions),
                               2 * current_setting('max_locks_per_transaction')::integer));
end
$fn$;

comment on function ensure._raise_out_of_locks_v1(regclass[], integer, text) is
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
            hint = format(case when current_setting('server_version_num')::integer >= 160000
                               then 'Call as the owner, or GRANT %1$I TO %2$I WITH INHERIT TRUE,'
                                    ' SET TRUE; or through a delegate made by'
                                    ' ensure_partition_delegate_v1.'
                               when pg_has_role(owner, 'MEMBER')
                               then 'SET ROLE %1$I; or ALTER ROLE %2$I INHERIT; or call through a'
                                    ' delegate made by ensure_partition_delegate_v1.'
                               else 'Call as the owner, or GRANT %1$I TO %2$I; or call through a'
                                    ' delegate made by ensure_partition_delegate_v1.' end,
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
drop function ensure._raise_out_of_locks_v1(regclass[], integer, text);
drop function ensure._check_lock_table_v1(regclass[], integer);
drop function ensure._lock_table_need_v1(regclass[], integer);
