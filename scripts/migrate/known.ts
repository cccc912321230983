import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Sql } from 'postgres';
import { withConnection } from '../connection.js';
import { exitCodes, UserError } from '../errors.js';
import { readFolder, type Folder } from './files.js';
import { ledgerOf, readFacts, type Ledger } from './ledger.js';
import { lint, lintFolder, spelled, type Finding } from './lint.js';
import { compare, type State } from './state.js';
import { concurrentIndexes } from './statements.js';

export interface Target {
    url: string;
    /** Where the URL comes from, for people. */
    source?: string;
    folder?: string;
    table?: string;
    outOfOrder?: boolean;
    /** What a command needs to mean the same folder and table, for advice. */
    flags?: string;
}

/** What is known of a folder and of the database's ledger. */
export interface Known {
    folder: Folder;
    ledger: Ledger;
    findings: () => Finding[];
    read: () => Promise<State>;
    /** The line that a person is to type. */
    command: (words: string) => string;
}

export const ownFolder = fileURLToPath(new URL('../../sql', import.meta.url));
export const ownTable = 'ensure.schema_migrations';

/** Reads by one statement, as a role that may only read, on a standby too. */
export async function know(sql: Sql, target: Target, signal?: AbortSignal): Promise<Known> {
    const { folder: path = ownFolder, table, outOfOrder, flags = '' } = target;
    const folder = readFolder(path);
    const [wrong] = lintFolder(folder).filter(({ rule }) => ['no-files', 'duplicate-version'].includes(rule));
    if (wrong) throw new UserError(`nothing was applied: ${spelled(wrong)}`, exitCodes.findings);
    const ledger = await unless(ledgerOf(sql, table ?? (path === ownFolder ? ownTable : 'schema_migrations')), signal);
    const indexes = folder.files.flatMap(({ up }) => (up && /concurrently/i.test(up.text) ? concurrentIndexes(up) : []));
    let findings: Finding[] | undefined;
    return {
        folder, ledger,
        command: (words) => `pg-ensure ${words}${flags}`,
        findings: () => (findings ??= lint(folder)),
        read: async () => compare(folder, ledger, await unless(readFacts(sql, ledger, indexes), signal), outOfOrder),
    };
}

const longestMs = 10_000;

/** An answer that takes longer is none. */
export const probe = async (target: Target, patienceMs = longestMs, signal?: AbortSignal): Promise<State> => {
    const limitMs = Math.min(patienceMs, longestMs);
    const late = new AbortController();
    const reason = new UserError(`no answer within ${limitMs / 1000} s`, exitCodes.noDatabase);
    const timer = setTimeout(() => late.abort(reason), limitMs);
    const either = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
    try {
        return await withConnection(target.url, async (sql) => (await know(sql, target, either)).read());
    } finally {
        clearTimeout(timer);
    }
};

/** `work`, or the signal's reason once it is given and `graceMs` have passed: what the server still does is not waited for. */
export async function unless<T>(work: Promise<T>, signal?: AbortSignal, graceMs = 0): Promise<T> {
    if (!signal) return work;
    signal.throwIfAborted();
    const given = new AbortController();
    const stopped = once(signal, 'abort', { signal: given.signal })
        .then(() => sleep(graceMs, undefined, { signal: given.signal })).then(() => signal.throwIfAborted(), () => {});
    try {
        return await Promise.race([work, stopped.then(() => work)]);
    } finally {
        given.abort();
        work.catch(() => {});
    }
}
