-- migrate:up
create function ensure._privilege_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _privilege_statements_v1: what gives partition, once it has its owner, the privileges of parent.
--
-- Returns  REVOKE before GRANT; privileges of columns by the name of the column. Who granted does
--          not count. A grant on partition made by another role than its owner is revoked with all
--          the others; on a column only that role can do it, whom GRANTED BY names
-- Locks    none beyond catalog reads
begin
    return query
    with acl as materialized (
        select c.oid = parent as wanted, null::name as attname,
               nullif(x.grantor, c.relowner) as grantor,
               x.grantee = c.relowner as own, x.grantee, x.privilege_type, x.is_grantable
        from pg_class as c
        cross join aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) as x
        where c.oid in (parent, partition)
        union all
        select c.oid = parent, a.attname, nullif(x.grantor, c.relowner),
               x.grantee = c.relowner, x.grantee, x.privilege_type, x.is_grantable
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and not a.attisdropped
        cross join aclexplode(a.attacl) as x
        where c.oid in (parent, partition)
    ), parent_owner (oid) as (
        select c.relowner from pg_class as c where c.oid = parent
    ), wanted as (
        select a.attname, a.grantee, a.own, a.privilege_type, bool_or(a.is_grantable) as grantable
        from acl as a
        where a.wanted
        group by 1, 2, 3, 4
    ), had as (
        select a.attname, case when a.own then o.oid else a.grantee end as grantee,
               a.own, a.privilege_type, bool_or(a.is_grantable) as grantable,
               min(a.grantor::text)::oid as grantor
        from acl as a
        cross join parent_owner as o
        where not a.wanted
        group by 1, 2, 3, 4
    ), difference as (
        select coalesce(w.attname, h.attname) as attname, coalesce(w.grantee, h.grantee) as grantee,
               coalesce(w.own, h.own) as own,
               coalesce(w.privilege_type, h.privilege_type) as privilege_type,
               w.grantee is not null as wanted, coalesce(w.grantable, false) as grantable,
               h.grantee is not null as had, coalesce(h.grantable, false) as had_grantable,
               h.grantor
        from wanted as w
        full join had as h on coalesce(h.attname, '') = coalesce(w.attname, '')
                          and h.grantee = w.grantee and h.privilege_type = w.privilege_type
    ), anew (yes) as ( -- only their grantor could take such grants back one by one
        select exists (select from had as h where h.grantor is not null and h.attname is null)
               and exists (select from difference as d
                           where (d.wanted, d.grantable) <> (d.had, d.had_grantable))
    ), taken as ( -- what a REVOKE takes from the table goes from its columns too
        select d.*,
               not d.own and n.yes or d.had and not d.wanted
               or exists (select from difference as t
                          where d.attname is not null and t.attname is null and t.had
                            and not t.wanted and t.grantee = d.grantee
                            and t.privilege_type = d.privilege_type) as gone,
               d.had_grantable and not d.grantable
               or exists (select from difference as t
                          where d.attname is not null and t.attname is null and t.had_grantable
                            and not t.grantable and t.grantee = d.grantee
                            and t.privilege_type = d.privilege_type) as option_gone,
               n.yes as anew
        from difference as d
        cross join anew as n
    ), steps (rank, form, grantee, item) as (
        select 1, 'revoke %s on %s from %s cascade', t.grantee, 'all'
        from taken as t
        where t.anew and not t.own
        union
        select 2, concat('revoke %s on %s from %s', ' granted by '
                         || replace(quote_ident(pg_get_userbyid(g.oid)), '%', '%%'), ' cascade'),
               t.grantee, concat(lower(t.privilege_type), ' (' || quote_ident(t.attname) || ')')
        from taken as t
        cross join lateral (select case when t.attname is not null then t.grantor end) as g (oid)
        where t.had and not t.wanted and (g.oid is not null or t.own or not t.anew)
        union
        select 3, 'revoke grant option for %s on %s from %s cascade', t.grantee,
               concat(lower(t.privilege_type), ' (' || quote_ident(t.attname) || ')')
        from taken as t
        where t.had_grantable and t.wanted and not t.grantable and not t.gone
        union
        select 4 + t.grantable::integer,
               concat('grant %s on %s to %s', case when t.grantable then ' with grant option' end),
               t.grantee, concat(lower(t.privilege_type), ' (' || quote_ident(t.attname) || ')')
        from taken as t
        where t.wanted
          and (not t.had or t.gone or t.grantable and (not t.had_grantable or t.option_gone))
    )
    select 'privileges',
           format(s.form, string_agg(s.item, ', ' order by s.item), partition,
                  case s.grantee when 0 then 'public'
                                 else quote_ident(pg_get_userbyid(s.grantee)) end)
    from steps as s
    group by s.rank, s.form, s.grantee
    order by s.rank, s.grantee;
