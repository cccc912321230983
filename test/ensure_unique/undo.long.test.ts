import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { follow, gated, isSweep, upTo } from './planned.js';
import { archive, attemptUndo, family, hostile, merge, plain, snapshot, undo, unique } from './undoing.js';

describe('a run is undone', () => {
    test('losers come back, children and merged children with what they referred to; the run leaves the archive', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const before = await snapshot(owner, 't', 'child', 'grand');
            const { done, run } = await unique(owner, merge);
            expect(done).toEqual(expect.arrayContaining(['public.t deleted 3', expect.stringMatching(/^public.child deleted /),
                expect.stringMatching(/^public.grand moved /)]));
            await owner.run('drop index t_k_key');
            const undone = await undo(owner, run);
            expect(await snapshot(owner, 't', 'child', 'grand')).toBe(before);
            const words = (lines: string[]) => lines.map((line) => line.replace('deleted', 'inserted')).sort();
            expect([...undone].sort()).toEqual(words(done));
            expect(undone[0]).toBe('public.t inserted 3');
            expect(await owner.run('select count(*)::int as n from kept')).toEqual([{ n: 0 }]);
            expectError(await attemptUndo(owner, run), '42704');
        }));

    test('updated losers are set back in the columns that changed, and nothing else of them', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; alter table t add id2 int generated always as identity, add g text generated always as (k
                || 'x') stored, add note text`);
            const before = await snapshot(owner, 't', 'child', 'grand');
            const { done, run } = await unique(owner,
                "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false', children => 'merge'");
            expect(done).toContain('public.t updated 3');
            await owner.run("drop index t_k_key; update t set note = 'later' where id = 2");
            expect(await undo(owner, run)).toContain('public.t updated 3');
            await owner.run('update t set note = null');
            expect(await snapshot(owner, 't', 'child', 'grand')).toBe(before);
        }));

    test('several runs share an archive, and each is undone by itself, in any order', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; create table u (id int primary key, k text, t_id int references t); insert into u values
                (1, 'a', 1), (2, 'a', 3)`);
            const before = await snapshot(owner, 't', 'child', 'grand', 'u');
            const one = await unique(owner, merge);
            const two = await unique(owner, "'u', '{k}', keep => 'id', losers => 'delete'");
            await owner.run('drop index t_k_key; drop index u_k_key');
            await undo(owner, one.run);
            await undo(owner, two.run);
            expect(await snapshot(owner, 't', 'child', 'grand', 'u')).toBe(before);
        }));

    test('every value comes back as it was, whatever the settings of either caller', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create extension if not exists citext; create type mood as enum ('sad', 'o''k "x"');
                create type pair as (a int, "B b" text, c timestamptz[]);
                create domain code as char(5); create domain posint as int check (value > 0);
                create table "Tä""ble" ("Käy" int primary key, k int, "grüße, ""q""" text, f float8, f4 float4, n numeric, b
                    bytea, ts timestamptz, tl timestamp, d date, tm timetz, j jsonb, js json,
                    ia int[], ta text[], p pair, pa pair[], m mood, c code, c1 char(5), cb bpchar, v varchar(3), ci citext, i
                        interval, u uuid, bo boolean, bi bit(3), vb varbit, r tstzrange, mr int4multirange,
                    x xml, inet inet, ci2 cidr, ma macaddr, mo money, na name, ch "char", po point, q posint, tsv tsvector, rc
                        regclass, big bigint generated always as identity, gen text generated always as (n::text) stored)`);
            const one = String.raw`'x'' \ "y" {,} ü 😀', 0.1::float8 + 0.2, 0.1::float4, 1.230000000000000000000000000001,
                '\x00ff5c27', '2026-01-02 03:04:05.123456+05:30', '0044-03-15 01:02:03 BC', '2026-11-12', '03:04:05.000001-07:30',
                'null', '{"b": 1, "a":  [1e400]}', '{1,NULL,3}', array['NULL', null, '', 'a,b', '"q\'], row(1, E'x,"\\y',
                    array['infinity', null]::timestamptz[]), array[row(null, '', null)::pair, null], 'o''k "x"',
                'ab', 'ab ', 'ab  ', 'ab ', 'MiXed', '-1 year 2 days -03:04:05.6', '00000000-0000-0000-0000-00000000000a', true,
                    '101', '10110', '["2026-01-01 00:00+02",)', '{[1,3),[5,7)}',
                '<a b="c">d</a>e', '1.2.3.4/32', '10.0.0.0/8', '08:00:2b:01:02:03', '-1234.56', 'some name', 'c', '(0.1,1e300)',
                    7, 'a:1A b', 'pg_class'`;
            const two = String.raw`null, 'NaN', '-Infinity', 'NaN', '', 'infinity', '-infinity', '-infinity', null,
                '{"a": null, "n": 1.10}', 'null', '{}', '[0:1]={a,b}', row(null, null, null), null, null,
                null, null, '', null, null, '178000000 years', null, null, null, '', 'empty', '{}', '', '::1', null, null, null,
                    null, null, null, null, null, null`;
            await owner.run(`insert into "Tä""ble" overriding system value values (1, 1, ${one}, 11, default), (2, 1, ${one}, 12,
                default), (3, 1, ${two}, 13, default), (4, 1, ${one}, 14, default)`);
            const before = await snapshot(owner, '"Tä""ble"');
            await owner.run(`${hostile}; set search_path = pg_catalog`);
            const [row] = await owner.run(`select object
                from ensure.ensure_unique_v1('public."Tä""ble"', '{k}', keep => '"Käy"', losers => 'delete',
                archive => 'public.kept') where outcome = 'archived'`);
            await owner.run('reset search_path; drop index "Tä""ble_k_key"');
            expect((await owner.run('select count(*)::int as n from "Tä""ble"'))).toEqual([{ n: 1 }]);
            await owner.run(`${plain}; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set array_nulls = off; set
                xmloption = 'document'`);
            expect(await undo(owner, String(row?.object))).toEqual(['public."Tä""ble" inserted 3']);
            await owner.run(plain);
            expect(await snapshot(owner, '"Tä""ble"')).toBe(before);
            expect(await owner.run(`select distinct format('%s', cb) as cb from "Tä""ble" where "Käy" in (2,
                4)`)).toEqual([{ cb: 'ab  ' }]);
        }));

    test('negative control: with the settings of the caller, what is archived is not what was there', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (k int, f float8); insert into t values (1, 0.1::float8 + 0.2), (1,
                0.1::float8 + 0.2); ${hostile}`);
            await withoutGuard(owner, 'ensure_unique_v1', "SET extra_float_digits TO '1'");
            const { run } = await unique(owner, "'t', '{k}', keep => 'f', losers => 'delete'");
            await owner.run('drop index t_k_key');
            await undo(owner, run);
            expect(await owner.run(`${plain}; select count(distinct f)::int as n from t`)).toEqual([{ n: 2 }]);
        }));

    test('negative control: the first step undone first puts a child back before its parent', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const { run } = await unique(owner, merge);
            await owner.run('drop index t_k_key');
            await withoutGuard(owner, '_undo_steps_v1', 'order by last_place desc', 'order by last_place');
            expect((await attemptUndo(owner, run)).code).toBe('23503');
        }));

    test.each([
        ['citext', "'Ab'", "'cD'", "'CD'"], ['char(4)', "'a '", "'b'", "'b'"], ['mark', "'a'", "'b'", "'b'"], ['timestamptz',
            "'2026-01-02 03:04:05.000006+00'", "'infinity'", "'infinity'"],
        ['interval', "'1 mon -2 days'", "'36:00'", "'1 day 12:00'"], ['bytea', "'\\x00ff'", "'\\x5c'", "'\\x5c'"], ['float8',
            '0.1::float8 + 0.2', "'NaN'", "'NaN'"], ['numeric', '1.10', '2.0', '2.000'],
        ['text[]', "'{a,NULL}'", '\'{"NULL"}\'', '\'{"NULL"}\''], ['date', "'2026-02-03'", "'2026-03-02'", "'2026-03-02'"],
            ['mood', "'x'", "'y z'", "'y z'"], ['uuid', "'00000000-0000-0000-0000-000000000001'", 'md5(\'\')::uuid',
            'md5(\'\')::uuid'],
        ['int4range', "'[1,3)'", "'[2,4]'", "'[2,5)'"], ['pair', "row(1, 'a b')", "row(null, '')", "row(null, '')"], ['bit(3)',
            "'101'", "'111'", "'111'"], ['cidr', "'10.0.0.0/8'", "'10.1.0.0/16'", "'10.1.0.0/16'"],
    ])('a key of type %s finds its rows again, and refers as it did, under any settings', (type, keeper, loser, said) =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create extension if not exists citext; create type mood as enum ('x', 'y z'); create
                domain mark as text; create type pair as (a int, b text);
                create table "T t" ("Id" ${type} primary key, k int, w int); insert into "T t" values (${keeper}, 1, 1),
                    (${loser}, 1, 2);
                create table child ("Ref" ${type} references "T t", n int, primary key ("Ref", n)); insert into child values
                    (${keeper}, 1), (${said}, 1), (${said}, 2);
                create table grand (a ${type}, b int, v int, foreign key (a, b) references child on update cascade); insert into
                    grand values (${said}, 2, 0)`);
            const before = await snapshot(owner, '"T t"', 'child', 'grand');
            await owner.run(hostile);
            const { done, run } = await unique(owner, "'\"T t\"', '{k}', keep => 'w', losers => 'delete', children => 'merge'");
            expect(done.sort()).toEqual(['public."T t" deleted 1', 'public.child deleted 1', 'public.child moved 1']);
            await owner.run('drop index "T t_k_key"; set timezone = \'America/New_York\'; set datestyle = \'German\'');
            await undo(owner, run);
            await owner.run(plain);
            expect(await snapshot(owner, '"T t"', 'child', 'grand')).toBe(before);
        }));

    test('20,000 rows are put back in seconds', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int primary key, k int); create table child (id int primary key, t_id
                int references t, n int, unique (t_id, n)); insert into t select g, g / 2 from generate_series(1, 20000) g;
                insert into child select g, g, g % 3 from generate_series(1, 20000) g; create table grand (id int primary key, c
                    int references child); insert into grand select g, g from generate_series(1, 20000) g`);
            const { run } = await unique(owner, merge);
            await owner.run('drop index t_k_key');
            const began = Date.now();
            await undo(owner, run);
            console.log(`undone in ${Date.now() - began} ms`);
            expect(Date.now() - began).toBeLessThan(60_000);
        }));

    test('keys that are foreign keys, of two columns, of another type, with ON UPDATE CASCADE below, in partitions', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id numeric(6,2) primary key, z text not null default 'z', k text, unique
                (id, z)); insert into t values (1, 'x', 'a'), (2, 'y', 'a'), (3, 'x', 'b'), (4, 'x', 'b'), (5, 'x', 'b');
                create table one (t_id numeric primary key references t, v int); insert into one values (2, 0), (4, 1);
                create table wide (t_id numeric, z varchar(9), n int, primary key (t_id, z, n), foreign key (t_id, z) references t
                    (id, z)); insert into wide values (1, 'x', 1), (2, 'y', 1), (2, 'y', 2), (5, 'x', 9);
                create table below (id int primary key, t_id numeric, z text, n int, foreign key (t_id, z, n) references wide on
                    update cascade); insert into below values (1, 2, 'y', 1), (2, 2, 'y', 2), (3, 5, 'x', 9), (4, 1, 'x', 1);
                create table parts (t_id numeric references t, id int, primary key (t_id, id)) partition by range (t_id); create
                    table parts1 partition of parts for values from (0) to (2);
                create table parts2 partition of parts for values from (2) to (10); insert into parts values (1, 1), (2, 1), (2,
                    2), (5, 1), (4, 1), (4, 3)`);
            const tables = ['t', 'one', 'wide', 'below', 'parts'];
            const before = await snapshot(owner, ...tables);
            const { run } = await unique(owner, merge);
            await owner.run('drop index t_k_key');
            await undo(owner, run);
            expect(await snapshot(owner, ...tables)).toBe(before);
        }));

    test('rounds: a row that moved twice, since the first move made new duplicates', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int primary key, up int references t, k text); create table child
                (t_id int references t, n int, primary key (t_id, n));
                insert into t values (1, null, 'r'), (2, null, 'r'), (3, 1, 'a'), (4, 1, 'a'), (5, 2, 'a'), (6, 3, 'x'), (7, 4,
                    'x'), (8, 5, 'x');
                insert into child values (3, 1), (3, 2), (4, 2), (4, 3), (5, 4), (6, 1), (7, 1), (8, 1), (7, 2)`);
            const before = await snapshot(owner, 't', 'child');
            const { run, drop } = await unique(owner,
                "'t', '{up,k}', keep => 'id desc', losers => 'delete', children => 'merge'");
            expect(await owner.run(`select old ->> 't_id' as old, new ->> 't_id' as new from kept where relation = 'public.child'
                and action = 'moved' and key ->> 'n' = '3' order by place`))
                .toEqual([{ old: '4', new: '5' }]);
            expect(await owner.run(`select old ->> 't_id' as old, new ->> 't_id' as new from kept where relation = 'public.child'
                and action = 'moved' and key ->> 'n' = '1' and new ->> 't_id' in ('4', '5') order by place`))
                .toEqual([{ old: '3', new: '4' }, { old: '4', new: '5' }]);
            await owner.run(drop);
            await undo(owner, run);
            expect(await snapshot(owner, 't', 'child')).toBe(before);
        }));

    test('constraints that are deferred are checked before it returns', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int primary key, k text, o int); create table o (id int primary key);
                alter table t add foreign key (o) references o deferrable initially deferred;
                insert into o values (1), (2); insert into t values (1, 'a', 1), (2, 'a', 2)`);
            const { run } = await unique(owner, merge);
            await owner.run('drop index t_k_key; delete from o where id = 2');
            await owner.run('begin');
            expect((await attemptUndo(owner, run)).code).toBe('23503');
            await owner.run('rollback; insert into o values (2)');
            expect(await undo(owner, run)).toEqual(['public.t inserted 1']);
        }));
});

describe('an archive keeps what it is given', () => {
    const nothing = "create function nothing() returns trigger language plpgsql as 'begin return null; end';";
    const trigger = `${nothing} create trigger nothing before insert on kept for each row execute function nothing();`;
    const rule = 'create rule nothing as on insert to kept do instead nothing;';
    const wide = archive.replace('now())', "now(), note text default '') partition by range (place)");

    test.each([
        ['a trigger before each row', archive, trigger],
        ['one that fires always', archive, `${trigger} alter table kept enable always trigger nothing`],
        ['one of a replica', archive, `${trigger} alter table kept enable replica trigger nothing`],
        ['one of several events', archive, `${nothing} create trigger nothing before update or insert on kept for each row execute function
            nothing()`],
        ['a rule', archive, rule],
        ['a rule beside', archive, 'create rule nothing as on insert to kept do also select 1'],
        ['a trigger of a partition', wide.replace('generated always as identity', "default nextval('places')"), `create table kept1
            partition of kept for values from (0) to (1000); ${trigger.replace('on kept', 'on kept1')}`],
    ])('%s: 22023 of the call and of the plan, before anything', (_what, kept, bad) =>
        withOwner(async (owner) => {
            await owner.run(`create sequence places; ${family.replace(archive, kept)}; ${bad}`);
            const before = await snapshot(owner, 't', 'child', 'grand');
            const args = `${merge}, archive => 'kept'`;
            for (const call of ['ensure', 'plan']) {
                const { detail } = expectError(await owner.attempt(`select * from ensure.${call}_unique_v1(${args})`), '22023');
                expect(detail).toContain('"nothing"');
            }
            expect(await snapshot(owner, 't', 'child', 'grand')).toBe(before);
        }));

    test('triggers that keep the row may stay: disabled ones, AFTER, of a statement, of other events; and a run can be undone', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; ${trigger} alter table kept disable trigger nothing;
                create trigger later after insert on kept for each row execute function nothing();
                create trigger whole before insert on kept for each statement execute function nothing();
                create trigger other before update on kept for each row execute function nothing()`);
            const { run } = await unique(owner, merge);
            await owner.run('drop index t_k_key; alter table kept enable trigger nothing');
            expect((await attemptUndo(owner, run)).code).toBe('ok');
        }));

    test.each([
        ['losers that are deleted', "'t', '{k}', keep => 'id', losers => 'delete', children => 'merge'", '1'],
        ['losers that are updated', "'t', '{k}', 'active', keep => 'id', losers => 'update', loser_set => 'active = false', children =>"
            + " 'merge'", "new.action = 'updated'"],
        ['rows that move', merge, "new.action = 'moved'"],
    ])('%s and are not archived all the same: NS012, and nothing has changed', (_what, args, when) =>
        withOwner(async (owner) => {
            await owner.run(`${family}; ${trigger.replace('execute', `when (${when === '1' ? "new.action = 'deleted'" : when}) execute`)}`);
            const before = await snapshot(owner, 't', 'child', 'grand', 'kept');
            await withoutGuard(owner, '_check_kept_v1', 'if v_found is not null', 'if false');
            expectError(await owner.attempt(`select * from ensure.ensure_unique_v1(${args}, archive => 'kept')`), 'NS012');
            expect(await snapshot(owner, 't', 'child', 'grand', 'kept')).toBe(before);
        }));

    test('negative control: without the count of what was archived losers are gone, and nowhere', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int, k text); insert into t values (1, 'a'), (2, 'a'); ${trigger}`);
            await withoutGuard(owner, '_check_kept_v1', 'if v_found is not null', 'if false');
            await withoutGuard(owner, '_drop_losers_v1',
                /get diagnostics v_count = row_count;\s+if v_count <> cardinality\(losers\) then/, 'if false then');
            expect((await owner.attempt("select ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => 'delete', archive => 'kept')"))
                .code).toBe('ok');
            expect(await owner.run('select (select count(*) from t)::int as t, (select count(*) from kept)::int as kept'))
                .toEqual([{ t: 1, kept: 0 }]);
        }));
});

describe('a plan with an archive', () => {
    const args = "'t', '{k}', keep => 'id', losers => 'delete', archive => 'kept', batch => 1";
    const table = `${archive}; create table t (id int primary key, k int); insert into t select g, (g + 1) / 2 from
        generate_series(1, 6) g`;
    const run = async (owner: Session): Promise<string> => String((await owner.run('select run from kept limit 1'))[0]?.run);

    /** Two batches before a column comes, one after. */
    const widened = async (owner: Session): Promise<string> => {
        await owner.run(`${table}`);
        for (let batch = 0; batch < 2; batch++) {
            await owner.run((await upTo(owner, args, isSweep)).statement);
        }
        await owner.run("alter table t add z text default 'new'; update t set z = 'precious ' || id");
        await follow(owner, args);
        await owner.run(`drop index ${(await owner.run(`select string_agg(indexrelid::regclass::text, ', ') as names from pg_index
            where indrelid = 't'::regclass and not indisprimary`))[0]?.names as string}`);
        return run(owner);
    };

    test('a column that came between two batches: what has it gets it back, the rest its default', () =>
        withOwner(async (owner) => {
            const undone = await undo(owner, await widened(owner));
            expect(undone).toEqual(['public.t inserted 3']);
            const z = (await owner.run('select z from t order by id')).map((row) => row.z);
            expect(z.filter((value) => value === 'new')).toHaveLength(2);
            expect(z.filter((value) => String(value).startsWith('precious'))).toHaveLength(4);
            expect(await owner.run('select count(*)::int as n from kept')).toEqual([{ n: 0 }]);
        }));

    test('negative control: steps of rows whose columns differ lose values', () =>
        withOwner(async (owner) => {
            const first = await widened(owner);
            await withoutGuard(owner, '_undo_steps_v1', 'array(select jsonb_object_keys(r.old))', 'null::text');
            expect((await attemptUndo(owner, first)).code).toBe('ok');
            expect((await owner.run("select count(*)::int as n from t where z like 'precious%'"))).toEqual([{ n: 3 }]);
        }));

    test.each(['refuse', 'skip'])('whose gate %ss: 55006 says that it must go first, and after it went the run is undone', (gate) =>
        withOwner(async (owner) => {
            await owner.run(table);
            const before = await snapshot(owner, 't');
            const gatedArgs = `${args}, gate => '${gate}'`;
            await gated(owner, gatedArgs);
            await owner.run((await upTo(owner, gatedArgs, isSweep)).statement);
            const between = await snapshot(owner, 't', 'kept');
            const { message, hint } = expectError(await attemptUndo(owner, await run(owner)), '55006');
            expect(message).toContain('"public.t"');
            expect(await snapshot(owner, 't', 'kept')).toBe(between);
            await owner.run(/drop trigger \w+ on public.t/.exec(hint)?.[0] ?? '');
            expect(await undo(owner, await run(owner))).toEqual(['public.t inserted 1']);
            expect(await snapshot(owner, 't')).toBe(before);
        }));

    test('a gate of a partition counts; negative control: without the look the advice is to drop an index that is not there yet', () =>
        withOwner(async (owner) => {
            await owner.run(`${archive}; create table t (id int, k int) partition by list (id); create table t1 partition of t for values in
                (1, 2); insert into t values (1, 1), (2, 1)`);
            const id = '00000000-0000-0000-0000-000000000001';
            await owner.run(`insert into kept (run, relation, action, key, old) values ('${id}', 'public.t', 'deleted', '{"id": "2"}',
                '{"id": "2", "k": "1"}'); delete from t where id = 2`);
            await gated(owner, "'t1', '{k}', keep => 'id', losers => 'delete'");
            expect(expectError(await attemptUndo(owner, id), '55006').message).toContain('t1');
            await withoutGuard(owner, '_check_ungated_v1', 'if found then', 'if false then');
            expect((await attemptUndo(owner, id)).code).toBe('NS001');
        }));
});
