import { expect, test } from 'vitest';
import { namesHold } from './identifiers.js';
import { withWorld } from './play.js';
import { allWrong, cases } from './values.property.js';
import { canary, heard, payloads, shots } from './shots.js';
import { lookalikes } from './values.js';

test('hostile names in 40 worlds: each function does what it does with plain ones', () => namesHold(40));

test('each argument of each function with every value that makes trouble for its type', () => withWorld(async (dba) => {
    await dba.run(lookalikes);
    const all = await cases(dba);
    expect(all.length).toBeGreaterThan(3000);
    expect(await allWrong(dba, all)).toEqual([]);
}));

test('SQL in an argument that is not SQL by declaration is never run: every payload', () => withWorld(async (dba) => {
    await dba.run(canary);
    const all = await shots(dba, payloads);
    expect(all.length).toBeGreaterThan(2000);
    expect(await heard(dba, all)).toEqual([]);
}));
