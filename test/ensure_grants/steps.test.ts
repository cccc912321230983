import { describe, expect, test } from 'vitest';
import type { Session, Step } from '../../scripts/harness/sessions.js';
import { isolationLevels } from '../../scripts/harness/stampede.js';
import { expectError, major } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { until } from '../until.js';
import { done, ensure, withGiven, type Who } from './given.js';

/** One object of each catalog, and a call that changes its row. */
const rows: Record<string, { call: (who: Who, more?: string) => string; plain: (who: Who) => string; done: string }> = {
    'a table': { call: ({ app }) => ensure(app, 'references', '', 'more'), plain: ({ app }) => `grant references on more.t to ${app}`, done: 'REFERENCES on table more.t for role app' },
    'a schema': { call: ({ app }) => ensure(app, 'create', '', 'more'), plain: ({ app }) => `grant create on schema more to ${app}`, done: 'CREATE on schema more for role app' },
    'a function': { call: ({ app }) => ensure(app, 'execute', '', 'more'), plain: ({ app }) => `grant execute on function more.f to ${app}`, done: 'EXECUTE on routine more.f() for role app' },
    'a type': { call: ({ app }) => ensure(app, 'types', '', 'more'), plain: ({ app }) => `grant usage on type more.e to ${app}`, done: 'USAGE on type more.e for role app' },
    'the database': { call: ({ app }) => ensure(app, 'connect', '', ''), plain: ({ app }) => `do $$ begin execute format('grant connect on database %I to ${app}', current_database()); end $$`, done: 'CONNECT on database' },
    'a column': { call: ({ app }) => ensure(app, 'usage', "'{}', 'exact'", 'more'), plain: ({ app }) => `revoke select (a) on more.t from ${app}`, done: 'SELECT (a) on table more.t for role app' },
    'default privileges that are new': { call: ({ app, other }) => ensure(app, 'types', `'{${other}}'`, 'new'), plain: ({ app, other }) => `alter default privileges for role ${other} in schema new grant usage on types to ${app}`, done: 'USAGE on future types of role other in schema new for role app' },
    'default privileges that there are': { call: ({ app, other }) => ensure(app, 'references', `'{${other}}'`, 'new'), plain: ({ app, other }) => `alter default privileges for role ${other} in schema new grant references on tables to ${app}`, done: 'REFERENCES on future tables of role other in schema new for role app' },
};
const setup = ({ app, other }: Who): string => `create table more.t (a int); create function more.f() returns int language sql as 'select 1'; create type more.e as enum (); create schema new;
    grant usage on schema more, new to ${app}; grant select (a) on more.t to ${app}; alter default privileges for role ${other} in schema new grant select on tables to ${app}`;
const given = (body: Parameters<typeof withGiven<'a' | 'b' | 'c'>>[1]): Promise<void> => withGiven(['a', 'b', 'c'], async (sessions, who, roles) => {
    await sessions.dba.run(setup(who));
    await body(sessions, who, roles);
}, { empty: true });

