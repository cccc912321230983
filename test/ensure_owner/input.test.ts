import { describe, expect, test } from 'vitest';
import { expectError, major } from '../context.js';
import { as, withRoles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { owners } from './objects.js';

const call = (input: string): string => `select * from ensure.ensure_owner_v1(${input})`;

describe('bad input changes nothing, and says what to do', () => {
    const setup = `create schema a; create table a.t (id serial); create index i on a.t (id); create function a.f() returns int language sql as 'select 1'`;

    test.each([
        ['22004', "null, '{a}'"], ['22004', "'app', null"], ['22004', "'app', '{a,null}'"], ['22004', "'app', '{a}', '{a.t,null}'"],
        ['22023', "'app', '{a}', '{a.i}'"], ['22023', "'app', '{a}', '{a.t_id_seq}'"], ['22023', "'app', '{a}', max_wait => '-1 s'"],
        ['42602', "'', '{a}'"], ['42939', "'public', '{a}'"], ['42939', "'app', '{pg_catalog}'"], ['42939', "'app', '{a,ensure}'"],
        ['42939', "'app', '{information_schema}'"], ['3F000', "'app', '{a,nowhere}'"], ['42704', "'nobody', '{a}'"],
    ])('%s for %s', (code, input) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${setup}; create role "${role('app')}"`);
            const before = await dba.run(owners);
            const outcome = await dba.attempt(call(input.replace("'app'", `'${role('app')}'`)));
            expect(expectError(outcome, code).hint).not.toBe('');
            if (!input.includes('max_wait')) {
                const plan = call(input.replace("'app'", `'${role('app')}'`)).replace('ensure_owner', 'plan_owner');
                expectError(await dba.attempt(plan), code);
            }
            expect(await dba.run(owners)).toEqual(before);
        }));

    test.each([
        ['42P01', { new_owner: 'app', schemas: ['a'], excluded: ['a.nothing'] }], ['42883', { new_owner: 'app', schemas: ['a'], excluded_routines: ['a.g()'] }],
        ['22023', { new_owner: 'app', schemas: [1] }], ['22023', { new_owner: 'app', schemas: ['a'], owner: 'x' }], ['22004', { schemas: ['a'] }],
    ])('in a document %s for %j', (code, wanted) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${setup}; create role "${role('app')}"`);
            const document = JSON.stringify({ owners: [wanted] }).replace('"app"', JSON.stringify(role('app')));
            expect(expectError(await dba.attempt(`select * from ensure._settle_changes_v1('${document}', '1 s', '1 s')`), code).hint).not.toBe('');
        }));

    test('a role that the same document makes may own', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(setup);
            const document = JSON.stringify({ roles: [{ role_name: role('app') }], owners: [{ new_owner: role('app'), schemas: ['a'] }] });
            const changes = await dba.run(`select * from ensure._settle_changes_v1('${document}', '1 s', '1 s')`);
            expect(changes.map(({ object }) => object)).toEqual([`role ${role('app')}`, 'owner of schema a', 'owner of table a.t', 'owner of function a.f()']);
            expect(await dba.run(`select * from ensure._settle_changes_v1('${document}', '1 s', '1 s')`)).toEqual([
                { object: `role ${role('app')}`, outcome: 'exists' }, { object: 'owner of schema a', outcome: 'exists' },
            ]);
        }));
});

