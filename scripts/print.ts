import type { Readable } from 'node:stream';
import Table from 'cli-table3';
import type { Sql } from 'postgres';
import { UserError } from './errors.js';

export interface Answer {
    command: string;
    count: number | null;
    columns: { name: string; type: number }[];
    rows: (string | null)[][];
}

const numericTypes = [20, 21, 23, 26, 700, 701, 790, 1700];

interface Raw extends Array<(Buffer | null)[]> {
    command: string;
    count: number | null;
    columns?: Answer['columns'];
}

/** Runs statements as one simple query; values are PostgreSQL's own text. */
export async function answers(sql: Sql, statements: string): Promise<Answer[]> {
    const result: unknown = await sql.unsafe(statements).simple().raw();
    if (!Array.isArray(result)) {
        (result as Readable).on('error', () => {}).destroy();
        throw new UserError('COPY to or from the client needs psql');
    }
    const several = Array.isArray(result[0]) && 'command' in result[0];
    return ((several ? result : [result]) as Raw[]).map((raw) => ({
        command: raw.command,
        count: raw.count,
        columns: raw.columns ?? [],
        rows: raw.map((row) => row.map((cell) => cell?.toString() ?? null)),
    }));
}

/** In the style of psql. */
export function table({ command, count, columns, rows }: Answer): string {
    if (!columns.length) return [command, command === 'INSERT' ? 0 : null, count].filter((part) => part !== null).join(' ');
    // The line below the header is the bottom line when no row follows.
    const [bottom, bottomMid] = rows.length ? ['', ''] : ['-', '+'];
    const chars = {
        top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom, 'bottom-mid': bottomMid, 'bottom-left': '',
        'bottom-right': '', left: '', 'left-mid': '', right: '', 'right-mid': '', mid: '-', 'mid-mid': '+', middle: '|',
    };
    const grid = new Table({
        chars,
        style: { head: [], border: [], compact: true },
        head: columns.map(({ name }) => ({ content: name, hAlign: 'center' })) as unknown as string[],
        colAligns: columns.map(({ type }) => (numericTypes.includes(type) ? 'right' : 'left')),
    });
    grid.push(...rows.map((row) => row.map((cell) => cell ?? '')));
    const [head = '', line = '', ...body] = grid.toString().split('\n');
    return [head, line, ...body.map((one) => one.trimEnd()), `(${rows.length} ${rows.length === 1 ? 'row' : 'rows'})`, ''].join('\n');
}

/** Rows as objects; of several statements that return rows, a list for each. */
export function json(all: Answer[]): string {
    const lists = all.filter(({ columns }) => columns.length).map(({ columns, rows }) => (
        rows.map((row) => Object.fromEntries(columns.map(({ name }, at) => [name, row[at]])))
    ));
    return JSON.stringify(lists.length > 1 ? lists : lists[0] ?? [], undefined, 2);
}

export interface ServerMessage {
    severity?: string | undefined;
    code?: string | undefined;
    message: string;
    detail?: string | undefined;
    hint?: string | undefined;
}

export function message({ severity = 'ERROR', code, message: text, detail, hint }: ServerMessage, withCode = true): string {
    return [
        `${severity}:  ${withCode && code ? `${code}: ` : ''}${text}`,
        ...(detail ? [`DETAIL:  ${detail}`] : []),
        ...(hint ? [`HINT:  ${hint}`] : []),
    ].join('\n');
}
