import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type TestContext } from 'vitest';
import { initdb, startServer, stopServer, type Server } from '../../scripts/embedded.js';
import { withConnection } from '../../scripts/connection.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { probe } from '../../scripts/migrate/known.js';
import { findPgBouncer, startPooler } from '../../scripts/pooler.js';
import { stateFolder } from '../../scripts/database.js';
import { majorOf } from '../../scripts/binaries.js';
import { ownedFolder, unprivilegedUser } from '../../scripts/unprivileged.js';
import { missing, surroundings } from '../context.js';
import { noTransaction, run, start, until, withEmptyDatabase, withFolder, type Ended } from './context.js';

const kinds = {
    'in a transaction': 'insert into c select pg_sleep(600)::text::int;',
    'in a block': noTransaction('insert into c values (1); select pg_sleep(600);'),
};
const files = (file: string): Record<string, string> => ({ '001_a.sql': 'create table c (n integer); insert into c values (0);', '002_b.sql': file });
const sleeping = "select true from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";

/** What a person is told last: one line, since there is one thing to do. */
const lastLine = ({ stderr }: Ended): string => stderr.trim().split('\n').at(-1) ?? '';
const ownLines = ({ stderr }: Ended): string[] => stderr.trim().split('\n').filter((line) => !line.startsWith('pg-ensure: ') && line !== '');

for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]] as const) {
    for (const [kind, file] of Object.entries(kinds)) {
        test(`${signal} ${kind}: exit ${code}, nothing runs on in the server, the next run converges`, () => withEmptyDatabase(({ url }) => withFolder(files(file), async (folder) => {
            const one = start(url, ['migrate', '--dir', folder]);
            await until(url, sleeping);
            one.kill(signal);
            const ended = await one.ended;
            expect(ended.code).toBe(code);
            expect(lastLine(ended)).toBe(`pg-ensure: ${signal}: stopped; what ran in the server was ended, run again to go on`);
            expect(ownLines(ended)).toEqual([]);
            expect(await left(url)).toEqual([]);
            expect((await probe({ url, folder })).pending.map(({ name }) => name)).toEqual(['002_b.sql']);
            await withFolder(files('insert into c values (1);'), async (mended) => {
                expect((await run(url, ['migrate', '--dir', mended])).code).toBe(0);
                expect(await withConnection(url, (sql) => sql`select n from c order by n`)).toEqual([{ n: 0 }, { n: 1 }]);
            });
        })));
    }
}

const left = (url: string): Promise<unknown[]> => withConnection(url, async (sql) => [...await sql`
    select application_name, state, query from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and application_name ~ '^pg-ensure(/| [0-9a-f]{12}|$)'`]);

test('SIGTERM while an index is built: the invalid index is dropped by the next run, which builds it', () => withEmptyDatabase(({ url }) => (
    withFolder({ ...files(noTransaction('create index concurrently c_n on c (n);')) }, (folder) => withSessions(url, ['writer'], async ({ writer }) => {
        await withFolder({ '001_a.sql': files('')['001_a.sql'] ?? '' }, (first) => run(url, ['migrate', '--dir', first]));
        await writer.run('begin');
        await writer.run('insert into c values (2)');
        const one = start(url, ['migrate', '--dir', folder]);
        await until(url, `select true from pg_stat_activity where ${writer.pid} = any (pg_blocking_pids(pid))`);
        one.kill('SIGTERM');
        expect((await one.ended).code).toBe(143);
        expect(await left(url)).toEqual([]);
        await writer.run('commit');
        expect((await probe({ url, folder })).invalidIndexes).toHaveLength(1);
        const next = await run(url, ['migrate', '--dir', folder]);
        expect(next).toMatchObject({ code: 0, stderr: expect.stringContaining('index public.c_n is invalid, repairing it: drop index concurrently') as string });
        expect((await probe({ url, folder })).state).toBe('at head');
    })))));

test('a wrong password and a database that does not exist: one line each, exit 12', () => withEmptyDatabase(({ url }) => withFolder(files('select 1;'), async (folder) => {
    for (const [name, value, code] of [['password', 'wrong', '28P01'], ['pathname', '/none', '3D000']] as const) {
        const wrong = new URL(url);
        wrong[name] = value;
        const ended = await run(wrong.href, ['migrate', '--dir', folder]);
        expect(ended.code).toBe(12);
        expect(ended.stderr.trim().split('\n')).toEqual([expect.stringContaining(code)]);
    }
    expect((await run(url, ['migrate', '--dir', folder])).code).toBe(0);
})));

test('a pooler with one server connection: one line that says what it needs, exit 12; with two the next run converges', async (context: TestContext) => {
    const found = await findPgBouncer(stateFolder());
    if ('missing' in found) missing(context, found.missing);
    await withEmptyDatabase((database) => withFolder(files('select 1;'), async (folder) => {
        const { hostname: host, port, username, password } = new URL(database.url);
        const users = [{ name: decodeURIComponent(username), password: decodeURIComponent(password) }];
        for (const [poolSize, code] of [[1, 12], [2, 0]] as const) {
            const pooler = await startPooler({ pgbouncer: found, server: { host, port: Number(port) }, users, poolSize });
            try {
                const ended = await run(pooler.url(database.name, users[0]?.name ?? '', users[0]?.password ?? ''), ['migrate', '--dir', folder]);
                expect(ended).toMatchObject({ code });
                if (code) expect(lastLine(ended)).toMatch(/default_pool_size of 2 or more .*, or set MIGRATION_DATABASE_URL/);
                await pooler.release(database.name);
            } finally {
                await pooler.stop();
            }
        }
    }));
});

