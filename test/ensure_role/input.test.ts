import { describe, expect, test } from 'vitest';
import { expectError } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withRoles } from './roles.js';

const verifier = 'SCRAM-SHA-256$4096:LkkGxTCt1yTfEmWm7HIU6A==$TVlXq6l2ZjzGGpQ5J9kPpGH6Zjd3Yb1mOLrL8eJ8l0c=:Uq9GKpJ1cUoC3mW2mXIrXhR4cFvVvH1gqqqZ2G3gq7k=';
const bad: [string, string, string][] = [
    ['no name', 'null', '22004'],
    ['an empty name', "''", '42602'],
    ['public', "'public'", '42939'],
    ['current_user', "'current_user'", '42939'],
    ['a name of PostgreSQL\'s', "'pg_app'", '42939'],
    ['a limit below -1', "'APP', connection_limit => -2", '22023'],
    ['a password in clear text', "'APP', password_verifier => 'secret'", '22023'],
    ['an empty password', "'APP', password_verifier => ''", '22023'],
    ['an md5 password', "'APP', password_verifier => 'md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", '22023'],
    ['a verifier with something behind it', `'APP', password_verifier => '${verifier} x'`, '22023'],
    ['a verifier whose salt is no base64', `'APP', password_verifier => '${verifier.replace(/:[^$]*\$/, ':A$')}'`, '22023'],
    ['a verifier without a salt', `'APP', password_verifier => '${verifier.replace(/:[^$]*\$/, ':$')}'`, '22023'],
    ['a verifier with more iterations than there are numbers', `'APP', password_verifier => '${verifier.replace('4096', '4294967297')}'`, '22023'],
    ['a setting of a transaction', `'APP', settings => '{"transaction_isolation": "serializable"}'`, '22023'],
    ['a setting that is named twice', `'APP', settings => '{"work_mem": "1MB", "WORK_MEM": "2MB"}'`, '22023'],
    ['settings that are a list', `'APP', settings => '[]'`, '22023'],
    ['a setting that is an object', `'APP', settings => '{"work_mem": {}}'`, '22023'],
    ['a role that it is to become', `'APP', settings => '{"role": "postgres"}'`, '22023'],
    ['a list in one string', `'APP', settings => '{"search_path": "a, b"}'`, '22023'],
    ['a list with null in it', `'APP', settings => '{"search_path": ["a", null]}'`, '22023'],
    ['a setting without a name', `'APP', settings => '{"": "1"}'`, '22023'],
    ['a setting that is not known', `'APP', settings => '{"nonsense": "1"}'`, '42704'],
    ['a value that does not fit', `'APP', settings => '{"work_mem": "much"}'`, '22023'],
    ['a setting that only starts with the server', `'APP', settings => '{"shared_buffers": "1MB"}'`, '55P02'],
    ['no such database', `'APP', database_settings => '{"no_such": {"work_mem": "1MB"}}'`, '3D000'],
    ['a database without an object', `'APP', database_settings => '{"postgres": "1MB"}'`, '22023'],
    ['no such role', `'APP', member_of => '["APP_nobody"]'`, '42704'],
    ['a member of itself', `'APP', member_of => '["APP"]'`, '0LP01'],
    ['a membership that is a number', `'APP', member_of => '{"pg_monitor": 1}'`, '22023'],
    ['a membership with an option that is not known', `'APP', member_of => '{"pg_monitor": {"grant": true}}'`, '22023'],
    ['an option that is text', `'APP', member_of => '{"pg_monitor": {"admin": "yes"}}'`, '22023'],
    ['a member of public', `'APP', member_of => '["public"]'`, '42939'],
    ['a budget below nothing', `'APP', max_wait => '-1 s'`, '22023'],
    ['no budget', `'APP', max_block => null`, '22004'],
];

describe('bad input is one coded error with advice, and changes nothing', () => {
    test.each(bad)('%s', (_what, args, code) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const { hint } = expectError(await dba.attempt(`select * from ensure.ensure_role_v1(${args.replaceAll('APP', role('app'))})`), code);
            expect(hint).not.toBe('');
            expect(await dba.run(`select from pg_roles where starts_with(rolname, '${role('')}')`)).toEqual([]);
        }));

    test('something differs and the transaction is read-only: 25006; ensure.ddl is off: NS002', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const call = `select * from ensure.ensure_role_v1('${role('app')}')`;
            await dba.run('begin read only');
            expect(expectError(await dba.attempt(call), '25006').hint).toContain('may write');
            await dba.run('rollback; set ensure.ddl = off');
            expect(expectError(await dba.attempt(call), 'NS002').hint).toContain('switched it off');
        }));

    test('what PostgreSQL would take for a password in clear text never gets there; control: it does take it', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const bad = verifier.replace(/:[^$]*\$/, ':A$');
            await dba.run(`create role "${role('app')}" password '${bad}'`);
            const [row] = await dba.run(`select rolpassword <> '${bad}' as hashed from pg_authid where rolname = '${role('app')}'`);
            expect(row).toEqual({ hashed: true });
        }));

    test('what is given for a password is not in the error', () =>
        withRoles(['dba'], async ({ dba }) => {
            for (const spec of ['{"roles": [{"role_name": "x", "password": "S3cret"}]}', '{"roles": [{"role_name": "x", "password_verifier": ["S3cret"]}]}']) {
                const outcome = await dba.attempt(`select * from ensure.ensure_roles_v1('${spec}')`);
                expect(Object.values(expectError(outcome, '22023')).join()).not.toContain('S3cret');
            }
        }));

    test('who waits for another\'s query with a password does not show it', () =>
        withRoles(['a', 'b'], async ({ a, b }, { role }) => {
            await a.run(`create role "${role('app')}"`);
            await a.run(`begin; alter role "${role('app')}" password 'S3cret'`);
            const { detail } = expectError(await b.attempt(`select * from ensure.ensure_role_v1('${role('app')}', connection_limit => 3, max_wait => '200 ms')`), '55P03');
            expect(detail).toContain('a query with a password');
            expect(detail).not.toContain('S3cret');
        }));

    test('"tuple concurrently updated" at the end of max_wait is 55P03', () =>
        withRoles(['a'], async ({ a }, { role }) => { // as when somebody else writes the row at each attempt
            await withoutGuard(a, '_make_changes_v1', '    for v_pass in', "    raise exception using errcode = 'XX000', message = 'tuple concurrently updated';\n    for v_pass in");
            const { message } = expectError(await a.attempt(`select * from ensure.ensure_role_v1('${role('app')}', max_wait => '100 ms')`), '55P03');
            expect(message).toContain('tuple concurrently updated');
        }));
});
