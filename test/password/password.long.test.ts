import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, chmodSync, chownSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, test, type TestContext } from 'vitest';
import { majorOf, temporaryServer, type Server } from '../../scripts/embedded.js';
import { withSessions } from '../../scripts/harness/sessions.js';
import { newVerifier, parsedVerifier } from '../../scripts/password/verifier.js';
import { major, missing, surroundings } from '../context.js';
import { install } from '../../scripts/install.js';
import { builtCli, until as untilTrue, withEmptyDatabase, withoutGuards } from '../migrate/context.js';
import { until } from '../until.js';
import { admin, asAdmin, login, piped, set, stored, withRole } from './context.js';

const needsSuperuser = (context: TestContext): void => {
    if (!surroundings.superuser) missing(context, 'needs a superuser: pg_authid is read');
};
const ligature = 'o\uFB03ce'; // ffi as one character: SASLprep makes three of it
const passwords: Record<string, string> = {
    ASCII: 'correct horse battery staple', 'a ligature': ligature, 'a soft hyphen': 'soft\u00ADhyphen',
    'a non-breaking space': 'a\u00A0b', 'a prohibited character': 'a\u0007é\uE000b', 'both directions': 'a\u05D0',
    'an unassigned code point': 'new\u{1F9FF}', 'quotes and backslashes': 'it\'s "q" \\ $$ %s', '1000 characters': 'é1'.repeat(500),
};

test.each(Object.entries(passwords))('a password with %s is set, fits, and logs in under scram-sha-256', (_name, password) => withRole(async (role) => {
    const first = await set(role, password);
    expect(first, first.stderr).toMatchObject({ code: 0, document: { role, outcome: 'set', why: null, error: null, exitCode: 0 } });
    expect([await login(role, password), await login(role, `${password}x`)]).toEqual(['', '28P01']);
    expect((await set(role, password)).document.outcome).toBe('exists');
}));

test('bytes that are not UTF-8 are piped in, set and log in', () => withRole(async (role) => {
    const bytes = Buffer.from([0x61, 0xff, 0xfe, 0x62]);
    expect(await piped(role, bytes)).toMatchObject({ code: 0, stdout: 'set\n' });
    expect([await login(role, bytes), await login(role, bytes.toString())]).toEqual(['', '28P01']);
}));

test('what ends the line is no part of a password that is piped in; several lines, nothing, and a zero byte are exit code 2', () => withRole(async (role) => {
    expect(await piped(role, 'secret\n')).toMatchObject({ code: 0, stdout: 'set\n' });
    for (const same of ['secret', 'secret\r\n']) expect((await piped(role, same)).stdout).toBe('exists\n');
    for (const [wrong, text] of [['', 'is empty'], ['\n', 'is empty'], ['a\nb', 'several lines'], ['a\0b', 'zero byte']] as const) {
        expect(await piped(role, wrong)).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining(text) as string });
    }
    expect((await set(role, '')).code).toBe(2);
    expect(await login(role, 'secret')).toBe('');
}));

test('a password that fits is not written again: the row of pg_authid is the same; another one, md5 or none is replaced', (context) => {
    needsSuperuser(context);
    return withRole(async (role) => {
        expect((await set(role, 'first')).document.outcome).toBe('set');
        const before = await stored(role);
        expect((await set(role, 'first')).document.outcome).toBe('exists');
        expect(await stored(role)).toEqual(before);
        expect((await set(role, 'second')).document.outcome).toBe('set');
        const other = await stored(role);
        expect(other.password).not.toBe(before.password);

        await asAdmin((sql) => sql.unsafe(`set password_encryption = 'md5'; alter role "${role.replaceAll('"', '""')}" password 'second'`).simple());
        expect((await stored(role)).password).toMatch(/^md5/);
        expect((await set(role, 'second')).document.outcome).toBe('set');
        expect(await login(role, 'second')).toBe('');
    });
});

test('control: without comparing, the same password is written again', (context) => {
    needsSuperuser(context);
    return withoutGuards({ 'password/verifier.js': [['return timingSafeEqual(', 'return false && timingSafeEqual(']] }, (cli) => withRole(async (role) => {
        await set(role, 'same', { cli });
        const before = await stored(role);
        expect((await set(role, 'same', { cli })).document.outcome).toBe('set');
        expect((await stored(role)).xmin).not.toBe(before.xmin);
    }));
});

