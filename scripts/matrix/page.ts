import { majors, type Major } from '../embedded.js';
import { ways } from '../race/spec.js';
import { isolationLevels } from '../harness/stampede.js';
import { entries, type Result, type Side } from './cells.js';
import { advice, clients, targets, type Entry } from './entry.js';
import { settings, type Ran } from './run.js';

export interface Facts {
    command: string;
    date: string;
    machine: string;
    servers: string[];
    pgbouncer: string;
    rounds: number;
    seconds: number;
}

/** Figures of one row: of one side, of all that is in it. */
interface Sum {
    calls: number;
    ok: number;
    errors: Map<string, { count: number; majors: Set<Major> }>;
    again: Map<string, { count: number; majors: Set<Major> }>;
    rounds: number;
    wrong: { count: number; majors: Set<Major> };
}

type Seen = Result & { major: Major };

function summed(results: Seen[], side: Side): Sum {
    const sum: Sum = { calls: 0, ok: 0, errors: new Map(), again: new Map(), rounds: 0, wrong: { count: 0, majors: new Set() } };
    for (const result of results) {
        if (result.side !== side) continue;
        sum.calls += result.calls;
        sum.ok += result.calls - Object.values(result.errors).reduce((total, count) => total + count, 0);
        sum.rounds += result.rounds;
        if (result.wrong) {
            sum.wrong.count += result.wrong;
            sum.wrong.majors.add(result.major);
        }
        for (const kind of ['errors', 'again'] as const) {
            for (const [code, count] of Object.entries(result[kind])) {
                const known = sum[kind].get(code) ?? { count: 0, majors: new Set<Major>() };
                sum[kind].set(code, { count: known.count + count, majors: known.majors.add(result.major) });
            }
        }
    }
    return sum;
}

const number = (count: number): string => count.toLocaleString('en-US');

/** A figure, and on which majors when not on all. */
const on = (run: number, { count, majors: some }: { count: number; majors: Set<Major> }): string => (
    `${number(count)}${some.size < run ? ` (${[...some].sort().join(', ')})` : ''}`
);
const codes = (run: number, found: Sum['errors']): string => (
    [...found].sort(([one], [other]) => one.localeCompare(other)).map(([code, figure]) => `${code}: ${on(run, figure)}`).join('; ') || '–'
);
const state = (run: number, { rounds, wrong }: Sum): string => (wrong.count ? `**wrong** in ${on(run, wrong)} of ${number(rounds)} rounds` : 'right');

/** What two rows must have in common to be shown as one, with their sums. */
const kind = (results: Seen[]): string => JSON.stringify((['ours', 'naive'] as const).map((side) => {
    const { errors, again, wrong } = summed(results, side);
    return [[...errors.keys()].sort(), [...again.keys()].sort(), wrong.count > 0];
}));

interface Row { labels: string[][]; results: Seen[] }

/** Rows that differ in one label alone and are of one kind are put together. */
function merged(rows: Row[], label: number): Row[] {
    const done: Row[] = [];
    for (const row of rows) {
        const same = done.find((other) => kind(other.results) === kind(row.results) && other.labels.every((words, place) => place === label || words.join() === row.labels[place]?.join()));
        if (same) {
            same.labels[label]?.push(...row.labels[label] ?? []);
            same.results.push(...row.results);
        } else done.push({ labels: row.labels.map((words) => [...words]), results: [...row.results] });
    }
    return done;
}

const named = (words: string[], all: readonly string[], every: string): string => (words.length === all.length && all.length > 1 ? every : words.join(', '));

function table(results: Seen[], run: number): string[] {
    const modes = ['autocommit', 'in a transaction'];
    const rows: Row[] = targets.flatMap((target) => modes.flatMap((mode, inside) => isolationLevels.flatMap((isolation) => ways.flatMap((connect) => {
        const here = results.filter((one) => one.target === target && one.isolation === isolation && one.connect === connect && one.transaction === Boolean(inside));
        return here.length ? [{ labels: [[target], [isolation], [mode], [connect]], results: here }] : [];
    }))));
    const together = merged(merged(merged(rows, 1), 3), 2);
    return [
        '| target | isolation | transaction | connection | calls | ours: told, then again | ours: errors | ours: end state | naive: again | naive: errors | naive: end state |',
        '|---|---|---|---|---:|---|---|---|---|---|---|',
        ...together.map(({ labels: [target = [], levels = [], mode = [], connect = []], results: of }) => {
            const [ours, naive] = [summed(of, 'ours'), summed(of, 'naive')];
            return `| ${[target.join(), named(levels, isolationLevels, 'all three'), named(mode, modes, 'both'), named(connect, ways, 'both'), number(ours.calls),
                codes(run, ours.again), codes(run, ours.errors), state(run, ours), codes(run, naive.again), codes(run, naive.errors), state(run, naive)].join(' | ')} |`;
        }),
    ];
}

