/**
 * Decoders for the two large answers of etcd, from the wire's bytes to values in one pass (protobufjs makes several
 * objects for each key and takes most of a scan's time). Field numbers: etcd's api/etcdserverpb/rpc.proto and
 * api/mvccpb/kv.proto, unchanged since 3.0. Unknown fields are skipped.
 */
import { equalBytes } from "../core/codec.ts";
import { type Event, type KeyCursor, type KeyValue, keyValueAt, type PackedKeys } from "../core/words.ts";

export interface Header {
  /** Unsigned 64 bit, as decimal text. */
  clusterId: string;
  revision: number;
}

export interface RangeResponse {
  header: Header;
  keys: PackedKeys;
  more: boolean;
  count: number;
}

export interface WatchResponse {
  header: Header;
  created: boolean;
  canceled: boolean;
  compactRevision: number;
  cancelReason: string;
  fragment: boolean;
  events: Event[];
  /** Bytes on the wire. */
  size: number;
}

const text = new TextDecoder();
const ENDS_EARLY = "Cannot read etcd's answer: it ends within a number";

export class Reader {
  constructor(readonly bytes: Uint8Array, public at: number, readonly end: number) {}

  more(): boolean {
    return this.at < this.end;
  }

  /** An unsigned varint below 2^53. */
  number(): number {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = this.bytes[this.at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      if (this.at >= this.bytes.length) throw new Error(ENDS_EARLY);
      scale *= 128;
    }
  }

  /** A varint of 64 bits, unsigned. */
  bigint(): bigint {
    let value = 0n;
    for (let shift = 0n;; shift += 7n) {
      const byte = this.bytes[this.at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
      if (this.at >= this.bytes.length) throw new Error(ENDS_EARLY);
    }
  }

  slice(): Uint8Array {
    const length = this.number();
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  message(): Reader {
    const length = this.number();
    this.at += length;
    return new Reader(this.bytes, this.at - length, this.at);
  }

  skip(wireType: number): void {
    if (wireType === 0) this.#skipVarint();
    else if (wireType === 1) this.at += 8;
    else if (wireType === 2) this.#skipBytes();
    else if (wireType === 5) this.at += 4;
    else throw new Error(`Cannot read etcd's answer: wire type ${wireType} is unknown`);
  }

  /** A varint of 64 bits as text: the one of the last time, where its bytes are the same. */
  uint64Text(last: { bytes: Uint8Array; text: string }): string {
    const from = this.at;
    this.#skipVarint();
    const bytes = this.bytes.subarray(from, this.at);
    if (!equalBytes(bytes, last.bytes)) {
      last.bytes = bytes.slice();
      last.text = new Reader(bytes, 0, bytes.length).bigint().toString();
    }
    return last.text;
  }

  #skipBytes(): void {
    const length = this.number();
    this.at += length;
  }

  #skipVarint(): void {
    while (!(this.bytes[this.at++] < 0x80)) { // beyond the end it is neither
      if (this.at >= this.bytes.length) throw new Error(ENDS_EARLY);
    }
  }
}

/** It stands in every answer, and a BigInt is an object for each byte. */
const lastCluster = { bytes: new Uint8Array(), text: "0" };

function readHeader(r: Reader): Header {
  const header = { clusterId: "0", revision: 0 };
  while (r.more()) {
    const tag = r.number();
    if (tag === (1 << 3)) header.clusterId = r.uint64Text(lastCluster);
    else if (tag === (3 << 3)) header.revision = r.number();
    else r.skip(tag & 7);
  }
  return header;
}

const EMPTY = new Uint8Array();

function readKeyValue(r: Reader): KeyValue {
  const kv: KeyValue = { key: EMPTY, value: EMPTY, createRevision: 0, modRevision: 0, version: 0, lease: 0n };
  while (r.more()) {
    const tag = r.number();
    if (tag === (1 << 3 | 2)) kv.key = r.slice();
    else if (tag === (2 << 3)) kv.createRevision = r.number();
    else if (tag === (3 << 3)) kv.modRevision = r.number();
    else if (tag === (4 << 3)) kv.version = r.number();
    else if (tag === (5 << 3 | 2)) kv.value = r.slice();
    else if (tag === (6 << 3)) kv.lease = BigInt.asIntN(64, r.bigint());
    else r.skip(tag & 7);
  }
  return kv;
}

function readEvent(r: Reader): Event {
  const event: Event = { tombstone: false, kv: undefined! };
  while (r.more()) {
    const tag = r.number();
    if (tag === (1 << 3)) event.tombstone = r.number() === 1;
    else if (tag === (2 << 3 | 2)) event.kv = readKeyValue(r.message());
    else r.skip(tag & 7);
  }
  return event;
}

const NO_HEADER: Header = { clusterId: "0", revision: 0 };

const KVS = 2 << 3 | 2;

class WireCursor implements KeyCursor {
  keyFrom = 0;
  keyTo = 0;
  valueFrom = 0;
  valueTo = 0;
  createRevision = 0;
  modRevision = 0;
  version = 0;
  lease = 0n;
  readonly #r: Reader;

