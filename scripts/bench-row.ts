import { cpus, tmpdir } from 'node:os';
import postgres from 'postgres';
import { settingsOf } from './bench-rows.js';
import { majorOf, temporaryServer } from './embedded.js';
import { connectOptions } from './harness/sessions.js';
import { migrate } from './migrate/run.js';

/** `make bench-row`: calls per second, from sessions that call in a loop within the server, each call a transaction. */
const sessions = 8;
const calls = Number(process.env.CALLS || 3000);
const keys = 1000;
const repeats = 3;
/** Forms that are close to each other run in turn so often. */
const pairs = 21;

const server = await temporaryServer(majorOf(process.env.PG), { fsync: 'on', synchronous_commit: 'on', full_page_writes: 'on' }, tmpdir());
const admin = postgres(server.url, connectOptions);
const merge = Number(server.major) >= 15;

/** Bodies of functions of wanted (int), that return an id. The first is what people should write by hand, and measure for the wrapper. */
const forms: Record<string, string> = {
    'SELECT, INSERT ON CONFLICT, loop, by hand': `declare v_id bigint; begin
        loop
            select t.id into v_id from t where t.k = wanted; if found then return v_id; end if;
            insert into t (k, v) values (wanted, 'v') on conflict do nothing returning t.id into v_id; if found then return v_id; end if;
        end loop; end`,
    'function of plan_row_function_v1': "begin return (select (e.data).id from ensure_t(wanted, 'v') as e); end",
    'the same loop by hand': "begin return (select (e.data).id from by_hand(wanted, 'v') as e); end",
    'the same loop by hand, search_path set': "begin return (select (e.data).id from by_hand_pinned(wanted, 'v') as e); end",
    'ensure_row_v1': "begin return (ensure.ensure_row_v1('t', jsonb_build_object('k', wanted, 'v', 'v'))).data -> 'id'; end",
    'ensure_row_v1, key named': "begin return (ensure.ensure_row_v1('t', jsonb_build_object('k', wanted, 'v', 'v'), '{k}')).data -> 'id'; end",
    'savepoint, as generic': "begin return generic_savepoint('t', jsonb_build_object('k', wanted, 'v', 'v')) -> 'id'; end",
    'savepoint, as generic, key named': "begin return generic_savepoint('t', jsonb_build_object('k', wanted, 'v', 'v'), '{k}') -> 'id'; end",
    'savepoint': `declare v_id bigint; begin
        insert into t (k, v) values (wanted, 'v') returning t.id into v_id; return v_id;
        exception when unique_violation then select t.id into v_id from t where t.k = wanted; return v_id; end`,
    'SELECT, INSERT': `declare v_id bigint; begin
        select t.id into v_id from t where t.k = wanted; if found then return v_id; end if;
        insert into t (k, v) values (wanted, 'v') returning t.id into v_id; return v_id; end`,
    'CTE': `declare v_id bigint; begin
        with made as (insert into t (k, v) values (wanted, 'v') on conflict do nothing returning t.id)
        select made.id into v_id from made union all select t.id from t where t.k = wanted limit 1; return v_id; end`,
    'ON CONFLICT DO UPDATE': `declare v_id bigint; begin
        insert into t (k, v) values (wanted, 'v') on conflict (k) do update set k = excluded.k returning t.id into v_id; return v_id; end`,
    ...(merge ? { 'MERGE, SELECT': `declare v_id bigint; begin
        merge into t using (select wanted as k) as w on t.k = w.k when not matched then insert (k, v) values (w.k, 'v');
        select t.id into v_id from t where t.k = wanted; return v_id; end` } : {}),
};
const name = (place: number): string => `form_${place}`;

/** The loop of ensure_t, and a savepoint that takes any table and row, as ensure_row_v1 does, and looks the key up when it is not told. */
const loop = (name: string, settings = ''): string => `create function ${name}(k int, v text, out data t, out outcome text) language plpgsql ${settings} as $$
    #variable_conflict use_column
    begin
        loop
            select t.* into data from t where t.k = ${name}.k;
            if found then outcome := 'exists'; return; end if;
            insert into t (k, v) values (${name}.k, ${name}.v) on conflict do nothing returning t.* into data;
            if found then outcome := 'created'; return; end if;
        end loop;
    end $$;`;
