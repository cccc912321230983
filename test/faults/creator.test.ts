import { describe, expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { targetOf, targets } from '../../scripts/harness/targets.js';
import { share } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { complaints, steps } from './naive.js';
import { asleep, oneMadeIt, sharedFaults, struck, type Creator, type World } from './steps.js';

let world: World;
sharedFaults((given) => (world = given));

const timeouts = "select current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') as timeouts";
/** Its transaction is over, its session stays: with the settings it began with. */
const rolledBack = async (creator: Creator): Promise<void> => {
    await creator.run('rollback');
    expect(await creator.run(timeouts)).toEqual([{ timeouts: '0 0' }]);
};
const faults: Record<string, (creator: Creator) => Promise<void>> = {
    'rolls back': rolledBack,
    'is cancelled': async (creator) => {
        const [row] = await world.dba.run(`select state from pg_stat_activity where pid = ${creator.pid}`);
        if (row?.state !== 'active') await asleep(world.dba, creator); // an idle session has nothing that could be cancelled
        await world.faults.cancel(creator);
        await rolledBack(creator);
    },
    'hits statement_timeout': async (creator) => {
        expect((await creator.start("set local statement_timeout = '1ms'; select pg_sleep(600)").outcome()).code).toBe('57014');
        await rolledBack(creator);
    },
    'is terminated': (creator) => world.faults.terminate(creator),
};
const inside = ['is cancelled', 'is terminated'];
/** In the other two faults the moment is the same for all: the call has returned. One of each family. */
const representative = targets.filter(({ name }) => /partitions_v1|unique|row_v1|grants/.test(name));

describe.each(Object.keys(faults))('the creator %s while 15 wait: one of them makes it, the others find it, nothing is left', (fault) => {
    test.each(share(inside.includes(fault) ? targets : representative).map((target) => [target.name, target] as const))('%s', async (_name, target) => {
        const moment = inside.includes(fault) && target.halfway !== 'nowhere' ? 'inside' : 'after';
        expect(await struck(world, { target, moment, strike: faults[fault] ?? (() => Promise.reject(new Error(fault))) })).toEqual(oneMadeIt);
    });
});

describe('negative controls: the same check complains', () => {
    const naive = (body: Parameters<typeof complaints>[2]): Promise<string[]> => complaints(world.dba, world.next(), body);

    test('of a session lock that outlives a rollback', async () => {
        expect(await naive((id, check) => withSessions(world.url, ['a'], async ({ a }) => {
            await a.run(`begin; select pg_advisory_lock(5); insert into ${id}.p select where false`);
            await a.run('rollback');
            return check();
        }))).toContainEqual(expect.stringContaining('lock left: advisory ExclusiveLock 0 5'));
    });

    test('of an invalid index that a cancelled concurrent build leaves', async () => {
        expect(await naive((id, check) => withSessions(world.url, ['a', 'writer'], async ({ a, writer }) => {
            await a.run(`create table ${id}.p_0 partition of ${id}.p for values from (0) to (10)`);
            await writer.run(`begin; insert into ${id}.p values (1)`);
            const build = a.start(`create index concurrently on ${id}.p_0 (v)`);
            await build.blockedBy(writer);
            await world.faults.cancel(a);
            expect((await build.outcome()).code).toBe('57014');
            await writer.run('rollback');
            return check();
        }))).toContainEqual(expect.stringContaining('invalid index:'));
    });

    test.each(['hits statement_timeout', 'is terminated'])('of a table that is not attached, when the creator %s between two statements', async (fault) => {
        expect(await naive((id, check) => withSessions(world.url, ['a', 'reader'], async ({ a, reader }) => {
            const [create, attach] = steps(id);
            await a.run(create);
            if (fault === 'is terminated') await world.faults.terminate(a);
            else {
                await reader.run(`begin; lock table ${id}.p`);
                await a.run("set statement_timeout = '1ms'");
                expect((await a.attempt(attach)).code).toBe('57014');
                await reader.run('rollback');
            }
            return check();
        }))).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
    });

    test.each<[string, string, string, string, string, object]>([
        ['a session lock in place of that of the transaction', 'ensure_partitions_v1', '_take_locks_v1', 'pg_advisory_xact_lock', 'pg_advisory_lock',
            { violations: expect.arrayContaining([expect.stringContaining('lock left: advisory')]) as string[] }],
        ['what another has made taken for an error', 'ensure_role_v1', '_settle_changes_v1', 'duplicate_object or unique_violation', 'division_by_zero',
            { errors: expect.toSatisfy((errors: string[]) => errors.length > 0 && errors.every((error) => error.includes('23505'))) as string[], makers: 1 }], // who looks after the one that made it finds it
    ])('of a function without its guard: %s', async (_what, name, helper, guard, instead, complaint) => {
        const [row] = await world.dba.run(`select pg_get_functiondef('ensure.${helper}'::regproc) as source`);
        await withoutGuard(world.dba, helper, guard, instead);
        try {
            expect(await struck(world, { target: targetOf(name), moment: 'after', strike: async (creator) => void await creator.run('rollback'), patienceMs: 500 })).toMatchObject(complaint);
        } finally {
            await world.dba.run(String(row?.source));
            for (const waiter of world.waiters) await waiter.run('select pg_advisory_unlock_all()');
        }
    });
});
