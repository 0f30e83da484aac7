import assert from "node:assert/strict";
import { installed, refused, strict } from "../support/schema.ts";
import { eventually, makeWorld, type Row, type World } from "../support/world.ts";

async function makeWrite(): Promise<{ world: World; id: number } & AsyncDisposable> {
  const world = await makeWorld();
  await installed(world);
  await checkpoint(world, 10);
  const [{ id }] = await world.sql("select etcd_set('/a', 'x') as id");
  return { world, id, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() };
}

async function checkpoint(
  world: World,
  revision: number,
  { state = "streaming", timeline = 1 } = {},
): Promise<void> {
  await world.sql("update etcd_sync_state set state = $1, revision = $2, timeline = $3", [
    state,
    revision,
    timeline,
  ]);
}

async function settle(world: World, id: number, status: string, revision: number | null): Promise<void> {
  await world.sql("update etcd_wal set status = $2, result_revision = $3 where id = $1", [
    id,
    status,
    revision,
  ]);
}

/** Whether the session waits on nothing but time. */
async function sleeps(world: World): Promise<boolean> {
  const rows = await world.sql(
    "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'",
  );
  return rows.length > 0;
}

Deno.test(
  "etcd_wait() returns the row once it is settled and the mirror has reached it",
  strict,
  async () => {
    await using write = await makeWrite();
    const { world, id } = write;
    const other = world.session();
    const seen: Row[] = [];
    const waiting = other.sql("select * from etcd_wait($1)", [id]).then((rows) => seen.push(...rows));
    await eventually(() => sleeps(world));
    await settle(world, id, "success", 12);
    await checkpoint(world, 11);
    await eventually(() => sleeps(world));
    assert.equal(seen.length, 0);
    await checkpoint(world, 12, { state: "draining" });
    await waiting;
    const [row] = seen;
    assert.deepEqual([row.id, row.key, row.status, row.result_revision], [id, "/a", "success", 12]);
  },
);

for (const status of ["conflict", "failed"]) {
  Deno.test(`etcd_wait() returns a row that is lost (${status}) at once`, strict, async () => {
    await using write = await makeWrite();
    const { world, id } = write;
    await settle(world, id, status, 500);
    const [row] = await world.sql("select status from etcd_wait($1)", [id]);
    assert.deepEqual(row, { status });
  });
}

Deno.test("etcd_wait() does not take a scan's position for a checkpoint", strict, async () => {
  await using write = await makeWrite();
  const { world, id } = write;
  await settle(world, id, "success", 12);
  for (const state of ["bootstrap", "compaction-resync"]) {
    await checkpoint(world, 100, { state });
    await refused(
      world.sql("select etcd_wait($1, '50 ms')", [id]),
      "ZE009",
      /^Write \d+ was not settled and mirrored within 00:00:00.05: it is success$/,
    );
  }
});

Deno.test("etcd_wait() compares revisions within their timelines", strict, async () => {
  await using write = await makeWrite();
  const { world, id } = write;
  await settle(world, id, "success", 500);
  await checkpoint(world, 3, { timeline: 2 });
  assert.equal((await world.sql("select etcd_wait($1, '50 ms')", [id])).length, 1);
  await world.sql("update etcd_wal set timeline = 3, result_revision = 1");
  await refused(world.sql("select etcd_wait($1, '50 ms')", [id]), "ZE009");
});

Deno.test("etcd_wait() raises after its timeout, and says how the row stands", strict, async () => {
  await using write = await makeWrite();
  const { world, id } = write;
  const message = new RegExp(`^Write ${id} was not settled and mirrored within 00:00:00.05: it is pending$`);
  await refused(world.sql("select etcd_wait($1, '50 ms')", [id]), "ZE009", message);
});

Deno.test("etcd_wait() raises in the transaction that wrote", strict, async () => {
  await using write = await makeWrite();
  const { world } = write;
  const message = /^Cannot wait for write \d+ in the transaction that wrote it: commit first$/;
  await refused(world.sql("begin; select etcd_wait(etcd_set('/b', 'x'))"), "ZE010", message);
  await world.sql("rollback");
  await refused(world.sql("select etcd_wait(etcd_delete('/b'))"), "ZE010", message);
});

for (const level of ["repeatable read", "serializable"]) {
  Deno.test(`etcd_wait() raises in ${level}, which never sees the row settle`, strict, async () => {
    await using write = await makeWrite();
    const { world, id } = write;
    await world.sql(`begin isolation level ${level}`);
    await refused(
      world.sql("select etcd_wait($1)", [id]),
      "ZE010",
      /^Cannot wait for write \d+: a .* transaction does not see it settle, READ COMMITTED does$/,
    );
    await world.sql("rollback");
  });
}

Deno.test("etcd_wait() raises for an id that is not there", strict, async () => {
  await using write = await makeWrite();
  const { world } = write;
  await refused(
    world.sql("select etcd_wait(4711)"),
    "ZE010",
    /^Cannot wait for write 4711: there is no such row in etcd_wal$/,
  );
  await refused(world.sql("select etcd_wait(null)"), "ZE010");
});
