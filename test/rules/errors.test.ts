import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { withOwner } from '../context.js';
import { codesOf } from '../hostile/judge.js';
import { raised, routines, type Cut } from './calls.js';

const cuts: Cut[] = [
    { from: /./, to: /^_(gate_body|row_function_body|drop_owned|retire_elsewhere|retire_last|retire_purge|only_here|queue_unique|sweep_unique)_v1$/, why: 'writes, or stands in, a statement that others run' },
    { from: /^ensure_(default|hash|list)_partition/, to: /^_(number_grid|number_point|time_point|time_step|check_neighbours)_v1$/, why: 'only ranges have a grid' },
    { from: /^ensure_(default|hash)_partition/, to: /^_(check_default|check_defaults|move_rows)_v1$/, why: 'no rows of a default partition belong elsewhere' },
    { from: /^ensure_(default_partition|partition_delegate)_v1$/, to: /^_check_cells_v1$/, why: 'makes no cells' },
    { from: /^ensure_default_partition_v1$/, to: /^_(check_parent|cover_cells|finish_partition|raise_problem)_v1$/, why: 'NS001, NS004: it has no bounds that could differ or overlap; what else they raise is in the header' },
    { from: /^ensure_(role)_v1$/, to: /^_(check_grants|check_owner|check_excluded|check_locks_fit|first_wait)_v1$/, why: 'its document has roles only, and locks no table' },
    { from: /^ensure_grants_v1$/, to: /^_(check_role|diff_settings|check_setting|check_excluded|check_owner|check_locks_fit|first_wait)_v1$/, why: 'its document has grants only' },
    { from: /^(ensure|plan)_owner_v1$/, to: /^_(check_access|wanted_members|check_role|check_granted_on|diff_settings|check_setting)_v1$/, why: 'its document has owners only' },
    { from: /^plan_partitions_v1$/, to: /^_lock_one_v1$/, why: 'locks nothing' },
];

/** By root: codes that no caller can meet. */
const unreachable: Record<string, string[]> = {
    ensure_role_v1: ['53200'], // locks no table
    ensure_hash_partitions_v1: ['NS004'], // has no default partition
    ensure_partition_delegate_v1: ['NS004'], // raised by the delegate that it writes
    ensure_owner_v1: ['2BP01'], // changes no grant
    plan_merge_rows_v1: ['NS003'], // waits as one that has written nothing
    ensure_partition_tree_v1: ['25000'], // moves no rows
    plan_row_function_v1: ['428C9'], // asks for no attribute
};

const undocumented = async (session: Session): Promise<string[]> => {
    const all = await routines(session);
    await session.run('drop function pg_temp.state_of');
    return [...all.values()].filter(({ name }) => !name.startsWith('_')).flatMap(({ name, source }) => {
        const known = codesOf(source);
        return [...raised(all, name, cuts)]
            .filter(([code]) => !known.has(code) && !/^NS1\d\d$/.test(code) && !unreachable[name]?.includes(code)) // NS1xx are signals between our own functions
            .map(([code, by]) => `${name}: ${code} of ${by}`);
    });
};

describe('each SQLSTATE that a public function, or one that it calls, raises', () => {
    test('is in its header; negative control: one more, three calls below, is found', () => withOwner(async (owner) => {
        expect(await undocumented(owner)).toEqual([]);
        await owner.run(`create function ensure._c_v1() returns int language plpgsql as $$ begin raise exception using errcode = 'too_many_columns'; end $$;
            create function ensure._b_v1() returns int language sql as 'select ensure._c_v1()';
            create function ensure.check_a_v1() returns int language sql as 'select ensure._b_v1()'`);
        expect(await undocumented(owner)).toEqual(['check_a_v1: 54011 of _c_v1']);
    }));

    test('a signal between our own functions is caught where it is raised or by a caller; negative control: one that is not is found', () => withOwner(async (owner) => {
        const loose = async (): Promise<string[]> => {
            const all = await routines(owner);
            await owner.run('drop function pg_temp.state_of');
            const catches = (name: string, code: string): boolean => all.get(name)?.source.includes(`when sqlstate '${code}'`) ?? false;
            const caught = (name: string, code: string, seen = new Set<string>()): boolean => catches(name, code) || [...all.values()]
                .some((caller) => caller.calls.includes(name) && !seen.has(caller.name) && caught(caller.name, code, seen.add(caller.name)));
            return [...all.values()].flatMap(({ name, codes }) => codes.filter((code) => /^NS1\d\d$/.test(code)).filter((code) => !caught(name, code)).map((code) => `${name}: ${code}`));
        };
        expect(await loose()).toEqual([]);
        await owner.run("create function ensure._c_v1() returns int language plpgsql as $$ begin raise exception using errcode = 'NS109'; end $$");
        expect(await loose()).toEqual(['_c_v1: NS109']);
    }));
});
