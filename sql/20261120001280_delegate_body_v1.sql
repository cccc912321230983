-- migrate:up
create type ensure._delegate_v1 as (
    parent regclass,
    schema_name name,
    function_name name,
    signature text,
    owner name,      -- of parent, and of the delegate
    grantee name,
    head text,       -- from FUNCTION to AS, as pg_get_functiondef prints it
    body text
);

comment on type ensure._delegate_v1 is
    'One delegate that is wanted.';

create function ensure._delegate_body_v1(
    wanted ensure._delegate_v1,
    requested ensure._window_v1,
    called text,
    key_argument text,
    pins text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _delegate_body_v1: the body of the delegate, which calls called with key_argument and pins.
begin
    return format($body$
-- %1$s: %2$s has its partition for key.
--
-- Made by  ensure.ensure_partition_delegate_v1; to change it, drop it and have it made again
-- Rights   runs as %3$s, who owns the table; role %4$s alone may execute it
-- Pinned   %5$s
-- Window   from %6$s to %7$s, both included
-- Errors   22003  key lies outside of the window
--          22004  key is null
--          42501  the table does not belong to the owner of this function
--          more   as of %8$s, without other sessions and rows in DETAIL
#variable_conflict use_column
declare
    c_earliest constant %9$s := %10$s;
    c_latest constant %9$s := %11$s;
    v_key constant %9$s := %12$s;
    v_code text;
    v_problem text;
    v_advice text;
begin
    if key is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'key must not be null',
            hint = 'Pass a key that is to be inserted.';
    elsif v_key operator(%13$s) c_earliest%15$s or v_key operator(%14$s) c_latest%15$s then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = %16$L,
            detail = format('The key is %%s, the window from %%s to %%s.', key, %17$s, %18$s),
            hint = %19$L;
    elsif exists (select from pg_class as c
                  where c.oid = %20$L::regclass
                    and pg_get_userbyid(c.relowner) <> current_user) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = %21$L,
            hint = 'Ask the owner of the table to have the delegate made again.';
    end if;
    return query
    select e.partition, e.lower_bound, e.upper_bound, e.outcome
    from %8$s(
             %20$L::regclass, %25$s => %26$s,
             %22$s) as e;
exception when lock_not_available or sqlstate 'NS003' or sqlstate 'NS004' then
    get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text,
                            v_advice = pg_exception_hint;
    raise exception using
        errcode = v_code,
        message = v_problem,
        detail = %23$L,
        hint = case v_code when 'NS004' then %24$L else v_advice end;
end
$body$,
        translate(quote_ident(wanted.function_name), E'\n\r', '  '),
        translate(wanted.parent::text, E'\n\r', '  '),
        translate(quote_ident(wanted.owner), E'\n\r', '  '),
        translate(quote_ident(wanted.grantee), E'\n\r', '  '),
        translate(pins, E'\n\r', '  '), -- a line break would end the comment
        translate(requested.earliest, E'\n\r', '  '),
        translate(requested.latest, E'\n\r', '  '),
        called, requested.value_type, requested.earliest, requested.latest, requested.value,
        requested.below, requested.above, requested.collation_of,
        format('key lies outside of the window of "%s"',
               translate(wanted.parent::text, E'\n\r', '  ')),
        format(requested.shown, 'c_earliest'), format(requested.shown, 'c_latest'),
        format('Ask role "%s", who owns the table: only the owner can have the delegate made again'
               ' with another window.', wanted.owner),
        wanted.parent,
        format('"%s" does not belong to the owner of its delegate',
               translate(wanted.parent::text, E'\n\r', '  ')),
        pins,
        format('Role "%s" sees more: call the function that this one calls.', wanted.owner),
        format('Ask role "%s" to take these rows out of the default partition.', wanted.owner),
        case key_argument when 'key' then 'from_value' else 'list_values' end, key_argument);
end
$fn$;

comment on function ensure._delegate_body_v1(ensure._delegate_v1, ensure._window_v1, text, text,
                                         text) is
    'The body of the delegate, which calls called with key_argument and pins.';

create function ensure._delegate_head_v1(
    wanted ensure._delegate_v1,
    key_type regtype
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _delegate_head_v1: all of the delegate but its body, as pg_get_functiondef prints it.
begin
    -- Pinned is what its caller could set to move tables, to shift times and limits, or to have a
    -- key or a literal read as another one.
    return format($head$FUNCTION %I.%I(key %s)
 RETURNS TABLE(partition regclass, lower_bound text, upper_bound text, outcome text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET default_tablespace TO ''
 SET default_table_access_method TO 'heap'
 SET "DateStyle" TO 'ISO, YMD'
 SET "IntervalStyle" TO 'postgres'
 SET "TimeZone" TO 'UTC'
 SET standard_conforming_strings TO 'on'
 SET quote_all_identifiers TO 'off'
 SET extra_float_digits TO '1'
 SET bytea_output TO 'hex'
$head$, wanted.schema_name, wanted.function_name, key_type);
end
$fn$;

comment on function ensure._delegate_head_v1(ensure._delegate_v1, regtype) is
    'All of the delegate but its body, as pg_get_functiondef prints it.';

create function ensure._wanted_delegate_v1(
    parent regclass,
    grantee name,
    step text,
    earliest text,
    latest text,
    zone text,
    origin text,
    epoch text,
    function_name name,
    max_wait interval,
    max_block interval
)
returns ensure._delegate_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _wanted_delegate_v1: the delegate that these arguments mean.
--
-- Errors   22004, 22023, 42704  an argument is null that must not be, or the other way round; no
--          such role
--          42809, 0A000 and others  as of _partition_key_v1, _range_window_v1 and _list_window_v1
declare
    c_list constant boolean := pg_get_partkeydef(parent) like 'LIST%';
    v_key record;
    v_wanted ensure._delegate_v1;
    v_window ensure._window_v1;
begin
    perform ensure._partition_key_v1(parent, 'd'); -- says RANGE or LIST for others
    select k.* into strict v_key
    from ensure._partition_key_v1(parent, case when c_list then 'l'::"char" else 'r' end) as k;
    if num_nulls(grantee, zone, case when c_list then '' else step end) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'grantee and zone must not be null, nor step for a range',
            hint = 'Name the role that is to call the delegate, and the step of the partitions.';
    elsif num_nulls(earliest, latest) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'earliest and latest must not be null',
            hint = 'Without a window the role could create partitions without limit; for a time key'
                   ' pass for example earliest => ''-7 days'', latest => ''90 days''.';
    elsif c_list and num_nonnulls(step, origin, epoch) > 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" is partitioned by list: no step, origin or epoch', parent),
            hint = 'Leave step, origin and epoch out.';
    elsif function_name = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'function_name must not be empty',
            hint = 'Leave it out to get the default.';
    elsif to_regrole(quote_ident(grantee)) is null then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', grantee),
            hint = 'Create the role first, or name another one.';
    end if;
    v_window := case when c_list
        then ensure._list_window_v1(parent, v_key.key_type, earliest, latest)
        else ensure._range_window_v1(v_key.key_type, v_key.key_typmod, step, earliest, latest, zone,
                                     origin, epoch) end;
    perform ensure._check_window_v1(v_window);

    v_wanted.parent := parent;
    v_wanted.schema_name := v_key.schema_name;
    v_wanted.function_name := coalesce(function_name, (ensure._partition_names_v1(
        v_key.table_name, grantee, null, format('ensure_for_%s', grantee)))[1]);
    v_wanted.signature := format('%I.%I(%s)', v_key.schema_name, v_wanted.function_name,
                                 v_key.key_type);
    v_wanted.owner := pg_get_userbyid(v_key.owner);
    v_wanted.grantee := grantee;
    v_wanted.head := ensure._delegate_head_v1(v_wanted, v_key.key_type);
    v_wanted.body := ensure._delegate_body_v1(
        v_wanted, v_window,
        case when c_list then 'ensure.ensure_list_partitions_v1' else 'ensure.ensure_partitions_v1'
        end,
        case when c_list then 'array[key]' else 'key' end,
        concat_ws(', ',
                  case when not c_list
                       then format('step => %L, zone => %L, origin => %L, epoch => %L, ahead => 0,'
                                   ' regrid => false', step, zone, origin, epoch) end,
                  format('max_wait => %L, max_block => %L, move_default_rows => false,'
                         ' template => null', max_wait, max_block)));
    return v_wanted;
end
$fn$;

comment on function ensure._wanted_delegate_v1(regclass, name, text, text, text, text, text, text,
                                               name, interval, interval) is
    'The delegate that these arguments mean.';

-- migrate:down
drop function ensure._wanted_delegate_v1(regclass, name, text, text, text, text, text, text, name,
                                         interval, interval);
drop function ensure._delegate_head_v1(ensure._delegate_v1, regtype);
drop function ensure._delegate_body_v1(ensure._delegate_v1, ensure._window_v1, text, text,
                                         text);
drop type ensure._delegate_v1;
