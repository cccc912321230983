import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
    chmodSync, chownSync, closeSync, copyFileSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { environment, type PgBouncer } from './pgbouncer.js';
import { freePort } from './ports.js';
import { canEnter, ownedFolder, reachableCopy, unprivilegedUser, type User } from './unprivileged.js';

export { findPgBouncer, type PgBouncer } from './pgbouncer.js';

const START_SECONDS = 10;

export interface PoolerOptions {
    pgbouncer: PgBouncer;
    server: { host: string; port: number };
    users: { name: string; password: string }[];
    poolSize?: number;
    poolMode?: 'session' | 'transaction' | 'statement';
    /** Written last into the section [pgbouncer]. */
    settings?: Record<string, string>;
}

export interface Pooler {
    readonly port: number;
    readonly pid: number;
    url(database: string, user: string, password: string): string;
    /**
     * Cuts the database's client and server connections, so that it can be dropped. The server first finishes a
     * statement that was running, as it does when the pooler is killed: `drop database … with (force)` ends it.
     */
    release(database: string): Promise<void>;
    kill(signal: NodeJS.Signals): void;
    /** Kills it unless it is dead already, and starts it again on the same port. */
    restart(): Promise<void>;
    stop(): Promise<void>;
}

/** A PgBouncer of its own on a free port of 127.0.0.1, any database of `server` behind it; ends with this process. */
export async function startPooler(options: PoolerOptions): Promise<Pooler> {
    const user = unprivilegedUser();
    const home = ownedFolder(user, mkdtempSync(join(tmpdir(), 'pg-ensure-pooler-')));
    const log = join(home, 'log');
    const admin = { name: 'pooler_admin', password: randomBytes(16).toString('hex') };
    const port = await freePort();
    let child: ChildProcess | undefined;

    const url = (database: string, name: string, password: string): string => {
        const [path, login, secret] = [database, name, password].map(encodeURIComponent);
        return `postgres://${login}:${secret}@127.0.0.1:${port}/${path}`;
    };
    const command = async (text: string): Promise<postgres.Row[]> => {
        const sql = postgres(url('pgbouncer', admin.name, admin.password), {
            max: 1, prepare: false, fetch_types: false, connect_timeout: START_SECONDS,
        });
        try {
            return await sql.unsafe(text).simple();
        } finally {
            await sql.end({ timeout: 1 });
        }
    };
    const end = async (): Promise<void> => {
        if (!child || !isRunning(child)) return;
        child.ref();
        const exit = once(child, 'exit');
        child.kill('SIGKILL'); // it has no state to save, and what SIGTERM waits for depends on its version
        await exit;
    };
    const start = async (): Promise<void> => {
        child = spawnForeground(reachable, join(home, 'pgbouncer.ini'), log, user);
        try {
            await untilAccepting(child, port);
            await command('show version'); // only ours knows this password
        } catch (error) {
            await end();
            const tail = readFileSync(log, 'utf8').trim().split('\n').slice(-15).join('\n');
            throw new Error(`PgBouncer did not start: ${(error as Error).message}\n${tail}`, { cause: error });
        }
    };
    const clean = (): void => {
        child?.kill('SIGKILL');
        rmSync(home, { recursive: true, force: true });
    };
    const stop = async (): Promise<void> => {
        await end();
        process.off('exit', clean);
        clean();
    };

    process.on('exit', clean);
    const reachable = reachablePgBouncer(options.pgbouncer, user, home);
    writeOwned(user, join(home, 'pgbouncer.ini'), configuration(options, home, port, admin.name));
    writeOwned(user, join(home, 'userlist.txt'), userList([...options.users, admin]));
    try {
        await start();
    } catch (error) {
        await stop();
        throw error;
    }
    return {
        port,
        get pid() {
            return child?.pid ?? 0;
        },
        url,
        async release(database) {
            const pools = await command('show pools');
            if (!pools.some((pool) => pool['database'] === database)) return;
            const name = `"${database.replaceAll('"', '""')}"`;
            await command(`kill ${name}`);
            await command(`resume ${name}`); // kill leaves it paused
        },
        kill: (signal) => void child?.kill(signal),
        async restart() {
            await end();
            await start();
        },
        stop,
    };
}

function configuration(options: PoolerOptions, home: string, port: number, admin: string): string {
    const { server, poolSize = 2, poolMode = 'transaction' } = options;
    const settings = {
        listen_addr: '127.0.0.1',
        listen_port: port,
        unix_socket_dir: '',
        auth_type: 'scram-sha-256',
        auth_file: join(home, 'userlist.txt'),
        admin_users: admin,
        pool_mode: poolMode,
        default_pool_size: poolSize,
        min_pool_size: 0,
        max_client_conn: 500,
        server_idle_timeout: 5,
        ...options.settings,
    };
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
    return ['[databases]', `* = host=${server.host} port=${server.port}`, '[pgbouncer]', ...lines, ''].join('\n');
}

function userList(users: PoolerOptions['users']): string {
    const quoted = (text: string): string => `"${text.replaceAll('"', '""')}"`;
    return users.map(({ name, password }) => `${quoted(name)} ${quoted(password)}\n`).join('');
}

function writeOwned(user: User | undefined, path: string, text: string): void {
    writeFileSync(path, text, { mode: 0o600 });
    if (user) chownSync(path, user.uid, user.gid);
}

function reachablePgBouncer(pgbouncer: PgBouncer, user: User | undefined, home: string): PgBouncer {
    let { path } = pgbouncer;
    if (!canEnter(user, dirname(path))) {
        copyFileSync(path, join(home, 'pgbouncer'));
        path = join(home, 'pgbouncer');
        chmodSync(path, 0o755);
    }
    if (!pgbouncer.libraryPath) return { path };
    return { path, libraryPath: reachableCopy(user, pgbouncer.libraryPath, home, 'lib') };
}

function spawnForeground(pgbouncer: PgBouncer, ini: string, log: string, user: User | undefined): ChildProcess {
    // An exit handler does not run when this process is killed: where it can, the kernel ends the child then.
    const leash = ['setpriv', '--pdeathsig', 'KILL'];
    const leashed = spawnSync('setpriv', [...leash.slice(1), 'true']).status === 0;
    const [file = '', ...args] = [...(leashed ? leash : []), pgbouncer.path, ini];
    const output = openSync(log, 'a');
    const child = spawn(file, args, {
        ...user, cwd: '/', env: environment(pgbouncer), stdio: ['ignore', output, output],
    });
    closeSync(output);
    child.unref();
    return child;
}

function isRunning(child: ChildProcess): boolean {
    return child.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

async function untilAccepting(child: ChildProcess, port: number): Promise<void> {
    let failure: Error | undefined;
    child.once('error', (error) => (failure = error));
    for (const deadline = Date.now() + START_SECONDS * 1000; Date.now() < deadline; await sleep(20)) {
        if (failure) throw failure;
        if (!isRunning(child)) throw new Error(`it ended with ${child.signalCode ?? `exit code ${child.exitCode}`}`);
        if (await accepts(port)) return;
    }
    throw new Error(`port ${port} accepts no connection after ${START_SECONDS} s`);
}

async function accepts(port: number): Promise<boolean> {
    const socket = connect(port, '127.0.0.1');
    try {
        await once(socket, 'connect');
        return true;
    } catch {
        return false;
    } finally {
        socket.destroy();
    }
}
