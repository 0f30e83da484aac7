/** The drain's decisions: rows of the WAL into one etcd transaction, and its answer into a settlement. Pure. */
import { hash } from "node:crypto";
import { concat, isEscaped, keyBytes, valueBytes } from "./codec.ts";
import type { WalRow } from "./words.ts";

/** Compares are ANDed; the first is the marker's, the first write is the marker. */
export interface TxnPlan {
  /** mod_revision; 0 = absent. */
  compares: { key: Uint8Array; revision: number }[];
  /** value null = delete. */
  writes: { key: Uint8Array; value: Uint8Array | null; keepLease: boolean }[];
}

export interface TxnAnswer {
  applied: boolean;
  revision: number;
  /** Not applied: the mod_revision of each compared key, in the plan's order. */
  found: number[];
}

/**
 * What stands under the marker's key: the last batch that was applied, and whose turn it is. A batch writes it with its
 * own rows; a bump (a new leader) copies the batch before it, and says at which revision that was.
 */
export interface Marker {
  streamId: string;
  epoch: number;
  holder: string;
  batch: number;
  batchHolder: string;
  /** Revision of the batch; absent in the batch's own marker, whose mod_revision it is. */
  batchRevision?: number;
  /** Revision of the batch before this one, where it was not settled yet when this one was sent. */
  beforeRevision?: number;
  /** The marker before was deleted: what it said has to be looked up in its history. */
  forgotten?: boolean;
  /** id, expected revision, digest of key and value. */
  rows: [id: number, expected: number, digest: string][];
}

export function encodeMarker(marker: Marker): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(marker));
}

/** undefined: it is not one of ours. */
export function decodeMarker(bytes: Uint8Array): Marker | undefined {
  try {
    const marker = JSON.parse(new TextDecoder().decode(bytes)) as Marker;
    return typeof marker.streamId === "string" && Array.isArray(marker.rows) ? marker : undefined;
  } catch {
    return undefined;
  }
}

/** Names a write: a row that was changed under the same id (a database restored) is another one. */
export function digest(row: Pick<WalRow, "key" | "value" | "valueBytes" | "tombstone">): string {
  const kind = row.tombstone ? "\0d" : "\0p";
  const bytes = row.valueBytes === null && !isEscaped(row.key)
    ? row.key + kind + (row.value ?? "")
    : concat([keyBytes(row.key), keyBytes(kind), row.tombstone ? [] : valueBytes(row)]);
  return hash("sha256", bytes, "hex").slice(0, 16);
}

/** A write of ours that was applied. */
export interface OwnWrite {
  expected: number;
  result: number;
  tombstone: boolean;
}

/**
 * The revision that etcd must have for a row to be applied: from the base, along our own writes of the key that the
 * writer had not seen. Each that was applied on the revision reached moves on to its own; after a tombstone to 0. So
 * writers in SQL do not conflict with one another, and a write of somebody else in between breaks the walk.
 */
export function walk(base: number, seen: number, own: OwnWrite[]): number {
  let reached = base;
  for (const write of own) {
    if (write.result > seen && write.expected === reached) reached = write.tombstone ? 0 : write.result;
  }
  return reached;
}

/**
 * Our own writes, by key: what a claim needs of the settled WAL, without reading it again for every row of a hot key. All
 * since a revision are noted; the older ones of a key are learned from the WAL when a row asks for them. Each walk is
 * remembered, and goes on from where the last one from the same base ended: a queue of rows on one key would be quadratic
 * otherwise.
 *
 * The newest batch that is noted may not be settled yet, so the WAL does not know of it: it is never forgotten, and what is
 * learned goes before it.
 */
export class OwnWrites {
  #byKey = new Map<string, OwnWrite[]>();
  /** All writes of the key after this revision are known. */
  #learned = new Map<string, number>();
  #walks = new Map<string, { reached: number; upTo: number }>();
  #size = 0;
  /** Revision of the newest batch that is noted. */
  #newest: number;

  /** @param since every write of ours after this revision will be noted, in order */
  constructor(public since: number, readonly limit = 200_000) {
    this.#newest = since;
  }

