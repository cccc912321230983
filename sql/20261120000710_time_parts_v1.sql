-- migrate:up
create function ensure._time_step_v1(
    step text,
    key_type regtype
)
returns bigint[]
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_step_v1: the months, days and microseconds of one positive number and one unit.
--
-- Errors   22023  step is anything else, or shorter than a day for a key of dates
--          22008  longer than times go
declare
    v_unit constant text := left(lower(ltrim(step, E' \t\n0123456789')), 3);
    v_count bigint;
begin
    if step !~* '^\s*\d{1,9}\s*(sec(ond)?s?|min(ute)?s?|(hour|day|week|mon|month|quarter|year)s?'
                '|decades?|century|centuries)\s*$'
       or step ~ '^\s*0+\D' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is not one positive number and one unit', step),
            hint = format('For a key of type %s write ''1 day'' or ''3 months''; units are seconds,'
                          ' minutes, hours, days, weeks, months, quarters, years, decades,'
                          ' centuries.', key_type);
    end if;
    if key_type = 'date'::regtype and v_unit in ('sec', 'min', 'hou') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is too short for a key of type date', step),
            hint = 'Use ''1 day'' or longer.';
    end if;
    v_count := substring(step from '\d+')::bigint
               * case v_unit when 'mon' then 1 when 'qua' then 3 when 'yea' then 12
                             when 'dec' then 120 when 'cen' then 1200 when 'day' then 1
                             when 'wee' then 7 when 'hou' then 3600 when 'min' then 60 else 1
                 end;
    if v_unit in ('mon', 'qua', 'yea', 'dec', 'cen') and v_count < 3600000 then
        return array[v_count, 0, 0];
    elsif v_unit in ('day', 'wee') and v_count < 109000000 then
        return array[0, v_count, 0];
    elsif v_unit in ('sec', 'min', 'hou') and v_count < 9000000000000 then
        return array[0, 0, v_count * 1000000];
    end if;
    raise exception using
        errcode = 'datetime_field_overflow',
        message = format('step "%s" is out of range', step),
        hint = 'Use a step of less than 290000 years.';
end
$fn$;

comment on function ensure._time_step_v1(text, regtype) is
    'The months, days and microseconds of one positive number and one unit.';

create function ensure._is_zone_v1(
    zone text
)
returns boolean
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _is_zone_v1: zone is the full name of a time zone.
--
-- Returns  true
-- Errors   22023  it is not
begin
    -- 'UTC+3' means the opposite of what one reads, what 'IST' means is a setting, and an unknown
    -- name with digits at its end is a zone with that offset.
    if zone !~ '^(UTC|GMT|Etc/GMT(0|\+\d|\+1[0-2]|-\d|-1[0-4])|[A-Za-z_]+(/[A-Za-z_-]+)+)$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('zone "%s" is not the full name of a time zone', zone),
            hint = 'Use a name such as ''UTC'' or ''Europe/Berlin''; pg_timezone_names has them.';
    end if;
    return now() at time zone zone is not null;
end
$fn$;

comment on function ensure._is_zone_v1(text) is
    'Zone is the full name of a time zone.';

create function ensure._time_point_v1(
    argument text,
    value text,
    zone text,
    key_type regtype,
    unit numeric,
    ends numeric[]
)
returns timestamptz
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_point_v1: the point in time that an ISO text, a number of units since 1970 or a uuid means.
--
-- Returns  keys without a zone are taken for UTC, text without an offset is read in zone; midnight
--          of the day for keys of dates; for keys that count, what a microsecond does not hold is
--          cut off
-- Errors   22007  none of the three
--          22023  a uuid of a version other than 7, a fraction for an integer
--          22003, 22008  outside the type, or what uuids and timestamps can express
declare
    v_value text := value;
    v_number numeric;
    v_point timestamptz;
    v_has_offset boolean;
