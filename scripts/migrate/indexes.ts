import type { Sql } from 'postgres';
import { withConnection } from '../connection.js';
import { UserError } from '../errors.js';
import format from 'pg-format';
import { signed, type Run } from './fence.js';
import type { InvalidIndex } from './ledger.js';
import type { Say } from './report.js';
import type { State } from './state.js';
import { concurrentIndexes, sameIndex, type ConcurrentIndex } from './statements.js';

/**
 * Takes away what a failed concurrent build has left: an index that a pending file is to build is dropped, one of an applied
 * file is built again, the copies of a failed REINDEX CONCURRENTLY are dropped.
 */
export async function repair(url: string, state: State, run: Run, stop: AbortSignal, say: Say): Promise<void> {
    const pending = state.pending.flatMap(({ up }) => concurrentIndexes(up));
    const isWanted = (index: InvalidIndex): boolean => pending.some(({ name, schema }) => (
        name === index.name && (schema === undefined ? index.visible : schema === index.schema)
    ));
    // Named as what applies files is, so that a successor finds it.
    await withConnection(url, async (sql) => {
        for (const invalid of state.invalidIndexes) {
            const { index, name, table } = invalid;
            stop.throwIfAborted();
            const drop = isWanted(invalid) || /_cc(new|old)\d*$/.test(name);
            const statement = drop ? `drop index concurrently if exists ${index}` : `reindex index concurrently ${index}`;
            say({ event: 'repairing', index, statement });
            try {
                await sql.unsafe(`${signed('-- migrate:repair', run)}\n${statement}`).simple();
            } catch (error) {
                const { code = '', message, detail = '' } = error as Error & { code?: string; detail?: string };
                if (!/^[0-9A-Z]{5}$/.test(code)) throw error;
                throw new UserError(`index ${index} on ${table} is invalid and "${statement}" fails: ${code}: ${message}${detail && ` (${detail})`}; `
                    + 'mend what it says, then run again');
            }
        }
    }, { application: run.application });
}

/** Whether the index is there, is valid, and is by its definition the one that the file builds. */
export async function isBuilt(sql: Sql, { name, table, schema, statement }: ConcurrentIndex): Promise<boolean> {
    const rows = await sql.unsafe<{ definition: string }[]>(format(`
        select pg_get_indexdef(i.indexrelid) as definition
        from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        join pg_namespace as n on n.oid = c.relnamespace
        join pg_class as t on t.oid = i.indrelid
        where i.indisvalid and c.relname = %L and t.relname = %L and coalesce(n.nspname = %L::text, pg_table_is_visible(t.oid))`,
    name, table, schema ?? null)).simple();
    return rows.length === 1 && sameIndex(statement, rows[0]?.definition ?? '');
}
