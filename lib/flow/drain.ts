/**
 * PostgreSQL → etcd: the WAL, batch by batch. One Txn is under way at a time. Where more waits than it takes, the next
 * batch is claimed ahead, and each server works while the other one does:
 *
 *   PostgreSQL   settle N-1, claim N and N+1 ─┐         ┌─ settle N, claim N+2 ──┐         ┌─ settle N+1, claim N+3
 *   etcd                                      └─ Txn N ─┴─ Txn N+1 (marker: N+1, ┴─────────┴─ Txn N+2
 *                                                          and N's revision)
 *
 * The claim names the rows and the number before etcd hears of them, and the marker names both in etcd, so whoever comes
 * after a crash anywhere on this line can tell what was applied (lib/flow/takeover.ts): Txn N+1 is sent only after N was
 * applied, so when it is in the marker both were; Txn N+2 only after the settlement of N is committed, so never more than
 * two are open. Where N was not applied, N+1 is given up unsent, and what is left of N goes first again: that keeps the
 * order. No call to etcd is made inside an open PostgreSQL transaction.
 */
import { digest, encodeMarker, judge, type Marker, outdated, planTxn } from "../core/txn.ts";
import type { WalRow } from "../core/words.ts";
import { LostPlace, sentence } from "../errors.ts";
import { isLostAnswer, isPassing, sendTxn } from "../etcd/kv.ts";
import { bumpMarker } from "../etcd/marker.ts";
import { Backoff, sleep } from "../lifecycle.ts";
import { next } from "../machine.ts";
import {
  type Claim,
  type ClaimLimits,
  expectedRevisions,
  isWaiting,
  park,
  type Settlement,
  turn,
  unpark,
} from "../postgres/wal.ts";
import { type Leadership, markerKey, type Stream } from "../stream.ts";
import { BatchTrace } from "../telemetry/batch_trace.ts";

const POLL_FIRST_MS = 1;
const POLL_MOST_MS = 1_000;
const BUSY = next("streaming", "wal-waiting");
const IDLE = next("draining", "wal-empty");

/**
 * Waits until rows wait in the WAL. NOTIFY is a hint; the poll is for the writer that saw the drain awake and committed
 * after it had looked for the last time.
 */
export async function waitForWal(leadership: Leadership, signal: AbortSignal): Promise<"wal-waiting" | null> {
  await park(leadership.drain); // the last leader may have ended awake, and then no writer would notify
  let heard = false;
  let wake = () => {};
  const forget = leadership.onWalNotify(() => {
    heard = true;
    wake();
  });
  try {
    for (let poll = POLL_FIRST_MS; !signal.aborted; poll = Math.min(poll * 2, POLL_MOST_MS)) {
      heard = false;
      if (await isWaiting(leadership.drain)) return "wal-waiting";
      if (!heard) await sleep(poll, signal, (waker) => wake = waker);
    }
    await unpark(leadership.drain);
    return null;
  } finally {
    forget();
  }
}

/** Drains until the WAL is empty. A batch in flight is settled also when `signal` aborts (null). */
export async function drain(
  stream: Stream,
  leadership: Leadership,
  signal: AbortSignal,
): Promise<"wal-empty" | null> {
  const { batch, place } = leadership;
  const claimed = ({ rows, batch }: Claim, began: number): Batch => ({
    id: batch,
    rows,
    trace: new BatchTrace(stream.telemetry, batch, rows, began),
  });
  /** Claimed and not settled, oldest first. */
  let open: Batch[] = [];
  let settlement: Settlement = { kind: "none" };
  try {
    for (;;) {
      const began = Date.now();
      const [settling, ahead]: (Batch | undefined)[] = open;
      const before: number | null = settlement.kind === "applied" ? settlement.revision : null;
      const goesOn: boolean = before !== null && ahead !== undefined && !signal.aborted;
      const sent: Promise<Settlement | null> | null = goesOn
        ? send(stream, leadership, ahead, before, signal)
        : null;
      sent?.catch(() => {}); // it is looked at after the turn
      const settled = { batch: batch.id, ahead: goesOn, settlement };
      const limits = claimLimits(stream, settling !== undefined && settlement.kind === "none", signal);
      const claims = await turn(leadership.drain, place, settled, limits, { busy: BUSY, idle: IDLE });
      if (settling) tellSettled(stream, settling, settlement, began);
      if (!goesOn) ahead?.trace.lost("given up before it was sent");
      open = [...(goesOn ? [ahead] : []), ...claims.map((claim) => claimed(claim, began))];
      batch.id = open.length > 0 ? open[0].id : ahead?.id ?? batch.id;
      if (open.length === 0) {
        if (!signal.aborted) return "wal-empty";
        await unpark(leadership.drain);
        return null;
      }
      const answer: Settlement | null = await (sent ?? send(stream, leadership, open[0], null, signal));
      if (answer === null) {
        for (const { trace } of open) trace.lost("stopped before etcd took it");
        return null;
      }
      settlement = answer;
    }
  } catch (error) {
    for (const { trace } of open) trace.lost(error);
    throw error;
  }
}

