import { describe, expect, test } from 'vitest';
import { as, lines, withRoles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { everything, owners, strangers } from './objects.js';

const ensure = (owner: string, rest = ''): string => `select object, outcome from ensure.ensure_owner_v1('${owner}', '{a}'${rest})`;

describe('all that is in the schemas changes hands', () => {
    test('every kind of object; what follows another object follows; the second call writes nothing', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const [before, after] = [role('before'), role('after')];
            await dba.run(`${everything}; create role "${before}"; create role "${after}"`);
            expect(await dba.run(ensure(before))).toContainEqual({ object: 'owner of table a.t', outcome: 'altered' });
            const first = await dba.run(strangers('{a}', after));
            expect(first.length).toBeGreaterThan(35);
            const changed = await dba.run(ensure(after));
            expect(await dba.run(strangers('{a}', after))).toEqual([]);
            expect(await dba.run(`select from pg_shdepend where deptype = 'o' and refobjid = '"${before}"'::regrole`)).toEqual([]);
            expect(changed.map(({ outcome }) => outcome)).toEqual(changed.map(() => 'altered'));
            expect((await dba.run(owners)).map(({ owner }) => owner)).toEqual((await dba.run(owners)).map(() => after));
            const written = await dba.run(owners);
            expect(await dba.run(ensure(after))).toEqual([{ object: 'owner of schema a', outcome: 'exists' }]);
            expect(await dba.run(owners)).toEqual(written);
        }));

    test('the new owner alters everything afterwards, without any right beside', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${everything}; create role "${role('app')}"`);
            await dba.run(ensure(role('app')));
            await as(dba, role('app'), () => dba.run(`
                alter table a.t add column more int; alter table a.p11 add check (n <> ''); alter view a.v rename to v2;
                alter sequence a.t_id_seq increment 2; alter type a.e add value 'r'; drop function a.f;
                alter statistics a.st set statistics 10; drop operator class a.oc using btree; alter text search dictionary a.dict rename to d2;
                drop collation a.c; alter domain a.d drop constraint d_check; create table a.new (); refresh materialized view a.m`));
        }));

    test('the same by the plan, each statement a transaction, and asked again it has no rows', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${everything}; create role "${role('app')}"`);
            const plan = `select * from ensure.plan_owner_v1('${role('app')}', '{a}')`;
            await dba.run('begin read only');
            const steps = await dba.run(plan);
            await dba.run('rollback');
            expect(steps[0]).toEqual({
                step_number: 1, statement: `alter schema a owner to ${role('app')}`, in_transaction: true, locks: null, why: 'owner of schema a',
            });
            expect(steps).toContainEqual(expect.objectContaining({ locks: 'ACCESS EXCLUSIVE on a.t, its indexes and sequences' }));
            for (const { statement } of steps.slice(0, 5)) await dba.run(String(statement));
            expect(await dba.run(plan)).toHaveLength(steps.length - 5);
            for (const { statement } of await dba.run(plan)) await dba.run(String(statement));
            expect(await dba.run(plan)).toEqual([]);
            expect(await dba.run(strangers('{a}', role('app')))).toEqual([]);
        }));
});

