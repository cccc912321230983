import { describe, expect, test } from 'vitest';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { pooled, withTestDatabase } from '../context.js';

const callers = 16;
const rounds = 40;

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
        test.for(['direct', 'through PgBouncer'])('16 callers x 40 ranges, %s: each range once, no error', async (path, context) => {
            await withTestDatabase(async (database) => {
                const url = path === 'direct' ? database.url : pooled(context, database);
                await withSessions(database.url, ['dba'], async ({ dba }) => {
                    await dba.run(table);
                    const report = await stampede({
                        owner: database.url, url, callers, rounds, isolation, transaction,
                        steps: (caller, round) => [
                            `select outcome from ensure.ensure_partitions_v1('app.events', '100', ${round * 100 + caller})`,
                            `insert into app.events values (${round * 100 + caller}, ${caller})`,
                        ],
                    });
                    expect(report.codes).toEqual({ ok: callers * rounds });
                    expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'created')).toHaveLength(rounds);
                    expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'exists')).toHaveLength((callers - 1) * rounds);
                    expect(await dba.run(exactlyOnce)).toEqual([{
                        partitions: rounds, ranges: rounds, first: "events_p0 FOR VALUES FROM ('0') TO ('100')",
                    }]);
                    expect(await dba.run('select count(*)::int as n, count(distinct id)::int as ids from app.events'))
                        .toEqual([{ n: callers * rounds, ids: callers * rounds }]);
                });
            });
        });
    });
});
