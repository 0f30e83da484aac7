/**
 * Taking the writer's place. Safety is the epoch in every write to PostgreSQL and the marker in every write to etcd;
 * lease and lock only make it quick.
 *
 *   PostgreSQL   epoch+1 committed ─────────────────────────────► batch in flight settled
 *   etcd                            marker bumped by compare-and-set
 *
 * In this order. The epoch first: from its commit on the old leader commits nothing. Then the bump: from it on a Txn of
 * the old leader, even one that is still on its way, fails on the marker. Only then is what the marker said before the
 * bump final. Reading the marker without the bump is not enough: the request can arrive after the read.
 */
import { digest, type Marker, OwnWrites, type Resolution, resolve } from "../core/txn.ts";
import { Fatal, LostPlace, sentence } from "../errors.ts";
import { checkHistory, type HistoryCheck } from "../etcd/history.ts";
import { isLostAnswer } from "../etcd/kv.ts";
import { bumpMarker, markerHistory, readMarker, type StoredMarker, walkBack } from "../etcd/marker.ts";
import { sleep } from "../lifecycle.ts";
import { isWhole, next } from "../machine.ts";
import { Session } from "../postgres/client.ts";
import {
  endHolder,
  leavePlace,
  type Place,
  raiseEpoch,
  readStream,
  renewLease,
  startTimeline,
  type StreamRow,
  takePlace,
  tryLock,
  writeEvent,
} from "../postgres/state.ts";
import { pendingRows, settleDoubtful, settleInFlight, settleRecovered } from "../postgres/wal.ts";
import { type BatchState, type Leadership, markerKey, type Stream } from "../stream.ts";

const RENEW_MS = 1_000;
const STANDBY_MS = 250;

