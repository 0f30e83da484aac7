import assert from "node:assert/strict";
import { assertKept, judged, quiet, record } from "../support/history.ts";
import {
  crashed,
  events,
  hold,
  killed,
  streaming,
  strict,
  twoApplied,
  twoInFlight,
  untilBlocked,
  waiting,
  writeAndHold,
} from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

const marker = "/_etcd-pg-sync/default";

for (const [signal, within] of [["SIGKILL", 2_000], ["SIGTERM", 2_000]] as const) {
  Deno.test(`a second instance stands by, and takes over at ${signal}`, strict, async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("a"), "1");
    const first = await streaming(world);
    const second = world.program();
    await second.until((line) => line.msg === "standing by: another instance is the writer");
    await world.sql("select etcd_set($1, 'first')", [world.key("b")]);
    await quiet(world);
    const { epoch } = (await world.state())!;
    const began = performance.now();
    first.kill(signal);
    await second.until((line) => line.msg === "this instance is the writer");
    const took = performance.now() - began;
    await world.sql("select etcd_set($1, 'second')", [world.key("b")]);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
    assert.ok((await world.state())!.epoch > epoch);
    assert.ok(took < within, `it took ${took} ms`);
    if (signal === "SIGTERM") assert.equal((await first.status).code, 0);
  });
}

Deno.test("SIGTERM lets the batch in flight commit", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  const program = await streaming(world);
  const { release } = await writeAndHold(world, [["etcd_set($1, '1')", [world.key("a")]]]);
  await untilBlocked(world, program, /etcd_drain_turn/);
  program.kill("SIGTERM");
  await program.until((line) => line.msg.startsWith("stopping"));
  await release();
  assert.equal((await program.status).code, 0);
  assert.deepEqual(await world.sql("select status from etcd_wal"), [{ status: "success" }]);
  assert.equal((await world.state())!.holder, null);
  await streaming(world);
  await judged(world, { from });
});

Deno.test("the marker of another installation stops the start", strict, async () => {
  await using world = await makeWorld();
  const other = JSON.stringify({
    streamId: crypto.randomUUID(),
    epoch: 1,
    holder: "x",
    batch: 0,
    batchHolder: "x",
    rows: [],
  });
  await world.etcd.put(marker, other);
  const program = world.program();
  assert.equal((await program.status).code, 1);
  assert.match(
    program.output.at(-1)!,
    /^etcd-pg-sync: Cannot use etcd key '\/_etcd-pg-sync\/default': another installation writes it; give this one another --stream \(EPS-105\)$/,
  );
  assert.equal(String((await world.etcd.get(marker))?.value), other, "it was left as it is");
});

Deno.test(
  "the marker is deleted while the program runs: it begins anew, and nothing is lost",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    await streaming(world);
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    await quiet(world);
    await world.etcd.delete(marker);
    await world.sql("select etcd_set($1, '2')", [world.key("a")]);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
    assert.equal((await events(world, "marker-gone")).length, 1);
    assert.equal((await world.state())!.timeline, 1);
  },
);

Deno.test(
  "the marker is deleted with a batch in flight: its history tells that it was applied",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const program = await streaming(world);
    const { release } = await writeAndHold(world, [["etcd_set($1, '1')", [world.key("a")]]]);
    await untilBlocked(world, program, /etcd_drain_turn/);
    await crashed(world, program);
    await release();
    await world.etcd.delete(marker);
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success"]);
  },
);

Deno.test(
  "the marker is deleted with a batch in flight, and its history compacted: nobody can tell, and it says so",
  strict,
  async () => {
    await using world = await makeWorld();
    const program = await streaming(world);
    const { release } = await writeAndHold(world, [["etcd_set($1, '1')", [world.key("a")]]]);
    await untilBlocked(world, program, /etcd_drain_turn/);
    await crashed(world, program);
    await release();
    await world.etcd.delete(marker);
    await world.etcd.compact(await world.etcd.put(world.key("b"), "1"));
    await streaming(world);
    await quiet(world);
    const [row] = await world.sql("select status, error_message from etcd_wal");
    assert.equal(row.status, "conflict");
    assert.match(row.error_message, /^It may have been applied/);
    await world.sql("select etcd_set($1, '2')", [world.key("c")]);
    await quiet(world);
    assert.equal(String((await world.etcd.get(world.key("c")))?.value), "2");
  },
);

Deno.test(
  "the marker is deleted with two batches in flight: its history tells that both were applied",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("hot"), "0");
    const program = await streaming(world);
    await quiet(world);
    const release = await twoApplied(world, program);
    await crashed(world, program);
    await release();
    await world.etcd.delete(marker);
    // a leader that is killed before it settles leaves the next one the same answer
    const held = await hold(world.session(), "lock table etcd_wal in share mode");
    const next = world.program();
    await untilBlocked(world, next, /etcd_drain_applied/);
    await crashed(world, next);
    await held();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), Array(6).fill("success"));
    assert.deepEqual(
      [2, 4].map((i) => wal[i].expected_revision),
      [0, 2].map((i) => wal[i].result_revision),
    );
  },
);

