import { cpus, tmpdir } from 'node:os';
import { majorOf, temporaryServer } from './embedded.js';
import { stampede } from './harness/stampede.js';
import { connectOptions } from './harness/sessions.js';
import { migrate } from './migrate/run.js';
import postgres from 'postgres';

/** `make bench`: what docs/partitions.md quotes. Ratios within one run hold; milliseconds are this machine's. */
const server = await temporaryServer(majorOf(process.env.PG), { max_connections: '50' }, tmpdir());
const sql = postgres(server.url, connectOptions);

const quantile = (values: number[], q: number): number => values.sort((a, b) => a - b)[Math.floor((values.length - 1) * q)] ?? NaN;
const milliseconds = async (work: () => PromiseLike<unknown>): Promise<number> => {
    const began = performance.now();
    await work();
    return performance.now() - began;
};

/** Microseconds in the server for one of `count` calls in one statement, the loop itself taken off. */
async function inServer(statement: string, count = 5000): Promise<number> {
    const loop = async (body: string): Promise<number> => {
        const taken: number[] = [];
        for (let n = 0; n < 5; n++) {
            taken.push(await milliseconds(() => sql.unsafe(`do $x$ begin for i in 1 .. ${count} loop perform ${body}; end loop; end $x$`)));
        }
        return Math.min(...taken);
    };
    return ((await loop(statement)) - (await loop('1'))) * 1000 / count;
}

async function times(count: number, statement: (n: number) => string): Promise<string> {
    const taken: number[] = [];
    for (let n = 0; n < count; n++) taken.push(await milliseconds(() => sql.unsafe(statement(n)).simple()));
    return `p50 ${quantile(taken, 0.5).toFixed(2)} ms, p99 ${quantile(taken, 0.99).toFixed(2)} ms`;
}

try {
    await migrate({ url: server.url });
    console.log(`PostgreSQL ${server.major}, fsync off, ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}`);
    console.log(`round trip: ${await times(2000, () => 'select 1')}`);
    for (const partitions of [4, 100, 1000, 4000]) {
        const name = `t${partitions}`;
        await sql.unsafe(`create table ${name} (k bigint primary key, v text) partition by range (k)`);
        let made = 0;
        const creating = await milliseconds(async () => {
            for (; made < partitions; made += Math.min(500, partitions)) {
                await sql.unsafe(`select from ensure.ensure_partitions_v1('${name}', '10', ${made * 10}, ahead => ${Math.min(500, partitions) - 1})`);
            }
        });
        console.log(`${partitions} partitions: created in ${(creating / partitions).toFixed(2)} ms each`);
        await sql.unsafe(`insert into ${name} values (1); analyze ${name}`).simple();
        const probe = await inServer(`ensure.check_coverage_v1('${name}', '{"k": 1}')`);
        console.log(`  in the server:   no-op ${(await inServer(`ensure.ensure_partitions_v1('${name}', '10', 1)`)).toFixed(0)} µs, check_coverage_v1 ${probe.toFixed(0)} µs`);
        console.log(`  no-op, one cell: ${await times(2000, (n) => `select from ensure.ensure_partitions_v1('${name}', '10', ${(n % partitions) * 10})`)}`);
        console.log(`  one more:        ${await times(20, (n) => `select from ensure.ensure_partitions_v1('${name}', '10', ${(partitions + n) * 10})`)}`);
        const first: number[] = [];
        for (let n = 0; n < 10; n++) {
            const fresh = postgres(server.url, connectOptions);
            await fresh`select 1`;
            first.push(await milliseconds(() => fresh.unsafe(`insert into ${name} values (${n * 10})`).simple()));
            await fresh.end();
        }
        console.log(`  first insert of a connection: p50 ${quantile(first, 0.5).toFixed(1)} ms`);
    }
    await sql.unsafe('create table race (k bigint primary key) partition by range (k)');
    const { milliseconds: waited } = await stampede({
        owner: server.url, callers: 16, rounds: 50, isolation: 'read committed', transaction: false,
        steps: (_caller, round) => [`select from ensure.ensure_partitions_v1('race', '10', ${round * 10})`],
    });
    console.log(`16 callers for one new range: p50 ${quantile(waited, 0.5).toFixed(0)} ms, p99 ${quantile(waited, 0.99).toFixed(0)} ms`);
} finally {
    await sql.end();
    await server.stop('immediate');
}
