-- migrate:up
create function ensure._texts_v1(
    list jsonb,
    place text
)
returns text[]
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _texts_v1: the strings of a JSON array, each once, in their order.
--
-- Returns  an empty array for null
-- Errors   22004  an element is null
--          22023  an element is no string
declare
    v_bad jsonb := (select e.element
                    from jsonb_array_elements(nullif(list, 'null')) as e (element)
                    where jsonb_typeof(e.element) <> 'string'
                    limit 1);
begin
    if v_bad is not null then
        raise exception using
            errcode = case when v_bad = 'null' then 'null_value_not_allowed'
                           else 'invalid_parameter_value' end,
            message = format('an element of %s is %s', place, left(v_bad::text, 200)),
            hint = 'Give strings.';
    end if;
    return array(select e.element
                 from jsonb_array_elements_text(nullif(list, 'null'))
                      with ordinality as e (element, place)
                 group by e.element
                 order by min(e.place));
end
$fn$;

comment on function ensure._texts_v1(jsonb, text) is
    'The strings of a JSON array, each once, in their order.';

create function ensure._check_access_v1(
    access text[],
    place text,
    schemas text[],
    exact boolean
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_access_v1: access has words that this server knows, and something to apply them to.
--
-- Errors   0A000  maintain, on a server before 17
--          22023  an unknown word; nothing is asked; of schema ensure more than its usage
declare
    c_word constant text := (
        select a.word from unnest(access) with ordinality as a (word, place)
        where a.word not in (select w.word from ensure._grant_words_v1() as w)
        order by a.place limit 1);
    c_words constant text := (
        select string_agg(quote_literal(w.word), ', ' order by w.place)
        from (select v.word, min(v.place) as place
              from ensure._grant_words_v1() with ordinality as v (word, kinds, privileges, place)
              group by v.word) as w);
begin
    if c_word is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('access of %s has the unknown word "%s"', place, c_word),
            hint = format('Words are %s.', c_words);
    elsif 'maintain' = any (access) and current_setting('server_version_num')::integer < 170000 then
        raise exception using
            errcode = 'feature_not_supported',
            message = 'this server has no privilege MAINTAIN',
            detail = format('The word maintain is in access of %s; PostgreSQL has it from 17 on.',
                            place),
            hint = 'Leave it out; before 17 only the owner of a table maintains it.';
    elsif access = '{}' and not exact then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('access of %s is empty', place),
            hint = format('Give one or more of %s, or mode exact to revoke all.', c_words);
    elsif schemas = '{}' and (access = '{}' or exists (
              select from ensure._grant_words_v1() as w
              where w.word = any (access) and w.kinds <> '{database}')) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('schemas of %s is empty', place),
            hint = 'Give one or more schemas; only create_schema, connect and temporary do'
                   ' without.';
    elsif 'ensure' = any (schemas) and exists (
              select from ensure._grant_words_v1() as w
              where w.word = any (access) and w.kinds <> '{database}'
                and w.word not in ('usage', 'execute')) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('access of %s has more than usage for schema "ensure"', place),
            detail = 'Its functions are for PUBLIC to execute; its tables are for them alone.',
            hint = 'Give usage for schema ensure, in a call or an entry of its own.';
    end if;
end
$fn$;

comment on function ensure._check_access_v1(text[], text, text[], boolean) is
    'access has words that this server knows, and something to apply them to.';

create function ensure._check_grants_v1(
    wanted jsonb,
    known text[]
)
returns void
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _check_grants_v1: wanted says what ensure_grants_v1 takes, and names what exists.
--
-- Errors   0A000, 22004, 22023, 42602, 42939  bad input
--          3F000, 42704  no such schema or role, nor one in known
declare
    c_grantee constant text := wanted ->> 'grantee';
    c_place constant text := 'the grants' || coalesce(' of role "' || c_grantee || '"', '');
    v_schemas text[];
    v_name text;
begin
    perform ensure._check_wanted_v1(wanted, c_place, '{grantee,access,schemas}', $types$ {
        "grantee": "string", "access": "array", "schemas": "array", "creators": "array",
        "mode": "string", "revoke_public": "boolean"} $types$);
    if wanted ->> 'mode' not in ('add', 'exact') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('mode of %s is "%s"', c_place, wanted ->> 'mode'),
            hint = 'Give add, or exact to revoke what is not asked.';
    end if;
    v_schemas := ensure._texts_v1(wanted -> 'schemas', format('schemas of %s', c_place));
    perform ensure._check_access_v1(
        ensure._texts_v1(wanted -> 'access', format('access of %s', c_place)), c_place, v_schemas,
        coalesce(wanted ->> 'mode' = 'exact', false));
    if v_schemas = '{}' and jsonb_array_length(nullif(wanted -> 'creators', 'null')) > 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('creators of %s are given without schemas', c_place),
            hint = 'Name the schemas where they make objects, or leave creators out.';
    end if;
    foreach v_name in array c_grantee || ensure._texts_v1(wanted -> 'creators',
                                                          format('creators of %s', c_place))
    loop
        perform ensure._check_role_name_v1(v_name, format('a role in %s', c_place));
        if to_regrole(quote_ident(v_name)) is null and v_name <> all (known) then
            raise exception using
                errcode = 'undefined_object',
                message = format('role "%s" does not exist', v_name),
                detail = format('It is in %s.', c_place),
                hint = 'Ensure it first, or mend the name.';
        end if;
    end loop;
    foreach v_name in array v_schemas loop
        if v_name like 'pg\_%' or v_name = 'information_schema' then
            raise exception using
                errcode = 'reserved_name',
                message = format('schema "%s" belongs to PostgreSQL', v_name),
                detail = format('It is in %s.', c_place),
                hint = 'Leave it out.';
        elsif v_name = '' or to_regnamespace(quote_ident(v_name)) is null then
            raise exception using
                errcode = 'invalid_schema_name',
                message = format('schema "%s" does not exist', v_name),
                detail = format('It is in %s; this is database "%s".', c_place, current_database()),
                hint = 'Create it first, or mend the name.';
        end if;
    end loop;
end
$fn$;

comment on function ensure._check_grants_v1(jsonb, text[]) is
    'wanted says what ensure_grants_v1 takes, and names what exists.';

-- migrate:down
drop function ensure._check_grants_v1(jsonb, text[]);
drop function ensure._check_access_v1(text[], text, text[], boolean);
drop function ensure._texts_v1(jsonb, text);
