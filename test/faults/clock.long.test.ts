import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { arch } from 'node:process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test, type TestContext } from 'vitest';
import { stateFolder } from '../../scripts/database.js';
import { clientProcess } from '../../scripts/harness/faults.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { withTestDatabase } from '../context.js';
import { run, withEmptyDatabase, withFolder } from '../migrate/context.js';

const inside = 'usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1';

/** The environment of a process whose clock is off; libfaketime is fetched once, from the package of this Debian. */
async function clockOff(context: TestContext, by: string): Promise<NodeJS.ProcessEnv> {
    if (arch !== 'x64') return context.skip('libfaketime is fetched for x86-64 only');
    const home = join(stateFolder(), 'libfaketime');
    const library = join(home, inside);
    try {
        if (!existsSync(library)) {
            mkdirSync(home, { recursive: true });
            await promisify(execFile)('apt-get', ['download', 'libfaketime'], { cwd: home, timeout: 60_000 });
            for (const name of readdirSync(home).filter((file) => file.endsWith('.deb'))) execFileSync('dpkg-deb', ['-x', join(home, name), home]);
        }
    } catch (error) {
        return context.skip(`no libfaketime: ${(error as Error).message.split('\n')[0]}`);
    }
    const env = { LD_PRELOAD: library, FAKETIME: by, FAKETIME_DONT_FAKE_MONOTONIC: '1' };
    const hours = (Number(own(env, 'Date.now()')) - Date.now()) / 3_600_000;
    expect(Math.round(hours)).toBe(by === '+1d' ? 24 : -24);
    return env;
}

/** What a program with such a clock makes of an expression. */
const own = (env: NodeJS.ProcessEnv, expression: string): string => (
    spawnSync(process.execPath, ['-p', expression], { env: { ...process.env, ...env }, encoding: 'utf8' }).stdout.trim());

const table = 'create table t (at timestamptz not null) partition by range (at)';

describe.each(['+1d', '-1d'])('the clock of a client is off by a day (%s)', (by) => {
    test('ensure_partitions_v1 makes the day of the server; control: with a day of the client\'s own the row of today has no place', async (context) => {
        const env = await clockOff(context, by);
        await withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
            const client = clientProcess(url, 'off', { env });
            try {
                const insert = "insert into t values (clock_timestamp())";
                await dba.run(table);
                const { rows } = await client.attempt(`select outcome, lower_bound::date = (clock_timestamp() at time zone 'UTC')::date
                    or lower_bound::date = ((clock_timestamp() - interval '1 minute') at time zone 'UTC')::date as today from ensure.ensure_partitions_v1('t', '1 day', ahead => 1)`);
                expect(rows).toMatchObject([{ outcome: 'created', today: true }, { outcome: 'created' }]);
                expect((await dba.attempt(insert)).code).toBe('ok');

                await dba.run(`drop table t; ${table}`);
                const day = own(env, 'new Date().toISOString().slice(0, 10)');
                expect((await client.attempt(`select outcome from ensure.ensure_partitions_v1('t', '1 day', '${day}'::timestamptz, '${day}'::timestamptz)`)).code).toBe('ok');
                expect((await dba.attempt(insert)).code).toBe('23514');
            } finally {
                await client.end(); // killed, it would leave the shared memory of libfaketime behind
            }
        }));
    });

    test('pg-ensure migrate and run: the ledger has the times of the server, a file is applied once; control: times of the client\'s own are told', async (context) => {
        const env = await clockOff(context, by);
        await withEmptyDatabase(({ url }) => withFolder({ '001_a.sql': 'create table a (n int);', '002_b.sql': 'insert into a values (1);' }, async (folder) => {
            expect(await run(url, ['migrate', '--dir', folder], { env })).toMatchObject({ code: 0 });
            expect(await run(url, ['migrate', '--dir', folder])).toMatchObject({ code: 0, stdout: expect.stringMatching(/^0 applied/) as string });
            await withSessions(url, ['dba'], async ({ dba }) => {
                const [history] = await dba.run("select c.oid::regclass as name from pg_class as c where c.relname like '%\\_history' and c.relkind = 'r'");
                const times = (): Promise<object[]> => dba.run(`select version, applied_at between clock_timestamp() - interval '1 hour' and clock_timestamp() as now,
                    duration between '0' and '1 hour' as short from ${String(history?.name)} order by version`);
                expect(await times()).toEqual(['001', '002'].map((version) => ({ version, now: true, short: true })));
                expect(await dba.run('select n from a')).toEqual([{ n: 1 }]);

                const ends = own(env, 'new Date().toISOString()');
                await dba.run(`update ${String(history?.name)} set applied_at = '${ends}' where version = '001'`);
                await dba.run(`update ${String(history?.name)} set applied_at = '${ends}', duration = '${ends}'::timestamptz - applied_at where version = '002'`);
                expect(await times()).toEqual(['001', '002'].map((version) => ({ version, now: false, short: version === '001' })));
            });
        }));
        await withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
            await dba.run("create function plan_x() returns table (step int, statement text, in_transaction boolean, locks text, why text) language sql as $$ select 1, 'create table x ()', true, '', '' where to_regclass('x') is null $$");
            expect(await dba.run('select * from plan_x()')).toHaveLength(1);
            expect(await run(url, ['run', 'select * from plan_x()'], { env })).toMatchObject({ code: 0 });
            expect(await dba.run('select * from plan_x()')).toEqual([]);
        }));
    });
});
