-- What is kept and for how long, and how much may wait: called by the leader, in small steps (lib/flow/keep.ts).
--
-- A MARK is a checkpoint with its time. By the marks the age of a revision is known, and which rows of the WAL nobody can
-- ask for again.
--
-- The drain walks the settled rows of a key that are newer than what a writer saw (lib/core/txn.ts, walk). So a settled row,
-- applied at revision r, may go once every write that has not seen r is settled itself:
--
--   mark: checkpoint C, snapshot_xmax X,   none of V runs, nor     all tickets up to Q
--   transactions V that run then            an xid below X          are settled: passed
--   ────┬───────────────────────────────────────┬─────────────────────────┬─────────► rows with r ≤ C may go
--       │                                       └ wal_seq = Q
--
-- 1. The mark's snapshot has C. Any transaction with an older snapshot began before the mark, so it is in V (which is read
--    after that snapshot was taken), or it was prepared, then its xid is below X. Whoever writes with a snapshot that has C
--    gets seen_revision ≥ r for every r ≤ C: from the key's row, from its newest archive row, or from the gate's floor where
--    that was removed.
-- 2. Once none of V and no xid below X runs, all that older snapshots have written is committed or gone, and its tickets are
--    drawn: header seq ≤ Q. (A transaction's end is visible before it leaves pg_locks.)
-- 3. Headers go when their transaction is settled, so with no header up to Q none of those writes is left to be walked for.
--
-- It is not enough to look at the pending rows of the key: a writer that has not committed yet is not among them. Nor at the
-- oldest running xid: a REPEATABLE READ transaction that has only read so far has none, and writes later by what it saw long
-- ago. Nor at backend_xmin, which a role sees of its own sessions only. As VACUUM, this waits for old transactions.

alter table etcd_sync_state
  add column retained_timeline bigint not null default 1, -- history before (retained_timeline, retained_revision) may be gone
  add column retained_revision bigint not null default 0;

alter table etcd_sync_gate
  add column refuse_after bigint not null default 9223372036854775807, -- the last ticket that the WAL has room for
  add column wal_limit bigint;           -- of pending rows; null = never

create table etcd_sync_mark (
  number bigint generated always as identity primary key,
  ts timestamptz not null default clock_timestamp(),
  timeline bigint not null,
  revision bigint not null,
  snapshot_xmax xid8 not null,
  waits_for text[] not null,             -- virtualxids
  wal_seq bigint,                        -- once they have ended: the last ticket that was drawn
  passed boolean not null default false
);
comment on table etcd_sync_mark is 'Checkpoints and their times, for retention';

-- The transactions of this database that run; those of another one where it cannot be told.
create function etcd_keep_running() returns text[]
language sql set search_path from current as $$
  select coalesce(array_agg(l.virtualxid), '{}') from pg_locks l left join pg_stat_activity a on a.pid = l.pid
  where l.locktype = 'virtualxid' and l.granted and l.mode = 'ExclusiveLock' and l.pid <> pg_backend_pid()
    and coalesce(a.datname = current_database(), true) and a.backend_type is distinct from 'autovacuum worker'
$$;

-- Makes a mark where the last one is older than _every. One from the future is of a clock that was put back.
create function etcd_keep_mark(_every interval) returns void
language sql set search_path from current as $$
  insert into etcd_sync_mark (timeline, revision, snapshot_xmax, waits_for)
  select s.timeline, s.revision, pg_snapshot_xmax(pg_current_snapshot()), etcd_keep_running()
  from etcd_sync_state s
  where s.state in ('streaming', 'draining')
    and not exists (select from etcd_sync_mark m
      where m.number = (select max(l.number) from etcd_sync_mark l) and m.ts between clock_timestamp() - _every and clock_timestamp())
$$;

-- Every statement has a snapshot of its own (READ COMMITTED), which the proof above wants.
create function etcd_keep_pass() returns void
language plpgsql set search_path from current as $$
declare
  running text[];
  oldest xid8;
begin
  perform pg_stat_clear_snapshot();
  running := etcd_keep_running();
  oldest := pg_snapshot_xmin(pg_current_snapshot());
  update etcd_sync_mark m set wal_seq = coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0), waits_for = '{}'
  where m.wal_seq is null and not m.waits_for && running and m.snapshot_xmax <= oldest;
  update etcd_sync_mark m set passed = true
  where not m.passed and m.wal_seq is not null and not exists (select from etcd_wal_tx t where t.seq <= m.wal_seq);
