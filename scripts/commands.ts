import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { constants } from 'node:os';
import { resolve as absolute } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import { withConnection } from './connection.js';
import type { Database } from './database.js';
import { exitCodes, UserError } from './errors.js';
import { dropOwn, resolve, rollback, type Confirm } from './migrate/change.js';
import type { Target } from './migrate/known.js';
import { filesOf, look, summary, type Look } from './migrate/look.js';
import { sentence, type Say } from './migrate/report.js';
import { defaults, migrate, spelled, type Limits } from './migrate/run.js';
import { reasons } from './migrate/state.js';
import { verifyDatabase, verifyFiles } from './migrate/verify.js';
import type { Finding } from './migrate/lint.js';
import { table as grid } from './print.js';

export interface Surface {
    /** Whose rights apply files: MIGRATION_DATABASE_URL before DATABASE_URL. */
    open: (migrating: boolean) => Promise<{ database: Database; source: string }>;
    print: (text: string) => void;
    complain: (text: string) => void;
    guide: (database: Database) => string;
}

interface Common {
    dir?: string;
    table?: string;
    json?: boolean;
}

interface Switches {
    outOfOrder?: boolean;
    baseline?: boolean;
    dryRun?: boolean;
}

interface Migrating extends Common, Switches {
    maxWait: number;
    lockTimeout: number;
    reinstall?: boolean;
    skip?: boolean;
    yes?: boolean;
}

const switches = ({ outOfOrder = false, baseline = false, dryRun = false }: Migrating): Required<Switches> => ({ outOfOrder, baseline, dryRun });

const units: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000 };

function duration(text: string): number {
    const [, amount = '', unit = 's'] = /^(\d+)(ms|s|m|min|h)?$/.exec(text) ?? [];
    if (!amount) throw new InvalidArgumentError('write 500ms, 30s, 10min or 2h.');
    return Number(amount) * (units[unit] ?? 1_000);
}

