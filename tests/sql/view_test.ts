import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { installed, mirrored, refused, strict, transaction, wal } from "../support/schema.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

async function makeMirror(): Promise<World> {
  const world = await makeWorld();
  await installed(world);
  await mirrored(world, "/a", "one", 10, { lease: 77 });
  await mirrored(world, "/bytes", Uint8Array.of(0, 255), 11);
  return world;
}

const row = "key, value, value_bytes, tombstone, keep_lease, revision, seen_revision, strict, status";
const put = { value_bytes: null, tombstone: false, keep_lease: false, strict: false, status: "pending" };
const tombstone = { ...put, value: null, tombstone: true };

Deno.test("the view has the columns that users were promised", strict, async () => {
  await using world = await makeMirror();
  const columns = await world.sql(
    `select attname as name, format_type(atttypid, atttypmod) as type from pg_attribute
     where attrelid = 'etcd'::regclass and attnum > 0 order by attnum`,
  );
  assert.deepEqual(columns.map(({ name, type }) => `${name} ${type}`), [
    "key text",
    "value text",
    "value_bytes bytea",
    "revision bigint",
    "create_revision bigint",
    "version bigint",
    "lease bigint",
    "ts timestamp with time zone",
  ]);
});

Deno.test(
  "INSERT queues a put that stands on absence, and shows once etcd has confirmed it",
  strict,
  async () => {
    await using world = await makeMirror();
    const returned = await world.sql(
      "insert into etcd (key, value) values ('/new', '1') returning key, value, revision",
    );
    assert.deepEqual(returned, [{ key: "/new", value: "1", revision: null }]);
    assert.deepEqual(await wal(world, row), [
      { ...put, key: "/new", value: "1", revision: 0, seen_revision: 0, strict: true },
    ]);
    assert.deepEqual(await world.sql("select 1 from etcd where key = '/new'"), []);
  },
);

Deno.test("INSERT takes bytes, and many rows", strict, async () => {
  await using world = await makeMirror();
  await world.sql("insert into etcd (key, value_bytes) values ('/raw', '\\x00ff')");
  await world.sql("insert into etcd (key, value) select '/many/' || n, n::text from generate_series(1, 3) n");
  assert.deepEqual(await wal(world, "key, value, value_bytes"), [
    { key: "/raw", value: null, value_bytes: Buffer.of(0, 255) },
    { key: "/many/1", value: "1", value_bytes: null },
    { key: "/many/2", value: "2", value_bytes: null },
    { key: "/many/3", value: "3", value_bytes: null },
  ]);
});

Deno.test("INSERT of a key that is there is refused, as in any table", strict, async () => {
  await using world = await makeMirror();
  await refused(
    world.sql("insert into etcd (key, value) values ('/a', '1')"),
    "23505",
    /^Cannot insert key '\/a': it is there already$/,
  );
  assert.deepEqual(await wal(world, row), []);
});

Deno.test("INSERT: the transaction's own pending row decides first", strict, async () => {
  await using world = await makeMirror();
  await transaction(world, async () => {
    await world.sql("delete from etcd where key = '/a'");
    await world.sql("insert into etcd (key, value) values ('/a', 'again')");
  });
  assert.deepEqual(await wal(world, row), [
    { ...put, key: "/a", value: "again", revision: 10, seen_revision: 10, strict: true },
  ]);
  for (const first of ["insert into etcd (key, value) values ('/b', '1')", "select etcd_set('/b', '1')"]) {
    const twice = transaction(world, async () => {
      await world.sql(first);
      await world.sql("insert into etcd (key, value) values ('/b', '2')");
    });
    await refused(twice, "23505", /^Cannot insert key '\/b': it is there already$/);
  }
});

Deno.test("UPDATE queues a put on what the statement saw, and keeps the lease", strict, async () => {
  await using world = await makeMirror();
  const returned = await world.sql(
    "update etcd set value = value || '!' where key = '/a' returning key, value, revision",
  );
  assert.deepEqual(returned, [{ key: "/a", value: "one!", revision: 10 }]);
  assert.deepEqual(await wal(world, row), [
    { ...put, key: "/a", value: "one!", revision: 10, seen_revision: 10, keep_lease: true },
  ]);
  assert.deepEqual(await world.sql("select value from etcd where key = '/a'"), [{ value: "one" }]);
});

Deno.test("UPDATE stands on OLD.revision, though the mirror has moved since", strict, async () => {
  await using world = await makeMirror();
  await using other = world.session();
  await other.sql("select pg_advisory_lock(1)");
  const update = world.sql(
    "update etcd set value = 'mine' from (select pg_advisory_xact_lock(1)) gate where key = '/a'",
  );
  await eventually(async () =>
    (await other.sql("select 1 from pg_locks where locktype = 'advisory' and not granted")).length
  );
  await other.sql("update etcd_kv set revision = 12, value = 'theirs' where key = '/a'");
  await other.sql("select pg_advisory_unlock(1)");
  await update;
  assert.deepEqual(await wal(world, "revision, seen_revision"), [{ revision: 10, seen_revision: 10 }]);
});