describe('a second caller waits for the row of the first, then finds that it is so', () => {
    test.each(Object.keys(rows))('%s', (what) => given(async ({ a, b }, who, roles) => {
        const { call, done: change } = rows[what] as (typeof rows)[string];
        await a.run('begin');
        expect((await done(a, call(who), roles))[0]).toContain(change);
        const second = b.start(call(who));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['exists']);
    }));

    test.each(Object.keys(rows))('negative control: plain statements, %s: an error in the same two steps', (what) => given(async ({ a, b }, who) => {
        const { plain } = rows[what] as (typeof rows)[string];
        await a.run('begin');
        await a.run(plain(who));
        const second = b.start(plain(who));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).code).toBe(what === 'default privileges that are new' ? '23505' : 'XX000');
    }));

    test.each(isolationLevels)('%s, in a transaction whose snapshot is older: no error, and it is so', (isolation) => given(async ({ a, b, c }, who, roles) => {
        const { call } = rows['a table'] as (typeof rows)[string];
        for (const one of [a, b]) await one.run(`begin isolation level ${isolation}`);
        await b.run('select 1 from pg_class limit 1');
        await a.run(call(who));
        const second = b.start(call(who));
        await second.blockedBy(a);
        await a.run('commit');
        // With the old snapshot it cannot see what the first made, and makes it again.
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual([isolation === 'read committed' ? 'exists' : 'granted']);
        await b.run('commit');
        expect(await done(c, call(who), roles)).toEqual(['grants of role app exists']);
    }));

    test.each(Object.keys(rows))('%s, that a plain statement has written', (what) => given(async ({ a, b }, who) => {
        const { call, plain } = rows[what] as (typeof rows)[string];
        await a.run('begin');
        await a.run(plain(who));
        const second = b.start(call(who));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['exists']);
    }));

    test('negative control: without the loop XX000 comes back', () => given(async ({ a, b, dba }, who) => {
        await withoutGuard(dba, '_settle_changes_v1', /when internal_error then.*\n\s+get/, 'when internal_error then raise; get');
        const { call, plain } = rows['a table'] as (typeof rows)[string];
        await a.run('begin');
        await a.run(plain(who));
        const second = b.start(call(who));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).code).toBe('XX000');
    }));

    test('makes it when the first rolls back', () => given(async ({ a, b }, who) => {
        const { call } = rows['a schema'] as (typeof rows)[string];
        await a.run('begin');
        await a.run(call(who));
        const second = b.start(call(who));
        await second.blockedBy(a);
        await a.run('rollback');
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted']);
    }));

    /** b has looked and is held just before its GRANT. */
    const heldBeforeGrant = (prepare: (dba: Session) => Promise<void>, body: (sessions: Record<'b' | 'c' | 'dba', Session>, call: string, first: Step) => Promise<void>): Promise<void> => given(async ({ b, c, dba }, who) => {
        await prepare(dba);
        await dba.run(`create function more.hold() returns event_trigger language plpgsql as $$ begin
                if current_setting('application_name') like '%b' then perform pg_advisory_xact_lock(77); end if; end $$;
            create event trigger hold on ddl_command_start execute function more.hold(); select pg_advisory_lock(77)`);
        const call = ensure(who.app, 'create', "max_wait => '60 s', max_block => '60 s'", 'more');
        const first = b.start(call);
        await first.blockedBy(dba);
        await body({ b, c, dba }, call, first);
    });

    test('one that has looked is the only one at work: who comes then waits for it, and finds it made', () => heldBeforeGrant(() => Promise.resolve(), async ({ b, c, dba }, call, first) => {
        const second = c.start(call);
        await second.blockedBy(b);
        await dba.run('select pg_advisory_unlock(77)');
        expect((await first.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted']);
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['exists']);
    }));

    test('negative control: without taking turns both say that they granted it', () => heldBeforeGrant((dba) => withoutGuard(dba, '_make_changes_v1', 'v_turn := ensure._take_turn_v1(v_changes, first_wait, until)', 'v_turn := false'), async ({ c, dba }, call, first) => {
        expect((await c.run(call)).map(({ outcome }) => outcome)).toEqual(['granted']);
        await dba.run('select pg_advisory_unlock(77)');
        expect((await first.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted']);
    }));

    test.each(['', 'create table written (); '])('the turn is held until the end of the transaction: %s', (first) => given(async ({ b }, who) => {
        await b.run(`begin; ${first}${ensure(who.app, 'create', '', 'more')}`);
        const held = `select count(*)::int as n from pg_locks where locktype = 'advisory' and classid = 1162760020 and pid = ${b.pid}`;
        expect(await b.run(held)).toEqual([{ n: 1 }]);
        await b.run('commit');
        expect(await b.run(held)).toEqual([{ n: 0 }]);
    }));

    test('a stranger who holds that lock makes a call late by max_wait, and it works', () => given(async ({ b, dba }, who) => {
        await dba.run(`select pg_advisory_lock(1162760020, hashtext('CREATE on schema more for role ${who.app}'))`);
        const call = b.start(ensure(who.app, 'create', "max_wait => '1 s'", 'more'));
        await call.blockedBy(dba);
        expect((await call.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted']);
    }));

    test('with another grantee it keeps what the first gave', () => given(async ({ a, b, c }, who, roles) => {
        await a.run('begin');
        await a.run(ensure(who.app, 'references', '', 'more'));
        const second = b.start(ensure(who.else, 'references', '', 'more'));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted', 'granted']);
        for (const one of ['app', 'else'] as const) expect(await done(c, ensure(who[one], 'references', '', 'more'), roles)).toEqual([`grants of role ${one} exists`]);
    }));
});

describe('what goes while a call waits', () => {
    test('a table that is dropped is no error, and not in the answer', () => given(async ({ a, b, dba }, who) => {
        await dba.run('create table more.u (a int)');
        await a.run('begin');
        await a.run('drop table more.t');
        const call = b.start(ensure(who.app, 'references', '', 'more'));
        await call.blockedBy(a);
        await a.run('commit');
        expect((await call.outcome()).rows).toEqual([{ object: `REFERENCES on table more.u for role ${who.app}`, outcome: 'granted' }]);
    }));

    test('a table that is dropped after the snapshot of a REPEATABLE READ transaction', () => given(async ({ a, b }, who) => {
        await b.run('begin isolation level repeatable read');
        await b.run('select 1 from pg_class limit 1');
        await a.run('drop table more.t; drop function more.f(); drop type more.e');
        expect((await b.run(ensure(who.app, 'references,execute,types', '', 'more'))).map(({ outcome }) => outcome)).toEqual(['exists']);
    }));

    describe.each(['repeatable read', 'serializable'])('%s: what was revoked since the snapshot', (isolation) => {
        const cases = ['a table', 'a schema'].flatMap((what) => [[what, 'is granted again', true], [what, 'negative control: by the snapshot alone it seems to be held', false]] as const);
        test.each(cases)('%s: %s', (what, _text, guarded) => given(async ({ a, b, dba }, who) => {
            const { call, plain, done: granted } = rows[what] as (typeof rows)[string];
            if (!guarded) await withoutGuard(dba, '_differing_privileges_v1', "current_setting('transaction_isolation') = 'read committed'", 'true');
            await b.run(call(who));
            await b.run(`begin isolation level ${isolation}; select 1 from pg_class, pg_namespace limit 1`);
            await a.run(plain(who).replace('grant ', 'revoke ').replace(' to ', ' from '));
            const [row] = await b.run(call(who));
            expect(`${String(row?.object)} ${String(row?.outcome)}`.replaceAll(who.app, 'app')).toBe(guarded ? `${granted} granted` : 'grants of role app exists');
            await b.run('commit');
            expect((await dba.run(call(who))).map(({ outcome }) => outcome)).toEqual([guarded ? 'exists' : 'granted']);
        }));
    });

    test('negative control: without the look whether it is there still, 42P01', () => given(async ({ a, b, dba }, who) => {
        await withoutGuard(dba, '_diff_privileges_v1', 'where c.holds is not null', 'where true');
        await b.run('begin isolation level repeatable read');
        await b.run('select 1 from pg_class limit 1');
        await a.run('drop table more.t');
        expect((await b.attempt(ensure(who.app, 'references', '', 'more'))).code).toBe('42P01');
    }));

    test('a grantee that is dropped: 42704', () => given(async ({ a, b, dba }, _who, { role }) => {
        await dba.run(`create role ${role('short')}`);
        await a.run('begin');
        await a.run(`drop role ${role('short')}`);
        const call = b.start(ensure(role('short'), 'create', '', 'new'));
        await call.blockedBy(a);
        await a.run('commit');
        expect(expectError(await call.outcome(), '42704').hint).toContain('Ensure it first');
    }));

    test('a schema that is dropped: 3F000', () => given(async ({ a, b }, who) => {
        await a.run('begin');
        await a.run('drop schema new');
        const call = b.start(ensure(who.app, 'create', '', 'new'));
        await call.blockedBy(a);
        await a.run('commit');
        expectError(await call.outcome(), '3F000');
    }));
});

describe('polite', () => {
    test('a winner that never commits: 55P03 after max_wait names it', () => given(async ({ a, b }, who) => {
        for (const [what, { call, done: change }] of Object.entries(rows)) {
            await a.run('begin');
            await a.run(call(who));
            const statement = call(who).replace(/\)$/, ", max_wait => '100 ms', max_block => '50 ms')");
            const { message, detail, hint } = expectError(await b.attempt(statement), '55P03');
            expect(message, what).toContain(change.replace('role app', `role ${who.app}`).replace('role other', `role ${who.other}`));
            expect(detail, what).toMatch(new RegExp(`In the way: (.*; )?pid ${a.pid}, role .*idle in transaction`));
            expect(hint).toContain('max_wait');
            await a.run('rollback');
        }
    }));

    test('a prepared one is named too', () => given(async ({ a, b }, who) => {
        const { call } = rows['a table'] as (typeof rows)[string];
        await a.run('begin');
        await a.run(call(who));
        await a.run("prepare transaction 'given'");
        const { detail } = expectError(await b.attempt(call(who).replace(/\)$/, ", max_wait => '100 ms', max_block => '50 ms')")), '55P03');
        await b.run("rollback prepared 'given'");
        expect(detail).toContain("prepared transaction 'given'");
    }));

    test('negative control: GRANT leaves no lock on the catalog, so who holds it is found by its rows', () => given(async ({ a, b, dba }, who) => {
        await withoutGuard(dba, '_pause_v1', /v_holders := nullif\(concat_ws\(.*\);/, 'null;');
        const { call } = rows['a schema'] as (typeof rows)[string];
        await a.run('begin');
        await a.run(call(who));
        const { detail } = expectError(await b.attempt(call(who).replace(/\)$/, ", max_wait => '100 ms', max_block => '50 ms')")), '55P03');
        expect(detail).not.toContain(`pid ${a.pid}`);
    }));

    test('a caller that has written does not wait: NS003', () => given(async ({ a, b, dba }, who) => {
        await dba.run('create table w (a int)');
        await a.run('begin');
        await a.run(ensure(who.app, 'references', '', 'more'));
        for (const first of ['insert into w values (1)', ensure(who.app, 'create', '', 'new')]) { // a grant too is a write
            await b.run('begin');
            await b.run(first);
            const { hint } = expectError(await b.attempt(ensure(who.app, 'references', '', 'more')), 'NS003');
            expect(hint).toContain('before the first write');
            await b.run('rollback');
        }
    }));

    test('negative control: who counts only locks waits after a grant, while others wait for that', () => given(async ({ a, b, dba }, who) => {
        await withoutGuard(dba, '_settle_changes_v1', 'or pg_current_xact_id_if_assigned() is not null', '');
        await a.run('begin');
        await a.run(ensure(who.app, 'references', '', 'more'));
        await b.run('begin');
        await b.run(ensure(who.app, 'create', '', 'new'));
        const second = b.start(ensure(who.app, 'references', '', 'more'));
        await second.blockedBy(a);
        await a.run('rollback');
        expect((await second.outcome()).code).toBe('ok');
    }));

    test('lock_timeout is what it was, whatever the call comes to', () => given(async ({ a, b }, who) => {
        await b.run("set lock_timeout = '7s'");
        await b.run(ensure(who.app, 'references', '', 'more'));
        await a.run('begin');
        await a.run(ensure(who.app, 'create', '', 'more'));
        expectError(await b.attempt(ensure(who.app, 'create', "max_wait => '50 ms', max_block => '20 ms'", 'more')), '55P03');
        expect(await b.run('show lock_timeout')).toEqual([{ lock_timeout: '7s' }]);
    }));

    test('a table that is locked in ACCESS EXCLUSIVE mode: before 18 no wait; on 18 up to max_wait, and 55P03 names who holds it', () => given(async ({ a, b }, who) => {
        await a.run('begin; lock table more.t in access exclusive mode');
        const statement = ensure(who.app, 'references', "max_wait => '100 ms', max_block => '50 ms'", 'more');
        if (major < 18) {
            expect((await b.run(statement)).map(({ outcome }) => outcome)).toEqual(['granted']);
            return;
        }
        const { detail } = expectError(await b.attempt(statement), '55P03');
        expect(detail).toContain(`pid ${a.pid}, `);
        expect(detail).toContain('(AccessExclusiveLock on more.t)');
        const second = b.start(ensure(who.app, 'references', '', 'more'));
        await second.blockedBy(a);
        await a.run('commit');
        expect((await second.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted']);
    }));

    test('negative control: without what the statement reads, the lock is not named on 18', () => given(async ({ a, b, dba }, who) => {
        if (major < 18) return;
        await withoutGuard(dba, '_make_changes_v1', 'coalesce(v_change.relation, v_change.reads)', 'v_change.relation');
        await a.run('begin; lock table more.t in access exclusive mode');
        expect(expectError(await b.attempt(ensure(who.app, 'references', "max_wait => '100 ms', max_block => '50 ms'", 'more')), '55P03').detail)
            .not.toContain('AccessExclusiveLock');
    }));

    test('a second table that is locked on 18 is waited for by pauses, and taken when it is free', () => given(async ({ a, b, c, dba }, who) => {
        if (major < 18) return;
        await dba.run('create table more.u (a int)');
        await a.run('begin; lock table more.u in access exclusive mode');
        const call = b.start(ensure(who.app, 'references', '', 'more'));
        await until('b has tried', async () => (await c.run(`select wait_event = 'PgSleep' as pauses from pg_stat_activity where pid = ${b.pid}`))[0]?.pauses === true);
        await a.run('commit');
        expect((await call.outcome()).rows.map(({ outcome }) => outcome)).toEqual(['granted', 'granted']);
    }));
});