  /** A batch was applied at `revision`; every one before it is settled. */
  note(revision: number, rows: Pick<WalRow, "key" | "tombstone">[], expected: number[]): void {
    if (this.#size >= this.limit) this.#forget(this.#newest);
    this.#newest = revision;
    rows.forEach(({ key, tombstone }, i) => {
      const write = { expected: expected[i], result: revision, tombstone };
      const writes = this.#byKey.get(key);
      if (writes) writes.push(write);
      else this.#byKey.set(key, [write]);
    });
    this.#size += rows.length;
  }

  /** The expected revision of a row, or undefined where older writes of its key have to be learned first. */
  expected(row: WalRow): number | undefined {
    if (row.strict) return row.revision;
    const from = this.#walks.get(walkKey(row)) ?? { reached: row.revision, upTo: row.seenRevision };
    if (from.upTo < (this.#learned.get(row.key) ?? this.since)) return undefined;
    const own = newerThan(from.upTo, this.#byKey.get(row.key) ?? []);
    if (own.length === 0) return from.reached; // most keys are written once: there is nothing to remember
    return this.#remember(row, walk(from.reached, from.upTo, own), own.at(-1)?.result ?? from.upTo);
  }

  /** @param settled all of the key that are newer than `after` and settled by now, oldest first */
  learn(key: string, after: number, settled: OwnWrite[]): void {
    const noted = this.#byKey.get(key) ?? [];
    const writes = [...settled, ...newerThan(settled.at(-1)?.result ?? after, noted)];
    this.#size += 1 + writes.length - noted.length;
    this.#byKey.set(key, writes);
    this.#learned.set(key, after);
  }

  #remember(row: WalRow, reached: number, upTo: number): number {
    if (this.#walks.size >= this.limit) this.#walks.clear();
    this.#walks.set(walkKey(row), { reached, upTo });
    return reached;
  }

  #forget(since: number): void {
    this.#byKey.clear();
    this.#learned.clear();
    this.#walks.clear();
    this.#size = 0;
    this.since = since;
  }
}

/** The end of a list in order of `result`. */
function newerThan(revision: number, own: OwnWrite[]): OwnWrite[] {
  let from = own.length;
  while (from > 0 && own[from - 1].result > revision) from--;
  return own.slice(from);
}

function walkKey(row: WalRow): string {
  return `${row.timeline} ${row.revision} ${row.seenRevision} ${row.key}`;
}

/** Rows and their expected revisions as one transaction behind the marker. */
export function planTxn(
  marker: { key: Uint8Array; revision: number; value: Uint8Array },
  rows: WalRow[],
  expected: number[],
): TxnPlan {
  const keys = rows.map(({ key }) => keyBytes(key));
  return {
    compares: [
      { key: marker.key, revision: marker.revision },
      ...keys.map((key, i) => ({ key, revision: expected[i] })),
    ],
    writes: [
      { key: marker.key, value: marker.value, keepLease: false },
      ...rows.map((row, i) => ({
        key: keys[i],
        value: row.tombstone ? null : valueBytes(row),
        // etcd refuses ignore_lease for a key that is not there, and with it the whole transaction
        keepLease: row.keepLease && expected[i] > 0,
      })),
    ],
  };
}

/** A row that lost, and to which revision. */
export interface Loss {
  id: string;
  revision: number | null;
  message: string;
}

export type Verdict =
  | { kind: "applied"; revision: number }
  /** Somebody else wrote the marker: the key revisions mean nothing. */
  | { kind: "marker-moved" }
  | { kind: "conflict"; losses: Loss[] };

export function judge(
  answer: TxnAnswer,
  markerRevision: number,
  rows: WalRow[],
  expected: number[],
): Verdict {
  if (answer.applied) return { kind: "applied", revision: answer.revision };
  const [marker, ...found] = answer.found;
  if (marker !== markerRevision) return { kind: "marker-moved" };
  const losses = rows.flatMap((row, i) =>
    found[i] === expected[i] ? [] : [conflict(row, expected[i], found[i])]
  );
  if (losses.length === 0) throw new Error("etcd refused a transaction of which all compares hold");
  return { kind: "conflict", losses };
}

function conflict(row: WalRow, expected: number, found: number): Loss {
  const what = found === 0 ? "was deleted in etcd" : `has revision ${found} in etcd`;
  const wanted = expected === 0 ? "its absence" : `revision ${expected}`;
  return { id: row.id, revision: found, message: `Key '${row.key}' ${what}, the write stands on ${wanted}` };
}

/** Rows whose base is of an older timeline: the same number can mean another write. */
export function outdated(rows: WalRow[], timeline: number): Loss[] {
  return rows.filter((row) => row.timeline < timeline).map((row) => ({
    id: row.id,
    revision: null,
    message: `The history of etcd was replaced after the write of key '${row.key}'`,
  }));
}

/** A batch that was applied. */
export interface ResolvedBatch {
  batch: number;
  revision: number;
  ids: number[];
  /** null: the settled WAL tells (`OwnWrites`). */
  expected: number[] | null;
}

/** What became of what was claimed, by the marker that stood before our bump. */
export type Resolution =
  | { kind: "nothing" }
  /** Oldest first. */
  | { kind: "applied"; batches: ResolvedBatch[] }
  | { kind: "not-applied" }
  /** The marker's batch is newer than PostgreSQL knows: it lost commits. */
  | { kind: "commits-lost" };

/**
 * A batch was applied if and only if the marker names exactly it: batch and holder. "It or a newer one" would settle a
 * batch that a successor claimed under the same number, after PostgreSQL had lost the first claim.
 *
 * The batch that was claimed ahead is sent only once the one in flight is applied, and its marker says at which revision
 * that was. A holder never uses a number twice, also where it gave up what it had claimed ahead: so the marker's rows are
 * those that were claimed.
 */
export function resolve(
  state: { batchId: number; batchHolder: string | null; batchRows: number[]; aheadId: number | null },
  marker: (Marker & { modRevision: number }) | undefined,
): Resolution {
  const names = (batch: number | null) =>
    marker !== undefined && marker.batch === batch && marker.batchHolder === state.batchHolder;
  const both = names(state.aheadId) && marker!.beforeRevision !== undefined;
  const known = both || names(state.batchId);
  if (marker && marker.batch > 0 && !known && marker.batch >= state.batchId) return { kind: "commits-lost" };
  if (state.batchRows.length === 0) return { kind: "nothing" };
  if (!marker || !known) return { kind: "not-applied" };
  const newest = {
    batch: marker.batch,
    revision: marker.batchRevision ?? marker.modRevision,
    ids: marker.rows.map(([id]) => id),
    expected: marker.rows.map(([, expected]) => expected),
  };
  if (!both) return { kind: "applied", batches: [newest] };
  const before = {
    batch: state.batchId,
    revision: marker.beforeRevision!,
    ids: state.batchRows,
    expected: null,
  };
  return { kind: "applied", batches: [before, newest] };
}