/** A batch that is claimed. */
interface Batch {
  id: number;
  rows: WalRow[];
  trace: BatchTrace;
}

/** @param alone after a refusal transactions go one by one, to find the one that etcd refuses */
function claimLimits({ settings }: Stream, alone: boolean, signal: AbortSignal): ClaimLimits {
  const { limits } = settings;
  if (signal.aborted) return { ...limits, maxTransactions: 0, maxBatches: 0 };
  return alone
    ? { ...limits, maxTransactions: 1, maxBatches: 1 }
    : { ...limits, maxTransactions: limits.maxRows, maxBatches: 2 };
}

/**
 * Sends one batch; what to settle it with. `none`: refused, the transactions in it have to go one by one. null: stopped.
 *
 * @param before where the batch before it was applied; null: that is settled
 */
function send(
  stream: Stream,
  leadership: Leadership,
  { id, rows, trace }: Batch,
  before: number | null,
  signal: AbortSignal,
): Promise<Settlement | null> {
  return trace.sending(async () => {
    const { drain, at, batch } = leadership;
    const losses = outdated(rows, at.timeline);
    if (losses.length > 0) return { kind: "conflict", losses };
    const expected = await expectedRevisions(drain, at.timeline, rows, batch.own);
    const marker = batchMarker(leadership, id, rows, expected, before);
    return await sendUntilTaken(stream, leadership, marker, rows, expected, signal);
  });
}

async function sendUntilTaken(
  stream: Stream,
  leadership: Leadership,
  marker: Marker,
  rows: WalRow[],
  expected: number[],
  signal: AbortSignal,
): Promise<Settlement | null> {
  const { batch, at } = leadership;
  const key = markerKey(stream.settings.name);
  const plan = planTxn({ key, revision: batch.markerRevision, value: encodeMarker(marker) }, rows, expected);
  const backoff = new Backoff();
  for (;;) {
    try {
      const began = performance.now();
      const answer = await sendTxn(stream.kv, plan);
      stream.telemetry.answered(began);
      if (answer.clusterId !== at.clusterId) {
        throw new LostPlace(`cluster '${answer.clusterId}' has answered`);
      }
      const verdict = judge(answer, batch.markerRevision, rows, expected);
      if (verdict.kind === "marker-moved") throw new LostPlace("another leader has moved the marker");
      if (verdict.kind === "conflict") return verdict;
      stream.troubles.over("writes", "etcd takes writes again"); // at its settlement the next may be in trouble
      return applied(leadership, marker, verdict.revision, rows, expected);
    } catch (error) {
      if (error instanceof LostPlace) throw error;
      if (isLostAnswer(error)) {
        throw new LostPlace(`no answer to batch ${marker.batch}: ${sentence(error)}`, { cause: error });
      }
      if (!isPassing(error)) {
        const refused = await refusedForGood(stream, leadership, rows, error);
        if (refused) return refused;
      }
      const fields = { code: "EPS-605", batch: marker.batch, error: sentence(error) };
      stream.troubles.tell("writes", fields, "etcd does not take writes now; trying on");
      await backoff.pause(signal);
      if (signal.aborted) return null;
    }
  }
}