Deno.test("UPDATE: of value and value_bytes the changed one counts", strict, async () => {
  await using world = await makeMirror();
  const cases: [set: string, key: string, value: string | null, bytes: Buffer | null][] = [
    ["value = 'x'", "/a", "x", null],
    ["value_bytes = '\\x01'", "/a", null, Buffer.of(1)],
    ["value = 'x'", "/bytes", "x", null],
    ["value_bytes = '\\x01'", "/bytes", null, Buffer.of(1)],
    ["value = null, value_bytes = '\\x01'", "/a", null, Buffer.of(1)],
    ["value = 'x', value_bytes = null", "/bytes", "x", null],
    ["value = value", "/a", "one", null],
    ["value_bytes = value_bytes", "/bytes", null, Buffer.of(0, 255)],
    ["value = null", "/bytes", null, Buffer.of(0, 255)],
    ["value = ''", "/a", "", null],
  ];
  for (const [set, key, value, value_bytes] of cases) {
    await world.sql(`update etcd set ${set} where key = '${key}'`);
    const [written] = await world.sql(
      "select key, value, value_bytes from etcd_wal order by id desc limit 1",
    );
    assert.deepEqual(written, { key, value, value_bytes }, set);
  }
  await refused(
    world.sql("update etcd set value = null where key = '/a'"),
    "ZE003",
    /exactly one of value and value_bytes/,
  );
  await refused(world.sql("update etcd set value = 'x', value_bytes = '\\x01' where key = '/a'"), "ZE003");
});

Deno.test("UPDATE of the key is a delete and a put in one transaction", strict, async () => {
  await using world = await makeMirror();
  await world.sql("update etcd set key = '/moved', value = 'two' where key = '/a'");
  assert.deepEqual(await wal(world, row), [
    { ...tombstone, key: "/a", revision: 10, seen_revision: 10 },
    { ...put, key: "/moved", value: "two", revision: 0, seen_revision: 0, strict: true },
  ]);
  assert.equal((await world.sql("select 1 from etcd_wal_tx")).length, 1);
  await refused(world.sql("update etcd set key = '/bytes' where key = '/a'"), "23505");
  await refused(world.sql("update etcd set key = null where key = '/a'"), "ZE002");
});

for (
  const set of [
    "revision = 1",
    "create_revision = 1",
    "version = 9",
    "lease = 1",
    "ts = now()",
    "lease = null",
  ]
) {
  Deno.test(`UPDATE and INSERT refuse ${set.split(" ")[0]}, which etcd sets (${set})`, strict, async () => {
    await using world = await makeMirror();
    await refused(
      world.sql(`update etcd set ${set} where key = '/a'`),
      "ZE008",
      /^Cannot update key '\/a': only key, value and value_bytes can be set, etcd sets the rest$/,
    );
    if (set.endsWith("null")) return;
    const [column, value] = set.split(" = ");
    await refused(
      world.sql(`insert into etcd (key, value, ${column}) values ('/new', 'x', ${value})`),
      "ZE008",
      /^Cannot insert key '\/new': only key, value and value_bytes can be given, etcd sets the rest$/,
    );
  });
}

Deno.test("DELETE queues a tombstone on what the statement saw", strict, async () => {
  await using world = await makeMirror();
  const returned = await world.sql("delete from etcd where key = '/a' returning key, value");
  assert.deepEqual(returned, [{ key: "/a", value: "one" }]);
  assert.deepEqual(await world.sql("delete from etcd where key = '/nowhere' returning key"), []);
  assert.deepEqual(await wal(world, row), [{ ...tombstone, key: "/a", revision: 10, seen_revision: 10 }]);
});

Deno.test(
  "a put drops the key's lease unless every write of the transaction was an UPDATE",
  strict,
  async () => {
    await using world = await makeMirror();
    const cases: [statements: string, keeps: boolean][] = [
      ["update etcd set value = '1' where key = '/a'; update etcd set value = '2' where key = '/a'", true],
      ["select etcd_set('/a', '1'); update etcd set value = '2' where key = '/a'", false],
      ["update etcd set value = '1' where key = '/a'; select etcd_set('/a', '2')", false],
      ["delete from etcd where key = '/a'; update etcd set value = '2' where key = '/a'", false],
    ];
    for (const [statements, keep_lease] of cases) {
      await world.sql(`begin; ${statements}; commit`);
      const [written] = await world.sql("select keep_lease from etcd_wal order by id desc limit 1");
      assert.deepEqual(written, { keep_lease }, statements);
    }
  },
);

Deno.test("ON CONFLICT is refused on the view", strict, async () => {
  await using world = await makeMirror();
  await assert.rejects(
    world.sql(
      "insert into etcd (key, value) values ('/a', '1') on conflict (key) do update set value = excluded.value",
    ),
    /ON CONFLICT/,
  );
});

Deno.test("a prefix and a range of the view are read by its index", strict, async () => {
  await using world = await makeMirror();
  await world.sql(
    `insert into etcd_kv (key, value, revision, create_revision, version, lease, timeline)
     select '/p/' || n, '', 20, 20, 1, 0, 1 from generate_series(1, 20000) n`,
  );
  await world.sql("analyze etcd_kv");
  for (const where of ["key like '/p/77%'", "key >= '/p/77' and key < '/p/78'", "key = '/p/77'"]) {
    const plan = await world.sql(`explain select * from etcd where ${where}`);
    assert.match(plan.map((line) => line["QUERY PLAN"]).join("\n"), /Index .*etcd_kv_pkey/, where);
  }
});
