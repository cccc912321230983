import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium, type Page } from 'playwright-core';
import { expect, test, type TestContext } from 'vitest';
import { page } from '../../scripts/race/html.js';
import { race, type Wanted } from '../../scripts/race/race.js';
import { readSpec } from '../../scripts/race/spec.js';
import { placeOf } from './place.js';

const browser = (process.env.PATH ?? '').split(delimiter)
    .flatMap((folder) => ['chromium', 'chromium-browser', 'google-chrome'].map((name) => join(folder, name))).find(existsSync);

/** What a browser makes of the page for a spec; anything that it asks for elsewhere, or complains of, is listed. */
async function shown(context: TestContext, text: string, wanted: Partial<Wanted>, look: (browsed: Page, asked: string[]) => Promise<void>): Promise<void> {
    if (!browser) return context.skip('no Chromium: install the package chromium');
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-page-'));
    try {
        writeFileSync(join(folder, 'spec.sql'), text);
        const parts = await race(readSpec(join(folder, 'spec.sql')), { orders: 100, seed: 1, ...wanted }, placeOf(context));
        const file = join(folder, 'page.html');
        writeFileSync(file, page('a "race" <b>', parts.map(({ section }) => section)));
        const opened = await chromium.launch({
            executablePath: browser, args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
                '--disable-component-update', '--disable-sync'],
        });
        try {
            const browsed = await opened.newPage({ viewport: { width: 1200, height: 900 } });
            const asked: string[] = [];
            browsed.on('request', (request) => asked.push(request.url()));
            browsed.on('console', (message) => asked.push(message.text()));
            browsed.on('pageerror', (error) => asked.push(error.message));
            await browsed.goto(pathToFileURL(file).href);
            expect(asked).toEqual([pathToFileURL(file).href]);
            expect(await browsed.title()).toBe('a "race" <b>');
            await look(browsed, asked);
        } finally {
            await opened.close();
        }
    } finally {
        rmSync(folder, { recursive: true });
    }
}

/** Rectangles of a kind in a lane, as they are drawn. */
const drawn = async (browsed: Page, lane: number, kind: string): Promise<number[]> => {
    const boxes = await browsed.locator('g.lane').nth(lane).locator(`rect.${kind}`).all();
    return Promise.all(boxes.map(async (box) => (await box.boundingBox())?.width ?? 0));
};

const overflow = (browsed: Page): Promise<number> => browsed.evaluate<number>('document.documentElement.scrollWidth - window.innerWidth');

test('orders: a lane for each session shows who runs, waits for whom and is idle in a transaction; invariants; nothing is run that a spec names', async (context) => {
    await shown(context, `-- race: prepare
create table t (id int primary key, n int)
-- race: prepare
insert into t values (1, 0)
-- race: session first
-- race: step begin
begin
-- race: step <i>add
update t set n = n + 1
-- race: step commit
commit
-- race: session second
update t set n = n + 1
-- race: order first first second first
-- race: invariant <img src=x onerror=console.log(1)>
select true
-- race: invariant never
select false
`, {}, async (browsed, asked) => {
        expect(await browsed.locator('g.lane > text:first-child').allTextContents()).toEqual(['first', 'second']);
        expect((await drawn(browsed, 0, 'open')).some((width) => width > 1)).toBe(true);
        expect((await drawn(browsed, 1, 'waiting')).some((width) => width > 1)).toBe(true);
        expect(await browsed.locator('g.lane').nth(1).locator('rect.waiting title').first().textContent()).toMatch(/^waits for first: waiting for a lock, [\d.]+ ms$/);
        expect(await browsed.locator('.legend span').allTextContents()).toEqual(['running', 'waiting for a lock', 'idle in transaction']);
        expect(await browsed.locator('table.invariants tr').allTextContents()).toEqual(['<img src=x onerror=console.log(1)>holds', 'neverdoes not hold: false']);
        expect(await browsed.locator('p.bad').textContent()).toBe('"never" does not hold: false');
        expect(await browsed.locator('pre').textContent()).toContain('second: waits for first');
        const colour = (selector: string): Promise<string> => browsed.evaluate<string>(`getComputedStyle(document.querySelector('${selector}')).fill`);
        expect(new Set([await colour('rect.running'), await colour('rect.waiting'), await colour('rect.open')]).size).toBe(3);
        for (const width of [1200, 400]) {
            await browsed.setViewportSize({ width, height: 800 });
            expect(await overflow(browsed)).toBe(0);
        }
        expect(asked).toHaveLength(1);
    });
});

test('clients at once: a lane for each, the histogram has as many calls as there were, outcomes by SQLSTATE', async (context) => {
    await shown(context, `-- race: prepare
create table t (id int primary key)
-- race: setup
truncate t
-- race: session a
insert into t values (1)
-- race: allow 23505
-- race: invariant one
select count(*) = 1 from t
`, { stampede: true, clients: 5, rounds: 2, connect: ['direct', 'pooler'] }, async (browsed) => {
        expect(await browsed.locator('section').count()).toBe(2);
        expect(await browsed.locator('g.lane').count()).toBe(10);
        for (const lane of [0, 4, 5, 9]) expect((await drawn(browsed, lane, 'running')).some((width) => width > 0)).toBe(true);
        const counts = (await browsed.locator('section').first().locator('svg.histogram text:nth-of-type(even)').allTextContents()).map(Number);
        expect(counts.reduce((sum, one) => sum + one, 0)).toBe(10);
        expect(await browsed.locator('section').first().locator('table').last().textContent()).toBe('235058ok2');
        expect(await overflow(browsed)).toBe(0);
    });
});

test('negative control: what a page asks for elsewhere is seen', async (context) => {
    if (!browser) return context.skip('no Chromium: install the package chromium');
    const opened = await chromium.launch({ executablePath: browser, args: ['--no-sandbox', '--disable-gpu'] });
    try {
        const browsed = await opened.newPage();
        const asked: string[] = [];
        browsed.on('request', (request) => asked.push(request.url()));
        await browsed.setContent('<img src="http://127.0.0.1:1/elsewhere.png">');
        expect(asked).toEqual(['http://127.0.0.1:1/elsewhere.png']);
    } finally {
        await opened.close();
    }
});
