import { concurrentIndex, nature, refusesBlock, statements, type Statement } from './statements.js';
import { lineAt, markers, options, type Folder, type MigrationFile, type Section } from './files.js';

export interface Finding {
    /** An error keeps `migrate` from applying the file; a warning is only said. */
    severity: 'error' | 'warning';
    rule: string;
    file: string;
    line?: number;
    message: string;
}

/** What is wrong with the files by themselves: needs no database. */
export const lint = (folder: Folder): Finding[] => [...lintFolder(folder), ...folder.files.flatMap(lintFile)];

/** One line for people. */
export const spelled = ({ file, line, rule, message }: Finding): string => (
    `${file}${line ? `:${line}` : ''}: ${message} [${rule}]`
);

export function lintFolder(folder: Folder): Finding[] {
    const { files, ignored } = folder;
    const none: Finding[] = files.length ? [] : [{
        severity: 'error', rule: 'no-files', file: folder.path,
        message: 'no file is named <digits>_<name>.sql here: nothing would ever be applied',
    }];
    const passedOver = ignored.map((file): Finding => ({
        severity: 'error', rule: 'name', file, message: 'the name does not start with digits and end in .sql: dbmate passes it over in silence',
    }));
    return [...none, ...passedOver, ...versions(files)];
}

function versions(files: MigrationFile[]): Finding[] {
    const findings: Finding[] = [];
    const first = new Map<string, string>();
    let highest: MigrationFile | undefined;
    for (const file of files) {
        const { name, version } = file;
        const other = first.get(version);
        if (other) {
            findings.push({
                severity: 'error', rule: 'duplicate-version', file: name,
                message: `${other} has version ${version} too: dbmate applies one and shows both as applied`,
            });
        }
        first.set(version, other ?? name);
        if (highest && BigInt(highest.version) > BigInt(version)) {
            findings.push({
                severity: 'error', rule: 'version-width', file: name,
                message: `is applied after ${highest.name}, whose version is the higher number: names are sorted as text`,
            });
        } else {
            highest = file;
        }
    }
    return findings;
}

export function lintFile(file: MigrationFile): Finding[] {
    const { name, text, isText, up, down } = file;
    const at = (severity: Finding['severity'], rule: string, message: string, line?: number): Finding => (
        { severity, rule, file: name, message, ...(line && { line }) }
    );
    if (!isText) return [at('error', 'encoding', 'is not UTF-8: other bytes would arrive as replacement characters')];
    if (text.startsWith('\uFEFF')) return [at('error', 'byte-order-mark', 'starts with a byte order mark: save it as UTF-8 without one')];
    if (!up || !down) {
        const which = up ? 'down' : 'up';
        const near = new RegExp(`^.*--\\s*migrate:\\s*${which}\\b`, 'im').exec(text);
        return [at('error', 'marker', near ? `the marker must be "-- migrate:${which}" at the start of the line, in lower case`
            : `has no line "-- migrate:${which}"`, near ? lineAt(text, near.index) : undefined)];
    }
    const findings: Finding[] = [];
    const [, secondUp] = markers(text, 'up');
    const [, secondDown] = markers(text, 'down');
    const second = secondUp ?? secondDown;
    if (second !== undefined) {
        findings.push(at('error', 'several-sections', 'a second migrate marker: dbmate records the version after the first section '
            + 'and the rest never runs', lineAt(text, second)));
    }
    if (up.line > down.line) findings.push(at('error', 'marker', '"-- migrate:up" must come before "-- migrate:down"', up.line));
    const before = text.split('\n').slice(0, up.line - 1).findIndex((line) => !/^\s*(--.*)?$/.test(line));
    if (before >= 0) findings.push(at('error', 'before-up', 'only comments of the form -- may stand before "-- migrate:up"', before + 1));
    for (const one of [up, down]) {
        const unknown = options(one.text).filter((option) => !/^transaction:(true|false)$/.test(option));
        if (unknown.length) {
            findings.push(at('error', 'option', `"${unknown.join(' ')}" is not an option: dbmate drops it in silence; `
                + 'it knows transaction:false and transaction:true, in lower case without a space', one.line));
        }
        findings.push(...content(one, (severity, rule, message, line) => at(severity, rule, message, one.line + line - 1), one === up));
    }
    return findings;
}

