import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { expectError, withTestDatabase } from '../context.js';
import { withRole } from '../ensure_unique/planned.js';
import { withoutGuard } from '../mutate.js';
import { until } from '../until.js';

const table = 'create table t (id int generated always as identity primary key, k int unique, l int unique, v text, deleted_at timestamptz)';

const withTable = <Name extends string>(names: readonly Name[], body: (sessions: Record<Name | 'dba', Session>) => Promise<void>, setup = ''): Promise<void> =>
    withTestDatabase(({ url }) => withSessions(url, ['dba', ...names], async (sessions) => {
        await sessions.dba.run(`${table}; ${setup}`);
        await body(sessions);
    }));

const ensure = (attributes: unknown, more = '', target = 't'): string =>
    `select outcome, data from ensure.ensure_row_v1('${target}', '${JSON.stringify(attributes)}'${more})`;
const one = async (session: Session, statement: string): Promise<Record<string, unknown> | undefined> => (await session.run(statement))[0];
const count = async (session: Session): Promise<unknown> => (await one(session, 'select count(*)::int as n from t'))?.n;

describe('a second caller', () => {
    test('of two rows in the opposite order, each in a call of its own, gets 40P01 or the first does; the other has both, and trying again finds them', () => (
        withTable(['a', 'b'], async ({ a, b }) => {
            const sessions = [a, b];
            await a.run('begin');
            await b.run('begin');
            await a.run(ensure({ k: 1 }));
            await b.run(ensure({ k: 2 }));
            const first = a.start(ensure({ k: 2 }));
            await first.blockedBy(b);
            const codes = await Promise.all([first.outcome(), b.attempt(ensure({ k: 1 }))].map(async (outcome, at) => {
                const { code } = await outcome;
                if (code !== 'ok') await sessions[at]?.run('rollback');
                return code;
            }));
            expect([...codes].sort()).toEqual(['40P01', 'ok']);
            await sessions[codes.indexOf('ok')]?.run('commit');
            expect(await one(sessions[codes.indexOf('40P01')] as Session, ensure({ k: 1 }))).toMatchObject({ outcome: 'exists' });
            expect(await count(a)).toBe(2);
        })));

    test('waits for the first, whose transaction is open, then returns its row', () => withTable(['a', 'b'], async ({ a, b }) => {
        await a.run('begin');
        const first = await one(a, ensure({ k: 1, v: 'a' }));
        const second = b.start(ensure({ k: 1, v: 'b' }));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows).toEqual([{ outcome: 'exists', data: first?.data }]);
        expect(await count(a)).toBe(1);
    }));

    test('waits for a prepared transaction too', () => withTable(['a', 'b', 'c'], async ({ a, b, c }) => {
        await a.run('begin');
        await a.run(ensure({ k: 1 }));
        await a.run("prepare transaction 'rows'");
        const second = b.start(ensure({ k: 1 }));
        await until('the second waits', async () =>
            (await one(c, "select count(*)::int as n from pg_locks where locktype = 'transactionid' and not granted"))?.n === 1);
        await c.run("commit prepared 'rows'");
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['exists']);
    }));

    test('creates it when the first rolls back', () => withTable(['a', 'b'], async ({ a, b }) => {
        await a.run('begin');
        await a.run(ensure({ k: 1, v: 'a' }));
        const second = b.start(ensure({ k: 1, v: 'b' }));
        await second.blockedBy(a);
        await a.run('rollback');
        expect((await second.outcome()).rows).toMatchObject([{ outcome: 'created', data: { k: 1, v: 'b' } }]);
    }));

    test('of two that know it by other keys, the one that comes later hears that two rows have them', () => withTable(['a', 'b'], async ({ a, b }) => {
        await a.run('insert into t (k, l) values (1, null), (null, 2)');
        const { detail, hint } = expectError(await b.attempt(ensure({ k: 1, l: 2 })), 'NS014');
        expect(detail).toMatch(/t_k_key: \{.*"k": 1,.*t_l_key: \{.*"l": 2,/);
        expect(hint).toContain('key');
        expect((await one(b, ensure({ k: 1, l: 2 }, ", '{l}'")))?.data).toMatchObject({ k: null, l: 2 });
        // With key 3 there is none, and its other key is taken.
        expect(expectError(await b.attempt(ensure({ k: 3, l: 2 }, ", '{k}'")), 'NS014').detail).toMatch(/None has this \(k\).*t_l_key has: \{/);
        expect(await count(a)).toBe(2);
    }));

    test.each(isolationLevels.slice(1))('in a %s transaction whose snapshot is older than the row: 40001 comes through', (isolation) =>
        withTable(['a', 'b'], async ({ a, b }) => {
            await b.run(`begin isolation level ${isolation}`);
            await b.run('select count(*) from t');
            await a.run(ensure({ k: 1 }));
            expect((await b.attempt(ensure({ k: 1 }))).code).toBe('40001');
            await b.run('rollback');
            expect((await one(b, ensure({ k: 1 })))?.outcome).toBe('exists');
        }));

    test('a row that goes between look and insert, and comes, and goes: it ends with the row', () => withTable(['a', 'b'], async ({ a, b }) => {
        await a.run('insert into t (k) values (1)');
        await a.run('begin; delete from t');
        const second = b.start(ensure({ k: 1, v: 'b' })); // sees the row that is deleted
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['exists']);
        await a.run('commit');
        await a.run('begin; insert into t (k) values (1)');
        const third = b.start(ensure({ k: 1, v: 'b' }));
        await third.blockedBy(a);
        await a.run('delete from t; commit');
        expect((await third.outcome()).rows).toMatchObject([{ outcome: 'created', data: { v: 'b' } }]);
    }));

    test('negative controls: the one-statement form returns nothing, look and insert 23505, in the same two steps', () =>
        withTable(['a', 'b'], async ({ a, b }) => {
            for (const [form, want] of [
                ["with made as (insert into t (k) values (1) on conflict do nothing returning id) select id from made union all select id from t where k = 1 limit 1", 'no row'],
                ['do $$ begin if not exists (select from t where k = 1) then insert into t (k) values (1); end if; end $$', '23505'],
            ] as const) {
                await a.run('truncate t');
                await a.run('begin');
                await a.run(ensure({ k: 1 }));
                const second = b.start(form);
                await second.blockedBy(a);
                await a.run('commit');
                const { code, rows } = await second.outcome();
                expect(code === 'ok' && rows.length === 0 ? 'no row' : code).toBe(want);
            }
        }));

    test('negative control: without the loop the second comes back with another error', () => withTable(['a', 'b'], async ({ a, b, dba }) => {
        await withoutGuard(dba, '_make_row_v1', 'for v_try in 1..5 loop', 'for v_try in 1..1 loop');
        await a.run('begin');
        await a.run(ensure({ k: 1 }));
        const second = b.start(ensure({ k: 1 }));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).code).toBe('23505');
    }));
});

