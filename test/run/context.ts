import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { expect } from 'vitest';
import type { Database } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import type { Event } from '../../scripts/run/report.js';
import type { Report } from '../../scripts/run/run.js';
import { withTestDatabase } from '../context.js';
import { start, until, type Ended, type Start } from '../migrate/context.js';

export { until, withoutGuards } from '../migrate/context.js';

export interface Document extends Report {
    outcome: string;
    error: string | null;
    exitCode: number;
}

export interface Runner {
    kill: (signal: NodeJS.Signals) => boolean;
    /** Resolves with the first event that is meant, past ones too; undefined when the process ends without one. */
    saw: <Name extends Event['event']>(name: Name, met?: (event: Event & { event: Name }) => boolean) => Promise<(Event & { event: Name }) | undefined>;
    ended: Promise<Ended & { document: Document }>;
}

/** `pg-ensure run --json` as a process of its own. */
export function startRun(url: string, query: string, args: string[] = [], options: Start = {}): Runner {
    const running = start(url, ['run', query, '--json', ...args], options);
    const seen: Event[] = [];
    const waiting: (() => void)[] = [];
    let over = false;
    const wake = (): void => waiting.splice(0).forEach((resume) => resume());
    createInterface({ input: running.child.stderr as Readable }).on('line', (line) => {
        if (line.startsWith('{')) seen.push(JSON.parse(line) as Event);
        wake();
    }).on('close', () => {
        over = true;
        wake();
    });
    return {
        kill: (signal) => running.kill(signal),
        async saw(name, met = () => true) {
            for (;;) {
                const found = seen.find((one) => one.event === name && met(one as never));
                if (found || over) return found as never;
                await new Promise<void>((resolve) => waiting.push(resolve));
            }
        },
        ended: running.ended.then((end) => ({ ...end, document: (end.stdout.startsWith('{') ? JSON.parse(end.stdout) : {}) as Document })),
    };
}

export const runToEnd = (url: string, query: string, args: string[] = [], options: Start = {}): Runner['ended'] => (
    startRun(url, query, args, options).ended
);

/**
 * Three plans by hand. plan_steps: rows 1 to 4 of app.done, in two barriers, each behind app.gate. plan_indexes: three indexes
 * built concurrently, an invalid one dropped first. plan_sweep: app.t swept 100 rows at a time.
 */
const plans = `
create schema app;
create table app.gate ();
create table app.t (id integer primary key, a integer, b integer, c integer, swept boolean not null default false);
insert into app.t select n, n, n, n from generate_series(1, 1000) as n;
create table app.done (n integer primary key, at integer generated always as identity);
create table app.runs (n integer);
create function app.plan_steps() returns table (step_number integer, statement text, in_transaction boolean, locks text, why text)
language sql stable as $$
    select w.n, format('lock table app.gate in access share mode; insert into app.runs values (%1$s); insert into app.done values (%1$s)', w.n),
           true, 'ACCESS SHARE on app.gate', 'wanted'
    from generate_series(1, case when (select count(*) from app.done as d where d.n <= 2) < 2 then 2 else 4 end) as w (n)
    where not exists (select from app.done as d where d.n = w.n) order by w.n
$$;
create function app.plan_indexes() returns table (step_number bigint, statement text, in_transaction boolean, locks text, why text)
language sql stable as $$
    select row_number() over (order by w.name),
           case when c.oid is null then format('create index concurrently %I on app.t (%I)', w.name, right(w.name, 1))
                else format('drop index concurrently app.%I', w.name) end,
           false, 'SHARE UPDATE EXCLUSIVE on app.t', 'wanted'
    from unnest('{t_a,t_b,t_c}'::text[]) as w (name)
    left join pg_class as c on c.relname = w.name and c.relnamespace = 'app'::regnamespace
    left join pg_index as i on i.indexrelid = c.oid
    where i.indisvalid is not true
$$;
create function app.plan_sweep() returns table (statement text) language sql stable as $$
    select 'with u as (update app.t set swept = true where id in (select id from app.t where not swept order by id limit 100)
            returning 1) select count(*) as row_count from u'
    where exists (select from app.t where not swept)
$$;
create function app.plan_all() returns table (statement text, in_transaction boolean) language sql stable as $$
    select statement, in_transaction from app.plan_steps()
    union all select statement, in_transaction from app.plan_indexes() where not exists (select from app.plan_steps())
    union all select statement, true from app.plan_sweep()
    where not exists (select from app.plan_steps()) and not exists (select from app.plan_indexes())
$$;
`;

export const [steps, indexes, sweep, all] = ['steps', 'indexes', 'sweep', 'all'].map((name) => `select * from app.plan_${name}()`) as [string, string, string, string];

export interface World {
    database: Database;
    url: string;
    /** Another session, of the same role. */
    other: Session;
}

export const withPlans = (body: (world: World) => Promise<void>): Promise<void> => (
    withTestDatabase((database) => withSessions(database.url, ['other'], async ({ other }) => {
        await other.run(plans);
        await body({ database, url: database.url, other });
    }))
);

/** Until somebody waits for `holder`, with a statement or asking for the plan. */
export const waitsFor = (url: string, holder: Session): Promise<void> => until(url,
    `select true from pg_stat_activity as a where a.query ~ '^-- migrate:(plan|ask) ' and ${holder.pid} = any (pg_blocking_pids(a.pid))`);

/** What plan_all wants is there, each statement of plan_steps took effect once, and the locks of runners are gone. */
export async function expectConverged({ url, other }: World): Promise<void> {
    expect(await other.run('select n from app.done order by at')).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }, { n: 4 }]);
    expect(await other.run('select n from app.runs order by n')).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }, { n: 4 }]);
    expect(await other.run(`select i.indexrelid::regclass::text as name from pg_index as i
        where i.indrelid = 'app.t'::regclass and i.indisvalid order by 1`)).toEqual(['app.t_a', 'app.t_b', 'app.t_c', 'app.t_pkey'].map((name) => ({ name })));
    expect(await other.run('select from app.t where not swept')).toEqual([]);
    await until(url, `select not exists (select from pg_locks as l where l.locktype = 'advisory'
        and l.database = (select d.oid from pg_database as d where d.datname = current_database()))`);
}
