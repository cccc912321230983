import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Notice } from 'postgres';
import { withConnection } from '../connection.js';
import { exitCodes, UserError } from '../errors.js';
import { endSessions, fence, runOf, work as workOf } from '../migrate/fence.js';
import { refuseSnapshot } from '../migrate/guard.js';
import type { ServerMessage } from '../print.js';
import type { Failure, Limits } from './attempts.js';
import { askPlan, planLock, type Plan, type Row } from './plan.js';
import { shown, type Say } from './report.js';
import { graceMs, withSession, type Opening } from './session.js';
import { runStatement, type Work } from './statement.js';
import { takeTurn } from './turn.js';
import { watcher, type Watch } from './watch.js';

export interface Options extends Limits {
    url: string;
    query: string;
    dryRun?: boolean;
    stop: AbortSignal;
    say: Say;
}

/** A statement, with all the runs that followed each other. */
export interface Entry {
    step: number;
    statement: string;
    inTransaction: boolean;
    runs: number;
    retries: number;
    seconds: number;
    /** The sum of what its rows called row_count. */
    rows: number | null;
    outcome: 'done' | 'failed';
}

/** What was done, whether or not it came to an end. */
export interface Report {
    /** As it was when it was asked for first. */
    plan: Row[];
    lock: string | null;
    run: string | null;
    asked: number;
    statements: Entry[];
    failure: Failure | null;
}

export const emptyReport = (): Report => ({ plan: [], lock: null, run: null, asked: 0, statements: [], failure: null });

/** A plan that comes back so often, all of it done and nothing swept, is none. */
const fruitless = 2;
const answerMs = 15_000;

/** Runs what the plan says until it says nothing more; any number of callers may do so at once, and die at any moment. */
export async function runPlan(options: Options, report: Report): Promise<void> {
    const watch = watcher(options.url, options.say);
    try {
        await watched({ ...options, watch }, report);
    } finally {
        await watch.end();
    }
}

type Watched = Options & { watch: Watch };

async function watched({ url, query, dryRun = false, ...options }: Watched, report: Report): Promise<void> {
    const { say } = options;
    const onnotice = (notice: Notice): void => say({ event: 'notice', notice: notice as unknown as ServerMessage });
    const failed = (failure: Failure): void => void (report.failure = failure);
    const id = randomBytes(6).toString('hex');
    const taken = await withSession({ url, stop: options.stop, onnotice }, async (session) => {
        const plan = await askPlan({ ...options, id, session, failed }, query);
        report.plan = dryRun ? plan.rows : plan.rows.map((row) => ({ ...row, statement: shown(row.statement) }));
        report.asked = 1;
        if (plan.elsewhere.length && plan.rows.length) say({ event: 'warning', message: `left out: what is for ${databases(plan.elsewhere)}` });
        if (!plan.rows.length) refuseElsewhere(plan);
        if (!plan.rows.length || dryRun) return undefined;
        if (session.facts.standby) {
            throw new UserError('this is a standby: run the plan on the primary; --dry-run shows it', exitCodes.behind);
        }
        const lock = planLock(query, plan);
        Object.assign(report, { lock: lock.key, run: id });
        return { guard: await takeTurn({ ...options, url, session, lock, run: id }), lock, pooled: session.facts.pooled };
    });
    if (!taken) return;
    const { guard, lock, pooled } = taken;
    say({ event: 'locked', pid: guard.pid, run: id });
    const run = runOf(lock, id, pooled);
    const stop = AbortSignal.any([options.stop, guard.lost]);
    const mine = workOf(lock, run, 'mine');
    const opening: Opening = { url, stop, onnotice, patienceMs: answerMs };
    try {
        await withSession({ ...opening, application: run.application }, async (session) => {
            await refuseSnapshot(session.sql, guard);
            const deadline = Date.now() + options.maxWaitMs;
            await fence(session.sql, lock, run, deadline, stop, (remnant) => say({ event: 'remnant', ...remnant }));
            await converge({ ...options, id, stop, session, opening, run, mine, failures: new Map(), failed }, query, report);
        });
    } catch (error) {
        if (!stop.aborted) throw error;
        // What was cancelled has ended; this is for what would not hear.
        const ended = withConnection(url, (sql) => endSessions(sql, lock, run)).catch(() => {});
        await Promise.race([ended, sleep(graceMs, undefined, { ref: false })]);
        throw stop.reason;
    } finally {
        await guard.release();
    }
}

const databases = (names: string[]): string => `the database${names.length > 1 ? 's' : ''} ${names.join(', ')}`;

/** A row that names another database is never run here, and the plan has not come to its end. */
function refuseElsewhere({ elsewhere }: Plan): void {
    if (!elsewhere.length) return;
    throw new UserError(`nothing is left to do in this database; the plan goes on in ${databases(elsewhere)}: run it there`,
        exitCodes.findings);
}

async function converge(work: Work, query: string, report: Report): Promise<void> {
    const seen = new Map<string, number>();
    for (;;) {
        const plan = await askPlan(work, query);
        const { rows } = plan;
        report.asked += 1;
        if (!rows.length) return refuseElsewhere(plan);
        const text = JSON.stringify(rows.map(({ statement, inTransaction }) => [statement, inTransaction]));
        const times = seen.get(text) ?? 0;
        if (times >= fruitless) {
            throw new UserError(`the plan makes no progress: it was done ${times} times, without an error, and asked again it says `
                + `the same; its first statement is ${shown(rows[0]?.statement ?? '')}`);
        }
        seen.set(text, times + 1);
        for (const row of rows) {
            const { swept, askAgain } = await runRow(work, row, report);
            if (swept || askAgain) seen.clear();
            if (askAgain) break;
        }
    }
}

async function runRow(work: Work, row: Row, report: Report): Promise<{ swept: boolean; askAgain: boolean }> {
    const { step, inTransaction, why } = row;
    const statement = shown(row.statement);
    let entry = report.statements.at(-1);
    if (entry?.statement !== statement) {
        entry = { step, statement, inTransaction, runs: 0, retries: 0, seconds: 0, rows: null, outcome: 'failed' };
        report.statements.push(entry);
        work.say({ event: 'running', step, statement, inTransaction, why });
    }
    const begun = performance.now();
    entry.runs += 1;
    entry.outcome = 'failed';
    try {
        const { retries, rows, askAgain } = await runStatement(work, row);
        entry.retries += retries;
        if (rows !== null) entry.rows = (entry.rows ?? 0) + rows;
        if (!askAgain || inTransaction) entry.outcome = 'done'; // what asks again there has waited
        return { swept: (rows ?? 0) > 0, askAgain };
    } finally {
        const seconds = (performance.now() - begun) / 1000;
        entry.seconds = Math.round((entry.seconds + seconds) * 1000) / 1000;
        if (entry.rows !== null) {
            const perSecond = entry.rows / Math.max(entry.seconds, 0.001);
            work.say({ event: 'swept', step, rows: entry.rows, seconds: entry.seconds, perSecond });
        } else if (entry.outcome === 'done') work.say({ event: 'done', step, seconds });
    }
}
