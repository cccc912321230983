import { describe, expect, test } from 'vitest';
import { expectError, major, sharedOwner } from '../context.js';
import type { Session } from '../../scripts/harness/sessions.js';

const id = 'id int generated always as identity primary key';
const withKinds = sharedOwner(`
    create extension citext;
    create type mood as enum ('sad', 'ok');
    create domain whole as int check (value > 0);
    create type pair as (a int, b text);
    create collation folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create table ct (${id}, k citext unique);
    create table en (${id}, k mood unique);
    create table jb (${id}, k jsonb unique);
    create table ar (${id}, k int[] unique);
    create table ch (${id}, k char(4) unique);
    create table nu (${id}, k numeric(5,2) unique);
    create table vc (${id}, k varchar(3) unique);
    create table ts (${id}, k timestamptz(0) unique);
    create table dom (${id}, k whole unique);
    create table co (${id}, k pair unique);
    create table by (${id}, k bytea unique);
    create table bo (${id}, b boolean, d date, f float8, unique (b, d, f));
    create table folded (${id}, k text collate folded unique);
    create table exact (${id}, k text collate folded);
    create unique index on exact (k collate "C");
    create table live (${id}, k text, deleted_at timestamptz);
    create unique index on live (k) where deleted_at is null;
    create table active (${id}, k text, active boolean not null default true);
    create unique index on active (k) where active;
    create table low (${id}, k text);
    create unique index on low (lower(k));
    create table gen (${id}, k text, low text generated always as (lower(k)) stored unique);
    create table parts (${id.replace(' primary key', '')}, tenant int, k text, unique (tenant, k)) partition by hash (tenant);
    create table parts_0 partition of parts for values with (modulus 2, remainder 0);
    create table parts_1 partition of parts for values with (modulus 2, remainder 1);
    create table "Mixed" (${id}, "Mixed" text, "select" int, unique ("Mixed", "select"));
    create table same (${id}, same text unique, t text, "~" int);
    create table inherited (${id}, k int unique);
    create table heir () inherits (inherited);
    insert into heir (id, k) values (1, 1)`);

/** Both calls: "created 1, exists 1", with the id. */
async function twice(owner: Session, table: string, attributes: unknown): Promise<string> {
    const call = `select outcome || ' ' || (data ->> 'id') as line from ensure.ensure_row_v1('${table}', '${JSON.stringify(attributes).replaceAll("'", "''")}')`;
    return [...await owner.run(call), ...await owner.run(call)].map(({ line }) => String(line)).join(', ');
}

const again = (first: number): string => `created ${first}, exists ${first}`;
const found = (first: number): string => `exists ${first}, exists ${first}`;

