import { describe, expect, test } from 'vitest';
import { withSessions } from '../../scripts/harness/sessions.js';
import { expectError, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { call, lines, rows, run } from './merging.js';

describe('what cannot be merged is said before anything is locked or made, by the call and by the plan', () => {
    const pair = `create table t (id int primary key, k text not null, gone boolean); insert into t values (1, 'a'), (2, 'a'), (3, 'b');
        create table c (id int primary key, t int references t on delete cascade); insert into c values (1, 1), (2, 2), (3, 3);`;
    const self = `create table t (id text unique, up text references t (id), k int, gone boolean);
        insert into t values ('k', null, 1), ('l', null, 1), ('m', 'l', 2), ('k2', 'l', 3), ('l2', null, 3);`;
    const soft = "'t', '{k}', 'gone is null', keep => 'id', losers => 'update', loser_set => 'gone = true', children => ";
    const hard = "'t', '{k}', keep => 'id', losers => 'delete', children => ";
    const published = 'create publication everything for all tables';
    const hidden = 'alter table c enable row level security; alter table c force row level security; create policy p on c using (id > 2);';
    /** What, how it is set up, by a superuser too, the call, its code, what is said, how it is mended. */
    const cases: [string, string, string, string, string, RegExp, string][] = [
        ['rows of a table without row key that refer to its losers', self, '', `${hard} 'move'`, '0A000', /2 rows of "public.t" would move/,
            'alter table t alter id set not null'],
        ['the same with merge', self, '', `${hard} 'merge'`, '0A000', /2 rows of "public.t"/, 'alter table t add primary key (id)'],
        ['the same with losers that stay', self, '', `${soft} 'move'`, '0A000', /2 rows of "public.t"/, 'alter table t add primary key (id)'],
        ['losers that are published and have no replica identity',
            "create table t (id int, k text); insert into t values (1, 'a'), (2, 'a');", published, `${hard} 'move'`, '55000',
            /"public.t" .* published/, 'alter table t replica identity full'],
        ['one of the partitions', `create table t (id int, k text not null) partition by list (k); create table t1 partition of t default;
            insert into t values (1, 'a'), (2, 'a');`, published, `${hard} 'move'`, '55000', /"public.t" .* published/,
        'alter table t1 replica identity full'],
        ['losers that are updated, the same', 'create table t (id int, k text, gone boolean); insert into t values (1, null), (2, null);',
            "create publication updates for all tables with (publish = 'update')", `${soft} 'refuse'`, '55000', /replica identity/,
            'create unique index own on t (id); alter table t alter id set not null; alter table t replica identity using index own'],
        ['children that move, the same', `${pair} alter table c drop constraint c_pkey;`, published, `${hard} 'move'`, '55000',
            /"public.c" .* published/, 'alter table c replica identity full'],
        ['children that row security hides', `${pair} ${hidden}`, '', `${hard} 'move'`, '42501', /row security hides rows of "public.c"/,
            'alter table c no force row level security'],
        ['children of children, with merge', `${pair} alter table c add unique (t, id); create table d (c int references c);
            ${hidden.replaceAll(' c ', ' d ').replace('id > 2', 'c > 2')}`, '', `${hard} 'merge'`, '42501', /"public.d"/,
        'alter table d disable row level security'],
        ['children that this role may not change', `${pair} revoke update on c from current_user;`, '', `${hard} 'move'`, '42501',
            /"public.c" may not be read and changed/, 'grant update on c to current_user'],
        ['a name that is needed, in a child', `${pair} alter table c add "~row" int, add unique (t, "~row");`, '', `${hard} 'merge'`, '0A000',
            /"public.c" has a column "~row"/, 'alter table c rename "~row" to row'],
        ['a rule instead of the deletion of losers', `${pair} create rule r as on delete to t do instead nothing;`, '', `${hard} 'move'`, '0A000',
            /^rule "r" of "public.t" would run instead of each delete$/, 'drop rule r on t'],
        ['one beside it', `${pair} create table log (t int); create rule r as on delete to t do also insert into log values (old.id);`, '',
            `${hard} 'move'`, '0A000', /^rule "r" of "public.t" would run beside each delete$/, 'alter table t disable rule r'],
        ['one beside the update of losers', `${pair} create table log (t int); create rule r as on update to t do also insert into log values (1);`,
            '', `${soft} 'leave'`, '0A000', /rule "r" of "public.t" .* update$/, 'drop rule r on t'],
        ['one on children that move', `${pair} create rule r as on update to c where new.t = 7 do instead nothing;`, '', `${hard} 'move'`, '0A000',
            /rule "r" of "public.c" .* update$/, 'alter table c disable rule r'],
        ['one on children that are merged', `${pair} alter table c add unique (t); create rule r as on delete to c do instead nothing;`, '',
            `${hard} 'merge'`, '0A000', /rule "r" of "public.c" .* delete$/, 'drop rule r on c'],
        ['one on children that a cascade asks for', `${pair} create rule r as on delete to c do instead nothing;`, '', `${hard} 'move'`, '0A000',
            /rule "r" of "public.c" .* delete$/, 'drop rule r on c'],
        ['one on a partitioned table', `create table t (id int, k text not null) partition by list (k); create table t1 partition of t default;
            create rule r as on delete to t do instead nothing; insert into t values (1, 'a'), (2, 'a');`, '', `${hard} 'move'`, '0A000',
        /rule "r" of "public.t" /, 'drop rule r on t'],
        ['one on a partition that is made unique itself', `create table p (id int, k text not null) partition by list (k); create table t partition of p
            default; create rule r as on delete to t do instead nothing; insert into t values (1, 'a'), (2, 'a');`, '', `${hard} 'move'`, '0A000',
        /rule "r" of "public.t" /, 'drop rule r on t'],
        ['a name that is needed, in the table', `${pair} alter table t add "~part" int;`, '', `${hard} 'move'`, '0A000',
            /"public.t" has a column "~part"/, 'alter table t rename "~part" to part'],
    ];
    test.each(cases)('%s', (_what, setup, asSuperuser, args, code, said, mended) =>
        withTestDatabase(({ url, admin }) => withSessions(url, ['owner', 'writer'], async ({ owner, writer }) => {
            await owner.run(setup);
            if (asSuperuser) await withSessions(admin, ['superuser'], ({ superuser }) => superuser.run(asSuperuser));
            await writer.run('begin; lock table t in row exclusive mode');
            for (const call of [`plan_unique_v1(${args})`, `ensure_unique_v1(${args}, max_wait => '0')`]) {
                expect(expectError(await owner.attempt(`select * from ensure.${call}`), code).message).toMatch(said);
            }
            await writer.run('commit');
            await owner.run(mended);
            expect((await owner.attempt(`select * from ensure.plan_unique_v1(${args})`)).rows.length).toBeGreaterThan(0);
            expect(lines((await owner.run(call(args)))).length).toBeGreaterThan(0);
        })));

    test('nothing is refused where there are no duplicates, nor where nothing that is known by its place moves', () =>
        withTestDatabase(({ url, admin }) => withSessions(url, ['owner'], async ({ owner }) => {
            await owner.run(`${pair} alter table c drop constraint c_pkey, add "~row" int, add unique (t, "~row"); delete from c;
                delete from t where id = 2`);
            await withSessions(admin, ['superuser'], ({ superuser }) => superuser.run(published));
            expect((await owner.run(call(`${hard} 'merge'`)))).toHaveLength(1);
            await owner.run(`drop table t, c; ${self} alter table t replica identity full; delete from t where up = 'l'`);
            expect(await run(owner, call(`${hard} 'merge'`))).toEqual(['t deleted 1']);
            expect(await rows(owner, 't')).toBe('k  1 |l2  3 ');
        })));

    test('negative control: without the look at places it is NS012, and a loser that stays goes on referring to a loser', () =>
        withOwner(async (owner) => {
            await owner.run(self);
            await withoutGuard(owner, '_check_places_v1', 'if v_count > 0', 'if false');
            expectError(await owner.attempt(call(`${hard} 'move'`)), 'NS012');
            await owner.run("delete from t; insert into t values ('a', null, 1), ('b', null, 1), ('c', 'a', 2), ('d', 'b', 2)");
            await owner.run(call(`${soft} 'move'`));
            expect(await rows(owner, "(select * from t where id = 'd') as x")).toBe('d b 2 t');
        }));

    test('negative control: without the look at the tables the plan goes as far as its gate, and the call to a lock', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'writer'], async ({ owner, writer }) => {
            await owner.run(`${pair} ${hidden}`);
            await withoutGuard(owner, '_check_tables_v1', 'if not found or', 'if true or');
            await writer.run('begin; lock table t in row exclusive mode');
            expect((await owner.attempt(`select * from ensure.plan_unique_v1(${hard} 'move')`)).rows).toHaveLength(1);
            expectError(await owner.attempt(call(`${hard} 'move', max_wait => '0'`)), '55P03');
            await writer.run('rollback');
        })));

    test('a rule that cannot run is no obstacle: for another event, or of a partition of the table', () =>
        withOwner(async (owner) => {
            await owner.run(`${pair} create rule r as on update to t do instead nothing; create rule s as on insert to t do instead nothing;
                alter table c drop constraint c_t_fkey, add foreign key (t) references t; create rule r as on delete to c do instead nothing;
                create table p (id int, k text not null) partition by list (k);
                create table p1 partition of p default; create rule r as on delete to p1 do instead nothing; insert into p values (1, 'a'), (2, 'a')`);
            expect(await run(owner, call(`${hard} 'move'`))).toEqual(['c moved 1', 't deleted 1']);
            expect(await run(owner, call("'p', '{k}', keep => 'id', losers => 'delete'"))).toEqual(['p deleted 1']);
            expect(await rows(owner, 'p')).toBe('1 a');
        }));

    test('negative control: without the look for rules one beside the deletion has run, and the plan goes as far as its gate', () =>
        withOwner(async (owner) => {
            await owner.run(`${pair} create table log (t int); create rule r as on delete to t do also insert into log values (1)`);
            await withoutGuard(owner, '_rule_v1', 'limit 1', 'limit 0');
            expect((await owner.attempt(`select * from ensure.plan_unique_v1(${hard} 'move')`)).rows).toHaveLength(1);
            expect((await owner.attempt(call(`${hard} 'move'`))).error?.message).toContain('DO ALSO rules are not supported');
            await owner.run('drop table c');
            expect(await run(owner, call(`${hard} 'move'`))).toEqual(['t deleted 1']);
            expect(await rows(owner, 'log')).toMatch(/1/);
        }));

    const names = ['~part', '~row', '~moves', '~key', '~keeper', '~place', '~trouble', '~p', '~l', '~n', '~no', '~1', '~rank1', 'found', 'l1'];
    test('a column of any name that the SQL uses: refused, or of no consequence; negative control', () =>
        withOwner(async (owner) => {
            const codes = new Map<string, string[]>();
            for (const name of names) {
                for (const children of ['merge', 'refuse']) {
                    await owner.run(`begin; create table t (id int primary key, k int, "${name}" int); insert into t values (1, 1, 1),
                        (2, 1, 1), (3, 1, 2); create table c (t int references t (id), "${name}" int, unique (t, "${name}"))`);
                    if (children === 'merge') await owner.run('insert into c values (1, 1), (2, 1), (2, 2)');
                    const outcome = await owner.attempt(call(`'t', array['k', '"${name}"'], keep => '"${name}", id', losers => 'delete',
                        children => '${children}'`));
                    codes.set(outcome.code, [...codes.get(outcome.code) ?? [], name]);
                    await owner.run('rollback');
                }
            }
            expect([...codes.keys()].sort()).toEqual(['0A000', 'ok']);
            expect([...new Set(codes.get('0A000'))]).toEqual(['~part', '~row', '~moves', '~key', '~no', '~rank1']);
            await withoutGuard(owner, '_taken_name_v1', 'limit 1', 'limit 0');
            await owner.run(`create table t (id int primary key, k int, "~row" int); insert into t values (1, 1), (2, 1)`);
            expect((await owner.attempt(call(`${hard} 'move'`))).code).toBe('42702');
        }));
});
