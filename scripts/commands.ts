import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { constants } from 'node:os';
import { resolve as absolute } from 'node:path';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { withConnection } from './connection.js';
import type { Database } from './database.js';
import { exitCodes, UserError } from './errors.js';
import { failureOf } from './failure.js';
import { dropOwn, resolve, rollback, type Confirm } from './migrate/change.js';
import type { Target } from './migrate/known.js';
import { filesOf, look, summary, type Look } from './migrate/look.js';
import { spelled } from './migrate/lint.js';
import { sentence, type Say } from './migrate/report.js';
import { migrate, type Limits } from './migrate/run.js';
import { reasons } from './migrate/state.js';
import { verifyDatabase, verifyFiles } from './migrate/verify.js';
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

const units: Record<string, number> = { ms: 1, s: 1_000, min: 60_000, h: 3_600_000 };

function duration(text: string): number {
    const [, amount, unit = ''] = /^(\d+)(ms|s|min|h)$/.exec(text) ?? [];
    if (!amount) throw new InvalidArgumentError('Write 500ms, 30s, 10min or 2h.');
    return Number(amount) * (units[unit] ?? NaN);
}

export const durationOption = (flags: string, text: string, preset: string): Option => (
    new Option(flags, text).argParser(duration).default(duration(preset), preset)
);

