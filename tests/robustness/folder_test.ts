/** What a failed round leaves can be judged again. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { strict } from "../support/schema.ts";
import type { Mirrored, Run } from "../support/validators.ts";
import { decodeRun, encodeRun } from "./folder.ts";
import { mutated, mutations } from "./mutation.ts";

Deno.test(
  "a run comes back from its folder as it was, and a row that snapshots share stands in it once",
  strict,
  () => {
    const row: Mirrored = {
      key: "/r/\xff",
      value: null,
      value_bytes: Buffer.from("00ff", "hex"),
      revision: 2,
      create_revision: 2,
      version: 1,
      lease: "7587862094009376011",
    };
    const snapshot = { state: "streaming", revision: 2, timeline: 1, rows: [row], fresh_at: 1.5 };
    const run: Run = {
      events: [{ ...row, type: "put", value: Buffer.from("00ff", "hex"), mod_revision: 2 } as never],
      markers: [],
      snapshots: [snapshot, { ...snapshot, revision: 3 }],
      wal: [],
      clients: [{ outcome: "unknown", began: 1, ended: 2, writes: [{ id: 1, key: "/r/a", value: null }] }],
      split: ["1 2"],
      everyClient: true,
    };
    const text = encodeRun(run);
    assert.deepEqual(decodeRun(text), run);
    assert.equal(text.split(`"version":1,"lease":"7587862094009376011"}]`).length, 2);
  },
);

Deno.test("every mutation applies to this tree", strict, async () => {
  const names = await mutations();
  assert.ok(names.length > 5);
  for (const name of names) {
    await using _tree = await mutated(name);
  }
});