describe('the key is compared as its index compares it', () => {
    test.each<[string, string, [unknown, string][]]>([
        ['citext', 'ct', [[{ k: 'A' }, again(1)], [{ k: 'a' }, found(1)]]],
        ['an enum', 'en', [[{ k: 'ok' }, again(1)], [{ k: 'sad' }, again(2)]]],
        ['jsonb', 'jb', [[{ k: { a: 1, b: [] } }, again(1)], [{ k: { b: [], a: 1.0 } }, found(1)], [{ k: 'text' }, again(2)], [{ k: 5 }, again(3)], [{ k: [1] }, again(4)]]],
        ['an array', 'ar', [[{ k: [1, 2] }, again(1)], [{ k: '{1,2}' }, found(1)], [{ k: [] }, again(2)]]],
        ['char(n)', 'ch', [[{ k: 'ab' }, again(1)], [{ k: 'ab ' }, found(1)]]],
        ['numeric that the column rounds', 'nu', [[{ k: 1.005 }, again(1)], [{ k: '1.01' }, found(1)]]],
        ['varchar(n) that loses blanks', 'vc', [[{ k: 'abc  ' }, again(1)], [{ k: 'abc' }, found(1)]]],
        ['a time that the column rounds', 'ts', [[{ k: '2026-01-01 00:00:00.4Z' }, again(1)], [{ k: '2026-01-01T01:00:00+01' }, found(1)]]],
        ['a domain', 'dom', [[{ k: 1 }, again(1)], [{ k: '1' }, found(1)]]],
        ['a composite', 'co', [[{ k: { a: 1, b: 'x' } }, again(1)], [{ k: '(1,x)' }, found(1)]]],
        ['bytea', 'by', [[{ k: '\\x00ff' }, again(1)]]],
        ['three columns', 'bo', [[{ b: true, d: '2026-01-01', f: 0.1 }, again(1)], [{ b: 't', d: 'Jan 1 2026', f: '1e-1' }, found(1)], [{ b: false, d: '2026-01-01', f: 0.1 }, again(2)]]],
        ['a collation that folds', 'folded', [[{ k: 'A' }, again(1)], [{ k: 'a' }, found(1)]]],
        ['an index with another collation than its column', 'exact', [[{ k: 'A' }, again(1)], [{ k: 'a' }, again(2)]]],
        ['an expression', 'low', [[{ k: 'A' }, again(1)], [{ k: 'a' }, found(1)]]],
        ['a generated column', 'gen', [[{ k: 'A' }, again(1)], [{ k: 'a' }, found(1)]]],
        ['a partitioned table', 'parts', [[{ tenant: 1, k: 'a' }, again(1)], [{ tenant: 2, k: 'a' }, again(2)], [{ tenant: 2, k: 'a' }, found(2)]]],
        ['names in mixed case', '"Mixed"', [[{ Mixed: 'a', select: 1 }, again(1)]]],
        ['a column with the name of the table', 'same', [[{ same: 'a', t: 'b', '~': 1 }, again(1)]]],
        ['a quote', 'same', [[{ same: "it's \\ 100 %I $1 \"x\"" }, again(2)]]],
        ['a table that others inherit from', 'inherited', [[{ k: 1 }, again(1)]]],
    ])('%s', (_what, table, calls) => withKinds(async (owner) => {
        for (const [attributes, lines] of calls) expect(await twice(owner, table, attributes), JSON.stringify(attributes)).toBe(lines);
    }));

    test('a predicate: a row outside it is none; what it needs and is not given is the constant default', () => withKinds(async (owner) => {
        expect(await twice(owner, 'live', { k: 'a' })).toBe(again(1));
        await owner.run('update live set deleted_at = now()');
        expect(await twice(owner, 'live', { k: 'a' })).toBe(again(2));
        expect(await twice(owner, 'active', { k: 'a' })).toBe(again(1));
        await owner.run('update active set active = false');
        expect(await twice(owner, 'active', { k: 'a' })).toBe(again(2));
        for (const [table, attributes] of [['live', { k: 'a', deleted_at: '2026-01-01' }], ['active', { k: 'a', active: false }]] as const) {
            const call = `select ensure.ensure_row_v1('${table}', '${JSON.stringify(attributes)}')`;
            expect(expectError(await owner.attempt(call), '42P10').detail).toContain(`${table}_k_idx on (k) where`);
        }
    }));

    test('nulls that are equal', (context) => withKinds(async (owner) => {
        if (major < 15) context.skip('NULLS NOT DISTINCT came with 15');
        await owner.run(`create table nn (${id}, a int, b int, unique nulls not distinct (a, b))`);
        expect(await twice(owner, 'nn', { a: 1, b: null })).toBe(again(1));
        expect(await twice(owner, 'nn', { a: null, b: null })).toBe(again(2));
        expect(await twice(owner, 'nn', { a: 1, b: 2 })).toBe(again(3));
    }));

    test.each([
        ['en', { k: 'bad' }, '22P02'], ['nu', { k: 'x' }, '22P02'], ['nu', { k: 123456 }, '22003'], ['vc', { k: 'abcd' }, '22001'],
        ['dom', { k: -1 }, '23514'], ['ts', { k: 'x' }, '22007'],
    ])('%s %j: what the column cannot hold is %s, and no row', (table, attributes, code) => withKinds(async (owner) => {
        const count = async (): Promise<unknown> => owner.run(`select count(*) from ${table}`);
        const before = await count();
        expect((await owner.attempt(`select ensure.ensure_row_v1('${table}', '${JSON.stringify(attributes)}')`)).code).toBe(code);
        expect(await count()).toEqual(before);
    }));
});
