import fc from 'fast-check';
import type { Session } from '../../scripts/harness/sessions.js';
import { call } from './arguments.js';
import { objections, type PublicFunction } from './judge.js';
import { publicFunctions } from './play.js';
import { hostileValues } from './values.js';

export interface Case {
    of: PublicFunction;
    argument: string;
    value: string;
}

/** Each argument of each public function with each value that makes trouble for its type. */
export async function cases(session: Session): Promise<Case[]> {
    const functions = (await session.run(publicFunctions)) as unknown as PublicFunction[];
    return functions.flatMap((of) => of.arguments.flatMap(({ name, type }) => hostileValues(type).map((value) => ({ of, argument: name, value }))));
}

/** What the call leaves in the session when it is rolled back: settings, and locks that the session holds. */
const left = `select md5(string_agg(s.name || coalesce(s.setting, ''), ' ' order by s.name)) as settings,
    (select count(*)::int from pg_locks as l where l.pid = pg_backend_pid() and l.locktype = 'advisory') as locks from pg_settings as s`;

export async function wrongWith(session: Session, { of, argument, value }: Case): Promise<string[]> {
    await session.run('savepoint value');
    const outcome = await session.attempt(call(of.name, { [argument]: value }));
    await session.run('rollback to value; release value');
    return objections(of, argument, value, outcome);
}

/** All of `these`; the session is afterwards as it was. */
export async function allWrong(session: Session, these: Case[]): Promise<string[]> {
    const [before] = await session.run(left);
    const found: string[] = [];
    for (const one of these) found.push(...await wrongWith(session, one));
    const [after] = await session.run(left);
    if (JSON.stringify(before) !== JSON.stringify(after)) found.push(`the session has changed: ${JSON.stringify(after)}`);
    return found;
}

export const sampled = (all: Case[], size: number, seed?: number): Case[] =>
    fc.sample(fc.constantFrom(...all), { numRuns: size, ...(seed === undefined ? {} : { seed }) });
