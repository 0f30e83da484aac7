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

const POLL_FIRST_MS = 10;
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
  let settlement: Settlement = { kind: "none" };
  /** After a refusal transactions go one by one, to find the one that etcd refuses. */
  let alone = false;
  for (;;) {
    const limits = signal.aborted ? { maxRows: 0, maxBytes: 0, maxTransactions: 0 } : {
      ...stream.settings.limits,
      maxTransactions: alone ? 1 : stream.settings.limits.maxRows,
    };
    const rows = await turn(leadership.drain, place, batch.id, settlement, limits, {
      busy: BUSY,
      idle: IDLE,
    });
    if (rows.length === 0) return signal.aborted ? null : "wal-empty";
    batch.id++;
    const sent = await send(stream, leadership, rows, alone, signal);
    if (sent === null) return null;
    settlement = sent;
    alone = sent.kind === "none";
    if (sent.kind === "conflict" || sent.kind === "failed") logLosses(stream, sent);
  }
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
      const answer = await sendTxn(stream.kv, plan);
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
      if (backoff.attempts === 0) {
        stream.log.warn(
          { code: "EPS-605", batch: batch.id, error: sentence(error) },
          "etcd does not take writes now; trying on",
        );
      }
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

function logLosses(stream: Stream, settlement: Settlement & { kind: "conflict" | "failed" }): void {
  for (const loss of settlement.losses) {
    stream.log.warn(
      {
        code: settlement.kind === "failed" ? "EPS-705" : "EPS-704",
        wal_id: loss.id,
        revision: loss.revision,
        reason: loss.message,
      },
      `a write from SQL ${settlement.kind === "failed" ? "failed" : "lost to etcd"}`,
    );
  }
}