const others = `${loop('by_hand')} ${loop('by_hand_pinned', 'set search_path = public, pg_temp')}
    create function generic_savepoint(target regclass, attributes jsonb, key name[] default null) returns jsonb language plpgsql as $$
    declare v_data jsonb; v_columns text; v_match text; v_schema text; v_index text;
    begin
        select string_agg(quote_ident(k.name), ', ') into v_columns from jsonb_object_keys(attributes) as k (name);
        begin
            execute format('insert into %1$s as t (%2$s) select %2$s from jsonb_populate_record(null::%1$s, $1) returning to_jsonb(t.*)',
                           target, v_columns) into v_data using attributes;
        exception when unique_violation then
            if key is null then
                get stacked diagnostics v_schema = schema_name, v_index = constraint_name;
                key := array(select a.attname from pg_index as i join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                             where i.indexrelid = format('%I.%I', v_schema, v_index)::regclass);
            end if;
            select string_agg(format('t.%1$I = a.%1$I', k.name), ' and ') into v_match from unnest(key) as k (name);
            execute format('select to_jsonb(t.*) from %1$s as t, jsonb_populate_record(null::%1$s, $1) as a where %2$s', target, v_match)
            into v_data using attributes;
        end;
        return v_data;
    end $$`;

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? NaN;

/** All sessions at once; milliseconds until the last has ended. */
async function together(clients: postgres.Sql[], statement: (n: number) => string): Promise<number> {
    const began = performance.now();
    await Promise.all(clients.map((sql, n) => sql.unsafe(statement(n)).simple()));
    return performance.now() - began;
}

interface Cost { ids: number; dead: number; wal: number }
const cost = async (): Promise<Cost> => {
    const [row] = await admin.unsafe<{ ids: string; dead: string; wal: string }[]>(`select last_value as ids, pg_stat_get_dead_tuples('t'::regclass) as dead,
        pg_current_wal_insert_lsn() - '0/0' as wal from t_id_seq`);
    return { ids: Number(row?.ids), dead: Number(row?.dead), wal: Number(row?.wal) };
};

async function withClients<Result>(body: (clients: postgres.Sql[]) => Promise<Result>): Promise<Result> {
    const clients = Array.from({ length: sessions }, () => postgres(server.url, connectOptions));
    try {
        await Promise.all(clients.map((sql) => sql`select 1`));
        return await body(clients);
    } finally {
        await Promise.all(clients.map((sql) => sql.end()));
    }
}

/** Every session asks for all keys in its own order, of a table that is empty: what came of it, by kind. */
async function race(place: number): Promise<string> {
    await admin.unsafe('truncate t restart identity; truncate seen').simple();
    await withClients((clients) => together(clients, (n) => `call racing(${place}, ${n})`));
    const [row] = await admin.unsafe(`select count(*) filter (where s.code is not null)::int as errors, count(*) filter (where s.code is null and s.id is null)::int as nulls,
        count(*) filter (where s.id <> t.id)::int as wrong from seen as s left join t on t.k = s.k`);
    return `${row?.wrong} / ${row?.nulls} / ${row?.errors}`;
}

/** Calls per second on keys that are there, and what they cost: ids, dead tuples, bytes of WAL per call. */
async function hot(place: number): Promise<Cost & { rate: number }> {
    await admin.unsafe(`truncate t restart identity; insert into t (k, v) select n, 'v' from generate_series(1, ${keys}) as n; `).simple();
    await admin.unsafe('vacuum (freeze, analyze) t');
    await admin.unsafe('checkpoint');
    const before = await cost();
    const ms = await withClients((clients) => together(clients, (n) => `call looping(${place}, ${n})`));
    const after = await cost();
    return { rate: sessions * calls / ms * 1000, ids: after.ids - before.ids, dead: after.dead - before.dead, wal: (after.wal - before.wal) / (sessions * calls) };
}

