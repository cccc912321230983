import { expect, test } from 'vitest';
import postgres from 'postgres';
import { connectOptions, settle, withSessions, type Session } from '../../scripts/harness/sessions.js';
import { withTestDatabase } from '../context.js';
import { runToEnd, startRun, withoutGuards } from '../run/context.js';
import { until } from '../until.js';
import { expectDone, figure, planOf } from './planned.js';

const rows = process.env.PG_ENSURE_LONG ? 1_000_000 : 100_000;
const args = (gate = 'refuse'): string => `'t', '{a}', keep => 'id', losers => 'delete', gate => '${gate}'`;
const table = `create table t (id bigint generated always as identity primary key, a int not null, v text not null default 'some text');
    insert into t (a) select random() * ${rows} from generate_series(1, ${rows}); analyze t`;
const unique = `select count(*) = count(distinct a) as unique from t`;

interface Writing {
    codes: Record<string, number>;
    /** The longest that a statement took, in ms. */
    stall: number;
}

/** Random keys at full speed by each of four writers while `body` runs. `statement` is what a writer sends again and again. */
async function underWriters<Result>(url: string, body: () => Promise<Result>, statement: (key: number) => string): Promise<Writing & { result: Result }> {
    const writing: Writing = { codes: {}, stall: 0 };
    let over = false;
    const write = async (): Promise<void> => {
        const sql = postgres(url, connectOptions);
        while (!over) {
            const begun = performance.now();
            const { code } = await settle(sql.unsafe(statement(Math.floor(Math.random() * rows))).simple());
            writing.codes[code] = (writing.codes[code] ?? 0) + 1;
            writing.stall = Math.max(writing.stall, performance.now() - begun);
            if (code !== 'ok') await sql.unsafe('rollback').simple();
        }
        await sql.end({ timeout: 1 });
    };
    const writers = [1, 2, 3, 4].map(write);
    try {
        return { ...writing, result: await body(), codes: writing.codes, get stall() { return writing.stall; } };
    } finally {
        over = true;
        await Promise.all(writers);
    }
}

const insert = (key: number): string => `insert into t (a) values (${key})`;

const withTable = (body: (url: string, dba: Session) => Promise<void>): Promise<void> =>
    withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
        await dba.sql.unsafe(table).simple();
        await body(url, dba);
    }));

test.each(['refuse', 'skip'])('real case 3, gate => %s: writers insert random keys at full speed, and the plan ends with its first build', (gate) =>
    withTable(async (url, dba) => {
        const begun = performance.now();
        const { codes, stall, result } = await underWriters(url, () => runToEnd(url, planOf(args(gate))), insert);
        const seconds = (performance.now() - begun) / 1000;
        expect(result.code, result.stderr).toBe(0);
        const builds = result.document.statements.filter(({ statement }) => statement.startsWith('create unique index'));
        expect(builds.map(({ runs, outcome }) => [runs, outcome])).toEqual([[1, 'done']]);
        expect(Object.keys(codes).filter((code) => !['ok', '23505'].includes(code))).toEqual([]);
        expect(await dba.run(unique)).toEqual([{ unique: true }]);
        await expectDone(dba, args(gate));
        const swept = result.document.statements.reduce((sum, { rows: n }) => sum + (n ?? 0), 0);
        figure(`${rows} rows, gate ${gate}: ${seconds.toFixed(1)} s, ${swept} swept, ${codes.ok} inserts and ${codes['23505']} refused, `
            + `longest stall ${stall.toFixed(0)} ms`);
    }));

test('negative control: without the gate, dedupe and build fail five times of five', () =>
    withTable(async (url, dba) => {
        const { result, codes } = await underWriters(url, async () => {
            const failed: string[] = [];
            for (let attempt = 0; attempt < 5; attempt++) {
                await dba.sql.unsafe(`delete from t where ctid = any (array(
                    select d.ctid from (select ctid, row_number() over (partition by a order by id) as n from t) as d where d.n > 1))`).simple();
                failed.push((await settle(dba.sql.unsafe('create unique index concurrently t_a on t (a)').simple())).code);
                await dba.sql.unsafe('drop index concurrently if exists t_a').simple();
            }
            return failed;
        }, insert);
        expect(result).toEqual(['23505', '23505', '23505', '23505', '23505']);
        expect(Object.keys(codes)).toContain('ok');
    }));

test('behind transactions of 200 ms the plan ends too', () =>
    withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
        await dba.run(`create table t (id bigint generated always as identity primary key, a int not null);
            insert into t (a) select n % 1000 from generate_series(1, 3000) as n`);
        const slow = (key: number): string => `begin; insert into t (a) values (${key}); select pg_sleep(0.2); commit`;
        const { codes, stall, result } = await underWriters(url, () => runToEnd(url, planOf(args())), slow);
        expect(result.code, result.stderr).toBe(0);
        expect(await dba.run(unique)).toEqual([{ unique: true }]);
        await expectDone(dba, args());
        figure(`behind transactions of 200 ms: ${JSON.stringify(codes)}, longest transaction ${stall.toFixed(0)} ms`);
    })));

/** Another session builds an index on t and is kept at it while `body` runs, until it calls `end`. */
const whileBuilding = (body: (sessions: Record<'dba', Session>, url: string, end: () => Promise<void>) => Promise<void>): Promise<void> =>
    withTestDatabase(({ url }) => withSessions(url, ['dba', 'holder', 'builder'], async ({ dba, holder, builder }) => {
        await dba.run('create table t (id int primary key, a int not null); insert into t values (1, 1), (2, 1)');
        await holder.run('begin; insert into t values (3, 3)');
        const build = builder.start('create index concurrently on t (id, a)');
        await build.blockedBy(holder);
        await body({ dba }, url, async () => {
            await holder.run('commit');
            expect((await build.outcome()).code).toBe('ok');
        });
    }));

test('while another session builds an index on the table pg-ensure run waits, as long as that takes, and then ends', () =>
    whileBuilding(async ({ dba }, url, end) => {
        const runner = startRun(url, planOf(args()));
        const seen = new Set<string>();
        await until('the runner has waited four times', async () => {
            for (const { at } of await dba.run(`select query_start::text as at from pg_stat_activity
                where datname = current_database() and query like '%as waiting from pg_catalog.pg_sleep%' and pid <> pg_backend_pid()`)) seen.add(String(at));
            return seen.size > 3;
        });
        await end();
        const { code, document, stderr } = await runner.ended;
        expect(code, stderr).toBe(0);
        expect(document.statements[0]?.runs).toBeGreaterThan(3);
        await expectDone(dba, args());
    }));

test('negative control: without the word waiting that is a plan that makes no progress', () =>
    withoutGuards({ 'run/statement.js': [['askAgain: isWaiting(result)', 'askAgain: false']] }, (cli) => whileBuilding(async (_sessions, url, end) => {
        const { code, document } = await runToEnd(url, planOf(args()), [], { cli });
        expect(code).toBe(1);
        expect(document.error).toContain('makes no progress');
        await end();
    })));
