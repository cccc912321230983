import postgres from 'postgres';
import { connectOptions, settle, type Session } from './sessions.js';

/** What may happen to a session from outside. `admin` is a URL whose role may signal it. */
export interface Faults {
    /** pg_cancel_backend: the statement ends with 57014, the transaction is aborted. */
    cancel(session: Session): Promise<void>;
    /** pg_terminate_backend: the connection ends with 57P01. */
    terminate(session: Session): Promise<void>;
    /** kill -9 of the backend, on this machine: the server restarts and recovers, every connection ends. */
    killBackend(session: Session): void;
}

/** Runs `body` with the fault kit. */
export async function withFaults<Result>(admin: string, body: (faults: Faults) => Promise<Result>): Promise<Result> {
    const sql = postgres(admin, connectOptions);
    const signal = async (session: Session, how: 'pg_cancel_backend' | 'pg_terminate_backend') => {
        const [row] = await sql.unsafe(`select ${how}(${session.pid}) as sent`);
        if (!row?.sent) throw new Error(`no backend ${session.pid} (${session.name}) to signal`);
    };
    try {
        return await body({
            cancel: (session) => signal(session, 'pg_cancel_backend'),
            terminate: (session) => signal(session, 'pg_terminate_backend'),
            killBackend: (session) => void process.kill(session.pid, 'SIGKILL'),
        });
    } finally {
        await sql.end({ timeout: 0 });
    }
}

/** Returns once the server at `url` accepts connections again after a crash. */
export async function recovered(url: string): Promise<void> {
    for (const end = Date.now() + 30_000; Date.now() < end;) {
        const sql = postgres(url, { ...connectOptions, connect_timeout: 2 });
        const { code } = await settle(sql`select 1`);
        await sql.end({ timeout: 0 });
        if (code === 'ok') return;
    }
    throw new Error('the server does not accept connections again');
}
