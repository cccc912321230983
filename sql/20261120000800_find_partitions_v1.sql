-- migrate:up
create function ensure._partition_names_v1(
    table_name name,
    lower_bound text,
    upper_bound text,
    label text
)
returns name[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _partition_names_v1: the names a partition may get, in order: table_p<label>, and one with a hash of its bounds.
--
-- Returns  the first only where it fits; the second cut by bytes, on a character boundary, where it does not
with suffix (plain, hashed) as (
    select format('_p%s', label),
           format('_p%s_%s', label,
                  encode(substring(sha256(convert_to(concat_ws('|', table_name, lower_bound, upper_bound),
                                                     current_setting('server_encoding'))) for 4), 'hex'))
)
select array_remove(array[
           case when octet_length(table_name::text) + octet_length(s.plain) <= 63
                then concat(table_name, s.plain)::name end,
           concat((select left(table_name::text, n.chars)
                   from generate_series(char_length(table_name::text), 0, -1) as n (chars)
                   where octet_length(left(table_name::text, n.chars)) + octet_length(s.hashed) <= 63
                   limit 1), s.hashed)::name
       ], null)
from suffix as s
$fn$;

comment on function ensure._partition_names_v1(name, text, text, text) is
    'The names a partition may get, in order: table_p<label>, and one with a hash of its bounds.';

create function ensure._bounds_v1(
    bound text
)
returns text[]
language sql
immutable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _bounds_v1: lower and upper bound out of FOR VALUES FROM (a) TO (b); null for a default partition.
select regexp_match(bound, '^FOR VALUES FROM \(''?([^'']*)''?\) TO \(''?([^'']*)''?\)$')
$fn$;

comment on function ensure._bounds_v1(text) is
    'Lower and upper bound out of FOR VALUES FROM (a) TO (b); null for a default partition.';

create function ensure._bound_rank_v1(
    bound text,
    key_type regtype
)
returns numeric
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _bound_rank_v1: a number that orders the bounds of one key type.
select case
           when bound in ('MINVALUE', '-infinity') then '-Infinity'::numeric
           when bound in ('MAXVALUE', 'infinity') then 'Infinity'::numeric
           when key_type = 'date'::regtype then (bound::date - '2000-01-01'::date)::numeric
           when key_type = 'timestamp'::regtype then extract(epoch from bound::timestamp)
           when key_type = 'timestamptz'::regtype then extract(epoch from bound::timestamptz)
           else bound::numeric
       end
$fn$;

comment on function ensure._bound_rank_v1(text, regtype) is
    'A number that orders the bounds of one key type.';

create function ensure._find_partitions_v1(
    parent regclass,
    schema_name name,
    table_name name,
    lower_bounds text[],
    upper_bounds text[],
    labels text[]
)
returns oid[]
language sql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _find_partitions_v1: for each cell the partition of parent with its derived name and exactly its bounds, or null.
--
-- Locks    none beyond catalog reads, whose cost does not grow with the number of partitions
-- Races    an old snapshot shows rows as they were: a row counts only while xmax says that nothing replaced it
select array_agg((
           select c.oid
           from unnest(ensure._partition_names_v1(table_name, w.lower_bound, w.upper_bound, w.label)) as n (name)
           join pg_class as c on c.relname = n.name and c.relnamespace = s.oid
           join pg_inherits as i on i.inhrelid = c.oid and i.inhparent = parent
           where not i.inhdetachpending
             and array[w.lower_bound, w.upper_bound] = ensure._bounds_v1(pg_get_expr(c.relpartbound, 0))
             and (current_setting('transaction_isolation') not in ('repeatable read', 'serializable')
                  or (c.xmax::text = '0' and i.xmax::text = '0'))
           limit 1
       ) order by w.cell)
from unnest(lower_bounds, upper_bounds, labels) with ordinality as w (lower_bound, upper_bound, label, cell)
cross join (select n.oid from pg_namespace as n where n.nspname = schema_name) as s
$fn$;

comment on function ensure._find_partitions_v1(regclass, name, name, text[], text[], text[]) is
    'For each cell the partition of parent with its derived name and exactly its bounds, or null.';

-- migrate:down
drop function ensure._bound_rank_v1(text, regtype);
drop function ensure._bounds_v1(text);
drop function ensure._find_partitions_v1(regclass, name, name, text[], text[], text[]);
drop function ensure._partition_names_v1(name, text, text, text);
