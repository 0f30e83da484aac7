/** The marker in etcd: read, bumped, and walked back through its history. */
import { decodeMarker, encodeMarker, type Marker } from "../core/txn.ts";
import { successor } from "../core/codec.ts";
import { Fatal, LostPlace } from "../errors.ts";
import type { EtcdClient } from "./client.ts";
import { isCompacted, readKey, sendTxn } from "./kv.ts";
import { Follower } from "./follow.ts";

export interface StoredMarker {
  modRevision: number;
  /** undefined: what stands there is none of ours. */
  marker: Marker | undefined;
}

/** null: there is none. */
export async function readMarker(
  client: EtcdClient,
  key: Uint8Array,
  revision = 0,
): Promise<StoredMarker | null> {
  const { kv } = await readKey(client, key, revision);
  return kv ? { modRevision: kv.modRevision, marker: decodeMarker(kv.value) } : null;
}

/** The marker, which must be of this installation. @throws {Fatal} where two installations share a name */
export async function readOwnMarker(
  client: EtcdClient,
  key: Uint8Array,
  streamId: string,
): Promise<StoredMarker | null> {
  const found = await readMarker(client, key);
  if (found && found.marker?.streamId !== streamId) {
    throw new Fatal(
      "EPS-105",
      `Cannot use etcd key '${
        new TextDecoder().decode(key)
      }': another installation writes it; give this one another --stream`,
    );
  }
  return found;
}

/** Puts the marker if it still has `expected` as its revision; the new revision, or null. */
export async function bumpMarker(
  client: EtcdClient,
  key: Uint8Array,
  expected: number,
  marker: Marker,
): Promise<number | null> {
  const answer = await sendTxn(client, {
    compares: [{ key, revision: expected }],
    writes: [{ key, value: encodeMarker(marker), keepLease: false }],
  });
  return answer.applied ? answer.revision : null;
}

/** A batch as the marker's history shows it. */
export interface AppliedBatch {
  revision: number;
  marker: Marker;
}

/**
 * The batches before and at `from`, newest first, back to (without) the one that `until` recognizes. `whole` is false
 * where compaction has cut the history first.
 */
export async function walkBack(
  client: EtcdClient,
  key: Uint8Array,
  from: StoredMarker,
  until: (marker: Marker) => boolean,
): Promise<{ batches: AppliedBatch[]; whole: boolean }> {
  const batches: AppliedBatch[] = [];
  let at: StoredMarker | null = from;
  while (at?.marker && at.marker.batch > 0 && !until(at.marker)) {
    const revision: number = at.marker.batchRevision ?? at.modRevision;
    batches.push({ revision, marker: at.marker });
    try {
      at = await readMarker(client, key, revision - 1);
    } catch (error) {
      if (isCompacted(error)) return { batches, whole: false };
      throw error;
    }
  }
  return { batches, whole: true };
}

/**
 * The marker's puts after revision `after`, oldest first; `whole` is false where compaction has cut them.
 */
export async function markerHistory(
  client: EtcdClient,
  key: Uint8Array,
  after: number,
  { carefulProgress, timeoutMs }: { carefulProgress: boolean; timeoutMs: number },
): Promise<{ puts: StoredMarker[]; whole: boolean }> {
  const { revision: now, clusterId } = await readKey(client, key);
  for (let position = after;;) {
    const options = {
      position,
      clusterId,
      carefulProgress,
      fragment: false,
      freshTimeoutMs: timeoutMs,
    };
    using follower = await Follower.open(client, { from: key, to: successor(key) }, options);
    const puts: StoredMarker[] = [];
    let at = position;
    while (at < now && !follower.end) {
      follower.requestProgress();
      await follower.arrival(NEVER, 100);
      const batch = follower.take();
      for (const { kv, tombstone } of batch?.events ?? []) {
        if (!tombstone) puts.push({ modRevision: kv.modRevision, marker: decodeMarker(kv.value) });
      }
      at = batch?.to ?? at;
    }
    const end = follower.end;
    if (!end) return { puts, whole: position === after };
    if (end.kind === "broken") {
      client.startOver();
      throw end.error;
    }
    if (end.kind === "history-replaced") throw new LostPlace(`cluster '${end.clusterId}' has answered`);
    position = end.compactRevision;
  }
}

const NEVER = new AbortController().signal;