begin
    if value ~ '^\d{4,6}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?\s*'
               '(Z|[+-]\d\d(:?\d\d){0,2})?)?( BC)?$' then
        if unit is not null then -- rounded, the last nanoseconds of a cell would be in the next
            v_value := regexp_replace(value, '(\.\d{6})\d+', '\1');
        end if;
        v_has_offset := strpos(value, ':') > 0 and substr(value, strpos(value, ':')) ~ '[Z+-]';
        if key_type = 'timestamptz'::regtype or unit is not null then
            v_point := case when v_has_offset then v_value::timestamptz
                            else v_value::timestamp at time zone zone end;
        else
            v_point := case when v_has_offset then v_value::timestamptz at time zone zone
                            else v_value::timestamp end at time zone 'UTC';
        end if;
        if key_type = 'date'::regtype then
            v_point := date_trunc('day', v_point);
        end if;
        v_number := floor(extract(epoch from v_point) * unit);
    elsif key_type = 'uuid'::regtype
          and value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        if value !~* '^.{14}7.{4}[89ab]' then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('%s "%s" is not a uuid of version 7', argument, value),
                hint = 'Only version 7 is ordered by time; pass such a uuid, or a time.';
        end if;
        v_number := ('x' || replace(left(value, 13), '-', ''))::bit(48)::bigint;
    elsif unit is not null and key_type <> 'uuid'::regtype
          and value ~ '^\s*[+-]?\d+(\.\d*)?\s*$' then
        v_number := value::numeric;
        if key_type <> 'numeric'::regtype and v_number <> trunc(v_number) then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('%s "%s" is not a whole number', argument, value),
                hint = format('The partition key is of type %s.', key_type);
        elsif argument <> 'origin' then
            v_number := coalesce(round(v_number, ends[3]::integer), v_number);
        end if;
    else
        raise exception using
            errcode = 'invalid_datetime_format',
            message = format('%s "%s" is not an ISO date or time', argument, value),
            hint = format('For a key of type %s write ''2026-01-31'''
                          ' or ''2026-01-31 12:00:00+00''%s.', key_type,
                          case when key_type = 'uuid'::regtype then ', or a uuid of version 7'
                               when unit is not null then ', or a number counted from 1970' end);
    end if;

    if v_number < ends[1] or v_number > ends[2]
       or (v_point is null and (v_number < -210866803200 * unit
                                or v_number >= 9224318016000 * unit)) then
        raise exception using
            errcode = case when key_type <> 'uuid'::regtype
                                and (v_number < ends[1] or v_number > ends[2])
                           then '22003' else '22008' end,
            message = format('%s "%s" is out of range for times in a key of type %s', argument,
                             value, key_type),
            hint = 'No time that the key can have has this value; check the unit it counts.';
    end if;
    if v_point is null then
        v_number := floor(v_number * (1000000 / unit));
        v_point := timestamptz '1970-01-01 00:00:00+00'
                   + make_interval(days => div(v_number, 86400000000)::integer)
                   + mod(v_number, 86400000000)::bigint * interval '1 microsecond';
    end if;
    return v_point;
end
$fn$;

comment on function ensure._time_point_v1(text, text, text, regtype, numeric, numeric[]) is
    'The point in time that an ISO text, a number of units since 1970 or a uuid means.';

create function ensure._time_wall_v1(
    n bigint,
    origin timestamp,
    months bigint,
    days bigint,
    micros bigint
)
returns timestamp
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_wall_v1: origin and n steps, on the clock of the grid.
begin
    if micros = 0 then
        return origin + make_interval(months => (n * months)::integer, days => (n * days)::integer);
    end if;
    return origin + make_interval(days => div(n::numeric * micros, 86400000000)::integer)
                  + mod(n::numeric * micros, 86400000000)::bigint * interval '1 microsecond';
end
$fn$;

comment on function ensure._time_wall_v1(bigint, timestamp, bigint, bigint, bigint) is
    'Origin and n steps, on the clock of the grid.';

