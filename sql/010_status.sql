-- What `status` shows of PostgreSQL's side, as one value: for the program, and for a monitoring role that has this function and
-- nothing else. Each part costs the same whatever the tables hold: what could be long is counted up to a bound, and is then an
-- estimate that says so.

-- Instances show themselves by a shared advisory lock, as long as their session lives (lib/flow/lead.ts).
create function etcd_status_instances() returns jsonb
language sql stable set search_path from current as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'pid', l.pid,
    'leader', l.pid = any (s.holder_pids) and s.holder is not null,
    'address', host(a.client_addr),
    'port', nullif(a.client_port, -1),
    'application', a.application_name,
    'since', a.backend_start,
    'last_heard', greatest(a.query_start, a.state_change)
  ) order by l.pid = any (s.holder_pids) desc, a.backend_start), '[]')
  from etcd_sync_state s
  join pg_locks l on l.locktype = 'advisory' and l.objsubid = 2 and l.granted
    and l.classid = hashtext('etcd-pg-sync instance')::oid and l.objid = hashtext(s.stream_id::text)::oid
    and l.database = (select d.oid from pg_database d where d.datname = current_database())
  left join pg_stat_activity a on a.pid = l.pid
$$;

-- Sessions of others that the program's sessions wait for.
create function etcd_status_blockers() returns jsonb
language sql stable set search_path from current as $$
  select coalesce(jsonb_agg(distinct jsonb_build_object(
    'pid', b.pid, 'user', b.usename, 'application', b.application_name, 'transaction_since', b.xact_start
  )), '[]')
  from pg_stat_activity a
  cross join unnest(pg_blocking_pids(a.pid)) as by(pid)
  join pg_stat_activity b on b.pid = by.pid
  where a.wait_event_type = 'Lock' and a.application_name like 'etcd-pg-sync%' and a.datname = current_database()
    and coalesce(b.application_name, '') not like 'etcd-pg-sync%'
$$;

create function etcd_status_wal() returns jsonb
language plpgsql stable set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
  most constant bigint := 10000;
  gate etcd_sync_gate := (select g from etcd_sync_gate g);
  last bigint := coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0);
  oldest etcd_wal_tx;
  first record;
  pending bigint;
  settled jsonb;
begin
  select * into oldest from etcd_wal_tx t order by t.seq limit 1;
  select w.id, w.key into first from etcd_wal w
  where w.txid = oldest.txid and w.ts = oldest.ts and w.status = 'pending' limit 1;
  pending := (select count(*) from (select from etcd_wal_tx t limit most + 1) few);
  if pending <= most then
    pending := (select count(*) from (
      select from etcd_wal_tx t join etcd_wal w on w.txid = t.txid and w.ts = t.ts
      where w.status = 'pending' limit most + 1) few);
  end if;
  if pg_relation_size('etcd_wal') <= 8 * 1024 * 1024 then
    settled := (select coalesce(jsonb_object_agg(c.status, c.rows), '{}')
      from (select w.status, count(*) as rows from etcd_wal w group by w.status) c);
  end if;
  return jsonb_build_object(
    -- at most: tickets that were drawn since
    'pending', case when pending > most then last - least(oldest.first_id, oldest.seq) + 1 else pending end,
    'pending_is_estimate', pending > most,
    'settled', settled - 'pending',
    'rows_estimate', (select nullif(c.reltuples, -1)::bigint from pg_class c where c.oid = 'etcd_wal'::regclass),
    'oldest', case when oldest.seq is not null then jsonb_build_object(
      'ticket', coalesce(first.id, oldest.first_id), 'key', first.key, 'since', oldest.ts) end,
    'limit', gate.wal_limit,
    'full', gate.wal_limit is not null and gate.refuse_after <= last);
end $$;

-- Transactions that were not applied: the newest thousand of each kind, and what has become of each since.
create function etcd_status_losses() returns jsonb
language sql stable set search_path from current as $$
  with loss as (
    select distinct on (e.kind, e.detail ->> 'wal_id') e.id, e.kind, e.key, e.revision, e.ts,
      (e.detail ->> 'wal_id')::bigint as ticket, (e.detail ->> 'rows')::bigint as rows, e.detail ->> 'message' as message,
      w.status in ('conflict', 'failed') as open
    from (values ('conflict'), ('failed')) k(kind)
    cross join lateral (select * from etcd_sync_event e where e.kind = k.kind order by e.id desc limit 1000) e
    left join etcd_wal w on w.id = (e.detail ->> 'wal_id')::bigint
    order by e.kind, e.detail ->> 'wal_id', e.id desc
  )
  select jsonb_build_object(
    'conflicts_last_day', count(*) filter (where kind = 'conflict' and ts > now() - interval '1 day'),
    'failures_last_day', count(*) filter (where kind = 'failed' and ts > now() - interval '1 day'),
    'open_conflicts', count(*) filter (where kind = 'conflict' and open),
    'open_failures', count(*) filter (where kind = 'failed' and open),
    'newest', coalesce((
      select jsonb_agg(jsonb_build_object('kind', n.kind, 'ticket', n.ticket, 'key', n.key, 'rows', n.rows,
        'revision', n.revision, 'at', n.ts, 'open', coalesce(n.open, false), 'message', n.message) order by n.id desc)
      from (select * from loss order by id desc limit 10) n), '[]'))
  from loss
$$;

