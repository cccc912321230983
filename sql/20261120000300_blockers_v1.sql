-- migrate:up
create function ensure._blockers_v1(
    relations regclass[],
    modes text[]
)
returns table (relation regclass, held text, index_build boolean, autovacuum boolean, waits boolean,
               holder text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _blockers_v1: who holds a lock that conflicts with taking modes[i] on relations[i].
--
-- Returns  held: the mode; index_build: a concurrent index build or reindex; waits: for a lock
--          itself; holder: words for a DETAIL. Prepared transactions are named by gid.
-- Rights   what pg_stat_activity hides from this role is left out of the words
with conflicts (mode, held) as (
    values ('access share', '{AccessExclusiveLock}'::text[]),
           ('share update exclusive',
            '{ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,'
            'AccessExclusiveLock}'),
           ('share row exclusive',
            '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,'
            'ExclusiveLock,AccessExclusiveLock}'),
           ('exclusive',
            '{RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,'
            'ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),
           ('access exclusive',
            '{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,'
            'ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}')
)
select l.relation::regclass,
       l.mode,
       l.mode = 'ShareUpdateExclusiveLock' -- a plain build has SHARE, and comes to its end
       and exists (select from pg_stat_progress_create_index as p where p.pid = l.pid),
       a.pid is not null and a.usesysid is null, -- the one part of a worker that everybody may see
       exists (select from pg_locks as q where q.pid = l.pid and not q.granted),
       case
           when l.pid is null then format('prepared transaction %L', x.gid)
           else concat_ws(', ', format('pid %s', l.pid),
                          case when a.usesysid is null then 'autovacuum' end,
                          'role ' || quote_ident(a.usename),
                          'application ' || quote_literal(nullif(a.application_name, '')),
                          format('%s for %s', a.state,
                                 date_trunc('milliseconds', clock_timestamp() - a.state_change)),
                          case when a.query ~* 'password' then 'a query with a password'
                               else 'query ' || quote_literal(nullif(left(regexp_replace(
                                   a.query, '\s+', ' ', 'g'), 120), '')) end)
       end || format(' (%s on %s)', l.mode, l.relation::regclass)
from unnest(relations, modes) as w (relation, mode)
join conflicts as c on c.mode = w.mode
join pg_locks as l on l.locktype = 'relation'
                  and l.relation = w.relation::oid
                  and l.mode = any (c.held)
                  and l.granted
                  and l.pid is distinct from pg_backend_pid()
left join pg_stat_activity as a on a.pid = l.pid
left join pg_locks as t on l.pid is null and t.pid is null and t.locktype = 'transactionid'
                       and t.virtualtransaction = l.virtualtransaction
left join pg_prepared_xacts as x on x.transaction = t.transactionid
where l.database in (0, (select d.oid from pg_database as d -- 0: catalogs of the whole server
                        where d.datname = current_database()))
order by l.pid, l.relation, l.mode
$fn$;

comment on function ensure._blockers_v1(regclass[], text[]) is
    'Who holds a lock that conflicts with taking modes[i] on relations[i].';

create function ensure._row_holders_v1(
    relations regclass[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_holders_v1: who may keep a row of the catalogs from being changed, in words.
--
-- Returns  the open transactions that have changed rows which can be seen, as GRANT leaves no lock
--          on the catalog; when there are none, those that have written anything in this database.
--          Null when nobody has. Not those that have a lock on one of relations: _blockers_v1
with writers as (
    select coalesce('pid ' || l.pid, format('prepared transaction %L', x.gid)) as who,
           a.usename, a.application_name, a.state,
           (l.transactionid in (
               select c.xmax from pg_class as c union all select c.xmax from pg_namespace as c
               union all select c.xmax from pg_proc as c union all select c.xmax from pg_type as c
               union all select c.xmax from pg_default_acl as c
               union all select c.xmax from pg_attribute as c
               union all select c.xmax from pg_database as c)) as changes
    from pg_locks as l
    left join pg_stat_activity as a on a.pid = l.pid
    left join pg_prepared_xacts as x on x.transaction = l.transactionid
    where l.locktype = 'transactionid' and l.granted and l.mode = 'ExclusiveLock'
      and l.pid is distinct from pg_backend_pid()
      and coalesce(a.datname, x.database) = current_database()
      and not exists (select from pg_locks as r
                      where r.virtualtransaction = l.virtualtransaction and r.granted
                        and r.locktype = 'relation' and r.relation = any (relations::oid[])
                        and r.mode not in ('AccessShareLock', 'RowShareLock'))
)
select string_agg(h.holder, '; ' order by h.holder)
from (select distinct concat_ws(', ', w.who, 'role ' || quote_ident(w.usename),
                                'application ' || quote_literal(nullif(w.application_name, '')),
                                w.state) as holder
      from writers as w
      where w.changes or not exists (select from writers as v where v.changes)
      order by 1
      limit 5) as h
$fn$;

comment on function ensure._row_holders_v1(regclass[]) is
    'Who may keep a row of the catalogs from being changed, in words.';

-- migrate:down
drop function ensure._row_holders_v1(regclass[]);
drop function ensure._blockers_v1(regclass[], text[]);
