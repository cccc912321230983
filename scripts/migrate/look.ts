import postgres from 'postgres';
import { codeOf, exitCodes, UserError } from '../errors.js';
import { message, type Answer } from '../print.js';
import { probe, type Target } from './known.js';
import { isReady, reasons, type State } from './state.js';

export interface Look {
    name: string;
    ready: boolean;
    exitCode: number;
    /** Undefined when it cannot be told; `text` then says why. */
    state?: State;
    text: string[];
}

const codes: Record<string, number> = { behind: exitCodes.behind, diverged: exitCodes.diverged };

/** The state, or why it cannot be told: never a change, and no error but of usage. */
export async function look(target: () => Promise<{ to: Target }>, patienceMs?: number, signal?: AbortSignal): Promise<Look> {
    try {
        const state = await probe((await target()).to, patienceMs, signal);
        const exitCode = codes[state.state] ?? 0;
        return { name: state.state, ready: isReady(state), exitCode, state, text: reasons(state) };
    } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof UserError && error.exitCode !== exitCodes.noDatabase) throw error;
        if (!(error instanceof UserError) && !codeOf(error)) throw error;
        const text = error instanceof postgres.PostgresError ? message(error) : (error as Error).message;
        return { name: 'unreachable', ready: false, exitCode: exitCodes.noDatabase, text: [text] };
    }
}

/** For programs. */
export function summary(state: State): object {
    const { ledger, facts, pending, edited, outOfOrder, newer, missing, unadopted } = state;
    const names = (list: { name: string }[]): string[] => list.map(({ name }) => name);
    const versions = (list: { version: string }[]): string[] => list.map(({ version }) => version);
    return {
        state: state.state, ready: isReady(state), reasons: reasons(state),
        ledger: ledger.table, lock: ledger.key, holder: facts.holder,
        standby: facts.standby, pooled: facts.pooled,
        pending: names(pending), edited: names(edited), outOfOrder: names(outOfOrder),
        newer: versions(newer), missing: versions(missing), withoutChecksum: names(unadopted),
        invalidIndexes: state.invalidIndexes.map(({ index }) => index),
        unfinished: facts.unfinished, total: facts.recorded.length,
    };
}

/** For people: a row for each file. */
export function filesOf({ facts, pending, edited, unadopted }: State): Answer {
    const has = (list: { version: string }[], version: string): boolean => list.some((one) => one.version === version);
    const names = new Map(unadopted.map(({ version, name }) => [version, name]));
    const rows = [
        ...facts.recorded.map((row) => [
            row.version, row.file ?? names.get(row.version) ?? null, has(edited, row.version) ? 'edited' : 'applied',
            row.appliedAt?.slice(0, 19).replace('T', ' ') ?? null, row.appliedBy ?? null,
            row.seconds?.toFixed(3) ?? null, row.run ?? null,
        ]),
        ...pending.map(({ version, name }) => (
            [version, name, has(facts.unfinished, version) ? 'begun' : 'pending', null, null, null, null]
        )),
    ];
    const columns = ['version', 'file', 'state', 'applied_at', 'applied_by', 'seconds', 'run'];
    const types = columns.map((name) => ({ name, type: name === 'seconds' ? 701 : 25 }));
    return { command: 'SELECT', count: rows.length, columns: types, rows };
}
