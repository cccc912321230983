import { checkOrder, type Spec } from './spec.js';
import type { Turn } from './explore.js';
import type { Stampeded } from './stampeded.js';
import type { Event, Ordered } from './stepped.js';

/** An order in words that replay it: a session's name for each turn, "a*3" for three of them. */
export function spelledOrder(spec: Spec, turns: Turn[]): string {
    const stretches: { session: number; length: number }[] = [];
    for (const { chosen } of turns) {
        const last = stretches.at(-1);
        if (last?.session === chosen) last.length += 1;
        else stretches.push({ session: chosen, length: 1 });
    }
    return stretches.map(({ session, length }) => `${spec.sessions[session]?.name}${length > 1 ? `*${length}` : ''}`).join(' ');
}

/** The reverse. */
export function parsedOrder(spec: Spec, words: string[]): number[] {
    checkOrder(spec, words);
    return words.flatMap((word) => {
        const [name, times = '1'] = word.split('*');
        return Array<number>(Number(times)).fill(spec.sessions.findIndex((session) => session.name === name));
    });
}

/** What happened, a line for each event, each session in a column of its own. */
export function script(spec: Spec, { events, invariants, failure }: Ordered): string {
    const shown = events.filter(({ what }, place) => what !== 'go' && (what !== 'pause' || switches(events, place)));
    const width = Math.max(...spec.sessions.map(({ name }) => name.length)) + 2;
    const lines = shown.map((event) => `${' '.repeat(event.session * width)}${spec.sessions[event.session]?.name}: ${sentence(spec, event)}`);
    return [...lines, ...invariants.map(({ name, holds, found }) => `invariant "${name}": ${holds ? 'holds' : `does not hold: ${found}`}`),
        ...(failure === undefined ? [] : [`failed: ${failure}`])].join('\n');
}

/** Where another session went on after a pause: the others are left out. */
const switches = (events: Event[], place: number): boolean => {
    const next = events.slice(place + 1).find(({ session, what }) => what !== 'wait' || session !== events[place]?.session);
    return next !== undefined && next.session !== events[place]?.session;
};

const oneLine = (text: string): string => text.replace(/\s+/g, ' ');

/** On one line as far as it stays what was sent: what is quoted is left as it is, and so is the end of a line with a comment. */
export const asSent = (sql: string): string => sql.replace(
    /(--[^\n]*\n)\s*|(\/\*[^]*?\*\/|--.*|\b[Ee]'(?:[^'\\]|\\[^]|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*")|(\$(?:[^\W\d]\w*)?\$)([^]*?)\3|\s+/g,
    (_, comment?: string, kept?: string, tag?: string, body?: string) => comment ?? kept ?? (tag === undefined ? ' ' : `${tag}${asSent(body ?? '')}${tag}`),
);

function sentence(spec: Spec, { what, text, waitsFor = [], code, message, sql = '' }: Event): string {
    switch (what) {
        case 'step': return `${text}: ${asSent(sql)}`;
        case 'pause': return `stopped before ${text}`;
        case 'wait': return `waits for ${waitsFor.map((other) => spec.sessions[other]?.name).join(', ')}${text.includes(':') ? `, after ${text}` : ''}`;
        case 'go': return 'goes on';
        case 'end': return `${text} ended: ${code === 'ok' ? 'ok' : `${code}: ${message}`}`;
    }
}

/** The value below which so many of a hundred are. */
export const percentile = (values: number[], percent: number): number => {
    const sorted = [...values].sort((one, other) => one - other);
    return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * percent / 100) - 1)] ?? 0;
};

/** Each bar twice as wide in milliseconds as the one before it. */
export function buckets(milliseconds: number[]): { upTo: number; count: number }[] {
    const powers = milliseconds.map((value) => Math.max(0, Math.ceil(Math.log2(value))));
    const [least, most] = powers.reduce(([low, high], power) => [Math.min(low, power), Math.max(high, power)], [Infinity, -Infinity]);
    return milliseconds.length === 0 ? [] : Array.from({ length: most - least + 1 }, (_, place) => ({
        upTo: 2 ** (least + place), count: powers.filter((power) => power === least + place).length,
    }));
}

export function stampedeText(result: Stampeded): string {
    const { isolation, connect, clients, rounds, calls, codes, messages, milliseconds, deadlocks, waits, looks, invariants, failure } = result;
    const bars = buckets(milliseconds);
    const most = Math.max(...bars.map(({ count }) => count));
    const time = (percent: number): string => percentile(milliseconds, percent).toFixed(1);
    return [
        `${clients} clients, ${rounds} rounds, ${isolation}, ${connect === 'direct' ? 'direct' : 'through PgBouncer'}: ${calls} calls`,
        ...Object.entries(codes).sort(([, one], [, other]) => other - one).map(([code, count]) => `  ${code}: ${count}${code in messages ? `, such as: ${oneLine(messages[code] ?? '')}` : ''}`),
        `  deadlocks: ${deadlocks}`,
        `  milliseconds of a call: half to ${time(50)}, 95 of 100 to ${time(95)}, the longest ${time(100)}`,
        ...bars.map(({ upTo, count }) => `    to ${String(upTo).padStart(5)}  ${'#'.repeat(Math.round(count / most * 40))} ${count}`),
        `  waited for, in ${looks} looks: ${waits.length ? '' : 'nothing was seen'}`.trimEnd(),
        ...waits.slice(0, 10).map(({ lock, looks: times }) => `    ${lock}: in ${times}`),
        ...invariants.map(({ name, holds, found, round }) => `  invariant "${name}": ${holds ? `holds in ${rounds} rounds` : `does not hold in round ${round}: ${found}`}`),
        ...(failure === undefined ? [] : [`  failed: ${failure}`]),
    ].join('\n');
}
