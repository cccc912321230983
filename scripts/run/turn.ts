import { setTimeout as sleep } from 'node:timers/promises';
import { exitCodes, UserError } from '../errors.js';
import { tryGuard, type Guard } from '../migrate/guard.js';
import { unless } from '../migrate/known.js';
import { holderQuery, type Holder, type Lock } from '../migrate/ledger.js';
import type { Say } from './report.js';
import type { Session } from './session.js';

export interface Turn {
    url: string;
    session: Session;
    lock: Lock;
    run: string;
    maxWaitMs: number;
    stop: AbortSignal;
    say: Say;
}

const [shortest, longest] = [50, 1_000];
const nobody = { pid: null, application: null, since: null };

/** The lock of the plan. Polls by short statements: nobody who waits holds a snapshot. */
export async function takeTurn({ url, session, lock, run, maxWaitMs, stop, say }: Turn): Promise<Guard> {
    const late = AbortSignal.timeout(maxWaitMs);
    const either = AbortSignal.any([stop, late]);
    let holder: Holder | null = null;
    let told: number | undefined;
    try {
        for (let pause = shortest; ; pause = Math.min(pause * 1.5, longest)) {
            const [row] = await unless(session.run(holderQuery(lock)), either) as unknown as [{ holder: Holder }?];
            holder = row?.holder ?? null;
            if (!holder) {
                const taking = tryGuard(url, lock, session.facts.serverVersion, `pg-ensure ${run}`, 'plan lock');
                const guard = await unless(taking, either).catch((error: unknown) => {
                    void taking.then((given) => given?.release(), () => {});
                    throw error;
                });
                if (guard) return guard;
            } else if (holder.pid !== told) {
                say({ event: 'waiting', ...nobody, ...holder });
                told = holder.pid;
            }
            await sleep(pause * (0.5 + Math.random()), undefined, { signal: either });
        }
    } catch (error) {
        stop.throwIfAborted();
        if (!late.aborted) throw error;
        const who = holder ? `pid ${holder.pid} (${holder.application}) runs this plan since ${holder.since}`
            : 'others ran this plan in turn';
        throw new UserError(`waited as long as --max-wait allows: ${who}; nothing was run; run again, or look at what it does`,
            exitCodes.busy);
    }
}
