/** Writes of the mirror: batches of events, pages of a scan. Each moves the checkpoint in the same commit. */
import { finished } from "node:stream/promises";
// @ts-types="@types/pg-copy-streams"
import { from as copyFrom } from "pg-copy-streams";
import {
  type EventColumns,
  type Probe,
  type RowColumns,
  type Selection,
  type Skipped,
  textBounds,
} from "../core/plan.ts";
import { keyBytes, valueBytes } from "../core/codec.ts";
import type { KeyValue, Page } from "../core/words.ts";
import type { State } from "../machine.ts";
import type { Session } from "./client.ts";
import { type Copied, PageCopy } from "./copy.ts";
import { expectOne, type Place, type StreamRow, writeEvent } from "./state.ts";

/*
 * The fence is the first line of every statement: an update of the state row that finds it as this leader left it. All
 * else joins its result, so a leader that lost its place, or a commit that arrives late, writes nothing.
 */
const FENCE = `update etcd_sync_state s set %SET%, updated_at = clock_timestamp()
  where s.epoch = $1 and s.holder = $2 and s.state = any ($3) and s.timeline = $4 and s.revision = $5
    and s.scan_cursor is not distinct from $6`;

function fenced(set: string): string {
  return FENCE.replace("%SET%", set);
}

function guard(place: Place, at: StreamRow): unknown[] {
  return [place.epoch, place.holder, statesLike(at.state), at.timeline, at.revision, at.scanCursor];
}

/** The drain moves between streaming and draining by itself. */
function statesLike(state: State): State[] {
  return state === "streaming" || state === "draining" ? ["streaming", "draining"] : [state];
}

const ROW_TYPES = ["text", "text", "bytea", "bigint", "bigint", "bigint", "bigint"];
const ROW_NAMES = "key, value, value_bytes, revision, create_revision, version, lease";

function unnest(types: string[], first: number): string {
  return `unnest(${types.map((type, i) => `$${first + i}::${type}[]`).join(", ")})`;
}

function rowValues(rows: RowColumns): unknown[] {
  return [
    rows.keys,
    rows.values,
    rows.valueBytes,
    rows.revisions,
    rows.createRevisions,
    rows.versions,
    rows.leases,
  ];
}

/*
 * Tells writers that the archive may know more of an absent key than the gate's floor does. The row is locked before it
 * is judged: the drain may have lowered the flag after this statement took its snapshot, and the lock reads what is
 * newest. Behind the fence, so state row first, gate second, as everywhere.
 */
function noteDeleted(tombstones: string): string {
  return `gate as materialized (
  select g.deleted from etcd_sync_gate g where exists (select from ${tombstones}) for no key update
), noted as (
  update etcd_sync_gate g set deleted = true from gate where not gate.deleted
)`;
}

/*
 * One batch. Each event of it either becomes the key's row (the key's last one) or goes to the archive. In a scan a page
 * may have been ahead of the watch: an event that the row, or the key's newest tombstone, has already passed only goes
 * to the archive (`passed`). All parts see the tables as they were before the statement.
 */
const APPLY_EVENTS = `
with fence as (
  ${
  fenced(
    "revision = $7, probe_key = $8, probe_revision = $9, fresh_at = coalesce($22::timestamptz, s.fresh_at)",
  )
}
  returning s.timeline
), event as materialized (
  select f.timeline, e.*, k.revision as row_revision, k.timeline as row_timeline,
    coalesce(k.timeline = f.timeline and k.revision >= e.revision, false)
      or coalesce($21 and k.key is null and g.revision > e.revision, false) as passed,
    coalesce(k.revision, g.revision) as passed_by
  from fence f
  cross join ${
  unnest([...ROW_TYPES, "boolean", "bigint", "bigint"], 11)
} as e(${ROW_NAMES}, tombstone, previous, next)
  left join etcd_kv k on k.key = e.key
  left join lateral (
    select a.revision from etcd_archive a
    where $21 and k.key is null and a.timeline = f.timeline and a.key = e.key and a.tombstone
    order by a.revision desc limit 1
  ) g on true
), archived as (
  insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, value_bytes, create_revision, version, lease, ts)
  select k.timeline, k.key, k.revision, case when k.timeline = e.timeline then e.revision end, false,
    k.value, k.value_bytes, k.create_revision, k.version, k.lease, k.ts
  from event e join etcd_kv k on k.key = e.key
  where case when k.timeline = e.timeline
    then e.revision > k.revision and (e.previous is null or e.previous <= k.revision)
    else e.previous is null end
  union all
  select e.timeline, e.key, e.revision, case when not e.tombstone then coalesce(e.next, e.passed_by) end, e.tombstone,
    e.value, e.value_bytes, e.create_revision, e.version, e.lease, now()
  from event e
  where e.tombstone or e.next is not null or (e.passed and not coalesce(e.row_timeline = e.timeline and e.row_revision = e.revision, false))
  on conflict do nothing
), put as (
  insert into etcd_kv as k (key, value, value_bytes, revision, create_revision, version, lease, timeline)
  select e.key, e.value, e.value_bytes, e.revision, e.create_revision, e.version, e.lease, e.timeline
  from event e where e.next is null and not e.tombstone and not e.passed
  on conflict (key) do update set value = excluded.value, value_bytes = excluded.value_bytes, revision = excluded.revision,
    create_revision = excluded.create_revision, version = excluded.version, lease = excluded.lease,
    timeline = excluded.timeline, ts = excluded.ts
), deleted as (
  delete from etcd_kv k using event e where k.key = e.key and e.next is null and e.tombstone and not e.passed
), ${noteDeleted("event e where e.tombstone")}, skipped as (
  insert into etcd_sync_event (kind, timeline, detail) select 'key-skipped', f.timeline, d from fence f, unnest($10::jsonb[]) d
)
select true from fence`;