test('a schema, and objects, whose names need quotes', () =>
    withRoles(['dba'], async ({ dba }, { role }) => {
        await dba.run(`${everything.replace(/\ba\./g, '"Mixed ""Schema%s".').replace('create schema a;', 'create schema "Mixed ""Schema%s";')};
            create type "Mixed ""Schema%s"."ty pe" as enum ('q');
            create procedure "Mixed ""Schema%s"."Pro c%I"(inout "x y" "Mixed ""Schema%s"."ty pe", in z "Mixed ""Schema%s"."ty pe"[], variadic w text[])
                language sql as 'select x.x from (select $1 as x) as x';
            create procedure "Mixed ""Schema%s".bare() language sql as 'select 1'; create role "${role('app')}"; create role "${role('next')}"`);
        const schema = "array['Mixed \"Schema%s']::name[]";
        await dba.run(`select * from ensure.ensure_owner_v1('${role('app')}', ${schema})`);
        const all = `select from pg_shdepend as s cross join pg_identify_object(s.classid, s.objid, 0) as i where s.deptype = 'o'
            and s.refobjid <> '"${role('next')}"'::regrole and i.schema = '"Mixed ""Schema%s"'`;
        expect((await dba.run(all)).length).toBeGreaterThan(35);
        for (const { statement } of await dba.run(`select statement from ensure.plan_owner_v1('${role('next')}', ${schema})`)) await dba.run(String(statement));
        expect(await dba.run(all)).toEqual([]);
        await dba.run(`create role "${role('heir')}"`);
        const retire = `select statement from ensure.plan_retire_role_v1('${role('next')}', '${role('heir')}')`;
        for (let asks = 0; asks < 5; asks += 1) for (const { statement } of await dba.run(retire)) await dba.run(String(statement));
        expect(await dba.run(retire)).toEqual([]);
    }));

