-- migrate:up
create function ensure._hypertables_v1()
returns table (
    relation oid,
    kind text,
    job_id integer,
    job_owner text,
    job_table regclass,
    owner_type regtype,
    follows boolean
)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _hypertables_v1: hypertables and continuous aggregates of TimescaleDB, with their jobs.
--
-- Returns  no rows without the extension, or where a view is not its own. owner_type: of
--          the owner in job_table, regrole or name; follows: from 2.25.2 on ALTER … OWNER takes
--          the jobs with it
declare
    c_extension constant oid := (select e.oid from pg_extension as e
                                 where e.extname = 'timescaledb');
    v_views integer;
    v_jobs regclass;
begin
    if c_extension is null then
        return;
    end if;
    -- Who has CREATE on the database can make views of these names: only its members are read.
    select count(*) filter (where n.nspname = 'timescaledb_information'),
           max(c.oid) filter (where c.relname = 'bgw_job')
    into v_views, v_jobs
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.objsubid = 0
                       and d.refclassid = 'pg_extension'::regclass and d.refobjid = c_extension
                       and d.deptype = 'e'
    where n.nspname = 'timescaledb_information'
          and c.relname in ('hypertables', 'continuous_aggregates', 'jobs')
       or n.nspname in ('_timescaledb_catalog', '_timescaledb_config') and c.relname = 'bgw_job';
    if v_views < 3 then
        return;
    end if;
    return query execute $sql$
        with t (oid, kind, schema, name, inner_schema, inner_name) as (
            select to_regclass(format('%I.%I', h.hypertable_schema, h.hypertable_name))::oid,
                   'hypertable', h.hypertable_schema, h.hypertable_name, null::name, null::name
            from timescaledb_information.hypertables as h
            union all
            select to_regclass(format('%I.%I', c.view_schema, c.view_name))::oid,
                   'continuous aggregate', c.view_schema, c.view_name,
                   c.materialization_hypertable_schema, c.materialization_hypertable_name
            from timescaledb_information.continuous_aggregates as c
        )
        select t.oid, t.kind, j.job_id, j.owner::text, $1, a.atttypid::regtype,
               string_to_array(substring(e.extversion from '^[0-9]+(?:\.[0-9]+)*'), '.')::integer[]
                   >= '{2,25,2}'::integer[]
        from t
        cross join pg_extension as e
        left join timescaledb_information.jobs as j
             on (j.hypertable_schema, j.hypertable_name) in ((t.schema, t.name),
                                                             (t.inner_schema, t.inner_name))
        left join pg_attribute as a on a.attrelid = $1 and a.attname = 'owner'
        where e.extname = 'timescaledb' and t.oid is not null
    $sql$ using v_jobs;
end
$fn$;

comment on function ensure._hypertables_v1() is
    'Hypertables and continuous aggregates of TimescaleDB, with their jobs.';

