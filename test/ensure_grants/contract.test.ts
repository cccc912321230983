import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, major } from '../context.js';
import { as } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { done, ensure, withGiven } from './given.js';

/** What a role was granted itself in schema app, by kind; each kind once when all objects of it have the same. */
const granted = (grantee: string, schema = 'app'): string => `
    with objects (kind, oid, acl) as (
        select 'database', d.oid, d.datacl from pg_database as d where d.datname = current_database()
        union all select 'schema', n.oid, n.nspacl from pg_namespace as n where n.nspname = '${schema}'
        union all select concat('relation ', c.relkind), c.oid, c.relacl from pg_class as c where c.relnamespace = '${schema}'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        union all select 'columns', a.attrelid, a.attacl from pg_attribute as a join pg_class as c on c.oid = a.attrelid
                  where c.relnamespace = '${schema}'::regnamespace and a.attacl is not null
        union all select 'function', p.oid, p.proacl from pg_proc as p where p.pronamespace = '${schema}'::regnamespace and p.proname !~ '^r(_|$)'
        union all select 'type', t.oid, t.typacl from pg_type as t left join pg_class as c on c.oid = t.typrelid
                  where t.typnamespace = '${schema}'::regnamespace and t.typname !~ '^_' and (t.typtype in ('e', 'd', 'r') or c.relkind = 'c'))
    select distinct concat_ws(' ', o.kind, p.list) as line
    from objects as o
    cross join lateral (select string_agg(e.privilege_type || case when e.is_grantable then '*' else '' end, ',' order by e.privilege_type)
                        from aclexplode(o.acl) as e where e.grantee = ${grantee === 'public' ? '0' : `'${grantee}'::regrole`}) as p (list)
    where p.list is not null
    order by 1`;
const linesOf = async (session: Session, statement: string): Promise<unknown[]> => (await session.run(statement)).map(({ line }) => line);

const usage = 'schema USAGE';
const on = (kinds: string, privileges: string): string[] => [...kinds].map((kind) => `relation ${kind} ${privileges}`);
/** Each word, and what it stands for: what docs/grants.md says. */
const words: Record<string, string[]> = {
    usage: [usage],
    read: [...on('Sfmprv', 'SELECT'), usage],
    write: ['relation S USAGE', ...on('fprv', 'DELETE,INSERT,UPDATE'), usage],
    truncate: [...on('fpr', 'TRUNCATE'), usage],
    references: [...on('pr', 'REFERENCES'), usage],
    trigger: [...on('fprv', 'TRIGGER'), usage],
    maintain: [...on('mpr', 'MAINTAIN'), usage],
    execute: ['function EXECUTE', usage],
    types: [usage, 'type USAGE'],
    create: ['schema CREATE'],
    connect: ['database CONNECT'],
    create_schema: ['database CREATE'],
    temporary: ['database TEMPORARY'],
    'read,write,execute': ['function EXECUTE', 'relation S SELECT,USAGE', ...on('f', 'DELETE,INSERT,SELECT,UPDATE'), 'relation m SELECT',
        ...on('prv', 'DELETE,INSERT,SELECT,UPDATE'), usage],
};

describe('each word gives what it stands for on every object of every kind, and nothing else; then the grants exist', () => {
    test.each(Object.keys(words).filter((word) => word !== 'maintain' || major >= 17))('%s', (word) => withGiven([], async ({ dba }, { app }, roles) => {
        const lines = await done(dba, ensure(app, word), roles);
        expect(lines.every((line) => line.endsWith(' for role app granted'))).toBe(true);
        expect(await linesOf(dba, granted(app))).toEqual(words[word]);
        expect(await linesOf(dba, granted(app, 'more'))).toEqual((words[word] ?? []).filter((line) => line.startsWith('database')));
        expect(await done(dba, ensure(app, word), roles)).toEqual(['grants of role app exists']);
    }));

    test('maintain before 17: 0A000, and nothing is granted', () => withGiven([], async ({ dba }, { app }) => {
        if (major >= 17) return;
        expect(expectError(await dba.attempt(ensure(app, 'read,maintain')), '0A000').hint).toContain('Leave it out');
        expect(await linesOf(dba, granted(app))).toEqual([]);
    }));

    test('negative control: without partitions in the words they are not granted', () => withGiven([], async ({ dba }, { app }) => {
        await withoutGuard(dba, '_grant_words_v1', "('read', '{table,", "('read', '{");
        await dba.run(ensure(app, 'read'));
        expect(await linesOf(dba, granted(app))).not.toEqual(words.read);
    }));
});

