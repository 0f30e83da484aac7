/** Retention by plain SQL: what goes, what has to stay, and until when. */

import assert from "node:assert/strict";
import { claim, lose, settle } from "../support/drain.ts";
import { installed, mirrored, refused, setGate, strict, wal } from "../support/schema.ts";
import { makeWorld, type Session, type World } from "../support/world.ts";

const now = "0 seconds";
const hour = "1 hour";

/** A stream whose mirror is whole. */
async function whole(world: World, revision = 10): Promise<void> {
  await installed(world);
  await checkpoint(world, revision);
  await event(world, "caught-up", revision);
}

async function checkpoint(world: World, revision: number, timeline = 1): Promise<void> {
  await world.sql(
    "update etcd_sync_state set state = 'streaming', revision = $1, timeline = $2, history_from = coalesce(history_from, $1)",
    [revision, timeline],
  );
  await setGate(world, `timeline = ${timeline}`);
}

async function event(world: World, kind: string, revision: number | null, timeline = 1, age = now) {
  await world.sql(
    "insert into etcd_sync_event (kind, timeline, revision, ts) values ($1, $2, $3, clock_timestamp() - $4::interval)",
    [kind, timeline, revision, age],
  );
}

/** etcd has applied what waits, and the mirror has it too. */
async function arrives(world: World, revision: number): Promise<void> {
  const rows = await claim(world);
  await settle(world, rows, revision);
  for (const { key } of rows) {
    await world.sql("delete from etcd_kv where key = $1", [key]);
    await mirrored(world, key, "v", revision);
  }
  await checkpoint(world, revision);
}

async function archived(world: World, row: {
  key: string;
  revision: number;
  until?: number;
  timeline?: number;
}, tombstone = false): Promise<void> {
  await world.sql(
    `insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
     values ($1, $2, $3, $4, $5, $6, $3, 1, 0)`,
    [
      row.timeline ?? 1,
      row.key,
      row.revision,
      row.until ?? null,
      tombstone,
      tombstone ? null : `v${row.revision}`,
    ],
  );
}

/** A mark of this moment; its age is then told by `age`. */
async function mark(world: World, age = now): Promise<void> {
  await world.sql("select etcd_keep_mark('0 seconds')");
  await world.sql(
    "update etcd_sync_mark set ts = clock_timestamp() - $1::interval where number = (select max(number) from etcd_sync_mark)",
    [age],
  );
}

/** Looks whether marks are passed, and takes away what may go. */
async function trimWal(
  world: World,
  success: string | null = now,
  lost: string | null = null,
): Promise<number> {
  await world.sql("select etcd_keep_pass()");
  let removed = 0;
  for (let next: number | null = 0; next !== null;) {
    const [step] = await world.sql("select * from etcd_keep_wal($1, $2, $3, 2)", [success, lost, next]);
    removed += step._removed;
    next = step._next;
  }
  return removed;
}

async function trimArchive(world: World): Promise<number> {
  let removed = 0;
  for (let next: number | null = 0; next !== null;) {
    const [step] = await world.sql("select * from etcd_keep_archive($1, 1)", [next]);
    removed += step._removed;
    next = step._next;
  }
  return removed;
}

/** A session in whose snapshot nothing of what comes now is. */
async function oldSnapshot(world: World): Promise<Session> {
  const session = world.session();
  await session.sql("begin isolation level repeatable read");
  await session.sql("select from etcd");
  return session;
}

Deno.test("settled rows go when they are old enough, pending ones never", strict, async () => {
  await using world = await makeWorld();
  await whole(world);
  for (const key of ["/a", "/b", "/c", "/d", "/e"]) await world.sql("select etcd_set($1, '1')", [key]);
  await mark(world);
  assert.equal(await trimWal(world), 0, "they are pending");
  await arrives(world, 20);
  await world.sql("select etcd_set('/late', '1')");
  assert.equal(await trimWal(world), 0, "no mark has their revision");
  await mark(world);
  assert.equal(await trimWal(world), 0, "what waits could have been written before the mark");
  await arrives(world, 30);
  await world.sql("select etcd_set('/waits', '1')");
  assert.equal(await trimWal(world, hour), 0, "they are young");
  assert.equal(await trimWal(world, null), 0, "never");
  assert.equal(await trimWal(world), 5);
  assert.deepEqual(await wal(world, "key, status"), [
    { key: "/late", status: "success" }, // applied after the mark
    { key: "/waits", status: "pending" },
  ]);
});

