import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { stateFolder } from '../scripts/database.js';
import { majors } from '../scripts/embedded.js';
import { commandLine, environment, fetchPackage, unpacked, type Program } from '../scripts/packages.js';

/** pg_dump and psql of one major. */
export interface Clients {
    major: number;
    dump: (url: string, ...args: string[]) => Promise<string>;
    /** Reads `script` and stops at its first error. */
    psql: (url: string, script: string) => Promise<string>;
}

const programs = ['pg_dump', 'psql'] as const;

/** The Debian releases to take a client from; none carries that of 14 or 16. */
const releases: Record<number, string> = { 15: 'bookworm', 17: 'trixie', 18: 'forky' };

/** The oldest client that can dump `server`: installed, fetched earlier, or fetched now. */
export async function findClients(server: number): Promise<Clients | { missing: string }> {
    const folders = [
        ...(process.env.PATH ?? '').split(delimiter).filter((place) => place), ...majors.map((major) => `/usr/lib/postgresql/${major}/bin`),
    ];
    const installed = await Promise.all(folders.map((folder) => clientsIn(folder, (name) => ({ path: join(folder, name) }))));
    const [found] = installed.filter((one) => one !== undefined).filter(({ major }) => major >= server)
        .sort((a, b) => a.major - b.major);
    if (found) return found;

    const [major = 0] = Object.keys(releases).map(Number).filter((one) => one >= server);
    const home = resolve(stateFolder(), `postgresql-client-${major}`);
    const fetched = () => clientsIn(home, (name) => unpacked(home, name));
    try {
        const earlier = await fetched();
        if (earlier) return earlier;
        process.stderr.write(`pg_dump ${major} is not installed: fetching its package into ${home}\n`);
        const files = programs.map((name) => `usr/lib/postgresql/${major}/bin/${name}`);
        await fetchPackage({ name: `postgresql-client-${major}`, programs: files, release: releases[major] ?? '' }, home);
        return await fetched() ?? { missing: `${home} has no pg_dump that runs` };
    } catch (error) {
        const reason = (error as Error).message;
        return { missing: `no pg_dump ${server} or newer (${reason}): install the package postgresql-client-${server}` };
    }
}

async function clientsIn(folder: string, program: (name: string) => Program): Promise<Clients | undefined> {
    if (!programs.every((name) => existsSync(join(folder, name)))) return undefined;
    const run = async (name: string, args: string[], input?: string): Promise<string> => {
        const one = program(name);
        const env = Object.fromEntries(Object.entries(environment(one)).filter(([variable]) => !variable.startsWith('PG')));
        const child = promisify(execFile)(...commandLine(one, args), {
            env: { ...env, LC_ALL: 'C' }, maxBuffer: 2 ** 26, timeout: 60_000,
        });
        child.child.stdin?.on('error', () => {}); // it ended early, and says why by its exit code
        child.child.stdin?.end(input ?? '');
        return (await child).stdout;
    };
    try {
        const major = Number(/(\d+)/.exec(await run('pg_dump', ['--version']))?.[1]);
        return {
            major,
            dump: (url, ...args) => run('pg_dump', [`--dbname=${url}`, ...args]),
            psql: (url, script) => run('psql', ['--no-psqlrc', '--quiet', '--set=ON_ERROR_STOP=1', `--dbname=${url}`], script),
        };
    } catch {
        return undefined; // a wrapper without a client behind it
    }
}
