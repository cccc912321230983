import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';

const plan = (session: Session, args: string): Promise<Record<string, unknown>[]> =>
    session.run(`select step_number, statement, in_transaction, locks, why from ensure.plan_partitions_v1(${args})`);
const leaves = (session: Session): Promise<Record<string, unknown>[]> => session.run(`
    select pg_get_expr(c.relpartbound, 0) as bound, c.relacl::text as acl, c.relrowsecurity as rls, pg_get_userbyid(c.relowner) as owner,
           (select count(*)::int from pg_index as i where i.indrelid = c.oid) as indexes,
           (select count(*)::int from pg_constraint as k where k.conrelid = c.oid) as constraints
    from pg_inherits as i join pg_class as c on c.oid = i.inhrelid where i.inhparent = 't'::regclass order by 1`);
const table = `
    create table ref (id int primary key);
    create table t (k int primary key, r int references ref, v text check (v <> '')) partition by range (k);
    alter table t enable row level security; create policy p on t using (v = current_user);
    grant select on t to public`;

describe('plan_partitions_v1', () => {
    test('what its statements make is what ensure_partitions_v1 makes; asked again it has no rows', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            const rows = await plan(owner, "'t', '10', 5, 25");
            expect(rows.map(({ step_number }) => step_number)).toEqual([1, 2, 3]);
            expect(rows.every(({ in_transaction }) => in_transaction === true)).toBe(true);
            expect(rows[0]?.locks).toBe('SHARE ROW EXCLUSIVE on public.ref, SHARE UPDATE EXCLUSIVE on public.t');
            for (const { statement } of rows) await owner.run(String(statement));
            expect(await plan(owner, "'t', '10', 5, 25")).toEqual([]);
            const planned = await leaves(owner);
            await owner.run(`drop table t, ref; ${table}`);
            await owner.run("select ensure.ensure_partitions_v1('t', '10', 5, 25)");
            expect(planned).toEqual(await leaves(owner));
        }));

    test('run in part, it returns the rest; an empty table left by another tool is attached', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            const [first, second] = await plan(owner, "'t', '10', 5, 15");
            await owner.run(String(first?.statement));
            expect(await plan(owner, "'t', '10', 5, 15")).toEqual([{ ...second, step_number: 1 }]);
            await owner.run('create table t_0000000000010 (like t including constraints)');
            const [attach] = await plan(owner, "'t', '10', 5, 15");
            expect(attach?.statement).not.toContain('create table');
            await owner.run(String(attach?.statement));
            expect(await plan(owner, "'t', '10', 5, 15")).toEqual([]);
        }));

    test('two gaps in one cell get two names; the search_path of the session neither matters nor changes', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k int) partition by range (k); create table a partition of t for values from (0) to (3);
                             create table b partition of t for values from (5) to (6); set search_path = public, pg_catalog`);
            for (const { statement } of await plan(owner, "'t', '10', 0, regrid => true")) await owner.run(String(statement));
            expect(await plan(owner, "'t', '10', 0")).toEqual([]);
            expect(await owner.run('show search_path')).toEqual([{ search_path: 'public, pg_catalog' }]);
        }));

    test('read-only, and while others hold ACCESS EXCLUSIVE: it takes no lock', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(table);
            await a.run('begin; lock table t in access exclusive mode');
            await b.run("begin read only; set local lock_timeout = '1ms'");
            expect(await plan(b, "'t', '10', 5")).toHaveLength(1);
            expect(await b.run('select count(*)::int as n from pg_locks where pid = pg_backend_pid() and relation >= 16384')).toEqual([{ n: 0 }]);
        })));

    test('rows of the default partition: refused as ensure does, or the call that moves them is the plan', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k int) partition by range (k); create table rest partition of t default; insert into t values (5)');
            expectError(await owner.attempt("select ensure.plan_partitions_v1('t', '10', 5)"), 'NS004');
            const [row, ...more] = await plan(owner, "'t', '10', 5, move_default_rows => true");
            expect(more).toEqual([]);
            await owner.run(String(row?.statement));
            expect(await owner.run('select tableoid::regclass::text as place from t')).toEqual([{ place: 't_0000000000000' }]);
            expect(await plan(owner, "'t', '10', 5")).toEqual([]);
        }));

    test.each([["'t', '15', 5", 'NS001'], ["'t', '5', 20", 'NS008'], ["'t', '0', 5", '22023'], ["'ref', '10', 5", '42809']])('%s is %s', (args, code) =>
        withOwner(async (owner) => {
            await owner.run(`${table}; select ensure.ensure_partitions_v1('t', '10', 5)`);
            expectError(await owner.attempt(`select ensure.plan_partitions_v1(${args})`), code);
        }));
});
