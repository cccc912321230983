import { describe, expect, test } from 'vitest';
import { difference, differences, play, withWorld } from './play.js';
import { plain, scenarios } from './scenarios.js';

const raising = (events: string): string => `create function public.f() returns event_trigger language plpgsql as $$ begin raise exception 'no DDL today' using errcode = 'EV001'; end $$;
    ${events.split(' and ').map((event) => `create event trigger on_${event} on ${event} execute function public.f()`).join(';')}`;
const quiet = (events: string): string => events.split(' and ').map((event) => `drop event trigger on_${event}`).join(';');

/** Functions that run DDL which event triggers see: all but those of rows and of what no database owns. */
const ddl = ['ensure_partitions_v1', 'ensure_list_partitions_v1', 'ensure_hash_partitions_v1', 'ensure_default_partition_v1', 'ensure_partition_tree_v1', 'ensure_partition_delegate_v1',
    'ensure_unique_v1', 'ensure_owner_v1', 'ensure_grants_v1', 'ensure_roles_v1', 'plan_partitions_v1', 'check_partitions_v1', 'plan_unique_v1', 'plan_row_function_v1', 'plan_owner_v1',
    'plan_retire_role_v1', 'plan_roles_v1'];

describe('an event trigger', () => {
    test.each(['ddl_command_start', 'ddl_command_end', 'sql_drop and table_rewrite'])('on %s that raises: its code passes, or the work is done; nothing between', (event) => withWorld(async (dba) => {
        for (const [name, of] of Object.entries(scenarios)) {
            if (event !== 'ddl_command_start' && !ddl.includes(name)) continue; // no DDL starts there
            const scenario = of(plain);
            const played = await play(dba, scenario, raising(event), quiet(event));
            const stopped = played.first === 'EV001';
            if (!stopped) expect(difference(scenario, played), name).toBe('');
            if (event.startsWith('ddl')) expect(stopped, name).toBe(ddl.includes(name));
        }
    }));

    test('negative control: who catches its error and goes on is found', () => withWorld(async (dba) => {
        await dba.run(`create function ensure.ensure_x_v1() returns table (outcome text) language plpgsql as $$ begin
            begin create table a_schema.x (a int); exception when others then null; end; return query select 'created'; end $$`);
        const scenario = { call: 'select f.outcome as word from ensure.ensure_x_v1() as f', first: 'created', again: 'created', holds: "select to_regclass('a_schema.x') is not null" };
        expect(difference(scenario, await play(dba, scenario, raising('ddl_command_start'), quiet('ddl_command_start')))).not.toBe('');
    }));

    test('that writes to a table of its own, makes one, and looks at what is there: each function does its work', () => withWorld(async (dba) => {
        await dba.run(`create table public.audit (n bigint generated always as identity, tag text, object text);
            create function public.f() returns event_trigger language plpgsql as $$ declare v record; begin
                if tg_tag = 'CREATE TABLE' and current_setting('audit.busy', true) is distinct from 'on' then
                    perform set_config('audit.busy', 'on', true);
                    create table if not exists public.audit_more (a int);
                    perform set_config('audit.busy', 'off', true);
                end if;
                if tg_event = 'ddl_command_end' then
                    for v in select * from pg_event_trigger_ddl_commands() loop insert into public.audit (tag, object) values (v.command_tag, v.object_identity); end loop;
                else
                    insert into public.audit (tag) values (tg_tag);
                end if;
            end $$;
            create event trigger g_start on ddl_command_start execute function public.f();
            create event trigger g_end on ddl_command_end execute function public.f();
            create event trigger g_drop on sql_drop execute function public.f()`);
        expect(await differences(dba)).toEqual({});
        await dba.run("select from ensure.ensure_default_partition_v1('a_schema.a_range')");
        expect((await dba.run('select distinct tag from public.audit where object is not null')).length).toBeGreaterThan(0);
    }));

    test.each([
        ['CREATE TABLE', 'table', ['ensure_partitions_v1', 'ensure_list_partitions_v1', 'ensure_hash_partitions_v1', 'ensure_default_partition_v1', 'ensure_partition_tree_v1']],
        ['CREATE INDEX', 'index', ['ensure_unique_v1']],
        ['CREATE FUNCTION', 'function', ['ensure_partition_delegate_v1']],
    ])('that drops on %s what was made: never success, nor an internal error', (tag, kind, names) => withWorld(async (dba) => {
        await dba.run(`create function public.f() returns event_trigger language plpgsql as $$ declare v record; begin
            for v in select * from pg_event_trigger_ddl_commands() loop execute format('drop ${kind} %s', v.object_identity); end loop; end $$;
            create event trigger g on ddl_command_end when tag in ('${tag}') execute function public.f()`);
        for (const name of names) {
            const scenario = scenarios[name]?.(plain);
            if (!scenario) throw new Error(name);
            const { first, error } = await play(dba, scenario);
            expect(first, `${name}: ${String(error?.error?.message)}`).toMatch(/^(?!XX)[0-9A-Z]{5}$/);
        }
    }));
});
