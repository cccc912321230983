import { describe, expect, test } from 'vitest';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { pooled, withTestDatabase } from '../context.js';

const callers = 16;
const rounds = process.env.PG_ENSURE_LONG ? 40 : 10; // make hunt: 40

const table = `
    create schema app;
    create table app.events (id bigint not null, who int) partition by range (id)`;

const exactlyOnce = `
    select count(*)::int as partitions,
           count(distinct pg_get_expr(c.relpartbound, 0))::int as ranges,
           min(c.relname || ' ' || pg_get_expr(c.relpartbound, 0)) as first
    from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'app.events'::regclass`;

describe.each(isolationLevels)('%s', (isolation) => {
    describe.each([
        { shape: 'autocommit', transaction: false },
        { shape: 'inside an inserting transaction', transaction: true },
    ])('$shape', ({ transaction }) => {
        test.for(['direct', 'through PgBouncer'])(`16 callers x ${rounds} ranges, %s: each range once, no error`, async (path, context) => {
            await withTestDatabase(async (database) => {
                const url = path === 'direct' ? database.url : pooled(context, database);
                await withSessions(database.url, ['dba'], async ({ dba }) => {
                    await dba.run(table);
                    const report = await stampede({
                        owner: database.url, url, callers, rounds, isolation, transaction,
                        steps: (caller, round) => [
                            `select outcome from ensure.ensure_partitions_v1('app.events', '100', ${round * 100 + caller}, max_wait => '60 s')`,
                            `insert into app.events values (${round * 100 + caller}, ${caller})`,
                        ],
                    });
                    expect(report.codes).toEqual({ ok: callers * rounds });
                    expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'created')).toHaveLength(rounds);
                    expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'exists')).toHaveLength((callers - 1) * rounds);
                    expect(await dba.run(exactlyOnce)).toEqual([{
                        partitions: rounds, ranges: rounds, first: "events_0000000000000 FOR VALUES FROM ('0') TO ('100')",
                    }]);
                    expect(await dba.run('select count(*)::int as n, count(distinct id)::int as ids from app.events'))
                        .toEqual([{ n: callers * rounds, ids: callers * rounds }]);
                });
            });
        });
    });
});

describe.each(isolationLevels)('%s, beyond the matrix', (isolation) => {
    const run = (body: (url: string) => Promise<void>, setup = table): Promise<void> => withTestDatabase(async ({ url }) => {
        await withSessions(url, ['dba'], ({ dba }) => dba.run(setup));
        await body(url);
    });

    test('callers that insert first and ensure inside the same transaction: no error while nobody waits for their rows', () =>
        run(async (owner) => {
            const report = await stampede({
                owner, callers, rounds: 10, isolation, transaction: true,
                steps: (caller, round) => [
                    `insert into app.events values (-1, ${caller})`,
                    `select outcome from ensure.ensure_partitions_v1('app.events', '100', ${round * 100}, max_block => '60 s', max_wait => '60 s')`,
                    `insert into app.events values (${round * 100}, ${caller})`,
                ],
            });
            expect(report.codes).toEqual({ ok: callers * 10 });
        }, `${table}; create table app.old partition of app.events for values from (minvalue) to (0)`));

    test('callers whose ranges overlap in part: every range once, no error', () =>
        run(async (owner) => {
            const report = await stampede({
                owner, callers, rounds: 5, isolation, transaction: false,
                steps: (caller, round) => [
                    `select outcome from ensure.ensure_partitions_v1('app.events', '10', ${round * 200 + caller * 10}, ahead => 3, max_wait => '60 s')`,
                ],
            });
            expect(report.codes).toEqual({ ok: callers * 5 });
            expect(report.outcomes.flatMap(({ rows }) => rows).filter(({ outcome }) => outcome === 'created')).toHaveLength((callers + 3) * 5);
        }));

    test('two parents in one transaction in opposite order: nobody is a deadlock victim', () =>
        run(async (owner) => {
            const call = (name: string, round: number) =>
                `select outcome from ensure.ensure_partitions_v1('app.${name}', '100', ${round * 100}, max_block => '100 ms')`;
            const report = await stampede({
                owner, callers, rounds: 5, isolation, transaction: true,
                steps: (caller, round) => (caller % 2 ? ['events', 'more'] : ['more', 'events']).map((name) => call(name, round)),
            });
            // A caller that has made one partition has written: it gives way with a code of its own.
            expect(Object.keys(report.codes).filter((code) => !['ok', 'NS003'].includes(code))).toEqual([]);
            expect(report.codes.ok).toBeGreaterThan(0);
        }, `${table}; create table app.more (id bigint) partition by range (id)`));
});

test('a rollout, 8 callers say month and 8 say day: no table becomes a mixture', () =>
    withTestDatabase(async ({ url }) => {
        await withSessions(url, ['dba'], async ({ dba }) => {
            await dba.run(Array.from({ length: 10 }, (_, n) => `create table t${n} (at date) partition by range (at)`).join(';'));
            const report = await stampede({
                owner: url, callers: 16, rounds: 10, isolation: 'read committed', transaction: false,
                steps: (caller, round) => [`select from ensure.ensure_partitions_v1('t${round}', '1 ${caller % 2 ? 'month' : 'day'}', date '2026-11-01' + ${caller * 8}, max_wait => '60 s')`],
            });
            expect(Object.keys(report.codes).filter((code) => !['ok', 'NS001', 'NS008'].includes(code))).toEqual([]);
            expect(await dba.run(`
                select i.inhparent::regclass as mixed from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
                cross join lateral regexp_matches(pg_get_expr(c.relpartbound, 0), '\\d{4}-\\d\\d-\\d\\d.*?(\\d{4}-\\d\\d-\\d\\d)') as u (high)
                cross join lateral substring(pg_get_expr(c.relpartbound, 0) from '\\d{4}-\\d\\d-\\d\\d') as l (low) where c.relkind = 'r'
                group by 1 having count(distinct u.high[1]::date - l.low::date > 1) > 1`)).toEqual([]);
        });
    }));

// By steps: on a slow machine 16 callers may come one after the other ten times.
test('negative control: of two that CREATE TABLE IF NOT EXISTS … PARTITION OF at once one fails', () =>
    withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
        const naive = 'create table if not exists app.p partition of app.events for values from (0) to (1)';
        await a.run(table);
        await a.run('begin');
        await a.run(naive);
        const second = b.start(naive);
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).code).toMatch(/^(42P07|23505)$/);
        expect((await b.attempt(naive)).code).toBe('ok');
    })));
