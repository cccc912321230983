import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { expectError, major } from '../context.js';
import { as, lines, withRoles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { builtCli } from '../migrate/context.js';

const literal = (value: unknown): string => `'${JSON.stringify(value).replaceAll('\'', '\'\'')}'`;
const ensure = (spec: unknown): string => `select * from ensure.ensure_roles_v1(${literal(spec)})`;
const check = (spec: unknown): string => `select * from ensure.check_roles_v1(${literal(spec)})`;
const plan = (spec: unknown): string => `select * from ensure.plan_roles_v1(${literal(spec)})`;
const verifier = 'SCRAM-SHA-256$4096:LkkGxTCt1yTfEmWm7HIU6A==$TVlXq6l2ZjzGGpQ5J9kPpGH6Zjd3Yb1mOLrL8eJ8l0c=:Uq9GKpJ1cUoC3mW2mXIrXhR4cFvVvH1gqqqZ2G3gq7k=';

const documentOf = (role: (name: string) => string) => ({
    roles: [
        { role_name: role('owner'), login: true, connection_limit: 5, settings: { work_mem: '1MB' } },
        { role_name: role('app'), login: true, member_of: [role('group')], password_verifier: verifier },
        { role_name: role('group') },
    ].reverse(),
    owners: [{ new_owner: role('owner'), schemas: ['app'] }],
    grants: [{ grantee: role('group'), access: ['read'], schemas: ['app'], creators: [role('owner')], mode: 'exact' }],
});
const objects = 'create schema app; create table app.t (x int); create view app.v as select * from app.t';

describe('one document', () => {
    test('makes what it names before it gives it: roles, then owners, then grants; then it exists', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(objects);
            const spec = documentOf(role);
            const differing = await dba.run(check(spec));
            const changed = await dba.run(ensure(spec));
            expect(changed.map(({ object }) => object)).toEqual(differing.map(({ object }) => object));
            expect(new Set(lines(changed).map((line) => line.split(' ').at(-1)))).toEqual(new Set(['created', 'set', 'granted', 'altered']));
            expect(lines(await dba.run(ensure(spec)))).toEqual([
                `role ${role('group')} exists`, `role ${role('app')} exists`, `role ${role('owner')} exists`, 'owner of schema app exists',
                `grants of role ${role('group')} exists`,
            ]);
            expect(await dba.run(check(spec))).toEqual([]);
        }));

    test('the statements of the plan, each a transaction, in any number of runs, make the same', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(objects);
            const spec = documentOf(role);
            for (let turn = 0; (await dba.run(plan(spec))).length; turn++) {
                expect(turn).toBeLessThan(50);
                const rows = await dba.run(plan(spec));
                expect(rows.map(({ step_number: n, in_transaction: within }) => [n, within])).toEqual(rows.map((_, n) => [n + 1, true]));
                for (const { statement } of rows.slice(0, 3)) await dba.run(String(statement)); // and the runner is killed
            }
            expect(await dba.run(check(spec))).toEqual([]);
            expect((await dba.run(ensure(spec))).every(({ outcome }) => outcome === 'exists')).toBe(true);
        }));

    test('one part that may not be done: 42501 before anything is changed', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${objects}; create role "${role('deployer')}" createrole; grant usage on schema ensure to "${role('deployer')}"`);
            await as(dba, role('deployer'), async () => {
                const { detail } = expectError(await dba.attempt(ensure(documentOf(role))), '42501');
                expect(detail).toContain('for owner of schema app');
            });
            expect(await dba.run(`select rolname from pg_roles where starts_with(rolname, '${role('')}')`)).toEqual([{ rolname: role('deployer') }]);
        }));

    test('check_roles_v1 says for each statement what is missing, and the remedies mend all of it', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const deployer = role('deployer');
            await dba.run(`create role "${deployer}"; grant usage on schema ensure to "${deployer}"; create role "${role('owner')}"; create role "${role('before')}";
                create schema app authorization "${role('before')}"; set role "${role('before')}"; create table app.t (x int); create view app.v as select 1; reset role`);
            const spec = documentOf(role);
            for (let turn = 0; ; turn++) { // one right may be missing behind another
                const rows = await as(dba, deployer, () => dba.run(check(spec)));
                const remedies = new Set(rows.filter(({ missing }) => missing !== null).map(({ remedy }) => String(remedy)));
                if (!remedies.size) break;
                expect([...remedies], JSON.stringify(rows, null, 1)).not.toContain('null');
                expect(turn).toBeLessThan(4);
                for (const remedy of remedies) await dba.attempt(remedy);
                if (turn === 0) expect([...remedies]).toContain(`alter role ${deployer} createrole`);
            }
            expect((await as(dba, deployer, () => dba.run(ensure(spec)))).length).toBeGreaterThan(5);
            expect((await as(dba, deployer, () => dba.run(check(spec)))).map(({ object, finding }) => [object, finding]))
                .toEqual([[`password of role ${role('app')}`, 'unknown']]); // it may not read pg_authid
            expect(await as(dba, deployer, () => dba.run(plan(spec)))).toEqual([]);
        }));

    test('check_roles_v1 has what its owners settle first beside the rest, and its rows settle it; ensure and plan refuse', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const [app, other, mallory] = [role('app'), role('other'), role('mallory')];
            await dba.run(`create role "${app}"; create role "${other}"; create role "${mallory}"; create schema app; create table app.t (x int);
                grant create, usage on schema app to "${mallory}"; grant select on app.t to "${app}" with grant option; grant usage on schema app to "${app}";
                set role "${app}"; grant select on app.t to "${other}"; reset role;
                set role "${mallory}"; create function app.f() returns int security definer language sql as 'select 1'; reset role`);
            const owners = { roles: [{ role_name: role('owner') }], owners: [{ new_owner: role('owner'), schemas: ['app'] }] };
            const grants = { roles: [{ role_name: app, connection_limit: 5 }], grants: [{ grantee: app, access: [], schemas: ['app'], mode: 'exact' }] };
            for (const [spec, code] of [[owners, '42501'], [grants, '2BP01']] as const) {
                for (const call of [ensure(spec), plan(spec)]) expectError(await dba.attempt(call), code);
            }
            const listed = await dba.run(check(owners));
            expect(listed.length).toBeGreaterThan(3);
            expect(listed.filter(({ missing }) => missing !== null)).toEqual([{
                object: 'owner of function app.f()', finding: 'differs', missing: `trust in role ${mallory}, whose SECURITY DEFINER routine it is`,
                statement: `alter routine app.f() security invoker; alter routine app.f() owner to ${role('owner')}`, remedy: 'alter routine app.f() security invoker',
            }]);
            const [first, ...rest] = await dba.run(check(grants));
            expect(first).toEqual({
                object: `role ${other} has SELECT on table app.t by role ${app}`, finding: 'surplus',
                statement: `set role ${app}; revoke SELECT on table app.t from ${other}; reset role`, missing: null, remedy: null,
            });
            expect(rest.map(({ finding }) => finding)).toEqual(['differs', 'surplus', 'surplus']);
            await dba.run(`${String(first?.statement)}; alter routine app.f() security invoker`);
            for (const spec of [grants, owners]) {
                await dba.run(plan(spec));
                await dba.run(ensure(spec));
                expect(await dba.run(check(spec))).toEqual([]);
            }
        }));

    test('who creates the owner and joins it in the same document may hand over to it', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const deployer = role('deployer');
            await dba.run(`create role "${deployer}" createrole; grant usage on schema ensure to "${deployer}"; create schema app authorization "${deployer}";
                set role "${deployer}"; create table app.t (x int); reset role`);
            await dba.run(`do $$ begin execute format('grant create on database %I to "${deployer}"', current_database()); end $$`);
            const spec = (joins: boolean) => ({
                roles: [{ role_name: role('owner') }, ...(joins ? [{ role_name: deployer, member_of: { [role('owner')]: true } }] : [])],
                owners: [{ new_owner: role('owner'), schemas: ['app'] }],
            });
            await as(dba, deployer, async () => {
                expect(expectError(await dba.attempt(ensure(spec(false))), '42501').detail).toContain('owner of schema app');
                expect(lines(await dba.run(ensure(spec(true))))).toContain('owner of table app.t altered');
            });
        }));

    test('a role may be a member of one that comes later; a circle is 0LP01', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const spec = (circle: boolean) => ({ roles: [
                { role_name: role('a'), member_of: [role('b')] }, { role_name: role('b'), member_of: circle ? [role('a')] : [] },
            ] });
            expect(expectError(await dba.attempt(ensure(spec(true))), '0LP01').hint).not.toBe('');
            expect(await dba.run(ensure(spec(false)))).toHaveLength(3);
        }));

    test('a verifier is in no row of check_roles_v1, and in no DETAIL', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const spec = { roles: [{ role_name: role('app'), password_verifier: verifier }] };
            const rows = await dba.run(check(spec));
            expect(JSON.stringify(rows)).toContain('password …');
            expect(JSON.stringify(rows)).not.toContain('SCRAM');
            await dba.run(ensure(spec));
            await withoutGuard(dba, '_diff_attributes_v1', "= wanted ->> 'password_verifier' then", "= 'none' then");
            expect(expectError(await dba.attempt(ensure(spec)), 'NS015').detail).not.toContain('SCRAM');
        }));

    test('it answers read-only, and on nothing at all', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(objects);
            await dba.run('begin read only');
            expect((await dba.run(plan(documentOf(role)))).length).toBeGreaterThan(5);
            await dba.run('commit');
            for (const empty of [{}, { roles: [] }, { roles: null, owners: [], grants: null }]) expect(await dba.run(ensure(empty))).toEqual([]);
        }));

    test.each([
        ['null', '22004', null], ['a list', '22023', []], ['a part that is not known', '22023', { rules: [] }], ['roles that are an object', '22023', { roles: {} }],
        ['a role that is text', '22023', { roles: ['app'] }], ['a role without a name', '22004', { roles: [{ login: true }] }],
        ['a role with a key that is not known', '22023', { roles: [{ role_name: 'x', log_in: true }] }],
        ['a role that is named twice', '22023', { roles: [{ role_name: 'x' }, { role_name: 'x', login: true }] }],
        ['a schema with two owners', '22023', { owners: [{ new_owner: 'x', schemas: ['public'] }, { new_owner: 'y', schemas: ['public'] }] }],
        ['a schema that two entries give to one owner', '22023', { owners: [{ new_owner: 'x', schemas: ['public'], excluded: ['public.keep'] }, { new_owner: 'x', schemas: ['public'] }] }],
        ['an exact entry beside another', '22023', { grants: [{ grantee: 'x', access: ['read'], schemas: ['public'], mode: 'exact' }, { grantee: 'x', access: ['write'], schemas: ['public'] }] }],
        ['a date without a zone', '22007', { roles: [{ role_name: 'x', valid_until: '2030-01-01' }] }],
        ['a time without a zone', '22007', { roles: [{ role_name: 'x', valid_until: '2030-01-01 00:00' }] }],
        ['a date whose day and month a setting of the session decides', '22007', { roles: [{ role_name: 'x', valid_until: '01/02/2030 00:00+00' }] }],
        ['tomorrow in a zone', '22007', { roles: [{ role_name: 'x', valid_until: 'tomorrow 00:00+00' }] }],
        ['tomorrow', '22007', { roles: [{ role_name: 'x', valid_until: 'tomorrow' }] }],
        ['a value of another type', '22023', { roles: [{ role_name: 'x', login: 'yes' }] }],
        ['a limit with a fraction', '22023', { roles: [{ role_name: 'x', connection_limit: 1.5 }] }],
        ['a date that is none', '22007', { roles: [{ role_name: 'x', valid_until: 'soon' }] }],
        ['a name that is too long', '42602', { roles: [{ role_name: 'x'.repeat(64) }] }],
        ['an owner that is nowhere', '42704', { owners: [{ new_owner: 'no such role', schemas: ['public'] }] }],
        ['a grantee that is nowhere', '42704', { grants: [{ grantee: 'no such role', access: ['read'], schemas: ['public'] }] }],
    ])('bad input: %s', (_what, code, spec) =>
        withRoles(['dba'], async ({ dba }) => {
            for (const call of [ensure, check, plan]) {
                const sql = spec === null ? call(spec).replace("'null'", 'null') : call(spec);
                expect(expectError(await dba.attempt(sql), code).hint).not.toBe('');
            }
        }));
});

describe('pg-ensure check', () => {
    const command = (urls: Record<string, string>, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> => new Promise((resolve) => {
        execFile(process.execPath, [builtCli, ...args], { env: { ...process.env, ...urls } }, (error, stdout, stderr) => {
            resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
        });
    });
    const run = (url: string, ...args: string[]) => command({ DATABASE_URL: url }, 'check', ...args);

    test('--roles and --budget: exit code 14 with findings, 0 without; --json', () =>
        withRoles(['dba'], async ({ dba }, { role, database: { admin, url } }) => {
            const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-check-'));
            try {
                await dba.run(objects);
                const file = (name: string, value: unknown): string => {
                    writeFileSync(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
                    return join(folder, name);
                };
                const roles = file('roles.json', documentOf(role));
                const differing = await run(admin, '--roles', roles);
                expect(differing.code).toBe(14);
                expect(differing.stdout).toContain(`role ${role('app')}`);
                const missing = await command({ DATABASE_URL: admin, MIGRATION_DATABASE_URL: url }, 'check', '--roles', roles, '--json');
                expect(JSON.parse(missing.stdout)).toContainEqual(expect.objectContaining({ object: 'owner of schema app', missing: 'SUPERUSER' }));
                await dba.run(ensure(documentOf(role)));
                expect(await run(admin, '--roles', roles)).toMatchObject({ code: 0, stdout: expect.stringContaining('(0 rows)') as string });
                const budget = await run(admin, '--budget', file('pools.json', { [role('app')]: { pool: 500 } }), '--json');
                expect(budget.code).toBe(14);
                expect(JSON.parse(budget.stdout)).toContainEqual(expect.objectContaining({ role_name: role('app'), finding: 'unlimited', declared_sessions: '500' }));
                expect(JSON.parse(budget.stdout)).toContainEqual(expect.objectContaining({ role_name: null, finding: 'over-committed' }));
                expect((await run(admin, '--budget')).stdout).toContain('connections are for these roles');
                expect(await run(admin, '--roles', file('bad.json', '{"roles"'))).toMatchObject({ code: 2, stdout: '' });
                expect(await run(admin, '--roles', join(folder, 'none.json'))).toMatchObject({ code: 2, stdout: '' });
                expect(await run(admin, '--roles', file('unknown.json', { rules: [] }))).toMatchObject({ code: 1, stdout: '' });
            } finally {
                rmSync(folder, { recursive: true });
            }
        }));

    test('pg-ensure run tells what it runs without the verifier; --dry-run, which is to be carried out, has it', () =>
        withRoles(['dba'], async ({ dba }, { role, database: { admin } }) => {
            const spec = { roles: [{ role_name: role('app'), login: true, password_verifier: verifier }] };
            const query = `select * from ensure.plan_roles_v1(${literal(spec)})`;
            expect((await command({ DATABASE_URL: admin }, 'run', '--dry-run', query)).stdout).toContain(verifier);
            for (const options of [[], ['--json']]) {
                const { code, stdout, stderr } = await command({ DATABASE_URL: admin }, 'run', ...options, query);
                expect(code).toBe(0);
                expect(stdout + stderr).not.toContain('SCRAM');
                expect(stdout + stderr).toContain('password …');
                await dba.run(`drop role "${role('app')}"`);
            }
        }));
});

test(`what a server ${major >= 16 ? 'has' : 'before 16 has not'}: memberships with INHERIT and SET in a document`, () =>
    withRoles(['dba'], async ({ dba }, { role }) => {
        const spec = { roles: [{ role_name: role('g') }, { role_name: role('m'), member_of: { [role('g')]: { inherit: false, set: true } } }] };
        const outcome = await dba.attempt(ensure(spec));
        expect(outcome.code).toBe(major >= 16 ? 'ok' : '0A000');
    }));

test.each(['"5"', '[]', '1', '{"x": -1}', '{"x": 1.5}', '{"x": {}}', '{"x": {"pool": 1, "replica": 2}}', '{"x": {"pool": "a"}}', '{"x": {"pool": 1, "replicas": -1}}', '{"x": null}'])(
    'declared as %s is 22023', (declared) =>
        withRoles(['dba'], async ({ dba }) => {
            expect(expectError(await dba.attempt(`select * from ensure.check_connection_budget_v1('${declared}')`), '22023').hint).toContain('pool');
        }));
