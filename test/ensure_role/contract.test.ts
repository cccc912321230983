import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, major } from '../context.js';
import { as, lines, withRoles } from './roles.js';

const withApp = (body: (dba: Session, app: string, database: string) => Promise<void>): Promise<void> =>
    withRoles(['dba'], ({ dba }, { role, database }) => body(dba, role('app'), database.name));
const ensure = (name: string, rest = ''): string => `select * from ensure.ensure_role_v1('${name}'${rest})`;
const attributes = async (dba: Session, name: string): Promise<Record<string, unknown> | undefined> => (await dba.run(`
    select r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolinherit, r.rolcanlogin, r.rolreplication, r.rolbypassrls, r.rolconnlimit,
        r.rolvaliduntil::text as until, r.rolconfig::text as config from pg_roles as r where r.rolname = '${name}'`))[0];
const verifier = 'SCRAM-SHA-256$4096:LkkGxTCt1yTfEmWm7HIU6A==$TVlXq6l2ZjzGGpQ5J9kPpGH6Zjd3Yb1mOLrL8eJ8l0c=:Uq9GKpJ1cUoC3mW2mXIrXhR4cFvVvH1gqqqZ2G3gq7k=';

describe('attributes', () => {
    test('a new role may do nothing that is not asked for', () =>
        withApp(async (dba, app) => {
            await dba.run(ensure(app));
            expect(await attributes(dba, app)).toEqual({
                rolsuper: false, rolcreatedb: false, rolcreaterole: false, rolinherit: true, rolcanlogin: false, rolreplication: false,
                rolbypassrls: false, rolconnlimit: -1, until: null, config: null,
            });
        }));

    test.each([
        ['login', 'rolcanlogin'], ['createdb', 'rolcreatedb'], ['createrole', 'rolcreaterole'], ['superuser', 'rolsuper'],
        ['inherit', 'rolinherit'], ['replication', 'rolreplication'], ['bypassrls', 'rolbypassrls'],
    ])('%s is given, left alone by null, and taken', (argument, column) =>
        withApp(async (dba, app) => {
            await dba.run(ensure(app, `, ${argument} => true`));
            expect((await attributes(dba, app))?.[column]).toBe(true);
            expect(lines(await dba.run(ensure(app, `, ${argument} => null`)))).toEqual([`role ${app} exists`]);
            expect((await attributes(dba, app))?.[column]).toBe(true);
            expect(lines(await dba.run(ensure(app, `, ${argument} => false`)))).toEqual([`role ${app} altered`]);
            expect((await attributes(dba, app))?.[column]).toBe(false);
        }));

    test('no null takes anything back from a role that has it all', () =>
        withApp(async (dba, app, database) => {
            await dba.run(`create role "${app}" superuser login connection limit 7 valid until '2031-01-01' password 'x'`);
            await dba.run(`alter role "${app}" set work_mem to '3MB'; alter role "${app}" in database "${database}" set work_mem to '4MB';
                grant pg_monitor to "${app}"`);
            const before = await dba.run(`select a.*, a.xmin from pg_authid as a where a.rolname = '${app}'`);
            expect(lines(await dba.run(ensure(app)))).toEqual([`role ${app} exists`]);
            expect(lines(await dba.run(ensure(app, ", settings => '{}', member_of => '{}', database_settings => '{}'")))).toEqual([`role ${app} exists`]);
            expect(await dba.run(`select a.*, a.xmin from pg_authid as a where a.rolname = '${app}'`)).toEqual(before);
        }));

    test('connection_limit, valid_until and password_verifier: set once, then exists; infinity is what no date is', () =>
        withApp(async (dba, app) => {
            const call = ensure(app, `, connection_limit => 3, valid_until => 'infinity', password_verifier => '${verifier}'`);
            expect(lines(await dba.run(call))).toEqual([`role ${app} created`, `password of role ${app} set`]);
            expect(lines(await dba.run(call))).toEqual([`role ${app} exists`]);
            expect(await dba.run(`select rolpassword from pg_authid where rolname = '${app}'`)).toEqual([{ rolpassword: verifier }]);
            await dba.run(ensure(app, ", connection_limit => -1, valid_until => '2031-01-01 00:00+02'"));
            expect(await attributes(dba, app)).toMatchObject({ rolconnlimit: -1, until: expect.stringContaining('2030-12-31') as string });
            await dba.run(`create role "${app}_2"`);
            expect(lines(await dba.run(ensure(`${app}_2`, ", valid_until => 'infinity'")))).toEqual([`role ${app}_2 exists`]);
        }));

    test.each(['a "b', 'ünïcode 😀', 'Select', 'a.b', 'new\nline', 'percent % $1', "quote '"])('a name like %j', (name) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const app = role(name);
            const call = `select * from ensure.ensure_role_v1(${literal(app)}, login => true, settings => '{"work_mem": "1MB"}', member_of => '["pg_monitor"]')`;
            expect((await dba.run(call)).map(({ outcome }) => outcome)).toEqual(['created', 'set', 'granted']);
            expect((await dba.run(call)).map(({ outcome }) => outcome)).toEqual(['exists']);
        }));
});

