import format from 'pg-format';
import type { Sql } from 'postgres';
import { setTimeout as sleep } from 'node:timers/promises';
import { exitCodes, UserError } from '../errors.js';
import type { Ledger } from './ledger.js';

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

export const runOf = (ledger: Ledger, id: string, pooled: boolean): Run => (
    { id, application: `${ledger.sessions}/${id}${pooled ? '/pooled' : ''}` }
);

/**
 * Returns when nothing of an earlier run works here any more. Their holder is dead, or we would not have the lock; what it
 * started may live: it is waited for while it works, since it may finish, and ended when it does not.
 */
export async function fence(
    sql: Sql, ledger: Ledger, run: Run, deadline: number, stop: AbortSignal,
    say: (remnant: { pid: number; application: string; query: string }) => void,
): Promise<void> {
    const told = new Set<number>();
    for (;;) {
        const remnants = await sessions(sql, format(`a.application_name like %L and a.application_name <> %L`,
            `${ledger.sessions}/%`, run.application));
        const [first] = remnants;
        if (!first) return;
        for (const remnant of remnants) {
            if (!told.has(remnant.pid)) say(remnant);
            told.add(remnant.pid);
            if (remnant.state !== null && remnant.state !== 'active' && remnant.idleSeconds > graceSeconds) await end(sql, remnant.application);
        }
        if (Date.now() > deadline) {
            throw new UserError(`an earlier run that died (${first.application}) left pid ${first.pid} working: ${first.query}; `
                + `wait longer (--max-wait), or end it: select pg_terminate_backend(${first.pid})`, exitCodes.busy);
        }
        await sleep(pollMs, undefined, { signal: stop });
    }
}

/** Ends what this run has in the server, and returns when it is gone. */
export async function endSessions(sql: Sql, run: Run): Promise<void> {
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(pollMs)) {
        if (!(await sessions(sql, format('a.application_name = %L', run.application))).length) return;
        await end(sql, run.application);
    }
}

// A pooler leaves the name of its last client on a connection that serves nobody: that one is not ours to wait for.
const working = `(a.state <> 'idle' or a.state is null or a.application_name not like '%/pooled')`;

const sessions = (sql: Sql, which: string): Promise<Remnant[]> => sql.unsafe<Remnant[]>(`
    select a.pid, a.application_name as application, a.state, left(a.query, 80) as query,
           coalesce(extract(epoch from clock_timestamp() - a.state_change), 0)::float8 as "idleSeconds"
    from pg_stat_activity as a
    where a.datname = current_database() and a.pid <> pg_backend_pid() and ${which} and ${working}`).simple();

const end = async (sql: Sql, application: string): Promise<void> => void await sql.unsafe(`
    select pg_terminate_backend(a.pid)
    from pg_stat_activity as a
    where a.datname = current_database() and a.pid <> pg_backend_pid() and ${working}
      and ${format('a.application_name = %L', application)}`).simple();
