import type { IndexStmt } from 'libpg-query';
import format from 'pg-format';
import { expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { upCopy } from '../../scripts/migrate/copy.js';
import { dbmate } from '../../scripts/migrate/dbmate.js';
import { runOf } from '../../scripts/migrate/fence.js';
import { parsedFile, type Section } from '../../scripts/migrate/files.js';
import { know, probe } from '../../scripts/migrate/known.js';
import { makeLedger } from '../../scripts/migrate/ledger.js';
import type { Event } from '../../scripts/migrate/report.js';
import { migrate } from '../../scripts/migrate/run.js';
import { nature, sameIndex, statements, type Nature } from '../../scripts/migrate/statements.js';
import { withTestDatabase } from '../context.js';
import { noTransaction, rows, run, start, until, withFolder, withoutGuards, world, write } from './context.js';

const section = (text: string): Section => parsedFile('001_a.sql', `${text}\n-- migrate:down\n`).up as Section;

test('a file that waits for a lock gives up after --lock-timeout, says who has it, and is tried again until it gets it', () =>
    world({ '001_a.sql': 'create table t (id integer);' }, async ({ url, folder }) => {
        await migrate({ url, folder });
        write(folder, { '002_b.sql': 'alter table t add column v integer;' });
        await withSessions(url, ['holder'], async ({ holder }) => {
            await holder.run('begin');
            await holder.run('insert into t values (1)');
            const one = start(url, ['migrate', '--dir', folder, '--lock-timeout', '700ms', '--json']);
            expect(await one.event('retrying')).toMatchObject({ file: '002_b.sql', code: '55P03', attempt: 1 });
            expect(await one.event('blocked')).toMatchObject({ blockers: expect.stringContaining(`pid ${holder.pid} (pg-ensure test holder`) as string });
            await holder.run('commit');
            expect((await one.ended).code).toBe(0);
            await holder.run('begin');
            await holder.run('insert into t values (1, 1)');
            write(folder, { '003_c.sql': 'alter table t add column w integer;' });
            const events: Event[] = [];
            await expect(migrate({ url, folder, lockTimeoutMs: 1_500, attempts: 2, say: (event) => void events.push(event) }))
                .rejects.toThrow(/003_c.sql: 55P03: .*; it is not applied, tried 2 times\nit waited for pid \d+ \(pg-ensure test holder, idle in transaction/);
            expect(events.filter(({ event }) => event === 'applying')).toHaveLength(2);
        });
        expect(await rows(url, 'select from schema_migrations_history where version = \'003\'')).toEqual([]);
    }));

test('control: without lock_timeout the file would wait, and everybody behind it, as long as the holder likes', () => withoutGuards(
    { 'migrate/copy.js': [['set local lock_timeout = ${lockTimeoutMs};', '']] }, (cli) => world({ '001_a.sql': 'create table t (id integer);' }, async ({ url, folder }) => {
        await migrate({ url, folder });
        write(folder, { '002_b.sql': 'alter table t add column v integer;' });
        await withSessions(url, ['holder'], async ({ holder }) => {
            await holder.run('begin');
            await holder.run('insert into t values (1)');
            const one = start(url, ['migrate', '--dir', folder, '--lock-timeout', '100ms', '--json'], { cli });
            await one.event('blocked');
            await until(url, `select clock_timestamp() - query_start > interval '1 s' from pg_stat_activity where ${holder.pid} = any (pg_blocking_pids(pid))`);
            await holder.run('commit');
            expect((await one.ended).stderr).not.toContain('retrying');
        });
    })));

test('what a file without transaction is decides what can be known of it', () => {
    const natures: [Nature, string][] = [
        ['block', 'update t set n = 1'], ['block', 'update t set n = 1; call p()'], ['block', 'create index i on t (a)'], ['block', "alter type e add value 'x'"],
        ['concurrent index', 'create index concurrently i on t (a)'], ['opaque', 'create index concurrently on t (a)'],
        ['repeatable', 'vacuum t'], ['repeatable', 'drop index concurrently if exists i'], ['repeatable', 'reindex index concurrently i'],
        ['opaque', 'drop index concurrently i'], ['opaque', 'call p()'], ['opaque', 'do $$ begin commit; end $$'], ['opaque', 'begin; update t set n = 1; commit'],
        ['repeatable', 'discard all'], ['opaque', 'alter database d set tablespace s'], ['opaque', "create subscription s connection 'x' publication p with (connect = false)"],
        ['repeatable', 'reindex (concurrently false) table t'], ['opaque', 'alter table t detach partition p concurrently'], ['opaque', 'create database d'], ['opaque', 'syntax error'],
    ];
    for (const [expected, text] of natures) expect([text, nature(section(`-- migrate:up transaction:false\n${text}`))]).toEqual([text, expected]);
});

test('a block writes its row of the ledger in its own transaction: a run that died right after it has told the truth', () =>
    world({ '001_a.sql': 'create table c (n integer); insert into c values (0);' }, async ({ url, folder }) => {
        await migrate({ url, folder });
        const file = { name: '002_b.sql', text: noTransaction('update c set n = n + 1; update c set n = n + 1;') };
        write(folder, { [file.name]: file.text });
        await withConnection(url, async (sql) => {
            const { ledger } = await know(sql, { url, folder });
            const parsed = parsedFile(file.name, file.text);
            await sql.unsafe(format(`insert into ${ledger.history} (version, file, sha256, run_id) values ('002', %L, %L, 'dead')`, file.name, parsed.sha256));
            // What the dead run's dbmate sent to the server; its second statement, the ledger's, never came.
            await sql.unsafe(upCopy(parsed, parsed.up as Section, ledger, runOf(ledger, 'dead', false), { lockTimeoutMs: 1000, watchClient: false })).simple();
        });
        expect((await probe({ url, folder })).state).toBe('at head');
        await migrate({ url, folder });
        expect(await rows(url, 'select n from c')).toEqual([{ n: 2 }]);
        // Taken back by dbmate itself, it is pending again and is done again, whatever the dead run wrote down.
        await rows(url, "delete from schema_migrations where version = '002'");
        await migrate({ url, folder });
        expect(await rows(url, 'select n from c')).toEqual([{ n: 4 }]);
    }));

test('a file of many statements is read in a time that grows with its size', () => {
    const fastest = (count: number): number => Math.min(...[1, 2, 3].map(() => {
        const text = section(`-- migrate:up\n${"insert into t values (1, 'x');\n".repeat(count)}`);
        const begun = process.cpuUsage();
        expect(statements(text)).toHaveLength(count);
        const { user, system } = process.cpuUsage(begun); // what else the machine does takes time, not this
        return user + system;
    }));
    expect(fastest(16_000) / fastest(2_000)).toBeLessThan(30); // 8 when linear, 64 when each line is counted from the start
});

test('a run that died before its work: it is done once', () => world({ '001_a.sql': 'create table c (n integer); insert into c values (0);' }, async ({ url, folder }) => {
    await migrate({ url, folder });
    write(folder, { '002_b.sql': noTransaction('update c set n = n + 1;') });
    await rows(url, "insert into schema_migrations_history (version, file, sha256, run_id) values ('002', '002_b.sql', '', 'dead')");
    await migrate({ url, folder });
    expect(await rows(url, 'select n from c')).toEqual([{ n: 1 }]);
}));

test('a run that comes back after it was taken over does nothing', () => world({ '001_a.sql': 'create table c (n integer); insert into c values (0);' }, async ({ url, folder }) => {
    await migrate({ url, folder });
    for (const text of ['update c set n = n + 1;', noTransaction('update c set n = n + 1;')]) {
        write(folder, { '002_b.sql': text });
        await withConnection(url, async (sql) => {
            const { ledger, folder: { files } } = await know(sql, { url, folder });
            const file = files[1] as typeof files[0];
            if (!file) throw new Error('no file');
            await sql.unsafe(`insert into ${ledger.history} (version, file, sha256, run_id) values ('002', '', '', 'new') on conflict (version) do nothing`);
            const complaint = await dbmate({
                url, table: ledger.table, application: 'late', pooled: false, settings: {}, command: 'migrate', signal: new AbortController().signal,
                file: { name: file.name, text: upCopy(file, file.up as Section, ledger, runOf(ledger, 'old', false), { lockTimeoutMs: 1000, watchClient: true }) },
            });
            expect(complaint.code).toBe('NS100');
            expect(await sql`select n from c`).toEqual([{ n: 0 }]);
        });
    }
}));

test('a dead run\'s index: valid and the same is recorded, invalid is dropped and built, another one is left alone', () =>
    world({ '001_a.sql': 'create table t (id integer, v integer);' }, async ({ url, folder }) => {
        await migrate({ url, folder });
        const text = noTransaction('create index concurrently t_v on t (v);');
        write(folder, { '002_b.sql': text });
        const dead = format("insert into schema_migrations_history (version, file, sha256, run_id) values ('002', '', %L, 'dead')", parsedFile('', text).sha256);
        await rows(url, dead);
        await rows(url, 'create index t_v on t (id)');
        await expect(migrate({ url, folder })).rejects.toThrow(/42P07/);
        await rows(url, 'drop index t_v');
        await rows(url, 'create index t_v on t (v)');
        await rows(url, dead);
        const [{ oid: before } = {}] = await rows(url, "select 't_v'::regclass::oid as oid");
        await migrate({ url, folder });
        expect(await rows(url, "select 't_v'::regclass::oid as oid")).toEqual([{ oid: before }]);
        expect((await probe({ url, folder })).state).toBe('at head');
    }));

test('two index definitions are the same by their parse trees, names and schemas aside', () => {
    const [one] = statements(section('-- migrate:up\ncreate unique index concurrently if not exists i on t (a, lower(b) desc) where c')) as unknown as { node: IndexStmt }[];
    const statement = one?.node as IndexStmt;
    expect(sameIndex(statement, 'CREATE UNIQUE INDEX i ON public.t USING btree (a, lower(b) DESC) WHERE c')).toBe(true);
    for (const other of ['CREATE INDEX i ON public.t USING btree (a, lower(b) DESC) WHERE c', 'CREATE UNIQUE INDEX i ON public.t USING btree (a, lower(b)) WHERE c',
        'CREATE UNIQUE INDEX i ON public.u USING btree (a, lower(b) DESC) WHERE c', 'CREATE UNIQUE INDEX i ON public.t USING hash (a, lower(b) DESC) WHERE c']) {
        expect(sameIndex(statement, other)).toBe(false);
    }
});

test('a file of which nobody can tell what was done is not tried again', () => world({
    '001_a.sql': "create procedure p() language plpgsql as $$ begin raise lock_not_available; end $$;", '002_b.sql': noTransaction('call p();'),
}, async ({ go }) => {
    const { code, stderr } = await go('migrate', '--json');
    expect(code).toBe(1);
    expect(stderr).not.toContain('retrying');
}));

test('what a run that died has begun is said by status as long as nobody is at it', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder, go }) => {
    await migrate({ url, folder });
    write(folder, { '002_b.sql': noTransaction('call p();') });
    await rows(url, "insert into schema_migrations_history (version, file, sha256, run_id) values ('002', '', '', 'dead')");
    expect((await go('status')).stdout).toMatch(/002_b.sql is not applied, run dead began it at .* and died/);
}));

