import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, type TestContext } from 'vitest';
import { defaultMajor } from '../../scripts/embedded.js';
import { UserError } from '../../scripts/errors.js';
import { race, type Part, type Wanted } from '../../scripts/race/race.js';
import { readSpec, type Spec } from '../../scripts/race/spec.js';
import { buckets, parsedOrder } from '../../scripts/race/text.js';
import { major } from '../context.js';
import { placeOf } from './place.js';

let folder: string;
beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'pg-ensure-race-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function written(text: string | object, name = typeof text === 'string' ? 'spec.sql' : 'spec.json'): string {
    const file = join(folder, name);
    writeFileSync(file, typeof text === 'string' ? text : JSON.stringify(text));
    return file;
}

const specOf = (text: string | object): Spec => readSpec(written(text));

/** Races on the server of this run, each spec in databases of its own. */
const raced = (context: TestContext, text: string | object, wanted: Partial<Wanted> = {}): Promise<Part[]> => race(
    specOf(text), { orders: 1000, seed: 1, ...wanted },
    placeOf(context),
);
const pg = String(major) === defaultMajor ? '' : `PG=${major} `;
const failures = (parts: Part[]): (string | undefined)[] => parts.map(({ section }) => section.failure);

/** Two sessions that each add one to what they have read. */
const lost = `-- race: prepare
create table counters (n int);
insert into counters values (0);
create function add_one() returns int language plpgsql as $$
declare
    v_n int;
begin
    select c.n + 1 into v_n from counters as c;
    update counters set n = v_n;
    return v_n;
end $$
-- race: setup
update counters set n = 0
-- race: session a
select add_one()
-- race: session b
select add_one()
-- race: invariant both are counted
select n = 2 from counters
`;

