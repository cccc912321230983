-- migrate:up
create function ensure._condition_v1(
    kind "char",
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[]
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _condition_v1: the SQL condition of rows that belong into one of these cells.
declare
    v_terms text[] := '{}';
    v_low text;
begin
    if kind = 'l' then
        return format('(%1$I = any (%2$L::%3$s[])%4$s)', key_column,
                      array_remove(lower_bounds, null), format_type(key_type, -1),
                      case when array_position(lower_bounds, null) is not null
                           then format(' or %I is null', key_column) end);
    end if;
    for v_at in 1 .. cardinality(lower_bounds) loop
        v_low := coalesce(v_low, lower_bounds[v_at]);
        if upper_bounds[v_at] is distinct from lower_bounds[v_at + 1] then -- one term for a run
            v_terms := v_terms || concat_ws(
                ' and ', format('%I is not null', key_column),
                case when v_low <> 'MINVALUE'
                     then format('%I >= %L::%s', key_column, v_low, key_type) end,
                case when upper_bounds[v_at] <> 'MAXVALUE'
                     then format('%I < %L::%s', key_column, upper_bounds[v_at], key_type) end);
            v_low := null;
        end if;
    end loop;
    return format('(%s)', array_to_string(v_terms, ' or '));
end
$fn$;

comment on function ensure._condition_v1("char", name, regtype, text[], text[]) is
    'The SQL condition of rows that belong into one of these cells.';

create function ensure._check_default_v1(
    parent regclass,
    condition text,
    partitions integer,
    move boolean,
    max_block interval,
    wait integer,
    until timestamptz
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_default_v1: whether rows of the default partition, if there is one, have to be moved.
--
-- Errors   NS004  it holds rows and move is false; or it takes longer than max_block to be read
--                 once for each new partition: ATTACH does that while it holds ACCESS EXCLUSIVE
--          0A000  rows cannot be moved: a foreign key points at them, or it is partitioned itself
--          25000  rows cannot be moved: this transaction may not see them all
--          55P03  it is locked: not to be had within wait milliseconds; TABLE_NAME names it
-- Locks    ACCESS SHARE on the default partition, given back before returning
declare
    c_limit constant interval := greatest(max_block, '20 ms');
    v_default regclass;
    v_key name;
    v_bounds text[];
    v_rows bigint;
    v_begin timestamptz;
    v_took interval;
    v_reason text;
begin
    select p.partdefid into v_default
    from pg_partitioned_table as p
    where p.partrelid = parent
      and has_table_privilege(p.partdefid, 'SELECT') is not null; -- null: none, or gone by now
    if not found then
        return false;
    end if;

    begin
        perform ensure._take_locks_v1(array[v_default], '{access share}', v_default, wait, until);
        for v_try in 1 .. 3 loop -- the shortest time counts: a busy machine is not a large table
            v_begin := clock_timestamp();
            execute format('select count(*) from %s as d where %s', v_default, condition)
            into v_rows;
            v_took := least(v_took, (clock_timestamp() - v_begin) * partitions);
            exit when v_took <= c_limit or clock_timestamp() > until;
        end loop;
        if v_rows > 0 then
            select a.attname into v_key
            from pg_attribute as a
            join pg_partitioned_table as p on p.partrelid = a.attrelid
                                          and p.partattrs[0] = a.attnum
            where a.attrelid = parent;
            execute format('select array[(select %1$I::text from %2$s where %3$s'
                           ' order by %1$I limit 1), (select %1$I::text from %2$s where %3$s'
                           ' order by %1$I desc limit 1)]', v_key, v_default, condition)
            into v_bounds;
        end if;
        raise exception using errcode = 'NS100';
    exception
        when sqlstate 'NS100' then
            null; -- the lock has gone with the subtransaction
        when insufficient_privilege then
            return false; -- ATTACH reads it with rights of its own, and refuses when it holds rows
    end;

    if v_rows > 0 and not move then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" holds rows that belong in a new'
                             ' partition', v_default, parent),
            detail = format('Rows: %s, keys from %s to %s.', v_rows, v_bounds[1], v_bounds[2]),
            hint = 'Call ensure_partitions_v1, or for a list ensure_list_partitions_v1, with'
                   ' move_default_rows => true, or move these rows out of the default partition'
                   ' by hand, then call again.';
    elsif v_took > c_limit then
        raise exception using
            errcode = 'NS004',
            message = format('default partition "%s" of "%s" cannot be read within max_block',
                             v_default, parent),
            detail = format('Once for each of %s partitions takes %s, others wait meanwhile;'
                            ' max_block is %s.', partitions, v_took, max_block),
            hint = 'Ask for fewer at a time, empty or detach the default partition,'
                   ' or raise max_block.';
    elsif v_rows = 0 then
        return false;
    elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'invalid_transaction_state',
            message = format('rows of default partition "%s" cannot be moved under %s', v_default,
                             upper(current_setting('transaction_isolation'))),
            detail = 'The snapshot of this transaction may not show all of them.',
            hint = 'Call in a transaction of its own under READ COMMITTED.';
    end if;
    select format('foreign key "%s" of "%s" points at its rows', k.conname, k.conrelid::regclass)
    into v_reason
    from pg_constraint as k
    where k.contype = 'f' and k.confrelid = v_default;
    if v_reason is null and (select c.relkind <> 'r' from pg_class as c where c.oid = v_default)
    then
        v_reason := 'it is no plain table';
    end if;
    if v_reason is not null then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('rows of default partition "%s" cannot be moved', v_default),
            detail = format('Rows: %s; %s.', v_rows, v_reason),
            hint = 'Move these rows by hand, for example by an UPDATE of the referencing rows'
                   ' first, then call again.';
    end if;
    return true;
end
$fn$;

comment on function ensure._check_default_v1(regclass, text, integer, boolean, interval, integer,
                                             timestamptz) is
    'Whether rows of the default partition, if there is one, have to be moved.';

create function ensure._move_rows_v1(
    parent regclass,
    target regclass,
    condition text,
    until timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _move_rows_v1: the rows of the default partition that meet condition are in target.
--
-- Errors   NS004  it takes longer than until: nothing is moved
-- Locks    the caller holds ACCESS EXCLUSIVE on parent, so that no reader plans without target
-- Races    no trigger fires: those of the default partition are off meanwhile
declare
    c_default constant regclass := (select p.partdefid from pg_partitioned_table as p
                                    where p.partrelid = parent);
    c_columns constant text := (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
        from pg_attribute as a
        where a.attrelid = target and a.attnum > 0 and a.attgenerated = '' and not a.attisdropped);
    v_triggers text[];
    v_rows bigint;
begin
    v_triggers := array(
        select format('alter table %s enable %s trigger %I', c_default,
                      case t.tgenabled when 'A' then 'always' when 'R' then 'replica' end,
                      t.tgname)
        from pg_trigger as t
        where t.tgrelid = c_default and t.tgenabled <> 'D'
          and (not t.tgisinternal
               or t.tgparentid <> 0 -- until 14 what ATTACH cloned is internal, and only that
                  and current_setting('server_version_num')::integer < 150000));
    if v_triggers <> '{}' then
        perform ensure._run_v1(format('alter table %s disable trigger user', c_default));
    end if;
    loop
        execute format($sql$
            with moved as (
                delete from only %1$s as d
                where d.ctid = any (array(select s.ctid from only %1$s as s where %2$s limit 5000))
                returning %3$s
            )
            insert into %4$s (%3$s) overriding system value
            select %3$s from moved
            $sql$, c_default, condition, c_columns, target);
        get diagnostics v_rows = row_count;
        exit when v_rows = 0;
        if clock_timestamp() > until then
            raise exception using
                errcode = 'NS004',
                message = format('rows of default partition "%s" cannot be moved within max_block',
                                 c_default),
                detail = 'Others wait while rows are moved; nothing has been changed.',
                hint = 'Ask for fewer partitions at a time, or raise max_block.';
        end if;
    end loop;
    for v_at in 1 .. cardinality(v_triggers) loop
        perform ensure._run_v1(v_triggers[v_at]);
    end loop;
end
$fn$;

comment on function ensure._move_rows_v1(regclass, regclass, text, timestamptz) is
    'The rows of the default partition that meet condition are in target.';

-- migrate:down
drop function ensure._move_rows_v1(regclass, regclass, text, timestamptz);
drop function ensure._check_default_v1(regclass, text, integer, boolean, interval, integer,
                                       timestamptz);
drop function ensure._condition_v1("char", name, regtype, text[], text[]);
