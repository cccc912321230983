import { describe, expect, test } from 'vitest';
import type { Session } from '../../scripts/harness/sessions.js';
import { expectError, major, missing, sharedOwner, withOwner } from '../context.js';
import { withoutGuard } from '../mutate.js';

interface Ask {
    from?: string;
    until?: string;
    ahead?: number;
    zone?: string;
    origin?: string;
    epoch?: string;
}

interface Cell {
    lower_bound: string;
    upper_bound: string;
    label: string;
}

const pinned = `set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set standard_conforming_strings = on`;

/** A session whose settings are those that the public functions pin. Nothing is changed by it. */
const withPinned = sharedOwner(pinned);

/** The same in a database of the test's own, for what makes tables or replaces functions. */
const withOwn = (body: (owner: Session) => Promise<void>): Promise<void> =>
    withOwner(async (owner) => {
        await owner.run(pinned);
        await body(owner);
    });

const text = (value: string | undefined): string => (value === undefined ? 'null' : `'${value}'`);

/** The call for a key of this type; what its parentheses say is the type modifier. */
function call(type: string, step: string, { from, until, ahead = 0, zone = 'UTC', origin, epoch }: Ask): string {
    const [, name = '', first, second = '0'] = /^(\w+)(?:\((\d+)(?:,(-?\d+))?\))?$/.exec(type) ?? [];
    const typmod = first === undefined ? -1
        : name === 'numeric' ? ((Number(first) << 16) | (Number(second) & 2047)) + 4 : Number(first);
    return `ensure._grid_v1('${name}'::regtype, ${typmod}, '${step}', ${text(from)}, ${text(until)}, ${ahead},
                            '${zone}', ${text(origin)}, ${text(epoch)})`;
}

const grid = async (owner: Session, type: string, step: string, ask: Ask): Promise<Cell[]> =>
    await owner.run(`select * from ${call(type, step, ask)}`) as unknown as Cell[];

const bounds = (cells: Cell[]): string[] => cells.map((cell) => `${cell.lower_bound} ${cell.upper_bound}`);
const labels = (cells: Cell[]): string[] => cells.map((cell) => cell.label);

/** Neighbours share their bound, no cell is empty, no label comes twice. */
function expectGrid(cells: Cell[]): void {
    expect(cells.slice(1).map((cell) => cell.lower_bound)).toEqual(cells.slice(0, -1).map((cell) => cell.upper_bound));
    expect(cells.filter((cell) => cell.lower_bound === cell.upper_bound)).toEqual([]);
    expect(new Set(labels(cells)).size).toBe(cells.length);
}

/** A uuid of version 7 for a time in milliseconds, its other bits all zero or all one. */
function uuid7(milliseconds: number, rest: '0' | 'f' = '0'): string {
    const hex = milliseconds.toString(16).padStart(12, '0');
    return rest === '0' ? `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`
        : `${hex.slice(0, 8)}-${hex.slice(8)}-7fff-bfff-ffffffffffff`;
}

/** Numbers that come again: mulberry32. */
function random(seed: number): (below: number) => number {
    let state = seed;
    return (below) => {
        state = (state + 0x6d2b79f5) | 0;
        let t = Math.imul(state ^ (state >>> 15), 1 | state);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return Math.floor(((t ^ (t >>> 14)) >>> 0) / 4294967296 * below);
    };
}

describe('bounds are what PostgreSQL prints for a partition', () => {
    const cases: [string, string, Ask][] = [
        ['smallint', '10', { from: '-15', until: '15' }],
        ['smallint', '10000', { from: '-32768', until: '32767' }],
        ['integer', '1000000', { from: '-2147483648', ahead: 1 }],
        ['integer', '1000000', { from: '2147483647' }],
        ['bigint', '1000000000000000000', { from: '-9223372036854775808', until: '9223372036854775807' }],
        ['numeric', '0.25', { from: '-0.3', ahead: 3 }],
        ['numeric', '1000', { from: '-1', ahead: 2, origin: '0.100' }],
        ['numeric', '1000.000', { from: '123456789012345678901234567890', ahead: 1 }],
        ['numeric(10,2)', '1000', { from: '-1', ahead: 2 }],
        ['numeric(10,2)', '0.25', { from: '-1', ahead: 9 }],
        ['numeric(4,2)', '60', { from: '-99.99', until: '99.99' }],
        ['numeric(20)', '500', { from: '7', ahead: 1 }],
        ...(major >= 15 ? [['numeric(5,-2)', '300', { from: '-700', ahead: 4 }]] as [string, string, Ask][] : []),
        ['date', '1 day', { from: '2026-02-28', ahead: 3 }],
        ['date', '1 month', { from: '0001-12-15 BC', ahead: 1 }],
        ['date', '1 century', { from: '12026-01-01' }],
        ['timestamp', '1 month', { from: '0044-03-15 BC', ahead: 1 }],
        ['timestamp', '1 hour', { from: '2026-11-20 12:34:56', ahead: 1, origin: '2000-01-01 00:00:00.5' }],
        ['timestamp(3)', '1 second', { from: '2026-11-20 12:34:56', ahead: 1, origin: '2000-01-01 00:00:00.125' }],
        ['timestamptz', '1 month', { from: '0044-03-15 BC', ahead: 1 }],
        ['timestamptz', '1 week', { from: '2026-03-29', ahead: 2, zone: 'Europe/Berlin' }],
        ['timestamptz', '10 minutes', { from: '12026-11-20', ahead: 1, origin: '2000-01-01 00:00:00.000001' }],
        ['timestamptz(0)', '1 day', { from: '2026-11-20', ahead: 1 }],
        ['timestamptz', '1 decade', { from: '1890-01-01', ahead: 1, zone: 'Europe/Berlin' }], // an offset of 00:53:28
        ['uuid', '1 day', { from: '2026-11-20', ahead: 2, zone: 'Europe/Berlin' }],
        ['uuid', '1 century', { from: '1980-01-01' }],
        ['uuid', '1 month', { from: '10889-08-02 05:31:50.655' }],
        ['integer', '1 month', { from: '2038-01-01', epoch: 's' }],
        ['integer', '1 month', { from: '-2147483648', epoch: 's' }],
        ['bigint', '1 day', { from: '1969-12-31', ahead: 1, epoch: 'us' }],
        ['bigint', '1 day', { from: '9223372036854775807', epoch: 'ns' }],
        ['numeric', '1 day', { from: '1969-12-31', ahead: 1, epoch: 'ns' }],
        ['numeric(20,3)', '1 day', { from: '1969-12-31', ahead: 1, epoch: 's' }],
    ];

    test.each(cases)('%s by %s %o', (type, step, ask) =>
        withOwn(async (owner) => {
            await owner.run(`create table t (k ${type}) partition by range (k)`);
            expect(await owner.run("select atttypmod from pg_attribute where attrelid = 't'::regclass and attname = 'k'"))
                .toEqual([{ atttypmod: Number(/, (-?\d+), /.exec(call(type, step, ask))?.[1]) }]);
            const cells = await grid(owner, type, step, ask);
            expectGrid(cells);
            const literal = (bound: string): string => (/^M..VALUE$/.test(bound) ? bound : `'${bound}'`);
            for (const [at, cell] of cells.entries()) {
                await owner.run(`create table p${at} partition of t
                                 for values from (${literal(cell.lower_bound)}) to (${literal(cell.upper_bound)})`);
            }
            const printed = await owner.run(`select pg_get_expr(relpartbound, 0) as bound from pg_class
                                             where relispartition order by substr(relname, 2)::int`);
            expect(printed.map((row) => String(row.bound).replaceAll("'", '')))
                .toEqual(cells.map((cell) => `FOR VALUES FROM (${cell.lower_bound}) TO (${cell.upper_bound})`));
        }));
});