const literal = (text: string): string => `'${text.replaceAll('\'', '\'\'')}'`;

describe('settings', () => {
    const values: [string, unknown, string | null][] = [
        ['statement_timeout', '30s', 'statement_timeout=30s'],
        ['statement_timeout', 30000, 'statement_timeout=30000'],
        ['default_transaction_read_only', true, 'default_transaction_read_only=true'],
        ['idle_session_timeout', '10min', 'idle_session_timeout=10min'],
        ['search_path', ['app', 'Public', 'a b'], 'search_path=app, "Public", "a b"'],
        ['search_path', 'app', 'search_path=app'],
        ['search_path', '', 'search_path=""'],
        ['search_path', [], 'search_path=""'],
        ['DateStyle', 'ISO, DMY', 'DateStyle=ISO, DMY'],
        ['datestyle', ['ISO', 'DMY'], 'DateStyle=ISO, DMY'],
        ['ensure.ddl', 'off', 'ensure.ddl=off'],
        ['application_name', 'it\'s "x" = y, \\z', 'application_name=it\'s "x" = y, \\z'],
    ];
    test.each(values)('%s as %j is set once, then exists, alone or in one database', (name, value, stored) =>
        withApp(async (dba, app, database) => {
            for (const argument of ['settings', 'database_settings']) {
                const settings = { [name]: value };
                const given = JSON.stringify(argument === 'settings' ? settings : { [database]: settings });
                const call = ensure(app, `, ${argument} => ${literal(given)}`);
                expect((await dba.run(call)).map(({ outcome }) => outcome)).toEqual(argument === 'settings' ? ['created', 'set'] : ['set']);
                expect(lines(await dba.run(call))).toEqual([`role ${app} exists`]);
            }
            expect(await dba.run(`select setconfig[1] as config from pg_db_role_setting where setrole = '"${app}"'::regrole`))
                .toEqual([{ config: stored }, { config: stored }]);
        }));

    test('what is null is reset, what is not named is left alone', () =>
        withApp(async (dba, app) => {
            await dba.run(ensure(app, ", settings => '{\"work_mem\": \"1MB\", \"lock_timeout\": \"1s\"}'"));
            const call = ensure(app, ", settings => '{\"work_mem\": null}'");
            expect(lines(await dba.run(call))).toEqual([`work_mem of role ${app} reset`]);
            expect(lines(await dba.run(call))).toEqual([`role ${app} exists`]);
            expect((await attributes(dba, app))?.config).toBe('{lock_timeout=1s}');
        }));
});

