import { describe, expect, test, type TestContext } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import { withSessions, type Outcome, type Session, type Step } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { until } from '../until.js';
import { created, deduped, deleted, ensure, exists, family, indexes, keys, locksOf, move, remove, retire, table, withTable } from './tables.js';

type Sessions = Record<'a' | 'b' | 'c' | 'dba', Session>;
const withFamily = (body: (sessions: Sessions) => Promise<void>, setup = family): Promise<void> => withTable(['a', 'b', 'c'], setup, body);

const full = [{ n: 10, keys: 5, ids: 55 }];
const children = 'select count(*)::int as n, count(distinct t_id)::int as parents, count(t.id)::int as found from c left join t on t.id = t_id';
const moved = { object: 'public.c', outcome: 'moved', row_count: 10 };

describe('two callers', () => {
    test.each([
        ['deletes', remove, deleted],
        ['moves children and deletes', move, [moved, ...deleted]],
        ['soft-deletes', retire.replace("predicate => 'active', ", "predicate => 'active', index_name => 't_k_key', "),
            [{ object: 'public.t', outcome: 'updated', row_count: 5 }]],
    ])('of which one %s: the second waits for the first, then returns exists, keeps no lock, and its duplicate is refused', (_what, rest, changed) =>
        withFamily(async ({ a, b, dba }) => {
            await dba.run(_what === 'deletes' ? 'drop table c' : '');
            const call = ensure(_what === 'soft-deletes' ? `${rest}, children => 'move'` : rest);
            await a.run('begin');
            const first = await a.run(call);
            expect(first).toEqual(expect.arrayContaining(created(changed)));
            await b.run('begin');
            const second = b.start(call);
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).toEqual(exists);
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            expect((await b.attempt('insert into t values (11, 1, false, true)')).code).toBe('23505');
        }));

    test('when the first rolls back, the second does the work', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(move));
            const second = b.start(ensure(move));
            await second.blockedBy(a);
            await a.run('rollback');
            expect((await second.outcome()).rows).toEqual(created([moved, ...deleted]));
            expect(await dba.run(keys)).toEqual(deduped);
            expect(await dba.run(children)).toEqual([{ n: 20, parents: 5, found: 20 }]);
        }));

    test('a winner that never commits: 55P03 within max_wait names its pid, application, state and query; nothing is left behind', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(move));
            await b.run('begin');
            const began = Date.now();
            const error = expectError(await b.attempt(ensure(`${move}, max_wait => '1200 ms'`)), '55P03');
            expect(Date.now() - began).toBeGreaterThanOrEqual(1190);
            for (const word of [`pid ${a.pid}`, "application 'pg-ensure test a'", 'idle in transaction', 'query', 'ensure_unique_v1']) {
                expect(error.detail).toContain(word);
            }
            expect(error.hint).toContain('max_wait');
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await a.run('commit');
        }));

    test('for two keys of one table: the second waits, then makes its own', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(move));
            const second = b.start(ensure('', 't', 'k,id'));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).toMatchObject([{ outcome: 'created' }]);
            expect(await dba.run(indexes())).toEqual([{ n: 2 }]);
        }));

    test('for two tables whose indexes get the same name by themselves: both succeed, neither gets 23505', () =>
        withFamily(async ({ a, b, dba }) => {
            await dba.run('create table a_b (c int not null); create table a (b_c int not null)');
            await a.run('begin');
            expect(await a.run(ensure('', 'a_b', 'c'))).toMatchObject([{ object: 'public.a_b_c_key' }]);
            const second = b.start(ensure('', 'a', 'b_c')); // some releases wait for the name, later ones find another
            await a.run('commit');
            expect((await second.outcome()).rows).toMatchObject([{ object: 'public.a_b_c_key1', outcome: 'created' }]);
        }));

    test('for two tables that ask for the same name: the second waits, then NS007', () =>
        withFamily(async ({ a, b, dba }) => {
            await dba.run('create table o (x int)');
            await a.run('begin');
            await a.run(ensure(`${move}, index_name => 'same'`));
            const second = b.start(ensure(", index_name => 'same'", 'o', 'x'));
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), 'NS007');
        }));

    test('negative control: without the retry it is 23505', () =>
        withFamily(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_unique_v1', 'v_clashes > 10', 'true');
            await withoutGuard(dba, '_lock_all_v1', "'50ms'", "'10s'");
            await dba.run('create table o (x int)');
            await a.run('begin');
            await a.run(ensure(`${move}, index_name => 'same'`));
            const second = b.start(ensure(", index_name => 'same'", 'o', 'x'));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).code).toMatch(/23505|42P07/);
        }));

    test('negative control: without the locks a second caller does not find what the first makes, and fails', () =>
        withFamily(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_unique_v1', 'v_try := ensure._lock_attempt_v1(v_try);');
            await withoutGuard(dba, '_create_unique_v1', 'if v_found is null then', "if v_found is null then perform set_config('lock_timeout', '10s', true);");
            await a.run('begin');
            await a.run(ensure(move));
            const second = b.start(ensure(move));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).code).not.toBe('ok');
        }));

    test('negative control: without the second look it keeps its locks, or makes a second index', () =>
        withFamily(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_unique_v1', 'if v_found is not null then', 'if false then');
            await withoutGuard(dba, '_create_unique_v1', 'if v_found is null then', 'if true then');
            await a.run('begin');
            await a.run(ensure(move));
            await b.run('begin');
            const second = b.start(ensure(move));
            await second.blockedBy(a);
            await a.run('commit');
            await second.outcome();
            const [row] = await dba.run(locksOf(b.pid));
            expect(row?.n).toBeGreaterThan(0);
        }));

    test.each(['cancel', 'terminate'] as const)('the first is hit by %s while two wait: one of them does the work, nothing of the first is left', (fault) =>
        withTable(['a', 'b', 'c'], family, ({ a, b, c, dba }, { admin }) => withFaults(admin, async (faults) => {
            await dba.run('create table r (x int); insert into r values (1)');
            await dba.run('begin; update r set x = 2');
            await a.run('begin');
            await a.run(ensure(move));
            const stuck = a.start('update r set x = 3');
            await stuck.blockedBy(dba);
            const waiting = [b, c].map((session) => session.start(ensure(move)));
            await waiting[0]?.blockedBy(a);
            await faults[fault](a);
            expect((await stuck.outcome()).code).toMatch(fault === 'cancel' ? /57014/ : /57P01|CONNECTION_CLOSED/);
            await a.attempt('rollback');
            const last = await Promise.all(waiting.map(async (call) => (await call.outcome()).rows.at(-1)?.outcome));
            expect(last.sort()).toEqual(['created', 'exists']);
            await dba.run('rollback');
            expect(await dba.run(keys)).toEqual(deduped);
            expect(await dba.run(children)).toEqual([{ n: 20, parents: 5, found: 20 }]);
        })));
});

