import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { ask, expectDone, follow, isQueue, isSweep, scaffolding, upTo } from './planned.js';

const args = (rest = ''): string => `'t', '{a}', keep => 'rank, id', losers => 'delete', batch => 2${rest}`;
/** Keys 1 to 4, two rows each: of key k the ids k and 10 + k. */
const table = `create table t (id int primary key, a int, rank int not null default 0, note text);
    insert into t select n + 10 * m, n from generate_series(1, 4) as n, generate_series(0, 1) as m`;
const children = 'create table c (id int primary key, t_id int references t on delete cascade)';
const ids = async (session: Session): Promise<unknown[]> => (await session.run('select id from t order by id')).map(({ id }) => id);

const withSweep = (
    rest: string, body: (sessions: Record<'a' | 'b' | 'dba', Session>, sweep: string) => Promise<void>, more = '',
): Promise<void> => withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'dba'], async (sessions) => {
    await sessions.dba.run(`${table}; ${more}`);
    const { statement } = await upTo(sessions.dba, args(rest), isSweep);
    await body(sessions, statement);
}));

const archive = `create table archive (place bigint generated always as identity primary key, run uuid not null, relation text not null,
    action text not null, key jsonb, old jsonb, new jsonb, archived_at timestamptz not null default now())`;
/** The guard that counts rows, for withoutGuard. */
const counting = ['_check_gone_v1', 'if c_gone <> deleted', 'if false'] as const;

