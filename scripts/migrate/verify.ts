import type { Sql } from 'postgres';
import { parseSync, type CreateFunctionStmt } from 'libpg-query';
import { readFolder, type Folder } from './files.js';
import { know, ownFolder, type Known, type Target } from './known.js';
import { lint, type Finding } from './lint.js';
import type { State } from './state.js';

export const verifyFiles = ({ folder = ownFolder }: Pick<Target, 'folder'>): Finding[] => lint(readFolder(folder));

/** What the ledger says of the files, and for our own functions whether the database has what the files say. */
export async function verifyDatabase(sql: Sql, target: Target): Promise<Finding[]> {
    const known = await know(sql, target);
    const findings = ledgerFindings(await known.read(), known);
    return known.folder.path === ownFolder ? [...findings, ...await functionFindings(sql, known.folder)] : findings;
}

function ledgerFindings(state: State, { command, folder }: Known): Finding[] {
    const of = (rule: string, severity: Finding['severity'], message: string) => (
        ({ name, file }: { name?: string; file?: string | null }): Finding => ({ rule, severity, file: name ?? file ?? '', message })
    );
    const named = <T extends { version: string; file: string | null }>(row: T): T => ({ ...row, file: row.file ?? row.version });
    return [
        ...state.edited.map(of('edited', 'error', 'was edited after it had been applied: put it back, and write a new one')),
        ...state.outOfOrder.map(of('out-of-order', 'error', 'is not applied, and a newer one is')),
        ...state.missing.map(named).map(of('missing', 'warning', 'is applied and no file here has its version')),
        ...state.newer.map(named).map(of('ahead', 'warning', 'is applied and newer than every file here')),
        ...state.unadopted.map(of('no-checksum', 'warning',
            `was applied without pg-ensure, an edit would go unseen: ${command('migrate --baseline')}`)),
        ...state.facts.recorded.flatMap((row): Finding[] => {
            const file = folder.files.find(({ version }) => version === row.version);
            return !file || !row.file || row.file === file.name ? []
                : [{ rule: 'renamed', severity: 'warning', file: file.name, message: `was ${row.file} when it was applied` }];
        }),
        ...state.invalidIndexes.map(({ index, table }): Finding => ({
            rule: 'invalid-index', severity: 'error', file: index,
            message: `on ${table} is invalid, a concurrent build has failed: ${command('migrate')} repairs it`,
        })),
    ];
}

async function functionFindings(sql: Sql, { files }: Folder): Promise<Finding[]> {
    const bodies = files.flatMap(({ name, up }) => (up ? functionsIn(up.text) : []).map((one) => ({ file: name, ...one })));
    const rows = await sql.unsafe<{ name: string; source: string }[]>(
        "select p.proname as name, p.prosrc as source from pg_proc as p where p.pronamespace = to_regnamespace('ensure')",
    ).simple();
    const installed = new Map(rows.map(({ name, source }) => [name, source]));
    return bodies.flatMap(({ file, name, body }): Finding[] => {
        const source = installed.get(name);
        if (source === body) return [];
        return [{
            rule: 'installed', severity: 'error', file,
            message: source === undefined ? `function ensure.${name} is not installed: pg-ensure migrate`
                : `function ensure.${name} is installed with another body: pg-ensure migrate --reinstall`,
        }];
    });
}

function functionsIn(text: string): { name: string; body: string }[] {
    return (parseSync(text).stmts ?? []).flatMap(({ stmt }) => {
        const created = (stmt as { CreateFunctionStmt?: CreateFunctionStmt } | undefined)?.CreateFunctionStmt;
        const name = created?.funcname?.at(-1) as { String?: { sval?: string } } | undefined;
        const options = (created?.options ?? []) as { DefElem: { defname?: string; arg?: unknown } }[];
        const as = options.find(({ DefElem }) => DefElem.defname === 'as')?.DefElem;
        const [body] = (as?.arg as { List?: { items: { String: { sval: string } }[] } } | undefined)?.List?.items ?? [];
        return name?.String?.sval && body ? [{ name: name.String.sval, body: body.String.sval }] : [];
    });
}
