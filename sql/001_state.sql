-- The stream's state, and its audit. Run with search_path = <schema>, pg_temp.

create table etcd_sync_state (
  stream text primary key,
  stream_id uuid not null default gen_random_uuid(),
  prefix text not null,                  -- in the codec's form (etcd_key_text)
  state text not null default 'bootstrap'
    check (state in ('bootstrap', 'streaming', 'draining', 'compaction-resync')),
  revision bigint not null default 0,    -- the checkpoint; during a scan the watch's position
  timeline bigint not null default 1,
  cluster_id text,                       -- unsigned 64 bit
  epoch bigint not null default 0,
  holder uuid,                           -- a random id for each leadership
  holder_pids integer[] not null default '{}',
  lease_until timestamptz,
  scan_cursor bytea,                     -- the next page begins here; null = no scan under way
  scan_revision bigint not null default 0,
  batch_id bigint not null default 0,    -- the batch in flight, or the last one
  batch_holder uuid,                     -- who claimed it: a number alone comes again after lost commits
  batch_rows bigint[] not null default '{}',
  ahead_id bigint,                       -- a batch that is claimed behind the one in flight; null = none
  ahead_rows bigint[] not null default '{}',
  marker_revision bigint not null default 0, -- mod_revision of the newest marker known to be ours
  probe_key text,                        -- the newest mirrored row, by which a replaced history shows
  probe_revision bigint,
  history_from bigint,                   -- etcd_at() answers from here on
  retained_timeline bigint not null default 1, -- history before (retained_timeline, retained_revision) may be gone
  retained_revision bigint not null default 0,
  fresh_at timestamptz,
  updated_at timestamptz not null default now()
) with (fillfactor = 50);

create unique index etcd_sync_state_one_stream on etcd_sync_state ((true));
comment on table etcd_sync_state is 'One row: where the stream stands. Hot; nothing on a writer''s path reads it.';

-- What a writer has to know. Cold on purpose: the hot row under an old snapshot costs a writer ten times its work.
create table etcd_sync_gate (
  only_row boolean primary key default true check (only_row),
  prefix bytea not null,
  prefix_text text,                      -- null where the prefix is not text by itself
  timeline bigint not null default 1,
  seen_revision bigint not null default 0, -- a checkpoint that every snapshot that sees this row includes
  deleted boolean not null default false, -- the archive has tombstones that are newer than seen_revision
  parked boolean not null default false, -- the drain sleeps: a writer wakes it by NOTIFY
  one_way boolean not null default false,
  max_key_bytes integer not null default 2500,
  max_value_bytes integer not null default 1500000,
  max_deletes integer not null default 1000,
  max_txn_rows integer not null default 127,
  max_txn_bytes integer not null default 1500000,
  refuse_oversize boolean not null default false,
  refuse_after bigint not null default 9223372036854775807, -- the last ticket that the WAL has room for
  wal_limit bigint,                      -- of pending rows; null = never
  awake boolean generated always as (not one_way and not parked) stored -- writes are taken, and need no NOTIFY
);

create table etcd_sync_event (
  id bigint generated always as identity primary key,
  kind text not null,
  key text collate "C",
  timeline bigint not null,
  revision bigint,
  detail jsonb not null default '{}',
  ts timestamptz not null default clock_timestamp()
);
create index etcd_sync_event_kind on etcd_sync_event (kind, id);
comment on table etcd_sync_event is 'Audit: state changes, conflicts, failures, resyncs, gaps, splits, leadership. Never a row for every key.';
