import { expect, test, type TestContext } from 'vitest';
import { withConnection } from '../../scripts/connection.js';
import { major, missing, pooled, surroundings } from '../context.js';
import { run, until, withFolder, withoutGuards } from '../migrate/context.js';
import { withStandby } from '../standby.js';
import { lines, rehearsal, startRehearsal, withWorld, type Document } from './context.js';

test('says what would be created, altered from what to what, and dropped; and changes nothing', () => withWorld(async ({ url, other, state }) => {
    const before = await state();
    const { code, stderr, document } = await rehearsal(url, `
        create table app.n (id bigint primary key, t bigint references app.t);
        grant select on app.t to public;
        alter table app.t drop column b, add column c text not null default 'x', add check (a > 0);
        create or replace function app.f(n integer default 3) returns integer language sql as 'select 2';
        drop view app.v; create index on app.t (a); comment on table app.t is 'told';
        alter default privileges in schema app grant select on tables to public;
        create trigger t before update on app.t for each row execute function suppress_redundant_updates_trigger();
        alter sequence app.t_id_seq increment 5`);
    expect([code, stderr, document.outcome, document.error]).toEqual([0, '', 'rehearsed', null]);
    expect(await state()).toBe(before);
    const { owner } = surroundings.server;
    expect(lines(document)).toEqual(expect.arrayContaining([
        'altered function app.f(integer)', 'altered sequence app.t_id_seq', 'altered table app.t',
        'created comment table app.t', `created default acl for role ${owner} in schema app on tables`, 'created default value for app.t.c',
        'created index app.n_pkey', 'created index app.t_a_idx', 'created table app.n', 'created table column app.t.c',
        'created table constraint n_pkey on app.n', 'created table constraint n_t_fkey on app.n', 'created table constraint t_a_check on app.t',
        'created trigger t on app.t', 'dropped table column app.t.b', 'dropped view app.v',
    ]));
    expect(lines(document).filter((line) => /toast|type|_RETURN|app\.n\.|app\.v\./.test(line))).toEqual([]); // noise
    const altered = (object: string): object => Object.fromEntries(document.changes.filter((one) => one.outcome === 'altered' && one.object === object)
        .flatMap(({ columns }) => columns.map(({ column, from, to }) => [column, [from, to]])));
    expect(altered('app.f(integer)')).toEqual({ prosrc: ['select 1', 'select 2'] });
    expect(altered('app.t')).toMatchObject({ relacl: [null, expect.arrayContaining([`=r/${owner}`]) as string[]] });
    expect(altered('app.t_id_seq')).toMatchObject({ seqincrement: [1, 5] });
    expect(await other.run("select to_regclass('app.n') is null as none")).toEqual([{ none: true }]);
}));

test('control: were it committed, the state would differ', () => withoutGuards({
    'rehearse/rehearse.js': [["await session.run('rollback');", "await session.run('commit');"]],
}, (cli) => withWorld(async ({ url, state }) => {
    const before = await state();
    expect((await rehearsal(url, 'alter table app.t drop column b', [], { cli })).code).toBe(0);
    expect(await state()).not.toBe(before);
})));

test('roles, settings and memberships are told by name, and that a password changes, not which', (context) => {
    if (!surroundings.superuser) missing(context, 'needs a superuser');
    return withWorld(async ({ database }) => {
        const { code, stdout, document } = await rehearsal(database.admin, `create role rehearsed_group; create role rehearsed login;
            grant rehearsed_group to rehearsed; alter table app.t owner to rehearsed; alter role ${surroundings.server.owner} password 'S3cret-word' connection limit 7;
            alter role ${surroundings.server.owner} set work_mem = '1MB'; alter database ${database.name} connection limit 9`);
        expect([code, document.unseen]).toEqual([0, []]);
        expect(lines(document)).toEqual(expect.arrayContaining([
            'created role rehearsed', 'created role rehearsed_group', 'created role membership rehearsed in rehearsed_group',
            `created settings role ${surroundings.server.owner}`, `altered database ${database.name}`,
        ]));
        const columns = (object: string): unknown => document.changes.find((one) => one.outcome === 'altered' && one.object === object)?.columns;
        expect(columns('app.t')).toEqual([{ column: 'relowner', from: surroundings.server.owner, to: 'rehearsed' }]);
        expect(columns(database.name)).toEqual([{ column: 'datconnlimit', from: -1, to: 9 }]);
        expect(columns(surroundings.server.owner)).toEqual([
            { column: 'rolpassword', from: null, to: null, secret: true }, { column: 'rolconnlimit', from: -1, to: 7 },
        ]);
        const changes = JSON.stringify(document.changes);
        expect(changes).not.toMatch(/S3cret|SCRAM/);
        expect(stdout).not.toContain('SCRAM');
    });
});

