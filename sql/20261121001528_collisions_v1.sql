-- migrate:up
create function ensure._collisions_v1(
    target regclass,
    child regclass,
    losers jsonb[],
    keepers jsonb[],
    spare_losers boolean,
    path regclass[] default '{}',
    after_index text default null,
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
-- _collisions_v1: the rows of child that would be duplicates in a unique index once moved.
--
-- Returns  of the first index, by name and after after_index, that has any: who goes and who stays,
--          which is a row that does not move, else the first by key
-- Errors   0A000  as _check_names_v1
declare
    c_moves constant record := ensure._moves_v1(target, child, spare_losers, path);
    c_key constant name[] := ensure._row_key_v1(child);
    c_json constant text := ensure._row_json_v1(c_key, 'c');
    c_order constant text := (
        select string_agg(quote_ident(case k.name when 'ctid' then '~row'
                                                  when 'tableoid' then '~part'
                                                  else k.name end), ', ' order by k.place)
        from unnest(c_key) with ordinality as k (name, place));
    v_index record;
    v_columns text;
    v_own text;
    v_generated text;
begin
    perform ensure._check_names_v1(child);
    select string_agg(case when m.place is null then format('c.%I', a.attname)
                           else format('m.%I as %I', '~' || m.place, a.attname) end, ', '
                      order by a.attnum),
           string_agg(format('c.%I', a.attname), ', ' order by a.attnum)
    into v_columns, v_own
    from pg_attribute as a
    left join unnest(c_moves.columns) with ordinality as m (name, place) on m.name = a.attname
    where a.attgenerated = '' and a.attrelid = child and a.attnum > 0 and not a.attisdropped;
    for v_index in
        select m.index_oid::regclass::text as name, c.relname, ensure._from_v1(m.place) as source,
               (select string_agg(concat('(', pg_get_indexdef(i.indexrelid, p, false), ')',
                                         case when l.oid is not null then format(
                                             ' collate %I.%I', n.nspname, l.collname) end), ', ')
                from generate_series(1, i.indnkeyatts) as p
                left join pg_collation as l on l.oid = i.indcollation[p - 1]
                left join pg_namespace as n on n.oid = l.collnamespace) as keys,
               (select coalesce(string_agg(format( -- a row type of nulls is no null in an index
                           case when t.typtype = 'c' then 'num_nulls(%s) = 0'
                                else '(%s) is not null' end,
                           pg_get_indexdef(i.indexrelid, a.attnum, false)), ' and '), 'true')
                from pg_attribute as a
                join pg_type as t on t.oid = a.atttypid
                where a.attrelid = i.indexrelid and a.attnum <= i.indnkeyatts
                  and a.attnum <> all (array(
                      select k.place from unnest(i.indkey::int2[]) with ordinality as k (c, place)
                      where ensure._not_null_v1(i.indrelid, k.c)))) as filled,
               coalesce('(' || pg_get_expr(i.indpred, i.indrelid) || ')', 'true') as predicate,
               coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) as nulls_equal,
               case when m.wide then format(
                        'not exists (select from "~moved" as m where m."~row" = c.ctid'
                        ' and m."~part" = c.tableoid)%s', c_moves.spared)
                    else c_moves.beside end as settled
        from ensure._moved_indexes_v1(child, c_moves.columns) as m
        join pg_index as i on i.indexrelid = m.index_oid
        join pg_class as c on c.oid = m.place
        where coalesce(i.indexrelid::regclass::text > after_index, true)
        order by i.indexrelid::regclass::text
    loop
        v_generated := (
            select string_agg(format(', (%s) as %I', pg_get_expr(d.adbin, d.adrelid), a.attname),
                              '')
            from pg_attribute as a
            join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = child and a.attgenerated <> '');
        execute format(
            'with "~pairs" as materialized (%s), "~moved" as materialized (%s)'
            ' select array_agg(d."~key"), array_agg(d."~keeper")'
            ' from (select "~key", first_value("~key") over w as "~keeper",'
            '              row_number() over w as "~place"'
            '       from (select c.*%s'
            '       from (select c.tableoid as "~part", c.ctid as "~row", true as "~moves",'
            '                    %s as "~key", %s'
            '             from "~moved" as m'
            '             join %s as c on c.ctid = m."~row" and c.tableoid = m."~part"'
            '             union all'
            '             select c.tableoid, c.ctid, false, %s, %s from %s as c'
            '             where %s) as c) as %I'
            '       where %s and %s'
            '       window w as (partition by %s order by "~moves", %s)) as d'
            ' where d."~place" > 1',
            c_moves.pairs, c_moves.moved, v_generated, c_json, v_columns, v_index.source, c_json,
            v_own, v_index.source, v_index.settled, v_index.relname, v_index.predicate,
            case when v_index.nulls_equal then 'true' else v_index.filled end,
            v_index.keys, c_order)
        into child_losers, child_keepers
        using losers, keepers;
        if child_losers is not null then
            index_name := v_index.name;
            return;
        end if;
    end loop;
