import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { withOwner, withTestDatabase } from '../context.js';

const family = `create table t (id int primary key, name text unique, main boolean); insert into t values (1, 'a', true), (2, 'b', false);
    create table c (id int primary key, t int references t on delete cascade, k int, unique (t, k)); insert into c values (1, 1, 1), (2, 2, 1);
    create table d (id int primary key, t int references t); insert into d values (1, 1);
    create table g (id int primary key, c int references c); insert into g values (1, 1)`;
const partitioned = `create table t (id int, name text, main boolean, primary key (id)) partition by range (id);
    create table t_0 partition of t for values from (0) to (100); insert into t values (1, 'a', true), (2, 'b', false)`;
const only = (rest = ''): string => `select outcome from ensure.ensure_only_v1('t', '{"id": 2}', 'main', 'main = false',
    promote => 'main = true'${rest})`;

/** The situations of docs/locks.md, by the names they have there. */
const situations: Record<string, { setup: string; call: string }> = {
    'others demoted, their children left': { setup: family, call: only() },
    'their children moved': { setup: `${family}; delete from c where id = 2`, call: only(", children => 'move'") },
    'their children in one table merged': { setup: family, call: only(", children => 'merge', child_tables => '{c}'") },
    'others demoted, in partitions': { setup: partitioned, call: only() },
};

/** The strongest lock that the transaction holds on each table, beyond what reading it takes. */
const held = `
    select c.relname as relation, (array_agg(upper(trim(regexp_replace(replace(l.mode, 'Lock', ''), '([A-Z])', ' \\1', 'g')))
               order by array_position('{RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,
                                         AccessExclusiveLock}'::text[], l.mode) desc))[1] as mode
    from pg_locks as l join pg_class as c on c.oid = l.relation
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and c.oid >= 16384 and c.relkind in ('r', 'p')
      and l.mode not in ('AccessShareLock', 'RowShareLock')
    group by 1 order by 1`;

describe('what a call holds until commit is what docs/locks.md says', () => {
    const documented = readFileSync(new URL('../../docs/locks.md', import.meta.url), 'utf8').split('\n')
        .filter((line) => line.startsWith('| ')).map((line) => line.split('|').map((cell) => cell.trim().replaceAll('`', '')));

    test.each(Object.keys(situations))('%s', (situation) =>
        withOwner(async (owner) => {
            const { setup = '', call = '' } = situations[situation] ?? {};
            await owner.run(setup);
            await owner.run('begin');
            expect((await owner.run(call))[0]).toEqual({ outcome: 'promoted' });
            const measured = (await owner.run(held)).map(({ relation, mode }) => `${String(relation)} ${String(mode)}`);
            const expected = documented.filter(([, name]) => name === situation).map(([, , relation, mode]) => `${relation} ${mode}`);
            expect(measured).toEqual(expected);
            expect(expected).not.toEqual([]);
        }));
});

describe('polite', () => {
    test('while the transaction is open readers go on; who locks rows, writes, or comes to refer to a row waits; a table that is not named is not locked', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            await a.run('begin');
            await a.run(only(", children => 'merge', child_tables => '{c}'"));
            await b.run("set lock_timeout = '50ms'");
            const codes = [];
            for (const statement of ['select from t', 'select from t for update', "insert into t values (3, 'x', true)",
                'insert into c values (3, 1, 3)', 'delete from d']) codes.push((await b.attempt(statement)).code);
            expect(codes).toEqual(['ok', '55P03', '55P03', '55P03', 'ok']);
            await a.run('commit');
        })));

    test('what is wrong with demote is said while others write, and nothing is locked for it', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            await a.run("begin; insert into t values (3, 'x', true)");
            await b.run('begin');
            expect((await b.attempt(only().replace('main = false', 'nope = false'))).code).toBe('42703');
            await a.run('commit');
        })));

    test('nobody queues behind a call for longer than max_block, though the locks it needs are not to be had', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(family);
            await a.run('begin; insert into d values (2, 2)');
            const call = b.start(only(", children => 'merge', max_block => '200 ms', max_wait => '60 s'"));
            await call.blockedBy(a);
            for (const statement of ["insert into t values (3, 'x', false)", 'insert into d values (3, 1)']) {
                const began = Date.now();
                await c.run(statement);
                expect(Date.now() - began).toBeLessThan(30_000); // of 60 s that the call waits in all
            }
            await a.run('commit');
            expect((await call.outcome()).rows[0]).toEqual({ outcome: 'promoted' });
        })));
});
