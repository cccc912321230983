import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { differences, sharedWorld, withWorld } from './play.js';
import { plant, shadow } from './plants.js';
import { plain, scenarios, spelled } from './scenarios.js';

const path = (value: string): string => `select pg_catalog.set_config('search_path', '${value}', true)`;
const hostile = path('evil, pg_catalog, public');
const safe = path('public');
const ran = async (dba: Session): Promise<unknown> => (await dba.run('select is_called from public.hijacks'))[0]?.is_called;
const without = (setting: string): string => `do $do$ declare f oid; begin for f in select p.oid from pg_proc as p where p.pronamespace = 'ensure'::regnamespace loop
    execute format('alter function %s ${setting}', f::regprocedure); end loop; end $do$`;

describe('a schema first in the search_path of a superuser who calls, with functions, operators and types of its own', () => {
    const withPlants = sharedWorld(`create schema evil; ${plant('evil')}`);

    test('none of them is run, and each function does its work', () => withPlants(async (dba) => {
        const [row] = await dba.run("select count(*)::int as n from pg_proc as p where p.pronamespace = 'evil'::regnamespace");
        expect(row?.n).toBeGreaterThan(400);
        expect(await differences(dba, hostile, safe)).toEqual({});
        expect(await ran(dba)).toBe(false);
    }));

    test('none of them is run when they are beside the tables', () => withPlants(async (dba) => {
        for (const kind of ['table', 'child', 'range', 'list', 'hash', 'archive'] as const) await dba.run(`alter table ${spelled(plain).of(kind)} set schema evil`);
        const ofTables = Object.keys(scenarios).filter((name) => !/role_|roles|owner|grants|budget|install|delegate/.test(name)); // those are about all that is in a schema
        expect(await differences(dba, path('evil, pg_catalog'), safe, { ...plain, schema: 'evil' }, ofTables)).toEqual({});
        expect(await ran(dba)).toBe(false);
    }));

    test('none of them is run by the functions and triggers that are made', () => withPlants(async (dba) => {
        const { of, is } = spelled(plain);
        const [made] = await dba.run(`select statement from ensure.plan_row_function_v1(${is('table')}, '{a_id}', 'a_routine')`);
        await dba.run(`${String(made?.statement)}; select from ensure.ensure_partition_delegate_v1(${is('range')}, '${plain.role}', '10', '0', '100', function_name => 'a_delegate')`);
        for (let gate = false; !gate;) {
            const steps = await dba.run(`select statement from ensure.plan_unique_v1(${is('table')}, '{a_name}', keep => 'a_id', losers => 'delete', children => 'move', gate => 'refuse')`);
            for (const { statement } of steps) await dba.run(String(statement).replace(' concurrently', ''));
            gate = (await dba.run(`select from pg_trigger as t where t.tgrelid = ${is('table')} and not t.tgisinternal`)).length > 0;
        }
        await dba.run(hostile);
        expect(await dba.run(`select f.outcome from ${of('routine')}(4, 'n') as f`)).toEqual([{ outcome: 'created' }]);
        expect(await dba.run(`select f.outcome from ${of('routine')}(4, 'n') as f`)).toEqual([{ outcome: 'exists' }]);
        expect(await dba.run('select f.outcome from a_schema.a_delegate(5) as f')).toEqual([{ outcome: 'created' }]);
        expect((await dba.attempt(`insert into ${of('table')} values (9, 'b')`)).code).toBe('23505');
        await dba.run('rollback to test');
        expect(await ran(dba)).toBe(false);
    }));

    test('negative control: functions without a search_path of their own run them', () => withPlants(async (dba) => {
        await dba.run(without('reset search_path'));
        const names = ['check_install_v1', 'ensure_row_v1', 'ensure_partitions_v1', 'ensure_unique_v1', 'ensure_roles_v1', 'merge_rows_v1', 'plan_row_function_v1'];
        expect(Object.keys(await differences(dba, hostile, safe, plain, names))).toEqual(names);
        expect(await ran(dba)).toBe(true);
    }));
});

describe('temporary tables and types with the names of catalogs', () => {
    test('are not read: each function does its work', () => withWorld(async (dba) => {
        await dba.run(shadow);
        const [row] = await dba.run("select count(*)::int as n from pg_catalog.pg_class as c where c.relnamespace = pg_catalog.pg_my_temp_schema() and c.relkind = 'r'");
        expect(row?.n).toBeGreaterThan(25);
        expect(await differences(dba)).toEqual({});
    }));

    test('negative control: without pg_temp at the end of its search_path a function reads them', () => withWorld(async (dba) => {
        await dba.run(without('set search_path = pg_catalog'));
        await dba.run(shadow);
        const names = ['ensure_partitions_v1', 'ensure_row_v1', 'ensure_role_v1'];
        expect(Object.keys(await differences(dba, undefined, undefined, plain, names))).toEqual(names);
    }));
});
