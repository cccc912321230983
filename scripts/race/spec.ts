import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { exitCodes, UserError } from '../errors.js';
import { parsedFile } from '../migrate/files.js';
import { isolationLevels, type Isolation } from '../harness/stampede.js';

export const ways = ['direct', 'pooler'] as const;
export type Way = (typeof ways)[number];

/** What is raced: sessions whose steps are strings sent as they are, and what must be true whatever their order. */
export interface Spec {
    file: string;
    /** Once, as a superuser; statements of one string are one transaction. */
    superuser: string[];
    /** Once, as the owner of the database, who is no superuser. */
    prepare: string[];
    /** Before each order or round, as the owner. */
    setup: string[];
    /** After each order or round. */
    teardown: string[];
    sessions: SpecSession[];
    invariants: Invariant[];
    /** SQLSTATEs that a step may end with. */
    allowed: string[];
    /** Orders to run, and no other: names of sessions, one for each turn. */
    orders: string[][];
    /** Each is run; none for read committed. */
    isolation: Isolation[];
    connect: Way[];
    clients?: number | undefined;
    rounds?: number | undefined;
}

export interface SpecSession {
    name: string;
    steps: { name: string; sql: string }[];
    isolation?: Isolation | undefined;
}

/** A query that must return one row with one true: at the end of each order or round, or after each turn too. */
export interface Invariant {
    name: string;
    query: string;
    always: boolean;
}

const words = ['superuser', 'prepare', 'include', 'setup', 'teardown', 'session', 'step', 'invariant', 'always', 'allow', 'order', 'isolation',
    'connect', 'clients', 'rounds'];

export const emptySpec = (file: string): Spec => ({
    file, superuser: [], prepare: [], setup: [], teardown: [], sessions: [], invariants: [], allowed: [], orders: [], isolation: [], connect: [],
});

/** A .json file is a Spec; any other is SQL whose parts begin with lines such as "-- race: session a". */
export function readSpec(file: string): Spec {
    const text = read(file, file);
    return checked(file.endsWith('.json') ? fromJson(file, text) : fromSql(file, text));
}

const wrong = (place: string, why: string): UserError => new UserError(`${place}: ${why}`, exitCodes.usage);

function read(file: string, place: string): string {
    try {
        return readFileSync(file, 'utf8').replace(/^\uFEFF/, '');
    } catch (error) {
        throw wrong(place, (error as Error).message);
    }
}

/** A file named in a spec, beside it; of a file for dbmate what it does, not how it is undone. */
function included(file: string, name: string, place: string): string {
    const text = read(resolve(dirname(file), name), place);
    return parsedFile(name, text).up?.text ?? text;
}

