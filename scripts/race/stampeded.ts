import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { exitCodes, UserError } from '../errors.js';
import type { Database } from '../harness/databases.js';
import { connectOptions, type Outcome } from '../harness/sessions.js';
import { clientName, gateClass, stampede, type Isolation } from '../harness/stampede.js';
import { all, ask, prepared, type Asked } from './database.js';
import { defaultTimeout, patient, watchName } from './patience.js';
import { filled, type Spec, type SpecSession, type Way } from './spec.js';

type Steps = SpecSession['steps'];

export interface StampedeOptions {
    /** Where clients connect, when that is a pooler. */
    pooler?: string | undefined;
    clients: number;
    rounds: number;
    isolation: Isolation;
    /** A round in which no step has ended for so many seconds has failed, and is the last. */
    timeout?: number;
    /** The steps with which a client goes on whose own ended with this SQLSTATE; undefined when it has failed. */
    again?: (code: string, steps: Steps) => Steps | undefined;
    /** Whether to look at what clients do, which takes a part of the machine (default: true). */
    watched?: boolean;
    /** Of the clients, open already: who opened them counts their deadlocks, when all have gone. */
    connections?: postgres.Sql[];
}

/** A step of a client, in milliseconds since the clients of the round were let go. */
export interface Called { client: number; step: string; from: number; to: number; code: string }

/** In one look at the server, who waited for a lock and for which clients. */
export interface Look { at: number; waiting: { client: number; waitsFor: number[] }[] }

/** A client that is told so often to try again has failed. */
const mostTries = 100;

export interface Stampeded {
    isolation: Isolation;
    connect: Way;
    clients: number;
    /** Those that are complete. */
    rounds: number;
    calls: number;
    /** Of each call, as its client saw it. */
    milliseconds: number[];
    /** How often calls ended with each SQLSTATE; "ok" for success. */
    codes: Record<string, number>;
    /** How often a client went on with other steps, by the SQLSTATE that told it to. */
    again: Record<string, number>;
    /** The first message of each SQLSTATE. */
    messages: Record<string, string>;
    /** Of pg_stat_database, read when all clients had gone: those that a function handled itself too. */
    deadlocks: number;
    /** What was waited for, and in how many looks. */
    waits: { lock: string; looks: number }[];
    looks: number;
    /** An invariant that held in every round, or the first round in which it did not; and in how many it did not. */
    invariants: (Asked & { round: number; broken: number })[];
    /** The slowest round. */
    slowest: { round: number; milliseconds: number; steps: Called[]; seen: Look[] };
    failure: string | undefined;
}

