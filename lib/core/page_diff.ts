/**
 * A page beside the rows of its range, both in the order of etcd's bytes: what a merge has to look at, which in a resync
 * is little. Pure. Only plain keys are compared so, whose text is their bytes: others sort elsewhere (codec.ts).
 */
import { asText, keyText } from "./codec.ts";
import { compareSlices } from "./compare.ts";
import { mayBeOwn, mirroredKey, type Probe, type Selection } from "./plan.ts";
import { type KeyCursor, type KeyValue, keyValueAt, type PackedKeys } from "./words.ts";

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
      if (order < 0 || !this.#isSame(row)) this.differing.push(keyValueAt(this.#cursor));
      this.#more = this.#step();
      if (order === 0) return;
    }
  }

  /** There are no more rows. */
  end(): void {
    for (; this.#more; this.#more = this.#step()) this.differing.push(keyValueAt(this.#cursor));
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
    if (
      !mayBeOwn(bytes, keyFrom) && keyTo - keyFrom <= this.select.maxKeyBytes &&
      isAscii(bytes, keyFrom, keyTo)
    ) return true;
    const key = mirroredKey(bytes.subarray(keyFrom, keyTo), this.select);
    if ("text" in key) this.comparable = !key.text.includes("\\x");
    else if (key.skipped === "too-long") this.comparable = false;
    return "text" in key;
  }

  #compareKey(row: RowView): number {
    const kv = this.#cursor;
    return compareSlices(kv.bytes, kv.keyFrom, kv.keyTo, row.bytes, row.keyFrom, row.keyTo);
  }

  #isSame(row: RowView): boolean {
    const kv = this.#cursor;
    return kv.modRevision === row.revision && kv.createRevision === row.createRevision &&
      kv.version === row.version && row.timeline === this.timeline && this.#isSameValue(row);
  }

  /** In the right column too: what is text stands in `value`. */
  #isSameValue(row: RowView): boolean {
    const { bytes, valueFrom, valueTo } = this.#cursor;
    const isText = row.valueFrom >= 0;
    const from = isText ? row.valueFrom : row.valueBytesFrom;
    const to = isText ? row.valueTo : row.valueBytesTo;
    if (compareSlices(bytes, valueFrom, valueTo, row.bytes, from, to) !== 0) return false;
    return isText || asText(bytes.subarray(valueFrom, valueTo)) === undefined;
  }
}

/** Without a NUL and a backslash too. */
function isAscii(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    const byte = bytes[at];
    if (byte === 0 || byte === 0x5c || byte > 0x7f) return false;
  }
  return true;
}
