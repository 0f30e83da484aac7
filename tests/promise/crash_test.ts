/**
 * Where the program can be killed, and what may not come of it. The test parks it by a lock in PostgreSQL or by freezing
 * etcd, and kills it there.
 *
 *   scan       page read │ page committed              tests/flow/scan_test.ts
 *   mirror     events received ─ A ─► committed
 *   drain      rows committed ─ B ─► claimed ─ C ─► Txn applied ─ D ─► settled
 *              the same with a second batch behind it: Txn, Txn applied ─ F ─► the first settled
 *   takeover   epoch ─► marker bumped ─ E ─► what was in flight settled
 */
import assert from "node:assert/strict";
import { assertKept, judged, quiet, Reader, record } from "../support/history.ts";
import {
  crashed,
  hold,
  holdDrain,
  killed,
  streaming,
  strict,
  twoApplied,
  unsettled,
  untilBlocked,
  untilStreaming,
  waiting,
  writeAndHold,
} from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld } from "../support/world.ts";

Deno.test("A: killed with events received and not committed, they are applied once", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "0");
  const program = await streaming(world);
  await using reader = new Reader(world);
  const release = await hold(world.session(), "lock table etcd_kv in exclusive mode");
  await world.etcd.txn([{ put: world.key("a"), value: "1" }, { put: world.key("b"), value: "1" }]);
  await world.etcd.txn([{ delete: world.key("a") }, { put: world.key("b"), value: "2" }]);
  await untilBlocked(world, program, /etcd_kv/);
  await crashed(world, program);
  await release();
  await streaming(world);
  await quiet(world);
  await judged(world, { from, snapshots: await reader.stop() });
  const history = await world.sql(
    "select key, value, tombstone from etcd_history where key like $1 order by key, revision",
    [
      `${world.prefix}%`,
    ],
  );
  assert.deepEqual(history, [
    { key: world.key("a"), value: "0", tombstone: false },
    { key: world.key("a"), value: "1", tombstone: false },
    { key: world.key("a"), value: null, tombstone: true },
    { key: world.key("b"), value: "1", tombstone: false },
    { key: world.key("b"), value: "2", tombstone: false },
  ]);
});

Deno.test("B: killed with rows committed and not claimed, they arrive", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  const program = await streaming(world);
  const release = await holdDrain(world);
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  await untilBlocked(world, program, /etcd_drain_turn/);
  await crashed(world, program);
  await release();
  await streaming(world);
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), ["success"]);
});

Deno.test(
  "C: killed while the Txn is on its way, it is applied once or not at all and sent again",
  strict,
  async () => {
    await using etcd = await ownEtcd();
    await using outer = await makeWorld();
    await using world = outer.on(etcd);
    const from = await world.etcd.put(world.key("a"), "0");
    const program = await streaming(world);
    await world.sql("select etcd_set($1, '1')", [world.key("warm")]); // once it has arrived, the marker is taken over
    await quiet(world);
    etcd.freeze();
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    await world.sql("select etcd_set($1, '2')", [world.key("b")]);
    await eventually(async () => (await world.state())!.batch_rows.length > 0);
    await crashed(world, program);
    etcd.wake();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.filter(({ key }) => !key.endsWith("warm")).map(({ status }) => status), [
      "success",
      "success",
    ]);
  },
);

Deno.test(
  "D: killed between etcd's Txn and the settlement, each write is there once and says so",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("gone"), "0");
    const program = await streaming(world);
    await quiet(world);
    const { ids, release } = await writeAndHold(world, [
      ["etcd_set($1, 'x')", [world.key("a")]],
      ["etcd_delete($1)", [world.key("gone")]],
      ["etcd_delete($1)", [world.key("never there")]],
    ]);
    await untilBlocked(world, program, /etcd_drain_turn/);
    assert.equal(String((await world.etcd.get(world.key("a")))?.value), "x", "etcd has applied it");
    await crashed(world, program);
    await release();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ id, status }) => [id, status]), ids.map((id) => [id, "success"]));
  },
);