test.each<[string, string, Ask]>([
    ['numeric(10,2)', '10', { from: '9.995' }],
    ['numeric(10,2)', '10', { from: '-0.005', until: '9.994' }],
    ['numeric(12,0)', '1 day', { from: '86399.5', epoch: 's' }],
    ['timestamptz(0)', '1 day', { from: '2026-11-20 23:59:59.6' }],
    ['timestamp(3)', '1 day', { from: '2026-11-20 23:59:59.9996' }],
])('a value that %s rounds leads to the cell where an insert puts it: %s %o', (type, step, ask) =>
    withOwn(async (owner) => {
        const [cell] = await grid(owner, type, step, ask);
        await owner.run(`create table t (k ${type}) partition by range (k);
                         create table p partition of t for values from ('${cell?.lower_bound}') to ('${cell?.upper_bound}');
                         insert into t values ('${ask.from}')`);
    }));

test('negative control: not rounded, the value leads to the cell before', () =>
    withOwn(async (owner) => {
        await withoutGuard(owner, '_number_point_v1', "if argument <> 'origin' then", 'if false then');
        await withoutGuard(owner, '_time_grid_v1', 'if key_typmod >= 0 and', 'if false and');
        expect(labels(await grid(owner, 'numeric(10,2)', '10', { from: '9.995' }))).toEqual(['0000000000000']);
        expect(labels(await grid(owner, 'timestamptz(0)', '1 day', { from: '2026-11-20 23:59:59.6' }))).toEqual(['2026_11_20']);
    }));

describe('numbers', () => {
    test.each<[string, string, Ask, string[]]>([
        ['integer', '10', { from: '5', until: '20', ahead: 1 }, ['0 10', '10 20', '20 30', '30 40']],
        ['integer', '10', { from: '25', origin: '3' }, ['23 33']],
        ['integer', '10', { from: '-1', origin: '-3' }, ['-3 7']],
        ['bigint', '10', { from: '7.0' }, ['0 10']],
        ['smallint', '10000', { from: '32767' }, ['30000 MAXVALUE']],
        ['smallint', '10000', { from: '-32768' }, ['MINVALUE -30000']],
        ['smallint', '32768', { from: '-32768' }, ['-32768 0']],
        ['bigint', '9223372036854775807', { from: '0' }, ['0 9223372036854775807']],
        // Quotients of numeric are rounded: the last key of a cell is where that shows.
        ['bigint', '10000000000', { from: '1234567889999999999' }, ['1234567880000000000 1234567890000000000']],
        ['bigint', '2', { from: '9223372036854775805' }, ['9223372036854775804 9223372036854775806']],
        ['bigint', '10000000000', { from: '-1234567890000000001' }, ['-1234567900000000000 -1234567890000000000']],
        ['numeric', '0.3', { from: '0.8999999999999999999999999999999' }, ['0.6 0.9']],
        ['numeric', '0.3', { from: '-0.0000000000000000000000000000001' }, ['-0.3 0']],
        ['numeric', '1000', { from: '1000.00' }, ['1000 2000']],
        ['numeric(10,2)', '1000', { from: '999.99' }, ['0.00 1000.00']],
        ['numeric(10,2)', '0.10', { from: '0', origin: '0.05' }, ['-0.05 0.05']],
        ['numeric(4,2)', '60', { from: '-99.99', until: '99.99' }, ['MINVALUE -60.00', '-60.00 0.00', '0.00 60.00', '60.00 MAXVALUE']],
        ['numeric(4,2)', '99.99', { from: '0' }, ['0.00 99.99']],
        ['numeric', '1', { from: '123456789012345678901234567890' }, ['123456789012345678901234567890 123456789012345678901234567891']],
    ])('%s by %s %o', (type, step, ask, expected) =>
        withPinned(async (owner) => {
            expect(bounds(await grid(owner, type, step, ask))).toEqual(expected);
        }));

    test('labels are padded to 13 digits, so that names sort; a sign is m, a point is _', () =>
        withPinned(async (owner) => {
            expect(labels(await grid(owner, 'bigint', '1500000', { from: '0', ahead: 1 }))).toEqual(['0000000000000', '0000001500000']);
            expect(labels(await grid(owner, 'bigint', '10', { from: '-20', ahead: 1 }))).toEqual(['m0000000000020', 'm0000000000010']);
            expect(labels(await grid(owner, 'bigint', '1', { from: '12345678901234' }))).toEqual(['12345678901234']);
            expect(labels(await grid(owner, 'bigint', '10', { from: '-9223372036854775808' }))).toEqual(['minvalue']);
            expect(labels(await grid(owner, 'numeric', '0.25', { from: '-0.5', ahead: 3 })))
                .toEqual(['m0000000000000_5', 'm0000000000000_25', '0000000000000', '0000000000000_25']);
            expect(labels(await grid(owner, 'numeric(12,2)', '1000', { from: '0', ahead: 1 }))).toEqual(['0000000000000', '0000000001000']);
            const positive = labels(await grid(owner, 'numeric', '0.125', { from: '0', ahead: 900 }));
            expect([...positive].sort()).toEqual(positive);
        }));
});