describe('what counts is what the role was granted itself', () => {
    test('one GRANT for each object, with what is missing there, by kind and in the order of creation', () => withGiven([], async ({ dba }, { app }, roles) => {
        await dba.run(`grant select, insert on app.t to ${app}; grant usage on schema app to ${app}`);
        expect((await done(dba, ensure(app, 'read,write'), roles)).slice(0, 4)).toEqual([
            'UPDATE, DELETE on table app.t for role app granted', 'SELECT, INSERT, UPDATE, DELETE on table app.p1 for role app granted',
            'SELECT, INSERT, UPDATE, DELETE on partitioned table app.p for role app granted', 'SELECT, INSERT, UPDATE, DELETE on view app.v for role app granted',
        ]);
    }));

    test('not what it has by PUBLIC, by another role, or on single columns', () => withGiven([], async ({ dba }, { app, else: group }) => {
        await dba.run(`grant usage on schema app to public; grant select on all tables in schema app to ${group}, public; grant ${group} to ${app}; grant select (a) on app.t to ${app}`);
        await dba.run(ensure(app, 'read'));
        expect(await linesOf(dba, granted(app))).toEqual(['columns SELECT', ...(words.read ?? [])]);
    }));

    test('an owner that lost its own gets back what is asked, by its own call too; what it has by default needs no entry', () => withGiven([], async ({ dba }, { owner, app }, roles) => {
        await dba.run(`revoke all on schema app from ${owner}; revoke all on app.t, app.v, app.s from ${owner}; revoke insert on app.p from ${owner}; revoke all on function app.f from ${owner}, public;
            revoke all on type app.e from ${owner}`);
        const call = ensure(owner, 'read,write,execute,types', '', 'app');
        await as(dba, owner, async () => {
            expect((await dba.attempt('select from app.t')).code).toBe('42501');
            expect(await done(dba, call, roles)).toEqual(['USAGE on schema app', 'SELECT, INSERT, UPDATE, DELETE on table app.t', 'INSERT on partitioned table app.p',
                'SELECT, INSERT, UPDATE, DELETE on view app.v', 'SELECT, USAGE on sequence app.s', 'EXECUTE on routine app.f(integer, text[])', 'USAGE on type app.e'].map((one) => `${one} for role owner granted`));
            expect(await done(dba, call, roles)).toEqual(['grants of role owner exists']);
            expect(await dba.run('select from app.t')).toEqual([]);
        });
        expect(await linesOf(dba, granted(app))).toEqual([]);
    }));

    test('exact takes nothing from an owner, and gives what it lost', () => withGiven([], async ({ dba }, { owner }, roles) => {
        await dba.run(`revoke select on app.t from ${owner}`);
        expect(await done(dba, ensure(owner, 'read', `'{${owner}}', 'exact'`), roles)).toEqual(['SELECT on table app.t for role owner granted']);
        expect(await dba.run(`select has_table_privilege('${owner}', 'app.t', 'insert') as may`)).toEqual([{ may: true }]);
    }));

    test('negative control: with the owner left out it has not what is asked', () => withGiven([], async ({ dba }, { owner }, roles) => {
        await withoutGuard(dba, '_differing_privileges_v1', 'where not o.wanted <@ h.held', 'where o.owner <> $1 and not o.wanted <@ h.held');
        await dba.run(`revoke all on app.t from ${owner}`);
        expect(await done(dba, ensure(owner, 'read'), roles)).toEqual(['grants of role owner exists']);
        expect(await dba.run(`select has_table_privilege('${owner}', 'app.t', 'select') as may`)).toEqual([{ may: false }]);
    }));

    test('a creator that lost its own by default privileges gets what is asked on what it will make', () => withGiven([], async ({ dba }, { owner }, roles) => {
        await dba.run(`alter default privileges for role ${owner} revoke select, update on tables from ${owner}`);
        const reads = async (name: string): Promise<unknown> => {
            await dba.run(`set role ${owner}; create table app.${name} (a int); reset role`);
            return (await dba.run(`select has_table_privilege('${owner}', 'app.${name}', 'select') as may`))[0]?.may;
        };
        expect(await reads('before')).toBe(false);
        const call = ensure(owner, 'read', `'{${owner}}', 'exact'`);
        expect(await done(dba, call, roles)).toEqual(['SELECT on table app.before for role owner granted', 'SELECT on future tables of role owner in schema app for role owner granted']);
        expect(await reads('after')).toBe(true);
        expect(await done(dba, call, roles)).toEqual(['grants of role owner exists']);
    }));

    test('a creator all of whose default privileges were revoked makes what it has all of, as PostgreSQL does; where others are in them, it gets what is asked', () => withGiven([], async ({ dba }, { owner, other }, roles) => {
        await dba.run(`alter default privileges for role ${owner} revoke all on tables from ${owner}`);
        const may = async (name: string): Promise<unknown> => (await dba.run(`set role ${owner}; create table app.${name} (a int); reset role;
            select has_table_privilege('${owner}', 'app.${name}', 'select') as reads, has_table_privilege('${owner}', 'app.${name}', 'insert') as writes`)).at(-1);
        const call = ensure(owner, 'read', `'{${owner}}'`);
        expect(await done(dba, call, roles)).toEqual(['grants of role owner exists']);
        expect(await may('empty')).toEqual({ reads: true, writes: true });
        await dba.run(`alter default privileges for role ${owner} in schema app grant select on tables to ${other}`);
        expect(await may('others')).toEqual({ reads: false, writes: false });
        expect(await done(dba, call, roles)).toContain('SELECT on future tables of role owner in schema app for role owner granted');
        expect(await may('asked')).toEqual({ reads: true, writes: false });
    }));

    test('the owner that has lost nothing needs nothing, and gets something on what another owns', () => withGiven([], async ({ dba }, { owner, other }, roles) => {
        expect(await done(dba, ensure(owner, 'read,write,execute', `'{${owner}}'`), roles)).toEqual(['grants of role owner exists']);
        await dba.run(`grant create, usage on schema app to ${other}; set role ${other}; create table app.o (a int); reset role`);
        expect(await done(dba, ensure(owner, 'read', `'{${owner},${other}}'`), roles)).toEqual([
            'SELECT on table app.o for role owner granted', 'SELECT on future sequences of role other in schema app for role owner granted',
            'SELECT on future tables of role other in schema app for role owner granted',
        ]);
        await dba.run(`grant all on app.t to ${owner} with grant option`);
        expect(await done(dba, ensure(owner, 'read', `'{${owner},${other}}', 'exact'`), roles)).toEqual(['grants of role owner exists']);
    }));

    test('what belongs to an extension is left alone, by PUBLIC revocation too', () => withGiven([], async ({ dba }, { app }, roles) => {
        await dba.run('create extension citext schema app');
        const citext = async (): Promise<unknown> => dba.run(`select p.oid, p.proacl::text, p.xmin::text from pg_proc as p where p.proname ~ '^citext' order by 1`);
        const before = await citext();
        expect((await done(dba, ensure(app, 'execute,types', "'{}', 'exact', true"), roles)).filter((line) => line.includes('citext'))).toEqual([]);
        expect(await citext()).toEqual(before);
    }));

    test.each(['a', '$b', 'UPPER', 'sp ace', 'quo"te', "apo'strophe", 'back\\slash', 'select', 'ünï', '%I', ')--'])('a name such as %s is quoted everywhere', (name) =>
        withGiven([], async ({ dba }, { owner }, { role, database }) => {
            const one = role(name);
            const id = (text: string): string => `"${text.replaceAll('"', '""')}"`;
            await dba.run(`create role ${id(one)}; create role ${id(`${one}c`)}; create schema ${id(name)} authorization ${owner}`);
            await dba.run(`create table ${id(name)}.${id(name)} (${id(name)} int); create function ${id(name)}.${id(name)}(${id(name)} ${id(name)}.${id(name)}) returns int language sql as 'select 1';
                create type ${id(name)}.${id(`${name}t`)} as enum (); create sequence ${id(name)}.${id(`${name}s`)}; grant select (${id(name)}) on ${id(name)}.${id(name)} to ${id(one)}, public`);
            const literal = (text: string): string => `array[$q$${text}$q$]::name[]`;
            const call = (access: string, mode: string): string => `select outcome, object from ensure.ensure_grants_v1($q$${one}$q$, '{${access}}', ${literal(name)}, ${literal(`${one}c`)}, '${mode}', true)`;
            expect((await dba.run(call('read,execute,types', 'exact'))).length).toBeGreaterThan(6);
            expect(await dba.run(call('read,execute,types', 'exact'))).toMatchObject([{ outcome: 'exists' }]);
            expect((await dba.run(call('', 'exact'))).every(({ outcome }) => outcome === 'revoked')).toBe(true);
            expect(await dba.run(`select from pg_shdepend as d join pg_roles as r on r.oid = d.refobjid
                where r.rolname = $q$${one}$q$ and d.dbid = (select oid from pg_database where datname = '${database.name}')`)).toEqual([]);
        }, { empty: true }));
});

