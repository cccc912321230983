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
}

export async function ask(sql: postgres.Sql, name: string, query: string): Promise<Asked> {
    const { rows, error } = await settle(sql.unsafe(query).simple());
    const values = rows.flatMap((row) => Object.values(row));
    return { name, holds: values.length === 1 && values[0] === true, found: error ? error.message : JSON.stringify(values.length === 1 ? values[0] : rows) };
}

/** Statements of the spec that must not fail. */
export async function all(sql: postgres.Sql, spec: Spec, part: 'superuser' | 'prepare' | 'setup' | 'teardown', round = 0): Promise<void> {
    for (const statement of spec[part]) {
        const { code, error } = await settle(sql.unsafe(filled(statement, 0, round)).simple());
        if (error) throw new UserError(`${spec.file}: ${part} failed with ${code}: ${error.message}\n${statement}`);
    }
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
