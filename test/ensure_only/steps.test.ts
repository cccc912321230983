import { describe, expect, test, type TestContext } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import { withSessions, type Outcome, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withTable, locksOf } from '../ensure_unique/tables.js';
import { ensure, index, lines, one, schema } from './workspaces.js';

type Sessions = Record<'a' | 'b' | 'c' | 'dba', Session>;
const old = "insert into workspaces (id, name, kind) values ('00000000-0000-0000-0000-000000000001', 'Old', 'platform')";
const rival = "insert into workspaces (name, kind) values ('Rival', 'platform')";
const setup = `${schema}; ${old}; insert into tokens select 1, id, 'one' from workspaces`;
const move = ", children => 'move'";

const withRoot = (body: (sessions: Sessions) => Promise<void>, more = ''): Promise<void> =>
    withTable(['a', 'b', 'c'], `${setup}${more ? `; ${more}` : ''}`, body);

const platforms = "select string_agg(name, ', ' order by name) as names from workspaces where kind = 'platform'";
const done = ['public.workspaces created 1', 'public.workspaces demoted 1', 'public.tokens moved 1'];
const exists = ['public.workspaces exists'];

describe('two callers', () => {
    test('the second waits for the first, then returns exists with the same row, and keeps no lock', () =>
        withRoot(async ({ a, b, dba }) => {
            await a.run('begin');
            const first = await a.run(ensure(move));
            expect(lines(first)).toEqual(done);
            await b.run('begin');
            const second = b.start(ensure(move));
            await second.blockedBy(a);
            await a.run('commit');
            const { rows } = await second.outcome();
            expect(lines(rows)).toEqual(exists);
            expect(rows[0]?.data).toEqual(first[0]?.data);
            expect(await dba.run(`${locksOf(b.pid)} and mode <> 'AccessShareLock'`)).toEqual([{ n: 0 }]);
        }, index));

    test('negative control: without the second look it keeps its locks', () =>
        withRoot(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_make_only_v1', "if c_fulfils and c_losers = '{}' then", 'if false then');
            await a.run('begin');
            await a.run(ensure(move));
            await b.run('begin');
            const second = b.start(ensure(move));
            await second.blockedBy(a);
            await a.run('commit');
            await second.outcome();
            expect((await one(dba, `${locksOf(b.pid)} and mode = 'ExclusiveLock'`)).n).toBeGreaterThan(0);
        }));

    test('when the first rolls back, the second does the work', () =>
        withRoot(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(move));
            const second = b.start(ensure(move));
            await second.blockedBy(a);
            await a.run('rollback');
            expect(lines((await second.outcome()).rows)).toEqual(done);
            expect(await dba.run(platforms)).toEqual([{ names: 'Platform' }]);
        }, index));

    test('who name different rows: the second waits, then has its own be the only one', () =>
        withRoot(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(move));
            const second = b.start(ensure(move).replace('"Platform"', '"Other"'));
            await second.blockedBy(a);
            await a.run('commit');
            expect(lines((await second.outcome()).rows)).toEqual(done);
            expect(await dba.run(platforms)).toEqual([{ names: 'Other' }]);
        }, index));

    test('a winner that never commits: 55P03 within max_wait names its pid and application; nothing is left behind', () =>
        withRoot(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(move));
            await b.run('begin');
            const error = expectError(await b.attempt(ensure(`${move}, max_wait => '1200 ms'`)), '55P03');
            for (const word of [`pid ${a.pid}`, "application 'pg-ensure test a'", 'idle in transaction']) expect(error.detail).toContain(word);
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
        }));

    test.each(['cancel', 'terminate'] as const)('the first is hit by %s while two wait: one of them does the work', (fault) =>
        withTable(['a', 'b', 'c'], `${setup}; create table r (x int); insert into r values (1)`,
            ({ a, b, c, dba }, { admin }) => withFaults(admin, async (faults) => {
                await dba.run('begin; update r set x = 2');
                await a.run('begin');
                await a.run(ensure(move));
                const stuck = a.start('update r set x = 3');
                await stuck.blockedBy(dba);
                const waiting = [b, c].map((session) => session.start(ensure(`${move}, max_wait => '60 s'`)));
                await waiting[0]?.blockedBy(a);
                await faults[fault](a);
                expect((await stuck.outcome()).code).toMatch(fault === 'cancel' ? /57014/ : /57P01|CONNECTION_CLOSED/);
                await a.attempt('rollback');
                const first = await Promise.all(waiting.map(async (call) => (await call.outcome()).rows[0]?.outcome));
                expect(first.sort()).toEqual(['created', 'exists']);
                await dba.run('rollback');
                expect(await dba.run(platforms)).toEqual([{ names: 'Platform' }]);
            })));
});

