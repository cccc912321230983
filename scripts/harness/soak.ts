import { setTimeout as pause } from 'node:timers/promises';
import postgres from 'postgres';
import { temporaryServer, startServer, type Major, type Server } from '../embedded.js';
import { migrate } from '../migrate/run.js';
import { startPooler, type PgBouncer, type Pooler } from '../pooler.js';
import { aftermath, left, madeNothing, outcomesOf, pictureOf, type Looker } from './aftermath.js';
import { clientProcess, recovered, type ClientProcess } from './faults.js';
import { connectOptions, settle, type Outcome } from './sessions.js';
import { cleanup, targets as all, type Target } from './targets.js';

export const killKinds = ['cancel', 'terminate', 'client', 'pooler', 'backend', 'postmaster'] as const;
export type KillKind = (typeof killKinds)[number];

/** Of 100 kills; the last two cost a recovery each. */
const weights: Record<KillKind, number> = { cancel: 36, terminate: 31, client: 21, pooler: 6, backend: 4, postmaster: 2 };

export interface SoakOptions {
    major: Major;
    pgbouncer: PgBouncer;
    kills: number;
    /** Decides kind, pause and victim's place of each kill, and each replica's order of calls and choice of transactions; not how they meet. */
    seed: number;
    minutes: number;
    killsPerRound?: number;
    targets?: readonly Target[];
    say?: (progress: string) => void;
}

export interface SoakReport {
    seed: number;
    rounds: number;
    kills: Record<KillKind, number>;
    calls: number;
    /** Calls that made something, whether or not it was then rolled back. */
    made: number;
    /** Targets checked after the round in which they were made. */
    checked: number;
    codes: Record<string, number>;
    violations: string[];
    seconds: number;
}

/** What a kill may come to for a caller. Deadlocks, duplicates and XX000 are not among these. */
const expected = /^(ok|57014|57P0[1-5]|08\w{3}|CONNECTION_\w+|CONNECT_TIMEOUT|ECONN\w+|EPIPE|KILLED|55P03)$/;
const noAnswerMs = 90_000;
const conductorName = 'pg-ensure conductor';
const settings = {
    max_connections: '100', max_prepared_transactions: '5',
    // What was committed must outlive kill -9, which can stop a write in its middle.
    synchronous_commit: 'on', full_page_writes: 'on',
};

