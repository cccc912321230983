import { cpus, tmpdir } from 'node:os';
import postgres from 'postgres';
import { majorOf, temporaryServer } from './embedded.js';
import { at } from './harness/databases.js';
import { connectOptions, settle } from './harness/sessions.js';
import { migrate } from './migrate/run.js';

/** `make bench-roles`: what fails of statements that eight sessions in two databases run at once, and what a call on 10,000 objects costs. */
const sessions = 8;
const rounds = Number(process.env.CALLS || 250);
const objects = 10_000;

const server = await temporaryServer(majorOf(process.env.PG), {}, tmpdir());
const databases = ['one', 'two'];

/** Each form changes something at each call: `n` is the session, `i` the round. What is per database is raced in one. */
interface Form { what: string; shared: boolean; naive: (n: number, i: number) => string; ours: (n: number, i: number) => string }
const role = (name: string, rest = ''): string => `select ensure.ensure_role_v1('${name}'${rest}, max_wait => '60 s')`;
const grants = (n: number, access: string, rest = ''): string => (
    `select ensure.ensure_grants_v1('r${n}', '${access}', '{app}'${rest}, mode => 'exact', max_wait => '60 s')`
);
const words = (i: number): string => (i % 2 ? '{read}' : '{write}');
const forms: Form[] = [
    {
        what: 'GRANT on one table, to different roles', shared: false, ours: (n, i) => grants(n, words(i)),
        naive: (n, i) => (i % 2 ? `grant select on app.t to r${n}` : `revoke select on app.t from r${n}`),
    },
    {
        what: 'REVOKE ALL and GRANT in one transaction', shared: false, ours: (n, i) => grants(n, words(i)),
        naive: (n, i) => `begin; revoke all on app.t from r${n}; grant ${i % 2 ? 'select' : 'insert'} on app.t to r${n}; commit`,
    },
    {
        what: 'ALTER ROLE, one role', shared: true, naive: (n, i) => `alter role r0 connection limit ${n * 1000 + i}`,
        ours: (n, i) => role('r0', `, connection_limit => ${n * 1000 + i}`),
    },
    {
        what: 'ALTER ROLE SET, one role', shared: true, naive: (n, i) => `alter role r0 set work_mem to '${n * 1000 + i + 64}kB'`,
        ours: (n, i) => role('r0', `, settings => '{"work_mem": "${n * 1000 + i + 64}kB"}'`),
    },
    { what: 'CREATE ROLE where it is not there', shared: true, naive: (_, i) => `do $$ begin
        if not exists (select from pg_roles where rolname = 'naive${i}') then create role naive${i}; end if; end $$`, ours: (_, i) => role(`ours${i}`) },
    {
        what: 'ALTER DEFAULT PRIVILEGES', shared: false, ours: (n, i) => grants(n, words(i), ", creators => '{maker}'"),
        naive: (n, i) => `alter default privileges for role maker in schema app ${i % 2 ? 'grant select on tables to' : 'revoke select on tables from'} r${n}`,
    },
];

async function race(shared: boolean, statement: (n: number, i: number) => string): Promise<{ failed: number; codes: string; each: number }> {
    const clients = Array.from({ length: sessions }, (_, n) => postgres(at(server.url, databases[shared ? n % 2 : 0] ?? ''), connectOptions));
    const codes: Record<string, number> = {};
    try {
        await Promise.all(clients.map((sql) => sql`select 1`));
        const began = performance.now();
        await Promise.all(clients.map(async (sql, n) => {
            for (let i = 0; i < rounds; i++) {
                const { code, error } = await settle(sql.unsafe(statement(n, i)).simple());
                if (error) codes[code] = (codes[code] ?? 0) + 1;
                if (error) await sql.unsafe('rollback');
            }
        }));
        const each = (performance.now() - began) / rounds;
        const failed = Object.values(codes).reduce((sum, count) => sum + count, 0);
        return { failed: 1000 * failed / (sessions * rounds), codes: Object.entries(codes).map(([code, count]) => `${code} ${count}`).join(', '), each };
    } finally {
        await Promise.all(clients.map((sql) => sql.end()));
    }
}

try {
    const admin = postgres(server.url, connectOptions);
    for (const database of databases) {
        await admin.unsafe(`create database ${database}`);
        await migrate({ url: at(server.url, database) });
    }
    await admin.end();
    const sql = postgres(at(server.url, 'one'), connectOptions);
    await sql.unsafe('create schema app; create table app.t (x int); create role maker; create role owner').simple();
    for (let n = 0; n < sessions; n++) await sql.unsafe(`create role r${n}`);
    console.log(`PostgreSQL ${server.major}, fsync off, ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}; ${sessions} sessions, ${rounds} calls each`);
    for (const { what, shared, naive, ours } of forms) {
        const plain = await race(shared, naive);
        const safe = await race(shared, ours);
        console.log(`${what}: naive ${plain.failed.toFixed(0)} of 1000 fail (${plain.codes}), ensure ${safe.failed.toFixed(0)} (${safe.codes || 'none'}); `
            + `a round of ${sessions} calls ${plain.each.toFixed(1)} and ${safe.each.toFixed(1)} ms`);
    }
    await sql.unsafe('create schema many');
    await sql.unsafe(`do $$ begin
        for i in 1 .. ${objects / 2} loop
            execute format('create table many.t%s (x int)', i);
            execute format('create function many.f%s() returns int language sql as ''select 1''', i);
            if i % 500 = 0 then commit; end if;
        end loop; end $$`);
    const spec = JSON.stringify({
        owners: [{ new_owner: 'owner', schemas: ['many'] }],
        grants: [{ grantee: 'r0', access: ['read', 'write', 'execute'], schemas: ['many'], creators: ['owner'], mode: 'exact', revoke_public: true }],
    });
    await sql.unsafe(`do $$ declare v_statement text; begin
        for v_statement in select p.statement from ensure.plan_roles_v1('${spec}') as p loop execute v_statement; commit; end loop; end $$`);
    for (const catalog of ['pg_class', 'pg_proc', 'pg_depend']) await sql.unsafe(`vacuum analyze ${catalog}`);
    const wal = async (): Promise<string> => String((await sql.unsafe('select pg_current_wal_insert_lsn() as at'))[0]?.at);
    for (const [name, call] of [
        ['ensure_roles_v1, owners and grants', `ensure.ensure_roles_v1('${spec}')`],
        ['ensure_owner_v1', "ensure.ensure_owner_v1('owner', '{many}')"],
        ['ensure_grants_v1', "ensure.ensure_grants_v1('r0', '{read,write,execute}', '{many}', '{owner}', 'exact', true)"],
    ] as const) {
        const taken: number[] = [];
        const before = await wal();
        let outcomes: unknown[] = [];
        for (let i = 0; i < 5; i++) {
            const began = performance.now();
            outcomes = (await sql.unsafe(`select outcome, count(*)::int as n from ${call} group by 1`)).map(({ outcome, n }) => `${String(outcome)} ${String(n)}`);
            taken.push(performance.now() - began);
        }
        console.log(`${objects} objects already right, ${name}: ${Math.min(...taken).toFixed(0)} to ${Math.max(...taken).toFixed(0)} ms (${outcomes.join(', ')}); WAL from ${before} to ${await wal()}`);
    }
    await sql.end();
} finally {
    await server.stop('immediate');
}
