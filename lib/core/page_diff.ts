/**
 * A page beside the rows of its range, both in the order of etcd's bytes: what a merge has to look at, which in a resync
 * is little. Pure. Only plain keys are compared so, whose text is their bytes: others sort elsewhere (codec.ts).
 */
import { keyText } from "./codec.ts";
import { mirroredKey, type Probe, type Selection } from "./plan.ts";
import type { KeyCursor, KeyValue, PackedKeys } from "./words.ts";

/** A row of the mirror as it lies in `bytes`. A beginning of -1 is null. */
export interface RowView {
  readonly bytes: Uint8Array;
  readonly keyFrom: number;
  readonly keyTo: number;
  readonly valueFrom: number;
  readonly valueTo: number;
  readonly valueBytesFrom: number;
  readonly valueBytesTo: number;
  readonly revision: number;
  readonly createRevision: number;
  readonly version: number;
  readonly timeline: number;
}

export class PageDiff {
  /** Keys of the page whose row is another one, or is not there; parts of the page. */
  readonly differing: KeyValue[] = [];
  /** Keys of rows that the page lacks. */
  readonly gone: string[] = [];
  /** false: the page holds keys that cannot be compared so. */
  comparable = true;
  rows = 0;
  readonly #cursor: KeyCursor;
  readonly #newest: { revision: number; key: Uint8Array } = { revision: 0, key: new Uint8Array() };
  #more: boolean;

  constructor(keys: PackedKeys, readonly select: Selection, readonly timeline: number) {
    this.#cursor = keys.cursor();
    this.#more = this.#step();
  }

  /** The newest key of the page, after `end`. */
  get newest(): Probe | null {
    const { revision, key } = this.#newest;
    return revision > 0 ? { key: keyText(key), revision } : null;
  }

  /** The next row. */
  add(row: RowView): void {
    this.rows++;
    if (!this.comparable) return;
    for (;;) {
      const order = this.#more ? this.#compareKey(row) : 1;
      if (order > 0) {
        this.gone.push(keyText(row.bytes.subarray(row.keyFrom, row.keyTo)));
        return;
      }
      if (order < 0 || !this.#isSame(row)) this.differing.push(this.#current());
      this.#more = this.#step();
      if (order === 0) return;
    }
  }

  /** There are no more rows. */
  end(): void {
    for (; this.#more; this.#more = this.#step()) this.differing.push(this.#current());
  }

  /** To the next key that is mirrored; false: there is none, or it is not comparable. */
  #step(): boolean {
    const kv = this.#cursor;
    while (kv.next()) {
      const key = this.#plainKey(kv);
      if (!this.comparable) return false;
      if (!key) continue;
      if (kv.modRevision > this.#newest.revision) {
        this.#newest.revision = kv.modRevision;
        this.#newest.key = kv.bytes.subarray(kv.keyFrom, kv.keyTo);
      }
      return true;
    }
    return false;
  }

  /** Whether the key is mirrored. A key too long for it has to be told of, which is the whole page's merge. */
  #plainKey({ bytes, keyFrom, keyTo }: KeyCursor): boolean {
    const own = bytes[keyFrom] === OWN_BEGINS[0] && bytes[keyFrom + 1] === OWN_BEGINS[1];
    if (!own && keyTo - keyFrom <= this.select.maxKeyBytes && isAscii(bytes, keyFrom, keyTo)) return true;
    const key = mirroredKey(bytes.subarray(keyFrom, keyTo), this.select);
    if ("text" in key) this.comparable = !key.text.includes("\\x");
    else if (key.skipped === "too-long") this.comparable = false;
    return "text" in key;
  }

  #compareKey(row: RowView): number {
    const kv = this.#cursor;
    const size = Math.min(kv.keyTo - kv.keyFrom, row.keyTo - row.keyFrom);
    for (let i = 0; i < size; i++) {
      const order = kv.bytes[kv.keyFrom + i] - row.bytes[row.keyFrom + i];
      if (order !== 0) return order;
    }
    return kv.keyTo - kv.keyFrom - (row.keyTo - row.keyFrom);
  }

  /** A value that stands in the wrong column is another one. */
  #isSame(row: RowView): boolean {
    const kv = this.#cursor;
    if (
      kv.modRevision !== row.revision || kv.createRevision !== row.createRevision ||
      kv.version !== row.version || row.timeline !== this.timeline
    ) return false;
    const text = row.valueFrom >= 0;
    const from = text ? row.valueFrom : row.valueBytesFrom;
    const size = (text ? row.valueTo : row.valueBytesTo) - from;
    if (kv.valueTo - kv.valueFrom !== size) return false;
    for (let i = 0; i < size; i++) if (kv.bytes[kv.valueFrom + i] !== row.bytes[from + i]) return false;
    return true;
  }

  #current(): KeyValue {
    const { bytes, keyFrom, keyTo, valueFrom, valueTo, createRevision, modRevision, version, lease } =
      this.#cursor;
    return {
      key: bytes.subarray(keyFrom, keyTo),
      value: bytes.subarray(valueFrom, valueTo),
      createRevision,
      modRevision,
      version,
      lease,
    };
  }
}

/** `/_`, with which our own keys begin. */
const OWN_BEGINS = [0x2f, 0x5f];

/** Without a NUL and a backslash too. */
function isAscii(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    const byte = bytes[at];
    if (byte === 0 || byte === 0x5c || byte > 0x7f) return false;
  }
  return true;
}
