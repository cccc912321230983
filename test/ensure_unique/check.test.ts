import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { install } from '../../scripts/install.js';
import { expectError, major, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { withStandby } from '../standby.js';

const seed = process.env.PG_ENSURE_SEED ? Number(process.env.PG_ENSURE_SEED) : Date.now() % 2 ** 31;
const runs = Number(process.env.PG_ENSURE_RUNS ?? 12);

const check = async (session: Session, args: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' | ', object, finding, coalesce(row_count::text, '-'), detail) as line
                        from ensure.check_duplicates_v1(${args})`)).map((row) => String(row.line));

const only = (lines: string[],
    ...findings: string[]): string[] => lines.filter((line) => findings.includes(line.split(' | ')[1] ?? ''));

/** Three keys of t: a twice, b three times, c once; ids in order. */
const t = `create table t (id int primary key, k text); insert into t values (1, 'a'), (2, 'a'), (3, 'b'), (4, 'b'), (5, 'b'), (6,
    'c')`;

describe('duplicates', () => {
    test('groups, losers and the widest group with its key; nothing else where nothing refers to the table', () =>
        withOwner(async (owner) => {
            await owner.run(t);
            expect(await check(owner, "'t', '{k}'")).toEqual([
                'public.t | groups | 2', 'public.t | losers | 3', 'public.t | widest group | 3 | (b)']);
            expect(await check(owner, "'t', '{k}', 'id < 4'")).toEqual([
                'public.t | groups | 1', 'public.t | losers | 1', 'public.t | widest group | 2 | (a)']);
            expect(await check(owner, "'t', '{upper(k) text_pattern_ops}'")).toContain('public.t | losers | 3');
        }));

    test('groups with a null in the key are told apart, and are none where nulls are not equal', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, a int, b int); insert into t values (1, 1, null), (2, 1, null),
                (3, 1, 1), (4, 1, 1), (5, null, null)`);
            expect(await check(owner, "'t', '{a,b}'")).toEqual([
                'public.t | groups | 2', 'public.t | losers | 2', expect.stringContaining('public.t | widest group | 2 | '),
                    'public.t | groups with null | 1', 'public.t | losers with null | 1 | not with nulls_equal => false']);
            expect(await check(owner, "'t', '{a,b}', null, false")).toEqual([
                'public.t | groups | 1', 'public.t | losers | 1', 'public.t | widest group | 2 | (1,1)']);
        }));

    test('without duplicates: the index, its state and the statement that makes it; enforced, no rows', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'reader'], async ({ owner, reader }) => {
            await owner.run('create table t (id int primary key, k text not null)');
            expect(await check(owner,
                "'t', '{k}'")).toEqual(['public.t | index | - | missing: create unique index t_k_key on public.t (k)']);
            await owner.run('create unique index other on t (k) where id > 0');
            expect(await check(owner, "'t', '{k}'")).toEqual([
                'public.other | index | - | different: CREATE UNIQUE INDEX other ON public.t USING btree (k) WHERE (id > 0); ' +
                'wanted: create unique index t_k_key on public.t (k)']);
            await owner.run("drop index other; insert into t values (1, 'a'), (2, 'a')");
            await owner.attempt('create unique index concurrently broken on t (k)');
            const inert = 'public.broken | index | - | invalid and inert: CREATE UNIQUE INDEX broken ON public.t USING btree (k)';
            expect(await check(owner, "'t', '{k}'")).toContain(inert);
            await owner.run('delete from t where id = 2');
            expect(await check(owner, "'t', '{k}'")).toEqual([inert]);
            await owner.run('drop index broken');
            await reader.run('begin isolation level repeatable read; select 1');
            const build = owner.start('create unique index concurrently slow on t (k)');
            await build.blockedBy(reader);
            expect(only(await check(reader, "'t', '{k}'"), 'index')).toEqual([expect.stringContaining('building')]);
            await reader.run('commit');
            await build.outcome();
            expect(await check(owner, "'t', '{k}'")).toEqual([]);
        })));

    test('nullable columns: either NULLS NOT DISTINCT or all partial indexes count as enforced', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (id int primary key, k text)');
            expect(await check(owner, "'t', '{k}'")).toHaveLength(major >= 15 ? 1 : 2);
            await owner.run("select from ensure.ensure_unique_v1('t', '{k}')");
            expect(await check(owner, "'t', '{k}'")).toEqual([]);
            await owner.run('create table u (id int primary key, k text); create unique index on u (k)');
            expect(await check(owner, "'u', '{k}', null, false")).toEqual([]);
            expect(await check(owner,
                "'u', '{k}'")).toContainEqual(expect.stringMatching(/ \| index \| - \| (different|missing): /));
        }));

    test('a gate is told of as long as it stands, also when there are no duplicates, or the index is valid, or it is disabled', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t alter k set not null`);
            const plan = "select statement from ensure.plan_unique_v1('t', '{k}', keep => 'id', losers => 'delete')";
            const step = async (): Promise<void> => {
                for (const { statement } of await owner.run(plan)) await owner.run(String(statement));
            };
            await step();
            expect(only(await check(owner, "'t', '{k}'"), 'gate')).toEqual([]);
            await step();
            const gate: string[] = [expect.stringMatching(/^public\.t \| gate \| - \| zz_ensure_gate_[0-9a-f]{12} of plan_unique_v1: run that plan to its end, or give it up$/) as string];
            const lines = await check(owner, "'t', '{k}'");
            expect(only(lines, 'gate')).toEqual(gate);
            expect(only(lines, 'groups', 'trigger')).toHaveLength(1);
            await owner.run('delete from t where id not in (1, 3)');
            expect(only(await check(owner, "'t', '{k}'"), 'gate', 'index')).toEqual([...gate, expect.stringContaining('missing')]);
            await owner.run("create unique index t_k_key on t (k); do $$ begin execute (select format('alter table t disable trigger %I', tgname) from pg_trigger where tgrelid = 't'::regclass and not tgisinternal); end $$");
            expect(await check(owner, "'t', '{k}'")).toEqual(gate);
            for (let turn = 0; turn < 3; turn++) await step();
            expect(await check(owner, "'t', '{k}'")).toEqual([]);
        }));

    test('what docs/unique.md says to do when a plan is given up takes away all that a cancelled build left, in all partitions', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'writer'], async ({ owner, writer }) => {
            await owner.run(`create table inv (id int, region text not null, code text not null) partition by list (region); create index mine on inv (code);
                create table inv_a partition of inv for values in ('a'); create unique index own on inv_a (id);
                create table inv_b partition of inv for values in ('b') partition by list (code); create table inv_b1 partition of inv_b default;
                insert into inv values (1, 'a', 'x'), (2, 'a', 'x'), (3, 'b', 'y'), (4, 'b', 'y')`);
            const before = "select relname::text as name from pg_class where relname ~ '^(inv|own|mine|ensure_)' order by 1";
            const [there, plan] = [await owner.run(before), "select statement from ensure.plan_unique_v1('inv', '{region,code}', keep => 'id', losers => 'delete')"];
            let cancelled = '';
            for (let turn = 0; turn < 30 && !cancelled; turn++) {
                for (const { statement } of await owner.run(plan)) {
                    if (!/^create unique index concurrently .* on public.inv_b1/.test(String(statement))) await owner.run(String(statement));
                    else {
                        await writer.run("begin; insert into inv values (9, 'b', 'z')");
                        await owner.run("set statement_timeout = '300 ms'");
                        cancelled = (await owner.attempt(String(statement))).code;
                        await owner.run('reset statement_timeout');
                        await writer.run('rollback');
                    }
                }
            }
            expect(cancelled).toBe('57014');
            expect((await owner.run("select indisvalid as v, count(*)::int as n from pg_index where indrelid::regclass::text ~ '^inv' and indisunique group by 1 order by 1")))
                .toEqual([{ v: false, n: 3 }, { v: true, n: 2 }]);
            const page = readFileSync(new URL('../../docs/unique.md', import.meta.url), 'utf8');
            const [find = '', batches = ''] = (/^### Giving a plan up\n[^]*?```sql\n([^]*?)```/m.exec(page)?.[1] ?? '').replaceAll('crm.invites', 'inv').split(/;$/m);
            for (const { statement } of await owner.run(find)) await owner.run(String(statement));
            for (const { batches: name } of await owner.run(batches)) await owner.run(`drop table ${String(name)}`);
            expect(await owner.run(before)).toEqual(there);
            expect(await owner.run("select tgname from pg_trigger where tgrelid::regclass::text ~ '^inv'")).toEqual([]);
            expect(await owner.run("select proname from pg_proc where proname ~ '^ensure_gate_'")).toEqual([]);
            await owner.run("insert into inv values (5, 'b', 'y'), (6, 'a', 'x')");
        })));

    test('rules on deletion and update, of the table and of what moves or collides; not disabled ones, nor those on insert', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table log (t int); create table child (id int primary key, t_id int references t unique);
                create table aside (t_id int references t); create index on aside (t_id); insert into child values (1, 1), (2, 2);
                create rule "A" as on delete to t do instead nothing; create rule b as on update to t do also insert into log values (1);
                create rule c as on insert to t do also insert into log values (1); create rule d as on delete to t do also notify d;
                alter table t disable rule d; create rule e as on update to child do also notify e; create rule f as on delete to child do also
                notify f; create rule g as on update to aside do also notify g`);
            expect(only(await check(owner, "'t', '{k}'"), 'rule')).toEqual(['public.t | rule | - | "A" on delete do instead',
                'public.t | rule | - | b on update do also', 'public.child | rule | - | e on update do also', 'public.child | rule | - | f on delete do also']);
        }));

    test('what has a valid index is not read at all', () =>
        withTestDatabase(({ url }) => withSessions(url, ['owner', 'locker'], async ({ owner, locker }) => {
            await owner.run('create table t (id int primary key, k text not null); create unique index on t (k)');
            await locker.run('begin; lock table t in access exclusive mode');
            expect((await owner.attempt(`set lock_timeout = '1s'; select * from ensure.check_duplicates_v1('t',
                '{k}')`)).code).toBe('ok');
        })));
});

