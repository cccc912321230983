import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, withOwner, withTestDatabase } from '../context.js';
import { withRole } from '../ensure_unique/planned.js';
import { withoutGuard } from '../mutate.js';

/** What a review found: each was a wrong row, a duplicate, or another code than the header has. */
const id = 'id int generated always as identity primary key';
const ensure = (target: string, attributes: unknown, more = ''): string =>
    `select outcome, data from ensure.ensure_row_v1('${target}', '${JSON.stringify(attributes)}'${more})`;
const rows = (target: string, elements: unknown[], more = ''): string =>
    `select outcome, row_count::int from ensure.ensure_rows_v1('${target}', '${JSON.stringify(elements)}'${more})`;
const one = async (session: Session, statement: string): Promise<Record<string, unknown> | undefined> => (await session.run(statement))[0];
const install = async (owner: Session, args: string): Promise<void> => {
    await owner.run(String((await one(owner, `select statement from ensure.plan_row_function_v1(${args})`))?.statement));
};

describe('revive', () => {
    const revive = ", revive => 'deleted_at is not null'";
    const alive = { email: 'a', deleted_at: null };
    const soft = `create table t (${id}, email text, kind text, badge int unique, deleted_at timestamptz)`;

    test('a dead row that would not be in the index is left alone', () => withOwner(async (owner) => {
        await owner.run(`${soft}; create unique index on t (email) where kind = 'person' and deleted_at is null;
            insert into t (email, kind, deleted_at) values ('a', 'bot', now())`);
        expect(await one(owner, ensure('t', { ...alive, kind: 'person' }, revive))).toMatchObject({ outcome: 'created', data: { id: 2 } });
        expect(await one(owner, "select kind from t where id = 1")).toEqual({ kind: 'bot' });
    }));

    test('a row that would not be in the index itself revives none, and the primary key stays', () => withOwner(async (owner) => {
        await owner.run(`create table t (id int primary key, email text, kind text, deleted_at timestamptz);
            create unique index on t (email) where kind = 'person'; insert into t values (1, 'a', 'person', now())`);
        expect((await one(owner, ensure('t', { id: 7, ...alive, kind: 'bot' }, revive)))?.outcome).toBe('created');
        expect(await one(owner, ensure('t', { id: 9, ...alive, kind: 'person' }, revive))).toMatchObject({ outcome: 'revived', data: { id: 1 } });
    }));

    test('two dead rows and a living one: the living one; a dead holder of another key: NS014', () => withOwner(async (owner) => {
        await owner.run(`${soft}; create unique index on t (email) where deleted_at is null;
            insert into t (email, badge, deleted_at) values ('a', 1, now()), ('a', 2, now()), ('a', 3, null)`);
        expect(await one(owner, ensure('t', alive, revive))).toMatchObject({ outcome: 'exists', data: { id: 3 } });
        expectError(await owner.attempt(ensure('t', { ...alive, badge: 1 }, revive)), 'NS014');
    }));

    test('who waits for one that is created, and would revive another, gets the created one', () => withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
        await a.run(`${soft}; create unique index on t (email) where deleted_at is null; insert into t (email, deleted_at) values ('a', now())`);
        await a.run(`begin; ${ensure('t', { email: 'a' })}`);
        const second = b.start(ensure('t', alive, revive));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows).toMatchObject([{ outcome: 'exists', data: { id: 2 } }]);
    })));

    test('where nothing but the primary key is given, or what leaves it dead: NS001, and what to give', () => withOwner(async (owner) => {
        await owner.run(`create table t (a int, b int, dead boolean not null default false, primary key (a, b)); insert into t values (1, 1, true)`);
        for (const more of ['', ", key => '{a,b}'"]) {
            expect(expectError(await owner.attempt(ensure('t', { a: 1, b: 1 }, `, revive => 'dead'${more}`)), 'NS001').hint).toContain('alive');
        }
        expectError(await owner.attempt(ensure('t', { a: 1, b: 1, dead: true }, ", revive => 'dead'")), 'NS001');
        expect((await one(owner, ensure('t', { a: 1, b: 1, dead: false }, ", revive => 'dead'")))?.outcome).toBe('revived');
    }));

    test('two dead rows in one index: NS014 says to merge them, and not to name a key', () => withOwner(async (owner) => {
        await owner.run(`${soft}; create unique index on t (email) where deleted_at is null; insert into t (email, deleted_at) values ('a', now()), ('a', now())`);
        expect(expectError(await owner.attempt(ensure('t', alive, revive)), 'NS014').hint).toBe('Merge them: merge_rows_v1.');
    }));

    test('an UPDATE that a trigger keeps back is NS012, and no second row', () => withOwner(async (owner) => {
        await owner.run(`${soft}; create unique index on t (email) where deleted_at is null; insert into t (email, deleted_at) values ('a', now());
            create function no() returns trigger language plpgsql as $$ begin return null; end $$;
            create trigger no before update on t for each row execute function no()`);
        expectError(await owner.attempt(ensure('t', alive, revive)), 'NS012');
        expect(await one(owner, 'select count(*)::int as n from t')).toEqual({ n: 1 });
    }));
});

