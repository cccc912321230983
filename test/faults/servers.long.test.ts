import postgres from 'postgres';
import { expect, test, type TestContext } from 'vitest';
import { majorOf, temporaryServer, type Server } from '../../scripts/embedded.js';
import { aftermath, madeNothing, outcomesOf, pictureOf } from '../../scripts/harness/aftermath.js';
import { at } from '../../scripts/harness/databases.js';
import { connectOptions, settle, withSessions, type Outcome, type Session } from '../../scripts/harness/sessions.js';
import { targetOf } from '../../scripts/harness/targets.js';
import { expectError, surroundings } from '../context.js';
import { install } from '../../scripts/install.js';
import { until } from '../until.js';
import { withStandby } from '../standby.js';
import { complaints, steps, twoSteps } from './naive.js';
import { allWaitFor, patient, waiterNames } from './steps.js';

async function withServer(context: TestContext, settings: Record<string, string>, body: (server: Server) => Promise<void>): Promise<void> {
    if (!surroundings.embedded) return context.skip('needs a server of its own; DATABASE_URL is set');
    const server = await temporaryServer(majorOf(process.env.PG), settings);
    try {
        await body(server);
    } finally {
        await server.stop('immediate');
    }
}

test('a lock table that others have filled: 53200 and a hint, nothing is left; when there is room the next call makes it', (context) => withServer(context, {
    max_locks_per_transaction: '10', max_connections: '20', max_prepared_transactions: '0',
}, async ({ url }) => {
    await install(url);
    await withSessions(url, ['dba', 'hog', 'caller'], async ({ dba, hog, caller }) => {
        for (const name of ['ensure_partitions_v1', 'ensure_list_partitions_v1', 'ensure_partition_tree_v1', 'ensure_unique_v1', 'ensure_owner_v1', 'ensure_roles_v1']) {
            const target = targetOf(name);
            const id = `locks_${name}`;
            await dba.run(target.setup(id));
            const before = await pictureOf(dba, target, id);
            await hog.run(`begin; do $$ begin for i in 1..100000 loop
                begin perform pg_advisory_xact_lock(i); exception when out_of_memory then exit; end; end loop; end $$`);
            const failed = await caller.attempt(target.call(id));
            await hog.run('rollback');
            expect(expectError(failed, '53200').hint, name).toMatch(/max_locks_per_transaction/);
            expect(await pictureOf(dba, target, id), name).toBe(before);
            const { violations, next } = await aftermath(dba, target, id, before);
            expect(violations, name).toEqual([]);
            expect(madeNothing(next), name).toBe(false);
        }
        // Control: what was made before the lock table was full is found.
        expect(await complaints(dba, 'naive', async (id, check) => {
            await caller.run(steps(id)[0]);
            await hog.run(`begin; do $$ begin for i in 1..100000 loop
                begin perform pg_advisory_xact_lock(i); exception when out_of_memory then exit; end; end loop; end $$`);
            const { code } = await caller.attempt(steps(id)[1]);
            await hog.run('rollback');
            expect(code).toBe('53200');
            return check();
        })).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
    });
}));

test('max_connections reached: 53300 for some of 15, the others finish; who comes again finds it', (context) => withServer(context, {
    max_connections: '13', superuser_reserved_connections: '4', max_wal_senders: '0',
}, async (server) => {
    const app = { name: 'app', password: 'secret' };
    await withSessions(server.url, ['dba'], ({ dba }) => dba.run("create role app login password 'secret'"));
    await withSessions(server.url, ['dba'], ({ dba }) => dba.run('create database d owner app'));
    const url = at(server.url, 'd', app);
    await install(url);
    await withSessions(at(server.url, 'd'), ['dba'], async ({ dba }) => {
        const gone = (): Promise<void> => until('who has hung up is gone', async () => (
            (await dba.run("select from pg_stat_activity where usename = 'app'")).length === 0));
        for (const name of ['ensure_partitions_v1', 'ensure_unique_v1', 'ensure_row_v1', 'ensure_only_v1']) {
            const target = targetOf(name);
            const id = `connections_${name}`;
            const call = target.call(id);
            await dba.run(`set role app; ${target.setup(id)}; reset role`);
            const before = await pictureOf(dba, target, id);
            const creator = postgres(url, connectOptions);
            const callers = waiterNames.map(() => postgres(url, connectOptions));
            try {
                await creator.unsafe(`begin; ${call}`).simple();
                const [holder] = await creator`select pg_backend_pid() as pid`;
                const ended: Outcome[] = [];
                const calls = callers.map(async (caller) => void ended.push(await settle(caller.unsafe(patient(target, id)).simple())));
                await allWaitFor(dba, Number(holder?.pid), () => 15 - ended.length); // the others have been told
                const refused = ended.length;
                expect(refused).toBeGreaterThan(0);
                expect(refused).toBeLessThan(15);
                expect(ended.map(({ code }) => code)).toEqual(Array(refused).fill('53300'));
                await creator.unsafe('rollback');
                await Promise.all(calls);
                const finished = ended.filter(({ error }) => !error);
                expect(finished).toHaveLength(15 - refused);
                expect(finished.filter((outcome) => !madeNothing(outcomesOf(outcome)))).toHaveLength(1);
            } finally {
                await Promise.all([creator, ...callers].map((one) => one.end({ timeout: 0 })));
            }
            await gone();
            await withSessions(url, ['again'], async ({ again }) => expect(madeNothing(outcomesOf(await again.attempt(call)))).toBe(true));
            expect(await aftermath(dba, target, id, before)).toMatchObject({ violations: [] });
            await gone();
        }
        // Control: who is refused between two statements has made one half.
        expect(await complaints(dba, 'naive', async (id, check) => {
            await dba.run(steps(id)[0]);
            const crowd = waiterNames.map(() => postgres(url, connectOptions));
            await Promise.all(crowd.map((one) => settle(one`select 1`)));
            const { code } = await settle(postgres(url, connectOptions).unsafe(steps(id)[1]).simple());
            await Promise.all(crowd.map((one) => one.end({ timeout: 0 })));
            expect(code).toBe('53300');
            return check();
        })).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
    });
}));

