import { describe, expect, test } from 'vitest';
import { withSessions, type Outcome, type Session } from '../../scripts/harness/sessions.js';
import { isolationLevels, stampede, type Act } from '../../scripts/harness/stampede.js';
import { expectError, pooled, withOwner, withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';

const lines = async (session: Session, call: string): Promise<string[]> =>
    (await session.run(`select concat_ws(' ', partition, lower_bound, upper_bound, outcome) as line from ensure.${call}`))
        .map((row) => String(row.line));
const exists = (made: string[]): string[] => made.map((line) => line.replace(/(created|attached)$/, 'exists'));
const held = `select count(*)::int as n from pg_locks where pid = pg_backend_pid() and mode <> 'SIReadLock'
              and (locktype = 'advisory' or (locktype = 'relation' and relation >= 16384))`;
const path = '[{"list": "42"}, {"range": "1500000", "step": "1000000", "key": "seq"}]';
const tree = `ensure_partition_tree_v1('{meta,blob}', '${path}')`;
const pair = `
    create table meta (originator int, seq bigint, payload text, primary key (originator, seq)) partition by list (originator);
    create table blob (originator int, seq bigint, envelope bytea, primary key (originator, seq),
                       foreign key (originator, seq) references meta on delete cascade) partition by list (originator)`;

describe('list', () => {
    test('one partition for each value, NULL included; again they are found, and more are added', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k int) partition by list (k)');
            const made = await lines(owner, "ensure_list_partitions_v1('t', array[1, -5, null, 1])");
            expect(made).toEqual(['t_1 1 1 created', 't_m5 -5 -5 created', 't_null created']);
            expect(await lines(owner, "ensure_list_partitions_v1('t', array[7, 1])")).toEqual(['t_7 7 7 created', 't_1 1 1 exists']);
            await owner.run('insert into t values (1), (-5), (null), (7)');
            expect(await lines(owner, "ensure_list_partitions_v1('t', array[1, -5, null, 7])"))
                .toEqual([...exists(made), 't_7 7 7 exists']);
            expect(await lines(owner, "ensure_list_partitions_v1('t', array[]::int[])")).toEqual([]);
        }));

    test.each([
        ['text', `array['a', 'A', 'it''s', 'its', 'x, y', 'NULL', '', ' ', E'b\\\\c', 'ünïcode', '1', repeat('long', 30)]`],
        ['varchar(9)', `array['a', 'true', '42']`],
        ['boolean', 'array[true, false, null]'],
        ['uuid', `array['00000000-0000-0000-0000-000000000001', 'ffffffff-ffff-ffff-ffff-ffffffffffff']::uuid[]`],
        ['date', `array['2026-01-01', 'infinity']::date[]`],
        ['timestamptz', `array['2026-01-01 00:00:00+02']::timestamptz[]`],
        ['numeric', 'array[1.5, -2, 1e20]'],
        ['bigint', 'array[9223372036854775807, -9223372036854775808]'],
        ['mood', `array['so so', 'happy']::mood[]`],
        ['char(3)', `array['abc', 'abd', 'a']`],
        ['bit(3)', `array[b'101', b'100']`],
        ['double precision', 'array[1.25, 1, -0.5]'],
    ])('keys of type %s: values are told apart as PostgreSQL does, each found again', (type, values) =>
        withOwner(async (owner) => {
            await owner.run(`create type mood as enum ('so so', 'happy'); create table t (k ${type}) partition by list (k);
                             set extra_float_digits = -15; set array_nulls = off; set bytea_output = 'escape'`);
            const made = await lines(owner, `ensure_list_partitions_v1('t', ${values})`);
            expect(made.filter((line) => !line.endsWith(' created'))).toEqual([]);
            expect(await lines(owner, `ensure_list_partitions_v1('t', ${values})`)).toEqual(exists(made));
            await owner.run(`insert into t select v::${type} from unnest(${values}) as v`);
            expect(await owner.run('select count(distinct tableoid)::int as n from t')).toEqual([{ n: made.length }]);
        }));

    test('a partition that holds several of the values is returned once, whatever its name', () =>
        withOwner(async (owner) => {
            await owner.run("create table t (k text) partition by list (k); create table old partition of t for values in ('a', 'b', null)");
            expect(await lines(owner, "ensure_list_partitions_v1('t', array['b', 'c', 'a', null])")).toEqual([
                'old b b exists', 't_c c c created']);
        }));

    test('values are equal when the operator of their own type says so', () =>
        withOwner(async (owner) => {
            const [citext] = await owner.run("select count(*)::int as n from pg_available_extensions where name = 'citext' and installed_version is null");
            expect(citext?.n).toBe(1);
            await owner.run("create extension citext; create table t (k citext) partition by list (k); create table old partition of t for values in ('Acme')");
            expect(await lines(owner, "ensure_list_partitions_v1('t', array['ACME']::citext[])")).toEqual(['old ACME ACME exists']);
            await withoutGuard(owner, '_cover_values_v1', 'where k.opcdefault and', 'where false and');
            expectError(await owner.attempt("select ensure.ensure_list_partitions_v1('t', array['ACME']::citext[])"), 'NS001');
        }));
});

