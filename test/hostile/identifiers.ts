import fc from 'fast-check';
import { withConnection } from '../../scripts/connection.js';
import type { Session } from '../../scripts/harness/sessions.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { surroundings, withTestDatabase } from '../context.js';
import { names } from './names.js';
import { difference, play } from './play.js';
import { cut, scenarios, world, type Names } from './scenarios.js';

/** Refusals that the headers have; nothing else may keep a function from working on a valid name. */
const refused = (name: string, { table }: Names, outcome: string): boolean =>
    name === 'ensure_only_v1' && cut(table) === 'keeper' && outcome === '0A000'; // demote has the row that is kept by this name

async function wrong(dba: Session, world: Names, only: string[]): Promise<string[]> {
    const found: string[] = [];
    for (const name of only) {
        const scenario = scenarios[name]?.(world);
        if (!scenario) continue;
        const played = await play(dba, scenario);
        if (!refused(name, world, played.first) && difference(scenario, played)) found.push(`${name}: ${difference(scenario, played)}`);
    }
    return found;
}

/** Roles belong to the whole server, and those names cannot carry that of the test: one file at a time. */
const alone = (body: () => Promise<void>): Promise<void> => withConnection(surroundings.server.admin, async (sql) => {
    await sql`select pg_advisory_lock(1162760018, 8)`;
    await body();
});

/** Each function does with hostile names what it does with plain ones, in `numRuns` worlds; fast-check prints the seed of one where it does not. */
export async function namesHold(numRuns: number, { only = Object.keys(scenarios), prepare = undefined as ((dba: Session) => Promise<void>) | undefined } = {}): Promise<void> {
    await alone(() => withTestDatabase(({ admin }) => withSessions(admin, ['dba'], async ({ dba }) => {
        await prepare?.(dba);
        await fc.assert(fc.asyncProperty(names, async (given) => {
            await dba.run('begin');
            try {
                await dba.run(world(given));
                const found = await wrong(dba, given, only);
                if (found.length > 0) throw new Error(found.join('\n'));
            } finally {
                await dba.run('rollback');
            }
        }), { numRuns, endOnFailure: true, includeErrorInReport: true });
    })));
}
