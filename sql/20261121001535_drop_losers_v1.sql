-- migrate:up
create function ensure._drop_losers_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    loser_set text,
    archive regclass,
    run uuid
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _drop_losers_v1: the losers are deleted, or changed as loser_set says.
--
-- Errors   0A000  archive is given, and nothing tells the rows that change apart
--          NS012  a trigger or rule kept a row, or took the one that was to stay, or archive did
--                 not keep one
declare
    c_key constant name[] := ensure._row_key_v1(target);
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    c_match constant text := ensure._row_match_v1(target, c_key, c_name, '"~p"."~l"');
    c_row constant text := ensure._row_object_v1(target, c_name);
    c_archived constant text := format(
        'jsonb_object(array[%s], array[%s])',
        (select string_agg(quote_literal(k.name), ', ' order by k.place)
         from unnest(c_key) with ordinality as k (name, place)),
        (select string_agg(format('%I.%I::text', c_name, k.name), ', ' order by k.place)
         from unnest(c_key) with ordinality as k (name, place)));
    c_losers constant text := 'unnest($1::jsonb[]) as "~p" ("~l")';
    c_from constant text := ensure._from_v1(target);
    v_count bigint;
begin
    execute format('select count(*) from (%s) as p', ensure._pairs_v1(target, '{}'))
    into v_count
    using losers, keepers;
    if v_count <> cardinality(losers) then
        raise exception using
            errcode = 'NS012',
            message = format('%s of %s duplicates in "%s" and their keepers are still there',
                             v_count, cardinality(losers), target),
            detail = 'The others were deleted or got another key while children were moved.',
            hint = 'Look for a trigger on the tables that refer to it; then call again.';
    end if;
    if archive is not null and loser_set is not null then
        perform ensure._check_row_key_v1(target);
    elsif archive is not null then
        execute format('insert into %s (run, relation, action, key, old)'
                       ' select $2, %L, ''deleted'', %s, %s from %s join %s as %I on %s',
                       archive, target::text, c_archived, c_row, c_losers, c_from, c_name, c_match)
        using losers, run;
        get diagnostics v_count = row_count;
        if v_count <> cardinality(losers) then
            raise exception using
                errcode = 'NS012',
                message = format('%s of %s duplicates in "%s" were archived', v_count,
                                 cardinality(losers), target),
                hint = format('Look for a trigger or rule on %s; nothing was changed.', archive);
        end if;
    end if;
    -- As a cursor, since that refuses a text of several statements before it runs the first.
    for v_count in execute
        case when loser_set is null then format(
                 'with "~d" as (delete from %s as %I using %s where %s returning 1)'
                 ' select count(*) from "~d"', c_from, c_name, c_losers, c_match)
             when archive is null then format(
                 'with "~u" as (update %s as %I set %s%s from %s where %s returning 1)'
                 ' select count(*) from "~u"',
                 c_from, c_name, loser_set, E'\n', c_losers, c_match)
             else format(
                 'with "~o" as materialized (select "~p"."~l", %s as old from %s join %s as %I'
                 ' on %s), "~u" as (update %s as %I set %s%s from %s where %s'
                 ' returning "~p"."~l", %s as key, %s as new), "~a" as ('
                 ' insert into %s (run, relation, action, key, old, new)'
                 ' select $2, %L, ''updated'', u.key, o.old, u.new from "~u" as u'
                 ' join "~o" as o on o."~l" = u."~l" returning 1) select count(*) from "~a"',
                 c_row, c_losers, c_from, c_name, c_match, c_from, c_name, loser_set, E'\n',
                 c_losers, c_match, c_archived, c_row, archive, target::text) end
        using losers, run
    loop
        if v_count <> cardinality(losers) then
            raise exception using
                errcode = 'NS012',
                message = format('%s of %s duplicates in "%s" were %s', v_count,
                                 cardinality(losers), target,
                                 case when loser_set is null then 'deleted' else 'updated' end),
                detail = concat('The others were kept, or changed by somebody else meanwhile',
                                case when archive is not null then ', or not archived' end, '.'),
                hint = 'Look for a trigger or rule on the table or its archive; then call again.';
        end if;
    end loop;
end
$fn$;

comment on function ensure._drop_losers_v1(regclass, jsonb[], jsonb[], text, regclass, uuid) is
    'The losers are deleted, or changed as loser_set says.';

create function ensure._refuse_children_v1(
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
-- _refuse_children_v1: no row refers to a loser.
--
-- Errors   NS010  some do, and how many by which foreign key
declare
    v_fk record;
    v_count bigint;
    v_found text[] := '{}';
begin
    for v_fk in
        select r.child, r.constraint_name, m.pairs, m.remaining,
               case r.on_delete when 'c' then ' (on delete cascade)'
                                when 'n' then ' (on delete set null)'
                                when 'd' then ' (on delete set default)' end as fate
        from ensure._references_v1(target) as r
        cross join lateral ensure._moves_v1(target, r.child, spare_losers, '{}',
                                            r.constraint_oid) as m
    loop
        execute format('with "~pairs" as materialized (%s) select count(*) from %s as c where %s',
                       v_fk.pairs, ensure._from_v1(v_fk.child), v_fk.remaining)
        into v_count
        using losers, keepers;
        if v_count > 0 then
            v_found := v_found || format('%s rows of %s by %I%s', v_count, v_fk.child,
                                         v_fk.constraint_name, v_fk.fate);
        end if;
    end loop;
    if v_found <> '{}' then
        raise exception using
            errcode = 'NS010',
            message = format('rows refer to duplicates of "%s"', target),
            detail = format('%s.', array_to_string(v_found, '; ')),
            hint = case when spare_losers
                        then 'Pass children => ''move'' to let them refer to the row that is kept.'
                        else 'Pass children => ''leave'' to let them refer to the losers, which'
                             ' stay, or ''move'' to let them refer to the row that is kept.' end;
    end if;
end
$fn$;

comment on function ensure._refuse_children_v1(regclass, jsonb[], jsonb[], boolean) is
    'No row refers to a loser.';

create function ensure._children_v1(
    target regclass
)
returns table (child regclass, names text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _children_v1: the tables that refer to target, in the order in which to move their rows.
--
-- Returns  those first whose rows others of them refer to: where a key that moves is cascaded, the
--          others' rows move with it; target itself last
with recursive children as (
    select r.child, string_agg(r.constraint_name, ', ') as names
    from ensure._references_v1(target) as r
    group by r.child
), edges (child, over) as (
    select c.child, o.child
    from children as c
    join pg_constraint as f on f.conrelid = c.child and f.contype = 'f'
    join children as o on o.child = f.confrelid and o.child not in (c.child, target)
), above (child, over) as (
    select e.child, e.over from edges as e
    union
    select a.child, e.over
    from above as a
    join edges as e on e.child = a.over
)
select c.child, c.names
from children as c
order by c.child = target,
         (select count(*) from above as a where a.child = c.child and a.over <> c.child),
         c.child::text collate "C"
$fn$;

comment on function ensure._children_v1(regclass) is
    'The tables that refer to target, in the order in which to move their rows.';

-- migrate:down
drop function ensure._children_v1(regclass);
drop function ensure._refuse_children_v1(regclass, jsonb[], jsonb[], boolean);
drop function ensure._drop_losers_v1(regclass, jsonb[], jsonb[], text, regclass, uuid);
