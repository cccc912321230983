import { expect, test } from 'vitest';
import type { Major } from '../../scripts/embedded.js';
import { entries } from '../../scripts/matrix/cells.js';
import { control } from '../../scripts/matrix/control.js';
import { settings } from '../../scripts/matrix/run.js';
import { withPlace } from '../../scripts/race/place.js';
import { major, surroundings } from '../context.js';

test('two callers of each function in every order: none fails; negative controls: without a guard of it one fails', (context) => {
    if (!surroundings.embedded) context.skip('roles are of the whole server, which has to be our own; DATABASE_URL is set');
    return withPlace(String(major) as Major, settings, async (place) => {
        for (const entry of entries) {
            const { orders, guarded, removed } = await control(place, entry);
            expect.soft({ orders, guarded, fails: removed !== undefined }, entry.name).toEqual({ orders: 4, guarded: undefined, fails: true });
        }
    });
}, 240_000);
