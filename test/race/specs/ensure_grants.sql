-- race: setup
create role race_reader
-- race: setup
create role race_writer
-- race: setup
create table t (id int)
-- race: teardown
drop table t
-- race: teardown
drop owned by race_reader
-- race: teardown
drop owned by race_writer
-- race: teardown
drop role race_reader
-- race: teardown
drop role race_writer
-- race: session a
select * from ensure.ensure_grants_v1('race_reader', '{read}', '{public}', max_wait => '1 min')
-- race: session b
select * from ensure.ensure_grants_v1('race_writer', '{read, write}', '{public}', max_wait => '1 min')
-- race: invariant the reader reads
select has_table_privilege('race_reader', 't', 'select') and not has_table_privilege('race_reader', 't', 'insert')
-- race: invariant the writer writes
select has_table_privilege('race_writer', 't', 'insert')