create function ensure._owned_objects_v1(
    schemas oid[],
    new_owner oid,
    excluded oid[],
    excluded_routines oid[]
)
returns table (class oid, object oid, owner oid, namespace oid, kind "char")
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _owned_objects_v1: the schemas, and what is in them, that new_owner does not own.
--
-- Returns  not what follows another object: sequences of columns, row types, arrays, from 17 on
--          multiranges; nor what belongs to an extension, or is excluded
with recursive
    kept (relation) as ( -- partitions and chunks too
        select e.relation from unnest(excluded) as e (relation)
        union
        select i.inhrelid from kept as k
        join pg_inherits as i on i.inhparent = k.relation
        join pg_class as p on p.oid = i.inhrelid
        where p.relispartition
           or k.relation in (select h.relation from ensure._hypertables_v1() as h)
    ),
    differs (class, object, owner, namespace, kind) as (
        select 'pg_namespace'::regclass, s.oid, s.nspowner, s.oid, null::"char"
        from pg_namespace as s
        where s.oid = any (schemas) and s.nspowner <> new_owner
        union all
        select 'pg_class'::regclass, c.oid, c.relowner, c.relnamespace, c.relkind
        from pg_class as c
        where c.relnamespace = any (schemas) and c.relowner <> new_owner
          and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
          and c.oid not in (select k.relation from kept as k)
          and not (c.relkind = 'S'
                   and exists (select from pg_depend as d
                               where d.classid = 'pg_class'::regclass and d.objid = c.oid
                                 and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                                 and d.deptype in ('a', 'i')))
        union all
        select 'pg_proc'::regclass, p.oid, p.proowner, p.pronamespace, p.prokind
        from pg_proc as p
        where p.pronamespace = any (schemas) and p.proowner <> new_owner
          and p.oid <> all (excluded_routines)
          and not exists (select from pg_depend as d -- constructors of ranges are a superuser's
                          where d.classid = 'pg_proc'::regclass and d.objid = p.oid
                            and d.refclassid = 'pg_type'::regclass and d.deptype = 'i')
        union all
        select 'pg_type'::regclass, t.oid, t.typowner, t.typnamespace, t.typtype
        from pg_type as t
        left join pg_class as r on r.oid = t.typrelid
        where t.typnamespace = any (schemas) and t.typowner <> new_owner
          and (t.typtype <> 'm' or current_setting('server_version_num')::integer < 170000)
          and coalesce(r.relkind = 'c', true)
          and t.typrelid not in (select k.relation from kept as k)
          and not exists (select from pg_type as e where e.typarray = t.oid)
        union all
        select 'pg_statistic_ext'::regclass, s.oid, s.stxowner, s.stxnamespace, null
        from pg_statistic_ext as s
        where s.stxnamespace = any (schemas) and s.stxowner <> new_owner
        union all
        select 'pg_collation'::regclass, c.oid, c.collowner, c.collnamespace, null
        from pg_collation as c
        where c.collnamespace = any (schemas) and c.collowner <> new_owner
        union all
        select 'pg_conversion'::regclass, c.oid, c.conowner, c.connamespace, null
        from pg_conversion as c
        where c.connamespace = any (schemas) and c.conowner <> new_owner
        union all
        select 'pg_operator'::regclass, o.oid, o.oprowner, o.oprnamespace, null
        from pg_operator as o
        where o.oprnamespace = any (schemas) and o.oprowner <> new_owner
        union all
        select 'pg_opclass'::regclass, o.oid, o.opcowner, o.opcnamespace, null
        from pg_opclass as o
        where o.opcnamespace = any (schemas) and o.opcowner <> new_owner
        union all
        select 'pg_opfamily'::regclass, o.oid, o.opfowner, o.opfnamespace, null
        from pg_opfamily as o
        where o.opfnamespace = any (schemas) and o.opfowner <> new_owner
        union all
        select 'pg_ts_dict'::regclass, d.oid, d.dictowner, d.dictnamespace, null
        from pg_ts_dict as d
        where d.dictnamespace = any (schemas) and d.dictowner <> new_owner
        union all
        select 'pg_ts_config'::regclass, c.oid, c.cfgowner, c.cfgnamespace, null
        from pg_ts_config as c
        where c.cfgnamespace = any (schemas) and c.cfgowner <> new_owner
    ),
    chunks (relation) as (
        select i.inhrelid from ensure._hypertables_v1() as h
        join pg_inherits as i on i.inhparent = h.relation
    ),
    definers (routine) as ( -- trusted as the schema's owner's, while it is his
        select p.oid from pg_proc as p
        join pg_namespace as n on n.oid = p.pronamespace and n.nspowner = p.proowner
        join pg_roles as r on r.oid = p.proowner and not r.rolsuper
        where p.pronamespace = any (schemas) and p.prosecdef
          and (ensure._superuser_v1() or has_schema_privilege(new_owner, n.oid, 'CREATE'))
    )
select d.class, d.object, d.owner, d.namespace, d.kind
from differs as d
where not (d.class = 'pg_class'::regclass
           and d.object in (select c.relation from chunks as c))
  and not exists (select from pg_depend as e
                  where e.classid = d.class and e.objid = d.object and e.objsubid = 0
                    and e.refclassid = 'pg_extension'::regclass and e.deptype = 'e')
order by case when d.class = 'pg_proc'::regclass
                   and d.object in (select f.routine from definers as f) then 0 else 1 end,
         case d.class when 'pg_namespace'::regclass then 0 when 'pg_class'::regclass then 1
         else 2 end, case when d.class <> 'pg_class'::regclass then d.class end, d.object
$fn$;

comment on function ensure._owned_objects_v1(oid[], oid, oid[], oid[]) is
    'The schemas, and what is in them, that new_owner does not own.';

-- migrate:down
drop function ensure._owned_objects_v1(oid[], oid, oid[], oid[]);
drop function ensure._hypertables_v1();
