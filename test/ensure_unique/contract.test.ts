import { describe, expect, test, type TestContext } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { install } from '../../scripts/install.js';
import { expectError, major, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';
import { created, deduped, deleted, ensure, exists, family, indexes, keys, locksOf, move, remove, retire, rows, table, withTable } from './tables.js';

const xid = 'select pg_current_xact_id_if_assigned() as xid';

describe('a call that finds its index', () => {
    describe.each(isolationLevels)('%s', (isolation) => {
        test.each([
            ['columns', '', 'k'],
            ['columns, with what becomes of duplicates', remove, 'k'],
            ['an order that reads the row', ", keep => 'busy desc, id', losers => 'delete'", 'k'],
        ])('%s: answers while others hold ACCESS EXCLUSIVE and the queue, read-only; no lock, no transaction id', (_what, rest, columns) =>
            withTable(['a', 'b'], table, async ({ a, b }) => {
                await a.run(ensure(remove));
                await a.run(`begin; lock table t in access exclusive mode; select pg_advisory_lock(1162760018, 't'::regclass::oid::int)`);
                await b.run(`begin isolation level ${isolation} read only; set local lock_timeout = '1ms'`);
                expect(await b.run(ensure(rest, 't', columns))).toEqual(exists);
                expect(await b.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
                expect(await b.run(xid)).toEqual([{ xid: null }]);
                expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '1ms' }]);
                await b.run('commit');
            }));

        const one = `${retire}, nulls_equal => false`; // one index on 14 too
        test('an expression and a predicate: read-only, no lock is kept, no transaction id', () =>
            withTable(['b'], table, async ({ b, dba }) => {
                await dba.run(ensure(one, 't', '(k + 1)'));
                await b.run(`begin isolation level ${isolation} read only`);
                expect((await b.run(ensure(one, 't', '(k + 1)'))).map(({ outcome }) => outcome)).toEqual(['exists']);
                expect(await b.run(locksOf(b.pid))).toEqual([{ n: 0 }]);
                expect(await b.run(xid)).toEqual([{ xid: null }]);
                await b.run('commit');
            }));

        test('inside a transaction that has written, also to the table', () =>
            withTable(['b'], table, async ({ b, dba }) => {
                await dba.run(ensure(remove));
                await b.run(`begin isolation level ${isolation}; insert into t values (11, 11)`);
                const before = await b.run(locksOf(b.pid));
                expect(await b.run(ensure(remove))).toEqual(exists);
                expect(await b.run(locksOf(b.pid))).toEqual(before);
                await b.run('commit');
            }));
    });

    test('negative control: where the order is read too, the call waits for the table', () =>
        withTable(['a', 'b'], table, async ({ a, b, dba }) => {
            await a.run(ensure(remove));
            await withoutGuard(dba, 'ensure_unique_v1', '(target, null, losers', '(target, keep, losers');
            await a.run('begin; lock table t in access exclusive mode');
            await b.run("set lock_timeout = '50ms'");
            expect((await b.attempt(ensure(remove))).code).toBe('55P03');
        }));

    test('an expression waits behind ACCESS EXCLUSIVE, no longer than max_wait: 55P03 names who holds it', () =>
        withTable(['a', 'b'], table, async ({ a, b }) => {
            await a.run(ensure(remove, 't', '(k + 1)'));
            await a.run('begin; lock table t in access exclusive mode');
            const error = expectError(await b.attempt(ensure(", max_wait => '200 ms'", 't', '(k + 1)')), '55P03');
            expect(error.detail).toContain(`pid ${a.pid}`);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '0' }]);
        }));

    test('an index dropped since the snapshot does not count: NS011', () =>
        withTable(['a', 'b'], table, async ({ a, b }) => {
            await a.run(ensure(remove));
            await b.run('begin isolation level repeatable read; select 1');
            await a.run('drop index t_k_key');
            expectError(await b.attempt(ensure()), 'NS011');
        }));

    test('negative control: without the looks at xmax and at the name it passes for one that is there', () =>
        withTable(['a', 'b'], table, async ({ a, b, dba }) => {
            await a.run(ensure(remove));
            await withoutGuard(dba, '_found_unique_v1', 'and not ensure._stands_v1(i.xmax)', 'and false');
            await withoutGuard(dba, '_look_unique_v1', "~ '^[0-9]+$'", "~ '^never'");
            await b.run('begin isolation level repeatable read; select 1');
            await a.run('drop index t_k_key');
            expect((await b.run(ensure())).map(({ outcome }) => outcome)).toEqual(['exists']);
        }));

    test('reads as many pages beside 200 other indexes as beside one', () =>
        withOwner(async (owner) => {
            const pages = async (): Promise<number> => {
                await owner.run(ensure());
                const [row] = await owner.run(`explain (analyze, buffers, format json) ${ensure()}`);
                const found = row?.['QUERY PLAN'];
                const [{ Plan }] = (typeof found === 'string' ? JSON.parse(found) : found) as [{ Plan: Record<string, number> }];
                return (Plan['Shared Hit Blocks'] ?? 0) + (Plan['Shared Read Blocks'] ?? 0);
            };
            await owner.run(table);
            await owner.run(ensure(remove));
            const few = await pages();
            await owner.run(`do $$ begin for i in 1..200 loop
                execute format('create table o%s (a int, b int); create unique index on o%s (a)', i, i); end loop; end $$`);
            expect(await pages()).toBeLessThan(few * 1.2 + 10); // an index of a catalog may be one level higher
        }));

    test('runs on a streaming standby; what is missing is 25006 there', async (context) => {
        if (!surroundings.embedded) context.skip('needs a primary and a standby of its own; DATABASE_URL is set');
        await withStandby({}, async ({ primary: { url }, standby: { url: copy }, caughtUp }) => {
            await install(url);
            await withSessions(url, ['primary'], async ({ primary }) => {
                await primary.run(table);
                await primary.run(ensure(remove));
            });
            await caughtUp();
            await withSessions(copy, ['standby'], async ({ standby }) => {
                for (const isolation of ['read committed', 'repeatable read']) {
                    await standby.run(`begin isolation level ${isolation}`);
                    expect(await standby.run(ensure(remove))).toEqual(exists);
                    expect(expectError(await standby.attempt(ensure(remove, 't', 'id, k')), '25006').hint).toBe('Call on the primary.');
                    await standby.run('rollback');
                }
            });
        });
    });
});

