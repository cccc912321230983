import { cpus, tmpdir } from 'node:os';
import postgres from 'postgres';
import { fill, settingsOf } from './bench-rows.js';
import { majorOf, temporaryServer } from './embedded.js';
import { at } from './harness/databases.js';
import { connectOptions } from './harness/sessions.js';
import { migrate } from './migrate/run.js';

/** `make bench-unique`: what docs/unique.md quotes, from duplicates to a valid unique index. Ratios within one row hold. CELLS=1,90 measures only those. */
const rows = Number(process.env.ROWS || 1_000_000);
const repeats = Number(process.env.REPEAT || (rows > 1_000_000 ? 1 : 3));
const leastCap = 60_000;
const capFactor = rows > 1_000_000 ? 3 : 5;

const locked = (mode: string, ...statements: string[]): string[] => ['begin', `lock table t in ${mode} mode`, ...statements, 'commit'];
const deleted = (where: string): string[] => (
    locked('share row exclusive', `delete from t as x ${where}`, 'create unique index on t (a, b)'));

/** The first two are ours; the others are what people write by hand, each in one transaction that keeps writers out. */
const methods: Record<string, string[]> = {
    'ensure_unique_v1': ['select from ensure.ensure_unique_v1(\'t\', \'{a,b}\', keep => \'id\', losers => \'delete\')'],
    'ensure_unique_v1, rewrite': ['select from ensure.ensure_unique_v1(\'t\', \'{a,b}\', keep => \'id\', losers => \'delete\', rewrite => true)'],
    'row_number + ctid': deleted('where ctid = any (array(select n.ctid from (select ctid, row_number() over (partition by a, b order by id) as n'
        + ' from t) as n where n.n > 1))'),
    'self-join': deleted('using t as y where x.a = y.a and x.b = y.b and x.id > y.id'),
    'NOT IN min(id)': deleted('where id not in (select min(id) from t group by a, b)'),
    'DISTINCT ON swap': locked('access exclusive', 'create table t_new (like t including all excluding indexes)',
        'insert into t_new select distinct on (a, b) * from t order by a, b, id', 'alter table t_new add primary key (id)',
        'create unique index on t_new (a, b)', 'drop table t', 'alter table t_new rename to t'),
};

const cells = [
    { label: '1 %', keys: Math.round(rows * 0.99) },
    { label: '10 %', keys: Math.round(rows * 0.9) },
    { label: '90 %', keys: Math.round(rows * 0.1) },
    { label: `${Math.min(1000, rows / 10).toLocaleString('en')} keys`, keys: Math.min(1000, rows / 10) },
].filter(({ label }) => !process.env.CELLS || process.env.CELLS.split(',').includes(label.replace(/ .*/, '')));

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? NaN;
const seconds = (ms: number): string => (ms / 1000).toFixed(2);

const server = await temporaryServer(majorOf(process.env.PG), {}, tmpdir());
const admin = postgres(server.url, connectOptions);

async function withCopy<Result>(template: string, name: string, body: (sql: postgres.Sql) => Promise<Result>): Promise<Result> {
    // As files: the copy has the same pages, statistics and hint bits, and its own nothing in shared buffers.
    await admin.unsafe(`create database ${name} template ${template} ${Number(server.major) < 15 ? '' : 'strategy file_copy'}`);
    const sql = postgres(at(server.url, name), { ...connectOptions, connection: { work_mem: '4MB' } });
    try {
        return await body(sql);
    } finally {
        await sql.end();
        if (name.startsWith('copy')) await admin.unsafe(`drop database ${name} with (force)`);
    }
}

/** Milliseconds until the unique index is there and valid; infinite when a statement took longer than the cap. */
async function measure(sql: postgres.Sql, statements: string[], keys: number, cap: number): Promise<number> {
    await sql.unsafe(`checkpoint; set statement_timeout = ${Math.round(cap)}`).simple();
    const began = performance.now();
    try {
        for (const statement of statements) await sql.unsafe(statement).simple();
    } catch (error) {
        if ((error as postgres.PostgresError).code === '57014') return Infinity;
        throw error;
    }
    const taken = performance.now() - began;
    const [found] = await sql.unsafe<{ rows: string; valid: boolean }[]>(`select count(*) as rows, (select count(*) = 1 from pg_index as i
        where i.indrelid = 't'::regclass and i.indisunique and i.indisvalid and i.indkey::text = '2 3') as valid from t`);
    if (Number(found?.rows) !== keys || !found?.valid) throw new Error(`${statements.join('; ')} left ${JSON.stringify(found)}`);
    return taken > cap ? Infinity : taken;
}

async function row(place: number, keys: number): Promise<string[]> {
    const names = Object.keys(methods).filter((name) => !name.endsWith('rewrite') || keys < rows / 2);
    const taken = new Map(names.map((name) => [name, [] as number[]]));
    let best = Infinity;
    const cap = (): number => Math.max(leastCap, capFactor * (best === Infinity ? 0 : best));
    await withCopy('migrated', 'data', (sql) => fill(sql, rows, keys));
    for (let repeat = 0; repeat < repeats; repeat++) {
        for (const n of names.keys()) {
            const name = names[(n + repeat + place) % names.length] ?? '';
            const before = taken.get(name) ?? [];
            if (before.includes(Infinity)) continue;
            const ms = await withCopy('data', `copy_${n}_${repeat}`, (sql) => measure(sql, methods[name] ?? [], keys, cap()));
            before.push(ms);
            best = Math.min(best, ms);
        }
    }
    await admin.unsafe('drop database data');
    const medians = names.map((name) => median([...taken.get(name) ?? []]));
    const least = Math.min(...medians);
    const rival = Math.min(...medians.filter((_, n) => !names[n]?.startsWith('ensure')));
    const shown = medians.map((ms, n) => (ms === Infinity ? `> ${seconds(cap())}` : `${seconds(ms)} (${(ms / least).toFixed(2)})`)
        + (names[n]?.startsWith('ensure') ? `, ${(ms / rival).toFixed(2)} of the best by hand` : ''));
    return Object.keys(methods).map((name) => shown[names.indexOf(name)] ?? '');
}

const began = performance.now();
try {
    await admin.unsafe('create database migrated');
    await migrate({ url: at(server.url, 'migrated') });
    console.log(`PostgreSQL ${server.major}, ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}, ${await settingsOf(admin)}`);
    console.log(`${rows.toLocaleString('en')} rows (id bigint primary key, a int, b text); seconds, ${repeats > 1 ? `median of ${repeats}` : 'once'}`
        + ' (ratio to the best of the row)\n');
    console.log(`| duplicates | ${Object.keys(methods).join(' | ')} |\n|${'---|'.repeat(Object.keys(methods).length + 1)}`);
    for (const [place, { label, keys }] of cells.entries()) console.log(`| ${label} | ${(await row(place, keys)).join(' | ')} |`);
    console.log('\nThe swap loses grants, policies, triggers, comments, foreign keys both ways, the identity and the oid of the table.');
    console.log(`This took ${Math.round((performance.now() - began) / 1000)} s.`);
} finally {
    await admin.end();
    await server.stop('immediate');
}
