import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import postgres from 'postgres';
import { initdb, majorOf, startServer, type Server } from '../scripts/embedded.js';
import { connectOptions, settle } from '../scripts/harness/sessions.js';
import { ownedFolder, unprivilegedUser } from '../scripts/unprivileged.js';

export interface Pair {
    primary: Server;
    standby: Server;
    /** Returns once the standby has replayed all that the primary has written. */
    caughtUp: () => Promise<void>;
}

/** A primary and a standby that streams from it: a cold copy of the data folder. */
export async function withStandby(settings: Record<string, string>, body: (pair: Pair) => Promise<void>): Promise<void> {
    const major = majorOf(process.env.PG);
    const folder = ownedFolder(unprivilegedUser(), mkdtempSync(join(tmpdir(), 'pg-ensure-standby-')));
    const running: Server[] = [];
    const start = async (name: string, own: Record<string, string>): Promise<Server> => {
        const server = await startServer({ major, dataFolder: join(folder, name), password: 'secret', durable: false, settings: { ...settings, ...own } });
        running.push(server);
        return server;
    };
    try {
        await initdb(major, join(folder, 'primary'), { password: 'secret' });
        execFileSync('cp', ['-pR', join(folder, 'primary'), join(folder, 'standby')]);
        writeFileSync(join(folder, 'standby', 'standby.signal'), '');
        const primary = await start('primary', {});
        const standby = await start('standby', {
            primary_conninfo: `host=127.0.0.1 port=${primary.port} user=postgres password=secret`,
        });
        await body({ primary, standby, caughtUp: () => caughtUp(primary.url, standby.url) });
    } finally {
        for (const server of running.reverse()) await server.stop('immediate');
        rmSync(folder, { recursive: true, force: true });
    }
}

async function caughtUp(primary: string, standby: string): Promise<void> {
    const [row] = await asked(primary, 'select pg_current_wal_insert_lsn()::text as lsn');
    for (const end = Date.now() + 90_000; Date.now() < end;) {
        const [reached] = await asked(standby, `select pg_last_wal_replay_lsn() >= '${String(row?.lsn)}' as done`);
        if (reached?.done) return;
    }
    throw new Error('the standby does not follow');
}

async function asked(url: string, query: string): Promise<Record<string, unknown>[]> {
    const sql = postgres(url, { ...connectOptions, connect_timeout: 1 });
    const { rows } = await settle(sql.unsafe(query).simple());
    await sql.end({ timeout: 0 });
    return rows;
}
