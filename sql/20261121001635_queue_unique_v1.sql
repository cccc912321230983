-- migrate:up
create function ensure._queue_name_v1(
    target regclass,
    work text
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _queue_name_v1: the table of batches that a plan is at work on, beside the table itself.
select format('%I.%I', n.nspname, format('ensure_sweep_%s', work))
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.oid = target
$fn$;

comment on function ensure._queue_name_v1(regclass, text) is
    'The table of batches that a plan is at work on, beside the table itself.';

create function ensure._look_queue_v1(
    target regclass,
    work text
)
returns regclass
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_queue_v1: the table of batches of a plan, null when there is none.
--
-- Errors   42501  somebody else has made a table of that name
declare
    c_queue constant regclass := to_regclass(ensure._queue_name_v1(target, work));
begin
    if c_queue is not null and not exists (
        select from pg_class as q
        join pg_class as t on t.oid = target and t.relowner = q.relowner
        where q.oid = c_queue and q.relkind = 'r') then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('"%s" is not a table of the owner of "%s"', c_queue, target),
            detail = 'The name is that of the batches of plan_unique_v1.',
            hint = 'Find out who made it, and drop it.';
    end if;
    return c_queue;
end
$fn$;

comment on function ensure._look_queue_v1(regclass, text) is
    'The table of batches of a plan, null when there is none.';

create function ensure._queue_unique_v1(
    target regclass,
    columns text[],
    predicate text,
    nulls_equal boolean,
    keep text,
    batch integer,
    work text
)
returns table (batches bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set array_nulls = on
as $fn$
-- _queue_unique_v1: the duplicates there are, in batches of rows that go with rows that stay.
--
-- Returns  how many batches. They are but a hint: each is looked at again when its turn comes, and
--          thrown away if rows are told apart by other columns by then
-- Errors   42P07, 23505  another session does the same; 42501  as _look_queue_v1
-- Locks    ACCESS SHARE on target
declare
    c_key constant ensure._unique_key_v1 :=
        ensure._unique_key_v1(target, columns, predicate, nulls_equal);
    c_rows constant record := ensure._keyed_rows_v1(c_key);
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    c_columns constant name[] := ensure._row_key_v1(target);
    c_json constant text := ensure._row_json_v1(
        array_replace(array_replace(c_columns, 'ctid', '~row'), 'tableoid', '~part'), c_name);
    c_queue constant text := ensure._queue_name_v1(target, work);
begin
    perform ensure._unique_guards_v1(c_key, '{}', '0');
    if ensure._look_queue_v1(target, work) is null then
        execute format('create unlogged table %s (batch bigint primary key, row_key name[] not'
                       ' null, losers jsonb[] not null, keepers jsonb[] not null)', c_queue);
        execute format('alter table %s owner to %I', c_queue,
                       (select pg_get_userbyid(c.relowner) from pg_class as c
                        where c.oid = target));
    end if;
    execute format(
        'insert into %s (batch, row_key, losers, keepers)'
        ' select s."~b", %L::name[], array_agg(s."~l"), array_agg(s."~k")'
        ' from (select d."~l", d."~k", (row_number() over () - 1) / %s as "~b"'
        '       from (select %s as "~l", first_value(%s) over w as "~k",'
        '                    row_number() over w as "~n"'
        '             from %s window w as (partition by %s order by %s%s, "~part", "~row")) as d'
        '       where d."~n" > 1) as s'
        ' group by s."~b"',
        c_queue, c_columns, batch, c_json, c_json, c_rows.source, c_rows.peers, keep, E'\n');
    get diagnostics batches = row_count;
    return next;
end
$fn$;

comment on function ensure._queue_unique_v1(regclass, text[], text, boolean, text, integer, text) is
    'The duplicates there are, in batches of rows that go with rows that stay.';

-- migrate:down
drop function ensure._queue_unique_v1(regclass, text[], text, boolean, text, integer, text);
drop function ensure._look_queue_v1(regclass, text);
drop function ensure._queue_name_v1(regclass, text);
