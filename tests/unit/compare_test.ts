/** The merge join of `validate`, against the plain rule; and the decoder of what it joins. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { concat, equalBytes, keyText, valueColumns } from "../../lib/core/codec.ts";
import {
  compareBytes,
  type Difference,
  differences,
  differingFields,
  emptyRepair,
  type MirrorEntry,
  pushRepair,
} from "../../lib/core/compare.ts";
import type { KeyValue } from "../../lib/core/words.ts";
import { RowCursor, rowEntry } from "../../lib/postgres/copy_rows.ts";
import { nastyBytes } from "../support/nasty.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const bytes = (text: string) => new TextEncoder().encode(text);
const PREFIX = bytes("/");
const select = { prefix: PREFIX, maxKeyBytes: 2_500 };
const TIMELINE = 3;

function kv(key: Uint8Array, revision: number, value: Uint8Array = bytes("v")): KeyValue {
  return { key, value, createRevision: revision, modRevision: revision, version: 1, lease: 7n };
}

/** The row that a right mirror has. */
function row({ key, value, modRevision, createRevision, version, lease }: KeyValue): MirrorEntry {
  const text = keyText(key);
  const columns = valueColumns(value);
  return {
    key,
    text: text.includes("\\x") ? text : null,
    value: columns.value === null ? null : bytes(columns.value),
    valueBytes: columns.valueBytes,
    revision: modRevision,
    createRevision,
    version,
    lease,
    timeline: TIMELINE,
  };
}

/** In batches of any size, empty ones too. */
async function* batches<T>(items: T[], sizes: number[]): AsyncGenerator<T[]> {
  for (let at = 0, i = 0; at < items.length; i++) {
    const size = sizes[i % sizes.length];
    yield items.slice(at, at + size);
    at += size;
    await Promise.resolve();
  }
}

async function compareAll(etcd: KeyValue[], mirror: MirrorEntry[], sizes: number[]) {
  const sorted = <T extends { key: Uint8Array }>(items: T[]) =>
    items.toSorted((a, b) => compareBytes(a.key, b.key));
  const compared = { keys: 0 };
  const found: Difference[] = [];
  const join = differences(
    batches(sorted(etcd), sizes),
    batches(sorted(mirror.filter((row) => row.text === null)), sizes),
    batches(sorted(mirror.filter((row) => row.text !== null)), sizes),
    { select, timeline: TIMELINE, compared },
  );
  for await (const difference of join) found.push(difference);
  return { found: found.map(({ kind, key, fields }) => ({ kind, key, fields })), keys: compared.keys };
}

const key = nastyBytes.map((tail) => concat([PREFIX, tail]));
const keys = fc.uniqueArray(key, { selector: (k) => Buffer.from(k).toString("hex"), maxLength: 30 });

Deno.test(
  "differences() finds what is missing, extra and different, in any order of keys and cut of batches",
  strict,
  async () => {
    const fate = fc.constantFrom("equal", "missing", "extra", "different");
    await fc.assert(fc.asyncProperty(
      keys,
      fc.array(fate, { minLength: 30, maxLength: 30 }),
      fc.array(fc.nat(4), { minLength: 1, maxLength: 5 }).filter((sizes) => sizes.some((size) => size > 0)),
      async (keys, fates, sizes) => {
        const all = keys.map((key, i) => ({ key, text: keyText(key), fate: fates[i], kv: kv(key, i + 1) }));
        const etcd = all.filter(({ fate }) => fate !== "extra").map(({ kv }) => kv);
        const mirror = all.filter(({ fate }) => fate !== "missing")
          .map(({ kv, fate }) => fate === "different" ? { ...row(kv), version: 2 } : row(kv));
        const { found, keys: compared } = await compareAll(etcd, mirror, sizes);
        const wanted = all.filter(({ fate }) => fate !== "equal")
          .map(({ text, fate }) => ({
            kind: fate,
            key: text,
            fields: fate === "different" ? ["version"] : [],
          }));
        const byKey = (a: { key: string }, b: { key: string }) => a.key < b.key ? -1 : 1;
        assert.deepEqual(found.toSorted(byKey), wanted.toSorted(byKey));
        assert.equal(compared, etcd.length);
      },
    ));
  },
);

Deno.test("differences() takes a row in a form that is not its key's own as extra", strict, async () => {
  const a = kv(bytes("/A"), 1);
  const stranger = { ...row(a), text: "/\\x41" };
  assert.deepEqual(await compareAll([a], [row(a), stranger], [10]), {
    found: [{ kind: "extra", key: "/\\x41", fields: [] }],
    keys: 1,
  });
  assert.deepEqual((await compareAll([a], [stranger], [10])).found.map(({ kind, key }) => [kind, key]), [
    ["extra", "/\\x41"],
    ["missing", "/A"],
  ]);
});