describe('nobody slips in between the rows and the index', () => {
    /** The call stands between the rows and the index until dba lets it go: an event trigger waits for it. */
    const withPause = (context: TestContext, body: (sessions: Sessions & { su: Session }) => Promise<void>, setup = family): Promise<void> => {
        if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and can make no event trigger');
        return withTestDatabase(({ url, admin }) => withSessions(admin, ['su'], ({ su }) => withSessions(url, ['a', 'b', 'c', 'dba'], async (sessions) => {
            await sessions.dba.run(setup);
            await su.run(`create function public.halt() returns event_trigger language plpgsql as $$ begin
                              set local lock_timeout = 0; perform pg_advisory_xact_lock(42); set local lock_timeout = '50ms'; end $$;
                          create event trigger halt on ddl_command_start when tag in ('CREATE INDEX') execute function public.halt();
                          select pg_advisory_lock(42)`);
            await body({ ...sessions, su });
        })));
    };

    test.for([
        { what: 'inserts a duplicate', write: 'insert into t values (11, 4)' },
        { what: 'updates a row to one', write: 'update t set k = 0 where id = 9' },
        { what: 'inserts through COPY-like bulk', write: 'insert into t select i, 4 from generate_series(11, 12) as i' },
    ])('a writer that $what while the call works waits, then gets 23505', ({ write }, context) =>
        withPause(context, async ({ a, b, dba, su }) => {
            const call = a.start(ensure(move));
            await call.blockedBy(su);
            const writer = b.start(write);
            await writer.blockedBy(a);
            await su.run('select pg_advisory_unlock(42)');
            expect((await call.outcome()).rows).toEqual(created([moved, ...deleted]));
            expect((await writer.outcome()).code).toBe('23505');
            expect(await dba.run(keys)).toEqual(deduped);
        }));

    test('negative control: without the lock the writer is not kept out, and the call cannot make the index', (context) =>
        withPause(context, async ({ a, b, dba, su }) => {
            await withoutGuard(dba, '_create_unique_v1', 'v_try := ensure._lock_attempt_v1(v_try);');
            const call = a.start(ensure(move));
            await call.blockedBy(su);
            expect((await b.attempt('insert into t values (11, 4)')).code).toBe('ok');
            await su.run('select pg_advisory_unlock(42)');
            expect((await call.outcome()).code).toBe('NS009');
        }));

    test('who locks a row while the call works waits', (context) =>
        withPause(context, async ({ a, b, su }) => {
            const call = a.start(ensure(move));
            await call.blockedBy(su);
            const locker = b.start('select id from t where k = 0 order by id for update');
            await locker.blockedBy(a);
            await su.run('select pg_advisory_unlock(42)');
            expect((await call.outcome()).code).toBe('ok');
            expect((await locker.outcome()).rows).toEqual([{ id: 1 }]);
        }));

    test.for([
        { what: 'inserts a child of a loser', write: 'insert into c values (99, 2)' },
        { what: 'moves a child to a loser', write: 'update c set t_id = 2 where id = 10' },
    ])('who $what while losers are merged waits, then gets 23503; no child is lost', ({ write }, context) =>
        withPause(context, async ({ a, b, dba, su }) => {
            const call = a.start(ensure(move));
            await call.blockedBy(su);
            const writer = b.start(write);
            await writer.blockedBy(a);
            await su.run('select pg_advisory_unlock(42)');
            expect((await call.outcome()).rows).toEqual(created([moved, ...deleted]));
            expect((await writer.outcome()).code).toBe('23503');
            expect(await dba.run(children)).toEqual([{ n: 20, parents: 5, found: 20 }]);
        }));

    const soft = `${retire}, children => 'move'`;
    const ofLosers = 'select count(*)::int as n from c join t on t.id = t_id where not active';

    test('a child of a loser that is inserted and not yet committed: the call waits for it and moves it too', () =>
        withFamily(async ({ a, b, dba }) => {
            await b.run('begin; insert into c values (99, 2)');
            const call = a.start(ensure(soft));
            await call.blockedBy(b);
            await b.run('commit');
            expect((await call.outcome()).rows[0]).toEqual({ ...moved, row_count: 11 });
            expect(await dba.run(ofLosers)).toEqual([{ n: 0 }]);
        }));

    test('negative control: without the locks on the child and on rows, it stays with the loser', () =>
        withFamily(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_unique_locks_v1', "where rows_change and children <> 'leave'", 'where false');
            await withoutGuard(dba, '_unique_locks_v1', "when rows_change then 'exclusive'", "when false then ''");
            await b.run('begin; insert into c values (99, 2)');
            await a.run(ensure(soft));
            await b.run('commit');
            expect(await dba.run(ofLosers)).toEqual([{ n: 1 }]);
        }));

    /** A table begins to refer to it while the call waits: what it does, and how often it has locked that one. */
    const late = async ({ a, b, dba }: Sessions): Promise<{ rows: unknown; locked: unknown }> => {
        await b.run('begin; insert into t values (99, 99)'); // so that it waits when it has listed the tables
        await a.run('begin');
        const call = a.start(ensure(`${move}, max_block => '10 s'`));
        await call.blockedBy(b);
        await b.run('create table late (t_id int references t on delete cascade); insert into late values (2); commit');
        const { rows } = await call.outcome();
        const [row] = await dba.run(`select count(*)::int as n from pg_locks where pid = ${a.pid} and relation = 'late'::regclass and mode = 'ExclusiveLock' and granted`);
        await a.run('commit');
        return { rows, locked: row?.n };
    };

    test('a table that begins to refer to it while the call waits is locked and moved as well', () =>
        withFamily(async (sessions) => {
            const { rows, locked } = await late(sessions);
            expect(rows).toEqual(created([moved, { object: 'public.late', outcome: 'moved', row_count: 1 }, ...deleted]));
            expect(locked).toBe(1);
            expect(await sessions.dba.run('select t_id from late')).toEqual([{ t_id: 1 }]);
        }));

    test('negative control: without a second look at the tables its rows are changed with no lock on it', () =>
        withFamily(async (sessions) => {
            await withoutGuard(sessions.dba, '_lock_attempt_v1', 'where l.relation <> all (attempt.relations)', 'where false');
            expect(await late(sessions)).toMatchObject({ locked: 0 });
        }));
});