test('a role that may not read pg_authid is told that, and sees roles by what pg_roles shows', (context) => {
    if (!surroundings.superuser) missing(context, 'needs a role that is no superuser beside one');
    return withWorld(async ({ url }) => {
        const { code, document } = await rehearsal(url, 'create role rehearsed_too connection limit 3; alter role rehearsed_too connection limit 4');
        expect(code).toBe(0);
        expect(document.unseen).toContain('pg_authid: roles are compared by what pg_roles shows, and whether a password changes is not seen');
        expect(lines(document)).toContain('created role rehearsed_too');
    });
});

/** Another session commits a table, and drops a view, while the transaction is open. */
async function meanwhile(cli?: string): Promise<Document> {
    let document: Document | undefined;
    await withWorld(async ({ url, other }) => {
        await other.run('create table app.gate (); create table app.own ()');
        await other.run('begin; lock table app.gate in share row exclusive mode'); // which takes no transaction id yet
        const running = startRehearsal(url, 'create table app.ours (); lock table app.gate in row exclusive mode; drop table app.own', ['--lock-timeout', '60s'], cli ? { cli } : {});
        await until(url, `select true from pg_stat_activity as a where ${other.pid} = any (pg_blocking_pids(a.pid))`);
        await other.run('create table app.theirs (); alter table app.t alter column b set not null; drop view app.v; commit');
        const { code, stderr, document: found } = await running.ended;
        expect(code, stderr).toBe(0);
        document = found;
    });
    return document ?? expect.fail('no document');
}

test('what another session commits meanwhile is not ours', async () => {
    expect(lines(await meanwhile())).toEqual(['created table app.ours', 'dropped table app.own']);
});

test('control: by the age of rows alone the other session\'s table would be ours', () => withoutGuards({
    'rehearse/catalogs.js': [["= 'in progress' else", "is not null else"]],
}, async (cli) => {
    expect(lines(await meanwhile(cli))).toContain('created table app.theirs');
}));

/** Another session, about to drop a view when the first look is taken, commits before the second. */
async function between(guard: [string, string][] = []): Promise<string[]> {
    const second = 'const still =';
    let document: Document | undefined;
    await withoutGuards({
        'rehearse/changes.js': [[second, `await look("set local lock_timeout = '60s'; select pg_advisory_xact_lock(1)"); ${second}`], ...guard],
    }, (cli) => withWorld(async ({ url, other }) => {
        await other.run('create table app.own (); select pg_advisory_lock(2)');
        const running = startRehearsal(url, 'create table app.ours (); select pg_advisory_xact_lock(2); drop table app.own', ['--lock-timeout', '60s'], { cli });
        await until(url, `select true from pg_stat_activity as a where ${other.pid} = any (pg_blocking_pids(a.pid))`); // its transaction id is the older one
        await other.run('begin; drop view app.v; select pg_advisory_xact_lock(1), pg_advisory_unlock(2)');
        await until(url, `select true from pg_stat_activity as a where ${other.pid} = any (pg_blocking_pids(a.pid)) and a.application_name like '%watch'`);
        await other.run('commit');
        document = (await running.ended).document;
    }));
    return lines(document ?? expect.fail('no document'));
}

