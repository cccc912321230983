import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { archive, family, merge, run, snapshot } from './merging.js';

const merged = async (session: Session, statement: string): Promise<string> =>
    String((await session.run(statement)).find(({ outcome }) => outcome === 'archived')?.object);
const undo = (id: string, rest = ''): string => `select object, outcome, row_count::int from ensure.undo_merge_rows_v1('kept', '${id}'${rest})`;
const setup = `${family}; ${archive}`;
const policy = `, '{"name": "coalesce", "score": "sum", "tags": "union"}', 'kept'`;

describe('a run is undone', () => {
    test('losers, keepers, children and merged children are what they were; the run leaves the archive', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            const before = await snapshot(owner, 't', 'c', 'g');
            const done = await owner.run(merge(1, [2, 3], policy));
            expect(done.slice(-2)).toMatchObject([{ object: 'public.t', outcome: 'updated', row_count: 1 }, { outcome: 'archived', row_count: 10 }]);
            const id = String(done.at(-1)?.object);
            expect(await owner.run("select old ->> 'score' as old, new ->> 'score' as new, key from kept where action = 'updated'"))
                .toEqual([{ old: '1', new: '6', key: { id: '1' } }]);
            expect(await run(owner, undo(id))).toEqual(['t inserted 2', 't updated 1', 'c inserted 2', 'c moved 1', 'g moved 4']);
            expect(await snapshot(owner, 't', 'c', 'g')).toBe(before);
            expect(await owner.run('select count(*)::int as n from kept')).toEqual([{ n: 0 }]);
            expectError(await owner.attempt(undo(id)), '42704');
        }));

    test('a value of a unique column goes back to the loser', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int primary key, mail text unique, at timestamptz); insert into t values (1, null, '2026-01-01'), (2, 'b@x', 'infinity')`);
            const before = await snapshot(owner, 't');
            await owner.run("set datestyle = 'SQL, DMY'; set timezone = 'Asia/Kolkata'");
            const id = await merged(owner, merge(1, 2, `, '{"mail": "coalesce", "at": "max"}', 'kept'`));
            await owner.run("set datestyle = 'German'; set timezone = 'UTC'");
            await owner.run(undo(id));
            await owner.run('reset datestyle; reset timezone');
            expect(await snapshot(owner, 't')).toBe(before);
        }));

    test('of two runs that changed the same keeper the last has to be undone first: NS013 says which row', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            const before = await snapshot(owner, 't', 'c', 'g');
            const one = await merged(owner, merge(1, 2, policy));
            const two = await merged(owner, merge(1, 4, policy));
            expect(expectError(await owner.attempt(undo(one)), 'NS013').detail).toContain('{"id": "1"}');
            await owner.run(undo(two));
            await owner.run(undo(one));
            expect(await snapshot(owner, 't', 'c', 'g')).toBe(before);
        }));

    test('a column of the keeper without a policy may have changed since; one with a policy may not: NS013', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            const id = await merged(owner, merge(1, [2, 3], `, '{"score": "sum"}', 'kept'`));
            await owner.run("update t set name = 'new' where id = 1; update t set score = 7 where id = 1");
            expectError(await owner.attempt(undo(id)), 'NS013');
            await owner.run('update t set score = 6 where id = 1');
            await owner.run(undo(id));
            expect(await owner.run('select name, score from t where id = 1')).toEqual([{ name: 'new', score: 1 }]);
        }));

    test('losers whose place was taken: NS001, and nothing has changed', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            const id = await merged(owner, merge(1, [2, 3], policy));
            await owner.run("insert into t values (2, 'other')");
            const before = await snapshot(owner, 't', 'c', 'g');
            expectError(await owner.attempt(undo(id)), 'NS001');
            expect(await snapshot(owner, 't', 'c', 'g')).toBe(before);
        }));

    test('a keeper that is not archived all the same: NS012; negative control: without the keeper in the archive it stays changed', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            await withoutGuard(owner, '_merge_counted_v1', 'columns_policy, archive, run);\n        perform ensure._check_deferred_v1',
                'columns_policy, null, run);\n        perform ensure._check_deferred_v1');
            const id = await merged(owner, merge(1, [2, 3], policy));
            await owner.run(undo(id));
            expect(await owner.run('select score from t where id = 1')).toEqual([{ score: 6 }]);
        }));

    test('without a key nothing could be found again: 0A000 before anything is merged', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (code text unique, n int); insert into t values ('a', 1), ('b', 2)`);
            expectError(await owner.attempt(`select ensure.merge_rows_v1('t', '{"code": "a"}', '{"code": "b"}', '{"n": "sum"}', 'kept')`), '0A000');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 2 }]);
        }));
});

describe('locks and races', () => {
    test('a second caller waits for the first, then finds nothing of the run', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(setup);
            const id = await merged(a, merge(1, [2, 3], policy));
            await a.run('begin');
            await a.run(undo(id));
            const second = b.start(undo(id));
            await second.blockedBy(a);
            await a.run('commit');
            expectError(await second.outcome(), '42704');
        })));

    test('bad input, an old snapshot, a read-only transaction and who has written: 22004, NS011, 25006, NS003', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(setup);
            const id = await merged(a, merge(1, [2, 3], policy));
            expectError(await a.attempt("select * from ensure.undo_merge_rows_v1('kept', null)"), '22004');
            for (const [begin, code] of [['isolation level repeatable read', 'NS011'], ['read only', '25006']]) {
                await a.run(`begin ${begin}`);
                expectError(await a.attempt(undo(id)), String(code));
                await a.run('rollback');
            }
            await b.run('begin; update g set id = id');
            await a.run('begin; update t set name = name where id = 4');
            expectError(await a.attempt(undo(id, ", max_block => '200 ms'")), 'NS003');
            await a.run('rollback');
            expectError(await a.attempt(undo(id, ", max_wait => '300 ms'")), '55P03');
            await b.run('rollback');
            expect((await a.attempt(undo(id))).code).toBe('ok');
        })));
});
