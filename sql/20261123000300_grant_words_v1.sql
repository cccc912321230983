-- migrate:up
create function ensure._grant_words_v1()
returns table (word text, kinds text[], privileges text[])
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _grant_words_v1: the privileges that each word of access stands for, on each kind of object.
select w.word, w.kinds::text[], w.privileges::text[]
from (values
    ('usage', '{schema}', '{USAGE}'),
    ('read', '{schema}', '{USAGE}'),
    ('read', '{table,partitioned table,view,materialized view,foreign table,sequence}', '{SELECT}'),
    ('write', '{schema}', '{USAGE}'),
    ('write', '{table,partitioned table,view,foreign table}', '{INSERT,UPDATE,DELETE}'),
    ('write', '{sequence}', '{USAGE}'),
    ('truncate', '{schema}', '{USAGE}'),
    ('truncate', '{table,partitioned table,foreign table}', '{TRUNCATE}'),
    ('references', '{schema}', '{USAGE}'),
    ('references', '{table,partitioned table}', '{REFERENCES}'),
    ('trigger', '{schema}', '{USAGE}'),
    ('trigger', '{table,partitioned table,view,foreign table}', '{TRIGGER}'),
    ('maintain', '{schema}', '{USAGE}'),
    ('maintain', '{table,partitioned table,materialized view}', '{MAINTAIN}'),
    ('execute', '{schema}', '{USAGE}'),
    ('execute', '{routine}', '{EXECUTE}'),
    ('types', '{schema}', '{USAGE}'),
    ('types', '{type}', '{USAGE}'),
    ('create', '{schema}', '{CREATE}'),
    ('create_schema', '{database}', '{CREATE}'),
    ('connect', '{database}', '{CONNECT}'),
    ('temporary', '{database}', '{TEMPORARY}')
) as w (word, kinds, privileges)
$fn$;

comment on function ensure._grant_words_v1() is
    'The privileges that each word of access stands for, on each kind of object.';

create function ensure._grant_kinds_v1()
returns table (kind text, place integer, class text, future text)
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _grant_kinds_v1: the kinds of objects, in their order, with the words that GRANT has for them.
--
-- Returns  class: after ON; future: the same in ALTER DEFAULT PRIVILEGES
values ('database', 1, 'database', null),
       ('schema', 2, 'schema', null),
       ('table', 3, 'table', 'tables'),
       ('partitioned table', 4, 'table', 'tables'),
       ('view', 5, 'table', 'tables'),
       ('materialized view', 6, 'table', 'tables'),
       ('foreign table', 7, 'table', 'tables'),
       ('sequence', 8, 'sequence', 'sequences'),
       ('routine', 9, 'routine', 'functions'),
       ('type', 10, 'type', 'types')
$fn$;

comment on function ensure._grant_kinds_v1() is
    'The kinds of objects, in their order, with the words that GRANT has for them.';

create function ensure._inherit_remedy_v1(
    target oid
)
returns text
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _inherit_remedy_v1: the statement after which this role has the privileges of the role target.
--
-- Returns  null when target is a superuser, whose rights are nothing to give away
select case when r.rolsuper then null
            when current_setting('server_version_num')::integer >= 160000
                then format('grant %I to %I with inherit true', r.rolname, current_user)
            when pg_has_role(r.oid, 'MEMBER') then format('alter role %I inherit', current_user)
            else format('grant %I to %I', r.rolname, current_user) end
from pg_roles as r
where r.oid = target
$fn$;

comment on function ensure._inherit_remedy_v1(oid) is
    'The statement after which this role has the privileges of the role target.';

-- migrate:down
drop function ensure._inherit_remedy_v1(oid);
drop function ensure._grant_kinds_v1();
drop function ensure._grant_words_v1();
