import assert from "node:assert/strict";
import fc from "fast-check";
import {
  decodeMarker,
  digest,
  encodeMarker,
  judge,
  type Marker,
  outdated,
  type OwnWrite,
  OwnWrites,
  planTxn,
  resolve,
  walk,
} from "../../lib/core/txn.ts";
import type { WalRow } from "../../lib/core/words.ts";
import { nastyBytes } from "../support/nasty.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const bytes = (text: string) => new TextEncoder().encode(text);

function row(parts: Partial<WalRow> = {}): WalRow {
  return {
    id: "1",
    txid: "700",
    ts: "2025-01-01",
    key: "/a",
    value: "v",
    valueBytes: null,
    tombstone: false,
    keepLease: false,
    timeline: 1,
    revision: 10,
    seenRevision: 10,
    strict: false,
    ...parts,
  };
}
const own = (expected: number, result: number, tombstone = false): OwnWrite => ({
  expected,
  result,
  tombstone,
});

Deno.test("walk() follows our own writes that the writer had not seen", strict, () => {
  assert.equal(walk(10, 10, []), 10);
  assert.equal(walk(10, 10, [own(10, 12), own(12, 15)]), 15);
  assert.equal(walk(12, 12, [own(10, 12), own(12, 15)]), 15, "what was seen is not followed again");
});

Deno.test("walk() goes to absence over our own tombstone, and on from there", strict, () => {
  assert.equal(walk(10, 10, [own(10, 12, true)]), 0);
  assert.equal(walk(10, 10, [own(10, 12, true), own(0, 14)]), 14);
  assert.equal(walk(0, 11, [own(0, 12), own(12, 13, true), own(0, 14)]), 14);
});

Deno.test("walk() stops where somebody else wrote in between", strict, () => {
  assert.equal(walk(10, 10, [own(11, 12)]), 10, "our write at 12 stood on a foreign 11");
  assert.equal(walk(10, 10, [own(10, 12), own(13, 14)]), 12);
  assert.equal(walk(0, 5, [own(7, 8, true)]), 0);
});

Deno.test("walk() stops at a foreign delete under a chain", strict, () => {
  // ours 10 → 12, a foreign delete, ours again on absence at 14: a writer that saw 10 has not agreed to that delete
  assert.equal(walk(10, 10, [own(10, 12), own(0, 14)]), 12);
});

/** What OwnWrites is short for: the walk over every write of ours. */
function walkAll(asked: WalRow, all: Map<string, OwnWrite[]>): number {
  return asked.strict ? asked.revision : walk(asked.revision, asked.seenRevision, all.get(asked.key) ?? []);
}

Deno.test("OwnWrites tells what the walk over all of them would, or that it does not know", strict, () => {
  const key = fc.constantFrom("/a", "/b", "/c");
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("write" as const),
      keys: fc.uniqueArray(key, { minLength: 1 }),
      tombstone: fc.boolean(),
    }),
    fc.record({ kind: fc.constant("foreign" as const), key }),
    fc.record({
      kind: fc.constant("ask" as const),
      key,
      /** How long ago the writer looked. */
      ago: fc.nat(12),
      strict: fc.boolean(),
      times: fc.integer({ min: 1, max: 3 }),
      /** The newest batch is settled. */
      settled: fc.boolean(),
    }),
  );
  let known = 0;
  let unknown = 0;
  let learned = 0;
  const holds = (steps: ReturnType<typeof step["generate"]>["value"][], limit: number, began: number) => {
    let revision = began;
    let newest = began;
    const all = new Map<string, OwnWrite[]>(); // as the settled WAL has them
    const now = new Map<string, number>();
    const past: Map<string, number>[] = [];
    const memory = new OwnWrites(began, limit);
    for (const step of steps) {
      if (step.kind === "write") {
        newest = ++revision;
        const rows = step.keys.map((key) => ({ key, tombstone: step.tombstone }));
        memory.note(revision, rows, step.keys.map((key) => now.get(key) ?? 0));
        for (const key of step.keys) {
          const write = own(now.get(key) ?? 0, revision, step.tombstone);
          all.set(key, [...all.get(key) ?? [], write]);
          now.set(key, step.tombstone ? 0 : revision);
        }
      } else if (step.kind === "foreign") {
        revision++;
        now.set(step.key, now.get(step.key) ? 0 : revision);
      } else {
        const seenRevision = Math.max(0, revision - step.ago);
        const base = past[seenRevision]?.get(step.key) ?? 0;
        const asked = row({ key: step.key, revision: base, seenRevision, strict: step.strict });
        for (let i = 0; i < step.times; i++) {
          const told = memory.expected(asked);
          if (told === undefined) {
            unknown++;
            const settled = (all.get(asked.key) ?? [])
              .filter(({ result }) => result > seenRevision && (step.settled || result !== newest));
            memory.learn(asked.key, seenRevision, settled);
            assert.equal(memory.expected(asked), walkAll(asked, all));
          } else {
            if (seenRevision < memory.since && !step.strict) learned++;
            known++;
            assert.equal(told, walkAll(asked, all));
          }
        }
      }
      past[revision] = new Map(now);
    }
  };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.integer({ min: 1, max: 6 }), fc.nat(3), holds),
    {
      numRuns: 3_000,
    },
  );
  assert.ok(
    known > 1_000 && unknown > 1_000 && learned > 1_000,
    `${known} known, ${unknown} unknown, ${learned} learned before`,
  );
});

