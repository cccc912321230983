import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { settle, withSessions, type Outcome, type Session } from '../../scripts/harness/sessions.js';
import { withTestDatabase } from '../context.js';
import { withoutGuard } from '../mutate.js';
import { bottom, expected, floorDiv, kinds, top, type Asked, type Call, type Frame, type Interval, type Kind, type Part } from './model.js';

const long = Boolean(process.env.PG_ENSURE_LONG);
const seed = process.env.PG_ENSURE_SEED ? Number(process.env.PG_ENSURE_SEED) : Date.now() % 2 ** 31;
const runs = long ? Number(process.env.PG_ENSURE_RUNS ?? 300) : 6;
const timeout = long ? 3_600_000 : 300_000;

const seen = new Map<string, number>();
const count = (what: string): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
const began = Date.now();
let spent = 0;
afterAll(() => console.log(`model: ${spent} ms of ${Date.now() - began}, seed ${seed}: ${
    [...seen].sort().map(([what, n]) => `${what} ${n}`).join(', ')}`));

interface Row {
    oid: number;
    key: string | null;
}

/** What should be in schema m: table t, its partitions, and what was detached from it. */
interface World<Bound> {
    owner: Session;
    observer: Session;
    /** Whatever was run, for a reproduction by hand. */
    log: string[];
    parts: Map<number, Bound>;
    fallback?: number | undefined;
    detached: Set<number>;
    names: Map<number, string>;
    former: Set<string>;
    rows: Map<number, Row>;
    /** A bound, and what pg_get_expr says of one, as text that can be compared. */
    show(bound: Bound): string;
    read(bound: string): string;
    next: number;
}

class Broken extends Error {}

function claim(holds: boolean, what: string): asserts holds {
    if (!holds) throw new Broken(what);
}

const same = (found: unknown, wanted: unknown, what: string): void => {
    const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
    claim(a === b, `${what}\n  found  ${a}\n  wanted ${b}`);
};

/** Fails unless schema m is as the model has it: partitions and bounds, rows and where they are, no other table. */
async function compare<Bound>(world: World<Bound>): Promise<void> {
    const free = [...world.detached].map((oid) => `union all select tableoid, id, k from m.${world.names.get(oid)}`).join(' ');
    const [found] = await world.observer.run(`
        select (select coalesce(json_agg(json_build_array(c.oid::int8, c.relname, pg_get_expr(c.relpartbound, 0)) order by c.oid), '[]')
                from pg_class as c left join pg_inherits as i on i.inhrelid = c.oid
                where c.relnamespace = 'm'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 't')::text as relations,
               (select coalesce(json_agg(json_build_array(r.id, r.tableoid::int8, r.k::text) order by r.id), '[]')
                from (select tableoid, id, k from m.t ${free}) as r)::text as rows`);
    const relations = JSON.parse(String(found?.relations)) as [number, string, string | null][];
    for (const [oid, name] of relations) {
        world.names.set(oid, name);
        world.former.add(name);
    }
    const wanted = [
        ...[...world.parts].map(([oid, bound]) => [oid, world.show(bound)]),
        ...[...world.detached].map((oid) => [oid, null]),
        ...(world.fallback ? [[world.fallback, 'DEFAULT']] : []),
    ].sort((a, b) => Number(a[0]) - Number(b[0]));
    same(relations.map(([oid, , bound]) => [oid, bound && world.read(bound)]), wanted, 'tables and bounds');
    same(JSON.parse(String(found?.rows)), [...world.rows].sort(([a], [b]) => a - b).map(([id, row]) => [id, row.oid, row.key]), 'rows');
}

async function run(world: World<unknown>, statement: string): Promise<Outcome> {
    world.log.push(statement);
    return world.owner.attempt(statement);
}

async function must(world: World<unknown>, statement: string): Promise<void> {
    const { code, error } = await run(world, statement);
    claim(code === 'ok', `${statement}: ${code} ${error?.message}`);
}

/** All result sets of statements that travel together; the transaction that they begin is over afterwards. */
async function batch(world: World<unknown>, statements: string[]): Promise<Record<string, unknown>[][]> {
    const outcome = await settle(world.owner.sql.unsafe(statements.join('; ')).simple().then((sets) => [{ sets }]));
    if (outcome.code !== 'ok') await world.owner.run('rollback');
    claim(outcome.code === 'ok', `${statements.join('; ')}: ${outcome.code} ${outcome.error?.message}`);
    return (outcome.rows[0] as { sets: Record<string, unknown>[][] }).sets;
}

