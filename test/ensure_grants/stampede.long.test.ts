import { expect, test } from 'vitest';
import { isolationLevels, stampede } from '../../scripts/harness/stampede.js';
import { surroundings } from '../context.js';
import { withRoles } from '../ensure_role/roles.js';
import { ensure } from './given.js';

const rounds = ['read', 'read,write', 'write', ''];

test.each(isolationLevels)('8 callers, 8 grantees, the same 50 tables and one creator, %s: no error, and all is as asked', (isolation) =>
    withRoles(['dba'], async ({ dba }, { role, database }) => {
        const { owner } = surroundings.server;
        const names = [...Array(8).keys()].map((n) => role(`app${n}`));
        await dba.run(`create schema app authorization ${owner}; set role ${owner};
            do $$ begin for i in 1..50 loop execute format('create table app.t%s (a int)', i); end loop; end $$; reset role`);
        for (const name of names) await dba.run(`create role ${name}`);
        const report = await stampede({
            owner: database.url, callers: names.length, rounds: rounds.length, isolation, transaction: false,
            steps: (caller, round) => [ensure(names[caller] ?? '', rounds[round] ?? '', `'{${owner}}', 'exact', max_wait => '60 s'`)],
        });
        expect(report.codes).toEqual({ ok: names.length * rounds.length });
        expect(await dba.run(`select count(*)::int as n from pg_class as c, aclexplode(c.relacl) as e where c.relnamespace = 'app'::regnamespace and e.grantee <> c.relowner`))
            .toEqual([{ n: 0 }]);
        expect(report.outcomes.flatMap(({ rows }) => rows).filter(({ outcome }) => outcome === 'revoked').length).toBeGreaterThanOrEqual(names.length * 50 * 2);
    }));
