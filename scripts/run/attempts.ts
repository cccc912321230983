import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { exitCodes, UserError } from '../errors.js';
import { message, type ServerMessage } from '../print.js';
import { excerpt, named, type Say } from './report.js';
import type { Session } from './session.js';
import type { Watch } from './watch.js';

export interface Limits {
    /** Of one attempt, of a statement in a transaction or to ask for the plan. */
    lockTimeoutMs: number;
    /** For the lock of the plan, and for all attempts together. */
    maxWaitMs: number;
}

/** What attempts are made with. */
export interface Trying extends Limits {
    /** Of this run. */
    id: string;
    session: Session;
    watch: Watch;
    stop: AbortSignal;
    say: Say;
    failed: (failure: Failure) => void;
}

/** What is tried: a statement, or, without a step, the plan's query. */
export interface Task {
    step: number | null;
    statement: string;
    inTransaction?: boolean;
}

/** For programs: what the text for people says. */
export interface Failure extends Pick<Task, 'step' | 'statement'> {
    sqlstate: string;
    message: string;
    detail: string | null;
    hint: string | null;
    blockers: string | null;
}

// lock_not_available, deadlock_detected, serialization_failure.
export const passing = ['55P03', '40P01', '40001'];
// A race in a batch, and "tuple concurrently updated": these may also never pass.
const perhapsPassing = ['23505', 'XX000'];
const perhapsAttempts = 5;
const [shortest, longest] = [100, 5_000];

const goOn = 'what was done before stays; running again continues';
export const sqlstateOf = (error: unknown): string => (error instanceof postgres.PostgresError ? error.code : '');
export const pauseOf = (attempt: number): number => Math.min(shortest * 2 ** (attempt - 1), longest) * (0.5 + Math.random());

/** A transaction, again and again while what ended it may pass. */
export async function attempts<T>(trying: Trying, task: Task, once: () => Promise<T>): Promise<{ result: T; retries: number }> {
    const { maxWaitMs, stop, say } = trying;
    const deadline = performance.now() + maxWaitMs;
    for (let attempt = 1; ; attempt += 1) {
        try {
            return { result: await once(), retries: attempt - 1 };
        } catch (error) {
            stop.throwIfAborted();
            const code = sqlstateOf(error);
            if (!passing.includes(code) && !(perhapsPassing.includes(code) && attempt < perhapsAttempts)) throw failure(trying, task, error);
            const pause = pauseOf(attempt);
            if (performance.now() + pause > deadline) throw spent(trying, task, error as postgres.PostgresError, attempt);
            say({ event: 'retrying', step: task.step, attempt, code, message: (error as Error).message });
            await sleep(pause, undefined, { signal: stop }).catch(() => stop.throwIfAborted());
        }
    }
}

function spent(trying: Trying, task: Task, error: postgres.PostgresError, tries: number): UserError {
    const blockers = trying.watch.blockers();
    report(trying, task, error, blockers);
    const who = blockers ? `it waited for ${blockers}`
        : error.detail ?? 'who was in the way could not be seen: there was no connection left to look';
    return new UserError(`${named(task)}: ${error.code}: ${error.message}; tried ${tries} times, each for up to `
        + `${trying.lockTimeoutMs} ms, as long as --max-wait allows: ${excerpt(task.statement)}\n${who}\n`
        + `${goOn}, when they are done or with a longer --lock-timeout`, exitCodes.busy);
}

/** An error of the plan's query is passed on as it is, but for advice. */
export function failure(trying: Trying, task: Task, error: unknown): Error {
    const { step, statement } = task;
    if (error instanceof postgres.PostgresError) {
        const told = error as ServerMessage;
        told.hint ??= adviceFor(error, task);
        report(trying, task, told);
        return step === null ? error : new UserError(`step ${step} failed: ${excerpt(statement)}\n${message(told)}\n${goOn}`);
    }
    if (step === null) return error as Error;
    report(trying, task, { message: (error as Error).message });
    if (!(error instanceof UserError)) return error as Error;
    return new UserError(`step ${step} failed: ${error.message}\n${goOn}`, error.exitCode);
}

/** By the server's own names of its routines, where a code alone may mean something else; they are not translated. */
function adviceFor({ code, routine, message: text }: postgres.PostgresError, { step, inTransaction }: Task): string | undefined {
    if (code === '3F000' && /\bensure\b/.test(text)) return 'run pg-ensure migrate';
    const asked = step === null;
    if (asked && (code === '25006' || code === '42601' && routine === 'exec_parse_message')) return 'the plan is to be one query that only reads';
    if (inTransaction && code === '25001' && routine === 'PreventInTransactionBlock') return 'the plan\'s row needs in_transaction = false';
    return undefined;
}

function report({ failed }: Trying, { step, statement }: Task, error: ServerMessage, blockers = ''): void {
    const { code = '', message: text, detail = null, hint = null } = error;
    failed({ step, statement, sqlstate: code, message: text, detail, hint, blockers: blockers || null });
}
