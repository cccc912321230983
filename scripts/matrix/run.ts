import type { Major } from '../embedded.js';
import { prepared } from '../race/database.js';
import { withPlace, type Place } from '../race/place.js';
import { isolationLevels } from '../harness/stampede.js';
import { emptySpec, ways } from '../race/spec.js';
import { cells, faultOf, prepareOf, run, sides, type Cell, type Result, type Side } from './cells.js';
import { control, type Controlled } from './control.js';
import type { Entry } from './entry.js';

export interface Ran {
    major: Major;
    entry: string;
    results: Result[];
    /** Of pg_stat_database: those that a function has handled itself too. */
    deadlocks: Record<Side, number>;
    control: Controlled;
    faults: string[];
}

/** So many functions at once: what waits for a lock leaves a core idle. */
const lanes = 2;

/** Of deadlock_timeout: a tenth of what PostgreSQL has, so that whoever may become a deadlock's victim does. */
export const settings = { deadlock_timeout: '100ms' };

/** Each function in its own two databases, one for ours and one for what people write. */
export async function runMajor(major: Major, entries: Entry[], rounds: number, tell: (text: string) => void, chosen: Cell[] = cells): Promise<{ ran: Ran[]; version: string }> {
    return withPlace(major, settings, async (place) => {
        const left = [...entries];
        const ran: Ran[] = [];
        await Promise.all(Array.from({ length: lanes }, async () => {
            for (let entry = left.shift(); entry; entry = left.shift()) {
                const began = performance.now();
                const one = await runEntry(place, entry, rounds, chosen);
                ran.push(one);
                tell(`PostgreSQL ${major}: ${entry.name}, ${Math.round((performance.now() - began) / 1000)} s${one.faults.map((fault) => `\n  ${fault}`).join('')}`);
            }
        }));
        return { ran: entries.flatMap(({ name }) => ran.filter(({ entry }) => entry === name)), version: place.version };
    });
}

async function runEntry(place: Place, entry: Entry, rounds: number, chosen: Cell[]): Promise<Ran> {
    const results: Result[] = [];
    const sum = { ours: 0, naive: 0 };
    for (const side of sides) {
        await place.database(async (database) => {
            await prepared({ ...emptySpec(entry.name), prepare: prepareOf(entry) }, database);
            const pooler = await place.pooled(database);
            for (const isolation of isolationLevels) {
                for (const connect of ways) {
                    const group = chosen.filter((cell) => cell.isolation === isolation && cell.connect === connect);
                    if (!group.length) continue;
                    const found = await run(entry, group, side, database, rounds, connect === 'pooler' ? pooler : undefined);
                    results.push(...found.results);
                    sum[side] += found.deadlocks;
                }
            }
        });
    }
    const controlled = await control(place, entry);
    const faults = results.filter(({ side }) => side === 'ours').flatMap((result) => faultOf(result) ?? []);
    const retried = results.filter(({ side }) => side === 'ours').reduce((total, { again }) => total + (again['40P01'] ?? 0), 0);
    if (sum.ours > retried) faults.push(`${sum.ours} deadlocks`);
    if (controlled.guarded !== undefined) faults.push(`with the guard in place an order fails: ${controlled.guarded}`);
    if (controlled.removed === undefined) faults.push('the negative control does not fail');
    return { major: place.major, entry: entry.name, results, deadlocks: sum, control: controlled, faults };
}