  constructor(readonly bytes: Uint8Array) {
    this.#r = new Reader(bytes, 0, bytes.length);
  }

  next(): boolean {
    const r = this.#r;
    while (r.more()) {
      const tag = r.number();
      if (tag !== KVS) r.skip(tag & 7);
      else {
        const length = r.number();
        this.#read(r, r.at + length);
        return true;
      }
    }
    return false;
  }

  #read(r: Reader, end: number): void {
    this.keyFrom =
      this.keyTo =
      this.valueFrom =
      this.valueTo =
        0;
    this.createRevision = this.modRevision = this.version = 0;
    this.lease = 0n;
    while (r.at < end) {
      const tag = r.number();
      if (tag === (1 << 3 | 2)) {
        const length = r.number();
        this.keyFrom = r.at;
        this.keyTo = r.at += length;
      } else if (tag === (5 << 3 | 2)) {
        const length = r.number();
        this.valueFrom = r.at;
        this.valueTo = r.at += length;
      } else if (tag === (2 << 3)) this.createRevision = r.number();
      else if (tag === (3 << 3)) this.modRevision = r.number();
      else if (tag === (4 << 3)) this.version = r.number();
      else if (tag === (6 << 3)) this.lease = BigInt.asIntN(64, r.bigint());
      else r.skip(tag & 7);
    }
  }
}

class WireKeys implements PackedKeys {
  count = 0;

  constructor(readonly bytes: Uint8Array) {}

  cursor(): KeyCursor {
    return new WireCursor(this.bytes);
  }

  *[Symbol.iterator](): Generator<KeyValue> {
    for (const at = this.cursor(); at.next();) yield keyValueAt(at);
  }
}

/** The keys are only counted here; they are read where they lie. */
export function decodeRangeResponse(bytes: Uint8Array): RangeResponse {
  const r = new Reader(bytes, 0, bytes.length);
  const keys = new WireKeys(bytes);
  const out: RangeResponse = { header: NO_HEADER, keys, more: false, count: 0 };
  while (r.more()) {
    const tag = r.number();
    if (tag === KVS) {
      keys.count++;
      r.skip(2);
    } else if (tag === (1 << 3 | 2)) out.header = readHeader(r.message());
    else if (tag === (3 << 3)) out.more = r.number() === 1;
    else if (tag === (4 << 3)) out.count = r.number();
    else r.skip(tag & 7);
  }
  return out;
}

export interface TxnResponse {
  header: Header;
  succeeded: boolean;
  /** Of each answer the mod_revision of the key that was read; 0: none, or it was no read. */
  found: number[];
}

export function decodeTxnResponse(bytes: Uint8Array): TxnResponse {
  const r = new Reader(bytes, 0, bytes.length);
  const out: TxnResponse = { header: NO_HEADER, succeeded: false, found: [] };
  while (r.more()) {
    const tag = r.number();
    if (tag === (1 << 3 | 2)) out.header = readHeader(r.message());
    else if (tag === (2 << 3)) out.succeeded = r.number() === 1;
    else if (tag === (3 << 3 | 2)) out.found.push(readFound(r.slice()));
    else r.skip(tag & 7);
  }
  return out;
}

const RESPONSE_RANGE = 1 << 3 | 2;

function readFound(response: Uint8Array): number {
  const r = new Reader(response, 0, response.length);
  if (!r.more() || r.number() !== RESPONSE_RANGE) return 0;
  const cursor = new WireCursor(r.slice());
  return cursor.next() ? cursor.modRevision : 0;
}

/** Of an AuthenticateResponse. */
export function decodeToken(bytes: Uint8Array): string {
  const r = new Reader(bytes, 0, bytes.length);
  let token = "";
  while (r.more()) {
    const tag = r.number();
    if (tag === (2 << 3 | 2)) token = text.decode(r.slice());
    else r.skip(tag & 7);
  }
  return token;
}

export function decodeWatchResponse(bytes: Uint8Array): WatchResponse {
  const r = new Reader(bytes, 0, bytes.length);
  const out: WatchResponse = {
    header: NO_HEADER,
    created: false,
    canceled: false,
    compactRevision: 0,
    cancelReason: "",
    fragment: false,
    events: [],
    size: bytes.length,
  };
  while (r.more()) {
    const tag = r.number();
    if (tag === (11 << 3 | 2)) out.events.push(readEvent(r.message()));
    else if (tag === (1 << 3 | 2)) out.header = readHeader(r.message());
    else if (tag === (3 << 3)) out.created = r.number() === 1;
    else if (tag === (4 << 3)) out.canceled = r.number() === 1;
    else if (tag === (5 << 3)) out.compactRevision = r.number();
    else if (tag === (6 << 3 | 2)) out.cancelReason = text.decode(r.slice());
    else if (tag === (7 << 3)) out.fragment = r.number() === 1;
    else r.skip(tag & 7);
  }
  return out;
}
