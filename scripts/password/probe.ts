import { isUtf8 } from 'node:buffer';
import { randomBytes } from 'node:crypto';
import postgres from 'postgres';
import { connectOptions, parsedUrl, withoutName } from '../connection.js';
import { codeOf } from '../errors.js';
import { askedOf, kinds } from './method.js';
import { prepared } from './saslprep.js';

/** What a login says of a password; 'unknown' with the reason, for people. */
export type Probed = { answer: 'fits' | 'differs' } | { answer: 'unknown'; why: string };

const wrongPassword = '28P01';

/** Logs in as the role, where it is not allowed to read what is stored; nothing is run. */
export async function probe(url: string, role: string, password: Buffer): Promise<Probed> {
    const asked = await askedOf(url, role);
    if (!('kind' in asked)) return refused(role, asked);
    if (asked.kind === kinds.clearText) {
        return { answer: 'unknown', why: 'the server asks for the clear text (pg_hba.conf: password, ldap, pam, radius …), and that is not sent' };
    }
    if (![kinds.none, kinds.md5, kinds.sasl].some((kind) => kind === asked.kind)) {
        return { answer: 'unknown', why: `the server asks for what this client does not have (authentication ${asked.kind}: GSSAPI, SSPI …)` };
    }
    if (asked.kind === kinds.md5 && !isUtf8(password)) return { answer: 'unknown', why: 'the server asks for MD5, and the password is no UTF-8' };
    // The driver does no SASLprep of its own; MD5 is of the password as it is.
    const first = await login(url, role, asked.kind === kinds.md5 ? password : prepared(password));
    if (first.code === wrongPassword) return { answer: 'differs' };
    if (first.code) return refused(role, first);
    const second = await login(url, role, Buffer.from(randomBytes(24).toString('base64url')));
    if (second.code === wrongPassword) return { answer: 'fits' };
    if (second.code) return { answer: 'unknown', why: `a login with a wrong password is refused, but: ${second.code}: ${second.message}` };
    return { answer: 'unknown', why: 'a login with a wrong password succeeds too: pg_hba.conf asks for none here (trust, peer, cert …)' };
}

const refused = (role: string, { code, message }: Login): Probed => (
    { answer: 'unknown', why: `a login as ${role} is refused: ${code}: ${message}` }
);

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
