/** A page's keys as lib/etcd/wire.ts would hand them over. */
import { Buffer } from "node:buffer";
import type { KeyValue, PackedKeys } from "../../lib/core/words.ts";

/** As they would lie in an answer, one after another. */
export function packed(kvs: KeyValue[]): PackedKeys {
  const bytes = Buffer.concat(kvs.flatMap(({ key, value }) => [key, value]));
  return {
    count: kvs.length,
    [Symbol.iterator]: () => kvs[Symbol.iterator](),
    cursor() {
      let at = 0;
      let n = 0;
      return {
        bytes,
        keyFrom: 0,
        keyTo: 0,
        valueFrom: 0,
        valueTo: 0,
        createRevision: 0,
        modRevision: 0,
        version: 0,
        lease: 0n,
        next() {
          if (n === kvs.length) return false;
          const { key, value, ...rest } = kvs[n++];
          const keyTo = at + key.length;
          Object.assign(this, { keyFrom: at, keyTo, valueFrom: keyTo, valueTo: keyTo + value.length }, rest);
          at = keyTo + value.length;
          return true;
        },
      };
    },
  };
}
