import { describe, expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { at } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings } from '../context.js';
import { as, withRoles, type Roles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';

interface Step {
    statement: string;
    why: string;
    database: string;
}

const ask = async (session: Session, { role }: Roles): Promise<Step[]> =>
    (await session.run(`select * from ensure.plan_retire_role_v1('${role('x')}', '${role('y')}')`)) as unknown as Step[];

/** Runs the plan, asked again and again, to its end; what it said. */
const toEnd = async (session: Session, roles: Roles, most = 8): Promise<Step[]> => {
    const said: Step[] = [];
    for (let asks = 0; ; asks += 1) {
        const steps = await ask(session, roles);
        if (!steps.length) return said;
        expect(asks, steps[0]?.why).toBeLessThan(most);
        for (const { statement } of steps) expect((await session.attempt(statement)).code, statement).toBe('ok');
        said.push(...steps);
    }
};

/** Runs the plan as often as would be enough, whatever its rows come to; the last row that is left. */
const stuck = async (session: Session, roles: Roles): Promise<Step | undefined> => {
    for (let asks = 0; asks < 6; asks += 1) for (const { statement } of await ask(session, roles)) await session.attempt(statement);
    return (await ask(session, roles)).at(-1);
};

const people = ({ role }: Roles): string =>
    `${['x', 'y', 'bob', 'eve'].map((name) => `create role "${role(name)}"`).join(';')}; alter role "${role('x')}" nologin connection limit 0`;

describe('memberships that the role granted', () => {
    const skipped = 'before 16 they do not depend on who granted them';
    const made = ({ role }: Roles): string => `alter role "${role('x')}" createrole; set session authorization "${role('x')}";
        create role "${role('group')}"; grant "${role('group')}" to "${role('bob')}"; reset session authorization`;
    const member = ({ role }: Roles): string => `select pg_has_role('${role('bob')}', '${role('group')}', 'MEMBER') as member`;

    test('are all that is left: the plan ends, and the member stays one', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}`);
            const whys = (await toEnd(dba, roles)).map(({ why }) => why);
            if (major >= 16) expect(whys[1]).toMatch(/memberships that it granted: 1$/);
            expect(await dba.run(member(roles))).toEqual([{ member: true }]);
        }));

    test('negative control: without a look at them the last row fails for ever', (context) =>
        major < 16 ? context.skip(skipped) : withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}`);
            await withoutGuard(dba, '_retire_purge_v1', ", 'pg_auth_members'::regclass");
            expect((await stuck(dba, roles))?.why).toContain('is still needed');
        }));

    test('to itself, by createrole_self_grant: the plan ends', (context) =>
        major < 16 ? context.skip(skipped) : withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; alter role "${role('x')}" createrole; set session authorization "${role('x')}"; set createrole_self_grant = 'set, inherit';
                create role "${role('group')}"; reset createrole_self_grant; reset session authorization`);
            expect(await dba.run(`select from pg_auth_members where member = '"${role('x')}"'::regrole and grantor = member`)).toHaveLength(1);
            await toEnd(dba, roles);
        }));
});

describe('who has ADMIN from the role alone, and asks', () => {
    const skipped = 'before 16 nothing is granted again';
    const admins = ({ role }: Roles): string => `${people({ role } as Roles)}; create role "${role('group')}"; grant "${role('group')}" to "${role('x')}" with admin option;
        alter role "${role('bob')}" createrole; grant "${role('x')}" to "${role('bob')}" with admin option; grant usage on schema ensure to "${role('bob')}";
        set role "${role('x')}"; grant "${role('group')}" to "${role('bob')}" with admin option; grant "${role('group')}" to "${role('eve')}"; reset role`;
    const asBob = (dba: Session, roles: Roles): Promise<Step[]> => as(dba, roles.role('bob'), () => ask(dba, roles));

    test('is told that a superuser grants it to them again; the other rows come before that one and work; then the plan ends', (context) =>
        major < 16 ? context.skip(skipped) : withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(admins(roles));
            const [other, own, ...more] = await asBob(dba, roles);
            expect(more).toEqual([]);
            expect(other?.why).not.toContain('lacks');
            expect(own?.why).toContain(`this role lacks SUPERUSER: ADMIN cannot be granted back to role ${role('bob')}`);
            await as(dba, role('bob'), async () => {
                expect((await dba.attempt(String(own?.statement))).code).toBe('0LP01');
                await dba.run(String(other?.statement));
                expect((await ask(dba, roles)).map(({ statement }) => statement)).toEqual([own?.statement]);
            });
            await dba.run(String(own?.statement));
            await as(dba, role('bob'), () => toEnd(dba, roles));
            expect(await dba.run(`select pg_has_role('${role('bob')}', '${role('group')}', 'MEMBER WITH ADMIN OPTION') as admin,
                pg_has_role('${role('eve')}', '${role('group')}', 'MEMBER') as member`)).toEqual([{ admin: true, member: true }]);
        }));

    test('is told so, too, of whom it has ADMIN from; not where it also has ADMIN from elsewhere', (context) =>
        major < 16 ? context.skip(skipped) : withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${admins(roles)}; set role "${role('x')}"; revoke "${role('group')}" from "${role('bob')}";
                grant "${role('group')}" to "${role('eve')}" with admin option; reset role;
                set role "${role('eve')}"; grant "${role('group')}" to "${role('bob')}" with admin option; reset role`);
            const [own] = await asBob(dba, roles);
            expect(own?.why).toContain(`this role lacks SUPERUSER: ADMIN cannot be granted back to role ${role('eve')}`);
            expect((await as(dba, role('bob'), () => dba.attempt(String(own?.statement)))).code).toBe('0LP01');
            await dba.run(`grant "${role('group')}" to "${role('bob')}" with admin option`);
            const [again] = await asBob(dba, roles);
            expect(again?.why).not.toContain('lacks');
            expect((await as(dba, role('bob'), () => dba.attempt(String(again?.statement)))).code).toBe('ok');
        }));

    test('without ADMIN, or an owner\'s rights, is told which it lacks', (context) =>
        major < 16 ? context.skip(skipped) : withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${admins(roles)}; revoke "${role('x')}" from "${role('bob')}"; set role "${role('x')}"; revoke "${role('group')}" from "${role('bob')}"; reset role;
                create table t (); alter table t owner to "${role('y')}"; grant select on t to "${role('x')}" with grant option;
                set role "${role('x')}"; grant select on t to "${role('eve')}"; reset role`);
            const whys = (await asBob(dba, roles)).map(({ why }) => why);
            expect(whys).toEqual([
                expect.stringContaining(`lacks ADMIN on role ${role('group')}; first run grant ${role('group')} to ${role('bob')} with admin option`),
                expect.stringContaining(`lacks the rights of role ${role('y')}; first run grant ${role('y')} to ${role('bob')}`)]);
            await dba.run(`grant "${role('group')}" to "${role('bob')}" with admin option; grant select on t to "${role('bob')}" with grant option`);
            expect((await asBob(dba, roles)).filter(({ why }) => why.includes('lacks'))).toEqual([]);
            await as(dba, role('bob'), async () => {
                for (const { statement } of await ask(dba, roles)) await dba.run(statement);
                expect((await ask(dba, roles)).filter(({ statement }) => statement.startsWith('grant'))).toEqual([]);
            });
        }));
});

describe('column privileges that the role granted with a grant option on the table', () => {
    const made = ({ role }: Roles): string => `create table public.ct (a int, b int); grant usage on schema public to "${role('x')}", "${role('bob')}";
        grant select, update on public.ct to "${role('x')}" with grant option; set role "${role('x')}";
        grant select (a), update (b) on public.ct to "${role('bob')}"; grant select (a) on public.ct to public; reset role`;
    const kept = ({ role }: Roles): string => `select has_column_privilege('${role('bob')}', 'public.ct', 'a', 'SELECT') as a,
        has_column_privilege('${role('bob')}', 'public.ct', 'b', 'UPDATE') as b, has_column_privilege('${role('eve')}', 'public.ct', 'a', 'SELECT') as all`;
    const all = [{ a: true, b: true, all: true }];

    test('are granted again and revoked, and the plan ends', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}`);
            const whys = (await toEnd(dba, roles)).map(({ why }) => why);
            expect(whys).toContain(`SELECT (a) on table public.ct for public, ${roles.role('bob')}, that ${roles.role('x')} granted`);
            expect(await dba.run(kept(roles))).toEqual(all);
        }));

    test('the plan ends, too, once the privilege on the table is gone', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}; drop owned by "${roles.role('x')}"`);
            expect(await dba.run(`select from pg_attribute, aclexplode(attacl) as a where attrelid = 'ct'::regclass and a.grantor = '"${roles.role('x')}"'::regrole`)).toHaveLength(3);
            await toEnd(dba, roles);
            expect(await dba.run(kept(roles))).toEqual(all);
        }));

    test('negative control: without the rows the last one fails for ever', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}`);
            await withoutGuard(dba, '_retire_revokes_v1', 'h.part > 0', 'false');
            expect((await stuck(dba, roles))?.why).toContain('is still needed: column');
        }));

    test('with the option from a third role, and on column and table at once, the plan ends', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; ${made(roles)}; grant usage on schema public to "${role('eve')}"; grant select (a) on ct to "${role('eve')}" with grant option;
                set role "${role('eve')}"; grant select (a) on ct to "${role('x')}" with grant option; reset role; grant update (b) on ct to "${role('x')}" with grant option`);
            await toEnd(dba, roles);
            expect(await dba.run(kept(roles))).toEqual(all);
        }));

    test('the row for another database refuses, and the HINT holds: the plan there has rows for it', () =>
        withRoles(['first'], async ({ first }, roles) => {
            const name = `${roles.database.name}_2`;
            roles.alsoDrops(name);
            await withConnection(surroundings.server.admin, (sql) => sql`create database ${sql(name)} template ${sql(surroundings.server.template)}`);
            await first.run(people(roles));
            await withSessions(at(surroundings.server.admin, name), ['second'], async ({ second }) => {
                await second.run(`${made(roles)}; grant select (a), update (b) on ct to "${roles.role('bob')}"; grant select (a) on ct to public`);
                const [there] = await ask(first, roles);
                expect(expectError(await second.attempt(String(there?.statement)), '2BP01').hint).toMatch(/they have a statement for it/);
                await toEnd(second, roles);
                expect(await second.run(kept(roles))).toEqual(all);
            });
        }));

    test('who does not have the owner\'s rights is told so', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; ${made(roles)}; alter table ct owner to "${role('y')}"; grant usage on schema ensure to "${role('bob')}"`);
            for (const { statement } of await ask(dba, roles)) await dba.run(statement);
            const whys = (await as(dba, role('bob'), () => ask(dba, roles))).map(({ why }) => why);
            expect(whys[0]).toContain(`this role lacks the rights of role ${role('y')}; first run grant ${role('y')} to ${role('bob')}`);
        }));
});

