import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { exitCodes } from '../../scripts/errors.js';
import { root, run, withEmptyDatabase, write, type Ended } from './context.js';

const page = (name: string): string => readFileSync(join(root, name), 'utf8');
const block = (text: string, language: string): string => new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\``, 'm').exec(text)?.[1] ?? '';

interface Pod {
    spec: { template: { spec: { initContainers?: Container[]; containers: Container[] } } };
}

interface Container {
    args: string[];
    startupProbe?: { exec: { command: string[] } };
}

/** What the image of the README has in /app: the package as npm packs it, and a folder of migrations. */
async function withImage(body: (app: string) => Promise<void>): Promise<void> {
    const app = mkdtempSync(join(tmpdir(), 'pg-ensure-image-'));
    try {
        execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', app], { cwd: root, stdio: 'pipe' });
        const packed = readdirSync(app).find((name) => /^pg-ensure-.*\.tgz$/.test(name)) ?? '';
        execFileSync('tar', ['-xzf', packed], { cwd: app });
        // npm install, without a registry: the package and, beside it, what it depends on.
        mkdirSync(join(app, 'node_modules/.bin'), { recursive: true });
        for (const name of readdirSync(join(root, 'node_modules')).filter((one) => !one.startsWith('.'))) {
            symlinkSync(join(root, 'node_modules', name), join(app, 'node_modules', name));
        }
        cpSync(join(app, 'package'), join(app, 'node_modules/pg-ensure'), { recursive: true });
        symlinkSync('../pg-ensure/dist/cli.js', join(app, 'node_modules/.bin/pg-ensure'));
        mkdirSync(join(app, 'migrations'));
        write(join(app, 'migrations'), { '001_a.sql': 'create table a ();' });
        await body(app);
    } finally {
        rmSync(app, { recursive: true, force: true });
    }
}

test('the image of the README and the Kubernetes snippet: probe and wait fail closed before the Job, and pass after it', () =>
    withImage((app) => withEmptyDatabase(async ({ url }) => {
        const dockerfile = block(page('README.md'), 'dockerfile');
        const list = (word: string): string[] => JSON.parse(new RegExp(`^${word} (\\[.*\\])$`, 'm').exec(dockerfile)?.[1] ?? '') as string[];
        const [job, deployment] = parseAllDocuments(block(page('docs/migrations.md'), 'yaml')).map((one) => one.toJS() as Pod);
        const [init] = deployment?.spec.template.spec.initContainers ?? [];
        const probe = deployment?.spec.template.spec.containers[0]?.startupProbe?.exec.command ?? [];
        const entry = list('ENTRYPOINT');
        const go = ([cli = '', ...args]: string[]): Promise<Ended> => run(url, args, { cli: join(app, cli), cwd: app });

        expect((await go(probe)).code).toBe(10);
        const impatient = (init?.args ?? []).map((word) => (word === '10min' ? '1s' : word));
        expect((await go([...entry, ...impatient])).code).toBe(10);
        expect((await go([...entry, ...job?.spec.template.spec.containers[0]?.args ?? []])).code).toBe(0);
        expect((await go([...entry, ...init?.args ?? []])).code).toBe(0);
        expect((await go(probe)).code).toBe(0);
        expect((await go([...entry, ...list('CMD')])).code).toBe(0);
    })));

test('the exit codes of the page are those of the code', () => {
    const listed = [...page('docs/migrations.md').matchAll(/^\| (\d+) \| /gm)].map(([, code]) => Number(code));
    expect(listed).toEqual([0, ...Object.values(exitCodes)]);
});

test('every command and option of the page exists', async () => {
    const words = [...new Set([...page('docs/migrations.md').matchAll(/`[^`\n]*?(--[a-z-]{3,})[^`\n]*`/g)].map(([, option]) => option ?? ''))].filter((word) => word !== '--dir');
    const help = await Promise.all(['migrate', 'status', 'wait', 'verify', 'rollback', 'resolve'].map((name) => run(undefined, [name, '--help'])));
    const all = help.map(({ stdout }) => stdout).join('');
    for (const word of words) expect(all).toContain(word);
    expect(words.length).toBeGreaterThan(8);
});
