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
            for (const other of others) await sql`drop database if exists ${sql(other)} with (force)`;
            const roles = await sql`select r.rolname as name from pg_roles as r where starts_with(r.rolname, ${prefix}) and ${prefix} <> ''`;
            for (const { name } of roles) await sql`drop owned by ${sql(name as string)} cascade`;
            for (const { name } of roles) await sql`drop role ${sql(name as string)}`;
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