/** A slow machine is not what is tested: reading the default partition may take long. */
const patience = "max_block => '9 s'";

const levels = ['autocommit', 'autocommit', 'read committed', 'repeatable read', 'serializable'];
const oldSnapshot = (level: string): boolean => level === 'repeatable read' || level === 'serializable';
const locks = `select l.mode, l.relation::regclass as relation from pg_locks as l
    where l.pid = pg_backend_pid() and l.mode <> 'SIReadLock' and (l.locktype = 'advisory' or l.relation in (
        select c.oid from pg_class as c where c.relnamespace = 'm'::regnamespace))`;

interface Result {
    oid: number;
    lower: string | null;
    upper: string | null;
    outcome: string;
}

const asResults = (rows: Record<string, unknown>[]): Result[] => rows.map((row) => ({
    oid: Number(row.oid), lower: row.lower_bound as string | null, upper: row.upper_bound as string | null, outcome: String(row.outcome) }));

/** Runs a call and, when it came to something, runs it again: it finds all that the first returned, and touches nothing. */
async function ensure(world: World<unknown>, call: string, level: string, repeat: string): Promise<{ code: string; results: Result[] }> {
    const again = repeat.replace('autocommit', 'read committed');
    const statement = `select partition::oid::int8 as oid, lower_bound, upper_bound, outcome from ${call}`;
    if (level !== 'autocommit') await must(world, `begin isolation level ${level}`);
    const { code, rows } = await run(world, statement);
    if (level !== 'autocommit') await must(world, code === 'ok' ? 'commit' : 'rollback');
    count(code);
    const results = asResults(rows);
    for (const { outcome } of results) count(outcome);
    if (code === 'ok') {
        const begin = `begin isolation level ${again} read only`;
        const sets = await batch(world, [begin, statement, locks, 'rollback']);
        const what = `called again, ${begin}`;
        same(asResults(sets[1] ?? []), results.map((result) => ({ ...result, outcome: 'exists' })), what);
        same(sets[2], [], `${what}: its locks`);
    }
    return { code, results };
}

/** What each result says about itself is what happened to its table. */
function settleOutcome<Bound>(world: World<Bound>, { oid, outcome }: Result, known: boolean): void {
    const was = known ? 'exists' : world.detached.has(oid) ? 'attached' : world.names.has(oid) ? 'another table' : 'created';
    claim(outcome === was, `table ${oid}: outcome is ${outcome}, and it was: ${was}`);
    world.detached.delete(oid);
}

/* What happens to partitions by other hands */

type Which = { op: 'detach' | 'drop' | 'rename' | 'clear' | 'abort'; which: number; to: number };

const whichArbitrary: fc.Arbitrary<Which> = fc.record({
    op: fc.constantFrom('detach', 'drop', 'rename', 'rename', 'clear', 'abort'), which: fc.nat(20), to: fc.nat(20) });

async function byHand<Bound>(world: World<Bound>, { op, which, to }: Which): Promise<void> {
    const pool = op === 'clear' ? [...world.detached] : [...world.parts.keys(), ...(world.fallback ? [world.fallback] : [])];
    const oid = pool[which % (pool.length || 1)];
    if (oid === undefined) return;
    const name = world.names.get(oid);
    const free = [...world.former, 'x1', 'x2', 'x3'].filter((other) => ![...world.names.values()].includes(other));
    switch (op) {
        case 'detach':
            await must(world, `alter table m.t detach partition m.${name}`);
            world.detached.add(oid);
            break;
        case 'drop':
        case 'clear':
            await must(world, `drop table m.${name}`);
            for (const [id, row] of world.rows) if (row.oid === oid) world.rows.delete(id);
            world.detached.delete(oid);
            world.names.delete(oid);
            break;
        case 'rename':
            await must(world, `alter table m.${name} rename to ${free[to % free.length]}`);
            return;
        case 'abort':
            await must(world, 'begin');
            await must(world, to % 2 ? `alter table m.${name} rename to x4` : `alter table m.t detach partition m.${name}`);
            await must(world, 'rollback');
            return;
    }
    world.parts.delete(oid);
    if (world.fallback === oid) world.fallback = undefined;
}

/** ensure_default_partition_v1, checked. */
async function addDefault<Bound>(world: World<Bound>): Promise<void> {
    const { code, results: [result] } = await ensure(world, "ensure.ensure_default_partition_v1('m.t')", 'autocommit', 'read committed');
    if (code === 'NS007' && world.names.size > 1) return;
    claim(code === 'ok' && result !== undefined, `default partition: ${code}`);
    settleOutcome(world, result, result.oid === world.fallback);
    world.fallback = result.oid;
}

