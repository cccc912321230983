import { describe, expect, test } from 'vitest';
import { expectError, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { call, digest, levels, merge, rows, run } from './merging.js';

describe('a table that refers to itself', () => {
    const tree = `create table t (id int primary key, up int references t on delete cascade, k text, name text);
                  create table c (id int primary key, t int references t on delete cascade)`;

    test('the parents of losers and of those that stay, be they losers or not', () =>
        withOwner(async (owner) => {
            await owner.run(`${tree}; insert into t values (1, null, 'a'), (2, null, 'a'), (3, 1, 'b'), (4, 2, 'b'),
                (5, 4, 'c'), (6, 3, 'c'), (7, 6, 'd'), (8, 8, 'e'), (9, 8, 'e');
                insert into c select id, id from t`);
            expect(await run(owner, merge())).toEqual(['c moved 4', 't deleted 4', 't moved 2']);
            expect(await rows(owner, 't')).toBe('1  a |3 1 b |5 3 c |7 5 d |8 8 e ');
            expect(await rows(owner, 'c')).toBe('1 1|2 1|3 3|4 3|5 5|6 5|7 7|8 8|9 8');
        }));

    test.each([
        ['its own parent', "(1, 2, 'a'), (2, null, 'a')"],
        ['its own grandparent', "(1, 3, 'a'), (3, 2, 'b'), (2, null, 'a')"],
        ['above itself through another pair', "(1, 4, 'a'), (2, null, 'a'), (3, 2, 'b'), (4, null, 'b')"],
    ])('a row that would become %s is refused; negative control: without the guard there is a silent circle', (_, values) =>
        withOwner(async (owner) => {
            await owner.run(`${tree}; insert into t (id, up, k) values ${values}`);
            expectError(await owner.attempt(merge()), 'NS010');
            await withoutGuard(owner, '_move_children_v1', 'if child = target then', 'if false then');
            await owner.run(merge());
            expect(await owner.run(`with recursive above as (select id, up from t where id = 1
                                    union select a.id, t.up from above as a join t on t.id = a.up)
                                    select count(*)::int as n from above where id = up`)).toEqual([{ n: 1 }]);
        }));

    test('circles that were there before, and rows that are their own parent, are no obstacle', () =>
        withOwner(async (owner) => {
            await owner.run(`${tree}; insert into t values (1, 1, 'a'), (2, 2, 'a'), (3, 2, 'b'), (10, 12, 'x'), (11, 10, 'y'),
                (12, 11, 'z'), (13, null, 'x'), (14, 13, 'w')`);
            expect(await run(owner, merge())).toEqual(['t deleted 2', 't moved 2']);
            expect(await rows(owner, '(select id, up from t) as x')).toBe('1 1|3 1|10 12|11 10|12 11|14 10');
        }));

    const forest = `${tree}; insert into t values (1, null, 'r', 'r'), (2, null, 'r', 'r'), (11, 1, '11', 'a'),
        (12, 2, '12', 'a'), (13, 2, '13', 'b'),
        (21, 11, '21', 'x'), (22, 12, '22', 'x'), (23, 12, '23', 'y'), (31, 21, '31', 'z'), (32, 22, '32', 'z');
            insert into c select id, id from t`;
    const merged = ['1 |11 1|13 1|21 11|23 11|31 21', '1 1|2 1|11 11|12 11|13 13|21 21|22 21|23 23|31 31|32 31'];

    test('under unique (up, name) whole subtrees are merged level by level', () =>
        withOwner(async (owner) => {
            await owner.run(`${forest}; create unique index on t (up, name)`);
            expectError(await owner.attempt(merge('move')), 'NS010');
            expect(await run(owner, merge())).toEqual(['c moved 4', 't deleted 4', 't moved 2']);
            expect(await rows(owner, '(select id, up from t) as x')).toBe(merged[0]);
            expect(await rows(owner, 'c')).toBe(merged[1]);
        }));

    test('15 levels deep as well, and 20 where it does not go down but round after round', () =>
        withOwner(async (owner) => {
            const deep = (until: number): string =>
                `insert into t select i, i - 2, i::text, ((i + 1) / 2)::text from generate_series(3, ${until}) as i`;
            await owner.run(`${tree}; create unique index on t (up, name);
                insert into t values (1, null, 'r', 'r'), (2, null, 'r', 's'); ${deep(30)}`);
            expect(await run(owner, merge())).toEqual(['t deleted 15']);
            await owner.run(`truncate t, c; drop index t_up_name_idx, t_k_key;
                insert into t values (1, null, 'r', 'r'), (2, null, 'r', 'r'); ${deep(40)}`);
            expect(await run(owner, call(`'t', '{up,name}', keep => 'id', losers => 'delete', children => 'move'`)))
                .toEqual(['t deleted 20', 't moved 19']);
        }));

    test('with up in the key that is to be unique, too: what moves makes new duplicates, until there are none', () =>
        withOwner(async (owner) => {
            await owner.run(forest);
            expect(await run(owner, call(`'t', '{up,name}', keep => 'id', losers => 'delete', children => 'move'`)))
                .toEqual(['c moved 4', 't deleted 4', 't moved 5']);
            expect(await rows(owner, '(select id, up from t) as x')).toBe(merged[0]);
            expect(await rows(owner, 'c')).toBe(merged[1]);
        }));

    test('losers that stay: they and what refers to them refer to rows that are kept, level by level', () =>
        withOwner(async (owner) => {
            await owner.run(`${forest}; alter table t add gone boolean not null default false`);
            await run(owner, call(`'t', '{up,name}', 'not gone', keep => 'id', losers => 'update', loser_set => 'gone = true',
                children => 'move'`));
            expect(await rows(owner, '(select id, up from t where not gone) as x')).toBe(merged[0]);
            expect(await rows(owner, '(select id from t where gone) as x')).toBe('2|12|22|32');
            expect(await rows(owner, '(select t.id from t join t as u on u.id = t.up where u.gone) as x')).toBe('');
            expect(await rows(owner, 'c')).toBe(merged[1]);
        }));

    test('rows of the same table that collide are merged into one that may itself be a keeper', () =>
        withOwner(async (owner) => {
            await owner.run(`${tree}; create unique index on t (up, name);
                insert into t values (1, null, 'a', 'a'), (2, null, 'a', 'b'), (3, 1, 'c', 'x'), (4, 2, 'd', 'x'),
                    (5, null, 'd', 'y'), (6, 5, 'e', 'z');
                insert into c select id, id from t`);
            await run(owner, merge()); // 2 goes into 1, 5 into 4, which then is what 3 is
            expect(await rows(owner, '(select id, up, k, name from t) as x')).toBe('1  a a|3 1 c x|6 3 e z');
            expect(await rows(owner, 'c')).toBe('1 1|2 1|3 3|4 3|5 3|6 6');
        }));

    test('a loser still in the way of a row that moves: a coded error', () =>
        withOwner(async (owner) => {
            await owner.run(`${tree}; create unique index on t (up, name);
                insert into t values (1, null, 'a', 'a'), (2, null, 'a', 'b'), (3, null, 'z', 'z'), (4, 1, 'z', 'n'),
                    (5, 2, 'y', 'n')`);
            const outcome = await owner.attempt(merge());
            expectError(outcome, 'NS010');
        }));
});

describe('tables that refer to each other', () => {
    const circle = `create table t (id int primary key, k text, c int, name text, unique (c, name));
        create table c (id int primary key, t int references t on delete cascade, tag text, unique (t, tag));
        alter table t add foreign key (c) references c on delete cascade;
        create table d (id int primary key, t int references t on delete cascade, c int references c on delete cascade)`;

    test('merges lead back to the first table, to rows that are neither kept nor go', () =>
        withOwner(async (owner) => {
            await owner.run(`${circle}; insert into t values (1, 'a', null, 'a'), (2, 'a', null, 'b');
                insert into c values (1, 1, 'x'), (2, 2, 'x');
                insert into t values (3, 'c', 1, 'n'), (4, 'd', 2, 'n'), (5, 'e', 2, 'm');
                insert into d values (1, 1, 1), (2, 2, 2), (3, 3, null), (4, 4, null), (5, 5, null)`);
            await run(owner, merge());
            expect(await rows(owner, 't')).toBe('1 a  a|3 c 1 n|5 e 1 m');
            expect(await rows(owner, 'c')).toBe('1 1 x');
            expect(await rows(owner, 'd')).toBe('1 1 1|2 1 1|3 3 |4 3 |5 5 ');
        }));

    test('to one that was to stay, or to go: what referred to it refers to what it became', () =>
        withOwner(async (owner) => {
            await owner.run(`${circle}; insert into t values (1, 'a', null, 'a'), (2, 'a', null, 'b');
                insert into c values (1, 1, 'x'), (2, 2, 'x');
                insert into t values (3, 'z', 1, 'n'), (4, 'b', 2, 'n'), (5, 'b', null, 'q'), (6, 'y', null, 'w'),
                    (7, 'y', 1, 'v'), (8, 'u', 2, 'v');
                insert into d select id, id, null from t`);
            await run(owner, merge()); // 4, that 5 goes into, goes into 3; 7 goes into 6, or 8 into it before
            expect(await rows(owner, '(select id, k from t) as x')).toBe('1 a|3 z|6 y');
            expect(await rows(owner, 'd')).toBe('1 1 |2 1 |3 3 |4 3 |5 3 |6 6 |7 6 |8 6 ');
        }));

    test('rows in a circle lead to merges without end: a coded error; negative control: without the guard they do not end',
        () =>
        withOwner(async (owner) => {
            await owner.run(`${circle}; insert into t values (1, 'a', null, 'a'), (2, 'a', null, 'a');
                insert into c values (1, 1, 'x'), (2, 2, 'x');
                update t set c = id`);
            const { detail } = expectError(await owner.attempt(merge()), 'NS010');
            expect(detail).toContain('public.t, public.c');
            await withoutGuard(owner, '_merge_level_v1', '> 60', '> 60000');
            await owner.run("set statement_timeout = '10 s'");
            expect((await owner.attempt(merge())).code).toMatch(/^(54001|57014)$/); // the stack or the time is out
        }));
});

describe('triggers', () => {
    const trigger = (table: string, when: string, body: string): string => `${levels}
        create function act() returns trigger language plpgsql as $$ begin ${body} end $$;
        create trigger act ${when} on ${table} for each row execute function act()`;

    test.each([
        ['keeps a child from moving', 'c', 'before update', 'return null;'],
        ['keeps a child from going', 'c', 'before delete', 'return null;'],
        ['keeps a grandchild from moving', 'h', 'before update', 'return case when old.id = 1004 then null else new end;'],
        ['keeps a loser from going', 't', 'before delete', 'return case when old.id = 4 then null else old end;'],
        ['deletes children', 'c', 'after update', 'delete from public.c where id = 14; return null;'],
        ['deletes grandchildren', 't', 'after delete', 'delete from public.h where id = 1005; return null;'],
        ['adds children', 't', 'after delete', "insert into public.c values (90 + old.id, 3, old.id); return null;"],
        ['takes the row that stays', 'h', 'after update',
            'delete from public.c where t = 1; delete from public.t where id = 1; return null;'],
        ['changes the row that goes, before', 't', 'before delete', "update public.t set k = 'z' where id = old.id; return old;"],
    ])('one that %s: NS012, and everything is as it was', (_, table, when, body) =>
        withOwner(async (owner) => {
            await owner.run(trigger(table, when, body));
            const before = await digest(owner);
            expectError(await owner.attempt(merge()), 'NS012');
            expect(await digest(owner)).toEqual(before);
        }));

    const endless: [what: string, setup: string, statement: string, code: string][] = [
        ['a trigger that puts back what is deleted', `create table t (id int primary key, k text); create table c (t int references t);
            insert into t values (1, 'a'), (2, 'a');
            create function act() returns trigger language plpgsql as 'begin insert into public.t values (old.id, old.k); return null; end';
            create trigger act after delete on t for each row execute function act()`, merge('move'), 'NS012'],
        ['a loser_set that changes nothing but the primary key', `create table t (id uuid primary key default gen_random_uuid(), k text, n int);
            insert into t (k, n) values ('a', 1), ('a', 2)`,
        call("'t', '{k}', keep => 'n', losers => 'update', loser_set => 'id = gen_random_uuid()'"), 'NS009'],
        ['the same in a table that refers to itself', `create table t (id uuid primary key default gen_random_uuid(), k text, n int, up uuid references t);
            insert into t (k, n) values ('a', 1), ('a', 2)`,
        call("'t', '{k}', keep => 'n', losers => 'update', loser_set => 'id = gen_random_uuid()', children => 'move'"), 'NS009'],
    ];
    test.each(endless)('%s: a coded error; negative control: without counting rounds it does not end', (_, setup, statement, code) =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; set statement_timeout = '5 s'`);
            expectError(await owner.attempt(statement), code);
            await withoutGuard(owner, '_dedupe_v1', /perform ensure\._check_round_v1[^;]*;/);
            await owner.run("set statement_timeout = '500 ms'");
            expect((await owner.attempt(statement)).code).toBe('57014');
        }));

    test('where nothing refers to the table as well', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'a'), (2, 'a'), (3, 'b');
                create function act() returns trigger language plpgsql as 'begin return null; end';
                create trigger act before delete on t for each row execute function act()`);
            expectError(await owner.attempt(merge()), 'NS012');
            await owner.run(`create or replace function act() returns trigger language plpgsql as
                'begin if old.id = 2 then delete from public.t where id = 3; end if; return old; end'`);
            expectError(await owner.attempt(merge()), 'NS012');
            expect(await rows(owner, 't')).toBe('1 a|2 a|3 b');
        }));

    test('negative control: without the checks the row that was not moved goes by the cascade', () =>
        withOwner(async (owner) => {
            await owner.run(trigger('h', 'before update', 'return case when old.id = 1004 then null else new end;'));
            await withoutGuard(owner, '_move_children_v1', 'if v_left > 0 or v_archived <> v_count then', 'if false then');
            expectError(await owner.attempt(merge()), 'NS012'); // now by the count of rows
            await withoutGuard(owner, '_check_counts_v1', 'if v_wrong is not null', 'if false');
            await owner.run(merge());
            expect(await rows(owner, '(select id from h) as x')).toBe('1000|1001|1002|1003|1005');
        }));

    test('a trigger function that finds its tables only by the search_path of the session: NS012, and a hint what it needs', () =>
        withOwner(async (owner) => {
            await owner.run(trigger('c', 'after update', "perform count(*) from h; return null;"));
            const { detail, hint } = expectError(await owner.attempt(merge()), 'NS012');
            expect(detail).toContain('42P01');
            expect(hint).toContain('search_path');
            await owner.run('alter function act set search_path = public');
            await owner.run(merge());
        }));

    test('those of users fire as usual, once for each row that changes or goes', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} create table log (id serial, line text);
                create function act() returns trigger language plpgsql as
                    $$ begin insert into public.log (line) values (concat(tg_table_name, ' ', tg_op, ' ', old.id)); return null;
                        end $$;
                create trigger act after update or delete on t for each row execute function act();
                create trigger act after update or delete on c for each row execute function act();
                create trigger act after update or delete on h for each row execute function act()`);
            await owner.run(merge());
            expect(await rows(owner, '(select line from log) as x')).toBe(
                'c DELETE 11|c DELETE 13|c UPDATE 12|h UPDATE 1001|h UPDATE 1004|t DELETE 2|t DELETE 4');
        }));
});