try {
    await migrate({ url: server.url });
    await admin.unsafe(`create table t (id bigint generated always as identity primary key, k int not null unique, v text) with (autovacuum_enabled = off);
        create unlogged table seen (k int, id bigint, code text); ${others}`).simple();
    const [wrapper] = await admin.unsafe<{ statement: string }[]>("select statement from ensure.plan_row_function_v1('t', '{k}')");
    await admin.unsafe(wrapper?.statement ?? '');
    const names = Object.keys(forms);
    for (const [place, body] of Object.values(forms).entries()) {
        await admin.unsafe(`create function ${name(place)}(wanted int) returns bigint language plpgsql as $form$ ${body} $form$`);
    }
    const branches = (variable: string): string => names.map((_, place) => `when ${place} then ${variable} := ${name(place)}(v_k);`).join(' ');
    await admin.unsafe(`
        create procedure looping(form int, session int) language plpgsql as $$ declare v_k int; v_id bigint; begin
            for i in 1..${calls} loop
                v_k := 1 + (i * 7919 + session * 104729) % ${keys};
                case form ${branches('v_id')} end case;
                commit;
            end loop; end $$;
        create procedure racing(form int, session int) language plpgsql as $$ declare v_k int; v_id bigint; v_code text; begin
            for i in 1..${calls} loop
                v_k := 1 + i % ${keys};
                v_id := null; v_code := null;
                begin
                    case form ${branches('v_id')} end case;
                exception when unique_violation or serialization_failure or cardinality_violation then
                    v_code := sqlstate;
                end;
                insert into seen values (v_k, v_id, v_code);
                commit;
            end loop; end $$`).simple();
    console.log(`PostgreSQL ${server.major}, ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}, ${await settingsOf(admin)}`);
    console.log(`${sessions} sessions x ${calls} calls on ${keys} keys; calls per second are the median of ${repeats}, forms in turn\n`);
    const rates = names.map((): number[] => []);
    const costs: (Cost | undefined)[] = [];
    for (let repeat = 0; repeat < repeats; repeat++) {
        for (const n of names.keys()) {
            const place = (n + repeat) % names.length;
            const { rate, ...spent } = await hot(place);
            rates[place]?.push(rate);
            costs[place] = spent;
        }
    }
    const beside = async (one: string, other: string): Promise<number> => {
        const ratios: number[] = [];
        for (let pair = 0; pair < pairs; pair++) {
            const order = pair % 2 ? [one, other] : [other, one];
            const measured = new Map<string, number>();
            for (const label of order) measured.set(label, (await hot(names.indexOf(label))).rate);
            ratios.push((measured.get(one) ?? NaN) / (measured.get(other) ?? NaN));
        }
        return median(ratios);
    };
    const medians = rates.map(median);
    const of = (label: string): number => medians[names.indexOf(label)] ?? NaN;
    console.log('| form | race: wrong / null / error | calls/s | ids burned | dead tuples | WAL bytes per call |\n|---|---|---|---|---|---|');
    for (const [place, label] of names.entries()) {
        const rate = medians[place] ?? NaN;
        console.log(`| ${label} | ${await race(place)} | ${Math.round(rate).toLocaleString('en')} `
            + `| ${costs[place]?.ids} | ${costs[place]?.dead} | ${costs[place]?.wal.toFixed(0)} |`);
    }
    const times = (one: string, other: string): string => (of(one) / of(other)).toFixed(2);
    console.log(`\nensure_row_v1: ${times('ensure_row_v1', 'savepoint, as generic')} times the savepoint, as generic; `
        + `${times('ensure_row_v1, key named', 'savepoint, as generic, key named')} times where the key is named`);
    for (const other of ['the same loop by hand', 'the same loop by hand, search_path set']) {
        console.log(`plan_row_function_v1: ${(await beside('function of plan_row_function_v1', other)).toFixed(2)} of ${other} (median of ${pairs} pairs)`);
    }
} finally {
    await admin.end();
    await server.stop('immediate');
}