/** Events of which a commit may take longer than other statements: one revision is never split. */
const LARGE_BATCH = 50_000;

/** Applies the events of whole revisions; the checkpoint becomes `to`, proved fresh at `freshAt`. One round trip. */
export async function applyEvents(
  session: Session,
  place: Place,
  at: StreamRow,
  batch: { columns: EventColumns; to: number; probe: Probe | null; skipped: object[]; freshAt: Date | null },
): Promise<void> {
  const { columns } = batch;
  const scanning = statesLike(at.state).length === 1;
  const values = [
    ...guard(place, at),
    batch.to,
    batch.probe?.key ?? null,
    batch.probe?.revision ?? null,
    batch.skipped.map((detail) => JSON.stringify(detail)),
    ...rowValues(columns),
    columns.tombstones,
    columns.previous,
    columns.next,
    scanning,
    batch.freshAt,
  ];
  const apply = async () => expectOne(await session.run("apply-events", APPLY_EVENTS, values), place);
  await (columns.keys.length > LARGE_BATCH
    ? session.transaction(apply, { patient: true, again: true })
    : apply());
}

const MOVE_CHECKPOINT = `${
  fenced("revision = $7, fresh_at = coalesce($8::timestamptz, s.fresh_at)")
} returning true`;

/** Moves the checkpoint on a quiet prefix, or says that it was proved fresh at `freshAt`. */
export async function moveCheckpoint(
  session: Session,
  place: Place,
  at: StreamRow,
  to: number,
  freshAt: Date | null,
): Promise<void> {
  expectOne(await session.run("move-checkpoint", MOVE_CHECKPOINT, [...guard(place, at), to, freshAt]), place);
}

/*
 * One page, merged for its exact range of keys. A row that is newer than the page stays; any other becomes what the
 * page says; a row in the range that the page lacks is gone. A key with a tombstone newer than its row in the page was
 * deleted after the page was read, and stays away. `another`: a row that is not newer than the page and yet has a
 * higher revision than the page's, or other content at the same one, cannot be of this history; then nothing is written.
 *
 * Page and rows meet once, in a full join: that one is never a nested loop. The planner knows the size of neither, and
 * before the first ANALYZE it compared each key of a page with each row, 20,000 by 20,000 for longer than a statement may take.
 */