test('SET TRANSACTION at the start of a file is left first', () => world(
    { '001_a.sql': "-- serializable\nset local work_mem = '4MB'; set transaction isolation level serializable;\ncreate table seen as select current_setting('transaction_isolation') as level, current_setting('lock_timeout') as lock;" },
    async ({ url, go }) => {
        expect(await go()).toMatchObject({ code: 0 });
        expect(await rows(url, 'select * from seen')).toEqual([{ level: 'serializable', lock: '5s' }]);
    }));

test('every applied file is written down: checksum, who, when, how long, by which run and which versions', () => world({ '001_a.sql': 'select 1;' }, async ({ url, folder }) => {
    const { run: id } = await migrate({ url, folder });
    expect(await rows(url, 'select h.*, h.applied_by = session_user as mine, h.server = current_setting(\'server_version\') as here from schema_migrations_history as h')).toMatchObject([{
        version: '001', file: '001_a.sql', sha256: parsedFile('001_a.sql', '-- migrate:up\nselect 1;\n-- migrate:down\n').sha256,
        run_id: id, mine: true, here: true, dbmate: '2.36.0', pg_ensure: '0.1.0', duration: expect.stringMatching(/^00:00:0/) as string,
    }]);
}));

test('with --json a failure is a document too, with the exit code, and stderr has nothing but events', () => world({ '001_a.sql': 'select 1/0;' }, async ({ go }) => {
    const { code, stdout, stderr } = await go('migrate', '--json');
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toEqual({ error: '001_a.sql: 22012: division by zero; it is not applied', exitCode: 1 });
    for (const line of stderr.trim().split('\n')) JSON.parse(line);
}));

