import { defineConfig } from 'vitest/config';

export default defineConfig({
    test: {
        include: ['test/**/*.test.ts'],
        globalSetup: ['test/setup.ts'],
        testTimeout: 300_000,
        hookTimeout: 300_000,
        expect: { poll: { timeout: 60_000 } }, // not 1 s: a machine may stall for longer
        maxWorkers: 3,
        reporters: ['default', './test/reporter.ts'],
    },
});