describe('an old snapshot', () => {
    describe.each(['repeatable read', 'serializable'])('%s', (isolation) => {
        test.each([
            ['is missing', '', ''],
            ['is missing, and there are duplicates', remove, ''],
            ['is to become a constraint', ', as_constraint => true', ensure(remove)],
            ['was made since the snapshot', '', ensure(remove)],
        ])('an index that %s: NS011 before anything changes', (what, rest, before) =>
            withTable(['a', 'b'], table, async ({ a, b, dba }) => {
                const since = what.includes('since');
                if (before && !since) await a.run(before);
                await b.run(`begin isolation level ${isolation}; select 1`);
                if (since) await a.run(before);
                const left = await dba.run(keys);
                const error = expectError(await b.attempt(ensure(rest)), 'NS011');
                expect(error.hint).toContain('READ COMMITTED');
                await b.run('rollback');
                expect(await dba.run(keys)).toEqual(left);
            }));
    });

    test('negative control: without the refusal, a row that the snapshot does not show makes the call fail', () =>
        withTable(['a', 'b'], table, async ({ a, b, dba }) => {
            await withoutGuard(dba, '_unique_guards_v1', "in ('repeatable read', 'serializable')", "= 'none'");
            await b.run('begin isolation level repeatable read; select 1');
            await a.run('insert into t values (11, 4)');
            expect((await b.attempt(ensure(remove))).code).not.toBe('ok');
        }));
});

