/** Who may go on at one point of an order, and who did. */
export interface Turn {
    runnable: number[];
    chosen: number;
}

/** What one order came to. `choose` is asked at each point; it is given who went on last. */
export type Run<Outcome> = (choose: (runnable: number[], last: number | undefined) => number) => Promise<{ turns: Turn[]; outcome: Outcome }>;

export interface Limits {
    /** At most so many orders; what is left over is sampled by the seed. */
    orders: number;
    /** How often an order may leave a session that could go on; undefined for any number. */
    switches?: number | undefined;
    seed: number;
}

export interface Explored<Outcome> {
    runs: { turns: Turn[]; outcome: Outcome }[];
    /** Whether every order was run, or every one with so many switches; not when one that was not followed may have had others behind it. */
    complete: boolean;
    /** The order was not the same when it was run again: what waits by the clock decided. */
    diverged: number;
}

/** A generator of numbers from 0 to 1 that gives the same ones for the same seed (mulberry32). */
export function random(seed: number): () => number {
    let state = seed >>> 0;
    return () => {
        state = (state + 0x6D2B79F5) >>> 0;
        let mixed = Math.imul(state ^ (state >>> 15), state | 1);
        mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
}

/** How many times an order left a session that could have gone on. */
export const switchesOf = (turns: Turn[]): number => turns.filter(({ runnable, chosen }, place) => {
    const last = turns[place - 1]?.chosen;
    return last !== undefined && last !== chosen && runnable.includes(last);
}).length;

/**
 * Every order, depth first: an order is run by its beginning, whatever follows going on with the same session, and each other choice on the
 * way is the beginning of another. With more than `orders` of them the beginnings are taken at random.
 */
export async function explore<Outcome>(run: Run<Outcome>, { orders, switches = Infinity, seed }: Limits, stop: (outcome: Outcome) => boolean): Promise<Explored<Outcome>> {
    const pick = random(seed);
    const open: (() => number[])[] = [() => []]; // not lists: of a long order there are thousands, each as long
    const found: Explored<Outcome> = { runs: [], complete: false, diverged: 0 };
    while (open.length && found.runs.length < orders) {
        const sampled = open.length + found.runs.length > orders;
        const [next] = open.splice(sampled ? Math.floor(pick() * open.length) : open.length - 1, 1);
        const beginning = next?.() ?? [];
        const { turns, outcome } = await run(follow(beginning));
        const diverged = strayed(beginning, turns) > 0;
        found.runs.push({ turns, outcome });
        found.diverged += Number(diverged);
        if (stop(outcome)) return found;
        if (diverged) continue;
        for (let place = beginning.length; place < turns.length; place += 1) {
            const { runnable, chosen } = turns[place] as Turn;
            for (const other of runnable.filter((session) => session !== chosen)) {
                const next = (): Turn[] => [...turns.slice(0, place), { runnable, chosen: other }];
                if (switches === Infinity || switchesOf(next()) <= switches) open.push(() => next().map((turn) => turn.chosen));
            }
        }
    }
    return { ...found, complete: !open.length && !found.diverged };
}

/** The first turn that is not as in `order`, from 1; 0 when it was followed to its end. */
export const strayed = (order: number[], turns: Turn[]): number => order.findIndex((wanted, place) => turns[place]?.chosen !== wanted) + 1;

/** Chooses as `order` says, then goes on with who was last, or the first who may. */
export function follow(order: number[]): (runnable: number[], last: number | undefined) => number {
    let place = 0;
    return (runnable, last) => {
        const wanted = order[place++];
        if (wanted !== undefined && runnable.includes(wanted)) return wanted;
        return last !== undefined && runnable.includes(last) ? last : runnable[0] as number;
    };
}

/** A failing order with as few switches as can be found by taking them away one at a time. */
export async function minimise<Outcome>(
    run: Run<Outcome>, turns: Turn[], fails: (outcome: Outcome) => boolean, most: number,
): Promise<{ turns: Turn[]; runs: number }> {
    let best = turns;
    let runs = 0;
    for (let shrunk = true; shrunk && runs < most;) {
        shrunk = false;
        for (const candidate of simpler(best.map(({ chosen }) => chosen))) {
            if (runs >= most) break;
            runs += 1;
            const tried = await run(follow(candidate));
            if (!fails(tried.outcome) || switchesOf(tried.turns) >= switchesOf(best)) continue;
            best = tried.turns;
            shrunk = true;
            break;
        }
    }
    return { turns: best, runs };
}

/** One session after another; then the same order with one stretch of a session moved to where that session is at work before or after. */
function* simpler(order: number[]): Generator<number[]> {
    for (const sessions of permutations([...new Set(order)])) yield sessions.flatMap((session) => order.filter((other) => other === session));
    const stretches: { session: number; length: number }[] = [];
    for (const session of order) {
        const last = stretches.at(-1);
        if (last?.session === session) last.length += 1;
        else stretches.push({ session, length: 1 });
    }
    for (let place = 1; place < stretches.length; place += 1) {
        const stretch = stretches[place] as (typeof stretches)[number];
        const without = stretches.filter((_, other) => other !== place);
        for (const target of [without.findLastIndex(({ session }, at) => at < place && session === stretch.session),
            without.findIndex(({ session }, at) => at >= place && session === stretch.session)]) {
            if (target < 0) continue;
            yield without.flatMap(({ session, length }, at) => Array<number>(length + (at === target ? stretch.length : 0)).fill(session));
        }
    }
}

function* permutations(items: number[]): Generator<number[]> {
    if (items.length < 2 || items.length > 4) {
        yield items;
        return;
    }
    for (const first of items) for (const rest of permutations(items.filter((item) => item !== first))) yield [first, ...rest];
}