describe('times', () => {
    test.each<[string, string, Ask, string[], string[]]>([
        ['date', '1 month', { from: '2026-03-30', origin: '2026-01-31' }, ['2026-02-28 2026-03-31'], ['2026_02_28']],
        ['timestamptz', '1 century', { from: '2026-11-20' }, ['2000-01-01 00:00:00+00 2100-01-01 00:00:00+00'], ['2000']],
        ['timestamp', '10000 years', { from: '2026-11-20' }, ['2000-01-01 00:00:00 12000-01-01 00:00:00'], ['2000']],
        ['timestamp', '1 decade', { from: '12026-11-20' }, ['12020-01-01 00:00:00 12030-01-01 00:00:00'], ['12020']],
        ['date', '1 year', { from: '0001-06-01 BC', ahead: 1 }, ['0001-01-01 BC 0001-01-01', '0001-01-01 0002-01-01'], ['0001bc', '0001']],
        ['date', '1 month', { from: '0044-03-15 BC' }, ['0044-03-01 BC 0044-04-01 BC'], ['0044_03bc']],
        ['date', '1 day', { from: '0044-03-15 BC' }, ['0044-03-15 BC 0044-03-16 BC'], ['0044_03_15bc']],
        ['date', '1 quarter', { from: '2026-11-20', ahead: 1 }, ['2026-10-01 2027-01-01', '2027-01-01 2027-04-01'], ['2026_10', '2027_01']],
        ['date', '2 Quarters', { from: '2026-11-20' }, ['2026-07-01 2027-01-01'], ['2026_07']],
        ['date', '4 quarters', { from: '2026-11-20' }, ['2026-01-01 2027-01-01'], ['2026']],
        ['date', '12 months', { from: '2026-11-20', origin: '2000-07-01' }, ['2026-07-01 2027-07-01'], ['2026_07']],
        ['date', '1 month', { from: '2026-11-20', origin: '2000-01-15' }, ['2026-11-15 2026-12-15'], ['2026_11_15']],
        ['date', '1 month', { from: '2026-02-28', ahead: 1, origin: '2026-01-31' }, ['2026-02-28 2026-03-31', '2026-03-31 2026-04-30'], ['2026_02_28', '2026_03_31']],
        ['date', '1 week', { from: '2026-11-22' }, ['2026-11-16 2026-11-23'], ['2026_11_16']],
        ['date', '1 day', { from: '2026-11-20 23:30:00-05', zone: 'UTC' }, ['2026-11-21 2026-11-22'], ['2026_11_21']],
        ['timestamptz', '1 day', { from: '2026-01-01' }, ['2026-01-01 00:00:00+00 2026-01-02 00:00:00+00'], ['2026_01_01']],
        ['timestamptz', '1 day', { from: '2026-11-20 05:00', zone: 'Europe/Berlin', origin: '2000-01-01 06:00' },
            ['2026-11-19 05:00:00+00 2026-11-20 05:00:00+00'], ['2026_11_19_06']],
        ['timestamptz', '24 hours', { from: '2026-11-20 00:30', zone: 'Europe/Berlin' }, ['2026-11-19 00:00:00+00 2026-11-20 00:00:00+00'], ['2026_11_19_00']],
        ['timestamptz', '1 hour', { from: '2026-11-20 13:34:00+00' }, ['2026-11-20 13:00:00+00 2026-11-20 14:00:00+00'], ['2026_11_20_13']],
        ['timestamptz', '30 min', { from: '2026-11-20 13:34:00+00' }, ['2026-11-20 13:30:00+00 2026-11-20 14:00:00+00'], ['2026_11_20_1330']],
        ['timestamptz', '1 hour', { from: '2026-11-20 13:34:00+00', origin: '2000-01-01 00:05' }, ['2026-11-20 13:05:00+00 2026-11-20 14:05:00+00'], ['2026_11_20_1305']],
        ['timestamptz', '5 sec', { from: '2026-11-20 13:30:09.5' }, ['2026-11-20 13:30:05+00 2026-11-20 13:30:10+00'], ['2026_11_20_133005']],
        ['timestamp', '1 second', { from: '2026-11-20 13:30:06', origin: '2000-01-01 00:00:00.05' },
            ['2026-11-20 13:30:05.05 2026-11-20 13:30:06.05'], ['2026_11_20_13300505']],
        ['timestamptz', '1 second', { from: '2126-11-20 12:34:56.999999' }, ['2126-11-20 12:34:56+00 2126-11-20 12:34:57+00'], ['2126_11_20_123456']],
        ['timestamptz', '7 seconds', { from: '294276-12-31 23:00' }, ['294276-12-31 22:59:57+00 294276-12-31 23:00:04+00'], ['294276_12_31_225957']],
    ])('%s by %s %o', (type, step, ask, expected, names) =>
        withPinned(async (owner) => {
            const cells = await grid(owner, type, step, ask);
            expect(bounds(cells)).toEqual(expected);
            expect(labels(cells)).toEqual(names);
        }));

    test.each([
        ['timestamptz', undefined], ['timestamp', undefined], ['date', undefined], ['uuid', undefined],
        ['integer', 's'], ['bigint', 'ms'], ['bigint', 'us'], ['bigint', 'ns'], ['numeric', 's'],
    ] as const)('a key of type %s (%s) has a default, the month of now', (type, epoch) =>
        withPinned(async (owner) => {
            const [row] = await owner.run("select to_char(now(), 'YYYY_MM') as month");
            const cells = await grid(owner, type, '1 month', epoch ? { epoch } : {});
            expect(labels(cells)).toEqual([row?.month]);
        }));

    const zones = ['Europe/Berlin', 'America/Havana', 'Asia/Beirut', 'Pacific/Apia', 'Antarctica/Troll', 'Australia/Lord_Howe'];

    test.each(zones)('each hour of two years lies in one day, week and month of %s, and there is no hole', (zone) =>
        withPinned(async (owner) => {
            for (const year of [2011, 2026]) {
                for (const step of ['1 day', '1 week', '1 month']) {
                    const cells = await grid(owner, 'timestamptz', step, { from: `${year}-01-01`, until: `${year}-12-31 23:59`, zone });
                    expectGrid(cells);
                    const [strays] = await owner.run(`
                        with cells as materialized (
                            select g.label, g.lower_bound::timestamptz as low, g.upper_bound::timestamptz as high
                            from ${call('timestamptz', step, { from: `${year}-01-01`, until: `${year}-12-31 23:59`, zone })} as g)
                        select count(*)::int as n
                        from generate_series('${year}-01-01'::timestamp at time zone '${zone}',
                                             '${year}-12-31 23:30'::timestamp at time zone '${zone}', '30 minutes') as v (at)
                        left join cells as c on v.at >= c.low and v.at < c.high
                        where c.label is distinct from to_char(date_trunc('${step.slice(2)}', v.at at time zone '${zone}'), '${
                            step === '1 month' ? 'YYYY_MM' : 'YYYY_MM_DD'}')
                          and not (to_char(v.at at time zone '${zone}', 'HH24') = '00' -- that comes again
                                   and v.at at time zone '${zone}' = (v.at + interval '1 hour') at time zone '${zone}')`);
                    expect(strays, `${zone} ${step} ${year}`).toEqual({ n: 0 });
                    const one = cells[Math.floor(cells.length / 2)];
                    expect(await grid(owner, 'timestamptz', step, { from: String(one?.lower_bound), zone })).toEqual([one]);
                }
            }
        }));

    test.each<[string, string, string[], string[]]>([
        ['Europe/Berlin', '2026-03-29', ['2026-03-28 23:00:00+00 2026-03-29 22:00:00+00'], ['2026_03_29']],
        ['Europe/Berlin', '2026-10-25', ['2026-10-24 22:00:00+00 2026-10-25 23:00:00+00'], ['2026_10_25']],
        ['America/Havana', '2026-11-01', ['2026-11-01 05:00:00+00 2026-11-02 05:00:00+00'], ['2026_11_01']], // from the second midnight
        ['Asia/Beirut', '2026-03-29 12:00', ['2026-03-28 22:00:00+00 2026-03-29 21:00:00+00'], ['2026_03_29']], // begins at 01:00
        ['Pacific/Apia', '2011-12-29', ['2011-12-29 10:00:00+00 2011-12-30 10:00:00+00', '2011-12-30 10:00:00+00 2011-12-31 10:00:00+00'],
            ['2011_12_29', '2011_12_31']],
        ['Pacific/Apia', '1892-07-04', ['1892-07-04 11:26:56+00 1892-07-05 11:26:56+00'], ['1892_07_04']],
        ['America/Juneau', '1867-10-18', ['1867-10-17 08:57:41+00 1867-10-19 08:57:41+00'], ['1867_10_18']], // came twice
        ['Asia/Manila', '1844-12-30', ['1844-12-30 15:56:08+00 1844-12-31 15:56:08+00', '1844-12-31 15:56:08+00 1845-01-01 15:56:08+00'], ['1844_12_30', '1845_01_01']],
        ['Antarctica/Troll', '2026-03-29', ['2026-03-29 00:00:00+00 2026-03-29 22:00:00+00'], ['2026_03_29']],
        ['Australia/Lord_Howe', '2026-04-05', ['2026-04-04 13:00:00+00 2026-04-05 13:30:00+00'], ['2026_04_05']],
    ])('the day of %s at %s', (zone, from, expected, names) =>
        withPinned(async (owner) => {
            const cells = await grid(owner, 'timestamptz', '1 day', { from, zone, ahead: expected.length - 1 });
            expect(bounds(cells)).toEqual(expected);
            expect(labels(cells)).toEqual(names);
        }));

    test('negative control: without the look at empty cells the day that Apia skipped is one', () =>
        withOwn(async (owner) => {
            await withoutGuard(owner, '_time_grid_v1', 'if v_low < v_high and', 'if');
            const cells = await grid(owner, 'timestamptz', '1 day', { from: '2011-12-29', zone: 'Pacific/Apia', ahead: 1 });
            expect(() => expectGrid(cells)).toThrow();
        }));

    test('negative control: taken for true, the estimate of the first cell is one too far', () =>
        withOwn(async (owner) => {
            await withoutGuard(owner, '_time_grid_v1', 'exit when v_low <= v_from;', 'exit;');
            expect(labels(await grid(owner, 'date', '1 month', { from: '2026-03-30', origin: '2026-01-31' }))).toEqual(['2026_03_31']);
        }));

    test('hours are those of UTC: the hour that comes twice is two cells with two labels', () =>
        withPinned(async (owner) => {
            for (const zone of zones) {
                const cells = await grid(owner, 'timestamptz', '1 hour', { from: '2026-10-25 00:30', until: '2026-11-02', zone });
                expectGrid(cells);
                expect(cells.filter((cell) => Date.parse(cell.upper_bound) - Date.parse(cell.lower_bound) !== 3_600_000)).toEqual([]);
            }
            expect(labels(await grid(owner, 'timestamptz', '1 hour', { from: '2026-10-25 00:00+00', until: '2026-10-25 01:30+00', zone: 'Europe/Berlin' })))
                .toEqual(['2026_10_25_00', '2026_10_25_01']);
        }));

    test('the settings of a zone do not reach keys without one', () =>
        withPinned(async (owner) => {
            for (const type of ['timestamp', 'date']) {
                expect(await grid(owner, type, '1 day', { from: '2026-03-29', zone: 'Europe/Berlin' }))
                    .toEqual(await grid(owner, type, '1 day', { from: '2026-03-29' }));
                expect(labels(await grid(owner, type, '1 day', { from: '2026-03-29 23:30:00+00', zone: 'Europe/Berlin' }))).toEqual(['2026_03_30']);
            }
        }));

    test('any step, zone, origin and value: the cells are contiguous and hold the range, and each value leads to its own', () =>
        withPinned(async (owner) => {
            const below = random(7);
            const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
            const units = ['second', 'minute', 'hour', 'day', 'week', 'month', 'quarter', 'year', 'decade', 'century'];
            const more = [...zones, 'UTC', 'America/Juneau', 'Asia/Manila', 'Africa/Monrovia', 'Asia/Kathmandu', 'Pacific/Kwajalein', 'America/St_Johns'];
            const steps: Record<string, number> = {
                second: 1, minute: 60, hour: 3600, day: 86_400, week: 604_800, month: 2_629_746, quarter: 7_889_238,
                year: 31_556_952, decade: 315_569_520, century: 3_155_695_200 };
            for (let n = 0; n < 300; n += 1) {
                const type = pick(['timestamptz', 'timestamptz', 'timestamp', 'bigint', 'uuid']);
                const unit = pick(units);
                const step = `${1 + below(unit === 'century' ? 2 : 40)} ${unit}${unit === 'century' ? '' : 's'}`.replace('2 century', '2 centuries');
                const least = type === 'uuid' ? 1 : -6_000_000_000; // seconds from 1970, from the year 1780
                const from = least + below(10_000_000_000);
                const until = from + below(30) * Number.parseInt(step) * (steps[unit] ?? 0);
                const point = (seconds: number): string => {
                    const [day = '', time = ''] = new Date(seconds * 1000).toISOString().split('T');
                    return `${day.replace(/^\+0?/, '')} ${time.replace('Z', '+00')}`;
                };
                const ask = {
                    from: point(from), until: point(until), ahead: below(3), zone: pick(more),
                    ...(type === 'bigint' ? { epoch: 'ms' } : {}),
                    ...(below(3) === 0 ? { origin: point((type === 'uuid' ? 0 : least) + below(8_000_000_000)) } : {}),
                };
                const hint = `${type} by ${step} ${JSON.stringify(ask)}`;
                const cells = await grid(owner, type, step, ask).catch((error: unknown) => expect.fail(`${hint}: ${String(error)}`));
                try {
                    expectGrid(cells);
                } catch (error) {
                    throw new Error(hint, { cause: error });
                }
                const of = type === 'timestamp' ? `timezone('${ask.zone}', $$::timestamptz)` : '$$::timestamptz';
                const value = (at: string): string => (type === 'uuid' ? `'${uuid7(Math.floor(Date.parse(at.replace(' ', 'T').replace('+00', 'Z'))))}'::uuid`
                    : type === 'bigint' ? `(extract(epoch from '${at}'::timestamptz) * 1000)::bigint` : of.replace('$$', () => `'${at}'`));
                const key = (bound: string | undefined): string => (bound === 'MINVALUE' ? `'${type === 'uuid' ? '00000000-0000-0000-0000-000000000000' : '-9223372036854775808'}'::${type}`
                    : `'${String(bound)}'::${type}`);
                const place = cells.length - 1 - ask.ahead;
                expect(await owner.run(`select ${value(ask.from)} >= ${key(cells[0]?.lower_bound)} and ${value(ask.from)} < ${key(cells[0]?.upper_bound)} as first,
                    ${value(ask.until)} >= ${key(cells[place]?.lower_bound)} and ${value(ask.until)} < ${key(cells[place]?.upper_bound)} as last`), hint)
                    .toEqual([{ first: true, last: true }]);
                const only = (at: string): Ask => ({ ...ask, from: at, until: at, ahead: 0 });
                const between = cells.length > 2 ? cells[1] : undefined;
                if (between && type !== 'timestamp' && type !== 'uuid') {
                    expect(await grid(owner, type, step, only(between.lower_bound)), hint).toEqual([between]);
                }
                expect(await grid(owner, type, step, only(ask.until)), hint).toEqual([cells[place]]);
            }
        }));
});

