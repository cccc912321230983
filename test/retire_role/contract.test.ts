import { describe, expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { at } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings } from '../context.js';
import { as, withRoles, type Roles } from '../ensure_role/roles.js';
import { everything } from '../ensure_owner/objects.js';
import { withoutGuard } from '../mutate.js';

interface Step {
    statement: string;
    why: string;
    database: string;
}

const plan = ({ role }: Roles): string => `select * from ensure.plan_retire_role_v1('${role('x')}', '${role('y')}')`;
const ask = async (session: Session, roles: Roles): Promise<Step[]> => {
    await session.run('begin read only');
    const steps = await session.run(plan(roles));
    await session.run('rollback');
    return steps as unknown as Step[];
};

/** A second database, migrated like the first, with a session as the superuser. */
async function withSecond(roles: Roles, body: (second: Session, name: string) => Promise<void>): Promise<void> {
    const name = `${roles.database.name}_2`;
    roles.alsoDrops(name);
    await withConnection(surroundings.server.admin, (sql) => sql`create database ${sql(name)} template ${sql(surroundings.server.template)}`);
    await withSessions(at(surroundings.server.admin, name), ['second'], ({ second }) => body(second, name));
}

const people = ({ role }: Roles): string => ['x', 'y', 'z', 'bob', 'group'].map((name) => `create role "${role(name)}" login`).join(';');

/** What x may have in a database: objects, privileges, default privileges, policies, settings; what others have from it. */
const belongings = ({ role }: Roles, database: string): string => `
    ${everything};
    create table public.kept (id int, k int); insert into public.kept values (1, 1);
    alter table public.kept owner to "${role('z')}"; alter table public.kept enable row level security;
    create policy shared on public.kept to "${role('x')}", "${role('bob')}" using (true);
    grant select, update (k) on public.kept to "${role('x')}" with grant option;
    grant usage on schema public to "${role('x')}"; grant connect on database "${database}" to "${role('x')}";
    grant execute on function pg_read_file(text) to "${role('x')}";
    alter role "${role('x')}" in database "${database}" set work_mem = '5MB';
    alter default privileges for role "${role('x')}" grant select on tables to "${role('bob')}";
    alter default privileges for role "${role('z')}" in schema a grant select on tables to "${role('x')}", "${role('bob')}";
    create user mapping for "${role('x')}" server srv;
    set role "${role('x')}"; grant select, update (k) on public.kept to "${role('bob')}"; reset role;
    select lo_create(4711); alter large object 4711 owner to "${role('x')}";
    create publication pub; alter publication pub owner to "${role('x')}";
    do $$ declare s text; begin
        for s in select statement from ensure.plan_owner_v1('${role('x')}', '{a}') loop execute s; end loop;
    end $$;
    alter server srv owner to "${role('x')}"`;

const bobHas = ({ role }: Roles): string => `
    select has_table_privilege('${role('bob')}', 'public.kept', 'SELECT') as selects, has_column_privilege('${role('bob')}', 'public.kept', 'k', 'UPDATE') as updates,
           (select count(*)::int from pg_policy where '"${role('bob')}"'::regrole = any (polroles)) as policies,
           (select count(*)::int from pg_default_acl, aclexplode(defaclacl) as a where a.grantee = '"${role('bob')}"'::regrole
                and defaclrole = '"${role('z')}"'::regrole) as defaults,
           (select count(*)::int from public.kept) as rows`;
const allOfIt = { selects: true, updates: true, policies: 1, defaults: 1, rows: 1 };

