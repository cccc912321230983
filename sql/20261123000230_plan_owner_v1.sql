-- migrate:up
create function ensure.plan_owner_v1(
    new_owner name,
    schemas name[],
    excluded regclass[] default '{}',
    excluded_routines regprocedure[] default '{}'
)
returns table (step_number integer, statement text, in_transaction boolean, locks text, why text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- plan_owner_v1: the statements of ensure_owner_v1, each to be run as a transaction of its own.
--
-- Returns  no rows when the schemas, and all that is in them, belong to new_owner. why says which
--          right this role lacks for a statement
-- Errors   22004, 22023, 42602, 42939  bad input
--          3F000, 42704, 42883, 42P01  no such schema, role, routine or relation
--          42501  a SECURITY DEFINER routine belongs to a role that is no superuser, nor the
--                 schema's owner
-- Locks    none. Each statement: ACCESS EXCLUSIVE on one relation, its indexes and sequences
-- Rights   any role may ask
with w as materialized (
    select jsonb_build_object('owners', jsonb_build_array(jsonb_build_object(
        'new_owner', new_owner, 'schemas', schemas, 'excluded', excluded::text[],
        'excluded_routines', excluded_routines::text[]))) as spec
), c as materialized (
    select c.*
    from w
    cross join ensure._diff_roles_v1(w.spec) with ordinality
         as c (object, outcome, statement, relation, missing, remedy, seen, reads, place)
)
select c.place::integer, c.statement, true,
       'ACCESS EXCLUSIVE on ' || c.relation::text
           || case when r.relkind in ('r', 'p') then ', its indexes and sequences' else '' end,
       concat_ws('; ', c.object, 'this role lacks ' || c.missing, 'first run ' || c.remedy)
from c
cross join ensure._check_refused_v1(case when exists (select from c)
                                         then (select w.spec from w) end)
left join pg_class as r on r.oid = c.relation
order by c.place
$fn$;

comment on function ensure.plan_owner_v1(name, name[], regclass[], regprocedure[]) is
    'The statements of ensure_owner_v1, each to be run as a transaction of its own.';

-- migrate:down
drop function ensure.plan_owner_v1(name, name[], regclass[], regprocedure[]);
