import { majorOf, temporaryServer } from '../../scripts/embedded.js';
import type { Session } from '../../scripts/harness/sessions.js';
import { until } from '../until.js';

/** A server where autovacuum comes soon, and whoever waits looks for it after 300 ms. */
export const autovacuumServer = (): ReturnType<typeof temporaryServer> =>
    temporaryServer(majorOf(process.env.PG), { autovacuum_naptime: '1s', deadlock_timeout: '300ms' });

/** To be written to before `autovacuumAtWork`: a vacuum of a table with these takes longer than any test. */
export const slowVacuum = `autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                           autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1`;

/**
 * Returns once autovacuum is at work on all of `tables`, and is switched off: who is at work goes on, who gives way does
 * not come back. `writer` wrote to them; until 14 it tells what it wrote only when it ends a statement later on.
 */
export async function autovacuumAtWork(writer: Session, dba: Session, tables: string[]): Promise<void> {
    const isAtWork = async (): Promise<boolean> => {
        const [row] = await writer.run(`select count(distinct relation)::int as n from pg_locks
            where relation in (${tables.map((table) => `'${table}'::regclass`).join(', ')}) and mode = 'ShareUpdateExclusiveLock' and granted`);
        return row?.n === tables.length;
    };
    await until(`autovacuum is at work on ${tables.join(' and ')}`, isAtWork, 90_000);
    await dba.run('alter system set autovacuum = off');
    await dba.run('select pg_reload_conf()');
    await until('the launcher is gone', async () => (
        (await dba.run("select from pg_stat_activity where backend_type = 'autovacuum launcher'")).length === 0));
    if (!await isAtWork()) throw new Error('autovacuum ended too soon');
}
