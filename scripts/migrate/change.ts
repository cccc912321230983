import format from 'pg-format';
import type { Sql } from 'postgres';
import { parsedUrl, withConnection } from '../connection.js';
import { codeOf, exitCodes, UserError } from '../errors.js';
import { downCopy } from './copy.js';
import { dbmate } from './dbmate.js';
import type { MigrationFile, Section } from './files.js';
import { know, type Known, type Target } from './known.js';
import type { Recorded } from './ledger.js';
import { lintFile, spelled } from './lint.js';
import { defaults, packageVersion, underLock, type Held, type Limits } from './run.js';
import { makeLedger } from './ledger.js';
import type { State } from './state.js';

/** Asked under no lock and again under the lock: the answer stands only when both are about the same thing. */
export type Confirm = (question: string) => Promise<boolean>;

export interface Changed {
    version: string;
    file: string;
}

/** Rolls the last applied file back by its down section; undefined when the answer is no. */
export function rollback(options: Target & Limits, confirm: Confirm): Promise<Changed | undefined> {
    return change(options, confirm, (state, known) => {
        const { row, file } = lastApplied(state, known);
        const { host, pathname } = parsedUrl(options.url);
        const since = row.appliedAt ? `, applied ${row.appliedAt.slice(0, 19).replace('T', ' ')}` : '';
        return { what: row.version, question: `roll back ${file.name}${since}, in ${host}${pathname}?` };
    }, async (held) => {
        const { sql, known: { ledger }, run, pooled, stop } = held;
        const state = await held.known.read();
        const { file } = lastApplied(state, held.known);
        const limits = { lockTimeoutMs: options.lockTimeoutMs ?? defaults.lockTimeoutMs, watchClient: state.facts.linux };
        const complaint = await dbmate({
            url: options.url, table: ledger.table, application: run.application, pooled, settings: {},
            file: { name: file.name, text: downCopy(file, file.down as Section, ledger, run, limits) },
            command: 'rollback', signal: stop,
        });
        stop.throwIfAborted();
        const after = await held.known.read();
        if (after.facts.recorded.some(({ version }) => version === file.version)) {
            const line = complaint.line ? `:${complaint.line + (file.down?.line ?? 1) - 1}` : '';
            const code = complaint.code ? `${complaint.code}: ` : '';
            throw new UserError(`${file.name}${line}: ${code}${complaint.message}; it is not rolled back`);
        }
        await sql.unsafe(format(`delete from ${ledger.history} as h where h.version = %L`, file.version)).simple();
        return { version: file.version, file: file.name };
    });
}

/** Says what nobody can tell: whether the database has what the file says. Asks before it takes a file out of the ledger. */
export function resolve(options: Target & Limits, version: string, applied: boolean, confirm: Confirm): Promise<Changed | undefined> {
    const isRecorded = ({ facts }: State): boolean => facts.recorded.some((row) => row.version === version);
    const pick = (known: Known): MigrationFile => {
        const file = known.folder.files.find((one) => one.version === version);
        if (file) return file;
        throw new UserError(`no file here has version ${version}: ${known.command('status')} lists them`, exitCodes.usage);
    };
    const ask: Confirm = (question) => (question ? confirm(question) : Promise.resolve(true));
    return change(options, ask, (state, known) => {
        const { name } = pick(known);
        const question = isRecorded(state) && !applied ? `take ${name}, which is in the ledger as applied, out of it?` : '';
        return { what: `${version} ${isRecorded(state)}`, question };
    }, async ({ sql, known }) => {
        const { ledger } = known;
        await makeLedger(sql, ledger);
        const { name, sha256 } = pick(known);
        await sql.unsafe(applied ? format(`
            begin;
            insert into ${ledger.sql} (version) values (%L) on conflict do nothing;
            insert into ${ledger.history} as h (version, file, sha256, run_id, applied_at, duration, pg_ensure)
            values (%L, %L, %L, 'resolve', clock_timestamp(), '0', %L)
            on conflict (version) do update set file = excluded.file, sha256 = excluded.sha256, run_id = excluded.run_id,
                applied_at = coalesce(h.applied_at, excluded.applied_at), duration = coalesce(h.duration, '0'), error = null;
            commit`, version, version, name, sha256, packageVersion)
            : format(`
            begin;
            delete from ${ledger.sql} where version = %L;
            delete from ${ledger.history} where version = %L;
            commit`, version, version)).simple();
        return { version, file: name };
    });
}

