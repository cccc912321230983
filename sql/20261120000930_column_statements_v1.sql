-- migrate:up
create function ensure._option_changes_v1(
    wanted text[],
    had text[],
    prefix text
)
returns table (change text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _option_changes_v1: SET (…) and RESET (…) that make options had, written name=value, wanted.
with w (name, value) as (
    select split_part(u.item, '=', 1), substr(u.item, strpos(u.item, '=') + 1)
    from unnest(wanted) as u (item)
), h (name, value) as (
    select split_part(u.item, '=', 1), substr(u.item, strpos(u.item, '=') + 1)
    from unnest(had) as u (item)
)
select format('set (%s)', string_agg(format('%s%I = %L', prefix, w.name, w.value), ', '
                                     order by w.name))
from w
left join h on h.name = w.name
where h.value is distinct from w.value
having count(*) > 0
union all
select format('reset (%s)', string_agg(format('%s%I', prefix, h.name), ', ' order by h.name))
from h
where h.name not in (select w.name from w)
having count(*) > 0
$fn$;

comment on function ensure._option_changes_v1(text[], text[], text) is
    'SET (…) and RESET (…) that make options had, written name=value, wanted.';

create function ensure._column_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _column_statements_v1: what gives the columns of partition the settings of those of parent.
--
-- Returns  columns are matched by name: statistics target, options, storage, compression, default,
--          expression of a generated column (on 16 no statement can change it, so null; before, it
--          cannot differ); a comment only where parent has one
-- Locks    none beyond catalog reads
declare
    v_version constant integer := current_setting('server_version_num');
begin
    return query
    with pairs as materialized (
        select w.attname, w.attnum,
               coalesce(w.attstattarget, -1) as target, coalesce(h.attstattarget, -1) as had_target,
               w.attoptions, h.attoptions as had_options, w.attstorage, h.attstorage as had_storage,
               w.attcompression, h.attcompression as had_compression,
               w.attgenerated, w.attidentity, h.attgenerated as had_generated,
               case when w.atthasdef then
                   (select d.adbin from pg_attrdef as d
                    where d.adrelid = parent and d.adnum = w.attnum) end as expression,
               case when h.atthasdef then
                   (select d.adbin from pg_attrdef as d
                    where d.adrelid = partition and d.adnum = h.attnum) end as had_expression,
               d.description, f.description as had_description
        from pg_attribute as w
        join pg_attribute as h on h.attrelid = partition and h.attname = w.attname
        left join pg_description as d on d.classoid = 'pg_class'::regclass and d.objoid = parent
                                     and d.objsubid = w.attnum
        left join pg_description as f on f.classoid = 'pg_class'::regclass and f.objoid = partition
                                     and f.objsubid = h.attnum
        where w.attrelid = parent and w.attnum > 0 and not w.attisdropped
    )
    select s.what, case when s.change is not null then
               format('alter table %s alter column %I %s', ensure._alone_v1(partition), p.attname,
                      s.change) end
    from pairs as p
    cross join lateral (
        select 'statistics target', format('set statistics %s', p.target)
        where p.target <> p.had_target
        union all
        select 'column options', o.change
        from ensure._option_changes_v1(p.attoptions, p.had_options, '') as o
        where p.attoptions is distinct from p.had_options
        union all
        select 'storage', format('set storage %s', case p.attstorage
                                 when 'p' then 'plain' when 'e' then 'external'
                                 when 'm' then 'main' else 'extended' end)
        where p.attstorage <> p.had_storage
        union all
        select 'compression', format('set compression %s', case p.attcompression
                                     when 'p' then 'pglz' when 'l' then 'lz4' else 'default' end)
        where p.attcompression <> p.had_compression
        union all
        select 'default', coalesce('set default ' || pg_get_expr(p.expression, 0), 'drop default')
        where p.attgenerated = '' and p.attidentity = '' and p.had_generated = ''
          and pg_get_expr(p.expression, 0) is distinct from pg_get_expr(p.had_expression, 0)
        union all
        select 'generated column', case when v_version >= 170000 then
                   format('set expression as (%s)', pg_get_expr(p.expression, parent)) end
        where p.attgenerated <> '' and p.had_generated <> ''
          and ensure._expression_tree_v1(p.expression::text, parent)
              <> ensure._expression_tree_v1(p.had_expression::text, partition)
    ) as s (what, change)
    union all
    select 'comment', format('comment on column %s.%I is %L', partition, p.attname, p.description)
    from pairs as p
    where p.description is not null and p.description is distinct from p.had_description;
end
$fn$;

comment on function ensure._column_statements_v1(regclass, regclass) is
    'What gives the columns of partition the settings of those of parent.';

-- migrate:down
drop function ensure._column_statements_v1(regclass, regclass);
drop function ensure._option_changes_v1(text[], text[], text);
