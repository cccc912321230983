import { loadModule, parsePlPgSQLSync, parseSync } from 'libpg-query';

await loadModule();

export type Tree = Record<string, unknown>;

/** All nodes of a kind, wherever they are. */
export function nodes(tree: unknown, kind: string): Tree[] {
    if (tree === null || typeof tree !== 'object') return [];
    return Object.entries(tree).flatMap(([key, value]) => [...(key === kind ? [value as Tree] : []), ...nodes(value, kind)]);
}

/** A constant text, the parts of a name, and so on: the strings directly in a list of nodes. */
export const names = (list: unknown): string[] => nodes(list, 'String').map(({ sval = '' }) => sval as string);

export interface Body {
    name: string;
    /** The statements and expressions in it, parsed. */
    statements: unknown[];
    /** What EXECUTE runs, as expressions. */
    dynamic: { text: string; tree: unknown }[];
}

/** An expression or statement of PL/pgSQL as the server parses it: parse mode 2 is an expression, 3 and up an assignment. */
function parsed(query: string, mode: number): unknown {
    const assigned = mode >= 3 ? /^[^:=]*(?::=|=)\s*/s.exec(query)?.[0] : undefined;
    return parseSync(mode === 0 ? query : `select ${assigned ? query.slice(assigned.length) : query}`);
}

const dynamicKinds = ['PLpgSQL_stmt_dynexecute', 'PLpgSQL_stmt_dynfors', 'PLpgSQL_stmt_return_query', 'PLpgSQL_stmt_open'];

/** The body of the one function that `statement` creates; what the parser cannot read it says by an error. */
export function bodyOf(name: string, statement: string): Body {
    if (!/\nlanguage plpgsql\b/i.test(statement)) {
        const body = /\$fn\$(.*)\$fn\$/s.exec(statement)?.[1] ?? /\nas '(.*)'/s.exec(statement)?.[1] ?? '';
        return { name, statements: [parseSync(body)], dynamic: [] };
    }
    const tree = parsePlPgSQLSync(statement) as unknown;
    const expressions = nodes(tree, 'PLpgSQL_expr') as unknown as { query: string; parseMode?: number }[];
    const dynamic = dynamicKinds.flatMap((kind) => nodes(tree, kind)).flatMap(({ query, dynquery }) => nodes([query, dynquery], 'PLpgSQL_expr'))
        .map(({ query, parseMode }) => ({ text: String(query), mode: Number(parseMode ?? 0) })).filter(({ mode }) => mode === 2)
        .map(({ text, mode }) => ({ text, tree: parsed(text, mode) }));
    return { name, statements: expressions.map(({ query, parseMode }) => parsed(query, parseMode ?? 0)), dynamic };
}

/** The functions that a file creates, a statement each. */
export const created = (text: string): { name: string; statement: string }[] =>
    [...text.matchAll(/^create function ensure\.(\w+)\(.*?\$fn\$;$/gms)].map(([statement, name = '']) => ({ name, statement }));
