import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { run as runCommand } from '../migrate/context.js';
import { after, archive, counts, family, merge, plan, rows, run, snapshot } from './merging.js';

interface Row { step_number: number; statement: string; in_transaction: boolean; locks: string; why: string }

const ask = async (session: Session, query: string): Promise<Row[]> => await session.run(query) as unknown as Row[];

/** As psql's \gexec does, again until no row comes; how many statements there were each time. */
async function follow(session: Session, query: string): Promise<number[]> {
    const turns: number[] = [];
    for (;;) {
        const steps = await ask(session, query);
        if (!steps.length) return turns;
        turns.push(steps.length);
        for (const { statement } of steps) await session.run(statement);
    }
}

/** Groups of keepers 1 … n, each with three losers, whose values matter in their order. */
const groups = (n: number): string => `
    create table t (id int primary key, first text, most int, least int, total int, tags text[]);
    insert into t select i, case when i % 3 = 0 and i <= ${n} then 'own' when i > ${n} and i % 2 = 0 then 'of ' || i end, i % 7, 100 - i, i, array[i % 5, i % 3]::text[]
        from generate_series(1, ${4 * n}) as i;
    create table c (id int primary key, t int not null references t on delete cascade, tag int, unique (t, tag));
    insert into c select i, i, i % 4 from generate_series(1, ${4 * n}) as i`;
const lists = (n: number): [number[], number[]] => {
    const losers = Array.from({ length: 3 * n }, (_, i) => 4 * n - i); // from the last to the first
    return [losers.map((id) => (id - 1) % n + 1), losers];
};
const policy = `, '{"first": "coalesce", "most": "max", "least": "min", "total": "sum", "tags": "union"}'`;

