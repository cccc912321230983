import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { withSessions } from '../scripts/harness/sessions.js';
import { withTestDatabase } from './context.js';

/** Rules that all functions share: a query that lists offenders, and a function that breaks the rule. */
const functions = "pg_proc as p where p.pronamespace = 'ensure'::regnamespace";
const rules: Record<string, { offenders: string; offence: string }> = {
    'search_path is pinned to pg_catalog, pg_temp': {
        offenders: `select p.proname from ${functions}
                    and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))`,
        offence: "create function ensure.check_x_v1() returns int language sql set search_path = pg_catalog as 'select 1'",
    },
    'nothing is set for a function but what is listed': {
        offenders: `select p.proname || ' ' || c.setting as proname from pg_proc as p, unnest(p.proconfig) as c (setting)
                    where p.pronamespace = 'ensure'::regnamespace and lower(split_part(c.setting, '=', 1)) <> all
                        ('{search_path,datestyle,intervalstyle,timezone,extra_float_digits,bytea_output,lc_monetary,xmloption,array_nulls,
                           standard_conforming_strings,quote_all_identifiers,row_security,default_tablespace,lock_timeout,jit,enable_nestloop,
                           enable_seqscan,parallel_tuple_cost,plan_cache_mode,constraint_exclusion}')`,
        offence: "create function ensure.check_x_v1() returns int language sql set role = 'none' as 'select 1'",
    },
    'row security is on, or off so that a policy is an error': {
        offenders: `select p.proname from ${functions} and 'row_security=on' = any (p.proconfig)`,
        offence: "create function ensure.check_x_v1() returns int language sql set row_security = on as 'select 1'",
    },
    'EXECUTE is nobody\'s own: USAGE of the schema is the one switch': {
        offenders: `select p.proname from ${functions} and p.proacl is not null`,
        offence: 'revoke execute on function ensure.check_install_v1 from public',
    },
    'no function runs with its owner\'s rights': {
        offenders: `select p.proname from ${functions} and p.prosecdef`,
        offence: "create function ensure.check_x_v1() returns int language sql security definer as 'select 1'",
    },
    'names carry a version, public ones one of the four verbs': { // but for merge_rows_v1, which is what people look for
        offenders: `select p.proname from ${functions} and p.proname <> 'merge_rows_v1'
                    and p.proname !~ '^(_[a-z]|ensure|check|plan|undo)[a-z_]*_v[0-9]+$'`,
        offence: "create function ensure.ensure_x() returns int language sql as 'select 1'",
    },
    'one name, one signature': {
        offenders: `select p.proname from ${functions} group by p.proname having count(*) > 1`,
        offence: `create function ensure._check_cells_v1(text) returns int language sql as 'select 1'`,
    },
    'every argument has a name': {
        offenders: `select p.proname from ${functions} and p.pronargs > 0
                    and (p.proargnames is null or '' = any (p.proargnames))`,
        offence: `create function ensure.check_x_v1(int) returns int language sql as 'select 1'`,
    },
    'the body opens with its header, and comment on repeats its first sentence': {
        offenders: `select p.proname from ${functions}
                    and lower(substring(p.prosrc from E'^\\n-- ' || p.proname || ': ([^\\n]*)'))
                        = lower(obj_description(p.oid, 'pg_proc')) is not true`,
        offence: "create function ensure.check_x_v1() returns int language sql as 'select 1'",
    },
    'a versioned function calls only versioned ones': {
        offenders: `select p.proname from ${functions} and p.prosrc ~ '\\mensure\\.[a-z_]+(?<!_v[0-9])\\('`,
        offence: "create function ensure.check_x_v1() returns int language plpgsql as 'begin return ensure.other(); end'",
    },
    'every raise has an errcode': {
        offenders: `select p.proname from ${functions}
                    and (select count(*) from regexp_matches(p.prosrc, 'raise exception', 'g'))
                        <> (select count(*) from regexp_matches(p.prosrc, 'errcode = ', 'g'))`,
        offence: "create function ensure.check_x_v1() returns int language plpgsql as $$ begin raise exception 'x'; end $$",
    },
    'every message for people has a hint': {
        offenders: `select p.proname from ${functions} and p.proname not in ('_lock_one_v1', '_run_v1', '_make_changes_v1') -- caught by whoever retries; no error
                    and (select count(*) from regexp_matches(p.prosrc, 'message = ', 'g'))
                        <> (select count(*) from regexp_matches(p.prosrc, 'hint = ', 'g'))`,
        offence: "create function ensure.check_x_v1() returns int language plpgsql as $$ begin raise using message = 'x'; end $$",
    },
    'no error is swallowed whole': {
        offenders: `select p.proname from ${functions} and p.prosrc ~* 'when\\s+others|sqlerrm'`,
        offence: `create function ensure.check_x_v1() returns int language plpgsql as $$ begin return 1; exception
                  when others then return 2; end $$`,
    },
    'a body has at most 120 lines': {
        offenders: `select p.proname from ${functions} and cardinality(string_to_array(p.prosrc, E'\\n')) > 122`,
        offence: `do $do$ begin execute format('create function ensure.check_x_v1() returns int language sql as %L',
                  repeat(E'\\n', 130) || 'select 1'); end $do$`,
    },
    'PUBLIC may not use the schema': {
        offenders: `select a.privilege_type as proname from pg_namespace as n, aclexplode(n.nspacl) as a
                    where n.nspname = 'ensure' and a.grantee = 0`,
        offence: 'grant usage on schema ensure to public',
    },
};

describe('rules for all functions', () => {
    test.each(Object.keys(rules))('%s; negative control: the rule finds an offence', (name) =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            const rule = rules[name] as (typeof rules)[string];
            expect(await owner.run(rule.offenders)).toEqual([]);
            await owner.run(rule.offence);
            expect(await owner.run(rule.offenders)).not.toEqual([]);
        })));
});

describe('rules for all files', () => {
    const folder = new URL('../sql/', import.meta.url);
    const files = readdirSync(folder).sort();
    const text = (file: string): string => readFileSync(new URL(file, folder), 'utf8');

    test('names are 14 digits, all different, and a name', () => {
        expect(files.filter((file) => !/^\d{14}_[a-z_0-9]+\.sql$/.test(file))).toEqual([]);
        expect(new Set(files.map((file) => file.slice(0, 14))).size).toBe(files.length);
    });

    test.each(files)('%s: up, then down, which drops what up creates in reverse; 100 columns', (file) => {
        const [empty, up = '', ...rest] = text(file).split(/^-- migrate:(?:up|down)\n/m);
        expect(empty).toBe('');
        expect(rest).toHaveLength(1);
        const created = [...up.matchAll(/^create function (\S+?)\(/gm)].map((match) => match[1]);
        const dropped = [...(rest[0] ?? '').matchAll(/^drop function (\S+?)\(/gm)].map((match) => match[1]);
        expect(dropped).toEqual(created.reverse());
        expect(up).not.toMatch(/or replace|function if not exists/i);
        expect(text(file).split('\n').filter((line) => line.length > 100)).toEqual([]);
    });

    test('every file goes down and up again', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            const half = (file: string, which: 'up' | 'down') => text(file).split(/^-- migrate:(?:up|down)\n/m)[which === 'up' ? 1 : 2] ?? '';
            for (const file of [...files].reverse()) await owner.run(half(file, 'down'));
            expect(await owner.run(`select p.proname from ${functions}`)).toEqual([]);
            for (const file of files) await owner.run(half(file, 'up'));
        })));
});
