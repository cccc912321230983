import { connect as dial, type Socket } from 'node:net';
import { userInfo } from 'node:os';
import postgres, { type Notice, type Sql } from 'postgres';
import { codeOf, exitCodes, UserError } from './errors.js';

const patience = 5_000;
/** To log in is more work than to answer: with 32 replicas that start on a busy machine it takes more than 5 s. */
const loginSeconds = 15;
const adviceFor = {
    '08P01': 'what a pooler does not let through may go to the server itself: MIGRATION_DATABASE_URL',
    28: 'correct user or password in the URL',
    '3D000': 'create the database, or correct the URL',
    42704: 'take that parameter out of the URL',
    22023: 'take that parameter out of the URL',
    53300: 'run again when there is room, or raise max_connections',
    '57P': 'run again when it is up',
};
const demandingModes = ['require', 'verify-ca', 'verify-full'];
const sslModes = ['disable', 'allow', 'prefer', ...demandingModes];
// A 57P01 may come late: the driver keeps it from the connection that broke, and reports it on the next one.
const sqlstatesOfNoConnection = /^(08...|28...|3D...|57P..|53300|42704|22023)$/;
const systemErrors = /^(E[A-Z]+|CONNECT.*|CONNECTION_.*|.*_(CERT|SSL|TLS)_?.*)$/;

/** Without prepared statements, so that any pooler will do; and for as long as the work takes: by itself the driver hangs up. */
export const connectOptions = {
    max: 1, max_lifetime: null, idle_timeout: 0, prepare: false, fetch_types: false, connect_timeout: loginSeconds, onnotice: () => {},
} as const;

/** One connection for `work`, closed after it. */
export async function withConnection<T>(
    url: string, work: (sql: Sql) => Promise<T>,
    { application = 'pg-ensure', onnotice = () => {} }: { application?: string; onnotice?: (notice: Notice) => void } = {},
): Promise<T> {
    const sql = postgres(withoutName(url), { ...connectOptions, onnotice, connection: { application_name: application } });
    try {
        return await work(sql);
    } catch (error) {
        throw connectionError(url, error) ?? error;
    } finally {
        await sql.end({ timeout: 1 });
    }
}

/** A name in the URL would come before the one by which sessions of a run are known. */
export function withoutName(text: string): string {
    const url = parsedUrl(text);
    url.searchParams.delete('application_name');
    return url.href;
}

/** `text` without the password of `url`, in either spelling. */
export function redacted(text: string, url: string): string {
    const { password } = parsedUrl(url);
    // A shorter one would hide words that have nothing to do with it.
    const spellings = [password, decodeURIComponent(password)].filter(({ length }) => length > 3);
    return spellings.reduce((rest, spelling) => rest.replaceAll(spelling, '***'), text);
}

/**
 * The URL with an sslmode that every client understands in the same way: of those without one, lib/pq (dbmate) insists
 * on TLS, and postgres.js does without.
 */
export async function normalizedUrl(text: string): Promise<string> {
    const url = parsedUrl(text);
    completed(url);
    const mode = url.searchParams.get('sslmode') ?? process.env.PGSSLMODE ?? '';
    if (url.searchParams.get('sslmode') === 'disable') return url.href;
    const demanded = demandingModes.includes(mode);
    const offered = mode !== 'disable' && await speaksTls(url);
    if (demanded && !offered) {
        throw new UserError(`${url.host} does not speak TLS, sslmode=${mode} demands it: use sslmode=disable`,
            exitCodes.noDatabase);
    }
    url.searchParams.set('sslmode', demanded ? mode : offered ? 'require' : 'disable');
    return url.href;
}

/** What libpq takes from the environment is written down: it holds for every program that is given the URL. */
function completed(url: URL): void {
    const { PGPORT, PGUSER, PGPASSWORD, PGDATABASE } = process.env;
    url.port ||= PGPORT ?? '';
    url.username ||= encodeURIComponent(PGUSER ?? login());
    url.password ||= encodeURIComponent(PGPASSWORD ?? '');
    if (url.pathname.length < 2) url.pathname = `/${PGDATABASE ? encodeURIComponent(PGDATABASE) : url.username}`;
}

function login(): string {
    try {
        return userInfo().username;
    } catch {
        throw new UserError('no user is named in the database URL, and this one has no name: write it there, or set PGUSER', exitCodes.usage);
    }
}

export function parsedUrl(text: string): URL {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    // The text may hold a password: it is not repeated.
    if (!url || !/^postgres(ql)?:$/.test(url.protocol) || !url.hostname || !decodable(url)) {
        throw new UserError('the database URL is not of the form postgres://user:password@host:port/database '
            + '(no sockets), special characters in the password written as %25, %40 and the like', exitCodes.usage);
    }
    const mode = url.searchParams.get('sslmode');
    if (mode !== null && !sslModes.includes(mode)) {
        throw new UserError(`sslmode=${mode} is none of ${sslModes.join(', ')}`, exitCodes.usage);
    }
    return url;
}

function decodable({ username, password, pathname }: URL): boolean {
    try {
        return [username, password, pathname].every((part) => decodeURIComponent(part) !== undefined);
    } catch {
        return false;
    }
}

async function speaksTls(url: URL): Promise<boolean> {
    const request = Buffer.alloc(8);
    request.writeInt32BE(8, 0);
    request.writeInt32BE(80877103, 4);
    let socket: Socket | undefined;
    try {
        const answer = await new Promise<Buffer>((resolve, reject) => {
            const fail = (code: string): void => reject(Object.assign(new Error(code), { code }));
            socket = dial(Number(url.port || 5432), url.hostname.replace(/^\[|\]$/g, ''), () => socket?.write(request));
            socket.once('data', resolve).once('error', reject).once('close', () => fail('ECONNRESET'));
            setTimeout(() => fail('ETIMEDOUT'), patience).unref();
        });
        return answer.toString('latin1', 0, 1) === 'S';
    } catch (error) {
        throw connectionError(url.href, error) ?? error;
    } finally {
        socket?.destroy();
    }
}

/** What a person can do about it, when it is about the connection. */
export function connectionError(url: string, error: unknown): UserError | undefined {
    const code = codeOf(error);
    const { host, port } = parsedUrl(url);
    const place = port ? host : `${host}:5432`;
    const advice = Object.entries(adviceFor).find(([start]) => code.startsWith(start))?.[1] ?? 'start it, or correct the URL';
    // PgBouncer calls its refusals mere errors.
    const fatal = (error as { severity?: string }).severity === 'FATAL' || code === '08P01';
    if (fatal && sqlstatesOfNoConnection.test(code)) {
        const verb = /^57P0[^3]$/.test(code) ? 'ended' : 'refuses';
        return new UserError(`${place} ${verb} the connection: ${code}: ${(error as Error).message}; ${advice}`,
            exitCodes.noDatabase);
    }
    if (!systemErrors.test(code) || error instanceof Error && 'path' in error) return undefined; // a file has a path
    return new UserError(`no PostgreSQL answers at ${place} (${code}): ${advice}`, exitCodes.noDatabase);
}
