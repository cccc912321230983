import type { Report } from '../../scripts/rehearse/rehearse.js';
import type { Database } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import type { ServerMessage } from '../../scripts/print.js';
import { withTestDatabase } from '../context.js';
import { start, type Ended, type Start } from '../migrate/context.js';

export interface Document extends Report {
    outcome: string;
    notices: ServerMessage[];
    error: string | null;
    exitCode: number;
}

export interface Rehearsal {
    kill: (signal: NodeJS.Signals) => boolean;
    ended: Promise<Ended & { document: Document }>;
}

export function startRehearsal(url: string, sql: string, args: string[] = [], options: Start = {}): Rehearsal {
    const running = start(url, ['rehearse', sql, '--json', ...args], options);
    return {
        kill: (signal) => running.kill(signal),
        ended: running.ended.then((end) => ({ ...end, document: (end.stdout.startsWith('{') ? JSON.parse(end.stdout) : {}) as Document })),
    };
}

export const rehearsal = (url: string, sql: string, args: string[] = [], options: Start = {}): Rehearsal['ended'] => startRehearsal(url, sql, args, options).ended;

/** Changes as lines, columns aside. */
export const lines = ({ changes }: Document): string[] => changes.map(({ outcome, type, object }) => `${outcome} ${type} ${object}`).sort();

export interface World {
    database: Database;
    url: string;
    other: Session;
    /** All rows of catalogs and of app.t, which a rehearsal must leave as they were. */
    state: () => Promise<string>;
}

const setup = `
    create schema app;
    create table app.t (id bigint generated always as identity primary key, a integer not null, b text);
    insert into app.t (a, b) select n, 'b' from generate_series(1, 10) as n;
    create view app.v as select a from app.t;
    create function app.f(n integer default 3) returns integer language sql as 'select 1'`;

/** Not relfrozenxid and what else a vacuum writes. */
const stateQuery = `
    select md5(string_agg(s.line, ',' order by s.line)) as state from (
        select 'class ' || c.oid || c.relname || c.relowner || coalesce(c.relacl::text, '') || c.relfilenode from pg_class as c
        union all select 'attribute ' || a.attrelid || a.attname || a.atttypid from pg_attribute as a
        union all select 'proc ' || p.oid || p.prosrc from pg_proc as p
        union all select 'role ' || r.oid || r.rolname || r.rolconnlimit from pg_roles as r where r.rolname = current_user or r.rolname like 'rehearsed%'
        union all select 'row ' || t::text from app.t as t) as s (line)`;

export const withWorld = (body: (world: World) => Promise<void>): Promise<void> => (
    withTestDatabase((database) => withSessions(database.url, ['other'], async ({ other }) => {
        await other.run(setup);
        await body({ database, url: database.url, other, state: async () => String((await other.run(stateQuery))[0]?.state) });
    }))
);
