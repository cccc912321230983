import { randomInt } from 'node:crypto';
import { expect, test, type TestContext } from 'vitest';
import { stateFolder } from '../../scripts/database.js';
import { majorOf } from '../../scripts/embedded.js';
import { generator, killKinds, soak, type SoakOptions, type SoakReport } from '../../scripts/harness/soak.js';
import type { Target } from '../../scripts/harness/targets.js';
import { findPgBouncer } from '../../scripts/pooler.js';
import { missing, surroundings } from '../context.js';
import { steps, twoSteps } from './naive.js';

const patienceMs = 900_000;

async function run(context: TestContext, options: Pick<SoakOptions, 'seed' | 'kills' | 'killsPerRound' | 'targets'>): Promise<SoakReport> {
    if (!surroundings.embedded) context.skip('needs a server of its own; DATABASE_URL is set');
    const pgbouncer = await findPgBouncer(stateFolder());
    if ('missing' in pgbouncer) return missing(context, pgbouncer.missing);
    console.log(`seed ${options.seed}`);
    const report = await soak({ major: majorOf(process.env.PG), pgbouncer, minutes: patienceMs / 60_000, ...options });
    console.log(JSON.stringify(report));
    return report;
}

test('30 random kills of callers, clients, servers and the pooler: nothing half-made, no lock left, the next calls converge', async (context) => {
    const report = await run(context, { seed: randomInt(1, 2 ** 31), kills: 30, killsPerRound: 15 });
    expect(report.violations).toEqual([]);
    expect(Object.values(report.kills).reduce((sum, count) => sum + count, 0)).toBe(30);
    expect(report.checked).toBeGreaterThan(0);
}, patienceMs);

/** A replica that is killed between two transactions has made one half: it stays there until it is. */
const planted: Target = {
    ...twoSteps,
    name: 'planted',
    alone: true,
    setup: (id) => `${twoSteps.setup(id)}; create procedure ${id}.make(inout outcome text) language plpgsql as $p$ begin
        if ${twoSteps.holds(id)} then outcome := 'exists'; return; end if;
        ${steps(id)[0]};
        commit;
        if current_setting('application_name') like '%replica%' then perform pg_sleep(3600); end if;
        ${steps(id)[1]};
        outcome := 'created';
    end $p$`,
    call: (id) => `call ${id}.make(null)`,
};

test('control: a caller that makes its thing in two transactions is found', async (context) => {
    const { violations, rounds } = await run(context, { seed: 3, kills: 200, killsPerRound: 8, targets: [planted] });
    expect(violations).toContainEqual(expect.stringMatching(/round 1: planted .*half-made:\n.*relation p_10/s));
    expect(rounds).toBe(1); // the first violation ends it
}, patienceMs);

test('the seed decides the order of the kinds of kills', () => {
    const numbers = (seed: number): number[] => Array.from({ length: 50 }, generator(seed));
    expect(numbers(7)).toEqual(numbers(7));
    expect(numbers(7)).not.toEqual(numbers(8));
    expect(numbers(7).every((one) => one >= 0 && one < 1)).toBe(true);
    expect(killKinds).toHaveLength(6);
});