test('16 at once with a new password: one sets it, the others find it; 16 more write nothing', (context) => {
    needsSuperuser(context);
    return withRole(async (role) => {
        const all = async (): Promise<string[]> => (
            (await Promise.all(Array.from({ length: 16 }, () => set(role, 'together')))).map(({ document }) => document.outcome).sort()
        );
        expect(await all()).toEqual([...Array<string>(15).fill('exists'), 'set']);
        const before = await stored(role);
        expect(await all()).toEqual(Array<string>(16).fill('exists'));
        expect(await stored(role)).toEqual(before);
    });
});

const queue = "select pg_advisory_xact_lock(hashtextextended('pg-ensure password', r.oid::bigint)) from pg_roles as r where r.rolname =";

/** What a caller says that waits for another one, which sets the same password. */
const second = (cli?: string): Promise<string> => withRole((role) => withSessions(admin, ['first'], async ({ first }) => {
    const [quoted] = await first.run(`select quote_literal($r$${role}$r$) as it`);
    await first.run('begin');
    await first.run(`${queue} ${String(quoted?.it)}`);
    const waiting = set(role, 'the same', cli ? { cli } : {});
    await untilTrue(admin, `select true from pg_stat_activity as a where ${first.pid} = any (pg_blocking_pids(a.pid))`);
    const verifier = await newVerifier(Buffer.from('the same'), 4096);
    await first.run(`select from ensure.ensure_role_v1(${String(quoted?.it)}, password_verifier => '${verifier}')`);
    await first.run('commit');
    const { document } = await waiting;
    expect((await stored(role)).password === verifier).toBe(document.outcome === 'exists');
    return document.outcome;
}));

test('a second caller waits for the first, then finds that the password fits', async (context) => {
    needsSuperuser(context);
    expect(await second()).toBe('exists');
});

test('control: without looking again it is written twice', (context) => {
    needsSuperuser(context);
    return withoutGuards({ 'password/set.js': [['const late = await fits(', 'const late = false && await fits(']] }, async (cli) => {
        expect(await second(cli)).toBe('set');
    });
});

test('whoever holds the lock of the queue for long does not keep a password from being set', (context) => {
    needsSuperuser(context);
    return withoutGuards({ 'password/set.js': [['queueMs = 10_000', 'queueMs = 100']] }, (cli) => withRole((role) => withSessions(admin, ['holder'], async ({ holder }) => {
        await holder.run(`begin; ${queue} $r$${role}$r$`);
        expect((await set(role, 'p', { cli })).document.outcome).toBe('set');
    })));
});

test('where ensure is not installed it says to run migrate, and nothing is written', (context) => {
    needsSuperuser(context);
    return withRole((role) => withEmptyDatabase(async (database) => {
        const { code, document } = await set(role, 'p', { url: database.admin });
        expect([code, document.error]).toEqual([1, expect.stringContaining('run pg-ensure migrate')]);
        expect((await stored(role)).password).toBeNull();
    }));
});

/** On a terminal: each answer is typed when its question has been asked. */
async function typed(context: TestContext, role: string, answers: string[]): Promise<{ screen: string; code: number | null }> {
    if (process.platform !== 'linux' || spawnSync('script', ['--version']).status !== 0) missing(context, 'needs script of util-linux for a terminal');
    const words = [process.execPath, builtCli, 'password', role].map((word) => `'${word.replaceAll('\'', '\'\\\'\'')}'`).join(' ');
    const child = spawn('script', ['-qec', words, '/dev/null'], { env: { ...process.env, DATABASE_URL: admin }, stdio: 'pipe' });
    let screen = '';
    child.stdout.on('data', (chunk: Buffer) => (screen += chunk.toString()));
    const ended = once(child, 'close') as Promise<[number | null]>;
    for (const [at, answer] of answers.entries()) {
        await until('it asks', () => screen.includes(at ? 'Again: ' : 'New password for '));
        child.stdin.write(answer);
    }
    const [code] = await ended;
    return { screen, code };
}

