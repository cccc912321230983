import format from 'pg-format';
import type { Sql } from 'postgres';
import type { Complaint } from './dbmate.js';
import type { Run } from './fence.js';
import type { MigrationFile } from './files.js';
import type { Ledger } from './ledger.js';

export interface Versions {
    pgEnsure: string;
    dbmate: string;
}

export async function isApplied(sql: Sql, ledger: Ledger, { version }: MigrationFile): Promise<boolean> {
    const rows = await sql.unsafe(format(`select from ${ledger.sql} as l where l.version = %L`, version)).simple();
    return rows.length === 1;
}

/** As dbmate writes it, where it did not come to. */
export async function record(sql: Sql, ledger: Ledger, version: string): Promise<void> {
    await sql.unsafe(format(`insert into ${ledger.sql} (version) values (%L) on conflict do nothing`, version)).simple();
}

/**
 * Whoever had begun the file can no longer say that it is done. 55P03 when one is about to say so: its transaction has
 * the row.
 */
export async function takeOver(
    sql: Sql, { history }: Ledger, { version, name, sha256 }: MigrationFile, run: Run, versions: Versions,
): Promise<void> {
    const statement = format(`
        begin;
        set local lock_timeout = '1s';
        insert into ${history} as h (version, file, sha256, run_id, pg_ensure, dbmate)
        values (%L, %L, %L, %L, %L, %L)
        on conflict (version) do update set
            file = excluded.file, sha256 = excluded.sha256, run_id = excluded.run_id,
            pg_ensure = excluded.pg_ensure, dbmate = excluded.dbmate, server = excluded.server,
            started_at = clock_timestamp(), applied_at = null, duration = null, error = null;
        commit`, version, name, sha256, run.id, versions.pgEnsure, versions.dbmate);
    try {
        await sql.unsafe(statement).simple();
    } catch (error) {
        await sql.unsafe('rollback').simple();
        throw error;
    }
}

export async function finish(sql: Sql, { history }: Ledger, { version }: MigrationFile, run: Run): Promise<void> {
    await sql.unsafe(format(`
        update ${history} as h
        set applied_at = coalesce(h.applied_at, clock_timestamp()), duration = clock_timestamp() - h.started_at
        where h.version = %L and h.run_id = %L`, version, run.id)).simple();
}

/** Nothing of the file was done. */
export async function forget(sql: Sql, { history }: Ledger, { version }: MigrationFile, run: Run): Promise<void> {
    await sql.unsafe(format(`
        delete from ${history} as h
        where h.version = %L and h.run_id = %L and h.applied_at is null`, version, run.id)).simple();
}

/** Nobody can tell what of the file was done. */
export async function remember(sql: Sql, { history }: Ledger, { version }: MigrationFile, complaint: Complaint): Promise<void> {
    const error = `${complaint.code}: ${complaint.message}`;
    await sql.unsafe(format(`update ${history} as h set error = %L where h.version = %L`, error, version)).simple();
}
