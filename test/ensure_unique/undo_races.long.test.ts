import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { archive, attemptUndo, dropped, family, merge, snapshot, undo, unique } from './undoing.js';

const long = Boolean(process.env.PG_ENSURE_LONG);
const seed = process.env.PG_ENSURE_SEED ? Number(process.env.PG_ENSURE_SEED) : Date.now() % 2 ** 31;
const runs = long ? Number(process.env.PG_ENSURE_RUNS ?? 300) : 12;

describe('locks and races', () => {
    test('a second caller waits for the first, then finds nothing of the run', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            const { run } = await unique(a, merge);
            await a.run('drop index t_k_key; begin');
            await undo(a, run);
            const second = b.start(`select * from ensure.undo_unique_v1('kept', '${run}')`);
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), '42704');
        })));

    test('negative control: without the locks both put the rows back, or one fails with what PostgreSQL says', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(`${archive}; create table t (k text); insert into t values ('a'), ('a')`);
            const { run } = await unique(a, "'t', '{k}', keep => 'k', losers => 'delete'");
            await a.run('drop index t_k_key');
            await withoutGuard(a, '_undo_archived_v1',
                'perform ensure._take_locks_v1(v_relations, v_modes, v_relations[1], v_wait, c_end);');
            await withoutGuard(a, '_undo_run_v1', 'or v_count <> v_steps.total');
            await a.run('begin');
            await undo(a, run);
            const second = b.start(`select * from ensure.undo_unique_v1('kept', '${run}')`);
            await second.blockedBy(a);
            await a.run('commit');
            await second.outcome();
            expect(await a.run('select count(*)::int as n from t')).toEqual([{ n: 3 }]);
        })));

    test('SHARE ROW EXCLUSIVE on the tables of the run and their partitions; who is in the way is named', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'writer'], async ({ owner, writer }) => {
            await owner.run(`${family}; create table other (id int primary key, t_id int references t); create table parts (id
                int, t_id int references t, primary key (id, t_id)) partition by list (id);
                create table parts1 partition of parts for values in (1); insert into parts values (1, 2)`);
            const { run } = await unique(owner, merge);
            await owner.run('drop index t_k_key');
            await writer.run('begin; insert into grand values (1000, 6)');
            const outcome = await owner.attempt(`select * from ensure.undo_unique_v1('kept', '${run}', '300 ms', '50 ms')`);
            expect(expectError(outcome, '55P03').detail).toContain(String(writer.pid));
            await writer.run('commit');
            await owner.run('begin');
            await undo(owner, run);
            expect((await owner.run(`select relation::regclass::text as name from pg_locks where pid = pg_backend_pid() and mode =
                'ShareRowExclusiveLock' order by 1`)).map((row) => row.name))
                .toEqual(['child', 'grand', 'parts', 'parts1', 't']);
            await owner.run('rollback');
            await writer.run('begin; insert into grand values (1001, 6)');
            await owner.run("begin; insert into other values (1, 1)");
            expectError(await attemptUndo(owner, run), 'NS003');
            await owner.run('rollback');
            await writer.run('rollback');
            const [setting] = await owner.run(`begin; set local lock_timeout = '7s'; select count(*) from
                ensure.undo_unique_v1('kept', '${run}'); select current_setting('lock_timeout') as now; `);
            expect(setting).toEqual({ now: '7s' });
            await owner.run('rollback');
        })));
});

describe('round trip', () => {
    const schema = `${archive}; create table t (id int primary key, up int references t on delete cascade, k int, body text);
        create table one (t_id int primary key references t on delete cascade, body text);
        create table child (t_id int not null references t on delete cascade, other int references t on delete set null, n int, id
            int primary key, unique (t_id, n), unique (other, n));
        create table grand (child_id int not null references child on delete cascade, n int, primary key (child_id, n), id int
            unique);
        create table leaf (id int primary key, grand_id int references grand (id) on delete cascade)`;
    const tables = ['t', 'one', 'child', 'grand', 'leaf'];
    const tree = fc.record({
        t: fc.array(fc.record({ up: fc.nat(9), k: fc.nat(2) }), { minLength: 2, maxLength: 9 }),
        one: fc.array(fc.nat(8), { maxLength: 5 }),
        child: fc.array(fc.record({ t: fc.nat(8), other: fc.nat(9), n: fc.nat(2) }), { maxLength: 12 }),
        grand: fc.array(fc.record({ child: fc.nat(11), n: fc.nat(2) }), { maxLength: 15 }),
        leaf: fc.array(fc.nat(14), { maxLength: 12 }),
        keep: fc.constantFrom('id', 'id desc', 'body, id'),
        columns: fc.constantFrom('{k}', '{k}', '{up,k}'),
        soft: fc.boolean(),
    });

    test(`random trees: ensured with merge and archive, then undone, every row is as it was (seed ${seed})`,
        { timeout: long ? 3_600_000 : 120_000 }, () =>
        withOwner(async (owner) => {
            await owner.run(schema);
            let moved = 0;
            const codes = new Map<string, number>();
            await fc.assert(fc.asyncProperty(tree, async (world) => {
                const n = world.t.length;
                const statements = ['truncate t, one, child, grand, leaf, kept',
                    ...world.t.map(({ up, k }, i) => `insert into t values (${i}, ${up < i ? up : 'null'}, ${k},
                        'b${i * 7 % 5}')`),
                    ...world.one.map((id) => `insert into one values (${id % n}, 'x') on conflict do nothing`),
                    ...world.child.map(({ t, other, n: number }, i) => `insert into child values (${t % n},
                        ${other < n ? other : 'null'}, ${number}, ${i}) on conflict do nothing`),
                    ...world.grand.map(({ child, n: number }, i) => `insert into grand select id, ${number}, ${i} from child where
                        id = ${child} on conflict do nothing`),
                    ...world.leaf.map((grand, i) => `insert into leaf select ${i}, id from grand where id = ${grand}`)];
                await owner.run(statements.join('; '));
                const before = await snapshot(owner, ...tables);
                const outcome = await owner.attempt(`select object, outcome from ensure.ensure_unique_v1('t', '${world.columns}',
                    'body <> ''gone''', keep => '${world.keep}', children => 'merge', archive => 'kept', ${
                    world.soft ? "losers => 'update', loser_set => 'body = ''gone'''" : "losers => 'delete'"})`);
                codes.set(outcome.code, (codes.get(outcome.code) ?? 0) + 1);
                if (outcome.code !== 'ok') {
                    // Refused, nothing changed: a row would refer to itself; updated losers leave new duplicates.
                    expect(['NS009', 'NS010']).toContain(outcome.code);
                    expect(await snapshot(owner, ...tables)).toBe(before);
                    return;
                }
                await owner.run(dropped(outcome.rows));
                const run = outcome.rows.find((row) => row.outcome === 'archived')?.object as string | undefined;
                if (run !== undefined) {
                    moved += 1;
                    await undo(owner, run);
                }
                expect(await snapshot(owner, ...tables)).toBe(before);
            }), { seed, numRuns: runs });
            console.log(`round trips: ${moved}, codes ${[...codes].map(([code, count]) => `${code} ${count}`).join(', ')}`);
        }));
});
