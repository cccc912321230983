import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, test, type TestContext } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { readFolder } from '../../scripts/migrate/files.js';
import { lint } from '../../scripts/migrate/lint.js';
import { migrate } from '../../scripts/migrate/run.js';
import { pooled } from '../context.js';
import {
    childOf, noTransaction, plainDbmate, root, rows, run, start, until, withEmptyDatabase, withFolder, withoutGuards, world, write, type Files,
} from './context.js';

// The traps of dbmate 2.36.0, by their numbers in the project's notes; each is shown not to bite, or to be named.

const rules = (files: Files): Promise<string[]> => withFolder(files, (folder) => (
    Promise.resolve(lint(readFolder(folder)).map(({ rule, severity, file, line }) => `${severity} ${rule} ${file.split('/').at(-1)}:${line}`))));

/** Verify names the rule without a database, and migrate refuses the file before it changes anything. */
async function refused(files: Files, ...expected: string[]): Promise<void> {
    expect(await rules(files)).toEqual(expected);
    await world(files, async ({ url, folder, go }) => {
        const { code, stderr } = await go();
        expect({ code, stderr }).toMatchObject({ code: 14, stderr: expect.stringContaining('nothing was applied') as string });
        expect(await rows(url, "select from pg_class where relname like 'schema_migrations%'")).toEqual([]);
        expect((await run(undefined, ['verify', '--dir', folder])).code).toBe(14);
    });
}

test('trap 1, no lock: six at once on an empty database, one applies', () => world({ '001_a.sql': 'create table a ();' }, async ({ url, folder }) => {
    const all = await Promise.all(Array.from({ length: 6 }, () => migrate({ url, folder })));
    expect(all.filter(({ applied }) => applied.length)).toHaveLength(1);
}));

test('trap 2, a file of several sections loses all but the first: refused', () => refused(
    { '001_a.sql': '-- migrate:up\ncreate table a ();\n-- migrate:down\n-- migrate:up\ncreate table b ();\n-- migrate:down\n' },
    'error several-sections 001_a.sql:4',
));

test('trap 3, "Applied" is said of a failed file: the ledger is asked, and the line is the file\'s', () =>
    world({ '001_a.sql': '-- first\n\n-- migrate:up\ncreate table a ();\nselect 1/0;\n-- migrate:down\n' }, async ({ url, go }) => {
        const { code, stdout, stderr } = await go();
        expect(code).toBe(1);
        expect(stdout).toBe('');
        expect(stderr.trim().split('\n').at(-1)).toBe('pg-ensure: 001_a.sql: 22012: division by zero; it is not applied');
        expect(await rows(url, 'select from schema_migrations')).toEqual([]);
        expect(await rows(url, 'select from schema_migrations_history')).toEqual([]);
    }));

test('trap 3, the line of an error is the line in the file', () => withFolder(
    { '001_a.sql': '-- one\n-- two\n-- migrate:up\nselect 1;\nselec 2;\n-- migrate:down\n' }, (folder) => withEmptyDatabase(async ({ url }) => {
        expect((await run(url, ['migrate', '--dir', folder])).stderr).toContain('001_a.sql:5: 42601: syntax error at or near "selec"');
    })));

test('traps 4 and 6, dbmate killed by a signal is a failure, and what it ran in the server is cancelled', () =>
    world({ '001_a.sql': noTransaction('call forever();'), '000_p.sql': 'create procedure forever() language sql begin atomic select pg_sleep(600); end;' },
        async ({ url, folder }) => {
            const one = start(url, ['migrate', '--dir', folder]);
            await until(url, "select true from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'");
            process.kill(childOf(one.child.pid), 'SIGKILL');
            const { code, stderr } = await one.ended;
            expect(code).toBe(1);
            expect(stderr).toContain('dbmate ended with SIGKILL; it is not applied');
            await until(url, "select not exists (select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')");
        }));

