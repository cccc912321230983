-- migrate:up
create function ensure._integer_end_v1(
    key_type regtype
)
returns numeric
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _integer_end_v1: the largest value of an integer type, null for another type.
begin
    return case key_type when 'smallint'::regtype then 32767
                         when 'integer'::regtype then 2147483647
                         when 'bigint'::regtype then 9223372036854775807 end;
end
$fn$;

comment on function ensure._integer_end_v1(regtype) is
    'The largest value of an integer type, null for another type.';

create function ensure._key_ends_v1(
    key_type regtype,
    key_typmod integer
)
returns numeric[]
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _key_ends_v1: least and largest number of a key, and its decimal places; null where it has none.
--
-- Returns  for uuid the milliseconds that 48 bits hold
declare
    v_max numeric;
    v_scale integer;
begin
    case key_type
    when 'bigint'::regtype then return '{-9223372036854775808, 9223372036854775807, 0}';
    when 'integer'::regtype then return '{-2147483648, 2147483647, 0}';
    when 'smallint'::regtype then return '{-32768, 32767, 0}';
    when 'uuid'::regtype then return '{0, 281474976710655, 0}';
    else null;
    end case;
    if key_type <> 'numeric'::regtype or key_typmod < 4 then
        return array[null, null, null];
    end if;
    v_scale := (((key_typmod - 4) & 2047) # 1024) - 1024; -- 11 bits and a sign; negative from 15 on
    v_max := format('%se%s', repeat('9', (key_typmod - 4) >> 16), -v_scale)::numeric;
    return array[-v_max, v_max, v_scale];
end
$fn$;

comment on function ensure._key_ends_v1(regtype, integer) is
    'Least and largest number of a key, and its decimal places; null where it has none.';

create function ensure._number_grid_v1(
    key_type regtype,
    key_typmod integer,
    step text,
    from_value text,
    until_value text,
    ahead integer,
    origin text
)
returns text[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _number_grid_v1: the cells of a grid of numbers that meet [from_value, until_value].
--
-- Returns  [origin + n * step, origin + (n + 1) * step) in order, and ahead more: lower bound,
--          upper bound and label of the first, of the second, and so on. A cell that would pass
--          the end of the type ends in MINVALUE or MAXVALUE
-- Errors   22004  from_value is null
--          22023  step is not a positive number; a value is no number, no whole number for a type
--                 that has only those; from after until; bounds finer than the decimal places
--          22003  a value, or a cell that ahead asks for, lies outside the type
--          54000  more than 1000 cells
declare
    v_ends constant numeric[] := ensure._key_ends_v1(key_type, key_typmod);
    v_min constant numeric := v_ends[1];
    v_max constant numeric := v_ends[2];
    v_scale constant integer := v_ends[3];
    v_step numeric;
    v_origin numeric := 0;
    v_from numeric;
    v_until numeric;
    v_low numeric;
    v_count numeric;
    v_text text;
    v_cells text[] := '{}';
begin
    if from_value is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('from_value must not be null for a key of type %s', key_type),
            hint = 'Only time keys have a default, now; pass the smallest key to be covered.';
    end if;
    if step ~ '^\s*\d+(\.\d+)?\s*$' then
        v_step := step::numeric;
    end if;
    if coalesce(v_step, 0) = 0 or (key_type <> 'numeric'::regtype and strpos(step, '.') > 0) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is not a positive %s', step,
                             case key_type when 'numeric'::regtype then 'decimal number'
                                           else 'whole number' end),
            hint = format('For a key of type %s write a step such as ''1000000''.', key_type);
    end if;
    if origin is not null then
        v_origin := ensure._number_point_v1('origin', origin, key_type, v_ends);
    end if;
    if v_scale <> 0 and (v_step <> round(v_step, v_scale) or v_origin <> round(v_origin, v_scale))
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('bounds of this grid have no place in a key of type %s',
                             format_type(key_type, key_typmod)),
            detail = format('step is %s, origin is %s.', v_step, v_origin),
            hint = 'Use a step and an origin with no more decimal places than the key has.';
    end if;
    v_from := ensure._number_point_v1('from_value', from_value, key_type, v_ends);
    v_until := v_from;
    if until_value is not null then
        v_until := ensure._number_point_v1('until_value', until_value, key_type, v_ends);
        if v_from > v_until then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = 'from_value lies after until_value',
                detail = format('from_value is %s, until_value is %s.', v_from, v_until),
                hint = 'Swap them; both ends are included.';
        end if;
    end if;

    -- Not floor(a / b): the quotient of numerics is rounded, the key before a bound would go up.
    v_low := v_from - mod(v_from - v_origin, v_step);
    if v_low > v_from then
        v_low := v_low - v_step;
    end if;
    v_count := div(v_until - v_low, v_step) + 1 + ahead;
    if v_count > 1000 then
        perform ensure._check_cells_v1(v_count);
    end if;
    if v_low + (v_count - 1) * v_step > v_max then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = format('ahead reaches past the end of type %s',
                             format_type(key_type, key_typmod)),
            detail = format('The last cell asked for begins at %s.',
                            v_low + (v_count - 1) * v_step),
            hint = 'Ask for fewer partitions ahead.';
    end if;

    for v_at in 0 .. v_count - 1 loop
        if v_low < v_min then
            v_cells[3 * v_at + 1] := 'MINVALUE';
            v_cells[3 * v_at + 3] := 'minvalue';
        else
            v_cells[3 * v_at + 1] := coalesce(round(v_low, v_scale), trim_scale(v_low));
            v_text := trim_scale(abs(v_low));
            v_cells[3 * v_at + 3] := concat( -- padded, so that names sort
                case when v_low < 0 then 'm' end,
                repeat('0', 14 - strpos(concat(v_text, '.'), '.')),
                replace(v_text, '.', '_'));
        end if;
        v_low := v_low + v_step;
        v_cells[3 * v_at + 2] := case when v_low > v_max then 'MAXVALUE'
                                      else coalesce(round(v_low, v_scale), trim_scale(v_low))::text
                                 end;
    end loop;
    return v_cells;
end
$fn$;

comment on function ensure._number_grid_v1(regtype, integer, text, text, text, integer, text) is
    'The cells of a grid of numbers that meet [from_value, until_value].';

create function ensure._number_point_v1(
    argument text,
    value text,
    key_type regtype,
    ends numeric[]
)
returns numeric
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _number_point_v1: a key that is a number, read strictly.
--
-- Errors   22023  not a number, or not a whole number for a type that has only those
--          22003  outside the type
declare
    v_value numeric;
begin
    if value ~ '^\s*[+-]?\d+(\.\d*)?\s*$' then
        v_value := value::numeric;
    end if;
    if v_value is null or (key_type <> 'numeric'::regtype and v_value <> trunc(v_value)) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s "%s" is not a %snumber', argument, value,
                             case key_type when 'numeric'::regtype then '' else 'whole ' end),
            hint = format('The partition key is of type %s.', key_type);
    end if;
    if v_value > ends[2] or v_value < ends[1] then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = format('%s "%s" is out of range for type %s', argument, value, key_type),
            detail = format('Its values lie between %s and %s.', ends[1], ends[2]),
            hint = 'No key of the table can have this value.';
    end if;
    if argument <> 'origin' then -- as an insert does before it looks for a partition
        v_value := coalesce(round(v_value, ends[3]::integer), v_value);
    end if;
    return v_value;
end
$fn$;

comment on function ensure._number_point_v1(text, text, regtype, numeric[]) is
    'A key that is a number, read strictly.';

create function ensure._check_cells_v1(
    cells numeric
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_cells_v1: one call asks for at most 1000 cells.
--
-- Errors   54000  more
begin
    if cells > 1000 then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = format('%s partitions asked for in one call, 1000 at most', cells),
            hint = 'Ask for fewer at a time, or use a larger step.';
    end if;
end
$fn$;

comment on function ensure._check_cells_v1(numeric) is
    'One call asks for at most 1000 cells.';

-- migrate:down
drop function ensure._check_cells_v1(numeric);
drop function ensure._number_point_v1(text, text, regtype, numeric[]);
drop function ensure._number_grid_v1(regtype, integer, text, text, text, integer, text);
drop function ensure._key_ends_v1(regtype, integer);
drop function ensure._integer_end_v1(regtype);
