-- migrate:up
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

-- migrate:down
drop function ensure._policy_statements_v1(regclass, regclass);
drop function ensure._expression_tree_v1(text, regclass);
drop function ensure._alone_v1(regclass);
drop function ensure._policy_expression_v1(text, regclass, regclass);
