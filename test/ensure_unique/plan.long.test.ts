import { describe, expect, test } from 'vitest';
import { recovered, withFaults } from '../../scripts/harness/faults.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { expectError, major, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';
import {
    ask, expectDone, follow, gated, isBuild, isGate, isQueue, isSweep, isUngate, planOf, scaffolding, upTo, withServer,
} from './planned.js';

const keepFirst = "keep => 'id', losers => 'delete'";
/** Keys 0 to 9 by `a`, three rows each, ids 1 to 30. */
const rows = 'insert into t (a) select n % 10 from generate_series(0, 29) as n';
const ids = 'select id from t order by id';
const idsOf = (...values: number[]): { id: number }[] => values.map((id) => ({ id }));
const oneToTen = idsOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 10);

describe('a plan followed as psql does, until it has no rows', () => {
    interface Shape {
        table: string;
        args: string;
        left: number[];
        rejected: string;
        accepted?: string;
        indexes?: number;
        /** What is nullable takes a pair of indexes below 15. */
        nullable?: true;
    }
    const key = 'id int generated always as identity primary key';
    const shapes: Record<string, Shape> = {
        'a column': {
            table: `create table t (${key}, a int not null); ${rows}`,
            args: `'t', '{a}', ${keepFirst}`, left: oneToTen.map(({ id }) => id), rejected: 'insert into t (a) values (3)',
        },
        'the last instead of the first': {
            table: `create table t (${key}, a int not null); ${rows}`,
            args: "'t', '{a}', keep => 'id desc', losers => 'delete'", left: [21, 22, 23, 24, 25, 26, 27, 28, 29, 30], rejected: 'insert into t (a) values (3)',
        },
        'columns with nulls that are equal': {
            table: `create table t (${key}, a int, b int); insert into t (a, b) values (1, 1), (1, null), (1, 1), (1, null), (null, null), (null, null), (null, 1)`,
            args: `'t', '{a,b}', ${keepFirst}`, left: [1, 2, 5, 7], rejected: 'insert into t (a, b) values (1, null)',
            accepted: 'insert into t (a, b) values (2, null)', indexes: major >= 15 ? 1 : 4,
        },
        'columns with nulls that are equal, by partial indexes': {
            table: `create table t (${key}, a int not null, b int); insert into t (a, b) values (1, 1), (1, null), (1, 1), (1, null)`,
            args: `'t', '{a,b}', ${keepFirst}, split_nulls => true`, left: [1, 2], rejected: 'insert into t (a, b) values (1, null)', indexes: 2,
        },
        'columns with nulls that differ': {
            table: `create table t (${key}, a int, b int); insert into t (a, b) values (1, 1), (1, null), (1, 1), (1, null)`,
            args: `'t', '{a,b}', nulls_equal => false, ${keepFirst}`, left: [1, 2, 4], rejected: 'insert into t (a, b) values (1, 1)',
            accepted: 'insert into t (a, b) values (1, null)',
        },
        'an expression and a predicate': {
            table: `create table t (${key}, v text, live boolean);
                insert into t (v, live) values ('A', true), ('a', true), ('A', false), ('a', false), ('a', null), ('b', true)`,
            nullable: true, args: `'t', '{lower(v)}', 'live', ${keepFirst}`, left: [1, 3, 4, 5, 6], rejected: "insert into t (v, live) values ('B', true)",
            accepted: "insert into t (v, live) values ('B', false)",
        },
        'an operator class with an equality of its own': {
            table: `create table t (${key}, v record_holder); insert into t (v) values ('(1,1.0)'), ('(1,1.00)'), ('(1,1.0)')`,
            nullable: true, args: `'t', array['v record_image_ops'], ${keepFirst}`, left: [1, 2], rejected: "insert into t (v) values ('(1,1.00)')",
            accepted: "insert into t (v) values ('(1,1.000)')",
        },
        'a type without a hash': {
            table: `create table t (${key}, v tsvector); insert into t (v) values ('a b'), ('b a'), ('c')`,
            nullable: true, args: `'t', '{v}', ${keepFirst}`, left: [1, 3], rejected: "insert into t (v) values ('b a')",
        },
        'a collation for which different texts are equal': {
            table: `create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                create table t (${key}, v text collate nocase); insert into t (v) values ('A'), ('a'), ('b')`,
            nullable: true, args: `'t', '{v}', ${keepFirst}`, left: [1, 3], rejected: "insert into t (v) values ('B')",
        },
        'names that need quotes': {
            table: `create schema "S ü"; create table "S ü"."T""x%s" (id int generated always as identity primary key, "Ä $1" int);
                insert into "S ü"."T""x%s" ("Ä $1") values (1), (1); create view t as select id from "S ü"."T""x%s"`,
            nullable: true, args: `'"S ü"."T""x%s"', array['"Ä $1"'], ${keepFirst}`, left: [1], rejected: 'insert into "S ü"."T""x%s" ("Ä $1") values (1)',
        },
        'a partitioned table': {
            table: `create table t (id int generated by default as identity, a int not null, r int not null) partition by list (r);
                create table t1 partition of t for values in (1); create table t2 partition of t for values in (2);
                insert into t (id, a, r) select n + 1, n % 5, 1 + n % 2 from generate_series(0, 29) as n`,
            args: `'t', '{a,r}', ${keepFirst}`, left: oneToTen.map(({ id }) => id), rejected: 'insert into t (a, r) values (1, 2)',
        },
        'a table partitioned twice': {
            table: `create table t (id int, a int not null, r int not null) partition by list (r);
                create table t1 partition of t for values in (1) partition by range (a);
                create table t2 partition of t for values in (2) partition by range (a);
                create table t11 partition of t1 for values from (0) to (3); create table t12 partition of t1 for values from (3) to (10);
                create table t21 partition of t2 default;
                insert into t (id, a, r) select n + 1, n % 5, 1 + n % 2 from generate_series(0, 29) as n`,
            args: `'t', '{r,a}', ${keepFirst}`, left: oneToTen.map(({ id }) => id), rejected: 'insert into t (a, r) values (1, 2)',
        },
    };
    test.each(Object.keys(shapes))('%s: of each group one row is left, the index refuses others, nothing else is left', (name) =>
        withOwner(async (owner) => {
            const { table, args, left, rejected, accepted, nullable, indexes = nullable && major < 15 ? 2 : 1 } = shapes[name] as Shape;
            await owner.run('create type record_holder as (a int, b numeric)');
            await owner.run(table);
            const [{ n: before } = {}] = await owner.run('select count(*)::int as n from pg_index where indisunique and indisvalid');
            const done = await follow(owner, args);
            expect(done.filter(isGate)).toHaveLength(1);
            expect(done.filter(isSweep).length).toBeGreaterThan(0);
            expect(await owner.run(ids)).toEqual(idsOf(...left));
            expectCode(await owner.attempt(rejected), '23505');
            if (accepted) await owner.run(accepted);
            await expectDone(owner, args, name.includes('quotes') ? '"S ü"."T""x%s"' : 't');
            if (!name.includes('partitioned')) {
                expect(await owner.run(`select count(*)::int - ${Number(before)} as n from pg_index where indisunique and indisvalid`)).toEqual([{ n: indexes }]);
            }
        }));

    test('citext: what it calls equal is one row, though no search_path finds its operators', (context) =>
        withTestDatabase(({ admin, url }) => withSessions(surroundings.superuser ? admin : url, ['dba'], async ({ dba }) => {
            if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and cannot make extensions');
            await dba.run(`create schema ext; create extension citext schema ext; create table t (id int primary key, v ext.citext);
                insert into t values (1, 'A'), (2, 'a'), (3, 'b')`);
            const args = `'t', '{v}', ${keepFirst}`;
            await gated(dba, args);
            expectError(await dba.attempt("insert into t values (4, 'B')"), '23505');
            await dba.run("update t set v = 'B' where id = 3"); // equal to what it was
            await follow(dba, args);
            expect(await dba.run(ids)).toEqual(idsOf(1, 3));
            expectCode(await dba.attempt("insert into t values (4, 'B')"), '23505');
        })));

    test('a table without any key: its rows are told apart by where they are', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int, a int); insert into t select n, n % 10 from generate_series(0, 29) as n');
            await follow(owner, `'t', '{a}', keep => 'id', losers => 'delete', batch => 7`);
            expect(await owner.run(ids)).toEqual(idsOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
        }));

    test('children move to the row that stays, and merge where they would be duplicates; self-references too', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, a int not null, parent int references t);
                create table c (id int primary key, t_id int not null references t on delete cascade, kind int, unique (t_id, kind));
                create table g (id int primary key, c_id int not null references c on delete cascade);
                insert into t values (1, 1, null), (2, 1, 1), (3, 2, 2), (4, 2, 2), (5, 1, 4);
                insert into c values (1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 5, 2), (5, 4, 9);
                insert into g select n, 1 + n % 5 from generate_series(1, 50) as n`);
            await follow(owner, `'t', '{a}', ${keepFirst}, children => 'merge', batch => 1`);
            expect(await owner.run('select id, parent from t order by id')).toEqual([{ id: 1, parent: null }, { id: 3, parent: 1 }]);
            expect(await owner.run('select t_id, kind from c order by 1, 2')).toEqual([{ t_id: 1, kind: 1 }, { t_id: 1, kind: 2 }, { t_id: 3, kind: 9 }]);
            expect(await owner.run('select count(*)::int as n from g')).toEqual([{ n: 50 }]);
        }));

    test('a column that is both key and reference to the table itself: the sweep may make new duplicates, the next ones end them', () =>
        withOwner(async (owner) => {
            const table = `create table t (id int primary key, parent int references t, name text not null);
                insert into t values (1, null, 'r'), (2, null, 'r'), (3, 1, 'x'), (4, 2, 'x'), (5, 3, 'y'), (6, 4, 'y')`;
            const args = `'t', '{parent,name}', ${keepFirst}, children => 'move'`;
            await owner.run(table);
            await follow(owner, args);
            expect(await owner.run(ids)).toEqual(idsOf(1, 3, 5));
            await expectDone(owner, args);
            // Negative control: without the mark of the sweep the gate refuses what it has to do.
            await owner.run(`drop table t; ${table}`);
            await withoutGuard(owner, '_sweep_unique_v1', "perform set_config('ensure.sweep', 'on', true);");
            const sweep = await upTo(owner, args, isSweep);
            expectCode(await owner.attempt(sweep.statement), '23505');
        }));

    test('soft delete: losers are updated out of the predicate and stay; one that leaves them duplicates is NS009, and does not go on for ever', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, a int, live boolean not null default true, note text);
                insert into t select n, n % 10 from generate_series(1, 30) as n`);
            const args = (set: string): string => `'t', '{a}', 'live', keep => 'id', losers => 'update', loser_set => '${set}', children => 'leave', batch => 5`;
            const sweep = await upTo(owner, args("note = ''gone''"), isSweep);
            expectError(await owner.attempt(sweep.statement), 'NS009');
            await follow(owner, args('live = false'));
            expect(await owner.run('select id from t where live order by id')).toEqual(oneToTen);
            expect(await owner.run('select count(*)::int as n from t where note is null')).toEqual([{ n: 30 }]);
            await expectDone(owner, args('live = false'));
        }));

    test('an archive gets the losers of all batches under one run, which the plan names', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int generated always as identity primary key, a int not null); ${rows};
                create table old (place bigint generated always as identity primary key, run uuid not null, relation text not null, action text not null,
                                  key jsonb, old jsonb, new jsonb, archived_at timestamptz not null default now())`);
            const args = `'t', '{a}', ${keepFirst}, archive => 'old', batch => 6`;
            const [sweep] = (await follow(owner, args)).filter(isSweep);
            const [row, ...more] = await owner.run("select run, count(*)::int as n, min((old ->> 'id')::int) as low, max((old ->> 'id')::int) as high from old group by run");
            expect(more).toEqual([]);
            expect(row).toMatchObject({ n: 20, low: 11, high: 30 });
            expect(sweep?.why).toContain(String(row?.run));
            // The same plan again, later, is another run.
            await owner.run("drop index t_a_key; insert into t (a) values (1)".replace('t_a_key', await indexName(owner)));
            await follow(owner, args);
            expect(await owner.run('select count(distinct run)::int as n from old')).toEqual([{ n: 2 }]);
        }));

    test('as_constraint: the index becomes a constraint of its name, before the gate goes', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int generated always as identity primary key, a int not null); ${rows}`);
            const args = `'t', '{a}', ${keepFirst}, as_constraint => true, index_name => 't_once'`;
            const whys = (await follow(owner, args)).map((row) => (isBuild(row) ? 'build' : isUngate(row) ? 'ungate' : row.why));
            expect(whys.slice(-5, -2)).toEqual(['build', 'the index becomes a constraint', 'ungate']);
            expect(await owner.run("select conname::text as name, contype::text as type from pg_constraint where conindid = 't_once'::regclass"))
                .toEqual([{ name: 't_once', type: 'u' }]);
            await expectDone(owner, args);
        }));

    test('losers => refuse: without duplicates the index is made; with some it is NS009 before anything is made, also past the gate', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int primary key, a int not null); insert into t values (1, 1), (2, 2)');
            await follow(owner, "'t', '{a}'");
            await expectDone(owner, "'t', '{a}'");
            await owner.run(`drop index ${await indexName(owner)}; insert into t values (3, 2)`);
            const { detail } = expectError(await owner.attempt(planOf("'t', '{a}'")), 'NS009');
            expect(detail).toContain('rows too many: 1');
            expectError(await owner.attempt(planOf(`'t', '{a}', keep => 'id'`)), 'NS009');
            expect(await owner.run(scaffolding)).toEqual([]);
            await gated(owner, `'t', '{a}', ${keepFirst}`);
            expectError(await owner.attempt(planOf("'t', '{a}'")), 'NS009');
            await follow(owner, `'t', '{a}', ${keepFirst}`);
            expect(await owner.run(ids)).toEqual(idsOf(1, 2));
        }));

    const partitions = (index: string): string => `create table t (id int, k int not null, v text, act boolean) partition by list (k);
        create table p1 (id int, k int not null, v text, act boolean); ${index}; alter table t attach partition p1 for values in (1, 2, 3);
        create table p2 partition of t for values in (4, 5, 6) partition by list (k); create table p21 partition of p2 default;
        insert into t values (1, 1, 'a', true), (2, 4, 'b', true), (3, 2, 'c', true)`;
    const own = "select indexrelid::regclass::text as name from pg_index where indexrelid = to_regclass('mine')";
    test.each([
        ['create index mine on p1 (k)', ''], ['create unique index mine on p1 (k)', ''], ['create index mine on p1 (k, v)', ''],
        ['create index mine on p1 (k)', ", predicate => 'act'"], ['create unique index mine on p1 (k) where act', ''],
        ['create unique index mine on p1 (k) include (v)', ", predicate => 'act'"],
    ])('%s of a partition%s is not the work of the plan: it is neither attached to the probe nor dropped', (index, rest) =>
        withOwner(async (owner) => {
            await owner.run(partitions(index));
            const args = `'t', '{k}'${rest}, ${keepFirst}`;
            const probed = (await upTo(owner, args, isGate)).step_number;
            expect(probed).toBe(1);
            expect(await owner.run(`select i.inhrelid::regclass::text as name from pg_inherits as i join pg_index as x on x.indexrelid = i.inhrelid
                                    where i.inhrelid::regclass::text !~ '^ensure_probe'`)).toEqual([]);
            await follow(owner, args);
            expect(await owner.run(own)).toEqual([{ name: 'mine' }]);
            await expectDone(owner, args);
            expectCode(await owner.attempt("insert into t values (9, 1, 'x', true)"), '23505');
        }));

    test('negative control: were any index that fits taken for the probe of a partition, it would go with the probe', () =>
        withOwner(async (owner) => {
            await owner.run(partitions('create index mine on p1 (k)'));
            await withoutGuard(owner, '_look_support_v1', 'i.indisvalid and not own', 'i.indisvalid');
            await follow(owner, `'t', '{k}', ${keepFirst}`);
            expect(await owner.run(own)).toEqual([]);
        }));

    const attached = `select i.inhrelid::regclass::text as name from pg_inherits as i join pg_index as x on x.indexrelid = i.inhrelid
        where x.indrelid = 'p1'::regclass order by 1`;
    const ownIndexes = (index: string): string => `create table t (id int, a int not null, r int not null) partition by list (r);
        create table p1 (id int, a int not null, r int not null); ${index}; alter table t attach partition p1 for values in (1, 2, 3);
        create table p2 partition of t for values in (4, 5, 6) partition by list (r); create table p21 partition of p2 default;
        insert into t values (1, 1, 1), (2, 1, 4), (3, 1, 4), (4, 1, 2)`;
    test.each([
        ['create unique index mine on p1 (r, a)', 'p1_a_r_key'], ['create unique index mine on p1 (a, r) include (id)', 'p1_a_r_key'],
        ['create unique index "x USING btree" on p1 (a, r)', '"x USING btree"'],
        ['alter table p1 add constraint mine unique (a, r) deferrable', 'p1_a_r_key'],
    ])('with %s on a partition, %s goes with the index of the whole table', (index, name) =>
        withOwner(async (owner) => {
            await owner.run(ownIndexes(index));
            await follow(owner, `'t', '{a,r}', ${keepFirst}`);
            expect(await owner.run(attached)).toEqual([{ name }]);
            await expectDone(owner, `'t', '{a,r}', ${keepFirst}`);
            expect(await owner.run(ids)).toEqual(idsOf(1, 2, 4));
        }));

    test('negative control: an index on the same columns in another order can never be attached', () =>
        withOwner(async (owner) => {
            await owner.run(ownIndexes('create unique index mine on p1 (r, a)'));
            await withoutGuard(owner, '_look_copy_v1', "and regexp_replace(pg_get_indexdef(i.indexrelid), c_head, '')", 'or false and i.indexrelid::text');
            await expect(follow(owner, `'t', '{a,r}', ${keepFirst}`)).rejects.toMatchObject({ code: '42P17' });
        }));

    test('a partition that comes in the middle has its index at once; what a plan that was given up left on partitions goes in the end', () =>
        withOwner(async (owner) => {
            await owner.run(ownIndexes(''));
            await upTo(owner, `'t', '{a,r}', ${keepFirst}`, ({ statement }) => /^create index ensure_probe_\w+ on only/.test(statement));
            expect(await owner.run("select count(*)::int as n from pg_class where relname ~ '^ensure_probe_' and relkind = 'i'")).toEqual([{ n: 2 }]);
            const rest = `'t', '{a,r}', ${keepFirst}, gate => 'none'`;
            await upTo(owner, rest, ({ statement }) => statement.startsWith('create unique index concurrently'));
            await owner.run('create table p3 partition of t for values in (7); create table p22 partition of p2 for values in (6); insert into t values (7, 7, 7)');
            await follow(owner, rest);
            await expectDone(owner, rest);
            expectCode(await owner.attempt('insert into t values (8, 7, 7)'), '23505');
        }));

    test("gate => 'none' makes no gate and no probe", () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int generated always as identity primary key, a int not null); ${rows}`);
            const done = await follow(owner, `'t', '{a}', ${keepFirst}, gate => 'none'`);
            expect(done.map((row) => [isQueue(row), isSweep(row), isBuild(row)])).toEqual([
                [true, false, false], [false, true, false], [false, false, true], [false, false, false],
            ]);
            expect(await owner.run(ids)).toEqual(oneToTen);
            await expectDone(owner, `'t', '{a}', ${keepFirst}, gate => 'none'`);
        }));

    test('an index that finds the rows already is used as probe; one by another equality, or a partial one, is not', () =>
        withOwner(async (owner) => {
            const probes = async (index: string): Promise<number> => {
                await owner.run(`drop table if exists t; create table t (id int primary key, v text, w int); insert into t values (1, 'x', 1), (2, 'x', 2); ${index}`);
                const done = await follow(owner, `'t', '{v}', ${keepFirst}`);
                return done.filter(({ statement }) => /^create index concurrently/.test(statement)).length;
            };
            expect(await probes('create index on t (v, w)')).toBe(0);
            expect(await probes('create index on t (w, v)')).toBe(1);
            expect(await probes('create index on t (v text_pattern_ops)')).toBe(1);
            expect(await probes('create index on t (v) where w > 0')).toBe(1);
            expect(await probes('create index on t using hash (v)')).toBe(1);
        }));

    const referring = `create table t (id int primary key, a int not null, gone boolean not null default false);
        insert into t values (1, 1), (2, 1), (3, 2); create table c (id int primary key, t_id int references t on delete cascade, n int, unique (t_id, n));
        insert into c values (1, 1, 1), (2, 2, 1)`;
    const refusedAhead: Record<string, string> = {
        '': 'NS010', ", children => 'move'": 'NS010', ", losers => 'update', loser_set => 'gone = true'": 'NS010',
        ", losers => 'update', loser_set => 'nope = true'": '42703',
    };
    test.each(Object.entries(refusedAhead))('what is known to be refused%s is %s before anything is made', (rest, code) =>
        withOwner(async (owner) => {
            await owner.run(referring);
            const wanted = `'t', '{a}', keep => 'id'${rest.includes('update') ? '' : ", losers => 'delete'"}${rest}`;
            expectError(await owner.attempt(planOf(wanted)), code);
            expectError(await owner.attempt(planOf(`${wanted}, gate => 'none'`)), code);
            expect(await owner.run(scaffolding)).toEqual([]);
            await withoutGuard(owner, '_check_ahead_v1', "if children = 'leave' or", 'if true or');
            for (const more of code === 'NS010' ? ['', ", gate => 'none'"] : []) {
                expect((await ask(owner, `${wanted}${more}`)).length, 'negative control').toBeGreaterThan(0);
            }
        }));

    test('with ensure.ddl off a plan that is not done is NS002, and one that is done has no rows', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, a int not null); insert into t values (1, 1), (2, 1); set ensure.ddl = off`);
            expectError(await owner.attempt(planOf(`'t', '{a}', ${keepFirst}`)), 'NS002');
            expect(await ask(owner, "'t', '{id}'")).toEqual([]);
            await withoutGuard(owner, 'plan_unique_v1', 'if found and', 'if false and');
            expect(await ask(owner, `'t', '{a}', ${keepFirst}`), 'negative control').toHaveLength(1);
        }));

    test.each([
        ["'t', '{a}', gate => 'maybe'", '22023'], ["'t', '{a}', batch => 0", '22023'], ["'t', '{a}', gate => null", '22004'],
        ["'t', '{a}', losers => 'delete', children => 'leave'", '22023'],
        ["'t', '{a}', losers => 'delete', keep => 'select 1; drop table t'", '22023'], ["'t', '{a}', as_constraint => true, predicate => 'a > 0'", '0A000'],
        ["'t', '{g}'", '0A000'], ["'t', '{(a + 1)}', 'g > 1'", '0A000'], ["'p', '{a}'", '0A000'], ["'v', '{a}'", '42809'], ["'t', '{zz}'", '42703'],
    ])('%s is %s', (args, code) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, a int, g int generated always as (a + 1) stored);
                create table p (a int, k int) partition by list (k); create view v as select 1 as a`);
            expectError(await owner.attempt(planOf(args)), code);
        }));
});

describe('asked again', () => {
    const args = `'t', '{a}', ${keepFirst}, batch => 8`;
    const table = `create table t (id int generated always as identity primary key, a int not null); ${rows}`;

    test('each prefix of the plan, run by a session that then dies, is continued by a new one to the same end', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            await owner.run(table);
            const whole = await follow(owner, args);
            expect(whole.length).toBeGreaterThan(8);
            for (let most = 1; most < whole.length; most++) {
                await owner.run(`drop table t; ${table}`);
                await withSessions(url, ['first'], async ({ first }) => {
                    expect(await follow(first, args, most)).toHaveLength(most);
                });
                await withSessions(url, ['second'], async ({ second }) => {
                    const rest = await follow(second, args);
                    expect(rest.length, `after ${most}`).toBe(whole.length - most);
                    expect(await second.run(ids)).toEqual(oneToTen);
                    await expectDone(second, args);
                });
            }
        })));

    test('when all is there: no rows, read-only, at every isolation level, while others hold ACCESS EXCLUSIVE, and no lock is kept', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(table);
            await follow(a, args);
            await a.run('begin; lock table t in access exclusive mode');
            for (const isolation of ['read committed', 'repeatable read', 'serializable']) {
                await b.run(`begin isolation level ${isolation} read only; set local lock_timeout = '1ms'`);
                expect(await ask(b, args)).toEqual([]);
                expect(await b.run(`select count(*)::int as n from pg_locks where pid = pg_backend_pid() and mode <> 'SIReadLock'
                    and (locktype = 'advisory' or relation >= 16384)`)).toEqual([{ n: 0 }]);
                await b.run('rollback');
            }
        })));

    test('a plan with rows is read-only too, and shown on a standby; what it says there is what the primary says', async (context) => {
        if (!surroundings.embedded) context.skip('needs a primary and a standby of its own; DATABASE_URL is set');
        await withStandby({}, async ({ primary: { url }, standby: { url: copy }, caughtUp }) => {
            await install(url);
            await withSessions(url, ['primary'], async ({ primary }) => {
                await primary.run(table);
                for (const stop of [isGate, isQueue, isSweep, isBuild, isUngate]) {
                    await upTo(primary, args, stop);
                    await caughtUp();
                    await withSessions(copy, ['standby'], async ({ standby }) => {
                        const here = await ask(standby, args);
                        // The batches are in an unlogged table, which is empty on a standby: there is at least one for all it knows.
                        if ([isSweep, isBuild].includes(stop)) expect(here.map(isSweep)).toEqual([true]);
                        else expect(here).toEqual(await ask(primary, args));
                    });
                }
                await follow(primary, args);
                await caughtUp();
                await withSessions(copy, ['standby'], async ({ standby }) => expect(await ask(standby, args)).toEqual([]));
            });
        });
    });

    test('all statements of all steps run regardless of errors and in any state: the gate never goes without a valid index', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            await owner.run(table);
            const all = (await follow(owner, args)).map(({ statement }) => statement);
            for (let from = 0; from < all.length; from++) {
                await owner.run(`drop index ${await indexName(owner)}; truncate t restart identity; ${rows}`);
                let gate = false;
                for (const statement of [...all.slice(from), ...all.slice(0, from)]) {
                    await owner.attempt(statement);
                    const [state] = await owner.run(`select
                        exists (select from pg_trigger where tgname ~ 'ensure_gate') as gate,
                        exists (select from pg_index where indrelid = 't'::regclass and indisunique and not indisprimary and indisvalid) as valid,
                        (select count(distinct a)::int from t) as keys`);
                    expect(state?.keys).toBe(10);
                    if (gate && !state?.gate) expect(state?.valid, statement).toBe(true);
                    gate = Boolean(state?.gate);
                }
                await follow(owner, args);
                expect(await owner.run(ids)).toEqual(oneToTen);
                await expectDone(owner, args);
            }
        })));

    test('ungate is NS013 while the index is not valid; negative control: without that the gate would go', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            const { statement } = await upTo(owner, args, isUngate);
            await owner.run(`drop index ${await indexName(owner)}`);
            expectError(await owner.attempt(statement), 'NS013');
            expect(await owner.run(scaffolding)).toHaveLength(7);
            await withoutGuard(owner, '_ungate_v1', '<> cardinality(indexes)', '< 0');
            await owner.run(statement);
            expect(await owner.run("select from pg_trigger where tgname ~ 'ensure_gate'")).toEqual([]);
            await follow(owner, args);
            await expectDone(owner, args);
        }));
});

describe('a build that died', () => {
    const args = `'t', '{a}', ${keepFirst}`;
    const table = 'create table t (id int primary key, a int not null); create table other (); insert into t select n, n from generate_series(1, 100) as n';
    const invalid = `select i.indisready as ready from pg_index as i where i.indrelid = 't'::regclass and not i.indisvalid`;

    /** Runs the plan to its build, which `holder` keeps waiting after it has come so far that the index is ready, or not; then `end`. */
    async function interrupted(
        { runner, holder, next }: Record<'runner' | 'holder' | 'next', Session>, ready: boolean, end: () => Promise<void>,
    ): Promise<void> {
        const build = await upTo(runner, args, isBuild);
        await holder.run(ready ? 'begin isolation level repeatable read; select * from other' : 'begin; insert into t values (1000, 1000)');
        const step = runner.start(build.statement);
        await step.blockedBy(holder);
        expect(await next.run(invalid)).toEqual([{ ready }]);
        await end();
        expect((await step.outcome()).code).not.toBe('ok');
        await holder.attempt('rollback');
    }

    test.each([
        ['cancelled', 'inert', false], ['cancelled', 'enforcing', true], ['terminated', 'inert', false], ['terminated', 'enforcing', true],
    ] as const)('%s, it leaves an index that is invalid and %s: the plan buries it, drops it and builds again', (how, _state, ready) =>
        withTestDatabase(({ url, admin }) => withSessions(url, ['runner', 'holder', 'next'], ({ runner, holder, next }) =>
            withFaults(admin, async (faults) => {
                await next.run(table);
                await interrupted({ runner, holder, next }, ready, () => (how === 'cancelled' ? faults.cancel(runner) : faults.terminate(runner)));
                const rest = (await follow(next, args)).map(({ statement }) => statement.split(/[\s(]/).slice(0, statement.startsWith('select') ? 2 : 3).join(' '));
                expect(rest.slice(0, 3)).toEqual(['select ensure._bury_index_v1', 'drop index concurrently', 'create unique index']);
                await expectDone(next, args);
                expectCode(await next.attempt('insert into t values (1001, 5)'), '23505');
            }))));

    test('kill -9 of the backend in the build, inert and enforcing: after recovery the plan ends', (context) =>
        withServer(context, { synchronous_commit: 'on' }, async ({ url }, dba) => {
            await dba.run(table);
            for (const ready of [false, true]) {
                await withSessions(url, ['runner', 'holder', 'next'], (sessions) => withFaults(url, async (faults) => {
                    await interrupted(sessions, ready, () => Promise.resolve(faults.killBackend(sessions.runner)));
                }));
                await recovered(url);
                await withSessions(url, ['next'], async ({ next }) => {
                    expect(await next.run(invalid)).toEqual([{ ready }]);
                    await follow(next, args);
                    await expectDone(next, args);
                    await next.run(`drop index ${await indexName(next)}`);
                });
            }
        }));

    test('while another session builds, the plan says wait and drops nothing; when that one has ended valid, it ends', () =>
        withTestDatabase(({ url }) => withSessions(url, ['runner', 'holder', 'next'], async ({ runner, holder, next }) => {
            await next.run(table);
            const build = await upTo(runner, args, isBuild);
            await holder.run('begin; insert into t values (1000, 1000)');
            const step = runner.start(build.statement);
            await step.blockedBy(holder);
            const [row, ...more] = await ask(next, args);
            expect(more).toEqual([]);
            expect(row).toMatchObject({ in_transaction: true, why: 'another session builds an index on public.t' });
            expect(await next.run(String(row?.statement))).toEqual([{ waiting: 1 }]);
            await holder.run('commit');
            expect((await step.outcome()).code).toBe('ok');
            await follow(next, args);
            await expectDone(next, args);
        })));

    test('a burial that comes when another session builds is 55P03, one that comes later spares what was built; negative control: a plain drop does not', () =>
        withTestDatabase(({ url, admin }) => withSessions(url, ['runner', 'holder', 'late', 'next'], ({ runner, holder, late, next }) =>
            withFaults(admin, async (faults) => {
                await next.run(table);
                await interrupted({ runner, holder, next }, false, () => faults.cancel(runner));
                const name = await indexName(next);
                const [{ statement: burial } = { statement: '' }] = await ask(late, args); // and then it sleeps
                await holder.run('begin; insert into t values (2000, 2000)');
                const other = next.start('create index concurrently on t (id, a)');
                await other.blockedBy(holder);
                expectError(await late.attempt(burial), '55P03');
                await holder.run('commit');
                expect((await other.outcome()).code).toBe('ok');
                await follow(next, args);
                await late.run(burial);
                await expectDone(next, args);
                await late.run(`drop index concurrently ${name}`);
                expectCode(await next.attempt('insert into t values (2001, 2000)'), 'ok');
            }))));
});

const expectCode = ({ code, error }: { code: string; error?: Error }, wanted: string): void => expect(code, error?.message).toBe(wanted);

async function indexName(session: Session): Promise<string> {
    const [row] = await session.run(`select indexrelid::regclass::text as name from pg_index
        where indrelid = 't'::regclass and indisunique and not indisprimary`);
    return String(row?.name);
}
