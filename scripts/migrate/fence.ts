import format from 'pg-format';
import type { Sql } from 'postgres';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, exitCodes, UserError } from '../errors.js';
import type { Lock } from './ledger.js';

export interface Run {
    id: string;
    /** The application_name of what applies files for this run. */
    application: string;
}

interface Remnant {
    pid: number;
    application: string;
    state: string | null;
    idleSeconds: number;
    query: string;
}

const graceSeconds = 3;
const pollMs = 100;

export const runOf = (ledger: Pick<Lock, 'sessions'>, id: string, pooled: boolean): Run => (
    { id, application: `${ledger.sessions}/${id}${pooled ? '/pooled' : ''}` }
);

/** The first line of all that applies files or repairs: behind a pooler the one thing that tells whose a statement is. */
export const signed = (text: string, { application }: Run): string => text.replace(/(?=\r?\n|$)/, ` run:${application}`);

/**
 * Returns when nothing of an earlier run works here any more. Their holder is dead, or we would not have the lock; what it
 * started may live: it is waited for while it works, since it may finish, and ended when it does nothing.
 */
export async function fence(
    sql: Sql, ledger: Pick<Lock, 'sessions'>, run: Run, deadline: number, stop: AbortSignal,
    say: (remnant: { pid: number; application: string; query: string }) => void,
): Promise<void> {
    const told = new Set<number>();
    for (;;) {
        const remnants = await sessions(sql, work(ledger, run, 'others'));
        const [first] = remnants;
        if (!first) return;
        for (const remnant of remnants) {
            if (!told.has(remnant.pid)) say(remnant);
            told.add(remnant.pid);
            const stuck = remnant.state !== null && remnant.state !== 'active' && remnant.idleSeconds > graceSeconds;
            if (stuck) await end(sql, work(ledger, run, 'others'), remnant.pid);
        }
        if (Date.now() > deadline) {
            throw new UserError(`an earlier run that died (${first.application}) left pid ${first.pid} working: `
                + `wait longer (--max-wait), or end it: select pg_terminate_backend(${first.pid})`, exitCodes.busy);
        }
        await sleep(pollMs, undefined, { signal: stop });
    }
}

/** Ends what this run has in the server; false when it is not gone in time. */
export async function endSessions(sql: Sql, ledger: Pick<Lock, 'sessions'>, run: Run): Promise<boolean> {
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(pollMs)) {
        const mine = await sessions(sql, work(ledger, run, 'mine'));
        if (!mine.length) return true;
        for (const { pid } of mine) await end(sql, work(ledger, run, 'mine'), pid);
    }
    return false;
}

/**
 * Behind a pooler a name stays on a connection that serves somebody else by now: there only a signed statement counts, which
 * runs or whose transaction is open.
 */
export function work(ledger: Pick<Lock, 'sessions'>, { application }: Run, whose: 'mine' | 'others'): string {
    const is = whose === 'mine' ? 'is true' : 'is false';
    return format(`a.datname = current_database() and a.pid <> pg_backend_pid() and (
        a.application_name like %L and a.application_name not like '%%/pooled%%' and (a.application_name = %L) ${is}
        or a.state in ('active', 'idle in transaction', 'idle in transaction (aborted)') and a.query like %L
          and a.query ~ '^[^\n]*/pooled\r?(\n|$)' and (a.query like %L) ${is})`,
    `${ledger.sessions}/%`, application, `-- migrate:% run:${ledger.sessions}/%`, `-- migrate:% run:${application}%`);
}

const sessions = (sql: Sql, which: string): Promise<Remnant[]> => sql.unsafe<Remnant[]>(`
    select a.pid, a.application_name as application, a.state, left(a.query, 80) as query,
           coalesce(extract(epoch from clock_timestamp() - a.state_change), 0)::float8 as "idleSeconds"
    from pg_stat_activity as a where ${which}`).simple();

/** Not another role's: that is left to itself. */
async function end(sql: Sql, which: string, pid: number): Promise<void> {
    try {
        await sql.unsafe(`select pg_terminate_backend(a.pid) from pg_stat_activity as a where a.pid = ${pid} and ${which}`).simple();
    } catch (error) {
        if (codeOf(error) !== '42501') throw error;
    }
}