Deno.test(
  "the marker is deleted with two batches in flight, and its history compacted: both may have been applied",
  strict,
  async () => {
    await using world = await makeWorld();
    await world.etcd.put(world.key("hot"), "0");
    const program = await streaming(world);
    await quiet(world);
    const release = await twoApplied(world, program);
    await crashed(world, program);
    await release();
    await world.etcd.delete(marker);
    await world.etcd.compact(await world.etcd.put(world.key("b"), "1"));
    await streaming(world);
    await quiet(world);
    const rows = await world.sql("select status, error_message from etcd_wal order by id");
    assert.deepEqual(rows.slice(0, 4).map(({ status }) => status), Array(4).fill("conflict"));
    for (const i of [0, 2]) assert.match(rows[i].error_message, /^It may have been applied/);
    // the third was never claimed
    assert.doesNotMatch(rows[4].error_message ?? "", /may have been applied/);
    assert.deepEqual(await world.sql("select from etcd_wal_tx"), []);
  },
);

/** PostgreSQL as it is now, to be put back later: a failover to a replica that lagged. */
async function copyOfPostgres(world: World): Promise<() => Promise<void>> {
  const tables = ["etcd_sync_state", "etcd_sync_gate", "etcd_wal", "etcd_wal_tx", "etcd_kv", "etcd_archive"];
  for (const table of tables) await world.sql(`create table copy_${table} as table ${table}`);
  return async () => {
    for (const table of tables) {
      await world.sql(`delete from ${table}`);
      const [{ columns }] = await world.sql(
        `select string_agg(quote_ident(attname), ', ') as columns from pg_attribute
         where attrelid = $1::regclass and attnum > 0 and attgenerated = ''`,
        [table],
      );
      await world.sql(`insert into ${table} (${columns}) select ${columns} from copy_${table}`);
    }
  };
}

Deno.test(
  "PostgreSQL lost commits: what the marker names is settled, and not sent again",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("gone"), "0");
    const first = await streaming(world);
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    await quiet(world);
    await killed(first);
    // committed here and on the replica: pending there
    for (const [key, value] of [["a", "2"], ["b", "1"], ["c", "1"]]) {
      await world.sql("select etcd_set($1, $2)", [world.key(key), value]);
    }
    await world.sql("select etcd_delete($1)", [world.key("gone")]);
    const failOver = await copyOfPostgres(world);
    const second = await streaming(world, ["--max-txn-ops", "2"]); // a batch for each
    await quiet(world);
    await killed(second);
    await failOver();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), Array(5).fill("success"));
    assert.equal((await events(world, "commits-lost"))[0].detail.batches, 4);
  },
);

Deno.test("PostgreSQL lost commits back to a batch in flight: it is settled too", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  const first = await streaming(world);
  const { release } = await writeAndHold(world, [["etcd_set($1, '1')", [world.key("a")]]]);
  await untilBlocked(world, first, /etcd_drain_turn/);
  const failOver = await copyOfPostgres(world); // batch 1 is claimed, applied in etcd, and not settled
  await release();
  await world.sql("select etcd_delete($1)", [world.key("a")]); // of which the replica knows nothing
  await quiet(world);
  await killed(first);
  await failOver();
  await streaming(world);
  await quiet(world);
  const [row] = await world.sql("select status, result_revision from etcd_wal");
  const put = (await world.etcd.history(world.prefix, from)).filter(({ type }) => type === "put");
  assert.equal(put.length, 1, "it was applied a second time");
  assert.deepEqual(row, { status: "success", result_revision: put[0].mod_revision });
});

for (const more of [false, true]) {
  Deno.test(
    `PostgreSQL lost commits back to two batches in flight${
      more ? ", and more came since" : ""
    }: each is settled where it was`,
    strict,
    async () => {
      await using world = await makeWorld();
      const from = await world.etcd.put(world.key("hot"), "0");
      const program = await streaming(world);
      await quiet(world);
      const release = await twoApplied(world, program);
      const failOver = await copyOfPostgres(world); // both are applied in etcd, neither is settled
      if (!more) await crashed(world, program);
      await release();
      if (more) {
        await quiet(world);
        await killed(program);
      }
      await failOver();
      await streaming(world);
      const { wal } = await judged(world, { from });
      assert.deepEqual(wal.map(({ status }) => status), Array(6).fill("success"));
      assert.equal((await events(world, "commits-lost")).length, more ? 1 : 0);
      assert.deepEqual(await world.sql("select from etcd_wal_tx"), []);
    },
  );
}

