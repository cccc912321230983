import { expect, test, type TestContext } from 'vitest';
import { dirname, join } from 'node:path';
import saslprep from '@mongodb-js/saslprep';
import { readPassword } from '../../scripts/password/read.js';
import { prepared } from '../../scripts/password/saslprep.js';
import * as ours from '../../scripts/password/verifier.js';
import { derive, fits, newVerifier, parsedVerifier, spelled } from '../../scripts/password/verifier.js';
import { missing, surroundings } from '../context.js';
import { withoutGuards } from '../migrate/context.js';
import { asAdmin, stored, withRole } from './context.js';

/** What the server itself makes of each password, in order; the clear text goes through SQL, in this test only. */
async function byServer(context: TestContext, passwords: string[]): Promise<string[]> {
    if (!surroundings.superuser) missing(context, 'needs a superuser: pg_authid is read');
    return withRole((role) => asAdmin(async (sql) => {
        const made: string[] = [];
        for (const password of passwords) {
            const [row] = await sql<{ text: string }[]>`select format('alter role %I password %L', ${role}::text, ${password}::text) as text`;
            await sql.unsafe(row?.text ?? '');
            made.push((await stored(role)).password ?? '');
        }
        return made;
    }));
}

// Of each kind that SASLprep knows: mapped to a space or to nothing, compatibility forms, combining marks, prohibited,
// unassigned in Unicode 3.2, right to left alone, mixed, and not at both ends.
const kinds = [
    'plain', 'tab\tand\u007f', 'é', 'e\u0301', '\u2168', '\uFB01', 'a\u00AA', '\uFF21\uFF22', '\u1E9B\u0323', '\u0344', '\u212B', '\uAC00\u11A8',
    'I\u00ADX', '\u200Bzero', 'a\u180Eb', '\uFE00x', '\u00A0', ' \u3000 ', 'a\u1680b', '\u2003', '\u00AD', '\u200B\u00AD',
    '\u0007é', '\u0080', '\u06DD', '\uE000', '\uFFFD', '\u2FF0', '\u200E', '\u{E0001}', '\u{10FFFF}', '\uFDD0', '\u0340', '\u206A',
    '\u0221', '\u{1F9FF}', '\u{1F100}', '\u20BF', '\u{2F800}', '\uFA30', '\u{1D400}', '\u1E9E',
    '\u05D0', '\u05D01', '1\u05D0', '\u05D01\u05D1', '\u05D0a\u05D1', '\u0627\u0644', '\uFB1D', '\uFEFB', '\u05D0\u00AD',
    'it\'s', '\\', '"$1"', '\u1D43', '\u0341', 'x'.repeat(1000), 'é'.repeat(1000),
];

test('a verifier is what the server makes of the same password and salt, for each kind of character that SASLprep knows', async (context) => {
    const made = await byServer(context, kinds);
    for (const [at, text] of made.entries()) {
        const theirs = parsedVerifier(text);
        expect(theirs, text).toBeDefined();
        const password = Buffer.from(kinds[at] ?? '');
        expect(spelled(await derive(password, theirs?.salt ?? Buffer.of(), theirs?.iterations ?? 0)), JSON.stringify(kinds[at])).toBe(text);
        expect(await fits(text, password)).toBe(true);
        expect(await fits(text, Buffer.concat([password, Buffer.from('.')]))).toBe(false);
    }
});

test('control: taken as they are, passwords that SASLprep changes have another verifier', async (context) => {
    const changed = kinds.filter((text) => !prepared(Buffer.from(text)).equals(Buffer.from(text)));
    expect(changed.length).toBeGreaterThan(15);
    const made = await byServer(context, changed);
    await withoutGuards({ 'password/verifier.js': [['prepared(password), salt', 'password, salt']] }, async (cli) => {
        const mutant = await import(join(dirname(cli), 'password/verifier.js')) as typeof ours;
        for (const [at, text] of made.entries()) expect(await mutant.fits(text, Buffer.from(changed[at] ?? '')), JSON.stringify(changed[at])).toBe(false);
    });
});

test('control: as the library has it, characters looked at after NFKC, some passwords differ from what the server makes', () => {
    const byLibrary = (text: string): string => {
        try {
            return saslprep(text) || text;
        } catch {
            return text;
        }
    };
    const differ = kinds.filter((text) => byLibrary(text) !== prepared(Buffer.from(text)).toString());
    expect(differ).toEqual(expect.arrayContaining(['\u0340', '\u{1F100}']));
});

test('each has a salt of its own of 16 bytes; what is no SCRAM verifier fits nothing', async () => {
    const password = Buffer.from('p');
    const [one, other] = [await newVerifier(password, 4096), await newVerifier(password, 4096)];
    expect(one).not.toBe(other);
    expect(parsedVerifier(one)).toMatchObject({ iterations: 4096, salt: expect.objectContaining({ length: 16 }) as Buffer });
    expect([await fits(one, password), await fits(one, password, 4096), await fits(one, password, 4097)]).toEqual([true, true, false]);
    for (const none of [null, '', 'md5d2f3', one.slice(1), `${one}=`]) expect(await fits(none, password)).toBe(false);
});

test('what Node has read of bytes that are no UTF-8 is not the password: refused', async () => {
    process.env.PASSWORD_OF_TEST = 'a\uFFFDb';
    try {
        await expect(readPassword('app', 'PASSWORD_OF_TEST')).rejects.toMatchObject({ exitCode: 2, message: expect.stringContaining('pipe the password in') as string });
    } finally {
        delete process.env.PASSWORD_OF_TEST;
    }
});
