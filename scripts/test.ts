import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { defaultMajor, majorOf, majors, type Major } from './binaries.js';
import { exitCodes } from './errors.js';

/** What takes long: left to make test-long, and to PG=all but for `longest`. */
const long = 'test/**/*.long.test.ts';

/** What takes longest, and shows on one server what a shorter file shows on each: left to make test-long by PG=all, too. */
const longest = ['test/race/{inside,controls}.long.test.ts', 'test/hostile/hostile.long.test.ts', 'test/faults/{clients,soak}.long.test.ts', 'test/ensure_partitions/tree_races.long.test.ts'];

/** What takes long takes turns: PG=all runs each on one major, make test-long on the one it is called with. */
const turns: Record<string, Major> = {
    'test/ensure_partitions/{races,operations,commit}.long.test.ts': '14',
    'test/ensure_partitions/{tree_steps,delegate}.long.test.ts': '15',
    'test/ensure_partitions/{servers,strategies}.long.test.ts': '16',
    'test/ensure_partitions/{model,grid}.long.test.ts': '18',
    'test/ensure_unique/{plan,undo_races,gate,sweep,undo,children}.long.test.ts': '14',
    'test/ensure_unique/{circles,live}.long.test.ts': '15',
    'test/ensure_unique/{keys,cases}.long.test.ts': '16',
    'test/ensure_unique/{races,behind,undo_refused,foreign_keys}.long.test.ts': '17',
    'test/ensure_only/platform.long.test.ts': '14',
    'test/merge_rows/input.long.test.ts': '14',
    'test/merge_rows/{races,plan}.long.test.ts': '16',
    'test/rehearse/*.long.test.ts': '15',
    'test/ensure_grants/stampede.long.test.ts': '17',
    'test/ensure_roles/{servers,case}.long.test.ts': '16',
};

/**
 * With PG=all every other file runs on the default major, and on the others too but for these, each with the majors it has besides.
 * What asks a server nothing that differs from one to the next has none: the runners with dbmate and PgBouncer, the harness, the pages, the
 * arithmetic of grids, random sequences (that every file of sql/ is applied and taken back on each major is shown by catalog.test.ts).
 * PG=14 and the like run everything there but what is long, and PG=all with files named runs these, as in make hunt and make chaos.
 */
const fewerMajors: Record<string, readonly Major[]> = {
    'test/{migrate,run,harness}/**': [],
    'test/docs.test.ts': [],
    'test/ensure_partitions/steps.test.ts': ['14', '16'],
    'test/ensure_partitions/locks.test.ts': ['15'],
    'test/ensure_unique/steps.test.ts': ['14', '17'],
    'test/ensure_unique/index.test.ts': ['14', '15'],
    'test/ensure_unique/reading.test.ts': ['14'],
    'test/ensure_grants/contract.test.ts': ['14', '17'],
    'test/race/{explore,command,page,docs}.test.ts': [],
    'test/race/{race,stepped,timeout}.test.ts': ['14'],
    'test/hostile/{identifiers,values,event_triggers}.test.ts': ['14'],
    'test/rules/errors.test.ts': [],
    'test/rules/{parser,squawk,plpgsql_check}.test.ts': [],
    'test/faults/{disk,clock}.long.test.ts': [],
    'test/faults/{crash,servers}.long.test.ts': [],
    'test/ensure_partitions/contract.test.ts': ['14'],
    'test/ensure_unique/{contract,rewrite}.test.ts': ['14'],
    'test/ensure_unique/{check,locks}.test.ts': ['15'],
    'test/ensure_unique/input.test.ts': ['16'],
    'test/ensure_unique/ahead.test.ts': ['17'],
    'test/ensure_row/{hot,rows,plan}.test.ts': ['16'],
    'test/ensure_row/{kinds,steps,faults}.test.ts': ['14'],
    'test/ensure_only/steps.test.ts': ['17'],
    'test/ensure_only/contract.test.ts': ['14'],
    'test/ensure_only/{fresh,locks}.test.ts': ['15'],
    'test/merge_rows/{policy,foreign_keys}.test.ts': ['14'],
    'test/merge_rows/undo.test.ts': ['16'],
    'test/merge_rows/{steps,contract}.test.ts': ['15'],
    'test/rehearse/**': ['15'],
    'test/password/verifier.test.ts': ['14'],
    'test/password/password.long.test.ts': [],
    'test/retire_role/**': ['14', '16'],
    'test/ensure_grants/{input,locks}.test.ts': ['17'],
    'test/ensure_grants/steps.test.ts': ['16'],
    'test/ensure_owner/{size,locks,input}.test.ts': ['15'],
    'test/ensure_owner/steps.test.ts': ['14', '16'],
    'test/ensure_role/steps.test.ts': ['14', '16'],
    'test/ensure_role/input.test.ts': ['17'],
    'test/ensure_roles/document.test.ts': ['15', '17'],
};

