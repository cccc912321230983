import { describe, expect, test } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { after, archive, before, counts, exists, family, locksOf, merge, merged, withTable } from './merging.js';

type Sessions = Record<'a' | 'b' | 'c' | 'dba', Session>;
const withFamily = (body: (sessions: Sessions) => Promise<void>): Promise<void> => withTable(['a', 'b', 'c'], family, body);
const call = merge(1, [2, 3]);

describe('two callers', () => {
    test('the second waits for the first, then returns exists and keeps no lock', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            expect(await a.run(call)).toEqual(merged);
            await b.run('begin');
            const second = b.start(call);
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).toEqual(exists);
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            expect(await dba.run(counts)).toEqual(after);
        }));

    test('when the first rolls back, the second does the work', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(call);
            const second = b.start(call);
            await second.blockedBy(a);
            await a.run('rollback');
            expect((await second.outcome()).rows).toEqual(merged);
            expect(await dba.run(counts)).toEqual(after);
        }));

    test('a policy that adds is done once', () =>
        withFamily(async ({ a, b, dba }) => {
            const adding = merge(1, [2, 3], `, '{"score": "sum"}'`);
            await a.run('begin');
            await a.run(adding);
            const second = b.start(adding);
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).toEqual(exists);
            expect(await dba.run('select score from t where id = 1')).toEqual([{ score: 6 }]);
        }));

    test('who names other losers of the same keeper waits, then merges them too', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(merge(1, 2, `, '{"score": "sum"}'`));
            const second = b.start(merge(1, 4, `, '{"score": "sum"}'`));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).code).toBe('ok');
            expect(await dba.run('select id, score from t order by id')).toEqual([{ id: 1, score: 10 }, { id: 3, score: null }]);
        }));

    test('negative control: without the look under the locks it works on rows that are gone, and fails', () =>
        withFamily(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_merge_locked_v1', /\n {16}v_found := ensure\._look_merge_v1[^;]*;\n {12}end if;/, '\n            end if;');
            await a.run('begin');
            await a.run(call);
            const second = b.start(call);
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), 'NS012');
        }));

    test('whose keeper the first merged into another row: P0002 when its loser is there, exists when it is not', () =>
        withFamily(async ({ a, b }) => {
            await a.run('begin');
            await a.run(merge(4, 1));
            const second = b.start(merge(1, 2));
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), 'P0002');
            await b.run(merge(4, [2, 3]));
            expect(await b.run(merge(1, [2, 3]))).toEqual(exists);
        }));

    test('a winner that never commits: 55P03 within max_wait names it; nothing is left behind', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin');
            await a.run(call);
            await b.run('begin');
            const began = Date.now();
            const { detail, hint } = expectError(await b.attempt(merge(1, [2, 3], `, max_wait => '1200 ms'`)), '55P03');
            expect(Date.now() - began).toBeGreaterThanOrEqual(1190);
            expect(detail).toContain(`pid ${a.pid}`);
            expect(hint).toContain('max_wait');
            expect(await dba.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
            await a.run('rollback');
        }));

    test.each(['cancel', 'terminate'] as const)('the first is hit by %s while two wait: one of them does the work, nothing of the first is left', (fault) =>
        withTable(['a', 'b', 'c'], family, ({ a, b, c, dba }, { admin }) => withFaults(admin, async (faults) => {
            await dba.run('create table r (x int); insert into r values (1)');
            await dba.run('begin; update r set x = 2');
            await a.run('begin');
            await a.run(call);
            const stuck = a.start('update r set x = 3');
            await stuck.blockedBy(dba);
            const waiting = [b, c].map((session) => session.start(call));
            await waiting[0]?.blockedBy(a);
            await faults[fault](a);
            await stuck.outcome();
            await a.attempt('rollback');
            const outcomes = await Promise.all(waiting.map(async (step) => (await step.outcome()).rows.length));
            expect(outcomes.sort()).toEqual([1, merged.length]);
            await dba.run('rollback');
            expect(await dba.run(counts)).toEqual(after);
        })));
});

