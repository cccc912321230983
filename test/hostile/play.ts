import fc from 'fast-check';
import type { Outcome, Session } from '../../scripts/harness/sessions.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { shared, surroundings, withTestDatabase } from '../context.js';
import { plain, scenarios, world, type Scenario } from './scenarios.js';

/** The same cases each time; PG_ENSURE_SEED takes others. */
fc.configureGlobal({ seed: Number(process.env.PG_ENSURE_SEED || 1) });

/** Names and types of the arguments of the public functions. */
export const publicFunctions = `select p.proname as name, p.prosrc as source,
    array_to_json(array(select json_build_object('name', p.proargnames[u.n], 'type', u.type::regtype, 'required', u.n <= p.pronargs - p.pronargdefaults)
                        from unnest(p.proargtypes) with ordinality as u (type, n) order by u.n)) as arguments
    from pg_proc as p where p.pronamespace = 'ensure'::regnamespace and p.proname !~ '^_' order by 1`;

export interface Played {
    first: string;
    again: string;
    holds: unknown;
    /** The first that failed, but for the second call. */
    error?: Outcome;
}

const words = ({ rows, code }: Outcome): string => (code === 'ok' ? rows.map(({ word }) => String(word)).join(' ') : code);

/** The statements of a plan until it has none; without CONCURRENTLY, since all of it is rolled back. */
async function follow(session: Session, call: string): Promise<Outcome & { count: number }> {
    for (let count = 0; ;) {
        const asked = await session.attempt(call);
        if (asked.code !== 'ok' || asked.rows.length === 0) return { ...asked, count };
        for (const { statement } of asked.rows) {
            const done = await session.attempt(String(statement).replace(/^(create (?:unique )?index|drop index) concurrently/i, '$1'));
            if (done.code !== 'ok') return { ...done, count };
            count += 1;
        }
        if (count > 60) throw new Error(`a plan that does not end: ${String(asked.rows[0]?.statement)}`);
    }
}

/** Plays a scenario in the open transaction, where `lay` was laid before the calls, and takes all of it back. */
export async function play(session: Session, { given, call, plan, holds }: Scenario, lay = 'select', lift = 'select'): Promise<Played> {
    const played: Played = { first: '', again: '', holds: true };
    await session.run('savepoint play');
    try {
        if (given) await session.run(given);
        await session.run(lay);
        const first = plan ? await follow(session, call) : await session.attempt(call);
        played.first = 'count' in first && first.code === 'ok' ? String(first.count) : words(first);
        if (first.code !== 'ok') return { ...played, error: first };
        await session.run('savepoint again');
        const again = await session.attempt(call);
        played.again = words(again);
        await session.run(`${again.code === 'ok' ? '' : 'rollback to again;'} ${lift}`);
        if (holds) {
            const held = await session.attempt(holds);
            if (held.code !== 'ok') return { ...played, error: held };
            played.holds = Object.values(held.rows[0] ?? {})[0];
        }
        return played;
    } finally {
        await session.run('rollback to play; release play');
    }
}

/** What differs from what `scenario` promises; '' when nothing does. */
export function difference(scenario: Scenario, { first, again, holds, error }: Played): string {
    if (first === scenario.first && again === scenario.again && holds === true && !error) return '';
    return `${first} | ${again} | ${String(holds)}, not ${scenario.first} | ${scenario.again} | true; ${String(error?.error?.message ?? '')}`;
}

/** A superuser's session, in a transaction that is rolled back, with the world of plain names. */
export async function withWorld(body: (dba: Session) => Promise<void>, names = plain): Promise<void> {
    if (!surroundings.superuser) throw new Error('these tests need a superuser in DATABASE_URL');
    await withTestDatabase(({ admin }) => withSessions(admin, ['dba'], async ({ dba }) => {
        await dba.run('begin');
        await dba.run('do $$ begin end $$'); // PL/pgSQL has settings of its own once it is loaded
        await dba.run(world(names));
        await body(dba);
    }));
}

/** What differs from the promises of each function, by its name, when all are played with `lay` laid. */
export async function differences(session: Session, lay?: string, lift?: string, names = plain, only = Object.keys(scenarios)): Promise<Record<string, string>> {
    const found: Record<string, string> = {};
    for (const name of only) {
        const scenario = scenarios[name]?.(names);
        if (!scenario) throw new Error(`no scenario for ${name}`);
        const differs = difference(scenario, await play(session, scenario, lay, lift));
        if (differs) found[name] = differs;
    }
    return found;
}

/** One such session for all tests of a file, each of which is taken back. */
export function sharedWorld(setup: string): (body: (dba: Session) => Promise<void>) => Promise<void> {
    const world = shared<Session>((use) => withWorld(async (dba) => {
        await dba.run(setup);
        await use(dba);
    }));
    return async (body) => {
        const dba = world();
        await dba.run('savepoint test');
        try {
            await body(dba);
        } finally {
            await dba.run('rollback to test; release test');
        }
    };
}
