import assert from "node:assert/strict";
import { installed, mirrored, refused, setGate, strict, transaction, wal } from "../support/schema.ts";
import { makeWorld, type World } from "../support/world.ts";

async function makeMirror(prefix = "/"): Promise<World> {
  const world = await makeWorld();
  await installed(world, { prefix });
  return world;
}

/** Every way to write a key. */
const ways: Record<string, string> = {
  "etcd_set": "select etcd_set($1, '')",
  "etcd_set of bytes": "select etcd_set($1, ''::bytea)",
  "etcd_delete": "select etcd_delete($1)",
  "compare-and-set": "select etcd_set($1, '', 7)",
  "INSERT": "insert into etcd (key, value) values ($1, '')",
  "a plain INSERT into the WAL": "insert into etcd_wal (key, value) values ($1, '')",
};

async function eachWayRefuses(
  world: World,
  key: string | null,
  code: string,
  message: RegExp,
): Promise<void> {
  for (const statement of Object.values(ways)) await refused(world.sql(statement, [key]), code, message);
  assert.deepEqual(await world.sql("select 1 from etcd_wal union all select 1 from etcd_wal_tx"), []);
}

Deno.test("a key outside the prefix is refused, and the message names the prefix", strict, async () => {
  await using world = await makeMirror("/app/");
  for (const key of ["/other", "/app", "/APP/x", "app/", "\\x00/app/"]) {
    await eachWayRefuses(
      world,
      key,
      "ZE001",
      /^Cannot write key .*: this stream's keys begin with '\/app\/'$/,
    );
  }
  await world.sql("select etcd_set('/app/', ''), etcd_set('/app/x', ''), etcd_set('/app/\\x00', '')");
});

Deno.test("an empty prefix takes any key", strict, async () => {
  await using world = await makeMirror("");
  await world.sql("select etcd_set('a', ''), etcd_set('/a', ''), etcd_set('\\x00', '')");
  assert.equal((await wal(world, "key")).length, 3);
});

for (const prefix of ["/raw\\xff/", "/cut\\xc3", "/literal\\x5cx41/", "/50%_a/"]) {
  Deno.test(`a prefix of ${prefix} compares by its bytes`, strict, async () => {
    await using world = await makeMirror(prefix);
    const [{ inside }] = await world.sql(
      "select array_agg(etcd_key_text(etcd_key_bytes($1) || more)) as inside from unnest(array['\\x61', '\\xa9']::bytea[]) more",
      [prefix],
    );
    for (const key of inside) await world.sql("select etcd_set($1, '')", [key]);
    assert.equal((await wal(world, "key")).length, 2);
    for (const key of ["/raw", "/cut", "/literalA/x", "/50x_a/x", "/50%xa/x"]) {
      await refused(world.sql("select etcd_set($1, '')", [key]), "ZE001");
    }
  });
}

Deno.test("the program's own keys are refused, whatever the prefix, also where escaped", strict, async () => {
  for (const prefix of ["", "/", "/_etcd-pg-sync/"]) {
    await using world = await makeMirror(prefix);
    for (const key of ["/_etcd-pg-sync/default", "/_etcd-pg-sync/", "/_etcd-pg-sync/\\xff"]) {
      await eachWayRefuses(
        world,
        key,
        "ZE001",
        /^Cannot write key .*: keys under '\/_etcd-pg-sync\/' are the program's own$/,
      );
    }
  }
  await using world = await makeMirror("/");
  await world.sql("select etcd_set('/_etcd-pg-sync', ''), etcd_set('/_etcd-pg-syncing/x', '')");
});

Deno.test("an empty key and no key are refused", strict, async () => {
  await using world = await makeMirror("");
  await eachWayRefuses(world, "", "ZE002", /^Cannot write key '': a key has 1 to 2500 bytes$/);
  await eachWayRefuses(world, null, "ZE002", /^Cannot write key NULL: a key has 1 to 2500 bytes$/);
});

Deno.test("a key of 2,500 bytes is taken, a longer one refused with its length", strict, async () => {
  await using world = await makeMirror();
  // random, since an index compresses what repeats
  const [{ letters }] = await world.sql(
    "select string_agg(md5(random()::text), '') as letters from generate_series(1, 100)",
  );
  const longest = "/" + letters.slice(0, 2499);
  await world.sql("select etcd_set($1, '')", [longest]);
  await mirrored(world, longest, "");
  await world.sql(
    "insert into etcd_archive (timeline, key, revision, tombstone, create_revision, version, lease) values (1, $1, 5, true, 0, 0, 0)",
    [longest],
  );
  await world.sql("update etcd set value = 'x'");
  const message = /^Cannot write key '.{100}…' of 2501 bytes: a key has 1 to 2500 bytes$/;
  await refused(world.sql("select etcd_set($1, '')", [longest + "x"]), "ZE002", message);
  await refused(
    world.sql("select etcd_set($1, '')", ["/" + "é".repeat(1250)]),
    "ZE002",
    /^Cannot write key '.{100}…' of 2501 bytes/,
  );
  await refused(world.sql("select etcd_set($1, '')", ["/" + "\\xff".repeat(700)]), "ZE002", /of 2801 bytes/);
});

