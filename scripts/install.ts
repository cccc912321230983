import { withConnection } from './connection.js';
import { readFolder } from './migrate/files.js';
import { ownFolder } from './migrate/known.js';

/** All functions and no ledger, in a second: for servers that are thrown away. What is kept is migrated. */
export const install = (url: string): Promise<void> => withConnection(url, async (sql) => {
    for (const { up } of readFolder(ownFolder).files) await sql.unsafe(up?.text ?? '').simple();
});