Deno.test(
  "a settled row stays while a transaction is open that has only read, before the row arrived",
  strict,
  async () => {
    await using world = await makeWorld();
    await whole(world);
    await mirrored(world, "/k", "0", 5);
    await world.sql("select etcd_set('/k', 'first')");
    const old = await oldSnapshot(world);
    await arrives(world, 20);
    await mark(world);
    assert.equal(await trimWal(world), 0, "the old snapshot can still write");

    await old.sql("select etcd_set('/k', 'second')");
    await old.sql("commit");
    assert.equal(await trimWal(world), 0, "the drain has to walk from 5 to 20");
    const [first, second] = await wal(world, "result_revision, revision, seen_revision");
    assert.deepEqual([second.revision, second.seen_revision], [5, 5]);
    assert.equal(first.result_revision, 20);

    await arrives(world, 30);
    assert.equal(await trimWal(world), 1);
  },
);

Deno.test("a settled row stays while a write of an older snapshot is not committed", strict, async () => {
  await using world = await makeWorld();
  await whole(world);
  await mirrored(world, "/k", "0", 5);
  await world.sql("select etcd_set('/k', 'first')");
  const writer = world.session();
  await writer.sql("begin");
  await writer.sql("select etcd_set('/k', 'second')"); // READ COMMITTED: from here on it has no snapshot
  await arrives(world, 20);
  await mark(world);
  assert.equal(await trimWal(world), 0);
  await writer.sql("commit");
  assert.equal(await trimWal(world), 0, "it is committed now, and not settled");
  await arrives(world, 30);
  assert.equal(await trimWal(world), 1);
});

Deno.test(
  "a session of another role, of which the drain's may see nothing, is waited for too",
  strict,
  async () => {
    await using world = await makeWorld();
    await whole(world);
    const role = `keeper_${world.database}`;
    await world.sql(`create role ${role} login password 'x'`);
    try {
      await world.sql(`grant all on all tables in schema public to ${role}`);
      await world.sql(`grant all on all sequences in schema public to ${role}`);
      await world.sql(`grant execute on all functions in schema public to ${role}`);
      await mirrored(world, "/k", "0", 5);
      await world.sql("select etcd_set('/k', 'first')");
      const old = await oldSnapshot(world);
      await arrives(world, 20);
      await mark(world);
      await using keeper = world.session(role, "x");
      await keeper.sql("select etcd_keep_pass()");
      assert.deepEqual(await world.sql("select passed from etcd_sync_mark"), [{ passed: false }]);
      await old.sql("commit");
      await keeper.sql("select etcd_keep_pass()");
      assert.deepEqual(await world.sql("select passed from etcd_sync_mark"), [{ passed: true }]);
    } finally {
      await world.sql(`drop owned by ${role}`);
      await world.sql(`drop role ${role}`);
    }
  },
);

Deno.test("conflicts and failures stay longer, and go by whole transactions", strict, async () => {
  await using world = await makeWorld();
  await whole(world);
  await world.sql(
    "select etcd_set('/a', '1'), etcd_set('/b', '1'), etcd_set('/c', '1'), etcd_set('/d', '1')",
  );
  await world.sql("select etcd_set('/ok', '1')");
  await lose(world, (await claim(world, { transactions: 1 })).slice(0, 1), "conflict");
  await arrives(world, 20);
  await mark(world);
  assert.equal(await trimWal(world, now, null), 1);
  assert.equal((await wal(world, "id")).length, 4);
  assert.equal(await trimWal(world, now, hour), 0);

  const other = world.session();
  await other.sql("begin");
  await other.sql("select etcd_retry(1)");
  const trimming = trimWal(world, now, now);
  await world.session().sql("select 1");
  await other.sql("commit");
  assert.equal(await trimming, 0, "it was retried: nothing of it may go");
  assert.deepEqual((await wal(world, "status")).map(({ status }) => status), Array(4).fill("pending"));

  await lose(world, (await claim(world)).slice(0, 1), "failed");
  await mark(world);
  await world.sql("select etcd_keep_pass()");
  const [step] = await world.sql("select * from etcd_keep_wal($1, $1, 0, 1)", [now]);
  assert.equal(step._removed, 4, "a step of one row takes its whole transaction");
  await refused(world.sql("select etcd_retry(1)"), "ZE007", /not there/);
});

Deno.test("rows of an older timeline go by their age alone", strict, async () => {
  await using world = await makeWorld();
  await whole(world);
  await world.sql("select etcd_set('/a', '1')");
  await arrives(world, 900);
  await checkpoint(world, 20, 2);
  await mark(world);
  assert.equal(await trimWal(world, hour), 0);
  assert.equal(await trimWal(world), 1);
});

