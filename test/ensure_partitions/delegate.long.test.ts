import { describe, expect, test, type TestContext } from 'vitest';
import { at } from '../../scripts/harness/databases.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { expectError, major, missing, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

interface Place {
    /** Owns the database, schema app and what is in it; no superuser. */
    owner: Session;
    dba: Session;
    /** Roles that own nothing and may create nothing; both have USAGE on schema app. */
    app: Session;
    other: Session;
    role: string;
    otherRole: string;
    url: string;
    appUrl: string;
}

/** A database with schema app and two application roles, which are gone afterwards. */
const withPlace = (context: TestContext, body: (place: Place) => Promise<void>): Promise<void> => {
    if (!surroundings.superuser) missing(context, 'the role of DATABASE_URL is no superuser: no roles can be made for this test');
    return withTestDatabase(({ url, admin, name }) => withSessions(admin, ['dba'], async ({ dba }) => {
        const [role, otherRole] = [`app_${name}`, `other_${name}`];
        const login = (user: string) => at(admin, name, { name: user, password: 'secret' });
        await dba.run(`revoke create on schema public from public;
                       create role ${role} login password 'secret'; create role ${otherRole} login password 'secret'`);
        try {
            await withSessions(url, ['owner'], ({ owner }) => withSessions(login(role), ['app'], ({ app }) =>
                withSessions(login(otherRole), ['other'], async ({ other }) => {
                    await owner.run(`create schema app; grant usage on schema app to ${role}, ${otherRole}`);
                    await body({ owner, dba, app, other, role, otherRole, url, appUrl: login(role) });
                })));
        } finally {
            await dba.run(`reset role; drop owned by ${role}, ${otherRole}; drop role ${role}, ${otherRole}`);
        }
    }));
};

const delegate = (role: string, table: string, args: string): string =>
    `select delegate::text, outcome from ensure.ensure_partition_delegate_v1('app.${table}', '${role}', ${args}, function_name => 'make_${table}')`;

