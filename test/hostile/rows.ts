import fc from 'fast-check';

/** Types of a key column, and values of all kinds for it, as JSON. Not tsvector: its own input function says 42601 of a bad value. */
export const keyTypes = ['int', 'smallint', 'bigint', 'numeric', 'numeric(5,2)', 'real', 'float8', 'text', 'varchar(3)', 'char(3)', '"char"', 'name', 'bytea', 'boolean', 'date', 'timestamp', 'timestamptz',
    'timestamptz(0)', 'time', 'timetz', 'interval', 'uuid', 'int[]', 'text[]', 'jsonb', 'inet', 'macaddr', 'bit(3)', 'varbit', 'int4range', 'oid', 'pg_lsn', 'money', 'numeric(5,2)[]'];

export const values: fc.Arbitrary<unknown> = fc.oneof(
    fc.constantFrom(0, -0, 1, -1, 1.005, 1.004999, 0.1, 1e-300, 1e300, 32768, 2147483648, '9223372036854775807', '9223372036854775808', 'NaN', 'Infinity', '-infinity', 'infinity', '', ' ', 'a', 'ab ', 'abc', 'abcd', 'abcd  ', '   ',
        'é', '😀😀😀', '2001-02-03', '2001-02-29', '0044-03-15 BC', '4713-01-01 BC', '294276-12-31 23:59:59.9999999', '5874897-12-31', '2001-02-03T04:05:06.5Z', '2001-02-03 04:05:06.4999999+05:30', '24:00:00', '1 mon -30 days', '30 days', '24:00',
        'epoch', 'now', 'today', 'true', 'yes', 't', true, false, null, [], [1, 2], [null], [[1], [2]], ['a', null, 'NULL'], {}, { a: { b: [1.0] } }, '{1,2}', '{}', '\\x00ff', '\\x', '00000000-0000-0000-0000-000000000000',
        '{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}', '127.0.0.1', '::1/128', '08:00:2b:01:02:03', '101', '1', '[1,5)', '[1,4]', 'empty', '(,)', "a:1 'b'", '0/16B3740', '$1.005', "O'Reilly", '"', '\\', '%', '--'),
    fc.double(), fc.integer(), fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }).map(String), fc.string({ unit: 'grapheme', maxLength: 5 }).filter((text) => !text.includes('\0')), fc.date({ noInvalidDate: true }).map((date) => date.toISOString()), fc.jsonValue({ maxDepth: 2 }),
);
