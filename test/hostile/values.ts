import format from 'pg-format';
import { plain } from './scenarios.js';

const text = ['', ' ', '0', '-1', '1.5', '1e400', 'NaN', 'infinity', '-infinity', '9223372036854775808', '1_000', ' 10 ', '1 mon 1 day', '1 day', '-1 day', '1 mon -1 day',
    '0 days', '1 mon', '1 ms', '178000000 years', 'null', 'UTC', 'no/zone', '2001-02-03', '0044-03-15 BC', '294277-01-01', '😀', 'x'.repeat(10_000), '\n', '1e-400', '٣', '{}', 'x', '()'];

const documents = ['null', '1', '"x"', 'true', '[]', '{}', '[[]]', '[null]', '[1]', '{"": 1}', '{"a_id": null}', '{"a_id": {"a": [1]}}', '{"a_id": 1e400}', '{"a_id": 1.5}',
    '{"a_id": "x"}', '{"a_id": 99999999999}', '{"a_id": "infinity"}', '{"a_id": 1, "a_name": "😀\\n\\\\\\""}', '{"a_id": 4, "a_name": null}', '{"a_id": 4, "a_flag": "perhaps"}',
    '{"a_id": 4, "ctid": "(0,1)"}', '{"a_id": 4, "tableoid": 1}', '[{"a_id": 4}, {"a_id": 4}]', '[{"a_id": 4, "a_name": "0044-03-15 BC"}]', '{"a_id": true}', '{"roles": 1}', '{"roles": [1]}',
    '{"roles": [{}]}', '{"owners": [{}]}', '{"grants": [{}]}', '{"roles": [{"role_name": ""}]}', '{"roles": [{"role_name": "x", "login": "perhaps"}]}', '{"other": []}',
    '{"roles": [{"role_name": "x", "connection_limit": 1e9}]}', '{"roles": [{"role_name": "x", "connection_limit": -2}]}', '{"roles": [{"role_name": "x", "valid_until": "never"}]}',
    '{"roles": [{"role_name": "x", "settings": {"no setting": 1}}]}', '{"roles": [{"role_name": "x", "settings": {"work_mem": "lots"}}]}', '{"roles": [{"role_name": "x", "settings": []}]}',
    '{"grants": [{"grantee": "a_role", "access": ["everything"], "schemas": ["a_schema"]}]}', '{"grants": [{"grantee": "a_role", "access": [[]], "schemas": [null]}]}',
    '{"list": "x"}', '[{"list": {"a": 1}}]', '[{"range": "x", "step": "10", "key": "a_id"}]', '[{"range": 1e30, "step": "10", "key": "a_id"}]', '[{"list": "x"}, {"range": 7, "step": "0", "key": "a_id"}]',
    '[{"list": "x"}, {"range": 7, "step": "10", "key": "a_id", "ahead": -1}]', '[{"list": "x"}, {"range": 7, "step": "10", "key": "nope"}]', '[{"hash": 0}]', '{"a_role": -1}', '{"a_role": 1e30}',
    '{"a_role": {"pool": 1e300, "replicas": 1e300}}', '{"a_name": "sum"}', '{"a_id": "max"}', `${'['.repeat(500)}${']'.repeat(500)}`, '{"x": 1, "X": 2}', '1e99999'];

const arrays = ['{}', '{null}', '{""}', '{a_id,a_id}', '{{a_id,a_name},{a_flag,a_id}}', '[0:1]={a_id,a_name}', '{a_schema}', '{a_schema,a_schema}', '{pg_catalog}', '{ensure}', '{no_such}', '{😀}', '{ctid}', '{a_heir,a_role}', '{a_id,a_name,a_flag}'];

const relations = ['a_schema.a_table', 'a_schema.a_child', 'a_schema.a_range', 'a_schema.a_list', 'a_schema.a_hash', 'a_schema.a_archive', 'a_schema.a_view', 'a_schema.a_matview', 'a_schema.a_sequence', 'a_schema.a_constraint',
    'a_schema.a_type', 'a_schema.a_foreign', 'a_temporary', 'pg_class', 'pg_authid', 'information_schema.tables', '-', '999999999'];

const quoted = (values: string[]): string[] => ['null', ...values.map((value) => format.literal(value.replaceAll('a_role', plain.role).replaceAll('a_heir', plain.heir)))];

/** Objects that a table is mistaken for. */
export const lookalikes = `create view a_schema.a_view as select * from a_schema.a_table; create materialized view a_schema.a_matview as select 1 as a_id;
    create sequence a_schema.a_sequence; create type a_schema.a_type as (a_id int); create temp table a_temporary (a_id int primary key, a_name text);
    create foreign data wrapper a_wrapper; create server a_server foreign data wrapper a_wrapper; create foreign table a_schema.a_foreign (a_id int, a_name text) server a_server`;

/** Values of a type that make trouble, as SQL. */
export function hostileValues(type: string): string[] {
    switch (type) {
        case 'text': return quoted(text);
        case 'name': return quoted(['', ' ', 'a_heir', 'a_role', 'pg_monitor', 'public', 'none', 'postgres', 'no such', '😀', 'x'.repeat(100), 'a_table', 'current_user']);
        case 'jsonb': return quoted(documents);
        case 'text[]': case 'name[]': return quoted([...arrays, '{read,none}', '{read,read}']).map((value) => `${value}::${type}`);
        case 'regclass': return quoted(relations);
        case 'regclass[]': return quoted(['{}', '{null}', '{pg_class}', '{a_schema.a_table,a_schema.a_table}', '{{a_schema.a_list},{a_schema.a_range}}', '{a_schema.a_list,a_schema.a_range}', '{999999999}', '{a_schema.a_view}',
            '[0:0]={a_schema.a_list}']).map((value) => `${value}::regclass[]`);
        case 'regprocedure[]': return quoted(['{}', '{null}', '{999999999}', '{{now(),now()}}', '{now()}']).map((value) => `${value}::regprocedure[]`);
        case 'interval': return ['null', ...['0', '-1 s', '1 us', '1 mon -30 days', '178000000 years', '-178000000 years', '300 ms'].map((value) => `interval '${value}'`)];
        case 'integer': return ['null', '0', '-1', '1', '2147483647', '-2147483648', '1001'];
        case 'boolean': return ['null', 'true', 'false'];
        case 'uuid': return ['null', "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"];
        case 'timestamp with time zone': return ['null', "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'epoch'"];
        case 'anycompatible': return ['null', '0', '-2147483648', '2147483647', "'9223372036854775808'", "'-1'", "''", "'x'", "'infinity'", "'2001-01-01'", '1e30', '1.5', 'true', "'{}'"];
        case 'anycompatiblearray': return ["'{}'::text[]", 'null::text[]', 'array[null]', "array['x', 'x', null]", 'array[1, 2]', "array['']", "array[['x', 'y'], ['z', 'w']]", "'[0:1]={x,y}'::text[]", "array['😀', E'\\n']",
            'array(select g::text from generate_series(1, 1001) as g)', "array[now(), 'infinity']", "array['1'::json]", 'array[row(1, 2)]'];
        default: throw new Error(`no values for ${type}`);
    }
}
