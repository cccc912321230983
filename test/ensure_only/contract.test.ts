import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { install } from '../../scripts/install.js';
import { expectError, major, surroundings, withOwner, withTestDatabase } from '../context.js';
import { attemptUndo, archive, snapshot, undo } from '../ensure_unique/undoing.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';
import { locksOf, withTable } from '../ensure_unique/tables.js';
import { ensure, index, lines, one, schema } from './workspaces.js';

const xid = 'select pg_current_xact_id_if_assigned() as xid';
const exists = ['public.workspaces exists'];
const old = "insert into workspaces (id, name, kind) values ('00000000-0000-0000-0000-000000000001', 'Old', 'platform')";
const setup = `${schema}; ${old}; insert into tokens select 1, id, 'one' from workspaces`;

/** A small table with a key of each kind; b is among them. */
const t = `create table t (id int generated always as identity primary key, name text unique, email text unique, main boolean,
    over int references t, note text); insert into t (name, email, main) values ('a', 'a@x', false), ('b', 'b@x', true), ('c', 'c@x', false)`;
const only = (member: string, rest = '', demote = 'main = false'): string =>
    `select object, outcome, row_count::int, data from ensure.ensure_only_v1('t', '${member}', 'main', $d$${demote}$d$${rest})`;
const mains = "select string_agg(name, ', ' order by name) as names from t where main";
const named = ", key => '{name}'";
const promote = `${named}, promote => 'main = true'`;

const rejected = async (owner: Session, call: string, code: string, tables = ['t']): Promise<string> => {
    const before = await snapshot(owner, ...tables);
    const error = expectError(await owner.attempt(call), code);
    expect(error.hint, error.message).not.toBe('');
    expect(await snapshot(owner, ...tables)).toBe(before);
    return `${error.message} ${error.detail}`;
};

describe('a call that finds its row the only one', () => {
    test.each(isolationLevels)('%s: answers read-only while another holds EXCLUSIVE and the queue; no lock but that of a query, no transaction id', (isolation) =>
        withTable(['a', 'b'], setup, async ({ a, b }) => {
            await a.run(ensure());
            await a.run("begin; lock table workspaces, tokens in exclusive mode; select pg_advisory_lock(1162760018, 'workspaces'::regclass::oid::int)");
            await b.run(`begin isolation level ${isolation} read only; set local lock_timeout = '1ms'`);
            const rows = await b.run(ensure(", children => 'merge'"));
            expect(lines(rows)).toEqual(exists);
            expect(rows[0]?.data).toMatchObject({ name: 'Platform', status: 'offline' });
            expect(await b.run(`${locksOf(b.pid)} and mode <> 'AccessShareLock'`)).toEqual([{ n: 0 }]);
            expect(await b.run(`select distinct relation::regclass::text as name from pg_locks where pid = ${b.pid} and relation >= 16384
                and relation not in (select indexrelid from pg_index)`)).toEqual([{ name: 'workspaces' }]);
            expect(await b.run(xid)).toEqual([{ xid: null }]);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '1ms' }]);
            await b.run('commit');
        }));

    test('negative control: a call that always looks under the lock is refused in a read-only transaction', () =>
        withTable(['a'], setup, async ({ a, dba }) => {
            await a.run(ensure());
            await withoutGuard(dba, 'ensure_only_v1', 'if data is not null then', 'if false then');
            await a.run('begin read only');
            expect((await a.attempt(ensure())).code).toBe('25006');
        }));

    test('what it has been set to since is kept, and told', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            await owner.run(ensure());
            await owner.run("update workspaces set status = 'online' where kind = 'platform'");
            expect((await owner.run(ensure()))[0]).toMatchObject({ outcome: 'exists', row_count: null, data: { status: 'online' } });
        }));

    test('ACCESS EXCLUSIVE on the table: 55P03 within max_wait names who holds it', () =>
        withTable(['a', 'b'], setup, async ({ a, b }) => {
            await a.run('begin; lock table workspaces in access exclusive mode');
            expect(expectError(await b.attempt(ensure(", max_wait => '200 ms'")), '55P03').detail).toContain(`pid ${a.pid}`);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '0' }]);
        }));

    test('on a streaming standby; where there is something to do it is 25006 there', async (context) => {
        if (!surroundings.embedded) context.skip('needs a primary and a standby of its own; DATABASE_URL is set');
        await withStandby({}, async ({ primary: { url }, standby: { url: copy }, caughtUp }) => {
            await install(url);
            await withSessions(url, ['primary'], async ({ primary }) => {
                await primary.run(setup);
                await primary.run(ensure());
            });
            await caughtUp();
            await withSessions(copy, ['standby'], async ({ standby }) => {
                for (const isolation of ['read committed', 'repeatable read']) {
                    await standby.run(`begin isolation level ${isolation}`);
                    expect(lines(await standby.run(ensure()))).toEqual(exists);
                    expect(expectError(await standby.attempt(ensure().replace('"Platform"', '"Other"')), '25006').hint).toBe('Call on the primary.');
                    await standby.run('rollback');
                }
            });
        });
    });
});

