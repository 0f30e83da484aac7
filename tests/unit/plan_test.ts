import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { concat, keyText, prefixEnd, successor } from "../../lib/core/codec.ts";
import {
  foldEvents,
  foldPage,
  mirroredKey,
  newerProbe,
  newestRow,
  probeAfter,
  textBounds,
} from "../../lib/core/plan.ts";
import type { Event, KeyValue } from "../../lib/core/words.ts";
import { nastyBytes } from "../support/nasty.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const bytes = (text: string) => new TextEncoder().encode(text);
const all = { prefix: bytes("/"), maxKeyBytes: 2_500 };

function kv(key: string | Uint8Array, revision: number, value: string | Uint8Array = "v"): KeyValue {
  return {
    key: typeof key === "string" ? bytes(key) : key,
    value: typeof value === "string" ? bytes(value) : value,
    createRevision: revision,
    modRevision: revision,
    version: 1,
    lease: 0n,
  };
}
const put = (key: string | Uint8Array, revision: number, value: string | Uint8Array = "v"): Event => ({
  tombstone: false,
  kv: kv(key, revision, value),
});
const del = (key: string, revision: number): Event => ({ tombstone: true, kv: { ...kv(key, revision, "") } });

Deno.test("foldEvents() gives each event its neighbours of the same key", strict, () => {
  const { columns } = foldEvents(
    [put("/a", 2), put("/b", 2), put("/a", 3), del("/b", 4), put("/a", 4), put("/b", 6)],
    all,
  );
  const rows = columns.keys.map((key, i) => [
    key,
    columns.revisions[i],
    columns.tombstones[i],
    columns.previous[i],
    columns.next[i],
  ]);
  assert.deepEqual(rows, [
    ["/a", 2, false, null, 3],
    ["/b", 2, false, null, 4],
    ["/a", 3, false, 2, 4],
    ["/b", 4, true, 2, 6],
    ["/a", 4, false, 3, null],
    ["/b", 6, false, 4, null],
  ]);
});

Deno.test(
  "foldEvents(): of each key one event is the first and one the last, and they are chained",
  strict,
  () => {
    const key = fc.constantFrom("/a", "/b", "/c", "/d");
    fc.assert(fc.property(fc.array(fc.tuple(key, fc.boolean()), { maxLength: 30 }), (list) => {
      const events = list.map(([name, tombstone], i) => (tombstone ? del : put)(name, i + 1));
      const { columns } = foldEvents(events, all);
      assert.deepEqual(columns.revisions, events.map(({ kv }) => kv.modRevision));
      for (const name of new Set(columns.keys)) {
        const own = [...columns.keys.keys()].filter((i) => columns.keys[i] === name);
        const revisions = own.map((i) => columns.revisions[i]);
        assert.deepEqual(own.map((i) => columns.previous[i]), [null, ...revisions.slice(0, -1)]);
        assert.deepEqual(own.map((i) => columns.next[i]), [...revisions.slice(1), null]);
      }
    }));
  },
);

Deno.test("foldEvents() keeps value, versions and lease; a tombstone has no value", strict, () => {
  const put: Event = {
    tombstone: false,
    kv: { ...kv("/a", 9, Uint8Array.of(0)), createRevision: 5, version: 3, lease: -7n },
  };
  const { columns } = foldEvents([put, del("/a", 10)], all);
  assert.deepEqual({ ...columns }, {
    keys: ["/a", "/a"],
    values: [null, null],
    valueBytes: [Uint8Array.of(0), null],
    revisions: [9, 10],
    createRevisions: [5, 10],
    versions: [3, 1],
    leases: ["-7", "0"],
    tombstones: [false, true],
    previous: [null, 9],
    next: [10, null],
  });
  assert.equal(foldEvents([{ tombstone: false, kv: kv("/a", 1, "") }], all).columns.values[0], "");
});

Deno.test(
  "keys outside of the prefix and the program's own are not mirrored, also under an empty prefix",
  strict,
  () => {
    const own = "/_etcd-pg-sync/default";
    const keys = ["/app/a", "/app", "/b", own, "/_etcd-pg-sync/", "/_etcd-pg-syncer"];
    const mirrored = (prefix: string) =>
      foldEvents(keys.map((key, i) => put(key, i + 1)), { prefix: bytes(prefix), maxKeyBytes: 2_500 }).columns
        .keys;
    assert.deepEqual(mirrored("/app/"), ["/app/a"]);
    assert.deepEqual(mirrored(""), ["/app/a", "/app", "/b", "/_etcd-pg-syncer"]);
    assert.deepEqual(mirrored("/_etcd-pg-sync"), ["/_etcd-pg-syncer"]);
    assert.deepEqual(mirroredKey(bytes(own), all), { skipped: "own" });
    assert.deepEqual(mirroredKey(bytes("b"), all), { skipped: "foreign" });
  },
);

Deno.test("a key whose text is too long is left out and named; its tombstone is not", strict, () => {
  const fits = "/" + "k".repeat(2_499);
  const long = fits + "k";
  const { columns, skipped } = foldEvents([put(fits, 1), put(long, 2), del(long, 3)], all);
  assert.deepEqual(columns.keys, [fits]);
  assert.deepEqual(skipped, [{ key_begins: long.slice(0, 100), key_bytes: 2_501, revision: 2 }]);
  assert.deepEqual(foldPage([kv(long, 2)], all).skipped.length, 1);
});