describe('writers', () => {
    const halted = `create function halt() returns trigger language plpgsql set lock_timeout = 0 as $$ begin
            perform pg_advisory_xact_lock(42); return null; end $$;
        create trigger halt after delete on t for each statement execute function halt()`;
    /** The call stands after it has deleted the losers until dba lets it go. */
    const midway = (write: string, body: (sessions: Sessions, code: string) => Promise<void>): Promise<void> =>
        withFamily(async (sessions) => {
            const { a, b, dba } = sessions;
            await dba.run(`${halted}; select pg_advisory_lock(42)`);
            const merging = a.start(call);
            await merging.blockedBy(dba);
            const writer = b.start(write);
            await writer.blockedBy(a);
            await dba.run('select pg_advisory_unlock(42)');
            expect((await merging.outcome()).rows).toEqual(merged);
            await body(sessions, (await writer.outcome()).code);
        });

    test.each([
        ['inserts a child of a loser', 'insert into c values (99, 2)'],
        ['moves a child to a loser', 'update c set t_id = 2 where id = 14'],
    ])('who %s while losers are merged waits, then gets 23503; no child is lost', (_what, write) =>
        midway(write, async ({ dba }, code) => {
            expect(code).toBe('23503');
            expect(await dba.run(counts)).toEqual(after);
        }));

    test.each([
        ['updates a loser', "update t set name = 'late' where id = 2"],
        ['locks a loser', 'select from t where id = 2 for update'],
        ['inserts a grandchild of a child that is merged', 'insert into g values (999, 12)'],
    ])('who %s while losers are merged waits, and nothing is lost', (_what, write) =>
        midway(write, async ({ dba }, code) => {
            expect(code).toBe('ok');
            const [row] = await dba.run('select count(*)::int as n from g left join c on c.id = c_id where c.id is null');
            expect(row).toEqual({ n: 0 });
        }));

    test('a child of a loser that is inserted and not yet committed: the call waits for it and moves it too', () =>
        withFamily(async ({ a, b, dba }) => {
            await b.run("begin; insert into c values (99, 2, 'late'); insert into g values (990, 99)");
            const merging = a.start(call);
            await merging.blockedBy(b);
            await b.run('commit');
            expect((await merging.outcome()).code).toBe('ok');
            expect(await dba.run('select t_id from c where id = 99')).toEqual([{ t_id: 1 }]);
        }));

    test('negative control: with locks that writers get by it goes with the loser, and what refers to it', () =>
        withFamily(async ({ a, b, dba }) => {
            await withoutGuard(dba, '_lock_attempt_v1', /select l\.relation, l\.mode into[^;]*;/);
            await withoutGuard(dba, '_check_counts_v1', 'if v_wrong is not null', 'if false');
            await b.run("begin; insert into c values (99, 2, 'late'); insert into g values (990, 99)");
            const merging = a.start(merge(1, [2, 3], `, max_wait => '1 min'`));
            await merging.blockedBy(b); // the server's own check of the key, once it is deleted
            await b.run('commit');
            expect((await merging.outcome()).code).toBe('ok');
            expect(await dba.run('select count(*)::int as n from c where id = 99')).toEqual([{ n: 0 }]);
        }));

    test('a table that begins to refer to losers while the call waits is locked and moved as well', () =>
        withFamily(async ({ a, b, dba }) => {
            await b.run('begin; create table late (t_id int references t on delete cascade); insert into late values (2)');
            const merging = a.start(call);
            await merging.blockedBy(b);
            await b.run('commit');
            expect((await merging.outcome()).code).toBe('ok');
            expect(await dba.run('select t_id from late')).toEqual([{ t_id: 1 }]);
        }));

    test('a loser that comes in while the call waits is merged too; a keeper that goes is P0002', () =>
        withFamily(async ({ a, b, dba }) => {
            await b.run("begin; insert into t values (5, 'five', 5)");
            const merging = a.start(merge(1, [2, 5]));
            await merging.blockedBy(b);
            await b.run('commit');
            expect((await merging.outcome()).rows.at(-1)).toEqual({ object: 'public.t', outcome: 'deleted', row_count: 2 });
            await b.run('begin; delete from t where id = 4');
            const second = a.start(merge(4, 3));
            await second.blockedBy(b);
            await b.run('commit');
            expectError(await second.outcome(), 'P0002');
            expect(await dba.run('select id from t order by id')).toEqual([{ id: 1 }, { id: 3 }]);
        }));

    test('a caller that has already written never waits while it holds: NS003 says to call before writing', () =>
        withFamily(async ({ a, b, dba }) => {
            await b.run('begin; update c set tag = tag');
            await a.run("begin; insert into t values (9, 'nine')");
            const { hint } = expectError(await a.attempt(merge(1, [2, 3], `, max_wait => '5 s', max_block => '300 ms'`)), 'NS003');
            expect(hint).toContain('first write');
            await a.run('rollback');
            await b.run('rollback');
            expect(await dba.run(counts)).toEqual(before);
        }));

    test('a caller that has already written and finds the tables free merges, with its own rows', () =>
        withFamily(async ({ a, dba }) => {
            await a.run("begin; insert into c values (20, 3, 'own')");
            expect((await a.attempt(call)).code).toBe('ok');
            await a.run('commit');
            expect(await dba.run('select t_id from c where id = 20')).toEqual([{ t_id: 1 }]);
        }));

    test('two callers that have written to each other\'s tables: neither gets 40P01', () =>
        withFamily(async ({ a, b, dba }) => {
            await dba.run("create table o (id int primary key, t_id int references t); insert into o values (1, 2)");
            await a.run("begin; insert into o values (2, 1)");
            await b.run("begin; insert into c values (21, 4, 'own')");
            const outcomes = await Promise.all([a, b].map((session) => session.attempt(call)));
            const codes = outcomes.map(({ code }) => code).sort(); // one gives up, and its rollback lets the other through
            expect(['NS003,NS003', 'NS003,ok']).toContain(codes.join());
            await a.run('rollback');
            await b.run('rollback');
        }));

    test('a concurrent index build on a child is NS006 at once; the build is not harmed', () =>
        withFamily(async ({ a, b, c }) => {
            await a.run('begin; insert into c values (99, 4)');
            const build = c.start('create index concurrently late on c (tag)');
            await build.blockedBy(a);
            expectError(await b.attempt(call), 'NS006');
            await a.run('rollback');
            expect((await build.outcome()).code).toBe('ok');
        }));
});

