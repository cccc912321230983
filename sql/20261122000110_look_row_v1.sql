-- migrate:up
create function ensure._raise_two_rows_v1(
    target regclass,
    key text,
    data jsonb,
    other_key text,
    other_data jsonb
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_two_rows_v1: two rows have keys of the row that is asked for, which is an error.
--
-- Errors   NS014  always
begin
    raise exception using
        errcode = 'NS014',
        message = format('two rows of "%s" have keys of the row that is asked for', target),
        detail = format('%s: %s; %s: %s.', key, left(data::text, 200), other_key,
                        left(other_data::text, 200)),
        hint = case when key = other_key then 'Merge them: merge_rows_v1.'
                    else 'Name in key the columns that say which of them is meant, or merge them:'
                         ' merge_rows_v1.' end;
end
$fn$;

comment on function ensure._raise_two_rows_v1(regclass, text, jsonb, text, jsonb) is
    'Two rows have keys of the row that is asked for, which is an error.';

create function ensure._raise_no_key_v1(
    target regclass,
    given name[],
    key name[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_no_key_v1: what is given has no unique key of target, which is an error.
--
-- Errors   42P10  always
begin
    raise exception using
        errcode = 'invalid_column_reference',
        message = case when key is null
                       then format('(%s) has no unique key of "%s"',
                                   array_to_string(given, ', '), target)
                       else format('(%s) is no unique key of "%s", or not given whole',
                                   array_to_string(key, ', '), target) end,
        detail = format('Given: %s. There are: %s.', array_to_string(given, ', '), coalesce((
            select string_agg(format('%s on (%s)%s', i.indexrelid::regclass,
                                     array_to_string(ensure._key_columns_needed_v1(i.indexrelid),
                                                     ', '),
                                     concat(case when not i.indimmediate then ', deferrable'
                                                 when not i.indisvalid then ', invalid' end,
                                            case when exists (
                                                select from pg_attribute as a
                                                where a.attrelid = target and a.attidentity = 'a'
                                                  and a.attnum = any (i.indkey))
                                                 then ', given by the table' end,
                                            case when i.indexprs is not null
                                                 then ', on expressions' end,
                                            ' where ' || pg_get_expr(i.indpred, i.indrelid))), '; '
                              order by i.indisprimary desc, i.indexrelid)
            from pg_index as i
            where i.indrelid = target and i.indisunique and not i.indisexclusion), 'none')),
        hint = 'Give values for all columns of a key, none null where nulls are distinct, of a row'
               ' that its predicate does not leave out; one that is deferrable or given by the'
               ' table is none. A table without one needs a unique index first: ensure_unique_v1.';
end
$fn$;

comment on function ensure._raise_no_key_v1(regclass, name[], name[]) is
    'What is given has no unique key of target, which is an error.';

create function ensure._check_attributes_v1(
    target regclass,
    names text[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_attributes_v1: a row of target can be given values for these columns.
--
-- Errors   42809  target is no table; 42703  it has no such column; 428C9  the column is generated
--          0A000  it has a rule that ON CONFLICT is refused for
declare
    v_problem record;
begin
    if not exists (select from pg_class as c where c.oid = target and c.relkind in ('r', 'p')) then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not a table', target),
            hint = 'Name a table, partitioned or not.';
    elsif exists (select from pg_rewrite as r where r.ev_class = target and r.ev_type in ('2', '3'))
    then -- UPDATE, INSERT
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" has a rule for INSERT or UPDATE', target),
            hint = 'Make it a trigger: PostgreSQL has no ON CONFLICT where there are such rules.';
    end if;
    select u.name, a.attgenerated <> '' as generated into v_problem
    from unnest(names) with ordinality as u (name, place)
    left join pg_attribute as a on a.attrelid = target and a.attname::text = u.name
                               and a.attnum > 0
                               and not a.attisdropped
    where a.attnum is null or a.attgenerated <> '' or a.attidentity = 'a'
    order by u.place
    limit 1;
    if found and v_problem.generated is null then
        raise exception using
            errcode = 'undefined_column',
            message = format('"%s" has no column "%s"', target, v_problem.name),
            hint = 'The names in a row are those of columns, in the case in which they are stored.';
    elsif found then
        raise exception using
            errcode = 'generated_always',
            message = format('"%s" of "%s" is given by the table itself', v_problem.name, target),
            detail = case when v_problem.generated then 'It is a generated column.'
                          else 'It is an identity column, GENERATED ALWAYS.' end,
            hint = 'Leave it out.';
    end if;
end
$fn$;

comment on function ensure._check_attributes_v1(regclass, text[]) is
    'A row of target can be given values for these columns.';

create function ensure._rows_given_v1(
    target regclass,
    given name[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _rows_given_v1: SQL for the rows of the JSON array $1, each value as its column will hold it.
--
-- Returns  columns named by attribute number, like "~3", and "~place", the place in the array
select format('select %s, r."~place" from rows from (jsonb_to_recordset($1) as (%s))'
              ' with ordinality as r (%s, "~place")',
              string_agg(format('r.%I as "~%s"', a.attname, a.attnum), ', ' order by a.attnum),
              string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                         order by a.attnum),
              string_agg(format('%I', a.attname), ', ' order by a.attnum))
from pg_attribute as a
where a.attrelid = target and a.attnum > 0 and a.attname = any (given)
$fn$;

comment on function ensure._rows_given_v1(regclass, name[]) is
    'SQL for the rows of the JSON array $1, each value as its column will hold it.';

create function ensure._held_v1(
    target regclass,
    predicate text,
    given name[],
    revive text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _held_v1: SQL that is true when a dead row of target would be in an index if it were revived.
--
-- Returns  its predicate over the row, but for what revive reads: that is as in "~a", or what a new
--          row has there
select format('(select (%s) from (select %s) as %I)', predicate, string_agg(
                  format(case when not ensure._reads_v1(revive, a.attname) then '%1$I.%2$I'
                              when a.attname = any (given) then '"~a"."~%3$s" as %2$I'
                              else '(%4$s)::%5$s as %2$I' end,
                         c.relname, a.attname, a.attnum,
                         coalesce(ensure._constant_default_v1(c.oid, a.attnum), 'null'),
                         format_type(ensure._base_type_v1(a.atttypid), null)),
                  ', ' order by a.attnum), c.relname)
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                      and ensure._reads_v1(predicate, a.attname)
where c.oid = target
group by c.relname
$fn$;

comment on function ensure._held_v1(regclass, text, name[], text) is
    'SQL that is true when a dead row of target would be in an index if it were revived.';

create function ensure._look_keys_of_v1(
    target regclass,
    attributes jsonb,
    key name[],
    revive text,
    outside boolean,
    out data jsonb,
    out part oid,
    out place tid,
    out dead boolean,
    out index_name text,
    out applies boolean
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_keys_of_v1: the row of target that has one of the unique keys of attributes.
--
-- Returns  nulls when there is none; dead: it fulfils revive; index_name: of the key; applies:
--          there is a key. With outside dead rows that the index leaves out, else those in it
-- Errors   NS014  two rows have keys of attributes
declare
    c_given constant name[] := array(select k.name from jsonb_object_keys(attributes) as k (name));
    c_source constant text := ensure._rows_given_v1(target, c_given);
    v_query text;
    v_row record;
begin
    select string_agg(format(
               'select %1$L as key, to_jsonb(%2$I.*) as data, %2$I.tableoid as part,'
               ' %2$I.ctid as place, %3$s as dead, %4$s as applies from (%5$s) as "~a"'
               ' cross join lateral (%6$s) as "~k" left join %7$s as %2$I on %8$s and %9$s',
               k.index_oid::regclass, c.relname, coalesce('(' || revive || E'\n) is true', 'false'),
               k.applies, c_source, k.keys, ensure._from_v1(target), k.equal,
               concat_ws(' and ', k.applies, case
                   when outside then format(E'(%s) is not true and (%s\n) and %s', k.predicate,
                                            revive, ensure._held_v1(target, k.predicate, c_given,
                                                                    revive))
                   else '(' || k.predicate || ')' end)), ' union all ')
    into v_query
    from ensure._row_keys_v1(target, c_given, key) as k
    join pg_class as c on c.oid = target
    where not outside or k.predicate is not null;
    applies := false;
    for v_row in execute coalesce(v_query, 'select where false') using jsonb_build_array(attributes)
    loop
        applies := applies or v_row.applies is true;
        if data is null then
            data := v_row.data;
            part := v_row.part;
            place := v_row.place;
            dead := v_row.dead;
            index_name := v_row.key;
        elsif (part, place) <> (v_row.part, v_row.place) then
            perform ensure._raise_two_rows_v1(target, index_name, data, v_row.key, v_row.data);
        end if;
    end loop;
end
$fn$;

comment on function ensure._look_keys_of_v1(regclass, jsonb, name[], text, boolean) is
    'The row of target that has one of the unique keys of attributes.';

create function ensure._look_row_v1(
    target regclass,
    attributes jsonb,
    key name[],
    revive text,
    out data jsonb,
    out part oid,
    out place tid,
    out dead boolean,
    out index_name text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_row_v1: as _look_keys_of_v1, and where no row in an index has the key, a dead one outside.
--
-- Errors   42P10  attributes have no unique key
--          NS014  two rows have keys of attributes
declare
    v_found record;
begin
    v_found := ensure._look_keys_of_v1(target, attributes, key, revive, false);
    if not v_found.applies then
        perform ensure._raise_no_key_v1(
            target, array(select k.name from jsonb_object_keys(attributes) as k (name)), key);
    elsif v_found.data is null and revive is not null then
        v_found := ensure._look_keys_of_v1(target, attributes, key, revive, true);
    end if;
    data := v_found.data;
    part := v_found.part;
    place := v_found.place;
    dead := v_found.dead;
    index_name := v_found.index_name;
end
$fn$;

comment on function ensure._look_row_v1(regclass, jsonb, name[], text) is
    'As _look_keys_of_v1, and where no row in an index has the key, a dead one outside.';

-- migrate:down
drop function ensure._look_row_v1(regclass, jsonb, name[], text);
drop function ensure._look_keys_of_v1(regclass, jsonb, name[], text, boolean);
drop function ensure._held_v1(regclass, text, name[], text);
drop function ensure._rows_given_v1(regclass, name[]);
drop function ensure._check_attributes_v1(regclass, text[]);
drop function ensure._raise_no_key_v1(regclass, name[], name[]);
drop function ensure._raise_two_rows_v1(regclass, text, jsonb, text, jsonb);
