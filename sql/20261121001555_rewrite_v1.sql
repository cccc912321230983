-- migrate:up
create function ensure._check_rewrite_v1(
    unique_key ensure._unique_key_v1,
    archive regclass
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_rewrite_v1: emptying the table and putting rows back changes nothing but the rows.
--
-- Errors   0A000  it would, and why
declare
    c_target constant regclass := unique_key.target;
    v_reasons text;
begin
    select string_agg(r.reason, '; ' order by r.place) into v_reasons
    from (
        select 1, 'it is partitioned'
        from pg_class as c where c.oid = c_target and c.relkind = 'p'
        union all
        select 2, 'losers are to be archived' where archive is not null
        union all
        select 3, 'rows that the index would not hold are not looked at'
        where unique_key.predicate is not null
           or not unique_key.nulls_equal and true = any (unique_key.nullable)
        union all
        select 4, format('%s refers to it', string_agg(format('%s of %s', r.constraint_name,
                                                              r.child), ', '))
        from ensure._references_v1(c_target) as r
        having count(*) > 0
        union all
        select 5, format('triggers would see rows come and go: %s', string_agg(
                   quote_ident(t.tgname), ', ' order by t.tgname))
        from pg_trigger as t
        where t.tgrelid = c_target and not t.tgisinternal and t.tgenabled <> 'D'
          and t.tgtype & (4 | 8 | 32) > 0 -- insert, delete, truncate
        having count(*) > 0
        union all
        select 6, 'it has rules'
        from pg_rewrite as w where w.ev_class = c_target having count(*) > 0
        union all
        select 7, format('rows need not fulfil %s', string_agg(quote_ident(k.conname), ', '
                                                               order by k.conname))
        from pg_constraint as k
        where k.conrelid = c_target and not k.convalidated and k.contype in ('c', 'f', 'n')
        having count(*) > 0
        union all
        select 8, format('it is published by %s', string_agg(distinct quote_ident(p.pubname), ', '))
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        join pg_publication_tables as p on p.schemaname = n.nspname and p.tablename = c.relname
        where c.oid = c_target or c.oid in (select pg_partition_ancestors(c_target))
        having count(*) > 0) as r (place, reason);
    if v_reasons is not null then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" cannot be rewritten', c_target),
            detail = format('%s.', v_reasons),
            hint = 'Leave out rewrite: the losers are deleted then.';
    end if;
end
$fn$;

comment on function ensure._check_rewrite_v1(ensure._unique_key_v1, regclass) is
    'Emptying the table and putting rows back changes nothing but the rows.';

create function ensure._rewrite_v1(
    unique_key ensure._unique_key_v1,
    keep text
)
returns table (relation regclass, action text, row_count bigint)
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
set row_security = off
as $fn$
-- _rewrite_v1: as _delete_losers_v1, by emptying the table and putting back the rows that stay.
--
-- Returns  past 16 million rows that stay the losers are deleted after all
-- Errors   0A000  as _check_rewrite_v1; 42501  row security would hide rows
-- Races    the caller has ACCESS EXCLUSIVE; who has an older snapshot sees an empty table
declare
    c_most constant integer := 16000000;
    c_target constant regclass := unique_key.target;
    c_helper constant text := (
        select format('%I.%I', n.nspname, format('ensure_rewrite_%s', c.oid)) from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.oid = c_target);
    c_columns constant text := (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute as a
        where a.attrelid = c_target and a.attnum > 0 and not a.attisdropped
          and a.attgenerated = '');
    v_places tid[];
    v_moved bigint;
begin
    perform ensure._check_rewrite_v1(unique_key, null);
    v_places := ensure._places_v1(unique_key, keep, true, c_most + 1);
    if cardinality(v_places) > c_most then
        return query select d.* from ensure._delete_losers_v1(unique_key, keep) as d;
        return;
    end if;
    execute format('select count(*) - $1 from only %s', c_target)
    into row_count using cardinality(v_places);
    if row_count = 0 then
        return;
    end if;
    execute format('create unlogged table %s (like %s including storage including compression)',
                   c_helper, c_target);
    execute format('insert into %s select "~t".* from only %s as "~t"'
                   ' where "~t".ctid = any ((select $1)::tid[])', c_helper, c_target)
    using v_places;
    execute format('truncate only %s', c_target);
    execute format('insert into %s (%s) overriding system value select %s from %s', c_target,
                   c_columns, c_columns, c_helper);
    get diagnostics v_moved = row_count;
    if v_moved <> cardinality(v_places) then
        raise exception using
            errcode = 'NS012',
            message = format('%s of %s rows came back into "%s"', v_moved, cardinality(v_places),
                             c_target),
            hint = 'Leave out rewrite; nothing was changed.';
    end if;
    execute format('drop table %s', c_helper);
    relation := c_target;
    action := 'deleted';
    return next;
end
$fn$;

comment on function ensure._rewrite_v1(ensure._unique_key_v1, text) is
    'As _delete_losers_v1, by emptying the table and putting back the rows that stay.';

-- migrate:down
drop function ensure._rewrite_v1(ensure._unique_key_v1, text);
drop function ensure._check_rewrite_v1(ensure._unique_key_v1, regclass);
