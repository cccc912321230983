-- migrate:up
create function ensure._sees_generated_v1(
    unique_key ensure._unique_key_v1
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _sees_generated_v1: a key or its predicate has to do with a generated column.
declare
    c_columns constant text := (
        select string_agg(format('%I', a.attname), ', ') from pg_attribute as a
        where a.attrelid = unique_key.target and a.attnum > 0 and not a.attisdropped
          and a.attgenerated = '');
    v_line text;
begin
    if not exists (select from pg_attribute as a
                   where a.attrelid = unique_key.target and a.attnum > 0 and a.attgenerated <> '')
    then
        return false;
    end if;
    for v_line in execute format(
        'explain select %s from (select %s from jsonb_populate_recordset(null::%s, %L)) as %I',
        concat_ws(', ', array_to_string(unique_key.expressions, ', '),
                  format('(%s%s)', coalesce(unique_key.predicate, 'true'), E'\n')),
        c_columns, unique_key.target::regclass, '[]',
        (select c.relname from pg_class as c where c.oid = unique_key.target))
    loop
        null;
    end loop;
    return regexp_replace(concat_ws(' ', array_to_string(unique_key.canonical, ' '),
                                    unique_key.canonical_predicate),
                          $re$'[^']*'$re$, '', 'g') ~ '[.][*]'; -- a whole row
exception when undefined_column then
    return true;
end
$fn$;

comment on function ensure._sees_generated_v1(ensure._unique_key_v1) is
    'A key or its predicate has to do with a generated column.';

create function ensure._check_gated_v1(
    unique_key ensure._unique_key_v1
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _check_gated_v1: a gate can see what the index on a key will see.
--
-- Errors   0A000  a generated column, which has no value yet when the gate looks
--          42501  row security would hide rows from the owner, with whose rights the gate looks
--          42883, 42P01, 42704  what the key calls is found by a search_path that no gate has
declare
    v_code text;
    v_problem text;
begin
    if ensure._sees_generated_v1(unique_key) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('a gate on "%s" cannot see a generated column before it is stored',
                             unique_key.target::regclass),
            hint = 'Pass gate => ''none'', or columns that are not generated.';
    elsif exists (select from pg_class as c
                  join pg_roles as r on r.oid = c.relowner
                  where c.oid = unique_key.target and c.relrowsecurity and c.relforcerowsecurity
                    and not r.rolsuper and not r.rolbypassrls) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('a gate on "%s" would not see all rows', unique_key.target::regclass),
            detail = 'Row security is forced on its owner, with whose rights the gate looks.',
            hint = 'Pass gate => ''none'', or take FORCE ROW LEVEL SECURITY off for the time.';
    elsif unique_key.canonical is not null then
        execute format('select num_nulls(%s) from %s as %I where %s limit 1',
                       array_to_string(unique_key.expressions, ', '),
                       ensure._from_v1(unique_key.target::regclass),
                       (select c.relname from pg_class as c where c.oid = unique_key.target),
                       coalesce('(' || unique_key.predicate || E'\n)', 'true'));
    end if;
exception when undefined_function or undefined_table or undefined_object then
    get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
    raise exception using
        errcode = v_code,
        message = v_problem,
        detail = format('The key of a row of "%s" was computed with search_path = pg_catalog,'
                        ' pg_temp, as the gate and the sweeps do.', unique_key.target::regclass),
        hint = 'Qualify what the function calls, or give it a search_path by ALTER FUNCTION … SET.';
end
$fn$;

comment on function ensure._check_gated_v1(ensure._unique_key_v1) is
    'A gate can see what the index on a key will see.';

create function ensure._check_gate_triggers_v1(
    target regclass,
    gate text
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_gate_triggers_v1: the gate has the last word about a row, and loses none that only moves.
--
-- Errors   0A000  a BEFORE trigger fires after it, so the key it saw may not be the one that is
--          stored; or gate is skip, and an UPDATE of a partitioned table may insert a row that it
--          has deleted elsewhere: into target itself, or with a key that a trigger changes then
declare
    v_trigger record;
    v_partition boolean;
begin
    select c.relispartition into v_partition from pg_class as c where c.oid = target;
    if v_partition and gate = 'skip' then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" is a partition: a gate that skips would lose a row that an'
                             ' UPDATE moves into it', target),
            hint = 'Pass gate => ''refuse'', or ''none''.';
    end if;
    with recursive relations (oid) as ( -- pg_partition_tree would lock each
        select target::oid
        union
        select c.oid
        from relations as r
        join pg_inherits as i on i.inhparent = r.oid
        join pg_class as c on c.oid = i.inhrelid and c.relispartition
    )
    select t.tgname as name, t.tgrelid::regclass as relation,
           t.tgname > 'zz_ensure_gate_'::name as late into v_trigger
    from relations as r
    join pg_trigger as t on t.tgrelid = r.oid and t.tgenabled in ('O', 'A')
                        and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0
                        and t.tgname !~ '^zz_ensure_gate_[0-9a-f]{12}$'
    where t.tgname > 'zz_ensure_gate_'::name
       or gate = 'skip' and t.tgtype & 4 = 4
          and (select c.relkind from pg_class as c where c.oid = target) = 'p'
    order by t.tgname > 'zz_ensure_gate_'::name desc, t.tgrelid <> target, t.tgname
    limit 1;
    if v_trigger.late then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('trigger "%s" of "%s" fires after the gate and may change the key',
                             v_trigger.name, v_trigger.relation),
            detail = 'Triggers fire in the order of their names; the gate is zz_ensure_gate_….',
            hint = 'Give it a name that sorts before, by ALTER TRIGGER … RENAME TO, or pass'
                   ' gate => ''none''.';
    elsif found then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('trigger "%s" of "%s" may change the key of a row that an UPDATE'
                             ' moves between partitions', v_trigger.name, v_trigger.relation),
            detail = 'A gate that skips would lose it.',
            hint = 'Pass gate => ''refuse'', or ''none''.';
    end if;
end
$fn$;

comment on function ensure._check_gate_triggers_v1(regclass, text) is
    'The gate has the last word about a row, and loses none that only moves.';

-- migrate:down
drop function ensure._check_gate_triggers_v1(regclass, text);
drop function ensure._check_gated_v1(ensure._unique_key_v1);
drop function ensure._sees_generated_v1(ensure._unique_key_v1);
