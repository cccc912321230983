import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const table = `
    create table t (k int, v text default 'x') partition by range (k);
    create table rest partition of t default;
    insert into t select n % 30 from generate_series(0, 299) as n`;
const moving = (options = "max_block => '1 min'"): string =>
    `select partition::text, outcome from ensure.ensure_partitions_v1('t', '10', 5, move_default_rows => true, ${options})`;
const move = moving();
const place = async (session: Session): Promise<unknown> =>
    (await session.run('select tableoid::regclass::text as place, count(*)::int as n from t group by 1 order by 1'));

test('rows that belong into the new partition are moved, none is lost, columns stay as they were', () =>
    withOwner(async (owner) => {
        await owner.run(`
            create table t (id bigint generated always as identity, k int, "ge n" int generated always as (k * 2) stored, at timestamptz default now())
                partition by range (k);
            create table rest (at timestamptz default now(), k int, gone int, "ge n" int generated always as (k * 2) stored, id bigint not null);
            alter table rest drop column gone;
            alter table t attach partition rest default;
            insert into t (k) select n from generate_series(0, 29) as n`);
        const all = 'select * from t order by id';
        const before = await owner.run(all);
        expect(await owner.run(move)).toEqual([{ partition: 't_0000000000000', outcome: 'created' }]);
        expect(await owner.run(all)).toEqual(before);
        expect(await place(owner)).toEqual([{ place: 'rest', n: 20 }, { place: 't_0000000000000', n: 10 }]);
        expect(await owner.run(move)).toEqual([{ partition: 't_0000000000000', outcome: 'exists' }]);
    }));

test('a list partition takes its rows as well, NULL too', () =>
    withOwner(async (owner) => {
        await owner.run(`create table t (k text) partition by list (k); create table rest partition of t default;
                         insert into t values ('a'), ('b'), (null)`);
        expectError(await owner.attempt("select ensure.ensure_list_partitions_v1('t', array['a', null])"), 'NS004');
        await owner.run("select ensure.ensure_list_partitions_v1('t', array['a', null], move_default_rows => true, max_block => '1 min')");
        expect(await place(owner)).toEqual([{ place: 'rest', n: 1 }, { place: 't_a', n: 1 }, { place: 't_null', n: 1 }]);
    }));

test('refused before anything is locked: the error has the count and the bounds, and nothing is moved', () =>
    withTestDatabase(({ url }) => withSessions(url, ['owner', 'reader'], async ({ owner, reader }) => {
        await owner.run(table);
        await reader.run('begin; select count(*) from t');
        const error = expectError(await owner.attempt(move.replace('true', 'false')), 'NS004');
        expect(error.detail).toContain('Rows: 100, keys from 0 to 9');
        expect(error.hint).toContain('move_default_rows');
        expect(await place(owner)).toEqual([{ place: 'rest', n: 300 }]);
    })));

test('no trigger fires, and triggers are enabled afterwards as they were', () =>
    withOwner(async (owner) => {
        await owner.run(`${table};
            create table fired (op text);
            create function note() returns trigger language plpgsql as $$ begin insert into fired values (tg_op); return coalesce(new, old); end $$;
            create trigger a before delete on t for each row execute function note();
            create trigger b after insert on t for each row execute function note();
            create trigger c after delete on rest for each statement execute function note();
            create trigger d after delete on rest for each row execute function note();
            alter table rest disable trigger d; alter table rest enable always trigger c`);
        const states = "select tgname, tgenabled from pg_trigger where tgrelid = 'rest'::regclass order by 1";
        const before = await owner.run(states);
        await owner.run(move);
        expect(await owner.run('select * from fired')).toEqual([]);
        expect(await owner.run(states)).toEqual(before);
        expect(before.map((row) => String(row.tgenabled))).toEqual(['O', 'O', 'A', 'D']);
    }));

