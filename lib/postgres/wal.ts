/** The WAL: claim, settle, and what a leader finds when it comes in. The SQL is in sql/007_drain.sql. */
import { type Loss, type OwnWrite, OwnWrites, type ResolvedBatch } from "../core/txn.ts";
import type { WalRow } from "../core/words.ts";
import { LostPlace } from "../errors.ts";
import type { Session } from "./client.ts";
import type { Place } from "./state.ts";

/** What is settled with the batch in flight. */
export type Settlement =
  | { kind: "none" }
  | { kind: "applied"; revision: number; ids: number[]; expected: number[] }
  | { kind: "conflict" | "failed"; losses: Loss[] };

interface RawWalRow {
  id: number;
  txid: string;
  ts: string;
  key: string;
  value: string | null;
  value_bytes: Uint8Array | null;
  tombstone: boolean;
  keep_lease: boolean;
  timeline: number;
  revision: number;
  seen_revision: number;
  strict: boolean;
}

const ROW =
  "id, txid::text, ts::text, key, value, value_bytes, tombstone, keep_lease, timeline, revision, seen_revision, strict";

function walRow(raw: RawWalRow): WalRow {
  return {
    id: String(raw.id),
    txid: raw.txid,
    ts: raw.ts,
    key: raw.key,
    value: raw.value,
    valueBytes: raw.value_bytes,
    tombstone: raw.tombstone,
    keepLease: raw.keep_lease,
    timeline: raw.timeline,
    revision: raw.revision,
    seenRevision: raw.seen_revision,
    strict: raw.strict,
  };
}

/** Raised by etcd_drain_fence. */
const FENCED = "ZE100";

async function fencedRun<Row extends object>(
  session: Session,
  name: string,
  text: string,
  values: unknown[],
): Promise<Row[]> {
  try {
    return await session.run<Row>(name, text, values);
  } catch (error) {
    if ((error as { code?: string }).code === FENCED) throw new LostPlace((error as Error).message);
    throw error;
  }
}

export interface Limits {
  /** Rows of one etcd transaction, the marker not counted. */
  maxRows: number;
  maxBytes: number;
}

export interface ClaimLimits extends Limits {
  maxTransactions: number;
  /** 2: one in flight, and one ahead. */
  maxBatches: number;
}

export interface Claim {
  batch: number;
  rows: WalRow[];
}

/**
 * Settles the batch in flight and claims, in one round trip. `ahead`: the batch that was claimed ahead is on its way.
 * Nothing claimed and nothing on its way: the WAL is empty and the drain parked.
 */
export async function turn(
  session: Session,
  place: Place,
  { batch, ahead, settlement }: { batch: number; ahead: boolean; settlement: Settlement },
  limits: ClaimLimits,
  states: { busy: string; idle: string },
): Promise<Claim[]> {
  const applied = settlement.kind === "applied" ? settlement : undefined;
  const losses = settlement.kind === "conflict" || settlement.kind === "failed" ? settlement.losses : [];
  const rows = await fencedRun<RawWalRow & { batch: number }>(
    session,
    "drain-turn",
    "select * from etcd_drain_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    [
      place.epoch,
      place.holder,
      batch,
      ahead,
      applied?.revision ?? null,
      applied?.ids ?? [],
      applied?.expected ?? [],
      losses.length ? settlement.kind : null,
      losses.map((loss) => loss.id),
      losses.map((loss) => loss.revision),
      losses.map((loss) => loss.message),
      limits.maxRows,
      limits.maxBytes,
      limits.maxTransactions,
      limits.maxBatches,
      states.busy,
      states.idle,
    ],
  );
  const claims = Map.groupBy(rows, (row) => row.batch);
  return [...claims].map(([batch, rows]) => ({ batch, rows: rows.map(walRow) }));
}

/** Asks writers to notify. Needs no fence: at worst one notifies in vain. */
export async function park(session: Session): Promise<void> {
  await session.run("park", "update etcd_sync_gate set parked = true where not parked");
}

/** Nobody listens any more: writers need not notify. */
export async function unpark(session: Session): Promise<void> {
  await session.run("unpark", "update etcd_sync_gate set parked = false where parked");
}

/** Whether anything waits. */
export async function isWaiting(session: Session): Promise<boolean> {
  const [{ waiting }] = await session.run<{ waiting: boolean }>(
    "wal-waiting",
    "select exists (select from etcd_wal_tx) as waiting",
  );
  return waiting;
}

/** Our applied writes of each row's key that are newer than what its writer saw, oldest first. */
async function settledWrites(
  session: Session,
  timeline: number,
  rows: WalRow[],
): Promise<Map<string, OwnWrite[]>> {
  const found = await session.run<{ key: string; expected: number; result: number; tombstone: boolean }>(
    "settled-writes",
    `select w.key, w.expected_revision as expected, w.result_revision as result, w.tombstone
     from unnest($2::text[], $3::bigint[]) as asked(key, seen)
     join etcd_wal w on w.key = asked.key and w.status = 'success' and w.timeline = $1 and w.result_revision > asked.seen
     order by w.result_revision`,
    [timeline, rows.map((row) => row.key), rows.map((row) => row.seenRevision)],
  );
  return Map.groupBy(found, (write) => write.key);
}