Deno.test(
  "marks: one every so often, none in a scan, and only those that are needed stay",
  strict,
  async () => {
    await using world = await makeWorld();
    await whole(world);
    const revisions = async () =>
      (await world.sql("select revision from etcd_sync_mark order by number")).map(({ revision }) =>
        revision
      );
    await world.sql("select etcd_keep_mark('1 hour')");
    await world.sql("select etcd_keep_mark('1 hour')");
    assert.deepEqual(await revisions(), [10]);
    await world.sql("update etcd_sync_mark set ts = ts + interval '1 day'"); // the clock was put back
    await checkpoint(world, 20);
    await world.sql("select etcd_keep_mark('1 hour')");
    assert.deepEqual(await revisions(), [10, 20]);
    await world.sql("update etcd_sync_state set state = 'compaction-resync', revision = 30");
    await world.sql("select etcd_keep_mark('0 seconds')");
    assert.deepEqual(await revisions(), [10, 20], "a scan's revision is no point of the mirror");
    await checkpoint(world, 40);
    await mark(world);
    await world.sql(
      "update etcd_sync_mark set ts = clock_timestamp() - (100 - number) * interval '1 minute'",
    );
    await world.sql("select etcd_keep_forget_marks('98 minutes 30 seconds')");
    assert.deepEqual(await revisions(), [10, 20, 40], "none is passed");
    await world.sql("select etcd_keep_pass()");
    await world.sql("select etcd_keep_forget_marks('97 minutes 30 seconds')");
    assert.deepEqual(await revisions(), [20, 40], "20 is the newest that is old enough");
    await world.sql("select etcd_keep_forget_marks(null)");
    assert.deepEqual(await revisions(), [40]);
  },
);

/**
 * /a: 11 "v11", 20 "v20", 30 deleted   /b: 12 "v12", 40 (now)   mark at 25   checkpoint 50
 */
async function sample(world: World): Promise<void> {
  await whole(world);
  await archived(world, { key: "/a", revision: 11, until: 20 });
  await archived(world, { key: "/a", revision: 20, until: 30 });
  await archived(world, { key: "/a", revision: 30 }, true);
  await archived(world, { key: "/b", revision: 12, until: 40 });
  await archived(world, { key: "/c", revision: 13, until: 15 });
  await archived(world, { key: "/c", revision: 15 }, true);
  await mirrored(world, "/b", "now", 40);
  await checkpoint(world, 25);
  await mark(world, hour);
  await checkpoint(world, 50);
}

const at = async (session: Pick<Session, "sql">, revision: number, timeline: number | null = null) =>
  (await session.sql("select key, revision from etcd_at($1, $2) order by key", [revision, timeline]))
    .map((row) => `${row.key}@${row.revision}`);

Deno.test(
  "history goes from before the mark; what was alive there stays, and what is gone raises",
  strict,
  async () => {
    await using world = await makeWorld();
    await sample(world);
    await world.sql("select etcd_keep_move_history('2 hours')");
    assert.equal(await trimArchive(world), 0, "the mark is too young");
    assert.deepEqual(await at(world, 12), ["/a@11", "/b@12"]);

    const old = world.session();
    await old.sql("begin isolation level repeatable read");
    assert.deepEqual(await at(old, 12), ["/a@11", "/b@12"]);
    await world.sql("select etcd_keep_move_history('30 minutes')");
    await refused(at(world, 24), "ZE011", /known are 25 to 50/); // before a row is removed
    await refused(world.sql("select * from etcd_get('/a', 24)"), "ZE011", /known are 25 to 50/);
    assert.equal(await trimArchive(world), 3);
    assert.deepEqual(await at(old, 12), ["/a@11", "/b@12"], "an older snapshot has it all");
    await old.sql("commit");
    for (const revision of [24, 1]) await refused(at(world, revision), "ZE011", /known are 25 to 50/);
    assert.deepEqual(await at(world, 25), ["/a@20", "/b@12"]);
    assert.deepEqual(await at(world, 30), ["/b@12"]);
    assert.deepEqual(await at(world, 40), ["/b@40"]);
    assert.equal((await world.state())!.history_from, 25);
    assert.equal(await trimArchive(world), 0);
  },
);

Deno.test("a removed tombstone leaves its floor: a writer has seen what was before it", strict, async () => {
  await using world = await makeWorld();
  await whole(world);
  await world.sql("select etcd_set('/k', '1')");
  await arrives(world, 20); // stays in the WAL
  await world.sql("delete from etcd_kv");
  await archived(world, { key: "/k", revision: 20, until: 30 });
  await archived(world, { key: "/k", revision: 30 }, true); // somebody in etcd
  await setGate(world, "deleted = true");
  await checkpoint(world, 35);
  await mark(world, hour);
  await world.sql("select etcd_keep_move_history('30 minutes')");
  assert.equal(await trimArchive(world), 2);
  await world.sql("select etcd_set('/k', '2')"); // the slow path, for `deleted`
  await setGate(world, "deleted = false");
  await world.sql("select etcd_set('/k', '3')");
  const [, ...rows] = await wal(world, "revision, seen_revision");
  for (const row of rows) {
    assert.equal(row.revision, 0);
    assert.ok(
      row.seen_revision >= 30,
      `seen_revision ${row.seen_revision}: the drain would follow the put at 20`,
    );
  }
});

