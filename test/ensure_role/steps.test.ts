import { describe, expect, test } from 'vitest';
import { withFaults } from '../../scripts/harness/faults.js';
import { at } from '../../scripts/harness/databases.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, surroundings, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { lines, withRoles, type Roles } from './roles.js';

type Sessions = Record<'a' | 'b' | 'c' | 'dba', Session>;
const withApp = (body: (sessions: Sessions, app: string, roles: Roles) => Promise<void>): Promise<void> =>
    withRoles(['a', 'b', 'c', 'dba'], (sessions, roles) => body(sessions, roles.role('app'), roles));

const ensure = (name: string, rest = ''): string => `select * from ensure.ensure_role_v1('${name}'${rest})`;
const limitOf = async (session: Session, name: string): Promise<unknown> => (
    (await session.run(`select rolconnlimit as n from pg_roles where rolname = '${name}'`))[0]?.n
);

describe('two callers of one role that is not there', () => {
    describe.each(isolationLevels)('%s', (isolation) => {
        test('the second waits for the first, in another database too, and has no error', () =>
            withApp(async ({ a, dba }, app) => withTestDatabase(({ admin }) => withSessions(admin, ['b'], async ({ b }) => {
                await a.run(`begin isolation level ${isolation}`);
                await b.run(`begin isolation level ${isolation}; select count(*) from pg_class`); // its snapshot is older
                expect(lines(await a.run(ensure(app, ', login => true, connection_limit => 3')))).toEqual([`role ${app} created`]);
                const second = b.start(ensure(app, ', login => true, connection_limit => 3'));
                await expect.poll(async () => (await dba.run(`select count(*)::int as n from pg_locks as l
                    where l.pid = ${b.pid} and not l.granted`))[0]?.n).toBe(1);
                await a.run('commit');
                const { rows, code } = await second.outcome();
                expect(code).toBe('ok');
                expect(lines(rows)).toEqual([`role ${app} ${isolation === 'read committed' ? 'exists' : 'altered'}`]);
                expect((await b.attempt('commit')).code).toBe('ok');
                expect(await limitOf(dba, app)).toBe(3);
            }))));
    });

    test.each(['duplicate_object or unique_violation', 'unique_violation'])('negative control: %s not handled, it has the error', (guard) =>
        withApp(async ({ a, b, dba }, app) => {
            await withoutGuard(dba, '_settle_changes_v1', 'duplicate_object or unique_violation',
                guard === 'unique_violation' ? 'duplicate_object' : 'division_by_zero');
            await a.run('begin');
            await a.run(ensure(app));
            const second = b.start(ensure(app));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).code).toBe('23505');
        }));

    test('when the first rolls back, the second creates it', () =>
        withApp(async ({ a, b }, app) => {
            await a.run('begin');
            await a.run(ensure(app));
            const second = b.start(ensure(app));
            await second.blockedBy(a);
            await a.run('rollback');
            expect(lines((await second.outcome()).rows)).toEqual([`role ${app} created`]);
        }));

    test.each(['cancel', 'terminate'] as const)('the first is hit by %s while two wait: one of them creates it', (fault) =>
        withApp(async ({ a, b, c, dba }, app, { database }) => withFaults(database.admin, async (faults) => {
            await dba.run('create table r (x int); insert into r values (1)');
            await dba.run('begin; update r set x = 2');
            await a.run('begin');
            await a.run(ensure(app));
            const stuck = a.start('update r set x = 3');
            await stuck.blockedBy(dba);
            const waiting = [b, c].map((session) => session.start(ensure(app, ", max_wait => '60 s'")));
            await waiting[0]?.blockedBy(a);
            await faults[fault](a);
            expect((await stuck.outcome()).code).toMatch(fault === 'cancel' ? /57014/ : /57P01|CONNECTION_CLOSED/);
            await a.attempt('rollback');
            const outcomes = await Promise.all(waiting.map(async (call) => (await call.outcome()).rows[0]?.outcome));
            expect(outcomes.sort()).toEqual(['created', 'exists']);
            await dba.run('rollback');
        })));

    test('a winner that never commits: 55P03 within max_wait names its pid and application; nothing is left behind', () =>
        withApp(async ({ a, b, dba }, app) => {
            await a.run('begin');
            await a.run(ensure(app));
            await b.run('begin');
            const error = expectError(await b.attempt(ensure(app, ", max_wait => '1200 ms'")), '55P03');
            expect(error.message).toContain(`role ${app}`);
            for (const word of [`pid ${a.pid}`, "application 'pg-ensure test a'", 'idle in transaction']) expect(error.detail).toContain(word);
            expect(await dba.run(`select count(*)::int as n from pg_locks where pid = ${b.pid} and locktype = 'relation'`)).toEqual([{ n: 0 }]);
        }));

    const others = ['c', 'd', 'e', 'f', 'g', 'h', 'i'] as const;
    /** The words about five at most of those in the way, when one has made the role and six others wait for it. */
    const inTheWay = (prepare: (dba: Session) => Promise<void>, body: (detail: string | undefined, winner: Session) => void): Promise<void> =>
        withRoles(['dba', 'b', ...others], async ({ dba, b, ...sessions }, roles) => {
            await prepare(dba);
            const app = roles.role('app');
            const [winner, ...waiters] = Object.values(sessions).sort((one, other) => (String(one.pid) < String(other.pid) ? 1 : -1)) as [Session, ...Session[]];
            await winner.run(`begin; ${ensure(app)}`);
            const waiting = waiters.map((waiter) => waiter.start(ensure(app, ", max_wait => '60 s', max_block => '60 s'")));
            for (const call of waiting) await call.blockedBy(winner);
            body(expectError(await b.attempt(ensure(app, ", max_wait => '50 ms'")), '55P03').detail, winner);
            await winner.run('commit');
            for (const call of waiting) expect((await call.outcome()).code).toBe('ok');
        });

    test('of many in the way those who do not wait themselves are named first', () =>
        inTheWay(() => Promise.resolve(), (detail, winner) => expect(detail).toContain(`pid ${winner.pid},`)));

    test('negative control: in the order of their names who is last is not named', () =>
        inTheWay((dba) => withoutGuard(dba, '_pause_v1', 'bool_and(b.waits), '), (detail, winner) => expect(detail).not.toContain(`pid ${winner.pid},`)));

    test('a prepared transaction that made it is named', () =>
        withApp(async ({ a, b }, app, { database }) => {
            await a.run('begin');
            await a.run(ensure(app));
            await a.run(`prepare transaction '${database.name}'`);
            try {
                expect(expectError(await b.attempt(ensure(app, ", max_wait => '300 ms'")), '55P03').detail)
                    .toContain(`prepared transaction '${database.name}'`);
            } finally {
                await a.run(`rollback prepared '${database.name}'`);
            }
        }));
});

