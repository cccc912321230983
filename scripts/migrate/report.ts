/** What a run does, as it does it: for people a line each on stderr, with --json an object each. */
export type Event =
    | { event: 'connected'; database: string; source: string; path: 'direct' | 'pooler'; ledger: string; key: string; run: string }
    | { event: 'waiting'; pid: number | null; application: string | null; since: string | null; migration: string | null }
    | { event: 'locked'; pid: number }
    | { event: 'unreachable'; message: string }
    | { event: 'remnant'; pid: number; application: string; query: string }
    | { event: 'repairing'; index: string; statement: string }
    | { event: 'applying'; file: string; attempt: number }
    | { event: 'working'; file: string; seconds: number }
    | { event: 'blocked'; file: string; blockers: string }
    | { event: 'retrying'; file: string; attempt: number; code: string; message: string }
    | { event: 'applied'; file: string; version: string; seconds: number }
    | { event: 'recorded'; file: string; version: string; seconds?: number; why: string }
    | { event: 'warning'; message: string };

export type Say = (event: Event) => void;

/** The line for people; what only a program wants to know has none. */
export function sentence(event: Event): string | undefined {
    switch (event.event) {
        case 'connected':
            return `${event.database} (${event.source}${event.path === 'pooler' ? ', behind a pooler' : ''}), `
                + `ledger ${event.ledger}, lock ${event.key}, run ${event.run}`;
        case 'waiting': return event.pid === null ? 'trying again'
            : `waiting for pid ${event.pid} (${event.application}), which has the lock since ${event.since}`
                + (event.migration ? ` and applies ${event.migration}` : '');
        case 'unreachable': return `waiting: ${event.message}`;
        case 'remnant': return `waiting for pid ${event.pid}, which a run that died left at work (${event.application})`;
        case 'repairing': return `index ${event.index} is invalid, repairing it: ${event.statement}`;
        case 'locked': return undefined;
        case 'applying': return undefined;
        case 'working': return `${event.file} has been running for ${event.seconds.toFixed(0)} s`;
        case 'blocked': return `${event.file} waits for ${event.blockers}`;
        case 'retrying': return `${event.file}: ${event.code}: ${event.message}; nothing was done, trying again (attempt ${event.attempt})`;
        case 'applied': return `applied ${event.file} in ${event.seconds.toFixed(3)} s`;
        case 'recorded': return `recorded ${event.file}: ${event.why}`;
        case 'warning': return event.message;
    }
}
