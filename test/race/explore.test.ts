import { describe, expect, test } from 'vitest';
import { explore, follow, minimise, random, strayed, switchesOf, type Run, type Turn } from '../../scripts/race/explore.js';

/** Sessions with so many steps each, none of which waits; the outcome is the order. */
const free = (...steps: number[]): Run<string> => (choose) => {
    const left = [...steps];
    const turns: Turn[] = [];
    while (left.some((count) => count > 0)) {
        const runnable = [...left.keys()].filter((session) => (left[session] ?? 0) > 0);
        const chosen = choose(runnable, turns.at(-1)?.chosen);
        turns.push({ runnable, chosen });
        left[chosen] = (left[chosen] ?? 0) - 1;
    }
    return Promise.resolve({ turns, outcome: turns.map((turn) => turn.chosen).join('') });
};
const never = (): boolean => false;
const all = { orders: 1_000_000, seed: 1 };

describe('every order is run once', () => {
    test.each([[[2, 2], 6], [[3, 2], 10], [[1, 1, 1], 6], [[2, 2, 2], 90], [[4, 4], 70], [[5], 1]])('of %j steps there are %i', async (steps, count) => {
        const { runs, complete } = await explore(free(...steps), all, never);
        expect(complete).toBe(true);
        expect(new Set(runs.map(({ outcome }) => outcome)).size).toBe(count);
        expect(runs).toHaveLength(count);
    });

    test('with at most so many switches: those and no others', async () => {
        const { runs } = await explore(free(3, 3), all, never);
        for (const switches of [0, 1, 2, 3]) {
            const some = await explore(free(3, 3), { ...all, switches }, never);
            expect(some.runs.map(({ outcome }) => outcome).sort()).toEqual(runs.filter(({ turns }) => switchesOf(turns) <= switches).map(({ outcome }) => outcome).sort());
        }
    });
});

describe('a sample', () => {
    test('has as many orders as asked, no order twice, and the same ones for the same seed', async () => {
        const sample = async (seed: number): Promise<string[]> => (await explore(free(5, 5, 5), { orders: 50, seed }, never)).runs.map(({ outcome }) => outcome);
        const first = await sample(7);
        expect(first).toHaveLength(50);
        expect(new Set(first).size).toBe(50);
        expect(await sample(7)).toEqual(first);
        expect(await sample(8)).not.toEqual(first);
    });

    test('says that it is not all', async () => {
        expect((await explore(free(5, 5), { orders: 10, seed: 1 }, never)).complete).toBe(false);
    });

    test('so does one of whose orders one could not be followed', async () => {
        let runs = 0;
        const shifting: Run<string> = (choose) => free(...(runs++ === 1 ? [2] : [2, 2]))(choose);
        expect(await explore(shifting, all, never)).toMatchObject({ diverged: 1, complete: false });
    });

    test('numbers of a seed lie between 0 and 1 and differ', () => {
        const next = random(42);
        const numbers = Array.from({ length: 1000 }, next);
        expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
        expect(Math.max(...numbers)).toBeLessThan(1);
        expect(new Set(numbers).size).toBeGreaterThan(990);
    });
});

test('it stops at the first order that fails', async () => {
    const { runs, complete } = await explore(free(3, 3), all, (order) => order.startsWith('01'));
    expect(runs.at(-1)?.outcome.startsWith('01')).toBe(true);
    expect(complete).toBe(false);
    expect(runs.filter(({ outcome }) => outcome.startsWith('01'))).toHaveLength(1);
});

test('an order that cannot be followed is counted, and goes on as it may', async () => {
    const { turns, outcome } = await free(1, 2)(follow([0, 0, 1, 1]));
    expect(outcome).toBe('011');
    expect(strayed([0, 0, 1, 1], turns)).toBe(2);
    expect(strayed([0, 1, 1, 1], turns)).toBe(4); // it ended before the order did
    expect(strayed([0, 1], turns)).toBe(0);
});

test.each([['010101', /0.*1.*0/, 1], ['012012', /1.*0/, 0], ['010011', /^01/, 1]])('%s, which fails as %s, is made as small as it goes: %i switches', async (order, fault, switches) => {
    const steps = [0, 1, 2].map((session) => [...order].filter((one) => Number(one) === session).length).filter((count) => count > 0);
    const fails = (outcome: string): boolean => fault.test(outcome);
    const { turns } = await free(...steps)(follow([...order].map(Number)));
    expect(fails(order)).toBe(true);
    const small = await minimise(free(...steps), turns, fails, 100);
    expect(fails(small.turns.map(({ chosen }) => chosen).join(''))).toBe(true);
    expect(switchesOf(small.turns)).toBeLessThanOrEqual(switches);
});
