-- migrate:up
create function ensure._check_role_v1(
    wanted jsonb
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_role_v1: wanted says what ensure_role_v1 takes.
--
-- Errors   22004, 22007, 22023, 42602, 42939  bad input
declare
    c_name constant text := wanted ->> 'role_name';
    c_place constant text := coalesce('role "' || c_name || '"', 'the role');
    v_limit numeric;
begin
    perform ensure._check_wanted_v1(wanted, c_place, '{role_name}', $types$ {
        "role_name": "string", "login": "boolean", "connection_limit": "number",
        "settings": "object", "member_of": "object array", "password_verifier": "string",
        "valid_until": "string", "database_settings": "object", "inherit": "boolean",
        "createdb": "boolean", "createrole": "boolean", "superuser": "boolean",
        "replication": "boolean", "bypassrls": "boolean"} $types$);
    perform ensure._check_role_name_v1(c_name, 'role_name');
    v_limit := wanted ->> 'connection_limit';
    if v_limit <> trunc(v_limit) or v_limit not between -1 and 2147483647 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('connection_limit of %s is %s', c_place, v_limit),
            hint = 'Give a whole number of sessions, or -1 for no limit.';
    end if;
    -- What PostgreSQL cannot read as a verifier it takes for a password in clear text.
    if wanted ->> 'password_verifier' !~ '^SCRAM-SHA-256\$[1-9][0-9]{0,9}:'
           '(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)'
           '\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$'
       or split_part(split_part(wanted ->> 'password_verifier', '$', 2), ':', 1)::numeric
          > 2147483647 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('password_verifier of %s is no SCRAM-SHA-256 verifier', c_place),
            detail = 'A password in clear text would be in logs and in pg_stat_statements.',
            hint = format('pg-ensure password %I makes the verifier from a password, and sends it.',
                          c_name);
    end if;
    -- Else each session would read its own order of day and month, and its own time zone.
    if wanted ->> 'valid_until' !~ ('^-?infinity$|^\d{4,}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?'
                                    ' ?(Z|UTC|[+-]\d\d(:?\d\d(:\d\d)?)?)( BC)?$') then
        raise exception using errcode = 'NS100';
    end if;
    perform (wanted ->> 'valid_until')::timestamptz;
exception when sqlstate 'NS100' or invalid_datetime_format or datetime_field_overflow then
    raise exception using
        errcode = 'invalid_datetime_format',
        message = format('valid_until of %s is no time with its zone', c_place),
        detail = format('It is "%s".', wanted ->> 'valid_until'),
        hint = 'Give a time such as 2030-01-01 00:00+00, or infinity.';
end
$fn$;

comment on function ensure._check_role_v1(jsonb) is
    'wanted says what ensure_role_v1 takes.';

create function ensure._diff_attributes_v1(
    wanted jsonb
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_attributes_v1: the statements that create the role, or give it the attributes of wanted.
--
-- Returns  what is not in wanted, or null there, is left alone. A role that another transaction
--          made after this one's snapshot is altered, whatever its attributes are
-- Rights   where pg_authid may not be read a verifier cannot be compared: it is always set
declare
    c_name constant text := wanted ->> 'role_name';
    c_version constant integer := current_setting('server_version_num');
    c_exists constant boolean := to_regrole(quote_ident(c_name)) is not null;
    c_me constant record := (select r from pg_roles as r where r.rolname = current_user limit 1);
    v_role record;
    v_clauses text;
    v_needs text;
    v_change ensure._change_v1;
begin
    select r.* into v_role from pg_roles as r where r.rolname = c_name;
    select string_agg(a.clause, ' ' order by a.place), min(a.needs)
    into v_clauses, v_needs
    from (
        select f.place,
               case when (wanted ->> f.key)::boolean is distinct from f.now or not c_exists
                    then case when coalesce((wanted ->> f.key)::boolean, false)
                              then '' else 'no' end || f.key end as clause,
               case when not c_me.rolsuper
                         and coalesce((wanted ->> f.key)::boolean, false) <> coalesce(f.now, false)
                    then f.needs end as needs
        from (values
            (1, 'superuser', v_role.rolsuper, true, 'SUPERUSER'),
            (2, 'createdb', v_role.rolcreatedb, true,
             case when c_version >= 160000 and not c_me.rolcreatedb then 'CREATEDB' end),
            (3, 'createrole', v_role.rolcreaterole, true, null),
            (4, 'inherit', v_role.rolinherit, false, null),
            (5, 'login', v_role.rolcanlogin, false, null),
            (6, 'replication', v_role.rolreplication, false,
             case when c_version < 160000 then 'SUPERUSER'
                  when not c_me.rolreplication then 'REPLICATION' end),
            (7, 'bypassrls', v_role.rolbypassrls, false,
             case when c_version < 160000 then 'SUPERUSER'
                  when not c_me.rolbypassrls then 'BYPASSRLS' end)
        ) as f (place, key, now, said, needs) -- said: by create role, asked for or not
        where wanted ->> f.key is not null or f.said and not c_exists
        union all
        select 8, format('connection limit %s', (wanted ->> 'connection_limit')::numeric::integer),
               null
        where (wanted ->> 'connection_limit')::numeric is distinct from v_role.rolconnlimit
          and wanted ->> 'connection_limit' is not null
        union all
        select 9, format('valid until %L', wanted ->> 'valid_until'), null
        where wanted ->> 'valid_until' is not null
          and (v_role.oid is null or (wanted ->> 'valid_until')::timestamptz
                                     <> coalesce(v_role.rolvaliduntil, 'infinity'))
    ) as a;
    v_change.object := format('role %I', c_name);
    v_change.seen := true;
    if not c_exists or v_clauses is not null then
        v_change.outcome := case when c_exists then 'altered' else 'created' end;
        v_change.statement := concat_ws(' ', case when c_exists then 'alter' else 'create' end,
                                        'role', quote_ident(c_name), v_clauses);
        select l.* into v_change.missing, v_change.remedy from ensure._lacks_role_v1(c_name) as l;
        if v_change.missing is null and v_needs is not null then
            v_change.missing := v_needs;
            v_change.remedy := case when v_needs <> 'SUPERUSER' then
                format('alter role %I %s', current_user, lower(v_needs)) end;
        end if;
        return next v_change;
    end if;
    if wanted ->> 'password_verifier' is null then
        return;
    end if;
    v_change.seen := has_table_privilege('pg_authid', 'SELECT');
    if v_change.seen then -- a query of its own: to plan it takes the right to read
        if (select min(a.rolpassword) from pg_authid as a where a.rolname = c_name)
           = wanted ->> 'password_verifier' then
            return;
        end if;
    end if;
    v_change.object := format('password of role %I', c_name);
    v_change.outcome := 'set';
    v_change.statement := format('alter role %I password %L', c_name,
                                 wanted ->> 'password_verifier');
    v_change.missing := null;
    v_change.remedy := null;
    if c_name <> current_user then
        select l.* into v_change.missing, v_change.remedy from ensure._lacks_role_v1(c_name) as l;
    end if;
    return next v_change;
end
$fn$;

comment on function ensure._diff_attributes_v1(jsonb) is
    'The statements that create the role, or give it the attributes of wanted.';

create function ensure._check_setting_v1(
    place text,
    parameter text,
    value jsonb
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_setting_v1: value is one that a setting can have, and what pg_db_role_setting keeps of it.
--
-- Returns  null for null
-- Errors   22023  no value for a setting; a list in one string; a setting of a transaction
--          55P02  a setting of the whole server
declare
    c_quoted constant boolean := lower(parameter) in (
        'search_path', 'temp_tablespaces', 'local_preload_libraries', 'session_preload_libraries',
        'shared_preload_libraries', 'unix_socket_directories'); -- whose elements PostgreSQL quotes
begin
    if parameter = '' or jsonb_typeof(value) = 'object'
       or exists (select
                  from jsonb_array_elements(case when jsonb_typeof(value) = 'array'
                                                 then value else '[]' end) as e (element)
                  where jsonb_typeof(e.element) in ('object', 'array', 'null'))
       or c_quoted and jsonb_typeof(value) <> 'array' and value #>> '{}' ~ ',' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" of %s is no value of a setting', parameter, place),
            detail = format('It is %s.', left(value::text, 200)),
            hint = 'Give a string, number or boolean, null to reset it, or for a list an array such'
                   ' as ["app", "public"].';
    end if;
    if lower(parameter) in ('transaction_isolation', 'transaction_read_only',
                          'transaction_deferrable', 'role', 'session_authorization') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" of %s is of a transaction or session', parameter, place),
            hint = case when lower(parameter) in ('role', 'session_authorization')
                        then 'Leave it out; member_of says which roles this one may become.'
                        else 'Set default_transaction_isolation and the like instead.' end;
    elsif (select s.context from pg_settings as s where lower(s.name) = lower(parameter))
          in ('internal', 'postmaster', 'sighup') then
        raise exception using
            errcode = 'cant_change_runtime_param',
            message = format('"%s" of %s is a setting of the whole server', parameter, place),
            hint = 'Leave it out; ALTER SYSTEM or the configuration file sets it.';
    end if;
    return case jsonb_typeof(value)
               when 'array' then
                   (select coalesce(string_agg(case when c_quoted then quote_ident(e.element)
                                                    else e.element end,
                                               ', ' order by e.place),
                                    case when c_quoted then quote_ident('') else '' end)
                    from jsonb_array_elements_text(value) with ordinality as e (element, place))
               when 'null' then null
               else case when c_quoted then quote_ident(value #>> '{}')
                         else value #>> '{}' end end;
end
$fn$;

comment on function ensure._check_setting_v1(text, text, jsonb) is
    'Value is one that a setting can have, and what pg_db_role_setting keeps of it.';

create function ensure._lacks_setting_v1(
    parameter text,
    out missing text,
    out remedy text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _lacks_setting_v1: what this role lacks to set parameter for a role, beside rights on the role.
declare
    c_context constant text := (select s.context from pg_settings as s
                                where lower(s.name) = lower(parameter)
                                  and s.category <> 'Customized Options');
    v_may boolean := false;
begin
    if ensure._superuser_v1() or c_context in ('user', 'backend') then
        return;
    elsif c_context is null and parameter !~ '\.' then
        begin
            perform current_setting(parameter, true);
            return; -- there is none, which the statement says
        exception
            when insufficient_privilege then -- there is, and pg_settings hides it from this role
                null;
        end;
    end if;
    if current_setting('server_version_num')::integer >= 150000 then -- 14 has no such function
        execute 'select has_parameter_privilege($1, $$SET$$)' into v_may using parameter;
        if not v_may then
            missing := format('SET on parameter %s', parameter);
            remedy := format('grant set on parameter %s to %I',
                             (select string_agg(quote_ident(p.part), '.' order by p.place)
                              from regexp_split_to_table(parameter, '\.')
                                   with ordinality as p (part, place)), current_user);
        end if;
    else
        missing := 'SUPERUSER';
    end if;
end
$fn$;

comment on function ensure._lacks_setting_v1(text) is
    'What this role lacks to set parameter for a role, beside rights on the role.';

create function ensure._diff_settings_v1(
    role_name text,
    database_name text,
    settings jsonb
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_settings_v1: the statements that give the role these settings, in one database or in all.
--
-- Returns  a setting that is null is reset, one that is not named is left alone
-- Errors   22023  no value for a setting; one that is named twice
--          3D000  no such database
--          55P02  a setting of the whole server
declare
    c_in constant text := coalesce(' in database ' || quote_ident(database_name), '');
    c_place constant text := format('role %I%s', role_name, c_in);
    c_database constant oid := (select min(d.oid) from pg_database as d
                                where d.datname = database_name);
    c_set constant text[] := (select s.setconfig from pg_db_role_setting as s
                              where s.setrole = to_regrole(quote_ident(role_name))
                                and s.setdatabase = coalesce(c_database, 0) limit 1);
    v_setting record;
    v_text text;
    v_now text;
    v_change ensure._change_v1;
begin
    if database_name is not null and c_database is null then
        raise exception using
            errcode = 'invalid_catalog_name',
            message = format('database "%s" does not exist', database_name),
            hint = 'Create it, or mend the name in database_settings.';
    end if;
    select lower(s.key) as name, count(*) as times into v_setting
    from jsonb_object_keys(settings) as s (key) group by 1 having count(*) > 1 limit 1;
    if v_setting.times > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('settings of %s have "%s" more than once', c_place, v_setting.name),
            detail = 'PostgreSQL does not tell upper from lower case here.',
            hint = 'Name it once.';
    end if;
    for v_setting in
        select s.key, s.value from jsonb_each(settings) as s order by s.key collate "C"
    loop
        v_text := ensure._check_setting_v1(c_place, v_setting.key, v_setting.value);
        v_now := (select substr(c.entry, strpos(c.entry, '=') + 1) from unnest(c_set) as c (entry)
                  where lower(split_part(c.entry, '=', 1)) = lower(v_setting.key));
        continue when v_now is not distinct from v_text;
        v_change := row(format('%s of %s', v_setting.key, c_place),
                        case when v_text is null then 'reset' else 'set' end,
                        case when v_text is null
                             then format('alter role %I%s reset %I', role_name, c_in, v_setting.key)
                             else format('alter role %I%s set %I to %s', role_name, c_in,
                                         v_setting.key, case jsonb_typeof(v_setting.value)
                            when 'array' then coalesce((
                                select string_agg(quote_literal(e.element), ', ' order by e.place)
                                from jsonb_array_elements_text(v_setting.value)
                                     with ordinality as e (element, place)), quote_literal(''))
                            else quote_literal(v_setting.value #>> '{}') end) end,
                        null, null, null, true, null);
        if role_name <> current_user then
            select l.* into v_change.missing, v_change.remedy
            from ensure._lacks_role_v1(role_name) as l;
        end if;
        if v_change.missing is null then
            select l.* into v_change.missing, v_change.remedy
            from ensure._lacks_setting_v1(v_setting.key) as l;
        end if;
        return next v_change;
    end loop;
end
$fn$;

comment on function ensure._diff_settings_v1(text, text, jsonb) is
    'The statements that give the role these settings, in one database or in all.';

-- migrate:down
drop function ensure._diff_settings_v1(text, text, jsonb);
drop function ensure._lacks_setting_v1(text);
drop function ensure._check_setting_v1(text, text, jsonb);
drop function ensure._diff_attributes_v1(jsonb);
drop function ensure._check_role_v1(jsonb);