test('on a terminal it asks twice and shows nothing of the answers', (context) => withRole(async (role) => {
    const { screen, code } = await typed(context, role, ['Typed-wordX\x7f\r', 'Typed-word\r']);
    expect([code, screen]).toEqual([0, expect.stringMatching(/set\r\n$/)]);
    expect(screen).not.toMatch(/Typed|word:.*w/);
    expect(await login(role, 'Typed-word')).toBe('');
}));

test('two answers that differ, and Ctrl-C, change nothing: exit codes 2 and 130', (context) => withRole(async (role) => {
    expect(await typed(context, role, ['one\r', 'other\r'])).toMatchObject({ code: 2, screen: expect.stringContaining('the two differ: nothing was changed') as string });
    expect((await typed(context, role, ['one\r', '\x03'])).code).toBe(130);
    expect(await login(role, 'one')).toBe('28P01');
}));

test('--iterations decides for a new verifier, and replaces one that has others; without it the server\'s are taken and any fit', (context) => {
    needsSuperuser(context);
    return withRole(async (role) => {
        const iterations = async (): Promise<number | undefined> => parsedVerifier((await stored(role)).password)?.iterations;
        await set(role, 'p');
        expect(await iterations()).toBe(4096);
        expect((await set(role, 'p', { args: ['--iterations', '5000'] })).document.outcome).toBe('set');
        expect(await iterations()).toBe(5000);
        expect((await set(role, 'p', { args: ['--iterations', '5000'] })).document.outcome).toBe('exists');
        expect((await set(role, 'p')).document.outcome).toBe('exists');
        expect((await set(role, 'p', { args: ['--iterations', '0'] })).code).toBe(2);
        if (major >= 16) {
            const url = new URL(admin);
            url.searchParams.set('scram_iterations', '6000');
            await set(role, 'q', { url: url.href });
            expect(await iterations()).toBe(6000);
        }
    });
});

test('a role that is not there is an error that says how to create it', async () => {
    const { code, document } = await set('nobody\'s', 'p');
    expect([code, document.error]).toEqual([1, expect.stringContaining(`ensure.ensure_role_v1(role_name => 'nobody''s', login => true)`)]);
});

test('a password is never an argument', async () => {
    expect((await set('r', 'p', { args: ['secret'] })).code).toBe(2);
});

/** A server of the test's own, where log_statement = all, and ensure is installed. */
async function withServer(body: (server: Server) => Promise<void>): Promise<void> {
    const server = await temporaryServer(majorOf(process.env.PG), {
        log_statement: 'all', log_min_duration_statement: '0', log_connections: 'on', log_min_error_statement: 'info',
    });
    try {
        await install(server.url);
        await body(server);
    } finally {
        await server.stop('immediate');
    }
}

const logOf = ({ dataFolder }: Server): string => readFileSync(join(dataFolder, 'server.log'), 'utf8');

test('the clear text is not in the log of the server, where every statement is; control: a statement that says it is', () => withServer((server) => (
    withRole(async (role) => {
        const secret = 'Tr0ub4dor&3-clear';
        expect((await set(role, secret, { url: server.url })).document.outcome).toBe('set');
        expect((await set(role, secret, { url: server.url })).document.outcome).toBe('exists');
        await until('the log has the verifier', () => logOf(server).includes('SCRAM-SHA-256$4096:'));
        expect(logOf(server)).not.toContain(secret);
        await asAdmin((sql) => sql.unsafe(`alter role "${role.replaceAll('"', '""')}" password '${secret}'`), server.url);
        await until('the log has it', () => logOf(server).includes(secret));
    }, 'login', server.url)
)));

/** As a role that may make roles and is no superuser: what is stored it cannot read. */
const asManager = (server: Server, body: (url: string, role: string) => Promise<void>, attributes = 'login'): Promise<void> => (
    withRole(async (manager) => {
        const url = new URL(server.url);
        url.username = encodeURIComponent(manager);
        url.password = 'manager';
        const quoted = `"${manager.replaceAll('"', '""')}"`;
        await asAdmin((sql) => sql.unsafe(`grant usage on schema ensure to ${quoted}`), server.url);
        try {
            await withRole((role) => body(url.href, role), attributes, url.href);
        } finally {
            await asAdmin((sql) => sql.unsafe(`drop owned by ${quoted}`), server.url);
        }
    }, "login createrole password 'manager'", server.url)
);