test('what another session commits between two looks is not ours', async () => {
    expect(await between()).toEqual(['created table app.ours', 'dropped table app.own']);
});

test('control: without the last look outside the other session\'s view would be dropped by us', async () => {
    expect(await between([[' && outside.has(id(one))', '']])).toContain('dropped view app.v');
});

test('what another session has written and not committed is not ours either', () => withWorld(async ({ url, other }) => {
    await other.run('begin; create table app.theirs (); drop function app.f; grant usage on schema app to public');
    const { document } = await rehearsal(url, 'create table app.ours ()');
    await other.run('rollback');
    expect(lines(document)).toEqual(['created table app.ours']);
}));

test('what a subtransaction with an exception block did is ours, what one rolled back is not', () => withWorld(async ({ url }) => {
    const { document } = await rehearsal(url, `do $$ begin
            begin create table app.kept (); exception when others then null; end;
            begin create table app.lost (); perform 1 / 0; exception when division_by_zero then null; end;
        end $$`);
    expect(lines(document)).toEqual(['created table app.kept']);
}));

test('a grant that is there already writes its row again, and that is told; nothing to do is nothing told', () => withWorld(async ({ url, other }) => {
    await other.run('grant select on app.t to public');
    expect((await rehearsal(url, 'grant select on app.t to public')).document.changes).toEqual([
        { outcome: 'altered', type: 'table', object: 'app.t', columns: [] },
    ]);
    const call = "select * from ensure.ensure_partitions_v1('app.p', '1 month', '2026-11-20'::timestamptz, ahead => 1)";
    await other.run('create table app.p (at timestamptz not null) partition by range (at)');
    const first = (await rehearsal(url, call)).document;
    expect(lines(first)).toContain('created table app.p_2026_11');
    expect(first.statements[0]?.rows).toHaveLength(2);
    await other.run(call);
    const { document } = await rehearsal(url, call);
    // ACCESS SHARE is held for the moment in which the session looks whether it knows the partition: whether that is seen depends on when the watcher looks.
    const locks = document.locks.filter(({ object, mode }) => object.startsWith('app.') && mode !== 'AccessShareLock');
    expect([document.changes, document.rows, locks]).toEqual([[], [], []]);
}));

test('rows that statements return, notices, and rows written per table; a sequence that advanced is told, and has', () => withWorld(async ({ url, other }) => {
    const { document } = await rehearsal(url, `insert into app.t (a) values (11), (12); update app.t set a = a + 1 where id <= 3; delete from app.t where id = 4;
        select count(*) as n, null as none from app.t; do $$ begin raise notice 'told'; end $$`);
    expect(document.rows).toEqual([{ table: 'app.t', inserted: 2, updated: 3, deleted: 1 }]);
    expect(document.statements.map(({ command, rows }) => [command, rows])).toEqual([
        ['INSERT', []], ['UPDATE', []], ['DELETE', []], ['SELECT', [{ n: '11', none: null }]], ['DO', []],
    ]);
    expect(document.notices).toMatchObject([{ severity: 'NOTICE', message: 'told' }]);
    expect(document.sequences).toEqual(['app.t_id_seq']);
    expect(await other.run("select last_value::int as n from app.t_id_seq")).toEqual([{ n: 12 }]);
    expect((await rehearsal(url, 'select 1')).document.sequences).toEqual([]);
}));

test('a statement that fails: exit code 1, the error with its parts, and what was changed and locked up to there', () => withWorld(async ({ url, state }) => {
    const before = await state();
    const { code, document } = await rehearsal(url, `create table app.n (); update app.t set a = 0 where id = 1;
        do $$ begin create table app.gone (); insert into app.t (a) values (1); raise exception 'no' using errcode = 'NS042', detail = 'The detail.', hint = 'The hint.'; end $$;
        create table app.never ()`);
    expect(code).toBe(1);
    expect(document).toMatchObject({ outcome: 'failed', exitCode: 1, failure: { sqlstate: 'NS042', message: 'no', detail: 'The detail.', hint: 'The hint.' } });
    expect(document.failure?.statement).toMatch(/^do /);
    expect(lines(document)).toEqual(['created table app.n']);
    expect(document.rows).toEqual([{ table: 'app.t', inserted: 0, updated: 1, deleted: 0 }]);
    expect(document.locks).toContainEqual(expect.objectContaining({ object: 'app.t', mode: 'RowExclusiveLock' }));
    expect(document.statements).toHaveLength(2);
    expect(await state()).toBe(before);
}));