create function ensure._time_text_v1(
    point timestamptz,
    key_type regtype,
    key_typmod integer,
    unit numeric,
    ends numeric[]
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_text_v1: a bound as PostgreSQL prints it, MINVALUE or MAXVALUE outside the type.
--
-- Errors   22023  finer than the key
declare
    v_number numeric := extract(epoch from point) * coalesce(unit, 1);
    v_hex text;
begin
    if v_number <> round(v_number, case when unit is not null then least(0, ends[3])::integer
                                        when key_typmod >= 0 then key_typmod else 6 end) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('bound %s has no place in a key of type %s', point,
                             format_type(key_type, key_typmod)),
            hint = 'Use an origin that the key can hold, such as a whole second.';
    end if;
    if unit is null then
        return case key_type when 'timestamptz'::regtype then point::text
                             when 'timestamp'::regtype then point::timestamp::text
                             else point::date::text end;
    elsif v_number < ends[1] then
        return 'MINVALUE';
    elsif v_number > ends[2] then
        return 'MAXVALUE';
    elsif key_type = 'uuid'::regtype then
        v_hex := lpad(to_hex(v_number::bigint), 12, '0');
        return format('%s-%s-0000-0000-000000000000', left(v_hex, 8), right(v_hex, 4));
    end if;
    return round(v_number, coalesce(ends[3], 0)::integer);
end
$fn$;

comment on function ensure._time_text_v1(timestamptz, regtype, integer, numeric, numeric[]) is
    'A bound as PostgreSQL prints it, MINVALUE or MAXVALUE outside the type.';

create function ensure._time_label_v1(
    wall timestamp,
    months bigint,
    days bigint,
    micros bigint
)
returns text
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_label_v1: the lower bound at the coarsest precision that it and the step need.
--
-- Returns  2026, 2026_11, 2026_11_20, …_13, …_1330, …_133005 and digits of a fraction; then bc
declare
    v_label text;
begin
    if days > 0 or micros > 0 or wall <> date_trunc('month', wall) then
        if micros = 0 and wall = date_trunc('day', wall) then
            v_label := to_char(wall, 'YYYY_MM_DD');
        elsif micros % 3600000000 = 0 and wall = date_trunc('hour', wall) then
            v_label := to_char(wall, 'YYYY_MM_DD_HH24');
        elsif micros % 60000000 = 0 and wall = date_trunc('minute', wall) then
            v_label := to_char(wall, 'YYYY_MM_DD_HH24MI');
        elsif wall = date_trunc('second', wall) then
            v_label := to_char(wall, 'YYYY_MM_DD_HH24MISS');
        else
            v_label := rtrim(to_char(wall, 'YYYY_MM_DD_HH24MISSUS'), '0');
        end if;
    elsif months % 12 > 0 or wall <> date_trunc('year', wall) then
        v_label := to_char(wall, 'YYYY_MM');
    else
        v_label := to_char(wall, 'YYYY');
    end if;
    if wall < '0001-01-01' then
        return concat(v_label, 'bc');
    end if;
    return v_label;
end
$fn$;

comment on function ensure._time_label_v1(timestamp, bigint, bigint, bigint) is
    'The lower bound at the coarsest precision that it and the step need.';

create function ensure._steps_between_v1(
    earlier timestamp,
    later timestamp,
    months bigint,
    days bigint,
    micros bigint
)
returns bigint
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _steps_between_v1: how many whole steps there are from earlier to later, or one more or less.
begin
    if months > 0 then -- there is no year 0
        return floor(((extract(year from later) + (later < '0001-01-01')::integer
                       - extract(year from earlier) - (earlier < '0001-01-01')::integer) * 12
                      + extract(month from later) - extract(month from earlier)) / months);
    end if;
    return floor(extract(epoch from later - earlier) * 1000000 / (days * 86400000000.0 + micros));
end
$fn$;

comment on function ensure._steps_between_v1(timestamp, timestamp, bigint, bigint, bigint) is
    'How many whole steps there are from earlier to later, or one more or less.';

-- migrate:down
drop function ensure._steps_between_v1(timestamp, timestamp, bigint, bigint, bigint);
drop function ensure._time_label_v1(timestamp, bigint, bigint, bigint);
drop function ensure._time_text_v1(timestamptz, regtype, integer, numeric, numeric[]);
drop function ensure._time_wall_v1(bigint, timestamp, bigint, bigint, bigint);
drop function ensure._time_point_v1(text, text, text, regtype, numeric, numeric[]);
drop function ensure._is_zone_v1(text);
drop function ensure._time_step_v1(text, regtype);