const lines = async (session: Session, call: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', partition, lower_bound, upper_bound, outcome) as line from ${call}`)).map((row) => String(row.line));

const partitions = async (session: Session, table: string): Promise<string[]> =>
    (await session.run(`select pg_get_expr(c.relpartbound, 0) as bound from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
                        where i.inhparent = 'app.${table}'::regclass order by c.oid`)).map((row) => String(row.bound));

/** A negative control: the delegate with `guard` replaced. */
async function alteredDelegate(session: Session, name: string, guard: string | RegExp, replacement: string): Promise<void> {
    const [row] = await session.run(`select pg_get_functiondef('app.${name}'::regproc) as source`);
    const source = String(row?.source);
    const mutant = source.replace(guard, replacement);
    expect(mutant, `${guard} is not in ${name}`).not.toBe(source);
    await session.run(mutant);
}

const integers = 'create table app.t (k int) partition by range (k)';

describe('what it lends', () => {
    test('a role that owns nothing has partitions made inside of the window; they belong to the owner of the table', (context) =>
        withPlace(context, async ({ owner, app, role }) => {
            await owner.run(`${integers}; grant insert on app.t to ${role}`);
            expect((await app.attempt('insert into app.t values (5)')).code).toBe('23514');
            expect((await app.attempt("select ensure.ensure_partitions_v1('app.t', '10', 5)")).code).toBe('42501');
            expect(await owner.run(delegate(role, 't', "'10', '0', '99'"))).toEqual([{ delegate: 'app.make_t(integer)', outcome: 'created' }]);
            expect(await lines(app, 'app.make_t(5)')).toEqual(['app.t_0000000000000 0 10 created']);
            expect(await lines(app, 'app.make_t(9)')).toEqual(['app.t_0000000000000 0 10 exists']);
            expect(await lines(app, 'app.make_t(99)')).toEqual(['app.t_0000000000090 90 100 created']);
            await app.run('insert into app.t values (5), (99)');
            expect(await owner.run("select distinct pg_get_userbyid(relowner) as owner from pg_class where relname like 't\\_0%'"))
                .toEqual([{ owner: surroundings.server.owner }]);
            for (const statement of ['create table app.mine ()', 'drop table app.t_0000000000000', 'alter table app.t detach partition app.t_0000000000000',
                'drop function app.make_t(int)', 'alter function app.make_t(int) reset search_path', 'select ensure.ensure_partitions_v1(\'app.t\', \'10\', 5)']) {
                expect((await app.attempt(statement)).code, statement).toBe('42501');
            }
        }));

    test('a key outside of the window is 22003 with window and owner, NULL is 22004, another role 42501; nothing is created', (context) =>
        withPlace(context, async ({ owner, app, other, role }) => {
            await owner.run(integers);
            await owner.run(delegate(role, 't', "'10', '0', '99'"));
            for (const key of [-1, 100, 2147483647]) {
                const { detail, hint } = expectError(await app.attempt(`select app.make_t(${key})`), '22003');
                expect(detail).toContain('the window from 0 to 99');
                expect(hint).toContain(surroundings.server.owner);
            }
            expectError(await app.attempt('select app.make_t(null)'), '22004');
            expect((await other.attempt('select app.make_t(5)')).code).toBe('42501');
            expect(await partitions(owner, 't')).toEqual([]);
        }));

    test('negative controls: without the window the role creates outside; without SECURITY DEFINER it creates nothing', (context) =>
        withPlace(context, async ({ owner, dba, app, role }) => {
            await owner.run(integers);
            await owner.run(delegate(role, 't', "'10', '0', '99'"));
            await owner.run('alter function app.make_t(int) security invoker');
            expect((await app.attempt('select app.make_t(5)')).code).toBe('42501');
            await dba.run(`grant usage on schema ensure to ${role}`);
            expect((await app.attempt('select app.make_t(5)')).code).toBe('42501');
            await owner.run('alter function app.make_t(int) security definer');
            await alteredDelegate(owner, 'make_t', /elsif v_key operator.*/, 'elsif false then');
            expect(await lines(app, 'app.make_t(100)')).toEqual(['app.t_0000000000100 100 110 created']);
        }));

    const now = 'now()';
    const day = "interval '1 day'";
    const ms = (at: string) => `(extract(epoch from ${at}) * 1000)::bigint`;
    const v7 = (at: string) => `(lpad(to_hex(${ms(at)}), 12, '0') || '7000' || '8000000000000000')::uuid`;
    const mood = "create type app.mood as enum ('sad', 'ok', 'happy')";
    test.for([
        ['smallint', 'range', "'10', '-5', '5'", ['-5', '5'], ['-6', '6']],
        ['bigint', 'range', "'10', '5000000000', '+5000000001'", ['5000000000', '5000000001'], ['4999999999', '5000000002']],
        ['numeric', 'range', "'0.5', '-1.5', '1.5'", ['-1.5', '1.50'], ['-1.51', '1.5000000001', "'NaN'"]],
        ['date', 'range', "'1 day', '2026-01-01', '2026-01-31'", ["'2026-01-01'", "'2026-01-31'"], ["'2025-12-31'", "'2026-02-01'", "'infinity'"]],
        ['date', 'range', "'1 day', '-1 day', '1 week'", ['current_date', 'current_date + 5'], ['current_date - 3', 'current_date + 10']],
        ['timestamp', 'range', "'1 month', '2026-01-01 12:00', '90 days'", ["'2026-01-01 12:00'"], ["'2026-01-01 11:59:59'", "'-infinity'"]],
        ['timestamptz', 'range', "'1 month', '-7 days', '90 days'", [now, `${now} + 89 * ${day}`], [`${now} - 8 * ${day}`, `${now} + 91 * ${day}`, "'infinity'"]],
        ['timestamptz', 'range', "'1 day', '2026-01-01', '2026-01-02', zone => 'America/New_York'", ["'2026-01-01 05:00Z'"], ["'2026-01-01 04:59Z'", "'2026-01-02 05:01Z'"]],
        ['uuid', 'range', "'1 month', '-7 days', '90 days'", [v7(now)], [v7(`${now} - 8 * ${day}`), v7(`${now} + 91 * ${day}`)]],
        ['bigint', 'range', "'1 month', '-7 days', '90 days', epoch => 'ms'", [ms(now)], [ms(`${now} - 8 * ${day}`), ms(`${now} + 91 * ${day}`), '0']],
        ['integer', 'range', "'1 day', '0', '2026-01-01', epoch => 's'", ['0', '1767225600'], ['-1', '1767225601']],
        ['integer', 'list', "null, '-1', '10'", ['-1', '10'], ['-2', '11']],
        ['text collate "C"', 'list', "null, 'a', 'c'", ["'a'", "'bzz'", "'c'"], ["'B'", "'ca'", "''"]],
        ['varchar(3)', 'list', "null, 'aaa', 'ccc'", ["'abc'"], ["'cccc'"]],
        ['app.mood', 'list', "null, 'sad', 'ok'", ["'sad'", "'ok'"], ["'happy'"]],
        ['boolean', 'list', "null, 'f', 'off'", ['false'], ['true']],
    ] as const)('%s by %s, %s', ([type, kind, args, inside, outside], context) =>
        withPlace(context, async ({ owner, app, role }) => {
            await owner.run(`${mood}; create table app.t (k ${type}) partition by ${kind} (k); grant insert on app.t to ${role}`);
            await owner.run(delegate(role, 't', args));
            for (const key of outside) expectError(await app.attempt(`select app.make_t((${key})::${type.replace(/ .*|\(.*/, '')})`), '22003');
            expect(await partitions(owner, 't')).toEqual([]);
            for (const key of inside) {
                await app.run(`select app.make_t((${key})::${type.replace(/ .*/, '')})`);
                await app.run(`insert into app.t values ((${key})::${type.replace(/ .*/, '')})`);
            }
            expect(await owner.run(delegate(role, 't', args))).toMatchObject([{ outcome: 'exists' }]);
        }));

    test('limits relative to now move with it', (context) =>
        withPlace(context, async ({ owner, app, role }) => {
            await owner.run('create table app.t (k timestamptz) partition by range (k)');
            await owner.run(delegate(role, 't', "'1 day', '-1 day', '0 seconds'"));
            const [row] = await owner.run("select (clock_timestamp() + interval '5 s')::text as key");
            expectError(await app.attempt(`select app.make_t('${String(row?.key)}')`), '22003');
            await owner.run(`select pg_sleep_until('${String(row?.key)}')`);
            expect((await app.attempt(`select app.make_t('${String(row?.key)}')`)).code).toBe('ok');
        }));

    const icu = "select collname from pg_collation where collname = 'und-x-icu'";
    test('a collation that the caller chooses does not move the window of a list; negative control: without the own one it does', (context) =>
        withPlace(context, async ({ owner, app, role }) => {
            if ((await owner.run(icu)).length === 0) missing(context, 'this server has no ICU');
            await owner.run('create table app.t (k text collate "C") partition by list (k)');
            await owner.run(delegate(role, 't', "null, 'a', 'c'"));
            const call = 'select app.make_t(\'B\' collate "und-x-icu")';
            expectError(await app.attempt(call), '22003');
            await alteredDelegate(owner, 'make_t', / collate pg_catalog\."C"/g, '');
            expect((await app.attempt(call)).code).toBe('ok');
            expect(await partitions(owner, 't')).toEqual(["FOR VALUES IN ('B')"]);
        }));

    test('keys, limits and names with quotes, placeholders, backslashes, line breaks and dollar tags are only that', (context) =>
        withPlace(context, async ({ owner, dba, app, role }) => {
            const keys = ["a'b", 'a"b', 'a%s%I%L', 'a$1', 'a\\b\\\'', 'aü€', 'a$function$', 'a$$', "a'); drop table app.t; --", 'a\nb', 'a{b,c}', 'aNULL'];
            const quoted = (text: string) => `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\n', '\\n')}'`;
            const table = 'we"ird\n; -- %s\'x';
            const ident = (text: string) => `"${text.replaceAll('"', '""')}"`;
            const strange = `s'"%I\n${role}`.slice(0, 60);
            await owner.run(`create table app.${ident(table)} (k text collate "C") partition by list (k)`);
            await dba.run(`create role ${ident(strange)}; grant usage on schema app to ${ident(strange)}`);
            try {
                const make = `select delegate::text as name, outcome from ensure.ensure_partition_delegate_v1(${quoted(`app.${ident(table)}`)}, ${quoted(strange)}, null,
                              earliest => E'\\n$function$\\n end; select 1/0; --\\'\\\\', latest => E'z%s$function$\\'\\\\')`;
                const [made] = await owner.run(make);
                expect(made?.outcome).toBe('created');
                expect(await owner.run(make)).toEqual([{ ...made, outcome: 'exists' }]);
                await owner.run('set standard_conforming_strings = off; set quote_all_identifiers = on');
                expect(await owner.run(make)).toMatchObject([{ outcome: 'exists' }]);
                await owner.run('reset standard_conforming_strings; reset quote_all_identifiers');
                const call = `${String(made?.name).replace(/\(text\)$/, '')}`;
                await dba.run(`grant ${ident(strange)} to ${role}`);
                for (const scs of ['on', 'off']) {
                    await app.run(`set standard_conforming_strings = ${scs}`);
                    for (const key of keys) {
                        expect(await app.run(`select lower_bound, outcome from ${call}(${quoted(key)})`), key)
                            .toEqual([{ lower_bound: key, outcome: scs === 'on' ? 'created' : 'exists' }]);
                    }
                }
                expect(await owner.run("select count(*)::int as n from pg_inherits as i join pg_class as c on c.oid = i.inhparent where c.relnamespace = 'app'::regnamespace"))
                    .toEqual([{ n: keys.length }]);
            } finally {
                await dba.run(`drop owned by ${ident(strange)}; drop role ${ident(strange)}`);
            }
        }));
});

test('the delegate answers what exists in a read-only transaction and with ensure.ddl off; what is missing is 25006 or NS002', (context) =>
    withPlace(context, async ({ owner, app, role }) => {
        await owner.run(integers);
        await owner.run(delegate(role, 't', "'10', '0', '99'"));
        await app.run('select app.make_t(5)');
        await app.run('begin read only');
        expect(await lines(app, 'app.make_t(5)')).toEqual(['app.t_0000000000000 0 10 exists']);
        expectError(await app.attempt('select app.make_t(15)'), '25006');
        await app.run('rollback');
        await app.run('set ensure.ddl = off');
        expect(await lines(app, 'app.make_t(5)')).toEqual(['app.t_0000000000000 0 10 exists']);
        expectError(await app.attempt('select app.make_t(15)'), 'NS002');
    }));

describe('what its caller can set', () => {
    test('temporary objects and a search_path that shadow the catalogs are not run; negative control: without the pinned path they run as the owner', (context) =>
        withPlace(context, async ({ owner, app, role }) => {
            await owner.run(integers);
            await owner.run(delegate(role, 't', "'10', '0', '99'"));
            await app.run(`
                create temp table seen (who text); grant all on seen to public;
                create function pg_temp.evil(anyelement) returns boolean language plpgsql as $$ begin insert into pg_temp.seen values (current_user); return true; end $$;
                create function pg_temp.lt(int, int) returns boolean language plpgsql as $$ begin perform pg_temp.evil(1); return false; end $$;
                create operator pg_temp.< (leftarg = int, rightarg = int, function = pg_temp.lt);
                create operator pg_temp.> (leftarg = int, rightarg = int, function = pg_temp.lt);
                create temp view pg_class as select oid, relname, relnamespace, case when pg_temp.evil(oid) then relowner end as relowner from pg_catalog.pg_class;
                create temp view pg_inherits as select i.* from pg_catalog.pg_inherits as i where pg_temp.evil(1);
                grant select on pg_class, pg_inherits to public`);
            await app.run('set search_path = pg_temp, app, pg_catalog');
            expect(await lines(app, 'app.make_t(5)')).toEqual(['t_0000000000000 0 10 created']);
            expectError(await app.attempt('select app.make_t(100)'), '22003');
            expect(await app.run('select * from pg_temp.seen')).toEqual([]);
            await owner.run('alter function app.make_t(int) reset search_path');
            await app.run('select app.make_t(5)');
            expect(await app.run('select distinct who from pg_temp.seen')).toEqual([{ who: surroundings.server.owner }]);
        }));

    test('storage is not steered by default_tablespace and default_table_access_method; negative control: without the pin of the latter it is', (context) =>
        withPlace(context, async ({ owner, dba, app, role }) => {
            await dba.run('create access method evil type table handler heap_tableam_handler');
            await owner.run(integers);
            await owner.run(delegate(role, 't', "'10', '0', '99'"));
            const method = async (): Promise<unknown> => (await owner.run(`select a.amname from pg_class as c join pg_am as a on a.oid = c.relam
                                                                           where c.relkind = 'r' and c.relname like 't\\_%' order by c.oid desc limit 1`))[0]?.amname;
            await app.run("set default_tablespace = pg_global; set default_table_access_method = evil");
            expect(await lines(app, 'app.make_t(5)')).toEqual(['app.t_0000000000000 0 10 created']);
            expect(await method()).toBe('heap');
            await owner.run('alter function app.make_t(int) reset default_table_access_method');
            await app.run('select app.make_t(15)');
            expect(await method()).toBe('evil');
        }));

    const hostile = `set timezone = 'Pacific/Kiritimati'; set datestyle = 'German'; set intervalstyle = 'sql_standard'; set standard_conforming_strings = off;
        set quote_all_identifiers = on; set extra_float_digits = -15; set bytea_output = escape; set array_nulls = on; set check_function_bodies = off;
        set row_security = off; set lock_timeout = '900 ms'; set default_toast_compression = 'pglz'; set lc_monetary = 'C'; set transform_null_equals = on;
        set timezone_abbreviations = 'Australia'; set ensure.log = 'notice'; set backslash_quote = on; set plan_cache_mode = force_generic_plan`;

    test('how times, numbers and literals are written is not steered: the same keys pass, the same partitions come', (context) =>
        withPlace(context, async ({ owner, app, role }) => {
            await owner.run(`create table app.d (k timestamptz) partition by range (k); create table app.f (k float8) partition by list (k);
                             create table app.b (k bytea) partition by list (k)`);
            await owner.run(delegate(role, 'd', "'1 day', '2026-01-02', '2026-01-03', zone => 'Europe/Berlin'"));
            await owner.run(delegate(role, 'f', "null, '1.2', '1.3'"));
            await owner.run(delegate(role, 'b', "null, '\\x00', '\\xff'"));
            await app.run(hostile);
            expect(await lines(app, "app.make_d('2026-01-02 00:00:00 Europe/Berlin')")).toEqual(['"app"."d_2026_01_02" 2026-01-01 23:00:00+00 2026-01-02 23:00:00+00 created']);
            expectError(await app.attempt("select app.make_d('2026-01-01 23:59:59 Europe/Berlin')"), '22003');
            expect(await lines(app, 'app.make_f(1.25)')).toEqual(['"app"."f_1_25" 1.25 1.25 created']);
            expect((await lines(app, "app.make_b(decode('5c00', 'hex'))"))[0]).toMatch(/ \\x5c00 \\x5c00 created$/);
            expect((await app.attempt('set session_replication_role = replica')).code).toBe('42501');
            for (const table of ['d', 'f', 'b']) expect(await partitions(owner, table)).toHaveLength(1);
        }));

    test('what others do, and rows that its caller may not read, are left out of errors; negative control: without the handler they are not', (context) =>
        withPlace(context, async ({ owner, app, role, url }) => {
            await owner.run(`${integers}; create table app.rest partition of app.t default; insert into app.t values (7)`);
            await owner.run(delegate(role, 't', "'10', '0', '99', max_wait => '200 ms'"));
            const rows = expectError(await app.attempt('select app.make_t(5)'), 'NS004');
            expect(rows.detail).not.toContain('Rows');
            expect(rows.hint).toContain(surroundings.server.owner);
            await withSessions(url, ['holder'], async ({ holder }) => {
                await holder.run('begin; lock table only app.t in share update exclusive mode');
                expect(expectError(await app.attempt('select app.make_t(15)'), '55P03').detail).not.toContain('pid');
                await alteredDelegate(owner, 'make_t', /exception when[^;]*then[^]*?raise exception/, 'exception when division_by_zero then raise exception');
                expect(expectError(await app.attempt('select app.make_t(5)'), 'NS004').detail).toContain('Rows: 1, keys from 7 to 7');
                expect(expectError(await app.attempt('select app.make_t(15)'), '55P03').detail).toContain(`pid ${holder.pid}`);
                await holder.run('rollback');
            });
        }));

    test('a table that has got another owner is 42501; negative control: without the guard it is not noticed', (context) =>
        withPlace(context, async ({ owner, dba, app, role, otherRole }) => {
            await owner.run(integers);
            await owner.run(delegate(role, 't', "'10', '0', '99'"));
            await app.run('select app.make_t(5)');
            await dba.run(`alter table app.t owner to ${otherRole}`);
            expect(expectError(await app.attempt('select app.make_t(5)'), '42501').message).toContain('does not belong');
            await alteredDelegate(owner, 'make_t', 'elsif exists (', 'elsif false and exists (');
            expect(await lines(app, 'app.make_t(5)')).toEqual(['app.t_0000000000000 0 10 exists']);
        }));
});

describe('making it', () => {
    test('what exists is answered in a read-only transaction, with ensure.ddl off, without a lock or an id; what is missing is not', (context) =>
        withPlace(context, async ({ owner, role }) => {
            await owner.run(integers);
            const call = delegate(role, 't', "'10', '0', '99'");
            await owner.run('set ensure.ddl = off');
            expectError(await owner.attempt(call), 'NS002');
            await owner.run('reset ensure.ddl');
            await owner.run('begin read only');
            expectError(await owner.attempt(call), '25006');
            await owner.run('rollback');
            await owner.run(call);
            await owner.run('set ensure.ddl = off');
            await owner.run('begin read only');
            expect(await owner.run(call)).toMatchObject([{ outcome: 'exists' }]);
            expect(await owner.run(`select l.locktype, l.relation::regclass from pg_locks as l where l.pid = pg_backend_pid()
                                    and (l.locktype = 'advisory' or l.relation >= 16384) union all
                                    select 'id', null where pg_current_xact_id_if_assigned() is not null`)).toEqual([]);
            await owner.run('rollback');
        }));

    test.for([
        ['another window', "'10', '0', '100'", '', 'Window'],
        ['another step', "'20', '0', '99'", '', 'Pinned'],
        ['another budget', "'10', '0', '99', max_block => '1 s'", '', 'Pinned'],
        ['its setting changed', null, 'alter function app.make_t(int) reset search_path', 'SET'],
        ['its rights changed', null, 'alter function app.make_t(int) security invoker', 'SECURITY DEFINER'],
        ['executable by PUBLIC', null, 'grant execute on function app.make_t(int) to public', 'public'],
        ['executable by another role', null, 'grant execute on function app.make_t(int) to OTHER', 'other_'],
        ['granted on', null, 'grant execute on function app.make_t(int) to ROLE with grant option', 'grant that on'],
        ['not executable', null, 'revoke execute on function app.make_t(int) from ROLE', 'may not execute'],
        ['its owner changed', null, 'alter function app.make_t(int) owner to postgres', 'its owner is "postgres"'],
    ] as const)('%s: NS001 says what differs, nothing is changed', ([, args, change, words], context) =>
        withPlace(context, async ({ owner, dba, role, otherRole }) => {
            await owner.run(integers);
            await owner.run(delegate(role, 't', "'10', '0', '99'"));
            if (change) await dba.run(change.replace('OTHER', otherRole).replace('ROLE', role));
            const before = await owner.run("select p::text from pg_proc as p where proname = 'make_t'");
            const { detail, hint } = expectError(await owner.attempt(delegate(role, 't', args ?? "'10', '0', '99'")), 'NS001');
            expect(detail).toContain(words);
            expect(hint).toContain('DROP FUNCTION app.make_t(integer)');
            expect(await owner.run("select p::text from pg_proc as p where proname = 'make_t'")).toEqual(before);
        }));

    test('a name taken by another function, also of other arguments, is NS007; the default name is of table and role, cut with a hash', (context) =>
        withPlace(context, async ({ owner, role, otherRole }) => {
            await owner.run(`${integers}; create table app.${'x'.repeat(63)} (k int) partition by range (k)`);
            for (const other of ['function app.make_t(int) returns int language sql as $$ select 1 $$', 'function app.make_t(text) returns int language sql as $$ select 1 $$',
                'aggregate app.make_t(int) (sfunc = int4pl, stype = int)', 'procedure app.make_t() language sql as $$ select 1 $$']) {
                await owner.run(`create ${other}`);
                expectError(await owner.attempt(delegate(role, 't', "'10', '0', '99'")), 'NS007');
                await owner.run('drop routine app.make_t');
            }
            const call = (table: string, to: string) => `select delegate::text, outcome from ensure.ensure_partition_delegate_v1('app.${table}', '${to}', '10', '0', '9')`;
            expect(await owner.run(call('t', role))).toEqual([{ delegate: `app.t_ensure_for_${role}(integer)`, outcome: 'created' }]);
            expect(await owner.run(call('t', otherRole))).toEqual([{ delegate: `app.t_ensure_for_${otherRole}(integer)`, outcome: 'created' }]);
            const names = [(await owner.run(call('x'.repeat(63), role)))[0], (await owner.run(call('x'.repeat(63), otherRole)))[0]].map((row) => String(row?.delegate));
            expect(new Set(names).size).toBe(2);
            for (const name of names) expect(name).toMatch(/^app\.x+_ensure_for_\w+_[0-9a-f]{8}\(integer\)$/);
        }));

    test('default privileges do not open it', (context) =>
        withPlace(context, async ({ owner, app, other, role, otherRole }) => {
            await owner.run(`${integers}; alter default privileges in schema app grant execute on functions to ${otherRole}`);
            expect(await owner.run(delegate(role, 't', "'10', '0', '99'"))).toMatchObject([{ outcome: 'created' }]);
            expect((await other.attempt('select app.make_t(5)')).code).toBe('42501');
            expect((await app.attempt('select app.make_t(5)')).code).toBe('ok');
        }));

    test.for([
        ['no window', "'10'", '22004'], ['no latest', "'10', '0'", '22004'], ['no step', "null, '0', '9'", '22004'], ['no grantee', 'NULL', '22004'],
        ['no zone', "'10', '0', '9', zone => null", '22004'], ['a step that is none', "'0', '0', '9'", '22023'], ['swapped', "'10', '9', '0'", '22023'],
        ['no number', "'10', '0', 'x'", '22023'], ['past the type', "'10', '0', '99999999999'", '22003'], ['a time for a number', "'10', '-7 days', '9'", '22023'],
        ['a negative budget', "'10', '0', '9', max_wait => '-1 s'", '22023'], ['epoch for a number of another unit', "'1 day', '0', '9', epoch => 'h'", '22023'],
        ['nobody', 'NOBODY', '42704'],
    ] as const)('%s is refused, and nothing is made', ([, args, code], context) =>
        withPlace(context, async ({ owner, role }) => {
            await owner.run(integers);
            const to = args === 'NULL' ? 'null' : args === 'NOBODY' ? "'nobody_there'" : `'${role}'`;
            const rest = args === 'NULL' || args === 'NOBODY' ? "'10', '0', '9'" : args;
            const { hint } = expectError(await owner.attempt(`select ensure.ensure_partition_delegate_v1('app.t', ${to}, ${rest})`), code);
            expect(hint).not.toBe('');
            expect(await owner.run("select proname from pg_proc where pronamespace = 'app'::regnamespace")).toEqual([]);
        }));

    test.for([
        ['no table', 'null', '22004', "'1', '0', '9'"], ['HASH', 'create table app.t (k int) partition by hash (k)', '42809', "null, '0', '9'"],
        ['no partitions', 'create table app.t (k int)', '42809', "null, '0', '9'"], ['LIST with a step', 'create table app.t (k int) partition by list (k)', '22023', "'1', '0', '9'"],
        ['a limit that is no value of the list', 'create table app.t (k int) partition by list (k)', '22023', "null, '0', 'x'"],
        ['a time that is none', 'create table app.t (k date) partition by range (k)', '22007', "'1 day', '01/02/2026', '9 days'"],
        ['times out of range', 'create table app.t (k timestamptz) partition by range (k)', '22008', "'1 day', '0 days', '999999 years'"],
        ['an interval of two units', 'create table app.t (k date) partition by range (k)', '22023', "'1 day', '-1 day', '1 day 2 hours'"],
        ['a zone that is none', 'create table app.t (k date) partition by range (k)', '22023', "'1 day', '0 days', '9 days', zone => 'UTC+3'"],
        ['a domain, whose checks would run as the owner', 'create domain app.d as int; create table app.t (k app.d) partition by list (k)', '0A000', "null, '0', '9'"],
        ['money, whose text depends on a setting', 'create table app.t (k money) partition by list (k)', '0A000', "null, '0', '9'"],
    ] as const)('%s is refused', ([, setup, code, args], context) =>
        withPlace(context, async ({ owner, role }) => {
            if (setup !== 'null') await owner.run(setup);
            const { hint } = expectError(await owner.attempt(`select ensure.ensure_partition_delegate_v1(${setup === 'null' ? 'null' : "'app.t'"}, '${role}', ${args})`), code);
            expect(hint).not.toBe('');
        }));

    test('owner and grantee need their rights on the schemas: 42501 with the GRANT to give, before anything is changed', (context) =>
        withPlace(context, async ({ owner, dba, role, otherRole }) => {
            await owner.run(`${integers}; revoke usage on schema app from ${role}`);
            const call = delegate(role, 't', "'10', '0', '99'");
            expect(expectError(await owner.attempt(call), '42501').hint).toBe(`GRANT USAGE ON SCHEMA app TO ${role}.`);
            await owner.run(`grant usage on schema app to ${role}`);
            await dba.run(`alter table app.t owner to ${otherRole}`);
            expect(expectError(await dba.attempt(call), '42501').hint).toContain(`GRANT CREATE ON SCHEMA app TO postgres, ${otherRole}`);
            await dba.run(`grant create on schema app to ${otherRole}`);
            expect(expectError(await dba.attempt(call), '42501').hint).toBe(`GRANT USAGE ON SCHEMA ensure TO ${otherRole}.`);
            expect(await owner.run("select proname from pg_proc where pronamespace = 'app'::regnamespace")).toEqual([]);
            await dba.run(`grant usage on schema ensure to ${otherRole}`);
            expect(await dba.run(call)).toMatchObject([{ outcome: 'created' }]);
            expect(await dba.run("select pg_get_userbyid(proowner) as owner from pg_proc where proname = 'make_t'")).toEqual([{ owner: otherRole }]);
        }));

    test('a member that inherits from a NOLOGIN owner but cannot become it may call a delegate, not make one', (context) =>
        withPlace(context, async ({ owner, dba, app, role, otherRole }) => {
            if (major < 16) context.skip('SET FALSE came with 16');
            await dba.run(`alter role ${otherRole} nologin; grant ${otherRole} to ${role} with inherit true, set false`);
            await owner.run(`grant create on schema app to ${otherRole}; grant usage on schema ensure to ${otherRole}`);
            await dba.run(`${integers}; alter table app.t owner to ${otherRole}`);
            const call = delegate(role, 't', "'10', '0', '99'");
            expect(expectError(await app.attempt(call), '42501').hint).toContain(`GRANT ${otherRole} TO ${role}`);
            expect(await dba.run(call)).toMatchObject([{ outcome: 'created' }]);
            expectError(await app.attempt("select ensure.ensure_partitions_v1('app.t', '10', 5)"), '42501');
            expect(await lines(app, 'app.make_t(5)')).toEqual(['app.t_0000000000000 0 10 created']);
            expect(await dba.run("select pg_get_userbyid(relowner) as owner from pg_class where relname = 't_0000000000000'")).toEqual([{ owner: otherRole }]);
        }));
});

describe('races', () => {
    describe.each(isolationLevels)('%s', (isolation) => {
        test.for([['autocommit', false], ['inside a transaction', true]] as const)('16 callers, 10 delegates, %s: each made once, no error', ([, transaction], context) =>
            withPlace(context, async ({ owner, role, url }) => {
                await owner.run(integers);
                const report = await stampede({
                    owner: url, callers: 16, rounds: 10, isolation, transaction,
                    steps: (_caller, round) => [`select outcome from ensure.ensure_partition_delegate_v1('app.t', '${role}', '10', '0', '99', function_name => 'd_${round}', max_wait => '60 s')`],
                });
                expect(report.codes).toEqual({ ok: 160 });
                expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'created')).toHaveLength(10);
                expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'exists')).toHaveLength(150);
            }));

        test('16 sessions of the role call the delegate and insert: each partition is made once, no error', (context) =>
            withPlace(context, async ({ owner, role, url, appUrl }) => {
                await owner.run(`${integers}; grant insert on app.t to ${role}`);
                await owner.run(delegate(role, 't', "'10', '0', '99', max_wait => '60 s'"));
                const report = await stampede({
                    owner: url, url: appUrl, callers: 16, rounds: 10, isolation, transaction: true,
                    steps: (_caller, round) => [`select outcome from app.make_t(${round * 10})`, `insert into app.t values (${round * 10})`],
                });
                expect(report.codes).toEqual({ ok: 160 });
                expect(report.outcomes.filter(({ rows }) => rows[0]?.outcome === 'created')).toHaveLength(10);
                expect(await partitions(owner, 't')).toHaveLength(10);
            }));

        const stepped = (context: TestContext, prepare: (dba: Session) => Promise<void>, code: string): Promise<void> =>
            withPlace(context, async ({ owner, dba, role, url }) => {
                await owner.run(integers);
                await prepare(dba);
                await withSessions(url, ['first', 'second'], async ({ first, second }) => {
                    const call = delegate(role, 't', "'10', '0', '99', max_block => '5 s'");
                    await second.run(`begin isolation level ${isolation}; select count(*) from app.t`);
                    await first.run('begin');
                    expect(await first.run(call)).toMatchObject([{ outcome: 'created' }]);
                    const waiting = second.start(call);
                    await waiting.blockedBy(first);
                    await first.run('commit');
                    const outcome = await waiting.outcome();
                    expect(outcome.code).toBe(code);
                    if (code === 'ok') {
                        expect(outcome.rows).toMatchObject([{ outcome: 'exists' }]);
                        expect(await second.run(call)).toMatchObject([{ outcome: 'exists' }]);
                        expect(await second.run("select count(*)::int as n from pg_locks where pid = pg_backend_pid() and mode = 'ShareUpdateExclusiveLock'"))
                            .toEqual([{ n: 0 }]);
                    }
                });
            });

        test('a second caller waits for the first, then returns exists and holds no lock', (context) => stepped(context, async () => {}, 'ok'));

        test('negative control: without the second look it ends in 42723', (context) =>
            stepped(context, (dba) => withoutGuard(dba, '_create_delegate_v1', 'if delegate is not null then', 'if false then'), '42723'));
    });

    test('callers whose pins differ: one is made, the others get NS001', (context) =>
        withPlace(context, async ({ owner, role, url }) => {
            await owner.run(integers);
            const report = await stampede({
                owner: url, callers: 8, rounds: 5, isolation: 'read committed', transaction: false,
                steps: (caller, round) => [`select outcome from ensure.ensure_partition_delegate_v1('app.t', '${role}', '10', '0', '${caller}', function_name => 'd_${round}', max_wait => '60 s')`],
            });
            expect(report.codes).toEqual({ ok: 5, NS001: 35 });
        }));

    test('a table that stays locked is 55P03 after max_wait, with lock_timeout as it was; after a write it is NS003', (context) =>
        withPlace(context, async ({ owner, role, url }) => {
            await owner.run(`${integers}; create table app.w ()`);
            await withSessions(url, ['holder'], async ({ holder }) => {
                await holder.run('begin; lock table only app.t in share update exclusive mode');
                const call = delegate(role, 't', "'10', '0', '99', max_wait => '300 ms', max_block => '100 ms'");
                await owner.run("set lock_timeout = '7s'");
                expect(expectError(await owner.attempt(call), '55P03').detail).toContain(`pid ${holder.pid}`);
                expect(await owner.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
                await owner.run('begin; insert into app.w default values');
                expectError(await owner.attempt(call), 'NS003');
                await owner.run('rollback');
                await holder.run('rollback');
                await owner.run('begin');
                expect(await owner.run(call)).toMatchObject([{ outcome: 'created' }]);
                expect(await owner.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
                await owner.run('rollback');
            });
        }));
});