const literal = (text: string | null): string => (text === null ? 'null'
    : `${text.includes('\\') ? 'E' : ''}'${text.replaceAll("'", "''").replaceAll('\\', '\\\\')}'`);

async function insert<Bound>(world: World<Bound>, key: string | null, home: number | undefined): Promise<void> {
    const id = world.next++;
    const { code } = await run(world, `insert into m.t (k, id) values (${literal(key)}, ${id})`);
    claim(code === (home === undefined ? '23514' : 'ok'), `insert of ${key} is ${code}, to be in ${home}`);
    if (home !== undefined) world.rows.set(id, { oid: home, key });
}

/* RANGE */

type Place = [at: number, jitter: number];

type RangeOp =
    | { op: 'ensure'; from: Place; span: number | null; ahead: number; step: number; zone: number; origin: Place | null; regrid: boolean;
        move: boolean; form: number; level: string; again: string }
    | { op: 'insert'; at: Place[]; none: boolean }
    | { op: 'manual'; from: Place; span: number; open: number }
    | { op: 'default' }
    | Which;

const place: fc.Arbitrary<Place> = fc.tuple(fc.integer({ min: -14, max: 14 }), fc.constantFrom(0, 0, 0, 0, -1, 1));
const level = fc.constantFrom(...levels);

const rangeOp: fc.Arbitrary<RangeOp> = fc.oneof(
    { weight: 10, arbitrary: fc.record({
        op: fc.constant('ensure' as const), from: place, span: fc.option(fc.integer({ min: -1, max: 24 })),
        ahead: fc.oneof({ weight: 30, arbitrary: fc.nat(3) }, { weight: 1, arbitrary: fc.constant(9000) }),
        step: fc.constantFrom(0, 0, 0, 1, 2, 3, 4, 5), zone: fc.constantFrom(0, 0, 0, 1, 2, 3, 4, 5, 6),
        origin: fc.option(place, { freq: 4 }), regrid: fc.boolean(), move: fc.boolean(), form: fc.nat(3), level, again: level }) },
    { weight: 4, arbitrary: fc.record({
        op: fc.constant('insert' as const), at: fc.array(place, { minLength: 1, maxLength: 4 }), none: fc.constantFrom(false, false, false, true) }) },
    { weight: 4, arbitrary: fc.record({ op: fc.constant('manual' as const), from: place, span: fc.integer({ min: 1, max: 10 }), open: fc.nat(8) }) },
    { weight: 3, arbitrary: fc.constant({ op: 'default' as const }) },
    { weight: 5, arbitrary: whichArbitrary },
);

interface Scenario<Op> {
    frame: number;
    settings: number;
    ops: Op[];
}

const scenario = <Op>(op: fc.Arbitrary<Op>, maxLength = 20): fc.Arbitrary<Scenario<Op>> =>
    fc.record({ frame: fc.nat(20), settings: fc.nat(3), ops: fc.array(op, { maxLength, minLength: 1, size: 'max' }) });

const settings = [
    'reset all',
    "set timezone = 'America/New_York'; set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'",
    "set timezone = 'Asia/Kathmandu'; set datestyle = 'German'; set standard_conforming_strings = off; set extra_float_digits = -3",
    "set search_path = m; set enable_indexscan = off; set plan_cache_mode = force_generic_plan",
];

const rangePlace = (kind: Kind, frame: Frame, [at, jitter]: Place, strict = true): bigint => {
    const key = frame.centre + BigInt(at) * frame.scale + BigInt(jitter);
    if (strict && kind.least !== undefined && key < kind.least) return kind.least;
    return strict && kind.greatest !== undefined && key > kind.greatest ? kind.greatest : key;
};

const showRange = (kind: Kind) => ({ low, high }: Interval): string => {
    const side = (bound: bigint): string => (bound === bottom ? 'MINVALUE' : bound === top ? 'MAXVALUE' : `'${kind.print(bound)}'`);
    return readRange(`FOR VALUES FROM (${side(low)}) TO (${side(high)})`);
};

/** The server prints some numbers in quotes and some without, and zeros at the end of a fraction, or not. */
const readRange = (bound: string): string =>
    bound.replace(/\(([\d.]+)\)/g, "('$1')").replace(/(\.\d*?)0+(?=['+])/g, '$1').replace(/\.(?=['+])/g, '');