Deno.test(
  "an escape that the mirror would write otherwise is refused, and the message shows how",
  strict,
  async () => {
    await using world = await makeMirror();
    const cases: [key: string, shown: string][] = [
      ["/\\x41", "'/A'"],
      ["/\\xc3\\xa9", "'/é'"],
      ["/\\x5c", "E'/\\\\'"],
      ["/\\x5cx4", "E'/\\\\x4'"],
    ];
    for (const [key, shown] of cases) {
      for (const statement of Object.values(ways)) {
        const error = await world.sql(statement, [key]).catch((error) => error);
        assert.equal(error.code, "ZE002", statement);
        assert.equal(error.message.endsWith(`: its escapes stand for ${shown}`), true, error.message);
        assert.match(error.hint, /only bytes that are not UTF-8 are escaped/);
      }
    }
    for (const key of ["/\\x00", "/\\xff", "/\\x5cx41", "/\\X41", "/\\xAB", "/\\x4", "/\\x"]) {
      await world.sql("select etcd_set($1, '')", [key]);
    }
    assert.equal((await wal(world, "key")).length, 7);
  },
);

Deno.test("a value of 1,500,000 bytes is taken, a larger one refused with the limit", strict, async () => {
  await using world = await makeMirror();
  await mirrored(world, "/a", "");
  await world.sql("select etcd_set('/text', repeat('x', 1500000)), etcd_set('/wide', repeat('é', 750000))");
  await world.sql("select etcd_set('/bytes', convert_to(repeat('x', 1500000), 'UTF8'))");
  const message = /^Cannot write key '.*': its value has 1500001 bytes, the limit is 1500000$/;
  const tooLarge = [
    "select etcd_set('/text', repeat('x', 1500001))",
    "select etcd_set('/wide', 'x' || repeat('é', 750000))",
    "select etcd_set('/bytes', convert_to(repeat('x', 1500001), 'UTF8'))",
    "insert into etcd (key, value) values ('/new', repeat('x', 1500001))",
    "update etcd set value = repeat('x', 1500001)",
    "insert into etcd_wal (key, value) values ('/new', repeat('x', 1500001))",
  ];
  for (const statement of tooLarge) await refused(world.sql(statement), "ZE003", message);
  await setGate(world, "max_value_bytes = 3");
  await refused(
    world.sql("select etcd_set('/a', 'four')"),
    "ZE003",
    /its value has 4 bytes, the limit is 3$/,
  );
});

Deno.test("a one-way stream refuses every write, and says so", strict, async () => {
  await using world = await makeMirror();
  await mirrored(world, "/a", "");
  await setGate(world, "one_way = true");
  const message = /^Cannot write key '\/a': this stream is one-way, etcd to PostgreSQL$/;
  await eachWayRefuses(world, "/a", "ZE004", message);
  await refused(world.sql("update etcd set value = 'x'"), "ZE004", message);
  await refused(world.sql("delete from etcd"), "ZE004", message);
});

Deno.test(
  "a schema on which the program was never started refuses every write, and says so",
  strict,
  async () => {
    await using world = await makeMirror();
    await world.sql("delete from etcd_sync_gate");
    await eachWayRefuses(
      world,
      "/a",
      "ZE004",
      /^Cannot write key '\/a': etcd-pg-sync has not been started on this schema$/,
    );
  },
);

Deno.test("TRUNCATE is refused", strict, async () => {
  await using world = await makeMirror();
  for (const table of ["etcd_kv", "etcd_archive", "etcd_wal"]) {
    await refused(
      world.sql(`truncate ${table}`),
      "ZE012",
      new RegExp(`^Cannot truncate ${table}: delete the keys instead$`),
    );
  }
  await assert.rejects(world.sql("truncate etcd"), /"etcd" is not a table/);
});

async function manyKeys(world: World, count: number): Promise<void> {
  await world.sql(
    `insert into etcd_kv (key, value, revision, create_revision, version, lease, timeline)
     select '/k/' || n, '', n, n, 1, 0, 1 from generate_series(1, ${count}) n`,
  );
}

