import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { constants } from 'node:os';
import { buffer } from 'node:stream/consumers';
import { exitCodes, UserError } from '../errors.js';

/** From an environment variable, from what is piped in, or asked for twice on a terminal. Never from an argument. */
export async function readPassword(role: string, variable?: string): Promise<Buffer> {
    const password = variable !== undefined ? fromEnvironment(variable)
        : process.stdin.isTTY ? await asked(role)
            : await piped();
    if (!password.length) {
        throw new UserError('the password is empty, which for PostgreSQL is no password: to take it away, alter role … password null',
            exitCodes.usage);
    }
    if (password.includes(0)) throw new UserError('the password holds a zero byte, which PostgreSQL cannot be given', exitCodes.usage);
    return password;
}

function fromEnvironment(variable: string): Buffer {
    const value = process.env[variable];
    if (value === undefined) throw new UserError(`the environment has no ${variable}`, exitCodes.usage);
    // What is no UTF-8 has become U+FFFD by now, and another password.
    if (value.includes('\uFFFD')) throw new UserError(`${variable} is no UTF-8, or holds U+FFFD: pipe the password in`, exitCodes.usage);
    return Buffer.from(value);
}

/** One line; what ends it is not part of it. */
async function piped(): Promise<Buffer> {
    const bytes = await buffer(process.stdin);
    const end = bytes.indexOf(10);
    if (end < 0) return bytes;
    if (end < bytes.length - 1) {
        throw new UserError('what is piped in has several lines: a password is one', exitCodes.usage);
    }
    return bytes.subarray(0, bytes[end - 1] === 13 ? end - 1 : end);
}

/** In raw mode from before it asks: the terminal shows what is written to it, and nothing is. */
async function asked(role: string): Promise<Buffer> {
    const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
    const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true, historySize: 0 });
    terminal.once('SIGINT', () => terminal.close());
    const lines = terminal[Symbol.asyncIterator]();
    const answer = async (question: string): Promise<string> => {
        process.stderr.write(question);
        const { value, done } = await lines.next() as IteratorResult<string, undefined>;
        process.stderr.write('\n');
        if (done) throw new UserError('stopped: nothing was changed', 128 + constants.signals.SIGINT);
        return value;
    };
    try {
        const first = await answer(`New password for ${role}: `);
        if (first !== await answer('Again: ')) throw new UserError('the two differ: nothing was changed', exitCodes.usage);
        return Buffer.from(first);
    } finally {
        terminal.close();
    }
}
