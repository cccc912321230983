import format from 'pg-format';
import type { Session } from '../../scripts/harness/sessions.js';
import { call, calls, declaredSql } from './arguments.js';
import { mine } from './scenarios.js';
import type { PublicFunction } from './judge.js';
import { publicFunctions } from './play.js';

/** Whoever runs it leaves a mark that no rollback takes away. */
export const canary = `create schema canary; create sequence canary.fired minvalue 0 start 0; select setval('canary.fired', 0, false);
    create function canary.fire() returns text language sql as $$ select nextval('canary.fired')::text $$;
    create table canary.t (a int); insert into canary.t values (1); create role a_canary_${mine}`;

const inject = 'select canary.fire()';
export const fire = 'canary.fire()';
export const payloads = [
    `x'; ${inject}; --`, `x"; ${inject}; --`, `x' || ${fire} || '`, `-1) or ${fire} is null; --`, `$$; ${inject}; --`, `$fn$; ${inject}; --`, fire, `(${inject})`, `x\\'; ${inject}; --`,
    `%s'; ${inject}; --`, `x', ${fire}, 'x`, `"); ${inject}; --`, `*/ ${inject} /*`, `\n; ${inject};\n--`, `10' and ${fire} is not null and '1' = '1`, `a_id = ${fire}::int`, `"a_id" from a_schema.a_table; ${inject}; --`,
    `10 days'::interval + ${fire}::interval + '1 day`, `x', 'y'); ${inject}; --`, `{${fire}}`, `1; drop table canary.t; --`, `x'; drop table canary.t; drop role a_canary_${mine}; --`,
];
/** One of each way out of a text: a string, an identifier, an expression. */
export const few = [payloads[0], payloads[1], payloads[3], payloads[6], payloads[21]] as string[];

/** Copies of `value` with `payload` in the place of one string, number or key. */
function variants(value: unknown, payload: string): unknown[] {
    if (Array.isArray(value)) {
        const list = value as unknown[];
        return [...list.flatMap((one, n) => variants(one, payload).map((other) => list.with(n, other))), [...list, payload]];
    }
    if (value === null || typeof value !== 'object') return [payload];
    const entries = Object.entries(value);
    return entries.flatMap(([key, one], n) => [
        ...variants(one, payload).map((other) => Object.fromEntries(entries.with(n, [key, other]))),
        Object.fromEntries(entries.with(n, [payload, one])),
    ]);
}

export interface Shot {
    name: string;
    argument: string;
    value: string;
}

/** Every text, name, array of these and JSON that a public function takes and that is not SQL by declaration, with each payload. */
export async function shots(session: Session, these: string[]): Promise<Shot[]> {
    const found: Shot[] = [];
    for (const { name, arguments: all } of (await session.run(publicFunctions)) as unknown as PublicFunction[]) {
        for (const { name: argument, type } of all) {
            if (`${name}.${argument}` in declaredSql) continue;
            const values = these.flatMap((payload): string[] => {
                const text = format.literal(payload);
                if (['text', 'name', 'anycompatible'].includes(type)) return [text];
                if (type === 'text[]' || type === 'name[]') return [`array[${text}]::${type}`];
                if (type === 'anycompatiblearray') return [`array[${text}, 'x']`];
                if (type !== 'jsonb') return [];
                const plain = /^'(.*)'::jsonb$/s.exec(calls[name]?.[argument] ?? "'{\"a_id\": 1}'::jsonb")?.[1] ?? '{"postgres": {"work_mem": "8MB"}}';
                return variants(JSON.parse(plain), payload).map((one) => `${format.literal(JSON.stringify(one))}::jsonb`);
            });
            found.push(...values.map((value) => ({ name, argument, value })));
        }
    }
    return found;
}

/** Shots that were heard: by the mark, or by what is gone when the call succeeds. */
export async function heard(session: Session, all: Shot[]): Promise<string[]> {
    const marked = async (): Promise<unknown> => (await session.run("select is_called from canary.fired"))[0]?.is_called;
    const found: string[] = [];
    for (const { name, argument, value } of all) {
        await session.run('savepoint shot');
        const { code } = await session.attempt(call(name, { [argument]: value }));
        const [row] = code === 'ok' ? await session.run(`select to_regclass('canary.t') is not null as present, to_regrole('a_canary_${mine}') is not null as role`) : [{ present: true, role: true }];
        await session.run('rollback to shot; release shot');
        if (await marked() || row?.present !== true || row.role !== true) {
            found.push(`${name}(${argument} => ${value})`);
            await session.run("select setval('canary.fired', 0, false)");
        }
    }
    return found;
}
