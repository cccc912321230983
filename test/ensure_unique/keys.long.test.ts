import { describe, expect, test, type TestContext } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, missing, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const ensure = async (session: Session, args: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', object, outcome, row_count) as line from ensure.ensure_unique_v1(${args})`))
        .map((row) => String(row.line));

const ids = async (session: Session, table = 't'): Promise<string> =>
    String((await session.run(`select string_agg(id::text, ' ' order by id) as ids from ${table}`))[0]?.ids);

const indexes = async (session: Session): Promise<string[]> =>
    (await session.run(`select pg_get_indexdef(i.indexrelid) as line from pg_index as i where i.indrelid = 't'::regclass
                        and i.indisunique and not i.indisprimary and i.indisvalid order by 1`)).map((row) => String(row.line));

/** Rows 1, 2 … with these values; those named by `survivors` stay, the oldest of each group. */
async function survives(owner: Session, type: string, element: string, values: string[], survivors: string): Promise<void> {
    await owner.run(`create table t (id int primary key, k ${type});
                     insert into t values ${values.map((value, place) => `(${place + 1}, ${value})`).join(', ')}`);
    const args = `'t', array[$e$${element}$e$], keep => 'id', losers => 'delete'`;
    const first = await ensure(owner, args);
    expect(await ids(owner)).toBe(survivors);
    expect(first.filter((line) => line.endsWith(' created')).length).toBeGreaterThan(0);
    expect(first[0]).toBe(`public.t deleted ${values.length - survivors.split(' ').length}`);
    expect(await ensure(owner, args)).toEqual(first.slice(1).map((line) => line.replace(/created$/, 'exists')));
    for (const value of values) expect((await owner.attempt(`insert into t values (99, ${value})`)).code, value).toBe('23505');
}

const types: [type: string, element: string, values: string[], survivors: string, setup?: string][] = [
    ['text', 'k', ["'a'", "'b'", "'a'", 'null', 'null', "'A'"], '1 2 4 6'],
    ['text', ' K ', ["'a'", "'a'", "'a '"], '1 3'],
    ['varchar(10)', 'k', ["'a'", "'a'", "'b'"], '1 3'],
    ['char(4)', 'k', ["'a'", "'a '", "'b'"], '1 3'],
    ['name', 'k', ["'a'", "'a'", "'b'"], '1 3'],
    ['numeric', 'k', ['1.0', '1.00', '1.01', "'NaN'", "'NaN'"], '1 3 4'],
    ['float8', 'k', ['0', "'-0'", "'NaN'", "'NaN'", '1'], '1 3 5'],
    ['interval', 'k', ["'1 day'", "'24 hours'", "'1 month'", "'30 days'", "'2 days'"], '1 3 5'],
    ['timestamptz', 'k', ["'2026-01-01 00:00+00'", "'2026-01-01 01:00+01'", "'2026-01-01 00:00+01'"], '1 3'],
    ['uuid', 'k', ["'00000000-0000-0000-0000-00000000000A'", "'00000000-0000-0000-0000-00000000000a'"], '1'],
    ['inet', 'k', ["'10.0.0.1'", "'10.0.0.1/32'", "'10.0.0.1/8'"], '1 3'],
    ['bytea', 'k', ["'\\x41'", "'A'", "'\\x00'"], '1 3'],
    ['jsonb', 'k', [`'{"a": 1, "b": 2}'`, `'{"b":2,"a":1.0}'`, `'{"a": "1"}'`, "'null'", 'null'], '1 3 4 5'],
    ['int[]', 'k', ["'{1,2}'", "'{1,2}'", "'{2,1}'", "'{1,2,null}'", "'{1,2,null}'", "'{}'"], '1 3 4 6'],
    ['int4range', 'k', ["'[1,3)'", "'[1,2]'", "'[1,3]'", "'empty'", "'(1,2)'"], '1 3 4'],
    ['int4multirange', 'k', ["'{[1,3)}'", "'{[1,2],[2,2]}'", "'{}'"], '1 3'],
    ['mood', 'k', ["'sad'", "'sad'", "'ok'", 'null', 'null'], '1 3 4', "create type mood as enum ('sad', 'ok')"],
    ['pair', 'k', ["'(1,)'", "'(1,)'", "'(,)'", "'(,)'", 'null', 'null', "'(1,a)'"], '1 3 5 7', 'create type pair as (a int, b text)'],
    ['mail', 'k', ["'a'", "'a'", "'A'"], '1 3', 'create domain mail as text not null'],
    ['text collate "C"', 'k', ["'a'", "'a'", "'A'"], '1 3'],
    ['text', 'k collate "C"', ["'a'", "'a'", "'A'"], '1 3'],
    ['text', '(k) COLLATE pg_catalog."C"', ["'a'", "'a'", "'A'"], '1 3'],
    ['text', 'k text_ops', ["'a'", "'a'", "'A'"], '1 3'],
    ['text', 'k text_pattern_ops', ["'a'", "'a'", "'A'"], '1 3'],
    ['text', 'k collate "C" pg_catalog . text_pattern_ops', ["'a'", "'a'", "'A'"], '1 3'],
    ['varchar', 'lower(k) "varchar_pattern_ops"', ["'a'", "'A'", "'b'"], '1 3'],
    ['text', 'lower(k)', ["'a'", "'A'", "'b'", 'null', 'null'], '1 3 4'],
    ['text not null', 'lower ( K )', ["'a'", "'A'", "'b'"], '1 3'],
    ['text', "coalesce(k, '')", ["'a'", 'null', "''", "'a'"], '1 2'],
    ['text', "k || ' -- /* ('", ["'a'", "'a'", "'b'"], '1 3'],
    ['text', 'lower(k) -- of any case', ["'a'", "'A'", "'b'"], '1 3'],
    ['text', '/* trimmed */ btrim(k)', ["'a'", "' a'", "'b'"], '1 3'],
    ['timestamp', 'k::date', ["'2026-01-01 10:00'", "'2026-01-01 11:00'", "'2026-01-02'"], '1 3'],
    ['timestamptz', "(k at time zone 'UTC')::date", ["'2026-01-01 23:00+00'", "'2026-01-02 00:30+01'", "'2026-01-02 00:00+00'"], '1 3'],
    ['jsonb', "(k ->> 'id')", [`'{"id": 1}'`, `'{"id": "1", "x": 0}'`, `'{"id": 2}'`], '1 3'],
    ['int', 'k % 10', ['1', '11', '2'], '1 3'],
    ['int', 'abs(k)', ['1', '-1', '2'], '1 3'],
    ['text', 'public.norm(k)', ["'a'", "' A'", "'b'"], '1 3',
        "create function norm(text) returns text immutable strict language sql as 'select lower(btrim($1))'"],
];

describe('what survives is provably indexable: duplicates by the equality of the index go, all others stay', () => {
    test.each(types)('%s on %s', (type, element, values, survivors, setup = '') =>
        withOwner(async (owner) => {
            await owner.run(setup);
            await survives(owner, type, element, values, survivors);
        }));

    test.each([
        ['Order', '"Order"'], ['order', '"order"'], ['user', '"user"'], ['timestamp', 'timestamp'], ['timestamp', '"timestamp"'],
        ['name', 'NAME'], ['select', '"select"'], ['größe', 'größe'], ['ÉtÉ', 'ÉTÉ'], ['名前', '"名前"'], ['a"b', '"a""b"'], ['a b', '"a b"'],
        ["it's", '"it\'s"'], ['t', 't'], ['array', '"array"'], ['k', '"k"'], ['desc', '"desc"'],
    ])('column %s as %s', (name, element) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, "${name.replaceAll('"', '""')}" text);
                             insert into t values (1, 'a'), (2, 'b'), (3, 'a')`);
            const args = `'t', array[$e$${element}$e$], nulls_equal => false, keep => 'id', losers => 'delete'`;
            const [, created] = await ensure(owner, args);
            expect(created).toMatch(/ created$/);
            expect(await ids(owner)).toBe('1 2');
            expect(await ensure(owner, args)).toEqual([created?.replace(/created$/, 'exists')]);
            expect(await ensure(owner, `'t', array[$e$ ${element} $e$], nulls_equal => false`)).toHaveLength(1);
        }));

    test('citext: equal is what citext says, whatever the search_path, also in a domain and beside text_ops', () =>
        withOwner(async (owner) => {
            await owner.run('create extension citext; create domain login as citext');
            for (const type of ['citext', 'login']) {
                await survives(owner, type, 'k', ["'Acme'", "'ACME'", "'acme '", 'null', 'null'], '1 3 4');
                await owner.run('drop table t');
            }
            await survives(owner, 'citext', 'k text_ops', ["'Acme'", "'ACME'", "'Acme'"], '1 2');
            await owner.run('drop table t; create table t (k citext not null); create unique index x on t (k text_ops)');
            expect(expectError(await owner.attempt("select ensure.ensure_unique_v1('t', '{k}')"), 'NS001').detail)
                .toMatch(/Wanted: .*\(k\).*There: .*\(k text_ops\)/);
        }));

    /** Texts are equal when they begin with the same letter. */
    const firstLetter = `
        create schema ops;
        ${[['lt', '<'], ['le', '<='], ['eq', '='], ['ge', '>='], ['gt', '>']].map(([name = '', sign = '']) => `
            create function ops.${name}(text, text) returns boolean immutable strict language sql as 'select left($1, 1) collate "C" ${sign} left($2, 1)';
            create operator ops.~${sign}~ (function = ops.${name}, leftarg = text, rightarg = text${sign === '=' ? ', merges' : ''})`).join(';')};
        create function ops.cmp(text, text) returns int immutable strict language sql as
            'select pg_catalog.bttextcmp(left($1, 1) collate "C", left($2, 1) collate "C")';
        create operator class ops."First" for type text using btree as operator 1 ops.~<~, operator 2 ops.~<=~, operator 3 ops.~=~,
            operator 4 ops.~>=~, operator 5 ops.~>~, function 1 ops.cmp(text, text);
        grant usage on schema ops to public`;

    const asSuperuser = (context: TestContext, setup: string, body: (owner: Session) => Promise<void>): Promise<void> =>
        withTestDatabase(({ url, admin }) => withSessions(admin, ['dba'], ({ dba }) => withSessions(url, ['owner'], async ({ owner }) => {
            if (!surroundings.superuser) missing(context, 'the role of DATABASE_URL is no superuser: no operator class can be made');
            await dba.run(setup);
            await body(owner);
        })));

    test('an operator class with an equality of its own', (context) =>
        asSuperuser(context, firstLetter, async (owner) => {
            await survives(owner, 'text', 'k ops."First"', ["'apple'", "'avocado'", "'banana'", "'Banana'", 'null', 'null'], '1 3 4 5');
            expect((await indexes(owner)).join()).toContain('ops."First"');
        }));

    test('negative control: grouped by the equality of the type the rest cannot be indexed', (context) =>
        asSuperuser(context, firstLetter, async (owner) => {
            await withoutGuard(owner, '_keyed_rows_v1', "when e.operator is null then e.expression", 'when true then e.expression');
            await owner.run("create table t (id int primary key, k text); insert into t values (1, 'apple'), (2, 'avocado')");
            const outcome = await owner.attempt(`select ensure.ensure_unique_v1('t', array['k ops."First"'], keep => 'id', losers => 'delete')`);
            expect(outcome.code, 'nothing was deleted, so the index refuses').toBe('NS009');
            expect(await ids(owner)).toBe('1 2');
        }));

    test('a collation that is not deterministic, of the column or named in the element', (context) =>
        withOwner(async (owner) => {
            const made = await owner.attempt("create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
            if (made.code !== 'ok') missing(context, `no ICU: ${made.error?.message}`);
            const values = ["'Straße'", "'STRASSE'", "'straße'", "'x'", "'X'"];
            const [same] = await owner.run("select 'straße' collate nocase = 'STRASSE' as same");
            const survivors = same?.same ? '1 4' : '1 2 4';
            await survives(owner, 'text collate nocase', 'k', values, survivors);
            await owner.run('drop table t');
            await survives(owner, 'text', 'k collate public.nocase', values, survivors);
            await owner.run('drop table t');
            await owner.run(`create table t (id int primary key, k text collate nocase not null); insert into t values (1, 'x'), (2, 'X'), (3, 'x')`);
            await ensure(owner, `'t', array['k collate "C"'], keep => 'id', losers => 'delete'`);
            expect(await ids(owner), 'they are equal in the column, not in the index').toBe('1 2');
            expectError(await owner.attempt("select ensure.ensure_unique_v1('t', '{k}')"), 'NS001');
        }));
});

describe('nulls', () => {
    const nulls = "create table t (id int primary key, a int, b int); insert into t values (1, 1, null), (2, 1, null), (3, null, null), (4, null, null), (5, 1, 1), (6, 1, 1)";

    test('with nulls_equal they are duplicates of each other', () =>
        withOwner(async (owner) => {
            await owner.run(nulls);
            await ensure(owner, "'t', '{a, b}', keep => 'id', losers => 'delete'");
            expect(await ids(owner)).toBe('1 3 5');
            for (const row of ['1, null', 'null, null', '1, 1']) expect((await owner.attempt(`insert into t values (9, ${row})`)).code).toBe('23505');
            await owner.run('insert into t values (9, null, 1), (10, 2, null)');
        }));

    test('without it no row with a null is touched; negative control: without that rule they are deleted', () =>
        withOwner(async (owner) => {
            await owner.run(nulls);
            expect(await ensure(owner, "'t', '{a, b}', nulls_equal => false, keep => 'id', losers => 'delete'"))
                .toEqual(['public.t deleted 1', 'public.t_a_b_key created']);
            expect(await ids(owner)).toBe('1 2 3 4 5');
            expect(await indexes(owner)).toEqual(['CREATE UNIQUE INDEX t_a_b_key ON public.t USING btree (a, b)']);
            await owner.run(`drop table t; ${nulls}`);
            await withoutGuard(owner, '_keyed_rows_v1', 'when unique_key.nulls_equal or', 'when true or');
            await ensure(owner, "'t', '{a, b}', nulls_equal => false, keep => 'id', losers => 'delete'");
            expect(await ids(owner)).toBe('1 3 5');
        }));

    test('NULLS NOT DISTINCT where the server has it, else the split pair of partial indexes', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int primary key, a int not null, b int)');
            await ensure(owner, "'t', '{a, b}'");
            expect(await indexes(owner)).toEqual(major >= 15
                ? ['CREATE UNIQUE INDEX t_a_b_key ON public.t USING btree (a, b) NULLS NOT DISTINCT']
                : ['CREATE UNIQUE INDEX t_a_b_key ON public.t USING btree (a, b) WHERE (b IS NOT NULL)',
                    'CREATE UNIQUE INDEX t_a_key ON public.t USING btree (a) WHERE (b IS NULL)']);
        }));

    test.each([
        ['a', 1, ['1', 'null']],
        ['a, b', 2, ['1, 1', 'null, 1', '1, null', 'null, null']],
        ['a, b, c', 3, ['1, 1, 1', '1, null, 1', 'null, null, 1', 'null, null, null']],
    ])('split_nulls on (%s): %i nullable columns', (columns, nullable, rows) =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int generated always as identity, a int, b int, c int, d int)');
            const again = rows.flatMap((row) => [row, row]);
            await owner.run(`insert into t (${columns}) values ${again.map((row) => `(${row})`).join(', ')}`);
            const made = await ensure(owner, `'t', '{${columns}}', split_nulls => true, keep => 'id', losers => 'delete'`);
            expect(made).toHaveLength(1 + 2 ** nullable);
            expect(made[0]).toBe(`public.t deleted ${rows.length}`);
            for (const row of rows) expect((await owner.attempt(`insert into t (${columns}) values (${row})`)).code, row).toBe('23505');
            const there = made.slice(1).map((line) => line.replace(/created$/, 'exists'));
            expect(await ensure(owner, `'t', '{${columns}}', split_nulls => true`)).toEqual(there);
            expect(await ensure(owner, `'t', '{${columns}}'`), 'asked plainly they are accepted too').toEqual(there);
        }));

    test('four nullable columns cannot be split, 54000; nor on 14, where there is nothing else', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (a int, b int, c int, d int)');
            expect(expectError(await owner.attempt("select ensure.ensure_unique_v1('t', '{a, b, c, d}', split_nulls => true)"), '54000').detail)
                .toContain('16 indexes');
            expect((await owner.attempt("select ensure.ensure_unique_v1('t', '{a, b, c, d}')")).code).toBe(major >= 15 ? 'ok' : '54000');
            expect((await owner.attempt("select ensure.ensure_unique_v1('t', '{d, c, b, a}', nulls_equal => false, index_name => 'x')")).code).toBe('ok');
        }));

    test('a composite value whose fields are all null is no null: the split indexes hold every row once', () =>
        withOwner(async (owner) => {
            await owner.run(`create type pair as (a int, b int); create table t (id int, k pair);
                             insert into t values (1, '(,)'), (2, '(1,)'), (3, null), (4, '(,)'), (5, '(1,)'), (6, null)`);
            await ensure(owner, "'t', '{k}', split_nulls => true, keep => 'id', losers => 'delete'");
            expect(await ids(owner)).toBe('1 2 3');
            for (const value of ["'(,)'", "'(1,)'", 'null']) expect((await owner.attempt(`insert into t values (9, ${value})`)).code).toBe('23505');
        }));

    test.each(['public.mk(a)', 'public.mk(a) record_ops'])('the same of %s: an expression, too, is null or not by its value', (element) =>
        withOwner(async (owner) => {
            await owner.run(`create type pair as (a int, b int);
                create function mk(int) returns pair immutable language plpgsql as 'begin return case when $1 > 0 then row($1, null)::public.pair end; end';
                create table t (id int, a int); insert into t values (1, 1), (2, 2), (3, 1), (4, null), (5, 0), (6, null)`);
            await ensure(owner, `'t', array['${element}'], split_nulls => true, keep => 'id', losers => 'delete'`);
            expect(await ids(owner)).toBe('1 2 4');
            for (const value of ['1', '2', '0', 'null']) expect((await owner.attempt(`insert into t values (9, ${value})`)).code).toBe('23505');
        }));

    test('negative control: asked for its fields, it is in neither of the two indexes', () =>
        withOwner(async (owner) => {
            await withoutGuard(owner, '_split_key_v1', "else '%s is distinct from null'", "else '%s is not null'");
            await withoutGuard(owner, '_split_key_v1', "else '%s is not distinct from null'", "else '%s is null'");
            await owner.run(`create type pair as (a int, b int); create table t (id int, k pair); insert into t values (1, '(1,)')`);
            await ensure(owner, "'t', '{k}', split_nulls => true");
            await owner.run("insert into t values (2, '(1,)')");
        }));

    test('NULLS NOT DISTINCT that is there serves who asks for split_nulls', (context) =>
        withOwner(async (owner) => {
            if (major < 15) context.skip('NULLS NOT DISTINCT came with 15');
            await owner.run('create table t (a int, b int); create unique index byhand on t (b, a) nulls not distinct');
            expect(await ensure(owner, "'t', '{a, b}', split_nulls => true")).toEqual(['public.byhand exists']);
        }));

    test('an index in which nulls differ is not the same, either way round, split or not', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (a int); create unique index byhand on t (a)');
            for (const args of ["'t', '{a}'", "'t', '{a}', split_nulls => true"]) {
                const { detail } = expectError(await owner.attempt(`select ensure.ensure_unique_v1(${args})`), 'NS001');
                expect(detail).toContain('There: CREATE UNIQUE INDEX byhand ON public.t USING btree (a)');
            }
            const made = await ensure(owner, "'t', '{a}', index_name => 'beside'");
            expect(made[0]).toBe('public.beside created');
            expect(await ensure(owner, "'t', '{a}'")).toEqual(made.map((line) => line.replace(/created$/, 'exists')));
            await owner.run('drop index byhand');
            if (major < 15) return; // the split pair says nothing of a plain one
            expectError(await owner.attempt("select ensure.ensure_unique_v1('t', '{a}', nulls_equal => false)"), 'NS001');
        }));

    test('what is never null needs no rule: lower of a column that is NOT NULL, coalesce with a constant', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (a text not null, b varchar, c varchar(9) not null);
                create unique index byhand on t (lower(a)); create unique index byhand2 on t (coalesce(b, ''), upper(c))`);
            expect(await ensure(owner, "'t', '{lower(a)}'")).toEqual(['public.byhand exists']);
            expect(await ensure(owner, `'t', array['upper(c)', $$coalesce(b, '')$$]`)).toEqual(['public.byhand2 exists']);
            expect((await owner.attempt(`select ensure.ensure_unique_v1('t', array['upper(c)', 'coalesce(b, a)'])`)).code).toBe('ok');
            expect((await indexes(owner)).filter((line) => /NOT DISTINCT|IS (NOT )?NULL/.test(line))).toHaveLength(major >= 15 ? 1 : 2);
        }));
});

