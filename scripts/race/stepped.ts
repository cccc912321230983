import postgres from 'postgres';
import { UserError } from '../errors.js';
import type { Database } from '../harness/databases.js';
import { connectOptions, settle, type Outcome } from '../harness/sessions.js';
import type { Isolation } from '../harness/stampede.js';
import { all, ask, prepared, type Asked } from './database.js';
import type { Run, Turn } from './explore.js';
import { defaultTimeout } from './patience.js';
import { addPauses, nothingOpened, openFunctions, pauseKey, type Opened } from './pause.js';
import { filled, type Spec } from './spec.js';

/** What happened in one order, as it happened. */
export interface Event {
    session: number;
    /** Milliseconds since the order began. */
    at: number;
    what: 'step' | 'pause' | 'go' | 'wait' | 'end';
    /** The step's name, or where in a function it stopped. */
    text: string;
    /** Of a step, as it was sent. */
    sql?: string;
    waitsFor?: number[];
    code?: string;
    message?: string;
    /** Whether the step has left a transaction open. */
    open?: boolean;
}

export interface Ordered {
    events: Event[];
    errors: { session: number; step: string; code: string; message: string }[];
    invariants: Asked[];
    milliseconds: number;
    /** A session waited until nobody had moved for too long. */
    stuck: boolean;
    /** Why the order has failed; undefined when it has not. */
    failure: string | undefined;
}

interface Live {
    sql: postgres.Sql;
    pid: number;
    step: number;
    state: 'idle' | 'running' | 'paused' | 'waiting' | 'done';
    ended: Outcome | undefined;
    waitsFor: string;
    /** Of the lock at which it is paused. */
    key: number | undefined;
    /** A step has failed: what is run is ROLLBACK. */
    failed: boolean;
}

type Tell = (session: number, what: Event['what'], text: string, more?: Partial<Event>) => void;

/** Runs orders of the steps of `spec` in `database`, one after another; sessions are its owner's, and direct. */
export async function withOrders<Result>(
    database: Database, spec: Spec, inside: RegExp | undefined, isolation: Isolation, body: (run: Run<Ordered>, opened: Opened) => Promise<Result>,
    patience = defaultTimeout * 1000,
): Promise<Result> {
    const clients: postgres.Sql[] = [];
    const connected = async (url: string, name: string): Promise<{ sql: postgres.Sql; pid: number }> => {
        const sql = postgres(url, { ...connectOptions, connection: { application_name: name } });
        clients.push(sql);
        const [{ pid }] = await sql`select pg_backend_pid() as pid` as unknown as [{ pid: number }];
        return { sql, pid };
    };
    try {
        await prepared(spec, database);
        const lab = await connected(database.admin, 'race lab');
        const watch = await connected(database.admin, 'race watch');
        const owner = await connected(database.url, 'race owner');
        await owner.sql`set lock_timeout to '1s'`; // a step may hold a lock that an invariant needs
        const sessions = await Promise.all(spec.sessions.map(async ({ isolation: own = isolation }, number) => {
            // A parallel worker cannot pause.
            const paused = inside ? '; set max_parallel_workers_per_gather to 0' : '';
            const session = { ...await connected(database.url, `race ${number}`), begins: `set default_transaction_isolation to '${own}'${paused}` };
            await session.sql.unsafe(session.begins).simple();
            return session;
        }));
        const opened = inside ? await addPauses(lab.sql, inside, sessions.map(({ pid }) => pid)) : nothingOpened();
        return await body((choose) => order({ spec, lab, watch: watch.sql, owner: owner.sql, sessions, inside, opened, patience }, choose), opened);
    } finally {
        await Promise.all(clients.map((client) => client.end({ timeout: 0 })));
    }
}

interface World {
    spec: Spec;
    /** Holds the locks at which sessions pause. */
    lab: { sql: postgres.Sql; pid: number };
    watch: postgres.Sql;
    owner: postgres.Sql;
    /** What `begins` a session is sent before each order, so that nothing is left of the one before. */
    sessions: { sql: postgres.Sql; pid: number; begins: string }[];
    inside: RegExp | undefined;
    opened: Opened;
    /** How long a step may do nothing, in milliseconds. */
    patience: number;
}