Deno.test("D: also where others have changed the keys since", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "0");
  const program = await streaming(world);
  await quiet(world);
  const { release } = await writeAndHold(world, [["etcd_set($1, 'ours')", [world.key("a")]]]);
  await untilBlocked(world, program, /etcd_drain_turn/);
  await crashed(world, program);
  await world.etcd.put(world.key("a"), "theirs");
  await release();
  await streaming(world);
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), ["success"]);
  assert.deepEqual(await world.sql("select value from etcd"), [{ value: "theirs" }]);
});

Deno.test("D: a conflict whose settlement was lost is a conflict again", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "0");
  const program = await streaming(world);
  await quiet(world);
  const unmirrored = await hold(world.session(), "lock table etcd_kv in exclusive mode");
  const theirs = await world.etcd.put(world.key("a"), "theirs");
  const { release } = await writeAndHold(world, [
    ["etcd_set($1, 'ours')", [world.key("a")]],
    ["etcd_set($1, 'ours')", [world.key("b")]],
  ]);
  await untilBlocked(world, program, /etcd_drain_turn/);
  await crashed(world, program);
  await release();
  await unmirrored();
  await streaming(world);
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status, result_revision }) => [status, result_revision]), [
    ["conflict", theirs],
    ["conflict", theirs],
  ]);
});

Deno.test(
  "E: a new leader killed between its bump and the settlement leaves the next one the same answer",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const first = await streaming(world);
    const { release } = await writeAndHold(world, [["etcd_set($1, 'x')", [world.key("a")]]]);
    await untilBlocked(world, first, /etcd_drain_turn/);
    await killed(first);
    for (let i = 0; i < 2; i++) {
      const next = world.program();
      await untilBlocked(world, next, /etcd_drain_applied/);
      await crashed(world, next);
    }
    await release();
    await streaming(world);
    const { wal, markers } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success"]);
    assert.ok(markers.filter(({ bump }) => bump).length >= 4);
  },
);

Deno.test(
  "F: killed with two batches applied and neither settled, each is settled where it was",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("hot"), "0");
    const program = await streaming(world);
    await quiet(world);
    const release = await twoApplied(world, program);
    assert.equal(await waiting(world), "pppppp");
    await crashed(world, program);
    await release();
    // a new leader that is killed before it settles leaves the next one the same answer
    const again = await hold(world.session(), "lock table etcd_wal in share mode");
    for (let i = 0; i < 2; i++) {
      const next = world.program();
      await untilBlocked(world, next, /etcd_drain_applied/);
      await crashed(world, next);
    }
    await again();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), Array(6).fill("success"));
    const revisions = [0, 2, 4].map((i) => wal[i].result_revision!);
    assert.deepEqual([0, 2, 4].map((i) => wal[i].expected_revision), [from, ...revisions.slice(0, 2)]);
    const value = async (revision: number) =>
      String((await world.etcd.get(world.key("hot"), revision))?.value);
    assert.deepEqual(await Promise.all(revisions.map(value)), ["1", "2", "3"]);
  },
);

Deno.test(
  "F: what was claimed behind a batch that lost goes after what is left of that",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("1"), "0");
    await streaming(world);
    await quiet(world);
    const letGo = await holdDrain(world); // the mirror, too
    const theirs = await world.etcd.put(world.key("1"), "theirs");
    for (const name of ["1", "hot", "hot", "hot"]) { // two batches: the first has the conflict and the first "hot"
      await world.sql("select etcd_set($1, 'ours')", [world.key(name)]);
    }
    await letGo();
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status[0]).join(""), "csss");
    assert.equal(wal[0].result_revision, theirs);
    assert.deepEqual(
      wal.slice(1).map(({ expected_revision }) => expected_revision),
      [0, ...wal.slice(1, 3).map(({ result_revision }) => result_revision)],
    );
  },
);

Deno.test(
  "F: a program that is stopped gives up what it has claimed ahead, and settles the rest",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("hot"), "0");
    const program = await streaming(world);
    await quiet(world);
    const release = await twoApplied(world, program); // else it might give up the second, too
    program.kill("SIGTERM");
    await release();
    assert.equal((await program.status).code, 0);
    const { batch_rows, ahead_rows, ahead_id } = (await world.state())!;
    assert.deepEqual([batch_rows, ahead_id, ahead_rows], [[], null, []]);
    assert.equal(await waiting(world), "sssspp");
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), Array(6).fill("success"));
  },
);

