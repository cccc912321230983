-- migrate:up
create function ensure._index_elements_v1(
    index_oid oid,
    target regclass
)
returns text[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _index_elements_v1: the key of an index as _key_element_v1 prints it, with operator classes.
--
-- Locks    waits behind ACCESS EXCLUSIVE on target, keeps none
declare
    c_collate constant text := 'COLLATE ("(?:[^"]|"")+"|\w+)$';
    v_elements text[] := '{}';
    v_element record;
    v_text text;
begin
    for v_element in
        select pg_get_indexdef(i.indexrelid, k.place::integer, false) as expression,
               k.attnum > 0 and i.indcollation[k.place - 1] = a.attcollation as natural,
               coalesce(nullif(quote_ident(c.collname), '"default"'), '') as collation_name,
               case when c.oid is not null
                    then format('%I.%I', n.nspname, c.collname) end as collation,
               (ensure._class_v1(i.indclass[k.place - 1], x.atttypid)).name as class
        from pg_index as i
        cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
        join pg_attribute as x on x.attrelid = i.indexrelid and x.attnum = k.place
        left join pg_collation as c on c.oid = i.indcollation[k.place - 1]
        left join pg_namespace as n on n.oid = c.collnamespace
        left join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indexrelid = index_oid and k.place <= i.indnkeyatts
        order by k.place
    loop
        v_text := ensure._read_stored_v1(target, v_element.expression);
        if not v_element.natural
           and coalesce(substring(v_text from c_collate), '') <> v_element.collation_name then
            v_text := ensure._read_stored_v1(target, format('(%s) collate %s',
                                                            v_element.expression,
                                                            v_element.collation));
        end if;
        v_elements := v_elements || concat_ws(E'\n', v_text, v_element.class);
    end loop;
    return v_elements;
end
$fn$;

comment on function ensure._index_elements_v1(oid, regclass) is
    'The key of an index as _key_element_v1 prints it, with operator classes.';

create function ensure._split_key_v1(
    unique_key ensure._unique_key_v1
)
returns setof ensure._unique_key_v1
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _split_key_v1: partial keys that together make nulls equal without NULLS NOT DISTINCT.
--
-- Returns  one for each set of nullable elements that are null: two for one such element
-- Errors   54000  more than three nullable elements
declare
    c_nullable constant integer[] := array(
        select n.place::integer
        from unnest(unique_key.nullable) with ordinality as n (nullable, place)
        where n.nullable
        order by n.place);
    v_key ensure._unique_key_v1;
    v_rest text[];
    v_null text[];
begin
    if cardinality(c_nullable) > 3 then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = format('nulls of "%s" cannot be made equal by partial indexes',
                             unique_key.target::regclass),
            detail = format('%s nullable elements would take %s indexes.', cardinality(c_nullable),
                            2 ^ cardinality(c_nullable)),
            hint = 'Make columns NOT NULL, or use coalesce(column, a value never used) as element.';
    end if;
    for v_mask in 0 .. (2 ^ cardinality(c_nullable))::integer - 1 loop
        select array_agg(case when e.element = e.expression and e.element like '(%'
                              then substr(e.element, 2, length(e.element) - 2) -- our parentheses
                              else e.element end order by e.place)
                   filter (where not (coalesce(v_mask & (1 << (p.bit::integer - 1)), 0) > 0)),
               -- of a composite value IS NULL asks for its fields; of others both say the same
               array_agg(format(case when v_mask & (1 << (p.bit::integer - 1)) = 0
                                     then case when t.typtype not in ('c', 'd')
                                               then '%s is not null'
                                               else '%s is distinct from null' end
                                     else case when t.typtype not in ('c', 'd')
                                               then '%s is null'
                                               else '%s is not distinct from null' end end,
                                e.expression)
                         order by e.place) filter (where p.bit is not null)
        into v_rest, v_null
        from unnest(unique_key.elements, unique_key.expressions, unique_key.columns)
             with ordinality as e (element, expression, attnum, place)
        left join pg_attribute as a on a.attrelid = unique_key.target and a.attnum = e.attnum
        left join pg_type as t on t.oid = a.atttypid
        left join unnest(c_nullable) with ordinality as p (place, bit)
             on p.place = e.place;
        v_key := ensure._unique_key_v1(
            unique_key.target::regclass,
            coalesce(v_rest, array[v_null[1]]),
            concat_ws(' and ', format(case when unique_key.predicate ~ '--' then E'(%s\n)'
                                           when unique_key.predicate is not null then '(%s)' end,
                                      unique_key.predicate), array_to_string(v_null, ' and ')),
            false);
        return next v_key;
    end loop;
end
$fn$;

comment on function ensure._split_key_v1(ensure._unique_key_v1) is
    'Partial keys that together make nulls equal without NULLS NOT DISTINCT.';

create function ensure._same_index_v1(
    unique_key ensure._unique_key_v1,
    index_oid oid,
    out elements text,
    out predicate boolean
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _same_index_v1: whether an index is on the elements and the predicate of a key.
--
-- Returns  elements: 'same' in any order; 'similar' but for collations or operator classes; null
-- Locks    waits behind ACCESS EXCLUSIVE on the table when the key is not columns alone
declare
    c_target constant regclass := unique_key.target;
    v_there text[];
    v_bare text[];
begin
    select i.indpred is not null = (unique_key.predicate is not null) into predicate
    from pg_index as i
    where i.indexrelid = index_oid;
    if unique_key.canonical is null then
        elements := case when exists (
            select from pg_index as i
            cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
            join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
            cross join lateral ensure._class_v1(i.indclass[k.place - 1], a.atttypid) as c
            where i.indexrelid = index_oid and k.place <= i.indnkeyatts
              and (c.name is not null or i.indcollation[k.place - 1] <> a.attcollation))
            then 'similar' else 'same' end;
        return;
    end if;
    v_there := ensure._index_elements_v1(index_oid, c_target);
    v_bare := array(select ensure._bare_element_v1(u.c)
                    from pg_index as i
                    cross join lateral unnest(i.indkey::int2[], v_there) as u (attnum, c)
                    where i.indexrelid = index_oid and u.attnum = 0
                    order by 1);
    if array(select u.c from unnest(v_there) as u (c) order by u.c collate "C")
       = array(select u.c from unnest(unique_key.canonical) as u (c) order by u.c collate "C") then
        elements := 'same';
    elsif v_bare = array(select ensure._bare_element_v1(u.c)
                         from unnest(unique_key.columns, unique_key.canonical) as u (attnum, c)
                         where u.attnum = 0
                         order by 1) then
        elements := 'similar';
    end if;
    if predicate and elements = 'same' and unique_key.predicate is not null then
        predicate := unique_key.canonical_predicate = ensure._read_stored_v1(
            c_target, format('(%s) is true', (select pg_get_expr(i.indpred, i.indrelid)
                                              from pg_index as i
                                              where i.indexrelid = index_oid)));
    end if;
end
$fn$;

comment on function ensure._same_index_v1(ensure._unique_key_v1, oid) is
    'Whether an index is on the elements and the predicate of a key.';

create function ensure._look_unique_v1(
    unique_key ensure._unique_key_v1,
    out index_oid oid,
    out state text,
    out definition text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_unique_v1: the index that fits a key best, by what it is on, and its state.
--
-- Returns  state: 'valid', of a constraint where there are several; 'building', by another session;
--          'enforcing' or 'inert', an invalid leftover that does or does not refuse duplicates;
--          'different', a unique index over the same elements with another predicate, collation,
--          operator class, rule for nulls or check time; 'missing'
-- Locks    none when the key is columns alone; else waits behind ACCESS EXCLUSIVE, keeps none
declare
    c_columns constant int2[] := array(select u.c from unnest(unique_key.columns) as u (c)
                                       order by u.c);
    v_index record;
    v_same record;
    v_rank integer;
    v_best integer := 9;
begin
    state := 'missing';
    for v_index in
        select i.indexrelid as oid, i.indisvalid, i.indisready,
               i.indimmediate
               and (not true = any (unique_key.nullable)
                    or coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
                       = unique_key.nulls_equal) as rules
        from pg_index as i
        where i.indrelid = unique_key.target and i.indisunique and i.indislive
          and not i.indisexclusion and i.indnkeyatts = cardinality(unique_key.elements)
          and array(select k.c from unnest(i.indkey::int2[]) with ordinality as k (c, place)
                    where k.place <= i.indnkeyatts order by k.c) = c_columns
        order by i.indisvalid desc,
                 exists (select from pg_constraint as u
                         where u.conindid = i.indexrelid and u.contype in ('p', 'u')) desc,
                 0 <> any (i.indoption::int2[]), -- which no constraint can have
                 i.indexrelid
    loop
        begin
            v_same := ensure._same_index_v1(unique_key, v_index.oid);
        exception when internal_error then -- dropped since this snapshot
            continue;
        end;
        v_rank := case
            when v_same.elements is null then 9
            when v_same.elements <> 'same' or not v_same.predicate or not v_index.rules then
                case when v_index.indisvalid then 5 else 9 end
            when v_index.indisvalid then 1
            when v_index.indisready then 3
            else 4 end;
        if v_rank < v_best then
            v_best := v_rank;
            index_oid := v_index.oid;
            state := (array['valid', null, 'enforcing', 'inert', 'different'])[v_rank];
        end if;
        exit when v_best = 1;
    end loop;
    if v_best not in (1, 5) and exists (
        select from pg_stat_progress_create_index as p -- of other roles it says no more than pid
        join pg_locks as l on l.pid = p.pid and l.locktype = 'relation' and l.granted
                          and l.relation = unique_key.target
                          and l.mode = 'ShareUpdateExclusiveLock'
                          and l.database = (select d.oid from pg_database as d
                                            where d.datname = current_database())
        where p.pid <> pg_backend_pid()) then
        state := 'building';
    end if;
    begin
        if state <> 'valid' then
            definition := pg_get_indexdef(index_oid); -- waits behind ACCESS EXCLUSIVE
        elsif index_oid::regclass::text ~ '^[0-9]+$' then -- this snapshot is older than its end
            state := 'missing';
        end if;
    exception when internal_error then -- dropped just now
        index_oid := null;
        state := 'missing';
    end;
end
$fn$;

comment on function ensure._look_unique_v1(ensure._unique_key_v1) is
    'The index that fits a key best, by what it is on, and its state.';

-- migrate:down
drop function ensure._look_unique_v1(ensure._unique_key_v1);
drop function ensure._same_index_v1(ensure._unique_key_v1, oid);
drop function ensure._split_key_v1(ensure._unique_key_v1);
drop function ensure._index_elements_v1(oid, regclass);