/** An index gives one row of a HOT chain; whether the planner takes one depends on how large the catalog has become. */
const wholeCatalog = 'set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off';

/** What a DBA does in the middle, and what a call asks for that meets the same row of a catalog. */
const meetings: [string, (app: string) => string, string][] = [
    ['pg_authid', (app) => `alter role "${app}" connection limit 5`, ', connection_limit => 8'],
    ['pg_db_role_setting', (app) => `alter role "${app}" set work_mem to '1MB'`, `, settings => '{"work_mem": "8MB"}'`],
    ['pg_auth_members', (app) => `grant "${app}_group" to "${app}" with admin option`, `, member_of => '{"GROUP": {"admin": true}}'`],
];

describe('a row of a catalog that another transaction changed', () => {
    const meet = async ({ a, b, dba }: Sessions, app: string, [, plain, asked]: (typeof meetings)[number], isolation: string) => {
        await dba.run(`${ensure(app)}; ${ensure(`${app}_group`)}`);
        await dba.run(`alter role "${app}" set work_mem to '2MB'; grant "${app}_group" to "${app}"`);
        await b.run(wholeCatalog);
        await b.run(`begin isolation level ${isolation}; select count(*) from pg_class`);
        await a.run('begin');
        await a.run(plain(app));
        const second = b.start(ensure(app, asked.replace('GROUP', `${app}_group`)));
        await second.blockedBy(a);
        await a.run('commit');
        const outcome = await second.outcome();
        // Above READ COMMITTED b now sees two rows of what both have changed.
        if (outcome.code === 'ok') expect((await b.attempt(ensure(app, asked.replace('GROUP', `${app}_group`)))).code).toBe('ok');
        await b.attempt('commit');
        return outcome;
    };

    test.each(meetings.flatMap((meeting) => isolationLevels.map((level) => [meeting[0], level, meeting] as const)))(
        '%s, %s: the call waits, meets XX000, looks again, and what it asked for holds', (_catalog, isolation, meeting) =>
            withApp(async (sessions, app) => {
                expect((await meet(sessions, app, meeting, isolation)).code).toBe('ok');
                const [row] = await sessions.dba.run(`select r.rolconnlimit, r.rolconfig, m.admin_option
                    from pg_roles as r join pg_auth_members as m on m.member = r.oid where r.rolname = '${app}'`);
                if (meeting[0] === 'pg_authid') expect(row?.rolconnlimit).toBe(8);
                if (meeting[0] === 'pg_db_role_setting') expect(String(row?.rolconfig)).toContain('work_mem=8MB');
                if (meeting[0] === 'pg_auth_members') expect(row?.admin_option).toBe(true);
            }));

    test('negative control: without taking one of the two rows that an old snapshot then shows, the next call is 21000', () =>
        withApp(async ({ a, b, dba }, app) => {
            await withoutGuard(dba, '_wanted_members_v1', 'bool_and(r.rolinherit)', 'r.rolinherit');
            await dba.run(ensure(app));
            await b.run(wholeCatalog);
            await b.run('begin isolation level repeatable read; select count(*) from pg_class');
            await a.run(`alter role "${app}" connection limit 5`);
            await b.run(ensure(app, ', connection_limit => 8'));
            expect((await b.attempt(ensure(app, `, member_of => '[]'`))).code).toBe('21000');
        }));

    test.each(meetings.slice(0, 2).map((meeting) => [meeting[0], meeting] as const))(
        'negative control: %s, with XX000 not handled it has the error', (_catalog, meeting) =>
            withApp(async (sessions, app) => {
                await withoutGuard(sessions.dba, '_settle_changes_v1', 'when internal_error then', 'when division_by_zero then');
                expect((await meet(sessions, app, meeting, 'read committed')).code).toBe('XX000');
            }));
});

