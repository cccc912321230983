import type { TestContext } from 'vitest';
import type { Major } from '../../scripts/embedded.js';
import type { Place } from '../../scripts/race/place.js';
import { major, pooled, withTestDatabase } from '../context.js';

/** Databases of the server of this run. */
export const placeOf = (context: TestContext): Place => ({
    major: String(major) as Major, version: String(major), database: withTestDatabase, pooled: (database) => Promise.resolve(pooled(context, database)),
});
