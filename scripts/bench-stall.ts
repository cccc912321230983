import { once } from 'node:events';
import { cpus, tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import postgres from 'postgres';
import { fill, settingsOf } from './bench-rows.js';
import { majorOf, temporaryServer } from './embedded.js';
import { at } from './harness/databases.js';
import { connectOptions } from './harness/sessions.js';
import { migrate } from './migrate/run.js';
import { emptyReport, runPlan } from './run/run.js';

/** `make bench-stall`: how long a writer waits while a table is made unique. docs/unique.md quotes it. */
const rows = Number(process.env.ROWS || 1_000_000);
const writers = 4;
const pauseMs = 4000;
const call = '\'t\', \'{a,b}\', keep => \'id\', losers => \'delete\'';
const [before, after] = ['(nothing: before)', '(nothing: after)'];
const now = (): number => performance.timeOrigin + performance.now();

interface Phase { name: string; from: number; to: number; retries: number }

/** Four connections insert as fast as they can, one row each statement, about every tenth a duplicate. */
async function write({ url }: { url: string }): Promise<void> {
    const samples: number[] = []; // start, end, whether it was refused
    let stopped = false;
    parentPort?.once('message', () => (stopped = true));
    parentPort?.postMessage('writing');
    await Promise.all([...Array(writers).keys()].map(async (writer) => {
        const sql = postgres(url, connectOptions);
        for (let n = 0; !stopped; n++) {
            const id = rows + 1 + n * writers + writer;
            const key = Math.random() < 0.1 ? 1 + Math.floor(Math.random() * rows * 0.9) : id;
            const began = now();
            const refused = await sql.unsafe(`insert into t values (${id}, ${key}::bigint * 2654435761 % 2147483647, 'user${key}')`).simple()
                .then(() => 0, (error: postgres.PostgresError) => (error.code === '23505' ? 1 : Promise.reject(error)));
            samples.push(began, now(), refused);
        }
        await sql.end();
    }));
    parentPort?.postMessage(samples);
}

async function underLoad(server: { url: string }, admin: postgres.Sql, name: string, work: (url: string, phase: (name: string) => Phase) => Promise<void>):
Promise<void> {
    await admin.unsafe('create database load template data');
    const url = at(server.url, 'load');
    const phases: Phase[] = [];
    const phase = (title: string): Phase => {
        const begun = { name: title, from: now(), to: Infinity, retries: 0 };
        const last = phases.at(-1);
        if (last) last.to = begun.from;
        phases.push(begun);
        return begun;
    };
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { url } });
    await once(worker, 'message');
    phase(before);
    await sleep(pauseMs);
    await work(url, phase);
    phase(after);
    await sleep(pauseMs);
    phase('');
    worker.postMessage('stop');
    const [samples] = (await once(worker, 'message')) as [number[]];
    report(name, phases.slice(0, -1), samples);
    await admin.unsafe('drop database load with (force)');
}

function report(name: string, phases: Phase[], samples: number[]): void {
    const within = ({ from, to }: Pick<Phase, 'from' | 'to'>): string => {
        const taken: number[] = [];
        let refused = 0;
        let ended = 0;
        for (let n = 0; n < samples.length; n += 3) {
            const [start = 0, end = 0] = [samples[n], samples[n + 1]];
            if (end < from || start > to) continue;
            taken.push(end - start);
            if (end <= to) ended += 1;
            refused += samples[n + 2] ?? 0;
        }
        taken.sort((a, b) => a - b);
        const q = (share: number): string => (taken[Math.floor((taken.length - 1) * share)] ?? NaN).toFixed(1);
        const rate = ended * 1000 / (to - from);
        return `${q(0.5)} | ${q(0.99)} | ${q(1)} | ${Math.round(rate).toLocaleString('en')} | ${refused}`;
    };
    const first = phases[0]?.to ?? 0;
    const last = phases.at(-1)?.from ?? 0;
    console.log(`\n### ${name}: ${((last - first) / 1000).toFixed(2)} s in all\n`);
    console.log('| statement | ms | retries | writer p50, ms | p99 | longest | inserts / s | refused |\n|---|---|---|---|---|---|---|---|');
    for (const phase of phases) {
        console.log(`| ${phase.name} | ${Math.round(phase.to - phase.from)} | ${phase.retries} | ${within(phase)} |`);
    }
    console.log(`| **all** | ${Math.round(last - first)} | | ${within({ from: first, to: last })} |`);
}

const asking = 'asking for the plan';

/** As `pg-ensure run` does it: a phase for each statement, from its start to the start of what comes next. */
async function plan(url: string, phase: (name: string) => Phase): Promise<void> {
    let now = phase(asking);
    await runPlan({
        url, query: `select * from ensure.plan_unique_v1(${call})`, lockTimeoutMs: 50, maxWaitMs: 600_000, stop: new AbortController().signal,
        say: (event) => {
            if (event.event === 'running') now = phase(event.statement.replace(/\s+/g, ' ').split(/ on |\(|;/)[0] ?? '');
            else if (event.event === 'retrying') now.retries += 1;
            else if (event.event === 'done') now = phase(asking);
        },
    }, emptyReport());
}

/** What the gate costs who writes: the plan up to its gate, a while after each step that writers notice. */
async function gate(url: string, phase: (name: string) => Phase): Promise<void> {
    const sql = postgres(url, connectOptions);
    for (let gated = false; !gated;) {
        const steps = await sql.unsafe<{ statement: string }[]>(`select statement from ensure.plan_unique_v1(${call})`);
        for (const { statement } of steps) {
            await sql.unsafe(statement).simple();
            gated ||= statement.includes('_make_gate_v1(');
        }
        phase(gated ? 'with the gate and the index it looks in' : 'with the index that the gate looks in');
        await sleep(pauseMs);
    }
    await sql.end();
}

async function main(): Promise<void> {
    const server = await temporaryServer(majorOf(process.env.PG), {}, tmpdir());
    const admin = postgres(server.url, connectOptions);
    try {
        await admin.unsafe('create database data');
        await migrate({ url: at(server.url, 'data') });
        const sql = postgres(at(server.url, 'data'), connectOptions);
        await fill(sql, rows, Math.round(rows * 0.9));
        await sql.end();
        console.log(`PostgreSQL ${server.major}, ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}, ${await settingsOf(admin)}`);
        console.log(`${rows.toLocaleString('en')} rows, 10 % duplicates, ${writers} writers at full speed, every tenth row a duplicate`);
        await underLoad(server, admin, 'ensure_unique_v1', async (url, phase) => {
            phase('ensure_unique_v1');
            const own = postgres(url, connectOptions);
            await own.unsafe(`select from ensure.ensure_unique_v1(${call})`);
            await own.end();
        });
        await underLoad(server, admin, 'plan_unique_v1 by pg-ensure run', plan);
        await underLoad(server, admin, 'The gate alone', gate);
    } finally {
        await admin.end();
        await server.stop('immediate');
    }
}

if (isMainThread) await main();
else await write(workerData as { url: string });
