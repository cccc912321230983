import { describe, expect, test, type TestContext } from 'vitest';
import { expectError, major } from '../context.js';
import { as, lines, withRoles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';

const literal = (value: unknown): string => `'${JSON.stringify(value).replaceAll('\'', '\'\'')}'`;
const ensure = (spec: unknown): string => `select * from ensure.ensure_roles_v1(${literal(spec)})`;
const check = (spec: unknown): string => `select * from ensure.check_roles_v1(${literal(spec)})`;

/** A role with CREATEROLE that owns schema s and may create schemas, the usual one for migrations. */
const deployer = (name: string): string => `create role "${name}" createrole; grant usage on schema ensure to "${name}"; create schema s authorization "${name}";
    set role "${name}"; create table s.t (x int); reset role;
    do $$ begin execute format('grant create on database %I to "${name}"', current_database()); end $$`;

const from16 = (context: TestContext): void => {
    if (major < 16) context.skip('before 16 a membership has one grantor and no options but ADMIN');
};

describe('memberships from several grantors, from 16 on', () => {
    test('who made a role, and has ADMIN by that, takes SET and INHERIT itself; ADMIN is not granted on', (context) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            from16(context);
            const me = role('me');
            await dba.run(deployer(me));
            await as(dba, me, async () => {
                await dba.run(`create role "${role('made')}"`);
                const call = `select * from ensure.ensure_role_v1('${me}', member_of => '{"${role('made')}": {"set": true, "inherit": true}}')`;
                expect(lines(await dba.run(call))).toEqual([`membership of role ${me} in ${role('made')} granted`]);
                expect(lines(await dba.run(call))).toEqual([`role ${me} exists`]);
            });
            const rows = await dba.run(`select m.grantor::regrole::text as by, m.admin_option as a, m.inherit_option as i, m.set_option as s from pg_auth_members as m
                where m.member = '"${me}"'::regrole and m.roleid = '"${role('made')}"'::regrole order by 2`);
            expect(rows.map(({ a, i, s }) => [a, i, s])).toEqual([[false, true, true], [true, false, false]]);
        }));

    test('what one grantor gave is not given again by another: taken back once, it is gone', (context) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            from16(context);
            const [me, app, group] = [role('me'), role('app'), role('group')];
            await dba.run(`${deployer(me)}; create role "${app}"; create role "${group}"; grant "${group}" to "${me}" with admin option; grant "${app}" to "${me}" with admin option;
                grant "${group}" to "${app}" with admin true, inherit false, set false`);
            const call = (option: string): string => `select * from ensure.ensure_role_v1('${app}', member_of => '{"${group}": {"${option}": true}}')`;
            await as(dba, me, () => dba.run(call('set')));
            await dba.run(`revoke admin option for "${group}" from "${app}"`);
            const options = `select bool_or(admin_option) as a, bool_or(inherit_option) as i, bool_or(set_option) as s from pg_auth_members
                where member = '"${app}"'::regrole and roleid = '"${group}"'::regrole`;
            expect(await dba.run(options)).toEqual([{ a: false, i: false, s: true }]);
            await as(dba, me, () => dba.run(call('inherit')));
            expect(await dba.run(options)).toEqual([{ a: false, i: true, s: true }]); // its own SET stays
        }));

    test.for([['false', 'false'], ['an option that is false', '{"inherit": false}']] as const)('what somebody else granted: %s is missing the role that did, before anything is changed', ([, value], context) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            from16(context);
            const [me, app, group, giver] = [role('me'), role('app'), role('group'), role('giver')];
            await dba.run(`${deployer(me)}; create role "${app}"; create role "${group}"; create role "${giver}";
                grant "${group}" to "${me}", "${giver}" with admin option; grant "${app}" to "${me}" with admin option; grant "${group}" to "${app}" with inherit true granted by "${giver}"`);
            const spec = { roles: [{ role_name: app, member_of: { [group]: JSON.parse(value) as unknown } }] };
            const [row] = await as(dba, me, () => dba.run(check(spec)));
            expect(row?.missing).toBe(`to be role ${giver}, who granted it,`);
            expect(expectError(await as(dba, me, () => dba.attempt(ensure(spec))), '42501').detail).toContain(`to be role ${giver}`);
            await dba.run(String(row?.remedy));
            expect(await as(dba, me, () => dba.run(check(spec)))).toEqual([]);
        }));

    test('no role is made a member of itself by a remedy', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('me')}" createrole; create role "${role('app')}"; grant usage on schema ensure to "${role('me')}"`);
            const rows = await as(dba, role('me'), () => dba.run(check({ roles: [{ role_name: role('app'), member_of: [role('me')] }, { role_name: role('me'), connection_limit: 3 }] })));
            for (const { remedy } of rows) expect(String(remedy)).not.toContain(`grant ${role('me')} to ${role('me')}`);
            expect(rows.map(({ missing }) => missing !== null)).toEqual(major >= 16 ? [true, true] : [false, false]);
        }));
});

