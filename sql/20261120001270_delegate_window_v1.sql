-- migrate:up
create type ensure._window_v1 as (
    value_type text, -- what the key is compared as
    value text,      -- the key as that, an SQL expression
    earliest text,   -- SQL expressions of the limits; they may call now()
    latest text,
    below text,      -- operators
    above text,
    collation_of text,
    shown text       -- a format for a limit in a message
);

comment on type ensure._window_v1 is
    'The keys that a delegate serves, as SQL expressions.';

create function ensure._window_limit_v1(
    argument text,
    limit_value text,
    key_type regtype,
    key_typmod integer,
    zone text,
    epoch text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _window_limit_v1: the SQL expression of one limit of keys of a range: a number, a time, or now().
--
-- Errors   22023  not understood, or a zone that is none
--          22003, 22007, 22008  as of _number_point_v1 and _time_point_v1
-- Races    none; the public function has pinned DateStyle ISO and TimeZone UTC
declare
    c_ends constant numeric[] := ensure._key_ends_v1(key_type, key_typmod);
    v_unit constant numeric := case when epoch = 'ns' then 1000000000
                                    when epoch = 'us' then 1000000
                                    when epoch = 'ms' or key_type = 'uuid'::regtype then 1000
                                    when epoch = 's' then 1 end;
    c_plain constant boolean := key_type in ('date'::regtype, 'timestamp'::regtype);
    v_point timestamptz;
    v_limit text;
begin
    if v_unit is null and (ensure._integer_end_v1(key_type) is not null
                           or key_type = 'numeric'::regtype)
       or epoch is not null and limit_value ~ '^\s*[+-]?\d+(\.\d*)?\s*$' then
        return format('%L::%s', trim_scale(ensure._number_point_v1(argument, limit_value, key_type,
                                                                   c_ends)),
                      case when v_unit is null then key_type::text else 'numeric' end);
    end if;
    perform ensure._is_zone_v1(zone);
    if limit_value ~* '^\s*[+-]?\d{1,9}\s*(sec(ond)?s?|min(ute)?s?'
                      '|(hour|day|week|mon|month|year)s?)\s*$' then
        begin
            perform now() + limit_value::interval;
        exception when datetime_field_overflow or interval_field_overflow then
            raise exception using
                errcode = 'datetime_field_overflow',
                message = format('%s "%s" from now is out of range', argument, limit_value),
                hint = 'Use a shorter interval.';
        end;
        v_limit := case when c_plain
            then format('(now() at time zone %L + %L::interval)::%s', zone, limit_value::interval,
                        key_type)
            else format('(now() + %L::interval)', limit_value::interval) end;
    elsif limit_value ~* '\d\s+[a-z]{3,}' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s "%s" is not one number and one unit', argument, limit_value),
            hint = 'For an interval from now write ''-7 days'' or ''3 months''; units are seconds,'
                   ' minutes, hours, days, weeks, months, years.';
    else
        v_point := ensure._time_point_v1(argument, limit_value, zone, key_type, v_unit, c_ends);
        v_limit := case when c_plain
            then format('%L::%s', case when key_type = 'date'::regtype
                                       then (v_point at time zone 'UTC')::date::text
                                       else (v_point at time zone 'UTC')::text end, key_type)
            else format('%L::timestamptz', v_point) end;
    end if;
    return case when v_unit is null then v_limit
                else format('extract(epoch from %s) * %s', v_limit, v_unit) end;
end
$fn$;

comment on function ensure._window_limit_v1(text, text, regtype, integer, text, text) is
    'The SQL expression of one limit of keys of a range: a number, a time, or now().';

create function ensure._range_window_v1(
    key_type regtype,
    key_typmod integer,
    step text,
    earliest text,
    latest text,
    zone text,
    origin text,
    epoch text
)
returns ensure._window_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _range_window_v1: the window of a key of a range; step, zone, origin and epoch serve its start.
--
-- Errors   as of _window_limit_v1 and _grid_v1
declare
    c_low constant text := ensure._window_limit_v1('earliest', earliest, key_type, key_typmod, zone,
                                                   epoch);
    c_high constant text := ensure._window_limit_v1('latest', latest, key_type, key_typmod, zone,
                                                    epoch);
    c_uuid constant boolean := key_type = 'uuid'::regtype;
    v_first text;
begin
    execute format(case when c_uuid then 'select to_timestamp((%s) / 1000)::text'
                        when epoch is not null then 'select ceil(%s)::text'
                        else 'select (%s)::text' end, c_low)
    into v_first;
    perform ensure._grid_v1(key_type, key_typmod, step, v_first, v_first, 0, zone, origin, epoch);
    return row (
        case when c_uuid or epoch is not null then 'numeric' else key_type::text end,
        case when c_uuid
             then 'concat(''x'', left(replace(key::text, ''-'', ''''), 12))::bit(48)::bigint'
             else 'key' end,
        c_low, c_high, 'pg_catalog.<', 'pg_catalog.>', '',
        case when c_uuid or epoch is not null
             then format('to_timestamp(%%s / %s)', case epoch when 'ns' then 1000000000
                                                              when 'us' then 1000000
                                                              when 's' then 1 else 1000 end)
             else '%s' end)::ensure._window_v1;
end
$fn$;

comment on function ensure._range_window_v1(regtype, integer, text, text, text, text, text, text) is
    'The window of a key of a range; step, zone, origin and epoch serve its start.';

create function ensure._list_window_v1(
    parent regclass,
    key_type regtype,
    earliest text,
    latest text
)
returns ensure._window_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _list_window_v1: the window of a key of a list, in the order of its operator class and collation.
--
-- Errors   0A000  a type whose checks are somebody's functions, or whose meaning is a setting
--          22023  a limit is not of the key's type
declare
    c_type constant text := format_type(key_type, -1); -- bpchar; character would be one character
    v_window ensure._window_v1;
    v_problem text;
begin
    if not exists (select from pg_type as t
                   where t.oid = key_type and t.oid not in ('money'::regtype, 'bpchar'::regtype,
                                                            'bit'::regtype)
                     and (t.typtype = 'e' or t.typtype = 'b' and t.typcategory <> 'A')) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('keys of type %s cannot be delegated', key_type),
            detail = 'What checks or reads them could run with the rights of the owner, or their'
                     ' text is not the value.',
            hint = 'The key must be of a base type other than money, character and bit, or an'
                   ' enum.';
    end if;
    begin
        execute format('select %2$L::%1$s::text, %3$L::%1$s::text', c_type, earliest, latest)
        into v_window.earliest, v_window.latest;
    exception when data_exception then
        get stacked diagnostics v_problem = message_text;
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('earliest or latest is not of type %s', key_type),
            detail = format('%s.', v_problem),
            hint = format('The partition key is of type %s.', key_type);
    end;
    select format('%I.%s', n.nspname, b.oprname), format('%I.%s', m.nspname, a.oprname),
           case when l.oid is null then '' else format(' collate %I.%I', s.nspname, l.collname) end
    into strict v_window.below, v_window.above, v_window.collation_of
    from pg_partitioned_table as p
    join pg_opclass as o on o.oid = p.partclass[0]
    join pg_amop as x on x.amopfamily = o.opcfamily and x.amoplefttype = o.opcintype
                     and x.amoprighttype = o.opcintype and x.amopstrategy = 1
    join pg_operator as b on b.oid = x.amopopr
    join pg_namespace as n on n.oid = b.oprnamespace
    join pg_amop as y on y.amopfamily = o.opcfamily and y.amoplefttype = o.opcintype
                     and y.amoprighttype = o.opcintype and y.amopstrategy = 5
    join pg_operator as a on a.oid = y.amopopr
    join pg_namespace as m on m.oid = a.oprnamespace
    left join pg_collation as l on l.oid = p.partcollation[0]
    left join pg_namespace as s on s.oid = l.collnamespace
    where p.partrelid = parent;
    v_window.earliest := format('%L::%s', v_window.earliest, c_type);
    v_window.latest := format('%L::%s', v_window.latest, c_type);
    v_window.value_type := c_type;
    v_window.value := 'key';
    v_window.shown := '%s';
    return v_window;
end
$fn$;

comment on function ensure._list_window_v1(regclass, regtype, text, text) is
    'The window of a key of a list, in the order of its operator class and collation.';

create function ensure._check_window_v1(
    requested ensure._window_v1
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_window_v1: the limits are in order, as far as they move together.
--
-- Errors   22023  they are not
declare
    v_low text;
    v_high text;
    v_swapped boolean;
begin
    execute format('select (%1$s)::text, (%2$s)::text, (%1$s) operator(%3$s) (%2$s)%4$s',
                   requested.earliest, requested.latest, requested.above, requested.collation_of)
    into v_low, v_high, v_swapped;
    if v_swapped and (strpos(requested.earliest, 'now()') > 0)
                     = (strpos(requested.latest, 'now()') > 0) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'earliest lies after latest',
            detail = format('earliest is %s, latest is %s.', v_low, v_high),
            hint = 'Swap them; both limits are included.';
    end if;
end
$fn$;

comment on function ensure._check_window_v1(ensure._window_v1) is
    'The limits are in order, as far as they move together.';

-- migrate:down
drop function ensure._check_window_v1(ensure._window_v1);
drop function ensure._list_window_v1(regclass, regtype, text, text);
drop function ensure._range_window_v1(regtype, integer, text, text, text, text, text, text);
drop function ensure._window_limit_v1(text, text, regtype, integer, text, text);
drop type ensure._window_v1;