describe('a rival that is created mid-way', () => {
    const late = async ({ a, b }: Sessions): Promise<Outcome> => {
        await b.run(`begin; ${rival}`);
        const call = a.start(ensure());
        await call.blockedBy(b);
        await b.run('commit');
        return call.outcome();
    };

    test('inserted and not yet committed: the call waits for it, and demotes it too', () =>
        withRoot(async (sessions) => {
            expect(lines((await late(sessions)).rows)).toEqual(['public.workspaces created 1', 'public.workspaces demoted 2']);
            expect(await sessions.dba.run(platforms)).toEqual([{ names: 'Platform' }]);
        }));

    test.each(['row exclusive', 'row share'])('negative control: with %s on the table, which lets rows alone be locked, it escapes', (mode) =>
        withRoot(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_only_locks_v1', "'exclusive'", `'${mode}'`);
            await b.run(`begin; ${rival}`);
            expect(lines(await a.run(ensure()))).toEqual(['public.workspaces created 1', 'public.workspaces demoted 1']);
            await b.run('commit');
            expect(await dba.run(platforms)).toEqual([{ names: 'Platform, Rival' }]);
        }));

    test.each([
        ['and the unique index refuses it', index, '23505'],
        ['and without an index the next call sees it', '', 'ok'],
    ])('while the call is at work: it waits, %s', (_what, more, code) =>
        withRoot(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure());
            const writer = b.start(rival);
            await writer.blockedBy(a);
            await a.run('commit');
            expect((await writer.outcome()).code).toBe(code);
            expect(lines(await a.run(ensure()))).toEqual(code === 'ok' ? ['public.workspaces exists', 'public.workspaces demoted 1'] : exists);
            expect(await dba.run(platforms)).toEqual([{ names: 'Platform' }]);
        }, more));

    test.each([
        ['updates a row to be one', "update workspaces set kind = 'platform' where name = 'Old'"],
        ['locks a row', "select from workspaces where name = 'Old' for update"],
        ['inserts a token of one that is demoted', "insert into tokens select 2, id, 'two' from workspaces where name = 'Old'"],
    ])('who %s while the call is at work waits', (_what, statement) =>
        withRoot(async ({ a, b }) => {
            await a.run('begin');
            await a.run(ensure());
            const other = b.start(statement);
            await other.blockedBy(a);
            await a.run('commit');
            expect((await other.outcome()).code).toBe('ok');
        }));

    test('who reads goes on', () =>
        withRoot(async ({ a, b }) => {
            await a.run('begin');
            await a.run(ensure(move));
            await b.run("set lock_timeout = '50ms'");
            expect(await b.run(platforms)).toEqual([{ names: 'Old' }]);
        }));
});

