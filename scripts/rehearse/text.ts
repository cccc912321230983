import { message, table, type Answer } from '../print.js';
import { excerpt } from '../run/report.js';
import type { Change } from './changes.js';
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

type Column = Change['columns'][number];

function values({ column, from, to, secret }: Column): [string, string] {
    if (secret) return ['(not shown)', '(not shown)'];
    if (column.endsWith('acl') && (Array.isArray(from) || Array.isArray(to))) return entries(from as string[] | null, to as string[] | null);
    return where(spelled(from), spelled(to));
}

/** Of privileges those that went and those that came; null is what there is by default. */
function entries(from: string[] | null, to: string[] | null): [string, string] {
    const only = (sign: string, some: string[] | null, others: string[] | null): string => (
        some ? some.filter((one) => !others?.includes(one)).map((one) => sign + one).join(' ') : 'null'
    );
    return [only('-', from, to), only('+', to, from)];
}

const most = 100;
const lead = 20;

/** Long texts from shortly before where they begin to differ. */
function where(from: string, to: string): [string, string] {
    if (from.length <= most && to.length <= most) return [from, to];
    let same = 0;
    while (same < from.length && from[same] === to[same]) same += 1;
    const start = Math.max(0, same - lead);
    const cut = (one: string): string => (start ? '…' : '') + one.slice(start, start + most) + (one.length > start + most ? '…' : '');
    return [cut(from), cut(to)];
}

const spelled = (value: unknown): string => (
    value === null ? 'null' : (typeof value === 'string' ? value : JSON.stringify(value)).replaceAll('\n', '\\n')
);
