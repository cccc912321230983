-- migrate:up
create function ensure._check_merge_v1(
    target regclass,
    archive regclass
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_merge_v1: rows of target can be merged, and archive can keep them.
--
-- Errors   22004, 22023, 42P01, 42809
declare
    c_kind constant "char" := (select c.relkind from pg_class as c where c.oid = target);
begin
    if target is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'target must not be null',
            hint = $$Call it like ('app.users', '{"id": 1}', '[{"id": 2}]').$$;
    elsif c_kind is null then
        raise exception using
            errcode = 'undefined_table',
            message = format('there is no table with the oid %s', target::oid),
            hint = 'Pass the name of a table.';
    elsif c_kind not in ('r', 'p') then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not a table', target),
            hint = 'Pass a table, partitioned or not.';
    elsif target < 16384::oid then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is a table of the system', target),
            hint = 'Pass a table of your own.';
    end if;
    perform ensure._check_dedupe_v1(target, null, 'delete', null, 'merge', archive);
end
$fn$;

comment on function ensure._check_merge_v1(regclass, regclass) is
    'Rows of target can be merged, and archive can keep them.';

create function ensure._merge_obstacles_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    columns_policy jsonb,
    max_block interval
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_obstacles_v1: the tables and rows that are there now let losers be merged.
--
-- Errors   0A000, 42501, 55000, NS010  they do not
-- Locks    ACCESS SHARE on what refers to target, given back; not to be had in max_block, nothing
--          is looked at
declare
    v_table record;
begin
    perform set_config('lock_timeout', format('%sms', greatest(1, least(
        extract(epoch from max_block) * 1000, 2147483647))::integer), true);
    for v_table in
        select t.*
        from ensure._closed_table_v1(
            target, true, exists (select from ensure._columns_policy_v1(target, columns_policy)),
            'merge') as t
    loop
        perform ensure._refuse_table_v1(target, v_table);
    end loop;
    perform ensure._check_children_ahead_v1(target, losers, keepers, true, 'merge');
    raise exception using errcode = 'NS100';
exception when sqlstate 'NS100' or lock_not_available then
    null;
end
$fn$;

comment on function ensure._merge_obstacles_v1(regclass, jsonb[], jsonb[], jsonb, interval) is
    'The tables and rows that are there now let losers be merged.';

create function ensure._raise_denied_v1(
    target regclass,
    problem text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_denied_v1: what PostgreSQL said of a right that is missing, with advice.
--
-- Errors   42501  always
begin
    raise exception using
        errcode = 'insufficient_privilege',
        message = problem,
        detail = format('Rows of "%s" were to be merged. This is %I.', target, current_user),
        hint = 'Call as the owner of the tables, or as one with SELECT, UPDATE and DELETE on them,'
               ' and BYPASSRLS where row security is on.';
end
$fn$;

comment on function ensure._raise_denied_v1(regclass, text) is
    'What PostgreSQL said of a right that is missing, with advice.';

create function ensure._look_ahead_v1(
    target regclass,
    keeper_list jsonb,
    loser_list jsonb,
    columns_policy jsonb,
    max_wait interval,
    out losers jsonb[],
    out keepers jsonb[],
    out places integer[]
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_ahead_v1: as _look_merge_v1, with columns_policy checked; the lock is given back.
--
-- Errors   also 22023, 42703, 42804  as _check_columns_policy_v1; 42501, 55P03
declare
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_naming constant name[] := array(select k.name::name from jsonb_array_elements(
                                          keeper_list || loser_list) as e
                                      cross join lateral jsonb_object_keys(e.value) as k (name)
                                      group by k.name);
    v_found record;
    v_problem text;
begin
    begin
        perform set_config('lock_timeout', format('%sms', greatest(1, least(
            1000 * extract(epoch from least(max_wait, nullif(c_lock_timeout::interval, '0'))),
            2147483647))::integer), true);
        perform ensure._check_columns_policy_v1(target, columns_policy, c_naming);
        v_found := ensure._look_merge_v1(target, keeper_list, loser_list);
        raise exception using errcode = 'NS100';
    exception
        when sqlstate 'NS100' then
            losers := v_found.losers;
            keepers := v_found.keepers;
            places := v_found.places;
        when lock_not_available then
            perform ensure._pause_v1(array[target], '{access share}',
                                     format('could not read "%s"', target), false, 1,
                                     clock_timestamp());
        when insufficient_privilege then
            get stacked diagnostics v_problem = message_text;
            perform ensure._raise_denied_v1(target, v_problem);
        when undefined_table or internal_error then
            perform ensure._check_target_v1(target);
            raise;
    end;
end
$fn$;

comment on function ensure._look_ahead_v1(regclass, jsonb, jsonb, jsonb, interval) is
    'As _look_merge_v1, with columns_policy checked; the lock is given back.';

create function ensure._merge_guards_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    columns_policy jsonb,
    max_block interval
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_guards_v1: this transaction and role may merge rows; asked only when there are some.
--
-- Errors   25006, 42501, NS011  they may not; 0A000, 42501, 55000, NS010  as _merge_obstacles_v1
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('rows of "%s" are to be merged, and this transaction is read-only',
                             target),
            hint = case when pg_is_in_recovery() then 'Call on the primary.'
                        else 'Call in a read-write transaction.' end;
    elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'NS011',
            message = format('rows of "%s" cannot be merged in a %s transaction', target,
                             current_setting('transaction_isolation')),
            detail = 'Its snapshot may be older than rows that refer to losers.',
            hint = 'Call in a READ COMMITTED transaction.';
    elsif not has_table_privilege(target, 'DELETE')
          or exists (select from ensure._columns_policy_v1(target, columns_policy) as p
                     where not has_column_privilege(target, p.name, 'UPDATE')) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('rows of "%s" may not be deleted, or not updated', target),
            detail = format('This is %I.', current_user),
            hint = 'Grant DELETE on it, and with columns_policy UPDATE.';
    end if;
    perform ensure._merge_obstacles_v1(target, losers, keepers, columns_policy, max_block);
end
$fn$;

comment on function ensure._merge_guards_v1(regclass, jsonb[], jsonb[], jsonb, interval) is
    'This transaction and role may merge rows; asked only when there are some.';

-- migrate:down
drop function ensure._merge_guards_v1(regclass, jsonb[], jsonb[], jsonb, interval);
drop function ensure._look_ahead_v1(regclass, jsonb, jsonb, jsonb, interval);
drop function ensure._raise_denied_v1(regclass, text);
drop function ensure._merge_obstacles_v1(regclass, jsonb[], jsonb[], jsonb, interval);
drop function ensure._check_merge_v1(regclass, regclass);
