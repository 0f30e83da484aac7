-- Comparing the mirror with etcd, and repairing it: called by the program (lib/verify.ts).

create table etcd_sync_verify (
  only_row boolean primary key default true check (only_row),
  installed_at timestamptz not null default now(), -- the first comparison is due so long after it
  verified_at timestamptz,               -- end of the last comparison of everything; null = never
  revision bigint,                       -- the checkpoint that was compared
  timeline bigint,
  keys bigint,                           -- keys of etcd that were compared
  missing bigint,                        -- differences that it left: keys that only etcd has,
  extra bigint,                          -- that only the mirror has,
  different bigint,                      -- that both have, not alike
  repaired bigint,                       -- rows that it repaired
  seconds double precision
);
insert into etcd_sync_verify default values;
comment on table etcd_sync_verify is 'One row: the last time that all of the mirror was compared with etcd, and what was found';

-- Repairs keys that differed from etcd at the checkpoint _revision: the key's row becomes what etcd had there, or goes where
-- etcd had none (_there). _mirrored is false of a key that no watch brings: outside the prefix, or not in its own form.
--
-- Let C be the checkpoint now. The row has to become what etcd had at C, which is what it had at R = _revision unless the
-- key has events in (R, C]. If it has some, the leader has applied them, and the row is right already. So it is to be known
-- whether there were any:
--
--   a row not newer than R, or none   the key's events since R were applied to it as to any row, the newest last: it left a
--                                     row newer than R, or a tombstone newer than R. Neither is there: no event.
--   a row newer than C                cannot be; events older than it went to the archive only, one of its own revision
--                                     nowhere, but that one is still to come. None in the archive in (R, C]: no event.
--   a row in (R, C]                   an event brought it; or it was newer than the checkpoint when it was compared, then
--                                     the next comparison finds it as a row of the first kind.
--
-- Interleavings:
--
--   leader commits between R and here       C > R, and the above. The state row is locked, so C stands still.
--   leader's statement under way            It has its snapshot before it waits for the state row. It would not see a row
--     that waits for the state row          that is put here, and its DELETE would leave it: the key is back for good. So
--                                           the table is locked first: a statement locks its tables before it takes its
--                                           snapshot. The lock waits for what is under way, and what comes waits for it.
--   key deleted and made again since R      The row is newer than R.
--   key deleted since R                     Its tombstone is newer than R, unless retention took it: then
--                                           retained_revision, which is committed before, is above R: `outdated`.
--   takeover                                The epoch is nothing to this: whoever leads, C is what the mirror is at.
--   scan since R, under way or done         Under way: the mirror is at no revision, `scanning`. Done: a page newer than R
--                                           was merged over the row; what it changed or removed is newer than R, what it
--                                           left is as etcd had it at R and at C.
--   timeline since R                        `outdated`: the same revision means another write.
--   PostgreSQL has lost commits             The checkpoint is below R: `outdated`.
--
-- Readers see one commit, in which the key becomes what it is at C; the checkpoint stays, so no guard of the leader moves.
-- A removed key leaves a tombstone at R, an upper bound, as a scan's: writers who see the key absent have seen all own writes
-- of it up to R (etcd_wal_seen), and the gate says that there are tombstones newer than its floor, which the drain lowers
-- only with a checkpoint of at least R. A row that was superseded goes to the archive, as in a scan; what the archive has of
-- a key from its row's revision up to R cannot be, and goes: etcd_at would find the key twice. The probe names a row by key
-- and revision, and is looked up before it is believed: a row that is replaced or gone is no probe any more.
--
-- etcd_kv before the state row, against the order elsewhere: a scan's copy holds the state row and wants the table. So the
-- wait for the state row is short, and the whole is tried again.
create function etcd_verify_repair(
  _revision bigint, _timeline bigint, _keys text[], _values text[], _value_bytes bytea[], _revisions bigint[],
  _create_revisions bigint[], _versions bigint[], _leases bigint[], _there boolean[], _mirrored boolean[],
  out outcome text, out repaired bigint
) language plpgsql set search_path from current set enable_seqscan = off set jit = off as $$
declare
  state etcd_sync_state;
  counts jsonb;
