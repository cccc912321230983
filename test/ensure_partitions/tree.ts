import type { TestContext } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import type { Database } from '../../scripts/harness/databases.js';
import { surroundings } from '../context.js';

/** The real case: LIST (originator), below it RANGE (seq), a foreign key from one such table to the other, a statement trigger. */
export const realCase = (schema: string): string => `
    create schema ${schema};
    create table ${schema}.payers (id int primary key);
    insert into ${schema}.payers values (1);
    create table ${schema}.meta (
        originator integer, seq bigint, topic bytea, payer integer references ${schema}.payers, expiry bigint, "time" timestamp,
        primary key (originator, seq)
    ) partition by list (originator);
    create table ${schema}.blob (
        originator integer, seq bigint, envelope bytea, primary key (originator, seq),
        foreign key (originator, seq) references ${schema}.meta on delete cascade
    ) partition by list (originator);
    create table ${schema}.audit (originator integer, seq bigint);
    create function ${schema}.audit() returns trigger language plpgsql as $$
    begin
        insert into ${schema}.audit select f.originator, f.seq from fresh as f;
        return null;
    end $$;
    create trigger audit after insert on ${schema}.meta referencing new table as fresh
    for each statement execute function ${schema}.audit()`;

export const band = 1_000_000;

export interface Row {
    originator: number;
    seq: number;
}

const levels = ({ originator, seq }: Row): object[] =>
    [{ list: String(originator) }, { range: String(seq), step: String(band), key: 'seq' }];

/** The path of one row, or an array of paths. */
export const pathOf = (rows: Row[]): string => JSON.stringify(rows.length === 1 && rows[0] ? levels(rows[0]) : rows.map(levels));

/** `rest` is more arguments, by name, after a comma. */
export const ensureTree = (schema: string, rows: Row[], rest = '', parents = ['meta', 'blob']): string =>
    `select e.partition::text, e.lower_bound, e.outcome from ensure.ensure_partition_tree_v1(array[${
        parents.map((parent) => `'${schema}.${parent}'`).join(', ')}]::regclass[], '${pathOf(rows)}'${rest}) as e`;

const values = (rows: Row[], more: string): string => rows.map(({ originator, seq }) => `(${originator}, ${seq}, ${more})`).join(', ');

export const insertMeta = (schema: string, rows: Row[]): string =>
    `insert into ${schema}.meta values ${values(rows, "'topic', 1, 0, 'epoch'")}`;

export const insertBlob = (schema: string, rows: Row[]): string => `insert into ${schema}.blob values ${values(rows, "'envelope'")}`;

/** From now on in new sessions of this database; only a superuser may. */
export async function setDeadlockTimeout(context: TestContext, { name, admin }: Database, value: string): Promise<void> {
    if (!surroundings.superuser) context.skip('the role of DATABASE_URL is no superuser and cannot set deadlock_timeout');
    await withSessions(admin, ['admin'], ({ admin: session }) => session.run(`alter database ${name} set deadlock_timeout = '${value}'`));
}
