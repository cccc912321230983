import { aftermath, pictureOf } from '../../scripts/harness/aftermath.js';
import type { Session } from '../../scripts/harness/sessions.js';
import { cleanup, type Target } from '../../scripts/harness/targets.js';

/** What people write: a table, then its attachment, each a transaction of its own. */
export const steps = (id: string): [string, string] => [
    `create table if not exists ${id}.p_10 (like ${id}.p including all)`, `alter table ${id}.p attach partition ${id}.p_10 for values from (10) to (20)`,
];
export const twoSteps: Target = {
    name: 'two statements',
    setup: (id) => `create schema ${id}; create table ${id}.p (k int primary key, v text) partition by range (k); insert into ${id}.p select where false`,
    call: (id) => `select outcome from ensure.ensure_partitions_v1('${id}.p', '10', 10)`,
    holds: (id) => `ensure.check_coverage_v1('${id}.p', '{"k": 10}') and not exists (select from pg_class where relnamespace = '${id}'::regnamespace and relkind = 'r' and not relispartition)`,
    rows: ['p'], halfway: 'nowhere',
};

/** What the check of the suite says of `body`, which leaves something behind, while that is still open. */
export async function complaints(dba: Session, id: string, body: (id: string, check: () => Promise<string[]>) => Promise<string[]>): Promise<string[]> {
    await dba.run(twoSteps.setup(id));
    const before = await pictureOf(dba, twoSteps, id);
    try {
        return await body(id, async () => (await aftermath(dba, twoSteps, id, before, 500)).violations);
    } finally {
        await dba.attempt(cleanup(id));
    }
}
