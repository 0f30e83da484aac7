import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { installed, mirrored, refused, setGate, strict, transaction, wal } from "../support/schema.ts";
import { makeWorld, type World } from "../support/world.ts";

async function makeMirror(): Promise<World> {
  const world = await makeWorld();
  await installed(world);
  await mirrored(world, "/a", "one", 10);
  return world;
}

/** The header of the one transaction that waits. */
async function header(world: World) {
  const rows = await world.sql("select seq, first_id, moved from etcd_wal_tx");
  assert.equal(rows.length, 1);
  return rows[0];
}

Deno.test("etcd_set() returns the WAL id, and stands on what the mirror has", strict, async () => {
  await using world = await makeMirror();
  const [{ present }] = await world.sql("select etcd_set('/a', 'two') as present");
  const [{ absent }] = await world.sql("select etcd_set('/b', 'new') as absent");
  assert.deepEqual(
    await wal(
      world,
      "id, key, value, tombstone, keep_lease, timeline, revision, seen_revision, strict, status",
    ),
    [
      { id: present, key: "/a", value: "two", revision: 10, seen_revision: 10 },
      { id: absent, key: "/b", value: "new", revision: 0, seen_revision: 0 },
    ].map((row) => ({
      ...row,
      tombstone: false,
      keep_lease: false,
      timeline: 1,
      strict: false,
      status: "pending",
    })),
  );
});

Deno.test(
  "a row begins with its transaction's id and start, and nothing of a settlement",
  strict,
  async () => {
    await using world = await makeMirror();
    await transaction(world, async () => {
      await world.sql("select etcd_set('/a', '1')");
      const [row] = await world.sql(
        `select txid = pg_current_xact_id() and ts = now() as mine, retry_count, num_nonnulls(expected_revision,
         result_revision, error_message, batch_id, settled_at) as settled from etcd_wal`,
      );
      assert.deepEqual(row, { mine: true, retry_count: 0, settled: 0 });
    });
  },
);

Deno.test("etcd_set() takes bytes", strict, async () => {
  await using world = await makeMirror();
  await world.sql("select etcd_set('/a', '\\x00ff'::bytea), etcd_set('/b', ''::bytea), etcd_set('/c', '')");
  assert.deepEqual(await wal(world, "value, value_bytes"), [
    { value: null, value_bytes: Buffer.of(0, 255) },
    { value: null, value_bytes: Buffer.of() },
    { value: "", value_bytes: null },
  ]);
});

Deno.test("etcd_set() of null is refused, since that is not a delete", strict, async () => {
  await using world = await makeMirror();
  for (const call of ["etcd_set('/a', null)", "etcd_set('/a', null::bytea)"]) {
    await refused(
      world.sql(`select ${call}`),
      "ZE003",
      /^Cannot write key '\/a': exactly one of value and value_bytes/,
    );
  }
});

Deno.test("etcd_delete() queues a tombstone, also of a key that the mirror lacks", strict, async () => {
  await using world = await makeMirror();
  await world.sql("select etcd_delete('/a'), etcd_delete('/b')");
  assert.deepEqual(await wal(world, "key, tombstone, value, value_bytes, revision"), [
    { key: "/a", tombstone: true, value: null, value_bytes: null, revision: 10 },
    { key: "/b", tombstone: true, value: null, value_bytes: null, revision: 0 },
  ]);
});

Deno.test("with a revision it is compare-and-set on exactly that", strict, async () => {
  await using world = await makeMirror();
  await world.sql(
    "select etcd_set('/a', 'x', 10), etcd_set('/b', 'x', 0), etcd_set('/c', '\\x00'::bytea, 7), etcd_delete('/d', 8)",
  );
  assert.deepEqual(await wal(world, "key, revision, strict"), [
    { key: "/a", revision: 10, strict: true },
    { key: "/b", revision: 0, strict: true },
    { key: "/c", revision: 7, strict: true },
    { key: "/d", revision: 8, strict: true },
  ]);
});

Deno.test(
  "a second write of a key replaces the pending first, and keeps its id and base",
  strict,
  async () => {
    await using world = await makeMirror();
    await using other = world.session();
    await transaction(world, async () => {
      const [{ id }] = await world.sql("select etcd_set('/a', 'first') as id");
      await other.sql("update etcd_kv set revision = 12 where key = '/a'");
      assert.deepEqual(await world.sql("select etcd_set('/a', '\\x02'::bytea) as id"), [{ id }]);
      assert.deepEqual(await wal(world, "id, value, value_bytes, tombstone, revision, seen_revision"), [
        { id, value: null, value_bytes: Buffer.of(2), tombstone: false, revision: 10, seen_revision: 10 },
      ]);
      assert.deepEqual(await world.sql("select etcd_delete('/a') as id"), [{ id }]);
      assert.deepEqual(await wal(world, "id, value, value_bytes, tombstone, revision, seen_revision"), [
        { id, value: null, value_bytes: null, tombstone: true, revision: 10, seen_revision: 10 },
      ]);
    });
    assert.deepEqual(await header(world).then(({ moved }) => moved), false);
  },
);