const readBound = (kind: Kind, text: string | null): bigint =>
    text === 'MINVALUE' ? bottom : text === 'MAXVALUE' ? top : kind.parse(String(text));

const homeOf = (world: World<Interval>, key: bigint | null): number | undefined =>
    [...world.parts].find(([, part]) => key !== null && key >= part.low && key < part.high)?.[0] ?? world.fallback;

/** Fails unless each of keys goes to the partition that the model has for it, and to no default partition. */
async function probe(world: World<Interval>, kind: Kind, keys: bigint[]): Promise<void> {
    const values = keys.map((key, n) => `('${kind.print(key)}', ${-1 - n})`).join(', ');
    if (!values) return;
    const [, rows = []] = await batch(world, ['begin', `insert into m.t (k, id) values ${values} returning tableoid::int8 as oid, id`, 'rollback']);
    for (const row of rows) {
        const key = keys[-1 - Number(row.id)]!;
        const home = Number(row.oid);
        claim(home !== world.fallback && home === homeOf(world, key), `key ${kind.print(key)} goes to ${world.names.get(home) ?? home}`);
    }
    claim(rows.length === keys.length, 'each key is inserted');
}

async function rangeEnsure(world: World<Interval>, kind: Kind, frame: Frame, op: Extract<RangeOp, { op: 'ensure' }>): Promise<void> {
    const from = rangePlace(kind, frame, op.from, op.ahead % 2 === 0);
    const call: Call = {
        from,
        until: op.span === null ? undefined : from + BigInt(op.span) * frame.scale,
        step: frame.steps[op.step % frame.steps.length]!,
        ahead: op.ahead,
        zone: frame.zones[op.zone % frame.zones.length]!,
        origin: op.origin ? rangePlace(kind, frame, op.origin) : undefined,
    };
    const write = (key: bigint): string => `'${kind.write(key, op.form, call.zone)}'`;
    const level = op.level;
    const asked: Asked = { call, regrid: op.regrid, move: op.move, oldSnapshot: oldSnapshot(level) };
    const sql = `ensure.ensure_partitions_v1('m.t', ${[
        `'${call.step}'`, write(from), ...(call.until === undefined ? [] : [write(call.until)]),
        ...(op.ahead ? [`ahead => ${op.ahead}`] : []), ...(call.zone === 'UTC' ? [] : [`zone => '${call.zone}'`]),
        ...(call.origin === undefined ? [] : [`origin => ${write(call.origin)}`]), ...(kind.epoch ? [`epoch => '${kind.epoch}'`] : []),
        ...(op.regrid ? ['regrid => true'] : []), ...(op.move ? ['move_default_rows => true'] : []), patience,
    ].join(', ')})`;

    const parts: Part[] = [...world.parts].map(([oid, part]) => ({ oid, ...part }));
    const strays = [...world.rows.values()].filter((row) => row.oid === world.fallback && row.key !== null).map((row) => kind.parse(row.key!));
    const wanted = expected(kind, parts, strays, asked);
    const { code, results } = await ensure(world, sql, level, op.again);
    if (code === 'NS007' && 'pieces' in wanted && world.names.size > 1) return;
    claim(code === ('code' in wanted ? wanted.code : 'ok'), `${sql} is ${code}, to be ${'code' in wanted ? wanted.code : 'ok'}`);
    if ('code' in wanted) return;
    const bounds = (low: bigint, high: bigint): string => showRange(kind)({ low, high });
    same(results.map((result) => bounds(readBound(kind, result.lower), readBound(kind, result.upper))),
        wanted.pieces.map((piece) => bounds(piece.low, piece.high)), `what ${sql} returns`);
    for (const [n, result] of results.entries()) {
        const piece = wanted.pieces[n]!;
        settleOutcome(world, result, piece.oid !== undefined && piece.oid === result.oid);
        world.parts.set(result.oid, { low: piece.low, high: piece.high });
    }
    for (const row of world.rows.values()) {
        if (row.oid === world.fallback) row.oid = homeOf(world, row.key === null ? null : kind.parse(row.key)) ?? row.oid;
    }
    const ends = { low: kind.least ?? -(10n ** 30n), high: (kind.greatest ?? 10n ** 30n) + 1n };
    const keys = wanted.pieces.flatMap((piece) => {
        const low = piece.low > ends.low ? piece.low : ends.low;
        const high = piece.high < ends.high ? piece.high : ends.high;
        return piece.low === bottom || piece.high === top ? [low, high - 1n].filter((key) => kind.least !== undefined && key >= low && key < high)
            : [low, floorDiv(low + high, 2n), high - 1n];
    });
    const last = call.until ?? from;
    await probe(world, kind, [from, last, ...keys]);
}