describe('what the caller is told', () => {
    test('a unique key that was not given and is taken: as a plain INSERT says it', () => withTable([], async ({ dba }) => {
        await dba.run('alter table t alter l set default 7; insert into t (k) values (1)');
        const outcome = await dba.attempt(ensure({ k: 2 }));
        expect(outcome.code).toBe('23505');
        expect((outcome.error as unknown as { constraint_name: string }).constraint_name).toBe('t_l_key');
        expect(await count(dba)).toBe(1);
    }));

    test('a trigger that keeps the row out: NS012', () => withTable([], async ({ dba }) => {
        expectError(await dba.attempt(ensure({ k: 2 })), 'NS012');
    }, 'create function no() returns trigger language plpgsql as $$ begin return null; end $$; create trigger no before insert on t for each row execute function no()'));

    test('a trigger that changes the key: the row that comes is what is returned', () => withTable([], async ({ dba }) => {
        expect((await one(dba, ensure({ k: 2 })))).toMatchObject({ outcome: 'created', data: { k: 12 } });
    }, 'create function ten() returns trigger language plpgsql as $$ begin new.k := new.k + 10; return new; end $$; create trigger ten before insert on t for each row execute function ten()'));

    test('triggers run under the settings of the session, but for search_path', () => withTable([], async ({ dba }) => {
        await dba.run("set enable_bitmapscan = off; set plan_cache_mode = force_custom_plan");
        expect(await one(dba, ensure({ k: 2 }))).toMatchObject({ data: { v: 'on off force_custom_plan pg_catalog, pg_temp' } });
        expect((await one(dba, "select concat_ws(' ', outcome, row_count) as line from ensure.ensure_rows_v1('t', '[{\"k\":3}]')"))?.line).toBe('created 1');
        expect((await one(dba, 'select v from t where k = 3'))?.v).toBe('on off force_custom_plan pg_catalog, pg_temp');
    }, `create function say() returns trigger language plpgsql as $$ begin new.v := concat_ws(' ', current_setting('enable_seqscan'),
        current_setting('enable_bitmapscan'), current_setting('plan_cache_mode'), current_setting('search_path')); return new; end $$;
        create trigger say before insert on t for each row execute function say()`));

    test('row security that hides the row that has the key: 42501, and an end; a row it shows is found', (context) =>
        withRole(context, async ({ owner, writer }, role) => {
            await owner.run(`${table}; alter table t enable row level security; create policy own on t using (v = 'mine');
                create policy add on t for insert with check (true); insert into t (k, v) values (1, 'other'), (2, 'mine');
                grant all on t to ${role}; grant usage on schema ensure to ${role}`);
            expect(expectError(await writer.attempt(ensure({ k: 1, v: 'mine' })), '42501').detail).toContain('row security');
            expect(await one(writer, ensure({ k: 2 }))).toMatchObject({ outcome: 'exists', data: { v: 'mine' } });
            expect(await one(writer, ensure({ k: 3, v: 'mine' }))).toMatchObject({ outcome: 'created' });
        }));

    test('a role that may only read finds what is there; to create it needs INSERT', (context) =>
        withRole(context, async ({ owner, writer }, role) => {
            await owner.run(`${table}; insert into t (k) values (1); grant select on t to ${role}; grant usage on schema ensure to ${role}`);
            expect((await one(writer, ensure({ k: 1 })))?.outcome).toBe('exists');
            expect((await writer.attempt(ensure({ k: 2 }))).code).toBe('42501');
        }));

    test.each<[string, string, string, RegExp]>([
        ['no key in attributes', ensure({ v: 'a' }), '42P10', /t_pkey on \(id\), given by the table; public\.t_k_key on \(k\)/],
        ['a null in the key', ensure({ k: null }), '42P10', /Given: k\./],
        ['no unique key at all', ensure({ a: 1 }, '', 'plain'), '42P10', /There are: none/],
        ['key is no unique index', ensure({ k: 1, v: 'a' }, ", '{v}'"), '42P10', /t_k_key on \(k\)/],
        ['key is not given', ensure({ k: 1 }, ", '{l}'"), '42P10', /Given: k/],
        ['a deferrable constraint', ensure({ d: 1 }, '', 'late'), '42P10', /late_d_key on \(d\), deferrable/],
        ['no such column', ensure({ k: 1, w: 'a' }), '42703', /^$/],
        ['a generated column', ensure({ k: 9, id: 5 }), '428C9', /identity/],
        ['no table', ensure({ v: 1 }, '', 'view'), '42809', /^$/],
        ['not an object', "select ensure.ensure_row_v1('t', '[1]')", '22023', /^$/],
        ['attributes null', "select ensure.ensure_row_v1('t', null)", '22004', /^$/],
        ['target null', "select ensure.ensure_row_v1(null, '{}')", '22004', /^$/],
        ['revive is two statements', ensure({ k: 1 }, ", revive => 'true); delete from t; select (true'"), '42601', /Read as a predicate/],
        ['revive breaks out of its parentheses', ensure({ k: 1 }, ", revive => 'true) or (true'"), '42601', /Read as a predicate/],
        ['revive names what is not there', ensure({ k: 1 }, ", revive => 'gone'"), '42703', /Read as a predicate/],
        ['revive is volatile', ensure({ k: 1 }, ", revive => 'random() < 1'"), '22023', /^$/],
    ])('%s: one coded error, and nothing has changed', (_what, statement, code, detail) => withTable([], async ({ dba }) => {
        expect(expectError(await dba.attempt(statement), code).detail ?? '').toMatch(detail);
        expect(await dba.run('select k, v from t')).toEqual([{ k: 1, v: 'old' }]);
        expect(expectError(await dba.attempt(statement), code).hint).toBeTruthy();
    }, `insert into t (k, v) values (1, 'old'); create table plain (a int); create table late (d int unique deferrable);
        create view view as select 1 as v`));

    test('a table with a deferrable constraint beside the key: the other key is taken is 23505, as of a plain INSERT', () => withTable([], async ({ dba }) => {
        expect((await one(dba, ensure({ k: 1 }, '', 'late')))?.outcome).toBe('created');
        expect((await one(dba, ensure({ k: 1 }, '', 'late')))?.outcome).toBe('exists');
        expect((await one(dba, ensure({ k: 2, d: 2 }, '', 'late')))?.outcome).toBe('created');
        expect((await dba.attempt(ensure({ k: 3, d: 2 }, '', 'late'))).code).toBe('23505');
    }, 'create table late (k int unique, d int unique deferrable)'));
});