/** Drops the functions that are installed and forgets that they were: `migrate` then installs those at hand. */
export function dropOwn(options: Target & Limits, confirm: Confirm): Promise<{ functions: number } | undefined> {
    return change(options, confirm, ({ facts }) => ({
        what: String(facts.recorded.length),
        question: `drop the functions of schema ensure and install those of this version (calls fail for the second in between)?`,
    }), async ({ sql, known: { ledger } }) => {
        await makeLedger(sql, ledger);
        const rows = await sql.unsafe<{ drop: string }[]>(`
            select format('drop %s %s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure) as drop
            from pg_proc as p where p.pronamespace = to_regnamespace('ensure') and p.proname ~ '_v\\d+$'`).simple();
        const types = await sql.unsafe<{ drop: string }[]>(`
            select format('drop type %s', t.oid::regtype) as drop
            from pg_type as t join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
            where t.typnamespace = to_regnamespace('ensure') and t.typname ~ '_v\\d+$'`).simple();
        const statements = [...rows, ...types].map(({ drop }) => drop).concat(`delete from ${ledger.sql}`, `delete from ${ledger.history}`);
        try {
            await sql.unsafe(`begin; ${statements.join('; ')}; commit`).simple();
        } catch (error) {
            await sql.unsafe('rollback').simple();
            if (codeOf(error) !== '2BP01') throw error;
            const { message, detail = '' } = error as Error & { detail?: string };
            throw new UserError(`2BP01: ${message} (${detail.replaceAll('\n', '; ')}); nothing was changed: drop what depends on it first`);
        }
        return { functions: rows.length };
    });
}

async function change<T extends object>(
    options: Target & Limits, confirm: Confirm, ask: (state: State, known: Known) => { what: string; question: string },
    work: (held: Held) => Promise<T>,
): Promise<T | undefined> {
    return withConnection(options.url, async (sql: Sql) => {
        const known = await know(sql, options);
        const state = await known.read();
        if (state.facts.standby) throw new UserError('this is a standby: do it on the primary', exitCodes.behind);
        const { what, question } = ask(state, known);
        if (!await confirm(question)) return undefined;
        const result = await underLock(options, sql, known, state, () => false, async (held) => {
            if (ask(await known.read(), known).what !== what) {
                throw new UserError('another runner has changed the ledger meanwhile: nothing was done; ask again');
            }
            return work(held);
        });
        return result as T;
    });
}

function lastApplied({ facts }: State, { folder }: Known): { row: Recorded; file: MigrationFile } {
    const row = facts.recorded.at(-1);
    if (!row) throw new UserError('nothing is applied: there is nothing to roll back', exitCodes.usage);
    const file = folder.files.find(({ version }) => version === row.version);
    if (!file) {
        throw new UserError(`${row.version} was applied last and no file here has it: nothing was rolled back`, exitCodes.diverged);
    }
    if (row.sha256 && row.sha256 !== file.sha256) {
        throw new UserError(`${file.name} was edited after it had been applied: its down section may be another one; put the file back`,
            exitCodes.diverged);
    }
    const [error] = lintFile(file).filter(({ severity, rule }) => severity === 'error' && rule !== 'syntax');
    if (error) throw new UserError(`nothing was rolled back: ${spelled(error)}`, exitCodes.findings);
    if (!file.down?.text.replace(/^--.*$/gm, '').trim()) {
        throw new UserError(`${file.name} has nothing below "-- migrate:down": nothing was rolled back; write a new file that undoes it`,
            exitCodes.findings);
    }
    return { row, file };
}