test('where what is stored cannot be read, a login tells: another password is set, one that fits is not written again', () => withServer((server) => asManager(server, async (url, role) => {
    expect((await set(role, ligature, { url })).document.outcome).toBe('set');
    const before = await stored(role, server.url);
    expect((await set(role, ligature, { url })).document.outcome).toBe('exists');
    expect(await stored(role, server.url)).toEqual(before);
    expect((await set(role, 'another', { url })).document.outcome).toBe('set');
    expect(await login(role, 'another', server.url)).toBe('');
})));

test('control: a login without SASLprep takes a password that fits for another one', () => withoutGuards({
    'password/probe.js': [[': prepared(password))', ': password)']],
}, (cli) => withServer((server) => asManager(server, async (url, role) => {
    expect((await set(role, ligature, { url, cli })).document.outcome).toBe('set');
    expect((await set(role, ligature, { url, cli })).document.outcome).toBe('set');
}))));

/** Above what is there, so that it decides for one role; new connections show when it was loaded. */
async function hba(server: Server, role: string, method: string): Promise<void> {
    const loaded = async (): Promise<string> => asAdmin(async (sql) => String((await sql`select pg_conf_load_time()::text as at`)[0]?.at), server.url);
    const before = await loaded();
    const file = join(server.dataFolder, 'pg_hba.conf');
    const rest = readFileSync(file, 'utf8');
    writeFileSync(file, `host all "${role.replaceAll('"', '""')}" 127.0.0.1/32 ${method}\n`);
    appendFileSync(file, rest);
    await asAdmin((sql) => sql`select pg_reload_conf()`, server.url);
    await until('the server has read it', async () => await loaded() !== before);
}
const trust = (server: Server, role: string): Promise<void> => hba(server, role, 'trust');

/** What clients send to the server, by a port that passes it on. */
async function listening(url: string, body: (url: string, sent: () => string) => Promise<void>): Promise<void> {
    const { hostname, port } = new URL(url);
    const bytes: Buffer[] = [];
    const relay = createServer((client) => {
        const server = connect(Number(port), hostname);
        client.on('data', (chunk) => bytes.push(chunk)).on('error', () => server.destroy()).pipe(server);
        server.on('error', () => client.destroy()).pipe(client);
    }).listen(0, '127.0.0.1');
    await once(relay, 'listening');
    const through = new URL(url);
    through.port = String((relay.address() as AddressInfo).port);
    try {
        await body(through.href, () => Buffer.concat(bytes).toString('latin1'));
    } finally {
        relay.close();
    }
}

test('a server that asks for the clear text is not given it: exit code 14 says so, --force writes a verifier; control: a driver sends it', () => withServer((server) => asManager(server, async (url, role) => {
    const secret = 'clear-Text-of-it';
    expect((await set(role, secret, { url })).document.outcome).toBe('set');
    await hba(server, role, 'password');
    await listening(url, async (through, sent) => {
        for (const password of [secret, 'another']) {
            const { code, stderr, document } = await set(role, password, { url: through });
            expect([code, stderr, document]).toEqual([14, '', expect.objectContaining({ outcome: 'unknown', why: expect.stringContaining('the server asks for the clear text') as string })]);
        }
        expect((await set(role, secret, { url: through, args: ['--force'] })).document.outcome).toBe('set');
        expect(sent()).toContain(`${role}\0`);
        expect(sent()).not.toContain(secret);
        const plain = new URL(through);
        [plain.username, plain.password] = [encodeURIComponent(role), secret];
        await asAdmin((sql) => sql`select 1`, plain.href);
        expect(sent()).toContain(secret);
    });
})));

test('control: without the look at what is asked there is no answer but a stack', () => withoutGuards({
    'password/probe.js': [['asked.kind === kinds.clearText', 'false'], ['kind === asked.kind', 'true']],
}, (cli) => withServer((server) => asManager(server, async (url, role) => {
    await hba(server, role, 'password');
    const { code, stderr } = await set(role, 'p', { url, cli });
    expect([code, stderr]).toEqual([1, expect.stringContaining('TypeError')]);
}))));

