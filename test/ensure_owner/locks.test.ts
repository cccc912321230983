import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { withRoles } from '../ensure_role/roles.js';
import { withoutGuard } from '../mutate.js';

const setup = `create schema a; create table a.t (id serial primary key, n text); create table a.p (id int) partition by range (id);
    create table a.p_0 partition of a.p for values from (0) to (10); create table a.c (t int references a.t);
    create view a.v as select * from a.t; create materialized view a.m as select * from a.t; create sequence a.s; create type a.e as enum ('x')`;

/** The situations of docs/locks.md: what differs, all else is right already. */
const situations: Record<string, string> = {
    'a table': 't', 'a partitioned table': 'p', 'a partition': 'p_0', 'a view': 'v', 'a materialized view': 'm', 'a sequence': 's',
};

const held = `
    select c.relname as relation, (array_agg(upper(trim(regexp_replace(replace(l.mode, 'Lock', ''), '([A-Z])', ' \\1', 'g')))
               order by l.mode <> 'AccessExclusiveLock', l.mode desc))[1] as mode
    from pg_locks as l join pg_class as c on c.oid = l.relation
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and c.relnamespace = 'a'::regnamespace
    group by 1 order by 1`;

describe('what a call holds until commit is what docs/locks.md says', () => {
    const documented = readFileSync(new URL('../../docs/locks.md', import.meta.url), 'utf8').split('\n')
        .filter((line) => line.startsWith('| ')).map((line) => line.split('|').map((cell) => cell.trim().replaceAll('`', '')));

    test.each(Object.entries(situations))('%s', (situation, name) =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            const call = `select outcome from ensure.ensure_owner_v1('${role('app')}', '{a}')`;
            await dba.run(`create role "${role('app')}"; create role "${role('old')}"; ${setup}`);
            await dba.run(call);
            const [kind] = await dba.run(`select case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                else 'table' end as kind from pg_class where oid = 'a.${name}'::regclass`);
            await dba.run(`alter ${String(kind?.kind)} a.${name} owner to "${role('old')}"`);
            await dba.run('begin');
            expect(await dba.run(call)).toEqual([{ outcome: 'altered' }]);
            const measured = (await dba.run(held)).map(({ relation, mode }) => `${String(relation)} ${String(mode)}`);
            const expected = documented.filter(([, named]) => named === `owner of ${situation}`).map(([, , relation, mode]) => `${relation} ${mode}`);
            expect(measured).toEqual(expected);
            expect(expected).not.toEqual([]);
        }));

    test('nothing, when nothing differs: it answers while others hold ACCESS EXCLUSIVE on all of it; nor does the plan lock anything', () =>
        withRoles(['a', 'dba'], async ({ a, dba }, { role }) => {
            const call = `select outcome from ensure.ensure_owner_v1('${role('app')}', '{a}')`;
            await dba.run(`create role "${role('app')}"; create role "${role('old')}"; ${setup}`);
            await dba.run(call);
            await a.run('begin; lock table a.t, a.p, a.c, a.m in access exclusive mode'.replace(', a.m', ''));
            await dba.run('begin');
            expect(await dba.run(call)).toEqual([{ outcome: 'exists' }]);
            expect(await dba.run(`select * from ensure.plan_owner_v1('${role('old')}', '{a}')`)).not.toEqual([]);
            expect(await dba.run(held)).toEqual([]);
            expect(await dba.run('select pg_current_xact_id_if_assigned() is null as unwritten')).toEqual([{ unwritten: true }]);
            await dba.run('commit');
            await a.run('commit');
        }));

    test('negative control: what gives all of it again takes all of the locks', () =>
        withRoles(['dba'], async ({ dba }, { role }) => {
            await dba.run(`create role "${role('app')}"; ${setup}`);
            await dba.run(`select outcome from ensure.ensure_owner_v1('${role('app')}', '{a}')`);
            await withoutGuard(dba, '_owned_objects_v1', /c\.relowner <> new_owner/, 'true');
            await dba.run('begin isolation level repeatable read');
            await dba.run(`select outcome from ensure.ensure_owner_v1('${role('app')}', '{a}')`);
            expect((await dba.run(held)).map(({ mode }) => mode)).toContain('ACCESS EXCLUSIVE');
            await dba.run('rollback');
        }));
});

test('a waiting call keeps nobody behind it for longer than max_block', () =>
    withRoles(['a', 'b', 'c'], async ({ a, b, c }, { role }) => {
        await a.run(`create role "${role('app')}"; ${setup}`);
        await a.run('begin; select * from a.t');
        const call = b.start(`select outcome from ensure.ensure_owner_v1('${role('app')}', '{a}', max_block => '200 ms', max_wait => '60 s')`);
        await call.blockedBy(a);
        const began = Date.now();
        await c.run("insert into a.t (n) values ('x')");
        expect(Date.now() - began).toBeLessThan(30_000); // of 60 s that the call waits in all
        await a.run('commit');
        expect((await call.outcome()).code).toBe('ok');
    }));
