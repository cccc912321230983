import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, major, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';

/** What a partition gets before anybody looks at its properties: LIKE, then ATTACH. */
async function attach(session: Session, parent: string, name: string, bounds: string): Promise<void> {
    await session.run(`create table ${name} (like ${parent} including all excluding identity excluding indexes)`);
    await session.run(`alter table ${parent} attach partition ${name} ${bounds}`);
}

async function statements(session: Session, parent: string, name: string, template = 'null'): Promise<string[]> {
    const rows = await session.run(`select statement from ensure._property_statements_v1(
        '${parent.replaceAll('\'', '\'\'')}', '${name.replaceAll('\'', '\'\'')}', ${template})`);
    return rows.map((row) => String(row.statement));
}

/** Runs the statements one by one, after which there must be none. */
async function mend(session: Session, parent: string, name: string, template = 'null'): Promise<string[]> {
    const list = await statements(session, parent, name, template);
    for (const statement of list) await session.run(statement);
    expect(await statements(session, parent, name, template)).toEqual([]);
    return list;
}

/** What the catalogs say of a table, in words that do not depend on its name, its number or the order of its columns. */
async function facts(session: Session, table: string): Promise<Record<string, unknown>> {
    const literal = `'${table.replaceAll('\'', '\'\'')}'::regclass`;
    const acl = (list: string): string => `(select string_agg(distinct concat_ws(' ', coalesce(r.rolname, 'public'), x.privilege_type,
        case when x.is_grantable then '*' end), ', ' order by concat_ws(' ', coalesce(r.rolname, 'public'), x.privilege_type,
        case when x.is_grantable then '*' end)) from aclexplode(${list}) as x left join pg_roles as r on r.oid = x.grantee)`;
    // The names by which a policy of t0 reads its row, and the alias that gave way to t0.
    const nameless = (expression: string): string => `replace(regexp_replace(regexp_replace(${expression},
        '(?<![''%])\\m' || c.relname || '\\.', '@.', 'g'), 'a_[0-9a-f]{8}', 't0', 'g'), '(@.*)::t', '@.*')`;
    const [row] = await session.run(`
        select jsonb_build_object(
            'owner', c.relowner, 'acl', ${acl('coalesce(c.relacl, acldefault(\'r\', c.relowner))')},
            'rls', c.relrowsecurity, 'force', c.relforcerowsecurity, 'replident', c.relreplident,
            'comment', obj_description(c.oid, 'pg_class'),
            'columns', (select jsonb_object_agg(a.attname, jsonb_build_object(
                'acl', ${acl('a.attacl')}, 'target', coalesce(a.attstattarget, -1), 'options', a.attoptions, 'storage', a.attstorage,
                'compression', a.attcompression, 'comment', col_description(c.oid, a.attnum),
                'default', case when a.attidentity = '' then (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef as d
                                                             where d.adrelid = c.oid and d.adnum = a.attnum) end))
                from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
            'policies', (select jsonb_agg(jsonb_build_object('name', p.polname, 'cmd', p.polcmd, 'permissive', p.polpermissive,
                'roles', (select array_agg(coalesce(r.rolname, 'public') order by r.rolname) from unnest(p.polroles) as u (oid)
                          left join pg_roles as r on r.oid = u.oid),
                'using', ${nameless('pg_get_expr(p.polqual, p.polrelid)')}, 'check', ${nameless('pg_get_expr(p.polwithcheck, p.polrelid)')},
                'comment', obj_description(p.oid, 'pg_policy')) order by p.polname)
                from pg_policy as p where p.polrelid = c.oid),
            'identity index', (select string_agg(a.attname, ',' order by a.attnum) from pg_index as x
                join pg_attribute as a on a.attrelid = x.indexrelid where x.indrelid = c.oid and x.indisreplident),
            'indexes', (select jsonb_agg(concat_ws(' ', coalesce(a.attstattarget, -1), obj_description(x.indexrelid, 'pg_class'))
                                         order by coalesce(a.attstattarget, -1), x.indkey::text)
                from pg_index as x join pg_attribute as a on a.attrelid = x.indexrelid where x.indrelid = c.oid),
            'triggers', (select jsonb_object_agg(t.tgname, concat_ws(' ', t.tgenabled, obj_description(t.oid, 'pg_trigger')))
                from pg_trigger as t where t.tgrelid = c.oid and t.tgconstraint = 0),
            'constraints', (select jsonb_agg(concat_ws(' ', k.contype, obj_description(k.oid, 'pg_constraint'))
                                             order by k.contype, obj_description(k.oid, 'pg_constraint'))
                from pg_constraint as k where k.conrelid = c.oid),
            'statistics', (select jsonb_agg(concat_ws(' ', s.stxkind::text, coalesce(s.stxstattarget, -1), (select string_agg(quote_ident(a.attname), ','
                    order by a.attname) from pg_attribute as a where a.attrelid = c.oid and a.attnum = any (s.stxkeys)),
                    pg_get_expr(s.stxexprs, s.stxrelid)) order by s.stxkind::text)
                from pg_statistic_ext as s where s.stxrelid = c.oid)) as facts
        from pg_class as c where c.oid = ${literal}`);
    return row?.facts as Record<string, unknown>;
}