async function rangeRun(sessions: Sessions, kind: Kind, { frame: chosen, settings: set, ops }: Scenario<RangeOp>): Promise<void> {
    const frames = kind.frames;
    const frame = frames[chosen % frames.length]!;
    await inSchema<Interval, RangeOp>(sessions, kind.type, 'range', settings[set]!, { show: showRange(kind), read: readRange }, ops, async (world, op) => {
        switch (op.op) {
            case 'ensure': return rangeEnsure(world, kind, frame, op);
            case 'default': return addDefault(world);
            case 'insert': {
                for (const key of [...(op.none ? [null] : []), ...op.at.map((at) => rangePlace(kind, frame, at))]) {
                    await insert(world, key === null ? null : kind.print(key), homeOf(world, key));
                }
                return;
            }
            case 'manual': {
                const low = rangePlace(kind, frame, op.from);
                const end = low + BigInt(op.span) * frame.scale;
                const part = {
                    low: op.open === 0 ? bottom : low,
                    high: op.open === 1 || (kind.greatest !== undefined && end > kind.greatest) ? top : end,
                };
                const taken = [...world.parts.values()].some((other) => other.low < part.high && other.high > part.low)
                    || [...world.rows.values()].some((row) => row.oid === world.fallback && row.key !== null
                        && kind.parse(row.key) >= part.low && kind.parse(row.key) < part.high);
                if (taken || part.low >= part.high) return;
                const name = `m${world.next++}`;
                await must(world, `create table m.${name} partition of m.t ${showRange(kind)(part)}`);
                const [row] = await world.observer.run(`select 'm.${name}'::regclass::oid::int8 as oid`);
                world.parts.set(Number(row?.oid), part);
                return;
            }
            default: return byHand(world, op);
        }
    });
}

/* LIST */

type Values = (string | null)[];

type ListOp =
    | { op: 'ensure'; values: number[]; move: boolean; level: string; again: string }
    | { op: 'insert'; value: number }
    | { op: 'manual'; values: number[] }
    | { op: 'default' }
    | Which;

const value = fc.nat(20);
const listOp: fc.Arbitrary<ListOp> = fc.oneof(
    { weight: 6, arbitrary: fc.record({
        op: fc.constant('ensure' as const), values: fc.array(value, { minLength: 0, maxLength: 5 }), move: fc.boolean(), level, again: level }) },
    { weight: 4, arbitrary: fc.record({ op: fc.constant('insert' as const), value }) },
    { weight: 3, arbitrary: fc.record({ op: fc.constant('manual' as const), values: fc.array(value, { minLength: 1, maxLength: 4 }) }) },
    { weight: 1, arbitrary: fc.constant({ op: 'default' as const }) },
    { weight: 4, arbitrary: whichArbitrary },
);

interface ListKind {
    type: string;
    values: Values;
    /** Equal values have one text. */
    canon: (text: string) => string;
}

const listKinds: ListKind[] = [
    { type: 'integer', values: ['1', '2', '3', '4', '5', '-1', '-2147483648', '0', null], canon: (text) => text },
    { type: 'text', canon: (text) => text,
      values: ['a', 'A', 'b', 'a,b', 'a b', "it's", "''", '', 'NULL', 'null', 'default', 'back\\slash', 'ü', '(p)', '1', 'x'.repeat(70),
               `${'x'.repeat(70)}y`, null] },
    { type: 'numeric', values: ['1', '1.0', '1.50', '1.5', '-2', '0.25', '10', null],
      canon: (text) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text) },
    { type: 'char(2)', values: ['DE', 'DK', 'D', 'é', '', null], canon: (text: string) => text.trimEnd() },
    { type: 'float8', values: ['0.3', '0.30000000000000004', '1e+300', '0', '-0', '-1', 'NaN', null],
      canon: (text: string) => (text === '-0' ? '0' : text) },
];

/** The values between the brackets of FOR VALUES IN (…). */
function readList(bound: string, canon: ListKind['canon']): Values {
    const values: Values = [];
    for (const [, quoted, plain] of bound.slice('FOR VALUES IN ('.length, -1).matchAll(/'((?:[^']|'')*)'|([^', ]+)/g)) {
        values.push(plain === 'NULL' ? null : canon(plain ?? quoted!.replaceAll("''", "'")));
    }
    return values;
}