/** Stored as MD5, which is asked of the role then. */
async function storedAsMd5(server: Server, role: string, password: string): Promise<void> {
    await hba(server, role, 'md5');
    await asAdmin(async (sql) => {
        await sql`set password_encryption = 'md5'`;
        await sql.unsafe(`alter role "${role.replaceAll('"', '""')}" password '${password}'`);
    }, server.url);
}

test('a server that asks for MD5 tells too, of the password as it is: what fits exists, another one is set as a verifier, which fits then', () => withServer((server) => asManager(server, async (url, role) => {
    await storedAsMd5(server, role, ligature);
    expect((await set(role, ligature, { url })).document.outcome).toBe('exists');
    expect((await stored(role, server.url)).password).toMatch(/^md5/);
    expect((await set(role, 'another', { url })).document.outcome).toBe('set');
    expect((await stored(role, server.url)).password).toMatch(/^SCRAM-SHA-256/);
    expect((await set(role, 'another', { url })).document.outcome).toBe('exists');
})));

test('control: prepared as for SCRAM, a password stored as MD5 is taken for another one', () => withoutGuards({
    'password/probe.js': [['asked.kind === kinds.md5 ? password : prepared(password)', 'prepared(password)']],
}, (cli) => withServer((server) => asManager(server, async (url, role) => {
    await storedAsMd5(server, role, ligature);
    expect((await set(role, ligature, { url, cli })).document.outcome).toBe('set');
}))));

test('over TLS it hears what is asked too', (context) => {
    if (spawnSync('openssl', ['version']).status !== 0) missing(context, 'needs openssl for a certificate');
    return withServer((server) => asManager(server, async (url, role) => {
        const made = spawnSync('openssl', ['req', '-new', '-x509', '-days', '2', '-nodes', '-subj', '/CN=localhost', '-out', join(server.dataFolder, 'server.crt'), '-keyout', join(server.dataFolder, 'server.key')]);
        expect(made.status).toBe(0);
        const { uid, gid } = statSync(server.dataFolder);
        chmodSync(join(server.dataFolder, 'server.key'), 0o600);
        chownSync(join(server.dataFolder, 'server.key'), uid, gid);
        await asAdmin((sql) => sql`alter system set ssl = on`, server.url);
        await hba(server, role, 'password');
        const secured = new URL(url);
        secured.searchParams.set('sslmode', 'require');
        const { code, document } = await set(role, 'p', { url: secured.href });
        expect([code, document.why], String(document.error)).toEqual([14, expect.stringContaining('clear text')]);
    }));
});

test('under trust nobody can tell: exit code 14, and nothing is written, but with --force', () => withServer((server) => asManager(server, async (url, role) => {
    await trust(server, role);
    const before = await stored(role, server.url);
    const { code, document } = await set(role, 'p', { url });
    expect([code, document]).toEqual([14, expect.objectContaining({ outcome: 'unknown', why: expect.stringContaining('a wrong password succeeds too') as string })]);
    expect(await stored(role, server.url)).toEqual(before);
    expect((await set(role, 'p', { url, args: ['--force'] })).document.outcome).toBe('set');
    expect((await set(role, 'p', { url: server.url })).document.outcome).toBe('exists'); // it can be read
})));

test('control: without the second login trust is taken for a password that fits', () => withoutGuards({
    'password/probe.js': [['if (second.code === wrongPassword)', 'if (true)']],
}, (cli) => withServer((server) => asManager(server, async (url, role) => {
    await trust(server, role);
    expect((await set(role, 'p', { url, cli })).document.outcome).toBe('exists');
}))));

test.each([
    ['no login', 'nologin', '28000'], ['no connection left', 'login connection limit 0', '53300'], ['expired', "login valid until '2001-01-01'", 'has expired'],
])('a login that fails for another reason tells nothing: %s', (_name, attributes, why) => withServer((server) => asManager(server, async (url, role) => {
    await set(role, 'p', { url: server.url }); // with a wrong one it is refused as any other, before its limit is looked at
    const { code, document } = await set(role, 'p', { url });
    expect([code, document.outcome, document.why]).toEqual([14, 'unknown', expect.stringContaining(why)]);
}, attributes)));
