/** Promise 4: etcd wins, and writers in SQL never conflict with one another. */
import assert from "node:assert/strict";
import { judged, quiet } from "../support/history.ts";
import { events, hold, streaming, strict } from "../support/run.ts";
import { refused, transaction } from "../support/schema.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

/** The mirror stands still, so that writers stand on what etcd no longer has. */
function holdMirror(world: World): Promise<() => Promise<void>> {
  return hold(world.session(), "lock table etcd_kv in exclusive mode");
}

async function settled(world: World): Promise<void> {
  await eventually(async () => !(await world.sql("select 1 from etcd_wal where status = 'pending'")).length);
}

Deno.test(
  "a change in etcd that the writer had not seen: its whole transaction is a conflict",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.txn([{ put: world.key("a"), value: "0" }, {
      put: world.key("b"),
      value: "0",
    }]);
    await streaming(world);
    await quiet(world);
    const release = await holdMirror(world);
    const theirs = await world.etcd.put(world.key("b"), "theirs");
    await transaction(world, async () => {
      for (const name of ["a", "b", "c"]) await world.sql("select etcd_set($1, 'ours')", [world.key(name)]);
    });
    await world.sql("select etcd_set($1, 'another transaction')", [world.key("d")]);
    await settled(world);
    await release();
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["conflict", "conflict", "conflict", "success"]);
    assert.ok(wal.slice(0, 3).every(({ result_revision }) => result_revision === theirs));
    assert.equal(
      wal[1].error_message,
      `Key '${world.key("b")}' has revision ${theirs} in etcd, the write stands on revision ${from}`,
    );
    assert.match(wal[0].error_message!, /^Row \d+ of its transaction: Key /);
    assert.deepEqual((await events(world, "conflict")).map(({ detail }) => detail.rows), [3]);
  },
);

for (
  const [what, change] of [
    ["deleted", (world: World) => world.etcd.delete(world.key("a"))],
    ["deleted and made anew", async (world: World) => {
      await world.etcd.delete(world.key("a"));
      await world.etcd.put(world.key("a"), "anew");
    }],
  ] as const
) {
  for (
    const write of [
      "select etcd_set($1, 'ours')",
      "select etcd_delete($1)",
      "update etcd set value = 'ours' where key = $1",
      "delete from etcd where key = $1",
    ]
  ) {
    Deno.test(`a key that others ${what} under "${write.slice(0, 22)}": conflict`, strict, async () => {
      await using world = await makeWorld();
      const from = await world.etcd.put(world.key("a"), "0");
      await streaming(world);
      await quiet(world);
      const release = await holdMirror(world);
      await change(world);
      await world.sql(write, [world.key("a")]);
      await settled(world);
      await release();
      const { wal } = await judged(world, { from });
      assert.deepEqual(wal.map(({ status }) => status), ["conflict"]);
    });
  }
}

Deno.test("a key that others made and deleted again counts as unchanged", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world);
  await quiet(world);
  const release = await holdMirror(world);
  await world.etcd.put(world.key("a"), "theirs");
  await world.etcd.delete(world.key("a"));
  await world.sql("insert into etcd (key, value) values ($1, 'ours')", [world.key("a")]);
  await settled(world);
  await release();
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), ["success"]);
});

Deno.test("writers of one hot key wait for one another, and none loses", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("hot"), "0");
  await streaming(world);
  await quiet(world);
  const release = await holdMirror(world); // all of them stand on the same revision
  await Promise.all([1, 2, 3, 4, 5].map(async (n) => {
    const session = world.session();
    for (let i = 0; i < 12; i++) {
      await (i % 5 === 4
        ? session.sql("select etcd_delete($1)", [world.key("hot")])
        : session.sql("select etcd_set($1, $2)", [world.key("hot"), `${n} ${i}`]));
    }
  }));
  await release();
  const { wal } = await judged(world, { from });
  assert.equal(wal.length, 60);
  assert.ok(wal.every(({ status }) => status === "success"));
});

Deno.test("a foreign change in the middle of a chain breaks it there, and not before", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("hot"), "0");
  await streaming(world);
  await quiet(world);
  const release = await holdMirror(world);
  await world.sql("select etcd_set($1, '1')", [world.key("hot")]);
  await world.sql("select etcd_set($1, '2')", [world.key("hot")]);
  await settled(world);
  await world.etcd.put(world.key("hot"), "theirs");
  await world.sql("select etcd_set($1, '3')", [world.key("hot")]);
  await world.sql("select etcd_set($1, '4')", [world.key("hot")]);
  await settled(world);
  await release();
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), ["success", "success", "conflict", "conflict"]);
});

