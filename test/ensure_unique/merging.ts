import type { Session } from '../../scripts/harness/sessions.js';

export const call = (args: string): string => `select concat_ws(' ', object, outcome, row_count) as line
    from ensure.ensure_unique_v1(${args})`;

/** Duplicates of t.k are merged, the lowest id stays. */
export const merge = (children = 'merge', more = ''): string => call(`'t', '{k}', keep => 'id', losers => 'delete',
    children => '${children}'${more}`);

/** What was done to tables; what was done to indexes has tests of its own. */
export const lines = (rows: Record<string, unknown>[]): string[] =>
    rows.map((row) => String(row.line).replaceAll('public.', '')).filter((line) => !/ (created|exists)$/.test(line));

export const run = async (session: Session, statement: string): Promise<string[]> => lines(await session.run(statement));

/** All rows of a table in one string, by id: "1 a|2 b". */
export const rows = async (session: Session, from: string, order = '1'): Promise<string> => String((await session.run(
    `select coalesce(string_agg(x.line, '|'), '') as rows from (
         select translate(trim(row::text, '()'), ',"', ' ') as line from (select * from ${from} order by ${order})
             as row) as x`))[0]?.rows);

export const levels = `
    create table t (id int primary key, k text not null);
    create table c (id int primary key, t int references t on delete cascade, tag text, unique (t, tag));
    create table g (id int primary key, c int not null references c on delete cascade, v int, unique (c, v));
    create table h (id int primary key, g int not null references g on delete cascade, note text);
    insert into t values (1, 'a'), (2, 'a'), (3, 'b'), (4, 'a');
    insert into c values (10, 1, 'x'), (11, 2, 'x'), (12, 2, 'y'), (13, 4, 'y'), (14, 3, 'x'), (15, null, 'x');
    insert into g values (100, 10, 1), (101, 11, 1), (102, 11, 2), (103, 12, 1), (104, 13, 1), (105, 14, 1);
    insert into h values (1000, 100, 'a'), (1001, 101, 'b'), (1002, 102, 'c'), (1003, 103, 'd'), (1004, 104, 'e'),
        (1005, 105, 'f');`;

/** In a table of its own, so that what is compared is all there is. */
export const digest = async (session: Session): Promise<string[]> =>
    Promise.all(['t', 'c', 'g', 'h'].map((table) => rows(session, `(select xmin, * from ${table}) as r`, 'id')));
