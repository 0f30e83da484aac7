/**
 * A new leader and the batch in flight: what the last leader, or this one before it lost an answer, left in etcd.
 *
 *   PostgreSQL   epoch+1 committed ─────────────────────────────► batch in flight settled
 *   etcd                            marker bumped by compare-and-set
 *
 * In this order. The epoch first (lib/flow/lead.ts): from its commit on the old leader commits nothing. Then the bump: from
 * it on a Txn of the old leader, even one that is still on its way, fails on the marker. Only then is what the marker said
 * before the bump final. Reading the marker without the bump is not enough: the request can arrive after the read.
 *
 * The bump copies the batch that it found, so a crash between bump and settlement leaves the next leader the same question.
 */
import { digest, type Marker, OwnWrites, type Resolution, resolve } from "../core/txn.ts";
import { LostPlace, sentence } from "../errors.ts";
import { EtcdError } from "../etcd/error.ts";
import { isLostAnswer } from "../etcd/kv.ts";
import { bumpMarker, markerHistory, readOwnMarker, type StoredMarker, walkBack } from "../etcd/marker.ts";
import { Backoff } from "../lifecycle.ts";
import type { Session } from "../postgres/client.ts";
import { type Place, raiseEpoch, type StreamRow, writeEvent } from "../postgres/state.ts";
import {
  fence,
  mendHeaders,
  overtaken,
  pendingRows,
  settleDoubtful,
  settleInFlight,
  settleRecovered,
} from "../postgres/wal.ts";
import { type Leadership, markerKey, type Stream } from "../stream.ts";
import { inSpan } from "../telemetry/telemetry.ts";

/**
 * Bumps the marker and settles the batch in flight; from here on this leader may write to etcd. While etcd takes no writes
 * (no space, no rights) it tries on, and the mirror runs. false: `signal` aborted.
 */
export async function takeOver(
  stream: Stream,
  leadership: Leadership,
  signal: AbortSignal,
): Promise<boolean> {
  const backoff = new Backoff();
  while (!signal.aborted) {
    try {
      await inSpan(
        stream.telemetry.span("takeover", () => ({ epoch: leadership.place.epoch })),
        () => resolveBatch(stream, leadership),
      );
      return true;
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      stream.troubles.tell(
        "writes",
        { code: "EPS-605", error: sentence(error) },
        "etcd does not take the marker; the mirror runs, writes from SQL wait",
      );
      await backoff.pause(signal);
    }
  }
  return false;
}

async function resolveBatch(stream: Stream, leadership: Leadership): Promise<void> {
  const { drain: session, place, at: row, batch } = leadership;
  const { before, revision } = await bump(stream, session, place, row);
  const old = before?.marker;
  const resolution = isGone(before, row)
    ? await markerGone(stream, session, place, row)
    : resolve(row, old && { ...old, modRevision: before!.modRevision });
  if (resolution.kind === "commits-lost") await recoverCommits(stream, session, place, row, before!);
  const claimed = Math.max(row.batchId, row.aheadId ?? 0); // no number comes again, also where the marker is gone
  // the marker's batch with its holder, or the next leader takes it for one that PostgreSQL has lost
  const newest = old && old.batch >= claimed ? old : { batch: claimed, batchHolder: row.batchHolder };
  const next = { batch: newest.batch, batchHolder: newest.batchHolder, markerRevision: revision };
  const applied = resolution.kind === "applied" ? resolution.batches : [];
  await settleInFlight(session, place, row.batchId, applied, next);
  for (const { ids } of applied) stream.telemetry.drained("success", ids.length);
  if (resolution.kind !== "nothing") {
    const { batchId: batch, aheadId: ahead } = row;
    stream.log.info(
      { batch, ...(ahead && { ahead }), outcome: resolution.kind },
      "resolved the batch in flight",
    );
  }
  Object.assign(row, {
    batchId: next.batch,
    batchHolder: next.batchHolder,
    markerRevision: revision,
    batchRows: [],
    aheadId: null,
    aheadRows: [],
  });
  Object.assign(batch, {
    id: next.batch,
    markerRevision: revision,
    last: lastBatch(before, place),
    own: new OwnWrites(revision),
  });
}

/** The marker was deleted, and no batch of ours is known to have come after. */
function isGone(before: StoredMarker | null, row: StreamRow): boolean {
  return before === null
    ? row.markerRevision > 0
    : before.marker!.forgotten === true && before.modRevision > row.markerRevision;
}

/** The batch that a bump copies. */
function lastBatch(before: StoredMarker | null, place: Place): Leadership["batch"]["last"] {
  const old = before?.marker;
  if (!old) return { batch: 0, batchHolder: place.holder, rows: [] };
  return {
    batch: old.batch,
    batchHolder: old.batchHolder,
    batchRevision: old.batchRevision ?? before.modRevision,
    beforeRevision: old.beforeRevision,
    rows: old.rows,
  };
}

