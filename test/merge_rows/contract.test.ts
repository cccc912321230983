import { describe, expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { expectError, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withRole } from '../ensure_unique/planned.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';
import { after, before, counts, exists, family, locksOf, merge, plan } from './merging.js';

const call = merge(1, [2, 3]);
const locks = 'select count(*)::int as n from pg_locks where pid = pg_backend_pid() and mode <> \'SIReadLock\' and (locktype = \'advisory\' or relation >= 16384)';

describe('when no loser is there', () => {
    test.each(['read committed', 'repeatable read', 'serializable'])('a read-only %s transaction: exists; no lock is kept, no transaction id is taken', (level) =>
        withOwner(async (owner) => {
            await owner.run(family);
            await owner.run(call);
            await owner.run(`begin isolation level ${level} read only`);
            expect(await owner.run(call)).toEqual(exists);
            expect(await owner.run(locks)).toEqual([{ n: 0 }]);
            expect(await owner.run('select pg_current_xact_id_if_assigned()::text as xid')).toEqual([{ xid: null }]);
            await owner.run('commit');
        }));

    test('while another session holds EXCLUSIVE on the tables: exists at once', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            await a.run(call);
            await a.run('begin; lock table t, c, g in exclusive mode');
            expect(await b.run(merge(1, [2, 3], ", max_wait => '0'"))).toEqual(exists);
            await a.run('commit');
        })));

    test('behind ACCESS EXCLUSIVE it waits up to max_wait, then 55P03 names the holder', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            await a.run('begin; lock table t in access exclusive mode');
            expect(expectError(await b.attempt(merge(1, [77], ", max_wait => '300 ms'")), '55P03').detail).toContain(`pid ${a.pid}`);
            const waiting = b.start(merge(1, [77]));
            await waiting.blockedBy(a);
            await a.run('commit');
            expect((await waiting.outcome()).rows).toEqual(exists);
        })));

    test('negative control: without giving it back the look keeps ACCESS SHARE', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            await withoutGuard(owner, '_look_ahead_v1', "raise exception using errcode = 'NS100';", 'losers := v_found.losers; keepers := v_found.keepers;');
            await owner.run('begin');
            expect(await owner.run(merge(1, [77]))).toEqual(exists);
            expect((await owner.run(locks))[0]?.n).toBeGreaterThan(0);
            await owner.run('commit');
        }));

    test('on a standby: exists; where a loser is there 25006 says to call on the primary; the plan works', (context) => {
        if (!surroundings.embedded) context.skip('needs servers of its own; DATABASE_URL is set');
        return withStandby({}, async ({ primary, standby, caughtUp }) => {
            await install(primary.url);
            await withSessions(primary.url, ['dba'], ({ dba }) => dba.run(family));
            await caughtUp();
            await withSessions(standby.url, ['reader'], async ({ reader }) => {
                expect(await reader.run(merge(1, [77]))).toEqual(exists);
                expect(expectError(await reader.attempt(call), '25006').hint).toContain('primary');
                expect(await reader.run(plan(1, [2, 3]))).toHaveLength(1);
            });
        });
    });
});

