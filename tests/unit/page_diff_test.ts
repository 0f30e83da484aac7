/** What a page and the rows of its range have not in common is found, and nothing else. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { PageDiff } from "../../lib/core/page_diff.ts";
import { foldPage, newestRow } from "../../lib/core/plan.ts";
import type { KeyValue } from "../../lib/core/words.ts";
import { packed } from "../support/packed.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const select = { prefix: new Uint8Array(), maxKeyBytes: 40 };
const TIMELINE = 3;

/** A row of the mirror: its key's text, and one of text and bytes. */
interface Row {
  key: string;
  text: string | null;
  bytes: Buffer | null;
  revision: number;
  createRevision: number;
  version: number;
  timeline: number;
}

function diff(kvs: KeyValue[], rows: Row[]): PageDiff {
  const diff = new PageDiff(packed(kvs), select, TIMELINE);
  for (const { key, text, bytes, ...numbers } of rows) {
    const value = text === null ? null : Buffer.from(text);
    const wire = Buffer.concat([Buffer.from(key), value ?? Buffer.alloc(0), bytes ?? Buffer.alloc(0)]);
    const keyTo = Buffer.byteLength(key);
    const valueTo = keyTo + (value?.length ?? 0);
    diff.add({
      bytes: wire,
      keyFrom: 0,
      keyTo,
      valueFrom: value ? keyTo : -1,
      valueTo,
      valueBytesFrom: bytes ? valueTo : -1,
      valueBytesTo: wire.length,
      ...numbers,
    });
  }
  diff.end();
  return diff;
}

function kv(key: string, value: string, revision: number): KeyValue {
  return {
    key: Buffer.from(key),
    value: Buffer.from(value, "latin1"),
    createRevision: revision,
    modRevision: revision,
    version: 1,
    lease: 0n,
  };
}

/** The row that mirrors it. */
function row({ key, value, createRevision, modRevision, version }: KeyValue): Row {
  const bytes = Buffer.from(value);
  const text = bytes.includes(0xff) ? null : bytes.toString();
  const numbers = { revision: modRevision, createRevision, version, timeline: TIMELINE };
  return { key: Buffer.from(key).toString(), text, bytes: text === null ? bytes : null, ...numbers };
}

const names = fc.uniqueArray(fc.stringMatching(/^[a-dé]{1,3}$/), { maxLength: 12 });
const inOrder = (keys: string[]) => [...keys].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
/** What can have become of a key since it was mirrored. */
const fates = fc.constantFrom(
  "same",
  "new",
  "gone",
  "revision",
  "value",
  "version",
  "created",
  "timeline",
  "column",
);

Deno.test("PageDiff finds the keys that differ, and the rows that are gone", strict, () => {
  fc.assert(
    fc.property(names, fc.infiniteStream(fates), (keys, fate) => {
      const kvs: KeyValue[] = [];
      const rows: Row[] = [];
      const differing: string[] = [];
      const gone: string[] = [];
      inOrder(keys).forEach((key, i) => {
        const now = kv(key, i % 2 ? "text" : "\xff", 10 + i);
        const was = row(now);
        const { value: what } = fate.next();
        if (what === "revision") was.revision--;
        if (what === "value") {
          Object.assign(was, was.text === null ? { bytes: Buffer.of(0xff, 1) } : { text: "texT" });
        }
        if (what === "version") {
          was.version++;
        }
        if (what === "created") was.createRevision--;
        if (what === "timeline") was.timeline--;
        if (what === "column") {
          Object.assign(
            was,
            was.text === null ? { text: "", bytes: null } : { text: null, bytes: Buffer.from(was.text) },
          );
        }
        if (what !== "gone") kvs.push(now);
        if (what !== "new") rows.push(was);
        if (what === "gone") gone.push(key);
        else if (what !== "same") differing.push(key);
      });
      const found = diff(kvs, rows);
      assert.ok(found.comparable);
      assert.deepEqual(found.differing.map(({ key }) => Buffer.from(key).toString()), differing);
      assert.deepEqual(found.gone, gone);
      assert.equal(found.rows, rows.length);
      assert.deepEqual(found.newest, newestRow(foldPage(kvs, select).columns));
    }),
    { numRuns: 500 },
  );
});

Deno.test(
  "a page with a key that its row writes in another way, or that is too long, is not compared so",
  strict,
  () => {
    for (const key of ["\\x41", "a\\xzz", "long".repeat(20)]) {
      assert.equal(diff([kv("a", "1", 5), kv(key, "1", 6)], []).comparable, false, key);
    }
    const invalid = { ...kv("a", "1", 5), key: Buffer.of(0x61, 0xff) };
    assert.equal(diff([invalid], []).comparable, false);
  },
);

Deno.test("keys of our own are no difference", strict, () => {
  const found = diff([kv("/_etcd-pg-sync/s", "marker", 9), kv("a\\b", "1", 5)], [row(kv("a\\b", "1", 5))]);
  assert.deepEqual([found.comparable, found.differing, found.gone], [true, [], []]);
  assert.deepEqual(found.newest, { key: "a\\b", revision: 5 });
});
