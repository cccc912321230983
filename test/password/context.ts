import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import postgres from 'postgres';
import { afterAll, beforeAll } from 'vitest';
import { connectOptions, withConnection } from '../../scripts/connection.js';
import { prepared } from '../../scripts/password/saslprep.js';
import { withTestDatabase } from '../context.js';
import { builtCli, run, type Ended } from '../migrate/context.js';

export interface Setting {
    url?: string;
    cli?: string;
    args?: string[];
}

export interface Result extends Ended {
    document: { role: string; outcome: string; why: string | null; error: string | null; exitCode: number };
}

/** `pg-ensure password --json`, the password by an environment variable. */
export async function set(role: string, password: string, { url = admin, cli = builtCli, args = [] }: Setting = {}): Promise<Result> {
    const ended = await run(url, ['password', role, '--from-env', 'NEW_PASSWORD', '--json', ...args], { cli, env: { NEW_PASSWORD: password } });
    return { ...ended, document: (ended.stdout.startsWith('{') ? JSON.parse(ended.stdout) : {}) as Result['document'] };
}

/** The same with bytes piped in. */
export async function piped(role: string, bytes: Buffer | string, url = admin): Promise<Ended> {
    const child = spawn(process.execPath, [builtCli, 'password', role], { env: { ...process.env, DATABASE_URL: url }, stdio: 'pipe' });
    child.stdin.end(bytes);
    const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null]>]);
    return { code, signal: null, stdout, stderr };
}

/** A superuser's, where tests have one, of a database where ensure is installed; for all tests of a file. */
export let admin = '';
let end = (): void => {};
let ended: Promise<void>;
beforeAll(() => new Promise<void>((ready, failed) => {
    ended = withTestDatabase(async (database) => {
        ({ admin } = database);
        ready();
        await new Promise<void>((done) => {
            end = done;
        });
    });
    ended.catch(failed);
}));
afterAll(async () => {
    end();
    await ended;
});

export const asAdmin = <T>(work: (sql: postgres.Sql) => Promise<T>, url = admin): Promise<T> => withConnection(url, work);

/** A role of the test's own. */
export async function withRole<T>(body: (role: string) => Promise<T>, attributes = 'login', url = admin): Promise<T> {
    const role = `r "${randomBytes(5).toString('hex')}'`;
    const quoted = `"${role.replaceAll('"', '""')}"`;
    await asAdmin((sql) => sql.unsafe(`create role ${quoted} ${attributes}`), url);
    try {
        return await body(role);
    } finally {
        await asAdmin((sql) => sql.unsafe(`drop role ${quoted}`), url);
    }
}

export interface Stored {
    password: string | null;
    xmin: string;
}

export const stored = (role: string, url = admin): Promise<Stored> => asAdmin(async (sql) => {
    const [row] = await sql<Stored[]>`select a.rolpassword as password, a.xmin::text from pg_authid as a where a.rolname = ${role}`;
    if (!row) throw new Error(`no role ${role}`);
    return row;
}, url);

/** '' when the role gets in with that password, as a client does that follows the standard. */
export async function login(role: string, password: Buffer | string, url = admin): Promise<string> {
    const at = new URL(url);
    at.username = encodeURIComponent(role);
    at.password = '';
    const bytes = prepared(Buffer.from(password));
    const sql = postgres(at.href, { ...connectOptions, password: () => bytes as unknown as string });
    try {
        await sql`select 1`;
        return '';
    } catch (error) {
        return String((error as { code?: string }).code);
    } finally {
        await sql.end({ timeout: 1 });
    }
}