/** `make test`: vitest once for each major of PG (18, or all), then what failed on which, and one line with the sums. */
const wanted = ((): readonly Major[] => {
    try {
        return process.env.PG === 'all' && !process.env.DATABASE_URL ? majors : [majorOf(process.env.PG)];
    } catch (error) {
        console.error(`pg-ensure: ${(error as Error).message}, or all`);
        process.exit(exitCodes.usage);
    }
})();
const longAlone = process.argv[2] === '--long';
const named = longAlone ? ['.long.test.ts'] : process.argv.slice(2);
const sums = { passed: 0, failed: 0, skipped: 0 };
const failed: string[] = [];
const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');

let running: ChildProcess | undefined;
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
        interrupted = true;
        running?.kill(signal); // else it would run on without us
    });
}

for (const major of wanted) {
    if (interrupted) break;
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-counts-'));
    const counts = join(folder, 'counts.json');
    const where = process.env.DATABASE_URL ? 'On the server of DATABASE_URL' : `On PostgreSQL ${major}`;
    console.log(where);
    const left: string[] = [];
    const others = majors.filter((one) => one !== defaultMajor);
    const share = wanted.length > 1 && named.length === 0 && major !== defaultMajor ? `${others.indexOf(major)}/${others.length}` : '0/1';
    if (wanted.length > 1 && named.length === 0) {
        left.push(
            ...Object.entries(fewerMajors).filter(([, others]) => major !== defaultMajor && !others.includes(major)).map(([files]) => files),
            ...Object.entries(turns).filter(([, turn]) => major !== turn).map(([files]) => files),
            ...longest,
        );
    } else if (named.length === 0) {
        left.push(long);
        console.log('left to make test-long: what takes long');
    }
    if (wanted.length > 1 && left.length) console.log(`left to test-long or to other majors; make test PG=${major}, and test-long, run them here: ${left.join(' ')}`);
    if (share !== '0/1') console.log(`of cases that are many, as in test/faults/creator.test.ts, this major takes its turn, ${share}: make test PG=${major} runs all of them`);
    running = spawn(process.execPath, [vitest, 'run', ...named, ...left.flatMap((files) => ['--exclude', files])], {
        stdio: 'inherit',
        env: { ...process.env, PG: major, PG_ENSURE_COUNTS: counts, PG_ENSURE_SHARE: share },
    });
    const [status] = await once(running, 'exit') as [number | null];
    try {
        const of = JSON.parse(readFileSync(counts, 'utf8')) as typeof sums & { failures: string[] };
        sums.passed += of.passed;
        sums.failed += status !== 0 && of.failed === 0 ? 1 : of.failed;
        sums.skipped += of.skipped;
        failed.push(...of.failures.map((failure) => `${where}: ${failure}`));
    } catch {
        sums.failed += 1; // it ended before it could count
    }
    rmSync(folder, { recursive: true });
}

if (sums.passed === 0) sums.failed += 1; // a run that tested nothing has shown nothing
for (const failure of failed) console.log(failure);
for (const failure of failed) console.log(`failed: ${failure.split('\n')[0]}`); // names last, where a cut log still has them
console.log(`${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped`);
process.exit(sums.failed === 0 ? 0 : 1);