test('what a commit would check is checked: a deferred foreign key that does not hold', () => withWorld(async ({ url }) => {
    const { code, document } = await rehearsal(url, `create table app.n (t bigint references app.t deferrable initially deferred);
        insert into app.n values (-1)`);
    expect([code, document.failure?.sqlstate, document.failure?.statement]).toEqual([1, '23503', null]);
    expect(document.error).toMatch(/^what a commit would check failed\n/);
}));

const refused: [what: string, sql: string][] = [
    ['commit', 'create table app.x (); commit'], ['end', 'create table app.x (); end'], ['rollback', 'create table app.x (); rollback; create table app.y ()'],
    ['begin', 'begin; create table app.x (); commit'], ['abort', 'abort; create table app.x ()'], ['and chain', 'create table app.x (); commit and chain'],
    ['prepare transaction', "create table app.x (); prepare transaction 'p'"], ['commit prepared', "commit prepared 'p'"],
    ['create index concurrently', 'create table app.x (); create index concurrently on app.t (a)'], ['vacuum', 'create table app.x (); vacuum app.t'],
    ['alter system', "alter system set work_mem = '1MB'"], ['copy from stdin', 'create table app.x (); copy app.t from stdin'],
    ['prepare', 'prepare p as select 1'], ['a parameter', 'create table app.x (); select $1'], ['a syntax error', 'create table app.x (); selec 1'], ['nothing', ' -- nothing'], ['no file', 'nothing_there.sql'],
];

test.each(refused)('refused before anything is run, exit code 2: %s', (_what, sql) => withWorld(async ({ url, other }) => {
    const { code, document } = await rehearsal(url, sql);
    expect([code, document.outcome, document.statements]).toEqual([2, 'failed', []]);
    expect(document.error).toMatch(/nothing was run$|^there is no file|^no statement/);
    expect(await other.run("select to_regclass('app.x') is null as none")).toEqual([{ none: true }]);
}));

test('control: a commit that is not refused makes it real', () => withoutGuards({
    'rehearse/input.js': [["case 'TransactionStmt':", "case 'Never':"]],
}, (cli) => withWorld(async ({ url, other }) => {
    const { document } = await rehearsal(url, 'create table app.x (); commit', [], { cli });
    expect(document.exitCode).not.toBe(0);
    expect(await other.run("select to_regclass('app.x') is null as none")).toEqual([{ none: false }]);
})));

/** One statement for PostgreSQL's parser as it is preset; with standard_conforming_strings off there are three. */
const hiding = String.raw`select '\'' ; commit; create table app.x (); --'`;

test('a second statement that the server alone sees, its strings being others, is 42601: nothing is committed', (context) => {
    if (major >= 19) missing(context, 'standard_conforming_strings cannot be off');
    return withWorld(async ({ url, other, database }) => {
        await other.run(`alter database ${database.name} set standard_conforming_strings = off`);
        expect((await rehearsal(url, hiding)).document.failure?.sqlstate).toBe('42601');
        expect(await other.run("select to_regclass('app.x') is null as none")).toEqual([{ none: true }]);
    });
});

test('control: by the protocol that takes several it is committed', () => withoutGuards({
    'rehearse/rehearse.js': [["session.ask(statement ??", "session.run(statement ??"]],
}, (cli) => withWorld(async ({ url, other, database }) => {
    await other.run(`alter database ${database.name} set standard_conforming_strings = off`);
    await rehearsal(url, hiding, [], { cli });
    expect(await other.run("select to_regclass('app.x') is null as none")).toEqual([{ none: false }]);
})));

