-- What operators ask of the instance that works: to pause, and to compare again. It hears of it by NOTIFY, and looks with
-- each renewal of its lease (lib/control.ts).

create table etcd_sync_control (
  only_row boolean primary key default true check (only_row),
  paused_at timestamptz,                 -- null: not paused
  paused_by text,
  reason text
);
insert into etcd_sync_control default values;
comment on table etcd_sync_control is 'Whether the stream is paused, since when and by whom';

create table etcd_sync_resync (
  id bigint generated always as identity primary key,
  prefix text collate "C" not null,      -- in the codec's form
  asked_at timestamptz not null default clock_timestamp(),
  asked_by text not null,
  started_at timestamptz,
  finished_at timestamptz,
  result jsonb,                          -- what was compared and repaired
  error text                             -- why it was given up
);
comment on table etcd_sync_resync is 'Requests to compare keys with etcd again, and to repair what differs';

create function etcd_control_changed(_kind text, _detail jsonb) returns void
language sql set search_path from current as $$
  insert into etcd_sync_event (kind, timeline, revision, detail)
  select _kind, s.timeline, s.revision, _detail || jsonb_build_object('by', session_user) from etcd_sync_state s;
  select pg_notify('etcd_sync_control', current_schema());
$$;

create function etcd_pause(reason text default null) returns boolean
language plpgsql security definer set search_path from current as $$
#variable_conflict use_column
begin
  update etcd_sync_control set paused_at = clock_timestamp(), paused_by = session_user, reason = etcd_pause.reason
  where paused_at is null;
  if found then
    perform etcd_control_changed('paused', jsonb_strip_nulls(jsonb_build_object('reason', etcd_pause.reason)));
  end if;
  return found;
end $$;
comment on function etcd_pause(text) is 'Stops the mirror and the drain until etcd_resume(), also over restarts; false: they were stopped';

create function etcd_resume() returns boolean
language plpgsql security definer set search_path from current as $$
declare
  since timestamptz;
begin
  select c.paused_at into since from etcd_sync_control c for update;
  if since is null then
    return false;
  end if;
  update etcd_sync_control set paused_at = null, paused_by = null, reason = null;
  perform etcd_control_changed('resumed', jsonb_build_object('since', since));
  return true;
end $$;
comment on function etcd_resume() is 'Ends a pause; false: there was none';

create function etcd_resync(prefix text default null) returns bigint
language plpgsql security definer set search_path from current as $$
#variable_conflict use_column
declare
  gate etcd_sync_gate;
  wanted text;
  asked bigint;
begin
  select * into gate from etcd_sync_gate;
  if not found then
    raise exception using errcode = 'ZE004', message = 'Cannot resync: this stream has never been started';
  end if;
  wanted := coalesce(etcd_resync.prefix, etcd_key_text(gate.prefix));
  if substring(etcd_key_bytes(wanted) for octet_length(gate.prefix)) <> gate.prefix then
    raise exception using errcode = 'ZE001',
      message = format('Cannot resync prefix %L: this stream mirrors prefix %L', wanted, etcd_key_text(gate.prefix));
  end if;
  insert into etcd_sync_resync (prefix, asked_by) values (wanted, session_user) returning id into asked;
  delete from etcd_sync_resync where finished_at is not null and id <= asked - 100;
  perform etcd_control_changed('resync-asked', jsonb_build_object('id', asked, 'prefix', wanted));
  return asked;
end $$;
comment on function etcd_resync(text) is 'Has all keys with the prefix (null: all keys) compared with etcd, and what differs repaired; the id of the request in etcd_sync_resync';

do $$
declare
  f regprocedure;
begin
  for f in select p.oid from pg_proc p where p.pronamespace = (select oid from pg_namespace where nspname = current_schema())
      and p.proname in ('etcd_control_changed', 'etcd_pause', 'etcd_resume', 'etcd_resync') loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