test('a pooler that is killed in the middle: exit 12, what ran is cancelled by the server, the next run converges', async (context: TestContext) => {
    const found = await findPgBouncer(stateFolder());
    if ('missing' in found) missing(context, found.missing);
    await withEmptyDatabase((database) => withFolder(files(kinds['in a transaction']), async (folder) => {
        const { hostname: host, port, username, password } = new URL(database.url);
        const user = { name: decodeURIComponent(username), password: decodeURIComponent(password) };
        const pooler = await startPooler({ pgbouncer: found, server: { host, port: Number(port) }, users: [user] });
        try {
            const one = start(pooler.url(database.name, user.name, user.password), ['migrate', '--dir', folder]);
            await until(database.url, sleeping);
            pooler.kill('SIGKILL');
            const ended = await one.ended;
            expect(ended.code).toBe(12);
            // Which of its connections the run misses first is chance.
            expect(lastLine(ended)).toMatch(/the connection that holds the migration lock is lost|no PostgreSQL answers/);
            await until(database.url, `select not exists (${sleeping})`);
        } finally {
            await pooler.stop();
        }
        await withFolder(files('insert into c values (1);'), async (mended) => {
            expect((await run(database.url, ['migrate', '--dir', mended])).code).toBe(0);
        });
        expect(await withConnection(database.url, (sql) => sql`select n from c order by n`)).toEqual([{ n: 0 }, { n: 1 }]);
    }));
});

/** A server of our own, with the disk's or the process's end in our hands. */
async function withServer(context: TestContext, body: (server: Server) => Promise<void>): Promise<void> {
    if (!surroundings.embedded) missing(context, 'needs a server of its own; DATABASE_URL is set');
    const folder = ownedFolder(unprivilegedUser(), mkdtempSync(join(tmpdir(), 'pg-ensure-faults-')));
    const at = { major: majorOf(process.env.PG), dataFolder: join(folder, 'data'), password: 'secret', durable: false };
    try {
        await initdb(at.major, at.dataFolder, at);
        await body(await startServer(at));
    } finally {
        await stopServer(at.dataFolder, 'immediate');
        rmSync(folder, { recursive: true, force: true });
    }
}

test('a disk that is full in the middle of a file: one line, exit 1, nothing half-made; with room again the next run converges', (context: TestContext) => (
    withServer(context, (server) => withFolder(files('create table big as select i, repeat(\'x\', 1000) as t from generate_series(1, 60000) as i;'), async (folder) => {
        // No file of the server may grow beyond this: the write comes back short, as on a full disk.
        const limit = (bytes: string): unknown => execFileSync('prlimit', [`--pid=${server.pid}`, `--fsize=${bytes}:`], { ...unprivilegedUser() });
        limit(String(24 * 1024 * 1024 + 4096));
        const ended = await run(server.url, ['migrate', '--dir', folder]);
        expect(ended.code).toBe(1);
        expect(lastLine(ended)).toMatch(/^pg-ensure: 002_b.sql: (53100|XX000): could not extend file .*; it is not applied/);
        expect(await withConnection(server.url, (sql) => sql`select to_regclass('big') as big`)).toEqual([{ big: null }]);
        limit('unlimited');
        expect((await run(server.url, ['migrate', '--dir', folder])).code).toBe(0);
    }))));

test('no room for the temporary copy of a file: one line, exit 1, nothing applied', () => withEmptyDatabase(({ url }) => withFolder(files('select 1;'), async (folder) => {
    const ended = await run(url, ['migrate', '--dir', folder], { env: { TMPDIR: '/proc/none' } });
    expect(ended.code).toBe(1);
    expect(lastLine(ended)).toMatch(/^pg-ensure: ENOENT/);
    expect((await run(url, ['migrate', '--dir', folder])).code).toBe(0);
})));

test('a server that restarts in the middle: who worked exits 12 in one line, who waited goes on and applies, each file once', (context: TestContext) => (
    withServer(context, (server) => withFolder(files('select pg_sleep(600) where not exists (select from c where n = 9); insert into c values (1);'), async (folder) => {
        const first = start(server.url, ['migrate', '--dir', folder, '--json']);
        await until(server.url, sleeping);
        const second = start(server.url, ['migrate', '--dir', folder, '--json']);
        await second.event('waiting');
        await withConnection(server.url, (sql) => sql`insert into c values (9)`);
        await server.stop('fast');
        const ended = await first.ended;
        expect(ended.code).toBe(12);
        await second.event('unreachable');
        const again = await startServer({ major: server.major, dataFolder: server.dataFolder, password: server.password, port: server.port, durable: false });
        expect(again.port).toBe(server.port);
        const other = await second.ended;
        expect(other.code, other.stdout + other.stderr).toBe(0);
        expect(await withConnection(server.url, (sql) => sql`select n from c order by n`)).toEqual([{ n: 0 }, { n: 1 }, { n: 9 }]);
    }))));
