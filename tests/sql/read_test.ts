import assert from "node:assert/strict";
import { installed, mirrored, refused, setGate, strict } from "../support/schema.ts";
import { makeWorld, type World } from "../support/world.ts";

/** What the archive holds of a key: revision, value (null = a tombstone), until. */
async function archived(
  world: World,
  key: string,
  versions: [number, string | null, number | null][],
  timeline = 1,
): Promise<void> {
  for (const [revision, value, until] of versions) {
    await world.sql(
      `insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
       values ($1, $2, $3, $4, $5, $6, $3, 1, 0)`,
      [timeline, key, revision, until, value === null, value],
    );
  }
}

async function event(world: World, kind: string, revision: number, timeline = 1): Promise<void> {
  await world.sql("insert into etcd_sync_event (kind, timeline, revision) values ($1, $2, $3)", [
    kind,
    timeline,
    revision,
  ]);
}

async function checkpoint(world: World, state: string, revision: number, timeline = 1): Promise<void> {
  await world.sql("update etcd_sync_state set state = $1, revision = $2, timeline = $3", [
    state,
    revision,
    timeline,
  ]);
  await setGate(world, `timeline = ${timeline}`);
}

/**
 * /a: 10 "1", 20 "2", 30 deleted, 40 "4" (now)    /b: 15 "b" (now)    /c: 25 "c", 35 deleted
 * known from 10, checkpoint 50
 */
async function makeHistory(): Promise<World> {
  const world = await makeWorld();
  await installed(world);
  await archived(world, "/a", [[10, "1", 20], [20, "2", 30], [30, null, null]]);
  await archived(world, "/c", [[25, "c", 35], [35, null, null]]);
  await mirrored(world, "/a", "4", 40);
  await mirrored(world, "/b", "b", 15);
  await event(world, "caught-up", 10);
  await checkpoint(world, "streaming", 50);
  return world;
}

/** The mirror at a revision, as an object. */
async function at(world: World, revision: number, timeline?: number): Promise<Record<string, string>> {
  const rows = await world.sql("select key, value from etcd_at($1, $2)", [revision, timeline ?? null]);
  return Object.fromEntries(rows.map(({ key, value }) => [key, value]));
}

function unknown(world: World, revision: number, message: RegExp, timeline?: number): Promise<void> {
  return refused(at(world, revision, timeline), "ZE011", message);
}

Deno.test("etcd_get() returns the row now, and none of a key that is not there", strict, async () => {
  await using world = await makeHistory();
  const [row] = await world.sql("select * from etcd_get('/a')");
  assert.deepEqual(row, (await world.sql("select * from etcd where key = '/a'"))[0]);
  for (const key of ["/c", "/", "/aa", ""]) {
    assert.deepEqual(await world.sql("select * from etcd_get($1)", [key]), []);
  }
});

Deno.test("etcd_get() at a revision returns what the key had then", strict, async () => {
  await using world = await makeHistory();
  const expected: [revision: number, value: string | undefined][] = [
    [10, "1"],
    [19, "1"],
    [20, "2"],
    [29, "2"],
    [30, undefined],
    [39, undefined],
    [40, "4"],
    [50, "4"],
  ];
  for (const [revision, value] of expected) {
    const rows = await world.sql("select value, revision from etcd_get('/a', $1)", [revision]);
    assert.deepEqual(rows.map((row) => row.value), value === undefined ? [] : [value], `at ${revision}`);
  }
});

Deno.test("etcd_at() returns the whole mirror at a revision", strict, async () => {
  await using world = await makeHistory();
  assert.deepEqual(await at(world, 10), { "/a": "1" });
  assert.deepEqual(await at(world, 15), { "/a": "1", "/b": "b" });
  assert.deepEqual(await at(world, 29), { "/a": "2", "/b": "b", "/c": "c" });
  assert.deepEqual(await at(world, 34), { "/b": "b", "/c": "c" });
  assert.deepEqual(await at(world, 35), { "/b": "b" });
  assert.deepEqual(await at(world, 50), { "/a": "4", "/b": "b" });
  const [row] = await world.sql("select * from etcd_at(50) where key = '/a'");
  assert.deepEqual(row, (await world.sql("select * from etcd where key = '/a'"))[0]);
});

