/**
 * Taking the writer's place in PostgreSQL. Safety is the epoch in every write to PostgreSQL and the marker in every write
 * to etcd (lib/flow/takeover.ts); lease and lock only make it quick.
 */
import { Control } from "../control.ts";
import { OwnWrites } from "../core/txn.ts";
import { LostPlace, namedSentence } from "../errors.ts";
import { checkHistory, type HistoryCheck } from "../etcd/history.ts";
import { readOwnMarker } from "../etcd/marker.ts";
import { sleep, within } from "../lifecycle.ts";
import { isWhole, next } from "../machine.ts";
import { Session } from "../postgres/client.ts";
import { ServerClock } from "../postgres/clock.ts";
import { readProbe } from "../postgres/mirror.ts";
import {
  endHolder,
  leavePlace,
  type Place,
  readStream,
  renewLease,
  setCluster,
  showInstance,
  startTimeline,
  type StreamRow,
  takePlace,
  tryLock,
  writeEvent,
} from "../postgres/state.ts";
import { knownMarker, type Leadership, markerKey, readableKey, type Stream } from "../stream.ts";

const RENEW_MS = 1_000;
/** After so long without an answer the lease has run out; a server that has vanished may never answer. */
const LEASE_MS = 5_000;
const STANDBY_MS = 250;

/** Waits for the place and takes it. Before it writes to etcd the drain takes over the marker. */
export async function lead(stream: Stream, signal: AbortSignal): Promise<Leadership> {
  await using opened = new AsyncDisposableStack();
  const session = opened.use(await Session.open(stream.postgres));
  const holder = crypto.randomUUID();
  const taken = await waitForPlace(stream, session, holder, signal);
  const place: Place = { epoch: taken.epoch, holder };
  const lost = new AbortController();
  opened.defer(async () => {
    if (!lost.signal.aborted) await leavePlace(session, place).catch(() => {});
  });
  // A crash of PostgreSQL takes the mirror's last commits away whole, checkpoint and data, and what is gone comes again
  // from etcd. Its WAL is written in order: who has committed after a mirror that he saw has that mirror on disk too.
  const mirror = opened.use(await Session.open({ ...stream.postgres, flushLater: true }));
  const drain = opened.use(await Session.open(stream.postgres));
  // who has lost the place waits for no answer any more
  lost.signal.addEventListener("abort", () => {
    for (const each of [session, mirror, drain]) each.abandon(lost.signal.reason);
  }, { once: true });
  const clock = new ServerClock();
  const control = new Control();
  const pids = [session, mirror, drain].map((s) => s.pid);
  const committing = () => mirror.busy || drain.busy;
  const beat = () => stream.telemetry.vitals.beat();
  const renewal = opened.use(
    renewing(session, { place, streamId: taken.streamId, pids, clock, control, beat, committing }, lost),
  );

  const at = await checkedHistory(stream, mirror, place, taken);
  await setCluster(mirror, place, at.clusterId!);
  const detail = { epoch: place.epoch, holder };
  await writeEvent(mirror, "leader", at.timeline, { revision: at.revision, detail });
  stream.log.info(
    { epoch: place.epoch, state: at.state, revision: at.revision },
    "this instance is the writer",
  );

  const wakers = new Set<() => void>();
  await session.listen(
    "etcd_sync_wal",
    (schema) => schema === stream.settings.schema && wakers.forEach((wake) => wake()),
  );
  await session.listen("etcd_sync_control", (schema) => schema === stream.settings.schema && renewal.now());
  const stack = opened.move();
  return {
    place,
    at,
    mirror,
    drain,
    clock,
    control,
    lost: lost.signal,
    batch: {
      id: at.batchId,
      markerRevision: at.markerRevision,
      last: { batch: 0, batchHolder: holder, rows: [] },
      own: new OwnWrites(0),
    },
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
  await showInstance(session, streamId);
  for (let standby = false;; standby = true) {
    // a lock that is free says that the holder's session is gone, whatever its lease
    const freed = await tryLock(session, streamId);
    await endHolder(session, freed);
    const row = await takePlace(session, holder, freed);
    if (row) {
      stream.telemetry.vitals.takes();
      return row;
    }
    stream.telemetry.vitals.standsBy();
    stream.troubles.forget("watch", "writes"); // another leader sees their end
    if (!standby) {
      stream.log.info({ stream: stream.settings.name }, "standing by: another instance is the writer");
    }
    await sleep(STANDBY_MS, signal);
    if (signal.aborted) throw new LostPlace("stopped while standing by");
  }
}

interface Renewed {
  place: Place;
  streamId: string;
  pids: number[];
  clock: ServerClock;
  control: Control;
  /** The lease is renewed. */
  beat: () => void;
  /** A commit of this leader's is under way. */
  committing: () => boolean;
}

/** Renews the lease until it is disposed of; `now()`: at once, for operators ask for something. */
function renewing(
  session: Session,
  { place, streamId, pids, clock, control, beat, committing }: Renewed,
  lost: AbortController,
): AsyncDisposable & { now(): void } {
  const stop = new AbortController();
  let locked = false;
  let asked = false;
  let wake = () => {};
  const renew = async () => {
    asked = false;
    const renewed = await renewLease(session, place, pids, committing);
    clock.note(renewed.now, performance.now());
    control.note(renewed.asked);
    // taken from a frozen holder, whose session had the lock: without it the place would look free
    locked ||= await tryLock(session, streamId);
    beat();
  };
  const done = (async () => {
    while (!stop.signal.aborted) {
      try {
        await within(LEASE_MS, renew());
      } catch (error) {
        lost.abort(new LostPlace(`the lease was not renewed: ${namedSentence(error)}`, { cause: error }));
        return;
      }
      if (!asked) await sleep(RENEW_MS, stop.signal, (waker) => wake = waker);
    }
  })();
  return {
    now() {
      asked = true;
      wake();
    },
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
  if (!stream.settings.oneWay) await readOwnMarker(stream.kv, markerKey(stream.settings.name), row.streamId);
  const check = await checkHistory(stream.kv, {
    clusterId: row.clusterId,
    highWater: Math.max(row.revision, row.scanRevision),
    position: row.revision,
    probe: isWhole(row.state) ? await readProbe(session, row.probe) : null,
    marker: knownMarker(stream, row.markerRevision),
    readable: readableKey(stream),
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
  stream.log.warn(
    { code: "EPS-612", because: check.because, timeline: row.timeline + 1 },
    "the history of etcd was replaced",
  );
  await startTimeline(session, place, row, next(row.state, "history-replaced"), check.clusterId);
  return await readStream(session);
}