describe('uuids of version 7', () => {
    test('the first and the last uuid of a millisecond lie in the cell of its time, which the time itself asks for too', () =>
        withPinned(async (owner) => {
            for (const zone of ['UTC', 'Europe/Berlin']) {
                const [day, next] = await grid(owner, 'uuid', '1 day', { from: '2026-11-20 12:00', ahead: 1, zone });
                const first = Date.parse(zone === 'UTC' ? '2026-11-20T00:00Z' : '2026-11-19T23:00Z');
                for (const value of [uuid7(first), uuid7(first, 'f'), uuid7(first + 86_399_999), uuid7(first + 86_399_999, 'f').toUpperCase()]) {
                    expect(await grid(owner, 'uuid', '1 day', { from: value, zone })).toEqual([day]);
                    expect(await owner.run(`select '${value}'::uuid >= '${day?.lower_bound}' and '${value}'::uuid < '${day?.upper_bound}' as inside`))
                        .toEqual([{ inside: true }]);
                }
                expect(await grid(owner, 'uuid', '1 day', { from: uuid7(first + 86_400_000), zone })).toEqual([next]);
                expect(labels([day, next] as Cell[])).toEqual(['2026_11_20', '2026_11_21']);
            }
            expect(bounds(await grid(owner, 'uuid', '1 day', { from: '2026-11-20' })))
                .toEqual(['01a19e86-2c00-0000-0000-000000000000 01a1a3ac-8800-0000-0000-000000000000']
                    .map(() => [Date.parse('2026-11-20T00:00Z'), Date.parse('2026-11-21T00:00Z')]
                        .map((at) => uuid7(at).replace('7000-8000', '0000-0000')).join(' ')));
        }));

    test('a time a hair before the end of a cell stays in it, a uuid may be the origin, the ends of 48 bits are open', () =>
        withPinned(async (owner) => {
            expect(labels(await grid(owner, 'uuid', '1 day', { from: '2026-11-20 23:59:59.9999999' }))).toEqual(['2026_11_20']);
            expect(labels(await grid(owner, 'uuid', '1 day', { from: '2026-11-20', origin: uuid7(Date.parse('2000-01-01T06:00Z')) }))).toEqual(['2026_11_19_06']);
            expect(bounds(await grid(owner, 'uuid', '1 century', { from: uuid7(0) }))).toEqual(['MINVALUE 00dc6acf-ac00-0000-0000-000000000000']);
            expect(bounds(await grid(owner, 'uuid', '1 year', { from: uuid7(2 ** 48 - 1, 'f') }))[0]).toMatch(/^\S+ MAXVALUE$/);
        }));
});

