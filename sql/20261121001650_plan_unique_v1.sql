-- migrate:up
create function ensure._check_gate_v1(
    gate text,
    batch integer
)
returns void
language plpgsql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_gate_v1: gate is one of the words there are, and batch a number of rows.
--
-- Errors   22004, 22023  they are not
begin
    if num_nulls(gate, batch) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = 'gate and batch must not be null',
            hint = 'Leave an argument out to get its default.';
    elsif gate not in ('refuse', 'skip', 'none') or batch not between 1 and 1000000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'gate must be refuse, skip or none, and batch between 1 and 1000000',
            detail = format('gate is %L, batch is %s.', gate, batch),
            hint = 'The gate refuses new duplicates, skips them, or is not there; batch is how many'
                   ' duplicates one transaction deals with.';
    end if;
end
$fn$;

comment on function ensure._check_gate_v1(text, integer) is
    'Gate is one of the words there are, and batch a number of rows.';

create function ensure._check_policy_v1(
    unique_key ensure._unique_key_v1,
    policy jsonb
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_policy_v1: what a plan is to do with losers can be done, as far as it is known.
--
-- Errors   as _check_loser_set_v1, _check_ahead_v1
begin
    if policy ->> 'loser_set' is not null and not pg_is_in_recovery() then
        perform ensure._check_loser_set_v1(unique_key.target, policy ->> 'loser_set');
    end if;
    perform ensure._check_ahead_v1(unique_key, policy ->> 'keep', policy ->> 'loser_set',
                                   policy ->> 'children');
end
$fn$;

comment on function ensure._check_policy_v1(ensure._unique_key_v1, jsonb) is
    'What a plan is to do with losers can be done, as far as it is known.';

create function ensure._plan_sweeps_v1(
    unique_key ensure._unique_key_v1,
    columns text[],
    policy jsonb,
    archive regclass,
    work text
)
returns table (statement text, in_transaction boolean, locks text, why text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _plan_sweeps_v1: one statement for each batch of duplicates, or the one that makes batches.
--
-- Errors   NS009  there are duplicates, and no keep
--          42501  as _look_queue_v1, _check_schema_v1
--          0A000, 42501, 55000, NS010  as _check_policy_v1
declare
    c_target constant regclass := unique_key.target;
    c_queue constant regclass := ensure._look_queue_v1(c_target, work);
    v_batches bigint := 0;
begin
    in_transaction := true;
    if c_queue is not null and pg_is_in_recovery() then
        v_batches := 1; -- a standby has the table, and not what is in it
    elsif c_queue is not null then
        execute format('select count(*) from %s', c_queue) into v_batches;
    end if;
    for v_place in 1 .. least(v_batches, 1000) loop
        statement := format('select ensure._sweep_unique_v1(%L, %L, %L, %L, %L, %L, %L, %L, %L)'
                            ' as row_count', c_target, columns, unique_key.predicate,
                            unique_key.nulls_equal, policy ->> 'keep', policy ->> 'loser_set',
                            policy ->> 'children', archive, work);
        locks := format('ROW EXCLUSIVE on %s and what refers to it; the rows of the batch'
                        ' FOR UPDATE', c_target);
        why := concat('a batch of duplicates', ', archived under the run '
                      || case when archive is not null
                              then md5(concat(work, c_queue::oid))::uuid::text end);
        return next;
    end loop;
    if v_batches = 0 and policy ->> 'keep' is null then
        perform ensure._raise_duplicates_v1(unique_key);
    elsif v_batches = 0 and (ensure._report_duplicates_v1(unique_key)).losers > 0 then
        if policy ->> 'gate' = 'none' then -- or it was looked at before the gate was made
            perform ensure._check_policy_v1(unique_key, policy);
        end if;
        perform ensure._check_schema_v1(c_target, true);
        statement := format('select ensure._queue_unique_v1(%L, %L, %L, %L, %L, %s, %L) as batches',
                            c_target, columns, unique_key.predicate, unique_key.nulls_equal,
                            policy ->> 'keep', policy ->> 'batch', work);
        locks := format('ACCESS SHARE on %s', c_target);
        why := format('the duplicates, in batches, into the table %s',
                      ensure._queue_name_v1(c_target, work));
        return next;
    end if;
end
$fn$;

comment on function ensure._plan_sweeps_v1(ensure._unique_key_v1, text[], jsonb, regclass, text) is
    'One statement for each batch of duplicates, or the one that makes batches.';

create function ensure._check_gateable_v1(
    unique_key ensure._unique_key_v1,
    gate_name text,
    policy jsonb
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_gateable_v1: a gate can be made, and what comes behind it, as far as it is known.
--
-- Errors   0A000, 42501, 42883, 42P01, 42704  as _check_gated_v1, _check_schema_v1
--          42501  as _check_gate_names_v1
--          NS009, NS010  as plan_unique_v1
declare
    c_target constant regclass := unique_key.target;
    v_names record;
begin
    perform ensure._check_gated_v1(unique_key);
    perform ensure._check_schema_v1(c_target, true);
    select format('%I.%I', n.nspname, format('ensure_gate_%s', gate_name)) as name,
           c.relowner as owner into v_names
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = c_target
      and not exists (select from pg_trigger as t -- or they go with it, whosever they are
                      where t.tgrelid = c.oid
                        and t.tgname = format('zz_ensure_gate_%s', gate_name));
    perform ensure._check_gate_names_v1(v_names.name, v_names.owner);
    if policy ->> 'keep' is null then
        perform ensure._raise_duplicates_v1(unique_key);
        return;
    end if;
    perform ensure._check_policy_v1(unique_key, policy);
end
$fn$;

comment on function ensure._check_gateable_v1(ensure._unique_key_v1, text, jsonb) is
    'A gate can be made, and what comes behind it, as far as it is known.';

create function ensure._next_steps_v1(
    unique_keys ensure._unique_key_v1[],
    columns text[],
    policy jsonb,
    archive regclass,
    index_name name,
    as_constraint boolean
)
returns table (statement text, in_transaction boolean, locks text, why text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _next_steps_v1: what is next to do in a plan, up to the next barrier.
--
-- Errors   as plan_unique_v1
declare
    c_target constant regclass := unique_keys[1].target;
    c_name constant text := ensure._gate_name_v1(unique_keys, index_name);
    c_gate constant text := ensure._gate_name_v1(unique_keys[:1], null);
    c_probe constant name := format('ensure_probe_%s', c_gate);
    c_word constant text := policy ->> 'gate';
    c_gates constant text[] := array(
        select substr(t.tgname, 16) from pg_trigger as t
        where t.tgrelid = c_target and t.tgparentid = 0
          and t.tgname ~ '^zz_ensure_gate_[0-9a-f]{12}$');
    v_indexes oid[];
    v_valid boolean;
    v_support record;
    v_gate text := 'missing';
begin
    select array_agg(l.index_oid), bool_and(l.state = 'valid') into v_indexes, v_valid
    from ensure._look_keys_v1(unique_keys, index_name) as l;
    if not v_valid then
        perform ensure._check_dedupe_v1(c_target, policy ->> 'keep', 'refuse', null, 'refuse',
                                        null);
        perform ensure._check_schema_v1(c_target, false);
    end if;
    if not v_valid and c_word <> 'none' then
        perform ensure._check_gate_triggers_v1(c_target, c_word);
        v_support := ensure._look_support_v1(unique_keys[1], c_probe);
        if v_support.state = 'valid' and c_gate = any (c_gates) then
            v_gate := ensure._look_gate_v1(unique_keys[1], c_word, c_gate, v_support.index_oid);
        end if;
    end if;
    if not v_valid and c_word <> 'none' and v_gate <> 'there' then
        perform ensure._check_gateable_v1(unique_keys[1], c_gate, policy);
        if v_support.state <> 'valid' then
            return query
            select b.* from ensure._build_statements_v1(unique_keys[1], null, true) as b;
            return;
        end if;
        return query
        select ensure._gate_statement_v1(
                   unique_keys[1], c_gate, c_word, v_support.index_oid,
                   coalesce(index_name, ensure._index_name_v1(unique_keys[2]))), true,
               format(case v_gate when 'missing' then 'SHARE ROW EXCLUSIVE on %s'
                      else 'ACCESS EXCLUSIVE on %s, for the catalogs alone' end, c_target),
               format('the gate, a trigger with a function and a table of key hashes: new'
                      ' duplicates are %s until the index is valid%s',
                      case c_word when 'skip' then 'skipped' else 'refused' end,
                      case when ensure._gate_hash_v1(unique_keys[1], v_support.index_oid) = '0'
                           then '; writers wait for each other, since a type has no hash' end);
    elsif not v_valid and c_word = 'none' and c_gate = any (c_gates) then
        return query
        select format('select ensure._ungate_v1(%L, %L, %L) as ungated', c_target, '{}', c_gate),
               true,
               format('ACCESS EXCLUSIVE on %s, for the catalogs alone', c_target),
               'no gate is wanted: its trigger, function and table go';
    elsif not v_valid then
        return query
        select s.*
        from ensure._plan_sweeps_v1(unique_keys[1], columns, policy, archive, c_name) as s;
        if not found then
            return query
            select b.*
            from generate_series(2, cardinality(unique_keys)) as p
            cross join lateral ensure._build_statements_v1(
                unique_keys[p], case when p = 2 then index_name end, false) as b;
        end if;
    elsif as_constraint and not exists (select from pg_constraint as u
                                        where u.conindid = v_indexes[1]
                                          and u.contype in ('p', 'u')) then
        return query
        select format('alter table %s add constraint %I unique using index %2$I', c_target,
                      c.relname), true,
               format('ACCESS EXCLUSIVE on %s, for the catalogs alone', c_target),
               'the index becomes a constraint'
        from pg_class as c
        where c.oid = v_indexes[1];
    elsif c_gates <> '{}' then -- those of others too, lest writers are refused for ever
        return query
        select format('select ensure._ungate_v1(%L, %L, null) as ungated', c_target, v_indexes),
               true,
               format('ACCESS EXCLUSIVE on %s, for the catalogs alone', c_target),
               'the index does what the gate did: its trigger, function and table go';
    else
        return query
        select format('drop table if exists %s', q.queue), true,
               format('ACCESS EXCLUSIVE on %s', q.queue), 'no batches are left'
        from (select ensure._look_queue_v1(c_target, c_name) as queue) as q
        where q.queue is not null
        union all
        select format('drop index %sif exists %s', case c.relkind when 'i' then 'concurrently ' end,
                      ensure._named_v1(c.oid)),
               c.relkind = 'I',
               format('%s on %s', case c.relkind when 'i' then 'SHARE UPDATE EXCLUSIVE'
                                  else 'ACCESS EXCLUSIVE' end, c_target),
               'nothing has to be found by it any more'
        from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        where i.indrelid = c_target and c.relname = c_probe
        union all
        select format('drop index concurrently if exists %s', ensure._named_v1(c.oid)), false,
               format('SHARE UPDATE EXCLUSIVE on %s', p.relid),
               'a plan that did not come to its end left it behind'
        from pg_partition_tree(c_target) as p
        join pg_index as i on i.indrelid = p.relid and p.level > 0
        join pg_class as c on c.oid = i.indexrelid and c.relkind = 'i'
        where c.relname ~ '^ensure_probe_[0-9a-f]{12}$'
          and not exists (select from pg_inherits as h where h.inhrelid = c.oid)
          and c.relname = format('ensure_probe_%s', ensure._gate_name_v1(
                  array[ensure._unique_key_v1(p.relid, unique_keys[1].elements,
                                              unique_keys[1].predicate,
                                              unique_keys[1].nulls_equal)], null));
    end if;
end
$fn$;

comment on function ensure._next_steps_v1(ensure._unique_key_v1[], text[], jsonb, regclass, name,
                                          boolean) is
    'What is next to do in a plan, up to the next barrier.';

create function ensure.plan_unique_v1(
    target regclass,
    columns text[],
    predicate text default null,
    nulls_equal boolean default true,
    keep text default null,
    losers text default 'refuse',
    loser_set text default null,
    children text default 'refuse',
    archive regclass default null,
    index_name name default null,
    split_nulls boolean default false,
    as_constraint boolean default false,
    gate text default 'refuse',
    batch integer default 500
)
returns table (step_number integer, statement text, in_transaction boolean, locks text, why text,
               plan_key text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- plan_unique_v1: the statements that make columns unique while everybody goes on writing.
--
-- Returns  what is next, up to the next barrier: an index to find duplicates by; the gate, a
--          trigger that refuses or skips new duplicates; sweeps, each a batch of duplicates; the
--          unique index; the constraint; and, once that is valid, the gate taken away. None when
--          all is done. Run them, ask again; what died on the way is found and mended
-- Errors   22004, 22023, 22P02, 42601, 42701, 42703, 42704, 42804, 42883, 42P02, 54000, 54011  bad
--                 input, as of ensure_unique_v1
--          42P01, 42809, 42P17  as ensure_unique_v1
--          0A000, 42501, 55000, NS001, NS002, NS007, NS009, NS010  as ensure_unique_v1: as far as
--                 it is known before anything is made; of a sweep also NS010, NS012, 55P03
--          0A000  a gate where a BEFORE trigger fires after it; one that skips on a partition
--          42501  the owner of target may not create in its schema; or somebody else has made what
--                 has the name of the function or the table of the gate
--          NS007  also: an index that this plan made is on something else, as who ran it read the
--                 key by another search_path
--          NS013  of the last statement: the index is not valid, so the gate stays
-- Locks    none; ACCESS SHARE on target while duplicates are counted, and on what refers to it; for
--          a moment ROW EXCLUSIVE on target when loser_set is read
-- Races    two who run it do no harm: a statement that came too late says so, and the next plan
--          goes on from what is there. Behind the gate two writers wait for each other as they
--          will with the index: for equal keys only, but for types without a hash. A plan that
--          ends takes all gates of target away; another one at work there puts its own back
-- Rights   as ensure_unique_v1
declare
    c_keys constant ensure._unique_key_v1[] :=
        ensure._unique_keys_v1(target, columns, predicate, nulls_equal, split_nulls);
begin
    -- keep is looked at when it is needed: that may wait behind ACCESS EXCLUSIVE
    perform ensure._check_dedupe_v1(target, null, losers, loser_set, children, archive);
    perform ensure._check_gate_v1(gate, batch);
    if as_constraint then
        perform ensure._check_constraint_v1(c_keys);
    end if;
    return query
    select s.place::integer, s.statement, s.in_transaction, s.locks, s.why,
           ensure._gate_name_v1(c_keys, index_name)
    from ensure._next_steps_v1(
             c_keys, columns,
             jsonb_build_object('keep', case when losers <> 'refuse' then keep end,
                                'loser_set', loser_set, 'children', children, 'gate', gate,
                                'batch', batch),
             archive, index_name, as_constraint)
         with ordinality as s (statement, in_transaction, locks, why, place);
    if found and not ensure._ddl_allowed_v1() then
        raise exception using
            errcode = 'NS002',
            message = format('"%s" is not made unique yet, and the setting ensure.ddl is off',
                             target),
            hint = 'Ask who switched it off: for this session by SET, or for the role or the'
                   ' database by ALTER … SET ensure.ddl.';
    end if;
end
$fn$;

comment on function ensure.plan_unique_v1(regclass, text[], text, boolean, text, text, text, text,
                                          regclass, name, boolean, boolean, text, integer) is
    'The statements that make columns unique while everybody goes on writing.';

-- migrate:down
drop function ensure.plan_unique_v1(regclass, text[], text, boolean, text, text, text, text,
                                    regclass, name, boolean, boolean, text, integer);
drop function ensure._next_steps_v1(ensure._unique_key_v1[], text[], jsonb, regclass, name,
                                    boolean);
drop function ensure._check_gateable_v1(ensure._unique_key_v1, text, jsonb);
drop function ensure._plan_sweeps_v1(ensure._unique_key_v1, text[], jsonb, regclass, text);
drop function ensure._check_policy_v1(ensure._unique_key_v1, jsonb);
drop function ensure._check_gate_v1(text, integer);
