import { readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { Sql } from 'postgres';
import { expect, test, type TestContext } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { know, probe } from '../../scripts/migrate/known.js';
import { migrate } from '../../scripts/migrate/run.js';
import { missing, surroundings } from '../context.js';
import { plainDbmate, run, withEmptyDatabase, withFolder, write } from './context.js';
import { withStandby } from '../standby.js';

const files = { '001_a.sql': 'create table public.a ();', '002_b.sql': '-- migrate:up transaction:false\ncreate index concurrently if not exists i on public.b (c);\n-- migrate:down\n' };
const json = (text: string): Record<string, unknown> => JSON.parse(text) as Record<string, unknown>;

test('status tells never migrated, behind, at head and ahead apart, and its exit code is never 1', () => withEmptyDatabase(({ url }) => (
    withFolder({ '001_a.sql': 'select 1;', '002_b.sql': 'select 1;' }, async (folder) => {
        const status = (...args: string[]): ReturnType<typeof run> => run(url, ['status', '--dir', folder, ...args]);
        expect(await status()).toMatchObject({ code: 10, stdout: expect.stringContaining('behind, not ready\n001_a.sql is not applied\n002_b.sql is not applied') as string });
        expect(await withConnection(url, (sql) => sql`select from pg_class where relname like 'schema_migrations%'`)).toHaveLength(0);
        await migrate({ url, folder });
        expect((await status()).code).toBe(0);
        expect(json((await status('--json')).stdout)).toMatchObject({
            state: 'at head', ready: true, pending: [], ledger: 'public.schema_migrations', recorded: [{ version: '001', file: '001_a.sql' }, { version: '002' }],
        });
        write(folder, { '003_c.sql': 'select 1;' });
        expect(json((await status('--json')).stdout)).toMatchObject({ state: 'behind', ready: false, pending: ['003_c.sql'] });
        expect(await run('postgres://nobody@127.0.0.1:1/none', ['status', '--json', '--dir', folder])).toMatchObject({
            code: 12, stdout: expect.stringContaining('"unreachable"') as string,
        });
    }))));

test('a probe that is not allowed to look is unreachable, and nothing is tried in its place', (context: TestContext) => {
    if (!surroundings.superuser) missing(context, 'the role of DATABASE_URL cannot make roles');
    return withReader(async ({ url, reader, folder, sql }) => {
        await sql`revoke select on public.schema_migrations_history from public`;
        for (const command of ['status', 'migrate']) {
            const { code, stderr } = await run(reader, [command, '--dir', folder]);
            expect({ command, code, stderr }).toMatchObject({ code: 12, stderr: expect.stringContaining('42501') as string });
        }
        expect((await run(url, ['status', '--dir', folder])).code).toBe(0);
    });
});

test('a role that may only read the two tables is enough for status, wait, verify and a migrate that has nothing to do', (context: TestContext) => {
    if (!surroundings.superuser) missing(context, 'the role of DATABASE_URL cannot make roles');
    return withReader(async ({ reader, folder }) => {
        for (const command of ['status', 'wait', 'verify', 'migrate']) {
            expect({ command, ...await run(reader, [command, '--dir', folder]) }).toMatchObject({ code: 0 });
        }
        write(folder, { '002_b.sql': 'create table public.b ();' });
        expect((await run(reader, ['status', '--dir', folder])).code).toBe(10);
        expect(await run(reader, ['migrate', '--dir', folder])).toMatchObject({ code: 1, stderr: expect.stringContaining('42501') as string });
    });
});

async function withReader(body: (at: { url: string; reader: string; folder: string; sql: Sql }) => Promise<void>): Promise<void> {
    await withEmptyDatabase(({ url, admin, name }) => withFolder({ '001_a.sql': 'create table public.a ();' }, async (folder) => {
        await migrate({ url, folder });
        await withConnection(admin, async (sql) => {
            await sql.unsafe(`create role reader_${name} login password 'reader'; grant usage on schema public to reader_${name};
                grant select on public.schema_migrations, public.schema_migrations_history to public`).simple();
            const reader = new URL(url);
            Object.assign(reader, { username: `reader_${name}`, password: 'reader' });
            try {
                await body({ url, reader: reader.href, folder, sql });
            } finally {
                await sql.unsafe(`drop owned by reader_${name}; drop role reader_${name}`).simple();
            }
        });
    }));
}

test('200 replicas at head read once each, lock nothing and start no dbmate; on a standby too', async (context: TestContext) => {
    if (!surroundings.embedded) missing(context, 'needs a server of its own to read its log');
    await withStandby({ log_statement: 'all' }, ({ primary, standby, caughtUp }) => withFolder(files, async (folder) => {
        await withConnection(primary.url, (sql) => sql`create table public.b (c integer)`);
        await migrate({ url: primary.url, folder });
        await caughtUp();
        for (const server of [primary, standby]) {
            const log = join(server.dataFolder, 'server.log');
            const before = readFileSync(log, 'utf8').length;
            for (let wave = 0; wave < 10; wave += 1) {
                const all = await Promise.all(Array.from({ length: 20 }, () => migrate({ url: server.url, folder, table: 'public.schema_migrations' })));
                expect(new Set(all.map(({ state, run: id }) => `${state.state} ${id}`))).toEqual(new Set(['at head undefined']));
            }
            const logged = readFileSync(log, 'utf8').slice(before).split('\n').filter((line) => /LOG: {2}(statement|execute)/.test(line));
            expect(logged).toHaveLength(200);
            expect(logged.filter((line) => !/statement: select json_build_object/.test(line))).toEqual([]);
        }
        expect(await run(standby.url, ['migrate', '--dir', folder])).toMatchObject({ code: 0 });
        write(folder, { '003_c.sql': 'select 1;' });
        expect(await run(standby.url, ['migrate', '--dir', folder])).toMatchObject({ code: 10, stderr: expect.stringContaining('this is a standby') as string });
    }));
});

test('the probe takes no lock but those of reading', () => withEmptyDatabase(({ url }) => withFolder(files, async (folder) => {
    await withConnection(url, (sql) => sql`create table public.b (c integer)`);
    await migrate({ url, folder });
    await withConnection(url, async (sql) => {
        await sql.unsafe('begin read only').simple();
        expect((await (await know(sql, { url, folder })).read()).state).toBe('at head');
        expect(await sql`select distinct locktype, mode from pg_locks where pid = pg_backend_pid() and locktype <> 'virtualxid'`)
            .toEqual([{ locktype: 'relation', mode: 'AccessShareLock' }]);
        expect(await sql`select pg_current_xact_id_if_assigned() as xid`).toEqual([{ xid: null }]);
        await sql.unsafe('rollback').simple();
    });
})));

test('a ledger of plain dbmate is read as it is; --baseline adopts it, and edits are seen from then on', () => withEmptyDatabase(({ url }) => (
    withFolder({ '001_a.sql': 'select 1;', '002_b.sql': 'select 1;' }, async (folder) => {
        expect(plainDbmate(url, folder).status).toBe(0);
        const state = await probe({ url, folder });
        expect([state.state, state.unadopted.length]).toEqual(['at head', 2]);
        expect((await run(url, ['verify', '--dir', folder])).stdout).toContain('warning: 001_a.sql: was applied without pg-ensure');
        expect((await run(url, ['migrate', '--dir', folder, '--baseline'])).code).toBe(0);
        expect((await probe({ url, folder })).unadopted).toEqual([]);
        write(folder, { '002_b.sql': 'select 2;' });
        expect((await run(url, ['status', '--dir', folder])).code).toBe(11);
        expect((await run(url, ['resolve', '002', '--applied', '--dir', folder])).code).toBe(0);
        expect((await run(url, ['status', '--dir', folder])).code).toBe(0);
    }))));

test('--baseline refuses where there is no ledger to adopt: nothing is applied by mistake', () => withEmptyDatabase(({ url }) => (
    withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
        expect(plainDbmate(url, folder, 'public.other').status).toBe(0);
        expect(await run(url, ['migrate', '--baseline', '--dir', folder])).toMatchObject({ code: 2, stderr: expect.stringContaining('name it with --table') as string });
        expect((await run(url, ['migrate', '--baseline', '--dir', folder, '--table', 'public.other'])).stdout).toMatch(/^0 applied, 1 in all/);
    }))));

