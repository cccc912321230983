import type { Session } from '../../scripts/harness/sessions.js';

export { rows } from '../ensure_unique/merging.js';
export { archive, attemptUndo, snapshot } from '../ensure_unique/undoing.js';
export { locksOf, withTable } from '../ensure_unique/tables.js';

/** Rows by id: `merge(1, [2, 3])` keeps 1; lists of keepers beside lists of losers for several groups. `rest` follows a comma. */
export const names = (ids: number | number[]): string => (
    Array.isArray(ids) ? `[${ids.map((id) => `{"id": ${id}}`).join(', ')}]` : `{"id": ${ids}}`
);
export const merge = (keeper: number | number[], losers: number | number[], rest = '', target = 't'): string =>
    `select object, outcome, row_count::int from ensure.merge_rows_v1('${target}', '${names(keeper)}', '${names(losers)}'${rest})`;
export const plan = (keeper: number | number[], losers: number | number[], rest = '', target = 't'): string =>
    `select * from ensure.plan_merge_rows_v1('${target}', '${names(keeper)}', '${names(losers)}'${rest})`;

export const lines = (done: Record<string, unknown>[]): string[] => done
    .map(({ object, outcome, row_count: count }) => `${String(object).replace('public.', '')} ${String(outcome)} ${typeof count === 'number' || typeof count === 'string' ? count : ''}`.trim())
    .filter((line) => !line.includes(' archived '));
export const run = async (session: Session, statement: string): Promise<string[]> => lines(await session.run(statement));

export const exists = [{ object: 'public.t', outcome: 'exists', row_count: null }];

/** t: 1 is kept, 2 and 3 go; of their children c two collide in unique (t_id, tag); each has a grandchild that a cascade would take. */
export const family = `
    create table t (id int primary key, name text, score int, tags text[]);
    create table c (id int primary key, t_id int not null references t on delete cascade, tag text, unique (t_id, tag));
    create table g (id int primary key, c_id int not null references c on delete cascade);
    insert into t values (1, 'one', 1, '{a}'), (2, null, 5, '{b,a}'), (3, 'three', null, null), (4, 'four', 4, '{}');
    insert into c values (10, 1, 'x'), (11, 2, 'x'), (12, 2, 'y'), (13, 3, 'y'), (14, 4, 'x');
    insert into g select 10 * id, id from c union all select 10 * id + 1, id from c`;
export const merged = [
    { object: 'public.c', outcome: 'deleted', row_count: 2 }, { object: 'public.c', outcome: 'moved', row_count: 1 },
    { object: 'public.g', outcome: 'moved', row_count: 4 }, { object: 'public.t', outcome: 'deleted', row_count: 2 },
];
export const counts = `select (select count(*)::int from t) as t, (select count(*)::int from c) as c, (select count(*)::int from g) as g,
    (select count(*)::int from c where t_id = 1) as kept`;
export const after = [{ t: 2, c: 3, g: 10, kept: 2 }];
export const before = [{ t: 4, c: 5, g: 10, kept: 1 }];
