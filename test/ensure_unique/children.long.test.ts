import { describe, expect, test } from 'vitest';
import { expectError, major, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { call, digest, levels, lines, merge, rows, run } from './merging.js';

describe('three levels', () => {
    test('refuse: rows that refer to losers are counted by foreign key, a cascade is named, and nothing changes', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} create table d (id int primary key, p int constraint one references t,
                             q int constraint other references t on delete set null);
                             insert into d values (1, 2, 4), (2, 4, 1), (3, 3, 3)`);
            const before = await digest(owner);
            const { detail } = expectError(await owner.attempt(merge('refuse')), 'NS010');
            expect(detail.replaceAll('public.', '')).toBe(
                '3 rows of c by c_t_fkey (on delete cascade); 2 rows of d by one; 1 rows of d by other (on delete set null).');
            expect(await digest(owner)).toEqual(before);
            await owner.run('delete from d; delete from c where t in (2, 4)');
            expect(await run(owner, merge('refuse'))).toEqual(['t deleted 2']);
        }));

    test('negative control: what is not refused the count of rows finds; without both guards the cascade destroys it', () =>
        withOwner(async (owner) => {
            await owner.run(levels);
            await withoutGuard(owner, '_check_children_ahead_v1', "if children = 'refuse' then", 'if false then');
            expectError(await owner.attempt(merge('refuse')), 'NS010');
            await withoutGuard(owner, '_merge_level_v1', "if children = 'refuse' then", 'if false then');
            expectError(await owner.attempt(merge('refuse')), 'NS012');
            await withoutGuard(owner, '_check_counts_v1', 'if v_wrong is not null', 'if false');
            await owner.run(merge('refuse'));
            expect(await rows(owner, 'h')).toBe('1000 100 a|1005 105 f');
        }));

    test('move: what would collide is refused with its number and the index, and nothing changes', () =>
        withOwner(async (owner) => {
            await owner.run(levels);
            const before = await digest(owner);
            const { message, detail } = expectError(await owner.attempt(merge('move')), 'NS010');
            expect(message).toContain('2 rows');
            expect(detail).toContain('c_t_tag_key');
            expect(detail).toContain('c_t_fkey');
            expect(await digest(owner)).toEqual(before);
        }));

    test('move: rows are updated where they are, keep their keys and what refers to them; others are not written', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} delete from c where id in (11, 13)`);
            const others = '(select id, xmin, ctid from c where id <> 12 union all select id, xmin, ctid from g) as x';
            const untouched = await rows(owner, others);
            expect(await run(owner, merge('move'))).toEqual(['c moved 1', 't deleted 2']);
            expect(await rows(owner, 'c')).toBe('10 1 x|12 1 y|14 3 x|15  x');
            expect(await rows(owner, others)).toBe(untouched);
        }));

    test('merge: what collides is merged one level down, and so on; the lowest level keeps all its rows', () =>
        withOwner(async (owner) => {
            await owner.run(levels);
            expect(await run(owner, merge())).toEqual([
                'c deleted 2', 'c moved 1', 'g deleted 2', 'g moved 1', 'h moved 2', 't deleted 2']);
            expect(await rows(owner, 't')).toBe('1 a|3 b');
            expect(await rows(owner, 'c')).toBe('10 1 x|12 1 y|14 3 x|15  x');
            expect(await rows(owner, 'g')).toBe('100 10 1|102 10 2|103 12 1|105 14 1');
            expect(await rows(owner, 'h')).toBe('1000 100 a|1001 100 b|1002 102 c|1003 103 d|1004 103 e|1005 105 f');
        }));

    test('negative control: without looking for collisions a constraint breaks, which is NS010 with its name',
        () =>
        withOwner(async (owner) => {
            await owner.run(levels);
            await withoutGuard(owner, '_collisions_v1', 'if child_losers is not null', 'child_losers := null; if false');
            const { message } = expectError(await owner.attempt(merge()), 'NS010');
            expect(message).toContain('c_t_tag_key');
        }));

    test('leave is for losers that stay: nothing moves; with losers that are deleted it is refused', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} alter table t add gone boolean not null default false`);
            expectError(await owner.attempt(merge('leave')), '22023');
            expect(await run(owner, call(`'t', '{k}', 'not gone', keep => 'id', losers => 'update', loser_set => 'gone = true',
                                          children => 'leave'`))).toEqual(['t updated 2']);
            expect(await rows(owner, 'c')).toBe('10 1 x|11 2 x|12 2 y|13 4 y|14 3 x|15  x');
        }));

    test('losers that stay give up their children as well, when these move', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} alter table t add gone boolean not null default false`);
            expect(await run(owner, call(`'t', '{k}', 'not gone', keep => 'id', losers => 'update', loser_set => 'gone = true',
                                          children => 'merge'`)))
                .toEqual(['c deleted 2', 'c moved 1', 'g deleted 2', 'g moved 1', 'h moved 2', 't updated 2']);
            expect(await rows(owner, 't')).toBe('1 a f|2 a t|3 b f|4 a t');
            expect(await rows(owner, '(select distinct c.t from c join t on t.id = c.t where t.gone) as x')).toBe('');
        }));

    test('a loser_set that changes nothing of what is compared is refused, and one that breaks another constraint', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} alter table t add gone boolean, add code text unique`);
            const soft = (set: string) => call(`'t', '{k}', 'gone is null', keep => 'id', losers => 'update',
                loser_set => '${set}',
                                                children => 'leave'`);
            expectError(await owner.attempt(soft('code = id')), 'NS009');
            const { message } = expectError(await owner.attempt(soft('gone = true, code = 1')), 'NS010');
            expect(message).toContain('t_code_key');
            expect(await run(owner, soft('gone = true'))).toEqual(['t updated 2']);
        }));

    test('every row that goes or changes is in the archive, with its old values', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} create table a (place bigint generated always as identity primary key, run uuid not null,
                             relation text not null, action text not null, key jsonb, old jsonb, new jsonb,
                             archived_at timestamptz not null default now())`);
            const outcome = await run(owner, merge('merge', ", archive => 'a'"));
            expect(outcome.at(-1)).toMatch(/^[0-9a-f-]{36} archived 10$/);
            expect(await rows(owner, `(select replace(relation, 'public.', '') as r, action, key ->> 'id' as id,
                                              coalesce(old ->> 't', old ->> 'c', old ->> 'g', old ->> 'k') as old,
                                              coalesce(new ->> 't', new ->> 'c', new ->> 'g') as new from a) as x`, '1, 2, 3'))
                .toBe('c deleted 11 2 |c deleted 13 4 |c moved 12 2 1|g deleted 101 11 |g deleted 104 13 |g moved 102 11 10|'
                    + 'h moved 1001 101 100|h moved 1004 104 103|t deleted 2 a |t deleted 4 a ');
        }));
});

