/**
 * The reference that ensure_partitions_v1 is checked against: a grid of its own and partitions as disjoint intervals.
 * Keys are whole numbers of the smallest unit of their type; `bottom` and `top` are MINVALUE and MAXVALUE.
 */

export const bottom = -(1n << 200n);
export const top = 1n << 200n;

export interface Interval {
    low: bigint;
    high: bigint;
}

export interface Call {
    from: bigint;
    until: bigint | undefined;
    step: string;
    ahead: number;
    zone: string;
    origin: bigint | undefined;
}

export type Cells = { cells: Interval[] } | { code: string };

/** A place in the grid of bounds that operations share, so that they meet. */
export interface Frame {
    centre: bigint;
    scale: bigint;
    steps: string[];
    zones: string[];
}

export interface Kind {
    name: string;
    type: string;
    frames: Frame[];
    /** The least and the greatest key; undefined where there is none. */
    least?: bigint;
    greatest?: bigint;
    /** Where MINVALUE and the least key cover the same, and MAXVALUE what lies above the greatest. */
    bounded: boolean;
    epoch?: string;
    print(key: bigint): string;
    parse(text: string): bigint;
    /** How the argument of a call may be written: the same key, or the same cell, each time. */
    write(key: bigint, form: number, zone: string): string;
    grid(call: Call): Cells;
}

export const floorDiv = (a: bigint, b: bigint): bigint => (a >= 0n ? a / b : -((-a + b - 1n) / b));

/* Numbers */

function decimal(text: string, places: number): bigint {
    const match = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text);
    if (!match) throw new Error(`not a number: ${text}`);
    const [, sign, whole = '', fraction = ''] = match;
    if (!/^0*$/.test(fraction.slice(places))) throw new Error(`finer than ${places} places: ${text}`);
    const value = BigInt(whole + fraction.slice(0, places).padEnd(places, '0'));
    return sign ? -value : value;
}

function undecimal(value: bigint, places: number): string {
    const digits = (value < 0n ? -value : value).toString().padStart(places + 1, '0');
    const cut = digits.length - places;
    return `${value < 0n ? '-' : ''}${digits.slice(0, cut)}${places ? `.${digits.slice(cut)}` : ''}`;
}

function numbers(name: string, type: string, places: number, ends: [bigint, bigint] | undefined, steps: string[]): Kind {
    const [least, greatest] = ends ?? [undefined, undefined];
    const scale = places ? 10n ** BigInt(places) / 2n : 1n;
    const frame = (centre: bigint): Frame => ({ centre, scale, steps, zones: ['UTC'] });
    const outside = (key: bigint | undefined): boolean =>
        key !== undefined && ((least !== undefined && key < least) || (greatest !== undefined && key > greatest));
    return {
        name,
        type,
        frames: [frame(0n), ...(ends ? [frame(ends[1] - 5n * scale), frame(ends[0] + 5n * scale)] : [frame(10n ** 20n)])],
        ...(ends ? { least: ends[0], greatest: ends[1] } : {}),
        bounded: places === 0,
        print: (key) => undecimal(key, places),
        parse: (text) => decimal(text, places),
        write: (key) => undecimal(key, places),
        grid: ({ from, until = from, step, ahead, origin = 0n }) => {
            if (outside(origin) || outside(from) || outside(until)) return { code: '22003' };
            if (from > until) return { code: '22023' };
            const width = decimal(step, places);
            const first = floorDiv(from - origin, width);
            const last = floorDiv(until - origin, width) + BigInt(ahead);
            if (last - first >= 1000n) return { code: '54000' };
            if (greatest !== undefined && origin + last * width > greatest) return { code: '22003' };
            const bound = (n: bigint): bigint => {
                const at = origin + n * width;
                if (least !== undefined && at < least) return bottom;
                return greatest !== undefined && at > greatest ? top : at;
            };
            const cells: Interval[] = [];
            for (let n = first; n <= last; n++) cells.push({ low: bound(n), high: bound(n + 1n) });
            return { cells };
        },
    };
}

/* Times: microseconds since 1970, on the clock that they are given in */

const second = 1_000_000n;
const hour = 3600n * second;
const day = 24n * hour;

const utc = (text: string): bigint => BigInt(Date.parse(`${text}Z`)) * 1000n;
const mod = (a: bigint, b: bigint): bigint => a - floorDiv(a, b) * b;