/** Grantees and roles that every server has, so that no superuser is needed. */
const [reader, other] = ['pg_monitor', 'pg_read_all_stats'];
const columns = 'gone int, k int not null, tenant int, v text, w text, primary key (k)';
const trigger = "create function f() returns trigger language plpgsql as 'begin return new; end'";

/** What is set on the parent, and the statements that it comes to. Every parent has a dropped column before the others. */
const properties: Record<string, { on: string; said: RegExp[] }> = {
    'grants of the table, with and without grant option, to public': {
        on: `grant select, insert on t to ${reader}; grant update on t to ${reader} with grant option; grant delete on t to public`,
        said: [/^grant delete on public\.t0 to public$/, /^grant insert, select on public\.t0 to pg_monitor$/, /^grant update on public\.t0 to pg_monitor with grant option$/],
    },
    'grants of columns': {
        on: `grant select (k, v), insert (v) on t to ${reader}; grant update (w) on t to public`,
        said: [/^grant update \(w\) on public\.t0 to public$/, /^grant insert \(v\), select \(k\), select \(v\) on public\.t0 to pg_monitor$/],
    },
    'privileges that the owner has given up': {
        on: 'do $$ begin execute format(\'revoke delete, truncate on t from %I\', current_user); end $$',
        said: [/^revoke delete, truncate on public\.t0 from /],
    },
    'what default privileges give a new table and the parent does not have is revoked': {
        on: `alter default privileges grant select, update on tables to ${reader}; alter default privileges grant insert on tables to ${other} with grant option`,
        said: [/^revoke select, update on public\.t0 from pg_monitor cascade$/, /^revoke insert on public\.t0 from pg_read_all_stats cascade$/],
    },
    'of what default privileges give, the grant option alone; what the column keeps is given again': {
        on: `alter default privileges grant select, insert on tables to ${reader} with grant option;
             grant select on t to ${reader}; grant insert (v) on t to ${reader} with grant option`,
        said: [/^revoke insert on public\.t0 from/, /^revoke grant option for select on/, /^grant insert \(v\) on public\.t0 to pg_monitor with grant option$/],
    },
    'row security, forced': {
        on: 'alter table t enable row level security; alter table t force row level security',
        said: [/enable row level security$/, /public\.t0 force row level security$/],
    },
    'policies of every kind': {
        on: `create policy a on t using (tenant = 1);
             create policy b on t as restrictive for update to ${reader}, ${other} using (v <> 'a''b') with check (v is not null);
             create policy c on t for insert with check (true); create policy d on t for delete to current_user using (true);
             create policy e on t for select using (v in ('x', 'y') and w like '%t.k%'); comment on policy a on t is 'why'`,
        said: [...'abcde'].map((name) => new RegExp(`^create policy ${name} on`)).concat(/^comment on policy a/),
    },
    'policies whose sub-selects read the row in question, the table itself, or an alias with the name of the partition': {
        on: `create policy a on t using (tenant in (select x.tenant from t as x where x.k = t.k and x.v <> 't.k'));
             create policy b on t using (exists (select from t as t0 where t0.k = t.k));
             create policy c on t using (exists (with t as (select 1 as k) select from t where t.k = tenant));
             create policy d on t using (tenant in (select tenant from t))`,
        said: [...'abcd'].map((name) => new RegExp(`^create policy ${name} on`)),
    },
    'a policy that passes the whole row to a function': {
        on: `create function sees(t) returns boolean language sql as 'select true'; create policy a on t using (sees(t))`,
        said: [/sees\(\(t0\.\*\)::public\.t\)/],
    },
    'replica identity nothing': { on: 'alter table t replica identity nothing', said: [/replica identity nothing$/] },
    'replica identity full': { on: 'alter table t replica identity full', said: [/replica identity full$/] },
    'replica identity using the index that came from the index of the parent': {
        on: 'create unique index "T by v" on t (v, k); alter table t alter v set not null; alter table t replica identity using index "T by v"',
        said: [/replica identity using index t0_v_k_idx$/],
    },
    'statistics targets and options of columns': {
        on: 'alter table t alter v set statistics 77, alter v set (n_distinct = -0.5, n_distinct_inherited = 7)',
        said: [/alter column v set statistics 77$/, /alter column v set \(n_distinct = '-0.5', n_distinct_inherited = '7'\)$/],
    },
    'statistics targets of index columns': {
        on: 'create index ix on t (k, (lower(v))); alter index ix alter column 2 set statistics 55',
        said: [/^alter index public\.t0_k_lower_idx alter column 2 set statistics 55$/],
    },
    'targets of extended statistics': {
        on: 'create statistics s (mcv, ndistinct) on k, tenant from t; create statistics e on (k + tenant) from t; alter statistics s set statistics 44',
        said: [/^alter statistics public\.t0_k_tenant_stat set statistics 44$/],
    },
    'comments of the table, of keys, indexes and triggers': {
        on: `${trigger}; create trigger g before insert on t for each row execute function f(); create index i on t (v);
             alter table t add foreign key (tenant) references r; alter table t add constraint c check (k > 0);
             comment on table t is 'it''s t'; comment on constraint t_pkey on t is 'key'; comment on index i is 'index';
             comment on trigger g on t is 'trigger'; comment on constraint t_tenant_fkey on t is 'fk';
             comment on constraint c on t is 'check'; comment on column t.v is 'column'`,
        said: [/^comment on table public\.t0 is 'it''s t'$/, /^comment on index/, /^comment on constraint t0_pkey/, /^comment on constraint t_tenant_fkey/, /^comment on trigger g/],
    },
};

