/** Opening the stream's watch: no event of it is applied before the history is known to be the one that was mirrored. */
import { Follower } from "./etcd/follow.ts";
import { checkHistory } from "./etcd/history.ts";
import { isTooLarge } from "./etcd/kv.ts";
import { isWhole } from "./machine.ts";
import { readProbe } from "./postgres/mirror.ts";
import { knownMarker, type Leadership, prefixRange, readableKey, type Stream } from "./stream.ts";

export type Opened =
  | { kind: "opened"; follower: Follower; /** etcd's revisions ahead of `position`. */ behind: number }
  | { kind: "history-replaced" | "history-lost" };

/** Opens the watch after `position`, then looks (linearizably) whether this is still the same history. */
export async function openWatch(stream: Stream, leadership: Leadership, position: number): Promise<Opened> {
  const { at, batch } = leadership;
  using opening = new DisposableStack();
  const follower = opening.use(
    await Follower.open(stream.watch, prefixRange(stream.settings.prefix), {
      position,
      clusterId: at.clusterId!,
      carefulProgress: stream.server.carefulProgress,
      fragment: stream.fragment,
      freshTimeoutMs: stream.settings.freshTimeoutMs,
    }),
  );
  const history = await checkHistory(stream.kv, {
    clusterId: at.clusterId,
    highWater: Math.max(at.revision, at.scanRevision),
    position,
    probe: isWhole(at.state) ? await readProbe(leadership.mirror, at.probe) : null,
    marker: knownMarker(stream, batch.markerRevision),
    readable: readableKey(stream),
  });
  if (history.kind === "replaced") {
    stream.log.warn({ code: "EPS-612", because: history.because }, "the history of etcd was replaced");
    return { kind: "history-replaced" };
  }
  opening.move();
  return { kind: "opened", follower, behind: history.revision - position };
}

/** How a follower's end is dealt with: an outcome, or its error is thrown. */
export function endOf(stream: Stream, follower: Follower): "history-lost" | "history-replaced" | null {
  const { end } = follower;
  if (end?.kind === "broken") {
    if (isTooLarge(end.error)) stream.fragment = true;
    stream.watch.startOver();
    throw end.error;
  }
  if (end) {
    const code = end.kind === "history-lost" ? "EPS-702" : "EPS-612";
    stream.troubles.tell(end.kind, { code, ...end }, "the watch cannot go on");
  }
  return end?.kind ?? null;
}
