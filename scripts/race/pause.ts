import { loadModule, parsePlPgSQL } from 'libpg-query';
import type postgres from 'postgres';
import { settle } from '../harness/sessions.js';

/** The key of the locks that stop a session: two for each, held in turn by the lab alone. */
export const pauseKey = 1_162_760_019;

export interface Opened {
    functions: number;
    points: number;
    /** Functions that match and could not be opened, and why. */
    closed: { name: string; why: string }[];
}

/**
 * Opens PL/pgSQL functions from inside, in a database that is thrown away: a pause before each statement that begins a line. It stops the
 * sessions whose backends are `pids`, and does nothing in others.
 */
export async function addPauses(sql: postgres.Sql, named: RegExp, pids: number[] = []): Promise<Opened> {
    await sql.unsafe(`
        create schema race;
        create function race.pause(point text) returns boolean language plpgsql
        set search_path = pg_catalog, pg_temp set lock_timeout = 0 set client_min_messages = error as $$
        declare
            v_session integer := pg_catalog.array_position('{${pids.join()}}'::integer[], pg_catalog.pg_backend_pid()) - 1;
            v_turn integer := 0;
        begin
            if v_session is null then
                return false;
            end if;
            -- The turn is a lock that is held or not: a setting would be taken back with a subtransaction.
            if not pg_advisory_unlock(${pauseKey}, -1 - v_session) then
                perform pg_advisory_lock(${pauseKey}, -1 - v_session);
                v_turn := 1;
            end if;
            perform set_config('application_name', 'race ' || point, false);
            perform pg_advisory_lock_shared(${pauseKey}, v_session * 2 + v_turn);
            perform pg_advisory_unlock_shared(${pauseKey}, v_session * 2 + v_turn);
            return false;
        end $$;
        grant usage on schema race to public`).simple();
    return openFunctions(sql, named, { functions: 0, points: 0, closed: [] });
}

/** Those that are not open yet, since they were made, or made anew, after the others. */
export async function openFunctions(sql: postgres.Sql, named: RegExp, opened: Opened): Promise<Opened> {
    const found = await sql`
        select p.oid::int8::text as oid, p.proname as name, n.nspname || '.' || p.proname as qualified
        from pg_proc as p join pg_language as l on l.oid = p.prolang join pg_namespace as n on n.oid = p.pronamespace
        where l.lanname = 'plpgsql' and n.nspname not in ('pg_catalog', 'information_schema', 'race') and p.prosrc !~ 'race\\.pause\\(' order by p.oid`;
    const wanted = (found as unknown as Record<'oid' | 'name' | 'qualified', string>[])
        .filter(({ name, qualified }) => (named.test(name) || named.test(qualified)) && !opened.closed.some((one) => one.name === qualified));
    if (!wanted.length) return opened;
    await loadModule();
    const functions = await sql.unsafe(`
        select p.proname as name, n.nspname || '.' || p.proname as qualified, p.prosrc as source, pg_get_functiondef(p.oid) as definition
        from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where p.oid in (${wanted.map(({ oid }) => oid).join()}) order by p.oid`);
    for (const { name, qualified, source, definition } of functions as unknown as Record<'name' | 'qualified' | 'source' | 'definition', string>[]) {
        if (!named.test(name) && !named.test(qualified)) continue;
        const lines = await linesOf(definition);
        if (typeof lines === 'string') {
            opened.closed.push({ name: qualified, why: lines });
            continue;
        }
        const { text, points } = paused(name, source, lines);
        const { error } = await settle(sql.unsafe(definition.replace(source, () => text)).simple());
        if (error) {
            opened.closed.push({ name: qualified, why: error.message });
            continue;
        }
        opened.functions += 1;
        opened.points += points;
    }
    return opened;
}

/** Lines of the body on which a statement begins, by PostgreSQL's own parser. */
async function linesOf(definition: string): Promise<Set<number> | string> {
    let problem = '';
    // It knows no types but PostgreSQL's: a type of ours is a scalar, or where fields of it are assigned a record.
    for (const type of ['text', 'record']) {
        const known = definition
            .replace(/[\w."]+%rowtype\b/gi, 'record').replace(/RETURNS SETOF \S+/, 'RETURNS SETOF text').replace(/RETURNS \S+\[\]/, 'RETURNS text')
            .replace(/\b[a-z]\w*\._?\w+(\[\])?(?=[ ;\n])(?=[^\n]*;$)/gm, (found, list: string | undefined) => (/\._\w+_v\d/.test(found) ? list ? 'text' : type : found))
            .replace(/(\n {4}\w+ (?:constant )?)(\w+(?: with time zone)?)\[\]/g, '$1text');
        try {
            return statementLines(await parsePlPgSQL(known));
        } catch (error) {
            problem = (error as Error).message;
        }
    }
    return problem;
}

function statementLines(tree: unknown, lines = new Set<number>()): Set<number> {
    if (Array.isArray(tree)) for (const branch of tree) statementLines(branch, lines);
    else if (tree && typeof tree === 'object') {
        for (const [key, branch] of Object.entries(tree as Record<string, { lineno?: number }>)) {
            if (key.startsWith('PLpgSQL_stmt_') && key !== 'PLpgSQL_stmt_block' && branch.lineno) lines.add(branch.lineno);
            statementLines(branch, lines);
        }
    }
    return lines;
}

/** Comments and strings, which may hold anything. */
const opaque = /'(?:[^']|'')*'|\$(\w*)\$[^]*?\$\1\$|--[^\n]*|\/\*[^]*?\*\//g;

function paused(name: string, source: string, lines: Set<number>): { text: string; points: number } {
    const text = source.split('\n');
    const bare = source.replace(opaque, (found) => found.replace(/[^\n]/g, /^(?:--|\/\*)/.test(found) ? ' ' : 'x')).split('\n');
    let points = 0;
    for (const number of lines) {
        let place = number - 1;
        while (/^\s*<<.*>>\s*$/.test(bare[place - 1] ?? '')) place -= 1; // a label belongs to its loop
        const before = bare.slice(0, place).join('\n');
        // Else it begins behind something, such as "when … then", or the line is the middle of another.
        if (!/(?:;|\b(?:then|else|loop|begin))\s*$/i.test(before) || /^\s*(?:end|else|elsif|elseif|when|exception)\b/i.test(bare[place] ?? '')) continue;
        const line = text[place] ?? '';
        const indent = /^\s*/.exec(line)?.[0] ?? '';
        // IF leaves FOUND and ROW_COUNT as they are, PERFORM does not.
        text[place] = `${indent}if race.pause('${name.replaceAll('\'', '\'\'')}:${number}') then end if; ${line.slice(indent.length)}`;
        points += 1;
    }
    return { text: text.join('\n'), points };
}
