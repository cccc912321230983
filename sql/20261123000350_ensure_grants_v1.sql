-- migrate:up
create function ensure.ensure_grants_v1(
    grantee name,
    access text[],
    schemas name[],
    creators name[] default '{}',
    mode text default 'add',
    revoke_public boolean default false,
    max_wait interval default '10 s',
    max_block interval default '500 ms'
)
returns table (object text, outcome text)
language sql
volatile
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- ensure_grants_v1: grantee has this access to what the schemas hold and creators will make.
--
-- Returns  each change: 'granted', 'revoked'; without any the grants as 'exists'. What counts is
--          what grantee was granted itself, not what it has by PUBLIC or by a role; an owner has by
--          default all that it has not lost. The words of access are ensure._grant_words_v1.
--          creators: by default privileges in each schema, for what these roles, and nobody else,
--          make there. Mode exact also revokes, in these schemas, what grantee has and is not
--          asked, unless it owns the object: column privileges, grant options and default
--          privileges too, of creators also those that hold in *all* schemas. revoke_public takes
--          all from PUBLIC on the schemas, tables, sequences and routines, what is asked of the
--          database, and default privileges of creators there and in all schemas; EXECUTE on what
--          they make in *any* schema, since no default privilege of one schema takes it. What
--          belongs to an extension is left alone, and so are the objects in schema ensure
-- Errors   0A000  maintain, on a server before 17
--          22004, 22023, 42602, 42939  bad input; a schema of PostgreSQL's own
--          25006, 42501  something differs, and this transaction or role may not change it: DETAIL
--                 says which right is missing or which role granted it, HINT the statement
--          2BP01  grantee has granted on what is to be revoked: DETAIL says to whom, HINT the
--                 statements that take it back
--          3F000, 42704  no such schema or role
--          53200  on 18: more tables than the server's lock table can hold
--          55P03  max_wait was spent waiting for others; DETAIL names who may be in the way
--          NS002  something differs, and the setting ensure.ddl is off
--          NS003  another transaction changes it, and this one has already written
--          NS015  the statements ran and something still differs
-- Locks    none when nothing differs. Else the rows of the catalogs that change, until the
--          transaction ends; on 18 also ACCESS SHARE on each table, behind ACCESS EXCLUSIVE.
--          Callers for one change queue on an advisory lock
-- Races    a second caller waits for the first, then looks again. Under REPEATABLE READ and
--          SERIALIZABLE a privilege on an object that was revoked since the snapshot is granted
--          again, unless PUBLIC or another role gives it; default privileges, and what exact
--          revokes, are those of the snapshot
-- Rights   the owner's, or the privileges WITH GRANT OPTION, and USAGE on the schemas; for
--          creators theirs: from 16 on membership with INHERIT, before that membership
select s.object, s.outcome
from ensure._settle_changes_v1(
    jsonb_build_object('grants', jsonb_build_array(jsonb_build_object(
        'grantee', grantee, 'access', access, 'schemas', schemas, 'creators', creators,
        'mode', mode, 'revoke_public', revoke_public))),
    max_wait, max_block) as s
$fn$;

comment on function ensure.ensure_grants_v1(name, text[], name[], name[], text, boolean, interval,
                                            interval) is
    'Grantee has this access to what the schemas hold and creators will make.';

-- migrate:down
drop function ensure.ensure_grants_v1(name, text[], name[], name[], text, boolean, interval,
                                      interval);
