import { describe, expect, test } from 'vitest';
import { expectError, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { family, merge, rows, run } from './merging.js';

/** A table of one value each: what the keeper, 1, has after the rows 2, 3 … were merged into it. */
const cases: [string, string, string[], string, string?][] = [
    ['coalesce', 'text', ['null', "'b'", "'c'"], 'b'],
    ['coalesce', 'text', ["''", "'b'"], ''],
    ['coalesce', 'json', ['null', 'null', `'{"a":  1}'`], '{"a":  1}'],
    ['coalesce', 'int[]', ['null', "'{}'", "'{1}'"], '{}'],
    ['coalesce', 'pair', ['null', "row(null, 'x')", "row(1, 'y')"], '(,x)', 'create type pair as (n int, s text)'],
    ['coalesce', 'xml', ['null', "'<a/>'"], '<a/>'],
    ['max', 'int', ['1', '7', 'null', '3'], '7'],
    ['min', 'int', ['4', '7', 'null', '3'], '3'],
    ['max', 'int', ['null', 'null'], 'NULL'],
    ['max', 'numeric', ['1.0', '1.00'], '1.0'],
    ['max', 'numeric', ['1', "'NaN'"], 'NaN'],
    ['max', 'float8', ['0.1', "0.1::float8 + 0.2"], '0.30000000000000004'],
    ['max', 'timestamptz', ["'2026-01-01 00:00+00'", "'2026-02-01 00:00:00.000001+00'"], '2026-02-01 00:00:00.000001+00'],
    ['min', 'date', ["'2026-01-02'", "'2026-01-01'"], '2026-01-01'],
    ['max', 'boolean', ['false', 'true'], 't'],
    ['max', 'uuid', ["'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"], '00000000-0000-0000-0000-000000000002'],
    ['max', 'mood', ["'zero'", "'alpha'"], 'alpha', "create type mood as enum ('zero', 'alpha')"],
    ['max', 'citext', ["'a'", "'B'", "'b'"], 'B', 'create extension citext'],
    ['min', 'citext', ["'b'", "'A'"], 'A', 'create extension citext'],
    ['max', 'mail', ["'a@x'", "'B@x'"], 'B@x', "create extension citext; create domain mail as citext check (value ~ '@')"],
    ['max', 'text collate "C"', ["'a'", "'B'"], 'a'],
    ['max', 'jsonb', [`'{"a": 1}'`, `'{"a": 2}'`], '{"a": 2}'],
    ['max', 'int[]', ["'{1}'", "'{1,2}'"], '{1,2}'],
    ['max', 'tstzrange', ["'empty'", "'[2026-01-01 00:00+00,)'"], '["2026-01-01 00:00:00+00",)'],
    ['max', 'inet', ["'10.0.0.1'", "'10.0.0.2'"], '10.0.0.2'],
    ['max', 'varchar(3)', ["'abc'", "'abd'"], 'abd'],
    ['max', 'char(4)', ["'a'", "'b'"], 'b   '],
    ['sum', 'int', ['1', 'null', '2', '3'], '6'],
    ['sum', 'int', ['null', 'null'], 'NULL'],
    ['sum', 'int', ['null', '2'], '2'],
    ['sum', 'smallint', ['1', '2'], '3'],
    ['sum', 'bigint', ['9007199254740993', '1'], '9007199254740994'],
    ['sum', 'numeric(6, 2)', ['1.10', '2.25'], '3.35'],
    ['sum', 'float8', ['0.1', '0.2'], '0.30000000000000004'],
    ['sum', 'interval', ["'1 hour'", "'2 days'"], '2 days 01:00:00'],
    ['sum', 'money', ["'1.25'", "'2'"], '3.25'],
    ['sum', 'positive', ['1', '2'], '3', 'create domain positive as int check (value > 0)'],
    ['union', 'text[]', ["'{b,a}'", "'{c,a}'", 'null', "'{d,c}'"], '{b,a,c,d}'],
    ['union', 'text[]', ['null', "'{b,a}'"], '{b,a}'],
    ['union', 'text[]', ['null', 'null'], 'NULL'],
    ['union', 'text[]', ['null', "'{}'"], '{}'],
    ['union', 'int[]', ["'{1,null}'", "'{null,2}'"], '{1,NULL,2}'],
    ['union', 'text[]', [`'{"a,b","NULL"}'`, `'{"","q\\"x"}'`], '{"a,b","NULL","","q\\"x"}'],
    ['union', 'citext[]', ["'{Ann}'", "'{ANN,bob}'"], '{Ann,bob}', 'create extension citext'],
    ['union', 'mood[]', ["'{zero}'", "'{alpha,zero}'"], '{zero,alpha}', "create type mood as enum ('zero', 'alpha')"],
    ['union', 'tags', ["'{a}'", "'{b}'"], '{a,b}', 'create domain tags as text[]'],
    ['keep', 'text', ['null', "'b'"], 'NULL'],
];

describe('each policy on real values', () => {
    test.each(cases)('%s of %s: %s is %s', (word, type, values, expected, before = '') =>
        withOwner(async (owner) => {
            await owner.run(`set timezone = 'UTC'; ${before}; create table t (id int primary key, v ${type}, "other V" ${type})`);
            for (const [place, value] of values.entries()) await owner.run(`insert into t values (${place + 1}, ${value}, ${value})`);
            await owner.run("set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -15; set search_path = pg_catalog");
            const losers = values.map((_, place) => place + 1).slice(1);
            const [first] = await owner.run(`select "other V"::text as v from public.t where id = 1`);
            await owner.run(merge(1, losers, `, '{"v": "${word}"}'`, 'public.t'));
            await owner.run('reset datestyle; reset intervalstyle; reset extra_float_digits; reset search_path');
            const shown = type === 'money' ? 'v::numeric' : 'v';
            const [row] = await owner.run(`select coalesce(concat(${shown}), '') as v, num_nulls(v) > 0 as empty from t`);
            expect(row?.empty ? 'NULL' : row?.v).toBe(expected);
            await owner.run("set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -15; set search_path = pg_catalog");
            expect(await owner.run('select "other V"::text as v from public.t')).toEqual([first]); // a column without a policy
        }));
});

describe('what a policy cannot be', () => {
    test.each([
        ['sum', 'text'], ['sum', 'citext'], ['sum', 'boolean'], ['sum', 'timestamptz'], ['sum', 'int[]'], ['max', 'json'], ['min', 'xml'], ['max', 'point'],
        ['union', 'text'], ['union', 'int'], ['union', 'json[]'], ['union', 'jsonb'],
    ])('%s of %s is 42804, and nothing changes', (word, type) =>
        withOwner(async (owner) => {
            await owner.run(`create extension citext; create table t (id int primary key, v ${type}); insert into t values (1), (2)`);
            const { hint, detail } = expectError(await owner.attempt(merge(1, 2, `, '{"v": "${word}"}'`)), '42804');
            expect(hint).toContain('coalesce');
            expect(detail).toContain(type.replace('timestamptz', 'timestamp with time zone').replace(/^int/, 'integer'));
            expect(await rows(owner, 't')).toBe('1 |2 ');
        }));

    test.each([
        ['an identity column that is generated always', 'v int generated always as identity'],
        ['a generated column', 'v int generated always as (id) stored'],
        ['a column that others refer to', "v int unique default 1); create table o (v int references t (v)"],
        ['a column that refers to rows of the same table', 'v int references t'],
    ])('%s is refused', (_what, column) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, ${column}); insert into t (id) values (1)`);
            expectError(await owner.attempt(merge(1, 2, `, '{"v": "max"}'`)), '22023');
        }));

    test('a column of the partition key, at any level, is refused', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int, a int, b int, c int, primary key (id, a, b)) partition by list (a);
                create table t1 partition of t for values in (1) partition by range (b); create table t10 partition of t1 default;
                create table x (id int, v int, w int) partition by range ((v + 1)); create table x1 partition of x default; create unique index on x1 (id)`);
            for (const column of ['a', 'b']) {
                expectError(await owner.attempt(`select * from ensure.merge_rows_v1('t', '{"id": 1, "a": 1, "b": 1}', '{"id": 2, "a": 1, "b": 1}', '{"${column}": "max"}')`), '22023');
            }
            expect((await owner.attempt(`select * from ensure.merge_rows_v1('t', '{"id": 1, "a": 1, "b": 1}', '{"id": 2, "a": 1, "b": 1}', '{"c": "max"}')`)).code).toBe('ok');
            expectError(await owner.attempt(merge(1, 2, `, '{"v": "max"}'`, 'x1')), '22023');
            expect((await owner.attempt(merge(1, 2, `, '{"w": "max"}'`, 'x1'))).code).toBe('ok');
        }));

    test('a sum that the column cannot hold, and one that a domain refuses: a coded error, nothing has changed', () =>
        withOwner(async (owner) => {
            await owner.run(`create domain small as int check (value < 10); create table t (id int primary key, v int, p numeric(3, 1), d small);
                insert into t values (1, 2147483647, 99.9, 9), (2, 1, 1, 9); create table c (id int primary key, t int references t); insert into c values (1, 2)`);
            for (const [column, code] of [['v', '22003'], ['p', '22003'], ['d', '23514']] as const) {
                const { hint } = expectError(await owner.attempt(merge(1, 2, `, '{"${column}": "sum"}'`)), code);
                expect(hint).toContain('nothing was changed');
            }
            expect(await rows(owner, 'c')).toBe('1 2');
        }));

    test('union of an array of two dimensions is 0A000', () =>
        withOwner(async (owner) => {
            await owner.run("create table t (id int primary key, v int[]); insert into t values (1, '{1}'), (2, '{{1,2},{3,4}}')");
            expectError(await owner.attempt(merge(1, 2, `, '{"v": "union"}'`)), '0A000');
            expect(await run(owner, merge(1, 2, `, '{"v": "coalesce"}'`))).toEqual(['t deleted 1']);
        }));
});

