import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';
import { until } from '../until.js';

const ensure = async (session: Session, args: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', object, outcome, row_count) as line from ensure.ensure_unique_v1(${args})`))
        .map((row) => String(row.line));

const refused = async (session: Session, args: string, code: string) =>
    expectError(await session.attempt(`select ensure.ensure_unique_v1(${args})`), code);

const indexes = async (session: Session, table = 't'): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', i.indexrelid::regclass, case when not i.indisvalid then 'invalid' end) as line from pg_index as i
                        where i.indrelid = '${table}'::regclass order by 1`)).map((row) => String(row.line));

const table = `create table t (id int primary key, a text not null, b text not null, n int not null, active boolean not null, state text not null,
                               at timestamptz not null, c text collate "C" not null)`;

describe('an index is known by what it is on, whatever its name and spelling', () => {
    const plain: [there: string, asked: string][] = [
        ['create unique index x on t (b, a)', "'{a, b}'"],
        ['create unique index x on t (a desc nulls last, b)', "'{a, b}'"],
        ['create unique index x on t (a) include (b)', "'{a}'"],
        ['create unique index x on t (a collate "default" pg_catalog.text_ops)', "'{a}'"],
        ['create unique index x on t ((a))', "'{a}'"],
        ['create unique index x on t (a varchar_ops)', "'{A}'"],
        ['create unique index x on t (c)', "'{c}'"],
        ['alter table t add constraint x unique (a, b)', "'{a, b}'"],
        ['alter table t add constraint x unique (b) include (a)', "'{b}'"],
        ['select', "'{id}'"],
    ];
    const read: [there: string, asked: string][] = [
        ['create unique index x on t (c collate "C")', `array['c collate "C"']`],
        ['create unique index x on t (a collate "C")', `array['a collate pg_catalog."C"']`],
        ['create unique index x on t (lower(a) collate "C")', `array['(lower(a)) collate "C"']`],
        ['create unique index x on t (lower(c))', `array['lower(c)']`],
        ['create unique index x on t (lower(c) desc)', `array['lower(c) collate "C"']`],
        ['create unique index x on t (a text_pattern_ops)', "array['a pg_catalog.text_pattern_ops']"],
        ['create unique index x on t (lower(a) text_pattern_ops)', "array['lower(a) text_pattern_ops']"],
        ['create unique index x on t (lower(a))', "array['lower(a) text_ops']"],
        ['create unique index x on t (lower(a) text_ops)', "array['pg_catalog.lower(t.a)']"],
        ['create unique index x on t (upper(b), n, lower(a))', "array['lower(a)', ' upper ( b ) ', 'n']"],
        ["create unique index x on t ((a || '-' || b))", "array['a||''-''||b'], nulls_equal => false"],
        ['create unique index x on t (cast(n as bigint))', "array['n::bigint'], nulls_equal => false"],
        ["create unique index x on t (((at at time zone 'UTC')::date))", "array['(at at time zone ''UTC'')::date'], nulls_equal => false"],
        ['create unique index x on t (a) where active', "'{a}', 'active = true'"],
        ['create unique index x on t (a) where (((active)))', "'{a}', 't.active'"],
        ['create unique index x on t (a) where not active', "'{a}', 'active = false'"],
        ["create unique index x on t (a) where state in ('new', 'open')", "'{a}', $$state = any (array['new', 'open'])$$"],
        ["create unique index x on t (a) where state = any ('{new,open}')", "'{a}', $$state in ('new', 'open')$$"],
        ["create unique index x on t (b, a) where state <> 'gone'::text and n > 0", "'{a, b}', $$ (state != 'gone') and (n > 0) -- alive $$"],
        ['create unique index x on t (a) where n between 1 and 3', "'{a}', 'n >= 1 and n <= 3'"],
        ["create unique index x on t (lower(a)) where state is not null", "'{lower(a)}', 'state notnull'"],
    ];

    test.each([...plain, ...read])('%s is what %s asks for: nothing is written, nor locked', (there, asked) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; ${there}`);
            const name = there === 'select' ? 't_pkey' : 'x';
            await owner.run("begin read only; set local default_transaction_isolation = 'serializable'");
            expect(await ensure(owner, `'t', ${asked}, keep => 'id desc', losers => 'delete', index_name => 'other'`)).toEqual([`public.${name} exists`]);
            expect(await owner.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
            expect(await owner.run(`select l.relation::regclass, l.mode from pg_locks as l join pg_class as c on c.oid = l.relation
                                    join pg_namespace as n on n.oid = c.relnamespace where l.pid = pg_backend_pid() and n.nspname !~ '^pg_'
                                    union all select null, l.mode from pg_locks as l where l.pid = pg_backend_pid() and l.locktype = 'advisory'`)).toEqual([]);
            await owner.run('rollback');
        }));

    test('negative control: by other spellings of the predicate alone they would be different', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create unique index x on t (a) where active`);
            await withoutGuard(owner, '_unique_key_v1', /v_key.canonical_predicate := [^;]*;/, 'v_key.canonical_predicate := predicate;');
            await refused(owner, "'t', '{a}', 'active = true'", 'NS001');
        }));

    test.each(['repeatable read', 'serializable'])('also at %s, where what is missing is NS011, whatever losers says', (isolation) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create unique index x on t (lower(a)) where active`);
            await owner.run(`begin isolation level ${isolation}`);
            expect(await ensure(owner, "'t', '{lower(a)}', 'active = true'")).toEqual(['public.x exists']);
            expect((await refused(owner, "'t', '{b}', keep => 'id', losers => 'delete'", 'NS011')).hint).toContain('READ COMMITTED');
            await owner.run('rollback');
            expect(await indexes(owner)).toEqual(['t_pkey', 'x']);
        }));

    test('an index that was dropped after this snapshot is not reported as there', () =>
        withTestDatabase(({ url }) => withSessions(url, ['old', 'other'], async ({ old, other }) => {
            await other.run(`${table}; create unique index x on t (a)`);
            await old.run('begin isolation level repeatable read; select from pg_class limit 1');
            expect(await ensure(old, "'t', '{a}'")).toEqual(['public.x exists']);
            await other.run('drop index x');
            await refused(old, "'t', '{a}'", 'NS011');
            await old.run('rollback');
        })));

    test('on a standby it answers; what is missing there is 25006', (context) => {
        if (!surroundings.embedded) context.skip('with DATABASE_URL no standby is started');
        return withStandby({}, ({ primary, standby, caughtUp }) =>
            withTestDatabase(async ({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
                const functions = await owner.run(`select pg_get_functiondef(p.oid) as line from pg_proc as p
                    where p.pronamespace = 'ensure'::regnamespace and p.prolang <> (select oid from pg_language where lanname = 'sql')`);
                const types = await owner.run(`select format('create type %s as (%s)', c.oid::regclass, string_agg(format('%I %s', a.attname,
                    format_type(a.atttypid, null)), ', ' order by a.attnum)) as line from pg_class as c join pg_attribute as a on a.attrelid = c.oid
                    where c.relkind = 'c' and c.relnamespace = 'ensure'::regnamespace and a.attnum > 0 group by c.oid`);
                const sql = await owner.run(`select pg_get_functiondef(p.oid) as line from pg_proc as p
                    where p.pronamespace = 'ensure'::regnamespace and p.prolang = (select oid from pg_language where lanname = 'sql')`);
                await withSessions(primary.url, ['dba'], async ({ dba }) => {
                    await dba.run('create schema ensure; set check_function_bodies = off');
                    for (const { line } of [...types, ...functions, ...sql]) await dba.run(String(line));
                    await dba.run(`${table}; create unique index x on t (lower(a)) where active; create unique index y on t (b)`);
                });
                await caughtUp();
                await withSessions(standby.url, ['reader'], async ({ reader }) => {
                    expect(await ensure(reader, "'t', '{lower(a)}', 'active = true'")).toEqual(['public.x exists']);
                    expect(await ensure(reader, "'t', '{b}', keep => 'id', losers => 'delete'")).toEqual(['public.y exists']);
                    await refused(reader, "'t', '{a}'", '25006');
                });
            })));
    });
});