Deno.test("a floor of one timeline does not come into the next", strict, async () => {
  await using world = await makeWorld();
  await sample(world);
  await checkpoint(world, 5, 2);
  await setGate(world, "seen_revision = 0");
  await world.sql("select etcd_keep_move_history('30 minutes')");
  assert.deepEqual(await world.sql("select seen_revision from etcd_sync_gate"), [{ seen_revision: 0 }]);
});

Deno.test("older timelines go as a whole once the mark is in a newer one", strict, async () => {
  await using world = await makeWorld();
  await sample(world);
  await event(world, "scan-started", 50);
  await world.sql("update etcd_sync_state set history_from = null");
  await checkpoint(world, 5, 2);
  await event(world, "caught-up", 5, 2);
  await world.sql("select etcd_keep_move_history('30 minutes')"); // to 25 of timeline 1
  assert.equal(await trimArchive(world), 3);
  await refused(at(world, 24, 1), "ZE011", /known are 25 to 50/);
  assert.deepEqual(await at(world, 30, 1), ["/b@12"]);
  assert.equal((await world.state())!.history_from, 5, "timeline 2 begins where it began");

  await mark(world, hour);
  await world.sql("select etcd_keep_move_history('30 minutes')");
  await refused(at(world, 30, 1), "ZE011", /known are none/);
  assert.equal(await trimArchive(world), 3);
  assert.deepEqual(await world.sql("select from etcd_archive"), []);
});

Deno.test("events go, but for the ends of gaps in the history that is left", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  await checkpoint(world, 10);
  await event(world, "caught-up", 10, 1, "5 hours");
  await event(world, "scan-started", 12, 1, "5 hours");
  await event(world, "caught-up", 20, 1, "5 hours");
  await event(world, "scan-started", 30, 1, "4 hours");
  await event(world, "caught-up", 40, 1, "4 hours");
  for (let i = 0; i < 5; i++) await event(world, "leader", null, 1, "3 hours");
  await event(world, "leader", 99);
  await checkpoint(world, 25);
  await mark(world, hour);
  await checkpoint(world, 50);
  const trim = async () => {
    await world.sql("select etcd_keep_gaps('2 hours')");
    for (let next: number | null = 0; next !== null;) {
      next = (await world.sql("select * from etcd_keep_events('2 hours', $1, 3)", [next]))[0]._next;
    }
    return (await world.sql("select kind, revision from etcd_sync_event order by id")).map((e) =>
      `${e.kind} ${e.revision}`
    );
  };
  assert.deepEqual(await trim(), [
    "caught-up 10",
    "scan-started 12",
    "caught-up 20",
    "scan-started 30",
    "caught-up 40",
    "leader 99",
  ]);
  await refused(at(world, 15), "ZE011", /between 12 and 20 was not seen/);
  await world.sql("select etcd_keep_move_history('30 minutes')");
  assert.deepEqual(await trim(), ["scan-started 30", "caught-up 40", "leader 99"]);
  await refused(at(world, 15), "ZE011", /known are 25 to 50/);
  await refused(at(world, 35), "ZE011", /between 30 and 40 was not seen/);
  assert.deepEqual(await at(world, 45), []);
});

Deno.test("the archive is walked in steps, each of a few blocks", strict, async () => {
  await using world = await makeWorld();
  await whole(world);
  await world.sql(
    `insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
     select 1, '/' || i, i, i + 1, false, repeat('x', 100), i, 1, 0 from generate_series(1, 2000) i`,
  );
  await checkpoint(world, 1_001);
  await mark(world, hour);
  await world.sql("select etcd_keep_move_history('30 minutes')");
  const [first] = await world.sql("select * from etcd_keep_archive(0, 1)");
  assert.ok(first._removed > 0 && first._removed < 100, `${first._removed} rows in one block`);
  assert.equal(first._removed + await trimArchive(world), 1_000);
  const plan = (await world.sql(
    "explain delete from etcd_archive a where a.ctid >= '(0,0)'::tid and a.ctid < '(1,0)'::tid",
  )).map((row) => row["QUERY PLAN"]).join("\n");
  assert.match(plan, /Tid Range Scan/);
});
