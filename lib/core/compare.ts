/** Comparing etcd with the mirror, key by key: two streams in the order of etcd's bytes, merged. Pure. */
import { asText, equalBytes, keyText, valueColumns } from "./codec.ts";
import { emptyRows, mirroredKey, type RowColumns, type Selection } from "./plan.ts";
import { type KeyValue, OWN_PREFIX } from "./words.ts";

/** A row of the mirror, as bytes. */
export interface MirrorEntry {
  /** In etcd's bytes. */
  key: Uint8Array;
  /** The key as its row has it, where that can be another form than its bytes' own (it holds `\x`); else null. */
  text: string | null;
  value: Uint8Array | null;
  valueBytes: Uint8Array | null;
  revision: number;
  createRevision: number;
  version: number;
  lease: bigint;
  timeline: number;
}

export const FIELDS = ["value", "revision", "create_revision", "version", "lease", "timeline"] as const;
export type Field = (typeof FIELDS)[number];

export type DifferenceKind = "missing" | "extra" | "different";

export interface Difference {
  /** missing: etcd has the key, the mirror has not; extra: the other way round; different: both, not alike. */
  kind: DifferenceKind;
  /** As SQL writes it. */
  key: string;
  etcd: KeyValue | null;
  mirror: MirrorEntry | null;
  /** What differs, of a key that both have. */
  fields: Field[];
}

/** How many keys of etcd were compared so far. */
export interface Compared {
  keys: number;
}

/**
 * The differences between etcd's keys and the mirror's rows, in no more memory than the batches that it is given. Each
 * input is in the order of etcd's bytes; the mirror comes as two, because a key with `\x` in its text sorts elsewhere
 * there than in etcd (codec.ts).
 */
export async function* differences(
  etcd: AsyncIterable<KeyValue[]>,
  plain: AsyncIterable<MirrorEntry[]>,
  escaped: AsyncIterable<MirrorEntry[]>,
  { select, timeline, compared }: { select: Selection; timeline: number; compared: Compared },
): AsyncGenerator<Difference> {
  await using sources = new AsyncDisposableStack();
  const keys = sources.use(new Batches(etcd));
  const rows = [sources.use(new Batches(plain)), sources.use(new Batches(escaped))];
  for (;;) {
    for (const source of [keys, ...rows]) if (source.used()) await source.fill();
    const from = nextRow(rows);
    const kv = keys.head;
    const row = from?.head;
    if (!kv && !row) return;
    if (row && row.text !== null && row.text !== keyText(row.key)) {
      from!.at++; // in a form that is not its key's own: no writer and no reader means this row by that key
      yield { kind: "extra", key: row.text, etcd: null, mirror: row, fields: [] };
      continue;
    }
    const order = !kv ? 1 : !row ? -1 : compareBytes(kv.key, row.key);
    if (order > 0) {
      from!.at++;
      yield { kind: "extra", key: keyText(row!.key), etcd: null, mirror: row!, fields: [] };
      continue;
    }
    keys.at++;
    if (!isMirrored(kv!.key, select)) continue; // a stream leaves it out, so the mirror is right without it
    compared.keys++;
    if (order < 0) {
      yield { kind: "missing", key: keyText(kv!.key), etcd: kv!, mirror: null, fields: [] };
      continue;
    }
    from!.at++;
    const fields = differingFields(kv!, row!, timeline);
    if (fields.length) yield { kind: "different", key: keyText(kv!.key), etcd: kv!, mirror: row!, fields };
  }
}

/** One input, batch by batch. Only `fill` waits, so most keys are compared without. */
class Batches<T> implements AsyncDisposable {
  readonly #input: AsyncIterator<T[]>;
  #batch: T[] = [];
  #done = false;
  at = 0;

  constructor(input: AsyncIterable<T[]>) {
    this.#input = input[Symbol.asyncIterator]();
  }

  get head(): T | undefined {
    return this.#batch[this.at];
  }

  used(): boolean {
    return this.at >= this.#batch.length && !this.#done;
  }

