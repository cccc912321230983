-- race: teardown
drop table if exists users
-- race: setup
create table users (id bigint generated always as identity primary key, email text not null unique, name text)
-- race: session a
-- race: step begin
begin
-- race: step ensure
select * from ensure.ensure_row_v1('users', '{"email": "a@x", "name": "A"}', '{email}')
-- race: step commit
commit
-- race: session b
select * from ensure.ensure_row_v1('users', '{"email": "a@x", "name": "B"}', '{email}')
-- race: invariant one row
select count(*) = 1 from users