describe('keys', () => {
    test.each<[string, string, unknown]>([
        ['a generated column, and a name that is part of another\'s', `create table t (${id}, video_title text, slug text generated always as (lower(video_title)) stored unique)`, { video_title: 'X' }],
        ['the same, part of a function\'s', `create table t (${id}, v text, d text generated always as (md5(v)) stored unique, m int)`, { v: 'x' }],
        ['an expression beside a predicate over another column', `create table t (${id}, name text, parent_id int); create unique index on t (coalesce(parent_id, 0), name) where parent_id is null or parent_id > 0`, { name: 'a', parent_id: 1 }],
        ['a column with the name of a function', `create table t (${id}, email text, lower int); create unique index on t (lower(email)) where lower is null`, { email: 'A' }],
        ['a default of a domain', `create domain st as text default 'live'; create table t (${id}, email text, s st); create unique index on t (email) where s = 'live'`, { email: 'a' }],
        ['a default of a type with an odd name', `create type "my-enum" as enum ('a'); create table t (${id}, email text, s "my-enum" default 'a'); create unique index on t (email) where s = 'a'`, { email: 'a' }],
        ['a domain without nulls that is not given', `create domain nn as int not null; create table t (${id}, n nn default 1 + 1, email text); create unique index on t (lower(email)) where n is null or n >= 0`, { email: 'a' }],
        ['regclass', 'create table r (id int); create table t (id int default 1, r regclass primary key)', { r: 'public.r' }],
        ['cidr', 'create table t (id int default 1, c cidr primary key)', { c: '10' }],
        ['an interval that its column rounds', `create table t (id int default 1, i interval day primary key)`, { i: '24:00' }],
    ])('%s: created, then found', (_what, setup, attributes) => withOwner(async (owner) => {
        await owner.run(setup);
        expect((await one(owner, ensure('t', attributes)))?.outcome).toBe('created');
        expect((await one(owner, ensure('t', attributes)))?.outcome).toBe('exists');
        expect(await one(owner, rows('t', [attributes]))).toEqual({ outcome: 'exists', row_count: 1 });
    }));

    test('42P10 says why each key is none: given by the table, deferrable, on expressions, with a predicate', () => withOwner(async (owner) => {
        await owner.run(`create table t (id int generated always as identity primary key, a int unique deferrable, b text, c int); create unique index on t (lower(b)) where c > 0`);
        expect(expectError(await owner.attempt(ensure('t', { c: 1 })), '42P10').detail)
            .toMatch(/t_pkey on \(id\), given by the table; .*t_a_key on \(a\), deferrable; .*t_lower_idx on \(b\), on expressions where \(c > 0\)\.$/);
    }));

    test('an expression of a partial index is not evaluated for rows outside it', () => withOwner(async (owner) => {
        await owner.run("create table t (id int primary key, kind text, payload jsonb); create unique index on t (((payload ->> 'n')::int)) where kind = 'num'");
        expect((await one(owner, ensure('t', { id: 3, kind: 'other', payload: { n: 'abc' } })))?.outcome).toBe('created');
        expect(await one(owner, rows('t', [{ id: 4, kind: 'other', payload: { n: 'abc' } }]))).toMatchObject({ outcome: 'created' });
    }));

    test('a generated key of another row is seen beside a plain one: NS014 from both', () => withOwner(async (owner) => {
        await owner.run('create table t (id int primary key, b int, g int generated always as (b * 2) stored unique); insert into t values (1, 1), (2, 2)');
        expectError(await owner.attempt(ensure('t', { id: 1, b: 2 })), 'NS014');
        expectError(await owner.attempt(rows('t', [{ id: 1, b: 2 }])), 'NS014');
        expectError(await owner.attempt(ensure('t', { g: 4 })), '428C9');
    }));

    test('a deferrable constraint on the columns of the key: 55000 where there is something to insert; another\'s open INSERT and lock_timeout: 55P03', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run('create table d (k int unique deferrable); create unique index on d (k); create table t (k int unique); insert into d values (1)');
            expect((await one(a, ensure('d', { k: 1 })))?.outcome).toBe('exists');
            expect((await a.attempt(ensure('d', { k: 2 }))).code).toBe('55000');
            await a.run('begin; insert into t values (1)');
            await b.run("set lock_timeout = '50 ms'");
            expect((await b.attempt(ensure('t', { k: 1 }))).code).toBe('55P03');
            await a.run('rollback');
            expect((await one(b, ensure('t', { k: 1 })))?.outcome).toBe('created'); // without the holder it is not
        })));

    test('a constraint without overlaps is no key', (context) => withOwner(async (owner) => {
        if (major < 18) context.skip('WITHOUT OVERLAPS came with 18');
        await owner.run(`create extension btree_gist; create table t (k int unique, id int, v daterange, unique (id, v without overlaps));
            insert into t values (1, 1, '[2020-01-01,2020-06-01)')`);
        expectError(await owner.attempt(ensure('t', { id: 1, v: '[2020-03-01,2020-04-01)' })), '42P10');
        expect((await owner.attempt(ensure('t', { k: 2, id: 1, v: '[2020-03-01,2020-04-01)' }))).code).toBe('23P01');
    }));

    test('a name of more than 63 bytes is no column', () => withOwner(async (owner) => {
        const long = 'a'.repeat(63);
        await owner.run(`create table t (id int primary key, ${long} text)`);
        expectError(await owner.attempt(ensure('t', { id: 1, [`${long}z`]: 'lost' })), '42703');
        expectError(await owner.attempt(rows('t', [{ id: 1, [`${long}z`]: 'lost' }])), '42703');
    }));

    test('a deferrable constraint of a partition alone, and a key that does not apply beside one that does', () => withOwner(async (owner) => {
        await owner.run(`create table t (k int unique, v int) partition by range (k); create table p partition of t for values from (0) to (9);
            alter table p add unique (v) deferrable`);
        expect((await one(owner, ensure('t', { k: 1, v: 1 })))?.outcome).toBe('created');
    }));
});

