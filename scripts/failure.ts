import postgres from 'postgres';
import { codeOf, exitCodes, UserError } from './errors.js';
import { message } from './print.js';

export interface Failure {
    /** What a person is told; undefined for what nobody foresaw: that is a crash, and its stack is wanted. */
    text: string | undefined;
    exitCode: number;
}

export function failureOf(error: unknown): Failure {
    const exitCode = error instanceof UserError ? error.exitCode : exitCodes.error;
    if (error instanceof postgres.PostgresError) return { text: message(error), exitCode };
    if (error instanceof UserError || codeOf(error)) return { text: `pg-ensure: ${(error as Error).message}`, exitCode };
    return { text: undefined, exitCode };
}
