import { createHash } from 'node:crypto';
import format from 'pg-format';
import type { Sql } from 'postgres';
import { codeOf, exitCodes, UserError } from '../errors.js';
import type { ConcurrentIndex } from './statements.js';

/** An advisory lock, and the name by which sessions that work under it are known. */
export interface Lock {
    /** 64 bits as text, written into statements as a literal. */
    key: string;
    /** Starts the application_name of every session that works. */
    sessions: string;
}

/** dbmate's table, ours beside it, and the advisory lock that guards both. */
export interface Ledger extends Lock {
    schema: string;
    name: string;
    /** What --migrations-table of dbmate is given. */
    table: string;
    /** Quoted, schema and all. */
    sql: string;
    history: string;
}

export interface Recorded {
    version: string;
    /** Of the file as it was applied; null when dbmate applied it without us. */
    sha256: string | null;
    file: string | null;
    appliedAt: string | null;
    appliedBy: string | null;
    run: string | null;
    seconds: number | null;
}

export interface Unfinished {
    version: string;
    run: string;
    since: string;
    /** It was applied, and its row was taken out of dbmate's table since, as by dbmate's own rollback. */
    finished: boolean;
    error: string | null;
}

export interface InvalidIndex {
    index: string;
    schema: string;
    /** Its table is the one that a name without a schema means. */
    visible: boolean;
    table: string;
    name: string;
}

export interface Holder {
    pid: number;
    application: string;
    since: string;
}

export interface Facts {
    serverVersion: number;
    linux: boolean;
    standby: boolean;
    pooled: boolean;
    /** False: dbmate has never run here. */
    exists: boolean;
    recorded: Recorded[];
    unfinished: Unfinished[];
    invalidIndexes: InvalidIndex[];
    holder: Holder | null;
}

const suffix = '_history';

export function lockOf(what: string): Lock {
    const digest = createHash('sha256').update(`pg-ensure ${what}`).digest();
    return { key: digest.readBigInt64BE().toString(), sessions: `pg-ensure/${digest.toString('hex', 0, 4)}` };
}

export async function ledgerOf(sql: Sql, table: string): Promise<Ledger> {
    const parts = table.split('.');
    const name = parts.at(-1) ?? '';
    if (parts.length > 2 || parts.some((part) => !part || part.includes('%')) || Buffer.byteLength(name) > 63 - suffix.length) {
        throw new UserError(`"${table}" is not taken for a table: --table <table> or <schema>.<table>, the name up to `
            + `${63 - suffix.length} bytes and without %`, exitCodes.usage);
    }
    const schema = parts.length === 2 ? parts[0] ?? '' : await schemaOf(sql, name);
    return {
        schema, name,
        table: `${schema}.${name}`,
        sql: format('%I.%I', schema, name),
        history: format('%I.%I', schema, `${name}${suffix}`),
        ...lockOf(`migrate ${schema}.${name}`),
    };
}

/** Where dbmate looks for a table without a schema, unless it stands further down the path already. */
async function schemaOf(sql: Sql, name: string): Promise<string> {
    const [row] = await sql.unsafe<{ schema: string | null }[]>(format(`
        select coalesce((select n.nspname::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
            where c.oid = to_regclass(%L)), current_schema()) as schema`, format('%I', name))).simple();
    if (row?.schema) return row.schema;
    throw new UserError(`no schema of the search_path exists: write --table <schema>.${name}`, exitCodes.usage);
}

/**
 * All that is to be known, by one statement that reads and locks nothing. Where a table is missing it is said again
 * without it: any other error is the caller's.
 */
export async function readFacts(sql: Sql, ledger: Ledger, indexes: ConcurrentIndex[]): Promise<Facts> {
    for (const known of ['history', 'ledger', 'nothing'] as const) {
        try {
            const result = await sql.unsafe(factsQuery(ledger, indexes, known)).simple();
            const { backend, ...facts } = (result as unknown as [{ facts: Facts & { backend: number } }])[0].facts;
            // A pooler invents the process id that the client is given at connect.
            return { ...facts, exists: known !== 'nothing', pooled: (result.state.pid | 0) !== backend };
        } catch (error) {
            if (codeOf(error) === '42501') {
                throw new UserError(`the ledger cannot be read: 42501: ${(error as Error).message}; grant usage on schema ${ledger.schema} `
                    + `and select on ${ledger.sql} and ${ledger.history} to this role`, exitCodes.noDatabase);
            }
            if (codeOf(error) !== '42P01' || known === 'nothing') throw error;
        }
    }
    throw new Error('unreachable');
}

