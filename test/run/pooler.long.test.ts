import { expect, test, type TestContext } from 'vitest';
import { stateFolder } from '../../scripts/database.js';
import { withConnection } from '../../scripts/connection.js';
import { findPgBouncer, startPooler, type PoolerOptions } from '../../scripts/pooler.js';
import { missing, pooled, surroundings } from '../context.js';
import { all, expectConverged, indexes, runToEnd, startRun, steps, until, waitsFor, withoutGuards, withPlans } from './context.js';

/** What the server connections of the pool have: two transactions at once are two connections. */
async function settingsBehind(url: string): Promise<string[]> {
    const setting = "select current_setting('lock_timeout') as value";
    return withConnection(url, (one) => withConnection(url, async (two) => {
        await one.unsafe('begin').simple();
        await two.unsafe('begin').simple();
        const rows = [...await one.unsafe(setting).simple(), ...await two.unsafe(setting).simple()];
        return rows.map(({ value }) => String(value));
    }));
}

test('through a pool of 2 in transaction mode a plan converges, and no setting and no lock stays there', (context) => withPlans(async (world) => {
    const url = pooled(context, world.database);
    const { code, stderr } = await runToEnd(url, all);
    expect(code, stderr).toBe(0);
    await expectConverged(world);
    expect(await settingsBehind(url)).toEqual(['0', '0']);
}));

test('control: a lock_timeout of the session would stay there', (context) => withoutGuards({
    'run/statement.js': [['set local lock_timeout', 'set lock_timeout']],
}, (cli) => withPlans(async ({ database }) => {
    const url = pooled(context, database);
    expect((await runToEnd(url, steps, [], { cli })).code).toBe(0);
    expect(await settingsBehind(url)).toContain('500ms');
})));

const stopped = async (url: string): Promise<void> => {
    const { code, document } = await runToEnd(url, all);
    expect(code).toBe(1);
    expect(document.error).toContain('lock_timeout is 1000 ms for this role or database');
    expect(document.error).toContain('MIGRATION_DATABASE_URL');
};

test('where the database has a lock_timeout that the pooler lets nobody lift, it stops before a concurrent build', (context) =>
    withPlans(async (world) => {
        const { database, other } = world;
        await other.run(`alter database ${database.name} set lock_timeout = '1s'`);
        await stopped(pooled(context, database));
        expect(await other.run('select n from app.done order by n')).toHaveLength(4);
        expect(await other.run("select from pg_index where indrelid = 'app.t'::regclass and not indisprimary")).toEqual([]);
        expect((await runToEnd(database.url, all)).code).toBe(0); // to the server itself it is lifted
        await expectConverged(world);
    }));

test('the same where the pooler ignores startup parameters; without a lock_timeout it goes on', (context) => withPooler(context, {
    settings: { ignore_startup_parameters: 'lock_timeout,statement_timeout,transaction_timeout' },
}, async (at) => {
    await withPlans(async ({ database, other }) => {
        await other.run(`alter database ${database.name} set lock_timeout = '1s'`);
        await stopped(at(database.name));
    });
    await withPlans(async (world) => {
        expect((await runToEnd(at(world.database.name), all)).code).toBe(0);
        await expectConverged(world);
    });
}));

async function withPooler(
    context: TestContext, options: Partial<PoolerOptions>, body: (at: (database: string) => string) => Promise<void>,
): Promise<void> {
    const pgbouncer = await findPgBouncer(stateFolder());
    if ('missing' in pgbouncer) return missing(context, pgbouncer.missing);
    const { admin, owner, ownerPassword } = surroundings.server;
    const { hostname: host, port } = new URL(admin);
    const pooler = await startPooler({
        pgbouncer, server: { host, port: Number(port || 5432) }, users: [{ name: owner, password: ownerPassword }],
        ...options,
    });
    try {
        await body((database) => pooler.url(database, owner, ownerPassword));
    } finally {
        await pooler.stop();
    }
}

test('a statement that waits behind a pool of 2 waits for its lock alone; SIGINT ends it in the server', (context) => withPlans(async ({ database, other }) => {
    const url = pooled(context, database);
    await other.run('begin');
    await other.run('insert into app.t (id) values (0)');
    const runner = startRun(url, indexes);
    await waitsFor(database.url, other);
    await runner.saw('working');
    runner.kill('SIGINT');
    expect((await runner.ended).code).toBe(130);
    await until(database.url, "select not exists (select from pg_stat_activity where datname = current_database() and state <> 'idle' and query like '-- migrate:plan%')");
    await other.run('commit');
    const next = await runToEnd(url, indexes);
    expect(next.code, next.stderr + next.stdout).toBe(0);
    expect(await other.run(indexes)).toEqual([]);
}));

test('in session mode a pool of 4 is enough', (context) => withPooler(context, { poolMode: 'session', poolSize: 4 }, (at) => withPlans(async (world) => {
    const { code, stdout } = await runToEnd(at(world.database.name), all);
    expect(code, stdout).toBe(0);
    await expectConverged(world);
})));

test('a pool of 1 is an error that says what it needs, exit code 12, before anything is run', (context) => withoutGuards({
    'run/run.js': [['answerMs = 15_000', 'answerMs = 1_000']], // the same, sooner
}, (cli) => withPooler(context, { poolSize: 1 }, (at) => withPlans(async ({ database, other }) => {
    const { code, document } = await runToEnd(at(database.name), all, [], { cli });
    expect(code).toBe(12);
    expect(document.error).toMatch(/no other connection within 1 s .* default_pool_size of 2 or more/);
    expect(await other.run('select from app.runs')).toEqual([]);
}))));