describe('what the role granted with an option from one whose member it is', () => {
    const made = ({ role }: Roles): string => `create table public.t (); grant usage on schema public to "${role('bob')}", "${role('x')}";
        grant select on t to "${role('bob')}" with grant option; grant "${role('bob')}" to "${role('x')}";
        set role "${role('bob')}"; grant select on t to "${role('x')}" with grant option; reset role;
        set role "${role('x')}"; grant select on t to "${role('eve')}"; reset role`;

    test('is revoked before that option is, and the plan ends', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}`);
            await toEnd(dba, roles);
            expect(await dba.run(`select has_table_privilege('${roles.role('eve')}', 't', 'SELECT') as kept`)).toEqual([{ kept: true }]);
        }));

    test('negative control: the other way round nobody can', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${made(roles)}`);
            await withoutGuard(dba, '_retire_revokes_v1', 'h.grantor <> role_oid,', 'h.grantor = role_oid,');
            for (let asks = 0; asks < 6; asks += 1) for (const { statement } of await ask(dba, roles)) await dba.attempt(statement);
            expect(await ask(dba, roles)).toHaveLength(1);
        }));
});

test('of two procedures that differ in OUT alone each row means one', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        const { role } = roles;
        await dba.run(`${people(roles)}; create schema p; grant usage on schema p to public; create type p."In" as enum ('a');
            create procedure p.x(in a p."In", out b int) language sql as 'select 1'; create procedure p.x(in a p."In", in b int) language sql as 'select 1'`);
        for (const args of ['in p."In", out int', 'in p."In", in int']) {
            await dba.run(`revoke execute on procedure p.x(${args}) from public; grant execute on procedure p.x(${args}) to "${role('eve')}" with grant option; grant "${role('eve')}" to "${role('x')}";
                set role "${role('eve')}"; grant execute on procedure p.x(${args}) to "${role('x')}" with grant option; reset role;
                set role "${role('x')}"; grant execute on procedure p.x(${args}) to "${role('bob')}"; reset role`);
        }
        await toEnd(dba, roles);
        expect(await dba.run(`select count(*)::int from pg_proc where pronamespace = 'p'::regnamespace and has_function_privilege('${role('bob')}', oid, 'EXECUTE')`)).toEqual([{ count: 2 }]);
    }));

test('why says of a SECURITY DEFINER routine that it runs as the heir from now on, and of no other', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        const { role } = roles;
        await dba.run(`${people(roles)}; create function f() returns int language sql as 'select 1'; create function g() returns int language sql security definer as 'select 1';
            alter function f() owner to "${role('x')}"; alter function g() owner to "${role('x')}"`);
        expect((await ask(dba, roles)).map(({ why }) => why)).toEqual(
            ['function public.f()', `function public.g(); SECURITY DEFINER: it runs as role ${role('y')} from now on`]);
    }));

test('the first row says which right later rows take, to who lacks it alone', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        const { role } = roles;
        await dba.run(`${people(roles)}; alter role "${role('x')}" login; alter role "${role('bob')}" createrole; grant usage on schema ensure to "${role('bob')}"`);
        const first = async (): Promise<string> => String((await ask(dba, roles))[0]?.why);
        expect(await as(dba, role('bob'), first)).toContain(`; later rows take the rights of role ${role('x')}: grant ${role('x')} to ${role('bob')}`);
        expect(await first()).not.toContain('later rows');
    }));
