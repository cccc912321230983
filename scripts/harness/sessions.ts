import { Readable, Stream, type Writable } from 'node:stream';
import postgres from 'postgres';

/** What a statement came to: its rows, or the server's error. A step never rejects, so that none goes unnoticed. */
export interface Outcome {
    rows: Record<string, unknown>[];
    error?: postgres.PostgresError | Error;
    /** SQLSTATE, or the driver's code when the connection broke; 'ok' when there was no error. */
    code: string;
}

/** A statement that was sent and may be waiting. */
export interface Step {
    /** Resolves once the server reports that this session waits for `holder`; rejects when the step ends first. */
    blockedBy(holder: Session, patience?: number): Promise<void>;
    outcome(): Promise<Outcome>;
}

/**
 * One named connection. A test orders sessions by who blocks whom, never by sleeping.
 * Several statements in one string are one transaction for the server: what a `begin` in the middle opens began before it.
 */
export interface Session {
    name: string;
    pid: number;
    sql: postgres.Sql;
    start(statement: string): Step;
    /** Runs to the end; throws the server's error. */
    run(statement: string): Promise<Record<string, unknown>[]>;
    /** Runs to the end, whatever it comes to. */
    attempt(statement: string): Promise<Outcome>;
}

export const connectOptions = {
    max: 1,
    prepare: false,
    fetch_types: false,
    onnotice: () => {},
    idle_timeout: 0,
    max_lifetime: null,
    connection: { application_name: 'pg-ensure test' },
} as const;

/** How long a step may take to block, or to end, before the test is told who waits for whom instead of hanging. */
const patienceMs = 60_000;

export async function settle(query: PromiseLike<unknown>): Promise<Outcome> {
    try {
        const result = await query;
        if (result instanceof Stream) {
            if (result instanceof Readable) result.resume();
            else (result as Writable).on('error', () => {}).destroy(new Error('no data'));
            throw Object.assign(new Error('COPY from or to the client cannot be a step'), { code: '0A000' });
        }
        const sets = Array.isArray(result) && Array.isArray(result[0]) ? (result as unknown[][]) : [result as unknown[]];
        return { rows: [...(sets.at(-1) ?? [])] as Record<string, unknown>[], code: 'ok' };
    } catch (cause) {
        const error = cause as postgres.PostgresError;
        return { rows: [], error, code: error.code ?? error.name };
    }
}

/** Opens one direct connection for each name, plus one that watches, and closes all of them. */
export async function withSessions<Name extends string, Result>(
    url: string,
    names: readonly Name[],
    body: (sessions: Record<Name, Session>) => Promise<Result>,
): Promise<Result> {
    const watcher = postgres(url, connectOptions);
    const open: Session[] = [];
    try {
        for (const name of names) open.push(await openSession(url, name, watcher));
        return await body(Object.fromEntries(open.map((session) => [session.name, session])) as Record<Name, Session>);
    } finally {
        await Promise.all(open.map((session) => session.sql.end({ timeout: 0 })));
        await watcher.end({ timeout: 0 });
    }
}

async function openSession(url: string, name: string, watcher: postgres.Sql): Promise<Session> {
    const sql = postgres(url, { ...connectOptions, connection: { application_name: `pg-ensure test ${name}` } });
    const [{ pid }] = (await sql`select pg_backend_pid() as pid`) as unknown as [{ pid: number }];
    const start = (statement: string): Step => {
        let ended: Outcome | undefined;
        const outcome = settle(sql.unsafe(statement).simple()).then((result) => (ended = result));
        return {
            outcome: () => bounded(outcome, watcher, `${name} to end: ${statement}`),
            blockedBy: async (holder, patience = patienceMs) => {
                const deadline = Date.now() + patience;
                for (;;) {
                    const [row] = await watcher`select ${holder.pid}::int = any (pg_blocking_pids(${pid})) as waits`;
                    if (row?.waits) return;
                    if (ended) throw new Error(`${name} was to wait for ${holder.name} and ended first: ${ended.code}`);
                    if (Date.now() > deadline) throw new Error(`${name} does not wait for ${holder.name}\n${await who(watcher)}`);
                }
            },
        };
    };
    return {
        name,
        pid,
        sql,
        start,
        attempt: (statement) => start(statement).outcome(),
        run: async (statement) => {
            const { rows, error } = await start(statement).outcome();
            if (error) throw error;
            return rows;
        },
    };
}

/** `promise`, or an error that tells who waits for whom when it takes too long. */
async function bounded<T>(promise: Promise<T>, watcher: postgres.Sql, what: string): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => {
            void who(watcher).then((table) => reject(new Error(`waited ${patienceMs} ms for ${what}\n${table}`)));
        }, patienceMs);
    });
    try {
        return await Promise.race([promise, late]);
    } finally {
        clearTimeout(timer);
    }
}

async function who(watcher: postgres.Sql): Promise<string> {
    const rows = await watcher`
        select a.pid, a.application_name, a.state, pg_blocking_pids(a.pid) as waits_for, left(a.query, 80) as query
        from pg_stat_activity as a where a.datname = current_database()`;
    return rows.map((row) => JSON.stringify(row)).join('\n');
}
