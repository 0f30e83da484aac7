/**
 * PostgreSQL → etcd: the WAL, batch by batch. One batch is in flight at a time.
 *
 *   PostgreSQL   settle N-1, claim N ─┐                      ┌─ settle N, claim N+1
 *   etcd                              └─ Txn N (marker = N) ─┘
 *
 * The claim names the rows and the number before etcd hears of them, and the marker names both in etcd, so whoever comes
 * after a crash anywhere on this line can tell whether N was applied (lib/flow/lead.ts). No call to etcd is made inside
 * an open PostgreSQL transaction.
 */
import { digest, encodeMarker, judge, type Marker, outdated, planTxn } from "../core/txn.ts";
import type { WalRow } from "../core/words.ts";
import { LostPlace, sentence } from "../errors.ts";
import { isLostAnswer, isPassing, sendTxn } from "../etcd/kv.ts";
import { bumpMarker } from "../etcd/marker.ts";
import { Backoff, sleep } from "../lifecycle.ts";
import { next } from "../machine.ts";
import { isWaiting, park, settledWrites, type Settlement, turn, unpark } from "../postgres/wal.ts";
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
  let sent: Sent | null = null;
  try {
    for (;;) {
      const began = Date.now();
      /** After a refusal transactions go one by one, to find the one that etcd refuses. */
      const alone = sent?.settlement.kind === "none";
      const limits = signal.aborted ? { maxRows: 0, maxBytes: 0, maxTransactions: 0 } : {
        ...stream.settings.limits,
        maxTransactions: alone ? 1 : stream.settings.limits.maxRows,
      };
      const settlement: Settlement = sent?.settlement ?? { kind: "none" };
      const rows = await turn(leadership.drain, place, batch.id, settlement, limits, {
        busy: BUSY,
        idle: IDLE,
      });
      if (sent) tellSettled(stream, batch.id, sent, began);
      sent = null;
      if (rows.length === 0) {
        if (!signal.aborted) return "wal-empty";
        await unpark(leadership.drain);
        return null;
      }
      batch.id++;
      const trace = new BatchTrace(stream.telemetry, batch.id, rows, began);
      sent = { rows, trace, settlement: { kind: "none" } };
      const answer = await trace.sending(() => send(stream, leadership, rows, alone, signal));
      if (answer === null) {
        trace.lost("stopped before etcd took it");
        return null;
      }
      sent.settlement = answer;
    }
  } catch (error) {
    sent?.trace.lost(error);
    throw error;
  }
}

/** A batch that is not settled yet. */
interface Sent {
  rows: WalRow[];
  trace: BatchTrace;
  settlement: Settlement;
}

/** Sends one batch; what to settle it with. `none`: refused, the transactions in it have to go one by one. null: stopped. */
async function send(
  stream: Stream,
  leadership: Leadership,
  rows: WalRow[],
  alone: boolean,
  signal: AbortSignal,
): Promise<Settlement | null> {
  const { batch, at } = leadership;
  const losses = outdated(rows, at.timeline);
  if (losses.length > 0) return { kind: "conflict", losses };
  const expected = await expectedRevisions(leadership, rows);
  const marker = batchMarker(leadership, rows, expected);
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
      return applied(leadership, marker, verdict.revision, rows, expected);
    } catch (error) {
      if (error instanceof LostPlace) throw error;
      if (isLostAnswer(error)) {
        throw new LostPlace(`no answer to batch ${batch.id}: ${sentence(error)}`, { cause: error });
      }
      if (!isPassing(error)) {
        const refused = await refusedForGood(stream, leadership, rows, alone, error);
        if (refused) return refused;
      }
      const fields = { code: "EPS-605", batch: batch.id, error: sentence(error) };
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
    rows: marker.rows,
  };
  rows.forEach((row, i) =>
    batch.own.note(row.key, { expected: expected[i], result: revision, tombstone: row.tombstone })
  );
  return { kind: "applied", revision, ids: rows.map((row) => Number(row.id)), expected };
}

/**
 * etcd will never take this. Alone, the transaction is failed; but only if a bump of the marker still succeeds: else it
 * is the drain that has no rights, and not the row (null: wait for them).
 */
async function refusedForGood(
  stream: Stream,
  leadership: Leadership,
  rows: WalRow[],
  alone: boolean,
  error: unknown,
): Promise<Settlement | null> {
  const { batch, place, at } = leadership;
  if (!alone && rows.some((row) => row.txid !== rows[0].txid)) return { kind: "none" };
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

/** Where our own writes are not all in memory, the settled WAL tells: every batch before this one is settled. */
async function expectedRevisions({ batch, drain, at }: Leadership, rows: WalRow[]): Promise<number[]> {
  const unknown = rows.filter((row) => batch.own.expected(row) === undefined);
  if (unknown.length > 0) {
    // a batch has each key once
    const settled = await settledWrites(drain, at.timeline, unknown);
    for (const { key, seenRevision } of unknown) batch.own.learn(key, seenRevision, settled.get(key) ?? []);
  }
  return rows.map((row) => batch.own.expected(row)!);
}

function batchMarker({ at, place, batch }: Leadership, rows: WalRow[], expected: number[]): Marker {
  return {
    streamId: at.streamId,
    epoch: place.epoch,
    holder: place.holder,
    batch: batch.id,
    batchHolder: place.holder,
    rows: rows.map((row, i) => [Number(row.id), expected[i], digest(row)]),
  };
}

/** A batch is settled: by its number a write is followed from its row to its revision. */
function tellSettled(stream: Stream, batch: number, { rows, trace, settlement }: Sent, began: number): void {
  const { telemetry, troubles, log } = stream;
  const result = RESULTS[settlement.kind];
  const revision = settlement.kind === "applied" ? settlement.revision : undefined;
  trace.settled(result, revision, began);
  telemetry.drained(result, settledRows(rows, settlement));
  if (result === "success") troubles.over("writes", "etcd takes writes again");
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