test('a foreign key that points at the rows, a default partition with partitions, an old snapshot: each a clear reason', () =>
    withOwner(async (owner) => {
        await owner.run(`create table t (k int primary key) partition by range (k); create table rest partition of t default;
                         create table child (k int references t on delete cascade); insert into t values (5); insert into child values (5)`);
        const error = expectError(await owner.attempt(move), '0A000');
        expect(error.detail).toContain('points at its rows');
        expect(await owner.run('select count(*)::int as n from child')).toEqual([{ n: 1 }]);
        await owner.run('drop table child');
        for (const isolation of ['repeatable read', 'serializable']) {
            await owner.run(`begin isolation level ${isolation}`);
            expectError(await owner.attempt(move), '25000');
            await owner.run('rollback');
        }
        await owner.run(`drop table t; create table t (k int) partition by range (k); create table rest partition of t default partition by list (k);
                         create table rest5 partition of rest for values in (5); insert into t values (5)`);
        expect(expectError(await owner.attempt(move), '0A000').detail).toContain('no plain table');
    }));

test('moving that takes longer than max_block is NS004 and moves nothing', () =>
    withOwner(async (owner) => {
        await owner.run(`${table}; insert into t select 5 from generate_series(1, 30000)`);
        expectError(await owner.attempt(moving("max_block => '1 ms', max_wait => '5 s'")), 'NS004');
        expect(await place(owner)).toEqual([{ place: 'rest', n: 30300 }]);
        expect(await owner.run(move)).toHaveLength(1);
    }));

/** The mover's transaction is open; a reader begins and waits, the mover commits, the reader answers. */
const readWhileMoving = (mutate: (dba: Session) => Promise<void>): Promise<unknown> =>
    withTestDatabase(({ url }) => withSessions(url, ['mover', 'reader'], async ({ mover, reader }) => {
        await mover.run(table);
        await mutate(mover);
        await mover.run(`begin; ${move}`);
        const reading = reader.start('select count(*)::int as n from t');
        await reading.blockedBy(mover);
        await mover.run('commit');
        return (await reading.outcome()).rows;
    }));

describe('readers under READ COMMITTED', () => {
    test('one that begins while rows are moved waits, and sees every row', async () => {
        expect(await readWhileMoving(async () => {})).toEqual([{ n: 300 }]);
    });

    test('negative control: with the lock on the default partition alone it plans without the new partition and misses rows', async () => {
        expect(await readWhileMoving((dba) => withoutGuard(dba, '_create_partitions_v1',
            '_attach_locks_v1(v_rows.parents, v_move)', '_attach_locks_v1(v_rows.parents, false)'))).toEqual([{ n: 200 }]);
    });

    test('one that is open keeps its transaction and the mover waits; so does a writer', () =>
        withTestDatabase(({ url }) => withSessions(url, ['mover', 'reader', 'writer'], async ({ mover, reader, writer }) => {
            await mover.run(table);
            await reader.run('begin; select count(*) from t');
            const waiting = mover.start(move);
            await waiting.blockedBy(reader);
            expect(await reader.run('select count(*)::int as n from t')).toEqual([{ n: 300 }]);
            await reader.run('commit; begin');
            expect((await waiting.outcome()).code).toBe('ok');
            await writer.run('insert into t values (5), (25)');
            expect(await reader.run('select count(*)::int as n from t')).toEqual([{ n: 302 }]);
        })));
});

test('under REPEATABLE READ with an older snapshot a pruned query misses moved rows: PostgreSQL prunes by today\'s partitions', () =>
    withTestDatabase(({ url }) => withSessions(url, ['mover', 'reader'], async ({ mover, reader }) => {
        await mover.run(`${table}; create table other (x int)`);
        await reader.run('begin isolation level repeatable read; select count(*) from other');
        await mover.run(move);
        expect(await reader.run('select count(*)::int as n from t where k = 5')).toEqual([{ n: 0 }]);
        expect(await reader.run('select count(*)::int as n from t')).toEqual([{ n: 300 }]);
        await reader.run('commit');
        expect(await reader.run('select count(*)::int as n from t where k = 5')).toEqual([{ n: 10 }]);
    })));
