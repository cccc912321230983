import { describe, expect, test } from 'vitest';
import { stampede } from '../../scripts/harness/stampede.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { pooled, withTestDatabase } from '../context.js';
import { until } from '../until.js';
import { merge } from './merging.js';

const callers = 16;
const rounds = 5;

/** A family of tables for each round: ten groups of three; of the children of a group two are equal, each with a grandchild. */
const tables = (count: number): string => `do $$ begin for i in 0..${count - 1} loop
    execute format('create table t%1$s (id int primary key, score int not null, extra boolean);
        insert into t%1$s select n, n from generate_series(1, 30) as n;
        create table c%1$s (id int primary key, t_id int not null references t%1$s on delete cascade, tag int, unique (t_id, tag));
        insert into c%1$s select 2 * n + m, n, m * n from generate_series(1, 30) as n, generate_series(0, 1) as m;
        create table g%1$s (id int primary key, c_id int not null references c%1$s on delete cascade);
        insert into g%1$s select id, id from c%1$s', i);
    end loop; end $$`;
const losers = Array.from({ length: 20 }, (_, n) => n + 11);
const keepers = losers.map((id) => (id - 1) % 10 + 1);
const call = (round: number, rest = ''): string => merge(keepers, losers, `, '{"score": "sum"}', max_wait => '60 s'${rest}`, `t${round}`);

/** What is wrong after a round: group n has n, n + 10 and n + 20, so 465 in all; `grand` is how many grandchildren there are. */
const wrong = (round: number, grand = 60): string => `select concat_ws('; ',
    (select 'rows ' || count(*) from t${round} where not extra is true having count(*) <> 10 or sum(score) <> 465 or count(*) filter (where score <> 3 * id + 30) > 0),
    (select 'children ' || count(*) from c${round} having count(*) filter (where tag = 0) <> 10),
    (select 'grandchildren ' || count(*) from g${round} as g join c${round} as c on c.id = g.c_id having count(*) <> ${grand})) as wrong`;

describe('16 callers at once', () => {
    test.for([
        { path: 'direct', transaction: false }, { path: 'direct', transaction: true }, { path: 'through PgBouncer', transaction: true },
    ])('x 5 tables, $path (one transaction with an insert behind it: $transaction): merged once, no error, sums added once', ({ path, transaction }, context) =>
        withTestDatabase(async (database) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            await withSessions(database.url, ['dba'], async ({ dba }) => {
                await dba.run(tables(rounds));
                const report = await stampede({
                    owner: database.url, url, callers, rounds, isolation: 'read committed', transaction,
                    steps: (caller, round) => [call(round), ...transaction ? [`insert into t${round} values (${1000 + caller}, 0, true)`] : []],
                });
                expect(report.codes).toEqual({ ok: callers * rounds });
                const outcomes = report.outcomes.flatMap(({ rows }) => rows.map(({ outcome }) => outcome));
                expect(outcomes.filter((outcome) => outcome === 'updated')).toHaveLength(rounds);
                expect(outcomes.filter((outcome) => outcome === 'exists')).toHaveLength((callers - 1) * rounds);
                for (let round = 0; round < rounds; round++) expect(await dba.run(wrong(round)), `t${round}`).toEqual([{ wrong: '' }]);
            });
        }));

    test('each with other losers of the same keepers: all are merged, no error', () =>
        withTestDatabase(async ({ url }) => {
            await withSessions(url, ['dba'], async ({ dba }) => {
                await dba.run(tables(1));
                const report = await stampede({
                    owner: url, callers, rounds: 2, isolation: 'read committed', transaction: false,
                    steps: (caller, round) => {
                        const mine = losers.filter((id) => (id + round) % callers === caller);
                        return [merge(mine.map((id) => (id - 1) % 10 + 1), mine, `, '{"score": "sum"}', max_wait => '60 s'`, 't0')];
                    },
                });
                expect(report.codes).toEqual({ ok: callers * 2 });
                expect(await dba.run(wrong(0))).toEqual([{ wrong: '' }]);
            });
        }));

    test('against 4 that insert children and grandchildren all the time: every call ok, writers meet 23503 at most, nothing is lost', () =>
        withTestDatabase(async ({ url }) => {
            await withSessions(url, ['dba', 'w0', 'w1', 'w2', 'w3'], async ({ dba, ...writers }) => {
                await dba.run(tables(2));
                let busy = true;
                let inserted = 0;
                const codes = new Map<string, number>();
                const writing = Object.values(writers).map(async (writer, w) => {
                    for (let n = 100_000 + w; busy; n += 4) {
                        const { code } = await writer.attempt(`with c as (insert into c0 values (${n}, ${n % 30 + 1}, ${n}) returning id) insert into g0 select id, id from c`);
                        codes.set(code, (codes.get(code) ?? 0) + 1);
                        if (code === 'ok') inserted++;
                    }
                });
                try {
                    await until('a child is in', () => codes.has('ok'));
                    const report = await stampede({
                        owner: url, callers, rounds: 1, isolation: 'read committed', transaction: false, steps: () => [call(0)],
                    });
                    expect(report.codes).toEqual({ ok: callers });
                    await until('a child of a loser is refused', () => codes.has('23503'));
                } finally {
                    busy = false;
                    await Promise.all(writing);
                }
                expect([...codes.keys()].sort()).toEqual(['23503', 'ok']);
                expect(await dba.run(wrong(0, 60 + inserted))).toEqual([{ wrong: '' }]);
            });
        }));
});

// By steps: on a slow machine callers may come one after the other.
test('negative control: of two that add, move and delete by hand, without a lock, both add what the loser had', () =>
    withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
        await a.run('create table t (id int primary key, score int); insert into t values (1, 1), (2, 5)');
        const byHand = ['update t set score = score + (select score from t where id = 2) where id = 1', 'delete from t where id = 2'];
        await a.run('begin');
        for (const statement of byHand) await a.run(statement);
        await b.run('begin');
        const second = b.start(byHand[0] ?? '');
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).code).toBe('ok');
        await b.run('commit');
        expect(await a.run('select score from t')).not.toEqual([{ score: 6 }]);
    })));
