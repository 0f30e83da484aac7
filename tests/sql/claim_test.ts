import assert from "node:assert/strict";
import { claim, drainAll, lose, settle } from "../support/drain.ts";
import { installed, refused, setGate, strict } from "../support/schema.ts";
import { eventually, makeWorld, type Row, type World } from "../support/world.ts";

async function makeQueue(): Promise<World> {
  const world = await makeWorld();
  await installed(world);
  return world;
}

/** One transaction that writes these keys. */
async function write(world: World, ...keys: string[]): Promise<void> {
  await world.sql("select etcd_set(key, '') from unnest($1::text[]) key", [keys.map((key) => "/" + key)]);
}

async function writeMany(world: World, rows: number, name = "k", bytes = 0): Promise<void> {
  await world.sql(
    `select etcd_set('/${name}/' || n, repeat('x', ${bytes})) from generate_series(1, ${rows}) n`,
  );
}

const keys = (rows: Row[]) => rows.map(({ key }) => key.slice(1)).join(" ");
const events = (world: World) =>
  world.sql("select kind, key, revision, detail from etcd_sync_event order by id");

Deno.test("a claim takes the oldest whole transactions that fit by their rows", strict, async () => {
  await using world = await makeQueue();
  await write(world, "a1", "a2", "a3");
  await write(world, "b1", "b2", "b3");
  await write(world, "c1", "c2");
  assert.equal(keys(await claim(world, { rows: 7 })), "a1 a2 a3 b1 b2 b3");
  assert.equal(keys(await claim(world, { rows: 8 })), "a1 a2 a3 b1 b2 b3 c1 c2");
  assert.equal(keys(await claim(world, { rows: 5 })), "a1 a2 a3");
  assert.equal(keys(await claim(world, { rows: 3 })), "a1 a2 a3");
});

Deno.test("a claim takes the oldest whole transactions that fit by their bytes", strict, async () => {
  await using world = await makeQueue();
  for (const name of ["a", "b", "c"]) await writeMany(world, 2, name, 1000);
  assert.equal(keys(await claim(world, { bytes: 5000 })), "a/1 a/2 b/1 b/2");
  assert.equal(keys(await claim(world, { bytes: 3000 })), "a/1 a/2");
});

Deno.test("a claim takes at most so many transactions", strict, async () => {
  await using world = await makeQueue();
  for (const name of ["a", "b", "c"]) await write(world, name);
  assert.equal(keys(await claim(world, { transactions: 2 })), "a b");
  assert.equal(keys(await claim(world, { transactions: 1 })), "a");
});

Deno.test(
  "a claim ends before the first transaction that repeats a key, and never overtakes it",
  strict,
  async () => {
    await using world = await makeQueue();
    await write(world, "a", "hot");
    await write(world, "b");
    await write(world, "hot", "c");
    await write(world, "d");
    const batches = [];
    for (let rows = await claim(world); rows.length; rows = await claim(world)) {
      batches.push(keys(rows));
      await settle(world, rows);
    }
    assert.deepEqual(batches, ["a hot b", "hot c d"]);
  },
);

Deno.test("a claim sees what is committed, and nothing that is settled", strict, async () => {
  await using world = await makeQueue();
  const other = world.session();
  await write(world, "a");
  await other.sql("begin; select etcd_set('/b', '')");
  const rows = await claim(world);
  assert.equal(keys(rows), "a");
  assert.deepEqual(await claim(world), rows);
  await settle(world, rows);
  assert.deepEqual(await claim(world), []);
  await other.sql("commit");
  assert.equal(keys(await claim(world)), "b");
});

Deno.test("settling sets what was asked and what came of it, and takes the header away", strict, async () => {
  await using world = await makeQueue();
  await write(world, "a", "b");
  await write(world, "c");
  await world.sql("select etcd_drain_applied(7, 40, '{1,2}', '{0,33}')");
  const rows = await world.sql(
    "select status, expected_revision, result_revision, batch_id, settled_at is not null as settled from etcd_wal order by id",
  );
  assert.deepEqual(rows.map(Object.values), [
    ["success", 0, 40, 7, true],
    ["success", 33, 40, 7, true],
    ["pending", null, null, null, false],
  ]);
  assert.equal(keys(await claim(world)), "c");
  assert.equal((await world.sql("select 1 from etcd_wal_tx")).length, 1);
});