function printTime(micros: bigint): string {
    const at = new Date(Number(floorDiv(micros, second)) * 1000);
    const year = at.getUTCFullYear();
    const two = (n: number): string => String(n).padStart(2, '0');
    const fraction = mod(micros, second);
    return [
        `${String(year > 0 ? year : 1 - year).padStart(4, '0')}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`,
        ` ${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`,
        fraction ? `.${fraction.toString().padStart(6, '0')}` : '',
        year > 0 ? '' : ' BC',
    ].join('');
}

function parseTime(text: string): bigint {
    const match = /^(\d+)-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?(?:\+00)?( BC)?$/.exec(text);
    if (!match) throw new Error(`not a time: ${text}`);
    const [, year, month, date, h = '0', m = '0', s = '0', fraction = '', bc] = match;
    const at = new Date(0);
    at.setUTCFullYear(bc ? 1 - Number(year) : Number(year), Number(month) - 1, Number(date));
    at.setUTCHours(Number(h), Number(m), Number(s));
    return BigInt(at.getTime()) * 1000n + BigInt(fraction.padEnd(6, '0'));
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** What the clocks of zone are ahead of UTC at that time. */
function offset(zone: string, micros: bigint): bigint {
    let format = formats.get(zone);
    if (!format) {
        format = new Intl.DateTimeFormat('en-US', {
            timeZone: zone, hourCycle: 'h23', era: 'short', year: 'numeric', month: 'numeric', day: 'numeric',
            hour: 'numeric', minute: 'numeric', second: 'numeric',
        });
        formats.set(zone, format);
    }
    const whole = floorDiv(micros, second) * 1000n;
    const part = Object.fromEntries(format.formatToParts(Number(whole)).map(({ type, value }) => [type, value]));
    const wall = Date.UTC(Number(part.year), Number(part.month) - 1, Number(part.day), Number(part.hour),
        Number(part.minute), Number(part.second));
    return (BigInt(wall) - whole) * 1000n;
}

/** The time when the clocks of zone show wall: of two the later one; in a gap as the clocks were before it. */
function fromWall(zone: string, wall: bigint): bigint {
    if (zone === 'UTC') return wall;
    const before = offset(zone, wall - 2n * day);
    const after = offset(zone, wall + 2n * day);
    if (before === after) return wall - before;
    const fitsBefore = offset(zone, wall - before) === before;
    const fitsAfter = offset(zone, wall - after) === after;
    if (fitsBefore !== fitsAfter) return wall - (fitsBefore ? before : after);
    return wall - (before < after ? before : after);
}

function addMonths(wall: bigint, months: number): bigint {
    const within = mod(wall, day);
    const at = new Date(Number((wall - within) / 1000n));
    const to = new Date(0);
    const month = at.getUTCMonth() + months;
    to.setUTCFullYear(at.getUTCFullYear(), month + 1, 0); // the last day of that month
    to.setUTCFullYear(at.getUTCFullYear(), month, Math.min(at.getUTCDate(), to.getUTCDate()));
    return BigInt(to.getTime()) * 1000n + within;
}

interface Step {
    months: number;
    days: number;
    micros: bigint;
}

function stepOf(text: string): Step {
    const [count = '', unit = ''] = text.split(' ');
    const n = Number(count);
    const none = { months: 0, days: 0, micros: 0n };
    if (unit.startsWith('month')) return { ...none, months: n };
    if (unit.startsWith('quarter')) return { ...none, months: 3 * n };
    if (unit.startsWith('year')) return { ...none, months: 12 * n };
    if (unit.startsWith('day')) return { ...none, days: n };
    if (unit.startsWith('week')) return { ...none, days: 7 * n };
    if (unit.startsWith('hour')) return { ...none, micros: BigInt(n) * hour };
    if (unit.startsWith('minute')) return { ...none, micros: BigInt(n) * 60n * second };
    if (unit.startsWith('second')) return { ...none, micros: BigInt(n) * second };
    throw new Error(`no unit: ${text}`);
}

function timeCells(call: Call, zoned: boolean): Cells {
    const { from, until = from, ahead } = call;
    if (from > until) return { code: '22023' };
    const step = stepOf(call.step);
    const zone = zoned && step.micros === 0n ? call.zone : 'UTC';
    const origin = call.origin === undefined ? utc(step.days ? '2000-01-03T00:00:00' : '2000-01-01T00:00:00')
        : call.origin + (zone === 'UTC' ? 0n : offset(zone, call.origin));
    const length = step.months ? BigInt(step.months) * 30n * day : BigInt(step.days) * day + step.micros;
    if ((until - from) / length + BigInt(ahead) > 1500n) return { code: '54000' };
    const bound = (n: number): bigint => fromWall(zone, step.months ? addMonths(origin, n * step.months)
        : origin + BigInt(n) * length);
    let n = Number(floorDiv(from - origin, step.months ? BigInt(step.months) * 31n * day : length)) - 3;
    while (bound(n) > from) n -= Math.max(1, Math.floor(Math.abs(n) / 50));
    while (bound(n + 1) <= from) n++;
    const cells: Interval[] = [];
    for (let more = -1; more < ahead; n++) {
        const cell = { low: bound(n), high: bound(n + 1) };
        if (cell.low >= cell.high) continue; // a day that the zone skipped
        cells.push(cell);
        if (cell.high > until) more++;
    }
    return { cells };
}

const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'America/Havana', 'Asia/Kathmandu', 'Australia/Lord_Howe', 'Pacific/Apia'];

