import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, major, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const remove = (rest = ''): string => `select object, outcome, row_count::int from ensure.ensure_unique_v1(
    't', '{k}', keep => 'id', losers => 'delete'${rest})`;
const rewrite = remove(', rewrite => true');

/** Ten rows for each of three keys; the keeper has the lowest id. */
const table = `
    create table t (id int primary key, k int not null, v text);
    insert into t select i, i % 3, 'v' || i from generate_series(1, 30) as i`;
const done = [
    { object: 'public.t', outcome: 'deleted', row_count: 27 },
    { object: 'public.t_k_key', outcome: 'created', row_count: null },
];

/** All that there is to a table, apart from its size and where it is stored. */
const rich = `
    create domain name_of as text check (value <> '');
    create table parent (id int primary key);
    insert into parent select generate_series(1, 30);
    create table t (
        gone int, id int generated always as identity (start 100) primary key, k int not null check (k >= 0),
        v name_of default 'none', ref int references parent, also_gone text,
        twice int generated always as (k * 2) stored${major < 18 ? '' : ', thrice int generated always as (k * 3) virtual'},
        big text, plain bytea, unique (v), exclude using btree (ref with =));
    alter table t alter big set storage external, alter big set compression pglz, alter k set statistics 77, alter k set (n_distinct = 5);
    alter table t drop gone;
    insert into t (k, v, ref, also_gone, big, plain)
    select i % 3, 'v' || i, i, 'x', repeat(md5(i::text), 300), decode(repeat('00ff', i * 200), 'hex') from generate_series(1, 30) as i;
    insert into t (k, v, big) select 7, 'big' || n, (select string_agg(md5(i::text), '') from generate_series(1, 2000) as i) from generate_series(1, 2) as n;
    alter table t drop also_gone;
    alter table t set (fillfactor = 90);
    create index on t (big text_pattern_ops) where k = 100;
    cluster t using t_pkey;
    create statistics t_both on k, ref from t;
    create role reader_REPLACE;
    grant select (k), update on t to reader_REPLACE;
    alter table t enable row level security;
    create policy mine on t for select using (k > 0);
    comment on table t is 'what it holds';
    comment on column t.k is 'the key';
    create view v as select k, big from t;
    create function touch() returns trigger language plpgsql as $$ begin return new; end $$;
    create trigger touched before update on t for each row execute function touch();
    create trigger sleeping before insert on t for each row execute function touch();
    alter table t disable trigger sleeping;
    analyze t`;

const catalogs = `select jsonb_build_object(
    'class', (select to_jsonb(c) - '{relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhasindex}'::text[]
              from pg_class as c where c.oid = 't'::regclass),
    'columns', (select jsonb_agg(to_jsonb(a) order by a.attnum) from pg_attribute as a where a.attrelid = 't'::regclass and a.attnum > 0),
    'defaults', (select jsonb_agg(to_jsonb(d) order by d.adnum) from pg_attrdef as d where d.adrelid = 't'::regclass),
    'constraints', (select jsonb_agg(to_jsonb(k) order by k.oid) from pg_constraint as k where k.conrelid = 't'::regclass),
    'indexes', (select jsonb_agg(to_jsonb(i) - 'indcheckxmin' order by i.indexrelid) from pg_index as i
                where i.indrelid = 't'::regclass and i.indexrelid::regclass::text <> 't_k_key'),
    'triggers', (select jsonb_agg(to_jsonb(g) order by g.oid) from pg_trigger as g where g.tgrelid = 't'::regclass),
    'policies', (select jsonb_agg(to_jsonb(p) order by p.oid) from pg_policy as p where p.polrelid = 't'::regclass),
    'comments', (select jsonb_agg(to_jsonb(d) order by d.objsubid) from pg_description as d where d.objoid = 't'::regclass),
    'statistics', (select jsonb_agg(to_jsonb(s) order by s.attname, s.inherited) from pg_stats as s where s.tablename = 't'),
    'extended', (select jsonb_agg(to_jsonb(s) order by s.oid) from pg_statistic_ext as s where s.stxrelid = 't'::regclass),
    'sequence', (select s.last_value from t_id_seq as s),
    'depending', (select pg_get_viewdef('v'::regclass)),
    'others', (select count(*) from pg_class as c where c.relname like 'ensure_rewrite%')) as all`;