type At = (severity: Finding['severity'], rule: string, message: string, line: number) => Finding;

function content(section: Section, at: At, isUp: boolean): Finding[] {
    const found = statements(section);
    if (!Array.isArray(found)) return [unreadable(section, found, at)];
    const findings = section.transaction ? inTransaction(found, at) : withoutTransaction(section, found, at);
    if (isUp && !found.length) findings.push(at('warning', 'empty', 'holds no statement and is recorded as applied', 1));
    for (const statement of found) {
        const { type, line } = statement;
        const copy = statement.node as { is_from?: boolean; filename?: string };
        if (type === 'CopyStmt' && !copy.filename) findings.push(at('error', 'copy', 'COPY to or from the client needs psql', line));
        if (setsSession(statement)) {
            findings.push(at('warning', 'session-setting', 'lasts as long as the session: through a pooler it comes upon whoever '
                + 'is given the connection next; use SET LOCAL, or set_config(…, true)', line));
        }
        if (type === 'DoStmt' && /\braise\s+(notice|warning|info)\b/i.test(JSON.stringify(statement.node))) {
            findings.push(at('warning', 'notice', 'dbmate drops what RAISE NOTICE and WARNING say: nobody will read it', line));
        }
        const index = statement.node as { concurrent?: boolean };
        if (type === 'IndexStmt' && index.concurrent && !concurrentIndex(statement)) {
            findings.push(at('warning', 'unnamed-index', 'a concurrent index without a name: what a failed build leaves cannot be found', line));
        }
    }
    return findings;
}

function inTransaction(found: Statement[], at: At): Finding[] {
    return found.flatMap((statement): Finding[] => {
        if (refusesBlock(statement)) {
            return [at('error', 'needs-no-transaction', 'PostgreSQL refuses it in a transaction: put it alone into a file with '
                + '"-- migrate:up transaction:false"', statement.line)];
        }
        if (controlsTransaction(statement)) {
            return [at('error', 'transaction-control', 'begins or ends a transaction: dbmate wraps the file in one', statement.line)];
        }
        return [];
    });
}

function withoutTransaction(section: Section, found: Statement[], at: At): Finding[] {
    const alone = found.find(refusesBlock);
    if (alone && found.length > 1) {
        return [at('error', 'not-alone', 'cannot run beside other statements: PostgreSQL takes a file of several as one transaction '
            + '(25001); give it a file of its own', alone.line)];
    }
    if (found.length && nature(section) === 'opaque') {
        return [at('warning', 'not-repeatable', 'if whoever runs this dies, nobody can tell how far it came: write it so that it may '
            + 'run again; "pg-ensure resolve" then tells which it is', found[0]?.line ?? 1)];
    }
    return [];
}

function unreadable(section: Section, { error, line }: { error: string; line: number }, at: At): Finding {
    const meta = section.text.split('\n').findIndex((text) => /^\s*\\[a-z.!?]/i.test(text));
    if (/at or near "\\/.test(error) && meta >= 0) {
        return at('error', 'psql', 'a command of psql, or data of COPY: dbmate sends the file to the server as it is', meta + 1);
    }
    const copy = section.text.split('\n').findIndex((text) => /^\s*copy\b.*\bfrom\s+stdin\b/i.test(text));
    if (copy >= 0) return at('error', 'copy', 'COPY to or from the client needs psql', copy + 1);
    return at('error', 'syntax', `the parser of PostgreSQL 18 says: ${error}`, line);
}

function controlsTransaction({ type, node }: Statement): boolean {
    const { kind } = node as { kind?: string };
    return type === 'TransactionStmt' && !/SAVEPOINT|RELEASE|ROLLBACK_TO/.test(kind ?? '');
}

function setsSession({ type, node }: Statement): boolean {
    const { is_local: isLocal, kind, name } = node as { is_local?: boolean; kind?: string; name?: string };
    if (type === 'VariableSetStmt') return !isLocal && /VALUE|CURRENT|MULTI/.test(kind ?? '') && name !== 'TRANSACTION';
    const text = JSON.stringify(node);
    if (type === 'DoStmt') return /set_config\s*\([^)]*,\s*false\s*\)/i.test(text);
    return type === 'SelectStmt' && text.includes('"sval":"set_config"') && text.includes('"boolval":{}');
}
