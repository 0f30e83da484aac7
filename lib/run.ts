/** The loop: state → its flow → outcome → transition. */
import type { Control } from "./control.ts";
import { codeOf, Fatal, kindOf, LostPlace, namedSentence, serverOf } from "./errors.ts";
import { drain, waitForWal } from "./flow/drain.ts";
import { keep } from "./flow/keep.ts";
import { lead } from "./flow/lead.ts";
import { mirror } from "./flow/mirror.ts";
import { scan } from "./flow/scan.ts";
import { takeOver } from "./flow/takeover.ts";
import { attendResyncs, verifyOften } from "./flow/verify.ts";
import { aborted, Backoff } from "./lifecycle.ts";
import { isWhole, next, type Outcome, type State } from "./machine.ts";
import { readStream, startScanAgain, startTimeline, stopDraining } from "./postgres/state.ts";
import { readKey } from "./etcd/kv.ts";
import { type Leadership, readableKey, type Stream } from "./stream.ts";
import type { Vitals } from "./telemetry/vitals.ts";

/** A leadership, or a wait for one, that lasted so long was a healthy sign. */
const HEALTHY_MS = 10_000;

/** Runs a stream until `signal` aborts. Whatever breaks, it begins again as a new leader, or a standby. */
export async function runStream(stream: Stream, signal: AbortSignal): Promise<void> {
  const stop = new AbortController();
  // beside, not within a leadership: the WAL fills while there is no etcd to lead with
  const keeping = keep(stream, AbortSignal.any([signal, stop.signal]));
  try {
    await leadAgain(stream, signal);
  } finally {
    stop.abort();
    await keeping;
  }
}

async function leadAgain(stream: Stream, signal: AbortSignal): Promise<void> {
  const backoff = new Backoff();
  const { vitals } = stream.telemetry;
  while (!signal.aborted) {
    try {
      await using leadership = await lead(stream, signal);
      vitals.leads(leadership.at, leadership.control);
      await work(stream, leadership, AbortSignal.any([signal, leadership.lost]));
      if (leadership.lost.aborted && !signal.aborted) throw leadership.lost.reason;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Fatal) throw error;
      if (hadPlace(vitals) && performance.now() - vitals.since > HEALTHY_MS) backoff.reset();
      const kind = error instanceof LostPlace ? "lost-place" : kindOf(error);
      const server = serverOf(error);
      vitals.fails(namedSentence(error), server);
      stream.telemetry.failed(kind);
      if (kind === "connection") stream.telemetry.reconnects(server ?? "postgres");
      stream.troubles.tell(
        "place",
        { code: codeOf(error), error: namedSentence(error), kind },
        "begins anew",
      );
      if (!(error instanceof LostPlace) && kindOf(error) === "runtime") {
        stream.log.debug({ stack: (error as Error).stack }, "stack");
      }
      await backoff.pause(signal);
    }
  }
}

function hadPlace({ role }: Vitals): boolean {
  return role === "leader" || role === "standby";
}

async function work(stream: Stream, leadership: Leadership, signal: AbortSignal): Promise<void> {
  const { control } = leadership;
  while (!signal.aborted) {
    await whilePaused(stream, control, signal);
    const ended = new AbortController();
    const running = AbortSignal.any([signal, ended.signal]);
    const pausing = control.until(() => control.pausedAt !== null, running).then(() => ended.abort());
    const outcome = isWhole(leadership.at.state)
      ? await follow(stream, leadership, running)
      : await scan(stream, leadership, running);
    ended.abort();
    await pausing;
    if (outcome) await transition(stream, leadership, outcome);
    else if (!signal.aborted) await readAgain(leadership); // a pause
  }
}

/** The row as it is by now: the drain has moved its side on, and by that the next takeover resolves what is in flight. */
async function readAgain({ at, mirror, place }: Leadership): Promise<void> {
  Object.assign(at, await readStream(mirror), { epoch: place.epoch, clusterId: at.clusterId });
}

/** A pause is no state: the row says where the stream goes on. The place is kept, and the lease renewed. */
async function whilePaused(stream: Stream, control: Control, signal: AbortSignal): Promise<void> {
  if (control.pausedAt === null) return;
  stream.log.warn(
    { code: "EPS-610", since: control.pausedAt },
    "paused: nothing is mirrored or sent until 'etcd-pg-sync resume'",
  );
  await control.until(() => control.pausedAt === null, signal);
  if (!signal.aborted) stream.log.info("resumed");
}

type Interrupting = Exclude<Outcome, "wal-waiting" | "wal-empty">;

/** Streaming and draining: the mirror runs all along, the drain and the verifier wake and sleep beside it. */
async function follow(
  stream: Stream,
  leadership: Leadership,
  signal: AbortSignal,
): Promise<Interrupting | null> {
  const stop = new AbortController();
  const stopped = AbortSignal.any([signal, stop.signal]);
  const mirroring = mirror(stream, leadership, stopped);
  const draining = drainAndWait(stream, leadership, stopped);
  const verifying = [verifyOften(stream, stopped), attendResyncs(stream, leadership, stopped)];
  try {
    return await Promise.race([mirroring, draining]);
  } finally {
    stop.abort();
    await Promise.allSettled([mirroring, draining, ...verifying]);
  }
}

async function drainAndWait(stream: Stream, leadership: Leadership, signal: AbortSignal): Promise<null> {
  const { at } = leadership;
  if (stream.settings.oneWay) return await drainNothing(stream, leadership, signal);
  if (!await takeOver(stream, leadership, signal)) return null;
  while (!signal.aborted) {
    const outcome = at.state === "streaming"
      ? await waitForWal(leadership, signal)
      : await drain(stream, leadership, signal);
    // the database's row follows with the next claim, or has been written with the last settlement
    if (outcome) at.state = move(stream, at.state, outcome);
  }
  return null;
}

/** A one-way stream has no WAL. What waits in it from before goes on waiting. */
async function drainNothing(
  stream: Stream,
  { at, drain, place }: Leadership,
  signal: AbortSignal,
): Promise<null> {
  if (at.state === "draining") {
    const to = move(stream, at.state, "wal-empty");
    await stopDraining(drain, place, at.state, to);
    at.state = to;
  }
  await aborted(signal);
  return null;
}

function move(stream: Stream, from: State, outcome: Outcome): State {
  const to = next(from, outcome);
  const level = outcome === "wal-waiting" || outcome === "wal-empty" ? "debug" : "info";
  stream.log[level]({ from, outcome, to }, "state changed");
  stream.telemetry.changed(outcome);
  return to;
}

/** Writes the transitions that interrupt; the others are written with their data. */
async function transition(stream: Stream, leadership: Leadership, outcome: Interrupting): Promise<void> {
  const { mirror: session, place, at } = leadership;
  const from = at.state;
  const to = move(stream, from, outcome);
  if (outcome === "caught-up") {
    at.state = to;
    return;
  }
  // the row of the database: the drain may have moved it between streaming and draining
  const row = await readStream(session);
  if (outcome === "history-replaced") {
    const { clusterId } = await readKey(stream.kv, readableKey(stream));
    await startTimeline(session, place, row, to, clusterId);
    throw new LostPlace("the history of etcd was replaced: the marker has to be bumped in the new one");
  }
  await startScanAgain(session, place, row, to, outcome);
  await readAgain(leadership);
}