describe('rows', () => {
    test('a trigger that changes the key: NS012, and no row; AFTER INSERT that deletes it too', () => withOwner(async (owner) => {
        await owner.run(`create sequence s; create table t (id int primary key, name text);
            create function setid() returns trigger language plpgsql as $$ begin new.id := nextval('public.s'); return new; end $$;
            create trigger x before insert on t for each row execute function setid();
            create table u (email text unique); create function low() returns trigger language plpgsql as $$ begin new.email := lower(new.email); return new; end $$;
            create trigger x before insert on u for each row execute function low();
            create table g (k int unique); create function gone() returns trigger language plpgsql as $$ begin delete from public.g; return null; end $$;
            create trigger x after insert on g for each row execute function gone()`);
        for (const [table, element] of [['t', { id: 100, name: 'a' }], ['u', { email: 'Ann' }], ['g', { k: 1 }]] as const) {
            expectError(await owner.attempt(rows(table, [element])), 'NS012');
            expect(await one(owner, `select count(*)::int as n from ${table}`)).toEqual({ n: 0 });
        }
    }));

    test.each<[string, string, string, unknown[], unknown[], string]>([
        ['citext', 'create extension citext; create table t (k citext unique)', '', [{ k: 'B' }, { k: 'a' }], [{ k: 'b' }, { k: 'A' }], '{"k":"a"}'],
        ['dates under another DateStyle', 'create table t (k date unique)', "set datestyle = 'SQL, DMY'", [{ k: '2026-02-01' }, { k: '2025-03-02' }], [{ k: '2025-03-02' }, { k: '2026-02-01' }], '{"k":"2025-03-02"}'],
    ])('%s: the order is that of the index, the same for everybody', (_what, setup, setting, first, second, least) =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(setup);
            if (setting) await b.run(setting);
            await b.run(`begin; select ensure.ensure_row_v1('t', '${least}')`);
            const waiting = a.start(rows('t', first));
            await waiting.blockedBy(b);
            expect((await b.attempt(rows('t', second))).code).toBe('ok');
            await b.run('commit');
            expect((await waiting.outcome()).code).toBe('ok');
        })));
});