describe('rights', () => {
    const give = (roles: (name: string) => string): string => `
        create role "${roles('me')}"; create role "${roles('old')}"; create role "${roles('app')}"; grant usage on schema ensure to "${roles('me')}";
        create schema a; create table a.t (); alter table a.t owner to "${roles('old')}"; alter schema a owner to "${roles('old')}"`;

    test('what is missing is said before anything is changed, and what the HINT says mends it, on every version', () =>
        withRoles(['me', 'dba'], async ({ me, dba }, { role, database }) => {
            await dba.run(give(role));
            await me.run(`set session authorization "${role('me')}"`);
            const said: string[] = [];
            for (let round = 0; round < 8; round += 1) {
                const outcome = await me.attempt(call(`'${role('app')}', '{a}'`));
                if (outcome.code === 'ok') break;
                const { detail, hint } = expectError(outcome, '42501');
                said.push(...detail.replace(/^Missing: (.*)\. Nothing was changed\.$/, '$1').split('; '));
                const remedy = /may give them run: (.*)\.$/.exec(hint)?.[1] ?? '';
                expect(remedy).not.toBe('');
                expect((await dba.run(owners)).every(({ owner }) => owner === role('old'))).toBe(true);
                await dba.run(remedy);
            }
            const became = major < 16 ? `membership in role ${role('app')}` : `SET on role ${role('app')}`;
            expect(said.map((one) => one.replace(/ for .*/, ''))).toEqual([`the rights of role ${role('old')}`, became, `CREATE on database ${database.name}`]);
            expect((await dba.run(owners)).every(({ owner }) => owner === role('app'))).toBe(true);
        }));

    test('negative control: without the look at SET or membership PostgreSQL stops it half way', () =>
        withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${give(role)}; grant "${role('old')}" to "${role('me')}"; grant create on database "${database.name}" to "${role('me')}";
                grant usage on schema a to "${role('me')}"`);
            await withoutGuard(dba, '_lacks_owner_v1', 'elsif not coalesce(pg_has_role(c_new', 'elsif false and not coalesce(pg_has_role(c_new');
            await as(dba, role('me'), async () => {
                expect((await dba.attempt(call(`'${role('app')}', '{a}'`))).error?.message).toMatch(/^must be/);
            });
        }));

    test('what a superuser owns takes a superuser: no HINT gives that away', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${give(role)}; create table a.p ()`);
            await as(dba, role('me'), async () => {
                const { detail, hint } = expectError(await dba.attempt(call(`'${role('app')}', '{a}'`)), '42501');
                expect(detail).toContain('SUPERUSER for owner of table a.p');
                expect(hint).not.toContain('postgres');
                const steps = await dba.run(call(`'${role('app')}', '{a}'`).replace('ensure_owner', 'plan_owner'));
                expect(steps.map(({ why }) => why)).toContain('owner of table a.p; this role lacks SUPERUSER');
            });
        }));

    test('a schema where the new owner may not create, and one that the caller could not use afterwards', () =>
        withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${give(role)}; grant "${role('old')}" to "${role('me')}"; grant create on database "${database.name}" to "${role('me')}";
                grant "${role('app')}" to "${role('me')}"; revoke create on schema a from "${role('old')}"`);
            const missing = (): Promise<string> => as(dba, role('me'), async () => (
                expectError(await dba.attempt(call(`'${role('app')}', '{a}'`)), '42501').detail));
            expect(await missing()).toContain(`CREATE on schema a for role ${role('app')}`);
            await dba.run(`grant create on schema a to "${role('app')}"; revoke usage on schema a from "${role('old')}"`);
            expect(await missing()).toContain('USAGE on schema a');
            await dba.run(`grant usage on schema a to "${role('me')}"`);
            await as(dba, role('me'), async () => void await dba.run(call(`'${role('app')}', '{a}'`)));
        }));

    test('from 16 on a role that the document makes is not yet one to become, unless createrole_self_grant says so', (context) =>
        major < 16 ? context.skip('before 16 there is no such setting') : withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${give(role)}; grant "${role('old')}" to "${role('me')}"; grant create on database "${database.name}" to "${role('me')}";
                alter role "${role('me')}" createrole`);
            const document = JSON.stringify({ roles: [{ role_name: role('new') }], owners: [{ new_owner: role('new'), schemas: ['a'] }] });
            const settle = `select * from ensure._settle_changes_v1('${document}', '1 s', '1 s')`;
            await as(dba, role('me'), async () => {
                const { detail, hint } = expectError(await dba.attempt(settle), '42501');
                expect(detail).toContain(`SET on role ${role('new')}`);
                expect(hint).toContain(`grant ${role('new')} to ${role('me')} with set true`);
                await dba.run("set createrole_self_grant = 'set'");
                expect(expectError(await dba.attempt(settle), '42501').detail).toContain('USAGE on schema a');
                await dba.run("set createrole_self_grant = 'set, inherit'");
                expect((await dba.run(settle)).map(({ outcome }) => outcome)).toEqual(['created', 'altered', 'altered']);
            });
        }));

    test('read-only, or with the setting ensure.ddl off: what is right is said to be, what is not is an error', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(give(role));
            for (const [code, setting] of [['25006', 'set transaction read only'], ['NS002', "set local ensure.ddl = 'off'"]] as const) {
                await dba.run('begin');
                await dba.run(setting);
                expectError(await dba.attempt(call(`'${role('app')}', '{a}'`)), code);
                await dba.run('rollback; begin');
                await dba.run(setting);
                expect(await dba.run(call(`'${role('old')}', '{a}'`))).toEqual([{ object: 'owner of schema a', outcome: 'exists' }]);
                await dba.run('rollback');
            }
        }));
});
