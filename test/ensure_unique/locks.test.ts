import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { temporaryServer, majorOf } from '../../scripts/embedded.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { expectError, major, surroundings, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { created, deleted, ensure, family, move, remove, retire, table } from './tables.js';

const grandchildren = `${family}; alter table c add kind int default 0; update c set kind = id % 10; create unique index on c (t_id, kind);
    create table g (id int primary key, c_id int references c); insert into g select id, id from c`;
const partitioned = `
    create table t (id int, k int not null) partition by range (k);
    create table t_0 partition of t for values from (0) to (100); insert into t select i, (i - 1) / 2 from generate_series(1, 10) as i`;

/** The situations of docs/locks.md, by the names they have there. */
const situations: Record<string, { setup: string; call: string }> = {
    'index missing, no duplicates': { setup: `${family}; delete from t where id % 2 = 0`, call: ensure() },
    'duplicates deleted': { setup: table, call: ensure(remove) },
    'duplicates deleted, children refused': { setup: `${family}; truncate c`, call: ensure(remove) },
    'duplicates updated, children left': { setup: family, call: ensure(`${retire}, children => 'leave'`) },
    'children moved': { setup: family, call: ensure(move) },
    'children merged': { setup: grandchildren, call: ensure(`${remove}, children => 'merge'`) },
    'as a constraint': { setup: family, call: ensure(`${move}, as_constraint => true`) },
    'partitioned': { setup: partitioned, call: ensure(remove) },
};

/** The strongest lock that the transaction holds on each table that was there before, beyond what reading it takes. */
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
            expect((await owner.run(call)).at(-1)).toMatchObject({ outcome: 'created' });
            const measured = (await owner.run(held)).map(({ relation, mode }) => `${String(relation)} ${String(mode)}`);
            const expected = documented.filter(([, name]) => name === situation).map(([, , relation, mode]) => `${relation} ${mode}`);
            expect(measured).toEqual(expected);
            expect(expected).not.toEqual([]);
        }));
});

describe('polite', () => {
    test.each([
        ['index missing, no duplicates', true, true],
        ['children moved', true, false],
        ['as a constraint', false, false],
    ])('%s: while the transaction is open, readers of the table go on: %s, who locks rows: %s, writers wait', (situation, readers, lockers) =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            const { setup = '', call = '' } = situations[situation] ?? {};
            await a.run(setup);
            await a.run('begin');
            await a.run(call);
            await b.run("set lock_timeout = '50ms'");
            const codes = [];
            for (const statement of ['select from t', 'select from t for update', 'update t set busy = true']) {
                codes.push((await b.attempt(statement)).code);
            }
            expect(codes).toEqual([readers ? 'ok' : '55P03', lockers ? 'ok' : '55P03', '55P03']);
            await a.run('commit');
        })));

    test('what is known to be refused is refused while others write, and locks nothing; negative control: it waits for them first', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(family);
            await a.run('begin; insert into t values (11, 11)');
            await b.run('begin');
            expect((await b.attempt(ensure(remove))).code).toBe('NS010');
            await b.run('rollback');
            await withoutGuard(b, '_check_ahead_v1', "if children = 'leave' or", 'if true or');
            const call = b.start(ensure(remove));
            await call.blockedBy(a);
            await a.run('commit');
            expect((await call.outcome()).code).toBe('NS010');
        })));

    test('nobody queues behind a call for longer than max_block, though the locks it needs are not to be had', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b', 'c'], async ({ a, b, c }) => {
            await a.run(family);
            await a.run('begin; insert into c values (1, 1)');
            const call = b.start(ensure(`${move}, max_block => '200 ms', max_wait => '60 s'`));
            await call.blockedBy(a);
            for (const statement of ['insert into t values (11, 11)', 'insert into c values (2, 1)']) {
                const began = Date.now();
                await c.run(statement);
                expect(Date.now() - began).toBeLessThan(30_000); // of 60 s that the call waits in all
            }
            await a.run('commit');
            expect((await call.outcome()).rows.at(-1)).toMatchObject({ outcome: 'created' });
        })));
});