function controls(entry: Entry, ran: Ran[]): string[] {
    const { what } = entry.control;
    const found = new Map<string, Major[]>();
    for (const { major, control: { removed, order } } of ran) {
        const text = removed === undefined ? '**no order failed**' : `in the order \`${order}\`: ${removed}`;
        found.set(text, [...found.get(text) ?? [], major]);
    }
    const orders = ran.reduce((sum, { control }) => sum + control.orders, 0);
    const guarded = ran.filter(({ control }) => control.guarded !== undefined);
    return [
        `Negative control: taken out of ${[...new Set(entry.control.guards.map(([name]) => `\`${name}\``))].join(', ')}: ${what}.`,
        ...[...found].map(([text, some]) => `On ${some.join(', ')}: ${text}.`),
        guarded.length ? `**With it an order fails** on ${guarded.map(({ major }) => major).join(', ')}.` : `With it none of ${orders} orders fails.`,
    ];
}

export function page(ran: Ran[], facts: Facts): string {
    const run = majors.filter((major) => ran.some((one) => one.major === major));
    const shown = entries.filter(({ name }) => ran.some(({ entry }) => entry === name));
    const all = ran.flatMap(({ major, results }) => results.map((result) => ({ ...result, major })));
    const total = (side: Side): string => {
        const sum = summed(all, side);
        const failed = sum.calls - sum.ok;
        return `| ${side} | ${number(sum.calls)} | ${number(failed)} | ${number(sum.errors.get('40P01')?.count ?? 0)} | ${number(ran.reduce((count, { deadlocks }) => count + deadlocks[side], 0))} | ${
            number([...sum.again.values()].reduce((count, one) => count + one.count, 0))} | ${number(sum.wrong.count)} of ${number(sum.rounds)} |`;
    };
    return `${[
        '# The matrix: every ensure_ function and merge_rows_v1, raced',
        '',
        `\`${facts.command}\` wrote this page on ${facts.date} in ${facts.seconds < 120 ? `${Math.round(facts.seconds)} seconds` : `${Math.round(facts.seconds / 60)} minutes`}. It says what was run, and no more.`,
        '',
        `- Machine: ${facts.machine}.`,
        `- Servers: PostgreSQL ${facts.servers.join(', ')}, with fsync off and deadlock_timeout ${settings.deadlock_timeout}. ${facts.pgbouncer}, transaction mode, a pool of 2.`,
        `- In each cell ${clients} clients go at once, ${facts.rounds} ${facts.rounds === 1 ? 'round' : 'rounds'} on each server: ours, and in another database what people write instead. Two functions are raced at a time on one server.`,
        '',
        '| | calls | failed | of these 40P01 | deadlocks in pg_stat_database | told, then again | rounds with a wrong end state |',
        '|---|---:|---:|---:|---:|---:|---:|',
        total('ours'), total('naive'),
        '',
        '## How to read it',
        '',
        '- Target: *same*, all clients ask for one thing; *different*, each for its own, in one table where that can be; *inverted*, half of them ask for A and B, the other half for B and A: in one call where a function takes a list, else in two.',
        '- Transaction: *autocommit*, or *in a transaction* that has written before it calls: a row in a table of its own, and where it can be one in the target, so that the call comes late on purpose.',
        '- A call is all that one client does in one round. Ours have `max_wait` of a minute and `max_block` of 100 ms where they take budgets.',
        '- Told, then again: the function raised a code of its header that says how to go on, and the client did so. The number is how often. It is no failure: the call counts when it ends.',
        ...Object.entries(advice).map(([code, what]) => `  - ${code}: ${what}.`),
        '  - 40P01 of `ensure_row_v1` inverted, in a transaction: which the header names. Two rows inserted in opposite orders are a deadlock, whoever inserts them; the transaction runs again. `ensure_rows_v1` takes both rows in one call.',
        '- What people write is run again too where that advice would be the same: after 40001, and in those rows after 40P01. All else that it ends with is an error.',
        '- Errors are calls that ended with that SQLSTATE. End state: a query for what both sides were to make true, asked after each round. Where calls failed, what they were to make is often what lacks.',
        '- Figures are sums over the servers; where some only had it, these are named. Rows that differ in one column alone, and have the same codes and the same kind of end state, are one row with their sum.',
        '- How many statements of others fail is chance, and depends on the machine; that some can is not.',
        '- Deadlocks are read from pg_stat_database when all clients have gone: those that a function handled itself would be there too.',
        '- Negative control: a guard is taken out of a copy, and two sessions (a begins, calls, commits; b calls) are run in every order: `a*2 b a` means two steps of a, then b, then a. An order must fail; with the guard none may.',
        '',
        ...shown.flatMap((entry) => {
            const here = ran.filter((one) => one.entry === entry.name);
            const deadlocks = (side: Side): number => here.reduce((count, one) => count + one.deadlocks[side], 0);
            return [
                `## ${entry.name}`, '', `Naive: ${entry.naive}. Deadlocks in pg_stat_database: ours ${number(deadlocks('ours'))}, naive ${number(deadlocks('naive'))}.`, '',
                ...table(here.flatMap(({ major, results }) => results.map((result) => ({ ...result, major }))), run.length), '',
                ...controls(entry, here), '',
            ];
        }),
    ].join('\n').trimEnd()}\n`;
}