describe('what refers to the rows that are demoted', () => {
    const token = "insert into tokens select 2, id, 'two' from workspaces where name = 'Old'";
    const ofOld = "select count(*)::int as n from tokens as t join workspaces as w on w.id = t.workspace_id where w.name = 'Old'";

    test('a token that is not yet committed: the call waits for it and moves it too', () =>
        withRoot(async ({ a, b, dba }) => {
            await b.run(`begin; ${token}`);
            const call = a.start(ensure(move));
            await call.blockedBy(b);
            await b.run('commit');
            expect(lines((await call.outcome()).rows)).toContain('public.tokens moved 2');
            expect(await dba.run(ofOld)).toEqual([{ n: 0 }]);
        }));

    test('negative control: with no lock that keeps out who refers to rows, it stays with the one that is demoted', () =>
        withRoot(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_only_locks_v1', "'exclusive'", "'row exclusive'");
            await b.run(`begin; ${token}`);
            await a.run(ensure(move));
            await b.run('commit');
            expect(await dba.run(ofOld)).toEqual([{ n: 1 }]);
        }));

    /** A table begins to refer to it while the call waits: what the call does, and how often it has locked that table. */
    const late = async ({ a, b, dba }: Sessions): Promise<{ done: string[]; locked: unknown }> => {
        await b.run("begin; insert into workspaces (name) values ('Other')"); // so that it waits when it has listed the tables
        await a.run('begin');
        const call = a.start(ensure(`${move}, max_block => '10 s'`));
        await call.blockedBy(b);
        await b.run("create table late (w uuid references workspaces); insert into late select id from workspaces where name = 'Old'; commit");
        const { rows } = await call.outcome();
        const { n } = await one(dba, `${locksOf(a.pid)} and relation = 'late'::regclass and mode = 'ExclusiveLock'`);
        await a.run('commit');
        return { done: lines(rows), locked: n };
    };

    test('a table that begins to refer to it while the call waits is locked and moved as well', () =>
        withRoot(async (sessions) => {
            const { done: changed, locked } = await late(sessions);
            expect(changed).toContain('public.late moved 1');
            expect(locked).toBe(1);
            expect(await sessions.dba.run('select name from late join workspaces on id = w')).toEqual([{ name: 'Platform' }]);
        }));

    test('negative control: without a second look at the tables its rows are changed with no lock on it', () =>
        withRoot(async (sessions) => {
            await withoutGuard(sessions.dba, '_settle_only_v1', 'where l.relation <> all (v_relations)', 'where false');
            expect(await late(sessions)).toMatchObject({ locked: 0 });
        }));
});

