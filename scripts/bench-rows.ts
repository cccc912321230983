import type postgres from 'postgres';

/** Makes t (id bigint primary key, a int, b text): keys are spread as a hash spreads them, so each page has some of the duplicates. */
export async function fill(sql: postgres.Sql, rows: number, keys: number): Promise<void> {
    await sql.unsafe('create table t (id bigint not null, a int not null, b text not null)');
    await sql.unsafe(`insert into t select row_number() over (), (k.k * 2654435761 % 2147483647)::int, 'user' || k.k
        from (select case when g.g <= ${keys} then g.g else 1 + g.g * 7919 % ${keys} end as k
              from generate_series(1, ${rows}::bigint) as g (g) order by hashint8(g.g)) as k`);
    await sql.unsafe('alter table t add primary key (id)');
    await sql.unsafe('vacuum analyze t');
}

export const settingsOf = async (sql: postgres.Sql): Promise<string> => (await sql.unsafe<{ text: string }[]>(`
    select string_agg(name || ' ' || current_setting(name), ', ' order by name) as text from pg_settings where name in ('shared_buffers',
        'work_mem', 'maintenance_work_mem', 'max_parallel_workers_per_gather', 'fsync', 'jit')`))[0]?.text ?? '';
