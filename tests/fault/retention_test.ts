/** Retention and the WAL's limit with the program itself. */

import assert from "node:assert/strict";
import { quiet } from "../support/history.ts";
import { events, killed, streaming, strict } from "../support/run.ts";
import { refused, transaction } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

const short = ["--wal-retention", "1s", "--history-retention", "1s", "--event-retention", "1s"];

async function count(world: World, table: string): Promise<number> {
  return (await world.sql(`select count(*) from ${table}`))[0].count;
}

Deno.test("with short retention WAL, history and events go, and what is stays", strict, async () => {
  await using world = await makeWorld();
  const first = await world.etcd.put(world.key("a"), "0");
  await streaming(world, short);
  for (let i = 0; i < 50; i++) await world.sql("select etcd_set($1, $2)", [world.key("a"), `${i}`]);
  await world.sql("select etcd_set($1, '1')", [world.key("b")]);
  await quiet(world);
  const revision = await world.etcd.delete(world.key("b"));
  await eventually(async () => {
    // a mark is a committed checkpoint: as long as nothing happens it is the same one
    const rows = { wal: await count(world, "etcd_wal"), archive: await count(world, "etcd_archive") };
    assert.deepEqual(rows, { wal: 0, archive: 0 });
    return true;
  }, { timeoutMs: 30_000 });
  await eventually(async () => (await events(world, "leader")).length === 0);
  await refused(world.sql("select * from etcd_at($1)", [first]), "ZE011");
  const [row] = await world.sql("select value, revision from etcd");
  assert.equal(row.value, "49");
  assert.deepEqual(await world.sql("select value from etcd_at($1)", [revision]), [{ value: "49" }]);
  await world.sql("select etcd_set($1, '2')", [world.key("b")]);
  await quiet(world);
  assert.equal(String((await world.etcd.get(world.key("b")))!.value), "2");
});

Deno.test(
  "a write by an old snapshot arrives after others of its key, whatever the retention",
  strict,
  async () => {
    await using world = await makeWorld();
    await world.etcd.put(world.key("a"), "0");
    await streaming(world, short);
    const old = world.session();
    await old.sql("begin isolation level repeatable read");
    await old.sql("select from etcd");
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    await quiet(world);
    // two marks that know the write, and a pass over the WAL by each
    const marks =
      "select from etcd_sync_mark m, etcd_wal w where m.revision >= w.result_revision and m.ts < now() - interval '3 seconds'";
    await eventually(async () => (await world.sql(marks)).length >= 2, { timeoutMs: 30_000 });
    await old.sql("select etcd_set($1, '2')", [world.key("a")]);
    await old.sql("commit");
    const [row] = await world.sql("select (etcd_wait(max(id))).* from etcd_wal");
    assert.equal(row.status, "success", row.error_message);
    await eventually(async () => await count(world, "etcd_wal") === 0, { timeoutMs: 30_000 });
  },
);

Deno.test(
  "the WAL's limit warns, then refuses, also with the program dead, and lets in again",
  strict,
  async () => {
    await using outer = await makeWorld();
    await using server = await ownEtcd();
    await using world = outer.on(server);
    const program = await streaming(world, ["--wal-limit", "1000"]);
    await quiet(world);
    const limited = "select wal_limit from etcd_sync_gate";
    await eventually(async () => (await world.sql(limited))[0].wal_limit === 1_000);
    const write = (from: number, to: number) =>
      world.sql("select etcd_set($1 || i, '1') from generate_series($2::int, $3::int) i", [
        world.key(""),
        from,
        to,
      ]);
    await server.stop(); // nothing is drained
    await write(1, 900);
    await program.until((line) => line.msg.startsWith("the WAL fills"));
    assert.equal((await events(world, "wal-filling")).length, 1);
    await killed(program);
    await write(901, 990);
    await refused(transaction(world, () => write(991, 1_100)), "ZE013", /its limit is 1000/);
    await server.start();
    await streaming(world, ["--wal-limit", "1000"]);
    await quiet(world);
    await eventually(() => write(2_001, 2_500));
    await quiet(world);
    assert.equal((await world.etcd.range(world.prefix)).length, 1_490);
  },
);

Deno.test("a housekeeper that is frozen is replaced by one that is not", strict, async () => {
  await using world = await makeWorld();
  const keeper = async () => {
    const rows = await world.sql(
      `select l.pid from pg_locks l, etcd_sync_state s where l.locktype = 'advisory' and l.granted
         and l.objid = (hashtext(s.stream_id::text)::bigint & 4294967295)::oid
         and l.classid = (hashtext('etcd-pg-sync keep')::bigint & 4294967295)::oid`,
    );
    return rows[0]?.pid as number | undefined;
  };
  const first = await streaming(world);
  const frozen = await eventually(keeper);
  const second = world.program();
  await second.until((line) => line.msg.startsWith("standing by"));
  first.kill("SIGSTOP");
  try {
    await eventually(async () => {
      const now = await keeper();
      return now !== undefined && now !== frozen;
    }, { timeoutMs: 40_000 });
  } finally {
    first.kill("SIGCONT");
  }
  // awake, it finds its session ended, and stands by
  const next = await keeper();
  await first.until((line) => line.msg.startsWith("retention and the limit of the WAL wait"));
  assert.equal(await keeper(), next);
});