describe('valid, but different: NS001 with both definitions, unless index_name asks for one beside it', () => {
    test.each([
        ['create unique index x on t (a) where active', "'{a}', 'not active'", 'WHERE active'],
        ['create unique index x on t (a) where active', "'{a}'", 'WHERE active'],
        ['create unique index x on t (a)', "'{a}', 'active'", 'USING btree (a)'],
        ["create unique index x on t (a) where state in ('new')", "'{a}', $$state in ('new', 'open')$$", "'new'"],
        ['create unique index x on t (a collate "C")', "'{a}'", 'COLLATE "C"'],
        ['create unique index x on t (a)', `array['a collate "C"']`, 'USING btree (a)'],
        ['create unique index x on t (c)', `array['c collate "POSIX"']`, 'USING btree (c)'],
        ['create unique index x on t (lower(a) collate "C")', "'{lower(a)}'", 'COLLATE "C"'],
        ['create unique index x on t (a text_pattern_ops)', "'{a}'", 'text_pattern_ops'],
        ['create unique index x on t (b, a)', "array['a text_pattern_ops', 'b']", 'USING btree (b, a)'],
        ['create unique index x on t (lower(a))', "array['lower(a) text_pattern_ops']", 'lower(a)'],
        [`create unique index x on t (a) where a collate "C" < 'b'`, "'{a}', $$a collate \"POSIX\" < 'b'$$", 'COLLATE "C"'],
        ['alter table t add constraint x unique (a) deferrable', "'{a}'", 'UNIQUE INDEX x'],
    ])('%s is not what %s asks for', (there, asked, shown) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; ${there}`);
            const { detail, hint } = await refused(owner, `'t', ${asked}`, 'NS001');
            expect(detail).toMatch(/^Wanted: create unique index .* There: CREATE UNIQUE INDEX x .*\.$/);
            expect(detail.split('There:')[1]).toContain(shown);
            expect(hint).toContain('index_name');
            expect(await ensure(owner, `'t', ${asked}, index_name => 'beside'`)).toEqual(['public.beside created']);
            expect(await ensure(owner, `'t', ${asked}`)).toEqual(['public.beside exists']);
        }));

    test.each([
        'create index x on t (a)',
        'create unique index x on t (a, b)',
        'create unique index x on t (b) include (a)',
        'create unique index x on t (lower(a))',
        'create unique index x on t ((a || b))',
        'create unique index x on t ((1))',
        'alter table t add constraint x exclude (a with =)',
    ])('%s is another thing: the index on a is made beside it', (there) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; ${there}`);
            expect(await ensure(owner, "'t', '{a}'")).toEqual(['public.t_a_key created']);
            expect(await ensure(owner, "'t', '{upper(a)}'"), 'nor in the way of an expression').toEqual(['public.t_upper_a_key created']);
        }));

    test('a key WITHOUT OVERLAPS is no unique index', (context) =>
        withOwner(async (owner) => {
            if (major < 18) context.skip('WITHOUT OVERLAPS came with 18');
            await owner.run('create table t (a int4range not null, p daterange not null, constraint x unique (a, p without overlaps))');
            expect(await ensure(owner, "'t', '{a, p}'")).toEqual(['public.t_a_p_key created']);
        }));

    test('a name that is taken: by another index of the table NS001, by anything else NS007', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create index x on t (b); create table y (); create view z as select 1; create table u (a int); create index v on u (a)`);
            expect((await refused(owner, "'t', '{a}', index_name => 'x'", 'NS001')).detail).toMatch(/There: CREATE INDEX x ON public.t/);
            expect((await refused(owner, "'t', '{a}', index_name => 'y'", 'NS007')).detail).toMatch(/There: table public.y/);
            expect((await refused(owner, "'t', '{a}', index_name => 'z'", 'NS007')).detail).toMatch(/There: view public.z/);
            await refused(owner, "'t', '{a}', index_name => 'v'", 'NS007');
            expect(await ensure(owner, "'t', '{a}', index_name => 'w'")).toEqual(['public.w created']);
        }));
});

describe('an invalid leftover is repaired, by what it is on', () => {
    const rows = "insert into t select i, 'a' || i % 3, 'b', i, true, 's', now(), 'c' from generate_series(1, 9) as i";

    test('inert: a concurrent build that found duplicates', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; ${rows}`);
            expect((await owner.attempt('create unique index concurrently x on t (a)')).code).toBe('23505');
            expect(await indexes(owner)).toEqual(['t_pkey', 'x invalid']);
            expect(await owner.run("select state from ensure._look_unique_v1(ensure._unique_key_v1('t', '{a}', null, true))")).toEqual([{ state: 'inert' }]);
            await refused(owner, "'t', '{a}'", 'NS009');
            expect(await indexes(owner)).toEqual(['t_pkey', 'x invalid']);
            expect(await ensure(owner, "'t', '{a}', keep => 'id', losers => 'delete'")).toEqual(['public.t deleted 6', 'public.x repaired']);
            expect(await indexes(owner)).toEqual(['t_pkey', 'x']);
            expect((await owner.attempt("insert into t select 99, 'a1', b, n, active, state, at, c from t limit 1")).code).toBe('23505');
        }));

    test('enforcing: a concurrent build that was cancelled while it waited for an old snapshot', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'builder', 'reader'], async ({ owner, builder, reader }) => {
            await owner.run(`${table}; ${rows}; delete from t where id > 3`);
            await reader.run('begin isolation level repeatable read; select from t limit 1');
            const build = builder.start('create unique index concurrently x on t (a)');
            await build.blockedBy(reader); // in the second phase: the index is built, and enforced
            await owner.run(`select pg_cancel_backend(${builder.pid})`);
            expect((await build.outcome()).code).toBe('57014');
            await reader.run('rollback');
            expect(await owner.run("select state from ensure._look_unique_v1(ensure._unique_key_v1('t', '{a}', null, true))")).toEqual([{ state: 'enforcing' }]);
            expect((await owner.attempt("insert into t select 99, 'a1', b, n, active, state, at, c from t limit 1")).code).toBe('23505');
            expect(await ensure(owner, "'t', '{a}', keep => 'id', losers => 'delete'")).toEqual(['public.x repaired']);
            expect(await ensure(owner, "'t', '{a}'")).toEqual(['public.x exists']);
        })));

    test('a valid one beside the leftover is the one that counts; an invalid one that differs is not in the way', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; ${rows}`);
            await owner.attempt('create unique index concurrently x on t (a)');
            await owner.attempt('create unique index concurrently y on t (a) where active');
            await owner.run('delete from t where id > 3');
            await owner.run('create unique index z on t (a)');
            expect(await ensure(owner, "'t', '{a}'")).toEqual(['public.z exists']);
            await owner.run('drop index z; drop index x');
            expect(await ensure(owner, "'t', '{a}'")).toEqual(['public.t_a_key created']);
            expect(await indexes(owner)).toEqual(['t_a_key', 't_pkey', 'y invalid']);
        }));

    test('a build in another session is NS006 at once and names its pid; the builder is not disturbed, and then it exists', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'builder', 'writer'], async ({ owner, builder, writer }) => {
            await owner.run(`${table}; ${rows}; delete from t where id > 3`);
            await writer.run('begin; update t set b = b');
            const build = builder.start('create unique index concurrently x on t (lower(a))');
            await build.blockedBy(writer);
            for (const args of ["'t', '{lower(a)}', max_wait => '1 h'", "'t', '{lower(a)}', keep => 'id', losers => 'delete', max_wait => '1 h', max_block => '1 h'"]) {
                expect((await refused(owner, args, 'NS006')).detail).toContain(`pid ${builder.pid}`);
            }
            await writer.run('commit');
            expect((await build.outcome()).code).toBe('ok');
            expect(await ensure(owner, "'t', '{lower(a)}'")).toEqual(['public.x exists']);
        })));

    test('an ordinary build in another transaction is no concurrent one: it is waited for; negative control: without the mode it would be NS006', () =>
        withTestDatabase(({ url }) => withSessions(url, ['first', 'gate', 'second', 'other'], async ({ first, gate, second, other }) => {
            await first.run(`${table}; ${rows}; delete from t where id > 3;
                create function slow(text) returns text immutable language plpgsql as $$ begin perform pg_advisory_xact_lock(1); return $1; end $$`);
            await gate.run('begin; select pg_advisory_xact_lock(1)');
            const building = first.start('create unique index x on t (public.slow(a))');
            await building.blockedBy(gate);
            await until('it builds', async () => (await gate.run(`select from pg_stat_progress_create_index where pid = ${first.pid}`)).length === 1);
            await refused(second, "'t', '{a}', max_wait => '300 ms'", '55P03');
            await withoutGuard(other, '_blockers_v1', "l.mode = 'ShareUpdateExclusiveLock'", 'true');
            await refused(second, "'t', '{a}', max_wait => '300 ms'", 'NS006');
            await gate.run('commit');
            expect((await building.outcome()).code).toBe('ok');
        })));
});

describe('as_constraint', () => {
    const constraints = async (owner: Session): Promise<string[]> =>
        (await owner.run(`select conname || ' ' || pg_get_constraintdef(oid) as line from pg_constraint where conrelid = 't'::regclass and contype = 'u'`))
            .map((row) => String(row.line));

    test('the index becomes one of its name; an index that was there is constrained; again it exists and nothing is written', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create unique index x on t (b)`);
            expect(await ensure(owner, "'t', '{a}', as_constraint => true")).toEqual(['public.t_a_key created']);
            expect(await ensure(owner, "'t', '{b}', as_constraint => true, max_wait => '1 s'")).toEqual(['public.x constrained']);
            expect((await constraints(owner)).sort()).toEqual(['t_a_key UNIQUE (a)', 'x UNIQUE (b)']);
            await owner.run('begin read only');
            for (const [column, name] of [['a', 't_a_key'], ['b', 'x'], ['id', 't_pkey']]) {
                expect(await ensure(owner, `'t', '{${column}}', as_constraint => true`)).toEqual([`public.${name} exists`]);
            }
            expect(await owner.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
            await owner.run('rollback');
        }));

    test('of several indexes on the same the one that is a constraint already counts', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create unique index x on t (b); alter table t add constraint y unique (b)`);
            expect(await ensure(owner, "'t', '{b}', as_constraint => true")).toEqual(['public.y exists']);
        }));

    test('an index that is DESC or NULLS FIRST cannot be one: 0A000 of ensure and plan; one beside it that can be is taken', () =>
        withOwner(async (owner) => {
            for (const order of ['desc', 'nulls first']) {
                await owner.run(`${table}; create unique index x on t (a ${order})`);
                expect((await refused(owner, "'t', '{a}', as_constraint => true", '0A000')).detail).toContain('"public.x"');
                expectError(await owner.attempt("select ensure.plan_unique_v1('t', '{a}', as_constraint => true)"), '0A000');
                expect(await ensure(owner, "'t', '{a}'")).toEqual(['public.x exists']);
                await owner.run('create unique index y on t (a)');
                expect(await ensure(owner, "'t', '{a}', as_constraint => true")).toEqual(['public.y constrained']);
                await owner.run('drop table t');
            }
            await owner.run(`${table}; create unique index x on t (a desc)`);
            await withoutGuard(owner, '_check_constraint_v1', "v_found.state <> 'different'", 'false');
            expect((await owner.attempt("select ensure.ensure_unique_v1('t', '{a}', as_constraint => true)")).code, 'negative control').toBe('42809');
        }));

    test('NULLS NOT DISTINCT too, where the server has it', (context) =>
        withOwner(async (owner) => {
            if (major < 15) context.skip('NULLS NOT DISTINCT came with 15');
            await owner.run('create table t (a int)');
            await ensure(owner, "'t', '{a}', as_constraint => true");
            expect(await constraints(owner)).toEqual(['t_a_key UNIQUE NULLS NOT DISTINCT (a)']);
            await owner.run("drop table t; create table t (a int, b int)");
            await ensure(owner, "'t', '{a, b}', split_nulls => true");
            await refused(owner, "'t', '{a, b}', as_constraint => true", '0A000');
        }));

    test.each([
        ["'t', '{a}', 'active'"], ["'t', '{lower(a)}'"], ["'u', '{a}', split_nulls => true"], ["'p', '{k}'"],
        ["'t', array['a collate \"C\"']"], ["'t', array['a text_pattern_ops']"],
    ])('(%s) cannot be one, 0A000', (args) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create table u (a int); create table p (k int not null) partition by range (k)`);
            expect((await refused(owner, `${args}, as_constraint => true`, '0A000')).hint).toContain('as_constraint');
            expect(await owner.run("select from pg_index where indrelid in ('u'::regclass, 'p'::regclass)")).toEqual([]);
        }));
});

