-- migrate:up
create function ensure.undo_merge_rows_v1(
    archive regclass,
    run uuid,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text, row_count bigint)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- undo_merge_rows_v1: every row that a run of merge_rows_v1 archived is what it was before.
--
-- Returns  as undo_unique_v1; of several runs that changed the same rows the last is to be undone
--          first
-- Errors   22004, 22023  bad input
--          22001, 22003, 22007, 22008, 22P02, 23502, 23503, 23514  a row to come back does not fit
--                 the table as it is now
--          25006, 42501, 42703, 42P01, 0A000, 55006, NS011  as undo_unique_v1
--          42704  the archive has nothing of the run; it was undone
--          55P03, NS003, NS006  as undo_unique_v1
--          NS001  a unique index has no place for a row
--          NS012, NS013  a row cannot be what it was, or was changed since the run
-- Locks    SHARE ROW EXCLUSIVE on each table of the run, until the transaction ends
-- Races    a second caller waits for the first, then finds nothing of the run
-- Rights   to write in the tables and to delete from archive
select u.* from ensure._undo_archived_v1(archive, run, max_wait, max_block) as u
$fn$;

comment on function ensure.undo_merge_rows_v1(regclass, uuid, interval, interval) is
    'Every row that a run of merge_rows_v1 archived is what it was before.';

-- migrate:down
drop function ensure.undo_merge_rows_v1(regclass, uuid, interval, interval);