describe('a sweep', () => {
    test('each batch is a statement of its own, and tells how many rows', () =>
        withSweep('', async ({ a, dba }, sweep) => {
            expect((await ask(dba, args())).map(isSweep)).toEqual([true, true]);
            expect(await a.run(sweep)).toEqual([{ row_count: '2' }]);
            expect(await ids(dba)).toHaveLength(6);
            expect((await ask(dba, args())).map(isSweep)).toEqual([true]);
            expect(await a.run(sweep)).toEqual([{ row_count: '2' }]);
            expect(await a.run(sweep)).toEqual([{ row_count: '0' }]);
            expect(await ids(dba)).toEqual([1, 2, 3, 4]);
        }));

    test('two at once take different batches and do not wait; one that rolls back gives its batch back', () =>
        withSweep('', async ({ a, b, dba }, sweep) => {
            await a.run('begin');
            expect(await a.run(sweep)).toEqual([{ row_count: '2' }]);
            expect(await b.run(sweep)).toEqual([{ row_count: '2' }]);
            expect(await b.run(sweep)).toEqual([{ row_count: '0' }]);
            await a.run('rollback');
            expect(await ids(dba)).toHaveLength(6);
            await follow(dba, args());
            expect(await ids(dba)).toEqual([1, 2, 3, 4]);
        }));

    test('negative control: two that take the same batch wait for each other', () =>
        withSweep('', async ({ a, b, dba }, sweep) => {
            await withoutGuard(dba, '_sweep_unique_v1', 'for update skip locked');
            await a.run(`begin; ${sweep}`);
            const second = b.start(sweep);
            await second.blockedBy(a);
            await a.run('rollback');
            expect((await second.outcome()).code).toBe('ok');
        }));

    const writes = [
        ['the row that was to stay is deleted', 'delete from t where id = 1', [2, 3, 4, 11]],
        ['the row that was to stay gets another key', 'update t set a = 9 where id = 1', [1, 2, 3, 4, 11]],
        ['the row that was to go gets another key', 'update t set a = 9 where id = 11', [1, 2, 3, 4, 11]],
        ['the row that was to go is deleted', 'delete from t where id = 11', [1, 2, 3, 4]],
        ['the row that was to go is now the better one', 'update t set rank = -1 where id = 11', [2, 3, 4, 11]],
        ['the row that was to stay is now the worse one', 'update t set rank = 1 where id = 1', [2, 3, 4, 11]],
        ['a better one comes', 'update t set a = 1, rank = -1 where id = 12', [2, 3, 4, 12]],
    ] as const;
    test.each(['', children].flatMap((more) => writes.map(([what, write, left]) => ({ what, write, left, more }))))(
        '$what by a writer who is not done: the sweep waits, looks again, and of each key the best row is left; $more', ({ write, left, more }) =>
            withSweep(", gate => 'none'", async ({ a, b, dba }, sweep) => {
                await b.run(`begin; ${write}`);
                const swept = a.start(sweep);
                await swept.blockedBy(b);
                await b.run('commit');
                expect((await swept.outcome()).code).toBe('ok');
                await follow(dba, args(", gate => 'none'"));
                expect(await ids(dba)).toEqual(left);
                await expectDone(dba, args(", gate => 'none'"));
            }, more));

    test('a child of a loser that is not committed yet is waited for, and moves', () =>
        withSweep(", children => 'move'", async ({ a, b, dba }, sweep) => {
            await b.run('begin; insert into c values (1, 11)');
            const swept = a.start(sweep);
            await swept.blockedBy(b);
            await b.run('commit');
            expect((await swept.outcome()).rows).toEqual([{ row_count: '2' }]);
            expect(await dba.run('select t_id from c')).toEqual([{ t_id: 1 }]);
        }, children));

    test.each([[false, [{ t_id: 1 }]], [true, []]])(
        'negative control: without locking the losers first, the count of rows finds that child; without that (%s) the cascade takes it', (uncounted, left) =>
            withSweep(", children => 'move'", async ({ a, b, dba }, sweep) => {
                await withoutGuard(dba, '_lock_rows_v1', ' for update of c');
                if (uncounted) await withoutGuard(dba, ...counting);
                await b.run('begin; insert into c values (1, 11)');
                const swept = a.start(sweep);
                await swept.blockedBy(b);
                await b.run('commit');
                expect((await swept.outcome()).code).toBe('ok');
                expect(await dba.run('select t_id from c')).toEqual(left);
            }, children));

    const stray = 'create table c (id int primary key, t_id int); insert into c values (1, 11), (2, 12)';
    const refer = 'begin; alter table c add foreign key (t_id) references t on delete cascade';
    test.each(['', ", archive => 'archive'"])('a foreign key that comes meanwhile is waited for, and its rows move%s', (more) =>
        withSweep(`, children => 'move'${more}`, async ({ a, b, dba }, sweep) => {
            await b.run(refer);
            const swept = a.start(sweep);
            await swept.blockedBy(b);
            await b.run('commit');
            expect((await swept.outcome()).rows).toEqual([{ row_count: '2' }]);
            expect(await dba.run('select t_id from c order by id')).toEqual([{ t_id: 1 }, { t_id: 2 }]);
        }, `${stray}; ${archive}`));

    test('negative control: without locking the table before looking who refers to it, the cascade takes those rows along', () =>
        withSweep(", children => 'move'", async ({ a, b, dba }, sweep) => {
            await withoutGuard(dba, '_lock_sweep_v1', /execute format\('lock table[^;]*;/);
            await b.run(refer);
            const swept = a.start(sweep);
            await swept.blockedBy(b);
            await b.run('commit');
            expect((await swept.outcome()).code).toBe('ok');
            expect(await dba.run('select * from c')).toEqual([]);
        }, stray));

    test('that table is waited for no longer than for rows: 55P03', () =>
        withSweep(", children => 'move'", async ({ a, b }, sweep) => {
            await b.run(refer);
            expect((await a.attempt(sweep)).code).toBe('55P03');
        }, stray));

    const below = (fate: string): string => `
        create table c (id int primary key, t_id int references t on delete cascade, kind text, n int default 0, unique (t_id, kind));
        create table g (id int primary key, c_id int references c on delete ${fate}); ${archive};
        insert into c values (10, 1, 'x'), (11, 11, 'x'), (12, 11, 'y'); insert into g values (100, 10), (101, 11), (102, 12)`;
    const merged = "select string_agg(c_id::text, ' ' order by id) as c_ids from g";
    test.each(['cascade', 'set null'])('merge: a grandchild that is not committed yet is waited for, and moves; on delete %s', (fate) =>
        withSweep(", children => 'merge'", async ({ a, b, dba }, sweep) => {
            await b.run('begin; insert into g values (103, 11)');
            const swept = a.start(sweep);
            await swept.blockedBy(b);
            await b.run('commit');
            expect((await swept.outcome()).code).toBe('ok');
            expect(await dba.run(merged)).toEqual([{ c_ids: '10 10 12 10' }]);
        }, below(fate)));

    test.each([[false, '10 10 12 10'], [true, '10 10 12']])(
        'negative control: without locking children that are merged, the count of rows finds it; without that (%s) it is lost', (uncounted, left) =>
            withSweep(", children => 'merge'", async ({ a, b, dba }, sweep) => {
                await withoutGuard(dba, '_colliding_rows_v1', "current_setting('ensure.sweep', true) = 'on'", 'false');
                if (uncounted) await withoutGuard(dba, ...counting);
                await b.run('begin; insert into g values (103, 11)');
                const swept = a.start(sweep);
                await swept.blockedBy(b);
                await b.run('commit');
                expect((await swept.outcome()).code).toBe('ok');
                expect(await dba.run(merged)).toEqual([{ c_ids: left }]);
            }, below('cascade')));

    test('merge: a child that collides no more by the time is not merged', () =>
        withSweep(", children => 'merge'", async ({ a, b, dba }, sweep) => {
            await b.run("begin; update c set kind = 'z', n = 500 where id = 11");
            const swept = a.start(sweep);
            await swept.blockedBy(b);
            await b.run('commit');
            expect((await swept.outcome()).code).toBe('ok');
            expect(await dba.run('select id, t_id, kind, n from c where id = 11')).toEqual([{ id: 11, t_id: 1, kind: 'z', n: 500 }]);
        }, below('cascade')));

    test('merge: what is archived is what was deleted', () =>
        withSweep(", children => 'merge', archive => 'archive'", async ({ a, b, dba }, sweep) => {
            await b.run('begin; update c set n = 500 where id = 11');
            const swept = a.start(sweep);
            await swept.blockedBy(b);
            await b.run('commit');
            expect((await swept.outcome()).code).toBe('ok');
            expect(await dba.run("select old ->> 'n' as n from archive where relation = 'public.c' and action = 'deleted'")).toEqual([{ n: '500' }]);
        }, below('cascade')));

    test('who refers to a row of the batch waits: to a loser it is 23503, to the one that stays it goes in; other rows are free', () =>
        withSweep(", children => 'move'", async ({ a, b, dba }, sweep) => {
            await a.run(`begin; ${sweep}`);
            await dba.run("set lock_timeout = '2s'; update t set note = 'x' where id in (3, 4, 13, 14); insert into c values (9, 3)");
            const child = b.start('insert into c values (1, 11)');
            await child.blockedBy(a);
            const other = dba.start('insert into c values (2, 1)');
            await other.blockedBy(a);
            await a.run('commit');
            expect((await child.outcome()).code).toBe('23503');
            expect((await other.outcome()).code).toBe('ok');
        }, children));

    test('children that may not move are NS010; nothing is lost, and the batch stays', () =>
        withSweep('', async ({ a, dba }, sweep) => {
            await dba.run('insert into c values (1, 11), (2, 12)'); // after the plan has looked
            expectError(await a.attempt(sweep), 'NS010');
            expect(await ids(dba)).toHaveLength(8);
            await follow(dba, args(", children => 'move'"));
            expect(await dba.run('select t_id from c order by id')).toEqual([{ t_id: 1 }, { t_id: 2 }]);
        }, children));

    test('a trigger that keeps rows is NS012, at once', () =>
        withSweep('', async ({ a, dba }, sweep) => {
            const { hint } = expectError(await a.attempt(sweep), 'NS012');
            expect(hint).toContain('trigger');
            expect(await ids(dba)).toHaveLength(8);
        }, `create function keep() returns trigger language plpgsql as 'begin return null; end';
            create trigger keep before delete on t for each row execute function keep()`));

    test('the page on giving a plan up takes away what the plan made, and writers are free again', () =>
        withSweep('', async ({ a, dba }) => {
            const page = readFileSync(new URL('../../docs/unique.md', import.meta.url), 'utf8');
            const recipe = /^with gate as[^]*?;$/m.exec(page)?.[0].replaceAll('crm.invites', 't') ?? '';
            expect((await a.attempt('insert into t values (99, 1)')).code).toBe('23505');
            for (const { statement } of await dba.run(recipe)) await dba.run(String(statement));
            expect((await dba.run(scaffolding)).map(({ name }) => String(name).replace(/[0-9a-f]{12}/, '…'))).toEqual(['ensure_sweep_…', 'ensure_sweep_…_pkey']);
            await a.run('insert into t values (99, 1)');
            expect(await ids(dba)).toHaveLength(9);
        }));

    test('a wait for a row ends with 55P03 though no lock_timeout is set, and the setting is what it was', () =>
        withSweep('', async ({ a, b }, sweep) => {
            await b.run("begin; update t set note = 'x' where id in (1, 3)");
            expect((await a.attempt(sweep)).code).toBe('55P03');
            await b.run('rollback');
            await a.run("begin; set local lock_timeout = '7s'");
            await a.run(sweep);
            expect(await a.run("select current_setting('lock_timeout') as wait, current_setting('ensure.sweep', true) as sweep"))
                .toEqual([{ wait: '7s', sweep: '' }]);
            await a.run('rollback');
        }));

    const busy = "begin; update t set note = 'x' where id = 1";
    test('a row that is locked holds up its own batch only, which comes last from then on', () =>
        withSweep('', async ({ a, b, dba }, sweep) => {
            await b.run(busy);
            expect(await a.run(sweep)).toEqual([{ row_count: '2' }]);
            expect(await ids(dba)).toEqual([1, 2, 3, 4, 11, 12]);
            expect((await a.attempt(sweep)).code).toBe('55P03');
            const [row] = await ask(dba, args());
            expect(await dba.run(`select batch from ensure_sweep_${row?.plan_key}`)).toEqual([{ batch: '4294967296' }]);
            await b.run('rollback');
            expect(await a.run(sweep)).toEqual([{ row_count: '2' }]);
            await follow(dba, args());
            expect(await ids(dba)).toEqual([1, 2, 3, 4]);
        }));

    test('negative control: without trying others it holds up all', () =>
        withSweep('', async ({ a, b }, sweep) => {
            await withoutGuard(a, '_sweep_unique_v1', 'if v_batch is null or', 'if true or');
            await b.run(busy);
            expect((await a.attempt(sweep)).code).toBe('55P03');
            expect((await a.attempt(sweep)).code).toBe('55P03');
        }));

    const back = `create function back() returns trigger language plpgsql as 'begin insert into public.t (id, a, rank) values (old.id, old.a, old.rank); return null; end';
        create trigger back after delete on t for each row execute function back()`;
    test.each(['', ", archive => 'archive'"])('a trigger that puts rows back is NS012; negative control: without the count the plan has no end%s', (more) =>
        withSweep(more, async ({ a, dba }, sweep) => {
            expectError(await a.attempt(sweep), 'NS012');
            await withoutGuard(dba, ...counting);
            await a.run(sweep);
            expect(await ids(dba)).toHaveLength(8);
        }, `${back}; ${archive}`));

    test.each(['repeatable read', 'serializable'])('%s is NS011 before anything changes', (isolation) =>
        withSweep('', async ({ a, dba }, sweep) => {
            await a.run(`begin isolation level ${isolation}`);
            expectError(await a.attempt(sweep), 'NS011');
            await a.run('rollback');
            expect(await ids(dba)).toHaveLength(8);
        }));

    test('a row that is elsewhere by the time, in a table without a key, is left for the next batches', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'dba'], async ({ a, dba }) => {
            await dba.run('create table t (id int, a int, rank int default 0, note text); insert into t select n % 4, n % 4 from generate_series(0, 11) as n');
            const { statement } = await upTo(dba, args(), isSweep);
            await a.run("update t set note = 'moved'");
            await a.run('vacuum t');
            await a.run('insert into t values (50, 50), (51, 51), (52, 52), (53, 53)');
            expect(await a.run(statement)).toEqual([{ row_count: '0' }]);
            await follow(dba, args());
            expect(await ids(dba)).toEqual([0, 1, 2, 3, 50, 51, 52, 53]);
        })));
});

