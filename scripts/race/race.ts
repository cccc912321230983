import { defaultMajor } from '../embedded.js';
import { exitCodes, UserError } from '../errors.js';
import type { Isolation } from '../harness/stampede.js';
import { explore, follow, minimise, strayed, switchesOf, type Explored, type Turn } from './explore.js';
import { clientLanes, orderLanes, type Section } from './html.js';
import type { Opened } from './pause.js';
import { defaultTimeout } from './patience.js';
import type { Place } from './place.js';
import type { Spec, Way } from './spec.js';
import { stampeded } from './stampeded.js';
import { withOrders, type Ordered } from './stepped.js';
import { parsedOrder, script, spelledOrder, stampedeText } from './text.js';

export interface Wanted {
    orders: number;
    seed: number;
    switches?: number;
    inside?: RegExp;
    /** Before what the spec says. */
    isolation?: Isolation[];
    /** An order or round in which nothing moves for so many seconds has failed. */
    timeout?: number;
    /** Clients at once instead of orders of steps. */
    stampede?: boolean;
    clients?: number;
    rounds?: number;
    connect?: Way[];
}

/** What was run with one isolation level and one way to connect. */
export interface Part { section: Section; text: string; json: Record<string, unknown> }

/** How many, and each way in which they connect. */
export const clientsOf = (spec: Spec, wanted: Wanted): { clients: number; connects: readonly Way[] } => ({
    clients: wanted.clients ?? spec.clients ?? 8, connects: wanted.connect ?? (spec.connect.length ? spec.connect : ['direct']),
});

/** Runs the spec with each level and each way to connect. */
export async function race(spec: Spec, wanted: Wanted, place: Place, tell: (text: string) => void = () => {}): Promise<Part[]> {
    const parts: Part[] = [];
    const levels = wanted.isolation ?? (spec.isolation.length ? spec.isolation : ['read committed'] as const);
    const { connects } = clientsOf(spec, wanted);
    for (const isolation of levels) {
        for (const connect of wanted.stampede ? connects : []) {
            tell(`${isolation}, ${connect}`);
            parts.push(await crowd(place, spec, wanted, isolation, connect));
        }
        if (!wanted.stampede) parts.push(await steps(place, spec, wanted, isolation, tell));
    }
    return parts;
}

async function crowd(place: Place, spec: Spec, wanted: Wanted, isolation: Isolation, connect: Way): Promise<Part> {
    const { rounds = spec.rounds ?? 20, timeout } = wanted;
    const { clients } = clientsOf(spec, wanted);
    return place.database(async (database) => {
        const pooler = connect === 'pooler' ? await place.pooled(database) : undefined;
        const result = await stampeded(spec, database, { clients, rounds, isolation, pooler, ...(timeout !== undefined && { timeout }) });
        const { slowest, milliseconds, ...rest } = result;
        const [title = '', ...lines] = stampedeText(result).split('\n');
        return {
            text: [title, ...lines].join('\n'), json: { mode: 'stampede', ...rest, milliseconds },
            section: {
                title, failure: result.failure, lanes: clientLanes(result), shown: `the slowest round, number ${slowest.round}; waits as they were seen every few milliseconds`,
                summary: `${result.deadlocks} deadlocks.${result.waits.length ? ` Waited for: ${result.waits.slice(0, 5).map(({ lock, looks }) => `${lock} (in ${looks} of ${result.looks} looks)`).join(', ')}.` : ''}`,
                invariants: result.invariants, codes: result.codes, milliseconds, of: 'call', script: undefined,
            },
        };
    });
}

