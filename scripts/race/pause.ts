import { loadModule, parsePlPgSQL } from 'libpg-query';
import type postgres from 'postgres';
import { settle } from '../harness/sessions.js';

/** The key of the locks that stop a session: two for each, held in turn by the lab alone. */
export const pauseKey = 1_162_760_019;

export interface Opened {
    /** By name: before how many statements there is a pause, and the lines of those before which there is none. */
    functions: Map<string, { points: number; without: number[] }>;
    /** Functions that match and could not be opened, and why. */
    closed: { name: string; why: string }[];
}

export const nothingOpened = (): Opened => ({ functions: new Map(), closed: [] });

/**
 * Opens PL/pgSQL functions from inside, in a database that is thrown away: a pause before each statement. It stops the
 * sessions whose backends are `pids`, and does nothing in others.
 */
export async function addPauses(sql: postgres.Sql, named: RegExp, pids: number[] = []): Promise<Opened> {
    await sql.unsafe(`
        create schema ensure_race;
        create function ensure_race.pause(point text) returns boolean language plpgsql
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
        grant usage on schema ensure_race to public`).simple();
    return openFunctions(sql, named, nothingOpened());
}

/** Those that are not open yet, since they were made, or made anew, after the others. */
export async function openFunctions(sql: postgres.Sql, named: RegExp, opened: Opened): Promise<Opened> {
    const found = await sql`
        select p.oid::int8::text as oid, p.proname as name, n.nspname || '.' || p.proname as qualified, l.lanname as language
        from pg_proc as p join pg_language as l on l.oid = p.prolang join pg_namespace as n on n.oid = p.pronamespace
        where n.nspname not in ('pg_catalog', 'information_schema', 'ensure_race') and p.prosrc !~ 'ensure_race\\.pause\\('
            and (l.lanname = 'plpgsql' or n.nspname <> 'ensure') order by p.oid`;
    const wanted = (found as unknown as Record<'oid' | 'name' | 'qualified' | 'language', string>[])
        .filter(({ name, qualified }) => (named.test(name) || named.test(qualified)) && !opened.closed.some((one) => one.name === qualified));
    const others = wanted.filter(({ language }) => language !== 'plpgsql');
    opened.closed.push(...others.map(({ qualified, language }) => ({ name: qualified, why: `it is of language ${language}` })));
    if (wanted.length === others.length) return opened;
    await loadModule();
    const functions = await sql.unsafe(`
        select p.proname as name, n.nspname || '.' || p.proname as qualified, p.prosrc as source, pg_get_functiondef(p.oid) as definition
        from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
        where p.oid in (${wanted.filter((one) => !others.includes(one)).map(({ oid }) => oid).join()}) order by p.oid`);
    for (const { name, qualified, source, definition } of functions as unknown as Record<'name' | 'qualified' | 'source' | 'definition', string>[]) {
        const lines = await linesOf(definition);
        if (typeof lines === 'string') {
            opened.closed.push({ name: qualified, why: lines });
            continue;
        }
        const { text, ...pauses } = paused(name, source, lines);
        const { error } = await settle(sql.unsafe(definition.replace(source, () => text)).simple());
        if (error) opened.closed.push({ name: qualified, why: error.message });
        else opened.functions.set(qualified, pauses);
    }
    return opened;
}

/** The line of the body on which each statement begins, by PostgreSQL's own parser. */
async function linesOf(definition: string): Promise<number[] | string> {
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

function statementLines(tree: unknown, lines: number[] = []): number[] {
    if (Array.isArray(tree)) for (const branch of tree) statementLines(branch, lines);
    else if (tree && typeof tree === 'object') {
        for (const [key, branch] of Object.entries(tree as Record<string, { lineno?: number }>)) {
            if (key.startsWith('PLpgSQL_stmt_') && key !== 'PLpgSQL_stmt_block' && branch.lineno) lines.push(branch.lineno);
            statementLines(branch, lines);
        }
    }
    return lines;
}

/** Comments, then strings and names, which may hold anything; then words and the rest. */
const tokens = /(--[^\n]*|\/\*[^]*?\*\/)|\b[eE]'(?:[^'\\]|\\[^]|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$[^]*?\$\2\$|[a-z_][\w$]*|<<|>>|\S/gi;

/** Where in a body statements may begin: behind ";", THEN, ELSE, LOOP and BEGIN, with the label, if there is one. */
function beginnings(source: string): { at: number; line: number }[] {
    const found: { at: number; line: number }[] = [];
    let line = 1;
    let last = 0;
    let label: number | undefined;
    let cases = 0; // of SQL, open
    let state: 'first' | 'label' | 'declarations' | 'inside' | 'end' = 'first';
    for (const { 0: token, 1: comment, index: at } of source.matchAll(tokens)) {
        line += source.slice(last, at).split('\n').length - 1;
        last = at;
        if (comment !== undefined) continue;
        const word = token.toLowerCase();
        const opens = word === ';' || ((word === 'then' || word === 'else') && !cases) || word === 'loop' || word === 'begin';
        if (state === 'label') {
            if (word === '>>') state = 'first';
        } else if (state === 'declarations') {
            if (word === 'begin') state = 'first';
        } else if (state === 'end') {
            if (word === ';') state = 'first';
        } else if (state === 'inside') {
            if (word === 'case') cases += 1;
            if (word === 'end') cases = Math.max(cases - 1, 0);
            if (opens) [state, cases] = ['first', 0];
        } else if (word === '<<') {
            [state, label] = ['label', at];
        } else if (word === 'declare') {
            [state, label] = ['declarations', undefined];
        } else if (word === 'begin' || word === 'loop') {
            if (word === 'loop') found.push({ at: label ?? at, line });
            label = undefined;
        } else if (!opens && word !== 'end' && word !== 'exception') {
            if (!['elsif', 'elseif', 'when'].includes(word)) found.push({ at: label ?? at, line });
            [state, label] = [word === 'merge' ? 'end' : 'inside', undefined]; // MERGE has a THEN of its own
        } else if (word === 'end') {
            state = 'end'; // END LOOP begins nothing
        }
    }
    return found;
}

function paused(name: string, source: string, lines: number[]): { text: string; points: number; without: number[] } {
    const places = beginnings(source);
    const without: number[] = [];
    const stops: { at: number; point: string }[] = [];
    for (const line of new Set(lines)) {
        const wanted = lines.filter((one) => one === line).length;
        const there = places.filter((place) => place.line === line);
        const right = there.length > wanted ? there.slice(0, 1) : there; // a column called loop, say
        for (let missing = right.length; missing < wanted; missing += 1) without.push(line);
        stops.push(...right.map(({ at }, place) => ({ at, point: `${name}:${line}${place ? `.${place + 1}` : ''}` })));
    }
    let text = source;
    for (const { at, point } of stops.sort((one, other) => other.at - one.at)) {
        // IF leaves FOUND and ROW_COUNT as they are, PERFORM does not.
        text = `${text.slice(0, at)}if ensure_race.pause('${point.replaceAll('\'', '\'\'')}') then end if; ${text.slice(at)}`;
    }
    return { text, points: stops.length, without };
}