test('a rule for INSERT or UPDATE is 0A000 from both, and says so', () => withOwner(async (owner) => {
    await owner.run('create table t (k int unique); create table u (k int unique); create rule r as on insert to t do also select 1; create rule r as on update to u do instead nothing');
    for (const table of ['t', 'u']) {
        expect(expectError(await owner.attempt(ensure(table, { k: 1 })), '0A000').hint).toContain('trigger');
        expectError(await owner.attempt(rows(table, [{ k: 1 }])), '0A000');
    }
}));

test('under row security what a plain INSERT says comes through', (context) => withRole(context, async ({ owner, writer }, role) => {
    await owner.run(`create table t (email text unique, badge int unique default 1); insert into t values ('a', 1); alter table t enable row level security;
        create policy p on t using (true); create table u (email text unique); alter table u enable row level security; create policy p on u using (true);
        create function no() returns trigger language plpgsql as $$ begin return null; end $$; create trigger no before insert on u for each row execute function no();
        grant all on t, u to ${role}; grant usage on schema ensure to ${role}`);
    expect((await writer.attempt(ensure('t', { email: 'b' }))).code).toBe('23505');
    expect((await writer.attempt(rows('t', [{ email: 'b' }]))).code).toBe('23505');
    expectError(await writer.attempt(ensure('u', { email: 'b' })), 'NS012');
}));

describe('the function of plan_row_function_v1', () => {
    test.each<[string, string, string, [string, string][]]>([
        ['named t', `create table x (${id}, name text unique); insert into x (name) values ('a'), ('b')`, "'x', '{name}', 't'", [["t('b')", 'exists (2,b)'], ["t('c')", 'created (3,c)']]],
        ['named data', `create table x (${id}, name text unique)`, "'x', '{name}', 'data'", [["data('b')", 'created (1,b)'], ["data('b')", 'exists (1,b)']]],
        ['with a column found', 'create table x (name text unique, found boolean)', "'x', '{name}'", [["ensure_x('b', found_ => true)", 'created (b,t)']]],
        ['with found as key', 'create table x (found boolean primary key, v int); insert into x values (true, 1)', "'x', '{found}'", [['ensure_x(true)', 'exists (t,1)']]],
        ['with a deferrable constraint beside the key', 'create table x (name text unique, pos int unique deferrable)', "'x', '{name}'", [["ensure_x('b', 1)", 'created (b,1)'], ["ensure_x('b', 1)", 'exists (b,1)']]],
        ['with domains', "create domain st as text default 'live'; create domain nn as int not null default 5; create table x (name text unique, s st, n nn)", "'x', '{name}'", [["ensure_x('b')", 'created (b,live,5)']]],
    ])('%s', (_what, setup, args, calls) => withOwner(async (owner) => {
        await owner.run(setup);
        await install(owner, args);
        for (const [call, answer] of calls) {
            const row = await one(owner, `select outcome, data::text as data from ${call}`);
            expect(`${String(row?.outcome)} ${String(row?.data)}`, call).toBe(answer);
        }
        expect(await owner.run(`select * from ensure.plan_row_function_v1(${args})`)).toEqual([]);
    }));

    test('a row that the index has no place for is 42P10, and not created', () => withOwner(async (owner) => {
        await owner.run(`create table x (email text, deleted_at timestamptz, live boolean default true); create unique index on x (email) where deleted_at is null and live`);
        await install(owner, "'x', '{email}'");
        expectError(await owner.attempt("select ensure_x('a', deleted_at => now())"), '42P10');
        expectError(await owner.attempt("select ensure_x('a', live => false)"), '42P10');
        expect((await one(owner, "select outcome from ensure_x('a')"))?.outcome).toBe('created');
        expect(await one(owner, 'select count(*)::int as n from x')).toEqual({ n: 1 });
    }));

    test('one that was altered since is not the one of the plan', () => withOwner(async (owner) => {
        await owner.run('create table x (k int unique)');
        await install(owner, "'x', '{k}'");
        await owner.run('alter function ensure_x(int) security definer');
        expectError(await owner.attempt("select * from ensure.plan_row_function_v1('x', '{k}')"), 'NS001');
    }));
});