end $$;

-- Forgets the marks that nobody needs: older than the newest that was passed, and than what _history asks for (null = all).
create function etcd_keep_forget_marks(_history interval) returns void
language sql set search_path from current as $$
  delete from etcd_sync_mark m
  where m.number < (select max(p.number) from etcd_sync_mark p where p.passed)
    and (_history is null
      or m.number < (select max(o.number) from etcd_sync_mark o where o.ts < clock_timestamp() - _history))
$$;

-- One step through the settled rows, from the ticket after _after. _next is null at the end. A success goes after _success, a
-- conflict or a failure, which wait for somebody to decide, after _lost (null = never).
create function etcd_keep_wal(_success interval, _lost interval, _after bigint, _rows integer, out _next bigint, out _removed bigint)
language plpgsql set search_path from current set enable_sort = off set enable_seqscan = off as $$
declare
  mark etcd_sync_mark;
  tx record;
  gone bigint;
  last bigint;
begin
  _removed := 0;
  select * into mark from etcd_sync_mark m where m.passed order by m.number desc limit 1;
  if not found then
    return;
  end if;
  select max(w.id), case when count(*) = _rows then max(w.id) end into last, _next
  from (select r.id from etcd_wal r where r.id > _after and r.id <= mark.wal_seq order by r.id limit _rows) w;

  delete from etcd_wal w
  where w.id > _after and w.id <= last and w.status = 'success' and w.settled_at < clock_timestamp() - _success
    and (w.timeline, w.result_revision) <= (mark.timeline, mark.revision);
  get diagnostics _removed = row_count;

  -- The whole transaction or none of it: half of one must never be retried. In etcd_retry's order, so that one waits for the other.
  for tx in
    select distinct w.txid, w.ts from etcd_wal w
    where w.id > _after and w.id <= last and w.status in ('conflict', 'failed') and w.settled_at < clock_timestamp() - _lost
  loop
    perform from etcd_wal w where w.txid = tx.txid and w.ts = tx.ts and w.status in ('conflict', 'failed') order by w.id for update;
    delete from etcd_wal w where w.txid = tx.txid and w.ts = tx.ts and w.status in ('conflict', 'failed');
    get diagnostics gone = row_count;
    _removed := _removed + gone;
  end loop;
end $$;

-- Moves the beginning of history to the newest mark older than _history. It is committed before a row is removed, so nobody
-- is answered from half a history. Versions that were alive there stay.
--
-- The gate's floor moves with it: seen_revision of an absent key is its newest tombstone (etcd_wal_seen), and where that is
-- gone the floor has to be as high. At 0, say, an own put that is still in the WAL would count as not seen, the drain would
-- follow it, and expect the key that was deleted after it. The mark was a committed checkpoint of a whole mirror, so every
-- snapshot that sees the floor sees that mirror. State row first, gate second, as everywhere.
create function etcd_keep_move_history(_history interval) returns void
language plpgsql set search_path from current as $$
declare
  mark etcd_sync_mark;
begin
  select * into mark from etcd_sync_mark m where m.ts < clock_timestamp() - _history order by m.number desc limit 1;
  update etcd_sync_state s set retained_timeline = mark.timeline, retained_revision = mark.revision,
    history_from = case when s.timeline = mark.timeline then greatest(s.history_from, mark.revision) else s.history_from end
  where (s.retained_timeline, s.retained_revision) < (mark.timeline, mark.revision);
  if found then
    update etcd_sync_gate g set seen_revision = mark.revision where g.timeline = mark.timeline and g.seen_revision < mark.revision;
  end if;
end $$;

