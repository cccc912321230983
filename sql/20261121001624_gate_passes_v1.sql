-- migrate:up
create function ensure._gate_index_v1(
    unique_key ensure._unique_key_v1,
    support oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_index_v1: PL/pgSQL that lets a row pass when by now a unique index does what the gate did.
--
-- Returns  a valid one on nothing but elements of the key, made since the gate, that holds both the
--          new row and the one that is there: it decides, so that INSERT … ON CONFLICT on it works
select format($gate$
    if exists (select from pg_index as i -- mostly none, and quickly known
               where i.indrelid = %1$L::regclass and i.indisunique and i.indisvalid
                 and i.indexrelid <> all (%2$L::oid[])) then
        for v_index in
            select pg_get_expr(i.indpred, i.indrelid) as predicate
            from pg_index as i
            where i.indrelid = %1$L::regclass and i.indisunique and i.indisvalid
              and i.indimmediate and i.indexrelid <> all (%2$L::oid[]) and not exists (
                select from generate_series(1, i.indnkeyatts) as p (place)
                join pg_opclass as c on c.oid = i.indclass[p.place - 1]
                join pg_amop as a on a.amopfamily = c.opcfamily and a.amopstrategy = 3
                                 and a.amoplefttype = c.opcintype
                                 and a.amoprighttype = c.opcintype
                left join unnest(%3$L::text[], array[%4$s]) as k (element, nulls)
                    on k.element = concat_ws(' ', pg_get_indexdef(i.indexrelid, p.place, false),
                                             a.amopopr, i.indcollation[p.place - 1])
                where k.element is null or k.nulls > 0 and not %5$s)
        loop
            if v_index.predicate is null then
                return new;
            end if;
            %6$s
            execute format('select exists (select from (select ($1).*) as %%2$I where %%1$s)'
                           ' and exists (select from (select ($2).*) as %%2$I where %%1$s)',
                           v_index.predicate, %7$L)
            into v_found
            using new, v_old."~row";
            if v_found then
                return new;
            end if;
        end loop;
    end if;$gate$,
    unique_key.target::regclass,
    array(select i.indexrelid from pg_index as i
          where i.indrelid = unique_key.target and i.indisunique and i.indisvalid
          order by i.indexrelid),
    array(select concat_ws(' ', pg_get_indexdef(support, p.place, false), a.amopopr,
                           i.indcollation[p.place - 1])
          from pg_index as i
          cross join generate_series(1, cardinality(unique_key.expressions)) as p (place)
          join pg_opclass as o on o.oid = i.indclass[p.place - 1]
          join pg_amop as a on a.amopfamily = o.opcfamily and a.amopstrategy = 3
                           and a.amoplefttype = o.opcintype and a.amoprighttype = o.opcintype
          where i.indexrelid = support
          order by p.place),
    (select string_agg(format('num_nulls(v_new."~%s")', p), ', ')
     from generate_series(1, cardinality(unique_key.expressions)) as p),
    case when current_setting('server_version_num')::integer < 150000 then 'false'
         else 'i.indnullsnotdistinct' end,
    ensure._gate_look_v1(unique_key, support, format('%I as "~row"', c.relname), null), c.relname)
from pg_class as c
where c.oid = unique_key.target
$fn$;

comment on function ensure._gate_index_v1(ensure._unique_key_v1, oid) is
    'PL/pgSQL that lets a row pass when by now a unique index does what the gate did.';

create function ensure._gate_others_v1(
    relation regclass,
    root regclass
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_others_v1: what lets a new row pass for which another unique index of the table has a row.
--
-- Returns  null when there is no such index; of a partition those that root has not. INSERT … ON
--          CONFLICT on it makes no new row, and nobody can take the row that is there out of the
--          index while it is held: by FOR KEY SHARE, or, where the index is partial or on
--          expressions, by what an upsert takes
with indexes as (
    select i.indexrelid, i.indpred is not null or i.indexprs is not null as partly,
           row_number() over (order by i.indexrelid) as number,
           coalesce(pg_get_expr(i.indpred, i.indrelid), 'true') as predicate,
           coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) as nulls_equal,
           i.indnkeyatts
    from pg_index as i
    where i.indrelid = relation and i.indisunique and i.indisvalid and i.indimmediate
      and not exists (select from pg_partition_ancestors(i.indexrelid) as a
                      join pg_index as r on r.indexrelid = a.relid and r.indisvalid
                      where r.indrelid = root)
), elements as (
    select i.*, pg_get_indexdef(i.indexrelid, k.place, false) as expression,
           format('"~%s_%s"', i.number, k.place) as value, k.place, q.operators[k.place] as equal,
           q.collations[k.place] as collates
    from indexes as i
    cross join lateral ensure._gate_equality_v1(i.indexrelid) as q
    cross join lateral generate_series(1, i.indnkeyatts) as k (place)
), arms as (
    select e.partly, e.number,
           format('v_old."~%s" and (%s) and %s', e.number, e.predicate, string_agg(
               format(case when e.nulls_equal
                           then '(%1$s %2$s v_old.%3$s%4$s'
                                ' or %1$s is null and num_nulls(%1$s, v_old.%3$s) = 2)'
                           else '%1$s %2$s v_old.%3$s%4$s' end,
                      e.expression, e.equal, e.value, e.collates),
               ' and ' order by e.place)) as condition,
           format('(%s) is true as "~%s", %s', e.predicate, e.number, string_agg(
               format('case when %s then %s end as %s', e.predicate, e.expression, e.value), ', '
               order by e.place)) as key
    from elements as e
    group by e.partly, e.number, e.predicate
), stored as ( -- names only where they must be: a column may get another name, or go
    select case when bool_or(a.attgenerated <> '') then string_agg(
               case when a.attgenerated = '' then format('%I', a.attname)
                    else format('(%s) as %I', pg_get_expr(d.adbin, d.adrelid), a.attname) end,
               ', ' order by a.attnum) else '*' end as columns
    from pg_attribute as a
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
)
select format(E'\n        select %s into v_old from (select %s from (select new.*) as %I) as %I;%s',
              (select string_agg(a.key, ', ' order by a.number) from arms as a), s.columns,
              c.relname, c.relname, (
                  select string_agg(format(
                      E'\n        perform from %s as %I where %s limit 1 for %s of %I;'
                      '\n        if found then\n            return new;\n        end if;',
                      ensure._from_v1(relation), c.relname, l.condition,
                      case when l.partly then 'no key update' else 'key share' end, c.relname),
                      '' order by l.partly)
                  from (select a.partly,
                               string_agg(format('(%s)', a.condition), ' or ' order by a.number)
                        from arms as a
                        group by a.partly) as l (partly, condition)))
from pg_class as c
cross join stored as s
where c.oid = relation and exists (select from arms)
$fn$;

comment on function ensure._gate_others_v1(regclass, regclass) is
    'What lets a new row pass for which another unique index of the table has a row.';

create function ensure._gate_passes_v1(
    target regclass
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_passes_v1: as _gate_others_v1, of a table and of its partitions.
select concat(ensure._gate_others_v1(target, null), (
           select string_agg(format(E'\n        if tg_relid = to_regclass(%L) then%s'
                                    '\n        end if;', p.relid, o.text), '' order by p.relid)
           from pg_partition_tree(target) as p
           cross join lateral ensure._gate_others_v1(p.relid, target) as o (text)
           where p.relid <> target and p.isleaf and o.text is not null))
$fn$;

comment on function ensure._gate_passes_v1(regclass) is
    'As _gate_others_v1, of a table and of its partitions.';

create function ensure._gate_skips_v1(
    target regclass
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_skips_v1: what drops a row, unless it may be one that an UPDATE has deleted elsewhere.
--
-- Returns  that is where target is, or became, a partition, or where a trigger of a partition of
--          target may have changed the key of a row that comes from another one
select format($skip$
        if not exists (select from pg_class as t
                       where t.oid = %L::regclass and t.relispartition)%s then
            return null;
        end if;$skip$, target, case c.relkind when 'p' then $skip$
           and not exists (select from pg_trigger as t
                           where t.tgrelid = tg_relid and t.tgenabled in ('O', 'A')
                             and t.tgtype & 7 = 7
                             and t.tgname !~ '^zz_ensure_gate_[0-9a-f]{12}$')$skip$ end)
from pg_class as c
where c.oid = target
$fn$;

comment on function ensure._gate_skips_v1(regclass) is
    'What drops a row, unless it may be one that an UPDATE has deleted elsewhere.';

-- migrate:down
drop function ensure._gate_skips_v1(regclass);
drop function ensure._gate_passes_v1(regclass);
drop function ensure._gate_others_v1(regclass, regclass);
drop function ensure._gate_index_v1(ensure._unique_key_v1, oid);
