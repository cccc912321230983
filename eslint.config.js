import js from '@eslint/js';
import ts from 'typescript-eslint';

export default ts.config(
    { ignores: ['dist/', 'node_modules/', '.pg-ensure/'] },
    js.configs.recommended,
    {
        files: ['**/*.ts'],
        extends: [ts.configs.recommendedTypeChecked],
        languageOptions: { parserOptions: { projectService: true } },
    },
);