/** Waits for the place, takes it, and resolves what the last leader left. */
export async function lead(stream: Stream, signal: AbortSignal): Promise<Leadership> {
  await using opened = new AsyncDisposableStack();
  const session = opened.use(await Session.open(stream.postgres));
  const holder = crypto.randomUUID();
  const taken = await waitForPlace(stream, session, holder, signal);
  const place: Place = { epoch: taken.epoch, holder };
  const mirror = opened.use(await Session.open(stream.postgres));
  const drain = opened.use(await Session.open(stream.postgres));
  opened.defer(() => leavePlace(session, place).catch(() => {}));

  const at = await checkedHistory(stream, session, place, taken);
  const batch = await resolveBatch(stream, session, place, at);
  Object.assign(at, {
    epoch: place.epoch,
    batchId: batch.id,
    markerRevision: batch.markerRevision,
    batchRows: [],
  });
  await writeEvent(session, "leader", at.timeline, {
    revision: at.revision,
    detail: { epoch: place.epoch, holder },
  });
  stream.log.info(
    { epoch: place.epoch, state: at.state, revision: at.revision },
    "this instance is the writer",
  );

  const lost = new AbortController();
  const wakers = new Set<() => void>();
  await session.listen(
    "etcd_sync_wal",
    (schema) => schema === stream.settings.schema && wakers.forEach((wake) => wake()),
  );
  opened.use(renewing(session, place, [session, mirror, drain].map((s) => s.pid), lost));
  const stack = opened.move();
  return {
    place,
    at,
    mirror,
    drain,
    lost: lost.signal,
    batch,
    onWalNotify: (wake) => {
      wakers.add(wake);
      return () => wakers.delete(wake);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

async function waitForPlace(
  stream: Stream,
  session: Session,
  holder: string,
  signal: AbortSignal,
): Promise<StreamRow> {
  const { streamId } = await readStream(session);
  for (let standby = false;; standby = true) {
    // a lock that is free says that the holder's session is gone, whatever its lease
    const freed = await tryLock(session, streamId);
    if (!freed) await endHolder(session);
    const row = await takePlace(session, holder, freed);
    if (row) return row;
    if (!standby) {
      stream.log.info({ stream: stream.settings.name }, "standing by: another instance is the writer");
    }
    await sleep(STANDBY_MS, signal);
    if (signal.aborted) throw new LostPlace("stopped while standing by");
  }
}

function renewing(session: Session, place: Place, pids: number[], lost: AbortController): AsyncDisposable {
  const stop = new AbortController();
  const done = (async () => {
    while (!stop.signal.aborted) {
      try {
        await renewLease(session, place, pids);
      } catch (error) {
        lost.abort(new LostPlace(`the lease was not renewed: ${sentence(error)}`, { cause: error }));
        return;
      }
      await sleep(RENEW_MS, stop.signal);
    }
  })();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await done;
    },
  };
}

/** The stream's row, in a new timeline where etcd's history was replaced while nobody looked. */
async function checkedHistory(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
): Promise<StreamRow> {
  const check = await checkHistory(stream.kv, {
    clusterId: row.clusterId,
    highWater: Math.max(row.revision, row.scanRevision),
    checkpoint: isWhole(row.state) ? row.revision : null,
    probe: isWhole(row.state) ? row.probe : null,
    marker: { key: markerKey(stream.settings.name), revision: row.markerRevision },
  });
  if (check.kind === "replaced") return await replaced(stream, session, place, row, check);
  return { ...row, clusterId: check.clusterId };
}

async function replaced(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
  check: HistoryCheck & { kind: "replaced" },
): Promise<StreamRow> {
  stream.log.warn({ because: check.because, timeline: row.timeline + 1 }, "the history of etcd was replaced");
  await startTimeline(session, place, row, next(row.state, "history-replaced"), check.clusterId);
  return await readStream(session);
}

/** Bumps the marker and settles the batch in flight by what stood there before. */
async function resolveBatch(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
): Promise<BatchState> {
  const { before, revision } = await bump(stream, session, place, row);
  const old = before?.marker;
  const last = old
    ? {
      batch: old.batch,
      batchHolder: old.batchHolder,
      batchRevision: old.batchRevision ?? before.modRevision,
      rows: old.rows,
    }
    : { batch: 0, batchHolder: place.holder, rows: [] };
  const next = {
    batch: Math.max(row.batchId, last.batch),
    markerRevision: revision,
    clusterId: row.clusterId!,
  };

  const resolution = before === null && row.markerRevision > 0
    ? await markerGone(stream, session, row)
    : resolve(row, old && { ...old, modRevision: before!.modRevision });
  if (resolution.kind === "commits-lost") await recoverCommits(stream, session, row, before!);
  await settleInFlight(session, place, row.batchId, resolution.kind === "applied" ? resolution : null, next);
  if (row.batchRows.length > 0 || resolution.kind !== "nothing") {
    stream.log.info({ batch: row.batchId, outcome: resolution.kind }, "resolved the batch in flight");
  }
  return { id: next.batch, markerRevision: revision, last, own: new OwnWrites(revision) };
}

/** Puts this leader's marker; returns what stood there before, which from now on is final. */
async function bump(
  stream: Stream,
  session: Session,
  place: Place,
  row: StreamRow,
): Promise<{ before: StoredMarker | null; revision: number }> {
  const key = markerKey(stream.settings.name);
  let before = await readMarker(stream.kv, key);
  for (;;) {
    const old = before?.marker;
    if (before && old?.streamId !== row.streamId) {
      throw new Fatal(
        "configuration",
        `Cannot start stream '${stream.settings.name}': etcd key '${
          new TextDecoder().decode(key)
        }' belongs to another installation; give this one another --stream`,
      );
    }
    if (old && old.epoch >= place.epoch) {
      // PostgreSQL lost commits, or another leader was quicker: the epoch in PostgreSQL decides which
      await raiseEpoch(session, place, old.epoch + 1);
      place.epoch = old.epoch + 1;
    }
    const marker: Marker = {
      streamId: row.streamId,
      epoch: place.epoch,
      holder: place.holder,
      batch: old?.batch ?? 0,
      batchHolder: old?.batchHolder ?? place.holder,
      ...(before && old && { batchRevision: old.batchRevision ?? before.modRevision }),
      rows: old?.rows ?? [],
    };
    const put = await bumpMarker(stream.kv, key, before?.modRevision ?? 0, marker).catch((error) => {
      if (isLostAnswer(error)) return null;
      throw error;
    });
    if (put !== null) return { before, revision: put };
    const found = await readMarker(stream.kv, key);
    // an answer was lost, and the bump is there
    if (found?.marker?.holder === place.holder) return { before, revision: found.modRevision };
    if (found?.marker && found.marker.epoch > place.epoch) {
      throw new LostPlace(`epoch ${found.marker.epoch} has bumped the marker`);
    }
    before = found;
  }
}

/** Somebody deleted the marker: its history, as far as etcd has it, tells what became of the batch in flight. */
async function markerGone(stream: Stream, session: Session, row: StreamRow): Promise<Resolution> {
  stream.log.warn(
    { key: markerKey(stream.settings.name) },
    "the marker was deleted in etcd; resolving by its history",
  );
  await writeEvent(session, "marker-gone", row.timeline, { revision: row.revision });
  if (row.batchRows.length === 0) return { kind: "nothing" };
  const { puts, since } = await markerHistory(stream.kv, markerKey(stream.settings.name));
  for (const { marker, modRevision } of puts) {
    const resolution = marker && resolve(row, { ...marker, modRevision });
    if (resolution?.kind === "applied") return resolution;
  }
  if (since > row.markerRevision) {
    await settleDoubtful(
      session,
      row.batchId,
      { ids: row.batchRows },
      "It may have been applied: the marker's history is lost",
    );
  }
  return { kind: "not-applied" };
}

/**
 * PostgreSQL failed over to a replica that lagged: batches that etcd has are unknown here. Each row that the marker
 * names, and that is as it was, is settled where it was applied. A pending row of the same key that came before it would
 * now overwrite it, and becomes a conflict. Where compaction has cut the marker's history, any row may have been applied.
 */
async function recoverCommits(
  stream: Stream,
  session: Session,
  row: StreamRow,
  before: StoredMarker,
): Promise<void> {
  const known = (marker: Marker) =>
    marker.batch < row.batchId || (marker.batch === row.batchId && marker.batchHolder === row.batchHolder);
  const { batches, whole } = await walkBack(stream.kv, markerKey(stream.settings.name), before, known);
  let recovered = 0;
  await session.transaction(async () => {
    for (const { marker, revision } of batches.toReversed()) {
      const named = new Map(marker.rows.map(([id, expected, sum]) => [id, { expected, sum }]));
      const pending = await pendingRows(session, [...named.keys()]);
      const same = pending.filter((row) => digest(row) === named.get(Number(row.id))!.sum);
      const ids = same.map((row) => Number(row.id));
      await settleRecovered(session, marker.batch, revision, ids, ids.map((id) => named.get(id)!.expected));
      await settleDoubtful(
        session,
        marker.batch,
        { keys: same.map((row) => row.key), before: ids },
        "A later write of this key was applied before PostgreSQL lost commits",
      );
      recovered += ids.length;
    }
    if (!whole) {
      await settleDoubtful(
        session,
        row.batchId,
        "all",
        "It may have been applied: PostgreSQL lost commits, and the marker's history is compacted",
      );
    }
    await writeEvent(session, "commits-lost", row.timeline, {
      detail: { batches: batches.length, rows: recovered, whole },
    });
  });
  stream.log.warn(
    { batches: batches.length, rows: recovered, whole },
    "PostgreSQL had lost commits; recovered them from the marker",
  );
}
