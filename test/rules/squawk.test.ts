import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { missing } from '../context.js';

/** Rules of squawk that say something else than ours, and why. */
const excluded: Record<string, string> = {
    'require-lock-timeout': 'a file makes functions: no lock that a user meets; migrate sets lock_timeout itself',
    'require-statement-timeout': 'as above',
    'prefer-robust-stmts': 'its IF EXISTS hides that what is dropped is not what was made; each file is one transaction, so nothing is half done',
};
const folder = fileURLToPath(new URL('../../sql/', import.meta.url));

function squawk(): string | undefined {
    try {
        const found = createRequire(import.meta.url).resolve(`@squawk-cli/${process.platform}-${process.arch}/package.json`);
        return join(dirname(found), 'bin', process.platform === 'win32' ? 'squawk.exe' : 'squawk');
    } catch {
        return undefined;
    }
}

const complaints = (program: string, files: string[]): string[] => {
    try {
        execFileSync(program, ['--pg-version', '14.0', '--assume-in-transaction', '--reporter', 'gcc', ...Object.keys(excluded).map((rule) => `--exclude=${rule}`), ...files], { encoding: 'utf8', stdio: 'pipe' });
        return [];
    } catch (error) {
        return String((error as { stdout?: string }).stdout).split('\n').filter((line) => /: (warning|error): /.test(line));
    }
};

test('squawk has nothing to say about the files, but for the listed rules; negative control: it has about others', (context) => {
    const program = squawk() ?? missing(context, 'squawk-cli has no binary for this machine: npm ci --include=optional');
    const files = readdirSync(folder).map((name) => join(folder, name));
    expect(complaints(program, files)).toEqual([]);
    const scratch = mkdtempSync(join(tmpdir(), 'pg-ensure-squawk-'));
    try {
        writeFileSync(join(scratch, 'x.sql'), 'alter table t add column a int not null; create index i on t (a); alter table t alter column b type bigint;');
        expect(complaints(program, [join(scratch, 'x.sql')]).length).toBeGreaterThan(1);
    } finally {
        rmSync(scratch, { recursive: true });
    }
});