describe.each(['repeatable read', 'serializable'])('%s: a membership that was revoked since the snapshot', (isolation) => {
    test.each([['is granted again', true], ['negative control: by the snapshot alone it seems to exist', false]])('%s', (_what, guarded) =>
        withApp(async ({ a, b, dba }, app) => {
            if (!guarded) await withoutGuard(dba, '_diff_members_v1', "pg_has_role(c_member, m.roleid, 'MEMBER')", 'true');
            const call = ensure(app, `, member_of => '["${app}_group"]'`);
            await dba.run(`${ensure(`${app}_group`)}; ${call}`);
            await a.run(`begin isolation level ${isolation}; select count(*) from pg_class`);
            await b.run(`revoke "${app}_group" from "${app}"`);
            expect(lines(await a.run(call))).toEqual([guarded ? `membership of role ${app} in ${app}_group granted` : `role ${app} exists`]);
            await a.run('commit');
            expect(await dba.run(`select pg_has_role('${app}', '${app}_group', 'member') as member`)).toEqual([{ member: guarded }]);
        }));
});

describe('a caller that has already written', () => {
    test('does not wait for another: NS003 that says to ensure first; the other goes on', () =>
        withApp(async ({ a, b, dba }, app) => {
            await dba.run(`${ensure(app)}; create table t (x int); insert into t values (1)`);
            await a.run(`begin; alter role "${app}" connection limit 5`);
            await b.run('begin; update t set x = 2');
            const other = a.start('update t set x = 3');
            await other.blockedBy(b);
            const error = expectError(await b.attempt(ensure(app, ', connection_limit => 8')), 'NS003');
            expect(error.detail).toContain(`pid ${a.pid}`);
            await b.run('rollback');
            expect((await other.outcome()).code).toBe('ok');
            await a.run('commit');
        }));

    test('two who take two roles in opposite order: nobody is a deadlock victim', () =>
        withApp(async ({ a, b, dba }, app) => {
            await dba.run(`${ensure(app)}; ${ensure(`${app}_2`)}`);
            await a.run('begin');
            await a.run(ensure(app, ', connection_limit => 1'));
            await b.run('begin');
            await b.run(ensure(`${app}_2`, ', connection_limit => 2'));
            const first = a.start(ensure(`${app}_2`, ', connection_limit => 1'));
            const codes = [(await b.attempt(ensure(app, ', connection_limit => 2'))).code, (await first.outcome()).code];
            expect(codes).toContain('NS003'); // who comes to its end first lets the other through
            expect(codes.filter((code) => code !== 'NS003' && code !== 'ok')).toEqual([]);
        }));

    test.each([[', and goes on', true], ['; negative control: a call that waits makes it a deadlock victim', false]])('a DBA without lock_timeout waits for it%s', (_what, guarded) =>
        withApp(async ({ a, b, dba }, app) => {
            await dba.run(`${ensure(app)}; ${ensure(`${app}_2`)}`);
            if (!guarded) {
                await withoutGuard(dba, '_settle_changes_v1', 'case when v_written then 0 else v_wait end', '60000');
                await withoutGuard(dba, '_settle_changes_v1', 'case when v_written then max_block end', 'null');
            }
            await a.run(`begin; alter role "${app}" connection limit 1`);
            await b.run('begin');
            await b.run(ensure(`${app}_2`, ', connection_limit => 2'));
            const plain = a.start(`alter role "${app}_2" connection limit 1`);
            await plain.blockedBy(b);
            const call = b.start(ensure(app, ', connection_limit => 2'));
            if (guarded) expect((await call.outcome()).code).toBe('NS003');
            expect((await plain.outcome()).code).toBe(guarded ? 'ok' : '40P01');
            await call.outcome();
        }));
});

