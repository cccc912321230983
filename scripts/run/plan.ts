import { exitCodes, UserError } from '../errors.js';
import { lockOf, type Lock } from '../migrate/ledger.js';
import { attempts, type Trying } from './attempts.js';
import type { Result } from './session.js';

export interface Row {
    step: number;
    statement: string;
    inTransaction: boolean;
    locks: string | null;
    why: string | null;
}

export interface Plan {
    rows: Row[];
    /** The other databases that rows name in a column `database`: those are not for this connection. */
    elsewhere: string[];
    /** What the first row says the plan is, so that it is the same for whoever spells it in another way. */
    key: string | null;
}

/** One statement, in a read-only transaction: a plan that writes is an error. It may take its time, but for locks. */
export async function askPlan(trying: Trying, query: string): Promise<Plan> {
    const { id, session, lockTimeoutMs, watch } = trying;
    const mark = `-- migrate:ask run:${id}`;
    const once = async (): Promise<Asked> => {
        await session.run(`begin isolation level read committed, read only; set local lock_timeout = ${lockTimeoutMs}`);
        try {
            const result = await session.ask(`${mark}\n${query}`);
            return { result, here: result.columns?.some(({ name }) => name === 'database') ? await currentDatabase(session) : null };
        } finally {
            await session.run('rollback').catch(() => {}); // the connection is lost, or ends with the run
        }
    };
    const asking = attempts(trying, { step: null, statement: query }, once);
    const { result } = await watch.during(null, `a.query like '${mark}%'`, asking);
    return planOf(result);
}

interface Asked {
    result: Result;
    here: string | null;
}

async function currentDatabase(session: Trying['session']): Promise<string> {
    const [row] = await session.ask('select current_database() as name');
    return (row as { name: string }).name;
}

function planOf({ result, here }: Asked): Plan {
    const columns = result.columns?.map(({ name }) => name) ?? [];
    if (!columns.includes('statement')) {
        const has = columns.length ? `the columns ${columns.join(', ')}` : 'no columns';
        throw new UserError(`this is no plan: the query returns ${has}, and none is called "statement"; ask for a plan: `
            + 'pg-ensure run "select * from ensure.plan_partitions_v1(…)"', exitCodes.usage);
    }
    const text = (value: unknown): string | null => (typeof value === 'string' ? value : null);
    const isHere = ({ database }: Record<string, unknown>): boolean => here === null || typeof database !== 'string' || database === here;
    const elsewhere = [...new Set(result.filter((row) => !isHere(row)).map(({ database }) => String(database)))].sort();
    const rows = result.filter(isHere).map(({ step_number: step, statement, in_transaction: inTransaction, locks, why }, at) => {
        const number = Number(step ?? at + 1);
        if (typeof statement !== 'string' || !statement.trim()) {
            throw new UserError(`the plan is wrong: the statement of step ${number} is ${statement === null ? 'null' : 'no text'}`);
        }
        if (![true, false, null, undefined].includes(inTransaction as boolean)) {
            throw new UserError('the plan is wrong: in_transaction is not boolean');
        }
        return { step: number, statement, inTransaction: inTransaction !== false, locks: text(locks), why: text(why) };
    });
    return { rows, elsewhere, key: text((result[0] as { plan_key?: unknown } | undefined)?.plan_key) };
}

/** Spellings that differ in white space are one plan; that others may collide too does no harm. */
export const planLock = (query: string, { key }: Plan): Lock => (
    lockOf(`run ${key ?? query.replace(/\s+/g, '').replace(/;+$/, '')}`)
);
