import { fileURLToPath } from 'node:url';
import type { Sql } from 'postgres';
import { withConnection } from '../connection.js';
import { exitCodes, UserError } from '../errors.js';
import { readFolder, type Folder } from './files.js';
import { ledgerOf, readFacts, type Ledger } from './ledger.js';
import { lint, type Finding } from './lint.js';
import { compare, type State } from './state.js';
import { concurrentIndexes } from './statements.js';

export interface Target {
    url: string;
    /** Where the URL comes from, for people. */
    source?: string;
    folder?: string;
    table?: string;
    outOfOrder?: boolean;
}

/** What is known of a folder and of the database's ledger. */
export interface Known {
    folder: Folder;
    ledger: Ledger;
    findings: () => Finding[];
    read: () => Promise<State>;
}

export const ownFolder = fileURLToPath(new URL('../../sql', import.meta.url));
export const ownTable = 'ensure.schema_migrations';

/** Reads by one statement, as a role that may only read, on a standby too. */
export async function know(sql: Sql, { folder: path = ownFolder, table, outOfOrder }: Target): Promise<Known> {
    const folder = readFolder(path);
    if (!folder.files.length) throw new UserError(`no file in ${path} is named <digits>_<name>.sql: nothing would ever be applied`, exitCodes.findings);
    const ledger = await ledgerOf(sql, table ?? (path === ownFolder ? ownTable : 'schema_migrations'));
    const indexes = folder.files.flatMap(({ up }) => (up && /concurrently/i.test(up.text) ? concurrentIndexes(up) : []));
    let findings: Finding[] | undefined;
    return {
        folder, ledger,
        findings: () => (findings ??= lint(folder)),
        read: async () => compare(folder, ledger, await readFacts(sql, ledger, indexes), outOfOrder),
    };
}

export const probe = (target: Target): Promise<State> => (
    withConnection(target.url, async (sql) => (await know(sql, target)).read())
);
