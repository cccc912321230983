import { InvalidArgumentError, type Command } from 'commander';
import type { Surface } from '../commands.js';
import { exitCodes } from '../errors.js';
import { failureOf } from '../failure.js';
import { readPassword } from './read.js';
import { setPassword } from './set.js';

interface Flags {
    fromEnv?: string;
    iterations?: number;
    force?: boolean;
    json?: boolean;
}

const mostIterations = 2 ** 31 - 1;

function count(text: string): number {
    const number = /^\d+$/.test(text) ? Number(text) : 0;
    if (number < 1 || number > mostIterations) throw new InvalidArgumentError('Write a number from 1.');
    return number;
}

export function addPasswordCommand(program: Command, { open, print }: Surface): void {
    program.command('password').description('set the password of a role, when it is not this one already; the clear text stays here')
        .argument('<role>', 'a role that exists')
        .option('--from-env <name>', 'read it from that environment variable; else it is read from stdin, or asked for twice on a terminal')
        .option('--iterations <count>', 'of the SCRAM verifier (default: scram_iterations of the server, 4096 before 16)', count)
        .option('--force', 'write it also where nobody can tell whether it fits')
        .option('--json', 'the result as one JSON document on stdout')
        .action(async (role: string, { fromEnv, iterations, force = false, json = false }: Flags) => {
            const document = (value: object): void => print(JSON.stringify(value, undefined, 2));
            try {
                const password = await readPassword(role, fromEnv);
                const { database: { url } } = await open(true);
                const { outcome, why } = await setPassword({ url, role, password, iterations, force });
                process.exitCode = outcome === 'unknown' ? exitCodes.findings : 0;
                if (json) return document({ role, outcome, why, error: null, exitCode: process.exitCode });
                print(why ? `${outcome}: ${why}; nothing was written (--force does)` : outcome);
            } catch (error) {
                const { text, exitCode } = failureOf(error);
                if (!json || text === undefined) throw error;
                process.exitCode = exitCode;
                document({ role, outcome: 'failed', why: null, error: text.replace(/^pg-ensure: /, ''), exitCode });
            }
        });
}
