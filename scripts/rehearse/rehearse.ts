import postgres, { type Notice } from 'postgres';
import { exitCodes, UserError } from '../errors.js';
import type { ServerMessage } from '../print.js';
import { withSession, type Result, type Session } from '../run/session.js';
import { changes, find, insideOf, readable, type Change, type Inside } from './changes.js';
import type { Input } from './input.js';
import { sampleLocks, usedSequences, type Lock, type Sampler } from './locks.js';
import { withLook } from './outside.js';

export interface Options {
    url: string;
    input: Input;
    lockTimeoutMs: number;
    statementTimeoutMs: number;
    stop: AbortSignal;
    onnotice: (notice: Notice) => void;
}

export interface Ran {
    statement: string;
    seconds: number;
    command: string | null;
    count: number | null;
    columns: { name: string; type: number }[];
    /** PostgreSQL's own text; the first ones. */
    rows: Record<string, string | null>[];
}

export interface Failed extends Pick<ServerMessage, 'message'> {
    /** Null when it is what a commit would have checked. */
    statement: string | null;
    sqlstate: string;
    detail: string | null;
    hint: string | null;
}

export interface Rows {
    table: string;
    inserted: number;
    updated: number;
    deleted: number;
}

export interface Report {
    statements: Ran[];
    changes: Change[];
    rows: Rows[];
    /** What nextval and setval did to them is not rolled back. */
    sequences: string[];
    locks: Lock[];
    /** To look at the catalogs before the rollback: locks were held for so long besides. */
    lookedMs: number;
    /** What this role or server lets nobody see. */
    unseen: string[];
    failure: Failed | null;
}

export const emptyReport = (): Report => ({ statements: [], changes: [], rows: [], sequences: [], locks: [], lookedMs: 0, unseen: [], failure: null });

const mostRows = 1_000;

/** One transaction, rolled back whatever comes; the report has what it would have done, also when a statement fails. */
export async function rehearse(options: Options, report: Report): Promise<void> {
    const { url, stop, onnotice } = options;
    const opening = { url, stop, onnotice, application: 'pg-ensure rehearse' };
    await withLook(url, (look) => withSession(opening, async (session) => {
        // Values in PostgreSQL's own text.
        for (const type of Object.keys(session.sql.options.parsers)) delete (session.sql.options.parsers as Record<string, unknown>)[type];
        const { some, unseen } = await readable(look);
        report.unseen = unseen.map(spelled);
        const limits = limitsOf(session, options);
        await session.run(`begin isolation level read committed; ${limits}`);
        let open = true;
        try {
            const inside = insideOf(session);
            const mark = await transactionOf(session);
            const facts = await inside<{ pid: number; counts: boolean }>(
                "select json_build_object('pid', pg_backend_pid(), 'counts', current_setting('track_counts')::boolean)::text as found");
            if (!facts.counts) report.unseen.push('rows: track_counts is off');
            const sampler = sampleLocks(look, facts.pid);
            await sampler.look();
            await runAll(options.input, { session, inside, sampler, limits }, report);
            if (await transactionOf(session) !== mark) throw new UserError('the transaction was ended by what ran in it: what it had done by then may be committed');
            const begun = performance.now();
            const found = await find(inside, look, some);
            report.sequences = await usedSequences(look, facts.pid);
            await session.run('rollback');
            open = false;
            report.lookedMs = Math.round(performance.now() - begun);
            report.locks = await sampler.stop();
            report.changes = await changes(found, look, some);
        } finally {
            if (open) await session.run('rollback').catch(() => {}); // with the connection the transaction ends too
        }
    }));
}

/** Another one has another id, also where none is assigned: on a standby, or where nothing is written. */
async function transactionOf(session: Session): Promise<string | undefined> {
    const [row] = await session.ask(`select l.virtualtransaction as id from pg_catalog.pg_locks as l
        where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'virtualxid' and l.virtualxid = l.virtualtransaction`);
    return (row as { id?: string } | undefined)?.id;
}

function limitsOf({ facts: { linux } }: Session, { lockTimeoutMs, statementTimeoutMs }: Options): string {
    return `set local lock_timeout = ${lockTimeoutMs}; set local statement_timeout = ${statementTimeoutMs};
        set local idle_in_transaction_session_timeout = '60s'; ${linux ? 'set local client_connection_check_interval = 500;' : ''}`;
}

interface Stage {
    session: Session;
    inside: Inside;
    sampler: Sampler;
    /** Which the text may set, or reset. */
    limits: string;
}

/** One by one, by the protocol that takes one statement only: no second one hides in a text that a server reads otherwise. */
async function runAll({ statements, savepoints }: Input, { session, inside, sampler, limits }: Stage, report: Report): Promise<void> {
    const base = await counted(inside);
    for (const statement of [...statements, null]) {
        const begun = performance.now();
        await session.run(`${limits} savepoint pg_ensure_rehearsal`);
        try {
            const result = await session.ask(statement ?? 'set constraints all immediate');
            if (statement !== null) report.statements.push(ranOf(statement, result, begun));
        } catch (error) {
            if (!(error instanceof postgres.PostgresError)) throw error;
            const { code, message, detail = null, hint = null } = error as ServerMessage;
            report.failure = { statement, sqlstate: code ?? '', message, detail, hint };
            await session.run('rollback to savepoint pg_ensure_rehearsal');
            return;
        } finally {
            await sampler.look();
        }
        // Released it would take savepoints of the text with it.
        if (!savepoints) await session.run('release savepoint pg_ensure_rehearsal');
        report.rows = difference(base, await counted(inside));
    }
}

function ranOf(statement: string, result: Result, begun: number): Ran {
    return {
        statement, seconds: Math.round(performance.now() - begun) / 1000, command: result.command, count: result.count,
        columns: (result.columns as Ran['columns'] | undefined ?? []).map(({ name, type }) => ({ name, type })),
        rows: [...result.slice(0, mostRows)] as Ran['rows'],
    };
}

type Counts = Record<string, [inserted: number, updated: number, deleted: number]>;

/** Of this session; what an earlier transaction of a pooler's connection did may be in it. */
const counted = (inside: Inside): Promise<Counts> => inside(`
    select coalesce(json_object_agg(s.relid::regclass, json_build_array(s.n_tup_ins, s.n_tup_upd, s.n_tup_del)), '{}')::text as found
    from pg_stat_xact_user_tables as s where s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0`);

function difference(before: Counts, after: Counts): Rows[] {
    return Object.entries(after).flatMap(([table, counts]) => {
        const [inserted = 0, updated = 0, deleted = 0] = counts.map((count, at) => count - (before[table]?.[at] ?? 0));
        return inserted + updated + deleted ? [{ table, inserted, updated, deleted }] : [];
    });
}

const spelled = (name: string): string => (name === 'pg_authid'
    ? 'pg_authid: roles are compared by what pg_roles shows, and whether a password changes is not seen'
    : `${name}: this role may not read it`);

export const exitCodeOf = ({ failure }: Report): number => (failure ? exitCodes.error : 0);
