import type { Command } from 'commander';
import { durationOption, interruption, type Surface } from '../commands.js';
import { exitCodes, UserError } from '../errors.js';
import { failureOf } from '../failure.js';
import { table } from '../print.js';
import { counted, telling } from './report.js';
import { emptyReport, runPlan, type Entry, type Report } from './run.js';

interface Flags {
    lockTimeout: number;
    maxWait: number;
    dryRun?: boolean;
    json?: boolean;
}

export function addRunCommand(program: Command, { open, print, complain }: Surface): void {
    program.command('run').description('run a plan: the statements that a query returns, until it returns none')
        .argument('<query>', 'a query with a column "statement", such as select * from ensure.plan_partitions_v1(…)')
        .addOption(durationOption('--lock-timeout <duration>', 'for one attempt of a statement, or to ask for the plan, to get its locks', '500ms'))
        .addOption(durationOption('--max-wait <duration>', 'for another runner, and for the locks of each statement in a transaction and of the plan', '10min'))
        .option('--dry-run', 'print what is next, up to the first barrier, and run nothing')
        .option('--json', 'the result as one JSON document on stdout, progress as JSON lines on stderr')
        .action(async (query: string, { lockTimeout, maxWait, dryRun = false, json = false }: Flags) => {
            const report = emptyReport();
            const begun = performance.now();
            const document = (outcome: string, error: string | null, exitCode: number): void => print(JSON.stringify({
                outcome, ...report, seconds: Math.round(performance.now() - begun) / 1000, error, exitCode,
            }, undefined, 2));
            try {
                if (!query.trim()) throw new UserError('no query: pg-ensure run \'select …\', make run Q=\'select …\'', exitCodes.usage);
                const { database: { url } } = await open(true);
                const limits = { lockTimeoutMs: lockTimeout, maxWaitMs: maxWait, stop: interruption() };
                await telling(json, complain, (say) => runPlan({ url, query, dryRun, say, ...limits }, report));
                const outcome = dryRun ? 'planned' : report.plan.length ? 'done' : 'nothing to do';
                if (json) document(outcome, null, 0);
                else print(dryRun ? planned(report) : summary(report));
            } catch (error) {
                const { text, exitCode } = failureOf(error);
                if (!json || text === undefined) throw error;
                process.exitCode = exitCode;
                document('failed', text.replace(/^pg-ensure: /, ''), exitCode);
            }
        });
}

function planned({ plan }: Report): string {
    const columns = [['step', 23], ['statement', 25], ['in_transaction', 16], ['locks', 25], ['why', 25]] as const;
    return table({
        command: 'SELECT', count: plan.length, columns: columns.map(([name, type]) => ({ name, type })),
        rows: plan.map(({ step, statement, inTransaction, locks, why }) => (
            [String(step), statement, inTransaction ? 't' : 'f', locks, why]
        )),
    }).trimEnd();
}

function summary({ plan, statements }: Report): string {
    if (!plan.length) return 'nothing to do: the plan has no rows';
    const sum = (of: (entry: Entry) => number | null): number => statements.reduce((total, entry) => total + (of(entry) ?? 0), 0);
    const runs = sum(({ runs }) => runs);
    const swept = statements.some(({ rows }) => rows !== null) ? `, ${counted(sum(({ rows }) => rows), 'row')} swept` : '';
    const retries = sum(({ retries }) => retries);
    const again = retries ? `, ${counted(retries, 'retry', 'retries')}` : '';
    return `${counted(runs, 'statement')} run${swept}${again}; the plan has no rows left`;
}
