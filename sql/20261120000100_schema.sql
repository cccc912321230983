-- migrate:up
create schema if not exists ensure; -- dbmate has made it already when its ledger lives here

comment on schema ensure is
    'pg-ensure: schema work that many replicas may do at once. USAGE is the one switch.';

-- migrate:down
select 1; -- the schema holds dbmate's ledger and stays