test('the primary is killed while a creator is in its transaction and 15 wait, the standby is promoted: what was committed is there, nothing else, the next call makes it', async (context) => {
    if (!surroundings.embedded) context.skip('needs a primary and a standby of its own; DATABASE_URL is set');
    const names = ['ensure_partitions_v1', 'ensure_partition_tree_v1', 'ensure_unique_v1', 'ensure_rows_v1', 'ensure_only_v1', 'ensure_roles_v1'];
    await withStandby({}, async ({ primary, standby, caughtUp }) => {
        await install(primary.url);
        const pictures = new Map<string, string>();
        await withSessions(primary.url, ['dba', ...names, ...waiterNames], async (sessions: Record<string, Session>) => {
            const { dba } = sessions as Record<'dba', Session>;
            for (const name of names) {
                const target = targetOf(name);
                for (const id of [`made_${name}`, `open_${name}`]) {
                    await dba.run(target.setup(id));
                    pictures.set(id, await pictureOf(dba, target, id));
                }
                await dba.run(target.call(`made_${name}`));
                pictures.set(`made_${name}`, await pictureOf(dba, target, `made_${name}`));
                await sessions[name]?.run(`begin; ${target.call(`open_${name}`)}`);
            }
            await dba.run(twoSteps.setup('naive'));
            pictures.set('naive', await pictureOf(dba, twoSteps, 'naive'));
            await dba.run(steps('naive')[0]);
            const [first = ''] = names;
            const waiting = waiterNames.map((name) => (sessions[name] as Session).start(patient(targetOf(first), `open_${first}`)));
            await allWaitFor(dba, sessions[first]?.pid ?? 0);
            await caughtUp(); // what is uncommitted is there too, in the pages
            await withSessions(standby.url, ['reader'], async ({ reader }) => {
                for (const name of names) {
                    expect(madeNothing(outcomesOf(await reader.attempt(targetOf(name).call(`made_${name}`)))), name).toBe(true);
                    expect((await reader.attempt(targetOf(name).call(`open_${name}`))).code, name).toBe('25006');
                }
            });
            process.kill(primary.pid, 'SIGKILL');
            for (const step of waiting) expect((await step.outcome()).code).toMatch(/57P0[12]|CONNECTION_CLOSED|ECONNRESET/);
        });
        await withSessions(standby.url, ['dba'], async ({ dba }) => {
            expect(await dba.run('select pg_promote() as promoted')).toEqual([{ promoted: true }]);
            for (const name of names) {
                const target = targetOf(name);
                expect(await pictureOf(dba, target, `made_${name}`), name).toBe(pictures.get(`made_${name}`));
                expect(await pictureOf(dba, target, `open_${name}`), name).toBe(pictures.get(`open_${name}`));
                const made = await aftermath(dba, target, `made_${name}`, pictures.get(`made_${name}`) ?? '');
                expect({ violations: made.violations, madeNothing: madeNothing(made.next) }, name).toEqual({ violations: [], madeNothing: true });
                const open = await aftermath(dba, target, `open_${name}`, pictures.get(`open_${name}`) ?? '');
                expect({ violations: open.violations, madeNothing: madeNothing(open.next) }, name).toEqual({ violations: [], madeNothing: false });
            }
            // Control: the half that was committed and replicated is found.
            expect((await aftermath(dba, twoSteps, 'naive', pictures.get('naive') ?? '')).violations).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
        });
    });
});
