/** A PostgreSQL that is slower than etcd pushes back on the watch. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { judged } from "../support/history.ts";
import { hold, streaming, strict, untilBlocked } from "../support/run.ts";
import { makeWorld } from "../support/world.ts";

const MIB = 1 << 20;
/** Far more than the inbox takes (16 MiB). */
const TOTAL = 448 * MIB;
const MOST_RESIDENT = 512 * MIB;

/** The most memory that the process has ever had, in bytes. */
function peakResident(pid: number): number {
  const { stdout } = new Deno.Command("grep", { args: ["VmHWM", `/proc/${pid}/status`] }).outputSync();
  return Number(/(\d+) kB/.exec(new TextDecoder().decode(stdout))![1]) * 1024;
}

Deno.test(
  "while PostgreSQL holds the mirror up memory stays bounded, and then all arrives",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const program = await streaming(world);
    const release = await hold(world.session(), "lock table etcd_kv in exclusive mode");
    await world.etcd.put(world.key("first"), "1");
    await untilBlocked(world, program, /etcd_kv/);
    for (let i = 0; i < TOTAL / MIB; i++) {
      await world.etcd.put(world.key(`k${i % 16}`), Buffer.alloc(MIB, i));
    }
    await release();
    await judged(world, { from }, 120_000);
    const [{ versions }] = await world.sql("select count(*) as versions from etcd_history");
    assert.equal(versions, 1 + TOTAL / MIB);
    const peak = peakResident(program.pid);
    assert.ok(peak < MOST_RESIDENT, `${Math.round(peak / MIB)} MiB resident`);
    console.log(`${Math.round(peak / MIB)} MiB resident`);
  },
);
