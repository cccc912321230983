import type { Session } from '../../scripts/harness/sessions.js';

export interface Routine {
    name: string;
    source: string;
    /** SQLSTATEs that it raises itself. */
    codes: string[];
    /** Functions of ensure that it calls, or that stand in SQL that it writes. */
    calls: string[];
}

/** Text that a function writes for others to run, and calls that one caller's arguments rule out: neither raises anything for that caller. */
export interface Cut {
    from: RegExp;
    to: RegExp;
    why: string;
}

export async function routines(session: Session): Promise<Map<string, Routine>> {
    await session.run(`create function pg_temp.state_of(condition text) returns text language plpgsql as $$ begin raise exception using errcode = condition; exception when others then return sqlstate; end $$`);
    const rows = await session.run(`
        select p.proname as name, p.prosrc as source,
               array_to_json(array(select distinct pg_temp.state_of(m[1]) from regexp_matches(s.code, 'errcode = [^;]*?''([0-9A-Z]{5}|[a-z_]{6,})''', 'g') as m)) as codes,
               array_to_json(array(select distinct m[1] from regexp_matches(s.code, 'ensure\\.([a-z_]+_v[0-9]+)\\(', 'g') as m where m[1] <> p.proname)) as calls
        from pg_proc as p, lateral (select regexp_replace(p.prosrc, '\\n\\s*--[^\\n]*', '', 'g')) as s (code)
        where p.pronamespace = 'ensure'::regnamespace`);
    return new Map(rows.map((row) => [String(row.name), row as unknown as Routine]));
}

/** What `root` may raise, and by which function. A public function is called by name in SQL that is written, not from another one. */
export function raised(all: Map<string, Routine>, root: string, cuts: Cut[]): Map<string, string> {
    const found = new Map<string, string>();
    const seen = new Set([root]);
    const visit = (name: string): void => {
        const routine = all.get(name);
        if (!routine) return;
        for (const code of routine.codes) found.set(code, name);
        for (const callee of routine.calls) {
            if (seen.has(callee) || !callee.startsWith('_') || cuts.some(({ from, to }) => from.test(root) && to.test(callee))) continue;
            seen.add(callee);
            visit(callee);
        }
    };
    visit(root);
    return found;
}
