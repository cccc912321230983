import { describe, expect, test } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import { settle, withSessions } from '../../scripts/harness/sessions.js';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { missing, pooled, surroundings, withTestDatabase } from '../context.js';

/** A check, then an act: right for one caller, wrong for two at once. */
const planted = 'insert into t select coalesce(max(k), 0) + 1 from t';
const unique = 'create table t (k int primary key)';

describe('sessions', () => {
    test('blockedBy resolves when the server says who waits for whom', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(unique);
            await a.run('begin; lock table t');
            const step = b.start('select * from t');
            await step.blockedBy(a);
            await a.run('commit');
            expect(await step.outcome()).toMatchObject({ code: 'ok', rows: [] });
        })));

    test('negative control: a step that does not wait, or waits for another, is an error that tells what happened', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(unique);
            await expect(b.start('select * from t').blockedBy(a)).rejects.toThrow('ended first: ok');
            await c.run('begin; lock table t');
            const step = b.start('select * from t');
            await expect(step.blockedBy(a, 300)).rejects.toThrow('b does not wait for a');
            await c.run('commit');
            await step.outcome();
        })));

    test('an outcome carries the SQLSTATE and never rejects; run throws', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a'], async ({ a }) => {
            expect((await a.attempt('select 1/0')).code).toBe('22012');
            await expect(a.run('select 1/0')).rejects.toMatchObject({ code: '22012' });
        })));

    test('a planted race is caught by steps, every time', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(unique);
            await a.run('begin');
            await a.run(planted);
            const second = b.start(planted);
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).code).toBe('23505');
        })));
});

describe('stampede', () => {
    test('callers are in flight at once: a planted race fails; negative control: alone, or locked, it does not', () =>
        withTestDatabase(async ({ url }) => {
            await withSessions(url, ['dba'], ({ dba }) => dba.run(unique));
            const run = (callers: number, steps: string[]) => stampede({
                owner: url, callers, rounds: 10, isolation: 'read committed', transaction: true, steps: () => steps,
            });
            expect((await run(8, [planted])).codes['23505']).toBeGreaterThan(0);
            expect((await run(1, [planted])).codes).toEqual({ ok: 10 });
            expect((await run(8, ['lock table t', planted])).codes).toEqual({ ok: 80 });
        }));

    test.each(isolationLevels)('%s: transactions have it, and above READ COMMITTED a snapshot older than all the work', (isolation) =>
        withTestDatabase(async ({ url }) => {
            await withSessions(url, ['dba'], ({ dba }) => dba.run('create table t (k int)'));
            const { outcomes } = await stampede({
                owner: url, callers: 8, rounds: 3, isolation, transaction: true,
                steps: (_caller, round) => [
                    `insert into t values (${round})`,
                    `select count(*)::int as seen, current_setting('transaction_isolation') as isolation from t where k = ${round}`,
                ],
            });
            const rows = outcomes.flatMap((outcome) => outcome.rows);
            expect(new Set(rows.map((row) => row.isolation))).toEqual(new Set([isolation]));
            if (isolation !== 'read committed') expect(rows.every(({ seen }) => seen === 1)).toBe(true);
        }));

    test.for(['direct', 'through PgBouncer'])('%s: as many backends as there should be', async (path, context) => {
        await withTestDatabase(async (database) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            const { outcomes } = await stampede({
                owner: database.url, url, callers: 16, rounds: 3, isolation: 'serializable', transaction: false,
                steps: () => ["select pg_backend_pid() as pid, current_setting('transaction_isolation') as isolation"],
            });
            const pids = new Set(outcomes.map(({ rows }) => rows[0]?.pid));
            expect(pids.size).toBeGreaterThan(0);
            expect(pids.size).toBeLessThanOrEqual(path === 'direct' ? 16 : 2);
            if (path === 'direct') expect(pids.size).toBe(16);
            expect(outcomes.every(({ rows }) => rows[0]?.isolation === 'serializable')).toBe(true);
        });
    });
});

describe('faults', () => {
    test('cancel ends the statement, terminate the connection; a session that has gone cannot be hit', () =>
        withTestDatabase(({ url, admin }) => withFaults(admin, (faults) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(unique);
            await a.run('begin; lock table t');
            const first = b.start('select * from t');
            await first.blockedBy(a);
            await faults.cancel(b);
            expect((await first.outcome()).code).toBe('57014');
            const second = b.start('select * from t');
            await second.blockedBy(a);
            await faults.terminate(b);
            expect((await second.outcome()).code).toMatch(/57P01|CONNECTION_CLOSED/);
            for (let gone = false, end = Date.now() + 60_000; !gone && Date.now() < end;) { // it takes the server a moment
                const rows = await a.run(`select from pg_stat_activity where pid = ${b.pid}`);
                gone = rows.length === 0;
                await a.run('select pg_stat_clear_snapshot()');
            }
            await expect(faults.terminate(b)).rejects.toThrow('no backend');
        }))));
});

describe('databases', () => {
    test('each test has its own, migrated, owned by a role that is no superuser where one could be made', () =>
        withTestDatabase((one) => withTestDatabase((two) => withSessions(one.url, ['a'], ({ a }) => withSessions(two.url, ['b'], async ({ b }) => {
            await a.run(unique);
            expect((await b.attempt('select * from t')).code).toBe('42P01');
            const [row] = await b.run(`select to_regproc('ensure.ensure_partitions_v1') is not null as migrated, r.rolsuper
                                       from pg_roles as r where r.rolname = current_user`);
            expect(row).toEqual({ migrated: true, rolsuper: false });
        })))));

    test('is dropped at the end, whoever is still connected', async () => {
        const name = await withTestDatabase(async (database) => {
            await withSessions(database.admin, ['a'], async () => {});
            return database.name;
        });
        await withSessions(surroundings.server.admin, ['a'], async ({ a }) => {
            expect(await a.run(`select from pg_database where datname = '${name}'`)).toEqual([]);
        });
    });
});

test('what is missing skips a test by name, and fails where CI is set', (context) => {
    const before = process.env.CI;
    const skipped: string[] = [];
    const fake = { ...context, skip: (reason: string) => skipped.push(reason) } as unknown as typeof context;
    try {
        process.env.CI = '';
        missing(fake, 'no such thing');
        expect(skipped).toEqual(['no such thing']);
        process.env.CI = 'true';
        expect(() => missing(fake, 'no such thing')).toThrow('no such thing');
    } finally {
        if (before === undefined) delete process.env.CI;
        else process.env.CI = before;
    }
});

test('settle keeps the rows of the last of several statements', () =>
    withTestDatabase(({ url }) => withSessions(url, ['a'], async ({ a }) => {
        expect((await settle(a.sql.unsafe('select 1 as one; select 2 as two').simple())).rows).toEqual([{ two: 2 }]);
    })));
