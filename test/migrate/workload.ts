import type { Sql } from 'postgres';
import { expect } from 'vitest';
import type { Files } from './context.js';

/** Every kind of file; each says in app.log that it ran, where its kind can. */
export const workload: Files = {
    '20260101000001_base.sql': `
        create schema app;
        create table app.log (file text not null);
        create table app.counter (n integer not null);
        create table app.big (id integer not null, v integer not null);
        insert into app.counter values (0);
        insert into app.big select i, i % 1000 from generate_series(1, 200000) as i;
        insert into app.log values ('base');`,
    '20260101000002_backfill.sql': '-- migrate:up transaction:false\nupdate app.counter set n = n + 1;\n-- migrate:down\n',
    '20260101000003_index.sql': '-- migrate:up transaction:false\ncreate index concurrently big_v on app.big (v);\n-- migrate:down\n',
    '20260101000004_alter.sql': `
        alter table app.big add column w integer not null default 0;
        grant select on app.big to public;
        insert into app.log values ('alter');`,
    '20260101000005_unique.sql': '-- migrate:up transaction:false\ncreate unique index concurrently if not exists big_id on app.big (id);\n-- migrate:down\n',
    '20260101000006_several.sql': `-- migrate:up transaction:false
        update app.counter set n = n + 10;
        select pg_sleep(0.3);
        insert into app.log values ('several');
-- migrate:down
`,
    '20260101000007_last.sql': `
        create table app.last (id integer primary key);
        insert into app.log values ('last');`,
};

/** Each file took effect exactly once, the indexes are whole, and nothing of any run is left in the server. */
export async function expectAppliedOnce(sql: Sql): Promise<void> {
    const [counter] = await sql`select n from app.counter`;
    expect(counter?.n).toBe(11);
    expect(await sql`select file from app.log order by file`).toEqual(['alter', 'base', 'last', 'several'].map((file) => ({ file })));
    expect(await sql`select c.relname::text as name, i.indisvalid as valid from pg_index as i join pg_class as c on c.oid = i.indexrelid
        where i.indrelid = 'app.big'::regclass order by 1`).toEqual([{ name: 'big_id', valid: true }, { name: 'big_v', valid: true }]);
    expect(await sql`select version from public.schema_migrations order by version`)
        .toEqual(Object.keys(workload).map((name) => ({ version: name.slice(0, 14) })));
    expect(await sql`select from public.schema_migrations_history where sha256 is not null`).toHaveLength(7);
    expect(await sql`select from pg_locks where locktype = 'advisory'
        and database = (select oid from pg_database where datname = current_database())`).toHaveLength(0);
    expect(await sql`select from pg_stat_activity where datname = current_database() and application_name like 'pg-ensure%'
        and state <> 'idle' and pid <> pg_backend_pid()`).toHaveLength(0);
}