-- One step through the archive, as it lies on disk: no index knows the end of a version, and one would cost every event.
create function etcd_keep_archive(_block bigint, _blocks integer, out _next bigint, out _removed bigint)
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  state etcd_sync_state;
begin
  select * into state from etcd_sync_state;
  delete from etcd_archive a
  where a.ctid >= format('(%s,0)', _block)::tid and a.ctid < format('(%s,0)', _block + _blocks)::tid
    and (a.timeline < state.retained_timeline or a.timeline = state.retained_timeline
      and case when a.tombstone then a.revision else a.until_revision end <= state.retained_revision);
  get diagnostics _removed = row_count;
  if (_block + _blocks) * current_setting('block_size')::bigint < pg_relation_size('etcd_archive') then
    _next := _block + _blocks;
  end if;
end $$;

-- The ends of gaps stay as long as the history that they lie in: etcd_at reads them. Both ends go at once.
create function etcd_keep_gaps(_events interval) returns void
language sql set search_path from current as $$
  delete from etcd_sync_event e using etcd_sync_state s
  where e.kind in ('scan-started', 'caught-up') and e.ts < clock_timestamp() - _events
    and (e.timeline < s.retained_timeline or e.timeline = s.retained_timeline
      and case e.kind when 'caught-up' then e.revision else (
        select min(u.revision) from etcd_sync_event u where u.kind = 'caught-up' and u.timeline = e.timeline and u.id > e.id
      ) end <= s.retained_revision)
$$;

-- One step through the other events.
create function etcd_keep_events(_events interval, _after bigint, _rows integer, out _next bigint, out _removed bigint)
language plpgsql set search_path from current as $$
declare
  last bigint;
begin
  select max(e.id), case when count(*) = _rows and max(e.ts) < clock_timestamp() - _events then max(e.id) end into last, _next
  from (select l.id, l.ts from etcd_sync_event l where l.id > _after order by l.id limit _rows) e;
  delete from etcd_sync_event e
  where e.id > _after and e.id <= last and e.ts < clock_timestamp() - _events and e.kind not in ('scan-started', 'caught-up');
  get diagnostics _removed = row_count;
end $$;

-- As before, and nothing before what retention has left.
create or replace function etcd_known_revision(_revision bigint, _timeline bigint) returns bigint
language plpgsql stable security definer set search_path from current as $$
declare
  state etcd_sync_state;
  wanted bigint;
  last_known bigint;
  first_known bigint;
  gap record;
begin
  select * into state from etcd_sync_state;
  wanted := coalesce(_timeline, state.timeline);
  first_known := (select min(e.revision) from etcd_sync_event e where e.kind = 'caught-up' and e.timeline = wanted);
  if wanted = state.timeline then
    first_known := greatest(first_known, state.history_from);
  end if;
  if wanted = state.retained_timeline and state.retained_revision > 0 then
    first_known := state.retained_revision; -- the mirror was whole there; events before it may be gone
  elsif wanted < state.retained_timeline then
    first_known := null;
  end if;
  if wanted = state.timeline and state.state in ('streaming', 'draining') then
    last_known := state.revision;
  else
    last_known := (select max(e.revision) from etcd_sync_event e where e.kind = 'scan-started' and e.timeline = wanted);
  end if;
  if first_known is null or last_known is null or _revision not between first_known and last_known then
    raise exception using errcode = 'ZE011', message = format('Cannot read revision %s of timeline %s: known are %s to %s',
      _revision, wanted, coalesce(first_known::text, 'none'), coalesce(last_known::text, 'none'));
  end if;
  select started.revision as lower, min(ended.revision) as upper into gap
  from etcd_sync_event started
  left join etcd_sync_event ended on ended.kind = 'caught-up' and ended.timeline = started.timeline and ended.id > started.id
  where started.kind = 'scan-started' and started.timeline = wanted and started.revision < _revision
  group by started.id, started.revision having min(ended.revision) > _revision
  limit 1;
  if found then
    raise exception using errcode = 'ZE011', message = format('Cannot read revision %s of timeline %s: what happened between %s and %s was not seen',
      _revision, wanted, gap.lower, gap.upper);
  end if;
  return wanted;
end $$;

