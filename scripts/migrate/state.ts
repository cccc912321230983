import type { Folder, MigrationFile } from './files.js';
import type { Facts, InvalidIndex, Ledger, Recorded } from './ledger.js';

export type StateName = 'at head' | 'ahead' | 'behind' | 'diverged';

export interface State {
    state: StateName;
    ledger: Ledger;
    facts: Facts;
    pending: MigrationFile[];
    /** Applied, and their file is another one now. */
    edited: MigrationFile[];
    /** Pending, and older than what is applied. */
    outOfOrder: MigrationFile[];
    /** In the ledger and newer than every file here: a newer replica has been at work. */
    newer: Recorded[];
    /** In the ledger, older, and no file here has them. */
    missing: Recorded[];
    /** Applied by dbmate without us: nobody knows the text. */
    unadopted: MigrationFile[];
    invalidIndexes: InvalidIndex[];
}

const number = (one: { version: string }): bigint => BigInt(/^\d+/.exec(one.version)?.[0] ?? '0');
const newest = (list: { version: string }[]): bigint => list.reduce((max, one) => (number(one) > max ? number(one) : max), -1n);

export function compare(folder: Folder, ledger: Ledger, facts: Facts, outOfOrderAllowed = false): State {
    const recorded = new Map(facts.recorded.map((row) => [row.version, row]));
    const own = new Set(folder.files.map(({ version }) => version));
    const applied = folder.files.filter(({ version }) => recorded.has(version));
    const pending = folder.files.filter(({ version }) => !recorded.has(version));
    const foreign = facts.recorded.filter(({ version }) => !own.has(version));
    const state = {
        ledger, facts, pending,
        edited: applied.filter(({ version, sha256 }) => ![null, sha256].includes(recorded.get(version)?.sha256 ?? null)),
        outOfOrder: outOfOrderAllowed ? [] : pending.filter((file) => number(file) < newest(facts.recorded)),
        newer: foreign.filter((row) => number(row) > newest(folder.files)),
        missing: foreign.filter((row) => number(row) < newest(folder.files)),
        unadopted: applied.filter(({ version }) => !recorded.get(version)?.sha256),
        invalidIndexes: facts.invalidIndexes,
    };
    const diverged = state.edited.length || state.outOfOrder.length;
    const behind = pending.length || state.invalidIndexes.length;
    return { state: diverged ? 'diverged' : behind ? 'behind' : state.newer.length ? 'ahead' : 'at head', ...state };
}

/** A database that is ahead of its files serves them: a newer version must leave the older one working. */
export const isReady = ({ state }: { state: string }): boolean => state === 'at head' || state === 'ahead';

function begun({ unfinished, holder }: Facts, version: string): string {
    const row = unfinished.find((one) => one.version === version);
    if (!row) return '';
    return holder ? ', a run is at it' : `, run ${row.run} began it at ${row.since.slice(0, 19).replace('T', ' ')} and died`;
}

/** Why it is in that state, one reason a line. */
export function reasons({ pending, edited, outOfOrder, newer, missing, invalidIndexes, facts }: State): string[] {
    return [
        ...edited.map(({ name }) => `${name} was edited after it had been applied`),
        ...outOfOrder.map(({ name }) => `${name} is not applied, a newer one is`),
        ...pending.filter((file) => !outOfOrder.includes(file)).map(({ name, version }) => (
            `${name} is not applied${begun(facts, version)}`
        )),
        ...invalidIndexes.map(({ index, table }) => `index ${index} on ${table} is invalid: a concurrent build has failed`),
        ...missing.map(({ version }) => `${version} is applied and no file here has it`),
        ...newer.map(({ version }) => `${version} is applied and newer than every file here`),
    ];
}
