/** The requests that are written by hand agree with protobufjs, by the protocol file of npm etcd3, whatever is in them. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { encodeRange, encodeTxn } from "../../lib/etcd/encode.ts";
import { method } from "../../lib/etcd/protocol.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

const revision = fc.oneof(fc.nat(), fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }));
const someBytes = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.uint8Array({ minLength: 1000, maxLength: 40_000 }),
);

/** As protobufjs reads a request, and as it reads it back from what it writes of `wanted` itself. */
async function assertReads(name: "Range" | "Txn", bytes: Buffer, wanted: unknown): Promise<void> {
  const { requestSerialize, requestDeserialize } = await method("KV", name);
  assert.deepEqual(requestDeserialize(bytes), requestDeserialize(requestSerialize(wanted)));
}

Deno.test("encodeRange() writes what protobufjs reads", strict, async () => {
  const request = fc.record({ key: someBytes, end: someBytes, limit: revision, revision });
  await fc.assert(
    fc.asyncProperty(request, async (range) => {
      const { key, end, limit, revision } = range;
      const wanted = { key: Buffer.from(key), range_end: Buffer.from(end), limit, revision };
      await assertReads("Range", encodeRange(range), wanted);
    }),
    { numRuns: 300 },
  );
});

Deno.test("encodeTxn() writes what protobufjs reads", strict, async () => {
  const compare = fc.record({ key: someBytes, revision });
  const write = fc.record({ key: someBytes, value: fc.option(someBytes), keepLease: fc.boolean() });
  const plan = fc.record({
    compares: fc.array(compare, { maxLength: 8 }),
    writes: fc.array(write, { maxLength: 8 }),
  });
  await fc.assert(
    fc.asyncProperty(plan, async ({ compares, writes }) => {
      await assertReads("Txn", encodeTxn({ compares, writes }), {
        compare: compares.map(({ key, revision }) => ({
          result: "Equal",
          target: "Mod",
          key: Buffer.from(key),
          mod_revision: revision,
        })),
        success: writes.map(({ key, value, keepLease }) =>
          value === null ? { request_delete_range: { key: Buffer.from(key) } } : {
            request_put: { key: Buffer.from(key), value: Buffer.from(value), ignore_lease: keepLease },
          }
        ),
        failure: compares.map(({ key }) => ({
          request_range: { key: Buffer.from(key), keys_only: true },
        })),
      });
    }),
    { numRuns: 300 },
  );
});
