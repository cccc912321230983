import format from 'pg-format';
import { withConnection } from '../../scripts/connection.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import type { Database } from '../../scripts/harness/databases.js';
import { surroundings, withTestDatabase } from '../context.js';

export interface Roles {
    database: Database;
    /** The name of a role of this test: roles belong to the whole server, so it carries the database's. */
    role: (name: string) => string;
    /** Drops a database that the test made beside its own, when it ends. */
    alsoDrops: (database: string) => void;
}

/** Sessions as a superuser in a database of the test's own; roles whose names `role` made are dropped after it. */
export async function withRoles<Name extends string>(
    names: readonly Name[],
    body: (sessions: Record<Name, Session>, roles: Roles) => Promise<void>,
): Promise<void> {
    if (!surroundings.superuser) throw new Error('tests of roles need a superuser in DATABASE_URL');
    let prefix = '';
    const others: string[] = [];
    try {
        await withTestDatabase((database) => {
            prefix = `${database.name}_`;
            const role = (name: string): string => `${prefix}${name}`;
            return withSessions(database.admin, names, (sessions) => body(sessions, { database, role, alsoDrops: (name) => others.push(name) }));
        });
    } finally {
        await withConnection(surroundings.server.admin, async (sql) => {
            for (const other of others) await sql.unsafe(format('drop database if exists %I with (force)', other));
            const roles = await sql`select r.rolname as name from pg_roles as r where starts_with(r.rolname, ${prefix}) and ${prefix} <> ''`;
            for (const { name } of roles) await sql.unsafe(format('drop owned by %I cascade', name));
            for (const { name } of roles) await sql.unsafe(format('drop role %I', name));
        });
    }
}

/** `statement` as `role`, with that role's rights alone, then again as the superuser. */
export async function as<Result>(session: Session, role: string, body: () => Promise<Result>): Promise<Result> {
    await session.run(`set session authorization "${role}"`);
    try {
        return await body();
    } finally {
        await session.attempt('rollback');
        await session.run('reset session authorization');
    }
}

/** Rows of an ensure function, a line each. */
export const lines = (rows: Record<string, unknown>[]): string[] => rows.map(({ object, outcome }) => `${String(object)} ${String(outcome)}`);
