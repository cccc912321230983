import format from 'pg-format';
import postgres from 'postgres';
import { connectOptions, settle, type Outcome } from './sessions.js';

export const isolationLevels = ['read committed', 'repeatable read', 'serializable'] as const;
export type Isolation = (typeof isolationLevels)[number];

export interface Stampede {
    /** A database of its own: its default isolation level is changed, since a pooler refuses a client's. */
    owner: string;
    /** Where the callers connect: the same database, directly (default) or through a pooler. */
    url?: string;
    callers: number;
    /** Of the callers, open already and left open: their isolation level is that of when they were opened. */
    connections?: postgres.Sql[];
    rounds: number;
    isolation: Isolation;
    transaction: boolean;
    /** The statements of one caller in one round, in one transaction or each on its own; or what decides as it goes. */
    steps: (caller: number, round: number) => string[] | Act;
    /** Before the callers of a round are at the barrier, when they are let go, and when the last has ended. */
    around?: Partial<Record<'before' | 'released' | 'after', (round: number) => Promise<void> | void>>;
}

/** Statements that depend on what came before, with transactions of their own; what it returns counts as the call's outcome. */
export type Act = (run: (statement: string) => Promise<Outcome>) => Promise<Outcome>;

export interface Report {
    calls: number;
    milliseconds: number[];
    /** How often each SQLSTATE came; 'ok' for success. */
    codes: Record<string, number>;
    /** Rows of all steps, one outcome for each call. */
    outcomes: Outcome[];
}

/** Callers are known to the server by this and their number. */
export const clientName = 'pg-ensure client ';

/** Of the advisory lock at which callers wait for each other. */
export const gateClass = 1_162_760_018;
const gate = `${gateClass}, 0`;

/**
 * Callers wait at one barrier and are let go together, round after round. Direct, the barrier is an advisory lock
 * in the server that opens when the last caller waits for it; under REPEATABLE READ and above a transaction's snapshot is
 * then older than anybody's work. A pooler has fewer backends than callers: there the barrier is in this process.
 */
export async function stampede(options: Stampede): Promise<Report> {
    const { owner, callers, rounds, isolation } = options;
    const url = options.url ?? owner;
    const direct = url === owner;
    const conductor = postgres(owner, connectOptions);
    const report: Report = { calls: 0, milliseconds: [], codes: {}, outcomes: [] };
    const clients: postgres.Sql[] = [...options.connections ?? []];
    try {
        const [database] = await conductor`select current_database() as name`;
        await conductor.unsafe(format('alter database %I set default_transaction_isolation to %L', database?.name, isolation));
        for (let i = clients.length; i < callers; i++) clients.push(connected(url, i));
        await Promise.all(clients.map((client) => client`select 1`));

        for (let round = 0; round < rounds; round++) {
            await options.around?.before?.(round);
            if (!direct) await options.around?.released?.(round);
            let released = performance.now();
            if (direct) await conductor.unsafe(`select pg_advisory_lock(${gate})`);
            const running = clients.map(async (client, caller) => {
                const outcome = await call(client, direct, options.transaction, options.steps(caller, round));
                report.milliseconds.push(performance.now() - released);
                report.codes[outcome.code] = (report.codes[outcome.code] ?? 0) + 1;
                report.outcomes.push(outcome);
                report.calls++;
            });
            if (direct) {
                await allWaiting(conductor, callers);
                await options.around?.released?.(round);
                released = performance.now();
                await conductor.unsafe(`select pg_advisory_unlock(${gate})`);
            }
            await Promise.all(running);
            await options.around?.after?.(round);
        }
        return report;
    } finally {
        const opened = clients.filter((client) => !options.connections?.includes(client));
        await Promise.all([conductor, ...opened].map((client) => client.end({ timeout: 0 })));
    }
}

/** A caller by its number. */
export const connected = (url: string, caller: number): postgres.Sql => (
    postgres(url, { ...connectOptions, connection: { application_name: `${clientName}${caller}` } })
);

async function call(client: postgres.Sql, direct: boolean, transaction: boolean, steps: string[] | Act): Promise<Outcome> {
    const run = (statement: string) => settle(client.unsafe(statement).simple());
    const rows: Outcome['rows'] = [];
    let failed: Outcome | undefined;
    if (transaction) await run('begin');
    // Not awaited: the first step is sent behind it, so that no client stands between the barrier and the work.
    const arrived = direct ? run(`select pg_advisory_lock_shared(${gate})`) : undefined;
    const acted = typeof steps === 'function' ? await steps(run) : undefined;
    if (acted?.error) failed = acted;
    rows.push(...acted?.rows ?? []);
    for (const step of typeof steps === 'function' ? [] : steps) {
        const outcome = await run(step);
        rows.push(...outcome.rows);
        if (outcome.error) {
            failed = outcome;
            break;
        }
    }
    if (transaction) {
        const ended = await run(failed ? 'rollback' : 'commit');
        failed ??= ended.error ? ended : undefined;
    }
    if (arrived) {
        await arrived;
        await run(`select pg_advisory_unlock_shared(${gate})`);
    }
    return failed ?? { rows, code: 'ok' };
}

async function allWaiting(conductor: postgres.Sql, callers: number): Promise<void> {
    const deadline = Date.now() + 60_000;
    for (;;) {
        const [row] = await conductor`
            select count(*)::int as waiting from pg_locks as l join pg_database as d on d.oid = l.database
            where l.locktype = 'advisory' and l.classid = ${gateClass} and l.objid = 0 and not l.granted
              and d.datname = current_database()`;
        if (row?.waiting === callers) return;
        if (Date.now() > deadline) throw new Error(`only ${row?.waiting} of ${callers} callers reached the barrier`);
    }
}
