import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolveBinary } from 'dbmate';
import { expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import type { Database } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { fence, runOf } from '../../scripts/migrate/fence.js';
import { tryGuard } from '../../scripts/migrate/guard.js';
import { know } from '../../scripts/migrate/known.js';
import { major } from '../context.js';
import { childOf, run, start, until, withEmptyDatabase, withFolder, withoutGuards, write, type Ended } from './context.js';

const base = { '001_base.sql': `create schema app; create table app.gate (); create table app.t (id integer); create table app.counter (n integer);
    insert into app.counter values (0);` };
const gate = { '002_gate.sql': 'lock table app.gate in access share mode; update app.counter set n = n + 1;' };
const build = { '003_build.sql': '-- migrate:up transaction:false\ncreate index concurrently t_id on app.t (id);\n-- migrate:down\n' };
const patient = ['--lock-timeout', '60s', '--json'];

/** A session that keeps the gate shut, so that whoever applies 002 waits. */
async function withGate(body: (world: { url: string; folder: string; holder: Session; database: Database }) => Promise<void>): Promise<void> {
    await withEmptyDatabase((database) => withFolder(base, async (folder) => {
        expect((await run(database.url, ['migrate', '--dir', folder])).code).toBe(0);
        await withSessions(database.url, ['holder'], async ({ holder }) => {
            await holder.run('begin');
            await holder.run('lock table app.gate in access exclusive mode');
            write(folder, gate);
            await body({ url: database.url, folder, holder, database });
        });
    }));
}

const waitsFor = (url: string, holder: Session): Promise<void> => until(url,
    `select true from pg_stat_activity as a where ${holder.pid} = any (pg_blocking_pids(a.pid))`);
const atHead = (url: string, folder: string): Promise<void> => withConnection(url, async (sql) => {
    expect((await (await know(sql, { url, folder })).read()).state).toBe('at head');
    expect(await sql`select n from app.counter`).toEqual([{ n: 1 }]);
});

test('the lock is held without a snapshot: CREATE INDEX CONCURRENTLY does not wait for it, nor for who waits; a blocking lock hangs', () =>
    withGate(async ({ url, folder, holder }) => {
        write(folder, build);
        const first = start(url, ['migrate', '--dir', folder, ...patient]);
        await waitsFor(url, holder);
        const second = start(url, ['migrate', '--dir', folder, ...patient]);
        await second.event('waiting');
        await holder.run('commit');
        expect([(await first.ended).code, (await second.ended).code]).toEqual([0, 0]);
        await atHead(url, folder);
    }));

test('control: with the naive lock, one that is waited for, the same two hang where no deadlock is seen', () =>
    withoutGuards({
        'migrate/guard.js': [['select pg_try_advisory_xact_lock(${ledger.key}) as locked', 'select pg_advisory_lock(${ledger.key}) is not null as locked']],
        'migrate/wait.js': [['state.facts.holder ? undefined : await take()', 'await take()']],
    }, (cli) => withGate(async ({ url, folder, holder }) => {
        write(folder, build);
        const first = start(url, ['migrate', '--dir', folder, ...patient], { cli });
        await waitsFor(url, holder);
        const second = start(url, ['migrate', '--dir', folder, ...patient], { cli });
        const waiter = `select w.pid from pg_locks as w where w.locktype = 'advisory' and not w.granted
            and w.database = (select d.oid from pg_database as d where d.datname = current_database())`;
        await until(url, `select true where exists (${waiter})`);
        await holder.run('commit');
        // The build waits for the waiter's snapshot, the waiter for the idle session of whoever builds: for ever.
        await until(url, `select true from pg_stat_activity as a where a.query like '-- migrate:up transaction:false%'
            and (${waiter}) = any (pg_blocking_pids(a.pid))`);
        expect([first.child.exitCode, second.child.exitCode]).toEqual([null, null]);
        for (const one of [first, second]) one.kill('SIGKILL');
        await Promise.all([first.ended, second.ended]);
    })));

test('a holder that kept a snapshot is refused: with a bind parameter or REPEATABLE READ it would keep one', () =>
    withEmptyDatabase(({ url }) => withSessions(url, ['other'], async ({ other }) => {
        await withConnection(url, async (sql) => {
            const { ledger } = await know(sql, { url });
            const guard = await tryGuard(url, ledger, 0, 'test');
            const held = async (pid: number): Promise<unknown> => (
                (await sql`select backend_xmin is not null as held from pg_stat_activity where pid = ${pid}`)[0]?.held);
            expect(await held(guard?.pid ?? 0)).toBe(false);
            await guard?.release();
            await other.run('begin isolation level repeatable read');
            await other.run('select pg_try_advisory_xact_lock(1)');
            expect(await held(other.pid)).toBe(true);
        });
        await withoutGuards({ 'migrate/guard.js': [['isolation level read committed', 'isolation level repeatable read']] }, (cli) =>
            withFolder(base, async (folder) => {
                const { code, stderr } = await run(url, ['migrate', '--dir', folder], { cli });
                expect(code).toBe(1);
                expect(stderr).toContain('holds a snapshot');
            }));
    })));

test('idle timeouts of server and role do not take the lock away while a file runs', () =>
    withGate(async ({ url, folder, holder, database }) => {
        for (const name of ['idle_in_transaction_session_timeout', 'idle_session_timeout']) {
            await holder.sql.unsafe(`alter database ${database.name} set ${name} = 300`);
        }
        const first = start(url, ['migrate', '--dir', folder, ...patient]);
        await waitsFor(url, holder);
        await until(url, `select true from pg_stat_activity as a join pg_locks as l on l.pid = a.pid and l.locktype = 'advisory'
            where a.datname = current_database() and a.state = 'idle in transaction'
              and clock_timestamp() - a.xact_start > interval '1 s'`);
        await holder.run('commit');
        expect((await first.ended).code).toBe(0);
    }));

test('neither does transaction_timeout, where there is one', () => withEmptyDatabase(async ({ url, name }) => {
    if (major >= 17) await withConnection(url, (sql) => sql.unsafe(`alter database ${name} set transaction_timeout = 200`));
    await withConnection(url, async (sql) => {
        const guard = await tryGuard(url, (await know(sql, { url })).ledger, major * 10_000, 'test');
        await until(url, `select clock_timestamp() - xact_start > interval '1 s' from pg_stat_activity where pid = ${guard?.pid}`);
        expect(guard?.lost.aborted).toBe(false);
        await guard?.release();
    });
}));

test('control: without lifting them the lock is lost, and then the run ends its work and fails', () =>
    withoutGuards({ 'migrate/guard.js': [['set local idle_in_transaction_session_timeout = 0', 'set local idle_in_transaction_session_timeout = 200']] }, (cli) =>
        withGate(async ({ url, folder, holder }) => {
            const first = start(url, ['migrate', '--dir', folder, ...patient], { cli });
            const { code, stdout } = await first.ended;
            expect(code).toBe(12);
            expect(stdout).toContain('the connection that holds the migration lock is lost');
            await holder.run('commit');
            expect(await holder.run('select n from app.counter')).toEqual([{ n: 0 }]);
            expect(await holder.run(`select from pg_stat_activity
                where datname = current_database() and application_name like 'pg-ensure/%'`)).toEqual([]);
            expect((await run(url, ['migrate', '--dir', folder])).code).toBe(0);
            await atHead(url, folder);
        })));

/** The server ends the connection of one who waits, in the middle of its question; with what that one ends. */
const waiterEnded = (cli?: string): Promise<Ended> => {
    let ended: Ended | undefined;
    return withGate(async ({ url, folder, holder }) => {
        const first = start(url, ['migrate', '--dir', folder, ...patient]);
        await waitsFor(url, holder);
        const second = start(url, ['migrate', '--dir', folder, ...patient], cli ? { cli } : {});
        await second.event('waiting');
        await withSessions(url, ['locker'], async ({ locker }) => {
            await locker.run('begin; lock table schema_migrations in access exclusive mode');
            await waitsFor(url, locker);
            await holder.run(`select pg_terminate_backend(pid) from pg_stat_activity where ${locker.pid} = any (pg_blocking_pids(pid))`);
            await second.event('unreachable');
            await locker.run('rollback');
        });
        await holder.run('commit');
        expect((await first.ended).code).toBe(0);
        ended = await second.ended;
        await atHead(url, folder);
    }).then(() => ended as Ended);
};

test('who waits and whose connection the server ends in the middle of a question asks again, and goes on', async () => {
    const { code, stdout } = await waiterEnded();
    expect(code, stdout).toBe(0);
});

test('control: when 57P01, which the driver reports on the next connection too, is not taken for a connection that broke, it fails', () => (
    withoutGuards({ 'connection.js': [['|57P..|', '|57P03|']] }, async (cli) => {
        const { code, stdout } = await waiterEnded(cli);
        expect(code, stdout).toBe(1);
        expect(stdout).toContain('57P01');
    })));

test('who waits says for whom, and gives up with exit code 13 when --max-wait is spent; nothing is changed', () =>
    withGate(async ({ url, folder, holder }) => {
        const first = start(url, ['migrate', '--dir', folder, ...patient]);
        await waitsFor(url, holder);
        const { code, stderr } = await run(url, ['migrate', '--dir', folder, '--max-wait', '1s']);
        expect(code).toBe(13);
        expect(stderr).toMatch(/waiting for pid \d+ \(pg-ensure [0-9a-f]{12}\), which has the lock since .* and applies 002_gate.sql/);
        expect(stderr.trim().split('\n').at(-1)).toMatch(/^pg-ensure: waited as long as --max-wait allows: pid \d+ /);
        await holder.run('commit');
        expect((await first.ended).code).toBe(0);
        await atHead(url, folder);
    }));

/** The first runner is killed while its dbmate waits in `file`; then the second comes, then the way is free. */
async function orphan(kind: 'transaction' | 'block' | 'build', cli?: string): Promise<{ did: string | undefined; code: number | null; n: unknown }> {
    let result: Awaited<ReturnType<typeof orphan>> = { did: undefined, code: null, n: null };
    await withGate(async ({ url, folder, holder }) => {
        if (kind === 'block') write(folder, { '002_gate.sql': gate['002_gate.sql'].replace(/^/, '-- migrate:up transaction:false\n').concat('\n-- migrate:down\n') });
        if (kind === 'build') {
            await holder.run('commit');
            expect((await run(url, ['migrate', '--dir', folder])).code).toBe(0);
            await holder.run('begin');
            await holder.run('insert into app.t values (1)');
            write(folder, build);
        }
        const first = start(url, ['migrate', '--dir', folder, ...patient], { ...(cli && { cli }) });
        await waitsFor(url, holder);
        first.kill('SIGKILL');
        await first.ended;
        const second = start(url, ['migrate', '--dir', folder, ...patient], { ...(cli && { cli }) });
        const did = await Promise.race([second.event('remnant'), second.event('applying')]);
        if (cli && kind !== 'build') await until(url, `select count(*) > 1 from pg_stat_activity as a where ${holder.pid} = any (pg_blocking_pids(a.pid))`);
        await holder.run('commit');
        const { code } = await second.ended;
        const [row] = await holder.run('select n from app.counter');
        result = { did: did?.event, code, n: row?.n };
        expect(await holder.run('select from pg_index as i where i.indrelid = \'app.t\'::regclass and i.indisvalid')).toHaveLength(kind === 'build' ? 1 : 0);
    });
    return result;
}

for (const kind of ['transaction', 'block', 'build'] as const) {
    test(`what a dead run has left in the server is waited for before its work is begun again: ${kind}`, async () => {
        expect(await orphan(kind)).toEqual({ did: 'remnant', code: 0, n: 1 });
    });
}

test('control: without the fence and the mark the work of a dead run is done twice at once', () => withoutGuards({
    'migrate/fence.js': [['const [first] = remnants;', 'const [first] = [];']],
    'migrate/copy.js': [["'where h.version = %L and h.run_id = %L and h.applied_at is null;", "'where false and %L = %L;"], ['if not found then', 'if false then'],
        ['...(up.transaction ? [] : [record(ledger, file.version)])', '']],
}, async (cli) => {
    expect(await orphan('block', cli)).toMatchObject({ did: 'applying', n: 2 });
    expect(await orphan('transaction', cli)).toMatchObject({ did: 'applying', n: 1 }); // the ledger's key undoes the second
}));

test('behind a pooler a name left on a connection is not taken for work: whoever has it now is neither waited for nor ended', () =>
    withEmptyDatabase(({ url }) => withSessions(url, ['app', 'idler', 'signer'], async ({ app, idler, signer }) => withConnection(url, async (sql) => {
        const { ledger } = await know(sql, { url });
        const fenced = (): Promise<void> => fence(sql, ledger, runOf(ledger, 'new', true), Date.now() + 20_000, new AbortController().signal, () => {});
        await app.run(`set application_name = '${ledger.sessions}/old/pooled - 127.0.0.1:1'`);
        await app.run('begin; select 1');
        await fenced();
        // A signed statement whose transaction is open is ours, and does nothing: it is ended.
        await signer.run(`-- migrate:up run:${ledger.sessions}/old/pooled\nbegin; select 1`);
        await fenced();
        // What was applied directly and does nothing any more is ended.
        await idler.run(`set application_name = '${ledger.sessions}/old'`);
        await fenced();
        const alive = await sql`select pid from pg_stat_activity where pid in (${app.pid}, ${idler.pid}, ${signer.pid})`;
        expect([...alive]).toEqual([{ pid: app.pid }]);
        expect((await app.attempt('commit')).code).toBe('ok');
    }))));

test('SIGTERM while it waits for anything is obeyed at once: exit 143, nothing changed', () => withGate(async ({ url, folder, holder }) => {
    await holder.run('lock table public.schema_migrations in access exclusive mode');
    const one = start(url, ['migrate', '--dir', folder, '--table', 'public.schema_migrations']);
    await waitsFor(url, holder);
    one.kill('SIGTERM');
    expect((await one.ended).code).toBe(143);
    await holder.run('commit');
    expect(await holder.run('select n from app.counter')).toEqual([{ n: 0 }]);
}));

test('the driver does not hang up on the lock: neither a lifetime nor idleness ends its connection', () => withGate(async ({ url, folder, holder }) => {
    const one = start(url, ['migrate', '--dir', folder, '--lock-timeout', '60s'], { env: { PGMAX_LIFETIME: '1', PGIDLE_TIMEOUT: '1' } });
    await waitsFor(url, holder);
    await until(url, `select clock_timestamp() - query_start > interval '3 s' from pg_stat_activity where ${holder.pid} = any (pg_blocking_pids(pid))`);
    await holder.run('commit');
    expect((await one.ended).code).toBe(0);
}));

test('SIGTERM while the history is locked is obeyed, and --max-wait holds', () => withGate(async ({ url, folder, holder }) => {
    await holder.run('lock table public.schema_migrations_history in share mode');
    const ended = await run(url, ['migrate', '--dir', folder, '--max-wait', '2s']);
    expect(ended).toMatchObject({ code: 13, stderr: expect.stringContaining('others have locked public.schema_migrations') as string });
    const one = start(url, ['migrate', '--dir', folder, '--json']);
    await one.event('locked');
    one.kill('SIGTERM');
    expect((await one.ended).code).toBe(143);
}));

test('dbmate killed under a living runner: what it ran is ended before anything is said, and done once by the next run', () =>
    withGate(async ({ url, folder, holder }) => {
        write(folder, { '002_gate.sql': `-- migrate:up transaction:false\n${gate['002_gate.sql']}\n-- migrate:down\n` });
        const one = start(url, ['migrate', '--dir', folder, '--lock-timeout', '60s']);
        await waitsFor(url, holder);
        process.kill(childOf(one.child.pid), 'SIGKILL');
        const { code, stderr } = await one.ended;
        expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining('dbmate ended with SIGKILL; it is not applied') as string });
        await holder.run('commit');
        expect(await holder.run('select n from app.counter')).toEqual([{ n: 0 }]);
        expect((await run(url, ['migrate', '--dir', folder])).code).toBe(0);
        await atHead(url, folder);
    }));

test('a dbmate whose runner is dead dies before it does anything: it writes a line first, into a broken pipe', () =>
    withEmptyDatabase(({ url }) => withFolder({ '001_x.sql': 'create table public.x ();' }, async (folder) => {
        const call = async (broken: boolean): Promise<[number | null, NodeJS.Signals | null]> => {
            const args = ['--env-file', '/dev/null', '--no-dump-schema', '--migrations-dir', folder, '--migrations-table', 'public.m', 'migrate'];
            const child = spawn(resolveBinary(), args, { env: { DATABASE_URL: url }, stdio: ['ignore', 'pipe', 'ignore'] });
            if (broken) child.stdout.destroy();
            else child.stdout.resume();
            return await once(child, 'close') as [number | null, NodeJS.Signals | null];
        };
        const exists = (): Promise<unknown> => withConnection(url, async (sql): Promise<unknown> => (await sql`select to_regclass('public.x') is not null as exists`)[0]?.exists);
        expect(await call(true)).toEqual([null, 'SIGPIPE']);
        expect(await exists()).toBe(false);
        expect(await call(false)).toEqual([0, null]);
        expect(await exists()).toBe(true);
    })));
