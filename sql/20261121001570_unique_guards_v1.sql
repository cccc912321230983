-- migrate:up
create function ensure._check_schema_v1(
    target regclass,
    for_owner boolean
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_schema_v1: whoever may change target may create beside it; for_owner: for its owner too.
--
-- Errors   42501  this role has no CREATE on the schema; or the owner has not, to whom it has to
--          give what it makes; or it cannot give, since it may not SET ROLE
declare
    v_table record;
    v_super boolean;
    v_role name;
begin
    select c.relowner as owner, c.relnamespace as schema into v_table
    from pg_class as c
    where c.oid = target;
    select r.rolsuper into v_super from pg_roles as r where r.rolname = current_user;
    v_role := case
        when v_super then null
        when pg_has_role(v_table.owner, 'USAGE')
             and not has_schema_privilege(v_table.schema, 'CREATE') then current_user
        when for_owner and not has_schema_privilege(v_table.owner, v_table.schema, 'CREATE')
            then pg_get_userbyid(v_table.owner) end;
    if v_role is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('no index on "%s" can be made: its schema may not be created in',
                             target),
            detail = format('%I has no CREATE on the schema %s.', v_role,
                            v_table.schema::regnamespace),
            hint = 'Grant CREATE on the schema to the owner of the table, and to who calls.';
    elsif for_owner and not v_super and pg_has_role(v_table.owner, 'USAGE')
          and not pg_has_role(v_table.owner, case
              when current_setting('server_version_num')::integer < 160000 then 'MEMBER'
              else 'SET' end) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('what is made for "%s" cannot be given to its owner', target),
            detail = format('%I may not SET ROLE %I.', current_user,
                            pg_get_userbyid(v_table.owner)),
            hint = 'Call as the owner, or grant the membership WITH SET TRUE.';
    end if;
end
$fn$;

comment on function ensure._check_schema_v1(regclass, boolean) is
    'Whoever may change target may create beside it; for_owner: for its owner too.';

create function ensure._unique_guards_v1(
    unique_key ensure._unique_key_v1,
    dedupe jsonb,
    max_block interval
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unique_guards_v1: this transaction and role may make the index; asked only when it is missing.
--
-- Errors   25006, 42501, NS002  they may not
--          NS009  there are duplicates, and dedupe is null; NS010  as _check_ahead_v1: said before
--                 anything is locked, unless dedupe is '{}'
--          NS011  rows would be compared in an old snapshot
declare
    c_target constant regclass := unique_key.target;
    c_owner constant oid := (select c.relowner from pg_class as c where c.oid = unique_key.target);
    c_schema constant oid := (select c.relnamespace from pg_class as c
                              where c.oid = unique_key.target);
begin
    if current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('the unique index on "%s" is missing, and this transaction is'
                             ' read-only', c_target),
            hint = case when pg_is_in_recovery() then 'Call on the primary.'
                        else 'Call in a read-write transaction.' end;
    elsif not ensure._ddl_allowed_v1() then
        raise exception using
            errcode = 'NS002',
            message = format('the unique index on "%s" is missing, and the setting ensure.ddl is'
                             ' off', c_target),
            hint = 'Call with ensure.ddl = on, or ask who switched it off: for this session by'
                   ' SET, or for the role or the database by ALTER … SET ensure.ddl.';
    elsif not pg_has_role(c_owner, 'USAGE') then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('must be owner of "%s" to make it unique', c_target),
            detail = format('It belongs to %I, this is %I.', pg_get_userbyid(c_owner),
                            current_user),
            hint = 'Call as the owner or as a member of it.';
    elsif not has_schema_privilege(c_schema, 'CREATE')
          and (select l.state from ensure._look_unique_v1(unique_key) as l)
              in ('missing', 'different') then
        perform ensure._check_schema_v1(c_target, false);
    elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'NS011',
            message = format('"%s" cannot be made unique in a %s transaction', c_target,
                             current_setting('transaction_isolation')),
            detail = 'Its snapshot may be older than rows and indexes that are there now.',
            hint = 'Call in a READ COMMITTED transaction.';
    end if;
    if dedupe is distinct from '{}' then
        begin
            perform set_config('lock_timeout', format('%sms', greatest(1, least(
                extract(epoch from max_block) * 1000, 2147483647))::integer), true);
            if dedupe is null then
                perform ensure._raise_duplicates_v1(unique_key);
            else
                perform ensure._check_ahead_v1(unique_key, dedupe ->> 'keep',
                                               dedupe ->> 'loser_set', dedupe ->> 'children');
            end if;
            raise exception using errcode = 'NS100';
        exception when sqlstate 'NS100' or lock_not_available then
            null; -- so that its lock is not kept while the call waits for others
        end;
    end if;
end
$fn$;

comment on function ensure._unique_guards_v1(ensure._unique_key_v1, jsonb, interval) is
    'This transaction and role may make the index; asked only when it is missing.';

-- migrate:down
drop function ensure._unique_guards_v1(ensure._unique_key_v1, jsonb, interval);
drop function ensure._check_schema_v1(regclass, boolean);