const MERGE_PAGE = `
with page as (
  select p.* from ${unnest(ROW_TYPES, 11)} as p(${ROW_NAMES})
), mirrored as (
  %MIRRORED%
), pair as materialized (
  select p.*, k.key as row_key, k.value as row_value, k.value_bytes as row_value_bytes, k.revision as row_revision,
    k.create_revision as row_create_revision, k.version as row_version, k.lease as row_lease, k.timeline as row_timeline, k.ts as row_ts
  from page p full join mirrored k on k.key = p.key
), another as (
  select p.row_key as key from pair p
  where p.row_timeline = $4 and p.row_revision <= $7 and (p.row_revision > p.revision or p.row_revision = p.revision and
    (p.row_value, p.row_value_bytes, p.row_create_revision, p.row_version) is distinct from (p.value, p.value_bytes, p.create_revision, p.version))
  limit 1
), fence as (
  ${fenced("revision = $8, scan_revision = greatest(s.scan_revision, $7), scan_cursor = $9")}
    and not exists (select from another)
  returning s.timeline
), changed as materialized (
  select f.timeline, p.* from fence f cross join pair p
  where p.key is not null and case when p.row_key is not null then p.row_timeline < f.timeline or p.row_revision < p.revision
    else not exists (select from etcd_archive a
      where a.timeline = f.timeline and a.key = p.key and a.tombstone and a.revision > p.revision) end
), gone as materialized (
  select f.timeline, p.* from fence f cross join pair p
  where p.key is null and (p.row_timeline < f.timeline or p.row_revision <= $7)
), archived as (
  insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, value_bytes, create_revision, version, lease, ts)
  select o.row_timeline, o.row_key, o.row_revision, case when o.row_timeline = o.timeline then o.until end, false,
    o.row_value, o.row_value_bytes, o.row_create_revision, o.row_version, o.row_lease, o.row_ts
  from (select c.*, c.revision as until from changed c where c.row_key is not null
    union all select g.*, $7::bigint from gone g) o
  union all
  select g.timeline, g.row_key, $7, null, true, null, null, 0, 0, 0, now() from gone g
  on conflict do nothing
), put as (
  insert into etcd_kv as k (key, value, value_bytes, revision, create_revision, version, lease, timeline)
  select c.key, c.value, c.value_bytes, c.revision, c.create_revision, c.version, c.lease, c.timeline from changed c
  on conflict (key) do update set value = excluded.value, value_bytes = excluded.value_bytes, revision = excluded.revision,
    create_revision = excluded.create_revision, version = excluded.version, lease = excluded.lease,
    timeline = excluded.timeline, ts = excluded.ts
  returning true
), deleted as (
  delete from etcd_kv k using gone g where k.key = g.row_key returning true
), ${noteDeleted("gone")}, skipped as (
  insert into etcd_sync_event (kind, timeline, detail) select 'key-skipped', f.timeline, d from fence f, unnest($10::jsonb[]) d
)
select (select count(*) from fence) as committed, (select key from another) as another,
  (select count(*) from put) as put, (select count(*) from deleted) as deleted`;

/** All rows of the page's range. */
const MERGE_RANGE = MERGE_PAGE.replace(
  "%MIRRORED%",
  `select k.* from etcd_kv k
  where strpos(k.key, '\\x') = 0 and k.key >= $18 and k.key <= $19
    and convert_to(k.key, 'UTF8') >= $20 and ($21::bytea is null or convert_to(k.key, 'UTF8') < $21)
  union all
  select k.* from etcd_kv k
  where strpos(k.key, '\\x') > 0 and etcd_key_bytes(k.key) >= $20 and ($21::bytea is null or etcd_key_bytes(k.key) < $21)`,
);

/** The rows that are known to differ: the others of the range are as the page has them. */
const MERGE_KEYS = MERGE_PAGE.replace(
  "%MIRRORED%",
  "select k.* from etcd_kv k where k.key = any ($18::text[])",
);

export interface PageCommit {
  page: Page;
  /** The watch's position after this commit: the page's revision for a first page, else as it is. */
  revision: number;
  cursor: Uint8Array;
}

export type Merged = { kind: "merged"; put: number; deleted: number } | {
  kind: "another-history";
  key: string;
};

/**
 * Merges one page, or what is known to differ of it: then `gone` are the keys of its range that it lacks.
 * `another-history`: nothing was written.
 */
export async function mergePage(
  session: Session,
  place: Place,
  at: StreamRow,
  commit: PageCommit & { columns: RowColumns; skipped: Skipped[]; gone?: string[] },
): Promise<Merged> {
  const { page, columns, gone } = commit;
  const { low, high, end } = textBounds(page);
  const [name, text, rows] = gone
    ? ["merge-keys", MERGE_KEYS, [[...columns.keys, ...gone]]] as const
    : ["merge-page", MERGE_RANGE, [low, high, page.from, end]] as const;
  const [row] = await session.run<
    { committed: number; another: string | null; put: number; deleted: number }
  >(name, text, [
    ...guard(place, at),
    page.revision,
    commit.revision,
    commit.cursor,
    commit.skipped.map((detail) => JSON.stringify(detail)),
    ...rowValues(columns),
    ...rows,
  ]);
  if (row.another !== null) return { kind: "another-history", key: row.another };
  expectOne(row.committed ? [row] : [], place);
  return { kind: "merged", put: row.put, deleted: row.deleted };
}