Deno.test("settling a row twice keeps the first answer", strict, async () => {
  await using world = await makeQueue();
  await write(world, "a");
  await world.sql("select etcd_drain_applied(7, 40, '{1}', '{0}')");
  await world.sql("select etcd_drain_applied(8, 50, '{1}', '{0}')");
  await lose(world, [{ id: 1 }]);
  assert.deepEqual(await world.sql("select status, result_revision from etcd_wal"), [{
    status: "success",
    result_revision: 40,
  }]);
  assert.deepEqual(await events(world), []);
});

Deno.test("a conflict is the whole transaction's, and the others go again", strict, async () => {
  await using world = await makeQueue();
  await write(world, "a", "b", "c");
  await write(world, "d");
  await claim(world);
  await world.sql("select etcd_drain_lost('conflict', 3, '{2}', '{99}', '{\"Key b has moved\"}')");
  const rows = await world.sql(
    "select key, status, result_revision, error_message, batch_id from etcd_wal order by id",
  );
  assert.deepEqual(rows.map(Object.values), [
    ["/a", "conflict", 99, "Row 2 of its transaction: Key b has moved", 3],
    ["/b", "conflict", 99, "Key b has moved", 3],
    ["/c", "conflict", 99, "Row 2 of its transaction: Key b has moved", 3],
    ["/d", "pending", null, null, null],
  ]);
  assert.equal(keys(await claim(world)), "d");
  const [{ kind, key, revision, detail }, ...others] = await events(world);
  assert.deepEqual(others, []);
  assert.deepEqual({ kind, key, revision, rows: detail.rows, wal_id: detail.wal_id }, {
    kind: "conflict",
    key: "/b",
    revision: 99,
    rows: 3,
    wal_id: 2,
  });
});

Deno.test(
  "two rows of one transaction that lost are one event, and keep their own answers",
  strict,
  async () => {
    await using world = await makeQueue();
    await write(world, "a", "b");
    await world.sql("select etcd_drain_lost('failed', 3, '{2,1}', '{null,5}', '{two,one}')");
    const rows = await world.sql("select status, result_revision, error_message from etcd_wal order by id");
    assert.deepEqual(rows.map(Object.values), [["failed", 5, "one"], ["failed", 5, "two"]]);
    assert.equal((await events(world)).length, 1);
  },
);

Deno.test("a transaction that is too large goes in parts, in order, with one event", strict, async () => {
  await using world = await makeQueue();
  await write(world, "before");
  await writeMany(world, 300);
  await write(world, "after");
  const sizes = [];
  const went = [];
  for (let rows = await claim(world); rows.length; rows = await claim(world)) {
    sizes.push(rows.length);
    went.push(...rows);
    await settle(world, rows);
  }
  assert.deepEqual(sizes, [1, 127, 127, 46 + 1]);
  assert.equal(
    keys(went),
    ["before", ...Array.from({ length: 300 }, (_, n) => `k/${n + 1}`), "after"].join(" "),
  );
  assert.deepEqual(
    (await events(world)).map(({ kind, detail }) => [kind, detail.max_rows, detail.first_wal_id]),
    [["split", 127, 2]],
  );
  assert.deepEqual(await world.sql("select 1 from etcd_wal_tx"), []);
});

Deno.test("a part that is claimed again is the same part", strict, async () => {
  await using world = await makeQueue();
  await writeMany(world, 300);
  const first = await claim(world);
  assert.deepEqual(await claim(world), first);
  await settle(world, first);
  const second = await claim(world);
  assert.deepEqual(await claim(world), second);
  assert.deepEqual([second[0].key, (await events(world)).length], ["/k/128", 1]);
});

Deno.test(
  "the parts after a conflict are conflicts too, the parts before stay as they are",
  strict,
  async () => {
    await using world = await makeQueue();
    await writeMany(world, 300);
    await write(world, "after");
    await settle(world, await claim(world));
    const second = await claim(world);
    await lose(world, [second[5]]);
    const counts = await world.sql("select status, count(*) from etcd_wal group by status order by status");
    assert.deepEqual(counts.map(Object.values), [["conflict", 173], ["pending", 1], ["success", 127]]);
    assert.equal(keys(await claim(world)), "after");
  },
);

Deno.test("a transaction too large by its bytes goes in parts that fit", strict, async () => {
  await using world = await makeQueue();
  await writeMany(world, 5, "k", 1000);
  const batches = [];
  for (
    let rows = await claim(world, { bytes: 2500 });
    rows.length;
    rows = await claim(world, { bytes: 2500 })
  ) {
    batches.push(rows.length);
    await settle(world, rows);
  }
  assert.deepEqual(batches, [2, 2, 1]);
});

