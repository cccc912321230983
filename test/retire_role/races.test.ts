import { describe, expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { at } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings } from '../context.js';
import { as, withRoles, type Roles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';

const names = ['dba', 'writer', 'dev'] as const;
type People = Record<(typeof names)[number], Session>;

const plan = async (session: Session, { role }: Roles): Promise<string[]> =>
    (await session.run(`select statement from ensure.plan_retire_role_v1('${role('x')}', '${role('y')}')`)).map(({ statement }) => String(statement));

/** A role x without LOGIN, that bob may become, its heir y; three sessions in another database. */
const withOther = (body: (first: Session, other: People, roles: Roles) => Promise<void>): Promise<void> =>
    withRoles(['first'], async ({ first }, roles) => {
        const { role } = roles;
        const name = `${roles.database.name}_2`;
        roles.alsoDrops(name);
        await withConnection(surroundings.server.admin, (sql) => sql`create database ${sql(name)} template ${sql(surroundings.server.template)}`);
        await first.run(`create role "${role('x')}" connection limit 0; create role "${role('y')}"; create role "${role('bob')}"; grant "${role('x')}" to "${role('bob')}"`);
        await withSessions(at(surroundings.server.admin, name), names, async (other) => {
            await other.dba.run(`create schema s; grant all on schema s to "${role('x')}"; grant usage on schema ensure to "${role('x')}"`);
            await body(first, other, roles);
        });
    });

/** What bob, as x, makes: something that DROP OWNED BY x would drop. */
const precious = ({ role }: Roles, what: string): string => `set role "${role('x')}"; ${what}; reset role`;
const things = [
    ['a table', 'create table s.precious as select 1 as i', "to_regclass('s.precious')"],
    ['a view', 'create view s.seen as select 1 as i', "to_regclass('s.seen')"],
    ['a function', "create function s.f() returns int language sql as 'select 1'", "to_regproc('s.f')"],
    ['a domain', 'create domain s.d as int', "to_regtype('s.d')"],
    ['a large object', 'select lo_create(4711)', '(select oid from pg_largeobject_metadata where oid = 4711)'],
] as const;

/** The row as it would be with a stop between its look and DROP OWNED: where the lock is that the other session holds. */
const stopped = (statement: string): string => {
    const slow = statement.replace(/execute ''drop owned/, "perform pg_advisory_xact_lock(1); execute ''drop owned");
    expect(slow).not.toBe(statement);
    return slow;
};
const withoutLookAfter = (statement: string): string => {
    const mutant = statement.replace("l.mode = ''AccessExclusiveLock''\n                  and", "false and");
    expect(mutant).not.toBe(statement);
    return mutant;
};

describe('the row for another database', () => {
    const waitsForWriter = async (first: Session, { dba, writer, dev }: People, roles: Roles): Promise<string> => {
        await dba.run(`create table s.t1 (i int); alter table s.t1 owner to "${roles.role('x')}"`);
        const [there = ''] = await plan(first, roles);
        await writer.run('begin; insert into s.t1 values (1)');
        const row = dba.start(there);
        await row.blockedBy(writer);
        await as(dev, roles.role('bob'), () => dev.run(precious(roles, 'create table s.precious as select 1 as i')));
        await writer.run('commit');
        return (await row.outcome()).code;
    };
    const kept = "select to_regclass('s.precious') is not null as kept";

    test('refuses what the role came to own while it waited, and nothing is lost; run again it goes to the heir', () =>
        withOther(async (first, other, roles) => {
            expect(await waitsForWriter(first, other, roles)).toBe('2BP01');
            expect(await other.dba.run(`${kept}, tableowner = '${roles.role('x')}' as before from pg_tables where tablename = 't1'`)).toEqual([{ kept: true, before: true }]);
            const [again = ''] = await plan(first, roles);
            await other.dba.run(again);
            expect(await other.dba.run("select distinct tableowner from pg_tables where schemaname = 's'")).toEqual([{ tableowner: roles.role('y') }]);
        }));

    test('negative control: without the looks it succeeds, and the table is gone', () =>
        withOther(async (first, other, roles) => {
            await withoutGuard(first, '_drop_owned_v1', 'into v_owns;', 'into v_owns; v_owns := false;');
            await withoutGuard(first, '_drop_owned_v1', "l.mode = 'AccessExclusiveLock'\n                  and", 'false and');
            expect(await waitsForWriter(first, other, roles)).toBe('ok');
            expect(await other.dba.run(kept)).toEqual([{ kept: false }]);
        }));
});

describe('what the role comes to own between the look at it and DROP OWNED is not dropped', () => {
    const between = async ({ dba, dev }: People, roles: Roles, row: string, what: string): Promise<string> => {
        await dev.run('begin; select pg_advisory_xact_lock(1)');
        const purge = dba.start(stopped(row));
        await purge.blockedBy(dev);
        await dev.run(`${precious(roles, what)}; commit`);
        return (await purge.outcome()).code;
    };

    test.each(things)('%s: by the row for this database', (_, what, there) =>
        withOther(async (_first, other, roles) => {
            const [purge = ''] = await plan(other.dba, roles);
            expect(await between(other, roles, purge, what)).toBe('2BP01');
            expect(await other.dba.run(`select ${there} is not null as kept`)).toEqual([{ kept: true }]);
        }));

    test.each(things)('%s: by the row for another database', (_, what, there) =>
        withOther(async (first, other, roles) => {
            const [row = ''] = await plan(first, roles);
            expect(await between(other, roles, row, what)).toBe('2BP01');
            expect(await other.dba.run(`select ${there} is not null as kept`)).toEqual([{ kept: true }]);
        }));

    test.each(things)('%s: negative control, lost without the look at what was dropped', (_, what, there) =>
        withOther(async (_first, other, roles) => {
            const [purge = ''] = await plan(other.dba, roles);
            expect(await between(other, roles, withoutLookAfter(purge), what)).toBe('ok');
            expect(await other.dba.run(`select ${there} is not null as kept`)).toEqual([{ kept: false }]);
        }));

    test('policies, defaults, user mappings and memberships of the role are, and locks held before do not count', () =>
        withOther(async (_first, { dba }, roles) => {
            const { role } = roles;
            await dba.run(`create table s.t (i int); create policy alone on s.t to "${role('x')}" using (true); create policy shared on s.t to "${role('x')}", "${role('bob')}" using (true);
                alter default privileges for role "${role('x')}" grant select on tables to "${role('bob')}";
                create foreign data wrapper w; create server srv foreign data wrapper w; create user mapping for "${role('x')}" server srv`);
            const [purge = ''] = await plan(dba, roles);
            await dba.run(`begin; create table s.gone (i int); create function s.gone() returns int language sql as 'select 1'; drop table s.gone; drop function s.gone`);
            await dba.run(purge);
            await dba.run('commit');
            expect(await dba.run("select polname::text as name from pg_policy where polrelid = 's.t'::regclass")).toEqual([{ name: 'shared' }]);
            expect(await plan(dba, roles)).toEqual([`drop role ${role('x')}`]);
        }));
});

describe('what bob, as x, granted after the plan was made', () => {
    const granted = ({ role }: Roles): [string, string][] => [
        ['select on s.t', `select has_table_privilege('${role('eve')}', 's.t', 'SELECT') as has`],
        ...major < 16 ? [] : [[`"${role('group')}"`, `select pg_has_role('${role('eve')}', '${role('group')}', 'MEMBER') as has`] as [string, string]],
    ];
    const setUp = ({ dba }: People, { role }: Roles): Promise<unknown> => dba.run(`create role "${role('eve')}"; create role "${role('group')}"; grant "${role('group')}" to "${role('x')}" with admin option;
        create table s.t (); grant select on s.t to "${role('x')}" with grant option`);

    test.each(['here', 'elsewhere'])('stays: the row refuses, %s, and the next plan has rows that grant it again', (kind) =>
        withOther(async (first, other, roles) => {
            await setUp(other, roles);
            for (const [what, has] of granted(roles)) {
                const row = (await plan(kind === 'here' ? other.dba : first, roles)).at(-1) ?? '';
                await as(other.dev, roles.role('bob'), () => other.dev.run(precious(roles, `grant ${what} to "${roles.role('eve')}"`)));
                expect(expectError(await other.dba.attempt(row), '2BP01').hint).toMatch(/they grant these again/);
                const [again = ''] = await plan(other.dba, roles);
                await other.dba.run(again);
                expect(again).toMatch(/^grant /);
                expect(await other.dba.run(has)).toEqual([{ has: true }]);
            }
            const row = (await plan(kind === 'here' ? other.dba : first, roles)).at(-1) ?? '';
            await other.dba.run(row);
            for (const [, has] of granted(roles)) expect(await other.dba.run(has)).toEqual([{ has: true }]);
        }));

    test('negative control: without the look at it, it is lost', () =>
        withOther(async (_first, other, roles) => {
            await setUp(other, roles);
            await withoutGuard(other.dba, '_drop_owned_v1', 'a.grantor = %1$s', 'false');
            if (major >= 16) await withoutGuard(other.dba, '_drop_owned_v1', 'm.grantor = %1$s', 'false');
            const [row = ''] = await plan(other.dba, roles);
            for (const [what] of granted(roles)) await other.dba.run(precious(roles, `grant ${what} to "${roles.role('eve')}"`));
            await other.dba.run(row);
            for (const [, has] of granted(roles)) expect(await other.dba.run(has)).toEqual([{ has: false }]);
        }));
});

describe('what the role granted on a column that is dropped since', () => {
    const made = ({ role }: Roles): string => `create table s.t (a int, b int); grant select on s.t to "${role('x')}"; grant select (a) on s.t to "${role('x')}" with grant option;
        set role "${role('x')}"; grant select (a) on s.t to "${role('bob')}"; reset role; alter table s.t drop column a`;

    test('does not keep the row from its work', () =>
        withOther(async (first, { dba }, roles) => {
            await dba.run(made(roles));
            const [row = ''] = await plan(first, roles);
            expect((await dba.attempt(row)).code).toBe('ok');
        }));

    test('negative control: where the server keeps it, it does', () =>
        withOther(async (first, { dba }, roles) => {
            await dba.run(made(roles));
            const [kept] = await dba.run("select attacl is not null as there from pg_attribute where attrelid = 's.t'::regclass and attnum = 1");
            await withoutGuard(first, '_drop_owned_v1', 'where not t.attisdropped', 'where true');
            const [row = ''] = await plan(first, roles);
            expect((await dba.attempt(row)).code).toBe(kept?.there ? '2BP01' : 'ok');
        }));
});
