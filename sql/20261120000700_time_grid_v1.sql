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
-- _time_grid_v1: the cells of a time grid that meet [from_value, until_value]; from_value null means now.
--
-- Returns  in order, and ahead more. Bounds are one function of n, so neighbours share them: no hole, no overlap.
--          Days, months and longer are counted on the wall clock of zone, shorter steps in UTC; keys without
--          a zone on their own clock. Origin is 2000-01-01, for days and weeks Monday 2000-01-03.
-- Errors   22023  step is not one positive number and one unit, too short, from after until, bad zone
--          22007  a value is not an ISO date or time
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
    v_low timestamp;
    v_high timestamp;
    v_wall timestamp;
    v_ahead integer := 0;
begin
    if step !~* '^\s*\d{1,9}\s*[a-z]+\s*$' or step ~ '^\s*0+\D' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is not one positive number and one unit', step),
            hint = format('For a key of type %s write a step such as ''1 day'', ''1 week'' or ''3 months''.', key_type);
    end if;
    v_step := step::interval;
    v_months := extract(year from v_step) * 12 + extract(month from v_step);
    v_days := extract(day from v_step);
    v_micros := extract(epoch from v_step - make_interval(months => v_months::integer, days => v_days::integer)) * 1000000;
    if (v_months = 0 and v_days = 0 and v_micros < 1000000) or (v_micros > 0 and key_type = 'date'::regtype) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is too short for a key of type %s', step, key_type),
            hint = case key_type when 'date'::regtype then 'Use ''1 day'' or longer.' else 'Use ''1 second'' or longer.' end;
    end if;
    if zone !~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+)*$' then -- 'UTC+3' and '+03:00' mean the opposite of what one reads
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('zone "%s" is not the name of a time zone', zone),
            hint = 'Use a name such as ''UTC'' or ''Europe/Berlin''; pg_timezone_names lists them.';
    end if;
    if key_type = 'timestamptz'::regtype and v_micros = 0 then
        v_clock := zone;
    end if;

    v_origin := ensure._time_point_v1('origin', coalesce(origin, case when v_days > 0 then '2000-01-03' else '2000-01-01' end),
                                      case when origin is null then v_clock else zone end, key_type);
    v_from := ensure._time_point_v1('from_value', coalesce(from_value, now()::text), zone, key_type);
    v_until := ensure._time_point_v1('until_value', coalesce(until_value, from_value, now()::text), zone, key_type);
    if v_from > v_until then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'from_value lies after until_value',
            detail = format('from_value is %s, until_value is %s.', v_from, v_until),
            hint = 'Swap them; both ends are included.';
    end if;
    v_origin := v_origin at time zone 'UTC' at time zone v_clock;

    -- The estimate may be one off (a short month, a clock change): the cells around it are tried by value.
    if v_months > 0 then
        v_first := floor(ensure._months_between_v1(v_origin, v_from at time zone 'UTC' at time zone v_clock) / v_months);
        v_last := floor(ensure._months_between_v1(v_origin, v_until at time zone 'UTC' at time zone v_clock) / v_months);
    else
        v_first := floor(extract(epoch from v_from at time zone 'UTC' at time zone v_clock - v_origin) * 1000000
                         / (v_days * 86400000000 + v_micros));
        v_last := floor(extract(epoch from v_until at time zone 'UTC' at time zone v_clock - v_origin) * 1000000
                        / (v_days * 86400000000 + v_micros));
    end if;
    perform ensure._check_cells_v1(v_last::numeric + ahead - v_first + 1);

    for v_at in v_first - 1 .. v_last + ahead + 3 loop
        v_low := v_high;
        v_high := (v_origin + make_interval(months => (v_at * v_months)::integer,
                                            days => (v_at * v_days + v_at * v_micros / 86400000000)::integer)
                            + (v_at * v_micros % 86400000000) * interval '1 microsecond')
                  at time zone v_clock at time zone 'UTC';
        continue when v_low is null or v_low >= v_high -- a zone may skip a whole day
                   or v_high <= v_from;
        v_ahead := v_ahead + (v_low > v_until)::integer;
        exit when v_ahead > ahead;
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
                        case when v_micros > 0 or v_wall <> date_trunc('day', v_wall) then to_char(v_wall, '_HH24MISS') end);
        return next;
    end loop;
end
$fn$;

comment on function ensure._time_grid_v1(regtype, text, text, text, integer, text, text) is
    'The cells of a time grid that meet [from_value, until_value]; from_value null means now.';

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
-- _time_point_v1: a time given as ISO text, on the clock of the key: UTC for timestamptz, else wall clock.
--
-- Returns  text without an offset is read in zone; for date keys midnight of the day
-- Errors   22007  not an ISO date or time
declare
    v_offset constant text := '(Z|[+-]\d\d(:?\d\d){0,2})';
begin
    if value !~ format('^\d{4,6}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?\s*%s?)?( BC)?$', v_offset) then
        raise exception using
            errcode = 'invalid_datetime_format',
            message = format('%s "%s" is not an ISO date or time', argument, value),
            hint = format('The partition key is of type %s; write ''2026-01-31'' or ''2026-01-31 12:00:00+00''.', key_type);
    end if;
    if key_type = 'timestamptz'::regtype and value !~ format(':.*%s( BC)?$', v_offset) then
        return value::timestamp at time zone zone at time zone 'UTC';
    elsif key_type = 'timestamptz'::regtype then
        return value::timestamptz at time zone 'UTC';
    elsif value ~ format(':.*%s( BC)?$', v_offset) then
        return date_trunc(case key_type when 'date'::regtype then 'day' else 'microseconds' end,
                          value::timestamptz at time zone zone);
    end if;
    return date_trunc(case key_type when 'date'::regtype then 'day' else 'microseconds' end, value::timestamp);
end
$fn$;

comment on function ensure._time_point_v1(text, text, text, regtype) is
    'A time given as ISO text, on the clock of the key: UTC for timestamptz, else wall clock.';

create function ensure._months_between_v1(
    earlier timestamp,
    later timestamp
)
returns numeric
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _months_between_v1: how many months the calendar page is turned from earlier to later.
select (extract(year from later) - extract(year from earlier)
        + (earlier < '0001-01-01')::integer * -1 + (later < '0001-01-01')::integer) * 12 -- there is no year zero
       + extract(month from later) - extract(month from earlier)
$fn$;

comment on function ensure._months_between_v1(timestamp, timestamp) is
    'How many months the calendar page is turned from earlier to later.';

-- migrate:down
drop function ensure._months_between_v1(timestamp, timestamp);
drop function ensure._time_point_v1(text, text, text, regtype);
drop function ensure._time_grid_v1(regtype, text, text, text, integer, text, text);
