import { describe, expect, test } from 'vitest';
import type { Outcome } from '../../scripts/harness/sessions.js';
import { expectError, major, sharedOwner, surroundings } from '../context.js';
import { as } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { done, ensure, withGiven, type Who } from './given.js';

describe('bad input says what is wrong and what to give; nothing is changed', () => {
    const grantee = surroundings.server.owner;
    const shared = sharedOwner('create schema app');
    const call = (args: string): string => `select * from ensure.ensure_grants_v1(${args})`;
    const document = (more: string): string =>
        `select * from ensure._settle_changes_v1('{"grants": [{"grantee": "${grantee}", "access": ["read"], "schemas": ["app"], ${more}}]}', '10 s', '500 ms')`;

    test.each<[what: string, code: string, statement: string, said: RegExp]>([
        ['an unknown word', '22023', call(`'${grantee}', '{read,reed}', '{app}'`), /"reed".*Words are 'usage', 'read', 'write'.*'temporary'\./],
        ['no word', '22023', call(`'${grantee}', '{}', '{app}'`), /access of .* is empty.*mode exact/],
        ['no schema', '22023', call(`'${grantee}', '{connect,read}', '{}'`), /schemas of .* is empty/],
        ['no word and no schema, exact', '22023', call(`'${grantee}', '{}', '{}', mode => 'exact'`), /schemas of .* is empty/],
        ['creators and no schema', '22023', call(`'${grantee}', '{connect}', '{}', '{${grantee}}'`), /creators of .* without schemas.*Name the schemas/],
        ...['read', 'write', 'types', 'create', 'usage,truncate'].map((access): [string, string, string, RegExp] =>
            [`${access} of schema ensure`, '22023', call(`'${grantee}', '{${access}}', '{app,ensure}'`), /more than usage for schema "ensure".*entry of its own/]),
        ['another mode', '22023', call(`'${grantee}', '{read}', '{app}', mode => 'all'`), /mode of .* is "all".*add.*exact/],
        ['null for grantee', '22004', call("null, '{read}', '{app}'"), /grantee of the grants is null/],
        ['null for access', '22004', call(`'${grantee}', null, '{app}'`), /access of .* is null/],
        ['null for schemas', '22004', call(`'${grantee}', '{read}', null`), /schemas of .* is null/],
        ['null in access', '22004', call(`'${grantee}', '{read,null}', '{app}'`), /element of access .* is null/],
        ['null in schemas', '22004', call(`'${grantee}', '{read}', '{app,null}'`), /element of schemas .* is null/],
        ['null in creators', '22004', call(`'${grantee}', '{read}', '{app}', '{null}'`), /element of creators .* is null/],
        ['PUBLIC', '42939', call("'public', '{read}', '{app}'"), /reserved: "public"/],
        ['PUBLIC as creator', '42939', call(`'${grantee}', '{read}', '{app}', '{public}'`), /reserved: "public"/],
        ['a role without a name', '42602', call("'', '{read}', '{app}'"), /no name of a role/],
        ['no such role', '42704', call("'nobody_at_all', '{read}', '{app}'"), /"nobody_at_all" does not exist.*Ensure it first/],
        ['no such creator', '42704', call(`'${grantee}', '{read}', '{app}', '{nobody_at_all}'`), /"nobody_at_all" does not exist/],
        ['no such schema', '3F000', call(`'${grantee}', '{read}', '{app,nowhere}'`), /"nowhere" does not exist.*this is database/],
        ['a schema without a name', '3F000', call(`'${grantee}', '{read}', '{""}'`), /"" does not exist/],
        ...['pg_catalog', 'pg_toast', 'pg_temp_3', 'information_schema'].map((schema): [string, string, string, RegExp] =>
            [`schema ${schema}`, '42939', call(`'${grantee}', '{read}', '{${schema}}'`), /belongs to PostgreSQL/]),
        ['a negative budget', '22023', call(`'${grantee}', '{read}', '{app}', max_wait => '-1 s'`), /max_wait/],
        ['a document with another key', '22023', document('"acess": []'), /"acess" is no key of.*access, creators/],
        ['a document with another type', '22023', document('"revoke_public": "yes"'), /"revoke_public" of .* is of type string/],
        ['a document with numbers', '22023', document('"creators": [7]'), /element of creators .* is 7/],
        ['a document whose grant is no object', '22023', 'select * from ensure._settle_changes_v1(\'{"grants": [7]}\', \'10 s\', \'1 s\')', /no JSON object/],
    ])('%s: %s', (_what, code, statement, said) => shared(async (owner) => {
        const { message, detail, hint } = expectError(await owner.attempt(statement), code);
        expect(`${message} ${detail} ${hint}`).toMatch(said);
        expect(hint).not.toBe('');
    }));

    test('null for what has a default is the default; a word or schema twice is once', () => withGiven([], async ({ dba }, { app }, roles) => {
        expect(await done(dba, ensure(app, 'usage,usage', 'null, null, null', 'app,app'), roles)).toEqual(['USAGE on schema app for role app granted']);
        expect(await done(dba, ensure(app, 'usage', 'null, null, null', 'app,app'), roles)).toEqual(['grants of role app exists']);
    }));
});

