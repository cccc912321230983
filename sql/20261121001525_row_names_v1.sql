-- migrate:up
create function ensure._base_type_v1(
    type oid
)
returns oid
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _base_type_v1: the type of which a type is a domain, in the end; else itself.
with recursive bases (oid, over) as (
    select t.oid, t.typbasetype
    from pg_type as t
    where t.oid = _base_type_v1.type
    union all
    select t.oid, t.typbasetype
    from bases as b
    join pg_type as t on t.oid = b.over
)
select b.oid from bases as b where b.over = 0
$fn$;

comment on function ensure._base_type_v1(oid) is
    'The type of which a type is a domain, in the end; else itself.';

create function ensure._archived_value_v1(
    value text,
    type oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _archived_value_v1: SQL for the text form of a value, from which it can be restored.
--
-- Returns  where a function casts to text, which may lose something, as that of char does blanks,
--          what the type prints
select format(case when exists (
                       select from pg_cast as c
                       where c.castsource in (_archived_value_v1.type,
                                              ensure._base_type_v1(_archived_value_v1.type))
                         and c.casttarget = 'text'::regtype and c.castmethod = 'f'
                         and c.castsource <> 'boolean'::regtype)
                   then 'case when %1$s is not null then concat(%1$s) end'
                   else '%1$s::text' end, value)
$fn$;

comment on function ensure._archived_value_v1(text, oid) is
    'SQL for the text form of a value, from which it can be restored.';

create function ensure._row_object_v1(
    target regclass,
    alias text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _row_object_v1: SQL for a row as a JSON object of the text forms of its columns.
--
-- Returns  without generated columns, which nobody can put back
select format('jsonb_object(array[%s], array[%s])',
              string_agg(quote_literal(a.attname), ', ' order by a.attnum),
              string_agg(ensure._archived_value_v1(format('%I.%I', alias, a.attname), a.atttypid),
                         ', ' order by a.attnum))
from pg_attribute as a
where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
$fn$;

comment on function ensure._row_object_v1(regclass, text) is
    'SQL for a row as a JSON object of the text forms of its columns.';

create function ensure._taken_name_v1(
    relation regclass
)
returns name
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _taken_name_v1: the first column whose name the SQL of a merge needs beside the columns.
select a.attname
from pg_attribute as a
where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
  and a.attname ~ '^~(part|row|no|moves|key|rank[0-9]+)$'
order by a.attnum
limit 1
$fn$;

comment on function ensure._taken_name_v1(regclass) is
    'The first column whose name the SQL of a merge needs beside the columns.';

create function ensure._check_names_v1(
    relation regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_names_v1: no column has a name that the SQL of a merge needs beside the columns.
--
-- Errors   0A000  one has
declare
    c_name constant name := ensure._taken_name_v1(relation);
begin
    if c_name is not null then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" has a column "%s", a name that is needed here', relation,
                             c_name),
            hint = 'Rename the column, so that it does not begin with ~.';
    end if;
end
$fn$;

comment on function ensure._check_names_v1(regclass) is
    'No column has a name that the SQL of a merge needs beside the columns.';

create function ensure._check_row_key_v1(
    relation regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_row_key_v1: a row that is archived can be found again when it is to be put back.
--
-- Errors   0A000  nothing tells the rows apart
begin
    if 'ctid' = any (ensure._row_key_v1(relation)) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('rows of "%s" change, and cannot be archived', relation),
            detail = 'It has no primary key and no unique index over columns that are not null, so'
                     ' nobody could find them to put them back.',
            hint = 'Add a primary key, or leave out archive.';
    end if;
end
$fn$;

comment on function ensure._check_row_key_v1(regclass) is
    'A row that is archived can be found again when it is to be put back.';

create function ensure._from_v1(
    target regclass
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _from_v1: the table as FROM names it: with its partitions, without tables that inherit from it.
select concat(case when c.relkind = 'r' then 'only ' end, target)
from pg_class as c
where c.oid = target
$fn$;

comment on function ensure._from_v1(regclass) is
    'The table as FROM names it: with its partitions, without tables that inherit from it.';

-- migrate:down
drop function ensure._from_v1(regclass);
drop function ensure._check_row_key_v1(regclass);
drop function ensure._check_names_v1(regclass);
drop function ensure._taken_name_v1(regclass);
drop function ensure._row_object_v1(regclass, text);
drop function ensure._archived_value_v1(text, oid);
drop function ensure._base_type_v1(oid);