const RANGE_HOLDS_ROWS = `select exists (
    select from etcd_kv k where strpos(k.key, '\\x') = 0 and k.key >= $1 and k.key <= $2
      and convert_to(k.key, 'UTF8') >= $3 and ($4::bytea is null or convert_to(k.key, 'UTF8') < $4)
  ) or exists (
    select from etcd_kv k where strpos(k.key, '\\x') > 0 and etcd_key_bytes(k.key) >= $3
      and ($4::bytea is null or etcd_key_bytes(k.key) < $4)
  ) as found`;

const FENCE_PAGE = `${
  fenced("revision = $7, scan_revision = greatest(s.scan_revision, $8), scan_cursor = $9")
} returning s.timeline`;

/**
 * Copies a page into a range that holds no rows; null: it holds some, and nothing was written. The caller has applied
 * no event since it asked for the page, so no tombstone can stand against a row of it.
 */
export async function copyPage(
  session: Session,
  place: Place,
  at: StreamRow,
  { page, revision, cursor }: PageCommit,
  select: Selection,
): Promise<Copied | null> {
  const { low, high, end } = textBounds(page);
  return await session.transaction(async () => {
    const copy = new PageCopy(page.keys, select, at.timeline);
    const values = [...guard(place, at), revision, page.revision, cursor];
    expectOne(await session.run("fence-page", FENCE_PAGE, values), place);
    const bounds = [low, high, page.from, end];
    const [{ found }] = await session.run<{ found: boolean }>("range-holds-rows", RANGE_HOLDS_ROWS, bounds);
    if (found) throw new RangeNotEmpty();
    await copyRows(session, copy);
    for (const detail of copy.copied.skipped) {
      await writeEvent(session, "key-skipped", at.timeline, { detail });
    }
    return copy.copied;
  }, { again: true }).catch((error) => {
    if (error instanceof RangeNotEmpty) return null;
    throw error;
  });
}

class RangeNotEmpty extends Error {}

async function copyRows(session: Session, copy: PageCopy): Promise<void> {
  const sink = session.submit(
    copyFrom(
      "copy etcd_kv (key, value, value_bytes, revision, create_revision, version, lease, timeline) from stdin (format binary)",
    ),
  );
  const done = finished(sink);
  done.catch(() => {}); // it is looked at with each chunk, and at the end
  try {
    // a chunk is made while the one before it leaves; its buffer is then the next but one's
    let leaving = Promise.resolve();
    for (const chunk of copy.chunks()) {
      await Promise.race([leaving, done]);
      leaving = session.send(sink, chunk);
      leaving.catch(() => {}); // so is this
    }
    sink.end();
    await done;
  } catch (error) {
    sink.destroy(error as Error);
    throw error;
  }
}

/** Ends a scan: from here on `revision` is a point that readers can use. */
export async function catchUp(
  session: Session,
  place: Place,
  at: StreamRow,
  to: State,
  probe: Probe | null,
  detail: object,
): Promise<void> {
  await session.transaction(async () => {
    const rows = await session.run(
      "catch-up",
      `${
        fenced(
          "state = $7, scan_cursor = null, scan_revision = 0, history_from = coalesce(s.history_from, s.revision), probe_key = $8, probe_revision = $9",
        )
      }
         and s.revision >= s.scan_revision returning true`,
      [...guard(place, at), to, probe?.key ?? null, probe?.revision ?? null],
    );
    expectOne(rows, place);
    await writeEvent(session, "caught-up", at.timeline, { revision: at.revision, detail });
  }, { again: true });
}

/** The probe as it is mirrored; null where there is none, or the row is another version by now. */
export async function readProbe(session: Session, probe: Probe | null): Promise<KeyValue | null> {
  if (!probe) return null;
  const [row] = await session.run<{
    value: string | null;
    value_bytes: Uint8Array | null;
    create_revision: number;
    version: number;
  }>(
    "read-probe",
    "select value, value_bytes, create_revision, version from etcd_kv where key = $1 and revision = $2",
    [
      probe.key,
      probe.revision,
    ],
  );
  return row
    ? {
      key: keyBytes(probe.key),
      value: valueBytes({ value: row.value, valueBytes: row.value_bytes }),
      createRevision: row.create_revision,
      modRevision: probe.revision,
      version: row.version,
      lease: 0n,
    }
    : null;
}