test('a table of a stranger in the place of the batches is 42501, and is not touched', () =>
    withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
        await dba.run(table);
        const { statement } = await upTo(dba, args(), isQueue);
        const name = /'([0-9a-f]{12})'\)/.exec(statement)?.[1];
        await dba.run(`create view ensure_sweep_${name} as select 1 as batch`);
        expectError(await dba.attempt(statement), '42501');
        expectError(await dba.attempt(`select * from ensure.plan_unique_v1(${args()})`), '42501');
        await dba.run(`drop view ensure_sweep_${name}`);
        await follow(dba, args());
    })));

describe('rows are told apart', () => {
    const keyless = 'create table t (id int, a int, rank int not null default 0, note text); insert into t select n, n % 4 from generate_series(0, 11) as n';
    const alone = (body: (sessions: Record<'a' | 'dba', Session>) => Promise<void>): Promise<void> =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'dba'], body));

    test('by a key that comes while batches are there: these are thrown away, and made anew', () =>
        alone(async ({ a, dba }) => {
            await dba.run(keyless);
            const { statement } = await upTo(dba, args(), isSweep);
            await dba.run('alter table t add primary key (id)');
            expect(await a.run(statement)).toEqual([{ row_count: '0' }]);
            await follow(dba, args());
            expect(await ids(dba)).toEqual([0, 1, 2, 3]);
            await expectDone(dba, args());
        }));

    test('negative control: read as values of the new key, places are a raw error', () =>
        alone(async ({ a, dba }) => {
            await dba.run(keyless);
            const { statement } = await upTo(dba, args(), isSweep);
            await dba.run('alter table t add primary key (id)');
            await withoutGuard(dba, '_sweep_unique_v1', 'if v_key = ensure._row_key_v1(target) then', 'if true then');
            expect((await a.attempt(statement)).code).toBe('22P02');
        }));

    const mixed = `create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        create table t (email text collate ci not null, a int, rank int, id int); create unique index on t (email collate "C");
        insert into t values ('A@x', 1, 0, 1), ('a@x', 1, 0, 2), ('b@x', 2, 0, 3); ${archive}`;
    test.each(['', ", archive => 'archive'"])('by a unique index whose collation is not that of the column%s', (more) =>
        alone(async ({ dba }) => {
            await dba.run(mixed);
            await follow(dba, args(more));
            expect(await ids(dba)).toEqual([1, 3]);
        }));

    test.each([[true, [3]], [false, [1, 3]]])(
        'negative control: by the collation of the column the row that stays goes too, where a row can count twice: %s', (twice, left) =>
            alone(async ({ dba }) => {
                await dba.run(mixed);
                const { statement } = await upTo(dba, args(), isSweep);
                await withoutGuard(dba, '_row_match_v1', 'case when l.oid <> a.attcollation', 'case when false');
                if (twice) await withoutGuard(dba, '_delete_batch_v1', 'distinct on ("~y"."~row") ');
                await dba.attempt(statement);
                expect(await ids(dba)).toEqual(left);
            }));

    test('whatever the settings of the session, which are those of ensure_unique_v1', () =>
        alone(async ({ a, dba }) => {
            expect(await dba.run(`select p.proname::text as name from pg_proc as p
                join pg_proc as e on e.proname = 'ensure_unique_v1' and e.pronamespace = p.pronamespace
                where p.proname in ('_sweep_unique_v1', '_queue_unique_v1') and not p.proconfig @> e.proconfig`)).toEqual([]);
            await dba.run(`create table t (id text[] primary key, a int, rank int); insert into t values ('{a,NULL}', 1, 0), ('{b,NULL}', 1, 0), ('{c}', 1, 0)`);
            await a.run('set array_nulls = off');
            await follow(a, args(", gate => 'none'"));
            expect(await dba.run('select id::text from t')).toEqual([{ id: '{a,NULL}' }]);
        }));

    test('negative control: with array_nulls off a sweep does not find them', () =>
        alone(async ({ a, dba }) => {
            await dba.run(`create table t (id text[] primary key, a int, rank int); insert into t values ('{a,NULL}', 1, 0), ('{b,NULL}', 1, 0)`);
            const { statement } = await upTo(dba, args(), isSweep);
            await dba.run('alter function ensure._sweep_unique_v1 reset array_nulls');
            await a.run('set array_nulls = off');
            expect(await a.run(statement)).toEqual([{ row_count: '0' }]);
        }));
});
