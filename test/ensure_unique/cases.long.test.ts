import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { stampede, type Act } from '../../scripts/harness/stampede.js';
import { withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { until } from '../until.js';

const seed = process.env.PG_ENSURE_SEED ? Number(process.env.PG_ENSURE_SEED) : Date.now() % 2 ** 31;

const one = async (session: Session, query: string): Promise<Record<string, unknown>> => (await session.run(query))[0] ?? {};

describe('random data on four levels', () => {
    const schema = `
        create table t (id int primary key, k int not null);
        create table c (id int primary key, t int references t on delete cascade, tag int, unique (t, tag));
        create table g (id int primary key, c int not null references c on delete cascade, v int not null, unique (c, v));
        create table h (id int primary key, g int not null references g on delete cascade)`;

    type Row = [id: number, ref: number | null, key: number | null];
    interface Data { t: Row[]; c: Row[]; g: Row[]; h: Row[] }

    /** Rows with ids in no order; of rows that a unique index would refuse only the first. */
    const table = (most: number, refs: number, keys: number, nulls: boolean) => fc.uniqueArray(fc.tuple(
        fc.integer({ min: 1, max: 99 }),
        nulls ? fc.option(fc.nat(refs), { freq: 9 }) : fc.nat(refs),
        nulls ? fc.option(fc.nat(keys), { freq: 9 }) : fc.nat(keys),
    ), { maxLength: most, minLength: most / 2, size: 'max', selector: ([id]) => id });
    const data: fc.Arbitrary<Data> = fc.record({
        t: table(10, 0, 2, false), c: table(24, 99, 2, true), g: table(40, 99, 2, false), h: table(60, 99, 0, false) })
        .map(({ t, c, g, h }) => {
            const within = (parents: Row[], rows: Row[], unique: boolean): Row[] => {
                const seen = new Set<string>();
                return rows.flatMap(([id, ref, key]): Row[] => {
                    const parent = ref === null ? null : parents[ref % Math.max(parents.length, 1)]?.[0] ?? undefined;
                    const name = `${parent} ${key}`;
                    if (parent === undefined || (unique && parent !== null && key !== null && seen.has(name))) return [];
                    seen.add(name);
                    return [[id, parent, key]];
                });
            };
            const children = within(t, c, true);
            const grandchildren = within(children, g, true);
            return { t, c: children, g: grandchildren, h: within(grandchildren, h, false) };
        });

    /** Of rows that are equal after the move one stays: one that does not move, else the lowest id. */
    function level(rows: Row[], into: Map<number, number>, unique: boolean): { rows: Row[]; into: Map<number, number> } {
        const first = new Map<string, number>();
        const gone = new Map<number, number>();
        const moves = ([, ref]: Row): boolean => ref !== null && into.has(ref);
        const sorted = [...rows].sort((a, b) => Number(moves(a)) - Number(moves(b)) || a[0] - b[0]);
        const kept = sorted.flatMap((row): Row[] => {
            const ref = row[1] === null ? null : into.get(row[1]) ?? row[1];
            const name = `${ref} ${row[2]}`;
            const stays = unique && ref !== null && row[2] !== null ? first.get(name) : undefined;
            if (stays !== undefined) {
                gone.set(row[0], stays);
                return [];
            }
            first.set(name, row[0]);
            return [[row[0], ref, row[2]]];
        });
        return { rows: kept.sort((a, b) => a[0] - b[0]), into: gone };
    }

    function expected({ t, c, g, h }: Data): Data {
        const top = level(t, new Map(), true);
        const middle = level(c, top.into, true);
        const low = level(g, middle.into, true);
        return { t: top.rows, c: middle.rows, g: low.rows, h: level(h, low.into, false).rows };
    }

    const values = (rows: Row[], width: number): string =>
        rows.map((row) => `(${row.slice(0, width).map((value) => value ?? 'null').join(', ')})`).join(', ');

    async function round(owner: Session, before: Data): Promise<void> {
        await owner.run('drop index if exists t_k_key; truncate t, c, g, h');
        if (before.t.length) await owner.run(`insert into t values ${before.t.map(([id, , k]) => `(${id}, ${k})`).join(', ')}`);
        if (before.c.length) await owner.run(`insert into c values ${values(before.c, 3)}`);
        if (before.g.length) await owner.run(`insert into g values ${values(before.g, 3)}`);
        if (before.h.length) await owner.run(`insert into h values ${values(before.h, 2)}`);
        const paths = `select coalesce(string_agg(concat_ws(' ', h.id, t.k, c.tag, g.v), ', ' order by h.id), '') as paths,
                              (select count(distinct (t.k, c.tag, g.v)) from g join c on c.id = g.c left
                                  join t on t.id = c.t)::int as payloads
                       from h join g on g.id = h.g join c on c.id = g.c left join t on t.id = c.t`;
        const was = await one(owner, paths);
        await owner.run("select ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => 'delete', children => 'merge')");
        expect(await one(owner, paths), 'what each row of the lowest level belongs to').toEqual(was);
        const found = await one(owner, `select ${['t', 'c', 'g', 'h'].map((name) => `(select coalesce(json_agg(array[id, ${
            name === 't' ? '0, k' : name === 'h' ? 'g, 0' : name === 'c' ? 't, tag' : 'c, v'}] order by id), '[]')
                from ${name}) as ${name}`).join(', ')},
            (select count(*)::int from c where t is not null and t not in (select id from t)) + (select count(*)::int from g
                where c not in (select id from c))
            + (select count(*)::int from h where g not in (select id from g)) as dangling`);
        const after = expected(before);
        const json = (text: unknown): unknown => typeof text === 'string' ? JSON.parse(text) : text;
        expect({ t: json(found.t), c: json(found.c), g: json(found.g), h: json(found.h), dangling: found.dangling })
            .toEqual({ ...after, t: after.t.map(([id, , k]) => [id, 0, k]), h: after.h.map(([id, g]) => [id, g, 0]),
                dangling: 0 });
    }

    test(`30 rounds: every table is what a model says, nothing dangles, no path is lost (seed ${seed})`, () =>
        withOwner(async (owner) => {
            await owner.run(schema);
            const merged = [0, 0];
            await fc.assert(fc.asyncProperty(data, async (before) => {
                const after = expected(before);
                merged[0]! += before.c.length - after.c.length;
                merged[1]! += before.g.length - after.g.length;
                await round(owner, before);
            }), { seed, numRuns: 30 });
            console.log(`merge: seed ${seed}, ${merged.join(' children and ')} grandchildren merged in 30 rounds`);
            expect(Math.min(...merged)).toBeGreaterThan(10);
        }));

    test.each([
        ['a row that moves may take the place of one that does not', '_collisions_v1', 'order by "~moves", %s', 'order by %s'],
        ['a row of the lowest level gets lost', '_move_children_v1', 'into v_count, v_other\n    using losers, keepers;',
            `into v_count, v_other using losers, keepers; if child = 'public.h'::regclass then delete from public.h where id = 50;
                end if;`],
        ['one row of a collision is overlooked', '_collisions_v1', "d.\"~place\" > 1", 'd."~place" > 2'],
    ])('negative control: %s, and the model finds it', (_, name, guard, instead) =>
        withOwner(async (owner) => {
            await owner.run(schema);
            await withoutGuard(owner, name, guard, instead);
            const details = await fc.check(fc.asyncProperty(data, (before) => round(owner, before)),
                { seed, numRuns: 300, endOnFailure: true });
            expect(details.failed, 'the planted defect was not found').toBe(true);
        }));
});

describe('the common form', () => {
    const setup = `
        create table p (id int primary key, name text not null);
        create table c (id int primary key generated always as identity, p int not null references p on delete cascade,
            tag int not null, unique (p, tag));
        create table g (id int primary key, c int not null references c on delete cascade);
        create index on g (c);
        insert into p select i, 'n' || i % 1000 from generate_series(1, 3000) as i;
        insert into c (p, tag) select 1 + i % 3000, (i / 3000) + i % 5 from generate_series(1, 21000) as i;
        insert into g select i, 1 + (i * 7919::bigint) % 21000 from generate_series(1, 21000) as i`;
    const grandchildren = 'select count(*)::int as n from g join c on c.id = g.c join p on p.id = c.p';

    test('"insert … select … on conflict do nothing, then delete" destroys two thirds of the grandchildren, ours none', () =>
        withOwner(async (owner) => {
            await owner.run(setup);
            await owner.run('begin');
            await owner.run(`insert into c (p, tag) select k.keeper, c.tag from c
                join (select id, min(id) over (partition by name) as keeper from p) as k on k.id = c.p
                             where k.keeper <> k.id on conflict do nothing;
                             delete from p where id in (select id from (select id, min(id) over (partition by name) as keeper
                                 from p) as k where keeper <> id)`);
            const left = Number((await one(owner, grandchildren)).n);
            await owner.run('rollback');
            const share = Math.round((21000 - left) / 210);
            console.log(`merge: insert, on conflict do nothing, delete: ${share} % of 21000 grandchildren destroyed`);
            expect(share).toBeGreaterThan(60);
            await owner.run(`select ensure.ensure_unique_v1('p', '{name}', keep => 'id', losers => 'delete',
                children => 'merge')`);
            expect(await owner.run(grandchildren)).toEqual([{ n: 21000 }]);
            expect(await owner.run('select count(*)::int as n from p')).toEqual([{ n: 1000 }]);
        }));
});

describe('roles and grants that 20 seeders raced', () => {
    const schema = `
        create table roles (id varchar(36) primary key, name varchar(255) not null, scope varchar(20) not null,
            permissions json not null default '[]',
            inherits_from varchar(36) references roles, created_by varchar(255) not null default 'seed',
                is_system_role boolean not null default true,
            is_active boolean not null default true, created_at timestamptz not null default clock_timestamp(),
            updated_at timestamptz not null default clock_timestamp());
        create table user_roles (id varchar(36) primary key, user_email varchar(255) not null, role_id varchar(36) not null
            references roles,
            scope varchar(20) not null, scope_id varchar(36), granted_by varchar(255) not null default 'seed',
            granted_at timestamptz not null default clock_timestamp(), expires_at timestamptz,
                is_active boolean not null default true)`;

    /** What applications do: look, insert what is not there; what another inserted meanwhile is looked up again. */
    const seeder = (suffix = ''): Act => async (run) => {
        const find = async (look: string, insert: string) => {
            for (let i = 0; ; i++) {
                const found = await run(look);
                if (found.error || found.rows.length > 0 || i > 3) return found;
                const made = await run(insert);
                if (made.error && made.code !== '23505') return made;
            }
        };
        let parent = 'null';
        let last = await run('select 1');
        for (const name of [`viewer${suffix}`, `editor${suffix}`, `admin${suffix}`]) {
            last = await find(`select id from roles
                where name = '${name}' and scope = 'global' and is_active order by created_at limit 1`,
                `insert into roles (id, name, scope, inherits_from) values (gen_random_uuid()::text,
                    '${name}', 'global', ${parent})`);
            if (last.error) return last;
            const role = `'${String(last.rows[0]?.id)}'`;
            parent = role;
            for (const [email, scope, scopeId] of [['a@x', 'global', null], ['b@x', 'global', null], ['b@x', 'team', 't1']]) {
                last = await find(`select id from user_roles where user_email = '${email}' and role_id = ${role}
                    and scope = '${scope}'
                                   and scope_id is not distinct from ${scopeId ? `'${scopeId}'` : 'null'} and is_active limit 1`,
                    `insert into user_roles (id, user_email, role_id, scope, scope_id)
                     values (gen_random_uuid()::text, '${email}', ${role}, '${scope}', ${scopeId ? `'${scopeId}'` : 'null'})`);
                if (last.error) return last;
            }
        }
        return last;
    };

    const seedAll = async (url: string, suffix = '') => {
        const report = await stampede({ owner: url, callers: 20, rounds: 1, isolation: 'read committed',
            transaction: false, steps: () => seeder(suffix) });
        expect(report.codes).toEqual({ ok: 20 });
    };

    /** As seedAll; but all 20 have looked for the first role and found none before one inserts it, and so with the first grant. */
    const raceAll = (url: string, suffix = '') => withSessions(url, ['roles', 'grants'], async ({ roles, grants }) => {
        const all = async (table: string) => until(`20 seeders wait to insert into ${table}`, async () => (await one(roles,
            `select count(*)::int as n from pg_locks where relation = '${table}'::regclass and not granted`)).n === 20);
        for (const [session, table] of [[roles, 'roles'], [grants, 'user_roles']] as const) {
            await session.run(`begin; lock table ${table} in share row exclusive mode`); // lets others look
        }
        const conduct = async () => {
            await all('roles');
            await roles.run('commit');
            await all('user_roles');
            await grants.run('commit');
        };
        await Promise.all([seedAll(url, suffix), conduct()]);
    });

    const duplicates = `select (select count(*) from (select from roles where is_active
        group by name, scope having count(*) > 1) as d)::int as roles,
        (select count(*) from (select from user_roles where is_active group by user_email, role_id, scope,
            scope_id having count(*) > 1) as d)::int as grants`;

    const ensureRoles = `select object, outcome, row_count::int from ensure.ensure_unique_v1('roles', '{name,scope}',
        'is_active', keep => 'created_at, id',
        losers => 'update', loser_set => 'is_active = false', children => 'move')`;
    const ensureGrants = `select object, outcome, row_count::int from ensure.ensure_unique_v1('user_roles',
        '{user_email,role_id,scope,scope_id}', 'is_active',
        keep => 'expires_at > now() desc nulls first, granted_at desc, id', losers => 'update',
            loser_set => 'is_active = false')`;
    const digest = `select md5((select string_agg(r::text, '|' order by id) from roles as r) ||
                               (select string_agg(u::text, '|' order by id) from user_roles as u)) as digest`;

    test('oldest role and best grant win, losers are soft-deleted, all refers to what is kept; the seeders again add nothing',
        () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner'], async ({ owner }) => {
            await owner.run(schema);
            await raceAll(url);
            const raced = await one(owner, duplicates);
            expect(raced.roles, 'the race made no duplicates').toBeGreaterThan(0);
            expect(raced.grants, 'the race made no duplicates').toBeGreaterThan(0);
            // One that never expires beats those that will, these beat what has expired, newest first.
            await owner.run(`update user_roles set expires_at = case when ctid = (select max(ctid) from user_roles
                where scope = 'team') then now() - interval '1 day'
                                 else now() + interval '1 day' * (1 + abs(hashtext(id)) % 9) end where scope = 'team'`);
            const before = await one(owner, `select count(*)::int as grants, (select count(*)::int from roles) as roles,
                (select json_agg(x.id order by x.name)::text from (select distinct on (name, scope) id, name from roles
                    order by name, scope, created_at, id) as x) as oldest,
                (select json_agg(array[x.name, x.user_email, x.scope, x.id] order by x.name, x.user_email, x.scope)::text
                 from (select distinct on (r.name, u.user_email, u.scope, u.scope_id) r.name, u.user_email, u.scope, u.id
                       from user_roles as u join roles as r on r.id = u.role_id
                       order by r.name, u.user_email, u.scope, u.scope_id, u.expires_at > now() desc nulls first,
                           u.granted_at desc, u.id) as x) as best from user_roles`);
            await owner.run('begin');
            const made = [...await owner.run(ensureRoles), ...await owner.run(ensureGrants)];
            await owner.run('commit');
            const indexes = made.filter(({ outcome }) => outcome === 'created').map(({ object }) => String(object));
            expect(made.find(({ object, outcome }) =>
                /user_roles$/.test(String(object)) && outcome === 'updated')?.row_count).toBeGreaterThan(0);
            expect(await one(owner, duplicates)).toEqual({ roles: 0, grants: 0 });
            expect(await one(owner, `select (select count(*)::int from user_roles) as grants, count(*)::int as roles,
                (select json_agg(x.id order by x.name)::text from roles as x where x.is_active) as oldest,
                (select json_agg(array[r.name, u.user_email, u.scope, u.id] order by r.name, u.user_email, u.scope)::text
                 from user_roles as u join roles as r on r.id = u.role_id where u.is_active) as best
                     from roles`)).toEqual(before);
            expect(await one(owner, `select (select count(*) from user_roles as u join roles as r on r.id = u.role_id
                where not r.is_active)::int as grants,
                (select count(*) from roles as x join roles as r on r.id = x.inherits_from
                    where not r.is_active)::int as parents`)).toEqual({ grants: 0, parents: 0 });

            const was = await one(owner, digest);
            await seedAll(url); // finds all
            expect(await one(owner, digest)).toEqual(was);
            await seedAll(url, '2'); // races for new ones
            expect(await one(owner, duplicates)).toEqual({ roles: 0, grants: 0 });
            expect(await one(owner, `select count(*)::int as roles, (select count(*)::int from user_roles
                where is_active) as grants
                from roles where is_active`))
                .toEqual({ roles: 6, grants: 18 });

            const full = await one(owner, digest);
            await owner.run(`drop index ${indexes.join(', ')}`); // what a migration does on its way down
            expect(await one(owner, digest)).toEqual(full);
            await raceAll(url, '3'); // negative control: without the indexes the same race makes duplicates
            expect((await one(owner, duplicates)).roles).toBeGreaterThan(0);
        })));
});

