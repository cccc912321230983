import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { expectError, surroundings } from '../context.js';
import { withRoles, type Roles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';
import { runToEnd } from '../run/context.js';
import { everything, owners, strangers } from './objects.js';

const call = ({ role }: Roles, rest = ''): string => `select object, outcome from ensure.ensure_owner_v1('${role('app')}', '{a}'${rest})`;
const exists = [{ object: 'owner of schema a', outcome: 'exists' }];
const small = ({ role }: Roles): string => `create role "${role('app')}"; create schema a; create table a.t (id serial primary key, n int);
    create table a.u (id int); insert into a.t (n) values (1); create view a.v as select * from a.t; create sequence a.s`;

/** Transactions of `ms` each on `statement`, one after the other, until `stop` is called; how many, and their errors. */
function busy(session: Session, statement: string, ms: number): { stop: () => Promise<{ done: number; errors: string[] }> } {
    let going = true;
    const result = { done: 0, errors: [] as string[] };
    const loop = (async () => {
        while (going) {
            const { code } = await session.attempt(`begin; ${statement}; select pg_sleep(${ms / 1000}); commit`);
            if (code === 'ok') result.done += 1;
            else {
                result.errors.push(code);
                if ((await session.attempt('rollback')).code !== 'ok') break; // the connection is gone with the test
            }
        }
        return result;
    })();
    return { stop: () => ((going = false), loop) };
}

describe('two callers', () => {
    test('the second waits for the first, then returns exists', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(small(roles));
            await a.run('begin');
            await a.run(call(roles));
            const second = b.start(call(roles, ", max_wait => '60 s', max_block => '60 s'"));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).toEqual(exists);
            expect(await b.run("select from pg_locks where pid = pg_backend_pid() and mode = 'AccessExclusiveLock'")).toEqual([]);
        }));

    test('negative control: a second one that does not look again behind the lock changes all of it once more', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(small(roles));
            await withoutGuard(a, '_make_changes_v1', 'if c_looks_again and (v_turn', 'if false and (v_turn');
            await a.run('begin');
            await a.run(call(roles));
            const second = b.start(call(roles, ", max_wait => '60 s', max_block => '60 s'"));
            await second.blockedBy(a);
            await a.run('commit');
            expect((await second.outcome()).rows).not.toEqual(exists);
        }));

    test('when the first rolls back the second changes all of it', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(small(roles));
            await a.run('begin');
            await a.run(call(roles));
            const second = b.start(call(roles, ", max_wait => '60 s', max_block => '60 s'"));
            await second.blockedBy(a);
            await a.run('rollback');
            expect((await second.outcome()).rows).toHaveLength(5);
        }));

    test('in each isolation level, with a look before', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(small(roles));
            for (const level of ['repeatable read', 'serializable']) {
                await b.run(`begin isolation level ${level}`);
                await b.run('select count(*) from pg_class');
                await a.run(call(roles));
                expect((await b.attempt(call(roles))).code).toBe('ok'); // what holds by its snapshot is made again, and harmless
                await b.run('commit');
                expect(await b.run(strangers('{a}', roles.role('app')))).toEqual([]);
                await a.run(`alter table a.t owner to "${surroundings.server.owner}"`);
            }
        }));
});