/** Frames around times where clocks and calendars do something, in units of the key. */
function timeFrames(perMicro: (micros: bigint) => bigint, zoned: boolean, old: string[], hours: boolean): Frame[] {
    const long = ['1 day', '2 days', '1 week', '1 month', '1 quarter', '10 days'];
    const frame = (at: string, scale: bigint, steps: string[]): Frame => ({
        centre: perMicro(utc(at)), scale: perMicro(scale) - perMicro(0n), steps, zones: zoned ? zones : ['UTC', 'Europe/Berlin'] });
    return [
        ...['2026-03-29T00:00:00', '2011-12-30T00:00:00', '2026-11-01T00:00:00', ...old].map((at) => frame(at, day, long)),
        ...(hours ? [frame('2026-10-25T00:00:00', hour, ['1 hour', '2 hours', '30 minutes', '5 hours', '1 day'])] : []),
    ];
}

function times(
    name: string,
    type: string,
    toMicros: (key: bigint) => bigint,
    toKey: (micros: bigint) => bigint,
    options: Pick<Kind, 'print' | 'parse' | 'write' | 'bounded'> & Partial<Kind> & { zoned: boolean; old?: string[]; hours?: boolean },
): Kind {
    const { zoned, old = [], hours = true, ...rest } = options;
    return {
        name,
        type,
        frames: timeFrames(toKey, zoned, old, hours),
        ...rest,
        grid: (call) => {
            const { least, greatest } = rest;
            const outside = (key: bigint | undefined): boolean => key !== undefined && least !== undefined && key < least;
            if (outside(call.from) || outside(call.until) || outside(call.origin)) return { code: '22008' };
            const result = timeCells({ ...call, from: toMicros(call.from),
                until: call.until === undefined ? undefined : toMicros(call.until),
                origin: call.origin === undefined ? undefined : toMicros(call.origin) }, zoned);
            if ('code' in result) return result;
            const bound = (micros: bigint): bigint => {
                const key = toKey(micros);
                if (least !== undefined && key < least) return bottom;
                return greatest !== undefined && key > greatest ? top : key;
            };
            return { cells: result.cells.map(({ low, high }) => ({ low: bound(low), high: bound(high) })) };
        },
    };
}

const plus = (text: string): string => (text.endsWith(' BC') ? text.replace(/ BC$/, '+00 BC') : `${text}+00`);

/** A time in UTC, in India, or, where that means the same, on the clock of zone. */
function writeTime(micros: bigint, form: number, zone: string): string {
    if (form === 1) return printTime(micros + 19_800n * second).replace(/( BC)?$/, '+05:30$1');
    const wall = zone === 'UTC' ? micros : micros + offset(zone, micros);
    return form === 2 && fromWall(zone, wall) === micros ? printTime(wall) : plus(printTime(micros));
}

const printUuid = (key: bigint): string => {
    const hex = key.toString(16).padStart(32, '0');
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
};
const uuidMicros = (key: bigint): bigint => floorDiv(key, 1n << 80n) * 1000n;

const year1 = '0001-01-01T00:00:00';
const end = (bits: bigint): [bigint, bigint] => [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n];