Deno.test("a revision beyond the checkpoint, or before what is known, raises", strict, async () => {
  await using world = await makeHistory();
  await unknown(world, 51, /^Cannot read revision 51 of timeline 1: known are 10 to 50$/);
  await unknown(world, 9, /^Cannot read revision 9 of timeline 1: known are 10 to 50$/);
  await refused(world.sql("select * from etcd_get('/a', 51)"), "ZE011");
  await world.sql("update etcd_sync_state set history_from = 30");
  await unknown(world, 29, /known are 30 to 50$/);
  assert.deepEqual(await at(world, 30), { "/b": "b", "/c": "c" });
  await refused(world.sql("select * from etcd_get('/a', 29)"), "ZE011");
});

Deno.test("before the first scan has caught up nothing is known", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  await unknown(world, 0, /^Cannot read revision 0 of timeline 1: known are none to none$/);
  await checkpoint(world, "bootstrap", 50);
  await unknown(world, 50, /known are none to none$/);
});

Deno.test("a gap is the open span of a scan: its ends are known", strict, async () => {
  await using world = await makeHistory();
  await event(world, "scan-started", 20);
  await event(world, "caught-up", 30);
  for (const revision of [21, 25, 29]) {
    await unknown(
      world,
      revision,
      /^Cannot read revision \d+ of timeline 1: what happened between 20 and 30 was not seen$/,
    );
    await refused(world.sql("select * from etcd_get('/a', $1)", [revision]), "ZE011");
  }
  assert.deepEqual(await at(world, 20), { "/a": "2", "/b": "b" });
  assert.deepEqual(await at(world, 30), { "/b": "b", "/c": "c" });
});

Deno.test("of two gaps each raises, and between them all is known", strict, async () => {
  await using world = await makeHistory();
  await event(world, "scan-started", 15);
  await event(world, "caught-up", 20);
  await event(world, "scan-started", 30);
  await event(world, "caught-up", 40);
  for (const revision of [10, 15, 20, 29, 30, 40, 50]) await at(world, revision);
  for (const revision of [16, 19]) await unknown(world, revision, /between 15 and 20 was not seen$/);
  for (const revision of [31, 39]) await unknown(world, revision, /between 30 and 40 was not seen$/);
});

Deno.test("a scan that caught up where it began leaves no gap", strict, async () => {
  await using world = await makeHistory();
  await event(world, "scan-started", 25);
  await event(world, "caught-up", 25);
  for (const revision of [24, 25, 26]) await at(world, revision);
});

Deno.test("while a scan runs, what was known before it is known, and nothing newer", strict, async () => {
  await using world = await makeHistory();
  await event(world, "scan-started", 30);
  await checkpoint(world, "compaction-resync", 50);
  assert.deepEqual(await at(world, 30), { "/b": "b", "/c": "c" });
  await unknown(world, 31, /known are 10 to 30$/);
  await unknown(world, 50, /known are 10 to 30$/);
});

Deno.test("an older timeline can be read to where it ended", strict, async () => {
  await using world = await makeHistory();
  await event(world, "scan-started", 50);
  // the new history has /b as it was, and a /n; the scan archives what it replaces
  await world.sql(
    `with gone as (delete from etcd_kv returning *)
     insert into etcd_archive (timeline, key, revision, tombstone, value, create_revision, version, lease)
     select timeline, key, revision, false, value, create_revision, version, lease from gone`,
  );
  await mirrored(world, "/b", "b", 15, { timeline: 2 });
  await mirrored(world, "/n", "n", 21, { timeline: 2 });
  await event(world, "caught-up", 22, 2);
  await checkpoint(world, "streaming", 23, 2);
  assert.deepEqual(await at(world, 50, 1), { "/a": "4", "/b": "b" });
  assert.deepEqual(await at(world, 29, 1), { "/a": "2", "/b": "b", "/c": "c" });
  assert.deepEqual(await at(world, 23), { "/b": "b", "/n": "n" });
  await unknown(world, 51, /^Cannot read revision 51 of timeline 1: known are 10 to 50$/, 1);
  await unknown(world, 21, /^Cannot read revision 21 of timeline 2: known are 22 to 23$/);
  await unknown(world, 1, /^Cannot read revision 1 of timeline 3: known are none to none$/, 3);
});

