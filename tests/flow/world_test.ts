import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { eventually, makeWorld } from "../support/world.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

Deno.test("makeWorld() gives each test a database of its own, and takes it away", strict, async () => {
  const world = await makeWorld();
  const [{ encoding, name }] = await world.sql(
    "select pg_encoding_to_char(encoding) as encoding, datname as name from pg_database where datname = current_database()",
  );
  assert.deepEqual({ encoding, name }, { encoding: "UTF8", name: world.database });
  await using other = await makeWorld();
  await world[Symbol.asyncDispose]();
  assert.deepEqual(await other.sql("select 1 from pg_database where datname = $1", [name]), []);
});

Deno.test("makeWorld() makes a database of another encoding", strict, async () => {
  await using world = await makeWorld({ encoding: "LATIN1" });
  const [{ server_encoding }] = await world.sql("show server_encoding");
  assert.equal(server_encoding, "LATIN1");
});

Deno.test("sql() reads int8 as a number where that is exact, and bytea as bytes", strict, async () => {
  await using world = await makeWorld();
  const [row] = await world.sql(
    "select 7::int8 as small, 9007199254740993::int8 as large, '\\x00ff'::bytea as raw, " +
      "array[1, null, 2]::int8[] as list",
  );
  assert.deepEqual(row, { small: 7, large: 9007199254740993n, raw: Buffer.of(0, 255), list: [1, null, 2] });
});

Deno.test("sql() opens a session again that was ended from outside", strict, async () => {
  await using world = await makeWorld();
  const [{ pid }] = await world.sql("select pg_backend_pid() as pid");
  await world.session().sql("select pg_terminate_backend($1)", [pid]);
  const other = await eventually(async () => (await world.sql("select pg_backend_pid() as pid"))[0].pid);
  assert.notEqual(other, pid);
});

Deno.test("history() lists every event under the prefix, and none from elsewhere", strict, async () => {
  await using world = await makeWorld();
  await using other = await makeWorld();
  const { etcd } = world;
  const first = await etcd.put(world.key("a"), Uint8Array.of(0, 255));
  const second = await etcd.txn([{ put: world.key("a"), value: "2" }, { put: world.key("b"), value: "3" }]);
  const third = await etcd.delete(world.key("a"));
  await etcd.put(other.key("x"), "elsewhere");
  const events = (await etcd.history(world.prefix, first)).map((event) => [
    event.type,
    String(event.key).slice(world.prefix.length),
    event.mod_revision,
    event.value,
  ]);
  assert.deepEqual(events, [
    ["put", "a", first, Buffer.of(0, 255)],
    ["put", "a", second, Buffer.from("2")],
    ["put", "b", second, Buffer.from("3")],
    ["delete", "a", third, Buffer.of()],
  ]);
  assert.deepEqual((await etcd.range(world.prefix)).map(({ version }) => version), [1]);
  assert.equal(String((await etcd.get(world.key("a"), second))?.value), "2");
});

Deno.test("history() from a compacted revision is an error", strict, async () => {
  await using world = await makeWorld();
  const { etcd } = world;
  const revision = await etcd.put(world.key("a"), "1");
  await etcd.compact(await etcd.put(world.key("a"), "2"));
  await assert.rejects(etcd.history(world.prefix, revision), /compacted at \d+/);
});

Deno.test("leaseGrant() gives a lease whose end deletes its keys", strict, async () => {
  await using world = await makeWorld();
  const lease = await world.etcd.leaseGrant(60);
  await world.etcd.put(world.key("a"), "1", { lease });
  assert.equal((await world.etcd.get(world.key("a")))?.lease, lease);
  await world.etcd.leaseRevoke(lease);
  assert.equal(await world.etcd.get(world.key("a")), undefined);
});

Deno.test("a world's prefix is the path of its DSN, and is empty again at the end", strict, async () => {
  await using outer = await makeWorld();
  const world = await makeWorld({ prefix: `${outer.prefix}ü %/` });
  assert.ok(world.etcdDsn.endsWith(`${outer.prefix}%C3%BC%20%25/`), world.etcdDsn);
  await world.etcd.put(world.key("a"), "1");
  await world[Symbol.asyncDispose]();
  assert.deepEqual(await outer.etcd.range(outer.prefix), []);
  await using all = await makeWorld({ prefix: "" });
  assert.match(all.etcdDsn, /:\d+$/);
});

Deno.test("eventually() fails with the last error", strict, async () => {
  let calls = 0;
  await assert.rejects(
    eventually(() => {
      throw new Error(`call ${++calls}`);
    }, { timeoutMs: 50 }),
    /^Error: Not within 50 ms: call [2-9]$/,
  );
});
