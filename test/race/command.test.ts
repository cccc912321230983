import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { major } from '../context.js';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const specs = fileURLToPath(new URL('specs/', import.meta.url));
let folder: string;
beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'pg-ensure-race-'));
    chmodSync(folder, 0o755); // servers and poolers of root are run as another user
    mkdirSync(join(folder, 'tmp'), { mode: 0o777 });
    chmodSync(join(folder, 'tmp'), 0o777);
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Ended { code: number; stdout: string; stderr: string }
const race = (...args: string[]): Promise<Ended> => raceOn(String(major), ...args);
const raceOn = (pg: string | undefined, ...args: string[]): Promise<Ended> => new Promise((resolve) => {
    execFile(process.execPath, [cli, 'race', ...args], { env: { ...process.env, PG: pg, TMPDIR: join(folder, 'tmp') }, cwd: folder }, (error, stdout, stderr) => {
        resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
});

test('on a server that is thrown away: a failing order is exit code 14, and fails again by the command that is printed', async () => {
    const { code, stdout, stderr } = await race(`${specs}if_not_exists.sql`, '--html', 'page.html');
    expect([code, stderr]).toEqual([14, 'pg-ensure: page.html is written\n']);
    expect(readFileSync(join(folder, 'page.html'), 'utf8')).toContain('<svg');
    const [, pg, again = ''] = /^again: (?:PG=(\d+) )?npx pg-ensure race (.*)$/m.exec(stdout) ?? [];
    const words = [...again.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, word]) => quoted ?? word ?? '');
    const replayed = await raceOn(pg, ...words, '--json');
    expect(replayed.code).toBe(14);
    expect(JSON.parse(replayed.stdout)).toMatchObject({ postgresql: String(major), parts: [{ mode: 'stepped', orders: 1, failed: { order: 'a*2 b a' } }] });
});

test('our functions, clients at once, direct and through PgBouncer: exit code 0, and nothing is left in the folder of the call, nor in that for temporary files', async () => {
    const { code, stdout } = await race(`${specs}ensure_row.sql`, '--stampede', '--connect', 'all', '--rounds', '2', '--clients', '3');
    expect(stdout).toMatch(/^3 clients, 2 rounds, read committed, direct: 6 calls\n\s+ok: 6\n[^]*^3 clients, 2 rounds, read committed, through PgBouncer: 6 calls\n\s+ok: 6$/m);
    expect(code).toBe(0);
    expect(readdirSync(folder).filter((name) => !name.endsWith('.html'))).toEqual(['tmp']);
    expect(readdirSync(join(folder, 'tmp'))).toEqual([]);
});

test('a step of clients at once that never ends: exit code 14, told with its client', async () => {
    const { code, stdout, stderr } = await race(`${specs}kept_lock.sql`, '--stampede', '--timeout', '1');
    expect(stdout).toMatch(/^\s+failed: nothing has moved for 1 s in round 0: .*client 1 is in step wait of session b/m);
    expect([code, stderr]).toEqual([14, '']);
});

test('a spec that fails leaves no page', async () => {
    writeFileSync(join(folder, 'wrong.sql'), '-- race: setup\nselec 1\n-- race: session a\nselect 1\n');
    expect((await race('wrong.sql', '--html', 'none.html')).code).toBe(1);
    expect(existsSync(join(folder, 'none.html'))).toBe(false);
    rmSync(join(folder, 'wrong.sql'));
});

test.each([['initdb is at work', 'pg-ensure-'], ['PgBouncer is there', 'pg-ensure-pooler-']])('Ctrl-C when %s leaves no folder', async (_when, begins) => {
    const child = spawn(process.execPath, [cli, 'race', `${specs}ensure_row.sql`, '--stampede', '--connect', 'pooler', '--rounds', '10000'], {
        env: { ...process.env, PG: String(major), TMPDIR: join(folder, 'tmp') }, cwd: folder, stdio: 'ignore' });
    const exit = once(child, 'exit');
    await expect.poll(() => readdirSync(join(folder, 'tmp')).some((name) => name.startsWith(begins))).toBe(true);
    child.kill('SIGINT');
    expect(await exit).toEqual([130, null]);
    await expect.poll(() => readdirSync(join(folder, 'tmp'))).toEqual([]); // the server's goes with the server
});

test('wrong usage is one line and exit code 2; --help tells the exit codes', async () => {
    for (const [message, ...args] of [
        [/^pg-ensure: .*no\.sql: ENOENT/, 'no.sql'],
        [/--clients is for clients at once: --stampede/, `${specs}ensure_row.sql`, '--clients', '3'],
        [/--inside is for orders of steps, not for --stampede/, `${specs}ensure_row.sql`, '--stampede', '--inside', 'x'],
        [/--seed is for orders of steps, not for --stampede/, `${specs}ensure_row.sql`, '--stampede', '--seed', '1'],
        [/--orders is for orders of steps, not for --stampede/, `${specs}ensure_row.sql`, '--stampede', '--orders', '1000'],
        [/--switches is for orders of steps, not for --stampede/, `${specs}ensure_row.sql`, '--stampede', '--switches', '2'],
        [/--order is for orders of steps, not for --stampede/, `${specs}ensure_row.sql`, '--stampede', '--order', 'a b'],
        [/--rounds is for clients at once: --stampede/, `${specs}ensure_row.sql`, '--rounds', '3'],
        [/--connect is for clients at once: --stampede/, `${specs}ensure_row.sql`, '--connect', 'all'],
        [/--seed is for orders that are looked for: --order is one/, `${specs}ensure_row.sql`, '--order', 'a b', '--seed', '1'],
        [/291 clients are more than 290, for which there is room under max_connections = 300/, `${specs}ensure_row.sql`, '--stampede', '--clients', '291'],
        [/491 clients are more than 490, for which there is room under max_client_conn = 500/, `${specs}ensure_row.sql`, '--stampede', '--clients', '491', '--connect', 'pooler'],
        [/Write read committed, repeatable read, serializable or all/, `${specs}ensure_row.sql`, '--isolation', 'snapshot'],
        [/--html: ENOENT/, `${specs}ensure_row.sql`, '--html', 'no/page.html'],
        [/--html: .*ensure_row\.sql is the spec: name another file/, `${specs}ensure_row.sql`, '--html', `${specs}../specs/ensure_row.sql`],
        [/Write a part of a name, or \. for all/, `${specs}ensure_row.sql`, '--inside', ''],
        [/Invalid regular expression/, `${specs}ensure_row.sql`, '--inside', '('],
        [/Write a whole number from 1 to 1000000/, `${specs}ensure_row.sql`, '--timeout', '1000001'],
        [/Write a whole number from 1/, `${specs}ensure_row.sql`, '--orders', '0'],
        [/"a\*x" in the order is none of a, b/, `${specs}ensure_row.sql`, '--order', 'a*x'],
    ] as const) {
        const { code, stdout, stderr } = await race(...args);
        expect([code, stdout]).toEqual([2, '']);
        expect(stderr.trim()).toMatch(message);
        expect(stderr.trim()).not.toContain('\n');
    }
    expect((await race('--help')).stdout).toMatch(/Exit codes: 0 all invariants hold/);
});