Deno.test("a single row over the bytes of a batch goes alone, and is no split", strict, async () => {
  await using world = await makeQueue();
  await write(world, "before");
  await writeMany(world, 1, "large", 5000);
  await write(world, "after");
  const batches = [];
  for (
    let rows = await claim(world, { bytes: 1000 });
    rows.length;
    rows = await claim(world, { bytes: 1000 })
  ) {
    batches.push(keys(rows));
    await settle(world, rows);
  }
  assert.deepEqual(batches, ["before", "large/1", "after"]);
  assert.deepEqual(await events(world), []);
});

Deno.test("between the parts of a transaction that was split, others' rows stay out", strict, async () => {
  await using world = await makeQueue();
  const other = world.session();
  await world.sql("begin");
  for (let n = 0; n < 4; n++) {
    await world.sql(`select etcd_set('/large/${n}/' || m, '') from generate_series(1, 40) m`);
    await write({ sql: other.sql.bind(other) } as World, `small${n}`);
  }
  await world.sql("commit");
  const went = keys(await drainAll(world)).split(" ");
  assert.deepEqual(went.slice(0, 4), ["small0", "small1", "small2", "small3"]);
  assert.equal(went.slice(4).every((key) => key.startsWith("large/")), true);
});

// what a turn needs of the program
const holder = "00000000-0000-0000-0000-00000000000a";

async function lead(world: World, state = "streaming"): Promise<void> {
  await world.sql("update etcd_sync_state set epoch = 1, holder = $1, state = $2, revision = 10", [
    holder,
    state,
  ]);
}

interface Turn {
  batch: number;
  epoch?: number;
  /** What was claimed ahead is on its way. */
  ahead?: boolean;
  batches?: number;
  applied?: [at: number, ids: number[]];
  lost?: [status: string, ids: number[]];
}

function turn(
  world: World,
  { batch, epoch = 1, ahead = false, applied, lost, batches = 1 }: Turn,
): Promise<Row[]> {
  const [at, ids] = applied ?? [null, []];
  const [status, lostIds] = lost ?? [null, []];
  return world.sql(
    `select batch, id, key from etcd_drain_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 127, 1500000, 127, $12,
     'draining', 'streaming')`,
    [
      epoch,
      holder,
      batch,
      ahead,
      at,
      ids,
      ids.map(() => 0),
      status,
      lostIds,
      lostIds.map(() => 50),
      lostIds.map(() => "lost"),
      batches,
    ],
  );
}

async function stands(world: World): Promise<Row> {
  const [row] = await world.sql(
    `select s.state, s.batch_id, s.batch_rows, s.ahead_id, s.ahead_rows, s.marker_revision, g.parked, g.seen_revision
     from etcd_sync_state s, etcd_sync_gate g`,
  );
  return row;
}

Deno.test("a turn settles the batch in flight, claims the next, and wakes and parks", strict, async () => {
  await using world = await makeQueue();
  await lead(world);
  await write(world, "hot");
  await write(world, "hot");
  assert.equal(keys(await turn(world, { batch: 0 })), "hot");
  assert.deepEqual(await stands(world), {
    state: "draining",
    batch_id: 1,
    batch_rows: [1],
    ahead_id: null,
    ahead_rows: [],
    marker_revision: 0,
    parked: false,
    seen_revision: 0,
  });
  assert.equal(keys(await turn(world, { batch: 1, applied: [20, [1]] })), "hot");
  assert.deepEqual(await stands(world), {
    state: "draining",
    batch_id: 2,
    batch_rows: [2],
    ahead_id: null,
    ahead_rows: [],
    marker_revision: 20,
    parked: false,
    seen_revision: 0,
  });
  assert.deepEqual(await turn(world, { batch: 2, lost: ["conflict", [2]] }), []);
  assert.deepEqual(await stands(world), {
    state: "streaming",
    batch_id: 2,
    batch_rows: [],
    ahead_id: null,
    ahead_rows: [],
    marker_revision: 20,
    parked: true,
    seen_revision: 10,
  });
});