describe('a role with belongings in two databases', () => {
    test('is gone when the rows were run in their databases until none is left; what others have from it stays', () =>
        withRoles(['first'], (sessions, roles) => withSecond(roles, async (second, name) => {
            const { first } = sessions;
            const { role, database } = roles;
            await first.run(people(roles));
            await first.run(`grant "${role('group')}" to "${role('x')}" with admin option; grant "${role('x')}" to "${role('z')}"`);
            await as(first, role('x'), () => first.run(`grant "${role('group')}" to "${role('bob')}" with admin option`));
            await first.run(belongings(roles, database.name));
            await second.run(belongings(roles, name));
            await first.run('create extension hstore');
            await first.run(`update pg_extension set extowner = '"${role('x')}"'::regrole where extname = 'hstore';
                insert into pg_shdepend select (select oid from pg_database where datname = current_database()), 'pg_extension'::regclass,
                    oid, 0, 'pg_authid'::regclass, extowner, 'o' from pg_extension where extname = 'hstore'`); // as CREATE EXTENSION by x does
            await second.run(`alter database "${name}" owner to "${role('x')}"`);
            const owns = (whose: string): string => `select dbid, classid, objid from pg_shdepend where deptype = 'o'
                and refobjid = '"${role(whose)}"'::regrole and classid not in ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) order by 1, 2, 3`;
            const owned = await first.run(owns('x'));

            const there = new Map([[database.name, first], [name, second]]);
            const whys: string[] = [];
            for (let asks = 0; ; asks += 1) {
                expect(asks).toBeLessThan(30);
                const here = asks % 2 ? name : database.name;
                const steps = await ask(asks % 2 ? second : first, roles);
                if (!steps.length) break;
                for (const { database: place, statement, why } of asks > 5 ? steps : steps.slice(0, 1)) { // at first as if killed after each
                    const { code } = await there.get(place)?.attempt(statement) ?? { code: 'no such database' };
                    expect(code, statement).toMatch(place === here ? /^ok$/ : /^(ok|2BP01)$/); // bob's privileges there come first
                    whys.push(why);
                }
            }
            expect(await first.run(`select from pg_roles where rolname = '${role('x')}'`)).toEqual([]);
            expect(whys[0]).toMatch(/keeps it from coming back/);
            expect(whys.at(-1)).toMatch(/nothing depends on it/);
            expect(await first.run(bobHas(roles))).toEqual([allOfIt]);
            expect(await second.run(bobHas(roles))).toEqual([allOfIt]);
            expect(await first.run(`select pg_has_role('${role('bob')}', '${role('group')}', 'USAGE WITH ADMIN OPTION') as has`)).toEqual([{ has: true }]);
            expect(await first.run(owns('y'))).toEqual(owned);
            expect(owned.length).toBeGreaterThan(75);
            expect(await first.run('select pg_get_userbyid(datdba) as owner from pg_database where datname = $$' + name + '$$')).toEqual([{ owner: role('y') }]);
            expect(await first.run("select pg_get_userbyid(extowner) as owner from pg_extension where extname = 'hstore'")).toEqual([{ owner: role('y') }]);
            expect(await first.run(plan(roles))).toEqual([]);
        })), 120_000);

    test('a psql that goes on after errors, in one database, does no harm', () =>
        withRoles(['first'], (sessions, roles) => withSecond(roles, async (second, name) => {
            const { first } = sessions;
            const { role, database } = roles;
            await first.run(people(roles));
            await first.run(belongings(roles, database.name));
            await second.run(belongings(roles, name));
            const counted = `select deptype, count(*)::int from pg_shdepend where refobjid = '"${role('x')}"'::regrole
                and dbid = (select oid from pg_database where datname = '${name}') group by 1 order by 1`;
            const before = await first.run(counted);
            for (let round = 0; round < 6; round += 1) {
                for (const { statement } of await ask(first, roles)) await first.attempt(statement);
            }
            const left = await ask(first, roles);
            expect(left.map(({ database: place }) => place)).toEqual([name]);
            expect((await first.attempt(left[0]?.statement ?? '')).code).toBe('55000');
            expect(await first.run(counted)).toEqual(before);
            expect(await first.run(bobHas(roles))).toEqual([allOfIt]);
            // There it refuses, too: bob has privileges from x alone.
            expect((await second.attempt(left[0]?.statement ?? '')).code).toBe('2BP01');
            expect(await first.run(counted)).toEqual(before);
        })), 60_000);

    test('negative control: without what is granted again bob loses what x granted', () =>
        withRoles(['first'], async ({ first }, roles) => {
            await first.run(people(roles));
            await first.run(belongings(roles, roles.database.name));
            await withoutGuard(first, '_retire_grants_v1', 'order by 3 nulls first, 1', 'limit 0');
            await withoutGuard(first, '_drop_owned_v1', 'a.grantor = %1$s', 'false');
            for (let round = 0; round < 6; round += 1) {
                for (const { statement } of await ask(first, roles)) await first.attempt(statement);
            }
            expect(await first.run(bobHas(roles))).toEqual([{ ...allOfIt, selects: false, updates: false }]);
        }));
});

