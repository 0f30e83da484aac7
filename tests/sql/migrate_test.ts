import assert from "node:assert/strict";
import { ensureStream } from "../../lib/postgres/state.ts";
import { migrate } from "../../lib/postgres/migrate.ts";
import { installed, programSession, refused, strict } from "../support/schema.ts";
import { makeWorld, type World } from "../support/world.ts";

const folder = new URL("../../sql/", import.meta.url);
const newest = [...Deno.readDirSync(folder)].filter(({ name }) => /^\d{3}_.*\.sql$/.test(name)).length;

async function migrateAlone(world: World, schema: string): Promise<number> {
  await using session = await programSession(world, schema);
  return (await migrate(session, schema)).applied;
}

Deno.test(
  "migrate() by twenty installers at once: one installs, the others find it installed",
  strict,
  async () => {
    await using world = await makeWorld();
    for (const schema of ["public", "fresh"]) {
      const applied = await Promise.all(Array.from({ length: 20 }, () => migrateAlone(world, schema)));
      assert.deepEqual(applied.sort(), [...Array(19).fill(0), newest]);
    }
  },
);

Deno.test("migrate() again changes nothing", strict, async () => {
  await using world = await makeWorld();
  assert.equal(await migrateAlone(world, "public"), newest);
  const objects =
    "select oid, xmin::text from pg_class union all select oid, xmin::text from pg_proc order by oid";
  const before = await world.sql(objects);
  assert.equal(await migrateAlone(world, "public"), 0);
  assert.deepEqual(await world.sql(objects), before);
});

Deno.test("migrate() refuses a schema that is newer than the program", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  await world.sql("insert into etcd_sync_migration (number) values ($1)", [newest + 1]);
  await assert.rejects(migrateAlone(world, "public"), {
    kind: "configuration",
    message: `Cannot use schema 'public': its version is ${
      newest + 1
    }, this program knows versions up to ${newest}`,
  });
});

Deno.test("migrate() refuses a database that is not UTF8", strict, async () => {
  await using world = await makeWorld({ encoding: "LATIN1" });
  await assert.rejects(migrateAlone(world, "public"), {
    kind: "configuration",
    message: "Cannot use this database: its encoding must be 'UTF8', it is 'LATIN1'",
  });
  assert.deepEqual(await world.sql("select 1 from pg_class where relname like 'etcd%'"), []);
});

Deno.test("migrate() that fails leaves nothing behind", strict, async () => {
  await using world = await makeWorld();
  await world.sql("create table etcd_wal (somebody_elses boolean)");
  await assert.rejects(migrateAlone(world, "public"), /relation "etcd_wal" already exists/);
  const names = await world.sql("select relname from pg_class where relname like 'etcd%'");
  assert.deepEqual(names, [{ relname: "etcd_wal" }]);
});

for (const schema of ['My "odd" schema', "select", "UPPER", "ключи", "a.b", "it's", "with \\ backslash"]) {
  Deno.test(`a schema named ${schema} works, without it in the caller's search_path`, strict, async () => {
    await using world = await makeWorld({ schema });
    await installed(world);
    const name = `"${schema.replaceAll('"', '""')}"`;
    assert.deepEqual(
      await world.sql(
        "select 1 from pg_class where relname like 'etcd%' and relnamespace = 'public'::regnamespace",
      ),
      [],
    );
    await world.sql(
      `insert into ${name}.etcd_kv (key, value, revision, create_revision, version, lease, timeline)
      values ('/there', '1', 10, 10, 1, 0, 1)`,
    );
    await world.sql(`update ${name}.etcd set value = '2' where key = '/there'`);
    await world.sql(`insert into ${name}.etcd (key, value) values ('/new', '1')`);
    await world.sql(`insert into ${name}.etcd_wal (key, value) values ('/plain', '1')`);
    await world.sql(`begin; select ${name}.etcd_set('/two', '1'), ${name}.etcd_delete('/three'); commit`);
    const claimed = await world.sql(
      `select key, revision from ${name}.etcd_wal w join ${name}.etcd_wal_tx t using (txid) order by t.seq, w.id`,
    );
    assert.deepEqual(claimed.map(({ key, revision }) => [key, revision]), [
      ["/there", 10],
      ["/new", 0],
      ["/plain", 0],
      ["/two", 0],
      ["/three", 0],
    ]);
    assert.equal((await world.sql(`select * from ${name}.etcd_get('/there')`)).length, 1);
    await refused(world.sql(`truncate ${name}.etcd_kv`), "ZE012");
  });
}

Deno.test("two schemas of one database are two streams", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { schema: "one", prefix: "/one/" });
  await installed(world, { schema: "two", prefix: "/two/" });
  await world.sql("select one.etcd_set('/one/a', '1'), two.etcd_set('/two/a', '1')");
  await refused(
    world.sql("select one.etcd_set('/two/a', '1')"),
    "ZE001",
    /this stream's keys begin with '\/one\/'/,
  );
  const [counts] = await world.sql(
    "select (select count(*) from one.etcd_wal) as one, (select count(*) from two.etcd_wal) as two",
  );
  assert.deepEqual(counts, { one: 1, two: 1 });
});

Deno.test("ensureStream() refuses another stream, and another prefix", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: "/a/" });
  await installed(world, { prefix: "/a/" });
  await assert.rejects(installed(world, { prefix: "/b/" }), {
    message:
      "Cannot start stream 'default' on prefix '/b/': it mirrors prefix '/a/'; give that prefix, or another --stream and --schema",
  });
  await using session = await programSession(world);
  const other = {
    stream: "other",
    prefix: new TextEncoder().encode("/a/"),
    prefixText: "/a/",
    plainPrefix: "/a/",
  };
  await assert.rejects(
    ensureStream(session, other),
    /^Fatal: Cannot start stream 'other': the schema holds stream 'default'/,
  );
  assert.equal((await world.sql("select 1 from etcd_sync_state")).length, 1);
});
