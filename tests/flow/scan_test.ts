import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { quiet, readEvents, readMarkers, takeSnapshot } from "../support/history.ts";
import {
  crashed,
  events,
  heldScan,
  killed,
  streaming,
  strict,
  untilBlocked,
  untilStreaming,
} from "../support/run.ts";
import { manyPuts, nastyPairs } from "../support/samples.ts";
import { makeWorld, type World } from "../support/world.ts";

/** The mirror has what etcd has, at its checkpoint. */
async function assertMirrored(world: World, prefix: string | Uint8Array = world.prefix): Promise<void> {
  await quiet(world);
  const found = (await takeSnapshot(world)).rows;
  const wanted = (await world.etcd.range(prefix)).filter(({ key }) =>
    !String(key).startsWith("/_etcd-pg-sync/")
  );
  const rows = new Map(found.map((row) => [row.key, row]));
  for (const kv of wanted) {
    const name = kv.key.toString("latin1");
    const row = rows.get(name);
    assert.ok(row, `'${name}' is missing`);
    assert.deepEqual(
      [row.revision, row.create_revision, row.version, row.lease],
      [kv.mod_revision, kv.create_revision, kv.version, kv.lease],
      name,
    );
    assert.ok(kv.value.equals(row.value_bytes ?? Buffer.from(row.value!)), `the value of '${name}' differs`);
  }
  assert.equal(found.length, wanted.length);
}

Deno.test(
  "bootstrap mirrors thousands of keys, nasty ones among them, over several pages, from folders far apart",
  strict,
  async () => {
    await using world = await makeWorld();
    for (const folder of ["", `${"a".repeat(60)}/`, "應用/"]) {
      for (const ops of manyPuts(world.prefix + folder, 6_000)) await world.etcd.txn(ops);
    }
    for (const { key, value } of nastyPairs(world.prefix)) await world.etcd.put(key, value);
    await streaming(world);
    await assertMirrored(world);
    const [{ detail }] = await events(world, "caught-up");
    assert.ok(detail.pages > 1, `${detail.pages} pages`);
    assert.deepEqual(
      await world.sql("select * from etcd_archive"),
      [],
      "a version enters the archive when it is superseded",
    );
  },
);

for (
  const [name, prefix, path] of [
    ["of one slash", "/", "/"],
    ["that is empty", "", ""],
    ["that ends in 0xff", Buffer.from("2f61ff", "hex"), "/a%ff"],
    ["that ends in 0xff 0xff", Buffer.from("2fffff", "hex"), "/%ff%ff"],
  ] as const
) {
  Deno.test(`a prefix ${name} mirrors all below it, and nothing beside it`, strict, async () => {
    await using world = await makeWorld({ prefix: "" });
    const beside = ["/a\xfe", "/b", "0", "\x00", "\xff\xff"].map((key) => Buffer.from(key, "latin1"));
    for (const key of beside) await world.etcd.put(key, "beside");
    for (const { key, value } of nastyPairs(prefix).filter(({ value }) => value.length < 1_000)) {
      await world.etcd.put(key, value);
    }
    await streaming(world, ["--etcd-dsn", world.etcdDsn + path]);
    await assertMirrored(world, prefix);
    const late = Buffer.concat([Buffer.from(prefix as string), Buffer.from("late\xff", "latin1")]);
    await world.etcd.txn([{ put: late, value: "1" }, { put: Buffer.from("/aa"), value: "2" }]);
    await assertMirrored(world, prefix);
    const [{ own }] = await world.sql("select count(*) as own from etcd where key like '/\\_etcd%'");
    assert.equal(own, 0);
  });
}

