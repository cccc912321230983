import { describe, expect, test } from 'vitest';
import { expectError, withOwner } from '../context.js';

describe('bad input: one clear coded error, nothing created', () => {
    const setup = `
        create table i (k int) partition by range (k);
        create table ts (k timestamptz) partition by range (k);
        create table d (k date) partition by range (k);
        create table plain (k int);
        create view v as select 1 as k;
        create table l (k int) partition by list (k);
        create table two (a int, b int) partition by range (a, b);
        create table expression (k int) partition by range ((k + 1));
        create table words (k text) partition by range (k);
        create temp table temporary (k int) partition by range (k)`;

    test.each([
        ["'nope', '1 day'", '42P01'],
        ["999999999::oid::regclass, '1 day'", '42P01'],
        ["null, '1 day'", '22004'],
        ["'v', '10', 1", '42809'],
        ["'plain', '10', 1", '42809'],
        ["'l', '10', 1", '42809'],
        ["'two', '10', 1", '0A000'],
        ["'expression', '10', 1", '0A000'],
        ["'words', '10', 1", '0A000'],
        ["'temporary', '10', 1", '0A000'],
        ["'i', null, 1", '22004'],
        ["'i', '10'", '22004'],
        ["'i', '10', null::int, 5", '22004'],
        ["'i', '10', 1, ahead => null", '22004'],
        ["'i', '10', 1, zone => null", '22004'],
        ["'i', '10', 1, max_wait => null", '22004'],
        ["'i', '10', 1, max_block => null", '22004'],
        ["'i', '0', 1", '22023'],
        ["'i', '-10', 1", '22023'],
        ["'i', '1 day', 1", '22023'],
        ["'i', '1.5', 1", '22023'],
        ["'i', '', 1", '22023'],
        ["'i', '10', 1.5", '22023'],
        ["'i', '10', 'one'", '22023'],
        ["'i', '10', now()", '22023'],
        ["'i', '10', 'NaN'::numeric", '22023'],
        ["'i', '10', 3000000000", '22003'],
        ["'i', '10', 1, origin => '3000000000'", '22003'],
        ["'i', '10', 2147483647, ahead => 1", '22003'],
        ["'i', '10', 20, 10", '22023'],
        ["'i', '10', 1, ahead => -1", '22023'],
        ["'i', '10', 1, max_wait => '-1 s'", '22023'],
        ["'i', '1', 0, 1000", '54000'],
        ["'i', '10', 1, ahead => 2147483647", '54000'],
        ["'ts', '0 days'", '22023'],
        ["'ts', '-1 day'", '22023'],
        ["'ts', '1 month 2 days'", '22023'],
        ["'ts', '1'", '22023'],
        ["'ts', '1.5 days'", '22023'],
        ["'ts', '1 fortnight'", '22023'],
        ["'ts', '1 millisecond'", '22023'],
        ["'d', '1 hour'", '22023'],
        ["'ts', '1 day', 42", '22007'],
        ["'ts', '1 day', 'today'", '22007'],
        ["'ts', '1 day', '01/02/2026'", '22007'],
        ["'ts', '1 day', 'infinity'::timestamptz", '22007'],
        ["'ts', '1 day', '2026-02-30'", '22008'],
        ["'ts', '1 day', '2026-02-02', '2026-02-01'", '22023'],
        ["'ts', '1 day', '2026-02-02', '2126-02-01'", '54000'],
        ["'ts', '1 day', '2026-02-02', zone => 'Mars/Olympus'", '22023'],
        ["'ts', '1 day', '2026-02-02', zone => 'UTC+3'", '22023'],
        ["'ts', '1 day', '2026-02-02', zone => '+03:00'", '22023'],
        ["'ts', '1 day', '2026-02-02', origin => 'monday'", '22007'],
        ["'ts', '1 day', '294276-12-31'", '22008'],
        ["'ts', '999999999 years'", '22008'],
        ["'ts', '1 day', '2026-02-02', zone => 'IST'", '22023'],
    ])('%s is %s', (args, code) =>
        withOwner(async (owner) => {
            await owner.run(setup);
            const { message } = expectError(await owner.attempt(`select ensure.ensure_partitions_v1(${args})`), code);
            expect(message).toMatch(/^(?![A-Z][a-z]).*[^.]$/s);
            expect(await owner.run('select * from pg_inherits')).toEqual([]);
        }));
});