async function listRun(sessions: Sessions, { type, values: all, canon }: ListKind, { settings: set, ops }: Scenario<ListOp>): Promise<void> {
    const canonical = (text: string | null): string | null => text === null ? null : canon(text);
    const show = (values: Values): string => JSON.stringify(values.map(String).sort());
    const read = (bound: string): string => (bound === 'DEFAULT' ? bound : show(readList(bound, canon)));
    const pick = (places: number[]): Values => places.map((at) => all[at % all.length]!);
    await inSchema<Values, ListOp>(sessions, type, 'list', settings[set]!, { show, read }, ops, async (world, op) => {
        const homeOf = (text: string | null): number | undefined =>
            [...world.parts].find(([, values]) => values.includes(canonical(text)))?.[0] ?? world.fallback;
        switch (op.op) {
            case 'default': return addDefault(world);
            case 'insert': {
                const [text] = pick([op.value]);
                return insert(world, text!, homeOf(text!));
            }
            case 'manual': {
                const values = [...new Set(pick(op.values).map(canonical))];
                if (values.some((text) => homeOf(text) !== undefined && homeOf(text) !== world.fallback)
                    || [...world.rows.values()].some((row) => row.oid === world.fallback && values.includes(canonical(row.key)))) return;
                const name = `m${world.next++}`;
                await must(world, `create table m.${name} partition of m.t for values in (${values.map(literal).join(', ')})`);
                const [row] = await world.observer.run(`select 'm.${name}'::regclass::oid::int8 as oid`);
                world.parts.set(Number(row?.oid), values);
                return;
            }
            case 'ensure': {
                const asked = pick(op.values);
                const values = [...new Set(asked.map(canonical))];
                const missing = values.filter((text) => [undefined, world.fallback].includes(homeOf(text)));
                const strays = [...world.rows.values()].some((row) => row.oid === world.fallback && missing.includes(canonical(row.key)));
                const wanted = !strays ? 'ok' : !op.move ? 'NS004' : oldSnapshot(op.level) ? '25000' : 'ok';
                const sql = `ensure.ensure_list_partitions_v1('m.t', array[${asked.map(literal).join(', ')}]::${type}[]${
                    op.move ? ', move_default_rows => true' : ''}, ${patience})`;
                const homes = values.map((text) => (missing.includes(text) ? undefined : homeOf(text)));
                const { code, results } = await ensure(world, sql, op.level, op.again);
                if (code === 'NS007' && wanted === 'ok' && world.names.size > 1) return;
                claim(code === wanted, `${sql} is ${code}, to be ${wanted}`);
                if (wanted !== 'ok') return;
                const told = values.filter((_, n) => homes[n] === undefined || homes.indexOf(homes[n]) === n);
                same(results.map(({ lower, upper }) => [canonical(lower), canonical(upper)]), told.map((text) => [text, text]), `what ${sql} returns`);
                for (const [n, result] of results.entries()) {
                    const home = homes[values.indexOf(told[n]!)];
                    settleOutcome(world, result, home !== undefined && home === result.oid);
                    if (home === undefined) world.parts.set(result.oid, [told[n]!]);
                }
                for (const row of world.rows.values()) if (row.oid === world.fallback) row.oid = homeOf(row.key)!;
                return;
            }
            default: return byHand(world, op);
        }
    });
}

/* HASH */

interface Share {
    remainder: number;
    modulus: number;
}

type HashOp =
    | { op: 'ensure'; modulus: number; level: string; again: string }
    | { op: 'manual'; modulus: number; remainder: number }
    | { op: 'fill'; modulus: number; but: number[] }
    | { op: 'insert'; key: number }
    | Which;

const modulus = fc.constantFrom(1, 2, 2, 3, 4, 4, 6, 8, 12);
const hashOp: fc.Arbitrary<HashOp> = fc.oneof(
    { weight: 5, arbitrary: fc.record({ op: fc.constant('ensure' as const), modulus, level, again: level }) },
    { weight: 6, arbitrary: fc.record({ op: fc.constant('manual' as const), modulus, remainder: fc.nat(11) }) },
    { weight: 2, arbitrary: fc.record({
        op: fc.constant('fill' as const), modulus: fc.constantFrom(4, 6, 8, 12), but: fc.array(fc.nat(11), { maxLength: 2 }) }) },
    { weight: 3, arbitrary: fc.record({ op: fc.constant('insert' as const), key: fc.nat(1000) }) },
    { weight: 4, arbitrary: whichArbitrary },
);

