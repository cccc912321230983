import { readdirSync, readFileSync } from 'node:fs';
import { parseSync } from 'libpg-query';
import { describe, expect, test } from 'vitest';
import { bodyOf, created, names, nodes, type Body } from './parsed.js';

const folder = new URL('../../sql/', import.meta.url);
const files = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), 'utf8').split(/^-- migrate:down\n/m)[0] ?? '');
const functions = files.flatMap(created);

/** The parser of libpg-query takes a composite type that it does not know for a record, and stops where a record must not be; the server reads these. */
const unreadable = ['_make_changes_v1', '_path_nodes_v1', '_range_nodes_v1', '_unique_keys_v1'];

const read = ({ name, statement }: { name: string; statement: string }): Body | undefined => {
    try {
        return bodyOf(name, statement);
    } catch {
        return undefined;
    }
};
const bodies = functions.map(read);

const aFunction = (body: string): { name: string; statement: string } => ({ name: 'check_x_v1', statement: `create function ensure.check_x_v1(x text)\nreturns int\nlanguage plpgsql\nas $fn$\n${body}\n$fn$;` });

const ctes = (tree: unknown): string[] => nodes(tree, 'CommonTableExpr').map(({ ctename }) => String(ctename));

/** Text of these is put together by format, or by functions that the injection tests shoot at; a variable has it from there. */
function safeText(tree: unknown): boolean {
    const [kind = '', node = {}] = Object.entries((tree ?? {}) as Record<string, Record<string, unknown>>)[0] ?? [];
    switch (kind) {
        case 'FuncCall': return names(node.funcname).at(-1) === 'format' || names(node.funcname)[0] === 'ensure' || names(node.funcname).at(-1) === 'concat_ws' && (node.args as unknown[]).every(safeText);
        case 'SubLink': return nodes(node, 'ResTarget').slice(0, 1).every(({ val }) => safeText(val)) || nodes(node, 'FuncCall').some(({ funcname }) => names(funcname).at(-1) === 'format');
        case 'CaseExpr': return [...nodes(node.args, 'CaseWhen').map(({ result }) => result), ...(node.defresult ? [node.defresult] : [])].every(safeText);
        case 'CoalesceExpr': return (node.args as unknown[]).every(safeText);
        case 'TypeCast': return safeText(node.arg);
        default: return kind === 'ColumnRef' || kind === 'A_Const';
    }
}

type Rule = (body: Body) => string[];
const rules: Record<string, { offences: Rule; allowed?: Record<string, string>; offence: string }> = {
    'a relation without its schema is one of pg_catalog, or of WITH': {
        offences: ({ statements }) => statements.flatMap((tree) => nodes(tree, 'RangeVar').filter(({ schemaname }) => schemaname === undefined).map(({ relname }) => String(relname))
            .filter((name) => !name.startsWith('pg_') && !ctes(tree).includes(name))),
        offence: 'begin return (select count(*) from users); end',
    },
    'a function is called in pg_catalog or ensure': {
        offences: ({ statements }) => statements.flatMap((tree) => nodes(tree, 'FuncCall')).map(({ funcname }) => names(funcname)).filter((name) => name.length > 1 && !['ensure', 'pg_catalog'].includes(name[0] ?? '')).map((name) => name.join('.')),
        offence: 'begin return public.f(); end',
    },
    'EXECUTE runs what format, a query with format or a helper of ours put together': {
        offences: ({ dynamic }) => dynamic.filter(({ tree }) => !nodes(tree, 'ResTarget').slice(0, 1).every(({ val }) => safeText(val))).map(({ text }) => text.slice(0, 60)),
        offence: "begin execute 'drop table ' || x; return 1; end",
    },
    'no lock of the session, no sleep but that between attempts, no file': {
        offences: ({ name, statements }) => statements.flatMap((tree) => nodes(tree, 'FuncCall')).map(({ funcname }) => names(funcname).at(-1) ?? '')
            .filter((called) => /^(pg_advisory_lock|pg_try_advisory_lock|pg_advisory_lock_shared|pg_try_advisory_lock_shared|pg_advisory_unlock.*|pg_read_.*file|lo_.*|dblink.*|pg_terminate_backend|pg_cancel_backend|nextval|setval)$/.test(called)
                || called === 'pg_sleep' && !['_pause_v1', '_await_commit_v1', '_stands_v1'].includes(name)),
        offence: 'begin perform pg_advisory_lock(1); return 1; end',
    },
    'a setting is set for the transaction only': {
        offences: ({ statements }) => statements.flatMap((tree) => nodes(tree, 'FuncCall')).filter(({ funcname, args }) => names(funcname).at(-1) === 'set_config'
            && (nodes((args as unknown[]).at(-1), 'boolval').length === 0 || !JSON.stringify((args as unknown[]).at(-1)).includes('"boolval":{"boolval":true}'))).map(({ args }) => JSON.stringify((args as unknown[]).at(-1))),
        allowed: { _routes_v1: 'a memo, ensure.seen: which partitions this session has found; where it is lost, as behind a pooler, they are looked at once more' },
        offence: "begin perform set_config('work_mem', '1MB', false); return 1; end",
    },
    'no clock that stands still in a transaction decides when to stop waiting': {
        offences: ({ name, statements }) => (/lock|attempt|pause|wait|settle/.test(name) ? statements : []).flatMap((tree) => [...nodes(tree, 'FuncCall').map(({ funcname }) => names(funcname).at(-1) ?? ''),
            ...nodes(tree, 'SQLValueFunction').map(({ op }) => String(op))]).filter((called) => /^(now|transaction_timestamp|statement_timestamp|SVFOP_CURRENT_TIMESTAMP|SVFOP_LOCALTIMESTAMP)$/.test(called)),
        offence: '',
    },
    'no column list is *': {
        offences: ({ statements }) => statements.flatMap((tree) => nodes(tree, 'ResTarget')).filter(({ val }) => {
            const fields = ((val as Record<string, Record<string, unknown>> | undefined)?.ColumnRef?.fields ?? []) as Record<string, unknown>[];
            return fields.length === 1 && 'A_Star' in (fields[0] ?? {});
        }).map(() => '*'),
        allowed: { _property_statements_v1: 'hands on what a helper of the same file returns', _moves_v1: 'of text that format puts into the query', _check_children_v1: 'of text that format puts into the query' },
        offence: 'begin return (select count(y) from (select * from pg_class) as y); end',
    },
};