test('trap 5, without dbmate\'s binary: one line that says what to do', () => withFolder({}, async (folder) => {
    const all = join(root, 'node_modules');
    mkdirSync(join(folder, 'node_modules'));
    for (const name of readdirSync(all).filter((one) => !['dbmate', '@dbmate'].includes(one))) symlinkSync(join(all, name), join(folder, 'node_modules', name));
    for (const name of ['node_modules/dbmate', 'dist', 'package.json']) cpSync(join(root, name), join(folder, name), { recursive: true });
    await world({ '001_a.sql': 'select 1;' }, async ({ url, folder: migrations }) => {
        const { code, stderr } = await run(url, ['migrate', '--dir', migrations], { cli: join(folder, 'dist/cli.js') });
        expect(code).toBe(1);
        expect(stderr.trim().split('\n').at(-1)).toMatch(/run npm ci --include=optional/);
    });
}));

test('trap 7, CONCURRENTLY beside another statement: refused', () => refused(
    { '001_a.sql': noTransaction('create index concurrently a on b (c);\ncreate index concurrently d on b (e);') },
    'error not-alone 001_a.sql:2',
));

test('trap 8, a misspelt option is dropped in silence: refused', async () => {
    for (const option of ['transaction: false', 'transaction:False', 'Transaction:false', 'transction:false']) {
        await refused({ '001_a.sql': `-- migrate:up ${option}\nselect 1;\n-- migrate:down\n` }, 'error option 001_a.sql:1');
    }
});

test('trap 9, the invalid index of a failed build passes for built with IF NOT EXISTS: named, not at head, dropped, built', () => world({
    '001_a.sql': 'create table t (id integer); insert into t values (1), (1);',
    '002_b.sql': noTransaction('create unique index concurrently if not exists t_id on t (id);'),
}, async ({ url, go }) => {
    const failed = await go();
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain('002_b.sql: 23505: could not create unique index "t_id"');
    expect(failed.stderr).toContain('index public.t_id on t is left invalid; the next run drops it first');
    expect(await go('status')).toMatchObject({ code: 10, stdout: expect.stringContaining('index public.t_id on t is invalid') as string });
    expect((await go()).code).toBe(1);
    await rows(url, 'truncate t');
    const mended = await go();
    expect(mended).toMatchObject({ code: 0, stderr: expect.stringContaining('drop index concurrently if exists public.t_id') as string });
    expect(await rows(url, "select indisvalid from pg_index where indexrelid = 't_id'::regclass")).toEqual([{ indisvalid: true }]);
    // Applied by plain dbmate over an invalid one: in the ledger, and still not at head.
    await rows(url, "insert into t values (2), (3)");
    await rows(url, 'drop index t_id');
    await rows(url, 'insert into t values (2)');
    await expect(rows(url, 'create unique index concurrently t_id on t (id)')).rejects.toMatchObject({ code: '23505' });
    expect(await go('status')).toMatchObject({ code: 10 });
    expect((await go('verify')).stdout).toContain('[invalid-index]');
    expect(await go()).toMatchObject({ code: 1, stderr: expect.stringContaining('"reindex index concurrently public.t_id" fails: 23505') as string });
    await rows(url, 'truncate t');
    expect((await go()).code).toBe(0);
    expect((await go('status')).code).toBe(0);
}));

test('trap 10, two files of one version: refused', () => refused(
    { '001_a.sql': 'create table a ();', '001_b.sql': 'create table b ();' }, 'error duplicate-version 001_b.sql:undefined',
));

test('trap 10, a second file of an applied version: every command says so', () => world({ '001_a.sql': 'select 1;' }, async ({ folder, go }) => {
    await go();
    write(folder, { '001_b.sql': 'select 1;' });
    for (const command of ['migrate', 'status', 'wait', 'verify']) expect((await go(command)).code).toBe(14);
}));

test('trap 11, 10_ sorts before 9_: refused', () => refused(
    { '9_a.sql': 'create table a ();', '10_b.sql': 'create table b ();' }, 'error version-width 9_a.sql:undefined',
));

test('trap 12, --strict does not see versions without a file: out of order is diverged, and applied when asked', () =>
    world({ '009_a.sql': 'create table a ();' }, async ({ url, folder, go }) => {
        await go();
        await withFolder({ '005_b.sql': 'create table b ();' }, async (other) => {
            const { code, stderr } = await run(url, ['migrate', '--dir', other]);
            expect({ code, stderr }).toMatchObject({ code: 11, stderr: expect.stringContaining('005_b.sql is not applied, a newer one is') as string });
            expect((await run(url, ['status', '--dir', other])).code).toBe(11);
            expect((await run(url, ['migrate', '--dir', other, '--out-of-order'])).code).toBe(0);
            expect((await run(url, ['status', '--dir', folder])).code).toBe(0);
        });
    }));

