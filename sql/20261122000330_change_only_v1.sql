-- migrate:up
create function ensure._taken_columns_v1(
    target regclass,
    demote text
)
returns name[]
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _taken_columns_v1: the columns that demote takes from the row "keeper".
--
-- Returns  all where it takes the whole row; the caller has seen that it refers to it
-- Locks    ROW EXCLUSIVE on target
declare
    c_update constant text := format(
        'explain (costs off) update %s as %I set %s', ensure._from_v1(target),
        (select c.relname from pg_class as c where c.oid = target), concat(demote, E'\n'));
    c_all constant name[] := array(select a.attname from pg_attribute as a
                                   where a.attrelid = target and a.attnum > 0
                                     and not a.attisdropped);
    v_taken name[] := '{}';
    v_name name;
    v_plan text;
begin
    foreach v_name in array c_all loop
        begin
            for v_plan in execute format('%s from %s as keeper', c_update,
                                         ensure._nulls_v1(target, v_name))
            loop
                null;
            end loop;
        exception when undefined_column then
            v_taken := v_taken || v_name;
        end;
    end loop;
    return case when v_taken = '{}' then c_all else v_taken end;
end
$fn$;

comment on function ensure._taken_columns_v1(regclass, text) is
    'The columns that demote takes from the row "keeper".';

create function ensure._fresh_row_v1(
    target regclass,
    member jsonb,
    complete boolean,
    out source text,
    out columns text
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _fresh_row_v1: SQL for the row of target that is made of member, the one in the array $1.
--
-- Returns  source: the row; columns: those that INSERT has to name. With complete defaults and
--          identities have been evaluated in it, and generated columns computed; else they are null
with columns as (
    select a.attnum, a.attname, a.attgenerated <> '' as generated,
           member ? a.attname::text as given, format_type(a.atttypid, a.atttypmod) as type,
           format_type(ensure._base_type_v1(a.atttypid), null) as base,
           case when a.attidentity <> ''
                then format('nextval(%L::regclass)',
                            pg_get_serial_sequence(target::text, a.attname))
                else coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0))
                end as expression
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped
)
select format('select %I.*%s from (select %s from (%s) as "~a" offset 0) as %I',
              t.relname,
              case when complete then string_agg(format(', (%s) as %I', c.expression, c.attname), ''
                                                 order by c.attnum) filter (where c.generated) end,
              string_agg(case when c.given then format('"~a"."~%s" as %I', c.attnum, c.attname)
                              when complete and c.expression is not null
                              then format('(%s)::%s as %I', c.expression, c.type, c.attname)
                              else format('null::%s as %I', c.base, c.attname) end, ', '
                         order by c.attnum) filter (where not c.generated),
              ensure._rows_given_v1(target, array(
                  select k.name from jsonb_object_keys(member) as k (name))), t.relname),
       string_agg(quote_ident(c.attname), ', ' order by c.attnum)
           filter (where c.given or complete and c.expression is not null and not c.generated)
from columns as c
cross join pg_class as t
where t.oid = target
group by t.relname
$fn$;

comment on function ensure._fresh_row_v1(regclass, jsonb, boolean) is
    'SQL for the row of target that is made of member, the one in the array $1.';

create function ensure._set_rows_v1(
    target regclass,
    rows jsonb[],
    set_list text,
    keeper jsonb,
    member jsonb,
    refers boolean,
    create_member boolean,
    archive regclass,
    run uuid,
    out changed jsonb[],
    out archived bigint,
    out created jsonb,
    out foreseen jsonb,
    out data jsonb
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _set_rows_v1: rows are updated as set_list says, and then the row of member may be created.
--
-- Returns  changed, created: keys as they are afterwards; foreseen: the row of member as set_list
--          saw it, data: as it came to be. With refers "keeper" in set_list is the row with that
--          key, or without one the row of member: one statement does both, so that rows may refer
--          to one that is not there yet, and the new one comes when all the others have changed
-- Errors   0A000  archive is given, and nothing tells the rows apart
declare
    c_key constant name[] := ensure._row_key_v1(target);
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    c_from constant text := ensure._from_v1(target);
    c_json constant text := ensure._row_json_v1(c_key, c_name);
    c_match constant text := ensure._row_match_v1(target, c_key, c_name, '"~p"."~l"');
    c_row constant text := ensure._row_object_v1(target, c_name);
    c_rows constant text := 'unnest($2::jsonb[]) as "~p" ("~l")';
    c_archived constant text := format(
        'jsonb_object(array[%s], array[%s])',
        (select string_agg(quote_literal(k.name), ', ' order by k.place)
         from unnest(c_key) with ordinality as k (name, place)),
        (select string_agg(format('%I.%I::text', c_name, k.name), ', ' order by k.place)
         from unnest(c_key) with ordinality as k (name, place)));
    c_fresh constant record := ensure._fresh_row_v1( -- else the table sees to its defaults
        target, member, refers and keeper is null and rows <> '{}');
begin
    if archive is not null and rows <> '{}' then
        perform ensure._check_row_key_v1(target);
    end if;
    execute format(
        'with "~new" as materialized (%s), "~o" as materialized (%s), "~u" as (update %s as %I'
        ' set %s from %s%s where %s returning "~p"."~l", %s as k, %s as a, %s as r),'
        ' "~a" as (%s), "~i" as (%s)'
        ' select array(select u.k from "~u" as u), (select count(*) from "~a"),'
        '        (select i.k from "~i" as i), (select to_jsonb(n.*) from "~new" as n),'
        '        (select i.r from "~i" as i)',
        c_fresh.source,
        case when archive is null then 'select'
             else format('select "~p"."~l", %s as old from %s join %s as %I on %s',
                         c_row, c_rows, c_from, c_name, c_match) end,
        c_from, c_name, concat(set_list, E'\n'),
        case when not refers then ''
             when keeper is null then '(select n.* from "~new" as n) as keeper, '
             else format('(select k.* from %s as k where %s) as keeper, ', c_from,
                         ensure._row_match_v1(target, c_key, 'k', '$3')) end,
        c_rows, c_match, c_json, c_archived,
        case when archive is null then 'null' else c_row end,
        case when archive is null then 'select'
             else format('insert into %s (run, relation, action, key, old, new)'
                         ' select $4, %L, ''updated'', u.a, o.old, u.r from "~u" as u'
                         ' join "~o" as o on o."~l" = u."~l" returning 1',
                         archive, target::text) end,
        case when create_member then format(
                 'insert into %s as %I (%s) overriding system value select %s from "~new",'
                 ' (select count(*) from "~u") as "~x" returning %s as k, to_jsonb(%I.*) as r',
                 target, c_name, c_fresh.columns, c_fresh.columns, c_json, c_name)
             else 'select null::jsonb as k, null::jsonb as r' end)
    into changed, archived, created, foreseen, data
    using jsonb_build_array(member), rows, keeper, run;
end
$fn$;

comment on function ensure._set_rows_v1(regclass, jsonb[], text, jsonb, jsonb, boolean, boolean,
                                        regclass, uuid) is
    'Rows are updated as set_list says, and then the row of member may be created.';

-- migrate:down
drop function ensure._set_rows_v1(regclass, jsonb[], text, jsonb, jsonb, boolean, boolean,
                                  regclass, uuid);
drop function ensure._fresh_row_v1(regclass, jsonb, boolean);
drop function ensure._taken_columns_v1(regclass, text);
