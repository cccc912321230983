import { randomBytes } from 'node:crypto';
import postgres from 'postgres';
import { connectOptions, parsedUrl, withoutName } from '../connection.js';
import { codeOf } from '../errors.js';
import { prepared } from './saslprep.js';

/** What a login says of a password; 'unknown' with the reason, for people. */
export type Probed = { answer: 'fits' | 'differs' } | { answer: 'unknown'; why: string };

const wrongPassword = '28P01';

/** Logs in as the role, where it is not allowed to read what is stored; nothing is run. */
export async function probe(url: string, role: string, password: Buffer): Promise<Probed> {
    // The driver does no SASLprep of its own.
    const first = await login(url, role, prepared(password));
    if (first.code === wrongPassword) return { answer: 'differs' };
    if (first.code) return { answer: 'unknown', why: `a login as ${role} is refused: ${first.code}: ${first.message}` };
    const second = await login(url, role, Buffer.from(randomBytes(24).toString('base64url')));
    if (second.code === wrongPassword) return { answer: 'fits' };
    if (second.code) return { answer: 'unknown', why: `a login with a wrong password is refused, but: ${second.code}: ${second.message}` };
    return { answer: 'unknown', why: 'a login with a wrong password succeeds too: pg_hba.conf asks for none here (trust, peer, cert …)' };
}

interface Login {
    /** '' when it succeeded. */
    code: string;
    message: string;
}

async function login(text: string, role: string, password: Buffer): Promise<Login> {
    const url = parsedUrl(withoutName(text));
    url.username = encodeURIComponent(role);
    url.password = '';
    const sql = postgres(url.href, {
        // Bytes that are no UTF-8 are no string; under SCRAM the driver takes bytes as they are.
        ...connectOptions, password: () => password as unknown as string, connection: { application_name: 'pg-ensure password' },
    });
    try {
        await sql.unsafe('select').simple();
        return { code: '', message: '' };
    } catch (error) {
        return { code: codeOf(error) || 'unknown', message: (error as Error).message };
    } finally {
        await sql.end({ timeout: 1 });
    }
}
