import { withConnection } from '../scripts/connection.js';
import { readFolder } from '../scripts/migrate/files.js';
import { root } from './migrate/context.js';

/** All functions, in a second, on a server of a test's own. What dbmate makes of the files is what all other tests run on. */
export const install = (url: string): Promise<void> => withConnection(url, async (sql) => {
    for (const { up } of readFolder(`${root}sql`).files) await sql.unsafe(up?.text ?? '').simple();
});
