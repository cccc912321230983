-- migrate:up
create function ensure._row_places_v1(
    target regclass,
    keys jsonb[],
    out parts oid[],
    out places tid[]
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_places_v1: where the rows of target with these keys are now.
begin
    execute format(
        'select coalesce(array_agg(c.tableoid), ''{}''), coalesce(array_agg(c.ctid), ''{}'')'
        ' from unnest($1::jsonb[]) as "~p" (l) join %s as c on %s',
        ensure._from_v1(target),
        ensure._row_match_v1(target, ensure._row_key_v1(target), 'c', '"~p".l'))
    into parts, places
    using keys;
end
$fn$;

comment on function ensure._row_places_v1(regclass, jsonb[]) is
    'Where the rows of target with these keys are now.';

create function ensure._referring_rows_v1(
    constraint_oid oid,
    target regclass
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _referring_rows_v1: SQL for the rows that refer by a foreign key to the rows of target at $1, $2.
--
-- Returns  from FROM on, the rows as "c", without those at $3, $4; each pair of arrays is tableoid
--          and ctid
select format(
    'from unnest($1::oid[], $2::tid[]) as "~d" ("~part", "~row")'
    ' join %s as p on p.ctid = "~d"."~row" and p.tableoid = "~d"."~part"'
    ' join %s as c on %s'
    ' where not exists (select from unnest($3::oid[], $4::tid[]) as "~x" ("~part", "~row")'
    ' where c.ctid = "~x"."~row" and c.tableoid = "~x"."~part")',
    ensure._from_v1(target), ensure._from_v1(r.child),
    (select string_agg(format('p.%I %s c.%I%s', k.there, k.operator, k.here, k.collated), ' and ')
     from unnest(r.target_columns, r.operators, r.child_columns, r.collations)
          as k (there, operator, here, collated)))
from ensure._references_v1(target) as r
where r.constraint_oid = _referring_rows_v1.constraint_oid
$fn$;

comment on function ensure._referring_rows_v1(oid, regclass) is
    'SQL for the rows that refer by a foreign key to the rows of target at $1, $2.';

create function ensure._check_cascade_v1(
    target regclass,
    losers jsonb[]
)
returns table (object text, finding text, row_count bigint, detail text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_cascade_v1: what would be destroyed if the losers were simply deleted.
--
-- Returns  'destroyed by cascade', for each table at any level; 'loses reference', for each foreign
--          key ON DELETE SET into what would be gone
declare
    v_start constant record := ensure._row_places_v1(target, losers);
    v_parts oid[] := v_start.parts;
    v_places tid[] := v_start.places;
    v_relations oid[] := array_fill(target::oid, array[cardinality(v_parts)]);
    v_first integer := 1;
    v_last integer;
    v_here record;
    v_found record;
begin
    while v_first <= cardinality(v_parts) loop
        v_last := cardinality(v_parts);
        for v_here in
            select r.constraint_oid, r.child, w.relation, w.parts, w.places
            from (select u.relation::regclass, array_agg(u.part) as parts,
                         array_agg(u.place) as places
                  from unnest(v_relations[v_first:v_last], v_parts[v_first:v_last],
                              v_places[v_first:v_last]) as u (relation, part, place)
                  group by u.relation) as w
            cross join lateral ensure._references_v1(w.relation) as r
            where r.on_delete = 'c'
        loop
            execute format('select array_agg(c.tableoid) as parts, array_agg(c.ctid) as places %s',
                           ensure._referring_rows_v1(v_here.constraint_oid, v_here.relation))
            into v_found
            using v_here.parts, v_here.places, v_parts, v_places;
            v_parts := v_parts || v_found.parts;
            v_places := v_places || v_found.places;
            v_relations := v_relations || array_fill(
                v_here.child::oid, array[coalesce(cardinality(v_found.parts), 0)]);
        end loop;
        v_first := v_last + 1;
    end loop;
    return query
    select u.relation::regclass::text, 'destroyed by cascade', count(*),
           'if the losers were simply deleted'
    from unnest(v_relations[cardinality(v_start.parts) + 1:]) as u (relation)
    group by u.relation
    order by 1;
    for v_here in
        select r.constraint_oid, r.on_delete, w.relation, w.parts, w.places,
               format('%I on %s', r.constraint_name, r.child) as name
        from (select u.relation::regclass, array_agg(u.part) as parts,
                     array_agg(u.place) as places
              from unnest(v_relations, v_parts, v_places) as u (relation, part, place)
              group by u.relation) as w
        cross join lateral ensure._references_v1(w.relation) as r
        where r.on_delete in ('n', 'd')
        order by name
    loop
        execute format('select count(*) %s',
                       ensure._referring_rows_v1(v_here.constraint_oid, v_here.relation))
        into row_count
        using v_here.parts, v_here.places, v_parts, v_places;
        if row_count > 0 then
            object := v_here.name;
            finding := 'loses reference';
            detail := format('on delete set %s, if the losers were simply deleted',
                             case v_here.on_delete when 'n' then 'null' else 'default' end);
            return next;
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_cascade_v1(regclass, jsonb[]) is
    'What would be destroyed if the losers were simply deleted.';

create function ensure._unindexed_v1(
    child regclass,
    columns name[]
)
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _unindexed_v1: whether child, or a partition of it, has no index to find rows by columns.
with recursive parts (oid) as (
    select child::oid
    union all
    select i.inhrelid
    from parts as p
    join pg_class as c on c.oid = p.oid and c.relkind = 'p'
    join pg_inherits as i on i.inhparent = p.oid
)
select exists (
    select from parts as p
    join pg_class as c on c.oid = p.oid and c.relkind = 'r'
    where not exists (
        select from pg_index as i
        join pg_class as x on x.oid = i.indexrelid
        join pg_am as m on m.oid = x.relam and m.amname in ('btree', 'hash')
        where i.indrelid = p.oid and i.indisvalid and i.indisready
          and coalesce(pg_get_expr(i.indpred, i.indrelid)
                       = format('(%I IS NOT NULL)', columns[1]), true)
          and array(select a.attname
                    from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
                    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
                    where k.place <= least(cardinality(columns), i.indnkeyatts)
                    order by a.attname)
              = array(select u.name from unnest(columns) as u (name) order by u.name)))
$fn$;

comment on function ensure._unindexed_v1(regclass, name[]) is
    'Whether child, or a partition of it, has no index to find rows by columns.';

create function ensure._check_triggers_v1(
    relation regclass,
    events integer,
    columns name[]
)
returns table (object text, finding text, row_count bigint, detail text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_triggers_v1: the user triggers and rules that run when rows of a table change.
--
-- Returns  events: 8 DELETE, 16 UPDATE, of one of columns or, without columns, of any; gates always
with recursive parts (oid) as (
    select relation::oid
    union all
    select i.inhrelid
    from parts as p
    join pg_class as c on c.oid = p.oid and c.relkind = 'p'
    join pg_inherits as i on i.inhparent = p.oid
)
select t.tgrelid::regclass::text, 'trigger', null::bigint,
       concat_ws(' ', quote_ident(t.tgname),
                 case when t.tgtype & 2 > 0 then 'before' else 'after' end,
                 concat_ws(' or ', case when t.tgtype & events & 8 > 0 then 'delete' end,
                           case when t.tgtype & events & 16 > 0 then 'update' end))
from parts as p
join pg_trigger as t on t.tgrelid = p.oid and not t.tgisinternal and t.tgparentid = 0
where t.tgtype & events > 0
  and t.tgname !~ '^zz_ensure_gate_[0-9a-f]{12}$'
  and (p.oid = relation or t.tgtype & 1 > 0)
  and t.tgenabled in ('A', case when current_setting('session_replication_role') = 'replica'
                                then 'R' else 'O' end)
  and (t.tgtype & events & 8 > 0 or columns is null or t.tgattr = ''
       or exists (select from pg_attribute as a
                  where a.attrelid = t.tgrelid and a.attname = any (columns)
                    and a.attnum = any (t.tgattr::int2[])))
union all
select relation::text, 'rule', null, -- not those of partitions, which do not run
       concat_ws(' ', quote_ident(w.rulename), 'on',
                 case w.ev_type when '4' then 'delete' else 'update' end,
                 case when w.is_instead then 'do instead' else 'do also' end)
from pg_rewrite as w
where w.ev_class = relation and w.ev_enabled <> 'D'
  and (w.ev_type = '4' and events & 8 > 0 or w.ev_type = '2' and events & 16 > 0)
union all
select t.tgrelid::regclass::text, 'gate', null,
       concat(quote_ident(t.tgname),
              ' of plan_unique_v1: run that plan to its end, or give it up')
from parts as p
join pg_trigger as t on t.tgrelid = p.oid and t.tgparentid = 0
where t.tgname ~ '^zz_ensure_gate_[0-9a-f]{12}$'
order by 1, 2 desc, 4
$fn$;

comment on function ensure._check_triggers_v1(regclass, integer, name[]) is
    'The user triggers and rules that run when rows of a table change.';

create function ensure._check_children_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    path regclass[]
)
returns table (object text, finding text, row_count bigint, detail text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_children_v1: what refers to losers, and what would become of it when it is moved.
--
-- Returns  'moves', 'unindexed', for each foreign key; 'collides', for each unique index of a
--          child, and the same below the rows that collide; 'cannot move'; 'trigger', 'rule'
declare
    c_places constant record := ensure._row_places_v1(target, losers);
    c_path constant regclass[] := path || target;
    c_below constant text := case when path <> '{}' then format(
        'when rows of "%s" are merged', target) end;
    v_child record;
    v_key record;
    v_found record;
    v_moves boolean;
    v_generated text;
    v_after text;
begin
    for v_child in
        select r.child, r.child = target as own, array_agg(distinct c.name) as columns,
               format('%s on %s', string_agg(distinct quote_ident(r.constraint_name), ', '),
                      r.child) as names
        from ensure._references_v1(target) as r
        cross join lateral unnest(r.child_columns) as c (name)
        group by r.child
        order by r.child::text collate "C"
    loop
        v_moves := false;
        for v_key in
            select r.constraint_oid, r.child_columns,
                   format('%I on %s', r.constraint_name, r.child) as name
            from ensure._references_v1(target) as r
            where r.child = v_child.child
        loop
            object := v_key.name;
            finding := 'moves';
            detail := c_below;
            execute format('select count(*) %s',
                           ensure._referring_rows_v1(v_key.constraint_oid, target))
            into row_count
            using c_places.parts, c_places.places,
                  case when v_child.own then c_places.parts else '{}' end,
                  case when v_child.own then c_places.places else '{}' end;
            if row_count > 0 then
                v_moves := true;
                return next;
                select string_agg(quote_ident(a.attname), ', ') into v_generated
                from pg_attribute as a
                where a.attrelid = v_child.child and a.attgenerated <> ''
                  and a.attname = any (v_key.child_columns);
                if v_generated is not null then
                    finding := 'cannot move';
                    detail := format('%s is generated', v_generated);
                    return next;
                end if;
            end if;
            if ensure._unindexed_v1(v_child.child, v_key.child_columns) then
                finding := 'unindexed';
                row_count := cardinality(losers);
                detail := format('no index on (%s): the table is read once for each row deleted',
                                 array_to_string(v_key.child_columns, ', '));
                return next;
            end if;
        end loop;
        continue when not v_moves;
        return query select t.*
                     from ensure._check_triggers_v1(v_child.child, 16, v_child.columns) as t;
        select * into v_found
        from ensure._moves_v1(target, v_child.child, true, c_path);
        execute format('with "~pairs" as materialized (%s), "~moved" as materialized (%s)'
                       ' select count(*), min(m."~trouble") from "~moved" as m'
                       ' where m."~trouble" is not null', v_found.pairs, v_found.moved)
        into row_count, detail
        using losers, keepers;
        if row_count > 0 then
            object := v_child.names;
            finding := 'cannot move';
            return next;
        end if;
        v_after := null;
        loop
            v_found := ensure._collisions_v1(target, v_child.child, losers, keepers, true, c_path,
                                             v_after);
            exit when v_found.child_losers is null;
            v_after := v_found.index_name;
            object := v_child.names;
            finding := 'collides';
            row_count := cardinality(v_found.child_losers);
            detail := concat_ws(', ', v_found.index_name, c_below);
            return next;
            if v_child.child <> all (c_path) then
                return query select t.* from ensure._check_triggers_v1(v_child.child, 8, null) as t;
                return query
                select c.*
                from ensure._check_children_v1(v_child.child, v_found.child_losers,
                                               v_found.child_keepers, c_path) as c;
            end if;
        end loop;
    end loop;
end
$fn$;

comment on function ensure._check_children_v1(regclass, jsonb[], jsonb[], regclass[]) is
    'What refers to losers, and what would become of it when it is moved.';

-- migrate:down
drop function ensure._check_children_v1(regclass, jsonb[], jsonb[], regclass[]);
drop function ensure._check_triggers_v1(regclass, integer, name[]);
drop function ensure._unindexed_v1(regclass, name[]);
drop function ensure._check_cascade_v1(regclass, jsonb[]);
drop function ensure._referring_rows_v1(oid, regclass);
drop function ensure._row_places_v1(regclass, jsonb[]);