describe('who changes the tables themselves while a call waits', () => {
    const held = ({ b }: Sessions, name: string, mode: string): string => `select count(*)::int as n from pg_locks
        where pid = ${b.pid} and relation = '${name}'::regclass and granted and mode = '${mode}'`;
    const changes: [string, string, string, string[]][] = [
        ['adds a column', 'alter table workspaces add x int', 'ok', done],
        ['renames it, and another takes its name', 'alter table workspaces rename to w; create table workspaces (like w including all)', 'ok',
            done.map((line) => line.replace('workspaces', 'w'))],
        ['drops it', 'drop table workspaces cascade', '42P01', []],
        ['drops the index that says which row it is', 'drop index workspaces_parent_name', '42P10', []],
        ['drops a column that among reads', 'alter table workspaces drop kind', '42703', []],
    ];

    test.each(changes)('who has written to it %s: no deadlock, and the call works on what is there then', (_what, statement, code, changed) =>
        withRoot(async ({ a, b }) => {
            await a.run("begin; insert into workspaces (name) values ('Other')");
            const call = b.start(ensure(move));
            await call.blockedBy(a);
            await a.run(`${statement}; commit`);
            const outcome = await call.outcome();
            if (code === 'ok') expect(lines(outcome.rows), outcome.error?.message).toEqual(changed);
            else expect(expectError(outcome, code).hint).not.toBe('');
        }));

    test.each(['dropped', 'renamed'])('%s by who has it in ACCESS EXCLUSIVE while the call looks: 42P01, or the call goes on with it', (what) =>
        withRoot(async ({ a, b }) => {
            await a.run('begin; lock table workspaces in access exclusive mode');
            const call = b.start(ensure(move).replace("among => $$kind = 'platform'$$", "among => 'true'")
                .replace("kind = 'workspace', parent_id = keeper.id", 'kind = null'));
            await call.blockedBy(a);
            await a.run(`${what === 'dropped' ? 'drop table workspaces cascade' : 'alter table workspaces rename to w'}; commit`);
            const outcome = await call.outcome();
            if (what === 'dropped') expect(expectError(outcome, '42P01').hint).not.toBe('');
            else expectError(outcome, 'NS010'); // of w: a kind is null
        }));

    test('while it waits it has no lock on the table; negative control: were what it looked at kept, it has', () =>
        withRoot(async (sessions) => {
            const { a, b, dba } = sessions;
            await a.run("begin; insert into workspaces (name) values ('Other')");
            const call = b.start(ensure());
            await call.blockedBy(a);
            expect(await dba.run(held(sessions, 'workspaces', 'AccessShareLock'))).toEqual([{ n: 0 }]);
            await a.run('rollback');
            await call.outcome();
            await withoutGuard(dba, 'ensure_only_v1', "raise exception using errcode = 'NS100';", 'null;');
            await a.run(`begin; ${rival}`);
            const again = b.start(ensure().replace('"Platform"', '"Other"'));
            await again.blockedBy(a);
            expect(await dba.run(held(sessions, 'workspaces', 'AccessShareLock'))).toEqual([{ n: 1 }]);
            await a.run('rollback');
            await again.outcome();
        }));

    /** The child it waits for is renamed, and another table takes the name: is the child locked? */
    const swapped = async (sessions: Sessions): Promise<unknown> => {
        const { a, b, dba } = sessions;
        await a.run('begin; select from tokens for share'); // ROW SHARE, so that it waits for EXCLUSIVE at once
        await b.run('begin');
        const call = b.start(ensure(`${move}, max_block => '10 s'`));
        await call.blockedBy(a);
        await a.run('alter table tokens rename to old_tokens; create table tokens (id int); commit');
        expect(lines((await call.outcome()).rows)).toContain('public.old_tokens moved 1');
        const { n } = await one(dba, held(sessions, 'old_tokens', 'ExclusiveLock'));
        await b.run('commit');
        return n;
    };

    test('a table that refers to it is renamed, and another takes its name: the one that refers to it is locked', () =>
        withRoot(async (sessions) => {
            expect(await swapped(sessions)).toBe(1);
        }));

    test('negative control: were names not compared, the other one would be locked instead', () =>
        withRoot(async (sessions) => {
            await withoutGuard(sessions.dba, '_settle_only_v1', 'v_relations::text[] <> v_names', 'false');
            expect(await swapped(sessions)).toBe(0);
        }));

    test.for([
        { what: 'the table', on: 'workspaces (status)' }, { what: 'a child', on: 'tokens (token)' },
    ])('a concurrent index build on $what is NS006 at once, also for who has written; the build is not harmed', ({ on }) =>
        withRoot(async ({ a, b, c, dba }) => {
            await a.run(`begin; ${on.startsWith('w') ? rival : "insert into tokens select 2, id, 'two' from workspaces"}`);
            const build = c.start(`create index concurrently late on ${on}`);
            await build.blockedBy(a);
            expect(expectError(await b.attempt(ensure(`${move}, max_wait => '60 s'`)), 'NS006').detail).toContain(`pid ${c.pid}`);
            await dba.run('create table s (x int)');
            await b.run('begin; insert into s values (1)');
            expectError(await b.attempt(ensure(move)), 'NS006');
            await b.run('rollback');
            await a.run('rollback');
            expect((await build.outcome()).code).toBe('ok');
            expect(lines(await b.run(ensure(move)))).toEqual(done);
        }));
});