Deno.test("OwnWrites knows nothing of writes before it began", strict, () => {
  const memory = new OwnWrites(20);
  assert.equal(memory.expected(row({ revision: 10, seenRevision: 19 })), undefined);
  assert.equal(memory.expected(row({ revision: 10, seenRevision: 20 })), 10);
  assert.equal(memory.expected(row({ revision: 10, seenRevision: 1, strict: true })), 10);
});

Deno.test(
  "planTxn(): the marker is compared and written first, then each row on its expected revision",
  strict,
  () => {
    const marker = { key: bytes("/m"), revision: 7, value: bytes("batch") };
    const rows = [
      row({ key: "/a", value: "1" }),
      row({ key: "/\\xff", value: null, valueBytes: Uint8Array.of(0), keepLease: true }),
      row({ key: "/c", value: null, tombstone: true }),
      row({ key: "/new", value: "", keepLease: true }),
    ];
    const plan = planTxn(marker, rows, [3, 4, 5, 0]);
    const other = Uint8Array.of(0x2f, 0xff);
    assert.deepEqual(plan.compares, [
      { key: bytes("/m"), revision: 7 },
      { key: bytes("/a"), revision: 3 },
      { key: other, revision: 4 },
      { key: bytes("/c"), revision: 5 },
      { key: bytes("/new"), revision: 0 },
    ]);
    assert.deepEqual(plan.writes, [
      { key: bytes("/m"), value: bytes("batch"), keepLease: false },
      { key: bytes("/a"), value: bytes("1"), keepLease: false },
      { key: other, value: Uint8Array.of(0), keepLease: true },
      { key: bytes("/c"), value: null, keepLease: false },
      { key: bytes("/new"), value: bytes(""), keepLease: false }, // etcd refuses ignore_lease where there is no key
    ]);
  },
);

Deno.test("judge(): applied at the answer's revision", strict, () => {
  const answer = { applied: true, revision: 42, found: [] };
  assert.deepEqual(judge(answer, 7, [row()], [10]), { kind: "applied", revision: 42 });
});

Deno.test("judge(): where the marker moved, the keys' revisions mean nothing", strict, () => {
  for (const marker of [8, 0]) {
    const answer = { applied: false, revision: 42, found: [marker, 11] };
    assert.deepEqual(judge(answer, 7, [row()], [10]), { kind: "marker-moved" });
  }
});

Deno.test("judge(): each key that moved is a loss, with the winner's revision", strict, () => {
  const rows = [row({ id: "1", key: "/a" }), row({ id: "2", key: "/b" }), row({ id: "3", key: "/c" })];
  const answer = { applied: false, revision: 42, found: [7, 11, 10, 0] };
  assert.deepEqual(judge(answer, 7, rows, [10, 10, 10]), {
    kind: "conflict",
    losses: [
      { id: "1", revision: 11, message: "Key '/a' has revision 11 in etcd, the write stands on revision 10" },
      { id: "3", revision: 0, message: "Key '/c' was deleted in etcd, the write stands on revision 10" },
    ],
  });
  assert.deepEqual(judge({ ...answer, found: [7, 11] }, 7, [row()], [0]), {
    kind: "conflict",
    losses: [{
      id: "1",
      revision: 11,
      message: "Key '/a' has revision 11 in etcd, the write stands on its absence",
    }],
  });
});

Deno.test("judge(): a refusal that nothing explains is an error", strict, () => {
  assert.throws(
    () => judge({ applied: false, revision: 42, found: [7, 10] }, 7, [row()], [10]),
    /all compares hold/,
  );
});

Deno.test("outdated(): a row of an older timeline is lost, whatever its numbers", strict, () => {
  const rows = [row({ id: "1", timeline: 1 }), row({ id: "2", timeline: 2, key: "/b" })];
  assert.deepEqual(outdated(rows, 2), [
    { id: "1", revision: null, message: "The history of etcd was replaced after the write of key '/a'" },
  ]);
  assert.deepEqual(outdated(rows, 1), []);
});

const marker: Marker = {
  streamId: "s",
  epoch: 3,
  holder: "h3",
  batch: 5,
  batchHolder: "h2",
  rows: [[11, 0, "aa"], [12, 10, "bb"]],
};
const state = { batchId: 5, batchHolder: "h2", batchRows: [11, 12], aheadId: null };
const applied = { batch: 5, revision: 90, ids: [11, 12], expected: [0, 10] };

Deno.test("resolve(): applied where the marker names exactly the batch in flight", strict, () => {
  assert.deepEqual(resolve(state, { ...marker, modRevision: 90 }), { kind: "applied", batches: [applied] });
  // what was claimed ahead of it was not sent, or not applied
  assert.deepEqual(resolve({ ...state, aheadId: 6 }, { ...marker, modRevision: 90 }), {
    kind: "applied",
    batches: [applied],
  });
});

