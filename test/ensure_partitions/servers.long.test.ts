import { describe, expect, test, type TestContext } from 'vitest';
import { majorOf, temporaryServer, type Server } from '../../scripts/embedded.js';
import { recovered, withFaults } from '../../scripts/harness/faults.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { expectError, surroundings } from '../context.js';
import { withStandby } from '../standby.js';

const major = majorOf(process.env.PG);
const ensure = (from: number, rest = ''): string => `select outcome from ensure.ensure_partitions_v1('t', '10', ${from}${rest})`;

/** A server with settings of its own, migrated; DATABASE_URL names only one. */
async function withServer(
    context: TestContext, settings: Record<string, string>, body: (server: Server, dba: Session) => Promise<void>,
): Promise<void> {
    if (!surroundings.embedded) context.skip('needs a server of its own; DATABASE_URL is set');
    const server = await temporaryServer(major, settings);
    try {
        await install(server.url);
        await withSessions(server.url, ['dba'], ({ dba }) => body(server, dba));
    } finally {
        await server.stop('immediate');
    }
}

test('a no-op runs on a streaming standby, at every isolation level it offers; what is missing is 25006 there', async (context) => {
    if (!surroundings.embedded) context.skip('needs a primary and a standby of its own; DATABASE_URL is set');
    await withStandby({}, async ({ primary: { url }, standby: { url: copy }, caughtUp }) => {
        await install(url);
        await withSessions(url, ['primary'], async ({ primary }) => {
            await primary.run('create table t (k int) partition by range (k)');
            await primary.run(ensure(5));
        });
        await caughtUp();
        await withSessions(copy, ['standby'], async ({ standby }) => {
            expect(await standby.run('select pg_is_in_recovery() as standby')).toEqual([{ standby: true }]);
            for (const isolation of ['read committed', 'repeatable read']) {
                await standby.run(`begin isolation level ${isolation}`);
                expect(await standby.run(ensure(5))).toEqual([{ outcome: 'exists' }]);
                const { hint } = expectError(await standby.attempt(ensure(15)), '25006');
                expect(hint).toBe('Call on the primary.');
                await standby.run('rollback');
            }
            expect(await standby.run("select value from ensure.check_install_v1() where item = 'recovery'")).toEqual([{ value: 'standby' }]);
        });
    });
});

describe('the lock table', () => {
    const small = { max_locks_per_transaction: '10', max_connections: '20' };
    const wide = 'create table t (k int) partition by range (k)';

    test('a call that asks for more than it can hold is 54000, computed, and says which setting to raise to what', (context) =>
        withServer(context, small, async (_server, dba) => {
            await dba.run(wide);
            const error = expectError(await dba.attempt(ensure(0, ', ahead => 299')), '54000');
            expect(error.hint).toMatch(/max_locks_per_transaction to \d+ and restart/);
            expect(await dba.run('select * from pg_inherits')).toEqual([]);
            expect(await dba.run(ensure(0, ', ahead => 19'))).toHaveLength(20);
        }));

    test('a lock table that others have filled is 53200 and says the same; raised to that, the call succeeds', async (context) => {
        let wanted = '';
        const fill = (server: Server, body: (dba: Session) => Promise<void>): Promise<void> =>
            withSessions(server.url, ['hog', 'dba'], async ({ hog, dba }) => {
                await hog.run('begin');
                await hog.run(`do $$ begin for i in 1..100000 loop
                    begin perform pg_advisory_xact_lock(i); exception when out_of_memory then exit; end; end loop; end $$`);
                const [row] = await hog.run("select count(*)::int as n from pg_locks where locktype = 'advisory'");
                await hog.run('rollback');
                // Room for a few locks is left, for less than 30 partitions.
                await hog.run(`begin; select count(pg_advisory_xact_lock(i)) from generate_series(1, ${Number(row?.n) - 60}) as i`);
                await body(dba);
            });
        await withServer(context, small, (server, owner) => fill(server, async (dba) => {
            await owner.run(wide);
            const error = expectError(await dba.attempt(ensure(0, ', ahead => 29')), '53200');
            wanted = /max_locks_per_transaction to (\d+) and restart/.exec(error.hint)?.[1] ?? '';
            expect(wanted).not.toBe('');
            expect(await owner.run('select * from pg_inherits')).toEqual([]);
        }));
        await withServer(context, { ...small, max_locks_per_transaction: wanted }, (server, owner) =>
            withSessions(server.url, ['hog'], async ({ hog }) => {
                await hog.run(`begin; select pg_advisory_xact_lock(n) from generate_series(1, 300) as n`);
                await owner.run(wide);
                expect(await owner.run(ensure(0, ', ahead => 29'))).toHaveLength(30);
            }));
    });
});

test('kill -9 of the winner while 8 wait: the server recovers, nothing half-made is left, the next call creates', (context) =>
    withServer(context, { synchronous_commit: 'on' }, async (server, dba) => {
        await dba.run('create table t (k int) partition by range (k)');
        const names = Array.from({ length: 8 }, (_, n) => `waiter${n}`);
        await withFaults(server.url, (faults) => withSessions(server.url, ['winner', ...names], async (sessions) => {
            const winner = sessions.winner as Session;
            await winner.run('begin');
            await winner.run(ensure(5));
            const waiting = names.map((name) => (sessions[name] as Session).start(ensure(5)));
            for (const call of waiting) await call.blockedBy(winner);
            faults.killBackend(winner);
            for (const call of waiting) expect((await call.outcome()).code).toMatch(/57P02|CONNECTION_CLOSED|ECONNRESET/);
        }));
        await recovered(server.url);
        await withSessions(server.url, ['after'], async ({ after }) => {
            expect(await after.run("select relname from pg_class where relname like 't_p%'")).toEqual([]);
            expect(await after.run(ensure(5))).toEqual([{ outcome: 'created' }]);
        });
    }));
