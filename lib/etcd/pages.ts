/** The keyspace page by page. */
import { successor } from "../core/codec.ts";
import type { PackedKeys, Page } from "../core/words.ts";
import type { EtcdClient } from "./client.ts";
import { isTooLarge, readRange } from "./kv.ts";

const PAGE_BYTES = 4 * 1024 * 1024;
const MOST_KEYS = 50_000;

/** Reads pages of about PAGE_BYTES. etcd counts the rest of the range for every page, so small ones are quadratic. */
export class PageReader {
  readonly #client: EtcdClient;
  readonly #end: Uint8Array;
  #limit = 10_000;

  /** `end`: where the range ends that is read. */
  constructor(client: EtcdClient, end: Uint8Array) {
    this.#client = client;
    this.#end = end;
  }

  /**
   * The page that begins at `from`, now (linearizable) or at a past revision.
   * @throws {EtcdError} see `isCompacted` and `isFuture`
   */
  async read(from: Uint8Array, revision = 0): Promise<Page> {
    for (;;) {
      try {
        const answer = await readRange(this.#client, from, this.#end, this.#limit, revision);
        const { header, keys, more, count } = answer;
        const { bytes, last } = measure(keys);
        if (keys.count > 0) {
          this.#limit = Math.max(
            16,
            Math.min(MOST_KEYS, this.#limit * 2, Math.floor(PAGE_BYTES * keys.count / bytes)),
          );
        }
        const to = more ? successor(last) : this.#end;
        return { from, to, last: !more, ...header, keys, remaining: count };
      } catch (error) {
        if (!isTooLarge(error) || this.#limit <= 1) throw error;
        this.#limit = Math.ceil(this.#limit / 2);
      }
    }
  }
}

/** Bytes of keys and values, and the last key. */
function measure(keys: PackedKeys): { bytes: number; last: Uint8Array } {
  let bytes = 0;
  const cursor = keys.cursor();
  while (cursor.next()) bytes += cursor.keyTo - cursor.keyFrom + cursor.valueTo - cursor.valueFrom + 32;
  return { bytes, last: cursor.bytes.subarray(cursor.keyFrom, cursor.keyTo) };
}
