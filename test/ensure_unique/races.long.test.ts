import { describe, expect, test } from 'vitest';
import { stampede } from '../../scripts/harness/stampede.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { pooled, withTestDatabase } from '../context.js';
import { until } from '../until.js';

const callers = 16;
const rounds = 6;

/** A table for each round: ten rows, two of each key, and for each row two that refer to it. */
const tables = (count: number): string => `do $$ begin for i in 0..${count - 1} loop
    execute format('create table t%s (id int primary key, k int not null, active boolean not null default true);
                    insert into t%s select n, (n - 1) / 2 from generate_series(1, 10) as n;
                    create table c%s (id int primary key, t_id int not null references t%s on delete cascade);
                    insert into c%s select 2 * n + m, n from generate_series(1, 10) as n, generate_series(0, 1) as m', i, i, i, i, i);
    end loop; end $$`;
const remove = "keep => 'id', losers => 'delete', children => 'move'";
const retire = "predicate => 'active', keep => 'id', losers => 'update', loser_set => 'active = false', children => 'move'";
const ensure = (round: number, rest: string, columns = 'k'): string =>
    `select object, outcome, row_count::int from ensure.ensure_unique_v1('t${round}', '{${columns}}', max_wait => '60 s', ${rest})`;

/** What is wrong with a table after its round; inserted: rows that callers added, each with a key of its own. */
const wrong = (round: number, inserted: number, active: boolean): string => `
    select concat_ws('; ',
        (select 'indexes ' || count(*) from pg_index where indrelid = 't${round}'::regclass and indisunique and not indisprimary having count(*) <> 1),
        (select 'rows ' || count(*) from t${round} having count(*) <> ${(active ? 10 : 5) + inserted}),
        (select 'keys ' || count(distinct k) from t${round} where active having count(distinct k) <> count(*) or count(*) <> ${5 + inserted}),
        (select 'children ' || count(*) from c${round} as c join t${round} as t on t.id = c.t_id and t.active and t.id % 2 = 1 having count(*) <> 20)) as wrong`;

describe.each([{ losers: 'delete', rest: remove }, { losers: 'update', rest: retire }])('losers => $losers', ({ losers, rest }) => {
    test.for([
        { path: 'direct', transaction: false }, { path: 'direct', transaction: true },
        { path: 'through PgBouncer', transaction: false }, { path: 'through PgBouncer', transaction: true },
    ])('16 callers x 6 tables, $path, then an insert (one transaction: $transaction): each once, no error, one index, the right rows', ({ path, transaction }, context) =>
        withTestDatabase(async (database) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            await withSessions(database.url, ['dba'], async ({ dba }) => {
                await dba.run(tables(rounds));
                const report = await stampede({
                    owner: database.url, url, callers, rounds, isolation: 'read committed', transaction,
                    steps: (caller, round) => [ensure(round, rest), `insert into t${round} values (${1000 + caller}, ${1000 + caller})`],
                });
                expect(report.codes).toEqual({ ok: callers * rounds });
                const outcomes = report.outcomes.flatMap(({ rows }) => rows.map(({ outcome }) => outcome));
                expect(outcomes.filter((outcome) => outcome === 'created')).toHaveLength(rounds);
                expect(outcomes.filter((outcome) => outcome === 'exists')).toHaveLength((callers - 1) * rounds);
                for (let round = 0; round < rounds; round++) {
                    expect(await dba.run(wrong(round, callers, losers === 'update')), `t${round}`).toEqual([{ wrong: '' }]);
                }
            });
        }));
});

test('16 callers, four keys of one table and four tables at once: each index once, no error', () =>
    withTestDatabase(async ({ url }) => {
        await withSessions(url, ['dba'], async ({ dba }) => {
            await dba.run(tables(4));
            const columns = ['k', 'id,k', 'id,active', 'k,active'];
            const report = await stampede({
                owner: url, callers, rounds: 4, isolation: 'read committed', transaction: false,
                steps: (caller, round) => [ensure((caller + round) % 4, remove, columns[(caller >> 2) % 4])],
            });
            expect(report.codes).toEqual({ ok: callers * 4 });
            expect(report.outcomes.flatMap(({ rows }) => rows).filter(({ outcome }) => outcome === 'created')).toHaveLength(16);
            expect(await dba.run(`select count(*)::int as n from pg_index as i join pg_class as c on c.oid = i.indrelid
                                  where c.relname ~ '^t[0-3]$' and i.indisunique and i.indisvalid and not i.indisprimary`)).toEqual([{ n: 16 }]);
        });
    }));

test('16 callers that write to the table first: no error but NS003 while nobody waits for their rows, and the table is never half done', () =>
    withTestDatabase(async ({ url }) => {
        await withSessions(url, ['dba'], async ({ dba }) => {
            await dba.run(tables(4));
            const report = await stampede({
                owner: url, callers, rounds: 4, isolation: 'read committed', transaction: true,
                steps: (caller, round) => [`insert into t${round} values (${1000 + caller}, ${1000 + caller})`, ensure(round, `${remove}, max_block => '1 s'`)],
            });
            expect(Object.keys(report.codes).filter((code) => !['ok', 'NS003'].includes(code))).toEqual([]);
            for (let round = 0; round < 4; round++) {
                await dba.run(ensure(round, remove));
                const [row] = await dba.run(`select count(*)::int as n from t${round} where id >= 1000`);
                expect(await dba.run(wrong(round, Number(row?.n), false))).toEqual([{ wrong: '' }]);
            }
        });
    }));

test('16 callers against 4 that insert duplicates all the time: every call ok, no duplicate survives, who comes late gets 23505', () =>
    withTestDatabase(async ({ url }) => {
        await withSessions(url, ['dba', 'w0', 'w1', 'w2', 'w3'], async ({ dba, ...writers }) => {
            await dba.run(tables(3));
            let busy = true;
            const codes = new Set<string>();
            const writing = Object.values(writers).map(async (writer, w) => {
                for (let n = 2000 + w; busy; n += 4) {
                    codes.add((await writer.attempt(`insert into t${n % 3} values (${n}, ${n % 5})`)).code);
                }
            });
            try {
                await until('a duplicate is in', () => codes.has('ok'));
                const report = await stampede({
                    owner: url, callers, rounds: 3, isolation: 'read committed', transaction: false,
                    steps: (_caller, round) => [ensure(round, remove)],
                });
                expect(report.codes).toEqual({ ok: callers * 3 });
                await until('one is refused', () => codes.has('23505'));
            } finally {
                busy = false;
                await Promise.all(writing);
            }
            expect([...codes].sort()).toEqual(['23505', 'ok']);
            for (const round of [0, 1, 2]) expect(await dba.run(wrong(round, 0, false))).toEqual([{ wrong: '' }]);
        });
    }));

// By steps: on a slow machine callers may come one after the other.
test('negative control: of two that delete, then CREATE UNIQUE INDEX IF NOT EXISTS, without a lock, at once one fails', () =>
    withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
        const dedupe = 'delete from t0 as t using t0 as o where o.k = t.k and o.id < t.id';
        const build = 'create unique index if not exists t0_k on t0 (k)';
        await a.run(tables(1));
        await a.run(`begin; ${dedupe}`);
        await b.run('begin; insert into t0 values (2000, 1)');
        const first = a.start(build);
        await first.blockedBy(b);
        const second = b.start(build);
        expect([(await first.outcome()).code, (await second.outcome()).code]).toContain('40P01');
    })));