describe('hash', () => {
    test('every remainder; a coarser and a finer call find what holds the same rows', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k int, v text) partition by hash (k, v)');
            const made = await lines(owner, "ensure_hash_partitions_v1('t', 4)");
            expect(made).toEqual([0, 1, 2, 3].map((n) => `t_${n}_of_4 ${n} 4 created`));
            await owner.run("insert into t select n, 'x' from generate_series(1, 100) as n");
            for (const modulus of [4, 2, 8]) {
                const found = await lines(owner, `ensure_hash_partitions_v1('t', ${modulus})`);
                expect(found.sort()).toEqual(exists(made));
            }
        }));

    test('one that another modulus makes impossible is NS001, and nothing is created', () =>
        withOwner(async (owner) => {
            await owner.run('create table t (k int) partition by hash (k); create table odd partition of t for values with (modulus 4, remainder 1)');
            const error = expectError(await owner.attempt("select ensure.ensure_hash_partitions_v1('t', 2)"), 'NS001');
            expect(error.detail).toContain('modulus 4, remainder 1');
            expect(await owner.run('select count(*)::int as n from pg_inherits')).toEqual([{ n: 1 }]);
            expect((await lines(owner, "ensure_hash_partitions_v1('t', 4)")).filter((line) => line.endsWith('created'))).toHaveLength(3);
        }));
});

test.each(['range (k)', 'list (k)', 'range (k, j)'])('default partition of a table by %s', (strategy) =>
    withOwner(async (owner) => {
        await owner.run(`create table t (k int, j int) partition by ${strategy}`);
        expect(await lines(owner, "ensure_default_partition_v1('t')")).toEqual(['t_default created']);
        await owner.run('alter table t_default rename to rest; insert into t values (1, 2)');
        expect(await lines(owner, "ensure_default_partition_v1('t')")).toEqual(['rest exists']);
    }));

