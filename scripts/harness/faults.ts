import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import postgres from 'postgres';
import { connectOptions, settle, type Outcome, type Session } from './sessions.js';

/** What may happen to a session from outside. `admin` is a URL whose role may signal it. */
export interface Faults {
    /** pg_cancel_backend: the statement ends with 57014, the transaction is aborted. */
    cancel(session: Pick<Session, 'pid' | 'name'>): Promise<void>;
    /** pg_terminate_backend: the connection ends with 57P01. */
    terminate(session: Pick<Session, 'pid' | 'name'>): Promise<void>;
    /** kill -9 of the backend, on this machine: the server restarts and recovers, every connection ends. */
    killBackend(session: Pick<Session, 'pid'>): void;
}

/** Runs `body` with the fault kit. */
export async function withFaults<Result>(admin: string, body: (faults: Faults) => Promise<Result>): Promise<Result> {
    const sql = postgres(admin, connectOptions);
    const signal = async (session: Pick<Session, 'pid' | 'name'>, how: 'pg_cancel_backend' | 'pg_terminate_backend') => {
        const [row] = await sql.unsafe(`select ${how}(${session.pid}) as sent`);
        if (!row?.sent) throw new Error(`no backend ${session.pid} (${session.name}) to signal`);
    };
    try {
        return await body({
            cancel: (session) => signal(session, 'pg_cancel_backend'),
            terminate: (session) => signal(session, 'pg_terminate_backend'),
            killBackend: (session) => void process.kill(session.pid, 'SIGKILL'),
        });
    } finally {
        await sql.end({ timeout: 0 });
    }
}

/** Returns once the server at `url` accepts connections again after a crash. */
export async function recovered(url: string): Promise<void> {
    for (const end = Date.now() + 30_000; Date.now() < end;) {
        const sql = postgres(url, { ...connectOptions, connect_timeout: 2 });
        const { code } = await settle(sql`select 1`);
        await sql.end({ timeout: 0 });
        if (code === 'ok') return;
    }
    throw new Error('the server does not accept connections again');
}

/** A client that is a process of its own, with one connection: it can be killed as a replica's container is. */
export interface ClientProcess {
    readonly child: ChildProcess;
    /** What a statement comes to; 'KILLED' when the process ends before it knows. */
    attempt(statement: string): Promise<Outcome>;
    /** SIGKILL: nothing is said to the server, whose end of the socket the kernel closes. */
    kill(): Promise<void>;
    end(): Promise<void>;
}

/** A broken connection is given up, and the next statement opens another: the driver by itself waits longer and longer. */
const program = `
    const { createInterface } = await import('node:readline');
    const { default: postgres } = await import(process.argv[1]);
    const connect = () => postgres(process.argv[2], { ...${JSON.stringify(connectOptions)}, connect_timeout: 5, onnotice: () => {},
        connection: { application_name: process.argv[3] } });
    let sql = connect();
    process.stdout.on('error', () => process.exit());
    for await (const line of createInterface({ input: process.stdin })) {
        let answer;
        try {
            const result = await sql.unsafe(JSON.parse(line)).simple();
            answer = { rows: Array.isArray(result[0]) ? result.at(-1) : [...result], code: 'ok' };
        } catch (error) {
            const { message, code = error.name, severity_local, severity = severity_local } = error;
            answer = { rows: [], code, error: { message, code } };
            if (severity !== 'ERROR') {
                await sql.end({ timeout: 0 });
                sql = connect();
            }
        }
        process.stdout.write(JSON.stringify(answer) + '\\n');
    }
    process.exit();`;

export function clientProcess(url: string, name: string, { env = {} }: { env?: NodeJS.ProcessEnv } = {}): ClientProcess {
    const driver = pathToFileURL(createRequire(import.meta.url).resolve('postgres')).href;
    const args = [driver, url, `pg-ensure test ${name}`];
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, '--', ...args], { env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'inherit'] });
    const waiting: ((answer: Outcome) => void)[] = [];
    const killed: Outcome = { rows: [], code: 'KILLED', error: new Error(`the process of ${name} has ended`) };
    let over = false;
    const ended = once(child, 'exit').then(() => {
        over = true;
        for (const answer of waiting.splice(0)) answer(killed);
    });
    child.stdin.on('error', () => {}); // it was killed: its exit says so
    createInterface({ input: child.stdout }).on('line', (line) => waiting.shift()?.(JSON.parse(line) as Outcome));
    return {
        child,
        attempt: (statement) => (over ? Promise.resolve(killed) : new Promise((answer) => {
            waiting.push(answer);
            child.stdin.write(`${JSON.stringify(statement)}\n`);
        })),
        async kill() {
            child.kill('SIGKILL');
            await ended;
        },
        async end() {
            child.stdin.end();
            await ended;
        },
    };
}
