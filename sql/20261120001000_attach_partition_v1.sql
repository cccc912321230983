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
-- _attach_locks_v1: the locks that ATTACH PARTITION takes on what was there, in canonical order.
--
-- Returns  parent first, in share update exclusive; then by oid its default partition and what is
--          below that in access exclusive; tables that its foreign keys point to (their partitions
--          have constraints of their own) and, from 15, tables whose foreign keys point at it in
--          share row exclusive, parent too where its tree points to itself
-- Races    what an old snapshot shows and is gone by now is left out
with recursive defaults (oid) as (
    select p.partdefid
    from pg_partitioned_table as p
    where p.partrelid = parent and p.partdefid <> 0
    union all
    select i.inhrelid
    from pg_inherits as i
    join defaults as d on d.oid = i.inhparent
), wanted (relation, mode, strength) as (
    select parent::oid, 'share update exclusive', 1
    union all
    select d.oid, 'access exclusive', 3
    from defaults as d
    union all
    select k.confrelid, 'share row exclusive', 2
    from pg_constraint as k
    where k.conrelid = parent and k.contype = 'f'
    union all
    select parent::oid, 'share row exclusive', 2
    from pg_constraint as k
    join pg_partition_ancestors(parent) as a (relid) on a.relid = k.confrelid
    where k.conrelid = parent and k.contype = 'f'
    union all
    select k.conrelid, 'share row exclusive', 2
    from pg_constraint as k
    where k.confrelid = parent and k.contype = 'f'
      and current_setting('server_version_num')::integer >= 150000
      and not exists (select from pg_constraint as u
                      where u.oid = k.conparentid and u.confrelid = parent)
), strongest as (
    select distinct on (w.relation) w.relation, w.mode
    from wanted as w
    where has_table_privilege(w.relation, 'SELECT') is not null -- null: no such table now
    order by w.relation, w.strength desc
)
select s.relation::regclass, s.mode
from strongest as s
order by s.relation <> parent, s.relation
$fn$;

comment on function ensure._attach_locks_v1(regclass) is
    'The locks that ATTACH PARTITION takes on what was there, in canonical order.';

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
-- _attach_partition_v1: a new, empty partition has these bounds; the caller holds the locks.
--
-- Errors   NS001  it came out with other bounds
--          NS007  each of names is taken by something else
--          23514  the default partition holds rows of the range
-- Locks    ACCESS EXCLUSIVE on the new table until the end of the transaction; nobody else can see
--          it before
-- Rights   owner of parent, CREATE on its schema; the new table belongs to the owner of parent
declare
    v_table record;
    v_name name;
    v_new regclass;
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
            message = format('no name is free for the partition of "%s" from %s to %s',
                             parent, lower_bound, upper_bound),
            detail = format('Taken by something else: %s.', names),
            hint = 'Rename or drop what has these names.';
    end if;

    -- Indexes come with ATTACH: copied, exclusion constraints would be there twice from 17 on.
    execute format('create table %I.%I (like %s including all'
                   ' excluding identity excluding indexes)%s%s',
                   v_table.nspname, v_name, parent,
                   ' using ' || quote_ident(v_table.amname),
                   ' tablespace ' || quote_ident(v_table.spcname));
    v_new := format('%I.%I', v_table.nspname, v_name);
    if v_table.relowner <> (select r.oid from pg_roles as r where r.rolname = current_user) then
        execute format('alter table %s owner to %I', v_new, pg_get_userbyid(v_table.relowner));
    end if;
    execute format('alter table %s attach partition %s for values from (%s) to (%s)', parent, v_new,
                   case lower_bound when 'MINVALUE' then lower_bound
                                    else quote_literal(lower_bound) end,
                   case upper_bound when 'MAXVALUE' then upper_bound
                                    else quote_literal(upper_bound) end);

    if not exists (select from pg_inherits as i
                   join pg_class as c on c.oid = i.inhrelid
                   where i.inhrelid = v_new and i.inhparent = parent
                     and ensure._bounds_v1(pg_get_expr(c.relpartbound, 0))
                         = array[lower_bound, upper_bound]) then
        raise exception using
            errcode = 'NS001',
            message = format('partition "%s" of "%s" did not come out as asked for', v_new, parent),
            detail = format('The range asked for is from %s to %s.', lower_bound, upper_bound),
            hint = 'Look for an event trigger, or a type modifier of the key that rounds bounds.';
    end if;
    return v_new;
end
$fn$;

comment on function ensure._attach_partition_v1(regclass, name[], text, text) is
    'A new, empty partition has these bounds; the caller holds the locks.';

-- migrate:down
drop function ensure._attach_partition_v1(regclass, name[], text, text);
drop function ensure._attach_locks_v1(regclass);