describe('memberships', () => {
    const options = async (dba: Session, app: string): Promise<unknown> => (await dba.run(`
        select count(*)::int as n, bool_or(m.admin_option) as admin, bool_or((to_jsonb(m) ->> 'inherit_option')::boolean) as inherit,
            bool_or((to_jsonb(m) ->> 'set_option')::boolean) as set from pg_auth_members as m where m.member = '"${app}"'::regrole`))[0];
    const member = (app: string, value: unknown): string => ensure(app, `, member_of => '${JSON.stringify(value).replaceAll('G', `${app}_g`)}'`);

    test('a list, an object; true adds, false revokes, null and what is not named stay', () =>
        withApp(async (dba, app) => {
            await dba.run(`${ensure(`${app}_g`)}; ${ensure(`${app}_g2`)}`);
            await dba.run(member(app, ['G', 'G2']));
            expect(lines(await dba.run(member(app, ['G'])))).toEqual([`role ${app} exists`]);
            expect(lines(await dba.run(member(app, { G: true })))).toEqual([`role ${app} exists`]);
            expect(lines(await dba.run(member(app, { G: false })))).toEqual([`membership of role ${app} in ${app}_g revoked`]);
            expect(lines(await dba.run(member(app, { G2: null })))).toEqual([`role ${app} exists`]);
            expect(lines(await dba.run(member(app, { G2: false })))).toEqual([`membership of role ${app} in ${app}_g2 revoked`]);
            expect(lines(await dba.run(member(app, { G: false })))).toEqual([`role ${app} exists`]);
            expect(await options(dba, app)).toMatchObject({ n: 0 });
        }));

    test('ADMIN is given and taken, the membership stays', () =>
        withApp(async (dba, app) => {
            await dba.run(ensure(`${app}_g`));
            for (const admin of [true, false, true]) {
                await dba.run(member(app, { G: { admin } }));
                expect(await options(dba, app)).toMatchObject({ n: 1, admin });
                expect(lines(await dba.run(member(app, { G: {} })))).toEqual([`role ${app} exists`]);
                expect(lines(await dba.run(member(app, { G: { admin } })))).toEqual([`role ${app} exists`]);
            }
        }));

    test(`INHERIT and SET ${major >= 16 ? 'are given and taken apart' : 'are 0A000 where they cannot be; what the server does anyway is accepted'}`, () =>
        withApp(async (dba, app) => {
            await dba.run(ensure(`${app}_g`));
            if (major < 16) {
                expect(expectError(await dba.attempt(member(app, { G: { set: false } })), '0A000').hint).toBe('Leave it out.');
                expect(expectError(await dba.attempt(member(app, { G: { inherit: false } })), '0A000').hint).toContain('attribute of the member');
                expect((await dba.run(member(app, { G: { inherit: true, set: true } }))).length).toBe(2);
                expect(lines(await dba.run(member(app, { G: { inherit: true, set: true } })))).toEqual([`role ${app} exists`]);
                return;
            }
            for (const [inherit, set] of [[false, true], [true, false], [false, false], [true, true]]) {
                await dba.run(member(app, { G: { inherit, set } }));
                expect(await options(dba, app)).toEqual({ n: 1, admin: false, inherit, set });
                expect(lines(await dba.run(member(app, { G: { inherit, set } })))).toEqual([`role ${app} exists`]);
            }
        }));

    test('what is not said of a membership stays, with another grantor too', (context) =>
        withApp(async (dba, app) => {
            if (major < 16) context.skip('before 16 a membership has no INHERIT and SET');
            await dba.run(`${ensure(`${app}_g`)}; ${ensure(`${app}_boss`)}; ${ensure(app)}; grant "${app}_g" to "${app}_boss" with admin true`);
            await dba.run(`grant "${app}_g" to "${app}" with inherit false, set false granted by "${app}_boss"`);
            await dba.run(member(app, { G: { admin: true } }));
            expect(await options(dba, app)).toEqual({ n: 2, admin: true, inherit: false, set: false });
        }));

    test('a new role that is NOINHERIT may ask for it with its membership on every server', () =>
        withApp(async (dba, app) => {
            await dba.run(ensure(`${app}_g`));
            const call = ensure(app, `, inherit => false, member_of => '{"${app}_g": {"inherit": false}}'`);
            expect(await dba.run(call)).toHaveLength(2);
            expect(lines(await dba.run(call))).toEqual([`role ${app} exists`]);
        }));

    test('memberships of several grantors: an option that one of them gave is taken from each', (context) =>
        withApp(async (dba, app) => {
            if (major < 16) context.skip('before 16 a membership has one grantor');
            await dba.run(`${ensure(`${app}_g`)}; ${ensure(`${app}_boss`)}; grant "${app}_g" to "${app}_boss" with admin true`);
            await dba.run(ensure(app));
            await dba.run(`grant "${app}_g" to "${app}" with admin true; grant "${app}_g" to "${app}" with admin true granted by "${app}_boss"`);
            expect(await options(dba, app)).toMatchObject({ n: 2, admin: true });
            await dba.run(member(app, { G: { admin: false } }));
            expect(await options(dba, app)).toMatchObject({ n: 2, admin: false });
            await dba.run(member(app, { G: false }));
            expect(await options(dba, app)).toMatchObject({ n: 0 });
        }));
});

