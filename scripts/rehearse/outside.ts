import postgres from 'postgres';
import { connectionError, connectOptions, withoutName } from '../connection.js';
import { exitCodes, UserError } from '../errors.js';
import { unless } from '../migrate/known.js';

/** What a query with one column "found", of JSON as text, says on a connection of its own. */
export type Look = <T>(query: string) => Promise<T>;

const patienceMs = 15_000;

/** Sees what is committed. Never waits for locks for long: the transaction that it watches holds some. */
export async function withLook<T>(url: string, work: (look: Look) => Promise<T>): Promise<T> {
    const sql = postgres(withoutName(url), { ...connectOptions, connection: { application_name: 'pg-ensure rehearse watch' } });
    const look = async <Found>(query: string): Promise<Found> => {
        const late = new AbortController();
        const timer = setTimeout(() => late.abort(new UserError(`no answer on a second connection within ${patienceMs / 1000} s, which shows what `
            + 'is locked and what was there before: behind a pooler give it a default_pool_size of 2 or more, or set MIGRATION_DATABASE_URL to the '
            + 'server itself; all was rolled back', exitCodes.noDatabase)), patienceMs);
        try {
            const parts = await unless((async () => sql.unsafe(`begin; set local lock_timeout = '1s'; set local search_path = pg_catalog, pg_temp; ${query}; commit`).simple())(), late.signal);
            const [row] = (parts as unknown as { found?: string }[][]).flat();
            return JSON.parse(row?.found ?? 'null') as Found;
        } catch (error) {
            if (error instanceof postgres.PostgresError) await sql.unsafe('rollback').simple().catch(() => {});
            throw connectionError(url, error) ?? error;
        } finally {
            clearTimeout(timer);
        }
    };
    try {
        return await work(look);
    } finally {
        await sql.end({ timeout: 0 });
    }
}
