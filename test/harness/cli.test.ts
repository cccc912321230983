import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { withTestDatabase } from '../context.js';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));

interface Ended {
    code: number;
    stdout: string;
    stderr: string;
}

const run = (url: string, ...args: string[]): Promise<Ended> => new Promise((resolve) => {
    execFile(process.execPath, [cli, ...args], { env: { ...process.env, DATABASE_URL: url } }, (error, stdout, stderr) => {
        resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
});

test('the built command may be executed: npx does no more than that', () => {
    accessSync(cli, constants.X_OK);
});

test('sql prints rows in the style of psql, or as JSON; an error has its SQLSTATE and exit code 1', () =>
    withTestDatabase(async ({ url }) => {
        expect(await run(url, 'sql', "select 1 as one, null as none, 'x' as text")).toMatchObject({
            code: 0, stdout: ' one | none | text \n-----+------+------\n   1 |      | x\n(1 row)\n',
        });
        expect(JSON.parse((await run(url, 'sql', '--json', 'select 1 as one')).stdout)).toEqual([{ one: '1' }]);
        const failed = await run(url, 'sql', 'select 1/0');
        expect(failed).toMatchObject({ code: 1, stdout: '' });
        expect(failed.stderr).toContain('ERROR:  22012: division by zero');
    }));

test('wrong usage is exit code 2, no database 12, each in one line', () =>
    withTestDatabase(async ({ url }) => {
        for (const [code, ended] of [
            [2, await run(url, 'sql', ' ')], [2, await run(url, 'start')], [2, await run('nonsense', 'url')],
            [12, await run('postgres://nobody@127.0.0.1:1/none', 'sql', 'select 1')],
        ] as const) {
            expect(ended.code).toBe(code);
            expect(ended.stderr.trim().split('\n')).toHaveLength(1);
        }
        expect((await run(url, 'nonsense')).code).toBe(2);
    }));

test('migrate at head applies nothing and prints a first call to try, which works; check tells what is there', () =>
    withTestDatabase(async ({ url }) => {
        const { code, stdout } = await run(url, 'migrate');
        expect(code).toBe(0);
        expect(stdout).toMatch(/^0 applied, \d+ in all\n/);
        const [, call = ''] = /npx pg-ensure sql "\n([^"]*)"/.exec(stdout) ?? [];
        expect((await run(url, 'sql', call)).stdout).toContain('(4 rows)');
        expect((await run(url, 'check')).stdout).toMatch(/pooler +\| no /);
        await run(url, 'sql', 'drop schema ensure cascade');
        const bare = await run(url, 'check');
        expect(bare).toMatchObject({ code: 1, stderr: 'pg-ensure: ensure is not installed in this database: run pg-ensure migrate\n' });
    }));