Deno.test("what is too long is measured as SQL writes the key, in bytes", strict, () => {
  const skipped = (key: Uint8Array) => "skipped" in mirroredKey(key, all);
  const slash = bytes("/");
  const ofBytes = (n: number) => concat([slash, new Uint8Array(n).fill(0xff)]); // \xff each: four bytes
  assert.equal(skipped(ofBytes(624)), false);
  assert.equal(skipped(ofBytes(625)), true);
  assert.equal(skipped(bytes("/" + "é".repeat(1_249))), false);
  assert.equal(skipped(bytes("/" + "é".repeat(1_250))), true);
  assert.equal(skipped(bytes("/" + "€".repeat(833))), false);
  assert.equal(skipped(bytes("/" + "€".repeat(833) + "a")), true);
});

Deno.test("foldPage() keeps a page's keys in their order", strict, () => {
  const { columns } = foldPage([kv("/a", 3), kv("/b", 1), kv("/_etcd-pg-sync/x", 2)], all);
  assert.deepEqual([columns.keys, columns.revisions], [["/a", "/b"], [3, 1]]);
});

Deno.test("probeAfter() is the newest put that is still there", strict, () => {
  const after = (probe: { key: string; revision: number } | null, ...events: Event[]) =>
    probeAfter(probe, foldEvents(events, all).columns);
  assert.deepEqual(after(null, put("/a", 1), put("/b", 2)), { key: "/b", revision: 2 });
  assert.deepEqual(after(null, put("/a", 1), put("/b", 2), del("/b", 3)), { key: "/a", revision: 1 });
  assert.deepEqual(after({ key: "/a", revision: 1 }, del("/a", 2)), null);
  assert.deepEqual(after({ key: "/a", revision: 1 }, del("/b", 2)), { key: "/a", revision: 1 });
  assert.deepEqual(after({ key: "/a", revision: 1 }, del("/a", 2), put("/a", 3)), { key: "/a", revision: 3 });
  assert.deepEqual(after({ key: "/a", revision: 9 }, put("/b", 2)), { key: "/a", revision: 9 });
  assert.equal(after(null), null);
});

Deno.test("probeAfter() names a row that etcd has at the batch's end, whatever the history", strict, () => {
  const key = fc.constantFrom("/a", "/b", "/c");
  const history = fc.array(fc.tuple(key, fc.boolean()), { maxLength: 20 });
  fc.assert(fc.property(history, fc.nat(20), (list, cut) => {
    const events = list.map(([name, tombstone], i) => (tombstone ? del : put)(name, i + 1));
    const first = probeAfter(null, foldEvents(events.slice(0, cut), all).columns);
    const probe = probeAfter(first, foldEvents(events.slice(cut), all).columns);
    if (probe === null) return;
    const last = events.findLast((event) => Buffer.from(event.kv.key).toString() === probe.key)!;
    assert.deepEqual([last.tombstone, last.kv.modRevision], [false, probe.revision]);
  }));
});

Deno.test("newestRow() of a page, and the newer of two", strict, () => {
  const newest = (...kvs: KeyValue[]) => newestRow(foldPage(kvs, all).columns);
  assert.deepEqual(newest(kv("/a", 3), kv("/b", 1)), { key: "/a", revision: 3 });
  assert.equal(newest(), null);
  const [older, newer] = [{ key: "/a", revision: 3 }, { key: "/x", revision: 5 }];
  for (const [a, b] of [[older, newer], [newer, older], [newer, null], [null, newer]] as const) {
    assert.deepEqual(newerProbe(a, b), newer);
  }
  assert.equal(newerProbe(null, null), null);
});

Deno.test("textBounds() are never narrower than the range, for keys that are text", strict, () => {
  let inside = 0;
  const holds = (from: Uint8Array, to: Uint8Array, key: Uint8Array) => {
    const text = keyText(key);
    if (text.includes("\\x")) return; // found by its bytes, on an index of its own
    const unbounded = to.length === 1 && to[0] === 0;
    const within = Buffer.compare(from, key) <= 0 && (unbounded || Buffer.compare(key, to) < 0);
    if (!within) return;
    inside++;
    const { low, high, end } = textBounds({ from, to });
    // the column's collation is "C": it compares bytes
    assert.ok(Buffer.compare(bytes(low), bytes(text)) <= 0, `${low} > ${text}`);
    assert.ok(Buffer.compare(bytes(text), bytes(high)) <= 0, `${text} > ${high}`);
    assert.deepEqual(end, unbounded ? null : to);
  };
  const end = fc.oneof(
    nastyBytes,
    nastyBytes.map(prefixEnd),
    nastyBytes.map(successor),
    fc.constant(Uint8Array.of(0)),
  );
  fc.assert(fc.property(nastyBytes, end, nastyBytes, holds), { numRuns: 10_000 });
  // keys that are near the bounds
  const near = (from: Uint8Array, to: Uint8Array, tail: Uint8Array) => {
    for (const edge of [from, to]) {
      for (const cut of [0, 1, 2]) holds(from, to, concat([edge.subarray(0, edge.length - cut), tail]));
    }
  };
  fc.assert(fc.property(nastyBytes, end, nastyBytes, near), { numRuns: 10_000 });
  assert.ok(inside > 1_000, `only ${inside} keys were within their range`);
});

Deno.test("textBounds() of a page that ends at a text key's successor end with that key", strict, () => {
  assert.deepEqual(textBounds({ from: bytes("/a"), to: successor(bytes("/m")) }), {
    low: "/a",
    high: "/m",
    end: successor(bytes("/m")),
  });
  assert.equal(textBounds({ from: bytes("/a"), to: bytes("/b") }).high, "/b");
});