export const kinds: Kind[] = [
    numbers('smallint', 'smallint', 0, end(16n), ['1', '3', '10', '7']),
    numbers('integer', 'integer', 0, end(32n), ['1', '3', '10', '7', '5']),
    numbers('bigint', 'bigint', 0, end(64n), ['2', '5', '10', '7']),
    numbers('numeric', 'numeric', 3, undefined, ['0.5', '2.5', '1.125', '10', '3']),
    numbers('numeric(6,2)', 'numeric(6,2)', 2, [-999999n, 999999n], ['0.5', '2.5', '10', '3.75']),
    times('date', 'date', (key) => key * day, (micros) => floorDiv(micros, day), {
        zoned: false, bounded: false, old: [year1], hours: false,
        print: (key) => printTime(key * day).replace(' 00:00:00', ''),
        parse: (text) => floorDiv(parseTime(text), day),
        write: (key) => printTime(key * day).replace(' 00:00:00', ''),
    }),
    times('timestamp', 'timestamp', (key) => key, (micros) => micros, {
        zoned: false, bounded: false, old: [year1], print: printTime, parse: parseTime, write: printTime,
    }),
    times('timestamptz', 'timestamptz', (key) => key, (micros) => micros, {
        zoned: true, bounded: false, print: (key) => plus(printTime(key)), parse: parseTime, write: writeTime,
    }),
    times('uuid', 'uuid', uuidMicros, (micros) => floorDiv(micros, 1000n) << 80n, {
        zoned: true, bounded: true, old: ['1970-01-05T00:00:00'], least: 0n, greatest: (1n << 128n) - 1n,
        print: printUuid,
        parse: (text) => BigInt(`0x${text.replaceAll('-', '')}`),
        write: (key, form, zone) => (form < 3 || key < 0n ? writeTime(uuidMicros(key), form, zone)
            : printUuid((floorDiv(key, 1n << 80n) << 80n) | (7n << 76n) | (1n << 63n) | (key & 0xffffn))),
    }),
    times('bigint of milliseconds', 'bigint', (key) => key * 1000n, (micros) => floorDiv(micros, 1000n), {
        zoned: true, bounded: true, old: ['1970-01-05T00:00:00'], epoch: 'ms',
        print: (key) => String(key), parse: (text) => BigInt(text),
        write: (key, form, zone) => (form < 3 ? writeTime(key * 1000n, form, zone) : String(key)),
    }),
];

/* Partitions */

export interface Part extends Interval {
    oid: number;
}

export interface Piece extends Interval {
    /** Of the partition that is there; undefined for what is missing. */
    oid: number | undefined;
}

export interface Asked {
    call: Call;
    regrid: boolean;
    move: boolean;
    /** Whether the snapshot of the transaction may be old. */
    oldSnapshot: boolean;
}

/** What a call must return, or the code that it must raise. */
export function expected(kind: Kind, parts: Part[], strays: bigint[], asked: Asked): { pieces: Piece[] } | { code: string } {
    const grid = kind.grid(asked.call);
    if ('code' in grid) return grid;
    const least = kind.bounded && kind.least !== undefined ? kind.least : bottom;
    const from = (low: bigint): bigint => (low === bottom ? least : low);
    const sorted = [...parts].sort((a, b) => (a.low < b.low ? -1 : 1));
    const pieces: Piece[] = [];
    for (const cell of grid.cells) {
        const meeting = sorted.filter((part) => from(part.low) < cell.high && part.high > from(cell.low));
        let reach = from(cell.low);
        for (const part of meeting) if (from(part.low) <= reach && part.high > reach) reach = part.high;
        if (meeting.length > 0 && reach < cell.high && !asked.regrid) return { code: 'NS001' };
        let at = cell.low;
        for (const part of meeting) {
            if (from(part.low) > from(at)) pieces.push({ low: at, high: part.low, oid: undefined });
            if (!pieces.some((piece) => piece.oid === part.oid)) pieces.push(part);
            at = part.high;
        }
        if (meeting.length === 0 || at < cell.high) pieces.push({ low: at, high: cell.high, oid: undefined });
    }
    const missing = pieces.filter((piece) => piece.oid === undefined);
    const inside = (key: bigint): boolean => missing.some((piece) => key >= piece.low && key < piece.high);
    if (strays.some(inside)) {
        if (!asked.move) return { code: 'NS004' };
        if (asked.oldSnapshot) return { code: '25000' };
    }
    if (!asked.regrid && missing.some((piece, n) => {
        const run = { low: piece.low, high: piece.high };
        if (missing[n - 1]?.high === piece.low) return false; // not the first of its run
        for (let m = n; missing[m + 1]?.low === missing[m]?.high; m++) run.high = missing[m + 1]!.high;
        const finite = sorted.filter((part) => part.low !== bottom && part.high !== top);
        const below = finite.filter((part) => part.high <= run.low).at(-1);
        const above = finite.find((part) => part.low >= run.high);
        return [below, above].some((part) => part && !isCell(kind, asked.call, part));
    })) return { code: 'NS008' };
    return { pieces };
}

function isCell(kind: Kind, call: Call, part: Interval): boolean {
    const grid = kind.grid({ ...call, from: part.low, until: undefined, ahead: 0 });
    const cell = 'cells' in grid ? grid.cells[0] : undefined;
    return cell?.low === part.low && cell.high === part.high;
}