describe('keys that count from 1970', () => {
    test.each<[string, string, Ask, string[], string[]]>([
        ['integer', '1 month', { epoch: 's', from: '2026-11-20' }, ['1793491200 1796083200'], ['2026_11']],
        ['integer', '1 month', { epoch: 's', from: '1793491200' }, ['1793491200 1796083200'], ['2026_11']],
        ['integer', '1 month', { epoch: 's', from: '1793491199' }, ['1790812800 1793491200'], ['2026_10']],
        ['bigint', '1 day', { epoch: 'ms', from: '-1' }, ['-86400000 0'], ['1969_12_31']],
        ['bigint', '1 day', { epoch: 'us', from: '-86400000000' }, ['-86400000000 0'], ['1969_12_31']],
        ['bigint', '1 day', { epoch: 'us', from: '-86400000001' }, ['-172800000000 -86400000000'], ['1969_12_30']],
        ['bigint', '1 second', { epoch: 'ns', from: '-1' }, ['-1000000000 0'], ['1969_12_31_235959']],
        ['bigint', '1 second', { epoch: 'ns', from: '1763600000999999999' }, ['1763600000000000000 1763600001000000000'], ['2025_11_20_005320']],
        ['bigint', '1 second', { epoch: 'ns', from: '-1763600000000000001' }, ['-1763600001000000000 -1763600000000000000'], ['1914_02_11_230639']],
        ['bigint', '1 second', { epoch: 'ns', from: '2025-11-20 00:53:20.999999999Z' }, ['1763600000000000000 1763600001000000000'], ['2025_11_20_005320']],
        ['bigint', '1 second', { epoch: 'ns', from: '9223372035999999999' }, ['9223372035000000000 9223372036000000000'], ['2262_04_11_234715']],
        ['bigint', '1 second', { epoch: 'ns', from: '9223372036854775807' }, ['9223372036000000000 MAXVALUE'], ['2262_04_11_234716']],
        ['bigint', '1 second', { epoch: 'ns', from: '-9223372036854775808' }, ['MINVALUE -9223372036000000000'], ['minvalue']],
        ['bigint', '1 day', { epoch: 'us', from: '9223372036854775807' }, ['9223372022400000000 MAXVALUE'], ['294247_01_10']],
        ['integer', '1 day', { epoch: 's', from: '2147483647' }, ['2147472000 MAXVALUE'], ['2038_01_19']],
        ['integer', '1 day', { epoch: 's', from: '-2147483648' }, ['MINVALUE -2147472000'], ['minvalue']],
        ['bigint', '1 day', { epoch: 's', from: '2026-11-20 00:30', zone: 'Europe/Berlin' }, ['1795129200 1795215600'], ['2026_11_20']],
        ['numeric', '1 day', { epoch: 's', from: '1795132799.999' }, ['1795046400 1795132800'], ['2026_11_19']],
        ['numeric(16,6)', '1 day', { epoch: 's', from: '-0.000001' }, ['-86400.000000 0.000000'], ['1969_12_31']],
        ['numeric(6,0)', '1 day', { epoch: 's', from: '999999' }, ['950400 MAXVALUE'], ['1970_01_12']],
    ])('%s by %s %o', (type, step, ask, expected, names) =>
        withPinned(async (owner) => {
            const cells = await grid(owner, type, step, ask);
            expect(bounds(cells)).toEqual(expected);
            expect(labels(cells)).toEqual(names);
        }));

    test('the four units are one grid', () =>
        withPinned(async (owner) => {
            const ask = { from: '1969-10-01', until: '1970-03-01', zone: 'America/Havana' };
            const seconds = await grid(owner, 'bigint', '1 week', { ...ask, epoch: 's' });
            for (const [epoch, zeros] of [['ms', '000'], ['us', '000000'], ['ns', '000000000']] as const) {
                expect(await grid(owner, 'bigint', '1 week', { ...ask, epoch })).toEqual(seconds.map((cell) => ({
                    lower_bound: cell.lower_bound + zeros, upper_bound: cell.upper_bound + zeros, label: cell.label })));
            }
        }));

    test('negative control: rounded to microseconds, the last nanosecond of a cell leads to the next', () =>
        withOwn(async (owner) => {
            const ask: Ask = { epoch: 'ns', from: '1763600000999999999' };
            await withoutGuard(owner, '_time_point_v1', 'floor(v_number * (1000000 / unit))', 'round(v_number * (1000000 / unit))');
            expect(bounds(await grid(owner, 'bigint', '1 second', ask))).toEqual(['1763600001000000000 1763600002000000000']);
        }));
});

