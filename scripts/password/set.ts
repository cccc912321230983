import type { Sql } from 'postgres';
import { withConnection } from '../connection.js';
import { codeOf, UserError } from '../errors.js';
import { probe } from './probe.js';
import { fits, newVerifier } from './verifier.js';

export interface Wish {
    url: string;
    role: string;
    password: Buffer;
    /** Of a new verifier; when given, a stored one with others is replaced. */
    iterations?: number | undefined;
    /** Write where nobody can tell whether it fits. */
    force: boolean;
}

export interface Done {
    outcome: 'set' | 'exists' | 'unknown';
    /** Why it is not known, for people. */
    why: string | null;
}

interface Facts {
    /** pg_authid is for superusers. */
    readable: boolean;
    expired: boolean | null;
    iterations: number;
    pid: number;
}

const presetIterations = 4096;
const queueMs = 10_000;

/** The clear text stays in this process: what is sent is a verifier, and only when the password does not fit already. */
export async function setPassword(wish: Wish): Promise<Done> {
    return withConnection(wish.url, async (sql) => {
        const facts = await factsOf(sql, wish.role);
        return facts.readable ? compared(sql, wish, facts) : probed(sql, wish, facts);
    }, { application: 'pg-ensure password' });
}

async function factsOf(sql: Sql, role: string): Promise<Facts> {
    const rows = await sql<Facts[]>`
        select has_table_privilege('pg_catalog.pg_authid', 'select') as readable, r.rolvaliduntil < now() as expired,
               coalesce(current_setting('scram_iterations', true)::int, ${presetIterations}) as iterations,
               pg_backend_pid() as pid
        from (values (${role}::text)) as w (name)
        left join pg_roles as r on r.rolname = w.name
        where r.oid is not null`;
    const [facts] = rows;
    if (!facts) {
        throw new UserError(`there is no role "${role}": create it first, `
            + `select * from ensure.ensure_role_v1(role_name => '${role.replaceAll('\'', '\'\'')}', login => true)`);
    }
    return facts;
}

/** Callers of one database one after another: those behind the first find that the password fits. */
async function compared(sql: Sql, wish: Wish, facts: Facts): Promise<Done> {
    const { role, password, iterations } = wish;
    const stored = async (): Promise<string | null> => {
        const [row] = await sql<{ stored: string | null }[]>`select a.rolpassword as stored from pg_authid as a where a.rolname = ${role}`;
        return row?.stored ?? null;
    };
    if (await fits(await stored(), password, iterations)) return { outcome: 'exists', why: null };
    await queue(sql, role);
    try {
        const late = await fits(await stored(), password, iterations);
        if (!late) await send(sql, wish, facts);
        await sql`commit`;
        return { outcome: late ? 'exists' : 'set', why: null };
    } catch (error) {
        await sql`rollback`.catch(() => {});
        throw error;
    }
}

/** A queue, no guard: whoever holds the lock for long does not keep a password from being set. */
async function queue(sql: Sql, role: string): Promise<void> {
    await sql`begin isolation level read committed`;
    try {
        await sql`set local lock_timeout = ${sql.unsafe(`'${queueMs}ms'`)}`;
        await sql`select pg_advisory_xact_lock(hashtextextended('pg-ensure password', r.oid::bigint)) from pg_roles as r where r.rolname = ${role}`;
    } catch (error) {
        await sql`rollback`.catch(() => {});
        if (codeOf(error) !== '55P03') throw error;
        await sql`begin isolation level read committed`;
    }
}

async function probed(sql: Sql, wish: Wish, facts: Facts): Promise<Done> {
    const found = await asked(sql, wish, facts);
    if (found.answer === 'fits') return { outcome: 'exists', why: null };
    if (found.answer === 'unknown' && !wish.force) return { outcome: 'unknown', why: found.why };
    await send(sql, wish, facts);
    return { outcome: 'set', why: null };
}

async function asked(sql: Sql, { url, role, password }: Wish, { expired, pid }: Facts): ReturnType<typeof probe> {
    // Both would have a login refused with 28P01, or accepted, whatever the password.
    if (expired) return { answer: 'unknown', why: `the password of ${role} has expired (valid until): no login can tell whether it fits` };
    const { state } = await sql`select`;
    if ((state.pid | 0) !== pid) {
        return { answer: 'unknown', why: 'a pooler answers logins for the server: set MIGRATION_DATABASE_URL to the server itself' };
    }
    return probe(url, role, password);
}

async function send(sql: Sql, { role, password, iterations }: Wish, facts: Facts): Promise<void> {
    const verifier = await newVerifier(password, iterations ?? facts.iterations);
    try {
        await sql`select from ensure.ensure_role_v1(role_name => ${role}::name, password_verifier => ${verifier}::text)`;
    } catch (error) {
        if (!['3F000', '42883'].includes(codeOf(error))) throw error;
        throw new UserError('ensure.ensure_role_v1 is not in this database, which writes it: run pg-ensure migrate');
    }
}
