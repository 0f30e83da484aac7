import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { installed, mirrored, refused, setGate, strict, transaction, wal } from "../support/schema.ts";
import { makeWorld, type Session, type World } from "../support/world.ts";

/** A world, and a session of a role that may insert into some columns of the WAL and nothing else. */
async function makeWriter(): Promise<{ world: World; app: Session } & AsyncDisposable> {
  const world = await makeWorld();
  await installed(world);
  const role = `app_${world.database}`;
  await world.sql(`create role ${role} login password '${role}'`);
  await world.sql(
    `grant insert (key, value, value_bytes, tombstone, revision, "strict"), select (id, key) on etcd_wal to ${role}`,
  );
  const app = world.session(role, role);
  return {
    world,
    app,
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]();
      await world.sql(`drop owned by ${role}; drop role ${role}`);
      await world[Symbol.asyncDispose]();
    },
  };
}

const row =
  "id, key, value, value_bytes, tombstone, keep_lease, timeline, revision, seen_revision, strict, status";
const pending = {
  value_bytes: null,
  tombstone: false,
  keep_lease: false,
  timeline: 1,
  strict: false,
  status: "pending",
};

Deno.test(
  "a plain INSERT by a role with column grants alone fills the rest, and returns the id",
  strict,
  async () => {
    await using writer = await makeWriter();
    const { world, app } = writer;
    await mirrored(world, "/a", "one", 10);
    const [{ id: first }] = await app.sql(
      "insert into etcd_wal (key, value) values ('/a', 'two') returning id",
    );
    const [{ id: second }] = await app.sql(
      "insert into etcd_wal (key, value_bytes) values ('/b', '\\x00') returning id",
    );
    const [{ id: third }] = await app.sql(
      "insert into etcd_wal (key, tombstone) values ('/a', true) returning id",
    );
    assert.deepEqual(await wal(world, row), [
      { ...pending, id: first, key: "/a", value: "two", revision: 10, seen_revision: 10 },
      {
        ...pending,
        id: second,
        key: "/b",
        value: null,
        value_bytes: Buffer.of(0),
        revision: 0,
        seen_revision: 0,
      },
      { ...pending, id: third, key: "/a", value: null, tombstone: true, revision: 10, seen_revision: 10 },
    ]);
    assert.deepEqual(await world.sql("select seq, first_id from etcd_wal_tx order by seq"), [
      { seq: first, first_id: first },
      { seq: second, first_id: second },
      { seq: third, first_id: third },
    ]);
  },
);

Deno.test("a plain INSERT may say its base, and compare and set", strict, async () => {
  await using writer = await makeWriter();
  const { world, app } = writer;
  await mirrored(world, "/a", "one", 10);
  await app.sql(
    "insert into etcd_wal (key, value, revision, \"strict\") values ('/a', 'x', 9, true), ('/b', 'x', 0, true)",
  );
  await app.sql("insert into etcd_wal (key, value, revision) values ('/a', 'x', 9)");
  assert.deepEqual(await wal(world, "key, revision, seen_revision, strict"), [
    { key: "/a", revision: 9, seen_revision: 9, strict: true },
    { key: "/b", revision: 0, seen_revision: 0, strict: true },
    { key: "/a", revision: 9, seen_revision: 9, strict: false },
  ]);
});

Deno.test("plain INSERTs of one transaction are one transaction, with other writes too", strict, async () => {
  await using writer = await makeWriter();
  const { world } = writer;
  await transaction(world, async () => {
    await world.sql("insert into etcd_wal (key, value) values ('/a', '1'), ('/b', '1')");
    await world.sql("select etcd_set('/c', '1')");
    await world.sql("insert into etcd_wal (key, value) values ('/d', '1')");
  });
  const rows = await wal(world, "id, txid::text");
  assert.equal(new Set(rows.map(({ txid }) => txid)).size, 1);
  const [header, ...others] = await world.sql("select seq, first_id from etcd_wal_tx");
  assert.deepEqual(others, []);
  assert.equal(header.first_id, rows[0].id);
  assert.equal(header.seq > rows[3].id, true);
});

Deno.test("a plain INSERT of a key again replaces the pending row", strict, async () => {
  await using writer = await makeWriter();
  const { world, app } = writer;
  await app.sql("insert into etcd_wal (key, value) values ('/a', '1'), ('/a', '2')");
  await transaction(app, async () => {
    await app.sql("insert into etcd_wal (key, value) values ('/b', '1')");
    await app.sql("insert into etcd_wal (key, tombstone) values ('/b', true)");
  });
  await transaction(world, async () => {
    await world.sql("select etcd_set('/c', '1')");
    await world.sql("insert into etcd_wal (key, value) values ('/c', '2')");
    await world.sql("select etcd_set('/c', '3')");
  });
  assert.deepEqual(await wal(world, "key, value, tombstone"), [
    { key: "/a", value: "2", tombstone: false },
    { key: "/b", value: null, tombstone: true },
    { key: "/c", value: "3", tombstone: false },
  ]);
});

Deno.test("a plain INSERT needs a value, or a tombstone, and not both", strict, async () => {
  await using writer = await makeWriter();
  const { app } = writer;
  for (const values of ["'/a', null, null, false", "'/a', 'x', '\\x00', false", "'/a', 'x', null, true"]) {
    const insert = app.sql(`insert into etcd_wal (key, value, value_bytes, tombstone) values (${values})`);
    await assert.rejects(insert, (error: { code: string }) => ["ZE003", "23514"].includes(error.code));
  }
});

Deno.test("the guards hold for a plain INSERT of many rows", strict, async () => {
  await using writer = await makeWriter();
  const { world, app } = writer;
  await setGate(world, "max_deletes = 3");
  const deletes = (n: number) =>
    app.sql(
      "insert into etcd_wal (key, tombstone) select '/k/' || n, true from generate_series(1, $1::int) n",
      [n],
    );
  await refused(deletes(4), "ZE005");
  await deletes(3);
});

Deno.test("a role with column grants cannot read, change or forge what is not its own", strict, async () => {
  await using writer = await makeWriter();
  const { world, app } = writer;
  await mirrored(world, "/a", "one");
  await world.sql("select etcd_set('/a', 'secret')");
  const forbidden = [
    "select value from etcd_wal",
    "update etcd_wal set value = 'x'",
    "delete from etcd_wal",
    "truncate etcd_wal",
    "insert into etcd_wal (key, value, status) values ('/a', 'x', 'success')",
    "insert into etcd_wal (key, value, txid, ts, timeline, revision, seen_revision) values ('/a', 'x', pg_current_xact_id(), now(), 1, 0, 0)",
    "insert into etcd_wal_tx (seq, txid, ts, first_id) values (1, pg_current_xact_id(), now(), 1)",
    "select * from etcd_wal_tx",
    "select * from etcd",
    "select * from etcd_kv",
    "select * from etcd_sync_gate",
    "select nextval('etcd_wal_id_seq')",
    "select etcd_set('/a', 'x')",
  ];
  for (const statement of forbidden) await refused(app.sql(statement), "42501", /^permission denied/);
});
