/** Rows that etcd refuses for good: each fails with etcd's message, the rest flows. */

import assert from "node:assert/strict";
import { Range } from "etcd3";
import { judged, quiet } from "../support/history.ts";
import { events, streaming, strict } from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { makeWorld, type World } from "../support/world.ts";

async function settled(world: World) {
  await quiet(world);
  return await world.sql(
    "select right(key, 1) as key, status, error_message as message from etcd_wal order by id",
  );
}

for (
  const [what, bytes, message] of [
    ["its server", 200_000, /request is too large/],
    ["its transport", 1_000_000, /larger than max/],
  ] as const
) {
  Deno.test(`a value too large for etcd fails by ${what}, the rest flows`, strict, async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd(["--max-request-bytes=100000"]);
    await using world = outer.on(server);
    const from = await world.etcd.revision();
    await streaming(world);
    const writer = world.session();
    await writer.sql("begin"); // one claim for all of them
    await writer.sql("lock table etcd_sync_state in exclusive mode");
    const set = (key: string, value: string) => world.sql("select etcd_set($1, $2)", [world.key(key), value]);
    await set("a", "1");
    await set("b", "x".repeat(bytes));
    for (const key of ["c", "d", "e"]) await set(key, "x".repeat(60_000)); // too large only together
    await writer.sql("commit");
    const rows = await settled(world);
    assert.deepEqual(rows.map(({ key, status }) => `${key} ${status}`), [
      "a success",
      "b failed",
      "c success",
      "d success",
      "e success",
    ]);
    assert.match(rows[1].message, message);
    await set("f", "1");
    await judged(world, { from });
    assert.equal((await events(world, "failed")).length, 1);
  });
}

Deno.test(
  "a key that the program's etcd user may not write fails with its transaction, the rest flows",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd();
    await using world = outer.on(server);
    const { client } = world.etcd;
    const after = (key: string) => key.slice(0, -1) + String.fromCharCode(key.charCodeAt(key.length - 1) + 1);
    const range = (start: string, end: string) => new Range(start, end);
    const role = client.role("sync");
    await role.create();
    await role.grant({ permission: "Read", range: range(world.prefix, after(world.prefix)) });
    await role.grant({ permission: "Write", range: range(world.prefix, world.key("m")) });
    await role.grant({ permission: "Write", range: range(world.key("n"), after(world.prefix)) });
    await role.grant({ permission: "Readwrite", range: range("/_etcd-pg-sync/", "/_etcd-pg-sync0") });
    await client.user("root").create("secret");
    await client.user("root").addRole("root");
    const user = client.user("sync");
    await user.create("secret");
    await user.addRole("sync");
    await client.auth.authEnable();
    await using limited = outer.on({
      dsn: server.dsn.replace("etcd://", "etcd://sync:secret@"),
      etcd: server.etcd,
    });
    await streaming(limited);
    const writer = world.session();
    await writer.sql("begin");
    await writer.sql("select etcd_set($1, '1'), etcd_set($2, '1')", [world.key("l"), world.key("m")]);
    await writer.sql("commit");
    await world.sql("select etcd_set($1, '1')", [world.key("z")]);
    await limited.untilState("streaming");
    await writer.sql("select etcd_wait(max(id)) from etcd_wal");
    const rows = await world.sql(
      "select right(key, 1) as key, status, error_message as message from etcd_wal order by id",
    );
    assert.deepEqual(rows.map(({ key, status }) => `${key} ${status}`), [
      "l failed",
      "m failed",
      "z success",
    ]);
    assert.match(rows[0].message, /permission denied/);
  },
);
