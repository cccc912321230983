import { setTimeout as sleep } from 'node:timers/promises';
import { withConnection } from './connection.js';
import { exitCodes, UserError } from './errors.js';

export interface Container {
    url: string;
    id: string;
    stop: () => Promise<void>;
}

const startSeconds = 120;

/** A server in a container of `image`. A kept one is found again by the next process and runs until it is stopped. */
export async function startContainer(
    image: string, { password, keep = false }: { password: string; keep?: boolean },
): Promise<Container> {
    const { GenericContainer, getContainerRuntimeClient } = await import('testcontainers');
    try {
        await getContainerRuntimeClient();
    } catch {
        throw new UserError(`PG_CONTAINER=${image} needs Docker and none answers: start Docker, or unset PG_CONTAINER `
            + 'to use the embedded server, or set DATABASE_URL', exitCodes.noDatabase);
    }
    const described = new GenericContainer(image)
        .withEnvironment({ POSTGRES_PASSWORD: password })
        .withExposedPorts(5432)
        .withStartupTimeout(startSeconds * 1000);
    const container = await (keep ? described.withReuse() : described).start().catch((error: Error) => {
        throw new UserError(`no container of ${image} starts: ${error.message}`, exitCodes.noDatabase);
    });
    const place = `${container.getHost()}:${container.getMappedPort(5432)}`;
    const url = `postgres://postgres:${password}@${place}/postgres?sslmode=disable`;
    // The images restart their server once while they set it up: an open port proves nothing.
    for (const end = Date.now() + startSeconds * 1000; ; await sleep(200)) {
        try {
            await withConnection(url, (sql) => sql`select 1`);
            return { url, id: container.getId(), stop: async () => void await container.stop() };
        } catch (error) {
            if (Date.now() > end) throw error;
        }
    }
}
