-- migrate:up
create function ensure._shown_v1(
    statement text
)
returns text
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _shown_v1: the statement without the verifier of a password.
select regexp_replace(statement, '''SCRAM-SHA-256[^'']*''', '…', 'g')
$fn$;

comment on function ensure._shown_v1(text) is
    'The statement without the verifier of a password.';

create function ensure._linked_relations_v1(
    relations regclass[]
)
returns regclass[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _linked_relations_v1: what is locked with these tables: sequences of columns, indexes, TOAST.
select array(
    select d.objid::regclass from pg_depend as d
    join pg_class as s on s.oid = d.objid and s.relkind = 'S'
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
      and d.refobjid = any (relations) and d.refobjsubid > 0 and d.deptype in ('a', 'i')
    union all
    select i.indexrelid::regclass from pg_index as i where i.indrelid = any (relations)
    union all
    select t.toast::regclass from pg_class as c
    cross join lateral (
        select c.reltoastrelid union all
        select i.indexrelid from pg_index as i where i.indrelid = c.reltoastrelid) as t (toast)
    where c.oid = any (relations) and c.reltoastrelid <> 0)
$fn$;

comment on function ensure._linked_relations_v1(regclass[]) is
    'What is locked with these tables: sequences of columns, indexes, TOAST.';

create function ensure._check_locks_fit_v1(
    relations regclass[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_locks_fit_v1: the server's lock table has room for these relations in one transaction.
--
-- Errors   54000  it has not, were it empty
declare
    c_slots constant integer := current_setting('max_connections')::integer
                                + current_setting('max_prepared_transactions')::integer;
    v_need integer;
begin
    if cardinality(relations) < c_slots then -- 10 is the least that each of them has
        return;
    end if;
    v_need := ceil((cardinality(relations)
                    + cardinality(ensure._linked_relations_v1(relations)))::numeric / c_slots);
    if v_need > current_setting('max_locks_per_transaction')::integer then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = format('%s relations in one call are more than the lock table of the server'
                             ' can hold', cardinality(relations)),
            detail = format('max_locks_per_transaction is %s.',
                            current_setting('max_locks_per_transaction')),
            hint = format('Run the rows of ensure.plan_owner_v1, each of them a transaction, or'
                          ' raise max_locks_per_transaction to %s and restart.', v_need);
    end if;
end
$fn$;

comment on function ensure._check_locks_fit_v1(regclass[]) is
    'The server''s lock table has room for these relations in one transaction.';

create function ensure._may_change_v1(
    changes ensure._change_v1[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _may_change_v1: this transaction and role may make these changes.
--
-- Errors   NS002  the setting ensure.ddl is off
--          25006  read-only
--          42501  a right is missing; DETAIL and HINT name the first ones
declare
    c_first constant text := (changes)[1].object;
    v_missing text;
    v_remedies text;
begin
    if not ensure._ddl_allowed_v1() then
        raise exception using
            errcode = 'NS002',
            message = format('%s differs and the setting ensure.ddl is off', c_first),
            detail = format('Changes to make: %s; ensure.ddl is "%s" in this session.',
                            cardinality(changes), current_setting('ensure.ddl')),
            hint = 'Ask who switched it off: for this session by SET, or for the role or the'
                   ' database by ALTER … SET ensure.ddl.';
    elsif current_setting('transaction_read_only')::boolean then
        raise exception using
            errcode = 'read_only_sql_transaction',
            message = format('%s differs and this transaction is read-only', c_first),
            detail = format('Changes to make: %s.', cardinality(changes)),
            hint = 'Call in a transaction that may write, on the primary.';
    end if;
    select concat(string_agg(format('%s for %s', m.missing, m.object), '; ' order by m.place)
                      filter (where m.turn <= 5),
                  '; and rights for ' || nullif(coalesce(sum(m.count) filter (where m.turn > 5), 0),
                                                0) || ' more'),
           case when count(*) = count(m.remedy) -- some of them alone would be given for nothing
                then string_agg(m.remedy, '; ' order by m.place) filter (where m.turn <= 5) end
    into v_missing, v_remedies
    from (select c.missing, c.remedy, min(c.place) as place, count(*) as count,
                 row_number() over (order by min(c.place)) as turn,
                 concat((array_agg(c.object order by c.place))[1],
                        ' and ' || (nullif(count(*), 1) - 1) || ' more') as object
          from unnest(changes) with ordinality
               as c (object, outcome, statement, relation, missing, remedy, seen, reads,
                     place)
          where c.missing is not null
          group by c.missing, c.remedy) as m;
    if v_missing <> '' then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('role "%s" lacks rights for %s of %s changes', current_user,
                             (select count(c.missing) from unnest(changes) as c),
                             cardinality(changes)),
            detail = format('Missing: %s. Nothing was changed.', v_missing),
            hint = concat('Let a role call that has them',
                          ', or one that may give them run: ' || v_remedies, '.');
    end if;
end
$fn$;

comment on function ensure._may_change_v1(ensure._change_v1[]) is
    'This transaction and role may make these changes.';

-- migrate:down
drop function ensure._may_change_v1(ensure._change_v1[]);
drop function ensure._check_locks_fit_v1(regclass[]);
drop function ensure._linked_relations_v1(regclass[]);
drop function ensure._shown_v1(text);