describe('trees', () => {
    test('every level of every table in one call; again nothing is locked; a batch adds what is missing', () =>
        withOwner(async (owner) => {
            await owner.run(pair);
            const made = await lines(owner, tree);
            expect(made).toEqual([
                'meta_42 42 42 created', 'meta_42_0000001000000 1000000 2000000 created',
                'blob_42 42 42 created', 'blob_42_0000001000000 1000000 2000000 created']);
            await owner.run('begin read only');
            expect(await lines(owner, tree)).toEqual(exists(made));
            expect(await owner.run(held)).toEqual([{ n: 0 }]);
            await owner.run('commit');
            const batch = `[${path}, [{"list": 42}, {"range": 2000000, "step": "1000000"}], [{"list": "43"}, {"range": "0", "step": "1000000", "ahead": 1}]]`;
            const more = await lines(owner, `ensure_partition_tree_v1('{blob,meta}', '${batch}')`);
            expect(more.filter((line) => line.endsWith(' created'))).toHaveLength(8);
            expect(more.filter((line) => line.endsWith(' exists'))).toHaveLength(4);
            await owner.run('insert into meta values (42, 1500000), (42, 2999999), (43, 5); insert into blob select originator, seq from meta');
        }));

    test('three levels, list, range by month, hash; an identity column reaches the leaves from 17 on', () =>
        withOwner(async (owner) => {
            await owner.run(`create table t (id bigint generated always as identity, tenant text, at timestamptz, k int) partition by list (tenant)`);
            const deep = `[{"list": "acme"}, {"range": "2026-11-21", "step": "1 month", "key": "at"}, {"hash": 2, "key": "k"}]`;
            const made = await lines(owner, `ensure_partition_tree_v1('{t}', '${deep}')`);
            expect(made.map((line) => line.split(' ')[0])).toEqual(['t_acme', 't_acme_2026_11', 't_acme_2026_11_0_of_2', 't_acme_2026_11_1_of_2']);
            await owner.run("insert into t (tenant, at, k) select 'acme', '2026-11-30', n from generate_series(1, 20) as n");
            const identity = await owner.run("select count(*)::int as n from pg_attribute where attname = 'id' and attidentity <> ''");
            const [server] = await owner.run("select current_setting('server_version_num')::int as n");
            expect(identity).toEqual([{ n: Number(server?.n) >= 170000 ? 5 : 1 }]);
        }));

    test('a partition that must be partitioned itself and is not, or by another key, is NS001', () =>
        withOwner(async (owner) => {
            await owner.run(`${pair}; create table plain partition of meta for values in (42);
                             create table other partition of meta for values in (43) partition by hash (seq)`);
            expectError(await owner.attempt(`select ensure.${tree}`), 'NS001');
            expectError(await owner.attempt(`select ensure.${tree.replace('42', '43')}`), 'NS001');
            expect(await owner.run("select count(*)::int as n from pg_inherits where inhparent = 'blob'::regclass")).toEqual([{ n: 0 }]);
        }));

    test.each([
        ["null, '[]'", '22004'],
        ["array['meta', null]::regclass[], '[]'", '22004'],
        ["'{meta}', null", '22004'],
        ["'{meta}', '[]'", '22023'],
        ["'{meta}', '42'", '22023'],
        ["'{meta}', '{\"list\": 42}'", '22023'],
        ["'{meta}', '[[{\"list\": 42}], []]'", '22023'],
        ["'{meta}', '[{\"lists\": 42}]'", '22023'],
        ["'{meta}', '[{\"list\": 42, \"range\": 1}]'", '22023'],
        ["'{meta}', '[{\"list\": 42, \"stepp\": 1}]'", '22023'],
        ["'{meta}', '[{\"list\": [42]}]'", '22023'],
        ["'{meta}', '[{\"list\": \"x\"}]'", '22023'],
        ["'{meta}', '[{\"list\": 42}, {\"range\": 5, \"key\": \"seq\"}]'", '22023'],
        ["'{meta}', '[{\"list\": 42}, {\"range\": 5, \"step\": \"10\"}]'", '22023'],
        ["'{meta}', '[{\"list\": 42}, {\"range\": \"x\", \"step\": \"10\", \"key\": \"seq\"}]'", '22023'],
        ["'{meta}', '[{\"list\": 42}, {\"range\": 5, \"step\": \"10\", \"key\": \"nope\"}]'", '42703'],
        ["'{meta}', '[{\"list\": 42}, {\"range\": 5, \"step\": \"10\", \"key\": \"payload\"}]'", '0A000'],
        ["'{meta}', '[{\"list\": 42}, {\"hash\": 0, \"key\": \"seq\"}]'", '22023'],
        ["'{meta}', '[{\"list\": 42}, {\"hash\": 5000, \"key\": \"seq\"}]'", '54000'],
        ["'{meta}', '[{\"range\": 5, \"step\": \"10\"}]'", '42809'],
        ["'{plain}', '[{\"list\": 42}]'", '42809'],
        ["'{meta}', '[{\"list\": 42}]', '-1 s'", '22023'],
    ])('%s is %s and nothing is created', (args, code) =>
        withOwner(async (owner) => {
            await owner.run(`${pair}; create table plain (k int)`);
            const { message } = expectError(await owner.attempt(`select ensure.ensure_partition_tree_v1(${args})`), code);
            expect(message).toMatch(/^(?![A-Z][a-z]).*[^.]$/s);
            expect(await owner.run('select * from pg_inherits where inhparent in (\'meta\'::regclass, \'blob\'::regclass)')).toEqual([]);
        }));
});

