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
    /** What the first row says the plan is, so that it is the same for whoever spells it in another way. */
    key: string | null;
}

/** One statement, in a read-only transaction: a plan that writes is an error. It may take its time, but for locks. */
export async function askPlan(trying: Trying, query: string): Promise<Plan> {
    const { id, session, lockTimeoutMs, watch } = trying;
    const mark = `-- migrate:ask run:${id}`;
    const once = async (): Promise<Result> => {
        await session.run(`begin isolation level read committed, read only; set local lock_timeout = ${lockTimeoutMs}`);
        try {
            return await session.ask(`${mark}\n${query}`);
        } finally {
            await session.run('rollback').catch(() => {}); // the connection is lost, or ends with the run
        }
    };
    const asking = attempts(trying, { step: null, statement: query }, once);
    const { result } = await watch.during(null, `a.query like '${mark}%'`, asking);
    return planOf(result);
}

function planOf(result: Result): Plan {
    const columns = result.columns?.map(({ name }) => name) ?? [];
    if (!columns.includes('statement')) {
        const has = columns.length ? `the columns ${columns.join(', ')}` : 'no columns';
        throw new UserError(`this is no plan: the query returns ${has}, and none is called "statement"; ask for a plan: `
            + 'pg-ensure run "select * from ensure.plan_partitions_v1(…)"', exitCodes.usage);
    }
    const text = (value: unknown): string | null => (typeof value === 'string' ? value : null);
    const rows = result.map(({ step_number: step, statement, in_transaction: inTransaction, locks, why }, at) => {
        const number = Number(step ?? at + 1);
        if (typeof statement !== 'string' || !statement.trim()) {
            throw new UserError(`the plan is wrong: the statement of step ${number} is ${statement === null ? 'null' : 'no text'}`);
        }
        if (![true, false, null, undefined].includes(inTransaction as boolean)) {
            throw new UserError('the plan is wrong: in_transaction is not boolean');
        }
        return { step: number, statement, inTransaction: inTransaction !== false, locks: text(locks), why: text(why) };
    });
    return { rows, key: text((result[0] as { plan_key?: unknown } | undefined)?.plan_key) };
}

/** Spellings that differ in white space are one plan; that others may collide too does no harm. */
export const planLock = (query: string, { key }: Plan): Lock => (
    lockOf(`run ${key ?? query.replace(/\s+/g, '').replace(/;+$/, '')}`)
);