end
$fn$;

comment on function ensure._privilege_statements_v1(regclass, regclass) is
    'What gives partition, once it has its owner, the privileges of parent.';

create function ensure._policy_expression_v1(
    expression text,
    parent regclass,
    partition regclass
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _policy_expression_v1: an expression of a policy of parent, as it reads for partition.
--
-- Returns  columns that a sub-select takes from the row in question carry the name of its table:
--          that name changes; the same name as a table that is read, or in a string, does not
-- Errors   0A000  the name could also be that of a schema or of a column
declare
    v_from constant text := (select quote_ident(c.relname) from pg_class as c where c.oid = parent);
    v_to constant text := (select quote_ident(c.relname) from pg_class as c
                           where c.oid = partition);
    v_columns text[];
begin
    if strpos(expression, v_from || '.') = 0 then
        return expression;
    end if;
    v_columns := array(select quote_ident(a.attname) from pg_attribute as a
                       where a.attrelid = parent and not a.attisdropped);
    if v_to = any (v_columns)
       or exists (select from pg_namespace as n
                  join pg_type as t on t.typnamespace = n.oid
                  where quote_ident(n.nspname) = v_from
                    and quote_ident(t.typname) = any (v_columns)) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('a policy of "%s" cannot be copied to "%s"', parent, partition),
            detail = format('A name in it could mean two things: %s', expression),
            hint = 'Rename the partition, or the schema that has the name of the table.';
    end if;
    return (
        with tokens as (
            select t.n, t.m[1] as space, t.m[2] as token
            from regexp_matches(
                     expression,
                     $re$(\s*)('(?:[^']|'')*'|"(?:[^"]|"")*"|[a-zA-Z0-9_]+|\S)$re$,
                     'g') with ordinality as t (m, n)
        ), seen as (
            select t.*, lag(t.token, 1, '') over w as before, lead(t.token, 1, '') over w as dot,
                   lead(t.token, 2, '') over w as field, lead(t.token, 3, '') over w as after
            from tokens as t
            window w as (order by t.n)
        ), marked as (
            select s.*, s.token = v_from and s.before <> '.' and s.dot = '.' as qualifies
            from seen as s
        )
        select string_agg(
                   m.space || case
                   when m.qualifies and m.field = '*' then format('(%s.*)::%s', v_to, parent)
                   when m.whole_row then ''
                   when m.qualifies and m.field = any (v_columns) and m.after <> '(' then v_to
                   -- An alias in a sub-select that has the name of partition would capture.
                   when m.token = v_to and m.before not in ('.', 'AS')
                   then 'a_' || left(md5(v_to), 8)
                   else m.token end, '' order by m.n)
        from (select m.*, lag(m.qualifies and m.field = '*', 1, false) over w
                          or lag(m.qualifies and m.field = '*', 2, false) over w as whole_row
              from marked as m
              window w as (order by m.n)) as m);
end
$fn$;

comment on function ensure._policy_expression_v1(text, regclass, regclass) is
    'An expression of a policy of parent, as it reads for partition.';