describe('barriers', () => {
    test('NOLOGIN first, and alone; then the sessions, that end; only then objects', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; alter role "${role('x')}" password 'secret'; create table t (); alter table t owner to "${role('x')}"`);
            const url = at(surroundings.server.admin, roles.database.name, { name: role('x'), password: 'secret' });
            await withSessions(url, ['app'], async ({ app }) => {
                await app.run('select 1');
                const [first, ...rest] = await ask(dba, roles);
                expect([first?.statement, rest]).toEqual([`alter role ${role('x')} nologin connection limit 0`, []]);
                await dba.run(String(first?.statement));
                const [second, ...more] = await ask(dba, roles);
                expect([second?.why, more]).toEqual([expect.stringContaining(`${app.pid}`), []]);
                expect(Object.keys((await dba.run(String(second?.statement)))[0] ?? {})).toEqual(['waiting']);
                expect((await app.attempt('select 1')).code).not.toBe('ok');
                expect((await ask(dba, roles)).map(({ statement }) => statement)).toEqual([`alter table public.t owner to ${role('y')}`]);
            });
        }));

    test('the purge refuses while the role owns something, in another database, and when the role is gone', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; alter role "${role('x')}" nologin connection limit 0; create table t (); grant select on t to "${role('x')}"`);
            const [purge] = await ask(dba, roles);
            expect(purge?.why).toMatch(/^its privileges/);
            await dba.run(`create table u (); alter table u owner to "${role('x')}"`);
            expect((await dba.attempt(String(purge?.statement))).code).toBe('2BP01');
            expect(await dba.run("select to_regclass('u') is not null as there")).toEqual([{ there: true }]);
            await dba.run(String(purge?.statement).replaceAll('if v_owns then', 'if false then').replace('if not v_owns', 'if true')); // the control
            expect(await dba.run("select to_regclass('u') is not null as there")).toEqual([{ there: false }]);
            await withConnection(surroundings.server.admin, async (sql) => {
                await expect(sql.unsafe(String(purge?.statement))).rejects.toMatchObject({ code: '55000' });
            });
        }));

    test('a prepared transaction of the role pins it, and is named', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; create table t (i int); grant insert on t to "${role('x')}"`);
            await as(dba, role('x'), () => dba.run(`begin; insert into t values (1); prepare transaction '${role('x')}'`));
            await dba.run(`revoke insert on t from "${role('x')}"; alter role "${role('x')}" nologin connection limit 0`);
            const [last, ...more] = await ask(dba, roles);
            expect(more).toEqual([]);
            expect(last?.why).toContain(`prepared transaction '${role('x')}'`);
            expect(expectError(await dba.attempt(String(last?.statement)), '2BP01').hint).toMatch(/ask/);
            await dba.run(`commit prepared '${role('x')}'`);
            expect((await ask(dba, roles)).map(({ statement }) => statement)).toEqual([`drop role ${role('x')}`]);
        }));
});

/** Runs the plan, asked again and again, to its end; what it said, a list for each time it was asked. */
const toEnd = async (session: Session, roles: Roles, most = 8): Promise<Step[][]> => {
    const asked: Step[][] = [];
    for (;;) {
        const steps = await ask(session, roles);
        if (!steps.length) return asked;
        expect(asked.length, steps[0]?.why).toBeLessThan(most);
        asked.push(steps);
        for (const { statement } of steps) expect((await session.attempt(statement)).code, statement).toBe('ok');
    }
};

describe('privileges that DROP OWNED treats in its own way', () => {
    const parameters = ({ role }: Roles): string => `grant set, alter system on parameter work_mem to "${role('x')}" with grant option;
        grant set on parameter "my.own" to "${role('x')}" with grant option; set role "${role('x')}";
        grant set, alter system on parameter work_mem to "${role('bob')}"; grant set on parameter "my.own" to "${role('bob')}" with grant option; reset role`;
    const has = ({ role }: Roles): string => `select has_parameter_privilege('${role('bob')}', 'work_mem', 'SET, ALTER SYSTEM') as work_mem,
        has_parameter_privilege('${role('bob')}', 'my.own', 'SET WITH GRANT OPTION') as own`;

    test('on parameters: what the role granted to others stays', (context) =>
        major < 15 ? context.skip('before 15 there are none') : withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${parameters(roles)}`);
            const [, granted] = await toEnd(dba, roles);
            expect(granted?.map(({ statement }) => statement)).toContain(`grant SET on parameter my.own to ${roles.role('bob')} with grant option`);
            expect(await dba.run(has(roles))).toEqual([{ work_mem: true, own: true }]);
        }));

    test('negative control: without a look at parameters it is lost', (context) =>
        major < 15 ? context.skip('before 15 there are none') : withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${parameters(roles)}`);
            await withoutGuard(dba, '_retire_grants_v1', 'h.grantor = role_oid', "h.grantor = role_oid and h.class <> 'pg_parameter_acl'::regclass");
            await withoutGuard(dba, '_drop_owned_v1', 'a.grantor = %1$s', 'false');
            await toEnd(dba, roles);
            expect(await dba.run(has(roles))).toEqual([{ work_mem: false, own: false }]);
        }));

    test.for([['a parameter', 'set on parameter work_mem', 15], ['a database', 'create on database "%d"', 14]] as const)(
        'the row for another database refuses while others have %s from the role alone', ([, privilege, since], context) =>
            major < since ? context.skip('before 15 there are none') : withRoles(['first'], (sessions, roles) => withSecond(roles, async (second) => {
                const { first } = sessions;
                const { role, database } = roles;
                const what = privilege.replace('%d', database.name);
                await first.run(`${people(roles)}; alter role "${role('x')}" nologin connection limit 0`);
                await second.run(`create table t (); alter table t owner to "${role('x')}"`);
                const [there] = await ask(first, roles);
                await first.run(`grant ${what} to "${role('x')}" with grant option; set role "${role('x')}"; grant ${what} to "${role('bob')}"; reset role`);
                expect((await second.attempt(there?.statement ?? '')).code).toBe('2BP01');
                await first.run(`grant ${what} to "${role('bob')}"`);
                expect((await second.attempt(there?.statement ?? '')).code).toBe('ok');
            })));

    const third = ({ role }: Roles): string => `create schema s; grant usage on schema s to public; create table s.t (a int, b int);
        grant select, insert (b) on s.t to "${role('z')}" with grant option; grant usage on schema s to "${role('z')}" with grant option;
        create function s.f() returns int language sql as 'select 1'; grant execute on function s.f() to "${role('group')}" with grant option;
        grant "${role('group')}" to "${role('x')}";
        set role "${role('z')}"; grant select, insert (b) on s.t to "${role('x')}" with grant option; grant usage on schema s to "${role('x')}"; reset role;
        set role "${role('group')}"; grant execute on function s.f() to "${role('x')}" with grant option; reset role;
        set role "${role('x')}"; grant select on s.t to "${role('bob')}"; reset role; grant update on s.t to "${role('x')}"`;

    test('what one who is not the owner granted is revoked as that one, and the plan ends; what bob has stays', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${third(roles)}`);
            const asked = await toEnd(dba, roles);
            const whys = asked.flat().map(({ why }) => why);
            expect(whys).toContain(`SELECT on table s.t for ${roles.role('x')}, that ${roles.role('z')} granted`);
            expect(whys).toContain(`EXECUTE on routine s.f() for ${roles.role('x')}, that ${roles.role('group')} granted`);
            expect(new Set(asked.flat().map(({ statement }) => statement)).size).toBe(asked.flat().length); // none comes twice
            expect(await dba.run(`select has_table_privilege('${roles.role('bob')}', 's.t', 'SELECT') as bob,
                has_table_privilege('${roles.role('z')}', 's.t', 'SELECT WITH GRANT OPTION') as z`)).toEqual([{ bob: true, z: true }]);
            expect(await dba.run("select current_user = session_user as restored")).toEqual([{ restored: true }]);
        }));

    test('negative control: without these rows the role cannot be dropped', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await dba.run(`${people(roles)}; ${third(roles)}`);
            await withoutGuard(dba, '_retire_revokes_v1', '(h.grantee = role_oid', '(false');
            for (let round = 0; round < 6; round += 1) for (const { statement } of await ask(dba, roles)) await dba.attempt(statement);
            expect(await dba.run(`select from pg_roles where rolname = '${roles.role('x')}'`)).toHaveLength(1);
        }));

    test.each(['guarded', 'control'])('what the role granted, and as a member of the grantee could grant again, is revoked too: %s', (kind) =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; create table t (); grant select on t to "${role('x')}" with grant option; grant "${role('bob')}" to "${role('x')}";
                set role "${role('x')}"; grant select on t to "${role('bob')}" with grant option; reset role;
                set role "${role('bob')}"; grant select on t to "${role('z')}"; reset role`);
            if (kind === 'control') {
                await withoutGuard(dba, '_retire_revokes_v1', 'h.grantor = role_oid and', 'false and');
                for (let round = 0; round < 5; round += 1) for (const { statement } of await ask(dba, roles)) await dba.attempt(statement);
                expect((await ask(dba, roles))[0]?.why).toContain('is still needed: table public.t');
                return;
            }
            await toEnd(dba, roles);
            expect(await dba.run(`select has_table_privilege('${role('bob')}', 't', 'SELECT WITH GRANT OPTION') as bob,
                has_table_privilege('${role('z')}', 't', 'SELECT') as z`)).toEqual([{ bob: true, z: true }]);
        }));

    test('what cannot be revoked is named in the last row, with who granted it, and nothing comes again', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; ${third(roles)}; alter role "${role('z')}" superuser`);
            await dba.run(`alter role "${role('x')}" nologin connection limit 0`);
            for (let round = 0; round < 4; round += 1) for (const { statement } of await ask(dba, roles)) await dba.attempt(statement);
            const [last, ...more] = await ask(dba, roles);
            expect(more).toEqual([]);
            expect(last?.why).toContain(`privileges granted by ${role('z')}`);
            expect(last?.why).toContain('table s.t');
            expectError(await dba.attempt(String(last?.statement)), '2BP01');
        }));

    test('the row for another database fails where DROP OWNED leaves something, and its plan there has the rows', () =>
        withRoles(['first'], (sessions, roles) => withSecond(roles, async (second) => {
            const { first } = sessions;
            await first.run(`${people(roles)}; alter role "${roles.role('x')}" nologin connection limit 0`);
            await second.run(`${third(roles)}; revoke select on s.t from "${roles.role('z')}" cascade`);
            const [there] = await ask(first, roles);
            expectError(await second.attempt(there?.statement ?? ''), '2BP01');
            await toEnd(second, roles);
        })));

    test('a row that may revoke nothing says so, instead of coming again', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; alter role "${role('x')}" nologin connection limit 0; create table t (); grant select on t to "${role('x')}";
                grant usage on schema ensure to "${role('bob')}"; grant "${role('x')}" to "${role('bob')}"`);
            await as(dba, role('bob'), async () => {
                const [purge] = await ask(dba, roles);
                expect(purge?.why).toMatch(/^its privileges.*; the owner or a superuser revokes what is on objects of postgres$/);
                expectError(await dba.attempt(String(purge?.statement)), '42501');
            });
            expect((await ask(dba, roles))[0]?.why).toMatch(/^its privileges.*: 1$/);
        }));
});

describe('an heir that may not own', () => {
    test.each([['an event trigger', 'create function public.e() returns event_trigger language plpgsql as $$ begin end $$; create event trigger %n on ddl_command_end execute function public.e(); alter event trigger %n disable', 'event trigger %n'],
        ['a foreign data wrapper', 'create foreign data wrapper %n', 'foreign data wrapper %n']])('%s: why says that the heir lacks SUPERUSER', (_, make, what) =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            const named = (text: string): string => text.replaceAll('%n', 'thing');
            await dba.run(`${people(roles)}; alter role "${role('x')}" superuser nologin connection limit 0; ${named(make)};
                alter ${named(what)} owner to "${role('x')}"; alter role "${role('x')}" nosuperuser`);
            const [step] = await ask(dba, roles);
            expect(step?.why).toContain(`role ${role('y')} lacks SUPERUSER`);
            expect((await dba.attempt(String(step?.statement))).code).toBe('42501');
            await dba.run(`alter role "${role('y')}" superuser`);
            expect((await ask(dba, roles))[0]?.why).not.toContain('lacks');
            await toEnd(dba, roles);
        }));
});

test('prepared transactions of others are named beside DROP ROLE: they may hold the role', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        const { role } = roles;
        await dba.run(`${people(roles)}; alter role "${role('x')}" nologin connection limit 0; create table t ()`);
        await dba.run(`begin; grant select on t to "${role('x')}"; prepare transaction '${role('held')}'`);
        const [last, ...more] = await ask(dba, roles);
        expect(more).toEqual([]);
        expect(last?.statement).toBe(`drop role ${role('x')}`);
        expect(last?.why).toContain(`'${role('held')}' in database ${roles.database.name}`);
        await dba.run(`rollback prepared '${role('held')}'`);
        expect((await ask(dba, roles))[0]?.why).not.toContain(role('held'));
    }));

/** Functions, operators and types in public under names that rows may use; whoever gets to one of them ends in ZZ001. */
const traps = `
    create function public.trap() returns boolean language plpgsql as $$ begin raise exception using errcode = 'ZZ001', message = 'a trap'; end $$;
    create function public.trap(oid, integer) returns boolean language sql as 'select public.trap()';
    create function public.trap(oid, bigint) returns boolean language sql as 'select public.trap()';
    create function public.trap(oid, oid) returns boolean language sql as 'select public.trap()';
    create function public.trap(integer, integer) returns boolean language sql as 'select public.trap()';
    create function public.trap(text, text) returns boolean language sql as 'select public.trap()';
    create function public.trap(name, name) returns boolean language sql as 'select public.trap()';
    create function public.trap(name, text) returns boolean language sql as 'select public.trap()';
    create function public.trap("char", "char") returns boolean language sql as 'select public.trap()';
    do $$ declare o text; t text; begin
        foreach o in array '{=,<>}'::text[] loop
            foreach t in array '{"oid,integer","oid,bigint","oid,oid","integer,integer","text,text","name,name","name,text"}'::text[] loop
                execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.trap)', o, split_part(t, ',', 1), split_part(t, ',', 2));
            end loop;
        end loop;
    end $$;
    create function public.pg_terminate_backend(integer, integer) returns boolean language sql as 'select public.trap()';
    create function public.pg_terminate_backend(integer, bigint) returns boolean language sql as 'select public.trap()';
    create function public.pg_backend_pid() returns integer language sql as 'select public.trap()::int';
    create function public.current_database() returns name language sql as 'select public.trap()::text::name';
    create function public.current_setting(text) returns text language sql as 'select public.trap()::text';
    create function public.set_config(text, text, boolean) returns text language sql as 'select public.trap()::text';
    create function public.aclexplode(aclitem[]) returns setof record language sql as 'select public.trap()';
    create type public.text as enum ('trap'); create type public.oid as enum ('trap')`;

describe('each row, run by somebody in whose search_path others have made functions, operators and types', () => {
    const dismiss = async (dba: Session, roles: Roles, path: string): Promise<string[]> => {
        const { role } = roles;
        await dba.run(`${people(roles)}; alter role "${role('x')}" password 'secret'`);
        await dba.run(belongings(roles, roles.database.name));
        await dba.run(`create procedure a.told(inout t text, in u text[]) language sql as 'select t'; alter procedure a.told owner to "${role('x')}";
            create extension hstore schema a; update pg_extension set extowner = '"${role('x')}"'::regrole where extname = 'hstore';
            insert into pg_shdepend select (select oid from pg_database where datname = current_database()), 'pg_extension'::regclass,
                oid, 0, 'pg_authid'::regclass, extowner, 'o' from pg_extension where extname = 'hstore'`);
        await dba.run(traps);
        const codes: string[] = [];
        await withSessions(at(surroundings.server.admin, roles.database.name, { name: role('x'), password: 'secret' }), ['app'], async ({ app }) => {
            await app.run('select 1');
            for (let asks = 0; asks < 12; asks += 1) {
                const steps = await ask(dba, roles);
                if (!steps.length) break;
                for (const { statement } of steps) {
                    await dba.run(`begin; set local search_path = ${path}`);
                    const outcome = await dba.attempt(statement);
                    codes.push(outcome.code);
                    if (outcome.code === 'ok') expect(await dba.run('show search_path')).toEqual([{ search_path: path }]);
                    await dba.attempt(outcome.code === 'ok' ? 'commit' : 'rollback');
                }
            }
        });
        return codes;
    };

    test.each(['public', 'public, pg_catalog'])('search_path %s: none is called, and the path is put back', (path) =>
        withRoles(['dba'], async ({ dba }, roles) => {
            expect(new Set(await dismiss(dba, roles, path))).toEqual(new Set(['ok']));
            expect(await dba.run(plan(roles))).toEqual([]);
        }), 60_000);

    test('negative control: without the pinned path they are', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            await withoutGuard(dba, '_do_v1', "perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);");
            expect(await dismiss(dba, roles, 'public')).toContain('ZZ001');
        }), 60_000);
});

describe('who asks', () => {
    test('a role without rights gets the rows, each with the right that is missing', () =>
        withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; grant usage on schema ensure to "${role('bob')}"; create table t (); alter table t owner to "${role('x')}"`);
            const whys = (): Promise<string[]> => as(dba, role('bob'), async () => (await ask(dba, roles)).map(({ why }) => why));
            expect(await whys()).toEqual([expect.stringContaining('this role lacks CREATEROLE')]);
            await dba.run(`alter role "${role('x')}" nologin connection limit 0`);
            expect(await whys()).toEqual([expect.stringContaining(`this role lacks the rights of role ${role('x')}; first run grant`)]);
            await dba.run(`alter table t owner to "${role('y')}"; grant select on t to "${role('x')}"`);
            expect(await whys()).toEqual([expect.stringContaining(`this role lacks the rights of role ${role('x')}`)]);
            await dba.run(`revoke select on t from "${role('x')}"`);
            expect(await whys()).toEqual([expect.stringContaining('this role lacks CREATEROLE')]);
        }));

    test('from 16 on one with CREATEROLE and without ADMIN is told so', (context) =>
        major < 16 ? context.skip('before 16 CREATEROLE is enough') : withRoles(['dba'], async ({ dba }, roles) => {
            const { role } = roles;
            await dba.run(`${people(roles)}; alter role "${role('bob')}" createrole; grant usage on schema ensure to "${role('bob')}"`);
            const [step] = await as(dba, role('bob'), () => ask(dba, roles));
            expect(step?.why).toContain(`this role lacks ADMIN on role ${role('x')}`);
        }));
});