test('trap 13, a database that is ahead is told apart, and serves', () => world({ '001_a.sql': 'select 1;', '002_b.sql': 'select 1;' }, async ({ url, go }) => {
    await go();
    await withFolder({ '001_a.sql': 'select 1;' }, async (older) => {
        expect(await run(url, ['status', '--dir', older])).toMatchObject({ code: 0, stdout: expect.stringContaining('ahead, ready') as string });
        expect(await run(url, ['migrate', '--dir', older])).toMatchObject({ code: 0, stdout: expect.stringContaining('the database is ahead') as string });
        expect((await run(url, ['verify', '--dir', older])).stdout).toContain('002_b.sql: is applied and newer than every file here [ahead]');
    });
}));

test('trap 14, an edited file is diverged', () => world({ '001_a.sql': 'select 1;', '002_b.sql': 'select 1;' }, async ({ folder, go }) => {
    await go();
    write(folder, { '001_a.sql': 'select 2;' });
    expect((await go('status')).code).toBe(11);
    expect(await go()).toMatchObject({ code: 11, stderr: expect.stringContaining('001_a.sql was edited after it had been applied') as string });
    expect((await go('verify')).stdout).toContain('error: 001_a.sql: was edited after it had been applied: put it back, and write a new one [edited]');
    write(folder, { '001_a.sql': 'select 1;'.concat('\r\n') });
    writeFileSync(join(folder, '001_a.sql'), '-- migrate:up\r\nselect 1;\r\n-- migrate:down\r\n');
    expect((await go('status')).code).toBe(0);
}));

test('trap 15, no matching file: an error for every command, never "at head"', () => world({ 'V1__a.sql': 'select 1;' }, async ({ url, go }) => {
    for (const command of ['migrate', 'status', 'wait', 'verify']) expect((await go(command)).code).toBe(14);
    expect((await go('verify')).stdout).toContain('V1__a.sql');
    expect((await run(url, ['status', '--dir', 'no-such-folder'])).code).toBe(2);
}));

test('trap 16, at head nothing is created: a session that may only read exits 0', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder, go }) => {
    await go();
    await rows(url, 'do $$ begin execute format($f$alter database %I set default_transaction_read_only = on$f$, current_database()); end $$');
    expect(await go()).toMatchObject({ code: 0 });
    write(folder, { '002_b.sql': 'select 1;' });
    expect(await go()).toMatchObject({ code: 1, stderr: expect.stringContaining('25006') as string });
}));

test('trap 17, a .env file and DBMATE_ variables do not reach dbmate', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
    writeFileSync(join(folder, '.env'), 'DBMATE_MIGRATIONS_TABLE=evil\nDATABASE_URL=postgres://nobody@127.0.0.1:1/none\n');
    const { code } = await run(url, ['migrate', '--dir', folder], { cwd: folder, env: { DBMATE_MIGRATIONS_TABLE: 'evil', PGOPTIONS: '-c nonsense=1' } });
    expect(code).toBe(0);
    expect(await rows(url, "select relname::text as name from pg_class where relname in ('evil', 'schema_migrations')")).toEqual([{ name: 'schema_migrations' }]);
}));

test('trap 17, what the environment adds to a URL holds for dbmate too', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
    const { hostname, port, username, password, pathname } = new URL(url);
    const env = { PGPORT: port, PGUSER: decodeURIComponent(username), PGPASSWORD: decodeURIComponent(password), PGDATABASE: pathname.slice(1) };
    expect(await run(`postgres://${hostname}?sslmode=disable`, ['migrate', '--dir', folder], { env })).toMatchObject({ code: 0 });
    expect((await run(`${url}&application_name=mine`, ['status', '--dir', folder])).code).toBe(0);
}));

test('trap 17, without a URL a project\'s folder is not applied to some other database, and .env is not read', () => withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
    writeFileSync(join(folder, '.env'), 'DATABASE_URL=postgres://nobody@127.0.0.1:1/none\n');
    for (const url of [undefined, '']) {
        for (const command of ['migrate', 'status', 'wait', 'rollback']) {
            expect(await run(url, [command, '--dir', folder], { cwd: folder })).toMatchObject({ code: 2, stderr: expect.stringContaining('DATABASE_URL is not set') as string });
        }
    }
}));

