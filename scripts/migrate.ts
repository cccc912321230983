import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { devNull } from 'node:os';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { resolveBinary } from 'dbmate';
import { withConnection } from './connection.js';
import { UserError } from './errors.js';

export interface Migration {
    url: string;
    folder?: string;
    table?: string;
}

export interface Migrated {
    applied: string[];
    before: string[];
}

const ownFolder = fileURLToPath(new URL('../sql', import.meta.url));

/** Applies what is pending in `folder`; what was applied is read from the ledger, since dbmate's words are not proof. */
export async function migrate(
    { url, folder = ownFolder, table = 'ensure.schema_migrations' }: Migration,
): Promise<Migrated> {
    const before = await ledger(url, table);
    await dbmate(url, ['--migrations-dir', folder, '--migrations-table', table, 'migrate', '--strict']);
    const applied = (await ledger(url, table)).filter((version) => !before.includes(version));
    return { applied, before };
}

function ledger(url: string, table: string): Promise<string[]> {
    return withConnection(url, async (sql) => {
        const [found] = await sql<{ exists: boolean }[]>`select to_regclass(${table}) is not null as exists`;
        if (!found?.exists) return [];
        const rows = await sql<{ version: string }[]>`select version from ${sql(table)} order by version`;
        return rows.map((row) => row.version);
    });
}

async function dbmate(url: string, args: string[]): Promise<void> {
    // Without this pair dbmate reads .env of the current folder; written with = it still does.
    const fixed = ['--env-file', devNull, '--no-dump-schema'];
    const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('DBMATE_'));
    const env = { ...Object.fromEntries(kept), DATABASE_URL: url };
    const child = spawn(binary(), [...fixed, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const [out, err, [code, signal]] = await Promise.all([
        text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null, string | null]>,
    ]);
    if (code !== 0) {
        const end = signal ? `was killed by ${signal}` : `failed with exit code ${code}`;
        throw new UserError(`${`${out}${err}`.trim()}\ndbmate ${end}`.trim());
    }
}

function binary(): string {
    try {
        return resolveBinary();
    } catch (error) {
        throw new UserError(`${(error as Error).message}: run npm ci --include=optional`);
    }
}
