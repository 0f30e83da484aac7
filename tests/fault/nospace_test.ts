/** etcd without space, and etcd that is busy with its own file. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { judged, quiet } from "../support/history.ts";
import { killed, renewals, streaming, strict, unsettled, waiting } from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { Proxy } from "../robustness/proxy.ts";
import { type EtcdDoor, eventually, makeWorld, type Program, type World } from "../support/world.ts";

const QUOTA = 16 * 1024 * 1024;

/** Puts outside of every prefix until etcd raises its alarm. */
async function fill(etcd: EtcdDoor): Promise<void> {
  const chunk = Buffer.alloc(1 << 20, "x");
  for (let i = 0;; i++) {
    try {
      await etcd.put(`filler/${i}`, chunk);
    } catch (error) {
      assert.match((error as Error).message, /database space exceeded/);
      return;
    }
  }
}

/** What an operator does: makes room, and says so. */
async function makeRoom(etcd: EtcdDoor): Promise<void> {
  await etcd.deletePrefix("filler/");
  await etcd.compact(await etcd.revision());
  await etcd.defragment();
  await etcd.disarm();
}

const waits = /etcd does not take (writes now|the marker)/;

async function mirrorRuns(world: World, program: Program): Promise<void> {
  await world.etcd.delete(world.key("gone")); // the alarm leaves deletes
  await program.until(async () =>
    (await world.sql("select from etcd where key = $1", [world.key("gone")])).length === 0
  );
}

Deno.test(
  "NOSPACE parks the drain and leaves the mirror running; cleared, all that waits arrives",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd([`--quota-backend-bytes=${QUOTA}`]);
    await using world = outer.on(server);
    await world.etcd.put(world.key("gone"), "1");
    await world.etcd.put(world.key("a"), "1");
    const program = await streaming(world);
    await quiet(world);
    await fill(world.etcd);
    await world.sql("select etcd_set($1, '2')", [world.key("a")]);
    await program.until((line) => waits.test(line.msg));
    for (let i = 0; i < 300; i++) await world.sql("select etcd_set($1, '1')", [world.key(`b${i}`)]);
    await world.sql("select etcd_delete($1)", [world.key("a")]);
    await mirrorRuns(world, program);
    const { fresh_at } = (await world.state())!;
    await eventually(async () => (await world.state())!.fresh_at > fresh_at);
    assert.deepEqual(
      await world.sql("select status, count(*) from etcd_wal group by status"),
      [{ status: "pending", count: 302 }],
    );
    assert.equal(program.logs.filter((line) => waits.test(line.msg)).length, 1, "one line an episode");

    await makeRoom(world.etcd);
    await quiet(world);
    assert.deepEqual(
      await world.sql("select status, count(*) from etcd_wal group by status"),
      [{ status: "success", count: 302 }],
    );
    const keys = (await world.etcd.range(world.prefix)).map(({ key }) => String(key));
    assert.deepEqual((await world.sql("select key from etcd order by key")).map(({ key }) => key), keys);
    assert.equal(keys.length, 300);
  },
);

Deno.test(
  "a leader that comes while the alarm is on mirrors, and drains once it is cleared",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd([`--quota-backend-bytes=${QUOTA}`]);
    await using world = outer.on(server);
    await world.etcd.put(world.key("gone"), "1");
    const first = await streaming(world);
    await quiet(world);
    await fill(world.etcd);
    await killed(first);
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    const program = await streaming(world);
    await program.until((line) => waits.test(line.msg));
    await mirrorRuns(world, program);
    assert.equal(program.logs.filter((line) => waits.test(line.msg)).length, 1, "one line an episode");
    await makeRoom(world.etcd);
    await quiet(world);
    assert.equal(String((await world.etcd.get(world.key("a")))!.value), "1");
  },
);

/** Three writes of one key: etcd has applied the first, has no space for the second, and the third is claimed behind it. */
async function secondFindsNoSpace(world: World, proxy: Proxy): Promise<Program> {
  const dsn = world.etcdDsn.replace(/:\d+\//, `:${proxy.port}/`);
  const program = await streaming(world, ["--etcd-dsn", dsn]);
  const release = await unsettled(world, async () => {
    for (const value of ["1", "2", "3"]) {
      await world.sql("select etcd_set($1, $2)", [world.key("hot"), value]);
    }
    proxy.hold("down");
  });
  await eventually(async () => await world.etcd.get(world.key("hot")));
  await fill(world.etcd);
  proxy.release("down");
  await program.until((line) => waits.test(line.msg));
  assert.equal(await waiting(world), "ppp");
  await release();
  await eventually(async () => await waiting(world) === "spp");
  return program;
}

Deno.test(
  "NOSPACE that comes while the batch before is being settled: nobody says that etcd takes writes again",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd([`--quota-backend-bytes=${QUOTA}`]);
    await using world = outer.on(server);
    await using proxy = Proxy.listen(Number(/:(\d+)\//.exec(world.etcdDsn)![1]));
    const program = await secondFindsNoSpace(world, proxy);
    await renewals(world, 2);
    const over = () => program.logs.filter(({ msg }) => msg === "etcd takes writes again").length;
    assert.equal(over(), 0);
    await makeRoom(world.etcd);
    await quiet(world);
    assert.equal(await waiting(world), "sss");
    assert.equal(over(), 1);
  },
);

Deno.test(
  "paused and resumed with a batch that finds no space and one behind it: both go, in order, under new numbers",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd([`--quota-backend-bytes=${QUOTA}`]);
    await using world = outer.on(server);
    await using proxy = Proxy.listen(Number(/:(\d+)\//.exec(world.etcdDsn)![1]));
    const program = await secondFindsNoSpace(world, proxy);
    const { holder, ahead_id } = (await world.state())!;
    await world.run("pause");
    await program.until((line) => line.msg.startsWith("paused:"));
    await makeRoom(world.etcd);
    await world.run("resume");
    await quiet(world);
    const [first, second, third] = await world.sql("select * from etcd_wal order by id");
    assert.equal((await world.state())!.holder, holder);
    assert.ok(second.batch_id > ahead_id && third.batch_id > second.batch_id);
    assert.deepEqual(
      [second.expected_revision, third.expected_revision],
      [first.result_revision, second.result_revision],
    );
  },
);

Deno.test("nothing is lost while etcd defragments under writes of both sides", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  for (let i = 0; i < 200; i++) await world.etcd.put(`filler/${i}`, Buffer.alloc(1 << 18, i));
  await world.etcd.deletePrefix("filler/");
  await world.etcd.compact(await world.etcd.revision());
  const from = await world.etcd.revision();
  await streaming(world);
  let defragmenting = true;
  const writing = (async () => {
    for (let i = 0; defragmenting || i < 100; i++) {
      await world.etcd.put(world.key(`e${i % 20}`), `${i}`);
      await world.sql("select etcd_set($1, $2)", [world.key(`s${i % 20}`), `${i}`]);
    }
  })();
  for (let i = 0; i < 5; i++) await world.etcd.defragment();
  defragmenting = false;
  await writing;
  const { wal } = await judged(world, { from });
  assert.deepEqual([...new Set(wal.map(({ status }) => status))], ["success"]);
});
