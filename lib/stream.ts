/** A stream as a value: one process can run many. */
import type { Config } from "./config.ts";
import type { Control } from "./control.ts";
import type { OwnWrites } from "./core/txn.ts";
import { prefixEnd } from "./core/codec.ts";
import type { EtcdVersion } from "./core/version.ts";
import type { Selection } from "./core/plan.ts";
import { OWN_PREFIX } from "./core/words.ts";
import type { EtcdClient } from "./etcd/client.ts";
import type { Log } from "./log.ts";
import type { PostgresOptions, Session } from "./postgres/client.ts";
import type { ServerClock } from "./postgres/clock.ts";
import type { Retention } from "./postgres/keep.ts";
import type { Gate, Place, StreamRow } from "./postgres/state.ts";
import type { Limits } from "./postgres/wal.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import type { Troubles } from "./troubles.ts";

/** etcd's default for a request (--max-request-bytes is 1.5 MiB), less the marker and the framing. */
export const MAX_TXN_BYTES = 1_500_000;

/** Read at each use, since SIGHUP changes them (lib/reload.ts). */
export interface StreamSettings {
  name: string;
  schema: string;
  prefix: Uint8Array;
  limits: Limits;
  /** Backlog in revisions from which a scan is the way back; null = never. */
  rescanAfter: number | null;
  freshTimeoutMs: number;
  retention: Retention;
  /** Rows that may wait in the WAL; null = any number. */
  walLimit: number | null;
  /** etcd → PostgreSQL only: nothing is written to etcd, no marker either, and only the prefix is read. */
  oneWay: boolean;
  /** How often everything is compared with etcd; null = never. */
  verifyEveryMs: number | null;
}

export interface Stream {
  settings: StreamSettings;
  select: Selection;
  postgres: PostgresOptions;
  /** Reads, pages and writes. */
  kv: EtcdClient;
  /** The watch, on a connection of its own. */
  watch: EtcdClient;
  /** What the server's version asks for, see lib/core/version.ts. */
  server: EtcdVersion;
  log: Log;
  /** What may be told again and again goes there, and to the log once an episode. */
  troubles: Troubles;
  telemetry: Telemetry;
  /** A watch response was larger than a message may be: etcd has to send it in fragments, which costs it more. */
  fragment: boolean;
}

/** One leadership: from taking the place to losing it. */
export interface Leadership extends AsyncDisposable {
  place: Place;
  /** The row as this leader last wrote it; the mirror and the scan move it. */
  at: StreamRow;
  mirror: Session;
  drain: Session;
  clock: ServerClock;
  /** What operators ask for. */
  control: Control;
  /** Aborts when the place is lost; its reason says why. */
  lost: AbortSignal;
  /** The drain's side of the row. */
  batch: BatchState;
  /** Calls `wake` when a writer says that rows wait, until the returned function is called. */
  onWalNotify(wake: () => void): () => void;
}

export interface BatchState {
  /** The batch in flight, or the last one; as the row in PostgreSQL has it. */
  id: number;
  markerRevision: number;
  /** The newest batch that was applied: a bump copies it. */
  last: {
    batch: number;
    batchHolder: string;
    batchRevision?: number;
    beforeRevision?: number;
    rows: [number, number, string][];
  };
  own: OwnWrites;
}

export function settingsOf(config: Config): StreamSettings {
  return {
    name: config.stream,
    schema: config.schema,
    prefix: config.prefix,
    limits: { maxRows: config.maxTxnOps - 1, maxBytes: MAX_TXN_BYTES },
    rescanAfter: config.rescanAfter,
    freshTimeoutMs: config.freshTimeoutMs,
    retention: config.retention,
    walLimit: config.walLimit,
    verifyEveryMs: config.verifyEveryMs,
    oneWay: config.oneWay,
  };
}

/** One of the operations is the marker's. */
export function gateOf(config: Config): Gate {
  return {
    maxTxnRows: config.maxTxnOps - 1,
    maxTxnBytes: MAX_TXN_BYTES,
    refuseOversize: config.refuseOversize,
    maxDeletes: config.maxDeletes,
    oneWay: config.oneWay,
  };
}

/** etcd's key range for a prefix. An empty prefix begins at `\0`, the smallest key. */
export function prefixRange(prefix: Uint8Array): { from: Uint8Array; to: Uint8Array } {
  return { from: prefix.length === 0 ? Uint8Array.of(0) : prefix, to: prefixEnd(prefix) };
}

/** A key that the program may read, to learn etcd's revision and cluster. */
export function readableKey({ settings }: Stream): Uint8Array {
  return settings.oneWay ? prefixRange(settings.prefix).from : markerKey(settings.name);
}

/** The marker as it is known to be ours. */
export function knownMarker(
  { settings }: Stream,
  revision: number,
): { key: Uint8Array; revision: number } | null {
  return settings.oneWay ? null : { key: markerKey(settings.name), revision };
}

export function markerKey(stream: string): Uint8Array {
  return new TextEncoder().encode(OWN_PREFIX + stream);
}
