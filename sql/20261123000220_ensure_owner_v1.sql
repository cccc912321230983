-- migrate:up
create function ensure.ensure_owner_v1(
    new_owner name,
    schemas name[],
    excluded regclass[] default '{}',
    excluded_routines regprocedure[] default '{}',
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- ensure_owner_v1: the schemas, and all that is in them, belong to new_owner.
--
-- Returns  each object that changed hands, as 'altered', or when none had to the schemas, as
--          'exists'. Not what has no owner of its own (sequences of columns, indexes, row types),
--          belongs to an extension or is in excluded, with which go its partitions; of TimescaleDB
--          hypertables with their chunks, continuous aggregates, and the jobs of both
-- Errors   22004, 22023, 42602, 42939  bad input
--          3F000, 42704, 42883, 42P01  no such schema, role, routine or relation
--          25006, 42501  something differs, and this transaction or role may not change it: DETAIL
--                 says which right is missing, HINT the statement that gives it; or a SECURITY
--                 DEFINER routine belongs to a role that is no superuser, nor the schema's owner,
--                 or to that one when new_owner is a superuser
--          54000, 53200  more tables differ than the server's lock table can hold
--          55P03  max_wait was spent waiting for others; DETAIL names who is in the way
--          NS002  something differs, and the setting ensure.ddl is off
--          NS003  another transaction is in the way, and this one has already written
--          NS006  a concurrent index build on a table is running
--          NS015  the statements ran and something still differs
-- Locks    none when nothing differs. Else ACCESS EXCLUSIVE on each table, view and sequence that
--          changes hands, with its indexes and sequences, all until the transaction ends;
--          plan_owner_v1 has a statement for each
-- Races    a second caller waits for the first, then looks again. Under REPEATABLE READ and
--          SERIALIZABLE what holds is what held at the snapshot
-- Rights   a superuser, or: those of each owner, SET on new_owner (before 16 membership), CREATE on
--          the database where a schema changes hands. Afterwards a view reads with the rights of
--          new_owner, whoever wrote it; triggers and functions run as who uses them, but those in
--          indexes and statistics as new_owner, at each ANALYZE
select s.object, s.outcome
from ensure._settle_changes_v1(
    jsonb_build_object('owners', jsonb_build_array(jsonb_build_object(
        'new_owner', new_owner, 'schemas', schemas, 'excluded', excluded::text[],
        'excluded_routines', excluded_routines::text[]))),
    max_wait, max_block) as s
$fn$;

comment on function ensure.ensure_owner_v1(name, name[], regclass[], regprocedure[], interval,
                                           interval) is
    'The schemas, and all that is in them, belong to new_owner.';

-- migrate:down
drop function ensure.ensure_owner_v1(name, name[], regclass[], regprocedure[], interval, interval);