test('wrong words are exit code 2: a duration without a unit, an unknown sslmode, two answers at once', () => withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
    for (const args of [['migrate', '--lock-timeout', '5000'], ['wait', '--timeout', '1d'], ['resolve', '001', '--applied', '--not-applied']]) {
        expect(await run('postgres://u@127.0.0.1:1/d', [...args, '--dir', folder])).toMatchObject({ code: 2 });
    }
    expect((await run('postgres://u@127.0.0.1:1/d?sslmode=disabel', ['status', '--dir', folder])).code).toBe(2);
}));

test('verify --strict takes warnings for errors, and names a renamed file', () => withEmptyDatabase(({ url }) => withFolder({ '001_a.sql': 'set work_mem = 10000;' }, async (folder) => {
    expect((await run(undefined, ['verify', '--dir', folder])).code).toBe(0);
    expect((await run(undefined, ['verify', '--strict', '--dir', folder])).code).toBe(14);
    await migrate({ url, folder });
    renameSync(join(folder, '001_a.sql'), join(folder, '001_b.sql'));
    expect((await run(url, ['verify', '--dir', folder])).stdout).toContain('001_b.sql: was 001_a.sql when it was applied [renamed]');
})));

test('wait and status end though the ledger is locked: exit 12', () => withEmptyDatabase(({ url }) => withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
    await migrate({ url, folder });
    await withSessions(url, ['holder'], async ({ holder }) => {
        await holder.run('begin; lock table schema_migrations in access exclusive mode');
        for (const args of [['wait', '--timeout', '1s'], ['status']]) expect((await run(url, [...args, '--dir', folder])).code).toBe(12);
    });
})));

test('wait fails closed: it ends with the state when the time is over, and at once when the state is diverged', () => withEmptyDatabase(({ url }) => (
    withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
        expect((await run(url, ['wait', '--timeout', '100ms', '--dir', folder])).code).toBe(10);
        const waiting = run(url, ['wait', '--timeout', '30s', '--dir', folder]);
        await migrate({ url, folder });
        expect((await waiting).code).toBe(0);
        write(folder, { '001_a.sql': 'select 2;' });
        expect((await run(url, ['wait', '--timeout', '1h', '--dir', folder])).code).toBe(11);
    }))));

test('--skip and PG_ENSURE_SKIP apply nothing and exit by the probe', () => withEmptyDatabase(({ url }) => withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
    expect(await run(url, ['migrate', '--skip', '--dir', folder])).toMatchObject({ code: 10, stderr: expect.stringContaining('another runner owns') as string });
    expect((await run(url, ['migrate', '--dir', folder], { env: { PG_ENSURE_SKIP: '1' } })).code).toBe(10);
    await migrate({ url, folder });
    expect((await run(url, ['migrate', '--skip', '--dir', folder])).code).toBe(0);
})));

test('--dry-run says what would be applied, and applies nothing', () => withEmptyDatabase(({ url }) => withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
    expect(await run(url, ['migrate', '--dry-run', '--dir', folder])).toMatchObject({ code: 0, stdout: '001_a.sql is not applied\n1 to apply\n' });
    expect((await probe({ url, folder })).state).toBe('behind');
})));
