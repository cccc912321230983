import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { expectError, pooled, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const table = `create table roles (id int generated always as identity primary key, name text not null, scope text not null,
    description text default 'none', active boolean not null default true, unique (name, scope))`;
const role = (name: string): Record<string, unknown> => ({ name, scope: 'global' });
const five = ['platform_admin', 'team_admin', 'developer', 'viewer', 'platform_viewer'].map(role);
const ensure = (rows: unknown, more = '', target = 'roles'): string =>
    `select concat_ws(' ', object, outcome, row_count) as line from ensure.ensure_rows_v1('${target}', '${JSON.stringify(rows)}'${more})`;
const lines = async (session: Session, statement: string): Promise<unknown[]> => (await session.run(statement)).map(({ line }) => line);
const names = async (session: Session): Promise<unknown> => (await session.run("select string_agg(name, ' ' order by id) as names from roles"))[0]?.names;

describe('seeds', () => {
    test('created, then found, then what is new is created beside them; defaults are the table\'s', () => withOwner(async (owner) => {
        await owner.run(table);
        expect(await lines(owner, ensure(five))).toEqual(['public.roles created 5']);
        expect(await lines(owner, ensure(five))).toEqual(['public.roles exists 5']);
        expect(await lines(owner, ensure([...five, role('auditor')]))).toEqual(['public.roles created 1', 'public.roles exists 5']);
        expect(await owner.run("select count(*)::int as n from roles where description = 'none' and active")).toEqual([{ n: 6 }]);
        expect(await lines(owner, ensure([]))).toEqual([]);
    }));

    test('what a row has besides its key is not compared, nor changed', () => withOwner(async (owner) => {
        await owner.run(`${table}; insert into roles (name, scope, active) values ('viewer', 'global', false)`);
        expect(await lines(owner, ensure(five.map((one) => ({ ...one, active: true }))))).toEqual(['public.roles created 4', 'public.roles exists 1']);
        expect(await owner.run("select active from roles where name = 'viewer'")).toEqual([{ active: false }]);
    }));

    test.for([
        ...isolationLevels.map((isolation) => ({ path: 'direct', isolation })), { path: 'through PgBouncer', isolation: isolationLevels[0] },
    ])('16 replicas, $path, $isolation: each row once, counted once', ({ path, isolation }, context) => withTestDatabase((database) =>
        withSessions(database.url, ['dba'], async ({ dba }) => {
            await dba.run(table);
            const report = await stampede({
                owner: database.url, url: path === 'direct' ? database.url : pooled(context, database), callers: 16, rounds: 3, isolation,
                transaction: false, // each with its own order
                steps: (caller, round) => [ensure([...five, role(`r${round}`)].sort((a, b) => (String(a.name) < String(b.name) ? 1 : -1) * (caller % 2 ? 1 : -1)))],
            });
            expect(Object.keys(report.codes).filter((code) => code !== 'ok' && !(code === '40001' && isolation !== 'read committed'))).toEqual([]);
            const made = report.outcomes.flatMap(({ rows }) => rows).map(({ line }) => /created (\d+)/.exec(String(line))?.[1] ?? '0');
            expect(made.reduce((sum, n) => sum + Number(n), 0)).toBe(8);
            expect(await dba.run('select count(*)::int as n from roles')).toEqual([{ n: 8 }]);
        })));
});

describe('two callers with the same rows in another order', () => {
    /** b has the first row by key and waits with the second until a comes; a tries all. */
    const meet = (body: (sessions: Record<'a' | 'b', Session>) => Promise<void>, guard?: string): Promise<void> =>
        withTestDatabase(({ url }) => withSessions(url, ['dba', 'a', 'b'], async ({ dba, a, b }) => {
            await dba.run(table);
            if (guard) await withoutGuard(dba, '_insert_rows_v1', guard, "order by \"~place\", %s %s', target,");
            await body({ a, b });
        }));
    const rows = [role('c'), role('b'), role('a')];
    const steps = (until: (b: Session) => Promise<void>) => async ({ a, b }: Record<'a' | 'b', Session>): Promise<string[]> => {
        await b.run('begin');
        await until(b);
        const first = a.start(ensure(rows));
        await first.blockedBy(b);
        const second = b.start(ensure([role('a'), role('b'), role('c')]));
        const codes = [(await second.outcome()).code];
        await b.run(codes[0] === 'ok' ? 'commit' : 'rollback');
        return [...codes, (await first.outcome()).code].sort();
    };
    const holdsFirst = async (b: Session): Promise<void> => void await b.run(ensure([role('a')]));

    test('insert in the same order: one waits for the other, and both end', () => meet(async (sessions) => {
        expect(await steps(holdsFirst)(sessions)).toEqual(['ok', 'ok']);
        expect(await names(sessions.a)).toContain('a');
    }));

    test('negative control: in the order in which they are given they deadlock', () => meet(async (sessions) => {
        expect(await steps(holdsFirst)(sessions)).toEqual(['40P01', 'ok']);
    }, "order by %s %s', target,"));
});

test('a row that comes between look and insert is counted as there', () => withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
    await a.run(table);
    await a.run('begin');
    await a.run(ensure([role('viewer')]));
    const second = b.start(ensure(five));
    await second.blockedBy(a);
    await a.run('commit');
    expect((await second.outcome()).rows.map(({ line }) => line)).toEqual(['public.roles created 4', 'public.roles exists 1']);
})));