/** The same where whoever waits looks for deadlocks after 20 ms; only a superuser may set that. */
async function withHaste(context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> {
    if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and cannot set deadlock_timeout');
    await withTestDatabase(async ({ url, admin, name }) => {
        await withSessions(admin, ['su'], ({ su }) => su.run(`alter database ${name} set deadlock_timeout = '20ms'`));
        await withSessions(url, ['dba'], ({ dba }) => dba.run(`${setup}; create table r (x int); insert into r values (1)`));
        await withSessions(admin, ['a', 'b', 'c', 'dba'], body);
    });
}

describe('who has written', () => {
    const withWriters = (context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> =>
        withHaste(context, async (sessions) => {
            await sessions.a.run("set deadlock_timeout = '60s'"); // so that it is b who looks
            await sessions.a.run('begin; update r set x = 2');
            await sessions.b.run(`begin; ${rival}`);
            await body(sessions);
        });

    test('calls, while another waits for its row: NS003 within max_block names who, the writer never gets 40P01', (context) =>
        withWriters(context, async ({ a, b }) => {
            const call = a.start(ensure());
            const waiting = b.start('update r set x = 3');
            await waiting.blockedBy(a);
            const error = expectError(await call.outcome(), 'NS003');
            expect(error.detail).toContain(`pid ${b.pid}`);
            expect(error.hint).toContain('before the first write');
            await a.run('rollback');
            expect((await waiting.outcome()).code).toBe('ok');
            await b.run('commit');
        }));

    test('negative control: if the caller waits, the writer gets 40P01', (context) =>
        withWriters(context, async ({ a, b, dba }) => {
            await withoutGuard(dba, '_settle_only_v1', 'ensure._has_written_v1()', 'false');
            const call = a.start(ensure(", max_block => '10 s'"));
            await call.blockedBy(b);
            expect((await b.attempt('update r set x = 3')).code).toBe('40P01');
            await b.run('rollback');
            expect((await call.outcome()).code).toBe('ok');
        }));

    /** b, whose row of r a has, has locked the table itself. */
    const withLocker = (context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> =>
        withHaste(context, async (sessions) => {
            await sessions.a.run("set deadlock_timeout = '60s'");
            await sessions.a.run('begin; update r set x = 2');
            await sessions.b.run('begin; lock table workspaces in exclusive mode');
            await body(sessions);
        });

    test('calls, while who has locked the table waits for its row: NS003, and no 40P01 for either', (context) =>
        withLocker(context, async ({ a, b }) => {
            const call = a.start(ensure());
            const waiting = b.start('update r set x = 3');
            await waiting.blockedBy(a);
            expectError(await call.outcome(), 'NS003');
            await a.run('rollback');
            expect((await waiting.outcome()).code).toBe('ok');
        }));

    test('negative control: if demote were read first, that waits for the table, and the other gets 40P01', (context) =>
        withLocker(context, async ({ a, b, dba }) => {
            await withoutGuard(dba, '_only_guards_v1', 'if ensure._has_written_v1() then', 'if false then');
            const call = a.start(ensure(", max_block => '10 s'"));
            await call.blockedBy(b);
            expect((await b.attempt('update r set x = 3')).code).toBe('40P01');
            await b.run('rollback');
            expect((await call.outcome()).code).toBe('ok');
        }));

    test('and meets nobody: it gets in, and sees what it wrote', () =>
        withRoot(async ({ a, dba }) => {
            await a.run(`begin; ${rival}`);
            expect(lines(await a.run(ensure()))).toEqual(['public.workspaces created 1', 'public.workspaces demoted 2']);
            await a.run('commit');
            expect(await dba.run(platforms)).toEqual([{ names: 'Platform' }]);
        }));
});

describe('slow writers', () => {
    const names = ['w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6', 'w7'] as const;
    const mixes: Record<string, (n: number, writer: number) => string[]> = {
        'on the table, then on a child': (n) => [`insert into workspaces (name) values ('w ${n}')`,
            `insert into tokens select ${n}, id, '${n}' from workspaces where name = 'Old'`],
        'half on the table, half on a child': (n, writer) => (writer % 2 ? [`insert into workspaces (name) values ('w ${n}')`]
            : [`insert into tokens select ${n}, id, '${n}' from workspaces where name = 'Old'`]),
        'that lock rows first': (n) => ["select from workspaces where name = 'Old' for share",
            `insert into workspaces (name) values ('w ${n}')`],
    };

    test.each(Object.keys(mixes))('%s: eight with transactions of 200 ms: the call gets through within max_wait, no writer fails', (what) =>
        withTestDatabase(({ url }) => withSessions(url, [...names, 'dba'], async ({ dba, ...writers }) => {
            await dba.run(setup);
            let busy = true;
            const codes = new Set<string>();
            const writing = Object.values(writers).map(async (session, writer) => {
                for (let n = 1000 + writer; busy; n += names.length) {
                    await session.run('begin');
                    const statements = mixes[what]?.(n, writer) ?? [];
                    for (const statement of statements) {
                        codes.add((await session.attempt(statement)).code);
                        await session.attempt(`select pg_sleep(${0.2 / statements.length})`);
                    }
                    codes.add((await session.attempt('commit')).code);
                }
            });
            try {
                const began = performance.now();
                expect(lines((await dba.attempt(ensure(`${move}, max_wait => '15 s'`))).rows).slice(0, 2)).toEqual(done.slice(0, 2));
                if (process.env.PG_ENSURE_FIGURES) console.error(`${major}: only, ${what}: ${Math.round(performance.now() - began)} ms`);
            } finally {
                busy = false;
                await Promise.all(writing);
            }
            expect([...codes]).toEqual(['ok']);
        })));
});
