import { isUtf8 } from 'node:buffer';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

interface CodePoints {
    get(code: number): boolean;
}

type Tables = Record<
    'unassigned_code_points' | 'commonly_mapped_to_nothing' | 'non_ASCII_space_characters' | 'prohibited_characters'
    | 'bidirectional_r_al' | 'bidirectional_l', CodePoints
>;

/**
 * The library's tables (RFC 3454), which it does not export. Its function follows RFC 4013 and looks at characters after
 * NFKC; PostgreSQL looks at them before, and so takes U+0340 or a circled digit of a later Unicode as they are.
 */
const require = createRequire(import.meta.url);
const part = (name: string): unknown => require(join(dirname(require.resolve('@mongodb-js/saslprep')), name));
const { createMemoryCodePoints } = part('memory-code-points.js') as { createMemoryCodePoints: (data: Buffer) => Tables };
const tables = createMemoryCodePoints((part('code-points-data.js') as { default: Buffer }).default);

/** As PostgreSQL's pg_saslprep: the bytes as they are where SASLprep has no answer. */
export function prepared(password: Buffer): Buffer {
    if (!isUtf8(password)) return password;
    const text = password.toString();
    if (/^[\0-\x7f]*$/.test(text)) return password;
    const mapped = [...text].map((one) => (tables.non_ASCII_space_characters.get(one.codePointAt(0) ?? 0) ? ' ' : one))
        .filter((one) => !tables.commonly_mapped_to_nothing.get(one.codePointAt(0) ?? 0));
    return isAllowed(mapped.map((one) => one.codePointAt(0) ?? 0)) ? Buffer.from(mapped.join('').normalize('NFKC')) : password;
}

function isAllowed(codes: number[]): boolean {
    const { prohibited_characters: prohibited, unassigned_code_points: unassigned, bidirectional_r_al: rightToLeft, bidirectional_l: leftToRight } = tables;
    if (!codes.length || codes.some((code) => prohibited.get(code) || unassigned.get(code))) return false;
    if (!codes.some((code) => rightToLeft.get(code))) return true;
    return !codes.some((code) => leftToRight.get(code))
        && [codes[0], codes.at(-1)].every((code) => rightToLeft.get(code ?? 0));
}
