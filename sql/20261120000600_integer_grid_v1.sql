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

create function ensure._integer_grid_v1(
    key_type regtype,
    step text,
    from_value text,
    until_value text,
    ahead integer,
    origin text
)
returns table (lower_bound text, upper_bound text, label text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _integer_grid_v1: the cells of an integer grid that meet [from_value, until_value].
--
-- Returns  [origin + n * step, origin + (n + 1) * step) in order, and ahead more; a cell that would
--          pass the end of key_type ends in MINVALUE or MAXVALUE
-- Errors   22004  from_value is null
--          22023  step is not a positive whole number, a value is no whole number, from after until
--          22003  a value, or a cell that ahead asks for, lies outside key_type
--          54000  more than 1000 cells
declare
    v_max constant numeric := ensure._integer_end_v1(key_type);
    v_min constant numeric := -v_max - 1;
    v_step numeric;
    v_origin numeric;
    v_from numeric;
    v_until numeric;
    v_first numeric;
    v_last numeric;
begin
    if from_value is null then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('from_value must not be null for a key of type %s', key_type),
            hint = 'Only time keys have a default, now; pass the smallest key to be covered.';
    end if;
    if step !~ '^\s*\d{1,19}\s*$' or step::numeric = 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('step "%s" is not a positive whole number', step),
            hint = format('For a key of type %s write a step such as ''1000000''.', key_type);
    end if;
    v_step := step::numeric;
    v_origin := ensure._integer_point_v1('origin', coalesce(origin, '0'), key_type);
    v_from := ensure._integer_point_v1('from_value', from_value, key_type);
    v_until := ensure._integer_point_v1('until_value', coalesce(until_value, from_value), key_type);
    if v_from > v_until then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'from_value lies after until_value',
            detail = format('from_value is %s, until_value is %s.', v_from, v_until),
            hint = 'Swap them; both ends are included.';
    end if;

    -- Not floor(a / b): the quotient of numerics is rounded, the key before a bound would go up.
    v_first := div(v_from - v_origin, v_step) - (mod(v_from - v_origin, v_step) < 0)::integer;
    v_last := div(v_until - v_origin, v_step) - (mod(v_until - v_origin, v_step) < 0)::integer
              + ahead;
    perform ensure._check_cells_v1(v_last - v_first + 1);
    if v_origin + v_last * v_step > v_max then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = format('ahead reaches past the end of type %s', key_type),
            detail = format('The last cell asked for begins at %s.', v_origin + v_last * v_step),
            hint = 'Ask for fewer partitions ahead.';
    end if;

    return query
    select case when c.low < v_min then 'MINVALUE' else c.low::text end,
           case when c.low + v_step > v_max then 'MAXVALUE' else (c.low + v_step)::text end,
           case when c.low < v_min then 'minvalue' else replace(c.low::text, '-', 'm') end
    from generate_series(v_first, v_last) as g (n)
    cross join lateral (select v_origin + g.n * v_step) as c (low)
    order by g.n;
end
$fn$;

comment on function ensure._integer_grid_v1(regtype, text, text, text, integer, text) is
    'The cells of an integer grid that meet [from_value, until_value].';

create function ensure._integer_point_v1(
    argument text,
    value text,
    key_type regtype
)
returns numeric
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _integer_point_v1: a key of an integer type, read strictly.
--
-- Errors   22023  not a whole number
--          22003  outside key_type
declare
    v_max constant numeric := ensure._integer_end_v1(key_type);
    v_value numeric;
begin
    if value !~ '^\s*[+-]?\d{1,40}(\.0*)?\s*$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s "%s" is not a whole number', argument, value),
            hint = format('The partition key is of type %s.', key_type);
    end if;
    v_value := trunc(value::numeric);
    if v_value > v_max or v_value < -v_max - 1 then
        raise exception using
            errcode = 'numeric_value_out_of_range',
            message = format('%s "%s" is out of range for type %s', argument, value, key_type),
            hint = 'No key of the table can have this value.';
    end if;
    return v_value;
end
$fn$;

comment on function ensure._integer_point_v1(text, text, regtype) is
    'A key of an integer type, read strictly.';

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
            hint = 'Ask for a shorter range, or use a larger step.';
    end if;
end
$fn$;

comment on function ensure._check_cells_v1(numeric) is
    'One call asks for at most 1000 cells.';

-- migrate:down
drop function ensure._check_cells_v1(numeric);
drop function ensure._integer_point_v1(text, text, regtype);
drop function ensure._integer_grid_v1(regtype, text, text, text, integer, text);
drop function ensure._integer_end_v1(regtype);
