/** A server that is away for long fills no log: one line an episode, and a write is followed by its batch. */
import assert from "node:assert/strict";
import { quiet } from "../support/history.ts";
import { streaming, strict, untilStreaming } from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { makeWorld, type Program } from "../support/world.ts";
import { Proxy } from "../robustness/proxy.ts";

/** By its message: how often at `warn` and above, and how often at all. */
function counts(program: Program, since: number): Map<string, { loud: number; all: number }> {
  const found = new Map<string, { loud: number; all: number }>();
  for (const { msg, level } of program.logs.slice(since)) {
    const count = found.get(msg) ?? { loud: 0, all: 0 };
    count.all++;
    if (level === "warn" || level === "error") count.loud++;
    found.set(msg, count);
  }
  return found;
}

function assertQuiet(program: Program, since: number): void {
  for (const [msg, { loud, all }] of counts(program, since)) {
    assert.ok(loud <= 1, `'${msg}' stands in the log ${loud} times (${all} with debug)`);
  }
}

const often = (program: Program, since: number, msg: string) =>
  program.until(() => (counts(program, since).get(msg)?.all ?? 0) >= 8, 60_000);

Deno.test("etcd is away: one line for the watch; it is back: one line", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  const program = await streaming(world, ["--log-level", "debug"]);
  await quiet(world);
  const since = program.logs.length;
  await server.stop();
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  await often(program, since, "the watch broke; reopening it");
  await server.start();
  await program.until(({ msg, level }) => msg === "the mirror is fresh again" && level === "info", 30_000);
  await quiet(world);
  assertQuiet(program, since);
});

Deno.test("PostgreSQL is away: one line for the work, one for the housekeeping", strict, async () => {
  await using world = await makeWorld();
  const port = Number(/:(\d+)\//.exec(world.postgresDsn)![1]);
  await using proxy = Proxy.listen(port);
  const dsn = world.postgresDsn.replace(`:${port}/`, `:${proxy.port}/`);
  const program = await streaming(world, ["-p", dsn, "--log-level", "debug"]);
  await quiet(world);
  const since = program.logs.length;
  proxy.refuse();
  proxy.cut();
  await often(program, since, "begins anew");
  await often(program, since, "retention and the limit of the WAL wait; trying on");
  proxy.heal();
  await untilStreaming(world, program);
  assertQuiet(program, since);
});

Deno.test("a leader that is lost again and again, each time after it has worked", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world, ["--log-level", "debug"]);
  const since = program.logs.length;
  const times = (msg: string) => program.logs.filter((line) => line.msg === msg).length;
  for (let n = 0; n < 5; n++) {
    await program.until(() => times("this instance is the writer") > n);
    await quiet(world);
    await world.sql(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where application_name like 'etcd-pg-sync%' and datname = current_database()`,
    );
    await program.until(() => times("begins anew") > n);
  }
  assertQuiet(program, since);
});

Deno.test("a storm of conflicts: one line, the rest in the audit", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world, ["--log-level", "debug"]);
  await world.etcd.put(world.key("a"), "1");
  const since = program.logs.length;
  for (let i = 0; i < 30; i++) await world.sql("select etcd_set($1, '2', 0)", [world.key("a")]);
  await quiet(world);
  assertQuiet(program, since);
  const [{ lost }] = await world.sql("select count(*) as lost from etcd_sync_event where kind = 'conflict'");
  assert.equal(lost, 30);
  assert.ok(program.logs.some(({ level, msg }) => level === "warn" && /lost to etcd/.test(msg)));
});

Deno.test("a write is followed by its batch, from its row to its revision", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world, ["--log-level", "debug"]);
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  const [{ ticket }] = await world.sql("select etcd_set($1, '2') as ticket", [world.key("b")]);
  await quiet(world);
  const line = await program.until(({ msg, wal_ids }) => msg === "batch" && wal_ids.includes(ticket));
  const [row] = await world.sql("select batch_id, result_revision, status from etcd_wal where id = $1", [
    ticket,
  ]);
  assert.deepEqual(
    [line!.batch, line!.revision, line!.result],
    [row.batch_id, row.result_revision, row.status],
  );
  await program.until(({ msg, after, revision }) =>
    msg === "mirrored" && after < row.result_revision && revision >= row.result_revision
  );
  const marker = JSON.parse(
    String((await world.etcd.get("/_etcd-pg-sync/default", row.result_revision))!.value),
  );
  assert.equal(marker.batch, row.batch_id);
});
