/** `sync`: both sides together once, and what it would do. */
import assert from "node:assert/strict";
import { events, heldScan, holdDrain, killed, streaming, strict } from "../support/run.ts";
import { eventually, makeWorld, Program, type World } from "../support/world.ts";

const EXIT = { done: 0, configuration: 1, permission: 3, runtime: 4, differences: 5 };

async function sync(world: World, args: string[] = []) {
  const { code, stdout, stderr } = await world.run("sync", [...args, "--format", "json"]);
  assert.ok(stdout !== "", `exit code ${code}: ${stderr}`);
  return { code, stderr, ...JSON.parse(stdout) };
}

async function mirror(world: World): Promise<string[]> {
  const rows = await world.sql("select key, value from etcd order by key");
  return rows.map(({ key, value }) => `${key.slice(world.prefix.length)}=${value}`);
}

async function etcd(world: World): Promise<string[]> {
  return (await world.etcd.range(world.prefix)).map(({ key, value }) =>
    `${String(key).slice(world.prefix.length)}=${value}`
  );
}

Deno.test("sync installs, mirrors, sends what waits, and ends", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  const first = await sync(world);
  assert.deepEqual([first.code, first.together, first.transactions], [EXIT.done, true, 0]);
  assert.deepEqual(await mirror(world), ["a=1"]);

  await world.etcd.put(world.key("b"), "2");
  await world.sql("select etcd_set($1, 'sql')", [world.key("c")]);
  await world.sql("select etcd_set($1, 'sql')", [world.key("d")]);
  const second = await sync(world);
  assert.deepEqual([second.code, second.transactions, second.lost], [EXIT.done, 2, 0]);
  assert.deepEqual(await etcd(world), ["a=1", "b=2", "c=sql", "d=sql"]);
  assert.deepEqual(await mirror(world), await etcd(world));
  const row = (await world.state())!;
  assert.deepEqual([row.state, row.holder, row.revision], ["streaming", null, second.revision]);

  const text = await world.run("sync");
  assert.equal(text.code, EXIT.done);
  assert.match(
    text.stdout,
    /^both sides are together at revision \d+, after [\d.]+ s\n0 transactions from SQL waited\n$/,
  );
});

Deno.test("sync says which writes from SQL did not arrive, and ends with 5", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await sync(world);
  const [{ id }] = await world.sql("select etcd_set($1, 'lost') as id", [world.key("a")]);
  await world.sql("select etcd_set($1, 'arrives')", [world.key("b")]);
  await world.etcd.put(world.key("a"), "etcd wins");
  const ended = await sync(world);
  assert.deepEqual([ended.code, ended.together, ended.transactions, ended.lost], [
    EXIT.differences,
    false,
    2,
    1,
  ]);
  assert.deepEqual([ended.losses[0].kind, ended.losses[0].key, ended.losses[0].wal_id], [
    "conflict",
    world.key("a"),
    id,
  ]);
  assert.deepEqual(await mirror(world), ["a=etcd wins", "b=arrives"]);
  await world.sql("select etcd_set($1, 'lost again', 1)", [world.key("a")]);
  const text = await world.run("sync");
  assert.equal(text.code, EXIT.differences);
  assert.match(
    text.stdout,
    /1 transaction from SQL waited; 1 transaction did not arrive:\n {2}conflict {2}\S+\/a {2}.*\n'select etcd_retry\(\d+\)' queues/,
  );
});

Deno.test("sync beside a leader waits for it, and leaves what it told writers", strict, async () => {
  await using world = await makeWorld();
  const leader = await streaming(world, ["--max-deletes", "7"]);
  const release = await holdDrain(world);
  await world.etcd.put(world.key("a"), "1");
  await world.sql("select etcd_set($1, 'sql')", [world.key("b")]);
  const ending = sync(world);
  // what it waits for is held: it stands by
  await eventually(async () =>
    (await world.sql(
      "select 1 from pg_stat_activity where datname = current_database() and query like '%settled%from etcd_sync_state%'",
    )).length > 0
  );
  await release();
  const ended = await ending;
  assert.deepEqual([ended.code, ended.led_by_another, ended.together], [EXIT.done, true, true]);
  assert.match(ended.stderr, /standing by: another instance is the writer/);
  assert.deepEqual(await mirror(world), ["a=1", "b=sql"]);
  assert.equal((await world.sql("select max_deletes from etcd_sync_gate"))[0].max_deletes, 7);
  assert.equal((await events(world, "leader")).length, 1);
  await killed(leader);
});