/**
 * The revision that each row was or is to be compared with. Where `own` does not know, the settled WAL tells: of the
 * batches before these rows' all are settled, but for one that `own` has noted.
 */
export async function expectedRevisions(
  session: Session,
  timeline: number,
  rows: WalRow[],
  own: OwnWrites,
): Promise<number[]> {
  const unknown = rows.filter((row) => own.expected(row) === undefined);
  if (unknown.length > 0) {
    // a batch has each key once
    const settled = await settledWrites(session, timeline, unknown);
    for (const { key, seenRevision } of unknown) own.learn(key, seenRevision, settled.get(key) ?? []);
  }
  return rows.map((row) => own.expected(row)!);
}

/** The first statement of a transaction on the WAL: locks the state row, and stops who is no longer the writer. */
export async function fence(session: Session, place: Place, batch: number): Promise<void> {
  await fencedRun(session, "fence-drain", "select etcd_drain_fence($1, $2, $3)", [
    place.epoch,
    place.holder,
    batch,
  ]);
}

/** Begins a leadership with what was claimed resolved: settled as applied, or free to be claimed anew. */
export async function settleInFlight(
  session: Session,
  place: Place,
  batch: number,
  applied: ResolvedBatch[],
  next: { batch: number; batchHolder: string | null; markerRevision: number },
): Promise<void> {
  await session.transaction(async () => {
    await fence(session, place, batch);
    for (const { batch, revision, ids, expected } of applied) {
      await session.run("settle-applied", "select etcd_drain_applied($1, $2, $3, $4)", [
        batch,
        revision,
        ids,
        expected ?? await comparedWith(session, ids),
      ]);
    }
    await session.run(
      "clear-batch",
      "update etcd_sync_state set batch_rows = '{}', ahead_id = null, ahead_rows = '{}', batch_id = $1, batch_holder = $2, marker_revision = $3, updated_at = clock_timestamp()",
      [next.batch, next.batchHolder, next.markerRevision],
    );
  });
}

/** What an applied batch was compared with, by the batches before it, which are settled. */
async function comparedWith(session: Session, ids: number[]): Promise<number[]> {
  const rows = await pendingRows(session, ids);
  const [timeline] = rows.map((row) => row.timeline);
  const expected = await expectedRevisions(session, timeline, rows, new OwnWrites(Infinity));
  const byId = new Map(rows.map(({ id }, i) => [Number(id), expected[i]]));
  return ids.map((id) => byId.get(id)!);
}

/** Pending rows by id; for recovery. */
export async function pendingRows(session: Session, ids: number[]): Promise<WalRow[]> {
  const rows = await session.run<RawWalRow>(
    "pending-rows",
    `select ${ROW} from etcd_wal where id = any ($1) and status = 'pending'`,
    [ids],
  );
  return rows.map(walRow);
}

/** Gives pending rows (null: all of them), with their transactions, up as conflicts. */
export async function settleDoubtful(
  session: Session,
  batch: number,
  ids: number[] | null,
  message: string,
): Promise<void> {
  const doubtful = ids ?? (await session.run<{ id: number }>(
    "all-pending",
    "select w.id from etcd_wal_tx t join etcd_wal w on w.txid = t.txid and w.ts = t.ts and w.status = 'pending'",
  )).map((row) => row.id);
  if (doubtful.length === 0) return;
  await session.run("settle-doubtful", "select etcd_drain_lost('conflict', $1, $2, $3, $4)", [
    batch,
    doubtful,
    doubtful.map(() => null),
    doubtful.map(() => message),
  ]);
}

/** Settles rows that an earlier batch had applied, of which PostgreSQL has lost the commit. `mendHeaders` has to follow. */
export async function settleRecovered(
  session: Session,
  batch: number,
  revision: number,
  ids: number[],
  expected: number[],
): Promise<void> {
  await session.run("settle-recovered", "select etcd_drain_recovered($1, $2, $3, $4)", [
    batch,
    revision,
    ids,
    expected,
  ]);
}

/** Ids of pending rows that a recovered one has overtaken. */
export async function overtaken(session: Session, recovered: number[]): Promise<number[]> {
  const rows = await session.run<{ id: number }>("overtaken", "select etcd_drain_overtaken($1) as id", [
    recovered,
  ]);
  return rows.map((row) => row.id);
}

/** After a recovery the headers stand for what is still pending. */
export async function mendHeaders(session: Session): Promise<void> {
  await session.run("mend-headers", "select etcd_drain_mend_headers()");
}