describe('bodies, as the parser of PostgreSQL 18 reads them', () => {
    test('all but the listed ones are read', () => {
        expect(functions.filter((_, n) => !bodies[n]).map(({ name }) => name).sort()).toEqual([...unreadable].sort());
        expect(bodies.length).toBeGreaterThan(400);
    });

    test.each(Object.keys(rules))('%s; negative control: an offence is found', (title) => {
        const { offences, allowed = {}, offence } = rules[title] as (typeof rules)[string];
        const found = bodies.flatMap((body) => (body ? offences(body).map((what) => ({ name: body.name, what })) : []));
        expect(found.filter(({ name }) => !(name in allowed)).map(({ name, what }) => `${name}: ${what}`)).toEqual([]);
        expect([...new Set(found.map(({ name }) => name))].sort(), 'an exception that nothing needs').toEqual(Object.keys(allowed).sort());
        const bad = offence ? aFunction(offence) : { ...aFunction('begin return extract(epoch from now()); end'), name: '_pause_v1' };
        expect(offences(bodyOf(bad.name, bad.statement))).not.toEqual([]);
    });
});

const constants = (tree: unknown): string[] => nodes(tree, 'sval').filter((one) => typeof one === 'object').map(({ sval }) => String(sval));

/** As pgspot asks: objects are made where nobody else can have made them, and a function says by which path it looks. */
const statementRules: Record<string, { offences: (kind: string, node: Record<string, unknown>) => boolean; offence: string }> = {
    'files create schema ensure, functions, composite types and comments, nothing else': {
        offences: (kind) => !['CreateSchemaStmt', 'CreateFunctionStmt', 'CompositeTypeStmt', 'CommentStmt'].includes(kind), offence: 'create table ensure.t (a int)',
    },
    'nothing is replaced, or taken for ours because it is there, but the schema, which dbmate has made (PS002, PS010)': {
        offences: (kind, node) => node.replace === true || node.if_not_exists === true && !(kind === 'CreateSchemaStmt' && node.schemaname === 'ensure'), offence: "create or replace function ensure.f() returns int language sql as 'select 1'",
    },
    'each object is named with its schema (PS017)': {
        offences: (kind, node) => kind === 'CreateFunctionStmt' && names(node.funcname).length !== 2 || kind === 'CompositeTypeStmt' && (node.typevar as Record<string, unknown>).schemaname !== 'ensure',
        offence: "create function f() returns int language sql as 'select 1'",
    },
    'a function says its language, volatility, rights and search_path, pg_temp last (PS003, PS005)': {
        offences: (kind, node) => {
            if (kind !== 'CreateFunctionStmt') return false;
            const options = nodes(node.options, 'DefElem');
            const path = nodes(node.options, 'VariableSetStmt').find(({ name }) => name === 'search_path');
            return !['language', 'volatility', 'security', 'set', 'as'].every((one) => options.some(({ defname }) => defname === one)) || constants(path?.args).join(', ') !== 'pg_catalog, pg_temp';
        },
        offence: "create function ensure.f() returns int language sql stable security invoker set search_path = pg_catalog as 'select 1'",
    },
};

describe('statements', () => {
    const statements = (text: string): [string, Record<string, unknown>][] => (parseSync(text).stmts ?? []).map(({ stmt }) => Object.entries(stmt ?? {})[0] as [string, Record<string, unknown>]);

    test.each(Object.keys(statementRules))('%s; negative control: an offence is found', (title) => {
        const { offences, offence } = statementRules[title] as (typeof statementRules)[string];
        expect(files.flatMap(statements).filter(([kind, node]) => offences(kind, node)).map(([kind, node]) => `${kind} ${names(node.funcname).join('.')} ${JSON.stringify(nodes(node.options, 'VariableSetStmt')).slice(0, 200)}`)).toEqual([]);
        expect(statements(offence).some(([kind, node]) => offences(kind, node))).toBe(true);
    });
});