-- The limit of the WAL. Counting is not for writers: the leader counts what waits, and leaves the writers as many tickets as
-- there is room. A ticket is drawn for each row, so as long as the last ticket is not past refuse_after at most wal_limit rows
-- wait (a few more where transactions that had drawn theirs commit after the count), also where no program runs any more. A
-- ticket that was rolled back is lost until the next count. What is sent away stays drawn too: a refusal costs a writer
-- nothing but a look at the sequence.
--
-- Returns how many rows wait, at most; null without a limit. It counts only once four fifths of the tickets are drawn, so the
-- gate stays cold.
create function etcd_keep_limit(_limit bigint) returns bigint
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  gate etcd_sync_gate;
  last bigint := coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0); -- before the count: what is written meanwhile counts twice
  first bigint;
  waiting bigint;
begin
  select * into gate from etcd_sync_gate;
  if _limit is null then
    update etcd_sync_gate g set wal_limit = null, refuse_after = 9223372036854775807 where g.wal_limit is not null;
    return null;
  end if;
  if gate.wal_limit = _limit and gate.refuse_after - last > _limit / 5 then
    return _limit - (gate.refuse_after - last);
  end if;
  -- nearly all that wait have ids from the first header's on; what began earlier (long transactions, retries) is asked for
  first := (select min(t.seq) from etcd_wal_tx t);
  waiting := (select count(*) from etcd_wal w where w.id >= first and w.status = 'pending')
    + (select count(*) from etcd_wal_tx t join etcd_wal w on w.txid = t.txid and w.ts = t.ts and w.id < first and w.status = 'pending'
      where t.first_id < first);
  -- not for every ticket that becomes free: writers would be let in and sent away in turn, and the gate be hot
  if gate.wal_limit is distinct from _limit or last + _limit - waiting >= gate.refuse_after + greatest(_limit / 20, 1) then
    update etcd_sync_gate g set wal_limit = _limit, refuse_after = last + greatest(_limit - waiting, 0);
  end if;
  return waiting;
end $$;

create function etcd_wal_refuse_full(_key text) returns void
language plpgsql set search_path from current as $$
declare
  wal_limit bigint := (select g.wal_limit from etcd_sync_gate g
    where g.refuse_after <= coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0));
begin
  if wal_limit is not null then
    raise exception using errcode = 'ZE013',
      message = format('Cannot write key %L: the WAL is full, its limit are %s writes that wait for etcd (--wal-limit)',
        case when length(_key) > 100 then left(_key, 100) || '…' else _key end, wal_limit),
      hint = 'Try again when etcd-pg-sync has caught up; if it does not, its log says what it waits for.';
  end if;
end $$;

-- As before, with `room`; what a caller does not ask for is not computed, since this is inlined.
drop function etcd_wal_seen(text, integer, bigint);
create function etcd_wal_seen(_key text, _bytes integer, _base bigint)
returns table (timeline bigint, revision bigint, seen_revision bigint, present boolean, parked boolean, room boolean)
language sql stable as $$
  select
    case when coalesce(_base, k.revision, 0) = coalesce(k.revision, 0) then coalesce(k.timeline, g.timeline)
      else etcd_wal_base_timeline(_key, _base, g.timeline) end,
    coalesce(_base, k.revision, 0),
    case when _base > 0 then _base else greatest(g.seen_revision, coalesce(k.revision, (
      select a.revision from etcd_archive a where a.timeline = g.timeline and a.key = _key
      order by a.revision desc limit 1
    ), 0)) end,
    k.key is not null,
    g.parked,
    g.refuse_after > coalesce(pg_catalog.pg_sequence_last_value('etcd_wal_id_seq'), 0)
  from etcd_sync_gate g
  left join etcd_kv k on k.key = _key
  where not g.one_way and octet_length(_key) <= g.max_key_bytes and _bytes <= g.max_value_bytes
    and (_key <> '' and starts_with(_key, g.prefix_text) and not starts_with(_key, '/_etcd-pg-sync/') and strpos(_key, '\x') = 0
      or etcd_wal_key_allowed(_key, g.prefix))
$$;

