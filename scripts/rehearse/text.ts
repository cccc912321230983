import { message, table, type Answer } from '../print.js';
import { excerpt } from '../run/report.js';
import { everyMs, type Lock } from './locks.js';
import type { Failed, Report } from './rehearse.js';

const [text, number] = [25, 23];

const grid = (columns: [name: string, type: number][], rows: Answer['rows']): string => (
    table({ command: 'SELECT', count: rows.length, columns: columns.map(([name, type]) => ({ name, type })), rows }).trimEnd()
);
const section = (title: string, body: string): string[] => ['', title, '', body];

/** For people: what the statements returned, then what they would change, then what they locked. */
export function textOf({ statements, changes, rows, sequences, locks, lookedMs, unseen, failure }: Report): string {
    const answers = statements.filter(({ columns }) => columns.length).map(({ columns, rows: found, command, count }) => table({
        command: command ?? '', count, columns, rows: found.map((row) => columns.map(({ name }) => row[name] ?? null)),
    }).trimEnd());
    const changed = changes.flatMap(({ outcome, type, object, columns }) => {
        const told = outcome === 'altered' && !columns.length ? [{ column: '(written again, nothing differs)', from: '', to: '' }] : columns;
        const [first, ...rest] = told.length ? told.map((one) => [one.column, ...values(one)]) : [['', '', '']];
        return [[outcome, type, object, ...first ?? []], ...rest.map((one) => ['', '', '', ...one])];
    });
    return [
        ...answers.flatMap((one) => [one, '']),
        `${failure ? 'failed, and rolled back' : 'rolled back'}: ${statements.length} of ${statements.length + (failure?.statement ? 1 : 0)} statements ran`,
        ...section(`Would change${failure ? ', up to there' : ''}:`, changed.length
            ? grid([['outcome', text], ['type', text], ['object', text], ['column', text], ['from', text], ['to', text]], changed) : 'nothing in the catalogs'),
        ...rows.length ? section('Rows:', grid([['table', text], ['inserted', number], ['updated', number], ['deleted', number]],
            rows.map(({ table: name, inserted, updated, deleted }) => [name, ...[inserted, updated, deleted].map(String)]))) : [],
        ...sequences.length ? section('Not rolled back, where nextval or setval was called:', sequences.join('\n')) : [],
        ...section(`Locked until the rollback, as seen every ${everyMs} ms from outside; the last ${lookedMs} ms were to look:`, locks.length
            ? grid([['object', text], ['mode', text], ['held ms', number], ['waited ms', number], ['waited for', text]], locks.map(lockRow)) : 'nothing that others would wait for'),
        ...unseen.length ? section('Not seen:', unseen.join('\n')) : [],
    ].join('\n').replace(/^\n+/, '');
}

export const failureText = ({ statement, sqlstate, message: what, detail, hint }: Failed): string => (
    `${statement === null ? 'what a commit would check failed' : `failed: ${excerpt(statement)}`}\n${
        message({ code: sqlstate, message: what, detail: detail ?? undefined, hint: hint ?? undefined })}`
);

function lockRow({ kind, object, mode, heldMs, waitedMs, waitedFor }: Lock): (string | null)[] {
    const shown = (value: number | null): string => (value === null ? '' : String(value));
    return [kind === 'relation' ? object : `${kind} ${object}`, mode, shown(heldMs), shown(waitedMs), waitedFor.join('; ')];
}

function values({ from, to, secret }: { from: unknown; to: unknown; secret?: true }): [string, string] {
    return secret ? ['(not shown)', '(not shown)'] : [spelled(from), spelled(to)];
}

const spelled = (value: unknown): string => (value === null ? 'null' : excerpt(typeof value === 'string' ? value : JSON.stringify(value)));
