import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'vitest';
import { majorOf, temporaryServer, type Server } from '../scripts/embedded.js';
import { at } from '../scripts/harness/databases.js';
import { withSessions, type Session } from '../scripts/harness/sessions.js';
import { migrate } from '../scripts/migrate/run.js';
import { surroundings } from './context.js';
import { until } from './until.js';

export interface Servers {
    publisher: Server;
    subscriber: Server;
    stop: () => Promise<void>;
}

export interface Replicas {
    publisher: Session;
    subscriber: Session;
    /** What the subscriber's server has logged since the test began. */
    log: () => string;
    /** CREATE SUBSCRIPTION, then waits until each table has been copied. */
    subscribe: (options?: { awaitCopies: boolean }) => Promise<void>;
    refresh: (options?: string) => Promise<void>;
}

/** Two servers whose databases begin with what is migrated; undefined where DATABASE_URL names the only one. */
export async function startServers(): Promise<Servers | undefined> {
    if (!surroundings.embedded) return undefined;
    const settings = {
        wal_level: 'logical', max_wal_senders: '30', max_replication_slots: '30', max_worker_processes: '40',
        max_logical_replication_workers: '30', wal_retrieve_retry_interval: '100ms',
    };
    const started = await Promise.allSettled([1, 2].map(() => temporaryServer(majorOf(process.env.PG), settings)));
    const servers = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const stop = async (): Promise<void> => void await Promise.all(servers.map((server) => server.stop('immediate')));
    try {
        for (const one of started) if (one.status === 'rejected') throw one.reason;
        await Promise.all(servers.map((server) => migrate({ url: at(server.url, 'template1') })));
    } catch (error) {
        await stop();
        throw error;
    }
    const [publisher, subscriber] = servers as [Server, Server];
    return { publisher, subscriber, stop };
}

let count = 0;

/** A database on each of the two, both after `setup`; the first publishes what `publication` says. */
export async function withReplicas(
    context: TestContext, servers: Servers | undefined, setup: string, publication: string, body: (replicas: Replicas) => Promise<void>,
): Promise<void> {
    if (!servers) return context.skip('needs two servers of its own; DATABASE_URL is set');
    const name = `d${(count += 1)}`;
    const urls = [servers.publisher, servers.subscriber].map((server) => at(server.url, name)) as [string, string];
    for (const server of [servers.publisher, servers.subscriber]) {
        await withSessions(server.url, ['dba'], ({ dba }) => dba.run(`create database ${name}`));
    }
    const file = join(servers.subscriber.dataFolder, 'server.log');
    const logged = readFileSync(file, 'utf8').length;
    const { port, password } = servers.publisher;
    await withSessions(urls[0], ['publisher'], ({ publisher }) => withSessions(urls[1], ['subscriber'], async ({ subscriber }) => {
        for (const session of [publisher, subscriber]) await session.run(setup);
        await publisher.run(publication);
        const copied = () => until('each table has been copied', async () => {
            const states = await subscriber.run('select r.srsubstate from pg_subscription_rel as r');
            return states.length > 0 && states.every((row) => row.srsubstate === 'r');
        });
        try {
            await body({
                publisher,
                subscriber,
                log: () => readFileSync(file, 'utf8').slice(logged),
                subscribe: async ({ awaitCopies } = { awaitCopies: true }) => {
                    await subscriber.run(`create subscription ${name}
                        connection 'host=127.0.0.1 port=${port} user=postgres password=${password} dbname=${name}' publication p`);
                    if (awaitCopies) await copied();
                },
                refresh: async (options = '') => {
                    await subscriber.run(`alter subscription ${name} refresh publication ${options}`);
                    await copied();
                },
            });
        } finally {
            await subscriber.run(`drop subscription if exists ${name}`);
        }
    }));
}
