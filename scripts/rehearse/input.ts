import { isUtf8 } from 'node:buffer';
import { readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { exitCodes, UserError } from '../errors.js';
import { parsedFile, type Section } from '../migrate/files.js';
import { refusesBlock, statements, type Statement } from '../migrate/statements.js';
import { excerpt } from '../run/report.js';

export interface Input {
    statements: string[];
    /** It has savepoints of its own. */
    savepoints: boolean;
}

const refused = (line: number, text: string, why: string): UserError => (
    new UserError(`line ${line}: ${excerpt(text)}\n${why}; nothing was run`, exitCodes.usage)
);

/** A file, of a migration the part that `up` runs, or else the text itself; one by one, and only what can be rolled back. */
export function readInput(argument: string): Input {
    const section = sectionOf(argument);
    const found = statements(section);
    if (!Array.isArray(found)) {
        throw new UserError(`line ${section.line + found.line - 1}: the parser of PostgreSQL 18 says: ${found.error}; nothing was run`, exitCodes.usage);
    }
    if (!found.length) throw new UserError('no statement: pg-ensure rehearse \'select …\', pg-ensure rehearse file.sql', exitCodes.usage);
    const bytes = Buffer.from(section.text);
    const texts = found.map(({ end }, at) => bytes.subarray(found[at - 1]?.end ?? 0, end).toString().trim().replace(/;$/, ''));
    for (const [at, statement] of found.entries()) {
        const why = whyNot(statement);
        if (why) throw refused(section.line + statement.line - 1, texts[at] ?? '', why);
    }
    return { statements: texts, savepoints: found.some(({ type }) => type === 'TransactionStmt') };
}

function sectionOf(argument: string): Section {
    const whole = (text: string): Section => ({ line: 1, text, transaction: true });
    if (!isFile(argument)) {
        if (/^\S+\.sql$/.test(argument)) throw new UserError(`there is no file ${argument}`, exitCodes.usage);
        return whole(argument);
    }
    const content = readFileSync(argument);
    if (!isUtf8(content)) throw new UserError(`${argument} is not UTF-8`, exitCodes.usage);
    const { text, up } = parsedFile(basename(argument), content);
    return up ?? whole(text);
}

function isFile(argument: string): boolean {
    try {
        return statSync(argument).isFile();
    } catch {
        return false; // no such name, or one that is too long for a file
    }
}

/** Why a statement must not, or cannot, be run in a transaction that is rolled back. */
function whyNot(statement: Statement): string | undefined {
    const { kind, is_from: isFrom, filename } = statement.node as { kind?: string; is_from?: boolean; filename?: string };
    switch (statement.type) {
        case 'TransactionStmt':
            if (/SAVEPOINT|RELEASE|ROLLBACK_TO/.test(kind ?? '')) return undefined;
            return 'it begins or ends a transaction, and would make the rehearsal real: take it out';
        case 'CopyStmt':
            return filename ? undefined : `COPY ${isFrom ? 'from' : 'to'} the client needs psql`;
        case 'PrepareStmt':
            return 'a prepared statement is not rolled back';
        default:
            if (statement.type !== 'CreateFunctionStmt' && JSON.stringify(statement.node).includes('"ParamRef"')) return 'a parameter has no value here';
            return refusesBlock(statement) ? 'PostgreSQL refuses it in a transaction: it cannot be rehearsed' : undefined;
    }
}
