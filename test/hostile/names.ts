import fc from 'fast-check';
import { cut, kinds, type Names } from './scenarios.js';

/** Each is valid as the name of anything, once quoted. */
export const hostileNames = [
    'a"b', '"', '""', 'a.b', '"a"."b"', '.', '😀', '漢字', 'x'.repeat(63), `${'x'.repeat(62)}é`, 'é'.repeat(40), `${'x'.repeat(61)}😀`, `${'a"'.repeat(31)}b`,
    'select', 'table', 'user', 'current_user', 'null', 'default', 'order', 'end', 'a\nb', '\n', 'a\tb', '\\', 'a\\b', "\\'", "'", "''", "a'b", '$fn$', '$$', '$1', '--', 'a -- b',
    '/*', '*/', '%', '%I', '%s', '%1$s', '%%', ' a', 'a ', ' ', 'A', 'Ab', 'ÄÖ', ';', '(', '){', '{a,b}', '{"a"}', ',', '[1]', ':a', '::text', '@', '#', '=', '\u00a0', '\u200b',
    'é', 'e\u0301', 'keeper', 'data', 'outcome', 'target', 'excluded', 'new', 'old', 't', 'c', 'd', 'a', 'run', 'key', 'rows', 'row', 'place', 'parent', 'true', 'int', '1', '1e5', '-1',
];

/** `-- migrate:down` and such, put together of pieces of names. */
const composed = fc.array(fc.constantFrom(...hostileNames, 'a', 'B', '0', '_'), { minLength: 1, maxLength: 5 }).map((pieces) => pieces.join(''));

const valid = (name: string): boolean => name !== '' && !/^pg_/.test(name) && name !== 'public' && name !== 'none';

/** A name of each kind; no two are the same once the server has cut them. */
export const names: fc.Arbitrary<Names> = fc
    .uniqueArray(fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...hostileNames) }, { weight: 1, arbitrary: composed.filter(valid) }), {
        minLength: kinds.length, maxLength: kinds.length, selector: cut,
    })
    .map((list) => Object.fromEntries(kinds.map((kind, n) => [kind, list[n]])) as Names)
    .filter(({ role, heir, fresh }) => ![role, heir, fresh].includes('current_user')); // of a role it is refused, 42939
