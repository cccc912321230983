import { describe, expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { stampede } from '../../scripts/harness/stampede.js';
import { expectError, pooled, withOwner, withTestDatabase } from '../context.js';
import { ensure, index, lines, one, schema } from './workspaces.js';

/** Three platform roots, the second with the wanted name, each with sub-workspaces, tokens, plugins and what refers to those. */
const several = `${schema};
    insert into workspaces (id, name, kind, status) select ('00000000-0000-0000-0000-00000000000' || i)::uuid,
        case i when 2 then 'Platform' else 'Old ' || i end, 'platform', 'online' from generate_series(1, 3) as i;
    insert into workspaces (name, parent_id) select 'Team ' || t, id from workspaces, generate_series(1, 2) as t;
    insert into tokens select row_number() over (order by w.name, t), w.id, 'token ' || t
        from workspaces as w, generate_series(1, 4) as t where kind = 'platform' and (ascii(right(w.name, 1)) * t) % 3 <> 1;
    insert into tokens select 100 + row_number() over (order by w.id), w.id, 'token 1' from workspaces as w where kind = 'workspace';
    insert into org_plugin_allowlist select row_number() over (order by w.name, p), w.id, 'plugin ' || p
        from workspaces as w, generate_series(1, 7) as p where kind = 'platform' and (ascii(right(w.name, 1)) * p) % 3 <> 1;
    insert into plugin_calls select row_number() over (order by a.id, n), a.id from org_plugin_allowlist as a, generate_series(1, 10) as n`;

const merge = ", children => 'merge'";

/** What must be the same before and after: each call with its plugin, each sub-workspace with its parent and token, no plugin lost. */
const facts = `select
    (select json_agg(array[c.id::text, a.plugin_name] order by c.id)::text from plugin_calls as c
        join org_plugin_allowlist as a on a.id = c.allowed_by) as calls,
    (select json_agg(array[w.id::text, p.id::text, t.id::text] order by w.id)::text from workspaces as w join workspaces as p on p.id = w.parent_id
        join tokens as t on t.workspace_id = w.id where w.name like 'Team%') as teams,
    (select json_agg(distinct a.plugin_name order by a.plugin_name)::text from org_plugin_allowlist as a
        join workspaces as w on w.id = a.org_id where w.name not like 'Team%') as plugins,
    (select json_agg(distinct t.token order by t.token)::text from tokens as t
        join workspaces as w on w.id = t.workspace_id where w.name not like 'Team%') as tokens`;
const roots = `select w.name, w.kind, w.status, p.name as parent,
    (select count(*) from tokens as t where t.workspace_id = w.id)::int as tokens,
    (select count(distinct token) from tokens as t where t.workspace_id = w.id)::int as once,
    (select count(*) from org_plugin_allowlist as a where a.org_id = w.id)::int as plugins
    from workspaces as w left join workspaces as p on p.id = w.parent_id where w.name not like 'Team%' order by w.name`;

describe('several old platform roots, no index yet', () => {
    test('one of them has the wanted name: it stays as it is, the others come under it, what they had is merged, nothing is lost', () =>
        withOwner(async (owner) => {
            await owner.run(several);
            const before = await one(owner, facts);
            const rows = await owner.run(ensure(merge));
            expect(lines(rows)).toEqual(['public.workspaces exists', 'public.workspaces demoted 2',
                'public.org_plugin_allowlist moved 3', 'public.org_plugin_allowlist deleted 8', 'public.plugin_calls moved 80',
                'public.tokens moved 2', 'public.tokens deleted 4']);
            expect(rows[0]?.data).toMatchObject({ id: '00000000-0000-0000-0000-000000000002', name: 'Platform', status: 'online' });
            expect(await one(owner, facts)).toEqual(before);
            expect(await owner.run(roots)).toEqual([
                { name: 'Old 1', kind: 'workspace', status: 'online', parent: 'Platform', tokens: 0, once: 0, plugins: 0 },
                { name: 'Old 3', kind: 'workspace', status: 'online', parent: 'Platform', tokens: 0, once: 0, plugins: 0 },
                { name: 'Platform', kind: 'platform', status: 'online', parent: null, tokens: 4, once: 4, plugins: 7 },
            ]);
            await owner.run(index); // which is what it was for
            expect(lines(await owner.run(ensure(merge)))).toEqual(['public.workspaces exists']);
        }));

    test('none has the name: a new one is made and starts offline; tokens alone move when only they are named', () =>
        withOwner(async (owner) => {
            await owner.run(`${several}; update workspaces set name = 'Old 2' where name = 'Platform'`);
            const before = await one(owner, facts);
            const rows = await owner.run(ensure(`${merge}, child_tables => '{tokens}'`));
            expect(lines(rows).map((line) => line.replace(/\d+$/, 'n'))).toEqual(['public.workspaces created n',
                'public.workspaces demoted n', 'public.tokens moved n', 'public.tokens deleted n']);
            expect(rows[0]?.data).toMatchObject({ status: 'offline' });
            expect(await one(owner, facts)).toEqual(before);
            expect(await owner.run(roots)).toMatchObject([
                { name: 'Old 1', parent: 'Platform', tokens: 0 }, { name: 'Old 2', parent: 'Platform', tokens: 0 },
                { name: 'Old 3', parent: 'Platform', tokens: 0 }, { name: 'Platform', tokens: 4, once: 4, plugins: 0 },
            ]);
        }));

    test('the named one is there and no root: it is promoted and keeps its status', () =>
        withOwner(async (owner) => {
            await owner.run(`${several}; update workspaces set kind = 'workspace', status = 'paused' where name = 'Platform'`);
            const rows = await owner.run(ensure(merge));
            expect(lines(rows).slice(0, 2)).toEqual(['public.workspaces promoted 1', 'public.workspaces demoted 2']);
            expect(rows[0]?.data).toMatchObject({ kind: 'platform', status: 'paused' });
        }));

    test('duplicates among what moves, and no word to merge them: NS010, nothing is changed; left alone: they stay where they are', () =>
        withOwner(async (owner) => {
            await owner.run(several);
            const before = await owner.run(roots);
            expectError(await owner.attempt(ensure(", children => 'move'")), 'NS010');
            expect(await owner.run(roots)).toEqual(before);
            expect(lines(await owner.run(ensure()))).toEqual(['public.workspaces exists', 'public.workspaces demoted 2']);
            expect((await owner.run(roots)).map(({ tokens, plugins }) => [tokens, plugins]))
                .toEqual(before.map(({ tokens, plugins }) => [tokens, plugins]));
        }));

    test('sub-workspaces stay under the old roots; they move when the table itself is named', () =>
        withOwner(async (owner) => {
            await owner.run(`${several}; delete from workspaces where name = 'Team 1' or parent_id::text like '%2'`);
            await owner.run("update workspaces set name = 'Team ' || id where name = 'Team 2'");
            const rows = await owner.run(ensure(", children => 'move', child_tables => '{workspaces}'"));
            expect(lines(rows)).toEqual(['public.workspaces exists', 'public.workspaces demoted 2', 'public.workspaces moved 2']);
            expect(await owner.run(`select distinct p.name from workspaces as w join workspaces as p on p.id = w.parent_id`))
                .toEqual([{ name: 'Platform' }]);
        }));

    test.for([
        { name: 'Main', what: 'none has the wanted name', first: ['public.workspaces created 1', 'public.workspaces demoted 3'], status: 'offline' },
        { name: 'Platform', what: 'one has the wanted name', first: ['public.workspaces demoted 2'], status: 'online' },
    ])('16 installers at once, no index to help, $what: all get the same row, the old roots are demoted once, no error', ({ name, first, status }) =>
        withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
            await dba.run(several);
            const before = await one(dba, facts);
            const report = await stampede({ owner: url, callers: 16, rounds: 2, isolation: 'read committed', transaction: true,
                steps: () => [ensure(`${merge}, max_wait => '60 s'`).replace('"Platform"', `"${name}"`)] });
            expect(report.codes).toEqual({ ok: 32 });
            const all = report.outcomes.flatMap(({ rows }) => lines(rows)).filter((line) => line !== 'public.workspaces exists');
            expect(all.filter((line) => /workspaces/.test(line))).toEqual(first);
            expect(new Set(report.outcomes.map(({ rows }) => (rows[0]?.data as { id: string }).id)).size).toBe(1);
            expect(report.outcomes.map(({ rows }) => (rows[0]?.data as { status: string }).status)).toEqual(Array(32).fill(status));
            expect(await one(dba, facts)).toEqual(before);
            expect(await dba.run("select name, (select count(*) from tokens where workspace_id = w.id)::int as tokens from workspaces as w where kind = 'platform'"))
                .toEqual([{ name, tokens: 4 }]);
        })));

    test('a dead workspace with the wanted name is not the one; a dead root is demoted too, and all under it stays whole', () =>
        withOwner(async (owner) => {
            await owner.run(`${several}; update workspaces set deleted_at = now() where name in ('Platform', 'Old 1')`);
            const rows = await owner.run(ensure(merge));
            expect(lines(rows).slice(0, 2)).toEqual(['public.workspaces created 1', 'public.workspaces demoted 3']);
            expect(rows[0]?.data).toMatchObject({ name: 'Platform', status: 'offline', deleted_at: null });
            expect(await owner.run("select name, kind, deleted_at is null as live from workspaces where name not like 'Team%' order by name, live"))
                .toEqual([{ name: 'Old 1', kind: 'workspace', live: false }, { name: 'Old 3', kind: 'workspace', live: true },
                    { name: 'Platform', kind: 'workspace', live: false }, { name: 'Platform', kind: 'platform', live: true }]);
            expect(lines(await owner.run(ensure(merge)))).toEqual(['public.workspaces exists']);
        }));

    test('an old root has the name of a workspace under the one that is kept: NS010 names the row and the index, nothing is changed', () =>
        withOwner(async (owner) => {
            await owner.run(`${several}; update workspaces set name = 'Old 3' where name = 'Team 1' and parent_id::text like '%2'`);
            const before = await owner.run('select * from workspaces order by id');
            const error = expectError(await owner.attempt(ensure(merge)), 'NS010');
            expect(error.message).toMatch(/\["00000000-0000-0000-0000-000000000003"\].*workspaces_parent_name/);
            expect(error.detail).toContain('Old 3');
            expect(await owner.run('select * from workspaces order by id')).toEqual(before);
        }));

    test('16 who want four different rows at once: no error, and one is the only one', () =>
        withTestDatabase(({ url }) => withSessions(url, ['dba'], async ({ dba }) => {
            await dba.run(`create table t (name text primary key, main boolean); create unique index on t (main) where main;
                insert into t values ('a', false), ('b', true)`);
            const report = await stampede({ owner: url, callers: 16, rounds: 3, isolation: 'read committed', transaction: false,
                steps: (caller) => [`select * from ensure.ensure_only_v1('t', '{"name": "${'abcd'[caller % 4]}", "main": true}', 'main',
                    'main = false', promote => 'main = true', max_wait => '60 s')`] });
            expect(report.codes).toEqual({ ok: 48 });
            expect(await dba.run('select count(*)::int as n, count(*) filter (where main)::int as mains from t')).toEqual([{ n: 4, mains: 1 }]);
        })));

    test('two old roots with the same name would collide under the new one: NS010 names the row and the index, nothing is changed', () =>
        withOwner(async (owner) => {
            await owner.run(`${schema.replace('coalesce(parent_id', "coalesce(parent_id, case when kind = 'platform' then id end")};
                insert into workspaces (id, name, kind) select ('00000000-0000-0000-0000-00000000000' || i)::uuid, 'Twin ' || i / 2,
                    'platform' from generate_series(1, 5) as i`);
            const before = await owner.run('select * from workspaces order by id');
            const error = expectError(await owner.attempt(ensure().replace("key => '{parent_id,name}'", "key => '{id}'")
                .replace('"parent_id": null', '"id": "00000000-0000-0000-0000-000000000009"')), 'NS010');
            expect(error.message).toMatch(/\["00000000-0000-0000-0000-00000000000[235]"\].*workspaces_parent_name/);
            expect(await owner.run('select * from workspaces order by id')).toEqual(before);
        }));
});