Deno.test("a row is strict if either write was", strict, async () => {
  await using world = await makeMirror();
  const cases: [first: string, second: string, strict: boolean][] = [
    ["etcd_set('/a', '1')", "etcd_set('/a', '2')", false],
    ["etcd_set('/a', '1', 10)", "etcd_set('/a', '2')", true],
    ["etcd_set('/a', '1')", "etcd_set('/a', '2', 10)", true],
    ["etcd_delete('/a', 10)", "etcd_set('/a', '2')", true],
    ["etcd_set('/a', '1', 10)", "etcd_delete('/a', 10)", true],
  ];
  for (const [first, second, strict] of cases) {
    await world.sql(`begin; select ${first}; select ${second}; commit`);
    const [row] = await world.sql('select revision, "strict" from etcd_wal order by id desc limit 1');
    assert.deepEqual(row, { revision: 10, strict }, `${first}, ${second}`);
  }
});

Deno.test("compare-and-set on another revision than the pending write's is an error", strict, async () => {
  await using world = await makeMirror();
  const both = transaction(world, async () => {
    await world.sql("select etcd_set('/a', '1')");
    await world.sql("select etcd_set('/a', '2', 9)");
  });
  await refused(
    both,
    "ZE007",
    /^Cannot write key '\/a': its earlier write in this transaction is settled, or compares with another/,
  );
});

for (const status of ["success", "conflict", "failed"]) {
  Deno.test(
    `replacing a row that is settled (${status}) is an error, never a silent success`,
    strict,
    async () => {
      await using world = await makeMirror();
      const replacing = [
        "select etcd_set('/b', '2')",
        "select etcd_delete('/b')",
        "insert into etcd_wal (key, value) values ('/b', '2')",
      ];
      for (const statement of replacing) {
        const both = transaction(world, async () => {
          await world.sql("select etcd_set('/b', '1')");
          await world.sql(`update etcd_wal set status = '${status}'`);
          await world.sql(statement);
        });
        await refused(both, "ZE007");
      }
    },
  );
}

Deno.test("two transactions that write one key are two rows", strict, async () => {
  await using world = await makeMirror();
  await using other = world.session();
  await transaction(world, async () => {
    await world.sql("select etcd_set('/a', 'one')");
    await transaction(other, () => other.sql("select etcd_set('/a', 'other')"));
    await world.sql("select etcd_set('/a', 'two')");
  });
  assert.deepEqual(await wal(world, "value"), [{ value: "two" }, { value: "other" }]);
});

Deno.test("a txid that comes again, after a dump and restore, is another transaction", strict, async () => {
  await using world = await makeMirror();
  await transaction(world, async () => {
    await world.sql(
      `with old as (insert into etcd_wal (txid, ts, key, value, timeline, revision, seen_revision)
         values (pg_current_xact_id(), now() - interval '1 day', '/a', 'old', 1, 0, 0) returning id, txid, ts)
       insert into etcd_wal_tx (seq, txid, ts, first_id) select id, txid, ts, id from old`,
    );
    await world.sql("select etcd_set('/a', 'new')");
    await world.sql("select etcd_set('/b', 'new')");
  });
  assert.deepEqual(await wal(world, "key, value"), [
    { key: "/a", value: "old" },
    { key: "/a", value: "new" },
    { key: "/b", value: "new" },
  ]);
  assert.deepEqual(
    await world.sql("select first_id, seq > first_id as moved from etcd_wal_tx order by seq"),
    [
      { first_id: 1, moved: false },
      { first_id: 2, moved: true },
    ],
  );
});

Deno.test("what a savepoint takes back is gone, and the write before it stands again", strict, async () => {
  await using world = await makeMirror();
  await transaction(world, async () => {
    await world.sql("select etcd_set('/a', 'kept', 10)");
    await world.sql("savepoint s");
    await world.sql("select etcd_delete('/a')");
    await world.sql("select etcd_set('/b', 'gone')");
    await world.sql("rollback to s");
    await world.sql("select etcd_set('/c', 'kept')");
  });
  assert.deepEqual(await wal(world, "key, value, strict"), [
    { key: "/a", value: "kept", strict: true },
    { key: "/c", value: "kept", strict: false },
  ]);
});

Deno.test(
  "a transaction whose first write a savepoint took back has the header of its next",
  strict,
  async () => {
    await using world = await makeMirror();
    await transaction(world, async () => {
      await world.sql("savepoint s");
      await world.sql("select etcd_set('/gone', '')");
      await world.sql("rollback to s");
      await world.sql("select etcd_set('/kept', '')");
    });
    const [{ id }] = await wal(world, "id");
    assert.deepEqual(await header(world), { seq: id, first_id: id, moved: false });
  },
);

