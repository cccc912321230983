-- migrate:up
create function ensure._archive_moves_v1(
    child regclass,
    columns name[],
    moves text,
    losers jsonb[],
    keepers jsonb[],
    archive regclass,
    run uuid
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _archive_moves_v1: what the columns of rows are, and what they will be after their move.
--
-- Returns  how many; there is a row for each, action 'moved', by the key that it has afterwards
-- Errors   0A000  nothing tells the rows of child apart
declare
    c_key constant name[] := ensure._row_key_v1(child);
    c_names constant text := (select string_agg(quote_literal(m.name), ', ' order by m.place)
                              from unnest(columns) with ordinality as m (name, place));
    c_new constant text[] := array( -- as the child will have them, whose type may be another
        select format('m.%I::%s::text', '~' || m.place, format_type(a.atttypid, a.atttypmod))
        from unnest(columns) with ordinality as m (name, place)
        join pg_attribute as a on a.attrelid = child and a.attname = m.name
        order by m.place);
    v_count bigint;
begin
    execute format(
        '%s insert into %s (run, relation, action, key, old, new)'
        ' select $3, %L, ''moved'', jsonb_object(array[%s], array[%s]),'
        ' jsonb_object(array[%s], array[%s]), jsonb_object(array[%s], array[%s])'
        ' from "~moved" as m join %s as c on c.ctid = m."~row" and c.tableoid = m."~part"',
        moves, archive, child::text,
        (select string_agg(quote_literal(k.name), ', ' order by k.place)
         from unnest(c_key) with ordinality as k (name, place)),
        (select string_agg(coalesce(c_new[array_position(columns, k.name)],
                                    format('c.%I::text', k.name)), ', ' order by k.place)
         from unnest(c_key) with ordinality as k (name, place)),
        c_names,
        (select string_agg(format('c.%I::text', m.name), ', ' order by m.place)
         from unnest(columns) with ordinality as m (name, place)),
        c_names, array_to_string(c_new, ', '), ensure._from_v1(child))
    using losers, keepers, run;
    get diagnostics v_count = row_count;
    if v_count > 0 then
        perform ensure._check_row_key_v1(child);
    end if;
    return v_count;
end
$fn$;

comment on function ensure._archive_moves_v1(regclass, name[], text, jsonb[], jsonb[], regclass,
                                             uuid) is
    'What the columns of rows are, and what they will be after their move.';

create function ensure._check_moves_v1(
    target regclass,
    child regclass,
    losers jsonb[],
    keepers jsonb[],
    spare_losers boolean,
    path regclass[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_moves_v1: each row of child that refers to a loser can refer to its keeper.
--
-- Errors   NS010  it cannot, and why
declare
    c_moves constant record := ensure._moves_v1(target, child, spare_losers, path);
    c_generated constant text := (
        select format('%I, by which "%s" refers to it, is generated', min(a.attname),
                      _check_moves_v1.child)
        from ensure._references_v1(target) as r
        join pg_constraint as f on f.oid = r.constraint_oid
        join pg_attribute as a on a.attrelid = r.child and a.attnum = any (f.conkey)
        where r.child = _check_moves_v1.child and (a.attgenerated <> '' or a.attidentity = 'a')
        having count(*) > 0);
    c_trouble constant text := case when c_generated is null then 'm."~trouble"'
                                    else quote_literal(c_generated) end;
    v_count bigint;
    v_why text;
begin
    if c_moves.trouble is not null or c_generated is not null then
        execute format('with "~pairs" as materialized (%s), "~moved" as materialized (%s)'
                       ' select count(*), min(%s) from "~moved" as m where %3$s is not null',
                       c_moves.pairs, c_moves.moved, c_trouble)
        into v_count, v_why
        using losers, keepers;
        if v_count > 0 then
            raise exception using
                errcode = 'NS010',
                message = format('%s rows of "%s" cannot refer to the rows of "%s" that are kept',
                                 v_count, child, target),
                detail = format('For example: %s.', v_why),
                hint = 'Change these rows or those that are kept before the call.';
        end if;
    end if;
end
$fn$;

comment on function ensure._check_moves_v1(regclass, regclass, jsonb[], jsonb[], boolean,
                                           regclass[]) is
    'Each row of child that refers to a loser can refer to its keeper.';

create function ensure._move_children_v1(
    target regclass,
    child regclass,
    losers jsonb[],
    keepers jsonb[],
    spare_losers boolean,
    archive regclass,
    run uuid,
    path regclass[] default '{}'
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _move_children_v1: rows of child that referred to a loser refer to its keeper.
--
-- Returns  how many; rows are updated, so they keep their keys and what refers to them
-- Errors   NS010  a row would refer to itself, or to nothing, or would not refer to what it does by
--                 another foreign key
--          NS012  a trigger or rule kept a row from being moved, or from being archived, or let it
--                 refer to something else
declare
    c_moves constant record := ensure._moves_v1(target, child, spare_losers, path);
    c_with constant text := format(
        'with "~pairs" as materialized (%s), "~moved" as materialized (%s) ',
        c_moves.pairs, c_moves.moved);
    v_count bigint;
    v_left bigint;
    v_other bigint;
    v_archived bigint;
begin
    if c_moves.trouble is not null then
        perform ensure._check_moves_v1(target, child, losers, keepers, spare_losers, path);
    end if;
    if child = target then
        perform ensure._check_circles_v1(target, losers, keepers, spare_losers);
    end if;
    if archive is not null then
        v_archived := ensure._archive_moves_v1(child, c_moves.columns, c_with, losers, keepers,
                                               archive, run);
    end if;
    execute (
        select format('%s, "~set" as (update %s as c set %s from "~moved" as m'
                      ' where c.ctid = m."~row" and c.tableoid = m."~part" returning %s as other)'
                      ' select count(*), count(*) filter (where s.other) from "~set" as s',
                      c_with, ensure._from_v1(child),
                      string_agg(format('%I = m.%I', m.name, '~' || m.place), ', '),
                      string_agg(format('c.%I::text is distinct from m.%I::text', m.name,
                                        '~' || m.place), ' or '))
        from unnest(c_moves.columns) with ordinality as m (name, place))
    into v_count, v_other
    using losers, keepers;
    execute format('with "~pairs" as materialized (%s) select count(*) from %s as c where %s',
                   c_moves.pairs, ensure._from_v1(child), c_moves.remaining)
    into v_left
    using losers, keepers;
    if v_left > 0 or v_archived <> v_count then
        raise exception using
            errcode = 'NS012',
            message = format(case when v_left > 0
                                  then '%s rows of "%s" still refer to duplicates after the move'
                                  else 'not all rows of "%2$s" that moved were archived' end,
                             v_left, child),
            detail = concat(format('Moved: %s', v_count), ', archived: ' || v_archived, '.'),
            hint = 'Look for a trigger or rule that keeps rows from being updated or archived, and'
                   ' for writers that did the same at once; then call again.';
    elsif v_other > 0 then
        raise exception using
            errcode = 'NS012',
            message = format('%s rows of "%s" that were moved refer to something else', v_other,
                             child),
            detail = format('Moved: %s, to rows of "%s".', v_count, target),
            hint = 'Look for a trigger that changes what a row refers to when it is updated;'
                   ' nothing was changed.';
    end if;
    return v_count;
end
$fn$;

comment on function ensure._move_children_v1(regclass, regclass, jsonb[], jsonb[], boolean,
                                             regclass, uuid, regclass[]) is
    'Rows of child that referred to a loser refer to its keeper.';

-- migrate:down
drop function ensure._move_children_v1(regclass, regclass, jsonb[], jsonb[], boolean, regclass,
                                       uuid, regclass[]);
drop function ensure._check_moves_v1(regclass, regclass, jsonb[], jsonb[], boolean, regclass[]);
drop function ensure._archive_moves_v1(regclass, name[], text, jsonb[], jsonb[], regclass, uuid);
