-- migrate:up
create function ensure._merge_statement_v1(
    target regclass,
    keeper_list jsonb,
    loser_list jsonb,
    columns_policy jsonb,
    archive regclass,
    places integer[]
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_statement_v1: the call of merge_rows_v1 for the losers at some places of a list.
select format('select * from ensure.merge_rows_v1(%L, %L, %L%s%s)', target,
              case when count(distinct n.keeper) = 1 then min(n.keeper::text)
                   else jsonb_agg(n.keeper order by p.place)::text end,
              jsonb_agg(n.loser order by p.place),
              ', columns_policy => ' || quote_literal(columns_policy),
              ', archive => ' || quote_literal(archive))
from unnest(places) with ordinality as p (at, place)
cross join lateral (select keeper_list -> p.at as keeper, loser_list -> p.at as loser) as n
$fn$;

comment on function ensure._merge_statement_v1(regclass, jsonb, jsonb, jsonb, regclass,
                                               integer[]) is
    'The call of merge_rows_v1 for the losers at some places of a list.';

create function ensure._merge_batches_v1(
    keepers jsonb[],
    batch integer
)
returns table (first integer, last integer, rest integer)
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _merge_batches_v1: which losers to merge in one statement, at most batch: groups as a whole.
--
-- Returns  of a group of more than batch its first piece; rest: how many of it come later
declare
    v_group record;
begin
    first := 1;
    last := 0;
    rest := 0;
    for v_group in
        select min(k.place)::integer as first, count(*)::integer as size
        from unnest(keepers) with ordinality as k (key, place)
        group by k.key
        order by 1
    loop
        if last >= first and v_group.first + v_group.size - first > batch then
            return next;
            first := v_group.first;
        end if;
        last := v_group.first + least(v_group.size, batch) - 1;
        if v_group.size > batch then
            rest := v_group.size - batch;
            return next;
            rest := 0;
            first := v_group.first + v_group.size;
            last := first - 1;
        end if;
    end loop;
    if last >= first then
        return next;
    end if;
end
$fn$;

comment on function ensure._merge_batches_v1(jsonb[], integer) is
    'Which losers to merge in one statement, at most batch: groups as a whole.';

create function ensure.plan_merge_rows_v1(
    target regclass,
    keeper jsonb,
    losers jsonb,
    columns_policy jsonb default null,
    archive regclass default null,
    batch integer default 500
)
returns table (step_number integer, statement text, in_transaction boolean, locks text, why text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
set array_nulls = on
as $fn$
-- plan_merge_rows_v1: the statements that merge losers into their keepers, some at a time.
--
-- Returns  calls of merge_rows_v1 for at most batch losers, each a transaction of its own and with
--          archive a run of its own. Groups are not split, so the statements do not depend on each
--          other; of a group of more than batch losers come the first, and the others when they
--          are gone. None when no loser is there
-- Errors   21000, 22003, 22004, 22007, 22008, 22023, 22P02, 42703, 42804, 42P01,
--                 42809, 0A000, P0002, 42501, 55000, NS010  as merge_rows_v1, as far as it is
--                 known before anything is merged
--          55P03  target is locked
-- Locks    ACCESS SHARE on target and what refers to it while they are read, given back
-- Races    computed from the losers that are there: run some, ask again, and the rest comes
-- Rights   SELECT on target; of its statements as merge_rows_v1
declare
    c_budget constant interval := '10 s';
    v_list record;
    v_found record;
    v_batch record;
begin
    if batch is null or batch not between 1 and 1000000 then
        raise exception using
            errcode = case when batch is null then 'null_value_not_allowed'
                           else 'invalid_parameter_value' end,
            message = 'batch must be a number from 1 to 1000000',
            hint = 'Leave it out to merge 500 losers at a time.';
    end if;
    perform ensure._check_merge_v1(target, archive);
    v_list := ensure._merge_list_v1(keeper, losers);
    v_found := ensure._look_ahead_v1(target, v_list.keeper_list, v_list.loser_list, columns_policy,
                                     c_budget);
    if v_found.losers = '{}' then
        return;
    end if;
    perform ensure._merge_obstacles_v1(target, v_found.losers, v_found.keepers, columns_policy,
                                       c_budget);
    step_number := 0;
    in_transaction := true;
    locks := format('EXCLUSIVE on %s and what refers to it', target);
    for v_batch in select b.* from ensure._merge_batches_v1(v_found.keepers, batch) as b loop
        step_number := step_number + 1;
        statement := ensure._merge_statement_v1(
            target, v_list.keeper_list, v_list.loser_list, columns_policy, archive,
            v_found.places[v_batch.first:v_batch.last]);
        why := format(case when v_batch.rest > 0
                           then '%s rows are merged into one; %s more of the group come after them'
                           else '%s rows are merged' end,
                      v_batch.last - v_batch.first + 1, v_batch.rest);
        return next;
    end loop;
end
$fn$;

comment on function ensure.plan_merge_rows_v1(regclass, jsonb, jsonb, jsonb, regclass, integer) is
    'The statements that merge losers into their keepers, some at a time.';

-- migrate:down
drop function ensure.plan_merge_rows_v1(regclass, jsonb, jsonb, jsonb, regclass, integer);
drop function ensure._merge_batches_v1(jsonb[], integer);
drop function ensure._merge_statement_v1(regclass, jsonb, jsonb, jsonb, regclass, integer[]);