describe('names', () => {
    test.each([
        ['users', 'email', 'users_email_key'],
        ['Users', '"Full Name"', 'Users_Full Name_key'],
        ['users', 'lower(email)', 'users_lower_email_key'],
        ['users', "coalesce(email, '')", 'users_coalesce_email_key'],
        ['users', 'email text_pattern_ops', 'users_email_key'],
    ])('%s on %s is %s', (table, element, name) =>
        withOwner(async (owner) => {
            await owner.run(`create table "${table}" (email text not null, "Full Name" text not null)`);
            const [row] = await owner.run(`select object from ensure.ensure_unique_v1('"${table}"', array[$e$${element}$e$])`);
            expect(String(row?.object).replaceAll('"', '')).toBe(`public.${name}`);
        }));

    test('a long name is cut between characters and gets a hash, so that two keys do not share it', () =>
        withOwner(async (owner) => {
            const table = 'ж'.repeat(31);
            await owner.run(`create table ${table} (${'é'.repeat(20)}a int not null, ${'é'.repeat(20)}b int not null)`);
            const made = await Promise.all(['a', 'b'].map((end) => ensure(owner, `'${table}', '{${'é'.repeat(20)}${end}}'`)));
            const names = (await owner.run(`select relname, octet_length(relname) as bytes from pg_class where relkind = 'i' and relnamespace = 'public'::regnamespace`));
            expect(made.flat()).toHaveLength(2);
            expect(names).toHaveLength(2);
            for (const { relname, bytes } of names) {
                expect(String(relname)).toMatch(/^ж+_[0-9a-f]{8}_key$/);
                expect(bytes).toBeLessThanOrEqual(63);
                expect(bytes).toBeGreaterThan(60);
            }
        }));

    test('taken, by a table or a constraint, it gets a number', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t_a_key (); create table t (a int not null, constraint t_a_key1 check (a > 0))`);
            expect(await ensure(owner, "'t', '{a}'")).toEqual(['public.t_a_key2 created']);
        }));
});
