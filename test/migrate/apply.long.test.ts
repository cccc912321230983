import { expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { downCopy } from '../../scripts/migrate/copy.js';
import { runOf } from '../../scripts/migrate/fence.js';
import type { Section } from '../../scripts/migrate/files.js';
import { know, probe } from '../../scripts/migrate/known.js';
import { migrate } from '../../scripts/migrate/run.js';
import { noTransaction, rows, run, withEmptyDatabase, withFewFunctions, world, write, type Ended } from './context.js';


test('where nobody can tell how far a dead run came, nothing is done until a person says so; either answer goes on', () => world({
    '001_a.sql': 'create table c (n integer); insert into c values (0); create procedure p() language plpgsql as $$ begin update c set n = n + 1; commit; end $$;',
}, async ({ url, folder, go }) => {
    await migrate({ url, folder });
    write(folder, { '002_b.sql': noTransaction('call p();'), '003_c.sql': noTransaction('call p();') });
    const dead = (version: string): Promise<unknown> => rows(url, `insert into schema_migrations_history (version, file, sha256, run_id) values ('${version}', '', '', 'dead')`);
    await dead('002');
    expect(await go()).toMatchObject({ code: 1, stderr: expect.stringMatching(/pg-ensure resolve 002 --applied --dir .*, or --not-applied/) as string });
    expect(await go('resolve', '002')).toMatchObject({ code: 2 });
    expect(await go('resolve', '009', '--applied')).toMatchObject({ code: 2 });
    expect(await go('resolve', '001', '--not-applied')).toMatchObject({ code: 2, stderr: expect.stringContaining('add --yes') as string });
    expect(await rows(url, 'select n from c')).toEqual([{ n: 0 }]);
    expect((await go('resolve', '002', '--not-applied')).code).toBe(0);
    expect((await go()).code).toBe(0);
    expect(await rows(url, 'select n from c')).toEqual([{ n: 2 }]);
    write(folder, { '004_d.sql': noTransaction('call p();') });
    await dead('004');
    expect((await go('resolve', '004', '--applied')).code).toBe(0);
    expect((await go()).stdout).toMatch(/^0 applied, 4 in all/);
    expect(await rows(url, 'select n from c')).toEqual([{ n: 2 }]);
}));

test('rollback takes back the last file when it is told to, and forgets its checksum', () => world({
    '001_a.sql': '-- migrate:up\ncreate table a ();\n-- migrate:down\ndrop table a;\n', '002_b.sql': '-- migrate:up\ncreate table b ();\n-- migrate:down\nselec;\n',
}, async ({ url, folder, go }) => {
    await migrate({ url, folder });
    expect(await go('rollback', '--yes')).toMatchObject({ code: 1, stderr: expect.stringContaining('002_b.sql:4: 42601') as string });
    expect((await go('status')).code).toBe(0);
    write(folder, { '002_b.sql': '-- migrate:up\ncreate table b ();\n-- migrate:down\ndrop table b;\n' });
    expect(await go('rollback', '--yes')).toMatchObject({ code: 11, stderr: expect.stringContaining('was edited') as string });
    expect((await go('resolve', '002', '--applied')).code).toBe(0);
    expect(await go('rollback', '--yes')).toMatchObject({ code: 0, stdout: 'rolled back 002_b.sql\n' });
    expect(await rows(url, "select to_regclass('b') as b, (select count(*)::int from schema_migrations_history) as rows")).toEqual([{ b: null, rows: 1 }]);
    expect((await go()).code).toBe(0);
}));

test('a rollback of a file without transaction takes its row out in its own transaction; resolve ends one that nobody can tell', () => world({
    '001_a.sql': '-- migrate:up transaction:false\ncreate table a (); create table b ();\n-- migrate:down transaction:false\ndrop table b; drop table a;\n',
}, async ({ url, folder, go }) => {
    await migrate({ url, folder });
    await withConnection(url, async (sql) => {
        const { ledger, folder: { files: [file] } } = await know(sql, { url, folder });
        if (!file) throw new Error('no file');
        // What dbmate sends, and dies before its own statement.
        await sql.unsafe(downCopy(file, file.down as Section, ledger, runOf(ledger, 'dead', false), { lockTimeoutMs: 1000, watchClient: false })).simple();
    });
    expect((await probe({ url, folder })).state).toBe('behind');
    expect((await go()).code).toBe(0);
    expect((await go('rollback', '--yes')).code).toBe(0);
    expect(await rows(url, "select to_regclass('a') as a")).toEqual([{ a: null }]);
    expect((await go()).code).toBe(0);
    expect((await go('resolve', '001', '--not-applied', '--yes')).code).toBe(0);
    expect((await probe({ url, folder })).state).toBe('behind');
}));

test('--reinstall replaces what an older edit installed; it asks, and what depends on a function stops it', () => withFewFunctions((cli) => withEmptyDatabase(async ({ url }) => {
    const go = (...args: string[]): Promise<Ended> => run(url, args, { cli });
    expect((await go('migrate')).code).toBe(0);
    await rows(url, "create or replace function ensure._ddl_allowed_v1() returns boolean language sql as 'select true'");
    await rows(url, "update ensure.schema_migrations_history set sha256 = 'older' where version = '20261120000150'");
    expect((await go('status')).code).toBe(11);
    expect((await go('verify')).stdout).toMatch(/_ddl_allowed_v1 is installed with another body/);
    expect((await go('migrate')).stderr).toContain('pg-ensure migrate --reinstall');
    expect(await go('migrate', '--reinstall')).toMatchObject({ code: 2, stderr: expect.stringContaining('add --yes') as string });
    await rows(url, 'create view depends as select ensure._ddl_allowed_v1() as x');
    expect(await go('migrate', '--reinstall', '--yes')).toMatchObject({ code: 1, stderr: expect.stringMatching(/2BP01: .*view depends depends on.*nothing was changed/) as string });
    await rows(url, 'drop view depends');
    expect(await go('migrate', '--reinstall', '--yes')).toMatchObject({ code: 0 });
    expect((await go('verify')).code).toBe(0);
    await rows(url, 'drop function ensure.check_install_v1(integer)');
    expect((await go('verify')).stdout).toContain('function ensure.check_install_v1 is not installed');
})));

test('--reinstall drops functions of schema ensure alone, wherever the ledger is', () => withFewFunctions((cli) => withEmptyDatabase(async ({ url }) => {
    const go = (...args: string[]): Promise<Ended> => run(url, args, { cli });
    await rows(url, "create function public.mine_v1() returns integer language sql as 'select 1'");
    const table = ['--table', 'public.ledger'];
    expect((await go('migrate', ...table)).code).toBe(0);
    expect((await go('migrate', '--reinstall', '--yes', ...table)).code).toBe(0);
    expect(await rows(url, 'select public.mine_v1() as one')).toEqual([{ one: 1 }]);
})));

test('an invalid index of the same name in another schema is nobody\'s here', () => world({
    '001_a.sql': 'create table t (id integer); create schema other; create table other.t (id integer); insert into other.t values (1), (1);',
    '002_b.sql': noTransaction('create unique index concurrently t_id on t (id);'),
}, async ({ url, go }) => {
    expect((await go()).code).toBe(0);
    await expect(rows(url, 'create unique index concurrently t_id on other.t (id)')).rejects.toMatchObject({ code: '23505' });
    expect((await go('status')).code).toBe(0);
    expect((await go()).code).toBe(0);
    expect(await rows(url, 'select count(*)::int as n from pg_index as i where not i.indisvalid')).toEqual([{ n: 1 }]);
}));

test('an invalid index is dropped for the file that builds it, not for one of the same name elsewhere', () => world({
    '001_a.sql': 'create table t (id integer); create schema other; create table other.t (id integer); insert into other.t values (1), (1);',
    '002_b.sql': noTransaction('create unique index concurrently t_id on other.t (id);'),
}, async ({ url, folder, go }) => {
    expect((await go()).code).toBe(1);
    await rows(url, "insert into schema_migrations values ('002')");
    write(folder, { '003_c.sql': noTransaction('create unique index concurrently t_id on public.t (id);') });
    expect(await go()).toMatchObject({ code: 1, stderr: expect.stringContaining('"reindex index concurrently other.t_id" fails: 23505') as string });
    await rows(url, 'truncate other.t');
    expect((await go()).code).toBe(0);
    expect(await rows(url, 'select count(*)::int as n from pg_index as i where i.indisunique and i.indisvalid and i.indrelid::regclass::text in (\'t\', \'other.t\')')).toEqual([{ n: 2 }]);
}));

test('an index that somebody builds in this moment is no remnant', () => world({
    '001_a.sql': 'create table t (id integer);', '002_b.sql': noTransaction('create index concurrently t_id on t (id);'),
}, async ({ url, folder, go }) => {
    expect((await go()).code).toBe(0);
    await withSessions(url, ['writer', 'dba'], async ({ writer, dba }) => {
        await writer.run('begin; insert into t values (1)');
        const rebuilding = dba.start('reindex index concurrently t_id');
        await rebuilding.blockedBy(writer);
        expect((await probe({ url, folder })).state).toBe('at head');
        await writer.run('commit');
        expect((await rebuilding.outcome()).code).toBe('ok');
    });
}));
