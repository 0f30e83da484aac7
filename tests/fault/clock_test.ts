/** The clock of PostgreSQL jumps: leases are in its time. */

import assert from "node:assert/strict";
import { judged, quiet } from "../support/history.ts";
import { crashed, streaming, strict } from "../support/run.ts";
import { eventually, type LogLine, makeWorld } from "../support/world.ts";

const leading = (line: LogLine) => line.msg === "this instance is the writer";

Deno.test("a lease far ahead of a holder that died does not block the next", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await crashed(world, await streaming(world));
  await world.sql("update etcd_sync_state set lease_until = now() + interval '1 year'");
  const second = await streaming(world);
  assert.ok(!second.logs.some((line) => line.msg.startsWith("standing by")));
  await judged(world, { from });
});

Deno.test("a lease far ahead of a holder that is frozen does not block the next", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  const first = await streaming(world);
  await quiet(world);
  first.kill("SIGSTOP");
  try {
    await world.sql("update etcd_sync_state set lease_until = now() + interval '1 year'"); // the clock was put back a year
    const second = world.program();
    await second.until(leading);
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    await quiet(world);
  } finally {
    first.kill("SIGCONT");
  }
  await first.until((line) => line.msg === "begins anew");
  await judged(world, { from });
});

Deno.test("a clock that jumps under a holder that lives costs at most the place", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world);
  const second = world.program();
  await second.until((line) => line.msg.startsWith("standing by"));
  for (const jump of ["-1 year", "1 year", "-1 minute"]) {
    const { epoch } = (await world.state())!;
    await eventually(async () => {
      await world.sql("update etcd_sync_state set lease_until = now() + $1::interval", [jump]);
      return (await world.state())!.epoch > epoch;
    });
    for (let i = 0; i < 20; i++) await world.sql("select etcd_set($1, $2)", [world.key(`k${i}`), jump]);
    await quiet(world);
  }
  const { wal } = await judged(world, { from });
  assert.deepEqual([...new Set(wal.map(({ status }) => status))], ["success"]);
});
