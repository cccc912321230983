import { setTimeout as pause } from 'node:timers/promises';
import type { Outcome, Session } from './sessions.js';
import { picture, type Target } from './targets.js';

/** Who looks must hold no lock itself. */
export type Looker = Pick<Session, 'run' | 'attempt'>;

export interface Aftermath {
    /** What must not be; empty when all is well. */
    violations: string[];
    /** Outcomes of the next call: what it still had to do, or 'exists' alone. */
    next: string[];
}

/** The driver leaves a hole in the rows that come next when a statement was cancelled among its own. */
export const outcomesOf = ({ rows }: Outcome): string[] => rows.filter((row) => Boolean(row)).map(({ outcome }) => String(outcome));
export const madeNothing = (outcomes: string[]): boolean => outcomes.length > 0 && outcomes.every((outcome) => outcome === 'exists');

const remains = `
    select concat_ws(' ', 'lock left:', l.locktype, l.mode, coalesce(l.relation::regclass::text, l.classid || ' ' || l.objid), 'of', coalesce(a.application_name, 'nobody'), a.state) as line
    from pg_locks as l left join pg_stat_activity as a on a.pid = l.pid
    where l.pid is distinct from pg_backend_pid() and (a.datname = current_database() and a.backend_type = 'client backend'
        or l.pid is null and l.database in (0, (select oid from pg_database where datname = current_database())))
    union all
    select concat_ws(' ', 'still at work:', a.application_name, a.state, left(a.query, 80)) from pg_stat_activity as a
    where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend' and a.xact_start is not null
    union all
    select concat_ws(' ', 'invalid index:', x.indexrelid::regclass) from pg_index as x join pg_class as c on c.oid = x.indexrelid
    where not (x.indisvalid and x.indisready) and c.relkind = 'i'
    union all
    select concat_ws(' ', 'temporary:', c.oid::regclass) from pg_class as c where c.relpersistence = 't'
    union all
    select concat_ws(' ', 'prepared transaction:', p.gid) from pg_prepared_xacts as p where p.database = current_database()`;

/** Locks, transactions, invalid indexes and temporary tables of others; asked again for a while, since who is ended needs a moment to go. */
export async function left(looker: Looker, patienceMs = 30_000): Promise<string[]> {
    for (const end = Date.now() + patienceMs; ; await pause(20)) {
        const lines = (await looker.run(remains)).map(({ line }) => String(line));
        if (lines.length === 0 || Date.now() > end) return [...new Set(lines)];
    }
}

export const pictureOf = async (looker: Looker, target: Target, id: string): Promise<string> => String((await looker.run(picture(target, id)))[0]?.picture);

/**
 * After a fault, with nobody else at work: nothing is left, the state is what it was `before` or all of what the call makes; the next call
 * makes it so, and one more, read-only, finds nothing to do.
 */
export async function aftermath(looker: Looker, target: Target, id: string, before: string, patienceMs?: number): Promise<Aftermath> {
    const violations = await left(looker, patienceMs);
    const found = await pictureOf(looker, target, id);
    const call = await looker.attempt(target.call(id));
    if (call.error) violations.push(`the next call fails: ${call.code} ${call.error.message}`);
    const then = await pictureOf(looker, target, id);
    if (found !== before && found !== then) violations.push(`half-made:\n${difference(before, found)}`);
    const [row] = await looker.run(`select ${target.holds(id)} as holds`);
    if (row?.holds !== true) violations.push(`it does not hold after the next call:\n${difference(before, then)}`);
    if (!target.alone) await looker.run('begin read only');
    const again = await looker.attempt(target.call(id));
    if (!target.alone) await looker.run('rollback');
    if (again.error || !madeNothing(outcomesOf(again))) violations.push(`one more call is not free: ${again.code} ${outcomesOf(again).join()}`);
    if (await pictureOf(looker, target, id) !== then) violations.push('one more call changes something');
    return { violations, next: outcomesOf(call) };
}

function difference(before: string, after: string): string {
    const [old, now] = [before, after].map((text) => text.split('\n')) as [string[], string[]];
    return [...old.filter((line) => !now.includes(line)).map((line) => `- ${line}`), ...now.filter((line) => !old.includes(line)).map((line) => `+ ${line}`)].join('\n');
}
