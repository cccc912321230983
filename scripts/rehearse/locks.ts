import { setTimeout as sleep } from 'node:timers/promises';
import type { Look } from './outside.js';

export interface Lock {
    /** 'relation', or another word of pg_locks.locktype. */
    kind: string;
    object: string;
    mode: string;
    /** From when it was first seen granted until the rollback; null when it was never seen granted. */
    heldMs: number | null;
    /** Null when it was not seen waiting. */
    waitedMs: number | null;
    waitedFor: string[];
}

/** A row of pg_locks; times in milliseconds of the server's clock. */
interface Held {
    kind: string;
    /** Of a relation its oid, of another lock what it is on. */
    relation: string | null;
    object: string;
    mode: string;
    granted: boolean;
    since: number | null;
    blockers: string[] | null;
}

interface Known extends Pick<Held, 'kind' | 'relation' | 'object' | 'mode'> {
    granted?: number;
    /** Of a wait that goes on. */
    waiting?: number | undefined;
    waited?: number;
    blockers: Set<string>;
}

export interface Sampler {
    /** One look more, now. */
    look(): Promise<void>;
    /** What was seen, until the rollback, which is now. */
    stop(): Promise<Lock[]>;
}

export const everyMs = 50;
const strength = [
    'AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
    'AccessExclusiveLock',
];
/** Statements take these on catalogs all the time, and nobody waits for them. */
const strongOnCatalogs = strength.indexOf('ShareLock');

const looking = (pid: number): string => `
    select json_build_object('at', extract(epoch from clock_timestamp()) * 1000, 'locks', coalesce(json_agg(json_build_object(
        'kind', l.locktype, 'relation', l.relation, 'mode', l.mode, 'granted', l.granted, 'since', extract(epoch from l.waitstart) * 1000,
        'object', case l.locktype
            when 'relation' then l.relation::text
            when 'advisory' then concat_ws(', ', l.classid, l.objid)
            when 'object' then concat_ws(' ', l.classid::regclass, l.objid)
            else 'a row, which another transaction wrote' end,
        'blockers', (
            select array_agg(case when b.pid = 0 then 'a prepared transaction'
                else format('pid %s (%s, %s)', b.pid, coalesce(nullif(a.application_name, ''), '?'), coalesce(a.state, 'hidden')) end)
            from (select distinct unnest(case when not l.granted then pg_blocking_pids(l.pid) end) as pid) as b
            left join pg_stat_activity as a on a.pid = b.pid)
        )), '[]'))::text as found
    from pg_locks as l where l.pid = ${pid} and l.locktype <> 'virtualxid' and not (l.locktype in ('transactionid', 'tuple') and l.granted)`;

/** Looks from outside, again and again: what comes and goes between two looks is not seen. */
export function sampleLocks(look: Look, pid: number): Sampler {
    const known = new Map<string, Known>();
    const over = new AbortController();
    const once = async (): Promise<number> => {
        const { at, locks } = await look<{ at: number; locks: Held[] }>(looking(pid));
        const current = new Set<string>();
        for (const lock of locks) {
            const key = `${lock.kind} ${lock.object} ${lock.mode}`;
            current.add(key);
            const one = known.get(key) ?? newly(lock);
            known.set(key, one);
            if (lock.granted) one.granted ??= at;
            else one.waiting ??= lock.since ?? at;
            for (const blocker of lock.blockers ?? []) one.blockers.add(blocker);
        }
        const waits = new Set(locks.filter(({ granted }) => !granted).map((lock) => `${lock.kind} ${lock.object} ${lock.mode}`));
        for (const [key, one] of known) {
            if (one.waiting === undefined) continue;
            if (!waits.has(key)) {
                one.waited = (one.waited ?? 0) + at - one.waiting;
                one.waiting = undefined;
            }
        }
        return at;
    };
    const loop = (async () => {
        for (;;) {
            await once();
            await sleep(everyMs, undefined, { signal: over.signal });
        }
    })().catch(() => {}); // what it cannot see the last look tells
    return {
        look: async () => void await once(),
        async stop() {
            over.abort();
            await loop;
            const end = await once();
            const relations = [...known.values()].flatMap(({ relation }) => relation ?? []);
            return listed([...known.values()], end, await namesOf(look, relations));
        },
    };
}

const newly = ({ kind, relation, object, mode }: Held): Known => ({ kind, relation, object, mode, blockers: new Set() });

interface Named {
    name: string;
    kind: string;
    catalog: boolean;
    toast: boolean;
}

/** Relations that the transaction made are nobody else's to wait for: outside they have no name. */
const namesOf = (look: Look, oids: string[]): Promise<Record<string, Named>> => look(`
    select coalesce(json_object_agg(c.oid, json_build_object('name', c.oid::regclass::text, 'kind', c.relkind,
        'catalog', n.nspname in ('pg_catalog', 'information_schema'), 'toast', n.nspname = 'pg_toast')), '{}')::text as found
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.oid = any ('{${oids.join(',')}}'::oid[])`);

function listed(all: Known[], end: number, names: Record<string, Named>): Lock[] {
    const rank = ({ mode }: Known): number => strength.indexOf(mode);
    const isTold = (lock: Known): boolean => {
        if (lock.waited !== undefined) return true;
        if (lock.relation === null) return lock.kind === 'advisory';
        const named = names[lock.relation];
        if (!named || named.toast) return false;
        return named.catalog ? rank(lock) >= strongOnCatalogs : !('iI'.includes(named.kind) && rank(lock) === 0);
    };
    const nameOf = ({ relation, object }: Known): string => names[relation ?? '']?.name ?? object;
    return all.filter(isTold).sort((a, b) => rank(b) - rank(a) || (nameOf(a) < nameOf(b) ? -1 : 1)).map((lock) => ({
        kind: lock.kind, object: nameOf(lock), mode: lock.mode,
        heldMs: lock.granted === undefined ? null : Math.round(end - lock.granted),
        waitedMs: lock.waited === undefined ? null : Math.round(lock.waited),
        waitedFor: [...lock.blockers],
    }));
}

/** Relations that nextval or setval may have been called for: no other statement takes this lock on a sequence. */
export const usedSequences = (look: Look, pid: number): Promise<string[]> => look(`
    select coalesce(json_agg(c.oid::regclass::text order by 1), '[]')::text as found from pg_locks as l join pg_class as c on c.oid = l.relation
    where l.pid = ${pid} and l.locktype = 'relation' and l.granted and l.mode = 'RowExclusiveLock' and c.relkind = 'S'`);
