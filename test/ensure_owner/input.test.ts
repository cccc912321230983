import { describe, expect, test } from 'vitest';
import { expectError, major } from '../context.js';
import { as, withRoles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { runToEnd } from '../run/context.js';
import { owners } from './objects.js';

const call = (input: string): string => `select * from ensure.ensure_owner_v1(${input})`;

describe('bad input changes nothing, and says what to do', () => {
    const setup = `create schema a; create table public.elsewhere (); create table a.t (id serial); create index i on a.t (id); create function a.f() returns int language sql as 'select 1'`;

    test.each([
        ['22004', "null, '{a}'"], ['22004', "'app', null"], ['22004', "'app', '{a,null}'"], ['22004', "'app', '{a}', '{a.t,null}'"],
        ['22023', "'app', '{a}', '{a.i}'"], ['22023', "'app', '{a}', '{a.t_id_seq}'"], ['22023', "'app', '{a}', max_wait => '-1 s'"],
        ['42602', "'', '{a}'"], ['42939', "'public', '{a}'"], ['42939', "'app', '{pg_catalog}'"], ['42939', "'app', '{a,ensure}'"],
        ['22023', "'app', '{}'"], ['22023', "'app', '{a}', '{public.elsewhere}'"], ['22023', "'app', '{a}', '{}', '{now()}'"],
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

    test.each([
        ['42P01', 'excluded', ['', '.', 'a..t', 'nowhere.a.b.t', 'x.a.t', '"a', 'a.t x', 'a.', '1', 'nowhere.t']],
        ['42883', 'excluded_routines', ['', 'a.f', 'a.f(', 'a.f(nosuchtype)', 'a.f(nowhere.t)', 'a.f(1 2)', 'a.f(int', 'a..f()', 'x.a.f()', 'f', '1',
            'a.f(varchar(x))', `a.f(${Array(200).fill('int').join()})`, 'a.f(numeric(1,2,3))', 'a.f(a.b.c.d)', 'a.f("")', 'a.f(%type)', 'a.f(setof int)', 'a.f(int[)']],
    ] as const)('what is no name is %s in %s', (code, key, names) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${setup}; create role "${role('app')}"`);
            for (const name of names) {
                const wanted = JSON.stringify({ new_owner: role('app'), schemas: ['a'], [key]: [name] });
                const outcome = await dba.attempt(`select * from ensure._diff_owner_v1($j$${wanted}$j$, '{}', '{}')`);
                expect(outcome.code, name).toBe(code);
                expect(expectError(outcome, code).hint).not.toBe('');
            }
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
            await withoutGuard(dba, '_lacks_owner_v1', 'elsif new_owner_name <> all (joined)', 'elsif false');
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
                expect(hint).toContain("run: set createrole_self_grant = 'set, inherit'.");
                await dba.run("set createrole_self_grant = 'set'");
                expect(expectError(await dba.attempt(settle), '42501').detail).toContain('USAGE on schema a');
                await dba.run("set createrole_self_grant = 'set, inherit'");
                expect((await dba.run(settle)).map(({ outcome }) => outcome)).toEqual(['created', 'altered', 'altered']);
            });
        }));

    test('before 16 a role that the document makes takes a member of it that the document makes too', (context) =>
        major >= 16 ? context.skip('from 16 on createrole_self_grant is for that') : withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${give(role)}; grant "${role('old')}" to "${role('me')}"; grant create on database "${database.name}" to "${role('me')}"`);
            await as(dba, role('me'), async () => {
                const wanted = JSON.stringify({ new_owner: role('new'), schemas: ['a'] });
                const lacks = (joined: string): Promise<Record<string, unknown>[]> => dba.run(`select distinct missing, remedy
                    from ensure._diff_owner_v1('${wanted}', '{${role('new')}}', '{${joined}}')`);
                expect(await lacks('')).toEqual([{ missing: `membership in role ${role('new')}, that the same document makes`, remedy: null }]);
                expect(await lacks(role('new'))).toEqual([{ missing: null, remedy: null }]);
            });
        }));

    test('what the same document makes this role a member of counts as given', () =>
        withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${give(role)}; grant create on database "${database.name}" to "${role('me')}"; grant usage on schema a to "${role('me')}"`);
            await as(dba, role('me'), async () => {
                const wanted = JSON.stringify({ new_owner: role('app'), schemas: ['a'] });
                const missing = async (joined: string): Promise<unknown[]> => (await dba.run(`select distinct missing
                    from ensure._diff_owner_v1('${wanted}', '{}', '{${joined}}')`)).map((row) => row.missing);
                expect(await missing('')).toEqual([`the rights of role ${role('old')}`]);
                expect(await missing(role('old'))).toEqual([expect.stringContaining(`role ${role('app')}`)]);
                expect(await missing(`${role('old')},${role('app')}`)).toEqual([null]);
            });
        }));

    test('who owns the schema and will not inherit from the new owner is told what helps', (context) =>
        major < 16 ? context.skip('before 16 memberships have no such options') : withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${give(role)}; alter schema a owner to "${role('me')}"; alter table a.t owner to "${role('me')}";
                grant create on database "${database.name}" to "${role('me')}"; grant "${role('app')}" to "${role('me')}" with set true, inherit false`);
            const settle = (): ReturnType<typeof dba.attempt> => as(dba, role('me'), () => dba.attempt(call(`'${role('app')}', '{a}'`)));
            const { detail, hint } = expectError(await settle(), '42501');
            expect(detail).toContain('USAGE on schema a');
            expect(hint).toContain(`run: grant ${role('app')} to ${role('me')} with inherit true.`);
            await dba.run(`grant usage on schema a to "${role('me')}"`);
            expectError(await settle(), '42501'); // the control: it goes to the new owner
            await dba.run(`grant "${role('app')}" to "${role('me')}" with inherit true`);
            expect((await settle()).code).toBe('ok');
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

describe('what others wrote to run as its owner', () => {
    const planted = (roles: (name: string) => string): string => `
        create role "${roles('app')}"; create role "${roles('mallory')}"; create role "${roles('old')}"; create role "${roles('me')}";
        create schema a authorization "${roles('old')}"; grant create, usage on schema a to "${roles('mallory')}";
        set role "${roles('old')}"; create table a.t (); create function a.mine() returns text language sql security definer as 'select current_user::text'; reset role;
        create function a.ours() returns text language sql security definer as 'select current_user::text';
        create procedure a.did() language sql security definer as 'select 1';
        set role "${roles('mallory')}";
        create function a.plain() returns text language sql as 'select current_user::text';
        create function a.steal() returns text language sql security definer as 'select current_user::text'; reset role`;

    test('a SECURITY DEFINER routine of somebody else is refused; each of the three ways out is one; those of superusers and the schema owner move', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(planted(role));
            const before = await dba.run(owners);
            const rest = (excluded: string): string => call(`'${role('app')}', '{a}'${excluded}`);
            for (const refused of [rest(''), rest('').replace('ensure_owner', 'plan_owner')]) {
                const { message, hint } = expectError(await dba.attempt(refused), '42501');
                expect(message).toContain('a.steal()');
                expect(hint).toContain(`give it to role "${role('old')}" first`);
            }
            expect(await dba.run(owners)).toEqual(before);
            for (const [way, excluded] of [['select 1', ", '{}', '{a.steal()}'"], ['alter function a.steal() security invoker', ''],
                [`alter function a.steal() owner to "${role('old')}"`, '']] as const) {
                await dba.run(`begin; ${way}`);
                const changed = await dba.run(rest(excluded));
                expect(changed.map(({ object }) => object)).toEqual(expect.arrayContaining(['owner of function a.mine()', 'owner of function a.ours()',
                    'owner of procedure a.did()', 'owner of function a.plain()']));
                await dba.run('rollback');
            }
        }));

    test('to a superuser no SECURITY DEFINER routine is given but that of a superuser: not the schema owner\'s either', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${planted(role)}; drop function a.steal(); create role "${role('super')}" superuser`);
            const { message, hint } = expectError(await dba.attempt(call(`'${role('super')}', '{a}'`)), '42501');
            expect(message).toContain('a.mine()');
            expect(hint).toContain(`give it to role "${role('super')}" first`);
            await dba.run('alter function a.mine() security invoker');
            expect((await dba.run(call(`'${role('super')}', '{a}'`))).length).toBeGreaterThan(3);
        }));

    test('negative control: without the refusal it comes to run as the new owner', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(planted(role));
            await withoutGuard(dba, '_check_definers_v1', 'f.definer', 'false');
            await withoutGuard(dba, '_diff_owner_v1', 'case when f.definer then format(', 'case when false then format(');
            await withoutGuard(dba, '_diff_owner_v1', 'f.routine is not null', 'false');
            await dba.run(call(`'${role('app')}', '{a}'`));
            await dba.run(`grant execute on function a.steal() to "${role('mallory')}"`);
            expect(await as(dba, role('mallory'), () => dba.run('select a.steal() as runs_as'))).toEqual([{ runs_as: role('app') }]);
        }));

    test.each(['guarded', 'control'])('what becomes SECURITY DEFINER after the look is handed over as SECURITY INVOKER: %s', (kind) =>
        withRoles(['dba'], async ({ dba }, { role, database }) => {
            await dba.run(`${planted(role)}; drop function a.steal()`);
            if (kind === 'control') await withoutGuard(dba, '_diff_owner_v1', 'f.routine is not null', 'false');
            const steps = await dba.run(`select statement from ensure.plan_owner_v1('${role('app')}', '{a}')`);
            await as(dba, role('mallory'), () => dba.run('alter function a.plain() security definer'));
            for (const { statement } of steps) await dba.run(String(statement));
            expect(await dba.run("select prosecdef as definer, pg_get_userbyid(proowner) as owner from pg_proc where oid = 'a.plain()'::regprocedure"))
                .toEqual([{ definer: kind === 'control', owner: role('app') }]);
            await dba.run(`set role "${role('mallory')}"; create function a."more owner to ${role('old')}"() returns int language sql as 'select 1'; reset role`);
            expect((await runToEnd(database.admin, `select * from ensure.plan_owner_v1('${role('old')}', '{a}')`)).code).toBe(0);
            expect((await dba.run(owners)).every(({ owner }) => owner === role('old'))).toBe(true);
        }), 30_000);

    test('a plan that ends anywhere goes on: the routines of the schema owner come before the schema', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${planted(role)}; drop function a.steal()`);
            const plan = `select statement from ensure.plan_owner_v1('${role('app')}', '{a}')`;
            for (let asks = 0; asks < 20; asks += 1) {
                const [first] = await dba.run(plan);
                if (!first) break;
                await dba.run(String(first.statement));
            }
            expect(await dba.run(plan)).toEqual([]);
            expect((await dba.run(owners)).every(({ owner }) => owner === role('app'))).toBe(true);
        }));
});
