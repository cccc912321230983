-- Session a keeps a lock for ever, and session b waits for it.
-- race: session a
-- race: step take
select pg_advisory_lock(1)
-- race: session b
-- race: step wait
do $$ begin
    while not exists (
        select from pg_locks as l
        where l.locktype = 'advisory' and (l.classid, l.objid) = (0, 1) and l.granted
          and l.database = (select d.oid from pg_database as d where d.datname = current_database()))
    loop
    end loop;
    perform pg_advisory_lock(1);
end $$
-- race: invariant never asked
select false
-- race: clients 2