describe('what creators will make', () => {
    const make = (role: string, name: string): string => `set role ${role}; create table app.${name} (a serial); create function app.${name}() returns int language sql as 'select 1';
        create view app.${name}_v as select 1; create type app.${name}_e as enum (); reset role`;

    test('is readable as asked, at once; what another role makes is not', () => withGiven(['app'], async ({ dba, app }, who) => {
        await dba.run(ensure(who.app, 'read,execute,types', `'{${who.owner}}'`));
        await dba.run(`grant create, usage on schema app to ${who.other}; ${make(who.owner, 'n')}; ${make(who.other, 'o')}`);
        await app.run(`set role ${who.app}`);
        expect(await app.run('select count(*)::int as n from app.n, app.n_v, app.n_a_seq')).toEqual([{ n: 0 }]);
        expect((await app.attempt('select from app.o')).code).toBe('42501');
        expect((await app.attempt('insert into app.n values (1)')).code).toBe('42501');
        expect((await dba.run(`select has_function_privilege('${who.app}', 'app.n()', 'execute') as f, (select count(*)::int from aclexplode(
            (select typacl from pg_type where typname = 'n_e')) where grantee = '${who.app}'::regrole) as t`))).toEqual([{ f: true, t: 1 }]);
    }));

    test('each creator in each schema, each kind; given once; what is given already stays', () => withGiven([], async ({ dba }, { owner, other, app }, roles) => {
        await dba.run(`alter default privileges for role ${owner} in schema app grant select on tables to ${app}`);
        const call = ensure(app, 'write', `'{${owner},${other}}'`, 'app,more');
        expect((await done(dba, call, roles)).filter((line) => line.includes('future'))).toEqual(['app', 'more'].flatMap((schema) => ['sequences', 'tables'].flatMap((kind) => [
            `${kind === 'tables' ? 'INSERT, UPDATE, DELETE' : 'USAGE'} on future ${kind} of role other in schema ${schema} for role app granted`,
            `${kind === 'tables' ? 'INSERT, UPDATE, DELETE' : 'USAGE'} on future ${kind} of role owner in schema ${schema} for role app granted`,
        ])).sort((a, b) => (/role (\w+) in/.exec(a)?.[1] ?? '').localeCompare(/role (\w+) in/.exec(b)?.[1] ?? '')));
        expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
        expect(await dba.run(`select count(*)::int as n from pg_default_acl as d, aclexplode(d.defaclacl) as e where e.grantee = '${app}'::regrole`)).toEqual([{ n: 17 }]);
    }));

    test('exact revokes default privileges of whoever, in these schemas, and their grant options', () => withGiven([], async ({ dba }, { owner, other, app }, roles) => {
        await dba.run(`alter default privileges for role ${other} in schema app grant select on tables to ${app};
            alter default privileges for role ${owner} in schema app grant select, insert on tables to ${app} with grant option;
            alter default privileges for role ${owner} in schema more grant select on tables to ${app};
            alter default privileges for role ${owner} in schema app grant usage on types to ${app}`);
        await dba.run(ensure(app, 'read'));
        expect(await done(dba, ensure(app, 'read', `'{${owner}}', 'exact'`), roles)).toEqual([
            'SELECT on future tables of role other in schema app for role app revoked', 'SELECT on future sequences of role owner in schema app for role app granted',
            'INSERT on future tables of role owner in schema app for role app revoked',
            'GRANT OPTION FOR SELECT on future tables of role owner in schema app for role app revoked',
            'USAGE on future types of role owner in schema app for role app revoked',
        ]);
        expect(await done(dba, ensure(app, 'read', `'{${owner}}', 'exact'`), roles)).toEqual(['grants of role app exists']);
    }));

    /** What the grantee has on a table that the creator makes after the call. */
    const after = async (dba: Session, owner: string, app: string, name: string): Promise<unknown> => {
        await dba.run(`set role ${owner}; create table app.${name} (a int); reset role`);
        return (await dba.run(`select string_agg(e.privilege_type || case when e.is_grantable then '*' else '' end, ',' order by 1) as may
            from pg_class as c, aclexplode(c.relacl) as e where c.oid = 'app.${name}'::regclass and e.grantee = '${app}'::regrole`))[0]?.may;
    };
    const everywhere = (owner: string, app: string): string => `alter default privileges for role ${owner} grant insert on tables to ${app};
        alter default privileges for role ${owner} grant select on tables to ${app} with grant option`;

    test('exact revokes those of the named creators that hold in all schemas, and what is made then has no more than is asked', () => withGiven([], async ({ dba }, { owner, other, app }, roles) => {
        await dba.run(everywhere(owner, app) + `; alter default privileges for role ${other} grant insert on tables to ${app}`);
        const call = ensure(app, 'read', `'{${owner}}', 'exact'`);
        await dba.run(ensure(app, 'read', `'{${owner}}'`));
        expect(await after(dba, owner, app, 'added')).toBe('INSERT,SELECT*');
        expect(await done(dba, call, roles)).toEqual(['INSERT on table app.added', 'GRANT OPTION FOR SELECT on table app.added', 'INSERT on future tables of role owner',
            'GRANT OPTION FOR SELECT on future tables of role owner'].map((one) => `${one} for role app revoked`));
        expect(await after(dba, owner, app, 'exact')).toBe('SELECT');
        expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
        expect(await dba.run(`select count(*)::int as n from pg_default_acl where defaclrole = '${other}'::regrole`)).toEqual([{ n: 1 }]);
    }));

    test('negative control: without them a new table has more, and the call says exists', () => withGiven([], async ({ dba }, { owner, app }, roles) => {
        await withoutGuard(dba, '_differing_defaults_v1', 'or d.defaclnamespace = 0 and', 'or false and');
        await dba.run(everywhere(owner, app));
        const call = ensure(app, 'read', `'{${owner}}', 'exact'`);
        await dba.run(call);
        expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
        expect(await after(dba, owner, app, 'more')).toBe('INSERT,SELECT*');
    }));

    test('exact leaves what default privileges for tables gave on a materialized view', () => withGiven([], async ({ dba }, { owner, app }, roles) => {
        const call = ensure(app, 'read,write', `'{${owner}}', 'exact'`);
        await dba.run(call);
        await dba.run(`set role ${owner}; create materialized view app.n as select 1 as a; create table app.n2 (a serial); reset role`);
        expect(await linesOf(dba, granted(app))).toContain('relation m DELETE,INSERT,SELECT,UPDATE');
        expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
    }));
});

