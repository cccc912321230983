import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { json } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';
import { expect, test, type TestContext } from 'vitest';
import { stopServer, type Server } from '../../scripts/embedded.js';
import { portIsFree } from '../../scripts/ports.js';
import { major, missing, surroundings } from '../context.js';
import { builtCli, withoutGuards } from '../migrate/context.js';
import { until } from '../until.js';

type Owned = Pick<Server, 'dataFolder' | 'port'> & { kill: (signal: NodeJS.Signals) => Promise<void>; free: () => Promise<boolean> };

/** A temporary server, and the process that started it: killed with all of its group, as a terminal does it. */
async function owned(cli = builtCli): Promise<Owned> {
    const program = `import { temporaryServer } from ${JSON.stringify(pathToFileURL(join(dirname(cli), 'embedded.js')))};
        const { dataFolder, port } = await temporaryServer('${major}');
        process.stdout.end(JSON.stringify({ dataFolder, port }));
        setInterval(() => {}, 1_000);`;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', program], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
    const { dataFolder, port } = await json(owner.stdout) as Owned;
    return {
        dataFolder, port,
        async kill(signal) {
            process.kill(-(owner.pid ?? 0), signal);
            await once(owner, 'exit');
        },
        free: () => portIsFree(port),
    };
}

const isGone = async ({ dataFolder, free }: Owned): Promise<boolean> => !existsSync(dirname(dataFolder)) && await free();
const withoutShell = { 'embedded.js': [["'-c', lastRites", "'-c', 'exit'"]] } satisfies Parameters<typeof withoutGuards>[0];

test.for(['SIGKILL', 'SIGINT', 'SIGTERM'] as const)('a temporary server ends when the process that started it does, by %s, and its data goes; control: without its shell it stays', async (signal, context) => {
    if (!surroundings.embedded) return missing(context, 'needs servers of its own, not DATABASE_URL');
    await withoutGuards(withoutShell, async (cli) => {
        const [guarded, bare] = await Promise.all([owned(), owned(cli)]);
        try {
            await Promise.all([guarded, bare].map((one) => one.kill(signal)));
            await until('the server and its data have gone', () => isGone(guarded));
            expect(await bare.free()).toBe(false);
        } finally {
            for (const { dataFolder } of [guarded, bare]) {
                if (existsSync(dataFolder)) await stopServer(dataFolder, 'immediate');
                rmSync(dirname(dataFolder), { recursive: true, force: true });
            }
        }
    });
});

/** Whether a process that has the pid of a server that is no more outlives the one that started that server. */
async function survives(context: TestContext, cli?: string): Promise<boolean> {
    if (!surroundings.embedded) return missing(context, 'needs servers of its own, not DATABASE_URL');
    const stranger: ChildProcess = spawn('sleep', ['1000']);
    const server = await owned(cli);
    try {
        await stopServer(server.dataFolder, 'immediate');
        writeFileSync(join(server.dataFolder, 'postmaster.pid'), `${stranger.pid}\n`);
        await server.kill('SIGKILL');
        await until('its data has gone', () => isGone(server));
        return stranger.exitCode === null && stranger.signalCode === null;
    } finally {
        stranger.kill();
    }
}

test('a process that has come by the pid of the server is let live', async (context) => {
    expect(await survives(context)).toBe(true);
});

test('control: without looking whose pid it is, it is killed', (context) => withoutGuards({
    'embedded.js': [['[ "/proc/$pid/cwd" -ef "$1/data" ]', 'kill -0 "$pid"']],
}, async (cli) => {
    expect(await survives(context, cli)).toBe(false);
}));
