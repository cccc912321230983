import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { majorOf, startServer, temporaryServer, type Server } from '../../scripts/embedded.js';
import { aftermath, pictureOf } from '../../scripts/harness/aftermath.js';
import { recovered } from '../../scripts/harness/faults.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { cleanup, targetOf } from '../../scripts/harness/targets.js';
import { surroundings } from '../context.js';
import { install } from '../../scripts/install.js';
import { steps, twoSteps } from './naive.js';
import { allWaitFor, gate, halfway, holdable, holdAt, patient, waiterNames } from './steps.js';

/** What was committed outlives kill -9 of a process. */
const settings = { synchronous_commit: 'on', full_page_writes: 'on', max_prepared_transactions: '5' };
let server: Server;
beforeAll(async () => {
    if (!surroundings.embedded) return;
    server = await temporaryServer(majorOf(process.env.PG), settings);
    await install(server.url);
    await withSessions(server.url, ['dba'], ({ dba }) => dba.run(holdable));
});
afterAll(async () => surroundings.embedded && server.stop('immediate'));

const kills: Record<string, (creator: Session) => Promise<void>> = {
    'the backend of the creator': async (creator) => {
        process.kill(creator.pid, 'SIGKILL');
        await recovered(server.url);
    },
    'the postmaster': async () => {
        const { major, dataFolder, password, port } = server;
        const run = () => startServer({ major, dataFolder, password, port, settings, durable: false });
        const { pid } = await run(); // the one that runs
        process.kill(pid, 'SIGKILL');
        for (const end = Date.now() + 60_000; ; await pause(50)) {
            try {
                const again = await run();
                if (again.pid !== pid) return expect(again.port).toBe(port);
            } catch (error) { // backends of the old one still have its shared memory
                if (Date.now() > end) throw error;
            }
        }
    },
};

let count = 0;
const broken = /57P0[12]|CONNECTION_CLOSED|ECONNRESET/;

describe.each(Object.keys(kills))('%s is killed by SIGKILL while 15 wait: the server recovers, nothing is left, the next call makes it', (whom) => {
    const kill = kills[whom] ?? (() => Promise.reject(new Error(whom)));

    test.for(['ensure_partitions_v1', 'ensure_partition_tree_v1', 'ensure_unique_v1', 'ensure_rows_v1', 'ensure_only_v1', 'ensure_roles_v1'])('inside %s', async (name, context) => {
        if (!surroundings.embedded) return context.skip('needs a server of its own; DATABASE_URL is set');
        const target = targetOf(name);
        const id = `crash${(count += 1)}`;
        const before = await withSessions(server.url, ['dba', 'creator', ...waiterNames], async (sessions: Record<string, Session>) => {
            const { dba, creator } = sessions as Record<'dba' | 'creator', Session>;
            await dba.run(`${target.setup(id)}; ${holdAt(target, id)}`);
            const start = await pictureOf(dba, target, id);
            await dba.run('checkpoint'); // so that recovery has the rest to replay
            await dba.run(`select pg_advisory_lock(${gate})`);
            const call = creator.start(`begin; ${target.call(id)}`);
            await halfway(dba, creator);
            const waiting = waiterNames.map((waiter) => (sessions[waiter] as Session).start(patient(target, id)));
            await allWaitFor(dba, creator.pid);
            await kill(creator);
            for (const step of [call, ...waiting]) expect((await step.outcome()).code).toMatch(broken);
            return start;
        });
        await withSessions(server.url, ['dba'], async ({ dba }) => {
            expect(await pictureOf(dba, target, id)).toBe(before);
            const { violations, next } = await aftermath(dba, target, id, before);
            expect(violations).toEqual([]);
            expect(next.some((outcome) => outcome !== 'exists')).toBe(true);
            await dba.run(cleanup(id));
        });
    });

    test('control: what two transactions made by halves, and a prepared one with its locks, are still there', async (context) => {
        if (!surroundings.embedded) return context.skip('needs a server of its own; DATABASE_URL is set');
        const id = `naive${(count += 1)}`;
        const before = await withSessions(server.url, ['a'], async ({ a }) => {
            await a.run(twoSteps.setup(id));
            const start = await pictureOf(a, twoSteps, id);
            await a.run(steps(id)[0]);
            await a.run(`begin; lock table ${id}.p_10 in share mode; prepare transaction 'left'`);
            await kill(a);
            return start;
        });
        const complaint = await withSessions(server.url, ['dba'], async ({ dba }) => {
            const { violations } = await aftermath(dba, twoSteps, id, before, 500);
            await dba.run("rollback prepared 'left'");
            await dba.run(cleanup(id));
            return violations;
        });
        expect(complaint).toContainEqual(expect.stringContaining('prepared transaction: left'));
        expect(complaint).toContainEqual(expect.stringMatching(/^lock left: relation ShareLock/));
        expect(complaint).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
    });
});
