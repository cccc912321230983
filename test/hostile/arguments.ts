import { plain, spelled } from './scenarios.js';

const { is, q } = spelled(plain);
const json = (value: unknown): string => `'${JSON.stringify(value)}'::jsonb`;
const row = (id: number): string => json({ a_id: id });
const grid = { parent: is('range'), step: "'10'", from_value: '0', until_value: '25' };
const unique = { target: is('table'), columns: `array['${plain.name}']`, keep: `'${q.id}'`, losers: "'delete'", children: "'move'", archive: is('archive') };
const merge = { target: is('table'), keeper: row(1), losers: row(2), columns_policy: json({ a_name: 'max' }), archive: is('archive') };
const owner = { new_owner: `'${plain.heir}'`, schemas: `array['${plain.schema}']::name[]`, excluded: `array[${is('archive')}]`, excluded_routines: "'{}'::regprocedure[]" };
const spec = json({
    roles: [{ role_name: plain.fresh, login: false, connection_limit: 3, settings: { search_path: 'public' }, member_of: { [plain.heir]: true }, valid_until: '2100-01-01T00:00:00Z', inherit: true }],
    owners: [{ new_owner: plain.heir, schemas: ['a_schema'], excluded: ['a_schema.a_archive'], excluded_routines: [] }],
    grants: [{ grantee: plain.role, access: ['read'], schemas: ['a_schema'], creators: [plain.heir], mode: 'add', revoke_public: false }],
});
const run = "'00000000-0000-4000-8000-000000000000'::uuid";

/** A call of each public function in the world of plain names that does something, by argument; what has a default may be missing. */
export const calls: Record<string, Record<string, string>> = {
    check_connection_budget_v1: { declared: json({ [plain.role]: { pool: 1, replicas: 2 } }) },
    check_coverage_v1: { parent: is('range'), keys: json({ a_id: 7 }) },
    check_duplicates_v1: { target: unique.target, columns: unique.columns, keep: unique.keep, predicate: `'${q.id} > 0'` },
    check_install_v1: {},
    check_partitions_v1: grid,
    check_roles_v1: { spec },
    ensure_default_partition_v1: { parent: is('range') },
    ensure_grants_v1: { grantee: `'${plain.role}'`, access: "'{read,write}'", schemas: `array['${plain.schema}']::name[]`, creators: `array['${plain.heir}']::name[]` },
    ensure_hash_partitions_v1: { parent: is('hash'), modulus: '2' },
    ensure_list_partitions_v1: { parent: is('list'), list_values: "array['x', 'y']" },
    ensure_only_v1: {
        target: is('table'), member: row(2), among: `'${q.flag}'`, demote: `'${q.flag} = false'`, key: `array['${plain.id}']::name[]`, promote: `'${q.flag} = true'`,
        children: "'move'", child_tables: `array[${is('child')}]`, archive: is('archive'),
    },
    ensure_owner_v1: owner,
    ensure_partition_delegate_v1: { parent: is('range'), grantee: `'${plain.role}'`, step: "'10'", earliest: "'0'", latest: "'100'", function_name: `'${plain.routine}'` },
    ensure_partition_tree_v1: { parents: `array[${is('list')}]`, path: json([{ list: 'x' }, { range: 7, step: '10', key: 'a_id', zone: 'UTC' }]) },
    ensure_partitions_v1: grid,
    ensure_role_v1: {
        role_name: `'${plain.fresh}'`, connection_limit: '3', settings: json({ search_path: 'public' }), member_of: json({ [plain.role]: true }),
        database_settings: "jsonb_build_object(current_database(), jsonb_build_object('work_mem', '8MB'))", valid_until: "'2100-01-01'",
    },
    ensure_roles_v1: { spec },
    ensure_row_v1: { target: is('table'), attributes: json({ a_id: 4, a_name: 'x' }), key: `array['${plain.id}']::name[]`, revive: `'${q.flag}'` },
    ensure_rows_v1: { target: is('table'), rows: json([{ a_id: 4, a_name: 'x' }]), key: `array['${plain.id}']::name[]` },
    ensure_unique_v1: { ...unique, index_name: `'${plain.index}'` },
    merge_rows_v1: merge,
    plan_merge_rows_v1: { ...merge, batch: '10' },
    plan_owner_v1: owner,
    plan_partitions_v1: grid,
    plan_retire_role_v1: { role_name: `'${plain.role}'`, reassign_to: `'${plain.heir}'` },
    plan_roles_v1: { spec },
    plan_row_function_v1: { target: is('table'), key: `array['${plain.id}']::name[]`, function_name: `'${plain.routine}'` },
    plan_unique_v1: { ...unique, index_name: `'${plain.index}'` },
    undo_merge_rows_v1: { archive: is('archive'), run },
    undo_unique_v1: { archive: is('archive'), run },
};

/** The text of a call of `name`, with these arguments beside or instead of those above. */
export const call = (name: string, given: Record<string, string> = {}): string =>
    `select * from ensure.${name}(${Object.entries({ ...calls[name], ...given }).map(([argument, value]) => `${argument} => ${value}`).join(', ')})`;

/** Arguments that are SQL by declaration: what the caller may write there the caller may run as a query. Nothing else is. */
export const declaredSql: Record<string, string> = {
    'check_duplicates_v1.columns': 'an element is a column or an expression, as of an index',
    'check_duplicates_v1.predicate': 'the predicate of an index',
    'check_duplicates_v1.keep': 'an ORDER BY list',
    'ensure_unique_v1.columns': 'an element is a column or an expression, as of an index',
    'ensure_unique_v1.predicate': 'the predicate of an index',
    'ensure_unique_v1.keep': 'an ORDER BY list',
    'ensure_unique_v1.loser_set': 'the SET list of an UPDATE',
    'plan_unique_v1.columns': 'an element is a column or an expression, as of an index',
    'plan_unique_v1.predicate': 'the predicate of an index',
    'plan_unique_v1.keep': 'an ORDER BY list',
    'plan_unique_v1.loser_set': 'the SET list of an UPDATE',
    'ensure_only_v1.among': 'a condition on a row',
    'ensure_only_v1.demote': 'the SET list of an UPDATE',
    'ensure_only_v1.promote': 'the SET list of an UPDATE',
    'ensure_row_v1.revive': 'a condition on a row',
};