-- Events of the last day that somebody should know of: how many of each kind, and the newest.
create function etcd_status_events() returns jsonb
language sql stable set search_path from current as $$
  select coalesce(jsonb_object_agg(k.kind, jsonb_build_object('count', e.count, 'at', e.ts, 'detail', e.detail)), '{}')
  from (values ('leader'), ('history-replaced'), ('commits-lost'), ('marker-gone'), ('key-skipped'), ('scan-started')) k(kind)
  cross join lateral (
    select count(*), max(n.ts) as ts, (array_agg(n.detail order by n.id desc))[1] as detail
    from (select * from etcd_sync_event e where e.kind = k.kind order by e.id desc limit 1000) n
    where n.ts > now() - interval '1 day'
  ) e
  where e.count > 0
$$;

-- Without the size of a table that somebody has locked: to tell it would be to wait.
create function etcd_status_tables() returns jsonb
language sql stable set search_path from current as $$
  select jsonb_object_agg(c.relname, jsonb_build_object(
    'bytes', case when not exists (select from pg_locks l
      where l.relation = c.oid and l.mode = 'AccessExclusiveLock' and l.granted) then pg_total_relation_size(c.oid) end,
    'rows_estimate', nullif(c.reltuples, -1)::bigint))
  from pg_class c
  where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = current_schema())
    and c.relname in ('etcd_kv', 'etcd_archive', 'etcd_wal', 'etcd_wal_tx', 'etcd_sync_event')
$$;

create function etcd_status_retention() returns jsonb
language sql stable set search_path from current as $$
  select jsonb_build_object(
    'keeper', exists (select from pg_locks l where l.locktype = 'advisory' and l.objsubid = 2 and l.granted
      and l.classid = hashtext('etcd-pg-sync keep')::oid and l.objid = hashtext(s.stream_id::text)::oid
      and l.database = (select d.oid from pg_database d where d.datname = current_database())),
    'history_from', s.history_from,
    'retained_timeline', s.retained_timeline,
    'retained_revision', s.retained_revision,
    'newest_mark', (select m.ts from etcd_sync_mark m order by m.number desc limit 1),
    'passed_mark', (select m.ts from etcd_sync_mark m where m.passed order by m.number desc limit 1),
    'oldest_mark', (select m.ts from etcd_sync_mark m order by m.number limit 1),
    'oldest_transaction', (
      select jsonb_build_object('pid', a.pid, 'user', a.usename, 'application', a.application_name, 'state', a.state,
        'since', a.xact_start)
      from pg_stat_activity a
      where a.xact_start is not null and a.datname = current_database() and a.backend_type = 'client backend'
        and a.pid <> pg_backend_pid()
      order by a.xact_start limit 1))
  from etcd_sync_state s
$$;

-- The state's beginning: the event that tells of it. Null where retention has taken it.
create function etcd_status_change(_state text) returns jsonb
language sql stable set search_path from current as $$
  select jsonb_build_object('since', e.ts, 'event', e.kind, 'why', e.detail ->> 'outcome')
  from (select unnest(case when _state in ('streaming', 'draining') then array['caught-up'] else array['scan-started', 'history-replaced'] end) as kind) k
  cross join lateral (select * from etcd_sync_event e where e.kind = k.kind order by e.id desc limit 1) e
  order by e.id desc limit 1
$$;

create function etcd_sync_status() returns jsonb
language plpgsql stable security definer set search_path from current set jit = off set timezone = 'UTC' as $$
declare
  s etcd_sync_state;
begin
  select * into s from etcd_sync_state;
  return jsonb_build_object(
    'schema_version', (select max(m.number) from etcd_sync_migration m),
    'now', clock_timestamp(),
    'stream', case when s.stream is not null then jsonb_build_object(
      'name', s.stream, 'prefix', s.prefix, 'one_way', (select g.one_way from etcd_sync_gate g),
      'installed_at', (select m.applied_at from etcd_sync_migration m where m.number = 1),
      'state', s.state, 'change', etcd_status_change(s.state),
      'revision', s.revision, 'timeline', s.timeline, 'cluster_id', s.cluster_id,
      'scan_cursor', etcd_key_text(s.scan_cursor), 'scan_revision', s.scan_revision,
      'fresh_at', s.fresh_at, 'updated_at', s.updated_at) end,
    'leader', case when s.holder is not null then jsonb_build_object(
      'holder', s.holder, 'epoch', s.epoch, 'lease_until', s.lease_until,
      -- null: it has the place, and does not lead yet
      'since', (select case when (e.detail ->> 'epoch')::bigint = s.epoch then e.ts end
        from etcd_sync_event e where e.kind = 'leader' order by e.id desc limit 1)) end,
    'epoch', s.epoch,
    'instances', etcd_status_instances(),
    'blockers', etcd_status_blockers(),
    'paused', (select jsonb_build_object('since', c.paused_at, 'by', c.paused_by, 'reason', c.reason)
      from etcd_sync_control c where c.paused_at is not null),
    'resyncs', coalesce((
      select jsonb_agg(jsonb_build_object('id', r.id, 'prefix', r.prefix, 'asked_at', r.asked_at, 'asked_by', r.asked_by,
        'started_at', r.started_at) order by r.id)
      from etcd_sync_resync r where r.finished_at is null), '[]'),
    'wal', etcd_status_wal(),
    'losses', etcd_status_losses(),
    'events', etcd_status_events(),
    'tables', etcd_status_tables(),
    'verification', (select to_jsonb(v) - 'only_row' from etcd_sync_verify v),
    'retention', etcd_status_retention());
end $$;
comment on function etcd_sync_status() is 'Where the stream stands, as etcd-pg-sync status shows it; for a monitoring role too';

do $$
declare
  f regprocedure;
begin
  for f in select p.oid from pg_proc p where p.pronamespace = (select oid from pg_namespace where nspname = current_schema())
      and (p.proname like 'etcd\_status\_%' or p.proname = 'etcd_sync_status') loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
