-- migrate:up
create function ensure._grid_cells_v1(
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
-- _grid_cells_v1: the cells of the grid that meet [from_value, until_value], and ahead more.
--
-- Returns  in order, lower bound, upper bound and label of each: bounds as PostgreSQL prints them
--          for a column of this type, without quotes; label: what names the cell. An integer or
--          numeric key counts time where epoch says its unit
-- Errors   0A000  a key of another type
--          22023  epoch is not 's', 'ms', 'us' or 'ns', or the key cannot count it
--          more   see _number_grid_v1 and _time_grid_v1
-- Races    none; the public function has pinned DateStyle ISO and TimeZone UTC
begin
    if epoch <> all ('{s,ms,us,ns}'::text[])
       or (epoch is not null and key_type not in ('bigint'::regtype, 'integer'::regtype,
                                                  'numeric'::regtype)) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('epoch "%s" is not a unit that a key of type %s counts', epoch,
                             key_type),
            hint = 'Use ''s'', ''ms'', ''us'' or ''ns'' for a key of type integer, bigint or'
                   ' numeric, and leave epoch out for others.';
    end if;
    -- Calls in expressions: a query of their own would cost more than the grid does. Collation "C"
    -- goes on to all below: in others \d is any digit of Unicode, and MINUTE has no i in Turkish.
    if epoch is null and key_type in ('bigint'::regtype, 'integer'::regtype, 'smallint'::regtype,
                                      'numeric'::regtype) then
        return ensure._number_grid_v1(key_type, key_typmod, step collate "C", from_value,
                                      until_value, ahead, origin);
    elsif epoch is not null
          or key_type in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype,
                          'uuid'::regtype) then
        return ensure._time_grid_v1(key_type, key_typmod, step collate "C", from_value,
                                    until_value, ahead, zone, origin, epoch);
    end if;
    raise exception using
        errcode = 'feature_not_supported',
        message = format('a key of type %s has no grid', key_type),
        hint = 'The key must be of type date, timestamp, timestamptz, uuid, smallint, integer,'
               ' bigint or numeric.';
end
$fn$;

comment on function ensure._grid_cells_v1(regtype, integer, text, text, text, integer, text, text,
                                          text) is
    'The cells of the grid that meet [from_value, until_value], and ahead more.';

create function ensure._grid_v1(
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
returns table (lower_bound text, upper_bound text, label text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _grid_v1: the cells of the grid that meet [from_value, until_value], and ahead more, as rows.
declare
    c_cells constant text[] := ensure._grid_cells_v1(key_type, key_typmod, step, from_value,
                                                     until_value, ahead, zone, origin, epoch);
begin
    for v_at in 1 .. cardinality(c_cells) by 3 loop
        lower_bound := c_cells[v_at];
        upper_bound := c_cells[v_at + 1];
        label := c_cells[v_at + 2];
        return next;
    end loop;
end
$fn$;

comment on function ensure._grid_v1(regtype, integer, text, text, text, integer, text, text,
                                    text) is
    'The cells of the grid that meet [from_value, until_value], and ahead more, as rows.';

-- migrate:down
drop function ensure._grid_v1(regtype, integer, text, text, text, integer, text, text, text);
drop function ensure._grid_cells_v1(regtype, integer, text, text, text, integer, text, text, text);