describe('exact', () => {
    const more = (app: string): string => `
        grant all on schema app to ${app}; grant all on all tables in schema app to ${app} with grant option; grant update (a), insert (a) on app.t to ${app};
        grant all on all sequences in schema app to ${app}; grant all on all routines in schema app to ${app}; grant usage on type app.e to ${app};
        grant connect on database :db to ${app}; grant usage on schema more to ${app}`;

    test('revokes what is not asked, of every kind, grant options and columns; the database and other schemas stay', () => withGiven([], async ({ dba }, { app, else: other }, { database }) => {
        await dba.run(more(app).replace(':db', database.name));
        await dba.run(`grant select on app.t to ${other}`);
        const lines = await dba.run(ensure(app, 'read', "'{}', 'exact'"));
        expect(lines.some(({ object }) => String(object).startsWith('GRANT OPTION FOR SELECT on table app.t '))).toBe(true);
        expect(await linesOf(dba, granted(app))).toEqual(['database CONNECT', ...(words.read ?? [])]);
        expect(await linesOf(dba, granted(app, 'more'))).toEqual(['database CONNECT', usage]);
        expect(await linesOf(dba, granted(other))).toEqual(['relation r SELECT']);
    }));

    test('add leaves it', () => withGiven([], async ({ dba }, { app }, { database }) => {
        await dba.run(more(app).replace(':db', database.name));
        await dba.run(ensure(app, 'read'));
        expect(await linesOf(dba, granted(app))).toContain('schema CREATE,USAGE');
        expect(await linesOf(dba, granted(app))).toContain('columns INSERT,UPDATE');
    }));

    test('with no access revokes all', () => withGiven([], async ({ dba }, { app }, roles) => {
        await dba.run(more(app).replace(':db', roles.database.name));
        expect((await done(dba, ensure(app, '', "'{}', 'exact'"), roles)).every((line) => line.endsWith('revoked'))).toBe(true);
        expect(await linesOf(dba, granted(app))).toEqual(['database CONNECT']);
        expect(await done(dba, ensure(app, '', "'{}', 'exact'"), roles)).toEqual(['grants of role app exists']);
    }));

    test('what another role granted: 42501 says who, nothing was changed, and the statement in the hint takes it', () => withGiven([], async ({ dba }, { app, else: other }, roles) => {
        await dba.run(`grant usage on schema app to ${other}; grant select on app.t to ${other} with grant option; set role ${other}; grant select on app.t to ${app}; reset role; grant insert on app.t to ${app}`);
        const { detail, hint } = expectError(await dba.attempt(ensure(app, '', "'{}', 'exact'")), '42501');
        expect(detail).toBe(`Missing: to be role ${other}, who granted it, for SELECT on table app.t for role ${app}. Nothing was changed.`);
        expect(await linesOf(dba, granted(app))).toEqual(['relation r INSERT,SELECT']);
        await dba.run(`${/run: (.*)\.$/.exec(hint)?.[1] ?? ''}; reset role`);
        expect(await done(dba, ensure(app, '', "'{}', 'exact'"), roles)).toEqual(['INSERT on table app.t for role app revoked']);
        await dba.run(`set role ${other}; grant select on app.t to ${app}`);
        expect(await done(dba, ensure(app, '', "'{}', 'exact'"), roles)).toEqual(['SELECT on table app.t for role app revoked']); // by who granted it
    }));

    test('what it granted on to others: 2BP01 says to whom, nothing was changed, and the statements in the hint take it', () => withGiven([], async ({ dba }, { app, else: other, other: third }, roles) => {
        await dba.run(`grant usage on schema app to ${app}, ${other}, ${third}; grant select on app.t to ${app} with grant option; grant update (a, b) on app.t to ${app} with grant option;
            grant execute on function app.f to ${app} with grant option; grant usage on type app.e to ${app} with grant option;
            set role ${app}; grant select on app.t to ${other} with grant option; grant update (b) on app.t to ${other}; grant execute on function app.f to public; reset role; set role ${other}; grant select on app.t to ${third}; reset role`);
        const call = ensure(app, 'usage', "'{}', 'exact'");
        const { detail, hint } = expectError(await dba.attempt(call), '2BP01');
        expect(detail.replaceAll(roles.role(''), '')).toBe('Granted on: role other has SELECT on table app.t by role else; PUBLIC has EXECUTE on routine app.f(integer,pg_catalog.text[]) by role app; '
            + 'role else has SELECT on table app.t by role app; role else has UPDATE (b) on table app.t by role app. Nothing was changed.');
        expect(await linesOf(dba, granted(app))).toContain('relation r SELECT*');
        await dba.run(`${/Run: (.*)\.$/.exec(hint)?.[1] ?? ''}; reset role`);
        expect((await done(dba, call, roles)).every((line) => line.endsWith('revoked'))).toBe(true);
        expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
        expect(await linesOf(dba, granted(other))).toEqual([usage]);
    }));

    test('a column that was granted on by the right to grant the table is granted on too', () => withGiven([], async ({ dba }, { app, else: other }, roles) => {
        await dba.run(`grant usage on schema app to ${app}; grant select on app.t to ${app} with grant option; set role ${app}; grant select (a) on app.t to ${other}; reset role`);
        const call = ensure(app, 'usage', "'{}', 'exact'");
        const { hint } = expectError(await dba.attempt(call), '2BP01');
        expect(hint.replaceAll(roles.role(''), '')).toBe('Run: set role app; revoke SELECT (a) on table app.t from else; reset role.');
        await dba.run(/Run: (.*)\.$/.exec(hint)?.[1] ?? '');
        await dba.run(call);
        expect(await dba.run("select 1 from pg_attribute where attrelid = 'app.t'::regclass and attacl <> '{}'")).toEqual([]);
    }));

    test('negative control: without the look nobody is named', () => withGiven([], async ({ dba }, { app, else: other }) => {
        await withoutGuard(dba, '_check_granted_on_v1', 'v_count > 0', 'false');
        await dba.run(`grant usage on schema app to ${app}; grant select on app.t to ${app} with grant option; set role ${app}; grant select on app.t to ${other}; reset role`);
        expect(expectError(await dba.attempt(ensure(app, 'usage', "'{}', 'exact'")), '2BP01').hint).toContain('passed on');
    }));

    test('a grant option that is kept from others is no reason: only what grantee granted', () => withGiven([], async ({ dba }, { app, else: other }, roles) => {
        await dba.run(`grant usage on schema app to ${other}; grant select on app.t to ${app}, ${other} with grant option; set role ${other}; grant select on app.t to public; reset role`);
        expect(await done(dba, ensure(app, '', "'{}', 'exact'"), roles)).toEqual(['SELECT on table app.t for role app revoked']);
    }));

    test('what an event trigger gives back: NS015 after three passes', () => withGiven([], async ({ dba }, { app }) => {
        await dba.run(`create function back() returns event_trigger language plpgsql as $$ begin grant insert on app.t to ${app}; end $$;
            grant insert on app.t to ${app}; create event trigger back on ddl_command_end when tag in ('REVOKE') execute function back()`);
        const { detail } = expectError(await dba.attempt(ensure(app, 'usage', "'{}', 'exact'")), 'NS015');
        expect(detail).toContain(`revoke INSERT on table app.t from ${app}`);
        expect(await linesOf(dba, granted(app))).toEqual(['relation r INSERT']);
    }));
});