describe('rights', () => {
    const rights = (outcome: Outcome): { missing: string; remedy: string } => {
        const { detail, hint } = expectError(outcome, '42501');
        expect(detail).toContain('Nothing was changed.');
        return { missing: detail, remedy: /run: (.*)\.$/.exec(hint)?.[1] ?? '' };
    };

    /** The call fails as `me` with `missing` in DETAIL, and works after what its HINT says was run. */
    const mended = (call: (who: Who) => string, missing: (who: Who) => string, setup: (who: Who) => string = () => '', rest = 'exists'): Promise<void> =>
        withGiven([], async ({ dba }, who, roles) => {
            await dba.run(setup(who));
            const before = await dba.run('select string_agg(relacl::text, $$ $$) as acl from pg_class');
            const said = await as(dba, who.else, async () => rights(await dba.attempt(call(who))));
            expect(said.missing).toContain(missing(who));
            expect(await dba.run('select string_agg(relacl::text, $$ $$) as acl from pg_class')).toEqual(before);
            await dba.run(said.remedy);
            await as(dba, who.else, async () => {
                expect((await done(dba, call(who), roles)).every((line) => line.endsWith('granted') || line.endsWith('revoked'))).toBe(true);
                expect((await dba.run(call(who))).map(({ outcome }) => outcome)).toEqual([rest]);
            });
        });

    test('the owner\'s: missing and mended', () => mended(
        ({ app }) => ensure(app, 'read'), ({ owner, app }) => `Missing: the privileges of role ${owner}, the owner, or WITH GRANT OPTION for USAGE on schema app for role ${app} and 9 more`));

    test('the owner\'s, to revoke', () => mended(
        ({ app }) => ensure(app, 'usage', "'{}', 'exact'"), ({ owner }) => `the privileges of role ${owner}, the owner for INSERT on table app.t`,
        ({ app }) => `grant usage on schema app to ${app}; grant insert on app.t to ${app}`));

    test('of what a superuser owns, the grant option is the remedy, not the superuser', () => mended(
        ({ app }) => ensure(app, 'create', '', 'sup'), () => 'the privileges of role postgres, the owner, or WITH GRANT OPTION for CREATE on schema sup',
        () => 'create schema sup'));

    test('USAGE on the schema of what one owns', () => mended(
        ({ app }) => ensure(app, 'execute', '', 'sup'), () => 'USAGE on schema sup for EXECUTE on routine sup.f()',
        ({ app, else: me }) => `create schema sup; grant usage on schema sup to ${app}; create function sup.f() returns int language sql as 'select 1'; revoke all on function sup.f() from public; alter function sup.f() owner to ${me}`));

    test('of a creator: membership before 16, its INHERIT from 16 on', () => mended(
        ({ app, owner }) => ensure(app, 'types', `'{${owner}}'`, 'mine'), ({ owner }) => `${major < 16 ? 'membership in' : 'INHERIT of'} role ${owner} for USAGE on future types of role ${owner} in schema mine`,
        ({ else: me }) => `create schema mine authorization ${me}`));

    test('of a creator, where membership has no INHERIT', () => withGiven([], async ({ dba }, { app, owner, else: me }, roles) => {
        await dba.run(`create schema mine authorization ${me}; alter role ${me} noinherit; grant ${owner} to ${me}`);
        await as(dba, me, async () => {
            const plain = await dba.attempt(`alter default privileges for role ${owner} in schema mine grant usage on types to ${app}`);
            expect(plain.code, 'what PostgreSQL asks').toBe(major < 16 ? 'ok' : '42501');
            const outcome = await dba.attempt(ensure(app, 'types', `'{${owner}}'`, 'mine'));
            expect(outcome.code).toBe(plain.code);
            if (outcome.code === 'ok') expect(await done(dba, ensure(app, 'types', `'{${owner}}'`, 'mine'), roles)).toEqual(['grants of role app exists']);
        });
    }));

    test('the one who made a role may not change its default privileges, from 16 on by ADMIN neither', () => withGiven([], async ({ dba }, { app, else: me }, { role }) => {
        await dba.run(`create schema mine authorization ${me}; alter role ${me} createrole`);
        await as(dba, me, async () => {
            await dba.run(`create role ${role('made')}`);
            rights(await dba.attempt(ensure(app, 'types', `'{${role('made')}}'`, 'mine')));
        });
    }));

    test('grant options of several roles: one GRANT for each privilege, since PostgreSQL takes one grantor for a statement', () => withGiven([], async ({ dba }, { app, other, else: me }, roles) => {
        await dba.run(`create role ${roles.role('third')}; grant usage on schema more to ${me}, ${other}, ${roles.role('third')} with grant option; grant ${other}, ${roles.role('third')} to ${me};
            create table more.t (a int); alter table more.t owner to ${roles.role('owner')};
            grant insert, delete on more.t to ${other} with grant option; grant update on more.t to ${roles.role('third')} with grant option; grant usage on schema more to ${app}`);
        await as(dba, me, async () => {
            await dba.run(`begin; grant insert, update, delete on more.t to ${app}`); // the control: warns, and leaves one out
            expect(await dba.run(`select count(*)::int as n from pg_class, aclexplode(relacl) where relname = 't' and relnamespace = 'more'::regnamespace and grantee = '${app}'::regrole`)).not.toEqual([{ n: 3 }]);
            await dba.run('rollback');
            expect(await done(dba, ensure(app, 'write', '', 'more'), roles)).toEqual(['INSERT', 'UPDATE', 'DELETE'].map((one) => `${one} on table more.t for role app granted`));
            expect(await done(dba, ensure(app, 'write', '', 'more'), roles)).toEqual(['grants of role app exists']);
        });
    }));

    test('negative control: without the look before it PostgreSQL\'s warning passes for success under REPEATABLE READ', () => withGiven([], async ({ dba }, { app, else: me }) => {
        await dba.run(`grant usage on schema app to ${me}, ${app}; grant select on app.t to ${me} with grant option; grant insert on app.t to ${me}`);
        const call = ensure(app, 'write');
        await as(dba, me, async () => {
            rights(await dba.attempt(call));
        });
        await withoutGuard(dba, '_diff_privileges_v1', 'when c.gives and not c.owns and not c.holds', 'when false');
        await withoutGuard(dba, '_diff_privileges_v1', "p.part[1] || ' WITH GRANT OPTION'", "'SELECT'");
        await withoutGuard(dba, '_grant_objects_v1', "where c.relnamespace = any (schemas)", "where c.relname = 't' and c.relnamespace = any (schemas)");
        await as(dba, me, async () => {
            await dba.run('begin isolation level repeatable read');
            expect((await dba.run(call)).map(({ outcome }) => outcome)).toContain('granted');
            expect(await dba.run(`select has_table_privilege('${app}', 'app.t', 'insert') as may`)).toEqual([{ may: false }]);
        });
    }));
});

describe('what may not change', () => {
    test('ensure.ddl = off: NS002, and what holds is answered', () => withGiven([], async ({ dba }, { app }, roles) => {
        await dba.run(ensure(app, 'usage'));
        await dba.run('set ensure.ddl = off');
        expect(await done(dba, ensure(app, 'usage'), roles)).toEqual(['grants of role app exists']);
        expectError(await dba.attempt(ensure(app, 'read')), 'NS002');
    }));

    test('a read-only transaction: 25006, and what holds is answered', () => withGiven([], async ({ dba }, { app }, roles) => {
        await dba.run(ensure(app, 'usage'));
        await dba.run('begin read only');
        expect(await done(dba, ensure(app, 'usage'), roles)).toEqual(['grants of role app exists']);
        expectError(await dba.attempt(ensure(app, 'read')), '25006');
    }));
});
