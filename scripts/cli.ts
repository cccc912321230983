#!/usr/bin/env node
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, existsSync } from 'node:fs';
import { constants } from 'node:os';
import { Command, CommanderError } from 'commander';
import type { Sql } from 'postgres';
import { defaultMajor, majorOf, majors } from './binaries.js';
import { addCheckCommand } from './check.js';
import { addMigrationCommands } from './commands.js';
import { parsedUrl, withConnection } from './connection.js';
import { resolveDatabase, type Database } from './database.js';
import { stopDevelopment } from './development.js';
import { codeOf, exitCodes, UserError } from './errors.js';
import { failureOf } from './failure.js';
import { addPasswordCommand } from './password/command.js';
import { answers, json, message, table } from './print.js';
import { addRehearseCommand } from './rehearse/command.js';
import { addRaceCommand } from './race/command.js';
import { addRunCommand } from './run/command.js';
import { spinning } from './spinner.js';

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const complain = (text: string): void => void process.stderr.write(`${text}\n`);

const packageFile = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
const { version, description } = JSON.parse(packageFile) as { version: string; description: string };

const program = new Command('pg-ensure').description(description).version(version)
    .enablePositionalOptions().exitOverride()
    .addHelpText('after', `
Environment:
  DATABASE_URL   the database to work on; without it an embedded PostgreSQL is started for this folder
  MIGRATION_DATABASE_URL
                 preferred by migrate, rollback, resolve, run, rehearse, password and check --roles: another role, or the server itself behind a pooler
  PG_ENSURE_SKIP 1: migrate applies nothing, another runner does
  PG             major version of the embedded PostgreSQL: ${majors.join(', ')} (default ${defaultMajor})
  PG_CONTAINER   an image to run with Docker instead of it, such as timescale/timescaledb:latest-pg17
  DEBUG          pg-ensure shows stack traces

Exit codes:
  0  done
  1  an error of SQL, or any other
  2  wrong usage
  10 behind: something is not applied
  11 diverged: files were edited or are out of order
  12 no database can be reached, or it does not let us look
  13 --max-wait is spent
  14 findings: the files are wrong (verify), a budget or roles differ (check), nobody can tell (password)
  128 and more: ended by that signal`);

const surface = { open: openFrom, print, complain, guide };
addMigrationCommands(program, surface);
addRunCommand(program, surface);
addRehearseCommand(program, surface);
addRaceCommand(program, surface);
addPasswordCommand(program, surface);

program.command('sql').description('run SQL and print the rows, where there is no psql')
    .argument('<query>', 'one or several statements').option('--json', 'print rows as JSON, values as text')
    .action(async (query: string, options: { json?: boolean }) => {
        if (!query.trim()) throw new UserError("no query: pg-ensure sql 'select 1', make sql Q='select 1'", exitCodes.usage);
        const all = await connected((sql) => answers(sql, query));
        print(options.json ? json(all) : all.map(table).join('\n').trimEnd());
    });

program.command('psql').description('psql in the database').argument('[args...]', 'arguments of psql')
    .passThroughOptions().allowUnknownOption().helpOption(false)
    .action(async (args: string[]) => {
        const url = parsedUrl((await open()).url);
        const password = decodeURIComponent(url.password);
        url.password = '';
        process.exitCode = await psql([url.href, ...args], password ? { PGPASSWORD: password } : {});
    });

program.command('start').description('start the server for this folder and print its URL')
    .action(async () => {
        if (process.env.DATABASE_URL) throw new UserError('DATABASE_URL is set: there is no server to start', exitCodes.usage);
        print((await open()).url);
    });

program.command('url').description('print the URL of the database, started if need be')
    .action(async () => print((await open()).url));

program.command('stop').description('stop the embedded servers of this folder, or the one of PG')
    .option('--remove', 'delete their data too')
    .action(async (options: { remove?: boolean }) => {
        const stopped = [];
        for (const major of process.env.PG ? [majorOf(process.env.PG)] : majors) {
            if (await stopDevelopment(major, options.remove)) stopped.push(`stopped PostgreSQL ${major}`);
        }
        print(stopped.join('\n') || 'no development server runs');
    });

addCheckCommand(program, print, connected);

const open = async (): Promise<Database> => (await openFrom(false)).database;

async function openFrom(migrating: boolean): Promise<{ database: Database; source: string }> {
    const { DATABASE_URL: usual, MIGRATION_DATABASE_URL: own } = process.env;
    const preferred = migrating ? own || usual : usual || own;
    const env = { ...process.env, DATABASE_URL: preferred };
    const major = majorOf(process.env.PG);
    const database = await during('looking for the database', () => resolveDatabase({ env, major }));
    const source = database.kind !== 'url' ? `${database.kind} server`
        : preferred === own ? 'MIGRATION_DATABASE_URL' : 'DATABASE_URL';
    return { database, source };
}

async function connected<T>(work: (sql: Sql) => Promise<T>, migrating = false): Promise<T> {
    const { database: { url } } = await openFrom(migrating);
    return withConnection(url, work, { onnotice: (notice) => complain(message(notice as never, false)) });
}

async function during<T>(text: string, work: () => Promise<T>): Promise<T> {
    const spinner = await spinning(text);
    try {
        return await work();
    } finally {
        spinner?.stop();
    }
}

async function psql(args: string[], env: NodeJS.ProcessEnv): Promise<number> {
    process.on('SIGINT', () => {}); // Ctrl-C is psql's
    const child = spawn('psql', args, { stdio: 'inherit', env: { ...process.env, ...env } });
    try {
        const [code, signal] = await once(child, 'close') as [number | null, NodeJS.Signals | null];
        return code ?? 128 + (signal ? constants.signals[signal] : 0);
    } catch (error) {
        if (codeOf(error) !== 'ENOENT') throw error;
        throw new UserError('there is no psql on this machine: use npx pg-ensure sql \'select …\'', 127);
    }
}

function guide(database: Database): string {
    const prefix = database.kind === 'embedded' && database.major !== defaultMajor ? `PG=${database.major} `
        : database.kind === 'container' ? `PG_CONTAINER=${database.image} ` : '';
    const url = database.kind === 'url' ? '$DATABASE_URL' : database.url;
    const make = existsSync('Makefile') ? `\npsql     ${prefix}make psql` : '';
    const data = database.kind === 'embedded' ? `\ndata     ${database.server.dataFolder}` : '';
    return `connect  ${url}${data}${make}
no psql  ${prefix}npx pg-ensure sql 'select now()'

Try it:

${prefix}npx pg-ensure sql "
create schema if not exists demo;
create table if not exists demo.events (
    id bigint generated always as identity,
    at timestamptz not null default now(),
    primary key (id, at)
) partition by range (at);
select * from ensure.ensure_partitions_v1('demo.events', '1 month', ahead => 3)"`;
}

function failed(error: unknown): number {
    if (process.env.DEBUG === 'pg-ensure') console.error(error);
    if (error instanceof CommanderError) return error.exitCode && exitCodes.usage; // it has been printed
    const { text, exitCode } = failureOf(error);
    if (text === undefined) console.error(error);
    else complain(text);
    return exitCode;
}

process.stdout.on('error', () => process.exit(exitCodes.error)); // the reader of a pipe has gone
await program.parseAsync().catch((error: unknown) => {
    process.exitCode = failed(error);
});
// A connection on which the server answers late, or never, would keep this process.
process.stdout.write('', () => process.exit());
