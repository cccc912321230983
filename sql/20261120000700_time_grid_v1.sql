-- migrate:up
create function ensure._time_grid_v1(
    key_type regtype,
    step text,
    from_value text,
    until_value text,
    ahead integer,
    zone text,
    origin text
)
returns table (lower_bound text, upper_bound text, label text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_grid_v1: the cells of a time grid that meet [from_value, until_value], by default now.
--
-- Returns  in order, and ahead more. Bounds are one function of n, so neighbours share them.
--          Days and longer are counted on the clock of zone, shorter steps in UTC; keys without a
--          zone on their own clock. Origin is 2000-01-01, for days and weeks Monday 2000-01-03.
-- Errors   22023  step is not one positive number and one unit, too short; from after until; zone
--          22007  a value is not an ISO date or time
--          22008  a bound of the grid is out of range
--          54000  more than 1000 cells
-- Races    none; the public function has pinned DateStyle ISO and TimeZone UTC
declare
    v_step interval;
    v_months bigint;
    v_days bigint;
    v_micros bigint;
    v_clock text := 'UTC';
    v_origin timestamp;
    v_from timestamp;
    v_until timestamp;
    v_first bigint;
    v_last bigint;
    v_at bigint;
    v_low timestamp;
    v_high timestamp;
    v_wall timestamp;
    v_ahead integer := 0;
begin
    if step !~* '^\s*\d{1,9}\s*(sec(ond)?s?|min(ute)?s?|(hour|day|week|mon|month|year|decade)s?'
                 '|century|centuries)\s*$'
       or step ~ '^\s*0+\D' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is not one positive number and one unit', step),
            hint = format('For a key of type %s write ''1 day'' or ''3 months''; units are seconds,'
                          ' minutes, hours, days, weeks, months, years, decades, centuries.',
                          key_type);
    end if;
    v_step := step::interval;
    v_months := extract(year from v_step) * 12 + extract(month from v_step);
    v_days := extract(day from v_step);
    v_micros := extract(hour from v_step) * 3600000000 + extract(minute from v_step) * 60000000
                + extract(microseconds from v_step);
    if (v_months = 0 and v_days = 0 and v_micros < 1000000)
       or (v_micros > 0 and key_type = 'date'::regtype) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is too short for a key of type %s', step, key_type),
            hint = case key_type when 'date'::regtype then 'Use ''1 day'' or longer.'
                                 else 'Use ''1 second'' or longer.' end;
    end if;
    -- 'UTC+3' means the opposite of what one reads, and what 'IST' means is a setting.
    if zone !~ '^(UTC|GMT|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+)$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('zone "%s" is not the full name of a time zone', zone),
            hint = 'Use a name such as ''UTC'' or ''Europe/Berlin''; pg_timezone_names has them.';
    end if;
    if key_type = 'timestamptz'::regtype and v_micros = 0 then
        v_clock := zone;
    end if;

    v_from := ensure._time_point_v1('from_value', coalesce(from_value, now()::text),
                                    zone, key_type);
    v_until := ensure._time_point_v1('until_value', coalesce(until_value, from_value, now()::text),
                                     zone, key_type);
    if v_from > v_until then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'from_value lies after until_value',
            detail = format('from_value is %s, until_value is %s.', v_from, v_until),
            hint = 'Swap them; both ends are included.';
    end if;
    v_origin := ensure._time_point_v1(
                    'origin', coalesce(origin, case when v_days > 0 then '2000-01-03'
                                                    else '2000-01-01' end),
                    case when origin is null then v_clock else zone end, key_type)
                at time zone 'UTC' at time zone v_clock;
    v_first := ensure._steps_between_v1(v_origin, v_from at time zone 'UTC' at time zone v_clock,
                                        v_months, v_days, v_micros);
    v_last := ensure._steps_between_v1(v_origin, v_until at time zone 'UTC' at time zone v_clock,
                                       v_months, v_days, v_micros);
    perform ensure._check_cells_v1(v_last::numeric + ahead - v_first + 1);

    -- The estimate may be one off (a short month, a clock change): bounds decide.
    v_at := v_first;
    v_low := ensure._time_bound_v1(v_at, v_origin, v_months, v_days, v_micros, v_clock);
    while v_low > v_from loop
        v_at := v_at - 1;
        v_low := ensure._time_bound_v1(v_at, v_origin, v_months, v_days, v_micros, v_clock);
    end loop;
    loop
        v_at := v_at + 1;
        v_high := ensure._time_bound_v1(v_at, v_origin, v_months, v_days, v_micros, v_clock);
        if v_low < v_high and v_high > v_from then -- a zone may skip a whole day
            if key_type = 'date'::regtype then
                lower_bound := v_low::date;
                upper_bound := v_high::date;
            elsif key_type = 'timestamp'::regtype then
                lower_bound := v_low;
                upper_bound := v_high;
            else
                lower_bound := v_low at time zone 'UTC';
                upper_bound := v_high at time zone 'UTC';
            end if;
            v_wall := v_low at time zone 'UTC' at time zone v_clock;
            label := concat(to_char(v_wall, 'YYYYMMDD'),
                            case when v_wall < '0001-01-01' then 'bc' end,
                            case when v_micros > 0 or v_wall <> date_trunc('day', v_wall)
                                 then to_char(v_wall, '_HH24MISS') end);
            return next;
            v_ahead := v_ahead + (v_high > v_until)::integer;
            exit when v_ahead > ahead;
        end if;
        v_low := v_high;
    end loop;
end
$fn$;

comment on function ensure._time_grid_v1(regtype, text, text, text, integer, text, text) is
    'The cells of a time grid that meet [from_value, until_value], by default now.';

create function ensure._time_point_v1(
    argument text,
    value text,
    zone text,
    key_type regtype
)
returns timestamp
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_point_v1: a time given as ISO text, on the clock of the key: UTC for timestamptz.
--
-- Returns  text without an offset is read in zone; for date keys midnight of the day
-- Errors   22007  not an ISO date or time
declare
    v_offset constant text := '(Z|[+-]\d\d(:?\d\d){0,2})';
    v_iso constant text := '^\d{4,6}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?\s*%s?)?( BC)?$';
    v_has_offset constant boolean := value ~ format(':.*%s( BC)?$', v_offset);
    v_point timestamp;
begin
    if value !~ format(v_iso, v_offset) then
        raise exception using
            errcode = 'invalid_datetime_format',
            message = format('%s "%s" is not an ISO date or time', argument, value),
            hint = format('For a key of type %s write ''2026-01-31'''
                          ' or ''2026-01-31 12:00:00+00''.', key_type);
    end if;
    if key_type = 'timestamptz'::regtype then
        v_point := case when v_has_offset then value::timestamptz
                        else value::timestamp at time zone zone end at time zone 'UTC';
    else
        v_point := case when v_has_offset then value::timestamptz at time zone zone
                        else value::timestamp end;
    end if;
    return case key_type when 'date'::regtype then date_trunc('day', v_point) else v_point end;
end
$fn$;

comment on function ensure._time_point_v1(text, text, text, regtype) is
    'A time given as ISO text, on the clock of the key: UTC for timestamptz.';

create function ensure._time_bound_v1(
    n bigint,
    origin timestamp,
    months bigint,
    days bigint,
    micros bigint,
    clock text
)
returns timestamp
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_bound_v1: origin and n steps on the wall clock of clock, in UTC.
begin
    return (origin + make_interval(months => (n * months)::integer,
                                   days => (n * days + n * micros / 86400000000)::integer)
                   + (n * micros % 86400000000) * interval '1 microsecond')
           at time zone clock at time zone 'UTC';
end
$fn$;

comment on function ensure._time_bound_v1(bigint, timestamp, bigint, bigint, bigint, text) is
    'Origin and n steps on the wall clock of clock, in UTC.';

create function ensure._steps_between_v1(
    earlier timestamp,
    later timestamp,
    months bigint,
    days bigint,
    micros bigint
)
returns bigint
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _steps_between_v1: how many whole steps there are from earlier to later, or one more or less.
begin
    if months > 0 then
        return floor(((extract(year from later) - (later < '0001-01-01')::integer * -1
                       - extract(year from earlier) + (earlier < '0001-01-01')::integer * -1) * 12
                      + extract(month from later) - extract(month from earlier)) / months);
    end if;
    return floor(extract(epoch from later - earlier) * 1000000 / (days * 86400000000 + micros));
end
$fn$;

comment on function ensure._steps_between_v1(timestamp, timestamp, bigint, bigint, bigint) is
    'How many whole steps there are from earlier to later, or one more or less.';

-- migrate:down
drop function ensure._steps_between_v1(timestamp, timestamp, bigint, bigint, bigint);
drop function ensure._time_bound_v1(bigint, timestamp, bigint, bigint, bigint, text);
drop function ensure._time_point_v1(text, text, text, regtype);
drop function ensure._time_grid_v1(regtype, text, text, text, integer, text, text);
