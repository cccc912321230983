-- migrate:up
create function ensure._look_support_v1(
    unique_key ensure._unique_key_v1,
    probe name,
    own boolean default false,
    out index_oid oid,
    out state text
)
returns record
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_support_v1: an index by which rows with a key are found, unique or not.
--
-- Returns  state: 'valid', 'missing', 'invalid' for one with the name probe that is not yet valid;
--          with own nothing but that one counts
declare
    c_places constant integer := cardinality(unique_key.elements);
    v_index record;
begin
    state := 'missing';
    for v_index in
        select i.indexrelid as oid, i.indisvalid,
               pg_get_expr(i.indpred, i.indrelid) as predicate
        from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        join pg_am as m on m.oid = c.relam and m.amname = 'btree'
        where i.indrelid = unique_key.target and i.indnkeyatts >= c_places and i.indislive
          and (i.indisvalid and not own or c.relname in (probe, format('ensure_dead_%s', c.oid)))
          and (i.indpred is null or unique_key.predicate is not null)
          and (unique_key.canonical is not null or not exists (
                   select from unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
                   left join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
                   cross join lateral ensure._class_v1(i.indclass[k.place - 1], a.atttypid) as o
                   where k.place <= c_places
                     and (k.attnum <> unique_key.columns[k.place] or o.name is not null
                          or i.indcollation[k.place - 1] <> a.attcollation)))
        order by i.indisvalid, i.indexrelid
    loop
        if v_index.predicate is not null
           and ensure._read_expression_v1(unique_key.target,
                                          format('(%s) is true', v_index.predicate))
               <> unique_key.canonical_predicate
           or unique_key.canonical is not null
              and (ensure._index_elements_v1(v_index.oid, unique_key.target))[:c_places]
                  <> unique_key.canonical then
            continue;
        end if;
        index_oid := v_index.oid;
        state := case when v_index.indisvalid then 'valid' else 'invalid' end;
    end loop;
end
$fn$;

comment on function ensure._look_support_v1(ensure._unique_key_v1, name, boolean) is
    'An index by which rows with a key are found, unique or not.';

create function ensure._built_elsewhere_v1(
    target regclass
)
returns boolean
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _built_elsewhere_v1: another session is building an index on target.
select exists (
    select from pg_stat_progress_create_index as p
    join pg_locks as l on l.pid = p.pid and l.locktype = 'relation' and l.granted
                      and l.relation = target
                      and l.database = (select d.oid from pg_database as d
                                        where d.datname = current_database())
    where p.pid <> pg_backend_pid())
$fn$;

comment on function ensure._built_elsewhere_v1(regclass) is
    'Another session is building an index on target.';

