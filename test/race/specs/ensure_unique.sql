-- race: teardown
drop table if exists users
-- race: setup
create table users (id bigint generated always as identity primary key, email text not null)
-- race: setup
insert into users (email) values ('a@x'), ('b@x')
-- race: session a
-- race: step begin
begin
-- race: step ensure
select * from ensure.ensure_unique_v1('users', '{email}', max_wait => '1 min')
-- race: step insert
insert into users (email) values ('c@x')
-- race: step commit
commit
-- race: session b
-- race: step ensure
select * from ensure.ensure_unique_v1('users', '{email}', max_wait => '1 min')
-- race: invariant one valid index
select count(*) = 1 from pg_index where indrelid = 'users'::regclass and not indisprimary and indisunique and indisvalid
-- race: invariant no row is lost
select count(*) = 3 from users
