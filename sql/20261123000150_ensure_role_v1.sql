-- migrate:up
create function ensure.ensure_role_v1(
    role_name name,
    login boolean default null,
    connection_limit integer default null,
    settings jsonb default null,
    member_of jsonb default null,
    password_verifier text default null,
    valid_until timestamptz default null,
    database_settings jsonb default null,
    inherit boolean default null,
    createdb boolean default null,
    createrole boolean default null,
    superuser boolean default null,
    replication boolean default null,
    bypassrls boolean default null,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- ensure_role_v1: the role exists, with these attributes, settings and memberships.
--
-- Returns  each change: 'created', 'altered', 'set', 'reset', 'granted', 'revoked'; without any the
--          role as 'exists'. A null argument leaves that attribute alone; a new role has LOGIN,
--          SUPERUSER, CREATEDB and CREATEROLE only where it is asked for. In settings, and for
--          each database in database_settings, null resets; in member_of false revokes; what is
--          not named there is left alone. From 16 on inherit decides of memberships that come
--          later; member_of says it of those that are there
-- Errors   0A000  INHERIT or SET of a membership, on a server before 16
--          22004, 22007, 22023, 42602, 42939  bad input; a password in clear text
--          3D000, 42704  no such database, role or setting
--          25006, 42501  something differs, and this transaction or role may not change it: DETAIL
--                 says which right is missing, HINT the statement that gives it
--          0LP01, 2BP01  the membership would be a circle; one that is revoked was passed on
--          55P02  a setting that only the start of the server sets
--          55P03  max_wait was spent waiting for others; DETAIL names who changes catalogs
--          NS002  something differs, and the setting ensure.ddl is off
--          NS003  another transaction changes it, and this one has already written
--          NS015  the statements ran and something still differs
-- Locks    none when nothing differs. Else the rows of pg_authid, pg_auth_members and
--          pg_db_role_setting that change, until the transaction ends
-- Races    callers in other databases too: a second one waits for the first, then looks again.
--          Under REPEATABLE READ and SERIALIZABLE what holds is what held at the snapshot
-- Rights   CREATEROLE; from 16 on also ADMIN on the role, and on those in member_of. Where this
--          role may not read pg_authid a verifier is written at each call: pg-ensure password asks
--          the server first
select s.object, s.outcome
from ensure._settle_changes_v1(
    jsonb_build_object('roles', jsonb_build_array(jsonb_build_object(
        'role_name', role_name, 'login', login, 'connection_limit', connection_limit,
        'settings', settings, 'member_of', member_of, 'password_verifier', password_verifier,
        'valid_until', valid_until, 'database_settings', database_settings, 'inherit', inherit,
        'createdb', createdb, 'createrole', createrole, 'superuser', superuser,
        'replication', replication, 'bypassrls', bypassrls))),
    max_wait, max_block) as s
$fn$;

comment on function ensure.ensure_role_v1(name, boolean, integer, jsonb, jsonb, text, timestamptz,
                                          jsonb, boolean, boolean, boolean, boolean, boolean,
                                          boolean, interval, interval) is
    'The role exists, with these attributes, settings and memberships.';

-- migrate:down
drop function ensure.ensure_role_v1(name, boolean, integer, jsonb, jsonb, text, timestamptz, jsonb,
                                    boolean, boolean, boolean, boolean, boolean, boolean, interval,
                                    interval);