create function ensure._bury_index_v1(
    index_oid oid,
    index_name text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _bury_index_v1: an index that a failed build left has a name of its own, ensure_dead_….
--
-- Returns  it has to go by a name that no other build can have: a drop that comes too late would
--          wait for one that is at work, and drop what it made. Nothing is done to an index that is
--          valid, gone, or has another name than index_name by now
-- Errors   55P03  another session builds an index on its table
declare
    v_table regclass;
begin
    select i.indrelid into v_table
    from pg_index as i
    where i.indexrelid = index_oid and i.indexrelid = to_regclass(index_name)
      and not i.indisvalid;
    if ensure._built_elsewhere_v1(v_table) then
        raise exception using
            errcode = 'lock_not_available',
            message = format('another session builds an index on "%s"', v_table),
            hint = 'Try again when the build has ended.';
    elsif v_table is not null then
        execute format('alter index %s rename to %I', index_oid::regclass,
                       format('ensure_dead_%s', index_oid));
    end if;
end
$fn$;

comment on function ensure._bury_index_v1(oid, text) is
    'An index that a failed build left has a name of its own, ensure_dead_….';

create function ensure._look_copy_v1(
    model oid,
    partition regclass,
    out index_oid oid,
    out state text
)
returns record
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _look_copy_v1: the index of a partition that is, or can be, attached to one of the whole table.
--
-- Returns  state: 'valid', 'enforcing' or 'inert' for an invalid leftover, 'missing'
declare
    -- what comes before, up to the name of the table, differs
    c_head constant text := '^.*? ON (ONLY )?("([^"]|"")+"|[^ ".]+)\.("([^"]|"")+"|[^ ".]+) USING ';
begin
    select i.indexrelid,
           case when i.indisvalid then 'valid' when i.indisready then 'enforcing' else 'inert' end
    into index_oid, state
    from pg_index as i
    left join pg_inherits as h on h.inhrelid = i.indexrelid
    where i.indrelid = partition and i.indisunique and i.indislive and i.indimmediate
      and not i.indisexclusion and (h.inhparent is null or h.inhparent = model)
      and regexp_replace(pg_get_indexdef(i.indexrelid), c_head, '')
          = regexp_replace(pg_get_indexdef(model), c_head, '')
    order by h.inhparent is null, not i.indisvalid, i.indexrelid
    limit 1;
    state := coalesce(state, 'missing');
end
$fn$;

comment on function ensure._look_copy_v1(oid, regclass) is
    'The index of a partition that is, or can be, attached to one of the whole table.';

create function ensure._check_reading_v1(
    target regclass,
    index_name name,
    own boolean
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_reading_v1: no index to be made was made already, and is on something else.
--
-- Returns  index_name: of the next one; own: nobody else gives an index this name. Of other names
--          two are enough, since one may be by chance
-- Errors   NS007  it was: what made it reads the key by another search_path
declare
    c_stem constant text := regexp_replace(index_name, '[0-9]+$', '');
    c_there constant text[] := array(
        select pg_get_indexdef(i.indexrelid) from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        where i.indrelid = target
          and (own and c.relname = index_name
               or i.indisunique and index_name <> c_stem
                  and c.relname in (c_stem, format('%s1', c_stem)))
        order by c.relname);
begin
    if cardinality(c_there) > (not own)::integer then
        raise exception using
            errcode = 'NS007',
            message = format('an index that is to be made on "%s" is there, and on something else',
                             target),
            detail = format('%s.', array_to_string(c_there, '; ')),
            hint = 'Drop it if this plan made it, and ask again with search_path = pg_catalog,'
                   ' pg_temp, or with the schema of what columns and predicate call; otherwise pass'
                   ' index_name.';
    end if;
end
$fn$;

comment on function ensure._check_reading_v1(regclass, name, boolean) is
    'No index to be made was made already, and is on something else.';

create function ensure._attach_statements_v1(
    model oid,
    parts ensure._unique_key_v1[],
    support boolean
)
returns table (statement text, in_transaction boolean, locks text, why text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _attach_statements_v1: the indexes of partitions become parts of that of the whole table.
declare
    v_part ensure._unique_key_v1;
    v_index oid;
begin
    in_transaction := true;
    why := 'the index of the whole table is valid once it has those of all partitions';
    foreach v_part in array parts loop
        if support then
            v_index := (ensure._look_support_v1(v_part, format(
                'ensure_probe_%s', ensure._gate_name_v1(array[v_part], null)), true)).index_oid;
        else
            v_index := (ensure._look_copy_v1(model, v_part.target::regclass)).index_oid;
        end if;
        continue when exists (select from pg_inherits as i where i.inhrelid = v_index);
        statement := format('alter index %s attach partition %s', ensure._named_v1(model),
                            ensure._named_v1(v_index));
        locks := format('ACCESS EXCLUSIVE on both indexes, ACCESS SHARE on %s',
                        v_part.target::regclass);
        return next;
    end loop;
end
$fn$;

comment on function ensure._attach_statements_v1(oid, ensure._unique_key_v1[], boolean) is
    'The indexes of partitions become parts of that of the whole table.';

create function ensure._build_statements_v1(
    unique_key ensure._unique_key_v1,
    index_name name,
    support boolean,
    model oid default null
)
returns table (statement text, in_transaction boolean, locks text, why text)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _build_statements_v1: what is next to do for an index on a key, up to the next barrier.
--
-- Returns  none when it is valid; for a partitioned table also what its partitions need.
--          support means an index that need not be unique; in partitions only one with the name
--          index_name, since it goes with that of the whole table when all is done. Else model is
--          the index of the whole table, to which that of a partition must be like
declare
    c_kind constant "char" := (select c.relkind from pg_class as c where c.oid = unique_key.target);
    c_concurrent constant text := format('SHARE UPDATE EXCLUSIVE on %s',
                                         unique_key.target::regclass);
    v_found record;
    v_part record;
    v_part_key ensure._unique_key_v1;
    v_parts ensure._unique_key_v1[] := '{}';
    v_todo boolean := false;
    v_name name := index_name;
    v_index text;
begin
    if support then
        v_name := coalesce(index_name, format('ensure_probe_%s',
                                              ensure._gate_name_v1(array[unique_key], null)));
        v_found := ensure._look_support_v1(unique_key, v_name, index_name is not null);
    elsif model is not null then
        v_found := ensure._look_copy_v1(model, unique_key.target::regclass);
    else
        v_found := ensure._look_unique_v1(unique_key);
    end if;
    if v_found.state = 'valid' then
        return;
    end if;
    if c_kind = 'p' and (support or v_found.index_oid is not null
                         and v_found.state <> 'different') then
        for v_part in
            select i.inhrelid::regclass as relation, c.relkind
            from pg_inherits as i
            join pg_class as c on c.oid = i.inhrelid
            where i.inhparent = unique_key.target and not i.inhdetachpending
            order by i.inhrelid
        loop
            if v_part.relkind not in ('r', 'p') then
                raise exception using
                    errcode = 'feature_not_supported',
                    message = format('partition "%s" is not a table', v_part.relation),
                    hint = 'A foreign table has no index; detach it first.';
            end if;
            v_part_key := ensure._unique_key_v1(v_part.relation, unique_key.elements,
                                                unique_key.predicate, unique_key.nulls_equal);
            return query
            select b.*
            from ensure._build_statements_v1(
                v_part_key, case when support then format('ensure_probe_%s', ensure._gate_name_v1(
                    array[v_part_key], null)) end, support,
                case when not support then v_found.index_oid end) as b;
            v_todo := v_todo or found;
            v_parts := v_parts || v_part_key;
        end loop;
        if v_todo then
            return;
        end if;
    elsif c_kind <> 'p' and ensure._built_elsewhere_v1(unique_key.target) then
        statement := 'select 1 as waiting from pg_catalog.pg_sleep(0.5)'; -- it holds a snapshot
        in_transaction := true;
        locks := 'none';
        why := format('another session builds an index on %s', unique_key.target::regclass);
        return next;
        return;
    elsif c_kind <> 'p' and v_found.state in ('inert', 'enforcing', 'invalid', 'building') then
        v_index := ensure._named_v1(v_found.index_oid);
        why := 'an attempt that failed left it behind: it is renamed, then dropped';
        in_transaction := true;
        statement := format('select ensure._bury_index_v1(%s, %L) as buried', v_found.index_oid,
                            v_index);
        locks := format('SHARE UPDATE EXCLUSIVE on %s', v_index);
        if v_index ~ 'ensure_dead_[0-9]+$' then
            statement := format('drop index concurrently if exists %s', v_index);
            in_transaction := false;
            locks := c_concurrent;
        end if;
        return next;
        return;
    end if;
    if v_found.index_oid is null or v_found.state = 'different' then
        if support or v_name is null then
            v_name := coalesce(v_name, ensure._index_name_v1(unique_key));
            perform ensure._check_reading_v1(unique_key.target::regclass, v_name, support);
        end if;
        statement := ensure._index_statement_v1(
            unique_key, v_name, case when c_kind = 'p' then 'only' else 'concurrently' end);
        if support then
            statement := regexp_replace(regexp_replace(statement, '^create unique', 'create'),
                                        ' nulls not distinct', '');
        end if;
        in_transaction := c_kind = 'p';
        locks := case when c_kind = 'p' then format('SHARE on %s', unique_key.target::regclass)
                      else c_concurrent end;
        why := case when support then 'duplicates are found by it' else 'no duplicates from here on'
               end;
        return next;
    elsif c_kind = 'p' then
        return query
        select a.* from ensure._attach_statements_v1(v_found.index_oid, v_parts, support) as a;
    end if;
end
$fn$;

comment on function ensure._build_statements_v1(ensure._unique_key_v1, name, boolean, oid) is
    'What is next to do for an index on a key, up to the next barrier.';

-- migrate:down
drop function ensure._build_statements_v1(ensure._unique_key_v1, name, boolean, oid);
drop function ensure._attach_statements_v1(oid, ensure._unique_key_v1[], boolean);
drop function ensure._check_reading_v1(regclass, name, boolean);
drop function ensure._look_copy_v1(oid, regclass);
drop function ensure._bury_index_v1(oid, text);
drop function ensure._built_elsewhere_v1(regclass);
drop function ensure._look_support_v1(ensure._unique_key_v1, name, boolean);
