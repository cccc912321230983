-- migrate:up
create function ensure.check_install_v1(
    client_pid integer default null
)
returns table (item text, value text, detail text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $fn$
-- check_install_v1: what of pg-ensure is installed here, and what of the server matters to it.
--
-- Returns  one row for the server, each extension, the pooler, the switch and each function.
--          client_pid is the process id that the client was given at connect (libpq: PQbackendPID).
--          It differs from the backend's own behind a pooler; without it the pooler is 'unknown'.
-- Locks    none beyond catalog reads; runs read-only and on a standby
-- Rights   USAGE on schema ensure
begin
    return query
    select 'server'::text, current_setting('server_version'),
           case when current_setting('server_version_num')::integer / 10000 between 14 and 18
                then 'supported' else 'not tested with pg-ensure; 14 to 18 are' end;

    return query
    select 'recovery'::text, case when pg_is_in_recovery() then 'standby' else 'primary' end,
           case when pg_is_in_recovery() then 'only calls that find nothing to do succeed here' end;

    return query
    select e.name, coalesce(x.extversion, 'not installed'), null::text
    from unnest(array['timescaledb', 'citus']) as e (name)
    left join pg_extension as x on x.extname = e.name;

    return query
    select 'pooler'::text,
           case when client_pid is null then 'unknown'
                when client_pid = pg_backend_pid() then 'no'
                else 'yes' end,
           case when client_pid is null
                then 'pass client_pid => the process id that your client was given at connect' end;

    return query
    select 'ensure.ddl'::text,
           coalesce(nullif(current_setting('ensure.ddl', true), ''), 'on'),
           case when ensure._ddl_allowed_v1() then 'calls may change the schema'
                else 'calls that would change something raise NS002' end;

    return query
    select substring(p.proname::text from '^(.*)_v\d+$'),
           substring(p.proname::text from '_(v\d+)$'),
           obj_description(p.oid, 'pg_proc')
    from pg_proc as p
    where p.pronamespace = 'ensure'::regnamespace
      and p.proname::text ~ '^[a-z].*_v\d+$'
    order by p.proname::text;
end
$fn$;

comment on function ensure.check_install_v1(integer) is
    'What of pg-ensure is installed here, and what of the server matters to it.';

-- migrate:down
drop function ensure.check_install_v1(integer);