Deno.test(
  "a turn that parks knows of the tombstones that the mirror has committed meanwhile",
  strict,
  async () => {
    await using world = await makeQueue();
    await lead(world);
    await write(world, "a");
    await turn(world, { batch: 0 });
    const settlements = world.session();
    await settlements.sql("begin");
    await settlements.sql("lock table etcd_wal in share mode");
    const parking = turn(world, { batch: 1, applied: [20, [1]] });
    const mirror = world.session();
    await eventually(async () =>
      (await mirror.sql(
        "select from pg_stat_activity where query ~ 'etcd_drain_turn' and wait_event_type = 'Lock' and datname = current_database()",
      )).length > 0
    );
    await mirror.sql("begin");
    await mirror.sql("update etcd_sync_state set revision = 30");
    await mirror.sql("update etcd_sync_gate set deleted = true");
    await mirror.sql("commit");
    await settlements.sql("commit");
    await parking;
    assert.deepEqual(await world.sql("select parked, deleted, seen_revision from etcd_sync_gate"), [
      { parked: true, deleted: false, seen_revision: 30 },
    ]);
  },
);

/** Batch by batch what a turn gave: `2: a b`. */
function claims(rows: Row[]): string[] {
  const byBatch = Map.groupBy(rows, ({ batch }) => batch);
  return [...byBatch].map(([batch, rows]) => `${batch}: ${keys(rows)}`);
}

async function claimedIds(world: World): Promise<Row> {
  const { batch_id, batch_rows, ahead_id, ahead_rows } = await stands(world);
  return { batch_id, batch_rows, ahead_id, ahead_rows };
}

Deno.test("a turn claims a second batch behind the first, and goes on with it", strict, async () => {
  await using world = await makeQueue();
  await lead(world);
  for (let n = 0; n < 4; n++) await write(world, "hot");
  assert.deepEqual(claims(await turn(world, { batch: 0, batches: 2 })), ["1: hot", "2: hot"]);
  assert.deepEqual(await claimedIds(world), { batch_id: 1, batch_rows: [1], ahead_id: 2, ahead_rows: [2] });
  const next = { batch: 1, applied: [20, [1]] as [number, number[]], ahead: true, batches: 2 };
  assert.deepEqual(claims(await turn(world, next)), ["3: hot"]);
  assert.deepEqual(await claimedIds(world), { batch_id: 2, batch_rows: [2], ahead_id: 3, ahead_rows: [3] });
  // without room for a second one
  assert.deepEqual(await turn(world, { batch: 2, applied: [21, [2]], ahead: true, batches: 1 }), []);
  assert.deepEqual(await claimedIds(world), { batch_id: 3, batch_rows: [3], ahead_id: null, ahead_rows: [] });
  await refused(turn(world, { batch: 3, applied: [22, [3]], ahead: true }), "ZE100");
  assert.deepEqual(claims(await turn(world, { batch: 3, applied: [22, [3]], batches: 2 })), ["4: hot"]);
  assert.deepEqual(await turn(world, { batch: 4, applied: [23, [4]], batches: 2 }), []);
  assert.equal((await stands(world)).parked, true);
});

Deno.test(
  "what was claimed ahead of a batch that was lost goes again, under a new number",
  strict,
  async () => {
    await using world = await makeQueue();
    await lead(world);
    await write(world, "a", "hot");
    await write(world, "hot");
    await write(world, "hot");
    assert.deepEqual(claims(await turn(world, { batch: 0, batches: 2 })), ["1: a hot", "2: hot"]);
    const lost = { batch: 1, lost: ["conflict", [1]] as [string, number[]], batches: 2 };
    assert.deepEqual(claims(await turn(world, lost)), ["3: hot", "4: hot"]);
    // stopping: nothing is claimed, and no number comes again
    assert.deepEqual(await turn(world, { batch: 3, batches: 0 }), []);
    assert.deepEqual(await claimedIds(world), {
      batch_id: 4,
      batch_rows: [],
      ahead_id: null,
      ahead_rows: [],
    });
    assert.deepEqual(claims(await turn(world, { batch: 4, batches: 2 })), ["5: hot", "6: hot"]);
  },
);

