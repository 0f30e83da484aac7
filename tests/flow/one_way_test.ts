/** --one-way: a mirror that writes nothing to etcd. */
import assert from "node:assert/strict";
import { judged, quiet } from "../support/history.ts";
import { killed, renewals, streaming, strict } from "../support/run.ts";
import { eventually, makeWorld } from "../support/world.ts";

const set = "select etcd_set($1, 'from sql') as id";

Deno.test("a one-way stream mirrors, proves that it is fresh, and leaves etcd as it is", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "1");
  await streaming(world, ["--one-way"]);
  await assert.rejects(world.sql(set, [world.key("b")]), { code: "ZE004" });
  const put = await world.etcd.put(world.key("a"), "2");
  await quiet(world);
  await eventually(async () => (await world.state())!.fresh_at);
  assert.equal(await world.etcd.get("/_etcd-pg-sync/default"), undefined);
  assert.equal(await world.etcd.revision(), put);
  await judged(world, { from });
});

Deno.test(
  "what waits when a stream becomes one-way waits on, and arrives when it is none any more",
  strict,
  async () => {
    await using world = await makeWorld();
    const first = await streaming(world);
    await world.sql("select etcd_pause()");
    await first.until((line) => line.msg.startsWith("paused:"));
    const [{ id }] = await world.sql(set, [world.key("b")]);
    await killed(first);
    await world.sql("update etcd_sync_state set state = 'draining'"); // as a crash in the middle leaves it
    await world.sql("select etcd_resume()");
    const second = await streaming(world, ["--one-way"]);
    await world.etcd.put(world.key("a"), "1");
    await eventually(async () => (await world.sql("select from etcd")).length === 1);
    await renewals(world, 2);
    const status = async () => (await world.sql("select status from etcd_wal where id = $1", [id]))[0].status;
    assert.equal(await status(), "pending");
    await killed(second);
    await streaming(world);
    await eventually(async () => await status() === "success");
  },
);
