-- migrate:up
create function ensure._attach_locks_v1(
    parents regclass[],
    exclusive boolean
)
returns table (relation regclass, mode text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_locks_v1: the locks that ATTACH PARTITION to parents takes on what was there, in order.
--
-- Returns  in one canonical order, the ones that writers meet first: in share row exclusive the
--          tables that foreign keys of parents point to with all their partitions, and, from 15,
--          tables whose foreign keys point at parents, a parent too where its tree points to
--          itself; default partitions and what is below in access exclusive; parents in share
--          update exclusive, or, to move rows out of a default partition, in access exclusive
-- Races    what an old snapshot shows and is gone by now is left out
with recursive defaults (oid) as (
    select p.partdefid
    from pg_partitioned_table as p
    where p.partrelid = any (parents) and p.partdefid <> 0
    union all
    select i.inhrelid
    from pg_inherits as i
    join defaults as d on d.oid = i.inhparent
), referenced (oid) as (
    select k.confrelid
    from pg_constraint as k
    where k.conrelid = any (parents) and k.contype = 'f'
    union
    select i.inhrelid
    from pg_inherits as i
    join referenced as r on r.oid = i.inhparent
), wanted (relation, mode, strength) as (
    select p.oid::oid, case when exclusive then 'access exclusive'
                            else 'share update exclusive' end, case when exclusive then 4 else 1 end
    from unnest(parents) as p (oid)
    union all
    select d.oid, 'access exclusive', 3
    from defaults as d
    union all
    select r.oid, 'share row exclusive', 2
    from referenced as r
    union all
    select p.oid::oid, 'share row exclusive', 2
    from unnest(parents) as p (oid)
    cross join pg_partition_ancestors(p.oid) as a (relid)
    join pg_constraint as k on k.conrelid = p.oid and k.contype = 'f' and k.confrelid = a.relid
    union all
    select k.conrelid, 'share row exclusive', 2
    from pg_constraint as k
    where k.confrelid = any (parents) and k.contype = 'f'
      and current_setting('server_version_num')::integer >= 150000
      and not exists (select from pg_constraint as u
                      where u.oid = k.conparentid and u.confrelid = k.confrelid)
), strongest as (
    select distinct on (w.relation) w.relation, w.mode, w.strength
    from wanted as w
    where has_table_privilege(w.relation, 'SELECT') is not null -- null: no such table now
    order by w.relation, w.strength desc
)
select s.relation::regclass, s.mode
from strongest as s
order by s.strength <> 4, s.strength <> 2, s.strength <> 3, s.relation
$fn$;

comment on function ensure._attach_locks_v1(regclass[], boolean) is
    'The locks that ATTACH PARTITION to parents takes on what was there, in order.';

create function ensure._run_v1(
    statement text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _run_v1: a statement that changes the schema is run, and shown where the setting ensure.log asks.
--
-- Returns  ensure.log: 'notice' shows it to the client, 'log' writes it to the server's log too
begin
    case lower(current_setting('ensure.log', true))
        when 'notice' then raise notice using message = statement;
        when 'log' then raise log using message = statement;
        else null;
    end case;
    execute statement;
end
$fn$;

comment on function ensure._run_v1(text) is
    'A statement that changes the schema is run, and shown where the setting ensure.log asks.';

create function ensure._create_statement_v1(
    columns_of regclass,
    source regclass,
    schema_name name,
    table_name name,
    partition_by text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _create_statement_v1: the CREATE TABLE of a partition-to-be; source tells where it is stored.
begin
    -- Indexes come with ATTACH: copied, exclusion constraints would be there twice from 17 on.
    return (select concat_ws(' ', format('create table %I.%I (like %s including all'
                                         ' excluding identity excluding indexes)',
                                         schema_name, table_name, columns_of),
                             'partition by ' || partition_by,
                             'using ' || quote_ident(a.amname),
                             'tablespace ' || quote_ident(s.spcname))
            from pg_class as c
            left join pg_am as a on a.oid = c.relam
            left join pg_tablespace as s on s.oid = c.reltablespace
            where c.oid = source
            order by c.xmax::text = '0' desc -- an old snapshot shows what we changed twice
            limit 1);
end
$fn$;

comment on function ensure._create_statement_v1(regclass, regclass, name, name, text) is
    'The CREATE TABLE of a partition-to-be; source tells where it is stored.';

create function ensure._attach_statement_v1(
    parent text,
    partition text,
    kind "char",
    lower_bound text,
    upper_bound text
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_statement_v1: the ALTER TABLE that attaches partition with these bounds.
begin
    return concat_ws(' ', 'alter table', parent, 'attach partition', partition, case kind
        when 'r' then format('for values from (%s) to (%s)',
                             case lower_bound when 'MINVALUE' then lower_bound
                                              else quote_literal(lower_bound) end,
                             case upper_bound when 'MAXVALUE' then upper_bound
                                              else quote_literal(upper_bound) end)
        when 'l' then format('for values in (%s)', quote_nullable(lower_bound))
        when 'h' then format('for values with (modulus %s, remainder %s)', upper_bound, lower_bound)
        else 'default' end);
end
$fn$;

comment on function ensure._attach_statement_v1(text, text, "char", text, text) is
    'The ALTER TABLE that attaches partition with these bounds.';

create function ensure._make_table_v1(
    columns_of regclass,
    source regclass,
    names name[],
    partition_by text
)
returns regclass
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set default_tablespace = ''
as $fn$
-- _make_table_v1: a new, empty table that can become a partition of columns_of, not yet attached.
--
-- Errors   NS007  each of names is taken by something else
-- Locks    ACCESS EXCLUSIVE on the new table until the end of the transaction; nobody else can see
--          it before
-- Rights   it belongs to the owner of source
declare
    c_schema constant name := (parse_ident(columns_of::text))[1];
    c_owner constant oid := (select c.relowner from pg_class as c where c.oid = source
                             order by c.xmax::text = '0' desc limit 1);
    v_name name;
    v_new text;
begin
    select n.name into v_name
    from unnest(names) with ordinality as n (name, rank)
    where to_regclass(format('%I.%I', c_schema, n.name)) is null
      and to_regtype(format('%I.%I', c_schema, n.name)) is null
    order by n.rank
    limit 1;
    if not found then
        raise exception using
            errcode = 'NS007',
            message = format('no name is free for a new partition of "%s"', columns_of),
            detail = format('Taken by something else: %s.', array_to_string(names, ', ')),
            hint = 'Rename or drop what has these names.';
    end if;

    v_new := format('%I.%I', c_schema, v_name);
    perform ensure._run_v1(ensure._create_statement_v1(columns_of, source, c_schema, v_name,
                                                       partition_by));
    if c_owner <> (select r.oid from pg_roles as r where r.rolname = current_user) then
        perform ensure._run_v1(format('alter table %s owner to %I', v_new,
                                      pg_get_userbyid(c_owner)));
    end if;
    return v_new;
end
$fn$;

comment on function ensure._make_table_v1(regclass, regclass, name[], text) is
    'A new, empty table that can become a partition of columns_of, not yet attached.';

create function ensure._orphan_v1(
    source regclass,
    schema_name name,
    table_name name
)
returns regclass
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _orphan_v1: the table of this name, when it is a partition that was made and never attached.
--
-- Returns  null unless it is an empty plain table of the owner of source, who calls, with the same
--          columns and nothing that source has not: one that holds rows may have been detached
begin
    return (
        select o.oid::regclass
        from pg_class as o
        join pg_class as s on s.oid = source
        where o.oid = to_regclass(format('%I.%I', schema_name, table_name))
          and o.relkind = 'r' and not o.relispartition and o.relpersistence = s.relpersistence
          and o.relowner = s.relowner and o.relrowsecurity in (false, s.relrowsecurity)
          and not o.relhasrules and not o.relhastriggers
          and not exists (select from pg_inherits as i where o.oid in (i.inhrelid, i.inhparent))
          and (select array_agg(row (a.attname, a.atttypid, a.atttypmod, a.attcollation,
                                     a.attnotnull, a.attgenerated) order by a.attname)
               from pg_attribute as a
               where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped)
              = (select array_agg(row (a.attname, a.atttypid, a.atttypmod, a.attcollation,
                                       a.attnotnull, a.attgenerated) order by a.attname)
                 from pg_attribute as a
                 where a.attrelid = source and a.attnum > 0 and not a.attisdropped)
          and pg_relation_size(o.oid) = 0
          and o.reltuples < 0 and o.relfilenode = o.oid -- never analyzed, never truncated: what
                                 -- shows that a partition is settled must come after its ATTACH
          and pg_get_userbyid(o.relowner) = current_user
          and not exists (select from pg_attribute as a
                          where a.attrelid = o.oid and a.attidentity <> '')
          and not exists (select from pg_index as x where x.indrelid = o.oid)
          and not exists (select from pg_constraint as k
                          where k.conrelid = o.oid
                            and (k.contype not in ('c', 'n') or not k.convalidated
                                 or k.connoinherit
                                 or k.contype = 'c'
                                    and k.conname not in (select p.conname from pg_constraint as p
                                                          where p.conrelid = source)))
        order by s.xmax::text = '0' desc
        limit 1);
end
$fn$;

comment on function ensure._orphan_v1(regclass, name, name) is
    'The table of this name, when it is a partition that was made and never attached.';

create function ensure._attach_orphan_v1(
    parent regclass,
    orphan regclass,
    kind "char",
    lower_bound text,
    upper_bound text
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set default_tablespace = ''
as $fn$
-- _attach_orphan_v1: orphan is a partition of parent now, or, where its rows do not fit, is not.
begin
    perform ensure._run_v1(ensure._attach_statement_v1(parent::text, orphan::text, kind,
                                                       lower_bound, upper_bound));
    return true;
exception
    when check_violation or datatype_mismatch or wrong_object_type or invalid_table_definition
         or object_not_in_prerequisite_state then
        return false;
end
$fn$;

comment on function ensure._attach_orphan_v1(regclass, regclass, "char", text, text) is
    'Orphan is a partition of parent now, or, where its rows do not fit, is not.';

-- migrate:down
drop function ensure._attach_orphan_v1(regclass, regclass, "char", text, text);
drop function ensure._orphan_v1(regclass, name, name);
drop function ensure._make_table_v1(regclass, regclass, name[], text);
drop function ensure._attach_statement_v1(text, text, "char", text, text);
drop function ensure._create_statement_v1(regclass, regclass, name, name, text);
drop function ensure._run_v1(text);
drop function ensure._attach_locks_v1(regclass[], boolean);
