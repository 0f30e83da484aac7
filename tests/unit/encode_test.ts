/** The requests that are written by hand agree with protobufjs, by the protocol file of npm etcd3, whatever is in them. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import {
  encodeLogin,
  encodeRange,
  encodeTxn,
  encodeWatchCreate,
  encodeWatchProgress,
} from "../../lib/etcd/encode.ts";
import { method, type Service } from "../../lib/etcd/protocol.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

const revision = fc.oneof(fc.nat(), fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }));
const someBytes = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.uint8Array({ minLength: 1000, maxLength: 40_000 }),
);

/** As protobufjs reads a request, and as it reads it back from what it writes of `wanted` itself. */
async function assertReads(service: Service, name: string, bytes: Buffer, wanted: unknown): Promise<void> {
  const { requestSerialize, requestDeserialize } = await method(service, name);
  assert.deepEqual(requestDeserialize(bytes), requestDeserialize(requestSerialize(wanted)));
}

Deno.test("encodeRange() writes what protobufjs reads", strict, async () => {
  const request = fc.record({ key: someBytes, end: someBytes, limit: revision, revision });
  await fc.assert(
    fc.asyncProperty(request, async (range) => {
      const { key, end, limit, revision } = range;
      const wanted = { key: Buffer.from(key), range_end: Buffer.from(end), limit, revision };
      await assertReads("KV", "Range", encodeRange(range), wanted);
    }),
    { numRuns: 300 },
  );
});

Deno.test("encodeRange() of one key names no end", strict, async () => {
  const request = fc.record({ key: someBytes, limit: revision, revision });
  await fc.assert(
    fc.asyncProperty(request, async ({ key, limit, revision }) => {
      const written = encodeRange({ key, end: null, limit, revision });
      await assertReads("KV", "Range", written, { key: Buffer.from(key), limit, revision });
      // protobufjs reads an end that is empty as it reads none, and to etcd they are not the same
      const withEnd = encodeRange({ key, end: new Uint8Array(), limit, revision });
      assert.equal(withEnd.length, written.length + 2);
    }),
    { numRuns: 300 },
  );
});

Deno.test("encodeWatchCreate() writes what protobufjs reads", strict, async () => {
  const request = fc.record({
    key: someBytes,
    end: someBytes,
    startRevision: revision,
    fragment: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(request, async (create) => {
      const { key, end, startRevision, fragment } = create;
      await assertReads("Watch", "Watch", encodeWatchCreate(create), {
        create_request: {
          key: Buffer.from(key),
          range_end: Buffer.from(end),
          start_revision: startRevision,
          progress_notify: true,
          fragment,
        },
      });
    }),
    { numRuns: 300 },
  );
});

Deno.test("encodeWatchProgress() writes what protobufjs reads", strict, async () => {
  await assertReads("Watch", "Watch", encodeWatchProgress(), { progress_request: {} });
});

Deno.test("encodeLogin() writes what protobufjs reads, in any script", strict, async () => {
  const words = fc.string({ unit: "binary", maxLength: 300 });
  await fc.assert(
    fc.asyncProperty(words, words, async (name, password) => {
      await assertReads("Auth", "Authenticate", encodeLogin(name, password), { name, password });
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
      await assertReads("KV", "Txn", encodeTxn({ compares, writes }), {
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