describe('a document that makes what it then needs', () => {
    test('creators that it makes: what this role lacks is listed, and what gives it is enough', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const me = role('me');
            await dba.run(deployer(me));
            const spec = (joins: boolean) => ({
                roles: [{ role_name: role('maker') }, { role_name: role('reader') }, ...(joins ? [{ role_name: me, member_of: [role('maker')] }] : [])],
                grants: [{ grantee: role('reader'), access: ['read'], schemas: ['s'], creators: [role('maker')] }],
            });
            await as(dba, me, async () => {
                const missing = (await dba.run(check(spec(false)))).filter((row) => row.missing !== null);
                expect(missing.map((row) => row.missing)).toEqual(Array(2).fill(`${major >= 16 ? 'INHERIT of' : 'membership in'} role ${role('maker')}, that the same document makes`));
                expect(expectError(await dba.attempt(ensure(spec(false))), '42501').message).toContain('lacks rights for 2 of');
                if (major >= 16) {
                    await dba.run(`begin; ${String(missing[0]?.remedy)}`);
                    expect((await dba.run(ensure(spec(false)))).length).toBeGreaterThan(3);
                    await dba.run('rollback');
                }
                expect((await dba.run(check(spec(true)))).filter((row) => row.missing !== null)).toEqual([]);
                await dba.run(ensure(spec(true)));
                expect(await dba.run(check(spec(true)))).toEqual([]);
            });
        }));

    test('a list leaves a membership as it is: of a role made before, without SET, it gives no right to hand over; check says so', (context) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            from16(context);
            const me = role('me');
            await dba.run(deployer(me));
            await as(dba, me, () => dba.run(`create role "${role('owner')}"`));
            const spec = (how: unknown) => ({ roles: [{ role_name: me, member_of: how }], owners: [{ new_owner: role('owner'), schemas: ['s'] }] });
            await as(dba, me, async () => {
                expect((await dba.run(check(spec([role('owner')])))).map(({ missing }) => missing)).toContain(`SET on role ${role('owner')}`);
                expectError(await dba.attempt(ensure(spec([role('owner')]))), '42501');
                const joined = spec({ [role('owner')]: { set: true, inherit: true } });
                expect((await dba.run(check(joined))).filter(({ missing }) => missing !== null)).toEqual([]);
                await dba.run(ensure(joined));
                expect(await dba.run(check(joined))).toEqual([]);
            });
        }));

    test('where one right is nothing to give, HINT has no statement that alone would be given for nothing; DETAIL counts the rest', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const me = role('me');
            await dba.run(`create role "${me}" createrole; grant usage on schema ensure to "${me}"; create role "${role('o')}"; create schema s; create table s.t (x int);
                ${Array.from({ length: 8 }, (_, n) => `create role "${role(`old${n}`)}"; create table s.t${n} (); alter table s.t${n} owner to "${role(`old${n}`)}"`).join('; ')}`);
            const spec = { owners: [{ new_owner: role('o'), schemas: ['s'] }], grants: [{ grantee: role('o'), access: ['read'], schemas: ['s'] }] };
            const { detail, hint } = expectError(await as(dba, me, () => dba.attempt(ensure(spec))), '42501');
            expect(detail).toMatch(/^Missing: SUPERUSER for .*; and rights for \d+ more\. Nothing was changed\.$/);
            expect(hint).toBe('Let a role call that has them.');
        }));
});

test('a verifier, or a password in clear text, is in no error of a document that is built wrongly', () =>
    withRoles(['dba'], async ({ dba }, { role }) => {
        const entry = { role_name: role('app'), password_verifier: 'SCRAM-SHA-256$4096:secret$secret:secret' };
        for (const spec of [[entry], { role: [entry] }, { roles: entry }, { roles: [{ role_name: role('app'), attributes: { password: 'secret' } }] }, { roles: [[entry]] }]) {
            expect(JSON.stringify(expectError(await dba.attempt(ensure(spec)), '22023'))).not.toContain('secret');
        }
    }));

describe.each(['repeatable read', 'serializable'])('%s: a role that is dropped while a call waits to grant membership in it', (isolation) => {
    test.for([['is 42704', true], ['negative control: without a look afterwards it says granted', false]] as const)('%s', ([, guarded], context) =>
        withRoles(['dba', 'a', 'b'], async ({ dba, a, b }, { role }) => {
            if (major < 16) context.skip('before 16 GRANT does not wait for who drops the role');
            await dba.run(`create role "${role('app')}"; create role "${role('gone')}"`);
            if (!guarded) await withoutGuard(dba, '_make_changes_v1', 'perform ensure._check_members_v1(spec);');
            await a.run(`begin; drop role "${role('gone')}"`);
            await b.run(`begin isolation level ${isolation}; select count(*) from pg_class`);
            const call = b.start(`select * from ensure.ensure_role_v1('${role('app')}', member_of => '["${role('gone')}"]')`);
            await call.blockedBy(a);
            await a.run('commit');
            expect((await call.outcome()).code).toBe(guarded ? '42704' : 'ok');
            await b.run('rollback');
        }));
});
