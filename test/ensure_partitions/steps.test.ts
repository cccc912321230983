import { describe, expect, test, type TestContext } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { expectError, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { until } from '../until.js';

type Names = 'a' | 'b' | 'dba';
type Sessions = Record<Names, Session>;

const table = 'create table t (k int, who text) partition by range (k)';
const ensure = (from: number, rest = ''): string => `select outcome from ensure.ensure_partitions_v1('t', '10', ${from}${rest})`;
const count = "select count(*)::int as n from pg_inherits where inhparent = 't'::regclass";
const locksOf = (pid: number): string => `
    select count(*)::int as n from pg_locks
    where pid = ${pid} and (locktype = 'advisory' or (locktype = 'relation' and relation >= 16384)
                            and mode not in ('AccessShareLock', 'RowExclusiveLock', 'SIReadLock'))`;

const withTable = (body: (sessions: Sessions, admin: string) => Promise<void>): Promise<void> =>
    withTestDatabase(({ url, admin }) =>
        withSessions(url, ['a', 'b', 'dba'], async (sessions) => {
            await sessions.dba.run(table);
            await body(sessions, admin);
        }));

describe.each(isolationLevels)('%s', (isolation) => {
    const begin = `begin isolation level ${isolation}`;

    test('a second caller waits for the first, then returns exists and may insert', () =>
        withTable(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from t`);
            await a.run(begin);
            expect(await a.run(ensure(5))).toEqual([{ outcome: 'created' }]);
            const second = b.start(ensure(5));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).toEqual([{ outcome: 'exists' }]);
            await b.run("insert into t values (5, 'b'); commit");
            expect(await dba.run(count)).toEqual([{ n: 1 }]);
        }));

    test('a caller that lost gives its locks back at once, though its transaction goes on', () =>
        withTable(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1 from t`);
            await a.run(begin);
            await a.run(ensure(5));
            const second = b.start(ensure(5));
            await second.blockedBy(a);
            await a.run('commit');
            await second.outcome();
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            expect(await a.run(ensure(15))).toEqual([{ outcome: 'created' }]);
        }));

    test('when the first rolls back, the second creates', () =>
        withTable(async ({ a, b }) => {
            await a.run(begin);
            await a.run(ensure(5));
            const second = b.start(`${begin}; ${ensure(5)}; insert into t values (5, 'b'); commit`);
            await second.blockedBy(a);
            await a.run('rollback');
            expect((await second.outcome()).code).toBe('ok');
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
        }));

    test.each(['cancel', 'terminate'] as const)('when the first is hit by %s, the second creates', (fault) =>
        withTable(({ a, b, dba }, admin) => withFaults(admin, async (faults) => {
            await dba.run('create table r (x int); insert into r values (1)');
            await dba.run('begin; update r set x = 2');
            await a.run(begin);
            await a.run(ensure(5));
            const stuck = a.start('update r set x = 3');
            await stuck.blockedBy(dba);
            const second = b.start(ensure(5));
            await second.blockedBy(a);
            await faults[fault](a);
            expect((await stuck.outcome()).code).toMatch(fault === 'cancel' ? /57014/ : /57P01|CONNECTION_CLOSED/);
            await a.attempt('rollback');
            expect((await second.outcome()).rows).toEqual([{ outcome: 'created' }]);
        })));

    test('a winner that never commits: 55P03 after max_wait names its pid, nothing is left behind', () =>
        withTable(async ({ a, b, dba }) => {
            await a.run(begin);
            await a.run(ensure(5));
            await b.run(begin);
            const began = Date.now();
            const error = expectError(await b.attempt(ensure(5, ", max_wait => '6 s', max_block => '20 s'")), '55P03');
            expect(Date.now() - began).toBeGreaterThanOrEqual(5990);
            expect(Date.now() - began).toBeLessThan(11_900); // the queue and the table are waited for, not one max_wait each
            expect(error.detail).toContain(`pid ${a.pid}`);
            expect(error.detail).toContain('ShareUpdateExclusiveLock');
            expect(error.hint).toContain('max_wait');
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await a.run('commit');
        }));

    test('a partition the snapshot does not show, with bounds and name of its own, is found and returned', () =>
        withTable(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1`);
            await a.run('create table wide partition of t for values from (0) to (1000)');
            expect(await b.run("select partition::text, lower_bound, upper_bound, outcome from ensure.ensure_partitions_v1('t', '10', 5)"))
                .toEqual([{ partition: 'wide', lower_bound: '0', upper_bound: '1000', outcome: 'exists' }]);
            await b.run("insert into t values (5, 'b'); commit");
            expect(await dba.run(count)).toEqual([{ n: 1 }]);
        }));

    test('a partition re-attached with other bounds since the snapshot is not taken for the cell', () =>
        withTable(async ({ a, b }) => {
            await a.run(ensure(5));
            await b.run(`${begin}; select 1`);
            await a.run('alter table t detach partition t_0000000000000; alter table t attach partition t_0000000000000 for values from (0) to (5)');
            expectError(await b.attempt(ensure(5)), 'NS001');
        }));

    test('a partition detached since the snapshot does not count', () =>
        withTable(async ({ a, b }) => {
            await a.run(ensure(5));
            await b.run(`${begin}; select 1`);
            await a.run('alter table t detach partition t_0000000000000; drop table t_0000000000000');
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'created' }]);
            await b.run("insert into t values (5, 'b'); commit");
        }));

    test('a tree on one column: bounds are those of the partition, not of what is above it', () =>
        withTable(async ({ a, b, dba }) => {
            await dba.run('create table mid partition of t for values from (0) to (100) partition by range (k)');
            const inMid = (step: string) => `select partition::text, lower_bound, upper_bound, outcome
                                             from ensure.ensure_partitions_v1('mid', '${step}', 5)`;
            await b.run(`${begin}; select 1`);
            await a.run(inMid('10'));
            expect(await b.run(inMid('10'))).toEqual([{ partition: 'mid_0000000000000', lower_bound: '0', upper_bound: '10', outcome: 'exists' }]);
            expectError(await b.attempt(inMid('20')), 'NS001');
        }));

    test('a parent that is a default partition itself', () =>
        withTable(async ({ a, b, dba }) => {
            await dba.run('create table mid partition of t default partition by range (k)');
            await b.run(`${begin}; select 1`);
            await a.run("select ensure.ensure_partitions_v1('mid', '10', 5)");
            expect(await b.run("select outcome from ensure.ensure_partitions_v1('mid', '10', 5)")).toEqual([{ outcome: 'exists' }]);
        }));

    test('a default partition and a referenced table dropped since the snapshot are not missed', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(`create table ref (id int primary key);
                         create table t (k int, r int references ref) partition by range (k); create table rest partition of t default`);
            await b.run(`${begin}; select 1`);
            await a.run('drop table rest; drop table ref cascade');
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'created' }]);
        })));

    test('a row that reaches the default partition in between is NS004', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table t (k int) partition by range (k); create table rest partition of t default');
            await b.run(`${begin}; select 1`);
            await a.run('begin; insert into t values (5)');
            const call = b.start(ensure(5));
            await call.blockedBy(a);
            await a.run('commit');
            const { message } = expectError(await call.outcome(), 'NS004');
            expect(message).toContain('rest');
        })));

    test('a parent created since the snapshot is 40001', () =>
        withTable(async ({ a, b }) => {
            await b.run(`${begin}; select 1`);
            await a.run('create table late (k int) partition by range (k)');
            const outcome = await b.attempt("select outcome from ensure.ensure_partitions_v1('late', '10', 5)");
            if (isolation === 'read committed') expect(outcome.rows).toEqual([{ outcome: 'created' }]);
            else expectError(outcome, '40001');
        }));

    test('a parent renamed since the snapshot is 40001', () =>
        withTable(async ({ a, b }) => {
            await b.run(`${begin}; select 1`);
            await a.run('alter table t rename to u');
            const outcome = await b.attempt("select outcome from ensure.ensure_partitions_v1('u', '10', 5)");
            if (isolation === 'read committed') expect(outcome.rows).toEqual([{ outcome: 'created' }]);
            else expectError(outcome, '40001');
        }));

    test('a read-only no-op after a GRANT on the partition, rolled back or committed since the snapshot', () =>
        withTable(async ({ a, b }) => {
            await a.run(ensure(5));
            await a.run('begin; grant select on t_0000000000000 to public');
            await a.run('rollback');
            await b.run(`${begin} read only; select 1`);
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
            await a.run('grant select on t_0000000000000 to public');
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
        }));

    test('a parent that is dropped while a call waits for it is 42P01', () =>
        withTable(async ({ a, b }) => {
            await a.run('begin; drop table t');
            const call = b.start(`${begin}; ${ensure(5)}; commit`);
            await call.blockedBy(a);
            await a.run('commit');
            expectError(await call.outcome(), '42P01');
            await b.attempt('rollback');
        }));

    test('a parent that was altered since the snapshot, and by this transaction as well: each call sees one of it', () =>
        withTable(async ({ a, b, dba }) => {
            await b.run(`${begin}; select 1`);
            await a.run("grant select on t to public; comment on table t is 'altered'");
            for (const from of [5, 15, 25]) expect(await b.run(ensure(from))).toEqual([{ outcome: 'created' }]);
            await b.run("insert into t values (5, 'b'), (25, 'b'); commit");
            expect(await dba.run(count)).toEqual([{ n: 3 }]);
        }));

    test('another grid that comes in between is an error under the lock too, not success', () =>
        withTable(async ({ a, b }) => {
            await b.run(`${begin}; select 1 from t`);
            await a.run(begin);
            await a.run("select ensure.ensure_partitions_v1('t', '7', 5)");
            const second = b.start(ensure(5));
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), 'NS001');
        }));

    test('a GRANT on the parent that commits in between does not surface as "tuple concurrently updated"', () =>
        withTable(async ({ a, b }) => {
            await a.run('begin; grant select on t to public');
            const first = b.start(`${begin}; ${ensure(5)}; commit`);
            await first.blockedBy(a);
            await a.run('commit');
            expect((await first.outcome()).code).toBe('ok');
        }));

    test('a caller that has written meets a winner that commits: it returns exists, though others hold the lock again', () =>
        withTable(async ({ a, b, dba }) => {
            await dba.run(ensure(105));
            await b.run(`${begin}; insert into t values (105, 'b')`);
            await a.run('begin');
            await a.run(ensure(5));
            const call = b.start(ensure(5, ", max_block => '15 s'"));
            await a.run(`commit`);
            await a.run(`begin; ${isolation === 'read committed' ? 'lock table only t in share update exclusive mode' : 'select 1'}`);
            expect((await call.outcome()).rows).toEqual([{ outcome: 'exists' }]);
            await a.run('rollback');
            await b.run("insert into t values (5, 'b'); commit");
        }));

    test('a caller that has written gets in when nobody is in the way', () =>
        withTable(async ({ a, b }) => {
            await a.run(ensure(105));
            await b.run(`${begin}; insert into t values (105, 'b')`);
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'created' }]);
            await b.run("insert into t values (5, 'b'); commit");
        }));
});

/** A has written a row and needs a partition; b, in an open transaction, holds the parent's lock and will need that row. */
const withWriters = (context: TestContext, body: (sessions: Sessions) => Promise<void>): Promise<void> =>
    withTestDatabase(({ admin }) => {
        if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and cannot set deadlock_timeout');
        return withSessions(admin, ['a', 'b', 'dba'], async (sessions) => {
            await sessions.dba.run(`${table}; create table r (x int); insert into r values (1)`);
            await sessions.a.run("set deadlock_timeout = '60s'");
            await sessions.b.run("set deadlock_timeout = '20ms'");
            await sessions.a.run('begin; update r set x = 2');
            await sessions.b.run('begin');
            await sessions.b.run(ensure(5));
            await body(sessions);
        });
    });

test('a caller that has written never waits while holding: NS003, and the one who waits for it is no deadlock victim', (context) =>
    withWriters(context, async ({ a, b }) => {
        const first = a.start(ensure(15, ", max_block => '1 s'"));
        const waiting = b.start('update r set x = 3');
        await waiting.blockedBy(a);
        const error = expectError(await first.outcome(), 'NS003');
        expect(error.detail).toContain(`pid ${b.pid}`);
        expect(error.hint).toContain('before the first write');
        await a.run('rollback');
        expect((await waiting.outcome()).code).toBe('ok');
        await b.run('commit');
    }));

test('negative control: a caller that has written and waits all the same makes the other a deadlock victim', (context) =>
    withWriters(context, async ({ a, b, dba }) => {
        await withoutGuard(dba, '_create_partitions_v1', 'ensure._has_written_v1()', 'false');
        const first = a.start(ensure(15, ", max_block => '10 s'"));
        await first.blockedBy(b);
        expect((await b.attempt('update r set x = 3')).code).toBe('40P01');
        await b.run('rollback');
        expect((await first.outcome()).code).toBe('ok');
    }));

/**
 * ATTACH leaves the table open to others. b begins its first insert: it reads which partitions there are, without a's, and is
 * held at the next read of pg_class, until a has committed. It receives a's invalidation there, in the middle of building its
 * list, and PostgreSQL (14 to 18) then keeps that list: b cannot insert into the partition, now or later.
 */
async function readsPartitionsDuringAttach({ b, dba }: Sessions, admin: string, isolation: string, context: TestContext): Promise<void> {
    if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and may not lock pg_class');
    await withSessions(admin, ['a'], async ({ a }) => {
        await dba.run(`${ensure(-5)}; create table warm (k int, who text)`);
        await a.run(`begin; ${ensure(5)}`);
        await b.run("insert into warm values (1, 'b'); select count(*) from pg_inherits where inhparent = 1");
        await b.run("select pg_relation_size('t'), has_table_privilege('t', 'insert')");
        await a.run('lock table pg_class in access exclusive mode');
        const insert = b.start(`begin isolation level ${isolation}; insert into t values (-5, 'b')`);
        // a looks itself: nobody else reads catalogs now
        await until('b reads pg_class', async () => (await a.run(`select ${a.pid} = any (pg_blocking_pids(${b.pid})) as waits`))[0]?.waits === true);
        await a.run('commit');
        expect((await insert.outcome()).code).toBe('ok');
    });
}

describe.each(isolationLevels)('a session that reads the partitions at the moment of ATTACH, %s', (isolation) => {
    test('finds the new one after ensure', (context) =>
        withTable(async (sessions, admin) => {
            const { b, dba } = sessions;
            await readsPartitionsDuringAttach(sessions, admin, isolation, context);
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
            await b.run("insert into t values (5, 'b')");
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await b.run('commit');
            await b.run(`${ensure(5)}; insert into t values (5, 'b')`);
        }));

    test('finds it after an insert that failed, ensure, and another insert', (context) =>
        withTable(async (sessions, admin) => {
            const { b } = sessions;
            await readsPartitionsDuringAttach(sessions, admin, isolation, context);
            await b.run('savepoint s');
            expect((await b.attempt("insert into t values (5, 'b')")).code).toBe('23514');
            await b.run(`rollback to savepoint s; ${ensure(5)}; insert into t values (5, 'b'); commit`);
        }));

    test('is told so by check_coverage_v1', (context) =>
        withTable(async (sessions, admin) => {
            const { b, dba } = sessions;
            const covered = `select ensure.check_coverage_v1('t', '{"k": 5}') as covered`;
            await readsPartitionsDuringAttach(sessions, admin, isolation, context);
            expect(await dba.run(covered)).toEqual([{ covered: true }]);
            await b.run('commit');
            expect(await b.run(covered)).toEqual([{ covered: false }]);
            await b.run(ensure(5));
            expect(await b.run(covered)).toEqual([{ covered: true }]);
            await b.run("insert into t values (5, 'b')");
        }));

    test('negative control: without a look at its own list it does not, now or later', (context) =>
        withTable(async (sessions, admin) => {
            const { b, dba } = sessions;
            await withoutGuard(dba, '_see_partition_v1', 'ensure._routes_v1(root, condition, partition)', 'true');
            await readsPartitionsDuringAttach(sessions, admin, isolation, context);
            await b.run(`savepoint s; ${ensure(5)}`);
            expect((await b.attempt("insert into t values (5, 'b')")).code).toBe('23514');
            await b.run(`rollback; ${ensure(5)}`);
            expect((await b.attempt("insert into t values (5, 'b')")).code).toBe('23514');
        }));
});

/** Else each call would alter and roll back: what is asked of the planner has to be what the key is. */
test.each([
    ['list', 'char(3)', 'ab'], ['list', 'bpchar', 'abc'], ['list', 'bit(4)', '1010'], ['list', 'name', 'abc'], ['list', '"char"', 'x'], ['list', 'bool', 't'],
    ['list', 'numeric(5,2)', '1.50'], ['list', 'interval', '1 day'], ['list', 'varchar(4)', 'abcd'], ['list', 'text', "a'b"], ['list', 'bytea', '\\x4142'],
    ['range', 'smallint', '-5'], ['range', 'numeric(6,2)', '7'], ['range', 'date', '0044-03-15 BC'], ['range', 'timestamp(3)', '2026-01-01'],
    ['range', 'timestamptz', '2026-03-29'], ['range', 'uuid', '2026-01-01'],
])('a session sees the partition it made: by %s, %s, %s', (kind, type, value) =>
    withTestDatabase(({ url }) => withSessions(url, ['a'], async ({ a }) => {
        await a.run(`create table t (k ${type}) partition by ${kind} (k)`);
        const step = /date|time|uuid/.test(type) ? '1 week' : '10';
        const [row] = await a.run(`select partition::oid::int as oid from ensure.${kind === 'list'
            ? `ensure_list_partitions_v1('t', array[$v$${value}$v$])` : `ensure_partitions_v1('t', '${step}', $v$${value}$v$::text)`}`);
        expect(String((await a.run("select current_setting('ensure.seen') as seen"))[0]?.seen).split(' ')).toContain(String(row?.oid));
    })));

describe('negative controls', () => {
    test('without the lock and the second look, a second caller fails', () =>
        withTable(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_partitions_v1', /perform ensure\._take_locks_v1\([^;]*;/);
            await withoutGuard(dba, '_create_partitions_v1', 'v_clashes > 10', 'true');
            await a.run('begin');
            await a.run(ensure(5));
            const second = b.start(ensure(5));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).code).toBe('23505');
        }));

    test('without reading current catalogs, an old snapshot makes the second caller fail', () =>
        withTable(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_unseen_partitions_v1', "not in ('repeatable read', 'serializable')", "<> ''");
            await b.run('begin isolation level repeatable read; select 1 from t');
            await a.run(ensure(5));
            expect((await b.attempt(ensure(5))).code).not.toBe('ok');
        }));

    test('without the look at xmax, an old snapshot takes a re-attached partition for the cell', () =>
        withTable(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_find_partitions_v1', "c_fresh or ensure._stands_v1(c.xmax) and ensure._stands_v1(i.xmax)", 'true');
            await a.run(ensure(5));
            await b.run('begin isolation level repeatable read; select 1');
            await a.run('alter table t detach partition t_0000000000000; drop table t_0000000000000');
            expect(await b.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
            expect((await b.attempt("insert into t values (5, 'b')")).code).toBe('23514');
        }));

    test('without the early release, a caller that lost keeps the next one waiting', () =>
        withTable(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_partitions_v1', /raise exception using errcode = 'NS100';.*/, 'exit;');
            await b.run('begin isolation level repeatable read; select 1 from t');
            await a.run(ensure(5));
            await b.run(ensure(5));
            const [row] = await dba.run(locksOf(b.pid));
            expect(row?.n).toBeGreaterThan(0);
        }));

    test('without the retry, a GRANT in between surfaces as XX000', () =>
        withTable(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_create_partitions_v1', 'v_clashes > 10', 'true');
            await withoutGuard(dba, '_take_locks_v1', "'50ms'", "'10s'");
            await a.run('begin; grant select on t to public');
            const first = b.start(ensure(5));
            await first.blockedBy(a);
            await a.run('commit');
            expect((await first.outcome()).code).toBe('XX000');
        }));

    test('without restoring it, the short lock_timeout stays for the rest of the transaction', () =>
        withTable(async ({ a, dba }) => {
            await withoutGuard(dba, '_create_partitions_v1', /perform set_config\('lock_timeout', c_lock_timeout, true\);/);
            await a.run('begin');
            await a.run(ensure(5));
            expect(await a.run('show lock_timeout')).toEqual([{ lock_timeout: '50ms' }]);
        }));
});
