-- A role for `status` and for monitoring, once the program has started: one function, no table.
--   psql -d app -v password=… -f postgres-monitor.sql
-- Other names: -v role=… -v schema=…
\set ON_ERROR_STOP on
\if :{?role} \else \set role etcd_monitor
\endif
\if :{?schema} \else \set schema etcd_sync
\endif
begin;
create role :"role" login password :'password';
grant usage on schema :"schema" to :"role";
grant execute on function :"schema".etcd_sync_status() to :"role";
commit;
