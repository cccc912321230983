import { createHash } from 'node:crypto';
import {
    closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, statSync, writeFileSync, writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { shelf } from './binaries.js';
import format from 'pg-format';
import { withConnection } from './connection.js';
import { initdb, newPassword, startServer, stopServer, type Major, type Server } from './embedded.js';
import { codeOf, UserError } from './errors.js';
import { isAlive } from './postmaster.js';
import { canEnter, ownedFolder, unprivilegedUser } from './unprivileged.js';

export interface Development {
    url: string;
    server: Server;
}

interface Known {
    major: Major;
    port?: number;
    password: string;
    appPassword: string;
}

/** Where servers keep their data: .pg-ensure here, unless the user that runs them cannot come here. */
export function stateFolder(): string {
    const here = process.cwd();
    const user = unprivilegedUser();
    const folder = join(here, '.pg-ensure');
    if (user && !canEnter(user, here)) {
        const hash = createHash('sha256').update(here).digest('hex').slice(0, 8);
        return join(shelf(), `${basename(here)}-${hash}`);
    }
    const owner = existsSync(folder) ? statSync(folder).uid : undefined;
    if (user && owner && owner !== user.uid) {
        throw new UserError(`${folder} belongs to the user with id ${owner}: run this as that user`);
    }
    return folder;
}

/** The development server of this folder, started when it does not run, with a database `app` that a role `app` owns. */
export async function developmentDatabase(major: Major): Promise<Development> {
    const home = ownedHome(major);
    return await locked(join(home, 'lock'), async () => {
        const known = await initialized(home, major);
        const { port, password, appPassword } = known;
        const server = await startServer({ major, dataFolder: join(home, 'data'), password, port, durable: true });
        if (server.port !== port) writeKnown(home, { ...known, port: server.port });
        await withConnection(server.url, async (sql) => {
            const roles = await sql`select from pg_catalog.pg_roles where rolname = 'app'`;
            await sql.unsafe(roles.length ? 'alter role app createrole' : format('create role app login createrole password %L', appPassword));
            const databases = await sql`select from pg_catalog.pg_database where datname = 'app'`;
            if (!databases.length) await sql.unsafe('create database app owner app');
        });
        return { url: `postgres://app:${appPassword}@127.0.0.1:${server.port}/app?sslmode=disable`, server };
    });
}

/** Stops the development server, and deletes its data when asked to; false when none was running. */
export async function stopDevelopment(major: Major, remove = false): Promise<boolean> {
    const home = join(stateFolder(), major);
    if (!existsSync(home)) return false;
    const stopped = await locked(join(home, 'lock'), () => stopServer(join(home, 'data')));
    if (remove) rmSync(home, { recursive: true });
    return stopped;
}

function ownedHome(major: Major): string {
    const user = unprivilegedUser();
    ownedFolder(user, stateFolder());
    return ownedFolder(user, join(stateFolder(), major));
}

/** Passwords are written down before there is a server, and a half-made data folder never bears the final name. */
async function initialized(home: string, major: Major): Promise<Known> {
    const data = join(home, 'data');
    const file = join(home, 'server.json');
    if (!existsSync(file)) {
        if (existsSync(data)) {
            throw new UserError(`${file} with the passwords is gone: put it back, or remove ${home} with all its data`);
        }
        writeKnown(home, { major, password: newPassword(), appPassword: newPassword() });
    }
    const known = JSON.parse(readFileSync(file, 'utf8')) as Known;
    if (!existsSync(data)) {
        rmSync(`${data}.new`, { recursive: true, force: true });
        await initdb(major, `${data}.new`, { password: known.password, durable: true });
        renameSync(`${data}.new`, data);
    }
    return known;
}

function writeKnown(home: string, known: Known): void {
    const file = join(home, 'server.json');
    writeFileSync(`${file}.new`, `${JSON.stringify(known, undefined, 4)}\n`, { mode: 0o600 });
    renameSync(`${file}.new`, file);
}

/** `work` alone among the processes of this machine; the lock of a dead process does not count. */
async function locked<T>(file: string, work: () => Promise<T>): Promise<T> {
    for (const end = Date.now() + 120_000; !taken(file); await sleep(50)) {
        if (Date.now() > end) throw new UserError(`another process has held ${file} for two minutes: remove it if none does`);
    }
    try {
        return await work();
    } finally {
        rmSync(file, { force: true });
    }
}

function taken(file: string): boolean {
    try {
        const handle = openSync(file, 'wx', 0o600);
        writeSync(handle, String(process.pid));
        closeSync(handle);
        return true;
    } catch (error) {
        if (codeOf(error) !== 'EEXIST') throw error;
    }
    if (!holderIsDead(file)) return false;
    const aside = `${file}.${process.pid}`;
    try {
        renameSync(file, aside);
        // Meanwhile another process may have cleared the dead lock and taken its own: give it back.
        if (holderIsDead(aside)) rmSync(aside);
        else renameSync(aside, file);
    } catch (error) {
        if (codeOf(error) !== 'ENOENT') throw error;
    }
    return false;
}

function holderIsDead(file: string): boolean {
    try {
        const pid = Number(readFileSync(file, 'utf8'));
        if (pid) return !isAlive(pid);
        return Date.now() - statSync(file).mtimeMs > 5_000; // made, and its maker died before writing
    } catch (error) {
        if (codeOf(error) === 'ENOENT') return false;
        throw error;
    }
}