test('trap 18, wait ends though nobody answers, and is not content with a server without the database', async () => {
    const silent = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => silent.once('listening', resolve));
    const { port } = silent.address() as AddressInfo;
    try {
        expect((await run(`postgres://u:p@127.0.0.1:${port}/d`, ['wait', '--timeout', '1s'])).code).toBe(12);
    } finally {
        silent.close();
    }
    await withEmptyDatabase(async ({ url }) => {
        const none = new URL(url);
        none.pathname = '/no_such_database';
        expect((await run(none.href, ['wait', '--timeout', '1s'])).code).toBe(12);
        expect(await run(none.href, ['status'])).toMatchObject({ code: 12, stderr: expect.stringContaining('3D000') as string });
    });
});

test('trap 19, a pooler refuses startup parameters: one line that says so', (context: TestContext) => withEmptyDatabase(async (database) => {
    const url = new URL(pooled(context, database));
    url.searchParams.set('search_path', 'app');
    await withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
        const { code, stderr } = await run(url.href, ['migrate', '--dir', folder]);
        expect(code).toBe(12);
        expect(stderr.trim().split('\n')).toEqual([expect.stringMatching(/search_path.*MIGRATION_DATABASE_URL/)]);
    });
}));

test('trap 20, a URL without sslmode works on a server without TLS', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
    const plain = new URL(url);
    plain.searchParams.delete('sslmode');
    expect((await run(plain.href, ['migrate', '--dir', folder])).code).toBe(0);
}));

test('trap 21, dbmate drops notices: verify says that nobody will read them', async () => {
    expect(await rules({ '001_a.sql': "do $$ begin raise notice 'x'; end $$;" })).toEqual(['warning notice 001_a.sql:2']);
});

test('trap 22, psql commands and data of COPY: refused', async () => {
    await refused({ '001_a.sql': '\\set x 1' }, 'error psql 001_a.sql:2');
    await refused({ '001_a.sql': 'copy t from stdin;\n1\n\\.' }, 'error copy 001_a.sql:2');
    await refused({ '001_a.sql': 'select 1;\ncopy t from stdin;' }, 'error copy 001_a.sql:3');
});

test('trap 23, a byte order mark, an indented or a missing marker: refused', async () => {
    await refused({ '001_a.sql': '\uFEFF-- migrate:up\nselect 1;\n-- migrate:down\n' }, 'error byte-order-mark 001_a.sql:undefined');
    await refused({ '001_a.sql': Buffer.from('-- migrate:up\nselect \'caf\xe9\';\n-- migrate:down\n', 'latin1') }, 'error encoding 001_a.sql:undefined');
    await refused({ '001_a.sql': '  -- migrate:up\nselect 1;\n-- migrate:down\n' }, 'error marker 001_a.sql:1');
    await refused({ '001_a.sql': '-- migrate:up\nselect 1;\n' }, 'error marker 001_a.sql:undefined');
    await refused({ '001_a.sql': '/* x */\n-- migrate:up\nselect 1;\n-- migrate:down\n' }, 'error before-up 001_a.sql:1');
});

test('trap 24, an empty file is recorded as applied: named', async () => {
    expect(await rules({ '001_a.sql': '-- only a comment' })).toEqual(['warning empty 001_a.sql:1']);
});

test('trap 25, session settings of one file do not reach the next; through a pooler they would reach strangers: refused there', (context: TestContext) => {
    const files = { '001_a.sql': "select set_config('search_path', '', false);", '002_b.sql': 'create table b ();' };
    return world(files, async ({ folder, go }) => {
        expect((await go()).code).toBe(0);
        expect((await go('verify')).stdout).toContain('[session-setting]');
        await withEmptyDatabase(async (database) => {
            expect(await run(pooled(context, database), ['migrate', '--dir', folder])).toMatchObject({ code: 14 });
        });
    });
});

test('trap 26, no schema is dumped', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
    expect((await run(url, ['migrate', '--dir', folder], { cwd: folder })).code).toBe(0);
    expect(readdirSync(folder)).toEqual(['001_a.sql']);
    expect(existsSync(join(folder, 'db'))).toBe(false);
}));

