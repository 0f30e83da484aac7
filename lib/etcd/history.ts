/**
 * Is this still the history that was mirrored? A restore can keep cluster id, member id and raft term, so the marker
 * and the newest mirrored row are looked up where they were. A lower revision in a watch's response is a lagging member;
 * here every read is linearizable, and an old server's stale one is read twice.
 */
import { equalBytes, keyText } from "../core/codec.ts";
import type { KeyValue } from "../core/words.ts";
import type { EtcdClient } from "./client.ts";
import { isCompacted, isFuture, readKey } from "./kv.ts";

export interface KnownHistory {
  /** null: none yet. */
  clusterId: string | null;
  /** No revision of etcd can be below this. */
  highWater: number;
  /** The watch begins after it. */
  position: number;
  /** Looked up at `position`; null in a scan, where that is no point of the history. */
  probe: KeyValue | null;
  marker: { key: Uint8Array; revision: number } | null;
  /** The key that is read to learn revision and cluster: the marker's, where there is one. */
  readable: Uint8Array;
}

export type HistoryCheck =
  | { kind: "same"; revision: number; clusterId: string }
  | { kind: "replaced"; revision: number; clusterId: string; because: string };

export async function checkHistory(client: EtcdClient, known: KnownHistory): Promise<HistoryCheck> {
  const key = known.readable;
  let now = await readKey(client, key);
  if (now.revision < known.highWater) now = await readKey(client, key);
  const replaced = (because: string): HistoryCheck => ({
    kind: "replaced",
    revision: now.revision,
    clusterId: now.clusterId,
    because,
  });

  if (known.clusterId !== null && now.clusterId !== known.clusterId) {
    return replaced(`cluster id is '${now.clusterId}', was '${known.clusterId}'`);
  }
  if (now.revision < known.highWater) return replaced(`revision is ${now.revision}, was ${known.highWater}`);
  if (known.marker && known.marker.revision > 0) {
    const found = now.kv?.modRevision ?? 0;
    const wanted = known.marker.revision;
    // 0: somebody deleted it, which is not a restore; the takeover deals with it
    if (found > 0 && found < wanted) return replaced(`the marker's revision is ${found}, was ${wanted}`);
    if (found > wanted && !await holds(client, key, wanted, (kv) => kv.modRevision === wanted)) {
      return replaced(`the marker was not written at revision ${wanted}`);
    }
  }
  const { probe } = known;
  if (probe && !await holds(client, probe.key, known.position, (kv) => isSame(kv, probe))) {
    return replaced(`key '${keyText(probe.key)}' at revision ${known.position} is not as it was mirrored`);
  }
  return { kind: "same", revision: now.revision, clusterId: now.clusterId };
}

function isSame(a: KeyValue, b: KeyValue): boolean {
  return a.modRevision === b.modRevision && a.createRevision === b.createRevision &&
    a.version === b.version &&
    equalBytes(a.value, b.value);
}

/** Whether the key was there, and as `is` says; true where etcd has compacted that revision and nobody can say. */
async function holds(
  client: EtcdClient,
  key: Uint8Array,
  at: number,
  is: (kv: KeyValue) => boolean,
): Promise<boolean> {
  try {
    const { kv } = await readKey(client, key, at);
    return kv !== undefined && is(kv);
  } catch (error) {
    if (isCompacted(error)) return true;
    if (isFuture(error)) return false;
    throw error;
  }
}
