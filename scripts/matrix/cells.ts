import format from 'pg-format';
import postgres from 'postgres';
import type { Database } from '../harness/databases.js';
import { connectOptions } from '../harness/sessions.js';
import { connected, isolationLevels, type Isolation } from '../harness/stampede.js';
import { emptySpec, ways, type Spec, type SpecSession, type Way } from '../race/spec.js';
import { deadlocks, stampeded, type StampedeOptions } from '../race/stampeded.js';
import { clients, targets, type Entry, type TargetName } from './entry.js';
import { partitions } from './partitions.js';
import { roleEntries } from './roles.js';
import { rowEntries } from './rows.js';

export const entries: Entry[] = [...partitions, ...rowEntries, ...roleEntries];

export interface Cell {
    target: TargetName;
    isolation: Isolation;
    /** Whether each client has an open transaction, in which it has written, when it calls. */
    transaction: boolean;
    connect: Way;
}

/** Those of one isolation level and one way to connect follow one another. */
export const cells: Cell[] = isolationLevels.flatMap((isolation) => ways.flatMap((connect) => targets.flatMap((target) => (
    [false, true].map((transaction) => ({ target, isolation, transaction, connect }))))));

export const sides = ['ours', 'naive'] as const;
export type Side = (typeof sides)[number];

export interface Result extends Cell {
    side: Side;
    calls: number;
    /** Calls that failed, by SQLSTATE. */
    errors: Record<string, number>;
    /** How often a client was told to try again, and did, by SQLSTATE. */
    again: Record<string, number>;
    /** The first message of each SQLSTATE. */
    messages: Record<string, string>;
    rounds: number;
    /** Rounds whose end state was not right. */
    wrong: number;
    /** What was found in the first of these. */
    found: string;
}

type Steps = SpecSession['steps'];

/** What one session does in a cell. */
function stepsOf({ near, use = [] }: Entry[TargetName], calls: string[], { transaction, isolation }: Cell): Steps {
    const named = (name: string, statements: string[]): Steps => statements.map((sql) => ({ name, sql }));
    const call = [...named('call', calls), ...named('use', use)];
    const write = named('write', ['insert into log values ({client})', ...near === undefined ? [] : [near]]);
    return transaction ? [...named('begin', [`begin isolation level ${isolation}`]), ...write, ...call, ...named('commit', ['commit'])] : call;
}

export function specOf(entry: Entry, cell: Cell, side: Side): Spec {
    const target = entry[cell.target];
    return {
        ...emptySpec(`${entry.name}, ${side}`), setup: entry.setup, teardown: entry.teardown,
        sessions: target[side].map((calls, place) => ({ name: String.fromCharCode(97 + place), steps: stepsOf(target, calls, cell) })),
        invariants: [{ name: 'end state', query: target.right, always: false }],
    };
}

/** Once in a database, before its cells. */
export const prepareOf = (entry: Entry): string[] => ['create table log (client int)', ...entry.prepare];

/** As the HINT of the error says; what is repeated as it was is repeated by both sides. */
const advised = (entry: Entry, { target }: Cell, side: Side): StampedeOptions['again'] => (code, steps) => {
    const of = (...names: string[]): Steps => steps.filter(({ name }) => names.includes(name));
    if (code === '40001' && (side === 'naive' || entry.told.includes(code)) || entry[target].again?.includes(code)) return steps;
    if (side === 'naive' || !entry.told.some((told) => told === code)) return undefined;
    const ahead = of('call', 'ahead').map(({ sql }) => ({ name: 'ahead', sql }));
    const level = (sql: string): Steps => [{ name: 'level', sql }];
    return [
        ...code === 'NS011' ? ahead.flatMap((call) => [...level('begin isolation level read committed'), call, ...level('commit')]) : ahead,
        ...of('begin', 'write', 'use', 'commit'),
    ];
};

/** Cells of one isolation level and one way to connect, by the same clients; and how many deadlocks pg_stat_database has of them. */
export async function run(entry: Entry, group: Cell[], side: Side, database: Database, rounds: number, pooler: string | undefined): Promise<{ results: Result[]; deadlocks: number }> {
    const owner = postgres(database.url, connectOptions);
    await owner.unsafe(format('alter database %I set default_transaction_isolation to %L', database.name, group[0]?.isolation)).finally(() => owner.end());
    const before = await deadlocks(database); // and no backend is left that has another level
    const connections = Array.from({ length: clients }, (_, client) => connected(pooler ?? database.url, client));
    const results: Result[] = [];
    try {
        for (const cell of group) results.push(await runCell(entry, cell, side, database, rounds, pooler, connections));
    } finally {
        await Promise.all(connections.map((connection) => connection.end({ timeout: 0 })));
    }
    return { results, deadlocks: await deadlocks(database) - before };
}

async function runCell(entry: Entry, cell: Cell, side: Side, database: Database, rounds: number, pooler: string | undefined, connections: postgres.Sql[]): Promise<Result> {
    const again = advised(entry, cell, side);
    const found = await stampeded(specOf(entry, cell, side), database, {
        clients, rounds, isolation: cell.isolation, pooler, watched: false, connections, ...(again && { again }),
    });
    const [state] = found.invariants;
    const errors = Object.fromEntries(Object.entries(found.codes).filter(([code]) => code !== 'ok'));
    return {
        ...cell, side, calls: found.calls, errors, again: found.again, messages: found.messages, rounds,
        wrong: state?.broken ?? 0, found: state?.holds ? '' : state?.found ?? '',
    };
}

/** What must not be on our side. */
export function faultOf({ target, isolation, transaction, connect, errors, messages, wrong, found }: Result): string | undefined {
    const [code] = Object.keys(errors);
    const where = `${target}, ${isolation}, ${transaction ? 'in a transaction' : 'autocommit'}, ${connect}`;
    if (code !== undefined) return `${where}: ${errors[code]} calls ended with ${code}: ${messages[code]}`;
    return wrong ? `${where}: the end state was wrong in ${wrong} rounds: ${found}` : undefined;
}