describe('where there is something to do', () => {
    test.each(['repeatable read', 'serializable'])('%s: NS011 before anything is locked; negative control: a rival after the snapshot stays', (isolation) =>
        withTable(['a', 'b'], setup, async ({ a, b, dba }) => {
            await a.run(`begin isolation level ${isolation}`);
            await a.run('select from workspaces');
            await b.run("insert into workspaces (name, kind) values ('Rival', 'platform')");
            expect(expectError(await a.attempt(ensure()), 'NS011').hint).toContain('READ COMMITTED');
            expect(await dba.run(`${locksOf(a.pid)} and mode <> 'AccessShareLock'`)).toEqual([{ n: 0 }]);
            await a.run('rollback');
            await withoutGuard(dba, '_only_guards_v1', "in ('repeatable read', 'serializable')", "= ''");
            await a.run(`begin isolation level ${isolation}`);
            await a.run('select from workspaces');
            await b.run("insert into workspaces (name, kind) values ('Later', 'platform')");
            const outcome = await a.attempt(ensure());
            await a.attempt('commit');
            expect(outcome.code).toBe('ok');
            expect(await dba.run("select string_agg(name, ', ' order by name) as names from workspaces where kind = 'platform'"))
                .toEqual([{ names: 'Later, Platform' }]);
        }));

    test('a read-only transaction: 25006', () =>
        withTable(['a'], setup, async ({ a }) => {
            await a.run('begin read only');
            expectError(await a.attempt(ensure()), '25006');
        }));

    test('a role needs no more than SELECT, INSERT, UPDATE; without them 42501', (context) => {
        if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and can make no role');
        return withTestDatabase(({ admin, name }) => withSessions(admin, ['dba'], async ({ dba }) => {
            const role = `r_${name}`;
            await dba.run(`${t}; create role ${role}; grant usage on schema ensure, public to ${role}`);
            try {
                await dba.run(`grant select on t to ${role}; set role ${role}`);
                expect(expectError(await dba.attempt(only('{"name": "n", "main": true}', named)), '42501').hint).toContain('Grant');
                await dba.run(`reset role; grant update on t to ${role}; set role ${role}`);
                expect(expectError(await dba.attempt(only('{"name": "n", "main": true}', named)), '42501').hint).toContain('Grant');
                await dba.run(`reset role; grant insert on t to ${role}; set role ${role}`);
                expect(lines(await dba.run(only('{"name": "n", "main": true}', named)))[0]).toBe('public.t created 1');
                const over = only('{"name": "o", "main": true}', named, 'main = false, over = keeper.id');
                expect(expectError(await dba.attempt(over), '42501').hint).toContain('sequence');
                await dba.run("update t set main = false"); // nothing takes the identity
                expect(lines(await dba.run(over))).toEqual(['public.t created 1']);
            } finally {
                await dba.run(`reset role; drop owned by ${role}; drop role ${role}`);
            }
        }));
    });
});

test('a role that may not lock a partition: 42501 names it before anything is locked', (context) => {
    if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and can make no role');
    return withTestDatabase(({ admin, name }) => withSessions(admin, ['dba'], async ({ dba }) => {
        const role = `r_${name}`;
        await dba.run(`create table t (id int primary key, main boolean) partition by range (id); insert into t select where false;
            create table t_0 partition of t for values from (0) to (100); insert into t values (1, true), (2, true); create role ${role};
            grant usage on schema ensure, public to ${role}; grant select, insert, update on t to ${role}; set role ${role}`);
        try {
            const error = expectError(await dba.attempt(only('{"id": 1}')), '42501');
            expect(error.message).toContain('t_0');
            expect(error.hint).toContain('Grant');
            await dba.run(`reset role; grant update on t_0 to ${role}; set role ${role}`);
            expect(lines(await dba.run(only('{"id": 1}')))).toEqual(['public.t exists', 'public.t demoted 1']);
        } finally {
            await dba.run(`reset role; drop owned by ${role}; drop role ${role}`);
        }
    }));
});