Deno.test("a key too long for an index is skipped with one event, the rest is mirrored", strict, async () => {
  await using world = await makeWorld();
  const long = world.key("k".repeat(3_000));
  await world.etcd.put(long, "1");
  await world.etcd.put(world.key("short"), "1");
  await streaming(world);
  await quiet(world);
  const skipped = await events(world, "key-skipped");
  assert.deepEqual(skipped.map(({ detail }) => detail.key_bytes), [long.length]);
  // and in the stream
  await world.etcd.txn([{ put: world.key("l".repeat(3_000)), value: "1" }, {
    put: world.key("short"),
    value: "2",
  }]);
  await world.etcd.delete(long);
  await quiet(world);
  assert.deepEqual(await world.sql("select key, value from etcd"), [{ key: world.key("short"), value: "2" }]);
  assert.equal((await events(world, "key-skipped")).length, 2);
});

Deno.test("killed between two pages: the scan goes on from its cursor", strict, async () => {
  await using world = await makeWorld();
  for (const ops of manyPuts(world.prefix, 10_300)) await world.etcd.txn(ops);
  const { program, nextStep, release } = await heldScan(world);
  await nextStep();
  await untilBlocked(world, program, /etcd_kv/);
  assert.ok((await world.state())!.scan_cursor, "the first page is committed");
  await crashed(world, program);
  await release();
  // what happens while it is down, on both sides of the cursor
  await world.etcd.delete(world.key("many/000001"));
  await world.etcd.put(world.key("many/000002"), "changed");
  await world.etcd.delete(world.key("many/010299"));
  await streaming(world);
  await assertMirrored(world);
  const [{ detail }] = await events(world, "caught-up");
  assert.ok(detail.keys < 1_000, `it read ${detail.keys} keys again`);
});

Deno.test(
  "killed in the scan, and compacted past its watch: the scan starts again, and ends",
  strict,
  async () => {
    await using world = await makeWorld();
    for (const ops of manyPuts(world.prefix, 10_300)) await world.etcd.txn(ops);
    const { program, nextStep, release } = await heldScan(world);
    await nextStep();
    await untilBlocked(world, program, /etcd_kv/);
    await killed(program);
    await release();
    await world.etcd.delete(world.key("many/000001"));
    await world.etcd.compact(await world.etcd.put(world.key("many/000002"), "changed"));
    await streaming(world);
    await assertMirrored(world);
  },
);

/** Rows are compared here where all keys of a page are plain, and in PostgreSQL where they are not. */
for (const [names, isNasty] of [["plain keys", false], ["nasty keys among them", true]] as const) {
  Deno.test(
    `down while etcd deletes, changes and compacts, ${names}: only differences are written`,
    strict,
    async () => {
      await using world = await makeWorld();
      for (const ops of manyPuts(world.prefix, 200)) await world.etcd.txn(ops);
      await world.etcd.put(world.key("binary"), Buffer.of(0xff, 0));
      const nastyKeys = isNasty ? nastyPairs(world.prefix).filter(({ value }) => value.length < 1_000) : [];
      for (const { key, value } of nastyKeys) await world.etcd.put(key, value);
      const program = await streaming(world);
      await quiet(world);
      await crashed(world, program);
      const before = (await world.state())!; // the marker, once taken over, has moved the checkpoint too
      const physical = "select key, ctid::text, xmin::text, ts from etcd_kv order by key";
      const rows = await world.sql(physical);

      const touched = [
        world.key("many/000005"),
        world.key("many/000006"),
        world.key("many/000007"),
        world.key("new"),
      ];
      await world.etcd.put(touched[0], "changed");
      await world.etcd.delete(touched[1]);
      await world.etcd.delete(touched[2]);
      await world.etcd.put(touched[2], "made anew");
      await world.etcd.put(touched[3], "1");
      const nasty = Buffer.concat([Buffer.from(world.prefix), Buffer.of(0xff)]);
      if (isNasty) await world.etcd.delete(nasty);
      const now = await world.etcd.put(world.key("many/000009"), "last");
      await world.etcd.compact(now);
      const [{ arrives }] = await world.sql("select etcd_set($1, 'from sql') as arrives", [
        world.key("many/000010"),
      ]);
      const [{ loses }] = await world.sql("select etcd_set($1, 'from sql') as loses", [touched[0]]);

      await streaming(world);
      await assertMirrored(world);
      const settled = await world.sql("select id, status from etcd_wal order by id");
      assert.deepEqual(settled, [{ id: arrives, status: "success" }, { id: loses, status: "conflict" }]);

      const written = new Set([...touched, world.key("many/000009"), world.key("many/000010")]);
      const untouched = (list: typeof rows) =>
        list.filter(({ key }) => !written.has(key) && key !== `${world.prefix}\\xff`);
      assert.deepEqual(
        untouched(await world.sql(physical)),
        untouched(rows),
        "rows that did not change were written",
      );
      const tombstones = await world.sql(
        "select key, revision from etcd_archive where tombstone order by key",
      );
      const gone = isNasty ? [touched[1], `${world.prefix}\\xff`].sort() : [touched[1]];
      assert.deepEqual(tombstones.map(({ key }) => key), gone, "what is gone becomes tombstones");

      // what happened in the gap is not known, and said so
      const gap = (await events(world, "scan-started"))[0];
      const upper = (await events(world, "caught-up"))[1];
      assert.deepEqual([gap.revision, gap.detail.outcome], [before.revision, "history-lost"]);
      const at = (revision: number) => world.sql("select count(*) as count from etcd_at($1)", [revision]);
      assert.equal((await at(before.revision))[0].count, rows.length);
      await assert.rejects(at(before.revision + 1), /what happened between \d+ and \d+ was not seen/);
      assert.equal(
        (await at(upper.revision))[0].count,
        (await world.etcd.range(world.prefix, upper.revision)).length,
      );
    },
  );
}

