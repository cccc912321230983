-- race: teardown
drop role if exists race_app
-- race: session a
select * from ensure.ensure_role_v1('race_app', login => true, connection_limit => 5, max_wait => '1 min')
-- race: session b
select * from ensure.ensure_role_v1('race_app', login => true, connection_limit => 5, max_wait => '1 min')
-- race: invariant one role
select count(*) = 1 from pg_roles where rolname = 'race_app' and rolconnlimit = 5