test('row security that would hide rows is 42501; negative control: without row_security = off a hidden one stays', () =>
    withOwner(async (owner) => {
        await owner.run(`${t}; alter table t enable row level security; alter table t force row level security;
            create policy p on t using (name <> 'b')`);
        const call = only('{"name": "n", "main": true}', named);
        expect((await owner.attempt(call)).code).toBe('42501');
        await withoutGuard(owner, 'ensure_only_v1', "SET row_security TO 'off'");
        await owner.run(call);
        await owner.run('alter table t no force row level security');
        expect(await owner.run(mains)).toEqual([{ names: 'b, n' }]);
    }));

describe('input', () => {
    const member = '{"name": "new", "main": true}';
    const call = (args: string): string => `select * from ensure.ensure_only_v1(${args})`;
    const set = (demote: string): string => only(member, named, demote);
    const among = (text: string): string => call(`'t', '${member}', $a$${text}$a$, 'main = false', '{name}'`);
    const cases: [string, string][] = [
        [call(`null, '${member}', 'main', 'main = false'`), '22004'],
        [call("'t', null, 'main', 'main = false'"), '22004'],
        [call(`'t', '${member}', null, 'main = false'`), '22004'],
        [call(`'t', '${member}', 'main', null`), '22004'],
        [only(member, ', children => null'), '22004'],
        [only(member, ', max_wait => null'), '22004'],
        [only(member, ", max_block => '-1 s'"), '22023'],
        [only('[]'), '22023'],
        [only('{}'), '22023'],
        [only('{"Name": "new", "main": true}'), '42703'],
        [only('{"name": "new", "main": "perhaps"}'), '22P02'],
        [only('{"name": "new", "main": true, "over": 99999999999}'), '22003'],
        [only('{"main": true}'), '42P10'],
        [only('{"name": null, "main": true}'), '42P10'],
        [only(member, ", key => '{}'"), '22023'],
        [only(member, ", key => '{email}'"), '22023'],
        [only(member, ", key => '{nope}'"), '42703'],
        [only(member, ", key => '{main}'"), '42P10'],
        [only(member, `${named}, children => 'all'`), '22023'],
        [only(member, `${named}, child_tables => '{t}'`), '22023'],
        [only(member, `${named}, children => 'move', child_tables => '{kept}'`), '22023'],
        [only(member, `${named}, archive => 't'`), '22023'],
        [call(`'v', '${member}', 'main', 'main = false'`), '42809'],
        [call(`1, '${member}', 'main', 'main = false'`), '42P01'],
        [call(`'g', '{"a": 1, "b": 2}', 'a > 0', 'a = 0'`), '428C9'],
        [among(''), '42601'],
        [among('name'), '42804'],
        [among('nope'), '42703'],
        [among('nope()'), '42883'],
        [among('random() < 1'), '22023'],
        [among('count(*) > 1'), '22023'],
        [among('main in (select true)'), '22023'],
        [among('main; drop table kept'), '42601'],
        [among('main) or (main'), '42601'],
        [set(''), '22023'],
        [set('main'), '22023'],
        [set('main = false; drop table kept'), '22023'],
        [set('main = generate_series(1, 2) > 3'), '22023'],
        [only(member, `${named}, promote => 'main = generate_series(1, 2) > 3'`), '22023'],
        [set('main = false from kept'), '22023'],
        [set('main = false, over = $2'), '42P02'],
        [among('main and id = $2'), '42P02'],
        [set('main = false, over = 1 / (t.id - 2)'), '22012'],
        [set("main = false, note = convert_from('\\xff', 'utf8')"), '22021'],
        [set('main = (select main from public.t)'), '21000'],
        [set('main = false where true'), '22023'],
        [set('main = false returning 1'), '22023'],
        [set('main = false /*'), '22023'],
        [set('main = false where false), "~z" as (delete from t returning 1'), '22023'],
        [set('nope = 1'), '42703'],
        [set("name = nope('x')"), '42883'],
        [set('note = name || keeper.name'), '42702'],
        [set('note = keeper.nope'), '42703'],
        [set("over = 'x'"), '22P02'],
        [only(member, `${named}, promote => 'main = keeper.main'`), '42P01'],
        [only(member, `${named}, promote => 'main = true; drop table kept'`), '22023'],
    ];
    test.each(cases)('%s: %s with a hint, nothing was run', (statement, code) =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${archive}; create view v as select * from t; create table g (a int, b int generated always as (a + 1) stored)`);
            await rejected(owner, statement, code, ['t', 'kept']);
        }));

    test('negative control: were demote not read first, it could close what it stands in and delete', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${archive}; create table c (id int); insert into c values (1)`);
            const escape = set(`main = false from unnest($2::jsonb[]) as "~p" ("~l") where t.main returning "~p"."~l", '["2"]'::jsonb as k,
                null::jsonb as a, null::jsonb as r), "~z" as (delete from public.c), "~y" as (update public.t set main = false`);
            await rejected(owner, escape, '22023', ['t', 'c']);
            for (const name of ['_only_guards_v1', '_make_only_v1']) {
                await withoutGuard(owner, name, "perform ensure._check_set_v1(target, demote, 'demote');");
            }
            await owner.run(escape);
            expect(await owner.run('select from c')).toEqual([]);
        }));

    test.each(['main -- the rest', 'main is true', 't.main', 'true and main'])('among => %s is understood', (text) =>
        withOwner(async (owner) => {
            await owner.run(t);
            expect(lines(await owner.run(among(text)))).toEqual(['public.t created 1', 'public.t demoted 1']);
        }));

    test('demote and promote end in a comment, take their own columns by name, and the whole keeper', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            await owner.run(only('{"name": "c"}', ", key => '{name}', promote => 'main = true -- now'", 'main = false, note = name -- was'));
            expect(await owner.run('select name, note from t where note is not null')).toEqual([{ name: 'b', note: 'b' }]);
            await owner.run(only(member, named, "main = false, note = keeper::text"));
            expect(await owner.run("select note from t where name = 'c'")).toEqual([{ note: '(4,new,,t,,)' }]);
        }));

    test('among with a comment that does not end: 42601', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            expect((await owner.attempt(among('main /*'))).code).toBe('42601');
        }));

    test('every row may be meant: among is true', () =>
        withOwner(async (owner) => {
            await owner.run("create table s (one boolean primary key default true check (one), v int)");
            const call = `select outcome from ensure.ensure_only_v1('s', '{"one": true, "v": 1}', 'true', 'v = 0')`;
            expect(await owner.run(call)).toEqual([{ outcome: 'created' }]);
            expect(await owner.run(call)).toEqual([{ outcome: 'exists' }]);
        }));
});