describe('settings changed on the way are put back', () => {
    const settings = `select current_setting('lock_timeout') as lock_timeout, current_setting('work_mem') as work_mem,
                             current_setting('search_path') as path, current_setting('row_security') as row_security`;
    const own = "set local lock_timeout = '6s'; set local work_mem = '5MB'; set local search_path = public, pg_catalog";

    test.each([
        ['that made it', ensure(remove), 'ok'],
        ['that found it', `${ensure(remove)}; ${ensure()}`, 'ok'],
        ['that refused', ensure(), 'NS009'],
        ['that gave up', ensure(", max_wait => '50 ms', keep => 'id', losers => 'delete'"), '55P03'],
        ['that was in the way of itself', `declare x cursor for select * from t; fetch 1 from x; ${ensure(remove)}`, '55006'],
        ['that was cancelled', `set local statement_timeout = '150ms'; ${ensure(remove)}`, '57014'],
    ])('by a call %s', (_what, call, code) =>
        withTable(['a', 'b'], table, async ({ a, b }) => {
            if (code === '55P03' || code === '57014') await a.run('begin; insert into t values (11, 11)');
            await b.run(`begin; ${own}`);
            const before = await b.run(settings);
            await b.run('savepoint s');
            expect((await b.attempt(call)).code).toBe(code);
            if (code !== 'ok') await b.run('rollback to savepoint s');
            expect(await b.run(settings)).toEqual(before);
            await b.run('commit');
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '0' }]);
        }));

    test('negative control: without putting it back, the short lock_timeout stays for the rest of the transaction', () =>
        withTable(['b'], table, async ({ b, dba }) => {
            await withoutGuard(dba, '_create_unique_v1', "perform set_config('lock_timeout', c_lock_timeout, true);");
            await b.run('begin');
            await b.run(ensure(remove));
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '50ms' }]);
        }));

    test('a constraint whose check is deferred is checked, then deferred again', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; alter table c drop constraint c_t_id_fkey;
                             alter table c add foreign key (t_id) references t deferrable initially deferred`);
            await owner.run('begin');
            expect((await owner.run(ensure(move))).at(-1)).toMatchObject({ outcome: 'created' });
            await owner.run('insert into c values (1, 99)');
            expect((await owner.attempt('commit')).code).toBe('23503');
        }));

    test('what SET CONSTRAINTS said ends: each constraint is again as it was declared', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; alter table c drop constraint c_t_id_fkey; alter table c add foreign key (t_id) references t deferrable`);
            await owner.run('begin; set constraints all deferred');
            await owner.run(ensure(move));
            expect((await owner.attempt('insert into c values (1, 99)')).code).toBe('23503');
        }));

    test('a rule on a table whose rows change: 0A000, and nothing was changed', () =>
        withOwner(async (owner) => {
            for (const rule of ['on delete to t do also delete from c where id = old.id', 'on delete to t do instead nothing',
                'on update to c do also delete from c where id = -1', 'on update to c do instead nothing']) {
                await owner.run(`drop table if exists t, c; ${family}; create rule r as ${rule}`);
                expect((await owner.attempt(ensure(move))).code, rule).toBe('0A000');
                expect(await owner.run(indexes())).toEqual([{ n: 0 }]);
                expect(await owner.run('select (select count(*) from t)::int as t, (select count(*) from c)::int as c')).toEqual([{ t: 10, c: 20 }]);
            }
        }));

    test('a deferred check that fails meanwhile: NS010 with what PostgreSQL says, and nothing was changed', () =>
        withOwner(async (owner) => {
            await owner.run(`${family}; alter table c drop constraint c_t_id_fkey;
                             alter table c add foreign key (t_id) references t deferrable initially deferred`);
            await owner.run('begin; insert into c values (1, 99); savepoint s');
            expect(expectError(await owner.attempt(ensure(move)), 'NS010').detail).toMatch(/^23503: /);
            await owner.run('rollback to savepoint s');
            expect(await owner.run(indexes())).toEqual([{ n: 0 }]);
        }));
});

