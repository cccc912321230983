import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

const FETCH_SECONDS = 120;

export interface Program {
    path: string;
    /** Where the shared libraries are that the machine lacks. */
    libraryPath?: string;
    /** Starts a program that is built for a newer C library than the machine's. */
    loader?: string;
}

export interface Package {
    name: string;
    /** Files of the package that must run. */
    programs: string[];
    /** Other files of it to keep, beside the programs. */
    files?: string[];
    /** The Debian release to take it from, with its own C library; without, that of this machine. */
    release?: string;
}

export function environment({ libraryPath, loader }: Program): NodeJS.ProcessEnv {
    return libraryPath && !loader ? { ...process.env, LD_LIBRARY_PATH: libraryPath } : process.env;
}

/** What to execute for `program` with `args`. */
export function commandLine({ path, libraryPath = '', loader }: Program, args: string[]): [file: string, args: string[]] {
    return loader ? [loader, ['--library-path', libraryPath, path, ...args]] : [path, args];
}

/** A program of a package that was fetched into `home`. */
export function unpacked(home: string, program: string): Program & { libraryPath: string } {
    const libraryPath = join(home, 'lib');
    const loader = existsSync(libraryPath) && readdirSync(libraryPath).find((name) => /^ld-linux.*\.so\.\d$/.test(name));
    return { path: join(home, basename(program)), libraryPath, ...(loader ? { loader: join(libraryPath, loader) } : {}) };
}

export async function whyNotRunning(program: Program): Promise<string | undefined> {
    try {
        await run(...commandLine(program, ['--version']), { env: environment(program), timeout: 10_000 });
        return undefined;
    } catch (error) {
        const { stderr, message } = error as Error & { stderr?: string };
        return (stderr || message).trim().split('\n')[0];
    }
}

async function trouble(programs: string[], home: string): Promise<string | undefined> {
    for (const program of programs) {
        const reason = await whyNotRunning(unpacked(home, program));
        if (reason) return reason;
    }
    return undefined;
}

/** Unpacks a Debian package and its libraries into `home`. Needs no root, installs nothing, changes nothing elsewhere. */
export async function fetchPackage(wanted: Package, home: string): Promise<void> {
    mkdirSync(resolve(home, '..'), { recursive: true });
    const scratch = mkdtempSync(`${home}.`);
    try {
        const ready = join(scratch, 'ready');
        await fetchFiles(wanted, scratch, ready);
        try {
            renameSync(ready, home);
        } catch {
            if (!(await trouble(wanted.programs, home))) return; // another process was first
            rmSync(home, { recursive: true });
            renameSync(ready, home);
        }
    } finally {
        rmSync(scratch, { recursive: true, force: true });
    }
}

/** The package into `ready`, then level by level the libraries that it depends on, until it runs. */
async function fetchFiles({ name, programs, files = [], release }: Package, scratch: string, ready: string): Promise<void> {
    const root = join(scratch, 'root');
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
    if (release) {
        known.clear(); // what is installed is of another release
        const targets = await tool('apt-get', '-c', settings, 'indextargets', 'Created-By: Packages', 'Origin: Debian', 'Component: main');
        const sources = join(scratch, 'sources.list');
        writeFileSync(sources, `${sourceOf(targets, release, warning)}\n`);
        writeFileSync(settings, aptSettings(scratch, sources));
        await tool('apt-get', '-c', settings, 'update');
    }
    let wanted = [name];
    let reason: string | undefined;
    while (wanted.length > 0) {
        await tool('apt-get', '-c', settings, 'download', ...wanted);
        for (const file of readdirSync(join(scratch, 'debs'))) {
            await tool('dpkg-deb', '-x', file, root);
            rmSync(join(scratch, 'debs', file));
        }
        for (const file of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
            if (programs.includes(file) || files.includes(file)) renameSync(join(root, file), join(ready, basename(file)));
            if (!/^(usr\/)?lib\/[^/]+\/[^/]+\.so[.\d]*$/.test(file)) continue;
            renameSync(join(root, file), join(ready, 'lib', basename(file)));
        }
        reason = await trouble(programs, ready);
        if (!reason) return;
        wanted.forEach((one) => known.add(one));
        const records = await tool('apt-cache', '-c', settings, 'show', '--no-all-versions', ...wanted);
        const libraries = dependencies(records).filter((one) => /^(lib|zlib)/.test(one) && !known.has(one));
        wanted = [...new Set(libraries)];
    }
    throw new Error(`the fetched package does not run: ${reason}`);
}

/** The line of sources.list for `release`, from where this machine has its own. */
function sourceOf(targets: string, release: string, warning = 'no package source of Debian on this machine'): string {
    const value = (field: string): string | undefined => new RegExp(`^${field}: (.+)$`, 'm').exec(targets)?.[1];
    if (!value('Repo-URI')) throw new Error(warning);
    const key = value('Signed-By');
    return `deb ${key ? `[signed-by=${key}] ` : ''}${value('Repo-URI')} ${release} main`;
}

/** Of `a (>= 1) | b, c:any` the names a and c. */
function dependencies(records: string): string[] {
    const fields = [...records.matchAll(/^(?:Pre-)?Depends: (.*)$/gm)];
    return fields.flatMap(([, field = '']) => field.split(',').map((one) => one.trim().split(/[\s(:|]/)[0] ?? ''));
}

/** Read after the machine's own settings, so its sources and proxies stay; its hooks act on the machine, so they go. */
function aptSettings(scratch: string, sources?: string): string {
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
${sources ? `Dir::Etc::sourcelist "${sources}";\nDir::Etc::sourceparts "/dev/null";\n` : ''}`;
}
