import { spinning } from '../spinner.js';
import { message, type ServerMessage } from '../print.js';

/** What a run does, as it does it: for people a line each on stderr, with --json an object each. */
export type Event =
    | { event: 'waiting'; pid: number | null; application: string | null; since: string | null }
    | { event: 'locked'; pid: number; run: string }
    | { event: 'remnant'; pid: number; application: string; query: string }
    | { event: 'running'; step: number; statement: string; inTransaction: boolean; why: string | null }
    | { event: 'working'; step: number | null; seconds: number; progress: Progress | null }
    | { event: 'swept'; step: number; rows: number; seconds: number; perSecond: number }
    | { event: 'blocked'; step: number | null; blockers: string }
    | { event: 'retrying'; step: number | null; attempt: number; code: string; message: string }
    | { event: 'asking'; step: number; code: string; message: string }
    | { event: 'done'; step: number; seconds: number }
    | { event: 'notice'; notice: ServerMessage }
    | { event: 'warning'; message: string };

export interface Progress {
    phase: string;
    unit: string;
    done: number;
    total: number;
    perSecond: number;
    /** Seconds left in this phase; null while nobody can tell. */
    left: number | null;
}

/** A step, or, without one, asking for the plan. */
export const named = ({ step }: { step: number | null }): string => (step === null ? 'asking for the plan' : `step ${step}`);
export const counted = (count: number, one: string, more = `${one}s`): string => `${count} ${count === 1 ? one : more}`;

export type Say = (event: Event) => void;

/** Without the verifier of a password: what is told ends in logs. */
export const shown = (statement: string): string => statement.replace(/'SCRAM-SHA-256\$[^']*'/g, '…');

export const excerpt = (statement: string): string => {
    const line = shown(statement).replace(/\s+/g, ' ').trim();
    return line.length > 100 ? `${line.slice(0, 99)}…` : line;
};

function sentence(event: Event): string | undefined {
    switch (event.event) {
        case 'waiting': return event.pid === null ? 'trying again'
            : `waiting for pid ${event.pid} (${event.application}), which runs this plan since ${event.since}`;
        case 'locked': return undefined;
        case 'remnant': return `waiting for pid ${event.pid}, which a run that died left at work (${event.application})`;
        case 'running': return `step ${event.step}: ${excerpt(event.statement)}${event.why ? ` (${event.why})` : ''}`;
        case 'working': return `${named(event)} has been running for ${event.seconds.toFixed(0)} s`
            + (event.progress ? `: ${spelled(event.progress)}` : '');
        case 'swept':
            return `step ${event.step}: ${counted(event.rows, 'row')} in ${event.seconds.toFixed(0)} s, ${event.perSecond.toFixed(0)}/s`;
        case 'blocked': return `${named(event)} waits for ${event.blockers}`;
        case 'retrying': return `${named(event)}: ${event.code}: ${event.message}; nothing was done, trying again `
            + `(attempt ${event.attempt})`;
        case 'asking': return `step ${event.step}: ${event.code}: ${event.message}; asking for the plan again`;
        case 'done': return `step ${event.step} done in ${event.seconds.toFixed(3)} s`;
        case 'notice': return message(event.notice, false);
        case 'warning': return event.message;
    }
}

function spelled({ phase, unit, done, total, perSecond, left }: Progress): string {
    if (!total) return phase;
    const rate = left === null ? '' : `, ${perSecond.toFixed(0)}/s, ${left.toFixed(0)} s left in this phase`;
    return `${phase}, ${done} of ${total} ${unit}${rate}`;
}

/** Those that come again and again: one in a while is enough. */
const frequent: Event['event'][] = ['working', 'swept', 'retrying'];

/** On a terminal a spinner; else lines, of what is frequent one every 10 s; with --json one every second. */
export async function telling<T>(json: boolean, write: (line: string) => void, work: (say: Say) => Promise<T>): Promise<T> {
    const spinner = json ? undefined : await spinning('asking for the plan');
    const told = new Map<string, number>();
    const isDue = ({ event, step = 0 }: { event: string; step?: number | null }): boolean => {
        const last = told.get(`${event} ${step}`);
        if (last !== undefined && performance.now() - last < (json ? 1_000 : 10_000)) return false;
        told.set(`${event} ${step}`, performance.now());
        return true;
    };
    const say = (event: Event): void => {
        const line = json ? JSON.stringify(event) : sentence(event);
        if (!line) return;
        if (spinner && ['working', 'swept'].includes(event.event)) return void (spinner.text = line);
        if (frequent.includes(event.event) && !isDue(event)) return;
        spinner?.clear();
        write(json || event.event === 'notice' ? line : `pg-ensure: ${line}`);
    };
    try {
        return await work(say);
    } finally {
        spinner?.stop();
    }
}