/** The same where whoever waits looks for deadlocks after 20 ms; only a superuser may set that. */
async function withHaste(context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> {
    if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and cannot set deadlock_timeout');
    await withTestDatabase(async ({ url, admin, name }) => {
        await withSessions(admin, ['su'], ({ su }) => su.run(`alter database ${name} set deadlock_timeout = '20ms'`));
        await withSessions(url, ['dba'], ({ dba }) => dba.run(`${family}; create table r (x int); insert into r values (1)`));
        await withSessions(admin, ['a', 'b', 'c', 'dba'], body);
    });
}

const deadlocks = 'select pg_stat_clear_snapshot(), deadlocks::int as n from pg_stat_database where datname = current_database()';

describe('who has written', () => {
    /** Both have written to the table itself, and call at the same time. */
    const both = async ({ a, b, dba }: Sessions): Promise<{ codes: string[]; deadlocks: number }> => {
        for (const [session, id] of [[a, 11], [b, 12]] as const) await session.run(`begin; insert into t values (${id}, ${id})`);
        const calls = [a, b].map((session) => session.start(ensure(`${move}, max_block => '400 ms', max_wait => '1 s'`)));
        const ended = await Promise.all(calls.map((call) => call.outcome()));
        await a.run('rollback');
        await b.run('rollback');
        if (major === 14) await dba.run('select pg_sleep(0.6)'); // its statistics are a process and a file away
        const [row] = await dba.run(deadlocks);
        return { codes: ended.map(({ code }) => code), deadlocks: Number(row?.n) };
    };

    test('against another that has: NS003 within max_block, never 40P01 though deadlock_timeout is 20 ms; the next call works', (context) =>
        withHaste(context, async (sessions) => {
            const { codes, deadlocks: found } = await both(sessions);
            expect(found).toBe(0);
            expect(codes).toContain('NS003');
            expect(codes.filter((code) => code !== 'NS003' && code !== 'ok')).toEqual([]); // the error of one frees the other
            expect((await sessions.a.attempt(ensure(move))).rows).toEqual(created([moved, ...deleted]));
        }));

    test('negative control: if they wait like others, the server finds deadlocks', (context) =>
        withHaste(context, async (sessions) => {
            await withoutGuard(sessions.dba, '_attempts_v1', 'ensure._has_written_v1()', 'false');
            const { codes, deadlocks: found } = await both(sessions);
            expect(codes).not.toContain('NS003');
            expect(found).toBeGreaterThan(0);
        }));

    test('NS003 says to call before the first write and names who is in the way', () =>
        withFamily(async ({ a, b }) => {
            await a.run('begin; insert into t values (11, 11)');
            await b.run('begin; insert into c values (99, 1)');
            const error = expectError(await b.attempt(ensure(`${move}, max_block => '200 ms'`)), 'NS003');
            expect(error.detail).toContain(`pid ${a.pid}`);
            expect(error.hint).toContain('before the first write');
        }));

    test('and meets nobody: it gets in', () =>
        withFamily(async ({ b, dba }) => {
            await b.run('begin; insert into t values (11, 11); insert into c values (99, 2)');
            expect((await b.run(ensure(move))).at(-1)).toMatchObject({ outcome: 'created' });
            await b.run('insert into t values (12, 12); commit');
            expect(await dba.run(keys)).toEqual([{ n: 7, keys: 7, ids: 48 }]);
        }));

    /** A has written a row and calls; b holds the table, and will need that row. */
    const withWriters = (context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> =>
        withHaste(context, async (sessions) => {
            await sessions.a.run("set deadlock_timeout = '60s'"); // so that it is b who looks
            await sessions.a.run('begin; update r set x = 2');
            await sessions.b.run('begin; insert into t values (11, 11)');
            await body(sessions);
        });

    test('one of them calls, the other waits for its row: the caller gets NS003, the writer never 40P01', (context) =>
        withWriters(context, async ({ a, b }) => {
            const call = a.start(ensure(`${move}, max_block => '500 ms'`));
            const waiting = b.start('update r set x = 3');
            await waiting.blockedBy(a);
            expect(expectError(await call.outcome(), 'NS003').detail).toContain(`pid ${b.pid}`);
            await a.run('rollback');
            expect((await waiting.outcome()).code).toBe('ok');
            await b.run('commit');
        }));

    test('negative control: if the caller waits, the writer gets 40P01', (context) =>
        withWriters(context, async ({ a, b, dba }) => {
            await withoutGuard(dba, '_attempts_v1', 'ensure._has_written_v1()', 'false');
            const call = a.start(ensure(`${move}, max_block => '10 s'`));
            await call.blockedBy(b);
            expect((await b.attempt('update r set x = 3')).code).toBe('40P01');
            await b.run('rollback');
            expect((await call.outcome()).code).toBe('ok');
        }));
});

describe('who has locked rows', () => {
    test.each([
        ['with FOR UPDATE', 'select from t where id = 2 for update'],
        ['with FOR SHARE', 'select from t where id = 2 for share'],
        ['of a child', 'select from c where t_id = 2 for update'],
    ])('a loser %s: the call waits, in the end 55P03 names who; when it lets go, the call does its work', (_what, lock) =>
        withFamily(async ({ a, b, dba }) => {
            await a.run(`begin; ${lock}`);
            const error = expectError(await b.attempt(ensure(`${move}, max_wait => '700 ms', max_block => '200 ms'`)), '55P03');
            expect(error.detail).toContain(`pid ${a.pid}`);
            const call = b.start(ensure(`${move}, max_wait => '15 s', max_block => '5 s'`));
            await call.blockedBy(a);
            await a.run('commit');
            expect((await call.outcome()).rows).toEqual(created([moved, ...deleted]));
            expect(await dba.run(keys)).toEqual(deduped);
        }));

    /** a has locked a loser and will update it; b, which calls, has the table by then or is waiting for it. */
    const lockThenWrite = async ({ a, b }: Sessions): Promise<Outcome[]> => {
        await a.run('begin; select from t where id = 2 for update');
        const call = b.start(ensure(`${move}, max_wait => '15 s', max_block => '2 s'`));
        await call.blockedBy(a);
        const update = await a.attempt('update t set busy = true where id = 2');
        await a.attempt('commit');
        return [update, await call.outcome()];
    };

    test('and writes them while the call waits: no deadlock, though deadlock_timeout is 20 ms, and both succeed', (context) =>
        withHaste(context, async (sessions) => {
            expect((await lockThenWrite(sessions)).map(({ code }) => code)).toEqual(['ok', 'ok']);
        }));

    test('negative control: a call that does not lock out who locks rows meets them holding the table: 40P01 for one', (context) =>
        withHaste(context, async (sessions) => {
            await withoutGuard(sessions.dba, '_unique_locks_v1', "when rows_change then 'exclusive'", "when false then ''");
            await withoutGuard(sessions.dba, '_lock_all_v1', "'50ms'", "'2s'");
            await sessions.b.run("set deadlock_timeout = '60s'"); // so that it is a who looks
            expect((await lockThenWrite(sessions))[0]?.code).toBe('40P01');
        }));
});

describe('where one writes to the table and another to a child, so that never both are free', () => {
    /** The call has come to wait for a, who writes to t; what becomes of an insert into c then. */
    const alternately = async ({ a, b, c, dba }: Sessions, check: (insert: Step, caller: Session) => Promise<void>): Promise<void> => {
        await dba.run("set deadlock_timeout = '30s'");
        await a.run('begin; insert into t values (11, 11)');
        await b.run('begin; insert into c values (1, 1)');
        const call = dba.start(ensure(`${move}, max_wait => '1 min', max_block => '15 s'`));
        await call.blockedBy(a);
        await a.run('commit');
        await call.blockedBy(b); // which it found busy, and waits for holding nothing
        await a.run('begin; insert into t values (12, 12)');
        await b.run('commit');
        await call.blockedBy(a);
        const insert = c.start('insert into c values (2, 1)');
        await check(insert, dba);
        await a.run('commit');
        expect((await call.outcome()).rows).toEqual(created([moved, ...deleted]));
        expect((await insert.outcome()).code).toBe('ok');
    };

    test('the call waits for the one while it holds the other, and gets through', (context) =>
        withHaste(context, (sessions) => alternately(sessions, (insert, caller) => insert.blockedBy(caller))));

    test('negative control: with NOWAIT for all but the first it holds nothing, and would begin again for ever', (context) =>
        withHaste(context, async (sessions) => {
            await withoutGuard(sessions.dba, '_lock_attempt_v1', 'attempt.tries > 1', 'false');
            await alternately(sessions, async (insert) => {
                expect((await insert.outcome()).code).toBe('ok');
            });
        }));
});

describe('what others do to the table meanwhile', () => {
    test.for([
        { what: 'the table', on: 't (busy)' }, { what: 'a child', on: 'c (id)' },
    ])('a concurrent index build on $what is NS006 at once, also for who has written; the build is not harmed', ({ on }) =>
        withFamily(async ({ a, b, c, dba }) => {
            await a.run(`begin; ${on.startsWith('t') ? 'insert into t values (11, 11)' : 'insert into c values (99, 1)'}`);
            const build = c.start(`create index concurrently late on ${on}`);
            await build.blockedBy(a);
            const began = Date.now();
            expect(expectError(await b.attempt(ensure(move)), 'NS006').detail).toContain(`pid ${c.pid}`);
            await dba.run('create table r (x int)');
            await b.run('begin; insert into r values (1)');
            expectError(await b.attempt(ensure(move)), 'NS006');
            await b.run('rollback');
            expect(Date.now() - began).toBeLessThan(9000);
            await a.run('commit');
            expect((await build.outcome()).code).toBe('ok');
            expect((await b.run(ensure(move))).at(-1)).toMatchObject({ outcome: 'created' });
        }));

    test('a concurrent build of the very index: NS006, and when it ends it is found', () =>
        withFamily(async ({ a, b, c }) => {
            await a.run(`${ensure(move)}; drop index t_k_key`);
            await a.run('begin; insert into t values (11, 11)');
            const build = c.start(`create unique index concurrently t_k_key on t (k)`);
            await build.blockedBy(a);
            expectError(await b.attempt(ensure(move)), 'NS006');
            await a.run('commit');
            expect((await build.outcome()).code).toBe('ok');
            expect(await b.run(ensure())).toEqual(exists);
        }));

    const plainBuild = async ({ a, b }: Sessions): Promise<Outcome> => {
        await a.run("create function slow(int) returns int immutable language sql as 'select $1 + 0 * length(pg_sleep(0.2)::text)'");
        const build = a.start('create index on t (slow(k))');
        await until('the build is at work', async () => (await b.run("select from pg_stat_progress_create_index where relid = 't'::regclass")).length > 0);
        const outcome = await b.attempt(ensure(move));
        expect((await build.outcome()).code).toBe('ok');
        return outcome;
    };

    test('a plain index build of another session is waited for, not NS006', () =>
        withFamily(async (sessions) => {
            expect((await plainBuild(sessions)).rows.at(-1)).toMatchObject({ outcome: 'created' });
        }));

    test('negative control: without the look at its lock, it passes for a concurrent one', () =>
        withFamily(async (sessions) => {
            await withoutGuard(sessions.dba, '_blockers_v1', "l.mode = 'ShareUpdateExclusiveLock'", 'true');
            expect((await plainBuild(sessions)).code).toBe('NS006');
        }));

    test('a prepared transaction in the way is named by its gid', (context) =>
        withFamily(async ({ a, b, dba }) => {
            const [row] = await dba.run("select current_setting('max_prepared_transactions')::int as n");
            if (!row?.n) context.skip('max_prepared_transactions is 0 on this server');
            await a.run("begin; insert into c values (99, 2); prepare transaction 'forgotten'");
            const error = expectError(await b.attempt(ensure(`${move}, max_wait => '300 ms', max_block => '100 ms'`)), '55P03');
            expect(error.detail).toContain("prepared transaction 'forgotten'");
            await a.run("commit prepared 'forgotten'");
            expect((await b.run(ensure(move)))[0]).toEqual({ ...moved, row_count: 11 });
        }));

    test('a shorter statement_timeout is 57014, a shorter lock_timeout is the longest wait for one lock; nothing is left behind', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin; insert into t values (11, 11)');
            await b.run("set lock_timeout = '7s'; set statement_timeout = '300ms'");
            await b.run('begin; savepoint s');
            expect((await b.attempt(ensure(move))).code).toBe('57014');
            await b.run('rollback to savepoint s');
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
            await b.run("rollback; set statement_timeout = 0; set lock_timeout = '100ms'");
            const began = Date.now();
            expectError(await b.attempt(ensure(`${move}, max_wait => '150 ms', max_block => '10 s'`)), '55P03');
            expect(Date.now() - began).toBeLessThan(9000);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '100ms' }]);
            expect(await dba.run(keys)).toEqual(full);
        }));

    test.each([
        ['dropped', 'drop table t cascade'],
        ['dropped and made again', `drop table t cascade; ${table}`],
    ])('a table that is %s while a call waits for it is 42P01', (_what, drop) =>
        withFamily(async ({ a, b }) => {
            await a.run(`begin; ${drop}`);
            const call = b.start(ensure(move));
            await call.blockedBy(a);
            await a.run('commit');
            expectError(await call.outcome(), '42P01');
        }));

    test('a table that is renamed while a call waits for it is found', () =>
        withFamily(async ({ a, b }) => {
            await a.run('begin; alter table t rename to u');
            const call = b.start(ensure(move));
            await call.blockedBy(a);
            await a.run('commit');
            expect((await call.outcome()).rows.at(-1)).toMatchObject({ object: 'public.u_k_key', outcome: 'created' });
        }));

    test('a child that is dropped while a call waits for it is no longer asked for', () =>
        withFamily(async ({ a, b }) => {
            await a.run('begin; drop table c');
            const call = b.start(ensure(move));
            await call.blockedBy(a);
            await a.run('commit');
            expect((await call.outcome()).rows).toEqual(created(deleted));
        }));

    test('a column that is dropped while a call waits is 42703; one that loses NOT NULL gets an index for which nulls are equal', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin; alter table t alter k drop not null; insert into t values (11, null), (12, null)');
            const call = b.start(ensure(move));
            await call.blockedBy(a);
            await a.run('commit');
            expect((await call.outcome()).code).toBe('ok');
            expect((await dba.attempt('insert into t values (13, null)')).code).toBe('23505');
            await a.run('begin; alter table t drop busy');
            const second = b.start(ensure('', 't', 'id,busy'));
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), '42703');
        }));

    test('an index that is dropped while a call looks for it is made again', () =>
        withFamily(async ({ a, b, dba }) => {
            await dba.run(ensure(move));
            await a.run('begin; drop index t_k_key');
            expect(await b.run(ensure(move))).toEqual(exists); // it is there until the commit
            await a.run('commit');
            expect(await b.run(ensure(move))).toEqual(created());
        }));

    test('a GRANT on the table that is open, then committed, does not surface as "tuple concurrently updated"', () =>
        withFamily(async ({ a, b }) => {
            await a.run('begin; grant select on t to public; grant select on c to public');
            const call = b.start(ensure(`${move}, as_constraint => true`));
            await a.run('commit');
            expect((await call.outcome()).rows.at(-1)).toMatchObject({ outcome: 'created' });
        }));
});
