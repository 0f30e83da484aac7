/** A page that is copied byte by byte holds what the plan of the same page holds. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { foldPage, newestRow } from "../../lib/core/plan.ts";
import type { KeyValue } from "../../lib/core/words.ts";
import { PageCopy } from "../../lib/postgres/copy.ts";
import { nastyBytes } from "../support/nasty.ts";
import { packed } from "../support/packed.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const select = { prefix: new Uint8Array(), maxKeyBytes: 40 };

/** The rows of COPY's binary format: PostgreSQL's manual, COPY. */
function rows(copy: Buffer): (Buffer | null)[][] {
  assert.equal(copy.subarray(0, 19).toString("latin1"), "PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
  const found = [];
  let at = 19;
  for (let columns = copy.readInt16BE(at); columns !== -1; columns = copy.readInt16BE(at)) {
    at += 2;
    const row: (Buffer | null)[] = [];
    for (let i = 0; i < columns; i++) {
      const length = copy.readInt32BE(at);
      at += 4;
      row.push(length < 0 ? null : copy.subarray(at, at + length));
      at += Math.max(0, length);
    }
    found.push(row);
  }
  assert.equal(at + 2, copy.length);
  return found;
}

function int8(bytes: Buffer | null): bigint {
  assert.equal(bytes?.length, 8);
  return bytes!.readBigInt64BE();
}

function copied(kvs: KeyValue[]) {
  const copy = new PageCopy(packed(kvs), select, 7);
  return {
    rows: rows(Buffer.concat(Array.from(copy.chunks(), (chunk) => Buffer.from(chunk)))),
    copied: copy.copied,
  };
}

function assertSame(kvs: KeyValue[]): void {
  const { columns, skipped } = foldPage(kvs, select);
  const { rows, copied: told } = copied(kvs);
  assert.deepEqual(rows.map(([key]) => key!.toString()), columns.keys);
  assert.deepEqual(rows.map(([, value]) => value && value.toString()), columns.values);
  assert.deepEqual(rows.map(([, , bytes]) => bytes), columns.valueBytes.map((b) => b && Buffer.from(b)));
  const integers = (from: number) => rows.map((row) => int8(row[from]));
  assert.deepEqual(integers(3), columns.revisions.map(BigInt));
  assert.deepEqual(integers(4), columns.createRevisions.map(BigInt));
  assert.deepEqual(integers(5), columns.versions.map(BigInt));
  assert.deepEqual(integers(6), columns.leases.map(BigInt));
  assert.deepEqual(integers(7), columns.keys.map(() => 7n));
  assert.deepEqual(told, { rows: columns.keys.length, newest: newestRow(columns), skipped });
}

const own = Buffer.from("/_etcd-pg-sync/default");
const bytes = fc.oneof(nastyBytes, fc.string().map((text) => Buffer.from(text)), fc.constant(own));
const number = fc.oneof(fc.nat(), fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }));
const keyValue = fc.record({
  key: bytes,
  value: fc.oneof(bytes, bytes.map((some) => Buffer.concat([Buffer.alloc(600, "v"), some]))),
  createRevision: number,
  modRevision: number.map((n) => n + 1).filter(Number.isSafeInteger),
  version: number,
  lease: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
});

Deno.test("a page is copied as it is planned, whatever its keys and values", strict, () => {
  fc.assert(fc.property(fc.array(keyValue, { maxLength: 8 }), assertSame), { numRuns: 2_000 });
});

Deno.test(
  "values that are longer than a chunk, or than what is left of one, are copied whole",
  strict,
  () => {
    const numbers = { createRevision: 1, modRevision: 2, version: 3, lease: 0n };
    const key = (n: number) => Buffer.from(`/k${n}`);
    const sizes = [0, (1 << 20) - 200, 1, 3 << 20, 511, 512, (1 << 20) + 1];
    assertSame(sizes.map((size, n) => ({ key: key(n), value: Buffer.alloc(size, 0xc3), ...numbers })));
    assertSame(sizes.map((size, n) => ({ key: key(n), value: Buffer.alloc(size, "v"), ...numbers })));
  },
);
