import format from 'pg-format';
import type { MigrationFile, Section } from './files.js';
import { signed, type Run } from './fence.js';
import type { Ledger } from './ledger.js';
import { nature, statements } from './statements.js';

/** Waits for locks end by themselves; a server whose client has died cancels what it was doing, behind a pooler too. */
export interface Limits {
    lockTimeoutMs: number;
    /** Servers on Linux know how to watch their client. */
    watchClient: boolean;
}

/**
 * The text that dbmate gets: the file's section with one line before its statements, where it is one transaction.
 * Lines keep their numbers, the marker's being 1.
 */
export function upCopy(file: MigrationFile, up: Section, ledger: Ledger, run: Run, limits: Limits): string {
    const own = [settings(limits), mark(ledger, file.version, run.id), ...(up.transaction ? [] : [record(ledger, file.version)])];
    return `${signed(inserted(up, own.join(' ')), run)}\n-- migrate:down\n`;
}

export function downCopy(file: MigrationFile, down: Section, ledger: Ledger, run: Run, limits: Limits): string {
    const tables = down.transaction ? [ledger.history] : [ledger.history, ledger.sql]; // as in `record`
    const forget = tables.map((table) => format(`delete from ${table} where version = %L;`, file.version));
    return `-- migrate:up\n${signed(inserted(down, [settings(limits), ...forget].join(' ')), run)}`;
}

function inserted(section: Section, line: string): string {
    if (!section.transaction && nature(section) !== 'block') return section.text;
    const text = Buffer.from(section.text.includes('\n') ? section.text : `${section.text}\n`);
    const found = statements(section);
    const settings = Array.isArray(found) ? found.findIndex(({ type }) => type !== 'VariableSetStmt') : 0;
    const leading = Array.isArray(found) ? found.slice(0, settings < 0 ? undefined : settings) : [];
    // SET TRANSACTION must come before every query.
    const last = leading.findLast(({ node }) => (node as { name?: string }).name === 'TRANSACTION');
    const at = last ? last.end : text.indexOf('\n') + 1;
    return `${text.subarray(0, at).toString()}${line} ${text.subarray(at).toString()}`;
}

function settings({ lockTimeoutMs, watchClient }: Limits): string {
    return `set local lock_timeout = ${lockTimeoutMs};${watchClient ? ' set local client_connection_check_interval = 500;' : ''}`;
}

/**
 * A file that asked for no transaction is one all the same: its row belongs to it. dbmate, which writes the row afterwards,
 * then fails on the key, and the ledger has told the truth at every moment.
 */
const record = (ledger: Ledger, version: string): string => format(`insert into ${ledger.sql} (version) values (%L);`, version);

/**
 * Says "done" in the same transaction as the file, and fails when another run has taken the file over: a run that was
 * thought dead does nothing.
 */
function mark(ledger: Ledger, version: string, run: string): string {
    return format(`do $pg_ensure$ begin update ${ledger.history} as h set applied_at = clock_timestamp(), applied_by = session_user `
        + 'where h.version = %L and h.run_id = %L and h.applied_at is null; if not found then raise exception using errcode = \'NS100\', '
        + 'message = \'another run has taken this migration over\'; end if; end $pg_ensure$;', version, run);
}
