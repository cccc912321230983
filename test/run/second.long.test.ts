import { expect, test } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import { pooled } from '../context.js';
import { run } from '../migrate/context.js';
import { all, expectConverged, indexes, runToEnd, startRun, steps, until, waitsFor, withoutGuards, withPlans, type World } from './context.js';

const shut = 'begin; lock table app.gate in access exclusive mode';
const patient = ['--lock-timeout', '60s'];

/** Two that wait at the gate at once. */
const bothWork = ({ url, other }: World): Promise<void> => until(url, `select count(*) = 2 from pg_stat_activity as a
    where a.query like '-- migrate:plan%' and ${other.pid} = any (pg_blocking_pids(a.pid))`);

test('a second runner of a plan waits, says for whom, and finds it done: each statement ran once', () => withPlans(async (world) => {
    const { url, other } = world;
    await other.run(shut);
    const first = startRun(url, all, patient);
    await waitsFor(url, other);
    const second = startRun(url, all.replace('*', ' * ').concat(';'), patient); // the same but for white space
    const locked = await first.saw('locked');
    expect(await second.saw('waiting')).toMatchObject({ pid: locked?.pid, application: `pg-ensure ${locked?.run}` });
    await other.run('commit');
    const [one, two] = await Promise.all([first.ended, second.ended]);
    expect([one.code, two.code]).toEqual([0, 0]);
    expect(two.document).toMatchObject({ outcome: 'done', statements: [] });
    await expectConverged(world);
}));

test('control: without the lock both are at the same statement', () => withoutGuards({
    'migrate/guard.js': [['pg_try_advisory_xact_lock(${ledger.key}) as locked', 'true as locked']],
    'migrate/fence.js': [['const [first] = remnants;', 'const [first] = [];']], // which would wait for the other's statement
}, (cli) => withPlans(async (world) => {
    await world.other.run(shut);
    const both = [startRun(world.url, steps, patient, { cli }), startRun(world.url, steps, patient, { cli })];
    await bothWork(world);
    await world.other.run('commit');
    await Promise.all(both.map((one) => one.ended));
})));

test('two spellings are one plan when its rows say so by plan_key; without it they are two', () => withPlans(async (world) => {
    const { url, other } = world;
    await other.run(shut);
    const spelled = (key: string): [string, string] => [`select *, ${key} from app.plan_steps()`, `select ${key}, p.* from app.plan_steps() as p where true`];
    const [one, two] = spelled("'steps' as plan_key").map((query) => startRun(url, query, patient));
    const waiting = await Promise.race([one?.saw('waiting'), two?.saw('waiting')]);
    expect(waiting?.pid).toBeTypeOf('number');
    const others = spelled('null::text as plan_key').map((query) => startRun(url, query, patient));
    await until(url, `select count(*) = 3 from pg_stat_activity as a
        where a.query like '-- migrate:plan%' and ${other.pid} = any (pg_blocking_pids(a.pid))`);
    others.forEach((runner) => runner.kill('SIGKILL'));
    await Promise.all(others.map((runner) => runner.ended));
    await other.run('commit');
    expect([(await one?.ended)?.code, (await two?.ended)?.code]).toEqual([0, 0]);
}));

test('when --max-wait is spent the second one says who runs the plan, exit code 13, and has run nothing; SIGTERM is obeyed', () => withPlans(async ({ url, other }) => {
    await other.run(shut);
    const first = startRun(url, steps, patient);
    await waitsFor(url, other);
    const { code, stderr } = await run(url, ['run', steps, '--max-wait', '500ms']);
    expect(code).toBe(13);
    expect(stderr).toMatch(/waiting for pid \d+ \(pg-ensure [0-9a-f]{12}\), which runs this plan since /);
    expect(stderr.trim().split('\n').at(-1)).toMatch(/^pg-ensure: waited as long as --max-wait allows: pid \d+ .* nothing was run/);
    const third = startRun(url, steps);
    await third.saw('waiting');
    third.kill('SIGTERM');
    expect(await third.ended).toMatchObject({ code: 143, document: { statements: [] } });
    await other.run('commit');
    expect((await first.ended).code).toBe(0);
}));

for (const path of ['direct', 'through PgBouncer'] as const) {
    test(`8 runners at once, ${path}: all exit 0, each statement ran once`, (context) => withPlans(async (world) => {
        const url = path === 'direct' ? world.url : pooled(context, world.database);
        const ended = await Promise.all(Array.from({ length: 8 }, () => runToEnd(url, all)));
        expect(ended.filter(({ code }) => code !== 0).map(({ stdout }) => stdout)).toEqual([]);
        expect(ended.filter(({ document }) => document.statements.length)).toHaveLength(1);
        await expectConverged(world);
    }));
}

/** The lock is taken away while a build waits: what becomes of the build, while it still waits. */
async function robbed(world: World, cli?: string): Promise<ReturnType<typeof startRun>> {
    const { url, other, database } = world;
    await other.run('begin');
    await other.run('insert into app.t (id) values (0)');
    const runner = startRun(url, indexes, [], cli ? { cli } : {});
    await waitsFor(url, other);
    const guard = await runner.saw('locked');
    await withFaults(database.admin, (faults) => faults.terminate({ ...other, pid: guard?.pid ?? 0 }));
    return runner;
}

test('when the connection that holds the lock is lost the statement that runs is ended, exit code 12', () => withPlans(async (world) => {
    const { code, document } = await (await robbed(world)).ended;
    expect(code).toBe(12);
    expect(document.error).toBe('the connection that holds the plan lock is lost: what ran was ended; run again');
    expect(await world.other.run("select from pg_stat_activity where datname = current_database() and query like '-- migrate:plan%' and state <> 'idle'")).toEqual([]);
    await world.other.run('commit');
    expect((await runToEnd(world.url, indexes)).code).toBe(0);
    expect(await world.other.run(indexes)).toEqual([]);
}));

test('control: without watching it the statement would run on, and somebody else could take the lock', () => withoutGuards({
    'run/run.js': [['AbortSignal.any([options.stop, guard.lost])', 'options.stop']],
}, (cli) => withPlans(async (world) => {
    const runner = await robbed(world, cli);
    const next = startRun(world.url, indexes);
    await next.saw('locked');
    await waitsFor(world.url, world.other);
    await world.other.run('commit');
    await Promise.all([runner.ended, next.ended]);
})));
