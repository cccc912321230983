import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { at } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { install } from '../../scripts/install.js';
import { expectError, major, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { autovacuumAtWork, autovacuumServer, slowVacuum } from './autovacuum.js';

const ensure = (from: number, rest = ''): string => `select outcome from ensure.ensure_partitions_v1('t', '10', ${from}${rest})`;

/** The situations of docs/locks.md, by the names they have there. */
const situations: Record<string, string> = {
    'plain': 'create table t (k int primary key) partition by range (k)',
    'foreign key to another table': `
        create table other (id int primary key);
        create table t (k int primary key, o int references other) partition by range (k)`,
    'foreign key to a partitioned table': `
        create table other (id int primary key) partition by range (id);
        create table other_p partition of other for values from (0) to (10);
        create table t (k int primary key, o int references other) partition by range (k)`,
    'foreign key from another table': `
        create table t (k int primary key) partition by range (k);
        create table other (o int references t)`,
    'foreign key from a partitioned table': `
        create table t (k int primary key) partition by range (k);
        create table other (o int references t) partition by range (o);
        create table other_p partition of other for values from (0) to (10)`,
    'foreign key to itself': 'create table t (k int primary key, o int references t) partition by range (k)',
    'foreign key to the table above': `
        create table root (k int primary key, o int references root) partition by range (k);
        create table t partition of root for values from (0) to (1000) partition by range (k)`,
    'default partition with partitions': `
        create table t (k int primary key) partition by range (k);
        create table t_default partition of t default partition by range (k);
        create table t_default_p partition of t_default default`,
    'default partition': `
        create table t (k int primary key) partition by range (k);
        create table t_default partition of t default`,
};

/** What the transaction holds on tables that were there before, beyond what reading them takes. */
const held = `
    select l.relation::regclass::text as relation,
           upper(trim(regexp_replace(replace(l.mode, 'Lock', ''), '([A-Z])', ' \\1', 'g'))) as mode
    from pg_locks as l join pg_class as c on c.oid = l.relation
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and c.oid >= 16384 and c.relkind in ('r', 'p')
      and l.relation <> 't_0000000000000'::regclass and l.mode not in ('AccessShareLock', 'RowShareLock')
    order by 1, 2`;

describe('what a creating call holds until commit is what docs/locks.md says', () => {
    const documented = readFileSync(new URL('../../docs/locks.md', import.meta.url), 'utf8').split('\n')
        .filter((line) => line.startsWith('| ')).map((line) => line.split('|').map((cell) => cell.trim().replaceAll('`', '')));

    test.each(Object.keys(situations))('%s', (situation) =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            await owner.run(situations[situation] ?? '');
            await owner.run('begin');
            await owner.run(ensure(5));
            const measured = (await owner.run(held)).map(({ relation, mode }) => `${String(relation)} ${String(mode)}`);
            const expected = documented.filter(([, name]) => name === situation)
                .map(([, , relation, on14, later]) => `${relation} ${major === 14 ? on14 : later}`)
                .filter((line) => !line.endsWith(' none'));
            expect(measured).toEqual(expected.sort());
            expect(expected).not.toEqual([]);
            await owner.run(`rollback; begin; create table t_0000000000000 (like t including all);
                             alter table t attach partition t_0000000000000 for values from (0) to (10)`);
            const attach = (await owner.run(held)).map(({ relation, mode }) => `${String(relation)} ${String(mode)}`);
            expect(measured, 'no more than ATTACH PARTITION itself').toEqual(attach);
        })));
});

describe('a call that finds nothing to do', () => {
    test('takes no lock for a partition that somebody else named either', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k); create table odd partition of t for values from (0) to (100)');
            await a.run('begin; lock table t in access exclusive mode');
            await b.run("begin; set local lock_timeout = '1ms'");
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
            expect(await b.run('select count(*)::int as n from pg_locks where pid = pg_backend_pid() and relation >= 16384')).toEqual([{ n: 0 }]);
        })));

    test.each(isolationLevels)('%s: answers while others hold ACCESS EXCLUSIVE on everything, and takes no lock', (isolation) =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k)');
            await a.run(ensure(5));
            await a.run(`begin; lock table t in access exclusive mode; select pg_advisory_lock(1162760018, 't'::regclass::oid::int)`);
            await b.run(`begin isolation level ${isolation}; set local lock_timeout = '1ms'`);
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
            expect(await b.run(`select count(*)::int as n from pg_locks where pid = pg_backend_pid() and mode <> 'SIReadLock'
                                and (locktype = 'advisory' or relation >= 16384)`)).toEqual([{ n: 0 }]);
            expect(await b.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
            await b.run('commit');
        })));

    test('negative control: read with the relation it belongs to, a bound waits for the lock', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k)');
            await a.run(ensure(5));
            await withoutGuard(a, '_find_partitions_v1', 'pg_get_expr(c.relpartbound, 0)', 'pg_get_expr(c.relpartbound, c.oid)');
            await a.run('begin; lock table t in access exclusive mode');
            await b.run("set lock_timeout = '50ms'");
            expect((await b.attempt(ensure(5))).code).toBe('55P03');
        })));
});

