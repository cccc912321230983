import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { exitCodes } from '../../scripts/errors.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { catalogs } from '../../scripts/rehearse/catalogs.js';
import { surroundings, withOwner, withTestDatabase } from '../context.js';
import { root, run } from '../migrate/context.js';

const page = readFileSync(join(root, 'docs/rehearse.md'), 'utf8');

test('the rehearsal of docs/rehearse.md runs as the page shows, times aside', () => withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
    await owner.run(/^```sql\n([^]*?)^```/m.exec(page)?.[1] ?? '');
    const [, sql = '', output = ''] = /^pg-ensure rehearse "([^]*?)"\n```\n\n```text\n([^]*?)^```/m.exec(page) ?? [];
    // Widths follow names and times.
    const plain = (text: string): string => text.replaceAll(surroundings.server.owner, 'app').replaceAll(/last \d+ ms/g, 'last 0 ms')
        .replaceAll(/(Lock +\| +)\d+/g, '$10').replaceAll(/-+/g, '-').replaceAll(/ +/g, ' ');
    const { code, stdout, stderr } = await run(url, ['rehearse', sql]);
    expect([code, stderr, plain(stdout)]).toEqual([0, '', plain(output)]);
})));

test.each([['rehearse', 'docs/rehearse.md', [0, 1, 2, exitCodes.noDatabase]], ['password', 'docs/password.md', [0, 1, 2, exitCodes.noDatabase, exitCodes.findings]]] as const)(
    'the page of %s lists every option with its preset, and its exit codes', async (command, file, codes) => {
        const text = readFileSync(join(root, file), 'utf8');
        const help = (await run(undefined, [command, '--help'])).stdout;
        const options = [...help.matchAll(/^ {2}(--[a-z-]+)/gm)].map(([, option]) => option);
        const listed = [...text.matchAll(/^\| `(--[a-z-]+)` \| (\w*) ?\|/gm)];
        expect(listed.map(([, option]) => option).sort()).toEqual(options.sort());
        for (const [, , preset = ''] of listed) expect(help).toContain(preset && `(default: ${preset})`);
        expect([...text.matchAll(/^\| (\d+) \| /gm)].map(([, code]) => Number(code))).toEqual(codes);
    });

/** Parts of objects that have a catalog of their own, dependencies, statistics, and what the page says is not told. */
const untold = ['aggregate', 'amop', 'amproc', 'depend', 'shdepend', 'init_privs', 'largeobject', 'partitioned_table', 'range', 'replication_origin',
    'seclabel', 'shseclabel', 'statistic', 'statistic_ext_data', 'subscription_rel', 'ts_config_map', 'ts_parser', 'ts_template'];

test('every catalog of this server is looked at, or is one that the page leaves out', () => withOwner(async (owner) => {
    const all = await owner.run("select c.relname as name from pg_class as c where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r'");
    const known = new Set([...catalogs.map(({ name }) => name), ...untold.map((name) => `pg_${name}`)]);
    expect(all.map(({ name }) => String(name)).filter((name) => !known.has(name))).toEqual([]);
    expect(all.length).toBeGreaterThan(50);
}));
