/**
 * The requests of which there are many, or of which one is large, as bytes: etcd3's protocol file makes an object of each
 * field first, and takes long to load. Field numbers: etcd's api/etcdserverpb/rpc.proto.
 */
import { Buffer } from "node:buffer";
import type { TxnPlan } from "../core/txn.ts";

/** Protocol buffers' wire types. */
const VARINT = 0;
const BYTES = 2;

/** A message, or a part of one. */
class Writer {
  #bytes = Buffer.allocUnsafe(1024);
  #at = 0;

  uint(field: number, value: number): this {
    this.#reserve(0);
    this.#varint(field << 3 | VARINT);
    this.#varint(value);
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    this.#reserve(value.length);
    this.#varint(field << 3 | BYTES);
    this.#varint(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
    return this;
  }

  /** What was written so far; valid until something more is. */
  done(): Buffer {
    return this.#bytes.subarray(0, this.#at);
  }

  clear(): this {
    this.#at = 0;
    return this;
  }

  /** Room for `size` bytes, and two varints before them. */
  #reserve(size: number): void {
    const wanted = this.#at + size + 16;
    if (wanted <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(wanted, 2 * this.#bytes.length));
    larger.set(this.done());
    this.#bytes = larger;
  }

  /** @param value below 2^53 */
  #varint(value: number): void {
    let rest = value;
    for (; rest > 0x7f; rest = Math.floor(rest / 128)) this.#bytes[this.#at++] = rest & 0x7f | 0x80;
    this.#bytes[this.#at++] = rest;
  }
}

export interface RangeRequest {
  key: Uint8Array;
  /** null: the key alone. */
  end: Uint8Array | null;
  /** 0 = all. */
  limit: number;
  /** 0 = now. */
  revision: number;
}

export function encodeRange({ key, end, limit, revision }: RangeRequest): Buffer {
  const range = new Writer().bytes(1, key);
  if (end) range.bytes(2, end); // one that is there and empty is a range to etcd: all keys from this one on
  return range.uint(3, limit).uint(4, revision).done();
}

export interface WatchCreateRequest {
  key: Uint8Array;
  end: Uint8Array;
  startRevision: number;
  fragment: boolean;
}

/** A watch that tells of its progress. */
export function encodeWatchCreate({ key, end, startRevision, fragment }: WatchCreateRequest): Buffer {
  const create = new Writer().bytes(1, key).bytes(2, end).uint(3, startRevision).uint(4, 1);
  return new Writer().bytes(1, create.uint(8, fragment ? 1 : 0).done()).done();
}

export function encodeWatchProgress(): Buffer {
  return new Writer().bytes(3, new Uint8Array()).done();
}

export function encodeLogin(user: string, password: string): Buffer {
  return new Writer().bytes(1, Buffer.from(user)).bytes(2, Buffer.from(password)).done();
}

const TARGET_MOD = 2;

/** A transaction that puts and deletes if all compared keys have their revisions, and tells theirs otherwise. */
export function encodeTxn({ compares, writes }: TxnPlan): Buffer {
  const txn = new Writer();
  const inner = new Writer();
  const outer = new Writer();
  for (const { key, revision } of compares) {
    txn.bytes(1, inner.clear().uint(2, TARGET_MOD).bytes(3, key).uint(6, revision).done());
  }
  for (const { key, value, keepLease } of writes) {
    inner.clear().bytes(1, key);
    if (value !== null) inner.bytes(2, value).uint(6, keepLease ? 1 : 0);
    txn.bytes(2, outer.clear().bytes(value === null ? 3 : 2, inner.done()).done());
  }
  for (const { key } of compares) {
    txn.bytes(3, outer.clear().bytes(1, inner.clear().bytes(1, key).uint(8, 1).done()).done());
  }
  return txn.done();
}
