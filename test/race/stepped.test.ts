import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels, type Isolation } from '../../scripts/harness/stampede.js';
import { explore, follow, minimise, type Explored } from '../../scripts/race/explore.js';
import { addPauses } from '../../scripts/race/pause.js';
import { emptySpec, readSpec, type Spec } from '../../scripts/race/spec.js';
import { withOrders, type Ordered } from '../../scripts/race/stepped.js';
import { parsedOrder, script, spelledOrder } from '../../scripts/race/text.js';
import { withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const specOf = (name: string): Spec => readSpec(new URL(`specs/${name}.sql`, import.meta.url).pathname);
const fails = ({ failure }: Ordered): boolean => failure !== undefined;

interface Wanted { spec: Spec; inside?: RegExp; orders?: number; switches?: number; isolation?: Isolation; prepare?: (dba: Session) => Promise<void> }

/** Explores a spec in a database of its own, as a superuser; `prepare` may take a guard away. */
const explored = <Result = Explored<Ordered>>(
    { spec, inside, orders = 200, switches, isolation = 'read committed', prepare }: Wanted,
    then: (found: Explored<Ordered>, run: Parameters<Parameters<typeof withOrders>[4]>[0]) => Promise<Result>,
): Promise<Result> => withTestDatabase((database) => withSessions(database.admin, ['dba'], async ({ dba }) => {
    await prepare?.(dba);
    return withOrders(database, spec, inside, isolation, async (run) => then(await explore(run, { orders, switches, seed: 1 }, fails), run));
}));

describe('steps', () => {
    test('CREATE TABLE IF NOT EXISTS fails in an order, which is made small, printed, and fails when it is run again', () =>
        explored({ spec: specOf('if_not_exists') }, async ({ runs }, run) => {
            const failed = runs.find(({ outcome }) => fails(outcome));
            expect(failed?.outcome.errors.map(({ code }) => code)).toEqual(['23505']);
            const { turns } = await minimise(run, failed?.turns ?? [], fails, 50);
            const spec = specOf('if_not_exists');
            const order = spelledOrder(spec, turns);
            const again = await run(follow(parsedOrder(spec, order.split(' '))));
            expect(fails(again.outcome)).toBe(true);
            expect(script(spec, again.outcome)).toContain('b: waits for a');
        }));

    test.each(isolationLevels)('two who ensure one role: no order of all fails under %s', (isolation) =>
        explored({ spec: specOf('ensure_role'), isolation }, ({ runs, complete }) => {
            expect(complete).toBe(true);
            expect(runs.map(({ outcome }) => outcome.failure)).toEqual(runs.map(() => undefined));
            return Promise.resolve();
        }));
});

test('who waits for one that has ended its steps is told when nothing moves, and the next order is not held up', () => {
    const steps = [{ name: 'begin', sql: 'begin' }, { name: 'lock', sql: 'select pg_advisory_xact_lock(1)' }];
    const spec: Spec = { ...emptySpec('spec.sql'), sessions: [{ name: 'a', steps }, { name: 'b', steps }] };
    return withTestDatabase((database) => withOrders(database, spec, undefined, 'read committed', async (run) => {
        for (const order of [[0, 0, 1, 1], [1, 1, 0, 0]]) {
            const { outcome } = await run(follow(order));
            expect(outcome).toMatchObject({ stuck: true, failure: expect.stringMatching(/^nothing has moved for 0.5 s: .*(a is waiting, b is done, its transaction open|a is done, its transaction open, b is waiting)$/) as string });
        }
    }, 500));
});

describe('inside of functions', () => {
    test('all of ours can be opened, each of their statements', () => withTestDatabase(({ admin }) => withSessions(admin, ['dba'], async ({ dba }) => {
        const { functions, closed } = await addPauses(dba.sql, /_v1$/);
        expect(closed).toEqual([]);
        expect([...functions].filter(([, { without }]) => without.length)).toEqual([]);
        expect(await dba.run(`select count(*)::int as n from pg_proc as p join pg_language as l on l.oid = p.prolang
            where p.pronamespace = 'ensure'::regnamespace and l.lanname = 'plpgsql'`)).toEqual([{ n: functions.size }]);
    })));

    const inside = /^_(settle|make)_changes|^_diff_roles|^_pause/;

    test.each(isolationLevels)('two who ensure one role, stopped at every statement: no order of a sample fails under %s', (isolation) =>
        explored({ spec: specOf('ensure_role'), inside, orders: 6, switches: 2, isolation }, ({ runs, diverged }) => {
            expect(runs.map(({ outcome }) => outcome.failure)).toEqual(runs.map(() => undefined));
            expect(diverged).toBe(0);
            expect(runs[0]?.turns.length).toBeGreaterThan(50);
            return Promise.resolve();
        }), 120_000);

    test('negative control: without what handles a role that another made, an order is found that fails', () =>
        explored({
            spec: specOf('ensure_role'), inside, orders: 60, switches: 2,
            prepare: (dba) => withoutGuard(dba, '_settle_changes_v1', 'when duplicate_object or unique_violation then', 'when division_by_zero then'),
        }, ({ runs }) => {
            expect(runs.at(-1)?.outcome.failure).toMatch(/42710|23505/);
            return Promise.resolve();
        }), 120_000);
});

test('what is printed of a step is on one line as far as it stays the statement that was sent', async () => {
    const statements = [
        "select 1 -- don't\n   , 2",
        "select 'a  -- b\n c' as one, /* it's\n  */ E'it\\'s  -- ' as \"a  -- b\" -- $$ '\n, $x$'$x$ as three\n-- the end",
        "do $$ -- don't\n begin\n perform set_config('race.said', 'a  b', false); -- then\n end $$; select current_setting('race.said')",
    ];
    const spec: Spec = { ...emptySpec('spec.sql'), sessions: statements.map((sql, place) => ({ name: `s${place}`, steps: [{ name: `s${place}1`, sql }] })) };
    await withTestDatabase((database) => withOrders(database, spec, undefined, 'read committed', async (run) => {
        const text = script(spec, (await run(follow([0, 1, 2]))).outcome);
        expect(text).toContain("s0: s01: select 1 -- don't\n, 2\n");
        await withSessions(database.url, ['owner'], async ({ owner }) => {
            for (const [place, statement] of statements.entries()) {
                const [, printed = ''] = new RegExp(`^ *s${place}: s${place}1: ([^]*?)\n *s${place}: s${place}1 ended: ok$`, 'm').exec(text) ?? [];
                expect(await owner.run(printed)).toEqual(await owner.run(statement));
            }
        });
    }));
});