describe('what stays', () => {
    test('what is excluded: a partitioned table with its partitions, views, composite types, routines', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${everything}; create role "${role('app')}"; create role "${role('other')}"`);
            await dba.run(ensure(role('other')));
            await dba.run(ensure(role('app'), ", '{a.p,a.v,a.t,a.comp,a.s}', '{\"a.f(int,text[])\"}'"));
            expect((await dba.run(strangers('{a}', role('app')))).map(({ identity }) => identity)).toEqual([
                'a.f(integer,pg_catalog.text[])', 'a.s', 'a.t_i_seq', 'a.t_id_seq', 'a.p', 'a.p1', 'a.p11', 'a.t', 'a.comp', 'a.v',
            ]);
        }));

    test('negative control: partitions that are not kept with their table move', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`${everything}; create role "${role('app')}"; create role "${role('other')}"`);
            await dba.run(ensure(role('other')));
            await withoutGuard(dba, '_owned_objects_v1', 'p.relispartition', 'false');
            await dba.run(ensure(role('app'), ", '{a.p}'"));
            expect((await dba.run(strangers('{a}', role('app')))).map(({ identity }) => identity)).toEqual(['a.p']);
        }));

    test('what belongs to an extension, or is in another schema', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create schema a; create schema b; create table b.t (); create table a.t (); create extension citext schema a;
                create role "${role('app')}"`);
            expect(await dba.run(ensure(role('app')))).toEqual([
                { object: 'owner of schema a', outcome: 'altered' }, { object: 'owner of table a.t', outcome: 'altered' },
            ]);
            await dba.run("alter extension citext add table a.t; alter table a.t owner to postgres");
            expect(await dba.run(ensure(role('app')))).toEqual([{ object: 'owner of schema a', outcome: 'exists' }]);
        }));

    test('constructors of range types, which belong to a superuser: an owner that is none needs none for them', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('old')}"; create role "${role('app')}"; grant "${role('app')}" to "${role('old')}"; grant usage on schema ensure to "${role('old')}";
                do $$ begin execute format('grant create on database %I to "${role('old')}"', current_database()); end $$;
                create schema a authorization "${role('old')}"; set role "${role('old')}"; create type a.span as range (subtype = int); reset role`);
            const call = `select * from ensure.ensure_owner_v1('${role('app')}', '{a}')`;
            expect(lines(await as(dba, role('old'), () => dba.run(call)))).toEqual(expect.arrayContaining(['owner of schema a altered', 'owner of type a.span altered']));
            expect(lines(await dba.run(call))).toEqual(['owner of schema a exists']);
        }));

    test('without TimescaleDB nothing of it is looked for', () =>
        withRoles(['dba'], async ({ dba }) => {
            expect(await dba.run('select * from ensure._hypertables_v1()')).toEqual([]);
        }));

    describe('views that anybody made under the names of TimescaleDB are not run', () => {
        const planted = (mallory: string): string => `
            create schema a; create schema timescaledb_information authorization "${mallory}"; set role "${mallory}";
            create function timescaledb_information.evil() returns boolean language plpgsql as $$ begin
                raise exception using errcode = 'ZZ001', message = 'run as ' || current_user; end $$;
            create view timescaledb_information.hypertables as select 'a'::name as hypertable_schema, 'b'::name as hypertable_name
                where timescaledb_information.evil();
            create view timescaledb_information.continuous_aggregates as select 'a'::name as view_schema, 'b'::name as view_name,
                'a'::name as materialization_hypertable_schema, 'b'::name as materialization_hypertable_name;
            create view timescaledb_information.jobs as select 1 as job_id, 'a'::name as owner, 'a'::name as hypertable_schema, 'b'::name as hypertable_name;
            grant usage on schema timescaledb_information to public; grant select on all tables in schema timescaledb_information to public;
            reset role`;
        const extension = `insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
            values (4000000000, 'timescaledb', 10, 'a'::regnamespace, false, '2.30.0')`;
        const member = (view: string): string => `insert into pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
            values ('pg_class'::regclass, 'timescaledb_information.${view}'::regclass, 0, 'pg_extension'::regclass, 4000000000, 0, 'e')`;

        test('without the extension, and with it where one of them is no member of it; when all are, they are read', () =>
            withRoles(['dba'], async ({ dba }, { role }) => {
                await dba.run(`create role "${role('mallory')}"; create role "${role('app')}"; ${planted(role('mallory'))}`);
                const calls = [`select * from ensure.plan_owner_v1('${role('app')}', '{a}')`,
                    `select * from ensure.check_roles_v1('{"owners": [{"new_owner": "${role('app')}", "schemas": ["a"]}]}')`];
                for (const call of calls) expect((await dba.attempt(call)).code).toBe('ok');
                await dba.run(`${extension}; ${member('continuous_aggregates')}; ${member('jobs')}`);
                for (const call of calls) expect((await dba.attempt(call)).code).toBe('ok');
                await dba.run(member('hypertables')); // the control: this is what would have run
                for (const call of calls) expect((await dba.attempt(call)).code).toBe('ZZ001');
            }));

        test('negative control: without the look at the members the view runs', () =>
            withRoles(['dba'], async ({ dba }, { role }) => {
                await dba.run(`create role "${role('mallory')}"; create role "${role('app')}"; ${planted(role('mallory'))}; ${extension}`);
                await withoutGuard(dba, '_hypertables_v1', 'v_views < 3', 'false');
                expect((await dba.attempt(`select * from ensure.plan_owner_v1('${role('app')}', '{a}')`)).code).toBe('ZZ001');
            }));
    });

    test('with TimescaleDB: a hypertable takes its chunks along, a continuous aggregate all its objects, and their jobs follow', (context) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const [found] = await dba.run("select from pg_available_extensions where name = 'timescaledb'");
            if (!found) context.skip('this server has no TimescaleDB');
            const app = role('app');
            await dba.run(`create extension timescaledb; create schema a; create role "${app}" login;
                create table a.h (at timestamptz not null, v float8); select create_hypertable('a.h', 'at');
                insert into a.h select now() - i * interval '1 day', i from generate_series(1, 60) as i`);
            await dba.run(`create materialized view a.c with (timescaledb.continuous) as
                select time_bucket('1 day', at) as day, avg(v) from a.h group by 1 with no data`);
            await dba.run(`select add_retention_policy('a.h', interval '1 year');
                select add_continuous_aggregate_policy('a.c', interval '10 days', interval '1 day', interval '1 hour')`);
            const changed = await dba.run(ensure(app));
            expect(changed.map(({ object }) => object)).toEqual(expect.arrayContaining(['owner of table a.h', 'owner of view a.c']));
            expect(await dba.run(`select from timescaledb_information.jobs where hypertable_name in ('h', 'c') and owner::text <> '"${app}"'`)).toEqual([]);
            expect(await dba.run(`select from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
                where i.inhparent = 'a.h'::regclass and c.relowner <> '"${app}"'::regrole`)).toEqual([]);
            expect(await dba.run(ensure(app))).toEqual([{ object: 'owner of schema a', outcome: 'exists' }]);
        }));
});