describe('others at work', () => {
    test('an open reader: 55P03 that names it, nothing changed, lock_timeout as it was', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(small(roles));
            await a.run('begin; select * from a.u');
            await b.run("set lock_timeout = '12345ms'");
            const before = await b.run(owners);
            const { detail, hint } = expectError(await b.attempt(call(roles, ", max_wait => '300 ms', max_block => '100 ms'")), '55P03');
            expect(detail).toContain(`pid ${a.pid}`);
            expect(hint).not.toBe('');
            expect(await b.run(owners)).toEqual(before);
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '12345ms' }]);
            await a.run('commit');
            await b.run(call(roles));
            expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '12345ms' }]);
        }));

    test.each([['a view', 'select * from a.v'], ['a sequence', "select nextval('a.s')"], ['a sequence of a column', "select nextval('a.t_id_seq')"]])(
        'who uses %s is named too', (_, statement) =>
            withRoles(['a', 'b'], async ({ a, b }, roles) => {
                await a.run(`${small(roles)}; grant all on schema a to public`);
                await a.run(`begin; ${statement}`);
                const { detail } = expectError(await b.attempt(call(roles, ", max_wait => '300 ms', max_block => '100 ms'")), '55P03');
                expect(detail).toContain(`pid ${a.pid}`);
                await a.run('commit');
            }));

    test('waits for a view that is read, before its tables, and gets it when the reader ends', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(`${small(roles)}; create view a.w as select 1 as x`);
            await a.run('begin; select * from a.w');
            const second = b.start(call(roles, ", max_wait => '60 s', max_block => '60 s'"));
            await second.blockedBy(a);
            await a.run('select * from a.t'); // would be a deadlock were the table locked
            await a.run('commit');
            expect((await second.outcome()).code).toBe('ok');
        }));

    test('negative control: with the tables locked first the reader of the view meets them', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(`${small(roles)}; create view a.w as select 1 as x`);
            await withoutGuard(a, '_make_changes_v1', 'if busy is null or', 'if true or');
            await withoutGuard(a, '_make_changes_v1', /when v_change\.relation = busy and first_wait > 0\s+then greatest\(v_wait, 50\)/,
                "when v_change.object like '% a.w' then 60000"); // else it waits a millisecond, which nobody would see
            await a.run('begin; select * from a.w');
            const second = b.start(call(roles, ", max_wait => '60 s', max_block => '60 s'"));
            await second.blockedBy(a);
            expect(await a.attempt('set local lock_timeout = 100; select * from a.t').then(({ code }) => code)).toBe('55P03');
            await a.run('rollback');
            await second.outcome();
        }));

    test('writers of 200 ms in a row on a table: it comes through, and they see no error', () =>
        withRoles(['a', 'b', 'w'], async ({ a, b, w }, roles) => {
            await a.run(`${small(roles)}; drop view a.v`);
            const writer = busy(w, 'insert into a.t (n) values (1)', 200);
            const { code } = await b.attempt(call(roles, ", max_wait => '50 s', max_block => '5 s'"));
            expect((await writer.stop()).errors).toEqual([]);
            expect(code).toBe('ok');
            expect(await b.run(call(roles))).toEqual(exists);
        }), 90_000);

    test('two tables that are never free at once: 55P03 with nothing changed, and the plan, one at a time, comes through', () =>
        withRoles(['a', 'b', 'c'], async ({ a, b, c }, roles) => {
            await a.run(small(roles));
            await a.run('begin; insert into a.t (n) values (1)');
            await c.run('begin; insert into a.u values (1)');
            const before = await b.run(owners);
            const { detail } = expectError(await b.attempt(call(roles, ", max_wait => '400 ms', max_block => '50 ms'")), '55P03');
            expect(detail).toContain(`pid ${a.pid}`);
            expect(detail).toContain(`pid ${c.pid}`);
            expect(await b.run(owners)).toEqual(before);
            const done: unknown[] = [];
            for (const { statement } of await b.run(`select * from ensure.plan_owner_v1('${roles.role('app')}', '{a}')`)) {
                const step = b.start(String(statement));
                if (String(statement).includes(' a.t ')) {
                    await step.blockedBy(a);
                    await a.run('commit; begin; insert into a.t (n) values (1)'); // a.t waits no more, though c holds a.u
                }
                if (String(statement).includes(' a.u ')) {
                    await step.blockedBy(c);
                    await c.run('commit');
                }
                if (String(statement).includes(' a.t ')) await a.run('commit');
                done.push((await step.outcome()).code);
            }
            expect(done).toEqual(['ok', 'ok', 'ok', 'ok', 'ok']);
            expect(await b.run(call(roles))).toEqual(exists);
        }));

    test('a concurrent index build: NS006, and nothing changed', () =>
        withRoles(['a', 'b', 'c'], async ({ a, b, c }, roles) => {
            await a.run(small(roles));
            await a.run('begin; insert into a.t (n) values (2)');
            const build = c.start('create index concurrently on a.t (n)');
            await build.blockedBy(a);
            const before = await b.run(owners);
            expectError(await b.attempt(call(roles)), 'NS006');
            expect(await b.run(owners)).toEqual(before);
            await a.run('commit');
            await build.outcome();
        }));

    test('one who has written already does not wait: NS003', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(`${small(roles)}; create table mine (id int)`);
            await a.run('begin; select * from a.t');
            await b.run('begin; insert into mine values (1)');
            expect(expectError(await b.attempt(call(roles)), 'NS003').detail).toContain(`pid ${a.pid}`);
            await b.run('rollback');
            await a.run('commit');
        }));

    test('negative control: one who has written and does wait keeps those waiting who need what it wrote', () =>
        withRoles(['a', 'b'], async ({ a, b }, roles) => {
            await a.run(`${small(roles)}; create table mine (id int primary key)`);
            await withoutGuard(b, '_settle_changes_v1', /v_written := ensure\._has_written_v1\(\)\s+or [^;]*;/, 'v_written := false;');
            await a.run('begin; select * from a.t');
            await b.run('begin; insert into mine values (1)');
            const waiting = b.start(call(roles, ", max_wait => '60 s', max_block => '60 s'"));
            await waiting.blockedBy(a);
            await a.run('rollback');
            await waiting.outcome();
        }));

    test('applications connected as a superuser notice nothing: reads and writes, prepared too', () =>
        withRoles(['dba', 'app', 'reader'], async ({ dba, app, reader }, roles) => {
            await dba.run(small(roles));
            for (const session of [app, reader]) {
                await session.run('prepare put(int) as insert into a.t (n) values ($1); prepare look as select count(*)::int as count from a.v');
                await session.run('execute put(0); execute look');
            }
            const writer = busy(app, "execute put(1); update a.t set n = n + 1 where id = 1; select nextval('a.s')", 5);
            const looker = busy(reader, 'execute look; select * from a.u', 5);
            const { code } = await dba.attempt(call(roles, ", max_wait => '50 s', max_block => '5 s'"));
            const [written, read] = [await writer.stop(), await looker.stop()];
            expect(code).toMatch(/^(ok|55P03)$/); // tables that are never free at once are not what this is about
            expect([...written.errors, ...read.errors]).toEqual([]);
            expect((await app.run('execute look'))[0]?.count).toBe(3 + written.done);
        }), 90_000);
});