describe('a default partition', () => {
    const parent = 'create table t (k int) partition by range (k); create table rest partition of t default';

    test.each(isolationLevels)('%s: 16 callers for different ranges: all succeed', (isolation) =>
        withTestDatabase(async ({ url }) => {
            await withSessions(url, ['dba'], ({ dba }) => dba.run(parent));
            const report = await stampede({
                owner: url, callers: 16, rounds: 3, isolation, transaction: true,
                steps: (caller, round) => [ensure((round * 16 + caller) * 10, ", max_wait => '60 s'"), `insert into t values (${(round * 16 + caller) * 10})`],
            });
            expect(report.codes).toEqual({ ok: 48 });
        }));

    test('held by an open creator: 55P03 within max_wait, or NS003 for a caller that has written; never unbounded', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(`${parent}; create table r (x int)`);
            await a.run('begin');
            await a.run(ensure(5));
            const error = expectError(await b.attempt(ensure(15, ", max_wait => '300 ms', max_block => '100 ms'")), '55P03');
            expect(error.detail).toContain(`pid ${a.pid}`);
            await c.run('begin; insert into r values (1)');
            expectError(await c.attempt(ensure(15, ", max_block => '100 ms'")), 'NS003');
        })));

    test('one too large to be read once for each new partition within max_block is NS004, before anything is locked', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a'], async ({ a }) => {
            await a.run(`${parent}; insert into rest select -1 from generate_series(1, 300000)`);
            const error = expectError(await a.attempt(ensure(5, ", ahead => 19, max_block => '0'")), 'NS004');
            expect(error.detail).toContain('20 partitions');
            expect(await a.run(ensure(5, ", max_block => '1 min'"))).toEqual([{ outcome: 'created' }]);
        })));
});

describe('polite', () => {
    test('readers and writers of the parent go on while a creating transaction is open', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k)');
            await a.run(ensure(5));
            await a.run('begin');
            await a.run(ensure(15));
            await b.run("set lock_timeout = '1ms'");
            await b.run('insert into t values (5); select count(*) from t; update t set k = 6; delete from t');
        })));

    test('negative control: PARTITION OF stops them', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k)');
            await a.run(ensure(5));
            await a.run('begin; create table p partition of t for values from (10) to (20)');
            await b.run("set lock_timeout = '1ms'");
            expect((await b.attempt('insert into t values (5)')).code).toBe('55P03');
        })));

    test('an open reader and an open writer do not keep a call waiting', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k)');
            await a.run(ensure(5));
            await a.run('begin; insert into t values (5); select * from t');
            await b.run("set lock_timeout = '1ms'");
            expect(await b.run(ensure(15))).toEqual([{ outcome: 'created' }]);
        })));

    test('the queue is held by a stranger: a call is late by max_block at most', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(`create table t (k int) partition by range (k);
                         select pg_advisory_lock(1162760018, 't'::regclass::oid::int)`);
            const call = b.start(ensure(5, ", max_block => '2 s', max_wait => '60 s'"));
            await call.blockedBy(a);
            expect((await call.outcome()).rows).toEqual([{ outcome: 'created' }]);
        })));

    test('nobody queues behind a call for longer than max_block, though the lock it needs is not to be had', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(situations['foreign key to another table'] ?? '');
            await a.run('begin; insert into other values (1)');
            const call = b.start(ensure(5, ", max_block => '200 ms', max_wait => '60 s'"));
            await call.blockedBy(a); // it waits for `other`, holding nothing
            const began = Date.now();
            await c.run('insert into other values (2)');
            expect(Date.now() - began).toBeLessThan(30_000); // of 60 s that the call waits in all
            await a.run('commit');
            expect((await call.outcome()).rows).toEqual([{ outcome: 'created' }]);
        })));
});

