import type { Session } from '../../scripts/harness/sessions.js';

export const archive = `create table kept (place bigint generated always as identity primary key, run uuid not null, relation text not
    null, action text not null,
    key jsonb, old jsonb, new jsonb, archived_at timestamptz not null default now())`;

/** The statement that drops the indexes that were made: before 15 several, when nulls are equal. */
export const dropped = (rows: Record<string, unknown>[]): string =>
    `drop index ${rows.filter((row) => row.outcome === 'created').map((row) => String(row.object)).join(', ')}`;

/** Makes t unique in `columns`; what it says it did, and the run. */
export async function unique(session: Session, args: string): Promise<{ done: string[]; run: string; drop: string }> {
    const rows = await session.run(`select object, outcome, row_count is not null as counted,
        concat_ws(' ', object, outcome, row_count) as line from ensure.ensure_unique_v1(${args}, archive => 'kept')`);
    return {
        done: rows.filter((row) => row.counted && row.outcome !== 'archived').map((row) => String(row.line)),
        run: rows.find((row) => row.outcome === 'archived')?.object as string,
        drop: dropped(rows),
    };
}

export const undo = async (session: Session, run: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', object, outcome, row_count) as line from ensure.undo_unique_v1('kept', '${run}')`))
        .map((row) => String(row.line));

export const attemptUndo = (session: Session, run: string) => session.attempt(`select * from ensure.undo_unique_v1('kept', '${run}')`);

/** Every row of the tables as text, in an order of their own, under settings that do not matter. */
export async function snapshot(session: Session, ...tables: string[]): Promise<string> {
    const texts: string[] = [];
    for (const name of tables) {
        const [row] = await session.run(`select string_agg(x.line, e'\\n' order by x.line) as text from (select c::text as line
            from ${name} as c) as x`);
        texts.push(`${name}\n${String(row?.text)}`);
    }
    return texts.join('\n');
}

export const hostile = `set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -15; set bytea_output =
    'escape'; set timezone = 'Asia/Kolkata'; set xmloption = 'document'; set array_nulls = off`;
export const plain = `reset datestyle; reset intervalstyle; reset extra_float_digits; reset bytea_output; reset timezone; reset
    xmloption; reset array_nulls`;

export const family = `${archive}; create table t (id int primary key, k text, active boolean default true); insert into t values (1,
    'a'), (2, 'a'), (3, 'b'), (4, 'b'), (5, 'b'), (6, 'c');
    create table child (id int primary key, t_id int references t on delete cascade, name text, unique (t_id, name));
    create table grand (id int primary key, child_id int not null references child on delete cascade);
    insert into child select g, 1 + g % 6, g % 7 from generate_series(1, 30) g; insert into grand select g, 1 + g % 30 from
        generate_series(1, 100) g`;
export const merge = "'t', '{k}', keep => 'id', losers => 'delete', children => 'merge'";
