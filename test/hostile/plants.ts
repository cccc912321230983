/** A plant that is run says so by this code. */
export const hijacked = 'XH001';

const body = `begin perform pg_catalog.nextval('public.hijacks'); raise exception 'hijacked: %' using errcode = '${hijacked}'; end`;

/**
 * In `schema`, for each function, operator and cast target of pg_catalog that the functions of ensure use, another of the same name and
 * arguments, that marks that it was run and raises. What cannot be made (arguments of type "any", internal) is passed over.
 */
export const plant = (schema: string): string => `
    create sequence if not exists public.hijacks;
    create or replace function public.plant_hijacks(place text) returns table (planted text) language plpgsql as $plant$
    declare
        v record;
    begin
        for v in
            select p.proname as name, pg_catalog.pg_get_function_identity_arguments(p.oid) as arguments, pg_catalog.format_type(p.prorettype, null) as result, p.proretset,
                   p.oid::regprocedure::text as what
            from pg_catalog.pg_proc as p
            where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f'
              and p.proname in (select w.found[1] from pg_catalog.pg_proc as e, regexp_matches(e.prosrc, '([a-z_0-9]+)\\(', 'g') as w (found) where e.pronamespace = 'ensure'::regnamespace)
        loop
            begin
                execute pg_catalog.format('create function %I.%I(%s) returns %s %s language plpgsql as %L', place, v.name, v.arguments, case when v.proretset then 'setof' end, v.result,
                    pg_catalog.replace($$${body}$$, '%', v.what));
                planted := v.what;
                return next;
            exception when others then
                null;
            end;
        end loop;
        for v in
            select o.oprname as name, l.typname as l, r.typname as r, o.oprresult::regtype::text as result, o.oprcode::text as code, o.oid::regoperator::text as what,
                   o.oprleft::regtype::text as lt, o.oprright::regtype::text as rt
            from pg_catalog.pg_operator as o
            join pg_catalog.pg_type as l on l.oid = o.oprleft join pg_catalog.pg_type as r on r.oid = o.oprright
            where o.oprnamespace = 'pg_catalog'::regnamespace
              and l.typname in ('text', 'name', 'oid', 'int2', 'int4', 'int8', 'bool', 'char', 'jsonb', 'numeric', 'timestamptz', 'interval', '_text', 'anyarray', 'regclass', 'anycompatiblearray', 'anyelement', 'tid')
              and o.oprname in ('=', '<>', '<', '>', '<=', '>=', '||', '+', '-', '*', '/', '->', '->>', '#>>', '?', '@>', '<@', '&&', '~', '!~', '~~', '%', '&', '<<')
        loop
            begin
                execute pg_catalog.format('create function %I.%I(a %s, b %s) returns %s language plpgsql as %L', place, 'o_' || v.what, v.lt, v.rt, v.result, pg_catalog.replace($$${body}$$, '%', v.what));
                execute pg_catalog.format('create operator %I.%s (leftarg = %s, rightarg = %s, procedure = %I.%I)', place, v.name, v.lt, v.rt, place, 'o_' || v.what);
                planted := v.what;
                return next;
            exception when others then
                null;
            end;
        end loop;
        -- types that a cast names without their schema; those that callers name themselves are not planted
        foreach planted in array array['text', 'oid', 'regtype', 'regrole', 'regnamespace', 'uuid', 'record', '"char"', 'timestamptz', 'jsonb_path', 'pg_class', 'pg_attribute'] loop
            begin
                execute pg_catalog.format('create type %I.%s as enum (''hijacked'')', place, planted);
                return next;
            exception when others then
                null;
            end;
        end loop;
    end
    $plant$;
    select count(*)::int as n from public.plant_hijacks('${schema}')`;

/** For each catalog that the functions of ensure name, an empty temporary table of that name; and types. */
export const shadow = `
    do $shadow$
    declare
        v record;
    begin
        for v in
            select c.oid, c.relname from pg_catalog.pg_class as c
            where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind in ('r', 'v')
              and c.relname in (select w.found[1] from pg_catalog.pg_proc as e, regexp_matches(e.prosrc, '\\m(pg_[a-z_]+)', 'g') as w (found) where e.pronamespace = 'ensure'::regnamespace)
        loop
            execute pg_catalog.format('create temp table %I as select %s from pg_catalog.%I limit 0', v.relname,
                (select string_agg(quote_ident(a.attname), ', ') from pg_catalog.pg_attribute as a where a.attrelid = v.oid and a.attnum > 0 and a.atttypid <> 'anyarray'::regtype), v.relname);
        end loop;
        create type pg_temp.text as enum ('hijacked');
        create type pg_temp.oid as enum ('hijacked');
        create type pg_temp.regrole as enum ('hijacked');
    end
    $shadow$`;
