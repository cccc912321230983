import { expect } from 'vitest';
import { aftermath, madeNothing, outcomesOf, pictureOf } from '../../scripts/harness/aftermath.js';
import { clientProcess, withFaults, type ClientProcess, type Faults } from '../../scripts/harness/faults.js';
import { withSessions, type Session, type Step } from '../../scripts/harness/sessions.js';
import { cleanup, type Target } from '../../scripts/harness/targets.js';
import { shared, surroundings, withTestDatabase } from '../context.js';
import { until } from '../until.js';

export const waiterNames = Array.from({ length: 15 }, (_, n) => `waiter${n}`);

/** A database in which a creator can be held half-way, 15 who wait for it, and who looks on. */
export interface World {
    /** As a superuser. */
    url: string;
    dba: Session;
    waiters: Session[];
    faults: Faults;
    /** A name for the next target, which no other database of the server has. */
    next: () => string;
}

/** On a slow machine the default of 10 s may be over before 15 have been seen to wait. */
export const patient = (target: Target, id: string): string => target.call(id, ", max_wait => '60 s'");

/** While the gate is closed (an advisory lock of the dba), whoever is called creator goes no further: at the end of a DDL command, or at a row. */
export const gate = '77, 1';
const reached = '77, 2';
export const holdable = `
    create schema faults;
    create function faults.hold() returns void language plpgsql as $$ begin
        while current_setting('application_name') like '%creator' and exists (
            select from pg_locks as l where l.locktype = 'advisory' and l.classid = 77 and l.objid = 1 and l.granted
            and l.database = (select d.oid from pg_database as d where d.datname = current_database()))
        loop
            perform pg_try_advisory_xact_lock_shared(${reached});
            perform pg_sleep(0.01);
        end loop; end $$;
    create function faults.at_ddl() returns event_trigger language plpgsql as $$ begin perform faults.hold(); end $$;
    create function faults.at_row() returns trigger language plpgsql as $$ begin perform faults.hold(); return null; end $$;
    create event trigger faults_hold on ddl_command_end execute function faults.at_ddl()`;

/** Where the target is rows, the trigger that holds. */
export const holdAt = ({ halfway: where }: Target, id: string): string => (typeof where !== 'object' ? ''
    : `create trigger faults_hold after insert or update or delete on ${id}.${where.table} for each row execute function faults.at_row()`);

export const withWorld = <Result>(url: string, prefix: string, body: (world: World) => Promise<Result>): Promise<Result> =>
    withSessions(url, ['dba', ...waiterNames], (sessions) => withFaults(url, async (faults) => {
        const dba = sessions.dba as Session;
        await dba.run(holdable);
        let count = 0;
        return body({ url, dba, waiters: waiterNames.map((name) => sessions[name] as Session), faults, next: () => `${prefix}_${(count += 1)}` });
    }));

/** One database and 17 sessions for all tests of a file, each of which has a target of its own; none where there is no superuser. */
export const sharedFaults = (take: (world: World) => void): void => void shared<World>(async (use) => {
    if (!surroundings.superuser) return;
    await withTestDatabase(({ admin, name }) => withWorld(admin, name, (world) => {
        take(world);
        return use(world);
    }));
});

/** The backends that wait for `holder` now, by themselves or behind others who do. */
async function behind(looker: Session, holder: number): Promise<number[]> {
    const rows = await looker.run(`
        with recursive edges as materialized (
            select w.pid, b.holder from (select distinct l.pid from pg_locks as l where not l.granted) as w cross join unnest(pg_blocking_pids(w.pid)) as b (holder)
        ), behind (pid) as (
            select e.pid from edges as e where e.holder = ${holder} union select e.pid from edges as e join behind as b on e.holder = b.pid)
        select b.pid from behind as b`);
    return rows.map(({ pid }) => Number(pid));
}

/** Returns once as many backends as are wanted by then have been seen to wait for `holder`. */
export async function allWaitFor(looker: Session, holder: number, wanted: () => number = () => waiterNames.length): Promise<void> {
    const seen = new Set<number>();
    await until(`all wait for ${holder}`, async () => {
        for (const pid of await behind(looker, holder)) seen.add(pid);
        return seen.size >= wanted();
    });
}

/** Who holds what the others wait for: a session of this process, or a process of its own. */
export type Creator = Pick<Session, 'name' | 'pid' | 'run' | 'start'> & { process?: ClientProcess };

