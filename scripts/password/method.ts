import { connect, isIP, type Socket } from 'node:net';
import { connect as secured } from 'node:tls';
import { parsedUrl } from '../connection.js';
import { codeOf } from '../errors.js';

/** The kinds of the Authentication message that a login can go on from. */
export const kinds = { none: 0, clearText: 3, md5: 5, sasl: 10 } as const;

/** What the server asks of the role before it lets it in, or why it does not even ask. */
export type Asked = { kind: number } | { code: string; message: string };

const patienceMs = 15_000;
const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);

/** Says who it is, hears what is asked, and hangs up: no driver tells before it has answered. */
export async function askedOf(text: string, role: string): Promise<Asked> {
    const url = parsedUrl(text);
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const socket = connect(Number(url.port || 5432), host);
    const end = AbortSignal.timeout(patienceMs);
    end.addEventListener('abort', () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })));
    try {
        const plain = url.searchParams.get('sslmode') === 'disable';
        return answerOf(plain ? await said(socket, startup(url, role)) : await overTls(socket, host, startup(url, role)));
    } catch (error) {
        return { code: codeOf(error) || 'unknown', message: (error as Error).message };
    } finally {
        socket.destroy();
    }
}

/** The certificate is for the login to check: what is said here is no secret. */
async function overTls(socket: Socket, host: string, message: Buffer): Promise<Buffer> {
    socket.write(sslRequest);
    const [byte] = await heard(socket, () => 1);
    if (byte !== 'S'.charCodeAt(0)) return said(socket, message);
    return said(secured({ socket, rejectUnauthorized: false, ...isIP(host) ? {} : { servername: host } }), message);
}

async function said(socket: Socket, message: Buffer): Promise<Buffer> {
    socket.write(message);
    return heard(socket, (bytes) => (bytes.length < 5 ? Infinity : 1 + bytes.readUInt32BE(1)));
}

/** As many bytes as `wanted` says of what is there. */
function heard(socket: Socket, wanted: (bytes: Buffer) => number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
        let bytes = Buffer.alloc(0);
        const take = (more: Buffer): void => {
            bytes = Buffer.concat([bytes, more]);
            if (bytes.length < wanted(bytes)) return;
            socket.off('data', take);
            resolve(bytes);
        };
        socket.on('data', take).once('error', reject)
            .once('close', () => reject(Object.assign(new Error('the server hung up'), { code: 'ECONNRESET' })));
    });
}

function startup({ pathname }: URL, role: string): Buffer {
    const database = decodeURIComponent(pathname.slice(1)) || role;
    const words = Buffer.from(`user\0${role}\0database\0${database}\0application_name\0pg-ensure password\0\0`);
    const head = Buffer.alloc(8);
    head.writeUInt32BE(8 + words.length, 0);
    head.writeUInt16BE(3, 4); // protocol 3.0
    return Buffer.concat([head, words]);
}

function answerOf(bytes: Buffer): Asked {
    const letter = String.fromCharCode(bytes[0] ?? 0);
    if (letter === 'R') return { kind: bytes.readUInt32BE(5) };
    const fields = bytes.toString('utf8', 5).split('\0');
    const field = (name: string): string => fields.find((one) => one.startsWith(name))?.slice(1) ?? 'unknown';
    return letter === 'E' ? { code: field('C'), message: field('M') } : { code: 'unknown', message: `the server says ${letter}` };
}
