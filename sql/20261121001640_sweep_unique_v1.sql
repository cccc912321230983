-- migrate:up
create function ensure._losers_among_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    among jsonb[],
    out losers jsonb[],
    out keepers jsonb[]
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _losers_among_v1: as _losers_v1, of some rows, which are locked.
--
-- Locks    as _lock_rows_v1
declare
    c_target constant regclass := unique_key.target;
    c_name constant name := (select c.relname from pg_class as c where c.oid = c_target);
    c_columns constant name[] := ensure._row_key_v1(c_target);
    c_json constant text := ensure._row_json_v1(
        array_replace(array_replace(c_columns, 'ctid', '~row'), 'tableoid', '~part'), c_name);
    c_among constant text := format(
        'unnest($1::jsonb[]) as "~p" ("~l") join %s as %I on %s',
        ensure._from_v1(c_target), c_name,
        ensure._row_match_v1(c_target, c_columns, c_name, '"~p"."~l"'));
    c_rows constant record := ensure._keyed_rows_v1(unique_key);
    c_locked constant jsonb[] := ensure._lock_rows_v1(c_target, among);
begin
    for losers, keepers in execute format(
        'select array_agg(d."~l"), array_agg(d."~k")'
        ' from (select %s as "~l", first_value(%s) over w as "~k", row_number() over w as "~n"'
        '       from %s window w as (partition by %s order by %s%s, "~part", "~row")) as d'
        ' where d."~n" > 1',
        c_json, c_json,
        replace(c_rows.source, format(' from %s as %I where ', ensure._from_v1(c_target), c_name),
                format(' from %s where ', c_among)),
        c_rows.peers, keep, E'\n')
        using c_locked
    loop
        losers := coalesce(losers, '{}');
        keepers := coalesce(keepers, '{}');
    end loop;
end
$fn$;

comment on function ensure._losers_among_v1(ensure._unique_key_v1, text, jsonb[]) is
    'As _losers_v1, of some rows, which are locked.';

create function ensure._delete_batch_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    among jsonb[],
    out losers bigint,
    out deleted bigint
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _delete_batch_v1: of some rows those that have to go are deleted, in one statement.
--
-- Returns  deleted is less than losers when rows have just changed, or a trigger keeps them
-- Locks    as _lock_rows_v1
declare
    c_target constant regclass := unique_key.target;
    c_name constant name := (select c.relname from pg_class as c where c.oid = c_target);
    c_rows constant record := ensure._keyed_rows_v1(unique_key);
    c_end constant text := format(') as %I', c_name);
    c_some constant text := replace(
        left(c_rows.source, -length(c_end)),
        format(' from %s as %I where ', ensure._from_v1(c_target), c_name),
        format(' from (select distinct u from unnest($1::jsonb[]) as u) as "~p" ("~l")'
               ' join only %s as %I on %s where ', c_target, c_name,
               ensure._row_match_v1(c_target, ensure._row_key_v1(c_target), c_name,
                                    '"~p"."~l"')));
begin
    execute format(
        'with "~d" as materialized ('
        ' select coalesce(array_agg(d."~row"), array[]::tid[]) as "~all"'
        ' from (select "~row", row_number() over (partition by %s order by %s%s, "~row") as "~n"'
        '       from (select distinct on ("~y"."~row") "~y".* from %s order by %I.ctid'
        '             for update of %I) as "~y"%s) as d where d."~n" > 1), "~x" as ('
        ' delete from only %s as "~t" where "~t".ctid = any (array('
        ' select u from "~d" cross join lateral unnest("~d"."~all") as u)) returning 1)'
        ' select cardinality("~d"."~all"), (select count(*) from "~x") from "~d"',
        c_rows.peers, keep, E'\n', c_some, c_name, c_name, c_end, c_target)
    into losers, deleted
    using among;
end
$fn$;

comment on function ensure._delete_batch_v1(ensure._unique_key_v1, text, jsonb[]) is
    'Of some rows those that have to go are deleted, in one statement.';

