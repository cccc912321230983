import { writeFileSync } from 'node:fs';
import { InvalidArgumentError, type Command } from 'commander';
import postgres from 'postgres';
import type { Surface } from '../commands.js';
import { majorOf } from '../embedded.js';
import { exitCodes, UserError } from '../errors.js';
import { connectOptions } from '../harness/sessions.js';
import { isolationLevels, type Isolation } from '../harness/stampede.js';
import { spinning } from '../spinner.js';
import { explore, follow, minimise, switchesOf, type Explored, type Turn } from './explore.js';
import { clientLanes, orderLanes, page, type Section } from './html.js';
import { addPauses } from './pause.js';
import { withPlace, type Place } from './place.js';
import { readSpec, ways, type Spec, type Way } from './spec.js';
import { stampeded } from './stampeded.js';
import { withOrders, type Ordered } from './stepped.js';
import { parsedOrder, script, spelledOrder, stampedeText } from './text.js';

interface Flags {
    orders: number;
    seed: number;
    switches?: number;
    inside?: RegExp;
    isolation?: Isolation[];
    order?: string;
    stampede?: boolean;
    clients?: number;
    rounds?: number;
    connect?: Way[];
    json?: boolean;
    html?: string;
}

/** What was run with one isolation level and one way to connect. */
interface Part { section: Section; text: string; json: Record<string, unknown> }

const count = (least: number) => (text: string): number => {
    if (!/^\d{1,9}$/.test(text) || Number(text) < least) throw new InvalidArgumentError(`Write a whole number from ${least}.`);
    return Number(text);
};

const pattern = (text: string): RegExp => {
    try {
        return new RegExp(text);
    } catch (error) {
        throw new InvalidArgumentError((error as Error).message);
    }
};

/** One of `known`, or "all"; given again, each. */
const some = <Word extends string>(known: readonly Word[]) => (text: string, before: Word[] = []): Word[] => {
    const found = known.filter((word) => text === 'all' || word === text);
    if (!found.length) throw new InvalidArgumentError(`Write ${known.join(', ')} or all.`);
    return [...before, ...found];
};

export function addRaceCommand(program: Command, { print, complain }: Surface): void {
    program.command('race').description('run the steps of sessions in every order, or all at once, on a server that is thrown away, and say when an invariant does not hold')
        .argument('<spec>', 'SQL with lines such as "-- race: session a", or JSON: docs/race.md')
        .option('--isolation <level>', `of sessions that name none: ${isolationLevels.join(', ')} or all`, some(isolationLevels))
        .option('--orders <number>', 'at most so many orders; of more a sample is run', count(1), 1000)
        .option('--seed <number>', 'of the sample', count(0), 1)
        .option('--switches <number>', 'only orders that leave a session that could go on at most so often', count(0))
        .option('--inside <functions>', 'a regular expression: stop at each statement of the PL/pgSQL functions whose names match, of any schema', pattern)
        .option('--order <order>', 'one order, as it was printed: "a b*3 a"')
        .option('--stampede', 'let clients go at once, round after round, instead of ordering their steps')
        .option('--clients <number>', 'with --stampede: client 0 is the first session, client 1 the second … (default: 8, or as the spec says)', count(1))
        .option('--rounds <number>', 'with --stampede (default: 20, or as the spec says)', count(1))
        .option('--connect <way>', `with --stampede: ${ways.join(', ')} or all (default: direct, or as the spec says)`, some(ways))
        .option('--html <file>', 'write a page with a lane for each session, a histogram and the invariants')
        .option('--json', 'print one JSON document')
        .addHelpText('after', '\nExit codes: 0 all invariants hold and no step failed but as allowed; 14 not so; others as of pg-ensure. PG says which PostgreSQL is started.')
        .action(async (file: string, flags: Flags) => {
            const spec = readSpec(file);
            const one = flags.stampede ? ['order', 'inside', 'switches'] as const : ['clients', 'rounds', 'connect'] as const;
            const odd = one.find((name) => flags[name] !== undefined);
            if (odd) throw new UserError(`--${odd} is for ${flags.stampede ? 'orders of steps, not for' : 'clients at once:'} --stampede`, exitCodes.usage);
            if (flags.order !== undefined) spec.orders = [flags.order.trim().split(/\s+/)];
            for (const order of spec.orders) parsedOrder(spec, order);
            const levels = flags.isolation ?? (spec.isolation.length ? spec.isolation : ['read committed'] as Isolation[]);
            // What is stepped may wait long for another step: a deadlock need not.
            const settings: Record<string, string> = flags.stampede ? {} : { deadlock_timeout: '100ms' };
            const spinner = await spinning('starting PostgreSQL');
            const tell = (text: string): void => {
                if (spinner) spinner.text = text;
            };
            const parts = await withPlace(majorOf(process.env.PG), settings, async (place) => {
                const done: Part[] = [];
                for (const isolation of levels) {
                    if (flags.stampede) {
                        for (const connect of flags.connect ?? (spec.connect.length ? spec.connect : ['direct'] as Way[])) {
                            tell(`${isolation}, ${connect}`);
                            done.push(await crowd(place, spec, flags, isolation, connect));
                        }
                    } else done.push(await steps(place, spec, flags, isolation, tell));
                }
                return done;
            }).finally(() => spinner?.stop());
            if (flags.html !== undefined) {
                writeFileSync(flags.html, page(`${file} on PostgreSQL ${majorOf(process.env.PG)}`, parts.map(({ section }) => section)));
                complain(`pg-ensure: ${flags.html} is written`);
            }
            if (flags.json) print(JSON.stringify({ file, postgresql: majorOf(process.env.PG), parts: parts.map(({ json }) => json) }, undefined, 2));
            else print(parts.map(({ text }) => text).join('\n'));
            if (parts.some(({ section: { failure } }) => failure !== undefined)) process.exitCode = exitCodes.findings;
        });
}

