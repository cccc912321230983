import { chmodSync, copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect, test, type TestContext } from 'vitest';
import { majorOf, temporaryServer } from '../../scripts/embedded.js';
import { stateFolder } from '../../scripts/database.js';
import { withSessions, type Session } from '../../scripts/harness/sessions.js';
import { fetchPackage } from '../../scripts/packages.js';
import { missing } from '../context.js';

/** The release of Debian or Ubuntu has the extension for one major version: its files go into a server of that version, one of ours. */
const packaged: Record<string, string> = { jammy: '14', bookworm: '15', noble: '16', trixie: '17' };

/** What it cannot know, since it runs nothing: by SQLSTATE or message, and the functions where it says so. */
const known: [what: RegExp, where: RegExp, why: string][] = [
    [/^55000 record "\w+" is not assigned yet/, /^/, 'a record of dynamic SQL, or an argument of type record'],
    [/^00000 cannot determinate a result of dynamic SQL/, /^/, 'a record of dynamic SQL'],
    [/^XX000 cached plan is not valid plan/, /^_insert_rows_v1$/, 'an argument of type record'],
    [/^42P01 relation "timescaledb_information.hypertables"/, /^_hypertables_v1$/, 'is asked only where TimescaleDB is'],
    [/^42703 record "v_rows" has no field "parents"/, /^_create_partitions_v1$/, 'a record that one of two loops fills, which have other columns'],
    [/^42804 target type is different type than source type/, /^/, 'an assignment of PL/pgSQL, which converts as a cast does: text to name, integer to bigint'],
];

const query = `select p.proname as name, c.level, concat(c.sqlstate, ' ', c.message) as what, c.lineno
    from pg_proc as p join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql',
         lateral plpgsql_check_function_tb(p.oid, fatal_errors => false, other_warnings => true, extra_warnings => false, performance_warnings => false) as c
    where p.pronamespace = 'ensure'::regnamespace and p.prorettype <> 'trigger'::regtype`;

const findings = async (session: Session): Promise<string[]> => (await session.run(query))
    .filter(({ name, what }) => !known.some(([text, where]) => text.test(String(what)) && where.test(String(name))))
    .map(({ name, level, what, lineno }) => `${String(name)} line ${String(lineno)}: ${String(level)} ${String(what)}`);

async function extension(context: TestContext): Promise<{ major: string; home: string }> {
    const release = existsSync('/etc/os-release') ? /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '' : '';
    const major = packaged[release] ?? missing(context, 'no package of plpgsql_check for this system: it needs Debian 12 or 13, or Ubuntu 22.04 or 24.04');
    const home = resolve(stateFolder(), `plpgsql_check-${major}`);
    const library = `usr/lib/postgresql/${major}/lib/plpgsql_check.so`;
    if (existsSync(join(home, 'plpgsql_check.so'))) return { major, home };
    const share = `usr/share/postgresql/${major}/extension`;
    const versions = Array.from({ length: 10 }, (_, minor) => `${share}/plpgsql_check--2.${minor}.sql`);
    try {
        await fetchPackage({ name: `postgresql-${major}-plpgsql-check`, programs: [], files: [library, `${share}/plpgsql_check.control`, ...versions] }, home);
    } catch (error) {
        return missing(context, `no plpgsql_check: ${(error as Error).message}`);
    }
    return { major, home };
}

test('plpgsql_check finds no error and no warning in a function, but for what it cannot know; negative control: it finds others', async (context) => {
    const { major, home } = await extension(context);
    const folder = mkdtempSync(join(tmpdir(), 'pg-ensure-check-'));
    chmodSync(folder, 0o755);
    try {
        const library = join(folder, 'plpgsql_check.so');
        copyFileSync(join(home, 'plpgsql_check.so'), library);
        const control = readFileSync(join(home, 'plpgsql_check.control'), 'utf8');
        const script = `plpgsql_check--${/default_version = '(.*)'/.exec(control)?.[1] ?? ''}.sql`;
        const server = await temporaryServer(majorOf(major));
        try {
            await withSessions(server.url, ['dba'], async ({ dba }) => {
                const sql = new URL('../../sql/', import.meta.url);
                for (const file of readdirSync(sql).sort()) await dba.run(readFileSync(new URL(file, sql), 'utf8').split(/^-- migrate:down\n/m)[0] ?? '');
                await dba.run(`load 'plpgsql'; ${readFileSync(join(home, script), 'utf8').replace(/^\\.*$/gm, '').replaceAll('MODULE_PATHNAME', library).replaceAll('@extschema@', 'public')}`);
                expect(await findings(dba)).toEqual([]);
                await dba.run(`create function ensure.check_x_v1() returns int language plpgsql as $$ declare v int; begin select p.nope into v from pg_class as p; return w; end $$;`);
                expect((await findings(dba)).map((line) => line.split(' ')[0]).filter((name, n, all) => all.indexOf(name) === n).sort()).toEqual(['check_x_v1']);
            });
        } finally {
            await server.stop('immediate');
        }
    } finally {
        rmSync(folder, { recursive: true, force: true });
    }
});