describe('check_coverage_v1', () => {
    const covers = async (session: Session, table: string, keys: string): Promise<unknown> =>
        (await session.run(`select ensure.check_coverage_v1('${table}', '${keys}') as covers`))[0]?.covers;

    test('true for a row that has a partition at every level, false for one that has none, or only a default one', () =>
        withOwner(async (owner) => {
            await owner.run(`${pair}; create table meta_rest partition of meta default`);
            await lines(owner, tree);
            for (const [keys, covered] of [
                ['{"originator": 42, "seq": 1000000}', true], ['{"originator": 42, "seq": 1999999}', true],
                ['{"originator": 42, "seq": 999999}', false], ['{"originator": 42, "seq": 2000000}', false],
                ['{"originator": 43, "seq": 1500000}', false], ['{"originator": null, "seq": 1500000}', false],
                ['{"originator": 42, "seq": null}', false], ['{"originator": 42, "seq": "1500000", "other": 1}', true],
            ] as const) expect(await covers(owner, 'meta', keys), keys).toBe(covered);
            for (const keys of ['{"originator": 42}', '{}', '[]', '{"originator": 42, "seq": "x"}', '{"originator": [42]}']) {
                expectError(await owner.attempt(`select ensure.check_coverage_v1('meta', '${keys}')`), '22023');
            }
        }));

    test.each([
        ['timestamptz', "'1 month', '2026-11-21', ahead => 2, zone => 'Pacific/Apia'", '2026-12-31 09:59:59+00', '2027-01-31 12:00:00+00'],
        ['timestamptz', "'1 month', '2026-11-21', ahead => 2, zone => 'America/New_York'", '2026-11-01 04:00:00+00', '2026-11-01 03:59:59+00'],
        ['date', "'1 week', '2026-11-21'", '2026-11-22', '2026-11-23'],
        ['bigint', "'1 day', '2026-11-21', epoch => 'ms'", '1795305599999', '1795305600000'],
        ['numeric', "'0.5', 1.25", '1.25', '1.5'],
        ['integer', "'10', -5", '-1', '0'],
        ['uuid', "'1 day', '2026-11-21 12:00:00+00'", '019aa000-0000-7000-8000-000000000000', '119aa000-0000-7000-8000-000000000000'],
    ])('%s by %s covers %s and not %s, by name or not', (type, args, inside, outside) =>
        withOwner(async (owner) => {
            await owner.run(`create table t (k ${type}) partition by range (k)`);
            if (type === 'uuid') {
                await owner.run("select ensure.ensure_partitions_v1('t', '1 day', '019aa000-0000-7000-8000-000000000000'::uuid)");
            } else {
                await owner.run(`select ensure.ensure_partitions_v1('t', ${args})`);
            }
            const both = async () => [await covers(owner, 't', `{"k": "${inside}"}`), await covers(owner, 't', `{"k": "${outside}"}`)];
            expect(await both()).toEqual([true, false]);
            await owner.run(`do $$ declare r record; begin for r in select inhrelid::regclass as p, row_number() over () as n from pg_inherits
                             loop execute format('alter table %s rename to odd_%s', r.p, r.n); end loop; end $$`);
            expect(await both()).toEqual([true, false]);
        }));

    test('takes no lock, answers while others hold ACCESS EXCLUSIVE, read-only; hash below hash as well', () =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run(`${pair}; create table h (k int, v int) partition by hash (k)`);
            await lines(a, tree);
            await lines(a, "ensure_hash_partitions_v1('h', 3)");
            await a.run('begin; lock table meta, h in access exclusive mode');
            await b.run("begin read only; set local lock_timeout = '1ms'");
            expect(await covers(b, 'meta', '{"originator": 42, "seq": 1500000}')).toBe(true);
            expect(await covers(b, 'h', '{"k": 1}')).toBe(true);
            expect(await b.run(held)).toEqual([{ n: 0 }]);
            await b.run('rollback');
            await a.run('rollback; create table h2 (k int, v int) partition by hash (k); create table h20 partition of h2 for values with (modulus 2, remainder 0) partition by hash (v)');
            await lines(a, "ensure_hash_partitions_v1('h2', 2)");
            const answers = [];
            for (let k = 0; k < 8; k++) answers.push(await covers(b, 'h2', `{"k": ${k}, "v": 1}`));
            expect(new Set(answers)).toEqual(new Set([true, false]));
        })));

    test.each(isolationLevels)('%s: a partition that went away since the snapshot does not count', (isolation) =>
        withTestDatabase(({ url }) => withSessions(url, ['a', 'b'], async ({ a, b }) => {
            await a.run("create table t (k int) partition by range (k); select ensure.ensure_partitions_v1('t', '10', 5)");
            await b.run(`begin isolation level ${isolation}; select 1`);
            expect(await covers(b, 't', '{"k": 5}')).toBe(true);
            await a.run('alter table t detach partition t_0000000000000');
            expect(await covers(b, 't', '{"k": 5}')).toBe(false);
        })));
});