Deno.test(
  "frozen across a compaction past its checkpoint: it wakes up, resyncs and streams",
  strict,
  async () => {
    await using world = await makeWorld();
    await world.etcd.put(world.key("stays"), "1");
    await world.etcd.put(world.key("goes"), "1");
    const program = await streaming(world);
    await quiet(world);
    program.kill("SIGSTOP");
    await world.etcd.delete(world.key("goes"));
    for (let i = 0; i < 20; i++) await world.etcd.put(world.key("changes"), String(i));
    await world.etcd.compact(await world.etcd.revision());
    program.kill("SIGCONT");
    await assertMirrored(world);
  },
);

Deno.test("far behind: from --rescan-after on a scan is the way back", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await killed(await streaming(world));
  for (let i = 0; i < 30; i++) await world.etcd.put(world.key("a"), String(i));
  await killed(await streaming(world, ["--rescan-after", "1000"]));
  assert.deepEqual(await events(world, "scan-started"), []);
  for (let i = 0; i < 30; i++) await world.etcd.put(world.key("a"), String(i));
  await streaming(world, ["--rescan-after", "20"]);
  await assertMirrored(world);
  assert.deepEqual((await events(world, "scan-started")).map(({ detail }) => detail.outcome), ["far-behind"]);
});

Deno.test("what changes while the scan runs is in the mirror when it has caught up", strict, async () => {
  await using world = await makeWorld();
  for (const ops of manyPuts(world.prefix, 10_300)) await world.etcd.txn(ops);
  const from = (await world.etcd.revision()) + 1;
  let stop = false;
  const churn = (async () => {
    for (let i = 0; !stop; i++) {
      const key = world.key(`many/${String((i * 7919) % 10_300).padStart(6, "0")}`);
      await (i % 3 ? world.etcd.put(key, `churn ${i}`) : world.etcd.delete(key));
    }
  })();
  try {
    await untilStreaming(world, world.program());
  } finally {
    stop = true;
    await churn;
  }
  await assertMirrored(world);
  assert.equal((await world.state())?.timeline, 1, "no history was replaced");
  assert.ok((await readEvents(world, from)).length > 0);
  assert.equal((await readMarkers(world, from)).length, 1);
});