test('a procedure and a DO block that commit are refused by PostgreSQL, 2D000: nothing is committed', () => withWorld(async ({ url, other }) => {
    await other.run(`create procedure app.p() language plpgsql as $$ begin create table app.x (); commit; end $$`);
    for (const sql of ['call app.p()', 'do $$ begin create table app.x (); commit; end $$']) {
        const { code, document } = await rehearsal(url, sql);
        expect([code, document.failure?.sqlstate]).toEqual([1, '2D000']);
    }
    expect(await other.run("select to_regclass('app.x') is null as none")).toEqual([{ none: true }]);
}));

test('RESET ALL in the text takes neither the transaction nor its limits: they are set again before each statement', () => withWorld(async ({ url }) => {
    const { code, document } = await rehearsal(url, `reset all; create table app.x (); show lock_timeout; set lock_timeout = '1h'; set session statement_timeout = 0;
        select current_setting('lock_timeout') as l, current_setting('statement_timeout') as s`);
    expect([code, document.error, lines(document)]).toEqual([0, null, ['created table app.x']]);
    expect([document.statements[2]?.rows, document.statements.at(-1)?.rows]).toEqual([[{ lock_timeout: '500ms' }], [{ l: '500ms', s: '1min' }]]);
}));

test('control: set once, they are gone after RESET ALL', () => withoutGuards({
    'rehearse/rehearse.js': [['`${limits} savepoint', '`savepoint']],
}, (cli) => withWorld(async ({ url }) => {
    const { document } = await rehearsal(url, 'reset all; show lock_timeout', [], { cli });
    expect(document.statements.at(-1)?.rows).toEqual([{ lock_timeout: '0' }]);
})));

test('should a text end the transaction all the same, an error says that it may be committed; control: without the look it passes for rolled back', async () => {
    const allowed: [string, string] = ["/SAVEPOINT|RELEASE|ROLLBACK_TO/.test(kind ?? '')", 'true'];
    const ending = 'create table app.kept (); commit and chain; select 1';
    await withoutGuards({ 'rehearse/input.js': [allowed] }, (cli) => withWorld(async ({ url }) => {
        const { code, document } = await rehearsal(url, ending, [], { cli });
        expect([code, document.error]).toEqual([1, expect.stringContaining('the transaction was ended by what ran in it')]);
    }));
    await withoutGuards({ 'rehearse/input.js': [allowed], 'rehearse/rehearse.js': [['await transactionOf(session) !== mark', 'false']] }, (cli) => withWorld(async ({ url }) => {
        expect((await rehearsal(url, ending, [], { cli })).code).toBe(0);
    }));
});

test('of privileges it shows the entries that came and those that went, of long texts where they differ', () => withWorld(async ({ url, other }) => {
    const { owner } = surroundings.server;
    const body = (last: string): string => `create or replace function app.long() returns integer language sql as 'select 1 /* ${'word '.repeat(40)}${last} ${'word '.repeat(40)}*/'`;
    await other.run(`grant select on app.t to public; grant usage on schema app to public; ${body('old')}`);
    const { stdout } = await run(url, ['rehearse', `revoke select on app.t from public; grant insert, update on app.t to public; grant select on app.v to public; revoke usage on schema app from public; ${body('new')}`]);
    const plain = stdout.replaceAll(owner, 'app').replaceAll(/ +/g, ' ');
    expect(plain).toContain('| relacl | -=r/app | +=aw/app');
    expect(plain).toMatch(/app\.v \| relacl \| null \| \+app=\w+\/app \+=r\/app/);
    expect(plain).toContain('| nspacl | -=U/app |');
    expect(plain).toMatch(/prosrc \| …word word word word old word [^|]*… \| …word word word word new word [^|]*…/);
}));

