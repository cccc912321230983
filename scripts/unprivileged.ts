import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

export interface User {
    uid: number;
    gid: number;
}

/** PostgreSQL and PgBouncer refuse to run as root: the user to run them as, or nothing when we are not root. */
export function unprivilegedUser(): User | undefined {
    if (process.getuid?.() !== 0) return undefined;
    const id = (flag: string): number => {
        const { stdout, status } = spawnSync('id', [flag, 'nobody'], { encoding: 'utf8' });
        return status === 0 ? Number(stdout.trim()) : 65534;
    };
    return { uid: id('-u'), gid: id('-g') };
}

/** Whether `user` may enter `folder`: asked of the kernel, since modes of parents and ACLs decide. */
export function canEnter(user: User | undefined, folder: string): boolean {
    if (!user) return existsSync(folder);
    return spawnSync('/bin/sh', ['-c', 'cd "$1" && [ -r . ]', 'sh', folder], { ...user, cwd: '/' }).status === 0;
}

/** A folder that `user` owns; its parents are made if need be. */
export function ownedFolder(user: User | undefined, folder: string, mode = 0o700): string {
    mkdirSync(folder, { recursive: true });
    if (user) chownSync(folder, user.uid, user.gid);
    chmodSync(folder, mode);
    return folder;
}

/** `folder` itself when `user` can enter it, else a copy of it under `shelf`, made once. */
export function reachableCopy(user: User | undefined, folder: string, shelf: string, name = basename(folder)): string {
    if (canEnter(user, folder)) return folder;
    const copy = join(shelf, name);
    if (!existsSync(copy)) {
        mkdirSync(dirname(copy), { recursive: true, mode: 0o755 });
        const part = `${copy}.${process.pid}`;
        cpSync(folder, part, { recursive: true, verbatimSymlinks: true });
        spawnSync('chmod', ['-R', 'a+rX', part]);
        try {
            renameSync(part, copy);
        } catch {
            rmSync(part, { recursive: true, force: true }); // another process was first
        }
    }
    return copy;
}
