import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { codeOf, exitCodes, UserError } from '../errors.js';

export interface Section {
    /** Line of the marker in the file, from 1. */
    line: number;
    /** From the marker to the next marker, as dbmate sends it. */
    text: string;
    transaction: boolean;
}

export interface MigrationFile {
    name: string;
    version: string;
    text: string;
    /** Of the text with LF line ends: a checkout that changes line ends is not an edit. */
    sha256: string;
    /** False: its bytes are not UTF-8, and `text` is not what it says. */
    isText: boolean;
    up?: Section;
    down?: Section;
}

export interface Folder {
    path: string;
    /** In dbmate's order: by file name, as text. */
    files: MigrationFile[];
    /** Names that end in .sql and that dbmate passes over in silence. */
    ignored: string[];
}

const migrationName = /^(\d+).*\.sql$/;

export function readFolder(path: string): Folder {
    const names = entries(path).filter((name) => name.toLowerCase().endsWith('.sql')).sort();
    return {
        path,
        files: names.filter((name) => migrationName.test(name)).map((name) => parsedFile(name, readFileSync(join(path, name)))),
        ignored: names.filter((name) => !migrationName.test(name)),
    };
}

export function parsedFile(name: string, content: Buffer | string): MigrationFile {
    const text = content.toString();
    const up = section(text, 'up');
    const down = section(text, 'down');
    return {
        name, text,
        isText: typeof content === 'string' || isUtf8(content),
        version: migrationName.exec(name)?.[1] ?? '',
        sha256: createHash('sha256').update(text.replaceAll('\r\n', '\n')).digest('hex'),
        ...(up && { up }), ...(down && { down }),
    };
}

/** Where dbmate sees a marker: at the start of a line, in lower case. */
export const markers = (text: string, which: 'up' | 'down'): number[] => (
    [...text.matchAll(new RegExp(`^--[^\\S\\n]*migrate:${which}(?=\\s|$)`, 'gm'))].map((match) => match.index)
);

export const lineAt = (text: string, offset: number): number => text.slice(0, offset).split('\n').length;

function section(text: string, which: 'up' | 'down'): Section | undefined {
    const [start] = markers(text, which);
    if (start === undefined) return undefined;
    const next = [...markers(text, 'up'), ...markers(text, 'down')].filter((other) => other > start);
    const body = text.slice(start, next.length ? Math.min(...next) : undefined);
    return { line: lineAt(text, start), text: body, transaction: !options(body).includes('transaction:false') };
}

/** The words after a marker: dbmate knows `transaction:false` and drops what it does not know. */
export function options(body: string): string[] {
    const [first = ''] = body.split('\n', 1);
    return first.replace(/^--\s*migrate:(up|down)/, '').split(/\s+/).filter(Boolean);
}

function entries(path: string): string[] {
    try {
        return readdirSync(path, { withFileTypes: true }).filter((entry) => !entry.isDirectory()).map(({ name }) => name);
    } catch (error) {
        throw new UserError(`cannot read the migrations in ${path} (${codeOf(error)}): give their folder with --dir`, exitCodes.usage);
    }
}
