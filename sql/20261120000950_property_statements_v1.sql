-- migrate:up
create function ensure._property_statements_v1(
    parent regclass,
    partition regclass,
    template regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
set extra_float_digits = 1
set plan_cache_mode = force_generic_plan
as $fn$
-- _property_statements_v1: the statements that make partition equal to parent, none when it is.
--
-- Returns  in the order to run them: what neither LIKE nor ATTACH carries over or keeps equal.
--          Owner, privileges, row security, policies, column settings and defaults, replica
--          identity, triggers, statistics, comments that parent has; storage parameters as those of
--          template, and only when it is given. What partition has of its own stays, but for
--          privileges, policies and storage parameters. Access method, tablespace, extra indexes,
--          constraints and triggers may differ
-- Errors   0A000  a policy cannot be copied
-- Locks    none beyond catalog reads
declare
    v record;
begin
    select w.relowner, w.relowner <> h.relowner as moved,
           w.relowner <> h.relowner or w.relacl is distinct from h.relacl
           or exists (select from pg_attribute as a
                      where a.attrelid in (parent, partition) and a.attacl is not null) as granted,
           w.relrowsecurity or w.relforcerowsecurity or h.relrowsecurity or h.relforcerowsecurity
           or exists (select from pg_policy as p
                      where p.polrelid in (parent, partition)) as guarded,
           h.relkind, h.reloptions, h.reltoastrelid
    into v
    from pg_class as w
    cross join pg_class as h
    where w.oid = parent and h.oid = partition
    order by w.xmax::text = '0' desc -- an old snapshot shows what we changed twice
    limit 1;

    if v.moved then
        property := 'owner';
        statement := format('alter table %s owner to %I', partition, pg_get_userbyid(v.relowner));
        return next;
    end if;
    if v.granted then
        return query select s.* from ensure._privilege_statements_v1(parent, partition) as s;
    end if;
    if v.guarded then
        return query select s.* from ensure._policy_statements_v1(parent, partition) as s;
        return query
        select 'comment', format('comment on policy %I on %s is %L', w.polname, partition,
                                 d.description)
        from pg_policy as w
        join pg_description as d on d.classoid = 'pg_policy'::regclass and d.objoid = w.oid
        left join pg_policy as h on h.polrelid = partition and h.polname = w.polname
        where w.polrelid = parent
          and d.description is distinct from obj_description(h.oid, 'pg_policy');
    end if;
    return query select s.* from ensure._column_statements_v1(parent, partition) as s;
    return query select s.* from ensure._object_statements_v1(parent, partition) as s;
    return query select s.* from ensure._extended_statistics_v1(parent, partition) as s;
    if template is not null and v.relkind = 'r' then
        return query
        select 'storage parameters', format('alter table %s %s', partition, o.change)
        from pg_class as t
        left join pg_class as x on x.oid = t.reltoastrelid
        left join pg_class as h on h.oid = v.reltoastrelid
        cross join lateral (
            select * from ensure._option_changes_v1(t.reloptions, v.reloptions, '')
            union all
            select * from ensure._option_changes_v1(x.reloptions, h.reloptions, 'toast.')
            where h.oid is not null
        ) as o (change)
        where t.oid = template;
    end if;
end
$fn$;

comment on function ensure._property_statements_v1(regclass, regclass, regclass) is
    'The statements that make partition equal to parent, none when it is.';

-- migrate:down
drop function ensure._property_statements_v1(regclass, regclass, regclass);
