import assert from "node:assert/strict";
import { streaming, strict } from "../support/run.ts";
import { makeWorld } from "../support/world.ts";

// `enable_seqscan = off` in a function gives the gate, which has no index that serves, a cost of 10^10: above
// jit_above_cost. An application's session has jit on by default, and compiled each of its writes for 250 ms and more.
Deno.test("a write compiles nothing in a session with PostgreSQL's defaults", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  const took = async (jit: "on" | "off") => {
    const session = world.session();
    await session.sql(`set jit to ${jit}`);
    await session.sql("select etcd_set($1, '0')", [world.key("warm")]);
    const began = performance.now();
    for (let i = 0; i < 5; i++) {
      await session.sql("begin");
      await session.sql("select etcd_set($1, '1')", [world.key("a")]);
      await session.sql("select etcd_set($1, '2')", [world.key("a")]);
      await session.sql("commit");
    }
    return performance.now() - began;
  };
  const [off, on] = [await took("off"), await took("on")];
  assert.ok(
    on < off + 1_000,
    `15 statements took ${Math.round(on)} ms with jit, ${Math.round(off)} ms without`,
  );
});
