import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import format from 'pg-format';
import type { Sql } from 'postgres';
import { parsedUrl, withConnection } from '../connection.js';
import { codeOf, exitCodes, UserError } from '../errors.js';
import { applyFile, type Applied } from './apply.js';
import { dbmateVersion } from './dbmate.js';
import { endSessions, fence, runOf, type Run } from './fence.js';
import { refuseSnapshot, tryGuard } from './guard.js';
import { repair } from './indexes.js';
import { know, ownTable, unless, type Known, type Target } from './known.js';
import { makeLedger, type Ledger } from './ledger.js';
import { spelled } from './lint.js';
import type { Event, Say } from './report.js';
import { isReady, reasons, type State } from './state.js';
import { waitForLock } from './wait.js';

export interface Limits {
    lockTimeoutMs?: number;
    /** How long to wait for another runner, or for what one has left. */
    maxWaitMs?: number;
    /** How often a file is tried of which nothing was done. */
    attempts?: number;
    signal?: AbortSignal;
    say?: Say;
}

export interface Options extends Target, Limits {
    /** Adopts what dbmate applied without us: the files at hand are taken for what was applied. */
    baseline?: boolean;
    dryRun?: boolean;
}

export interface Migrated {
    state: State;
    applied: Applied[];
    /** Of the run that had the lock; undefined when there was nothing to do. */
    run?: string;
}

/** What work under the lock is given. */
export interface Held {
    sql: Sql;
    known: Known;
    run: Run;
    pooled: boolean;
    /** Aborted when this process is to stop, or when the lock is lost. */
    stop: AbortSignal;
    deadline: number;
    say: Say;
}

export const defaults = { lockTimeoutMs: 5_000, maxWaitMs: 10 * 60_000, attempts: 10 };

const answerMs = 15_000;
/** For what runs to end after it was told to. */
const graceMs = 5_000;
const packageFile = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
export const packageVersion = (JSON.parse(packageFile) as { version: string }).version;

/** Brings the database to the head of the folder; any number of callers may do so at once, and die at any moment. */
export async function migrate(options: Options): Promise<Migrated> {
    const { baseline = false } = options;
    const enough = (state: State): boolean => isReady(state) && !(baseline && state.unadopted.length);
    return withConnection(options.url, async (sql) => {
        const known = await know(sql, options, options.signal);
        const state = await known.read();
        refuse(known, state);
        if (baseline && !state.facts.exists) {
            throw new UserError(`there is no ledger of dbmate at ${known.ledger.table}: name it with --table; nothing was applied`, exitCodes.usage);
        }
        if (enough(state) || options.dryRun) return { state, applied: [] };
        const result = await underLock(options, sql, known, state, (now) => {
            refuse(known, now);
            return enough(now);
        }, (held) => applyAll(options, held));
        return 'applied' in result ? result : { state: result, applied: [] };
    });
}

async function applyAll(options: Options, held: Held): Promise<Migrated> {
    const { sql, known, run, say } = held;
    const applied: Applied[] = [];
    const versions = { pgEnsure: packageVersion, dbmate: await dbmateVersion() };
    const prepared = makeLedger(sql, known.ledger).then(() => reconcile(sql, known.ledger));
    await unless(prepared, lateAt(held.deadline, known.ledger)).catch((error: unknown) => {
        if (codeOf(error) !== '42501') throw error;
        throw new UserError(`this role may not migrate: 42501: ${(error as Error).message}; set MIGRATION_DATABASE_URL to one that may, `
            + `or let it wait for another: ${known.command('wait')}`);
    });
    if (options.baseline) await adopt(held, await known.read());
    for (;;) {
        const state = await known.read();
        refuse(known, state);
        if (state.invalidIndexes.length) await repair(options.url, state, run, held.stop, say);
        const [file] = state.pending;
        if (!file) return { state: await readAlone(known), applied, run: run.id };
        applied.push(await applyFile({ ...held, ...limitsOf(options), url: options.url, state, file, versions }));
    }
}

/** Others may have locked the tables: that is waited for as long as for another runner. */
function lateAt(deadline: number, { table }: Ledger): AbortSignal {
    const late = new AbortController();
    const reason = new UserError(`others have locked ${table} or its history for as long as --max-wait allows: look into pg_locks`,
        exitCodes.busy);
    setTimeout(() => late.abort(reason), Math.max(deadline - Date.now(), 0)).unref();
    return late.signal;
}

/** The state that others will read when the lock, which is ours, is free. */
async function readAlone(known: Known): Promise<State> {
    const state = await known.read();
    return { ...state, facts: { ...state.facts, holder: null } };
}

/**
 * `work` while this process alone migrates, or the state that makes it needless. What it had in the server is gone when
 * this returns, however it ended.
 */