Deno.test("etcd_list() returns the keys that begin with the prefix, in order", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const keys = [
    "/a",
    "/a/",
    "/a/1",
    "/a/10",
    "/a/2",
    "/a/\\x00",
    "/a/é",
    "/a/\u{10ffff}z",
    "/a0",
    "/a_",
    "/b/1",
    "/%",
  ];
  for (const key of keys) await mirrored(world, key, "");
  const list = async (prefix: string) =>
    (await world.sql("select key from etcd_list($1)", [prefix])).map(({ key }) => key);
  assert.deepEqual(await list("/a/"), ["/a/", "/a/1", "/a/10", "/a/2", "/a/\\x00", "/a/é", "/a/\u{10ffff}z"]);
  assert.deepEqual(await list("/a/1"), ["/a/1", "/a/10"]);
  assert.deepEqual(await list("/a_"), ["/a_"]);
  assert.deepEqual(await list("/%"), ["/%"]);
  assert.deepEqual(await list("/none"), []);
  assert.equal((await list("")).length, keys.length);
});

Deno.test("etcd_list() finds the longest key of all", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const longest = "\u{10ffff}".repeat(625);
  await mirrored(world, longest, "");
  for (const prefix of ["", "\u{10ffff}", longest]) {
    assert.equal((await world.sql("select 1 from etcd_list($1)", [prefix])).length, 1);
  }
});

Deno.test(
  "etcd_list(), etcd_get() and etcd_get_all() read what they return, not the table",
  strict,
  async () => {
    await using world = await makeWorld();
    await installed(world);
    await world.sql(
      `insert into etcd_kv (key, value, revision, create_revision, version, lease, timeline)
     select '/p/' || lpad(n::text, 6, '0'), repeat('x', 500), n, n, 1, 0, 1 from generate_series(1, 50000) n`,
    );
    await world.sql(
      `insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
     select 1, key, 0, revision, false, '', 0, 1, 0 from etcd_kv`,
    );
    await world.sql("analyze etcd_kv, etcd_archive");
    for (const call of ["etcd_list('/p/0123')", "etcd_get('/p/012345')", "etcd_get_all('/p/012345')"]) {
      const plan = await world.sql(`explain (analyze, buffers, format json) select * from ${call}`);
      const { "Shared Hit Blocks": hit, "Shared Read Blocks": read } = plan[0]["QUERY PLAN"][0].Plan;
      assert.equal(hit + read < 300, true, `${call} touched ${hit + read} pages`);
    }
  },
);

Deno.test("etcd_get_all() returns what was seen of a key, oldest first, over timelines", strict, async () => {
  await using world = await makeHistory();
  await archived(world, "/a", [[5, "other", null]], 2);
  await setGate(world, "timeline = 2");
  const all = async (...args: unknown[]) =>
    (await world.sql(
      `select timeline, revision, value, tombstone, until_revision from etcd_get_all(${
        args.map((_, i) => `$${i + 1}`)
      })`,
      args,
    ))
      .map(Object.values);
  assert.deepEqual(await all("/a"), [
    [1, 10, "1", false, 20],
    [1, 20, "2", false, 30],
    [1, 30, null, true, null],
    [1, 40, "4", false, null],
    [2, 5, "other", false, null],
  ]);
  assert.deepEqual((await all("/a", 30)).map(([, revision]) => revision), [30, 40]);
  assert.deepEqual(await all("/none"), []);
});

Deno.test("etcd_history shows every event once, and what is too", strict, async () => {
  await using world = await makeHistory();
  const rows = await world.sql("select key, revision, tombstone from etcd_history order by revision");
  assert.deepEqual(rows.map(Object.values), [
    ["/a", 10, false],
    ["/b", 15, false],
    ["/a", 20, false],
    ["/c", 25, false],
    ["/a", 30, true],
    ["/c", 35, true],
    ["/a", 40, false],
  ]);
});
