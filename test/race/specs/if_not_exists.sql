-- Two sessions create the same table with IF NOT EXISTS: the second waits, then fails.
-- race: teardown
drop table if exists t
-- race: session a
-- race: step begin
begin
-- race: step create
create table if not exists t (id int)
-- race: step commit
commit
-- race: session b
-- race: step create
create table if not exists t (id int)
-- race: invariant the table is there
select to_regclass('t') is not null