test('what an event trigger takes back at once is NS015, and nothing is changed', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        await dba.run(`${small(roles)}; create function public.back() returns event_trigger language plpgsql as $$ begin
                if (select relowner <> 10 from pg_class where oid = 'a.t'::regclass) then execute 'alter table a.t owner to ' || 10::regrole; end if; end $$;
            create event trigger back on ddl_command_end when tag in ('ALTER TABLE') execute function public.back()`);
        const before = await dba.run(owners);
        const { message, hint } = expectError(await dba.attempt(call(roles)), 'NS015');
        expect(message).toContain('owner of table a.t');
        expect(hint).not.toBe('');
        expect(await dba.run(owners)).toEqual(before);
    }));

test('pg-ensure run runs the plan to its end, and a second run has nothing to do', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        await dba.run(`${everything}; create role "${roles.role('app')}"`);
        const plan = `select * from ensure.plan_owner_v1('${roles.role('app')}', '{a}')`;
        expect((await runToEnd(roles.database.admin, plan)).code).toBe(0);
        expect(await dba.run(call(roles))).toEqual(exists);
        expect(await runToEnd(roles.database.admin, plan)).toMatchObject({ code: 0, document: { outcome: 'nothing to do' } });
    }), 60_000);

test('everything that everything has changes hands under load by 8 callers at once, without an error', () =>
    withRoles(['dba'], async ({ dba }, roles) => {
        await dba.run(`${everything}; create role "${roles.role('app')}"`);
        const names = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8'] as const;
        await withSessions(roles.database.admin, names, async (sessions) => {
            const outcomes = await Promise.all(names.map((name) => sessions[name].attempt(call(roles, ", max_wait => '50 s'"))));
            expect(outcomes.map(({ code }) => code)).toEqual(names.map(() => 'ok'));
            expect(outcomes.filter(({ rows }) => rows[0]?.outcome === 'altered')).toHaveLength(1);
        });
    }), 90_000);
