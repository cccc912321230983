-- migrate:up
create function ensure._attach_locks_v1(
    parent regclass
)
returns table (relation regclass, mode text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_locks_v1: the locks on other relations that ATTACH PARTITION takes, and on parent, in canonical order.
--
-- Returns  parent first, in share update exclusive; then by oid its default partition in access exclusive; tables
--          that its foreign keys point to (their partitions have constraints of their own) and, from 15, tables
--          whose foreign keys point at it in share row exclusive
with wanted (relation, mode, strength) as (
    select parent::oid, 'share update exclusive', 1
    union all
    select p.partdefid, 'access exclusive', 3
    from pg_partitioned_table as p
    where p.partrelid = parent and p.partdefid <> 0
    union all
    select k.confrelid, 'share row exclusive', 2
    from pg_constraint as k
    where k.conrelid = parent and k.contype = 'f'
    union all
    select k.conrelid, 'share row exclusive', 2
    from pg_constraint as k
    where k.confrelid = parent and k.contype = 'f'
      and current_setting('server_version_num')::integer >= 150000
      and not exists (select from pg_constraint as u where u.oid = k.conparentid and u.confrelid = parent)
), strongest as (
    select distinct on (w.relation) w.relation, w.mode
    from wanted as w
    order by w.relation, w.strength desc
)
select s.relation::regclass, s.mode
from strongest as s
order by s.relation <> parent, s.relation
$fn$;

comment on function ensure._attach_locks_v1(regclass) is
    'The locks on other relations that ATTACH PARTITION takes, and on parent, in canonical order.';

create function ensure._attach_partition_v1(
    parent regclass,
    names name[],
    lower_bound text,
    upper_bound text
)
returns oid
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_partition_v1: a new, empty partition of parent with these bounds exists; the caller holds the locks.
--
-- Errors   NS007  each of names is taken by something else
-- Locks    ACCESS EXCLUSIVE on the new table until the end of the transaction, which nobody else can see before
-- Rights   owner of parent, CREATE on its schema; the new table belongs to the owner of parent
declare
    v_table record;
    v_name name;
begin
    select n.nspname, c.relowner, a.amname, s.spcname
    into strict v_table
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    left join pg_am as a on a.oid = c.relam
    left join pg_tablespace as s on s.oid = c.reltablespace
    where c.oid = parent;

    select n.name into v_name
    from unnest(names) with ordinality as n (name, rank)
    where to_regclass(format('%I.%I', v_table.nspname, n.name)) is null
      and to_regtype(format('%I.%I', v_table.nspname, n.name)) is null
    order by n.rank
    limit 1;
    if not found then
        raise exception using
            errcode = 'NS007',
            message = format('no name is free for the partition of "%s" from %s to %s', parent, lower_bound, upper_bound),
            detail = format('Taken by something else: %s.', names),
            hint = 'Rename or drop what has these names.';
    end if;

    execute format('create table %I.%I (like %s including all excluding identity)%s%s',
                   v_table.nspname, v_name, parent,
                   ' using ' || quote_ident(v_table.amname), ' tablespace ' || quote_ident(v_table.spcname));
    if v_table.relowner <> (select r.oid from pg_roles as r where r.rolname = current_user) then
        execute format('alter table %I.%I owner to %I', v_table.nspname, v_name, pg_get_userbyid(v_table.relowner));
    end if;
    execute format('alter table %s attach partition %I.%I for values from (%s) to (%s)',
                   parent, v_table.nspname, v_name,
                   case when lower_bound = 'MINVALUE' then lower_bound else quote_literal(lower_bound) end,
                   case when upper_bound = 'MAXVALUE' then upper_bound else quote_literal(upper_bound) end);
    return to_regclass(format('%I.%I', v_table.nspname, v_name));
end
$fn$;

comment on function ensure._attach_partition_v1(regclass, name[], text, text) is
    'A new, empty partition of parent with these bounds exists; the caller holds the locks.';

-- migrate:down
drop function ensure._attach_partition_v1(regclass, name[], text, text);
drop function ensure._attach_locks_v1(regclass);
