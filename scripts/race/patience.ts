import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { connectOptions } from '../harness/sessions.js';
import { clientName } from '../harness/stampede.js';

/** How long nothing may move in an order or a round, in seconds, before it has failed. */
export const defaultTimeout = 60;

/** Ends the steps of a round of clients in which none has ended for too long. */
export interface Patience {
    /** The clients of a round are let go. */
    begin(round: number): void;
    began(client: number, step: string): void;
    /** It has no other step in this round. */
    ended(client: number): void;
    /** Why the steps of this round are ended; undefined while they need not be. */
    lost(): string | undefined;
    /** All clients have ended. */
    end(): Promise<void>;
    stop(): void;
}

/** Of who looks on. */
export const watchName = 'race watch';

const triesToCancel = 50;

export function patient(admin: string, seconds: number): Patience {
    const steps = new Map<number, string>();
    let why: string | undefined;
    let timer: NodeJS.Timeout | undefined;
    let ending: Promise<void> | undefined;
    const endAll = async (round: number): Promise<void> => {
        const sql = postgres(admin, connectOptions);
        try {
            const waiting = await sql.unsafe(`
                select substr(a.application_name, ${clientName.length + 1})::int as client,
                       array_to_string(array(select replace(b.application_name, '${clientName}', 'client ') from pg_stat_activity as b
                                             where b.pid = any (pg_blocking_pids(a.pid)) order by 1), ', ') as holders
                from pg_stat_activity as a where a.datname = current_database() and a.application_name ~ '^${clientName}[0-9]+$'`) as unknown as { client: number; holders: string }[];
            const told = [...steps].map(([client, step]) => {
                const holders = waiting.find((row) => row.client === client)?.holders;
                return `client ${client} is in ${step}${holders ? `, waits for ${holders}` : ''}`;
            });
            if (!told.length) return; // the last has ended since
            why = `nothing has moved for ${seconds} s in round ${round}: ${[...told.slice(0, 5), ...(told.length > 5 ? [`${told.length - 5} more`] : [])].join('; ')}`;
            // Again and again: behind a pooler others come to the server only when these have gone.
            for (let tries = 0; steps.size; tries++) {
                await sql.unsafe(`
                    select ${tries < triesToCancel ? 'pg_cancel_backend' : 'pg_terminate_backend'}(a.pid) from pg_stat_activity as a
                    where a.datname = current_database() and a.state = 'active' and a.backend_type = 'client backend'
                      and a.pid <> pg_backend_pid() and a.application_name <> '${watchName}'`);
                await sleep(100);
            }
        } finally {
            await sql.end({ timeout: 0 });
        }
    };
    return {
        begin: (round) => void (timer = setTimeout(() => void (ending = endAll(round)), seconds * 1000)),
        began: (client, step) => {
            steps.set(client, step);
            if (!ending) timer?.refresh();
        },
        ended: (client) => {
            steps.delete(client);
            if (!ending) timer?.refresh();
        },
        lost: () => why,
        end: async () => {
            clearTimeout(timer);
            timer = undefined; // refreshed, it would go on
            await ending;
            ending = undefined;
        },
        stop: () => clearTimeout(timer),
    };
}
