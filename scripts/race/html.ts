import type { Spec } from './spec.js';
import type { Stampeded } from './stampeded.js';
import type { Event, Ordered } from './stepped.js';
import { buckets, percentile } from './text.js';

/** A part of the page: orders of steps, or a stampede. */
export interface Section {
    title: string;
    summary: string;
    failure: string | undefined;
    lanes: Lane[];
    /** What the lanes show. */
    shown: string;
    invariants: { name: string; holds: boolean; found: string }[];
    codes: Record<string, number>;
    milliseconds: number[];
    of: 'call' | 'order';
    script: string | undefined;
}

type Kind = 'running' | 'waiting' | 'open' | 'idle' | 'held';
export interface Lane { name: string; spans: { from: number; to: number; kind: Kind; text: string }[]; ends: { at: number; code: string }[] }

const kinds: Record<Kind, string> = {
    running: 'running', waiting: 'waiting for a lock', open: 'idle in transaction', idle: 'between steps', held: 'held at a pause',
};

const escaped = (text: string): string => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** One page without anything from elsewhere: for each section a lane for each session, the histogram, the invariants. */
export const page = (title: string, sections: Section[]): string => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title><style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1c2330; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.15rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
table { border-collapse: collapse } td { padding: .15rem 1rem .15rem 0; vertical-align: top }
pre { background: #f4f6f9; padding: .8rem; overflow-x: auto } svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #1c2330 }
.running { fill: #3b7dd8; background: #3b7dd8 } .waiting { fill: #e0a030; background: #e0a030 } .open { fill: #8d7bc9; background: #8d7bc9 }
.idle { fill: #dde3ea; background: #dde3ea } .held { fill: #b9c4d0; background: #b9c4d0 }
.bad, svg text.bad { color: #b3261e; fill: #b3261e; font-weight: 600 } .good, svg text.good { color: #1b7f3b; fill: #1b7f3b }
.legend span { display: inline-block; margin-right: 1.2rem } .legend i { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em; margin-right: .35em }
</style></head><body>
<h1>${escaped(title)}</h1>
${sections.map(section).join('\n')}
</body></html>
`;

function section({ title, summary, failure, lanes, shown, invariants, codes, milliseconds, of, script }: Section): string {
    const used = (Object.keys(kinds) as Kind[]).filter((kind) => lanes.some(({ spans }) => spans.some((span) => span.kind === kind)));
    const outcomes = Object.entries(codes).sort(([, one], [, other]) => other - one);
    return `<section><h2>${escaped(title)}</h2>
<p>${escaped(summary)}</p>
${failure === undefined ? '<p class="good">No failure.</p>' : `<p class="bad">${escaped(failure)}</p>`}
${lanes.length ? `<h3>Sessions: ${escaped(shown)}</h3>
<p class="legend">${used.map((kind) => `<span><i class="${kind}"></i>${kinds[kind]}</span>`).join('')}</p>
${drawn(lanes)}` : ''}
${invariants.length ? `<h3>Invariants</h3><table class="invariants">${invariants.map(({ name, holds, found }) => (
        `<tr><td>${escaped(name)}</td><td class="${holds ? 'good' : 'bad'}">${holds ? 'holds' : `does not hold: ${escaped(found)}`}</td></tr>`)).join('')}</table>` : ''}
${outcomes.length ? `<h3>Outcomes</h3><table>${outcomes.map(([code, count]) => `<tr><td>${escaped(code)}</td><td>${count}</td></tr>`).join('')}</table>` : ''}
${milliseconds.length ? `<h3>Milliseconds of ${of === 'call' ? 'a call' : 'an order'}</h3><p>Half to ${percentile(milliseconds, 50).toFixed(1)}, 95 of 100 to ${
        percentile(milliseconds, 95).toFixed(1)}, the longest ${percentile(milliseconds, 100).toFixed(1)}.</p>${histogram(milliseconds)}` : ''}
${script === undefined ? '' : `<h3>Script</h3><pre>${escaped(script)}</pre>`}</section>`;
}

/** What sessions did in one order. */
export function orderLanes(spec: Spec, { events, milliseconds }: Ordered): Lane[] {
    const end = Math.max(milliseconds, ...events.map(({ at }) => at));
    const names = (sessions: number[]): string => sessions.map((session) => spec.sessions[session]?.name).join(', ');
    return spec.sessions.map(({ name }, session) => {
        const own = events.filter((event) => event.session === session);
        const spans = own.flatMap((event, place) => {
            const last = place === own.length - 1;
            if (event.what === 'end' && last && !event.open) return [];
            return [{ from: event.at, to: own[place + 1]?.at ?? end, kind: kindOf(event), text: event.what === 'wait' ? `waits for ${names(event.waitsFor ?? [])}` : event.text || 'goes on' }];
        });
        return { name, spans, ends: own.filter(({ what }) => what === 'end').map(({ at, code = '' }) => ({ at, code })) };
    });
}

const kindOf = ({ what, open }: Event): Kind => (
    what === 'wait' ? 'waiting' : what === 'pause' ? 'held' : what === 'end' ? open ? 'open' : 'idle' : 'running'
);

/** What clients did in the slowest round of a stampede: steps as they saw them, waits as the server was seen. */
export function clientLanes({ clients, slowest: { steps, seen } }: Stampeded): Lane[] {
    return Array.from({ length: clients }, (_, client) => {
        const own = steps.filter((step) => step.client === client);
        const spans = own.flatMap(({ step, from, to }, place): Lane['spans'] => [
            { from, to, kind: 'running', text: step },
            ...seen.flatMap(({ at, waiting }, look): Lane['spans'] => {
                const found = waiting.find((one) => one.client === client);
                if (!found || at < from || at > to) return [];
                const whom = found.waitsFor.length ? found.waitsFor.map((other) => `client ${other}`).join(', ') : 'another';
                return [{ from: at, to: Math.min(to, seen[look + 1]?.at ?? to), kind: 'waiting', text: `waits for ${whom}` }];
            }).reduce<Lane['spans']>((joined, span) => {
                const last = joined.at(-1);
                if (last?.text === span.text && last.to >= span.from) last.to = span.to;
                else joined.push(span);
                return joined;
            }, []),
            ...(own[place + 1] ? [{ from: to, to: own[place + 1]?.from ?? to, kind: 'idle' as const, text: 'between steps' }] : []),
        ]);
        const last = own.at(-1);
        return { name: `client ${client}`, spans, ends: last ? [{ at: last.to, code: last.code }] : [] };
    });
}

function drawn(lanes: Lane[]): string {
    const [left, width] = [90, 900];
    const height = lanes.some(({ ends }) => ends.length) ? 46 : 24;
    const end = Math.max(1, ...lanes.flatMap(({ spans, ends }) => [...spans.map(({ to }) => to), ...ends.map(({ at }) => at)]));
    const x = (at: number): number => left + (at / end) * width;
    const rows = lanes.map(({ name, spans, ends }, place) => {
        const top = place * height + 4;
        const boxes = spans.map(({ from, to, kind, text }) => `<rect class="${kind}" x="${x(from).toFixed(1)}" y="${top}" width="${
            Math.max(x(to) - x(from), 1).toFixed(1)}" height="18"><title>${escaped(`${text}: ${kinds[kind]}, ${(to - from).toFixed(1)} ms`)}</title></rect>`);
        const waits = spans.filter(({ kind, from, to, text }) => kind === 'waiting' && x(to) - x(from) > text.length * 6.5)
            .map(({ from, text }) => `<text x="${(x(from) + 4).toFixed(1)}" y="${top + 13}">${escaped(text)}</text>`);
        const codes = ends.filter(({ at, code }, one) => code !== 'ok' || x(ends[one + 1]?.at ?? Infinity) - x(at) > 20)
            .map(({ at, code }) => `<text x="${x(at).toFixed(1)}" y="${top + 31}" text-anchor="end" class="${code === 'ok' ? 'good' : 'bad'}">${escaped(code)}</text>`);
        return `<g class="lane"><text x="0" y="${top + 13}">${escaped(name)}</text>${[...boxes, ...waits, ...codes].join('')}</g>`;
    });
    const total = lanes.length * height + 20;
    return `<svg role="img" aria-label="what each session did" viewBox="0 0 ${left + width + 10} ${total}">${rows.join('\n')}
<text x="${left}" y="${total - 4}">0</text><text x="${left + width}" y="${total - 4}" text-anchor="end">${end.toFixed(0)} ms</text></svg>`;
}

function histogram(milliseconds: number[]): string {
    const bars = buckets(milliseconds);
    const most = Math.max(...bars.map(({ count }) => count));
    const [left, width, height] = [90, 600, 20];
    const rows = bars.map(({ upTo, count }, place) => `<text x="0" y="${place * height + 14}">to ${upTo}</text><rect class="running" x="${left}" y="${place * height + 3}" width="${
        (count / most * width).toFixed(1)}" height="14"/><text x="${(left + count / most * width + 6).toFixed(1)}" y="${place * height + 14}">${count}</text>`);
    return `<svg class="histogram" role="img" aria-label="how long it took" viewBox="0 0 ${left + 900 + 10} ${bars.length * height + 4}">${rows.join('\n')}</svg>`;
}
