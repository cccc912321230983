-- migrate:up
create function ensure._published_v1(
    relation regclass,
    deletes boolean,
    updates boolean
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _published_v1: the publication for which rows of a table cannot be deleted or updated.
--
-- Returns  as it publishes that, and the table, or one of its partitions, has no replica identity
with recursive leaves (oid) as (
    select relation::oid
    union all
    select i.inhrelid
    from leaves as l
    join pg_inherits as i on i.inhparent = l.oid
    join pg_class as c on c.oid = i.inhrelid and c.relispartition
)
select min(p.pubname)
from leaves as l
join pg_class as c on c.oid = l.oid and c.relkind = 'r'
cross join lateral (
    select l.oid
    union
    select a.relid from pg_partition_ancestors(l.oid) as a (relid)) as u (oid)
join pg_class as t on t.oid = u.oid
join pg_namespace as n on n.oid = t.relnamespace
join pg_publication_tables as x on x.schemaname = n.nspname and x.tablename = t.relname
join pg_publication as p on p.pubname = x.pubname
where (deletes and p.pubdelete or updates and p.pubupdate)
  and c.relreplident <> 'f'
  and not exists (select from pg_index as i
                  where i.indrelid = c.oid and i.indislive and i.indimmediate
                    and case c.relreplident when 'd' then i.indisprimary
                                            when 'i' then i.indisreplident end)
$fn$;

comment on function ensure._published_v1(regclass, boolean, boolean) is
    'The publication for which rows of a table cannot be deleted or updated.';

create function ensure._rule_v1(
    relation regclass,
    deletes boolean,
    updates boolean
)
returns oid
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _rule_v1: the first rule on a table that is not disabled, for what is to be done there.
--
-- Returns  none of partitions: what is done to the table they are in does not run theirs
select w.oid
from pg_rewrite as w
where w.ev_class = relation and w.ev_enabled <> 'D'
  and (deletes and w.ev_type = '4' or updates and w.ev_type = '2')
order by w.rulename
limit 1
$fn$;

comment on function ensure._rule_v1(regclass, boolean, boolean) is
    'The first rule on a table that is not disabled, for what is to be done there.';

create function ensure._refuse_rule_v1(
    rule oid
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _refuse_rule_v1: says that a rule is in the way, if one is given.
--
-- Errors   0A000
declare
    v_rule record;
begin
    select w.rulename as name, w.ev_class::regclass as relation, w.is_instead,
           case w.ev_type when '4' then 'delete' else 'update' end as event,
           regexp_replace(pg_get_ruledef(w.oid), '\s+', ' ', 'g') as definition
    into v_rule
    from pg_rewrite as w
    where w.oid = rule;
    if found then
        raise exception using
            errcode = 'feature_not_supported',
            message = format(case when v_rule.is_instead
                                  then 'rule "%s" of "%s" would run instead of each %s'
                                  else 'rule "%s" of "%s" would run beside each %s' end,
                             v_rule.name, v_rule.relation, v_rule.event),
            detail = v_rule.definition,
            hint = format('Drop it, or disable it meanwhile: alter table %s disable rule %I.',
                          v_rule.relation, v_rule.name);
    end if;
end
$fn$;

comment on function ensure._refuse_rule_v1(oid) is
    'Says that a rule is in the way, if one is given.';

create function ensure._closed_table_v1(
    target regclass,
    deletes boolean,
    updates boolean,
    children text
)
returns table (relation regclass, hidden boolean, publication text, rule oid)
language sql
stable
rows 1
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _closed_table_v1: the first table that does not let rows change when losers of target go.
--
-- Returns  none when all do; deletes, updates: what is done to target itself
select t.relation, t.hidden, t.publication, t.rule
from (
    select m.relation, ensure._taken_name_v1(m.relation) as taken,
           m.relation <> target and row_security_active(m.relation) as hidden,
           u.refers and not (has_table_privilege(m.relation, 'SELECT')
                             and has_table_privilege(m.relation, 'UPDATE')) as forbidden,
           ensure._published_v1(m.relation, m.relation = target and deletes,
                                m.relation = target and updates or u.refers) as publication,
           ensure._rule_v1(
               m.relation, case when m.relation = target then deletes
                                else m.merged or u.cascades end,
               m.relation <> target or updates or u.refers) as rule
    from ensure._merge_tables_v1(target, children = 'merge') as m
    cross join lateral (
        select children in ('move', 'merge')
               and m.relation in (select r.child from ensure._references_v1(target) as r)
               as refers,
               exists (select from pg_constraint as f -- fires, though nothing is left to delete
                       where f.conrelid = m.relation and f.contype = 'f'
                         and f.confdeltype = 'c') as cascades) as u
    where m.relation = target or children in ('move', 'merge')) as t
where num_nonnulls(t.taken, t.publication, t.rule) > 0 or t.hidden or t.forbidden
order by t.relation <> target, t.relation::text collate "C"
limit 1
$fn$;

comment on function ensure._closed_table_v1(regclass, boolean, boolean, text) is
    'The first table that does not let rows change when losers of target go.';

create function ensure._refuse_table_v1(
    target regclass,
    closed record
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _refuse_table_v1: why a table that _closed_table_v1 found does not let its rows change.
--
-- Errors   0A000  as _check_names_v1; a rule is on it
--          42501  rows are hidden by row security, or may not be read and changed
--          55000  it is published, and has no replica identity
begin
    perform ensure._check_names_v1(closed.relation);
    perform ensure._refuse_rule_v1(closed.rule);
    if closed.publication is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('rows of "%s" cannot change: it is published, and has no replica'
                             ' identity', closed.relation),
            detail = format('Publication: %s.', quote_ident(closed.publication)),
            hint = format('Add a primary key, or: alter table %s replica identity full.',
                          closed.relation);
    end if;
    raise exception using
        errcode = 'insufficient_privilege',
        message = format(case when closed.hidden then 'row security hides rows of "%s"'
                              else 'rows of "%s" may not be read and changed' end,
                         closed.relation),
        detail = format('Some may refer to duplicates of "%s". This is %I.', target,
                        current_user),
        hint = case when closed.hidden then 'Call as a role with BYPASSRLS, or as the owner'
                                          ' where row security is not forced.'
                    else 'Grant SELECT and UPDATE on it.' end;
end
$fn$;

comment on function ensure._refuse_table_v1(regclass, record) is
    'Why a table that _closed_table_v1 found does not let its rows change.';

create function ensure._check_tables_v1(
    unique_key ensure._unique_key_v1,
    loser_set text,
    children text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_tables_v1: the tables whose rows change when duplicates are merged let them change.
--
-- Returns  nothing; looks whether there are duplicates only when one does not
-- Errors   0A000, 42501, 55000  as _refuse_table_v1
declare
    c_target constant regclass := unique_key.target;
    v_table record;
begin
    select t.* into v_table
    from ensure._closed_table_v1(c_target, loser_set is null, loser_set is not null,
                                 children) as t;
    if not found or (ensure._report_duplicates_v1(unique_key)).losers = 0 then
        return;
    end if;
    perform ensure._refuse_table_v1(c_target, v_table);
end
$fn$;

comment on function ensure._check_tables_v1(ensure._unique_key_v1, text, text) is
    'The tables whose rows change when duplicates are merged let them change.';

create function ensure._check_children_ahead_v1(
    target regclass,
    losers jsonb[],
    keepers jsonb[],
    spare_losers boolean,
    children text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_children_ahead_v1: nothing that is there now keeps what refers to losers from moving.
--
-- Errors   0A000, NS010  as _check_ahead_v1
declare
    v_child record;
    v_found record;
begin
    if children = 'refuse' then
        perform ensure._refuse_children_v1(target, losers, keepers, spare_losers);
        return;
    end if;
    perform ensure._check_places_v1(target, losers, keepers, spare_losers);
    for v_child in
        select c.child, c.names
        from ensure._children_v1(target) as c
        where not exists (select from pg_constraint as f -- or a key is changed by cascade first
                          where f.conrelid = c.child and f.contype = 'f'
                            and f.confrelid <> target)
    loop
        perform ensure._check_moves_v1(target, v_child.child, losers, keepers, true,
                                       array[target]);
        if children = 'move' then
            v_found := ensure._collisions_v1(target, v_child.child, losers, keepers, true,
                                             array[target]);
            if v_found.child_losers is not null then
                perform ensure._refuse_collisions_v1(
                    v_child.child, v_child.names, v_found.index_name, v_found.child_losers,
                    v_found.child_keepers, null);
            end if;
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_children_ahead_v1(regclass, jsonb[], jsonb[], boolean, text) is
    'Nothing that is there now keeps what refers to losers from moving.';

create function ensure._check_ahead_v1(
    unique_key ensure._unique_key_v1,
    keep text,
    loser_set text,
    children text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_ahead_v1: nothing that is there now keeps duplicates from being merged.
--
-- Returns  nothing; what cannot be known ahead is found when they are: what triggers do, what
--          collides once another table's rows have moved, and all of it beyond a million losers
-- Errors   0A000, 42501, 55000  as _check_tables_v1; 0A000 as _check_places_v1
--          NS010  rows refer to losers, or cannot be moved, or would be duplicates
-- Locks    ACCESS SHARE on what it reads
declare
    c_most constant integer := 1000000; -- they are in memory
    c_target constant regclass := unique_key.target;
    v_losers record;
begin
    perform ensure._check_tables_v1(unique_key, loser_set, children);
    if children = 'leave' or not exists (select from ensure._references_v1(c_target))
       or (ensure._report_duplicates_v1(unique_key)).losers not between 1 and c_most then
        return;
    end if;
    v_losers := ensure._losers_v1(unique_key, keep);
    perform ensure._check_children_ahead_v1(c_target, v_losers.losers, v_losers.keepers,
                                            loser_set is null, children);
end
$fn$;

comment on function ensure._check_ahead_v1(ensure._unique_key_v1, text, text, text) is
    'Nothing that is there now keeps duplicates from being merged.';

-- migrate:down
drop function ensure._check_ahead_v1(ensure._unique_key_v1, text, text, text);
drop function ensure._check_children_ahead_v1(regclass, jsonb[], jsonb[], boolean, text);
drop function ensure._check_tables_v1(ensure._unique_key_v1, text, text);
drop function ensure._refuse_table_v1(regclass, record);
drop function ensure._closed_table_v1(regclass, boolean, boolean, text);
drop function ensure._refuse_rule_v1(oid);
drop function ensure._rule_v1(regclass, boolean, boolean);
drop function ensure._published_v1(regclass, boolean, boolean);
