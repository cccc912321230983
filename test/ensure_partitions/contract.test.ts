import postgres from 'postgres';
import { describe, expect, test } from 'vitest';
import { connectOptions, withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const ensure = async (session: Session, args: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', partition, lower_bound, upper_bound, outcome) as line
                        from ensure.ensure_partitions_v1(${args})`)).map((row) => String(row.line));

const partitions = async (session: Session, parent: string): Promise<string[]> =>
    (await session.run(`select c.oid::regclass || ' ' || pg_get_expr(c.relpartbound, 0) as line
                        from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
                        where i.inhparent = '${parent}'::regclass order by c.oid`)).map((row) => String(row.line));

const parent = (type: string, name = 't'): string => `create table ${name} (k ${type}) partition by range (k)`;

describe('the grid', () => {
    test('the everyday call makes the month of now and three more; again it finds them', () =>
        withOwner(async (owner) => {
            await owner.run(parent('timestamptz', 'events'));
            const first = await ensure(owner, "'events', '1 month', ahead => 3");
            expect(first).toHaveLength(4);
            expect(first.every((line) => line.endsWith(' created'))).toBe(true);
            const again = await ensure(owner, "'events', '1 month', ahead => 3");
            expect(again).toEqual(first.map((line) => line.replace(/created$/, 'exists')));
            await owner.run('insert into events values (now()), (now() + interval \'3 months\')');
        }));

    test.each([
        ['smallint', '10', '-15, 5', ['-20 -10', '-10 0', '0 10']],
        ['integer', '1000000', '42', ['0 1000000']],
        ['bigint', '1000000', "'5000000000'", ['5000000000 5001000000']],
        ['bigint', '10', '7.0', ['0 10']],
        ['integer', '10', '25, origin => \'3\'', ['23 33']],
        ['smallint', '10000', '32767', ['30000 MAXVALUE']],
        ['smallint', '10000', '-32768', ['MINVALUE -30000']],
        ['bigint', '9223372036854775807', '0', ['0 9223372036854775807']],
        // Quotients of numeric are rounded: the last key of a cell is where that shows.
        ['bigint', '10000000000', '1234567889999999999', ['1234567880000000000 1234567890000000000']],
        ['bigint', '2', '9223372036854775805', ['9223372036854775804 9223372036854775806']],
        ['bigint', '10000000000', '-1234567890000000001', ['-1234567900000000000 -1234567890000000000']],
        ['date', '1 day', "'2026-02-28', '2026-03-01'", ['2026-02-28 2026-03-01', '2026-03-01 2026-03-02']],
        ['date', '1 week', "date '2026-11-22'", ['2026-11-16 2026-11-23']],
        ['date', '1 month', "'0044-03-15 BC'", ['0044-03-01 BC 0044-04-01 BC']],
        ['date', '1 year', "'0001-06-01 BC', '0001-06-01'", ['0001-01-01 BC 0001-01-01', '0001-01-01 0002-01-01']],
        ['timestamp', '1 year', "'2026-06-01'", ['2026-01-01 00:00:00 2027-01-01 00:00:00']],
        ['timestamp', '3 months', "'2026-06-01'", ['2026-04-01 00:00:00 2026-07-01 00:00:00']],
        ['timestamp', '1 month', "'2026-03-31', origin => '2026-01-31'", ['2026-03-31 00:00:00 2026-04-30 00:00:00']],
        ['timestamptz', '1 day', "'2026-11-20 23:30:00-05'", ['2026-11-21 00:00:00+00 2026-11-22 00:00:00+00']],
        ['timestamptz', '1 hour', "timestamptz '2026-11-20 12:34:00+02'", ['2026-11-20 10:00:00+00 2026-11-20 11:00:00+00']],
        ['timestamp', '10000 years', "'2026-11-20'", ['2000-01-01 00:00:00 12000-01-01 00:00:00']],
        ['timestamptz', '1 second', "'2126-11-20 12:34:56'", ['2126-11-20 12:34:56+00 2126-11-20 12:34:57+00']],
        ['timestamptz', '1 second', "'2026-11-20 12:34:56.5'", ['2026-11-20 12:34:56+00 2026-11-20 12:34:57+00']],
    ])('%s by %s at %s', (type, step, from, expected) =>
        withOwner(async (owner) => {
            await owner.run(parent(type));
            const lines = await ensure(owner, `'t', '${step}', ${from}`);
            expect(lines.map((line) => line.replace(/^\S+ /, '').replace(/ created$/, ''))).toEqual(expected);
            expect(await ensure(owner, `'t', '${step}', ${from}`)).toEqual(lines.map((line) => line.replace(/created$/, 'exists')));
        }));

    test('both ends are included, ahead counts from until_value', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            expect(await ensure(owner, "'t', '10', 5, 20, 1")).toEqual([
                't_0000000000000 0 10 created', 't_0000000000010 10 20 created', 't_0000000000020 20 30 created', 't_0000000000030 30 40 created']);
        }));

    test('days are counted on the clock of zone, through a change of clocks and a skipped day, without a hole', () =>
        withOwner(async (owner) => {
            await owner.run(parent('timestamptz', 'berlin'));
            expect(await ensure(owner, "'berlin', '1 day', '2026-03-28', '2026-03-30', zone => 'Europe/Berlin'")).toEqual([
                'berlin_2026_03_28 2026-03-27 23:00:00+00 2026-03-28 23:00:00+00 created',
                'berlin_2026_03_29 2026-03-28 23:00:00+00 2026-03-29 22:00:00+00 created',
                'berlin_2026_03_30 2026-03-29 22:00:00+00 2026-03-30 22:00:00+00 created']);
            await owner.run(parent('timestamptz', 'apia'));
            expect(await ensure(owner, "'apia', '1 day', '2011-12-29', ahead => 2, zone => 'Pacific/Apia'")).toEqual([
                'apia_2011_12_29 2011-12-29 10:00:00+00 2011-12-30 10:00:00+00 created',
                'apia_2011_12_31 2011-12-30 10:00:00+00 2011-12-31 10:00:00+00 created',
                'apia_2012_01_01 2011-12-31 10:00:00+00 2012-01-01 10:00:00+00 created']);
            for (const value of ['2026-10-25 00:30:00+00', '2026-10-25 01:30:00+00', '2026-10-24 21:59:59+00', '2026-10-24 22:00:00+00']) {
                await ensure(owner, `'berlin', '1 day', '${value}', zone => 'Europe/Berlin'`);
                await owner.run(`insert into berlin values ('${value}')`);
            }
        }));

    test('midnight that comes twice (Havana) or never (Beirut) belongs to one cell', () =>
        withOwner(async (owner) => {
            for (const [zone, name, days] of [
                ['America/Havana', 'havana', ['2026-11-01 03:30:00+00', '2026-11-01 04:30:00+00', '2026-11-01 05:30:00+00']],
                ['Asia/Beirut', 'beirut', ['2026-03-28 21:30:00+00', '2026-03-28 22:00:00+00', '2026-03-28 22:30:00+00']],
            ] as const) {
                await owner.run(parent('timestamptz', name));
                for (const value of days) {
                    await ensure(owner, `'${name}', '1 day', '${value}', zone => '${zone}'`);
                    await owner.run(`insert into ${name} values ('${value}')`);
                }
                await ensure(owner, `'${name}', '1 day', '2026-01-01', '2026-12-31', zone => '${zone}'`);
                const bounds = (await partitions(owner, name)).map((line) => /FROM \('(.*)'\) TO \('(.*)'\)/.exec(line)?.slice(1));
                const lows = new Set(bounds.map((bound) => bound?.[0]));
                expect(bounds.filter((bound) => !lows.has(bound?.[1]))).toHaveLength(1); // only the last has no neighbour
            }
        }));

    test('the settings of the session do not move the grid', () =>
        withOwner(async (owner) => {
            await owner.run(parent('timestamptz'));
            const utc = await ensure(owner, "'t', '1 day', '2026-03-08', '2026-03-09'");
            await owner.run(`set timezone = 'America/New_York'; set datestyle = 'German'; set intervalstyle = 'sql_standard';
                             set standard_conforming_strings = off`);
            expect(await ensure(owner, "'t', '1 day', '2026-03-08', '2026-03-09'"))
                .toEqual(utc.map((line) => line.replace(/created$/, 'exists')));
            expect(await owner.run('show timezone')).toEqual([{ TimeZone: 'America/New_York' }]);
        }));
});

describe('what is there', () => {
    test('a wider partition that contains cells is returned once, as it is, whatever its name', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent('integer')}; create table odd partition of t for values from (minvalue) to (100)`);
            expect(await ensure(owner, "'t', '10', 5, 105")).toEqual(['odd MINVALUE 100 exists', 't_0000000000100 100 110 created']);
            expect(await ensure(owner, "'t', '10', 5, 105")).toEqual(['odd MINVALUE 100 exists', 't_0000000000100 100 110 exists']);
        }));

    test('a partition that overlaps a cell is refused with both bounds, and nothing is created', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent('integer')}; create table odd partition of t for values from (15) to (25)`);
            const error = expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 0, 35)"), 'NS001');
            expect(error.detail).toContain('from 15 to 25');
            expect(error.detail).toContain('from 10 to 20');
            expect(await partitions(owner, 't')).toHaveLength(1);
        }));

    test('a renamed partition and one re-attached with other bounds are known by their bounds', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            await ensure(owner, "'t', '10', 0, 19");
            await owner.run('alter table t_0000000000000 rename to renamed');
            expect(await ensure(owner, "'t', '10', 0, 19")).toEqual(['renamed 0 10 exists', 't_0000000000010 10 20 exists']);
            await owner.run('alter table t detach partition t_0000000000010; alter table t attach partition t_0000000000010 for values from (10) to (15)');
            expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 10)"), 'NS001');
        }));

    test('negative control: without the proof of bounds a re-attached partition passes for the cell', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            await ensure(owner, "'t', '10', 10");
            await owner.run('alter table t detach partition t_0000000000010; alter table t attach partition t_0000000000010 for values from (10) to (15)');
            await withoutGuard(owner, '_find_partitions_v1', 'if v_row.bound = v_bound', 'if true');
            expect(await ensure(owner, "'t', '10', 10")).toEqual(['t_0000000000010 10 20 exists']);
        }));

    test('a name taken by something else, table or type, leads to another name', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent('integer')}; create table t_0000000000000 (); create type t_0000000000010 as (a int)`);
            const lines = await ensure(owner, "'t', '10', 0, 19");
            expect(lines[0]).toMatch(/^t_0000000000000_[0-9a-f]{8} 0 10 created$/);
            expect(lines[1]).toMatch(/^t_0000000000010_[0-9a-f]{8} 10 20 created$/);
            expect(await ensure(owner, "'t', '10', 0, 19")).toEqual(lines.map((line) => line.replace(/created$/, 'exists')));
            await owner.run(`alter table t detach partition ${lines[0]?.split(' ')[0]}`);
            expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 0)"), 'NS007');
        }));

    test('long, multi-byte and quoted names: two parents that share 57 bytes get partitions of their own', () =>
        withOwner(async (owner) => {
            const names = ['a', 'b'].map((last) => `${'x'.repeat(56)}${last}`);
            names.push(`${'ü'.repeat(29)}"a`, `Mixed Case.and.dots`, `per%sent`, 'select', 'user');
            for (const name of names) {
                const quoted = `"${name.replaceAll('"', '""')}"`;
                await owner.run(`create table ${quoted} (k date) partition by range (k)`);
                const lines = await ensure(owner, `'${quoted}', '1 day', '2026-01-01', ahead => 2`);
                expect(lines.filter((line) => line.endsWith('created'))).toHaveLength(3);
                expect(await partitions(owner, quoted)).toHaveLength(3);
                const again = await ensure(owner, `'${quoted}', '1 day', '2026-01-01', ahead => 2`);
                expect(again.filter((line) => line.endsWith('exists'))).toHaveLength(3);
            }
        }));

    test('a partition that is being detached is an error that says how to finish', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'reader'], async ({ owner, reader }) => {
            await owner.run(parent('integer'));
            await ensure(owner, "'t', '10', 0");
            await reader.run('begin; select * from t');
            const detach = owner.start('alter table t detach partition t_0000000000000 concurrently');
            await detach.blockedBy(reader);
            await reader.run('commit');
            await detach.outcome();
            await owner.run('alter table t attach partition t_0000000000000 for values from (0) to (10)');
            await reader.run('begin; select * from t');
            const cancelled = owner.start('alter table t detach partition t_0000000000000 concurrently');
            await cancelled.blockedBy(reader);
            await reader.run(`select pg_cancel_backend(${owner.pid})`);
            expect((await cancelled.outcome()).code).toBe('57014');
            await reader.run('commit');
            const error = expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 0)"), 'NS005');
            expect(error.hint).toContain('FINALIZE');
            await owner.run('alter table t detach partition t_0000000000000 finalize; drop table t_0000000000000');
            expect(await ensure(owner, "'t', '10', 0")).toEqual(['t_0000000000000 0 10 created']);
        })));

    test('rows in the default partition are an error before anything is locked; without them it works', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent('integer')}; create table rest partition of t default; insert into t values (5)`);
            const error = expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 0, 19)"), 'NS004');
            expect(error.detail).toContain('Rows: 1, keys from 5 to 5');
            expect(await partitions(owner, 't')).toHaveLength(1);
            expect(await ensure(owner, "'t', '10', 10")).toEqual(['t_0000000000010 10 20 created']);
        }));

    test('a partition from the least value of the type serves the cell that begins there', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent('integer')}; create table low partition of t for values from (-2147483648) to (-2147483640)`);
            expect(await ensure(owner, "'t', '10', -2147483645")).toEqual(['low -2147483648 -2147483640 exists']);
        }));

    test('an exclusion constraint is there once, a primary key without overlaps too (17 and 18 copy it twice)', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k int, r int4range, unique (k, r)) partition by range (k)');
            if (major >= 17) {
                await owner.run(`drop table t; create extension if not exists btree_gist;
                                 create table t (k int, r int4range, exclude using gist (k with =, r with &&)) partition by range (k)`);
            }
            if (major >= 18) await owner.run('drop table t; create table t (k int, r int4range, primary key (k, r without overlaps)) partition by range (k)');
            await ensure(owner, "'t', '10', 0");
            expect(await owner.run("select count(*)::int as n from pg_index where indrelid = 't_0000000000000'::regclass")).toEqual([{ n: 1 }]);
        }));

    const rounded = "select partition::text from ensure.ensure_list_partitions_v1('t', array[1.555])";

    test('a value that the type modifier of the key rounds is NS001, and nothing is created', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k numeric(10, 2)) partition by list (k)');
            expectError(await owner.attempt(rounded), 'NS001');
            expect(await partitions(owner, 't')).toEqual([]);
        }));

    test('negative control: without reading the new partition back it is called there with a value it does not have', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k numeric(10, 2)) partition by list (k)');
            await withoutGuard(owner, '_finish_partition_v1', 'if v_same is not true then', 'if false then');
            await owner.run(rounded);
            expect((await partitions(owner, 't'))[0]).toContain('IN (1.56)');
        }));

    test('a copy carries what readers and writers notice: keys, checks, defaults, identity, foreign keys, owner, tablespace', () =>
        withOwner(async (owner) => {
            await owner.run(`
                create table ref (id int primary key); insert into ref values (1);
                create table t (k int not null, id bigint generated always as identity, r int default 1 references ref,
                                c text collate "C" check (c <> ''), g int generated always as (k * 2) stored,
                                primary key (k, id)) partition by range (k);
                create index on t (lower(c)) where c is not null;
                create table later (k int, id bigint, foreign key (k, id) references t)`);
            await ensure(owner, "'t', '10', 0");
            await owner.run("insert into t (k, c) values (1, 'x'), (2, 'y'); insert into later select k, id from t");
            expect(await owner.run('select k, id::int, r, g from t order by k')).toEqual([
                { k: 1, id: 1, r: 1, g: 2 }, { k: 2, id: 2, r: 1, g: 4 }]);
            for (const bad of ["insert into t (k, c) values (3, '')", 'insert into t (k, r) values (3, 9)', 'delete from t']) {
                expect((await owner.attempt(bad)).code).toMatch(/^23/);
            }
            expect(await owner.run(`select count(*)::int as indexes from pg_index where indrelid = 't_0000000000000'::regclass`))
                .toEqual([{ indexes: 2 }]);
        }));
});