/** Every modulus divides this. */
const residues = 24;
const meet = (a: Share, b: Share): boolean =>
    Array.from({ length: residues }, (_, x) => x).some((x) => x % a.modulus === a.remainder && x % b.modulus === b.remainder);
const covered = (parts: Share[], share: Share): boolean => Array.from({ length: residues }, (_, x) => x)
    .every((x) => x % share.modulus !== share.remainder || parts.some((part) => x % part.modulus === part.remainder));

async function hashRun(sessions: Sessions, { settings: set, ops }: Scenario<HashOp>): Promise<void> {
    const show = (share: Share): string => `FOR VALUES WITH (modulus ${share.modulus}, remainder ${share.remainder})`;
    const add = async (world: World<Share>, share: Share): Promise<void> => {
        if ([...world.parts.values()].some((part) => meet(part, share)
            || (part.modulus % share.modulus > 0 && share.modulus % part.modulus > 0))) return;
        const name = `m${world.next++}`;
        await must(world, `create table m.${name} partition of m.t ${show(share).toLowerCase()}`);
        const [row] = await world.observer.run(`select 'm.${name}'::regclass::oid::int8 as oid`);
        world.parts.set(Number(row?.oid), share);
    };
    await inSchema<Share, HashOp>(sessions, 'integer', 'hash', settings[set]!, { show, read: (bound) => bound }, ops, async (world, op) => {
        switch (op.op) {
            case 'insert': {
                const id = world.next++;
                const { code, rows } = await run(world, `insert into m.t (k, id) values (${op.key}, ${id}) returning tableoid::int8 as oid`);
                claim(code === 'ok' || (code === '23514' && !covered([...world.parts.values()], { remainder: 0, modulus: 1 })), `insert is ${code}`);
                if (code === 'ok') world.rows.set(id, { oid: Number(rows[0]?.oid), key: String(op.key) });
                return;
            }
            case 'manual':
                return add(world, { remainder: op.remainder % op.modulus, modulus: op.modulus });
            case 'fill':
                for (let remainder = 0; remainder < op.modulus; remainder++) {
                    if (!op.but.includes(remainder)) await add(world, { remainder, modulus: op.modulus });
                }
                return;
            case 'ensure': {
                const parts = [...world.parts].map(([oid, share]) => ({ oid, ...share })).sort((a, b) => a.oid - b.oid);
                const pieces: (Share & { oid?: number })[] = [];
                let wanted = 'ok';
                for (let remainder = 0; remainder < op.modulus; remainder++) {
                    const share = { remainder, modulus: op.modulus };
                    const meeting = parts.filter((part) => meet(part, share));
                    const whole = meeting.every((part) => op.modulus % part.modulus === 0);
                    const finer = meeting.every((part) => part.modulus % op.modulus === 0) && covered(meeting, share);
                    if (!whole && !finer) wanted = 'NS001';
                    pieces.push(...(meeting.length > 0 ? meeting.filter((part) => !pieces.includes(part)) : [share]));
                }
                const sql = `ensure.ensure_hash_partitions_v1('m.t', ${op.modulus})`;
                const { code, results } = await ensure(world, sql, op.level, op.again);
                if (code === 'NS007' && wanted === 'ok' && world.names.size > 1) return;
                claim(code === wanted, `${sql} is ${code}, to be ${wanted}`);
                if (wanted !== 'ok') return;
                same(results.map(({ lower, upper }) => [Number(lower), Number(upper)]), pieces.map((piece) => [piece.remainder, piece.modulus]),
                    `what ${sql} returns`);
                for (const [n, result] of results.entries()) {
                    const piece = pieces[n]!;
                    settleOutcome(world, result, piece.oid === result.oid);
                    world.parts.set(result.oid, { remainder: piece.remainder, modulus: piece.modulus });
                }
                await batch(world, ['begin', 'insert into m.t (k, id) select g, -1 from generate_series(1, 100) as g', 'rollback']);
                return;
            }
            default: return byHand(world, op);
        }
    });
}

/* One run: a schema of its own, the state compared after each operation */

type Sessions = Record<'owner' | 'observer', Session>;

