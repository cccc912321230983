import { describe, expect, test, type TestContext } from 'vitest';
import { majorOf, temporaryServer } from '../../scripts/embedded.js';
import { withSessions, type Outcome, type Session, type Step } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { install } from '../../scripts/install.js';
import { expectError, major, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { until } from '../until.js';
import { autovacuumAtWork, autovacuumServer, slowVacuum } from './autovacuum.js';
import { band, ensureTree, insertBlob, insertMeta, realCase, setDeadlockTimeout, type Row } from './tree.js';

type Sessions = Record<'a' | 'b' | 'c' | 'dba', Session>;

/** A row of an originator in the band of this number. */
const at = (originator: number, inBand = 0, n = 5): Row => ({ originator, seq: inBand * band + n });
const ensure = (row: Row | Row[], rest = '', parents?: string[]): string => ensureTree('app', [row].flat(), rest, parents);
const insert = (row: Row | Row[]): string => `${insertMeta('app', [row].flat())}; ${insertBlob('app', [row].flat())}`;
const outcomes = ({ rows, error }: Outcome): unknown[] => {
    if (error) throw error;
    return rows.map(({ outcome }) => outcome);
};
const all = (outcome: string, count = 4): string[] => Array.from({ length: count }, () => outcome);

const partitions = "select count(*)::int as n from pg_class where relispartition and relkind in ('r', 'p') and relnamespace = 'app'::regnamespace";
const tables = "select count(*)::int as n from pg_class where relkind in ('r', 'p') and relnamespace = 'app'::regnamespace";
const rows = 'select count(*)::int as n from app.meta join app.blob using (originator, seq)';
const locksOf = (pid: number): string => `
    select count(*)::int as n from pg_locks where pid = ${pid} and (locktype = 'advisory' or relation >= 16384 and mode not in ('AccessShareLock', 'SIReadLock'))`;
const deadlocks = 'select pg_stat_clear_snapshot(), deadlocks::int as n from pg_stat_database where datname = current_database()';

async function withReal(body: (sessions: Sessions) => Promise<void>, begin: Row[] = [at(1)]): Promise<void> {
    await withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c', 'dba'], async (sessions) => {
        await sessions.dba.run(realCase('app'));
        await sessions.dba.run(ensure(begin));
        await body(sessions);
    }));
}

/** The same with another deadlock_timeout; only a superuser may set that. */
async function withDeadlockTimeout(context: TestContext, timeout: string, body: (sessions: Sessions) => Promise<void>): Promise<void> {
    await withTestDatabase(async (database) => {
        await setDeadlockTimeout(context, database, timeout);
        await withSessions(database.url, ['dba'], ({ dba }) => dba.run(`${realCase('app')}; ${ensure(at(1))}`));
        await withSessions(database.admin, ['a', 'b', 'c', 'dba'], body);
    });
}

