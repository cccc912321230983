import { writeFileSync } from 'node:fs';
import type { Reporter, TestCase, TestModule } from 'vitest/node';

/** Prints every skipped test with its reason, and leaves the counts and what failed for the runner of several majors. */
export default class Counts implements Reporter {
    onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
        const tests = modules.flatMap((module) => [...module.children.allTests()]);
        const of = (state: string): TestCase[] => tests.filter((test) => test.result().state === state);
        for (const test of of('skipped')) {
            const { note } = test.result() as { note?: string };
            console.log(`skipped: ${test.fullName}: ${note ?? 'no reason given'}`);
        }
        const broken = modules.filter((module) => module.errors().length > 0).length + unhandled.length;
        const failures = of('failed').map((test) => `${test.module.relativeModuleId} > ${test.fullName}\n${reason(test)}`);
        const counts = { passed: of('passed').length, failed: failures.length + broken, skipped: of('skipped').length, failures };
        if (process.env.PG_ENSURE_COUNTS) writeFileSync(process.env.PG_ENSURE_COUNTS, JSON.stringify(counts));
    }
}

const reason = (test: TestCase): string =>
    (test.result().errors ?? []).flatMap(({ message, diff }) => [message, diff ?? '']).join('\n').split('\n').slice(0, 30)
        .map((line) => `    ${line.slice(0, 300)}`).join('\n');