function applied(
  leadership: Leadership,
  marker: Marker,
  revision: number,
  rows: WalRow[],
  expected: number[],
): Settlement {
  const { batch } = leadership;
  batch.markerRevision = revision;
  batch.last = {
    batch: marker.batch,
    batchHolder: marker.batchHolder,
    batchRevision: revision,
    beforeRevision: marker.beforeRevision,
    rows: marker.rows,
  };
  batch.own.note(revision, rows, expected);
  return { kind: "applied", revision, ids: rows.map((row) => Number(row.id)), expected };
}

/**
 * etcd will never take this. One that is alone is failed; but only if a bump of the marker still succeeds: else it
 * is the drain that has no rights, and not the row (null: wait for them).
 */
async function refusedForGood(
  stream: Stream,
  leadership: Leadership,
  rows: WalRow[],
  error: unknown,
): Promise<Settlement | null> {
  const { batch, place, at } = leadership;
  if (rows.some(({ txid, ts }) => txid !== rows[0].txid || ts !== rows[0].ts)) return { kind: "none" };
  const bump: Marker = { streamId: at.streamId, epoch: place.epoch, holder: place.holder, ...batch.last };
  try {
    const revision = await bumpMarker(stream.kv, markerKey(stream.settings.name), batch.markerRevision, bump);
    if (revision === null) throw new LostPlace("another leader has moved the marker");
    batch.markerRevision = revision;
  } catch (refused) {
    if (refused instanceof LostPlace) throw refused;
    if (isLostAnswer(refused)) {
      throw new LostPlace(`no answer to the marker's bump: ${sentence(refused)}`, { cause: refused });
    }
    return null;
  }
  return {
    kind: "failed",
    losses: rows.map((row) => ({ id: row.id, revision: null, message: sentence(error) })),
  };
}

function batchMarker(
  { at, place }: Leadership,
  batch: number,
  rows: WalRow[],
  expected: number[],
  before: number | null,
): Marker {
  return {
    streamId: at.streamId,
    epoch: place.epoch,
    holder: place.holder,
    batch,
    batchHolder: place.holder,
    beforeRevision: before ?? undefined,
    rows: rows.map((row, i) => [Number(row.id), expected[i], digest(row)]),
  };
}

/** A batch is settled: by its number a write is followed from its row to its revision. */
function tellSettled(
  stream: Stream,
  { id: batch, rows, trace }: Batch,
  settlement: Settlement,
  began: number,
): void {
  const { telemetry, log } = stream;
  const result = RESULTS[settlement.kind];
  const revision = settlement.kind === "applied" ? settlement.revision : undefined;
  trace.settled(result, revision, began);
  telemetry.drained(result, settledRows(rows, settlement));
  if (log.isLevelEnabled("debug")) {
    log.debug({ batch, wal_ids: rows.map((row) => Number(row.id)), result, revision }, "batch");
  }
  if (settlement.kind === "conflict" || settlement.kind === "failed") {
    tellLosses(stream, batch, settlement);
  }
}

const RESULTS = { none: "refused", applied: "success", conflict: "conflict", failed: "failed" } as const;

/** A write is lost with its whole transaction. */
function settledRows(rows: WalRow[], settlement: Settlement): number {
  if (settlement.kind === "none" || settlement.kind === "applied") return rows.length;
  const lost = new Set(settlement.losses.map(({ id }) => id));
  const transactions = new Set(rows.filter(({ id }) => lost.has(id)).map(({ txid }) => txid));
  return rows.filter(({ txid }) => transactions.has(txid)).length;
}

/** Each stands in `etcd_sync_event`; the log has the first of an episode. */
function tellLosses(
  { troubles }: Stream,
  batch: number,
  { kind, losses }: Settlement & { kind: "conflict" | "failed" },
): void {
  const [{ id, revision, message }] = losses;
  troubles.tell(
    kind,
    {
      code: kind === "failed" ? "EPS-705" : "EPS-704",
      batch,
      wal_id: id,
      revision,
      reason: message,
      rows: losses.length,
    },
    kind === "failed"
      ? "a write from SQL failed; all of them: select * from etcd_sync_event where kind = 'failed'"
      : "a write from SQL lost to etcd; all of them: select * from etcd_sync_event where kind = 'conflict'",
  );
}