/** The commands that read or change what is applied. */
export function addMigrationCommands(program: Command, { open, print, complain, guide }: Surface): void {
    const command = (name: string, text: string): Command => program.command(name).description(text)
        .option('--dir <folder>', 'a folder of dbmate migrations (default: pg-ensure\'s own)')
        .option('--table <table>', 'dbmate\'s table (default: ensure.schema_migrations, with --dir schema_migrations)')
        .option('--json', 'the result as one JSON document on stdout, progress as JSON lines on stderr');
    const changing = (name: string, text: string): Command => command(name, text)
        .option('--max-wait <duration>', 'for other runners', duration, defaults.maxWaitMs)
        .option('--lock-timeout <duration>', 'for one attempt of a file to get its locks', duration, defaults.lockTimeoutMs);

    const target = async ({ dir, table }: Common, migrating: boolean): Promise<{ database: Database; to: Target }> => {
        const { database, source } = await open(migrating);
        const folder = dir !== undefined && { folder: absolute(dir) };
        return { database, to: { url: database.url, source, ...folder, ...(table && { table }) } };
    };
    const say = ({ json }: Common): Say => (event) => {
        const line = json ? JSON.stringify(event) : sentence(event);
        if (line) complain(json ? line : `pg-ensure: ${line}`);
    };
    const limits = (options: Migrating): Limits => ({
        lockTimeoutMs: options.lockTimeout, maxWaitMs: options.maxWait, signal: interruption(), say: say(options),
    });

    changing('migrate', 'apply what is not applied yet: any number of replicas may do so at once')
        .option('--dry-run', 'say what would be applied')
        .option('--baseline', 'adopt what dbmate has applied without pg-ensure')
        .option('--out-of-order', 'apply files older than the newest applied one')
        .option('--reinstall', 'replace the functions of pg-ensure that an older edit installed').option('--yes', 'do not ask')
        .option('--skip', 'apply nothing, another runner does; exit as status does (or PG_ENSURE_SKIP=1)')
        .action(async (options: Migrating) => {
            if (options.skip || /^(1|true|yes|on)$/i.test(process.env.PG_ENSURE_SKIP ?? '')) {
                complain('pg-ensure: skipped, another runner owns the migrations (--skip or PG_ENSURE_SKIP)');
                return report(options, await look(() => target(options, false)));
            }
            const { database, to } = await target(options, true);
            if (options.reinstall) {
                if (options.dir) throw new UserError('--reinstall is for pg-ensure\'s own functions, not for --dir', exitCodes.usage);
                if (!await dropOwn({ ...to, ...limits(options) }, confirmation(options))) throw new UserError('nothing was changed');
            }
            const { state, applied, run } = await migrate({ ...to, ...limits(options), ...switches(options) });
            const dryRun = options.dryRun ?? false;
            if (options.json) return document({ ...summary(state), applied, run: run ?? null, dryRun });
            if (options.dryRun) return print([...reasons(state), `${state.pending.length} to apply`].join('\n'));
            print(`${applied.length} applied, ${state.facts.recorded.length} in all${state.state === 'ahead' ? '; the database is ahead of these files' : ''}`);
            if (!options.dir) print(`\n${guide(database)}`);
        });

    changing('rollback', 'undo the last applied file by its down section').option('--yes', 'do not ask')
        .action(async (options: Migrating) => {
            const { to } = await target(options, true);
            const changed = await rollback({ ...to, ...limits(options) }, confirmation(options));
            if (!changed) throw new UserError('nothing was rolled back');
            if (options.json) return document(changed);
            print(`rolled back ${changed.file}`);
        });

    changing('resolve', 'say whether the database has what a file says, where nobody can tell')
        .argument('<version>').option('--applied', 'it has: record it, with the file as it is now')
        .option('--not-applied', 'it has not: the next run applies it')
        .action(async (version: string, options: Migrating & { applied?: boolean; notApplied?: boolean }) => {
            if (Boolean(options.applied) === Boolean(options.notApplied)) throw new UserError('say --applied or --not-applied', exitCodes.usage);
            const { to } = await target(options, true);
            const changed = await resolve({ ...to, ...limits(options) }, version, Boolean(options.applied));
            if (options.json) return document(changed);
            print(`${changed.file} is recorded as ${options.applied ? 'applied' : 'not applied'}`);
        });

    command('status', 'say what is applied; reads by one statement, on a standby too')
        .action(async (options: Common) => report(options, await look(() => target(options, false))));

    command('wait', 'wait until everything is applied, and fail when it is not')
        .option('--timeout <duration>', 'how long', duration, 60_000)
        .action(async (options: Common & { timeout: number }) => {
            const deadline = Date.now() + options.timeout;
            const signal = interruption();
            let told = '';
            for (;;) {
                const found = await look(() => target(options, false));
                if (found.ready || found.name === 'diverged' || Date.now() > deadline) return report(options, found);
                if (found.text[0] !== told) complain(`pg-ensure: waiting, ${found.name}: ${found.text[0] ?? ''}`);
                told = found.text[0] ?? '';
                await sleep(500 + Math.random() * 500, undefined, { signal }).catch(() => signal.throwIfAborted());
            }
        });

    command('verify', 'check the files, and what the database says of them when DATABASE_URL is set')
        .action(async (options: Common) => {
            const files = verifyFiles(options.dir === undefined ? {} : { folder: absolute(options.dir) });
            const known = Boolean(process.env.DATABASE_URL ?? process.env.MIGRATION_DATABASE_URL);
            const database = known && files.every(({ rule }) => rule !== 'no-files') ? await target(options, false).then(({ to }) => withConnection(to.url, (sql) => verifyDatabase(sql, to))) : [];
            const findings: Finding[] = [...files, ...database];
            const errors = findings.filter(({ severity }) => severity === 'error');
            if (options.json) document(findings);
            else print([...findings.map((one) => `${one.severity}: ${spelled(one)}`),
                `${errors.length} errors, ${findings.length - errors.length} warnings${known ? '' : '; the files alone, DATABASE_URL is not set'}`].join('\n'));
            if (errors.length) process.exitCode = exitCodes.findings;
        });

    function report({ json }: Common, { name, ready, exitCode, state, text }: Look): void {
        process.exitCode = exitCode;
        if (json) return document(state ? { ...summary(state), recorded: state.facts.recorded } : { state: name, ready, reasons: text });
        if (!state) return complain(`pg-ensure: ${name}: ${text.join('\n')}`);
        print(`${grid(filesOf(state))}\n${[`${name}, ${ready ? 'ready' : 'not ready'}`, ...text].join('\n')}`);
        const { holder } = state.facts;
        if (holder) print(`pid ${holder.pid} (${holder.application}) has the migration lock since ${holder.since}`);
    }

    function document(value: object): void {
        print(JSON.stringify(value, undefined, 2));
    }

    function confirmation({ yes }: Migrating): Confirm {
        return async (question) => {
            if (yes) return true;
            if (!process.stdin.isTTY) throw new UserError(`${question} There is nobody to ask: add --yes`, exitCodes.usage);
            const terminal = createInterface({ input: process.stdin, output: process.stderr });
            try {
                return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
            } finally {
                terminal.close();
            }
        };
    }
}

/** Ctrl-C and SIGTERM stop the work, and what it has in the server; a second one ends this process at once. */
function interruption(): AbortSignal {
    const stop = new AbortController();
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
        process.once(name, () => stop.abort(new UserError(
            `${name}: stopped; what ran in the server was ended, run again to go on`, 128 + constants.signals[name],
        )));
    }
    return stop.signal;
}
