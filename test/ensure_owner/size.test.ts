import { expect, test } from 'vitest';
import { majorOf, temporaryServer } from '../../scripts/embedded.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { expectError, missing, surroundings } from '../context.js';
import { withRoles } from '../ensure_role/roles.js';
import { install } from '../../scripts/install.js';
import { withoutGuard } from '../mutate.js';
import { autovacuumAtWork, autovacuumServer, slowVacuum } from '../ensure_partitions/autovacuum.js';
import { owners } from './objects.js';

const call = (rest = ''): string => `select object, outcome from ensure.ensure_owner_v1('app', '{a}'${rest})`;
const exists = [{ object: 'owner of schema a', outcome: 'exists' }];

test('more than the lock table holds: 54000 before anything is tried, 53200 when others fill it; the plan does it', async (context) => {
    if (!surroundings.embedded) missing(context, 'needs a server of its own: DATABASE_URL is set');
    const server = await temporaryServer(majorOf(process.env.PG), { max_connections: '20', max_locks_per_transaction: '10', max_prepared_transactions: '0' });
    try {
        await install(server.url);
        await withSessions(server.url, ['dba'], async ({ dba }) => {
            await dba.run('create role app; create schema a');
            const make = (from: number, to: number): Promise<unknown> => dba.run(`do $$ begin for i in ${from} .. ${to} loop
                execute format('create table a.t%s (i int, c1 int unique, c2 int unique, c3 int unique, c4 int unique)', i); end loop; end $$`);
            for (let from = 1; from <= 400; from += 20) await make(from, from + 19);
            const before = await dba.run(owners);
            const { hint, detail } = expectError(await dba.attempt(call()), '54000');
            expect(detail).toContain('max_locks_per_transaction is 10');
            expect(hint).toContain('ensure.plan_owner_v1');
            expect(await dba.run(owners)).toEqual(before);
            await withoutGuard(dba, '_check_locks_fit_v1', "if v_need > current_setting('max_locks_per_transaction')::integer then", 'if false then');
            expect(expectError(await dba.attempt(call()), '53200').hint).toContain('ensure.plan_owner_v1');
            expect(await dba.run(owners)).toEqual(before);
            for (const { statement } of await dba.run("select * from ensure.plan_owner_v1('app', '{a}')")) await dba.run(String(statement));
            expect(await dba.run(call())).toEqual(exists);
        });
    } finally {
        await server.stop('immediate');
    }
}, 120_000);

test('autovacuum on a table gives way; negative control: to nobody who waits for less', async (context) => {
    if (!surroundings.embedded) missing(context, 'needs a server of its own: DATABASE_URL is set');
    const server = await autovacuumServer();
    try {
        await install(server.url);
        await withSessions(server.url, ['writer', 'dba'], async ({ writer, dba }) => {
            await dba.run(`create role app; create schema a; create table a.first (); create table a.t (i int) with (${slowVacuum})`);
            await writer.run('insert into a.t select generate_series(1, 100000)');
            await writer.run('delete from a.t');
            await autovacuumAtWork(writer, dba, ['a.t']);
            const [original] = await dba.run("select pg_get_functiondef('ensure._first_wait_v1'::regproc) as source");
            await withoutGuard(dba, '_first_wait_v1', 'v_wait := greatest(v_wait, v_patience)', 'v_wait := v_wait');
            expectError(await dba.attempt(call(", max_wait => '2 s', max_block => '50 ms'")), '55P03');
            await dba.run(String(original?.source));
            expect((await dba.attempt(call(", max_wait => '20 s', max_block => '50 ms'"))).code).toBe('ok');
            expect(await dba.run(call())).toEqual(exists);
        });
    } finally {
        await server.stop('immediate');
    }
}, 120_000);

test('10,000 objects that are right already: less than a second, no lock on any of them, nothing written, in a read-only transaction', () =>
    withRoles(['dba'], async ({ dba }, { role }) => {
        await dba.run(`create role "${role('app')}"; create schema a; set role "${role('app')}"; reset role; grant all on schema a to "${role('app')}"`);
        await dba.run(`set role "${role('app')}"`);
        for (let from = 0; from < 2000; from += 250) {
            await dba.run(`do $$ begin for i in ${from} .. ${from + 249} loop execute format('create table a.t%s (i int)', i); end loop; end $$`);
        }
        for (let from = 0; from < 8000; from += 2000) {
            await dba.run(`do $$ begin for i in ${from} .. ${from + 1999} loop
                execute format('create function a.f%s() returns int language sql as ''select 1''', i); end loop; end $$`);
        }
        await dba.run('reset role');
        const own = `select object, outcome from ensure.ensure_owner_v1('${role('app')}', '{a}')`;
        await dba.run(own);
        await dba.run('begin read only');
        const began = performance.now();
        expect(await dba.run(own)).toEqual(exists);
        const ms = performance.now() - began;
        const [locks] = await dba.run(`select count(*)::int as n from pg_locks as l join pg_class as c on c.oid = l.relation
            where l.pid = pg_backend_pid() and c.relnamespace = 'a'::regnamespace`);
        await dba.run('commit');
        expect(locks?.n).toBe(0);
        if (process.env.PG_ENSURE_FIGURES) console.log(`10,001 objects already right: ${ms.toFixed(0)} ms`);
        expect(ms).toBeLessThan(1000);
    }), 120_000);