describe('orders', () => {
    test('of whole steps none loses what was added; inside of the function one does, and fails again as it is printed', async (context) => {
        const [whole] = await raced(context, lost);
        expect(whole?.text).toBe('2 orders, all there are, read committed: none fails');
        const [opened] = await raced(context, lost, { inside: /add_one/ });
        expect(opened?.text).toMatch(/stopped at 3 statements of 1 function: one fails/);
        expect(opened?.text).toContain('invariant "both are counted": does not hold: false');
        const [, inside = '', order = ''] = new RegExp(`^again: ${pg}npx pg-ensure race \\S+ --inside (\\S+) --isolation 'read committed' --order '(.*)'$`, 'm').exec(opened?.text ?? '') ?? [];
        const [replayed] = await raced(context, `${lost}-- race: order ${order}`, { inside: new RegExp(inside) });
        expect(replayed?.section.failure).toBe('"both are counted" does not hold: false');
        expect(replayed?.text).toMatch(/^1 order, read committed/);
    });

    test('a level of the spec or of the call: under REPEATABLE READ the second is refused, which the spec allows or does not', async (context) => {
        const [refused] = await raced(context, `${lost}-- race: isolation repeatable read`, { inside: /add_one/ });
        expect(refused?.section.failure).toMatch(/ended with 40001/);
        const allowed = await raced(context, `${lost.replace('n = 2', 'n in (1, 2)')}-- race: allow 40001`, {
            inside: /add_one/, switches: 2, isolation: ['read committed', 'repeatable read', 'serializable'],
        });
        expect(allowed.map(({ text }) => text)).toEqual([
            expect.stringMatching(/all there are with at most 2 switches, read committed, stopped at 3/),
            expect.stringMatching(/repeatable read/), expect.stringMatching(/serializable/),
        ]);
        expect(failures(allowed)).toEqual([undefined, undefined, undefined]);
    });

    test('JSON in: the same spec; JSON out: the order, its events', async (context) => {
        const [part] = await raced(context, {
            prepare: ['create table t (id int)'], teardown: ['truncate t'],
            sessions: [
                { name: 'a', steps: ['begin', { name: 'add', sql: 'insert into t select {client} where not exists (select from t)' }, 'commit'] },
                { name: 'b', steps: ['insert into t select {client} where not exists (select from t)'] },
            ],
            invariants: [{ name: 'one row', query: 'select count(*) = 1 from t' }],
        });
        expect(part?.json).toMatchObject({ mode: 'stepped', failure: '"one row" does not hold: false', failed: { order: 'a*2 b a' } });
        expect((part?.json.failed as { events: object[] }).events).toContainEqual(expect.objectContaining({ session: 0, what: 'end', text: 'add', open: true }));
    });

    const emptied = (invariant: string): string => `-- race: prepare
create table t (id int primary key)
-- race: teardown
truncate t
-- race: session a
-- race: step add
insert into t values (1)
-- race: step take away
delete from t
-- race: session b
-- race: step begin
begin
-- race: step add twice
insert into t values (2), (2)
-- race: step never
insert into t values (3)
-- race: allow 23505
-- race: ${invariant} empty
select count(*) = 0 from t
`;
    test('what must always be true is asked after each turn; a failed step ends its session, whose transaction is rolled back', async (context) => {
        expect(failures(await raced(context, emptied('invariant')))).toEqual([undefined]);
        const [always] = await raced(context, emptied('always'));
        expect(always?.section.failure).toMatch(/"empty" does not hold: false, after \d turns/);
    });

    test('a deadlock between steps is found as one', async (context) => {
        const session = (name: string, first: number, second: number): string => `-- race: session ${name}
-- race: step begin
begin
-- race: step first
update t set n = n + 1 where id = ${first}
-- race: step second
update t set n = n + 1 where id = ${second}
-- race: step commit
commit
`;
        const [part] = await raced(context, `-- race: prepare
create table t (id int primary key, n int)
-- race: prepare
insert into t values (1, 0), (2, 0)
${session('a', 1, 2)}${session('b', 2, 1)}`, { seed: 3 });
        expect(part?.section.failure).toMatch(/ended with 40P01: deadlock detected/);
    });

    test('each order begins with sessions that are as new: no setting, no lock is left of the one before', async (context) => {
        const [part] = await raced(context, `-- race: session a
-- race: step first
do $$ begin if current_setting('statement_timeout') <> '0' or not pg_try_advisory_lock(1) then raise 'left behind'; end if; end $$
-- race: step last
set statement_timeout to '1h'
-- race: session b
select 1
-- race: invariant no lock of the owner's
select not exists (select from pg_locks where locktype = 'advisory' and objid = 1 and pid = pg_backend_pid())
-- race: setup
do $$ begin if not pg_try_advisory_lock(1) then raise 'left behind'; end if; perform pg_advisory_unlock(1); end $$
`);
        expect(part?.text).toBe('3 orders, all there are, read committed: none fails');
    });

    test('what must always be true is not asked where a step has locked it; who waits for a snapshot that is safe is seen to wait', async (context) => {
        const [locked] = await raced(context, `-- race: prepare
create table t (id int)
-- race: session a
-- race: step begin
begin
-- race: step lock
lock table t
-- race: always empty
select count(*) = 0 from t
-- race: session b
select 1
-- race: order a*2 b
`);
        // At the end too it is locked, by a session that has not committed.
        expect(locked?.section.failure).toBe('"empty" does not hold: canceling statement due to lock timeout');
        const [waits] = await raced(context, `-- race: prepare
create table t (id int)
-- race: session a
-- race: step begin
begin isolation level serializable; insert into t values (1)
-- race: step commit
commit
-- race: session b
begin isolation level serializable read only deferrable; select count(*) from t; commit
-- race: order a b a
`);
        expect(waits?.text).toBe('1 order, as asked, read committed: none fails');
        expect(waits?.section.lanes[1]?.spans.map(({ text }) => text)).toContain('waits for a');
    });

    test('steps of one name are each told as they were sent; COPY with the client is an error, not a wait', async (context) => {
        const [part] = await raced(context, `-- race: prepare
create table t (id int)
-- race: session a
-- race: step same
select {client}
-- race: step same
copy t to stdout
-- race: session b
copy t from stdin
`);
        expect(part?.text).toMatch(/^a: same: select 0$[^]*^a: same: copy t to stdout$/m);
        expect(part?.section.failure).toMatch(/ended with 0A000: COPY/);
    });

    test('labels, DDL, types of the spec, quotes in names and parallel plans: a function is opened at each statement', async (context) => {
        const [part] = await raced(context, `-- race: prepare
create table t (id int); insert into t values (1); create type mood as enum ('good');
create function "it's"() returns mood language plpgsql stable parallel safe as $$
declare
    v_row public.t%rowtype;
begin
    <<each>>
    for v_row in select * from t loop
        v_row.id := /* then */ 2;
        continue each;
    end loop;
    /* a comment
       of two lines; */
    return 'good';
end $$;
create procedure ddl() language plpgsql as $$
begin
    lock table t;
    truncate t; -- don't
    alter table t
        add c int;
    commit;
    ${major < 15 ? 'notify t' : 'merge into t using (select 1 as one) as s on id = one when not matched then insert values (1)'};
end $$
-- race: session a
-- race: step parallel
set ${major < 16 ? 'force_parallel_mode' : 'debug_parallel_query'} to on; set parallel_setup_cost to 0
-- race: step select
select "it's"()
-- race: step call
call ddl()
`, { inside: /it's|ddl/ });
        expect(part?.text).toBe('1 order, all there are, read committed, stopped at 9 statements of 2 functions: none fails');
        expect(part?.section.lanes[0]?.spans.map(({ text }) => text).filter((text) => text.includes(':'))).toEqual(
            ['it\'s:6', 'it\'s:7', 'it\'s:8', 'it\'s:12', 'ddl:3', 'ddl:4', 'ddl:5', 'ddl:7', 'ddl:8']);
    });

    test.for<[string, string, number]>([
        ['of one line', 'begin if not exists (select from c where n = 1) then insert into c values (1); end if; end', 2],
        ['of one line, with a declaration', 'declare v int; w int; begin select count(*) into v from c; if v = 0 then insert into c values (1); end if; end', 3],
        ['behind a string with a backslash', "begin perform E'it\\'s'; if not exists (select from c where n = 1) then\n insert into c values (1); end if; end", 3],
        ['behind what looks like statements', 'begin perform case when true then 1 else 2 end; -- ; loop\n merge_it := 1; if not exists (select from c where n = 1) then insert into c values (1); end if; end'.replace('begin', 'declare merge_it int; begin'), 4],
    ])('a race between two statements %s is found, none is without a pause', async ([, body, statements], context) => {
        const spec = `-- race: prepare\ncreate table c (n int primary key);\ncreate function f() returns void language plpgsql as $$ ${body} $$
-- race: setup\ntruncate c\n-- race: session a\nselect f()\n-- race: session b\nselect f()\n-- race: invariant one\nselect count(*) = 1 from c`;
        const [part] = await raced(context, spec, { inside: /^f$/ });
        expect(part?.section.failure).toMatch(/ended with 23505/);
        expect(part?.json).toMatchObject({ opened: { functions: 1, statements, notes: [] } });
    });

    test('what has no pause is said, and the orders are not all there are; what is opened anew is counted once', async (context) => {
        const functions = `create or replace function loops() returns int language plpgsql as $$ declare v int; begin select t.loop into v from t; return v; end $$;
create or replace function other() returns int language sql as 'select 1'`;
        const [part] = await raced(context, `-- race: prepare\ncreate table t (loop int)\n-- race: setup\n${functions}\n-- race: session a\nselect loops(), other()`, { inside: /^(loops|other)$/ });
        expect(part?.text).toMatch(/^1 order, all but those of what is not opened, read committed, stopped at 1 statement of 1 function: none fails\nnot opened: public\.other \(it is of language sql\)\nno pause before 1 statement of public\.loops, in line 1$/);
        expect(part?.json).toMatchObject({ complete: false, opened: { notes: [expect.any(String), expect.any(String)] } });
        await expect(raced(context, `-- race: setup\n${functions}\n-- race: session a\nselect other()`, { inside: /^other$/ })).rejects.toThrow(/opened matches --inside \^other\$; not opened: public\.other/);
    });

    test('an order that is asked for and cannot be followed has failed', async (context) => {
        const [part] = await raced(context, `${lost}-- race: order a*2 b*3 a`);
        expect(part?.section.failure).toBe('the order "a*2 b*3 a" was not followed: at turn 2 a could not go on: is --inside missing?');
    });

    test('a query that is not one true is none: two columns of one name, several rows, several statements, null, an error', async (context) => {
        for (const [query, found] of [['select false, true', '[[false,true]]'], ['select true from generate_series(1, 2)', '[[true],[true]]'], ['select', '[[]]'],
            ['select true; select true', 'several statements, not one query'], ['select null::boolean', 'null'], ['select 1/0 = 1', 'division by zero']]) {
            const [part] = await raced(context, `-- race: session a\nselect 1\n-- race: invariant i\n${query}\n`);
            expect(part?.section.failure).toBe(`"i" does not hold: ${found}`);
        }
    });

    test('a query that is none, or writes, is an error of the spec; control: one that reads the same is asked', async (context) => {
        const asking = (query: string): Promise<Part[]> => raced(context, `-- race: setup
create table if not exists asked (n int); truncate asked; insert into asked values (1)
-- race: session a\nselect 1\n-- race: invariant i\n${query}\n-- race: invariant unchanged\nselect n = 1 from asked\n`);
        await expect(asking('selec true')).rejects.toThrow('invariant "i" cannot be run: syntax error at or near "selec"');
        await expect(asking('update asked set n = 7 returning true')).rejects.toThrow('invariant "i" writes (cannot execute UPDATE in a read-only transaction): a query must tell');
        await expect(asking('create table hacky (i int)')).rejects.toThrow(/"i" writes/);
        expect((await asking('select n < 7 from asked'))[0]?.section).toMatchObject({ failure: undefined, invariants: [{ holds: true }, { holds: true }] });
    });

    test('of clients at once too; and each code that failed is told', async (context) => {
        const crowd = { stampede: true, clients: 2, rounds: 1 };
        const sessions = "-- race: session a\nselect 1/0\n-- race: session b\nselect 'x'::int\n";
        await expect(raced(context, `${sessions}-- race: invariant i\nselec true\n`, crowd)).rejects.toThrow('invariant "i" cannot be run');
        const [part] = await raced(context, `${sessions}-- race: invariant i\nselect false\n`, crowd);
        expect(part?.section.failure?.split('; ').sort()).toEqual(['"i" does not hold in round 0: false', '1 of 2 calls ended with 22012: division by zero',
            '1 of 2 calls ended with 22P02: invalid input syntax for type integer: "x"']);
    });

    test('who is waited for when nothing moves is told to have left its transaction open', async (context) => {
        const [part] = await raced(context, `-- race: setup
create table if not exists kept (n int primary key)
-- race: session a\nbegin; insert into kept values (1)\n-- race: session b\ninsert into kept values (1)\n`, { timeout: 1 });
        expect(part?.section.failure).toBe('nothing has moved for 1 s: a is done, its transaction open, b is waiting');
    });

    test('a function that rolls back to a savepoint, or has a lock_timeout, stops at every statement nevertheless', async (context) => {
        const [part] = await raced(context, `-- race: prepare
create function f() returns int language plpgsql set lock_timeout = 1 as $$
begin
    begin
        perform 1;
        raise division_by_zero;
    exception when division_by_zero then
        perform 2;
    end;
    return 3;
end $$
-- race: session a
select f()
`, { inside: /^f$/ });
        expect(part?.text).toBe('1 order, all there are, read committed, stopped at 4 statements of 1 function: none fails');
        expect(part?.section.lanes[0]?.spans.map(({ text }) => text).filter((text) => text.startsWith('f:'))).toEqual(['f:4', 'f:5', 'f:7', 'f:9']);
    });
});

test.for([
    ['setup makes the function anew', (spec: string): string => spec.replace('set n = 0', `set n = 0; ${
        /create function add_one[^]*?end \$\$/.exec(spec)?.[0].replace('create', () => 'create or replace').replaceAll('$$', () => '$$$$') ?? ''}`)],
    ['a step resets all settings', (spec: string): string => spec.replaceAll('select add_one()', 'reset all; select add_one()')],
] as const)('%s: it is stopped at inside nevertheless', async ([, change], context) => {
    const text = change(lost);
    expect(text).not.toBe(lost);
    const [part] = await raced(context, text, { inside: /add_one/ });
    expect(part?.text).toMatch(/stopped at \d+ statements/);
    expect(part?.section.failure).toBe('"both are counted" does not hold: false');
});

describe('clients at once', () => {
    /** Each holds one lock until both hold theirs, then asks for the other's: in each round one of the two is refused. */
    const deadlock = (body: string): string => `-- race: prepare
create function meet(client int) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock(7, client);
    perform pg_advisory_xact_lock_shared(8, client);
    while (select count(*) < 2 from pg_locks where locktype = 'advisory' and classid = 8
           and database = (select oid from pg_database where datname = current_database())) loop
    end loop;
    ${body}
end $$
-- race: session a
select meet({client})
-- race: clients 2
-- race: rounds 3
`;

    test('deadlocks are counted, those too that a function handles itself and no caller sees', async (context) => {
        const [seen] = await raced(context, deadlock('perform pg_advisory_xact_lock(7, 1 - client);'), { stampede: true });
        expect(seen?.json).toMatchObject({ deadlocks: 3, codes: { ok: 3, '40P01': 3 } });
        expect(seen?.section.failure).toContain('3 of 6 calls ended with 40P01');
        const handled = 'begin perform pg_advisory_xact_lock(7, 1 - client); exception when deadlock_detected then end;';
        const [hidden] = await raced(context, deadlock(handled), { stampede: true });
        expect(hidden?.json).toMatchObject({ deadlocks: 3, codes: { ok: 6 } });
        expect(hidden?.section.failure).toBeUndefined();
    });

    test('text has outcomes, percentiles, a histogram, waits and invariants for each level and way to connect', async (context) => {
        const spec = `${lost.replaceAll('n = 2', 'n > 0')}-- race: allow 40001\n-- race: clients 4\n-- race: rounds 2\n-- race: connect direct pooler`;
        const parts = await raced(context, spec, { stampede: true, isolation: ['serializable', 'read committed'] });
        expect(parts.map(({ text }) => text.split('\n')[0])).toEqual([
            '4 clients, 2 rounds, serializable, direct: 8 calls', '4 clients, 2 rounds, serializable, through PgBouncer: 8 calls',
            '4 clients, 2 rounds, read committed, direct: 8 calls', '4 clients, 2 rounds, read committed, through PgBouncer: 8 calls',
        ]);
        expect(failures(parts)).toEqual(parts.map(() => undefined));
        for (const { text, section } of parts) {
            expect(text.match(/deadlocks: 0|invariant "both are counted": holds in 2 rounds|half to [\d.]+, 95 of 100 to [\d.]+, the longest [\d.]+/g)).toHaveLength(3);
            expect([section.lanes.length, section.milliseconds.length]).toEqual([4, 8]);
        }
        const [alone] = await raced(context, spec, { stampede: true, clients: 1, rounds: 1, connect: ['direct'] });
        expect(alone?.text).toContain('1 clients, 1 rounds, read committed, direct: 1 calls\n  ok: 1\n');
    });

    test('what a client leaves open is rolled back before the next round; a level of a session is refused behind a pooler', async (context) => {
        const open = '-- race: prepare\ncreate table t (id int)\n-- race: setup\ntruncate t\n-- race: session a serializable\nbegin; insert into t values (1)\n';
        const [part] = await raced(context, open, { stampede: true, rounds: 2, clients: 2 });
        expect(part?.json).toMatchObject({ codes: { ok: 4 } });
        await expect(raced(context, open, { stampede: true, connect: ['pooler'] })).rejects.toThrow(/session a has an isolation level of its own/);
    });

    test('an invariant that does not hold is told with its round', async (context) => {
        const [part] = await raced(context, '-- race: session a\nselect 1\n-- race: invariant before the third\nselect {round} < 2\n', { stampede: true, rounds: 4, clients: 2 });
        expect(part?.section.failure).toBe('"before the third" does not hold in round 2: false');
    });
});

test('a byte order mark and CRLF are no part of a spec; a million calls have a histogram', () => {
    expect(specOf('\uFEFF-- race: setup\r\nselect 1\r\n-- race: session a serializable\r\nselect 2\r\n')).toMatchObject(
        { setup: ['select 1'], sessions: [{ name: 'a', isolation: 'serializable', steps: [{ sql: 'select 2' }] }] });
    expect(buckets(new Array<number>(1_000_000).fill(3))).toEqual([{ upTo: 4, count: 1_000_000 }]);
});

test('a file of migrations is included by what it does; what needs a superuser is run as one, all else as an owner who is none', async (context) => {
    written('-- migrate:up\ncreate table t (id int);\n-- migrate:down\ndrop table t;\n', '1_t.sql');
    const [part] = await raced(context, `-- race: include 1_t.sql
-- race: superuser
create schema made; create table made.by as select current_user::text as name; grant usage on schema made to public; grant select on made.by to public
-- race: session a
insert into t values (1)
-- race: invariant owner
select not rolsuper from pg_roles where rolname = current_user
-- race: invariant superuser
select rolsuper from pg_roles join made.by on name = rolname
`);
    expect(part?.text).toBe('1 order, all there are, read committed: none fails');
});

describe('what is wrong with a spec is one line', () => {
    const ok = '-- race: session a\nselect 1\n';
    test.each<[string, string | object, RegExp]>([
        ['no parts', 'select 1', /spec\.sql:1: no line begins with "-- race:"/],
        ['SQL before the first part', `select 1\n${ok}`, /spec\.sql:1: "select 1" is before the first/],
        ['a word that is none', `${ok}-- race: steps\nselect 1`, /spec\.sql:3: "steps" is none of superuser/],
        ['a line that is almost one', `${ok}  --race: session b\nselect 1`, /spec\.sql:3: "--race: session b" must be written/],
        ['a line in capitals', `${ok}-- RACE: session b\nselect 1`, /spec\.sql:3: "-- RACE: session b" must be written "-- race:"/],
        ['a first line in capitals', '-- Race: session b\nselect 1', /spec\.sql:1: "-- Race: session b" must be written "-- race:"/],
        ['a line that lacks its colon', `${ok}-- race session b\nselect 1`, /spec\.sql:3: "-- race session b" must be written "-- race:"/],
        ['SQL below a line that takes none', `${ok}-- race: allow 23505\nselect 1`, /spec\.sql:3: SQL follows "allow", which takes none/],
        ['a step without a session', '-- race: step\nselect 1', /spec\.sql:1: a step before the first/],
        ['a step without SQL', `${ok}-- race: step b\n-- nothing\n`, /spec\.sql:3: no SQL follows "step"/],
        ['a session without a step', '-- race: session a', /spec\.sql: session a has no step/],
        ['no session', '-- race: setup\nselect 1', /spec\.sql: it has no session/],
        ['two of one name', ok + ok, /two sessions are called a/],
        ['a name that is none', '-- race: session 1a\nselect 1', /"1a" is no name of a session/],
        ['a level that is none', '-- race: session a read\nselect 1', /"read" is no isolation level/],
        ['a SQLSTATE that is none', `${ok}-- race: allow 4001`, /"4001" is no SQLSTATE/],
        ['clients that are no number', `${ok}-- race: clients many`, /clients must be a whole number/],
        ['a way to connect that is none', `${ok}-- race: connect socket`, /"socket" is none of direct, pooler/],
        ['an order of others', `${ok}-- race: order a b`, /"b" in the order is none of a/],
        ['an order of nobody', `${ok}-- race: order`, /spec\.sql:3: nothing follows "order" in its line/],
        ['JSON where always is a word', { invariants: [{ name: 'i', query: 'select true', always: 'yes' }] }, /"always" is true or false/],
        ['a file that is not there', `${ok}-- race: include no.sql`, /spec\.sql:3: ENOENT/],
        ['JSON that is none', 'broken.json', /broken\.json/],
        ['JSON of another shape', { sessions: [{ name: 'a', steps: [1] }] }, /"sessions" must be steps that are strings/],
        ['JSON with a key that is none in a session', { sessions: [{ name: 'a', steps: ['select 1'], isolaton: 'serializable' }] }, /"isolaton" in "sessions" is none of name, steps, isolation/],
        ['JSON with a key that is none in a step', { sessions: [{ name: 'a', steps: [{ name: 's', sql: 'select 1', alow: 1 }] }] }, /"alow" in "sessions" is none of name, sql/],
        ['JSON with a key that is none in an invariant', { invariants: [{ name: 'i', query: 'select true', alwyas: true }] }, /"alwyas" in "invariants" is none of name, query, always/],
        ['JSON with an empty step', { sessions: [{ name: 'a', steps: [' '] }] }, /step a1 of session a is empty/],
        ['JSON with a key that is none', { session: [] }, /"session" is none of include, superuser/],
    ])('%s', (_, text, message) => {
        const read = (): Spec => (text === 'broken.json' ? readSpec(written('{', text)) : specOf(text));
        expect(read).toThrow(UserError);
        expect(read).toThrow(message);
        expect(read).not.toThrow(/\n/);
    });

    test('an order that is asked for', () => {
        expect(() => parsedOrder(specOf(ok), ['a*x'])).toThrow(/"a\*x" in the order is none of a/);
        expect(parsedOrder(specOf(ok), ['a*2', 'a'])).toEqual([0, 0, 0]);
    });

    test('a setup that fails is told with its statement; functions that match no name; a step that ends its connection', async (context) => {
        await expect(raced(context, `-- race: setup\nselect 1/0\n${ok}`)).rejects.toThrow(/setup failed with 22012: division by zero\nline 1: select 1\/0$/);
        await expect(raced(context, `-- race: setup\nselect 1;\nselect '😀', nothing;\nselect 2\n${ok}`)).rejects.toThrow(/setup failed with 42703: .*\nline 2: select '😀', nothing;$/);
        await expect(raced(context, ok, { inside: /nothing_of_this_name/ })).rejects.toThrow(/no PL\/pgSQL function that can be opened matches/);
        await expect(raced(context, '-- race: session a\nselect pg_terminate_backend(pg_backend_pid())\n')).rejects.toThrow(/step a1 of a ended its connection \(/);
    });
});