test('collations do not matter: only ASCII digits are digits, and units are read in any case; negative control', (context) =>
    withOwn(async (owner) => {
        const [icu] = await owner.run("select from pg_collation where collname = 'tr-x-icu'");
        if (!icu) missing(context, 'the server has no ICU collations');
        const turkish = (type: string, step: string, ask: Ask): string =>
            `select * from ${call(type, step, ask).replace(`'${step}'`, () => `'${step}' collate "tr-x-icu"`)}`;
        const minute = turkish('timestamp', '1 MINUTE', { from: '2026-11-20 13:30:05' });
        expect(labels(await owner.run(minute) as unknown as Cell[])).toEqual(['2026_11_20_1330']);
        const digits = [
            turkish('integer', '\u0663', { from: '1' }),
            turkish('integer', '10', { from: '\u0663' }),
            turkish('date', '\u0663 days', {}),
        ];
        for (const statement of digits) expectError(await owner.attempt(statement), '22023');
        await withoutGuard(owner, '_grid_cells_v1', / collate "C"/g, '');
        for (const statement of digits) expect((await owner.attempt(statement)).code).toBe('22P02');
        expect((await owner.attempt(minute)).code).toBe('22008');
    }));

describe('bad input is one clear coded error', () => {
    const million = 1_000_000;
    test.each<[string, string, Ask, string]>([
        ['text', '1', { from: '1' }, '0A000'],
        ['integer', '10', {}, '22004'],
        ['numeric', '10', { until: '5' }, '22004'],
        ['integer', '0', { from: '1' }, '22023'],
        ['integer', '-10', { from: '1' }, '22023'],
        ['integer', '1 day', { from: '1' }, '22023'],
        ['integer', '1.5', { from: '1' }, '22023'],
        ['integer', '', { from: '1' }, '22023'],
        ['numeric', '0.00', { from: '1' }, '22023'],
        ['numeric', '-0.5', { from: '1' }, '22023'],
        ['numeric', 'NaN', { from: '1' }, '22023'],
        ['numeric', '1e3', { from: '1' }, '22023'],
        ['integer', '10', { from: '1.5' }, '22023'],
        ['integer', '10', { from: 'one' }, '22023'],
        ['integer', '10', { from: '' }, '22023'],
        ['integer', '10', { from: '1', origin: '0.5' }, '22023'],
        ['numeric', '10', { from: 'NaN' }, '22023'],
        ['numeric', '10', { from: 'Infinity' }, '22023'],
        ['numeric', '10', { from: '1', until: '-Infinity' }, '22023'],
        ['numeric', '10', { from: '1', origin: 'NaN' }, '22023'],
        ['numeric(10,2)', '0.001', { from: '1' }, '22023'],
        ['numeric(10,2)', '1', { from: '1', origin: '0.125' }, '22023'],
        ['numeric(10,2)', '10', { from: '100000000' }, '22003'],
        ['numeric(4,2)', '60', { from: '99.99', ahead: 1 }, '22003'],
        ['smallint', '10', { from: '32768' }, '22003'],
        ['integer', '10', { from: '3000000000' }, '22003'],
        ['integer', '10', { from: '-2147483649' }, '22003'],
        ['integer', '10', { from: '1', until: '3000000000' }, '22003'],
        ['integer', '10', { from: '1', origin: '3000000000' }, '22003'],
        ['integer', '10', { from: '2147483647', ahead: 1 }, '22003'],
        ['integer', '10', { from: '20', until: '10' }, '22023'],
        ['integer', '1', { from: '0', until: '1000' }, '54000'],
        ['integer', '10', { from: '1', ahead: 2147483647 }, '54000'],
        ['numeric', '0.000001', { from: '0', until: '123456789012345678901234567890' }, '54000'],
        ['timestamptz', '0 days', {}, '22023'],
        ['timestamptz', '00 days', {}, '22023'],
        ['timestamptz', '-1 day', {}, '22023'],
        ['timestamptz', '1 month 2 days', {}, '22023'],
        ['timestamptz', '1', {}, '22023'],
        ['timestamptz', '1.5 days', {}, '22023'],
        ['timestamptz', '1 fortnight', {}, '22023'],
        ['timestamptz', '1 millisecond', {}, '22023'],
        ['timestamptz', 'P1D', {}, '22023'],
        ['date', '1 hour', {}, '22023'],
        ['date', '90 SECONDS', {}, '22023'],
        ['timestamptz', '1 day', { from: '42' }, '22007'],
        ['timestamptz', '1 day', { from: 'today' }, '22007'],
        ['timestamptz', '1 day', { from: '01/02/2026' }, '22007'],
        ['timestamptz', '1 day', { from: 'infinity' }, '22007'],
        ['timestamptz', '1 day', { from: '2026-11-20', until: '-infinity' }, '22007'],
        ['timestamptz', '1 day', { from: uuid7(million) }, '22007'],
        ['timestamptz', '1 day', { from: '2026-02-30' }, '22008'],
        ['timestamptz', '1 day', { from: '2026-02-02', until: '2026-02-01' }, '22023'],
        ['timestamptz', '1 day', { from: '2026-02-02', until: '2126-02-01' }, '54000'],
        ['timestamptz', '1 day', { from: '2026-02-02', ahead: 1000 }, '54000'],
        ['timestamptz', '1 month', { from: '2026-02-02', ahead: 2147483647 }, '54000'],
        ['timestamptz', '1 day', { from: '2026-02-02', zone: 'Mars/Olympus' }, '22023'],
        ['timestamptz', '1 day', { from: '2026-02-02', zone: 'Mars/Olympus+3' }, '22023'],
        ['timestamp', '1 day', { from: '2026-02-02', zone: 'Mars/Olympus' }, '22023'],
        ['timestamptz', '1 hour', { from: '2026-02-02', zone: 'UTC+3' }, '22023'],
        ['timestamptz', '1 day', { from: '2026-02-02', zone: '+03:00' }, '22023'],
        ['timestamptz', '1 day', { from: '2026-02-02', zone: 'IST' }, '22023'],
        ['timestamptz', '1 day', { from: '2026-02-02', zone: 'Etc/GMT+99' }, '22023'],
        ['timestamptz', '1 day', { from: '2026-02-02', origin: 'monday' }, '22007'],
        ['timestamptz', '1 day', { from: '294276-12-31' }, '22008'],
        ['timestamptz', '999999999 years', {}, '22008'],
        ['timestamptz', '999999999 quarters', {}, '22008'],
        ['timestamptz', '999999999 centuries', {}, '22008'],
        ['timestamptz', '999999999 days', {}, '22008'],
        ['timestamptz', '999999999 weeks', {}, '22008'],
        ['timestamptz', '999999999 hours', { ahead: 3 }, '22008'],
        ['timestamptz', '1000 hours', { from: '294276-12-31' }, '22008'],
        ['timestamptz', '1000 hours', { from: '4713-01-01 BC', until: '294276-12-31' }, '54000'],
        ['timestamptz', '999999999 decades', {}, '22008'],
        ['timestamptz(0)', '1 day', { from: '2026-02-02', origin: '2000-01-01 00:00:00.5' }, '22023'],
        ['timestamp(3)', '1 day', { from: '2026-02-02', origin: '2000-01-01 00:00:00.0005' }, '22023'],
        ['uuid', '1 day', { from: '550e8400-e29b-41d4-a716-446655440000' }, '22023'],
        ['uuid', '1 day', { from: '00000000-0000-0000-0000-000000000000' }, '22023'],
        ['uuid', '1 day', { from: uuid7(million).replace('-8000-', '-c000-') }, '22023'],
        ['uuid', '1 day', { from: '2026-11-20', origin: '1b4e28ba-2fa1-11d2-883f-0016d3cca427' }, '22023'],
        ['uuid', '1 day', { from: '42' }, '22007'],
        ['uuid', '1 day', { from: 'infinity' }, '22007'],
        ['uuid', '1 day', { from: '1969-12-31 23:59' }, '22008'],
        ['uuid', '1 day', { from: '10889-08-03' }, '22008'],
        ['uuid', '1 year', { from: '10889-08-02', ahead: 1 }, '22008'],
        ['uuid', '1 day', { from: '2026-11-20', origin: '2000-01-01 00:00:00.0001' }, '22023'],
        ['integer', '1 day', { epoch: 'min' }, '22023'],
        ['integer', '1 day', { epoch: '' }, '22023'],
        ['smallint', '1 day', { epoch: 's' }, '22023'],
        ['timestamptz', '1 day', { epoch: 's' }, '22023'],
        ['uuid', '1 day', { epoch: 'ms' }, '22023'],
        ['integer', '10', { epoch: 's' }, '22023'],
        ['integer', '1 day', { epoch: 's', from: '1.5' }, '22023'],
        ['integer', '1 day', { epoch: 's', from: 'infinity' }, '22007'],
        ['numeric', '1 day', { epoch: 's', from: 'NaN' }, '22007'],
        ['integer', '1 day', { epoch: 's', from: '2147483648' }, '22003'],
        ['integer', '1 day', { epoch: 's', from: '2050-01-01' }, '22003'],
        ['integer', '1 day', { epoch: 's', from: '1900-01-01' }, '22003'],
        ['integer', '1 day', { epoch: 's', from: '2147483647', ahead: 1 }, '22003'],
        ['bigint', '1 day', { epoch: 'ns', from: '9223372036854775808' }, '22003'],
        ['bigint', '1 day', { epoch: 'ns', from: '2300-01-01' }, '22003'],
        ['numeric(6,0)', '1 day', { epoch: 's' }, '22003'],
        ['bigint', '1 day', { epoch: 's', from: '9223372036854775807' }, '22008'],
        ['bigint', '1 day', { epoch: 's', from: '-9223372036854775808' }, '22008'],
        ['numeric', '1 day', { epoch: 's', from: '99999999999999999999999999' }, '22008'],
        ['bigint', '1 day', { epoch: 's', from: '0', origin: '2000-01-01 00:00:00.5' }, '22023'],
        ['bigint', '1 day', { epoch: 'ms', from: '0', origin: '2000-01-01 00:00:00.0001' }, '22023'],
        ['bigint', '1 day', { epoch: 's', from: '20', until: '10' }, '22023'],
        ['bigint', '1 day', { epoch: 's', from: '0', until: '86400000' }, '54000'],
    ])('%s by %s %o is %s', (type, step, ask, code) =>
        withPinned(async (owner) => {
            const { message } = expectError(await owner.attempt(`select ${call(type, step, ask)}`), code);
            expect(message).toMatch(/^(?![A-Z][a-z]).*[^.]$/s);
        }));
});