const set = `create table r (k int primary key); create table t (${columns}) partition by range (k); alter table t drop column gone`;

describe('what LIKE and ATTACH leave behind', () => {
    test.each(Object.keys(properties))('%s; negative control: without the statements the catalogs differ', (name) =>
        withOwner(async (owner) => {
            const { on, said } = properties[name] as (typeof properties)[string];
            await owner.run(set);
            await owner.run(on);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            const wanted = await facts(owner, 't');
            expect(await facts(owner, 't0')).not.toEqual(wanted);
            const list = await mend(owner, 't', 't0');
            expect(await facts(owner, 't0')).toEqual(wanted);
            for (const expected of said) expect(list).toContainEqual(expect.stringMatching(expected));
            expect(list).toHaveLength(said.length);
        }));

    test('a plain table needs no statement', () =>
        withOwner(async (owner) => {
            await owner.run(set);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            expect(await statements(owner, 't', 't0')).toEqual([]);
        }));

    test(`what LIKE and ATTACH do carry on PostgreSQL ${major}: defaults, storage, compression, extended statistics, triggers as enabled`, () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; ${trigger};
                alter table t alter v set default 'x', alter v set storage external, alter w set compression pglz;
                create statistics s on k, tenant from t; comment on column t.v is 'c';
                create trigger a before insert on t for each row execute function f(); alter table t disable trigger a;
                create trigger b before insert on t for each row execute function f(); alter table t enable replica trigger b;
                create trigger c before insert on t for each row execute function f(); alter table t enable always trigger c`);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            expect(await facts(owner, 't0')).toEqual(await facts(owner, 't'));
            expect(await statements(owner, 't', 't0')).toEqual([]);
        }));
});

describe('what the copy is worth', () => {
    const member = 'pg_database_owner'; // the owner of the database is a member of it, and may become it
    const seen = async (owner: Session, table: string): Promise<unknown> => {
        await owner.run(`set role ${member}`);
        const { rows, code } = await owner.attempt(`select k from ${table} order by k`);
        await owner.run('reset role');
        return code === 'ok' ? rows.map((row) => row.k) : code;
    };

    test('default privileges do not lead past the row security of the parent; negative control: before, they do', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; alter table t enable row level security; alter default privileges grant select on tables to ${member}`);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            await owner.run('insert into t values (1)');
            expect(await seen(owner, 't')).toBe('42501');
            expect(await seen(owner, 't0')).toEqual([1]);
            await mend(owner, 't', 't0');
            expect(await seen(owner, 't0')).toBe('42501');
        }));

    test('a policy shows the same rows of a partition whether it is read through the parent or not', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; create table m (tenant int, k int, v text); insert into m values (1, 9, 't.k'), (3, 9, 't0.k');
                create policy a on t using (exists (select from m as t0 where t0.tenant = t.tenant and t0.k <> t.k and t0.v <> 't0.k'));
                create policy b on t using (tenant in (select m.tenant + 1 from m where m.v = 't.k' and t.v = 'yes'));
                alter table t enable row level security; alter table t force row level security; grant select on t, m to ${member}`);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            await owner.run('alter table t no force row level security');
            await owner.run("insert into t values (1, 1, null), (2, 2, 'no'), (3, 3, null), (4, 2, 'yes'), (5, 1, null), (9, 1, 'yes')");
            expect(await seen(owner, 't0')).toBe('42501');
            await mend(owner, 't', 't0');
            expect(await seen(owner, 't')).toEqual([1, 4, 5]);
            expect(await seen(owner, 't0')).toEqual([1, 4, 5]);
        }));

    test('negative control: with the text of the policy unchanged it cannot be created, or reads another table', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; create table m (tenant int); create policy a on t using (exists (select from m where m.tenant = t.tenant))`);
            await withoutGuard(owner, '_policy_expression_v1', "strpos(expression, v_from || '.') = 0", 'true');
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            const [statement] = await statements(owner, 't', 't0');
            expect((await owner.attempt(String(statement))).code).toBe('42P01');
        }));

    test('a name in a policy that could mean a column or something in a schema is 0A000', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; create table m (tenant int); create policy a on t using (exists (select from m where m.tenant = t.tenant));
                create schema t; create table t.tenant ()`);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            expectError(await owner.attempt("select * from ensure._property_statements_v1('t', 't0', null)"), '0A000');
        }));
});

/** What happens to a partition later, and the statement that takes it back. */
const drifts: Record<string, { before?: string; drift: string; said: RegExp[]; since?: number }> = {
    'another owner, whose privileges go with it': {
        drift: `alter table t0 owner to pg_database_owner; grant select on t0 to ${reader}`,
        said: [/^alter table public\.t0 owner to /, /^revoke select on public\.t0 from pg_monitor cascade$/],
    },
    'a grant that another role made on the partition': {
        before: 'grant select on t to pg_database_owner with grant option; grant update on t to pg_monitor',
        drift: `set role pg_database_owner; grant select on t0 to ${reader}; reset role`,
        said: [/^revoke all on public\.t0 from pg_monitor cascade$/, /from pg_database_owner cascade$/, /^grant select .* with grant option$/, /^grant update on public\.t0 to pg_monitor$/],
    },
    'privileges taken from a partition': {
        before: `grant select on t to ${reader}; grant update (v) on t to ${other}`,
        drift: `revoke select on t0 from ${reader}; revoke update (v) on t0 from ${other}`,
        said: [/^grant select on/, /^grant update \(v\) on/],
    },
    'privileges of the table that hide those of a column': {
        before: `grant select (v) on t to ${reader}`, drift: `grant select on t0 to ${reader}`,
        said: [/^revoke select on public\.t0 from pg_monitor cascade$/, /^grant select \(v\) on public\.t0 to pg_monitor$/],
    },
    'row security off': {
        before: 'alter table t enable row level security, force row level security',
        drift: 'alter table t0 disable row level security, no force row level security', said: [/enable/, /force/],
    },
    'row security on': { drift: 'alter table t0 enable row level security, force row level security', said: [/disable/, /no force/] },
    'a policy with another expression or other roles is altered, in one statement': {
        before: 'create policy a on t using (k > 0); create policy b on t using (k > 0)',
        drift: `alter policy a on t0 using (k > 1); alter policy b on t0 to ${reader}`, said: [/^alter policy a .*k > 0/, /^alter policy b on public\.t0 to public$/],
    },
    'a policy of another kind, or with a clause too many, is made again, in one string': {
        before: 'create policy a on t as restrictive using (k > 0); create policy b on t for update using (k > 0)',
        drift: 'drop policy a on t0; create policy a on t0 using (k > 0); alter policy b on t0 with check (k > 1)',
        said: [/^drop policy a on public\.t0; create policy a .* as restrictive/, /^drop policy b on public\.t0; create policy b/],
    },
    'the sub-select of a policy': {
        before: `create table m (a int, tenant int, k int); create policy a on t using (exists (select from m where m.k = t.k));
                 create policy b on t using (tenant in (select m.tenant from m where m.a = t.k))`,
        drift: `alter policy a on t0 using (exists (select from m where m.tenant = t0.k));
                alter policy b on t0 using (tenant in (select m.tenant from m where m.a = t0.tenant))`,
        said: [/^alter policy a [^]*m\.k = t0\.k/, /^alter policy b [^]*m\.a = t0\.k/],
    },
    'a policy too many, one too few': {
        before: 'create policy a on t using (k > 0)', drift: 'drop policy a on t0; create policy z on t0 using (true)',
        said: [/^create policy a/, /^drop policy z/],
    },
    'replica identity': { before: 'alter table t replica identity full', drift: 'alter table t0 replica identity default', said: [/full$/] },
    'the other index as replica identity': {
        before: 'create unique index i on t (v, k); alter table t alter v set not null; alter table t replica identity using index i',
        drift: 'alter table t0 replica identity using index t0_pkey', said: [/using index t0_v_k_idx$/],
    },
    'defaults, storage, compression, statistics targets and options': {
        before: "alter table t alter v set default 'x', alter v set statistics 7, alter v set (n_distinct = 5)",
        drift: `alter table t0 alter v drop default, alter w set default 'y', alter v set storage main, alter w set compression pglz, alter v set statistics -1,
                alter v reset (n_distinct), alter w set (n_distinct = 3)`,
        said: [/v set default 'x'/, /w drop default$/, /v set storage extended$/, /w set compression default$/, /v set statistics 7$/, /v set \(n_dist/, /w reset \(n_distinct\)$/],
    },
    'a trigger that is disabled, on the partition alone': {
        before: `${trigger}; create trigger "My g" before insert on t for each row execute function f()`,
        since: 15, // on 14 a trigger that came with ATTACH is a system trigger, which only a superuser may disable
        drift: 'alter table t0 disable trigger "My g"', said: [/^alter table public\.t0 enable trigger "My g"$/],
    },
    'extended statistics dropped': {
        before: 'create statistics s (ndistinct, mcv) on k, tenant from t; create statistics e on (k + 1) from t; alter statistics s set statistics 9',
        drift: "do $$ declare s text; begin for s in select stxname from pg_statistic_ext where stxrelid = 't0'::regclass loop execute format('drop statistics %I', s); end loop; end $$",
        said: [/^create statistics public\.t0_[0-9a-f]{8}_stat \(ndistinct, mcv\) on k, tenant from/, /^create statistics .* on \(k \+ 1\) from/, /set statistics 9$/],
    },
    'comments changed; one of its own stays': {
        before: "comment on table t is 'x'; comment on column t.v is 'y'", said: [/^comment on table public\.t0 is 'x'$/, /^comment on column public\.t0\.v is 'y'$/],
        drift: "comment on table t0 is 'z'; comment on column t0.v is null; comment on column t0.w is 'own'",
    },
};

describe('what happens to a partition later', () => {
    test.each(Object.keys(drifts).filter((name) => major >= (drifts[name]?.since ?? 14)))('%s', (name) =>
        withOwner(async (owner) => {
            const { before, drift, said } = drifts[name] as (typeof drifts)[string];
            await owner.run(set);
            if (before) await owner.run(before);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            await mend(owner, 't', 't0');
            const wanted = await facts(owner, 't0');
            await owner.run(drift);
            expect(await facts(owner, 't0')).not.toEqual(wanted);
            const list = await mend(owner, 't', 't0');
            await owner.run('comment on column t0.w is null');
            expect(await facts(owner, 't0')).toEqual(wanted);
            for (const expected of said) expect(list).toContainEqual(expect.stringMatching(expected));
            expect(list).toHaveLength(said.length);
        }));

    test('a grant of a column that another role made on the partition is for that role to take back', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; grant select on t to pg_database_owner with grant option`);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            await mend(owner, 't', 't0');
            await owner.run(`set role pg_database_owner; grant select (v) on t0 to ${reader}; reset role`);
            const list = await statements(owner, 't', 't0');
            expect(list).toEqual(['revoke select (v) on public.t0 from pg_monitor granted by pg_database_owner cascade']);
            expect((await owner.attempt(String(list[0]))).code).toBe('0A000');
            await owner.run(`set role pg_database_owner; ${list[0]}; reset role`);
            expect(await statements(owner, 't', 't0')).toEqual([]);
        }));

    test.each(major >= 17 ? ['from 17 on'] : [])('the expression of a generated column is set again, %s', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (x int, k int not null, g int generated always as (k * 2) stored) partition by range (k); alter table t drop x');
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            expect(await statements(owner, 't', 't0')).toEqual([]);
            await owner.run('alter table t0 alter g set expression as (k * 3); insert into t values (1)');
            expect(await mend(owner, 't', 't0')).toHaveLength(1);
            expect(await owner.run('select g from t')).toEqual([{ g: 2 }]);
        }));

    test(`a generated column that was attached with another expression (PostgreSQL ${major})`, () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k int not null, g int generated always as (k * 2) stored) partition by range (k);
                             create table t0 (k int not null, g int generated always as (k * 3) stored)`);
            const { code } = await owner.attempt('alter table t attach partition t0 for values from (0) to (10)');
            expect(code).toBe(major >= 16 ? 'ok' : '42804');
            if (code !== 'ok') return;
            expect(await owner.run("select property, statement is null as lost from ensure._property_statements_v1('t', 't0', null)"))
                .toEqual([{ property: 'generated column', lost: major === 16 }]);
        }));

    test('storage parameters, and those of the TOAST table, follow a template when one is given', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; create table model (v text) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_enabled = off)`);
            await attach(owner, 't', 't0', 'for values from (0) to (10)');
            await owner.run('alter table t0 set (parallel_workers = 2, fillfactor = 90)');
            expect(await statements(owner, 't', 't0')).toEqual([]);
            expect(await mend(owner, 't', 't0', "'model'")).toEqual([
                "alter table public.t0 set (autovacuum_vacuum_scale_factor = '0.01', fillfactor = '70')",
                'alter table public.t0 reset (parallel_workers)',
                "alter table public.t0 set (toast.autovacuum_enabled = 'off')"]);
            const options = (table: string) => owner.run(`
                select (select array_agg(o order by o) from unnest(c.reloptions) as o) as own, x.reloptions as toast
                from pg_class as c join pg_class as x on x.oid = c.reltoastrelid where c.oid = '${table}'::regclass`);
            expect(await options('t0')).toEqual(await options('model'));
            await owner.run('alter table model reset (fillfactor, toast.autovacuum_enabled)');
            expect(await mend(owner, 't', 't0', "'model'")).toHaveLength(2);
        }));

    test('a partition that is partitioned itself is treated the same, and its partitions after it', () =>
        withOwner(async (owner) => {
            await owner.run(set.replace('primary key (k)', 'primary key (k, tenant)'));
            await owner.run(Object.entries(properties).filter(([name]) => /grant|policies of|full|options|targets of|comments|forced/.test(name)).map(([, { on }]) => on).join(';'));
            await owner.run('create table t0 (like t including all excluding identity excluding indexes) partition by range (tenant)');
            await owner.run('alter table t attach partition t0 for values from (0) to (10)');
            expect((await mend(owner, 't', 't0')).filter((one) => /^alter table (?!only )/.test(one))).toEqual([]);
            expect(await facts(owner, 't0')).toEqual(await facts(owner, 't'));
            await attach(owner, 't0', 't00', 'for values from (0) to (10)');
            await mend(owner, 't0', 't00');
            expect(await facts(owner, 't00')).toEqual(await facts(owner, 't'));
        }));

    test('in one transaction with its creation, under an old snapshot', () =>
        withOwner(async (owner) => {
            await owner.run(`${set}; grant select (v) on t to ${reader}; create policy a on t using (k > 0); alter table t replica identity full`);
            for (const level of ['read committed', 'repeatable read', 'serializable']) {
                await owner.run(`begin isolation level ${level}`);
                await owner.run('select 1');
                await attach(owner, 't', 't0', 'for values from (0) to (10)');
                expect(await mend(owner, 't', 't0')).toHaveLength(3);
                expect(await facts(owner, 't0')).toEqual(await facts(owner, 't'));
                await owner.run('rollback');
            }
        }));
});

