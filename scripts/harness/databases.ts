import { randomBytes } from 'node:crypto';
import postgres from 'postgres';
import { connectOptions } from './sessions.js';

/** A server on which tests may create databases, and the role that owns those. */
export interface TestServer {
    /** A role with CREATEDB, or a superuser. */
    admin: string;
    /** The owner of test databases: no superuser where `admin` could make such a role. */
    owner: string;
    ownerPassword: string;
    template: string;
}

/** `url` with another database, and another role when given. */
export function at(url: string, database: string, role?: { name: string; password: string }): string {
    const parsed = new URL(url);
    parsed.pathname = `/${encodeURIComponent(database)}`;
    if (role) {
        parsed.username = encodeURIComponent(role.name);
        parsed.password = encodeURIComponent(role.password);
    }
    return parsed.href;
}

export interface Database {
    name: string;
    /** As its owner, who is no superuser. */
    url: string;
    admin: string;
}

/** One connection as `admin` for all databases of a process: each costs as much as a short test. It closes itself when nobody uses it. */
const admins = new Map<string, postgres.Sql>();
function asAdmin(url: string): postgres.Sql {
    const sql = admins.get(url) ?? postgres(url, { ...connectOptions, idle_timeout: 1 });
    admins.set(url, sql);
    return sql;
}

/** A database of its own, cloned from the migrated template and dropped afterwards, whoever is still connected. */
export async function withDatabase<Result>(server: TestServer, body: (database: Database) => Promise<Result>): Promise<Result> {
    const name = `t_${randomBytes(6).toString('hex')}`;
    const sql = asAdmin(server.admin);
    try {
        await sql`create database ${sql(name)} template ${sql(server.template)} owner ${sql(server.owner)}`;
        const role = { name: server.owner, password: server.ownerPassword };
        return await body({ name, url: at(server.admin, name, role), admin: at(server.admin, name) });
    } finally {
        await drop(sql, name);
    }
}

/** A role that is no superuser may not end an autovacuum worker: it has to let it finish. */
async function drop(sql: postgres.Sql, name: string): Promise<void> {
    for (const end = Date.now() + 30_000; ;) {
        try {
            await sql`drop database if exists ${sql(name)} with (force)`;
            return;
        } catch (error) {
            if (Date.now() < end && (error as postgres.PostgresError).code === '42501') continue;
            // Not thrown: it would hide the error of the test that left, say, a prepared transaction behind.
            console.error(`database ${name} is left behind: ${(error as Error).message}`);
            return;
        }
    }
}