function factsQuery(ledger: Ledger, indexes: ConcurrentIndex[], known: 'history' | 'ledger' | 'nothing'): string {
    const none = `'[]'::json`;
    const history = known === 'history';
    const recorded = known === 'nothing' ? none : `(
        select coalesce(json_agg(json_build_object('version', l.version, ${history ? `'sha256', h.sha256, 'file', h.file,
            'appliedAt', h.applied_at, 'appliedBy', h.applied_by, 'run', h.run_id, 'seconds', extract(epoch from h.duration)`
    : `'sha256', null`}) order by l.version), ${none})
        from ${ledger.sql} as l ${history ? `left join ${ledger.history} as h on h.version = l.version` : ''})`;
    const unfinished = history ? `(
        select coalesce(json_agg(json_build_object('version', h.version, 'run', h.run_id, 'since', h.started_at,
            'finished', h.duration is not null, 'error', h.error)), ${none})
        from ${ledger.history} as h where not exists (select from ${ledger.sql} as l where l.version = h.version))` : none;
    return `select json_build_object(
        'serverVersion', current_setting('server_version_num')::int, 'linux', version() ~ 'linux',
        'standby', pg_is_in_recovery(), 'backend', pg_backend_pid(),
        'recorded', ${recorded}, 'unfinished', ${unfinished}, 'invalidIndexes', ${indexes.length ? invalidQuery(indexes) : none},
        'holder', (${holderQuery(ledger)})) as facts`;
}

/** Who has the lock, as one value of json; no row when nobody has. */
export function holderQuery(lock: Lock): string {
    const key = BigInt.asUintN(64, BigInt(lock.key));
    return `
        select json_build_object('pid', l.pid, 'application', a.application_name, 'since', a.xact_start) as holder
        from pg_locks as l left join pg_stat_activity as a on a.pid = l.pid
        where l.locktype = 'advisory' and l.granted and l.objsubid = 1
          and l.database = (select d.oid from pg_database as d where d.datname = current_database())
          and l.classid = ${key >> 32n}::oid and l.objid = ${key & 0xffffffffn}::oid limit 1`;
}

/** Remnants of concurrent builds that our files asked for; one that is being built right now is none. */
function invalidQuery(indexes: ConcurrentIndex[]): string {
    const rows = indexes.map(({ name, table, schema, tableSchema }) => (
        format('(%L, %L, %L::text)', name, table, tableSchema ?? schema ?? null)
    ));
    return `(
        select coalesce(json_agg(json_build_object('index', format('%I.%I', n.nspname, c.relname), 'table', i.indrelid::regclass,
            'name', c.relname, 'schema', n.nspname, 'visible', pg_table_is_visible(t.oid))), '[]'::json)
        from pg_index as i
        join pg_class as c on c.oid = i.indexrelid and c.relkind = 'i'
        join pg_class as t on t.oid = i.indrelid
        join pg_namespace as n on n.oid = c.relnamespace
        where not i.indisvalid
          and exists (select from (values ${[...new Set(rows)].join(', ')}) as w (index, "table", schema)
            where w."table" = t.relname and coalesce(w.schema = n.nspname, pg_table_is_visible(t.oid))
              and (c.relname = w.index
                or not pg_is_in_recovery() and starts_with(c.relname, w.index)
                  and substr(c.relname, length(w.index) + 1) ~ '^_cc(new|old)\\d*$'))
          and not exists (select from pg_locks as k join pg_stat_progress_create_index as p on p.pid = k.pid
            where k.locktype = 'relation' and k.relation = i.indrelid and k.mode = 'ShareUpdateExclusiveLock' and k.granted
              and (coalesce(p.index_relid, 0) in (0, i.indexrelid)
                or starts_with(c.relname, (select format('%s_cc', o.relname) from pg_class as o where o.oid = p.index_relid)))
              and k.database = (select d.oid from pg_database as d where d.datname = current_database())))`;
}

/** Only under the lock. What somebody else makes in this moment too is then there. */
export async function makeLedger(sql: Sql, ledger: Ledger): Promise<void> {
    const wanted = {
        schema: [`to_regnamespace(${format('%L', format('%I', ledger.schema))})`, `create schema ${format('%I', ledger.schema)}`],
        ledger: [`to_regclass(${format('%L', ledger.sql)})`, `create table ${ledger.sql} (version varchar primary key)`],
        history: [`to_regclass(${format('%L', ledger.history)})`, historyTable(ledger)],
    };
    for (const [found = '', create = ''] of Object.values(wanted)) {
        const [row] = await sql.unsafe<{ exists: boolean }[]>(`select ${found} is not null as exists`).simple();
        if (row?.exists) continue;
        await sql.unsafe(create).simple().catch((error: unknown) => {
            if (!['23505', '42P06', '42P07', '42710'].includes(codeOf(error))) throw error;
        });
    }
}

function historyTable(ledger: Ledger): string {
    return `
        create table ${ledger.history} (
            version text primary key,
            file text not null,
            sha256 text not null,
            run_id text not null,
            started_at timestamptz not null default clock_timestamp(),
            applied_at timestamptz,
            applied_by text not null default session_user,
            duration interval,
            pg_ensure text,
            dbmate text,
            error text,
            server text default current_setting('server_version')
        );
        comment on table ${ledger.history} is
            'pg-ensure: what was applied, when and by which run. A row without applied_at is being applied, or its run died.'`;
}
