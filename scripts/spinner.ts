import type { Ora } from 'ora';

/** On a terminal a spinner, else nothing: ora is loaded where it is seen, since loading it is a quarter of what a short command takes. */
export async function spinning(text: string): Promise<Ora | undefined> {
    if (!process.stderr.isTTY || !process.stderr.columns) return undefined;
    const { default: ora } = await import('ora');
    return ora(text).start();
}
