import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { stateFolder } from './database.js';
import { majorOf, majors, type Major } from './embedded.js';
import { exitCodes } from './errors.js';
import { entries } from './matrix/cells.js';
import { page, type Facts } from './matrix/page.js';
import { runMajor, type Ran } from './matrix/run.js';
import { commandLine, environment } from './packages.js';
import { findPgBouncer } from './pooler.js';

/** `make race`: the matrix, on all majors into docs/proof.md; on one (PG=14), or of some functions (FUNCTION=rows), onto stdout. */
const refuse = (why: string): never => {
    console.error(`pg-ensure: ${why}`);
    process.exit(exitCodes.usage);
};
const tried = <Result>(make: () => Result): Result => {
    try {
        return make();
    } catch (error) {
        return refuse((error as Error).message);
    }
};
const rounds = Number(process.env.ROUNDS || 1);
if (!Number.isInteger(rounds) || rounds < 1) refuse(`ROUNDS is "${process.env.ROUNDS}": give a whole number from 1`);
const wanted: readonly Major[] = !process.env.PG || process.env.PG === 'all' ? majors : [tried(() => majorOf(process.env.PG))];
const pattern = tried(() => new RegExp(process.env.FUNCTION || '.'));
const chosen = entries.filter(({ name }) => pattern.test(name));
if (!chosen.length) refuse(`FUNCTION "${process.env.FUNCTION}" is none of ${entries.map(({ name }) => name).join(', ')}`);
const complete = chosen.length === entries.length && wanted.length > 1;

const pgbouncer = await findPgBouncer(stateFolder());
if ('missing' in pgbouncer) {
    console.error(`pg-ensure: no PgBouncer: ${pgbouncer.missing}`);
    process.exit(exitCodes.noDatabase);
}
const facts: Facts = {
    command: ['make race', ...['PG', 'FUNCTION', 'ROUNDS'].flatMap((name) => (process.env[name] ? [`${name}=${process.env[name]}`] : []))].join(' '),
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} cores, ${cpus()[0]?.model ?? 'unknown'}, ${Math.round(totalmem() / 2 ** 30)} GB; clients and servers share it`,
    servers: [], rounds, seconds: 0,
    pgbouncer: execFileSync(...commandLine(pgbouncer, ['--version']), { env: environment(pgbouncer), encoding: 'utf8' }).split('\n')[0] ?? '',
};
const began = performance.now();
const ran: Ran[] = [];
for (const major of wanted) {
    const { ran: here, version } = await runMajor(major, chosen, rounds, console.error);
    ran.push(...here);
    facts.servers.push(version);
    facts.seconds = (performance.now() - began) / 1000;
    writeFileSync(join(stateFolder(), 'race.json'), JSON.stringify({ ran, facts }));
    // After each, so that what was run is not lost with what comes after it.
    if (complete) writeFileSync(new URL('../docs/proof.md', import.meta.url), page(ran, facts));
}
if (!complete) console.log(page(ran, facts));
const faults = ran.flatMap(({ major, entry, faults: found }) => found.map((fault) => `PostgreSQL ${major}: ${entry}: ${fault}`));
for (const fault of faults) console.error(fault);
console.error(`${chosen.length} ${chosen.length === 1 ? 'function' : 'functions'} on ${wanted.length} ${wanted.length === 1 ? 'server' : 'servers'}, ${Math.round(facts.seconds)} s: ${faults.length ? `${faults.length} faults` : 'no error and no deadlock but those that are told, no wrong end state'}`);
process.exit(faults.length ? exitCodes.findings : 0);
