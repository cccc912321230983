-- migrate:up
create function ensure._partition_names_v1(
    table_name name,
    lower_bound text,
    upper_bound text,
    label text
)
returns name[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _partition_names_v1: the names a partition may get: table_p<label>, then one with a hash.
--
-- Returns  the first only where it fits into 63 bytes; the second, with a hash of table and bounds,
--          cut by bytes on a character boundary where it does not
with suffix (plain, hashed) as (
    select format('_p%s', label),
           format('_p%s_%s', label,
                  encode(substring(sha256(convert_to(
                             concat_ws('|', table_name, lower_bound, upper_bound),
                             current_setting('server_encoding'))) for 4), 'hex'))
)
select array_remove(array[
           case when octet_length(table_name::text) + octet_length(s.plain) <= 63
                then concat(table_name, s.plain)::name end,
           concat((select left(table_name::text, n.chars)
                   from generate_series(char_length(table_name::text), 0, -1) as n (chars)
                   where octet_length(left(table_name::text, n.chars))
                         + octet_length(s.hashed) <= 63
                   limit 1), s.hashed)::name
       ], null)
from suffix as s
$fn$;

comment on function ensure._partition_names_v1(name, text, text, text) is
    'The names a partition may get: table_p<label>, then one with a hash.';

create function ensure._bounds_v1(
    bound text
)
returns text[]
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _bounds_v1: both bounds out of FOR VALUES FROM (a) TO (b), null for a default partition.
select case when bound like 'FOR VALUES FROM (%'
            then array[btrim(split_part(split_part(bound, '(', 2), ')', 1), ''''),
                       btrim(split_part(split_part(bound, '(', 3), ')', 1), '''')] end
$fn$;

comment on function ensure._bounds_v1(text) is
    'Both bounds out of FOR VALUES FROM (a) TO (b), null for a default partition.';

create function ensure._find_partitions_v1(
    parent regclass,
    schema_name name,
    table_name name,
    lower_bounds text[],
    upper_bounds text[],
    labels text[]
)
returns oid[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _find_partitions_v1: for each cell the partition with its derived name and its bounds, or null.
--
-- Locks    none beyond catalog reads, whose cost does not grow with the number of partitions
-- Races    an old snapshot shows rows as they were: one counts only while xmax says it is the last
declare
    v_schema constant oid := (select n.oid from pg_namespace as n where n.nspname = schema_name);
    v_fresh constant boolean := current_setting('transaction_isolation')
                                not in ('repeatable read', 'serializable');
    v_found oid[];
    v_one oid;
begin
    for v_cell in 1 .. cardinality(labels) loop
        v_one := null;
        select c.oid into v_one
        from pg_class as c
        join pg_inherits as i on i.inhrelid = c.oid and i.inhparent = parent
        where c.relname = any (ensure._partition_names_v1(table_name, lower_bounds[v_cell],
                                                          upper_bounds[v_cell], labels[v_cell]))
          and c.relnamespace = v_schema
          and not i.inhdetachpending
          and ensure._bounds_v1(pg_get_expr(c.relpartbound, 0)) -- with c.oid it would take a lock
              = array[lower_bounds[v_cell], upper_bounds[v_cell]]
          and (v_fresh or (c.xmax::text = '0' and i.xmax::text = '0'));
        v_found[v_cell] := v_one;
    end loop;
    return v_found;
end
$fn$;

comment on function ensure._find_partitions_v1(regclass, name, name, text[], text[], text[]) is
    'For each cell the partition with its derived name and its bounds, or null.';

create function ensure._await_commit_v1(
    partitions oid[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _await_commit_v1: whoever created these visible partitions is done, so this session can use them.
--
-- Errors   55P03  the creator is still committing after two seconds
-- Locks    none; reads pg_locks
-- Races    a transaction is visible a moment before it sends its invalidations, and until then the
--          relation cache of this session may lack the partition: an insert would find none. It
--          has done so when its locks are gone, the one on the new partition among them
declare
    v_holders text[];
begin
    for v_try in 1 .. 2000 loop
        v_holders := array(select l.virtualtransaction
                           from pg_locks as l
                           where l.locktype = 'relation'
                             and l.relation = any (partitions)
                             and l.mode = 'AccessExclusiveLock'
                             and l.granted
                             and l.pid is distinct from pg_backend_pid());
        exit when v_holders = '{}';
        perform
        from pg_locks as l
        where l.locktype = 'transactionid' -- the lock on its own end, though that is past
          and l.mode = 'ExclusiveLock'
          and l.virtualtransaction = any (v_holders)
          and age(l.transactionid) > age(pg_snapshot_xmax(pg_current_snapshot())::xid)
          and l.transactionid <> all (array(select x.id::xid
                                            from pg_snapshot_xip(pg_current_snapshot()) as x (id)));
        exit when not found;
        if v_try = 2000 then
            raise exception using
                errcode = 'lock_not_available',
                message = 'a transaction that created a partition does not come to its end',
                hint = 'Look for a stopped server process, then call again.';
        end if;
        perform pg_sleep(0.001);
    end loop;
end
$fn$;

comment on function ensure._await_commit_v1(oid[]) is
    'Whoever created these visible partitions is done, so this session can use them.';

-- migrate:down
drop function ensure._await_commit_v1(oid[]);
drop function ensure._find_partitions_v1(regclass, name, name, text[], text[], text[]);
drop function ensure._bounds_v1(text);
drop function ensure._partition_names_v1(name, text, text, text);
