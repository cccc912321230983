import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { withConnection } from '../scripts/connection.js';
import { answers, message, table } from '../scripts/print.js';
import { withSessions, type Session } from '../scripts/harness/sessions.js';
import { surroundings, withTestDatabase } from './context.js';

const root = new URL('../', import.meta.url);
const read = (file: string): string => readFileSync(new URL(file, root), 'utf8');
const pages = ['README.md', ...readdirSync(new URL('docs/', root)).map((name) => `docs/${name}`)].filter((name) => name.endsWith('.md'));

interface Example {
    sql: string;
    output: string | undefined;
}

/** Blocks of SQL, each with the block of text that follows it at once, when one does. */
function examples(page: string): Example[] {
    return [...page.matchAll(/^```sql\n([^]*?)^```\n(?:\n```text\n([^]*?)^```\n)?/gm)]
        .map(([, sql = '', output]) => ({ sql, output }));
}

/** What psql prints for each statement, but for the CONTEXT of errors. */
async function typed(session: Session, sql: string): Promise<string> {
    const printed: string[] = [];
    for (const statement of sql.split(/;$/m).map((text) => text.trim()).filter(Boolean)) {
        try {
            printed.push(...(await answers(session.sql, statement)).map(table));
        } catch (error) {
            printed.push(message(error as Error, false));
        }
    }
    return `${printed.join('\n').trimEnd()}\n`.replaceAll(surroundings.server.owner, 'app'); // the role of make migrate
}

/** Roles belong to the whole server, so those that a page made are dropped after it. */
async function withoutRolesOf(page: string, body: () => Promise<void>): Promise<void> {
    const { admin } = surroundings.server;
    const roles = (): Promise<string[]> => withConnection(admin, async (sql) => (await sql`select r.rolname as name from pg_roles as r`)
        .map(({ name }) => String(name)).filter((name) => page.includes(name)));
    const before = await roles();
    try {
        await body();
    } finally {
        const made = (await roles()).filter((name) => !before.includes(name));
        await withConnection(admin, async (sql) => {
            for (const name of made) await sql`drop owned by ${sql(name)} cascade`;
            for (const name of made) await sql`drop role ${sql(name)}`;
        });
    }
}

describe('every SQL block runs, and prints what the page says', () => {
    test.each(pages.filter((page) => examples(read(page)).length > 0))('%s', (page) => withoutRolesOf(read(page), () =>
        withTestDatabase(({ url }) => withSessions(url, ['reader'], async ({ reader }) => {
            for (const { sql, output } of examples(read(page))) {
                const printed = await typed(reader, sql);
                if (output === undefined) expect(printed, sql).not.toContain('ERROR:');
                else expect(printed, sql).toBe(output);
            }
        }))));

    test('negative control: a page that says something else fails', () =>
        withTestDatabase(({ url }) => withSessions(url, ['reader'], async ({ reader }) => {
            const [example] = examples('```sql\nselect 1 as one;\n```\n\n```text\n one \n-----\n   2\n(1 row)\n```\n');
            expect(await typed(reader, example?.sql ?? '')).not.toBe(example?.output);
        })));
});

test('docs/errors.md is what the headers of the functions say', () =>
    withTestDatabase(({ url }) => withSessions(url, ['reader'], async ({ reader }) => {
        const functions = await reader.run(`select p.proname as name, p.prosrc as source from pg_proc as p
            where p.pronamespace = 'ensure'::regnamespace and p.proname !~ '^_' and p.prosrc ~ '\\n-- Errors ' order by 1`);
        const sections = functions.map(({ name, source }) => {
            const field = /^-- Errors {3}((?:.*\n)(?:--\s{10}.*\n)*)/m.exec(String(source))?.[1] ?? '';
            const rows = field.replaceAll(/\n--\s{14,}/g, ' ').split('\n').map((line) => line.replace(/^--/, '').trim()).filter(Boolean)
                .map((line) => /^((?:[0-9A-Z]{5}(?:, )?)+)\s+(.*)$/.exec(line)?.slice(1) ?? ['?', line]);
            return [`## ${String(name)}`, '', '| SQLSTATE | when |', '|---|---|', ...rows.map(([code, when]) => `| ${code} | ${when} |`), ''].join('\n');
        });
        const head = `# Errors

Written by \`test/docs.test.ts\` from the headers of the functions. Class NS is our own; PostgreSQL's conditions keep their codes.
An error changes nothing; the HINT of each that a function raises says what to do.

When PostgreSQL says 42883, "function … does not exist", it is the types: \`step\`, \`zone\` and \`origin\` are quoted text, \`ahead\` is an integer,
\`max_block\` and \`max_wait\` are quoted intervals, \`from_value\` and \`until_value\` have one type;
\`attributes\`, \`rows\`, \`member\`, \`keeper\`, \`losers\`, \`settings\`, \`member_of\`, \`spec\` and \`declared\` are quoted JSON, or jsonb. Or the version (\`_v1\`) or the schema is missing.

`;
        expect(sections.join('\n'), 'a line that begins with no code').not.toContain('| ? |');
        await expect(`${head}${sections.join('\n')}`).toMatchFileSnapshot('../docs/errors.md');
    })));
