import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, exitCodes, UserError } from '../errors.js';
import { upCopy } from './copy.js';
import { dbmate, type Complaint } from './dbmate.js';
import { finish, forget, isApplied, record, remember, takeOver } from './history.js';
import { endSessions, fence, work } from './fence.js';
import type { MigrationFile, Section } from './files.js';
import { isBuilt, repair } from './indexes.js';
import type { Held } from './run.js';
import type { State } from './state.js';
import { concurrentIndexes, nature, type Nature } from './statements.js';

export interface Applied {
    file: string;
    version: string;
    seconds: number;
}

export interface Job extends Held {
    url: string;
    state: State;
    file: MigrationFile;
    versions: { pgEnsure: string; dbmate: string };
    lockTimeoutMs: number;
    attempts: number;
}

// lock_not_available, deadlock_detected, serialization_failure.
const passing = ['55P03', '40P01', '40001'];
// "Tuple concurrently updated" has no code of its own, and XX000 may also be what never passes.
const perhapsPassing = { code: 'XX000', attempts: 3 };
const [shortest, longest] = [100, 5_000];

/** Applies one file, by one call of dbmate for each attempt; the ledger tells whether it is done. */
export async function applyFile(job: Job): Promise<Applied> {
    const { sql, known: { ledger }, file, run, stop, say } = job;
    const kind = file.up?.transaction ? 'block' : nature(file.up as Section);
    const begun = performance.now();
    const done = async (why?: string): Promise<Applied> => {
        await finish(sql, ledger, file, run);
        const applied = { file: file.name, version: file.version, seconds: Math.round(performance.now() - begun) / 1000 };
        say(why ? { event: 'recorded', ...applied, why } : { event: 'applied', ...applied });
        return applied;
    };
    refuseOpaque(job, kind);
    const earlier = await foundBuilt(job, kind);
    if (earlier) return done(earlier);
    for (let attempt = 1, pause = shortest; ; attempt += 1, pause = Math.min(pause * 2, longest)) {
        stop.throwIfAborted();
        await begin(job);
        if (await isApplied(sql, ledger, file)) return done('a run that was thought dead has applied it');
        say({ event: 'applying', file: file.name, attempt });
        const watch = watchBlockers(job);
        const complaint = await watch.during(call(job));
        stop.throwIfAborted();
        const ended = !isUncertain(complaint) || await endSessions(sql, ledger, run);
        if (await isApplied(sql, ledger, file)) return done();
        const late = ended && complaint.code !== '42P07' && await foundBuilt({ ...job, state: await job.known.read() }, kind);
        if (late) return done(late);
        const nothingDone = ended && kind !== 'opaque';
        const again = passing.includes(complaint.code)
            || complaint.code === perhapsPassing.code && attempt < perhapsPassing.attempts;
        if (!nothingDone || !again || attempt >= job.attempts) {
            await (nothingDone ? forget(sql, ledger, file, run) : remember(sql, ledger, file, complaint));
            const unknown = nothingDone ? [] : [`how far it came nobody can tell: look, then ${job.known.command(`resolve ${file.version} --applied`)}, `
                + 'or --not-applied to run it again'];
            throw failure(file, complaint, watch.blockers(), attempt, [...unknown, ...await broken(job)]);
        }
        say({ event: 'retrying', file: file.name, attempt, code: complaint.code, message: complaint.message });
        await sleep(pause * (0.5 + Math.random()), undefined, { signal: stop });
        await fence(sql, ledger, run, job.deadline, stop, (remnant) => say({ event: 'remnant', ...remnant }));
        const now = await job.known.read();
        if (now.invalidIndexes.length) await repair(job.url, now, run, stop, say);
    }
}

function call({ url, known: { ledger }, run, pooled, state, file, lockTimeoutMs, stop }: Job): Promise<Complaint> {
    const watchClient = state.facts.linux;
    return dbmate({
        url, table: ledger.table, application: run.application, pooled, command: 'migrate', signal: stop,
        settings: watchClient ? { client_connection_check_interval: '500' } : {},
        file: { name: file.name, text: upCopy(file, file.up as Section, ledger, run, { lockTimeoutMs, watchClient }) },
    });
}

/** Without the server's own word on how it ended, what dbmate has begun may still be running. */
const isUncertain = ({ code }: Complaint): boolean => code === '' || code.startsWith('08');