Deno.test("sync --full repairs what differs", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await world.etcd.put(world.key("b"), "2");
  await sync(world);
  await world.sql("update etcd_kv set value = 'wrong' where key = $1", [world.key("a")]);
  await world.sql("delete from etcd_kv where key = $1", [world.key("b")]);
  assert.equal((await sync(world)).code, EXIT.done, "without --full nothing is compared");
  assert.deepEqual(await mirror(world), ["a=wrong"]);
  const ended = await sync(world, ["--full"]);
  assert.deepEqual([ended.code, ended.compared.different, ended.compared.missing, ended.compared.repaired], [
    EXIT.done,
    1,
    1,
    2,
  ]);
  assert.deepEqual(await mirror(world), ["a=1", "b=2"]);
});

Deno.test("sync --dry-run writes nothing, and says what would be done", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await world.etcd.put(world.key("b"), "2");
  const bare = await sync(world, ["--dry-run", "--schema", "fresh"]);
  assert.deepEqual([bare.code, bare.install, bare.add], [EXIT.done, true, 2]);
  assert.deepEqual(await world.sql("select 1 from pg_namespace where nspname = 'fresh'"), []);
  assert.deepEqual(await world.etcd.range("/_etcd-pg-sync/"), []);

  await sync(world);
  await world.etcd.put(world.key("a"), "changed");
  await world.etcd.delete(world.key("b"));
  await world.etcd.put(world.key("c"), "added");
  await world.sql("select etcd_set($1, 'x'), etcd_set($2, 'y')", [world.key("d"), world.key("e")]);
  const tables = [
    "etcd_kv",
    "etcd_sync_state",
    "etcd_sync_event",
    "etcd_sync_gate",
    "etcd_sync_verify",
    "etcd_wal",
  ];
  const content = async () => {
    const rows = await Promise.all(
      tables.map((table) => world.sql(`select t::text from ${table} t order by 1`)),
    );
    return { rows, etcd: await world.etcd.range("") };
  };
  const before = await content();
  const plan = await sync(world, ["--dry-run"]);
  assert.deepEqual([plan.code, plan.install, plan.add, plan.change, plan.remove], [
    EXIT.done,
    false,
    1,
    1,
    1,
  ]);
  assert.deepEqual([plan.send_transactions, plan.send_rows], [1, 2]);
  const text = await world.run("sync", ["--dry-run"]);
  assert.match(
    text.stdout,
    /^dry run: nothing was written\n[^]*\n1 transaction \(2 rows\) from SQL would be sent to etcd\n$/,
  );
  assert.deepEqual(await content(), before);
  await sync(world);
  assert.deepEqual(await mirror(world), ["a=changed", "c=added", "d=x", "e=y"]);
});

Deno.test("sync of a paused stream ends and says so, with a leader and without one", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await sync(world);
  await world.sql("select etcd_pause()");
  await world.etcd.put(world.key("b"), "2");
  const refused = async () => {
    const { code, stdout, stderr } = await world.run("sync");
    assert.deepEqual([code, stdout], [EXIT.runtime, ""]);
    assert.match(
      stderr,
      /: Cannot bring both sides together: stream 'default' is paused since \S+Z; 'etcd-pg-sync resume' ends that/,
    );
  };
  await refused();
  const leader = world.program();
  await leader.until((line) => line.msg.startsWith("paused:"));
  await refused();
  await world.sql("select etcd_resume()");
  assert.equal((await sync(world)).code, EXIT.done);
  assert.deepEqual(await mirror(world), ["a=1", "b=2"]);
});

Deno.test("sync that is stopped says how far it came", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  const scan = await heldScan(world); // it leads, and comes to no end
  await using stopped = new Program([
    "sync",
    "--postgres-dsn",
    world.postgresDsn,
    "--etcd-dsn",
    world.etcdDsn,
    "--log-format",
    "json",
  ]);
  await stopped.until((line) => line.msg === "standing by: another instance is the writer");
  stopped.kill("SIGTERM");
  assert.equal((await stopped.status).code, EXIT.runtime);
  assert.match(
    stopped.tail(),
    /Stopped before both sides were together: the mirror is at \d+ of \d+, state 'bootstrap', writes from SQL are settled/,
  );
  await scan.release();
});
