-- migrate:up
create function ensure._look_gate_v1(
    unique_key ensure._unique_key_v1,
    gate text,
    gate_name text,
    support oid
)
returns text
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_gate_v1: the gate on a key, by its trigger.
--
-- Returns  'there'; 'missing'; 'other' when it is not what would be made now, or does not fire: the
--          table has another name or owner, gate another word, a column another equality, somebody
--          disabled it. Not when the table has got another unique index since
declare
    v_fit boolean;
begin
    select t.tgenabled in ('O', 'A') and p.proowner = c.relowner
           and p.pronamespace = c.relnamespace
           and strpos(p.prosrc, ensure._gate_mark_v1(unique_key, gate, support)) > 0 into v_fit
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid
    join pg_proc as p on p.oid = t.tgfoid
    where t.tgrelid = unique_key.target and t.tgname = format('zz_ensure_gate_%s', gate_name);
    return case when v_fit then 'there' when found then 'other' else 'missing' end;
end
$fn$;

comment on function ensure._look_gate_v1(ensure._unique_key_v1, text, text, oid) is
    'The gate on a key, by its trigger.';

create function ensure._check_gate_names_v1(
    name text,
    owner oid
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_gate_names_v1: what has the names of the function and the table of a gate is of owner.
--
-- Errors   42501  somebody else has made it
begin
    if exists (select from pg_class as c
               where c.oid = to_regclass(name) and (c.relowner <> owner or c.relkind <> 'r'))
       or exists (select from pg_proc as p
                  where p.oid = to_regprocedure(name || '()') and p.proowner <> owner) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('"%s" is not of the owner of the gate', name),
            detail = 'The name is that of the function and the table of a gate of plan_unique_v1.',
            hint = 'Find out who made it, and drop it.';
    end if;
end
$fn$;

comment on function ensure._check_gate_names_v1(text, oid) is
    'What has the names of the function and the table of a gate is of owner.';

create function ensure._drop_gates_v1(
    target regclass,
    gate_name text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _drop_gates_v1: one gate of a table is gone, or without a name all of them.
--
-- Returns  with the functions and tables of the triggers, wherever they are
-- Errors   42501  as _check_gate_names_v1
-- Locks    ACCESS EXCLUSIVE on target
declare
    v_gate record;
begin
    for v_gate in
        select t.tgname as name, p.oid::regprocedure::text as routine, p.proowner as owner,
               format('%I.%I', n.nspname, p.proname) as hashes,
               p.proname = substr(t.tgname, 4) as own
        from pg_trigger as t
        join pg_proc as p on p.oid = t.tgfoid
        join pg_namespace as n on n.oid = p.pronamespace
        where t.tgrelid = target and t.tgparentid = 0
          and t.tgname ~ format('^zz_ensure_gate_%s$', coalesce(gate_name, '[0-9a-f]{12}'))
    loop
        execute format('drop trigger if exists %I on %s', v_gate.name, target);
        continue when not v_gate.own; -- what somebody gave the name of a gate
        perform ensure._check_gate_names_v1(v_gate.hashes, v_gate.owner);
        execute format('drop function if exists %s', v_gate.routine);
        execute format('drop table if exists %s', v_gate.hashes);
    end loop;
end
$fn$;

comment on function ensure._drop_gates_v1(regclass, text) is
    'One gate of a table is gone, or without a name all of them.';

create function ensure._make_gate_v1(
    target regclass,
    gate_name text,
    body text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _make_gate_v1: a gate is on target: a trigger, its function and its table.
--
-- Returns  the function runs with the rights of the table's owner, since a writer may not see the
--          row that it duplicates. Nobody else may make a trigger of it, default privileges or
--          not, nor is it one for any other table; its text is body, and it takes no argument
-- Errors   42501  as _check_gate_names_v1
-- Locks    SHARE ROW EXCLUSIVE on target; ACCESS EXCLUSIVE when there is one to be replaced
declare
    v_table record;
    v_gate record;
begin
    perform ensure._drop_gates_v1(target, gate_name);
    select format('%I.%I', n.nspname, format('ensure_gate_%s', gate_name)) as name,
           c.relowner as owner, c.relkind into v_table
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = target;
    perform ensure._check_gate_names_v1(v_table.name, v_table.owner);
    if to_regprocedure(format('%s()', v_table.name)) is not null then
        execute format('drop function %s()', v_table.name);
    end if;
    if to_regclass(v_table.name) is not null then
        execute format('drop table %s', v_table.name);
    end if;
    execute format('create unlogged table %s (key_hash bigint primary key)', v_table.name);
    execute format('alter table %s owner to %s', v_table.name, v_table.owner::regrole);
    -- A generic plan costs a third of a custom one; but it locks all partitions for each row.
    execute format('create %s %s() returns trigger language plpgsql volatile security definer'
                   ' set search_path = pg_catalog, pg_temp set row_security = off'
                   ' set plan_cache_mode = %s set enable_seqscan = off as %L',
                   'function', v_table.name,
                   case v_table.relkind when 'p' then 'force_custom_plan'
                                        else 'force_generic_plan' end, body);
    execute format('alter function %s() owner to %s', v_table.name, v_table.owner::regrole);
    execute format('revoke all on function %s() from public', v_table.name);
    for v_gate in
        select distinct o.what,
               case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from (select format('function %s()', v_table.name), p.proacl, p.proowner
              from pg_proc as p
              where p.oid = to_regprocedure(format('%s()', v_table.name))
              union all
              select format('table %s', v_table.name), c.relacl, c.relowner
              from pg_class as c
              where c.oid = to_regclass(v_table.name)) as o (what, acl, owner)
        cross join lateral aclexplode(o.acl) as a
        where a.grantee <> o.owner
    loop
        execute format('revoke all on %s from %s', v_gate.what, v_gate.grantee);
    end loop;
    execute format('create trigger %I before insert or update on %s for each row'
                   ' execute function %s()',
                   format('zz_ensure_gate_%s', gate_name), target, v_table.name);
end
$fn$;

comment on function ensure._make_gate_v1(regclass, text, text) is
    'A gate is on target: a trigger, its function and its table.';

create function ensure._gate_statement_v1(
    unique_key ensure._unique_key_v1,
    gate_name text,
    gate text,
    support oid,
    index_name name
)
returns text
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _gate_statement_v1: the statement that makes the gate, with the text of its function.
select format('select ensure._make_gate_v1(%L, %L, %s) as gate', unique_key.target::regclass,
              gate_name, ensure._dollar_v1(
                  'gate', ensure._gate_body_v1(unique_key, gate, gate_name, support,
                                               index_name)))
$fn$;

comment on function ensure._gate_statement_v1(ensure._unique_key_v1, text, text, oid, name) is
    'The statement that makes the gate, with the text of its function.';

create function ensure._ungate_v1(
    target regclass,
    indexes oid[],
    gate_name text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _ungate_v1: a gate of a table is gone, or without a name all of them, if the indexes are valid.
--
-- Errors   NS013  they are not; 42501  as _check_gate_names_v1
-- Locks    ACCESS EXCLUSIVE on target
begin
    if (select count(*) from pg_index as i
        where i.indexrelid = any (indexes) and i.indisvalid and i.indislive)
       <> cardinality(indexes) then
        raise exception using
            errcode = 'NS013',
            message = format('the gate of "%s" stays: its unique index is not valid', target),
            hint = 'Ask plan_unique_v1 for the next statements.';
    end if;
    perform ensure._drop_gates_v1(target, gate_name);
end
$fn$;

comment on function ensure._ungate_v1(regclass, oid[], text) is
    'A gate of a table is gone, or without a name all of them, if the indexes are valid.';

-- migrate:down
drop function ensure._ungate_v1(regclass, oid[], text);
drop function ensure._gate_statement_v1(ensure._unique_key_v1, text, text, oid, name);
drop function ensure._make_gate_v1(regclass, text, text);
drop function ensure._drop_gates_v1(regclass, text);
drop function ensure._check_gate_names_v1(text, oid);
drop function ensure._look_gate_v1(ensure._unique_key_v1, text, text, oid);
