import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { aftermath, pictureOf } from '../../scripts/harness/aftermath.js';
import { clientProcess } from '../../scripts/harness/faults.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { cleanup, targetOf, targets } from '../../scripts/harness/targets.js';
import { stateFolder } from '../../scripts/database.js';
import { findPgBouncer, startPooler, type Pooler } from '../../scripts/pooler.js';
import { missing, pooled, surroundings, withTestDatabase } from '../context.js';
import { complaints, steps } from './naive.js';
import { allWaitFor, oneMadeIt, patient, sharedFaults, struck, waiterNames, type Creator, type World } from './steps.js';

let world: World;
sharedFaults((given) => (world = given));

const named = targets.map((target) => [target.name, target] as const);
const kill = async (creator: Creator): Promise<void> => void await creator.process?.kill();
const worksOn = async ({ pid }: Creator): Promise<void> => {
    expect(await world.dba.run(`select state from pg_stat_activity where pid = ${pid}`)).toEqual([{ state: 'active' }]);
};

describe('the process of the creator is killed by SIGKILL while 15 wait', () => {
    test.each(named)('idle in its transaction: the server reads the end of the connection and rolls back: %s', async (_name, target) => {
        expect(await struck(world, { target, moment: 'after', asProcess: true, strike: kill })).toEqual(oneMadeIt);
    });

    const held = named.filter(([, { halfway }]) => halfway !== 'nowhere');
    const some = held.filter(([name]) => /ensure_(partitions|unique|row|only|owner)_v1/.test(name));
    test.each(some)('inside the call, with client_connection_check_interval: the server looks, and rolls back: %s', async (_name, target) => {
        expect(await struck(world, { target, moment: 'inside', asProcess: true, first: "set client_connection_check_interval = '50ms'", strike: kill })).toEqual(oneMadeIt);
    });

    test.each(some)('inside the call, in a transaction, without: the server works on, then rolls back: %s', async (_name, target) => {
        expect(await struck(world, { target, moment: 'inside', asProcess: true, strike: async (creator) => {
            await kill(creator);
            await worksOn(creator);
            await world.dba.run('select pg_advisory_unlock_all()');
        } })).toEqual(oneMadeIt);
    });

    test.each(held)('inside the call, in autocommit, without: the server finishes it for nobody, and commits: all 15 find it: %s', async (_name, target) => {
        expect(await struck(world, { target, moment: 'inside', asProcess: true, autocommit: true, strike: async (creator) => {
            await kill(creator);
            await worksOn(creator);
            await world.dba.run('select pg_advisory_unlock_all()');
        } })).toEqual({ ...oneMadeIt, makers: 0 });
    });
});

test('control: a session lock taken through PgBouncer outlives the process that took it', (context) => withTestDatabase((database) => (
    withSessions(database.admin, ['dba'], async ({ dba }) => {
        expect(await complaints(dba, 'naive', async (_id, check) => {
            const client = clientProcess(pooled(context, database), 'naive');
            expect((await client.attempt('select pg_advisory_lock(5)')).code).toBe('ok');
            await client.kill();
            return check();
        })).toContainEqual(expect.stringContaining('lock left: advisory ExclusiveLock 0 5'));
    }))));

describe('the pooler is killed and started again', () => {
    let pooler: Pooler | undefined;
    let noPooler = '';
    const admin = new URL(surroundings.server.admin);
    const [user, password] = [admin.username, admin.password].map(decodeURIComponent) as [string, string];
    beforeAll(async () => {
        const found = await findPgBouncer(stateFolder());
        if ('missing' in found) noPooler = found.missing;
        else pooler = await startPooler({ pgbouncer: found, server: { host: admin.hostname, port: Number(admin.port || 5432) }, users: [{ name: user, password }], poolSize: 20 });
    });
    afterAll(() => pooler?.stop());

    test.each(named)('while 15 wait through it: who waited goes on in the server, one makes it, the next call finds it: %s', async (_name, target) => {
        const id = world.next();
        await world.dba.run(target.setup(id));
        const before = await pictureOf(world.dba, target, id);
        const url = pooler?.url(new URL(world.url).pathname.slice(1), user, password) ?? '';
        expect(noPooler).toBe('');
        await withSessions(url, ['creator', ...waiterNames] as const, async (sessions: Record<string, Session>) => {
            const creator = sessions.creator as Session;
            await creator.run(`begin; ${target.call(id)}`);
            const [row] = await creator.run('select pg_backend_pid() as pid');
            const waiting = waiterNames.map((name) => (sessions[name] as Session).start(patient(target, id)));
            await allWaitFor(world.dba, Number(row?.pid));
            await pooler?.restart();
            for (const step of waiting) expect((await step.outcome()).code).toMatch(/CONNECTION_CLOSED|ECONNRESET/);
        });
        expect(await aftermath(world.dba, target, id, before)).toMatchObject({ violations: [], next: expect.arrayContaining(['exists']) as string[] });
        await withSessions(url, ['next'], async ({ next }) => {
            expect(new Set((await next.run(target.call(id))).map(({ outcome }) => outcome))).toEqual(new Set(['exists']));
        });
        await world.dba.run(cleanup(id));
    });

    test('control: between two statements, each a transaction, it leaves one half', async (context) => {
        if (!pooler) return missing(context, noPooler);
        const url = pooler.url(new URL(world.url).pathname.slice(1), user, password);
        expect(await complaints(world.dba, world.next(), (id, check) => withSessions(url, ['a'], async ({ a }) => {
            await a.run(steps(id)[0]);
            await pooler?.restart();
            return check();
        }))).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
    });
});

test('the targets differ in what they make', () => {
    expect(new Set(targets.map(({ name }) => name)).size).toBe(targets.length);
    expect(() => targetOf('none')).toThrow('no target none');
});