describe('the keeper is changed in the transaction of the merge', () => {
    test('several columns at once; a keeper that stays what it is is not updated', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create function no() returns trigger language plpgsql as 'begin raise exception $$updated$$; end';
                create trigger no before update on t for each row when (old.id = 4) execute function no()`);
            expect(await run(owner, merge([1, 4], [2, 3], `, '{"name": "keep", "score": "max", "tags": "union"}'`)))
                .toEqual(['c deleted 1', 'c moved 2', 'g moved 2', 't deleted 2', 't updated 1']);
            expect(await rows(owner, 't')).toBe('1 one 5 {a b}|4 four 4 {}');
        }));

    test('the order of losers decides, not that of the table', () =>
        withOwner(async (owner) => {
            await owner.run("create table t (id int primary key, v text, w text[]); insert into t values (1, null, null), (2, 'two', '{two}'), (3, 'three', '{three}'), (4, null, '{four}')");
            await owner.run(merge(1, [4, 3, 2], `, '{"v": "coalesce", "w": "union"}'`));
            expect(await rows(owner, 't')).toBe('1 three {four three two}');
        }));

    test('a value of a unique column is taken over from the loser', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, mail text unique, slug text not null, unique (slug, mail)); insert into t values (1, null, 'x'), (2, 'b@x', 'x'), (3, 'c@x', 'x')`);
            expect(await run(owner, merge(1, [2, 3], `, '{"mail": "coalesce"}'`))).toEqual(['t deleted 2', 't updated 1']);
            expect(await rows(owner, 't')).toBe('1 b@x x');
        }));

    test('negative control: set before the losers go it is 23505, as NS010', () =>
        withOwner(async (owner) => {
            await owner.run("create table t (id int primary key, mail text unique); insert into t values (1, null), (2, 'b@x')");
            await withoutGuard(owner, '_merge_counted_v1', /select array_agg\(d\.relation\) as relations/,
                'perform ensure._set_keepers_v1(target, c_rows, columns_policy, archive, run); select array_agg(d.relation) as relations');
            expectError(await owner.attempt(merge(1, 2, `, '{"mail": "coalesce"}'`)), 'NS010');
        }));

    test('a value that a third row has in a unique index, or that a check refuses, is NS010, and nothing has changed', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, kind text, n int check (n < 10), unique (kind, n));
                insert into t values (1, 'a', 1), (2, 'b', 5), (3, 'a', 5), (4, 'c', 9); create table c (id int primary key, t int references t); insert into c values (1, 2)`);
            expect(expectError(await owner.attempt(merge(1, 2, `, '{"n": "max"}'`)), 'NS010').message).toContain('t_kind_n_key');
            expect(expectError(await owner.attempt(merge(1, 4, `, '{"n": "sum"}'`)), 'NS010').message).toContain('t_n_check');
            expect(await rows(owner, 't')).toBe('1 a 1|2 b 5|3 a 5|4 c 9');
        }));

    test('a column that refers to another table may be taken over', () =>
        withOwner(async (owner) => {
            await owner.run(`create table o (id int primary key); insert into o values (7); create table t (id int primary key, o int references o); insert into t values (1, null), (2, 7)`);
            expect(await run(owner, merge(1, 2, `, '{"o": "coalesce"}'`))).toEqual(['t deleted 1', 't updated 1']);
            expect(await rows(owner, 't')).toBe('1 7');
        }));

    test('a trigger that gives the keeper another value is NS012; negative control: what the loser had is lost', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, score int, note text); insert into t values (1, 1), (2, 5);
                create function old() returns trigger language plpgsql as 'begin new.score := old.score; new.note := $$seen$$; return new; end';
                create trigger old before update on t for each row execute function old()`);
            expect(expectError(await owner.attempt(merge(1, 2, `, '{"score": "sum"}'`)), 'NS012').hint).toContain('trigger');
            expect(await rows(owner, 't')).toBe('1 1 |2 5 ');
            await withoutGuard(owner, '_set_keepers_v1', 'if v_count > 0', 'if false');
            await owner.run(merge(1, 2, `, '{"score": "sum"}'`));
            expect(await rows(owner, 't')).toBe('1 1 seen');
        }));

    test('a trigger that keeps the keeper from being updated is NS012', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create function no() returns trigger language plpgsql as 'begin return null; end';
                create trigger no before update on t for each row execute function no()`);
            expectError(await owner.attempt(merge(1, [2, 3], `, '{"score": "max"}'`)), 'NS012');
            expect(await rows(owner, '(select id, t_id from c) as c')).toBe('10 1|11 2|12 2|13 3|14 4');
        }));
});
