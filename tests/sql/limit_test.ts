import assert from "node:assert/strict";
import { claim, drainAll, settle } from "../support/drain.ts";
import { installed, refused, strict, transaction, wal } from "../support/schema.ts";
import { makeWorld, type World } from "../support/world.ts";

const full = /the WAL is full, its limit is 10 writes/;

async function limited(world: World): Promise<void> {
  await installed(world);
  await check(world, 10);
}

/** What the leader does every second. */
async function check(world: World, limit: number | null): Promise<number | null> {
  return (await world.sql("select etcd_keep_limit($1) as waiting", [limit]))[0].waiting;
}

async function write(world: World, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await world.sql("select etcd_set($1, '1')", [`/${crypto.randomUUID()}`]);
}

Deno.test("at the limit every kind of write is refused, also while no program runs", strict, async () => {
  await using world = await makeWorld();
  await limited(world);
  await write(world, 10);
  await refused(write(world, 1), "ZE013", full);
  await refused(world.sql("select etcd_set('/a', '1'::bytea)"), "ZE013", full);
  await refused(world.sql("select etcd_delete('/a')"), "ZE013", full);
  await refused(world.sql("insert into etcd (key, value) values ('/a', '1')"), "ZE013", full);
  await refused(world.sql("insert into etcd_wal (key, value) values ('/a', '1')"), "ZE013", full);
  assert.equal((await wal(world, "id")).length, 10);
});

Deno.test("a transaction that reaches the limit is refused as a whole", strict, async () => {
  await using world = await makeWorld();
  await limited(world);
  await refused(transaction(world, () => write(world, 11)), "ZE013", full);
  assert.deepEqual(await wal(world, "id"), []);
});

Deno.test("who replaces a write of his own needs no room", strict, async () => {
  await using world = await makeWorld();
  await limited(world);
  await write(world, 9);
  await transaction(world, async () => {
    await world.sql("select etcd_set('/a', '1')");
    await world.sql("select etcd_set('/a', '2')");
  });
  assert.equal((await wal(world, "id")).length, 10);
});

Deno.test("what is drained makes room, tickets that were rolled back do too", strict, async () => {
  await using world = await makeWorld();
  await limited(world);
  await assert.rejects(transaction(world, async () => {
    await write(world, 8);
    throw new Error("rolled back");
  }));
  assert.equal(await check(world, 10), 0);
  await write(world, 10);
  assert.equal(await check(world, 10), 10);
  await refused(write(world, 1), "ZE013", full);
  await settle(world, await claim(world, { transactions: 4 }));
  assert.equal(await check(world, 10), 6);
  await write(world, 4);
  await refused(write(world, 1), "ZE013", full);
  await drainAll(world);
  assert.equal(await check(world, 10), 0);
  await write(world, 10);
});

Deno.test("retried rows, and rows of long transactions, are counted", strict, async () => {
  await using world = await makeWorld();
  await limited(world);
  const long = world.session();
  await long.sql("begin");
  await long.sql("select etcd_set('/long', '1')");
  await write(world, 2);
  const [first] = await claim(world, { transactions: 1 });
  await world.sql("select etcd_drain_lost('conflict', 1, $1, array[null::bigint], array['x'])", [[first.id]]);
  await world.sql("select etcd_retry($1)", [first.id]);
  await settle(world, (await claim(world)).filter(({ id }) => id !== first.id));
  await write(world, 4);
  await long.sql("commit");
  await world.sql("select setval('etcd_wal_id_seq', 100)"); // all tickets are drawn
  assert.equal(await check(world, 10), 6);
});

Deno.test("it counts, and writes the gate, only once most tickets are drawn", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  await check(world, 100);
  const gate = () => world.sql("select xmin::text, refuse_after from etcd_sync_gate");
  const before = await gate();
  await write(world, 50);
  await drainAll(world);
  assert.equal(await check(world, 100), 50, "an upper bound");
  assert.deepEqual(await gate(), before);
  await write(world, 30);
  assert.equal(await check(world, 100), 30);
  assert.equal((await gate())[0].refuse_after, 80 + 70);
});

Deno.test("another limit counts from the start, never lifts it", strict, async () => {
  await using world = await makeWorld();
  await limited(world);
  await write(world, 10);
  assert.equal(await check(world, 12), 10);
  await write(world, 2);
  assert.equal(await check(world, 5), 12);
  await refused(write(world, 1), "ZE013", /its limit is 5/);
  assert.equal(await check(world, null), null);
  await write(world, 20);
});