Deno.test(
  "a transaction of which all is claimed keeps its place in the order: given up, it is claimed again",
  strict,
  async () => {
    await using world = await makeQueue();
    await lead(world);
    await write(world, "a", "b"); // with a number that no row has
    assert.deepEqual(claims(await turn(world, { batch: 0, batches: 2 })), ["1: a b"]);
    assert.deepEqual(claims(await turn(world, { batch: 1, batches: 2 })), ["2: a b"]);
    assert.deepEqual(await turn(world, { batch: 2, applied: [20, [1, 2]] }), []);
    await writeMany(world, 200); // goes in two parts
    assert.equal((await turn(world, { batch: 2, batches: 2 })).length, 200);
    assert.equal((await turn(world, { batch: 3, batches: 2 })).length, 200);
    assert.equal((await world.sql("select from etcd_wal_tx")).length, 1);
  },
);

Deno.test(
  "a claim behind another one takes what it would have taken after it: singles, whole transactions, parts",
  strict,
  async () => {
    await using world = await makeQueue();
    await write(world, "a");
    await write(world, "b1", "b2");
    await write(world, "a");
    await writeMany(world, 10, "big");
    await write(world, "a");
    const settled: string[] = [];
    const expected: string[] = [];
    await using twin = await makeQueue();
    await write(twin, "a");
    await write(twin, "b1", "b2");
    await write(twin, "a");
    await writeMany(twin, 10, "big");
    await write(twin, "a");
    for (let rows = await claim(twin, { rows: 4 }); rows.length > 0; rows = await claim(twin, { rows: 4 })) {
      expected.push(keys(rows));
      await settle(twin, rows);
    }
    let first = await claim(world, { rows: 4 });
    while (first.length > 0) {
      settled.push(keys(first));
      const second = await claim(world, { rows: 4, behind: first });
      await settle(world, first);
      first = second;
    }
    assert.deepEqual(settled, expected);
    assert.deepEqual(settled, [
      "a b1 b2",
      "a",
      "big/1 big/2 big/3 big/4",
      "big/5 big/6 big/7 big/8",
      "big/9 big/10 a",
    ]);
    assert.deepEqual(await claim(world), []);
    assert.deepEqual(await world.sql("select * from etcd_wal_tx"), []);
  },
);

Deno.test("a turn of who is no longer the writer, or of another batch, changes nothing", strict, async () => {
  await using world = await makeQueue();
  await lead(world);
  await write(world, "a");
  await turn(world, { batch: 0 });
  const before = [await stands(world), await world.sql("select * from etcd_wal")];
  await refused(
    turn(world, { batch: 1, epoch: 2, applied: [20, [1]] }),
    "ZE100",
    /^Fenced: epoch 2 is no longer the writer of batch 1$/,
  );
  await refused(turn(world, { batch: 0, applied: [20, [1]] }), "ZE100");
  await world.sql("update etcd_sync_state set state = 'compaction-resync'");
  await refused(
    turn(world, { batch: 1, applied: [20, [1]] }),
    "ZE100",
    /the stream is in state compaction-resync$/,
  );
  await world.sql("update etcd_sync_state set state = 'draining'");
  assert.deepEqual([await stands(world), await world.sql("select * from etcd_wal")], before);
});

Deno.test("a turn with nothing to do writes nothing", strict, async () => {
  await using world = await makeQueue();
  await lead(world);
  await setGate(world, "parked = true");
  const versions =
    "select s.xmin::text as state, g.xmin::text as gate from etcd_sync_state s, etcd_sync_gate g";
  const before = await world.sql(versions);
  await turn(world, { batch: 0 });
  assert.deepEqual(await world.sql(versions), before);
});

/** Queues so many transactions of one row, as etcd_set would. */
async function fill(world: World, from: number, to: number): Promise<void> {
  await world.sql(
    `insert into etcd_wal (txid, ts, key, value, timeline, revision, seen_revision)
     select n::text::xid8, 'epoch', '/queue/' || n, 'value', 1, 0, 0 from generate_series(${from}, ${to}) n`,
  );
  await world.sql(
    `insert into etcd_wal_tx (seq, txid, ts, first_id) select id, txid, ts, id from etcd_wal where ts = 'epoch'
     on conflict do nothing`,
  );
}

/** Pages that a statement touches, once its plans and caches are warm; it is rolled back. */
async function pages(world: World, statement: string): Promise<number> {
  let touched = 0;
  for (let n = 0; n < 3; n++) {
    const plan = await world.sql(`begin; explain (analyze, buffers, format json) ${statement}`);
    await world.sql("rollback");
    const { "Shared Hit Blocks": hit, "Shared Read Blocks": read } = plan[0]["QUERY PLAN"][0].Plan;
    touched = hit + read;
  }
  return touched;
}

