import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { archive, attemptUndo, family, merge, snapshot, undo, unique } from './undoing.js';

describe('what cannot be undone is an error that changes nothing', () => {
    /** Undoes a run after `meanwhile`, which must fail with `code` and leave everything as it is. */
    const refused = async (owner: Session, meanwhile: string, code: string,
        args = merge): Promise<Record<'message' | 'detail' | 'hint', string>> => {
        await owner.run(family);
        const { run } = await unique(owner, args);
        await owner.run(meanwhile);
        const tables = ['child', 'grand', 'kept'];
        const before = await snapshot(owner, ...tables);
        const outcome = await attemptUndo(owner, run);
        expect(await snapshot(owner, ...tables)).toBe(before);
        return expectError(outcome, code);
    };

    test('the unique index is there: NS001 names it', () =>
        withOwner(async (owner) => {
            const { detail } = await refused(owner, '', 'NS001');
            expect(detail).toContain('public.t_k_key');
        }));

    test('the unique index is there and losers were updated: NS001 too', () =>
        withOwner(async (owner) => {
            const { detail } = await refused(owner, '', 'NS001',
                "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false', children => 'merge'");
            expect(detail).toContain('public.t_k_key');
        }));

    test('somebody took the primary key of a loser', () =>
        withOwner(async (owner) => {
            const { detail } = await refused(owner, "drop index t_k_key; insert into t values (2, 'new')", 'NS001');
            expect(detail).toContain('public.t_pkey');
        }));

    test.each([
        ['a row that moved was deleted', `delete from child where id = (select max((key ->> 'id')::int) from kept where action =
            'moved' and relation = 'public.child')`, 'public.child', 'deleted'],
        ['a row that moved refers to something else now', `update grand set child_id = 6 where id = (select (key ->> 'id')::int
            from kept where relation = 'public.grand' order by place limit 1)`, 'public.grand', 'changed'],
    ])('%s: NS013 names table and key', (_what, meanwhile, relation, why) =>
        withOwner(async (owner) => {
            const { message, detail } = await refused(owner, `drop index t_k_key; ${meanwhile}`, 'NS013');
            expect(message).toContain(relation);
            expect(detail).toMatch(/the key \{"id": "\d+"\}/);
            expect(detail).toContain(why);
        }));

    test('negative control: without the look at what is there, a change made meanwhile is overwritten', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const { run } = await unique(owner, merge);
            await owner.run(`drop index t_k_key; update grand set child_id = 6 where id = (select (key ->> 'id')::int from kept
                where relation = 'public.grand' order by place limit 1)`);
            await withoutGuard(owner, '_set_rows_back_v1', 'if v_row.key is not null then', 'if false then');
            expect((await attemptUndo(owner, run)).code).toBe('ok');
        }));

    test('an updated loser whose changed column was changed again', () =>
        withOwner(async (owner) => {
            await refused(owner, `drop index t_k_key; update t set active = null where id = 2`, 'NS013',
                "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false', children => 'merge'");
        }));

    test('an archive that may not be read, or from which nothing may be deleted: 42501 says what to grant', () =>
        withOwner(async (owner) => {
            for (const right of ['select', 'delete']) {
                await owner.run(`drop table if exists kept, grand, child, t cascade; ${family}`);
                const { run } = await unique(owner, merge);
                await owner.run(`drop index t_k_key; revoke ${right} on kept from current_user`);
                expect(expectError(await attemptUndo(owner, run), '42501').hint).toMatch(/^Grant SELECT and DELETE on public.kept/);
            }
        }));

    test('a table or column that was dropped or renamed', () =>
        withOwner(async (owner) => {
            const { message } = await refused(owner, 'drop index t_k_key; alter table t rename to s', '42P01');
            expect(message).toContain('public.t');
            await owner.run('alter table s rename to t; alter table grand rename child_id to other');
            const [row] = await owner.run('select run from kept limit 1');
            expect(expectError(await attemptUndo(owner, String(row?.run)), '42703').message).toContain('child_id');
            await owner.run('alter table grand rename other to child_id; alter table t drop column active');
            expect(expectError(await attemptUndo(owner, String(row?.run)), '42703').message).toContain('active');
            await owner.run('alter table t add active boolean; alter table child rename id to nr');
            expectError(await attemptUndo(owner, String(row?.run)), '42703');
        }));

    test('what a loser referred to is gone, or the table asks for more now: as PostgreSQL says', () =>
        withOwner(async (owner) => {
            await owner.run(`create table o (id int primary key); insert into o values (1), (2)`);
            await refused(owner, `drop index t_k_key; alter table t add o int references o; update kept set old = old ||
                '{"o": "3"}' where relation = 'public.t'`, '23503');
            const [row] = await owner.run('select run from kept limit 1');
            await owner.run(`alter table t drop o; update kept set old = old - 'o'; alter table t add must int not null default 0;
                alter table t alter must drop default`);
            expect((await attemptUndo(owner, String(row?.run))).code).toBe('23502');
        }));

    test('a trigger that keeps a row back, or adds one', () =>
        withOwner(async (owner) => {
            await refused(owner, `drop index t_k_key; create function no() returns trigger language plpgsql as
                'begin return null; end';
                create trigger no before insert on t for each row when (new.id = 2) execute function no()`, 'NS012', merge);
            const [row] = await owner.run('select run from kept limit 1');
            await owner.run(`drop trigger no on t; create function more() returns trigger language plpgsql as $$ begin insert into
                public.child values (1000, new.id, 'more'); return null; end $$;
                create trigger more after insert on t for each row when (new.id = 2) execute function more()`);
            expectError(await attemptUndo(owner, String(row?.run)), 'NS012');
            await owner.run('drop trigger more on t');
            expect((await attemptUndo(owner, String(row?.run))).code).toBe('ok');
        }));

    test('negative control: without the count, a trigger that keeps a row back loses it', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const { run } = await unique(owner,
                "'t', '{k}', 'id in (1, 2)', keep => 'id', losers => 'delete', children => 'merge'");
            await owner.run(`drop index t_k_key; create function no() returns trigger language plpgsql as
                'begin return null; end'; alter table child drop constraint child_t_id_fkey;
                create trigger no before insert on t for each row when (new.id = 2) execute function no()`);
            await withoutGuard(owner, '_undo_step_v1', 'if v_count <> step.row_count then', 'if false then');
            expectError(await attemptUndo(owner, run), 'NS012');
            await withoutGuard(owner, '_undo_run_v1', 'if v_wrong is not null or v_count <> v_steps.total then', 'if false then');
            expect((await attemptUndo(owner, run)).code).toBe('ok');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 5 }]);
        }));

    const narrowed: [string, string, string, string][] = [
        ['varchar(10)', "'abcdefgh'", 'varchar(3)', ''], ['text', "'abcd'", 'char(3)', ''], ['text', "'abcdefgh'", 'short', ''],
        ['numeric(10,2)', '1.55', 'numeric(10,0)', ''], ['numeric', '1.55', 'whole', ''],
        ['timestamptz', "'2026-01-01 10:00:00.55'", 'timestamptz(0)', ''], ['timestamp', "'2026-01-01 10:00:00.55'", 'timestamp(0)', ''],
        ['timestamptz', "'2026-01-01 10:00:00.55'", 'date', ''], ['time', "'10:00:00.55'", 'time(0)', ''],
        ['interval', "'1 day 00:00:01.5'", 'interval(0)', ''], ['interval', "'1 day 00:01:01'", 'interval hour to minute', ''],
        ['float8', '0.1::float8 + 0.2', 'float4', ''], ['varchar(9)[]', "'{abcdef}'", 'varchar(3)[]', ''],
        ['bit varying', "'10101'", 'bit(3)', 'using n::bit(3)'], ['text', "repeat('x', 70)", 'name', ''],
        ['timestamptz[]', "'{2026-01-01 10:00:00.55}'", 'timestamptz(0)[]', ''], ['timestamptz', "'2026-01-01 10:00:00.55'", 'second', ''],
        ['json', `'{"a": 1, "a": 2}'`, 'jsonb', ''],
    ];
    const domains = `create domain short as varchar(3); create domain whole as numeric(10,0); create domain second as timestamptz(0)`;
    test.each(narrowed)('a value of %s, %s, that its column, now %s, cannot hold: NS012, of a deleted row and of an updated one',
        (type, value, now, using) =>
        withOwner(async (owner) => {
            for (const args of ["'t', '{k}', keep => 'id', losers => 'delete'",
                "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false, n = null'"]) {
                await owner.run(`begin; ${archive}; ${domains}; create table t (id int primary key, k text, active boolean default true, n
                    ${type}); insert into t values (1, 'a', true, null), (2, 'a', true, ${value})`);
                const { run, drop } = await unique(owner, args);
                await owner.run(`${drop}; alter table t alter n type ${now} ${using}; savepoint here`);
                const { hint } = expectError(await attemptUndo(owner, run), 'NS012');
                expect(hint).toContain('column');
                await owner.run('rollback');
            }
        }));

    const kept: [string, string, string][] = [
        ['varchar(3)', "'abc'", 'text'], ['text', "'abc'", 'varchar(3)'], ['char(5)', "'ab'", 'char(9)'], ['char(9)', "'ab'", 'char(5)'],
        ['numeric(10,2)', '1.50', 'numeric(12,4)'], ['numeric(10,2)', '1.50', 'numeric(10,1)'], ['numeric', '1.0', 'whole'],
        ['int', '7', 'bigint'], ['int', '7', 'numeric(10,2)'], ['timestamptz', "'2026-01-01 10:00:00.5+00'", 'timestamptz(1)'],
        ['timestamptz', "'2026-01-01 10:00:00+00'", 'second'], ['timestamptz(0)', "'2026-01-01 10:00:00+00'", 'timestamptz'],
        ['timestamptz[]', "'{2026-01-01 10:00:00+00, NULL}'", 'timestamptz(0)[]'], ['tstzrange', "'[2026-01-01 10:00:00.5+00,)'", 'tstzrange'],
        ['float4', "'0.5'", 'float8'], ['float8', "'-0'", 'float8'], ['float8', "'NaN'", 'float4'], ['numeric', "'NaN'", 'numeric(9,2)'],
        ['varchar(9)', "''", 'varchar(3)'], ['inet', "'10.0.0.1'", 'inet'], ['cidr', "'10.0.0.0/8'", 'inet'], ['name', "'x'", 'text'],
        ['text', 'null', 'varchar(3)'], ['box', "'(1,2),(0.5,0)'", 'box'], ['xml', "'<a/>'", 'xml'], ['oid', '7', 'bigint'],
    ];
    test.each(kept)('a value of %s, %s, comes back into a column that is %s now, in another time zone', (type, value, now) =>
        withOwner(async (owner) => {
            for (const args of ["'t', '{k}', keep => 'id', losers => 'delete'",
                "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false, n = null'"]) {
                await owner.run(`begin; ${archive}; ${domains}; set local timezone = 'Asia/Kolkata'; create table t (id int primary key, k text,
                    active boolean default true, n ${type}); insert into t values (1, 'a', true, null), (2, 'a', true, ${value})`);
                const { run, drop } = await unique(owner, args);
                await owner.run(`${drop}; alter table t alter n type ${now}; set local timezone = 'America/New_York'`);
                await undo(owner, run);
                expect(await owner.run(`select coalesce(n::text = (${value})::${now}::text, n is null and ${value} is null) as same from t
                    where id = 2`)).toEqual([{ same: true }]);
                await owner.run('rollback');
            }
        }));

    test('negative control: where the text is cast to what the column is now, a value is cut, and nothing says so', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int primary key, k text, n text); insert into t values (1, 'a', ''), (2, 'a',
                'abcdef')`);
            const { run, drop } = await unique(owner, "'t', '{k}', keep => 'id', losers => 'delete'");
            await owner.run(`${drop}; alter table t alter n type varchar(3)`);
            await withoutGuard(owner, '_reinsert_rows_v1', 'string_agg(v.kept,', "string_agg(format('(%s)::%s::text', v.kept, c.type),");
            expect((await attemptUndo(owner, run)).code).toBe('ok');
            expect(await owner.run('select n from t where id = 2')).toEqual([{ n: 'abc' }]);
        }));

    test('a unique_violation of a trigger comes as the trigger says it', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const { run, drop } = await unique(owner, merge);
            await owner.run(`${drop}; create function mine() returns trigger language plpgsql as $$ begin raise unique_violation using
                message = 'mine'; end $$; create trigger mine before insert on t for each row execute function mine()`);
            expect(expectError(await attemptUndo(owner, run), '23505').message).toBe('mine');
        }));

    const touched = `${archive}; create table t (id int primary key, k text, active boolean default true, at timestamptz default '2020-01-01');
        insert into t (id, k) values (1, 'a'), (2, 'a'), (3, 'b');
        create function touch() returns trigger language plpgsql as 'begin new.at = now(); return new; end';
        create trigger touch before insert or update on t for each row execute function touch()`;
    const soft = "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false'";
    test.each([['updated', soft], ['deleted', "'t', '{k}', keep => 'id', losers => 'delete'"]])(
        'a trigger that changes a row that was %s: NS012; without it the row is what it was', (_what, args) =>
        withOwner(async (owner) => {
            await owner.run(touched);
            const before = await snapshot(owner, 't');
            const { run, drop } = await unique(owner, args);
            await owner.run(drop);
            const between = await snapshot(owner, 't', 'kept');
            expect(expectError(await attemptUndo(owner, run), 'NS012').hint).toContain('trigger');
            expect(await snapshot(owner, 't', 'kept')).toBe(between);
            await owner.run('alter table t disable trigger touch');
            expect((await attemptUndo(owner, run)).code).toBe('ok');
            expect(await snapshot(owner, 't')).toBe(before);
        }));

    test('negative control: without the comparison the row is another, and nothing says so', () =>
        withOwner(async (owner) => {
            await owner.run(touched);
            const before = await snapshot(owner, 't');
            const { run, drop } = await unique(owner, soft);
            await owner.run(drop);
            await withoutGuard(owner, '_check_put_back_v1', 'if others > 0', 'if false');
            expect((await attemptUndo(owner, run)).code).toBe('ok');
            expect(await snapshot(owner, 't')).not.toBe(before);
        }));

    test('places that are not generated and unique cannot say what was last: 22023 before anything', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create sequence s`);
            const columns = 'run uuid, relation text, action text, key jsonb, old jsonb, new jsonb';
            for (const [place, code] of [['bigint primary key', '22023'], ["bigint default 1", '22023'], ['bigint default 1 unique', '22023'],
                ['bigint generated always as identity', '22023'], ["bigint default nextval('s')", '22023'],
                ['bigserial unique', 'ok'], ["bigint default nextval('s') unique", 'ok'], ['bigint generated by default as identity unique', 'ok']]) {
                await owner.run(`begin; create table loose (place ${place}, ${columns})`);
                expect((await owner.attempt(`select ensure.ensure_unique_v1(${merge}, archive => 'loose')`)).code, place).toBe(code);
                await owner.run('rollback');
            }
        }));

    test('unknown run, no archive, null, read-only, an old snapshot, row security', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const { run } = await unique(owner, merge);
            expectError(await attemptUndo(owner, '00000000-0000-0000-0000-000000000000'), '42704');
            expectError(await owner.attempt(`select ensure.undo_unique_v1('t', '${run}')`), '22023');
            expectError(await owner.attempt("select ensure.undo_unique_v1('kept', null)"), '22004');
            expectError(await owner.attempt(`select ensure.undo_unique_v1(null, '${run}')`), '22004');
            expectError(await owner.attempt(`select ensure.undo_unique_v1('kept', '${run}', max_wait => '-1 s')`), '22023');
            for (const [begin, code] of [['read only', '25006'], ['isolation level repeatable read', 'NS011'],
                ['isolation level serializable', 'NS011']] as const) {
                await owner.run(`begin ${begin}`);
                expectError(await attemptUndo(owner, run), code);
                await owner.run('rollback');
            }
            await owner.run(`drop index t_k_key; alter table child enable row level security; alter table child force row level
                security; create policy p on child using (id > 20)`);
            expect((await attemptUndo(owner, run)).code).toBe('42501');
            await owner.run("alter table child disable row level security; set ensure.ddl = off");
            expect((await attemptUndo(owner, run)).code).toBe('ok'); // rows are no schema
        }));

    test('rows that change and that nothing tells apart are not archived: ensure_unique_v1 refuses', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create table bare (t_id int references t); insert into bare values (1)`);
            await owner.run('begin');
            expect((await owner.attempt(`select * from ensure.ensure_unique_v1(${merge}, archive => 'kept')`)).code).toBe('ok');
            await owner.run('rollback; insert into bare values (2)');
            expectError(await owner.attempt(`select * from ensure.ensure_unique_v1(${merge}, archive => 'kept')`), '0A000');
            await owner.run("create table loose (k text, active boolean default true); insert into loose values ('a'), ('a')");
            expectError(await owner.attempt(`select ensure.ensure_unique_v1('loose', '{k}', 'active', keep => 'k', losers =>
                'update', loser_set => 'active = false', archive => 'kept')`), '0A000');
            const { run } = await unique(owner, "'loose', '{k}', keep => 'k', losers => 'delete'"); // whole rows need no key
            await owner.run('drop index loose_k_key');
            expect(await undo(owner, run)).toEqual(['public.loose inserted 1']);
        }));
});
