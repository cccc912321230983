import { expect, test, type TestContext } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { missing, surroundings } from '../context.js';
import { run, withEmptyDatabase } from '../migrate/context.js';
import { withStandby } from '../standby.js';
import { all, expectConverged, indexes, runToEnd, startRun, steps, sweep, until, withoutGuards, withPlans } from './context.js';

test('statements run in order, in a transaction or outside, and the plan is asked for again until it has no rows; then nothing is to do', () =>
    withPlans(async (world) => {
        const { url } = world;
        const { code, document } = await runToEnd(url, all);
        expect(code).toBe(0);
        await expectConverged(world);
        expect(document).toMatchObject({ outcome: 'done', error: null, exitCode: 0, failure: null });
        expect(document.statements.map(({ runs, outcome, rows, inTransaction }) => [runs, outcome, rows, inTransaction])).toEqual([
            ...Array<unknown>(4).fill([1, 'done', null, true]), ...Array<unknown>(3).fill([1, 'done', null, false]), [10, 'done', 1000, true],
        ]);
        const again = await run(url, ['run', all]);
        expect(again).toMatchObject({ code: 0, stdout: 'nothing to do: the plan has no rows\n', stderr: '' });
    }));

test('control: asked only once, what is behind a barrier is left', () => withoutGuards({
    'run/run.js': [['for (;;) {', 'for (let once = true; once; once = false) {']],
}, (cli) => withPlans(async ({ url, other }) => {
    expect((await runToEnd(url, all, [], { cli })).code).toBe(0);
    expect(await other.run('select n from app.done order by n')).toEqual([{ n: 1 }, { n: 2 }]);
})));