Deno.test("resolve(): both, where the marker names the batch that was claimed ahead", strict, () => {
  const ahead = { ...marker, batch: 6, beforeRevision: 85, rows: [[13, 7, "cc"]] as Marker["rows"] };
  const batches = [
    { batch: 5, revision: 85, ids: [11, 12], expected: null },
    { batch: 6, revision: 90, ids: [13], expected: [7] },
  ];
  const both = { ...state, aheadId: 6 };
  assert.deepEqual(resolve(both, { ...ahead, modRevision: 90 }), { kind: "applied", batches });
  assert.deepEqual(resolve(both, { ...ahead, batchRevision: 90, modRevision: 95 }), {
    kind: "applied",
    batches,
  });
});

Deno.test("resolve(): a bumped marker tells at which revision its batch was", strict, () => {
  const resolution = resolve(state, { ...marker, batchRevision: 80, modRevision: 90 });
  assert.deepEqual(resolution, { kind: "applied", batches: [{ ...applied, revision: 80 }] });
});

Deno.test("resolve(): not applied where the marker names an older batch, or there is none", strict, () => {
  assert.deepEqual(resolve(state, { ...marker, batch: 4, modRevision: 90 }), { kind: "not-applied" });
  assert.deepEqual(resolve(state, undefined), { kind: "not-applied" });
  assert.deepEqual(resolve(state, { ...marker, batch: 0, rows: [], modRevision: 90 }), {
    kind: "not-applied",
  });
});

Deno.test("resolve(): nothing, where no batch was in flight", strict, () => {
  const idle = { ...state, batchRows: [] };
  assert.deepEqual(resolve(idle, { ...marker, modRevision: 90 }), { kind: "nothing" });
  assert.deepEqual(resolve(idle, { ...marker, batch: 4, modRevision: 90 }), { kind: "nothing" });
  const fresh = { batchId: 0, batchHolder: null, batchRows: [], aheadId: null };
  assert.deepEqual(resolve(fresh, undefined), { kind: "nothing" });
});

Deno.test(
  "resolve(): PostgreSQL lost commits where the marker's batch is newer, or another one of that number",
  strict,
  () => {
    const lost = { kind: "commits-lost" };
    assert.deepEqual(resolve(state, { ...marker, batch: 6, modRevision: 90 }), lost);
    assert.deepEqual(resolve(state, { ...marker, batchHolder: "h1", modRevision: 90 }), lost);
    assert.deepEqual(resolve({ ...state, batchRows: [] }, { ...marker, batch: 6, modRevision: 90 }), lost);
    const both = { ...state, aheadId: 6 };
    const ahead = { ...marker, batch: 6, beforeRevision: 85, modRevision: 90 };
    assert.deepEqual(resolve(both, { ...ahead, batch: 7 }), lost);
    assert.deepEqual(resolve(both, { ...ahead, batchHolder: "h1" }), lost);
    assert.deepEqual(
      resolve(both, { ...ahead, beforeRevision: undefined }),
      lost,
      "sent behind a settled batch",
    );
  },
);

Deno.test("a marker reads back as it was written, and what is none of ours is none", strict, () => {
  assert.deepEqual(decodeMarker(encodeMarker(marker)), marker);
  const bumped = { ...marker, batchRevision: 7, beforeRevision: 6 };
  assert.deepEqual(decodeMarker(encodeMarker(bumped)), bumped);
  for (
    const text of ["", "x", "{}", "null", "7", '"s"', "[]", '{"streamId":1,"rows":[]}', '{"streamId":"s"}']
  ) {
    assert.equal(decodeMarker(bytes(text)), undefined, text);
  }
  assert.equal(decodeMarker(Uint8Array.of(0xff, 0)), undefined);
});

Deno.test("digest() names a write: key, value, and whether it is a delete", strict, () => {
  const same = digest(row());
  assert.match(same, /^[0-9a-f]{16}$/);
  assert.equal(digest(row({ id: "9", txid: "9", timeline: 4, revision: 1 })), same);
  const others = [
    row({ key: "/b" }),
    row({ value: "w" }),
    row({ value: "" }),
    row({ value: null, tombstone: true }),
    row({ value: null, valueBytes: Uint8Array.of(0) }),
  ].map(digest);
  assert.equal(new Set([same, ...others]).size, 6);
  assert.equal(
    digest(row({ value: null, valueBytes: bytes("v") })),
    same,
    "the columns are two forms of one value",
  );
});

Deno.test("digest() of different writes differs", strict, () => {
  const text = (value: Uint8Array) => row({ value: null, valueBytes: value });
  fc.assert(fc.property(nastyBytes, nastyBytes, (a, b) => {
    const equal = a.length === b.length && a.every((byte, i) => byte === b[i]);
    assert.equal(digest(text(a)) === digest(text(b)), equal);
  }));
});
