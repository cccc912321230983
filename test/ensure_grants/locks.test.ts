import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { major } from '../context.js';
import { done, ensure, withGiven } from './given.js';

const catalogs = ['pg_class', 'pg_attribute', 'pg_namespace', 'pg_proc', 'pg_type', 'pg_default_acl', 'pg_shdepend', 'pg_database'];
/** Which transaction wrote each row of the catalogs. */
const written = async (session: Session): Promise<unknown> => {
    const rows = [];
    for (const catalog of catalogs) rows.push(await session.run(`select '${catalog}' as catalog, count(*)::int as n, md5(string_agg(concat(c.ctid, c.xmin), ' ' order by c.ctid)) as rows
        from ${catalog} as c ${catalog === 'pg_shdepend' ? 'join pg_database as d on d.oid = c.dbid and d.datname = current_database()' : catalog === 'pg_database' ? 'where c.datname = current_database()' : ''}`));
    return rows;
};
const held = `select l.relation::regclass::text as relation, l.mode from pg_locks as l
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation >= 16384 order by 1, 2`;

describe('the call that finds nothing to do', () => {
    test.each(isolationLevels)('%s: read-only, no lock on what users made, no advisory lock, no transaction id, no row of a catalog written', (isolation) =>
        withGiven(['a'], async ({ dba, a }, { app, owner }, roles) => {
            const call = ensure(app, 'read,write,execute,types,connect', `'{${owner}}', 'exact', true`);
            await dba.run(call);
            const before = await written(dba);
            await a.run(`begin isolation level ${isolation} read only`);
            expect(await done(a, call, roles)).toEqual(['grants of role app exists']);
            expect(await a.run(held)).toEqual([]);
            expect(await a.run("select from pg_locks where pid = pg_backend_pid() and locktype in ('advisory', 'transactionid')")).toEqual([]);
            await a.run('commit');
            expect(await done(a, call, roles)).toEqual(['grants of role app exists']); // and where it may write it does not
            expect(await written(dba)).toEqual(before);
        }));

    test('negative control: a plain GRANT of what is granted writes', () => withGiven([], async ({ dba }, { app }) => {
        await dba.run(ensure(app, 'read'));
        const before = await written(dba);
        await dba.run(`grant select on app.t to ${app}`);
        expect(await written(dba)).not.toEqual(before);
    }));

    test('does not wait for a table that is locked in ACCESS EXCLUSIVE mode, nor for a grant that is not committed', () => withGiven(['a', 'b'], async ({ dba, a, b }, { app, owner, else: other }, roles) => {
        const call = ensure(app, 'read,execute', `'{${owner}}', 'exact'`);
        await dba.run(call);
        await a.run(`begin; lock table app.t in access exclusive mode; grant select on app.v to ${other}`);
        await b.run("set lock_timeout = '1ms'");
        expect(await done(b, call, roles)).toEqual(['grants of role app exists']);
    }));
});

describe('the call that changes something', () => {
    test('holds no lock on what users made before 18, ACCESS SHARE on tables and sequences from 18 on; readers and writers go on, VACUUM waits', () => withGiven(['a', 'b'], async ({ a, b }, { app }) => {
        await a.run('begin');
        await a.run(ensure(app, 'read'));
        expect(await a.run(held)).toEqual(major < 18 ? [] : ['app.m', 'app.p', 'app.p1', 'app.s', 'app.t', 'app.t_b_seq', 'app.t_c_seq', 'app.v', 'app.x']
            .map((relation) => ({ relation, mode: 'AccessShareLock' })));
        await b.run("set lock_timeout = '50ms'");
        for (const statement of ['select from app.t for update', 'insert into app.t values (1)', 'update app.t set b = 2', 'begin; lock table app.p1; commit', 'vacuum app.t']) {
            // VACUUM and ANALYZE write to the row of the table in pg_class.
            const wants = major >= 18 && statement.includes('lock table') || statement.startsWith('vacuum') ? '55P03' : 'ok';
            expect((await b.attempt(statement)).code, statement).toBe(wants);
            await b.attempt('rollback');
        }
    }));
});
