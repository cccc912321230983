import postgres from 'postgres';
import { UserError } from '../errors.js';
import type { Database } from '../harness/databases.js';
import { connectOptions, settle } from '../harness/sessions.js';
import { filled, type Spec } from './spec.js';

/** What an invariant's query came to. */
export interface Asked {
    name: string;
    holds: boolean;
    found: string;
    /** The SQLSTATE of a query that failed. */
    code?: string | undefined;
}

/**
 * In a transaction that is read only: what an invariant wrote would be there for the next one, and the next order. Rows as lists: of
 * columns that have the same name an object would have the last.
 */
export async function ask(sql: postgres.Sql, name: string, query: string): Promise<Asked> {
    try {
        await sql.unsafe('begin read only').simple();
        const result = await sql.unsafe(query).simple().values();
        if (!('command' in result)) return { name, holds: false, found: 'several statements, not one query' };
        const values = result.flat();
        return { name, holds: values.length === 1 && values[0] === true, found: JSON.stringify(values.length === 1 ? values[0] : result) };
    } catch (error) {
        const { message, code } = error as postgres.PostgresError;
        if (code === '42601') throw new UserError(`invariant "${name}" cannot be run: ${message}`);
        if (code === '25006') throw new UserError(`invariant "${name}" writes (${message}): a query must tell`);
        return { name, holds: false, found: message, code };
    } finally {
        await settle(sql.unsafe('rollback').simple());
    }
}

/** Statements of the spec that must not fail. */
export async function all(sql: postgres.Sql, spec: Spec, part: 'superuser' | 'prepare' | 'setup' | 'teardown', round = 0): Promise<void> {
    for (const statement of spec[part]) {
        const sent = filled(statement, 0, round);
        const { code, error } = await settle(sql.unsafe(sent).simple());
        if (error) throw new UserError(`${spec.file}: ${part} failed with ${code}: ${error.message}\n${around(sent, Number('position' in error ? error.position : 1) || 1)}`);
    }
}

/** The line of a statement in which it is wrong, counted from where its part begins. */
function around(statement: string, position: number): string {
    const line = [...statement].slice(0, position - 1).join('').split('\n').length;
    return `line ${line}: ${statement.split('\n')[line - 1] ?? ''}`;
}

/** What a spec does once, in a database that is new. */
export async function prepared(spec: Spec, { admin, url }: Database): Promise<void> {
    for (const [where, part] of [[admin, 'superuser'], [url, 'prepare']] as const) {
        const sql = postgres(where, connectOptions);
        try {
            await all(sql, spec, part);
        } finally {
            await sql.end({ timeout: 0 });
        }
    }
}