function fromSql(file: string, text: string): Spec {
    const spec = emptySpec(file);
    const like = new RegExp(`^[^\\S\\n]*--[^\\S\\n]*race(?:[^\\S\\n]*:|[^\\S\\n]+(?:${words.join('|')})\\b).*`, 'img');
    const near = [...text.matchAll(like)].find(([line]) => !line.startsWith('-- race:'));
    if (near) throw wrong(`${file}:${text.slice(0, near.index).split('\n').length}`, `"${near[0].trim()}" must be written "-- race:", at the beginning of its line`);
    const parts = text.split(/^-- race:/m);
    let line = parts[0]?.split('\n').length ?? 1;
    if (parts.length === 1) throw wrong(`${file}:1`, 'no line begins with "-- race:": a spec has parts such as "-- race: session a"');
    const outside = /^(?!\s*--|\s*$).*$/m.exec(parts[0] ?? '');
    if (outside) throw wrong(`${file}:1`, `"${outside[0]}" is before the first "-- race:" line`);
    for (const part of parts.slice(1)) {
        const place = `${file}:${line}`;
        const end = part.indexOf('\n') < 0 ? part.length : part.indexOf('\n');
        const [word = '', ...rest] = part.slice(0, end).trim().split(/\s+/);
        const sql = part.slice(end + 1).trim();
        const name = rest.join(' ');
        const given = /^(?!\s*--|\s*$)/m.test(sql);
        const needed = (): string => {
            if (!given) throw wrong(place, `no SQL follows "${word}"`);
            return sql;
        };
        const lone = ['include', 'allow', 'order', 'isolation', 'connect', 'clients', 'rounds'].includes(word);
        if (lone && given) throw wrong(place, `SQL follows "${word}", which takes none: a line such as "-- race: setup" lacks above it`);
        if (lone && !name) throw wrong(place, `nothing follows "${word}" in its line`);
        switch (word) {
            case 'superuser': case 'prepare': case 'setup': case 'teardown': spec[word].push(needed()); break;
            case 'include': spec.prepare.push(included(file, name, place)); break;
            case 'session': spec.sessions.push(sessionOf(place, rest)); break;
            case 'step': {
                const session = spec.sessions.at(-1);
                if (!session) throw wrong(place, 'a step before the first "-- race: session"');
                session.steps.push({ name: name || `${session.name}${session.steps.length + 1}`, sql: needed() });
                break;
            }
            case 'invariant': case 'always': spec.invariants.push({ name: name || needed(), query: needed(), always: word === 'always' }); break;
            case 'allow': spec.allowed.push(...rest); break;
            case 'order': spec.orders.push(rest); break;
            case 'isolation': spec.isolation.push(name as Isolation); break;
            case 'connect': spec.connect.push(...rest as Way[]); break;
            case 'clients': case 'rounds': spec[word] = Number(name); break;
            default: throw wrong(place, `"${word}" is none of ${words.join(', ')}`);
        }
        // What follows a session directly is its only step.
        if (word === 'session' && given) spec.sessions.at(-1)?.steps.push({ name: `${rest[0]}1`, sql });
        line += part.split('\n').length - 1;
    }
    return spec;
}

function sessionOf(place: string, [name = '', ...options]: string[]): SpecSession {
    if (!/^[A-Za-z_]\w*$/.test(name)) throw wrong(place, `"${name}" is no name of a session: letters, digits, _`);
    return { name, steps: [], ...(options.length && { isolation: options.join(' ') as Isolation }) };
}

