/** Promises 3 and 5: a PostgreSQL transaction is one etcd transaction, and what is written arrives byte for byte. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { judged, latin1, quiet } from "../support/history.ts";
import { events, hold, holdDrain, streaming, strict, untilBlocked } from "../support/run.ts";
import { nastyKeys, nastyValues } from "../support/samples.ts";
import { transaction } from "../support/schema.ts";
import type { ClientTransaction } from "../support/validators.ts";
import { eventually, makeWorld } from "../support/world.ts";

Deno.test("any key and value from SQL arrives in etcd byte for byte, and comes back", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world);
  const clients: ClientTransaction[] = [];
  const write = async (key: Buffer, value: Buffer) => {
    const began = performance.now();
    const [{ id }] = await world.sql("select etcd_set(etcd_key_text($1), $2::bytea) as id", [key, value]);
    clients.push({
      outcome: "committed",
      began,
      ended: performance.now(),
      writes: [{ id, key: key.toString("latin1"), value }],
    });
  };
  const under = (key: Buffer) => Buffer.concat([Buffer.from(world.prefix), key]);
  for (const [name, key] of Object.entries(nastyKeys)) await write(under(key), Buffer.from(name));
  for (const [name, value] of Object.entries(nastyValues)) {
    await write(under(Buffer.from(`value ${name}`)), value);
  }
  await judged(world, { from, clients }, 60_000);
  for (const [name, key] of Object.entries(nastyKeys)) {
    assert.equal(String((await world.etcd.get(under(key)))?.value), name);
  }
});

Deno.test("INSERT, UPDATE and DELETE through the view arrive", strict, async () => {
  await using world = await makeWorld();
  const lease = await world.etcd.leaseGrant(600);
  const from = await world.etcd.put(world.key("a"), "1", { lease });
  await streaming(world);
  await quiet(world);
  await world.sql("insert into etcd (key, value) values ($1, 'new')", [world.key("b")]);
  await world.sql("update etcd set value = value || '!' where key = $1", [world.key("a")]);
  await judged(world, { from });
  assert.equal((await world.etcd.get(world.key("a")))?.lease, lease, "UPDATE keeps the lease");
  await world.sql("delete from etcd where key = $1", [world.key("b")]);
  await world.sql("select etcd_set($1, 'put')", [world.key("a")]);
  await judged(world, { from });
  assert.equal((await world.etcd.get(world.key("a")))?.lease, "0", "a put drops it");
  const keys = (await world.etcd.range(world.prefix)).map(({ key, value }) => [String(key), String(value)]);
  assert.deepEqual(keys, [[world.key("a"), "put"]]);
});

Deno.test(
  "one transaction is one revision; several small ones share a batch, and stay whole",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const program = await streaming(world);
    await quiet(world);
    const release = await holdDrain(world);
    await world.sql("select etcd_set($1, '0')", [world.key("first")]);
    await untilBlocked(world, program, /etcd_drain_turn/);
    for (let i = 0; i < 5; i++) {
      await transaction(world, async () => {
        for (const name of ["x", "y", "z"]) {
          await world.sql("select etcd_set($1, $2)", [world.key(`${i}${name}`), `${i}`]);
        }
      });
    }
    await release();
    const { wal, markers } = await judged(world, { from });
    assert.equal(wal.length, 16);
    assert.ok(markers.filter(({ bump }) => !bump).length <= 3, "the five went together");
  },
);

Deno.test(
  "a transaction past etcd's limit goes in order in several, and an event says so",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    await streaming(world, ["--max-txn-ops", "11"]);
    await world.sql("select etcd_set($1 || n, n::text) from generate_series(1, 35) n", [world.key("k")]);
    await world.sql("select etcd_set($1, 'after')", [world.key("after")]);
    const { wal } = await judged(world, { from });
    const revisions = wal.map(({ result_revision }) => result_revision!);
    assert.equal(new Set(revisions.slice(0, 35)).size, 4);
    assert.deepEqual(revisions, revisions.toSorted((a, b) => a - b));
    assert.equal((await events(world, "split")).length, 1);
  },
);

Deno.test("a transaction past etcd's bytes is split too", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world);
  await world.sql("select etcd_set($1 || n, repeat(n::text, 600000)) from generate_series(1, 5) n", [
    world.key("k"),
  ]);
  const { wal } = await judged(world, { from }, 40_000);
  assert.deepEqual(wal.map(({ status }) => status), Array(5).fill("success"));
  assert.equal((await events(world, "split")).length, 1);
});

Deno.test("--oversize=refuse: such a transaction cannot be committed", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world, ["--max-txn-ops", "11", "--oversize", "refuse"]);
  await assert.rejects(
    world.sql("select etcd_set($1 || n, n::text) from generate_series(1, 11) n", [world.key("k")]),
    { code: "ZE006" },
  );
  await world.sql("select etcd_set($1 || n, n::text) from generate_series(1, 10) n", [world.key("k")]);
  const { wal } = await judged(world, { from });
  assert.equal(wal.length, 10);
});

Deno.test("of a split transaction the parts after a conflict are conflicts too", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("k15"), "0");
  await streaming(world, ["--max-txn-ops", "11"]);
  await quiet(world);
  const held = await hold(world.session(), "lock table etcd_kv in exclusive mode"); // the mirror does not see it in time
  const theirs = await world.etcd.put(world.key("k15"), "theirs");
  await world.sql("select etcd_set($1 || n, n::text) from generate_series(1, 35) n", [world.key("k")]);
  await eventually(async () => !(await world.sql("select 1 from etcd_wal where status = 'pending'")).length);
  await held();
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), [
    ...Array(10).fill("success"),
    ...Array(25).fill("conflict"),
  ]);
  assert.ok(wal.slice(10).every(({ result_revision }) => result_revision === theirs));
});

Deno.test(
  "what etcd refuses for good is failed with its words, the transactions around it arrive",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    // the server takes 128 operations
    const program = await streaming(world, ["--max-txn-ops", "500"]);
    const release = await holdDrain(world);
    await world.sql("select etcd_set($1, '1')", [world.key("before")]);
    await untilBlocked(world, program, /etcd_drain_turn/);
    await world.sql("select etcd_set($1 || n, n::text) from generate_series(1, 200) n", [world.key("k")]);
    await world.sql("select etcd_set($1, '1')", [world.key("after")]);
    await release();
    const { wal } = await judged(world, { from });
    const by = Map.groupBy(wal, ({ status }) => status);
    assert.deepEqual(
      by.get("success")?.map(({ key }) => key),
      ["before", "after"].map((name) => latin1(world.key(name))),
    );
    assert.equal(by.get("failed")?.length, 200);
    assert.match(by.get("failed")![0].error_message!, /too many operations/);
  },
);