describe('workspaces that were made several times', () => {
    test('their allowlists become one: each plugin once, no plugin and nothing below lost', () =>
        withOwner(async (owner) => {
            await owner.run(`
                create table workspaces (id uuid primary key default gen_random_uuid(),
                    name text not null, is_root boolean not null default false,
                    parent_id uuid references workspaces on delete cascade, created_at timestamptz not null default now());
                create table org_plugin_allowlist (id uuid primary key default gen_random_uuid(), org_id uuid not null
                    references workspaces on delete cascade,
                    plugin_name text not null, enabled_by text not null, enabled_at timestamptz not null default now(),
                        unique (org_id, plugin_name));
                create table plugin_calls (id int primary key, allowed_by uuid not null
                    references org_plugin_allowlist on delete cascade);
                insert into workspaces (name, is_root, created_at) select 'acme', true, now() - i * interval '1 day'
                    from generate_series(1, 5) as i;
                insert into workspaces (name, is_root) values ('other', true);
                insert into workspaces (name, parent_id) select 'team ' || row_number() over (), id from workspaces where is_root;
                insert into org_plugin_allowlist (org_id, plugin_name, enabled_by, enabled_at)
                select w.id, 'plugin ' || p, 'user ' || row_number() over (), w.created_at
                    from (select *, row_number() over (order by created_at) as n from workspaces where is_root) as w
                cross join generate_series(1, 7) as p where (w.n * p) % 3 <> 1;
                insert into plugin_calls select row_number() over (), id from org_plugin_allowlist, generate_series(1, 10)`);
            const facts = `select (select json_agg(distinct a.plugin_name order by a.plugin_name)::text
                from org_plugin_allowlist as a join workspaces as w on w.id = a.org_id
                                   where w.name = 'acme') as plugins,
                (select json_agg(array[c.id::text, w.name, a.plugin_name] order by c.id)::text from plugin_calls as c
                    join org_plugin_allowlist as a on a.id = c.allowed_by
                 join workspaces as w on w.id = a.org_id) as calls,
                (select count(*)::int from workspaces where not is_root) as teams,
                (select min(id::text) from workspaces where created_at = (select min(created_at) from workspaces)) as oldest,
                (select string_agg(a.plugin_name || a.enabled_by, ', ' order by 1) from org_plugin_allowlist as a
                 where a.org_id = (select id from workspaces order by created_at limit 1) and a.plugin_name in ('plugin 2',
                     'plugin 3')) as kept`;
            const before = await one(owner, facts);
            expect((await owner.attempt(`select ensure.ensure_unique_v1('workspaces', '{name}', 'is_root',
                keep => 'created_at, id', losers => 'delete',
                children => 'move')`)).code).toBe('NS010');
            await owner.run(`select ensure.ensure_unique_v1('workspaces', '{name}', 'is_root', keep => 'created_at, id',
                losers => 'delete', children => 'merge')`);
            expect(await one(owner, facts)).toEqual(before);
            expect(await one(owner, `select count(*)::int as roots, (select count(*)::int from workspaces
                where parent_id = (select id from workspaces where name = 'acme')) as teams,
                (select count(*) = count(distinct plugin_name) from org_plugin_allowlist as a
                    join workspaces as w on w.id = a.org_id where w.name = 'acme') as once
                from workspaces where is_root`)).toEqual({ roots: 2, teams: 5, once: true });
        }));
});