/** Each value in its binary form, with how it is stored. */
const rowsOf = (where: string): string => `
    select t.*, encode(record_send(row(t.*)), 'hex') as bytes, pg_column_size(big) as big_size, pg_column_compression(big) as how,
           pg_column_size(plain) as plain_size
    from t ${where} order by id`;
const keepers = 'where id in (select min(id) from t group by k)';

const withRich = (body: (owner: Session) => Promise<void>): Promise<void> => withTestDatabase(({ url, admin, name }) =>
    withSessions(url, ['owner'], async ({ owner }) => withSessions(admin, ['superuser'], async ({ superuser }) => {
        const [own] = await owner.run('select current_user as name');
        await superuser.run(`create role "reader_${name}"`);
        try {
            await owner.run(rich.replace(/create role reader_REPLACE;/, '').replaceAll('reader_REPLACE', `"reader_${name}"`));
            expect(own?.name).not.toBe('postgres');
            await body(owner);
        } finally {
            await superuser.run(`drop owned by "reader_${name}"; drop role "reader_${name}"`);
        }
    })));

describe('rewrite => true', () => {
    test('the losers are gone, the index is there; a second call finds it', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            expect(await owner.run(rewrite)).toEqual(done);
            expect(await owner.run('select * from t order by id')).toEqual([
                { id: 1, k: 1, v: 'v1' }, { id: 2, k: 2, v: 'v2' }, { id: 3, k: 0, v: 'v3' }]);
            expect(await owner.run(rewrite)).toEqual([{ object: 'public.t_k_key', outcome: 'exists', row_count: null }]);
        }));

    test('everything but the losers is as before, byte for byte: generated, identity, dropped and toasted columns, grants, policies, statistics', () =>
        withRich(async (owner) => {
            const before = { catalogs: await owner.run(catalogs), rows: await owner.run(rowsOf(keepers)) };
            expect(before.rows).toHaveLength(4);
            expect(await owner.run(rewrite)).toEqual([
                { object: 'public.t', outcome: 'deleted', row_count: 28 }, { object: 'public.t_k_key', outcome: 'created', row_count: null }]);
            expect({ catalogs: await owner.run(catalogs), rows: await owner.run(rowsOf('')) }).toEqual(before);
            expect((await owner.attempt("insert into t (k, v) values (1, 'new')")).code).toBe('23505');
            expect((await owner.run("insert into t (k, v) values (50, 'new') returning id, k, v, twice"))).toEqual([
                { id: 133, k: 50, v: 'new', twice: 100 }]);
        }));

    test('negative control: without how columns are stored in the helper table, their bytes change', () =>
        withRich(async (owner) => {
            await withoutGuard(owner, '_rewrite_v1', ' including storage including compression');
            const before = await owner.run(rowsOf(keepers));
            await owner.run(rewrite);
            expect(await owner.run(rowsOf(''))).not.toEqual(before);
        }));

    test('negative control: without overriding the identity, it fails and nothing is changed', () =>
        withRich(async (owner) => {
            await withoutGuard(owner, '_rewrite_v1', ' overriding system value');
            expect((await owner.attempt(rewrite)).code).toBe('428C9');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 32 }]);
        }));

    test('the rows that stay stand in the order in which they stood', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k int not null, v text);
                insert into t select 31 - i, i % 3, 'v' || i from generate_series(1, 30) as i`);
            await owner.run(rewrite);
            expect(await owner.run('select id from t order by ctid')).toEqual([{ id: 3 }, { id: 2 }, { id: 1 }]);
        }));

    test('without duplicates nothing is emptied: the file and ctids are as before', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; delete from t where id > 3`);
            const where = "select pg_relation_filenode('t') as node, (select string_agg(ctid::text, ',') from t) as places";
            const before = await owner.run(where);
            expect(await owner.run(rewrite)).toEqual([done[1]]);
            expect(await owner.run(where)).toEqual(before);
        }));

    test('rolled back, it has never been', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await owner.run('begin');
            await owner.run(rewrite);
            await owner.run('rollback');
            expect(await owner.run('select count(*)::int as n, count(distinct v)::int as v from t')).toEqual([{ n: 30, v: 30 }]);
        }));

    test('tables that inherit from it are left alone', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create table heir () inherits (t); insert into heir select 100 + i, 1 from generate_series(1, 5) as i`);
            expect(await owner.run(rewrite)).toEqual(done);
            expect(await owner.run('select (select count(*)::int from only t) as own, (select count(*)::int from heir) as heirs')).toEqual([
                { own: 3, heirs: 5 }]);
        }));

    test.each([
        ['a foreign key refers to it', 'create table c (t_id int references t)', '', /c_t_id_fkey of public.c refers to it/],
        ['a trigger on insert', `create function f() returns trigger language plpgsql as $$ begin return new; end $$;
            create trigger x before insert on t for each row execute function f()`, '', /triggers would see.*: x/],
        ['a trigger on delete', `create function f() returns trigger language plpgsql as $$ begin return old; end $$;
            create trigger x after delete on t for each row execute function f()`, '', /triggers would see.*: x/],
        ['a trigger on truncate', `create function f() returns trigger language plpgsql as $$ begin return null; end $$;
            create trigger x before truncate on t for each statement execute function f()`, '', /triggers would see.*: x/],
        ['a rule', 'create rule r as on insert to t do also notify x', '', /it has rules/],
        ['a constraint that is not valid', 'alter table t add constraint small check (id < 5) not valid', '', /need not fulfil small/],
        ['a NOT NULL that is not valid', `alter table t add constraint filled ${major < 18 ? 'check (v is not null)' : 'not null v'} not valid`, '',
            /need not fulfil filled/],
        ['an archive', `create table a (place bigint generated always as identity primary key, run uuid not null, relation text not null,
            action text not null, key jsonb, old jsonb, new jsonb, archived_at timestamptz not null default now())`, ", archive => 'a'",
        /archived/],
        ['a predicate', 'select', ", predicate => 'k > 0'", /rows that the index would not hold/],
        ['nulls that are not equal', 'alter table t alter k drop not null', ', nulls_equal => false', /rows that the index would not hold/],
    ])('%s: refused with 0A000 and the reason, nothing is changed', (_what, setup, rest, reason) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; ${setup}`);
            const { detail } = expectError(await owner.attempt(remove(`, rewrite => true${rest}`)), '0A000');
            expect(detail).toMatch(reason);
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 30 }]);
        }));

    test('a published table: refused, since what replicates it would be emptied', () =>
        withTestDatabase(({ url, admin }) => withSessions(url, ['owner'], ({ owner }) => withSessions(admin, ['superuser'], async ({ superuser }) => {
            await owner.run(table);
            await superuser.run('create publication everything for all tables');
            expect(expectError(await owner.attempt(rewrite), '0A000').detail).toMatch(/published by everything/);
            await superuser.run('drop publication everything');
            expect(await owner.run(rewrite)).toEqual(done);
        }))));

    test('a partitioned table: refused; one of its partitions is rewritten', () =>
        withOwner(async (owner) => {
            await owner.run(`create table p (id int, k int not null, v text) partition by list (v); create table t partition of p default;
                insert into t select i, i % 3, 'v' from generate_series(1, 30) as i`);
            expectError(await owner.attempt(rewrite.replace("'t'", "'p'").replace('{k}', '{k,v}')), '0A000');
            expect((await owner.run(rewrite)).map(({ row_count: n }) => n)).toEqual([27, null]);
        }));

    test('row security that binds the owner: 42501, nothing is changed', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create policy low on t using (id < 20); alter table t enable row level security, force row level security`);
            expect((await owner.attempt(rewrite)).code).toBe('42501');
            await owner.run('alter table t no force row level security');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 30 }]);
        }));

    test.each(["'refuse'", "'update', loser_set => 'v = null'"])('losers => %s: 22023; null: 22004', (losers) =>
        withOwner(async (owner) => {
            await owner.run(table);
            const call = (value: string): string => `select from ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => ${losers},
                rewrite => ${value})`;
            expectError(await owner.attempt(call('true')), '22023');
            expectError(await owner.attempt(call('null')), '22004');
        }));

    test('rows that the caller has a cursor on: 55006, nothing is changed', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await owner.run('begin; declare c cursor for select from t; fetch c');
            expect((await owner.attempt(rewrite)).code).toBe('55006');
            await owner.run('rollback');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 30 }]);
        }));
});

describe('who reads meanwhile', () => {
    const older = async ({ reader, writer }: Record<'reader' | 'writer', Session>, call: string): Promise<unknown> => {
        await writer.run(table);
        await reader.run('begin isolation level repeatable read; select 1');
        await writer.run(call);
        return (await reader.run('select count(*)::int as n from t'))[0]?.n;
    };

    test('waits for the end of the transaction', () =>
        withTestDatabase(({ url }) => withSessions(url, ['writer', 'reader'], async ({ writer, reader }) => {
            await writer.run(table);
            await writer.run('begin');
            await writer.run(rewrite);
            const reading = reader.start('select count(*)::int as n from t');
            await reading.blockedBy(writer);
            await writer.run('commit');
            expect((await reading.outcome()).rows).toEqual([{ n: 3 }]);
        })));

    test('with a snapshot older than the call sees no row at all: what rewrite costs', () =>
        withTestDatabase(({ url }) => withSessions(url, ['writer', 'reader'], async (sessions) => {
            expect(await older(sessions, rewrite)).toBe(0);
        })));

    test('negative control: without rewrite it sees all that was there', () =>
        withTestDatabase(({ url }) => withSessions(url, ['writer', 'reader'], async (sessions) => {
            expect(await older(sessions, remove())).toBe(30);
        })));

    test('a trigger made while the call waited for its lock is seen: 0A000', () =>
        withTestDatabase(({ url }) => withSessions(url, ['other', 'owner'], async ({ other, owner }) => {
            await owner.run(table);
            await owner.run('create function f() returns trigger language plpgsql as $$ begin return null; end $$');
            await other.run('begin; create trigger x before insert on t for each row execute function f()');
            const waiting = owner.start(rewrite);
            await waiting.blockedBy(other);
            await other.run('commit');
            expectError(await waiting.outcome(), '0A000');
        })));

    test('negative control: unless it is looked for under the lock', () =>
        withTestDatabase(({ url }) => withSessions(url, ['other', 'owner'], async ({ other, owner }) => {
            await owner.run(table);
            await withoutGuard(owner, '_rewrite_v1', 'perform ensure._check_rewrite_v1(unique_key, null);');
            await owner.run('create function f() returns trigger language plpgsql as $$ begin return null; end $$');
            await other.run('begin; create trigger x before insert on t for each row execute function f()');
            const waiting = owner.start(rewrite);
            await waiting.blockedBy(other);
            await other.run('commit');
            expect((await waiting.outcome()).code).toBe('NS012'); // no row came back: the last line of defence
        })));
});

describe('many', () => {
    test('losers are deleted in rounds when there are more than places fit in memory', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await withoutGuard(owner, '_delete_losers_v1', '16000000', '9');
            expect(await owner.run(remove())).toEqual(done);
            expect(await owner.run('select id from t order by id')).toEqual([{ id: 1 }, { id: 2 }, { id: 3 }]);
        }));

    test('when more rows stay than that, rewrite deletes the losers', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await withoutGuard(owner, '_rewrite_v1', '16000000', '2');
            const node = "select pg_relation_filenode('t') as node";
            const before = await owner.run(node);
            expect(await owner.run(rewrite)).toEqual(done);
            expect(await owner.run(node)).toEqual(before);
        }));

    test('a row that a trigger keeps: NS012, nothing is changed', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create function f() returns trigger language plpgsql as $$
                begin return case when old.id <> 15 then old end; end $$;
                create trigger x before delete on t for each row execute function f()`);
            expectError(await owner.attempt(remove()), 'NS012');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 30 }]);
        }));
});
