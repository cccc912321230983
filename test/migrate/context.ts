import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { devNull, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { resolveBinary } from 'dbmate';
import { expect } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { withDatabase, type Database } from '../../scripts/harness/databases.js';
import type { Event } from '../../scripts/migrate/report.js';
import { surroundings } from '../context.js';

export type Files = Record<string, string | Buffer>;

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const builtCli = join(root, 'dist/cli.js');

/** A database that nothing was migrated in. */
export const withEmptyDatabase = <Result>(body: (database: Database) => Promise<Result>): Promise<Result> =>
    withDatabase({ ...surroundings.server, template: 'template0' }, body);

/** A folder of migrations; `file('x')` completes a text that has no markers. */
export async function withFolder<Result>(files: Files, body: (folder: string) => Promise<Result>): Promise<Result> {
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-test-'));
    try {
        write(folder, files);
        return await body(folder);
    } finally {
        rmSync(folder, { recursive: true, force: true });
    }
}

export function write(folder: string, files: Files): void {
    for (const [name, text] of Object.entries(files)) {
        const migration = typeof text !== 'string' || /-- migrate:up/.test(text) || !name.endsWith('.sql') ? text : `-- migrate:up\n${text}\n-- migrate:down\n`;
        writeFileSync(join(folder, name), migration);
    }
}

export interface Ended {
    code: number | null;
    signal: NodeJS.Signals | null;
    stdout: string;
    stderr: string;
}

export interface Running {
    child: ChildProcess;
    /** Of its whole group when it was started detached; false when it had ended. */
    kill(signal: NodeJS.Signals): boolean;
    /** Resolves with the first event of that name, undefined when the process ends without one. */
    event(name: Event['event']): Promise<Event | undefined>;
    ended: Promise<Ended>;
}

export interface Start {
    cli?: string;
    env?: NodeJS.ProcessEnv;
    detached?: boolean;
    cwd?: string;
}

/** The built command as a process of its own; with --json its events can be waited for. */
export function start(url: string | undefined, args: string[], { cli = builtCli, env = {}, detached = false, cwd }: Start = {}): Running {
    const given = { ...process.env, DATABASE_URL: url, MIGRATION_DATABASE_URL: undefined, PG_ENSURE_SKIP: undefined, ...env };
    const child = spawn(process.execPath, [cli, ...args], { env: given, detached, cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    const seen: Event[] = [];
    const waiting: ((event?: Event) => void)[] = [];
    let over = false;
    createInterface({ input: child.stderr }).on('line', (line) => {
        if (!line.startsWith('{')) return;
        seen.push(JSON.parse(line) as Event);
        for (const resume of waiting.splice(0)) resume();
    });
    const ended = Promise.all([text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>])
        .then(([stdout, stderr, [code, signal]]) => {
            over = true;
            for (const resume of waiting.splice(0)) resume();
            return { code, signal, stdout, stderr };
        });
    return {
        child, ended,
        kill(signal) {
            if (over || child.exitCode !== null || child.signalCode !== null) return false;
            return process.kill(detached ? -(child.pid ?? 0) : child.pid ?? 0, signal);
        },
        async event(name) {
            for (;;) {
                const found = seen.find((one) => one.event === name);
                if (found || over) return found;
                await new Promise<void>((resolve) => waiting.push(() => resolve()));
            }
        },
    };
}

/** Asks until the query has a row that says true; fails with what everybody is doing when that takes too long. */
export async function until(url: string, query: string): Promise<void> {
    await withConnection(url, async (sql) => {
        for (const deadline = Date.now() + 90_000; ;) {
            const rows = await sql.unsafe(query).simple();
            if (rows.some((row) => Object.values(row).includes(true))) return;
            if (Date.now() < deadline) continue;
            const all = await sql`select pid, application_name, state, wait_event, left(query, 60) as query, pg_blocking_pids(pid) as blocked_by
                from pg_stat_activity where datname = current_database()`;
            throw new Error(`never true: ${query}\n${all.map((row) => JSON.stringify(row)).join('\n')}`);
        }
    }, { application: 'pg-ensure test until' });
}

export const run = (url: string | undefined, args: string[], options: Start = {}): Promise<Ended> => start(url, args, options).ended;

/** The process id of the one child of a process. */
export function childOf(pid: number | undefined): number {
    const found = readdirSync('/proc').filter((name) => /^\d+$/.test(name)).find((name) => {
        try {
            return readFileSync(`/proc/${name}/stat`, 'utf8').split(') ')[1]?.split(' ')[1] === String(pid);
        } catch {
            return false; // it ended meanwhile
        }
    });
    return Number(found);
}

/** dbmate alone, as somebody who does not know of us runs it. */
export function plainDbmate(url: string, folder: string, table = 'public.schema_migrations'): { status: number | null; stderr: string } {
    const args = ['--env-file', devNull, '--no-dump-schema', '--migrations-dir', folder, '--migrations-table', table, 'migrate'];
    return spawnSync(resolveBinary(), args, { env: { DATABASE_URL: url }, encoding: 'utf8' });
}

/** The built command with few functions to install: to install all of them takes seconds. */
export const withFewFunctions = <Result>(body: (cli: string) => Promise<Result>): Promise<Result> =>
    withoutGuards({}, body, ['20261120000100_schema.sql', '20261120000150_ddl_allowed_v1.sql', '20261120000200_check_install_v1.sql']);

/**
 * A negative control: a copy of the built command with guards taken out. Fails when a text is not there, so that a control
 * cannot come to control nothing. Of the SQL it has what is named.
 */
export async function withoutGuards<Result>(
    changes: Record<string, [guard: string, instead: string][]>, body: (cli: string) => Promise<Result>, functions: readonly string[] = [],
): Promise<Result> {
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-mutant-'));
    try {
        cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true });
        mkdirSync(join(folder, 'sql'));
        for (const name of functions) cpSync(join(root, 'sql', name), join(folder, 'sql', name));
        symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
        symlinkSync(join(root, 'package.json'), join(folder, 'package.json'));
        for (const [name, edits] of Object.entries(changes)) {
            const path = join(folder, 'dist', name);
            let source = readFileSync(path, 'utf8');
            for (const [guard, instead] of edits) {
                expect(source, `${guard} is not in ${name}`).toContain(guard);
                source = source.replaceAll(guard, instead);
            }
            writeFileSync(path, source);
        }
        return await body(join(folder, 'dist/cli.js'));
    } finally {
        rmSync(folder, { recursive: true, force: true });
    }
}

export const rows = (url: string, query: string): Promise<Record<string, unknown>[]> => withConnection(url, async (sql) => [...await sql.unsafe(query).simple()]);

export const noTransaction = (text: string): string => `-- migrate:up transaction:false\n${text}\n-- migrate:down\n`;

/** A database and a folder with these files; `go` is the command, on both. */
export const world = (files: Files, body: (at: { url: string; folder: string; go: (...args: string[]) => Promise<Ended> }) => Promise<void>): Promise<void> =>
    withEmptyDatabase(({ url }) => withFolder(files, (folder) => (
        body({ url, folder, go: (command = 'migrate', ...args) => run(url, [command, ...args, '--dir', folder]) }))));
