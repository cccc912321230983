import fc from 'fast-check';
import format from 'pg-format';
import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { objections, type PublicFunction } from './judge.js';
import { publicFunctions, withWorld } from './play.js';
import { plain } from './scenarios.js';
import { keyTypes, values } from './rows.js';
import { allWrong, cases, wrongWith } from './values.property.js';
import { lookalikes } from './values.js';

describe('a value that makes trouble for the type of an argument', () => {
    test('is taken, or refused with one line and a code of the header, never an internal error; the session is as before', () => withWorld(async (dba) => {
        await dba.run(lookalikes);
        const all = await cases(dba);
        await fc.assert(fc.asyncProperty(fc.constantFrom(...all), async (one) => {
            const found = await wrongWith(dba, one);
            if (found.length > 0) throw new Error(found.join('\n'));
        }), { numRuns: 300, includeErrorInReport: true });
    }));

    test.each([
        ['_number_grid_v1', "errcode = 'invalid_parameter_value'", "errcode = 'internal_error'", 'is an internal error'],
        ['ensure_partitions_v1', '22007, 22023', '22007', 'is not in its header'],
        ['_number_grid_v1', 'hint = ', 'column = ', 'no hint'],
    ])('negative control: %s with other than %s is found', (name, guard, replacement, what) => withWorld(async (dba) => {
        const these = async () => (await cases(dba)).filter(({ of, argument }) => of.name === 'ensure_partitions_v1' && argument === 'step');
        expect(await allWrong(dba, await these())).toEqual([]);
        await withoutGuard(dba, name, new RegExp(guard.replaceAll('(', '\\('), 'g'), replacement);
        expect((await allWrong(dba, await these())).join('\n')).toContain(what);
    }));

    test('negative control: a setting and a lock that stay are found', () => withWorld(async (dba) => {
        const leaky = { name: 'check_x_v1', source: '', arguments: [] };
        await dba.run(`create function ensure.check_x_v1(x int) returns int language sql as 'select pg_advisory_lock(x)::text; select 1'`);
        expect((await allWrong(dba, [{ of: leaky, argument: 'x', value: '7' }])).join('')).toContain('the session has changed');
    }));
});

describe('a value of a row', () => {
    const check = async (dba: Session, of: PublicFunction, type: string, value: unknown): Promise<string[]> => {
        const document = format.literal(JSON.stringify(of.name === 'ensure_row_v1' ? { k: value } : [{ k: value }]));
        const ask = (): Promise<{ code: string; rows: Record<string, unknown>[] }> => dba.attempt(`select outcome from ensure.${of.name}('a_schema.k', ${document})`);
        await dba.run('savepoint row');
        try {
            const first = await ask();
            if (first.code !== 'ok') return objections(of, type, document, first);
            const again = await ask();
            const words = [...first.rows, ...again.rows].map(({ outcome }) => String(outcome)).join(' ') + (again.code === 'ok' ? '' : again.code);
            return words === 'created exists' ? [] : [`${of.name} of ${type} ${document}: ${words}`];
        } finally {
            await dba.run('rollback to row; release row');
        }
    };
    const both = async (dba: Session): Promise<PublicFunction[]> =>
        (await dba.run(publicFunctions)).filter(({ name }) => name === 'ensure_row_v1' || name === 'ensure_rows_v1') as unknown as PublicFunction[];

    test('is found again by the second call whatever the type of the key, or refused with a code of the header', () => withWorld(async (dba) => {
        const functions = await both(dba);
        for (const type of keyTypes) {
            await dba.run(`savepoint type; create table a_schema.k (k ${type} primary key)`);
            await fc.assert(fc.asyncProperty(values, fc.constantFrom(...functions), async (value, of) => {
                const found = await check(dba, of, type, value);
                if (found.length > 0) throw new Error(found.join('\n'));
            }), { numRuns: 12, includeErrorInReport: true });
            await dba.run('rollback to type; release type');
        }
    }));

    test('negative control: a table that changes what it is given does not have the row', () => withWorld(async (dba) => {
        await dba.run(`create table a_schema.k (k text primary key); create function a_schema.f() returns trigger language plpgsql as $$ begin new.k := new.k || 'x'; return new; end $$;
            create trigger t before insert on a_schema.k for each row execute function a_schema.f()`);
        const [of] = await both(dba);
        if (!of) throw new Error('no ensure_row_v1');
        expect(await check(dba, of, 'text', 'a')).not.toEqual([]);
    }));

    test('\\u0000 and a lone surrogate are refused by jsonb, before any function sees them', () => withWorld(async (dba) => {
        for (const [text, code] of [['\\u0000', '22P05'], ['\\ud83d', '22P02']]) {
            await dba.run('savepoint v');
            expect((await dba.attempt(`select * from ensure.ensure_row_v1('a_schema.a_table', '{"a_id": 9, "a_name": "${text}"}')`)).code).toBe(code);
            await dba.run('rollback to v');
        }
    }));
});

describe('names that are empty', () => {
    test.each([`ensure_partition_delegate_v1('a_schema.a_range', '${plain.role}', '10', '0', '100', function_name => '')`, "ensure_unique_v1('a_schema.a_child', '{a_id,a_name}', index_name => '')",
        "plan_unique_v1('a_schema.a_child', '{a_id,a_name}', index_name => '')", "plan_row_function_v1('a_schema.a_table', '{a_id}', '')"])('%s', (asked) => withWorld(async (dba) => {
        const { hint } = expectError(await dba.attempt(`select * from ensure.${asked}`), '22023');
        expect(hint).not.toBe('');
    }));
});
