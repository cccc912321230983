import { expect, test, type TestContext } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { pooled } from '../context.js';
import { run, start, until, withEmptyDatabase, withFolder, withoutGuards, type Running } from './context.js';
import { expectAppliedOnce, workload } from './workload.js';

const replicas = 32;
/** A round starts 12 processes and their children: how long that takes is the machine's affair. */
const patienceMs = 900_000;
type Path = 'direct' | 'through PgBouncer';

for (const path of ['direct', 'through PgBouncer'] as Path[]) {
    test(`${replicas} processes on an empty database, ${path}: all exit 0, every file once, no lock left`, (context: TestContext) =>
        withEmptyDatabase((database) => withFolder(workload, async (folder) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            const ended = await Promise.all(Array.from({ length: replicas }, () => run(url, ['migrate', '--dir', folder])));
            expect(ended.filter(({ code }) => code !== 0).map(({ stderr }) => stderr)).toEqual([]);
            const worked = ended.filter(({ stdout }) => !stdout.startsWith('0 applied'));
            expect(worked).toHaveLength(1);
            await withConnection(database.url, expectAppliedOnce);
        })));
}

test('control: the same 32 with the naive lock, one that is waited for, hang as soon as an index is built', () => withoutGuards({
    'migrate/guard.js': [['select pg_try_advisory_xact_lock(${ledger.key}) as locked', 'select pg_advisory_lock(${ledger.key}) is not null as locked']],
    'migrate/wait.js': [['state.facts.holder ? undefined : await take()', 'await take()']],
}, (cli) => withEmptyDatabase(({ url }) => withFolder(workload, async (folder) => {
    const all = Array.from({ length: replicas }, () => start(url, ['migrate', '--dir', folder], { cli }));
    // Who builds waits for the snapshots of those who wait for its idle lock session: no deadlock that the server could see.
    await until(url, `select true from pg_stat_activity as a where a.datname = current_database() and a.query like '%create index concurrently%'
        and exists (select from pg_locks as w where w.locktype = 'advisory' and not w.granted and w.pid = any (pg_blocking_pids(a.pid)))`);
    for (const one of all) one.kill('SIGKILL');
    await Promise.all(all.map((one) => one.ended));
}))));

/** Of the replica alone, whose dbmate lives on; or of all its processes, as when a container ends. */
type Victim = 'replica' | 'container';

const long = Boolean(process.env.PG_ENSURE_LONG);
const chaosRounds = (short: number): number => (long ? 12 : short);

for (const [victim, path, rounds] of [
    ['replica', 'direct', chaosRounds(2)], ['container', 'direct', chaosRounds(1)],
    ['replica', 'through PgBouncer', chaosRounds(1)], ['container', 'through PgBouncer', chaosRounds(1)],
] as [Victim, Path, number][]) {
    test(`12 replicas, ${rounds} rounds, the winner's ${victim} killed 20 to 400 ms after it has the lock or has begun a file, ${path}: survivors exit 0, every file once`, async (context) => {
        const { kills, failures } = await chaos(context, victim, path, rounds, (kill) => (kill % 2 ? 'locked' : 'begun'));
        console.log(`${kills} kills in ${rounds} rounds`);
        expect(failures).toEqual([]);
        expect(kills, 'or nothing was shown').toBeGreaterThanOrEqual(rounds);
    }, patienceMs);
}

/** What every layer of the fence does, undone: the wait for remnants, the mark, the broken pipe, the lock's watch of its client. */
const unfenced: Parameters<typeof withoutGuards>[0] = {
    'migrate/fence.js': [['const [first] = remnants;', 'const [first] = [];']],
    'migrate/copy.js': [["'where h.version = %L and h.run_id = %L and h.applied_at is null;", "'where false and %L = %L;"], ['if not found then', 'if false then'],
        ['...(up.transaction ? [] : [record(ledger, file.version)])', '']],
    'migrate/dbmate.js': [["stdio: ['ignore', 'pipe', 'pipe']", "stdio: ['ignore', 'ignore', 'pipe']"], ['text(child.stdout)', "''"]],
};

test('control: the same without the fence shows failures', (context) => withoutGuards(unfenced, async (cli) => {
    if (!long) context.skip('chance: on a slow machine 24 rounds may do no harm; make chaos runs it, lock.test.ts has a control by steps');
    let rounds = 0;
    let failures: string[] = [];
    while (!failures.length && rounds < 24) {
        rounds += 1;
        ({ failures } = await chaos(context, 'replica', 'direct', 1, () => 'begun', cli));
    }
    console.log(`without the fence round ${rounds} failed`);
    expect(failures).not.toEqual([]);
}), patienceMs);

/** After it has the lock, or has begun its first file: on a busy machine nothing has begun 400 ms after the lock. */
type Moment = 'locked' | 'begun';

async function chaos(
    context: TestContext, victim: Victim, path: Path, rounds: number, moment: (kill: number) => Moment, cli?: string,
): Promise<{ kills: number; failures: string[] }> {
    let kills = 0;
    const failures: string[] = [];
    for (let round = 0; round < rounds; round += 1) {
        await withEmptyDatabase((database) => withFolder(workload, async (folder) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            const options = { detached: victim === 'container', ...(cli && { cli }) };
            const all = Array.from({ length: 12 }, () => start(url, ['migrate', '--json', '--dir', folder], options));
            let budget = 7;
            const fate = async (one: Running): Promise<void> => {
                if (!await one.event('locked') || budget === 0) return;
                budget -= 1;
                if (moment(budget) === 'begun') await one.event('applying');
                const delay = 20 + Math.random() * 380;
                await Promise.race([one.ended, new Promise((resolve) => setTimeout(resolve, delay))]);
                if (one.kill('SIGKILL')) kills += 1;
            };
            await Promise.all(all.map(fate));
            const ended = await Promise.all(all.map((one) => one.ended));
            const failed = ended.filter(({ code, signal }) => code !== 0 && signal !== 'SIGKILL').map(({ stderr }) => stderr);
            const effects = await withConnection(database.url, expectAppliedOnce).then(() => [], (error: unknown) => [String(error)]);
            if (failed.length || effects.length) failures.push(`round ${round}: ${[...failed, ...effects].join('\n')}`);
        }));
    }
    return { kills, failures };
}
