/**
 * Is this still the history that was mirrored? A restore can keep cluster id, member id and raft term, so the marker
 * and the newest mirrored row are looked up where they were. A lower revision in a watch's response is a lagging member;
 * here every read is linearizable, and an old server's stale one is read twice.
 */
import { keyBytes } from "../core/codec.ts";
import { type EtcdClient, EtcdError } from "./client.ts";
import { isCompacted, readKey } from "./kv.ts";

export interface KnownHistory {
  /** null: none yet. */
  clusterId: string | null;
  /** No revision of etcd can be below this. */
  highWater: number;
  /** The watch begins after it. */
  position: number;
  /** Looked up at `position`; null in a scan, where that is no point of the history. */
  probe: { key: string; revision: number } | null;
  marker: { key: Uint8Array; revision: number } | null;
}

export type HistoryCheck =
  | { kind: "same"; revision: number; clusterId: string; positionCompacted: boolean }
  | { kind: "replaced"; revision: number; clusterId: string; because: string };

export async function checkHistory(client: EtcdClient, known: KnownHistory): Promise<HistoryCheck> {
  const key = known.marker?.key ?? new Uint8Array([0]);
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
    // 0: somebody deleted it, which is not a restore; the leader deals with it
    if (found > 0 && found < known.marker.revision) {
      return replaced(`the marker's revision is ${found}, was ${known.marker.revision}`);
    }
    if (
      found > known.marker.revision && !await isAt(client, key, known.marker.revision, known.marker.revision)
    ) {
      return replaced(`the marker was not written at revision ${known.marker.revision}`);
    }
  }
  if (
    known.probe &&
    !await isAt(client, keyBytes(known.probe.key), known.position, known.probe.revision)
  ) {
    return replaced(
      `key '${known.probe.key}' did not have revision ${known.probe.revision} at revision ${known.position}`,
    );
  }
  const positionCompacted = await isCompactedAt(client, key, known.position);
  return { kind: "same", revision: now.revision, clusterId: now.clusterId, positionCompacted };
}

/** Whether the key had that mod_revision; true where etcd has compacted it and nobody can say. */
async function isAt(client: EtcdClient, key: Uint8Array, at: number, modRevision: number): Promise<boolean> {
  try {
    return (await readKey(client, key, at)).kv?.modRevision === modRevision;
  } catch (error) {
    if (isCompacted(error)) return true;
    if (error instanceof EtcdError && error.message.includes("future revision")) return false;
    throw error;
  }
}

async function isCompactedAt(client: EtcdClient, key: Uint8Array, at: number): Promise<boolean> {
  if (at === 0) return false;
  try {
    await readKey(client, key, at);
    return false;
  } catch (error) {
    if (isCompacted(error)) return true;
    throw error;
  }
}
