/** The decoders agree with protobufjs, by the protocol file of npm etcd3, on whatever message. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { Etcd3 } from "etcd3";
import fc from "fast-check";
import {
  decodeRangeResponse,
  decodeToken,
  decodeTxnResponse,
  decodeWatchResponse,
} from "../../lib/etcd/wire.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

interface Method {
  responseSerialize(message: unknown): Buffer;
}

async function method(service: "KV" | "Watch" | "Auth", name: string): Promise<Method> {
  const client = new Etcd3({ hosts: "http://127.0.0.1:1" }); // connects when it is called, which it is not
  const pool = client["pool"] as unknown as {
    withConnection<T>(
      service: string,
      fn: (on: { client: { constructor: { service: Record<string, T> } } }) => T,
    ): Promise<T>;
  };
  try {
    return await pool.withConnection(service, ({ client }) => client.constructor.service[name] as Method);
  } finally {
    client.close();
  }
}

const revision = fc.oneof(fc.nat(), fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }));
const someBytes = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
const header = fc.record({
  cluster_id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String),
  member_id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String),
  revision: revision.map(String),
  raft_term: revision.map(String),
});
const keyValue = fc.record({
  key: someBytes,
  create_revision: revision.map(String),
  mod_revision: revision.map(String),
  version: revision.map(String),
  value: someBytes,
  lease: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(String),
});
type RawKeyValue = {
  key: Buffer;
  create_revision: string;
  mod_revision: string;
  version: string;
  value: Buffer;
  lease: string;
};

function decoded(kv: RawKeyValue) {
  return {
    key: kv.key,
    value: kv.value,
    createRevision: Number(kv.create_revision),
    modRevision: Number(kv.mod_revision),
    version: Number(kv.version),
    lease: BigInt(kv.lease),
  };
}

/** Slices of the message are compared as bytes, not as the Buffers or arrays that they are. */
function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(
      value,
      (_, part) =>
        typeof part === "bigint"
          ? `${part}n`
          : part instanceof Uint8Array || part?.type === "Buffer"
          ? Buffer.from(part.data ?? part).toString("hex")
          : part,
    ),
  );
}

Deno.test("decodeRangeResponse() reads what protobufjs writes", strict, async () => {
  const { responseSerialize } = await method("KV", "Range");
  const message = fc.record({
    header,
    kvs: fc.array(keyValue, { maxLength: 5 }),
    more: fc.boolean(),
    count: revision.map(String),
  });
  fc.assert(
    fc.property(message, (answer) => {
      const { keys, ...read } = decodeRangeResponse(responseSerialize(answer));
      assert.equal(keys.count, answer.kvs.length);
      assert.deepEqual(
        plain({ ...read, kvs: [...keys] }),
        plain({
          header: { clusterId: answer.header.cluster_id, revision: Number(answer.header.revision) },
          kvs: answer.kvs.map(decoded),
          more: answer.more,
          count: Number(answer.count),
        }),
      );
    }),
    { numRuns: 1_000 },
  );
});

Deno.test(
  "decodeWatchResponse() reads what protobufjs writes, and skips what it does not know",
  strict,
  async () => {
    const { responseSerialize } = await method("Watch", "Watch");
    const message = fc.record({
      header,
      watch_id: revision.map(String),
      created: fc.boolean(),
      canceled: fc.boolean(),
      compact_revision: revision.map(String),
      cancel_reason: fc.string(),
      fragment: fc.boolean(),
      // prev_kv is a field that the decoder skips
      events: fc.array(
        fc.record({ type: fc.constantFrom("Put", "Delete"), kv: keyValue, prev_kv: keyValue }),
        { maxLength: 5 },
      ),
    });
    fc.assert(
      fc.property(message, (answer) => {
        const wire = responseSerialize(answer);
        assert.deepEqual(
          plain(decodeWatchResponse(wire)),
          plain({
            header: { clusterId: answer.header.cluster_id, revision: Number(answer.header.revision) },
            created: answer.created,
            canceled: answer.canceled,
            compactRevision: Number(answer.compact_revision),
            cancelReason: answer.cancel_reason,
            fragment: answer.fragment,
            events: answer.events.map(({ type, kv }) => ({ tombstone: type === "Delete", kv: decoded(kv) })),
            size: wire.length,
          }),
        );
      }),
      { numRuns: 1_000 },
    );
  },
);

Deno.test("decodeTxnResponse() reads what protobufjs writes", strict, async () => {
  const { responseSerialize } = await method("KV", "Txn");
  const read = fc.record({ header, kvs: fc.array(keyValue, { maxLength: 1 }), count: revision.map(String) });
  const response = fc.oneof(
    read.map((response_range) => ({ response_range })),
    fc.record({ response_put: fc.record({ header, prev_kv: keyValue }) }),
    fc.record({ response_delete_range: fc.record({ header, deleted: revision.map(String) }) }),
  );
  const message = fc.record({
    header,
    succeeded: fc.boolean(),
    responses: fc.array(response, { maxLength: 5 }),
  });
  fc.assert(
    fc.property(message, (answer) => {
      assert.deepEqual(decodeTxnResponse(responseSerialize(answer)), {
        header: { clusterId: answer.header.cluster_id, revision: Number(answer.header.revision) },
        succeeded: answer.succeeded,
        found: answer.responses.map((each) =>
          "response_range" in each ? Number(each.response_range.kvs[0]?.mod_revision ?? 0) : 0
        ),
      });
    }),
    { numRuns: 1_000 },
  );
});

Deno.test("decodeToken() reads what protobufjs writes", strict, async () => {
  const { responseSerialize } = await method("Auth", "Authenticate");
  const message = fc.record({ header, token: fc.string({ unit: "binary", maxLength: 2_000 }) });
  fc.assert(
    fc.property(message, (answer) => {
      assert.equal(decodeToken(responseSerialize(answer)), answer.token);
    }),
    { numRuns: 1_000 },
  );
  assert.equal(decodeToken(new Uint8Array()), "");
});

Deno.test("an answer that ends within a number is an error, at once", strict, () => {
  for (const bytes of [[8], [8, 0x80], [0x80], [0xa0, 1, 0x80], [10, 2, 8, 0x80]]) {
    for (const decode of [decodeRangeResponse, decodeTxnResponse, decodeWatchResponse]) {
      assert.throws(() => decode(Uint8Array.from(bytes)), /ends within a number/, String(bytes));
    }
  }
});

Deno.test("an empty message is one with every field at its default", strict, () => {
  const { keys, ...range } = decodeRangeResponse(new Uint8Array());
  assert.deepEqual(range, { header: { clusterId: "0", revision: 0 }, more: false, count: 0 });
  assert.deepEqual([...keys], []);
  assert.equal(decodeWatchResponse(new Uint8Array()).created, false);
});

Deno.test("fields of each wire type that a later etcd may add are skipped", strict, () => {
  const count = [4 << 3, 7];
  const unknown = [
    [20 << 3, 1],
    [20 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8],
    [20 << 3 | 2, 2, 1, 2],
    [20 << 3 | 5, 1, 2, 3, 4],
  ].map(([tag, ...rest]) => [tag & 0x7f | 0x80, tag >> 7, ...rest]);
  for (const field of unknown) {
    assert.equal(decodeRangeResponse(Uint8Array.from([...field, ...count])).count, 7);
  }
  assert.throws(
    () => decodeRangeResponse(Uint8Array.of(20 << 3 & 0x7f | 3 | 0x80, 1)),
    /^Error: Cannot read etcd's answer: wire type 3 is unknown$/,
  );
});