test('savepoints of the text work, also around a failure', () => withWorld(async ({ url }) => {
    const { code, document } = await rehearsal(url, `savepoint a; create table app.x (); savepoint b; create table app.y (); rollback to b; release a;
        create table app.z (); select 1 / 0`);
    expect([code, document.failure?.sqlstate]).toEqual([1, '22012']);
    expect(lines(document)).toEqual(['created table app.x', 'created table app.z']);
}));

test('what the text sets, a role too, holds for its statements and not for what is looked at', (context) => {
    if (!surroundings.superuser) missing(context, 'needs a superuser');
    return withWorld(async ({ database, url, other }) => {
        const { code, stderr, document } = await rehearsal(database.admin, `set search_path = app; set role ${surroundings.server.owner}; create table own ();
            insert into t (a) values (1); select current_user::text as who; set session authorization ${surroundings.server.owner}; grant select on own to public`);
        expect([code, document.error, document.unseen], stderr).toEqual([0, null, []]);
        expect(document.statements.at(-3)?.rows).toEqual([{ who: surroundings.server.owner }]);
        expect([lines(document), document.rows]).toEqual([['created table app.own'], [{ table: 'app.t', inserted: 1, updated: 0, deleted: 0 }]]);
        await other.run("create function app.one(n integer) returns integer language sql begin atomic select $1; end");
        expect((await rehearsal(url, 'create function app.two(n integer) returns integer language sql begin atomic select $1; end')).code).toBe(0);
    });
});

test('on a standby what only reads is rehearsed, the rest is 25006', (context: TestContext) => {
    if (!surroundings.embedded) return missing(context, 'needs a server of its own, not DATABASE_URL');
    return withStandby({}, async ({ primary, standby, caughtUp }) => {
        await withConnection(primary.url, (sql) => sql`create table here as select 1 as n`);
        await caughtUp();
        expect((await rehearsal(standby.url, 'select n from here')).document).toMatchObject({ exitCode: 0, changes: [], statements: [{ rows: [{ n: '1' }] }] });
        expect((await rehearsal(standby.url, 'insert into here values (2)')).document).toMatchObject({ exitCode: 1, failure: { sqlstate: '25006' } });
    });
});

test('a file is run, of a migration the part after migrate:up alone', () => withWorld(({ url }) => withFolder({
    '001_a.sql': '-- migrate:up\ncreate table app.x ();\n-- migrate:down\ndrop table app.t;\n', 'plain.txt': 'create table app.y ();\ncreate table app.z ()\n',
    '002_b.sql': '-- migrate:up\n\nselect 1;\ncommit;\n-- migrate:down\n',
}, async (folder) => {
    expect(lines((await rehearsal(url, `${folder}/001_a.sql`)).document)).toEqual(['created table app.x']);
    expect(lines((await rehearsal(url, `${folder}/plain.txt`)).document)).toEqual(['created table app.y', 'created table app.z']);
    expect((await rehearsal(url, `${folder}/002_b.sql`)).document.error).toMatch(/^line 4: commit\n/);
})));

test('through PgBouncer in transaction mode it is the same, and no setting stays there', (context: TestContext) => withWorld(async ({ database, state }) => {
    const url = pooled(context, database);
    const before = await state();
    const { code, stderr, document } = await rehearsal(url, 'create table app.x (); insert into app.t (a) values (1); lock table app.t');
    expect([code, stderr]).toEqual([0, '']);
    expect([lines(document), document.rows]).toEqual([['created table app.x'], [{ table: 'app.t', inserted: 1, updated: 0, deleted: 0 }]]);
    expect(document.locks).toContainEqual(expect.objectContaining({ object: 'app.t', mode: 'AccessExclusiveLock' }));
    expect((await rehearsal(url, 'show lock_timeout; show statement_timeout')).document.statements.map(({ rows }) => rows)).toEqual([[{ lock_timeout: '500ms' }], [{ statement_timeout: '1min' }]]);
    expect(JSON.parse((await run(url, ['sql', '--json', "select current_setting('lock_timeout') as l, current_setting('statement_timeout') as s"])).stdout)).toEqual([{ l: '0', s: '0' }]);
    expect(await state()).toBe(before);
}));