/** All clients at once, each with the steps of one session, round after round. */
export async function stampeded(spec: Spec, database: Database, { pooler, clients, rounds, isolation, timeout = defaultTimeout, again, watched = true, connections }: StampedeOptions): Promise<Stampeded> {
    const invariants = spec.invariants.map(({ name }): Stampeded['invariants'][number] => ({ name, holds: true, found: 'true', round: rounds - 1, broken: 0 }));
    const told: Record<string, number> = {};
    const own = pooler !== undefined && spec.sessions.find((session) => session.isolation);
    if (own) throw new UserError(`${spec.file}: session ${own.name} has an isolation level of its own, which a pooler does not keep: --isolation, --connect direct`, exitCodes.usage);
    await prepared(spec, database);
    const before = connections ? 0 : await counted(database);
    // A client may keep a lock that setup needs.
    const owner = postgres(database.url, { ...connectOptions, connection: { application_name: 'race owner', lock_timeout: timeout * 1000 } });
    const watching = watched ? await watch(database.admin) : undefined;
    const patience = patient(database.admin, timeout);
    const outcomes: Outcome[] = [];
    const milliseconds: number[] = [];
    const codes: Record<string, number> = {};
    let released = 0;
    let complete = 0;
    try {
        await stampede({
            owner: database.url, callers: clients, rounds, isolation, transaction: false, ...(pooler !== undefined && { url: pooler }), ...(connections && { connections }),
            around: {
                before: (round) => all(owner, spec, 'setup', round),
                released: (round) => {
                    released = performance.now();
                    patience.begin(round);
                    watching?.begin(round);
                },
                after: async (round) => {
                    watching?.end();
                    await patience.end();
                    const why = patience.lost();
                    if (why !== undefined) throw new Error(why);
                    for (const [place, { name, query }] of spec.invariants.entries()) {
                        const asked = await ask(owner, name, filled(query, 0, round));
                        const { holds = true, broken = 0, ...first } = invariants[place] ?? {};
                        invariants[place] = { ...asked, round, ...(!holds && first), holds: holds && asked.holds, broken: broken + Number(!asked.holds) };
                    }
                    await all(owner, spec, 'teardown', round);
                    complete += 1;
                },
            },
            steps: (client, round) => async (run) => {
                const session = spec.sessions[client % spec.sessions.length];
                if (session?.isolation) await run(`set default_transaction_isolation to '${session.isolation}'`);
                const all = async (steps: Steps): Promise<Outcome> => {
                    for (const step of steps) {
                        if (patience.lost() !== undefined) break;
                        const sent = performance.now();
                        patience.began(client, `step ${step.name} of session ${session?.name}`);
                        const outcome = await run(filled(step.sql, client, round));
                        watching?.called(client, step.name, sent, outcome.code);
                        if (!outcome.error) continue;
                        await run('rollback'); // what an earlier step began
                        return outcome;
                    }
                    await run('rollback'); // what the last step left open
                    return { rows: [], code: 'ok' };
                };
                let steps: Steps | undefined = session?.steps ?? [];
                for (let tries = 1; ; tries++) {
                    const outcome: Outcome = await all(steps);
                    steps = outcome.error && tries < mostTries && patience.lost() === undefined ? again?.(outcome.code, steps) : undefined;
                    if (!steps) {
                        patience.ended(client);
                        outcomes.push(outcome);
                        milliseconds.push(performance.now() - released);
                        codes[outcome.code] = (codes[outcome.code] ?? 0) + 1;
                        return outcome;
                    }
                    told[outcome.code] = (told[outcome.code] ?? 0) + 1;
                }
            },
        }).catch((error: unknown) => {
            if (patience.lost() === undefined) throw error;
        });
        const { waits, looks, slowest } = await watching?.stop() ?? { waits: [], looks: 0, slowest: { round: 0, milliseconds: 0, steps: [], seen: [] } };
        await owner.end();
        const messages: Record<string, string> = {};
        for (const { code, error } of outcomes) if (error) messages[code] ??= error.message;
        const refused = Object.keys(messages).filter((code) => !spec.allowed.includes(code)).sort((one, other) => (codes[other] ?? 0) - (codes[one] ?? 0));
        const broken = invariants.find(({ holds }) => !holds);
        return {
            isolation, connect: pooler === undefined ? 'direct' : 'pooler', clients, rounds: complete, calls: outcomes.length, milliseconds, codes, again: told,
            messages, deadlocks: connections ? 0 : await deadlocks(database) - before, waits, looks, invariants: complete ? invariants : [], slowest,
            failure: patience.lost() ?? ([
                ...refused.map((code) => `${codes[code]} of ${outcomes.length} calls ended with ${code}: ${messages[code]}`),
                ...(broken ? [`"${broken.name}" does not hold in round ${broken.round}: ${broken.found}`] : []),
            ].join('; ') || undefined),
        };
    } finally {
        patience.stop();
        await watching?.stop();
        await owner.end({ timeout: 0 });
    }
}

async function counted({ name, admin }: Pick<Database, 'name' | 'admin'>): Promise<number> {
    const sql = postgres(admin, connectOptions);
    try {
        const [row] = await sql`select deadlocks::int from pg_stat_database where datname = ${name}`;
        return Number(row?.deadlocks);
    } finally {
        await sql.end({ timeout: 0 });
    }
}

/**
 * Of a database since it was made, once all who are connected have been ended. A backend has told of its deadlocks when it is gone; before 15 in a message, behind which comes that of a row inserted later.
 */