Deno.test("differences() leaves out what a stream leaves out, unless the mirror has it", strict, async () => {
  const own = kv(bytes("/_etcd-pg-sync/default"), 1);
  const long = kv(bytes("/" + "k".repeat(2_500)), 2);
  const escapedLong = kv(concat([PREFIX, new Uint8Array(700).fill(0xff)]), 3);
  assert.deepEqual(await compareAll([own, long, escapedLong], [], [10]), { found: [], keys: 0 });
  assert.deepEqual((await compareAll([own], [row(own)], [10])).found.map(({ kind }) => kind), ["extra"]);
});

Deno.test("differingFields() names each field, and only it", strict, () => {
  const text = kv(bytes("/a"), 5);
  const binary = kv(bytes("/a"), 5, Uint8Array.of(0xff));
  const cases: [KeyValue, Partial<MirrorEntry>, string[]][] = [
    [text, {}, []],
    [binary, {}, []],
    [text, { value: bytes("w") }, ["value"]],
    [text, { value: bytes("vv") }, ["value"]],
    [text, { value: null, valueBytes: bytes("v") }, ["value"]], // in the wrong column
    [binary, { valueBytes: Uint8Array.of(0xfe) }, ["value"]],
    [text, { revision: 6 }, ["revision"]],
    [text, { createRevision: 4 }, ["create_revision"]],
    [text, { version: 2 }, ["version"]],
    [text, { lease: -7n }, ["lease"]],
    [text, { timeline: 2 }, ["timeline"]],
    [text, { revision: 6, lease: 0n }, ["revision", "lease"]],
  ];
  for (const [kv, change, wanted] of cases) {
    assert.deepEqual(differingFields(kv, { ...row(kv), ...change }, TIMELINE), wanted);
  }
});

Deno.test("pushRepair() keeps nothing of the page alive, and knows keys that no watch brings", strict, () => {
  const columns = emptyRepair();
  const page = Buffer.alloc(1_000_000, 0xff); // as grpc gives it
  const etcd = kv(bytes("/a"), 5, page.subarray(10, 12));
  const rowOf = (key: string) => row(kv(bytes(key), 5));
  pushRepair(columns, { kind: "missing", key: "/a", etcd, mirror: null, fields: [] }, select);
  pushRepair(columns, { kind: "extra", key: "/b", etcd: null, mirror: rowOf("/b"), fields: [] }, select);
  pushRepair(
    columns,
    { kind: "extra", key: "elsewhere", etcd: null, mirror: rowOf("elsewhere"), fields: [] },
    select,
  );
  pushRepair(columns, { kind: "extra", key: "/\\x41", etcd: null, mirror: rowOf("/A"), fields: [] }, select);
  assert.equal(columns.valueBytes[0]!.buffer.byteLength, 2);
  assert.deepEqual(columns.there, [true, false, false, false]);
  assert.deepEqual(columns.mirrored, [true, true, false, false]);
});

/** As PostgreSQL writes it. */
function encode(rows: MirrorEntry[]): Buffer {
  const field = (value: Uint8Array | null) => {
    const length = Buffer.alloc(4);
    length.writeInt32BE(value === null ? -1 : value.length);
    return value === null ? [length] : [length, value];
  };
  const int8 = (value: number | bigint) => {
    const buffer = Buffer.alloc(8);
    buffer.writeBigInt64BE(BigInt(value));
    return buffer;
  };
  const parts: Uint8Array[] = [Buffer.from("PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", "latin1")];
  for (const r of rows) {
    parts.push(Buffer.of(0, 8));
    const numbers = [r.revision, r.createRevision, r.version, r.lease, r.timeline].map(int8);
    for (const value of [bytes(r.text ?? Buffer.from(r.key).toString()), r.value, r.valueBytes, ...numbers]) {
      parts.push(...field(value));
    }
  }
  return Buffer.concat([...parts, Buffer.of(0xff, 0xff)]);
}

Deno.test("RowCursor reads COPY's binary format, cut anywhere", strict, () => {
  fc.assert(
    fc.property(
      keys,
      fc.uint8Array({ maxLength: 40 }),
      fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 }),
      (keys, value, sizes) => {
        const rows = keys.map((key, i) => row({ ...kv(key, 2 ** 40 + i, value), lease: -(2n ** 62n) }));
        const wire = encode(rows);
        const cursor = new RowCursor();
        const found: MirrorEntry[] = [];
        for (let at = 0, i = 0; at < wire.length; at += sizes[i++ % sizes.length]) {
          cursor.feed(wire.subarray(at, at + sizes[i % sizes.length]));
          const before = found.length;
          while (cursor.next()) found.push(rowEntry(cursor));
          if (found.length > before) cursor.keep();
        }
        assert.ok(cursor.ended);
        assert.equal(found.length, rows.length);
        found.forEach((row, i) => {
          assert.ok(equalBytes(row.key, rows[i].key));
          assert.deepEqual(
            differingFields(kv(row.key, 2 ** 40 + i, value), { ...row, lease: 7n }, TIMELINE),
            [],
          );
          assert.equal(row.lease, -(2n ** 62n));
          assert.equal(row.text, rows[i].text);
        });
      },
    ),
  );
});