describe('slow writers', () => {
    test('foreign key, writers of 200 ms on the other table: 8 callers x 5 ranges, no error on either side', () =>
        withTestDatabase(({ url }) => withSessions(url, ['w1', 'w2', 'w3', 'dba'], async ({ w1, w2, w3, dba }) => {
            await dba.run(situations['foreign key to another table'] ?? '');
            let busy = true;
            const writer = async (session: Session, from: number): Promise<number> => {
                let id = from;
                while (busy) await session.run(`begin; insert into other values (${id++}); select pg_sleep(0.2); commit`);
                return id - from;
            };
            const writers = [writer(w1, 0), writer(w2, 1000), writer(w3, 2000)];
            try {
                const report = await stampede({
                    owner: url, callers: 8, rounds: 5, isolation: 'read committed', transaction: true,
                    steps: (caller, round) => [ensure(round * 10, ", max_wait => '60 s'"), `insert into t values (${round * 10 + caller}, null)`],
                });
                expect(report.codes).toEqual({ ok: 40 });
            } finally {
                busy = false;
            }
            for (const written of await Promise.all(writers)) expect(written).toBeGreaterThan(0);
        })));

    test('a concurrent index build in the way is NS006 at once; the build is not harmed', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(situations['foreign key to another table'] ?? '');
            await a.run('begin; insert into other values (1)');
            const build = c.start('create index concurrently other_idx on other (id)');
            await build.blockedBy(a);
            const error = expectError(await b.attempt(ensure(5)), 'NS006');
            expect(error.detail).toContain(`pid ${c.pid}`);
            await a.run('commit');
            expect((await build.outcome()).code).toBe('ok');
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'created' }]);
        })));

    test('a prepared transaction in the way is named by its gid', (context) =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            const [row] = await a.run("select current_setting('max_prepared_transactions')::int as n");
            if (!row?.n) context.skip('max_prepared_transactions is 0 on this server');
            await a.run('create table t (k int) partition by range (k)');
            await a.run('begin');
            await a.run(ensure(5));
            await a.run("prepare transaction 'forgotten'");
            const error = expectError(await b.attempt(ensure(5, ", max_wait => '300 ms', max_block => '100 ms'")), '55P03');
            expect(error.detail).toContain("prepared transaction 'forgotten'");
            await a.run("commit prepared 'forgotten'");
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
        })));

    /** A server whose autovacuum is at work on `other`; `app` may not see what others do. */
    const withAutovacuum = async (body: (app: Session, dba: Session) => Promise<void>): Promise<void> => {
        const server = await autovacuumServer();
        try {
            await install(server.url);
            await withSessions(server.url, ['dba'], async ({ dba }) => {
                await dba.run(`create role app login password 'app'; grant usage on schema ensure to app;
                               grant create on schema public to app`);
                await withSessions(at(server.url, 'postgres', { name: 'app', password: 'app' }), ['app'], async ({ app }) => {
                    await app.run(situations['foreign key to another table'] ?? '');
                    await app.run(`alter table other set (${slowVacuum});
                                   insert into other select generate_series(1, 50000); delete from other where id % 2 = 0`);
                    await autovacuumAtWork(app, dba, ['other']);
                    await body(app, dba);
                });
            });
        } finally {
            await server.stop('immediate');
        }
    };

    test('autovacuum at work on the other table gives way', (context) => {
        if (!surroundings.embedded) context.skip('needs a server of its own with another autovacuum_naptime; DATABASE_URL is set');
        return withAutovacuum(async (app) => {
            expect(await app.run(ensure(5, ", max_block => '50 ms', max_wait => '5 s'"))).toEqual([{ outcome: 'created' }]);
        });
    });

    test('negative control: without one wait past deadlock_timeout it never does', (context) => {
        if (!surroundings.embedded) context.skip('needs a server of its own with another autovacuum_naptime; DATABASE_URL is set');
        return withAutovacuum(async (app, dba) => {
            await withoutGuard(dba, '_first_wait_v1', 'patient and v_autovacuum', 'false and v_autovacuum');
            const { detail } = expectError(await app.attempt(ensure(5, ", max_block => '50 ms', max_wait => '3 s'")), '55P03');
            expect(detail).toContain('autovacuum');
            expect(detail).toContain('ShareUpdateExclusiveLock on public.other');
        });
    });
});
