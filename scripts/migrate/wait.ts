import { setTimeout as sleep } from 'node:timers/promises';
import { connectionError } from '../connection.js';
import { exitCodes, UserError } from '../errors.js';
import type { Guard } from './guard.js';
import type { Say } from './report.js';
import type { Known } from './known.js';
import type { State } from './state.js';

export interface Wait {
    url: string;
    known: Known;
    state: State;
    deadline: number;
    take: () => Promise<Guard | undefined>;
    /** True when somebody else has done all there was to do; throws when it can never be. */
    enough: (state: State) => boolean;
    say: Say;
    signal: AbortSignal;
}

const [shortest, longest] = [50, 1_000];
const nobody = { pid: null, application: null, since: null };

/** The lock, or the state that makes it needless. Polls by short statements: nobody who waits holds a snapshot. */
export async function waitForLock({ url, known, state, deadline, take, enough, say, signal }: Wait): Promise<Guard | State> {
    let told: string | undefined;
    for (let pause = shortest; ; pause = Math.min(pause * 1.5, longest)) {
        try {
            const guard = state.facts.holder ? undefined : await take();
            if (guard) return guard;
            await sleep(pause * (0.5 + Math.random()), undefined, { signal });
            state = await known.read();
            if (enough(state)) return state;
            const about = `${state.facts.holder?.pid} ${migrationOf(state)}`;
            if (about !== told) say({ event: 'waiting', ...nobody, ...state.facts.holder, migration: migrationOf(state) });
            told = about;
        } catch (error) {
            signal.throwIfAborted();
            // A server that restarts while we wait, or that has no connection left for us, is waited for too.
            const failure = connectionError(url, error);
            if (!failure || Date.now() > deadline) throw error;
            if (failure.message !== told) say({ event: 'unreachable', message: failure.message });
            told = failure.message;
        }
        if (Date.now() > deadline) throw spent(state);
    }
}

function migrationOf({ facts, pending }: State): string | null {
    const versions = facts.unfinished.map(({ version }) => version);
    return pending.find(({ version }) => versions.includes(version))?.name ?? null;
}

function spent(state: State): UserError {
    const { holder } = state.facts;
    const who = holder ? `pid ${holder.pid} (${holder.application}) has had the migration lock since ${holder.since}`
        : 'others took the migration lock in turn';
    return new UserError(`waited as long as --max-wait allows: ${who}; nothing was changed; run again, or look at what it does`,
        exitCodes.busy);
}
