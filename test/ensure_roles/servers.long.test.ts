import { describe, expect, test } from 'vitest';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { expectError, major, pooled, surroundings } from '../context.js';
import { install } from '../../scripts/install.js';
import { withStandby } from '../standby.js';
import { withRoles } from '../ensure_role/roles.js';

const reserved = major >= 16 ? 4 : 0; // reserved_connections came with 16
const literal = (value: unknown): string => `'${JSON.stringify(value)}'`;
const ensure = (spec: unknown): string => `select * from ensure.ensure_roles_v1(${literal(spec)}, max_wait => '60 s')`;
const documentOf = (owner: string, reader: string) => ({
    roles: [{ role_name: owner, login: true, connection_limit: 3 }, { role_name: reader, login: true, settings: { statement_timeout: '30s' } }],
    grants: [{ grantee: reader, access: ['read'], schemas: ['app'], mode: 'exact' }],
});

test('what holds is answered on a streaming standby, checked and planned; what differs is 25006 there', async (context) => {
    if (!surroundings.embedded) context.skip('needs a primary and a standby of its own; DATABASE_URL is set');
    await withStandby(reserved ? { reserved_connections: String(reserved) } : {}, async ({ primary: { url }, standby: { url: copy }, caughtUp }) => {
        await install(url);
        const spec = { ...documentOf('owner', 'reader'), owners: [{ new_owner: 'owner', schemas: ['app'] }] };
        await withSessions(url, ['primary'], ({ primary }) => primary.run('create schema app; create table app.t (x int)'));
        await withSessions(url, ['primary'], async ({ primary }) => {
            await primary.run(ensure(spec));
            const [{ most }] = await primary.run("select current_setting('max_connections')::int as most") as [{ most: number }];
            const room = most - 3 - reserved; // superuser_reserved_connections is 3
            for (const [reader, finding] of [[room - 3, 'ok'], [room - 2, 'over-committed']] as const) { // the owner has a limit of 3
                expect((await primary.run(`select finding, detail from ensure.check_connection_budget_v1('{"reader": ${reader}}')`)).at(-1)).toEqual({
                    finding, detail: `${room} of ${most} connections are for these roles (3 kept by superuser_reserved_connections, ${reserved} by reserved_connections)`,
                });
            }
        });
        await caughtUp();
        await withSessions(copy, ['standby'], async ({ standby }) => {
            for (const isolation of ['read committed', 'repeatable read']) {
                await standby.run(`begin isolation level ${isolation}`);
                expect((await standby.run(ensure(spec))).map(({ outcome }) => outcome)).toEqual(['exists', 'exists', 'exists', 'exists']);
                expect(await standby.run(`select * from ensure.check_roles_v1(${literal(spec)})`)).toEqual([]);
                expect((await standby.run(`select * from ensure.plan_roles_v1(${literal({ roles: [{ role_name: 'more' }] })})`))).toHaveLength(1);
                expect((await standby.run('select * from ensure.check_connection_budget_v1()')).length).toBeGreaterThan(2);
                expect(expectError(await standby.attempt(ensure({ roles: [{ role_name: 'more' }] })), '25006').hint).toContain('primary');
                await standby.run('rollback');
            }
        });
    });
});

describe.each(isolationLevels)('%s', (isolation) => test('twenty callers through PgBouncer in transaction mode, ten rounds: no error, each role made once', (context) =>
    withRoles(['dba'], async ({ dba }, { role, database }) => {
        await dba.run(`create schema app authorization "${surroundings.server.owner}"`);
        await dba.run(`set role "${surroundings.server.owner}"; create table app.t (x int); reset role`);
        const { codes, outcomes } = await stampede({
            owner: database.url, url: pooled(context, database), callers: 20, rounds: 10, isolation, transaction: false,
            steps: (_, round) => [ensure(documentOf(role(`owner${round}`), role(`reader${round}`)))],
        });
        expect(codes).toEqual({ ok: 200 });
        const created = outcomes.flatMap(({ rows }) => rows).filter(({ outcome }) => outcome === 'created').map(({ object }) => String(object));
        expect(created).toHaveLength(20);
        expect(new Set(created).size).toBe(20);
        expect(await dba.run(`select count(*)::int as n from pg_roles where starts_with(rolname, '${role('')}') and rolcanlogin`)).toEqual([{ n: 20 }]);
    })));
