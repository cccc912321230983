export const exitCodes = {
    error: 1, usage: 2, behind: 10, diverged: 11, noDatabase: 12, busy: 13, findings: 14,
} as const;

/** An error that a person can act on: printed as its message alone, without a stack. */
export class UserError extends Error {
    readonly exitCode: number;

    constructor(message: string, exitCode: number = exitCodes.error) {
        super(message);
        this.name = 'UserError';
        this.exitCode = exitCode;
    }
}

/** The code of a system, driver or SQLSTATE error, or ''. */
export function codeOf(error: unknown): string {
    const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
    return typeof code === 'string' ? code : '';
}