async function steps(place: Place, spec: Spec, wanted: Wanted, isolation: Isolation, tell: (text: string) => void): Promise<Part> {
    const { orders, seed, switches, inside, timeout } = wanted;
    const fails = ({ failure }: Ordered): boolean => failure !== undefined;
    return place.database(async (database) => {
        let open: Opened = { functions: 0, points: 0, closed: [] };
        const { explored, failed, tries } = await withOrders(database, spec, inside, isolation, async (counted, opening) => {
            open = opening;
            let runs = 0;
            const run: typeof counted = (choose) => {
                tell(`${isolation}: order ${runs += 1}`);
                return counted(choose);
            };
            if (spec.orders.length) {
                const found: Explored<Ordered> = { runs: [], complete: false, diverged: 0 };
                for (const words of spec.orders) {
                    const asked = parsedOrder(spec, words);
                    const done = await run(follow(asked));
                    found.runs.push(done);
                    found.diverged += Number(strayed(asked, done.turns));
                }
                return { explored: found, failed: found.runs.find(({ outcome }) => fails(outcome)), tries: 0 };
            }
            const found = await explore(run, { orders, switches, seed }, fails);
            const first = found.runs.find(({ outcome }) => fails(outcome));
            if (!first) return { explored: found, failed: undefined, tries: 0 };
            if (first.outcome.stuck) return { explored: found, failed: first, tries: 0 }; // each try would take as long
            const small = await minimise(run, first.turns, fails, 200);
            const again = await run(follow(small.turns.map(({ chosen }) => chosen)));
            return { explored: found, failed: fails(again.outcome) ? again : first, tries: small.runs };
        }, timeout === undefined ? undefined : timeout * 1000);
        const { functions, points, closed } = open;
        if (inside && !points) throw new UserError(`no PL/pgSQL function that can be opened matches --inside ${inside.source}`, exitCodes.usage);
        const opened = inside ? `, stopped at ${points} statements of ${functions} functions` : '';
        const notes = closed.map(({ name, why }) => `not opened: ${name} (${why})`);
        const runs = explored.runs.length;
        const extent = failed ? '' : spec.orders.length ? ', as asked' : explored.complete ? `, all there are${switches === undefined ? '' : ` with at most ${switches} switches`}`
            : `, a sample with seed ${seed}`;
        const milliseconds = explored.runs.map(({ outcome }) => outcome.milliseconds);
        const title = `${runs} ${runs === 1 ? 'order' : 'orders'}${extent}, ${isolation}${opened}: ${failed ? 'one fails' : 'none fails'}`;
        const details = [
            ...notes,
            ...(explored.diverged ? [`${explored.diverged} went another way than was asked: time decided, or what others did`] : []),
            ...(failed ? [`the failing order, ${ofSwitches(failed.turns)}${tries ? `, after ${tries} tries to make it smaller` : ''}`] : []),
        ];
        const again = failed && `${place.major === defaultMajor ? '' : `PG=${place.major} `}pg-ensure race ${quoted(spec.file)}${inside ? ` --inside ${quoted(inside.source)}` : ''}${timeout === undefined || timeout === defaultTimeout ? '' : ` --timeout ${timeout}`} --isolation ${quoted(isolation)} --order ${quoted(spelledOrder(spec, failed.turns))}`;
        const shown = failed ?? explored.runs.at(-1);
        const steps = failed && script(spec, failed.outcome);
        return {
            text: [title, ...details, ...(steps ? [steps, `again: ${again}`] : [])].join('\n'),
            json: {
                mode: 'stepped', isolation, orders: runs, complete: explored.complete, seed, diverged: explored.diverged, milliseconds, failure: failed?.outcome.failure,
                failed: failed && { order: spelledOrder(spec, failed.turns), again, ...failed.outcome },
            },
            section: {
                title, summary: details.join('. '), failure: failed?.outcome.failure, lanes: shown ? orderLanes(spec, shown.outcome) : [], shown: failed ? 'the failing order' : 'the last order',
                invariants: shown?.outcome.invariants ?? [], codes: {}, milliseconds, of: 'order', script: steps && `${steps}\nagain: ${again}`,
            },
        };
    });
}

const ofSwitches = (turns: Turn[]): string => {
    const switches = switchesOf(turns);
    return `with ${switches} ${switches === 1 ? 'switch' : 'switches'}`;
};

const quoted = (text: string): string => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll('\'', '\'\\\'\'')}'`);
