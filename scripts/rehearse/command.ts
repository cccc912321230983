import type { Command } from 'commander';
import type { Notice } from 'postgres';
import { durationOption, interruption, type Surface } from '../commands.js';
import { exitCodes, UserError } from '../errors.js';
import { failureOf } from '../failure.js';
import { message, type ServerMessage } from '../print.js';
import { readInput } from './input.js';
import { emptyReport, rehearse } from './rehearse.js';
import { failureText, textOf } from './text.js';

interface Flags {
    lockTimeout: number;
    statementTimeout: number;
    json?: boolean;
}

export function addRehearseCommand(program: Command, { open, print, complain }: Surface): void {
    program.command('rehearse').description('run SQL in a transaction that is rolled back, and say what it would change and what it locked')
        .argument('<sql>', 'statements, or a file of them; of a migration the part after "-- migrate:up"')
        .addOption(durationOption('--lock-timeout <duration>', 'for a statement to get a lock', '500ms'))
        .addOption(durationOption('--statement-timeout <duration>', 'for each statement', '1min'))
        .option('--json', 'the result as one JSON document on stdout')
        .action(async (argument: string, { lockTimeout, statementTimeout, json = false }: Flags) => {
            const report = emptyReport();
            const notices: ServerMessage[] = [];
            const document = (error: string | null, exitCode: number): void => print(JSON.stringify({
                outcome: error === null ? 'rehearsed' : 'failed', ...report, notices, error, exitCode,
            }, undefined, 2));
            const onnotice = (notice: Notice): void => {
                const { severity, code, message: text, detail, hint } = notice as unknown as ServerMessage;
                notices.push({ severity, code, message: text, detail, hint });
                if (!json) complain(message(notice as unknown as ServerMessage, false));
            };
            try {
                const input = readInput(argument);
                const { database: { url } } = await open(true);
                const limits = { lockTimeoutMs: lockTimeout, statementTimeoutMs: statementTimeout };
                await rehearse({ url, input, ...limits, stop: interruption(), onnotice }, report);
                if (!json) print(textOf(report));
                if (report.failure) throw new UserError(failureText(report.failure));
                if (json) document(null, 0);
            } catch (error) {
                const { text, exitCode } = failureOf(error);
                if (!json || text === undefined) throw error;
                process.exitCode = exitCode;
                document(text.replace(/^pg-ensure: /, ''), exitCode ?? exitCodes.error);
            }
        });
}
