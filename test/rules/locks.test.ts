import { describe, expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { major, surroundings, withTestDatabase } from '../context.js';
import { publicFunctions } from '../hostile/play.js';
import { ident, plain, scenarios, spelled, world } from '../hostile/scenarios.js';
import { withoutGuard } from '../mutate.js';

const words = 'ACCESS SHARE|ROW SHARE|ROW EXCLUSIVE|SHARE UPDATE EXCLUSIVE|SHARE ROW EXCLUSIVE|ACCESS EXCLUSIVE|EXCLUSIVE';

/** The modes in a field Locks, but for those of statements that a plan returns; what it says of another function holds for this one. */
function stated(sources: Map<string, string>, name: string): Set<string> {
    const [, field = ''] = /\n-- Locks ((?:.*\n)(?:--\s{10}.*\n)*)/.exec(sources.get(name) ?? '') ?? [];
    const text = field.replaceAll(/\n--\s+/g, ' ').replace(/(Each statement|The statements):.*/, '').replaceAll(/behind ACCESS EXCLUSIVE/g, '');
    const others = [...text.matchAll(/\bas (ensure_[a-z_]+_v1)/g)].map(([, other = '']) => other);
    if (text.includes('as the three functions')) others.push('ensure_role_v1', 'ensure_owner_v1', 'ensure_grants_v1');
    const rows = [...(/SELECT|as any query/.test(text) ? ['ACCESS SHARE'] : []), ...(text.includes('INSERT') ? ['ROW EXCLUSIVE'] : [])];
    return new Set([...[...text.matchAll(new RegExp(`(?:${words})\\b`, 'g'))].map(([mode]) => mode), ...rows, ...others.flatMap((other) => [...stated(sources, other)])]);
}

/** The strongest mode on each table that was there before the transaction; the archive is written as by any INSERT and DELETE. */
const held = `select c.relname as relation, (array_agg(m.mode order by array_position('{ACCESS SHARE,ROW SHARE,ROW EXCLUSIVE,SHARE UPDATE EXCLUSIVE,SHARE,SHARE ROW EXCLUSIVE,EXCLUSIVE,ACCESS EXCLUSIVE}'::text[], m.mode) desc))[1] as mode
    from pg_locks as l join pg_class as c on c.oid = l.relation,
         lateral (select upper(trim(regexp_replace(replace(l.mode, 'Lock', ''), '([A-Z])', ' \\1', 'g')))) as m (mode)
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and c.relkind in ('r', 'p', 'v', 'S') and c.relname not like 'a\\_archive%' and c.oid between 16384 and %highest% group by 1`;

const { is } = spelled(plain);
const unique = (rest: string): string => `select from ensure.ensure_unique_v1(${is('table')}, '{a_name}'${rest})`;
const single = 'delete from a_schema.a_child; delete from a_schema.a_table where a_id = 2';
const grid = `create table a_schema.a_ref (a_id int primary key); create table a_schema.a_grid (a_id int references a_schema.a_ref) partition by range (a_id);
    create table a_schema.a_rest (a_id int); alter table a_schema.a_grid attach partition a_schema.a_rest default`;

/** Situations beside the scenarios, that a header speaks of. */
const more: Record<string, { given: string; call: string }[]> = {
    ensure_partitions_v1: [{ given: grid, call: "select from ensure.ensure_partitions_v1('a_schema.a_grid', '10', 0, 5)" }],
    ensure_unique_v1: [
        { given: single, call: unique('') },
        { given: `${single}; create table a_schema.a_ref (a_id int primary key); alter table a_schema.a_table add r int references a_schema.a_ref`, call: unique(', as_constraint => true') },
        { given: 'drop table a_schema.a_child; create table a_schema.a_ref (a_id int primary key); insert into a_schema.a_ref values (1); alter table a_schema.a_table add r int default 1 references a_schema.a_ref', call: unique(", keep => 'a_id', losers => 'delete', rewrite => true") },
    ],
    check_coverage_v1: [{ given: grid, call: "select ensure.check_coverage_v1('a_schema.a_grid', '{\"a_id\": 1}')" }],
};

/** Stated, and not there when a call of these situations is over. */
const elsewhere: Record<string, Record<string, string>> = {
    'ensure_list_partitions_v1': { 'SHARE ROW EXCLUSIVE': 'as ensure_partitions_v1', 'ACCESS EXCLUSIVE': 'as ensure_partitions_v1' },
    'ensure_hash_partitions_v1': { 'SHARE ROW EXCLUSIVE': 'as ensure_partitions_v1', 'ACCESS EXCLUSIVE': 'as ensure_partitions_v1' },
    'ensure_default_partition_v1': { 'SHARE ROW EXCLUSIVE': 'as ensure_partitions_v1', 'ACCESS EXCLUSIVE': 'as ensure_partitions_v1' },
    'ensure_partition_tree_v1': { 'SHARE ROW EXCLUSIVE': 'as ensure_partitions_v1', 'ACCESS EXCLUSIVE': 'as ensure_partitions_v1' },
    'check_coverage_v1': { 'ACCESS SHARE': 'below hash: test/ensure_partitions/check.test.ts' },
    'check_partitions_v1': { 'ACCESS SHARE': 'given back at once' },
    'plan_partitions_v1': { 'ACCESS SHARE': 'given back with the look at the default partition' },
    'plan_unique_v1': { 'ROW EXCLUSIVE': 'for a moment, given back' },
    'merge_rows_v1': { 'ACCESS SHARE': 'given back with the look' },
    'plan_merge_rows_v1': { 'ACCESS SHARE': 'given back' },
    'ensure_grants_v1': major < 18 ? { 'ACCESS SHARE': 'on 18' } : {},
    'ensure_roles_v1': { 'ACCESS SHARE': 'as ensure_grants_v1' },
};

async function measured(dba: Session, name: string): Promise<{ working: Set<string>; idle: Set<string> }> {
    const scenario = scenarios[name]?.(plain);
    if (!scenario) throw new Error(`no scenario for ${name}`);
    const working = new Set<string>();
    const idle = new Set<string>();
    for (const { given = 'select', call } of [scenario, ...more[name] ?? []]) {
        const schema = `drop schema if exists a_schema cascade; ${world(plain).replace(/create role [^;]+;/g, '')}`;
        await dba.run(schema);
        await dba.run(given);
        const [row] = await dba.run('select max(c.oid::bigint) as highest from pg_class as c');
        const locks = held.replace('%highest%', String(row?.highest));
        await dba.run('begin');
        await dba.run(call);
        for (const { mode } of await dba.run(locks)) working.add(String(mode));
        await dba.run('commit; begin');
        if ((await dba.attempt(call)).code === 'ok') for (const { mode } of await dba.run(locks)) idle.add(String(mode));
        await dba.run('rollback');
    }
    return { working, idle };
}

interface Drift {
    /** More than a reader's, where nothing is left to do. */
    busy: string[];
    unsaid: string[];
    unmeasured: string[];
}
async function drift(dba: Session, only?: string): Promise<Drift> {
    const sources = new Map((await dba.run(publicFunctions)).map(({ name, source }) => [String(name), String(source)]));
    const found: Drift = { busy: [], unsaid: [], unmeasured: [] };
    for (const name of sources.keys()) {
        if (only && name !== only) continue;
        const said = stated(sources, name);
        const { working, idle } = await measured(dba, name);
        const modes = new Set([...working, ...idle]);
        found.busy.push(...[...idle].filter((mode) => mode !== 'ACCESS SHARE').map((mode) => `${name}: ${mode}`));
        found.unsaid.push(...[...modes].filter((mode) => !said.has(mode)).map((mode) => `${name}: ${mode}`));
        found.unmeasured.push(...[...said].filter((mode) => !modes.has(mode) && !elsewhere[name]?.[mode]).map((mode) => `${name}: ${mode}`));
    }
    return found;
}

/** The roles of the world belong to the server: committed, and dropped at the end. */
const withCommitted = async (body: (dba: Session) => Promise<void>): Promise<void> => {
    const roles = [plain.role, plain.heir, plain.fresh].map(ident);
    try {
        await withTestDatabase(({ admin }) => withSessions(admin, ['dba'], async ({ dba }) => {
            await dba.run(`create role ${ident(plain.role)}; create role ${ident(plain.heir)}`);
            await body(dba);
        }));
    } finally {
        await withConnection(surroundings.server.admin, async (sql) => {
            for (const role of roles) await sql.unsafe(`drop role if exists ${role}`);
        });
    }
};

describe('the locks that a call holds when it is over', () => {
    test('are those of its header, no more and no less; negative controls: a header that says less or more, a body that takes more', () => withCommitted(async (dba) => {
        expect(await drift(dba)).toEqual({ busy: [], unsaid: [], unmeasured: [] });
        await withoutGuard(dba, 'undo_merge_rows_v1', 'SHARE ROW EXCLUSIVE on each', 'EXCLUSIVE on each');
        expect(await drift(dba, 'undo_merge_rows_v1')).toEqual({ busy: [], unsaid: ['undo_merge_rows_v1: SHARE ROW EXCLUSIVE'], unmeasured: ['undo_merge_rows_v1: EXCLUSIVE'] });
        await withoutGuard(dba, 'check_coverage_v1', '\nbegin\n', '\nbegin lock table a_schema.a_table in row share mode;\n');
        expect((await drift(dba, 'check_coverage_v1')).unsaid).toEqual(['check_coverage_v1: ROW SHARE']);
    }));
});