describe('what refers to the losers', () => {
    test('for each foreign key: what moves, what collides and in which index; composite keys and keys of partitions too', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t add z int not null default 0; alter table t add unique (id, z);
                create table child (id int primary key, t_id int references t, name text, unique (t_id, name));
                create index child_name on child (name, t_id);
                insert into child values (1, 1, 'x'), (2, 2, 'x'), (3, 2, 'y'), (4, 5, 'x'), (5, 6, 'x'), (6, null, 'x');
                create table pair (id int primary key, t_id int, z int, foreign key (t_id, z) references t (id, z));
                create index on pair (z, t_id); insert into pair values (1, 2, 0), (2, 1, 0), (3, 2, null);
                create table parted (id int, t_id int) partition by list (id);
                create table parted1 partition of parted for values in (1); create table parted2 partition of parted for values in
                    (2);
                alter table parted2 add foreign key (t_id) references t; create index on parted2 (t_id);
                insert into parted values (1, 4), (2, 4), (2, 5);
                create table whole (id int, t_id int references t) partition by list (id);
                create table whole1 partition of whole for values in (1); create index on whole (t_id); insert into whole values
                    (1, 2)`);
            expect((await check(owner, "'t', '{k}'")).slice(3)).toEqual([
                'child_t_id_fkey on public.child | moves | 3',
                'child_t_id_fkey on public.child | collides | 1 | public.child_t_id_name_key',
                'pair_t_id_z_fkey on public.pair | moves | 1',
                'parted2_t_id_fkey on public.parted2 | moves | 2',
                'whole_t_id_fkey on public.whole | moves | 1',
            ]);
        }));

    test('keep decides who stays, so what moves; without it the first by primary key stays', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table child (id int primary key, t_id int references t); create index on child (t_id);
                insert into child select g, 1 from generate_series(1, 10) g; -- now last on disk:
                update t set k = k where id = 1`);
            expect(only(await check(owner, "'t', '{k}'"), 'moves')).toEqual([]);
            expect(only(await check(owner, "'t', '{k}', keep => 'id desc'"),
                'moves')).toEqual(['child_t_id_fkey on public.child | moves | 10']);
            expectError(await owner.attempt(`select ensure.check_duplicates_v1('t', '{k}', keep => 'id; drop table child')`),
                '22023');
        }));

    test('keys of any type are found again, whatever the settings of the caller', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (f float8, a text[], ts timestamptz, k int, primary key (f, a, ts)); create table
                child (f float8, a text[], ts timestamptz, foreign key (f, a, ts) references t);
                create index on child (f, a, ts); insert into t values (0.1, '{}', '2026-01-02', 1), (0.1::float8 + 0.2,
                    '{a,NULL}', '2026-03-04 05:06:07.000008', 1); insert into child select f, a, ts from t`);
            await owner.run("set extra_float_digits = -15; set datestyle = 'SQL, DMY'; set array_nulls = off");
            expect(only(await check(owner, "'t', '{k}'"), 'moves')).toEqual(['child_f_a_ts_fkey on public.child | moves | 1']);
        }));

    test('a self-reference: losers that refer to losers go with them, the others move', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text, up int references t); create index on t (up);
                insert into t values (1, 'a', null), (2, 'a', null), (3, 'b', 2), (4, 'b', 2), (5, 'c', 2)`);
            expect(only(await check(owner, "'t', '{k}'"), 'moves', 'collides',
                'unindexed')).toEqual(['t_up_fkey on public.t | moves | 2']);
        }));

    test('collisions are counted in each unique index, and what they would move one level down', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table child (id int primary key, t_id int references t, a int, b int, unique (t_id, a),
                unique (t_id, b));
                create table grand (id int primary key, child_id int references child); create index on grand (child_id);
                insert into child values (1, 1, 1, 1), (2, 2, 1, 2), (3, 3, 5, 5), (4, 4, 6, 5), (5, 5, 7, 5); insert into grand
                    values (1, 2), (2, 4), (3, 5), (4, 1)`);
            expect((await check(owner, "'t', '{k}'")).slice(3)).toEqual([
                'child_t_id_fkey on public.child | moves | 3',
                'child_t_id_fkey on public.child | collides | 1 | public.child_t_id_a_key',
                'grand_child_id_fkey on public.grand | moves | 3 | when rows of "public.child" are merged',
                'child_t_id_fkey on public.child | collides | 2 | public.child_t_id_b_key',
            ]);
        }));

    test('two foreign keys of one child are told apart; the rows that collide are those of both', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table link (a int references t, b int references t, primary key (a, b)); create index on
                link (b);
                insert into link values (1, 3), (2, 3), (1, 4), (6, 5)`);
            expect((await check(owner, "'t', '{k}'")).slice(3)).toEqual([
                'link_a_fkey on public.link | moves | 1', 'link_b_fkey on public.link | moves | 2',
                'link_a_fkey, link_b_fkey on public.link | collides | 2 | public.link_pkey']);
        }));

    test('the report is what ensure_unique_v1 then does', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table child (id int primary key, t_id int references t, name text, unique (t_id, name));
                insert into child select g, 1 + g % 6, g % 5 from generate_series(1, 30) g`);
            const lines = await check(owner, "'t', '{k}', keep => 'id'");
            const done = await owner.run(`select object || ' ' || outcome || ' ' || row_count as line
                from ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => 'delete', children => 'merge') where row_count >
                    0`);
            expect(only(lines, 'losers', 'moves', 'collides')).toEqual([
                'public.t | losers | 3', 'child_t_id_fkey on public.child | moves | 15',
                    'child_t_id_fkey on public.child | collides | 15 | public.child_t_id_name_key']);
            expect(done.map((row) => row.line)).toEqual(['public.child deleted 15', 'public.t deleted 3']);
        }));

    test('unindexed: foreign keys whose child is read once for each row deleted; an index of any order of the columns will do',
        () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table bare (id int primary key, t_id int references t);
                create table part (id int primary key, t_id int references t); create index on part (t_id) where id > 5;
                create table fine (id int primary key, t_id int references t); create index on fine (t_id) where t_id is not null;
                create table second (id int primary key, t_id int references t); create index on second (id, t_id);
                create table parted (id int, t_id int references t) partition by list (id); create table parted1 partition of
                    parted for values in (1);
                create table parted2 partition of parted for values in (2); create index on parted1 (t_id)`);
            const why = 'no index on (t_id): the table is read once for each row deleted';
            expect((await check(owner, "'t', '{k}'")).slice(3)).toEqual(['bare', 'part', 'parted', 'second'].map((name) =>
                `${name}_t_id_fkey on public.${name} | unindexed | 3 | ${why}`));
            await owner.run('create index on parted2 (t_id)');
            expect(only(await check(owner, "'t', '{k}'"), 'unindexed')).toHaveLength(3);
        }));

    test('trigger: those that would fire on the table and on children that move, by name', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table child (id int primary key, t_id int references t, v int); create index on child
                (t_id);
                create table quiet (id int primary key, t_id int references t); create index on quiet (t_id); insert into child
                    values (1, 2, 0);
                create function f() returns trigger language plpgsql as 'begin return null; end';
                create trigger gone after delete on t for each row execute function f(); create trigger come after insert on t for
                    each row execute function f();
                create trigger off after delete on t for each row execute function f(); alter table t disable trigger off;
                create trigger "Any" before update or delete on child for each statement execute function f();
                create trigger mine after update of t_id on child for each row execute function f(); create trigger other after
                    update of v on child for each row execute function f();
                create trigger unused after update on quiet for each row execute function f()`);
            expect(only(await check(owner, "'t', '{k}'"), 'trigger')).toEqual([
                'public.t | trigger | - | gone after delete', 'public.child | trigger | - | "Any" before update',
                    'public.child | trigger | - | mine after update']);
        }));

    test('a row that cannot refer to the one that is kept, since another foreign key has the same column, is a finding', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t add z int default 0; alter table t add unique (id, z);
                create table o (id int primary key); insert into o values (2), (5); create table child (id int primary key, t_id int references t references o, z int,
                foreign key (t_id, z) references t (id, z)); create index on child (t_id, z); create index on child (t_id);
                insert into child values (1, 2, 0), (2, 5, 0)`);
            expect(only(await check(owner, "'t', '{k}'"), 'cannot move', 'moves')).toEqual([
                'child_t_id_fkey on public.child | moves | 2', 'child_t_id_z_fkey on public.child | moves | 2',
                expect.stringMatching(/^child_t_id_fkey, child_t_id_z_fkey on public.child \| cannot move \| 2 \| t_id is also /)]);
        }));
});

