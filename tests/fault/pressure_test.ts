/** A PostgreSQL that is slower than etcd pushes back on the watch; one that is slower than the lease keeps its place. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { judged, quiet } from "../support/history.ts";
import { crashed, hold, streaming, strict, untilBlocked, untilStreaming } from "../support/run.ts";
import { installed } from "../support/schema.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

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

// The lease stood in the row that the commit had locked: it was not renewed, and the same revision began again for ever.
Deno.test(
  "a commit that takes longer than a lease keeps its place, and a standby waits for it",
  strict,
  async () => {
    await using world = await makeWorld();
    const program = await streaming(world);
    const standby = world.program();
    await standby.until((line) => line.msg.startsWith("standing by"));
    const before = (await world.state())!;
    await world.sql(`
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(8); return null; end $$;
    create trigger slow after insert on etcd_kv for each statement execute function slow()`);
    await world.etcd.put(world.key("a"), "1");
    await eventually(async () => (await world.state())!.revision > before.revision, { timeoutMs: 30_000 });
    const after = (await world.state())!;
    assert.deepEqual([after.epoch, after.holder], [before.epoch, before.holder]);
    assert.deepEqual(program.logs.filter(({ code }) => code === "EPS-701" || code === "EPS-706"), []);
    assert.deepEqual(standby.logs.filter(({ msg }) => msg === "this instance is the writer"), []);
  },
);

Deno.test("a lock that a page waits for costs the scan no leadership", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await installed(world, { prefix: world.prefix });
  const release = await hold(world.session(), "lock table etcd_kv in share mode");
  const program = world.program();
  await program.until((line) => line.code === "EPS-706");
  await eventually(() => waited(world, 3));
  await release();
  await untilStreaming(world, program);
  assert.equal((await world.state())!.epoch, 1);
});

Deno.test(
  "a lock that keeps a resync from reading the mirror's rows costs it no leadership",
  strict,
  async () => {
    await using world = await makeWorld();
    await world.etcd.put(world.key("a"), "1");
    const before = await streaming(world);
    await quiet(world);
    await crashed(world, before);
    await world.etcd.delete(world.key("a"));
    await world.etcd.compact(await world.etcd.put(world.key("b"), "2"));
    const { epoch } = (await world.state())!;
    const release = await hold(world.session(), "lock table etcd_kv in access exclusive mode");
    const program = world.program();
    await untilBlocked(world, program, /etcd_kv/);
    await eventually(() => waited(world, 3));
    await release();
    await untilStreaming(world, program);
    await quiet(world);
    assert.equal((await world.state())!.epoch, epoch + 1);
    const rows = await world.sql("select key from etcd order by key");
    assert.deepEqual(rows, [{ key: world.key("b") }]);
  },
);

/** The program waits for the table in at least so many tries, each of which ends after a second. */
async function waited(world: World, tries: number): Promise<boolean> {
  const seen = new Set<string>();
  while (seen.size < tries) {
    const rows = await world.sql(
      "select a.xact_start::text as began from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = current_database()",
    );
    rows.forEach(({ began }) => seen.add(began as string));
  }
  return true;
}
