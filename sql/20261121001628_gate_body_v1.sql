-- migrate:up
create function ensure._gate_mark_v1(
    unique_key ensure._unique_key_v1,
    gate text,
    support oid
)
returns text
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_mark_v1: what a gate is made for beside its key, as hex digits in its text.
select md5(concat_ws(E'\n', gate, unique_key.target::regclass,
                     ensure._gate_same_v1(unique_key, support),
                     ensure._gate_hash_v1(unique_key, support),
                     array(select a.attname from pg_attribute as a
                           where a.attrelid = unique_key.target and a.attnum > 0
                             and not a.attisdropped
                           order by a.attnum)))
$fn$;

comment on function ensure._gate_mark_v1(ensure._unique_key_v1, text, oid) is
    'What a gate is made for beside its key, as hex digits in its text.';

create function ensure._gate_body_v1(
    unique_key ensure._unique_key_v1,
    gate text,
    gate_name text,
    support oid,
    index_name name
)
returns text
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_body_v1: the body of the trigger function that refuses or skips new duplicates.
declare
    c_table constant record := (
        select t from (select n.nspname as schema, c.relname as name, c.relkind as kind
                       from pg_class as c
                       join pg_namespace as n on n.oid = c.relnamespace
                       where c.oid = unique_key.target) as t);
    c_places constant integer := cardinality(unique_key.expressions);
    c_new constant text := (select string_agg(format('v_new."~%s"', p), ', ')
                            from generate_series(1, c_places) as p);
    c_key constant text := (
        select string_agg(format('%s as "~%s"', e.expression, e.place), ', ' order by e.place)
        from unnest(unique_key.expressions) with ordinality as e (expression, place));
    c_share constant text := format('for share of %I', c_table.name);
begin
    return format($gate$
#variable_conflict use_column
-- Made by plan_unique_v1, which takes it away: until the unique index is valid, it %1$s new
-- duplicates. The hashes of new keys are in a table of their own, whose index makes the second of
-- two writers with equal keys wait for the first, then see its row. %23$s
declare
    v_new record;
    v_old record;
    v_index record;
    v_found boolean;
begin
    if tg_relid <> %2$L::regclass%3$s then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'this trigger function is for another table',
            hint = 'Drop the trigger.';
    end if;
    if current_setting('ensure.sweep', true) = 'on' then
        return new;
    end if;
    begin%4$s
        select %5$s into v_new from (select new.*) as %6$I;
    exception when undefined_column then
        if not %21$L::name[] <@ array(select a.attname from pg_attribute as a
                                      where a.attrelid = %2$L::regclass and not a.attisdropped) then
            return new; -- a column is gone, and with it what there was to look at
        end if;
        raise;
    end;%7$s
    if tg_op = 'UPDATE' then
        perform from (select old.*) as %6$I where %8$s;
        if found then
            select %5$s into v_old from (select old.*) as %6$I;
            if %9$s then
                return new;
            end if;
        end if;
    end if;
    %10$s
    v_found := v_old."~still";
    if not v_found then -- locked, changed or deleted, now or once
        begin
            %18$s
            v_found := v_old."~still";
            raise exception using errcode = 'NS100'; -- gives the lock back
        exception when sqlstate 'NS100' then
            null;
        end;
    end if;
    if v_found is not true then
        -- A version of its own, so that whoever has an older snapshot gets 40001.
        insert into %11$s as h (key_hash) values (%12$s)
        on conflict (key_hash) do update set key_hash = excluded.key_hash
        where h.xmin <> pg_current_xact_id()::xid;
        %19$s
        if v_old."~still" is null then
            return new;
        end if;
    end if;
    -- index:%20$s
    -- :index
    if tg_op = 'INSERT' then
        -- others:%13$s
        -- :others%14$s
        null;
    end if;
    raise exception using
        errcode = 'unique_violation',
        schema = %15$L, table = %16$L, constraint = %22$L,
        message = format('duplicate key value violates unique constraint "%%s", which is not'
                         ' built yet', %22$L),
        detail = format('Key: %%s.', row(%17$s)),
        hint = 'The row is there already; plan_unique_v1 is at work on the table.';
end
$gate$,
        case gate when 'skip' then 'skips' else 'refuses' end, unique_key.target::regclass,
        case when c_table.kind = 'p' then format(
            E'\n       and not exists (select from pg_partition_ancestors(tg_relid) as a'
            ' where a.relid = %L::regclass)', unique_key.target::regclass) end,
        case when unique_key.predicate is not null
             then format(E'\n        perform from (select new.*) as %I where (%s\n        );'
                         '\n        if not found then\n            return new;\n        end if;',
                         c_table.name, unique_key.predicate) end,
        c_key, c_table.name,
        case when not unique_key.nulls_equal and true = any (unique_key.nullable)
             then format(E'\n    if num_nulls(%s) > 0 then\n        return new;\n    end if;',
                         c_new) end,
        coalesce('(' || unique_key.predicate || E'\n        )', 'true'),
        ensure._gate_same_v1(unique_key, support),
        ensure._gate_look_v1(unique_key, support,
                             format('%I.xmax = 0 as "~still"', c_table.name), null),
        format('%I.%I', c_table.schema, format('ensure_gate_%s', gate_name)),
        ensure._gate_hash_v1(unique_key, support),
        ensure._gate_passes_v1(unique_key.target),
        case gate when 'skip' then ensure._gate_skips_v1(unique_key.target) end,
        c_table.schema, c_table.name, c_new,
        ensure._gate_look_v1(unique_key, support, 'true as "~still"', c_share || ' skip locked'),
        ensure._gate_look_v1(unique_key, support, 'true as "~still"', c_share),
        ensure._gate_index_v1(unique_key, support),
        array(select a.attname from pg_attribute as a
              where a.attrelid = unique_key.target and a.attnum > 0 and not a.attisdropped
              order by a.attnum),
        index_name, ensure._gate_mark_v1(unique_key, gate, support));
end
$fn$;

comment on function ensure._gate_body_v1(ensure._unique_key_v1, text, text, oid, name) is
    'The body of the trigger function that refuses or skips new duplicates.';

-- migrate:down
drop function ensure._gate_body_v1(ensure._unique_key_v1, text, text, oid, name);
drop function ensure._gate_mark_v1(ensure._unique_key_v1, text, oid);
