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

create function ensure._delegate_difference_v1(
    candidate regprocedure,
    definition text,
    wanted ensure._delegate_v1
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _delegate_difference_v1: how candidate, of this definition, differs from wanted, or null.
--
-- Races    owner and grants are read from pg_proc as far as the snapshot shows it, and by functions
--          that read current catalogs: an owner always has the grant option
declare
    v_tag text := '$function';
    v_wanted text[];
    v_found constant text[] := string_to_array(
        regexp_replace(definition, '^CREATE [A-Z ]*FUNCTION', 'FUNCTION'), E'\n');
    c_old constant boolean := current_setting('transaction_isolation')
                              in ('repeatable read', 'serializable');
    v_line text;
    v_owner text;
    v_others text;
begin
    while strpos(wanted.body, v_tag) > 0 loop
        v_tag := concat(v_tag, 'x');
    end loop;
    v_wanted := string_to_array(format(E'%sAS %s$%s%2$s$\n', wanted.head, v_tag, wanted.body),
                                E'\n');
    select format('line %s is %L, asked for is %L', g.at, btrim(v_found[g.at]),
                  btrim(v_wanted[g.at]))
    into v_line
    from generate_series(1, greatest(cardinality(v_found), cardinality(v_wanted))) as g (at)
    where v_found[g.at] is distinct from v_wanted[g.at]
    order by g.at
    limit 1;

    select format('its owner is "%s", that of the table "%s"', pg_get_userbyid(p.proowner),
                  wanted.owner)
    into v_owner
    from pg_proc as p
    where p.oid = candidate and pg_get_userbyid(p.proowner) <> wanted.owner
      and not (c_old and p.xmax::text <> '0'); -- changed since
    if v_owner is null
       and not has_function_privilege(wanted.owner, candidate, 'EXECUTE WITH GRANT OPTION') then
        v_owner := format('its owner is not "%s"', wanted.owner);
    end if;
    select string_agg(distinct format('role "%s" may execute it%s',
                                      case when a.grantee = 0 then 'public'
                                           else pg_get_userbyid(a.grantee) end,
                                      case when a.is_grantable then ' and grant that on' end), '; ')
    into v_others
    from pg_proc as p
    cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
    where p.oid = candidate
      and not (c_old and p.xmax::text <> '0')
      and a.grantee <> p.proowner
      and (pg_get_userbyid(a.grantee) <> wanted.grantee or a.is_grantable);
    if v_others is null and has_function_privilege('public', candidate, 'EXECUTE') then
        v_others := 'role "public" may execute it';
    end if;
    return nullif(concat_ws('; ', v_owner, v_others,
                            case when not has_function_privilege(wanted.grantee, candidate,
                                                                 'EXECUTE')
                                 then format('role "%s" may not execute it', wanted.grantee) end,
                            v_line), '');
end
$fn$;

comment on function ensure._delegate_difference_v1(regprocedure, text, ensure._delegate_v1) is
    'How candidate, of this definition, differs from wanted, or null.';

create function ensure._find_delegate_v1(
    wanted ensure._delegate_v1
)
returns regprocedure
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _find_delegate_v1: the delegate, known by what it is, or null.
--
-- Errors   NS001  it differs
--          NS007  something else has its name
-- Races    to_regproc, to_regprocedure and pg_get_functiondef read current catalogs; somebody may
--          make the delegate between two of them
declare
    c_name constant text := format('%I.%I', wanted.schema_name, wanted.function_name);
    v_found regprocedure := to_regprocedure(wanted.signature);
    v_definition text;
    v_other regprocedure;
    v_difference text;
begin
    select p.oid into v_other
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where p.proname = wanted.function_name and n.nspname = wanted.schema_name
      and p.oid::regprocedure::text <> wanted.signature -- committed since v_found was looked up
      and pg_get_function_arguments(p.oid) is not null; -- null: gone, the snapshot is old
    if v_found is null and v_other is null then
        v_other := to_regproc(c_name)::oid;
        if v_other::text = wanted.signature then
            v_found := v_other;
            v_other := null;
        end if;
    end if;
    if v_found is not null then
        begin
            v_definition := pg_get_functiondef(v_found);
        exception when wrong_object_type then
            v_other := v_found; -- an aggregate
        end;
        if strpos(v_definition, '-- Made by  ensure.ensure_partition_delegate_v1;') = 0 then
            v_other := v_found;
        elsif v_definition is null then
            v_found := null; -- dropped meanwhile
        end if;
    end if;

    if v_other is not null then
        raise exception using
            errcode = 'NS007',
            message = format('the name for delegate "%s" is taken', wanted.signature),
            detail = format('Taken by something else: %s.', v_other),
            hint = 'Rename or drop what has this name, or pass another function_name.';
    elsif v_found is null then
        return null;
    end if;
    v_difference := ensure._delegate_difference_v1(v_found, v_definition, wanted);
    if v_difference is not null then
        raise exception using
            errcode = 'NS001',
            message = format('delegate "%s" exists but differs', wanted.signature),
            detail = format('Of what is there: %s.', v_difference),
            hint = format('To have it made anew: DROP FUNCTION %s, then call again.',
                          wanted.signature);
    end if;
    return v_found;
end
$fn$;

comment on function ensure._find_delegate_v1(ensure._delegate_v1) is
    'The delegate, known by what it is, or null.';

create function ensure._check_delegate_rights_v1(
    wanted ensure._delegate_v1
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_delegate_rights_v1: owner and grantee have what the delegate needs when it is called.
--
-- Errors   42501  one lacks a right; HINT is the GRANT to give
declare
    v_role name;
    v_right text;
    v_schema name;
begin
    select m.role, m.privilege, m.schema
    into v_role, v_right, v_schema
    from (values (wanted.owner, 'USAGE', 'ensure'::name),
                 (wanted.owner, 'USAGE', wanted.schema_name),
                 (wanted.owner, 'CREATE', wanted.schema_name),
                 (wanted.grantee, 'USAGE', wanted.schema_name)) as m (role, privilege, schema)
    where not has_schema_privilege(m.role, m.schema, m.privilege)
    limit 1;
    if found then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('delegate "%s" could not be used', wanted.signature),
            detail = format('Role "%s" has no %s on schema "%s".', v_role, v_right, v_schema),
            hint = format('GRANT %s ON SCHEMA %I TO %I.', v_right, v_schema, v_role);
    end if;
end
$fn$;

comment on function ensure._check_delegate_rights_v1(ensure._delegate_v1) is
    'Owner and grantee have what the delegate needs when it is called.';

create function ensure._make_delegate_v1(
    wanted ensure._delegate_v1
)
returns regprocedure
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _make_delegate_v1: the delegate is new, as wanted, and belongs to owner.
--
-- Errors   NS001  it did not come out as wanted
declare
    v_role text;
begin
    perform ensure._run_v1(format('create %sas %L', wanted.head, wanted.body));
    if wanted.owner <> current_user then
        perform ensure._run_v1(format('alter function %s owner to %I', wanted.signature,
                                      wanted.owner));
    end if;
    perform ensure._run_v1(format('revoke all on function %s from public', wanted.signature));
    for v_role in -- of default privileges
        select distinct quote_ident(pg_get_userbyid(a.grantee))
        from pg_proc as p
        cross join aclexplode(p.proacl) as a
        where p.oid = to_regprocedure(wanted.signature) and a.grantee not in (0, p.proowner)
    loop
        perform ensure._run_v1(format('revoke all on function %s from %s', wanted.signature,
                                      v_role));
    end loop;
    perform ensure._run_v1(format('grant execute on function %s to %I', wanted.signature,
                                  wanted.grantee));
    perform ensure._run_v1(format('comment on function %s is %L', wanted.signature,
                                  format('%s has its partition for key, for role %I alone.',
                                         wanted.parent, wanted.grantee)));
    return ensure._find_delegate_v1(wanted);
end
$fn$;

comment on function ensure._make_delegate_v1(ensure._delegate_v1) is
    'The delegate is new, as wanted, and belongs to owner.';

create function ensure._create_delegate_v1(
    wanted ensure._delegate_v1,
    max_block interval,
    max_wait interval
)
returns table (delegate regprocedure, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_delegate_v1: the delegate is there, made here or by another caller.
--
-- Errors   as listed by ensure_partition_delegate_v1
-- Locks    each attempt is a subtransaction, rolled back before the next
-- Races    looks again under the lock; an attempt that finds it made gives its lock back at once
declare
    c_written constant boolean := ensure._has_written_v1();
    c_lock_timeout constant text := current_setting('lock_timeout');
    c_end constant timestamptz := clock_timestamp()
        + least(max_wait, case when c_written then max_block end, '100 years');
    c_mode constant text := 'share update exclusive';
    v_wait integer := 0;
    v_patient boolean := true; -- to be waited for past deadlock_timeout, once
    v_tries integer := 0;
    v_clashes integer := 0;
    v_problem text;
begin
    loop
        begin
            if not c_written then
                v_wait := ensure._first_wait_v1(array[wanted.parent], array[c_mode], max_block,
                                                c_end, v_patient);
                v_patient := v_patient and v_wait <= extract(epoch from max_block) * 1000;
            end if;
            perform ensure._take_locks_v1(array[wanted.parent], array[c_mode], wanted.parent,
                                          v_wait, c_end);
            delegate := ensure._find_delegate_v1(wanted);
            if delegate is not null then
                raise exception using errcode = 'NS100';
            end if;
            delegate := ensure._make_delegate_v1(wanted);
            outcome := 'created';
            perform set_config('lock_timeout', c_lock_timeout, true);
            return next;
            return;
        exception
            when sqlstate 'NS100' then -- it is there: the lock has gone with the subtransaction
                outcome := 'exists';
                return next;
                return;
            when lock_not_available or deadlock_detected then
                get stacked diagnostics v_problem = message_text;
            when unique_violation or duplicate_function or internal_error then
                -- another session took the name, or wrote the same catalog row
                get stacked diagnostics v_problem = message_text;
                v_clashes := v_clashes + 1;
                if v_clashes > 10 then
                    raise;
                end if;
        end;
        v_tries := v_tries + 1;
        perform ensure._pause_v1(array[wanted.parent], array[c_mode], v_problem, c_written, v_tries,
                                 c_end);
    end loop;
end
$fn$;

comment on function ensure._create_delegate_v1(ensure._delegate_v1, interval, interval) is
    'The delegate is there, made here or by another caller.';

create function ensure.ensure_partition_delegate_v1(
    parent regclass,
    grantee name,
    step text default null,
    earliest text default null,
    latest text default null,
    zone text default 'UTC',
    origin text default null,
    epoch text default null,
    function_name name default null,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (delegate regprocedure, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
set quote_all_identifiers = off
set extra_float_digits = 1
set bytea_output = 'hex'
as $fn$
-- ensure_partition_delegate_v1: grantee can have parent's partitions made for keys of a window.
--
-- Returns  delegate, a function (key) in the schema of parent that runs as parent's owner: it calls
--          ensure_partitions_v1 or ensure_list_partitions_v1 with all else pinned and returns what
--          they return; outcome 'exists' | 'created'. Its name is function_name, by default
--          <table>_ensure_for_<grantee>, cut with a hash: for each grantee and table one window.
--          The window includes earliest and latest: numbers; times, or intervals from now such as
--          '-7 days', also for a uuid of version 7 and with epoch; for a list values, in the
--          order of the key, which limits no count where there are endless values between
-- Errors   22004  an argument is null that must not be
--          22003, 22008  a limit or a bound is out of range
--          22007, 22023  a limit is no such value; an argument is not understood, or not for a list
--          42P01, 42809, 0A000  no such table; partitioned by hash or not at all; another key
--          42704  grantee does not exist
--          25006  it is missing, and this transaction is read-only
--          40001  parent was created, renamed or moved after the snapshot of this transaction
--          42501  it is missing, and this role may not create it; or owner or grantee lack a right
--                 without which it could not be used
--          55P03  max_wait was spent waiting for the lock; DETAIL names the holders
--          NS001  it exists but differs; nothing was changed
--          NS002  it is missing, and the setting ensure.ddl is off
--          NS003  the lock was not to be had, and this transaction has already written
--          NS006  a concurrent index build is in the way
--          NS007  the name is taken by something else
-- Locks    none when nothing is to be done. Else parent in SHARE UPDATE EXCLUSIVE until commit
--          (readers and writers go on); waits for it at most max_block at a time
-- Races    one caller creates; the others wait for its commit and return 'exists'. At every
--          isolation level; under an old snapshot grants to others since then are not seen
-- Rights   USAGE on schema ensure and on that of parent; to create, also to be the owner of parent
--          or a member that can become it, both with CREATE on its schema. The owner needs USAGE on
--          schema ensure, grantee on that of parent. EXECUTE is for grantee alone
declare
    v_wanted ensure._delegate_v1;
begin
    perform ensure._check_budget_v1(max_block, max_wait);
    v_wanted := ensure._wanted_delegate_v1(parent, grantee, step, earliest, latest, zone, origin,
                                           epoch, function_name, max_wait, max_block);
    delegate := ensure._find_delegate_v1(v_wanted);
    outcome := 'exists';
    if delegate is null then
        perform ensure._check_writable_v1(parent, v_wanted.schema_name,
                                          to_regrole(quote_ident(v_wanted.owner))::oid,
                                          format('delegate "%s" is missing', v_wanted.signature));
    end if;
    perform ensure._check_delegate_rights_v1(v_wanted);
    if delegate is null then
        select c.delegate, c.outcome into strict delegate, outcome
        from ensure._create_delegate_v1(v_wanted, max_block, max_wait) as c;
    end if;
    return next;
end
$fn$;

comment on function ensure.ensure_partition_delegate_v1(regclass, name, text, text, text, text,
                                                        text, text, name, interval, interval) is
    'grantee can have parent''s partitions made for keys of a window.';

-- migrate:down
drop function ensure.ensure_partition_delegate_v1(regclass, name, text, text, text, text, text,
                                                  text, name, interval, interval);
drop function ensure._create_delegate_v1(ensure._delegate_v1, interval, interval);
drop function ensure._make_delegate_v1(ensure._delegate_v1);
drop function ensure._check_delegate_rights_v1(ensure._delegate_v1);
drop function ensure._find_delegate_v1(ensure._delegate_v1);
drop function ensure._delegate_difference_v1(regprocedure, text, ensure._delegate_v1);
drop function ensure._wanted_delegate_v1(regclass, name, text, text, text, text, text, text, name,
                                         interval, interval);
drop function ensure._delegate_head_v1(ensure._delegate_v1, regtype);
drop function ensure._delegate_body_v1(ensure._delegate_v1, ensure._window_v1, text, text,
                                         text);
drop function ensure._check_window_v1(ensure._window_v1);
drop function ensure._list_window_v1(regclass, regtype, text, text);
drop function ensure._range_window_v1(regtype, integer, text, text, text, text, text, text);
drop function ensure._window_limit_v1(text, text, regtype, integer, text, text);
drop type ensure._window_v1;
drop type ensure._delegate_v1;
