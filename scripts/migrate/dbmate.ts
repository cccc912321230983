import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { devNull, tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { resolveBinary } from 'dbmate';
import { redacted } from '../connection.js';
import { UserError } from '../errors.js';

export interface Call {
    url: string;
    table: string;
    application: string;
    pooled: boolean;
    /** Sent as startup parameters, which poolers refuse. */
    settings: Record<string, string>;
    file: { name: string; text: string };
    command: 'migrate' | 'rollback';
    signal: AbortSignal;
}

/** What dbmate said when it failed. Whether it did is for the ledger to tell. */
export interface Complaint {
    /** SQLSTATE, or ''. */
    code: string;
    line: number | undefined;
    message: string;
}

// What a person has set for other programs must not reach this one.
const inherited = [
    'PATH', 'HOME', 'TMPDIR', 'SSL_CERT_FILE', 'SSL_CERT_DIR', 'PGSSLROOTCERT', 'PGSSLCERT', 'PGSSLKEY', 'PGPASSFILE',
];

/** Runs dbmate on a folder that holds this one file. */
export async function dbmate(call: Call): Promise<Complaint> {
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-migrate-'));
    try {
        writeFileSync(join(folder, call.file.name), call.file.text, { mode: 0o600 });
        // Without --env-file dbmate reads .env of the current folder; written with = it still does.
        const fixed = ['--env-file', devNull, '--no-dump-schema'];
        const args = [...fixed, '--migrations-dir', folder, '--migrations-table', call.table, call.command];
        // It writes a line before each file: when we are dead the pipe is broken, and it dies before it does anything.
        const child = spawn(binary(), args, { env: environment(call), stdio: ['ignore', 'pipe', 'pipe'], cwd: folder });
        const stop = (): void => void child.kill('SIGTERM');
        call.signal.addEventListener('abort', stop);
        if (call.signal.aborted) stop();
        try {
            const [, complaint, [code, signal]] = await Promise.all([
                text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null, string | null]>,
            ]);
            const found = complaintOf(complaint, signal ?? code ?? 0);
            return { ...found, message: redacted(found.message, call.url) };
        } finally {
            call.signal.removeEventListener('abort', stop);
        }
    } finally {
        rmSync(folder, { recursive: true, force: true });
    }
}

/** The version of the binary, which must be the one that this package was made with. */
export async function dbmateVersion(): Promise<string> {
    const { stdout } = await promisify(execFile)(binary(), ['--version']);
    const found = /\d+\.\d+\.\d+/.exec(stdout)?.[0] ?? '';
    const packageFile = createRequire(import.meta.url)('../../package.json') as { dependencies: { dbmate: string } };
    const wanted = packageFile.dependencies.dbmate;
    if (found !== wanted) throw new UserError(`dbmate ${wanted} is needed, this is ${found || 'unknown'}: run npm ci`);
    return found;
}

function binary(): string {
    try {
        return resolveBinary();
    } catch (error) {
        throw new UserError(`${(error as Error).message}: npm holds it for optional, `
            + 'run npm ci --include=optional on this platform');
    }
}

function environment({ url, application, pooled, settings }: Call): NodeJS.ProcessEnv {
    const kept = Object.entries(process.env).filter(([name]) => inherited.includes(name));
    const target = new URL(url);
    target.searchParams.delete('application_name');
    // lib/pq else sends one statement as two messages that a pooler may hand to two servers.
    if (pooled) target.searchParams.set('binary_parameters', 'yes');
    const options = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`).join(' ');
    const startup = pooled || !options ? {} : { PGOPTIONS: options };
    return { ...Object.fromEntries(kept), DATABASE_URL: target.href, PGAPPNAME: application, ...startup };
}

function complaintOf(stderr: string, end: number | string): Complaint {
    const last = stderr.trim();
    const found = /line: (\d+), column: \d+, position: \d+: pq: ([\s\S]*?)(?: at (?:position|column) [\d:]+)? \((\w{5})\)$/.exec(last)
        ?? /()pq: ([\s\S]*?) \((\w{5})\)$/.exec(last);
    if (found) return { line: Number(found[1]) || undefined, message: found[2] ?? '', code: found[3] ?? '' };
    return { line: undefined, code: '', message: last.replace(/^Error: /, '') || `dbmate ended with ${end}` };
}