test('trap 27, no database is created, nor the database postgres looked into', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
    const none = new URL(url);
    none.pathname = '/made_by_nobody';
    expect((await run(none.href, ['migrate', '--dir', folder])).code).toBe(12);
    expect(await rows(url, "select from pg_database where datname = 'made_by_nobody'")).toEqual([]);
}));

test('trap 28, the password is in no argument and in no message', () => world({ '001_a.sql': 'select pg_sleep(600);' }, async ({ url, folder }) => {
    const { password } = new URL(url);
    const one = start(url, ['migrate', '--dir', folder]);
    await until(url, "select true from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'");
    expect(readFileSync(`/proc/${childOf(one.child.pid)}/cmdline`, 'utf8')).not.toContain(password);
    one.kill('SIGTERM');
    const { stderr } = await one.ended;
    expect(stderr).not.toContain(password);
    const wrong = new URL(url);
    wrong.password = encodeURIComponent('a#b@c:d/e%');
    const refusal = await run(wrong.href, ['migrate', '--dir', folder]);
    expect(refusal.code).toBe(12);
    expect(refusal.stderr).not.toMatch(/a#b@c|a%23b/);
    for (const password of ['se#cret', 'se%cret']) {
        const broken = await run(`postgres://u:${password}@127.0.0.1/d`, ['status', '--dir', folder]);
        expect(broken.code).toBe(2);
        expect(broken.stderr.trim().split('\n')).toEqual([expect.not.stringContaining('cret')]);
    }
}));

test('trap 29, the error of a failed rollback hides the first one: the ledger tells, and the next run converges', () =>
    world({ '001_a.sql': 'create table gate ();', '002_b.sql': 'lock table gate;' }, async ({ url, folder, go }) => {
        await withFolder({ '001_a.sql': 'create table gate ();' }, (first) => run(url, ['migrate', '--dir', first]));
        await withSessions(url, ['holder'], async ({ holder }) => {
            await holder.run('begin');
            await holder.run('lock table gate');
            const one = start(url, ['migrate', '--dir', folder]);
            await until(url, `select true from pg_stat_activity where ${holder.pid} = any (pg_blocking_pids(pid))`);
            await holder.run(`select pg_terminate_backend(pid) from pg_stat_activity where ${holder.pid} = any (pg_blocking_pids(pid))`);
            const { code, stderr } = await one.ended;
            expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringMatching(/002_b.sql: .*; it is not applied/) as string });
            await holder.run('rollback');
        });
        expect((await go()).code).toBe(0);
    }));

test('trap 30, dbmate\'s drop, load, up and down are no commands here, and rollback asks', () => world({ '001_a.sql': '-- migrate:up\nselect 1;\n-- migrate:down\nselect 2;\n' }, async ({ url, go }) => {
    await go();
    for (const command of ['drop', 'load', 'down', 'up']) expect((await run(url, [command])).code).toBe(2);
    expect(await go('rollback')).toMatchObject({ code: 2, stderr: expect.stringContaining('add --yes') as string });
    expect((await go('status')).code).toBe(0);
}));

test('trap 31, rollback of a file of several sections forgets it after the first: refused', () => world(
    { '001_a.sql': '-- migrate:up\nselect 1;\n-- migrate:down\nselect 1;\n-- migrate:up\nselect 2;\n-- migrate:down\nselect 2;\n' },
    async ({ url, folder, go }) => {
        expect(plainDbmate(url, folder).status).toBe(2); // half of it is applied, and recorded
        expect(await go('rollback', '--yes')).toMatchObject({ code: 14, stderr: expect.stringContaining('[several-sections]') as string });
        expect(await rows(url, 'select version from schema_migrations')).toEqual([{ version: '001' }]);
    }));

test('trap 32, another dbmate than the pinned one is refused', () => withoutGuards({}, async (cli) => {
    const path = join(cli, '../../package.json');
    const text = readFileSync(path, 'utf8');
    unlinkSync(path);
    writeFileSync(path, text.replace('"dbmate": "2.36.0"', '"dbmate": "2.35.0"'));
    await world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
        expect(await run(url, ['migrate', '--dir', folder], { cli })).toMatchObject({ code: 1, stderr: expect.stringContaining('dbmate 2.35.0 is needed, this is 2.36.0') as string });
    });
}));
