import postgres from 'postgres';
import type { Database } from '../harness/databases.js';
import { connectOptions } from '../harness/sessions.js';
import { explore } from '../race/explore.js';
import type { Place } from '../race/place.js';
import { emptySpec, type Spec } from '../race/spec.js';
import { withOrders, type Ordered } from '../race/stepped.js';
import { spelledOrder } from '../race/text.js';
import { prepareOf } from './cells.js';
import type { Entry } from './entry.js';

export interface Controlled {
    /** How many orders there are, all run with the guard in place; and why one failed, if one did. */
    orders: number;
    guarded: string | undefined;
    /** Why the first order failed that did without the guard, and which it was. */
    removed: string | undefined;
    order: string;
}

/** Two sessions: a begins, calls and commits, b calls. */
export function controlSpec(entry: Entry): Spec {
    const [first, second] = entry.control.calls ?? [entry.same.ours[0]?.[0] ?? '', entry.same.ours[0]?.[0] ?? ''];
    return {
        ...emptySpec(`${entry.name}, control`), prepare: prepareOf(entry), setup: [...entry.setup, ...entry.control.setup ?? []], teardown: entry.teardown,
        sessions: [
            { name: 'a', steps: [{ name: 'begin', sql: 'begin' }, { name: 'call', sql: first }, { name: 'commit', sql: 'commit' }] },
            { name: 'b', steps: [{ name: 'call', sql: second }] },
        ],
        invariants: [{ name: 'end state', query: entry.control.right ?? entry.same.right, always: false }],
    };
}

/** Every order of both sessions, with the guard and without it. Depends on no chance: a session that waits is seen to. */
export async function control(place: Place, entry: Entry): Promise<Controlled> {
    const spec = controlSpec(entry);
    const fails = ({ failure }: Ordered): boolean => failure !== undefined;
    const explored = (unguarded: boolean) => place.database(async (made) => {
        if (unguarded) await without(made, entry);
        return withOrders(made, spec, undefined, 'read committed', (run) => explore(run, { orders: 100, seed: 1 }, fails));
    });
    const guarded = await explored(false);
    const removed = (await explored(true)).runs.find(({ outcome }) => fails(outcome));
    return {
        orders: guarded.runs.length, guarded: guarded.runs.find(({ outcome }) => fails(outcome))?.outcome.failure,
        removed: removed?.outcome.failure, order: removed ? spelledOrder(spec, removed.turns) : '',
    };
}

/** Takes the guards of the control out of the functions of this database; fails when their text is not there. */
async function without({ admin }: Database, { control: { guards } }: Entry): Promise<void> {
    const sql = postgres(admin, connectOptions);
    try {
        for (const [name, guard, replacement] of guards) {
            const [row] = await sql`select pg_get_functiondef(${`ensure.${name}`}::regproc) as source`;
            const source = String(row?.source);
            const mutant = source.replace(guard, () => replacement);
            if (mutant === source) throw new Error(`${String(guard)} is not in ${name}`);
            await sql.unsafe(mutant);
        }
    } finally {
        await sql.end({ timeout: 0 });
    }
}