describe('which row it is', () => {
    test('without key all keys that member has; not one over nothing but what among reads', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create unique index on t (main) where main`);
            expect(lines(await owner.run(only('{"name": "new", "main": true}')))).toEqual(['public.t created 1', 'public.t demoted 1']);
            expect(lines(await owner.run(only('{"name": "new", "main": true}')))).toEqual(['public.t exists']);
            await withoutGuard(owner, '_member_keys_v1', 'where not ensure._mentions_v1(target, among, n.name)', 'where true');
            expect((await owner.attempt(only('{"name": "other", "main": true}'))).rows, 'negative control').toMatchObject([{ outcome: 'exists' }]);
        }));

    test('keys of different rows: NS014 names both', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            expect(await rejected(owner, only('{"name": "a", "email": "c@x", "main": true}'), 'NS014')).toMatch(/\["1"\], \["3"\].*t_name_key/);
        }));

    test('negative control: were it any of them, the first would do', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            await withoutGuard(owner, '_found_only_v1', 'cardinality(c_look.known) > 1', 'false');
            expect((await owner.attempt(only('{"name": "a", "email": "c@x", "main": true}', ", promote => 'main = true'"))).code).toBe('ok');
        }));

    test('by an expression, by a partial index, and by a null where key names its column', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, name text, over int, main boolean, live boolean default true);
                create unique index t_key on t (over, lower(name)) where live;
                insert into t values (1, 'A', null, true, false), (2, 'A', null, false, true), (3, 'b', 2, true, true)`);
            const call = only('{"id": 9, "name": "a", "over": null, "main": true}', ", key => '{over,name}', promote => 'main = true'");
            const rows = await owner.run(call);
            expect(lines(rows)).toEqual(['public.t promoted 1', 'public.t demoted 2']);
            expect(rows[0]?.data).toMatchObject({ id: 2 });
            await owner.run("insert into t values (4, 'a', null, false)");
            expect(await rejected(owner, call, 'NS014')).toContain('["2"], ["4"]');
        }));

    test('the short look is sure of nothing but a row in the index with no null there; negative controls: of what is not', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, name text, over int, main boolean, live boolean default true);
                create unique index t_key on t (over, lower(name)) where live;
                insert into t values (1, 'a', 1, true, false), (2, 'a', 1, false, true)`);
            const sure = (over: string): string =>
                `select ensure._sure_member_v1('t', '{"name": "a", "over": ${over}}', 'main', '{over,name}') ->> 'id' as id`;
            expect(await owner.run(sure('1'))).toEqual([{ id: null }]);
            expect(lines(await owner.run(only('{"name": "a", "over": 1}', ", key => '{over,name}', promote => 'main = true'"))))
                .toEqual(['public.t promoted 1', 'public.t demoted 1']);
            expect(await owner.run(sure('1'))).toEqual([{ id: '2' }]);
            expect(await owner.run(sure('2'))).toEqual([{ id: null }]);
            await owner.run('update t set over = null');
            expect(await owner.run(sure('null'))).toEqual([{ id: null }]);
            await owner.run("insert into t values (3, 'A', null, true)");
            expect(await owner.run(sure('null'))).toEqual([{ id: null }]);
            await owner.run('delete from t where id = 3');
            await withoutGuard(owner, '_sure_member_v1', 'and num_nulls(%s) = 0', 'and num_nulls(%s) >= 0');
            expect(await owner.run(sure('null'))).toEqual([{ id: '2' }]);
            await owner.run('update t set main = not main');
            await withoutGuard(owner, '_sure_member_v1', "' and (' || pg_get_expr(i.indpred, i.indrelid) || ')'", "''");
            expect(await owner.run(sure('null'))).toEqual([{ id: '1' }]);
        }));

    test('a null in an index in which nulls are equal needs no key', (context) =>
        withOwner(async (owner) => {
            if (major < 15) context.skip('14 has no NULLS NOT DISTINCT');
            await owner.run(`create table t (id int primary key, name text, over int, main boolean, unique nulls not distinct (name, over));
                insert into t values (1, 'a', null, true)`);
            expect(lines(await owner.run(only('{"name": "a", "over": null}')))).toEqual(['public.t exists']);
        }));

    test('a table that is partitioned, with a key of two columns', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (region text, name text, main boolean, boss text, primary key (region, name)) partition by list (region);
                create table t_eu partition of t for values in ('eu'); create table t_us partition of t for values in ('us');
                insert into t values ('eu', 'a', true), ('us', 'b', true)`);
            expect(lines(await owner.run(only('{"region": "us", "name": "n", "main": true}', '', 'main = false, boss = keeper.name'))))
                .toEqual(['public.t created 1', 'public.t demoted 2']);
            expect(await owner.run('select region, name, main, boss from t order by 1, 2')).toEqual([
                { region: 'eu', name: 'a', main: false, boss: 'n' }, { region: 'us', name: 'b', main: false, boss: 'n' },
                { region: 'us', name: 'n', main: true, boss: null }]);
        }));

    test('an index that reads a generated column, and a column whose domain refuses nulls', () =>
        withOwner(async (owner) => {
            await owner.run(`create domain filled as text not null default 'x';
                create table t (id int generated always as identity primary key, name text, kind filled, main boolean,
                                loud text generated always as (upper(name)) stored);
                create unique index on t (name) where loud <> 'OLD'; insert into t (name, kind, main) values ('old', 'y', true)`);
            const call = only('{"name": "new", "main": true}', named, "main = false, kind = keeper.kind");
            expect(lines(await owner.run(call))).toEqual(['public.t created 1', 'public.t demoted 1']);
            expect(lines(await owner.run(call))).toEqual(['public.t exists']);
            expect(await owner.run('select name, kind from t order by id')).toEqual([{ name: 'old', kind: 'x' }, { name: 'new', kind: 'x' }]);
        }));

    test('names in mixed case with blanks, a column called as its table, another schema, a type that is not in pg_catalog', () =>
        withOwner(async (owner) => {
            await owner.run(`create schema "My App"; create type "My App".mood as enum ('good', 'bad');
                create table "My App"."Work Spaces" ("Id" serial primary key, "Work Spaces" text unique, n "My App".mood default 'bad', "Top" int
                    references "My App"."Work Spaces");
                insert into "My App"."Work Spaces" ("Work Spaces", n) values ('a', 'good'), ('b', 'good')`);
            const call = `select object, outcome, row_count::int, data from ensure.ensure_only_v1('"My App"."Work Spaces"', '{"Work Spaces": "c",
                "n": "good"}', $$n = 'good'$$, $$n = default, "Top" = keeper."Id"$$)`;
            const rows = await owner.run(call);
            expect(lines(rows)).toEqual(['"My App"."Work Spaces" created 1', '"My App"."Work Spaces" demoted 2']);
            expect(rows[0]?.data).toEqual({ Id: 3, 'Work Spaces': 'c', n: 'good', Top: null });
            expect(lines(await owner.run(call))).toEqual(['"My App"."Work Spaces" exists']);
            expect(await owner.run('select "Top", n from "My App"."Work Spaces" order by 1 limit 2')).toEqual([{ Top: 3, n: 'bad' }, { Top: 3, n: 'bad' }]);
        }));

    test('a table that has no primary key', () =>
        withOwner(async (owner) => {
            await owner.run("create table t (name text unique, main boolean); insert into t values ('a', true), ('b', false)");
            expect(lines(await owner.run(only('{"name": "b"}', promote)))).toEqual(['public.t promoted 1', 'public.t demoted 1']);
            expect(lines(await owner.run(only('{"name": "b"}', promote)))).toEqual(['public.t exists']);
        }));
});