end
$fn$;

comment on function ensure._collisions_v1(regclass, regclass, jsonb[], jsonb[], boolean,
                                          regclass[], text) is
    'The rows of child that would be duplicates in a unique index once moved.';

create function ensure._check_circles_v1(
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
-- _check_circles_v1: no row of target comes to refer to itself, be it through others.
--
-- Errors   NS010  one would, by a foreign key from target into itself
declare
    c_moves constant record := ensure._moves_v1(target, target, spare_losers);
    v_fk record;
    v_over bigint[];
    v_moved boolean[];
    v_met integer[];
    v_at bigint;
    v_closed bigint;
    v_count integer;
begin
    for v_fk in
        select r.constraint_name,
               string_agg(format('p.%I %s case when m."~row" is null then c.%I else m.%I end%s',
                                 u.there, u.operator, u.here,
                                 '~' || array_position(c_moves.columns, u.here), u.collated),
                          ' and ') as parent,
               (select string_agg(distinct format(', c.%I', n.name), '')
                from unnest(r.child_columns || r.target_columns) as n (name)) as columns
        from ensure._references_v1(target) as r
        cross join lateral unnest(r.child_columns, r.target_columns, r.operators, r.collations)
             as u (here, there, operator, collated)
        where r.child = target
        group by r.constraint_name, r.constraint_oid, r.child_columns, r.target_columns
    loop
        execute format(
            'with "~pairs" as materialized (%s), "~moved" as materialized (%s),'
            ' "~node" as materialized ('
            '     select c.tableoid as "~part", c.ctid as "~row", row_number() over () as "~no"%s'
            '     from %s as c where exists (select from "~moved"))'
            ' select array_agg(p."~no" order by c."~no"),'
            '        array_agg(m."~row" is not null order by c."~no")'
            ' from "~node" as c'
            ' left join "~moved" as m on m."~row" = c."~row" and m."~part" = c."~part"'
            ' left join "~node" as p on %s',
            c_moves.pairs, c_moves.moved, v_fk.columns, ensure._from_v1(target), v_fk.parent)
        into v_over, v_moved
        using losers, keepers;
        v_met := array_fill(0, array[coalesce(cardinality(v_over), 0)]);
        v_count := 0;
        for v_start in 1 .. cardinality(v_met) loop -- each row is met once, however deep the tree
            continue when not v_moved[v_start];
            v_at := v_start;
            while v_met[v_at] = 0 loop
                v_met[v_at] := v_start;
                v_at := v_over[v_at];
            end loop;
            if v_met[v_at] = v_start then -- this walk came back to itself
                v_closed := v_at;
                loop
                    v_count := v_count + v_moved[v_at]::integer;
                    v_at := v_over[v_at];
                    exit when v_at = v_closed;
                end loop;
            end if;
        end loop;
        if v_count > 0 then
            raise exception using
                errcode = 'NS010',
                message = format('%s rows of "%s" would come to refer to themselves', v_count,
                                 target),
                detail = format('Foreign key: %s. Each would be above itself, at once or through'
                                ' others.', v_fk.constraint_name),
                hint = 'Let the rows that are kept refer to something else than their duplicates'
                       ' before the call.';
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_circles_v1(regclass, jsonb[], jsonb[], boolean) is
    'No row of target comes to refer to itself, be it through others.';

-- migrate:down
drop function ensure._check_circles_v1(regclass, jsonb[], jsonb[], boolean);
drop function ensure._collisions_v1(regclass, regclass, jsonb[], jsonb[], boolean, regclass[],
                                    text);
