-- migrate:up
create function ensure._partition_tree_v1(
    parent regclass
)
returns table (partition oid, above oid, pending boolean, level integer)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _partition_tree_v1: every table below parent, with the one it is attached to.
--
-- Returns  pending: DETACH CONCURRENTLY was not finished; what is below such a table is left out
-- Locks    none, where pg_partition_tree locks every table
with recursive tree (partition, above, pending, level) as (
    select i.inhrelid, i.inhparent, i.inhdetachpending, 1
    from pg_inherits as i
    where i.inhparent = parent
    union all
    select i.inhrelid, i.inhparent, i.inhdetachpending, t.level + 1
    from tree as t
    join pg_inherits as i on i.inhparent = t.partition
    where not t.pending
)
select t.partition, t.above, t.pending, t.level
from tree as t
$fn$;

comment on function ensure._partition_tree_v1(regclass) is
    'Every table below parent, with the one it is attached to.';

create function ensure._range_gaps_v1(
    parent regclass
)
returns table (lower_bound text, upper_bound text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _range_gaps_v1: what lies between two neighbouring partitions and belongs to neither.
--
-- Returns  no rows unless parent is partitioned by RANGE on one column with the operator class that
--          is the default of its type
-- Locks    none beyond catalog reads
declare
    v_key record;
begin
    select format_type(a.atttypid, -1) as type_name,
           (select format(' collate %I.%I', n.nspname, l.collname)
            from pg_collation as l
            join pg_namespace as n on n.oid = l.collnamespace
            where l.oid = p.partcollation[0]) as collation
    into v_key
    from pg_partitioned_table as p
    join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
    join pg_opclass as o on o.oid = p.partclass[0] and o.opcdefault
    where p.partrelid = parent and p.partstrat = 'r' and p.partnatts = 1;
    if not found then
        return;
    end if;
    return query execute format($sql$
        with bounds as (
            select regexp_match(pg_get_expr(c.relpartbound, 0), $2) as pair
            from pg_inherits as i
            join pg_class as c on c.oid = i.inhrelid
            where i.inhparent = $1 and not i.inhdetachpending
        ), texts as (
            select case when b.pair[1] like '''%%'
                        then replace(substr(b.pair[1], 2, length(b.pair[1]) - 2), '''''', '''')
                        else nullif(b.pair[1], 'MINVALUE') end as low,
                   case when b.pair[2] like '''%%'
                        then replace(substr(b.pair[2], 2, length(b.pair[2]) - 2), '''''', '''')
                        else nullif(b.pair[2], 'MAXVALUE') end as high
            from bounds as b
            where b.pair is not null
        ), neighbours as (
            select t.high, lead(t.low) over (order by t.low::%1$s%2$s nulls first) as next_low
            from texts as t
        )
        select n.high, n.next_low
        from neighbours as n
        where n.high::%1$s%2$s < n.next_low::%1$s%2$s
        $sql$, v_key.type_name, v_key.collation)
        using parent, format($re$FROM \(%1$s\) TO \(%1$s\)$re$, $re$('(?:[^']|'')*'|[^']*)$re$);
end
$fn$;

comment on function ensure._range_gaps_v1(regclass) is
    'What lies between two neighbouring partitions and belongs to neither.';

create function ensure._hash_gaps_v1(
    parent regclass
)
returns table (modulus integer, remainder integer)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _hash_gaps_v1: the remainders of the largest modulus that no partition takes.
--
-- Locks    none beyond catalog reads
with taken (modulus, remainder) as (
    select b.pair[1]::integer, b.pair[2]::integer
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    cross join regexp_match(pg_get_expr(c.relpartbound, 0),
                            'WITH \(modulus (\d+), remainder (\d+)\)') as b (pair)
    where i.inhparent = parent and not i.inhdetachpending and b.pair is not null
), largest (modulus) as (
    select max(t.modulus) from taken as t
)
select l.modulus, r.remainder
from largest as l
cross join generate_series(0, l.modulus - 1) as r (remainder)
where not exists (select from taken as t where r.remainder % t.modulus = t.remainder)
$fn$;

comment on function ensure._hash_gaps_v1(regclass) is
    'The remainders of the largest modulus that no partition takes.';

