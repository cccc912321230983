import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, type TestContext } from 'vitest';
import { pooled } from '../context.js';
import { all, expectConverged, indexes, runToEnd, startRun, steps, until, waitsFor, withoutGuards, withPlans, type World } from './context.js';

const building = `select true from pg_stat_activity as a where a.query like '-- migrate:plan%create index%' and a.state = 'active'`;
const nothingWorks = "select not exists (select from pg_stat_activity where datname = current_database() and query like '-- migrate:plan%' and state <> 'idle')";

test('kill -9 as each step begins and as each is done, one after another in one database: the next run converges', () => withPlans(async (world) => {
    for (let killed = 0; ; killed += 1) {
        const runner = startRun(world.url, all);
        // The begin of the first, the end of the first: each life does at most one step.
        await (killed % 2 ? runner.saw('done') : runner.saw('running'));
        runner.kill('SIGKILL');
        const { signal, code } = await runner.ended;
        if (signal === null) {
            expect(code).toBe(0);
            break;
        }
        expect(killed).toBeLessThan(30);
    }
    await expectConverged(world);
}));

test('kill -9 in a transaction that waits: nothing of it is done, the next run does it once', () => withPlans(async (world) => {
    const { url, other } = world;
    await other.run('begin; lock table app.gate in access exclusive mode');
    const runner = startRun(url, all, ['--lock-timeout', '60s']);
    await waitsFor(url, other);
    runner.kill('SIGKILL');
    await runner.ended;
    await until(url, nothingWorks); // the server has noticed while it still waited
    await other.run('commit');
    expect(await other.run('select from app.runs')).toEqual([]);
    expect((await runToEnd(url, all)).code).toBe(0);
    await expectConverged(world);
}));

test('control: without watching for its client the server works on for nobody', () => withoutGuards({
    'run/statement.js': [['set local client_connection_check_interval = 500;', '']],
}, (cli) => withPlans(async ({ url, other }) => {
    await other.run('begin; lock table app.gate in access exclusive mode');
    const runner = startRun(url, all, ['--lock-timeout', '60s'], { cli });
    await waitsFor(url, other);
    runner.kill('SIGKILL');
    await runner.ended;
    await until(url, `select true from pg_stat_activity as a where a.query like '-- migrate:plan%' and a.state = 'active'
        and clock_timestamp() - a.query_start > interval '2 s'`);
    await other.run('commit');
})));

/** The runner is killed while its build waits; the next one comes while the build lives on in the server. */
async function orphan({ url, other }: World, cli?: string): Promise<ReturnType<typeof startRun>> {
    await other.run('begin');
    await other.run('insert into app.t (id) values (0)');
    const first = startRun(url, indexes);
    await waitsFor(url, other);
    first.kill('SIGKILL');
    await first.ended;
    return startRun(url, indexes, [], cli ? { cli } : {});
}

test('kill -9 inside a concurrent build: the next run waits for what lives on in the server, and has not to build it again', () => withPlans(async (world) => {
    const next = await orphan(world);
    expect((await next.saw('remnant'))?.query).toMatch(/^-- migrate:plan/);
    await world.other.run('commit');
    const { code, document } = await next.ended;
    expect(code).toBe(0);
    expect(document.statements.map(({ statement }) => statement)).toEqual([
        'create index concurrently t_b on app.t (b)', 'create index concurrently t_c on app.t (c)',
    ]);
    expect(await world.other.run(indexes)).toEqual([]);
}));

test('control: without waiting for it the index that is being built is taken for a failed one, and dropped', () => withoutGuards({
    'migrate/fence.js': [['const [first] = remnants;', 'const [first] = [];']],
}, (cli) => withPlans(async (world) => {
    const next = await orphan(world, cli);
    expect((await next.saw('running'))?.statement).toBe('drop index concurrently app.t_a');
    await world.other.run('commit');
    await next.ended;
})));

test('a build whose backend is ended leaves an invalid index: the plan drops it, and builds it again', () => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run('insert into app.t (id) values (0)');
    const first = startRun(url, indexes);
    await waitsFor(url, other);
    await other.run("select pg_terminate_backend(pid) from pg_stat_activity where query like '-- migrate:plan%create index%' and datname = current_database()");
    const { code, document } = await first.ended;
    expect(code).toBe(12);
    expect(document.error).toMatch(/^step 1 failed: the connection to the server was lost .*\n.*running again continues$/);
    await other.run('commit');
    const next = await runToEnd(url, indexes);
    expect(next.document.statements[0]?.statement).toBe('drop index concurrently app.t_a');
    expect(await other.run(indexes)).toEqual([]);
}));

const long = Boolean(process.env.PG_ENSURE_LONG);

for (const [path, lives] of [['direct', long ? 60 : 8], ['through PgBouncer', long ? 30 : 4]] as const) {
    test(`${lives} runners killed at random moments, ${path}: the next run converges, each statement took effect once`, (context: TestContext) =>
        withPlans(async (world) => {
            const url = path === 'direct' ? world.url : pooled(context, world.database);
            let kills = 0;
            for (let life = 0; life < lives; life += 1) {
                const runner = startRun(url, all);
                await runner.saw('locked');
                await Promise.race([runner.ended, sleep(Math.random() * 60)]);
                if (runner.kill('SIGKILL')) kills += 1;
                await runner.ended;
            }
            console.log(`${kills} kills`);
            const { code, stdout } = await runToEnd(url, all);
            expect(code, stdout).toBe(0);
            await expectConverged(world);
        }));
}

for (const [signal, exit] of [['SIGINT', 130], ['SIGTERM', 143]] as const) {
    test(`${signal} in a build and in a transaction: exit ${exit}, the statement is ended in the server, the next run continues`, () => withPlans(async (world) => {
        const { url, other } = world;
        for (const [query, wait] of [[indexes, 'insert into app.t (id) values (0)'], [steps, 'lock table app.gate in access exclusive mode']] as const) {
            await other.run(`begin; ${wait}`);
            const runner = startRun(url, query, ['--lock-timeout', '60s']);
            await waitsFor(url, other);
            runner.kill(signal);
            const { code, document } = await runner.ended;
            expect(code).toBe(exit);
            expect(document).toMatchObject({ outcome: 'failed', exitCode: exit, error: expect.stringContaining('run again to go on') as string });
            expect(await other.run(nothingWorks)).toEqual([{ '?column?': true }]);
            await other.run('rollback');
        }
        expect((await runToEnd(url, all)).code).toBe(0);
        await expectConverged(world);
    }));
}

test('control: without the request to cancel the build lives on in the server when the runner has gone', () => withoutGuards({
    'run/session.js': [['for (; running && state;', 'for (; false && state;'], ['graceMs = 5_000', 'graceMs = 500']], 'run/run.js': [['endSessions(sql, lock, run)', 'sql.unsafe(\'select 1\')']],
}, (cli) => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run('insert into app.t (id) values (0)');
    const runner = startRun(url, indexes, [], { cli });
    await waitsFor(url, other);
    runner.kill('SIGINT');
    expect((await runner.ended).code).toBe(130);
    await until(url, building);
    await other.run('commit');
    await until(url, nothingWorks);
})));
