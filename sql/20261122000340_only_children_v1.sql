-- migrate:up
create function ensure._only_tables_v1(
    target regclass,
    children text,
    child_tables regclass[]
)
returns regclass[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _only_tables_v1: the tables whose rows are moved when they refer to a row that is demoted.
--
-- Returns  without child_tables every one that refers to target but itself
select array(
    select distinct r.child
    from ensure._references_v1(target) as r
    where children <> 'leave'
      and case when child_tables is null then r.child <> target
               else r.child = any (child_tables) end)
$fn$;

comment on function ensure._only_tables_v1(regclass, text, regclass[]) is
    'The tables whose rows are moved when they refer to a row that is demoted.';

create function ensure._only_locks_v1(
    target regclass,
    children text,
    child_tables regclass[]
)
returns table (relation regclass, mode text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _only_locks_v1: the locks under which rows change, in the order to take them.
with recursive chosen (relation) as (
    select u.relation
    from unnest(ensure._only_tables_v1(target, children, child_tables)) as u (relation)
), tables (oid) as (
    select target::oid
    union
    select c.relation::oid from chosen as c
    union
    select t.relation::oid -- below those whose rows may have to be merged
    from chosen as c
    cross join lateral ensure._merge_tables_v1(c.relation, true) as t
    where children = 'merge'
      and exists (select from ensure._references_v1(target) as r
                  cross join lateral ensure._moved_indexes_v1(r.child, r.child_columns)
                  where r.child = c.relation)
    union
    select t.relation::oid -- what a cascade changes
    from ensure._merge_tables_v1(target, false) as t
    where children <> 'leave'
      and t.relation not in (select r.child from ensure._references_v1(target) as r)
), all_tables (oid) as (
    select t.oid from tables as t
    union
    select i.inhrelid
    from all_tables as t
    join pg_class as c on c.oid = t.oid and c.relkind = 'p'
    join pg_inherits as i on i.inhparent = t.oid
)
select t.oid::regclass, 'exclusive'
from all_tables as t
order by t.oid <> target, t.oid
$fn$;

comment on function ensure._only_locks_v1(regclass, text, regclass[]) is
    'The locks under which rows change, in the order to take them.';

create function ensure._only_children_v1(
    target regclass,
    losers jsonb[],
    keeper jsonb,
    children text,
    child_tables regclass[],
    archive regclass,
    run uuid
)
returns table (relation regclass, action text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _only_children_v1: rows of child_tables that referred to losers, which stay, refer to keeper.
--
-- Returns  as _merge_rows_v1: 'moved', 'deleted'
-- Errors   0A000, NS010, NS012  as _merge_rows_v1; NS010  a merge leads back to target
-- Races    the caller keeps writers out
declare
    c_tables constant regclass[] := ensure._only_tables_v1(target, children, child_tables);
    c_keepers constant jsonb[] := array_fill(keeper, array[cardinality(losers)]);
    v_child record;
    v_found record;
    v_done record;
begin
    if losers = '{}' or c_tables = '{}' then
        return;
    elsif target = any (c_tables) then
        perform ensure._check_places_v1(target, losers, c_keepers, true);
    end if;
    for v_child in
        select c.child, c.names from ensure._children_v1(target) as c
        where c.child = any (c_tables)
    loop
        perform ensure._check_moves_v1(target, v_child.child, losers, c_keepers, true,
                                       array[target]);
        loop
            v_found := ensure._collisions_v1(target, v_child.child, losers, c_keepers, true,
                                             array[target]);
            exit when v_found.child_losers is null;
            if children <> 'merge' or v_child.child = target then
                perform ensure._refuse_collisions_v1(
                    v_child.child, v_child.names, v_found.index_name, v_found.child_losers,
                    v_found.child_keepers, case when v_child.child = target then
                        'Rename or remove one of these rows before the call.' end);
            end if;
            for v_done in
                select m.* from ensure._merge_level_v1(
                    v_child.child, v_found.child_losers, v_found.child_keepers, null, 'merge',
                    archive, run, array[target]) as m
            loop
                if v_done.relation = target and v_done.action = 'deleted' then
                    perform ensure._refuse_collisions_v1(
                        v_child.child, v_child.names, v_found.index_name, v_done.gone, v_done.kept,
                        'Merge these rows yourself: they are of the table itself.');
                end if;
                relation := v_done.relation;
                action := v_done.action;
                row_count := v_done.row_count;
                return next;
            end loop;
        end loop;
        relation := v_child.child;
        action := 'moved';
        row_count := ensure._move_children_v1(target, v_child.child, losers, c_keepers, true,
                                              archive, run, array[target]);
        if row_count > 0 then
            return next;
        end if;
    end loop;
end
$fn$;

comment on function ensure._only_children_v1(regclass, jsonb[], jsonb, text, regclass[], regclass,
                                             uuid) is
    'Rows of child_tables that referred to losers, which stay, refer to keeper.';

-- migrate:down
drop function ensure._only_children_v1(regclass, jsonb[], jsonb, text, regclass[], regclass, uuid);
drop function ensure._only_locks_v1(regclass, text, regclass[]);
drop function ensure._only_tables_v1(regclass, text, regclass[]);
