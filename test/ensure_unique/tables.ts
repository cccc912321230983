import type { Session } from '../../scripts/harness/sessions.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import type { Database } from '../../scripts/harness/databases.js';
import { withTestDatabase } from '../context.js';

/** Ten rows, two of each key; the keeper has the lower id. */
export const rows = 'select i, (i - 1) / 2, false, true from generate_series(1, 10) as i';
export const table = `
    create table t (id int primary key, k int not null, busy boolean, active boolean);
    insert into t ${rows}`;

/** With a table that refers to it: two rows for each row of t. */
export const family = `${table};
    create table c (id int primary key, t_id int not null references t on delete cascade);
    insert into c select 10 * i + n, i from generate_series(1, 10) as i, generate_series(0, 1) as n`;

/** `rest` is more arguments, by name, after a comma. */
export const ensure = (rest = '', target = 't', columns = 'k'): string =>
    `select object, outcome, row_count::int from ensure.ensure_unique_v1('${target}', '{${columns}}'${rest})`;
export const remove = ", keep => 'id', losers => 'delete'";
export const move = `${remove}, children => 'move'`;
export const retire = ", predicate => 'active', keep => 'id', losers => 'update', loser_set => 'active = false'";

export const exists = [{ object: 'public.t_k_key', outcome: 'exists', row_count: null }];
export const created = (changed: Record<string, unknown>[] = []): Record<string, unknown>[] =>
    [...changed, { object: 'public.t_k_key', outcome: 'created', row_count: null }];
export const deleted = [{ object: 'public.t', outcome: 'deleted', row_count: 5 }];

export const indexes = (target = 't'): string =>
    `select count(*)::int as n from pg_index where indrelid = '${target}'::regclass and indisunique and not indisprimary and indisvalid`;
export const keys = 'select count(*)::int as n, count(distinct k)::int as keys, sum(id)::int as ids from t';
export const deduped = [{ n: 5, keys: 5, ids: 25 }];

/**
 * Locks on tables and advisory locks, beyond what reading catalogs takes and leaves. SIReadLock keeps nobody waiting, and whether what only
 * reads under SERIALIZABLE has it depends on whether another transaction of the server is SERIALIZABLE too.
 */
export const locksOf = (pid: number): string => `
    select count(*)::int as n from pg_locks where pid = ${pid} and mode <> 'SIReadLock' and (locktype = 'advisory' or relation >= 16384)`;

export const withTable = <Name extends string>(
    names: readonly Name[], setup: string, body: (sessions: Record<Name | 'dba', Session>, database: Database) => Promise<void>,
): Promise<void> => withTestDatabase((database) =>
    withSessions(database.url, [...names, 'dba'] as (Name | 'dba')[], async (sessions) => {
        await sessions.dba.run(setup);
        await body(sessions, database);
    }));