Deno.test(
  "F: killed with two parts of one transaction applied and not settled, the rest follows them",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const program = await streaming(world, ["--max-txn-ops", "3"]);
    const release = await unsettled(world, async () => {
      await world.sql("select etcd_set($1 || n, 'x') from generate_series(1, 5) n", [world.key("k")]);
    });
    await untilBlocked(world, program, /etcd_drain_turn/);
    await eventually(async () => await world.etcd.get(world.key("k4")));
    await crashed(world, program);
    await release();
    await streaming(world, ["--max-txn-ops", "3"]);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status[0]).join(""), "sssss");
    const [one, , three, , five] = wal.map(({ result_revision }) => result_revision!);
    assert.ok(one < three && three < five);
    assert.deepEqual(await world.sql("select from etcd_wal_tx"), []);
  },
);

Deno.test(
  "F: killed with a batch that etcd refused while the one before it was being settled, each is what it was",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd(["--max-request-bytes=100000"]);
    await using world = outer.on(server);
    const from = await world.etcd.put(world.key("hot"), "0");
    const program = await streaming(world);
    const release = await unsettled(world, async () => {
      for (const size of [1, 200_000, 2]) {
        await world.sql("select etcd_set($1, $2)", [world.key("hot"), "x".repeat(size)]);
      }
    });
    await eventually(async () => { // the bump by which it was known that it is the row, and not the marker
      const { batch, batchRevision } = JSON.parse(
        String((await world.etcd.get("/_etcd-pg-sync/default"))!.value),
      );
      return batch > 0 && batchRevision !== undefined;
    });
    assert.equal(await waiting(world), "ppp");
    await crashed(world, program);
    await release();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "failed", "success"]);
    assert.deepEqual([wal[0].expected_revision, wal[2].expected_revision], [from, wal[0].result_revision]);
  },
);

Deno.test(
  "F: a write on an older snapshot than the one before it counts on that, which is not settled yet",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("hot"), "0");
    const first = await streaming(world);
    await quiet(world);
    const writers = [];
    for (const value of ["x", "y"]) {
      const writer = world.session();
      await writer.sql("begin isolation level repeatable read");
      await writer.sql("select from etcd");
      writers.unshift(writer);
      await world.sql("select etcd_set($1, $2)", [world.key("hot"), value]);
      await quiet(world);
    }
    await killed(first); // the next leader remembers nothing of x and y
    await streaming(world);
    const letGo = await holdDrain(world);
    for (const writer of writers) { // the one with the newer snapshot first
      await writer.sql("select etcd_set($1, 'late')", [world.key("hot")]);
      await writer.sql("commit");
    }
    await letGo();
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), Array(4).fill("success"));
    assert.ok(wal[3].seen_revision < wal[2].seen_revision);
    assert.equal(wal[3].expected_revision, wal[2].result_revision);
  },
);

Deno.test(
  "frozen with a Txn to settle, it wakes up when another leads: it writes nothing any more",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const frozen = await streaming(world);
    const { release } = await writeAndHold(world, [["etcd_set($1, 'x')", [world.key("a")]]]);
    await untilBlocked(world, frozen, /etcd_drain_turn/);
    frozen.kill("SIGSTOP");
    await release();
    const next = world.program();
    await untilStreaming(world, next);
    await world.sql("select etcd_set($1, 'y')", [world.key("a")]);
    await quiet(world);
    const holder = (await world.state())!.holder;
    frozen.kill("SIGCONT");
    await frozen.until((line) => line.msg === "standing by: another instance is the writer");
    await world.sql("select etcd_set($1, 'z')", [world.key("a")]);
    await quiet(world);
    assert.equal((await world.state())!.holder, holder, "the place was not taken from the one who works");
    const run = await record(world, { from });
    assertKept(run);
    assert.deepEqual(run.wal.map(({ status }) => status), ["success", "success", "success"]);
  },
);