test('procedures whose names and input are the same, but for OUT', () => withGiven([], async ({ dba }, { app }, roles) => {
    await dba.run(`create procedure app.x(in a int, out b int) language sql as 'select 1'; create procedure app.x(in a int, in b int) language sql as 'select 1'`);
    expect((await done(dba, ensure(app, 'execute'), roles)).filter((line) => line.includes('app.x('))).toHaveLength(2);
    expect(await done(dba, ensure(app, 'execute'), roles)).toEqual(['grants of role app exists']);
}));

describe('revoke_public', () => {
    const given = 'grant all on schema app to public; grant select on all tables in schema app to public; grant update (a) on app.t to public; grant usage on all sequences in schema app to public';

    test('takes from PUBLIC what it has on the schemas, tables, sequences and routines; types and other schemas stay', () => withGiven([], async ({ dba }, { app, owner }, roles) => {
        await dba.run(`${given}; grant usage on schema more to public; grant usage on type app.e to public`);
        await dba.run(ensure(app, 'usage', "'{}', 'add', true"));
        expect(await linesOf(dba, granted('public'))).toEqual(['database CONNECT,TEMPORARY', 'type USAGE'].slice(1));
        expect(await linesOf(dba, granted('public', 'more'))).toEqual([usage]);
        expect(await linesOf(dba, granted(owner))).toContain('function EXECUTE');
        expect(await done(dba, ensure(app, 'usage', "'{}', 'add', true"), roles)).toEqual(['grants of role app exists']);
    }));

    test.for([['nobody', 'execute on functions from public, CREATOR'], ['PUBLIC alone', 'execute on functions from CREATOR']] as const)(
        'where %s is left in the default privileges of a creator PostgreSQL goes back to its own, with PUBLIC: it does not end so', ([, revoked]) =>
            withGiven([], async ({ dba }, { app, other }, roles) => {
                await dba.run(`alter default privileges for role ${other} revoke ${revoked.replace('CREATOR', other)}; grant create on schema app to ${other}`);
                const call = ensure(app, 'usage', `'{${other}}', 'add', true`);
                expect(await done(dba, call, roles)).toContain('EXECUTE on future functions of role other for PUBLIC revoked');
                await dba.run(`set role ${other}; create function app.later() returns int language sql as 'select 1'; reset role`);
                expect(await dba.run(`select has_function_privilege('${app}', 'app.later()', 'execute') as may`)).toEqual([{ may: false }]);
                expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
            }));

    test('the privileges on the database that are asked are taken from PUBLIC too; the others stay', () => withGiven([], async ({ dba }, { app, else: other }, roles) => {
        const call = (access: string): string => ensure(app, access, "'{}', 'add', true", '');
        expect(await done(dba, call('connect'), roles)).toEqual([`CONNECT on database ${roles.database.name} for role app granted`, `CONNECT on database ${roles.database.name} for PUBLIC revoked`]);
        expect(await linesOf(dba, granted('public'))).toContain('database TEMPORARY');
        expect(await dba.run(`select has_database_privilege('${app}', current_database(), 'connect') as app, has_database_privilege('${other}', current_database(), 'connect') as other`)).toEqual([{ app: true, other: false }]);
        expect(await done(dba, call('connect'), roles)).toEqual(['grants of role app exists']);
        expect(await done(dba, call('connect,temporary'), roles)).toEqual([`TEMPORARY on database ${roles.database.name} for role app granted`, `TEMPORARY on database ${roles.database.name} for PUBLIC revoked`]);
        expect((await linesOf(dba, granted('public'))).join()).not.toContain('database');
    }));

    test('negative control: with the database left out PUBLIC keeps CONNECT, and the call says exists', () => withGiven([], async ({ dba }, { app }, roles) => {
        await withoutGuard(dba, '_differing_privileges_v1', "e.privilege_type = any (o.wanted))", 'false)');
        const call = ensure(app, 'connect', "'{}', 'add', true", '');
        await dba.run(call);
        expect(await done(dba, call, roles)).toEqual(['grants of role app exists']);
        expect(await linesOf(dba, granted('public'))).toContain('database CONNECT,TEMPORARY');
    }));

    test('of creators: what default privileges of all schemas give PUBLIC on tables and sequences', () => withGiven([], async ({ dba }, { app, owner }, roles) => {
        await dba.run(`alter default privileges for role ${owner} grant select on tables to public`);
        expect((await done(dba, ensure(app, 'usage', `'{${owner}}', 'add', true`), roles)).slice(-2)).toEqual([
            'EXECUTE on future functions of role owner for PUBLIC revoked', 'SELECT on future tables of role owner for PUBLIC revoked']);
        expect(await done(dba, ensure(app, 'usage', `'{${owner}}', 'add', true`), roles)).toEqual(['grants of role app exists']);
    }));

    test('of creators: EXECUTE on functions to come, in any schema, and what default privileges of these schemas give', () => withGiven([], async ({ dba }, { app, owner, other }, roles) => {
        await dba.run(`alter default privileges for role ${owner} in schema app grant select on tables to public; alter default privileges for role ${owner} in schema app grant execute on functions to public`);
        expect((await done(dba, ensure(app, 'execute', `'{${owner}}', 'add', true`), roles)).filter((line) => line.includes('future'))).toEqual([
            'EXECUTE on future functions of role owner in schema app for role app granted', 'EXECUTE on future functions of role owner in schema app for PUBLIC revoked',
            'SELECT on future tables of role owner in schema app for PUBLIC revoked', 'EXECUTE on future functions of role owner for PUBLIC revoked',
        ]);
        await dba.run(`grant create, usage on schema app, more to ${other}`);
        for (const [role, schema] of [[owner, 'app'], [owner, 'more'], [other, 'app']]) await dba.run(`set role ${role}; create function ${schema}.new_${role}() returns int language sql as 'select 1'; reset role`);
        expect(await dba.run(`select p.pronamespace::regnamespace || '.' || substr(p.proname, ${roles.role('').length + 5}) as f, p.proacl is null or exists (select from aclexplode(p.proacl) where grantee = 0) as public,
            has_function_privilege('${app}', p.oid, 'execute') as app from pg_proc as p where p.proname ~ '^new_' order by 1`)).toEqual([
            { f: 'app.other', public: true, app: true }, { f: 'app.owner', public: false, app: true }, { f: 'more.owner', public: false, app: false },
        ]);
        expect(await done(dba, ensure(app, 'execute', `'{${owner}}', 'add', true`), roles)).toEqual([ // what other made
            `EXECUTE on routine app.new_other() for role app granted`, `EXECUTE on routine app.new_other() for PUBLIC revoked`]);
    }));

    test('negative control: in one schema PostgreSQL does not take it', () => withGiven([], async ({ dba }, { owner }) => {
        await dba.run(`alter default privileges for role ${owner} in schema app revoke execute on functions from public; set role ${owner};
            create function app.new() returns int language sql as 'select 1'; reset role`);
        expect(await dba.run("select has_function_privilege('public', 'app.new()', 'execute') as may")).toEqual([{ may: true }]);
    }));
});