/** Numbers from 0 to 1 that the seed decides. */
export function generator(seed: number): () => number {
    let state = seed >>> 0;
    return () => {
        state = (state + 0x6d2b79f5) >>> 0;
        let mixed = Math.imul(state ^ (state >>> 15), state | 1);
        mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
}

interface Client {
    process?: ClientProcess;
    attempt: (statement: string) => Promise<Outcome>;
    /** Whatever it was, a new one. */
    renew: () => Promise<void>;
    end: () => Promise<void>;
}

function inProcess(url: string, name: string): Client {
    const connect = () => postgres(url, { ...connectOptions, connect_timeout: 5, connection: { application_name: name } });
    let sql = connect();
    const renew = async (): Promise<void> => {
        const old = sql;
        sql = connect();
        await old.end({ timeout: 0 });
    };
    return {
        renew,
        end: () => sql.end({ timeout: 0 }),
        async attempt(statement) {
            const outcome = await settle(sql.unsafe(statement).simple());
            if (outcome.error && (outcome.error as { severity?: string }).severity !== 'ERROR') await renew();
            return outcome;
        },
    };
}

function ownProcess(url: string, name: string): Client {
    const client: Client = {
        process: clientProcess(url, name),
        attempt: (statement) => (client.process as ClientProcess).attempt(statement),
        async renew() {
            await client.process?.kill();
            client.process = clientProcess(url, name);
        },
        end: async () => client.process?.kill(),
    };
    return client;
}

/** Targets of one set of calls, and what each was before anybody called. */
interface TargetSet {
    ids: string[];
    before: string[];
}

/** Replicas call all functions on shared targets while they are killed; after each round of kills nothing may be half-made, and all converges. */
export async function soak(options: SoakOptions): Promise<SoakReport> {
    const { major, kills, seed, minutes, killsPerRound = 25, targets = all, say = () => {} } = options;
    const began = performance.now();
    const report: SoakReport = {
        seed, rounds: 0, kills: Object.fromEntries(killKinds.map((kind) => [kind, 0])) as SoakReport['kills'],
        calls: 0, made: 0, checked: 0, codes: {}, violations: [], seconds: 0,
    };
    const done = (): number => Object.values(report.kills).reduce((sum, count) => sum + count, 0);
    const late = (): boolean => performance.now() - began > minutes * 60_000;
    const server = await temporaryServer(major, settings);
    let pooler: Pooler | undefined;
    const clients: Client[] = [];
    try {
        await migrate({ url: server.url });
        const { port, password } = server;
        pooler = await startPooler({
            pgbouncer: options.pgbouncer, server: { host: '127.0.0.1', port }, users: [{ name: 'postgres', password }], poolSize: 4,
            settings: { server_login_retry: '1' },
        });
        const pooled = pooler.url('postgres', 'postgres', password);
        for (const [count, url, open] of [[5, server.url, inProcess], [4, pooled, inProcess], [3, server.url, ownProcess], [3, pooled, ownProcess]] as const) {
            for (let n = 0; n < count; n += 1) clients.push(open(url, `replica ${clients.length}`));
        }
        const random = generator(seed);
        while (done() < kills && !late() && report.violations.length === 0) {
            report.rounds += 1;
            const goal = Math.min(done() + killsPerRound, kills);
            const stage = newStage(report, server, targets, clients.length);
            const replicas = clients.map((client, n) => replica(client, generator(seed * 31 + report.rounds * 1009 + n), stage).catch((error: unknown) => {
                report.violations.push(`round ${report.rounds}: replica ${n} stopped: ${String(error)}`);
            }));
            while (done() < goal && !late()) {
                await pause(random() * 250);
                const kind = choose(random);
                await kill(kind, random, server, pooler, clients);
                report.kills[kind] += 1;
            }
            stage.over = true;
            const conductor = inProcess(server.url, conductorName);
            try {
                await endOthers(conductor, replicas);
                const found = await check(lookerOf(conductor), targets, await Promise.all(stage.sets), report);
                report.violations.push(...found.map((line) => `round ${report.rounds}: ${line}`));
            } finally {
                await conductor.end();
            }
            say(`round ${report.rounds}: ${done()} of ${kills} kills, ${report.calls} calls, ${report.violations.length} violations, ${Math.round((performance.now() - began) / 1000)} s`);
        }
    } finally {
        await Promise.all(clients.map((client) => client.end()));
        await pooler?.stop();
        await server.stop('immediate');
    }
    report.seconds = Math.round((performance.now() - began) / 1000);
    return report;
}

function choose(random: () => number): KillKind {
    let place = random() * 100;
    for (const kind of killKinds) if ((place -= weights[kind]) < 0) return kind;
    return 'cancel';
}

interface Stage {
    over: boolean;
    report: SoakReport;
    targets: readonly Target[];
    sets: Promise<TargetSet>[];
    /** The set after number `n`, once half of the replicas have asked for it. */
    after: (n: number) => Promise<TargetSet>;
}

function newStage(report: SoakReport, server: Server, targets: readonly Target[], replicas: number): Stage {
    const asked: number[] = [];
    const enough: (() => void)[] = [];
    const name = (n: number, place: number): string => `s${report.rounds}_${n}_${place}`;
    const prepare = async (n: number): Promise<TargetSet> => {
        const ids = targets.map((_, place) => name(n, place));
        const conductor = inProcess(server.url, conductorName);
        try {
            const looker = lookerOf(conductor);
            for (;;) {
                const { error } = await conductor.attempt(targets.map((target, place) => `${cleanup(ids[place] ?? '')}; ${target.setup(ids[place] ?? '')}`).join('; '));
                try {
                    if (error) throw error;
                    const before: string[] = [];
                    for (const [place, target] of targets.entries()) before.push(await pictureOf(looker, target, ids[place] ?? ''));
                    return { ids, before };
                } catch (cause) {
                    const { code = '' } = cause as { code?: string };
                    if (!expected.test(code)) throw cause;
                    await pause(20); // the server was killed: nobody has seen these yet
                }
            }
        } finally {
            await conductor.end();
        }
    };
    const stage: Stage = {
        over: false, report, targets, sets: [prepare(0)],
        async after(n) {
            asked[n] = (asked[n] ?? 0) + 1;
            if (asked[n] * 2 >= replicas || stage.over) {
                stage.sets[n + 1] ??= prepare(n + 1);
                enough[n]?.();
            }
            if (!stage.sets[n + 1]) await Promise.race([pause(500), new Promise<void>((ready) => (enough[n] = both(enough[n], ready)))]);
            return stage.sets[n + 1] ??= prepare(n + 1);
        },
    };
    return stage;
}

const both = (one: (() => void) | undefined, other: () => void) => (): void => {
    one?.();
    other();
};

/** Calls each function of a set until it has succeeded, in an order of its own, then goes on to the next set. */
async function replica(client: Client, random: () => number, stage: Stage): Promise<void> {
    for (let n = 0, set = await stage.sets[0] as TargetSet; !stage.over; set = await stage.after(n), n += 1) {
        const places = stage.targets.map((_, place) => ({ place, order: random() })).sort((a, b) => a.order - b.order);
        for (const { place } of places) {
            const target = stage.targets[place] as Target;
            for (let settled = false; !settled && !stage.over;) settled = await oneCall(client, target, target.call(set.ids[place] ?? ''), random, stage.report);
        }
    }
}

async function oneCall(client: Client, target: Target, call: string, random: () => number, report: SoakReport): Promise<boolean> {
    const transaction = random() < 0.4 && !target.alone;
    const givesUp = random() < 0.15;
    if (transaction) tally(report, 'begin', await patiently(client, 'begin'));
    const outcome = await patiently(client, call);
    report.calls += 1;
    tally(report, target.name, outcome);
    if (!outcome.error && !madeNothing(outcomesOf(outcome))) report.made += 1;
    let ended: Outcome | undefined;
    if (transaction) tally(report, 'commit', ended = await patiently(client, outcome.error || givesUp ? 'rollback' : 'commit'));
    if (outcome.code === 'KILLED') await client.renew();
    else if (outcome.error && !/^57014$/.test(outcome.code)) await pause(20 + random() * 80); // a server that recovers is not to be pressed
    return !outcome.error && !ended?.error && !(transaction && givesUp);
}

async function patiently(client: Client, statement: string): Promise<Outcome> {
    const late = new AbortController();
    const answer = await Promise.race([
        client.attempt(statement),
        pause(noAnswerMs, undefined, { signal: late.signal }).then(() => undefined, () => undefined),
    ]);
    late.abort();
    return answer ?? { rows: [], code: 'NO ANSWER', error: new Error(`no answer in ${noAnswerMs / 1000} s: ${statement}`) };
}

function tally(report: SoakReport, what: string, { code, error }: Outcome): void {
    if (what.includes('_v1') || error) report.codes[code] = (report.codes[code] ?? 0) + 1;
    if (!expected.test(code)) report.violations.push(`round ${report.rounds}: ${what} came to ${code}: ${error?.message}`);
}

async function kill(kind: KillKind, random: () => number, server: Server, pooler: Pooler, clients: Client[]): Promise<void> {
    const place = random();
    if (kind === 'pooler') return pooler.restart();
    if (kind === 'client') {
        const processes = clients.flatMap((client) => client.process ?? []);
        return processes[Math.floor(place * processes.length)]?.kill();
    }
    if (kind === 'postmaster') return restarted(server);
    const conductor = inProcess(server.url, conductorName);
    try {
        for (;;) {
            const { rows } = await conductor.attempt(`select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'
                and application_name <> '${conductorName}' and state <> 'idle' order by pid`);
            const pid = Number(rows[Math.floor(place * rows.length)]?.pid ?? 0);
            if (!pid) continue;
            if (kind === 'backend') {
                process.kill(pid, 'SIGKILL');
                break;
            }
            const { rows: [sent] } = await conductor.attempt(`select pg_${kind}_backend(${pid}) as sent`);
            if (sent?.sent) break;
        }
    } finally {
        await conductor.end();
    }
    if (kind === 'backend') await recovered(server.url);
}

/** kill -9 of the postmaster: its backends notice and go, then it is started again, where it was. */
async function restarted({ major, dataFolder, password, port, url }: Server): Promise<void> {
    const { pid } = await startServer({ major, dataFolder, password, port, settings, durable: false }); // the one that runs
    process.kill(pid, 'SIGKILL');
    for (const end = Date.now() + 60_000; ; await pause(50)) {
        try {
            const again = await startServer({ major, dataFolder, password, port, settings, durable: false });
            if (again.port === port && again.pid !== pid) break;
            if (again.port !== port) await again.stop('immediate');
        } catch (error) { // backends of the old one still have its shared memory
            if (Date.now() > end) throw error;
        }
    }
    await recovered(url);
}

/** The round is over for all: what still runs in the server is ended, until every replica has come back. */
async function endOthers(conductor: Client, replicas: Promise<void>[]): Promise<void> {
    let back = false;
    const all = Promise.all(replicas).finally(() => (back = true));
    for (const end = Date.now() + noAnswerMs; !back && Date.now() < end; await pause(50)) {
        await conductor.attempt(`select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and backend_type = 'client backend' and application_name <> '${conductorName}'`);
    }
    await all;
}

const lookerOf = (client: Client): Looker => ({
    attempt: client.attempt,
    async run(statement) {
        const { rows, error } = await client.attempt(statement);
        if (error) throw error;
        return rows;
    },
});

async function check(looker: Looker, targets: readonly Target[], sets: TargetSet[], report: SoakReport): Promise<string[]> {
    const found = await left(looker);
    for (const { ids, before } of sets) {
        for (const [place, target] of targets.entries()) {
            const id = ids[place] ?? '';
            const { violations } = await aftermath(looker, target, id, before[place] ?? '', 0);
            found.push(...violations.map((line) => `${target.name} ${id}: ${line}`));
            report.checked += 1;
        }
    }
    if (found.length === 0) for (const { ids } of sets) await looker.run(ids.map(cleanup).join(';'));
    return found;
}