describe('old snapshots', () => {
    test.each(['repeatable read', 'serializable'])('%s: NS011 when a loser is there, before anything changes; exists when none is', (level) =>
        withFamily(async ({ a, b, dba }) => {
            await a.run(`begin isolation level ${level}`);
            const { hint } = expectError(await a.attempt(call), 'NS011');
            expect(hint).toContain('READ COMMITTED');
            await a.run('rollback');
            expect(await dba.run(counts)).toEqual(before);
            await a.run(`begin isolation level ${level}; select from t`);
            await b.run(call);
            expectError(await a.attempt(call), 'NS011'); // as it sees them still
            await a.run('rollback');
            await a.run(`begin isolation level ${level}`);
            expect(await a.run(call)).toEqual(exists);
            await a.run('commit');
        }));

    test('READ COMMITTED with a cursor opened before: its snapshot does not matter', () =>
        withFamily(async ({ a, b, dba }) => {
            await a.run('begin; declare d cursor for select * from t; fetch 1 from d');
            await b.run("insert into c values (98, 3, 'z')");
            expect((await a.attempt(call)).code).toBe('ok');
            await a.run('commit');
            expect(await dba.run('select t_id from c where id = 98')).toEqual([{ t_id: 1 }]);
        }));

    test('negative control: without the guard a child committed after the snapshot is not moved, and the server refuses', () =>
        withFamily(async ({ a, b, dba }) => {
            await dba.run('alter table c drop constraint c_t_id_fkey, add foreign key (t_id) references t on delete cascade');
            await withoutGuard(dba, '_merge_guards_v1', /elsif current_setting\('transaction_isolation'\)[^;]*;/, '');
            await a.run('begin isolation level repeatable read; select from t');
            await b.run("insert into c values (97, 2, 'unseen')");
            expect((await a.attempt(call)).code).not.toBe('ok');
            await a.run('rollback');
        }));
});

test('with an archive two callers leave one run', () =>
    withTable(['a', 'b'], `${family}; ${archive}`, async ({ a, b, dba }) => {
        const kept = merge(1, [2, 3], `, archive => 'kept'`);
        await a.run('begin');
        await a.run(kept);
        const second = b.start(kept);
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows).toEqual(exists);
        expect(await dba.run('select count(distinct run)::int as runs, count(*)::int as n from kept')).toEqual([{ runs: 1, n: 9 }]);
    }));
