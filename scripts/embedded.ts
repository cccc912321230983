import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { accessSync, chownSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { binaries, majorOf, type Major } from './binaries.js';
import { UserError } from './errors.js';
import { freePort, portIsFree } from './ports.js';
import { disownPid, readyServer, runningServer } from './postmaster.js';
import { canEnter, ownedFolder, unprivilegedUser } from './unprivileged.js';

export { binaries, defaultMajor, majorOf, majors, type Major } from './binaries.js';

export interface Server {
    major: Major;
    url: string;
    port: number;
    dataFolder: string;
    password: string;
    pid: number;
    stop: (mode?: StopMode) => Promise<void>;
}

export interface ServerOptions {
    major: Major;
    dataFolder: string;
    password: string;
    /** Taken when it is free, else another one is. */
    port?: number | undefined;
    settings?: Record<string, string>;
    durable: boolean;
}

export type StopMode = 'fast' | 'immediate';

const startAttempts = 5;
const forgetful = { fsync: 'off', full_page_writes: 'off', synchronous_commit: 'off' };

export const newPassword = (): string => randomBytes(18).toString('base64url');

export async function initdb(
    major: Major, dataFolder: string, { password, durable = false }: { password: string; durable?: boolean },
): Promise<void> {
    const user = unprivilegedUser();
    ownedFolder(user, dataFolder);
    const folder = temporaryFolder();
    const remove = (): void => rmSync(folder, { recursive: true, force: true });
    process.once('exit', remove); // also when a signal ends us meanwhile
    try {
        const passwordFile = join(folder, 'password');
        writeFileSync(passwordFile, password, { mode: 0o600 });
        if (user) chownSync(passwordFile, user.uid, user.gid);
        await run(major, 'initdb', [
            `--pgdata=${dataFolder}`, '--username=postgres', '--encoding=UTF8', '--locale=C',
            '--auth=scram-sha-256', `--pwfile=${passwordFile}`, ...(durable ? [] : ['--no-sync']),
        ]);
    } finally {
        remove();
        process.off('exit', remove);
    }
}

/** Starts the server of a data folder; when it runs already, that is the one you get. */
export async function startServer(options: ServerOptions): Promise<Server> {
    const { major, dataFolder, password, durable } = options;
    const log = join(dataFolder, 'server.log');
    binaries(major); // what is wrong with them is not the server's fault
    for (let attempt = 1; ; attempt += 1) {
        const found = await readyServer(dataFolder);
        if (found) {
            const url = `postgres://postgres:${password}@127.0.0.1:${found.port}/postgres?sslmode=disable`;
            const stop = async (mode?: StopMode): Promise<void> => void await stopServer(dataFolder, mode);
            return { major, url, port: found.port, dataFolder, password, pid: found.pid, stop };
        }
        disownPid(dataFolder);
        const wanted = attempt === 1 && options.port && await portIsFree(options.port);
        const port = wanted && options.port || await freePort();
        const settings = {
            listen_addresses: '127.0.0.1', port: String(port), unix_socket_directories: '',
            ...(durable ? {} : forgetful), ...options.settings,
        };
        const flags = Object.entries(settings).map(([name, value]) => `-c ${shellQuoted(`${name}=${value}`)}`);
        const logged = existsSync(log) ? readFileSync(log).length : 0;
        try {
            await run(major, 'pg_ctl', ['start', '-w', '-D', dataFolder, '-l', log, '-o', flags.join(' ')]);
        } catch (error) {
            if (!await portIsFree(port) && attempt < startAttempts) continue;
            const why = existsSync(log) ? readFileSync(log).subarray(logged).toString().trim() : '';
            throw new UserError(`PostgreSQL ${major} does not start in ${dataFolder}:\n`
                + (why.split('\n').slice(-8).join('\n') || (error as Error).message));
        }
    }
}

/** Stops the server of a data folder; false when none was running. */
export async function stopServer(dataFolder: string, mode: StopMode = 'fast'): Promise<boolean> {
    if (!runningServer(dataFolder)) return false;
    const major = majorOf(readFileSync(join(dataFolder, 'PG_VERSION'), 'utf8').trim());
    await run(major, 'pg_ctl', ['stop', '-w', '-D', dataFolder, '-m', mode]);
    return true;
}

/**
 * A server whose stop() also removes its data, which is kept in memory where the machine has plenty, or below `parent`. It ends
 * with this process, however that ends.
 */
export async function temporaryServer(major: Major, settings: Record<string, string> = {}, parent = memory()): Promise<Server> {
    const folder = temporaryFolder(parent);
    const dataFolder = join(folder, 'data');
    const dismiss = removedWithUs(folder);
    const remove = (): void => {
        rmSync(folder, { recursive: true, force: true });
        dismiss();
    };
    try {
        const password = newPassword();
        await initdb(major, dataFolder, { password });
        const server = await startServer({ major, dataFolder, password, settings, durable: false });
        return { ...server, stop: (mode) => server.stop(mode).finally(remove) };
    } catch (error) {
        remove();
        throw error;
    }
}

/** Reads until this process has gone. The recorded pid may be another's by then: a server's working folder is its data folder. */
const lastRites = `
    read -r _
    pid=$(head -n 1 "$1/data/postmaster.pid")
    runs() { if [ -e /proc/self ]; then [ "/proc/$pid/cwd" -ef "$1/data" ]; else kill -0 "$pid"; fi; }
    while runs "$1"; do kill -QUIT "$pid"; sleep 0.1; done
    for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" && exit; sleep 1; done`;

/** A shell of its own, which no signal to our group reaches, ends the server in `folder` and removes it when we are gone. */
function removedWithUs(folder: string): () => void {
    const shell = spawn('/bin/sh', ['-c', lastRites, 'sh', folder], { detached: true, cwd: '/', stdio: ['pipe', 'ignore', 'ignore'] });
    shell.unref();
    (shell.stdin as Socket).unref();
    return () => void shell.kill();
}

async function run(major: Major, name: 'initdb' | 'pg_ctl', args: string[]): Promise<void> {
    const { bin, env } = binaries(major);
    try {
        await promisify(execFile)(bin(name), args, { ...unprivilegedUser(), env, cwd: '/' });
    } catch (error) {
        const { stderr, message } = error as Error & { stderr?: string };
        throw new UserError(`${name} of PostgreSQL ${major} failed: ${stderr?.trim() || message}`);
    }
}

function temporaryFolder(parent = tmpdir()): string {
    const user = unprivilegedUser();
    const folder = mkdtempSync(join(canEnter(user, parent) ? parent : '/tmp', 'pg-ensure-'));
    return ownedFolder(user, folder);
}

/** Linux's shared memory, when 8 GiB of it are free (a container has 64 MiB): the 248 tests of grids took 39 s there, not 54. */
function memory(): string | undefined {
    const folder = '/dev/shm';
    try {
        accessSync(folder, constants.W_OK);
        const { bavail, bsize } = statfsSync(folder);
        return bavail * bsize >= 8 * 2 ** 30 ? folder : undefined;
    } catch {
        return undefined;
    }
}

const shellQuoted = (text: string): string => `'${text.replaceAll('\'', '\'\\\'\'')}'`;