Deno.test(
  "a claim and a turn cost the batch, and not the queue: 1,000 and 1,000,000 rows",
  strict,
  async () => {
    await using world = await makeQueue();
    await lead(world);
    const claiming = "select * from etcd_drain_claim(127, 1500000, 127)";
    const ids = Array.from({ length: 127 }, (_, n) => n + 1);
    const turning = `select * from etcd_drain_turn(1, '${holder}', 0, false, 20, '{${ids}}', '{${
      ids.map(() => 0)
    }}', null, '{}',
    '{}', '{}', 127, 1500000, 127, 2, 'draining', 'streaming')`;
    const measure = async () => {
      await world.sql("vacuum analyze");
      return [await pages(world, claiming), await pages(world, turning)];
    };
    await fill(world, 1, 1_000);
    const few = await measure();
    await fill(world, 1_001, 1_000_000);
    const many = await measure();
    // an index of a million rows is a page or two deeper, for each row of the batch
    const bounds = few.map((touched) => 3 * touched);
    assert.equal(
      many.every((touched, i) => touched <= bounds[i]),
      true,
      `pages touched: ${few} of 1,000, ${many} of 1,000,000`,
    );
  },
);

Deno.test("a writer's cost does not grow with the queue", strict, async () => {
  await using world = await makeQueue();
  await setGate(world, "parked = false");
  const writing = "select etcd_set('/queue/1', 'x')";
  await fill(world, 1, 1_000);
  await world.sql("vacuum analyze");
  const few = await pages(world, writing);
  await fill(world, 1_001, 100_000);
  await world.sql("vacuum analyze");
  const many = await pages(world, writing);
  assert.equal(many <= 3 * few, true, `pages touched: ${few} of 1,000, ${many} of 100,000`);
});

for (
  const one of [
    "select etcd_set('/k/' || n, 'x')",
    "insert into etcd_wal (key, value) select '/k/' || n, 'x'",
  ]
) {
  const way = one.split(" ").slice(0, one.startsWith("select") ? 2 : 3).join(" ");
  Deno.test(
    `a write costs the same, however much its transaction has written: ${way} …`,
    strict,
    async () => {
      await using world = await makeQueue();
      const session = world.session();
      const many = (from: number, to: number) => session.sql(`${one} from generate_series(${from}, ${to}) n`);
      const touched = async (n: number) => {
        const plan = await session.sql(
          `explain (analyze, buffers, format json) ${one} from (values (${n})) v (n)`,
        );
        const { "Shared Hit Blocks": hit, "Shared Read Blocks": read } = plan[0]["QUERY PLAN"][0].Plan;
        return hit + read;
      };
      await many(1, 10); // plans are made, and kept, while the table is small
      await session.sql("vacuum analyze");
      await session.sql("begin");
      await many(11, 30);
      const few = await touched(31);
      await many(32, 3000);
      const more = await touched(3001);
      await session.sql("commit");
      assert.equal(more <= 3 * few, true, `pages touched: ${few} after 30, ${more} after 3,000`);
    },
  );
}

// What became visible between the claim's two statements was passed over, and a later write of its key taken: the older
// value won, and all was well by the book.
Deno.test("a claim takes nothing behind a transaction that became visible while it ran", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  await world.sql(`
    alter function etcd_drain_claim_singles(integer, bigint, integer, bigint[]) rename to claim_singles;
    create function etcd_drain_claim_singles(a integer, b bigint, c integer, d bigint[])
    returns table (ids bigint[], keys text[], bytes bigint) language plpgsql as $$
    begin
      return query select * from claim_singles(a, b, c, d);
      perform pg_advisory_xact_lock(4711);
    end $$`);
  const [early, gate] = [world.session(), world.session()];
  await early.sql("begin");
  await early.sql("select etcd_set('/k', 'old')");
  await world.sql("select etcd_set('/other', '1')");
  await gate.sql("begin");
  await gate.sql("select pg_advisory_xact_lock(4711)");
  const claim = world.session().sql("select key, value from etcd_drain_claim(127, 1500000, 127)");
  await eventually(async () =>
    (await world.sql("select 1 from pg_locks where locktype = 'advisory' and objid = 4711 and not granted"))
      .length > 0
  );
  await early.sql("commit");
  await world.sql("select etcd_set('/k', 'new')");
  await gate.sql("commit");
  assert.deepEqual(await claim, [{ key: "/other", value: "1" }]);
});