describe('a document', () => {
    test('roles, then their grants, also for roles that it makes; then all exist', () => withGiven([], async ({ dba }, { owner }, roles) => {
        const fresh = roles.role('fresh');
        const maker = roles.role('maker');
        const document = JSON.stringify({
            roles: [{ role_name: fresh }, { role_name: maker }],
            grants: [{ grantee: fresh, access: ['read'], schemas: ['app'], creators: [owner, maker], mode: 'exact', revoke_public: true }],
        });
        const call = `select * from ensure._settle_changes_v1('${document}', '10 s', '500 ms')`;
        const first = await done(dba, call, roles);
        expect(first.slice(0, 3)).toEqual(['role fresh created', 'role maker created', 'USAGE on schema app for role fresh granted']);
        expect(first).toContain('SELECT on future tables of role maker in schema app for role fresh granted');
        expect(first).toContain('EXECUTE on future functions of role maker for PUBLIC revoked');
        expect(await linesOf(dba, granted(fresh))).toEqual(words.read);
        expect(await done(dba, call, roles)).toEqual(['role fresh exists', 'role maker exists', 'grants of role fresh exists']);
    }));

    test('of schema ensure exact and revoke_public look at nothing but the schema', () => withGiven([], async ({ dba }, { owner, else: caller }, roles) => {
        await dba.run(`create table ensure.kept (a int); grant select on ensure.kept to ${caller}; grant create on schema ensure to ${caller}; revoke usage on schema ensure from ${caller}; grant usage on schema ensure to public`);
        const call = ensure(caller, 'usage,execute', `'{${owner}}', 'exact', true`, 'ensure');
        expect(await done(dba, call, roles)).toEqual(['USAGE on schema ensure for role else granted', 'CREATE on schema ensure for role else revoked', 'USAGE on schema ensure for PUBLIC revoked',
            'EXECUTE on future functions of role owner for PUBLIC revoked']);
        expect(await done(dba, call, roles)).toEqual(['grants of role else exists']);
        await as(dba, caller, async () => {
            expect((await dba.run(ensure(caller, 'usage', '', 'ensure'))).map(({ outcome }) => outcome)).toEqual(['exists']);
        });
    }));

    test('negative control: else the tables of ensure are changed', () => withGiven([], async ({ dba }, { else: caller }, roles) => {
        await withoutGuard(dba, '_differing_privileges_v1', "or o.schema <> 'ensure'::regnamespace", 'or true');
        await dba.run(`create table ensure.kept (a int); grant select on ensure.kept to ${caller}`);
        expect(await done(dba, ensure(caller, 'usage', "'{}', 'exact'", 'ensure'), roles)).toEqual(['SELECT on table ensure.kept for role else revoked']);
    }));

    test('schema ensure is one whose functions may be given', () => withGiven([], async ({ dba }, _who, roles) => {
        await dba.run(`create role ${roles.role('caller')}`);
        expect(await done(dba, ensure(roles.role('caller'), 'usage', '', 'ensure'), roles)).toEqual(['USAGE on schema ensure for role caller granted']);
        await as(dba, roles.role('caller'), async () => {
            expect((await dba.run(ensure(roles.role('caller'), 'usage', '', 'ensure'))).map(({ outcome }) => outcome)).toEqual(['exists']);
        });
    }));
});