create function ensure._alone_v1(
    relation regclass
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _alone_v1: relation as ALTER TABLE names it to leave alone what is below it.
select concat(case c.relkind when 'p' then 'only ' end, relation)
from pg_class as c
where c.oid = relation
$fn$;

comment on function ensure._alone_v1(regclass) is
    'Relation as ALTER TABLE names it to leave alone what is below it.';

create function ensure._expression_tree_v1(
    tree text,
    relation regclass
)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _expression_tree_v1: a stored expression over relation, in a form that compares across tables.
--
-- Returns  columns by name; with sub-selects, where numbers of other tables occur too, by number
--          beside a list of the columns of relation
-- Locks    none beyond catalog reads, where pg_get_expr would wait for the lock on relation
declare
    v_tree text := regexp_replace(tree, ' :(location|stmt_location|stmt_len|(func|relabel|coerce'
                                        '|convert)format) -?\d+', '', 'g');
    v_column record;
begin
    if tree like '%{SUBLINK %' then
        return concat((select string_agg(format('%s %I', a.attnum, a.attname), ', '
                                         order by a.attnum)
                       from pg_attribute as a
                       where a.attrelid = relation and a.attnum > 0 and not a.attisdropped),
                      v_tree);
    end if;
    for v_column in
        select a.attnum, quote_ident(a.attname) as name
        from pg_attribute as a
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    loop
        v_tree := replace(replace(v_tree, format(':varattno %s ', v_column.attnum),
                                  format(':varattno %s ', v_column.name)),
                          format(':varattnosyn %s}', v_column.attnum),
                          format(':varattnosyn %s}', v_column.name));
    end loop;
    return v_tree;
end
$fn$;

comment on function ensure._expression_tree_v1(text, regclass) is
    'A stored expression over relation, in a form that compares across tables.';

create function ensure._policy_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _policy_statements_v1: what gives partition the row security and the policies of parent.
--
-- Returns  policies, then the flags, then policies that only partition has
-- Errors   0A000  a policy cannot be copied
-- Locks    none beyond catalog reads where the expressions of a policy are stored alike; to read
--          others ACCESS SHARE on parent and partition for that moment
begin
    return query
    with policies as materialized (
        select p.polrelid = parent as wanted, p.polname, p.polpermissive, p.polcmd, p.polqual,
               p.polwithcheck,
               array(select r.oid from unnest(p.polroles) as r (oid) order by 1) as roles,
               concat(ensure._expression_tree_v1(p.polqual::text, p.polrelid), ' check ',
                      ensure._expression_tree_v1(p.polwithcheck::text, p.polrelid)) as tree
        from pg_policy as p
        where p.polrelid in (parent, partition)
    ), pairs as materialized (
        select coalesce(w.polname, h.polname) as polname, w.polname is null as extra,
               h.polname is not null as had, w.roles, h.roles as had_roles,
               (w.polpermissive, w.polcmd) = (h.polpermissive, h.polcmd) as kin,
               w.polpermissive, w.polcmd, w.polqual, w.polwithcheck,
               h.polqual as had_qual, h.polwithcheck as had_check, w.tree = h.tree as alike
        from (select p.* from policies as p where p.wanted) as w
        full join (select p.* from policies as p where not p.wanted) as h on h.polname = w.polname
    ), texts as materialized (
        select p.polname, ensure._policy_expression_v1(pg_get_expr(p.polqual, parent),
                                                       parent, partition) as qual,
               ensure._policy_expression_v1(pg_get_expr(p.polwithcheck, parent),
                                            parent, partition) as withcheck,
               pg_get_expr(p.had_qual, partition) as had_qual,
               pg_get_expr(p.had_check, partition) as had_check
        from pairs as p
        where not p.extra and (p.kin and p.alike) is not true
    ), written as (
        select p.polname, p.extra, p.had,
               p.kin and (t.qual is not null or t.had_qual is null)
                     and (t.withcheck is not null or t.had_check is null) as alterable,
               p.kin and p.roles = p.had_roles
               and (p.alike or (t.qual, t.withcheck) is not distinct from (t.had_qual, t.had_check))
               as same,
               case when p.polpermissive then 'permissive' else 'restrictive' end as kind,
               case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                             when 'd' then 'delete' else 'all' end as command,
               concat(' to ' || (select string_agg(case r.oid when 0 then 'public'
                                               else quote_ident(pg_get_userbyid(r.oid)) end, ', ')
                                 from unnest(p.roles) as r (oid)),
                      ' using (' || t.qual || ')',
                      ' with check (' || t.withcheck || ')') as tail
        from pairs as p
        left join texts as t on t.polname = p.polname
    ), steps (rank, what, command) as (
        select 1, format('policy %I', p.polname),
               case when p.had and p.alterable
                    then format('alter policy %I on %s%s', p.polname, partition, p.tail)
                    else concat(case when p.had -- one string, so one transaction
                                     then format('drop policy %I on %s; ', p.polname, partition)
                                end,
                                format('create policy %I on %s as %s for %s%s', p.polname,
                                       partition, p.kind, p.command, p.tail)) end
        from written as p
        where not p.extra and p.same is not true
        union all
        select 2, 'row security',
               format('alter table %s %s row level security', ensure._alone_v1(partition),
                      case when w.relrowsecurity then 'enable' else 'disable' end)
        from pg_class as w
        join pg_class as h on h.oid = partition
        where w.oid = parent and w.relrowsecurity <> h.relrowsecurity
        union all
        select 3, 'row security',
               format('alter table %s %s row level security', ensure._alone_v1(partition),
                      case when w.relforcerowsecurity then 'force' else 'no force' end)
        from pg_class as w
        join pg_class as h on h.oid = partition
        where w.oid = parent and w.relforcerowsecurity <> h.relforcerowsecurity
        union all
        select 4, format('policy %I', p.polname),
               format('drop policy %I on %s', p.polname, partition)
        from written as p
        where p.extra
    )
    select s.what, s.command
    from steps as s
    order by s.rank, s.what;
end
$fn$;

comment on function ensure._policy_statements_v1(regclass, regclass) is
    'What gives partition the row security and the policies of parent.';

create function ensure._option_changes_v1(
    wanted text[],
    had text[],
    prefix text
)
returns table (change text)
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _option_changes_v1: SET (…) and RESET (…) that make options had, written name=value, wanted.
with w (name, value) as (
    select split_part(u.item, '=', 1), substr(u.item, strpos(u.item, '=') + 1)
    from unnest(wanted) as u (item)
), h (name, value) as (
    select split_part(u.item, '=', 1), substr(u.item, strpos(u.item, '=') + 1)
    from unnest(had) as u (item)
)
select format('set (%s)', string_agg(format('%s%I = %L', prefix, w.name, w.value), ', '
                                     order by w.name))
from w
left join h on h.name = w.name
where h.value is distinct from w.value
having count(*) > 0
union all
select format('reset (%s)', string_agg(format('%s%I', prefix, h.name), ', ' order by h.name))
from h
where h.name not in (select w.name from w)
having count(*) > 0
$fn$;

comment on function ensure._option_changes_v1(text[], text[], text) is
    'SET (…) and RESET (…) that make options had, written name=value, wanted.';

create function ensure._column_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _column_statements_v1: what gives the columns of partition the settings of those of parent.
--
-- Returns  columns are matched by name: statistics target, options, storage, compression, default,
--          expression of a generated column (on 16 no statement can change it, so null; before, it
--          cannot differ); a comment only where parent has one
-- Locks    none beyond catalog reads
declare
    v_version constant integer := current_setting('server_version_num');
begin
    return query
    with pairs as materialized (
        select w.attname, w.attnum,
               coalesce(w.attstattarget, -1) as target, coalesce(h.attstattarget, -1) as had_target,
               w.attoptions, h.attoptions as had_options, w.attstorage, h.attstorage as had_storage,
               w.attcompression, h.attcompression as had_compression,
               w.attgenerated, w.attidentity, h.attgenerated as had_generated,
               case when w.atthasdef then
                   (select d.adbin from pg_attrdef as d
                    where d.adrelid = parent and d.adnum = w.attnum) end as expression,
               case when h.atthasdef then
                   (select d.adbin from pg_attrdef as d
                    where d.adrelid = partition and d.adnum = h.attnum) end as had_expression,
               d.description, f.description as had_description
        from pg_attribute as w
        join pg_attribute as h on h.attrelid = partition and h.attname = w.attname
        left join pg_description as d on d.classoid = 'pg_class'::regclass and d.objoid = parent
                                     and d.objsubid = w.attnum
        left join pg_description as f on f.classoid = 'pg_class'::regclass and f.objoid = partition
                                     and f.objsubid = h.attnum
        where w.attrelid = parent and w.attnum > 0 and not w.attisdropped
    )
    select s.what, case when s.change is not null then
               format('alter table %s alter column %I %s', ensure._alone_v1(partition), p.attname,
                      s.change) end
    from pairs as p
    cross join lateral (
        select 'statistics target', format('set statistics %s', p.target)
        where p.target <> p.had_target
        union all
        select 'column options', o.change
        from ensure._option_changes_v1(p.attoptions, p.had_options, '') as o
        where p.attoptions is distinct from p.had_options
        union all
        select 'storage', format('set storage %s', case p.attstorage
                                 when 'p' then 'plain' when 'e' then 'external'
                                 when 'm' then 'main' else 'extended' end)
        where p.attstorage <> p.had_storage
        union all
        select 'compression', format('set compression %s', case p.attcompression
                                     when 'p' then 'pglz' when 'l' then 'lz4' else 'default' end)
        where p.attcompression <> p.had_compression
        union all
        select 'default', coalesce('set default ' || pg_get_expr(p.expression, 0), 'drop default')
        where p.attgenerated = '' and p.attidentity = '' and p.had_generated = ''
          and pg_get_expr(p.expression, 0) is distinct from pg_get_expr(p.had_expression, 0)
        union all
        select 'generated column', case when v_version >= 170000 then
                   format('set expression as (%s)', pg_get_expr(p.expression, parent)) end
        where p.attgenerated <> '' and p.had_generated <> ''
          and ensure._expression_tree_v1(p.expression::text, parent)
              <> ensure._expression_tree_v1(p.had_expression::text, partition)
    ) as s (what, change)
    union all
    select 'comment', format('comment on column %s.%I is %L', partition, p.attname, p.description)
    from pairs as p
    where p.description is not null and p.description is distinct from p.had_description;
end
$fn$;

comment on function ensure._column_statements_v1(regclass, regclass) is
    'What gives the columns of partition the settings of those of parent.';

create function ensure._object_statements_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _object_statements_v1: what gives what hangs on partition the settings of what hangs on parent.
--
-- Returns  replica identity; statistics targets of index columns; extended statistics, matched by
--          definition, and their targets; whether triggers are enabled; comments that parent has
-- Locks    none beyond catalog reads
begin
    return query
    with indexes as materialized (
        select i.inhparent as wanted, i.inhrelid as had, c.relname, h.indisreplident,
               w.indisreplident as chosen
        from pg_index as h
        join pg_class as c on c.oid = h.indexrelid
        join pg_inherits as i on i.inhrelid = h.indexrelid and i.inhseqno = 1
        join pg_index as w on w.indexrelid = i.inhparent and w.indrelid = parent
        where h.indrelid = partition
    )
    select 'replica identity',
           format('alter table %s replica identity %s', ensure._alone_v1(partition),
                  case w.relreplident when 'd' then 'default' when 'n' then 'nothing'
                                      when 'f' then 'full'
                                      else format('using index %I', i.relname) end)
    from pg_class as w
    join pg_class as h on h.oid = partition
    left join indexes as i on w.relreplident = 'i' and i.chosen
    where w.oid = parent
      and (w.relreplident <> h.relreplident or i.had is not null and not i.indisreplident)
      and (w.relreplident <> 'i' or i.had is not null)
    union all
    select 'statistics target',
           format('alter index %s alter column %s set statistics %s', i.had::regclass, w.attnum,
                  coalesce(w.attstattarget, -1))
    from indexes as i
    join pg_attribute as w on w.attrelid = i.wanted
    join pg_attribute as h on h.attrelid = i.had and h.attnum = w.attnum
    where coalesce(w.attstattarget, -1) <> coalesce(h.attstattarget, -1)
    union all
    select 'trigger',
           format('alter table %s %s trigger %I', ensure._alone_v1(partition),
                  case w.tgenabled when 'O' then 'enable' when 'D' then 'disable'
                                   when 'R' then 'enable replica' else 'enable always' end,
                  h.tgname)
    from pg_trigger as h
    join pg_trigger as w on w.oid = h.tgparentid and w.tgrelid = parent
    where h.tgrelid = partition and h.tgenabled <> w.tgenabled
    union all
    select 'comment', format('comment on %s is %L', o.name, d.description)
    from (
        select 'pg_class'::regclass, parent::oid, partition::oid, format('table %s', partition)
        union all
        select 'pg_class'::regclass, i.wanted, i.had, format('index %s', i.had::regclass)
        from indexes as i
        union all
        select 'pg_constraint'::regclass, w.oid, h.oid,
               format('constraint %I on %s', h.conname, partition)
        from pg_constraint as h
        join pg_constraint as w on w.conrelid = parent
                               and (w.oid = h.conparentid
                                    or h.conparentid = 0 and w.conname = h.conname)
        where h.conrelid = partition
        union all
        select 'pg_trigger'::regclass, w.oid, h.oid,
               format('trigger %I on %s', h.tgname, partition)
        from pg_trigger as h
        join pg_trigger as w on w.oid = h.tgparentid and w.tgrelid = parent
        where h.tgrelid = partition
    ) as o (class, wanted, had, name)
    join pg_description as d on d.classoid = o.class and d.objoid = o.wanted and d.objsubid = 0
    left join pg_description as h on h.classoid = o.class and h.objoid = o.had and h.objsubid = 0
    where h.description is distinct from d.description;
end
$fn$;

comment on function ensure._object_statements_v1(regclass, regclass) is
    'What gives what hangs on partition the settings of what hangs on parent.';

create function ensure._extended_statistics_v1(
    parent regclass,
    partition regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _extended_statistics_v1: what gives partition the extended statistics of parent, with targets.
--
-- Returns  they are matched by kinds and columns, whatever their names
-- Locks    none beyond catalog reads
begin
    if not exists (select from pg_statistic_ext as s where s.stxrelid = parent) then
        return;
    end if;
    return query
    with defined as materialized (
        select s.stxrelid, n.nspname, s.stxname, coalesce(s.stxstattarget, -1) as target,
               s.oid, concat((select string_agg(quote_ident(a.attname), ', ' order by a.attname)
                              from pg_attribute as a
                              where a.attrelid = s.stxrelid and a.attnum = any (s.stxkeys)),
                             ensure._expression_tree_v1(s.stxexprs::text, s.stxrelid)) as columns,
               (select string_agg(case k.kind when 'd' then 'ndistinct' when 'm' then 'mcv'
                                              else 'dependencies' end, ', ' order by k.kind)
                from unnest(s.stxkind) as k (kind)
                where k.kind <> 'e') as kinds
        from pg_statistic_ext as s
        join pg_namespace as n on n.oid = s.stxnamespace
        where s.stxrelid in (parent, partition)
    ), pairs as (
        select w.*, h.nspname as had_schema, h.stxname as had_name, h.target as had_target,
               format('%s_%s_stat', left(t.relname, 12),
                      left(md5(concat_ws(' ', t.relname, w.columns, w.kinds)), 8)) as name,
               t.nspname as schema_name
        from defined as w
        left join defined as h on h.stxrelid = partition and h.columns = w.columns
                              and h.kinds is not distinct from w.kinds
        join (select c.relname, n.nspname
              from pg_class as c
              join pg_namespace as n on n.oid = c.relnamespace
              where c.oid = partition) as t on true
        where w.stxrelid = parent
    )
    select 'extended statistics',
           format('create statistics %I.%I%s on %s from %s', p.schema_name, p.name,
                  ' (' || p.kinds || ')', pg_get_statisticsobjdef_columns(p.oid), partition)
    from pairs as p
    where p.had_name is null
    union all
    select 'statistics target',
           format('alter statistics %I.%I set statistics %s', coalesce(p.had_schema, p.schema_name),
                  coalesce(p.had_name, p.name), p.target)
    from pairs as p
    where p.target <> coalesce(p.had_target, -1);
end
$fn$;

comment on function ensure._extended_statistics_v1(regclass, regclass) is
    'What gives partition the extended statistics of parent, with targets.';

create function ensure._property_statements_v1(
    parent regclass,
    partition regclass,
    template regclass
)
returns table (property text, statement text)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set standard_conforming_strings = on
set extra_float_digits = 1
set plan_cache_mode = force_generic_plan
as $fn$
-- _property_statements_v1: the statements that make partition equal to parent, none when it is.
--
-- Returns  in the order to run them: what neither LIKE nor ATTACH carries over or keeps equal.
--          Owner, privileges, row security, policies, column settings and defaults, replica
--          identity, triggers, statistics, comments that parent has; storage parameters as those of
--          template, and only when it is given. What partition has of its own stays, but for
--          privileges, policies and storage parameters. Access method, tablespace, extra indexes,
--          constraints and triggers may differ
-- Errors   0A000  a policy cannot be copied
-- Locks    none beyond catalog reads
declare
    v record;
begin
    select w.relowner, w.relowner <> h.relowner as moved,
           w.relowner <> h.relowner or w.relacl is distinct from h.relacl
           or exists (select from pg_attribute as a
                      where a.attrelid in (parent, partition) and a.attacl is not null) as granted,
           w.relrowsecurity or w.relforcerowsecurity or h.relrowsecurity or h.relforcerowsecurity
           or exists (select from pg_policy as p
                      where p.polrelid in (parent, partition)) as guarded,
           h.relkind, h.reloptions, h.reltoastrelid
    into v
    from pg_class as w
    cross join pg_class as h
    where w.oid = parent and h.oid = partition
    order by w.xmax::text = '0' desc -- an old snapshot shows what we changed twice
    limit 1;

    if v.moved then
        property := 'owner';
        statement := format('alter table %s owner to %I', partition, pg_get_userbyid(v.relowner));
        return next;
    end if;
    if v.granted then
        return query select s.* from ensure._privilege_statements_v1(parent, partition) as s;
    end if;
    if v.guarded then
        return query select s.* from ensure._policy_statements_v1(parent, partition) as s;
        return query
        select 'comment', format('comment on policy %I on %s is %L', w.polname, partition,
                                 d.description)
        from pg_policy as w
        join pg_description as d on d.classoid = 'pg_policy'::regclass and d.objoid = w.oid
        left join pg_policy as h on h.polrelid = partition and h.polname = w.polname
        where w.polrelid = parent
          and d.description is distinct from obj_description(h.oid, 'pg_policy');
    end if;
    return query select s.* from ensure._column_statements_v1(parent, partition) as s;
    return query select s.* from ensure._object_statements_v1(parent, partition) as s;
    return query select s.* from ensure._extended_statistics_v1(parent, partition) as s;
    if template is not null and v.relkind = 'r' then
        return query
        select 'storage parameters', format('alter table %s %s', partition, o.change)
        from pg_class as t
        left join pg_class as x on x.oid = t.reltoastrelid
        left join pg_class as h on h.oid = v.reltoastrelid
        cross join lateral (
            select * from ensure._option_changes_v1(t.reloptions, v.reloptions, '')
            union all
            select * from ensure._option_changes_v1(x.reloptions, h.reloptions, 'toast.')
            where h.oid is not null
        ) as o (change)
        where t.oid = template;
    end if;
end
$fn$;

comment on function ensure._property_statements_v1(regclass, regclass, regclass) is
    'The statements that make partition equal to parent, none when it is.';

-- migrate:down
drop function ensure._property_statements_v1(regclass, regclass, regclass);
drop function ensure._extended_statistics_v1(regclass, regclass);
drop function ensure._object_statements_v1(regclass, regclass);
drop function ensure._column_statements_v1(regclass, regclass);
drop function ensure._option_changes_v1(text[], text[], text);
drop function ensure._policy_statements_v1(regclass, regclass);
drop function ensure._expression_tree_v1(text, regclass);
drop function ensure._alone_v1(regclass);
drop function ensure._policy_expression_v1(text, regclass, regclass);
drop function ensure._privilege_statements_v1(regclass, regclass);