create function ensure._lock_sweep_v1(
    target regclass,
    children text
)
returns regclass[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lock_sweep_v1: no foreign key, column or partition can come while a batch is dealt with.
--
-- Returns  the tables that are locked: target, what children may change below it, all partitions
-- Locks    ROW EXCLUSIVE on them, in the order of ensure_unique_v1
declare
    v_locked regclass[] := '{}';
    v_relation regclass;
begin
    loop -- what came while one was waited for is among them
        for v_relation in
            select l.relation
            from ensure._unique_locks_v1(
                     target, case when children in ('move', 'merge') then children
                             else 'leave' end, true, false)
                 with ordinality as l (relation, mode, place)
            where l.relation <> all (v_locked)
            order by l.place
        loop
            execute format('lock table only %s in row exclusive mode', v_relation);
            v_locked := v_locked || v_relation;
        end loop;
        exit when not found;
    end loop;
    return v_locked;
end
$fn$;

comment on function ensure._lock_sweep_v1(regclass, text) is
    'No foreign key, column or partition can come while a batch is dealt with.';

create function ensure._rows_gone_v1(
    relations regclass[]
)
returns bigint
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _rows_gone_v1: how many rows of some tables this transaction has deleted, less those it inserted.
--
-- Returns  of the server's own count, by cascades and triggers too; 0 with track_counts off
select coalesce(sum(pg_stat_get_xact_tuples_deleted(r.relation)
                    - pg_stat_get_xact_tuples_inserted(r.relation)), 0)::bigint
from unnest(relations) as r (relation)
$fn$;

comment on function ensure._rows_gone_v1(regclass[]) is
    'How many rows of some tables this transaction has deleted, less those it inserted.';

create function ensure._check_gone_v1(
    relations regclass[],
    before bigint,
    deleted bigint
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_gone_v1: since before, no other rows are gone, and none have come.
--
-- Errors   NS012  some are, as through a cascade or trigger
declare
    c_gone constant bigint := ensure._rows_gone_v1(relations) - before;
begin
    if c_gone <> deleted and current_setting('track_counts')::boolean then
        raise exception using
            errcode = 'NS012',
            message = format('merging duplicates of "%s" would lose or add other rows',
                             relations[1]),
            detail = format('To be deleted: %s. Deleted less inserted: %s, in %s.', deleted, c_gone,
                            array_to_string(relations, ', ')),
            hint = 'Look for triggers and cascades on these tables; nothing was changed.';
    end if;
end
$fn$;

comment on function ensure._check_gone_v1(regclass[], bigint, bigint) is
    'Since before, no other rows are gone, and none have come.';

create function ensure._sweep_batch_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    loser_set text,
    children text,
    archive regclass,
    run uuid,
    relations regclass[],
    among jsonb[]
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _sweep_batch_v1: of some rows those that are duplicates are dealt with.
--
-- Returns  how many; relations: the tables that are locked, target first
-- Errors   NS009, NS010, NS012, 23502, 23503, 23505  as _sweep_unique_v1
-- Locks    the losers and their keepers FOR UPDATE
declare
    c_target constant regclass := unique_key.target;
    c_before constant bigint := ensure._rows_gone_v1(relations);
    v_found record;
    v_done record;
    v_before bigint;
    v_count bigint := 0;
    v_tries integer := 0;
begin
    if loser_set is null and archive is null
       and array_remove(unique_key.sort_operators, null) = '{}'
       and (select c.relkind from pg_class as c where c.oid = c_target) = 'r'
       and not exists (select from ensure._references_v1(c_target)) then
        v_found := ensure._delete_batch_v1(unique_key, keep, among);
        v_count := v_found.deleted;
        perform ensure._check_gone_v1(relations, c_before, v_count);
        if v_found.deleted = v_found.losers then
            return v_count;
        end if;
    end if;
    v_found := ensure._losers_among_v1(unique_key, keep, among);
    while v_found.losers <> '{}' loop
        begin
            v_before := ensure._rows_gone_v1(relations);
            select coalesce(sum(m.row_count) filter (
                       where m.relation = c_target and m.action in ('deleted', 'updated')), 0)
                       as own,
                   coalesce(sum(m.row_count) filter (where m.action = 'deleted'), 0) as deleted
            into v_done
            from ensure._merge_rows_v1(c_target, v_found.losers, v_found.keepers, loser_set,
                                       children, archive, run) as m;
            perform ensure._check_gone_v1(relations, v_before, v_done.deleted::bigint);
            v_count := v_count + v_done.own;
            exit;
        exception when sqlstate 'NS012' or unique_violation or foreign_key_violation then
            v_tries := v_tries + 1; -- others changed rows that refer to losers; or a trigger
            if v_tries > 5 then
                raise;
            end if;
        end;
    end loop;
    if loser_set is not null then -- and does not help: this would never end
        v_done := ensure._losers_among_v1(unique_key, keep, v_found.losers || v_found.keepers);
        if v_done.losers || v_done.keepers && v_found.losers then
            perform ensure._raise_duplicates_v1(unique_key, loser_set);
        end if;
    end if;
    return v_count;
end
$fn$;

comment on function ensure._sweep_batch_v1(ensure._unique_key_v1, text, text, text, regclass, uuid,
                                           regclass[], jsonb[]) is
    'Of some rows those that are duplicates are dealt with.';

create function ensure._sweep_unique_v1(
    target regclass,
    columns text[],
    predicate text,
    nulls_equal boolean,
    keep text,
    loser_set text,
    children text,
    archive regclass,
    work text
)
returns table (row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set array_nulls = on
as $fn$
-- _sweep_unique_v1: one batch of duplicates is dealt with, for a statement of plan_unique_v1.
--
-- Returns  how many rows; 0 when there is no batch, or nothing left to do in it
-- Errors   NS009, NS010, NS012, 23502, 23503, 23505  as ensure_unique_v1; the batch stays as it was
--          NS011  this transaction has an old snapshot
--          55P03  a lock was not to be had
-- Locks    ROW EXCLUSIVE on target and, with children that move, on the tables below that change,
--          before it looks at what refers to what; the losers and their keepers FOR UPDATE, also
--          those of other tables that are merged. A wait ends after 500 ms, or what lock_timeout
--          says if that is shorter; after one for rows up to three other batches are tried
-- Races    two that sweep take different batches. Rows that are lost or come by cascades and
--          triggers are known by the server's own count, not with track_counts off
declare
    c_key constant ensure._unique_key_v1 :=
        ensure._unique_key_v1(target, columns, predicate, nulls_equal);
    c_lock_timeout constant text := current_setting('lock_timeout');
    v_queue regclass;
    v_relations regclass[];
    v_batch bigint;
    v_key name[];
    v_rows jsonb[];
    v_busy bigint[] := '{}';
begin
    perform ensure._check_dedupe_v1(target, keep,
                                    case when loser_set is null then 'delete' else 'update' end,
                                    loser_set, children, archive);
    perform ensure._unique_guards_v1(c_key, '{}', '0');
    if loser_set is not null then
        perform ensure._check_loser_set_v1(target, loser_set);
    end if;
    perform set_config('lock_timeout', least(nullif(extract(
        epoch from c_lock_timeout::interval) * 1000, 0), 500)::integer::text, true);
    perform set_config('ensure.sweep', 'on', true); -- the gate and merges know it by this
    v_relations := ensure._lock_sweep_v1(target, children);
    v_queue := ensure._look_queue_v1(target, work);
    row_count := 0;
    if v_queue is not null then
        execute format('select s.batch from %s as s order by s.batch limit 1'
                       ' for update skip locked', v_queue)
        into v_batch;
    end if;
    while v_batch is not null loop
        begin
            execute format('delete from %s as q where q.batch = $1'
                           ' returning q.row_key, q.losers || q.keepers', v_queue)
            into v_key, v_rows
            using v_batch;
            if v_key = ensure._row_key_v1(target) then
                row_count := ensure._sweep_batch_v1(
                    ensure._unique_key_v1(target, columns, predicate, nulls_equal), keep,
                    loser_set, children, archive, md5(concat(work, v_queue::oid))::uuid,
                    v_relations, v_rows);
            end if;
            exit;
        exception when lock_not_available or deadlock_detected then
            v_busy := v_busy || v_batch;
            execute format('select s.batch from %s as s where s.batch <> all ($1)'
                           ' order by random() limit 1 for update skip locked', v_queue)
            into v_batch
            using v_busy;
            if v_batch is null or cardinality(v_busy) > 3 then
                raise;
            end if;
        end;
    end loop;
    if v_busy <> '{}' then -- others come first from now on
        execute format('update %s as q set batch = q.batch + 4294967296'
                       ' where q.batch = any ($1)', v_queue)
        using v_busy;
    end if;
    perform set_config('ensure.sweep', '', true);
    perform set_config('lock_timeout', c_lock_timeout, true);
    return next;
end
$fn$;

comment on function ensure._sweep_unique_v1(regclass, text[], text, boolean, text, text, text,
                                            regclass, text) is
    'One batch of duplicates is dealt with, for a statement of plan_unique_v1.';

-- migrate:down
drop function ensure._sweep_unique_v1(regclass, text[], text, boolean, text, text, text, regclass,
                                      text);
drop function ensure._sweep_batch_v1(ensure._unique_key_v1, text, text, text, regclass, uuid,
                                     regclass[], jsonb[]);
drop function ensure._check_gone_v1(regclass[], bigint, bigint);
drop function ensure._rows_gone_v1(regclass[]);
drop function ensure._lock_sweep_v1(regclass, text);
drop function ensure._delete_batch_v1(ensure._unique_key_v1, text, jsonb[]);
drop function ensure._losers_among_v1(ensure._unique_key_v1, text, jsonb[]);
