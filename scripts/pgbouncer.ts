import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, delimiter, join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

const FETCH_SECONDS = 120;

export interface PgBouncer {
    path: string;
    /** Where the shared libraries are that the machine lacks. */
    libraryPath?: string;
}

/**
 * PgBouncer from $PGBOUNCER, the PATH, an earlier fetch in `folder`, or fetched into `folder` now: the package of this
 * Debian or Ubuntu, unpacked. Needs no root, installs nothing, changes nothing outside `folder`.
 */
export async function findPgBouncer(folder: string): Promise<PgBouncer | { missing: string }> {
    const named = process.env['PGBOUNCER'];
    if (named) {
        const path = resolve(named);
        const trouble = await whyNotRunning({ path });
        return trouble ? { missing: `PGBOUNCER=${named} does not run (${trouble}): correct or unset it` } : { path };
    }
    for (const place of [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']) {
        const path = resolve(place, 'pgbouncer');
        if (place && existsSync(path) && !(await whyNotRunning({ path }))) return { path };
    }
    const home = resolve(folder, 'pgbouncer');
    if (!(await whyNotRunning(unpacked(home)))) return unpacked(home);
    process.stderr.write(`PgBouncer is not installed: fetching its package into ${home}\n`);
    try {
        await fetchInto(home);
        return unpacked(home);
    } catch (error) {
        const reason = (error as Error).message;
        return {
            missing: `no PgBouncer (${reason}): install the package pgbouncer or set PGBOUNCER to its path`,
        };
    }
}

export function environment({ libraryPath }: PgBouncer): NodeJS.ProcessEnv {
    return libraryPath ? { ...process.env, LD_LIBRARY_PATH: libraryPath } : process.env;
}

function unpacked(home: string): Required<PgBouncer> {
    return { path: join(home, 'pgbouncer'), libraryPath: join(home, 'lib') };
}

async function whyNotRunning(pgbouncer: PgBouncer): Promise<string | undefined> {
    try {
        await run(pgbouncer.path, ['--version'], { env: environment(pgbouncer), timeout: 10_000 });
        return undefined;
    } catch (error) {
        const { stderr, message } = error as Error & { stderr?: string };
        return (stderr || message).trim().split('\n')[0];
    }
}

async function fetchInto(home: string): Promise<void> {
    mkdirSync(resolve(home, '..'), { recursive: true });
    const scratch = mkdtempSync(`${home}.`);
    try {
        const ready = join(scratch, 'ready');
        await fetchPackages(scratch, ready);
        try {
            renameSync(ready, home);
        } catch {
            if (!(await whyNotRunning(unpacked(home)))) return; // another process was first
            rmSync(home, { recursive: true });
            renameSync(ready, home);
        }
    } finally {
        rmSync(scratch, { recursive: true, force: true });
    }
}

/** pgbouncer into `ready`, then level by level the libraries that it depends on, until it runs. */
async function fetchPackages(scratch: string, ready: string): Promise<void> {
    const root = join(scratch, 'root');
    const { libraryPath } = unpacked(ready);
    for (const folder of ['lists/partial', 'cache/archives/partial', 'debs', 'root', 'ready/lib']) {
        mkdirSync(join(scratch, folder), { recursive: true });
    }
    const settings = join(scratch, 'apt.conf');
    writeFileSync(settings, aptSettings(scratch));

    const signal = AbortSignal.timeout(FETCH_SECONDS * 1000);
    let warning: string | undefined; // apt-get update without a network warns and exits 0
    const tool = async (command: string, ...args: string[]): Promise<string> => {
        const env = { ...process.env, LC_ALL: 'C' };
        const options = { cwd: join(scratch, 'debs'), env, signal, maxBuffer: 2 ** 26 };
        try {
            const { stdout, stderr } = await run(command, args, options);
            warning ??= /^[EW]: (.*)/m.exec(stderr)?.[1];
            return stdout;
        } catch (error) {
            const { code, stderr, message } = error as Error & { code?: unknown; stderr?: string };
            if (signal.aborted) throw new Error(`not fetched within ${FETCH_SECONDS} s`, { cause: error });
            if (code === 'ENOENT') throw new Error(`${command} is not on this machine`, { cause: error });
            const reason = warning ?? /^E: (.*)/m.exec(stderr ?? '')?.[1] ?? message.split('\n')[0];
            throw new Error(reason, { cause: error });
        }
    };

    const installed = (await tool('dpkg-query', '-W', '-f', '${db:Status-Status} ${Package}\n')).split('\n');
    const known = new Set(installed.filter((line) => line.startsWith('installed ')).map((line) => line.slice(10)));
    await tool('apt-get', '-c', settings, 'update');
    let wanted = ['pgbouncer'];
    let trouble: string | undefined;
    while (wanted.length > 0) {
        await tool('apt-get', '-c', settings, 'download', ...wanted);
        for (const name of readdirSync(join(scratch, 'debs'))) {
            await tool('dpkg-deb', '-x', name, root);
            rmSync(join(scratch, 'debs', name));
        }
        for (const file of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
            if (file === 'usr/sbin/pgbouncer') renameSync(join(root, file), unpacked(ready).path);
            if (!/^(usr\/)?lib\/[^/]+\/[^/]+\.so[.\d]*$/.test(file)) continue;
            renameSync(join(root, file), join(libraryPath, basename(file)));
        }
        trouble = await whyNotRunning(unpacked(ready));
        if (!trouble) return;
        wanted.forEach((name) => known.add(name));
        const records = await tool('apt-cache', '-c', settings, 'show', '--no-all-versions', ...wanted);
        const libraries = dependencies(records).filter((name) => name.startsWith('lib') && !known.has(name));
        wanted = [...new Set(libraries)];
    }
    throw new Error(`the fetched package does not run: ${trouble}`);
}

/** Of `a (>= 1) | b, c:any` the names a and c. */
function dependencies(records: string): string[] {
    const fields = [...records.matchAll(/^(?:Pre-)?Depends: (.*)$/gm)];
    return fields.flatMap(([, field = '']) => field.split(',').map((one) => one.trim().split(/[\s(:|]/)[0] ?? ''));
}

/** Read after the machine's own settings, so its sources and proxies stay; its hooks act on the machine, so they go. */
function aptSettings(scratch: string): string {
    return `
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State::lists "${scratch}/lists";
Dir::Cache "${scratch}/cache";
Debug::NoLocking "1";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
`;
}