describe('bad input', () => {
    test.each([
        ['22004', "null, 'y'"], ['22004', "'x', null"], ['22023', "'x', 'x'"], ['42602', "'', 'y'"], ['42939', "'public', 'y'"],
        ['42939', "'pg_monitor', 'y'"], ['42939', "'postgres', 'y'"], ['42704', "'x', 'nobody'"], ['55006', "'me', 'y'"],
        ['42704', "'nobody', 'nobody'"], ['42704', "'nobody', 'none such'"],
    ])('%s for %s', (code, input) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('x')}"; create role "${role('y')}"; create role "${role('me')}" superuser`);
            const call = `select * from ensure.plan_retire_role_v1(${input.replaceAll(/'(x|y|me)'/g, (_, name: string) => `'${role(name)}'`)})`;
            if (code !== '55006') return void expect(expectError(await dba.attempt(call), code).hint).not.toBe('');
            await as(dba, role('me'), async () => void expectError(await dba.attempt(call), code));
        }));

    test('a role that does not exist is retired', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('y')}"`);
            expect(await dba.run(`select * from ensure.plan_retire_role_v1('nobody', '${role('y')}')`)).toEqual([]);
        }));

    test('for the superuser that the server was made with no HINT says to shut it out', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('y')}"`);
            const { hint } = expectError(await dba.attempt(`select * from ensure.plan_retire_role_v1('postgres', '${role('y')}')`), '42939');
            expect(hint).not.toMatch(/nologin/i);
        }));
});