export async function underLock<T extends object>(
    options: Target & Limits, sql: Sql, known: Known, state: State,
    enough: (state: State) => boolean, work: (held: Held) => Promise<T>,
): Promise<T | State> {
    const { url, say = () => {}, signal = new AbortController().signal } = options;
    const deadline = Date.now() + (options.maxWaitMs ?? defaults.maxWaitMs);
    const id = randomBytes(6).toString('hex');
    const { pooled, serverVersion } = state.facts;
    say(connected(options, state, id));
    const take = () => tryGuard(url, known.ledger, serverVersion, `pg-ensure ${id}`);
    const guard = await waitForLock({ url, known, state, deadline, say, signal, take, enough });
    if (!('release' in guard)) return guard;

    say({ event: 'locked', pid: guard.pid });
    const run = runOf(known.ledger, id, pooled);
    const stop = AbortSignal.any([signal, guard.lost]);
    let ended: Promise<unknown> | undefined;
    const endWork = (): void => {
        ended = endSessions(sql, known.ledger, run).catch(() => {}); // when it cannot be reached it has ended by itself
    };
    try {
        await unless(answering(url), stop);
        stop.addEventListener('abort', endWork);
        stop.throwIfAborted();
        await refuseSnapshot(sql, guard);
        await fence(sql, known.ledger, run, deadline, stop, (remnant) => say({ event: 'remnant', ...remnant }));
        return await unless(work({ sql, known, run, pooled, stop, deadline, say }), stop, graceMs);
    } catch (error) {
        await Promise.race([ended, sleep(graceMs, undefined, { ref: false })]);
        throw stop.aborted ? stop.reason : error;
    } finally {
        stop.removeEventListener('abort', endWork);
        await guard.release();
    }
}

/** Somebody must answer beside the connection that holds the lock, and a third one in session pooling. */
async function answering(url: string): Promise<void> {
    const question = withConnection(url, (sql) => sql.unsafe('select 1').simple());
    question.catch(() => {});
    if (await Promise.race([question, sleep(answerMs, 'late', { ref: false })]) === 'late') {
        throw new UserError(`no other connection within ${answerMs / 1000} s while one holds the migration lock: give the pooler a `
            + 'default_pool_size of 2 or more (3 in session mode), or set MIGRATION_DATABASE_URL to the server itself', exitCodes.noDatabase);
    }
}

/** Throws when nothing may be applied. */
function refuse({ findings, command }: Known, state: State): void {
    if (state.state === 'diverged') throw new UserError(divergence(state, command), exitCodes.diverged);
    if (state.facts.standby && !isReady(state)) {
        throw new UserError(`this is a standby, and behind (${reasons(state)[0]}): migrate the primary`, exitCodes.behind);
    }
    const names = state.pending.map(({ name }) => name);
    const errors = findings().filter(({ file, rule, severity }) => (
        names.includes(file) && rule !== 'syntax' // of another version's parser: the server tells
        && (severity === 'error' || rule === 'session-setting' && state.facts.pooled)
    ));
    if (errors.length) throw new UserError(['nothing was applied', ...errors.map(spelled)].join('\n'), exitCodes.findings);
}

function divergence(state: State, command: Known['command']): string {
    const versions = state.edited.map(({ version }) => version);
    const edited = state.ledger.table === ownTable
        ? `put the files back, or replace what is installed: ${command('migrate --reinstall')}`
        : 'put the file back and write a new one; if the database has what it says now: '
            + versions.map((version) => command(`resolve ${version} --applied`)).join('; ');
    return [
        ...reasons(state).slice(0, state.edited.length + state.outOfOrder.length),
        ...(state.edited.length ? [edited] : []),
        ...(state.outOfOrder.length ? [`give it a newer version, or ${command('migrate --out-of-order')}`] : []),
    ].join('\n');
}

function connected({ url, source = 'DATABASE_URL' }: Target, { ledger, facts }: State, run: string): Event {
    const { host, pathname } = parsedUrl(url);
    return {
        event: 'connected', database: `${host}${pathname}`, source, path: facts.pooled ? 'pooler' : 'direct',
        ledger: ledger.table, key: ledger.key, run,
    };
}

/** What a run that died had applied and not finished writing down. */
async function reconcile(sql: Sql, { sql: ledger, history }: Ledger): Promise<void> {
    await sql.unsafe(`
        update ${history} as h
        set applied_at = coalesce(h.applied_at, clock_timestamp()), duration = clock_timestamp() - h.started_at
        where (h.applied_at is null or h.duration is null) and h.version in (select l.version from ${ledger} as l)`).simple();
}

async function adopt({ sql, known: { ledger }, run, say }: Held, { unadopted }: State): Promise<void> {
    for (const { name, version, sha256 } of unadopted) {
        await sql.unsafe(format(`
            insert into ${ledger.history} (version, file, sha256, run_id, applied_at, duration, pg_ensure)
            values (%L, %L, %L, %L, clock_timestamp(), '0', %L)`, version, name, sha256, run.id, packageVersion)).simple();
        say({ event: 'recorded', file: name, version, why: 'applied without us; the file at hand is taken for what was applied' });
    }
}

function limitsOf({ lockTimeoutMs, attempts }: Limits): { lockTimeoutMs: number; attempts: number } {
    return { lockTimeoutMs: lockTimeoutMs ?? defaults.lockTimeoutMs, attempts: attempts ?? defaults.attempts };
}