/** What nobody can tell of a file that a run has begun is for a person to tell. */
function refuseOpaque({ state, file, known }: Job, kind: Nature): void {
    const earlier = state.facts.unfinished.find(({ version }) => version === file.version);
    if (kind !== 'opaque' || !earlier || earlier.finished) return;
    const how = earlier.error ? `and failed (${earlier.error})` : 'and died';
    throw new UserError(`${file.name} was begun by run ${earlier.run} at ${earlier.since} ${how}: nobody can tell how far it `
        + `came; look, then say which it is: ${known.command(`resolve ${file.version} --applied`)}, or --not-applied to run it again`);
}

/** Records an index that a run has built and did not come to record. */
async function foundBuilt(job: Job, kind: Nature): Promise<string | undefined> {
    const { sql, state, file, known: { ledger } } = job;
    const earlier = state.facts.unfinished.find(({ version }) => version === file.version);
    const [index] = concurrentIndexes(file.up);
    if (kind !== 'concurrent index' || !earlier || !index || !await isBuilt(sql, index)) return undefined;
    await record(sql, ledger, file.version);
    return `run ${earlier.run} had built the index, and it was not in the ledger yet`;
}

/** Takes the file over: whoever had begun it can no longer say that it is done; who is about to say so is waited for. */
async function begin({ sql, known: { ledger }, file, run, versions, deadline, stop }: Job): Promise<void> {
    for (;;) {
        stop.throwIfAborted();
        try {
            return await takeOver(sql, ledger, file, run, versions);
        } catch (error) {
            if (codeOf(error) !== '55P03') throw error;
            if (Date.now() < deadline) continue;
            throw new UserError(`${file.name} is still being applied by a run that was thought dead, or its row in `
                + `${ledger.history} is locked: look into pg_locks, or wait longer (--max-wait)`, exitCodes.busy);
        }
    }
}

async function broken({ known, file }: Job): Promise<string[]> {
    const own = concurrentIndexes(file.up).map(({ name }) => name);
    const { invalidIndexes } = await known.read();
    return invalidIndexes.filter(({ name }) => own.includes(name)).map(({ index, table }) => (
        `index ${index} on ${table} is left invalid; the next run drops it first`
    ));
}

function failure(file: MigrationFile, complaint: Complaint, blockers: string, attempts: number, remnants: string[]): UserError {
    const line = complaint.line ? `:${complaint.line + (file.up?.line ?? 1) - 1}` : '';
    const code = complaint.code ? `${complaint.code}: ` : '';
    const waited = blockers && complaint.code === '55P03'
        ? [`it waited for ${blockers}: run again when they are done, or give it longer (--lock-timeout)`] : [];
    const tried = attempts > 1 ? `, tried ${attempts} times` : '';
    const first = `${file.name}${line}: ${code}${complaint.message}; it is not applied${tried}`;
    return new UserError([first, ...waited, ...remnants].join('\n'));
}

interface Watch {
    during: <T>(work: Promise<T>) => Promise<T>;
    /** Those seen last. */
    blockers: () => string;
}

/** Says who keeps the file waiting, once for each set of them, and that it is still running. */
function watchBlockers({ sql, known, file, run, say, lockTimeoutMs }: Job): Watch {
    let last = '';
    const begun = performance.now();
    const over = new AbortController();
    const watch = async (): Promise<void> => {
        for (let ticks = 1; ; ticks += 1) {
            await sleep(Math.min(250, lockTimeoutMs / 2), undefined, { signal: over.signal });
            if (ticks % 40 === 0) say({ event: 'working', file: file.name, seconds: (performance.now() - begun) / 1000 });
            const rows = await sql.unsafe<{ blocker: string }[]>(`
                select format('pid %s (%s, %s, since %s)', b.pid, b.application_name, coalesce(b.state, 'hidden'),
                    b.xact_start) as blocker
                from pg_stat_activity as a cross join unnest(pg_blocking_pids(a.pid)) as p (pid)
                join pg_stat_activity as b on b.pid = p.pid
                where a.state = 'active' and ${work(known.ledger, run, 'mine')}`).simple();
            const blockers = rows.map(({ blocker }) => blocker).join(', ');
            if (blockers && blockers !== last) say({ event: 'blocked', file: file.name, blockers });
            last = blockers || last;
        }
    };
    return {
        blockers: () => last,
        during: async (work) => {
            const watching = watch().catch((error: unknown) => {
                if (over.signal.aborted) return;
                say({ event: 'warning', message: `who blocks ${file.name} cannot be told: ${(error as Error).message}` });
            });
            try {
                return await work;
            } finally {
                over.abort();
                await watching;
            }
        },
    };
}
