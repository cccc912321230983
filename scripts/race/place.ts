import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import format from 'pg-format';
import { withConnection } from '../connection.js';
import { stateFolder } from '../database.js';
import { newPassword, temporaryServer, type Major } from '../embedded.js';
import { exitCodes, UserError } from '../errors.js';
import { at, withDatabase, type Database } from '../harness/databases.js';
import { install } from '../install.js';
import { findPgBouncer, startPooler } from '../pooler.js';
import type { Way } from './spec.js';

/** Databases that are thrown away. */
export interface Place {
    major: Major;
    /** As the server says it. */
    version: string;
    /** A database of its own: ensure is installed, its owner is no superuser and has CREATEROLE. */
    database<Result>(body: (database: Database) => Promise<Result>): Promise<Result>;
    /** The database's URL through PgBouncer in transaction mode with a pool of two. */
    pooled(database: Database): Promise<string>;
}

/** Of the server and of PgBouncer; ten of the connections are the lab's. */
const connections = { max_connections: 300, max_client_conn: 500 };
export const mostClients: Record<Way, [setting: string, most: number]> = {
    direct: [`max_connections = ${connections.max_connections} of the lab's server`, connections.max_connections - 10],
    pooler: [`max_client_conn = ${connections.max_client_conn} of the lab's PgBouncer`, connections.max_client_conn - 10],
};

/** A server of its own, and a pooler once that is asked for. */
export async function withPlace<Result>(major: Major, settings: Record<string, string>, body: (place: Place) => Promise<Result>): Promise<Result> {
    const server = await temporaryServer(major, { max_connections: String(connections.max_connections), max_prepared_transactions: '5', ...settings });
    const owner = { name: 'race_owner', password: newPassword() };
    let pooler: ReturnType<typeof startPooler> | undefined;
    let fetched: string | undefined;
    const forget = (): void => {
        if (fetched !== undefined) rmSync(fetched, { recursive: true, force: true });
    };
    process.once('exit', forget); // also when a signal ends us
    const started = async (): ReturnType<typeof startPooler> => {
        // What an earlier `make test` has fetched is taken, and nothing left here.
        if (!existsSync(join(stateFolder(), 'pgbouncer'))) fetched = mkdtempSync(join(tmpdir(), 'pg-ensure-pgbouncer-'));
        const pgbouncer = await findPgBouncer(fetched ?? stateFolder());
        if ('missing' in pgbouncer) throw new UserError(`no PgBouncer: ${pgbouncer.missing}`, exitCodes.noDatabase);
        const { hostname: host, port } = new URL(server.url);
        return startPooler({ pgbouncer, server: { host, port: Number(port) }, users: [owner], settings: { max_client_conn: String(connections.max_client_conn) } });
    };
    try {
        const version = await withConnection(server.url, async (sql) => {
            await sql.unsafe(format('create role %I login createrole password %L', owner.name, owner.password));
            await sql.unsafe(format('create database race_template owner %I', owner.name));
            return String((await sql`show server_version`)[0]?.server_version);
        });
        await install(at(server.url, 'race_template', owner));
        const from = { admin: server.url, owner: owner.name, ownerPassword: owner.password, template: 'race_template' };
        return await body({
            major, version,
            database: (inside) => withDatabase(from, async (database) => {
                try {
                    return await inside(database);
                } finally {
                    if (pooler) await (await pooler).release(database.name);
                }
            }),
            pooled: async ({ name }) => (await (pooler ??= started())).url(name, owner.name, owner.password),
        });
    } finally {
        await (await pooler?.catch(() => undefined))?.stop();
        forget();
        process.off('exit', forget);
        await server.stop('immediate');
    }
}
