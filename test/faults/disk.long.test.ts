import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, renameSync, rmSync, symlinkSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test, type TestContext } from 'vitest';
import { initdb, majorOf, startServer, stopServer, temporaryServer, type Server } from '../../scripts/embedded.js';
import { aftermath, pictureOf } from '../../scripts/harness/aftermath.js';
import { at } from '../../scripts/harness/databases.js';
import { recovered } from '../../scripts/harness/faults.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { targetOf } from '../../scripts/harness/targets.js';
import { ownedFolder, unprivilegedUser } from '../../scripts/unprivileged.js';
import { surroundings } from '../context.js';
import { install } from '../../scripts/install.js';
import { steps, twoSteps } from './naive.js';

interface Volume {
    folder: string;
    /** Until there is room for nothing more. */
    fill: () => void;
    free: () => void;
}

/** A small file system of its own; to mount one takes root. */
async function withVolume(context: TestContext, size: string, body: (volume: Volume) => Promise<void>): Promise<void> {
    if (!surroundings.embedded) return context.skip('needs a server of its own; DATABASE_URL is set');
    const user = unprivilegedUser();
    if (!user) return context.skip('needs root, to mount a small tmpfs for the server');
    const folder = ownedFolder(user, mkdtempSync(join(tmpdir(), 'pg-ensure-volume-')));
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size},uid=${user.uid},gid=${user.gid},mode=700`, 'tmpfs', folder], { encoding: 'utf8' });
    if (mounted.status !== 0) {
        rmSync(folder, { recursive: true });
        return context.skip(`a tmpfs cannot be mounted here: ${mounted.stderr.trim()}`);
    }
    const filler = join(folder, 'filler');
    try {
        await body({
            folder,
            free: () => rmSync(filler, { force: true }),
            fill() {
                const file = openSync(filler, 'w');
                for (let bytes = 2 ** 20; bytes >= 1;) {
                    try {
                        writeSync(file, Buffer.alloc(bytes));
                    } catch {
                        bytes /= 2;
                    }
                }
                closeSync(file);
            },
        });
    } finally {
        spawnSync('umount', ['--lazy', folder]);
        rmSync(folder, { recursive: true, force: true });
    }
}

const names = ['ensure_partitions_v1', 'ensure_list_partitions_v1', 'ensure_partition_tree_v1', 'ensure_unique_v1', 'ensure_row_v1'];

test('no space left on the volume of the database: 53100 for each of 4 callers, nothing is left; when there is room one makes it', (context) => withVolume(context, '64m', async ({ folder, fill, free }) => {
    const server = await temporaryServer(majorOf(process.env.PG));
    try {
        await withSessions(server.url, ['dba'], async ({ dba }) => {
            await dba.run(`create tablespace small location '${folder}'`);
            await dba.run('create database d tablespace small');
        });
        const url = at(server.url, 'd');
        await install(url);
        await withSessions(url, ['dba', 'a', 'b', 'c', 'd'], async ({ dba, ...callers }) => {
            const call = (statement: string) => Promise.all(Object.values(callers).map((caller) => caller.attempt(statement)));
            for (const [place, name] of [...names, 'naive'].entries()) {
                const target = name === 'naive' ? twoSteps : targetOf(name);
                const id = `disk${place}`;
                await dba.run(target.setup(id));
                const before = await pictureOf(dba, target, id);
                if (name === 'naive') await dba.run(steps(id)[0]);
                fill();
                const codes = name === 'naive' ? [] : (await call(target.call(id))).map(({ code }) => code);
                free();
                if (name === 'naive') { // control: what was made before the disk was full is found
                    expect((await aftermath(dba, target, id, before)).violations).toContainEqual(expect.stringMatching(/half-made:\n.*relation p_10/s));
                    continue;
                }
                expect(codes, name).toEqual(Array(4).fill('53100'));
                expect(await pictureOf(dba, target, id), name).toBe(before);
                const outcomes = await call(target.call(id));
                expect(outcomes.filter(({ rows }) => rows.some(({ outcome }) => outcome !== 'exists')), name).toHaveLength(1);
                expect(await aftermath(dba, target, id, before), name).toMatchObject({ violations: [] });
            }
        });
    } finally {
        await server.stop('immediate');
    }
}));

test('no space left for WAL in the middle of a call: the server goes down; with room it recovers, nothing is left, the next call makes it; control: of two statements the first is left', (context) => withVolume(context, '80m', async (volume) => {
    const major = majorOf(process.env.PG);
    const folder = ownedFolder(unprivilegedUser(), mkdtempSync(join(tmpdir(), 'pg-ensure-wal-')));
    const dataFolder = join(folder, 'data');
    const start = () => startServer({
        major, dataFolder, password: 'secret', durable: false, settings: { synchronous_commit: 'on', full_page_writes: 'on', max_wal_size: '32MB', min_wal_size: '32MB' },
    });
    try {
        await initdb(major, dataFolder, { password: 'secret' });
        renameInto(join(dataFolder, 'pg_wal'), join(volume.folder, 'pg_wal'));
        const { url } = await start();
        await install(url);
        const target = targetOf('ensure_partitions_v1');
        const [before, naive] = await withSessions(url, ['dba', 'creator'], async ({ dba, creator }) => {
            await dba.run(`create table big (t text); ${target.setup('wal')}; ${twoSteps.setup('naive')}`);
            const pictures = [await pictureOf(dba, target, 'wal'), await pictureOf(dba, twoSteps, 'naive')] as const;
            await creator.run(steps('naive')[0]); // of two transactions the first
            await creator.run(`begin; ${target.call('wal')}`);
            volume.fill();
            const { code } = await creator.attempt("insert into big select repeat(md5(n::text), 30) from generate_series(1, 200000) as n");
            expect(code).toMatch(/57P02|CONNECTION_CLOSED|ECONNRESET/);
            return pictures;
        });
        volume.free();
        const again = await eventually(start);
        await withSessions(again.url, ['dba'], async ({ dba }: Record<'dba', Session>) => {
            expect(await pictureOf(dba, target, 'wal')).toBe(before);
            const { violations, next } = await aftermath(dba, target, 'wal', before);
            expect({ violations, next: new Set(next) }).toEqual({ violations: [], next: new Set(['created']) });
            expect((await aftermath(dba, twoSteps, 'naive', naive)).violations).toContainEqual(expect.stringMatching(/^half-made:\n.*relation p_10/s));
        });
    } finally {
        await stopServer(dataFolder, 'immediate');
        rmSync(folder, { recursive: true, force: true });
    }
}));

function renameInto(from: string, to: string): void {
    const moved = spawnSync('cp', ['-a', from, to], { encoding: 'utf8' });
    expect(moved.stderr).toBe('');
    renameSync(from, `${from}.moved`);
    symlinkSync(to, from);
}

/** The server that ran out of space is on its way down, or up. */
async function eventually(start: () => Promise<Server>): Promise<Server> {
    for (const end = Date.now() + 120_000; ; await pause(100)) {
        try {
            const server = await start();
            await recovered(server.url);
            return server;
        } catch (error) {
            if (Date.now() > end) throw error;
        }
    }
}
