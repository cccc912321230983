-- migrate:up
create function ensure._insert_row_v1(
    target regclass,
    attributes jsonb,
    conflict text
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _insert_row_v1: a row with attributes, and what the table gives the other columns.
--
-- Returns  the row as it came to be; null where there is a conflict, or a trigger kept it back
declare
    v_data jsonb;
begin
    execute (
        select format('insert into %1$s as %2$I (%3$s) select %4$s from (%5$s) as "~a" %6$s'
                      ' returning to_jsonb(%2$I.*)', target, c.relname,
                      string_agg(quote_ident(a.attname), ', ' order by a.attnum),
                      string_agg(format('"~a"."~%s"', a.attnum), ', ' order by a.attnum),
                      ensure._rows_given_v1(target, array_agg(a.attname)), conflict)
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and attributes ? a.attname
        where c.oid = target
        group by c.relname)
    into v_data
    using jsonb_build_array(attributes);
    return v_data;
end
$fn$;

comment on function ensure._insert_row_v1(regclass, jsonb, text) is
    'A row with attributes, and what the table gives the other columns.';

create function ensure._revive_row_v1(
    target regclass,
    attributes jsonb,
    revive text,
    part oid,
    place tid
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _revive_row_v1: the row at a place has attributes, and does not fulfil revive any more.
--
-- Returns  the row, whose primary key stays; null where it is not there any more, or another has
--          revived it, or a trigger kept it
-- Errors   NS001  with attributes it still fulfils revive
declare
    v_query text;
    v_data jsonb;
    v_dead boolean := true; -- where nothing but the primary key is given
begin
    v_query := (
        select format('update %1$s as %2$I set %3$s from (%4$s) as "~a"'
                      ' where %2$I.tableoid = $2 and %2$I.ctid = $3 and (%5$s)'
                      ' returning to_jsonb(%2$I.*), (%5$s) is true', ensure._from_v1(target),
                      c.relname,
                      string_agg(format('%I = "~a"."~%s"', a.attname, a.attnum), ', '
                                 order by a.attnum),
                      ensure._rows_given_v1(target, array_agg(a.attname)), concat(revive, E'\n'))
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and attributes ? a.attname
                              and not exists (select from pg_index as i
                                              where i.indrelid = c.oid and i.indisprimary
                                                and a.attnum = any (i.indkey))
        where c.oid = target
        group by c.relname);
    if v_query is not null then
        execute v_query into v_data, v_dead using jsonb_build_array(attributes), part, place;
    end if;
    if v_dead then
        raise exception using
            errcode = 'NS001',
            message = format('a row of "%s" fulfils revive with what is asked for, too', target),
            detail = format('With it the row would be %s; revive is: %s.',
                            coalesce(left(v_data::text, 200), 'as it is'), revive),
            hint = 'Give the columns that say that it is alive, like "deleted_at": null.';
    end if;
    return v_data;
end
$fn$;

comment on function ensure._revive_row_v1(regclass, jsonb, text, oid, tid) is
    'The row at a place has attributes, and does not fulfil revive any more.';

create function ensure._conflict_v1(
    target regclass,
    given name[],
    key name[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _conflict_v1: the ON CONFLICT of an INSERT that lets the row of another be.
--
-- Returns  for all constraints at once; where one is deferrable, which PostgreSQL refuses then, for
--          the first key alone
select concat_ws(' ', 'on conflict', case when exists (
           select from pg_index as i
           where i.indrelid in (select target union select p.relid
                                from pg_partition_tree(target) as p (relid))
             and (i.indisunique or i.indisexclusion) and not i.indimmediate)
       then (select k.arbiter from ensure._row_keys_v1(target, given, key) as k limit 1) end,
                 'do nothing')
$fn$;

comment on function ensure._conflict_v1(regclass, name[], name[]) is
    'The ON CONFLICT of an INSERT that lets the row of another be.';

create function ensure._raise_taken_v1(
    target regclass,
    attributes jsonb,
    key name[]
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_taken_v1: another row has a key of a row that is not there, if that is so.
--
-- Returns  nothing: then a plain INSERT says what it is
-- Errors   NS014  another row has a key of attributes
declare
    v_found record;
begin
    if key is not null then
        v_found := ensure._look_row_v1(target, attributes, null, null);
        if v_found.data is not null then
            raise exception using
                errcode = 'NS014',
                message = format('another row of "%s" has a key of the row that is asked for',
                                 target),
                detail = format('None has this (%s). %s has: %s.', array_to_string(key, ', '),
                                v_found.index_name, left(v_found.data::text, 200)),
                hint = 'Ask for this row by its own key, or change the row that is there.';
        end if;
    end if;
end
$fn$;

comment on function ensure._raise_taken_v1(regclass, jsonb, name[]) is
    'Another row has a key of a row that is not there, if that is so.';

create function ensure._raise_hidden_v1(
    target regclass,
    given name[],
    index_oid oid
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_hidden_v1: a row that row security hides has the key that an INSERT stumbled over.
--
-- Returns  nothing where that is not known
-- Errors   42501  it has
begin
    if row_security_active(target)
       and exists (select from ensure._row_keys_v1(target, given, null) as k
                   where k.index_oid = _raise_hidden_v1.index_oid
                      or k.index_oid in (select pg_partition_ancestors(
                                             _raise_hidden_v1.index_oid))) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('a row of "%s" that %I may not see has a key of the row that is asked'
                             ' for', target, current_user),
            detail = format('A policy of row security hides it. Index: %s.', index_oid::regclass),
            hint = 'Call as a role that may see the row, or with another key.';
    end if;
end
$fn$;

comment on function ensure._raise_hidden_v1(regclass, name[], oid) is
    'A row that row security hides has the key that an INSERT stumbled over.';

create function ensure._raise_kept_out_v1(
    target regclass,
    attributes jsonb
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_kept_out_v1: a trigger keeps a row from being what was asked for, which is an error.
--
-- Errors   NS012  always
begin
    raise exception using
        errcode = 'NS012',
        message = format('a trigger or rule keeps a row out of "%s", or makes another of it',
                         target),
        detail = format('Asked for: %s.', left(attributes::text, 200)),
        hint = 'Look for a trigger BEFORE INSERT or UPDATE that returns null or changes a key, or a'
               ' rule; nothing was changed.';
end
$fn$;

comment on function ensure._raise_kept_out_v1(regclass, jsonb) is
    'A trigger keeps a row from being what was asked for, which is an error.';

-- migrate:down
drop function ensure._raise_kept_out_v1(regclass, jsonb);
drop function ensure._raise_hidden_v1(regclass, name[], oid);
drop function ensure._raise_taken_v1(regclass, jsonb, name[]);
drop function ensure._conflict_v1(regclass, name[], name[]);
drop function ensure._revive_row_v1(regclass, jsonb, text, oid, tid);
drop function ensure._insert_row_v1(regclass, jsonb, text);
