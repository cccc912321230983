import { closeSync, existsSync, openSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { InvalidArgumentError, type Command } from 'commander';
import type { Surface } from '../commands.js';
import { majorOf } from '../embedded.js';
import { exitCodes, UserError } from '../errors.js';
import { isolationLevels } from '../harness/stampede.js';
import { spinning } from '../spinner.js';
import { page } from './html.js';
import { defaultTimeout } from './patience.js';
import { mostClients, withPlace } from './place.js';
import { clientsOf, race, type Wanted } from './race.js';
import { readSpec, ways, type Spec } from './spec.js';
import { parsedOrder } from './text.js';

interface Flags extends Wanted {
    order?: string;
    json?: boolean;
    html?: string;
}

const count = (least: number, most = 999_999_999) => (text: string): number => {
    if (!/^\d{1,9}$/.test(text) || Number(text) < least || Number(text) > most) throw new InvalidArgumentError(`Write a whole number from ${least} to ${most}.`);
    return Number(text);
};

const pattern = (text: string): RegExp => {
    if (!text) throw new InvalidArgumentError('Write a part of a name, or . for all.');
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
        .option('--timeout <seconds>', 'an order or a round in which nothing moves for so long has failed', count(1, 1_000_000), defaultTimeout)
        .option('--html <file>', 'write a page with a lane for each session, a histogram and the invariants')
        .option('--json', 'print one JSON document')
        .addHelpText('after', '\nExit codes: 0 all invariants hold and no step failed but as allowed; 14 not so; others as of pg-ensure. PG says which PostgreSQL is started.')
        .action(async (file: string, flags: Flags, command: Command) => {
            const spec = readSpec(file);
            if (flags.order !== undefined) spec.orders = [flags.order.trim().split(/\s+/)];
            refuseOthers(spec, flags, (name) => command.getOptionValueSource(name) === 'cli');
            for (const order of spec.orders) parsedOrder(spec, order);
            if (flags.stampede) refuseTooMany(spec, flags);
            if (flags.html !== undefined) refuseUnwritable(flags.html, file);
            // By an exit of our own, so that temporary folders are removed; the server ends with us however that is.
            for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => process.exit(128 + constants.signals[name]));
            // What is stepped may wait long for another step: a deadlock need not.
            const settings: Record<string, string> = flags.stampede ? {} : { deadlock_timeout: '100ms' };
            const spinner = await spinning('starting PostgreSQL');
            const tell = (text: string): void => {
                if (spinner) spinner.text = text;
            };
            const parts = await withPlace(majorOf(process.env.PG), settings, (place) => race(spec, flags, place, tell)).finally(() => spinner?.stop());
            if (flags.json) print(JSON.stringify({ file, postgresql: majorOf(process.env.PG), parts: parts.map(({ json }) => json) }, undefined, 2));
            else print(parts.map(({ text }) => text).join('\n'));
            if (parts.some(({ section: { failure } }) => failure !== undefined)) process.exitCode = exitCodes.findings;
            if (flags.html !== undefined) {
                writeFileSync(flags.html, page(`${file} on PostgreSQL ${majorOf(process.env.PG)}`, parts.map(({ section }) => section)));
                complain(`pg-ensure: ${flags.html} is written`);
            }
        });
}

/** What was asked for and would not be done. */
function refuseOthers(spec: Spec, { stampede, order }: Flags, given: (name: string) => boolean): void {
    const ofOrders = ['order', 'orders', 'seed', 'switches', 'inside'];
    const odd = (stampede ? ofOrders : ['clients', 'rounds', 'connect']).find(given);
    if (odd) throw new UserError(`--${odd} is for ${stampede ? 'orders of steps, not for' : 'clients at once:'} --stampede`, exitCodes.usage);
    const unused = !stampede && spec.orders.length ? ['orders', 'seed', 'switches'].find(given) : undefined;
    if (unused) throw new UserError(`--${unused} is for orders that are looked for: ${order === undefined ? `${spec.file} says which` : '--order is one'}`, exitCodes.usage);
}

/** Before the orders are run, which may take long. */
function refuseUnwritable(file: string, spec: string): void {
    const there = existsSync(file);
    if (there && realpathSync(file) === realpathSync(spec)) throw new UserError(`--html: ${file} is the spec: name another file`, exitCodes.usage);
    try {
        closeSync(openSync(file, 'a'));
        if (!there) rmSync(file);
    } catch (error) {
        throw new UserError(`--html: ${(error as Error).message}`, exitCodes.usage);
    }
}

function refuseTooMany(spec: Spec, wanted: Wanted): void {
    const { clients, connects } = clientsOf(spec, wanted);
    for (const [setting, most] of connects.map((connect) => mostClients[connect])) {
        if (clients > most) throw new UserError(`${clients} clients are more than ${most}, for which there is room under ${setting}`, exitCodes.usage);
    }
}