describe('nothing is changed when', () => {
    test.each([
        ['demote leaves them among', only('{"name": "n", "main": true}', named, "note = 'x'"), /\["2"\]/],
        ['the new row is not among', only('{"name": "n", "main": false}', named), /once it is created/],
        ['the row is there, and promote is not', only('{"name": "a", "main": true}', named), /\["1"\]/],
        ['promote does not make it one', only('{"name": "a"}', `${named}, promote => 'note = null'`), /\["1"\].*promoted/],
        ['promote gives it another key', only('{"name": "a"}', `${named}, promote => 'main = true, name = null'`), /key of member/],
    ])('%s: NS009', (_what, call, words) =>
        withOwner(async (owner) => {
            await owner.run(t);
            expect(await rejected(owner, call, 'NS009')).toMatch(words);
        }));

    test('negative control: without the last look, demote leaves two', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            await withoutGuard(owner, '_check_sole_v1', "if c_others <> '{}' then", 'if false then');
            await owner.run(only('{"name": "n", "main": true}', named, "note = 'x'"));
            expect(await owner.run(mains)).toEqual([{ names: 'b, n' }]);
        }));

    test('negative controls: without the look at the kept row, it need not fulfil among, and need not be found again', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            await withoutGuard(owner, '_check_sole_v1', "elsif c_look.rows = '{}' then", 'elsif false then');
            await owner.run(only('{"name": "n", "main": false}', named));
            expect(await one(owner, mains)).toEqual({ names: null });
            await withoutGuard(owner, '_check_sole_v1', 'elsif c_look.known is distinct from kept then', 'elsif false then');
            await owner.run(only('{"name": "a"}', `${named}, promote => 'main = true, name = null'`));
            expect(await owner.run('select id from t where main and name is null')).toEqual([{ id: 1 }]);
        }));

    test.each([
        ['the new row needs a key that another has', only('{"name": "n", "email": "c@x", "main": true}', named), /\["3"\].*t_email_key/],
        ['the promoted row needs it', only('{"name": "a"}', `${named}, promote => $$main = true, email = 'c@x'$$`), /\["1"\].*t_email_key.*c@x/],
    ])('%s: NS014 names the row and the index', (_what, call, words) =>
        withOwner(async (owner) => {
            await owner.run(t);
            expect(await rejected(owner, call, 'NS014')).toMatch(words);
        }));

    test('several rows that are demoted come to collide, with each other or with one that stays: NS010 names one and the index', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; update t set main = true where name <> 'c'`);
            expect(await rejected(owner, only('{"name": "n", "main": true}', named, "main = false, email = 'same'"), 'NS010'))
                .toMatch(/\["[12]"\].*t_email_key/);
            expect(await rejected(owner, only('{"name": "n", "main": true}', named, "main = false, email = replace(email, 'b', 'c')"), 'NS010'))
                .toMatch(/\["2"\].*t_email_key/);
            await owner.run('create unique index on t (over); alter table t drop constraint t_over_fkey');
            expect(await rejected(owner, only('{"name": "n", "main": true}', named, 'main = false, over = keeper.id'), 'NS010'))
                .toMatch(/\["[12]"\].*t_over_idx/);
        }));

    test.each([
        ['a check', 'alter table t add check (note is null)', "main = false, note = 'x'"],
        ['a foreign key', '', 'main = false, over = 99'],
        ['a foreign key that is deferred', 'alter table t alter constraint t_over_fkey deferrable initially deferred', 'main = false, over = 99'],
        ['a unique constraint that is deferred', 'alter table t add constraint u unique (note) deferrable initially deferred; update t set note = name',
            "main = false, note = 'c'"],
    ])('%s is broken: NS010, in the call and not at COMMIT', (_what, more, demote) =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${more}`);
            await owner.run('begin');
            expectError(await owner.attempt(only('{"name": "n", "main": true}', named, demote)), 'NS010');
            await owner.run('rollback');
            expect(await owner.run(mains)).toEqual([{ names: 'b' }]);
        }));

    test('negative control: were deferred constraints left alone, it would be said at COMMIT', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t alter constraint t_over_fkey deferrable initially deferred`);
            await withoutGuard(owner, '_change_only_v1', 'perform ensure._settle_constraints_v1(c_tables);');
            await owner.run('begin');
            await owner.run(only('{"name": "n", "main": true}', named, 'main = false, over = 99'));
            expect((await owner.attempt('commit')).code).toBe('23503');
        }));

    test('a partition has the key that the new row needs, or a demoted one comes to: NS014 and NS010 name the row and the index', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int, name text, main boolean, primary key (id), unique (id, name)) partition by range (id);
                create table t_0 partition of t for values from (0) to (100); create unique index on t_0 (name);
                insert into t values (1, 'a', true), (2, 'b', false)`);
            expect(await rejected(owner, only('{"id": 3, "name": "b", "main": true}', ", key => '{id}'"), 'NS014')).toMatch(/t_0_name_idx/);
            expect(await rejected(owner, only('{"id": 3, "name": "n", "main": true}', ", key => '{id}'", "main = false, name = 'b'"), 'NS010'))
                .toMatch(/\["1"\].*t_0_name_idx/);
            expect(await rejected(owner, only('{"id": 2, "name": "n", "main": true}', ", key => '{id,name}'"), 'NS014')).toMatch(/\["2"\].*t_0_pkey/);
        }));

    test('a table is published and has no replica identity: 55000', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t drop constraint t_pkey cascade; create publication p for table t`);
            await rejected(owner, only('{"name": "n", "main": true}', named), '55000');
        }));

    const trigger = (when: string, body: string): string => `create function f() returns trigger language plpgsql as $$ begin ${body} end $$;
        create trigger f ${when} on t for each row execute function f()`;
    test.each([
        ['keeps a row from being demoted', trigger('before update', 'return null;'), 'main = false'],
        ['keeps the new row out', trigger('before insert', 'return null;'), 'main = false'],
        ['changes what demote takes from the new row', trigger('before insert', "new.note := 'other'; return new;"), 'main = false, note = keeper.note'],
        ['finds nothing in pg_catalog', trigger('before update', 'perform count(*) from t; return new;'), 'main = false'],
    ])('a trigger %s: NS012', (_what, more, demote) =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${more}`);
            await rejected(owner, only('{"name": "n", "main": true, "note": "x"}', named, demote), 'NS012');
        }));

    test.each([
        ['demoted', only('{"name": "n", "main": true}', named)],
        ['promoted', only('{"name": "a"}', promote, 'main = null')],
    ])('a trigger refuses a row that is %s in words of its own: NS010', (what, call) =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${trigger('before update', `if new.main is ${what === 'demoted' ? 'false' : 'true'} then
                raise unique_violation using message = 'not this one'; end if; return new;`)}`);
            expect(await rejected(owner, call, 'NS010')).toContain('not this one');
        }));

    test('negative control: were the new row not compared, demote would have set what no row has', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${trigger('before insert', "new.note := 'other'; return new;")}`);
            await withoutGuard(owner, '_demote_v1', "elsif keeper is null and c_refers and rows <> '{}' then", 'elsif false then');
            await owner.run(only('{"name": "n", "main": true, "note": "x"}', named, 'main = false, note = keeper.note'));
            expect(await owner.run("select name, note from t where note is not null order by name")).toEqual([
                { name: 'b', note: 'x' }, { name: 'n', note: 'other' }]);
        }));

    test('a trigger changes what demote does not take: the call succeeds', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${trigger('before insert', "new.note := 'other'; return new;")}`);
            const rows = await owner.run(only('{"name": "n", "main": true, "note": "x"}', named, 'main = false, over = keeper.id'));
            expect(rows[0]).toMatchObject({ outcome: 'created', data: { note: 'other' } });
        }));

    test('a trigger deletes rows of a table whose rows move: NS012; negative control: without the count they are lost', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table c (id int primary key, t int references t); insert into c values (1, 2), (2, 1);
                create function f() returns trigger language plpgsql as $$ begin delete from public.c where id = 2; return null; end $$;
                create trigger f after update on c for each row execute function f()`);
            const call = only('{"name": "n", "main": true}', `${named}, children => 'move'`);
            await rejected(owner, call, 'NS012', ['t', 'c']);
            await withoutGuard(owner, '_change_only_v1', 'if v_wrong is not null then', 'if false then');
            await owner.run(call);
            expect(await owner.run('select id from c')).toEqual([{ id: 1 }]);
        }));

    test.each([
        ['a rule is on the table', 'create rule r as on update to t do instead nothing', ''],
        ['a rule is on one whose rows move', 'create table c (t int references t); create rule r as on update to c do instead nothing', ", children => 'move'"],
        ['a rule is on the table for inserts', 'create rule r as on insert to t do instead nothing', ''],
        ['a table inherits from it', 'create table n () inherits (t)', ''],
        ['a column has a name that is needed', 'alter table t add "~row" int', ''],
        ['rows are archived that nothing tells apart', 'alter table t drop constraint t_pkey cascade', ", archive => 'kept'"],
    ])('%s: 0A000', (_what, more, rest) =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${archive}; ${more}`);
            await rejected(owner, only('{"name": "n", "main": true}', named + rest), '0A000');
        }));

    test('negative control: if tables may inherit from it, two rows fulfil among', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table n () inherits (t); insert into n (id, name, main) values (9, 'z', true)`);
            await withoutGuard(owner, '_check_only_v1', "c_kind = 'r' and exists", 'false and exists');
            await owner.run(only('{"name": "n", "main": true}', named));
            expect(await owner.run(mains)).toEqual([{ names: 'n, z' }]);
        }));

    test('the table is called keeper and demote says keeper.id: 0A000; negative control: it would be the row\'s own', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t rename to keeper`);
            const call = only('{"name": "c"}', promote, 'main = false, over = keeper.id').replace("'t'", "'keeper'");
            await rejected(owner, call, '0A000', ['keeper']);
            expect(lines(await owner.run(call.replace('keeper.id', 'null')))).toEqual(['public.keeper promoted 1', 'public.keeper demoted 1']);
            await owner.run("update keeper set main = name = 'b'");
            await withoutGuard(owner, '_refers_v1', "nullif(c.relname, 'keeper')", 'c.relname');
            await owner.run(call);
            expect(await owner.run("select over = id as own from keeper where name = 'b'")).toEqual([{ own: true }]);
        }));

    test('a cursor of this session on the table is in nobody\'s way', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; begin; declare c cursor for select * from t; fetch c`);
            expect(lines(await owner.run(only('{"name": "n", "main": true}', named)))[0]).toBe('public.t created 1');
            await owner.run('commit');
        }));
});