async function inSchema<Bound, Op>(
    { owner, observer }: Sessions,
    type: string,
    strategy: string,
    set: string,
    { show, read }: Pick<World<Bound>, 'show' | 'read'>,
    ops: Op[],
    step: (world: World<Bound>, op: Op) => Promise<void>,
): Promise<void> {
    const world: World<Bound> = { owner, observer, log: [], parts: new Map(), detached: new Set(), names: new Map(), former: new Set(),
                                  rows: new Map(), show, read, next: 1 };
    const start = Date.now();
    try {
        for (const statement of set.split('; ')) await must(world, statement);
        await must(world, `create schema m; create table m.t (k ${type}, id integer) partition by ${strategy} (k)`);
        for (const op of ops) {
            await step(world, op);
            count('commands');
            await compare(world);
        }
    } catch (error) {
        const problem = error as Error;
        problem.message = `${problem.message}\n\n${world.log.join(';\n')};\n`;
        throw problem;
    } finally {
        await owner.run('reset all; set client_min_messages = error; drop schema if exists m cascade');
        spent += Date.now() - start;
        count('runs');
    }
}

const withModel = (body: (sessions: Sessions) => Promise<void>): Promise<void> =>
    withTestDatabase(({ url }) => withSessions(url, ['owner', 'observer'], async (sessions) => {
        await sessions.observer.run("set timezone = 'UTC'; set datestyle = 'ISO, YMD'");
        await body(sessions);
    }));

describe(`seed ${seed}`, () => {
    const parameters = { seed, numRuns: runs, unbiased: true };

    test.each(kinds)('RANGE by $name: whatever happened before, a call does and says what the model does', (kind) =>
        withModel((sessions) => fc.assert(
            fc.asyncProperty(scenario(rangeOp), (one) => rangeRun(sessions, kind, one)), parameters)), timeout);

    test.each(listKinds)('LIST by $type: whatever happened before, a call does and says what the model does', (kind) =>
        withModel((sessions) => fc.assert(
            fc.asyncProperty(scenario(listOp), (one) => listRun(sessions, kind, one)), parameters)), timeout);

    test('HASH: whatever happened before, a call does and says what the model does', () =>
        withModel((sessions) => fc.assert(
            fc.asyncProperty(scenario(hashOp), (one) => hashRun(sessions, one)), parameters)), timeout);

    /** What of the schema a defect is planted in, and the kind of key where it shows. */
    const planted: [what: string, kind: string, name: string, guard: string, replacement: string][] = [
        ['negative keys go to the cell nearer to zero', 'smallint', '_number_grid_v1', 'if v_low > v_from then', 'if false then'],
        ['a last cell does not say MAXVALUE', 'integer', '_number_grid_v1', 'case when v_low > v_max then', 'case when false then'],
        ['what overlaps a cell serves it', 'date', '_cover_cells_v1', 'if not v_row.holds and not regrid', 'if false and not regrid'],
        ['a name is trusted, whatever the bounds', 'bigint', '_find_partitions_v1', 'if v_row.bound = v_bound', 'if v_row.oid is not null'],
        ['a gap behind the last partition stays', 'numeric', '_cover_cells_v1', 'if v_row.gap_after then', 'if false then'],
        ['neighbours are not looked at', 'timestamp', '_check_missing_v1', 'elsif v_group.grid is not null', 'elsif false'],
        ['days are those of UTC', 'timestamptz', '_time_grid_v1', 'v_clock := zone', 'v_clock := v_clock'],
        ['of rows that are moved one is lost', 'numeric(6,2)', '_move_rows_v1', 'from moved', 'from moved offset 1'],
        ['when nothing is missing the lock is taken', 'uuid', 'ensure_partitions_v1', "outcome := 'exists';",
         "outcome := 'exists'; perform pg_advisory_xact_lock(1);"],
    ];

    /** Shrinking takes seconds: one is shown to be shrunk to the call that goes wrong, and what came with it. */
    const shrunk = planted[0]?.[0];

    test.each(planted)('negative control: %s, and the model finds it (%s)', (what, name, ...guard) =>
        withModel(async (sessions) => {
            await withoutGuard(sessions.owner, ...guard);
            const kind = kinds.find((other) => other.name === name)!;
            const first: RangeOp[] = guard[0] === '_move_rows_v1' ? [{ op: 'default' }] : [];
            const details = await fc.check(
                fc.asyncProperty(scenario(rangeOp, what === shrunk ? 6 : 20),
                    (one) => rangeRun(sessions, kind, { ...one, ops: [...first, ...one.ops] })),
                { ...parameters, numRuns: 2000, endOnFailure: what !== shrunk });
            expect(details.failed, 'the planted defect was not found').toBe(true);
            expect(details.errorInstance).toBeInstanceOf(Broken);
            if (what === shrunk) expect(details.counterexample?.[0].ops.length).toBeLessThan(3);
            count(`control ${guard[0]} after ${details.numRuns} runs`);
        }), timeout);
});
