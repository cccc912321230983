-- migrate:up
create function ensure._plan_partition_v1(
    wanted ensure._node_v1,
    taken text[],
    template regclass,
    out new_name text,
    out statement text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _plan_partition_v1: the statement that makes one missing partition, with a name not in taken.
--
-- Errors   NS007  all names are taken
declare
    c_path constant text[] := parse_ident(wanted.parent::text);
    c_names constant name[] := ensure._partition_names_v1(c_path[2], wanted.lower_bound,
                                                          wanted.upper_bound, wanted.label);
    c_owner constant text := (select pg_get_userbyid(c.relowner) from pg_class as c
                              where c.oid = wanted.root);
    c_orphan constant regclass := ensure._orphan_v1(wanted.root, c_path[1], c_names[1]);
begin
    new_name := c_orphan;
    if new_name is null or new_name = any (taken) then
        select format('%I.%I', c_path[1], n.name) into new_name
        from unnest(c_names) with ordinality as n (name, rank)
        where to_regclass(format('%I.%I', c_path[1], n.name)) is null
          and to_regtype(format('%I.%I', c_path[1], n.name)) is null
          and format('%I.%I', c_path[1], n.name) <> all (taken)
        order by n.rank
        limit 1;
        if not found then
            raise exception using
                errcode = 'NS007',
                message = format('no name is free for a new partition of "%s"', wanted.parent),
                detail = format('Taken by something else: %s.', array_to_string(c_names, ', ')),
                hint = 'Rename or drop what has these names.';
        end if;
    end if;
    -- One transaction: nobody meets the table before it has the privileges of its parent.
    statement := format('do %L', format($block$
declare
    v_path constant pg_catalog.text := pg_catalog.current_setting('search_path');
    v_statement pg_catalog.text;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    %s;
    for v_statement in
        select s.statement
        from ensure._property_statements_v1(%L, %L, %L) as s
    loop
        execute v_statement;
    end loop;
    perform set_config('search_path', v_path, true);
end
$block$, concat_ws(
            E';\n    ',
            case when new_name is distinct from c_orphan::text then ensure._create_statement_v1(
                wanted.parent, wanted.root, c_path[1], (parse_ident(new_name))[2], null) end,
            case when c_owner <> current_user
                 then format('alter table %s owner to %I', new_name, c_owner) end,
            ensure._attach_statement_v1(wanted.parent::text, new_name, wanted.kind,
                                        wanted.lower_bound, wanted.upper_bound)),
        wanted.root, new_name, template));
end
$fn$;

comment on function ensure._plan_partition_v1(ensure._node_v1, text[], regclass) is
    'The statement that makes one missing partition, with a name not in taken.';

create function ensure.plan_partitions_v1(
    parent regclass,
    step text,
    from_value anycompatible default null,
    until_value anycompatible default null,
    ahead integer default 0,
    zone text default 'UTC',
    origin text default null,
    max_block interval default '500 ms',
    max_wait interval default '10 s',
    epoch text default null,
    regrid boolean default false,
    move_default_rows boolean default false,
    template regclass default null
)
returns table (step_number integer, statement text, in_transaction boolean, locks text, why text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
as $fn$
-- plan_partitions_v1: the statements with which each cell of the grid gets its partition.
--
-- Returns  one row for each partition, in the order to run them (step is an argument, so the
--          number is called step_number); none when nothing is missing. Run some, ask again, and
--          the rest comes back. Where rows of the default partition have to be moved the statement
--          is the call of ensure_partitions_v1 that does it
-- Errors   22003, 22004, 22007, 22008, 22023, 25000, 40001, 42809, 42P01  as ensure_partitions_v1
--          0A000, 54000, NS001, NS004, NS005, NS007, NS008  as ensure_partitions_v1
--          55P03  the creator of a partition does not come to the end of its commit
-- Locks    none; ACCESS SHARE on a default partition while it is read
-- Rights   as ensure_partitions_v1 when it finds everything; SELECT on a default partition
declare
    v_key record;
    v_nodes ensure._node_v1[];
    v_node ensure._node_v1;
    v_row record;
    v_missing ensure._node_v1[] := '{}';
    v_names text[] := '{}';
    v_move boolean := false;
begin
    select k.* into strict v_key from ensure._partition_key_v1(parent, 'r') as k;
    v_nodes := (
        select ensure._range_nodes_v1(
                   parent, v_key.key_column, v_key.key_type,
                   array_agg(g.lower_bound order by g.place),
                   array_agg(g.upper_bound order by g.place), array_agg(g.label order by g.place),
                   jsonb_build_object('step', step, 'zone', zone, 'origin', origin,
                                      'epoch', epoch, 'typmod', v_key.key_typmod,
                                      'regrid', regrid))
        from ensure._grid_v1(v_key.key_type, v_key.key_typmod, step, from_value::text,
                             until_value::text, ahead, zone, origin, epoch)
             with ordinality as g (lower_bound, upper_bound, label, place));
    for v_row in
        select l.* from ensure._look_nodes_v1(
            v_nodes, case when current_setting('transaction_read_only')::boolean
                          then 'derived' else 'snapshot' end) as l
        where l.partition is null
    loop
        v_node := v_nodes[v_row.node];
        v_node.lower_bound := v_row.lower_bound;
        v_node.upper_bound := v_row.upper_bound;
        v_missing := v_missing || v_node;
    end loop;
    if v_missing = '{}' then
        return;
    end if;
    perform ensure._check_missing_v1(v_missing, array[parent], 'derived');
    perform ensure._check_template_v1(template);
    v_move := ensure._check_defaults_v1(v_nodes, array[parent], move_default_rows, max_block, 0,
                                        clock_timestamp());
    in_transaction := true;
    step_number := 0;
    if v_move then
        step_number := 1;
        statement := format(
            'select ensure.ensure_partitions_v1(%L, %L, %L, %L, %s, %L, %s, %L, %L, %s, %L, true,'
            ' %s)', parent, step, from_value, until_value, ahead, zone, quote_nullable(origin),
            max_block, max_wait, quote_nullable(epoch), regrid, quote_nullable(template));
        locks := format('ACCESS EXCLUSIVE on %s and its default partition', parent);
        why := 'rows of the default partition have to be moved while nobody reads them';
        return next;
        return;
    end if;
    locks := (select string_agg(format('%s on %s', upper(l.mode), l.relation), ', '
                                order by l.place)
              from ensure._attach_locks_v1(array[parent], false) with ordinality
                   as l (relation, mode, place));
    why := 'created, attached, and given the privileges, row security and settings of the parent in'
           ' one transaction';
    foreach v_node in array v_missing loop
        step_number := step_number + 1;
        v_row := ensure._plan_partition_v1(v_node, v_names, template);
        statement := v_row.statement;
        v_names := v_names || v_row.new_name;
        return next;
    end loop;
end
$fn$;

comment on function ensure.plan_partitions_v1(regclass, text, anycompatible, anycompatible, integer,
                                              text, text, interval, interval, text, boolean,
                                              boolean, regclass) is
    'The statements with which each cell of the grid gets its partition.';

-- migrate:down
drop function ensure.plan_partitions_v1(regclass, text, anycompatible, anycompatible, integer,
                                        text, text, interval, interval, text, boolean, boolean,
                                        regclass);
drop function ensure._plan_partition_v1(ensure._node_v1, text[], regclass);
