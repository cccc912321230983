import { defaultMajor } from '../embedded.js';
import { exitCodes, UserError } from '../errors.js';
import type { Isolation } from '../harness/stampede.js';
import { explore, follow, minimise, strayed, switchesOf, type Explored, type Turn } from './explore.js';
import { clientLanes, orderLanes, type Section } from './html.js';
import { nothingOpened } from './pause.js';
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
                title, failure: result.failure, lanes: clientLanes(result), shown: `the slowest round, number ${slowest.round}; waits as they were seen in ${slowest.seen.length} looks: a shorter one is not shown`,
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
        let open = nothingOpened();
        const { explored, failed, tries } = await withOrders(database, spec, inside, isolation, async (one, opening) => {
            open = opening;
            let runs = 0;
            const run: typeof one = (choose) => {
                tell(`${isolation}: order ${runs += 1}`);
                return one(choose);
            };
            if (spec.orders.length) {
                const found: Explored<Ordered> = { runs: [], complete: false, diverged: 0 };
                for (const words of spec.orders) {
                    const asked = parsedOrder(spec, words);
                    const done = await run(follow(asked));
                    const turn = strayed(asked, done.turns);
                    // It was kept for what happens in it, and this is something else.
                    if (turn) done.outcome.failure ??= `the order "${words.join(' ')}" was not followed: at turn ${turn} ${nameOf(spec, asked[turn - 1])} could not go on${inside ? '' : ': is --inside missing?'}`;
                    found.runs.push(done);
                    found.diverged += Number(turn > 0);
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
        const each = [...open.functions.values()];
        const points = each.reduce((sum, one) => sum + one.points, 0);
        const notes = [
            ...open.closed.map(({ name, why }) => `not opened: ${name} (${why})`),
            ...[...open.functions].flatMap(([name, { without }]) => (without.length ? [`no pause before ${counted(without.length, 'statement')} of ${name}, in line ${[...new Set(without)].join(', ')}`] : [])),
        ];
        if (inside && !points) throw new UserError([`no PL/pgSQL function that can be opened matches --inside ${inside.source}`, ...notes].join('; '), exitCodes.usage);
        const opened = inside ? `, stopped at ${counted(points, 'statement')} of ${counted(each.length, 'function')}` : '';
        const runs = explored.runs.length;
        const complete = explored.complete && !notes.length;
        const extent = failed ? '' : spec.orders.length ? ', as asked'
            : explored.complete ? `, all ${notes.length ? 'but those of what is not opened' : 'there are'}${switches === undefined ? '' : ` with at most ${counted(switches, 'switch')}`}` : `, a sample with seed ${seed}`;
        const milliseconds = explored.runs.map(({ outcome }) => outcome.milliseconds);
        const title = `${counted(runs, 'order')}${extent}, ${isolation}${opened}: ${failed ? 'one fails' : 'none fails'}`;
        const details = [
            ...notes,
            ...(explored.diverged && !spec.orders.length ? [`${explored.diverged} went another way than was asked: time decided, or what others did`] : []),
            ...(failed ? [`the failing order, ${ofSwitches(failed.turns)}${tries ? `, after ${counted(tries, 'try')} to make it smaller` : ''}`] : []),
        ];
        const order = failed && (spec.orders[explored.runs.indexOf(failed)]?.join(' ') ?? spelledOrder(spec, failed.turns));
        const again = failed && `${place.major === defaultMajor ? '' : `PG=${place.major} `}npx pg-ensure race ${quoted(spec.file)}${inside ? ` --inside ${quoted(inside.source)}` : ''}${timeout === undefined || timeout === defaultTimeout ? '' : ` --timeout ${timeout}`} --isolation ${quoted(isolation)} --order ${quoted(order ?? '')}`;
        const shown = failed ?? explored.runs.at(-1);
        const steps = failed && script(spec, failed.outcome);
        return {
            text: [title, ...details, ...(steps ? [steps, `again: ${again}`] : [])].join('\n'),
            json: {
                mode: 'stepped', isolation, orders: runs, complete, opened: { functions: each.length, statements: points, notes }, seed, diverged: explored.diverged, milliseconds, failure: failed?.outcome.failure,
                failed: failed && { order, again, ...failed.outcome },
            },
            section: {
                title, summary: details.join('. '), failure: failed?.outcome.failure, lanes: shown ? orderLanes(spec, shown.outcome) : [], shown: failed ? 'the failing order' : 'the last order',
                invariants: shown?.outcome.invariants ?? [], codes: {}, milliseconds, of: 'order', script: steps && `${steps}\nagain: ${again}`,
            },
        };
    });
}

const counted = (count: number, what: string): string => `${count} ${count === 1 ? what : what.replace(/y$/, 'ie').replace(/ch$/, 'che')}${count === 1 ? '' : 's'}`;
const ofSwitches = (turns: Turn[]): string => `with ${counted(switchesOf(turns), 'switch')}`;
const nameOf = (spec: Spec, session = 0): string => spec.sessions[session]?.name ?? '';

const quoted = (text: string): string => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll('\'', '\'\\\'\'')}'`);
