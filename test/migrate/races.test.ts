import { expect, test, type TestContext } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { pooled } from '../context.js';
import { run, start, withEmptyDatabase, withFolder, type Running } from './context.js';
import { expectAppliedOnce, workload } from './workload.js';

const replicas = 32;

for (const path of ['direct', 'through PgBouncer'] as const) {
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

test('winners killed 20 to 400 ms after they have the lock: survivors exit 0, every file took effect once', () => chaos(12));

async function chaos(rounds: number): Promise<void> {
    let kills = 0;
    for (let round = 0; round < rounds; round += 1) {
        await withEmptyDatabase(({ url }) => withFolder(workload, async (folder) => {
            const all = Array.from({ length: 12 }, () => start(url, ['migrate', '--json', '--dir', folder]));
            let budget = 7;
            const fate = async (one: Running): Promise<void> => {
                if (!await one.event('locked') || budget === 0) return;
                budget -= 1;
                const delay = 20 + Math.random() * 380;
                await Promise.race([one.ended, new Promise((resolve) => setTimeout(resolve, delay))]);
                if (one.child.kill('SIGKILL')) kills += 1;
            };
            await Promise.all(all.map(fate));
            const ended = await Promise.all(all.map((one) => one.ended));
            expect(ended.filter(({ code, signal }) => code !== 0 && signal !== 'SIGKILL').map(({ stderr }) => stderr)).toEqual([]);
            await withConnection(url, expectAppliedOnce);
        }));
    }
    console.log(`${kills} kills in ${rounds} rounds`);
    expect(kills).toBeGreaterThan(49);
}
