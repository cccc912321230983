import { describe, expect, test } from 'vitest';
import { expectError, major, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { call, merge, rows, run } from './merging.js';

describe('foreign keys', () => {
    test('of several columns, one of which may be null', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (a int, b text, id int not null, k text, primary key (a, b));
                insert into t values (1, 'x', 1, 'k'), (2, 'y', 2, 'k'), (2, 'z', 3, 'k');
                create table c (id int primary key, ta int, tb text, foreign key (tb, ta) references t (b, a) on delete cascade);
                insert into c values (1, 1, 'x'), (2, 2, 'y'), (3, 2, 'z'), (4, 2, null), (5, null, 'z')`);
            expect(await run(owner, merge())).toEqual(['c moved 2', 't deleted 2']);
            expect(await rows(owner, 'c')).toBe('1 1 x|2 1 x|3 1 x|4 2 |5  z');
        }));

    test('MATCH FULL', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int, b text, k text, primary key (id, b)); insert into t values (1, 'x', 'k'),
                (2, 'y', 'k');
                create table c (id int primary key, ta int, tb text, foreign key (ta, tb) references t match full);
                insert into c values (1, 1, 'x'), (2, 2, 'y'), (3, null, null)`);
            expect(await run(owner, merge())).toEqual(['c moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1 x|2 1 x|3  ');
        }));

    test('to a unique key that is not the primary key, beside one to the primary key, of other types', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id bigint primary key, code varchar(5) not null unique, k text);
                insert into t values (1, 'one', 'k'), (2, 'two', 'k');
                create table c (id int primary key, t int references t, code text references t (code) on update cascade);
                insert into c values (1, 1, 'two'), (2, 2, 'one'), (3, 2, 'two'), (4, null, 'two')`);
            expect(await run(owner, merge())).toEqual(['c moved 4', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1 one|2 1 one|3 1 one|4  one');
        }));

    test('to a key that the row that is kept has not: refused; negative control: without the guard the reference is lost', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, code text unique, k text); insert into t values (1, null, 'k'),
                (2, 'two', 'k');
                create table c (id int primary key, code text references t (code)); insert into c values (1, 'two')`);
            const { detail } = expectError(await owner.attempt(merge()), 'NS010');
            expect(detail).toContain('null');
            await withoutGuard(owner, '_check_moves_v1', 'if c_moves.trouble is not null', 'if false');
            await owner.run(merge());
            expect(await rows(owner, 'c')).toBe('1 ');
        }));

    test('several from one child to the target: both move in one row, and may collide', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t select i, 'k' || i % 3
                from generate_series(1, 9) as i;
                create table c (id int primary key, a int references t, b int references t, unique (a, b));
                insert into c values (1, 4, 5), (2, 1, 5), (3, 7, 8), (4, 3, null), (5, null, 6), (6, 2, 9), (7, 1, 1),
                    (8, 7, 4)`);
            expectError(await owner.attempt(merge('move')), 'NS010');
            expect(await run(owner, merge())).toEqual(['c deleted 3', 'c moved 3', 't deleted 6']);
            expect(await rows(owner, 'c')).toBe('1 1 2|4 3 |5  3|6 2 3|7 1 1');
        }));

    test('that share a column: refused where it changes; negative control: the other one comes to refer elsewhere', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int unique, tenant int, k text, primary key (tenant, id));
                insert into t values (1, 1, 'k'), (2, 1, 'k'), (3, 1, 'm'), (4, 2, 'm'), (5, 2, 'n');
                create table p (tenant int, id int, name text, primary key (tenant, id)); insert into p values (1, 1, 'ours'),
                    (2, 1, 'theirs');
                create table c (id int primary key, tenant int, a int, b int, p int, foreign key (tenant, a)
                    references t (tenant, id),
                    foreign key (tenant, b) references t (tenant, id), foreign key (tenant, p) references p (tenant, id));
                insert into c values (1, 1, 2, 1, 1), (2, 1, 3, 2, 1), (3, 2, 4, null, null)`);
            expect(await run(owner, merge())).toEqual(['c moved 3', 't deleted 2']);
            expect(await rows(owner, 'c')).toBe('1 1 1 1 1|2 1 3 1 1|3 1 3  ');
            await owner.run(`drop index t_k_key; insert into t values (4, 2, 'm'); insert into c values (4, 2, 4, null, 1)`);
            const { detail } = expectError(await owner.attempt(merge()), 'NS010');
            expect(detail).toContain('c_tenant_p_fkey');
            await owner.run('update c set p = null, b = 5 where id = 4');
            expect(expectError(await owner.attempt(merge()), 'NS010').detail).toContain('c_tenant_b_fkey');
            await owner.run('update c set p = 1, b = null where id = 4');
            await withoutGuard(owner, '_check_moves_v1', 'if c_moves.trouble is not null', 'if false');
            await owner.run(merge());
            expect(await rows(owner,
                '(select c.id, p.name from c join p on (p.tenant, p.id) = (c.tenant, c.p)) as x')).toBe('1 ours|2 ours|4 ours');
        }));

    test.each([
        ['on delete set null', 'on delete set null on update cascade'],
        ['on delete set default', 'on delete set default'],
        ['on delete restrict', 'on delete restrict on update restrict'],
        ['not valid', 'not valid'],
        ['deferrable initially deferred', 'deferrable initially deferred'],
        ['deferrable', 'deferrable'],
    ])('%s: the children of losers are moved before these go, and the index is made', (_, how) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
                create table c (id int primary key, t int default 1); insert into c values (1, 1), (2, 2), (3, null);
                alter table c add foreign key (t) references t ${how}`);
            expect(await run(owner, merge())).toEqual(['c moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1|2 1|3 ');
        }));

    test('deferred: rows of this transaction that wait for their check are no obstacle, and later ones may wait again', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
                create table c (id int primary key, t int references t deferrable initially deferred)`);
            await owner.run('begin');
            await owner.run('insert into c values (1, 2), (2, 7); insert into t values (7, \'m\')');
            expect(await run(owner, merge())).toEqual(['c moved 1', 't deleted 1']);
            await owner.run('insert into c values (3, 8)');
            await owner.run("insert into t values (8, 'n')");
            await owner.run('commit');
            expect(await rows(owner, 'c')).toBe('1 1|2 7|3 8');
        }));

    test('without an index on the child, in a table without a primary key, all null', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int unique, k text); insert into t values (1, 'k'), (2, 'k'), (null, 'k'),
                (null, 'm');
                create table c (t int references t (id), note text); insert into c values (2, 'a'), (2, 'a'), (1, 'b'),
                    (null, 'c')`);
            expect(await run(owner, merge('move'))).toEqual(['c moved 2', 't deleted 2']);
            expect(await rows(owner, 'c', '2, 1')).toBe('1 a|1 a|1 b| c');
        }));

    const types: [string, string, string, string?][] = [
        ['uuid', "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"],
        ['varchar(36)', "' a,\"b\\'", "''"],
        ['char(4)', "'a'", "'b'"],
        ['numeric', '1.10', '2.000'],
        ['float8', '0.1', "0.1::float8 + 0.2"],
        ['timestamptz', "'2026-11-21 12:00:00.000001+02'", "'infinity'"],
        ['interval', "'1 mon 2 days -00:00:03.5'", "'-1 day'"],
        ['bytea', "'\\x00ff'", "''"],
        ['jsonb', `'{"a": [1, null]}'`, "'null'"],
        ['int[]', "'{1,null}'", "'{}'"],
        ['mood', "'fine'", "'bad'", "create type mood as enum ('fine', 'bad')"],
        ['pair', "(1, 'a,\"b')", '(null, null)', 'create type pair as (n int, s text)'],
        ['short', "'a'", "'b'", "create domain short as varchar(9) check (value <> '')"],
        ['citext', "'A'", "'b'", 'create extension citext'],
        ['mail', "'A@x'", "'b@x'", "create extension citext; create domain mail as citext check (value ~ '@')"],
        ['hstore', "'a=>1'", "'b=>null'", 'create extension hstore'],
        ['bit(3)', "b'101'", "b'000'"],
        ['inet', "'10.0.0.1/8'", "'::1'"],
        ['int4range', "'[1,3)'", "'empty'"],
        ['name', "'A'", "'b'"],
    ];
    test.each(types)('keys of type %s', (type, one, two, setup = 'select') =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; set extra_float_digits = 0; set datestyle = 'German'; set intervalstyle = 'iso_8601';
                set bytea_output = 'escape'`);
            await owner.run(`create table t (key ${type} primary key, k text, id int); insert into t values (${one}, 'k', 1),
                (${two}, 'k', 2);
                create table c (key ${type} references t on delete cascade, id int, primary key (key, id));
                insert into c values (${one}, 1), (${two}, 1), (${two}, 2);
                create table g (key ${type}, id int, note text, foreign key (key, id)
                    references c on update cascade on delete cascade);
                insert into g select key, id, 'g' from c`);
            expect(await run(owner, merge())).toEqual(['c deleted 1', 'c moved 1', 'g moved 1', 't deleted 1']);
            expect(await owner.run('select count(*)::int as n from g join t using (key)')).toEqual([{ n: 3 }]);
        }));

    const narrower: [key: string, column: string, kept: string, goes: string, stranger: string][] = [
        ['text', 'varchar(3)', "'abcdef'", "'x'", "'abc'"],
        ['numeric', 'numeric(5,0)', '1.4', '7', '1'],
        ['numeric', 'numeric(3,0)', '1000', '7', '1'],
        ['numeric', 'int', '1.4', '7', '1'],
        ['bigint', 'int', '5000000000', '7', '1'],
        ['bigint', 'digit', '10', '7', '1'],
        ['timestamp', 'timestamp(0)', "'2026-01-01 00:00:00.4'", "'2026-02-01'", "'2026-01-01'"],
        ['timestamp', 'date', "'2026-01-01 00:00:01'", "'2026-02-01'", "'2026-01-01'"],
    ];
    const narrow = (key: string, column: string, kept: string, goes: string, stranger: string): string => `
        create domain digit as int check (value < 10);
        create table t (id ${key} primary key, k text, n int); insert into t values (${kept}, 'k', 1), (${goes}, 'k', 2), (${stranger}, 'm', 3);
        create table c (id int primary key, t ${column} unique references t); insert into c values (1, ${goes}), (2, ${stranger})`;
    const first = (children: string): string => call(`'t', '{k}', keep => 'n', losers => 'delete', children => '${children}'`);
    test.each(narrower)('a key of type %s that a column of type %s cannot hold: NS010, also from the check; nothing is changed', (...types) =>
        withOwner(async (owner) => {
            await owner.run(narrow(...types));
            const before = await rows(owner, 'c');
            for (const children of ['move', 'merge']) {
                const { message, detail } = expectError(await owner.attempt(first(children)), 'NS010');
                expect(message).toMatch(/^1 rows/);
                expect(detail).toContain('t of public.c cannot hold ');
            }
            expect(await rows(owner, 'c')).toBe(before);
            expect(await owner.run(`select row_count::int from ensure.check_duplicates_v1('t', '{k}', keep => 'n') where finding = 'cannot move'`))
                .toEqual([{ row_count: 1 }]);
        }));

    test('negative control: without that the value is cut, and the row refers to another', () =>
        withOwner(async (owner) => {
            await owner.run(`${narrow('text', 'varchar(3)', "'abcdef'", "'x'", "'abc'")}; delete from c where id = 2`);
            await withoutGuard(owner, '_check_moves_v1', 'if c_moves.trouble is not null', 'if false');
            await owner.run(first('move'));
            expect(await rows(owner, 'c')).toBe('1 abc');
        }));

    test.each([
        ['numeric(10,2)', 'int', '4.00', '7', '1'], ['bigint', 'int', '4', '7', '1'], ['int', 'bigint', '4', '7', '1'],
        ['bigint', 'digit', '4', '7', '1'], ['varchar(5)', 'varchar(3)', "'4'", "'7'", "'1'"],
    ])('a key of type %s that a column of another type (%s) can hold is moved', (...types) =>
        withOwner(async (owner) => {
            await owner.run(narrow(...types));
            expect(await run(owner, first('move'))).toEqual(['c moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 4|2 1');
        }));

    test('citext: what is equal to the index is equal to the move, on both sides', () =>
        withOwner(async (owner) => {
            await owner.run(`create extension citext; create table t (id citext primary key, k citext);
                insert into t values ('A', 'K'), ('b', 'k');
                create table c (id int primary key, t citext references t, tag citext, unique (t, tag));
                insert into c values (1, 'a', 'x'), (2, 'B', 'X'), (3, 'b', 'y')`);
            expect(await run(owner, merge())).toEqual(['c deleted 1', 'c moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 a x|3 A y');
        }));

    test('with another collation than the key', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id text collate "C" primary key, k text); insert into t values ('a', 'k'),
                ('b', 'k');
                create table c (id int primary key, t text collate "POSIX" references t, unique (t, id));
                    insert into c values (1, 'b'), (2, 'a')`);
            expect(await run(owner, merge())).toEqual(['c moved 1', 't deleted 1']);
        }));

    test('names that need quotes, and ones of the functions\' own aliases', () =>
        withOwner(async (owner) => {
            await owner.run(`create schema "S p"; create table "S p"."T'1" ("I d" int primary key, "K""" text);
                insert into "S p"."T'1" values (1, 'k'), (2, 'k');
                create table "S p".c (c int primary key, "m" int references "S p"."T'1", p1 text, l text, unique (m, p1));
                insert into "S p".c values (1, 1, 'x'), (2, 2, 'x'), (3, 2, 'y');
                create table "S p".k (k int primary key, found int references "S p".c on delete cascade);
                insert into "S p".k values (1, 2)`);
            expect(await run(owner, call(`'"S p"."T''1"', '{"\\"K\\"\\"\\""}', keep => '"I d"', losers => 'delete',
                children => 'merge'`)))
                .toEqual(['"S p".c deleted 1', '"S p".c moved 1', '"S p".k moved 1', '"S p"."T\'1" deleted 1']);
            expect(await rows(owner, '"S p".c')).toBe('1 1 x |3 1 y ');
        }));
});

describe.skipIf(major < 18)('NOT NULL that is NOT VALID says nothing about the rows there are', () => {
    const device = `create table t (id int primary key, k text);
        create table c (id int primary key, t int references t, device text, unique (t, device));
        insert into t values (1, 'k'), (2, 'k'); insert into c values (10, 1, null), (11, 2, null), (12, 2, null);
        alter table c add constraint filled not null device not valid`;

    test('in a unique index of a child: nulls do not collide; the server lets no row with one be moved, which is NS010', () =>
        withOwner(async (owner) => {
            await owner.run(device);
            for (const children of ['move', 'merge']) {
                expect(expectError(await owner.attempt(merge(children)), 'NS010').detail).toMatch(/^23502/);
            }
            expect(await rows(owner, 'c')).toBe('10 1 |11 2 |12 2 ');
        }));

    test('negative control: if attnotnull is trusted, rows that are no duplicates are deleted', () =>
        withOwner(async (owner) => {
            await owner.run(device);
            await withoutGuard(owner, '_not_null_v1', /and not exists[^]*not n\.convalidated\)/);
            expect(await run(owner, merge())).toEqual(['c deleted 2', 't deleted 1']);
        }));

    test('in a referenced column of the row that is kept: NS010, and the reference is not lost', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, code text unique, k text); create table c (id int primary key, code text references t (code));
                insert into t values (1, null, 'k'), (2, 'x', 'k'); insert into c values (10, 'x');
                alter table t add constraint filled not null code not valid`);
            expect(expectError(await owner.attempt(merge()), 'NS010').detail).toContain('null');
            expect(await rows(owner, 'c')).toBe('10 x');
        }));

    test('in the only unique index: it does not tell rows apart', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (code text unique, k text, id int); insert into t values (null, 'a', 1), ('x', 'a', 2), (null, 'a', 3), ('y', 'b', 4);
                alter table t add constraint filled not null code not valid; create table c (code text references t (code))`);
            expect(await run(owner, merge('move'))).toEqual(['t deleted 2']);
            expect(await rows(owner, '(select id from t) as x')).toBe('1|4');
        }));
});