async function withCreator<Result>(url: string, asProcess: boolean, body: (creator: Creator) => Promise<Result>): Promise<Result> {
    if (!asProcess) return withSessions(url, ['creator'], ({ creator }) => body(creator));
    const process = clientProcess(url, 'creator');
    try {
        const run: Creator['run'] = async (statement) => {
            const { error, rows } = await process.attempt(statement);
            if (error) throw error;
            return rows;
        };
        const [row] = await run('select pg_backend_pid() as pid');
        const start = (statement: string): Step => {
            const outcome = process.attempt(statement);
            return { outcome: () => outcome, blockedBy: () => Promise.reject(new Error('ask allWaitFor')) };
        };
        return await body({ name: 'creator', pid: Number(row?.pid), run, start, process });
    } finally {
        await process.kill();
    }
}

export interface Scenario {
    target: Target;
    /** 'inside': half-way through the call; 'after': the call has returned, its transaction is open. */
    moment: 'inside' | 'after';
    strike: (creator: Creator) => Promise<void>;
    asProcess?: boolean;
    /** In autocommit, where the moment is 'inside': the server may finish it for a client that has gone. */
    autocommit?: boolean;
    /** Run by the creator before. */
    first?: string;
    /** For how long what is left may still be on its way. */
    patienceMs?: number;
}

export interface Result {
    /** SQLSTATEs of the 15 but ok. */
    errors: string[];
    /** How many of the 15 made something; the others found it there. */
    makers: number;
    violations: string[];
    /** The next call finds nothing to do. */
    nextFinds: boolean;
}

/** The creator is struck while 15 wait for it; then what they came to, and what is left. */
export async function struck(world: World, { target, moment, strike, asProcess = false, autocommit = false, first = '', patienceMs }: Scenario): Promise<Result> {
    const { dba, waiters } = world;
    const id = world.next();
    await dba.run(target.setup(id));
    await dba.run(holdAt(target, id));
    const start = await pictureOf(dba, target, id);
    const begin = autocommit ? '' : 'begin; ';
    if (moment === 'inside') await dba.run(`select pg_advisory_lock(${gate})`);
    try {
        return await withCreator(world.url, asProcess, async (creator) => {
            if (first) await creator.run(first);
            if (moment === 'inside') {
                creator.start(`${begin}${target.call(id)}`);
                await halfway(dba, creator);
            } else {
                expect(madeNothing(outcomesOf(await settled(creator, `${begin}${target.call(id)}`)))).toBe(false);
            }
            const waiting = waiters.map((waiter) => waiter.start(patient(target, id)));
            await allWaitFor(dba, creator.pid);
            await strike(creator);
            const outcomes = await Promise.all(waiting.map((step) => step.outcome()));
            await dba.run('select pg_advisory_unlock_all()');
            const errors = outcomes.filter(({ error }) => error).map(({ code, error }) => `${code} ${error?.message}`);
            const makers = outcomes.filter((outcome) => !outcome.error && !madeNothing(outcomesOf(outcome))).length;
            const { violations, next } = await aftermath(dba, target, id, start, patienceMs);
            return { errors, makers, violations, nextFinds: madeNothing(next) };
        });
    } finally {
        await dba.attempt('select pg_advisory_unlock_all()');
        await dba.attempt(cleanup(id));
    }
}

export const halfway = (looker: Session, creator: Pick<Session, 'pid'>): Promise<void> => until('the creator is half-way', async () => (
    await looker.run(`select from pg_locks as l where l.pid = ${creator.pid} and l.locktype = 'advisory' and l.classid = 77 and l.objid = 2`)).length > 0);

/** The creator, whose call has returned, is in a statement. */
export async function asleep(looker: Session, creator: Creator): Promise<void> {
    creator.start('select pg_sleep(600)');
    await until('the creator sleeps', async () => (await looker.run(`select from pg_stat_activity where pid = ${creator.pid} and wait_event = 'PgSleep'`)).length > 0);
}

const settled = async (creator: Creator, statement: string) => {
    const outcome = await creator.start(statement).outcome();
    if (outcome.error) throw outcome.error;
    return outcome;
};

/** One of those who waited made it, the others found it; nothing else is left. */
export const oneMadeIt = { errors: [], makers: 1, violations: [], nextFinds: true };
