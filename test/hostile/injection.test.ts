import format from 'pg-format';
import { describe, expect, test } from 'vitest';
import { share } from '../context.js';
import { call, calls, declaredSql } from './arguments.js';
import type { PublicFunction } from './judge.js';
import { publicFunctions, withWorld } from './play.js';
import { canary, few, fire, heard, shots } from './shots.js';

describe('SQL in an argument that is not SQL by declaration', () => {
    test('each public function has a call, and what is declared to be SQL are arguments of them', () => withWorld(async (dba) => {
        const functions = (await dba.run(publicFunctions)) as unknown as PublicFunction[];
        expect(Object.keys(calls).sort()).toEqual(functions.map(({ name }) => name));
        const all = functions.flatMap(({ name, arguments: these }) => these.map((one) => `${name}.${one.name}`));
        expect(Object.keys(declaredSql).filter((one) => !all.includes(one))).toEqual([]);
        for (const { name, arguments: these } of functions) expect(Object.keys(calls[name] ?? {}).filter((one) => !these.some((other) => other.name === one)), name).toEqual([]);
        for (const { name } of functions) { // a call that fails by itself would hear nothing
            await dba.run('savepoint plain');
            expect((await dba.attempt(call(name))).code, name).toBe(name.startsWith('undo_') ? '42704' : 'ok');
            await dba.run('rollback to plain');
        }
    }));

    test('is never run', () => withWorld(async (dba) => {
        await dba.run(canary);
        const all = await shots(dba, few);
        const harmless = ['regclass', 'regclass[]', 'regprocedure[]', 'interval', 'integer', 'boolean', 'uuid', 'timestamp with time zone'];
        const functions = (await dba.run(publicFunctions)) as unknown as PublicFunction[];
        const wanted = functions.flatMap(({ name, arguments: these }) => these.filter(({ type }) => !harmless.includes(type)).map((one) => `${name}.${one.name}`));
        expect([...new Set(all.map(({ name, argument }) => `${name}.${argument}`)), ...Object.keys(declaredSql)].sort()).toEqual(wanted.sort());
        expect(await heard(dba, share(all))).toEqual([]);
    }));

    test.each([
        ["execute 'select ''' || value || ''''", "x'"], ['execute format(\'select 1 as "%s"\', value)', 'x"'], ["execute format('select %s', value)", 'canary'],
        ["execute format('select 1 where (1 = %s)', value)", '-1)'],
    ])('negative control: %s is found', (body, with_) => withWorld(async (dba) => {
        await dba.run(canary);
        await dba.run(`create function ensure.check_naive_v1(value text) returns void language plpgsql as $body$ begin ${body}; end $body$`);
        const all = (await shots(dba, few)).filter(({ name }) => name === 'check_naive_v1');
        const found = await heard(dba, all);
        expect(found.join('\n')).toContain(with_);
    }));

    test('negative control: where it is SQL by declaration it runs', () => withWorld(async (dba) => {
        await dba.run(canary);
        await dba.run('create or replace function canary.fire() returns text language sql immutable as $$ select nextval(\'canary.fired\')::text $$');
        const all = Object.keys(declaredSql).map((one) => one.split('.')).map(([name = '', argument = '']) => ({
            name, argument, value: argument === 'columns' ? `array['(${fire})']` : format.literal({ predicate: `${fire} is not null`, among: `a_flag and ${fire} is not null`, keep: fire, revive: `${fire} is not null` }[argument] ?? `a_name = ${fire}`),
        }));
        expect((await heard(dba, all)).length).toBeGreaterThan(5);
    }));
});
