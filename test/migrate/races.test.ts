import { expect, test, type TestContext } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { pooled } from '../context.js';
import { run, start, withEmptyDatabase, withFolder, type Running } from './context.js';
import { expectAppliedOnce, workload } from './workload.js';

const replicas = 32;
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

/** Of the replica alone, whose dbmate lives on; or of all its processes, as when a container ends. */
type Victim = 'replica' | 'container';

for (const [victim, path, rounds] of [
    ['replica', 'direct', 12], ['container', 'direct', 12], ['replica', 'through PgBouncer', 12], ['container', 'through PgBouncer', 12],
] as [Victim, Path, number][]) {
    test(`the ${victim} of the winner is killed 20 to 400 ms after it has the lock, ${path}: survivors exit 0, every file once`, (context: TestContext) =>
        chaos(context, victim, path, rounds));
}

async function chaos(context: TestContext, victim: Victim, path: Path, rounds: number): Promise<void> {
    let kills = 0;
    for (let round = 0; round < rounds; round += 1) {
        await withEmptyDatabase((database) => withFolder(workload, async (folder) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            const detached = victim === 'container';
            const all = Array.from({ length: 12 }, () => start(url, ['migrate', '--json', '--dir', folder], { detached }));
            let budget = 7;
            const fate = async (one: Running): Promise<void> => {
                if (!await one.event('locked') || budget === 0) return;
                budget -= 1;
                const delay = 20 + Math.random() * 380;
                await Promise.race([one.ended, new Promise((resolve) => setTimeout(resolve, delay))]);
                if (one.kill('SIGKILL')) kills += 1;
            };
            await Promise.all(all.map(fate));
            const ended = await Promise.all(all.map((one) => one.ended));
            expect(ended.filter(({ code, signal }) => code !== 0 && signal !== 'SIGKILL').map(({ stderr }) => stderr)).toEqual([]);
            await withConnection(database.url, expectAppliedOnce);
        }));
    }
    console.log(`${kills} kills in ${rounds} rounds`);
    expect(kills).toBeGreaterThan(4 * rounds);
}
