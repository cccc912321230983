import { expect, test } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { at } from '../../scripts/harness/databases.js';
import { surroundings } from '../context.js';
import { withRoles, type Roles } from '../ensure_role/roles.js';
import { runToEnd, withoutGuards } from '../run/context.js';

const plan = ({ role }: Roles): string => `select * from ensure.plan_retire_role_v1('${role('x')}', '${role('y')}')`;

/** A role with a session, and a table in each of two databases. */
async function withTwo(body: (urls: { first: string; second: string }, roles: Roles) => Promise<void>): Promise<void> {
    await withRoles(['dba'], async ({ dba }, roles) => {
        const { role, database } = roles;
        const second = at(surroundings.server.admin, `${database.name}_2`);
        roles.alsoDrops(`${database.name}_2`);
        await withConnection(surroundings.server.admin, (sql) => sql`create database ${sql(`${database.name}_2`)} template ${sql(surroundings.server.template)}`);
        await dba.run(`create role "${role('x')}" login; create role "${role('y')}"; create table t (); alter table t owner to "${role('x')}"`);
        await withConnection(second, (sql) => sql.unsafe(`create table t (); alter table t owner to "${role('x')}"`));
        await body({ first: database.admin, second }, roles);
    });
}

test('pg-ensure run leaves out what is for another database, says which ones are left with exit code 14, and ends there', () =>
    withTwo(async ({ first, second }, roles) => {
        const here = await runToEnd(first, plan(roles));
        expect(here).toMatchObject({ code: 14, document: { outcome: 'failed', exitCode: 14 } });
        expect(here.document.error).toContain(`goes on in the database ${roles.database.name}_2: run it there`);
        expect(here.document.statements.map(({ outcome }) => outcome)).toEqual(['done', 'done']);
        expect(await withConnection(second, (sql) => sql`select pg_get_userbyid(relowner) as owner from pg_class where relname = 't'`))
            .toMatchObject([{ owner: roles.role('x') }]);
        expect(await runToEnd(first, plan(roles))).toMatchObject({ code: 14, document: { statements: [] } });
        expect((await runToEnd(second, plan(roles))).code).toBe(0);
        expect(await runToEnd(first, plan(roles))).toMatchObject({ code: 0, document: { outcome: 'nothing to do' } });
    }), 120_000);

test('control: without the look at the column the statement itself refuses, and the run fails', () =>
    withoutGuards({ 'run/plan.js': [['result.filter(isHere).map(', 'result.map(']] }, (cli) => withTwo(async ({ first }, roles) => {
        const { code, document } = await runToEnd(first, plan(roles), [], { cli });
        expect(code).toBe(1);
        expect(document.error).toContain('this statement is for database');
    })), 120_000);
