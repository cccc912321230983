import { randomBytes } from 'node:crypto';
import format from 'pg-format';
import type { TestProject } from 'vitest/node';
import { normalizedUrl, withConnection, stateFolder } from '../scripts/database.js';
import { majorOf, newPassword, temporaryServer } from '../scripts/embedded.js';
import { at, type TestServer } from '../scripts/harness/databases.js';
import { migrate } from '../scripts/migrate/run.js';
import { findPgBouncer, startPooler, type Pooler } from '../scripts/pooler.js';

/** What is not there, and why: tests that need it are skipped by name, and fail where CI is set. */
export interface Surroundings {
    server: TestServer;
    serverVersion: number;
    /** A server of our own may be crashed and its roles are ours; a given one (DATABASE_URL) is not. */
    embedded: boolean;
    superuser: boolean;
    poolerUrl?: string;
    noPooler?: string;
}

declare module 'vitest' {
    interface ProvidedContext {
        surroundings: Surroundings;
    }
}

/** One server for a run, a template that dbmate migrated as a role that is no superuser, one PgBouncer before it. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
    const given = process.env.DATABASE_URL;
    const embedded = given ? undefined : await temporaryServer(majorOf(process.env.PG), {
        max_connections: '150', max_prepared_transactions: '5',
    });
    const admin = given ? await normalizedUrl(given) : (embedded?.url ?? '');
    const suffix = randomBytes(4).toString('hex');
    const template = `ensure_template_${suffix}`;
    let pooler: Pooler | undefined;
    let owner = { name: `ensure_owner_${suffix}`, password: newPassword() };
    let madeOwner = false;

    const stop = async () => {
        await pooler?.stop();
        if (embedded) return embedded.stop('immediate');
        await withConnection(admin, async (sql) => {
            await sql`drop database if exists ${sql(template)} with (force)`;
            if (madeOwner) await sql`drop role ${sql(owner.name)}`;
        });
    };

    try {
        const facts = await withConnection(admin, async (sql) => {
            const [row] = await sql`
                select current_setting('server_version_num')::int as version, r.rolsuper, r.rolcreaterole, r.rolcreatedb
                from pg_roles as r where r.rolname = current_user`;
            if (!row?.rolsuper && !row?.rolcreatedb) throw new Error('the role of DATABASE_URL needs CREATEDB to run the tests');
            if (row.rolsuper) {
                await sql.unsafe(format('create role %I login createrole password %L', owner.name, owner.password));
                madeOwner = true;
            } else {
                const { username, password } = new URL(admin);
                owner = { name: decodeURIComponent(username), password: decodeURIComponent(password) };
            }
            await sql`create database ${sql(template)} owner ${sql(owner.name)}`;
            return { version: Number(row.version), superuser: Boolean(row.rolsuper) };
        });
        await migrate({ url: at(admin, template, owner) });

        const found = await findPgBouncer(stateFolder());
        const { hostname: host, port } = new URL(admin);
        if (!('missing' in found)) {
            pooler = await startPooler({ pgbouncer: found, server: { host, port: Number(port || 5432) }, users: [owner] });
        }
        project.provide('surroundings', {
            server: { admin, owner: owner.name, ownerPassword: owner.password, template },
            serverVersion: facts.version,
            embedded: !given,
            superuser: facts.superuser,
            ...(pooler ? { poolerUrl: pooler.url('postgres', owner.name, owner.password) } : {}),
            ...('missing' in found ? { noPooler: found.missing } : {}),
        });
    } catch (error) {
        await stop();
        throw error;
    }
    return stop;
}
