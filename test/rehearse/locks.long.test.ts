import { expect, test } from 'vitest';
import { stateFolder } from '../../scripts/database.js';
import { findPgBouncer, startPooler } from '../../scripts/pooler.js';
import { missing, surroundings } from '../context.js';
import { until, withoutGuards } from '../migrate/context.js';
import { rehearsal, startRehearsal, withWorld, type Rehearsal, type World } from './context.js';

test('says which relation was locked in which mode for how long; what the transaction made itself is left out', () => withWorld(async ({ url }) => {
    const { document } = await rehearsal(url, 'create table app.n (t bigint references app.t); alter table app.t add column c text; select a from app.v');
    const locks = document.locks.map(({ object, mode }) => `${object} ${mode}`);
    expect(locks).toEqual(expect.arrayContaining(['app.t AccessExclusiveLock', 'app.t ShareRowExclusiveLock', 'app.v AccessShareLock']));
    expect(locks.filter((lock) => /app\.n|pg_/.test(lock))).toEqual([]);
    for (const { heldMs, waitedMs, waitedFor } of document.locks) {
        expect([heldMs !== null && heldMs >= document.lookedMs, waitedMs, waitedFor]).toEqual([true, null, []]);
    }
}));

/** A rehearsal that waits for `other`, until a look from outside that began later has ended. */
async function waiting({ url, other }: World, sql: string, cli?: string): Promise<Rehearsal> {
    await other.run('begin; lock table app.t in access exclusive mode');
    const running = startRehearsal(url, sql, ['--lock-timeout', '60s'], cli ? { cli } : {});
    await until(url, `select true from pg_stat_activity as a where a.application_name = 'pg-ensure rehearse' and ${other.pid} = any (pg_blocking_pids(a.pid))`);
    return running;
}

const seenWaiting = (url: string): Promise<void> => until(url, `
    select true from pg_stat_activity as w join pg_stat_activity as a on a.application_name = 'pg-ensure rehearse' and a.datname = w.datname
    join pg_locks as l on l.pid = a.pid and not l.granted
    where w.application_name = 'pg-ensure rehearse watch' and w.datname = current_database() and w.state = 'idle' and w.query_start > l.waitstart`);

test('says how long it waited and for whom', () => withWorld(async (world) => {
    const { url, other } = world;
    const running = await waiting(world, 'insert into app.t (a) values (1)');
    await seenWaiting(url);
    await other.run('rollback');
    const { code, document } = await running.ended;
    expect(code).toBe(0);
    const lock = document.locks.find(({ object, mode }) => object === 'app.t' && mode === 'RowExclusiveLock');
    expect(lock?.waitedFor).toEqual([`pid ${other.pid} (pg-ensure test other, idle in transaction)`]);
    expect(lock?.waitedMs).toBeGreaterThan(0);
    expect(lock?.heldMs).not.toBeNull();
}));

test('control: without looking while statements run the wait is not seen', () => withoutGuards({
    'rehearse/locks.js': [['const loop = (async () => {', 'const loop = (async () => { return;']],
}, (cli) => withWorld(async (world) => {
    const running = await waiting(world, 'insert into app.t (a) values (1)', cli);
    await world.other.run('rollback');
    expect((await running.ended).document.locks).toContainEqual(expect.objectContaining({ object: 'app.t', mode: 'RowExclusiveLock', waitedMs: null, waitedFor: [] }));
})));

test('a row that another transaction has written is waited for too, and told', () => withWorld(async ({ url, other }) => {
    await other.run('begin; update app.t set a = 0 where id = 1');
    const running = startRehearsal(url, 'update app.t set a = 1 where id = 1', ['--lock-timeout', '60s']);
    await seenWaiting(url);
    await other.run('rollback');
    expect((await running.ended).document.locks).toContainEqual(expect.objectContaining({
        kind: 'transactionid', waitedFor: [`pid ${other.pid} (pg-ensure test other, idle in transaction)`],
    }));
}));

test('a lock that is not to be had within --lock-timeout is 55P03, exit code 1; a statement that takes too long 57014', () => withWorld(async ({ url, other }) => {
    await other.run('begin; lock table app.t in access exclusive mode');
    const { code, document } = await rehearsal(url, 'create table app.x (); insert into app.t (a) values (1)', ['--lock-timeout', '100ms']);
    expect([code, document.failure?.sqlstate, document.changes.map(({ object }) => object)]).toEqual([1, '55P03', ['app.x']]);
    await other.run('rollback');
    expect((await rehearsal(url, 'select pg_sleep(60)', ['--statement-timeout', '100ms'])).document.failure?.sqlstate).toBe('57014');
}));

const gone = "select not exists (select from pg_stat_activity where datname = current_database() and application_name = 'pg-ensure rehearse')";
const deed = "create table app.x (); drop view app.v; insert into app.t (a) values (1)";

test('kill -9 in the middle, while it waits: the server notices, and nothing is left behind', () => withWorld(async (world) => {
    const { url, other, state } = world;
    const before = await state();
    const running = await waiting(world, deed);
    running.kill('SIGKILL');
    await running.ended;
    await until(url, gone); // the lock it waits for is still held
    await other.run('rollback');
    expect(await state()).toBe(before);
}));

test('control: without watching for its client it waits on for nobody', () => withoutGuards({
    'rehearse/rehearse.js': [['set local client_connection_check_interval = 500', '']],
}, (cli) => withWorld(async (world) => {
    const { url, other } = world;
    const running = await waiting(world, deed, cli);
    running.kill('SIGKILL');
    await running.ended;
    await until(url, `select true from pg_stat_activity as a where a.application_name = 'pg-ensure rehearse' and a.datname = current_database()
        and clock_timestamp() - a.query_start > interval '2 s'`);
    await other.run('rollback');
})));

test('SIGINT ends it in the server, exit code 130', () => withWorld(async (world) => {
    const { url, other, state } = world;
    const before = await state();
    const running = await waiting(world, deed);
    running.kill('SIGINT');
    expect((await running.ended).code).toBe(130);
    await until(url, gone);
    await other.run('rollback');
    expect(await state()).toBe(before);
}));

test('behind a pool of 1 there is no second connection: exit code 12 before anything is run', (context) => withoutGuards({
    'rehearse/outside.js': [['patienceMs = 15_000', 'patienceMs = 1_000']], // the same, sooner
}, (cli) => withWorld(async ({ database, state }) => {
    const pgbouncer = await findPgBouncer(stateFolder());
    if ('missing' in pgbouncer) return missing(context, pgbouncer.missing);
    const { admin, owner, ownerPassword } = surroundings.server;
    const { hostname: host, port } = new URL(admin);
    const pooler = await startPooler({ pgbouncer, server: { host, port: Number(port || 5432) }, users: [{ name: owner, password: ownerPassword }], poolSize: 1 });
    try {
        const before = await state();
        const { code, document } = await rehearsal(pooler.url(database.name, owner, ownerPassword), deed, [], { cli });
        expect([code, document.statements]).toEqual([12, []]);
        expect(document.error).toMatch(/no answer on a second connection within 1 s.*default_pool_size of 2/);
        expect(await state()).toBe(before);
    } finally {
        await pooler.stop();
    }
})));