describe('refused, with one coded error, and no row is there', () => {
    test.each<[string, string, string, RegExp]>([
        ['a table without a unique key but its id', ensure([{ v: 1 }], '', 'log'), '42P10', /log_pkey on \(id\)/],
        ['a null in the key', ensure([role('a'), { name: null, scope: 'x' }]), '42P10', /Given: /],
        ['two rows with one key', ensure([role('a'), role('b'), { scope: 'global', name: 'a' }]), '22023', /"a".*"a"/],
        ['two rows with one key, which is there', ensure([role('old'), role('old')]), '22023', /"old".*"old"/],
        ['other columns', ensure([role('a'), { name: 'b' }]), '22023', /\(name, scope\) and \(name\)/],
        ['no array', ensure(role('a')), '22023', /^$/],
        ['no object', ensure([role('a'), 5]), '22023', /^$/],
        ['rows null', "select ensure.ensure_rows_v1('roles', null)", '22004', /^$/],
        ['no such column', ensure([{ ...role('a'), x: 1 }]), '42703', /^$/],
        ['a column that the table gives', ensure([{ ...role('a'), id: 1 }]), '428C9', /identity/],
        ['key that is none', ensure([role('a')], ", '{name}'"), '42P10', /roles_name_scope_key on \(name, scope\)/],
        ['keys of two rows', ensure([role('a'), { a: 1, b: 2 }].slice(1), '', 'two'), 'NS014', /two_a_key.*two_b_key/],
        ['another key is taken', ensure([{ a: 3, b: 2 }], ", '{a}'", 'two'), 'NS014', /two_b_key has/],
        ['a trigger keeps it out', ensure([{ k: 1 }], '', 'shut'), 'NS012', /"k": 1/],
    ])('%s', (_what, statement, code, detail) => withOwner(async (owner) => {
        await owner.run(`${table}; insert into roles (name, scope) values ('old', 'global');
            create table log (id int generated always as identity primary key, v int);
            create table two (a int unique, b int unique); insert into two values (1, 1), (2, 2);
            create table shut (k int unique); create function no() returns trigger language plpgsql as $$ begin return null; end $$;
            create trigger no before insert on shut for each row execute function no()`);
        const error = expectError(await owner.attempt(statement), code);
        expect(error.detail ?? '').toMatch(detail);
        expect(error.hint).toBeTruthy();
        expect(await names(owner)).toBe('old');
    }));
});

test('an expression as key: rows that are equal there are one', () => withOwner(async (owner) => {
    await owner.run('create table t (email text not null); create unique index on t (lower(email))');
    expect(await lines(owner, ensure([{ email: 'A@x' }, { email: 'b@x' }], '', 't'))).toEqual(['public.t created 2']);
    expect(await lines(owner, ensure([{ email: 'a@X' }, { email: 'c@x' }], '', 't'))).toEqual(['public.t created 1', 'public.t exists 1']);
    expectError(await owner.attempt(ensure([{ email: 'd@X' }, { email: 'D@x' }], '', 't')), '22023');
}));