describe('slow writers', () => {
    type Mix = (n: number, writer: number) => string[];
    const onTarget = (n: number) => [`insert into t values (${n}, ${n}, false, true)`];
    const onChild = (n: number) => [`insert into c values (${n}, ${1 + n % 10})`];
    const mixes: Record<string, Mix> = {
        'on the table': onTarget,
        'on the table, then on a child': (n) => [...onTarget(n), ...onChild(n)],
        'on a child, then on the table': (n) => [...onChild(n), ...onTarget(n)],
        'half on the table, half on a child': (n, writer) => (writer % 2 ? onTarget(n) : onChild(n)),
        'that lock rows first': (n, writer) => [`select from t where id = ${1 + writer} for update`, ...onTarget(n)],
    };

    /** How long a call took behind eight writers; what they met. */
    async function behind(dba: Session, writers: Session[], mix: Mix, length: number): Promise<{ took: number; codes: string[] }> {
        let busy = true;
        const codes = new Set<string>();
        const write = async (session: Session, writer: number): Promise<void> => {
            for (let n = 1000 + writer; busy; n += writers.length) {
                await session.run('begin');
                for (const statement of mix(n, writer)) {
                    const { code } = await session.attempt(statement);
                    codes.add(code === '23503' ? 'ok' : code); // a loser that is gone
                    if (code !== 'ok') break;
                    await session.attempt(`select pg_sleep(${length / 1000 / mix(n, writer).length})`);
                }
                codes.add((await session.attempt('commit')).code);
            }
        };
        const writing = writers.map(write);
        try {
            const began = performance.now();
            expect((await dba.attempt(ensure(`${move}, max_wait => '15 s'`))).rows.at(-1)).toMatchObject({ outcome: 'created' });
            return { took: performance.now() - began, codes: [...codes] };
        } finally {
            busy = false;
            await Promise.all(writing);
        }
    }

    const names = ['w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6', 'w7'] as const;
    describe.each(Object.keys(mixes))('%s', (what) => {
        test.each([20, 100, 200])('eight with transactions of %s ms: the call gets through within max_wait, no writer fails', (length) =>
            withTestDatabase(({ url }) => withSessions(url, [...names, 'dba'], async ({ dba, ...writers }) => {
                await dba.run(family);
                const { took, codes } = await behind(dba, Object.values(writers), mixes[what] ?? onTarget, length);
                if (process.env.PG_ENSURE_FIGURES) {
                    console.error(`${major}: behind writers of ${length} ms ${what}: ${Math.round(took)} ms, ${(took / length).toFixed(1)} transactions`);
                }
                expect(codes).toEqual(['ok']);
            })));
    });
});

describe('autovacuum', () => {
    /** A server whose autovacuum is at work on `t`, or on `c`, all the time. */
    const withAutovacuum = async (busy: string, body: (dba: Session) => Promise<void>): Promise<void> => {
        const server = await temporaryServer(majorOf(process.env.PG), { autovacuum_naptime: '1s', deadlock_timeout: '300ms' });
        try {
            await install(server.url);
            await withSessions(server.url, ['dba'], async ({ dba }) => {
                await dba.run(family);
                await dba.run(`alter table ${busy} set (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                                                        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1);
                               insert into ${busy} select i, ${busy === 't' ? 'i' : '1'} from generate_series(1000, 30000) as i;
                               delete from ${busy} where id >= 1000 and id % 2 = 0`);
                // By the session that wrote: until 14 it tells what it wrote only when it ends a statement later on.
                for (const end = Date.now() + 60_000; ;) {
                    if (Date.now() > end) throw new Error('autovacuum does not come');
                    const [row] = await dba.run(`select count(*)::int as n from pg_locks
                        where relation = '${busy}'::regclass and mode = 'ShareUpdateExclusiveLock' and granted`);
                    if (row?.n) break;
                }
                await body(dba);
            });
        } finally {
            await server.stop('immediate');
        }
    };
    const call = ensure(`${move}, max_block => '50 ms', max_wait => '30 s'`);

    test.for(['t', 'c'])('at work on %s gives way', (busy, context) => {
        if (!surroundings.embedded) context.skip('needs a server of its own with another autovacuum_naptime; DATABASE_URL is set');
        return withAutovacuum(busy, async (dba) => {
            expect((await dba.run(call)).at(-1)).toEqual(created(deleted).at(-1));
        });
    });

    test('negative control: without one wait past deadlock_timeout it never does', (context) => {
        if (!surroundings.embedded) context.skip('needs a server of its own with another autovacuum_naptime; DATABASE_URL is set');
        return withAutovacuum('c', async (dba) => {
            await withoutGuard(dba, '_first_wait_v1', 'patient and v_autovacuum', 'false and v_autovacuum');
            expect(expectError(await dba.attempt(call.replace('30 s', '2 s')), '55P03').detail).toContain('autovacuum');
        });
    });
});