Deno.test("an exception block of plpgsql takes back what was written in it", strict, async () => {
  await using world = await makeMirror();
  await world.sql(
    `do $$ begin
       perform etcd_set('/a', 'kept');
       begin
         perform etcd_set('/a', 'gone');
         perform etcd_set('not under the prefix', '');
       exception when others then null;
       end;
       perform etcd_set('/b', 'kept');
     end $$`,
  );
  assert.deepEqual(await wal(world, "key, value"), [{ key: "/a", value: "kept" }, {
    key: "/b",
    value: "kept",
  }]);
});

Deno.test("a transaction that rolls back leaves nothing", strict, async () => {
  await using world = await makeMirror();
  await world.sql("begin; select etcd_set('/a', '1'); select etcd_set('/b', '1'); rollback");
  assert.deepEqual(await world.sql("select 1 from etcd_wal union all select 1 from etcd_wal_tx"), []);
});

Deno.test("many writes by one statement are one transaction", strict, async () => {
  await using world = await makeMirror();
  await world.sql("select etcd_set('/many/' || n, n::text) from generate_series(1, 500) n");
  assert.equal((await wal(world, "id")).length, 500);
  const { seq, first_id } = await header(world);
  assert.deepEqual({ first_id, last: seq > 500 }, { first_id: 1, last: true });
});

Deno.test(
  "writing works in REPEATABLE READ and SERIALIZABLE, on what that snapshot saw",
  strict,
  async () => {
    await using world = await makeMirror();
    await using other = world.session();
    for (const level of ["repeatable read", "serializable"]) {
      await world.sql(`begin isolation level ${level}`);
      const [{ revision }] = await world.sql("select revision from etcd where key = '/a'");
      await other.sql("update etcd_kv set revision = revision + 1");
      await world.sql("select etcd_set('/a', 'x')");
      await world.sql("update etcd set value = 'y' where key = '/a'");
      await world.sql("commit");
      const [row] = await world.sql("select revision, seen_revision from etcd_wal order by id desc limit 1");
      assert.deepEqual(row, { revision, seen_revision: revision });
    }
  },
);

Deno.test("an absent key's seen_revision is that of its newest event, or the gate's", strict, async () => {
  await using world = await makeMirror();
  await setGate(world, "deleted = true");
  await world.sql(
    `insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
     values (1, '/gone', 5, 6, false, 'x', 5, 1, 0), (1, '/gone', 6, null, true, null, 0, 0, 0)`,
  );
  await world.sql("select etcd_set('/gone', '')");
  await setGate(world, "seen_revision = 8");
  await world.sql("select etcd_set('/gone', ''), etcd_set('/a', '')");
  await setGate(world, "seen_revision = 20");
  await world.sql("select etcd_set('/a', '')");
  assert.deepEqual(await wal(world, "key, revision, seen_revision"), [
    { key: "/gone", revision: 0, seen_revision: 6 },
    { key: "/gone", revision: 0, seen_revision: 8 },
    { key: "/a", revision: 10, seen_revision: 10 },
    { key: "/a", revision: 10, seen_revision: 20 },
  ]);
});

Deno.test(
  "a base that was given alone says what was seen, though the gate knows a newer checkpoint",
  strict,
  async () => {
    await using world = await makeMirror();
    await setGate(world, "seen_revision = 20");
    await world.sql("update etcd set value = 'x' where key = '/a'");
    await world.sql("delete from etcd where key = '/a'");
    assert.deepEqual(await wal(world, "seen_revision"), [{ seen_revision: 10 }, { seen_revision: 10 }]);
  },
);

Deno.test("a row carries the timeline of the revision that it stands on", strict, async () => {
  await using world = await makeMirror();
  await mirrored(world, "/new", "x", 3, { timeline: 2 });
  await world.sql(
    `insert into etcd_archive (timeline, key, revision, until_revision, tombstone, value, create_revision, version, lease)
     values (1, '/new', 9, null, false, 'x', 9, 1, 0), (1, '/gone', 7, null, true, null, 0, 0, 0)`,
  );
  await setGate(world, "timeline = 2");
  await world.sql("select etcd_set('/a', '')"); // not yet met by the scan of timeline 2
  await world.sql("select etcd_set('/new', '')");
  await world.sql("select etcd_set('/new', '', 9)"); // seen before the history was replaced
  await world.sql("select etcd_set('/new', '', 3)");
  await world.sql("select etcd_set('/new', '', 0)");
  await world.sql("select etcd_set('/gone', '')");
  await world.sql("insert into etcd (key, value) values ('/gone', '')");
  assert.deepEqual(await wal(world, "key, timeline, revision, seen_revision"), [
    { key: "/a", timeline: 1, revision: 10, seen_revision: 10 },
    { key: "/new", timeline: 2, revision: 3, seen_revision: 3 },
    { key: "/new", timeline: 1, revision: 9, seen_revision: 9 },
    { key: "/new", timeline: 2, revision: 3, seen_revision: 3 },
    { key: "/new", timeline: 2, revision: 0, seen_revision: 3 },
    { key: "/gone", timeline: 2, revision: 0, seen_revision: 0 },
    { key: "/gone", timeline: 2, revision: 0, seen_revision: 0 },
  ]);
});