create function ensure._grid_findings_v1(
    parent regclass,
    step text,
    from_value text,
    until_value text,
    ahead integer,
    zone text,
    origin text,
    epoch text
)
returns table (partition regclass, finding text, detail text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _grid_findings_v1: cells of the grid that no partition covers, or one that does not contain them.
--
-- Errors   those of the grid of ensure_partitions_v1
-- Locks    none beyond catalog reads
declare
    v_key record;
    v_lower text[];
    v_upper text[];
begin
    select k.* into strict v_key from ensure._partition_key_v1(parent, 'r') as k;
    select array_agg(g.lower_bound order by g.place), array_agg(g.upper_bound order by g.place)
    into v_lower, v_upper
    from ensure._grid_v1(v_key.key_type, v_key.key_typmod, step, from_value, until_value, ahead,
                         zone, origin, epoch)
         with ordinality as g (lower_bound, upper_bound, label, place);
    return query
    select coalesce(case when not c.detached then c.partition end, parent)::regclass,
           case when not c.detached then 'overlaps' else 'missing' end,
           concat(format('no partition holds what is from %s to %s', c.cell_lower, c.cell_upper),
                  case when not c.detached then
                      format('; "%s" is from %s to %s', c.partition::regclass, c.lower_bound,
                             c.upper_bound) end),
           case when c.partition is null and c.cell_lower <> 'MINVALUE' then
               format('select * from ensure.ensure_partitions_v1(%L, %L, %L, zone => %L%s%s)',
                      parent, step, case when v_key.key_type = 'uuid'::regtype then to_timestamp(
                          ('x' || left(replace(c.cell_lower, '-', ''), 12))::bit(48)::bigint
                          / 1000.0)::text else c.cell_lower end, zone,
                      ', origin => ' || quote_literal(origin),
                      ', epoch => ' || quote_literal(epoch)) end
    from ensure._cover_ranges_v1(parent, v_key.key_column, v_key.key_type, v_lower, v_upper,
                                 '{}') as c
    where (c.holds and not c.detached) is not true
    order by c.cell, c.lower_bound;
end
$fn$;

comment on function ensure._grid_findings_v1(regclass, text, text, text, integer, text, text, text)
    is 'Cells of the grid that no partition covers, or one that does not contain them.';

create function ensure._replication_findings_v1(
    parent regclass
)
returns table (partition regclass, finding text, detail text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _replication_findings_v1: what logical replication leaves out, or whose writers it stops.
--
-- Returns  'not published'  siblings are listed in a publication, and no ancestor
--          'not subscribed'  siblings are known to a subscription, and no ancestor
--          'no replica identity'  published for UPDATE or DELETE, which fail here
-- Locks    none beyond catalog reads
declare
    v_schemas text[] := '{}';
begin
    if current_setting('server_version_num')::integer >= 150000 then
        execute 'select coalesce(array_agg(concat(n.pnpubid, '' '', n.pnnspid)), ''{}'')'
                ' from pg_publication_namespace as n' into v_schemas;
    end if;
    return query
    with members as materialized (
        select t.partition as oid, t.above, c.relkind, c.relreplident, t.partition::regclass as name
        from ensure._partition_tree_v1(parent) as t
        join pg_class as c on c.oid = t.partition
        where not t.pending and c.relpersistence = 'p'
    ), lineage as materialized (
        select m.oid, a.relid as ancestor
        from members as m
        cross join pg_partition_ancestors(m.oid) as a (relid)
    ), published as materialized (
        select p.oid as publication, l.oid
        from pg_publication as p
        cross join lineage as l
        join pg_class as c on c.oid = l.ancestor
        where p.puballtables or concat(p.oid, ' ', c.relnamespace) = any (v_schemas)
           or exists (select from pg_publication_rel as r
                      where r.prpubid = p.oid and r.prrelid = l.ancestor)
        group by 1, 2
    ), listed as materialized (
        select r.prpubid as publication, m.above,
               bool_or(coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') is not null)
               as partial
        from pg_publication_rel as r
        join members as m on m.oid = r.prrelid
        group by 1, 2
    )
    select m.name, 'not published',
           concat(format('publication %I lists siblings', p.pubname),
                  case when s.partial then ', with a row filter or a column list' end),
           case when not s.partial
                then format('alter publication %I add table %s', p.pubname, m.name) end
    from listed as s
    join pg_publication as p on p.oid = s.publication
    join members as m on m.above = s.above
    where not exists (select from published as u
                      join lineage as l on l.oid = u.oid
                      where u.publication = s.publication and m.oid in (u.oid, l.ancestor))
    union all
    select m.name, 'no replica identity',
           format('publication %I publishes what UPDATE and DELETE do', min(p.pubname)),
           format('alter table %s replica identity full', m.name)
    from members as m
    join published as u on u.oid = m.oid
    join pg_publication as p on p.oid = u.publication and (p.pubupdate or p.pubdelete)
    where m.relkind = 'r' and m.relreplident <> 'f'
      and not exists (select from pg_index as x
                      where x.indrelid = m.oid and x.indisvalid
                        and (m.relreplident = 'i' and x.indisreplident
                             or m.relreplident = 'd' and x.indisprimary))
    group by m.name
    union all
    select m.name, 'not subscribed', format('subscription %I has siblings', b.subname),
           format('alter subscription %I refresh publication', b.subname)
    from members as m
    join pg_subscription as b on b.oid in (select r.srsubid
                                           from pg_subscription_rel as r
                                           join members as s on s.oid = r.srrelid
                                           where s.above = m.above)
    where m.relkind = 'r'
      and not exists (select from pg_subscription_rel as r
                      join lineage as l on l.ancestor = r.srrelid
                      where r.srsubid = b.oid and l.oid = m.oid);
end
$fn$;

comment on function ensure._replication_findings_v1(regclass) is
    'What logical replication leaves out, or whose writers it stops.';

create function ensure.check_partitions_v1(
    parent regclass,
    step text default null,
    from_value anycompatible default null,
    until_value anycompatible default null,
    ahead integer default 0,
    zone text default 'UTC',
    origin text default null,
    template regclass default null,
    epoch text default null
)
returns table (partition regclass, finding text, detail text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
set extra_float_digits = 1
as $fn$
-- check_partitions_v1: what is wrong with the partitions of parent, no rows when nothing is.
--
-- Returns  partition, finding, detail, and the statement that mends it, null if it takes a choice
--          'differs'  from the table it is attached to; detail names the property. Storage
--          parameters are compared with those of template, and only when it is given
--          'being detached'  DETACH CONCURRENTLY did not finish
--          'gap'  a range between two neighbours, a remainder of HASH; partition is their parent
--          'missing', 'overlaps'  when step is given: of the grid of ensure_partitions_v1 a cell
--          that has no partition, or one that does not contain it
--          'not published', 'not subscribed'  siblings are replicated
--          'no replica identity'  UPDATE and DELETE fail, though they are published
--          'invalid index'  not used by queries, or its build is under way
-- Errors   22004  parent, ahead or zone is null; with step, from_value for an integer key
--          42P01, 42809  no such table; not partitioned; with step, not by range
--          0A000  a policy cannot be copied; with step, a key of another kind
--          22003, 22007, 22008, 22023, 40001, 54000  with step, as ensure_partitions_v1
-- Locks    none beyond catalog reads. Only where the policies of a partition are not stored like
--          those of parent, ACCESS SHARE on both for the moment of reading them
-- Rights   USAGE on schema ensure
begin
    if num_nulls(parent, ahead, zone) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'parent, ahead and zone must not be null',
            hint = 'Leave an argument out to get its default.';
    elsif ahead < 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'ahead must not be negative',
            detail = format('ahead is %s.', ahead),
            hint = 'Use zero or more.';
    elsif has_table_privilege(parent, 'SELECT') is null then -- null: no such table now
        raise exception using
            errcode = 'undefined_table',
            message = format('relation "%s" does not exist', parent),
            hint = 'Name a partitioned table, for example ''app.events''.';
    elsif not exists (select from pg_partitioned_table as p where p.partrelid = parent) then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not a partitioned table', parent),
            hint = 'Name a table with PARTITION BY.';
    end if;

    if step is not null then
        return query
        select g.*
        from ensure._grid_findings_v1(parent, step, from_value::text, until_value::text, ahead,
                                      zone, origin, epoch) as g;
    end if;
    return query
    with tree as materialized (
        select t.*, c.relkind
        from ensure._partition_tree_v1(parent) as t
        join pg_class as c on c.oid = t.partition
    ), tables as (
        select t.partition as oid, t.relkind, t.level from tree as t where not t.pending
        union all
        select parent, 'p', 0
    )
    select t.partition::regclass, 'being detached',
           format('from "%s"', t.above::regclass),
           format('alter table %s detach partition %s finalize', t.above::regclass,
                  t.partition::regclass)
    from tree as t
    where t.pending
    union all
    select t.oid::regclass, 'gap', format('from %s to %s', g.lower_bound, g.upper_bound), null
    from tables as t
    cross join ensure._range_gaps_v1(t.oid) as g
    where t.relkind = 'p'
    union all
    select t.oid::regclass, 'gap', format('modulus %s, remainder %s', g.modulus, g.remainder), null
    from tables as t
    cross join ensure._hash_gaps_v1(t.oid) as g
    where t.relkind = 'p'
    union all
    select t.oid::regclass, 'invalid index', x.indexrelid::regclass::text,
           case t.relkind when 'r' then format('reindex index concurrently %s',
                                               x.indexrelid::regclass) end
    from tables as t
    join pg_index as x on x.indrelid = t.oid and not x.indisvalid
    union all
    select r.* from ensure._replication_findings_v1(parent) as r
    order by 1, 2, 3;

    return query
    select t.partition::regclass, 'differs', s.property, s.statement
    from ensure._partition_tree_v1(parent) as t
    join pg_class as c on c.oid = t.partition and c.relkind in ('r', 'p')
    cross join ensure._property_statements_v1(t.above, t.partition, template)
               with ordinality as s (property, statement, rank)
    where not t.pending
    order by t.level, t.partition, s.rank;
end
$fn$;

comment on function ensure.check_partitions_v1(regclass, text, anycompatible, anycompatible,
                                               integer, text, text, regclass, text) is
    'What is wrong with the partitions of parent, no rows when nothing is.';

-- migrate:down
drop function ensure.check_partitions_v1(regclass, text, anycompatible, anycompatible,
                                         integer, text, text, regclass, text);
drop function ensure._replication_findings_v1(regclass);
drop function ensure._grid_findings_v1(regclass, text, text, text, integer, text, text, text);
drop function ensure._hash_gaps_v1(regclass);
drop function ensure._range_gaps_v1(regclass);
drop function ensure._partition_tree_v1(regclass);