describe('revive: a row that was soft-deleted', () => {
    const alive = { k: 1, v: 'new', deleted_at: null };
    const revive = ", revive => 'deleted_at is not null'";
    const dead = "insert into t (k, v, deleted_at) values (1, 'old', '2026-01-01')";

    test('without revive it is a row as any other', () => withTable([], async ({ dba }) => {
        expect(await one(dba, ensure(alive))).toMatchObject({ outcome: 'exists', data: { v: 'old' } });
    }, dead));

    test('with it the row gets attributes, keeps its id, and is alive; the second call finds it', () => withTable([], async ({ dba }) => {
        expect(await one(dba, ensure(alive, revive))).toMatchObject({ outcome: 'revived', data: { id: 1, v: 'new', deleted_at: null } });
        expect(await one(dba, ensure({ ...alive, v: 'newer' }, revive))).toMatchObject({ outcome: 'exists', data: { v: 'new' } });
    }, dead));

    test('a second caller waits for the first that revives, then returns the row', () => withTable(['a', 'b'], async ({ a, b }) => {
        await a.run('begin');
        await a.run(ensure({ ...alive, v: 'a' }, revive));
        const second = b.start(ensure({ ...alive, v: 'b' }, revive));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows).toMatchObject([{ outcome: 'exists', data: { v: 'a' } }]);
    }, dead));

    test('attributes that leave it dead: NS001, and nothing has changed', () => withTable([], async ({ dba }) => {
        expectError(await dba.attempt(ensure({ k: 1, v: 'new' }, revive)), 'NS001');
        expect(await dba.run('select v from t')).toEqual([{ v: 'old' }]);
    }, dead));

    const partial = 'alter table t drop constraint t_k_key; create unique index on t (k) where deleted_at is null';
    test('where only living rows are unique, a dead one is revived when none lives; of two dead ones, NS014', () => withTable([], async ({ dba }) => {
        expect(await one(dba, ensure(alive))).toMatchObject({ outcome: 'created' });
        expect(await one(dba, ensure(alive, revive))).toMatchObject({ outcome: 'exists', data: { v: 'new' } });
        await dba.run("delete from t where v = 'new'");
        expect(await one(dba, ensure(alive, revive))).toMatchObject({ outcome: 'revived', data: { id: 1 } });
        await dba.run("update t set deleted_at = now(); insert into t (k, deleted_at) values (1, now())");
        expectError(await dba.attempt(ensure(alive, revive)), 'NS014');
    }, `${partial}; ${dead}`));
});
