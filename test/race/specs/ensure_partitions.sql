-- race: teardown
drop table if exists events
-- race: setup
create table events (id bigint not null, at timestamptz not null) partition by range (id)
-- race: session a
-- race: step begin
begin
-- race: step ensure
select * from ensure.ensure_partitions_v1('events', '1000', 1, 1500, max_wait => '1 min')
-- race: step insert
insert into events values (1500, now())
-- race: step commit
commit
-- race: session b
-- race: step ensure
select * from ensure.ensure_partitions_v1('events', '1000', 1, 2500, max_wait => '1 min')
-- race: step insert
insert into events values (1501, now())
-- race: invariant three partitions
select count(*) = 3 from pg_inherits where inhparent = 'events'::regclass
-- race: invariant both rows
select count(*) = 2 from events
