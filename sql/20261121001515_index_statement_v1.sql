-- migrate:up
create function ensure._index_name_v1(
    unique_key ensure._unique_key_v1
)
returns name
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _index_name_v1: a name that is free for an index on a key: table_column_column_key.
--
-- Returns  with a hash of elements and predicate where it is cut to fit into 63 bytes, between
--          characters; with a number behind where it is taken
declare
    v_schema oid;
    v_stem text;
    v_end text := '_key';
    v_try integer := 0;
begin
    select c.relnamespace,
           concat_ws('_', c.relname, (
               select string_agg(case when a.attnum is not null then a.attname
                                      else btrim(regexp_replace(u.expression, '\W+', '_', 'g'),
                                                 '_') end, '_' order by u.place)
               from unnest(unique_key.expressions, unique_key.columns)
                    with ordinality as u (expression, attnum, place)
               left join pg_attribute as a on a.attrelid = c.oid and a.attnum = u.attnum
                                          and u.attnum > 0))
    into v_schema, v_stem
    from pg_class as c
    where c.oid = unique_key.target;
    if octet_length(v_stem) + octet_length(v_end) > 63 then
        v_end := format('_%s_key', encode(substring(sha256(convert_to(
            concat_ws('|', v_stem, unique_key.predicate, unique_key.elements),
            current_setting('server_encoding'))) for 4), 'hex'));
    end if;
    loop
        while octet_length(concat(v_stem, v_end, nullif(v_try, 0))) > 63 loop
            v_stem := left(v_stem, -1);
        end loop;
        exit when not exists (
                select from pg_class as c
                where c.relnamespace = v_schema
                  and c.relname = concat(v_stem, v_end, nullif(v_try, 0))::name)
              and not exists (
                select from pg_constraint as u
                where u.conrelid = unique_key.target
                  and u.conname = concat(v_stem, v_end, nullif(v_try, 0))::name);
        v_try := v_try + 1;
    end loop;
    return concat(v_stem, v_end, nullif(v_try, 0))::name;
end
$fn$;

comment on function ensure._index_name_v1(ensure._unique_key_v1) is
    'A name that is free for an index on a key: table_column_column_key.';

create function ensure._named_v1(
    relation oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _named_v1: the qualified name of a table or index, also when it was dropped since the snapshot.
select format('%I.%I', n.nspname, c.relname)
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.oid = relation
$fn$;

comment on function ensure._named_v1(oid) is
    'The qualified name of a table or index, also when it was dropped since the snapshot.';

create function ensure._same_anywhere_v1(
    target regclass,
    expression text
)
returns text
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _same_anywhere_v1: an expression as PostgreSQL prints it, to be read by another search_path.
--
-- Returns  what is not in pg_catalog with its schema; as it is where what is printed says less, as
--          of collations inside
declare
    c_printed constant text := ensure._read_expression_v1(target, expression);
begin
    return case when ensure._read_expression_v1(target, c_printed) = c_printed
                then c_printed else expression end;
exception when syntax_error_or_access_rule_violation or data_exception then
    return expression;
end
$fn$;

comment on function ensure._same_anywhere_v1(regclass, text) is
    'An expression as PostgreSQL prints it, to be read by another search_path.';

create function ensure._index_statement_v1(
    unique_key ensure._unique_key_v1,
    index_name name,
    how text
)
returns text
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _index_statement_v1: the statement that makes the unique index on a key.
--
-- Returns  how: empty, to be run here, or 'concurrently' or 'only', for a partitioned table: these
--          are run by whoever asks, and by what search_path that has; without index_name with a
--          name of _index_name_v1
select concat_ws(' ', 'create unique index', case when how = 'concurrently' then how end,
                 quote_ident(coalesce(index_name, ensure._index_name_v1(unique_key))),
                 'on', case when how = 'only' then how end,
                 unique_key.target::regclass,
                 format('(%s)', (
                     select string_agg(
                                case when how = '' or e.expression not like '(%' then e.element
                                     else format('(%s)%s', ensure._same_anywhere_v1(
                                                     unique_key.target::regclass, e.expression),
                                                 substr(e.element, length(e.expression) + 1)) end,
                                ', ' order by e.place)
                     from unnest(unique_key.elements, unique_key.expressions)
                          with ordinality as e (element, expression, place))),
                 case when unique_key.nulls_equal and true = any (unique_key.nullable)
                      then 'nulls not distinct' end,
                 'where ' || case when how = '' or unique_key.predicate is null
                                  then unique_key.predicate
                                  else ensure._same_anywhere_v1(unique_key.target::regclass,
                                                                unique_key.predicate) end)
$fn$;

comment on function ensure._index_statement_v1(ensure._unique_key_v1, name, text) is
    'The statement that makes the unique index on a key.';

-- migrate:down
drop function ensure._index_statement_v1(ensure._unique_key_v1, name, text);
drop function ensure._same_anywhere_v1(regclass, text);
drop function ensure._named_v1(oid);
drop function ensure._index_name_v1(ensure._unique_key_v1);
