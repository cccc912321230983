import { describe, expect, test } from 'vitest';
import { expectError } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { namesHold } from './identifiers.js';
import { differences, publicFunctions, withWorld } from './play.js';
import { plain, scenarios, spelled } from './scenarios.js';

describe('names of schemas, tables, columns, constraints, indexes, functions and roles', () => {
    test('each public function has a scenario; negative control: a new one has not', () => withWorld(async (dba) => {
        const all = async (): Promise<unknown[]> => (await dba.run(publicFunctions)).map(({ name }) => name);
        expect(Object.keys(scenarios).sort()).toEqual(await all());
        await dba.run("create function ensure.check_x_v1() returns int language sql as 'select 1'");
        expect(Object.keys(scenarios).sort()).not.toEqual(await all());
    }));

    test('plain names: each function does its work once, then says that it is done', () => withWorld(async (dba) => {
        expect(await differences(dba)).toEqual({});
    }));

    test('hostile names: the same', () => namesHold(3));

    test.each([
        ['ensure_role_v1', '_diff_role_v1', 'alter role %I%s set %I to %s', 'alter role %s%s set %I to %s'],
        ['ensure_row_v1', '_insert_row_v1', "string_agg(quote_ident(a.attname), ', ' order by a.attnum)", "string_agg(a.attname, ', ' order by a.attnum)"],
        ['ensure_partitions_v1', '_create_statement_v1', 'create table %I.%I', 'create table %s.%s'],
    ])('negative control: %s, where %s does not quote, is found', async (name, helper, guard, replacement) => {
        const mutated = namesHold(3, {
            only: [name], prepare: async (dba) => {
                const [row] = await dba.run(`select p.proname from pg_proc as p where p.pronamespace = 'ensure'::regnamespace and strpos(p.prosrc, $q$${guard}$q$) > 0
                    order by p.proname <> '${helper}' limit 1`);
                await withoutGuard(dba, String(row?.proname), guard, replacement);
            },
        });
        await expect(mutated).rejects.toThrow(name);
    });
});

test('a column that is called $1, as PL/pgSQL calls an argument, is one of the function that plan_row_function_v1 writes', () =>
    withWorld(async (dba) => {
        const names = { ...plain, id: '$2', name: '$1' };
        expect(await differences(dba, undefined, undefined, names, ['plan_row_function_v1', 'ensure_row_v1'])).toEqual({});
    }, { ...plain, id: '$2', name: '$1' }));

describe('names that no object can have', () => {
    const { is } = spelled(plain);
    const long = 'é'.repeat(40);
    test.each([
        ['42602', `ensure_roles_v1('{"roles": [{"role_name": "${long}"}]}')`],
        ['42703', `ensure_row_v1(${is('table')}, '{"${plain.id}": 1, "${long}": 1}')`],
        ['42703', `ensure_rows_v1(${is('table')}, '[{"${plain.id}": 1, "${long}": 1}]')`],
        ['42703', `merge_rows_v1(${is('table')}, '{"${long}": 1}', '{"${plain.id}": 2}')`],
        ['42602', "ensure_role_v1('')"],
        ['42939', "ensure_role_v1('pg_x')"],
    ])('%s: %s', (code, call) => withWorld(async (dba) => {
        const { hint } = expectError(await dba.attempt(`select * from ensure.${call}`), code);
        expect(hint).not.toBe('');
    }));
});