const families = [
    {
        name: 'list', setup: 'create table t (k int, who int) partition by list (k)', made: 1,
        call: (round: number) => `ensure_list_partitions_v1('t', array[${round}], max_wait => '60 s')`,
        insert: (round: number, caller: number) => `insert into t values (${round}, ${caller})`,
    },
    {
        name: 'hash', setup: Array.from({ length: 10 }, (_, n) => `create table t${n} (k int, who int) partition by hash (k)`).join(';'), made: 3,
        call: (round: number) => `ensure_hash_partitions_v1('t${round}', 3, max_wait => '60 s')`,
        insert: (round: number, caller: number) => `insert into t${round} values (${round}, ${caller})`,
    },
    {
        name: 'default', setup: Array.from({ length: 10 }, (_, n) => `create table t${n} (k int, who int) partition by list (k)`).join(';'), made: 1,
        call: (round: number) => `ensure_default_partition_v1('t${round}', max_wait => '60 s')`,
        insert: (round: number, caller: number) => `insert into t${round} values (${round}, ${caller})`,
    },
    {
        name: 'tree', setup: pair, made: 4,
        call: (round: number) => `ensure_partition_tree_v1('{meta,blob}', '[{"list": "${round}"}, {"range": "5", "step": "100", "key": "seq"}]', max_wait => '60 s')`,
        insert: (round: number, caller: number) => `insert into meta values (${round}, ${caller}); insert into blob values (${round}, ${caller})`,
    },
];

/**
 * What a client does at SERIALIZABLE, where rows that share a page of an index may not go together with those of others:
 * again, from the statement or from the beginning of the transaction. What was rolled back does not count.
 */
const again = (inTransaction: boolean, statements: string[]): Act => async (run) => {
    let rows: Outcome['rows'] = [];
    for (let [next, tries] = [0, 1]; ;) {
        const outcome = await run(statements[next] ?? 'commit');
        rows.push(...outcome.rows);
        if (outcome.code === '40001' && tries < 50) {
            tries += 1;
            if (!inTransaction) continue;
            [rows, next] = [[], 0];
            await run('rollback');
            await run('begin');
        } else if (outcome.error || next === statements.length - (inTransaction ? 0 : 1)) {
            return { ...outcome, rows };
        } else {
            next += 1;
        }
    }
};

describe.each(families)('$name: 16 callers', ({ setup, made, call, insert }) => {
    const rounds = 3;
    describe.each(isolationLevels)('%s', (isolation) => {
        test.for([
            ['direct', 'autocommit'], ['direct', 'inside an inserting transaction'], ['through PgBouncer', 'inside an inserting transaction'],
        ])('%s, %s: one creates, the others find, every row is there', async ([route, shape], context) => {
            await withTestDatabase(async (database) => {
                const url = route === 'direct' ? database.url : pooled(context, database);
                await withSessions(database.url, ['dba'], async ({ dba }) => {
                    await dba.run(setup);
                    const report = await stampede({
                        owner: database.url, url, callers: 16, rounds, isolation, transaction: shape !== 'autocommit',
                        steps: (caller, round) => {
                            const statements = [`select outcome from ensure.${call(round)}`, insert(round, caller)];
                            return isolation === 'serializable' ? again(shape !== 'autocommit', statements) : statements;
                        },
                    });
                    expect(report.codes).toEqual({ ok: 16 * rounds });
                    expect(report.outcomes.flatMap(({ rows }) => rows).filter(({ outcome }) => outcome === 'created')).toHaveLength(rounds * made);
                });
            });
        });
    });
});