async function order(world: World, choose: Parameters<Run<Ordered>>[0]): Promise<{ turns: Turn[]; outcome: Ordered }> {
    const { spec, lab, owner, inside } = world;
    const result: Ordered = { events: [], errors: [], invariants: [], milliseconds: 0, stuck: false, failure: undefined };
    await all(owner, spec, 'setup');
    const live = world.sessions.map(({ sql, pid }): Live => ({ sql, pid, step: 0, state: 'idle', ended: undefined, waitsFor: '', key: undefined, failed: false }));
    if (inside) {
        await openFunctions(lab.sql, inside, world.opened); // setup may have made some
        for (const number of live.keys()) {
            await lab.sql.unsafe(`select pg_advisory_lock(${pauseKey}, ${number * 2}), pg_advisory_lock(${pauseKey}, ${number * 2 + 1})`);
        }
    }
    const begun = performance.now();
    const tell: Tell = (session, what, text, more = {}) => {
        result.events.push({ session, at: Math.round((performance.now() - begun) * 10) / 10, what, text, ...more });
    };
    const turns: Turn[] = [];
    const broken = new Map<string, Asked>();
    try {
        for (;;) {
            await settled(world, live, tell, result);
            for (const { name, query, always } of spec.invariants) {
                if (!always || broken.has(name)) continue;
                const asked = await ask(owner, name, filled(query, 0, 0));
                // What is locked nobody else sees.
                if (!asked.holds && asked.code !== '55P03') broken.set(name, { ...asked, found: `${asked.found}, after ${turns.length} turns` });
            }
            const runnable = [...live.keys()].filter((number) => ['idle', 'paused'].includes(live[number]?.state ?? ''));
            if (!runnable.length) break;
            const chosen = choose(runnable, turns.at(-1)?.chosen);
            turns.push({ runnable, chosen });
            await goOn(world, live[chosen] as Live, chosen, tell);
        }
        for (const { name, query } of spec.invariants) result.invariants.push(broken.get(name) ?? await ask(owner, name, filled(query, 0, 0)));
    } catch (error) {
        if (error instanceof UserError) throw error;
        result.failure = (error as Error).message;
        result.stuck = true;
    }
    result.milliseconds = Math.round(performance.now() - begun);
    const refused = result.errors.find(({ code }) => !spec.allowed.includes(code));
    const untrue = result.invariants.find(({ holds }) => !holds);
    result.failure ??= refused ? `${spec.sessions[refused.session]?.name}: ${refused.step} ended with ${refused.code}: ${refused.message}`
        : untrue && `"${untrue.name}" does not hold: ${untrue.found}`;
    if (inside) await lab.sql`select pg_advisory_unlock_all()`;
    const busy = live.filter(({ state }) => state === 'waiting' || state === 'running').map(({ pid }) => pid);
    if (busy.length) await lab.sql.unsafe(busy.map((pid) => `select pg_cancel_backend(${pid})`).join('; ')).simple();
    // All at once: one may wait for another's.
    await Promise.all(world.sessions.map(async ({ sql, begins }) => {
        for (const statement of ['rollback', 'discard all', begins]) await settle(sql.unsafe(statement).simple());
    }));
    await all(owner, spec, 'teardown');
    return { turns, outcome: result };
}

async function goOn({ spec, lab }: World, session: Live, number: number, tell: Tell): Promise<void> {
    if (session.state === 'paused') {
        tell(number, 'go', '');
        session.state = 'running';
        const key = `${pauseKey}, ${session.key}`;
        await lab.sql.unsafe(`select pg_advisory_unlock(${key}), pg_advisory_lock(${key})`); // the second waits until the session has come through
        return;
    }
    const step = spec.sessions[number]?.steps[session.step];
    const sql = filled(step?.sql ?? '', number, 0);
    tell(number, 'step', step?.name ?? '', { sql });
    send(session, sql);
}

function send(session: Live, statement: string): void {
    session.state = 'running';
    session.ended = undefined;
    void settle(session.sql.unsafe(statement).simple()).then((outcome) => (session.ended = outcome));
}

/** Until each session that is at work has ended its step, stopped at a pause, or waits for another. */
async function settled({ spec, watch, lab, patience }: World, live: Live[], tell: Tell, result: Ordered): Promise<void> {
    for (const deadline = performance.now() + patience; ;) {
        const ended = live.map((session) => session.ended); // before the look, so that the look shows them ended
        const rows = await watch.unsafe(`
            select a.pid, a.application_name as point, pg_blocking_pids(a.pid) || pg_safe_snapshot_blocking_pids(a.pid) as blockers, a.state ~ '^idle in' as open,
                   (select l.objid::int from pg_locks as l where l.pid = a.pid and l.locktype = 'advisory' and l.classid = ${pauseKey} and not l.granted) as key
            from pg_stat_activity as a where a.pid in (${live.map(({ pid }) => pid).join()})`) as unknown as
            { pid: number; point: string; blockers: number[]; open: boolean; key: number | null }[];
        for (const [number, session] of live.entries()) {
            const names = spec.sessions[number];
            if (session.state === 'idle' || session.state === 'done') continue;
            const row = rows.find(({ pid }) => pid === session.pid);
            const outcome = ended[number];
            if (outcome) {
                const { code, error } = outcome;
                const step = session.failed ? 'rollback' : names?.steps[session.step]?.name ?? '';
                if (!row) throw new UserError(`${spec.file}: step ${step} of ${names?.name} ended its connection (${code}: ${error?.message}): sessions of a race must stay connected`);
                const open = row.open && !error;
                tell(number, 'end', step, { code, open, ...(error && { message: error.message }) });
                if (error) result.errors.push({ session: number, step, code, message: error.message });
                session.waitsFor = '';
                session.step += 1;
                if (error && row.open) {
                    session.failed = true;
                    send(session, 'rollback');
                } else session.state = error || session.failed || session.step === names?.steps.length ? 'done' : 'idle';
                continue;
            }
            const blockers = row?.blockers ?? [];
            const whom = live.flatMap(({ pid }, other) => (blockers.includes(pid) ? [other] : []));
            // Another blocker, autovacuum say, ends by itself.
            const key = row?.key ?? undefined;
            const state = key !== undefined && blockers.includes(lab.pid) ? 'paused' : whom.length ? 'waiting' : 'running';
            const point = row?.point.replace(/^race \d*/, '').trim() ?? '';
            if (state === 'paused' && session.state !== 'paused') tell(number, 'pause', point);
            if (state === 'waiting' && session.waitsFor !== whom.join()) tell(number, 'wait', point, { waitsFor: whom });
            if (state === 'running' && session.waitsFor) tell(number, 'go', '');
            session.waitsFor = state === 'waiting' ? whom.join() : '';
            session.state = state;
            session.key = key;
        }
        if (live.every(({ state }) => state !== 'running') && (live.some(({ state }) => state === 'idle' || state === 'paused') || live.every(({ state }) => state === 'done'))) return;
        if (performance.now() > deadline) {
            throw new Error(`nothing has moved for ${patience / 1000} s: ${live.map(({ state, pid }, number) => (
                `${spec.sessions[number]?.name} is ${state}${state === 'done' && rows.find((row) => row.pid === pid)?.open ? ', its transaction open' : ''}`)).join(', ')}`);
        }
    }
}
