/** A rolling upgrade: a newer instance has changed the schema, older ones still run. */
import assert from "node:assert/strict";
import { judged, quiet } from "../support/history.ts";
import { killed, streaming, strict } from "../support/run.ts";
import { makeWorld, type World } from "../support/world.ts";

/** What a later version may do beside this one: it adds, and takes nothing away. */
const LATER = `
  alter table etcd_sync_state add column later text default 'x';
  alter table etcd_sync_gate add column later text default 'x';
  alter table etcd_kv add column later text default 'x';
  alter table etcd_archive add column later text default 'x';
  alter table etcd_wal add column later text default 'x';
  alter table etcd_wal_tx add column later text default 'x';
  insert into etcd_sync_migration (number) select max(number) + 1 from etcd_sync_migration;`;

/** A session that was there before, and one that is new. */
async function both(world: World, value: string): Promise<void> {
  await world.etcd.put(world.key("etcd"), value);
  await world.session().sql("select etcd_set($1, $2)", [world.key("sql"), value]);
  await quiet(world);
  await world.sql("update etcd set value = $2 where key = $1", [world.key("etcd"), `${value}!`]);
  await quiet(world);
}

Deno.test(
  "a newer schema: those that run go on, also as the next leader; who starts anew is refused",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const leader = await streaming(world);
    const standby = world.program();
    await standby.until((line) => /standing by/.test(line.msg));
    await both(world, "before");
    await world.sql(LATER);
    await both(world, "after");
    const started = await world.run("start");
    assert.equal(started.code, 1);
    assert.match(
      started.stderr,
      /^etcd-pg-sync: Cannot use schema 'public': its version is \d+, this program knows versions up to \d+ \(EPS-103\)$/m,
    );
    await killed(leader);
    await standby.until((line) => line.msg === "this instance is the writer");
    await both(world, "taken over");
    const { wal } = await judged(world, { from });
    assert.ok(wal.length === 6 && wal.every(({ status }) => status === "success"));
  },
);
