/** The keyspace page by page. */
import { isUnbounded, successor } from "../core/codec.ts";
import { compareBytes } from "../core/compare.ts";
import { Stride } from "../core/stride.ts";
import type { PackedKeys, Page } from "../core/words.ts";
import type { EtcdClient } from "./client.ts";
import type { Allocate } from "./exchange.ts";
import { isTooLarge, readRange } from "./kv.ts";

/** About what the keys and values of a page take. */
export const PAGE_BYTES = 4 * 1024 * 1024;
const MOST_KEYS = 50_000;
/** A range of the page's keys twice over: most pages are full, and etcd counts no more than one page in vain. */
const RANGE_PAGES = 2;

/** Reads pages of about PAGE_BYTES, one after another. */
export class PageReader {
  readonly #client: EtcdClient;
  readonly #end: Uint8Array;
  readonly #stride = new Stride();
  #limit = 10_000;
  /** Keys from the next page on, as counted when the first was read. */
  #left = 0;

  /** `end`: where the range ends that is read. */
  constructor(client: EtcdClient, end: Uint8Array) {
    this.#client = client;
    this.#end = end;
  }

  /**
   * The page that begins at `from`, now (linearizable) or at a past revision.
   * @param allocate where its keys and values go; what it gave before is then free
   * @throws {EtcdError} see `isCompacted` and `isFuture`
   */
  async read(from: Uint8Array, revision = 0, allocate?: Allocate): Promise<Page> {
    for (;;) {
      const wanted = RANGE_PAGES * this.#limit;
      const bound = this.#bound(from, wanted);
      try {
        const { header, keys, more, count } = await readRange(
          this.#client,
          from,
          bound ?? this.#end,
          this.#limit,
          revision,
          allocate,
        );
        const last = this.#learn(keys, bound && wanted);
        if (bound && count === 0) continue;
        const remaining = bound ? Math.max(this.#left, count) : count;
        this.#left = remaining - keys.count;
        const to = more ? successor(last) : bound ?? this.#end;
        return { from, to, last: !more && !bound, ...header, keys, remaining };
      } catch (error) {
        if (!isTooLarge(error) || this.#limit <= 1) throw error;
        this.#limit = Math.ceil(this.#limit / 2);
      }
    }
  }

  /** null: as far as the range goes. */
  #bound(from: Uint8Array, wanted: number): Uint8Array | null {
    const bound = this.#stride.bound(from, wanted);
    return bound && (isUnbounded(this.#end) || compareBytes(bound, this.#end) < 0) ? bound : null;
  }

  /** Learns from a page what the next should be like; returns its last key. */
  #learn(keys: PackedKeys, wanted: number | null): Uint8Array {
    const { bytes, first, last } = measure(keys);
    this.#stride.learn({ first, last, count: keys.count }, wanted);
    if (keys.count > 0) {
      const fits = Math.floor(PAGE_BYTES * keys.count / bytes);
      this.#limit = Math.max(16, Math.min(MOST_KEYS, this.#limit * 2, fits));
    }
    return last;
  }
}

/** Bytes of keys and values, the first and the last key. */
function measure(keys: PackedKeys): { bytes: number; first: Uint8Array; last: Uint8Array } {
  let bytes = 0;
  let first: Uint8Array | undefined;
  const cursor = keys.cursor();
  while (cursor.next()) {
    first ??= cursor.bytes.subarray(cursor.keyFrom, cursor.keyTo);
    bytes += cursor.keyTo - cursor.keyFrom + cursor.valueTo - cursor.valueFrom + 32;
  }
  const last = cursor.bytes.subarray(cursor.keyFrom, cursor.keyTo);
  return { bytes, first: first ?? last, last };
}
