import assert from "node:assert/strict";
import { etcdVersion } from "../../lib/core/version.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const stale = "its linearizable reads can be stale";
const lostDeletes = "a watch that begins at the compact revision can lose deletes";

Deno.test("etcdVersion() refuses what is older than 3.4", strict, () => {
  for (const version of ["2.3.8", "3.3.27"]) assert.equal(etcdVersion(version).supported, false, version);
  for (const version of ["3.4.0", "3.5.0-rc.1", "3.10.0", "4.0.0"]) {
    assert.equal(etcdVersion(version).supported, true, version);
  }
});

Deno.test("etcdVersion() is careful with progress where a notification can overtake events", strict, () => {
  const careful = (version: string) => etcdVersion(version).carefulProgress;
  assert.deepEqual(["3.4.24", "3.5.7", "3.5.0"].map(careful), [true, true, true]);
  assert.deepEqual(["3.4.25", "3.5.8", "3.5.10", "3.6.0", "3.7.3"].map(careful), [
    false,
    false,
    false,
    false,
    false,
  ]);
});

Deno.test("etcdVersion() names the known bugs", strict, () => {
  const cases: [string, string[]][] = [
    ["3.4.35", [stale, lostDeletes]],
    ["3.4.36", [stale]],
    ["3.4.42", []],
    ["3.5.17", [stale, lostDeletes]],
    ["3.5.27", [stale]],
    ["3.5.28", []],
    ["3.6.8", [stale]],
    ["3.6.9", []],
    ["3.6.16", []],
    ["3.7.0", []],
  ];
  for (const [version, warnings] of cases) assert.deepEqual(etcdVersion(version).warnings, warnings, version);
});
