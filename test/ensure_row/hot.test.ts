import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { install } from '../../scripts/install.js';
import { pooled, withTestDatabase } from '../context.js';
import { withStandby } from '../standby.js';

const table = `create table t (id int generated always as identity primary key, k int unique, v text default 'made', low text generated always as (lower(v)) stored);
    insert into t (k) values (1)`;
const ensure = (k: number, more = ''): string => `select outcome, data from ensure.ensure_row_v1('t', jsonb_build_object('k', ${k})${more})`;
const rows = (keys: number[], more = ''): string => `select object, outcome, row_count::int from ensure.ensure_rows_v1('t',
    '${JSON.stringify(keys.map((k) => ({ k })))}'${more})`;

describe('a call that finds its row', () => {
    describe.each(isolationLevels)('%s', (isolation) => {
        test.each([
            ['one row', ensure(1)], ['one row by a named key', ensure(1, ", '{k}'")],
            ['one row with revive', ensure(1, ", revive => 'v is null'")], ['rows', rows([1])],
        ])('%s: read-only, while another holds EXCLUSIVE; no lock but ACCESS SHARE, no transaction id, no setting is left', (_what, call) =>
            withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
                await a.run(table);
                await a.run('begin; lock table t in exclusive mode');
                const settings = 'select string_agg(name || setting, $$ $$ order by name) as settings from pg_settings where name ~ $$enable|plan|jit|path|datestyle$$';
                await b.run(`begin isolation level ${isolation} read only`);
                const [before] = await b.run(settings);
                expect((await b.run(call)).map(({ outcome }) => outcome)).toEqual(['exists']);
                expect(await b.run(settings)).toEqual([before]);
                expect(await b.run(`select distinct mode from pg_locks where pid = pg_backend_pid() and mode <> 'SIReadLock' and (relation >= 16384 or locktype = 'advisory')`))
                    .toEqual([{ mode: 'AccessShareLock' }]);
                expect(await b.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
                await b.run('commit');
            })));

        test('it is found by who made it, in the same transaction', () => withTestDatabase(({ url }) => withSessions(url, ['a'], async ({ a }) => {
            await a.run(table);
            await a.run(`begin isolation level ${isolation}`);
            expect((await a.run(ensure(2))).map(({ outcome }) => outcome)).toEqual(['created']);
            expect((await a.run(ensure(2))).map(({ outcome }) => outcome)).toEqual(['exists']);
            await a.run('commit');
        })));
    });

    test('on a standby', () => withStandby({}, async ({ primary, standby, caughtUp }) => {
        await install(primary.url);
        await withSessions(primary.url, ['owner'], async ({ owner }) => {
            await owner.run(table);
            await caughtUp();
            await withSessions(standby.url, ['reader'], async ({ reader }) => {
                expect((await reader.run(ensure(1))).map(({ outcome }) => outcome)).toEqual(['exists']);
                expect((await reader.run(rows([1]))).map(({ outcome }) => outcome)).toEqual(['exists']);
                expect((await reader.attempt(ensure(2))).code).toBe('25006');
                expect((await reader.attempt(rows([1, 2]))).code).toBe('25006');
            });
        });
    }));

    test('the table itself gives defaults, generated and identity columns; all columns come back', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a'], async ({ a }) => {
            await a.run(table);
            expect(await a.run(ensure(2))).toEqual([{ outcome: 'created', data: { id: 2, k: 2, v: 'made', low: 'made' } }]);
        })));
});

describe('no id is burned and no tuple dies', () => {
    /** The last id that was given out, and where the next row is put: behind all that were ever written, dead or alive. */
    const cost = async (session: Session): Promise<Record<string, unknown> | undefined> => {
        await session.run('begin');
        const [row] = await session.run(`insert into t (id, k) overriding system value values (-1, -1)
            returning ctid::text as place, (select last_value::int from t_id_seq) as id`);
        await session.run('rollback');
        return row;
    };

    /** The place behind one on the same page; a look has itself left a row that is dead. */
    const next = (place: unknown, by = 1): string => String(place).replace(/\d+(?=\))/, (n) => String(Number(n) + by));

    test.for(['direct', 'through PgBouncer'])('8 sessions x 300 calls on 100 keys that are there, %s: nothing is written', (path, context) =>
        withTestDatabase(async (database) => withSessions(database.url, ['dba'], async ({ dba }) => {
            await dba.run(`${table}; insert into t (k) select n from generate_series(2, 100) as n`);
            const before = await cost(dba);
            const report = await stampede({
                owner: database.url, url: path === 'direct' ? database.url : pooled(context, database), callers: 8, rounds: 3,
                isolation: 'read committed', transaction: false,
                steps: (caller, round) => Array.from({ length: 100 }, (_, n) => ensure(1 + ((n * 7 + caller * 13 + round) % 100))),
            });
            expect(report.codes).toEqual({ ok: 24 });
            const all = report.outcomes.flatMap((outcome) => outcome.rows);
            expect(all.filter(({ outcome, data }) => outcome !== 'exists' || !data)).toEqual([]);
            expect(all).toHaveLength(2400);
            expect(await cost(dba)).toEqual(before && { id: before.id, place: next(before.place) });
        })));

    test.each(isolationLevels)('8 sessions, 12 new keys, each key by all at once, %s: created once, everybody gets the same row', (isolation) =>
        withTestDatabase(async (database) => withSessions(database.url, ['dba'], async ({ dba }) => {
            await dba.run(table);
            const report = await stampede({
                owner: database.url, callers: 8, rounds: 12, isolation, transaction: false,
                steps: (_caller, round) => [ensure(100 + round)],
            });
            const codes = Object.keys(report.codes).filter((code) => code !== 'ok' && !(code === '40001' && isolation !== 'read committed'));
            expect(codes).toEqual([]);
            const all = report.outcomes.flatMap((outcome) => outcome.rows);
            expect(all.filter(({ outcome }) => outcome === 'created')).toHaveLength(12);
            const ids = new Map<unknown, Set<unknown>>();
            for (const { data } of all as { data: { id: number; k: number } }[]) ids.set(data.k, (ids.get(data.k) ?? new Set()).add(data.id));
            expect([...ids.values()].filter((set) => set.size !== 1)).toEqual([]);
            expect(await dba.run('select count(*)::int as n, count(distinct k)::int as keys from t')).toEqual([{ n: 13, keys: 13 }]);
        })));

    test('negative control: a savepoint around INSERT writes a row that dies, and burns an id, each time', () =>
        withTestDatabase(async (database) => withSessions(database.url, ['dba'], async ({ dba }) => {
            await dba.run(table);
            const before = await cost(dba);
            for (let n = 0; n < 5; n++) await dba.run('do $$ begin insert into t (k) values (1); exception when unique_violation then null; end $$');
            expect(await cost(dba)).toEqual(before && { id: Number(before.id) + 5, place: next(before.place, 6) });
        })));
});
