import postgres, { type Sql } from 'postgres';
import { connectOptions, withoutName } from '../connection.js';
import { codeOf, exitCodes, UserError } from '../errors.js';
import type { Lock } from './ledger.js';

export interface Guard {
    /** Of the server's process that holds the lock. */
    pid: number;
    /** What it guards, for people. */
    name: string;
    /** Aborted when the connection that holds the lock is gone: the lock is somebody else's then. */
    lost: AbortSignal;
    release(): Promise<void>;
}

const lostError = (name: string): UserError => new UserError(
    `the connection that holds the ${name} is lost: what ran was ended; run again`, exitCodes.noDatabase,
);
const heartbeatMs = 1_000;
const silentBeats = 15;

/**
 * The lock as an open transaction that does nothing else, or undefined when somebody has it.
 *
 * Of the transaction, so that it dies with its connection and stays on one server behind any pooler; tried, never waited
 * for; by the simple protocol without parameters and READ COMMITTED, so that between statements it holds no snapshot and
 * CREATE INDEX CONCURRENTLY need not wait for it.
 */
export async function tryGuard(
    url: string, ledger: Pick<Lock, 'key'>, serverVersion: number, application: string, name = 'migration lock',
): Promise<Guard | undefined> {
    const lost = new AbortController();
    const sql = postgres(withoutName(url), {
        ...connectOptions, connection: { application_name: application }, onclose: () => lost.abort(lostError(name)),
    });
    try {
        const rows = await sql.unsafe(`
            begin isolation level read committed;
            set local idle_in_transaction_session_timeout = 0;
            ${serverVersion >= 170_000 ? 'set local transaction_timeout = 0;' : ''}
            select pg_try_advisory_xact_lock(${ledger.key}) as locked, pg_backend_pid() as pid`).simple();
        const [{ locked, pid }] = (rows as unknown as [{ locked: boolean; pid: number }][]).at(-1) ?? [{ locked: false, pid: 0 }];
        if (locked) return { pid, name, lost: lost.signal, release: heartbeat(sql, lost, name) };
        await sql.end({ timeout: 1 });
        return undefined;
    } catch (error) {
        await sql.end({ timeout: 1 });
        throw error;
    }
}

/** CREATE INDEX CONCURRENTLY would wait for such a holder for ever, and nobody would see why. */
export async function refuseSnapshot(sql: Sql, { pid, name }: Pick<Guard, 'pid' | 'name'>): Promise<void> {
    const [row] = await sql.unsafe<{ held: boolean }[]>(
        `select a.backend_xmin is not null as held from pg_stat_activity as a where a.pid = ${pid}`,
    ).simple();
    if (row?.held) {
        throw new UserError(`the session that holds the ${name} (pid ${pid}) holds a snapshot too: `
            + 'CREATE INDEX CONCURRENTLY would wait for it without end; a proxy that rewrites the protocol may be the reason');
    }
}

/** An empty query takes no snapshot, and is a sign of life to every idle timeout between here and the server. */
function heartbeat(sql: Sql, lost: AbortController, name: string): () => Promise<void> {
    let unanswered = 0; // beats, not time: while this process is busy nobody has failed to answer
    const beat = async (): Promise<void> => {
        unanswered += 1;
        if (unanswered > silentBeats) return lost.abort(lostError(name));
        if (unanswered > 1) return;
        try {
            await sql.unsafe(';').simple();
            unanswered = 0;
        } catch {
            lost.abort(lostError(name));
        }
    };
    const timer = setInterval(() => void beat(), heartbeatMs);
    return async () => {
        clearInterval(timer);
        try {
            if (!lost.signal.aborted) await sql.unsafe('rollback').simple();
        } catch (error) {
            if (!codeOf(error)) throw error;
        } finally {
            await sql.end({ timeout: 1 });
        }
    };
}