/** Whoever waits looks for deadlocks after 20 ms. */
const withHaste = (context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> => withDeadlockTimeout(context, '20ms', body);

describe.each(isolationLevels)('%s', (isolation) => {
    const begin = `begin isolation level ${isolation}`;

    test('a second caller waits for the first, returns exists for all four partitions and may insert, though its snapshot is older', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run(begin);
            expect(outcomes(await a.attempt(ensure(at(42, 1))))).toEqual(all('created'));
            const second = b.start(ensure(at(42, 1)));
            await second.blockedBy(a);
            await a.run('commit');
            expect(outcomes(await second.outcome())).toEqual(all('exists'));
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await b.run(insert(at(42, 1)));
            await b.run('commit');
            expect(await dba.run(rows)).toEqual([{ n: 1 }]);
        }));

    test('when the first rolls back, the second creates', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run(begin);
            await a.run(ensure(at(42, 1)));
            const second = b.start(ensure(at(42, 1)));
            await second.blockedBy(a);
            await a.run('rollback');
            expect(outcomes(await second.outcome())).toEqual(all('created'));
            await b.run(insert(at(42, 1)));
            await b.run('commit');
            expect(await dba.run(partitions)).toEqual([{ n: 8 }]);
        }));

    test('an originator that another caller made meanwhile: the new band is attached below it', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run(begin);
            await a.run(ensure(at(42, 0)));
            const second = b.start(ensure(at(42, 1)));
            await second.blockedBy(a);
            await a.run('commit');
            expect(outcomes(await second.outcome())).toEqual(['exists', 'created', 'exists', 'created']);
            await b.run(insert(at(42, 1)));
            await b.run('commit');
            expect(await dba.run("select inhparent::regclass::text as parent, count(*)::int as n from pg_inherits where inhparent::regclass::text ~ '_42$' group by 1 order by 1"))
                .toEqual([{ parent: 'app.blob_42', n: 2 }, { parent: 'app.meta_42', n: 2 }]);
        }));

    test('two bands and two originators asked for by two callers, in part the same: everything once', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run(begin);
            await a.run(ensure([at(42), at(43, 1)]));
            const second = b.start(ensure([at(44), at(43, 1), at(43, 2)]));
            await second.blockedBy(a);
            await a.run('commit');
            expect(outcomes(await second.outcome()).sort()).toEqual([...all('created', 6), ...all('exists', 4)]);
            await b.run(insert([at(42), at(43, 1), at(43, 2), at(44)]));
            await b.run('commit');
            expect(await dba.run(rows)).toEqual([{ n: 4 }]);
        }));

    test('partitions made by hand under other names since the snapshot are found and used', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run(`create table app.odd partition of app.meta for values in (42, 43) partition by range (seq);
                         create table app.odder partition of app.odd for values from (0) to (5000000)`);
            expect(await b.run(ensure(at(42, 1)))).toEqual([
                { partition: 'app.odd', lower_bound: '42', outcome: 'exists' },
                { partition: 'app.odder', lower_bound: '0', outcome: 'exists' },
                { partition: 'app.blob_42', lower_bound: '42', outcome: 'created' },
                { partition: 'app.blob_42_0000001000000', lower_bound: '1000000', outcome: 'created' },
            ]);
            await b.run(insert(at(42, 1)));
            await b.run('commit');
            expect(await dba.run(rows)).toEqual([{ n: 1 }]);
        }));

    test('an originator made by hand as a plain table is NS001, also since the snapshot; nothing is created in the other table', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run('create table app.meta_42 partition of app.meta for values in (42)');
            const error = expectError(await b.attempt(ensure(at(42, 1))), 'NS001');
            expect(error.message).toContain('meta_42');
            await b.run('rollback');
            expect(await dba.run(partitions)).toEqual([{ n: 5 }]);
        }));

    test('a batch is atomic: one path that overlaps what is there is NS001, nothing of the others is created', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from app.payers`);
            await a.run(`create table app.meta_2 partition of app.meta for values in (2) partition by range (seq);
                         create table app.half partition of app.meta_2 for values from (500000) to (1500000)`);
            expectError(await b.attempt(ensure([at(42), at(2), at(43)])), 'NS001');
            await b.run('rollback');
            expect(await dba.run(partitions)).toEqual([{ n: 6 }]);
            expect(await dba.run(tables)).toEqual([{ n: 10 }]);
        }));

    test('a caller whose failed batch was rolled back to a savepoint waits like one that has written nothing', () =>
        withReal(async ({ a, b, dba }) => {
            await b.run(`${begin}; select from app.payers; savepoint s`);
            expect((await b.attempt(insertMeta('app', [at(1), at(42)]))).code).toBe('23514');
            await b.run('rollback to savepoint s');
            expect(await b.run('select pg_current_xact_id_if_assigned() is not null as id, ensure._has_written_v1() as written'))
                .toEqual([{ id: true, written: false }]);
            await a.run('begin');
            await a.run(ensure(at(9)));
            const second = b.start(ensure(at(42)));
            await second.blockedBy(a);
            await a.run('commit');
            expect(outcomes(await second.outcome())).toEqual(all('created'));
            await b.run(insert([at(1), at(42)]));
            await b.run('commit');
            expect(await dba.run(rows)).toEqual([{ n: 2 }]);
        }));
});

test('negative control: a caller that looks at its old snapshot again and again does not see the originator to attach to', () =>
    withReal(async ({ a, b, dba }) => {
        await withoutGuard(dba, '_create_partitions_v1', /v_look := case when c_flat then v_look[^;]*;/);
        await b.run('begin isolation level repeatable read; select 1 from app.payers');
        await a.run(ensure(at(42)));
        expect((await b.attempt(ensure(at(42, 1), ", max_wait => '1 s'"))).code).toBe('55P03');
    }));

describe('who has written', () => {
    test('a caller that only called nextval() waits', () =>
        withReal(async ({ a, b, dba }) => {
            await dba.run('create sequence app.seq');
            await a.run('begin');
            await a.run(ensure(at(9)));
            await b.run("begin; select nextval('app.seq')");
            expect(await b.run('select pg_current_xact_id_if_assigned() is not null as id, ensure._has_written_v1() as written'))
                .toEqual([{ id: true, written: false }]);
            const second = b.start(ensure(at(42)));
            await second.blockedBy(a);
            await a.run('commit');
            expect(outcomes(await second.outcome())).toEqual(all('created'));
        }));

    test.each([
        ['inserted a row', insert(at(1))],
        ['deleted a row', 'delete from app.meta where originator = 1 and seq = 99'],
        ['locked a row with SELECT FOR UPDATE', 'select from app.meta where originator = 1 and seq = 99 for update'],
        ['locked a row with SELECT FOR KEY SHARE', 'select from app.payers for key share'],
        ['updated no row', 'update app.meta set expiry = 1 where originator = 1 and seq = -1'],
        ['locked a table', 'lock table app.other in share mode'],
        ['kept a savepoint in which it wrote', `savepoint s; ${insert(at(1))}; release savepoint s`],
    ])('a caller that %s does not wait: NS003, with the advice to ensure first', (_what, statement) =>
        withReal(async ({ a, b, dba }) => {
            await dba.run(`create table app.other (x int); ${insert(at(1, 0, 99))}`);
            await b.run('begin');
            await b.run(statement);
            await a.run('begin');
            await a.run(insert(at(1, 0, 7)));
            const began = Date.now();
            const error = expectError(await b.attempt(ensure(at(42), ", max_block => '200 ms', max_wait => '60 s'")), 'NS003');
            expect(Date.now() - began).toBeLessThan(30_000);
            expect(error.detail).toContain(`pid ${a.pid}`);
            expect(error.hint).toContain('before the first write');
            await b.run('rollback');
            await a.run('commit');
        }));
});

describe('two that have already written', () => {
    /** Both hold what goes with writing meta, and need a new originator at the same time. */
    const both = async ({ a, b }: Sessions, waits: string, write = insert): Promise<string[]> => {
        await a.run(`begin; ${write(at(1, 0, 1))}`);
        await b.run(`begin; ${write(at(1, 0, 2))}`);
        const calls = [a, b].map((session, n) => session.start(ensure(at(42 + n), waits)));
        const ended = await Promise.all(calls.map((call) => call.outcome()));
        for (const session of [a, b]) {
            await session.run('rollback');
            if (major > 14) await session.run('select pg_stat_force_next_flush()');
        }
        return ended.map(({ code }) => code);
    };
    const deadlocksFound = async ({ dba }: Sessions): Promise<number> => Number((await dba.run(deadlocks))[0]?.n);

    test.for([
        { what: 'inserted a row', write: insert },
        { what: 'updated no row', write: ({ seq }: Row) => `update app.meta set expiry = 1 where seq = ${-seq}` },
    ])('and $what: the first to give up gets NS003 within max_block, though deadlock_timeout is 20 ms: no deadlock, and the next call works', ({ write }, context) =>
        withHaste(context, async (sessions) => {
            const began = Date.now();
            const codes = await both(sessions, ", max_block => '400 ms', max_wait => '60 s'", (row) => write([row].flat()[0] ?? at(1)));
            if (major === 14) await sessions.dba.run('select pg_sleep(0.6)'); // its statistics are a process and a file away
            expect(await deadlocksFound(sessions)).toBe(0);
            expect(codes).toContain('NS003');
            expect(codes.filter((code) => code !== 'NS003' && code !== 'ok')).toEqual([]); // the error of one frees the other
            expect(Date.now() - began).toBeLessThan(30_000); // of 60 s that they may wait
            expect(outcomes(await sessions.a.attempt(ensure(at(42))))).toEqual(all('created'));
        }));

    test('negative control: if they wait like others, the server finds deadlocks', (context) =>
        withHaste(context, async (sessions) => {
            await withoutGuard(sessions.dba, '_create_partitions_v1', 'ensure._has_written_v1()', 'false');
            expect(await both(sessions, ", max_block => '2 s', max_wait => '4 s'")).not.toContain('NS003');
            await until('a deadlock was found', async () => await deadlocksFound(sessions) > 0);
        }));

    /** a has a row in meta and needs an originator; b has one, too, and will need that of a. */
    const withWriters = (context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> =>
        withHaste(context, async (sessions) => {
            const { a, b, dba } = sessions;
            await dba.run(insert([at(1, 0, 1), at(1, 0, 2)]));
            await a.run("set deadlock_timeout = '60s'"); // so that it is b who looks
            await a.run('begin; update app.meta set expiry = 1 where originator = 1 and seq = 1');
            await b.run('begin; update app.meta set expiry = 1 where originator = 1 and seq = 2');
            await body(sessions);
        });
    const wants = 'update app.meta set expiry = 2 where originator = 1 and seq = 1';

    test('one of them calls, the other waits for its row: the caller gets NS003, the writer never 40P01', (context) =>
        withWriters(context, async ({ a, b }) => {
            const call = a.start(ensure(at(42), ", max_block => '500 ms'"));
            const waiting = b.start(wants);
            await waiting.blockedBy(a);
            const error = expectError(await call.outcome(), 'NS003');
            expect(error.detail).toContain(`pid ${b.pid}`);
            await a.run('rollback');
            expect((await waiting.outcome()).code).toBe('ok');
            await b.run('commit');
        }));

    test('negative control: if the caller waits, the writer gets 40P01', (context) =>
        withWriters(context, async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_partitions_v1', 'ensure._has_written_v1()', 'false');
            const call = a.start(ensure(at(42), ", max_block => '10 s'"));
            await call.blockedBy(b);
            expect((await b.attempt(wants)).code).toBe('40P01');
            await b.run('rollback');
            expect(outcomes(await call.outcome())).toEqual(all('created'));
        }));
});

test('parents in opposite order: the second waits for the first, both succeed', (context) =>
    withHaste(context, async ({ a, b, dba }) => {
        await a.run('begin');
        expect(outcomes(await a.attempt(ensure(at(42), '', ['meta', 'blob'])))).toEqual(all('created'));
        const second = b.start(ensure(at(43), '', ['blob', 'meta']));
        await second.blockedBy(a);
        const third = dba.start(ensure(at(42), '', ['blob', 'meta']));
        await third.blockedBy(a);
        await a.run('commit');
        expect(outcomes(await second.outcome())).toEqual(all('created'));
        expect(outcomes(await third.outcome())).toEqual(all('exists'));
    }));

describe('polite and live', () => {
    test.each([20, 100, 200])('eight writers with transactions of %s ms: a new originator within max_wait, no writer fails', (length) =>
        withTestDatabase(({ url }) => withSessions(url, ['w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6', 'w7', 'dba'], async ({ dba, ...writers }) => {
            await dba.run(realCase('app'));
            await dba.run(ensure([at(1), at(2), at(1, 1)]));
            let busy = true;
            const codes = new Set<string>();
            const write = async (session: Session, writer: number): Promise<void> => {
                for (let n = writer; busy; n += 8) {
                    await session.run('begin');
                    codes.add((await session.attempt(insert([at(1, 0, n), at(2, 0, n), at(1, 1, n)]))).code);
                    await session.attempt(`select pg_sleep(${length / 1000})`);
                    codes.add((await session.attempt('commit')).code);
                }
            };
            const writing = Object.values(writers).map(write);
            try {
                for (const originator of [42, 43, 44]) {
                    const began = performance.now();
                    expect(outcomes(await dba.attempt(ensure(at(originator))))).toEqual(all('created'));
                    if (process.env.PG_ENSURE_FIGURES) console.error(`${major}: behind writers of ${length} ms: ${Math.round(performance.now() - began)} ms`);
                }
            } finally {
                busy = false;
                await Promise.all(writing);
            }
            expect([...codes]).toEqual(['ok']);
            const [row] = await dba.run(`${rows}`);
            expect(row?.n).toBeGreaterThan(0);
            expect(await dba.run('select count(*)::int as n from app.audit')).toEqual([row]);
        })));

    test.each([
        ['a partition of the referenced table', 'app.meta_1_0000000000000', insertMeta('app', [at(1, 0, 50)]).replace('app.meta', 'app.meta_1_0000000000000')],
        ['a partition of the referenced table, whose writers are in the way too', 'app.meta_1_0000000000000', insertMeta('app', [at(1, 0, 50)])],
        ['the other referenced table', 'app.payers', 'insert into app.payers values (2)'],
    ])('a concurrent index build on %s is NS006 at once; the build is not harmed', (_what, table, write) =>
        withReal(async ({ a, b, c }) => {
            await a.run('begin');
            await a.run(write);
            const build = c.start(`create index concurrently late on ${table} (${table === 'app.payers' ? 'id' : 'expiry'})`);
            await build.blockedBy(a);
            const began = Date.now();
            const error = expectError(await b.attempt(ensure(at(42), ", max_wait => '60 s'")), 'NS006');
            expect(Date.now() - began).toBeLessThan(30_000);
            expect(error.detail).toContain(`pid ${c.pid}`);
            await a.run('commit');
            expect((await build.outcome()).code).toBe('ok');
            expect(outcomes(await b.attempt(ensure(at(42))))).toEqual(all('created'));
        }));

    /** A call waits for a writer, and then a build begins: what the call ends with. */
    const buildBegins = async ({ a, b, c }: Sessions): Promise<Outcome> => {
        await a.run(`begin; ${insertMeta('app', [at(1, 0, 50)])}`);
        const call = b.start(ensure(at(42), ", max_wait => '6 s', max_block => '1 s'"));
        await call.blockedBy(a);
        const build = c.start('create index concurrently late on app.meta_1_0000000000000 (expiry)');
        await build.blockedBy(a);
        const outcome = await call.outcome();
        await a.run('commit');
        expect((await build.outcome()).code).toBe('ok');
        return outcome;
    };

    test('a concurrent index build that begins while a call waits is NS006 at its next attempt', () =>
        withReal(async (sessions) => {
            const error = expectError(await buildBegins(sessions), 'NS006');
            expect(error.detail).toContain(`pid ${sessions.c.pid}`);
        }));

    test('negative control: with the statistics of its first attempt, a call does not notice and waits until max_wait', () =>
        withReal(async (sessions) => {
            await withoutGuard(sessions.dba, '_first_wait_v1', 'perform pg_stat_clear_snapshot();');
            expectError(await buildBegins(sessions), '55P03');
        }));

    test('a winner whose transaction stays open: 55P03 after max_wait names its pid, application, state and query', () =>
        withReal(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(at(42)));
            await b.run('begin');
            const began = Date.now();
            const error = expectError(await b.attempt(ensure(at(42), ", max_wait => '1200 ms'")), '55P03');
            expect(Date.now() - began).toBeGreaterThanOrEqual(1190);
            expect(Date.now() - began).toBeLessThan(8000); // not the default of 10 s
            for (const word of [`pid ${a.pid}`, "application 'pg-ensure test a'", 'idle in transaction', 'query', 'ensure_partition_tree_v1']) {
                expect(error.detail).toContain(word);
            }
            expect(error.hint).toContain('max_wait');
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await a.run('commit');
        }));

    test('a shorter statement_timeout is 57014: no lock, setting or table is left behind, and the next call works', () =>
        withReal(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(ensure(at(9)));
            await b.run("set lock_timeout = '7s'");
            await b.run('begin; savepoint s');
            await b.run("set local statement_timeout = '300ms'");
            expect((await b.attempt(ensure(at(42)))).code).toBe('57014');
            await b.run('rollback to savepoint s');
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
            expect(await dba.run(tables)).toEqual([{ n: 8 }]);
            await a.run('commit');
            expect(outcomes(await b.attempt(ensure(at(42))))).toEqual(all('created'));
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
            await b.run(`${insert(at(42))}; commit`);
        }));

    test.for(['50 ms', '500 ms'])('autovacuum at work on two partitions of the referenced table gives way, max_block %s', async (block, context) => {
        if (!surroundings.embedded) context.skip('needs a server of its own with another autovacuum_naptime; DATABASE_URL is set');
        const server = await autovacuumServer();
        try {
            await install(server.url);
            await withSessions(server.url, ['app', 'dba'], async ({ app, dba }) => {
                await app.run(realCase('app'));
                await app.run(ensure([at(1), at(2)]));
                const leaves = ['app.meta_1_0000000000000', 'app.meta_2_0000000000000'];
                for (const [n, leaf] of leaves.entries()) {
                    await app.run(`alter table ${leaf} set (${slowVacuum});
                                   insert into app.meta select ${n + 1}, s from generate_series(1, 50000) as s;
                                   delete from ${leaf} where seq % 2 = 0`);
                }
                await autovacuumAtWork(app, dba, leaves);
                const began = performance.now();
                expect(outcomes(await dba.attempt(ensure(at(42), `, max_block => '${block}'`)))).toEqual(all('created'));
                if (process.env.PG_ENSURE_FIGURES) console.error(`${major}: behind two autovacuums, max_block ${block}: ${Math.round(performance.now() - began)} ms`);
            });
        } finally {
            await server.stop('immediate');
        }
    });

    /** a and c play autovacuum on a partition each; both give way when they are waited for, and a comes back meanwhile. */
    const comesBack = async ({ a, b, c, dba }: Sessions, maxWait: string): Promise<Step> => {
        await withoutGuard(dba, '_blockers_v1', 'a.pid is not null and a.usesysid is null', "a.application_name in ('pg-ensure test a', 'pg-ensure test c')");
        await dba.run(ensure(at(2)));
        const vacuum = (session: Session, originator: number): Promise<unknown> =>
            session.run(`begin; lock table app.meta_${originator}_0000000000000 in share update exclusive mode`);
        await vacuum(a, 1);
        await vacuum(c, 2);
        const call = b.start(ensure(at(42), `, max_block => '50 ms', max_wait => '${maxWait}'`));
        await call.blockedBy(a);
        await a.run('commit');
        await call.blockedBy(c);
        await vacuum(a, 1);
        await c.run('commit');
        return call;
    };

    test('autovacuum that gave way and has come back is waited for past deadlock_timeout once more', (context) =>
        withDeadlockTimeout(context, '4s', async (sessions) => {
            const call = await comesBack(sessions, '19 s');
            await until('the call waits for it longer than max_block', async () => (await sessions.dba.run(`
                select from pg_locks where pid = ${sessions.b.pid} and not granted and clock_timestamp() - waitstart > '500 ms'
                and relation = 'app.meta_1_0000000000000'::regclass`)).length > 0);
            await sessions.a.run('commit');
            expect(outcomes(await call.outcome())).toEqual(all('created'));
        }));

    test('negative control: where a partition is waited for once, it is not', (context) =>
        withDeadlockTimeout(context, '2s', async (sessions) => {
            await withoutGuard(sessions.dba, '_create_partitions_v1', 'if v_busy = v_relations[1]::text', 'if true');
            const { detail } = expectError(await (await comesBack(sessions, '8 s')).outcome(), '55P03');
            expect(detail).toContain(`pid ${sessions.a.pid}`);
        }));
});

describe('locks', () => {
    /** On what was there before the transaction, beyond what reading takes. */
    const held = `
        select c.relname || ' ' || l.mode as lock from pg_locks as l join pg_class as c on c.oid = l.relation
        where l.pid = pg_backend_pid() and l.relation in (select b.oid from app.before as b)
          and c.relkind in ('r', 'p') and l.mode not in ('AccessShareLock', 'RowShareLock') order by 1`;

    const like = (parent: string, name: string, by = ''): string =>
        `create table app.${name} (like app.${parent} including all excluding indexes) ${by};`;
    const range = 'for values from (1000000) to (2000000);';

    test.each([
        ['a new originator', at(42, 1), ['meta', 'blob'].map((parent) => `
            ${like(parent, `${parent}_x`, 'partition by range (seq)')} ${like(parent, `${parent}_y`)}
            alter table app.${parent}_x attach partition app.${parent}_y ${range}
            alter table app.${parent} attach partition app.${parent}_x for values in (42);`).join('')],
        ['a new band', at(1, 1), ['meta', 'blob'].map((parent) => `
            ${like(parent, `${parent}_y`)} alter table app.${parent}_1 attach partition app.${parent}_y ${range}`).join('')],
    ])('%s takes what ATTACH PARTITION itself takes, no more', (_what, row, attach) =>
        withReal(async ({ a }) => {
            await a.run('create table app.before as select oid from pg_class');
            await a.run(`begin; ${attach}`);
            const wanted = await a.run(held);
            await a.run('rollback; begin');
            await a.run(ensure(row));
            expect(await a.run(held)).toEqual(wanted);
            expect(wanted).not.toEqual([]);
            await a.run('rollback');
        }, [at(1), at(2), at(2, 1)]));

    test('a new originator in one table takes what ATTACH takes there', () =>
        withReal(async ({ a }) => {
            await a.run('create table app.before as select oid from pg_class');
            for (const parent of ['meta', 'blob']) {
                await a.run(`begin; ${like(parent, `${parent}_x`, 'partition by range (seq)')}
                             alter table app.${parent} attach partition app.${parent}_x for values in (42)`);
                const wanted = await a.run(held);
                await a.run('rollback; begin');
                await a.run(ensure(at(42), '', [parent]));
                expect(await a.run(held), parent).toEqual(wanted);
                await a.run('rollback');
            }
        }));

    test('locks grow with the partitions of the referenced table: not more for each of them than ATTACH takes', () =>
        withReal(async ({ a, dba }) => {
            const count = async (statement: string): Promise<number> => {
                await a.run(`begin; ${statement}`);
                const [row] = await a.run("select count(*)::int as n from pg_locks where pid = pg_backend_pid() and relation >= 16384");
                await a.run('rollback');
                return Number(row?.n);
            };
            const attach = ['meta', 'blob'].map((parent) => `
                ${like(parent, `${parent}_x`, 'partition by range (seq)')} ${like(parent, `${parent}_y`)}
                alter table app.${parent}_x attach partition app.${parent}_y ${range}
                alter table app.${parent} attach partition app.${parent}_x for values in (42);`).join('');
            const few = [await count(ensure(at(42, 1))), await count(attach)] as const;
            await dba.run(ensure(Array.from({ length: 20 }, (_, n) => at(100 + n))));
            const many = [await count(ensure(at(42, 1))), await count(attach)] as const;
            if (process.env.PG_ENSURE_FIGURES) {
                console.error(`${major}: relation locks: ${few[0]} with 1 leaf pair, ${(many[0] - few[0]) / 20} for each more; ATTACH ${few[1]}, ${(many[1] - few[1]) / 20}`);
            }
            expect(many[0] - few[0]).toBeLessThanOrEqual(many[1] - few[1]);
        }));

    test('originators until the lock table is full: 53200 or 54000 says which setting to raise to what; raised, it works', async (context) => {
        if (!surroundings.embedded) context.skip('needs a server of its own; DATABASE_URL is set');
        const small = { // little room beside that of max_locks_per_transaction
            max_connections: '10', superuser_reserved_connections: '1', max_wal_senders: '0', max_worker_processes: '1', autovacuum_max_workers: '1',
            ...(major >= 18 ? { autovacuum_worker_slots: '1' } : {}),
        };
        const grow = async (setting: string, until: number): Promise<{ made: number; last: Outcome }> => {
            const server = await temporaryServer(majorOf(process.env.PG), { ...small, max_locks_per_transaction: setting });
            try {
                await install(server.url);
                return await withSessions(server.url, ['dba'], async ({ dba }) => {
                    await dba.run(realCase('app'));
                    for (let made = 0; ; made++) {
                        const last = await dba.attempt(ensure(at(made + 1)));
                        if (last.error || made === until) {
                            expect(await dba.run(partitions)).toEqual([{ n: 4 * (made + (last.error ? 0 : 1)) }]);
                            return { made, last };
                        }
                    }
                });
            } finally {
                await server.stop('immediate');
            }
        };
        const { made, last } = await grow('10', 2000);
        expect(['53200', '54000']).toContain(last.code);
        const { hint } = expectError(last, last.code);
        const wanted = /max_locks_per_transaction to (\d+)/.exec(hint)?.[1] ?? '';
        if (process.env.PG_ENSURE_FIGURES) console.error(`${major}: max_locks_per_transaction 10, little else: ${last.code} at originator ${made + 1}: ${hint}`);
        expect((await grow(wanted, made)).last.code).toBe('ok');
    });
});
