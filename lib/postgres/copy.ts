/**
 * A page of etcd's answer as COPY's binary format, from the one's bytes to the other's: a text key and value are the same
 * bytes in both, so no string and no object is made for them. The format: PostgreSQL's manual, COPY, "Binary Format".
 */
import { Buffer, isUtf8 } from "node:buffer";
import { mirroredKey, type Probe, type Selection, type Skipped, skippedKey } from "../core/plan.ts";
import type { KeyCursor, PackedKeys } from "../core/words.ts";

/** COPY is twice as fast with chunks of a megabyte as with one for each row. */
const CHUNK = 1 << 20;
const HEADER = Buffer.from("PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", "latin1");
const NULL = 0xffffffff;
const COLUMNS = 8;
/** Of a row without its key and value: the count of columns, eight lengths, five integers. */
const FIXED = 2 + COLUMNS * 4 + 5 * 8;
/** An escape is four bytes for one. */
const ESCAPED = 4;
const BACKSLASH = 0x5c;
/** From here on the native check is faster than the loop. */
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
  #chunk = Buffer.alloc(0);
  #at = 0;
  readonly #cursor: KeyCursor;
  readonly #newest: { revision: number; key: Uint8Array } = { revision: 0, key: new Uint8Array() };
  readonly copied: Copied = { rows: 0, newest: null, skipped: [] };

  constructor(keys: PackedKeys, readonly select: Selection, readonly timeline: number) {
    this.#cursor = keys.cursor();
  }

  /** The chunks; `copied` is complete after the last. */
  *chunks(): Generator<Buffer> {
    this.#begin(CHUNK);
    this.#bytes(HEADER, 0, HEADER.length);
    while (this.#cursor.next()) {
      const { keyFrom, keyTo, valueFrom, valueTo } = this.#cursor;
      const most = FIXED + ESCAPED * (keyTo - keyFrom) + valueTo - valueFrom;
      if (this.#at + most > this.#chunk.length) {
        yield this.#chunk.subarray(0, this.#at);
        this.#begin(Math.max(CHUNK, most));
      }
      this.#row();
    }
    yield this.#chunk.subarray(0, this.#at);
    yield Buffer.from([0xff, 0xff]);
    const { revision, key } = this.#newest;
    const found = revision > 0 ? mirroredKey(key, this.select) : undefined;
    if (found && "text" in found) this.copied.newest = { key: found.text, revision };
  }

  #begin(size: number): void {
    this.#chunk = Buffer.allocUnsafe(size);
    this.#at = 0;
  }

  #row(): void {
    const kv = this.#cursor;
    const began = this.#at;
    this.#chunk[this.#at++] = 0;
    this.#chunk[this.#at++] = COLUMNS;
    if (!this.#key(kv)) {
      this.#at = began;
      return;
    }
    this.#value(kv);
    this.#int8(kv.modRevision);
    this.#int8(kv.createRevision);
    this.#int8(kv.version);
    this.#int4(8);
    this.#at = this.#chunk.writeBigInt64BE(kv.lease, this.#at);
    this.#int8(this.timeline);
    this.copied.rows++;
    if (kv.modRevision > this.#newest.revision) {
      this.#newest.revision = kv.modRevision;
      this.#newest.key = kv.bytes.subarray(kv.keyFrom, kv.keyTo);
    }
  }

  /** false: the key is not mirrored. */
  #key(kv: KeyCursor): boolean {
    const key = kv.bytes.subarray(kv.keyFrom, kv.keyTo);
    // a plain key is its own text; only one of our own, or a long one, is not mirrored
    const plain = key[0] !== 0x2f || key[1] !== 0x5f ? isPlain(kv.bytes, kv.keyFrom, kv.keyTo) : false;
    if (plain && key.length <= this.select.maxKeyBytes) {
      this.#field(kv.bytes, kv.keyFrom, kv.keyTo);
      return true;
    }
    const found = mirroredKey(key, this.select);
    if ("text" in found) {
      const text = encoder.encode(found.text);
      this.#field(text, 0, text.length);
      return true;
    }
    if (found.skipped === "too-long") {
      this.copied.skipped.push(skippedKey({ key, modRevision: kv.modRevision }));
    }
    return false;
  }

  #value({ bytes, valueFrom, valueTo }: KeyCursor): void {
    const text = isText(bytes, valueFrom, valueTo);
    if (!text) this.#int4(NULL);
    this.#field(bytes, valueFrom, valueTo);
    if (text) this.#int4(NULL);
  }

  #field(bytes: Uint8Array, from: number, to: number): void {
    this.#int4(to - from);
    this.#bytes(bytes, from, to);
  }

  #bytes(bytes: Uint8Array, from: number, to: number): void {
    this.#chunk.set(bytes.subarray(from, to), this.#at);
    this.#at += to - from;
  }

  #int4(value: number): void {
    const chunk = this.#chunk;
    chunk[this.#at++] = value >>> 24;
    chunk[this.#at++] = value >>> 16;
    chunk[this.#at++] = value >>> 8;
    chunk[this.#at++] = value;
  }

  #int8(value: number): void {
    this.#int4(8);
    this.#int4(Math.floor(value / 0x1_0000_0000));
    this.#int4(value % 0x1_0000_0000);
  }
}

/** ASCII without NUL and backslash: a key that needs no escape. */
function isPlain(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) {
    const byte = bytes[i];
    if (byte === BACKSLASH || byte === 0 || byte > 0x7f) return false;
  }
  return true;
}

/** UTF-8 without NUL. */
function isText(bytes: Uint8Array, from: number, to: number): boolean {
  if (to - from < LONG) {
    let i = from;
    while (i < to && bytes[i] !== 0 && bytes[i] < 0x80) i++;
    if (i === to) return true;
  }
  const value = bytes.subarray(from, to);
  return !value.includes(0) && isUtf8(value);
}
