import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { withoutGuard } from '../mutate.js';
import { call, calls } from './arguments.js';
import { withWorld } from './play.js';
import { plain, spelled } from './scenarios.js';

/** Calls that any role may make: what they answer is in catalogs that all may read. */
const answers: Record<string, string> = {
    check_install_v1: 'what is installed',
    plan_retire_role_v1: 'any role may ask',
    plan_row_function_v1: 'reads catalogs only',
    check_connection_budget_v1: 'reads pg_roles and what of pg_stat_activity this role may see',
    check_partitions_v1: 'reads catalogs only: USAGE on schema ensure',
    check_coverage_v1: 'reads catalogs only',
};

const { q, key } = spelled(plain);
const stranger = `${key('fresh')}_stranger`;
const secret = 's3cret';
const verifier = 'SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$c3RvcmVka2V5c3RvcmVka2V5c3RvcmVka2V5c3RvcmU=:c2VydmVya2V5c2VydmVya2V5c2VydmVya2V5c2VydmU=';

/** The calls by oid, since a role without USAGE cannot name a table, as a role that has nothing but what `grants` gives it. */
async function asked(dba: Session, grants: string): Promise<Record<string, { code: string; says: string }>> {
    await dba.run(`create role ${stranger}; ${grants}; update a_schema.a_table set a_name = '${secret}' where a_id < 3; alter role ${q.heir} password '${verifier}'`);
    const tables = await dba.run("select format('%s::oid::regclass', c.oid) as by_oid, format('''\"a_schema\".\"%s\"''::regclass', c.relname) as quoted from pg_class as c where c.relnamespace = 'a_schema'::regnamespace and c.relkind in ('r', 'p')");
    const found: Record<string, { code: string; says: string }> = {};
    for (const name of Object.keys(calls)) {
        const text = tables.reduce((statement, { by_oid: oid, quoted }) => statement.replaceAll(String(quoted), String(oid)), call(name));
        await dba.run(`savepoint stranger; set local session authorization ${stranger}`);
        const { code, rows, error } = await dba.attempt(text);
        const { message = '', detail = '', hint = '' } = (error ?? {}) as unknown as Record<string, string>;
        await dba.run('rollback to stranger; release stranger');
        found[name] = { code, says: JSON.stringify([message, detail, hint, rows]) };
    }
    return found;
}

const codes = (found: Record<string, { code: string }>): Record<string, string> => Object.fromEntries(Object.entries(found).map(([name, { code }]) => [name, code]));
const leaks = (found: Record<string, { says: string }>): string[] => Object.entries(found).filter(([, { says }]) => says.includes(secret) || says.includes('c3RvcmVk')).map(([name]) => name);

describe('a role that has nothing', () => {
    test('and no USAGE on schema ensure is refused by every function', () => withWorld(async (dba) => {
        const found = await asked(dba, 'select');
        expect(codes(found)).toEqual(Object.fromEntries(Object.keys(calls).map((name) => [name, '42501'])));
        expect(leaks(found)).toEqual([]);
    }));

    test('but USAGE on schema ensure is refused where it would change or read anything, and is told no value and no verifier', () => withWorld(async (dba) => {
        const found = await asked(dba, `grant usage on schema ensure to ${stranger}`);
        expect(codes(found)).toEqual(Object.fromEntries(Object.keys(calls).map((name) => [name, name in answers ? 'ok' : '42501'])));
        expect(leaks(found)).toEqual([]);
    }));

    test('but USAGE on both schemas neither', () => withWorld(async (dba) => {
        const found = await asked(dba, `grant usage on schema ensure, a_schema to ${stranger}`);
        const may = [...Object.keys(answers), 'check_roles_v1', 'plan_owner_v1', 'plan_partitions_v1', 'plan_roles_v1']; // which name a table of the schema
        expect(codes(found)).toEqual(Object.fromEntries(Object.keys(calls).map((name) => [name, may.includes(name) ? 'ok' : '42501'])));
        expect(leaks(found)).toEqual([]);
    }));

    test('negative control: SECURITY DEFINER would let it change, and a DETAIL with what is there would tell it', () => withWorld(async (dba) => {
        await dba.run(`alter function ensure.ensure_rows_v1 security definer; alter function ensure.ensure_rows_v1 owner to current_user; create function ensure._tell_v1() returns text language sql security definer as $$ select a_name from a_schema.a_table where a_id = 1 $$`);
        await withoutGuard(dba, 'check_install_v1', "select 'server'::text,", 'select ensure._tell_v1(),');
        const found = await asked(dba, `grant usage on schema ensure to ${stranger}`);
        expect(codes(found).ensure_rows_v1).toBe('ok');
        expect(leaks(found)).toEqual(['check_install_v1']);
    }));
});

describe('a verifier', () => {
    test('is in no message and no row, whoever asks and whatever fails', () => withWorld(async (dba) => {
        await dba.run(`grant usage on schema ensure to ${q.role}; alter role ${q.role} createrole`);
        const document = JSON.stringify({ roles: [{ role_name: key('fresh'), password_verifier: verifier, member_of: { [key('heir')]: true } }] });
        const found: string[] = [];
        for (const who of ['select', `set local session authorization ${q.role}`, 'set local transaction_read_only = on', "set local ensure.ddl = 'off'"]) {
            for (const asks of [`ensure_roles_v1('${document}')`, `check_roles_v1('${document}')`, `ensure_role_v1('${key('fresh')}', password_verifier => '${verifier}', connection_limit => -7)`, `ensure_role_v1('${key('heir')}', password_verifier => '${verifier}x')`]) {
                await dba.run(`savepoint v; ${who}`);
                const { code, rows, error } = await dba.attempt(`select * from ensure.${asks}`);
                const { message, detail, hint, where } = (error ?? {}) as unknown as Record<string, string>;
                if (JSON.stringify([rows, message, detail, hint, where]).includes('c3RvcmVk')) found.push(`${code} ${asks.slice(0, 20)}: ${String(where)}`);
                await dba.run('rollback to v; release v');
            }
        }
        expect(found).toEqual([]);
    }));
});