describe('negative controls', () => {
    const soft = `create table t (${id}, email text, kind text, deleted_at timestamptz)`;
    const dead = { email: 'a', deleted_at: null };
    const revive = ", revive => 'deleted_at is not null'";
    test.each<[string, string, string | RegExp, string, string, string, string]>([
        ['a dead row that is of another index', '_held_v1', '(select (%s) from', '(select true or (%s) from',
            `${soft}; create unique index on t (email) where kind = 'person' and deleted_at is null; insert into t (email, kind, deleted_at) values ('a', 'bot', now())`,
            ensure('t', { ...dead, kind: 'person' }, revive), 'revived'],
        ['attributes that are the primary key alone', '_revive_row_v1', 'if v_query is not null then', 'if true then',
            'create table t (a int primary key, dead boolean); insert into t values (1, true)', ensure('t', { a: 1 }, ", revive => 'dead'"), '22004'],
        ['a trigger that keeps the row back', '_make_row_v1', 'perform ensure._raise_kept_out_v1(target, attributes);', 'null;',
            `${soft}; alter table t add unique (email); create function no() returns trigger language plpgsql as $$ begin return null; end $$;
             create trigger no before insert on t for each row execute function no()`, ensure('t', { email: 'a' }), 'created'],
        ['an expression of a partial index', '_row_keys_v1', "else 'case when %3$s then %1$s end as", "else '%1$s as",
            "create table t (id int primary key, kind text, payload jsonb); create unique index on t (((payload ->> 'n')::int)) where kind = 'num'",
            ensure('t', { id: 3, kind: 'other', payload: { n: 'abc' } }), '22P02'],
        ['a name of more than 63 bytes', '_check_attributes_v1', 'a.attname::text = u.name', 'a.attname = u.name::name',
            `create table t (id int primary key, ${'a'.repeat(63)} text)`, ensure('t', { id: 1, [`${'a'.repeat(63)}z`]: 'lost' }), 'created'],
        ['a generated key of another row', '_row_query_v1', "and a.attgenerated = ''", '',
            'create table t (id int primary key, b int, g int generated always as (b * 2) stored unique); insert into t values (1, 1), (2, 2)', ensure('t', { id: 1, b: 2 }), 'exists'],
        ['a trigger that changes the key', 'ensure_rows_v1', 'if cardinality(v_found.missing) > v_missing - v_count then', 'if false then',
            `create table t (email text unique); create function low() returns trigger language plpgsql as $$ begin new.email := lower(new.email); return new; end $$;
             create trigger x before insert on t for each row execute function low()`, rows('t', [{ email: 'Ann' }]), '23505'],
    ])('%s', (_what, name, guard, replacement, setup, statement, without) => withOwner(async (owner) => {
        await owner.run(setup);
        const answer = async (): Promise<unknown> => {
            await owner.run('begin');
            const { code, rows } = await owner.attempt(statement);
            await owner.run('rollback');
            return code === 'ok' ? rows[0]?.outcome : code;
        };
        expect(await answer(), 'with the guard').not.toBe(without);
        await withoutGuard(owner, name, guard, replacement);
        expect(await answer(), 'without').toBe(without);
    }));
});
