import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { prepared } from './saslprep.js';

export interface Verifier {
    iterations: number;
    salt: Buffer;
    storedKey: Buffer;
    serverKey: Buffer;
}

const saltBytes = 16;
const keyBytes = 32;
const form = /^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/]+=*)\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)$/;

export async function derive(password: Buffer, salt: Buffer, iterations: number): Promise<Verifier> {
    const salted = await promisify(pbkdf2)(prepared(password), salt, iterations, keyBytes, 'sha256');
    const mac = (text: string): Buffer => createHmac('sha256', salted).update(text).digest();
    const storedKey = createHash('sha256').update(mac('Client Key')).digest();
    return { iterations, salt, storedKey, serverKey: mac('Server Key') };
}

export async function newVerifier(password: Buffer, iterations: number): Promise<string> {
    return spelled(await derive(password, randomBytes(saltBytes), iterations));
}

/** As pg_authid.rolpassword has it. */
export function spelled({ iterations, salt, storedKey, serverKey }: Verifier): string {
    const [s, stored, server] = [salt, storedKey, serverKey].map((bytes) => bytes.toString('base64'));
    return `SCRAM-SHA-256$${iterations}:${s}$${stored}:${server}`;
}

/** Undefined for what is no SCRAM verifier: md5, or nothing. */
export function parsedVerifier(text: string | null): Verifier | undefined {
    const [, iterations, salt = '', stored = '', server = ''] = form.exec(text ?? '') ?? [];
    if (!iterations) return undefined;
    const bytes = (base64: string): Buffer => Buffer.from(base64, 'base64');
    return { iterations: Number(iterations), salt: bytes(salt), storedKey: bytes(stored), serverKey: bytes(server) };
}

/** Whether a stored verifier is of this password, and of so many iterations when they are given. */
export async function fits(stored: string | null, password: Buffer, iterations?: number): Promise<boolean> {
    const known = parsedVerifier(stored);
    if (!known || iterations !== undefined && iterations !== known.iterations) return false;
    const { storedKey, serverKey } = await derive(password, known.salt, known.iterations);
    return timingSafeEqual(storedKey, known.storedKey) && timingSafeEqual(serverKey, known.serverKey);
}
