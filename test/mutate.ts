import { expect } from 'vitest';
import type { Session } from '../scripts/harness/sessions.js';

/**
 * A negative control: replaces `guard` in the body of a function of this database.
 * Fails when the text is not there, so that a control cannot come to control nothing.
 */
export async function withoutGuard(session: Session, name: string, guard: string | RegExp, replacement = ''): Promise<void> {
    const [row] = await session.run(`select pg_get_functiondef('ensure.${name}'::regproc) as source`);
    const source = String(row?.source);
    const mutant = source.replace(guard, replacement);
    expect(mutant, `${guard} is not in ${name}`).not.toBe(source);
    await session.run(mutant);
}
