-- migrate:up
create function ensure._object_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _object_statements_v1: what gives what hangs on partition the settings of what hangs on parent.
--
-- Returns  replica identity; statistics targets of index columns; extended statistics, matched by
--          definition, and their targets; whether triggers are enabled; comments that parent has
-- Locks    none beyond catalog reads
begin
    return query
    with indexes as materialized (
        select i.inhparent as wanted, i.inhrelid as had, c.relname, h.indisreplident,
               w.indisreplident as chosen
        from pg_index as h
        join pg_class as c on c.oid = h.indexrelid
        join pg_inherits as i on i.inhrelid = h.indexrelid and i.inhseqno = 1
        join pg_index as w on w.indexrelid = i.inhparent and w.indrelid = parent
        where h.indrelid = partition
    )
    select 'replica identity',
           format('alter table %s replica identity %s', ensure._alone_v1(partition),
                  case w.relreplident when 'd' then 'default' when 'n' then 'nothing'
                                      when 'f' then 'full'
                                      else format('using index %I', i.relname) end)
    from pg_class as w
    join pg_class as h on h.oid = partition
    left join indexes as i on w.relreplident = 'i' and i.chosen
    where w.oid = parent
      and (w.relreplident <> h.relreplident or i.had is not null and not i.indisreplident)
      and (w.relreplident <> 'i' or i.had is not null)
    union all
    select 'statistics target',
           format('alter index %s alter column %s set statistics %s', i.had::regclass, w.attnum,
                  coalesce(w.attstattarget, -1))
    from indexes as i
    join pg_attribute as w on w.attrelid = i.wanted
    join pg_attribute as h on h.attrelid = i.had and h.attnum = w.attnum
    where coalesce(w.attstattarget, -1) <> coalesce(h.attstattarget, -1)
    union all
    select 'trigger',
           format('alter table %s %s trigger %I', ensure._alone_v1(partition),
                  case w.tgenabled when 'O' then 'enable' when 'D' then 'disable'
                                   when 'R' then 'enable replica' else 'enable always' end,
                  h.tgname)
    from pg_trigger as h
    join pg_trigger as w on w.oid = h.tgparentid and w.tgrelid = parent
    where h.tgrelid = partition and h.tgenabled <> w.tgenabled
    union all
    select 'comment', format('comment on %s is %L', o.name, d.description)
    from (
        select 'pg_class'::regclass, parent::oid, partition::oid, format('table %s', partition)
        union all
        select 'pg_class'::regclass, i.wanted, i.had, format('index %s', i.had::regclass)
        from indexes as i
        union all
        select 'pg_constraint'::regclass, w.oid, h.oid,
               format('constraint %I on %s', h.conname, partition)
        from pg_constraint as h
        join pg_constraint as w on w.conrelid = parent
                               and (w.oid = h.conparentid
                                    or h.conparentid = 0 and w.conname = h.conname)
        where h.conrelid = partition
        union all
        select 'pg_trigger'::regclass, w.oid, h.oid,
               format('trigger %I on %s', h.tgname, partition)
        from pg_trigger as h
        join pg_trigger as w on w.oid = h.tgparentid and w.tgrelid = parent
        where h.tgrelid = partition
    ) as o (class, wanted, had, name)
    join pg_description as d on d.classoid = o.class and d.objoid = o.wanted and d.objsubid = 0
    left join pg_description as h on h.classoid = o.class and h.objoid = o.had and h.objsubid = 0
    where h.description is distinct from d.description;
end
$fn$;

comment on function ensure._object_statements_v1(regclass, regclass) is
    'What gives what hangs on partition the settings of what hangs on parent.';

create function ensure._extended_statistics_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _extended_statistics_v1: what gives partition the extended statistics of parent, with targets.
--
-- Returns  they are matched by kinds and columns, whatever their names
-- Locks    none beyond catalog reads
begin
    if not exists (select from pg_statistic_ext as s where s.stxrelid = parent) then
        return;
    end if;
    return query
    with defined as materialized (
        select s.stxrelid, n.nspname, s.stxname, coalesce(s.stxstattarget, -1) as target,
               s.oid, concat((select string_agg(quote_ident(a.attname), ', ' order by a.attname)
                              from pg_attribute as a
                              where a.attrelid = s.stxrelid and a.attnum = any (s.stxkeys)),
                             ensure._expression_tree_v1(s.stxexprs::text, s.stxrelid)) as columns,
               (select string_agg(case k.kind when 'd' then 'ndistinct' when 'm' then 'mcv'
                                              else 'dependencies' end, ', ' order by k.kind)
                from unnest(s.stxkind) as k (kind)
                where k.kind <> 'e') as kinds
        from pg_statistic_ext as s
        join pg_namespace as n on n.oid = s.stxnamespace
        where s.stxrelid in (parent, partition)
    ), pairs as (
        select w.*, h.nspname as had_schema, h.stxname as had_name, h.target as had_target,
               format('%s_%s_stat', left(t.relname, 12),
                      left(md5(concat_ws(' ', t.relname, w.columns, w.kinds)), 8)) as name,
               t.nspname as schema_name
        from defined as w
        left join defined as h on h.stxrelid = partition and h.columns = w.columns
                              and h.kinds is not distinct from w.kinds
        join (select c.relname, n.nspname
              from pg_class as c
              join pg_namespace as n on n.oid = c.relnamespace
              where c.oid = partition) as t on true
        where w.stxrelid = parent
    )
    select 'extended statistics',
           format('create statistics %I.%I%s on %s from %s', p.schema_name, p.name,
                  ' (' || p.kinds || ')', pg_get_statisticsobjdef_columns(p.oid), partition)
    from pairs as p
    where p.had_name is null
    union all
    select 'statistics target',
           format('alter statistics %I.%I set statistics %s', coalesce(p.had_schema, p.schema_name),
                  coalesce(p.had_name, p.name), p.target)
    from pairs as p
    where p.target <> coalesce(p.had_target, -1);
end
$fn$;

comment on function ensure._extended_statistics_v1(regclass, regclass) is
    'What gives partition the extended statistics of parent, with targets.';

-- migrate:down
drop function ensure._extended_statistics_v1(regclass, regclass);
drop function ensure._object_statements_v1(regclass, regclass);
