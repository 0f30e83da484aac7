import assert from "node:assert/strict";
import { installed, mirrored, refused, setGate, strict, transaction, wal } from "../support/schema.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

/** Two transactions: the first has lost with its rows 1 to 3, the second waits with row 100. */
async function makeLost(status = "conflict"): Promise<World> {
  const world = await makeWorld();
  await installed(world);
  await mirrored(world, "/a", "one", 10);
  await world.sql("select etcd_set('/a', 'x', 10), etcd_delete('/b'), etcd_set('/c', 'x')");
  await world.sql(
    `update etcd_wal set status = $1, result_revision = 12, expected_revision = 10, error_message = 'lost', batch_id = 3,
       settled_at = now()`,
    [status],
  );
  await world.sql("delete from etcd_wal_tx");
  await world.sql("select setval('etcd_wal_id_seq', 99); select etcd_set('/other', 'x')");
  await world.sql("update etcd_kv set revision = 12, value = 'theirs'");
  return world;
}

for (const status of ["conflict", "failed"]) {
  Deno.test(
    `etcd_retry() queues the whole transaction of a ${status} row again, on today's revisions`,
    strict,
    async () => {
      await using world = await makeLost(status);
      await transaction(world, async () => {
        assert.deepEqual(await world.sql("select etcd_retry(2) as rows"), [{ rows: 3 }]);
        const [{ retrying }] = await world.sql(
          "select bool_and(txid = pg_current_xact_id() and ts = now()) as retrying from etcd_wal where id <= 3",
        );
        assert.equal(retrying, true);
      });
      const fresh = { status: "pending", retry_count: 1, settled: 0, timeline: 1 };
      const columns = `id, key, revision, seen_revision, status, retry_count, timeline,
      num_nonnulls(expected_revision, result_revision, error_message, batch_id, settled_at) as settled`;
      assert.deepEqual((await wal(world, columns)).slice(0, 3), [
        { ...fresh, id: 1, key: "/a", revision: 12, seen_revision: 12 },
        { ...fresh, id: 2, key: "/b", revision: 0, seen_revision: 0 },
        { ...fresh, id: 3, key: "/c", revision: 0, seen_revision: 0 },
      ]);
    },
  );
}

Deno.test("a retried transaction goes after those that wait", strict, async () => {
  await using world = await makeLost();
  await world.sql("select etcd_retry(1)");
  const claimed = await world.sql("select id from etcd_drain_claim(127, 1500000, 127)");
  assert.deepEqual(claimed.map(({ id }) => id), [100, 1, 2, 3]);
});

Deno.test("what the retrying transaction writes itself goes with it", strict, async () => {
  for (
    const order of [["select etcd_retry(1)", "select etcd_set('/d', 'x')"], [
      "select etcd_set('/d', 'x')",
      "select etcd_retry(1)",
    ]]
  ) {
    await using world = await makeLost();
    await transaction(world, async () => {
      for (const statement of order) await world.sql(statement);
    });
    const [header] = await world.sql(
      "select t.first_id, t.seq, max(w.id) as last_id, count(*) from etcd_wal_tx t join etcd_wal w using (txid, ts) group by t.seq having count(*) > 1",
    );
    assert.deepEqual({ first_id: header.first_id, count: header.count, after: header.seq > header.last_id }, {
      first_id: 1,
      count: 4,
      after: true,
    });
  }
});

Deno.test("two transactions retried in one go in one", strict, async () => {
  await using world = await makeLost();
  await world.sql("update etcd_wal set status = 'failed' where id = 100; delete from etcd_wal_tx");
  await world.sql("begin; select etcd_retry(100); select etcd_retry(3); commit");
  assert.deepEqual(await world.sql("select first_id, seq > 3 as after from etcd_wal_tx"), [{
    first_id: 1,
    after: true,
  }]);
  assert.equal((await world.sql("select id from etcd_drain_claim(127, 1500000, 127)")).length, 4);
});

Deno.test(
  "etcd_retry() of a key that the retrying transaction has written already is refused",
  strict,
  async () => {
    await using world = await makeLost();
    const both = transaction(world, async () => {
      await world.sql("select etcd_set('/b', 'x')");
      await world.sql("select etcd_retry(1)");
    });
    await refused(
      both,
      "ZE007",
      /^Cannot retry write 1: this transaction has written one of its keys already$/,
    );
  },
);

Deno.test(
  "etcd_retry() and etcd_discard() leave alone the rows of the transaction that arrived",
  strict,
  async () => {
    for (const call of ["etcd_retry", "etcd_discard"]) {
      await using world = await makeLost();
      await world.sql("update etcd_wal set status = 'success' where id = 1");
      assert.deepEqual(await world.sql(`select ${call}(2) as rows`), [{ rows: 2 }]);
      assert.deepEqual(await world.sql("select status from etcd_wal where id = 1"), [{ status: "success" }]);
    }
  },
);

Deno.test("etcd_discard() gives the whole transaction up, and an event says who did", strict, async () => {
  await using world = await makeLost();
  assert.deepEqual(await world.sql("select etcd_discard(3) as rows"), [{ rows: 3 }]);
  assert.deepEqual(await wal(world, "id"), [{ id: 100 }]);
  const events = await world.sql("select kind, detail from etcd_sync_event");
  assert.deepEqual(events, [{ kind: "discarded", detail: { wal_ids: [1, 2, 3], by: "postgres" } }]);
});

for (const call of ["etcd_retry", "etcd_discard"]) {
  Deno.test(`${call}() refuses a row that is not lost, or not there`, strict, async () => {
    await using world = await makeLost();
    await refused(
      world.sql(`select ${call}(100)`),
      "ZE007",
      /^Cannot retry or discard write 100: it is pending, wanted is conflict or failed$/,
    );
    await world.sql("update etcd_wal set status = 'success' where id = 100");
    await refused(world.sql(`select ${call}(100)`), "ZE007", /: it is success, wanted/);
    await refused(world.sql(`select ${call}(99)`), "ZE007", /: it is not there, wanted/);
  });
}

Deno.test("of two sessions that retry or discard one row, one does", strict, async () => {
  await using world = await makeLost();
  const sessions = Array.from({ length: 6 }, () => world.session());
  const results = await Promise.allSettled(
    sessions.map((session, i) => session.sql(`select ${i % 2 ? "etcd_retry" : "etcd_discard"}(1)`)),
  );
  assert.equal(results.filter(({ status }) => status === "fulfilled").length, 1);
  for (const result of results) if (result.status === "rejected") assert.equal(result.reason.code, "ZE007");
});

Deno.test("etcd_retry() is refused where the stream has become one-way", strict, async () => {
  await using world = await makeLost();
  await setGate(world, "one_way = true");
  await refused(world.sql("select etcd_retry(1)"), "ZE004", /this stream is one-way/);
  assert.deepEqual(
    await wal(world, "status"),
    [..."123"].map(() => ({ status: "conflict" })).concat({ status: "pending" }),
  );
});

Deno.test(
  "etcd_retry() of a row that another session is retrying waits for the first, and is refused",
  strict,
  async () => {
    await using world = await makeLost();
    const [first, second] = [world.session(), world.session()];
    await first.sql("begin; select etcd_retry(1)");
    const waiting = refused(
      second.sql("select etcd_retry(2)"),
      "ZE007",
      /: it is pending, wanted is conflict or failed$/,
    );
    await eventually(async () => (await world.sql("select 1 from pg_locks where not granted")).length);
    await first.sql("commit");
    await waiting;
    assert.equal((await world.sql("select id from etcd_drain_claim(127, 1500000, 127)")).length, 4);
  },
);
