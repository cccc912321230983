import type { Session } from '../run/session.js';
import { catalogs, removedBy, rowsQuery, withKeys, writtenBy, type Catalog, type Seen } from './catalogs.js';
import type { Look } from './outside.js';

export interface Change {
    outcome: 'created' | 'altered' | 'dropped';
    type: string;
    object: string;
    /** Of what is altered; none when its row was written again as it was. */
    columns: { column: string; from: unknown; to: unknown; secret?: true }[];
}

/** Roles by value, where pg_authid cannot be read. */
type Roles = Record<string, Record<string, unknown>>;

interface Found {
    inside: Seen[];
    outside: Seen[];
    roles: { inside: Roles; outside: Roles } | null;
}

export type Inside = <T>(query: string) => Promise<T>;

// What the text has set is not to decide what is seen, or by which role.
const unset = 'set local session authorization default; set local role none; set local search_path = pg_catalog, pg_temp; set local statement_timeout = 60000';

/** As a look from outside; leaves the transaction as it was. */
export const insideOf = (session: Session): Inside => async (query) => {
    await session.run(`savepoint pg_ensure_look; ${unset}`);
    try {
        const [row] = await session.ask(query);
        return JSON.parse((row as { found?: string } | undefined)?.found ?? 'null') as never;
    } finally {
        await session.run('rollback to savepoint pg_ensure_look; release savepoint pg_ensure_look');
    }
};

const rolesQuery = "select json_object_agg(r.rolname, to_jsonb(r) - array['rolpassword', 'oid'])::text as found from pg_roles as r";

/** The catalogs of this server that this role may read. */
export async function readable(look: Look): Promise<{ some: Catalog[]; unseen: string[] }> {
    const names = await look<Record<string, boolean>>(`
        select json_object_agg(c.relname, has_table_privilege(c.oid, 'select'))::text as found from pg_class as c
        where c.relnamespace = 'pg_catalog'::regnamespace and c.relname = any ('{${catalogs.map(({ name }) => name).join(',')}}')`);
    return {
        some: catalogs.filter(({ name }) => names[name]),
        unseen: catalogs.filter(({ name }) => names[name] === false).map(({ name }) => name),
    };
}

/** What the transaction wrote, as it and others see it: by transaction ids, those of subtransactions too. */
export async function find(inside: Inside, look: Look, some: Catalog[]): Promise<Found> {
    const first = await inside<string | null>('select to_json(pg_current_xact_id_if_assigned()::text)::text as found');
    if (first === null) return { inside: [], outside: [], roles: null };
    const span = { first, end: await look<string>('select to_json(pg_current_xact_id()::text)::text as found') };
    const written = (definitions: boolean): Promise<Seen[]> => inside(rowsQuery(some, writtenBy(span), definitions));
    const seen = await written(true).catch(() => written(false)); // who has locks in the way is not waited for
    const removed = await look<Seen[]>(rowsQuery(some, removedBy(span), false));
    const known = new Set(seen.map(id));
    const gone = removed.filter((one) => !known.has(id(one)));
    // What others are about to remove, or have locked, is there for us.
    const still = gone.length ? await inside<Seen[]>(rowsQuery(some, withKeys(keysOf(gone)), false)) : [];
    const there = new Set(still.map(id));
    // What others had removed by then is gone outside too: ours stands there until we commit.
    const standing = gone.length ? await look<Seen[]>(rowsQuery(some, withKeys(keysOf(gone)), false)) : [];
    const outside = new Set(standing.map(id));
    const byValue = some.every(({ name }) => name !== 'pg_authid');
    return {
        inside: seen, outside: removed.filter((one) => known.has(id(one)) || (!there.has(id(one)) && outside.has(id(one)))),
        // Outside first: what others commit in between differs from what is outside after the rollback, and is left out by that.
        roles: byValue ? { outside: await look<Roles>(rolesQuery), inside: await inside<Roles>(rolesQuery) } : null,
    };
}

/** After the rollback, when no lock is in the way any more of what the old definitions were. */
export async function changes({ inside, outside, roles }: Found, look: Look, some: Catalog[]): Promise<Change[]> {
    const old = outside.length ? await look<Seen[]>(rowsQuery(some, withKeys(keysOf(outside)), true)).catch(() => outside) : [];
    const before = new Map([...outside, ...old].map((one) => [id(one), one]));
    const after = new Map(inside.map((one) => [id(one), one]));
    const created = inside.filter((one) => !before.has(id(one)));
    const dropped = [...before.values()].filter((one) => !after.has(id(one)));
    const altered = inside.flatMap((one) => {
        const was = before.get(id(one));
        return was ? compared(was, one) : [];
    });
    return [
        ...told(created).map((one): Change => ({ ...named(one), outcome: 'created', columns: [] })),
        ...altered,
        ...told(dropped).map((one): Change => ({ ...named(one), outcome: 'dropped', columns: [] })),
        ...roles ? byValue(roles.outside, roles.inside, await look<Roles>(rolesQuery)) : [],
    ];
}

const id = ({ catalog, key }: Seen): string => `${catalog}/${key}`;
const named = ({ type, object, catalog, key }: Seen): Pick<Change, 'type' | 'object'> => ({ type: type ?? catalog, object: object ?? key });

function keysOf(rows: Seen[]): Map<string, string[]> {
    const keys = new Map<string, string[]>();
    for (const { catalog, key } of rows) keys.set(catalog, [...keys.get(catalog) ?? [], key]);
    return keys;
}

/** Without what comes and goes with an object that is told itself. */
function told(rows: Seen[]): Seen[] {
    const all = new Set(rows.map(id));
    const extensions = new Set(rows.filter(({ catalog }) => catalog === 'pg_extension').map(({ row }) => row.extname));
    return rows.filter(({ silent, of, extension }) => !(silent && of !== null && all.has(of)) && !(extension !== null && extensions.has(extension)));
}

function compared(was: Seen, is: Seen): Change[] {
    const columns = Object.keys(is.row).filter((column) => !same(was.row[column], is.row[column])).map((column) => (
        is.secrets.includes(column) ? { column, from: null, to: null, secret: true as const }
            : { column, from: was.row[column] ?? null, to: is.row[column] ?? null }
    ));
    return columns.length || was.digest === is.digest ? [{ ...named(was), outcome: 'altered', columns }] : [];
}

const same = (one: unknown, other: unknown): boolean => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

/** What stays as it was outside is ours; what somebody else did meanwhile is there after the rollback too. */
function byValue(before: Roles, inside: Roles, after: Roles): Change[] {
    const names = Object.keys({ ...before, ...inside }).filter((name) => same(before[name], after[name]) && !same(before[name], inside[name]));
    return names.map((name): Change => {
        const [was, is] = [before[name], inside[name]];
        const columns = was && is ? Object.keys(is).filter((column) => !same(was[column], is[column]))
            .map((column) => ({ column, from: was[column] ?? null, to: is[column] ?? null })) : [];
        return { outcome: !was ? 'created' : !is ? 'dropped' : 'altered', type: 'role', object: name, columns };
    });
}