  async fill(): Promise<void> {
    while (this.used()) {
      const { value, done } = await this.#input.next();
      this.#done = done ?? false;
      this.#batch = done ? [] : value;
      this.at = 0;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.return?.();
  }
}

/** The source whose row comes first. */
function nextRow(sources: Batches<MirrorEntry>[]): Batches<MirrorEntry> | undefined {
  const [a, b] = sources;
  if (!a.head || !b.head) return a.head ? a : b.head ? b : undefined;
  return compareBytes(a.head.key, b.head.key) <= 0 ? a : b;
}

const OWN = new TextEncoder().encode(OWN_PREFIX);
/** Bytes that one byte of a key becomes at most: `\xHH`. */
const LONGEST_ESCAPE = 4;

/** As `mirroredKey`, without its text, where the key is short enough in any form. Of etcd's answer all have the prefix. */
function isMirrored(key: Uint8Array, select: Selection): boolean {
  if (key.length * LONGEST_ESCAPE > select.maxKeyBytes || key[1] === OWN[1]) {
    return "text" in mirroredKey(key, select);
  }
  return true;
}

/** Byte for byte. */
export function differingFields(kv: KeyValue, row: MirrorEntry, timeline: number): Field[] {
  if (
    kv.modRevision === row.revision && kv.createRevision === row.createRevision &&
    kv.version === row.version && kv.lease === row.lease && row.timeline === timeline && isSameValue(kv, row)
  ) return NONE;
  const same: Record<Field, boolean> = {
    value: isSameValue(kv, row),
    revision: kv.modRevision === row.revision,
    create_revision: kv.createRevision === row.createRevision,
    version: kv.version === row.version,
    lease: kv.lease === row.lease,
    timeline: row.timeline === timeline,
  };
  return FIELDS.filter((field) => !same[field]);
}

const NONE: Field[] = [];

/** In the right column too: what is text stands in `value`. */
function isSameValue({ value }: KeyValue, row: MirrorEntry): boolean {
  if (row.value !== null) return row.valueBytes === null && compareBytes(value, row.value) === 0;
  return row.valueBytes !== null && equalBytes(value, row.valueBytes) && asText(value) === undefined;
}

/** As etcd orders keys. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  return compareSlices(a, 0, a.length, b, 0, b.length);
}

/** As `compareBytes`, where the two lie in others; no object is made for them. */
export function compareSlices(
  a: Uint8Array,
  aFrom: number,
  aTo: number,
  b: Uint8Array,
  bFrom: number,
  bTo: number,
): number {
  const length = Math.min(aTo - aFrom, bTo - bFrom);
  for (let i = 0; i < length; i++) {
    if (a[aFrom + i] !== b[bFrom + i]) return a[aFrom + i] - b[bFrom + i];
  }
  return aTo - aFrom - (bTo - bFrom);
}

/** Differences as the columns that one repair takes. Nothing of a page or a chunk is kept alive by them. */
export interface RepairColumns extends RowColumns {
  /** etcd has the key; else the row goes. */
  there: boolean[];
  /** The watch brings this key; a row of any other goes without a trace. */
  mirrored: boolean[];
  /** Bytes, about. */
  size: number;
}

export function emptyRepair(): RepairColumns {
  return { ...emptyRows(), there: [], mirrored: [], size: 0 };
}

/** Adds what etcd has for the key of `difference`. */
export function pushRepair(
  columns: RepairColumns,
  { key, etcd, mirror }: Difference,
  select: Selection,
): void {
  const { value, valueBytes } = etcd ? valueColumns(etcd.value) : { value: null, valueBytes: null };
  columns.keys.push(key);
  columns.values.push(value);
  columns.valueBytes.push(valueBytes && new Uint8Array(valueBytes));
  columns.revisions.push(etcd?.modRevision ?? 0);
  columns.createRevisions.push(etcd?.createRevision ?? 0);
  columns.versions.push(etcd?.version ?? 0);
  columns.leases.push(String(etcd?.lease ?? 0));
  columns.there.push(etcd !== null);
  const own = etcd !== null || "text" in mirroredKey(mirror!.key, select) && keyText(mirror!.key) === key;
  columns.mirrored.push(own);
  columns.size += key.length + (etcd?.value.length ?? 0) + 64;
}