describe('when nothing differs', () => {
    const asked = `, login => true, connection_limit => 3, settings => '{"work_mem": "1MB"}', member_of => '["pg_monitor"]',
        database_settings => '{"DB": {"lock_timeout": "5s"}}', valid_until => '2031-01-01'`;
    const settled = (body: (sessions: Sessions, app: string, call: string) => Promise<void>): Promise<void> =>
        withApp(async (sessions, app, { database }) => {
            const call = ensure(app, asked.replace('DB', database.name));
            await sessions.dba.run(call);
            await body(sessions, app, call);
        });
    const rows = (app: string): string => `select a.xmin, a.ctid, 'role' as what from pg_authid as a where a.rolname = '${app}'
        union all select m.xmin, m.ctid, 'member' from pg_auth_members as m where m.member = '"${app}"'::regrole
        union all select s.xmin, s.ctid, 'setting' from pg_db_role_setting as s where s.setrole = '"${app}"'::regrole order by 3, 2`;

    test('no row of a catalog is written, no transaction id is used, no lock kept but of reading catalogs', () =>
        settled(async ({ a, dba }, app, call) => {
            const before = await dba.run(rows(app));
            expect(before).toHaveLength(4);
            await a.run('begin');
            expect(lines(await a.run(call))).toEqual([`role ${app} exists`]);
            expect(await a.run(`select pg_current_xact_id_if_assigned() as id`)).toEqual([{ id: null }]);
            expect(await a.run(`select l.locktype, l.mode from pg_locks as l where l.pid = pg_backend_pid()
                and (l.locktype not in ('relation', 'virtualxid') or l.mode <> 'AccessShareLock' and l.locktype = 'relation'
                     or l.relation >= 16384)`)).toEqual([]);
            await a.run('commit');
            expect(await dba.run(rows(app))).toEqual(before);
        }));

    test('it answers read-only, with ensure.ddl off, and while another holds the role\'s row', () =>
        settled(async ({ a, b }, app, call) => {
            await b.run(`begin; alter role "${app}" connection limit 9`);
            await a.run('begin read only');
            expect(lines(await a.run(call))).toEqual([`role ${app} exists`]);
            await a.run("commit; set ensure.ddl = off");
            expect(lines(await a.run(call))).toEqual([`role ${app} exists`]);
        }));

    test('a role without any rights but USAGE may call it', () =>
        settled(async ({ a, dba }, app, call) => {
            await dba.run(`${ensure(`${app}_low`)}; grant usage on schema ensure to "${app}_low"`);
            await a.run(`set session authorization "${app}_low"`);
            expect(lines(await a.run(call))).toEqual([`role ${app} exists`]);
        }));

    test('negative control: a call that does not look writes the row anew', () =>
        settled(async ({ dba }, app, call) => {
            const before = await dba.run(rows(app));
            await withoutGuard(dba, '_diff_attributes_v1', 'not c_exists or v_clauses is not null', 'true');
            await withoutGuard(dba, '_make_changes_v1', "if v_changes = '{}' then", 'if true then');
            await dba.attempt(call);
            expect(await dba.run(rows(app))).not.toEqual(before);
        }));
});

test('settings of the session are put back, on success and on error', () =>
    withApp(async ({ a, b }, app) => {
        await a.run("begin; set local lock_timeout = '7s'");
        await a.run(ensure(app));
        expect(await a.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
        await b.run("begin; set local lock_timeout = '7s'");
        await b.run('savepoint s');
        await b.attempt(ensure(app, ", max_wait => '200 ms'"));
        await b.run('rollback to savepoint s');
        expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
    }));

test('sixteen callers in two databases, through nothing but SQL, thrice: no error, one role', () =>
    withApp(async ({ dba }, app, { database }) => withTestDatabase(async ({ name }) => {
        const callers = Array.from({ length: 16 }, (_, i) => `c${i}`);
        const here = surroundings.server.admin;
        for (let round = 0; round < 3; round++) {
            const call = ensure(`${app}_${round}`, `, login => true, connection_limit => 4, settings => '{"work_mem": "1MB", "lock_timeout": "3s"}',
                member_of => '["pg_monitor"]'`);
            await withSessions(at(here, name), callers.slice(0, 8), (first) => withSessions(database.admin, callers.slice(8), async (second) => {
                const outcomes = await Promise.all(Object.values({ ...first, ...second }).map((session) => session.attempt(call)));
                expect(outcomes.map(({ code }) => code)).toEqual(callers.map(() => 'ok'));
                expect(outcomes.filter(({ rows }) => rows[0]?.outcome === 'created')).toHaveLength(1);
            }));
        }
        expect(await dba.run(`select count(*)::int as n from pg_roles where rolname like '${app}%' and rolconnlimit = 4`)).toEqual([{ n: 3 }]);
    })));