async function crowd(place: Place, spec: Spec, flags: Flags, isolation: Isolation, connect: Way): Promise<Part> {
    const { clients = spec.clients ?? 8, rounds = spec.rounds ?? 20 } = flags;
    return place.database(async (database) => {
        const pooler = connect === 'pooler' ? await place.pooled(database) : undefined;
        const result = await stampeded(spec, database, { clients, rounds, isolation, pooler });
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

async function steps(place: Place, spec: Spec, flags: Flags, isolation: Isolation, tell: (text: string) => void): Promise<Part> {
    const { orders, seed, switches, inside } = flags;
    const fails = ({ failure }: Ordered): boolean => failure !== undefined;
    return place.database(async (database) => {
        let opened = '';
        const notes: string[] = [];
        const { explored, failed, tries } = await withOrders(database, spec, inside !== undefined, isolation, async (counted) => {
            if (inside !== undefined) {
                const sql = postgres(database.admin, connectOptions);
                const { functions, points, closed } = await addPauses(sql, inside).finally(() => sql.end());
                if (!points) throw new UserError(`no PL/pgSQL function that can be opened matches --inside ${inside.source}`, exitCodes.usage);
                opened = `, stopped at ${points} statements of ${functions} functions`;
                notes.push(...closed.map(({ name, why }) => `not opened: ${name} (${why})`));
            }
            let runs = 0;
            const run: typeof counted = (choose) => {
                tell(`${isolation}: order ${runs += 1}`);
                return counted(choose);
            };
            if (spec.orders.length) {
                const found: Explored<Ordered> = { runs: [], complete: false, diverged: 0 };
                for (const words of spec.orders) {
                    let diverged = false;
                    found.runs.push(await run(follow(parsedOrder(spec, words), () => (diverged = true))));
                    found.diverged += Number(diverged);
                }
                return { explored: found, failed: found.runs.find(({ outcome }) => fails(outcome)), tries: 0 };
            }
            const found = await explore(run, { orders, switches, seed }, fails);
            const first = found.runs.find(({ outcome }) => fails(outcome));
            if (!first) return { explored: found, failed: undefined, tries: 0 };
            const small = await minimise(run, first.turns, fails, 200);
            const again = await run(follow(small.turns.map(({ chosen }) => chosen)));
            return { explored: found, failed: fails(again.outcome) ? again : first, tries: small.runs };
        });
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
        const again = failed && `pg-ensure race ${quoted(spec.file)}${inside ? ` --inside ${quoted(inside.source)}` : ''} --isolation ${quoted(isolation)} --order ${quoted(spelledOrder(spec, failed.turns))}`;
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
