import format from 'pg-format';
import type { MigrationFile, Section } from './files.js';
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
export function upCopy(file: MigrationFile, up: Section, ledger: Ledger, run: string, limits: Limits): string {
    return `${inserted(up, `${settings(limits)} ${mark(ledger, file.version, run)}`)}\n-- migrate:down\n`;
}

export function downCopy(file: MigrationFile, down: Section, ledger: Ledger, limits: Limits): string {
    const forget = format(`delete from ${ledger.history} where version = %L;`, file.version);
    return `-- migrate:up\n${inserted(down, `${settings(limits)} ${forget}`)}`;
}

function inserted(section: Section, line: string): string {
    if (!section.transaction && nature(section) !== 'block') return section.text;
    const text = Buffer.from(section.text.includes('\n') ? section.text : `${section.text}\n`);
    const found = statements(section);
    const [first] = Array.isArray(found) ? found : [];
    // SET TRANSACTION must come before every query.
    const setsTransaction = first?.type === 'VariableSetStmt' && (first.node as { name?: string }).name === 'TRANSACTION';
    const at = setsTransaction ? first.end : text.indexOf('\n') + 1;
    return `${text.subarray(0, at).toString()}${line} ${text.subarray(at).toString()}`;
}

function settings({ lockTimeoutMs, watchClient }: Limits): string {
    return `set local lock_timeout = ${lockTimeoutMs};${watchClient ? ' set local client_connection_check_interval = 500;' : ''}`;
}

/**
 * Says "done" in the same transaction as the file, and fails when another run has taken the file over: a run that was
 * thought dead does nothing.
 */
function mark(ledger: Ledger, version: string, run: string): string {
    return format(`do $pg_ensure$ begin update ${ledger.history} as h set applied_at = clock_timestamp(), applied_by = session_user `
        + 'where h.version = %L and h.run_id = %L and h.applied_at is null; if not found then raise exception using errcode = \'NS100\', '
        + 'message = \'another run has taken this migration over\'; end if; end $pg_ensure$;', version, run);
}
