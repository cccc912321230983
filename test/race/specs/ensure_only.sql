-- race: teardown
drop table if exists plans
-- race: setup
create table plans (id int generated always as identity primary key, code text unique, is_default boolean not null)
-- race: setup
insert into plans (code, is_default) values ('free', true), ('pro', false)
-- race: session a
-- race: step begin
begin
-- race: step ensure
select * from ensure.ensure_only_v1('plans', '{"code": "pro"}', 'is_default', 'is_default = false', promote => 'is_default = true', max_wait => '1 min')
-- race: step commit
commit
-- race: session b
-- race: step ensure
select * from ensure.ensure_only_v1('plans', '{"code": "free"}', 'is_default', 'is_default = false', promote => 'is_default = true', max_wait => '1 min')
-- race: always one default
select count(*) = 1 from plans where is_default
