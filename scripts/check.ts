import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import format from 'pg-format';
import type { Sql } from 'postgres';
import { exitCodes, UserError } from './errors.js';
import { answers, json, table, type Answer } from './print.js';

interface Flags {
    budget?: string | true;
    roles?: string;
    json?: boolean;
}

export function addCheckCommand(
    program: Command, print: (text: string) => void, connected: <T>(work: (sql: Sql) => Promise<T>, migrating?: boolean) => Promise<T>,
): void {
    program.command('check')
        .description('say what is wrong: with the installation and the connection, or with what an option names')
        .option('--budget [file]', 'the connections that roles may open; the file declares pools: {"app": {"pool": 5, "replicas": 3}}')
        .option('--roles <file>', 'a document of roles, owners and grants, as ensure_roles_v1 takes it')
        .option('--json', 'print rows as JSON')
        .action(({ budget, roles, json: asJson }: Flags) => {
            const documents = { budget: typeof budget === 'string' ? read(budget) : null, roles: roles === undefined ? null : read(roles) };
            return connected(async (sql) => {
                const [found] = await sql`select to_regproc('ensure.check_install_v1') is not null as installed`;
                if (!found?.installed) throw new UserError('ensure is not installed in this database: run pg-ensure migrate');
                const all: Answer[] = [];
                if (budget) all.push(...await answers(sql, format('select * from ensure.check_connection_budget_v1(%L)', documents.budget)));
                if (roles !== undefined) all.push(...await answers(sql, format('select * from ensure.check_roles_v1(%L)', documents.roles)));
                const findings = all.flatMap(({ columns, rows }) => rows.map((row) => row[columns.findIndex(({ name }) => name === 'finding')]));
                if (findings.some((finding) => finding !== 'ok')) process.exitCode = exitCodes.findings;
                if (!all.length) {
                    const { state } = await sql`select 1`;
                    // A pooler invents the number in BackendKeyData: it may not fit an integer, and differs from the server's.
                    all.push(...await answers(sql, `select * from ensure.check_install_v1(client_pid => ${state.pid | 0})`));
                }
                print(asJson ? json(all) : all.map(table).join('\n').trimEnd());
            }, roles !== undefined); // what is missing is missing to the role that will make it so
        });
}

function read(file: string): string {
    try {
        const text = readFileSync(file, 'utf8');
        JSON.parse(text);
        return text;
    } catch (error) {
        throw new UserError(`${file}: ${(error as Error).message}`, exitCodes.usage);
    }
}
