import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { exitCodes } from '../../scripts/errors.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { withTestDatabase } from '../context.js';
import { root, run } from '../migrate/context.js';

const page = readFileSync(join(root, 'docs/plans.md'), 'utf8');

test('the plan of docs/plans.md runs as the page shows, times aside', () => withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
    await owner.run(/^```sql\n([^]*?)^```/m.exec(page)?.[1] ?? '');
    const [, query = '', output = ''] = /^pg-ensure run '(.*)'\n```\n\n```text\n([^]*?)^```/m.exec(page) ?? [];
    const timeless = (text: string): string => text.replaceAll(/\d+\.\d{3} s/g, '0.000 s');
    const { code, stdout, stderr } = await run(url, ['run', query]);
    expect([code, timeless(stderr + stdout)]).toEqual([0, timeless(output)]);
})));

test('docs/plans.md lists every option with its preset, and every exit code that there is', async () => {
    const help = (await run(undefined, ['run', '--help'])).stdout;
    const options = [...help.matchAll(/^ {2}(--[a-z-]+)/gm)].map(([, option]) => option);
    const listed = [...page.matchAll(/^\| `(--[a-z-]+)` \| (\w*) ?\|/gm)];
    expect(listed.map(([, option]) => option).sort()).toEqual(options.sort());
    for (const [, , preset = ''] of listed) expect(help).toContain(preset && `(default: ${preset})`);
    const { behind, noDatabase, busy, findings } = exitCodes;
    expect([...page.matchAll(/^\| (\d+) \| /gm)].map(([, code]) => Number(code))).toEqual([0, 1, 2, behind, noDatabase, busy, findings]);
});
