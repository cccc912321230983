import { expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { pooled } from '../context.js';
import { runToEnd, startRun, until, waitsFor, withoutGuards, withPlans } from './context.js';

const shut = 'begin; lock table app.gate in access exclusive mode';
/** Reads app.gate to say that app.done wants a row. */
const plan = "select 'insert into app.done values (1)' as statement from (select count(*) from app.gate) as g where not exists (select from app.done)";

test('asking for the plan waits for locks for --lock-timeout and is tried again until it has them', () => withPlans(async ({ url, other }) => {
    await other.run(shut);
    const runner = startRun(url, plan, ['--lock-timeout', '100ms']);
    expect(await runner.saw('retrying', ({ attempt }) => attempt >= 2)).toMatchObject({ step: null, code: '55P03' });
    await other.run('commit');
    const { code, document } = await runner.ended;
    expect([code, document.failure, document.statements]).toMatchObject([0, null, [{ outcome: 'done', runs: 1 }]]);
}));

test('control: without its lock_timeout it waits for as long as somebody has the lock', () => withoutGuards({
    'run/plan.js': [['set local lock_timeout = ${lockTimeoutMs}', 'set local lock_timeout = 0']],
}, (cli) => withPlans(async ({ url, other }) => {
    await other.run(shut);
    const runner = startRun(url, plan, ['--lock-timeout', '100ms', '--max-wait', '2s'], { cli });
    await until(url, `select true from pg_stat_activity as a where ${other.pid} = any (pg_blocking_pids(a.pid))
        and clock_timestamp() - a.query_start > interval '4 s'`);
    await other.run('commit');
    const { code, stderr } = await runner.ended;
    expect(code).toBe(0);
    expect(stderr).not.toContain('retrying');
})));

test('control: not tried again, the first 55P03 is the end', () => withoutGuards({
    'run/attempts.js': [["passing = ['55P03', '40P01', '40001']", 'passing = []']],
}, (cli) => withPlans(async ({ url, other }) => {
    await other.run(shut);
    const { code, document } = await runToEnd(url, plan, [], { cli });
    expect([code, document.failure]).toMatchObject([1, { step: null, sqlstate: '55P03' }]);
})));

for (const path of ['direct', 'through PgBouncer'] as const) {
    test(`${path}: when --max-wait is spent asking, with --dry-run too, the error names who was in the way, exit code 13`, (context) =>
        withPlans(async ({ database, other }) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            await other.run(shut);
            for (const more of [[], ['--dry-run']]) {
                const { code, document, stderr } = await runToEnd(url, plan, ['--max-wait', '3s', ...more]);
                expect([code, document.exitCode, document.statements]).toEqual([13, 13, []]);
                const who = `pid ${other.pid} (pg-ensure test other, idle in transaction, since `;
                expect(document.error).toMatch(/^asking for the plan: 55P03: .* tried \d+ times, .*\n/);
                expect(document.error).toContain(`\nit waited for ${who}`);
                expect(document.failure).toMatchObject({ step: null, statement: plan, sqlstate: '55P03' });
                expect(stderr.split(`"event":"blocked","step":null,"blockers":"${who}`)).toHaveLength(2); // said once, of all attempts
            }
        }));
}

test('a deadlock while asking is tried again, and so is what the plan raises as 40001', () => withPlans(async ({ url, other }) => {
    await other.run('create table app.second ()');
    await other.run('begin; lock table app.second in access exclusive mode');
    const runner = startRun(url, `${plan} and not exists (select from app.second)`, ['--lock-timeout', '60s']);
    await waitsFor(url, other);
    const gate = other.start('lock table app.gate in access exclusive mode');
    // The runner has waited longer: its check for deadlocks comes first.
    expect(await runner.saw('retrying')).toMatchObject({ step: null, code: '40P01' });
    expect((await gate.outcome()).code).toBe('ok');
    await other.run('commit');
    expect((await runner.ended).code).toBe(0);

    await other.run(`create function app.plan_raises() returns setof text stable language plpgsql as $$
        begin if exists (select from app.done) then raise exception 'no' using errcode = '40001'; end if; end $$`);
    const raising = startRun(url, 'select s as statement from app.plan_raises() as s');
    expect(await raising.saw('retrying')).toMatchObject({ step: null, code: '40001' });
    await other.run('delete from app.done');
    expect((await raising.ended).code).toBe(0);
}));

test('asked again, after a statement, it waits in the same way; SIGINT ends that, and what was done stays', () => withPlans(async ({ url, other }) => {
    const query = `select 'lock table app.gate in access share mode; insert into app.runs values (1)' as statement
        from (select count(*) from app.done) as d where not exists (select from app.runs)`;
    await other.run(shut);
    const runner = startRun(url, query);
    await waitsFor(url, other);
    await withSessions(url, ['third'], async ({ third }) => {
        await third.run('begin; lock table app.done in access exclusive mode');
        await other.run('commit');
        expect((await runner.saw('blocked', ({ step }) => step === null))?.blockers).toContain(`pid ${third.pid} (`);
        runner.kill('SIGINT');
        const { code, document } = await runner.ended;
        expect([code, document.statements]).toMatchObject([130, [{ outcome: 'done' }]]);
        await third.run('commit');
    });
    expect(await other.run('select n from app.runs')).toEqual([{ n: 1 }]);
}));

const slow = "select 'select 1' as statement from pg_sleep(2)";

test('a plan that takes long to compute is not cut: neither --lock-timeout nor --max-wait counts what is no waiting', () => withPlans(async ({ url }) => {
    const { code, document } = await runToEnd(url, slow, ['--dry-run', '--lock-timeout', '100ms', '--max-wait', '500ms']);
    expect([code, document.plan]).toMatchObject([0, [{ statement: 'select 1' }]]);
}));

test('control: a statement_timeout would cut it', () => withoutGuards({
    'run/plan.js': [['set local lock_timeout', 'set local statement_timeout']],
}, (cli) => withPlans(async ({ url }) => {
    const { code, document } = await runToEnd(url, slow, ['--dry-run', '--lock-timeout', '100ms'], { cli });
    expect([code, document.failure?.sqlstate]).toEqual([1, '57014']);
})));
