-- What is kept and for how long, and how much may wait: called by the housekeeper, in small steps (lib/flow/keep.ts).
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

-- The limit of the WAL. Counting is not for writers: the housekeeper counts what waits, and leaves the writers as many tickets as
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
      and p.proname like 'etcd\_keep\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
