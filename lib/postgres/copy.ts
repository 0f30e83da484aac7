/**
 * A page of etcd's answer as COPY's binary format, from the one's bytes to the other's: a text key and value are the same
 * bytes in both, so no string and no object is made for them. The format: PostgreSQL's manual, COPY, "Binary Format".
 */
import { Buffer, isUtf8 } from "node:buffer";
import { mayBeOwn, mirroredKey, type Probe, type Selection, type Skipped, skippedKey } from "../core/plan.ts";
import type { KeyCursor, PackedKeys } from "../core/words.ts";

/** COPY is twice as fast with chunks of a megabyte as with one for each row. */
const CHUNK = 1 << 20;
const HEADER = Buffer.from("PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", "latin1");
const NULL = -1;
const COLUMNS = 8;
/** Of a row without its key and value: the count of columns, eight lengths, five integers. */
const FIXED = 2 + COLUMNS * 4 + 5 * 8;
/** An escape is four bytes for one. */
const ESCAPED = 4;
/** Four bytes at once. */
const ONES = 0x01010101;
const HIGHS = 0x80808080 | 0;
const BACKSLASH = 0x5c5c5c5c;
/** No byte of ASCII. */
const NONE = -1;
/** From here on a native copy and check are faster than the loop. */
const LONG = 512;

const encoder = new TextEncoder();

/** What the page that was copied held. */
export interface Copied {
  rows: number;
  newest: Probe | null;
  skipped: Skipped[];
}

/** The rows (key, value, value_bytes, revision, create_revision, version, lease, timeline) of the keys that are mirrored. */
export class PageCopy {
  #chunk = new DataView(new ArrayBuffer(0));
  #bytes = Buffer.alloc(0);
  #other = Buffer.alloc(0);
  #at = 0;
  readonly #cursor: KeyCursor;
  readonly #source: DataView;
  readonly #newest: { revision: number; key: Uint8Array } = { revision: 0, key: new Uint8Array() };
  readonly copied: Copied = { rows: 0, newest: null, skipped: [] };

  constructor(keys: PackedKeys, readonly select: Selection, readonly timeline: number) {
    this.#cursor = keys.cursor();
    const { buffer, byteOffset, byteLength } = this.#cursor.bytes;
    this.#source = new DataView(buffer, byteOffset, byteLength);
  }

  /**
   * The chunks; `copied` is complete after the last. Two buffers take turns, for new ones of this size keep the collector
   * of garbage busy: when a chunk is asked for, the one before the last must have left.
   */
  *chunks(): Generator<Buffer> {
    this.#begin(CHUNK);
    this.#bytes.set(HEADER);
    this.#at = HEADER.length;
    while (this.#cursor.next()) {
      const { keyFrom, keyTo, valueFrom, valueTo } = this.#cursor;
      const most = FIXED + ESCAPED * (keyTo - keyFrom) + valueTo - valueFrom;
      if (this.#at + most > this.#bytes.length) {
        yield this.#bytes.subarray(0, this.#at);
        this.#begin(Math.max(CHUNK, most));
      }
      this.#row();
    }
    yield this.#bytes.subarray(0, this.#at);
    yield Buffer.from([0xff, 0xff]);
    const { revision, key } = this.#newest;
    const found = revision > 0 ? mirroredKey(key, this.select) : undefined;
    if (found && "text" in found) this.copied.newest = { key: found.text, revision };
  }

  #begin(size: number): void {
    const free = this.#other;
    this.#other = this.#bytes;
    this.#bytes = free.length >= size ? free : Buffer.allocUnsafeSlow(size);
    this.#chunk = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length);
    this.#at = 0;
  }

  #row(): void {
    const kv = this.#cursor;
    const began = this.#at;
    this.#chunk.setInt16(this.#at, COLUMNS);
    this.#at += 2;
    if (!this.#key(kv)) {
      this.#at = began;
      return;
    }
    this.#value(kv);
    this.#int8(kv.modRevision);
    this.#int8(kv.createRevision);
    this.#int8(kv.version);
    this.#lease(kv.lease);
    this.#int8(this.timeline);
    this.copied.rows++;
    if (kv.modRevision > this.#newest.revision) {
      this.#newest.revision = kv.modRevision;
      this.#newest.key = kv.bytes.subarray(kv.keyFrom, kv.keyTo);
    }
  }

  /** false: the key is not mirrored. */
  #key({ bytes, keyFrom, keyTo, modRevision }: KeyCursor): boolean {
    const size = keyTo - keyFrom;
    const own = mayBeOwn(bytes, keyFrom);
    // a plain key is its own text; only one of our own, or a long one, is not mirrored
    if (!own && size <= this.select.maxKeyBytes && this.#plain(keyFrom, keyTo, BACKSLASH)) return true;
    const key = bytes.subarray(keyFrom, keyTo);
    const found = mirroredKey(key, this.select);
    if ("text" in found) {
      this.#field(encoder.encode(found.text));
      return true;
    }
    if (found.skipped === "too-long") this.copied.skipped.push(skippedKey({ key, modRevision }));
    return false;
  }

  #value({ bytes, valueFrom, valueTo }: KeyCursor): void {
    if (valueTo - valueFrom < LONG && this.#plain(valueFrom, valueTo, NONE)) return this.#null();
    const value = bytes.subarray(valueFrom, valueTo);
    const text = !value.includes(0) && isUtf8(value);
    if (!text) this.#null();
    this.#field(value);
    if (text) this.#null();
  }

  /** Writes the bytes as a field where each is ASCII, and not NUL or `escape`; false: one is not, and nothing is written. */
  #plain(from: number, to: number, escape: number): boolean {
    const source = this.#source;
    const chunk = this.#chunk;
    let at = this.#at + 4;
    for (; from + 4 <= to; from += 4, at += 4) {
      const four = source.getInt32(from);
      const slashes = four ^ escape;
      // the highest bit of a byte: where it was set, where the byte was 0, or where it was the escape
      const found = four | (four - ONES & ~four) | (slashes - ONES & ~slashes);
      if (found & HIGHS) return false;
      chunk.setInt32(at, four);
    }
    for (; from < to; from++, at++) {
      const byte = source.getUint8(from);
      if (byte === 0 || byte > 0x7f || byte === (escape & 0xff)) return false;
      chunk.setUint8(at, byte);
    }
    chunk.setInt32(this.#at, at - this.#at - 4);
    this.#at = at;
    return true;
  }

  #field(bytes: Uint8Array): void {
    this.#chunk.setInt32(this.#at, bytes.length);
    this.#bytes.set(bytes, this.#at + 4);
    this.#at += 4 + bytes.length;
  }

  #null(): void {
    this.#chunk.setInt32(this.#at, NULL);
    this.#at += 4;
  }

  #int8(value: number): void {
    const chunk = this.#chunk;
    const at = this.#at;
    chunk.setInt32(at, 8);
    chunk.setInt32(at + 4, value / 0x1_0000_0000);
    chunk.setUint32(at + 8, value); // takes the lower 32 bits; a remainder would be slow
    this.#at = at + 12;
  }

  #lease(value: bigint): void {
    if (value === 0n) return this.#int8(0);
    this.#chunk.setInt32(this.#at, 8);
    this.#chunk.setBigInt64(this.#at + 4, value);
    this.#at += 12;
  }
}