describe('partitions', () => {
    test('a partitioned child with a grandchild', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
                create table c (id int, r int, t int references t on delete cascade, tag text, primary key (id, r),
                    unique (r, t, tag))
                    partition by list (r);
                create table c1 partition of c for values in (1); create table c2 partition of c for values in (2);
                create table g (id int primary key, c int, r int, foreign key (c, r) references c on delete cascade);
                insert into c values (1, 1, 1, 'x'), (2, 1, 2, 'x'), (3, 2, 2, 'x'), (4, 2, 1, 'y');
                insert into g values (1, 1, 1), (2, 2, 1), (3, 3, 2)`);
            expect(await run(owner, merge())).toEqual(['c deleted 1', 'c moved 1', 'g moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1 1 x|3 2 1 x|4 2 1 y');
            expect(await rows(owner, 'g')).toBe('1 1 1|2 1 1|3 3 2');
        }));

    test('a foreign key and a unique index on a single partition', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
                create table c (id int, r int, junk int, t int, tag text) partition by list (r);
                create table c1 partition of c for values in (1); create table c2 partition of c for values in (2);
                alter table c1 add foreign key (t) references t on delete cascade, add unique (t, tag);
                alter table c2 add primary key (id);
                insert into c values (1, 1, 0, 1, 'x'), (2, 1, 0, 2, 'x'), (3, 1, 0, 2, 'y'), (4, 2, 0, 2, 'x')`);
            expect(await run(owner, merge())).toEqual(['c1 deleted 1', 'c1 moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1 0 1 x|3 1 0 1 y|4 2 0 2 x');
        }));

    test('foreign keys on the table and on one of its partitions, a unique index of a partition', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
                create table c (id int, r int, t int references t, u int, tag text) partition by list (r);
                create table c1 (tag text, u int references t on delete cascade, t int, r int, id int primary key, unique (t, u));
                alter table c attach partition c1 for values in (1); create table c2 partition of c for values in (2);
                insert into c values (1, 1, 1, 1, 'x'), (2, 1, 2, 1, 'x'), (3, 1, 2, 2, 'y'), (4, 2, 2, 2, 'x'),
                    (5, 1, 1, 2, 'z')`);
            expect(await run(owner, merge())).toEqual(expect.arrayContaining(['t deleted 1']));
            expect(await rows(owner, 'c')).toBe('1 1 1 1 x|4 2 1 2 x');
        }));

    test('a partitioned target, referenced as a whole and in one partition', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int, k int, primary key (id, k)) partition by list (k);
                create table t1 partition of t for values in (1); create table t2 partition of t for values in (2);
                insert into t values (1, 1), (2, 1), (3, 2), (4, 2);
                create table c (id int primary key, t int, k int, foreign key (t, k) references t on delete cascade,
                    unique (t, id));
                create table d (id int primary key, t int, k int, foreign key (t, k) references t1 on delete cascade);
                insert into c values (1, 1, 1), (2, 2, 1), (3, 4, 2); insert into d values (1, 1, 1), (2, 2, 1)`);
            expect(await run(owner, merge())).toEqual(['c moved 2', 'd moved 1', 't deleted 2']);
            expect(await rows(owner, 'c')).toBe('1 1 1|2 1 1|3 3 2');
            expect(await rows(owner, 'd')).toBe('1 1 1|2 1 1');
        }));

    test('a single partition as target, referenced through its table', () =>
        withOwner(async (owner) => {
            await owner.run(`create table p (id int, r int, k text, primary key (id, r)) partition by list (r);
                create table t partition of p for values in (1); create table t2 partition of p for values in (2);
                insert into p values (1, 1, 'k'), (2, 1, 'k'), (3, 2, 'k');
                create table c (id int primary key, t int, r int, foreign key (t, r) references p on delete cascade);
                insert into c values (1, 1, 1), (2, 2, 1), (3, 3, 2)`);
            expect(await run(owner, merge())).toEqual(['c moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1 1|2 1 1|3 3 2');
        }));

    test('rows that change partition when they move: they and what refers to them are there, or nothing is changed', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
                create table c (t int references t on delete cascade, id int, primary key (t, id)) partition by list (t);
                create table c1 partition of c for values in (1); create table c2 partition of c for values in (2);
                create table g (id int primary key, t int, c int, foreign key (t, c)
                    references c on update cascade on delete cascade);
                insert into c values (1, 1), (2, 1), (2, 2); insert into g values (1, 1, 1), (2, 2, 1), (3, 2, 2)`);
            const outcome = await owner.attempt(merge());
            if (major < 15) expectError(outcome, 'NS012'); // that server deletes a row that changes partition, and cascades
            else expect(lines(outcome.rows)).toEqual(['c deleted 1', 'c moved 1', 'g moved 1', 't deleted 1']);
            expect(await rows(owner, 'g')).toBe(major < 15 ? '1 1 1|2 2 1|3 2 2' : '1 1 1|2 1 1|3 1 2');
        }));
});

describe('a key that moves', () => {
    const keyed = (how: string): string => `
        create table t (id int primary key, k text); insert into t values (1, 'k'), (2, 'k');
        create table c (t int references t on delete cascade, n int, note text, primary key (t, n));
        create table g (id int primary key, t int, n int, foreign key (t, n) references c ${how});
        insert into c values (1, 1, 'a'), (2, 1, 'b'), (2, 2, 'c'); insert into g values (1, 1, 1), (2, 2, 1), (3, 2, 2)`;

    test('in a child that is referenced: ON UPDATE CASCADE takes the grandchildren along', () =>
        withOwner(async (owner) => {
            await owner.run(keyed('on update cascade on delete cascade'));
            expect(await run(owner, merge())).toEqual(['c deleted 1', 'c moved 1', 'g moved 1', 't deleted 1']);
            expect(await rows(owner, 'c', '1, 2')).toBe('1 1 a|1 2 c');
            expect(await rows(owner, 'g')).toBe('1 1 1|2 1 1|3 1 2');
        }));

    test('what refers by a generated column cannot be moved: NS010 that names it', () =>
        withOwner(async (owner) => {
            await owner.run(`${levels} create table d (id int primary key, twice int, p int generated always as (twice / 2) stored references t);
                             insert into d (id, twice) values (1, 4)`);
            expect(expectError(await owner.attempt(merge()), 'NS010').detail).toBe('For example: p, by which "public.d" refers to it, is generated.');
        }));

    test.each(['', 'deferrable initially deferred',
        'on update restrict'])('NO ACTION (%s): a coded error that names the constraint', (how) =>
        withOwner(async (owner) => {
            await owner.run(keyed(how));
            const { message, detail } = expectError(await owner.attempt(merge()), 'NS010');
            expect(message).toContain('g_t_n_fkey');
            expect(detail).toMatch(/^23(503|001): /);
            expect(await rows(owner, 'g')).toBe('1 1 1|2 2 1|3 2 2');
        }));

    test('negative control: a deferred check would come at COMMIT, as a raw 23503', () =>
        withOwner(async (owner) => {
            await owner.run(keyed('deferrable initially deferred'));
            await withoutGuard(owner, '_check_deferred_v1', "execute format('set constraints %s immediate', v_constraint)", 'null');
            await withoutGuard(owner, '_make_unique_v1', "execute format('set constraints %s immediate', v_checks.checked)", 'null');
            expect((await owner.attempt(merge())).code).toBe('23503');
        }));

    test('also in the grandchild, which refers to both: the child goes first, whatever the names', () =>
        withOwner(async (owner) => {
            await owner.run(`${keyed('on update cascade on delete cascade')}; alter table g rename to b;
                             alter table b add foreign key (t) references t on delete cascade`);
            expect(await run(owner, merge())).toEqual(['b moved 1', 'c deleted 1', 'c moved 1', 't deleted 1']);
            expect(await rows(owner, 'b')).toBe('1 1 1|2 1 1|3 1 2');
        }));

    test('of a child that refers to itself within it', () =>
        withOwner(async (owner) => {
            await owner.run(`${keyed('on update cascade on delete cascade')}; alter table c add up int,
                             add foreign key (t, up) references c on update cascade on delete cascade;
                                 update c set up = 1 where n = 2`);
            expect(await run(owner, merge())).toEqual(['c deleted 1', 'c moved 1', 'g moved 1', 't deleted 1']);
            expect(await rows(owner, 'c', '1, 2')).toBe('1 1 a |1 2 c 1');
            expect(await rows(owner, 'g')).toBe('1 1 1|2 1 1|3 1 2');
        }));
});

describe('unique indexes of a child', () => {
    const child = (index: string): string => `
        create table t (id int primary key, k text); insert into t select i, 'k' || i % 2 from generate_series(1, 6) as i;
        create table c (id int primary key, t int references t on delete cascade, tag text, n int, x boolean,
                        made text generated always as (coalesce(t, 0) || '-' || coalesce(tag, '')) stored);
        ${index};
        create table g (id int primary key, c int references c on delete cascade)`;
    const data = `insert into c (id, t, tag, n, x) values
        (1, 1, 'a', 1, true), (2, 3, 'A', 1, true), (3, 5, 'a', 2, false), (4, 3, null, 3, null), (5, 5, null, 3, null),
        (6, null, 'a', 1, true), (7, null, 'c', null, true), (8, 2, 'b', 1, true), (9, 4, 'b', 1, false), (10, 6, 'b', 1, true);
        insert into g select id * 10, id from c`;
    const kinds: [what: string, index: string, gone: string, since?: number][] = [
        ['plain', 'create unique index on c (t, tag)', '3,9,10'],
        ['nulls not distinct', 'create unique index on c (t, tag) nulls not distinct', '3,5,9,10', 15],
        ['partial', 'create unique index on c (t, tag) where x', '10'],
        ['partial by the foreign key', 'create unique index on c (tag, n) where t < 3 and tag is not null', '9,10'],
        ['an expression', 'create unique index on c (t, lower(tag))', '2,3,9,10'],
        ['an expression of the foreign key', "create unique index on c ((t + 0), (tag || 'x'))", '3,9,10'],
        ['deferrable', 'alter table c add unique (tag, t) deferrable initially deferred', '3,9,10'],
        ['with INCLUDE', 'create unique index on c (t, n) include (tag) where n is not null', '2,5,9,10'],
        ['a generated column', 'create unique index on c (made) where tag is not null and t is not null', '3,9,10'],
        ['the foreign key in INCLUDE only', 'create unique index on c (id) include (t)', ''],
        ['descending, nulls first', 'create unique index on c (tag desc nulls first, t desc)', '3,9,10'],
        ['case-insensitive', `create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            create unique index on c (t, tag collate ci)`, '2,3,9,10'],
    ];
    test.each(kinds)('%s: what would be equal in it is merged, what refers to it moves, and nothing else goes',
        (_, index, gone, since = 0) =>
        withOwner(async (owner) => {
            if (major < since) return;
            await owner.run(child(index));
            await owner.run(data);
            const was = await rows(owner, 'c');
            await run(owner, merge());
            expect((await owner.run(`select coalesce(string_agg(i::text, ','), '') as gone from generate_series(1, 10) as i
                                     where i not in (select id from c)`))[0]?.gone).toBe(gone);
            expect(was.split('|')).toHaveLength(10);
            expect(await owner.run('select count(*)::int as g, count(c.id)::int as c from g left join c on c.id = g.c'))
                .toEqual([{ g: 10, c: 10 }]);
        }));

    test('negative control: rows that enter an index from outside are seen only where the whole table is looked at', () =>
        withOwner(async (owner) => {
            await owner.run(child('create unique index on c (tag) where t in (1, 7)'));
            await owner.run("insert into t values (7, 'z'); insert into c (id, t, tag) values (1, 7, 'a'), (2, 3, 'a')");
            await owner.run('begin');
            expect(await run(owner, merge())).toEqual(['c deleted 1', 't deleted 4']);
            await owner.run('rollback');
            await withoutGuard(owner, '_collisions_v1', 'case when m.wide then', 'case when false then');
            expectError(await owner.attempt(merge()), 'NS010');
        }));

    test('two indexes: rows collide with one row by one and with another by the other', () =>
        withOwner(async (owner) => {
            await owner.run(`${child('create unique index on c (t, tag); create unique index on c (t, n)')};
                insert into c (id, t, tag, n) values (1, 1, 'a', 1), (2, 1, 'b', 2), (3, 3, 'a', 2), (4, 5, 'c', 3),
                    (5, 5, 'd', 1), (6, 3, 'c', 4);
                insert into g select id * 10, id from c`);
            expectError(await owner.attempt(merge('move')), 'NS010');
            await run(owner, merge());
            expect(await rows(owner, '(select id, t, tag, n from c) as x')).toBe('1 1 a 1|2 1 b 2|4 1 c 3');
            expect(await rows(owner, 'g')).toBe('10 1|20 2|30 2|40 4|50 1|60 4');
        }));

    test('only the rows that move are equal to each other: the first by key stays', () =>
        withOwner(async (owner) => {
            await owner.run(`${child('create unique index on c (t, tag)')};
                insert into c (id, t, tag) values (5, 3, 'a'), (4, 5, 'a'), (3, 4, 'b'); insert into g select id * 10, id
                    from c`);
            expect(await run(owner, merge())).toEqual(['c deleted 1', 'c moved 2', 'g moved 1', 't deleted 4']);
            expect(await rows(owner, 'g')).toBe('30 3|40 4|50 4');
        }));

    test('an index that a BEFORE trigger fills otherwise: a coded error', () =>
        withOwner(async (owner) => {
            await owner.run(`${child('create unique index on c (n)')};
                create function same() returns trigger language plpgsql as 'begin new.n := 7; return new; end';
                create trigger same before update on c for each row execute function same();
                insert into c (id, t, n) values (1, 3, 1), (2, 5, 2)`);
            expectError(await owner.attempt(merge()), 'NS010');
        }));

    test('an exclusion constraint: a coded error', () =>
        withOwner(async (owner) => {
            await owner.run(`${child('alter table c add exclude using btree (t with =)')}; insert into c (id, t) values (1, 3),
                (2, 5)`);
            expect(expectError(await owner.attempt(merge()), 'NS010').detail).toMatch(/^23P01/);
        }));

    test('a diamond: the grandchild refers to the child and to the target', () =>
        withOwner(async (owner) => {
            await owner.run(`${child('create unique index on c (t, tag)')};
                alter table g add t int references t on delete cascade, add unique (c, t);
                create table h (id int primary key, g int references g on delete cascade);
                insert into c (id, t, tag) values (1, 1, 'a'), (2, 3, 'a'), (3, 4, 'a');
                insert into g values (1, 1, 1), (2, 2, 1), (3, 2, 5), (4, 3, 4), (5, 3, 6), (6, 1, 2);
                    insert into h select id, id from g`);
            await run(owner, merge());
            expect(await rows(owner, 'g')).toBe('1 1 1|4 3 2|6 1 2');
            expect(await rows(owner, 'h')).toBe('1 1|2 1|3 1|4 4|5 4|6 6');
        }));
});