/** The commands that read or change what is applied. */
export function addMigrationCommands(program: Command, { open, print, complain, guide }: Surface): void {
    const command = (name: string, text: string): Command => program.command(name).description(text)
        .option('--dir <folder>', 'a folder of dbmate migrations (default: pg-ensure\'s own)')
        .option('--table <table>', 'dbmate\'s table (default: ensure.schema_migrations, with --dir schema_migrations)')
        .option('--json', 'the result as one JSON document on stdout, progress as JSON lines on stderr');
    const changing = (name: string, text: string): Command => command(name, text)
        .addOption(durationOption('--max-wait <duration>', 'for other runners', '10min'))
        .addOption(durationOption('--lock-timeout <duration>', 'for one attempt of a file to get its locks', '5s'));

    const target = async ({ dir, table }: Common, migrating: boolean): Promise<{ database: Database; to: Target }> => {
        if (dir !== undefined && !process.env.DATABASE_URL && !process.env.MIGRATION_DATABASE_URL) {
            throw new UserError('DATABASE_URL is not set: with --dir there is no other database to take (and .env is not read)', exitCodes.usage);
        }
        const { database, source } = await open(migrating);
        const quoted = (text: string): string => (/[^\w./-]/.test(text) ? `'${text.replaceAll('\'', '\'\\\'\'')}'` : text);
        const flags = `${dir === undefined ? '' : ` --dir ${quoted(dir)}`}${table ? ` --table ${quoted(table)}` : ''}`;
        const folder = dir !== undefined && { folder: absolute(dir) };
        return { database, to: { url: database.url, source, flags, ...folder, ...(table && { table }) } };
    };
    const say = ({ json }: Common): Say => (event) => {
        const line = json ? JSON.stringify(event) : sentence(event);
        if (line) complain(json ? line : `pg-ensure: ${line}`);
    };
    const limits = (options: Migrating): Limits => ({
        lockTimeoutMs: options.lockTimeout, maxWaitMs: options.maxWait, signal: interruption(), say: say(options),
    });
    /** With --json a failure is a document too. */
    const guarded = async ({ json }: Common, work: () => Promise<void>): Promise<void> => {
        await work().catch((error: unknown) => {
            const { text, exitCode } = failureOf(error);
            if (!json || text === undefined) throw error;
            process.exitCode = exitCode;
            document({ error: text.replace(/^pg-ensure: /, ''), exitCode });
        });
    };
    const acting = <Options extends Common>(work: (options: Options) => Promise<void>) => (
        (options: Options): Promise<void> => guarded(options, () => work(options))
    );

    changing('migrate', 'apply what is not applied yet: any number of replicas may do so at once')
        .option('--dry-run', 'say what would be applied')
        .option('--baseline', 'adopt what dbmate has applied without pg-ensure')
        .option('--out-of-order', 'apply files older than the newest applied one')
        .option('--reinstall', 'replace the functions of pg-ensure that an older edit installed').option('--yes', 'do not ask')
        .option('--skip', 'apply nothing, another runner does; exit as status does (or PG_ENSURE_SKIP=1)')
        .action(acting(async (options: Migrating) => {
            if (options.skip || /^(1|true|yes|on)$/i.test(process.env.PG_ENSURE_SKIP ?? '')) {
                say(options)({ event: 'warning', message: 'skipped, another runner owns the migrations (--skip or PG_ENSURE_SKIP)' });
                return report(options, await look(() => target(options, false)), true);
            }
            if (process.env.DBMATE_MIGRATIONS_TABLE && !options.table) {
                say(options)({ event: 'warning', message: 'DBMATE_MIGRATIONS_TABLE is not read here: name the table with --table' });
            }
            const { database, to } = await target(options, true);
            if (options.reinstall) {
                if (options.dir) throw new UserError('--reinstall is for pg-ensure\'s own files, not for --dir', exitCodes.usage);
                const dropped = await dropOwn({ ...to, ...limits(options) }, confirmation(options));
                if (!dropped) throw new UserError('nothing was changed');
            }
            const { outOfOrder = false, baseline = false, dryRun = false } = options;
            const { state, applied, run } = await migrate({ ...to, ...limits(options), outOfOrder, baseline, dryRun });
            if (options.json) return document({ ...summary(state), applied, run: run ?? null, dryRun });
            if (dryRun) {
                const adopted = baseline ? state.unadopted.map(({ name }) => `${name} would be adopted`) : [];
                return print([...adopted, ...reasons(state), `${state.pending.length} to apply`].join('\n'));
            }
            const ahead = state.state === 'ahead' ? '; the database is ahead of these files' : '';
            print(`${applied.length} applied, ${state.facts.recorded.length} in all${ahead}`);
            if (!options.dir) print(`\n${guide(database)}`);
        }));

    changing('rollback', 'undo the last applied file by its down section').option('--yes', 'do not ask')
        .action(acting(async (options: Migrating) => {
            const { to } = await target(options, true);
            const changed = await rollback({ ...to, ...limits(options) }, confirmation(options));
            if (!changed) throw new UserError('nothing was rolled back');
            if (options.json) return document(changed);
            print(`rolled back ${changed.file}`);
        }));

    changing('resolve', 'say whether the database has what a file says, where nobody can tell')
        .argument('<version>').option('--applied', 'it has: record it, with the file as it is now')
        .option('--not-applied', 'it has not: the next run applies it').option('--yes', 'do not ask')
        .action((version: string, options: Migrating & { applied?: boolean; notApplied?: boolean }) => guarded(options, async () => {
            if (Boolean(options.applied) === Boolean(options.notApplied)) {
                throw new UserError('say either --applied or --not-applied', exitCodes.usage);
            }
            const { to } = await target(options, true);
            const changed = await resolve({ ...to, ...limits(options) }, version, Boolean(options.applied), confirmation(options));
            if (!changed) throw new UserError('nothing was changed');
            if (options.json) return document(changed);
            print(`${changed.file} is recorded as ${options.applied ? 'applied' : 'not applied'}`);
        }));

    command('status', 'say what is applied; reads by one statement, on a standby too')
        .action(acting(async (options: Common) => report(options, await look(() => target(options, false)))));

    command('wait', 'wait until everything is applied, and fail when it is not')
        .addOption(durationOption('--timeout <duration>', 'how long', '60s'))
        .action(acting(async (options: Common & { timeout: number }) => {
            const deadline = Date.now() + options.timeout;
            const signal = interruption();
            let told = '';
            for (;;) {
                const found = await look(() => target(options, false), Math.max(deadline - Date.now(), 5_000), signal);
                if (found.ready || found.name === 'diverged' || Date.now() > deadline) return report(options, found, true);
                const reason = `waiting, ${found.name}: ${found.text[0] ?? ''}`;
                if (reason !== told) say(options)({ event: 'warning', message: reason });
                told = reason;
                await sleep(500 + Math.random() * 500, undefined, { signal }).catch(() => signal.throwIfAborted());
            }
        }));

    command('verify', 'check the files, and what the database says of them when DATABASE_URL is set')
        .option('--strict', 'take warnings for errors')
        .action(acting(async (options: Common & { strict?: boolean }) => {
            const findings = verifyFiles(options.dir === undefined ? {} : { folder: absolute(options.dir) });
            const known = Boolean(process.env.DATABASE_URL || process.env.MIGRATION_DATABASE_URL);
            if (known && findings.every(({ rule }) => !['no-files', 'duplicate-version'].includes(rule))) {
                const { to } = await target(options, false);
                findings.push(...await withConnection(to.url, (sql) => verifyDatabase(sql, to)));
            }
            const errors = findings.filter(({ severity }) => severity === 'error').length;
            if (errors || options.strict && findings.length) process.exitCode = exitCodes.findings;
            if (options.json) return document(findings);
            const counted = (count: number, word: string): string => `${count} ${word}${count === 1 ? '' : 's'}`;
            const sum = `${counted(errors, 'error')}, ${counted(findings.length - errors, 'warning')}`;
            const alone = known ? '' : '; the files alone, DATABASE_URL is not set';
            print([...findings.map((one) => `${one.severity}: ${spelled(one)}`), sum + alone].join('\n'));
        }));

    function report({ json }: Common, { name, ready, exitCode, state, text }: Look, brief = false): void {
        process.exitCode = exitCode;
        if (json && state) return document({ ...summary(state), recorded: state.facts.recorded });
        if (json) return document({ state: name, ready, reasons: text });
        if (!state) return complain(`pg-ensure: ${name}: ${text.join('\n')}`);
        if (!brief) print(grid(filesOf(state)));
        print([`${name}, ${ready ? 'ready' : 'not ready'}`, ...text].join('\n'));
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
export function interruption(): AbortSignal {
    const stop = new AbortController();
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
        process.once(name, () => stop.abort(new UserError(
            `${name}: stopped; what ran in the server was ended, run again to go on`, 128 + constants.signals[name],
        )));
    }
    return stop.signal;
}
