/** etcd → PostgreSQL: the watch's events, as they come. While one batch is written the next gathers; nothing waits on a timer. */
import type { Batch } from "../core/inbox.ts";
import { foldEvents, probeAfter } from "../core/plan.ts";
import { codeOf, LostPlace, sentence } from "../errors.ts";
import { EtcdError } from "../etcd/error.ts";
import { FreshnessProof } from "../freshness.ts";
import { Backoff } from "../lifecycle.ts";
import type { Outcome } from "../machine.ts";
import { applyEvents, moveCheckpoint } from "../postgres/mirror.ts";
import type { Leadership, Stream } from "../stream.ts";
import { inSpan } from "../telemetry/telemetry.ts";
import { endOf, openWatch } from "../watching.ts";

type MirrorOutcome = Extract<Outcome, "history-lost" | "far-behind" | "history-replaced">;

/** Runs until the watch cannot go on, or `signal` aborts (null). */
export async function mirror(
  stream: Stream,
  leadership: Leadership,
  signal: AbortSignal,
): Promise<MirrorOutcome | null> {
  const backoff = new Backoff();
  while (!signal.aborted) {
    try {
      const outcome = await mirrorOnce(stream, leadership, signal, backoff);
      if (outcome) return outcome;
    } catch (error) {
      if (!(error instanceof EtcdError) || error instanceof LostPlace) throw error;
      stream.telemetry.reconnects("etcd");
      stream.troubles.tell(
        "watch",
        { code: codeOf(error), error: sentence(error) },
        "the watch broke; reopening it",
      );
      await backoff.pause(signal);
    }
  }
  return null;
}

async function mirrorOnce(
  stream: Stream,
  leadership: Leadership,
  signal: AbortSignal,
  backoff: Backoff,
): Promise<MirrorOutcome | null> {
  const { at } = leadership;
  const opened = await openWatch(stream, leadership, at.revision);
  if (opened.kind !== "opened") return opened.kind;
  using follower = opened.follower;
  const { behind } = opened;
  if (stream.settings.rescanAfter !== null && behind > stream.settings.rescanAfter) {
    stream.log.info(
      { code: "EPS-703", behind, rescan_after: stream.settings.rescanAfter },
      "far behind: a scan is shorter",
    );
    return "far-behind";
  }
  using proof = new FreshnessProof(stream, follower);
  while (!signal.aborted) {
    const batch = follower.take();
    if (batch) {
      await apply(stream, leadership, batch, proof);
      backoff.reset();
      continue;
    }
    const end = endOf(stream, follower);
    if (end) return end;
    await follower.arrival(signal);
  }
  return null;
}

/** One batch, one round trip; the checkpoint moves with it, and what it proves is written with it. */
async function apply(
  stream: Stream,
  leadership: Leadership,
  batch: Batch,
  proof: FreshnessProof,
): Promise<void> {
  const { mirror, place, at, clock } = leadership;
  const fresh = proof.proven(batch.to);
  const freshAt = fresh === null ? null : clock.at(fresh);
  if (batch.events.length === 0) {
    if (batch.to > at.revision || freshAt) await moveCheckpoint(mirror, place, at, batch.to, freshAt);
  } else {
    await applyBatch(stream, leadership, batch, freshAt);
  }
  at.revision = batch.to;
  if (fresh === null) return;
  stream.telemetry.vitals.provenAt = fresh;
  stream.troubles.over("watch", "the mirror is fresh again");
}

async function applyBatch(
  stream: Stream,
  { mirror, place, at }: Leadership,
  { events, bytes, to }: Batch,
  freshAt: Date | null,
): Promise<void> {
  const began = performance.now();
  const { columns, skipped } = foldEvents(events, stream.select);
  const probe = probeAfter(at.probe, columns);
  const commit = { columns, to, probe, skipped, freshAt };
  await inSpan(
    stream.telemetry.span("mirror.commit", () => ({ revision: to, events: events.length, bytes })),
    () => applyEvents(mirror, place, at, commit),
  );
  at.probe = probe;
  stream.telemetry.committed(events.length, bytes, began);
  if (stream.log.isLevelEnabled("debug")) {
    stream.log.debug({ after: at.revision, revision: to, events: events.length }, "mirrored");
  }
  for (const key of skipped) {
    stream.troubles.tell("long-key", { code: "EPS-707", ...key }, "a key is too long to be mirrored");
  }
}
