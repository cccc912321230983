-- migrate:up
create function ensure._check_member_v1(
    target regclass,
    member jsonb,
    key name[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_member_v1: member is an object of columns of target and values that they can hold.
--
-- Errors   22023, 428C9, 42703  it is not; key is not of member's columns
--          22003, 22007, 22P02 …  a value is none of its column's type
declare
    c_given constant name[] := array(select k.name from jsonb_object_keys(
        case when jsonb_typeof(member) = 'object' then member else '{}' end) as k (name));
    v_name text;
    v_code text;
    v_problem text;
begin
    if c_given = '{}' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'member is not an object of columns and values',
            detail = format('It is %s.', left(member::text, 200)),
            hint = $$Write it like '{"name": "Main", "kind": "root"}'.$$;
    end if;
    perform ensure._check_attributes_v1(target, array( -- to an identity a value may be given
        select n.name
        from (select jsonb_object_keys(member) union select unnest(key::text[])) as n (name)
        where not exists (select from pg_attribute as a
                          where a.attrelid = target and a.attname = n.name
                            and a.attidentity = 'a')));
    select k.name into v_name from unnest(key) as k (name) where not member ? k.name::text limit 1;
    if key = '{}' or v_name is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = case when key = '{}' then 'key must not be empty' else format(
                          'member has no value for the column "%s" of key', v_name) end,
            detail = format('Member: %s.', left(member::text, 200)),
            hint = 'Name in key the columns of member that say which row it is, null is a value'
                   ' too; or leave key out.';
    end if;
    begin
        execute format('select from (%s) as "~a"', ensure._rows_given_v1(target, c_given))
        using jsonb_build_array(member);
    exception when data_exception or integrity_constraint_violation then
        get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
        raise exception using
            errcode = v_code,
            message = format('member is no row of "%s"', target),
            detail = format('%s. Member: %s.', v_problem, left(member::text, 200)),
            hint = 'Write each value as its column prints it, numbers and true without quotes.';
    end;
end
$fn$;

comment on function ensure._check_member_v1(regclass, jsonb, name[]) is
    'Member is an object of columns of target and values that they can hold.';

create function ensure._check_only_v1(
    target regclass,
    member jsonb,
    among text,
    demote text,
    key name[],
    children text,
    child_tables regclass[],
    archive regclass
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_only_v1: the arguments of ensure_only_v1 are there and fit each other, but for SET lists.
--
-- Errors   0A000, 22004, 22023, 428C9, 42703, 42P01, 42809 …  they do not
declare
    c_kind constant "char" := (select c.relkind from pg_class as c where c.oid = target);
    v_table regclass;
begin
    if num_nulls(target, member, among, demote, children) > 0 then
        raise exception using
            errcode = 'null_value_not_allowed',
            message = format('%s must not be null',
                             case when target is null then 'target' when member is null
                                  then 'member' when among is null then 'among'
                                  when demote is null then 'demote' else 'children' end),
            hint = 'Only key, promote, child_tables and archive may be null.';
    elsif c_kind is null then
        perform ensure._check_target_v1(target);
    elsif c_kind not in ('r', 'p') then
        raise exception using
            errcode = 'wrong_object_type',
            message = format('"%s" is not a table', target),
            hint = 'Pass the table whose rows are meant.';
    elsif c_kind = 'r' and exists (select from pg_inherits as i where i.inhparent = target) then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('tables inherit from "%s", and their rows are not looked at', target),
            hint = 'Pass a table from which none inherits, or a partitioned one.';
    elsif children not in ('leave', 'move', 'merge') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('children cannot be %L', children),
            hint = 'Pass leave, move or merge.';
    elsif children = 'leave' and child_tables is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = $$children is 'leave', and there are child_tables$$,
            hint = 'Leave out child_tables, or pass children => ''move'' or ''merge''.';
    end if;
    select t.relation into v_table
    from unnest(child_tables) as t (relation)
    where t.relation is null
       or not exists (select from ensure._references_v1(target) as r where r.child = t.relation)
    limit 1;
    if found then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('"%s" of child_tables does not refer to "%s"', v_table, target),
            hint = 'Name tables that have a foreign key to it; of partitions the table they are'
                   ' in.';
    end if;
    perform ensure._check_member_v1(target, member, key);
    if among !~* '^\s*true\s*$' then -- which no plan shows
        perform ensure._read_expression_v1(target, among, 'predicate');
    end if;
    perform ensure._check_dedupe_v1(target, null, 'refuse', null, 'refuse', archive);
end
$fn$;

comment on function ensure._check_only_v1(regclass, jsonb, text, text, name[], text, regclass[],
                                          regclass) is
    'The arguments of ensure_only_v1 are there and fit each other, but for SET lists.';

create function ensure._nulls_v1(
    target regclass,
    spare name default null
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _nulls_v1: SQL for a row of nulls with the columns of target, or all but one.
select format('(select %s)', string_agg(
           format('null::%s as %I', format_type(a.atttypid, a.atttypmod), a.attname), ', '
           order by a.attnum))
from pg_attribute as a
where a.attrelid = target and a.attnum > 0 and not a.attisdropped
  and a.attname is distinct from spare
$fn$;

comment on function ensure._nulls_v1(regclass, name) is
    'SQL for a row of nulls with the columns of target, or all but one.';

create function ensure._refers_v1(
    target regclass,
    demote text
)
returns boolean
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _refers_v1: a SET list is not one without the row "keeper".
--
-- Returns  true also where it reads a table of that name
-- Locks    ROW EXCLUSIVE on target
declare
    v_plan text;
begin
    for v_plan in execute format(
        'explain (costs off) update %s as %I set %s where false', ensure._from_v1(target),
        (select coalesce(nullif(c.relname, 'keeper'), '~t') from pg_class as c
         where c.oid = target), concat(demote, E'\n'))
    loop
        null;
    end loop;
    return false;
exception
    when undefined_table or undefined_column then
        return true;
    when syntax_error_or_access_rule_violation or data_exception or feature_not_supported
         or invalid_cursor_definition then
        return false;
end
$fn$;

comment on function ensure._refers_v1(regclass, text) is
    'A SET list is not one without the row "keeper".';

create function ensure._check_set_v1(
    target regclass,
    set_list text,
    argument text
)
returns void
language plpgsql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_set_v1: set_list is what stands in SET of an UPDATE of target, and nothing more.
--
-- Returns  nothing; argument: what it is called; demote may refer to the row "keeper"
-- Errors   0A000  the table is called keeper
--          22023  it is not; 42702, 42703, 42883 …  it names what is not there, or is in both rows
-- Locks    ROW EXCLUSIVE on target
declare
    c_name constant name := (select c.relname from pg_class as c where c.oid = target);
    v_keeper boolean;
    v_plan text;
    v_code text;
    v_problem text;
    v_column text;
begin
    v_keeper := argument = 'demote' and ensure._refers_v1(target, set_list);
    if v_keeper and c_name = 'keeper' then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('"%s" is called keeper, as is the row that is kept', target),
            hint = 'Rename the table, or let demote not name its columns with keeper.';
    end if;
    begin
        -- a cursor refuses several statements before it runs the first
        for v_plan in execute format(
            'explain (costs off) update %s as %I set %s%s where false', ensure._from_v1(target),
            c_name, concat(set_list, E'\n'),
            case when v_keeper then format('from %s as keeper', ensure._nulls_v1(target)) end)
        loop
            null;
        end loop;
    exception when syntax_error_or_access_rule_violation or data_exception or feature_not_supported
                   or invalid_cursor_definition then
        get stacked diagnostics v_code = returned_sqlstate, v_problem = message_text;
        v_column := ensure._quoted_column_v1(target, set_list);
        raise exception using
            errcode = case when v_code in ('0A000', '42601', '42P11') then '22023' else v_code end,
            message = format('%s is not what an UPDATE of "%s" may set: %s', argument, target,
                             left(regexp_replace(set_list, '\s+', ' ', 'g'), 200)),
            detail = v_problem,
            hint = case when v_code = '42702'
                        then format('Both rows have that column: write %I.… for that of the row'
                                    ' that is demoted, or keeper.…', c_name)
                        when v_column is not null
                        then format('This is SQL: write %s for that column.', v_column)
                        else 'Write what stands in SET, like is_main = false; what is not in'
                             ' pg_catalog needs its schema.' end;
    end;
end
$fn$;

comment on function ensure._check_set_v1(regclass, text, text) is
    'set_list is what stands in SET of an UPDATE of target, and nothing more.';

-- migrate:down
drop function ensure._check_set_v1(regclass, text, text);
drop function ensure._refers_v1(regclass, text);
drop function ensure._nulls_v1(regclass, name);
drop function ensure._check_only_v1(regclass, jsonb, text, text, name[], text, regclass[],
                                    regclass);
drop function ensure._check_member_v1(regclass, jsonb, name[]);