describe('the statements', () => {
    test('none when no loser is there; one call for each batch, and what it locks', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            expect(await ask(owner, plan(1, [77]))).toEqual([]);
            expect(await ask(owner, plan([1, 1, 4], [2, 77, 3], `, batch => 1`))).toEqual([
                { step_number: 1, in_transaction: true, locks: 'EXCLUSIVE on public.t and what refers to it', why: '1 rows are merged',
                    statement: `select * from ensure.merge_rows_v1('public.t', '{"id": 1}', '[{"id": 2}]')` },
                { step_number: 2, in_transaction: true, locks: 'EXCLUSIVE on public.t and what refers to it', why: '1 rows are merged',
                    statement: `select * from ensure.merge_rows_v1('public.t', '{"id": 4}', '[{"id": 3}]')` },
            ]);
        }));

    test('groups are not split; of one that is larger than batch only the first piece comes, the rest when that is done', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int primary key); insert into t select generate_series(1, 20)');
            const keepers = [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4];
            const losers = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
            const sizes = async (batch: number): Promise<number[]> =>
                (await ask(owner, plan(keepers, losers, `, batch => ${batch}`))).map(({ why }) => Number(why.split(' ')[0]));
            expect(await sizes(11)).toEqual([11]);
            expect(await sizes(5)).toEqual([5, 5, 1]);
            expect(await sizes(4)).toEqual([2, 3, 4, 1]);
            expect(await sizes(3)).toEqual([2, 3, 3, 1]);
            expect(await sizes(1)).toEqual([1, 1, 1, 1]);
            expect((await ask(owner, plan(keepers, losers, ', batch => 4')))[2]?.why).toBe('4 rows are merged into one; 1 more of the group come after them');
        }));

    test.each(['0', '-1', '1000001'])('a batch of %s is 22023', (batch) =>
        withOwner(async (owner) => {
            await owner.run(family);
            expectError(await owner.attempt(plan(1, 2, `, batch => ${batch}`)), '22023');
            expectError(await owner.attempt(plan(1, 2, ', batch => null')), '22004');
        }));

    test('what stands in the way is said when it is asked for: P0002, NS010, 0A000', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create table s (id int primary key, parent int references s, code text unique); create table r (code text references s (code));
                insert into s values (1, null, null), (2, 1, 'two'); insert into r values ('two')`);
            expectError(await owner.attempt(plan(77, 2)), 'P0002');
            expectError(await owner.attempt(plan(1, 2, '', 's')), 'NS010');
            await owner.run('create rule x as on delete to t do instead nothing');
            expectError(await owner.attempt(plan(1, 2)), '0A000');
        }));

    test('names, archive and policy are quoted', () =>
        withOwner(async (owner) => {
            await owner.run(`create table "T'x" ("I""d" text primary key, "N'" int); insert into "T'x" values ('a''', 1), ('b"', 2); ${archive}; alter table kept rename to "K'x"`);
            const [step] = await ask(owner, `select * from ensure.plan_merge_rows_v1('"T''x"', '{"I\\"d": "a''"}', '{"I\\"d": "b\\""}', '{"N''": "sum"}', '"K''x"')`);
            await owner.run(String(step?.statement));
            expect(await rows(owner, `"T'x"`)).toBe("a' 3");
            expect(await owner.run(`select count(*)::int as n from "K'x"`)).toEqual([{ n: 2 }]);
        }));

    test('in a read-only transaction, at any isolation level, with no lock kept', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            await owner.run('begin isolation level serializable read only');
            expect(await ask(owner, plan(1, [2, 3]))).toHaveLength(1);
            // SIReadLock keeps nobody waiting, and is there when another transaction of the server is SERIALIZABLE too.
            expect(await owner.run("select count(*)::int as n from pg_locks where pid = pg_backend_pid() and mode <> 'SIReadLock' and relation in ('t'::regclass, 'c'::regclass)")).toEqual([{ n: 0 }]);
            await owner.run('rollback');
        }));
});

describe('run to the end', () => {
    test.each([[1, 6], [2, 6], [7, 30], [500, 30]])('in batches of %i, of %i groups: the same rows and values as by one call', (batch, n) =>
        withOwner(async (owner) => {
            const [keepers, losers] = lists(n);
            await owner.run(groups(n));
            const left = async (): Promise<string[]> => [await snapshot(owner, 't'), await rows(owner, '(select t, tag from c) as c', '1, 2')];
            await owner.run('begin');
            await owner.run(merge(keepers, losers, policy));
            const once = await left();
            await owner.run('rollback');
            const turns = await follow(owner, plan(keepers, losers, `${policy}, batch => ${batch}`));
            expect(turns).toHaveLength(Math.ceil(3 / batch));
            expect(await left()).toEqual(once);
        }));

    test('what died on the way comes back: some statements, then the rest', () =>
        withOwner(async (owner) => {
            const [keepers, losers] = lists(10);
            await owner.run(groups(10));
            const query = plan(keepers, losers, ', batch => 3');
            const steps = await ask(owner, query);
            expect(steps).toHaveLength(10);
            for (const { statement } of [steps[7], steps[2]].flatMap((step) => step ?? [])) await owner.run(statement);
            const rest = await ask(owner, query);
            expect(rest.map(({ statement }) => statement)).toEqual(steps.filter((_, n) => n !== 7 && n !== 2).map(({ statement }) => statement));
            await owner.run(String(steps[7]?.statement)); // too late, and no harm
            await follow(owner, query);
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 10 }]);
        }));

    test('one statement that fails does not keep the others from being run', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create function no() returns trigger language plpgsql as 'begin raise exception $$not 3$$; end';
                create trigger no before delete on t for each row when (old.id = 3) execute function no()`);
            const query = plan([1, 4], [3, 2], ', batch => 1');
            for (const { statement } of await ask(owner, query)) await owner.attempt(statement);
            expect(await rows(owner, '(select id from t) as t')).toBe('1|3|4');
            await owner.run('drop trigger no on t');
            await follow(owner, query);
            expect(await rows(owner, '(select id from t) as t')).toBe('1|4');
        }));

    test('by pg-ensure run', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            await owner.run(family);
            const query = plan([1, 1, 4], [2, 3, 77], ', batch => 1');
            const { code, stdout, stderr } = await runCommand(url, ['run', query]);
            expect(code, stderr).toBe(0);
            expect(stdout).toContain('the plan has no rows left');
            expect(await owner.run(counts)).toEqual(after);
            expect((await runCommand(url, ['run', query])).stdout).toContain('nothing to do');
        })));

    test('with an archive each batch is a run of its own, and all of them undone, the last first, every row is as it was', () =>
        withOwner(async (owner) => {
            const [keepers, losers] = lists(10);
            await owner.run(`${groups(10)}; ${archive}`);
            const first = await snapshot(owner, 't', 'c');
            await follow(owner, plan(keepers, losers, `${policy}, archive => 'kept', batch => 2`));
            const runs = await owner.run('select run from kept group by run order by max(place) desc');
            expect(runs).toHaveLength(15); // ten pieces of two, then the ten that are left, two at a time
            for (const { run: id } of runs) await run(owner, `select * from ensure.undo_merge_rows_v1('kept', '${String(id)}')`);
            expect(await snapshot(owner, 't', 'c')).toBe(first);
        }));
});
