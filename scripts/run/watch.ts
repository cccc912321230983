import postgres from 'postgres';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectOptions, withoutName } from '../connection.js';
import type { Progress, Say } from './report.js';

export interface Watch {
    /** Says who keeps `running` waiting, and how far it is; `which` of pg_stat_activity as a. */
    during<T>(step: number | null, which: string, running: Promise<T>): Promise<T>;
    /** Those seen last in what was watched last. */
    blockers(): string;
    end(): Promise<void>;
}

interface Seen {
    blockers: string | null;
    phase: string | null;
    unit: string;
    done: number;
    total: number;
}

const pollMs = 200;
const tellEveryMs = 1_000;

/** On a connection of its own, that nothing waits for: a pool may have none left. */
export function watcher(url: string, say: Say): Watch {
    const sql = postgres(withoutName(url), { ...connectOptions, connection: { application_name: 'pg-ensure watch' } });
    let last = '';
    const look = async (which: string): Promise<Seen | undefined> => {
        const rows = await sql.unsafe<Seen[]>(`
            select (select string_agg(case when b.pid = 0 then 'a prepared transaction'
                        else format('pid %s (%s, %s, since %s)', b.pid, s.application_name, coalesce(s.state, 'hidden'),
                            s.xact_start) end, ', ')
                    from (select distinct unnest(pg_blocking_pids(a.pid)) as pid) as b
                    left join pg_stat_activity as s on s.pid = b.pid
                    where s.application_name is distinct from 'pg-ensure watch') as blockers,
                p.phase, u.unit, u.done::float8, u.total::float8
            from pg_stat_activity as a
            left join pg_stat_progress_create_index as p on p.pid = a.pid
            cross join lateral (select case when p.phase like 'waiting %' then 'lockers'
                when p.tuples_total > 0 then 'tuples' else 'blocks' end as unit) as k
            cross join lateral (select k.unit, case k.unit when 'lockers' then p.lockers_done when 'tuples' then p.tuples_done
                    else p.blocks_done end as done,
                case k.unit when 'lockers' then p.lockers_total when 'tuples' then p.tuples_total
                    else p.blocks_total end as total) as u
            where a.state = 'active' and ${which} limit 1`).simple();
        return rows[0];
    };
    const watch = async (step: number | null, which: string, over: AbortSignal): Promise<void> => {
        const begun = performance.now();
        let told = begun;
        let phase = { name: '', done: 0, at: 0 };
        for (;;) {
            await sleep(pollMs, undefined, { signal: over });
            const asked = look(which).catch((error: Error) => error);
            let seen: Awaited<typeof asked> | undefined;
            void asked.then((answer) => (seen = answer));
            await Promise.race([asked, sleep(tellEveryMs, undefined, { signal: over })]);
            over.throwIfAborted();
            const now = performance.now();
            const known = seen instanceof Error ? undefined : seen;
            if (known?.blockers && known.blockers !== last) say({ event: 'blocked', step, blockers: known.blockers });
            last = known?.blockers ?? last;
            const name = `${known?.phase} ${known?.unit}`;
            // At its start a phase may still show what the one before it counted.
            if (known?.phase && (name !== phase.name || known.done < phase.done)) phase = { name, done: known.done, at: now };
            if (now - told < tellEveryMs) continue;
            told = now;
            say({ event: 'working', step, seconds: (now - begun) / 1000, progress: known ? progress(known, phase, now) : null });
        }
    };
    return {
        async during(step, which, running) {
            last = '';
            const over = new AbortController();
            watch(step, which, over.signal).catch(() => {}); // it ends by being told to
            try {
                return await running;
            } finally {
                over.abort();
            }
        },
        blockers: () => last,
        end: () => sql.end({ timeout: 0 }),
    };
}

function progress({ phase, unit, done, total }: Seen, since: { done: number; at: number }, now: number): Progress | null {
    if (!phase) return null;
    const perSecond = (done - since.done) / Math.max((now - since.at) / 1000, 0.001);
    return { phase, unit, done, total, perSecond, left: perSecond > 0 ? (total - done) / perSecond : null };
}