export async function deadlocks({ name, admin }: Pick<Database, 'name' | 'admin'>): Promise<number> {
    const sql = postgres(admin, connectOptions);
    const until = async (what: string, query: string): Promise<void> => {
        for (const end = performance.now() + 30_000; ;) {
            if ((await sql.unsafe(query))[0]?.done === true) return;
            if (performance.now() > end) throw new Error(`the server does not tell of deadlocks: ${what}`);
        }
    };
    try {
        await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${name} and backend_type = 'client backend' and pid <> pg_backend_pid()`;
        await until('backends are still there', `select count(*) = 1 as done from pg_stat_activity where datname = current_database() and backend_type = 'client backend'`);
        const last = postgres(admin, connectOptions);
        await last.unsafe('create schema race_last; create table race_last.told (id int); insert into race_last.told values (1)').simple();
        await last.end();
        await until('statistics do not come', `select pg_stat_get_tuples_inserted('race_last.told'::regclass) = 1 as done`);
        await sql.unsafe('drop schema race_last cascade').simple();
        return await counted({ name, admin });
    } finally {
        await sql.end({ timeout: 0 });
    }
}

interface Watching {
    begin: (round: number) => void;
    called: (client: number, step: string, sent: number, code: string) => void;
    end: () => void;
    stop: () => Promise<Pick<Stampeded, 'waits' | 'looks' | 'slowest'>>;
}

/** Looks at who waits until it is stopped: a sample, in which what is short is seen seldom. */
async function watch(admin: string): Promise<Watching> {
    const sql = postgres(admin, { ...connectOptions, connection: { application_name: watchName } });
    const stop = new AbortController();
    const counts = new Map<string, number>();
    let slowest: Stampeded['slowest'] = { round: 0, milliseconds: 0, steps: [], seen: [] };
    let current: Omit<Stampeded['slowest'], 'milliseconds'> & { from: number } | undefined;
    let looks = 0;
    const look = async (): Promise<void> => {
        const rows = await sql.unsafe(`
            select a.pid, substr(a.application_name, ${clientName.length + 1})::int as client, pg_blocking_pids(a.pid) as blockers,
                   (select concat_ws(' ', l.locktype, l.mode, case l.locktype when 'relation' then l.relation::regclass::text
                                     when 'advisory' then l.classid || ' ' || l.objid when 'object' then l.classid::regclass::text end)
                    from pg_locks as l where l.pid = a.pid and not l.granted and l.classid is distinct from ${gateClass} limit 1) as lock
            from pg_stat_activity as a where a.datname = current_database() and a.application_name ~ '^${clientName}[0-9]+$'`) as unknown as
            { pid: number; client: number; blockers: number[]; lock: string | null }[];
        const round = current;
        if (!round) return;
        looks += 1;
        round.seen.push({
            at: performance.now() - round.from,
            waiting: rows.filter(({ lock }) => lock !== null).map(({ client, blockers }) => ({
                client, waitsFor: rows.flatMap((other) => (blockers.includes(other.pid) ? [other.client] : [])),
            })),
        });
        for (const lock of new Set(rows.map((row) => row.lock))) if (lock !== null) counts.set(lock, (counts.get(lock) ?? 0) + 1);
    };
    await look(); // the first is slow
    const looking = (async () => {
        while (!stop.signal.aborted) {
            if (current) await look();
            await sleep(5, undefined, { signal: stop.signal }).catch(() => {});
        }
    })();
    return {
        begin: (round) => void (current = { round, from: performance.now(), steps: [], seen: [] }),
        called: (client, step, sent, code) => {
            const from = current?.from ?? 0;
            current?.steps.push({ client, step, from: Math.max(0, sent - from), to: performance.now() - from, code });
        },
        end: () => {
            const milliseconds = performance.now() - (current?.from ?? 0);
            if (current && milliseconds > slowest.milliseconds) slowest = { round: current.round, milliseconds, steps: current.steps, seen: current.seen };
            current = undefined;
        },
        stop: async () => {
            stop.abort();
            await looking.finally(() => sql.end({ timeout: 0 }));
            return { waits: [...counts].map(([lock, times]) => ({ lock, looks: times })).sort((one, other) => other.looks - one.looks), looks, slowest };
        },
    };
}
