import { describe, expect, test } from 'vitest';
import { expectError, major, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { after, counts, family, merge, rows, run } from './merging.js';

describe('what refers to losers refers to the keeper', () => {
    test('by several columns, one of which may be null', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (a int, b text, note text, primary key (a, b));
                insert into t values (1, 'x'), (2, 'y'), (2, 'z');
                create table c (id int primary key, ta int, tb text, foreign key (tb, ta) references t (b, a) on delete cascade);
                insert into c values (1, 1, 'x'), (2, 2, 'y'), (3, 2, 'z'), (4, 2, null), (5, null, 'z')`);
            expect(await run(owner, `select object, outcome, row_count from ensure.merge_rows_v1('t', '{"b": "x", "a": 1}', '[{"a": 2, "b": "y"}, {"a": 2, "b": "z"}]')`))
                .toEqual(['c moved 2', 't deleted 2']);
            expect(await rows(owner, 'c')).toBe('1 1 x|2 1 x|3 1 x|4 2 |5  z');
        }));

    test('by several foreign keys of one table, and to keys that are not the primary key', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id bigint primary key, code varchar(5) not null unique); insert into t values (1, 'one'), (2, 'two'), (3, 'three');
                create table c (id int primary key, a int references t, b bigint references t, code text references t (code), unique (a, b));
                insert into c values (1, 2, 3, 'two'), (2, 1, 1, 'three'), (3, 2, null, null), (4, 1, 2, 'one')`);
            expect(await run(owner, merge(1, [2, 3]))).toEqual(['c deleted 2', 'c moved 2', 't deleted 2']);
            expect(await rows(owner, 'c')).toBe('1 1 1 one|3 1  ');
        }));

    test('in the same table: children of losers become children of the keeper, equal ones are merged on all levels', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, parent int references t on delete cascade, name text, unique (parent, name));
                insert into t values (1, null, 'a'), (2, null, 'b'), (10, 1, 'x'), (20, 2, 'x'), (21, 2, 'y'), (100, 10, 'p'), (200, 20, 'p'), (201, 20, 'q')`);
            expect(await run(owner, merge(1, 2))).toEqual(['t deleted 3', 't moved 2']);
            expect(await rows(owner, 't')).toBe('1  a|10 1 x|21 1 y|100 10 p|201 10 q');
        }));

    test('a row that is to be kept and would be merged itself, as a child of a loser: NS010; negative control: it is gone', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, parent int references t, name text, unique (parent, name));
                insert into t values (1, null, 'a'), (2, null, 'b'), (11, 2, 'x'), (12, 1, 'x'), (13, null, 'y')`);
            const { hint } = expectError(await owner.attempt(merge([1, 11], [2, 13])), 'NS010');
            expect(hint).toContain('in a call before');
            await withoutGuard(owner, '_check_merged_v1', 'if v_count <> cardinality(v_keepers)', 'if false');
            await owner.run(merge([1, 11], [2, 13]));
            expect(await rows(owner, 't')).toBe('1  a|12 1 x');
        }));

    test('a row that is to be kept and would take the place of its own loser: NS010, and nothing has changed', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, parent int references t, name text, unique (parent, name));
                insert into t values (1, null, 'a'), (2, null, 'b'), (11, 2, 'x'), (12, 1, 'x')`);
            expectError(await owner.attempt(merge([1, 11], [2, 12])), 'NS010');
            expect(await rows(owner, 't')).toBe('1  a|2  b|11 2 x|12 1 x');
        }));

    test('the same in two calls, the children first', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, parent int references t, name text, unique (parent, name));
                insert into t values (1, null, 'a'), (2, null, 'b'), (11, 2, 'x'), (12, 1, 'x')`);
            await owner.run(merge(11, 12));
            await owner.run(merge(1, 2));
            expect(await rows(owner, 't')).toBe('1  a|11 1 x');
        }));

    test('a keeper that is a child of its loser would refer to itself: NS010, and nothing has changed', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int primary key, parent int references t); insert into t values (2, null), (1, 2)');
            expectError(await owner.attempt(merge(1, 2)), 'NS010');
            expect(await rows(owner, 't')).toBe('1 2|2 ');
        }));

    test('partitioned children, of which rows change partition, and a partitioned target', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int, region text, primary key (id, region)) partition by list (region);
                create table t_a partition of t for values in ('a'); create table t_b partition of t for values in ('b');
                create table c (id int, t int, region text, primary key (id, t), foreign key (t, region) references t on delete cascade) partition by range (t);
                create table c_1 partition of c for values from (1) to (2); create table c_2 partition of c for values from (2) to (9);
                create table g (c int, t int, foreign key (c, t) references c on update cascade on delete cascade);
                insert into t values (1, 'a'), (2, 'b'), (3, 'b'); insert into c values (10, 1, 'a'), (11, 2, 'b'), (12, 3, 'b')`);
            const key = (id: number, region: string): string => `{"id": ${id}, "region": "${region}"}`;
            const outcome = await owner.attempt(`select object, outcome, row_count from ensure.merge_rows_v1('t', '${key(1, 'a')}', '[${key(2, 'b')}, ${key(3, 'b')}]')`);
            expect(outcome.code, outcome.error?.message).toBe('ok');
            expect(outcome.rows.map((row) => `${String(row.object)} ${String(row.outcome)} ${String(row.row_count)}`)).toEqual(['public.c moved 2', 'public.t deleted 2']);
            expect(await rows(owner, 'c')).toBe('10 1 a|11 1 a|12 1 a');
            expect(await rows(owner, 't')).toBe('1 a');
        }));

    test.each([
        ['on delete set null'], ['on delete restrict'], ['on delete cascade'], ['not valid'], ['deferrable initially deferred'], ['deferrable'],
    ])('%s', (how) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key); insert into t values (1), (2); create table c (id int primary key, t int);
                insert into c values (1, 1), (2, 2), (3, null); alter table c add foreign key (t) references t ${how}`);
            expect(await run(owner, merge(1, 2))).toEqual(['c moved 1', 't deleted 1']);
            expect(await rows(owner, 'c')).toBe('1 1|2 1|3 ');
        }));

    test('deferred: what a constraint has against it comes in the call, and later rows of the transaction may wait again', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, o int); insert into t values (1, null), (2, 7); create table o (id int primary key);
                create table c (id int primary key, t int references t deferrable initially deferred);
                alter table t add foreign key (o) references o deferrable initially deferred not valid`);
            const { message } = expectError(await owner.attempt(merge(1, 2, `, '{"o": "coalesce"}'`)), 'NS010');
            expect(message).toContain('t_o_fkey');
            await owner.run('begin; insert into c values (1, 2)');
            await owner.run(merge(1, 2));
            await owner.run('insert into c values (2, 8)');
            await owner.run('insert into t values (8, null)');
            await owner.run('commit');
            expect(await rows(owner, 'c')).toBe('1 1|2 8');
        }));

    test('negative control: without the check of deferred constraints the call returns, and COMMIT fails', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, o int); insert into t values (1, null), (2, 7); create table o (id int primary key);
                alter table t add foreign key (o) references o deferrable initially deferred not valid`);
            await withoutGuard(owner, '_check_deferred_v1', "execute format('set constraints %s immediate', v_constraint)", 'null');
            await owner.run('begin');
            expect((await owner.attempt(merge(1, 2, `, '{"o": "coalesce"}'`))).code).toBe('ok');
            expect((await owner.attempt('commit')).code).toBe('23503');
        }));

    test('by an identity column that is always generated: NS010; a row that must stay in its partition: NS010', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key); insert into t values (1), (2); create table c (id int primary key, t int generated always as identity references t);
                insert into c overriding system value values (1, 2)`);
            expect(expectError(await owner.attempt(merge(1, 2)), 'NS010').detail).toContain('is generated');
            await owner.run(`drop table c; create table c (t int) partition by list (t); create table c2 partition of c for values in (2); alter table c2 add foreign key (t) references t;
                insert into c values (2)`);
            expect(expectError(await owner.attempt(merge(1, 2)), 'NS010').message).toContain('partition');
        }));

    test('a foreign key with PERIOD is NS010', (context) =>
        withOwner(async (owner) => {
            if (major < 18) context.skip('PERIOD came with 18');
            await owner.run(`create extension btree_gist; create table t (id int, valid daterange, n int not null unique, primary key (id, valid without overlaps));
                create table c (t int, valid daterange, foreign key (t, period valid) references t (id, period valid)); insert into t values (1, '[2026-01-01,)', 1), (2, '[2026-01-01,)', 2)`);
            expectError(await owner.attempt(`select ensure.merge_rows_v1('t', '{"n": 1}', '{"n": 2}')`), 'NS010');
        }));
});

describe('nothing is lost', () => {
    test('children that become equal are merged, and what refers to them moves; negative control: left to the cascade it goes', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            await owner.run(merge(1, [2, 3]));
            expect(await owner.run(counts)).toEqual(after);
            await owner.run(`truncate t, c, g; ${family.slice(family.indexOf('insert into t'))}`);
            await withoutGuard(owner, '_merge_level_v1', /row_count := ensure\._move_children_v1[^;]*;/, 'row_count := 0;');
            await withoutGuard(owner, '_merge_level_v1', 'exit when v_found.child_losers is null;', 'exit;');
            await withoutGuard(owner, '_check_counts_v1', 'if v_wrong is not null', 'if false');
            await owner.run(merge(1, [2, 3]));
            expect((await owner.run(counts))[0]).toMatchObject({ t: 2, c: 2, g: 4 });
        }));

    test('a cascade that takes more than was to go is NS012, and nothing has changed', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create function away() returns trigger language plpgsql as 'begin delete from public.g where id = 141; return null; end';
                create trigger away after delete on t for each row execute function away()`);
            const { detail } = expectError(await owner.attempt(merge(1, [2, 3])), 'NS012');
            expect(detail).toContain('public.g: 10 before, 9 after, 0 were to go');
            expect((await owner.run(counts))[0]).toMatchObject({ t: 4, c: 5, g: 10 });
        }));

    test.each([
        ['keeps a child from being moved', "create trigger no before update on c for each row execute function no()"],
        ['keeps a loser from being deleted', "create trigger no before delete on t for each row execute function no()"],
    ])('a trigger that %s is NS012', (_what, trigger) =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create function no() returns trigger language plpgsql as 'begin return null; end'; ${trigger}`);
            expectError(await owner.attempt(merge(1, [2, 3])), 'NS012');
            expect((await owner.run(counts))[0]).toMatchObject({ t: 4, c: 5, g: 10 });
        }));

    test.each(['null', '3'])('a trigger that lets a row that moves refer to %s is NS012; negative control: it is lost to the keeper', (other) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key); insert into t values (1), (2), (3); create table c (id int primary key, t int references t); insert into c values (10, 2);
                create function other() returns trigger language plpgsql as 'begin new.t := ${other}; return new; end';
                create trigger other before update on c for each row execute function other()`);
            expect(expectError(await owner.attempt(merge(1, 2)), 'NS012').message).toContain('refer to something else');
            expect(await rows(owner, 'c')).toBe('10 2');
            await withoutGuard(owner, '_move_children_v1', 'elsif v_other > 0 then', 'elsif false then');
            await owner.run(merge(1, 2));
            expect(await rows(owner, 'c')).toBe(`10 ${other.replace('null', '')}`);
        }));

    test('a row that a trigger lets refer to a loser while rows of a later table move is NS012; negative control: it goes by the cascade', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key); insert into t values (1), (2); create table c (id int primary key, t int references t); insert into c values (10, 2);
                create table audit (t int references t on delete cascade, line text);
                create function note() returns trigger language plpgsql as 'begin insert into public.audit values (old.t, old.id); return null; end';
                create trigger note after update on c for each row execute function note()`);
            expect(expectError(await owner.attempt(merge(1, 2)), 'NS012').message).toContain('audit');
            expect(await rows(owner, 'c')).toBe('10 2');
            await withoutGuard(owner, '_merge_level_v1', /perform ensure\._check_left_v1[^;]*;/, 'null;');
            await owner.run(merge(1, 2));
            expect(await owner.run('select count(*)::int as n from audit')).toEqual([{ n: 0 }]);
        }));

    test('a trigger that puts a loser back is NS012', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key); insert into t values (1), (2);
                create function back() returns trigger language plpgsql as 'begin insert into public.t values (old.id); return null; end';
                create trigger back after delete on t for each row execute function back()`);
            expectError(await owner.attempt(merge(1, 2)), 'NS012');
        }));

    test('a rule, a column with a name that the SQL needs, a published table without identity: refused before anything changes', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create rule r as on delete to t do instead nothing`);
            expectError(await owner.attempt(merge(1, [2, 3])), '0A000');
            await owner.run('drop rule r on t; alter table c add "~row" int');
            expectError(await owner.attempt(merge(1, [2, 3])), '0A000');
            await owner.run('alter table c drop "~row"; create table p (t int references t); insert into p values (2); create publication pub for table p')
                .catch((error: { code: string }) => { if (error.code !== '42501') throw error; });
            if ((await owner.run("select from pg_publication where pubname = 'pub'")).length) expectError(await owner.attempt(merge(1, [2, 3])), '55000');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 4 }]);
        }));
});

/** 3,000 parents in 1,000 groups of 3; each with 7 children of 7 kinds or so, each of which has a grandchild. */
const many = 1000;
const data = `
    create table t (id int primary key, k int); insert into t select i, i % ${many} from generate_series(0, ${3 * many - 1}) as i;
    create table c (id int primary key, t_id int not null references t on delete cascade, kind int not null, unique (t_id, kind));
    insert into c select 10 * i + n, i, (i / ${many} + n) % 9 from generate_series(0, ${3 * many - 1}) as i, generate_series(1, 7) as n;
    create table g (id int primary key, c_id int not null references c on delete cascade);
    insert into g select id, id from c; create index on g (c_id); analyze t, c, g`;
const kept = 'select (select count(*)::int from t) as t, (select count(*)::int from c) as c, (select count(*)::int from g) as g';

describe('3,000 parents, 21,000 children, 21,000 grandchildren', () => {
    test('1,000 groups of 3 in one call: no grandchild is lost, each child is there under its keeper', () =>
        withOwner(async (owner) => {
            await owner.run(data);
            const losers = Array.from({ length: 2 * many }, (_, n) => n + many);
            expect(await run(owner, merge(losers.map((id) => id % many), losers)))
                .toEqual(['c deleted 12000', expect.stringMatching(/^c moved \d+$/), expect.stringMatching(/^g moved \d+$/), `t deleted ${2 * many}`]);
            expect(await owner.run(kept)).toEqual([{ t: many, c: 9 * many, g: 21 * many }]);
            expect(await run(owner, merge(losers.map((id) => id % many), losers))).toEqual(['t exists']);
        }));

    test('control: insert-select-on-conflict-delete destroys 6 of 10 grandchildren', () =>
        withOwner(async (owner) => {
            await owner.run(data);
            await owner.run(`begin;
                insert into c select id + 1000000, t_id % ${many}, kind from c where t_id >= ${many} on conflict do nothing;
                delete from t where id >= ${many}; commit`);
            const [row] = await owner.run(kept);
            expect(row).toMatchObject({ t: many, c: 9 * many });
            expect(Number(row?.g)).toBe(7 * many);
        }));
});
