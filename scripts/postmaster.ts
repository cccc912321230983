import { spawnSync } from 'node:child_process';
import { readFileSync, readlinkSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, UserError } from './errors.js';

const impossiblePid = 2147483646;

export interface Running {
    pid: number;
    port: number;
    ready: boolean;
}

export function runningServer(dataFolder: string): Running | undefined {
    const [pid, , , port, , , , state = ''] = pidFile(dataFolder)?.split('\n') ?? [];
    if (!isServerOf(dataFolder, Number(pid))) return undefined;
    return { pid: Number(pid), port: Number(port), ready: /^(ready|standby)/.test(state) };
}

/** Waits while a server that another process started or stops is on its way. */
export async function readyServer(dataFolder: string): Promise<Running | undefined> {
    for (const end = Date.now() + 60_000; Date.now() < end; await sleep(50)) {
        const found = runningServer(dataFolder);
        if (!found || found.ready) return found;
    }
    throw new UserError(`the server in ${dataFolder} has been starting or stopping for a minute: see server.log there`);
}

function pidFile(dataFolder: string): string | undefined {
    try {
        return readFileSync(join(dataFolder, 'postmaster.pid'), 'utf8');
    } catch (error) {
        if (codeOf(error) === 'ENOENT') return undefined;
        throw error;
    }
}

/** After a crash the recorded pid may belong to any process: a server's working folder is its data folder. */
function isServerOf(dataFolder: string, pid: number): boolean {
    if (!isAlive(pid)) return false;
    if (process.platform === 'linux') {
        try {
            return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(dataFolder);
        } catch {
            return false; // a zombie, or another user's process
        }
    }
    const { error, stdout } = spawnSync('ps', ['-ww', '-o', 'command=', '-p', String(pid)], { encoding: 'utf8' });
    return Boolean(error) || stdout.includes(dataFolder);
}

export function isAlive(pid: number): boolean {
    if (!(pid > 0)) return false;
    try {
        return process.kill(pid, 0);
    } catch (error) {
        return codeOf(error) === 'EPERM';
    }
}

/** PostgreSQL refuses to start while the recorded pid is alive, whoever owns it by now. */
export function disownPid(dataFolder: string): void {
    const text = pidFile(dataFolder) ?? '';
    const pid = Number.parseInt(text);
    if (!isAlive(pid) || isServerOf(dataFolder, pid)) return;
    // The file itself must stay: it names the shared memory by which a new server detects orphaned backends.
    writeFileSync(join(dataFolder, 'postmaster.pid'), text.replace(/^\d+/, String(impossiblePid)));
}