describe('one wrong root, and the index that keeps a second one out', () => {
    const wrong = `${several}; delete from workspaces where kind = 'workspace' or name <> 'Old 1'; ${index}`;

    test('a new one is made offline, the old one comes under it with its sub-workspaces, tokens and plugins move', () =>
        withOwner(async (owner) => {
            await owner.run(`${several}; update workspaces set parent_id = '00000000-0000-0000-0000-000000000001', name = name || id
                where parent_id is not null; delete from workspaces where kind = 'platform' and name <> 'Old 1'; ${index}`);
            const before = await one(owner, facts);
            const rows = await owner.run(ensure(merge));
            expect(lines(rows)).toEqual(['public.workspaces created 1', 'public.workspaces demoted 1',
                'public.org_plugin_allowlist moved 4', 'public.tokens moved 2']);
            expect(await one(owner, facts)).toEqual(before);
            expect(await owner.run(roots)).toMatchObject([
                { name: 'Old 1', kind: 'workspace', status: 'online', parent: 'Platform' },
                { name: 'Platform', kind: 'platform', status: 'offline', parent: null, tokens: 2, plugins: 4 },
            ]);
        }));

    test('the named one is below it: it is promoted after the wrong one is demoted', () =>
        withOwner(async (owner) => {
            await owner.run(`${wrong}; insert into workspaces (name, parent_id, status) select 'Platform', id, 'paused' from workspaces`);
            const below = (await one(owner, 'select id from workspaces where parent_id is not null')).id as string;
            const rows = await owner.run(ensure(merge, `{"id": "${below}", "name": "Platform"}`).replace("'{parent_id,name}'", "'{id}'"));
            expect(lines(rows).slice(0, 2)).toEqual(['public.workspaces promoted 1', 'public.workspaces demoted 1']);
            expect(await owner.run(roots)).toMatchObject([
                { name: 'Old 1', parent: 'Platform' }, { name: 'Platform', kind: 'platform', status: 'paused', parent: null }]);
        }));

    test.for([
        { path: 'direct', fresh: true }, { path: 'direct', fresh: false },
        { path: 'through PgBouncer', fresh: true }, { path: 'through PgBouncer', fresh: false },
    ])('16 installers at once, $path, the row is new: $fresh: all get the same row, one of them made it, no error', ({ path, fresh }, context) =>
        withTestDatabase(async (database) => {
            const url = path === 'direct' ? database.url : pooled(context, database);
            await withSessions(database.url, ['dba'], async ({ dba }) => {
                await dba.run(wrong);
                if (!fresh) await dba.run("insert into workspaces (name, status) values ('Platform', 'paused')");
                const report = await stampede({ owner: database.url, url, callers: 16, rounds: 3, isolation: 'read committed',
                    transaction: false, steps: () => [ensure(`${merge}, max_wait => '60 s'`)] });
                expect(report.codes).toEqual({ ok: 48 });
                const kept = report.outcomes.map(({ rows }) => rows[0] as { outcome: string; data: { id: string } });
                expect(new Set(kept.map(({ data }) => data.id)).size).toBe(1);
                expect(kept.map(({ outcome }) => outcome).filter((outcome) => outcome !== 'exists')).toEqual([fresh ? 'created' : 'promoted']);
                expect(await dba.run(roots)).toMatchObject([{ name: 'Old 1', parent: 'Platform', tokens: 0, plugins: 0 },
                    { name: 'Platform', status: fresh ? 'offline' : 'paused', tokens: 2, plugins: 4 }]);
            });
        }));
});
