-- migrate:up
create function ensure._count_rows_v1(
    relations regclass[]
)
returns bigint[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _count_rows_v1: how many rows each table has.
declare
    v_counts bigint[] := '{}';
    v_count bigint;
begin
    for v_place in 1 .. coalesce(cardinality(relations), 0) loop
        execute format('select count(*) from %s', ensure._from_v1(relations[v_place]))
        into v_count;
        v_counts := v_counts || v_count;
    end loop;
    return v_counts;
end
$fn$;

comment on function ensure._count_rows_v1(regclass[]) is 'How many rows each table has.';

create function ensure._counted_tables_v1(
    target regclass,
    merge boolean
)
returns regclass[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _counted_tables_v1: the tables that might lose rows when rows of target are merged.
with tables as (
    select t.relation from ensure._merge_tables_v1(target, merge) as t)
select array(select t.relation from tables as t
             where not exists (select from tables as o -- a partition counts with its table
                               where o.relation <> t.relation
                                 and o.relation in (select pg_partition_ancestors(t.relation)))
               and (exists (select from tables as o offset 1)
                    or exists (select from pg_trigger as g
                               where g.tgrelid = t.relation and not g.tgisinternal)))
$fn$;

comment on function ensure._counted_tables_v1(regclass, boolean) is
    'The tables that might lose rows when rows of target are merged.';

create function ensure._check_counts_v1(
    target regclass,
    relations regclass[],
    before bigint[],
    done_relations regclass[],
    done_actions text[],
    done_counts bigint[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_counts_v1: since before, no row of relations is gone but those that were deleted.
--
-- Errors   NS012  some are, as through a cascade, or some have come
declare
    v_wrong text;
begin
    select string_agg(format('%s: %s before, %s after, %s were to go', b.relation, b.before,
                             b.after, coalesce(g.gone, 0)), '; ')
    into v_wrong
    from unnest(relations, before, ensure._count_rows_v1(relations))
         as b (relation, before, after)
    cross join lateral (
        select sum(u.n) as gone
        from unnest(done_relations, done_actions, done_counts) as u (relation, action, n)
        where u.action = 'deleted'
          and (u.relation = b.relation
               or b.relation in (select pg_partition_ancestors(u.relation)))) as g
    where b.before - coalesce(g.gone, 0) <> b.after;
    if v_wrong is not null then
        raise exception using
            errcode = 'NS012',
            message = format('merging the duplicates of "%s" would lose or add other rows', target),
            detail = format('%s.', v_wrong),
            hint = 'Look for triggers and cascades on these tables; nothing was changed.';
    end if;
end
$fn$;

comment on function ensure._check_counts_v1(regclass, regclass[], bigint[], regclass[], text[],
                                            bigint[]) is
    'Since before, no row of relations is gone but those that were deleted.';

create function ensure._dedupe_counted_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    loser_set text,
    children text,
    archive regclass,
    run uuid
)
returns table (relation regclass, action text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _dedupe_counted_v1: as _dedupe_v1, and the tables have lost nothing else.
--
-- Errors   NS012  rows are gone that were not to go, as through a cascade
declare
    c_relations constant regclass[] :=
        ensure._counted_tables_v1(unique_key.target::regclass, children = 'merge');
    c_before constant bigint[] := ensure._count_rows_v1(c_relations);
    v_done record;
begin
    select array_agg(d.relation) as relations, array_agg(d.action) as actions,
           array_agg(d.row_count) as counts
    into v_done
    from (select s.relation, s.action, sum(s.row_count)::bigint as row_count
          from ensure._dedupe_v1(unique_key, keep, loser_set, children, archive, run) as s
          group by s.relation, s.action) as d;
    perform ensure._check_counts_v1(unique_key.target::regclass, c_relations, c_before,
                                    v_done.relations, v_done.actions, v_done.counts);
    return query
    select u.relation, u.action, u.n
    from unnest(v_done.relations, v_done.actions, v_done.counts) as u (relation, action, n)
    order by u.relation = unique_key.target, u.relation::text collate "C", u.action;
end
$fn$;

comment on function ensure._dedupe_counted_v1(ensure._unique_key_v1, text, text, text, regclass,
                                              uuid) is
    'As _dedupe_v1, and the tables have lost nothing else.';

create function ensure._attach_index_v1(
    index_oid oid,
    partition regclass
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_index_v1: an index that a partition has is part of an index on its parent.
--
-- Returns  false when it has none that fits
declare
    v_index regclass;
begin
    for v_index in
        select i.indexrelid
        from pg_index as i
        where i.indrelid = partition and i.indisunique and i.indisvalid
          and not exists (select from pg_inherits as p where p.inhrelid = i.indexrelid)
        order by i.indexrelid
    loop
        begin
            perform ensure._run_v1(format('alter index %s attach partition %s',
                                          index_oid::regclass, v_index));
            return true;
        exception when invalid_object_definition then
            null; -- on something else
        end;
    end loop;
    return false;
end
$fn$;

comment on function ensure._attach_index_v1(oid, regclass) is
    'An index that a partition has is part of an index on its parent.';

create function ensure._attach_indexes_v1(
    index_oid oid
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_indexes_v1: each partition has its part of an index on a partitioned table.
--
-- Locks    as CREATE INDEX on the partitions that lack it; the caller has locked
declare
    c_definition constant text := pg_get_indexdef(index_oid);
    v_part record;
begin
    for v_part in
        select p.inhrelid::regclass as partition, a.part_index, a.indisvalid, a.relkind,
               format('CREATE UNIQUE INDEX %I ON ONLY %s ', n.relname,
                      i.indrelid::regclass) as start
        from pg_index as i
        join pg_class as n on n.oid = i.indexrelid
        join pg_inherits as p on p.inhparent = i.indrelid
        left join lateral (
            select x.indexrelid as part_index, x.indisvalid, c.relkind
            from pg_inherits as h
            join pg_index as x on x.indexrelid = h.inhrelid
            join pg_class as c on c.oid = x.indexrelid
            where h.inhparent = i.indexrelid and x.indrelid = p.inhrelid) as a on true
        where i.indexrelid = index_oid
        order by p.inhrelid
    loop
        if v_part.part_index is null then
            if not ensure._attach_index_v1(index_oid, v_part.partition) then
                perform ensure._run_v1(format('create unique index on %s %s', v_part.partition,
                                              substr(c_definition, length(v_part.start) + 1)));
                perform ensure._attach_index_v1(index_oid, v_part.partition);
            end if;
            continue;
        elsif v_part.indisvalid then
            continue;
        elsif v_part.relkind = 'I' then
            perform ensure._attach_indexes_v1(v_part.part_index);
        else
            perform ensure._run_v1(format('reindex index %s', v_part.part_index::regclass));
        end if;
        perform ensure._run_v1( -- it is attached: looks whether all are valid now
            format('alter index %s attach partition %s', index_oid::regclass,
                   v_part.part_index::regclass));
    end loop;
end
$fn$;

comment on function ensure._attach_indexes_v1(oid) is
    'Each partition has its part of an index on a partitioned table.';

create function ensure._deferrable_v1(
    target regclass,
    merge boolean,
    out checked text,
    out deferred text
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _deferrable_v1: the deferrable constraints of the tables of a merge, for SET CONSTRAINTS.
--
-- Returns  checked: all of them; deferred: those that are so from the start
select string_agg(distinct format('%I.%I', n.nspname, f.conname), ', '),
       string_agg(distinct format('%I.%I', n.nspname, f.conname), ', ')
           filter (where f.condeferred and not exists ( -- its name is refused as well
               select from pg_constraint as o
               where o.conname = f.conname and o.connamespace = f.connamespace
                 and not o.condeferrable))
from ensure._merge_tables_v1(target, merge) as t
join pg_constraint as f on f.condeferrable and t.relation in (f.conrelid, f.confrelid)
join pg_namespace as n on n.oid = f.connamespace
$fn$;

comment on function ensure._deferrable_v1(regclass, boolean) is
    'The deferrable constraints of the tables of a merge, for SET CONSTRAINTS.';

create function ensure._archived_run_v1(
    archive regclass,
    run uuid
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _archived_run_v1: the row that names a run, when it archived anything.
begin
    if archive is not null then
        object := run;
        outcome := 'archived';
        execute format('select count(*) from %s as a where a.run = $1', archive)
        into row_count using run;
        if row_count > 0 then
            return next;
        end if;
    end if;
end
$fn$;

comment on function ensure._archived_run_v1(regclass, uuid) is
    'The row that names a run, when it archived anything.';

create function ensure._make_unique_v1(
    unique_keys ensure._unique_key_v1[],
    dedupe jsonb,
    archive regclass,
    index_name name,
    as_constraint boolean
)
returns table (object text, outcome text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set default_tablespace = ''
as $fn$
-- _make_unique_v1: the duplicates are dealt with and the indexes are there; the caller has locked.
--
-- Errors   NS009, NS010, NS012  as ensure_unique_v1
--          23505  on pg_class: another session gave the same name at this moment
declare
    c_target constant regclass := unique_keys[1].target;
    c_run constant uuid := case when archive is not null then gen_random_uuid() end;
    v_checks record;
    v_found record;
    v_index regclass;
    v_schema text;
    v_detail text;
begin
    v_checks := ensure._deferrable_v1(c_target, dedupe ->> 'children' = 'merge');
    if (dedupe ->> 'rewrite')::boolean then
        return query
        select w.relation::text, w.action, w.row_count
        from ensure._rewrite_v1(unique_keys[1], dedupe ->> 'keep') as w;
    elsif dedupe is not null then
        if dedupe ->> 'loser_set' is not null then
            perform ensure._check_loser_set_v1(c_target, dedupe ->> 'loser_set');
        end if;
        return query
        select d.relation::text, d.action, d.row_count
        from ensure._dedupe_counted_v1(unique_keys[1], dedupe ->> 'keep', dedupe ->> 'loser_set',
                                       dedupe ->> 'children', archive, c_run) as d;
    end if;
    if v_checks.checked is not null then -- or no index can be made while they are to come
        execute format('set constraints %s immediate', v_checks.checked);
    end if;
    for v_found in
        select l.* from ensure._look_keys_v1(unique_keys, index_name) as l order by l.place
    loop
        outcome := 'exists';
        v_index := v_found.index_oid;
        begin
            if v_found.state = 'missing' then
                perform ensure._run_v1(ensure._index_statement_v1(
                    unique_keys[v_found.place],
                    case when v_found.place = 2 then index_name end, ''));
                outcome := 'created';
            elsif v_found.state <> 'valid' and (select c.relkind from pg_class as c
                                                where c.oid = v_index) = 'I' then
                perform ensure._attach_indexes_v1(v_index);
                outcome := 'repaired';
            elsif v_found.state <> 'valid' then
                perform ensure._run_v1(format('reindex index %s', v_index));
                outcome := 'repaired';
            end if;
        exception when unique_violation then
            get stacked diagnostics v_schema = schema_name, v_detail = pg_exception_detail;
            if v_schema = 'pg_catalog' then
                raise;
            end if;
            perform ensure._raise_duplicates_v1(unique_keys[1]);
            raise exception using
                errcode = 'NS009',
                message = format('"%s" has duplicates of (%s)', c_target,
                                 array_to_string(unique_keys[1].expressions, ', ')),
                detail = v_detail,
                hint = 'They are not equal to what compares rows here: report this.';
        end;
        v_found := ensure._look_unique_v1(unique_keys[v_found.place]);
        if v_found.state <> 'valid' then
            raise exception using
                errcode = 'NS001',
                message = format('the index on "%s" is not valid after it was made', c_target),
                detail = format('%s: %s', v_found.state, v_found.definition),
                hint = 'Drop it, or let plan_unique_v1 repair it.';
        end if;
        object := v_found.index_oid::regclass;
        if as_constraint and not exists (select from pg_constraint as u
                                         where u.conindid = v_found.index_oid
                                           and u.contype in ('p', 'u')) then
            perform ensure._run_v1(format(
                'alter table only %s add unique using index %I', c_target,
                (select c.relname from pg_class as c where c.oid = v_found.index_oid)));
            outcome := case when outcome = 'exists' then 'constrained' else outcome end;
        end if;
        return next;
    end loop;
    if v_checks.deferred is not null then
        execute format('set constraints %s deferred', v_checks.deferred);
    end if;
    return query select a.* from ensure._archived_run_v1(archive, c_run) as a;
end
$fn$;

comment on function ensure._make_unique_v1(ensure._unique_key_v1[], jsonb, regclass, name,
                                           boolean) is
    'The duplicates are dealt with and the indexes are there; the caller has locked.';

-- migrate:down
drop function ensure._make_unique_v1(ensure._unique_key_v1[], jsonb, regclass, name, boolean);
drop function ensure._archived_run_v1(regclass, uuid);
drop function ensure._deferrable_v1(regclass, boolean);
drop function ensure._attach_indexes_v1(oid);
drop function ensure._attach_index_v1(oid, regclass);
drop function ensure._dedupe_counted_v1(ensure._unique_key_v1, text, text, text, regclass, uuid);
drop function ensure._check_counts_v1(regclass, regclass[], bigint[], regclass[], text[], bigint[]);
drop function ensure._counted_tables_v1(regclass, boolean);
drop function ensure._count_rows_v1(regclass[]);
