/** So many clients in each cell: of two targets in opposite orders three take each order. */
export const clients = 6;

/** What clients do in one cell: client 0 as the first of `ours` and `naive`, client 1 as the second …; statements one after another. */
export interface Target {
    ours: string[][];
    naive: string[][];
    /** One row with one true when the end state is right. */
    right: string;
    /** What a writing transaction writes into the target before the call, and a client after it. */
    near?: string;
    use?: string[];
    /** SQLSTATEs of this target alone that are followed by another try, of both sides. */
    again?: string[];
}

export const targets = ['same', 'different', 'inverted'] as const;
export type TargetName = (typeof targets)[number];

export interface Control {
    /** A function of schema ensure, what is taken out of it, what is put there. */
    guards: [string, string | RegExp, string][];
    /** What that guard does. */
    what: string;
    /** Instead of the calls of "same", for one of both sessions each. */
    calls?: [string, string];
    right?: string;
    /** After the setup of the cells. */
    setup?: string[];
}

/** A public function in all cells. */
export interface Entry extends Record<TargetName, Target> {
    name: string;
    /** What people write instead, in words. */
    naive: string;
    prepare: string[];
    setup: string[];
    teardown: string[];
    /** SQLSTATEs of the function's header that say how to go on. */
    told: Told[];
    control: Control;
}

type Told = '40001' | 'NS003' | 'NS011';

/** What a caller is told to do, by SQLSTATE: the clients of the matrix do so. */
export const advice: Record<Told, string> = {
    40001: 'the transaction runs again',
    NS003: 'the calls first, each in a transaction of its own; then the rest of the transaction again',
    NS011: 'the calls first, each in a transaction of its own that is READ COMMITTED; then the rest of the transaction again',
};

/** For each client's number, joined as statements of one string. */
export const each = (sql: (n: number) => string, count = clients): string => Array.from({ length: count }, (_, n) => sql(n)).join('; ');

/** Of every call that has budgets: as in the call of an application that would rather be told early that it has written already. */
export const patient = "max_wait => '1 min', max_block => '100 ms'";