-- As before, and no row where there is no room: then the slow path says so.
create or replace function etcd_wal_glance(_key text, _value text, _value_bytes bytea, _tombstone boolean)
returns table (timeline bigint, revision bigint, seen_revision bigint, parked boolean)
language sql stable
begin atomic
  select coalesce(k.timeline, g.timeline), k.revision, greatest(k.revision, g.seen_revision), g.parked
  from etcd_sync_gate g
  left join etcd_kv k on k.key = _key
  where not g.one_way
    and num_nonnulls(_value, _value_bytes) = case when _tombstone then 0 else 1 end
    and coalesce(octet_length(_value), octet_length(_value_bytes), 0) <= g.max_value_bytes
    and octet_length(_key) <= g.max_key_bytes and _key <> '' and strpos(_key, '\x') = 0
    and starts_with(_key, g.prefix_text) and not starts_with(_key, '/_etcd-pg-sync/')
    and (k.key is not null or not g.deleted)
    and g.refuse_after > coalesce(pg_catalog.pg_sequence_last_value('etcd_wal_id_seq'), 0);
end;

-- As before, while there is room. Who replaces a write of his own needs none.
create or replace function etcd_wal_write_any(
  _key text, _value text, _value_bytes bytea, _tombstone boolean,
  _base bigint, _strict boolean, _keep_lease boolean, _insert boolean
) returns bigint
language plpgsql set search_path from current as $$
declare
  _bytes integer := etcd_wal_value_bytes(_value, _value_bytes, _tombstone);
  _id bigint := etcd_wal_replace(_key, _value, _value_bytes, _tombstone, _base, _strict, _keep_lease, _insert);
begin
  if _id is null then
    insert into etcd_wal (txid, ts, key, value, value_bytes, tombstone, keep_lease, timeline, revision, seen_revision, strict)
    select pg_current_xact_id(), transaction_timestamp(), _key, _value, _value_bytes, _tombstone, _keep_lease,
      s.timeline, s.revision, s.seen_revision, _strict
    from etcd_wal_seen(_key, _bytes, _base) s
    where s.room and not (_insert and s.present) and (not s.parked or etcd_wal_wake())
    returning id into _id;
    if _id is null then
      perform etcd_wal_refuse_full(_key);
      perform etcd_wal_refuse(_key, _bytes, _insert);
    end if;
    perform etcd_wal_header(_id, _id);
  end if;
  if _tombstone then
    perform etcd_wal_count_delete(_key);
  end if;
  return _id;
end $$;

create or replace function etcd_wal_insert() returns trigger
language plpgsql security definer set search_path from current as $$
declare
  _bytes integer := etcd_wal_value_bytes(new.value, new.value_bytes, new.tombstone);
  seen record;
begin
  if etcd_wal_replace(new.key, new.value, new.value_bytes, new.tombstone, new.revision, new."strict", false, false) is null then
    select * into seen from etcd_wal_seen(new.key, _bytes, new.revision) s where s.room and (not s.parked or etcd_wal_wake());
    if not found then
      perform etcd_wal_refuse_full(new.key);
      perform etcd_wal_refuse(new.key, _bytes, false);
    end if;
    perform etcd_wal_header(new.id, new.id);
    new.txid := pg_current_xact_id();
    new.ts := transaction_timestamp();
    new.timeline := seen.timeline;
    new.revision := seen.revision;
    new.seen_revision := seen.seen_revision;
    new.status := 'pending';
  end if;
  if new.tombstone then
    perform etcd_wal_count_delete(new.key);
  end if;
  return case when new.txid is not null then new end;
end $$;

-- Vacuum early and without pauses: what is dead here is small and in few places, and new rows take its room. Measured by
-- bench/bloat.ts.
alter table etcd_wal set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
alter table etcd_wal_tx set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0);
alter table etcd_sync_state set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_cost_delay = 0);
alter table etcd_sync_gate set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20,
  autovacuum_vacuum_cost_delay = 0);
alter table etcd_kv set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

do $$
declare
  f regprocedure;
begin
  for f in select p.oid from pg_proc p where p.pronamespace = (select oid from pg_namespace where nspname = current_schema())
      and (p.proname like 'etcd\_keep\_%' or p.proname in ('etcd_wal_seen', 'etcd_wal_refuse_full')) loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
