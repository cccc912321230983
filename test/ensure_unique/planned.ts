import { expect, type TestContext } from 'vitest';
import { majorOf, temporaryServer, type Server } from '../../scripts/embedded.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { surroundings, withTestDatabase } from '../context.js';

export interface PlanRow {
    step_number: number;
    statement: string;
    in_transaction: boolean;
    locks: string;
    why: string;
    plan_key: string;
}

export const planOf = (args: string): string => `select * from ensure.plan_unique_v1(${args})`;
export const ask = async (session: Session, args: string): Promise<PlanRow[]> => (
    await session.run(planOf(args)) as unknown as PlanRow[]
);

/** As psql's \gexec does, again until no row comes. Returns what was run, also when `most` statements end it. */
export async function follow(session: Session, args: string, most = Infinity): Promise<PlanRow[]> {
    const done: PlanRow[] = [];
    for (let turn = 0; turn < 50; turn++) {
        const rows = await ask(session, args);
        if (!rows.length) return done;
        for (const row of rows) {
            if (done.length >= most) return done;
            await session.run(row.statement);
            done.push(row);
        }
    }
    throw new Error(`no end: ${done.map(({ why }) => why).slice(-5).join('; ')}`);
}

/** Runs the plan until `met` says that a row comes that is not to be run. */
export async function upTo(session: Session, args: string, met: (row: PlanRow) => boolean): Promise<PlanRow> {
    for (let turn = 0; turn < 50; turn++) {
        const rows = await ask(session, args);
        expect(rows, 'the plan ended before that').not.toEqual([]);
        for (const row of rows) {
            if (met(row)) return row;
            await session.run(row.statement);
        }
    }
    throw new Error('no end');
}

export const isGate = ({ statement }: PlanRow): boolean => statement.includes('ensure._make_gate_v1(');
export const isSweep = ({ statement }: PlanRow): boolean => statement.includes('_sweep_unique_v1');
export const isQueue = ({ statement }: PlanRow): boolean => statement.includes('_queue_unique_v1');
export const isBuild = ({ statement }: PlanRow): boolean => statement.startsWith('create unique index');
export const isUngate = ({ statement }: PlanRow): boolean => statement.includes('ensure._ungate_v1(');

/** Runs the plan up to the gate, and the gate. */
export async function gated(session: Session, args: string): Promise<void> {
    await session.run((await upTo(session, args, isGate)).statement);
}

/** A negative control: replaces a guard in the gate. */
export async function withoutGate(session: Session, guard: string | RegExp, replacement = ''): Promise<void> {
    const [row] = await session.run("select pg_get_functiondef(oid) as source from pg_proc where proname ~ '^ensure_gate_'");
    const source = String(row?.source);
    const mutant = source.replace(guard, replacement);
    expect(mutant, `${guard} is not in the gate`).not.toBe(source);
    await session.run(mutant);
}

/** Sessions of a superuser, who may be any role, with a role of the test's own that goes afterwards. */
export const withRole = (context: TestContext, body: (sessions: Record<'owner' | 'writer', Session>, role: string, owner: string) => Promise<void>): Promise<void> =>
    withTestDatabase(({ admin, name }) => {
        if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and cannot make roles');
        return withSessions(admin, ['dba', 'owner', 'writer'], async ({ dba, owner, writer }) => {
            const role = `writer_${name}`;
            await dba.run(`create role ${role}; grant usage on schema public to ${role}`);
            try {
                await owner.run(`set role ${surroundings.server.owner}`);
                await writer.run(`set role ${role}`);
                await body({ owner, writer }, role, surroundings.server.owner);
            } finally {
                await writer.attempt('reset role');
                await dba.run(`drop owned by ${role} cascade; drop role ${role}`);
            }
        });
    });

/** What the plan makes for its own use; nothing is left of it at the end. */
export const scaffolding = `
    select c.relname::text as name from pg_class as c where c.relname ~ '^ensure_(probe|sweep|dead|gate)_' and c.relkind in ('r', 'i', 'I')
    union all select p.proname from pg_proc as p where p.proname ~ '^ensure_gate_'
    union all select t.tgname from pg_trigger as t where t.tgname ~ 'ensure_gate_' order by 1`;

export async function expectDone(session: Session, args: string, table = 't'): Promise<void> {
    expect(await ask(session, args)).toEqual([]);
    expect(await session.run(scaffolding)).toEqual([]);
    expect(await session.run(`select indexrelid::regclass::text as name from pg_index
        where indrelid = '${table}'::regclass and not (indisvalid and indisready)`)).toEqual([]);
}

/** A server with settings of its own, migrated; DATABASE_URL names only one. */
export async function withServer(
    context: TestContext, settings: Record<string, string>, body: (server: Server, dba: Session) => Promise<void>,
): Promise<void> {
    if (!surroundings.embedded) context.skip('needs a server of its own; DATABASE_URL is set');
    const server = await temporaryServer(majorOf(process.env.PG), settings);
    try {
        await install(server.url);
        await withSessions(server.url, ['dba'], ({ dba }) => body(server, dba));
    } finally {
        await server.stop('immediate');
    }
}

export const figure = (text: string): void => {
    if (process.env.PG_ENSURE_FIGURES) console.error(`${surroundings.serverVersion}: ${text}`);
};