describe('called in the middle of something', () => {
    test('from a trigger on the table: 55006 says to call before', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; create function f() returns trigger language plpgsql as $$ begin
                perform ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => 'delete'); return null; end $$;
                create trigger g before insert on t for each statement execute function f()`);
            expect(expectError(await owner.attempt('insert into t values (11, 11)'), '55006').hint).toContain('not from a trigger');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 10 }]);
        }));

    test('while a cursor of this session reads the table: 55006; the no-op answers', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await owner.run('begin; declare x cursor for select * from t; fetch 1 from x; savepoint s');
            expect(expectError(await owner.attempt(ensure(remove)), '55006').hint).toContain('cursor');
            await owner.run('rollback');
            await owner.run(ensure(remove));
            await owner.run('begin; declare x cursor for select * from t; fetch 1 from x');
            expect(await owner.run(ensure(remove))).toEqual(exists);
        }));

    test('within a function, with its exception block, and in a savepoint that is rolled back', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await owner.run(`begin; savepoint s; ${ensure(remove)}; rollback to savepoint s; commit`);
            expect(await owner.run(indexes())).toEqual([{ n: 0 }]);
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 10 }]);
            await owner.run(`create function f() returns text language plpgsql as $$
                declare v text; begin
                    begin
                        perform ensure.ensure_unique_v1('t', '{k}');
                    exception when sqlstate 'NS009' then
                        perform ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => 'delete');
                    end;
                    insert into t values (100, 100);
                    select string_agg(e.outcome, ' ') into v from ensure.ensure_unique_v1('t', '{k}') as e;
                    return v;
                end $$`);
            expect(await owner.run('select f()')).toEqual([{ f: 'exists' }]);
            expect((await owner.attempt('insert into t values (101, 100)')).code).toBe('23505');
        }));

    test('an event trigger that vetoes CREATE INDEX: its own error, and no row is gone', (context) =>
        withEventTrigger(context, async (owner) => {
            const error = expectError(await owner.attempt(ensure(remove)), 'P0001');
            expect(error.message).toBe('no index today');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 10 }]);
            expect(await owner.run(locksOf(owner.pid))).toEqual([{ n: 0 }]);
        }));
});

async function withEventTrigger(context: TestContext, body: (owner: Session) => Promise<void>): Promise<void> {
    if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and can make no event trigger');
    await withTestDatabase(({ url, admin }) => withSessions(admin, ['dba'], ({ dba }) => withSessions(url, ['owner'], async ({ owner }) => {
        await owner.run(table);
        await dba.run(`create function public.veto() returns event_trigger language plpgsql as
                       $$ begin raise exception 'no index today'; end $$;
                       create event trigger veto on ddl_command_start when tag in ('CREATE INDEX') execute function public.veto()`);
        await body(owner);
    })));
}

describe('an index that is there and is to become a constraint', () => {
    test('becomes one; again it is found', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await owner.run(ensure(remove));
            expect(await owner.run(ensure(', as_constraint => true'))).toEqual([{ object: 'public.t_k_key', outcome: 'constrained', row_count: null }]);
            expect(await owner.run(ensure(', as_constraint => true'))).toEqual(exists);
        }));
});

describe('what raises 23505 on the way', () => {
    test('a loser_set that makes duplicates in another index: NS010 names it', () =>
        withOwner(async (owner) => {
            await owner.run(`${table}; alter table t add code text; update t set code = id; create unique index code on t (code)`);
            const error = expectError(await owner.attempt(ensure(retire.replace('= false', "= false, code = ''x''"))), 'NS010');
            expect(error.detail).toContain('code');
            expect(await owner.run('select count(*)::int as n from t where active')).toEqual([{ n: 10 }]);
        }));

    test('an equality that does not find what the index finds: NS009, not 23505', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await withoutGuard(owner, '_places_v1', "else '>' end", "else '> 1 +' end");
            await withoutGuard(owner, '_raise_duplicates_v1', 'c_report.groups > 0', 'false');
            expectError(await owner.attempt(ensure(remove)), 'NS009');
            expect(await owner.run('select count(*)::int as n from t')).toEqual([{ n: 10 }]);
        }));
});

test('with ensure.ddl = off what is there is found, what is missing is NS002', () =>
    withOwner(async (owner) => {
        await owner.run(table);
        await owner.run("set ensure.ddl = 'off'");
        expectError(await owner.attempt(ensure(remove)), 'NS002');
        await owner.run("set ensure.ddl = 'on'");
        expect(await owner.run(ensure(remove))).toEqual(created(deleted));
        await owner.run("set ensure.ddl = 'off'");
        expect(await owner.run(ensure(remove))).toEqual(exists);
        expect(await owner.run(keys)).toEqual(deduped);
    }));

test(`on PostgreSQL ${major} an empty table needs no order: the index is made, again it is found`, () =>
    withOwner(async (owner) => {
        await owner.run(`${table}; truncate t`);
        expect(await owner.run(ensure())).toEqual(created());
        expect(await owner.run(ensure())).toEqual(exists);
        expect((await owner.attempt(`insert into t ${rows}`)).code).toBe('23505');
    }));