describe('who may', () => {
    const withDeployer = (given: string, body: (dba: Session, deployer: string, app: string) => Promise<void>): Promise<void> =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('deployer')}" ${given}; grant usage on schema ensure to "${role('deployer')}"`);
            await body(dba, role('deployer'), role('app'));
        });

    test('without CREATEROLE: 42501 that names it and the statement that gives it; the statement mends it', () =>
        withDeployer('', async (dba, deployer, app) => {
            const { detail, hint } = await as(dba, deployer, async () => expectError(await dba.attempt(ensure(app)), '42501'));
            expect(detail).toContain('Missing: CREATEROLE');
            const remedy = `alter role ${deployer} createrole`;
            expect(hint).toContain(remedy);
            await dba.run(remedy);
            expect(lines(await as(dba, deployer, () => dba.run(ensure(app))))).toEqual([`role ${app} created`]);
        }));

    test(`with CREATEROLE, a role of somebody else: ${major >= 16 ? '42501 that names ADMIN; the statement in HINT mends it' : 'altered'}`, () =>
        withDeployer('createrole', async (dba, deployer, app) => {
            await dba.run(ensure(app));
            const call = ensure(app, ', login => true');
            if (major >= 16) {
                const { detail, hint } = await as(dba, deployer, async () => expectError(await dba.attempt(call), '42501'));
                expect(detail).toContain(`ADMIN on role ${app}`);
                await dba.run(/run: (.*)\.$/.exec(hint)?.[1] ?? '');
            }
            expect(lines(await as(dba, deployer, () => dba.run(call)))).toEqual([`role ${app} altered`]);
        }));

    test('what it created it may change, and make a member of what it created', () =>
        withDeployer('createrole', async (dba, deployer, app) => {
            await as(dba, deployer, async () => {
                await dba.run(ensure(`${app}_g`));
                expect(lines(await dba.run(ensure(app, `, login => true, settings => '{"work_mem": "1MB"}', member_of => '["${app}_g"]'`)))).toHaveLength(3);
                expect(lines(await dba.run(ensure(app, ', connection_limit => 3')))).toEqual([`role ${app} altered`]);
            });
        }));

    test('it may not read pg_authid: a verifier is set at each call', () =>
        withDeployer('createrole', async (dba, deployer, app) => {
            const call = ensure(app, `, password_verifier => '${verifier}'`);
            await as(dba, deployer, async () => {
                expect(lines(await dba.run(call))).toEqual([`role ${app} created`, `password of role ${app} set`]);
                for (let n = 0; n < 8; n++) expect(lines(await dba.run(call))).toEqual([`password of role ${app} set`]); // also by a generic plan
            });
        }));

    test.each([
        ['superuser', 'SUPERUSER'], ['replication', major >= 16 ? 'REPLICATION' : 'SUPERUSER'], ['bypassrls', major >= 16 ? 'BYPASSRLS' : 'SUPERUSER'],
        ...(major >= 16 ? [['createdb', 'CREATEDB']] : []),
    ])('%s takes %s', (argument, right) =>
        withDeployer('createrole', async (dba, deployer, app) => {
            const { detail } = await as(dba, deployer, async () => expectError(await dba.attempt(ensure(app, `, ${argument} => true`)), '42501'));
            expect(detail).toContain(`Missing: ${right} for role`);
            expect(await attributes(dba, app)).toBeUndefined();
        }));

    test('a superuser is altered by superusers, and a member of one is made by them', () =>
        withDeployer('createrole', async (dba, deployer, app) => {
            await dba.run(`create role "${app}" superuser`);
            await as(dba, deployer, async () => {
                expect(expectError(await dba.attempt(ensure(app, ', login => true')), '42501').detail).toContain('SUPERUSER');
                expect(expectError(await dba.attempt(ensure(`${app}_2`, `, member_of => '["${app}"]'`)), '42501').detail).toContain('SUPERUSER');
            });
        }));

    test('a setting of superusers that is hidden from others is one too', () =>
        withDeployer('createrole', async (dba, deployer, app) => {
            const call = ensure(app, `, settings => '{"session_preload_libraries": ["x"]}'`);
            const { detail } = await as(dba, deployer, async () => expectError(await dba.attempt(call), '42501'));
            expect(detail).toContain(major >= 15 ? 'Missing: SET on parameter session_preload_libraries' : 'Missing: SUPERUSER');
        }));

    test(`a setting of superusers takes ${major >= 15 ? 'SET on the parameter; the statement in HINT mends it' : 'SUPERUSER'}`, () =>
        withDeployer('createrole', async (dba, deployer, app) => {
            for (const name of ['log_statement', 'ensure.ddl']) {
                const call = ensure(app, `, settings => '{"${name}": "all"}'`);
                const { detail, hint } = await as(dba, deployer, async () => expectError(await dba.attempt(call), '42501'));
                expect(detail).toContain(major >= 15 ? `Missing: SET on parameter ${name}` : 'Missing: SUPERUSER');
                expect(await attributes(dba, app)).toBeUndefined();
                if (major < 15) continue;
                await dba.run(/run: (.*)\.$/.exec(hint)?.[1] ?? '');
                try {
                    expect(lines(await as(dba, deployer, () => dba.run(call)))).toHaveLength(2);
                } finally { // parameters belong to the whole server
                    await dba.run(`revoke set on parameter ${name} from "${deployer}"; drop role "${app}"`);
                }
            }
        }));

    test('no role may administer itself: no statement is offered that would be a circle', () =>
        withDeployer('createrole', async (dba, deployer) => {
            const outcome = await as(dba, deployer, () => dba.attempt(ensure(deployer, ', connection_limit => 3')));
            if (major < 16) expect(outcome.code).toBe('ok');
            else expect(expectError(outcome, '42501').hint).toBe('Let a role call that has them.');
        }));

    test('its own settings and password are a role\'s own affair', () =>
        withDeployer('', async (dba, deployer) => {
            await as(dba, deployer, async () => {
                expect(lines(await dba.run(ensure(deployer, `, settings => '{"work_mem": "1MB"}', password_verifier => '${verifier}'`)))).toHaveLength(2);
            });
        }));
});
