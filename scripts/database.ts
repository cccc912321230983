import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Major } from './binaries.js';
import { normalizedUrl } from './connection.js';
import { startContainer, type Container } from './container.js';
import { developmentDatabase, stateFolder } from './development.js';
import { newPassword, type Server } from './embedded.js';
import { ownedFolder, unprivilegedUser } from './unprivileged.js';

export { normalizedUrl, withConnection } from './connection.js';
export { developmentDatabase, stateFolder } from './development.js';

export type Database =
    | { kind: 'url'; url: string }
    | { kind: 'container'; url: string; image: string; container: Container }
    | { kind: 'embedded'; url: string; major: Major; server: Server };

export interface Wanted {
    env: NodeJS.ProcessEnv;
    major: Major;
    container?: string | undefined;
}

/** DATABASE_URL, else a container of PG_CONTAINER, else the embedded server: started if it does not run. */
export async function resolveDatabase({ env, major, container = env.PG_CONTAINER }: Wanted): Promise<Database> {
    if (env.DATABASE_URL) return { kind: 'url', url: await normalizedUrl(env.DATABASE_URL) };
    if (container) {
        const started = await startContainer(container, { password: containerPassword(), keep: true });
        return { kind: 'container', url: started.url, image: container, container: started };
    }
    return { kind: 'embedded', major, ...await developmentDatabase(major) };
}

/** One for all processes of this folder: a kept container is found again by its description, password included. */
function containerPassword(): string {
    const file = join(ownedFolder(unprivilegedUser(), stateFolder()), 'container-password');
    if (!existsSync(file)) writeFileSync(file, newPassword(), { mode: 0o600 });
    return readFileSync(file, 'utf8');
}