begin
  repaired := 0;
  perform set_config('lock_timeout', '3s', true); -- autovacuum gives way after a second
  lock table etcd_kv in share row exclusive mode;
  perform set_config('lock_timeout', '100ms', true);
  select * into state from etcd_sync_state for no key update;
  perform set_config('lock_timeout', '1s', true);
  outcome := case
    when state.state not in ('streaming', 'draining') then 'scanning'
    when state.timeline <> _timeline or state.revision < _revision
      or (state.retained_timeline, state.retained_revision) > (_timeline, _revision) then 'outdated'
    else 'repaired' end;
  if outcome <> 'repaired' then
    return;
  end if;

  with asked as materialized (
    select a.*, k.key is not null as present, k.revision as row_revision, k.timeline as row_timeline,
      k.key is not null and (k.value, k.value_bytes, k.revision, k.create_revision, k.version, k.lease, k.timeline)
        is not distinct from (a.value, a.value_bytes, a.revision, a.create_revision, a.version, a.lease, _timeline) as alike
    from unnest(_keys, _values, _value_bytes, _revisions, _create_revisions, _versions, _leases, _there, _mirrored)
      as a(key, value, value_bytes, revision, create_revision, version, lease, there, mirrored)
    left join etcd_kv k on k.key = a.key
  ), due as materialized (
    select a.* from asked a
    where (a.there or a.present) and not a.alike and (not a.mirrored or case
      when a.row_timeline = _timeline and a.row_revision > state.revision then not exists (
        select from etcd_archive e where e.timeline = _timeline and e.key = a.key
          and e.revision > _revision and e.revision <= state.revision)
      when a.row_timeline = _timeline and a.row_revision > _revision then false
      else not exists (
        select from etcd_archive e where e.timeline = _timeline and e.key = a.key
          and e.revision > _revision and e.revision <= state.revision and e.tombstone)
      end)
  ), archived as (
    insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, value_bytes, create_revision, version, lease, ts)
    select k.timeline, k.key, k.revision,
      case when k.timeline = _timeline then case when d.there then d.revision else _revision end end, false,
      k.value, k.value_bytes, k.create_revision, k.version, k.lease, k.ts
    from due d join etcd_kv k on k.key = d.key
    where d.mirrored and (k.timeline < _timeline
      or k.timeline = _timeline and k.revision < case when d.there then d.revision else _revision end)
    union all
    select _timeline, d.key, _revision, null, true, null, null, 0, 0, 0, now()
    from due d where d.mirrored and not d.there
    on conflict do nothing
  ), false_history as (
    delete from etcd_archive e using due d
    where e.timeline = _timeline and e.key = d.key and d.there and e.revision between d.revision and _revision
  ), put as (
    insert into etcd_kv as k (key, value, value_bytes, revision, create_revision, version, lease, timeline)
    select d.key, d.value, d.value_bytes, d.revision, d.create_revision, d.version, d.lease, _timeline from due d where d.there
    on conflict (key) do update set value = excluded.value, value_bytes = excluded.value_bytes, revision = excluded.revision,
      create_revision = excluded.create_revision, version = excluded.version, lease = excluded.lease,
      timeline = excluded.timeline, ts = excluded.ts
  ), gone as (
    delete from etcd_kv k using due d where k.key = d.key and not d.there
  )
  select jsonb_build_object(
      'missing', count(*) filter (where d.there and not d.present), 'extra', count(*) filter (where not d.there),
      'different', count(*) filter (where d.there and d.present),
      'keys', to_jsonb((array_agg(d.key order by d.key))[:10])), count(*)
  into counts, repaired from due d;
  if repaired = 0 then
    return;
  end if;
  if (counts ->> 'extra')::bigint > 0 then
    update etcd_sync_gate g set deleted = true where not g.deleted;
  end if;
  insert into etcd_sync_event (kind, timeline, revision, detail) values ('repaired', _timeline, _revision, counts);
end $$;

revoke execute on function etcd_verify_repair(
  bigint, bigint, text[], text[], bytea[], bigint[], bigint[], bigint[], bigint[], boolean[], boolean[]
) from public;
