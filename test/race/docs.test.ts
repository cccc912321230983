import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { race } from '../../scripts/race/race.js';
import { readSpec } from '../../scripts/race/spec.js';
import { parsedOrder } from '../../scripts/race/text.js';
import { root, run } from '../migrate/context.js';
import { placeOf } from './place.js';

const page = readFileSync(join(root, 'docs/race.md'), 'utf8');
const readme = readFileSync(join(root, 'README.md'), 'utf8');

test('the spec of docs/race.md comes to what the page, and README, print', async (context) => {
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-race-'));
    try {
        const file = join(folder, 'counter.sql');
        writeFileSync(file, /^```sql-race\n([^]*?)^```/m.exec(page)?.[1] ?? '');
        const shown = [...page.matchAll(/^```sh\nnpx pg-ensure race counter\.sql(?: --inside (\w+))?\n```\n\n```text\n([^]*?)^```/gm)];
        expect(shown).toHaveLength(2);
        for (const [, inside, output = ''] of shown) {
            const spec = { ...readSpec(file), file: 'counter.sql' };
            const [part] = await race(spec, { orders: 1000, seed: 1, ...(inside && { inside: new RegExp(inside) }) }, placeOf(context));
            expect(`${part?.text.replace(/^again: PG=\d+ /m, 'again: ')}\n`).toBe(output);
            if (!inside) continue;
            const beginning = /^```text\n(2 orders[^]*?)^```/m.exec(readme)?.[1] ?? 'nothing';
            expect(output.startsWith(beginning)).toBe(true);
            const again = /--order '(.*)'/.exec(output)?.[1] ?? '';
            expect(parsedOrder(spec, again.split(' ')).length).toBeGreaterThan(2);
        }
    } finally {
        rmSync(folder, { recursive: true });
    }
});

test('docs/race.md lists every option with its preset, every line of a spec, every exit code', async () => {
    const help = (await run(undefined, ['race', '--help'])).stdout;
    const options = [...help.matchAll(/^ {2}(--[a-z-]+)/gm)].map(([, option]) => option);
    const rows = [...page.matchAll(/^\| (`--[^|]*) \| (\w*) ?\|/gm)];
    expect(rows.flatMap(([, cell = '']) => [...cell.matchAll(/--[a-z-]+/g)].map(([option]) => option)).sort()).toEqual(options.sort());
    for (const [, , preset = ''] of rows) expect(help).toContain(preset && `(default: ${preset})`);
    const words = [...page.slice(page.indexOf('## The spec'), page.indexOf('## Orders')).matchAll(/^\| (`[^|]*) \|/gm)]
        .flatMap(([, cell = '']) => [...cell.matchAll(/`(\w+)/g)].map(([, word]) => word));
    const refused = await Promise.resolve().then(() => readSpec(join(root, 'test/race/specs/wrong.sql'))).catch((error: Error) => error.message);
    const known = /is none of (.*)$/.exec(refused as string)?.[1]?.split(', ');
    expect(words.sort()).toEqual(known?.sort());
    expect([...page.matchAll(/^\| (\d+) \| /gm)].map(([, code]) => code)).toEqual(['0', '1', '2', '12', '14']);
});
