import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { linesOf } from '../catalogs.js';
import { expectError, major, missing, sharedOwner, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const ensure = async (session: Session, args: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', object, outcome, row_count) as line from ensure.ensure_unique_v1(${args})`))
        .map((row) => String(row.line));

const refused = async (session: Session, args: string, code: string) =>
    expectError(await session.attempt(`select ensure.ensure_unique_v1(${args})`), code);

const setup = `
    create table t (id int primary key, a text, n int not null, j json, p point, active boolean, at timestamptz, g text generated always as (a || '!') stored);
    insert into t values (1, 'x', 1, null, null, true, now()), (2, 'x', 2, null, null, true, now()), (3, 'y', 3, null, null, true, now());
    create sequence s; create view v as select 1 as a; create materialized view mv as select 1 as a; create table not_archive (run uuid);
    create temp table temporary (a int); create table wide (${Array.from({ length: 33 }, (_, i) => `c${i} int`).join(', ')});
    create function bump(text) returns text immutable language sql as $$ select $1 || nextval('public.s') $$;
    create table small (a int, b text); create function whole(t) returns text immutable language sql as 'select $1.a';
    create table no_place (place bigint primary key, run uuid, relation text, action text, key jsonb, old jsonb, new jsonb);
    create table same_place (place bigint default nextval('s'), run uuid, relation text, action text, key jsonb, old jsonb, new jsonb);
    create function public.bad(text) returns boolean immutable language sql as 'select true'`;

const state = async (owner: Session): Promise<unknown> =>
    [await linesOf(owner, 'public'), await owner.run('select t.* from t order by id'), await owner.run('select is_called from s')];

describe('bad input: one clear coded error with advice, nothing changed', () => {
    const dedupe = "keep => 'id', losers => 'delete'";
    const unchanged = sharedOwner(setup);
    test.each([
        ["null, '{a}'", '22004'], ["'t', null", '22004'], ["'t', '{a,null}'", '22004'], ["'t', '{a}', nulls_equal => null", '22004'],
        ["'t', '{a}', losers => null", '22004'], ["'t', '{a}', children => null", '22004'],
        ["'t', '{a}', max_wait => null", '22004'], ["'t', '{a}', max_block => null", '22004'],
        ["'t', '{a}', split_nulls => null", '22004'], ["'t', '{a}', as_constraint => null", '22004'],
        ["'t', '{}'", '22023'], ["'t', '{{a},{n}}'", '22023'], ["'t', array['']", '42601'], ["'t', array[' ']", '42601'],
        ["'t', '{a}', max_wait => '-1 s'", '22023'],
        ["999999999::oid::regclass, '{a}'", '42P01'], ["'v', '{a}'", '42809'], ["'mv', '{a}'", '42809'], ["'s', '{a}'", '42809'], ["'t_pkey', '{id}'", '42809'],
        ["'temporary', '{a}'", '0A000'], ["'pg_temp.temporary', '{a}'", '0A000'],
        ["'t', '{nope}'", '42703'], ["'t', '{nope(a)}'", '42883'], ["'t', '{bad(a)}'", '42883'], ["'t', '{A, a}'", '42701'], ["'t', array['a', 'a text_ops']", '42701'],
        ["'small', '{small}'", '0A000'], ["'small', array['to_jsonb(small)']", '0A000'], ["'t', array['public.whole(t) collate \"C\"']", '0A000'],
        ["'t', array['public.whole(t.*) || ''t.*''']", '0A000'],
        ["'t', '{a}', index_name => ''", '22023'], ["'t', '{id}', index_name => ''", '22023'], ["0::oid::regclass, '{a}'", '42P01'],
        ["'t', '{ctid}'", '42703'], ["'t', '{tableoid}'", '42703'], ["'t', array['t.xmin']", '42703'],
        ["'t', array['a desc']", '42704'], ["'t', array['a nulls first']", '42601'], ["'t', array['a nope_ops']", '42704'], ["'t', array['a public.nope_ops']", '42704'],
        ["'t', array['a b c']", '42601'], ["'t', array['a, n']", '42804'], ["'t', array['a, a']", '22023'], ["'t', array['(a, n)']", '22023'], ["'t', array['row(a)']", '22023'],
        ["'t', array['a), (a']", '42601'], ["'t', array['a], array[a']", '42601'], ["'t', array['a) limit (1']", '42601'], ["'t', array['a) offset (0']", '42601'],
        ["'t', array['1']", '22023'], ["'t', array['2']", '22023'], ["'t', array['true']", '22023'], ["'t', array['(t).*']", '22023'], ["'t', array['''x'' || ''y''']", '22023'], ["'t', array['null::text']", '22023'],
        ["'t', array['(select 1)']", '22023'], ["'t', array['(select a)']", '22023'], ["'t', array['exists (select from pg_class where relname = a)']", '22023'],
        ["'t', array['count(*)']", '22023'], ["'t', array['max(a)']", '22023'], ["'t', array['row_number() over ()']", '22023'],
        ["'t', array['generate_series(1, n)']", '22023'], ["'t', array['random()']", '22023'], ["'t', array['clock_timestamp()']", '22023'],
        ["'t', array['nextval(''public.s'')']", '22023'], ["'t', array['$1']", '42P02'], ["'t', array['a collate nope']", '42704'], ["'t', array['n collate \"C\"']", '42804'],
        ["'t', array['lower(n)']", '42883'], ["'t', array['n + ''x''']", '22P02'], ["'t', array['a -- id']", '42601', 'ok'],
        ["'t', '{j}'", '42883'], ["'t', '{p}'", '42883'],
        ["'wide', array(select 'c' || i from generate_series(0, 32) as i)", '54011'],
        ["'t', '{a}', ''", '42601'], ["'t', '{a}', 'nope'", '42703'], ["'t', '{a}', 'a'", '42804'], ["'t', '{a}', 'true'", '22023'], ["'t', '{a}', 'null'", '22023'], ["'t', '{a}', ' '", '42601'], ["'t', '{a}', '1 = 1'", '22023'],
        ["'t', '{a}', 'n > 0) or (n < 0'", '42601'], ["'t', '{a}', 'exists (select from pg_class where relname = a)'", '22023'],
        ["'t', '{a}', 'n ='", '42601'], ["'t', '{a}', 'where active'", '42601'], ["'t', '{a}', 'active asc'", '42601'], ["'t', '{a}', 'x.active'", '42P01'],
        ["'t', '{a}', '(t).*'", '22023'], ["'t', '{a}', 'nope(n)'", '42883'], ["'t', '{a}', 'n = ''x'''", '22P02'], ["'t', '{a}', 'n = $1'", '42P02'],
        ["'t', '{a}', 'n in (select 1)'", '22023'], ["'t', '{a}', 'generate_series(1, n) > 1'", '22023'], ["'t', '{a}', 'row_number() over () > 1'", '22023'],
        ["'t', '{a}', 'active, n'", '42804'], ["'t', '{a}', 'n, id'", '42804'], ["'t', '{a}', 'active; select 1'", '42601'],
        ["'t', '{a}', 'count(*) > 1'", '22023'], ["'t', '{a}', 'random() > 0.5'", '22023'], ["'t', '{a}', 'ctid is null'", '42703'],
        ["'t', '{a}', losers => 'shoot'", '22023'], ["'t', '{a}', losers => ''", '22023'], ["'t', '{a}', children => 'adopt'", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'update'", '22023'], ["'t', '{a}', keep => 'id', loser_set => 'active = false'", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'delete', children => 'leave'", '22023'],
        ["'t', '{a}', keep => ''", '22023'], ["'t', '{a}', keep => '1'", '22023'], ["'t', '{a}', keep => 'nope'", '42703'], ["'t', '{a}', keep => '(t).*'", '22023'], ["'t', '{a}', keep => '$1'", '42P02'], ["'t', '{a}', keep => 'id limit 1'", '22023'],
        ["'t', '{a}', keep => 'id rows unbounded preceding'", '22023'], ["'t', '{a}', keep => 'id)'", '22023'], ["'t', '{a}', keep => 'id for update'", '22023'],
        ["'t', '{a}', keep => 'count(*)'", '22023'], ["'t', '{a}', keep => 'row_number() over ()'", '22023'], ["'t', '{a}', keep => 'j'", '42883'],
        ["'t', '{a}', archive => 'not_archive'", '22023'], ["'t', '{a}', archive => 'v'", '22023'],
        ["'t', '{a}', archive => 'no_place'", '22023'], ["'t', '{a}', archive => 'same_place'", '22023'], ["'t', '{id}', archive => 'no_place'", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'nope = 1'", '42703'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'a'", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => ''", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'n = ''x'''", '22P02'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'a = null where true'", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'a = null from pg_class as c'", '42601'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'a = null returning 1), \"x\" as (update t set a = ''z'''", '22023'],
        ["'t', '{a}', keep => 'id', losers => 'update', loser_set => 'n = n + 1'", 'NS009'],
        ["'t', '{a}'", 'NS009'], ["'t', '{a}', losers => 'delete'", 'NS009'],
        [`'t', '{at::date}', ${dedupe}`, '42P17'], [`'t', '{a}', 'at < now()', ${dedupe}`, '42P17'],
    ])('%s is %s', (args, code, instead = code) =>
        unchanged(async (owner) => {
            const before = await state(owner);
            if (instead === 'ok') { // a comment ends with its line
                await owner.run('begin');
                expect(await ensure(owner, `${args}, ${dedupe}`)).toContain('public.t_a_key created');
                await owner.run('rollback');
                return;
            }
            const outcome = await owner.attempt(`select ensure.ensure_unique_v1(${args})`);
            if (code === '42601' && args.includes('from pg_class as c')) expect(outcome.code).toBe(code); // PostgreSQL's own words
            else {
                const { message, hint } = expectError(outcome, code);
                expect(message).toMatch(/^(?![A-Z][a-z]).*[^.]$/);
                expect(hint).not.toBe('');
            }
            expect(await state(owner)).toEqual(before);
        }));

    test.each([
        ["array['a; select nextval(''public.s''); select 1']", ''],
        ["array['a); select nextval(''public.s''); select (1']", ''],
        ["array['a]) from t; select nextval(''public.s''); select (array[1']", ''],
        ["'{a}'", "'true; select nextval(''public.s'')'"],
        ["'{a}'", "'true) is true); select nextval(''public.s''); select ((true'"],
        ["'{a}'", "null, keep => 'id; select nextval(''public.s'')', losers => 'delete'"],
        ["'{a}'", "null, keep => 'id); select nextval(''public.s''); select row_number() over (order by 1', losers => 'delete'"],
        ["'{a}'", "null, keep => 'id', losers => 'update', loser_set => 'a = id; select nextval(''public.s'')'"],
        ["'{a}'", "null, keep => 'id', losers => 'update', loser_set => 'a = id where false; select nextval(''public.s''); update public.t set a = null'"],
        ["'{a}'", "null, keep => 'id', losers => 'update', loser_set => 'a = id returning 1) select 1; select nextval(''public.s''); with x as (update public.t set a = id'"],
    ])('several statements in (%s, %s) are refused before the first runs', (columns, rest) =>
        unchanged(async (owner) => {
            const outcome = await owner.attempt(`select ensure.ensure_unique_v1('t', ${[columns, rest].filter(Boolean).join(', ')})`);
            expect(['22023', '42601']).toContain(outcome.code);
            expectError(outcome, outcome.code);
            expect(await owner.run('select is_called from s'), 'not even undone: a sequence would show it').toEqual([{ is_called: false }]);
        }));

    test.each(['actve', 'n = ', 'where active', 'nope(n)', 'x.active', 'active asc', 'random() > 0.5', 'n in (select 1)', '(t).*', 'n', 'null', 'active]',
        'n > 0) or (n < 0', 'count(*) > 1', 'n = $1', "n = 'x'"])('the predicate %s: the hint is for a predicate, and nothing of the SQL around it is said', (predicate) =>
        unchanged(async (owner) => {
            const outcome = await owner.attempt(`select ensure.check_duplicates_v1('t', '{a}', $p$${predicate}$p$)`);
            const { message, detail, hint } = expectError(outcome, outcome.code);
            expect(hint).toMatch(/^Write what stands in WHERE/);
            expect(`${message} ${detail}`).not.toMatch(/IS TRUE|is true|ORDER BY|near "[\])]"|explain/);
            expect(`${message} ${detail}`).toContain(predicate);
        }));

    const named = 'create table named (id int primary key, "Email" text, "user" text, plain text, "null" int)';
    test.each([
        ["'{Email}'", '', `write array['"Email"']`], [`'{"Email"}'`, '', `write array['"Email"']`], ["'{EMAIL}'", '', `write array['"Email"']`],
        ["array['lower(email)']", '', `write array['"Email"']`], ["'{user}'", '', `write array['"user"']`], [`array['"PLAIN"']`, '', `write array['plain']`],
        ["'{plain}'", ", 'Email is null'", 'write "Email"'], ["'{plain}'", ", 'user = ''x'''", 'write "user"'], ["'{plain}'", ", keep => 'EMail', losers => 'delete'", 'write "Email"'],
        ["'{plain}'", ", keep => 'id', losers => 'update', loser_set => 'email = null'", 'write "Email"'], ["'{null}'", '', `array['"null"']`],
        ["'{nope}'", '', 'Name one column'], ["array['\"Email\" desc']", '', 'ASC'], ["'{nope(user)}'", '', `write array['"user"']`],
        ["array['plain = ''Email''', 'nope']", '', 'Name one column'], ["array['nope', '\"Email\"']", '', 'Name one column'],
    ])('a name in another case or a keyword (%s%s): the hint says %s', (columns, rest, said) =>
        withOwner(async (owner) => {
            await owner.run(`${named}; insert into named values (1, null, null, 'a'), (2, null, null, 'a')`);
            const outcome = await owner.attempt(`select ensure.plan_unique_v1('named', ${columns}${rest})`);
            expect(expectError(outcome, outcome.code).hint).toContain(said);
        }));

    test('negative control: as the hint writes it, it is the column', () =>
        withOwner(async (owner) => {
            await owner.run(named);
            for (const [columns, rest = ''] of [[`array['"Email"']`], [`array['"user"']`], [`array['"null"']`], ["'{plain}'", `, '"Email" is null', keep => '"Email"'`]]) {
                expect((await owner.attempt(`select ensure.check_duplicates_v1('named', ${columns}${rest})`)).code).toBe('ok');
            }
        }));

    test.each([
        ["losers => 'remove'", /losers .*remove/, /refuse, delete, or update/], ["losers => 'delete', children => 'cascade'", /children .*cascade/, /move, merge, or leave/],
        ["losers => 'update'", /loser_set is missing/, /is_active = false/], ["losers => 'delete', loser_set => 'n = 1'", /there is a loser_set/, /update/],
        ["losers => 'delete', children => 'leave'", /'delete', and children 'leave'/, /move.*merge/],
        ['losers => null', /^losers must/, /default/], ['children => null', /^children must/, /default/],
    ])('%s: the message names the culprit, the hint the words there are', (rest, said, advised) =>
        unchanged(async (owner) => {
            const outcome = await owner.attempt(`select ensure.ensure_unique_v1('t', '{a}', keep => 'id', ${rest})`);
            const { message, hint } = expectError(outcome, outcome.code);
            expect(message).toMatch(said);
            expect(hint).toMatch(advised);
        }));

    test('the hint for a materialized view does not deny it an index; that for an element that is null says so', () =>
        unchanged(async (owner) => {
            expect((await refused(owner, "'mv', '{a}'", '42809')).hint).toContain('materialized view is made by hand');
            expect((await refused(owner, "'t', '{a,null}'", '22004')).message).toBe('an element of columns is null');
        }));

    test('negative control: run as a plain statement the second would have run', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            await owner.attempt(`do $$ begin execute 'explain (costs off) select from t order by id; select nextval(''public.s'')'; end $$`);
            expect(await owner.run('select is_called from s')).toEqual([{ is_called: true }]);
        }));

    test('an expression is read, never run, until rows are compared', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; create unique index x on t (n, public.bump(a)); select setval('s', 1, false)`);
            expect(await ensure(owner, "'t', '{public.bump(a), n}', 'n > 0', nulls_equal => false, index_name => 'y'").catch(() => [])).toHaveLength(1);
            await owner.run("select setval('s', 1, false)");
            expect(await ensure(owner, "'t', '{public.bump(a), n}', nulls_equal => false, keep => 'public.bump(a)'")).toEqual(['public.x exists']);
            expect(await owner.run('select is_called from s')).toEqual([{ is_called: false }]);
        }));

    test('a stored generated column is a column; a virtual one has no index, 0A000', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            expect(await ensure(owner, "'t', '{g}', keep => 'id', losers => 'delete', nulls_equal => false")).toEqual(['public.t deleted 1', 'public.t_g_key created']);
            if (major < 18) return;
            await owner.run("create table u (a text, g text generated always as (a || '!') virtual)");
            await refused(owner, "'u', '{g}', keep => 'a', losers => 'delete'", '0A000');
            for (const args of ["'u', '{g}'", "'u', '{lower(g)}'", "'u', '{a}', 'g <> ''x'''"]) {
                expectError(await owner.attempt(`select ensure.plan_unique_v1(${args}, gate => 'none')`), '0A000');
                expectError(await owner.attempt(`select ensure.check_duplicates_v1(${args})`), '0A000');
            }
            expect(await ensure(owner, `'u', array[$$a || 'u.g'$$]`)).toHaveLength(1);
        }));

    test('comments and parentheses in texts stay what they are', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            const args = `'t', array['a /* ) -- */', $$n || ' -- ('$$], $$active -- only those$$, nulls_equal => false, keep => $$id -- the oldest
                          $$, losers => 'update', loser_set => 'active = false -- softly'`;
            const [created] = await ensure(owner, args);
            expect(created).toMatch(/created$/);
            expect(await ensure(owner, args)).toEqual([created?.replace('created', 'exists')]);
            expect(await ensure(owner, args.replace("nulls_equal => false", 'split_nulls => true')).then((lines) => lines.length, (error: unknown) => String(error)))
                .toContain('differs');
            expect(await ensure(owner, args.replace("nulls_equal => false", "split_nulls => true, index_name => 'z'"))).toHaveLength(4);
        }));
});

describe('what is not immutable', () => {
    const times = `create table t (id int primary key, at timestamptz, a text, n int); insert into t select n, now(), 'a', n % 3 from generate_series(1, 9) as n`;

    test.each([
        ["array['at::date']", ''], ["array['at::text']", ''], ["'{a}'", ", 'at > now()'"], ["'{a}'", ", 'at > ''2026-01-01''::date'"], 
        ["array['lower(a)', 'to_char(at, ''YYYY'')']", ''], ["array['public.stable(a)']", ''],
    ])('(%s%s): 42P17 of plan, check and ensure, and no row goes', (columns, rest) =>
        withOwner(async (owner) => {
            await owner.run(`${times}; create function stable(text) returns text stable language plpgsql as 'begin return $1; end'`);
            for (const call of ['plan_unique_v1', 'ensure_unique_v1']) {
                for (const more of call.startsWith('plan') ? [", gate => 'none'", ''] : ['']) {
                    expectError(await owner.attempt(`select ensure.${call}('t', ${columns}${rest}, keep => 'id', losers => 'delete'${more})`), '42P17');
                }
            }
            expectError(await owner.attempt(`select ensure.check_duplicates_v1('t', ${columns}${rest})`), '42P17');
        }));

    test.each([
        "array['(at at time zone ''UTC'')::date', 'id']", "array['a || n']", "array['n::numeric', 'id']", "array['coalesce(a, ''x'') collate \"C\"', 'id']",
        "array['public.pure(a)', 'id']", "array['public.inlined(a)', 'id']", "array['array[n, id]']", "array['case when n > 1 then a else ''b'' end', 'id']",
        "'{id}', 'at > ''2026-01-01 00:00+00'' and a in (''a'', ''b'') or n is null'", "array['(n, id)::public.pair']",
    ])('negative control: (%s) is', (args) =>
        withOwner(async (owner) => {
            await owner.run(`${times}; create type pair as (a int, b int);
                create function pure(text) returns text immutable language plpgsql as 'begin return $1; end';
                create function inlined(text) returns text stable language sql as 'select lower($1)'`);
            const [plan] = await owner.run(`select statement from ensure.plan_unique_v1('t', ${args}, nulls_equal => false, index_name => 'x', keep => 'id',
                losers => 'delete', gate => 'none')`);
            expect(plan?.statement).toMatch(/^(create unique index|select ensure\._queue)/);
            expect((await ensure(owner, `'t', ${args}, nulls_equal => false, index_name => 'x', keep => 'id', losers => 'delete'`)).at(-1)).toMatch(/created/);
        }));

    test('negative control: without the look a plan without gate sweeps for an index that can never be', () =>
        withOwner(async (owner) => {
            await owner.run(times);
            await withoutGuard(owner, '_check_indexable_v1', 'if v_element.attnum = 0', 'if false');
            const plan = "select statement from ensure.plan_unique_v1('t', array['at::date'], keep => 'id', losers => 'delete', gate => 'none')";
            for (let turn = 0; turn < 2; turn++) for (const { statement } of await owner.run(plan)) await owner.run(String(statement));
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 1 }]);
            const [build] = await owner.run(plan);
            expect((await owner.attempt(String(build?.statement))).code).toBe('42P17');
        }));
});

describe('rights and switches', () => {
    test('an owner who may not create in the schema is 42501 before anything is locked; what is there is answered', (context) =>
        withTestDatabase(({ url, admin }) => withSessions(admin, ['dba'], ({ dba }) => withSessions(url, ['owner'], async ({ owner }) => {
            if (!surroundings.superuser) missing(context, 'the role of DATABASE_URL is no superuser: no schema of another can be made');
            await dba.run(`create schema s; create table s.t (id int primary key, a int); insert into s.t values (1, 1), (2, 1);
                           alter table s.t owner to ${surroundings.server.owner}; grant usage on schema s to ${surroundings.server.owner}`);
            const args = "'s.t', '{a}', keep => 'id', losers => 'delete'";
            await dba.run('begin; lock table s.t in share row exclusive mode');
            expect((await refused(owner, `${args}, max_wait => '1 ms'`, '42501')).hint).toContain('CREATE');
            expect(await ensure(owner, "'s.t', '{id}'")).toEqual(['s.t_pkey exists']);
            await dba.run('commit');
            await withoutGuard(dba, '_unique_guards_v1', "not has_schema_privilege(c_schema, 'CREATE')", 'false');
            expect((await owner.attempt(`select ensure.ensure_unique_v1(${args})`)).error?.message, 'negative control: the words of PostgreSQL').toContain('permission denied for schema');
        }))));

    test('read-only is 25006, ensure.ddl = off NS002: what exists is still answered', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            for (const [on, code, off] of [['begin read only', '25006', 'rollback'], ['set ensure.ddl = off', 'NS002', 'reset ensure.ddl']]) {
                await owner.run(String(on));
                expect(await ensure(owner, "'t', '{id}'")).toEqual(['public.t_pkey exists']);
                expect(await owner.attempt("select ensure.ensure_unique_v1('t', '{n}')").then((outcome) => expectError(outcome, String(code)).hint)).not.toBe('');
                await owner.run(String(off));
            }
            expect(await ensure(owner, "'t', '{n}'")).toEqual(['public.t_n_key created']);
        }));

    test('a stranger is 42501 and told whose it is; a member of the owner is as good as the owner', (context) =>
        withTestDatabase(async ({ url, admin, name }) => {
            if (!surroundings.superuser) missing(context, 'the role of DATABASE_URL is no superuser: no roles can be made for this test');
            const [member, stranger] = [`m_${name}`, `s_${name}`];
            await withSessions(admin, ['dba'], async ({ dba }) => {
                await dba.run(`create role ${stranger}; create role ${member} in role ${surroundings.server.owner}`);
                try {
                    await withSessions(url, ['owner'], async ({ owner }) => {
                        await owner.run(`${setup}; grant usage on schema ensure, public to ${stranger}; grant all on t to ${stranger}`);
                        await dba.run(`set role ${stranger}`);
                        expect(await ensure(dba, "'t', '{id}'")).toEqual(['public.t_pkey exists']);
                        const { detail } = await refused(dba, "'t', '{a}', keep => 'id', losers => 'delete'", '42501');
                        expect(detail).toContain(surroundings.server.owner);
                        expect(detail).toContain(stranger);
                        await dba.run(`reset role; set role ${member}`);
                        expect(await ensure(dba, "'t', '{a}', nulls_equal => false, keep => 'id', losers => 'delete'")).toEqual(['public.t deleted 1', 'public.t_a_key created']);
                    });
                } finally {
                    await dba.run(`reset role; drop owned by ${stranger}; drop role ${stranger}; drop owned by ${member}; drop role ${member}`);
                }
            });
        }));

    test('who may not read the table is 42501 and told what to grant, by all three; negative control: the words of PostgreSQL', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; create table c (t int references t); insert into c values (2); revoke select on t from current_user`);
            for (const name of ['check_duplicates', 'plan_unique', 'ensure_unique']) {
                expect(expectError(await owner.attempt(`select ensure.${name}_v1('t', '{a}')`), '42501').hint).toContain('Grant SELECT on public.t');
            }
            await owner.run('grant select (a) on t to current_user');
            expect((await owner.attempt("select ensure.check_duplicates_v1('t', '{n}')")).error?.message).toContain('permission denied');
            await owner.run('grant select on t to current_user; revoke select on c from current_user');
            expect(expectError(await owner.attempt("select ensure.check_duplicates_v1('t', '{a}')"), '42501').hint).toContain('Grant SELECT on public.c');
            expect((await owner.attempt("select ensure.check_duplicates_v1('t', '{id}')")).code).toBe('ok');
            await withoutGuard(owner, '_check_readable_v1', /if not has_any_column_privilege\([^)]*\)/, 'if false');
            expect((await owner.attempt("select ensure.check_duplicates_v1('t', '{a}')")).error?.message).toContain('permission denied');
        }));

    test('row security that would hide duplicates is 42501, with and without dedupe; negative control: without row_security = off they stay hidden', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; alter table t enable row level security; alter table t force row level security;
                             create policy p on t using (id <> 2)`);
            for (const args of ["'t', '{a}'", "'t', '{a}', keep => 'id', losers => 'delete'", "'t', '{a}', keep => 'id', losers => 'update', loser_set => 'active = false'"]) {
                expect((await owner.attempt(`select ensure.ensure_unique_v1(${args})`)).code).toBe('42501');
            }
            expect(await ensure(owner, "'t', '{id}'"), 'what is there needs no rows').toEqual(['public.t_pkey exists']);
            await withoutGuard(owner, '_report_duplicates_v1', /SET row_security TO 'off'/, '');
            expect(await owner.run("select groups::int from ensure._report_duplicates_v1(ensure._unique_key_v1('t', '{a}', null, true))")).toEqual([{ groups: 0 }]);
        }));

    test('row security of which the owner is free is no obstacle', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; alter table t enable row level security; create policy p on t using (false)`);
            expect(await ensure(owner, "'t', '{a}', nulls_equal => false, keep => 'id', losers => 'delete'")).toEqual(['public.t deleted 1', 'public.t_a_key created']);
        }));

    test('a search_path with functions and operators of its own changes nothing', () =>
        withOwner(async (owner) => {
            await owner.run(`${setup}; create schema trap;
                create function trap.lower(text) returns text immutable language sql as $$ select 'trapped' $$;
                create function trap.same(text, text) returns boolean immutable language sql as 'select true';
                create operator trap.= (function = trap.same, leftarg = text, rightarg = text);
                create function trap.same(int, int) returns boolean immutable language sql as 'select true';
                create operator trap.> (function = trap.same, leftarg = int, rightarg = int);
                create table trap.t (a text, n int); set search_path = trap, public, pg_catalog`);
            expect(await ensure(owner, "'public.t', '{lower(a)}', $$a = 'x' and n > 5$$")).toHaveLength(major < 15 ? 2 : 1);
            await refused(owner, "'public.t', '{lower(a)}', $$a = 'x'$$, index_name => 'z'", 'NS009');
            expect(await ensure(owner, "'public.t', '{lower(a)}', keep => 'n > 1 desc, id', losers => 'delete', index_name => 'y'")).toContain('public.t deleted 1');
            expect(await owner.run('select id from public.t order by id')).toEqual([{ id: 2 }, { id: 3 }]);
            expect((await owner.run(`select pg_get_indexdef(indexrelid) as def from pg_index where indrelid = 'public.t'::regclass`)).map((row) => String(row.def)).join())
                .not.toContain('trap');
        }));
});
