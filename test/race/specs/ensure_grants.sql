-- race: setup
create role race_reader
-- race: setup
create role race_writer
-- race: setup
create schema raced
-- race: setup
create table raced.t (id int)
-- race: teardown
drop schema raced cascade
-- race: teardown
drop role race_reader
-- race: teardown
drop role race_writer
-- race: session a
select * from ensure.ensure_grants_v1('race_reader', '{read}', '{raced}', max_wait => '1 min')
-- race: session b
select * from ensure.ensure_grants_v1('race_writer', '{read, write}', '{raced}', max_wait => '1 min')
-- race: invariant the reader reads
select has_table_privilege('race_reader', 'raced.t', 'select') and not has_table_privilege('race_reader', 'raced.t', 'insert')
-- race: invariant the writer writes
select has_table_privilege('race_writer', 'raced.t', 'insert')