describe('another grid', () => {
    test('a cell that several partitions make up is there, without regrid as well', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            await ensure(owner, "'t', '10', 20, 39");
            const filled = await ensure(owner, "'t', '100', 5, regrid => true");
            expect(filled.map((line) => line.replace(/^\S+ /, ''))).toEqual(['0 20 created', '20 30 exists', '30 40 exists', '40 100 created']);
            expect(await ensure(owner, "'t', '100', 5")).toEqual(filled.map((line) => line.replace(/created$/, 'exists')));
            expect(await owner.run("select finding from ensure.check_partitions_v1('t', '100', 5)")).toEqual([]);
        }));

    test('beside cells of another step or origin it is NS008 with both ranges; regrid begins it, and fills exactly what is left', () =>
        withOwner(async (owner) => {
            await owner.run(parent('date'));
            await ensure(owner, "'t', '1 month', '2026-11-21'");
            const error = expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '1 day', '2026-12-05')"), 'NS008');
            expect(error.detail).toContain('from 2026-11-01 to 2026-12-01');
            expect(error.detail).toContain('from 2026-12-05 to 2026-12-06');
            expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '1 month', '2026-12-20', origin => '2026-01-15')"), 'NS008');
            expect(await partitions(owner, 't')).toHaveLength(1);
            expect(await ensure(owner, "'t', '1 week', '2026-11-30', regrid => true")).toEqual([
                't_2026_11 2026-11-01 2026-12-01 exists', 't_2026_11_30 2026-12-01 2026-12-07 created']);
        }));

    test('a partition with an open end, for old rows, is no neighbour', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent('integer')}; create table old partition of t for values from (minvalue) to (7)`);
            expect(await ensure(owner, "'t', '10', 10")).toEqual(['t_0000000000010 10 20 created']);
        }));

    test('negative control: without the look at neighbours the table becomes a mixture', () =>
        withOwner(async (owner) => {
            await owner.run(parent('date'));
            await ensure(owner, "'t', '1 month', '2026-11-21'");
            await withoutGuard(owner, '_check_missing_v1', 'elsif v_group.grid is not null', 'elsif false');
            expect(await ensure(owner, "'t', '1 day', '2026-12-05'")).toEqual(['t_2026_12_05 2026-12-05 2026-12-06 created']);
        }));
});

describe('a table of the derived name that is attached nowhere', () => {
    const orphan = 'create table t_0000000000000 (v text, k int not null)';
    const leaf = async (owner: Session): Promise<string> => (await ensure(owner, "'t', '10', 5"))[0] ?? '';
    const setup = 'create table t (k int not null, v text) partition by range (k)';

    test('empty and with the same columns it is attached, with the privileges of the parent', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; grant select on t to public; ${orphan}`);
            expect(await leaf(owner)).toBe('t_0000000000000 0 10 attached');
            expect(await leaf(owner)).toBe('t_0000000000000 0 10 exists');
            await owner.run("insert into t values (7, 'x')");
            expect(await owner.run("select relacl::text like '%=r/%' as readable from pg_class where oid = 't_0000000000000'::regclass"))
                .toEqual([{ readable: true }]);
        }));

    test('negative control: one that holds rows would come back, though it may have been detached on purpose', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; ${orphan}; insert into t_0000000000000 values ('x', 5)`);
            await withoutGuard(owner, '_orphan_v1', 'and pg_relation_size(o.oid) = 0');
            expect(await leaf(owner)).toBe('t_0000000000000 0 10 attached');
        }));

    test.each([
        ['rows, even such that fit', `${orphan}; insert into t_0000000000000 values ('x', 5)`],
        ['a check of its own', 'create table t_0000000000000 (v text, k int not null check (k < 5))'],
        ['a unique index', 'create table t_0000000000000 (v text unique, k int not null)'],
        ['an analysis', `${orphan}; analyze t_0000000000000`],
        ['an identity', 'create table t_0000000000000 (v text, k int not null generated always as identity)'],
        ['another column', 'create table t_0000000000000 (v text, k int not null, more int)'],
        ['another type', 'create table t_0000000000000 (v varchar, k int not null)'],
        ['a trigger', `${orphan}; create function f() returns trigger language plpgsql as 'begin return new; end';
                       create trigger g before insert on t_0000000000000 for each row execute function f()`],
        ['a rule', `${orphan}; create rule r as on insert to t_0000000000000 do instead nothing`],
        ['row security', `${orphan}; alter table t_0000000000000 enable row level security`],
        ['a child of its own', `${orphan}; create table child () inherits (t_0000000000000)`],
        ['no logging', orphan.replace('create table', 'create unlogged table')],
    ])('with %s it stays as it is, and the partition gets another name', (_what, orphaned) =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; ${orphaned}`);
            expect(await leaf(owner)).toMatch(/^t_0000000000000_[0-9a-f]{8} 0 10 created$/);
            expect(await owner.run("select count(*)::int as n from pg_inherits where inhrelid = 't_0000000000000'::regclass")).toEqual([{ n: 0 }]);
        }));

    test('of another owner it is left alone, even where a superuser calls', (context) =>
        withTestDatabase(({ url, admin }) => {
            if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser');
            return withSessions(admin, ['dba'], ({ dba }) => withSessions(url, ['owner'], async ({ owner }) => {
                await owner.run(setup);
                await dba.run(orphan);
                expect((await ensure(dba, "'t', '10', 5"))[0]).toMatch(/t_0000000000000_[0-9a-f]{8} 0 10 created$/);
            }));
        }));
});

