import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { ask, expectDone, follow, gated, isBuild, isGate, isQueue, planOf, upTo } from './planned.js';

const rest = "keep => 'id', losers => 'delete'";
const gates = "select count(*)::int as n from pg_trigger where tgname ~ 'ensure_gate' and tgparentid = 0";

describe('an index that is made by whatever search_path is on what the plan has read', () => {
    /** By this path, which is the default one, kind = 'A' is a question of citext; by pg_catalog one of text. */
    const table = `create table t (id int primary key, kind citext not null, k text not null);
        insert into t values (1, 'A', 'x'), (2, 'A', 'x'), (3, 'a', 'x'), (4, 'b', 'x')`;
    const definitions = (session: Session) => session.run(`select regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') as line
        from pg_index where indrelid = 't'::regclass and not indisprimary order by 1`);
    const args: Record<string, string> = {
        'a predicate': `'t', '{k}', predicate => 'kind = ''A''', ${rest}`,
        'a predicate, without a gate': `'t', '{k}', predicate => 'kind = ''A''', ${rest}, gate => 'none'`,
        'an element': `'t', array['replace(kind, ''A'', ''x'')', 'k'], ${rest}`,
        'an element with an operator class': `'t', array['replace(kind, ''A'', ''x'') text_pattern_ops', 'k'], ${rest}`,
        'an element with a collation': `'t', array['replace(kind, ''A'', ''x'') collate "C"', 'k'], nulls_equal => false, ${rest}`,
    };
    test.each(Object.entries(args))('%s: as ensure_unique_v1 makes it', (_what, wanted) =>
        withOwner(async (owner) => {
            await owner.run(`create extension citext; ${table}`);
            await follow(owner, wanted);
            await expectDone(owner, wanted);
            const made = await definitions(owner);
            await owner.run(`drop table t; ${table}; select ensure.ensure_unique_v1(${wanted.replace(", gate => 'none'", '')})`);
            expect(made).toEqual(await definitions(owner));
        }));

    test.each([['a predicate', 2], ['a predicate, without a gate', 3], ['an element', 2]])(
        'negative control: with the text as it was given, %s, the plan ends with NS007; without that check it has no end', (what, most) =>
            withOwner(async (owner) => {
                const wanted = args[what] ?? '';
                const indexes = async (): Promise<number> => (await definitions(owner)).length;
                await owner.run(`create extension citext; ${table}`);
                await withoutGuard(owner, '_same_anywhere_v1', 'then c_printed', 'then expression');
                const ended = async (): Promise<string> => {
                    for (let turn = 0; turn < 8; turn++) {
                        const asked = await owner.attempt(planOf(wanted));
                        if (asked.code !== 'ok') return asked.code;
                        // As psql goes on after an error.
                        for (const row of asked.rows) await owner.attempt(String(row.statement));
                    }
                    return 'no end';
                };
                expect(await ended()).toBe('NS007');
                expect(await indexes()).toBeLessThanOrEqual(most);
                await withoutGuard(owner, '_check_reading_v1', '> (not own)::integer', '> 1000');
                expect(await ended()).toBe('no end');
            }));

    test('names and collations inside are kept as they were written', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, "K k" text not null, on_ boolean not null); insert into t values (1, 'a', true), (2, 'a', true), (3, 'a', false)`);
            const wanted = `'t', array['lower("K k" collate "C")'], predicate => 'on_ and "K k" <> ''--''', ${rest}`;
            const { statement } = await upTo(owner, wanted, isBuild);
            expect(statement).toContain('(lower("K k" collate "C"))');
            await follow(owner, wanted);
            await expectDone(owner, wanted);
            expect(await definitions(owner)).toEqual([{ line: expect.stringContaining('lower(("K k" COLLATE "C"))') as string }]);
        }));
});

describe('the table changes under the gate', () => {
    const wanted = `'t', '{k}', ${rest}`;
    const table = "create table t (id int primary key, k text not null, note text); insert into t values (1, 'a'), (2, 'a')";

    test.each([
        ['a column that has nothing to do with it is dropped', '', 'alter table t drop column note'],
        ['one is added', '', 'alter table t add column more int default 1'],
        ['one gets another name, beside a generated one', ', add column g int generated always as (id + 1) stored', 'alter table t rename column note to remark'],
    ])('%s: what it did it does, and the next plan makes it anew', (_what, more, change) =>
        withTestDatabase(({ url }) => withSessions(url, ['dba', 'used', 'fresh'], async ({ dba, used, fresh }) => {
            await dba.run(`${table}; alter table t alter column note set default ''${more}`);
            await gated(dba, wanted);
            expectError(await used.attempt("insert into t values (8, 'a')"), '23505');
            await dba.run(change);
            for (const session of [used, fresh]) {
                if (!more) await session.run("insert into t (id, k) values (1, 'a') on conflict (id) do nothing");
                if (!more) expectError(await session.attempt("insert into t (id, k) values (9, 'a')"), '23505');
            }
            expect(isGate((await ask(dba, wanted))[0] as never)).toBe(true);
            await gated(dba, wanted);
            for (const session of [used, fresh]) {
                await session.run("insert into t (id, k) values (1, 'a') on conflict (id) do nothing");
                expectError(await session.attempt("insert into t (id, k) values (9, 'a')"), '23505');
            }
            await follow(dba, wanted);
            await expectDone(dba, wanted);
        })));

    test('negative control: with the names of all columns an upsert is a raw error', () =>
        withOwner(async (owner) => {
            await owner.run(table);
            await withoutGuard(owner, '_gate_others_v1', "bool_or(a.attgenerated <> '')", 'true');
            await gated(owner, wanted);
            await owner.run('alter table t drop column note');
            expect((await owner.attempt("insert into t values (1, 'a') on conflict (id) do nothing")).code).toBe('42703');
        }));

    test.each([['', 't_k_key'], [", index_name => 'mine'", 'mine']])('its error has the name that the index will have%s: %s', (more, name) =>
        withOwner(async (owner) => {
            await owner.run(table);
            await gated(owner, `${wanted}${more}`);
            const { error } = await owner.attempt("insert into t values (9, 'a')");
            expect(error).toMatchObject({ code: '23505', table_name: 't', constraint_name: name });
            await follow(owner, `${wanted}${more}`);
            expect((await owner.attempt("insert into t values (9, 'a')")).error).toMatchObject({ constraint_name: name });
        }));
});

test('a plan on a partition ends while the gate of the whole table stands, and leaves that; negative control', () =>
    withOwner(async (owner) => {
        await owner.run(`create table p (r int not null, k int not null) partition by list (r); create table p1 partition of p for values in (1);
            create table p2 partition of p for values in (2); insert into p values (1, 1), (1, 1), (2, 1)`);
        const whole = "'p', '{r,k}', keep => 'k', losers => 'delete'";
        await upTo(owner, whole, isQueue);
        await follow(owner, "'p2', '{k}'");
        expect(await owner.run(gates)).toEqual([{ n: 1 }]);
        await withoutGuard(owner, '_next_steps_v1', 't.tgparentid = 0', 'true');
        await expect(follow(owner, "'p2', '{k}'")).rejects.toThrow('no end');
    }));

test('a drop is by name also for a plan whose snapshot is older than the end of another; negative control', () =>
    withTestDatabase(({ url }) => withSessions(url, ['old', 'dba'], async ({ old, dba }) => {
        await dba.run('create table t (id int primary key, k int not null); insert into t values (1, 1), (2, 1)');
        const wanted = `'t', '{k}', ${rest}`;
        await upTo(dba, wanted, ({ statement }) => statement.startsWith('drop index concurrently'));
        await old.run('begin isolation level repeatable read; select');
        await follow(dba, wanted);
        const late = (await ask(old, wanted)).filter(({ statement }) => statement.startsWith('drop index'));
        expect(late.map(({ statement }) => statement)).toEqual([expect.stringMatching(/^drop index concurrently if exists public\.ensure_probe_[0-9a-f]{12}$/)]);
        await old.run('rollback; begin');
        await withoutGuard(old, '_named_v1', /select format[^]*relation$/m, 'select (select c.oid::regclass::text from pg_class as c where c.oid = relation)');
        await old.run('commit');
        await dba.run('drop table t; create table t (id int primary key, k int not null); insert into t values (1, 1), (2, 1)');
        await upTo(dba, wanted, ({ statement }) => statement.startsWith('drop index concurrently'));
        await old.run('begin isolation level repeatable read; select');
        await follow(dba, wanted);
        expect((await ask(old, wanted)).some(({ statement }) => /^drop index concurrently if exists \d+$/.test(statement))).toBe(true);
        await old.run('rollback');
    })));
