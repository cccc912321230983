-- migrate:up
create function ensure._follow_merges_v1(
    losers jsonb[],
    keepers jsonb[],
    gone jsonb[],
    kept jsonb[],
    out still_losers jsonb[],
    out still_keepers jsonb[]
)
returns record
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $fn$
-- _follow_merges_v1: losers that are still there and their keepers, after others have been merged.
--
-- Returns  never row by row, though the planner expects a few only
select coalesce(array_agg(p.l order by p.place), '{}'),
       coalesce(array_agg(coalesce(g.k, p.k) order by p.place), '{}')
from unnest(losers, keepers) with ordinality as p (l, k, place)
left join unnest(gone, kept) as g (l, k) on g.l = p.k
where not exists (select from unnest(gone) as x (l) where x.l = p.l) and p.l <> coalesce(g.k, p.k)
$fn$;

comment on function ensure._follow_merges_v1(jsonb[], jsonb[], jsonb[], jsonb[]) is
    'Losers that are still there and their keepers, after others have been merged.';

create function ensure._refuse_collisions_v1(
    child regclass,
    names text,
    index_name text,
    losers jsonb[],
    keepers jsonb[],
    hint text
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _refuse_collisions_v1: rows of child would be duplicates once moved, which is an error.
--
-- Returns  nothing; hint: null for the one that says how to merge them
-- Errors   NS010  always
begin
    raise exception using
        errcode = 'NS010',
        message = format('%s rows of "%s" would be duplicates once moved', cardinality(losers),
                         child),
        detail = format('Unique index: %s. Foreign key: %s. For example %s would equal %s.',
                        index_name, names, losers[1], keepers[1]),
        hint = coalesce(_refuse_collisions_v1.hint,
                        'Pass children => ''merge'' to merge them too, or remove them before the'
                        ' call.');
end
$fn$;

comment on function ensure._refuse_collisions_v1(regclass, text, text, jsonb[], jsonb[], text) is
    'Rows of child would be duplicates once moved, which is an error.';

create function ensure._lock_rows_v1(
    target regclass,
    keys jsonb[]
)
returns jsonb[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lock_rows_v1: the rows of target that still have one of keys are locked.
--
-- Returns  their keys, each once
-- Locks    the rows FOR UPDATE, in one order: nobody can change them, or come to refer to them
declare
    c_key constant name[] := ensure._row_key_v1(target);
    v_locked jsonb[];
begin
    execute format('select coalesce(array_agg(distinct r."~l"), ''{}'') from ('
                   ' select %s as "~l" from unnest($1::jsonb[]) as "~p" ("~l") join %s as c on %s'
                   ' order by c.tableoid, c.ctid for update of c) as r',
                   ensure._row_json_v1(c_key, 'c'), ensure._from_v1(target),
                   ensure._row_match_v1(target, c_key, 'c', '"~p"."~l"'))
    into v_locked
    using array(select distinct u.key from unnest(keys) as u (key));
    return v_locked;
end
$fn$;

comment on function ensure._lock_rows_v1(regclass, jsonb[]) is
    'The rows of target that still have one of keys are locked.';

create function ensure._colliding_rows_v1(
    target regclass,
    child regclass,
    losers jsonb[],
    keepers jsonb[],
    path regclass[],
    out index_name text,
    out child_losers jsonb[],
    out child_keepers jsonb[]
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _colliding_rows_v1: as _collisions_v1, of rows that nobody else can change.
--
-- Locks    in a sweep, where writers are not kept out, as _lock_rows_v1; then looks again
declare
    c_locking constant boolean := current_setting('ensure.sweep', true) = 'on';
    v_before jsonb;
    v_found record;
begin
    loop
        v_found := ensure._collisions_v1(target, child, losers, keepers, true, path);
        exit when v_found.child_losers is null or c_locking is distinct from true
                  or to_jsonb(v_found) = v_before;
        v_before := to_jsonb(v_found);
        perform ensure._lock_rows_v1(child, v_found.child_losers || v_found.child_keepers);
    end loop;
    index_name := v_found.index_name;
    child_losers := v_found.child_losers;
    child_keepers := v_found.child_keepers;
end
$fn$;

comment on function ensure._colliding_rows_v1(regclass, regclass, jsonb[], jsonb[], regclass[]) is
    'As _collisions_v1, of rows that nobody else can change.';

create function ensure._check_places_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    spare_losers boolean
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_places_v1: no row moves that is known by its place alone while rows of its table merge.
--
-- Errors   0A000  one would, and could not be found again: the table refers to itself, and has
--                 nothing else that tells its rows apart
declare
    v_moves record;
    v_count bigint;
begin
    if 'ctid' <> all (ensure._row_key_v1(target))
       or not exists (select from ensure._references_v1(target) as r where r.child = target) then
        return;
    end if;
    v_moves := ensure._moves_v1(target, target, spare_losers);
    execute format('with "~pairs" as materialized (%s) select count(*) from %s as c where %s',
                   v_moves.pairs, ensure._from_v1(target), v_moves.remaining)
    into v_count
    using losers, keepers;
    if v_count > 0 then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('%s rows of "%s" would move, and nothing tells its rows apart',
                             v_count, target),
            detail = 'It refers to itself, and has no primary key and no unique index over columns'
                     ' that are not null.',
            hint = 'Add a primary key, or make the columns of a unique index NOT NULL.';
    end if;
end
$fn$;

comment on function ensure._check_places_v1(regclass, jsonb[], jsonb[], boolean) is
    'No row moves that is known by its place alone while rows of its table merge.';

create function ensure._move_losers_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    archive regclass,
    run uuid,
    path regclass[]
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _move_losers_v1: losers that stay and referred to others of them refer to their keepers.
--
-- Returns  how many
-- Errors   NS010  some would be duplicates in a unique index
declare
    v_found record;
begin
    if not exists (select from ensure._references_v1(target) as r where r.child = target) then
        return 0;
    end if;
    perform ensure._check_moves_v1(target, target, losers, keepers, false, path);
    v_found := ensure._collisions_v1(target, target, losers, keepers, false, path);
    if v_found.child_losers is not null then
        perform ensure._refuse_collisions_v1(
            target, 'its own', v_found.index_name, v_found.child_losers, v_found.child_keepers,
            'Let loser_set take the losers out of this index, or delete them.');
    end if;
    return ensure._move_children_v1(target, target, losers, keepers, false, archive, run, path);
end
$fn$;

comment on function ensure._move_losers_v1(regclass, jsonb[], jsonb[], regclass, uuid,
                                           regclass[]) is
    'Losers that stay and referred to others of them refer to their keepers.';

create function ensure._check_left_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    spare_losers boolean
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_left_v1: no row refers to a loser, after what did has moved, table by table.
--
-- Errors   NS012  a trigger inserted or changed one while rows of another table were moved: what it
--                 refers to would go, and with a cascade the row
declare
    v_child record;
    v_count bigint;
begin
    for v_child in
        select c.child, m.pairs, m.remaining
        from ensure._children_v1(target) as c
        cross join lateral ensure._moves_v1(target, c.child, spare_losers) as m
    loop
        execute format('with "~pairs" as materialized (%s) select count(*) from %s as c where %s',
                       v_child.pairs, ensure._from_v1(v_child.child), v_child.remaining)
        into v_count
        using losers, keepers;
        if v_count > 0 then
            raise exception using
                errcode = 'NS012',
                message = format('%s rows of "%s" came to refer to duplicates of "%s" while others'
                                 ' moved', v_count, v_child.child, target),
                hint = 'Look for a trigger that inserts or changes them when rows of another table'
                       ' are updated; nothing was changed.';
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_left_v1(regclass, jsonb[], jsonb[], boolean) is
    'No row refers to a loser, after what did has moved, table by table.';

create function ensure._merge_level_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    loser_set text,
    children text,
    archive regclass,
    run uuid,
    path regclass[]
)
returns table (relation regclass, action text, row_count bigint, gone jsonb[], kept jsonb[])
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_level_v1: as _merge_rows_v1, below the tables of path that are being merged.
--
-- Returns  also which rows are gone and into which they were merged
-- Errors   0A000  as _check_places_v1
--          NS010  also: merges that lead to each other without end, or to a row that was to stay
declare
    c_path constant regclass[] := path || target;
    v_losers jsonb[] := losers;
    v_keepers jsonb[] := keepers;
    v_child record;
    v_found record;
    v_rest record;
    v_again boolean := children in ('move', 'merge');
begin
    if cardinality(c_path) > 60 then
        raise exception using
            errcode = 'NS010',
            message = format('merging rows of "%s" leads to merges of 60 levels', target),
            detail = format('Tables: %s.', array_to_string(c_path[56:], ', ')),
            hint = 'Look for rows that refer to each other in a circle, and merge these yourself.';
    end if;
    if children = 'refuse' then
        perform ensure._refuse_children_v1(target, losers, keepers, loser_set is null);
    elsif v_again then
        perform ensure._check_places_v1(target, losers, keepers, loser_set is null);
    end if;
    while v_again loop -- a merge further down may lead back here
        v_again := false;
        for v_child in select c.child, c.names from ensure._children_v1(target) as c loop
            perform ensure._check_moves_v1(target, v_child.child, v_losers, v_keepers, true,
                                           c_path); -- a value that is cut would collide elsewhere
            loop
                v_found := ensure._colliding_rows_v1(target, v_child.child, v_losers, v_keepers,
                                                     c_path);
                exit when v_found.child_losers is null;
                if children <> 'merge' then
                    perform ensure._refuse_collisions_v1(
                        v_child.child, v_child.names, v_found.index_name,
                        v_found.child_losers, v_found.child_keepers, null);
                end if;
                for relation, action, row_count, gone, kept in
                    select m.* from ensure._merge_level_v1(
                        v_child.child, v_found.child_losers, v_found.child_keepers, null, 'merge',
                        archive, run, c_path) as m
                loop
                    return next;
                    if relation = target and action = 'deleted' then
                        v_again := true;
                        v_rest := ensure._follow_merges_v1(v_losers, v_keepers, gone, kept);
                        if loser_set is not null
                           and v_rest is distinct from (v_losers, v_keepers) then
                            perform ensure._refuse_collisions_v1(
                                v_child.child, v_child.names, v_found.index_name, gone, kept,
                                'Merge these rows yourself: one was to be kept or only changed.');
                        end if;
                        v_losers := v_rest.still_losers;
                        v_keepers := v_rest.still_keepers;
                    end if;
                end loop;
            end loop;
            relation := v_child.child;
            action := 'moved';
            row_count := ensure._move_children_v1(target, v_child.child, v_losers, v_keepers, true,
                                                  archive, run, c_path);
            gone := null;
            kept := null;
            if row_count > 0 then
                return next;
            end if;
        end loop;
    end loop;
    if children in ('move', 'merge') and loser_set is null
       and (select count(*) from ensure._children_v1(target)) > 1 then
        perform ensure._check_left_v1(target, v_losers, v_keepers, true);
    end if;
    perform ensure._drop_losers_v1(target, v_losers, v_keepers, loser_set, archive, run);
    relation := target;
    action := case when loser_set is null then 'deleted' else 'updated' end;
    row_count := cardinality(v_losers);
    gone := v_losers;
    kept := v_keepers;
    return next;
    if loser_set is not null and children in ('move', 'merge') then
        row_count := ensure._move_losers_v1(target, v_losers, v_keepers, archive, run, path);
        action := 'moved';
        if row_count > 0 then
            return next;
        end if;
    end if;
end
$fn$;

comment on function ensure._merge_level_v1(regclass, jsonb[], jsonb[], text, text, regclass, uuid,
                                           regclass[]) is
    'As _merge_rows_v1, below the tables of path that are being merged.';

create function ensure._merge_rows_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
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
-- _merge_rows_v1: what referred to losers refers to their keepers, and the losers are gone.
--
-- Returns  per step what was done: 'moved', 'deleted' (in a child: rows that became equal to
--          another one) or 'updated'
-- Errors   NS010  children are there and may not be moved, or would be duplicates, or lead in a
--                 circle
--          NS012  a trigger or rule kept a row from being moved or deleted
-- Races    the caller keeps writers out, or has set ensure.sweep and locked losers and keepers FOR
--          UPDATE: then those of other tables that have to be merged are locked here
begin
    return query
    select m.relation, m.action, m.row_count
    from ensure._merge_level_v1(target, losers, keepers, loser_set, children, archive, run,
                                '{}') as m;
end
$fn$;

comment on function ensure._merge_rows_v1(regclass, jsonb[], jsonb[], text, text, regclass,
                                          uuid) is
    'What referred to losers refers to their keepers, and the losers are gone.';

-- migrate:down
drop function ensure._merge_rows_v1(regclass, jsonb[], jsonb[], text, text, regclass, uuid);
drop function ensure._merge_level_v1(regclass, jsonb[], jsonb[], text, text, regclass, uuid,
                                     regclass[]);
drop function ensure._check_left_v1(regclass, jsonb[], jsonb[], boolean);
drop function ensure._move_losers_v1(regclass, jsonb[], jsonb[], regclass, uuid, regclass[]);
drop function ensure._check_places_v1(regclass, jsonb[], jsonb[], boolean);
drop function ensure._colliding_rows_v1(regclass, regclass, jsonb[], jsonb[], regclass[]);
drop function ensure._lock_rows_v1(regclass, jsonb[]);
drop function ensure._refuse_collisions_v1(regclass, text, text, jsonb[], jsonb[], text);
drop function ensure._follow_merges_v1(jsonb[], jsonb[], jsonb[], jsonb[]);