test('everything at once, under names in quotes, with capitals, dots, percent signs and more than one byte to a letter', () =>
    withOwner(async (owner) => {
        const parent = '"S %s"."Tä.ble ""x"" 100%I"';
        const leaf = `"S %s"."${'ü'.repeat(31)}"`;
        await owner.run(`create schema "S %s"; ${trigger};
            create table "S %s".m ("Spälte %" int, "K.ey" int);
            create table ${parent} (gone int, "K.ey" int not null, "also gone" text, "Spälte %" int default 3, "wh""at" text default 'it''s %s',
                constraint "Che'ck" check ("Spälte %" > 0), primary key ("K.ey")) partition by range ("K.ey");
            alter table ${parent} drop column gone, drop column "also gone";
            grant select ("wh""at"), update ("Spälte %") on ${parent} to ${reader} with grant option; grant insert on ${parent} to public;
            alter default privileges in schema "S %s" grant all on tables to ${other};
            create policy "Pö%licy" on ${parent} for update to ${reader}, public
                using ("Spälte %" in (select m."Spälte %" from "S %s".m where m."K.ey" = ${parent.split('.').slice(1).join('.')}."K.ey"))
                with check ("wh""at" <> 'x''y"z%s\\');
            alter table ${parent} enable row level security;
            create unique index "I %s" on ${parent} ("K.ey", (lower("wh""at")));
            create unique index "J %s" on ${parent} ("Spälte %", "K.ey"); alter table ${parent} alter "Spälte %" set not null;
            alter index "S %s"."I %s" alter column 2 set statistics 12;
            alter table ${parent} replica identity using index "J %s";
            alter table ${parent} alter "wh""at" set statistics 5, alter "wh""at" set (n_distinct = 9), alter "wh""at" set storage external;
            create statistics "S %s"."St %" on "K.ey", "Spälte %" from ${parent}; alter statistics "S %s"."St %" set statistics 8;
            create trigger "Tr%" before insert on ${parent} for each row execute function f(); alter table ${parent} enable always trigger "Tr%";
            comment on table ${parent} is 'a''b"c%s\\'; comment on column ${parent}."wh""at" is '%I'; comment on trigger "Tr%" on ${parent} is '%L';
            comment on policy "Pö%licy" on ${parent} is 'p%'; comment on constraint "Che'ck" on ${parent} is 'c%'; comment on index "S %s"."I %s" is 'i%'`);
        await attach(owner, parent, leaf, 'for values from (0) to (10)');
        const without = (all: Record<string, unknown>) => ({ ...all, policies: (all.policies as Record<string, unknown>[] | null)?.map((one) => ({ ...one, using: null })) });
        const wanted = without(await facts(owner, parent));
        expect(without(await facts(owner, leaf))).not.toEqual(wanted);
        await mend(owner, parent, leaf);
        expect(without(await facts(owner, leaf))).toEqual(wanted);
        const [policy] = await owner.run(`select pg_get_expr(polqual, polrelid) as using from pg_policy where polrelid = '${leaf}'::regclass`);
        expect(policy?.using).toContain(`= "${'ü'.repeat(31)}"."K.ey"`);
    }));