describe('partitioned tables', () => {
    test('a key without the partition column is refused with the reason', () =>
        withOwner(async (owner) => {
            await owner.run(`create table p (k int, r int, a text) partition by range (k, r); create table q (k int, a text) partition by list ((k + 1))`);
            expect((await refused(owner, "'p', '{a, k}', keep => 'k', losers => 'delete'", '0A000')).detail).toMatch(/columns lacks: r\.$/);
            expect((await refused(owner, "'q', '{a, k}'", '0A000')).detail).toContain('an expression');
        }));

    const twice = `create table t (id int not null, p int not null, a int) partition by list (p); create table t1 partition of t for values in (1);
        create table t2 partition of t for values in (2) partition by hash (id); create table t21 partition of t2 for values with (modulus 1, remainder 0)`;
    const byCollation = `create table t (id int, k text collate "POSIX" not null) partition by list (k collate "C"); create table t1 partition of t for values in ('a', 'b');
        create table t2 partition of t default`;
    const deepExpression = `create table t (id int, p int not null, a int) partition by list (p); create table t1 partition of t for values in (0) partition by list ((id + 1));
        create table t11 partition of t1 default`;
    test.each([
        ['a level below is partitioned by what the key lacks', twice, "'{a,p}'", '"public.t2" has what columns lacks: id.', "'{a,p,id}'"],
        ['a level below is partitioned by an expression', deepExpression, "'{p,id}'", '"public.t1" has what columns lacks: an expression.', ''],
        ['the partition key has another collation', byCollation, "'{k}'", '"public.t" has what columns lacks: k, compared as there.', `array['k collate "C"']`],
    ])('%s: 0A000 of ensure, check and plan, whatever the gate, and no row goes', (_what, setup, columns, why, instead) =>
        withOwner(async (owner) => {
            await owner.run(setup);
            for (const call of ["ensure_unique_v1('t', COLUMNS, keep => 'id', losers => 'delete')", "check_duplicates_v1('t', COLUMNS)",
                "plan_unique_v1('t', COLUMNS, keep => 'id', losers => 'delete')", "plan_unique_v1('t', COLUMNS, gate => 'none')"]) {
                expect(expectError(await owner.attempt(`select ensure.${call.replace('COLUMNS', columns)}`), '0A000').detail, call).toContain(why);
            }
            if (instead) expect((await ensure(owner, `'t', ${instead}`)).every((line) => line.endsWith(' created'))).toBe(true);
        }));

    test('a nullable column of the partition key has no index of its own where it is null: 0A000 with split_nulls', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k int, a int not null) partition by list (k); create table t1 partition of t default');
            for (const call of ['ensure_unique_v1', 'plan_unique_v1']) {
                expect(expectError(await owner.attempt(`select ensure.${call}('t', '{k,a}', split_nulls => true)`), '0A000').detail).toContain('lacks: k.');
            }
        }));

    test('negative control: with a look at the first level alone, the plan sweeps for an index that can never be', () =>
        withOwner(async (owner) => {
            await owner.run(`${twice}; insert into t values (1, 2, 1), (2, 2, 1)`);
            await withoutGuard(owner, '_check_partition_keys_v1', "c.relkind = 'p'", 'false');
            const plan = "select statement from ensure.plan_unique_v1('t', '{a,p}', nulls_equal => false, keep => 'id', losers => 'delete', gate => 'none')";
            for (let turn = 0; turn < 2; turn++) for (const { statement } of await owner.run(plan)) await owner.run(String(statement));
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 1 }]);
            let code = 'ok';
            for (let turn = 0; turn < 3 && code === 'ok'; turn++) for (const { statement } of await owner.run(plan)) code = (await owner.attempt(String(statement))).code;
            expect(code).toBe('0A000');
        }));

    test.each([
        ['list (k)', 'for values in (1)', 'for values in (2, 3)'],
        ['range (k)', 'for values from (0) to (2)', 'for values from (2) to (9)'],
        ['hash (k)', 'for values with (modulus 2, remainder 0)', 'for values with (modulus 2, remainder 1)'],
    ])('%s: duplicates go from every partition, one with partitions of its own too, and the index is there', (by, one, two) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k int not null, a text not null, n int, r int not null) partition by ${by};
                create table t1 partition of t ${one}; create table t2 partition of t ${two} partition by range (k, r);
                create table t21 partition of t2 default;
                insert into t select 1 + i % 3, 'a' || i % 2, i, i % 3 from generate_series(1, 60) as i`);
            expect(await ensure(owner, "'t', '{a, k, r}', keep => 'n desc', losers => 'delete'"))
                .toEqual(['public.t deleted 54', 'public.t_a_k_r_key created']);
            expect(await owner.run('select min(n) as least, count(*)::int as rows from t')).toEqual([{ least: 55, rows: 6 }]);
            expect(await ensure(owner, "'t', '{k, r, a}'")).toEqual(['public.t_a_k_r_key exists']);
            expect((await owner.attempt('insert into t select * from t')).code).toBe('23505');
        }));

    test('a partition by itself, unique by what the whole cannot be', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k int, a text) partition by range (k); create table t1 partition of t default;
                             insert into t values (1, 'a'), (2, 'a')`);
            expect(await ensure(owner, "'t1', '{a}', nulls_equal => false, keep => 'k', losers => 'delete'")).toEqual(['public.t1 deleted 1', 'public.t1_a_key created']);
        }));

    test('an index that some partitions lack is completed: what is built there is used, what is missing is made, at any depth', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k int not null, a text not null) partition by range (k);
                create table t1 partition of t for values from (0) to (1); create table t2 partition of t for values from (1) to (2);
                create table t3 partition of t for values from (2) to (3) partition by range (k); create table t31 partition of t3 default;
                create table t4 partition of t for values from (3) to (4) partition by range (k); create table t41 partition of t4 default;
                insert into t select i % 4, 'a' from generate_series(1, 8) as i;
                create unique index x on only t (k, a); create unique index x3 on only t3 (k, a); alter index x attach partition x3`);
            await owner.run("delete from t2; create unique index x2 on t2 (a, k)");
            expect(await indexes(owner)).toEqual(['x invalid']);
            await refused(owner, "'t', '{k, a}'", 'NS009');
            expect(await ensure(owner, "'t', '{k, a}', keep => 'k', losers => 'delete'")).toEqual(['public.t deleted 3', 'public.x repaired']);
            for (const [name, found] of [['t', 'x'], ['t1', 't1_k_a_idx'], ['t3', 'x3'], ['t31', 't31_k_a_idx'], ['t41', 't41_k_a_idx']]) {
                expect(await indexes(owner, name)).toEqual([found]);
            }
            expect(await ensure(owner, "'t', '{k, a}'")).toEqual(['public.x exists']);
            expect((await owner.attempt('insert into t select * from t')).code).toBe('23505');
        }));

    test('a foreign table as partition is refused before any row goes', (context) =>
        withTestDatabase(({ url, admin }) => withSessions(url, ['owner'], ({ owner }) => withSessions(admin, ['dba'], async ({ dba }) => {
            if ((await dba.attempt('create extension postgres_fdw')).code !== 'ok') context.skip('this server has no postgres_fdw');
            await dba.run(`create server elsewhere foreign data wrapper postgres_fdw; grant usage on foreign server elsewhere to ${surroundings.server.owner}`);
            await owner.run(`create table t (k int, a text) partition by range (k); create table t1 partition of t for values from (0) to (1);
                create foreign table f partition of t for values from (1) to (2) server elsewhere; insert into t1 values (0, 'a'), (0, 'a')`);
            expect((await refused(owner, "'t', '{k, a}', keep => 'k', losers => 'delete'", '0A000')).detail).toContain('"public.f"');
        }))));
});
