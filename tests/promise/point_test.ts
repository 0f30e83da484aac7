/** Promise 1: the mirror is a point in etcd's history. */
import assert from "node:assert/strict";
import { judged, Reader } from "../support/history.ts";
import { streaming, strict } from "../support/run.ts";
import { makeWorld, type Op } from "../support/world.ts";

Deno.test(
  "every snapshot equals etcd at one revision, while transactions of many keys stream in",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("first"), "1");
    await streaming(world);
    await using reader = new Reader(world);
    const keys = Array.from({ length: 40 }, (_, i) => world.key(`k${i}`));
    const writer = async (n: number) => {
      for (let i = 0; i < 60; i++) {
        // many keys at once, deleted and made anew, so that a revision that is cut anywhere shows
        const some = keys.filter((_, k) => (k * 7 + i * 3 + n) % 4 === 0);
        await world.etcd.txn(
          some.map((key, k): Op => (k + i) % 5 ? { put: key, value: `${n} ${i}` } : { delete: key }),
        );
      }
    };
    await Promise.all([0, 1, 2, 3].map(writer));
    const { events, snapshots } = await judged(world, { from, snapshots: await reader.stop() });
    assert.ok(new Set(snapshots.map(({ revision }) => revision)).size > 5, "the reader saw too little of it");
    assert.ok(events.length > 1_000);
  },
);

Deno.test(
  "lease, create_revision and version are etcd's, and the end of a lease deletes",
  strict,
  async () => {
    await using world = await makeWorld();
    const lease = await world.etcd.leaseGrant(600);
    const from = await world.etcd.put(world.key("leased"), "1", { lease });
    await streaming(world);
    const other = await world.etcd.leaseGrant(600);
    await world.etcd.put(world.key("leased too"), "1", { lease: other });
    await world.etcd.put(world.key("leased"), "2", { lease });
    await judged(world, { from });
    const rows = await world.sql(
      "select key, create_revision, version, lease::text as lease from etcd order by key",
    );
    assert.deepEqual(rows.map(({ version, lease }) => [version, lease]), [[2, lease], [1, other]]);
    assert.equal(rows[0].create_revision, from);
    await world.etcd.leaseRevoke(lease);
    await judged(world, { from });
    assert.deepEqual(await world.sql("select key from etcd"), [{ key: world.key("leased too") }]);
  },
);

Deno.test("the past is as etcd had it, at each revision since the start", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "0");
  await streaming(world);
  const revisions = [];
  for (let i = 0; i < 12; i++) {
    const key = world.key("abc"[i % 3]);
    revisions.push(await (i % 4 === 3 ? world.etcd.delete(key) : world.etcd.put(key, String(i))));
  }
  await judged(world, { from });
  for (const revision of revisions) {
    const wanted = (await world.etcd.range(world.prefix, revision)).map((
      { key, value },
    ) => [String(key), String(value)]);
    const found = (await world.sql("select key, value from etcd_at($1) order by key", [revision])).map(
      Object.values,
    );
    assert.deepEqual(found, wanted, `at ${revision}`);
  }
});
