import { expect, test } from 'vitest';
import { stateFolder } from '../../scripts/database.js';
import type { Major } from '../../scripts/embedded.js';
import { cells, entries, faultOf, prepareOf, run, type Cell } from '../../scripts/matrix/cells.js';
import type { Entry } from '../../scripts/matrix/entry.js';
import { settings } from '../../scripts/matrix/run.js';
import { findPgBouncer } from '../../scripts/pooler.js';
import { prepared } from '../../scripts/race/database.js';
import { withPlace, type Place } from '../../scripts/race/place.js';
import { emptySpec } from '../../scripts/race/spec.js';
import { major, missing, surroundings, withOwner } from '../context.js';

/** Each function on each major in another cell. */
const cellOf = (place: number, on = major): Cell => cells[(place * 7 + on * 5) % cells.length] as Cell;

const inCell = (place: Place, entry: Entry, cell: Cell): ReturnType<typeof run> => place.database(async (database) => {
    await prepared({ ...emptySpec(entry.name), prepare: prepareOf(entry) }, database);
    return run(entry, [cell], 'ours', database, 1, cell.connect === 'pooler' ? await place.pooled(database) : undefined);
});

test('the matrix has every public ensure_ function', () => withOwner(async (owner) => {
    const functions = await owner.run("select proname as name from pg_proc where pronamespace = 'ensure'::regnamespace and proname ~ '^ensure_'");
    expect(entries.map(({ name }) => name)).toEqual(expect.arrayContaining(functions.map(({ name }) => name)));
    expect(new Set(entries.map(({ name }) => name)).size).toBe(entries.length);
}));

test('every target, level, kind of transaction and connection is met by some function, on each major', () => {
    for (const on of [14, 15, 16, 17, 18]) {
        const met = entries.map((_, place) => cellOf(place, on));
        for (const key of ['target', 'isolation', 'transaction', 'connect'] as const) {
            expect([...new Set(met.map((cell) => cell[key]))].sort()).toEqual([...new Set(cells.map((cell) => cell[key]))].sort());
        }
    }
    expect(cells.length).toBe(3 * 3 * 2 * 2);
});

test('six clients of each function at once, in one cell each: no error but what they are told, no deadlock, the end state is right', async (context) => {
    if (!surroundings.embedded) context.skip('roles are of the whole server, which has to be our own; DATABASE_URL is set');
    const pgbouncer = await findPgBouncer(stateFolder());
    if ('missing' in pgbouncer) missing(context, pgbouncer.missing);
    await withPlace(String(major) as Major, settings, async (place) => {
        for (const [number, entry] of entries.entries()) {
            const { results, deadlocks } = await inCell(place, entry, cellOf(number));
            const told = results.reduce((sum, { again }) => sum + (again['40P01'] ?? 0), 0);
            expect.soft({ calls: results[0]?.calls, fault: results.map(faultOf), deadlocks: Math.max(deadlocks - told, 0) }, entry.name).toEqual({ calls: 6, fault: [undefined], deadlocks: 0 });
        }
        // Through the pooler too a cell has its level: only below REPEATABLE READ and above is this said.
        const unique = entries.find(({ name }) => name === 'ensure_unique_v1') as Entry;
        for (const isolation of ['read committed', 'serializable'] as const) {
            const { results: [result] } = await inCell(place, unique, { target: 'same', isolation, transaction: false, connect: 'pooler' });
            expect((result?.again.NS011 ?? 0) > 0).toBe(isolation === 'serializable');
        }
        // Negative control: what is no function of ours fails in such a cell.
        const wrong = { ...unique, same: { ...unique.same, ours: [['select 1']] } };
        const { results: [failed] } = await inCell(place, wrong, { target: 'same', isolation: 'read committed', transaction: false, connect: 'direct' });
        expect(failed && faultOf(failed)).toMatch(/end state was wrong in 1 rounds/);
    });
}, 240_000);
