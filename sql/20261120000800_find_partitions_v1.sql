-- migrate:up
create function ensure._partition_names_v1(
    table_name name,
    lower_bound text,
    upper_bound text,
    label text
)
returns name[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _partition_names_v1: the names a partition may get: table_<label>, then one with a hash.
--
-- Returns  the first only where it fits into 63 bytes; the second, with a hash of table and bounds,
--          cut by bytes on a character boundary where it does not
declare
    v_suffix text := format('_%s', label);
    v_hash constant text := encode(substring(sha256(convert_to(
        concat_ws('|', table_name, lower_bound, upper_bound),
        current_setting('server_encoding'))) for 4), 'hex');
    v_stem text := table_name;
    v_names name[] := '{}';
begin
    if octet_length(v_stem) + octet_length(v_suffix) <= 63 then
        v_names := array[concat(v_stem, v_suffix)::name];
    end if;
    while octet_length(v_suffix) > 54 loop -- a label that fills a name by itself
        v_suffix := left(v_suffix, -1);
    end loop;
    v_suffix := format('%s_%s', v_suffix, v_hash);
    while octet_length(v_stem) + octet_length(v_suffix) > 63 loop
        v_stem := left(v_stem, -1);
    end loop;
    return v_names || concat(v_stem, v_suffix)::name;
end
$fn$;

comment on function ensure._partition_names_v1(name, text, text, text) is
    'The names a partition may get: table_<label>, then one with a hash.';

create function ensure._label_v1(
    value text
)
returns text
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _label_v1: the readable part of the name of a LIST partition.
--
-- Returns  letters, digits and underscores, in lower case; two values may share it
begin
    return case
        when value is null then 'null'
        when value ~ '^-\d+$' then replace(value, '-', 'm')
        else coalesce(nullif(btrim(lower(regexp_replace(left(value, 30), '\W+', '_', 'g')), '_'),
                             ''), 'value') end;
end
$fn$;

comment on function ensure._label_v1(text) is
    'The readable part of the name of a LIST partition.';

create function ensure._bounds_v1(
    bound text
)
returns text[]
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _bounds_v1: what FOR VALUES says: both bounds, or the values, or remainder and modulus.
--
-- Returns  null for a default partition
begin
    return case
        when bound like 'FOR VALUES FROM (%'
        then array[btrim(split_part(split_part(bound, '(', 2), ')', 1), ''''),
                   btrim(split_part(split_part(bound, '(', 3), ')', 1), '''')]
        when bound like 'FOR VALUES IN (%'
        then array(select case when v.token[1] like '''%'
                               then replace(substr(v.token[1], 2, length(v.token[1]) - 2),
                                            '''''', '''')
                               when v.token[1] <> 'NULL' then v.token[1] end
                   from regexp_matches(substring(bound from '^FOR VALUES IN \((.*)\)$'),
                                       '(''(?:[^'']|'''')*''|[^'', ][^,]*)', 'g')
                        with ordinality as v (token, place)
                   order by v.place)
        when bound like 'FOR VALUES WITH (%'
        then array[substring(bound from 'remainder (\d+)'),
                   substring(bound from 'modulus (\d+)')] end;
end
$fn$;

comment on function ensure._bounds_v1(text) is
    'What FOR VALUES says: both bounds, or the values, or remainder and modulus.';

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

create function ensure._stands_v1(
    deleter xid
)
returns boolean
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _stands_v1: a catalog row with this xmax is as an old snapshot shows it.
--
-- Returns  false once a transaction that changed the row has committed; true when none did, or it
--          was rolled back, or is not at its end
declare
    c_near constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    c_ago constant bigint := (c_near - deleter::text::bigint) & 4294967295; -- modulo 2^32
begin
    if deleter::text = '0' then
        return true;
    end if;
    return pg_xact_status((c_near - c_ago + case when c_ago > 2147483648 then 4294967296
                                                 else 0 end)::text::xid8)
           in ('aborted', 'in progress');
end
$fn$;

comment on function ensure._stands_v1(xid) is
    'A catalog row with this xmax is as an old snapshot shows it.';

create function ensure._find_partitions_v1(
    parent regclass,
    schema_name name,
    table_name name,
    kind "char",
    lower_bounds text[],
    upper_bounds text[],
    labels text[]
)
returns oid[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _find_partitions_v1: for each cell the partition with its derived name and its bounds, or null.
--
-- Errors   as of _await_commit_v1
-- Locks    none beyond catalog reads, whose cost does not grow with the number of partitions
-- Races    an old snapshot shows rows as they were: one counts only while it stands
declare
    c_schema constant oid := to_regnamespace(quote_ident(schema_name));
    c_fresh constant boolean := current_setting('transaction_isolation')
                                not in ('repeatable read', 'serializable');
    c_statistics constant boolean := current_setting('server_version_num')::integer >= 150000;
    v_found oid[];
    v_unsettled oid[] := '{}';
    v_name text;
    v_bound text;
    v_row record;
begin
    for v_cell in 1 .. cardinality(labels) loop
        v_bound := case kind
            when 'r' then format('FOR VALUES FROM (%s) TO (%s)', lower_bounds[v_cell],
                                 upper_bounds[v_cell])
            when 'l' then format('FOR VALUES IN (%s)', quote_nullable(lower_bounds[v_cell]))
            when 'h' then format('FOR VALUES WITH (modulus %s, remainder %s)',
                                 upper_bounds[v_cell], lower_bounds[v_cell])
            else 'DEFAULT' end;
        v_name := concat(table_name, '_', labels[v_cell]);
        for v_try in 1 .. 2 loop
            if v_try = 2 then
                v_name := (ensure._partition_names_v1(table_name, lower_bounds[v_cell],
                                                      upper_bounds[v_cell], labels[v_cell]))[2];
            elsif octet_length(v_name) > 63 then
                v_name := (ensure._partition_names_v1(table_name, lower_bounds[v_cell],
                                                      upper_bounds[v_cell], labels[v_cell]))[1];
            end if;
            select c.oid, pg_get_expr(c.relpartbound, 0) as bound, -- with c.oid it takes a lock
                   -- One who came later has locked it to analyze or to write it: that is settled.
                   c.reltuples >= 0
                   or c_statistics and pg_stat_get_tuples_inserted(c.oid) > 0 as settled
            into v_row
            from pg_class as c
            join pg_inherits as i on i.inhrelid = c.oid
            where c.relname = v_name and c.relnamespace = c_schema
              and i.inhparent::bigint = parent::oid::bigint -- not by its index: that reads all
              and not i.inhdetachpending
              and (c_fresh or ensure._stands_v1(c.xmax) and ensure._stands_v1(i.xmax));
            if v_row.bound = v_bound
               or kind = 'r' and replace(v_row.bound, '''', '') = v_bound
               or kind = 'l' and v_row.bound = format('FOR VALUES IN (%s)', lower_bounds[v_cell])
                  and lower_bounds[v_cell] ~ '^([0-9.]+|true|false)$' then
                v_found[v_cell] := v_row.oid;
                if not v_row.settled then
                    v_unsettled := v_unsettled || v_row.oid;
                end if;
                exit;
            end if;
            exit when v_name is null;
        end loop;
    end loop;
    if v_unsettled <> '{}' then
        perform ensure._await_commit_v1(v_unsettled);
    end if;
    return v_found || array_fill(null::oid, array[cardinality(labels)
                                                  - coalesce(cardinality(v_found), 0)]);
end
$fn$;

comment on function ensure._find_partitions_v1(regclass, name, name, "char", text[], text[], text[])
    is 'For each cell the partition with its derived name and its bounds, or null.';

-- migrate:down
drop function ensure._find_partitions_v1(regclass, name, name, "char", text[], text[], text[]);
drop function ensure._stands_v1(xid);
drop function ensure._await_commit_v1(oid[]);
drop function ensure._bounds_v1(text);
drop function ensure._label_v1(text);
drop function ensure._partition_names_v1(name, text, text, text);
