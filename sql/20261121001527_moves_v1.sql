-- migrate:up
create function ensure._pairs_v1(
    target regclass,
    columns name[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _pairs_v1: SQL for columns of the losers and keepers whose JSON keys are in $1 and $2.
--
-- Returns  of losers as l1, l2 …, of keepers as k1, k2 …; found is true
select format(
    'select true as found%s from unnest($1::jsonb[], $2::jsonb[]) as "~p" (l, k)'
    ' join %s as l on %s join %s as k on %s',
    (select string_agg(format(', l.%I as %I, k.%I as %I', t.name, 'l' || t.place,
                              t.name, 'k' || t.place), '')
     from unnest(columns) with ordinality as t (name, place)),
    ensure._from_v1(target), ensure._row_match_v1(target, r.key, 'l', '"~p".l'),
    ensure._from_v1(target), ensure._row_match_v1(target, r.key, 'k', '"~p".k'))
from (select ensure._row_key_v1(target) as key) as r
$fn$;

comment on function ensure._pairs_v1(regclass, name[]) is
    'SQL for columns of the losers and keepers whose JSON keys are in $1 and $2.';

create function ensure._castable_v1(
    value anyelement,
    type text
)
returns boolean
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _castable_v1: a value can be cast to a type.
declare
    v_null boolean;
begin
    execute format('select ($1::%s) is null', type) into v_null using value;
    return true;
exception when data_exception or integrity_constraint_violation then
    return false;
end
$fn$;

comment on function ensure._castable_v1(anyelement, text) is 'A value can be cast to a type.';

create function ensure._moved_value_v1(
    value text,
    there pg_attribute,
    here pg_attribute,
    out text text,
    out differs boolean
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _moved_value_v1: SQL for the value of a referenced column as the column that refers holds it.
--
-- Returns  null where a cast would raise; differs: it may not be what it was, since the types are
--          not the same. Only what may raise is tried, value by value
select case when d.differs and not d.safe
            then format('case when ensure._castable_v1(%1$s, %3$L) then %1$s::%2$s end', value,
                        d.type, d.type)
            else format('%s::%s', value, d.type) end, d.differs
from (select format_type(here.atttypid, here.atttypmod) as type,
             (here.atttypid, here.atttypmod) <> (there.atttypid, there.atttypmod) as differs,
             here.atttypid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
             or here.atttypmod = -1 and (here.atttypid = there.atttypid or exists (
                 select from pg_cast as c
                 where c.castsource = there.atttypid and c.casttarget = here.atttypid
                   and c.castcontext = 'i')) as safe) as d
$fn$;

comment on function ensure._moved_value_v1(text, pg_attribute, pg_attribute) is
    'SQL for the value of a referenced column as the column that refers holds it.';

create function ensure._move_parts_v1(
    target regclass,
    child regclass,
    there name[],
    fk oid
)
returns table (place bigint, constraint_oid oid, columns name[], losing text, keeping text,
               new text[], void text, misfit text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _move_parts_v1: SQL for each foreign key of child that moves, over "c" and the pairs "p1" …
--
-- Returns  losing, keeping: "c" refers to the loser, the keeper; new: its columns afterwards; void:
--          the keeper has no value there, null when it cannot be; misfit: a text when the column
--          cannot hold the keeper's value, null when it always can
select r.place, r.constraint_oid, r.child_columns,
       string_agg(format('p%s.%I %s c.%I%s', r.place, 'l' || t.place, r.operator, r.here,
                         r.collated), ' and ' order by r.column_place),
       string_agg(format('p%s.%I %s c.%I%s', r.place, 'k' || t.place, r.operator, r.here,
                         r.collated), ' and ' order by r.column_place),
       array_agg(v.text order by r.column_place),
       case when bool_or(not ensure._not_null_v1(target, b.attnum))
            then format('p%s.found and num_nulls(%s) > 0', r.place,
                        string_agg(format('p%s.%I', r.place, 'k' || t.place), ', ')) end,
       case when bool_or(v.differs) then format('case %s end', string_agg(format(
           'when p%s.found and not coalesce(p%1$s.%I %s %s%s, false) then concat(%L, p%1$s.%2$I)',
           r.place, 'k' || t.place, r.operator, v.text, r.collated,
           format('%s of %s cannot hold ', quote_ident(r.here), _move_parts_v1.child)), ' '
           order by r.column_place) filter (where v.differs)) end
from (select f.constraint_oid, f.child_columns, u.*,
             dense_rank() over (order by f.constraint_name, f.constraint_oid) as place
      from ensure._references_v1(target) as f
      cross join lateral unnest(f.child_columns, f.target_columns, f.operators, f.collations)
           with ordinality as u (here, there, operator, collated, column_place)
      where f.child = _move_parts_v1.child and (fk is null or f.constraint_oid = fk)) as r
join unnest(_move_parts_v1.there) with ordinality as t (name, place) on t.name = r.there
join pg_attribute as a on a.attrelid = _move_parts_v1.child and a.attname = r.here
join pg_attribute as b on b.attrelid = target and b.attname = r.there
cross join lateral ensure._moved_value_v1(format('p%s.%I', r.place, 'k' || t.place), b, a) as v
group by r.place, r.child_columns, r.constraint_oid
order by r.place
$fn$;

comment on function ensure._move_parts_v1(regclass, regclass, name[], oid) is
    'SQL for each foreign key of child that moves, over "c" and the pairs "p1" …';

create function ensure._move_trouble_v1(
    target regclass,
    child regclass,
    there name[],
    path regclass[],
    columns name[],
    new text[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _move_trouble_v1: SQL for why a row of child cannot refer to the keeper, null when every row can.
--
-- Returns  as every row can when the keeper has what is referenced, the columns can hold it, and
--          none that changes is in another foreign key, but one into child or a table of path,
--          which moves along
with parts as (
    select p.* from ensure._move_parts_v1(target, child, there, null) as p
), others as (
    select f.oid, f.conname, array_agg(a.attname) as names,
           string_agg(format('c.%I', a.attname), ', ') as list
    from pg_constraint as f
    left join pg_constraint as u on u.oid = f.conparentid and u.conrelid = f.conrelid
    join pg_attribute as a on a.attrelid = f.conrelid and a.attnum = any (f.conkey)
    where f.conrelid = child and f.contype = 'f' and u.oid is null
      and not exists (select from parts as p -- of which a part is a clone for a partition
                      join pg_constraint as g on g.oid = p.constraint_oid and g.oid <> f.oid
                      where g.conkey = f.conkey
                        and f.confrelid in (select pg_partition_ancestors(target)))
      and (f.confrelid <> all (child::oid || path::oid[])
           or f.oid in (select p.constraint_oid from parts as p))
    group by f.oid, f.conname, f.confrelid
), cases as (
    select format('when %s then %L', p.void, 'the row that is kept has a null there') as text
    from parts as p
    where p.void is not null
    union all
    select format('when (%s) is not null then %1$s', p.misfit)
    from parts as p
    where p.misfit is not null
    union all
    select case when p.place is null then format(
                    'when (%s)::text is distinct from c.%I::text and num_nulls(%s) = 0 then %L',
                    n.new, n.name, o.list, w.why)
                else format(
                    'when not coalesce((%s)::text = case when p%s.found then (%s)::text'
                    ' else c.%I::text end, true) and num_nulls(%s) = 0 then %L',
                    n.new, p.place, p.new[array_position(p.columns, n.name)], n.name, o.list,
                    w.why) end
    from others as o
    left join parts as p on p.constraint_oid = o.oid
    join unnest(_move_trouble_v1.new, _move_trouble_v1.columns) as n (new, name)
      on n.name = any (o.names)
    cross join lateral (
        select format('%I is also in the foreign key %I', n.name, o.conname)) as w (why)
    where exists (select from parts as s
                  where s.constraint_oid <> o.oid and n.name = any (s.columns))
)
select format('case %s end', string_agg(c.text, ' ')) from cases as c having count(*) > 0
$fn$;

comment on function ensure._move_trouble_v1(regclass, regclass, name[], regclass[], name[],
                                            text[]) is
    'SQL for why a row of child cannot refer to the keeper, null when every row can.';

create function ensure._moves_v1(
    target regclass,
    child regclass,
    spare_losers boolean,
    path regclass[] default '{}',
    fk oid default null,
    out pairs text,
    out moved text,
    out beside text,
    out columns name[],
    out remaining text,
    out spared text,
    out trouble text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _moves_v1: SQL for the rows of child that refer to a loser, as they will be when moved.
--
-- Returns  pairs: what $1 and $2, JSON keys of losers and keepers, refer to; moved: the rows that
--          move, by "~part" and "~row", new values of columns as "~1", "~2" …, what keeps one from
--          moving as "~trouble"; beside: true for a row "c" of child that refers to a keeper
--          and does not move; remaining: true for a row "c" of child that refers to a loser;
--          spared: what leaves out losers themselves, with spare_losers, when child is target;
--          trouble: null when "~trouble" cannot be. All over the CTE "~pairs". path: the tables
--          that are being merged; fk: as if this were the only foreign key
-- Errors   NS010  a foreign key with PERIOD
declare
    c_from constant text := format('%s as c', ensure._from_v1(child));
    c_any constant text := '(c.tableoid, c.ctid) in (%s offset 0)%s';
    v_there name[];
    v_part record;
    v_joins text[] := '{}';
    v_losing text[] := '{}';
    v_keeping text[] := '{}';
    v_found text[] := '{}';
    v_new text[] := '{}';
    v_place integer;
begin
    if exists (select from ensure._references_v1(target) as r
               join pg_constraint as f on f.oid = r.constraint_oid
               where r.child = _moves_v1.child and (to_jsonb(f) ->> 'conperiod')::boolean) then
        raise exception using
            errcode = 'NS010',
            message = format('rows of "%s" refer to periods of "%s"', child, target),
            detail = 'A foreign key with PERIOD does not refer to one row.',
            hint = 'Merge these duplicates yourself.';
    end if;
    spared := '';
    if spare_losers and child = target then
        spared := format(' and not exists (select from unnest($1::jsonb[]) as "~p" (l) where %s)',
                          ensure._row_match_v1(target, ensure._row_key_v1(target), 'c', '"~p".l'));
    end if;
    select array_agg(distinct t.name) into v_there
    from ensure._references_v1(target) as r
    cross join lateral unnest(r.target_columns) as t (name)
    where r.child = _moves_v1.child;
    pairs := ensure._pairs_v1(target, v_there);
    for v_part in
        select * from ensure._move_parts_v1(target, child, v_there, fk)
    loop
        v_joins := v_joins || format('join "~pairs" as p%s on %s', v_part.place, v_part.losing);
        v_losing := v_losing || format('exists (select from "~pairs" as p%s where %s)',
                                       v_part.place, v_part.losing);
        v_keeping := v_keeping || format('exists (select from "~pairs" as p%s where %s)',
                                         v_part.place, v_part.keeping);
        v_found := v_found || format('p%s.found', v_part.place);
        for v_column in 1 .. cardinality(v_part.columns) loop
            v_place := array_position(columns, v_part.columns[v_column]);
            if v_place is null then
                columns := columns || v_part.columns[v_column];
                v_place := cardinality(columns);
                v_new := v_new || ''::text;
            end if;
            v_new[v_place] := format('%s when p%s.found then %s', v_new[v_place], v_part.place,
                                     v_part.new[v_column]);
        end loop;
    end loop;
    v_new := array(select format('case%s else c.%I end', n.new, n.name)
                   from unnest(v_new, columns) with ordinality as n (new, name, place)
                   order by n.place);
    trouble := case when fk is null then
        ensure._move_trouble_v1(target, child, v_there, path, columns, v_new) end;
    if cardinality(v_joins) = 1 then -- what the planner can join, and never does row by row
        remaining := concat(v_losing[1], spared);
        beside := format('%s and not %s%s', v_keeping[1], v_losing[1], spared);
    else
        remaining := format(c_any, (
            select string_agg(format('select c.tableoid, c.ctid from %s where %s', c_from, l.one),
                              ' union all ')
            from unnest(v_losing) as l (one)), spared);
        beside := format(c_any, (
            select string_agg(format('select c.tableoid, c.ctid from %s where %s', c_from, k.one),
                              ' union all ')
            from unnest(v_keeping) as k (one)),
            format(' and not %s%s', array_to_string(v_losing, ' and not '), spared));
    end if;
    moved := format(
        'select c.tableoid as "~part", c.ctid as "~row", %s, %s as "~trouble" from %s %s'
        ' where (%s)%s',
        (select string_agg(format('%s as %I', n.new, '~' || n.place), ', ' order by n.place)
         from unnest(v_new) with ordinality as n (new, place)),
        coalesce(trouble, 'null::text'), c_from,
        (select string_agg(concat(case when cardinality(v_joins) > 1 then 'left ' end, j.source),
                           ' ')
         from unnest(v_joins) as j (source)),
        array_to_string(v_found, ' or '), spared);
end
$fn$;

comment on function ensure._moves_v1(regclass, regclass, boolean, regclass[], oid) is
    'SQL for the rows of child that refer to a loser, as they will be when moved.';

-- migrate:down
drop function ensure._moves_v1(regclass, regclass, boolean, regclass[], oid);
drop function ensure._move_trouble_v1(regclass, regclass, name[], regclass[], name[], text[]);
drop function ensure._move_parts_v1(regclass, regclass, name[], oid);
drop function ensure._moved_value_v1(text, pg_attribute, pg_attribute);
drop function ensure._castable_v1(anyelement, text);
drop function ensure._pairs_v1(regclass, name[]);
