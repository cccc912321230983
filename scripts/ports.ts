import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';

export async function portIsFree(port: number): Promise<boolean> {
    const server = createServer().listen(port, '127.0.0.1');
    try {
        await once(server, 'listening');
    } catch {
        return false;
    }
    server.close();
    await once(server, 'close');
    return true;
}

/** Below the range that Linux takes the ports of outgoing connections from: none of those can take it meanwhile. */
export async function freePort(): Promise<number> {
    for (;;) {
        const port = randomInt(15_000, 32_000);
        if (await portIsFree(port)) return port;
    }
}
