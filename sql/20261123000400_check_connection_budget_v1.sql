-- migrate:up
create function ensure._declared_v1(
    declared jsonb
)
returns table (role_name text, sessions bigint)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _declared_v1: how many sessions each role of declared may open: pool size times replicas.
--
-- Errors   22023  no object of numbers or of {"pool": …, "replicas": …}, which are whole
declare
    v_entry record;
    v_bad boolean;
begin
    if jsonb_typeof(declared) not in ('object', 'null') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'declared is no JSON object',
            detail = format('It is %s.', left(declared::text, 200)),
            hint = 'Give an object such as {"app": {"pool": 5, "replicas": 3}}.';
    end if;
    for v_entry in
        select d.key, d.value, d.value ->> 'pool' as pool, d.value ->> 'replicas' as replicas
        from jsonb_each(nullif(declared, 'null')) as d
    loop
        if jsonb_typeof(v_entry.value) = 'object' then
            v_bad := v_entry.value - array['pool', 'replicas'] <> '{}'
                     or coalesce(v_entry.pool !~ '^[0-9]{1,9}$', true)
                     or v_entry.replicas !~ '^[0-9]{1,9}$';
        else
            v_bad := v_entry.value #>> '{}' !~ '^[0-9]{1,9}$'
                     or jsonb_typeof(v_entry.value) <> 'number';
        end if;
        if v_bad then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('"%s" of declared is no number of sessions', v_entry.key),
                detail = format('It is %s.', left(v_entry.value::text, 200)),
                hint = 'Give for each role a whole number, or {"pool": 5, "replicas": 3}.';
        end if;
        role_name := v_entry.key;
        sessions := case when jsonb_typeof(v_entry.value) = 'object'
                         then v_entry.pool::bigint * coalesce(v_entry.replicas::bigint, 1)
                         else (v_entry.value #>> '{}')::bigint end;
        return next;
    end loop;
end
$fn$;

comment on function ensure._declared_v1(jsonb) is
    'How many sessions each role of declared may open: pool size times replicas.';

create function ensure.check_connection_budget_v1(
    declared jsonb default null
)
returns table (
    role_name name,
    finding text,
    connection_limit bigint,
    sessions bigint,
    declared_sessions bigint,
    detail text
)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- check_connection_budget_v1: whether what roles may open fits into what the server can take.
--
-- Returns  a row for each role that may log in and is no superuser, for each superuser that has
--          sessions beside this one, and for each name in declared; the last row is the sum, with
--          role_name null: of limits, or where there is none of what is declared, beside
--          max_connections less what is reserved. finding: 'ok', 'unlimited', 'full' (sessions
--          have reached the limit), 'declared over limit', 'no login', 'no such role',
--          'superuser sessions', 'over-committed'. declared: for each role the size of its pool
--          times replicas, {"app": {"pool": 5, "replicas": 3}}, or one number
-- Errors   22023  declared is no object of such numbers
-- Locks    none beyond catalog reads; runs read-only and on a standby
-- Rights   what pg_stat_activity hides from this role is missing in detail, and parallel workers
--          of others are then counted as sessions
with server (most, superusers, reserved) as (
    select current_setting('max_connections')::bigint,
           current_setting('superuser_reserved_connections')::bigint,
           coalesce(current_setting('reserved_connections', true), '0')::bigint -- from 16 on
), live as (
    select a.usesysid as oid, count(*) as sessions,
           string_agg(distinct concat_ws(' from ', quote_literal(nullif(a.application_name, '')),
                                         host(a.client_addr)), ', ') as applications
    from pg_stat_activity as a
    where a.usesysid is not null and a.pid <> pg_backend_pid()
      and a.datid is not null -- the launcher of logical replication has a role, and a hidden type
      and coalesce(a.backend_type, 'client backend') = 'client backend'
    group by a.usesysid
), roles as (
    select coalesce(r.rolname, d.role_name::name) as name, r.rolconnlimit::bigint as most,
           r.rolsuper,
           coalesce(l.sessions, 0) + (r.rolname = session_user and not r.rolsuper)::integer as live,
           d.sessions as declared, r.oid is null as gone, r.rolcanlogin, l.applications
    from pg_roles as r
    full join ensure._declared_v1(declared) as d on d.role_name = r.rolname
    left join live as l on l.oid = r.oid
    where d.role_name is not null or r.rolcanlogin and not r.rolsuper
       or r.rolsuper and l.sessions > 0
), findings as (
    select r.*,
           case when r.gone then 'no such role'
                when r.rolsuper and (r.live > 0 or r.declared > 0) then 'superuser sessions'
                when not r.rolcanlogin then 'no login'
                when r.rolsuper then 'ok'
                when r.declared > r.most and r.most >= 0 then 'declared over limit'
                when r.most < 0 then 'unlimited'
                when r.live >= r.most and r.most > 0 then 'full'
                else 'ok' end as finding,
           case when r.rolsuper then r.declared -- which no limit holds back
                when r.rolcanlogin then coalesce(nullif(r.most, -1), r.declared) end as budget
    from roles as r
)
(select f.name, f.finding, f.most, f.live, f.declared,
        case f.finding
            when 'no such role' then 'declared and not there: ensure_role_v1 makes it'
            when 'superuser sessions' then
                concat('no limit holds for a superuser; sessions beside this one: ',
                       coalesce(f.applications, 'none'))
            when 'no login' then 'declared, and it may not log in'
            when 'declared over limit' then
                format('%s sessions would be refused', f.declared - f.most)
            when 'unlimited' then 'it may take every connection that is left'
            when 'full' then 'the next session of it is refused' end
 from findings as f
 order by f.name)
union all
select null,
       case when sum(f.budget) > s.most - s.superusers - s.reserved
                 or sum(f.declared) > s.most - s.superusers - s.reserved then 'over-committed'
            when bool_or(f.finding = 'unlimited' and f.declared is null) then 'unlimited'
            else 'ok' end,
       coalesce(sum(f.budget), 0)::bigint, coalesce(sum(f.live), 0)::bigint,
       sum(f.declared)::bigint,
       format('%s of %s connections are for these roles (%s kept by superuser_reserved_connections,'
              ' %s by reserved_connections)%s',
              s.most - s.superusers - s.reserved, s.most, s.superusers, s.reserved,
              case when bool_or(f.finding = 'unlimited' and f.declared is null)
                   then '; those without limit are not in the sum' end)
from server as s
left join findings as f on true
group by s.most, s.superusers, s.reserved
$fn$;

comment on function ensure.check_connection_budget_v1(jsonb) is
    'Whether what roles may open fits into what the server can take.';

-- migrate:down
drop function ensure.check_connection_budget_v1(jsonb);
drop function ensure._declared_v1(jsonb);
