import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { expectError, major, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';

const check = async (session: Session, args: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' | ', partition, finding, detail, statement) as line from ensure.check_partitions_v1(${args})`))
        .map((row) => String(row.line));

const parent = 'create table t (k int not null, v text) partition by range (k)';
const two = `${parent}; create table t0 partition of t for values from (0) to (10); create table t10 partition of t for values from (10) to (20)`;

describe('findings', () => {
    test('nothing is found where nothing is wrong, at any depth, with a default partition too', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; create table rest partition of t default;
                create table t20 partition of t for values from (20) to (30) partition by list (v);
                create table t20a partition of t20 for values in ('a') partition by hash (k);
                create table t20a0 partition of t20a for values with (modulus 2, remainder 0);
                create table t20a1 partition of t20a for values with (modulus 4, remainder 1);
                create table t20a3 partition of t20a for values with (modulus 4, remainder 3)`);
            expect(await check(owner, "'t'")).toEqual([]);
            expect(await check(owner, "'t', '10', 0, 29")).toEqual([]);
        }));

    test('differs: leaves and what is between, each from the table it is attached to; run, the statements leave nothing', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; create table t20 partition of t for values from (20) to (30) partition by range (k);
                create table t20a partition of t20 for values from (20) to (25);
                create table t25a partition of t20 for values from (25) to (30);
                grant select on t to pg_monitor; alter table t alter v set default 'x'; grant insert on t25a to pg_monitor`);
            for (let round = 0; ; round += 1) {
                const rows = await owner.run("select partition::text, detail, statement from ensure.check_partitions_v1('t')");
                if (round === 0) {
                    expect(rows.map((row) => `${String(row.partition)} ${String(row.detail)}`)).toEqual([
                        't0 privileges', 't10 privileges', 't20 privileges', 't25a privileges']);
                    await owner.run('alter table only t alter v set default \'y\'');
                }
                if (rows.length === 0) break;
                expect(round).toBeLessThan(5);
                for (const row of rows) await owner.run(String(row.statement));
            }
            expect(await owner.run(`select count(*)::int as n from pg_class where relname ~ '^t[0-9]' and has_table_privilege('pg_monitor', oid, 'select')
                                    and not has_table_privilege('pg_monitor', oid, 'insert')`)).toEqual([{ n: 5 }]);
        }));

    test('differs: storage parameters, when a template is given', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; create table model () with (fillfactor = 50); alter table t10 set (fillfactor = 50)`);
            expect(await check(owner, "'t'")).toEqual([]);
            expect(await check(owner, "'t', template => 'model'")).toEqual(["t0 | differs | storage parameters | alter table public.t0 set (fillfactor = '50')"]);
        }));

    test('being detached: with the statement that finishes it', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'reader'], async ({ owner, reader }) => {
            await owner.run(two);
            await reader.run('begin; select * from t');
            const detach = owner.start('alter table t detach partition t0 concurrently');
            await detach.blockedBy(reader);
            await reader.run(`select pg_cancel_backend(${owner.pid})`);
            await detach.outcome();
            await reader.run('commit');
            await owner.run('grant select on t0 to pg_monitor');
            expect(await check(owner, "'t'")).toEqual(['t0 | being detached | from "public.t" | alter table public.t detach partition public.t0 finalize']);
            expect(await check(owner, "'t', '10', 5")).toContainEqual(expect.stringContaining('t | missing |'));
            await owner.run('alter table public.t detach partition public.t0 finalize');
            expect(await check(owner, "'t'")).toEqual([]);
        })));

    test.each([
        ['int', "('-5') to ('5')", "(7) to (9)", 'from 5 to 7'],
        ['text collate "C"', "('A') to ('a)b')", "('b') to ('c')", 'from a)b to b'],
        ['timestamptz', "('2026-01-01 00:00+00') to ('2026-01-02 00:00+00')", "('2026-01-03 00:00+00') to (maxvalue)", 'from 2026-01-02 00:00:00+00 to 2026-01-03 00:00:00+00'],
        ['numeric', '(minvalue) to (9)', '(10) to (11)', 'from 9 to 10'],
        ['uuid', "('00000000-0000-0000-0000-000000000000') to ('10000000-0000-0000-0000-000000000000')", "('f0000000-0000-0000-0000-000000000000') to (maxvalue)",
            'from 10000000-0000-0000-0000-000000000000 to f0000000-0000-0000-0000-000000000000'],
    ])('gap: between neighbours of %s', (type, first, second, detail) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k ${type}) partition by range (k); create table b partition of t for values from ${second};
                             create table a partition of t for values from ${first}`);
            expect(await check(owner, "'t'")).toEqual([`t | gap | ${detail}`]);
        }));

    test('gap: a remainder that no partition takes; below the root too', () =>
        withOwner(async (owner) => {
            await owner.run(`${parent}; create table t0 partition of t for values from (0) to (10) partition by hash (v);
                create table h0 partition of t0 for values with (modulus 2, remainder 0); create table h1 partition of t0 for values with (modulus 4, remainder 1)`);
            expect(await check(owner, "'t'")).toEqual(['t0 | gap | modulus 4, remainder 3']);
        }));

    test('missing: the cells of the grid that have no partition, with the call that makes them; overlaps: those it cannot make', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; create table t25 partition of t for values from (25) to (30)`);
            const lines = await check(owner, "'t', '10', -5, 29, 1");
            expect(lines.filter((line) => !line.includes('| gap |'))).toEqual([
                "t | missing | no partition holds what is from -10 to 0 | select * from ensure.ensure_partitions_v1('public.t', '10', '-10', zone => 'UTC')",
                't25 | overlaps | no partition holds what is from 20 to 30; "public.t25" is from 25 to 30',
                "t | missing | no partition holds what is from 30 to 40 | select * from ensure.ensure_partitions_v1('public.t', '10', '30', zone => 'UTC')"]);
            await owner.run('drop table t25');
            for (const row of await owner.run("select statement from ensure.check_partitions_v1('t', '10', -5, 39) where finding = 'missing'")) await owner.run(String(row.statement));
            expect(await check(owner, "'t', '10', -5, 39")).toEqual([]);
        }));

    test('missing: days on the clock of a zone, the settings of the session do not matter', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k timestamptz) partition by range (k);
                select from ensure.ensure_partitions_v1('t', '1 day', '2026-03-28', '2026-03-30', zone => 'Europe/Berlin');
                drop table t_2026_03_29; set timezone = 'America/New_York'; set datestyle = 'German'`);
            const line = await check(owner, "'t', '1 day', '2026-03-28', '2026-03-30', zone => 'Europe/Berlin'");
            expect(line.filter((one) => one.includes('missing'))).toHaveLength(1);
            await owner.run(String(line[0]?.split(' | ').at(-1)));
            expect(await check(owner, "'t', '1 day', '2026-03-28', '2026-03-30', zone => 'Europe/Berlin'")).toEqual([]);
        }));

    test('invalid index: of a partition, and of a parent whose partitions do not all have one', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; insert into t values (1), (1); create index on only t (v)`);
            await owner.attempt('create unique index concurrently broken on t0 (k)');
            expect(await check(owner, "'t'")).toEqual(['t | invalid index | public.t_v_idx', 't0 | invalid index | public.broken | reindex index concurrently public.broken']);
            await owner.run('delete from t');
            await owner.run('reindex index concurrently public.broken');
            expect(await check(owner, "'t'")).toEqual(['t | invalid index | public.t_v_idx']);
        }));

    test('not published: siblings are listed and no ancestor; no replica identity: UPDATE would fail', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; create publication p for table t0`);
            expect(await check(owner, "'t'")).toEqual([
                't0 | no replica identity | publication p publishes what UPDATE and DELETE do | alter table public.t0 replica identity full',
                't10 | not published | publication p lists siblings | alter publication p add table public.t10']);
            await owner.run('insert into t values (1)');
            expect((await owner.attempt('update t set k = 2')).code).toBe('55000');
            await owner.run('alter table t add primary key (k)');
            expect((await owner.attempt('update t set k = 2')).code).toBe('ok');
            expect(await check(owner, "'t'")).toHaveLength(1);
            await owner.run('alter publication p add table public.t10');
            expect(await check(owner, "'t'")).toEqual([]);
        }));

    test('a publication of the root, or of updates not at all, leaves nothing to find', () =>
        withOwner(async (owner) => {
            await owner.run(`${two}; create publication p for table t, t0 with (publish = 'insert')`);
            expect(await check(owner, "'t'")).toEqual([]);
        }));

    if (major >= 15) {
        test('siblings with a row filter: no statement, since the filter is a choice', () =>
            withOwner(async (owner) => {
                await owner.run(`${two}; create publication p for table t0 where (k > 0) with (publish = 'insert')`);
                expect(await check(owner, "'t'")).toEqual(['t10 | not published | publication p lists siblings, with a row filter or a column list']);
            }));

        test('a publication of the schema, or of all tables, covers what is not listed', (context) =>
            withTestDatabase(({ url, admin }) => withSessions(admin, ['dba'], ({ dba }) => withSessions(url, ['owner'], async ({ owner }) => {
                await owner.run(two);
                const { code } = await dba.attempt("create publication p for table t0, tables in schema public with (publish = 'insert')");
                if (code !== 'ok') context.skip('the role of DATABASE_URL is no superuser and may not publish a schema');
                expect(await check(owner, "'t'")).toEqual([]);
                await dba.run('drop publication p; create publication p for all tables');
                expect(await check(owner, "'t'")).toHaveLength(2);
                await owner.run('alter table t0 replica identity full; alter table t10 replica identity full; alter table t replica identity full');
                expect(await check(owner, "'t'")).toEqual([]);
            }))));
    }
});

describe('what it takes', () => {
    const rich = `${two}; create policy a on t using (k > 0); create policy a on t0 using (k > 0); create policy a on t10 using (k > 0);
        alter table t add g int generated always as (k * 2) stored; create statistics s on k, v from t; create statistics s0 on k, v from t0;
        create statistics s10 on k, v from t10; alter table t alter v set default 'x'; create index on t ((k + 1))`;

    test('it waits for nobody and keeps no lock: a partition and the parent may be locked', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'locker'], async ({ owner, locker }) => {
            await owner.run(rich);
            await locker.run('begin; lock table only t, t0, t10 in access exclusive mode');
            await owner.run('begin');
            expect((await owner.attempt("set local lock_timeout = '1s'; select * from ensure.check_partitions_v1('t', '10', 0, 19)")).code).toBe('ok');
            expect(await owner.run(`select relation::regclass from pg_locks as l join pg_class as c on c.oid = l.relation
                                    where l.pid = pg_backend_pid() and c.relnamespace = 'public'::regnamespace`)).toEqual([]);
            await owner.run('rollback');
        })));

    test('negative control: expressions read with the table they belong to wait for its lock', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'locker'], async ({ owner, locker }) => {
            await owner.run(rich);
            await withoutGuard(owner, '_policy_statements_v1', '(p.kin and p.alike) is not true', 'true');
            await locker.run('begin; lock table only t0 in access exclusive mode');
            expect((await owner.attempt("begin; set local lock_timeout = '300ms'; select * from ensure.check_partitions_v1('t')")).code).toBe('55P03');
        })));

    test('it runs in a read-only transaction, at every isolation level, and writes nothing', () =>
        withOwner(async (owner) => {
            await owner.run(`${rich}; drop policy a on t10`);
            for (const level of ['read committed', 'repeatable read', 'serializable']) {
                await owner.run(`begin isolation level ${level} read only`);
                expect(await check(owner, "'t', '10', 5")).toHaveLength(1);
                expect(await owner.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
                await owner.run('rollback');
            }
        }));

    test('it runs on a standby', () =>
        withStandby({}, async ({ primary, standby, caughtUp }) => {
            await install(primary.url);
            await withSessions(primary.url, ['owner'], ({ owner }) => owner.run(`${rich}; drop policy a on t10`));
            await caughtUp();
            await withSessions(standby.url, ['dba'], async ({ dba }) => {
                expect(await check(dba, "'t', '10', 5")).toEqual([
                    't10 | differs | policy a | create policy a on public.t10 as permissive for all to public using ((k > 0))']);
            });
        }));

    test('a role that owns nothing gets the same answer', () =>
        withOwner(async (owner) => {
            await owner.run(`${rich}; drop policy a on t10; create publication p for table t0; grant usage on schema ensure to pg_database_owner`);
            const mine = await check(owner, "'t', '10', 5");
            await owner.run('set role pg_database_owner');
            expect(await check(owner, "'t', '10', 5")).toEqual(mine);
            expect(mine).toHaveLength(3);
        }));

    test('what is no partitioned table, or no argument, is refused with a code', () =>
        withOwner(async (owner) => {
            await owner.run('create table plain ()');
            expectError(await owner.attempt("select ensure.check_partitions_v1('plain')"), '42809');
            expectError(await owner.attempt('select ensure.check_partitions_v1(null)'), '22004');
            expectError(await owner.attempt("select ensure.check_partitions_v1('plain', ahead => -1)"), '22023');
            expectError(await owner.attempt('select ensure.check_partitions_v1(1::oid)'), '42P01');
        }));
});
