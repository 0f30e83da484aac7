import assert from "node:assert/strict";
import { installed, mirrored, programSession, refused, setGate, strict, wal } from "../support/schema.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

/** Every way to write. */
const writes = [
  "select etcd_set('/a', 'x')",
  "select etcd_set('/a', 'x'::bytea, 10)",
  "select etcd_delete('/a')",
  "insert into etcd (key, value) values ('/b', 'x')",
  "update etcd set value = 'x'",
  "delete from etcd",
  "insert into etcd_wal (key, value) values ('/a', 'x')",
  "select etcd_retry(1)",
];

/** What is heard on the channel, by a session on the schema. */
async function makeListener(schema = "public"): Promise<{ world: World; heard: string[] } & AsyncDisposable> {
  const world = await makeWorld({ schema });
  await installed(world);
  const session = await programSession(world);
  await session.script("update etcd_sync_gate set parked = true");
  const heard: string[] = [];
  await session.listen("etcd_sync_wal", (payload) => heard.push(payload));
  return {
    world,
    heard,
    async [Symbol.asyncDispose]() {
      await session[Symbol.asyncDispose]();
      await world[Symbol.asyncDispose]();
    },
  };
}

/** Runs the statements, and hears everything between a first notification and a last one. */
async function heardOf(world: World, heard: string[], statements: string[]): Promise<string[]> {
  await world.sql("notify etcd_sync_wal, 'begin'"); // what was sent before is heard before
  await eventually(() => heard.includes("begin"));
  heard.length = 0;
  for (const statement of statements) await world.sql(statement);
  await world.sql("notify etcd_sync_wal, 'end'");
  await eventually(() => heard.includes("end"));
  return heard.slice(0, heard.indexOf("end"));
}

async function withConflict(world: World): Promise<void> {
  await mirrored(world, "/a", "one");
  await world.sql("select etcd_set('/lost', 'x')");
  await world.sql("update etcd_wal set status = 'conflict'; delete from etcd_wal_tx");
}

Deno.test(
  "every write wakes the drain while it is parked, by one NOTIFY with the schema",
  strict,
  async () => {
    await using listener = await makeListener();
    const { world, heard } = listener;
    await withConflict(world);
    for (const write of writes) assert.deepEqual(await heardOf(world, heard, [write]), ["public"], write);
    const many = ["select etcd_set('/k/' || n, 'x') from generate_series(1, 100) n"];
    assert.deepEqual(await heardOf(world, heard, many), ["public"]);
  },
);

Deno.test("the NOTIFY names a schema of another name", strict, async () => {
  await using listener = await makeListener('My "odd" schema');
  const { world, heard } = listener;
  assert.deepEqual(await heardOf(world, heard, [`select "My ""odd"" schema".etcd_set('/a', 'x')`]), [
    'My "odd" schema',
  ]);
});

Deno.test("no write sends a NOTIFY while the drain works", strict, async () => {
  await using listener = await makeListener();
  const { world, heard } = listener;
  await withConflict(world);
  await setGate(world, "parked = false");
  assert.deepEqual(await heardOf(world, heard, writes), []);
});

Deno.test("no write sends a NOTIFY with etcd_sync.notify = off", strict, async () => {
  await using listener = await makeListener();
  const { world, heard } = listener;
  await withConflict(world);
  await world.sql("set etcd_sync.notify = off");
  assert.deepEqual(await heardOf(world, heard, writes), []);
  await world.sql("set etcd_sync.notify = on");
  assert.deepEqual(await heardOf(world, heard, ["select etcd_set('/c', 'x')"]), ["public"]);
});

Deno.test("PREPARE TRANSACTION works with etcd_sync.notify = off", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const [{ max }] = await world.sql("select current_setting('max_prepared_transactions')::integer as max");
  await world.sql("begin; set local etcd_sync.notify = off; select etcd_set('/a', '1'), etcd_set('/b', '1')");
  if (max === 0) { // the server has none: it gets as far as that
    await refused(
      world.sql(`prepare transaction '${world.database}'`),
      "55000",
      /prepared transactions are disabled/,
    );
    return;
  }
  await world.sql(`prepare transaction '${world.database}'`);
  assert.deepEqual(await wal(world, "key"), []);
  await world.sql("select etcd_set('/between', '1')");
  await world.sql(`commit prepared '${world.database}'`);
  assert.deepEqual(await wal(world, "key"), [{ key: "/a" }, { key: "/b" }, { key: "/between" }]);
  const [{ count }] = await world.sql(
    "select count(*) from etcd_wal_tx t join etcd_wal w using (txid, ts) where w.id <= t.seq",
  );
  assert.equal(count, 3);

  await world.sql("begin; select etcd_set('/a', '1')");
  await refused(world.sql(`prepare transaction '${world.database}'`), "0A000", /NOTIFY/);
});
