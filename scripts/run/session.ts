import { connect as dial } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Readable } from 'node:stream';
import postgres, { type Notice, type RowList, type Row, type Sql, type UnsafeQueryOptions } from 'postgres';
import { connectionError, connectOptions, parsedUrl, withoutName } from '../connection.js';
import { codeOf, exitCodes, UserError } from '../errors.js';
import { unless } from '../migrate/known.js';

export interface Facts {
    serverVersion: number;
    linux: boolean;
    standby: boolean;
    pooled: boolean;
    /** As this connection has them, '0' for off. */
    limits: Record<string, string>;
}

export type Result = RowList<Row[]>;
type State = Result['state'];

/** One connection: a statement is sent when the one before has ended, and never on another connection in its stead. */
export interface Session {
    sql: Sql;
    facts: Facts;
    /** By the simple protocol; the last result of several. */
    run(text: string): Promise<Result>;
    /** By the extended protocol, which takes one statement only. */
    ask(text: string): Promise<Result>;
}

export interface Opening {
    url: string;
    application?: string;
    /** Startup parameters, besides. */
    parameters?: Record<string, string>;
    /** Given up when nobody answers for so long, as when a pool is spent. */
    patienceMs?: number;
    stop: AbortSignal;
    onnotice: (notice: Notice) => void;
}

/** For what runs to end after it was told to. */
export const graceMs = 5_000;
const cancelEveryMs = 250;
const factsQuery = `
    select current_setting('server_version_num')::int as "serverVersion", version() ~ 'linux' as linux,
           pg_is_in_recovery() as standby, pg_backend_pid() as pid, json_object_agg(s.name, s.setting) as limits
    from pg_settings as s where s.name in ('lock_timeout', 'statement_timeout', 'transaction_timeout')`;

/** A connection for `work`. When `stop` is given what it runs is cancelled in the server, and that is waited for. */
export async function withSession<T>(opening: Opening, work: (session: Session) => Promise<T>): Promise<T> {
    const { url, application = 'pg-ensure', parameters = {}, patienceMs, stop, onnotice } = opening;
    let open = true;
    let state: State | undefined;
    const sql = postgres(without(withoutName(url), Object.keys(parameters)), {
        ...connectOptions, onnotice, connection: { application_name: application, ...parameters },
        onclose: () => void (open = false),
    });
    // The driver's declarations do not know of `simple`.
    const query = async (text: string, simple: boolean): Promise<unknown> => (
        sql.unsafe(text, [], { simple } as UnsafeQueryOptions)
    );
    const send = async (text: string, simple: boolean): Promise<Result> => {
        stop.throwIfAborted();
        if (!open) throw new UserError('the connection to the server was lost', exitCodes.noDatabase);
        let running = true;
        const cancel = async (): Promise<void> => {
            // One that overtakes its statement does nothing.
            for (; running && state; await sleep(cancelEveryMs, undefined, { ref: false })) {
                await cancelRequest(url, state);
            }
        };
        const onstop = (): void => void cancel();
        stop.addEventListener('abort', onstop, { once: true });
        try {
            const result: unknown = await unless(query(text, simple), stop, graceMs);
            if (!Array.isArray(result)) {
                (result as Readable).on('error', () => {}).destroy();
                throw new UserError('COPY to or from the client needs psql');
            }
            const last = (Array.isArray(result[0]) && 'command' in result[0] ? result.at(-1) : result) as Result;
            state = last.state;
            return last;
        } catch (error) {
            stop.throwIfAborted();
            const lost = state && !(error instanceof postgres.PostgresError) && codeOf(error);
            const failure = lost ? new UserError(`the connection to the server was lost (${lost})`, exitCodes.noDatabase)
                : connectionError(url, error);
            throw failure ? Object.assign(failure, { cause: error }) : error;
        } finally {
            running = false;
            stop.removeEventListener('abort', onstop);
        }
    };
    try {
        const opened = send(factsQuery, true);
        const late = new UserError(`no other connection within ${(patienceMs ?? 0) / 1000} s while one holds the plan lock: give the `
            + 'pooler a default_pool_size of 2 or more (4 in session mode), or set MIGRATION_DATABASE_URL to the server itself',
        exitCodes.noDatabase);
        const rows = await unless(opened, patienceMs ? timeout(patienceMs, late) : undefined);
        const { pid, ...facts } = rows[0] as unknown as Facts & { pid: number };
        // A pooler invents the process id that the client is given at connect.
        return await work({
            sql, facts: { ...facts, pooled: (rows.state.pid | 0) !== pid },
            run: (text) => send(text, true), ask: (text) => send(text, false),
        });
    } finally {
        await sql.end({ timeout: stop.aborted ? 0 : 1 });
    }
}

function timeout(ms: number, reason: Error): AbortSignal {
    const late = new AbortController();
    setTimeout(() => late.abort(reason), ms).unref();
    return late.signal;
}

function without(text: string, parameters: string[]): string {
    const url = parsedUrl(text);
    for (const name of parameters) url.searchParams.delete(name);
    return url.href;
}

/** As libpq's PQcancel: a request of its own, to which no pool needs to have room; the driver's own may be made once only. */
async function cancelRequest(text: string, { pid, secret }: State): Promise<void> {
    const { hostname, port } = parsedUrl(text);
    const request = Buffer.alloc(16);
    [16, 80877102, pid >>> 0, secret >>> 0].forEach((word, at) => request.writeUInt32BE(word, at * 4));
    // Until the other side closes: PgBouncer forgets the request of a client that has gone.
    const socket = dial(Number(port || 5432), hostname.replace(/^\[|\]$/g, ''), () => socket.write(request));
    socket.on('error', () => {}).setTimeout(graceMs, () => socket.destroy()).resume().unref();
    await new Promise((resolve) => void socket.once('close', resolve));
}

export interface Limitless extends Opening {
    serverVersion: number;
}

/**
 * A connection on which no time limit holds. By startup parameters: a SET would come upon whoever gets the server connection
 * of a pooler next. A pooler may refuse them, or ignore them: what holds is looked at.
 */
export async function withoutLimits<T>(
    { serverVersion, ...opening }: Limitless, work: (session: Session) => Promise<T>,
): Promise<T> {
    const names = ['lock_timeout', 'statement_timeout', ...(serverVersion >= 170_000 ? ['transaction_timeout'] : [])];
    const checked = (session: Session): Promise<T> => {
        const left = Object.entries(session.facts.limits).filter(([, value]) => value !== '0')
            .map(([name, value]) => `${name} is ${value} ms`);
        if (left.length) {
            throw new UserError(`${left.join(' and ')} for this role or database, and the pooler lets nobody lift it for one `
                + 'connection; the statement was not run: lift it with alter role … set, or set MIGRATION_DATABASE_URL to the server itself');
        }
        return work(session);
    };
    let begun = false;
    try {
        const parameters = Object.fromEntries(names.map((name) => [name, '0']));
        return await withSession({ ...opening, parameters }, (session) => {
            begun = true;
            return checked(session);
        });
    } catch (error) {
        const code = codeOf((error as Error).cause);
        if (begun || code !== '08P01') throw error;
        return withSession(opening, checked);
    }
}