describe('archive', () => {
    test('what was demoted, promoted, moved and merged is kept, and undo_unique_v1 puts it all back', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${archive}; create table c (id int primary key, t int references t on delete cascade, k int, unique (t, k));
                insert into c values (1, 2, 1), (2, 3, 1), (3, 2, 2)`);
            const before = await snapshot(owner, 't', 'c');
            const rows = await owner.run(only('{"name": "c"}', `${promote}, children => 'merge', archive => 'kept'`, 'main = false, over = keeper.id'));
            expect(lines(rows.slice(0, -1))).toEqual(['public.t promoted 1', 'public.t demoted 1', 'public.c moved 1', 'public.c deleted 1']);
            expect(rows.at(-1)).toMatchObject({ outcome: 'archived', row_count: 4 });
            await undo(owner, String(rows.at(-1)?.object));
            expect(await snapshot(owner, 't', 'c')).toBe(before);
        }));

    test('a row that was created stays when a run is undone, so under a unique index it has to go first', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; ${archive}; create unique index on t (main) where main`);
            const rows = await owner.run(only('{"name": "n", "main": true}', `${named}, archive => 'kept'`));
            const run = String(rows.at(-1)?.object);
            expectError(await attemptUndo(owner, run), 'NS001');
            await owner.run("delete from t where name = 'n'");
            expect(await undo(owner, run)).toEqual(['public.t updated 1']);
            expect(await one(owner, mains)).toEqual({ names: 'b' });
        }));
});

test('what SET CONSTRAINTS said before the call: checks are made, then they are as declared', () =>
    withOwner(async (owner) => {
        await owner.run(`${t}; alter table t alter constraint t_over_fkey deferrable initially deferred`);
        await owner.run('begin');
        expect(lines(await owner.run(only('{"name": "n", "main": true}', named, 'main = false, over = keeper.id')))[0]).toBe('public.t created 1');
        await owner.run("update t set over = 99 where name = 'a'; update t set over = null where name = 'a'; commit");
    }));

test('with the index of the real case: no more than one row is among, whoever inserts', () =>
    withOwner(async (owner) => {
        await owner.run(`${setup}; ${index}`);
        await owner.run(ensure());
        expect((await owner.attempt("insert into workspaces (name, kind) values ('Rival', 'platform')")).code).toBe('23505');
    }));