test('a foreign key on a generated column cannot move, and ensure_unique_v1 moves nothing', () =>
    withOwner(async (owner) => {
        await owner.run(`create table t (id int primary key, k int); create table child (id int primary key, x text,
            t_id int generated always as (length(x)) stored references t); create index on child (t_id);
            insert into t values (1, 1), (2, 1); insert into child values (1, 'ab')`);
        expect(only(await check(owner, "'t', '{k}'"), 'moves', 'cannot move')).toEqual([
            'child_t_id_fkey on public.child | moves | 1', 'child_t_id_fkey on public.child | cannot move | 1 | t_id is generated']);
        expectError(await owner.attempt("select ensure.ensure_unique_v1('t', '{k}', keep => 'id', losers => 'delete', children => 'move')"), 'NS010');
        await withoutGuard(owner, '_check_children_v1', 'if v_generated is not null', 'if false');
        expect(only(await check(owner, "'t', '{k}'"), 'cannot move'), 'negative control').toEqual([]);
    }));

describe('what a plain delete of the losers would do', () => {
    const plainly = 'if the losers were simply deleted';
    const family = `${t}; create table child (id int primary key, t_id int references t on delete cascade); create index on child
        (t_id);
        create table grand (id int primary key, child_id int references child on delete cascade); create index on grand
            (child_id);
        create table note (id int primary key, grand_id int references grand on delete set null, child_id int default 6 references
            child on delete set default);
        create index on note (grand_id); create index on note (child_id);
        insert into child select g, 1 + g % 6 from generate_series(1, 60) g; insert into grand select g, 1 + g % 60 from
            generate_series(1, 600) g;
        insert into note select g, 1 + g % 600, 1 + g % 60 from generate_series(1, 1200) g`;

    /** Rows that each table loses, and references that note loses, when the losers are deleted. */
    async function destroyed(owner: Session): Promise<Record<string, number>> {
        const count = async () => (await owner.run(`select (select count(*) from child)::int as child, (select count(*) from
            grand)::int as grand,
            (select count(*) from note where grand_id is not null)::int as g, (select count(*) from note where child_id <> 6)::int
                as c`))[0] as Record<string, number>;
        const before = await count();
        await owner.run('begin; delete from t where id in (2, 4, 5)');
        const after = await count();
        await owner.run('rollback');
        return Object.fromEntries(Object.keys(before).map((key) => [key, Number(before[key]) - Number(after[key])]));
    }

    test('destroyed by cascade, counted for each table at every level, and references lost there', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            const lines = only(await check(owner, "'t', '{k}'"), 'destroyed by cascade', 'loses reference');
            const gone = await destroyed(owner);
            expect(gone).toEqual({ child: 30, grand: 300, g: 600, c: 600 });
            expect(lines).toEqual([
                'public.child | destroyed by cascade | 30 | if the losers were simply deleted',
                    'public.grand | destroyed by cascade | 300 | if the losers were simply deleted',
                `note_child_id_fkey on public.note | loses reference | 600 | on delete set default, ${plainly}`,
                `note_grand_id_fkey on public.note | loses reference | 600 | on delete set null, ${plainly}`]);
        }));

    test('a row that two ways lead to counts once; circles and chains end; through partitions', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; create table a (id int primary key, t_id int references t on delete cascade, t2 int references
                t on delete cascade, up int references a on delete cascade, b_id int);
                create table b (id int, a_id int references a on delete cascade, primary key (id)) partition by range (id);
                create table b0 partition of b for values from (0) to (50); create table b50 partition of b for values from (50)
                    to (100);
                alter table a add foreign key (b_id) references b on delete cascade;
                insert into a values (1, 2, 4, null, null), (2, null, null, 1, null), (3, null, null, 2, null), (9, 1, null, null,
                    null);
                insert into b values (1, 3), (60, 9), (61, 1); insert into a values (4, null, null, null, 1), (5, null, null, 4,
                    null), (6, 3, null, 4, 61);
                update a set up = 6 where id = 1; insert into a select g, null, null, g - 1, null from generate_series(7, 8) g`);
            const lines = only(await check(owner, "'t', '{k}'"), 'destroyed by cascade');
            const [rest] = await owner.run(`begin; with d as (delete from t where id in (2, 4, 5)) select 1; select (select
                count(*) from a)::int as a, (select count(*) from b)::int as b; `);
            await owner.run('rollback');
            expect(rest).toEqual({ a: 1, b: 1 });
            expect(lines).toEqual(['public.a | destroyed by cascade | 8 | if the losers were simply deleted',
                'public.b | destroyed by cascade | 2 | if the losers were simply deleted']);
        }));

    test(`random graphs: what it says is destroyed or loses its reference is what a DELETE does (seed ${seed})`,
        { timeout: 3_600_000 }, () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, up int references t on delete cascade, k int);
                create table a (id int primary key, t_id int references t on delete cascade, b_id int); create table b (id int
                    primary key, a_id int references a on delete cascade, t_id int references t on delete set null);
                alter table a add foreign key (b_id) references b on delete cascade; create table c (id int, b_id int references b
                    on delete set null, a_id int references a on delete cascade) partition by hash (id);
                create table c0 partition of c for values with (modulus 2, remainder 0); create table c1 partition of c for values
                    with (modulus 2, remainder 1)`);
            const id = fc.option(fc.nat(9));
            const pick = (value: number | null) => (value === null ? 'null' : String(value));
            await fc.assert(fc.asyncProperty(fc.record({ t: fc.array(fc.tuple(id, fc.nat(2)), { minLength: 10, maxLength: 10 }),
                a: fc.array(fc.tuple(id, id), { minLength: 10, maxLength: 10 }),
                b: fc.array(fc.tuple(id, id), { minLength: 10, maxLength: 10 }), c: fc.array(fc.tuple(id, id),
                    { maxLength: 15 }) }), async (world) => {
                await owner.run(['truncate t, a, b, c', ...world.t.map(([, k], i) => `insert into t values (${i}, null, ${k})`),
                    ...world.t.map(([up], i) => `update t set up = ${pick(up)} where id = ${i}`),
                    ...world.a.map(([t], i) => `insert into a values (${i}, ${pick(t)}, null)`), ...world.b.map(([a, t],
                        i) => `insert into b values (${i}, ${pick(a)}, ${pick(t)})`),
                    ...world.a.map(([, b], i) => `update a set b_id = ${pick(b)} where id = ${i}`), ...world.c.map(([b, a],
                        i) => `insert into c values (${i}, ${pick(b)}, ${pick(a)})`)].join('; '));
                const rows = `(select count(*) from t)::int as t, (select count(*) from a)::int as a,
                    (select count(*) from b)::int as b, (select count(*) from c)::int as c`;
                const findings = await owner.run(`select object || ' ' || finding as what, row_count::int as n
                    from ensure.check_duplicates_v1('t', '{k}')`);
                const said = new Map(findings.map((row) => [String(row.what), Number(row.n)]));
                await owner.run(`create temp table nulls as select (select array_agg(id) from b where t_id is null) as b, (select
                    array_agg(id) from c where b_id is null) as c`);
                const [before] = await owner.run(`select ${rows}`);
                await owner.run('begin; delete from t where id <> (select min(id) from t as x where x.k = t.k)');
                const [after] = await owner.run(`select ${rows},
                    (select count(*) from b where t_id is null and id <> all (coalesce(n.b, '{}')))::int as bn,
                    (select count(*) from c where b_id is null and id <> all (coalesce(n.c, '{}')))::int as cn from nulls as n`);
                await owner.run('rollback; drop table nulls');
                const gone = (name: string) => Number(before?.[name]) - Number(after?.[name]);
                const found = (what: string): number => said.get(what) ?? 0;
                expect({ t: found('public.t losers') + found('public.t destroyed by cascade'),
                    a: found('public.a destroyed by cascade'), b: found('public.b destroyed by cascade'),
                    c: found('public.c destroyed by cascade'),
                    bn: found('b_t_id_fkey on public.b loses reference'), cn: found('c_b_id_fkey on public.c loses reference') })
                    .toEqual({ t: gone('t'), a: gone('a'), b: gone('b'), c: gone('c'), bn: Number(after?.bn),
                        cn: Number(after?.cn) });
            }), { seed, numRuns: runs });
        }));

    test('negative control: a walk of one level misses the grandchildren', () =>
        withOwner(async (owner) => {
            await owner.run(family);
            await withoutGuard(owner, '_check_cascade_v1', 'v_first := v_last + 1', 'exit');
            expect(only(await check(owner, "'t', '{k}'"), 'destroyed by cascade')).toHaveLength(1);
        }));

    test('losers that would go anyway are not counted as destroyed', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k text, up int references t on delete cascade); create index on t
                (up);
                insert into t values (1, 'a', null), (2, 'a', null), (3, 'a', 2), (4, 'b', 2), (5, 'b', 4)`);
            expect(only(await check(owner, "'t', '{k}'"),
                'destroyed by cascade')).toEqual(['public.t | destroyed by cascade | 1 | if the losers were simply deleted']);
        }));
});

describe('what it takes', () => {
    const rich = `${t}; create table child (id int primary key, t_id int references t on delete cascade, name text, unique (t_id,
        name)); insert into child values (1, 1, 'x'), (2, 2, 'x')`;

    test('it runs in a read-only transaction, at every isolation level, writes nothing, and locks nothing but ACCESS SHARE', () =>
        withOwner(async (owner) => {
            await owner.run(rich);
            for (const level of ['read committed', 'repeatable read', 'serializable']) {
                await owner.run(`begin isolation level ${level} read only`);
                expect((await check(owner, "'t', '{k}'")).length).toBeGreaterThan(4);
                expect(await owner.run(`select distinct mode from pg_locks as l join pg_class as c on c.oid = l.relation
                                        where l.pid = pg_backend_pid() and c.relnamespace = 'public'::regnamespace and mode <>
                                            'SIReadLock'`)).toEqual([{ mode: 'AccessShareLock' }]);
                expect(await owner.run('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }]);
                await owner.run('rollback');
            }
        }));

    test('it runs on a standby', () =>
        withStandby({}, async ({ primary, standby, caughtUp }) => {
            await install(primary.url);
            await withSessions(primary.url, ['owner'], ({ owner }) => owner.run(rich));
            await caughtUp();
            await withSessions(standby.url, ['dba'], async ({ dba }) => {
                expect(await check(dba,
                    "'t', '{k}'")).toContain('public.child | destroyed by cascade | 1 | if the losers were simply deleted');
            });
        }));

    test('row security that would hide rows is an error, on the table and on what refers to it', () =>
        withOwner(async (owner) => {
            await owner.run(`${rich}; alter table child enable row level security; alter table child force row level security;
                create policy p on child using (id > 5)`);
            expect((await owner.attempt("select * from ensure.check_duplicates_v1('t', '{k}')")).code).toBe('42501');
            await owner.run(`alter table child no force row level security; alter table t enable row level security; alter table t
                force row level security`);
            expect((await owner.attempt("select * from ensure.check_duplicates_v1('t', '{k}')")).code).toBe('42501');
        }));

    test('negative control: with row security on, hidden duplicates are not found', () =>
        withOwner(async (owner) => {
            await owner.run(`${t}; alter table t alter k set not null; alter table t enable row level security;
                alter table t force row level security`);
            for (const name of ['check_duplicates_v1', '_report_duplicates_v1', '_losers_v1']) await withoutGuard(owner, name,
                "SET row_security TO 'off'");
            expect(await check(owner, "'t', '{k}'")).toEqual([expect.stringContaining(' | index | ')]);
        }));

    test('not quadratic: a fat group, many losers and children without an index', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id int primary key, k int, up int references t on delete cascade);
                insert into t select g, case when g <= 20000 then 0 else g / 2 end, nullif(g - 1, 0) from generate_series(1,
                    40000) g;
                update t set up = g / 3 * 3 + 1 from generate_series(1, 40000) g where g = id and g / 3 * 3 + 1 <= 40000;
                create table child (id int primary key, t_id int references t on delete cascade, other int references t on delete
                    set null);
                insert into child select g, g, 40001 - g from generate_series(1, 40000) g`);
            const began = Date.now();
            const lines = await check(owner, "'t', '{k}'");
            console.log(`40,000 rows, ${Date.now() - began} ms`);
            expect(lines).toContain('public.t | losers | 29998');
            expect(Date.now() - began).toBeLessThan(60_000);
        }));

    test('what is no table, or no argument, is refused with a code', () =>
        withOwner(async (owner) => {
            await owner.run('create view v as select 1 as k; create table p (id int, k int) partition by list (id)');
            expectError(await owner.attempt("select ensure.check_duplicates_v1('v', '{k}')"), '42809');
            expectError(await owner.attempt("select ensure.check_duplicates_v1(null, '{k}')"), '22004');
            expectError(await owner.attempt("select ensure.check_duplicates_v1('p', '{k}')"), '0A000');
            expectError(await owner.attempt("select ensure.check_duplicates_v1(1::oid, '{k}')"), '42P01');
        }));
});