describe('when one is', () => {
    test('what it holds until commit: EXCLUSIVE on target and what refers to it, on all levels that may be merged', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create table h (id int primary key, g_id int references g); create table other (id int); create table up (id int primary key);
                alter table t add up int references up`);
            await owner.run('begin');
            await owner.run(call);
            expect(await owner.run(`select c.relname::text as name, max(l.mode) filter (where l.mode = 'ExclusiveLock') as mode from pg_locks as l join pg_class as c on c.oid = l.relation
                where l.pid = pg_backend_pid() and l.mode in ('ExclusiveLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock') and c.relkind in ('r', 'p') group by 1 order by 1`))
                .toEqual(['c', 'g', 't'].map((name) => ({ name, mode: 'ExclusiveLock' })));
            await owner.run('rollback');
        }));

    test('readers go on while the transaction is open, writers wait', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(family);
            await a.run('begin');
            await a.run(call);
            expect(await b.run('select count(*)::int as n from t')).toEqual([{ n: 4 }]);
            const writer = c.start("update t set name = 'x' where id = 4");
            await writer.blockedBy(a);
            await a.run('commit');
            expect((await writer.outcome()).code).toBe('ok');
        })));

    test('read-only: 25006, nothing changes', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            await owner.run('begin read only');
            expect(expectError(await owner.attempt(call), '25006').hint).toContain('read-write');
            await owner.run('rollback');
            expect(await owner.run(counts)).toEqual(before);
        }));

    test('ensure.ddl = off does not matter: rows change, and no schema', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; set ensure.ddl = off`);
            await owner.run(call);
            expect(await owner.run(counts)).toEqual(after);
        }));

    test('settings are put back, also after an error: lock_timeout and the isolation of the session are what they were', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; set lock_timeout = '7s'; set row_security = on; set datestyle = 'SQL, DMY'`);
            const shown = "select current_setting('lock_timeout') as l, current_setting('row_security') as r, current_setting('datestyle') as d";
            const set = await owner.run(shown);
            await owner.run('begin; savepoint s');
            await owner.attempt(merge(77, [2]));
            await owner.run('rollback to s');
            expect(await owner.run(shown)).toEqual(set);
            await owner.run(call);
            expect(await owner.run(shown)).toEqual(set);
            await owner.run('commit');
            expect(await owner.run(shown)).toEqual(set);
        }));

    test('negative control: without putting it back lock_timeout stays', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; set lock_timeout = '7s'`);
            await withoutGuard(owner, '_merge_locked_v1', "perform set_config('lock_timeout', c_lock_timeout, true);");
            await owner.run('begin');
            await owner.run(call);
            expect(await owner.run("select current_setting('lock_timeout') as l")).not.toEqual([{ l: '7s' }]);
            await owner.run('commit');
        }));

    test('an attempt that is rolled back keeps no lock: 55P03 within a transaction that goes on', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            await a.run('begin; update g set id = id');
            await b.run('begin; savepoint s');
            expectError(await b.attempt(merge(1, [2, 3], ", max_wait => '300 ms'")), '55P03');
            await b.run('rollback to s');
            expect(await a.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await a.run('rollback');
        })));

    test('rights: DELETE on the table, SELECT and UPDATE on what refers to it, UPDATE for a policy; row security is an error', (context) =>
        withRole(context, async ({ owner, writer }, role) => {
            await owner.run(`${family}; grant usage on schema ensure to ${role}; grant select on t, c, g to ${role}; grant update on c, g to ${role}`);
            expectError(await writer.attempt(call), '42501');
            await owner.run(`grant delete on t to ${role}; revoke update on g from ${role}`);
            for (const grant of ['update on g', 'delete on c']) { // to lock it; where rows become equal
                expect(expectError(await writer.attempt(call), '42501').hint).toContain('DELETE');
                await owner.run(`grant ${grant} to ${role}`);
            }
            await owner.run(`revoke select on t from ${role}`);
            expect(expectError(await writer.attempt(call), '42501').hint).toContain('SELECT');
            await owner.run(`grant select on t to ${role}; revoke update on c from ${role}`);
            expectError(await writer.attempt(call), '42501');
            await owner.run(`grant update on c to ${role}`);
            expectError(await writer.attempt(merge(1, [2, 3], `, '{"score": "max"}'`)), '42501');
            await owner.run('alter table c enable row level security');
            expectError(await writer.attempt(call), '42501');
            await owner.run('alter table c disable row level security; alter table t enable row level security; create policy p on t using (id <> 2)');
            expectError(await writer.attempt(call), '42501');
            await owner.run('alter table t disable row level security');
            expect((await writer.attempt(call)).code).toBe('ok');
            expect(await owner.run(counts)).toEqual(after);
        }));

    test('rights on a partitioned table: on its partitions too, which are locked', (context) =>
        withRole(context, async ({ owner, writer }, role) => {
            await owner.run(`create table t (id int primary key) partition by range (id); create table t1 partition of t default; insert into t values (1), (2);
                grant usage on schema ensure to ${role}; grant select, delete on t to ${role}`);
            expectError(await writer.attempt(merge(1, 2)), '42501');
            await owner.run(`grant delete on t1 to ${role}`);
            expect((await writer.attempt(merge(1, 2))).code).toBe('ok');
        }));
});
