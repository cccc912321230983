import { loadModule, parseSync, type IndexStmt, type Node } from 'libpg-query';
import type { Section } from './files.js';

export interface Statement {
    type: string;
    node: Node;
    /** Line within the section, the marker's being 1. */
    line: number;
    /** Bytes from the start of the section to its end, semicolon included. */
    end: number;
}

export interface ConcurrentIndex {
    schema: string | undefined;
    name: string;
    table: string;
    tableSchema: string | undefined;
    statement: IndexStmt;
}

/** What a section with transaction:false is, and so what can be known of it when the one who ran it died. */
export type Nature =
    /** Its statements are one implicit transaction: done or not, and a mark in it tells which. */
    | 'block'
    /** One CREATE INDEX CONCURRENTLY with a name: the catalog tells. */
    | 'concurrent index'
    /** One statement that may be run again: VACUUM, REINDEX, DROP INDEX CONCURRENTLY IF EXISTS, … */
    | 'repeatable'
    /** Anything else: nobody can tell how far it came. */
    | 'opaque';

const newline = 10;

await loadModule();

const parsed = new WeakMap<Section, ReturnType<typeof statements>>();

/** Parsed by PostgreSQL's own parser (of version 18), or the parser's error. */
export function statements(section: Section): Statement[] | { error: string; line: number } {
    const found = parsed.get(section) ?? parse(section);
    parsed.set(section, found);
    return found;
}

function parse(section: Section): ReturnType<typeof statements> {
    const bytes = Buffer.from(section.text);
    let [line, counted] = [1, 0];
    const lineOf = (offset: number): number => {
        for (; counted < offset; counted += 1) if (bytes[counted] === newline) line += 1;
        return line;
    };
    try {
        return (parseSync(section.text).stmts ?? []).map(({ stmt, stmt_location: start = 0, stmt_len: length = 0 }) => {
            const end = length ? start + length + 1 : bytes.length;
            const lead = /^(\s|--[^\n]*(\n|$)|\/\*[\s\S]*?\*\/)*/.exec(bytes.subarray(start, end).toString())?.[0] ?? '';
            const [[type, node] = ['', {}]] = Object.entries(stmt ?? {});
            return { type, node: node as Node, line: lineOf(start + Buffer.byteLength(lead)), end };
        });
    } catch (error) {
        const { message, sqlDetails } = error as Error & { sqlDetails?: { cursorPosition: number } };
        // The position counts characters.
        const before = [...section.text].slice(0, Math.max(sqlDetails?.cursorPosition ?? 0, 0)).join('');
        return { error: message, line: before.split('\n').length };
    }
}

export function nature(section: Section): Nature {
    const found = statements(section);
    if (!Array.isArray(found)) return 'opaque';
    if (found.some(({ type }) => type === 'TransactionStmt')) return 'opaque';
    const [only] = found;
    if (!only || found.length > 1) return 'block';
    if (concurrentIndex(only)) return 'concurrent index';
    if (isRepeatable(only)) return 'repeatable';
    return refusesBlock(only) || mayRefuseBlock.includes(only.type) ? 'opaque' : 'block';
}

export function concurrentIndex({ type, node }: Statement): ConcurrentIndex | undefined {
    const statement = node as IndexStmt;
    if (type !== 'IndexStmt' || !statement.concurrent || !statement.idxname) return undefined;
    const schema = statement.relation?.schemaname;
    return { schema, name: statement.idxname, table: statement.relation?.relname ?? '', tableSchema: schema, statement };
}

export const concurrentIndexes = (section: Section | undefined): ConcurrentIndex[] => {
    const found = section ? statements(section) : [];
    return Array.isArray(found) ? found.flatMap((one) => concurrentIndex(one) ?? []) : [];
};

// Whether they do depends on more than the syntax shows.
const mayRefuseBlock = ['CallStmt', 'DoStmt', 'CreateSubscriptionStmt', 'AlterSubscriptionStmt', 'DropSubscriptionStmt'];

/** Statements that PostgreSQL refuses in a transaction block, so far as the syntax tells. */
export function refusesBlock({ type, node }: Statement): boolean {
    const { concurrent, kind, params, cmds, is_vacuumcmd: vacuum, relation, target, options } = node as Record<string, unknown>;
    switch (type) {
        case 'IndexStmt': return Boolean(concurrent);
        case 'DropStmt': return Boolean(concurrent);
        case 'VacuumStmt': return Boolean(vacuum);
        case 'ClusterStmt': return !relation;
        case 'ReindexStmt': return /SCHEMA|SYSTEM|DATABASE/.test(String(kind)) || isOn(params, 'concurrently');
        case 'DiscardStmt': return target === 'DISCARD_ALL';
        case 'AlterDatabaseStmt': return names(options).includes('tablespace');
        case 'AlterTableStmt': return JSON.stringify(cmds ?? []).includes('"concurrent":true');
        case 'CreatedbStmt': case 'DropdbStmt': case 'CreateTableSpaceStmt': case 'DropTableSpaceStmt':
        case 'AlterSystemStmt':
            return true;
        default: return false;
    }
}

function isRepeatable(statement: Statement): boolean {
    const { concurrent, missing_ok: missingOk } = statement.node as Record<string, unknown>;
    if (statement.type === 'DropStmt') return Boolean(concurrent && missingOk);
    return ['VacuumStmt', 'ReindexStmt', 'ClusterStmt', 'AlterSystemStmt', 'CheckPointStmt', 'DiscardStmt'].includes(statement.type);
}

function isOn(list: unknown, name: string): boolean {
    const items = (Array.isArray(list) ? list : []) as { DefElem?: { defname?: string; arg?: object } }[];
    const found = items.find(({ DefElem }) => DefElem?.defname === name)?.DefElem;
    return found !== undefined && !/"(false|off|0)"|"boolval":\{\}|"ival":(0|\{\})/i.test(JSON.stringify(found.arg ?? true));
}

const names = (list: unknown): string[] => (Array.isArray(list) ? list : []).map((item: { DefElem?: { defname?: string } }) => (
    item.DefElem?.defname ?? ''
));

/** True when both make the same index, name and schema aside, as far as their parse trees show. */
export function sameIndex(one: IndexStmt, definition: string): boolean {
    const other = (parseSync(definition).stmts?.[0]?.stmt as { IndexStmt?: IndexStmt } | undefined)?.IndexStmt;
    return other !== undefined && shape(one) === shape(other);
}

function shape(index: IndexStmt): string {
    const asides = ['location', 'idxname', 'concurrent', 'if_not_exists', 'schemaname', 'inh'];
    return JSON.stringify(sorted(index), (key, value: unknown) => (asides.includes(key) ? undefined : value));
}

function sorted(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(sorted);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, one]) => [key, sorted(one)]));
}
