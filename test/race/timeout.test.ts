import { expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { clientName } from '../../scripts/harness/stampede.js';
import { patient } from '../../scripts/race/patience.js';
import { emptySpec, readSpec, type Spec } from '../../scripts/race/spec.js';
import { stampeded } from '../../scripts/race/stampeded.js';
import { pooled, withTestDatabase } from '../context.js';

const keptLock = readSpec(new URL('specs/kept_lock.sql', import.meta.url).pathname);
const race = { rounds: 3, isolation: 'read committed', timeout: 1 } as const;
const advisory = "select l.pid from pg_locks as l join pg_database as d on d.oid = l.database where d.datname = current_database() and l.locktype = 'advisory'";

test('who waits is told, with whom it waits for, and cancelled', () => withTestDatabase(({ admin }) => withSessions(admin, ['a', 'b'], async ({ a, b }) => {
    const patience = patient(admin, 1);
    await a.run(`set application_name to '${clientName}0'; select pg_advisory_lock(1)`);
    await b.run(`set application_name to '${clientName}1'`);
    const waiting = b.start('select pg_advisory_lock(1)');
    await waiting.blockedBy(a);
    patience.begin(7);
    patience.began(1, 'step second');
    expect((await waiting.outcome()).code).toBe('57014');
    patience.ended(1);
    await patience.end();
    expect(patience.lost()).toBe('nothing has moved for 1 s in round 7: client 1 is in step second, waits for client 0');
})));

test('clients at once, one of whom waits for a lock that another keeps: the round is ended, told with client and step, and the last; no lock is left', () =>
    withTestDatabase(async (database) => {
        const found = await stampeded(keptLock, database, { ...race, clients: 2 });
        expect(found).toMatchObject({ rounds: 0, calls: 2, invariants: [] });
        expect(found.codes['57014']).toBeGreaterThan(0);
        expect(found.failure).toMatch(/^nothing has moved for 1 s in round 0: .*client 1 is in step wait of session b/);
        await withSessions(database.admin, ['dba'], async ({ dba }) => {
            expect(await dba.run(advisory)).toEqual([]);
        });
    }));

test('control: of the same spec what does not wait is not ended', () => withTestDatabase(async (database) => {
    const found = await stampeded({ ...keptLock, sessions: keptLock.sessions.slice(0, 1), invariants: [] }, database, { ...race, clients: 1, timeout: 60 });
    expect(found).toMatchObject({ rounds: 3, codes: { ok: 3 }, failure: undefined });
}));

const waitsForSetup: Spec = {
    ...emptySpec('spec.sql'), setup: ['select pg_advisory_lock(1)'],
    sessions: [{ name: 'a', steps: [{ name: 'first', sql: "set application_name to 'mine'; select pg_advisory_xact_lock(1)" }, { name: 'never', sql: 'select 1' }] }],
};

test('behind PgBouncer, and of another name: those too who come to the server when others are ended', (context) => withTestDatabase(async (database) => {
    const found = await stampeded(waitsForSetup, database, { ...race, clients: 5, pooler: pooled(context, database) });
    expect(found).toMatchObject({ rounds: 0, calls: 5, codes: { 57014: 5 } });
    expect(found.failure).toMatch(/^nothing has moved for 1 s in round 0: (client \d is in step first of session a.*){5}$/);
}));

test('setup waits no longer for a lock that a client keeps', () => withTestDatabase(async (database) => {
    const spec: Spec = { ...emptySpec('spec.sql'), setup: ['select pg_advisory_xact_lock(1)'], sessions: [{ name: 'a', steps: [{ name: 'a1', sql: 'select pg_advisory_lock(1)' }] }] };
    await expect(stampeded(spec, database, { ...race, clients: 1 })).rejects.toThrow(/setup failed with 55P03/);
}));