test('a call that finds its partition reads as many pages with 400 partitions as with 4', () =>
    withOwner(async (owner) => {
        const once = async (): Promise<number> => {
            const [row] = await owner.run("explain (analyze, buffers, format json) select * from ensure.ensure_partitions_v1('t', '10', 5)");
            const found = row?.['QUERY PLAN'];
            const [{ Plan }] = (typeof found === 'string' ? JSON.parse(found) : found) as [{ Plan: Record<string, number> }];
            return (Plan['Shared Hit Blocks'] ?? 0) + (Plan['Shared Read Blocks'] ?? 0);
        };
        // The fewest: others make a session read the catalogs again whenever they please.
        const pages = async (): Promise<number> => Math.min(await once(), await once(), await once(), await once());
        await owner.run(parent('integer'));
        await ensure(owner, "'t', '10', 0, 39");
        const few = await pages();
        await ensure(owner, "'t', '10', 40, 3999");
        expect(await pages()).toBeLessThan(few * 1.2 + 4); // an index may be one level higher
        await owner.run('alter table t_0000000000000 rename to odd');
        expect(await pages(), 'control: without our name all are read').toBeGreaterThan(few * 2);
    }));

test('with ensure.log each statement that changes the schema is shown', () =>
    withTestDatabase(async ({ url }) => {
        const seen: string[] = [];
        const shown = (): string[] => seen.filter((line) => /^(create|alter) table/.test(line));
        const sql = postgres(url, { ...connectOptions, onnotice: ({ message }) => void seen.push(String(message)) });
        try {
            await sql.unsafe(`${parent('integer')}; set ensure.log = 'notice'`).simple();
            await sql.unsafe("select ensure.ensure_partitions_v1('t', '10', 5)").simple();
            expect(shown()).toHaveLength(2);
            await sql.unsafe("select ensure.ensure_partitions_v1('t', '10', 5)").simple();
            expect(shown()).toHaveLength(2);
        } finally {
            await sql.end();
        }
    }));

