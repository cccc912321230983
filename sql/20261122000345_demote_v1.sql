-- migrate:up
create function ensure._clashes_v1(
    target regclass,
    rows jsonb[],
    demote text,
    keeper jsonb,
    member jsonb,
    refers boolean
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _clashes_v1: demoting these rows, which is not kept, makes duplicates in a unique index.
begin
    perform ensure._set_rows_v1(target, rows, demote, keeper, member, refers, false, null, null);
    raise exception using errcode = 'NS100';
exception
    when unique_violation then
        return true;
    when sqlstate 'NS100' or integrity_constraint_violation then
        return false;
end
$fn$;

comment on function ensure._clashes_v1(regclass, jsonb[], text, jsonb, jsonb, boolean) is
    'Demoting these rows, which is not kept, makes duplicates in a unique index.';

create function ensure._raise_clash_v1(
    target regclass,
    index_oid oid,
    problem text,
    rows jsonb[],
    demote text,
    keeper jsonb,
    member jsonb,
    refers boolean
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _raise_clash_v1: says which row was in the way when rows were demoted and one was to be created.
--
-- Returns  nothing when index_oid is not that of an index on target or a partition of it
-- Errors   NS010  a row that is demoted; NS014  one that has a key that the new row needs
declare
    v_sound integer := 0;
    v_clash integer := cardinality(rows);
    v_middle integer;
    v_keys jsonb;
    v_holder jsonb;
begin
    if not exists (select from pg_index as i
                   where i.indexrelid = index_oid
                     and (i.indrelid = target
                          or target in (select pg_partition_ancestors(i.indrelid)))) then
        return;
    elsif v_clash > 0
          and ensure._clashes_v1(target, rows, demote, keeper, member, refers) then
        while v_clash - v_sound > 1 loop
            v_middle := (v_sound + v_clash) / 2;
            if ensure._clashes_v1(target, rows[:v_middle], demote, keeper, member, refers) then
                v_clash := v_middle;
            else
                v_sound := v_middle;
            end if;
        end loop;
        raise exception using
            errcode = 'NS010',
            message = format('the row %s of "%s" would be a duplicate in the index %s once demoted',
                             rows[v_clash], target, index_oid::regclass),
            detail = problem,
            hint = 'Rename or remove this row or the other one before the call, or let demote give'
                   ' it a key that is free; nothing was changed.';
    end if;
    select jsonb_agg(to_jsonb(k)) into v_keys
    from ensure._row_keys_v1(
        target, array(select m.name from jsonb_object_keys(member) as m (name)), null) as k
    where k.index_oid = _raise_clash_v1.index_oid
       or k.index_oid in (select pg_partition_ancestors(_raise_clash_v1.index_oid));
    v_holder := (ensure._look_only_v1(target, member, 'false', v_keys, false)).known[1];
    raise exception using
        errcode = 'NS014',
        message = case when v_holder is null
                       then format('a row of "%s" has a key that the new one needs in the'
                                   ' index %s', target, index_oid::regclass)
                       else format('the row %s of "%s" has a key that the new one needs in the'
                                   ' index %s', v_holder, target, index_oid::regclass) end,
        detail = problem,
        hint = 'Change that row or member, or name in key the columns of this index, if this is the'
               ' row that is meant; nothing was changed.';
end
$fn$;

comment on function ensure._raise_clash_v1(regclass, oid, text, jsonb[], text, jsonb, jsonb,
                                           boolean) is
    'Says which row was in the way when rows were demoted and one was to be created.';

create function ensure._demote_v1(
    target regclass,
    member jsonb,
    demote text,
    keeper jsonb,
    rows jsonb[],
    archive regclass,
    run uuid,
    out kept jsonb,
    out demoted jsonb[]
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _demote_v1: rows are demoted, and the row of member is created when there is no keeper.
--
-- Returns  keys as they are afterwards
-- Errors   NS010, NS014  as _raise_clash_v1
--          NS012  a trigger kept a row, or gave the new one what demote did not see
declare
    c_refers constant boolean := ensure._refers_v1(target, demote);
    v_done record;
    v_problem text;
    v_schema text;
    v_index text;
    v_column name;
begin
    begin
        v_done := ensure._set_rows_v1(target, rows, demote, keeper, member, c_refers,
                                      keeper is null, archive, run);
    exception when unique_violation then
        get stacked diagnostics v_problem = pg_exception_detail, v_schema = schema_name,
                                v_index = constraint_name;
        if v_index <> '' then -- else a trigger says so
            perform ensure._raise_clash_v1(target, to_regclass(format('%I.%I', v_schema, v_index)),
                                           v_problem, rows, demote, keeper, member, c_refers);
        end if;
        raise;
    end;
    kept := coalesce(keeper, v_done.created);
    demoted := v_done.changed;
    if kept is null or cardinality(demoted) <> cardinality(rows)
       or archive is not null and v_done.archived <> cardinality(rows) then
        raise exception using
            errcode = 'NS012',
            message = format('rows of "%s" were kept from being changed', target),
            detail = format('Demoted: %s of %s%s, created: %s of %s.', cardinality(demoted),
                            cardinality(rows), ', archived: ' || case when archive is not null
                                                                      then v_done.archived end,
                            (v_done.created is not null)::integer, (keeper is null)::integer),
            hint = 'Look for a trigger on the table or its archive; nothing was changed.';
    elsif keeper is null and c_refers and rows <> '{}' then
        select t.name into v_column
        from unnest(ensure._taken_columns_v1(target, demote)) as t (name)
        where v_done.foreseen -> t.name::text is distinct from v_done.data -> t.name::text
        limit 1;
        if found then
            raise exception using
                errcode = 'NS012',
                message = format('"%s" of the new row of "%s" became another value than demote saw',
                                 v_column, target),
                detail = format('Seen as keeper: %s. Created: %s.', v_done.foreseen, v_done.data),
                hint = 'A trigger sets it: give member the value; nothing was changed.';
        end if;
    end if;
end
$fn$;

comment on function ensure._demote_v1(regclass, jsonb, text, jsonb, jsonb[], regclass, uuid) is
    'Rows are demoted, and the row of member is created when there is no keeper.';

create function ensure._promote_v1(
    target regclass,
    member jsonb,
    promote text,
    keeper jsonb,
    archive regclass,
    run uuid
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _promote_v1: the row with a key is updated as promote says.
--
-- Returns  its key afterwards
-- Errors   NS009  promote is null; NS012  a trigger kept it
--          NS014  another row has a key that it would need
declare
    v_done record;
    v_problem text;
    v_schema text;
    v_index text;
begin
    if promote is null then
        raise exception using
            errcode = 'NS009',
            message = format('the row %s of "%s" does not fulfil among', keeper, target),
            detail = format('Member: %s.', left(member::text, 200)),
            hint = 'Pass in promote what is set in it then, like kind = ''root''.';
    end if;
    begin
        v_done := ensure._set_rows_v1(target, array[keeper], promote, null, member, false, false,
                                      archive, run);
    exception when unique_violation then
        get stacked diagnostics v_problem = pg_exception_detail, v_schema = schema_name,
                                v_index = constraint_name;
        if v_index = '' then -- a trigger says so
            raise;
        end if;
        raise exception using
            errcode = 'NS014',
            message = format('the row %s of "%s" would be a duplicate in the index %I.%I once'
                             ' promoted', keeper, target, v_schema, v_index),
            detail = v_problem,
            hint = 'Change the other row before the call, or let promote give it a key that is'
                   ' free; nothing was changed.';
    end;
    if cardinality(v_done.changed) <> 1 or archive is not null and v_done.archived <> 1 then
        raise exception using
            errcode = 'NS012',
            message = format('the row %s of "%s" was kept from being promoted', keeper, target),
            detail = format('Changed: %s.', cardinality(v_done.changed)),
            hint = 'Look for a trigger on the table or its archive; nothing was changed.';
    end if;
    return v_done.changed[1];
end
$fn$;

comment on function ensure._promote_v1(regclass, jsonb, text, jsonb, regclass, uuid) is
    'The row with a key is updated as promote says.';

-- migrate:down
drop function ensure._promote_v1(regclass, jsonb, text, jsonb, regclass, uuid);
drop function ensure._demote_v1(regclass, jsonb, text, jsonb, jsonb[], regclass, uuid);
drop function ensure._raise_clash_v1(regclass, oid, text, jsonb[], text, jsonb, jsonb, boolean);
drop function ensure._clashes_v1(regclass, jsonb[], text, jsonb, jsonb, boolean);
