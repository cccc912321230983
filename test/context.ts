import { afterAll, beforeAll, expect, inject, type TestContext } from 'vitest';
import { at, withDatabase, type Database } from '../scripts/harness/databases.js';
import { withSessions, type Outcome, type Session } from '../scripts/harness/sessions.js';

export const surroundings = inject('surroundings');
export const major = Math.floor(surroundings.serverVersion / 10_000);

/** A database of the test's own, migrated, owned by a role that is no superuser. */
export const withTestDatabase = <Result>(body: (database: Database) => Promise<Result>): Promise<Result> =>
    withDatabase(surroundings.server, body);

/** One session in such a database, as its owner. */
export const withOwner = (body: (owner: Session) => Promise<void>): Promise<void> =>
    withTestDatabase(({ url }) => withSessions(url, ['owner'], ({ owner }) => body(owner)));

/**
 * What `open` gives to its callback, kept open for all tests of the describe block, or file, that this is called in. It gives nothing where
 * it ends without having called back.
 */
export function shared<Given>(open: (use: (given: Given) => Promise<void>) => Promise<void>): () => Given {
    let kept: Given;
    let end = (): void => {};
    let ended: Promise<void>;
    beforeAll(() => new Promise<void>((ready, failed) => {
        ended = open(async (given) => {
            kept = given;
            ready();
            await new Promise<void>((done) => {
                end = done;
            });
        });
        ended.then(ready, failed);
    }));
    afterAll(async () => {
        end();
        await ended;
    });
    return () => kept;
}

/** The same for tests that change nothing: one session for all of them. */
export function sharedOwner(setup: string): (body: (owner: Session) => Promise<void>) => Promise<void> {
    const owner = shared<Session>((use) => withOwner(async (session) => {
        await session.run(setup);
        await use(session);
    }));
    return (body) => body(owner());
}

/** Of many cases all, or those whose turn it is: PG=all runs all of them on the default major, and a quarter on each of the others. */
export function share<Case>(cases: readonly Case[]): Case[] {
    const [turn = 0, of = 1] = (process.env.PG_ENSURE_SHARE ?? '0/1').split('/').map(Number);
    return cases.filter((_, n) => n % of === turn);
}

/** The URL of `database` through PgBouncer; without PgBouncer the test is skipped by name, and fails where CI is set. */
export function pooled(context: TestContext, database: Database): string {
    if (surroundings.poolerUrl) return at(surroundings.poolerUrl, database.name);
    return missing(context, surroundings.noPooler ?? 'no PgBouncer');
}

/** Skips the test, its reason printed beside its name; where CI is set nothing may be missing. */
export function missing(context: TestContext, reason: string): never {
    if (process.env.CI) expect.fail(reason);
    return context.skip(reason);
}

/** SQLSTATE, DETAIL and HINT of an outcome that must be an error with one clear line and advice. */
export function expectError(outcome: Outcome, code: string): Record<'message' | 'detail' | 'hint', string> {
    expect(outcome.code, String(outcome.error?.message ?? 'no error')).toBe(code);
    const { message = '', detail = '', hint = '' } = outcome.error as unknown as Record<string, string>;
    expect(message).not.toContain('\n');
    return { message, detail, hint };
}