test('with --json stdout is one document and stderr one event a line', () => world({ '001_a.sql': 'select 1;' }, async ({ go }) => {
    const { stdout, stderr } = await go('migrate', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ state: 'at head', applied: [{ file: '001_a.sql', version: '001' }] });
    expect(stderr.trim().split('\n').map((line) => (JSON.parse(line) as Event).event)).toEqual(['connected', 'locked', 'applying', 'applied']);
}));

test('the ledger is made where it is asked for, and a project\'s own one is left alone', () => withTestDatabase(({ url }) => withFolder({ '001_a.sql': 'select 1;' }, async (folder) => {
    expect((await run(url, ['migrate', '--dir', folder, '--table', 'Odd Schema.Odd table'])).code).toBe(0);
    expect((await run(url, ['status', '--dir', folder, '--table', 'Odd Schema.Odd table'])).code).toBe(0);
    expect((await run(url, ['status', '--dir', folder])).code).toBe(10);
    expect((await run(url, ['status'])).code).toBe(0);
    for (const table of ['a.b.c', '.x', 'x'.repeat(60)]) expect((await run(url, ['status', '--dir', folder, '--table', table])).code).toBe(2);
    await withConnection(url, async (sql) => {
        const { ledger } = await know(sql, { url, folder, table: 'Odd Schema.Odd table' });
        await makeLedger(sql, ledger); // again: it is there
    });
})));
