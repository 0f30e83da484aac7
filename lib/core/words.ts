/** The words of the protocol (docs/how-it-works.md). Revisions are numbers (they stay far below 2^53). */

/** One version of a key, as etcd's wire has it. */
export interface KeyValue {
  key: Uint8Array;
  value: Uint8Array;
  createRevision: number;
  modRevision: number;
  version: number;
  /** Signed 64 bit, 0 = none. */
  lease: bigint;
}

/** The key that a cursor stands on: offsets into `bytes`, valid until the next step. */
export interface KeyCursor {
  readonly bytes: Uint8Array;
  keyFrom: number;
  keyTo: number;
  valueFrom: number;
  valueTo: number;
  createRevision: number;
  modRevision: number;
  version: number;
  /** Signed 64 bit, 0 = none. */
  lease: bigint;
  /** Steps to the next key; false: there is none. */
  next(): boolean;
}

/** Keys and values as they lie in etcd's answer; a cursor makes no object for each, of which a scan has millions. */
export interface PackedKeys extends Iterable<KeyValue> {
  readonly count: number;
  cursor(): KeyCursor;
}

/** One event of a watch. A tombstone has only `key` and `modRevision`. */
export interface Event {
  tombstone: boolean;
  kv: KeyValue;
}

/** A row as the mirror's tables hold it: exactly one of `value` and `valueBytes`, neither for a tombstone. */
export interface MirrorRow {
  key: string;
  value: string | null;
  valueBytes: Uint8Array | null;
  revision: number;
  createRevision: number;
  version: number;
  lease: string;
}

/** A row of the WAL that was claimed. */
export interface WalRow {
  id: string;
  txid: string;
  ts: string;
  key: string;
  value: string | null;
  valueBytes: Uint8Array | null;
  tombstone: boolean;
  keepLease: boolean;
  timeline: number;
  /** Base: what the writer saw, 0 = absent. */
  revision: number;
  seenRevision: number;
  strict: boolean;
}

/** One page of the keyspace: the keys in [`from`, `to`) at `revision`; `last` = there are no keys behind it. */
export interface Page {
  from: Uint8Array;
  to: Uint8Array;
  last: boolean;
  revision: number;
  clusterId: string;
  keys: PackedKeys;
  /** Keys in the range from `from` on, this page's included. */
  remaining: number;
}

/** Keys under this prefix are the program's own: never mirrored, never written from SQL. */
export const OWN_PREFIX = "/_etcd-pg-sync/";

/** The key that the cursor stands on; parts of its bytes. */
export function keyValueAt(at: KeyCursor): KeyValue {
  return {
    key: at.bytes.subarray(at.keyFrom, at.keyTo),
    value: at.bytes.subarray(at.valueFrom, at.valueTo),
    createRevision: at.createRevision,
    modRevision: at.modRevision,
    version: at.version,
    lease: at.lease,
  };
}
