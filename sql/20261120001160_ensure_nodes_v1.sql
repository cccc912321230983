-- migrate:up
create function ensure._ensure_nodes_v1(
    nodes ensure._node_v1[],
    template regclass,
    move boolean,
    max_block interval,
    max_wait interval
)
returns table (node integer, partition regclass, lower_bound text, upper_bound text, outcome text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _ensure_nodes_v1: each node lies in a partition, whatever its name; changes nothing when it does.
--
-- Returns  each partition once, in the order of nodes
-- Errors   as of ensure_partitions_v1
-- Locks    none when nothing is missing, but for what _see_partition_v1 takes for a moment; in a
--          read-only transaction with an old snapshot ACCESS SHARE on partitions that it does not
--          show
declare
    v_rows record;
    v_missing integer[];
    v_root record;
begin
    select array_agg(l.node) as node, array_agg(l.partition) as partition,
           array_agg(l.lower_bound) as lower_bound, array_agg(l.upper_bound) as upper_bound,
           array_agg('exists'::text) as outcome,
           array_agg(l.node) filter (where l.partition is null) as missing
    into v_rows
    from ensure._look_nodes_v1(nodes, case when current_setting('transaction_read_only')::boolean
                                           then 'derived' else 'snapshot' end) as l;
    v_missing := v_rows.missing;
    if v_missing is null then
        perform ensure._await_commit_v1(v_rows.partition);
    else
        for v_root in
            select n.root, c.relowner, s.nspname, min(m.node) as node
            from unnest(v_missing) as m (node)
            cross join lateral (select (nodes[m.node]).*) as n
            join pg_class as c on c.oid = n.root
            join pg_namespace as s on s.oid = c.relnamespace
            group by n.root, c.relowner, s.nspname
        loop
            perform ensure._check_writable_v1(v_root.root, v_root.nspname, v_root.relowner,
                                              ensure._missing_v1(nodes[v_root.node]));
        end loop;
        perform ensure._check_lock_table_v1(array_agg(distinct n.root), cardinality(v_missing))
        from unnest(v_missing) as m (node)
        cross join lateral (select (nodes[m.node]).*) as n;
        perform ensure._check_template_v1(template);
        select array_agg(c.node) as node, array_agg(c.partition) as partition,
               array_agg(c.lower_bound) as lower_bound, array_agg(c.upper_bound) as upper_bound,
               array_agg(c.outcome) as outcome
        into v_rows
        from ensure._create_partitions_v1(nodes, template, move, max_block, max_wait) as c;
    end if;
    perform ensure._see_nodes_v1(nodes, v_rows.node, v_rows.partition, v_rows.lower_bound);
    return query
    select f.node, f.partition::regclass, f.lower_bound, f.upper_bound, f.outcome
    from (select distinct on (u.partition) u.*
          from unnest(v_rows.node, v_rows.partition, v_rows.lower_bound, v_rows.upper_bound,
                      v_rows.outcome) with ordinality
               as u (node, partition, lower_bound, upper_bound, outcome, place)
          order by u.partition, u.node, u.place) as f
    order by f.node, f.place;
end
$fn$;

comment on function ensure._ensure_nodes_v1(ensure._node_v1[], regclass, boolean, interval,
                                            interval) is
    'Each node lies in a partition, whatever its name; changes nothing when it does.';

create function ensure._range_nodes_v1(
    parent regclass,
    key_column name,
    key_type regtype,
    lower_bounds text[],
    upper_bounds text[],
    labels text[],
    grid jsonb
)
returns ensure._node_v1[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _range_nodes_v1: the cells of a grid as nodes right below parent.
begin
    return array(
        select row (parent, parent, null, 'r', key_column, key_type, c.lower_bound, c.upper_bound,
                    c.label, null, grid)::ensure._node_v1
        from unnest(lower_bounds, upper_bounds, labels) with ordinality
             as c (lower_bound, upper_bound, label, place)
        order by c.place);
end
$fn$;

comment on function ensure._range_nodes_v1(regclass, name, regtype, text[], text[], text[], jsonb)
    is 'The cells of a grid as nodes right below parent.';

create function ensure._missing_v1(
    node ensure._node_v1
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _missing_v1: words for what is missing.
begin
    return case node.kind
        when 'r' then format('partition of "%s" from %s to %s is missing', node.root,
                             node.lower_bound, node.upper_bound)
        when 'l' then format('partition of "%s" for value %s is missing', node.root,
                             quote_nullable(node.lower_bound))
        when 'h' then format('partition of "%s" for modulus %s, remainder %s is missing', node.root,
                             node.upper_bound, node.lower_bound)
        else format('default partition of "%s" is missing', node.root) end;
end
$fn$;

comment on function ensure._missing_v1(ensure._node_v1) is
    'Words for what is missing.';

create function ensure._check_template_v1(
    template regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_template_v1: template, when given, is a table that can have storage parameters.
--
-- Errors   42809  it is something else, or gone
begin
    if template is not null and not exists (select from pg_class as c
                                            where c.oid = template and c.relkind = 'r') then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('template "%s" is not a plain table', template),
            hint = 'Name a table whose storage parameters new partitions shall have.';
    end if;
end
$fn$;

comment on function ensure._check_template_v1(regclass) is
    'Template, when given, is a table that can have storage parameters.';

-- migrate:down
drop function ensure._check_template_v1(regclass);
drop function ensure._missing_v1(ensure._node_v1);
drop function ensure._range_nodes_v1(regclass, name, regtype, text[], text[], text[], jsonb);
drop function ensure._ensure_nodes_v1(ensure._node_v1[], regclass, boolean, interval, interval);