Deno.test(
  "PostgreSQL lost commits back to a batch that lost, with another behind it: what went instead is settled",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.put(world.key("1"), "0");
    const program = await streaming(world);
    await quiet(world);
    const unmirrored = await hold(world.session(), "lock table etcd_kv in exclusive mode");
    await world.etcd.put(world.key("1"), "theirs");
    const release = await twoInFlight(world);
    await untilBlocked(world, program, /etcd_drain_turn/);
    const failOver = await copyOfPostgres(world); // the first has lost, the second is not sent
    const { ahead_id } = (await world.state())!;
    await release();
    await eventually(async () => await waiting(world) === "ccssss");
    assert.ok(
      (await world.sql("select min(batch_id) as batch from etcd_wal where status = 'success'"))[0].batch >
        ahead_id,
      "a number came again",
    );
    await crashed(world, program);
    await unmirrored();
    await failOver();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status[0]).join(""), "ccssss");
  },
);

Deno.test("after lost commits are recovered, the next leaders find nothing to recover", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await killed(await streaming(world));
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  const failOver = await copyOfPostgres(world);
  const second = await streaming(world);
  await quiet(world);
  await killed(second);
  await failOver();
  const third = await streaming(world);
  await quiet(world);
  await eventually(async () => { // its takeover is over, and written
    const marker = await world.etcd.get("/_etcd-pg-sync/default");
    return (await world.state())!.marker_revision === marker?.mod_revision;
  });
  await killed(third);
  await world.etcd.compact(await world.etcd.put(world.key("b"), "1"));
  await world.sql("select etcd_set($1, 'waits')", [world.key("c")]);
  await streaming(world);
  await quiet(world);
  assert.deepEqual((await world.sql("select status from etcd_wal order by id")).map(({ status }) => status), [
    "success",
    "success",
  ]);
  assert.equal((await events(world, "commits-lost")).length, 1);
  assert.ok(from > 0);
});

Deno.test(
  "PostgreSQL lost commits: the transaction that went last goes on counting, whatever its id",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    await killed(await streaming(world));
    // id 1 commits after id 2: its transaction is the later one
    const early = world.session();
    await early.sql("begin");
    await early.sql("select etcd_set($1, 'later')", [world.key("a")]);
    await world.sql("select etcd_set($1, 'sooner')", [world.key("a")]);
    await early.sql("select etcd_set($1, 'x')", [world.key("b")]);
    await early.sql("commit");
    const failOver = await copyOfPostgres(world);
    const second = await streaming(world);
    await quiet(world);
    await killed(second);
    await failOver();
    await streaming(world);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "success", "success"]);
  },
);

Deno.test("the history is replaced: a new timeline, and what waits becomes a conflict", strict, async () => {
  await using server = await ownEtcd();
  await using outer = await makeWorld();
  await using world = outer.on(server);
  await world.etcd.put(world.key("old"), "1");
  await world.etcd.put(world.key("both"), "1");
  const first = await streaming(world);
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  await quiet(world);
  await killed(first);
  await world.sql("select etcd_set($1, 'pending')", [world.key("both")]);
  await server.stop();
  await server.start({ wipe: true });
  await world.etcd.put(world.key("both"), "new");
  await streaming(world);
  await quiet(world);
  assert.equal((await world.state())!.timeline, 2);
  assert.deepEqual(await world.sql("select key, value from etcd"), [{
    key: world.key("both"),
    value: "new",
  }]);
  const wal = await world.sql("select key, status from etcd_wal order by id");
  assert.deepEqual(wal.map(({ status }) => status), ["success", "conflict"]);
  const old = await world.sql(
    "select key, value from etcd_at((select max(result_revision) from etcd_wal where status = 'success'), 1) order by key",
  );
  assert.deepEqual(old.map(({ key }) => key), ["a", "both", "old"].map((name) => world.key(name)));
  await world.sql("select etcd_set($1, 'anew')", [world.key("both")]);
  await quiet(world);
  assert.equal(String((await world.etcd.get(world.key("both")))?.value), "anew");
});

Deno.test("the history is replaced under a running program", strict, async () => {
  await using server = await ownEtcd();
  await using outer = await makeWorld();
  await using world = outer.on(server);
  await world.etcd.put(world.key("old"), "1");
  const program = await streaming(world);
  await quiet(world);
  await server.stop();
  await server.start({ wipe: true });
  await world.etcd.put(world.key("new"), "1");
  await program.until(
    async () => (await world.state())!.timeline === 2 && (await world.state())!.state === "streaming",
    30_000,
  );
  await quiet(world);
  assert.deepEqual(await world.sql("select key from etcd"), [{ key: world.key("new") }]);
  await world.sql("select etcd_set($1, '1')", [world.key("sql")]);
  await quiet(world);
  assert.equal(String((await world.etcd.get(world.key("sql")))?.value), "1");
});

Deno.test("etcd is away for a while: the program waits, and goes on", strict, async () => {
  await using server = await ownEtcd();
  await using outer = await makeWorld();
  await using world = outer.on(server);
  const from = await world.etcd.put(world.key("a"), "1");
  await streaming(world);
  await quiet(world);
  await server.stop();
  await world.sql("select etcd_set($1, 'meanwhile')", [world.key("b")]);
  await server.start();
  await eventually(() => world.etcd.put(world.key("a"), "2"));
  await quiet(world);
  const run = await record(world, { from });
  assertKept(run);
  assert.deepEqual(run.wal.map(({ status }) => status), ["success"]);
});
