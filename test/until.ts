import { setTimeout as pause } from 'node:timers/promises';

const longEnoughMs = 30_000;

/** Looks until `met` says so; fails with what was awaited. */
export async function until(what: string, met: () => Promise<boolean> | boolean, patienceMs = longEnoughMs): Promise<void> {
    for (const end = Date.now() + patienceMs; !await met(); await pause(10)) {
        if (Date.now() > end) throw new Error(`waited ${patienceMs} ms until ${what}`);
    }
}
