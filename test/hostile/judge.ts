import type { Outcome } from '../../scripts/harness/sessions.js';
import { declaredSql } from './arguments.js';

export interface PublicFunction {
    name: string;
    source: string;
    arguments: { name: string; type: string; required: boolean }[];
}

/** The SQLSTATEs in a field of a function's header. */
export function codesOf(source: string): Set<string> {
    const [, field = ''] = /\n-- Errors ((?:.*\n)(?:--\s{10}.*\n)*)/.exec(source) ?? [];
    return new Set(field.match(/\b(?=[A-Z]*[0-9])[0-9A-Z]{5}\b/g) ?? []);
}

/** What is wrong with the error of a call with `value` for `argument`; nothing for one that PostgreSQL raised before the function ran. */
export function objections({ name, source }: PublicFunction, argument: string, value: string, { code, error }: Outcome): string[] {
    const { message = '', hint, where = '', routine } = (error ?? {}) as unknown as Record<string, string | undefined>;
    if (code === 'ok' || !where.includes('ensure.')) return [];
    const raised = routine === 'exec_stmt_raise';
    const ofTypes = /class 22, as its type has it| as\s+(?:--\s+)?ensure_row_v1/.test(source);
    const sql = `${name}.${argument}` in declaredSql;
    return [
        ...(codesOf(source).has(code) || !raised && ofTypes && code.startsWith('22') ? [] : [`${code} is not in its header`]),
        ...(/^XX/.test(code) ? [`${code} is an internal error`] : []),
        ...(code === '42601' && !raised && !sql ? ['what is no SQL was read as SQL'] : []),
        ...(raised && !hint ? ['no hint'] : []),
        ...(message.includes('\n') && !value.includes('\n') ? ['more than one line'] : []),
    ].map((what) => `${name}(${argument} => ${value.slice(0, 200)}): ${what}: ${code} ${message.slice(0, 300)}`);
}
