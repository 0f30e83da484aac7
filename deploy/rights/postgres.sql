-- The role of the program, a schema of its own, and nothing more. As a superuser, in the database of the stream:
--   psql -d app -v password=… -f postgres.sql
-- Then start with `--schema etcd_sync`. Other names: -v role=… -v schema=…
\set ON_ERROR_STOP on
\if :{?role} \else \set role etcd_pg_sync
\endif
\if :{?schema} \else \set schema etcd_sync
\endif
begin;
create role :"role" login password :'password';
create schema :"schema" authorization :"role";
-- to see whose locks hold the mirror up
grant pg_read_all_stats to :"role";
commit;
