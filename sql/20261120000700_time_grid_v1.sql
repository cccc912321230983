-- migrate:up
create function ensure._time_grid_v1(
    key_type regtype,
    key_typmod integer,
    step text,
    from_value text,
    until_value text,
    ahead integer,
    zone text,
    origin text,
    epoch text
)
returns text[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _time_grid_v1: the cells of a time grid that meet [from_value, until_value], by default now.
--
-- Returns  in order, and ahead more: lower bound, upper bound and label of the first, of the
--          second, and so on. Bounds are one function of n, so neighbours share them. Days and
--          longer are counted on the clock of zone, shorter steps in UTC; keys without a zone on
--          their own clock. Origin is 2000-01-01, for days and weeks Monday 2000-01-03
-- Errors   22023  step, zone or a uuid is not understood; from after until; bounds finer than key
--          22003, 22007, 22008  a value or a bound is out of range, or not an ISO time
--          54000  more than 1000 cells
-- Races    none; the public function has pinned DateStyle ISO and TimeZone UTC
declare
    v_unit constant numeric := case when epoch = 'ns' then 1000000000
                                    when epoch = 'us' then 1000000
                                    when epoch = 'ms' or key_type = 'uuid'::regtype then 1000
                                    when epoch = 's' then 1 end; -- a second in units of the key
    v_ends constant numeric[] := case when v_unit is not null
                                      then ensure._key_ends_v1(key_type, key_typmod) end;
    v_step constant bigint[] := ensure._time_step_v1(step, key_type);
    v_months constant bigint := v_step[1];
    v_days constant bigint := v_step[2];
    v_micros constant bigint := v_step[3];
    v_plain constant boolean := key_type = 'timestamptz'::regtype and key_typmod < 0;
    v_clock text := 'UTC';
    v_origin timestamp := case when v_days > 0 then '2000-01-03' else '2000-01-01' end;
    v_from timestamptz; -- what has no zone is taken for UTC
    v_until timestamptz;
    v_at bigint;
    v_wall timestamp; -- of v_low on the clock of the grid; there may be no such time
    v_next timestamp;
    v_low timestamptz;
    v_high timestamptz;
    v_cells text[] := '{}';
    v_last integer := 0;
    v_ahead integer := 0;
begin
    if zone <> 'UTC' and ensure._is_zone_v1(zone) and v_micros = 0
       and key_type not in ('date'::regtype, 'timestamp'::regtype) then
        v_clock := zone;
    end if;
    v_from := case when from_value is null and key_type = 'timestamptz'::regtype then now()
                   else ensure._time_point_v1('from_value', coalesce(from_value, now()::text), zone,
                                              key_type, v_unit, v_ends) end;
    v_until := v_from;
    if until_value is not null then
        v_until := ensure._time_point_v1('until_value', until_value, zone,
                                         key_type, v_unit, v_ends);
    end if;
    if key_typmod >= 0 and v_unit is null then -- as an insert does, then it looks for a partition
        v_from := timestamptz(v_from, key_typmod);
        v_until := timestamptz(v_until, key_typmod);
    end if;
    if v_from > v_until then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'from_value lies after until_value',
            detail = format('from_value is %s, until_value is %s.', v_from, v_until),
            hint = 'Swap them; both ends are included.';
    end if;
    if origin is not null then
        v_origin := ensure._time_point_v1('origin', origin, zone, key_type, v_unit, v_ends)
                    at time zone v_clock;
    end if;
    v_at := ensure._steps_between_v1(v_origin, v_from at time zone v_clock,
                                     v_months, v_days, v_micros);
    if v_until > v_from or ahead >= 1000 then
        perform ensure._check_cells_v1(
            ensure._steps_between_v1(v_origin, v_until at time zone v_clock,
                                     v_months, v_days, v_micros) - v_at + 1 + ahead::numeric);
    end if;

    -- The estimate may be one off (a short month, a clock change): bounds decide.
    loop
        v_wall := ensure._time_wall_v1(v_at, v_origin, v_months, v_days, v_micros);
        v_low := v_wall at time zone v_clock;
        exit when v_low <= v_from;
        v_at := v_at - 1;
    end loop;
    loop
        v_at := v_at + 1;
        v_next := ensure._time_wall_v1(v_at, v_origin, v_months, v_days, v_micros);
        v_high := v_next at time zone v_clock;
        if v_low < v_high and v_high > v_from then -- a zone may skip a whole day
            v_cells[v_last + 1] := case when v_plain then v_low::text
                else ensure._time_text_v1(v_low, key_type, key_typmod, v_unit, v_ends) end;
            v_cells[v_last + 2] := case when v_plain then v_high::text
                else ensure._time_text_v1(v_high, key_type, key_typmod, v_unit, v_ends) end;
            v_cells[v_last + 3] := case when v_cells[v_last + 1] = 'MINVALUE' then 'minvalue'
                else ensure._time_label_v1(v_wall, v_months, v_days, v_micros) end;
            if v_cells[v_last + 1] = 'MAXVALUE' then
                raise exception using
                    errcode = case key_type when 'uuid'::regtype then '22008' else '22003' end,
                    message = format('ahead reaches past the end of type %s',
                                     format_type(key_type, key_typmod)),
                    detail = format('The last cell within it begins at %s.', v_cells[v_last - 2]),
                    hint = 'Ask for fewer partitions ahead.';
            end if;
            v_last := v_last + 3;
            v_ahead := v_ahead + (v_high > v_until)::integer;
            exit when v_ahead > ahead;
        end if;
        v_low := v_high;
        v_wall := v_next;
    end loop;
    return v_cells;
end
$fn$;

comment on function ensure._time_grid_v1(regtype, integer, text, text, text, integer, text, text,
                                         text) is
    'The cells of a time grid that meet [from_value, until_value], by default now.';

-- migrate:down
drop function ensure._time_grid_v1(regtype, integer, text, text, text, integer, text, text, text);
