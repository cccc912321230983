-- migrate:up
create function ensure.ensure_roles_v1(
    spec jsonb,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- ensure_roles_v1: all roles, owners and grants of one document are what it says.
--
-- Returns  each change, in the order made: roles, then owners, then grants; without any, what the
--          document names, as 'exists'. It is {"roles": […], "owners": […], "grants": […]}, of
--          objects with the arguments of ensure_role_v1, ensure_owner_v1 and ensure_grants_v1
-- Errors   0A000, 0LP01, 22004, 22007, 22023, 2BP01, 3D000, 3F000, 42602, 42704, 42883,
--                 42939, 42P01, 55P02  bad input, as ensure_role_v1, ensure_owner_v1 and
--                 ensure_grants_v1 have it
--          25006, 42501  something differs, and this transaction or role may not change it: DETAIL
--                 says which rights are missing, HINT the statements that give them; or a SECURITY
--                 DEFINER routine of others would come to run as a new owner
--          53200, 54000  more tables change their owner than the server's lock table can hold
--          55P03  max_wait was spent waiting for others; DETAIL names them
--          NS002  something differs, and the setting ensure.ddl is off
--          NS003  a lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is at work on a table that changes its owner
--          NS015  the statements ran and something still differs
-- Locks    none when nothing differs; else as the three functions, all until the transaction ends
-- Races    one attempt makes all changes or none. Callers in other databases too: a second one
--          waits for the first, then looks again
-- Rights   as the three functions; asked before anything is changed
select s.object, s.outcome
from ensure._settle_changes_v1(spec, max_wait, max_block) as s
$fn$;

comment on function ensure.ensure_roles_v1(jsonb, interval, interval) is
    'All roles, owners and grants of one document are what it says.';

create function ensure.check_roles_v1(
    spec jsonb
)
returns table (object text, finding text, statement text, missing text, remedy text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- check_roles_v1: what differs from a document of roles, owners and grants, and who may mend it.
--
-- Returns  finding: 'missing', 'differs', 'surplus', or 'unknown' for a password that this role
--          cannot compare; statement mends it, a verifier left out; missing: the right that this
--          role lacks for it on this server, remedy: the statement that gives it. Without a row
--          nothing differs
-- Errors   0A000, 22004, 22007, 22023, 3D000, 3F000, 42602, 42704, 42883, 42939, 42P01, 55P02
--                 bad input, as ensure_roles_v1
-- Locks    none beyond catalog reads; runs read-only and on a standby
with c as materialized (
    select c.* from ensure._diff_roles_v1(coalesce(spec, 'null')) as c
)
select o.granted, 'surplus', format('set role %I; %s; reset role', o.granter, o.statement),
       case when not m.may then format('SET ROLE to role %I', o.granter) end,
       case when not m.may then format('grant %I to %I', o.granter, current_user) end
from ensure._exact_grants_v1(case when exists (select from c) then spec end) as g
cross join ensure._granted_on_v1(g.grantee, g.schemas) as o
cross join lateral (select pg_has_role(o.granter, case
    when current_setting('server_version_num')::integer < 160000 then 'MEMBER' else 'SET' end)
) as m (may)
union all
select c.object,
       case when not c.seen then 'unknown'
            when c.outcome in ('created', 'granted') then 'missing'
            when c.outcome = 'revoked' then 'surplus'
            else 'differs' end,
       ensure._shown_v1(c.statement), c.missing, c.remedy
from c
$fn$;

comment on function ensure.check_roles_v1(jsonb) is
    'What differs from a document of roles, owners and grants, and who may mend it.';

create function ensure.plan_roles_v1(
    spec jsonb
)
returns table (step_number integer, statement text, in_transaction boolean, locks text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- plan_roles_v1: the statements that make a document of roles, owners and grants true, one by one.
--
-- Returns  one row for each change, in the order to run them; none when nothing differs. why names
--          a right that this role lacks. Where this role cannot compare a password there is no row
--          for it, but with a role that is created
-- Errors   0A000, 22004, 22007, 22023, 3D000, 3F000, 42602, 42704, 42883, 42939, 42P01, 55P02
--                 bad input, as ensure_roles_v1
--          2BP01, 42501  what an exact entry revokes was granted on; a SECURITY DEFINER routine of
--                 others would come to run as a new owner: check_roles_v1 has them beside the rest
-- Locks    none beyond catalog reads; runs read-only and on a standby
with c as materialized (
    select c.* from ensure._diff_roles_v1(coalesce(spec, 'null')) as c
)
select (row_number() over ())::integer, c.statement, true,
       case when c.relation is not null then format('ACCESS EXCLUSIVE on %s', c.relation)
            else concat('rows of catalogs', ', ACCESS SHARE on ' || c.reads::text) end,
       concat(c.object, ': ', c.outcome, '; lacking ' || c.missing,
              ', which this gives: ' || c.remedy)
from c
cross join ensure._check_refused_v1(case when exists (select from c) then spec end)
where c.seen
   or exists (select from c as o
              where o.outcome = 'created' and c.object = format('password of %s', o.object))
$fn$;

comment on function ensure.plan_roles_v1(jsonb) is
    'The statements that make a document of roles, owners and grants true, one by one.';

-- migrate:down
drop function ensure.plan_roles_v1(jsonb);
drop function ensure.check_roles_v1(jsonb);
drop function ensure.ensure_roles_v1(jsonb, interval, interval);