test('called while a cursor reads the parent it creates, or is 55006 with advice where PostgreSQL holds the parent open', () =>
    withOwner(async (owner) => {
        await owner.run(parent('integer'));
        await ensure(owner, "'t', '10', 0");
        await owner.run('begin; declare c cursor for select * from t; fetch 1 from c');
        const outcome = await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 10)");
        if (outcome.code !== 'ok') expect(expectError(outcome, '55006').hint).toContain('cursor');
        await owner.run('rollback');
    }));

test('called from a trigger on the parent it is 55006 and says to call before', () =>
    withOwner(async (owner) => {
        await owner.run(`${parent('integer')};
            create function f() returns trigger language plpgsql as $$ begin
                perform ensure.ensure_partitions_v1('t', '10', 5); return null; end $$;
            create trigger g before insert on t for each statement execute function f()`);
        const { hint } = expectError(await owner.attempt('insert into t values (5)'), '55006');
        expect(hint).toContain('not from a trigger');
        expect(await partitions(owner, 't')).toEqual([]);
    }));

describe('rights and switches', () => {
    test('ensure.ddl = off: what exists is answered, what is missing is NS002 and names the setting', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            await ensure(owner, "'t', '10', 0");
            for (const off of ['off', 'false', '0', 'of']) {
                await owner.run(`set ensure.ddl = '${off}'`);
                expect(await ensure(owner, "'t', '10', 0")).toEqual(['t_0000000000000 0 10 exists']);
                const error = expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 10)"), 'NS002');
                expect(error.message).toContain('ensure.ddl');
            }
            await owner.run('reset ensure.ddl');
            expect(await ensure(owner, "'t', '10', 10")).toEqual(['t_0000000000010 10 20 created']);
        }));

    test('ensure.ddl = off set on the database by a superuser holds for sessions that begin later', (context) =>
        withTestDatabase(async ({ url, admin, name }) => {
            if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and may not set ensure.ddl');
            await withSessions(admin, ['dba'], ({ dba }) => dba.run(`alter database ${name} set ensure.ddl = off`));
            await withSessions(url, ['owner'], async ({ owner }) => {
                await owner.run(parent('integer'));
                expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 0)"), 'NS002');
            });
        }));

    test('a no-op runs in a read-only transaction and writes nothing; what is missing is 25006', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            await ensure(owner, "'t', '10', 0");
            await owner.run('begin read only');
            expect(await ensure(owner, "'t', '10', 0")).toEqual(['t_0000000000000 0 10 exists']);
            expect(await owner.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
            const { hint } = expectError(await owner.attempt("select ensure.ensure_partitions_v1('t', '10', 10)"), '25006');
            expect(hint).toBe('Call in a read-write transaction.');
            await owner.run('rollback');
        }));

    test('a stranger with USAGE on the schema may find, not create; a member of the owner creates what the owner owns', (context) =>
        withTestDatabase(async ({ url, admin, name }) => {
            if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser: no roles can be made for this test');
            const [member, stranger] = [`m_${name}`, `s_${name}`];
            await withSessions(admin, ['dba'], async ({ dba }) => {
                await dba.run(`create role ${stranger}; create role ${member} in role ${surroundings.server.owner}`);
                try {
                    await withSessions(url, ['owner'], async ({ owner }) => {
                        await owner.run(`create schema app; create table app.t (k int) partition by range (k);
                            grant usage on schema ensure, app to ${stranger}`);
                        await ensure(owner, "'app.t', '10', 0");
                        expect((await dba.attempt(`set role ${member}; select ensure.ensure_partitions_v1('app.t', '10', 10)`)).code).toBe('ok');
                        expect(await owner.run("select pg_get_userbyid(relowner) as owner from pg_class where oid = 'app.t_0000000000010'::regclass"))
                            .toEqual([{ owner: surroundings.server.owner }]);
                        await dba.run(`set role ${stranger}`);
                        expect(await ensure(dba, "'app.t', '10', 0")).toEqual(['app.t_0000000000000 0 10 exists']);
                        const error = expectError(await dba.attempt("select ensure.ensure_partitions_v1('app.t', '10', 20)"), '42501');
                        expect(error.message).toContain('from 20 to 30 is missing');
                        expect(error.hint).toContain(`GRANT ${surroundings.server.owner} TO ${stranger}`);
                        await owner.run(`revoke usage on schema ensure from ${stranger}`);
                        expectError(await dba.attempt("select ensure.ensure_partitions_v1('app.t', '10', 0)"), '42501');
                    });
                } finally {
                    await dba.run(`reset role; drop owned by ${stranger}; drop role ${stranger}; drop owned by ${member}; drop role ${member}`);
                }
            });
        }));

    test('a referenced table that this role may not lock is left to ATTACH; no CREATE on the schema is 42501 with the GRANT to give', (context) =>
        withTestDatabase(async ({ url, admin }) => {
            if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser: no table of another owner can be made');
            await withSessions(admin, ['dba'], ({ dba }) => withSessions(url, ['owner'], async ({ owner }) => {
                const name = surroundings.server.owner;
                await dba.run(`create schema other; grant usage on schema other to ${name}; create table other.ref (id int primary key);
                               grant references on other.ref to ${name}; grant create on schema other to ${name}`);
                await owner.run('create table other.t (k int, r int references other.ref) partition by range (k)');
                await owner.run('begin');
                expect((await owner.attempt('lock table other.ref in share row exclusive mode')).code).toBe('42501');
                await owner.run('rollback');
                expect(await ensure(owner, "'other.t', '10', 0")).toEqual(['other.t_0000000000000 0 10 created']);
                await withoutGuard(dba, '_lock_one_v1', 'if relation = queue then', 'if true then');
                expect((await owner.attempt("select ensure.ensure_partitions_v1('other.t', '10', 10)")).code).toBe('42501');
                await dba.run(`revoke create on schema other from ${name}`);
                const { hint } = expectError(await owner.attempt("select ensure.ensure_partitions_v1('other.t', '10', 10)"), '42501');
                expect(hint).toContain(`GRANT CREATE ON SCHEMA other TO ${name}`);
            }));
        }));

    test('settings changed on the way are put back on success, on error and for the rest of the transaction', () =>
        withOwner(async (owner) => {
            await owner.run(parent('integer'));
            const settings = "select current_setting('lock_timeout') as lock_timeout, current_setting('search_path') as path";
            await owner.run("set lock_timeout = '7s'; set search_path = public, pg_catalog");
            const before = await owner.run(settings);
            await ensure(owner, "'t', '10', 0");
            expect(await owner.run(settings)).toEqual(before);
            await owner.run("begin; set local lock_timeout = '6s'");
            await ensure(owner, "'t', '10', 10");
            expect(await owner.run('show lock_timeout')).toEqual([{ lock_timeout: '6s' }]);
            await owner.run('savepoint s');
            await owner.attempt("select ensure.ensure_partitions_v1('t', '7', 10)");
            await owner.run('rollback to s');
            expect(await owner.run('show lock_timeout')).toEqual([{ lock_timeout: '6s' }]);
            await owner.run('commit');
            expect(await owner.run(settings)).toEqual(before);
        }));
});

test(`check_install_v1 tells what is installed and what of the server matters (PostgreSQL ${major})`, () =>
    withOwner(async (owner) => {
        const rows = await owner.run('select item, value from ensure.check_install_v1()');
        const value = (item: string) => rows.find((row) => row.item === item)?.value;
        expect(String(value('server'))).toMatch(new RegExp(`^${major}\\.`));
        expect(value('recovery')).toBe('primary');
        expect(value('pooler')).toBe('unknown');
        expect(value('timescaledb')).toBe('not installed');
        expect(value('citus')).toBe('not installed');
        expect(value('ensure.ddl')).toBe('on');
        expect(value('ensure_partitions')).toBe('v1');
        expect(value('check_install')).toBe('v1');
        const pooler = (pid: string) => owner.run(`select value from ensure.check_install_v1(${pid}) where item = 'pooler'`);
        expect(await pooler('pg_backend_pid()')).toEqual([{ value: 'no' }]);
        expect(await pooler('pg_backend_pid() + 1')).toEqual([{ value: 'yes' }]);
    }));
