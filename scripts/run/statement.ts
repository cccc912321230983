import { setTimeout as sleep } from 'node:timers/promises';
import { signed, type Run } from '../migrate/fence.js';
import { attempts, failure, passing, pauseOf, sqlstateOf, type Trying } from './attempts.js';
import type { Row } from './plan.js';
import { withoutLimits, type Opening, type Result } from './session.js';

export interface Work extends Trying {
    opening: Opening;
    run: Run;
    /** SQL: which sessions of pg_stat_activity as a work for this run. */
    mine: string;
    /** How often each statement that cannot run in a transaction has failed. */
    failures: Map<string, number>;
}

export interface Ran {
    retries: number;
    /** Of the column row_count of the one row that it returned, null without one. */
    rows: number | null;
    /** It failed with what may have another answer when the plan is asked for again, or waits for somebody. */
    askAgain: boolean;
}

/** Of a statement outside a transaction: what it left behind is for the plan to see. */
const outsideAttempts = 3;

export async function runStatement(work: Work, row: Row): Promise<Ran> {
    return row.inTransaction ? inside(work, row) : outside(work, row);
}

async function inside(work: Work, row: Row): Promise<Ran> {
    const { result, retries } = await work.watch.during(row.step, work.mine, attempts(work, row, () => once(work, row)));
    return { retries, rows: rowCount(result), askAgain: isWaiting(result) };
}

/** Settings of the transaction alone: those of a session would stay on a pooler's connection. */
async function once({ session, run, lockTimeoutMs }: Work, row: Row): Promise<Result> {
    const send = (text: string): Promise<Result> => session.run(`${signed('-- migrate:plan', run)}\n${text}`);
    const watchClient = session.facts.linux ? 'set local client_connection_check_interval = 500;' : '';
    await send(`begin isolation level read committed; ${watchClient} set local lock_timeout = ${lockTimeoutMs}`);
    try {
        const result = await send(row.statement);
        await send('commit');
        return result;
    } catch (error) {
        await send('rollback').catch(() => {}); // when it cannot be told, the connection is lost, the transaction with it
        throw error;
    }
}

async function outside(work: Work, row: Row): Promise<Ran> {
    const { session, opening, run, stop, say, failures } = work;
    try {
        const patience = { ...opening, application: run.application, serverVersion: session.facts.serverVersion };
        const result = await withoutLimits(patience, (limitless) => (
            work.watch.during(row.step, work.mine, limitless.run(`${signed('-- migrate:plan', run)}\n${row.statement}`))
        ));
        failures.delete(row.statement);
        return { retries: 0, rows: rowCount(result), askAgain: false };
    } catch (error) {
        stop.throwIfAborted();
        const code = sqlstateOf(error);
        const attempt = (failures.get(row.statement) ?? 0) + 1;
        failures.set(row.statement, attempt);
        if (![...passing, '23505'].includes(code) || attempt >= outsideAttempts) throw failure(work, row, error);
        say({ event: 'asking', step: row.step, code, message: (error as Error).message });
        await sleep(pauseOf(attempt), undefined, { signal: stop });
        return { retries: 0, rows: null, askAgain: true };
    }
}

/** Its column says that it waits for somebody else, and nothing more can be said until the plan is asked for again. */
const isWaiting = (result: Result): boolean => result.columns?.some(({ name }) => name === 'waiting') ?? false;

const numericTypes = [20, 21, 23, 700, 701, 1700];

function rowCount(result: Result): number | null {
    const column = result.columns?.find(({ name }) => name === 'row_count');
    if (result.length !== 1 || !column || !numericTypes.includes(column.type)) return null;
    return Number((result[0] as { row_count: unknown }).row_count);
}