Deno.test("DELETE of more than 1,000 keys in one transaction wants a confirmation", strict, async () => {
  await using world = await makeMirror();
  await manyKeys(world, 1001);
  const error = await world.sql("delete from etcd").catch((error) => error);
  assert.equal(error.code, "ZE005");
  assert.equal(error.message, "Cannot delete more than 1000 keys in one transaction without a confirmation");
  assert.equal(error.hint, "If it is meant: set local etcd_sync.confirm_mass_delete = on");
  assert.deepEqual(await wal(world, "id"), []);
  await world.sql("delete from etcd where revision <= 1000");
  await world.sql("delete from etcd where revision > 1000");
  assert.equal((await wal(world, "id")).length, 1001);
});

Deno.test("the confirmation counts for its transaction alone", strict, async () => {
  await using world = await makeMirror();
  await manyKeys(world, 1500);
  await world.sql("begin; set local etcd_sync.confirm_mass_delete = on; delete from etcd; commit");
  assert.equal((await wal(world, "id")).length, 1500);
  await refused(world.sql("delete from etcd"), "ZE005");
});

const deletes: Record<string, (key: string) => string> = {
  "etcd_delete": (key) => `select etcd_delete('${key}')`,
  "DELETE": (key) => `delete from etcd where key = '${key}'`,
  "UPDATE of the key": (key) => `update etcd set key = key || '!' where key = '${key}'`,
  "a plain INSERT into the WAL": (key) => `insert into etcd_wal (key, tombstone) values ('${key}', true)`,
};

for (const [way, statement] of Object.entries(deletes)) {
  Deno.test(`the guard counts deletes over statements: ${way}`, strict, async () => {
    await using world = await makeMirror();
    await manyKeys(world, 4);
    await setGate(world, "max_deletes = 3");
    const four = transaction(world, async () => {
      for (const n of [1, 2, 3, 4]) await world.sql(statement(`/k/${n}`));
    });
    await refused(four, "ZE005", /more than 3 keys/);
    await transaction(world, async () => {
      for (const n of [1, 2, 3]) await world.sql(statement(`/k/${n}`));
    });
    await transaction(world, () => world.sql(statement("/k/4")));
  });
}

Deno.test("the guard counts keys: again the same, or put again, is no further one", strict, async () => {
  await using world = await makeMirror();
  await setGate(world, "max_deletes = 3");
  await transaction(world, async () => {
    for (const _ of [1, 2, 3, 4, 5]) await world.sql("select etcd_delete('/same')");
    for (const n of [1, 2, 3, 4, 5]) {
      await world.sql(`select etcd_delete('/put/${n}')`);
      await world.sql(`select etcd_set('/put/${n}', '')`);
    }
    await world.sql("select etcd_delete('/second'), etcd_delete('/third')");
    await world.sql("savepoint s");
    await refused(world.sql("select etcd_delete('/fourth')"), "ZE005");
    await world.sql("rollback to s");
  });
});

Deno.test(
  "the guard does not count what a savepoint took back, and counts what it kept",
  strict,
  async () => {
    await using world = await makeMirror();
    await setGate(world, "max_deletes = 3");
    await transaction(world, async () => {
      for (const n of [1, 2, 3, 4, 5]) {
        await world.sql("savepoint s");
        await world.sql(`select etcd_delete('/gone/${n}'), etcd_delete('/gone too/${n}')`);
        await world.sql("rollback to s");
      }
      for (const n of [1, 2, 3]) {
        await world.sql("savepoint s");
        await world.sql(`select etcd_delete('/kept/${n}')`);
        await world.sql("release s");
      }
      await world.sql("savepoint s");
      await refused(world.sql("select etcd_delete('/fourth')"), "ZE005");
      await world.sql("rollback to s");
    });
    assert.equal((await wal(world, "id")).length, 3);
  },
);

Deno.test(
  "a transaction that refuse_oversize forbids to split is refused at its commit",
  strict,
  async () => {
    await using world = await makeMirror();
    await setGate(world, "refuse_oversize = true");
    const write = (rows: number, bytes = 1) =>
      world.sql("select etcd_set('/k/' || n, repeat('x', $2)) from generate_series(1, $1::int) n", [
        rows,
        bytes,
      ]);
    await write(127);
    await refused(
      write(128),
      "ZE006",
      /^Cannot commit 128 rows of \d+ bytes in one transaction: etcd takes 127 rows and 1500000 bytes at once, and this stream refuses to split$/,
    );
    await refused(write(2, 750_000), "ZE006", /^Cannot commit 2 rows/);
    await write(1, 1_500_000);
    await world.sql("begin");
    await write(128);
    await refused(world.sql("commit"), "ZE006");
    await transaction(world, async () => {
      await write(100);
      await world.sql("savepoint s");
      await world.sql("select etcd_set('/more/' || n, '') from generate_series(1, 100) n");
      await world.sql("rollback to s");
    });
    await setGate(world, "refuse_oversize = false");
    await write(128);
  },
);
