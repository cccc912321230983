import { expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { indexes, runToEnd, startRun, steps, until, waitsFor, withoutGuards, withPlans } from './context.js';

const shut = 'lock table app.gate in access exclusive mode';

test('a statement waits for locks for --lock-timeout and is tried again until it has them', () => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run(shut);
    const runner = startRun(url, steps, ['--lock-timeout', '100ms']);
    expect(await runner.saw('retrying', ({ attempt }) => attempt >= 2)).toMatchObject({ step: 1, code: '55P03' });
    await other.run('commit');
    const { code, document } = await runner.ended;
    expect(code).toBe(0);
    expect(document.statements[0]).toMatchObject({ outcome: 'done', runs: 1 });
    expect(document.statements[0]?.retries).toBeGreaterThan(1);
}));

test('control: without its lock_timeout it waits, and whoever comes after it waits behind it', () => withoutGuards({
    'run/statement.js': [['set local lock_timeout = ${lockTimeoutMs}', 'set local lock_timeout = 0']],
}, (cli) => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run('lock table app.gate in access share mode');
    const runner = startRun(url, "select 'lock table app.gate in access exclusive mode' as statement where to_regclass('app.over') is null",
        ['--lock-timeout', '100ms'], { cli });
    await until(url, `select true from pg_stat_activity as a where ${other.pid} = any (pg_blocking_pids(a.pid))
        and clock_timestamp() - a.query_start > interval '1 s'`);
    await withSessions(url, ['reader'], async ({ reader }) => {
        const read = reader.start('select from app.gate');
        await until(url, `select cardinality(pg_blocking_pids(${reader.pid})) > 0`);
        await other.run('create table app.over ()');
        await other.run('commit');
        expect((await read.outcome()).code).toBe('ok');
    });
    expect((await runner.ended).stderr).not.toContain('retrying');
})));

test('when --max-wait is spent the error names who was in the way, exit code 13, and nothing was done', () => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run(shut);
    const { code, document } = await runToEnd(url, steps, ['--max-wait', '1500ms']);
    expect(code).toBe(13);
    expect(document.error).toMatch(new RegExp(`^step 1: 55P03: .* tried \\d+ times.*\nit waited for pid ${other.pid} \\(pg-ensure test other, idle in transaction`));
    expect(document).toMatchObject({ outcome: 'failed', failure: { step: 1, sqlstate: '55P03' } });
    await other.run('commit');
    expect(await other.run('select from app.runs')).toEqual([]);
}));

test('a deadlock is tried again: 40P01 reaches nobody', () => withPlans(async ({ url, other }) => {
    await other.run('create table app.second ()');
    await other.run('begin');
    await other.run('lock table app.second in access exclusive mode');
    const runner = startRun(url, "select 'lock table app.gate in access exclusive mode; lock table app.second; create table app.over ()' as statement where to_regclass('app.over') is null",
        ['--lock-timeout', '60s']);
    await waitsFor(url, other);
    const gate = other.start(shut);
    // The runner has waited longer: its check for deadlocks comes first.
    expect(await runner.saw('retrying')).toMatchObject({ code: '40P01' });
    expect((await gate.outcome()).code).toBe('ok');
    await other.run('commit');
    expect((await runner.ended).code).toBe(0);
}));

test('a key that somebody else inserts meanwhile is tried again; one that stays fails after a few attempts', () => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run('insert into app.done values (9)');
    const runner = startRun(url, `select 'insert into app.done select 9 where not exists (select from app.done where n = 9)' as statement
        where not exists (select from app.done where n = 9)`, ['--lock-timeout', '60s']);
    await waitsFor(url, other);
    await other.run('commit');
    expect(await runner.saw('retrying')).toMatchObject({ code: '23505' });
    expect((await runner.ended).code).toBe(0);

    const { code, document } = await runToEnd(url, "select 'insert into app.done values (9)' as statement");
    expect([code, document.failure?.sqlstate]).toEqual([1, '23505']);
    expect(document.statements).toMatchObject([{ outcome: 'failed' }]);
}));

/** A build that waits for longer than the database's timeouts allow. */
async function slowBuild(cli?: string): Promise<string | undefined> {
    let sqlstate: string | undefined;
    await withPlans(async ({ url, other, database }) => {
        await other.run(`alter database ${database.name} set lock_timeout = '100ms'; alter database ${database.name} set statement_timeout = '2s'`);
        await other.run('begin; set local statement_timeout = 0; insert into app.t (id) values (0)');
        const runner = startRun(url, indexes, [], cli ? { cli } : {});
        const built = until(url, `select true from pg_stat_activity as a where a.query like '-- migrate:plan%create index%'
            and a.state = 'active' and clock_timestamp() - a.query_start > interval '2500 ms'`);
        await Promise.race([built, runner.ended]);
        await other.run('commit');
        const { code, document } = await runner.ended;
        sqlstate = document.failure?.sqlstate;
        expect(code).toBe(sqlstate === undefined ? 0 : 1);
        built.catch(() => {});
    });
    return sqlstate;
}

test('a concurrent build has no lock_timeout and no statement_timeout, whatever the database says', async () => {
    expect(await slowBuild()).toBe(undefined);
});

// Not transaction_timeout, which ends the connection: exit code 12 when it comes first.
test('control: with the timeouts of the database the build fails', () => withoutGuards({
    'run/session.js': [["[name, '0']", "[name, name === 'transaction_timeout' ? '0' : '150']"], ["filter(([, value]) => value !== '0')", 'filter(() => false)']],
}, async (cli) => {
    expect(await slowBuild(cli)).toMatch(/^(55P03|57014)$/);
}));

test('a build that fails with what may pass is asked for again, its invalid index dropped first; three failures are the end', () =>
    withPlans(async ({ url, other }) => {
        await other.run('insert into app.t (id, a) values (-1, 1)'); // a = 1 twice
        const unique = "select replace(statement, 'create index', 'create unique index') as statement, in_transaction from app.plan_indexes()";
        const { code, document } = await runToEnd(url, unique);
        expect([code, document.failure?.sqlstate]).toEqual([1, '23505']);
        expect(document.statements.filter(({ statement }) => statement.includes('t_a')).map(({ statement, outcome }) => [statement.split(' ')[0], outcome])).toEqual([
            ['create', 'failed'], ['drop', 'done'], ['create', 'failed'], ['drop', 'done'], ['create', 'failed'],
        ]);
        const runner = startRun(url, unique);
        expect(await runner.saw('asking')).toMatchObject({ code: '23505' });
        await other.run('delete from app.t where id = -1');
        expect((await runner.ended).code).toBe(0);
        expect(await other.run(unique)).toEqual([]);
    }));
