/** One object of every kind that has an owner, in schema a, and what refers to a of theirs. */
export const everything = `
    create schema a;
    create table a.t (id serial primary key, i int generated always as identity, n text);
    create table a."Odd ""Name" (id bigserial);
    create table a.p (id int, n text) partition by list (id);
    create table a.p1 partition of a.p for values in (1) partition by list (n);
    create table a.p11 partition of a.p1 default;
    create view a.v as select * from a.t;
    create materialized view a.m as select * from a.t;
    create index on a.m (id);
    create sequence a.s;
    create function a.f(int, variadic text[]) returns int language sql as 'select 1';
    create procedure a.pr(int) language sql as 'select 1';
    create procedure a.pr(out x int) language sql as 'select 1';
    create aggregate a.ag(int) (sfunc = int4pl, stype = int);
    create aggregate a.star(*) (sfunc = int8inc, stype = int8, initcond = '0');
    create aggregate a.os(float8 order by anyelement)
        (sfunc = ordered_set_transition, stype = internal, finalfunc = percentile_disc_final, finalfunc_extra);
    create type a.comp as (x int);
    create type a.e as enum ('q');
    create type a.r as range (subtype = float8);
    create domain a.d as int check (value > 0);
    create type a.base;
    create function a.base_in(cstring) returns a.base language internal immutable strict as 'int4in';
    create function a.base_out(a.base) returns cstring language internal immutable strict as 'int4out';
    create type a.base (input = a.base_in, output = a.base_out, like = int4);
    create statistics a.st on id, n from a.t;
    create collation a.c from "C";
    create conversion a.conv for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
    create operator a.=== (leftarg = int, rightarg = int, function = int4eq);
    create operator a.!!! (rightarg = int, function = int4um);
    create operator family a.fam using btree;
    create operator class a.oc for type int4 using btree as operator 1 <, function 1 btint4cmp(int, int);
    create text search dictionary a.dict (template = pg_catalog.simple);
    create text search configuration a.cfg (copy = pg_catalog.simple);
    create foreign data wrapper w;
    create server srv foreign data wrapper w;
    create foreign table a.ft (id int) server srv`;

/** Whatever in these schemas role does not own, by pg_shdepend and so by PostgreSQL's own books. */
export const strangers = (schemas: string, role: string): string => `
    select i.type, i.identity
    from pg_shdepend as s
    cross join pg_identify_object(s.classid, s.objid, s.objsubid) as i
    where s.dbid = (select oid from pg_database where datname = current_database()) and s.deptype = 'o'
      and coalesce(i.schema, i.name) = any ('${schemas}') and s.refobjid <> '"${role}"'::regrole
    order by 1, 2`;

/** Who owns what there, and when that was written; the superuser who installed has no rows in pg_shdepend. Constructors of ranges stay a superuser's. */
export const owners = `
    select c.oid::regclass::text as name, pg_get_userbyid(c.relowner) as owner, c.xmin::text as written from pg_class as c
    where c.relnamespace = 'a'::regnamespace
    union all
    select p.oid::regprocedure::text, pg_get_userbyid(p.proowner), p.xmin::text from pg_proc as p where p.pronamespace = 'a'::regnamespace
        and not exists (select from pg_depend as d where d.objid = p.oid and d.refclassid = 'pg_type'::regclass and d.deptype = 'i')
    union all
    select t.oid::regtype::text, pg_get_userbyid(t.typowner), t.xmin::text from pg_type as t where t.typnamespace = 'a'::regnamespace
    union all
    select n.nspname, pg_get_userbyid(n.nspowner), n.xmin::text from pg_namespace as n where n.nspname = 'a'
    order by 1`;
