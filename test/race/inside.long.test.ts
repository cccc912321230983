import { basename } from 'node:path';
import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { explore } from '../../scripts/race/explore.js';
import { readSpec } from '../../scripts/race/spec.js';
import { withOrders } from '../../scripts/race/stepped.js';
import { script } from '../../scripts/race/text.js';
import { withTestDatabase } from '../context.js';

const folder = new URL('specs/', import.meta.url);
const specs = readdirSync(folder).filter((name) => name.startsWith('ensure_')).map((name) => basename(name, '.sql'));
/** As the headers say: a snapshot may be older than the row; and rows are not compared by one at all. */
const refusals: Record<string, string[]> = { ensure_row: ['40001'] };
const readCommittedOnly = ['ensure_only', 'ensure_unique'];
const orders = Number(process.env.PG_ENSURE_RUNS || 4);
const seed = Number(process.env.PG_ENSURE_SEED || 1);

describe(`a sample of ${orders} orders, stopped at every statement of all functions, seed ${seed}`, () => {
    test.each(specs.flatMap((name) => isolationLevels.filter((level) => level === 'read committed' || !readCommittedOnly.includes(name)).map((isolation) => [name, isolation] as const)))('%s, %s: none fails', (name, isolation) => (
        withTestDatabase(async (database) => {
            const spec = readSpec(new URL(`${name}.sql`, folder).pathname);
            if (isolation !== 'read committed') spec.allowed.push(...refusals[name] ?? []);
            const { runs } = await withOrders(database, spec, /_v1$/, isolation, (run) => explore(run, { orders, switches: 2, seed }, ({ failure }) => failure !== undefined));
            const failed = runs.find(({ outcome }) => outcome.failure !== undefined);
            expect(failed && script(spec, failed.outcome)).toBeUndefined();
            expect(runs).toHaveLength(orders);
        })
    ));
});