test('plan_partitions_v1 converges, and for people a line tells each step', () => withPlans(async ({ url, other }) => {
    await other.run('create table app.events (at timestamptz not null) partition by range (at)');
    const plan = "select * from ensure.plan_partitions_v1('app.events', '1 month', '2026-11-20'::timestamptz, ahead => 3)";
    const { code, stdout, stderr } = await run(url, ['run', plan]);
    expect(code).toBe(0);
    expect(stdout).toBe('4 statements run; the plan has no rows left\n');
    expect(stderr).toMatch(/^pg-ensure: step 1: do '.*… \(.+\)\npg-ensure: step 1 done in \d\.\d{3} s\n/);
    expect(await other.run(plan)).toEqual([]);
    expect(await other.run("select count(*)::int as n from pg_inherits where inhparent = 'app.events'::regclass")).toEqual([{ n: 4 }]);
}));

test('a plan that says the same after it was done twice is stopped; one whose statement reports a row_count above 0 goes on', () =>
    withPlans(async ({ url, other }) => {
        const stuck = await runToEnd(url, "select 'insert into app.runs values (7)' as statement");
        expect(stuck.code).toBe(1);
        expect(stuck.document.error).toContain('makes no progress');
        expect(await other.run('select n from app.runs')).toEqual([{ n: 7 }, { n: 7 }]);

        const swept = await runToEnd(url, sweep);
        expect(swept.code).toBe(0);
        expect(swept.document.statements).toMatchObject([{ runs: 10, rows: 1000 }]);
        expect(swept.stderr).toMatch(/"event":"swept","step":1,"rows":100,.*"perSecond":/);
    }));

test('one row is a row', () => withPlans(async ({ url }) => {
    const { stdout } = await run(url, ['run', `select 'with d as (delete from app.t where id = 1 returning 1) select count(*) as row_count from d' as statement
        where exists (select from app.t where id = 1)`]);
    expect(stdout).toBe('1 statement run, 1 row swept; the plan has no rows left\n');
}));

test('a statement that says it is waiting is asked about again, however often; control: without the column it is no progress', () =>
    withPlans(async ({ url, other }) => {
        await other.run('create table app.turns (n int); create function app.turn() returns int language sql as '
            + "'insert into app.turns values (1) returning n'");
        const plan = (column: string): string => `select 'select app.turn() as ${column}' as statement
            where (select count(*) from app.turns) < 6`;
        expect((await runToEnd(url, plan('turn'))).document.error).toContain('makes no progress');
        await other.run('truncate app.turns');
        expect((await runToEnd(url, plan('waiting'))).code).toBe(0);
        expect(await other.run('select count(*)::int as n from app.turns')).toEqual([{ n: 6 }]);
    }));

test('control: a sweep that does not report its rows, or reports 0, counts as no progress', () => withPlans(async ({ url }) => {
    for (const other of ["replace(statement, 'row_count', 'n')", "replace(statement, 'count(*)', '0 * count(*)')"]) {
        const { code, document } = await runToEnd(url, `select ${other} as statement from app.plan_sweep()`);
        expect(code).toBe(1);
        expect(document.error).toContain('makes no progress');
    }
}));

test('plans that alternate make no progress either', () => withPlans(async ({ url, other }) => {
    await other.run('create sequence app.s');
    // The statement is what moves it: a plan may not.
    const { code, document } = await runToEnd(url, "select format('select nextval(''app.s'') as %I', last_value % 2) as statement from app.s");
    expect(code).toBe(1);
    expect(document.error).toContain('makes no progress');
}));

const writing = 'with w as (insert into app.runs values (1) returning n) select \'select 1\' as statement from w';
const double = "select 'select 1' as statement; commit; insert into app.runs values (2); select 'select 1' as statement where false";

test('a plan that writes is 25006, and two statements are 42601: nothing is written', () => withPlans(async ({ url, other }) => {
    for (const [code, query] of [['25006', writing], ['42601', double]] as const) {
        const { code: exit, document } = await runToEnd(url, query);
        expect(exit).toBe(1);
        expect(document.error).toContain(`${code}: `);
        expect(document.failure).toMatchObject({ step: null, statement: query, sqlstate: code, hint: 'the plan is to be one query that only reads' });
    }
    expect(await other.run('select n from app.runs')).toEqual([]);
}));

test('control: asked by the simple protocol the second statement leaves the transaction and writes', () => withoutGuards({
    'run/plan.js': [['session.ask(', 'session.run(']],
}, (cli) => withPlans(async ({ url, other }) => {
    expect((await runToEnd(url, double, [], { cli })).code).toBe(0);
    expect(await other.run('select n from app.runs')).toEqual([{ n: 2 }]);
})));

test('where the server has no hint the runner says what to do: install ensure, or take the statement out of the transaction', async () => {
    await withEmptyDatabase(async ({ url }) => {
        for (const query of ['select * from ensure.plan_nothing()', "select 'select ensure.nothing()' as statement"]) {
            const { code, stderr } = await run(url, ['run', query]);
            expect([code, stderr]).toEqual([1, expect.stringMatching(/ERROR: {2}3F000: .*\nHINT: {2}run pg-ensure migrate\n/)]);
        }
    });
    await withPlans(async ({ url, other }) => {
        const { document } = await runToEnd(url, "select 'vacuum app.t' as statement");
        expect(document.failure).toMatchObject({ sqlstate: '25001', hint: 'the plan\'s row needs in_transaction = false' });
        await other.run(`create function app.hinting(code text, hint text) returns text language plpgsql as $$
            begin raise exception 'no ensure' using errcode = code, hint = hint; end $$`);
        expect((await runToEnd(url, "select app.hinting('25006', 'its own') as statement")).document.failure).toMatchObject({ sqlstate: '25006', hint: 'its own' });
    });
});

test('control: the same codes of something else get no such hint', () => withPlans(async ({ url }) => {
    const raised = 'do $do$ begin raise exception $m$no$m$ using errcode = $m$25001$m$; end $do$';
    for (const [code, query] of [
        ['3F000', 'select * from nowhere.plan_nothing()'], ['42601', 'select from where'], ['25001', `select '${raised}' as statement`],
        ['25006', "select 'set transaction read only; create table app.x ()' as statement"],
    ] as const) {
        expect((await runToEnd(url, query)).document.failure).toMatchObject({ sqlstate: code, hint: null });
    }
}));

test('bad input is one clear error: exit code 2 for what is no plan, 1 for what the database or the plan has wrong', () =>
    withPlans(async ({ url }) => {
        for (const [exit, query, text] of [
            [2, ' ', 'no query'], [2, '/* nothing */', 'the query returns no columns'], [2, 'select 1 as a', 'columns a, and none is called "statement"'],
            [1, 'select * from app.plan_nothing()', '42883'], [1, 'select null::text as statement', 'statement of step 1 is null'],
            [1, "select ' ' as statement", 'statement of step 1'], [1, "select 'select 1' as statement, 'maybe' as in_transaction", 'in_transaction is not boolean'],
            [1, "select 'copy app.t from stdin' as statement", 'needs psql'],
        ] as const) {
            const { code, stdout, stderr } = await run(url, ['run', query]);
            expect([code, stdout], `${query}: ${stderr}`).toEqual([exit, '']);
            expect(stderr).toContain(text);
        }
        expect((await run(url, ['run'])).code).toBe(2);
    }));

test('--dry-run prints the plan and runs nothing', () => withPlans(async ({ url, other }) => {
    const { code, stdout } = await run(url, ['run', indexes, '--dry-run']);
    expect(code).toBe(0);
    expect(stdout).toContain('   1 | create index concurrently t_a on app.t (a) | f              | SHARE UPDATE EXCLUSIVE on app.t | wanted\n');
    const { document } = await runToEnd(url, steps, ['--dry-run']);
    expect(document).toMatchObject({ outcome: 'planned', statements: [], plan: [{ step: 1, inTransaction: true, why: 'wanted' }, { step: 2 }] });
    expect(await other.run('select from app.runs')).toEqual([]);
    expect((await runToEnd(url, indexes, ['--dry-run'])).document.plan).toHaveLength(3);
}));

test('on a standby a plan is shown, and run when it has no rows; with rows it is exit code 10', (context: TestContext) => {
    if (!surroundings.embedded) return missing(context, 'needs a server of its own, not DATABASE_URL');
    return withStandby({}, async ({ primary, standby, caughtUp }) => {
        await withConnection(primary.url, (sql) => sql`create table done as select 1 as n where false`);
        await caughtUp();
        const plan = "select 'insert into done values (1)' as statement where not exists (select from done)";
        expect((await runToEnd(standby.url, plan)).document).toMatchObject({ exitCode: 10, statements: [] });
        expect((await runToEnd(standby.url, plan, ['--dry-run'])).document).toMatchObject({ exitCode: 0, plan: [{ step: 1 }] });
        expect((await runToEnd(primary.url, plan)).code).toBe(0);
        await caughtUp();
        expect((await runToEnd(standby.url, plan)).document).toMatchObject({ exitCode: 0, outcome: 'nothing to do' });
    });
});

test('an error stops at once, with SQLSTATE, detail and hint; what was done stays, and the next run continues', () =>
    withPlans(async ({ url, other }) => {
        await other.run(`create table app.broken (); create function app.plan_broken() returns setof text language sql stable as $$
            select format('insert into app.done values (%s)', n) from unnest('{1}'::int[]) as n where not exists (select from app.done)
            union all select $do$do $b$ begin raise exception 'no' using errcode = 'NS042', detail = 'The detail.', hint = 'The hint.'; end $b$ $do$
            where to_regclass('app.broken') is not null
            union all select 'insert into app.done values (2)' where not exists (select from app.done where n = 2) $$`);
        const query = 'select s as statement from app.plan_broken() as s';
        const { code, stderr } = await run(url, ['run', query]);
        expect(code).toBe(1);
        expect(stderr).toMatch(/step 2 failed: do .*\nERROR: {2}NS042: no\nDETAIL: {2}The detail\.\nHINT: {2}The hint\.\n.*running again continues\n$/);
        const { document } = await runToEnd(url, query);
        expect(document).toMatchObject({ outcome: 'failed', exitCode: 1, statements: [{ outcome: 'failed' }],
            failure: { step: 1, sqlstate: 'NS042', message: 'no', detail: 'The detail.', hint: 'The hint.' } });
        expect(await other.run('select n from app.done')).toEqual([{ n: 1 }]);
        await other.run('drop table app.broken');
        expect((await runToEnd(url, query)).code).toBe(0);
        expect(await other.run('select n from app.done')).toEqual([{ n: 1 }, { n: 2 }]);
    }));

test('a long build tells its phase and who keeps it waiting', () => withPlans(async ({ url, other }) => {
    await other.run('begin');
    await other.run('insert into app.t (id) values (0)');
    const runner = startRun(url, indexes);
    const blocked = await runner.saw('blocked');
    expect(blocked?.blockers).toContain(`pid ${other.pid} (pg-ensure test other, idle in transaction`);
    const working = await runner.saw('working', ({ progress }) => progress !== null);
    expect(working).toMatchObject({ step: 1, progress: { phase: 'waiting for writers before build', unit: 'lockers', done: 0, total: 1 } });
    await other.run('commit');
    expect((await runner.ended).code).toBe(0);
    await until(url, 'select not exists (select from app.plan_indexes())');
}));

test('a build that works tells how much of the table it has read, at which rate, and how long it will take', () => withPlans(async ({ url, other }) => {
    await other.run(`create function app.slow(n integer) returns integer language plpgsql immutable as $$
        begin perform pg_sleep(0.003); return n; end $$`);
    const runner = startRun(url, "select 'create index concurrently t_slow on app.t (app.slow(a))' as statement, false as in_transaction where to_regclass('app.t_slow') is null");
    const working = await runner.saw('working', ({ progress }) => (progress?.perSecond ?? 0) > 0);
    expect(working?.progress).toMatchObject({ phase: 'building index: scanning table', unit: 'blocks' });
    const { done = 0, total = 0, perSecond = 0, left = 0 } = working?.progress ?? {};
    expect([done > 0, total >= done, left]).toEqual([true, true, (total - done) / perSecond]);
    expect((await runner.ended).code).toBe(0);
}));
