import { existsSync } from 'node:fs';
import { delimiter, resolve } from 'node:path';
import { fetchPackage, unpacked, whyNotRunning, type Program } from './packages.js';

export { environment, type Program as PgBouncer } from './packages.js';

/**
 * PgBouncer from $PGBOUNCER, the PATH, an earlier fetch in `folder`, or fetched into `folder` now: the package of this
 * Debian or Ubuntu, unpacked.
 */
export async function findPgBouncer(folder: string): Promise<Program | { missing: string }> {
    const named = process.env['PGBOUNCER'];
    if (named) {
        const path = resolve(named);
        const trouble = await whyNotRunning({ path });
        return trouble ? { missing: `PGBOUNCER=${named} does not run (${trouble}): correct or unset it` } : { path };
    }
    for (const place of [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']) {
        const path = resolve(place, 'pgbouncer');
        if (place && existsSync(path) && !(await whyNotRunning({ path }))) return { path };
    }
    const home = resolve(folder, 'pgbouncer');
    if (!(await whyNotRunning(unpacked(home, 'pgbouncer')))) return unpacked(home, 'pgbouncer');
    process.stderr.write(`PgBouncer is not installed: fetching its package into ${home}\n`);
    try {
        await fetchPackage({ name: 'pgbouncer', programs: ['usr/sbin/pgbouncer'] }, home);
        return unpacked(home, 'pgbouncer');
    } catch (error) {
        const reason = (error as Error).message;
        return {
            missing: `no PgBouncer (${reason}): install the package pgbouncer or set PGBOUNCER to its path`,
        };
    }
}
