import { randomInt } from 'node:crypto';
import { cpus } from 'node:os';
import { stateFolder } from './database.js';
import { majorOf } from './embedded.js';
import { soak } from './harness/soak.js';
import { findPgBouncer } from './pooler.js';
import { spinning } from './spinner.js';

/** `make soak`: replicas call twelve functions on shared targets while KILLS=1000 kills hit them, in at most MINUTES=20. SEED repeats what the seed decides. */
const number = (name: string, fallback: number): number => {
    const value = Number(process.env[name] || fallback);
    if (Number.isInteger(value) && value > 0) return value;
    console.error(`pg-ensure: ${name} is a whole number above 0`);
    process.exit(2);
};
const seed = number('SEED', randomInt(1, 2 ** 31));
const kills = number('KILLS', 1000);
const minutes = number('MINUTES', 20);
const major = majorOf(process.env.PG);
const pgbouncer = await findPgBouncer(stateFolder());
if ('missing' in pgbouncer) {
    console.error(`pg-ensure: ${pgbouncer.missing}`);
    process.exit(12);
}

console.log(`seed ${seed}`);
const spinner = await spinning('starting PostgreSQL and PgBouncer');
const report = await soak({
    major, pgbouncer, kills, seed, minutes,
    say: (line) => {
        if (spinner) spinner.text = line;
        else process.stderr.write(`${line}\n`);
    },
});
spinner?.stop();

const sum = (counts: Record<string, number>): number => Object.values(counts).reduce((total, count) => total + count, 0);
const listed = (counts: Record<string, number>): string => Object.entries(counts).sort(([, a], [, b]) => b - a).map(([name, count]) => `${name} ${count}`).join(', ');
console.log([
    `PostgreSQL ${major}, ${cpus().length} cores, seed ${seed}: ${sum(report.kills)} of ${kills} kills in ${report.seconds} s, ${report.rounds} rounds`,
    `kills: ${listed(report.kills)}`,
    `calls: ${report.calls}, of which ${report.made} made something; ${report.checked} targets checked`,
    `outcomes: ${listed(report.codes)}`,
    `violations: ${report.violations.length}`,
    ...report.violations.map((violation) => `  ${violation}`),
    ...(report.violations.length > 0 ? [`again: make soak PG=${major} SEED=${seed} KILLS=${sum(report.kills)} (it failed in round ${report.rounds})`] : []),
    ...(report.violations.length === 0 && sum(report.kills) < kills ? [`MINUTES=${minutes} were over before the last kill`] : []),
].join('\n'));
process.exit(report.violations.length > 0 ? 1 : 0);
