-- migrate:up
create function ensure._ddl_allowed_v1()
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _ddl_allowed_v1: whether the setting ensure.ddl lets calls change the schema; unset means yes.
--
-- Returns  false for every value that does not clearly say yes: a mistyped switch is off
select lower(coalesce(nullif(current_setting('ensure.ddl', true), ''), 'on'))
       in ('on', 'true', 'yes', '1')
$fn$;

comment on function ensure._ddl_allowed_v1() is
    'Whether the setting ensure.ddl lets calls change the schema; unset means yes.';

-- migrate:down
drop function ensure._ddl_allowed_v1();
