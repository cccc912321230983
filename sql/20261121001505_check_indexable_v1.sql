-- migrate:up
create function ensure._check_immutable_v1(
    target regclass,
    expression text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set constraint_exclusion = on
as $fn$
-- _check_immutable_v1: an index can be on an expression: it is the same tomorrow and elsewhere.
--
-- Errors   42P17  it is not immutable. Planned, never run: of what is immutable, and of nothing
--          else, the planner sees that it is not null and not null at once
declare
    v_plan jsonb;
begin
    for v_plan in execute format(
        'explain (costs off, format json) select from jsonb_populate_recordset(null::%s, %L) as %I'
        ' where (%s) is distinct from null and (%4$s) is not distinct from null', target, '[]',
        (select c.relname from pg_class as c where c.oid = target), concat(expression, E'\n'))
    loop
        if v_plan #>> '{0,Plan,Node Type}' <> 'Result' then
            raise exception using
                errcode = 'invalid_object_definition',
                message = format('%s is not immutable',
                                 regexp_replace(expression, '\s+', ' ', 'g')),
                detail = 'Its value depends on settings, the time or other tables.',
                hint = 'No index can be on it: name what it depends on, as in'
                       ' (at at time zone ''UTC'')::date.';
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_immutable_v1(regclass, text) is
    'An index can be on an expression: it is the same tomorrow and elsewhere.';

create function ensure._check_partition_keys_v1(
    unique_key ensure._unique_key_v1
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_partition_keys_v1: equal keys are in one partition, at every level of partitions.
--
-- Errors   0A000  a partition key has what the key lacks, or compares it in another way
declare
    v_missing record;
begin
    with recursive parts (oid) as (
        select unique_key.target
        union all
        select c.oid
        from parts as p
        join pg_inherits as i on i.inhparent = p.oid and not i.inhdetachpending
        join pg_class as c on c.oid = i.inhrelid and c.relkind = 'p'
    ), keys (name, collated, sort_operator) as (
        select a.attname, case when u.canonical is null then quote_ident(o.collname)
                   else coalesce(substring(split_part(u.canonical, E'\n', 1)
                                           from 'COLLATE ("(?:[^"]|"")+"|\w+)$'),
                                 quote_ident(d.collname)) end, u.sort_operator
        from unnest(unique_key.columns, unique_key.canonical, unique_key.sort_operators)
             as u (attnum, canonical, sort_operator)
        join pg_attribute as a on a.attrelid = unique_key.target and a.attnum = u.attnum
        join pg_type as t on t.oid = a.atttypid
        left join pg_collation as o on o.oid = a.attcollation
        left join pg_collation as d on d.oid = t.typcollation
    )
    select p.oid::regclass as relation,
           string_agg(concat(coalesce(quote_ident(a.attname), 'an expression'),
                             case when exists (select from keys as k where k.name = a.attname)
                                  then ', compared as there' end), ', ' order by e.place) as what
    into v_missing
    from parts as p
    join pg_partitioned_table as t on t.partrelid = p.oid
    cross join lateral unnest(t.partattrs::int2[], t.partclass::oid[], t.partcollation::oid[])
         with ordinality as e (attnum, class, collated, place)
    left join pg_attribute as a on a.attrelid = p.oid and a.attnum = e.attnum and a.attnum > 0
    left join pg_collation as o on o.oid = e.collated
    cross join lateral (
        select case when m.amname = 'hash' then c.name else c.sort_operator end as equality
        from ensure._class_v1(e.class, a.atttypid) as c
        join pg_opclass as x on x.oid = e.class
        join pg_am as m on m.oid = x.opcmethod) as c
    where not exists (select from keys as k
                      where k.name = a.attname
                        and k.collated is not distinct from quote_ident(o.collname)
                        and k.sort_operator is not distinct from c.equality)
    group by p.oid
    order by p.oid
    limit 1;
    if found then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('(%s) cannot be unique over all partitions of "%s"',
                             array_to_string(unique_key.elements, ', '),
                             unique_key.target::regclass),
            detail = format('Each partition has an index of its own, and the partition key of "%s"'
                            ' has what columns lacks: %s.', v_missing.relation, v_missing.what),
            hint = 'Add the columns of the partition key, with its collation and NOT NULL where'
                   ' nulls are split, or make each partition unique by itself.';
    end if;
end
$fn$;

comment on function ensure._check_partition_keys_v1(ensure._unique_key_v1) is
    'Equal keys are in one partition, at every level of partitions.';

create function ensure._check_indexable_v1(
    unique_key ensure._unique_key_v1
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_indexable_v1: PostgreSQL can have an index on the columns and partitions of a key.
--
-- Errors   42883  the type of a column has no order; 42P17  something is not immutable
--          0A000  a virtual column, a foreign table, as _check_partition_keys_v1
declare
    v_element record;
    v_virtual text;
    v_foreign regclass;
begin
    for v_element in
        select u.expression, u.attnum, u.expression = u.element as sorted
        from unnest(unique_key.expressions, unique_key.elements, unique_key.columns)
             as u (expression, element, attnum)
        union all
        select format('(%s%s)', unique_key.predicate, E'\n'), 0, false
        where unique_key.predicate is not null
    loop
        if v_element.sorted then
            perform ensure._read_expression_v1(unique_key.target::regclass, v_element.expression);
        end if;
        if v_element.attnum = 0 then
            perform ensure._check_immutable_v1(unique_key.target::regclass, v_element.expression);
        end if;
    end loop;
    select min(quote_ident(a.attname)) into v_virtual
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attgenerated = 'v'
    where c.oid = unique_key.target
      and (a.attnum = any (unique_key.columns)
           or format('%I.%I', c.relname, a.attname) in (
               select n.name
               from ensure._names_in_v1(array_to_string(
                   unique_key.canonical || unique_key.canonical_predicate, E'\n')) as n (name)));
    if v_virtual is not null then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('%s is a virtual column, which has no index', v_virtual),
            hint = 'Pass its expression, or make it a stored column.';
    end if;
    if exists (select from pg_class as c where c.oid = unique_key.target and c.relkind = 'r') then
        return;
    end if;
    perform ensure._check_partition_keys_v1(unique_key);
    with recursive tables (oid, relkind) as (
        select c.oid, c.relkind from pg_class as c where c.oid = unique_key.target
        union all
        select c.oid, c.relkind
        from tables as t
        join pg_inherits as i on i.inhparent = t.oid and t.relkind = 'p'
        join pg_class as c on c.oid = i.inhrelid
    )
    select min(t.oid) into v_foreign from tables as t where t.relkind = 'f';
    if v_foreign is not null then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" has a foreign table as partition', unique_key.target::regclass),
            detail = format('No index reaches into "%s".', v_foreign),
            hint = 'Detach it, or make the other partitions unique each by itself.';
    end if;
end
$fn$;

comment on function ensure._check_indexable_v1(ensure._unique_key_v1) is
    'PostgreSQL can have an index on the columns and partitions of a key.';

-- migrate:down
drop function ensure._check_indexable_v1(ensure._unique_key_v1);
drop function ensure._check_partition_keys_v1(ensure._unique_key_v1);
drop function ensure._check_immutable_v1(regclass, text);
