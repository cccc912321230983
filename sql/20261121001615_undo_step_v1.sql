-- migrate:up
create function ensure._undo_steps_v1(
    archive regclass,
    run uuid
)
returns table (relation regclass, action text, first_place bigint, last_place bigint,
               row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _undo_steps_v1: what a run did, the last first: rows of one table to which the same was done.
--
-- Returns  steps in which all rows have the same columns: some may have come or gone during a plan
-- Errors   22023  what is archived is not a row
--          42704  the archive has nothing of the run
--          42P01  a table is not there any more
declare
    v_step record;
    v_any boolean := false;
begin
    for v_step in execute format(
        'select s.relation, s.action, min(s.place) as first_place, max(s.place) as last_place,'
        '       count(*) as row_count'
        ' from (select a.relation, a.action, a.columns, a.key, a.place,'
        '              row_number() over (order by a.place) - row_number() over ('
        '                  partition by a.relation, a.action, a.columns, a.key'
        '                  order by a.place) as n'
        '       from (select r.relation, r.action, r.place,'
        '                    array(select jsonb_object_keys(r.old)) as columns,'
        '                    array(select jsonb_object_keys(r.key)) as key'
        '             from %s as r where r.run = $1) as a) as s'
        ' group by s.relation, s.action, s.columns, s.key, s.n'
        ' order by last_place desc', archive)
        using run
    loop
        relation := to_regclass(v_step.relation);
        if relation is null then
            raise exception using
                errcode = 'undefined_table',
                message = format('there is no table "%s" to put rows back into', v_step.relation),
                detail = format('The run %s had %s rows of it.', run, v_step.row_count),
                hint = format('If it has another name now, change that in the column relation of'
                              ' %s.', archive);
        end if;
        action := v_step.action;
        first_place := v_step.first_place;
        last_place := v_step.last_place;
        row_count := v_step.row_count;
        v_any := true;
        return next;
    end loop;
    if not v_any then
        raise exception using
            errcode = 'undefined_object',
            message = format('"%s" has nothing of the run %s', archive, run),
            detail = 'A run that is undone leaves the archive.',
            hint = format('Look for it with: select distinct run from %s.', archive);
    end if;
end
$fn$;

comment on function ensure._undo_steps_v1(regclass, uuid) is
    'What a run did, the last first: rows of one table to which the same was done.';

create function ensure._undo_columns_v1(
    relation regclass,
    columns text[]
)
returns table (name name, type text, type_oid oid, place bigint)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _undo_columns_v1: the columns of a table as the archive names them.
--
-- Errors   42703  the table does not have one any more, or computes it
declare
    v_missing text;
begin
    select string_agg(quote_ident(u.name), ', ' order by u.place) into v_missing
    from unnest(columns) with ordinality as u (name, place)
    where not exists (select from pg_attribute as a
                      where a.attrelid = relation and a.attname = u.name and a.attnum > 0
                        and not a.attisdropped and a.attgenerated = '');
    if v_missing is not null then
        raise exception using
            errcode = 'undefined_column',
            message = format('"%s" has no column %s to put values back into', relation, v_missing),
            detail = 'It was dropped or renamed, or is generated, since the run was archived.',
            hint = 'Add the column again, or change its name in the archive.';
    end if;
    return query
    select a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, u.place
    from unnest(columns) with ordinality as u (name, place)
    join pg_attribute as a on a.attrelid = relation and a.attname = u.name
    order by u.place;
end
$fn$;

comment on function ensure._undo_columns_v1(regclass, text[]) is
    'The columns of a table as the archive names them.';

create function ensure._put_back_value_v1(
    value text,
    archived text,
    type oid,
    out stored text,
    out kept text
)
returns record
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _put_back_value_v1: SQL for a value and for the text archived of it, equal if nothing is lost.
--
-- Returns  the value as _archived_value_v1, and the text as it is, never cast to what the column is
--          now, which may hold less than it did. But for what is written in several ways: zeros
--          behind a numeric, blanks behind a char, a time in another zone; these as a type with no
--          limit writes them
with recursive parts (oid) as (
    select _put_back_value_v1.type
    union
    select x.oid
    from parts as p
    join pg_type as t on t.oid = p.oid
    left join pg_range as r on t.oid in (r.rngtypid, r.rngmultitypid)
    left join pg_attribute as a on a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0
                               and not a.attisdropped
    cross join lateral (values (t.typbasetype), (t.typelem), (r.rngsubtype), (a.atttypid))
         as x (oid)
    where x.oid <> 0
)
select case when w.way is null
            then ensure._archived_value_v1(value, _put_back_value_v1.type)
            else format(w.way, value, w.base) end,
       case when w.way is null then archived else format(w.way, archived, w.base) end
from (select format_type(b.oid, -1) as base,
             case when b.oid = 'numeric'::regtype then 'trim_scale((%s)::%s)::text'
                  when b.oid = 'bpchar'::regtype or exists (
                           select from parts as p where p.oid = 'timestamptz'::regtype)
                  then '((%s)::%s)::text' end as way
      from ensure._base_type_v1(_put_back_value_v1.type) as b (oid)) as w
$fn$;

comment on function ensure._put_back_value_v1(text, text, oid) is
    'SQL for a value and for the text archived of it, equal if nothing is lost.';

create function ensure._check_put_back_v1(
    relation regclass,
    others bigint
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_put_back_v1: no row that was put back is another than was archived.
--
-- Errors   NS012  some are
begin
    if others > 0 then
        raise exception using
            errcode = 'NS012',
            message = format('%s rows put back into "%s" are not what was archived', others,
                             relation),
            hint = 'Look for a trigger that changes them and disable it for the time of the call,'
                   ' and for a column that cannot hold what it did; nothing was changed.';
    end if;
end
$fn$;

comment on function ensure._check_put_back_v1(regclass, bigint) is
    'No row that was put back is another than was archived.';

create function ensure._reinsert_rows_v1(
    archive regclass,
    run uuid,
    relation regclass,
    first_place bigint,
    last_place bigint
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _reinsert_rows_v1: rows that a step deleted are there again.
--
-- Errors   22023  what is archived is not a row; 42703
--          NS012  a trigger changed one, or a column cannot hold what it did
declare
    c_where constant text := format('%s as a where a.run = $1 and a.place between $2 and $3',
                                    archive);
    v_columns text[];
    v_count bigint;
    v_other bigint;
begin
    execute format('select array(select jsonb_object_keys(s.old) from'
                   ' (select a.old from %s order by a.place limit 1) as s)', c_where)
    into v_columns
    using run, first_place, last_place;
    execute (
        select format('with "~in" as (insert into %s (%s) overriding system value select %s from %s'
                      ' order by a.place returning %s)'
                      ' select (select count(*) from "~in"), count(*)'
                      ' from (table "~in" except all select %s from %4$s) as x', relation,
                      string_agg(quote_ident(c.name), ', ' order by c.place),
                      string_agg(format('(a.old ->> %L)::%s', c.name, c.type), ', '
                                 order by c.place), c_where,
                      string_agg(v.stored, ', ' order by c.place),
                      string_agg(v.kept, ', ' order by c.place))
        from ensure._undo_columns_v1(relation, v_columns) as c
        cross join lateral ensure._put_back_value_v1(
            quote_ident(c.name), format('a.old ->> %L', c.name), c.type_oid) as v)
    into v_count, v_other
    using run, first_place, last_place;
    perform ensure._check_put_back_v1(relation, v_other);
    return v_count;
end
$fn$;

comment on function ensure._reinsert_rows_v1(regclass, uuid, regclass, bigint, bigint) is
    'Rows that a step deleted are there again.';

create function ensure._set_rows_back_v1(
    archive regclass,
    run uuid,
    relation regclass,
    first_place bigint,
    last_place bigint
)
returns bigint
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _set_rows_back_v1: rows that a step moved or updated have the values from before.
--
-- Returns  how many; only columns that the step changed are set
-- Errors   NS012  a trigger set one to something else, or the column cannot hold what it did
--          NS013  a row is gone, or was changed since; 42703
declare
    c_where constant text := format('%s as a where a.run = $1 and a.place between $2 and $3',
                                    archive);
    v_columns text[];
    v_key text[];
    v_match text;
    v_changed text[];
    v_row record;
    v_count bigint;
    v_other bigint;
begin
    execute format('select array(select jsonb_object_keys(s.old)) as columns,'
                   ' array(select jsonb_object_keys(s.key)) as key'
                   ' from (select a.old, a.key from %s order by a.place limit 1) as s', c_where)
    into v_columns, v_key
    using run, first_place, last_place;
    perform ensure._undo_columns_v1(relation, v_key);
    v_match := ensure._row_match_v1(relation, v_key::name[], 'c', (
        select format('jsonb_build_array(%s)', string_agg(format('a.key ->> %L', k.name), ', '
                                                          order by k.place))
        from unnest(v_key) with ordinality as k (name, place)));
    execute (select format('select array_remove(array[%s], null) from %s', string_agg(format(
                 'case when bool_or(a.old ->> %1$L is distinct from a.new ->> %1$L) then %1$L end',
                 u.name), ', '), c_where)
             from unnest(v_columns) as u (name))
    into v_changed
    using run, first_place, last_place;
    execute (
        select format('select a.key, c.ctid is null as gone from (select a.* from %s) as a'
                      ' left join %s as c on %s where c.ctid is null%s order by a.place limit 1',
                      c_where, ensure._from_v1(relation), v_match, string_agg(format(
                          ' or a.old ->> %1$L is distinct from a.new ->> %1$L and'
                          ' c.%2$I::text is distinct from (a.new ->> %1$L)::%3$s::text',
                          u.name, u.name, u.type), ''))
        from ensure._undo_columns_v1(relation, v_changed) as u)
    into v_row
    using run, first_place, last_place;
    if v_row.key is not null then
        raise exception using
            errcode = 'NS013',
            message = format('a row of "%s" is not what the run left there', relation),
            detail = format('The row with the key %s %s since. Columns to set back: %s.', v_row.key,
                            case when v_row.gone then 'was deleted, or got another key,'
                                 else 'was changed' end, array_to_string(v_changed, ', ')),
            hint = 'If a later run did it, undo that run first. Else set it back by hand, or take'
                   ' what belongs to this row out of the archive: it keeps what it has then.';
    elsif v_changed = '{}' then
        execute format('select count(*) from %s', c_where) into v_count
        using run, first_place, last_place;
        return v_count;
    end if;
    execute (
        select format('with "~set" as (update %s as c set %s from %s and %s returning %s as other)'
                      ' select count(*), count(*) filter (where s.other) from "~set" as s',
                      ensure._from_v1(relation),
                      string_agg(format('%I = case when a.old ->> %L is distinct from a.new ->> %L'
                                        ' then (a.old ->> %L)::%s else c.%I end', u.name, u.name,
                                        u.name, u.name, u.type, u.name), ', '), c_where, v_match,
                      string_agg(format('a.old ->> %1$L is distinct from a.new ->> %1$L and'
                                        ' c.%2$I::text is distinct from a.old ->> %1$L and'
                                        ' %3$s is distinct from %4$s', u.name, u.name, v.stored,
                                        v.kept), ' or '))
        from ensure._undo_columns_v1(relation, v_changed) as u
        cross join lateral ensure._put_back_value_v1(
            format('c.%I', u.name), format('a.old ->> %L', u.name), u.type_oid) as v)
    into v_count, v_other
    using run, first_place, last_place;
    perform ensure._check_put_back_v1(relation, v_other);
    return v_count;
end
$fn$;

comment on function ensure._set_rows_back_v1(regclass, uuid, regclass, bigint, bigint) is
    'Rows that a step moved or updated have the values from before.';

create function ensure._undo_step_v1(
    archive regclass,
    run uuid,
    step record
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _undo_step_v1: what one step of a run did is undone.
--
-- Errors   NS001  a unique index or exclusion constraint has no place for a row
--          NS012  a trigger kept a row, or changed it
--          NS013, 42703
declare
    v_count bigint;
    v_name text;
    v_schema text;
    v_detail text;
begin
    begin
        if step.action = 'deleted' then
            v_count := ensure._reinsert_rows_v1(archive, run, step.relation, step.first_place,
                                                step.last_place);
        else
            v_count := ensure._set_rows_back_v1(archive, run, step.relation, step.first_place,
                                                step.last_place);
        end if;
    exception when unique_violation or exclusion_violation then
        get stacked diagnostics v_name = constraint_name, v_schema = schema_name,
                                v_detail = pg_exception_detail;
        if v_name = '' then -- a trigger says so
            raise;
        end if;
        raise exception using
            errcode = 'NS001',
            message = format('the unique index "%s" has no place for rows to be put back into "%s"',
                             v_name, step.relation),
            detail = format('Index: %I.%I. %s', v_schema, v_name, v_detail),
            hint = 'Drop the index, or change the row that took the place so that it leaves it;'
                   ' delete that row only when nothing refers to it. Nothing was changed.';
    end;
    if v_count <> step.row_count then
        raise exception using
            errcode = 'NS012',
            message = format('%s of %s rows of "%s" were put back', v_count, step.row_count,
                             step.relation),
            detail = format('They were %s by the run.', step.action),
            hint = 'Look for a trigger or rule that keeps rows back; nothing was changed.';
    end if;
end
$fn$;

comment on function ensure._undo_step_v1(regclass, uuid, record) is
    'What one step of a run did is undone.';

-- migrate:down
drop function ensure._undo_step_v1(regclass, uuid, record);
drop function ensure._set_rows_back_v1(regclass, uuid, regclass, bigint, bigint);
drop function ensure._reinsert_rows_v1(regclass, uuid, regclass, bigint, bigint);
drop function ensure._check_put_back_v1(regclass, bigint);
drop function ensure._put_back_value_v1(text, text, oid);
drop function ensure._undo_columns_v1(regclass, text[]);
drop function ensure._undo_steps_v1(regclass, uuid);