/** Puts this leader's marker; returns what stood there before, which from now on is final. */
async function bump(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
): Promise<{ before: StoredMarker | null; revision: number }> {
  const key = markerKey(stream.settings.name);
  let before = await readOwnMarker(stream.kv, key, row.streamId);
  for (;;) {
    const old = before?.marker;
    if (old && old.epoch >= place.epoch && old.holder !== place.holder) {
      // PostgreSQL lost commits, or another leader was quicker: the epoch in PostgreSQL decides which
      await raiseEpoch(session, place, old.epoch + 1);
      place.epoch = old.epoch + 1;
    }
    const marker: Marker = {
      streamId: row.streamId,
      epoch: place.epoch,
      holder: place.holder,
      ...lastBatch(before, place),
      ...(isGone(before, row) && { forgotten: true }),
    };
    const put = await bumpMarker(stream.kv, key, before?.modRevision ?? 0, marker).catch((error) => {
      if (isLostAnswer(error)) return null;
      throw error;
    });
    if (put !== null) return { before, revision: put };
    const found = await readOwnMarker(stream.kv, key, row.streamId);
    // an answer was lost, and the bump is there
    if (found?.marker?.holder === place.holder) return { before, revision: found.modRevision };
    if (found?.marker && found.marker.epoch > place.epoch) {
      throw new LostPlace(`epoch ${found.marker.epoch} has bumped the marker`);
    }
    before = found;
  }
}

/** Somebody deleted the marker: its history, as far as etcd has it, tells what became of the batch in flight. */
async function markerGone(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
): Promise<Resolution> {
  stream.log.warn(
    { code: "EPS-710", stream: stream.settings.name },
    "the marker was deleted in etcd; resolving by its history",
  );
  const { puts, whole } = row.batchRows.length === 0 ? { puts: [], whole: true } : await markerHistory(
    stream.kv,
    markerKey(stream.settings.name),
    row.markerRevision,
    { carefulProgress: stream.server.carefulProgress, timeoutMs: stream.settings.freshTimeoutMs },
  );
  // the newest: it tells of the batch before it, too
  const applied = puts.map(({ marker, modRevision }) => marker && resolve(row, { ...marker, modRevision }))
    .findLast((resolution) => resolution?.kind === "applied");
  await session.transaction(async () => {
    await fence(session, place, row.batchId);
    await writeEvent(session, "marker-gone", row.timeline, { revision: row.revision });
    if (applied || whole) return;
    const lost = "It may have been applied: the marker's history is lost";
    await settleDoubtful(session, row.batchId, [...row.batchRows, ...row.aheadRows], lost);
  }, { patient: true });
  return applied ?? { kind: row.batchRows.length === 0 ? "nothing" : "not-applied" };
}

/**
 * PostgreSQL failed over to a replica that lagged: batches that etcd has are unknown here. Each row that the marker
 * names, and that is as it was, is settled where it was applied. A pending row of the same key that came before it would
 * now overwrite it, and becomes a conflict. Where compaction has cut the marker's history, any row may have been applied.
 */
async function recoverCommits(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
  before: StoredMarker,
): Promise<void> {
  // the row's own batch too, where it was still in flight when PostgreSQL saw it last
  const settled = (marker: Marker) => marker.batchHolder === row.batchHolder && row.batchRows.length === 0;
  const known = (marker: Marker) =>
    marker.batch < row.batchId || (marker.batch === row.batchId && settled(marker));
  const { batches, whole } = await walkBack(stream.kv, markerKey(stream.settings.name), before, known);
  const rows = await session.transaction(async () => {
    const recovered: number[] = [];
    await fence(session, place, row.batchId);
    for (const { marker, revision } of batches.toReversed()) {
      const named = new Map(marker.rows.map(([id, expected, sum]) => [id, { expected, sum }]));
      const pending = await pendingRows(session, [...named.keys()]);
      const ids = pending.filter((row) => digest(row) === named.get(Number(row.id))!.sum).map((row) =>
        Number(row.id)
      );
      await settleRecovered(session, marker.batch, revision, ids, ids.map((id) => named.get(id)!.expected));
      recovered.push(...ids);
    }
    // after all of them: what came first can have been applied in a later batch
    const late = "A later write of this key was applied before PostgreSQL lost commits";
    await settleDoubtful(session, row.batchId, await overtaken(session, recovered), late);
    const cut = "It may have been applied: PostgreSQL lost commits, and the marker's history is compacted";
    if (!whole) await settleDoubtful(session, row.batchId, null, cut);
    await mendHeaders(session);
    await writeEvent(session, "commits-lost", row.timeline, {
      detail: { batches: batches.length, rows: recovered.length, whole },
    });
    return recovered.length;
  }, { patient: true });
  stream.log.warn(
    { code: "EPS-709", batches: batches.length, rows, whole },
    "PostgreSQL had lost commits; recovered them from the marker",
  );
}