function fromJson(file: string, text: string): Spec {
    const bad = (key: string, what: string): UserError => wrong(file, `"${key}" must be ${what}`);
    const isText = (value: unknown): value is string => typeof value === 'string';
    const known = (key: string, object: Record<string, unknown>, ...keys: string[]): void => {
        const odd = Object.keys(object).find((one) => !keys.includes(one));
        if (odd !== undefined) throw wrong(file, `"${odd}" in "${key}" is none of ${keys.join(', ')}`);
    };
    const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
    let given: unknown;
    try {
        given = JSON.parse(text);
    } catch (error) {
        throw wrong(file, (error as Error).message);
    }
    if (!isObject(given)) throw wrong(file, 'a spec is an object');
    const spec = emptySpec(file);
    const { include = [], ...keys } = given;
    for (const [key, value] of Object.entries({ include, ...keys })) {
        switch (key) {
            case 'include': case 'superuser': case 'prepare': case 'setup': case 'teardown': case 'allowed': case 'isolation': case 'connect':
                if (!Array.isArray(value) || !value.every(isText)) throw bad(key, 'a list of strings');
                if (key === 'include') spec.prepare.push(...value.map((name) => included(file, name, file)));
                else (spec[key] as string[]).push(...value);
                break;
            case 'orders':
                if (!Array.isArray(value) || !value.every(isText)) throw bad(key, 'a list of strings such as "a b*3 a"');
                spec.orders.push(...value.map((order) => order.split(/\s+/)));
                break;
            case 'clients': case 'rounds': spec[key] = value as number; break;
            case 'sessions':
                if (!Array.isArray(value)) throw bad(key, 'a list');
                for (const session of value as unknown[]) {
                    if (!isObject(session) || !isText(session.name) || !Array.isArray(session.steps)) throw bad(key, 'objects with name and steps');
                    const { name } = session;
                    known(key, session, 'name', 'steps', 'isolation');
                    const steps = session.steps.map((step: unknown, place) => (isText(step) ? { name: `${name}${place + 1}`, sql: step } : step));
                    if (!steps.every((step) => isObject(step) && isText(step.name) && isText(step.sql))) throw bad(key, 'steps that are strings, or objects with name and sql');
                    for (const step of steps as SpecSession['steps']) {
                        known(key, { ...step }, 'name', 'sql');
                        if (!step.sql.trim()) throw wrong(file, `step ${step.name} of session ${name} is empty`);
                    }
                    spec.sessions.push({ ...sessionOf(file, [name]), steps: steps as SpecSession['steps'], ...(session.isolation !== undefined && { isolation: session.isolation as Isolation }) });
                }
                break;
            case 'invariants':
                if (!Array.isArray(value)) throw bad(key, 'a list');
                for (const one of value as unknown[]) {
                    if (!isObject(one) || !isText(one.name) || !isText(one.query)) throw bad(key, 'objects with name and query');
                    known(key, one, 'name', 'query', 'always');
                    if (![undefined, true, false].includes(one.always as boolean)) throw bad(key, 'objects whose "always" is true or false');
                    spec.invariants.push({ name: one.name, query: one.query, always: one.always === true });
                }
                break;
            default: throw wrong(file, `"${key}" is none of include, ${Object.keys(emptySpec('')).slice(1).join(', ')}, clients, rounds`);
        }
    }
    return spec;
}

function checked(spec: Spec): Spec {
    const { file, sessions, allowed, orders, isolation, connect, clients, rounds } = spec;
    if (!sessions.length) throw wrong(file, 'it has no session: "-- race: session a", and below it what the session runs');
    for (const { name, steps } of sessions) if (!steps.length) throw wrong(file, `session ${name} has no step`);
    const twice = sessions.find(({ name }, place) => sessions.findIndex((other) => other.name === name) !== place);
    if (twice) throw wrong(file, `two sessions are called ${twice.name}`);
    const odd = allowed.find((code) => !/^[0-9A-Z]{5}$/.test(code));
    if (odd !== undefined) throw wrong(file, `"${odd}" is no SQLSTATE`);
    for (const level of [...isolation, ...sessions.flatMap((session) => session.isolation ?? [])]) {
        if (!isolationLevels.includes(level)) throw wrong(file, `"${level}" is no isolation level: ${isolationLevels.join(', ')}`);
    }
    const lost = connect.find((way) => !ways.includes(way));
    if (lost !== undefined) throw wrong(file, `"${lost}" is none of ${ways.join(', ')}`);
    for (const [key, value] of Object.entries({ clients, rounds })) {
        if (value !== undefined && !(Number.isInteger(value) && value > 0 && value <= 10_000)) throw wrong(file, `${key} must be a whole number from 1 to 10000`);
    }
    for (const order of orders) checkOrder(spec, order);
    return spec;
}

/** Each word is a session, or a session and how many turns it has: "a", "b*3". */
export function checkOrder({ file, sessions }: Spec, words: string[]): void {
    for (const word of words) {
        const [, name] = /^(\w+?)(?:\*[1-9]\d{0,5})?$/.exec(word) ?? [];
        if (!sessions.some((session) => session.name === name)) throw wrong(file, `"${word}" in the order is none of ${sessions.map((one) => one.name).join(', ')}, nor a*3 and the like`);
    }
}

/** In SQL {client} and {round} stand for the numbers of both, from 0: of a session in its place, and 0, where orders are run. */
export const filled = (sql: string, client: number, round: number): string => sql.replaceAll('{client}', String(client)).replaceAll('{round}', String(round));