Deno.test("our put that others deleted again: who saw the deletion writes on absence", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("first"), "0");
  await streaming(world);
  const release = await holdMirror(world); // so that the drain parks with a checkpoint from before its own put
  await world.sql("select etcd_set($1, 'ours')", [world.key("a")]);
  await settled(world);
  await eventually(async () => (await world.sql("select from etcd_sync_gate where parked")).length);
  await release();
  await quiet(world);
  await world.etcd.delete(world.key("a"));
  await quiet(world);
  await world.sql("select etcd_set($1, 'again')", [world.key("a")]);
  await settled(world);
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
});

Deno.test("a deletion that comes while the drain parks is not hidden from writers", strict, async () => {
  await using world = await makeWorld();
  for (const name of ["a", "b"]) await world.etcd.put(world.key(name), "0");
  await streaming(world);
  await world.etcd.delete(world.key("a"));
  const deleted = async () => (await world.sql("select deleted from etcd_sync_gate"))[0].deleted;
  await eventually(deleted);
  const parking = world.session(); // what the drain does when it parks, stretched
  await parking.sql(
    "begin; select from etcd_sync_state for update; update etcd_sync_gate set deleted = false",
  );
  await world.etcd.delete(world.key("b")); // the mirror's statement now sees `deleted`, and waits for the state row
  await eventually(async () =>
    (await world.sql(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and query ~ '^\\s*with fence'`,
    )).length
  );
  await parking.sql("commit");
  await quiet(world);
  assert.equal(await deleted(), true);
});

Deno.test("compare-and-set: on that revision alone", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "0");
  await streaming(world);
  await quiet(world);
  const set = async (key: string, value: string, revision: number) => {
    await world.sql("select etcd_set($1, $2, $3)", [world.key(key), value, revision]);
    await settled(world);
  };
  await set("a", "1", from);
  await set("a", "2", from); // the first one has moved it
  await set("b", "1", 0);
  await set("b", "2", 0);
  await set("never there", "1", 7);
  await world.sql("select etcd_delete($1, $2)", [world.key("b"), from]);
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), [
    "success",
    "conflict",
    "success",
    "conflict",
    "conflict",
    "conflict",
  ]);
});

Deno.test("a counter by read, compare-and-set and retry counts right", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("counter"), "0");
  await streaming(world);
  await quiet(world);
  const increment = async (session: ReturnType<World["session"]>) => {
    for (;;) {
      const [{ id }] = await session.sql(
        "select etcd_set(key, (value::integer + 1)::text, revision) as id from etcd where key = $1",
        [
          world.key("counter"),
        ],
      );
      const [{ status }] = await session.sql("select status from etcd_wait($1)", [id]);
      if (status === "success") return;
      // a conflict is known before the mirror shows who won
      await session.sql("select 1");
    }
  };
  await Promise.all([1, 2, 3].map(async () => {
    const session = world.session();
    for (let i = 0; i < 5; i++) await increment(session);
  }));
  await judged(world, { from });
  assert.equal(String((await world.etcd.get(world.key("counter")))?.value), "15");
});

Deno.test("etcd_wait() returns when the mirror shows the write", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world);
  for (let i = 0; i < 20; i++) {
    const [{ id }] = await world.sql("select etcd_set($1, $2) as id", [world.key("a"), String(i)]);
    const [row] = await world.sql("select status, result_revision from etcd_wait($1)", [id]);
    const [read] = await world.sql("select value, revision from etcd where key = $1", [world.key("a")]);
    assert.deepEqual([row.status, read.value, read.revision], ["success", String(i), row.result_revision]);
  }
  await refused(
    transaction(world, () => world.sql("select etcd_wait(etcd_set($1, 'x'))", [world.key("a")])),
    "ZE010",
    /in the transaction that wrote it: commit first$/,
  );
  await judged(world, { from });
});

Deno.test("etcd_retry() sends the whole transaction again, on what etcd has now", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "0");
  await streaming(world);
  await quiet(world);
  const release = await holdMirror(world);
  await world.etcd.put(world.key("a"), "theirs");
  await transaction(world, async () => {
    for (const name of ["a", "b"]) await world.sql("select etcd_set($1, 'ours')", [world.key(name)]);
  });
  await settled(world);
  await release();
  await quiet(world);
  const [{ id }] = await world.sql("select id from etcd_wal order by id limit 1");
  assert.deepEqual(await world.sql("select etcd_retry($1) as rows", [id]), [{ rows: 2 }]);
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
  assert.deepEqual((await world.sql("select value from etcd order by key")).map(({ value }) => value), [
    "ours",
    "ours",
  ]);
});
